/* A batch is each of its members: views through one tower pass, and decode steps of sequences of
 * different lengths, against the same one by one. */
#include "core/rng.h"
#include "squint_impl.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TINY SQ_SOURCE_DIR "/tests/golden/tiny/"

enum { N_VIEW = 3, N_SEQ = 4, N_STEP = 6 };

static sq_error err;

static void ok(int rc)
{
    if (rc) fail_msg("%s", err.text);
}

static sq_model *open_tiny(const char *name)
{
    char path[512];
    sq_model *m;
    const sq_model_options o = {.backend = "cpu", .compute = "f32", .n_threads = 2};
    snprintf(path, sizeof path, TINY "%s", name);
    if (sq_model_open(&m, path, &o)) fail_msg("%s: %s", name, sq_model_error(m));
    return m;
}

static float *noise(arena *a, size_t n, uint64_t seed)
{
    float *x = arena_alloc(a, n * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(2 * rng_unit(&seed) - 1);
    return x;
}

/* f32 sums in another order: a row count chooses the kernel. */
static void alike(const char *what, const float *got, const float *want, int64_t n)
{
    float max = 0;
    for (int64_t i = 0; i < n; i++)
        max = fmaxf(max, fabsf(want[i]));
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(got[i] - want[i]) <= 1e-5f * max))
            fail_msg("%s: value %lld is %.9g alone, %.9g in the batch", what, (long long)i,
                     (double)want[i], (double)got[i]);
}

/* ---- views ---- */

static void check_views(const char *name)
{
    sq_model *m = open_tiny(name);
    const vit_model *vit = &m->m.vit;
    const vit_config *c = &vit->cfg;
    arena dev = {0}, host = {0};
    size_t plane = 3 * (size_t)c->image_size * (size_t)c->image_size;
    float *planes = noise(&host, N_VIEW * plane, 5);
    int last = c->feature[0];
    vit_capture cap = {.row_count = last, .logits = true, .logits_layer = last - 1,
                       .means = true, .means_layer = last - 1};
    vit_output all, one;
    vit_views views = {.n = N_VIEW, .planes = planes};
    ok(vit_forward(m->be, vit, &views, &cap, &all, &dev, &host, NULL, NULL, &err));
    int64_t n = all.n_patch, rows = (int64_t)last * c->n_head * n;
    for (int v = 0; v < N_VIEW; v++) {
        views = (vit_views){.n = 1, .planes = planes + (size_t)v * plane};
        ok(vit_forward(m->be, vit, &views, &cap, &one, &dev, &host, NULL, NULL, &err));
        sq_tensor got = vit_features(&all, v), want = vit_features(&one, 0);
        alike("features", got.data, want.data, tensor_count(&want));
        alike("rows", all.rows + v * rows, one.rows, rows);
        alike("logits", all.logits + v * c->n_head * n, one.logits, c->n_head * n);
        alike("received", all.received + v * n, one.received, n);
        alike("given", all.given + v * n, one.given, n);
    }
    arena_close(&dev);
    arena_close(&host);
    sq_model_close(&m);
}

static void views_are_each_view(void **state)
{
    (void)state;
    check_views("mha");
    check_views("gelu");
    check_views("full");
}

/* ---- steps ---- */

static const int length[N_SEQ] = {20, 1, 8, 3};

typedef struct sequences {
    kv_cache kv[N_SEQ];
    int32_t id[N_SEQ];
    float *logits; /* [N_SEQ, n_vocab] */
} sequences;

static void prefill_all(sq_model *m, sequences *s, arena *a)
{
    const decoder_model *d = &m->m.dec;
    s->logits = arena_alloc(a, (size_t)N_SEQ * (size_t)d->cfg.n_vocab * sizeof(float));
    for (int i = 0; i < N_SEQ; i++) {
        int n = length[i], row = d->cfg.n_head_kv * d->cfg.head_dim;
        int32_t pos[32];
        float gap;
        for (int k = 0; k < n; k++)
            pos[k] = k;
        float *x = noise(a, (size_t)n * (size_t)d->cfg.dim, 100 + (uint64_t)i);
        sq_tensor t = tensor_2d(x, SQ_DTYPE_F32, n, d->cfg.dim);
        decoder_result want = {.best = &s->id[i], .gap = &gap};
        ok(kv_cache_open(&s->kv[i], m->be, d->cfg.n_layer, n + 1, row, SQ_DTYPE_F32, &err));
        ok(decoder_forward(m->be, d, &s->kv[i], &t, pos, &want, a, &err));
    }
}

