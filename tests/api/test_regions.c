/* A region's key stands for all that its function takes from the host: what a GPU recorded under a
 * key is replayed when the key comes again. Here every op's arguments are digested under the
 * region's key, on memory whose addresses come back as soon as they are free. */
#include "core/digest.h"
#include "squint_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TINY SQ_SOURCE_DIR "/tests/golden/tiny/"

enum { MAX_KEYS = 4096, MAX_BLOCKS = 512 };

typedef struct region_record {
    digest key, ops;
    int seen;
} region_record;

typedef struct free_block {
    size_t size;
    void *data;
    bool in_use;
} free_block;

static struct watch {
    sq_ops inner;
    arena_source memory;
    bool inside; /* a region */
    digest ops;
    region_record record[MAX_KEYS];
    int n_record, n_region;
    free_block block[MAX_BLOCKS];
    int n_block;
    const char *what;
} watch;

/* ---- memory that gives the same address for the same size, whatever was in between ---- */

static void *take_memory(void *user, size_t size)
{
    (void)user;
    free_block *b = watch.block;
    while (b < watch.block + watch.n_block && (b->in_use || b->size != size))
        b++;
    if (b == watch.block + watch.n_block) {
        assert_true(watch.n_block < MAX_BLOCKS);
        watch.n_block++;
        *b = (free_block){size, watch.memory.alloc(watch.memory.user, size), false};
    }
    b->in_use = true;
    return b->data;
}

static void give_memory(void *user, void *p)
{
    (void)user;
    for (int i = 0; i < watch.n_block; i++)
        if (watch.block[i].data == p) watch.block[i].in_use = false;
}

/* ---- what an op is given ---- */

static void add(const void *data, size_t size)
{
    digest_add(&watch.ops, data, size);
}

static void add_tensor(const sq_tensor *t)
{
    sq_tensor none = {0};
    if (!t || !tensor_is_set(t)) t = &none;
    add(&t->data, sizeof t->data);
    add(&t->dtype, sizeof t->dtype);
    add(&t->rank, sizeof t->rank);
    add(t->shape, (size_t)t->rank * sizeof *t->shape);
}

static void add_op(const char *name, const sq_tensor *a, const sq_tensor *b, const sq_tensor *c,
                   const sq_tensor *d)
{
    add(name, strlen(name));
    add_tensor(a);
    add_tensor(b);
    add_tensor(c);
    add_tensor(d);
}

static void add_attn(const attn_desc *d)
{
    const int n[] = {d->n_seq,    d->n_q,    d->n_kv,   d->n_head, d->n_head_kv,
                     d->head_dim, d->causal, d->q_pos0, d->window};
    add(n, sizeof n);
    add(&d->scale, sizeof d->scale);
}

static void add_rope(const rope_desc *r)
{
    const int n[] = {r->n_head, r->n_head_kv, r->head_dim, r->interleaved};
    add(n, sizeof n);
    add(r->inv_freq, (size_t)(r->head_dim / 2) * sizeof *r->inv_freq);
    add(&r->mscale, sizeof r->mscale);
}

/* ---- the slots ---- */

/* Some slots are made of others on the CPU; those are the backend's own business. */
#define PASS_ON(slot, ...) \
    (be->ops = watch.inner, watch.inner.slot(be, __VA_ARGS__), be->ops = watch_ops)

static const sq_ops watch_ops;

static void w_patchify(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *level,
                       int patch)
{
    add_op("patchify", y, x, level, NULL);
    add(&patch, sizeof patch);
    PASS_ON(patchify, y, x, level, patch);
}

static void w_embed(sq_backend *be, sq_tensor *y, const sq_tensor *w, const sq_tensor *ids)
{
    add_op("embed", y, w, ids, NULL);
    PASS_ON(embed, y, w, ids);
}

static void w_linear(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                     const sq_tensor *b, const linear_desc *d)
{
    const int n[] = {(int)d->act, d->add};
    add_op("linear", y, x, w, b);
    add(n, sizeof n);
    PASS_ON(linear, y, x, w, b, d);
}

static void w_linear_many(sq_backend *be, sq_tensor *const y[], const sq_tensor *x,
                          const sq_tensor *const w[], const sq_tensor *const b[], int n)
{
    for (int i = 0; i < n; i++)
        add_op("linear_many", y[i], x, w[i], b ? b[i] : NULL);
    PASS_ON(linear_many, y, x, w, b, n);
}

static void w_linear_gated(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *gate,
                           const sq_tensor *up, sq_tensor *scratch)
{
    add_op("linear_gated", y, x, gate, up);
    add_tensor(scratch);
    PASS_ON(linear_gated, y, x, gate, up, scratch);
}

