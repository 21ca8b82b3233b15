#include "kernels/backend_diff.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum diff_op {
    OP_PATCHIFY,
    OP_EMBED,
    OP_LINEAR,
    OP_LINEAR_MANY,
    OP_LINEAR_GATED,
    OP_LAYER_NORM,
    OP_RMS_NORM,
    OP_ROPE_APPEND,
    OP_ATTN,
    OP_ATTN_STEP,
    OP_ATTN_ROWS,
    OP_ATTN_MEANS,
    OP_SILU_MUL,
    OP_ACTIVATE,
    OP_ADD,
    OP_SELECT_ROWS,
    OP_ARGMAX,
    N_OP
} diff_op;

/* Allowed error of an element, as a share of the largest value of its row: f32 + units * u, u half
 * a step of the type that the op rounds to (2^-8 bf16, 2^-11 f16, 0 f32). */
typedef struct diff_rule {
    const char *op;
    double f32;
    int units;
    const char *why;
} diff_rule;

static const diff_rule rules[N_OP] = {
    [OP_PATCHIFY] = {"patchify", 0, 1, "a copy, rounded once"},
    [OP_EMBED] = {"embed", 0, 0, "stored types convert to f32 exactly"},
    [OP_LINEAR] = {"linear", 2e-5, 4, "sums in any order; both operands or the result are rounded"},
    [OP_LINEAR_MANY] = {"linear_many", 2e-5, 4, "as linear"},
    [OP_LINEAR_GATED] = {"linear_gated", 5e-5, 6, "as linear, twice, and their product is rounded"},
    [OP_LAYER_NORM] = {"layer_norm", 5e-6, 1, "mean and variance in f32, the result rounded"},
    [OP_RMS_NORM] = {"rms_norm", 5e-6, 1, "a sum in f32, the result rounded"},
    [OP_ROPE_APPEND] = {"rope_append", 1e-5, 2, "both sides round to the cache's type"},
    [OP_ATTN] = {"attn", 1e-4, 4, "exp makes a logit's rounding relative; P and the result round"},
    [OP_ATTN_STEP] = {"attn_step", 1e-4, 8, "as attn, with q and k rounded after their rotation"},
    [OP_ATTN_ROWS] = {"attn_rows", 1e-4, 2, "exp makes a logit's rounding relative"},
    [OP_ATTN_MEANS] = {"attn_means", 1e-4, 2, "as attn_rows"},
    [OP_SILU_MUL] = {"silu_mul", 1e-6, 2, "silu and the product are rounded"},
    [OP_ACTIVATE] = {"activate", 1e-6, 1, "one rounding"},
    [OP_ADD] = {"add", 1e-6, 0, "one rounding in f32"},
    [OP_SELECT_ROWS] = {"select_rows", 1e-6, 1, "a few products, the result rounded"},
    [OP_ARGMAX] = {"argmax", 1e-6, 0, "the same index; the gap is one difference"},
};

static const double SMALLEST = 1e-30; /* always allowed: some hardware takes denormals as 0 */

typedef struct diff_priv {
    sq_backend *a; /* under test */
    sq_backend *b; /* the CPU in f32 */
    arena host;    /* one op's copies */
    diff_count count[N_OP];
} diff_priv;

/* One op on both sides. */
typedef struct diff_run {
    sq_backend *be, *a, *b;
    arena *host;
    diff_op op;
    double worst;
    int n_shape;
    char shape[64];
} diff_run;

static diff_priv *diff_of(const sq_backend *be)
{
    return be->priv;
}

/* What A recorded becomes the wrapper's. */
static void forward_state(sq_backend *be, sq_backend *a)
{
    if (a->err.code && !be->err.code) be->err = a->err;
    be->count = a->count;
}

static sq_backend *enter(sq_backend *be)
{
    sq_backend *a = diff_of(be)->a;
    backend_at(a, be->part, be->layer);
    if (!be->err.code) error_clear(&a->err); /* callers clear only the wrapper's */
    return a;
}

/* ---- one op ---- */

static bool run_begin(diff_run *r, sq_backend *be, diff_op op)
{
    diff_priv *p = diff_of(be);
    if (be->err.code) return false;
    *r = (diff_run){.be = be, .a = enter(be), .b = p->b, .host = &p->host, .op = op};
    error_clear(&p->b->err);
    return true;
}

