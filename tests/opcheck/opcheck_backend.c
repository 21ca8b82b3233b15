/* What a backend does besides its slots: moving bytes, converting types, running regions. */
#include "opcheck.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- read and write ---- */

static void fill_bytes(oc_run *r, unsigned char *p, size_t n)
{
    uint32_t state = (uint32_t)oc_pick(r, 1 << 30);
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        p[i] = (unsigned char)(state >> 24);
    }
}

static void round_trip(oc_run *r, size_t size)
{
    if (!oc_begin(r, "memory", "%lld bytes there and back", (long long)size)) return;
    oc_buf *b = oc_typed(r, SQ_DTYPE_U8, 1, (int64_t)size, OC_ZERO);
    unsigned char *sent = oc_alloc(size), *spare = oc_alloc(size);
    fill_bytes(r, sent, size);
    memcpy(spare, sent, size);
    oc_upload(r);
    r->be->write(r->be, b->dev.data, spare, size);
    memset(spare, 0, size);           /* the source may be reused at once */
    memcpy(b->host.data, sent, size); /* what oc_end wants to read */
    oc_end(r);
    free(sent);
    free(spare);
}

/* A small piece of a large tensor, at any place. */
static void piece(oc_run *r, size_t size, size_t at, size_t n)
{
    if (!oc_begin(r, "memory", "%lld of %lld bytes at %lld", (long long)n, (long long)size,
                  (long long)at))
        return;
    oc_buf *b = oc_typed(r, SQ_DTYPE_U8, 1, (int64_t)size, OC_ZERO);
    unsigned char *sent = oc_alloc(n), *back = oc_alloc(n);
    fill_bytes(r, sent, n);
    oc_upload(r);
    unsigned char *to = (unsigned char *)b->dev.data + at;
    r->be->write(r->be, to, sent, n);
    memcpy((unsigned char *)b->host.data + at, sent, n);
    r->be->read(r->be, back, to, n);
    oc_expect(r, memcmp(sent, back, n) == 0, "read back something else");
    oc_end(r);
    free(sent);
    free(back);
}

/* Writes, ops and reads take effect in the order in which they were asked for. */
static void order(oc_run *r)
{
    enum { N = 300000, TURNS = 40 };
    if (!oc_begin(r, "memory", "write, add, write, add")) return;
    oc_buf *x = oc_in(r, SQ_DTYPE_F32, 1, N, OC_ZERO);
    oc_buf *y = oc_inout(r, SQ_DTYPE_F32, 1, N, OC_ZERO);
    float *v = oc_alloc(N * sizeof *v), sum = 0;
    oc_upload(r);
    for (int t = 0; t < TURNS; t++) {
        for (int i = 0; i < N; i++)
            v[i] = (float)(t + 1);
        sum += (float)(t + 1);
        r->be->write(r->be, x->dev.data, v, N * sizeof *v);
        r->ops.add(r->be, &y->dev, &x->dev);
    }
    for (int i = 0; i < N; i++) {
        oc_values(x)[i] = (float)TURNS;
        ((float *)y->want.data)[i] = sum;
        oc_scale(y)[i] = OC_EXACT;
    }
    oc_end(r);
    free(v);
}

void oc_check_memory(oc_run *r)
{
    const size_t mb = (size_t)1 << 20;
    const size_t sizes[] = {1,      2,          3,          4,       255,        4097,
                            2 * mb, 2 * mb - 1, 2 * mb + 1, 5000000, 5 * mb + 3, 37 * mb + 1};
    const size_t n_size = sizeof sizes / sizeof *sizes;
    for (size_t i = 0; i < n_size - !oc_is_device(r); i++) /* the largest is for staging alone */
        round_trip(r, sizes[i]);
    for (int i = 0; i < (oc_is_device(r) ? 20 : 5); i++)
        piece(r, 5 * mb, (size_t)oc_pick(r, 2 << 20), (size_t)1 + (size_t)oc_pick(r, 3 << 20));
    order(r);
}

/* ---- convert ---- */

