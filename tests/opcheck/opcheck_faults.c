/* The checker checked: wrong copies of ops are planted one at a time and each must be reported by
 * the cases of its slot. A copy calls the backend's own slot with something changed, or spoils its
 * result; device memory is touched only through write and read. */
#include "opcheck_faults.h"

#include "kernels/cpu/cpu.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- spoiling results ---- */

float *oc_fetch(sq_backend *be, const sq_tensor *t)
{
    int64_t n = tensor_count(t);
    void *raw = oc_alloc(tensor_bytes(t));
    float *host = oc_alloc((size_t)n * sizeof *host);
    be->read(be, raw, t->data, tensor_bytes(t));
    convert_to_f32(host, raw, t->dtype, n);
    free(raw);
    return host;
}

void oc_put_back(sq_backend *be, const sq_tensor *t, float *host)
{
    void *raw = oc_alloc(tensor_bytes(t));
    convert_from_f32(raw, t->dtype, host, tensor_count(t));
    be->write(be, t->data, raw, tensor_bytes(t));
    free(raw);
    free(host);
}

static void put_value(sq_backend *be, const sq_tensor *t, int64_t at, float value)
{
    unsigned char raw[4];
    int64_t item = (int64_t)dtype_row_bytes(t->dtype, 1);
    convert_from_f32(raw, t->dtype, &value, 1);
    be->write(be, (unsigned char *)t->data + at * item, raw, (size_t)item);
}

int32_t *oc_fetch_ints(sq_backend *be, const sq_tensor *t)
{
    int32_t *host = oc_alloc(tensor_bytes(t));
    be->read(be, host, t->data, tensor_bytes(t));
    return host;
}

static void ints_put(sq_backend *be, const sq_tensor *t, const int32_t *host)
{
    be->write(be, t->data, host, tensor_bytes(t));
}

#define LINEAR_FAULT(name)                                                                         \
    static void name(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,         \
                     const sq_tensor *b, const linear_desc *d)

LINEAR_FAULT(linear_column_off)
{
    be->ops.linear(be, y, x, w, b, d);
    int64_t cols = y->shape[1];
    float *v = oc_fetch(be, y);
    for (int64_t r = 0; r < y->shape[0]; r++)
        memmove(v + r * cols, v + r * cols + 1, (size_t)(cols - 1) * sizeof *v);
    oc_put_back(be, y, v);
}

LINEAR_FAULT(linear_last_row_dropped)
{
    int64_t cols = y->shape[1], last = (y->shape[0] - 1) * cols;
    float *old = oc_fetch(be, y), *v;
    be->ops.linear(be, y, x, w, b, d);
    v = oc_fetch(be, y);
    memcpy(v + last, old + last, (size_t)cols * sizeof *v);
    free(old);
    oc_put_back(be, y, v);
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
    float *v = oc_fetch(be, y);
    for (int64_t i = 0; i < tensor_count(y); i++)
        v[i] *= 1.00002f;
    oc_put_back(be, y, v);
}

/* One product of the sum is lost: the last of every row. */
LINEAR_FAULT(linear_lost_tail)
{
    int64_t in = x->shape[1];
    float *old = oc_fetch(be, x), *v = oc_fetch(be, x);
    for (int64_t r = 0; r < x->shape[0]; r++)
        v[r * in + in - 1] = 0;
    oc_put_back(be, x, v);
    be->ops.linear(be, y, x, w, b, d);
    oc_put_back(be, x, old);
}

/* x cut to bf16 where f32 is asked for; with bf16 compute cut instead of rounded. */
LINEAR_FAULT(linear_cut_to_bf16)
{
    float *old = oc_fetch(be, x), *v = oc_fetch(be, x);
    for (int64_t i = 0; i < tensor_count(x); i++) {
        uint32_t u;
        memcpy(&u, v + i, sizeof u);
        u &= 0xffff0000u;
        memcpy(v + i, &u, sizeof u);
    }
    oc_put_back(be, x, v);
    be->ops.linear(be, y, x, w, b, d);
    oc_put_back(be, x, old);
}

