/* The demo model against transformers (shared/demo/golden): stages, kept tokens and whole answers.
 * Skipped where that folder is missing. */
#include "core/json.h"
#include "golden_compare.h"
#include "models/model_upload.h"
#include "squint.h"
#include "vision/image.h"

enum { N_PICTURE = 12, N_STAGED = 2, N_CLIP = 4, N_FRAME = 4, IMAGE_ID = 1798 };

static const int budget[] = {288, 144, 72, 29};
enum { N_BUDGET = sizeof budget / sizeof *budget };

static char demo[2048];
static json_doc doc; /* golden.json: pictures, then clips, then pictures in tiles */

typedef struct demo_run {
    golden_file g;
    sq_backend *be;
    model m;
    arena dev, host;
    vit_output vis;
    int picture;
    bool staged; /* the picture's pixels, hidden states and projections are there */
} demo_run;

static const cJSON *record(int i)
{
    const cJSON *r = cJSON_GetArrayItem(doc.root, i);
    assert_non_null(r);
    return r;
}

static const char *text_of(const cJSON *object, const char *key)
{
    const cJSON *j = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!cJSON_IsString(j)) fail_msg("golden.json: %s is missing", key);
    return j->valuestring;
}

static const char *stage(const demo_run *r, const char *what)
{
    static char name[64];
    snprintf(name, sizeof name, "%d.%s", r->picture, what);
    return name;
}

/* ---- stages ---- */

static float *view_of(demo_run *r, const char *path)
{
    sq_image im = {0};
    size_t side = (size_t)r->m.pre.side;
    float *pixels = arena_alloc(&r->host, 3 * side * side * sizeof *pixels);
    assert_non_null(pixels);
    ok(image_load(&im, path, NULL, &err));
    ok(preprocess_view(pixels, &im, &r->m.pre, &err));
    image_close(&im);
    if (r->staged) compare(&r->g, stage(r, "pixel_values"), pixels, (int64_t)(3 * side * side));
    return pixels;
}

static void on_layer(void *user, int layer, const sq_tensor *x)
{
    demo_run *r = user;
    if (r->staged && layer == r->m.vit.cfg.feature[0] - 1)
        compare_tensor(&r->g, stage(r, "hidden_states_m2"), x);
}

/* The golden rows hold the CLS key too; squint leaves it out. */
static void compare_rows(demo_run *r)
{
    const sq_tensor *t = golden(&r->g, stage(r, "cls_attention"));
    int n_layer = r->m.vit.cfg.n_layer, n_head = r->m.vit.cfg.n_head, n = r->vis.n_patch;
    assert_int_equal(tensor_count(t), n_layer * n_head * (n + 1));
    for (int i = 0; i < r->vis.row_count * n_head; i++)
        compare_part(&r->g, stage(r, "cls_attention"), (int64_t)i * (n + 1) + 1,
                     r->vis.rows + (int64_t)i * n, n);
}

static sq_tensor new_rows(demo_run *r, int64_t n)
{
    int dim = r->m.proj.out_dim;
    void *p = arena_alloc(&r->dev, (size_t)n * (size_t)dim * sizeof(float));
    assert_non_null(p);
    return tensor_2d(p, SQ_DTYPE_F32, n, dim);
}

/* out[576,dim] = a picture's projected tokens. */
static void encode(demo_run *r, const char *path, sq_tensor *out)
{
    const vit_config *c = &r->m.vit.cfg;
    vit_capture cap = {.row_count = c->n_layer};
    float *pixels = view_of(r, path);
    vit_views views = {.n = 1, .planes = pixels};
    ok(vit_forward(r->be, &r->m.vit, &views, &cap, &r->vis, &r->dev, &r->host, on_layer, r, &err));
    sq_tensor features = vit_features(&r->vis, 0);
    ok(projector_forward(r->be, &r->m.proj, out, &features, &r->dev, &err));
    if (r->picture >= 0) compare_rows(r);
    if (r->staged) compare_tensor(&r->g, stage(r, "projected"), out);
}

