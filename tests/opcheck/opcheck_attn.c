/* Cases of attention: causal and not, grouped heads, windows, positions, several sequences, 16-bit
 * keys and values, peaky and equal scores, rows behind the last key that must not be read. */
#include "opcheck.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Sharpness of the softmax by what q is multiplied with. */
typedef enum q_kind { Q_FLAT, Q_PEAKY, Q_HUGE, Q_ZERO, Q_TIES } q_kind;

typedef struct attn_case {
    attn_desc d;
    q_kind q;
    sq_dtype kv;
    int spare;               /* rows of NaN behind the last key */
    int nan_q, nan_k, nan_v; /* row of the last sequence with a NaN, -1: none */
    int nan_keys;            /* that many first rows of k hold NaN */
    bool repeated;           /* see content_of */
} attn_case;

typedef struct attn_bufs {
    oc_buf *q, *k, *v;
} attn_bufs;

/* What the reference gets. */
typedef struct attn_data {
    attn_desc d;
    sq_tensor q, k, v;
} attn_data;

static int n_seq(const attn_case *c)
{
    return c->d.n_seq > 1 ? c->d.n_seq : 1;
}

static oc_buf *make_kv(oc_run *r, const attn_case *c, oc_fill fill)
{
    int64_t dim = (int64_t)c->d.n_head_kv * c->d.head_dim, rows = (int64_t)n_seq(c) * c->d.n_kv;
    oc_buf *b = oc_typed(r, c->kv, rows + c->spare, dim, fill);
    oc_put_nan(&b->host, rows);
    return b;
}

static attn_bufs make_inputs(oc_run *r, const attn_case *c, bool values)
{
    static const float factor[] = {1, 12, 4000, 0, 1};
    attn_bufs b = {0};
    oc_fill fill = c->q == Q_TIES ? OC_TIES : OC_RANDOM;
    int64_t q_dim = (int64_t)c->d.n_head * c->d.head_dim, last = n_seq(c) - 1;
    int64_t kv_dim = (int64_t)c->d.n_head_kv * c->d.head_dim, kv0 = last * c->d.n_kv;
    b.q = oc_in(r, r->act, (int64_t)n_seq(c) * c->d.n_q, q_dim, fill);
    for (int64_t i = 0, n = tensor_count(&b.q->host); i < n; i++)
        oc_values(b.q)[i] *= factor[c->q];
    b.k = make_kv(r, c, fill);
    if (values) b.v = make_kv(r, c, c->q == Q_PEAKY ? OC_WIDE : OC_RANDOM);
    int64_t head = c->d.n_head / 2 * c->d.head_dim, kv_head = c->d.n_head_kv / 2 * c->d.head_dim;
    if (c->nan_q >= 0) oc_put(&b.q->host, (last * c->d.n_q + c->nan_q) * q_dim + head, NAN);
    if (c->nan_k >= 0) oc_put(&b.k->host, (kv0 + c->nan_k) * kv_dim + kv_head, NAN);
    for (int64_t j = 0; j < c->nan_keys; j++)
        oc_put(&b.k->host, (kv0 + j) * kv_dim + kv_head, NAN);
    if (c->nan_v >= 0) oc_put(&b.v->host, (kv0 + c->nan_v) * kv_dim + kv_head, NAN);
    return b;
}

/* bound[n_seq,n_q,n_head] = 1 + the largest logit by Cauchy and Schwarz, after the upload. */
static double *make_bounds(const attn_data *a)
{
    const attn_desc *d = &a->d;
    int group = d->n_head / d->n_head_kv, count = d->n_seq > 1 ? d->n_seq : 1;
    float *k = oc_floats(&a->k), *q = oc_floats(&a->q);
    double *bound = oc_alloc((size_t)count * (size_t)(d->n_q * d->n_head) * sizeof *bound);
    double *to = bound, k_max[64];
    for (int64_t s = 0; s < count; s++) {
        for (int64_t h = 0; h < d->n_head_kv; h++) {
            k_max[h] = 0;
            for (int64_t j = s * d->n_kv; j < (s + 1) * d->n_kv; j++)
                k_max[h] =
                    fmax(k_max[h], oc_norm(k + (j * d->n_head_kv + h) * d->head_dim, d->head_dim));
        }
        for (int64_t i = s * d->n_q; i < (s + 1) * d->n_q; i++)
            for (int64_t h = 0; h < d->n_head; h++)
                *to++ = 1 + (double)d->scale * k_max[h / group] *
                                oc_norm(q + (i * d->n_head + h) * d->head_dim, d->head_dim);
    }
    free(k);
    free(q);
    return bound;
}

