#include "vision/vit.h"

#include "core/clock.h"
#include "core/digest.h"

#include <math.h>
#include <string.h>

static sq_tensor new_f32(arena *a, int64_t rows, int64_t cols)
{
    return tensor_2d(arena_alloc(a, (size_t)rows * (size_t)cols * sizeof(float)), SQ_DTYPE_F32,
                     rows, cols);
}

/* What flows between two ops of a layer. */
static sq_tensor new_act(const vit_run *r, int64_t rows, int64_t cols)
{
    size_t row = dtype_row_bytes(r->be->act, cols);
    return tensor_2d(arena_alloc(r->dev, (size_t)rows * row), r->be->act, rows, cols);
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

static int run_alloc(vit_run *r, sq_error *err)
{
    const vit_config *c = &r->m->cfg;
    arena *dev = r->dev;
    int64_t n_view = r->views.n, n = n_view * r->n_tok, n_patch = r->n_tok - 1;
    int64_t side = c->image_size, n_row = r->cap.row_count ? r->cap.row_count : 1;
    if (c->n_feature > 1) r->x = new_f32(dev, n, c->dim);
    r->h = new_act(r, n, c->dim);
    sq_tensor qkv = new_act(r, 3 * n, c->dim); /* side by side: one product may fill all three */
    r->q = tensor_rows(&qkv, 0, n);
    r->k = tensor_rows(&qkv, n, n);
    r->v = tensor_rows(&qkv, 2 * n, n);
    r->ffn = new_act(r, n, c->ffn_dim);
    r->patch = new_act(r, n_view * n_patch, r->m->patch_w.shape[1]);
    r->cls = new_f32(dev, 1, c->dim);
    r->rows = new_f32(dev, n_row * n_view, c->n_head * r->n_tok);
    r->logits = new_f32(dev, n_view * c->n_head, r->n_tok);
    r->received = new_f32(dev, n_view, n_patch);
    r->given = new_f32(dev, n_view, n_patch);
    bool rgb = r->views.planes == NULL;
    r->image = (sq_tensor){.dtype = rgb ? SQ_DTYPE_U8 : SQ_DTYPE_F32, .rank = 4};
    r->image.shape[0] = n_view;
    r->image.shape[1] = rgb ? side : 3;
    r->image.shape[2] = side;
    r->image.shape[3] = rgb ? 3 : side;
    r->image.data = arena_alloc(dev, tensor_bytes(&r->image));
    r->level = new_f32(dev, 3, 256);
    r->ids = tensor_1d(arena_alloc(dev, (size_t)n * sizeof(int32_t)), SQ_DTYPE_I32, n);
    if (!r->x.data || !r->h.data || !qkv.data || !r->ffn.data ||
        !r->patch.data || !r->cls.data || !r->rows.data || !r->logits.data || !r->received.data ||
        !r->given.data || !r->image.data || !r->level.data || !r->ids.data)
        return error_set(err, SQ_E_NOMEM, "vision: out of memory");
    return SQ_OK;
}

static int run_upload(vit_run *r, arena *host, sq_error *err)
{
    sq_backend *be = r->be;
    const vit_views *v = &r->views;
    arena_mark mark = arena_get_mark(host);
    int32_t *ids = arena_alloc(host, tensor_bytes(&r->ids));
    if (!ids) return error_set(err, SQ_E_NOMEM, "vision: out of memory");
    for (int i = 0; i < v->n * r->n_tok; i++)
        ids[i] = i % r->n_tok;
    be->write(be, r->ids.data, ids, tensor_bytes(&r->ids));
    be->write(be, r->image.data, v->planes ? (const void *)v->planes : v->rgb,
              tensor_bytes(&r->image));
    if (!v->planes) be->write(be, r->level.data, v->level, tensor_bytes(&r->level));
    arena_rewind(host, mark);
    return SQ_OK;
}

/* x = position embedding + [class, patches of the pixels]; then pre_layrnorm. */
static void vit_embed(vit_run *r)
{
    sq_backend *be = r->be;
    const vit_model *m = r->m;
    const vit_config *c = &m->cfg;
    int n_patch = r->n_tok - 1;
    backend_at(be, "vision", -1);
    be->ops.embed(be, &r->x, &m->pos_embd, &r->ids);

    sq_tensor class_row = tensor_2d(m->class_embd.data, m->class_embd.dtype, 1, c->dim);
    sq_tensor first_id = tensor_1d(r->ids.data, SQ_DTYPE_I32, 1);
    be->ops.embed(be, &r->cls, &class_row, &first_id);
    be->ops.patchify(be, &r->patch, &r->image, r->views.planes ? NULL : &r->level, c->patch_size);
    for (int i = 0; i < r->views.n; i++) {
        sq_tensor cls = tensor_rows(&r->x, (int64_t)i * r->n_tok, 1);
        sq_tensor rest = tensor_rows(&r->x, (int64_t)i * r->n_tok + 1, n_patch);
        sq_tensor patch = tensor_rows(&r->patch, (int64_t)i * n_patch, n_patch);
        be->ops.add(be, &cls, &r->cls);
        be->ops.linear(be, &rest, &patch, &m->patch_w, &m->patch_b, &(linear_desc){.add = true});
    }
    be->ops.layer_norm(be, &r->x, &r->x, &m->pre_ln_w, &m->pre_ln_b, c->eps);
}

/* q, k and, unless only scores are wanted, v of a layer: products of one input. */
static void layer_qkv(vit_run *r, const vit_layer *l, bool values)
{
    sq_backend *be = r->be;
    sq_tensor *const y[] = {&r->q, &r->k, &r->v};
    const sq_tensor *const w[] = {&l->q_w, &l->k_w, &l->v_w}, *const b[] = {&l->q_b, &l->k_b,
                                                                           &l->v_b};
    be->ops.layer_norm(be, &r->h, &r->x, &l->ln1_w, &l->ln1_b, r->m->cfg.eps);
    be->ops.linear_many(be, y, &r->h, w, b, values ? 3 : 2);
}

/* Records what is wanted of this layer from its q and k, apart from the attention itself. */
static void layer_capture(vit_run *r, int layer)
{
    sq_backend *be = r->be;
    const vit_capture *cap = &r->cap;
    const int32_t cls = 0;
    double start = clock_ms();
    if (layer >= cap->row_first && layer < cap->row_first + cap->row_count) {
        int64_t n_view = r->views.n;
        sq_tensor row = tensor_rows(&r->rows, (layer - cap->row_first) * n_view, n_view);
        be->ops.attn_rows(be, &row, &r->q, &r->k, &cls, 1, false, &r->attn);
    }
    if (cap->logits && layer == cap->logits_layer)
        be->ops.attn_rows(be, &r->logits, &r->q, &r->k, &cls, 1, true, &r->attn);
    if (cap->means && layer == cap->means_layer)
        be->ops.attn_means(be, &r->received, &r->given, &r->q, &r->k, 1, cap->means_logits,
                           &r->attn);
    if (!be->resident) r->out->score_ms += clock_ms() - start;
}

static void layer_forward(vit_run *r, int layer)
{
    sq_backend *be = r->be;
    const vit_layer *l = &r->m->layer[layer];
    const linear_desc add = {.add = true}, act = {.act = r->m->cfg.act};
    backend_at(be, "vision", layer);
    layer_qkv(r, l, true);
    layer_capture(r, layer);
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
    size_t row = (size_t)c->dim, n = (size_t)(r->views.n * r->n_tok);
    size_t wide = row * (size_t)c->n_feature;
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

static int features_collect(vit_run *r, int hidden, arena *host, sq_error *err)
{
    const vit_config *c = &r->m->cfg;
    if (c->n_feature == 1) return SQ_OK;
    for (int i = 0; i < c->n_feature; i++)
        if (c->feature[i] == hidden) TRY(features_put(r, &r->out->hidden, i, host, err));
    return SQ_OK;
}

/* out[n_view][n_group][n_head][n_patch] of t[n_group][n_view][n_head][n_tok]: without CLS. */
static const float *scores_to_host(vit_run *r, const sq_tensor *t, size_t n_group, arena *host)
{
    size_t n_tok = (size_t)r->n_tok, n = n_tok - 1, n_view = (size_t)r->views.n;
    size_t n_head = (size_t)r->m->cfg.n_head, n_row = n_group * n_view * n_head;
    float *out = arena_alloc(host, n_row * n * sizeof *out);
    arena_mark mark = arena_get_mark(host);
    float *all = arena_alloc(host, n_row * n_tok * sizeof *all);
    if (!all || !out) return NULL;
    r->be->read(r->be, all, t->data, n_row * n_tok * sizeof *all);
    for (size_t i = 0; i < n_row; i++) {
        size_t head = i % n_head, view = i / n_head % n_view, group = i / n_head / n_view;
        memcpy(out + ((view * n_group + group) * n_head + head) * n, all + i * n_tok + 1,
               n * sizeof *out);
    }
    arena_rewind(host, mark);
    return out;
}

static const float *means_to_host(vit_run *r, const sq_tensor *t, arena *host)
{
    float *out = arena_alloc(host, tensor_bytes(t));
    if (out) r->be->read(r->be, out, t->data, tensor_bytes(t));
    return out;
}

static int scores_read(vit_run *r, arena *host, sq_error *err)
{
    const vit_capture *cap = &r->cap;
    vit_output *out = r->out;
    if (cap->row_count) out->rows = scores_to_host(r, &r->rows, (size_t)cap->row_count, host);
    if (cap->logits) out->logits = scores_to_host(r, &r->logits, 1, host);
    if (cap->means) {
        out->received = means_to_host(r, &r->received, host);
        out->given = means_to_host(r, &r->given, host);
    }
    if ((cap->row_count && !out->rows) || (cap->logits && !out->logits) ||
        (cap->means && (!out->received || !out->given)))
        return error_set(err, SQ_E_NOMEM, "vision: out of memory");
    return SQ_OK;
}

/* The layer behind the last one that runs gives q and k only, when its scores are wanted. */
static void scores_of_next(vit_run *r)
{
    const vit_capture *cap = &r->cap;
    int n_run = layers_to_run(&r->m->cfg);
    bool next = (cap->row_count && cap->row_first + cap->row_count - 1 == n_run) ||
                (cap->logits && cap->logits_layer == n_run) ||
                (cap->means && cap->means_layer == n_run);
    if (!next) return;
    double start = clock_ms();
    backend_at(r->be, "vision", n_run);
    layer_qkv(r, &r->m->layer[n_run], false);
    if (!r->be->resident) r->out->score_ms += clock_ms() - start;
    layer_capture(r, n_run);
}

/* All of it from the uploaded image on, by ops alone. */
static void run_ops(void *user)
{
    vit_run *r = user;
    int n_run = layers_to_run(&r->m->cfg);
    vit_embed(r);
    for (int i = 0; i < n_run && !r->be->err.code; i++)
        layer_forward(r, i);
    scores_of_next(r);
}

/* The same with something to do on the host after every layer. */
static int run_stepwise(vit_run *r, arena *host, sq_error *err)
{
    int n_run = layers_to_run(&r->m->cfg);
    vit_embed(r);
    if (r->probe) r->probe(r->user, -1, &r->x);
    TRY(features_collect(r, 0, host, err));
    for (int i = 0; i < n_run && !r->be->err.code; i++) {
        layer_forward(r, i);
        if (r->probe) r->probe(r->user, i, &r->x);
        TRY(features_collect(r, i + 1, host, err));
    }
    scores_of_next(r);
    return SQ_OK;
}

/* Everything that run_ops takes from the host, addresses included. */
static digest run_key(const vit_run *r)
{
    digest d = {0};
    const sq_tensor *const t[] = {&r->x,   &r->h,    &r->q,      &r->k,        &r->v,
                                  &r->ffn, &r->rows, &r->logits, &r->received, &r->given,
                                  &r->cls, &r->ids,  &r->patch,  &r->image,    &r->level};
    digest_add(&d, "vit", 3);
    digest_add(&d, &r->m, sizeof r->m);
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        digest_add(&d, &t[i]->data, sizeof t[i]->data);
        digest_add(&d, t[i]->shape, sizeof t[i]->shape);
    }
    const int cap[] = {r->cap.row_first, r->cap.row_count,  r->cap.logits,     r->cap.logits_layer,
                       r->cap.means,     r->cap.means_logits, r->cap.means_layer, r->views.n,
                       (int)r->image.dtype};
    digest_add(&d, cap, sizeof cap);
    return d;
}

static int run_start(vit_run *r, arena *host, sq_error *err)
{
    TRY(run_alloc(r, err));
    TRY(run_upload(r, host, err));
    if (r->probe || r->m->cfg.n_feature > 1) return run_stepwise(r, host, err);
    digest key = run_key(r);
    r->be->region(r->be, &key, sizeof key, run_ops, r);
    return SQ_OK;
}

int vit_begin(vit_run *r, sq_backend *be, const vit_model *m, const vit_views *views,
              const vit_capture *cap, vit_output *out, arena *dev, arena *host, sq_error *err)
{
    const vit_config *c = &m->cfg;
    int grid = c->image_size / c->patch_size, head_dim = c->dim / c->n_head;
    vit_probe probe = r->probe;
    void *user = r->user;
    *r = (vit_run){.be = be, .m = m, .views = *views, .out = out, .dev = dev, .probe = probe,
                   .user = user};
    if (cap) r->cap = *cap;
    r->n_tok = grid * grid + 1;
    *out = (vit_output){.n_view = views->n, .n_patch = grid * grid, .grid = grid,
                        .n_head = c->n_head, .keep_cls = c->keep_cls};
    out->row_first = r->cap.row_first;
    out->row_count = r->cap.row_count;
    r->attn = (attn_desc){.n_seq = views->n,
                          .n_q = r->n_tok,
                          .n_kv = r->n_tok,
                          .n_head = c->n_head,
                          .n_head_kv = c->n_head,
                          .head_dim = head_dim,
                          .scale = 1.0f / sqrtf((float)head_dim)};
    TRY(capture_check(c, &r->cap, err));
    out->hidden = new_f32(dev, (int64_t)views->n * r->n_tok, (int64_t)c->dim * c->n_feature);
    if (!out->hidden.data) return error_set(err, SQ_E_NOMEM, "vision: out of memory");
    if (c->n_feature == 1) r->x = out->hidden; /* the residual stream ends as the features */
    r->mark = arena_get_mark(dev);
    return run_start(r, host, err);
}

int vit_end(vit_run *r, arena *host, sq_error *err)
{
    sq_backend *be = r->be;
    TRY(scores_read(r, host, err));
    arena_rewind(r->dev, r->mark);
    if (be->err.code) return error_set(err, be->err.code, "%s", be->err.text);
    return SQ_OK;
}

int vit_forward(sq_backend *be, const vit_model *m, const vit_views *views, const vit_capture *cap,
                vit_output *out, arena *dev, arena *host, vit_probe probe, void *user,
                sq_error *err)
{
    vit_run r = {.probe = probe, .user = user};
    TRY(vit_begin(&r, be, m, views, cap, out, dev, host, err));
    return vit_end(&r, host, err);
}

sq_tensor vit_features(const vit_output *out, int view)
{
    int64_t n_tok = out->n_patch + 1, first = view * n_tok;
    return out->keep_cls ? tensor_rows(&out->hidden, first, n_tok)
                         : tensor_rows(&out->hidden, first + 1, out->n_patch);
}
