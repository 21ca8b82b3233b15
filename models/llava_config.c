#include "models/llava_config.h"

#include "core/file.h"
#include "core/json.h"

#include <stdio.h>
#include <string.h>

enum { DIM_MAX = 1 << 16, LAYERS_MAX = 1024, VOCAB_MAX = 1 << 22, CTX_MAX = 1 << 24 };

/* A key under a section: "text_config" + "hidden_size"; section "" is the top level. */
typedef struct section {
    const json_doc *doc;
    const char *name;
    sq_error *err;
} section;

static const char *key_of(const section *s, const char *key, char *out, size_t size)
{
    snprintf(out, size, "%s%s%s", s->name, *s->name ? "." : "", key);
    return out;
}

static int get_int(const section *s, const char *key, int64_t min, int64_t max, int *out)
{
    char full[256];
    return json_int(s->doc, key_of(s, key, full, sizeof full), min, max, out, s->err);
}

static int get_float(const section *s, const char *key, float *out)
{
    char full[256];
    return json_float(s->doc, key_of(s, key, full, sizeof full), out, s->err);
}

static int get_string(const section *s, const char *key, const char **out)
{
    char full[256];
    return json_string(s->doc, key_of(s, key, full, sizeof full), out, s->err);
}

static int act_of(const json_doc *doc, const char *key, const char *name, sq_act *out,
                  sq_error *err)
{
    static const struct {
        const char *name;
        sq_act act;
    } acts[] = {{"gelu", SQ_ACT_GELU},
                {"quick_gelu", SQ_ACT_QUICK_GELU},
                {"gelu_pytorch_tanh", SQ_ACT_GELU_TANH},
                {"gelu_new", SQ_ACT_GELU_TANH},
                {"silu", SQ_ACT_SILU},
                {"swish", SQ_ACT_SILU}};
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++)
        if (strcmp(name, acts[i].name) == 0) {
            *out = acts[i].act;
            return SQ_OK;
        }
    return error_set(err, SQ_E_UNSUPPORTED, "%s: %s: activation \"%s\" is not supported", doc->path,
                     key, name);
}

/* ---- rope ---- */

static int read_rope_scaling(const section *s, const char *table, decoder_config *c)
{
    char name[128];
    section r = {s->doc, key_of(s, table, name, sizeof name), s->err};
    if (!json_find(s->doc, name)) return SQ_OK;
    const char *type = "default";
    float partial = 1;
    TRY(get_float(&r, "partial_rotary_factor", &partial));
    if (partial != 1)
        return error_set(s->err, SQ_E_UNSUPPORTED,
                         "%s: %s.partial_rotary_factor %g is not supported (1 is)", s->doc->path,
                         name, (double)partial);
    TRY(get_string(&r, "type", &type));
    TRY(get_string(&r, "rope_type", &type));
    TRY(get_float(&r, "rope_theta", &c->rope.theta));
    TRY(get_float(&r, "factor", &c->rope.factor));
    TRY(get_float(&r, "low_freq_factor", &c->rope.low_freq_factor));
    TRY(get_float(&r, "high_freq_factor", &c->rope.high_freq_factor));
    TRY(get_int(&r, "original_max_position_embeddings", 1, CTX_MAX, &c->rope.original_ctx));
    if (strcmp(type, "default") == 0)
        c->rope.scaling = ROPE_SCALING_NONE;
    else if (strcmp(type, "linear") == 0)
        c->rope.scaling = ROPE_SCALING_LINEAR;
    else if (strcmp(type, "dynamic") == 0)
        c->rope.scaling = ROPE_SCALING_DYNAMIC;
    else if (strcmp(type, "llama3") == 0)
        c->rope.scaling = ROPE_SCALING_LLAMA3;
    else
        return error_set(s->err, SQ_E_UNSUPPORTED,
                         "%s: %s: rope type \"%s\" is not supported (linear, dynamic, llama3 are)",
                         s->doc->path, name, type);
    if (!(c->rope.factor > 0) || !(c->rope.theta > 0))
        return error_set(s->err, SQ_E_FORMAT, "%s: %s: factor and theta must be positive",
                         s->doc->path, name);
    if (c->rope.scaling == ROPE_SCALING_LLAMA3 &&
        !(c->rope.low_freq_factor > 0 && c->rope.high_freq_factor > c->rope.low_freq_factor))
        return error_set(s->err, SQ_E_FORMAT, "%s: %s: expected 0 < low_freq_factor < "
                                              "high_freq_factor",
                         s->doc->path, name);
    return SQ_OK;
}

