/* Small examples with constants computed elsewhere (torch, float64) from the formulas of ops.h:
 * slot and reference are both held to them, so that the reference is no truth by itself. */
#include "opcheck.h"

#include <math.h>
#include <string.h>

/* The reference's result is in out->want; both it and the slot's must be `expected`. What a slot
 * rounds to 16 bits on the way moves values of up to 4. */
static void hand_output(oc_run *r, oc_buf *out, const float *expected)
{
    int64_t n = tensor_count(&out->host);
    float *want = out->want.data;
    double *slack = oc_slack(out);
    for (int64_t i = 0; i < n; i++) {
        bool same =
            isinf(expected[i]) ? want[i] == expected[i] : fabsf(want[i] - expected[i]) <= 2e-6f;
        oc_expect(r, same, "the reference's value %lld is %.9g, expected %.9g", (long long)i,
                  (double)want[i], (double)expected[i]);
        oc_scale(out)[i] = 1;
        slack[i] = 4 * r->unit;
    }
    memcpy(want, expected, (size_t)n * sizeof *want);
}

static oc_buf *hand_in(oc_run *r, sq_dtype t, int rows, int cols, const float *values)
{
    oc_buf *b = oc_in(r, t, rows, cols, OC_ZERO);
    memcpy(oc_values(b), values, (size_t)(rows * cols) * sizeof *values);
    return b;
}

static oc_buf *hand_inout(oc_run *r, sq_dtype t, int rows, int cols, const float *values)
{
    oc_buf *b = oc_inout(r, t, rows, cols, OC_ZERO);
    memcpy(oc_values(b), values, (size_t)(rows * cols) * sizeof *values);
    return b;
}

static const float x23[] = {1, -2, 3, 0.5f, 4, -1}, w23[] = {2, 0, -1, 0.25f, 1, 3};
static const float bias2[] = {0.5f, -1}, w3[] = {1, 2, -1}, b3[] = {0.5f, 0, 1};

static void hand_linear(oc_run *r)
{
    static const float want[3][4] = {{-0.5f, 6.25f, 2.5f, 0.125f},
                                     {-0.15426877f, 6.25f, 2.48447584f, 0.06871728f},
                                     {0.5f, 8.25f, 5.5f, 4.125f}};
    static const linear_desc d[] = {
        {SQ_ACT_NONE, false}, {SQ_ACT_GELU, false}, {SQ_ACT_NONE, true}};
    for (int v = 0; v < 3; v++) {
        if (!oc_begin(r, "by hand", "linear %d", v)) return;
        static const float old[] = {1, 2, 3, 4};
        oc_buf *x = hand_in(r, r->act, 2, 3, x23), *w = hand_in(r, r->act, 2, 3, w23);
        oc_buf *b = hand_in(r, SQ_DTYPE_F32, 1, 2, bias2);
        oc_buf *y = d[v].add ? hand_inout(r, SQ_DTYPE_F32, 2, 2, old) : oc_out(r, r->act, 2, 2);
        oc_upload(r);
        sq_tensor bd = oc_vector(&b->dev), bh = oc_vector(&b->host);
        r->ops.linear(r->be, &y->dev, &x->dev, &w->dev, &bd, &d[v]);
        r->ref.linear(r->ref_be, &y->want, &x->host, &w->host, &bh, &d[v]);
        hand_output(r, y, want[v]);
        oc_end(r);
    }
}

static void hand_norms(oc_run *r)
{
    static const float want[2][6] = {
        {0.66222123f, -2.59553966f, -0.13554860f, 0.18177745f, 2.70489168f, 2.03422329f},
        {0.46290955f, -1.85163822f, -1.38872866f, 0.20851423f, 3.33622772f, 0.41702847f}};
    for (int v = 0; v < 2; v++) {
        if (!oc_begin(r, "by hand", "%s", v ? "rms_norm" : "layer_norm")) return;
        oc_buf *x = hand_in(r, SQ_DTYPE_F32, 2, 3, x23), *w = hand_in(r, SQ_DTYPE_F32, 1, 3, w3);
        oc_buf *b = hand_in(r, SQ_DTYPE_F32, 1, 3, b3), *y = oc_out(r, r->act, 2, 3);
        oc_upload(r);
        sq_tensor wd = oc_vector(&w->dev), bd = oc_vector(&b->dev);
        sq_tensor wh = oc_vector(&w->host), bh = oc_vector(&b->host);
        if (v) {
            r->ops.rms_norm(r->be, &y->dev, &x->dev, &wd, 1e-5f);
            r->ref.rms_norm(r->ref_be, &y->want, &x->host, &wh, 1e-5f);
        } else {
            r->ops.layer_norm(r->be, &y->dev, &x->dev, &wd, &bd, 1e-5f);
            r->ref.layer_norm(r->ref_be, &y->want, &x->host, &wh, &bh, 1e-5f);
        }
        hand_output(r, y, want[v]);
        oc_end(r);
    }
}

