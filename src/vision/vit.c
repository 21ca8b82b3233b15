#include "vision/vit.h"

#include "core/clock.h"

#include <math.h>

/* Activations of one run; all [n_tok, ...] in the device arena. */
typedef struct vit_run {
    sq_backend *be;
    const vit_model *m;
    const vit_capture *cap;
    vit_output *out;
    int n_tok;
    attn_desc attn;
    sq_tensor x, h, q, k, v, ffn;
    sq_tensor rows, logits, received, given; /* captured, before they are read to the host */
} vit_run;

static sq_tensor new_f32(arena *a, int64_t rows, int64_t cols)
{
    return tensor_2d(arena_alloc(a, (size_t)rows * (size_t)cols * sizeof(float)), SQ_DTYPE_F32,
                     rows, cols);
}

static int layers_to_run(const vit_config *c)
{
    int n = 0;
    for (int i = 0; i < c->n_feature; i++)
        n = c->feature[i] > n ? c->feature[i] : n;
    return n;
}

/* Attention can be captured in every layer that runs and, q and k alone, in the next one. */
static int capture_check(const vit_config *c, const vit_capture *cap, sq_error *err)
{
    int last = layers_to_run(c), want = -1;
    if (cap->row_count) want = cap->row_first + cap->row_count - 1;
    if (cap->logits && cap->logits_layer > want) want = cap->logits_layer;
    if (cap->means && cap->means_layer > want) want = cap->means_layer;
    if (want >= c->n_loaded)
        return error_set(err, SQ_E_UNSUPPORTED,
                         "vision layer %d is asked for, but the checkpoint holds only %d of %d",
                         want + 1, c->n_loaded, c->n_layer);
    if (want > last || (cap->row_count && cap->row_first < 0))
        return error_set(err, SQ_E_ARG, "vision layer %d does not run: features come from layer %d",
                         want + 1, last);
    return SQ_OK;
}

static int run_alloc(vit_run *r, arena *dev, sq_error *err)
{
    const vit_config *c = &r->m->cfg;
    int64_t n = r->n_tok;
    r->x = new_f32(dev, n, c->dim);
    r->h = new_f32(dev, n, c->dim);
    r->q = new_f32(dev, n, c->dim);
    r->k = new_f32(dev, n, c->dim);
    r->v = new_f32(dev, n, c->dim);
    r->ffn = new_f32(dev, n, c->ffn_dim);
    int n_row = r->cap->row_count;
    r->rows = new_f32(dev, n_row ? n_row : 1, c->n_head * n);
    r->logits = new_f32(dev, c->n_head, n);
    r->received = tensor_1d(new_f32(dev, 1, n - 1).data, SQ_DTYPE_F32, n - 1);
    r->given = tensor_1d(new_f32(dev, 1, n - 1).data, SQ_DTYPE_F32, n - 1);
    if (!r->x.data || !r->h.data || !r->q.data || !r->k.data || !r->v.data || !r->ffn.data ||
        !r->rows.data || !r->logits.data || !r->received.data || !r->given.data)
        return error_set(err, SQ_E_NOMEM, "vision: out of memory");
    return SQ_OK;
}

/* x = position embedding + [class, patches of the pixels]; then pre_layrnorm. */
static int vit_embed(vit_run *r, const float *pixels, arena *dev, arena *host, sq_error *err)
{
    sq_backend *be = r->be;
    const vit_model *m = r->m;
    const vit_config *c = &m->cfg;
    int n_patch = r->n_tok - 1, side = c->image_size;
    arena_mark mark = arena_get_mark(dev);
    sq_tensor image = new_f32(dev, 3, (int64_t)side * side);
    sq_tensor patch = new_f32(dev, n_patch, 3 * c->patch_size * c->patch_size);
    sq_tensor cls = new_f32(dev, 1, c->dim);
    int32_t *ids = arena_calloc(host, (size_t)r->n_tok, sizeof *ids);
    if (!image.data || !patch.data || !cls.data || !ids)
        return error_set(err, SQ_E_NOMEM, "vision: out of memory");
    for (int i = 0; i < r->n_tok; i++)
        ids[i] = i;
    image.rank = 3;
    image.shape[1] = image.shape[2] = side;
    be->write(be, image.data, pixels, (size_t)3 * side * side * sizeof *pixels);
    be->ops.embed(be, &r->x, &m->pos_embd, ids, r->n_tok);

    sq_tensor class_row = m->class_embd;
    class_row.rank = 2;
    class_row.shape[1] = class_row.shape[0];
    class_row.shape[0] = 1;
    be->ops.embed(be, &cls, &class_row, ids, 1);
    sq_tensor first = tensor_rows(&r->x, 0, 1), rest = tensor_rows(&r->x, 1, n_patch);
    be->ops.add(be, &first, &cls);

    be->ops.patchify(be, &patch, &image, c->patch_size);
    be->ops.linear(be, &rest, &patch, &m->patch_w, &m->patch_b, &(linear_desc){.add = true});
    be->ops.layer_norm(be, &r->x, &r->x, &m->pre_ln_w, &m->pre_ln_b, c->eps);
    arena_rewind(dev, mark);
    return SQ_OK;
}

