/* The checker checked: wrong copies of ops are planted one at a time and each must be reported by
 * the cases of its slot. A copy calls the backend's own slot with something changed, or spoils its
 * result; device memory is touched only through write and read. */
#include "opcheck.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- spoiling results ---- */

static float *fetch(sq_backend *be, const sq_tensor *t)
{
    float *host = oc_alloc(tensor_bytes(t));
    be->read(be, host, t->data, tensor_bytes(t));
    return host;
}

static void put_back(sq_backend *be, const sq_tensor *t, float *host)
{
    be->write(be, t->data, host, tensor_bytes(t));
    free(host);
}

static void put_value(sq_backend *be, const sq_tensor *t, int64_t at, float value)
{
    be->write(be, (float *)t->data + at, &value, sizeof value);
}

#define LINEAR_FAULT(name)                                                                         \
    static void name(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,         \
                     const sq_tensor *b, const linear_desc *d)

LINEAR_FAULT(linear_column_off)
{
    be->ops.linear(be, y, x, w, b, d);
    int64_t cols = y->shape[1];
    float *v = fetch(be, y);
    for (int64_t r = 0; r < y->shape[0]; r++)
        memmove(v + r * cols, v + r * cols + 1, (size_t)(cols - 1) * sizeof *v);
    put_back(be, y, v);
}

LINEAR_FAULT(linear_last_row_dropped)
{
    int64_t cols = y->shape[1], last = (y->shape[0] - 1) * cols;
    float *old = fetch(be, y), *v;
    be->ops.linear(be, y, x, w, b, d);
    v = fetch(be, y);
    memcpy(v + last, old + last, (size_t)cols * sizeof *v);
    free(old);
    put_back(be, y, v);
}

LINEAR_FAULT(linear_nan)
{
    be->ops.linear(be, y, x, w, b, d);
    put_value(be, y, tensor_count(y) - 1, NAN);
}

LINEAR_FAULT(linear_past_end)
{
    be->ops.linear(be, y, x, w, b, d);
    put_value(be, y, tensor_count(y), 0);
}

LINEAR_FAULT(linear_before_start)
{
    be->ops.linear(be, y, x, w, b, d);
    put_value(be, y, -1, 0);
}

LINEAR_FAULT(linear_input_changed)
{
    be->ops.linear(be, y, x, w, b, d);
    put_value(be, x, 0, 0.125f);
}

LINEAR_FAULT(linear_no_bias)
{
    (void)b;
    be->ops.linear(be, y, x, w, NULL, d);
}

LINEAR_FAULT(linear_no_add)
{
    linear_desc plain = {d->act, false};
    be->ops.linear(be, y, x, w, b, &plain);
}

LINEAR_FAULT(linear_wrong_gelu)
{
    linear_desc other = *d;
    if (d->act == SQ_ACT_GELU) other.act = SQ_ACT_GELU_TANH;
    be->ops.linear(be, y, x, w, b, &other);
}

/* A relative error of 2e-5, as a lost small term gives. */
LINEAR_FAULT(linear_imprecise)
{
    be->ops.linear(be, y, x, w, b, d);
    float *v = fetch(be, y);
    for (int64_t i = 0; i < tensor_count(y); i++)
        v[i] *= 1.00002f;
    put_back(be, y, v);
}

/* One product of the sum is lost: the last of every row. */
LINEAR_FAULT(linear_lost_tail)
{
    int64_t in = x->shape[1];
    float *old = fetch(be, x), *v = fetch(be, x);
    for (int64_t r = 0; r < x->shape[0]; r++)
        v[r * in + in - 1] = 0;
    put_back(be, x, v);
    be->ops.linear(be, y, x, w, b, d);
    put_back(be, x, old);
}

/* x cut to bf16 where f32 is asked for; with bf16 compute cut instead of rounded. */
LINEAR_FAULT(linear_cut_to_bf16)
{
    float *old = fetch(be, x), *v = fetch(be, x);
    for (int64_t i = 0; i < tensor_count(x); i++) {
        uint32_t u;
        memcpy(&u, v + i, sizeof u);
        u &= 0xffff0000u;
        memcpy(v + i, &u, sizeof u);
    }
    put_back(be, x, v);
    be->ops.linear(be, y, x, w, b, d);
    put_back(be, x, old);
}

LINEAR_FAULT(linear_nan_hidden)
{
    be->ops.linear(be, y, x, w, b, d);
    float *v = fetch(be, y);
    for (int64_t i = 0; i < tensor_count(y); i++)
        if (!oc_is_finite(v[i])) v[i] = 0;
    put_back(be, y, v);
}

