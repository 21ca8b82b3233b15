/* Cases of the decode step: one new token each for sequences of different lengths. */
#include "opcheck.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct step_case {
    int n_seq, len[SQ_STEP_MAX];
    int n_head, n_head_kv, head_dim, window;
    sq_dtype cache;
    bool interleaved;
    int spare; /* rows of the caches behind the new one */
    int nan_q,
        nan_kv;   /* sequence with a NaN in q; with one in the first row of k and v; -1: none */
    float factor; /* of q: sharpness */
} step_case;

typedef struct step_bufs {
    oc_buf *q, *k, *v, *out, *pos, *len, *ck[SQ_STEP_MAX], *cv[SQ_STEP_MAX];
} step_bufs;

/* Rows from `len` on hold NaN: only the new one's is written. */
static oc_buf *make_cache(oc_run *r, const step_case *c, int seq)
{
    int64_t dim = (int64_t)c->n_head_kv * c->head_dim, rows = c->len[seq] + 1 + c->spare;
    oc_buf *b = oc_typed_out(r, c->cache, rows, dim, OC_RANDOM);
    oc_put_nan(&b->host, c->len[seq]);
    if (c->nan_kv == seq && c->len[seq]) oc_put(&b->host, dim / 2, NAN);
    return b;
}

static step_bufs make_step(oc_run *r, const step_case *c)
{
    step_bufs b = {0};
    int32_t pos[SQ_STEP_MAX], len[SQ_STEP_MAX];
    int64_t q_dim = (int64_t)c->n_head * c->head_dim, dim = (int64_t)c->n_head_kv * c->head_dim;
    for (int i = 0; i < c->n_seq; i++) {
        len[i] = c->len[i];
        pos[i] = c->len[i] + 3 * i + (c->len[i] > 60 ? 500 : 0); /* pruned tokens leave gaps */
        b.ck[i] = make_cache(r, c, i);
        b.cv[i] = make_cache(r, c, i);
    }
    b.q = oc_spent(r, r->act, c->n_seq, q_dim, OC_RANDOM);
    b.k = oc_spent(r, r->act, c->n_seq, dim, OC_RANDOM);
    b.v = oc_in(r, r->act, c->n_seq, dim, OC_RANDOM);
    b.out = oc_out(r, r->act, c->n_seq, q_dim);
    b.pos = oc_ints(r, pos, c->n_seq);
    b.len = oc_ints(r, len, c->n_seq);
    for (int64_t i = 0; i < c->n_seq * q_dim; i++)
        oc_values(b.q)[i] *= c->factor;
    if (c->nan_q >= 0) oc_values(b.q)[c->nan_q * q_dim + c->head_dim / 2] = NAN;
    return b;
}

/* Allowed errors of the caches: v and what was there keep their bits, the new row of k is rotated
 * in f32 and rounded once. */
static void cache_limits(const step_case *c, const step_bufs *b, int seq)
{
    int64_t dim = (int64_t)c->n_head_kv * c->head_dim, at = c->len[seq] * dim;
    int64_t n = tensor_count(&b->ck[seq]->host);
    double *sk = oc_scale(b->ck[seq]), *sv = oc_scale(b->cv[seq]);
    const float *k = oc_values(b->k) + seq * dim;
    for (int64_t i = 0; i < n; i++)
        sk[i] = sv[i] = OC_EXACT;
    for (int64_t i = 0; i < dim; i++) {
        int half = c->head_dim / 2, in = (int)(i % c->head_dim);
        int64_t pair = c->interleaved ? i ^ 1 : in < half ? i + half : i - half;
        sk[at + i] = fabs((double)k[i]) + fabs((double)k[pair]);
    }
}

/* The softmax's own error alone: q is rotated and used in f32, and the reference attends to the
 * rows of the caches as the slot left them. */