/* After A ran: whether B may. */
static bool run_ready(diff_run *r)
{
    r->n_shape = 2; /* what is taken from now on is output */
    forward_state(r->be, r->a);
    return !r->be->err.code;
}

static void run_end(diff_run *r)
{
    diff_count *c = &diff_of(r->be)->count[r->op];
    if (r->b->err.code && !r->be->err.code) r->be->err = r->b->err;
    arena_rewind(r->host, (arena_mark){0});
    c->n += !r->be->err.code;
    if (c->n > 1 && r->worst <= c->worst) return;
    c->worst = r->worst;
    c->part = r->be->part;
    c->layer = r->be->layer;
    snprintf(c->shape, sizeof c->shape, "%s", r->shape);
}

/* The first two inputs name an op's shape. */
static void name_shape(diff_run *r, const sq_tensor *t)
{
    size_t at = strlen(r->shape), size = sizeof r->shape;
    if (r->n_shape++ >= 2) return;
    for (int i = 0; i < t->rank && at < size; i++)
        at += (size_t)snprintf(r->shape + at, size - at, "%s%lld",
                               i    ? ","
                               : at ? " x ["
                                    : "[",
                               (long long)t->shape[i]);
    if (at < size) snprintf(r->shape + at, size - at, "]");
}

static void *host_alloc(diff_run *r, size_t size)
{
    void *p = arena_alloc(r->host, size);
    if (!p) error_set(&r->be->err, SQ_E_NOMEM, "diff: out of memory");
    return p;
}

/* Host copy of A's tensor in its own type; absent when it is absent. */
static sq_tensor take_stored(diff_run *r, const sq_tensor *t)
{
    if (!t || !tensor_is_set(t)) return (sq_tensor){0};
    sq_tensor h = *t;
    name_shape(r, t);
    h.data = host_alloc(r, tensor_bytes(t));
    if (h.data) r->a->read(r->a, h.data, t->data, tensor_bytes(t));
    return h;
}

static sq_tensor blank(diff_run *r, const sq_tensor *t)
{
    sq_tensor h = *t;
    if (t->dtype != SQ_DTYPE_I32) h.dtype = SQ_DTYPE_F32;
    h.data = host_alloc(r, tensor_bytes(&h));
    return h;
}

/* Host copy of an activation: what is half precision becomes f32. */
static sq_tensor take(diff_run *r, const sq_tensor *t)
{
    sq_tensor h = take_stored(r, t);
    if (!h.data || (h.dtype != SQ_DTYPE_F16 && h.dtype != SQ_DTYPE_BF16)) return h;
    sq_tensor wide = blank(r, &h);
    if (wide.data) convert_to_f32(wide.data, h.data, h.dtype, tensor_count(&h));
    return wide;
}

static double unit_of(sq_dtype t)
{
    return t == SQ_DTYPE_BF16 ? 0x1p-8 : t == SQ_DTYPE_F16 ? 0x1p-11 : 0;
}

/* Products may round to bf16 though what flows between ops is f32. */
static double product_unit(const diff_run *r)
{
    return r->a->compute == SQ_COMPUTE_BF16 ? 0x1p-8 : unit_of(r->a->act);
}

static float *values_of(diff_run *r, const sq_tensor *t)
{
    int64_t n = tensor_count(t);
    float *to = host_alloc(r, (size_t)n * sizeof *to);
    if (!to) return NULL;
    if (t->dtype != SQ_DTYPE_I32) convert_to_f32(to, t->data, t->dtype, n);
    for (int64_t i = 0; t->dtype == SQ_DTYPE_I32 && i < n; i++)
        to[i] = (float)((const int32_t *)t->data)[i];
    return to;
}

/* 0 when alike; INFINITY when one is NaN or infinite and the other is not so. */
static double share_of(float got, float want, double allowed)
{
    if (isnan(want) || isnan(got)) return isnan(want) && isnan(got) ? 0 : INFINITY;
    if (got == want) return 0;
    if (isinf(want) || isinf(got) || allowed == 0) return INFINITY;
    return fabs((double)got - (double)want) / allowed;
}