static void step_batch(sq_model *m, sequences *s, arena *a)
{
    kv_cache *kv[N_SEQ];
    int32_t pos[N_SEQ], best[N_SEQ];
    float gap[N_SEQ];
    for (int i = 0; i < N_SEQ; i++) {
        kv[i] = &s->kv[i];
        pos[i] = s->kv[i].len[0];
    }
    decoder_result want = {.logits = s->logits, .best = best, .gap = gap};
    ok(decoder_step(m->be, &m->m.dec, kv, N_SEQ, s->id, pos, &want, a, &err));
    memcpy(s->id, best, sizeof best);
}

static void step_each(sq_model *m, sequences *s, arena *a)
{
    for (int i = 0; i < N_SEQ; i++) {
        kv_cache *const kv[] = {&s->kv[i]};
        int32_t pos = s->kv[i].len[0], best;
        float gap;
        decoder_result want = {.logits = s->logits + (size_t)i * (size_t)m->m.dec.cfg.n_vocab,
                               .best = &best, .gap = &gap};
        ok(decoder_step(m->be, &m->m.dec, kv, 1, &s->id[i], &pos, &want, a, &err));
        s->id[i] = best;
    }
}

static void check_steps(const char *name)
{
    sq_model *m = open_tiny(name);
    arena a = {0};
    sequences batch, each;
    prefill_all(m, &batch, &a);
    prefill_all(m, &each, &a);
    assert_memory_equal(batch.id, each.id, sizeof batch.id);
    for (int k = 0; k < N_STEP; k++) {
        step_batch(m, &batch, &a);
        step_each(m, &each, &a);
        alike(name, batch.logits, each.logits, (int64_t)N_SEQ * m->m.dec.cfg.n_vocab);
        assert_memory_equal(batch.id, each.id, sizeof batch.id);
    }
    for (int i = 0; i < N_SEQ; i++) {
        for (int l = 0; l < m->m.dec.cfg.n_layer; l++)
            assert_int_equal(batch.kv[i].len[l], length[i] + N_STEP);
        kv_cache_close(&batch.kv[i]);
        kv_cache_close(&each.kv[i]);
    }
    arena_close(&a);
    sq_model_close(&m);
}

static void steps_are_each_step(void **state)
{
    (void)state;
    static const char *const names[] = {"mha", "gqa", "llama3", "mistral", "qwen2", "tied"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        check_steps(names[i]);
}

/* Dynamic RoPE: within original_ctx all is well, past it lengths must agree; too many never do. */
static void what_no_step_can_hold_is_refused(void **state)
{
    (void)state;
    sq_model *m = open_tiny("dynamic");
    const decoder_config *c = &m->m.dec.cfg;
    arena a = {0};
    kv_cache kv[2];
    kv_cache *const both[] = {&kv[0], &kv[1]};
    int32_t id[2] = {5, 6}, best[2];
    float gap[2];
    decoder_result want = {.best = best, .gap = gap};
    for (int i = 0; i < 2; i++)
        ok(kv_cache_open(&kv[i], m->be, c->n_layer, 8, c->n_head_kv * c->head_dim, SQ_DTYPE_F32,
                         &err));
    int32_t near[2] = {0, 3}, far[2] = {0, c->rope.original_ctx};
    ok(decoder_step(m->be, &m->m.dec, both, 2, id, near, &want, &a, &err));
    assert_int_equal(decoder_step(m->be, &m->m.dec, both, 2, id, far, &want, &a, &err),
                     SQ_E_UNSUPPORTED);
    error_clear(&err);
    far[0] = far[1];
    ok(decoder_step(m->be, &m->m.dec, both, 2, id, far, &want, &a, &err));
    assert_int_equal(
        decoder_step(m->be, &m->m.dec, both, SQ_STEP_MAX + 1, id, near, &want, &a, &err), SQ_E_ARG);
    error_clear(&err);
    for (int i = 0; i < 2; i++)
        kv_cache_close(&kv[i]);
    arena_close(&a);
    sq_model_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(views_are_each_view),
        cmocka_unit_test(steps_are_each_step),
        cmocka_unit_test(what_no_step_can_hold_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