static void hand_activations(oc_run *r)
{
    static const float in[] = {-3, -1, -0.25f, 0, 0.5f, 2}, up[] = {2, 1, -4, 1, 1, 0.5f};
    static const float want[5][6] = {
        {-3, -1, -0.25f, 0, 0.5f, 2},
        {-0.00404969f, -0.15865525f, -0.10032342f, 0, 0.34573123f, 1.95449974f},
        {-0.00363739f, -0.15880801f, -0.10032465f, 0, 0.34571401f, 1.95459769f},
        {-0.01807131f, -0.15420423f, -0.09880035f, 0, 0.35038844f, 1.93565862f},
        {-0.14227762f, -0.26894142f, -0.10945587f, 0, 0.31122967f, 1.76159416f}};
    for (int act = SQ_ACT_NONE; act <= SQ_ACT_SILU; act++) {
        if (!oc_begin(r, "by hand", "activation %d", act)) return;
        oc_buf *x = hand_in(r, r->act, 1, 6, in), *y = oc_out(r, r->act, 1, 6);
        oc_upload(r);
        r->ops.activate(r->be, &y->dev, &x->dev, (sq_act)act);
        r->ref.activate(r->ref_be, &y->want, &x->host, (sq_act)act);
        hand_output(r, y, want[act]);
        oc_end(r);
    }
    if (!oc_begin(r, "by hand", "silu_mul")) return;
    float product[6];
    for (int i = 0; i < 6; i++)
        product[i] = want[SQ_ACT_SILU][i] * up[i];
    oc_buf *g = hand_in(r, r->act, 1, 6, in), *u = hand_in(r, r->act, 1, 6, up);
    oc_buf *y = oc_out(r, r->act, 1, 6);
    oc_upload(r);
    r->ops.silu_mul(r->be, &y->dev, &g->dev, &u->dev);
    r->ref.silu_mul(r->ref_be, &y->want, &g->host, &u->host);
    hand_output(r, y, product);
    oc_end(r);
}

/* Two rows, one query: the last; row 1 of the caches is the first that is written. */
static void hand_rope(oc_run *r)
{
    static const float in[] = {4, 3, 2, 1, 1, 2, 3, 4}, inv_freq[] = {1, 0.01f};
    static const float want[2][4] = {{-1.41335252f, 1.87911807f, -2.82885748f, 4.05819114f},
                                     {-1.27223251f, -1.83886499f, 2.87866810f, 4.08818664f}};
    static const float old[] = {-1, -1, -1, -1, -2, -2, -2, -2, -3, -3, -3, -3, -4, -4, -4, -4};
    static const int32_t at[] = {0, 3}; /* position 0 does not turn */
    for (int v = 0; v < 2; v++) {
        if (!oc_begin(r, "by hand", "rope_append, interleaved %d", v)) return;
        float keys[16], values[16];
        memcpy(keys, old, sizeof keys);
        memcpy(values, old, sizeof values);
        memcpy(keys + 4, in, 4 * sizeof *in);
        memcpy(keys + 8, want[v], sizeof want[v]);
        memcpy(values + 4, in, sizeof in);
        rope_desc d = {1, 1, 4, v == 1, inv_freq, 1.0f};
        oc_buf *q = hand_inout(r, r->act, 1, 4, in + 4);
        oc_buf *k = oc_spent(r, r->act, 2, 4, OC_ZERO), *x = hand_in(r, r->act, 2, 4, in);
        oc_buf *ck = hand_inout(r, SQ_DTYPE_F32, 4, 4, old);
        oc_buf *cv = hand_inout(r, SQ_DTYPE_F32, 4, 4, old), *p = oc_ints(r, at, 2);
        memcpy(oc_values(k), in, sizeof in);
        oc_upload(r);
        sq_tensor dev = oc_vector(&p->dev), host = oc_vector(&p->host);
        r->ops.rope_append(r->be, &q->dev, &k->dev, &x->dev, &ck->dev, &cv->dev, 1, &dev, &d);
        r->ref.rope_append(r->ref_be, &q->want, &k->want, &x->host, &ck->want, &cv->want, 1, &host,
                           &d);
        hand_output(r, q, want[v]);
        hand_output(r, ck, keys);
        hand_output(r, cv, values);
        oc_end(r);
    }
}

