/* The demo model against transformers (shared/demo/golden): stages, kept tokens and whole answers;
 * on CPUs in f32, or on the backend that was asked for: test_demo [BACKEND [f32|bf16|f16]]. In 16
 * bits what differs must be near ties, which are printed. Skipped where that folder is missing. */
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
    void *block; /* weights on the device */
    arena dev, host;
    vit_output vis;
    int picture;
    bool staged; /* the picture's pixels, hidden states and projections are there */
    bool with_logits; /* capture those of CLS in the layer that scores come from */
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

/* out[576,dim] = a picture's projected tokens; r->picture -1: nothing to compare them with. */
static void encode(demo_run *r, const char *path, sq_tensor *out)
{
    const vit_config *c = &r->m.vit.cfg;
    vit_capture cap = {.row_count = c->n_layer,
                       .logits = r->with_logits,
                       .logits_layer = c->feature[0] - 1};
    float *pixels = view_of(r, path);
    vit_views views = {.n = 1, .planes = pixels};
    ok(vit_forward(r->be, &r->m.vit, &views, &cap, &r->vis, &r->dev, &r->host, on_layer, r, &err));
    sq_tensor features = vit_features(&r->vis, 0);
    ok(projector_forward(r->be, &r->m.proj, out, &features, &r->dev, &err));
    if (r->picture >= 0) compare_rows(r);
    if (r->staged) compare_tensor(&r->g, stage(r, "projected"), out);
}

/* Prefill of a prompt with the picture's rows in its place; returns the rows it has. */
static int prefill(demo_run *r, const int32_t *ids, int n, const sq_tensor *pic,
                   const decoder_result *want)
{
    const decoder_model *d = &r->m.dec;
    int rows = n - 1 + (int)pic->shape[0], at = 0;
    kv_cache kv = {0};
    sq_tensor x = new_rows(r, rows);
    int32_t *pos = arena_alloc(&r->host, (size_t)rows * sizeof *pos);
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
    ok(decoder_forward(r->be, d, &kv, &x, pos, want, &r->dev, &err));
    kv_cache_close(&kv);
    return rows;
}

