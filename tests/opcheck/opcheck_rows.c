/* Cases of the slots that move, rotate, merge or rank rows. */
#include "opcheck.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void patchify_run(oc_run *r, int views, int side, int patch, int extra, bool bytes, int v)
{
    int grid = side / patch;
    sq_dtype t = oc_act_or_f32(r, v);
    if (!oc_begin(r, "patchify", "%d views of %d by %d, %s to %s, %d columns more", views, side,
                  patch, bytes ? "u8" : "f32", dtype_name(t), extra))
        return;
    oc_buf *x = bytes ? oc_typed(r, SQ_DTYPE_U8, views * side, side * 3, OC_ZERO)
                      : oc_in(r, SQ_DTYPE_F32, views * 3 * side, side, OC_WIDE);
    oc_buf *level = bytes ? oc_in(r, SQ_DTYPE_F32, 3, 256, OC_WIDE) : NULL;
    oc_buf *y = oc_out(r, t, (int64_t)views * grid * grid, 3 * patch * patch + extra);
    double *scale = oc_scale(y);
    for (int64_t i = 0; i < tensor_count(&y->host); i++)
        scale[i] = OC_EXACT;
    if (bytes) {
        for (int64_t i = 0; i < tensor_count(&x->host); i++)
            ((uint8_t *)x->host.data)[i] = (uint8_t)oc_pick(r, 256);
        oc_values(level)[256 + 7] = NAN;
    } else {
        oc_values(x)[side * side] = NAN; /* first value of the second channel */
    }
    oc_upload(r);
    sq_tensor dev = {x->dev.data, x->dev.dtype, 4, {views, 3, side, side}};
    if (bytes) dev = (sq_tensor){x->dev.data, x->dev.dtype, 4, {views, side, side, 3}};
    sq_tensor host = dev;
    host.data = x->host.data;
    r->ops.patchify(r->be, &y->dev, &dev, bytes ? &level->dev : NULL, patch);
    r->ref.patchify(r->ref_be, &y->want, &host, bytes ? &level->host : NULL, patch);
    oc_end(r);
}

void oc_check_patchify(oc_run *r)
{
    static const int shape[][2] = {{1, 1},   {2, 1},   {2, 2},   {3, 3},    {6, 2},    {9, 3},
                                   {28, 14}, {42, 14}, {64, 16}, {336, 14}, {224, 16}, {35, 7}};
    int v = 0;
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int views = 1; views <= 5; views += 2, v++) {
            if (shape[i][0] > 100 && views > 3) continue;
            int extra = (v + v / 3) % 3 * 2;
            patchify_run(r, views, shape[i][0], shape[i][1], extra, false, v);
            patchify_run(r, views, shape[i][0], shape[i][1], extra, true, v + 1);
        }
    patchify_run(r, 1, 336, 14, 4, true, v); /* as CLIP's rows are padded on a device */
}

void oc_check_embed(oc_run *r)
{
    static const int n[] = {1, 2, 3, 17, 65, 577}, dim[] = {1, 7, 16, 31, 33, 64, 577, 2048};
    static const oc_fill fills[] = {OC_RANDOM, OC_WIDE, OC_TINY, OC_TIES};
    int v = 0;
    for (int k = SQ_DTYPE_F32; k <= SQ_DTYPE_Q8_0; k++)
        for (size_t a = 0; a < sizeof n / sizeof *n; a++)
            for (size_t b = 0; b < sizeof dim / sizeof *dim; b++, v++) {
                sq_dtype t = oc_weight_type(r, (sq_dtype)k);
                int d = t == SQ_DTYPE_Q8_0 ? (dim[b] + 31) / 32 * 32 : dim[b], vocab = 1 + v % 97;
                oc_fill f = fills[v % 4];
                if (!oc_begin(r, "embed", "%d of %dx%d %s fill %s", n[a], vocab, d, dtype_name(t),
                              oc_fill_name(f)))
                    continue;
                int32_t *ids = oc_alloc((size_t)n[a] * sizeof *ids);
                for (int i = 0; i < n[a]; i++)
                    ids[i] = i == 0 ? vocab - 1 : oc_pick(r, vocab);
                oc_buf *w = oc_stored(r, t, vocab, d, f), *y = oc_out(r, SQ_DTYPE_F32, n[a], d);
                oc_buf *id = oc_ints(r, ids, n[a]);
                oc_upload(r);
                sq_tensor dev = oc_vector(&id->dev), host = oc_vector(&id->host);
                r->ops.embed(r->be, &y->dev, &w->dev, &dev);
                r->ref.embed(r->ref_be, &y->want, &w->host, &host);
                oc_end(r);
                free(ids);
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
            scale[i * dim + c] = copy ? OC_EXACT : sum * (n + 1);
        }
}