/* Three tokens, two heads of 8 that share their keys; sparse values at [token][head][column]. */
typedef struct hand_attn {
    float q[48], k[24], v[24];
} hand_attn;

static hand_attn hand_tokens(void)
{
    hand_attn t = {{0}, {0}, {0}};
    t.q[0] = 1, t.q[8 + 1] = 2, t.q[16] = -1, t.q[16 + 7] = 1, t.q[24 + 2] = 3, t.q[32 + 1] = 1;
    t.k[0] = 1, t.k[1] = 0.5f, t.k[8 + 1] = -1, t.k[8 + 7] = 2, t.k[16 + 2] = 1, t.k[16] = 0.25f;
    t.v[0] = 1, t.v[8] = 2, t.v[16] = 4, t.v[7] = -1, t.v[16 + 7] = 1;
    return t;
}

static void hand_attention(oc_run *r)
{
    /* columns 0 and 7 of [query][head]; the others are 0 */
    static const float part[2][8] = {{2.16329902f, -0.13632749f, 2.11644853f, -0.21505043f,
                                      2.27534537f, 0.06559210f, 3.22859614f, 0.53715768f},
                                     {1.37754067f, -0.62245933f, 1.18242552f, -0.81757448f,
                                      2.27534537f, 0.06559210f, 3.22859614f, 0.53715768f}};
    hand_attn t = hand_tokens();
    for (int causal = 0; causal < 2; causal++) {
        float want[32] = {0};
        for (int i = 0; i < 4; i++) {
            want[8 * i] = part[causal][2 * i];
            want[8 * i + 7] = part[causal][2 * i + 1];
        }
        if (!oc_begin(r, "by hand", "attn, causal %d", causal)) return;
        attn_desc d = {1, 2, 3, 2, 1, 8, causal, 1, 0, 0.5f};
        oc_buf *q = hand_in(r, r->act, 2, 16, t.q), *k = hand_in(r, r->act, 3, 8, t.k);
        oc_buf *v = hand_in(r, r->act, 3, 8, t.v), *y = oc_out(r, r->act, 2, 16);
        oc_upload(r);
        r->ops.attn(r->be, &y->dev, &q->dev, &k->dev, &v->dev, &d);
        r->ref.attn(r->ref_be, &y->want, &q->host, &k->host, &v->host, &d);
        hand_output(r, y, want);
        oc_end(r);
    }
}

static void hand_attn_rows(oc_run *r)
{
    /* query 1, then query 0; [row][head][key] */
    static const float want[3][12] = {
        {0.14416117f, 0.64608556f, 0.20975327f, 0.15428077f, 0.15428077f, 0.69143845f, 0.43595401f,
         0.26441947f, 0.29962652f, 0.54654939f, 0.12195165f, 0.33149896f},
        {-0.5f, 1, -0.125f, 0, 0, 1.5f, 0.5f, 0, 0.125f, 0.5f, -1, 0},
        {0.14416117f, 0.64608556f, 0.20975327f, 0.15428077f, 0.15428077f, 0.69143845f, 0.62245933f,
         0.37754067f, 0, 0.81757448f, 0.18242552f, 0}};
    static const int32_t row[] = {1, 0};
    hand_attn t = hand_tokens();
    for (int v = 0; v < 3; v++) { /* probabilities, logits, causal */
        if (!oc_begin(r, "by hand", "attn_rows %d", v)) return;
        attn_desc d = {1, 2, 3, 2, 1, 8, v == 2, 1, 0, 0.5f};
        oc_buf *q = hand_in(r, r->act, 2, 16, t.q), *k = hand_in(r, r->act, 3, 8, t.k);
        oc_buf *y = oc_out(r, SQ_DTYPE_F32, 4, 3);
        oc_upload(r);
        sq_tensor dev = {y->dev.data, SQ_DTYPE_F32, 4, {1, 2, 2, 3}}, host = dev;
        host.data = y->want.data;
        r->ops.attn_rows(r->be, &dev, &q->dev, &k->dev, row, 2, v == 1, &d);
        r->ref.attn_rows(r->ref_be, &host, &q->host, &k->host, row, 2, v == 1, &d);
        hand_output(r, y, want[v]);
        oc_end(r);
    }
}