static void out_limits(const step_case *c, const step_bufs *b, int seq, float scale_qk)
{
    int group = c->n_head / c->n_head_kv;
    double *scale = oc_scale(b->out), v_max = oc_largest(&b->cv[seq]->want), k_max = 0;
    float *k = oc_floats(&b->ck[seq]->want);
    for (int64_t h = 0; h < c->n_head; h++) {
        const float *qh = (float *)b->q->want.data + (seq * c->n_head + h) * c->head_dim;
        double q = oc_norm(qh, c->head_dim);
        if (h % group == 0) k_max = 0;
        for (int64_t j = 0; h % group == 0 && j <= c->len[seq]; j++)
            k_max =
                fmax(k_max, oc_norm(k + (j * c->n_head_kv + h / group) * c->head_dim, c->head_dim));
        double bound = (double)scale_qk * q * k_max;
        for (int64_t i = 0; i < c->head_dim; i++) {
            int64_t at = (seq * c->n_head + h) * c->head_dim + i;
            scale[at] = (1 + bound) * v_max;
        }
    }
    free(k);
}

/* A slot attends to the rows as they are in its caches, the new one too: so must the reference,
 * which may have rounded that one the other way. */
static void attend_to_device(oc_run *r, const step_bufs *b, const attn_desc *d, int seq)
{
    oc_buf *from[] = {b->ck[seq], b->cv[seq]};
    sq_tensor kv[2], out = tensor_rows(&b->out->want, seq, 1), q = tensor_rows(&b->q->want, seq, 1);
    for (int i = 0; i < 2; i++) {
        kv[i] = from[i]->dev;
        kv[i].data = oc_alloc(from[i]->bytes);
        r->be->read(r->be, kv[i].data, from[i]->dev.data, from[i]->bytes);
    }
    attn_desc one = *d;
    one.n_kv = ((const int32_t *)b->len->host.data)[seq] + 1;
    one.causal = true;
    one.n_q = 1;
    one.q_pos0 = one.n_kv - 1;
    r->ref.attn(r->ref_be, &out, &q, &kv[0], &kv[1], &one);
    free(kv[0].data);
    free(kv[1].data);
}

static bool step_begin(oc_run *r, const step_case *c)
{
    char len[64] = "";
    for (int i = 0; i < c->n_seq; i++) {
        size_t at = strlen(len);
        snprintf(len + at, sizeof len - at, " %d", c->len[i]);
    }
    return oc_begin(
        r, "attn_step", "%d lens%s heads %d/%d of %d window %d cache %s%s factor %g nan %d %d",
        c->n_seq, len, c->n_head, c->n_head_kv, c->head_dim, c->window, dtype_name(c->cache),
        c->interleaved ? " interleaved" : "", (double)c->factor, c->nan_q, c->nan_kv);
}

static void step_run(oc_run *r, const step_case *c)
{
    float inv_freq[128];
    if (!step_begin(r, c)) return;
    for (int i = 0; i < c->head_dim / 2; i++)
        inv_freq[i] = (float)pow(10000.0, -2.0 * i / c->head_dim);
    step_bufs b = make_step(r, c);
    oc_upload(r);
    rope_desc rope = {c->n_head, c->n_head_kv, c->head_dim, c->interleaved, inv_freq, 1.0f};
    attn_desc d = {.n_head = c->n_head,
                   .n_head_kv = c->n_head_kv,
                   .head_dim = c->head_dim,
                   .window = c->window,
                   .scale = 1 / sqrtf((float)c->head_dim)};
    const sq_tensor *k[SQ_STEP_MAX], *v[SQ_STEP_MAX], *k_want[SQ_STEP_MAX], *v_want[SQ_STEP_MAX];
    for (int i = 0; i < c->n_seq; i++) {
        k[i] = &b.ck[i]->dev, v[i] = &b.cv[i]->dev;
        k_want[i] = &b.ck[i]->want, v_want[i] = &b.cv[i]->want;
    }
    sq_tensor pos = oc_vector(&b.pos->dev), len = oc_vector(&b.len->dev);
    sq_tensor host_pos = oc_vector(&b.pos->host), host_len = oc_vector(&b.len->host);
    kv_step s = {c->n_seq, &pos, &len, k, v},
            want = {c->n_seq, &host_pos, &host_len, k_want, v_want};
    r->ops.attn_step(r->be, &b.out->dev, &b.q->dev, &b.k->dev, &b.v->dev, &s, &rope, &d);
    r->ref.attn_step(r->ref_be, &b.out->want, &b.q->want, &b.k->want, &b.v->host, &want, &rope, &d);
    for (int i = 0; i < c->n_seq; i++) {
        cache_limits(c, &b, i);
        attend_to_device(r, &b, &d, i);
        out_limits(c, &b, i, d.scale);
    }
    oc_end(r);
}

