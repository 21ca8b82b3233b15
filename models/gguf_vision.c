/* The mmproj file of a GGUF pair: CLIP tower and projector. */
#include "models/gguf_parts.h"

#include <stdio.h>
#include <string.h>

int gguf_vision_check(gguf_file *g, sq_error *err)
{
    const char *arch = "clip", *type = "mlp";
    bool vision = true;
    TRY(gguf_string(g, "general.architecture", &arch, err));
    if (strcmp(arch, "llama") == 0 || strcmp(arch, "qwen2") == 0)
        return error_set(err, SQ_E_FORMAT,
                         "%s: this is a text model: expected a vision file (mmproj)", g->path);
    if (strcmp(arch, "clip") != 0)
        return error_set(err, SQ_E_FORMAT,
                         "%s: general.architecture: expected \"clip\" (an mmproj file), found "
                         "\"%.40s\"",
                         g->path, arch);
    TRY(gguf_bool(g, "clip.has_vision_encoder", &vision, err));
    if (!vision)
        return error_set(err, SQ_E_UNSUPPORTED, "%s: clip.has_vision_encoder: no vision tower",
                         g->path);
    TRY(gguf_string(g, "clip.vision.projector_type", &type, err));
    TRY(gguf_string(g, "clip.projector_type", &type, err));
    if (strcmp(type, "mlp") != 0)
        return error_set(err, SQ_E_UNSUPPORTED,
                         "%s: clip.projector_type \"%.40s\" is not supported (mlp is)", g->path,
                         type);
    return SQ_OK;
}

static int act_of(gguf_file *g, const char *key, sq_act *out, sq_error *err)
{
    static const char *const name[] = {"gelu", "quick_gelu", "gelu_tanh", "silu"};
    static const sq_act act[] = {SQ_ACT_GELU, SQ_ACT_QUICK_GELU, SQ_ACT_GELU_TANH, SQ_ACT_SILU};
    const char *text = NULL;
    TRY(gguf_string(g, key, &text, err));
    for (int i = 0; text && i < 4; i++)
        if (strcmp(text, name[i]) == 0) {
            *out = act[i];
            return SQ_OK;
        }
    if (!text) return SQ_OK;
    return error_set(err, SQ_E_UNSUPPORTED, "%s: %s: activation \"%.40s\" is not supported",
                     g->path, key, text);
}

static int read_act(gguf_file *g, vit_config *c, sq_error *err)
{
    bool gelu = false, silu = false;
    TRY(gguf_bool(g, "clip.use_gelu", &gelu, err));
    TRY(gguf_bool(g, "clip.use_silu", &silu, err));
    c->act = gelu ? SQ_ACT_GELU : silu ? SQ_ACT_SILU : SQ_ACT_QUICK_GELU;
    return act_of(g, SQUINT_VISION_ACT, &c->act, err);
}

/* Files without feature_layer come from converters that leave out the tower's last layer: all
 * stored layers run, and one more existed. */
static int read_layers(gguf_file *g, vit_config *c, sq_error *err)
{
    const int32_t *layer = NULL;
    int n = 0;
    TRY(gguf_need_int(g, "clip.vision.block_count", 1, GGUF_LAYERS_MAX, &c->n_loaded, err));
    TRY(gguf_ints(g, "clip.vision.feature_layer", &layer, &n, err));
    c->n_layer = c->n_loaded + (layer ? 0 : 1);
    TRY(gguf_int(g, SQUINT_LAYERS, c->n_loaded, GGUF_LAYERS_MAX, &c->n_layer, err));
    if (!layer) {
        c->feature[0] = c->n_loaded;
        c->n_feature = 1;
        return SQ_OK;
    }
    if (n < 1 || n > VIT_MAX_FEATURES)
        return error_set(err, SQ_E_UNSUPPORTED,
                         "%s: clip.vision.feature_layer: expected 1 to %d layers, found %d",
                         g->path, VIT_MAX_FEATURES, n);
    for (int i = 0; i < n; i++) {
        int hidden = layer[i] < 0 && layer[i] >= -c->n_layer - 1 ? layer[i] + c->n_layer + 1
                                                                  : layer[i];
        if (hidden < 0 || hidden > c->n_loaded)
            return error_set(err, SQ_E_FORMAT, "%s: clip.vision.feature_layer: expected 0..%d, "
                                               "found %d", g->path, c->n_loaded, (int)layer[i]);
        c->feature[i] = hidden;
    }
    c->n_feature = n;
    return SQ_OK;
}