static double largest_of(const float *x, int64_t n)
{
    double max = 0;
    for (int64_t i = 0; i < n; i++)
        if (isfinite(x[i]) && fabs((double)x[i]) > max) max = fabs((double)x[i]);
    return max;
}

/* "vision layer 3", or "prompt" for what is in no layer. */
static void name_place(char *out, size_t size, const sq_backend *be)
{
    if (be->layer < 0)
        snprintf(out, size, "%s", be->part);
    else
        snprintf(out, size, "%s layer %d", be->part, be->layer);
}

static void report(diff_run *r, int64_t at, int64_t cols, float got, float want, double allowed,
                   int64_t n_bad, int64_t n)
{
    char place[48];
    name_place(place, sizeof place, r->be);
    error_set(&r->be->err, SQ_E_BACKEND,
              "diff: %s, %s, %s: row %lld column %lld is %.6g, expected %.6g (allowed %.2g); "
              "%lld of %lld differ",
              rules[r->op].op, place, r->shape, (long long)(at / cols),
              (long long)(at % cols), (double)got, (double)want, allowed, (long long)n_bad,
              (long long)n);
}

/* y: A's output; want: B's. The first element beyond its limit becomes the wrapper's error. */
static void compare(diff_run *r, const sq_tensor *y, const sq_tensor *want, double unit)
{
    const diff_rule *rule = &rules[r->op];
    double share = y->dtype == SQ_DTYPE_I32 ? 0 : rule->f32 + rule->units * unit, bad_allowed = 0;
    if (r->be->err.code || r->b->err.code) return;
    sq_tensor h = take_stored(r, y);
    if (!run_ready(r) || !h.data) return;
    const float *got = values_of(r, &h), *expected = values_of(r, want);
    if (!got || !expected) return;
    int64_t n = tensor_count(y), cols = y->shape[y->rank - 1], first_bad = -1, n_bad = 0;
    for (int64_t row = 0; row < n; row += cols) {
        double allowed = share * largest_of(expected + row, cols);
        if (y->dtype != SQ_DTYPE_I32) allowed += SMALLEST;
        for (int64_t i = row; i < row + cols; i++) {
            double s = share_of(got[i], expected[i], allowed);
            if (s > r->worst) r->worst = s;
            if (s <= 1) continue;
            if (first_bad < 0) {
                first_bad = i;
                bad_allowed = allowed;
            }
            n_bad++;
        }
    }
    if (n_bad)
        report(r, first_bad, cols, got[first_bad], expected[first_bad], bad_allowed, n_bad, n);
}

/* ---- the slots: copies of the inputs first, since A may overwrite them ---- */

static void diff_patchify(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *level,
                          int patch)
{
    diff_run r;
    if (!run_begin(&r, be, OP_PATCHIFY)) return;
    sq_tensor hx = take(&r, x), hl = take_stored(&r, level), hy = blank(&r, y);
    r.a->ops.patchify(r.a, y, x, level, patch);
    if (run_ready(&r)) r.b->ops.patchify(r.b, &hy, &hx, level ? &hl : NULL, patch);
    compare(&r, y, &hy, unit_of(y->dtype));
    run_end(&r);
}

/* Only the rows that are asked for are fetched. */
static void diff_embed(sq_backend *be, sq_tensor *y, const sq_tensor *w, const sq_tensor *ids)
{
    diff_run r;
    if (!run_begin(&r, be, OP_EMBED)) return;
    sq_tensor hi = take_stored(&r, ids), hw = *w, hy = blank(&r, y);
    size_t row = dtype_row_bytes(w->dtype, w->shape[1]);
    int32_t *id = hi.data;
    hw.shape[0] = ids->shape[0];
    hw.data = host_alloc(&r, row * (size_t)ids->shape[0]);
    for (int64_t i = 0; i < ids->shape[0] && id && hw.data; i++) {
        sq_tensor from = tensor_rows(w, id[i], 1);
        r.a->read(r.a, (char *)hw.data + (size_t)i * row, from.data, row);
        id[i] = (int32_t)i;
    }
    r.a->ops.embed(r.a, y, w, ids);
    if (run_ready(&r)) r.b->ops.embed(r.b, &hy, &hw, &hi);
    compare(&r, y, &hy, 0);
    run_end(&r);
}