static void describe(const attn_case *c, char *text, size_t size)
{
    static const char *const kind[] = {"flat", "peaky", "huge", "zero", "ties"};
    const attn_desc *d = &c->d;
    snprintf(text, size,
             "%d of %dx%d heads %d/%d of %d%s pos %d window %d q %s kv %s nan %d %d %d%s", n_seq(c),
             d->n_q, d->n_kv, d->n_head, d->n_head_kv, d->head_dim, d->causal ? " causal" : "",
             d->q_pos0, d->window, kind[c->q], dtype_name(c->kv), c->nan_q, c->nan_k, c->nan_v,
             c->repeated ? " repeated" : "");
}

/* The reference on keys and values rounded to `t`; on absolute values if asked for. */
static float *result_of(oc_run *r, const attn_data *a, sq_dtype t, bool absolute)
{
    const sq_tensor *from[] = {&a->k, &a->v};
    sq_tensor kv[2], out = a->q;
    for (int i = 0; i < 2; i++) {
        float *to = oc_floats(from[i]);
        for (int64_t k = 0, n = tensor_count(from[i]); k < n; k++) {
            to[k] = oc_round(to[k], t);
            if (absolute && i) to[k] = fabsf(to[k]);
        }
        kv[i] = tensor_2d(to, SQ_DTYPE_F32, from[i]->shape[0], from[i]->shape[1]);
    }
    float *result = out.data = oc_alloc(tensor_bytes(&out));
    r->ref.attn(r->ref_be, &out, &a->q, &kv[0], &kv[1], &a->d);
    free(kv[0].data);
    free(kv[1].data);
    return result;
}

/* Many sequences and heads that hold REPEAT contents, in an order that no power of two divides: a
 * device gets as many as an engine gives it, the reference a sequence of one key head of each. */
enum { REPEAT = 5 };

static int64_t content_of(int64_t seq, int64_t head_kv)
{
    return (3 * seq + head_kv) % REPEAT;
}

/* to[n_seq,n,n_head_kv] = from[REPEAT,n], pieces of `size` bytes. */
static void spread(const attn_case *c, void *to, const void *from, int64_t n, size_t size)
{
    unsigned char *at = to;
    for (int64_t s = 0; s < n_seq(c); s++)
        for (int64_t i = 0; i < n; i++)
            for (int64_t h = 0; h < c->d.n_head_kv; h++, at += size)
                memcpy(at, (const char *)from + (size_t)(content_of(s, h) * n + i) * size, size);
}

static sq_tensor make_content(oc_run *r, sq_dtype t, int64_t rows, int64_t cols, float factor)
{
    sq_tensor x =
        tensor_2d(oc_alloc((size_t)(rows * cols) * sizeof(float)), SQ_DTYPE_F32, rows, cols);
    float *values = x.data;
    for (int64_t i = 0; i < rows * cols; i++)
        values[i] = oc_round(factor * (float)oc_uniform(r), t);
    return x;
}

static attn_data make_repeated(oc_run *r, const attn_case *c, attn_bufs *b)
{
    attn_data a = {.d = c->d};
    int64_t dim = c->d.head_dim, rows = (int64_t)n_seq(c) * c->d.n_kv;
    a.d.n_seq = REPEAT;
    a.d.n_head = c->d.n_head / c->d.n_head_kv;
    a.d.n_head_kv = 1;
    a.q = make_content(r, r->act, REPEAT * (int64_t)c->d.n_q, a.d.n_head * dim,
                       c->q == Q_PEAKY ? 12.0f : 1.0f);
    b->q = oc_in(r, r->act, (int64_t)n_seq(c) * c->d.n_q, c->d.n_head * dim, OC_LATER);
    spread(c, b->q->host.data, a.q.data, c->d.n_q, (size_t)(a.d.n_head * dim) * sizeof(float));
    for (int i = 0; i < 2; i++) {
        sq_tensor *t = i ? &a.v : &a.k;
        *t = make_content(r, c->kv, REPEAT * (int64_t)c->d.n_kv, dim, 1);
        oc_buf *to = oc_typed(r, c->kv, rows + c->spare, c->d.n_head_kv * dim, OC_LATER);
        size_t size = dtype_row_bytes(c->kv, dim);
        unsigned char *stored = oc_alloc((size_t)t->shape[0] * size);
        convert_from_f32(stored, c->kv, t->data, tensor_count(t));
        spread(c, to->host.data, stored, c->d.n_kv, size);
        oc_put_nan(&to->host, rows);
        *(i ? &b->v : &b->k) = to;
        free(stored);
    }
    return a;
}

