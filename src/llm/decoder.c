#include "llm/decoder.h"

#include <math.h>

typedef struct decoder_run {
    sq_backend *be;
    const decoder_model *m;
    kv_cache *kv;
    const int32_t *pos;
    rope_desc rope;
    sq_tensor x, h, q, k, v, gate, up; /* [n, ...] in backend memory */
} decoder_run;

/* The arithmetic follows transformers (modeling_rope_utils.py), f32 throughout. */
static void scale_llama3(const rope_config *r, int n, float *f)
{
    float low = (float)r->original_ctx / r->low_freq_factor;
    float high = (float)r->original_ctx / r->high_freq_factor;
    for (int i = 0; i < n; i++) {
        float wave = 2.0f * 3.14159265358979f / f[i];
        if (wave < high) continue;
        if (wave > low) {
            f[i] /= r->factor;
            continue;
        }
        float smooth = ((float)r->original_ctx / wave - r->low_freq_factor) /
                       (r->high_freq_factor - r->low_freq_factor);
        f[i] = (1.0f - smooth) * f[i] / r->factor + smooth * f[i];
    }
}

void rope_frequencies(const rope_config *r, int head_dim, int n_ctx, float *inv_freq)
{
    int n = head_dim / 2;
    double theta = r->theta;
    if (r->scaling == ROPE_SCALING_DYNAMIC && n_ctx > r->original_ctx)
        theta *= pow((double)r->factor * n_ctx / r->original_ctx - (r->factor - 1.0),
                     (double)head_dim / (head_dim - 2));
    for (int i = 0; i < n; i++)
        inv_freq[i] = 1.0f / powf((float)theta, (float)(2 * i) / (float)head_dim);
    if (r->scaling == ROPE_SCALING_LINEAR)
        for (int i = 0; i < n; i++)
            inv_freq[i] /= r->factor;
    if (r->scaling == ROPE_SCALING_LLAMA3) scale_llama3(r, n, inv_freq);
    for (int i = 0; i < n && r->freq_factor; i++)
        inv_freq[i] /= r->freq_factor[i];
}

static sq_tensor new_f32(arena *a, int64_t rows, int64_t cols)
{
    return tensor_2d(arena_alloc(a, (size_t)rows * (size_t)cols * sizeof(float)), SQ_DTYPE_F32,
                     rows, cols);
}

static int run_alloc(decoder_run *r, int n, arena *dev, sq_error *err)
{
    const decoder_config *c = &r->m->cfg;
    r->h = new_f32(dev, n, c->dim > c->n_head * c->head_dim ? c->dim : c->n_head * c->head_dim);
    r->q = new_f32(dev, n, c->n_head * c->head_dim);
    r->k = new_f32(dev, n, c->n_head_kv * c->head_dim);
    r->v = new_f32(dev, n, c->n_head_kv * c->head_dim);
    r->gate = new_f32(dev, n, c->ffn_dim);
    r->up = new_f32(dev, n, c->ffn_dim);
    if (!r->h.data || !r->q.data || !r->k.data || !r->v.data || !r->gate.data || !r->up.data)
        return error_set(err, SQ_E_NOMEM, "decoder: out of memory for %d tokens", n);
    return SQ_OK;
}

/* The first n rows of t, taken as [n, cols]. */
static sq_tensor take(const sq_tensor *t, int64_t n, int64_t cols)
{
    return tensor_2d(t->data, SQ_DTYPE_F32, n, cols);
}

/* Attention block. Keys and values of all n rows enter the cache; `from` is the first row whose
 * output is needed: in the last layer of a prefill only the last row is. */
static void layer_attn(decoder_run *r, const decoder_layer *l, int layer, int n, int from)
{
    sq_backend *be = r->be;
    const decoder_config *c = &r->m->cfg;
    int n_q = n - from, at = r->kv->len[layer], wide = c->n_head * c->head_dim;
    const linear_desc plain = {0}, add = {.add = true};
    sq_tensor x = tensor_rows(&r->x, from, n_q);
    sq_tensor norm = take(&r->h, n, c->dim), last = tensor_rows(&norm, from, n_q);
    sq_tensor q = take(&r->q, n_q, wide), out = take(&r->h, n_q, wide);
    sq_tensor k = take(&r->k, n, (int64_t)c->n_head_kv * c->head_dim);
    sq_tensor v = take(&r->v, n, (int64_t)c->n_head_kv * c->head_dim);
    rope_desc rope_k = r->rope;
    rope_k.n_head = c->n_head_kv;

    be->ops.rms_norm(be, &norm, &r->x, &l->attn_norm, c->eps);
    be->ops.linear(be, &q, &last, &l->q_w, &l->q_b, &plain);
    be->ops.linear(be, &k, &norm, &l->k_w, &l->k_b, &plain);
    be->ops.linear(be, &v, &norm, &l->v_w, &l->v_b, &plain);
    be->ops.rope(be, &q, r->pos + from, &r->rope);
    be->ops.rope(be, &k, r->pos, &rope_k);
    be->ops.kv_append(be, &r->kv->k[layer], &k, at);
    be->ops.kv_append(be, &r->kv->v[layer], &v, at);
    r->kv->len[layer] += n;

    attn_desc d = {.n_q = n_q,
                   .n_kv = at + n,
                   .n_head = c->n_head,
                   .n_head_kv = c->n_head_kv,
                   .head_dim = c->head_dim,
                   .causal = true,
                   .q_pos0 = at + from,
                   .window = layer >= c->window_from ? c->window : 0,
                   .scale = 1.0f / sqrtf((float)c->head_dim)};
    sq_tensor keys = tensor_rows(&r->kv->k[layer], 0, at + n);
    sq_tensor values = tensor_rows(&r->kv->v[layer], 0, at + n);
    be->ops.attn(be, &out, &q, &keys, &values, &d);
    be->ops.linear(be, &x, &out, &l->o_w, NULL, &add);
}