static void layer_qk(vit_run *r, const vit_layer *l)
{
    sq_backend *be = r->be;
    const linear_desc plain = {0};
    be->ops.layer_norm(be, &r->h, &r->x, &l->ln1_w, &l->ln1_b, r->m->cfg.eps);
    be->ops.linear(be, &r->q, &r->h, &l->q_w, &l->q_b, &plain);
    be->ops.linear(be, &r->k, &r->h, &l->k_w, &l->k_b, &plain);
}

/* Records what is wanted of this layer from its q and k, apart from the attention itself. */
static void layer_capture(vit_run *r, int layer)
{
    sq_backend *be = r->be;
    const vit_capture *cap = r->cap;
    const int32_t cls = 0;
    double start = clock_ms();
    if (layer >= cap->row_first && layer < cap->row_first + cap->row_count) {
        sq_tensor row = tensor_rows(&r->rows, layer - cap->row_first, 1);
        be->ops.attn_rows(be, &row, &r->q, &r->k, &cls, 1, false, &r->attn);
    }
    if (cap->logits && layer == cap->logits_layer)
        be->ops.attn_rows(be, &r->logits, &r->q, &r->k, &cls, 1, true, &r->attn);
    if (cap->means && layer == cap->means_layer)
        be->ops.attn_means(be, &r->received, &r->given, &r->q, &r->k, 1, cap->means_logits,
                           &r->attn);
    r->out->score_ms += clock_ms() - start;
}

static void layer_forward(vit_run *r, int layer)
{
    sq_backend *be = r->be;
    const vit_layer *l = &r->m->layer[layer];
    const linear_desc plain = {0}, add = {.add = true}, act = {.act = r->m->cfg.act};
    layer_qk(r, l);
    layer_capture(r, layer);
    be->ops.linear(be, &r->v, &r->h, &l->v_w, &l->v_b, &plain);
    be->ops.attn(be, &r->h, &r->q, &r->k, &r->v, &r->attn);
    be->ops.linear(be, &r->x, &r->h, &l->o_w, &l->o_b, &add);
    be->ops.layer_norm(be, &r->h, &r->x, &l->ln2_w, &l->ln2_b, r->m->cfg.eps);
    be->ops.linear(be, &r->ffn, &r->h, &l->fc1_w, &l->fc1_b, &act);
    be->ops.linear(be, &r->x, &r->ffn, &l->fc2_w, &l->fc2_b, &add);
}

/* Puts hidden state x into its columns of the concatenated features (several feature layers are
 * rare, so they go through the host). */
static int features_put(vit_run *r, sq_tensor *features, int slot, arena *host, sq_error *err)
{
    const vit_config *c = &r->m->cfg;
    size_t row = (size_t)c->dim, n = (size_t)r->n_tok, wide = row * (size_t)c->n_feature;
    arena_mark mark = arena_get_mark(host);
    float *from = arena_alloc(host, n * row * sizeof *from);
    float *to = arena_alloc(host, n * wide * sizeof *to);
    if (!from || !to) return error_set(err, SQ_E_NOMEM, "vision: out of memory");
    r->be->read(r->be, from, r->x.data, n * row * sizeof *from);
    r->be->read(r->be, to, features->data, n * wide * sizeof *to);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < row; j++)
            to[i * wide + (size_t)slot * row + j] = from[i * row + j];
    r->be->write(r->be, features->data, to, n * wide * sizeof *to);
    arena_rewind(host, mark);
    return SQ_OK;
}

static int features_collect(vit_run *r, sq_tensor *features, int hidden, arena *host, sq_error *err)
{
    const vit_config *c = &r->m->cfg;
    if (c->n_feature == 1) return SQ_OK;
    for (int i = 0; i < c->n_feature; i++)
        if (c->feature[i] == hidden) TRY(features_put(r, features, i, host, err));
    return SQ_OK;
}