static void diff_linear(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                        const sq_tensor *b, const linear_desc *d)
{
    diff_run r;
    if (!run_begin(&r, be, OP_LINEAR)) return;
    sq_tensor hx = take(&r, x), hw = take_stored(&r, w), hb = take_stored(&r, b);
    sq_tensor hy = d->add ? take(&r, y) : blank(&r, y);
    r.a->ops.linear(r.a, y, x, w, b, d);
    if (run_ready(&r)) r.b->ops.linear(r.b, &hy, &hx, &hw, b ? &hb : NULL, d);
    compare(&r, y, &hy, product_unit(&r));
    run_end(&r);
}

static void diff_linear_many(sq_backend *be, sq_tensor *const y[], const sq_tensor *x,
                             const sq_tensor *const w[], const sq_tensor *const b[], int n)
{
    diff_run r;
    sq_tensor hw[3] = {{0}}, hb[3] = {{0}}, hy[3] = {{0}};
    if (!run_begin(&r, be, OP_LINEAR_MANY)) return;
    sq_tensor hx = take(&r, x);
    sq_tensor *const py[] = {&hy[0], &hy[1], &hy[2]};
    const sq_tensor *const pw[] = {&hw[0], &hw[1], &hw[2]}, *const pb[] = {&hb[0], &hb[1], &hb[2]};
    for (int i = 0; i < n; i++) {
        hw[i] = take_stored(&r, w[i]);
        hb[i] = take_stored(&r, b ? b[i] : NULL);
        hy[i] = blank(&r, y[i]);
    }
    r.a->ops.linear_many(r.a, y, x, w, b, n);
    if (run_ready(&r)) r.b->ops.linear_many(r.b, py, &hx, pw, pb, n);
    for (int i = 0; i < n; i++)
        compare(&r, y[i], &hy[i], product_unit(&r));
    run_end(&r);
}

static void diff_linear_gated(sq_backend *be, sq_tensor *y, const sq_tensor *x,
                              const sq_tensor *gate, const sq_tensor *up, sq_tensor *scratch)
{
    diff_run r;
    if (!run_begin(&r, be, OP_LINEAR_GATED)) return;
    sq_tensor hx = take(&r, x), hg = take_stored(&r, gate), hu = take_stored(&r, up);
    sq_tensor hy = blank(&r, y), hs = blank(&r, scratch);
    r.a->ops.linear_gated(r.a, y, x, gate, up, scratch);
    if (run_ready(&r)) r.b->ops.linear_gated(r.b, &hy, &hx, &hg, &hu, &hs);
    compare(&r, y, &hy, product_unit(&r));
    run_end(&r);
}

static void diff_layer_norm(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                            const sq_tensor *b, float eps)
{
    diff_run r;
    if (!run_begin(&r, be, OP_LAYER_NORM)) return;
    sq_tensor hx = take(&r, x), hw = take_stored(&r, w), hb = take_stored(&r, b);
    sq_tensor hy = blank(&r, y);
    r.a->ops.layer_norm(r.a, y, x, w, b, eps);
    if (run_ready(&r)) r.b->ops.layer_norm(r.b, &hy, &hx, &hw, b ? &hb : NULL, eps);
    compare(&r, y, &hy, unit_of(y->dtype));
    run_end(&r);
}

static void diff_rms_norm(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                          float eps)
{
    diff_run r;
    if (!run_begin(&r, be, OP_RMS_NORM)) return;
    sq_tensor hx = take(&r, x), hw = take_stored(&r, w), hy = blank(&r, y);
    r.a->ops.rms_norm(r.a, y, x, w, eps);
    if (run_ready(&r)) r.b->ops.rms_norm(r.b, &hy, &hx, &hw, eps);
    compare(&r, y, &hy, unit_of(y->dtype));
    run_end(&r);
}