LINEAR_FAULT(linear_nan_spreads)
{
    be->ops.linear(be, y, x, w, b, d);
    int64_t cols = y->shape[1];
    float *v = fetch(be, y);
    for (int64_t i = tensor_count(y) - 1; i >= cols; i--)
        if (oc_is_nan(v[i - cols])) v[i] = NAN;
    put_back(be, y, v);
}

static void layer_norm_scaled(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                              const sq_tensor *b, float eps)
{
    be->ops.layer_norm(be, y, x, w, b, eps);
    double n = (double)x->shape[1];
    float *v = fetch(be, y),
          factor = n > 1 ? (float)sqrt((n - 1) / n) : 1; /* variance over n - 1 */
    for (int64_t i = 0; i < tensor_count(y); i++)
        v[i] *= factor;
    put_back(be, y, v);
}

static void rms_norm_no_eps(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                            float eps)
{
    (void)eps;
    be->ops.rms_norm(be, y, x, w, 0);
}

static void rope_other_pairs(sq_backend *be, sq_tensor *x, const int32_t *pos, const rope_desc *d)
{
    rope_desc other = *d;
    other.interleaved = !d->interleaved;
    be->ops.rope(be, x, pos, &other);
}

static void rope_next_position(sq_backend *be, sq_tensor *x, const int32_t *pos, const rope_desc *d)
{
    int64_t n = x->shape[0];
    int32_t *p = oc_alloc((size_t)n * sizeof *p);
    for (int64_t i = 0; i < n; i++)
        p[i] = pos[i] + 1;
    be->ops.rope(be, x, p, d);
    free(p);
}

static void kv_append_row_off(sq_backend *be, sq_tensor *cache, const sq_tensor *x, int at)
{
    bool room = at + 1 + x->shape[0] <= cache->shape[0];
    be->ops.kv_append(be, cache, x, at + (room ? 1 : 0));
}

/* Ties of f16 rounding go up instead of to even. */
static void kv_append_ties_up(sq_backend *be, sq_tensor *cache, const sq_tensor *x, int at)
{
    float *old = fetch(be, x), *v = fetch(be, x);
    for (int64_t i = 0; cache->dtype == SQ_DTYPE_F16 && i < tensor_count(x); i++)
        v[i] = nextafterf(v[i], INFINITY);
    put_back(be, x, v);
    be->ops.kv_append(be, cache, x, at);
    put_back(be, x, old);
}

static void embed_next_row(sq_backend *be, sq_tensor *y, const sq_tensor *w, const int32_t *ids,
                           int n)
{
    int32_t *other = oc_alloc((size_t)n * sizeof *other);
    for (int i = 0; i < n; i++)
        other[i] = (ids[i] + 1) % (int32_t)w->shape[0];
    be->ops.embed(be, y, w, other, n);
    free(other);
}

static void patchify_bands_swapped(sq_backend *be, sq_tensor *y, const sq_tensor *x, int patch)
{
    be->ops.patchify(be, y, x, patch);
    float *v = fetch(be, y);
    int64_t plane = (int64_t)patch * patch;
    for (int64_t i = 0; i < y->shape[0]; i++)
        for (int64_t k = 0; k < plane; k++) {
            float *row = v + i * 3 * plane, red = row[k];
            row[k] = row[2 * plane + k];
            row[2 * plane + k] = red;
        }
    put_back(be, y, v);
}

static void silu_mul_no_gate(sq_backend *be, sq_tensor *y, const sq_tensor *gate,
                             const sq_tensor *up)
{
    be->ops.silu_mul(be, y, up, gate);
}

static void activate_tanh_for_erf(sq_backend *be, sq_tensor *y, const sq_tensor *x, sq_act act)
{
    be->ops.activate(be, y, x, act == SQ_ACT_GELU ? SQ_ACT_GELU_TANH : act);
}

static void add_last_left(sq_backend *be, sq_tensor *y, const sq_tensor *x)
{
    sq_tensor yp = *y, xp = *x;
    yp.shape[1] = xp.shape[1] = y->shape[1] - 1;
    if (yp.shape[1]) be->ops.add(be, &yp, &xp);
}

/* Of two entries of equal weight the first is taken twice. */
static void select_rows_tie(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sparse_rows *m)
{
    int32_t n = m->start[m->n_out], *index = oc_alloc(((size_t)n + 1) * sizeof *index);
    memcpy(index, m->index, (size_t)n * sizeof *index);
    for (int r = 0; r < m->n_out; r++)
        for (int32_t e = m->start[r] + 1; e < m->start[r + 1]; e++)
            if (m->weight[e] == m->weight[e - 1]) index[e] = index[e - 1];
    sparse_rows wrong = {m->n_out, m->start, index, m->weight};
    be->ops.select_rows(be, y, x, &wrong);
    free(index);
}