/* Prefill of a prompt with the picture's rows in its place; compares the last row's logits. */
static void compare_prefill(demo_run *r, const int32_t *ids, int n, const sq_tensor *pic,
                            const char *name)
{
    const decoder_model *d = &r->m.dec;
    int rows = n - 1 + (int)pic->shape[0], at = 0;
    kv_cache kv = {0};
    sq_tensor x = new_rows(r, rows);
    float *logits = arena_alloc(&r->host, (size_t)d->cfg.n_vocab * sizeof *logits);
    int32_t *pos = arena_alloc(&r->host, (size_t)rows * sizeof *pos);
    assert_non_null(logits);
    assert_non_null(pos);
    for (int i = 0; i < n; i++) {
        bool picture = ids[i] == PROMPT_IMAGE;
        sq_tensor to = tensor_rows(&x, at, picture ? pic->shape[0] : 1);
        if (picture)
            r->be->ops.activate(r->be, &to, pic, SQ_ACT_NONE);
        else
            ok(decoder_embed(r->be, d, &to, ids + i, 1, &r->dev, &err));
        at += (int)to.shape[0];
    }
    assert_int_equal(at, rows);
    for (int i = 0; i < rows; i++)
        pos[i] = i;
    ok(kv_cache_open(&kv, r->be, d->cfg.n_layer, rows, d->cfg.n_head_kv * d->cfg.head_dim,
                     SQ_DTYPE_F32, &err));
    ok(decoder_forward(r->be, d, &kv, &x, pos, &(decoder_result){.logits = logits}, &r->dev, &err));
    compare_logits(&r->g, name, logits, d->cfg.n_vocab);
    kv_cache_close(&kv);
}

/* The turn's ids as squint makes them, checked against the golden ones where they are there. */
static int32_t *prompt_of(demo_run *r, const cJSON *rec, int *n)
{
    int32_t *ids;
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(rec, "prompt_ids");
    ok(prompt_turn(r->m.tmpl, r->m.tok, true, text_of(rec, "question"), 1, &ids, n, &err));
    if (!list) return ids;
    assert_int_equal(*n, cJSON_GetArraySize(list));
    for (int i = 0; i < *n; i++) {
        int id = cJSON_GetArrayItem(list, i)->valueint;
        assert_int_equal(ids[i], id == IMAGE_ID ? PROMPT_IMAGE : id);
    }
    return ids;
}

static void run_pruned(demo_run *r, const int32_t *ids, int n, const sq_tensor *pic, int keep)
{
    char name[64];
    int32_t start[577];
    float weight[576];
    snprintf(name, sizeof name, "%d.fastervlm%d.indices", r->picture, keep);
    const sq_tensor *index = golden(&r->g, name);
    assert_int_equal(tensor_count(index), keep);
    for (int i = 0; i < keep; i++) {
        start[i] = i;
        weight[i] = 1;
    }
    start[keep] = keep;
    sparse_rows rows = {keep, start, index->data, weight};
    sq_tensor kept = new_rows(r, keep);
    r->be->ops.select_rows(r->be, &kept, pic, &rows);
    snprintf(name, sizeof name, "%d.fastervlm%d.logits", r->picture, keep);
    compare_prefill(r, ids, n, &kept, name);
}

static void run_picture(demo_run *r, int i)
{
    char path[4096];
    int n;
    int32_t *ids = prompt_of(r, record(i), &n);
    sq_tensor pic = new_rows(r, 576);
    r->picture = i;
    r->staged = i < N_STAGED;
    snprintf(path, sizeof path, "%s/golden/%s", demo, text_of(record(i), "image"));
    encode(r, path, &pic);
    compare_prefill(r, ids, n, &pic, stage(r, "logits"));
    for (int b = 0; b < N_BUDGET; b++)
        run_pruned(r, ids, n, &pic, budget[b]);
    free(ids);
}