/* Reads rows[n_row, n_tok] and leaves out the CLS column. */
static const float *scores_to_host(vit_run *r, const sq_tensor *t, int n_row, arena *host)
{
    size_t n_tok = (size_t)r->n_tok, n = n_tok - 1;
    float *all = arena_alloc(host, (size_t)n_row * n_tok * sizeof *all);
    float *out = arena_alloc(host, (size_t)n_row * n * sizeof *out);
    if (!all || !out) return NULL;
    r->be->read(r->be, all, t->data, (size_t)n_row * n_tok * sizeof *all);
    for (size_t i = 0; i < (size_t)n_row; i++)
        for (size_t j = 0; j < n; j++)
            out[i * n + j] = all[i * n_tok + j + 1];
    return out;
}

static const float *means_to_host(vit_run *r, const sq_tensor *t, arena *host)
{
    float *out = arena_alloc(host, (size_t)t->shape[0] * sizeof *out);
    if (out) r->be->read(r->be, out, t->data, (size_t)t->shape[0] * sizeof *out);
    return out;
}

static int scores_read(vit_run *r, arena *host, sq_error *err)
{
    const vit_capture *cap = r->cap;
    vit_output *out = r->out;
    int n_head = r->m->cfg.n_head;
    if (cap->row_count) out->rows = scores_to_host(r, &r->rows, cap->row_count * n_head, host);
    if (cap->logits) out->logits = scores_to_host(r, &r->logits, n_head, host);
    if (cap->means) {
        out->received = means_to_host(r, &r->received, host);
        out->given = means_to_host(r, &r->given, host);
    }
    if ((cap->row_count && !out->rows) || (cap->logits && !out->logits) ||
        (cap->means && (!out->received || !out->given)))
        return error_set(err, SQ_E_NOMEM, "vision: out of memory");
    return SQ_OK;
}

static int layers_forward(vit_run *r, sq_tensor *features, arena *host, vit_probe probe, void *user,
                          sq_error *err)
{
    int n_run = layers_to_run(&r->m->cfg);
    if (probe) probe(user, -1, &r->x);
    TRY(features_collect(r, features, 0, host, err));
    for (int i = 0; i < n_run; i++) {
        layer_forward(r, i);
        if (probe) probe(user, i, &r->x);
        TRY(features_collect(r, features, i + 1, host, err));
        if (r->be->err.code) return error_set(err, r->be->err.code, "%s", r->be->err.text);
    }
    const vit_capture *cap = r->cap;
    bool next = (cap->row_count && cap->row_first + cap->row_count - 1 == n_run) ||
                (cap->logits && cap->logits_layer == n_run) ||
                (cap->means && cap->means_layer == n_run);
    if (next) {
        double start = clock_ms();
        layer_qk(r, &r->m->layer[n_run]);
        r->out->score_ms += clock_ms() - start;
        layer_capture(r, n_run);
    }
    return SQ_OK;
}

int vit_forward(sq_backend *be, const vit_model *m, const float *pixels, const vit_capture *cap,
                vit_output *out, arena *dev, arena *host, vit_probe probe, void *user,
                sq_error *err)
{
    static const vit_capture nothing;
    const vit_config *c = &m->cfg;
    int grid = c->image_size / c->patch_size, head_dim = c->dim / c->n_head;
    vit_run r = {.be = be, .m = m, .cap = cap ? cap : &nothing, .out = out};
    r.n_tok = grid * grid + 1;
    *out = (vit_output){.n_patch = grid * grid, .grid = grid, .n_head = c->n_head};
    out->row_first = r.cap->row_first;
    out->row_count = r.cap->row_count;
    r.attn = (attn_desc){.n_q = r.n_tok,
                         .n_kv = r.n_tok,
                         .n_head = c->n_head,
                         .n_head_kv = c->n_head,
                         .head_dim = head_dim,
                         .scale = 1.0f / sqrtf((float)head_dim)};
    TRY(capture_check(c, r.cap, err));

    sq_tensor features = new_f32(dev, r.n_tok, (int64_t)c->dim * c->n_feature);
    if (!features.data) return error_set(err, SQ_E_NOMEM, "vision: out of memory");
    arena_mark mark = arena_get_mark(dev);
    TRY(run_alloc(&r, dev, err));
    TRY(vit_embed(&r, pixels, dev, host, err));
    TRY(layers_forward(&r, &features, host, probe, user, err));
    if (c->n_feature == 1) be->ops.activate(be, &features, &r.x, SQ_ACT_NONE); /* copy */
    TRY(scores_read(&r, host, err));
    arena_rewind(dev, mark);
    out->features = c->keep_cls ? features : tensor_rows(&features, 1, out->n_patch);
    if (be->err.code) return error_set(err, be->err.code, "%s", be->err.text);
    return SQ_OK;
}