static void diff_rope_append(sq_backend *be, sq_tensor *q, sq_tensor *k, const sq_tensor *v,
                             sq_tensor *cache_k, sq_tensor *cache_v, int at, const sq_tensor *pos,
                             const rope_desc *d)
{
    diff_run r;
    if (!run_begin(&r, be, OP_ROPE_APPEND)) return;
    sq_tensor hq = take(&r, q), hk = take(&r, k), hv = take(&r, v), hp = take_stored(&r, pos);
    sq_tensor new_k = tensor_rows(cache_k, at, k->shape[0]);
    sq_tensor new_v = tensor_rows(cache_v, at, k->shape[0]);
    sq_tensor hck = take_stored(&r, &new_k), hcv = take_stored(&r, &new_v);
    r.a->ops.rope_append(r.a, q, k, v, cache_k, cache_v, at, pos, d);
    if (run_ready(&r)) r.b->ops.rope_append(r.b, &hq, &hk, &hv, &hck, &hcv, 0, &hp, d);
    compare(&r, q, &hq, unit_of(q->dtype));
    compare(&r, &new_k, &hck, unit_of(cache_k->dtype));
    compare(&r, &new_v, &hcv, unit_of(cache_v->dtype));
    run_end(&r);
}

static void diff_attn(sq_backend *be, sq_tensor *out, const sq_tensor *q, const sq_tensor *k,
                      const sq_tensor *v, const attn_desc *d)
{
    diff_run r;
    if (!run_begin(&r, be, OP_ATTN)) return;
    sq_tensor hq = take(&r, q), hk = take(&r, k), hv = take(&r, v), hy = blank(&r, out);
    r.a->ops.attn(r.a, out, q, k, v, d);
    if (run_ready(&r)) r.b->ops.attn(r.b, &hy, &hq, &hk, &hv, d);
    compare(&r, out, &hy, unit_of(r.a->act));
    run_end(&r);
}

/* The held rows of each sequence's caches, with room for the new one, on both sides. */
typedef struct step_caches {
    sq_tensor k[SQ_STEP_MAX], v[SQ_STEP_MAX];
    const sq_tensor *pk[SQ_STEP_MAX], *pv[SQ_STEP_MAX];
} step_caches;

static void take_caches(diff_run *r, const kv_step *s, const int32_t *len, step_caches *c)
{
    for (int i = 0; i < s->n_seq; i++) {
        sq_tensor k = tensor_rows(s->k[i], 0, len[i] + 1), v = tensor_rows(s->v[i], 0, len[i] + 1);
        c->k[i] = take_stored(r, &k);
        c->v[i] = take_stored(r, &v);
        c->pk[i] = &c->k[i];
        c->pv[i] = &c->v[i];
    }
}

static void compare_row(diff_run *r, const sq_tensor *cache, const sq_tensor *want, int64_t row)
{
    sq_tensor y = tensor_rows(cache, row, 1), h = tensor_rows(want, row, 1);
    compare(r, &y, &h, unit_of(cache->dtype));
}

static void diff_attn_step(sq_backend *be, sq_tensor *out, sq_tensor *q, sq_tensor *k,
                           const sq_tensor *v, const kv_step *s, const rope_desc *rope,
                           const attn_desc *d)
{
    diff_run r;
    if (!run_begin(&r, be, OP_ATTN_STEP)) return;
    step_caches *c = host_alloc(&r, sizeof *c);
    sq_tensor hq = take(&r, q), hk = take(&r, k), hv = take(&r, v), hy = blank(&r, out);
    sq_tensor hp = take_stored(&r, s->pos), hl = take_stored(&r, s->len);
    const int32_t *len = hl.data;
    if (c && len && !r.a->err.code) {
        take_caches(&r, s, len, c);
        kv_step hs = {s->n_seq, &hp, &hl, c->pk, c->pv};
        r.a->ops.attn_step(r.a, out, q, k, v, s, rope, d);
        if (run_ready(&r)) r.b->ops.attn_step(r.b, &hy, &hq, &hk, &hv, &hs, rope, d);
        for (int i = 0; i < s->n_seq; i++) {
            compare_row(&r, s->k[i], &c->k[i], len[i]);
            compare_row(&r, s->v[i], &c->v[i], len[i]);
        }
        compare(&r, out, &hy, unit_of(r.a->act));
    }
    run_end(&r);
}