/* From values of the reference's size, freed, to values of the case's. */
static void *fit(const attn_case *c, void *from, size_t item)
{
    if (!c->repeated) return from;
    size_t row = (size_t)c->d.n_head * (size_t)c->d.head_dim * item;
    void *to = oc_alloc((size_t)n_seq(c) * (size_t)c->d.n_q * row);
    spread(c, to, from, c->d.n_q, row / (size_t)c->d.n_head_kv);
    free(from);
    return to;
}

/* The reference's result in y, its limits; returns the other result that is right, or NULL. */
static float *attn_want(oc_run *r, const attn_case *c, const attn_data *a, oc_buf *y)
{
    int64_t n = tensor_count(&a->q);
    double v_max = oc_largest(&a->v), *bound = make_bounds(a);
    double *scale = oc_alloc((size_t)n * sizeof *scale);
    double *slack = oc_alloc((size_t)n * sizeof *slack);
    float *sums = r->unit > 0 ? result_of(r, a, SQ_DTYPE_F32, true) : NULL; /* sum p |v| */
    for (int64_t i = 0; i < n; i++) {
        scale[i] = v_max * bound[i / a->d.head_dim];
        slack[i] = sums ? r->unit * (double)sums[i] + oc_least(r->act) * a->d.n_kv * v_max : 0;
    }
    float *want = fit(c, result_of(r, a, SQ_DTYPE_F32, false), sizeof *want);
    memcpy(y->want.data, want, tensor_bytes(&y->want));
    y->scale = fit(c, scale, sizeof *scale);
    y->slack = fit(c, slack, sizeof *slack);
    free(want);
    free(bound);
    free(sums);
    bool rounds = r->unit > 0 && c->kv != r->act;
    return rounds ? fit(c, result_of(r, a, r->act, false), sizeof(float)) : NULL;
}

/* Multiply-adds of the op. */
static double attn_cost(const attn_case *c)
{
    double keys = c->d.window && c->d.window < c->d.n_kv ? c->d.window : c->d.n_kv;
    return 2.0 * n_seq(c) * c->d.n_head * c->d.n_q * keys * c->d.head_dim;
}

static void attn_run(oc_run *r, const attn_case *c)
{
    char text[200];
    describe(c, text, sizeof text);
    if (oc_costs_too_much(r, attn_cost(c)) || !oc_begin(r, "attn", "%s", text)) return;
    attn_bufs b;
    attn_data a = {.d = c->d};
    if (c->repeated)
        a = make_repeated(r, c, &b);
    else
        b = make_inputs(r, c, true);
    oc_buf *y = oc_out(r, r->act, b.q->host.shape[0], b.q->host.shape[1]);
    oc_upload(r);
    if (!c->repeated) a.q = b.q->host, a.k = b.k->host, a.v = b.v->host;
    r->ops.attn(r->be, &y->dev, &b.q->dev, &b.k->dev, &b.v->dev, &c->d);
    float *rounded = attn_want(r, c, &a, y);
    oc_end_either(r, y, rounded);
    free(rounded);
    if (!c->repeated) return;
    free(a.q.data);
    free(a.k.data);
    free(a.v.data);
}

static attn_case case_of(const oc_run *r, int n_q, int n_kv, int n_head, int n_head_kv,
                         int head_dim)
{
    return (attn_case){.d = {.n_q = n_q,
                             .n_kv = n_kv,
                             .n_head = n_head,
                             .n_head_kv = n_head_kv,
                             .head_dim = head_dim,
                             .scale = 1 / sqrtf((float)head_dim)},
                       .kv = r->act,
                       .nan_q = -1,
                       .nan_k = -1,
                       .nan_v = -1};
}

/* f32, f16 and bf16 in turn; where activations have 16 bits, mostly their own. */
static sq_dtype kv_type(const oc_run *r, int v)
{
    return r->unit > 0 && v % 4 ? r->act : (sq_dtype)(SQ_DTYPE_F32 + v / (r->unit > 0 ? 4 : 1) % 3);
}

