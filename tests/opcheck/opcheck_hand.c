/* Small examples with constants computed elsewhere (torch, float64) from the formulas of ops.h:
 * slot and reference are both held to them, so that the reference is no truth by itself. */
#include "opcheck.h"

#include <math.h>
#include <string.h>

/* The reference's result is in out->want; both it and the slot's must be `expected`. */
static void hand_output(oc_run *r, oc_buf *out, const float *expected)
{
    int64_t n = tensor_count(&out->host);
    float *want = out->want.data;
    for (int64_t i = 0; i < n; i++) {
        bool same =
            isinf(expected[i]) ? want[i] == expected[i] : fabsf(want[i] - expected[i]) <= 2e-6f;
        oc_expect(r, same, "the reference's value %lld is %.9g, expected %.9g", (long long)i,
                  (double)want[i], (double)expected[i]);
        oc_scale(out)[i] = 1;
    }
    memcpy(want, expected, (size_t)n * sizeof *want);
}

static oc_buf *hand_in(oc_run *r, int rows, int cols, const float *values)
{
    oc_buf *b = oc_in(r, SQ_DTYPE_F32, rows, cols, OC_ZERO);
    memcpy(oc_values(b), values, (size_t)(rows * cols) * sizeof *values);
    return b;
}

static oc_buf *hand_inout(oc_run *r, int rows, int cols, const float *values)
{
    oc_buf *b = oc_inout(r, SQ_DTYPE_F32, rows, cols, OC_ZERO);
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
        oc_buf *x = hand_in(r, 2, 3, x23), *w = hand_in(r, 2, 3, w23), *b = hand_in(r, 1, 2, bias2);
        oc_buf *y = d[v].add ? hand_inout(r, 2, 2, old) : oc_out(r, 2, 2);
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
        oc_buf *x = hand_in(r, 2, 3, x23), *w = hand_in(r, 1, 3, w3), *b = hand_in(r, 1, 3, b3);
        oc_buf *y = oc_out(r, 2, 3);
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
        oc_buf *x = hand_in(r, 1, 6, in), *y = oc_out(r, 1, 6);
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
    oc_buf *g = hand_in(r, 1, 6, in), *u = hand_in(r, 1, 6, up), *y = oc_out(r, 1, 6);
    oc_upload(r);
    r->ops.silu_mul(r->be, &y->dev, &g->dev, &u->dev);
    r->ref.silu_mul(r->ref_be, &y->want, &g->host, &u->host);
    hand_output(r, y, product);
    oc_end(r);
}

static void hand_rope(oc_run *r)
{
    static const float in[] = {1, 2, 3, 4}, inv_freq[] = {1, 0.01f};
    static const float want[2][4] = {{-1.41335252f, 1.87911807f, -2.82885748f, 4.05819114f},
                                     {-1.27223251f, -1.83886499f, 2.87866810f, 4.08818664f}};
    const int32_t pos[] = {3};
    for (int v = 0; v < 2; v++) {
        if (!oc_begin(r, "by hand", "rope, interleaved %d", v)) return;
        rope_desc d = {1, 4, v == 1, inv_freq, 1.0f};
        oc_buf *x = hand_inout(r, 1, 4, in);
        oc_upload(r);
        r->ops.rope(r->be, &x->dev, pos, &d);
        r->ref.rope(r->ref_be, &x->want, pos, &d);
        hand_output(r, x, want[v]);
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
        attn_desc d = {2, 3, 2, 1, 8, causal, 1, 0, 0.5f};
        oc_buf *q = hand_in(r, 2, 16, t.q), *k = hand_in(r, 3, 8, t.k), *v = hand_in(r, 3, 8, t.v);
        oc_buf *y = oc_out(r, 2, 16);
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
        attn_desc d = {2, 3, 2, 1, 8, v == 2, 1, 0, 0.5f};
        oc_buf *q = hand_in(r, 2, 16, t.q), *k = hand_in(r, 3, 8, t.k), *y = oc_out(r, 4, 3);
        oc_upload(r);
        sq_tensor dev = {y->dev.data, SQ_DTYPE_F32, 3, {2, 2, 3}}, host = dev;
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
        attn_desc d = {3, 3, 2, 1, 8, false, 0, 0, 0.5f};
        oc_buf *q = hand_in(r, 3, 16, t.q), *k = hand_in(r, 3, 8, t.k);
        oc_buf *received = oc_out(r, 1, 2), *given = oc_out(r, 1, 2);
        oc_upload(r);
        sq_tensor dev[] = {oc_vector(&received->dev), oc_vector(&given->dev)};
        sq_tensor host[] = {oc_vector(&received->want), oc_vector(&given->want)};
        r->ops.attn_means(r->be, &dev[0], &dev[1], &q->dev, &k->dev, 1, logits, &d);
        r->ref.attn_means(r->ref_be, &host[0], &host[1], &q->host, &k->host, 1, logits, &d);
        hand_output(r, received, want[logits][0]);
        hand_output(r, given, want[logits][1]);
        oc_end(r);
    }
}

