/* Cases of the slots that move, rotate or merge rows. */
#include "opcheck.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void oc_check_patchify(oc_run *r)
{
    static const int shape[][2] = {{1, 1},   {2, 1},   {2, 2},   {3, 3},    {6, 2},    {9, 3},
                                   {28, 14}, {42, 14}, {64, 16}, {336, 14}, {224, 16}, {35, 7}};
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) {
        int side = shape[i][0], patch = shape[i][1], grid = side / patch;
        if (!oc_begin(r, "patchify", "side %d patch %d", side, patch)) return;
        oc_buf *x = oc_in(r, SQ_DTYPE_F32, 3 * side, side, OC_WIDE);
        oc_buf *y = oc_out(r, grid * grid, 3 * patch * patch);
        oc_values(x)[side * side] = NAN; /* first value of the second channel */
        oc_upload(r);
        sq_tensor dev = {x->dev.data, SQ_DTYPE_F32, 3, {3, side, side}}, host = dev;
        host.data = x->host.data;
        r->ops.patchify(r->be, &y->dev, &dev, patch);
        r->ref.patchify(r->ref_be, &y->want, &host, patch);
        oc_end(r);
    }
}

void oc_check_embed(oc_run *r)
{
    static const int n[] = {1, 2, 3, 17, 65, 577}, dim[] = {1, 7, 16, 31, 33, 64, 577, 2048};
    static const oc_fill fills[] = {OC_RANDOM, OC_WIDE, OC_TINY, OC_TIES};
    int v = 0;
    for (int t = SQ_DTYPE_F32; t <= SQ_DTYPE_Q8_0; t++)
        for (size_t a = 0; a < sizeof n / sizeof *n; a++)
            for (size_t b = 0; b < sizeof dim / sizeof *dim; b++, v++) {
                int d = t == SQ_DTYPE_Q8_0 ? (dim[b] + 31) / 32 * 32 : dim[b], vocab = 1 + v % 97;
                oc_fill f = fills[v % 4];
                if (!oc_begin(r, "embed", "%d of %dx%d %s fill %s", n[a], vocab, d,
                              dtype_name((sq_dtype)t), oc_fill_name(f)))
                    return;
                oc_buf *w = oc_stored(r, (sq_dtype)t, vocab, d, f), *y = oc_out(r, n[a], d);
                int32_t *ids = oc_alloc((size_t)n[a] * sizeof *ids);
                for (int i = 0; i < n[a]; i++)
                    ids[i] = i == 0 ? vocab - 1 : oc_pick(r, vocab);
                oc_upload(r);
                r->ops.embed(r->be, &y->dev, &w->dev, ids, n[a]);
                r->ref.embed(r->ref_be, &y->want, &w->host, ids, n[a]);
                oc_end(r);
                free(ids);
            }
}

/* Values that f16 must round: halves between two neighbours, overflow, below its normal range. */
static void put_f16_edges(float *x, int n)
{
    static const float edge[] = {1 + 0x1p-11f, 1 + 0x3p-11f, -(1 + 0x1p-11f), 65504.0f, 65519.0f,
                                 65520.0f,     -1e6f,        0x1p-24f,        0x1p-25f, 0x3p-25f,
                                 -0.0f,        0x1.ffcp-15f, 0x1.ffep-15f,    1e-40f,   NAN};
    for (int i = 0; i < n; i += 2)
        x[i] = edge[i / 2 % (int)(sizeof edge / sizeof *edge)];
}

void oc_check_kv_append(oc_run *r)
{
    static const int shape[][2] = {{1, 1},  {1, 8},    {2, 3},    {3, 17},
                                   {7, 63}, {1, 2048}, {65, 128}, {577, 64}};
    for (int v = 0; v < 64; v++) {
        int n = shape[v / 8][0], dim = shape[v / 8][1], at = v % 4 == 0 ? 0 : v % 7;
        sq_dtype t = v % 2 ? SQ_DTYPE_F16 : SQ_DTYPE_F32;
        if (!oc_begin(r, "kv_append", "%dx%d %s at %d", n, dim, dtype_name(t), at)) return;
        oc_buf *x = oc_in(r, SQ_DTYPE_F32, n, dim, v % 3 ? OC_WIDE : OC_TINY);
        oc_buf *cache = oc_inout(r, t, n + at + v % 3, dim, OC_RANDOM);
        if (v / 2 % 2) put_f16_edges(oc_values(x), n * dim);
        oc_upload(r);
        r->ops.kv_append(r->be, &cache->dev, &x->dev, at);
        r->ref.kv_append(r->ref_be, &cache->want, &x->host, at);
        oc_end(r);
    }
}

/* A merge's error follows the sum of its absolute products; plain copies have none. */
static void select_scale(oc_buf *y, const oc_buf *x, const sparse_rows *m, int dim)
{
    double *scale = oc_scale(y);
    for (int i = 0; i < m->n_out; i++)
        for (int c = 0; c < dim; c++) {
            double sum = 0;
            int n = m->start[i + 1] - m->start[i];
            for (int e = m->start[i]; e < m->start[i + 1]; e++)
                sum += fabs((double)m->weight[e] * (double)oc_values(x)[m->index[e] * dim + c]);
            bool copy = n == 1 && m->weight[m->start[i]] == 1.0f;
            scale[i * dim + c] = copy ? 0 : sum * (n + 1);
        }
}

