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
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        round_trip(r, sizes[i]);
    for (int i = 0; i < 20; i++)
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
    static const int64_t sizes[] = {32, 64, 96, 1056, 4096, 1000000, 1, 7, 33, 4097, 1000003};
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
enum { R_SEQ = 2, R_DIM = 64, R_HEADS = 4, R_KV_HEADS = 2, R_HEAD = 16, R_WIDE = 96, R_VOCAB = 40 };
enum { R_KV = R_KV_HEADS * R_HEAD, R_ROWS = 24, R_TURNS = 6 };

typedef struct chain {
    oc_run *r;
    sq_tensor ids, pos, len, embed, norm, wq, wk, wv, wo, gate, up, down; /* inputs */
    sq_tensor x, h, q, k, v, att, mid, scratch, logits, best, gap;
    sq_tensor ck[R_SEQ], cv[R_SEQ];
    float inv_freq[R_HEAD / 2];
} chain;

static void chain_ops(void *user)
{
    chain *c = user;
    sq_backend *be = c->r->be;
    const sq_ops *o = &c->r->ops;
    linear_desc add = {SQ_ACT_NONE, true}, plain = {SQ_ACT_NONE, false};
    sq_tensor *qkv[] = {&c->q, &c->k, &c->v};
    const sq_tensor *w[] = {&c->wq, &c->wk, &c->wv}, *b[] = {NULL, NULL, NULL};
    const sq_tensor *ck[R_SEQ], *cv[R_SEQ];
    for (int i = 0; i < R_SEQ; i++) {
        ck[i] = &c->ck[i];
        cv[i] = &c->cv[i];
    }
    rope_desc rope = {R_HEADS, R_KV_HEADS, R_HEAD, true, c->inv_freq, 1.0f};
    attn_desc d = {.n_head = R_HEADS, .n_head_kv = R_KV_HEADS, .head_dim = R_HEAD, .scale = 0.25f};
    kv_step step = {R_SEQ, &c->pos, &c->len, ck, cv};
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
static sq_tensor carve(oc_buf *b, size_t *at, sq_dtype t, int64_t rows, int64_t cols)
{
    sq_tensor v = tensor_2d((unsigned char *)b->dev.data + *at, t, rows, cols);
    *at += (tensor_bytes(&v) + 63) / 64 * 64;
    return v;
}

/* Everything that a chain writes: R_TURNS of direct calls and of the region must leave the same. */
static void chain_outputs(oc_run *r, chain *c, oc_buf *b)
{
    size_t at = 0;
    for (int i = 0; i < R_SEQ; i++) {
        c->ck[i] = carve(b, &at, r->act, R_ROWS, R_KV);
        c->cv[i] = carve(b, &at, r->act, R_ROWS, R_KV);
    }
    c->x = carve(b, &at, SQ_DTYPE_F32, R_SEQ, R_DIM);
    c->h = carve(b, &at, r->act, R_SEQ, R_DIM);
    c->q = carve(b, &at, r->act, R_SEQ, R_HEADS * R_HEAD);
    c->k = carve(b, &at, r->act, R_SEQ, R_KV);
    c->v = carve(b, &at, r->act, R_SEQ, R_KV);
    c->att = carve(b, &at, r->act, R_SEQ, R_HEADS * R_HEAD);
    c->mid = carve(b, &at, r->act, R_SEQ, R_WIDE);
    c->scratch = carve(b, &at, r->act, 2 * R_SEQ, R_WIDE);
    c->logits = carve(b, &at, SQ_DTYPE_F32, R_SEQ, R_VOCAB);
    sq_tensor best = carve(b, &at, SQ_DTYPE_I32, 1, R_SEQ);
    sq_tensor gap = carve(b, &at, SQ_DTYPE_F32, 1, R_SEQ);
    c->best = oc_vector(&best);
    c->gap = oc_vector(&gap);
    if (at > b->bytes) abort();
}

static void chain_inputs(oc_run *r, chain *c, oc_buf *ints[3])
{
    const int32_t zero[R_SEQ] = {0};
    sq_tensor *to[] = {&c->ids, &c->pos, &c->len};
    for (int i = 0; i < 3; i++) {
        ints[i] = oc_ints(r, zero, R_SEQ);
        ints[i]->ignored = ints[i]->output = true; /* written by the turns */
        ints[i]->want_mem = oc_alloc(ints[i]->bytes);
        *to[i] = oc_vector(&ints[i]->dev);
    }
    sq_tensor norm = oc_stored(r, SQ_DTYPE_F32, 1, R_DIM, OC_RANDOM)->dev;
    c->norm = oc_vector(&norm);
    c->embed = weight_of(r, R_VOCAB, R_DIM);
    c->wq = weight_of(r, R_HEADS * R_HEAD, R_DIM);
    c->wk = weight_of(r, R_KV, R_DIM);
    c->wv = weight_of(r, R_KV, R_DIM);
    c->wo = weight_of(r, R_DIM, R_HEADS * R_HEAD);
    c->gate = weight_of(r, R_WIDE, R_DIM);
    c->up = weight_of(r, R_WIDE, R_DIM);
    c->down = weight_of(r, R_DIM, R_WIDE);
    for (int i = 0; i < R_HEAD / 2; i++)
        c->inv_freq[i] = (float)pow(10000.0, -2.0 * i / R_HEAD);
}

static void chain_turn(oc_run *r, chain *c, int turn, bool region)
{
    const int32_t ids[] = {turn * 7 % R_VOCAB, (turn + 3) * 5 % R_VOCAB};
    const int32_t pos[] = {turn, 20 + turn}, len[] = {turn, 5 + turn};
    const char key[] = "a small decoder";
    r->be->write(r->be, c->ids.data, ids, sizeof ids);
    r->be->write(r->be, c->pos.data, pos, sizeof pos);
    r->be->write(r->be, c->len.data, len, sizeof len);
    if (region)
        r->region(r->be, key, sizeof key, chain_ops, c);
    else
        chain_ops(c);
}

void oc_check_region(oc_run *r)
{
    enum { SIZE = 64 << 10 };
    if (!oc_begin(r, "region", "%d turns of a layer", R_TURNS)) return;
    static chain c;
    oc_buf *ints[3];
    c = (chain){.r = r};
    chain_inputs(r, &c, ints);
    oc_buf *b = oc_typed_out(r, SQ_DTYPE_F32, 1, SIZE / 4, OC_ZERO);
    oc_upload(r);
    chain_outputs(r, &c, b);
    unsigned char *wanted = oc_alloc((size_t)R_TURNS * SIZE), *got = oc_alloc(SIZE);
    for (int direct = 1; direct >= 0; direct--) {
        r->be->write(r->be, b->dev.data, b->host.data, SIZE);
        for (int t = 0; t < R_TURNS; t++) {
            unsigned char *to = direct ? wanted + (size_t)t * SIZE : got;
            chain_turn(r, &c, t, !direct);
            r->be->read(r->be, to, b->dev.data, SIZE);
            if (direct) continue;
            size_t at = 0;
            while (at < SIZE && got[at] == wanted[(size_t)t * SIZE + at])
                at++;
            oc_expect(r, at == SIZE, "turn %d: byte %lld differs from that of direct calls", t,
                      (long long)at);
        }
    }
    memcpy(b->want_mem, wanted + (size_t)(R_TURNS - 1) * SIZE, SIZE);
    for (int i = 0; i < SIZE / 4; i++)
        oc_scale(b)[i] = OC_EXACT;
    float x;
    memcpy(&x, wanted + ((unsigned char *)c.x.data - (unsigned char *)b->dev.data), sizeof x);
    oc_expect(r, oc_is_finite(x) && x != 0, "the chain's first value is %g", (double)x);
    oc_end(r);
    free(wanted);
    free(got);
}
