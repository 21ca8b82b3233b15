/* Cases of attention: causal and not, grouped heads, windows, positions, f16 caches, peaky and
 * equal scores, rows of the cache beyond n_kv that must not be read. */
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
    int spare;               /* rows of NaN behind n_kv */
    int nan_q, nan_k, nan_v; /* row with a NaN, -1: none */
    int nan_keys;            /* that many first rows of k hold NaN */
} attn_case;

typedef struct attn_bufs {
    oc_buf *q, *k, *v;
} attn_bufs;

static void put_nan(const oc_buf *b, int64_t at)
{
    float nan = NAN;
    size_t item = dtype_row_bytes(b->host.dtype, 1);
    convert_from_f32((char *)b->host.data + (size_t)at * item, b->host.dtype, &nan, 1);
}

static oc_buf *make_kv(oc_run *r, const attn_case *c, oc_fill fill)
{
    int dim = c->d.n_head_kv * c->d.head_dim;
    oc_buf *b = oc_in(r, c->kv, c->d.n_kv + c->spare, dim, fill);
    for (int64_t i = (int64_t)c->d.n_kv * dim; i < (int64_t)(c->d.n_kv + c->spare) * dim; i++)
        put_nan(b, i);
    return b;
}

static attn_bufs make_inputs(oc_run *r, const attn_case *c, bool values)
{
    static const float factor[] = {1, 12, 4000, 0, 1};
    attn_bufs b = {0};
    oc_fill fill = c->q == Q_TIES ? OC_TIES : OC_RANDOM;
    b.q = oc_in(r, SQ_DTYPE_F32, c->d.n_q, c->d.n_head * c->d.head_dim, fill);
    for (int64_t i = 0; i < tensor_count(&b.q->host); i++)
        oc_values(b.q)[i] *= factor[c->q];
    b.k = make_kv(r, c, fill);
    if (values) b.v = make_kv(r, c, c->q == Q_PEAKY ? OC_WIDE : OC_RANDOM);
    int head = c->d.n_head / 2 * c->d.head_dim, kv_head = c->d.n_head_kv / 2 * c->d.head_dim;
    if (c->nan_q >= 0) put_nan(b.q, (int64_t)c->nan_q * c->d.n_head * c->d.head_dim + head);
    if (c->nan_k >= 0) put_nan(b.k, (int64_t)c->nan_k * c->d.n_head_kv * c->d.head_dim + kv_head);
    for (int j = 0; j < c->nan_keys; j++)
        put_nan(b.k, (int64_t)j * c->d.n_head_kv * c->d.head_dim + kv_head);
    if (c->nan_v >= 0) put_nan(b.v, (int64_t)c->nan_v * c->d.n_head_kv * c->d.head_dim + kv_head);
    return b;
}

static double row_norm(const oc_buf *b, int64_t at, int n)
{
    double sum = 0;
    float row[256];
    size_t item = dtype_row_bytes(b->host.dtype, 1);
    convert_to_f32(row, (const char *)b->host.data + (size_t)at * item, b->host.dtype, n);
    for (int c = 0; c < n; c++)
        if (oc_is_finite(row[c])) sum += (double)row[c] * (double)row[c];
    return sqrt(sum);
}

/* 1 + the largest logit that Cauchy and Schwarz allow for query i of head h. */
static double logit_bound(const attn_case *c, const attn_bufs *b, int i, int h)
{
    const attn_desc *d = &c->d;
    int hk = h / (d->n_head / d->n_head_kv);
    double k_max = 0;
    for (int j = 0; j < d->n_kv; j++)
        k_max = fmax(k_max,
                     row_norm(b->k, ((int64_t)j * d->n_head_kv + hk) * d->head_dim, d->head_dim));
    double q = row_norm(b->q, ((int64_t)i * d->n_head + h) * d->head_dim, d->head_dim);
    return 1 + (double)d->scale * q * k_max;
}

static double value_max(const attn_case *c, const attn_bufs *b)
{
    double max = 0;
    for (int64_t j = 0; j < (int64_t)c->d.n_kv * c->d.n_head_kv; j++) {
        float row[256];
        size_t item = dtype_row_bytes(c->kv, 1);
        convert_to_f32(row, (const char *)b->v->host.data + (size_t)(j * c->d.head_dim) * item,
                       c->kv, c->d.head_dim);
        for (int k = 0; k < c->d.head_dim; k++)
            if (oc_is_finite(row[k])) max = fmax(max, fabs((double)row[k]));
    }
    return max;
}