static void attn_rotate(oc_run *r)
{
    static const int n[][2] = {{1, 1},   {1, 2},    {1, 7},   {1, 65},  {2, 3},   {3, 3},
                               {4, 65},  {5, 5},    {7, 7},   {6, 127}, {17, 17}, {63, 63},
                               {65, 65}, {17, 129}, {96, 96}, {97, 97}, {99, 257}};
    static const int heads[][2] = {{1, 1}, {2, 2}, {4, 2}, {3, 1}, {6, 2}};
    static const int dim[] = {8, 16, 24, 64, 72, 80, 128};
    static const int window[] = {0, 0, 1, 3, 64};
    int v = 0;
    for (size_t a = 0; a < sizeof n / sizeof *n; a++)
        for (int b = 0; b < 14; b++, v++) {
            const int *h = heads[v % 5];
            attn_case c = case_of(r, n[a][0], n[a][1], h[0], h[1], dim[b % 7]);
            c.d.n_seq = v / 2 % 4;
            c.d.causal = v % 3 != 0;
            if (c.d.causal) c.d.q_pos0 = v % 2 ? 0 : c.d.n_kv - c.d.n_q;
            if (c.d.causal) c.d.window = window[v / 3 % 5];
            if (v % 11 == 5) c.d.scale = 1.0f;
            c.q = (q_kind)(v / 2 % 5);
            c.kv = kv_type(r, v / 5);
            c.spare = v % 4;
            attn_run(r, &c);
        }
}

/* NaN of a query stays in it; NaN of a key or value reaches the queries that see it, no others. */
static void attn_nan(oc_run *r)
{
    static const int n[] = {2, 7, 40, 150};
    for (int v = 0; v < 24; v++) {
        attn_case c = case_of(r, n[v / 6], n[v / 6], 4, 2, 64);
        int row = c.d.n_q / 2;
        c.d.n_seq = v % 4 == 3 ? 2 : 1;
        c.d.causal = v % 2;
        c.kv = kv_type(r, v / 6);
        if (v / 2 % 3 == 0) c.nan_q = row;
        if (v / 2 % 3 == 1) c.nan_k = row;
        if (v / 2 % 3 == 2) c.nan_v = row;
        attn_run(r, &c);
        if (!c.d.causal) continue;
        c.d.window = 3;
        attn_run(r, &c);
    }
    attn_case c = case_of(r, 300, 300, 2, 2, 64); /* whole blocks of keys without a number */
    c.d.causal = true;
    c.nan_keys = 260;
    attn_run(r, &c);
    c.d.window = 30;
    attn_run(r, &c);
}

/* Every number of queries up to some blocks of them; a device in full, a CPU now and then. */
static void attn_lengths(oc_run *r)
{
    static const int dim[] = {64, 128, 80, 72};
    for (int n = 1; n <= 200; n += oc_is_device(r) ? 1 : 9) {
        attn_case c = case_of(r, n, n + n * 7 % 50, 2, 1 + n % 2, dim[n / 2 % 4]);
        c.d.n_seq = 1 + n / 3 % 2;
        c.d.causal = n % 3 != 1;
        if (c.d.causal && n % 2) c.d.q_pos0 = c.d.n_kv - n;
        if (c.d.causal && n % 5 == 0) c.d.window = 1 + n / 2;
        c.spare = n % 3;
        attn_run(r, &c);
    }
}

static void long_run(oc_run *r, const attn_case *c)
{
    oc_align_next(r);
    attn_run(r, c);
}

/* A device's own kernels for much work: they begin at 264 blocks of 128 queries, or at 132. */
static void attn_filling(oc_run *r)
{
    static const int n[] = {1, 17, 64, 65, 128, 129, 200};
    for (int v = 0; v < 7 * 2 * 4; v++) {
        int n_q = n[v / 8], kind = v % 4;
        attn_case c = case_of(r, n_q, n_q, 32, kind < 2 ? 32 : 8, v / 4 % 2 ? 128 : 64);
        c.repeated = true;
        c.d.n_seq = 9;
        c.d.causal = kind > 0;
        if (kind == 2) c.d.window = 1 + n_q / 3;
        if (kind == 3) c.d.n_kv = n_q + 37, c.d.q_pos0 = 37;
        c.q = (v / 4 + v) % 2 ? Q_PEAKY : Q_FLAT;
        long_run(r, &c);
    }
    attn_case c = case_of(r, 631, 631, 32, 32, 128); /* a prompt of 631 tokens, five views */
    c.repeated = true;
    c.d.causal = true;
    c.d.n_seq = 1;
    long_run(r, &c);
    c = case_of(r, 577, 577, 16, 16, 64);
    c.repeated = true;
    c.d.n_seq = 5;
    long_run(r, &c);
}