static void convert_run(oc_run *r, sq_dtype from, sq_dtype to, int64_t n, oc_fill fill)
{
    if (!oc_begin(r, "convert", "%lld %s to %s fill %s", (long long)n, dtype_name(from),
                  dtype_name(to), oc_fill_name(fill)))
        return;
    oc_buf *src = oc_typed(r, from, 1, n, fill);
    oc_buf *dst = oc_typed_out(r, to, 1, n, OC_RANDOM);
    static const float edge[] = {NAN,      INFINITY,     -INFINITY,    -0.0f,    65504.0f,
                                 65520.0f, 1 + 0x1p-11f, 1 + 0x3p-11f, 0x1p-25f, 0x3p-25f,
                                 1e-40f,   1 + 0x1p-8f,  1 + 0x3p-8f,  3.39e38f, 0x1p-134f};
    for (int64_t i = 0; from != SQ_DTYPE_Q8_0 && i < n; i += 3)
        oc_put(&src->host, i, edge[i / 3 % (int64_t)(sizeof edge / sizeof *edge)]);
    oc_upload(r);
    r->be->convert(r->be, dst->dev.data, to, src->dev.data, from, n);
    float *values = oc_alloc((size_t)n * sizeof *values);
    convert_to_f32(values, src->host.data, from, n);
    convert_from_f32(dst->want.data, to, values, n);
    for (int64_t i = 0; i < n; i++)
        oc_scale(dst)[i] = OC_EXACT;
    oc_end(r);
    free(values);
}

void oc_check_convert(oc_run *r)
{
    const int64_t most = oc_is_device(r) ? 1000000 : 64000;
    const int64_t sizes[] = {32, 64, 96, 1056, 4096, most, 1, 7, 33, 4097, most + 3};
    static const oc_fill fills[] = {OC_RANDOM, OC_WIDE, OC_TINY, OC_HUGE};
    if (!r->be->convert) return;
    for (int from = SQ_DTYPE_F32; from <= SQ_DTYPE_Q8_0; from++)
        for (int to = SQ_DTYPE_F32; to <= SQ_DTYPE_BF16; to++)
            for (int i = 0; i < (from == SQ_DTYPE_Q8_0 ? 6 : 11); i++)
                convert_run(r, (sq_dtype)from, (sq_dtype)to, sizes[i],
                            fills[(i + to) % (from == SQ_DTYPE_Q8_0 ? 2 : 4)]);
}

/* ---- region ---- */

/* One layer of a tiny decoder on sequences of different lengths: what a step replays. */
enum { R_SEQ = 2, R_TURNS = 6, R_INPUTS = 12 };

typedef struct chain_shape {
    int n_seq, len[R_SEQ], rows; /* rows held at first; room in the caches */
    int dim, n_head, n_head_kv, head_dim, wide, vocab;
} chain_shape;

typedef struct chain {
    oc_run *r;
    chain_shape s;
    sq_tensor ids, pos, len, embed, norm, wq, wk, wv, wo, gate, up, down; /* inputs */
    sq_tensor x, h, q, k, v, att, mid, scratch, logits, best, gap;
    sq_tensor ck[R_SEQ], cv[R_SEQ];
    float inv_freq[64];
} chain;

/* All that the region reads from the host; without padding, since it is compared as bytes. */
typedef struct chain_key {
    chain_shape s;
    const void *input[R_INPUTS], *output;
} chain_key;