/* kind 0: kept tokens only; 1: merges of up to 5 rows; 2: both, equal weights and an empty row. */
static void select_run(oc_run *r, int n_in, int n_out, int dim, int kind, oc_fill fill)
{
    sq_dtype t = oc_act_or_f32(r, n_in + kind + dim);
    if (!oc_begin(r, "select_rows", "%d of %d x %d kind %d fill %s to %s", n_out, n_in, dim, kind,
                  oc_fill_name(fill), dtype_name(t)))
        return;
    oc_buf *x = oc_in(r, SQ_DTYPE_F32, n_in, dim, fill), *y = oc_out(r, t, n_out, dim);
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
    select_run(r, 5, 1, 4096, 1, OC_RANDOM);
    select_run(r, 3, 4, 1, 2, OC_RANDOM);
}

/* ---- rotation and the caches ---- */

typedef struct rope_case {
    int n, n_q, n_head, n_head_kv, head_dim;
    int positions; /* 0: 0.., 1: gaps and repeats, 2: far out */
    bool interleaved;
    float mscale;
    sq_dtype cache;
    int at, spare; /* rows of the caches before and behind the new ones */
    int nan;       /* row with a NaN, 0: none */
    bool edges;    /* v holds what the caches' types must round */
} rope_case;

/* Values that f16 and bf16 must round: halves between two neighbours, overflow, below the normal
 * range. */
static void put_edges(float *x, int n)
{
    static const float edge[] = {1 + 0x1p-11f, 1 + 0x3p-11f, -(1 + 0x1p-11f), 65504.0f,   65519.0f,
                                 65520.0f,     -1e6f,        0x1p-24f,        0x1p-25f,   0x3p-25f,
                                 -0.0f,        0x1.ffcp-15f, 0x1.ffep-15f,    1e-40f,     NAN,
                                 1 + 0x1p-8f,  1 + 0x3p-8f,  -(1 + 0x1p-8f),  3.3895e38f, 3.4e38f,
                                 -3.4e38f,     0x1p-134f,    0x3p-134f,       INFINITY};
    for (int i = 0; i < n; i += 2)
        x[i] = edge[i / 2 % (int)(sizeof edge / sizeof *edge)];
}

/* |a| + |b| of each value's pair. */
static void pair_scale(double *scale, const float *x, int rows, int n_head, const rope_case *c)
{
    int half = c->head_dim / 2;
    for (int v = 0; v < rows * n_head; v++)
        for (int i = 0; i < half; i++) {
            int a = v * c->head_dim + (c->interleaved ? 2 * i : i);
            int b = v * c->head_dim + (c->interleaved ? 2 * i + 1 : i + half);
            scale[a] = scale[b] = (fabs((double)x[a]) + fabs((double)x[b])) * (double)c->mscale;
        }
}

/* Rows that are not new keep their bits, as does v; k is rotated, and may be rounded to the
 * activations' type before it is rounded to the cache's. */
static void cache_scale(const oc_run *r, oc_buf *ck, oc_buf *cv, const oc_buf *k,
                        const rope_case *c)
{
    int64_t n = tensor_count(&ck->host), dim = (int64_t)c->n_head_kv * c->head_dim;
    double *sk = oc_scale(ck), *sv = oc_scale(cv), *slack = oc_slack(ck);
    for (int64_t i = 0; i < n; i++)
        sk[i] = sv[i] = OC_EXACT;
    pair_scale(sk + c->at * dim, oc_values(k), c->n, c->n_head_kv, c);
    for (int64_t i = c->at * dim; i < (c->at + c->n) * dim; i++)
        slack[i] = r->unit * sk[i] + oc_least(r->act);
}