/* In f32 where bf16 is asked for. */
LINEAR_FAULT(linear_not_in_bf16)
{
    linear_ref(be, y, x, w, b, d);
}

LINEAR_FAULT(linear_nan_hidden)
{
    be->ops.linear(be, y, x, w, b, d);
    float *v = oc_fetch(be, y);
    for (int64_t i = 0; i < tensor_count(y); i++)
        if (!oc_is_finite(v[i])) v[i] = 0;
    oc_put_back(be, y, v);
}

LINEAR_FAULT(linear_nan_spreads)
{
    be->ops.linear(be, y, x, w, b, d);
    int64_t cols = y->shape[1];
    float *v = oc_fetch(be, y);
    for (int64_t i = tensor_count(y) - 1; i >= cols; i--)
        if (oc_is_nan(v[i - cols])) v[i] = NAN;
    oc_put_back(be, y, v);
}

static void layer_norm_scaled(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                              const sq_tensor *b, float eps)
{
    be->ops.layer_norm(be, y, x, w, b, eps);
    double n = (double)x->shape[1];
    float *v = oc_fetch(be, y),
          factor = n > 1 ? (float)sqrt((n - 1) / n) : 1; /* variance over n - 1 */
    for (int64_t i = 0; i < tensor_count(y); i++)
        v[i] *= factor;
    oc_put_back(be, y, v);
}

static void rms_norm_no_eps(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                            float eps)
{
    (void)eps;
    be->ops.rms_norm(be, y, x, w, 0);
}

#define ROPE_FAULT(name)                                                                           \
    static void name(sq_backend *be, sq_tensor *q, sq_tensor *k, const sq_tensor *v,               \
                     sq_tensor *cache_k, sq_tensor *cache_v, int at, const sq_tensor *pos,         \
                     const rope_desc *d)

ROPE_FAULT(rope_other_pairs)
{
    rope_desc other = *d;
    other.interleaved = !d->interleaved;
    be->ops.rope_append(be, q, k, v, cache_k, cache_v, at, pos, &other);
}

ROPE_FAULT(rope_next_position)
{
    int32_t *old = oc_fetch_ints(be, pos), *p = oc_fetch_ints(be, pos);
    for (int64_t i = 0; i < pos->shape[0]; i++)
        p[i]++;
    ints_put(be, pos, p);
    be->ops.rope_append(be, q, k, v, cache_k, cache_v, at, pos, d);
    ints_put(be, pos, old);
    free(old);
    free(p);
}

/* Queries take the first positions, not the last. */
ROPE_FAULT(rope_first_positions)
{
    sq_tensor none_k = *k, none_v = *v, first = *pos;
    none_k.shape[0] = none_v.shape[0] = first.shape[0] = q->shape[0];
    be->ops.rope_append(be, q, &none_k, &none_v, cache_k, cache_v, at, &first, d);
    sq_tensor rest_k = tensor_rows(k, q->shape[0], k->shape[0] - q->shape[0]);
    sq_tensor rest_v = tensor_rows(v, q->shape[0], k->shape[0] - q->shape[0]), rest = *pos, no = *q;
    if (!rest_k.shape[0]) return;
    rest.data = (int32_t *)pos->data + q->shape[0];
    rest.shape[0] = rest_k.shape[0];
    no.shape[0] = 0;
    be->ops.rope_append(be, &no, &rest_k, &rest_v, cache_k, cache_v, at + (int)q->shape[0], &rest,
                        d);
}

ROPE_FAULT(rope_row_off)
{
    bool room = at + 1 + k->shape[0] <= cache_k->shape[0];
    be->ops.rope_append(be, q, k, v, cache_k, cache_v, at + (room ? 1 : 0), pos, d);
}

ROPE_FAULT(rope_caches_swapped)
{
    be->ops.rope_append(be, q, k, v, cache_v, cache_k, at, pos, d);
}

/* Ties of f16 rounding go up instead of to even. */
ROPE_FAULT(rope_ties_up)
{
    float *old = oc_fetch(be, v), *up = oc_fetch(be, v);
    for (int64_t i = 0; cache_v->dtype == SQ_DTYPE_F16 && i < tensor_count(v); i++)
        up[i] = nextafterf(up[i], INFINITY);
    oc_put_back(be, v, up);
    be->ops.rope_append(be, q, k, v, cache_k, cache_v, at, pos, d);
    oc_put_back(be, v, old);
}

