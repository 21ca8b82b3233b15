/* Every stage of tiny checkpoints against transformers (make_golden.py), in f32, on every
 * instruction set this machine has and on the plain C reference; or on the backend that was asked
 * for: test_stages [BACKEND [f32|bf16|f16]]. */
#include "golden_compare.h"
#include "models/model_upload.h"
#include "vision/image.h"

#define TINY SQ_SOURCE_DIR "/tests/golden/tiny"

enum { N_GREEDY = 32 };

static const char *const variants[] = {"mha",    "gelu",    "full",     "linear", "dynamic",
                                       "llama3", "gqa",     "tied",     "names452", "names5",
                                       "original", "mistral", "qwen2", "layers", "next"};
enum { N_VARIANT = sizeof variants / sizeof *variants };

typedef struct stage_run {
    golden_file g;
    sq_backend *be;
    model m;
    arena dev, host;
    vit_output vis;
    sq_tensor features, projected;
    int hidden; /* hidden states seen by the probe */
} stage_run;

/* ---- stages ---- */

static float *run_pixels(stage_run *r)
{
    sq_image im = {0};
    size_t side = (size_t)r->m.pre.side;
    float *pixels = arena_alloc(&r->host, 3 * side * side * sizeof *pixels);
    assert_non_null(pixels);
    ok(image_load(&im, TINY "/picture.png", NULL, &err));
    ok(preprocess_view(pixels, &im, &r->m.pre, &err));
    image_close(&im);
    compare(&r->g, "pixels", pixels, (int64_t)(3 * side * side));
    return pixels;
}

/* Hidden state layer + 1: whole for the embeddings, the CLS row after every layer. */
static void on_layer(void *user, int layer, const sq_tensor *x)
{
    stage_run *r = user;
    int64_t dim = r->m.vit.cfg.dim;
    float *cls = malloc((size_t)dim * sizeof *cls);
    assert_non_null(cls);
    assert_int_equal(layer, r->hidden - 1);
    if (layer < 0) compare_tensor(&r->g, "hidden0", x);
    r->be->read(r->be, cls, x->data, (size_t)dim * sizeof *cls);
    compare_part(&r->g, "cls_hidden", r->hidden * dim, cls, dim);
    r->hidden++;
    free(cls);
}

static void run_vision(stage_run *r)
{
    const vit_config *c = &r->m.vit.cfg;
    int last = 0;
    for (int i = 0; i < c->n_feature; i++)
        last = c->feature[i] > last ? c->feature[i] : last;
    vit_capture cap = {.row_count = last,
                       .logits = true,
                       .logits_layer = c->n_layer - 1,
                       .means = true,
                       .means_layer = last - 1};
    float *pixels = run_pixels(r);
    vit_views views = {.n = 1, .planes = pixels};
    ok(vit_forward(r->be, &r->m.vit, &views, &cap, &r->vis, &r->dev, &r->host, on_layer, r, &err));
    assert_int_equal(r->hidden, last + 1);
    int64_t n = r->vis.n_patch;
    compare_part(&r->g, "cls_attention", 0, r->vis.rows, last * c->n_head * n);
    compare(&r->g, "cls_logits", r->vis.logits, c->n_head * n);
    compare(&r->g, "received", r->vis.received, n);
    compare(&r->g, "given", r->vis.given, n);
    r->features = vit_features(&r->vis, 0);
    compare_tensor(&r->g, "features", &r->features);
}

static sq_tensor new_rows(stage_run *r, int64_t n, int64_t dim)
{
    void *p = arena_alloc(&r->dev, (size_t)(n * dim) * sizeof(float));
    assert_non_null(p);
    return tensor_2d(p, SQ_DTYPE_F32, n, dim);
}

static void run_projector(stage_run *r)
{
    r->projected = new_rows(r, r->features.shape[0], r->m.proj.out_dim);
    ok(projector_forward(r->be, &r->m.proj, &r->projected, &r->features, &r->dev, &err));
    compare_tensor(&r->g, "projected", &r->projected);
}

/* Token embeddings with the picture's rows where the prompt holds PROMPT_IMAGE. */
static sq_tensor run_prompt(stage_run *r)
{
    const sq_tensor *prompt = golden(&r->g, "prompt"), *pic = &r->projected;
    const int32_t *id = prompt->data;
    int64_t n = tensor_count(prompt), at = 0;
    sq_tensor x = new_rows(r, n - 1 + pic->shape[0], r->m.dec.cfg.dim);
    for (int64_t i = 0; i < n; i++) {
        sq_tensor to = tensor_rows(&x, at, id[i] == PROMPT_IMAGE ? pic->shape[0] : 1);
        if (id[i] == PROMPT_IMAGE)
            r->be->ops.activate(r->be, &to, pic, SQ_ACT_NONE);
        else
            ok(decoder_embed(r->be, &r->m.dec, &to, id + i, 1, &r->dev, &err));
        at += to.shape[0];
    }
    assert_int_equal(at, x.shape[0]);
    return x;
}