/* ---- language model ---- */

/* Mistral: every layer. Qwen2: only when switched on, and only from layer max_window_layers on. */
static int read_window(const section *s, bool qwen2, decoder_config *c)
{
    char key[256];
    bool use = !qwen2;
    const cJSON *part = *s->name ? json_find(s->doc, s->name) : s->doc->root;
    TRY(json_bool(s->doc, key_of(s, "use_sliding_window", key, sizeof key), &use, s->err));
    if (!use || cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(part, "sliding_window")))
        return SQ_OK; /* null switches it off; a missing key means the default */
    c->window = 4096;
    c->window_from = qwen2 ? 28 : 0;
    TRY(get_int(s, "sliding_window", 0, CTX_MAX, &c->window));
    if (qwen2) TRY(get_int(s, "max_window_layers", 0, LAYERS_MAX, &c->window_from));
    if (c->window_from >= c->n_layer) c->window = c->window_from = 0;
    return SQ_OK;
}

/* Either place ties: newer files keep the flag at the top, older ones beside the text model's. */
static int read_tied(const section *s, llava_facts *facts)
{
    char key[256];
    bool top = false, text = false;
    TRY(json_bool(s->doc, "tie_word_embeddings", &top, s->err));
    TRY(json_bool(s->doc, key_of(s, "tie_word_embeddings", key, sizeof key), &text, s->err));
    facts->tied = top || text;
    return SQ_OK;
}

static int check_text_act(const section *s)
{
    const char *act = "silu";
    TRY(get_string(s, "hidden_act", &act));
    if (strcmp(act, "silu") == 0 || strcmp(act, "swish") == 0) return SQ_OK;
    return error_set(s->err, SQ_E_UNSUPPORTED,
                     "%s: hidden_act \"%.40s\" of the text model is not supported (silu is)",
                     s->doc->path, act);
}

static int read_text(const section *s, decoder_config *c, llava_facts *facts)
{
    const char *family = "llama";
    TRY(get_string(s, "model_type", &family));
    if (strncmp(family, "llava", 5) == 0) family = strstr(family, "mistral") ? "mistral" : "llama";
    snprintf(facts->family, sizeof facts->family, "%s", family);
    bool mistral = strcmp(family, "mistral") == 0, qwen2 = strcmp(family, "qwen2") == 0;
    if (!mistral && !qwen2 && strcmp(family, "llama") != 0)
        return error_set(s->err, SQ_E_UNSUPPORTED,
                         "%s: text model_type \"%.40s\" is not supported (llama, mistral, qwen2 "
                         "are)",
                         s->doc->path, family);
    *c = (decoder_config){.dim = 4096,
                          .ffn_dim = mistral ? 14336 : qwen2 ? 22016 : 11008,
                          .n_layer = 32,
                          .n_head = 32,
                          .n_vocab = qwen2 ? 151936 : 32000,
                          .n_ctx = mistral ? 131072 : qwen2 ? 32768 : 2048,
                          .eps = 1e-6f,
                          .rope = {.theta = 10000, .factor = 1}};
    TRY(get_int(s, "hidden_size", 8, DIM_MAX, &c->dim));
    TRY(get_int(s, "intermediate_size", 8, DIM_MAX * 4, &c->ffn_dim));
    TRY(get_int(s, "num_hidden_layers", 1, LAYERS_MAX, &c->n_layer));
    TRY(get_int(s, "num_attention_heads", 1, DIM_MAX / 8, &c->n_head));
    c->n_head_kv = mistral ? 8 : c->n_head;
    TRY(get_int(s, "num_key_value_heads", 1, c->n_head, &c->n_head_kv));
    c->head_dim = c->dim / c->n_head;
    TRY(get_int(s, "head_dim", 8, DECODER_MAX_HEAD_DIM, &c->head_dim));
    TRY(get_int(s, "vocab_size", 1, VOCAB_MAX, &c->n_vocab));
    TRY(get_int(s, "max_position_embeddings", 1, CTX_MAX, &c->n_ctx));
    TRY(get_float(s, "rms_norm_eps", &c->eps));
    TRY(get_float(s, "rope_theta", &c->rope.theta));
    if (c->n_head % c->n_head_kv)
        return error_set(s->err, SQ_E_FORMAT,
                         "%s: num_attention_heads %d is no multiple of num_key_value_heads %d",
                         s->doc->path, c->n_head, c->n_head_kv);
    if (c->head_dim % 8 || c->head_dim > DECODER_MAX_HEAD_DIM)
        return error_set(s->err, SQ_E_UNSUPPORTED,
                         "%s: head_dim %d: expected a multiple of 8 up to %d", s->doc->path,
                         c->head_dim, DECODER_MAX_HEAD_DIM);
    if (mistral || qwen2) TRY(read_window(s, qwen2, c));
    TRY(read_tied(s, facts));
    TRY(check_text_act(s));
    c->rope.original_ctx = c->n_ctx;
    TRY(read_rope_scaling(s, "rope_scaling", c));
    TRY(read_rope_scaling(s, "rope_parameters", c));
    /* as in transformers: dynamic scaling starts at max_position_embeddings in any case */
    if (c->rope.scaling == ROPE_SCALING_DYNAMIC) c->rope.original_ctx = c->n_ctx;
    return SQ_OK;
}