static void hand_attn_means(oc_run *r)
{
    static const float want[2][2][2] = {{{0.33588287f, 0.39511981f}, {0.42538951f, 0.30561317f}},
                                        {{0.125f, 0.34375f}, {0.59375f, -0.125f}}};
    hand_attn t = hand_tokens();
    for (int logits = 0; logits < 2; logits++) {
        if (!oc_begin(r, "by hand", "attn_means, logits %d", logits)) return;
        attn_desc d = {1, 3, 3, 2, 1, 8, false, 0, 0, 0.5f};
        oc_buf *q = hand_in(r, r->act, 3, 16, t.q), *k = hand_in(r, r->act, 3, 8, t.k);
        oc_buf *received = oc_out(r, SQ_DTYPE_F32, 1, 2), *given = oc_out(r, SQ_DTYPE_F32, 1, 2);
        oc_upload(r);
        r->ops.attn_means(r->be, &received->dev, &given->dev, &q->dev, &k->dev, 1, logits, &d);
        r->ref.attn_means(r->ref_be, &received->want, &given->want, &q->host, &k->host, 1, logits,
                          &d);
        hand_output(r, received, want[logits][0]);
        hand_output(r, given, want[logits][1]);
        oc_end(r);
    }
}

/* One token for each of two sequences, one of them new: with a single key its value is the result.
 * The other sees a stored key with logit 0 and its own with logit 0.5 * 1 * 2 = 1. */
static void hand_attn_step(oc_run *r)
{
    static const float inv_freq[] = {1, 1, 1, 1};
    static const float q[] = {3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0};
    static const float k[] = {1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0};
    static const float v[] = {5, 1, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 2};
    static const float old_k[] = {0, 1, 0, 0, 0, 0, 0, 0, 7, 7, 7, 7, 7, 7, 7, 7};
    static const float old_v[] = {-4, 0, 0, 0, 0, 0, 0, 2, 7, 7, 7, 7, 7, 7, 7, 7};
    /* weights 1 / (1 + e) and e / (1 + e) */
    static const float want[] = {5, 1, 0, 0, 0, 0, 0, 0, 1.84846863f, 0, 0, 0, 0, 0, 0, 2};
    static const int32_t pos[] = {0, 0}, len[] = {0, 1};
    if (!oc_begin(r, "by hand", "attn_step")) return;
    float expected[4][16];
    const sq_tensor *ck[2], *cv[2], *wk[2], *wv[2];
    oc_buf *cache[4];
    for (int i = 0; i < 4; i++) {
        const float *old = i < 2 ? old_k : old_v, *new_row = i < 2 ? k : v;
        cache[i] = hand_inout(r, SQ_DTYPE_F32, 2, 8, old);
        memcpy(expected[i], old, sizeof expected[i]);
        memcpy(expected[i] + 8 * len[i % 2], new_row + 8 * (i % 2), 8 * sizeof *old);
        (i < 2 ? ck : cv)[i % 2] = &cache[i]->dev;
        (i < 2 ? wk : wv)[i % 2] = &cache[i]->want;
    }
    oc_buf *qb = oc_spent(r, r->act, 2, 8, OC_ZERO), *kb = oc_spent(r, r->act, 2, 8, OC_ZERO);
    oc_buf *vb = hand_in(r, r->act, 2, 8, v), *y = oc_out(r, r->act, 2, 8);
    oc_buf *p = oc_ints(r, pos, 2), *n = oc_ints(r, len, 2);
    memcpy(oc_values(qb), q, sizeof q);
    memcpy(oc_values(kb), k, sizeof k);
    oc_upload(r);
    sq_tensor pd = oc_vector(&p->dev), nd = oc_vector(&n->dev);
    sq_tensor ph = oc_vector(&p->host), nh = oc_vector(&n->host);
    kv_step dev = {2, &pd, &nd, ck, cv}, host = {2, &ph, &nh, wk, wv};
    rope_desc rope = {1, 1, 8, true, inv_freq, 1.0f};
    attn_desc d = {.n_head = 1, .n_head_kv = 1, .head_dim = 8, .scale = 0.5f};
    r->ops.attn_step(r->be, &y->dev, &qb->dev, &kb->dev, &vb->dev, &dev, &rope, &d);
    r->ref.attn_step(r->ref_be, &y->want, &qb->want, &kb->want, &vb->host, &host, &rope, &d);
    hand_output(r, y, want);
    for (int i = 0; i < 4; i++)
        hand_output(r, cache[i], expected[i]);
    oc_end(r);
}