static int read_config(gguf_file *g, vit_config *c, sq_error *err)
{
    const char *strategy = "default";
    *c = (vit_config){.eps = 1e-5f};
    TRY(gguf_need_int(g, "clip.vision.image_size", 8, 4096, &c->image_size, err));
    TRY(gguf_need_int(g, "clip.vision.patch_size", 1, 256, &c->patch_size, err));
    TRY(gguf_need_int(g, "clip.vision.embedding_length", 8, GGUF_DIM_LIMIT, &c->dim, err));
    TRY(gguf_need_int(g, "clip.vision.feed_forward_length", 8, GGUF_DIM_LIMIT * 4, &c->ffn_dim,
                      err));
    TRY(gguf_need_int(g, "clip.vision.attention.head_count", 1, GGUF_DIM_LIMIT / 8, &c->n_head,
                      err));
    TRY(gguf_float(g, "clip.vision.attention.layer_norm_epsilon", &c->eps, err));
    if (c->image_size % c->patch_size || c->image_size / c->patch_size > 256)
        return error_set(err, SQ_E_FORMAT,
                         "%s: clip.vision: image_size %d does not fit patch_size %d", g->path,
                         c->image_size, c->patch_size);
    if (c->dim % c->n_head || c->dim / c->n_head % 8)
        return error_set(err, SQ_E_FORMAT,
                         "%s: clip.vision: embedding_length %d does not fit %d heads", g->path,
                         c->dim, c->n_head);
    TRY(read_layers(g, c, err));
    TRY(read_act(g, c, err));
    TRY(gguf_string(g, SQUINT_STRATEGY, &strategy, err));
    c->keep_cls = strcmp(strategy, "full") == 0;
    if (!c->keep_cls && strcmp(strategy, "default") != 0)
        return error_set(err, SQ_E_UNSUPPORTED, "%s: " SQUINT_STRATEGY ": \"%.40s\" is not "
                                                "supported", g->path, strategy);
    return SQ_OK;
}

/* ---- pictures ---- */

static int read_rgb(gguf_file *g, const char *key, float least, float *out, sq_error *err)
{
    const float *v = NULL;
    int n = 0;
    TRY(gguf_floats(g, key, &v, &n, err));
    if (!v) return SQ_OK;
    if (n != 3 || !(v[0] > least && v[1] > least && v[2] > least))
        return error_set(err, SQ_E_FORMAT, "%s: %s: expected 3 numbers above %g", g->path, key,
                         least);
    memcpy(out, v, 3 * sizeof *out);
    return SQ_OK;
}

static int read_pinpoints(model *m, gguf_file *g, const char *key, sq_error *err)
{
    const int32_t *v = NULL;
    int n = 0;
    TRY(gguf_ints(g, key, &v, &n, err));
    if (!v) return SQ_OK;
    if (n % 2 || n / 2 > MODEL_MAX_PINPOINTS)
        return error_set(err, SQ_E_FORMAT, "%s: %s: expected up to %d pairs of numbers", g->path,
                         key, MODEL_MAX_PINPOINTS);
    m->n_pinpoint = n / 2;
    for (int i = 0; i < n; i++)
        m->pinpoint[i / 2][i % 2] = v[i];
    return SQ_OK;
}

static int read_fit(model *m, gguf_file *g, sq_error *err)
{
    const char *fit = NULL, *aspect = "", *merge = "";
    TRY(gguf_string(g, "clip.vision.image_aspect_ratio", &aspect, err));
    TRY(gguf_string(g, "clip.vision.mm_patch_merge_type", &merge, err));
    m->tiled = strncmp(aspect, "anyres", 6) == 0 || strcmp(merge, "spatial_unpad") == 0;
    TRY(gguf_bool(g, SQUINT_TILED, &m->tiled, err));
    TRY(gguf_string(g, SQUINT_FIT, &fit, err));
    if (!fit) fit = m->tiled ? "crop" : "pad"; /* the original LLaVA-1.5 was trained padded */
    m->pre.fit = strcmp(fit, "pad") == 0 ? FIT_PAD : FIT_CROP;
    if (m->pre.fit == FIT_CROP && strcmp(fit, "crop") != 0)
        return error_set(err, SQ_E_FORMAT, "%s: " SQUINT_FIT ": expected \"crop\" or \"pad\", "
                                           "found \"%.40s\"", g->path, fit);
    return SQ_OK;
}

static int read_preprocess(model *m, gguf_file *g, sq_error *err)
{
    static const float mean[] = {0.48145466f, 0.4578275f, 0.40821073f};
    static const float std[] = {0.26862954f, 0.26130258f, 0.27577711f};
    preprocess_config *p = &m->pre;
    const char *filter = "bicubic";
    p->side = p->resize = m->vit.cfg.image_size;
    p->rescale = 1.0f / 255.0f;
    memcpy(p->mean, mean, sizeof mean);
    memcpy(p->std, std, sizeof std);
    TRY(read_rgb(g, "clip.vision.image_mean", -1e6f, p->mean, err));
    TRY(read_rgb(g, "clip.vision.image_std", 0, p->std, err));
    TRY(gguf_int(g, SQUINT_RESIZE, 1, 8192, &p->resize, err));
    TRY(gguf_float(g, SQUINT_RESCALE, &p->rescale, err));
    TRY(gguf_string(g, SQUINT_FILTER, &filter, err));
    p->filter = strcmp(filter, "bilinear") == 0 ? RESAMPLE_BILINEAR : RESAMPLE_BICUBIC;
    if (p->filter == RESAMPLE_BICUBIC && strcmp(filter, "bicubic") != 0)
        return error_set(err, SQ_E_UNSUPPORTED, "%s: " SQUINT_FILTER ": \"%.40s\" is not supported",
                         g->path, filter);
    TRY(read_pinpoints(m, g, "clip.vision.image_grid_pinpoints", err));
    TRY(read_pinpoints(m, g, SQUINT_PINPOINTS, err));
    return read_fit(m, g, err);
}