/* Flat logits show a lost part of the keys, peaky ones a single lost key. */
void oc_check_attn_long(oc_run *r)
{
    for (int peaky = 0; peaky < 2; peaky++) {
        attn_case c = case_of(r, 577, 577, 2, 2, 64); /* CLIP's tokens, then a decoder's */
        c.q = peaky ? Q_PEAKY : Q_FLAT;
        long_run(r, &c);
        c = case_of(r, 540, 540, 1, 1, 128);
        c.q = peaky ? Q_PEAKY : Q_FLAT;
        c.d.causal = true;
        long_run(r, &c);
        c.d.window = 100;
        c.kv = r->unit > 0 ? r->act : SQ_DTYPE_F16;
        long_run(r, &c);
        c = case_of(r, 84, 631, 4, 1, 128);
        c.q = peaky ? Q_PEAKY : Q_FLAT;
        c.d.causal = true;
        c.d.q_pos0 = 547;
        c.spare = 9;
        long_run(r, &c);
        if (!r->be->resident) continue;
        c = case_of(r, 577, 577, 16, 16, 64);
        c.q = peaky ? Q_PEAKY : Q_FLAT;
        long_run(r, &c);
        c = case_of(r, 631, 631, 8, 8, 128);
        c.q = peaky ? Q_PEAKY : Q_FLAT;
        c.d.causal = true;
        long_run(r, &c);
    }
    if (!r->be->resident) return;
    attn_case c = case_of(r, 577, 577, 3, 3, 64);
    c.d.n_seq = 3;
    long_run(r, &c);
    c = case_of(r, 729, 729, 2, 2, 72);
    c.d.n_seq = 2;
    long_run(r, &c);
    c = case_of(r, 3000, 3000, 1, 1, 64);
    c.d.causal = true;
    c.d.window = 500;
    long_run(r, &c);
    attn_filling(r);
}

static void attn_large(oc_run *r)
{
    attn_case c = case_of(r, 311, 311, 2, 1, 128);
    c.d.causal = true;
    c.q = Q_PEAKY;
    attn_run(r, &c);
    c = case_of(r, 40, 400, 2, 2, 80);
    c.d.causal = true;
    c.d.q_pos0 = 360;
    c.kv = r->unit > 0 ? r->act : SQ_DTYPE_F16;
    c.q = Q_HUGE;
    attn_run(r, &c);
    oc_check_attn_long(r);
}

void oc_check_attn(oc_run *r)
{
    attn_rotate(r);
    attn_nan(r);
    attn_lengths(r);
    attn_large(r);
}

/* ---- rows and means of the softmax matrix ---- */

static void rows_run(oc_run *r, const attn_case *c, const int32_t *row, int n_row, bool logits)
{
    char text[200];
    describe(c, text, sizeof text);
    if (oc_costs_too_much(r, attn_cost(c) / 2 * n_row / c->d.n_q)) return;
    if (!oc_begin(r, "attn_rows", "%d rows %s%s", n_row, text, logits ? " logits" : "")) return;
    const attn_desc *d = &c->d;
    attn_bufs b = make_inputs(r, c, false);
    oc_buf *y = oc_out(r, SQ_DTYPE_F32, (int64_t)n_seq(c) * n_row * d->n_head, d->n_kv);
    oc_upload(r);
    attn_data a = {c->d, b.q->host, b.k->host, oc_none()};
    double *bounds = make_bounds(&a);
    sq_tensor dev = {y->dev.data, SQ_DTYPE_F32, 4, {n_seq(c), n_row, d->n_head, d->n_kv}};
    sq_tensor want = dev;
    want.data = y->want.data;
    r->ops.attn_rows(r->be, &dev, &b.q->dev, &b.k->dev, row, n_row, logits, d);
    r->ref.attn_rows(r->ref_be, &want, &b.q->host, &b.k->host, row, n_row, logits, d);
    double *scale = oc_scale(y);
    for (int64_t s = 0; s < n_seq(c); s++)
        for (int64_t i = 0; i < (int64_t)n_row * d->n_head; i++) {
            int64_t at = (s * n_row * d->n_head + i) * d->n_kv;
            int64_t query = s * d->n_q + row[i / d->n_head];
            double bound = bounds[query * d->n_head + i % d->n_head];
            for (int j = 0; j < d->n_kv; j++, at++)
                scale[at] = logits ? bound - 1 : bound * fabs((double)((float *)want.data)[at]);
        }
    oc_end(r);
    free(bounds);
}