/* ---- attention ---- */

#define ATTN_FAULT(name, change)                                                                   \
    static void name(sq_backend *be, sq_tensor *out, const sq_tensor *q, const sq_tensor *k,       \
                     const sq_tensor *v, const attn_desc *d)                                       \
    {                                                                                              \
        attn_desc other = *d;                                                                      \
        change;                                                                                    \
        be->ops.attn(be, out, q, k, v, &other);                                                    \
    }
ATTN_FAULT(attn_unscaled, other.scale = 1)
ATTN_FAULT(attn_mask_off, other.q_pos0 = d->q_pos0 + 1)
ATTN_FAULT(attn_not_causal, other.causal = false)
ATTN_FAULT(attn_window_off, other.window = d->window ? d->window + 1 : 0)
ATTN_FAULT(attn_no_window, other.window = 0)
ATTN_FAULT(attn_last_key_left, other.n_kv = d->n_kv > 1 ? d->n_kv - 1 : 1)

/* Keys and values of head h % n_head_kv instead of h / (n_head / n_head_kv). */
static void attn_heads_mixed(sq_backend *be, sq_tensor *out, const sq_tensor *q, const sq_tensor *k,
                             const sq_tensor *v, const attn_desc *d)
{
    int64_t row = (int64_t)d->n_head * d->head_dim, group = d->n_head / d->n_head_kv;
    float *old = fetch(be, q), *mixed = fetch(be, q);
    for (int64_t i = 0; i < d->n_q; i++)
        for (int64_t h = 0; h < d->n_head; h++) {
            int64_t from = h % d->n_head_kv * group + h / d->n_head_kv;
            memcpy(mixed + i * row + from * d->head_dim, old + i * row + h * d->head_dim,
                   (size_t)d->head_dim * sizeof *old);
        }
    put_back(be, q, mixed);
    be->ops.attn(be, out, q, k, v, d);
    put_back(be, q, old);
}

/* Softmax in f32 without its maximum taken off. */
static void rows_no_max(sq_backend *be, sq_tensor *score, const sq_tensor *q, const sq_tensor *k,
                        const int32_t *row, int n_row, bool logits, const attn_desc *d)
{
    be->ops.attn_rows(be, score, q, k, row, n_row, true, d);
    if (logits) return;
    float *v = fetch(be, score);
    for (int64_t r = 0; r < (int64_t)n_row * d->n_head; r++) {
        float *p = v + r * d->n_kv, sum = 0;
        for (int j = 0; j < d->n_kv; j++)
            sum += p[j] = expf(p[j]);
        for (int j = 0; j < d->n_kv; j++)
            p[j] /= sum;
    }
    put_back(be, score, v);
}

static void attn_no_max(sq_backend *be, sq_tensor *out, const sq_tensor *q, const sq_tensor *k,
                        const sq_tensor *v, const attn_desc *d)
{
    be->ops.attn(be, out, q, k, v, d);
    if (k->dtype != SQ_DTYPE_F32) return;
    float *qh = fetch(be, q), *kh = fetch(be, k), *o = fetch(be, out), most = 0;
    int group = d->n_head / d->n_head_kv;
    for (int i = 0; i < d->n_q; i++)
        for (int h = 0; h < d->n_head; h++) {
            float s = 0; /* the score of key 0, that every query without a window sees */
            for (int c = 0; c < d->head_dim; c++)
                s += qh[(i * d->n_head + h) * d->head_dim + c] * kh[h / group * d->head_dim + c];
            most = expf(s * d->scale);
            for (int c = 0; !oc_is_finite(most) && c < d->head_dim; c++)
                o[(i * d->n_head + h) * d->head_dim + c] = NAN; /* inf / inf */
        }
    put_back(be, out, o);
    free(qh);
    free(kh);
}

static void rows_next_query(sq_backend *be, sq_tensor *score, const sq_tensor *q,
                            const sq_tensor *k, const int32_t *row, int n_row, bool logits,
                            const attn_desc *d)
{
    int32_t other[8];
    for (int i = 0; i < n_row; i++)
        other[i] = (row[i] + 1) % d->n_q;
    be->ops.attn_rows(be, score, q, k, other, n_row, logits, d);
}

static void means_swapped(sq_backend *be, sq_tensor *received, sq_tensor *given, const sq_tensor *q,
                          const sq_tensor *k, int first, bool logits, const attn_desc *d)
{
    be->ops.attn_means(be, given, received, q, k, first, logits, d);
}

