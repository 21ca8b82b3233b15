/* LLaVA checkpoints of Hugging Face: tensor names -> structs. Every naming in use is tried: legacy
 * (language_model.model.), transformers 4.52+ (model.language_model.), 5.x (no vision_model.) and
 * the original repository's (model.mm_projector.0). */
#include "models/llava_config.h"
#include "models/model.h"

#include <stdio.h>
#include <string.h>

/* A weight map and the prefix of the part being bound. */
typedef struct binder {
    weight_map *w;
    const char *prefix;
    sq_error *err;
} binder;

static const char *find_prefix(weight_map *w, const char *const *prefix, const char *probe)
{
    char name[256];
    for (int i = 0; prefix[i]; i++) {
        snprintf(name, sizeof name, "%s%s", prefix[i], probe);
        if (weight_find(w, name)) return prefix[i];
    }
    return NULL;
}

static int bind(const binder *b, const char *name, int64_t rows, int64_t cols, sq_tensor *out)
{
    char full[256];
    snprintf(full, sizeof full, "%s%s", b->prefix, name);
    return weight_bind(b->w, full, rows, cols, out, b->err);
}

static int bind_optional(const binder *b, const char *name, int64_t rows, sq_tensor *out)
{
    char full[256];
    snprintf(full, sizeof full, "%s%s", b->prefix, name);
    return weight_find(b->w, full) ? weight_bind(b->w, full, rows, 0, out, b->err) : SQ_OK;
}

/* NAME.weight [rows,cols] and NAME.bias [rows]. */
static int bind_pair(const binder *b, int layer, const char *name, int64_t rows, int64_t cols,
                     sq_tensor *weight, sq_tensor *bias)
{
    char full[256];
    snprintf(full, sizeof full, "encoder.layers.%d.%s.weight", layer, name);
    TRY(bind(b, full, rows, cols, weight));
    snprintf(full, sizeof full, "encoder.layers.%d.%s.bias", layer, name);
    return bind(b, full, rows, 0, bias);
}

static int bind_vit_layer(const binder *b, const vit_config *c, int i, vit_layer *l)
{
    TRY(bind_pair(b, i, "layer_norm1", c->dim, 0, &l->ln1_w, &l->ln1_b));
    TRY(bind_pair(b, i, "self_attn.q_proj", c->dim, c->dim, &l->q_w, &l->q_b));
    TRY(bind_pair(b, i, "self_attn.k_proj", c->dim, c->dim, &l->k_w, &l->k_b));
    TRY(bind_pair(b, i, "self_attn.v_proj", c->dim, c->dim, &l->v_w, &l->v_b));
    TRY(bind_pair(b, i, "self_attn.out_proj", c->dim, c->dim, &l->o_w, &l->o_b));
    TRY(bind_pair(b, i, "layer_norm2", c->dim, 0, &l->ln2_w, &l->ln2_b));
    TRY(bind_pair(b, i, "mlp.fc1", c->ffn_dim, c->dim, &l->fc1_w, &l->fc1_b));
    return bind_pair(b, i, "mlp.fc2", c->dim, c->ffn_dim, &l->fc2_w, &l->fc2_b);
}