static void w_layer_norm(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                         const sq_tensor *b, float eps)
{
    add_op("layer_norm", y, x, w, b);
    add(&eps, sizeof eps);
    PASS_ON(layer_norm, y, x, w, b, eps);
}

static void w_rms_norm(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                       float eps)
{
    add_op("rms_norm", y, x, w, NULL);
    add(&eps, sizeof eps);
    PASS_ON(rms_norm, y, x, w, eps);
}

static void w_rope_append(sq_backend *be, sq_tensor *q, sq_tensor *k, const sq_tensor *v,
                          sq_tensor *cache_k, sq_tensor *cache_v, int at, const sq_tensor *pos,
                          const rope_desc *d)
{
    add_op("rope_append", q, k, v, pos);
    add_tensor(cache_k);
    add_tensor(cache_v);
    add(&at, sizeof at);
    add_rope(d);
    PASS_ON(rope_append, q, k, v, cache_k, cache_v, at, pos, d);
}

static void w_attn(sq_backend *be, sq_tensor *out, const sq_tensor *q, const sq_tensor *k,
                   const sq_tensor *v, const attn_desc *d)
{
    add_op("attn", out, q, k, v);
    add_attn(d);
    PASS_ON(attn, out, q, k, v, d);
}

static void w_attn_step(sq_backend *be, sq_tensor *out, sq_tensor *q, sq_tensor *k,
                        const sq_tensor *v, const kv_step *s, const rope_desc *r,
                        const attn_desc *d)
{
    add_op("attn_step", out, q, k, v);
    add_tensor(s->pos);
    add_tensor(s->len);
    for (int i = 0; i < s->n_seq; i++) {
        add_tensor(s->k[i]);
        add_tensor(s->v[i]);
    }
    add_rope(r);
    add_attn(d);
    PASS_ON(attn_step, out, q, k, v, s, r, d);
}

static void w_attn_rows(sq_backend *be, sq_tensor *score, const sq_tensor *q, const sq_tensor *k,
                        const int32_t *row, int n_row, bool logits, const attn_desc *d)
{
    const int n[] = {n_row, logits};
    add_op("attn_rows", score, q, k, NULL);
    add(row, (size_t)n_row * sizeof *row);
    add(n, sizeof n);
    add_attn(d);
    PASS_ON(attn_rows, score, q, k, row, n_row, logits, d);
}

static void w_attn_means(sq_backend *be, sq_tensor *received, sq_tensor *given, const sq_tensor *q,
                         const sq_tensor *k, int first, bool logits, const attn_desc *d)
{
    const int n[] = {first, logits};
    add_op("attn_means", received, given, q, k);
    add(n, sizeof n);
    add_attn(d);
    PASS_ON(attn_means, received, given, q, k, first, logits, d);
}

static void w_silu_mul(sq_backend *be, sq_tensor *y, const sq_tensor *gate, const sq_tensor *up)
{
    add_op("silu_mul", y, gate, up, NULL);
    PASS_ON(silu_mul, y, gate, up);
}

static void w_activate(sq_backend *be, sq_tensor *y, const sq_tensor *x, sq_act act)
{
    add_op("activate", y, x, NULL, NULL);
    add(&act, sizeof act);
    PASS_ON(activate, y, x, act);
}

static void w_add(sq_backend *be, sq_tensor *y, const sq_tensor *x)
{
    add_op("add", y, x, NULL, NULL);
    PASS_ON(add, y, x);
}

static void w_select_rows(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sparse_rows *m)
{
    if (watch.inside) fail_msg("%s: select_rows reads the host, so no region may call it",
                               watch.what);
    PASS_ON(select_rows, y, x, m);
}

static void w_argmax(sq_backend *be, sq_tensor *best, sq_tensor *gap, const sq_tensor *x)
{
    add_op("argmax", best, gap, x, NULL);
    PASS_ON(argmax, best, gap, x);
}

static const sq_ops watch_ops = {
    w_patchify, w_embed, w_linear,    w_linear_many, w_linear_gated, w_layer_norm,
    w_rms_norm, w_rope_append, w_attn, w_attn_step,  w_attn_rows,    w_attn_means,
    w_silu_mul, w_activate, w_add,    w_select_rows, w_argmax};

static bool same(const digest *a, const digest *b)
{
    return a->a == b->a && a->b == b->b;
}

static void watch_region(sq_backend *be, const void *key, size_t key_size, void (*fn)(void *user),
                         void *user)
{
    digest k = {0};
    (void)be;
    digest_add(&k, key, key_size);
    assert_false(watch.inside);
    watch.inside = true;
    watch.ops = (digest){0};
    fn(user);
    watch.inside = false;
    watch.n_region++;
    for (int i = 0; i < watch.n_record; i++) {
        region_record *r = &watch.record[i];
        if (!same(&r->key, &k)) continue;
        r->seen++;
        if (!same(&r->ops, &watch.ops))
            fail_msg("%s: the key that was recorded now stands for other ops", watch.what);
        return;
    }
    assert_true(watch.n_record < MAX_KEYS);
    watch.record[watch.n_record++] = (region_record){k, watch.ops, 1};
}