static void describe(const attn_case *c, char *text, size_t size)
{
    static const char *const kind[] = {"flat", "peaky", "huge", "zero", "ties"};
    const attn_desc *d = &c->d;
    snprintf(text, size, "%dx%d heads %d/%d of %d%s pos %d window %d q %s kv %s nan %d %d %d",
             d->n_q, d->n_kv, d->n_head, d->n_head_kv, d->head_dim, d->causal ? " causal" : "",
             d->q_pos0, d->window, kind[c->q], dtype_name(c->kv), c->nan_q, c->nan_k, c->nan_v);
}

static void attn_run(oc_run *r, const attn_case *c)
{
    char text[200];
    describe(c, text, sizeof text);
    if (!oc_begin(r, "attn", "%s", text)) return;
    const attn_desc *d = &c->d;
    attn_bufs b = make_inputs(r, c, true);
    oc_buf *y = oc_out(r, d->n_q, d->n_head * d->head_dim);
    double *scale = oc_scale(y), v_max = value_max(c, &b);
    /* The bound of the first query and head times a margin stands for all when there are many. */
    for (int i = 0; i < d->n_q; i++)
        for (int h = 0; h < d->n_head; h++) {
            double s =
                v_max * (d->n_q > 100 ? 1.5 * logit_bound(c, &b, 0, 0) : logit_bound(c, &b, i, h));
            if (d->n_q > 100 && (i || h)) s = scale[0];
            for (int k = 0; k < d->head_dim; k++)
                scale[((int64_t)i * d->n_head + h) * d->head_dim + k] = s;
        }
    oc_upload(r);
    r->ops.attn(r->be, &y->dev, &b.q->dev, &b.k->dev, &b.v->dev, d);
    r->ref.attn(r->ref_be, &y->want, &b.q->host, &b.k->host, &b.v->host, d);
    oc_end(r);
}

static attn_case case_of(int n_q, int n_kv, int n_head, int n_head_kv, int head_dim)
{
    return (attn_case){.d = {.n_q = n_q,
                             .n_kv = n_kv,
                             .n_head = n_head,
                             .n_head_kv = n_head_kv,
                             .head_dim = head_dim,
                             .scale = 1 / sqrtf((float)head_dim)},
                       .kv = SQ_DTYPE_F32,
                       .nan_q = -1,
                       .nan_k = -1,
                       .nan_v = -1};
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
            attn_case c = case_of(n[a][0], n[a][1], h[0], h[1], dim[b % 7]);
            c.d.causal = v % 3 != 0;
            if (c.d.causal) c.d.q_pos0 = v % 2 ? 0 : c.d.n_kv - c.d.n_q;
            if (c.d.causal) c.d.window = window[v / 3 % 5];
            if (v % 11 == 5) c.d.scale = 1.0f;
            c.q = (q_kind)(v / 2 % 5);
            c.kv = v / 5 % 2 ? SQ_DTYPE_F16 : SQ_DTYPE_F32;
            c.spare = v % 4;
            attn_run(r, &c);
        }
}

/* NaN of a query stays in it; NaN of a key or value reaches the queries that see it, no others. */
static void attn_nan(oc_run *r)
{
    static const int n[] = {2, 7, 40, 150};
    for (int v = 0; v < 24; v++) {
        attn_case c = case_of(n[v / 6], n[v / 6], 4, 2, 64);
        int row = c.d.n_q / 2;
        c.d.causal = v % 2;
        c.kv = v / 6 % 2 ? SQ_DTYPE_F16 : SQ_DTYPE_F32;
        if (v / 2 % 3 == 0) c.nan_q = row;
        if (v / 2 % 3 == 1) c.nan_k = row;
        if (v / 2 % 3 == 2) c.nan_v = row;
        attn_run(r, &c);
        if (!c.d.causal) continue;
        c.d.window = 3;
        attn_run(r, &c);
    }
    attn_case c = case_of(300, 300, 2, 2, 64); /* whole blocks of keys without a number */
    c.d.causal = true;
    c.nan_keys = 260;
    attn_run(r, &c);
    c.d.window = 30;
    attn_run(r, &c);
}

void oc_check_attn(oc_run *r)
{
    attn_rotate(r);
    attn_nan(r);
    attn_case c = case_of(577, 577, 2, 2, 64);
    attn_run(r, &c);
    c = case_of(311, 311, 2, 1, 128);
    c.d.causal = true;
    c.q = Q_PEAKY;
    attn_run(r, &c);
    c.d.window = 100;
    c.kv = SQ_DTYPE_F16;
    attn_run(r, &c);
    c = case_of(40, 400, 2, 2, 80);
    c.d.causal = true;
    c.d.q_pos0 = 360;
    c.kv = SQ_DTYPE_F16;
    c.q = Q_HUGE;
    attn_run(r, &c);
}

/* ---- rows and means of the softmax matrix ---- */