static int bind_vit(model *m, sq_error *err)
{
    static const char *const prefixes[] = {"vision_tower.vision_model.",
                                           "model.vision_tower.vision_model.",
                                           "model.vision_tower.vision_tower.vision_model.",
                                           "vision_tower.vision_tower.vision_model.",
                                           "model.vision_tower.",
                                           "vision_tower.",
                                           "vision_model.",
                                           NULL};
    vit_model *v = &m->vit;
    const vit_config *c = &v->cfg;
    int grid = c->image_size / c->patch_size, k = 3 * c->patch_size * c->patch_size;
    const char *prefix = find_prefix(&m->weights, prefixes, "embeddings.class_embedding");
    if (!prefix)
        return error_set(err, SQ_E_FORMAT,
                         "%s: no vision tower: no tensor ends in "
                         "vision_tower.vision_model.embeddings.class_embedding",
                         m->path);
    binder b = {&m->weights, prefix, err};
    TRY(bind(&b, "embeddings.class_embedding", c->dim, 0, &v->class_embd));
    TRY(bind(&b, "embeddings.patch_embedding.weight", c->dim, k, &v->patch_w));
    TRY(bind_optional(&b, "embeddings.patch_embedding.bias", c->dim, &v->patch_b));
    TRY(bind(&b, "embeddings.position_embedding.weight", grid * grid + 1, c->dim, &v->pos_embd));
    TRY(bind(&b, "pre_layrnorm.weight", c->dim, 0, &v->pre_ln_w));
    TRY(bind(&b, "pre_layrnorm.bias", c->dim, 0, &v->pre_ln_b));
    v->layer = arena_calloc(&m->mem, (size_t)c->n_layer, sizeof *v->layer);
    if (!v->layer) return error_set(err, SQ_E_NOMEM, "%s: out of memory", m->path);
    for (int i = 0; i < c->n_layer; i++)
        TRY(bind_vit_layer(&b, c, i, &v->layer[i]));
    return SQ_OK;
}

static int bind_projector(model *m, sq_error *err)
{
    static const char *const prefixes[] = {"multi_modal_projector.linear_",
                                           "model.multi_modal_projector.linear_",
                                           "model.mm_projector.", "mm_projector.",
                                           "vision_proj.", NULL};
    projector_model *p = &m->proj;
    const char *prefix = find_prefix(&m->weights, prefixes, "2.weight");
    if (!prefix)
        return error_set(err, SQ_E_FORMAT, "%s: no projector: multi_modal_projector.linear_2.weight"
                                           " or mm_projector.2.weight is missing",
                         m->path);
    bool original = prefix[strlen(prefix) - 1] == '.';
    binder b = {&m->weights, prefix, err};
    TRY(bind(&b, original ? "0.weight" : "1.weight", p->mid_dim, p->in_dim, &p->fc1_w));
    TRY(bind_optional(&b, original ? "0.bias" : "1.bias", p->mid_dim, &p->fc1_b));
    TRY(bind(&b, "2.weight", p->out_dim, p->mid_dim, &p->fc2_w));
    TRY(bind_optional(&b, "2.bias", p->out_dim, &p->fc2_b));
    b.prefix = weight_find(&m->weights, "model.image_newline") ? "model." : "";
    return bind_optional(&b, "image_newline", p->out_dim, &p->newline);
}

/* Biases that some LLaMA descendants have there and the decoder does not add. */
static int refuse_biases(const binder *b)
{
    static const char *const name[] = {"self_attn.o_proj.bias", "mlp.gate_proj.bias",
                                       "mlp.up_proj.bias", "mlp.down_proj.bias"};
    char full[256];
    for (int i = 0; i < 4; i++) {
        snprintf(full, sizeof full, "%s%s", b->prefix, name[i]);
        if (weight_find(b->w, full))
            return error_set(b->err, SQ_E_UNSUPPORTED, "%s: tensor %s is not supported",
                             weight_find(b->w, full)->file, full);
    }
    return SQ_OK;
}