static step_case step_of(int n_head, int n_head_kv, int head_dim, sq_dtype cache)
{
    return (step_case){.n_seq = 1,
                       .n_head = n_head,
                       .n_head_kv = n_head_kv,
                       .head_dim = head_dim,
                       .cache = cache,
                       .nan_q = -1,
                       .nan_kv = -1,
                       .factor = 1};
}

static void long_run(oc_run *r, const step_case *c)
{
    oc_align_next(r);
    step_run(r, c);
}

void oc_check_attn_step_long(oc_run *r)
{
    const sq_dtype cache = r->unit > 0 ? r->act : SQ_DTYPE_F16;
    /* elsewhere every head is the same loop */
    step_case c = oc_is_device(r) ? step_of(32, 32, 128, cache) : step_of(4, 4, 128, cache);
    c.len[0] = 631; /* a 7B decoder's */
    c.interleaved = true;
    c.spare = 300;
    long_run(r, &c);
    c.n_head_kv /= 4;
    c.n_seq = 2;
    c.len[1] = 2500; /* long enough to be shared by several blocks */
    long_run(r, &c);
    c.window = 1000;
    long_run(r, &c);
    c = step_of(4, 4, 128, cache);
    c.len[0] = 2935;
    long_run(r, &c);
    c.factor = 12;
    long_run(r, &c);
    for (int n = 8; n <= SQ_STEP_MAX; n *= 8) {
        c = step_of(4, n == 8 ? 4 : 2, n == 8 ? 128 : 64, cache);
        c.n_seq = n;
        for (int i = 0; i < n; i++)
            c.len[i] = i * 97 % 700;
        long_run(r, &c);
    }
}

void oc_check_attn_step(oc_run *r)
{
    static const int lens[] = {0, 1, 7, 63, 64, 631},
                     heads[][2] = {{2, 2}, {4, 1}, {8, 1}, {8, 2}, {3, 3}, {16, 2}};
    static const int dim[] = {64, 128, 72, 80, 8}, window[] = {0, 0, 1, 5, 64, 100};
    static const int count[] = {1, 3, 5};
    static const float factor[] = {1, 12, 1, 400, 0};
    for (int v = 0; v < 300; v++) {
        const int *h = heads[v % 6];
        step_case c = step_of(h[0], h[1], dim[v / 2 % 5], (sq_dtype)(SQ_DTYPE_F32 + v % 3));
        if (r->unit > 0 && v % 5) c.cache = r->act; /* the others now and then */
        c.n_seq = count[v / 6 % 3];
        for (int i = 0; i < c.n_seq; i++)
            c.len[i] = lens[(v + i * (1 + v % 4)) % 6];
        c.window = window[v / 3 % 6];
        c.interleaved = v / 4 % 2;
        c.spare = v % 3;
        c.factor = factor[v / 7 % 5];
        if (v % 8 == 3) c.nan_q = c.n_seq - 1;
        if (v % 8 == 6) c.nan_kv = c.n_seq / 2;
        step_run(r, &c);
    }
    oc_check_attn_step_long(r);
}
