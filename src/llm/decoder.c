#include "llm/decoder.h"

#include "core/digest.h"

#include <math.h>
#include <stdlib.h>

/* A pass over n rows: those of one sequence, or one each of kv_step's sequences. */
typedef struct decoder_run {
    sq_backend *be;
    const decoder_model *m;
    kv_cache *const *kv;
    int n, n_seq, at; /* n_seq 0: one sequence whose cache holds `at` rows */
    rope_desc rope;
    float inv_freq[DECODER_MAX_HEAD_DIM / 2];
    sq_tensor table;     /* I32: pos[n], and for a step id[n] and the layers' len[n] */
    sq_tensor x, h, q, k, v, gate, up; /* [n, ...] in backend memory */
    sq_tensor logits, best, gap;
    const decoder_result *out;
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

static sq_tensor new_rows(arena *a, sq_dtype t, int64_t rows, int64_t cols)
{
    return tensor_2d(arena_alloc(a, (size_t)rows * dtype_row_bytes(t, cols)), t, rows, cols);
}

/* Rows whose logits are wanted: none, the last one, or all. */
static int rows_out(const decoder_run *r)
{
    if (r->out->all_logits || (r->n_seq && (r->out->logits || r->out->best))) return r->n;
    return r->out->logits || r->out->best ? 1 : 0;
}

/* The first n rows of t, taken as [n, cols]. */
static sq_tensor take(const sq_tensor *t, int64_t n, int64_t cols)
{
    return tensor_2d(t->data, t->dtype, n, cols);
}

static int run_alloc(decoder_run *r, arena *dev, sq_error *err)
{
    const decoder_config *c = &r->m->cfg;
    sq_dtype a = r->be->act;
    int n = r->n, wide = c->n_head * c->head_dim, n_out = rows_out(r);
    r->h = new_rows(dev, a, n, c->dim > wide ? c->dim : wide);
    /* side by side: one product may fill all three */
    sq_tensor qkv = new_rows(dev, a, (int64_t)n * (c->n_head + 2 * c->n_head_kv), c->head_dim);
    r->q = tensor_rows(&qkv, 0, (int64_t)n * c->n_head);
    r->k = tensor_rows(&qkv, (int64_t)n * c->n_head, (int64_t)n * c->n_head_kv);
    r->v = tensor_rows(&qkv, (int64_t)n * (c->n_head + c->n_head_kv), (int64_t)n * c->n_head_kv);
    r->q = take(&r->q, n, wide);
    r->k = take(&r->k, n, c->n_head_kv * c->head_dim);
    r->v = take(&r->v, n, c->n_head_kv * c->head_dim);
    r->gate = new_rows(dev, a, n, c->ffn_dim);
    r->up = new_rows(dev, a, 2 * (int64_t)n, c->ffn_dim);
    r->table = new_rows(dev, SQ_DTYPE_I32, 2 + c->n_layer, n);
    r->logits = new_rows(dev, SQ_DTYPE_F32, n_out, c->n_vocab);
    /* side by side, to be read at once */
    sq_tensor choice = new_rows(dev, SQ_DTYPE_I32, 2, n_out ? n_out : 1);
    r->best = tensor_rows(&choice, 0, 1);
    r->gap = tensor_rows(&choice, 1, 1);
    r->gap.dtype = SQ_DTYPE_F32;
    if (!r->h.data || !qkv.data || !r->gate.data || !r->up.data ||
        !r->table.data || !r->logits.data || !choice.data)
        return error_set(err, SQ_E_NOMEM, "decoder: out of memory for %d tokens", n);
    return SQ_OK;
}

/* Row i of the table from its column `from` on. */
static sq_tensor table_row(const decoder_run *r, int i, int from)
{
    int32_t *row = (int32_t *)r->table.data + (int64_t)i * r->n;
    return tensor_1d(row + from, SQ_DTYPE_I32, r->n - from);
}

enum { TABLE_POS = 0, TABLE_ID = 1, TABLE_LEN = 2 };

static attn_desc attn_of(const decoder_run *r, int layer)
{
    const decoder_config *c = &r->m->cfg;
    return (attn_desc){.n_head = c->n_head,
                       .n_head_kv = c->n_head_kv,
                       .head_dim = c->head_dim,
                       .causal = true,
                       .window = layer >= c->window_from ? c->window : 0,
                       .scale = 1.0f / sqrtf((float)c->head_dim)};
}

/* Every sequence's new row enters its cache and attends. */
static void attend_step(decoder_run *r, int layer, sq_tensor *out, sq_tensor *q)
{
    const sq_tensor *k[SQ_STEP_MAX], *v[SQ_STEP_MAX];
    sq_tensor pos = table_row(r, TABLE_POS, 0), len = table_row(r, TABLE_LEN + layer, 0);
    for (int s = 0; s < r->n_seq; s++) {
        k[s] = &r->kv[s]->k[layer];
        v[s] = &r->kv[s]->v[layer];
    }
    kv_step step = {r->n_seq, &pos, &len, k, v};
    attn_desc d = attn_of(r, layer);
    r->be->ops.attn_step(r->be, out, q, &r->k, &r->v, &step, &r->rope, &d);
}

/* All rows enter the one cache; the rows of q, the last ones, attend. */
static void attend_rows(decoder_run *r, int layer, sq_tensor *out, sq_tensor *q)
{
    sq_backend *be = r->be;
    int n_q = (int)q->shape[0], held = r->at + r->n;
    kv_cache *kv = r->kv[0];
    sq_tensor pos = table_row(r, TABLE_POS, 0);
    sq_tensor keys = tensor_rows(&kv->k[layer], 0, held);
    sq_tensor values = tensor_rows(&kv->v[layer], 0, held);
    attn_desc d = attn_of(r, layer);
    d.n_q = n_q;
    d.n_kv = held;
    d.q_pos0 = held - n_q;
    be->ops.rope_append(be, q, &r->k, &r->v, &kv->k[layer], &kv->v[layer], r->at, &pos, &r->rope);
    be->ops.attn(be, out, q, &keys, &values, &d);
}

/* Attention block. Keys and values of all n rows enter the cache; `from` is the first row whose
 * output is needed: in the last layer of a prefill only the last row is. */
static void layer_attn(decoder_run *r, const decoder_layer *l, int layer, int from)
{
    sq_backend *be = r->be;
    const decoder_config *c = &r->m->cfg;
    int n_q = r->n - from, wide = c->n_head * c->head_dim;
    sq_tensor x = tensor_rows(&r->x, from, n_q);
    sq_tensor norm = take(&r->h, r->n, c->dim), last = tensor_rows(&norm, from, n_q);
    sq_tensor q = take(&r->q, n_q, wide), out = take(&r->h, n_q, wide);
    sq_tensor *const y[] = {&q, &r->k, &r->v};
    const sq_tensor *const w[] = {&l->q_w, &l->k_w, &l->v_w};
    const sq_tensor *const b[] = {&l->q_b, &l->k_b, &l->v_b};

    be->ops.rms_norm(be, &norm, &r->x, &l->attn_norm, c->eps);
    if (from == 0) {
        be->ops.linear_many(be, y, &norm, w, b, 3);
    } else {
        be->ops.linear(be, &q, &last, &l->q_w, &l->q_b, &(linear_desc){0});
        be->ops.linear_many(be, y + 1, &norm, w + 1, b + 1, 2);
    }
    if (r->n_seq)
        attend_step(r, layer, &out, &q);
    else
        attend_rows(r, layer, &out, &q);
    be->ops.linear(be, &x, &out, &l->o_w, NULL, &(linear_desc){.add = true});
}

static void layer_ffn(decoder_run *r, const decoder_layer *l, int from)
{
    sq_backend *be = r->be;
    const decoder_config *c = &r->m->cfg;
    int n = r->n - from;
    sq_tensor x = tensor_rows(&r->x, from, n), norm = take(&r->h, n, c->dim);
    sq_tensor gate = take(&r->gate, n, c->ffn_dim), scratch = take(&r->up, 2 * n, c->ffn_dim);
    be->ops.rms_norm(be, &norm, &x, &l->ffn_norm, c->eps);
    be->ops.linear_gated(be, &gate, &norm, &l->gate_w, &l->up_w, &scratch);
    be->ops.linear(be, &x, &gate, &l->down_w, NULL, &(linear_desc){.add = true});
}

/* All of a pass but its uploads and reads, by ops alone. */
static void run_ops(void *user)
{
    decoder_run *r = user;
    sq_backend *be = r->be;
    const decoder_config *c = &r->m->cfg;
    int n_out = rows_out(r), keep = r->n_seq ? r->n : n_out ? n_out : 1;
    backend_at(be, "decoder", -1);
    if (r->n_seq) {
        sq_tensor id = table_row(r, TABLE_ID, 0);
        be->ops.embed(be, &r->x, &r->m->tok_embd, &id);
    }
    for (int i = 0; i < c->n_layer && !be->err.code; i++) {
        backend_at(be, "decoder", i);
        int from = i + 1 < c->n_layer ? 0 : r->n - keep;
        layer_attn(r, &r->m->layer[i], i, from);
        layer_ffn(r, &r->m->layer[i], from);
    }
    if (!n_out) return;
    backend_at(be, "decoder", -1);
    sq_tensor x = tensor_rows(&r->x, r->n - n_out, n_out), norm = take(&r->h, n_out, c->dim);
    be->ops.rms_norm(be, &norm, &x, &r->m->norm, c->eps);
    be->ops.linear(be, &r->logits, &norm, &r->m->head, NULL, &(linear_desc){0});
    if (r->out->best) be->ops.argmax(be, &r->best, &r->gap, &r->logits);
}

/* Everything that run_ops takes from the host, addresses included. */
static digest run_key(const decoder_run *r)
{
    digest d = {0};
    const sq_tensor *const t[] = {&r->x,    &r->h,  &r->q,     &r->k,      &r->v,
                                  &r->gate, &r->up, &r->table, &r->logits, &r->best, &r->gap};
    const int number[] = {r->n, r->n_seq, r->at, rows_out(r), r->out->best != NULL};
    digest_add(&d, "decoder", 7);
    digest_add(&d, &r->m, sizeof r->m);
    digest_add(&d, number, sizeof number);
    digest_add(&d, r->inv_freq, sizeof r->inv_freq);
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        digest_add(&d, &t[i]->data, sizeof t[i]->data);
    for (int s = 0; s < (r->n_seq ? r->n_seq : 1); s++) {
        digest_add(&d, &r->kv[s]->n_ctx, sizeof r->kv[s]->n_ctx);
        digest_add(&d, &r->kv[s]->dtype, sizeof r->kv[s]->dtype);
        for (int i = 0; i < r->m->cfg.n_layer; i++) {
            digest_add(&d, &r->kv[s]->k[i].data, sizeof(void *));
            digest_add(&d, &r->kv[s]->v[i].data, sizeof(void *));
        }
    }
    return d;
}

static void run_read(decoder_run *r)
{
    sq_backend *be = r->be;
    const decoder_result *o = r->out;
    size_t n = (size_t)rows_out(r);
    if (o->all_logits) {
        be->read(be, o->all_logits, r->logits.data, tensor_bytes(&r->logits));
        return;
    }
    if (o->logits) be->read(be, o->logits, r->logits.data, tensor_bytes(&r->logits));
    if (!o->best) return;
    union {
        int32_t best;
        float gap;
    } choice[2 * SQ_STEP_MAX];
    be->read(be, choice, r->best.data, 2 * n * sizeof *choice);
    for (size_t i = 0; i < n; i++) {
        o->best[i] = choice[i].best;
        o->gap[i] = choice[n + i].gap;
    }
}

static void rope_setup(decoder_run *r, int n_ctx)
{
    const decoder_config *c = &r->m->cfg;
    rope_frequencies(&c->rope, c->head_dim, n_ctx, r->inv_freq);
    r->rope = (rope_desc){.n_head = c->n_head,
                          .n_head_kv = c->n_head_kv,
                          .head_dim = c->head_dim,
                          .interleaved = c->rope.interleaved,
                          .inv_freq = r->inv_freq,
                          .mscale = 1.0f};
}

/* Uploads the table (its first `rows` rows), runs, reads; the caches' lengths grow at the end. */
static int run_all(decoder_run *r, const int32_t *table, int rows, sq_error *err)
{
    sq_backend *be = r->be;
    be->write(be, r->table.data, table, (size_t)rows * (size_t)r->n * sizeof *table);
    digest key = run_key(r);
    be->region(be, &key, sizeof key, run_ops, r);
    run_read(r);
    if (be->err.code) return error_set(err, be->err.code, "%s", be->err.text);
    for (int s = 0; s < (r->n_seq ? r->n_seq : 1); s++)
        for (int i = 0; i < r->m->cfg.n_layer; i++)
            r->kv[s]->len[i] += r->n_seq ? 1 : r->n;
    return SQ_OK;
}

static int rows_held(const kv_cache *kv)
{
    int held = 0;
    for (int i = 0; i < kv->n_layer; i++)
        held = kv->len[i] > held ? kv->len[i] : held;
    return held;
}

int decoder_embed(sq_backend *be, const decoder_model *m, sq_tensor *y, const int32_t *ids, int n,
                  arena *dev, sq_error *err)
{
    arena_mark mark = arena_get_mark(dev);
    sq_tensor list = tensor_1d(arena_alloc(dev, (size_t)n * sizeof *ids), SQ_DTYPE_I32, n);
    if (!list.data) return error_set(err, SQ_E_NOMEM, "decoder: out of memory for %d tokens", n);
    be->write(be, list.data, ids, (size_t)n * sizeof *ids);
    be->ops.embed(be, y, &m->tok_embd, &list);
    arena_rewind(dev, mark);
    return SQ_OK;
}

int decoder_forward(sq_backend *be, const decoder_model *m, kv_cache *kv, sq_tensor *x,
                    const int32_t *pos, const decoder_result *out, arena *dev, sq_error *err)
{
    int n = (int)x->shape[0];
    decoder_run r = {.be = be, .m = m, .kv = &kv, .n = n, .at = rows_held(kv), .x = *x, .out = out};
    TRY(kv_cache_reserve(kv, r.at + n, err));
    rope_setup(&r, pos[n - 1] + 1);
    arena_mark mark = arena_get_mark(dev);
    int rc = run_alloc(&r, dev, err);
    if (!rc) rc = run_all(&r, pos, 1, err);
    arena_rewind(dev, mark);
    return rc;
}

/* A step has one set of RoPE frequencies, and DYNAMIC ones follow the sequence's length. */
static int step_check(const rope_config *rope, int n_seq, const int32_t *pos, sq_error *err)
{
    if (n_seq < 1 || n_seq > SQ_STEP_MAX)
        return error_set(err, SQ_E_ARG, "decoder: expected 1..%d sequences, found %d", SQ_STEP_MAX,
                         n_seq);
    for (int s = 1; rope->scaling == ROPE_SCALING_DYNAMIC && s < n_seq; s++) {
        int longer = pos[s] > pos[0] ? pos[s] : pos[0];
        if (pos[s] != pos[0] && longer >= rope->original_ctx)
            return error_set(err, SQ_E_UNSUPPORTED,
                             "decoder: one step for sequences of %d and %d tokens: dynamic RoPE "
                             "tells them apart from %d on",
                             pos[0] + 1, pos[s] + 1, rope->original_ctx + 1);
    }
    return SQ_OK;
}

int decoder_step(sq_backend *be, const decoder_model *m, kv_cache *const kv[], int n_seq,
                 const int32_t *id, const int32_t *pos, const decoder_result *out, arena *dev,
                 sq_error *err)
{
    TRY(step_check(&m->cfg.rope, n_seq, pos, err));
    decoder_run r = {.be = be, .m = m, .kv = kv, .n = n_seq, .n_seq = n_seq, .out = out};
    int rows = TABLE_LEN + m->cfg.n_layer, n_ctx = 0;
    int32_t *table = malloc((size_t)rows * (size_t)n_seq * sizeof *table);
    int rc = table ? SQ_OK : error_set(err, SQ_E_NOMEM, "decoder: out of memory");
    for (int s = 0; !rc && s < n_seq; s++) {
        rc = kv_cache_reserve(kv[s], rows_held(kv[s]) + 1, err);
        n_ctx = pos[s] + 1 > n_ctx ? pos[s] + 1 : n_ctx;
        table[TABLE_POS * n_seq + s] = pos[s];
        table[TABLE_ID * n_seq + s] = id[s];
        for (int i = 0; i < m->cfg.n_layer; i++)
            table[(TABLE_LEN + i) * n_seq + s] = kv[s]->len[i];
    }
    arena_mark mark = arena_get_mark(dev);
    r.x = new_rows(dev, SQ_DTYPE_F32, n_seq, m->cfg.dim);
    if (!rc && !r.x.data) rc = error_set(err, SQ_E_NOMEM, "decoder: out of memory");
    rope_setup(&r, n_ctx);
    if (!rc) rc = run_alloc(&r, dev, err);
    if (!rc) rc = run_all(&r, table, rows, err);
    arena_rewind(dev, mark);
    free(table);
    return rc;
}