/* kind 0: kept tokens only; 1: merges of up to 5 rows; 2: both, equal weights and an empty row. */
static void select_run(oc_run *r, int n_in, int n_out, int dim, int kind, oc_fill fill)
{
    if (!oc_begin(r, "select_rows", "%d of %d x %d kind %d fill %s", n_out, n_in, dim, kind,
                  oc_fill_name(fill)))
        return;
    oc_buf *x = oc_in(r, SQ_DTYPE_F32, n_in, dim, fill), *y = oc_out(r, n_out, dim);
    int32_t *start = oc_alloc(((size_t)n_out + 1) * sizeof *start);
    int32_t *index = oc_alloc((size_t)n_out * 5 * sizeof *index);
    float *weight = oc_alloc((size_t)n_out * 5 * sizeof *weight);
    int unused = n_in > 2 ? n_in / 2 : -1; /* holds NaN and is never selected */
    start[0] = 0;
    for (int i = 0; i < n_out; i++) {
        int n = kind == 0 ? 1 : kind == 1 ? 1 + oc_pick(r, 5) : i % 4;
        start[i + 1] = start[i] + n;
        for (int e = start[i]; e < start[i + 1]; e++) {
            do
                index[e] = oc_pick(r, n_in);
            while (index[e] == unused);
            weight[e] = kind == 0 || n == 1 ? 1.0f
                        : kind == 1         ? (float)oc_uniform(r)
                                            : 1.0f / (float)n;
        }
    }
    if (unused >= 0) oc_values(x)[unused * dim] = NAN;
    sparse_rows m = {n_out, start, index, weight};
    select_scale(y, x, &m, dim);
    oc_upload(r);
    r->ops.select_rows(r->be, &y->dev, &x->dev, &m);
    r->ref.select_rows(r->ref_be, &y->want, &x->host, &m);
    oc_end(r);
    free(start);
    free(index);
    free(weight);
}

void oc_check_select_rows(oc_run *r)
{
    static const int n_in[] = {1, 2, 3, 17, 576, 577}, dim[] = {1, 3, 16, 65, 577, 1024};
    static const oc_fill fills[] = {OC_RANDOM, OC_WIDE, OC_TIES, OC_TINY, OC_HUGE};
    int v = 0;
    for (size_t a = 0; a < sizeof n_in / sizeof *n_in; a++)
        for (size_t b = 0; b < sizeof dim / sizeof *dim; b++)
            for (int kind = 0; kind < 3; kind++, v++)
                select_run(r, n_in[a], 1 + (n_in[a] * (v % 3)) / 2, dim[b], kind, fills[v % 5]);
}

typedef struct rope_case {
    int n, n_head, head_dim, positions; /* 0: 0.., 1: gaps and repeats, 2: far out */
    bool interleaved;
    float mscale;
    int nan;
} rope_case;

static void rope_scale(oc_buf *x, const rope_case *c)
{
    double *scale = oc_scale(x);
    int half = c->head_dim / 2;
    for (int v = 0; v < c->n * c->n_head; v++)
        for (int i = 0; i < half; i++) {
            int a = v * c->head_dim + (c->interleaved ? 2 * i : i);
            int b = v * c->head_dim + (c->interleaved ? 2 * i + 1 : i + half);
            double x0 = (double)oc_values(x)[a], x1 = (double)oc_values(x)[b];
            scale[a] = scale[b] = (fabs(x0) + fabs(x1)) * (double)c->mscale;
        }
}

static void rope_run(oc_run *r, const rope_case *c, oc_fill fill)
{
    float inv_freq[64];
    if (!oc_begin(r, "rope", "%d rows, %d heads of %d, positions %d%s mscale %g fill %s%s", c->n,
                  c->n_head, c->head_dim, c->positions, c->interleaved ? " interleaved" : "",
                  (double)c->mscale, oc_fill_name(fill), c->nan ? " NaN" : ""))
        return;
    for (int i = 0; i < c->head_dim / 2; i++)
        inv_freq[i] = (float)pow(10000.0, -2.0 * i / c->head_dim);
    oc_buf *x = oc_inout(r, SQ_DTYPE_F32, c->n, c->n_head * c->head_dim, fill);
    int32_t *pos = oc_alloc((size_t)c->n * sizeof *pos);
    for (int i = 0; i < c->n; i++)
        pos[i] = c->positions == 0 ? i : c->positions == 1 ? oc_pick(r, 4096) : 32767 - i;
    if (c->nan) oc_values(x)[c->nan * c->n_head * c->head_dim] = NAN;
    rope_scale(x, c);
    oc_upload(r);
    rope_desc d = {c->n_head, c->head_dim, c->interleaved, inv_freq, c->mscale};
    r->ops.rope(r->be, &x->dev, pos, &d);
    r->ref.rope(r->ref_be, &x->want, pos, &d);
    oc_end(r);
    free(pos);
}

void oc_check_rope(oc_run *r)
{
    static const int n[] = {1, 2, 3, 7, 63, 577}, head_dim[] = {2, 8, 64, 72, 80, 128};
    static const oc_fill fills[] = {OC_RANDOM, OC_WIDE, OC_TINY, OC_HUGE, OC_TIES};
    int v = 0;
    for (size_t a = 0; a < sizeof n / sizeof *n; a++)
        for (size_t b = 0; b < sizeof head_dim / sizeof *head_dim; b++)
            for (int k = 0; k < 6; k++, v++) {
                rope_case c = {n[a], 1 + v % 5, head_dim[b], k / 2, k % 2, v % 3 ? 1.0f : 1.25f, 0};
                if (c.n > 2 && v % 3 == 1) c.nan = 1 + v % (c.n - 1);
                rope_run(r, &c, fills[v % 5]);
            }
}