static void rows_run(oc_run *r, const attn_case *c, const int32_t *row, int n_row, bool logits)
{
    char text[200];
    describe(c, text, sizeof text);
    if (!oc_begin(r, "attn_rows", "%d rows %s%s", n_row, text, logits ? " logits" : "")) return;
    const attn_desc *d = &c->d;
    attn_bufs b = make_inputs(r, c, false);
    oc_buf *y = oc_out(r, (int64_t)n_row * d->n_head, d->n_kv);
    double *scale = oc_scale(y);
    oc_upload(r);
    sq_tensor dev = {y->dev.data, SQ_DTYPE_F32, 3, {n_row, d->n_head, d->n_kv}}, want = dev;
    want.data = y->want.data;
    r->ops.attn_rows(r->be, &dev, &b.q->dev, &b.k->dev, row, n_row, logits, d);
    r->ref.attn_rows(r->ref_be, &want, &b.q->host, &b.k->host, row, n_row, logits, d);
    for (int i = 0; i < n_row; i++)
        for (int h = 0; h < d->n_head; h++) {
            double bound = logit_bound(c, &b, row[i], h);
            for (int j = 0; j < d->n_kv; j++) {
                int64_t at = ((int64_t)i * d->n_head + h) * d->n_kv + j;
                double p = fabs((double)((float *)want.data)[at]);
                scale[at] = logits ? bound - 1 : bound * p;
            }
        }
    oc_end(r);
}

void oc_check_attn_rows(oc_run *r)
{
    static const int n[] = {1, 2, 3, 7, 17, 65, 129, 577}, dim[] = {8, 64, 72, 80, 128};
    for (int v = 0; v < 160; v++) {
        int tokens = n[v / 20], n_row = 1 + v % 4;
        attn_case c = case_of(tokens, tokens, v % 3 ? 4 : 2,
                              v % 3 == 1 ? 2
                              : v % 3    ? 4
                                         : 1,
                              dim[v % 5]);
        int32_t row[4] = {0, tokens - 1, tokens / 2, tokens / 2}; /* the first, last, one twice */
        c.d.causal = v % 4 == 1;
        if (v % 8 == 5) c.d.window = 3;
        c.q = (q_kind)(v / 2 % 5);
        if (v % 7 == 0 && tokens > 2) c.nan_q = tokens / 2;
        if (v % 7 == 1 && tokens > 2) c.nan_k = 1;
        rows_run(r, &c, row, n_row, v / 4 % 2);
    }
}

static void means_run(oc_run *r, const attn_case *c, int first, bool logits)
{
    char text[200];
    describe(c, text, sizeof text);
    if (!oc_begin(r, "attn_means", "first %d %s%s", first, text, logits ? " logits" : "")) return;
    const attn_desc *d = &c->d;
    int m = d->n_kv - first;
    attn_bufs b = make_inputs(r, c, false);
    oc_buf *out[2] = {oc_out(r, 1, m), oc_out(r, 1, m)};
    oc_upload(r);
    sq_tensor dev[2], want[2];
    for (int i = 0; i < 2; i++) {
        dev[i] = oc_vector(&out[i]->dev);
        want[i] = oc_vector(&out[i]->want);
    }
    r->ops.attn_means(r->be, &dev[0], &dev[1], &b.q->dev, &b.k->dev, first, logits, d);
    r->ref.attn_means(r->ref_be, &want[0], &want[1], &b.q->host, &b.k->host, first, logits, d);
    double bound = 0;
    for (int i = 0; i<d->n_q; i += d->n_q> 100 ? 16 : 1)
        for (int h = 0; h < d->n_head; h++)
            bound = fmax(bound, 1.2 * logit_bound(c, &b, i, h));
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < m; j++) {
            double mean = fabs((double)((float *)want[i].data)[j]);
            oc_scale(out[i])[j] = logits ? bound : bound * mean;
        }
    oc_end(r);
}

void oc_check_attn_means(oc_run *r)
{
    static const int n[] = {2, 3, 7, 17, 65, 97, 130}, dim[] = {8, 64, 72, 80, 128};
    for (int v = 0; v < 70; v++) {
        int tokens = n[v / 10];
        attn_case c = case_of(tokens, tokens, v % 3 ? 3 : 2, v % 3 ? 3 : 1, dim[v % 5]);
        c.q = (q_kind)(v % 5);
        if (v % 9 == 4) c.nan_q = tokens / 2;
        means_run(r, &c, v % 3 == 2 && tokens > 5 ? 5 : v % 2, v % 4 == 3);
    }
    attn_case c = case_of(577, 577, 2, 2, 64);
    means_run(r, &c, 1, false);
}