static void compare_prefill(demo_run *r, const int32_t *ids, int n, const sq_tensor *pic,
                            const char *name)
{
    int n_vocab = r->m.dec.cfg.n_vocab;
    float *logits = arena_alloc(&r->host, (size_t)n_vocab * sizeof *logits);
    assert_non_null(logits);
    prefill(r, ids, n, pic, &(decoder_result){.logits = logits});
    compare_logits(&r->g, name, logits, n_vocab);
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

static sq_tensor select_kept(demo_run *r, const sq_tensor *pic, const int32_t *index, int keep)
{
    int32_t start[577];
    float weight[576];
    assert_in_range(keep, 1, 576);
    for (int i = 0; i < keep; i++) {
        start[i] = i;
        weight[i] = 1;
    }
    start[keep] = keep;
    sparse_rows rows = {keep, start, index, weight};
    sq_tensor kept = new_rows(r, keep);
    r->be->ops.select_rows(r->be, &kept, pic, &rows);
    return kept;
}

static void run_pruned(demo_run *r, const int32_t *ids, int n, const sq_tensor *pic, int keep)
{
    char name[64];
    snprintf(name, sizeof name, "%d.fastervlm%d.indices", r->picture, keep);
    const sq_tensor *index = golden(&r->g, name);
    assert_int_equal(tensor_count(index), keep);
    sq_tensor kept = select_kept(r, pic, index->data, keep);
    snprintf(name, sizeof name, "%d.fastervlm%d.logits", r->picture, keep);
    compare_prefill(r, ids, n, &kept, name);
}

static const cJSON *frames_of(const cJSON *rec)
{
    return cJSON_GetObjectItemCaseSensitive(rec, "frames");
}

/* File f of a record: its picture, or one of its frames. */
static void path_of(char *path, size_t size, const cJSON *rec, int f)
{
    const cJSON *frames = frames_of(rec);
    snprintf(path, size, "%s/%s/%s", demo, frames ? "eval" : "golden",
             frames ? cJSON_GetArrayItem(frames, f)->valuestring : text_of(rec, "image"));
}

/* The projected tokens of a record's picture, or of all its frames. */
static sq_tensor encode_record(demo_run *r, const cJSON *rec)
{
    char path[4096];
    const cJSON *frames = frames_of(rec);
    int n = frames ? cJSON_GetArraySize(frames) : 1;
    assert_int_equal(n, frames ? N_FRAME : 1);
    sq_tensor all = new_rows(r, n * 576);
    for (int f = 0; f < n; f++) {
        sq_tensor out = tensor_rows(&all, f * 576, 576);
        path_of(path, sizeof path, rec, f);
        encode(r, path, &out);
    }
    return all;
}

static void run_picture(demo_run *r, int i)
{
    int n;
    int32_t *ids = prompt_of(r, record(i), &n);
    r->picture = i;
    r->staged = i < N_STAGED;
    sq_tensor pic = encode_record(r, record(i));
    compare_prefill(r, ids, n, &pic, stage(r, "logits"));
    for (int b = 0; b < N_BUDGET; b++)
        run_pruned(r, ids, n, &pic, budget[b]);
    free(ids);
}

static void run_clip(demo_run *r, int i)
{
    char name[64];
    int n;
    int32_t *ids = prompt_of(r, record(N_PICTURE + i), &n);
    r->picture = -1;
    r->staged = false;
    sq_tensor pic = encode_record(r, record(N_PICTURE + i));
    snprintf(name, sizeof name, "clip%d.logits", i);
    compare_prefill(r, ids, n, &pic, name);
    free(ids);
}

static void demo_open(demo_run *r, const backend_options *o)
{
    char path[4096];
    *r = (demo_run){.g.label = "demo"};
    error_clear(&err);
    ok(backend_open(&r->be, o, &err));
    r->g.be = r->be;
    r->dev.source = &r->be->memory;
    snprintf(path, sizeof path, "%s/golden/golden.safetensors", demo);
    golden_open(&r->g, path);
    ok(model_open(&r->m, demo, NULL, NULL, &err));
    ok(model_upload(&r->m, r->be, &r->block, &err));
}

static void demo_close(demo_run *r)
{
    arena_close(&r->dev);
    arena_close(&r->host);
    weight_map_close(&r->g.map);
    model_unload(r->be, &r->block);
    backend_close(&r->be);
    model_close(&r->m);
}

static void stages(const backend_options *o, int n_picture, int n_clip)
{
    demo_run r;
    demo_open(&r, o);
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
    demo_close(&r);
}

static void stages_as_asked(void **state)
{
    stages(*state, N_PICTURE, N_CLIP);
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

/* One model that is asked everything, and beside it the CPU in f32 for what has to be explained. */
typedef struct quiz {
    sq_model *m;
    demo_run exact;
    backend_options o;
    int n_near, n_swap;
} quiz;

static bool is_exact(const quiz *z)
{
    return z->o.compute == SQ_COMPUTE_F32;
}

/* score[576] as the CPU has it in f32, the mean of heads of CLS's attention, and how far it moves
 * when each attention logit is one step of the tested type off: a probability by that share. */
static void exact_scores(quiz *z, int picture, double *score, double *error)
{
    demo_run *r = &z->exact;
    const vit_config *c = &r->m.vit.cfg;
    arena_mark dev = arena_get_mark(&r->dev), host = arena_get_mark(&r->host);
    r->picture = -1;
    r->staged = false;
    r->with_logits = true;
    encode_record(r, record(picture));
    r->with_logits = false;
    const float *row = r->vis.rows + (size_t)(c->feature[0] - 1) * c->n_head * 576;
    for (int i = 0; i < 576; i++) {
        score[i] = error[i] = 0;
        for (int h = 0; h < c->n_head; h++) {
            double p = row[h * 576 + i] / (double)c->n_head;
            score[i] += p;
            error[i] += p * half_step(z->o.compute, r->vis.logits[h * 576 + i]);
        }
    }
    arena_rewind(&r->dev, dev);
    arena_rewind(&r->host, host);
}

/* Each token that is missing must be as good as tied with each that took its place. */
static void check_swaps(quiz *z, const sq_report *report, int picture, const int32_t *expected,
                        int keep)
{
    double score[576], error[576], high = 0, low = 1;
    bool kept[576] = {false}, wanted[576] = {false};
    exact_scores(z, picture, score, error);
    for (int i = 0; i < keep; i++) {
        assert_in_range(report->image[0].kept[i], 0, 575);
        kept[report->image[0].kept[i]] = true;
        wanted[expected[i]] = true;
    }
    for (int i = 0; i < 576; i++) {
        if (kept[i] == wanted[i]) continue;
        printf("picture %d, %d kept: token %d %s, score %.6f +- %.6f\n", picture, keep, i,
               kept[i] ? "came in" : "is missing", score[i], error[i]);
        if (wanted[i] && score[i] - error[i] > high) high = score[i] - error[i];
        if (kept[i] && score[i] + error[i] < low) low = score[i] + error[i];
        z->n_swap += kept[i];
    }
    if (!(high <= low)) fail_msg("picture %d, %d kept: that is no near tie", picture, keep);
}

static void check_kept(quiz *z, const sq_report *report, int picture, int keep)
{
    char name[64];
    snprintf(name, sizeof name, "%d.fastervlm%d.indices", picture, keep);
    const int32_t *expected = golden(&z->exact.g, name)->data;
    assert_int_equal(report->image[0].tokens_in, 576);
    assert_int_equal(report->image[0].tokens_kept, keep);
    if (!memcmp(report->image[0].kept, expected, (size_t)keep * sizeof *expected)) return;
    if (is_exact(z)) fail_msg("picture %d: other tokens are kept of %d", picture, keep);
    check_swaps(z, report, picture, expected, keep);
}

static void ask(sq_model *m, const cJSON *rec, int keep, sq_session **s, sq_report *report)
{
    char path[4096], count[16];
    const cJSON *frames = frames_of(rec);
    snprintf(count, sizeof count, "%d", keep);
    sq_session_options so = {.prune = keep ? "fastervlm" : NULL, .keep = keep ? count : NULL};
    sq_ask_options ao = {.max_tokens = 48};
    int rc = sq_session_open(s, m, &so);
    for (int f = 0; !rc && f < (frames ? cJSON_GetArraySize(frames) : 1); f++) {
        path_of(path, sizeof path, rec, f);
        rc = sq_session_add_image(*s, path);
    }
    if (!rc) rc = sq_session_ask(*s, text_of(rec, "question"), &ao, report);
    if (rc) fail_msg("%s", sq_session_error(*s));
}

/* The CPU in f32 sees the same tokens and the same answer so far: each word of it must be f32's
 * choice, or as good as tied with it. label names the case. */
static void explain_answer(quiz *z, const cJSON *rec, const char *label, const sq_report *report)
{
    demo_run *r = &z->exact;
    arena_mark dev = arena_get_mark(&r->dev), host = arena_get_mark(&r->host);
    int n, n_answer, n_vocab = r->m.dec.cfg.n_vocab, n_near = 0;
    int32_t *prompt = prompt_of(r, rec, &n), *answer, *all;
    int rc = sq_model_tokenize(z->m, report->answer, strlen(report->answer), &answer, &n_answer);
    if (rc) fail_msg("%s", sq_model_error(z->m));
    r->picture = -1;
    r->staged = false;
    sq_tensor pic = encode_record(r, rec);
    if (report->n_image == 1)
        pic = select_kept(r, &pic, report->image[0].kept, report->image[0].tokens_kept);
    all = arena_alloc(&r->host, (size_t)(n + n_answer) * sizeof *all);
    float *logits = arena_alloc(&r->host, (n + n_answer + pic.shape[0]) * n_vocab * sizeof *logits);
    assert_non_null(all);
    assert_non_null(logits);
    memcpy(all, prompt, (size_t)n * sizeof *all);
    memcpy(all + n, answer, (size_t)n_answer * sizeof *all);
    int rows = prefill(r, all, n + n_answer, &pic, &(decoder_result){.all_logits = logits});
    bool ended = !strcmp(report->stop, "eos");
    for (int t = 0; t < n_answer + ended; t++) {
        const float *x = logits + (size_t)(rows - n_answer - 1 + t) * n_vocab;
        int32_t best = best_token(x, n_vocab), eos = tokenizer_get_vocab(r->m.tok)->eos;
        int32_t found = t < n_answer ? answer[t] : eos;
        if (found == best) continue;
        n_near++;
        printf("%s: token %d of \"%s\" is not f32's choice: logits %.4f and %.4f, gap %.5f\n",
               label, t, report->answer, (double)x[best], (double)x[found],
               (double)x[best] - x[found]);
        if (!near_tie(z->o.compute, x[best], x[found])) fail_msg("%s: that is no near tie", label);
    }
    if (!n_near) printf("%s: \"%s\" is f32's answer to these tokens\n", label, report->answer);
    z->n_near += n_near;
    free(prompt);
    free(answer);
    arena_rewind(&r->dev, dev);
    arena_rewind(&r->host, host);
}

static void check_answer(quiz *z, int i, int keep, const sq_report *report)
{
    char count[16], label[64];
    const cJSON *rec = record(i), *pruned = cJSON_GetObjectItemCaseSensitive(rec, "pruned");
    snprintf(count, sizeof count, "%d", keep);
    snprintf(label, sizeof label, "%s %d, %s kept", i < N_PICTURE ? "picture" : "clip",
             i < N_PICTURE ? i : i - N_PICTURE, keep ? count : "all");
    const char *expected = keep ? text_of(pruned, count) : text_of(rec, "generated");
    if (!strcmp(report->answer, expected)) return;
    if (is_exact(z))
        fail_msg("%s: \"%s\", expected \"%s\" (smallest gap %g)", label, report->answer, expected,
                 (double)report->min_gap);
    printf("%s: \"%s\", transformers in f32: \"%s\"\n", label, report->answer, expected);
    explain_answer(z, rec, label, report);
}

static void answers(const backend_options *o, const char *compute)
{
    /* one thread: this takes minutes when two wait for each other on a busy machine */
    sq_model_options mo = {.backend = o->name, .compute = compute, .n_threads = 1};
    quiz z = {.o = *o};
    demo_open(&z.exact, &(backend_options){.name = "cpu", .compute = SQ_COMPUTE_F32});
    if (sq_model_open(&z.m, demo, &mo)) fail_msg("%s", sq_model_error(z.m));
    for (int i = 0; i < N_PICTURE + N_CLIP; i++)
        for (int b = -1; b < (i < N_PICTURE ? N_BUDGET : 0); b++) {
            sq_session *s;
            sq_report report;
            int keep = b < 0 ? 0 : budget[b];
            ask(z.m, record(i), keep, &s, &report);
            if (keep) check_kept(&z, &report, i, keep);
            check_answer(&z, i, keep, &report);
            sq_session_close(&s);
        }
    if (!is_exact(&z)) printf("%d near ties in words, %d tokens swapped\n", z.n_near, z.n_swap);
    sq_model_close(&z.m);
    demo_close(&z.exact);
}

static void answers_in_f32(void **state)
{
    (void)state;
    answers(&(backend_options){.name = "cpu", .compute = SQ_COMPUTE_F32}, "f32");
}

static void answers_as_asked(void **state)
{
    const backend_options *o = *state;
    answers(o, o->compute == SQ_COMPUTE_F32   ? "f32"
               : o->compute == SQ_COMPUTE_F16 ? "f16"
                                              : "bf16");
}

static int run_asked(const golden_target *t)
{
    int rc = 0;
    for (int i = 0; i < 2 && t->compute[i]; i++) {
        backend_options o = {.name = t->backend, .compute = compute_of(t->compute[i])};
        const struct CMUnitTest exact[] = {cmocka_unit_test_prestate(stages_as_asked, &o)};
        const struct CMUnitTest all[] = {cmocka_unit_test_prestate(answers_as_asked, &o)};
        if (o.compute == SQ_COMPUTE_F32)
            rc |= cmocka_run_group_tests_name(t->compute[i], exact, NULL, NULL);
        rc |= cmocka_run_group_tests_name(t->compute[i], all, NULL, NULL);
    }
    return rc;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stages_on_every_feature), cmocka_unit_test(stages_on_own_avx2),
        cmocka_unit_test(stages_in_plain_c), cmocka_unit_test(answers_in_f32)};
    char path[4096];
    const char *shared = getenv("SQ_SHARED");
    golden_target target;
    int rc = golden_target_parse(&target, argc, argv);
    if (rc) return rc;
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
    rc = target.backend ? run_asked(&target) : cmocka_run_group_tests(tests, NULL, NULL);
    json_close(&doc);
    return rc;
}