static void hand_gated(oc_run *r)
{
    /* g = x w23^T, u = x x23^T */
    static const float g[] = {-1, 7.25f, 2, 1.125f}, u[] = {14, -10.5f, -10.5f, 17.25f};
    float want[4];
    if (!oc_begin(r, "by hand", "linear_gated and linear_many")) return;
    for (int i = 0; i < 4; i++)
        want[i] = g[i] / (1 + expf(-g[i])) * u[i] / 64;
    static const float up[] = {0.015625f, -0.03125f, 0.046875f, 0.0078125f, 0.0625f, -0.015625f};
    oc_buf *x = hand_in(r, r->act, 2, 3, x23), *gate = hand_in(r, r->act, 2, 3, w23);
    oc_buf *w = hand_in(r, r->act, 2, 3, up), *y = oc_out(r, r->act, 2, 2);
    oc_buf *spent = oc_spent(r, r->act, 4, 2, OC_ZERO);
    oc_buf *y1 = oc_out(r, SQ_DTYPE_F32, 2, 2), *y2 = oc_out(r, SQ_DTYPE_F32, 2, 2);
    oc_buf *b = hand_in(r, SQ_DTYPE_F32, 1, 2, bias2);
    float with_bias[4], scaled[4];
    for (int i = 0; i < 4; i++) {
        with_bias[i] = g[i] + bias2[i % 2];
        scaled[i] = u[i] / 64;
    }
    oc_upload(r);
    sq_tensor bd = oc_vector(&b->dev), bh = oc_vector(&b->host);
    sq_tensor *yd[] = {&y1->dev, &y2->dev}, *yw[] = {&y1->want, &y2->want};
    const sq_tensor *wd[] = {&gate->dev, &w->dev}, *wh[] = {&gate->host, &w->host};
    const sq_tensor *bds[] = {&bd, NULL}, *bhs[] = {&bh, NULL};
    r->ops.linear_gated(r->be, &y->dev, &x->dev, &gate->dev, &w->dev, &spent->dev);
    r->ref.linear_gated(r->ref_be, &y->want, &x->host, &gate->host, &w->host, &spent->want);
    r->ops.linear_many(r->be, yd, &x->dev, wd, bds, 2);
    r->ref.linear_many(r->ref_be, yw, &x->host, wh, bhs, 2);
    hand_output(r, y, want);
    hand_output(r, y1, with_bias);
    hand_output(r, y2, scaled);
    oc_end(r);
}

static void hand_patchify(oc_run *r)
{
    static const float image[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}; /* [3,2,2] */
    static const float patches[] = {1, 5, 9, 2, 6, 10, 3, 7, 11, 4, 8, 12};
    if (!oc_begin(r, "by hand", "patchify")) return;
    oc_buf *x = hand_in(r, SQ_DTYPE_F32, 6, 2, image), *y = oc_out(r, r->act, 4, 3);
    oc_upload(r);
    sq_tensor dev = {x->dev.data, SQ_DTYPE_F32, 4, {1, 3, 2, 2}}, host = dev;
    host.data = x->host.data;
    r->ops.patchify(r->be, &y->dev, &dev, NULL, 1);
    r->ref.patchify(r->ref_be, &y->want, &host, NULL, 1);
    hand_output(r, y, patches);
    oc_end(r);

    /* two views of one pixel; level[c,v] = v / 4 + c */
    static const uint8_t bytes[] = {0, 4, 255, 8, 1, 2};
    static const float pixels[] = {0, 2, 65.75f, 2, 1.25f, 2.5f};
    if (!oc_begin(r, "by hand", "patchify of bytes")) return;
    x = oc_typed(r, SQ_DTYPE_U8, 2, 3, OC_ZERO);
    memcpy(x->host.data, bytes, sizeof bytes);
    oc_buf *level = oc_in(r, SQ_DTYPE_F32, 3, 256, OC_ZERO);
    for (int i = 0; i < 3 * 256; i++)
        oc_values(level)[i] = (float)(i % 256) / 4 + (float)(i / 256);
    y = oc_out(r, SQ_DTYPE_F32, 2, 3);
    oc_upload(r);
    dev = (sq_tensor){x->dev.data, SQ_DTYPE_U8, 4, {2, 1, 1, 3}};
    host = dev;
    host.data = x->host.data;
    r->ops.patchify(r->be, &y->dev, &dev, &level->dev, 1);
    r->ref.patchify(r->ref_be, &y->want, &host, &level->host, 1);
    hand_output(r, y, pixels);
    oc_end(r);
}