/* ---- models ---- */

static sq_model *open_watched(const char *name)
{
    char path[512];
    sq_model *m;
    const sq_model_options o = {.backend = "cpu", .compute = "f32", .n_threads = 1};
    snprintf(path, sizeof path, TINY "%s", name);
    if (sq_model_open(&m, path, &o)) fail_msg("%s: %s", name, sq_model_error(m));
    memset(&watch, 0, sizeof watch);
    watch.what = name;
    watch.inner = m->be->ops;
    watch.memory = m->be->memory;
    m->be->ops = watch_ops;
    m->be->region = watch_region;
    m->be->memory.alloc = take_memory;
    m->be->memory.free = give_memory;
    return m;
}

static void close_watched(sq_model **m)
{
    arena_source memory = watch.memory;
    for (int i = 0; i < watch.n_block; i++) {
        assert_false(watch.block[i].in_use); /* sessions gave all back */
        memory.free(memory.user, watch.block[i].data);
    }
    sq_model_close(m);
}

typedef struct visit {
    const char *prune, *keep, *options, *kv;
    int n_picture, n_question, max_tokens;
} visit;

static void run_visit(sq_model *m, const visit *v)
{
    static sq_report r;
    static const char *const question[] = {"hello", "hello there", "hello"};
    sq_session *s;
    const sq_session_options o = {.prune = v->prune,
                                  .keep = v->keep,
                                  .prune_options = v->options,
                                  .kv_type = v->kv,
                                  .n_ctx = 1200};
    int rc = sq_session_open(&s, m, &o);
    for (int i = 0; !rc && i < v->n_picture; i++)
        rc = sq_session_add_image(s, TINY "picture.png");
    const sq_ask_options ask = {.max_tokens = v->max_tokens};
    for (int i = 0; !rc && i < v->n_question; i++)
        rc = sq_session_ask(s, question[i], &ask, &r);
    if (rc) fail_msg("%s: %s", watch.what, sq_session_error(s));
    sq_session_close(&s);
}

static const visit visits[] = {
    {NULL, NULL, NULL, "f32", 1, 2, 6},
    {NULL, NULL, NULL, "f16", 1, 2, 6},
    {NULL, NULL, NULL, "bf16", 1, 2, 6},
    {NULL, NULL, NULL, "f16", 2, 1, 3},
    {"fastervlm", "3", NULL, "f16", 1, 2, 6},
    {"fastervlm", "2", NULL, "bf16", 1, 2, 6},
    {"random", "3", NULL, "f16", 1, 1, 6},
    {"vtc-cls", "3", NULL, "f16", 1, 1, 4},
    {"vtc-cls", "3", "start-layer=1", "f16", 1, 1, 4},
    {"fopru", "3", NULL, "f16", 1, 1, 4},
    {"fopru", "3", "scores=logits", "f16", 1, 1, 4},
    {"uniform", "50%", NULL, "bf16", 2, 3, 6},
};
enum { N_VISIT = sizeof visits / sizeof *visits };

static void keys_stand_for_all_that_is_read(void **state)
{
    (void)state;
    static const char *const models[] = {"mha", "gqa", "dynamic", "llama3", "mistral", "qwen2",
                                         "full"};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        sq_model *m = open_watched(models[i]);
        for (int round = 0; round < 2; round++)
            for (int k = 0; k < N_VISIT; k++)
                run_visit(m, &visits[k]);
        /* a key that is never met again would prove nothing */
        assert_true(watch.n_region - watch.n_record > watch.n_region / 2);
        close_watched(&m);
    }
}

/* The same work again finds its records: every decode step from the second on, and all of a
 * second session that does what the first did. */
static void work_that_comes_again_is_replayed(void **state)
{
    (void)state;
    const visit v = {"fastervlm", "3", NULL, "f32", 1, 1, 40};
    sq_model *m = open_watched("mha");
    run_visit(m, &v);
    assert_true(watch.n_region > 30);  /* vision, prefill, steps */
    assert_true(watch.n_record <= 5);  /* arenas settle during the first steps */
    run_visit(m, &v);
    int n = watch.n_record;
    for (int i = 0; i < 3; i++)
        run_visit(m, &v);
    assert_int_equal(watch.n_record, n);
    close_watched(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_stand_for_all_that_is_read),
        cmocka_unit_test(work_that_comes_again_is_replayed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
