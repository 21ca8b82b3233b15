/* Cases of attention: causal and not, grouped heads, windows, positions, several sequences, 16-bit
 * keys and values, peaky and equal scores, rows behind the last key that must not be read. */
#include "opcheck.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Sharpness of the softmax by what q is multiplied with. */
typedef enum q_kind { Q_FLAT, Q_PEAKY, Q_HUGE, Q_ZERO, Q_TIES } q_kind;

typedef struct attn_case {
    attn_desc d;
    q_kind q;
    sq_dtype kv;
    int spare;               /* rows of NaN behind the last key */
    int nan_q, nan_k, nan_v; /* row of the last sequence with a NaN, -1: none */
    int nan_keys;            /* that many first rows of k hold NaN */
} attn_case;

typedef struct attn_bufs {
    oc_buf *q, *k, *v;
    double *bound; /* [n_seq,n_q,n_head]: 1 + the largest logit */
} attn_bufs;

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

/* b->bound by Cauchy and Schwarz, after the upload. */
static void make_bounds(const attn_case *c, attn_bufs *b)
{
    const attn_desc *d = &c->d;
    int group = d->n_head / d->n_head_kv;
    b->bound = oc_alloc((size_t)n_seq(c) * (size_t)(d->n_q * d->n_head) * sizeof *b->bound);
    float *k = oc_floats(&b->k->host), *q = oc_floats(&b->q->host);
    double *to = b->bound, k_max[64];
    for (int64_t s = 0; s < n_seq(c); s++) {
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
}

static void describe(const attn_case *c, char *text, size_t size)
{
    static const char *const kind[] = {"flat", "peaky", "huge", "zero", "ties"};
    const attn_desc *d = &c->d;
    snprintf(text, size, "%d of %dx%d heads %d/%d of %d%s pos %d window %d q %s kv %s nan %d %d %d",
             n_seq(c), d->n_q, d->n_kv, d->n_head, d->n_head_kv, d->head_dim,
             d->causal ? " causal" : "", d->q_pos0, d->window, kind[c->q], dtype_name(c->kv),
             c->nan_q, c->nan_k, c->nan_v);
}

/* The reference on other keys and values: rounded to `t`, or the absolute values. */
static float *other_result(oc_run *r, const attn_case *c, const attn_bufs *b, sq_dtype t,
                           bool absolute)
{
    const sq_tensor *from[] = {&b->k->host, &b->v->host};
    sq_tensor kv[2], out = b->q->host;
    for (int i = 0; i < 2; i++) {
        float *to = oc_floats(from[i]);
        for (int64_t k = 0, n = tensor_count(from[i]); k < n; k++) {
            to[k] = oc_round(to[k], t);
            if (absolute && i) to[k] = fabsf(to[k]);
        }
        kv[i] = tensor_2d(to, SQ_DTYPE_F32, from[i]->shape[0], from[i]->shape[1]);
    }
    float *result = out.data = oc_alloc(tensor_bytes(&out));
    r->ref.attn(r->ref_be, &out, &b->q->host, &kv[0], &kv[1], &c->d);
    free(kv[0].data);
    free(kv[1].data);
    return result;
}

static void attn_run(oc_run *r, const attn_case *c)
{
    char text[200];
    describe(c, text, sizeof text);
    if (!oc_begin(r, "attn", "%s", text)) return;
    const attn_desc *d = &c->d;
    attn_bufs b = make_inputs(r, c, true);
    oc_buf *y = oc_out(r, r->act, b.q->host.shape[0], b.q->host.shape[1]);
    oc_upload(r);
    make_bounds(c, &b);
    double *scale = oc_scale(y), *slack = oc_slack(y), v_max = oc_largest(&b.v->host);
    int64_t n = tensor_count(&y->host);
    for (int64_t i = 0; i < n; i++)
        scale[i] = v_max * b.bound[i / d->head_dim];
    r->ops.attn(r->be, &y->dev, &b.q->dev, &b.k->dev, &b.v->dev, d);
    r->ref.attn(r->ref_be, &y->want, &b.q->host, &b.k->host, &b.v->host, d);
    float *rounded = NULL;
    if (r->unit > 0) {
        float *sums = other_result(r, c, &b, SQ_DTYPE_F32, true); /* sum p |v| */
        double least = oc_least(r->act) * d->n_kv * v_max;
        for (int64_t i = 0; i < n; i++)
            slack[i] = r->unit * (double)sums[i] + least;
        free(sums);
        if (c->kv != r->act) rounded = other_result(r, c, &b, r->act, false);
    }
    oc_end_either(r, y, rounded);
    free(rounded);
    free(b.bound);
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
    for (int n = 1; n <= 200; n += r->be->resident ? 1 : 9) {
        attn_case c = case_of(r, n, n + n * 7 % 50, 2, 1 + n % 2, dim[n / 2 % 4]);
        c.d.n_seq = 1 + n / 3 % 2;
        c.d.causal = n % 3 != 1;
        if (c.d.causal && n % 2) c.d.q_pos0 = c.d.n_kv - n;
        if (c.d.causal && n % 5 == 0) c.d.window = 1 + n / 2;
        c.spare = n % 3;
        attn_run(r, &c);
    }
}

static void attn_large(oc_run *r)
{
    attn_case c = case_of(r, 577, 577, 2, 2, 64);
    attn_run(r, &c);
    c = case_of(r, 311, 311, 2, 1, 128);
    c.d.causal = true;
    c.q = Q_PEAKY;
    attn_run(r, &c);
    c.d.window = 100;
    c.kv = r->unit > 0 ? r->act : SQ_DTYPE_F16;
    attn_run(r, &c);
    c = case_of(r, 40, 400, 2, 2, 80);
    c.d.causal = true;
    c.d.q_pos0 = 360;
    c.kv = r->unit > 0 ? r->act : SQ_DTYPE_F16;
    c.q = Q_HUGE;
    attn_run(r, &c);
    if (!r->be->resident) return;
    c = case_of(r, 577, 577, 16, 16, 64); /* CLIP's, then a decoder's; several views */
    attn_run(r, &c);
    c = case_of(r, 577, 577, 3, 3, 64);
    c.d.n_seq = 3;
    attn_run(r, &c);
    c = case_of(r, 729, 729, 2, 2, 72);
    c.d.n_seq = 2;
    attn_run(r, &c);
    c = case_of(r, 631, 631, 8, 8, 128);
    c.d.causal = true;
    attn_run(r, &c);
    c = case_of(r, 84, 631, 8, 2, 128);
    c.d.causal = true;
    c.d.q_pos0 = 547;
    c.spare = 9;
    attn_run(r, &c);
    c = case_of(r, 3000, 3000, 1, 1, 64);
    c.d.causal = true;
    c.d.window = 500;
    attn_run(r, &c);
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
    if (!oc_begin(r, "attn_rows", "%d rows %s%s", n_row, text, logits ? " logits" : "")) return;
    const attn_desc *d = &c->d;
    attn_bufs b = make_inputs(r, c, false);
    oc_buf *y = oc_out(r, SQ_DTYPE_F32, (int64_t)n_seq(c) * n_row * d->n_head, d->n_kv);
    oc_upload(r);
    make_bounds(c, &b);
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
            double bound = b.bound[query * d->n_head + i % d->n_head];
            for (int j = 0; j < d->n_kv; j++, at++)
                scale[at] = logits ? bound - 1 : bound * fabs((double)((float *)want.data)[at]);
        }
    oc_end(r);
    free(b.bound);
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
    if (!oc_begin(r, "attn_means", "first %d %s%s", first, text, logits ? " logits" : "")) return;
    const attn_desc *d = &c->d;
    int64_t m = d->n_kv - first;
    attn_bufs b = make_inputs(r, c, false);
    oc_buf *out[2];
    for (int i = 0; i < 2; i++)
        out[i] = oc_out(r, SQ_DTYPE_F32, n_seq(c), m);
    oc_upload(r);
    make_bounds(c, &b);
    r->ops.attn_means(r->be, &out[0]->dev, &out[1]->dev, &b.q->dev, &b.k->dev, first, logits, d);
    r->ref.attn_means(r->ref_be, &out[0]->want, &out[1]->want, &b.q->host, &b.k->host, first,
                      logits, d);
    double bound = 0;
    for (int64_t i = 0; i < (int64_t)n_seq(c) * d->n_q * d->n_head; i++)
        bound = fmax(bound, b.bound[i]);
    for (int i = 0; i < 2; i++)
        for (int64_t j = 0; j < n_seq(c) * m; j++) {
            double mean = fabs((double)((float *)out[i]->want.data)[j]);
            oc_scale(out[i])[j] = logits ? bound : bound * mean;
        }
    oc_end(r);
    free(b.bound);
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