static void chain_ops(void *user)
{
    chain *c = user;
    sq_backend *be = c->r->be;
    const sq_ops *o = &c->r->ops;
    const chain_shape *s = &c->s;
    linear_desc add = {SQ_ACT_NONE, true}, plain = {SQ_ACT_NONE, false};
    sq_tensor *qkv[] = {&c->q, &c->k, &c->v};
    const sq_tensor *w[] = {&c->wq, &c->wk, &c->wv}, *b[] = {NULL, NULL, NULL};
    const sq_tensor *ck[] = {&c->ck[0], &c->ck[1]}, *cv[] = {&c->cv[0], &c->cv[1]};
    rope_desc rope = {s->n_head, s->n_head_kv, s->head_dim, true, c->inv_freq, 1.0f};
    attn_desc d = {.n_head = s->n_head,
                   .n_head_kv = s->n_head_kv,
                   .head_dim = s->head_dim,
                   .scale = 1 / sqrtf((float)s->head_dim)};
    kv_step step = {s->n_seq, &c->pos, &c->len, ck, cv};
    o->embed(be, &c->x, &c->embed, &c->ids);
    o->rms_norm(be, &c->h, &c->x, &c->norm, 1e-5f);
    o->linear_many(be, qkv, &c->h, w, b, 3);
    o->attn_step(be, &c->att, &c->q, &c->k, &c->v, &step, &rope, &d);
    o->linear(be, &c->x, &c->att, &c->wo, NULL, &add);
    o->rms_norm(be, &c->h, &c->x, &c->norm, 1e-5f);
    o->linear_gated(be, &c->mid, &c->h, &c->gate, &c->up, &c->scratch);
    o->linear(be, &c->x, &c->mid, &c->down, NULL, &add);
    o->rms_norm(be, &c->h, &c->x, &c->norm, 1e-5f);
    o->linear(be, &c->logits, &c->h, &c->embed, NULL, &plain);
    o->argmax(be, &c->best, &c->gap, &c->logits);
}

static sq_tensor weight_of(oc_run *r, int out, int in)
{
    return oc_stored(r, oc_weight_type(r, SQ_DTYPE_F32), out, in, OC_RANDOM)->dev;
}

/* Space for all that the chain writes, from one buffer. */
static sq_tensor carve(uintptr_t base, size_t *at, sq_dtype t, int64_t rows, int64_t cols)
{
    sq_tensor v = tensor_2d((void *)(base + *at), t, rows, cols);
    *at += (tensor_bytes(&v) + 63) / 64 * 64;
    return v;
}

/* Everything that a chain writes, the caches first: R_TURNS of direct calls and of the region must
 * leave the same. Returns the bytes of the caches, and of all in *size. */
static size_t chain_outputs(chain *c, uintptr_t base, size_t *size)
{
    const chain_shape *s = &c->s;
    const sq_dtype t = c->r->act;
    size_t at = 0;
    int n = s->n_seq, kv = s->n_head_kv * s->head_dim, q = s->n_head * s->head_dim;
    for (int i = 0; i < n; i++) {
        c->ck[i] = carve(base, &at, t, s->rows, kv);
        c->cv[i] = carve(base, &at, t, s->rows, kv);
    }
    size_t caches = at;
    c->x = carve(base, &at, SQ_DTYPE_F32, n, s->dim);
    c->h = carve(base, &at, t, n, s->dim);
    c->q = carve(base, &at, t, n, q);
    c->k = carve(base, &at, t, n, kv);
    c->v = carve(base, &at, t, n, kv);
    c->att = carve(base, &at, t, n, q);
    c->mid = carve(base, &at, t, n, s->wide);
    c->scratch = carve(base, &at, t, 2 * n, s->wide);
    c->logits = carve(base, &at, SQ_DTYPE_F32, n, s->vocab);
    sq_tensor best = carve(base, &at, SQ_DTYPE_I32, 1, n);
    sq_tensor gap = carve(base, &at, SQ_DTYPE_F32, 1, n);
    c->best = oc_vector(&best);
    c->gap = oc_vector(&gap);
    *size = at;
    return caches;
}

static void chain_inputs(oc_run *r, chain *c)
{
    const int32_t zero[R_SEQ] = {0};
    const chain_shape *s = &c->s;
    int q = s->n_head * s->head_dim, kv = s->n_head_kv * s->head_dim;
    sq_tensor *to[] = {&c->ids, &c->pos, &c->len};
    for (int i = 0; i < 3; i++) {
        oc_buf *b = oc_ints(r, zero, s->n_seq);
        b->ignored = b->output = true; /* written by the turns */
        b->want_mem = oc_alloc(b->bytes);
        *to[i] = oc_vector(&b->dev);
    }
    sq_tensor norm = oc_stored(r, SQ_DTYPE_F32, 1, s->dim, OC_RANDOM)->dev;
    c->norm = oc_vector(&norm);
    c->embed = weight_of(r, s->vocab, s->dim);
    c->wq = weight_of(r, q, s->dim);
    c->wk = weight_of(r, kv, s->dim);
    c->wv = weight_of(r, kv, s->dim);
    c->wo = weight_of(r, s->dim, q);
    c->gate = weight_of(r, s->wide, s->dim);
    c->up = weight_of(r, s->wide, s->dim);
    c->down = weight_of(r, s->dim, s->wide);
    for (int i = 0; i < s->head_dim / 2; i++)
        c->inv_freq[i] = (float)pow(10000.0, -2.0 * i / s->head_dim);
}