static void layer_ffn(decoder_run *r, const decoder_layer *l, int n, int from)
{
    sq_backend *be = r->be;
    const decoder_config *c = &r->m->cfg;
    const linear_desc plain = {0}, add = {.add = true};
    sq_tensor x = tensor_rows(&r->x, from, n - from), norm = take(&r->h, n - from, c->dim);
    sq_tensor gate = take(&r->gate, n - from, c->ffn_dim), up = take(&r->up, n - from, c->ffn_dim);
    be->ops.rms_norm(be, &norm, &x, &l->ffn_norm, c->eps);
    be->ops.linear(be, &gate, &norm, &l->gate_w, NULL, &plain);
    be->ops.linear(be, &up, &norm, &l->up_w, NULL, &plain);
    be->ops.silu_mul(be, &gate, &gate, &up);
    be->ops.linear(be, &x, &gate, &l->down_w, NULL, &add);
}

/* logits[n - from, n_vocab] of the rows from `from` on, read to the host. */
static int head_forward(decoder_run *r, int n, int from, float *logits, arena *dev, sq_error *err)
{
    sq_backend *be = r->be;
    const decoder_config *c = &r->m->cfg;
    sq_tensor x = tensor_rows(&r->x, from, n - from), norm = take(&r->h, n - from, c->dim);
    sq_tensor y = new_f32(dev, n - from, c->n_vocab);
    if (!y.data) return error_set(err, SQ_E_NOMEM, "decoder: out of memory for the logits");
    be->ops.rms_norm(be, &norm, &x, &r->m->norm, c->eps);
    be->ops.linear(be, &y, &norm, &r->m->head, NULL, &(linear_desc){0});
    be->read(be, logits, y.data, tensor_bytes(&y));
    return SQ_OK;
}

static int layers_forward(decoder_run *r, int n, bool all_rows, sq_error *err)
{
    const decoder_config *c = &r->m->cfg;
    for (int i = 0; i < c->n_layer; i++) {
        int from = i + 1 < c->n_layer || all_rows ? 0 : n - 1;
        layer_attn(r, &r->m->layer[i], i, n, from);
        layer_ffn(r, &r->m->layer[i], n, from);
        if (r->be->err.code) return error_set(err, r->be->err.code, "%s", r->be->err.text);
    }
    return SQ_OK;
}

int decoder_forward(sq_backend *be, const decoder_model *m, kv_cache *kv, sq_tensor *x,
                    const int32_t *pos, float *logits, float *all_logits, arena *dev,
                    sq_error *err)
{
    const decoder_config *c = &m->cfg;
    int n = (int)x->shape[0], held = 0;
    for (int i = 0; i < c->n_layer; i++)
        held = kv->len[i] > held ? kv->len[i] : held;
    TRY(kv_cache_reserve(kv, held + n, err));

    arena_mark mark = arena_get_mark(dev);
    decoder_run r = {.be = be, .m = m, .kv = kv, .pos = pos, .x = *x};
    float inv_freq[DECODER_MAX_HEAD_DIM / 2];
    rope_frequencies(&c->rope, c->head_dim, pos[n - 1] + 1, inv_freq);
    r.rope = (rope_desc){.n_head = c->n_head,
                         .head_dim = c->head_dim,
                         .interleaved = c->rope.interleaved,
                         .inv_freq = inv_freq,
                         .mscale = 1.0f};
    int rc = run_alloc(&r, n, dev, err);
    if (!rc) rc = layers_forward(&r, n, all_logits != NULL, err);
    if (!rc && all_logits) {
        rc = head_forward(&r, n, 0, all_logits, dev, err);
        if (!rc && logits)
            for (int i = 0; i < c->n_vocab; i++)
                logits[i] = all_logits[(size_t)(n - 1) * (size_t)c->n_vocab + (size_t)i];
    } else if (!rc && logits) {
        rc = head_forward(&r, n, n - 1, logits, dev, err);
    }
    arena_rewind(dev, mark);
    if (!rc && be->err.code) rc = error_set(err, be->err.code, "%s", be->err.text);
    return rc;
}