/* ---- vision tower and projector ---- */

/* vision_feature_layer: one hidden state index or a list of them; negatives count from the end. */
static int read_features(const section *top, const char *key, vit_config *c)
{
    const cJSON *j = json_find(top->doc, key);
    int n = cJSON_IsArray(j) ? cJSON_GetArraySize(j) : 1;
    if (n < 1 || n > VIT_MAX_FEATURES)
        return error_set(top->err, SQ_E_UNSUPPORTED, "%s: %s: expected 1 to %d layers, found %d",
                         top->doc->path, key, VIT_MAX_FEATURES, n);
    const cJSON *item = cJSON_IsArray(j) ? j->child : j;
    for (int i = 0; i < n; i++, item = item ? item->next : NULL) {
        double v = item ? item->valuedouble : -2;
        if ((item && !cJSON_IsNumber(item)) || v < -c->n_layer - 1 || v > c->n_layer || v != (int)v)
            return error_set(top->err, SQ_E_FORMAT, "%s: %s: expected %d..%d", top->doc->path, key,
                             -c->n_layer - 1, c->n_layer);
        c->feature[i] = v < 0 ? c->n_layer + 1 + (int)v : (int)v;
    }
    c->n_feature = n;
    return SQ_OK;
}

static int read_vision(const section *top, model *m, const llava_facts *facts)
{
    vit_config *c = &m->vit.cfg;
    section s = {top->doc, "vision_config", top->err};
    const char *act = "quick_gelu", *strategy = "default";
    *c = (vit_config){.image_size = 336,
                      .patch_size = 14,
                      .dim = 1024,
                      .ffn_dim = 4096,
                      .n_head = 16,
                      .n_layer = 24,
                      .eps = 1e-5f};
    TRY(get_int(&s, "image_size", 8, 4096, &c->image_size));
    TRY(get_int(&s, "patch_size", 1, 256, &c->patch_size));
    TRY(get_int(&s, "hidden_size", 8, DIM_MAX, &c->dim));
    TRY(get_int(&s, "intermediate_size", 8, DIM_MAX * 4, &c->ffn_dim));
    TRY(get_int(&s, "num_attention_heads", 1, DIM_MAX / 8, &c->n_head));
    TRY(get_int(&s, "num_hidden_layers", 1, LAYERS_MAX, &c->n_layer));
    TRY(get_float(&s, "layer_norm_eps", &c->eps));
    TRY(get_string(&s, "hidden_act", &act));
    TRY(act_of(top->doc, "vision_config.hidden_act", act, &c->act, top->err));
    c->n_loaded = c->n_layer;
    if (c->image_size % c->patch_size || c->image_size / c->patch_size > 256)
        return error_set(top->err, SQ_E_FORMAT,
                         "%s: vision_config: image_size %d does not fit patch_size %d",
                         top->doc->path, c->image_size, c->patch_size);
    if (c->dim % c->n_head || c->dim / c->n_head % 8)
        return error_set(top->err, SQ_E_FORMAT,
                         "%s: vision_config: hidden_size %d does not fit %d heads", top->doc->path,
                         c->dim, c->n_head);
    if (facts->original) {
        TRY(read_features(top, "mm_vision_select_layer", c));
        strategy = "patch";
        TRY(get_string(top, "mm_vision_select_feature", &strategy));
    } else {
        TRY(read_features(top, "vision_feature_layer", c));
        TRY(get_string(top, "vision_feature_select_strategy", &strategy));
    }
    c->keep_cls = strcmp(strategy, "full") == 0 || strcmp(strategy, "cls_patch") == 0;
    if (!c->keep_cls && strcmp(strategy, "default") != 0 && strcmp(strategy, "patch") != 0)
        return error_set(top->err, SQ_E_UNSUPPORTED, "%s: feature strategy \"%s\" is not supported",
                         top->doc->path, strategy);
    return SQ_OK;
}