static void rope_run(oc_run *r, const rope_case *c, oc_fill fill)
{
    float inv_freq[128];
    int q_dim = c->n_head * c->head_dim, dim = c->n_head_kv * c->head_dim;
    if (!oc_begin(r, "rope_append",
                  "%d of %d rows, heads %d/%d of %d, positions %d%s mscale %g fill %s cache %s "
                  "at %d%s",
                  c->n_q, c->n, c->n_head, c->n_head_kv, c->head_dim, c->positions,
                  c->interleaved ? " interleaved" : "", (double)c->mscale, oc_fill_name(fill),
                  dtype_name(c->cache), c->at, c->nan ? " NaN" : ""))
        return;
    for (int i = 0; i < c->head_dim / 2; i++)
        inv_freq[i] = (float)pow(10000.0, -2.0 * i / c->head_dim);
    int32_t *p = oc_alloc((size_t)c->n * sizeof *p);
    for (int i = 0; i < c->n; i++)
        p[i] = c->positions == 0 ? i : c->positions == 1 ? oc_pick(r, 4096) : 32767 - i;
    oc_buf *q = oc_inout(r, r->act, c->n_q, q_dim, fill), *k = oc_spent(r, r->act, c->n, dim, fill);
    oc_buf *v = oc_in(r, r->act, c->n, dim, fill), *pos = oc_ints(r, p, c->n);
    oc_buf *ck = oc_typed_out(r, c->cache, c->at + c->n + c->spare, dim, OC_RANDOM);
    oc_buf *cv = oc_typed_out(r, c->cache, c->at + c->n + c->spare, dim, OC_RANDOM);
    if (c->edges) put_edges(oc_values(v), c->n * dim);
    if (c->nan) oc_values(k)[c->nan * dim] = NAN;
    if (c->nan && c->nan < c->n_q) oc_values(q)[c->nan * q_dim + 1] = NAN;
    oc_upload(r);
    pair_scale(oc_scale(q), oc_values(q), c->n_q, c->n_head, c);
    cache_scale(r, ck, cv, k, c);
    rope_desc d = {c->n_head, c->n_head_kv, c->head_dim, c->interleaved, inv_freq, c->mscale};
    sq_tensor pd = oc_vector(&pos->dev), ph = oc_vector(&pos->host);
    r->ops.rope_append(r->be, &q->dev, &k->dev, &v->dev, &ck->dev, &cv->dev, c->at, &pd, &d);
    r->ref.rope_append(r->ref_be, &q->want, &k->want, &v->host, &ck->want, &cv->want, c->at, &ph,
                       &d);
    oc_end(r);
    free(p);
}

void oc_check_rope_append(oc_run *r)
{
    static const int n[] = {1, 2, 3, 7, 63, 577}, head_dim[] = {8, 16, 64, 72, 80, 128};
    static const int heads[][2] = {{1, 1}, {2, 2}, {4, 1}, {3, 3}, {6, 2}};
    static const oc_fill fills[] = {OC_RANDOM, OC_WIDE, OC_TINY, OC_HUGE, OC_TIES};
    int v = 0;
    for (size_t a = 0; a < sizeof n / sizeof *n; a++)
        for (size_t b = 0; b < sizeof head_dim / sizeof *head_dim; b++)
            for (int k = 0; k < 9; k++, v++) {
                rope_case c = {.n = n[a],
                               .n_q = v % 4 == 3   ? 1
                                      : v % 4 == 2 ? (n[a] + 1) / 2
                                                   : n[a],
                               .n_head = heads[v % 5][0],
                               .n_head_kv = heads[v % 5][1],
                               .head_dim = head_dim[b],
                               .positions = k / 3,
                               .interleaved = v % 2,
                               .mscale = v % 3 ? 1.0f : 1.25f,
                               .cache = (sq_dtype)(SQ_DTYPE_F32 + k % 3),
                               .at = v % 7,
                               .spare = v % 3,
                               .edges = v / 3 % 2};
                if (c.n > 2 && v % 3 == 1) c.nan = 1 + v % (c.n - 1);
                rope_run(r, &c, fills[v % 5]);
            }
    const int heads_7b = oc_is_device(r) ? 32 : 4; /* elsewhere every head is the same loop */
    rope_case c = {631, 631, heads_7b, heads_7b, 128, 0, true, 1.0f, SQ_DTYPE_F16, 0, 3, 0, false};
    c.cache = r->unit > 0 ? r->act : c.cache;
    rope_run(r, &c, OC_RANDOM);
    c = (rope_case){200, 1, heads_7b, heads_7b / 4, 128, 1, false, 1.0f, c.cache, 400, 0, 0, false};
    rope_run(r, &c, OC_RANDOM);
}