static int bind_decoder_layer(const binder *b, const decoder_config *c, int i, decoder_layer *l)
{
    char prefix[128];
    int q = c->n_head * c->head_dim, kv = c->n_head_kv * c->head_dim;
    snprintf(prefix, sizeof prefix, "%slayers.%d.", b->prefix, i);
    binder s = {b->w, prefix, b->err};
    TRY(refuse_biases(&s));
    TRY(bind(&s, "input_layernorm.weight", c->dim, 0, &l->attn_norm));
    TRY(bind(&s, "self_attn.q_proj.weight", q, c->dim, &l->q_w));
    TRY(bind(&s, "self_attn.k_proj.weight", kv, c->dim, &l->k_w));
    TRY(bind(&s, "self_attn.v_proj.weight", kv, c->dim, &l->v_w));
    TRY(bind(&s, "self_attn.o_proj.weight", c->dim, q, &l->o_w));
    TRY(bind_optional(&s, "self_attn.q_proj.bias", q, &l->q_b));
    TRY(bind_optional(&s, "self_attn.k_proj.bias", kv, &l->k_b));
    TRY(bind_optional(&s, "self_attn.v_proj.bias", kv, &l->v_b));
    TRY(bind(&s, "post_attention_layernorm.weight", c->dim, 0, &l->ffn_norm));
    TRY(bind(&s, "mlp.gate_proj.weight", c->ffn_dim, c->dim, &l->gate_w));
    TRY(bind(&s, "mlp.up_proj.weight", c->ffn_dim, c->dim, &l->up_w));
    return bind(&s, "mlp.down_proj.weight", c->dim, c->ffn_dim, &l->down_w);
}

static int bind_decoder(model *m, bool tied, sq_error *err)
{
    static const char *const prefixes[] = {"language_model.model.", "model.language_model.",
                                           "language_model.", "model.", NULL};
    static const char *const heads[] = {"language_model.", "", "model.", NULL};
    decoder_model *d = &m->dec;
    const decoder_config *c = &d->cfg;
    const char *prefix = find_prefix(&m->weights, prefixes, "embed_tokens.weight");
    if (!prefix)
        return error_set(err, SQ_E_FORMAT,
                         "%s: no language model: no tensor ends in model.embed_tokens.weight",
                         m->path);
    binder b = {&m->weights, prefix, err};
    TRY(bind(&b, "embed_tokens.weight", c->n_vocab, c->dim, &d->tok_embd));
    TRY(bind(&b, "norm.weight", c->dim, 0, &d->norm));
    const char *head = find_prefix(&m->weights, heads, "lm_head.weight");
    if (head) { /* even when tied: transformers 5 believes the file */
        binder h = {&m->weights, head, err};
        TRY(bind(&h, "lm_head.weight", c->n_vocab, c->dim, &d->head));
    } else if (tied) {
        d->head = d->tok_embd;
    } else {
        return error_set(err, SQ_E_FORMAT, "%s: tensor lm_head.weight is missing", m->path);
    }
    decoder_layer *layer = arena_calloc(&m->mem, (size_t)c->n_layer, sizeof *layer);
    if (!layer) return error_set(err, SQ_E_NOMEM, "%s: out of memory", m->path);
    for (int i = 0; i < c->n_layer; i++)
        TRY(bind_decoder_layer(&b, c, i, &layer[i]));
    d->layer = layer; /* set last: it marks the model as complete */
    return SQ_OK;
}

/* The template that a family was trained with; --template overrides. */
static const char *template_of(const llava_facts *f)
{
    if (strcmp(f->family, "mistral") == 0) return "mistral_instruct";
    return strcmp(f->family, "qwen2") == 0 ? "chatml" : "vicuna_v1";
}

int model_open_hf(model *m, const char *dir, const model_options *opt, sq_error *err)
{
    llava_facts facts;
    TRY(llava_config_read(m, dir, &facts, err));
    if (facts.text_only && !opt->text_only)
        return error_set(err, SQ_E_UNSUPPORTED, "%s/config.json: no vision_config: a text model",
                         dir);
    TRY(safetensors_add_dir(&m->weights, dir, err));
    TRY(weight_map_sort(&m->weights, err));
    if (!facts.text_only) {
        TRY(llava_preprocess_read(m, dir, err));
        TRY(bind_vit(m, err));
        TRY(bind_projector(m, err));
    }
    TRY(bind_decoder(m, facts.tied, err));
    TRY(tokenizer_open_dir(&m->tok, dir, err));
    m->tmpl = prompt_find(template_of(&facts));
    return SQ_OK;
}