/* Token t of the greedy text must be the golden one; in 16 bits a near tie may be swapped. */
static void check_token(const stage_run *r, int t, const float *logits, int32_t best,
                        int32_t expected)
{
    double gap = (double)logits[best] - logits[expected];
    if (best == expected) return;
    if (!in_half(r->be) || !near_tie(r->be->compute, logits[best], logits[expected]))
        fail_msg("%s on %s: token %d is %d, expected %d (gap %.5f)", r->g.label, r->be->describe,
                 t, best, expected, gap);
    printf("%s: near tie at token %d: %d for %d, logits %.4f and %.4f, gap %.5f\n", r->g.label, t,
           best, expected, (double)logits[best], (double)logits[expected], gap);
}

/* Each step gets the golden token, so that one near tie leaves the others comparable. */
static void run_decoder(stage_run *r)
{
    const decoder_model *d = &r->m.dec;
    const int32_t *expected = golden(&r->g, "greedy")->data;
    float *logits = arena_alloc(&r->host, (size_t)d->cfg.n_vocab * sizeof *logits);
    int32_t pos[256];
    kv_cache kv = {0};
    sq_tensor x = run_prompt(r);
    int held = (int)x.shape[0];
    assert_true(held < 256);
    assert_int_equal(tensor_count(golden(&r->g, "greedy")), N_GREEDY);
    for (int i = 0; i < held; i++)
        pos[i] = i;
    ok(kv_cache_open(&kv, r->be, d->cfg.n_layer, held, d->cfg.n_head_kv * d->cfg.head_dim,
                     r->be->act, &err));
    kv_cache *const caches[] = {&kv};
    int32_t best = -1;
    float gap;
    decoder_result want = {.logits = logits, .best = &best, .gap = &gap};
    ok(decoder_forward(r->be, d, &kv, &x, pos, &want, &r->dev, &err));
    compare_logits(&r->g, "logits", logits, d->cfg.n_vocab);
    for (int i = 0; i < N_GREEDY; i++) {
        int32_t id = best_token(logits, d->cfg.n_vocab);
        assert_int_equal(best, id);
        check_token(r, i, logits, id, expected[i]);
        if (i + 1 == N_GREEDY) break;
        pos[0] = held + i;
        ok(decoder_step(r->be, d, caches, 1, &expected[i], pos, &want, &r->dev, &err));
    }
    compare_logits(&r->g, "last_logits", logits, d->cfg.n_vocab);
    kv_cache_close(&kv);
}

static void run_variant(sq_backend *be, const char *name, double *worst)
{
    char path[4096];
    void *block = NULL;
    stage_run r = {.g = {.label = name, .be = be}, .be = be, .dev.source = &be->memory};
    snprintf(path, sizeof path, TINY "/%s/expected.safetensors", name);
    golden_open(&r.g, path);
    snprintf(path, sizeof path, TINY "/%s", name);
    ok(model_open(&r.m, path, NULL, NULL, &err));
    ok(model_upload(&r.m, be, &block, &err));
    run_vision(&r);
    run_projector(&r);
    run_decoder(&r);
    *worst = r.g.worst;
    arena_close(&r.dev);
    arena_close(&r.host);
    weight_map_close(&r.g.map);
    model_unload(be, &block);
    model_close(&r.m);
}

/* ---- instruction sets ---- */

static void run_backend(const backend_options *o)
{
    for (int i = 0; i < N_VARIANT; i++) {
        sq_backend *be; /* one a variant: it caches packed weights by their address */
        double worst = 0;
        error_clear(&err);
        ok(backend_open(&be, o, &err));
        run_variant(be, variants[i], &worst);
        printf("%-9s %-44s worst stage %.1e\n", variants[i], be->describe, worst);
        backend_close(&be);
    }
}

static void run_all(unsigned mask)
{
    run_backend(&(backend_options){.name = "cpu", .compute = SQ_COMPUTE_F32, .cpu_mask = mask});
}

static void as_asked(void **state)
{
    run_backend(*state);
}

static void every_feature(void **state)
{
    (void)state;
    run_all(0);
}

static void own_avx512(void **state)
{
    (void)state;
    if (!(cpu_detect() & SQ_CPU_AVX512)) skip();
    run_all(SQ_CPU_AVX2 | SQ_CPU_AVX512);
}

static void own_avx2(void **state)
{
    (void)state;
    if (!(cpu_detect() & SQ_CPU_AVX2)) skip();
    run_all(SQ_CPU_AVX2);
}

static void plain_c(void **state)
{
    (void)state;
    run_all(SQ_CPU_NOTHING);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_c), cmocka_unit_test(own_avx2), cmocka_unit_test(own_avx512),
        cmocka_unit_test(every_feature)};
    golden_target t;
    int rc = golden_target_parse(&t, argc, argv);
    if (rc) return rc;
    if (!t.backend) return cmocka_run_group_tests(tests, NULL, NULL);
    for (int i = 0; i < 2 && t.compute[i]; i++) {
        backend_options o = {.name = t.backend, .compute = compute_of(t.compute[i])};
        const struct CMUnitTest asked[] = {cmocka_unit_test_prestate(as_asked, &o)};
        rc |= cmocka_run_group_tests_name(t.compute[i], asked, NULL, NULL);
    }
    return rc;
}