/* ---- argmax ---- */

typedef enum rank_kind {
    RANK_RANDOM,
    RANK_TIES,  /* the largest twice, the lowest index counts */
    RANK_EQUAL, /* all values alike */
    RANK_NAN,   /* somewhere, in a row of its own */
    RANK_INF,   /* +inf once or twice */
    RANK_LOW,   /* -inf everywhere but in one place, or everywhere */
    RANK_EDGE,  /* the largest first or last; the second beside it */
    RANK_ZEROS, /* 0 and -0 are equal */
    RANK_KINDS
} rank_kind;

static void rank_row(oc_run *r, float *x, int dim, rank_kind kind, int row)
{
    int a = oc_pick(r, dim), b = oc_pick(r, dim);
    for (int i = 0; i < dim; i++) {
        if (kind == RANK_EQUAL) x[i] = -1.5f;
        if (kind == RANK_LOW) x[i] = -INFINITY;
        if (kind == RANK_ZEROS) x[i] = oc_pick(r, 2) ? 0.0f : -0.0f;
        if (kind == RANK_TIES) x[i] = (float)oc_pick(r, 7);
    }
    if (kind == RANK_TIES) x[a] = x[b] = 9;
    if (kind == RANK_NAN && row % 2 == 0) x[a] = NAN;
    if (kind == RANK_NAN && row % 4 == 0) x[b] = INFINITY;
    if (kind == RANK_INF) x[a] = INFINITY;
    if (kind == RANK_INF && row % 2) x[b] = INFINITY;
    if (kind == RANK_LOW && row % 2) x[a] = -1e30f;
    if (kind != RANK_EDGE) return;
    int best = row % 2 ? dim - 1 : 0, next = row % 2 ? dim - 2 : 1;
    x[best] = 5;
    if (dim > 1) x[next] = 4.75f;
}

static void argmax_run(oc_run *r, int n, int dim, rank_kind kind)
{
    if (!oc_begin(r, "argmax", "%dx%d kind %d", n, dim, (int)kind)) return;
    oc_buf *x = oc_in(r, SQ_DTYPE_F32, n, dim, dim % 2 ? OC_WIDE : OC_RANDOM);
    oc_buf *best = oc_typed_out(r, SQ_DTYPE_I32, 1, n, OC_ZERO);
    oc_buf *gap = oc_out(r, SQ_DTYPE_F32, 1, n);
    for (int i = 0; i < n; i++) {
        rank_row(r, oc_values(x) + (int64_t)i * dim, dim, kind, i);
        ((int32_t *)best->host.data)[i] = -7;
        oc_scale(best)[i] = oc_scale(gap)[i] = OC_EXACT;
    }
    oc_upload(r);
    sq_tensor bd = oc_vector(&best->dev), bw = oc_vector(&best->want);
    sq_tensor gd = oc_vector(&gap->dev), gw = oc_vector(&gap->want);
    r->ops.argmax(r->be, &bd, &gd, &x->dev);
    r->ref.argmax(r->ref_be, &bw, &gw, &x->host);
    oc_end(r);
}

void oc_check_argmax(oc_run *r)
{
    static const int dim[] = {1, 2, 3, 7, 31, 32, 33, 255, 1000, 1025, 32000, 32064};
    static const int n[] = {1, 2, 5, 8};
    for (size_t b = 0; b < sizeof dim / sizeof *dim; b++)
        for (int kind = 0; kind < RANK_KINDS; kind++)
            argmax_run(r, n[(b + (size_t)kind) % 4], dim[b], (rank_kind)kind);
    for (int kind = 0; kind < RANK_KINDS; kind++)
        argmax_run(r, 1 + kind % 3, 151936, (rank_kind)kind);
}