/* ---- other rows ---- */

static void embed_next_row(sq_backend *be, sq_tensor *y, const sq_tensor *w, const sq_tensor *ids)
{
    int32_t *old = oc_fetch_ints(be, ids), *other = oc_fetch_ints(be, ids);
    for (int64_t i = 0; i < ids->shape[0]; i++)
        other[i] = (other[i] + 1) % (int32_t)w->shape[0];
    ints_put(be, ids, other);
    be->ops.embed(be, y, w, ids);
    ints_put(be, ids, old);
    free(old);
    free(other);
}

static void patchify_bands_swapped(sq_backend *be, sq_tensor *y, const sq_tensor *x,
                                   const sq_tensor *level, int patch)
{
    be->ops.patchify(be, y, x, level, patch);
    float *v = oc_fetch(be, y);
    int64_t plane = (int64_t)patch * patch;
    for (int64_t i = 0; i < y->shape[0]; i++)
        for (int64_t k = 0; k < plane; k++) {
            float *row = v + i * y->shape[1], red = row[k];
            row[k] = row[2 * plane + k];
            row[2 * plane + k] = red;
        }
    oc_put_back(be, y, v);
}

/* The columns behind the patch keep what was there. */
static void patchify_no_zeros(sq_backend *be, sq_tensor *y, const sq_tensor *x,
                              const sq_tensor *level, int patch)
{
    float *old = oc_fetch(be, y);
    be->ops.patchify(be, y, x, level, patch);
    float *v = oc_fetch(be, y);
    for (int64_t i = 0; i < tensor_count(y); i++)
        if (i % y->shape[1] >= 3 * patch * patch) v[i] = old[i];
    oc_put_back(be, y, v);
    free(old);
}

/* Every view is the first one. */
static void patchify_one_view(sq_backend *be, sq_tensor *y, const sq_tensor *x,
                              const sq_tensor *level, int patch)
{
    sq_tensor first = *x;
    first.shape[0] = 1;
    int64_t n = y->shape[0] / x->shape[0];
    for (int64_t i = 0; i < x->shape[0]; i++) {
        sq_tensor part = tensor_rows(y, i * n, n);
        be->ops.patchify(be, &part, &first, level, patch);
    }
}

/* The levels of red for all channels. */
static void patchify_one_level(sq_backend *be, sq_tensor *y, const sq_tensor *x,
                               const sq_tensor *level, int patch)
{
    float *old = level ? oc_fetch(be, level) : NULL, *same = level ? oc_fetch(be, level) : NULL;
    for (int i = 256; level && i < 3 * 256; i++)
        same[i] = same[i % 256];
    if (level) oc_put_back(be, level, same);
    be->ops.patchify(be, y, x, level, patch);
    if (level) oc_put_back(be, level, old);
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
    float *old = oc_fetch(be, y), *v;
    be->ops.add(be, y, x);
    v = oc_fetch(be, y);
    v[tensor_count(y) - 1] = old[tensor_count(y) - 1];
    free(old);
    oc_put_back(be, y, v);
}