static void run_clip(demo_run *r, int i)
{
    char text[4096];
    int n;
    const cJSON *rec = record(N_PICTURE + i);
    const cJSON *frames = cJSON_GetObjectItemCaseSensitive(rec, "frames");
    int32_t *ids = prompt_of(r, rec, &n);
    sq_tensor pic = new_rows(r, N_FRAME * 576);
    r->picture = -1;
    r->staged = false;
    assert_int_equal(cJSON_GetArraySize(frames), N_FRAME);
    for (int f = 0; f < N_FRAME; f++) {
        sq_tensor out = tensor_rows(&pic, f * 576, 576);
        snprintf(text, sizeof text, "%s/eval/%s", demo, cJSON_GetArrayItem(frames, f)->valuestring);
        encode(r, text, &out);
    }
    snprintf(text, sizeof text, "clip%d.logits", i);
    compare_prefill(r, ids, n, &pic, text);
    free(ids);
}

static void stages(const backend_options *o, int n_picture, int n_clip)
{
    char path[4096];
    void *block = NULL;
    demo_run r = {.g.label = "demo"};
    error_clear(&err);
    ok(backend_open(&r.be, o, &err));
    r.g.be = r.be;
    r.dev.source = &r.be->memory;
    snprintf(path, sizeof path, "%s/golden/golden.safetensors", demo);
    golden_open(&r.g, path);
    ok(model_open(&r.m, demo, NULL, NULL, &err));
    ok(model_upload(&r.m, r.be, &block, &err));
    for (int i = 0; i < n_picture + n_clip; i++) {
        arena_mark dev = arena_get_mark(&r.dev), host = arena_get_mark(&r.host);
        if (i < n_picture)
            run_picture(&r, i);
        else
            run_clip(&r, i - n_picture);
        arena_rewind(&r.dev, dev);
        arena_rewind(&r.host, host);
    }
    printf("%s: worst stage %.1e, worst logit %.1e\n", r.be->describe, r.g.worst, r.g.worst_logit);
    arena_close(&r.dev);
    arena_close(&r.host);
    weight_map_close(&r.g.map);
    model_unload(r.be, &block);
    backend_close(&r.be);
    model_close(&r.m);
}

static const backend_options in_cuda = {.name = "cuda", .compute = SQ_COMPUTE_F32};

static void stages_in_cuda(void **state)
{
    (void)state;
    if (!backend_starts(&in_cuda)) skip();
    stages(&in_cuda, N_PICTURE, N_CLIP);
}

/* On the CPU, with no more than these features; 0: all. */
static void cpu_stages(unsigned mask, int n_picture, int n_clip)
{
    stages(&(backend_options){.name = "cpu", .compute = SQ_COMPUTE_F32, .cpu_mask = mask},
           n_picture, n_clip);
}

static void stages_on_every_feature(void **state)
{
    (void)state;
    cpu_stages(0, N_PICTURE, N_CLIP);
}

static void stages_on_own_avx2(void **state)
{
    (void)state;
    if (!(cpu_detect() & SQ_CPU_AVX2)) skip();
    cpu_stages(SQ_CPU_AVX2, N_STAGED, 1);
}

static void stages_in_plain_c(void **state)
{
    (void)state;
    cpu_stages(SQ_CPU_NOTHING, 1, 0); /* slow: one picture */
}

/* ---- answers, through the public interface ---- */

static void check_kept(golden_file *g, const sq_report *report, int picture, int keep)
{
    char name[64];
    snprintf(name, sizeof name, "%d.fastervlm%d.indices", picture, keep);
    const int32_t *expected = golden(g, name)->data;
    assert_int_equal(report->image[0].tokens_in, 576);
    assert_int_equal(report->image[0].tokens_kept, keep);
    if (memcmp(report->image[0].kept, expected, (size_t)keep * sizeof *expected))
        fail_msg("picture %d: other tokens are kept of %d", picture, keep);
}