static void diff_attn_rows(sq_backend *be, sq_tensor *score, const sq_tensor *q, const sq_tensor *k,
                           const int32_t *row, int n_row, bool logits, const attn_desc *d)
{
    diff_run r;
    if (!run_begin(&r, be, OP_ATTN_ROWS)) return;
    sq_tensor hq = take(&r, q), hk = take(&r, k), hy = blank(&r, score);
    r.a->ops.attn_rows(r.a, score, q, k, row, n_row, logits, d);
    if (run_ready(&r)) r.b->ops.attn_rows(r.b, &hy, &hq, &hk, row, n_row, logits, d);
    /* a head's probabilities by that head's largest, not by the sharpest head's */
    sq_tensor heads = tensor_2d(score->data, SQ_DTYPE_F32, tensor_count(score) / d->n_kv, d->n_kv);
    compare(&r, &heads, &hy, unit_of(r.a->act));
    run_end(&r);
}

static void diff_attn_means(sq_backend *be, sq_tensor *received, sq_tensor *given,
                            const sq_tensor *q, const sq_tensor *k, int first, bool logits,
                            const attn_desc *d)
{
    diff_run r;
    if (!run_begin(&r, be, OP_ATTN_MEANS)) return;
    sq_tensor hq = take(&r, q), hk = take(&r, k), hr = blank(&r, received), hg = blank(&r, given);
    r.a->ops.attn_means(r.a, received, given, q, k, first, logits, d);
    if (run_ready(&r)) r.b->ops.attn_means(r.b, &hr, &hg, &hq, &hk, first, logits, d);
    compare(&r, received, &hr, unit_of(r.a->act));
    compare(&r, given, &hg, unit_of(r.a->act));
    run_end(&r);
}

static void diff_silu_mul(sq_backend *be, sq_tensor *y, const sq_tensor *gate, const sq_tensor *up)
{
    diff_run r;
    if (!run_begin(&r, be, OP_SILU_MUL)) return;
    sq_tensor hg = take(&r, gate), hu = take(&r, up), hy = blank(&r, y);
    r.a->ops.silu_mul(r.a, y, gate, up);
    if (run_ready(&r)) r.b->ops.silu_mul(r.b, &hy, &hg, &hu);
    compare(&r, y, &hy, unit_of(y->dtype));
    run_end(&r);
}

static void diff_activate(sq_backend *be, sq_tensor *y, const sq_tensor *x, sq_act act)
{
    diff_run r;
    if (!run_begin(&r, be, OP_ACTIVATE)) return;
    sq_tensor hx = take(&r, x), hy = blank(&r, y);
    r.a->ops.activate(r.a, y, x, act);
    if (run_ready(&r)) r.b->ops.activate(r.b, &hy, &hx, act);
    compare(&r, y, &hy, unit_of(y->dtype));
    run_end(&r);
}

static void diff_add(sq_backend *be, sq_tensor *y, const sq_tensor *x)
{
    diff_run r;
    if (!run_begin(&r, be, OP_ADD)) return;
    sq_tensor hy = take(&r, y), hx = take(&r, x);
    r.a->ops.add(r.a, y, x);
    if (run_ready(&r)) r.b->ops.add(r.b, &hy, &hx);
    compare(&r, y, &hy, 0);
    run_end(&r);
}

static void diff_select_rows(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sparse_rows *m)
{
    diff_run r;
    if (!run_begin(&r, be, OP_SELECT_ROWS)) return;
    sq_tensor hx = take(&r, x), hy = blank(&r, y);
    r.a->ops.select_rows(r.a, y, x, m);
    if (run_ready(&r)) r.b->ops.select_rows(r.b, &hy, &hx, m);
    compare(&r, y, &hy, unit_of(y->dtype));
    run_end(&r);
}

static void diff_argmax(sq_backend *be, sq_tensor *best, sq_tensor *gap, const sq_tensor *x)
{
    diff_run r;
    if (!run_begin(&r, be, OP_ARGMAX)) return;
    sq_tensor hx = take(&r, x), hb = blank(&r, best), hg = blank(&r, gap);
    r.a->ops.argmax(r.a, best, gap, x);
    if (run_ready(&r)) r.b->ops.argmax(r.b, &hb, &hg, &hx);
    compare(&r, best, &hb, 0);
    compare(&r, gap, &hg, 0);
    run_end(&r);
}