static void chain_turn(oc_run *r, chain *c, int turn, bool region)
{
    const chain_shape *s = &c->s;
    const int32_t ids[] = {turn * 7 % s->vocab, (turn + 3) * 5 % s->vocab};
    const int32_t len[] = {s->len[0] + turn, s->len[1] + turn};
    const int32_t pos[] = {len[0], len[1] + 15};
    size_t size = (size_t)s->n_seq * sizeof *ids;
    chain_key key = {*s,
                     {c->ids.data, c->pos.data, c->len.data, c->embed.data, c->norm.data,
                      c->wq.data, c->wk.data, c->wv.data, c->wo.data, c->gate.data, c->up.data,
                      c->down.data},
                     c->x.data};
    r->be->write(r->be, c->ids.data, ids, size);
    r->be->write(r->be, c->pos.data, pos, size);
    r->be->write(r->be, c->len.data, len, size);
    if (region)
        r->region(r->be, &key, sizeof key, chain_ops, c);
    else
        chain_ops(c);
}

static void region_run(oc_run *r, const chain_shape *s)
{
    if (!oc_begin(r, "region", "%d turns of a layer, %d sequences, %d wide, heads %d/%d of %d",
                  R_TURNS, s->n_seq, s->dim, s->n_head, s->n_head_kv, s->head_dim))
        return;
    static chain c;
    size_t size;
    c = (chain){.r = r, .s = *s};
    chain_inputs(r, &c);
    size_t caches = chain_outputs(&c, 0, &size);
    oc_buf *b = oc_typed_out(r, SQ_DTYPE_F32, 1, (int64_t)size / 4, OC_ZERO);
    sq_tensor stored =
        tensor_1d(b->host.data, r->act, (int64_t)(caches / dtype_row_bytes(r->act, 1)));
    for (int64_t i = 0; i < stored.shape[0]; i++)
        oc_put(&stored, i, (float)oc_uniform(r));
    oc_upload(r);
    chain_outputs(&c, (uintptr_t)b->dev.data, &size);
    unsigned char *wanted = oc_alloc(R_TURNS * size), *got = oc_alloc(size);
    for (int direct = 1; direct >= 0; direct--) {
        r->be->write(r->be, b->dev.data, b->host.data, size);
        for (int t = 0; t < R_TURNS; t++) {
            unsigned char *want = wanted + (size_t)t * size;
            chain_turn(r, &c, t, !direct);
            r->be->read(r->be, direct ? want : got, b->dev.data, size);
            if (direct) continue;
            size_t at = 0;
            while (at < size && got[at] == want[at])
                at++;
            oc_expect(r, at == size, "turn %d: byte %lld differs from that of direct calls", t,
                      (long long)at);
        }
    }
    memcpy(b->want_mem, wanted + (size_t)(R_TURNS - 1) * size, size);
    for (size_t i = 0; i < size / 4; i++)
        oc_scale(b)[i] = OC_EXACT;
    float x;
    memcpy(&x, wanted + ((unsigned char *)c.x.data - (unsigned char *)b->dev.data), sizeof x);
    oc_expect(r, oc_is_finite(x) && x != 0, "the chain's first value is %g", (double)x);
    oc_end(r);
    free(wanted);
    free(got);
}

/* First a small one; then what takes a device's kernels for one row and for long caches. */
void oc_check_region(oc_run *r)
{
    static const chain_shape shapes[] = {{2, {0, 5}, 24, 64, 4, 2, 16, 96, 40},
                                         {1, {690, 0}, 700, 512, 8, 2, 64, 1376, 1000},
                                         {1, {690, 0}, 700, 512, 4, 4, 128, 1376, 1000}};
    for (int i = 0; i < 3; i++) {
        oc_align_next(r);
        region_run(r, &shapes[i]);
    }
}