static void ask(sq_model *m, const cJSON *rec, const char *folder, int keep, sq_session **s,
                sq_report *report)
{
    char path[4096], count[16];
    const cJSON *frames = cJSON_GetObjectItemCaseSensitive(rec, "frames");
    snprintf(count, sizeof count, "%d", keep);
    sq_session_options so = {.prune = keep ? "fastervlm" : NULL, .keep = keep ? count : NULL};
    sq_ask_options ao = {.max_tokens = 48};
    int rc = sq_session_open(s, m, &so);
    for (int f = 0; !rc && f < (frames ? cJSON_GetArraySize(frames) : 1); f++) {
        const char *file = frames ? cJSON_GetArrayItem(frames, f)->valuestring
                                  : text_of(rec, "image");
        snprintf(path, sizeof path, "%s/%s/%s", demo, folder, file);
        rc = sq_session_add_image(*s, path);
    }
    if (!rc) rc = sq_session_ask(*s, text_of(rec, "question"), &ao, report);
    if (rc) fail_msg("%s", sq_session_error(*s));
}

static void check_answer(const cJSON *rec, int keep, const sq_report *report)
{
    char count[16];
    const cJSON *pruned = cJSON_GetObjectItemCaseSensitive(rec, "pruned");
    snprintf(count, sizeof count, "%d", keep);
    const char *expected = keep ? text_of(pruned, count) : text_of(rec, "generated");
    if (strcmp(report->answer, expected))
        fail_msg("\"%s\" (%d kept): \"%s\", expected \"%s\" (smallest gap %g)",
                 text_of(rec, "question"), keep, report->answer, expected,
                 (double)report->min_gap);
}

static void answers(const char *backend)
{
    char path[4096];
    sq_model *m;
    /* one thread: this takes minutes when two wait for each other on a busy machine */
    sq_model_options mo = {.backend = backend, .compute = "f32", .n_threads = 1};
    golden_file g = {.label = "demo"};
    snprintf(path, sizeof path, "%s/golden/golden.safetensors", demo);
    golden_open(&g, path);
    if (sq_model_open(&m, demo, &mo)) fail_msg("%s", sq_model_error(m));
    for (int i = 0; i < N_PICTURE + N_CLIP; i++)
        for (int b = -1; b < (i < N_PICTURE ? N_BUDGET : 0); b++) {
            sq_session *s;
            sq_report report;
            int keep = b < 0 ? 0 : budget[b];
            ask(m, record(i), i < N_PICTURE ? "golden" : "eval", keep, &s, &report);
            check_answer(record(i), keep, &report);
            if (keep) check_kept(&g, &report, i, keep);
            sq_session_close(&s);
        }
    sq_model_close(&m);
    weight_map_close(&g.map);
}

static void answers_in_f32(void **state)
{
    (void)state;
    answers("cpu");
}

static void answers_in_cuda_f32(void **state)
{
    (void)state;
    if (!backend_starts(&in_cuda)) skip();
    answers("cuda");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stages_on_every_feature), cmocka_unit_test(stages_on_own_avx2),
        cmocka_unit_test(stages_in_plain_c), cmocka_unit_test(answers_in_f32),
        cmocka_unit_test(stages_in_cuda), cmocka_unit_test(answers_in_cuda_f32)};
    char path[4096];
    const char *shared = getenv("SQ_SHARED");
    snprintf(demo, sizeof demo, "%s/demo", shared ? shared : SQ_SOURCE_DIR "/../shared");
    snprintf(path, sizeof path, "%s/golden/golden.json", demo);
    if (!file_exists(path)) {
        printf("skipped: %s is missing\n", path);
        return 77;
    }
    if (json_open(&doc, path, 0, &err)) {
        printf("%s\n", err.text);
        return 1;
    }
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    json_close(&doc);
    return rc;
}