void oc_check_attn_rows(oc_run *r)
{
    static const int n[] = {1, 2, 3, 7, 17, 65, 129, 577}, dim[] = {8, 64, 72, 80, 128};
    for (int v = 0; v < 160; v++) {
        int tokens = n[v / 20], n_row = 1 + v % 4;
        attn_case c = case_of(r, tokens, tokens, v % 3 ? 4 : 2,
                              v % 3 == 1 ? 2
                              : v % 3    ? 4
                                         : 1,
                              dim[v % 5]);
        int32_t row[4] = {0, tokens - 1, tokens / 2, tokens / 2}; /* the first, last, one twice */
        c.d.n_seq = v / 3 % 4;
        c.d.causal = v % 4 == 1;
        if (v % 8 == 5) c.d.window = 3;
        c.q = (q_kind)(v / 2 % 5);
        if (v % 7 == 0 && tokens > 2) c.nan_q = tokens / 2;
        if (v % 7 == 1 && tokens > 2) c.nan_k = 1;
        rows_run(r, &c, row, n_row, v / 4 % 2);
    }
    attn_case c = case_of(r, 84, 631, 8, 2, 128); /* a decoder's last query over its cache */
    int32_t last = 83;
    c.d.causal = true;
    c.d.q_pos0 = 547;
    rows_run(r, &c, &last, 1, false);
    int32_t all[577];
    for (int i = 0; i < 577; i++)
        all[i] = i;
    c = case_of(r, 577, 577, 2, 2, 64);
    rows_run(r, &c, all, 577, false);
}

static void means_run(oc_run *r, const attn_case *c, int first, bool logits)
{
    char text[200];
    describe(c, text, sizeof text);
    if (oc_costs_too_much(r, attn_cost(c) / 2)) return;
    if (!oc_begin(r, "attn_means", "first %d %s%s", first, text, logits ? " logits" : "")) return;
    const attn_desc *d = &c->d;
    int64_t m = d->n_kv - first;
    attn_bufs b = make_inputs(r, c, false);
    oc_buf *out[2];
    for (int i = 0; i < 2; i++)
        out[i] = oc_out(r, SQ_DTYPE_F32, n_seq(c), m);
    oc_upload(r);
    attn_data a = {c->d, b.q->host, b.k->host, oc_none()};
    double *bounds = make_bounds(&a);
    r->ops.attn_means(r->be, &out[0]->dev, &out[1]->dev, &b.q->dev, &b.k->dev, first, logits, d);
    r->ref.attn_means(r->ref_be, &out[0]->want, &out[1]->want, &b.q->host, &b.k->host, first,
                      logits, d);
    double bound = 0;
    for (int64_t i = 0; i < (int64_t)n_seq(c) * d->n_q * d->n_head; i++)
        bound = fmax(bound, bounds[i]);
    for (int i = 0; i < 2; i++)
        for (int64_t j = 0; j < n_seq(c) * m; j++) {
            double mean = fabs((double)((float *)out[i]->want.data)[j]);
            oc_scale(out[i])[j] = logits ? bound : bound * mean;
        }
    oc_end(r);
    free(bounds);
}

void oc_check_attn_means(oc_run *r)
{
    static const int n[] = {2, 3, 7, 17, 65, 97, 130}, dim[] = {8, 64, 72, 80, 128};
    for (int v = 0; v < 70; v++) {
        int tokens = n[v / 10];
        attn_case c = case_of(r, tokens, tokens, v % 3 ? 3 : 2, v % 3 ? 3 : 1, dim[v % 5]);
        c.d.n_seq = v / 2 % 4;
        c.q = (q_kind)(v % 5);
        if (v % 9 == 4) c.nan_q = tokens / 2;
        means_run(r, &c, v % 3 == 2 && tokens > 5 ? 5 : v % 2, v % 4 == 3);
    }
    attn_case c = case_of(r, 577, 577, 2, 2, 64);
    means_run(r, &c, 1, false);
    if (!r->be->resident) return;
    c.d.n_seq = 2;
    means_run(r, &c, 1, true);
    c = case_of(r, 729, 729, 4, 4, 72);
    means_run(r, &c, 0, false);
    c = case_of(r, 577, 577, 16, 16, 64);
    means_run(r, &c, 1, false);
}