static void hand_rows(oc_run *r)
{
    static const float image[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}; /* [3,2,2] */
    static const float patches[] = {1, 5, 9, 2, 6, 10, 3, 7, 11, 4, 8, 12};
    if (!oc_begin(r, "by hand", "patchify")) return;
    oc_buf *x = hand_in(r, 6, 2, image), *y = oc_out(r, 4, 3);
    oc_upload(r);
    sq_tensor dev = {x->dev.data, SQ_DTYPE_F32, 3, {3, 2, 2}}, host = dev;
    host.data = x->host.data;
    r->ops.patchify(r->be, &y->dev, &dev, 1);
    r->ref.patchify(r->ref_be, &y->want, &host, 1);
    hand_output(r, y, patches);
    oc_end(r);

    static const int32_t start[] = {0, 1, 1, 3}, index[] = {2, 0, 1}, ids[] = {2, 0};
    static const float weight[] = {1, 0.5f, -2};
    static const float merged[] = {9, 10, 11, 12, 0, 0, 0, 0, -9.5f, -11, -12.5f, -14};
    static const float looked_up[] = {9, 10, 11, 12, 1, 2, 3, 4};
    if (!oc_begin(r, "by hand", "select_rows and embed")) return;
    x = hand_in(r, 3, 4, image);
    y = oc_out(r, 3, 4);
    oc_buf *e = oc_out(r, 2, 4);
    oc_upload(r);
    sparse_rows m = {3, start, index, weight};
    r->ops.select_rows(r->be, &y->dev, &x->dev, &m);
    r->ref.select_rows(r->ref_be, &y->want, &x->host, &m);
    r->ops.embed(r->be, &e->dev, &x->dev, ids, 2);
    r->ref.embed(r->ref_be, &e->want, &x->host, ids, 2);
    hand_output(r, y, merged);
    hand_output(r, e, looked_up);
    oc_end(r);

    static const float old[] = {10, 20, 30, 40, 50, 60};
    static const float appended[] = {10, 20, 2, 0, -1, 0.25f}, added[] = {2, 0, -1, 0.25f, 1, 3};
    static const float sum[] = {12, 20, 29, 40.25f, 51, 63};
    if (!oc_begin(r, "by hand", "kv_append and add")) return;
    oc_buf *cache = hand_inout(r, 3, 2, old), *total = hand_inout(r, 2, 3, old);
    x = hand_in(r, 2, 2, w23);
    e = hand_in(r, 2, 3, added);
    oc_upload(r);
    r->ops.kv_append(r->be, &cache->dev, &x->dev, 1);
    r->ref.kv_append(r->ref_be, &cache->want, &x->host, 1);
    r->ops.add(r->be, &total->dev, &e->dev);
    r->ref.add(r->ref_be, &total->want, &e->host);
    hand_output(r, cache, appended);
    hand_output(r, total, sum);
    oc_end(r);
}

void oc_check_by_hand(oc_run *r)
{
    hand_linear(r);
    hand_norms(r);
    hand_activations(r);
    hand_rope(r);
    hand_attention(r);
    hand_attn_rows(r);
    hand_attn_means(r);
    hand_rows(r);
}