static void means_with_all(sq_backend *be, sq_tensor *received, sq_tensor *given,
                           const sq_tensor *q, const sq_tensor *k, int first, bool logits,
                           const attn_desc *d)
{
    be->ops.attn_means(be, received, given, q, k, first, logits, d);
    float *v = fetch(be, received);
    float factor = (float)(d->n_kv - first) / (float)d->n_kv; /* divides by n, not n - first */
    for (int64_t i = 0; i < tensor_count(received); i++)
        v[i] *= factor;
    put_back(be, received, v);
}

/* ---- the list ---- */

typedef struct fault {
    const char *name, *slot;
    sq_ops ops; /* the one slot that is set replaces the backend's */
} fault;

static const fault faults[] = {
    {"columns off by one", "linear", {.linear = linear_column_off}},
    {"last row dropped", "linear", {.linear = linear_last_row_dropped}},
    {"a NaN in the result", "linear", {.linear = linear_nan}},
    {"written past the end", "linear", {.linear = linear_past_end}},
    {"written before the start", "linear", {.linear = linear_before_start}},
    {"input changed", "linear", {.linear = linear_input_changed}},
    {"no bias", "linear", {.linear = linear_no_bias}},
    {"result not added", "linear", {.linear = linear_no_add}},
    {"tanh for erf in linear", "linear", {.linear = linear_wrong_gelu}},
    {"relative error 2e-5", "linear", {.linear = linear_imprecise}},
    {"last product of each sum lost", "linear", {.linear = linear_lost_tail}},
    {"x cut to bf16", "linear", {.linear = linear_cut_to_bf16}},
    {"NaN hidden", "linear", {.linear = linear_nan_hidden}},
    {"NaN spreads to the next row", "linear", {.linear = linear_nan_spreads}},
    {"variance over n - 1", "layer_norm", {.layer_norm = layer_norm_scaled}},
    {"no eps", "rms_norm", {.rms_norm = rms_norm_no_eps}},
    {"pairs of the other kind", "rope", {.rope = rope_other_pairs}},
    {"position off by one", "rope", {.rope = rope_next_position}},
    {"row off by one", "kv_append", {.kv_append = kv_append_row_off}},
    {"f16 ties rounded up", "kv_append", {.kv_append = kv_append_ties_up}},
    {"next row", "embed", {.embed = embed_next_row}},
    {"red and blue swapped", "patchify", {.patchify = patchify_bands_swapped}},
    {"gate and up swapped", "silu_mul", {.silu_mul = silu_mul_no_gate}},
    {"tanh for erf", "activate", {.activate = activate_tanh_for_erf}},
    {"last value left out", "add", {.add = add_last_left}},
    {"tie to the wrong index", "select_rows", {.select_rows = select_rows_tie}},
    {"unscaled", "attn", {.attn = attn_unscaled}},
    {"mask off by one", "attn", {.attn = attn_mask_off}},
    {"no mask", "attn", {.attn = attn_not_causal}},
    {"window off by one", "attn", {.attn = attn_window_off}},
    {"no window", "attn", {.attn = attn_no_window}},
    {"last key left out", "attn", {.attn = attn_last_key_left}},
    {"heads of other groups", "attn", {.attn = attn_heads_mixed}},
    {"softmax without its maximum", "attn", {.attn = attn_no_max}},
    {"softmax without its maximum", "attn_rows", {.attn_rows = rows_no_max}},
    {"next query", "attn_rows", {.attn_rows = rows_next_query}},
    {"received and given swapped", "attn_means", {.attn_means = means_swapped}},
    {"mean over all tokens", "attn_means", {.attn_means = means_with_all}},
};

/* The table is an array of function pointers of equal size. */
static void plant(sq_ops *ops, const fault *f)
{
    const unsigned char *from = (const unsigned char *)&f->ops;
    static const unsigned char none[sizeof f->ops.linear];
    for (size_t at = 0; at < sizeof *ops; at += sizeof none)
        if (memcmp(from + at, none, sizeof none) != 0)
            memcpy((unsigned char *)ops + at, from + at, sizeof none);
}

static void check_slot(oc_run *r, const char *name)
{
    for (const oc_slot *s = oc_slots; s->name; s++)
        if (strcmp(s->name, name) == 0) s->check(r);
}

void oc_self_test(oc_run *r)
{
    long n = (long)(sizeof faults / sizeof *faults), missed = 0;
    r->quiet = r->stop_early = true;
    for (long i = 0; i < n; i++) {
        const fault *f = &faults[i];
        r->seed = 1;
        r->checks = r->failed = 0;
        r->ops = r->be->ops;
        plant(&r->ops, f);
        check_slot(r, f->slot);
        printf("%-12s %-32s %s after %ld checks%s%s\n", f->slot, f->name,
               r->failed ? "reported" : "MISSED", r->checks, r->failed ? ": " : "",
               r->failed ? r->text : "");
        missed += !r->failed;
    }
    r->checks = n;
    r->failed = missed;
}