/* ---- weights ---- */

/* Older converters called fc1 ffn_down and fc2 ffn_up. The shapes tell, as in llama.cpp. */
static bool is_swapped(model *m, const gguf_file *g)
{
    const vit_config *c = &m->vit.cfg;
    const weight_entry *down = weight_find(&m->weights, "v.blk.0.ffn_down.weight");
    if (c->ffn_dim == c->dim) return !gguf_find(g, SQUINT_FIT); /* shapes cannot tell */
    return down && down->t.rank == 2 && down->t.shape[0] == c->ffn_dim &&
           down->t.shape[1] == c->dim;
}

/* The layer table with the two names exchanged. */
static void swap_names(gguf_name *out)
{
    static const char *const from[] = {"ffn_up.weight", "ffn_up.bias", "ffn_down.weight",
                                       "ffn_down.bias"};
    static const char *const to[] = {"ffn_down.weight", "ffn_down.bias", "ffn_up.weight",
                                     "ffn_up.bias"};
    for (gguf_name *n = out; n->name; n++)
        for (int i = 0; i < 4; i++)
            if (strcmp(n->name, from[i]) == 0) {
                n->name = to[i];
                break;
            }
}

static int bind_tower(model *m, const gguf_file *g, sq_error *err)
{
    enum { NAMES_MAX = 32 };
    vit_model *v = &m->vit;
    gguf_name names[NAMES_MAX];
    int n = 0;
    do
        names[n] = gguf_vision_layer_names[n];
    while (names[n++].name && n < NAMES_MAX);
    if (is_swapped(m, g)) swap_names(names);
    TRY(gguf_bind(m, g, gguf_vision_names, "", v, gguf_dim_vision, err));
    vit_layer *layer = arena_calloc(&m->mem, (size_t)v->cfg.n_loaded, sizeof *layer);
    if (!layer) return error_set(err, SQ_E_NOMEM, "%s: out of memory", g->path);
    for (int i = 0; i < v->cfg.n_loaded; i++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "v.blk.%d.", i);
        TRY(gguf_bind(m, g, names, prefix, &layer[i], gguf_dim_vision, err));
    }
    v->layer = layer;
    return SQ_OK;
}

static int bind_projector(model *m, gguf_file *g, sq_error *err)
{
    projector_model *p = &m->proj;
    const weight_entry *mid = weight_find(&m->weights, "mm.0.weight");
    const weight_entry *last = weight_find(&m->weights, "mm.2.weight");
    p->act = SQ_ACT_GELU;
    TRY(act_of(g, SQUINT_PROJ_ACT, &p->act, err));
    if (last && last->t.rank == 2 && last->t.shape[0] != m->dec.cfg.dim)
        return error_set(err, SQ_E_FORMAT,
                         "%s: the projector makes %lld values a token, but the text model %s takes "
                         "%d: these files are no pair",
                         g->path, (long long)last->t.shape[0], m->path, m->dec.cfg.dim);
    p->in_dim = m->vit.cfg.dim * m->vit.cfg.n_feature;
    p->out_dim = m->dec.cfg.dim;
    p->mid_dim = mid && mid->t.rank == 2 && mid->t.shape[0] <= GGUF_DIM_LIMIT
                     ? (int)mid->t.shape[0]
                     : p->out_dim;
    TRY(gguf_bind(m, g, gguf_projector_names, "", p, gguf_dim_vision, err));
    if (!tensor_is_set(&p->newline) && weight_find(&m->weights, "model.image_newline"))
        TRY(weight_bind(&m->weights, "model.image_newline", p->out_dim, 0, &p->newline, err));
    return SQ_OK;
}

int gguf_vision_read(model *m, gguf_file *g, sq_error *err)
{
    TRY(read_config(g, &m->vit.cfg, err));
    TRY(read_preprocess(m, g, err));
    TRY(bind_tower(m, g, err));
    TRY(bind_projector(m, g, err));
    snprintf(m->arch, sizeof m->arch, "%s", m->tiled ? "llava_next" : "llava");
    return SQ_OK;
}