static const sq_ops diff_ops = {
    .patchify = diff_patchify,
    .embed = diff_embed,
    .linear = diff_linear,
    .linear_many = diff_linear_many,
    .linear_gated = diff_linear_gated,
    .layer_norm = diff_layer_norm,
    .rms_norm = diff_rms_norm,
    .rope_append = diff_rope_append,
    .attn = diff_attn,
    .attn_step = diff_attn_step,
    .attn_rows = diff_attn_rows,
    .attn_means = diff_attn_means,
    .silu_mul = diff_silu_mul,
    .activate = diff_activate,
    .add = diff_add,
    .select_rows = diff_select_rows,
    .argmax = diff_argmax,
};

/* ---- the backend around them: memory is A's ---- */

static void diff_write(sq_backend *be, void *dst, const void *host_src, size_t size)
{
    sq_backend *a = enter(be);
    a->write(a, dst, host_src, size);
    forward_state(be, a);
}

static void diff_read(sq_backend *be, void *host_dst, const void *src, size_t size)
{
    sq_backend *a = enter(be);
    a->read(a, host_dst, src, size);
    forward_state(be, a);
}

static void diff_sync(sq_backend *be)
{
    sq_backend *a = enter(be);
    a->sync(a);
    forward_state(be, a);
}

static void diff_convert(sq_backend *be, void *dst, sq_dtype to, const void *src, sq_dtype from,
                         int64_t n)
{
    sq_backend *a = enter(be);
    a->convert(a, dst, to, src, from, n);
    forward_state(be, a);
}

/* Every op is looked at each time: nothing is recorded. */
static void diff_region(sq_backend *be, const void *key, size_t key_size, void (*fn)(void *user),
                        void *user)
{
    (void)be, (void)key, (void)key_size;
    fn(user);
}

static void diff_close(sq_backend *be)
{
    diff_priv *p = diff_of(be);
    if (!p) return;
    backend_close(&p->a);
    backend_close(&p->b);
    arena_close(&p->host);
    free(p);
    be->priv = NULL;
}

static int diff_probe(sq_error *err)
{
    (void)err;
    return SQ_OK;
}

static int open_pair(diff_priv *p, const backend_options *o, sq_error *err)
{
    backend_options a = *o;
    backend_options b = {.name = "cpu", .compute = SQ_COMPUTE_F32, .n_threads = o->n_threads};
    a.name = strchr(o->name, ':') + 1;
    if (!a.name[0] || strchr(a.name, ':'))
        return error_set(err, SQ_E_ARG, "backend %s: expected diff:cpu or diff:cuda", o->name);
    TRY(backend_open(&p->a, &a, err));
    /* Without oneDNN: it keeps repacked weights by address, and B's come and go. */
    b.cpu_mask = strcmp(p->a->name, "cpu") == 0 ? SQ_CPU_NOTHING : ~(unsigned)SQ_CPU_ONEDNN;
    return backend_open(&p->b, &b, err);
}

/* o->name is "diff:NAME". */
static int diff_open(sq_backend *be, const backend_options *o, sq_error *err)
{
    diff_priv *p = be->priv = calloc(1, sizeof *p);
    if (!p) return error_set(err, SQ_E_NOMEM, "diff: out of memory");
    be->close_priv = diff_close;
    TRY(open_pair(p, o, err));
    snprintf(be->describe, sizeof be->describe, "diff: [%.100s] against [%.100s]", p->a->describe,
             p->b->describe);
    be->ops = diff_ops;
    be->compute = p->a->compute;
    be->act = p->a->act;
    be->resident = p->a->resident;
    be->n_threads = p->a->n_threads;
    be->cpu_flags = p->a->cpu_flags;
    be->memory = p->a->memory;
    be->write = diff_write;
    be->read = diff_read;
    be->sync = diff_sync;
    be->convert = diff_convert;
    be->region = diff_region;
    return SQ_OK;
}

const backend_row backend_diff = {"diff", diff_probe, diff_open, NULL};

int diff_get(const sq_backend *be, int i, diff_count *out)
{
    if (be->close_priv != diff_close || i < 0 || i >= N_OP) return SQ_E_ARG;
    *out = diff_of(be)->count[i];
    out->op = rules[i].op;
    return SQ_OK;
}

sq_backend *diff_under_test(sq_backend *be)
{
    return be->close_priv == diff_close ? diff_of(be)->a : NULL;
}