static int read_projector(const section *top, model *m)
{
    projector_model *p = &m->proj;
    const char *act = "gelu", *type = "mlp2x_gelu";
    TRY(get_string(top, "projector_hidden_act", &act));
    TRY(get_string(top, "mm_projector_type", &type));
    if (strcmp(type, "mlp2x_gelu") != 0)
        return error_set(top->err, SQ_E_UNSUPPORTED,
                         "%s: mm_projector_type \"%s\" is not supported (mlp2x_gelu is)",
                         top->doc->path, type);
    p->in_dim = m->vit.cfg.dim * m->vit.cfg.n_feature;
    p->mid_dim = p->out_dim = m->dec.cfg.dim;
    return act_of(top->doc, "projector_hidden_act", act, &p->act, top->err);
}

static int read_pinpoints(const section *top, model *m)
{
    const cJSON *list = json_find(top->doc, "image_grid_pinpoints");
    if (!list) return SQ_OK;
    for (const cJSON *p = cJSON_IsArray(list) ? list->child : NULL; p; p = p->next) {
        if (m->n_pinpoint == MODEL_MAX_PINPOINTS || cJSON_GetArraySize(p) != 2 ||
            !cJSON_IsNumber(p->child) || !cJSON_IsNumber(p->child->next))
            return error_set(top->err, SQ_E_FORMAT,
                             "%s: image_grid_pinpoints: expected up to %d pairs of numbers",
                             top->doc->path, MODEL_MAX_PINPOINTS);
        m->pinpoint[m->n_pinpoint][0] = p->child->valueint;
        m->pinpoint[m->n_pinpoint++][1] = p->child->next->valueint;
    }
    return SQ_OK;
}

static int read_config(model *m, const json_doc *doc, llava_facts *facts, sq_error *err)
{
    section top = {doc, "", err};
    const char *type = "";
    TRY(get_string(&top, "model_type", &type));
    facts->original = json_find(doc, "mm_vision_tower") || json_find(doc, "mm_hidden_size");
    facts->text_only = !facts->original && !json_find(doc, "vision_config") &&
                       strncmp(type, "llava", 5) != 0;
    snprintf(m->arch, sizeof m->arch, "%s", type);
    section text = {doc, json_find(doc, "text_config") ? "text_config" : "", err};
    TRY(read_text(&text, &m->dec.cfg, facts));
    if (facts->text_only) return SQ_OK;
    if (!facts->original && strcmp(type, "llava") != 0 && strcmp(type, "llava_next") != 0)
        return error_set(err, SQ_E_UNSUPPORTED,
                         "%s: model_type \"%s\" is not supported (llava, llava_next are)",
                         doc->path, type);
    TRY(read_vision(&top, m, facts));
    TRY(read_projector(&top, m));
    TRY(read_pinpoints(&top, m));
    const char *aspect = "";
    TRY(get_string(&top, "image_aspect_ratio", &aspect));
    m->tiled = strcmp(type, "llava_next") == 0 || strncmp(aspect, "anyres", 6) == 0;
    m->pre.fit = strcmp(aspect, "pad") == 0 ? FIT_PAD : FIT_CROP;
    return SQ_OK;
}