static void hand_rows(oc_run *r)
{
    static const float rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    static const int32_t start[] = {0, 1, 1, 3}, index[] = {2, 0, 1}, ids[] = {2, 0};
    static const float weight[] = {1, 0.5f, -2};
    static const float merged[] = {9, 10, 11, 12, 0, 0, 0, 0, -9.5f, -11, -12.5f, -14};
    static const float looked_up[] = {9, 10, 11, 12, 1, 2, 3, 4};
    if (!oc_begin(r, "by hand", "select_rows and embed")) return;
    oc_buf *x = hand_in(r, SQ_DTYPE_F32, 3, 4, rows), *w = hand_in(r, r->act, 3, 4, rows);
    oc_buf *y = oc_out(r, r->act, 3, 4), *e = oc_out(r, SQ_DTYPE_F32, 2, 4);
    oc_buf *id = oc_ints(r, ids, 2);
    oc_upload(r);
    sparse_rows m = {3, start, index, weight};
    sq_tensor dev = oc_vector(&id->dev), host = oc_vector(&id->host);
    r->ops.select_rows(r->be, &y->dev, &x->dev, &m);
    r->ref.select_rows(r->ref_be, &y->want, &x->host, &m);
    r->ops.embed(r->be, &e->dev, &w->dev, &dev);
    r->ref.embed(r->ref_be, &e->want, &w->host, &host);
    hand_output(r, y, merged);
    hand_output(r, e, looked_up);
    oc_end(r);

    static const float old[] = {10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120};
    static const float added[] = {2, 0, -1, 0.25f, 1, 3};
    static const float sum[] = {12, 20, 29, 40.25f, 51, 63, 72, 80, 89, 100.25f, 111, 123};
    static const float gaps[] = {0.75f, 0};
    if (!oc_begin(r, "by hand", "add and argmax")) return;
    oc_buf *total = hand_inout(r, SQ_DTYPE_F32, 4, 3, old);
    static const float ranked[] = {1, -2, 1.75f, 3, 3, 0};
    e = hand_in(r, SQ_DTYPE_F32, 2, 3, added);
    x = hand_in(r, SQ_DTYPE_F32, 2, 3, ranked);
    oc_buf *best = oc_typed_out(r, SQ_DTYPE_I32, 1, 2, OC_ZERO),
           *gap = oc_out(r, SQ_DTYPE_F32, 1, 2);
    oc_upload(r);
    sq_tensor bd = oc_vector(&best->dev), bw = oc_vector(&best->want);
    sq_tensor gd = oc_vector(&gap->dev), gw = oc_vector(&gap->want);
    r->ops.add(r->be, &total->dev, &e->dev);
    r->ref.add(r->ref_be, &total->want, &e->host);
    r->ops.argmax(r->be, &bd, &gd, &x->dev);
    r->ref.argmax(r->ref_be, &bw, &gw, &x->host);
    const int32_t *place = best->want.data;
    oc_expect(r, place[0] == 2 && place[1] == 0, "the reference ranks %d and %d first, not 2 and 0",
              (int)place[0], (int)place[1]);
    oc_scale(best)[0] = oc_scale(best)[1] = OC_EXACT;
    hand_output(r, gap, gaps);
    hand_output(r, total, sum);
    oc_end(r);
}

void oc_check_by_hand(oc_run *r)
{
    hand_linear(r);
    hand_gated(r);
    hand_norms(r);
    hand_activations(r);
    hand_rope(r);
    hand_attention(r);
    hand_attn_step(r);
    hand_attn_rows(r);
    hand_attn_means(r);
    hand_patchify(r);
    hand_rows(r);
}