/* Rows of x are used up once: the rest of y gets the last one. */
static void add_not_repeated(sq_backend *be, sq_tensor *y, const sq_tensor *x)
{
    int64_t n = x->shape[0];
    sq_tensor last = tensor_rows(x, n - 1, 1), head = tensor_rows(y, 0, n);
    be->ops.add(be, &head, x);
    if (y->shape[0] == n) return;
    sq_tensor rest = tensor_rows(y, n, y->shape[0] - n);
    be->ops.add(be, &rest, &last);
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

static void argmax_last_of_equals(sq_backend *be, sq_tensor *best, sq_tensor *gap,
                                  const sq_tensor *x)
{
    be->ops.argmax(be, best, gap, x);
    int32_t *at = oc_fetch_ints(be, best);
    float *v = oc_fetch(be, x);
    int64_t dim = x->shape[1];
    for (int64_t i = 0; i < x->shape[0]; i++)
        for (int32_t k = at[i]; at[i] >= 0 && k < dim; k++)
            if (v[i * dim + k] == v[i * dim + at[i]]) at[i] = k;
    ints_put(be, best, at);
    free(at);
    free(v);
}

/* One bit too large. */
static void argmax_other_gap(sq_backend *be, sq_tensor *best, sq_tensor *gap, const sq_tensor *x)
{
    be->ops.argmax(be, best, gap, x);
    float *v = oc_fetch(be, gap);
    for (int64_t i = 0; i < tensor_count(gap); i++)
        v[i] *= 1.0000002f;
    oc_put_back(be, gap, v);
}

static void argmax_nan_hidden(sq_backend *be, sq_tensor *best, sq_tensor *gap, const sq_tensor *x)
{
    be->ops.argmax(be, best, gap, x);
    int32_t *at = oc_fetch_ints(be, best);
    for (int64_t i = 0; i < x->shape[0]; i++)
        at[i] = at[i] < 0 ? 0 : at[i];
    ints_put(be, best, at);
    free(at);
}

static void many_first_bias(sq_backend *be, sq_tensor *const y[], const sq_tensor *x,
                            const sq_tensor *const w[], const sq_tensor *const b[], int n)
{
    const sq_tensor *other[] = {b[0], NULL, NULL};
    be->ops.linear_many(be, y, x, w, other, n);
}

static void many_one_left(sq_backend *be, sq_tensor *const y[], const sq_tensor *x,
                          const sq_tensor *const w[], const sq_tensor *const b[], int n)
{
    be->ops.linear_many(be, y, x, w, b, n > 1 ? n - 1 : n);
}

static void gated_swapped(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *gate,
                          const sq_tensor *up, sq_tensor *scratch)
{
    be->ops.linear_gated(be, y, x, up, gate, scratch);
}

/* What large gates give is another, by one part in 8 where 16 bits allow one in 100. */
static void gated_large_off(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *gate,
                            const sq_tensor *up, sq_tensor *scratch)
{
    const linear_desc d = {SQ_ACT_NONE, false};
    sq_tensor g = tensor_rows(scratch, 0, x->shape[0]);
    be->ops.linear_gated(be, y, x, gate, up, scratch);
    be->ops.linear(be, &g, x, gate, NULL, &d);
    float *gates = oc_fetch(be, &g), *v = oc_fetch(be, y);
    for (int64_t i = 0; i < tensor_count(y); i++)
        if (gates[i] > 1500) v[i] *= 1.125f;
    oc_put_back(be, y, v);
    free(gates);
}

/* What lies behind scratch is used too. */
static void gated_past_scratch(sq_backend *be, sq_tensor *y, const sq_tensor *x,
                               const sq_tensor *gate, const sq_tensor *up, sq_tensor *scratch)
{
    be->ops.linear_gated(be, y, x, gate, up, scratch);
    put_value(be, scratch, tensor_count(scratch), 0);
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
ATTN_FAULT(attn_last_key_left, other.n_kv = d->n_kv > 1 && d->n_seq < 2 ? d->n_kv - 1 : d->n_kv)

/* Every sequence attends to the keys and values of the first. */
static void attn_first_keys(sq_backend *be, sq_tensor *out, const sq_tensor *q, const sq_tensor *k,
                            const sq_tensor *v, const attn_desc *d)
{
    attn_desc one = *d;
    one.n_seq = 1;
    for (int64_t s = 0; s < (d->n_seq > 1 ? d->n_seq : 1); s++) {
        sq_tensor ys = tensor_rows(out, s * d->n_q, d->n_q),
                  qs = tensor_rows(q, s * d->n_q, d->n_q);
        be->ops.attn(be, &ys, &qs, k, v, &one);
    }
}

/* Keys and values of head h % n_head_kv instead of h / (n_head / n_head_kv). */
static void attn_heads_mixed(sq_backend *be, sq_tensor *out, const sq_tensor *q, const sq_tensor *k,
                             const sq_tensor *v, const attn_desc *d)
{
    int64_t row = (int64_t)d->n_head * d->head_dim, group = d->n_head / d->n_head_kv;
    float *old = oc_fetch(be, q), *mixed = oc_fetch(be, q);
    for (int64_t i = 0; i < q->shape[0]; i++)
        for (int64_t h = 0; h < d->n_head; h++) {
            int64_t from = h % d->n_head_kv * group + h / d->n_head_kv;
            memcpy(mixed + i * row + from * d->head_dim, old + i * row + h * d->head_dim,
                   (size_t)d->head_dim * sizeof *old);
        }
    oc_put_back(be, q, mixed);
    be->ops.attn(be, out, q, k, v, d);
    oc_put_back(be, q, old);
}

/* Softmax in f32 without its maximum taken off. */
static void rows_no_max(sq_backend *be, sq_tensor *score, const sq_tensor *q, const sq_tensor *k,
                        const int32_t *row, int n_row, bool logits, const attn_desc *d)
{
    be->ops.attn_rows(be, score, q, k, row, n_row, true, d);
    if (logits) return;
    float *v = oc_fetch(be, score);
    for (int64_t r = 0; r < tensor_count(score) / d->n_kv; r++) {
        float *p = v + r * d->n_kv, sum = 0;
        for (int j = 0; j < d->n_kv; j++)
            sum += p[j] = expf(p[j]);
        for (int j = 0; j < d->n_kv; j++)
            p[j] /= sum;
    }
    oc_put_back(be, score, v);
}

static void attn_no_max(sq_backend *be, sq_tensor *out, const sq_tensor *q, const sq_tensor *k,
                        const sq_tensor *v, const attn_desc *d)
{
    be->ops.attn(be, out, q, k, v, d);
    if (d->n_seq > 1) return;
    float *qh = oc_fetch(be, q), *kh = oc_fetch(be, k), *o = oc_fetch(be, out), most = 0;
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
    oc_put_back(be, out, o);
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
    float *v = oc_fetch(be, received);
    float factor = (float)(d->n_kv - first) / (float)d->n_kv; /* divides by n, not n - first */
    for (int64_t i = 0; i < tensor_count(received); i++)
        v[i] *= factor;
    oc_put_back(be, received, v);
}

/* Several sequences: the first one's scores again and again. */
static void rows_one_sequence(sq_backend *be, sq_tensor *score, const sq_tensor *q,
                              const sq_tensor *k, const int32_t *row, int n_row, bool logits,
                              const attn_desc *d)
{
    be->ops.attn_rows(be, score, q, k, row, n_row, logits, d);
    float *v = oc_fetch(be, score);
    int64_t one = (int64_t)n_row * d->n_head * d->n_kv;
    for (int64_t i = one; i < tensor_count(score); i++)
        v[i] = v[i - one];
    oc_put_back(be, score, v);
}

/* Several sequences: one mean over all. */
static void means_one_sequence(sq_backend *be, sq_tensor *received, sq_tensor *given,
                               const sq_tensor *q, const sq_tensor *k, int first, bool logits,
                               const attn_desc *d)
{
    be->ops.attn_means(be, received, given, q, k, first, logits, d);
    float *v = oc_fetch(be, given);
    int64_t m = d->n_kv - first;
    for (int64_t i = m; i < tensor_count(given); i++)
        v[i] = v[i - m];
    oc_put_back(be, given, v);
}

/* ---- the decode step ---- */

#define STEP_FAULT(name)                                                                           \
    static void name(sq_backend *be, sq_tensor *out, sq_tensor *q, sq_tensor *k,                   \
                     const sq_tensor *v, const kv_step *s, const rope_desc *r, const attn_desc *d)

/* Positions, or lengths, of all sequences become those of the first. */
static void step_with_first(sq_backend *be, sq_tensor *out, sq_tensor *q, sq_tensor *k,
                            const sq_tensor *v, const kv_step *s, const rope_desc *r,
                            const attn_desc *d, const sq_tensor *ints)
{
    int32_t *old = oc_fetch_ints(be, ints), *same = oc_fetch_ints(be, ints);
    for (int i = 0; i < s->n_seq; i++)
        if (ints == s->pos || old[0] <= old[i]) same[i] = old[0];
    ints_put(be, ints, same);
    be->ops.attn_step(be, out, q, k, v, s, r, d);
    ints_put(be, ints, old);
    free(old);
    free(same);
}

STEP_FAULT(step_one_position)
{
    step_with_first(be, out, q, k, v, s, r, d, s->pos);
}

STEP_FAULT(step_one_length)
{
    step_with_first(be, out, q, k, v, s, r, d, s->len);
}

STEP_FAULT(step_window_off)
{
    attn_desc other = *d;
    other.window = d->window ? d->window + 1 : 0;
    be->ops.attn_step(be, out, q, k, v, s, r, &other);
}

STEP_FAULT(step_no_window)
{
    attn_desc other = *d;
    other.window = 0;
    be->ops.attn_step(be, out, q, k, v, s, r, &other);
}

STEP_FAULT(step_other_pairs)
{
    rope_desc other = *r;
    other.interleaved = !r->interleaved;
    be->ops.attn_step(be, out, q, k, v, s, &other, d);
}

/* The new value counts as 0. */
STEP_FAULT(step_value_lost)
{
    float *old = oc_fetch(be, v), *zero = oc_fetch(be, v);
    for (int64_t i = 0; i < tensor_count(v); i++)
        zero[i] = 0;
    oc_put_back(be, v, zero);
    be->ops.attn_step(be, out, q, k, v, s, r, d);
    oc_put_back(be, v, old);
}

STEP_FAULT(step_cache_not_written)
{
    float *old = oc_fetch(be, s->v[0]);
    be->ops.attn_step(be, out, q, k, v, s, r, d);
    oc_put_back(be, s->v[0], old);
}

/* ---- the list ---- */

static const oc_fault faults[] = {
    {"columns off by one", "linear", {.linear = linear_column_off}},
    {"last row dropped", "linear", {.linear = linear_last_row_dropped}},
    {"a NaN in the result", "linear", {.linear = linear_nan}},
    {"written past the end", "linear", {.linear = linear_past_end}},
    {"written before the start", "linear", {.linear = linear_before_start}},
    {"input changed", "linear", {.linear = linear_input_changed}},
    {"no bias", "linear", {.linear = linear_no_bias}},
    {"result not added", "linear", {.linear = linear_no_add}},
    {"tanh for erf in linear", "linear", {.linear = linear_wrong_gelu}},
    {"relative error 2e-5", "linear", {.linear = linear_imprecise}, true},
    {"last product of each sum lost", "linear", {.linear = linear_lost_tail}},
    {"x cut to bf16", "linear", {.linear = linear_cut_to_bf16}, true},
    {"in f32 unnoticed", "linear", {.linear = linear_not_in_bf16}, .bf16 = true},
    {"NaN hidden", "linear", {.linear = linear_nan_hidden}},
    {"NaN spreads to the next row", "linear", {.linear = linear_nan_spreads}},
    {"variance over n - 1", "layer_norm", {.layer_norm = layer_norm_scaled}},
    {"no eps", "rms_norm", {.rms_norm = rms_norm_no_eps}},
    {"second bias forgotten", "linear_many", {.linear_many = many_first_bias}},
    {"last product left out", "linear_many", {.linear_many = many_one_left}},
    {"gate and up swapped", "linear_gated", {.linear_gated = gated_swapped}},
    {"large gates off", "linear_gated", {.linear_gated = gated_large_off}},
    {"written past scratch", "linear_gated", {.linear_gated = gated_past_scratch}},
    {"pairs of the other kind", "rope_append", {.rope_append = rope_other_pairs}},
    {"position off by one", "rope_append", {.rope_append = rope_next_position}},
    {"first positions for queries", "rope_append", {.rope_append = rope_first_positions}},
    {"row off by one", "rope_append", {.rope_append = rope_row_off}},
    {"caches swapped", "rope_append", {.rope_append = rope_caches_swapped}},
    {"f16 ties rounded up", "rope_append", {.rope_append = rope_ties_up}, true},
    {"next row", "embed", {.embed = embed_next_row}},
    {"red and blue swapped", "patchify", {.patchify = patchify_bands_swapped}},
    {"no zeros behind it", "patchify", {.patchify = patchify_no_zeros}},
    {"first view for all", "patchify", {.patchify = patchify_one_view}},
    {"levels of red for all", "patchify", {.patchify = patchify_one_level}},
    {"gate and up swapped", "silu_mul", {.silu_mul = silu_mul_no_gate}},
    {"tanh for erf", "activate", {.activate = activate_tanh_for_erf}},
    {"last value left out", "add", {.add = add_last_left}},
    {"rows of x used once", "add", {.add = add_not_repeated}},
    {"last of equals", "argmax", {.argmax = argmax_last_of_equals}},
    {"gap of one more bit", "argmax", {.argmax = argmax_other_gap}},
    {"NaN hidden", "argmax", {.argmax = argmax_nan_hidden}},
    {"tie to the wrong index", "select_rows", {.select_rows = select_rows_tie}},
    {"unscaled", "attn", {.attn = attn_unscaled}},
    {"mask off by one", "attn", {.attn = attn_mask_off}},
    {"no mask", "attn", {.attn = attn_not_causal}},
    {"window off by one", "attn", {.attn = attn_window_off}},
    {"no window", "attn", {.attn = attn_no_window}},
    {"last key left out", "attn", {.attn = attn_last_key_left}},
    {"heads of other groups", "attn", {.attn = attn_heads_mixed}},
    {"softmax without its maximum", "attn", {.attn = attn_no_max}},
    {"keys of the first sequence", "attn", {.attn = attn_first_keys}},
    {"position of the first", "attn_step", {.attn_step = step_one_position}},
    {"length of the first", "attn_step", {.attn_step = step_one_length}},
    {"window off by one", "attn_step", {.attn_step = step_window_off}},
    {"no window", "attn_step", {.attn_step = step_no_window}},
    {"pairs of the other kind", "attn_step", {.attn_step = step_other_pairs}},
    {"new value lost", "attn_step", {.attn_step = step_value_lost}},
    {"cache not written", "attn_step", {.attn_step = step_cache_not_written}},
    {"softmax without its maximum", "attn_rows", {.attn_rows = rows_no_max}},
    {"next query", "attn_rows", {.attn_rows = rows_next_query}},
    {"received and given swapped", "attn_means", {.attn_means = means_swapped}},
    {"mean over all tokens", "attn_means", {.attn_means = means_with_all}},
    {"first sequence for all", "attn_rows", {.attn_rows = rows_one_sequence}},
    {"first sequence for all", "attn_means", {.attn_means = means_one_sequence}},
    {NULL},
};

/* The table is an array of function pointers of equal size. */
static void plant(sq_ops *ops, const oc_fault *f)
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

/* Runs the cases with the fault; true when one of them failed. */
static bool reported(oc_run *r, const oc_fault *f)
{
    sq_backend *be = r->be, real = *be;
    r->seed = 1;
    r->checks = r->failed = 0;
    plant(&r->ops, f);
    if (f->plant) f->plant(r);
    if (f->check)
        f->check(r);
    else
        check_slot(r, f->slot);
    r->ops = be->ops;
    r->region = be->region;
    be->write = real.write;
    be->read = real.read;
    be->convert = real.convert;
    printf("%-12s %-32s %s after %ld checks%s%s\n", f->slot, f->name,
           r->failed ? "reported" : "MISSED", r->checks, r->failed ? ": " : "",
           r->failed ? r->text : "");
    return r->failed;
}

void oc_self_test(oc_run *r)
{
    const oc_fault *const list[] = {faults, oc_long_faults};
    long n = 0, missed = 0;
    r->quiet = r->stop_early = true;
    for (int i = 0; i < 2; i++)
        for (const oc_fault *f = list[i]; f->name; f++) {
            if ((f->f32 && r->unit > 0) || (f->bf16 && !r->bf16) || (f->device && !r->be->resident))
                continue;
            missed += !reported(r, f);
            n++;
        }
    r->checks = n;
    r->failed = missed;
    r->left_out = 0;
}