int llava_config_read(model *m, const char *dir, llava_facts *facts, sq_error *err)
{
    char path[4096];
    json_doc doc;
    *facts = (llava_facts){0};
    TRY(path_join(path, sizeof path, dir, "config.json", err));
    TRY(json_open(&doc, path, 0, err));
    int rc = read_config(m, &doc, facts, err);
    json_close(&doc);
    return rc;
}

/* ---- preprocessing ---- */

/* A size is a number, or an object with shortest_edge or height. */
static int get_size(const section *s, const char *key, int *out)
{
    char full[256], part[280];
    key_of(s, key, full, sizeof full);
    if (cJSON_IsNumber(json_find(s->doc, full))) return get_int(s, key, 1, 8192, out);
    snprintf(part, sizeof part, "%s.height", full);
    TRY(json_int(s->doc, part, 1, 8192, out, s->err));
    snprintf(part, sizeof part, "%s.shortest_edge", full);
    return json_int(s->doc, part, 1, 8192, out, s->err);
}

static int read_preprocessor(model *m, const json_doc *doc, const char *at, sq_error *err)
{
    preprocess_config *p = &m->pre;
    section s = {doc, at, err};
    char key[256];
    bool pad = false;
    int resample = 3;
    const char *type = "";
    TRY(get_size(&s, "size", &p->resize));
    TRY(get_size(&s, "crop_size", &p->side));
    TRY(get_int(&s, "resample", 0, 5, &resample));
    TRY(get_float(&s, "rescale_factor", &p->rescale));
    TRY(json_floats(doc, key_of(&s, "image_mean", key, sizeof key), p->mean, 3, err));
    TRY(json_floats(doc, key_of(&s, "image_std", key, sizeof key), p->std, 3, err));
    if (!(p->std[0] > 0 && p->std[1] > 0 && p->std[2] > 0))
        return error_set(err, SQ_E_FORMAT, "%s: image_std: expected 3 positive numbers", doc->path);
    TRY(json_bool(doc, key_of(&s, "do_pad", key, sizeof key), &pad, err));
    TRY(get_string(&s, "image_processor_type", &type));
    if (resample != 2 && resample != 3)
        return error_set(err, SQ_E_UNSUPPORTED,
                         "%s: resample %d: expected 3 (bicubic) or 2 (bilinear)", doc->path,
                         resample);
    p->filter = resample == 3 ? RESAMPLE_BICUBIC : RESAMPLE_BILINEAR;
    /* do_pad of LLaVA-NeXT's processor is about tiles, not about squares */
    if (pad && strncmp(type, "LlavaImageProcessor", 19) == 0) p->fit = FIT_PAD;
    return SQ_OK;
}

int llava_preprocess_read(model *m, const char *dir, sq_error *err)
{
    static const char *const file[] = {"preprocessor_config.json", "processor_config.json"};
    static const char *const at[] = {"", "image_processor"};
    static const float mean[] = {0.48145466f, 0.4578275f, 0.40821073f};
    static const float std[] = {0.26862954f, 0.26130258f, 0.27577711f};
    preprocess_config *p = &m->pre;
    p->side = p->resize = m->vit.cfg.image_size;
    p->rescale = 1.0f / 255.0f;
    memcpy(p->mean, mean, sizeof mean);
    memcpy(p->std, std, sizeof std);
    for (int i = 0; i < 2; i++) {
        char path[4096];
        json_doc doc;
        TRY(path_join(path, sizeof path, dir, file[i], err));
        if (!file_exists(path)) continue;
        TRY(json_open(&doc, path, 0, err));
        int rc = read_preprocessor(m, &doc, at[i], err);
        json_close(&doc);
        if (rc) return rc;
        break;
    }
    if (p->side != m->vit.cfg.image_size)
        return error_set(err, SQ_E_FORMAT,
                         "%s: crop_size %d differs from the tower's image_size %d", dir, p->side,
                         m->vit.cfg.image_size);
    return SQ_OK;
}
