/* The language model of a GGUF pair: architectures llama (Mistral included) and qwen2. */
#include "models/gguf_parts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* A file and the prefix of its keys: "llama" + ".block_count". */
typedef struct keys {
    gguf_file *g;
    const char *arch;
    sq_error *err;
} keys;

static const char *key_of(const keys *k, const char *name, char *out, size_t size)
{
    snprintf(out, size, "%s.%s", k->arch, name);
    return out;
}

/* A key that every file has. */
static int need_int(const keys *k, const char *name, int64_t min, int64_t max, int *out)
{
    char key[128];
    return gguf_need_int(k->g, key_of(k, name, key, sizeof key), min, max, out, k->err);
}

static int get_int(const keys *k, const char *name, int64_t min, int64_t max, int *out)
{
    char key[128];
    return gguf_int(k->g, key_of(k, name, key, sizeof key), min, max, out, k->err);
}

static int get_float(const keys *k, const char *name, float *out)
{
    char key[128];
    return gguf_float(k->g, key_of(k, name, key, sizeof key), out, k->err);
}

/* ---- rope ---- */

static int read_scaling(const keys *k, const char *type, rope_config *r)
{
    if (strcmp(type, "none") == 0)
        r->scaling = ROPE_SCALING_NONE;
    else if (strcmp(type, "linear") == 0)
        r->scaling = ROPE_SCALING_LINEAR;
    else if (strcmp(type, "dynamic") == 0)
        r->scaling = ROPE_SCALING_DYNAMIC;
    else
        return error_set(k->err, SQ_E_UNSUPPORTED,
                         "%s: rope scaling \"%.40s\" is not supported (none, linear, dynamic and "
                         "rope_freqs are)",
                         k->g->path, type);
    return SQ_OK;
}

/* Divisors of the frequencies, as llama.cpp stores Llama 3's scaling. */
static int read_freq_factors(model *m, const keys *k)
{
    decoder_config *c = &m->dec.cfg;
    int n = c->head_dim / 2;
    sq_tensor t;
    if (!weight_find(&m->weights, "rope_freqs.weight")) return SQ_OK;
    TRY(weight_bind(&m->weights, "rope_freqs.weight", n, 0, &t, k->err));
    float *f = arena_calloc(&m->mem, (size_t)n, sizeof *f);
    if (!f) return error_set(k->err, SQ_E_NOMEM, "%s: out of memory", k->g->path);
    convert_to_f32(f, t.data, t.dtype, n);
    for (int i = 0; i < n; i++)
        if (!(f[i] > 0) || !isfinite(f[i]))
            return error_set(k->err, SQ_E_FORMAT, "%s: rope_freqs.weight: expected positive values",
                             k->g->path);
    c->rope.freq_factor = f;
    return SQ_OK;
}

static int read_rope(model *m, const keys *k)
{
    rope_config *r = &m->dec.cfg.rope;
    int rotated = m->dec.cfg.head_dim;
    const char *type = "none";
    char key[128];
    *r = (rope_config){.theta = 10000, .factor = 1, .original_ctx = m->dec.cfg.n_ctx};
    r->interleaved = strcmp(k->arch, "llama") == 0;
    TRY(get_int(k, "rope.dimension_count", 1, GGUF_DIM_LIMIT, &rotated));
    if (rotated != m->dec.cfg.head_dim)
        return error_set(k->err, SQ_E_UNSUPPORTED,
                         "%s: rope.dimension_count %d differs from the head's size %d", k->g->path,
                         rotated, m->dec.cfg.head_dim);
    TRY(get_float(k, "rope.freq_base", &r->theta));
    if (gguf_find(k->g, key_of(k, "rope.scale_linear", key, sizeof key))) { /* older files */
        TRY(get_float(k, "rope.scale_linear", &r->factor));
        type = r->factor == 1.0f ? "none" : "linear";
    }
    TRY(gguf_string(k->g, key_of(k, "rope.scaling.type", key, sizeof key), &type, k->err));
    TRY(get_float(k, "rope.scaling.factor", &r->factor));
    TRY(get_int(k, "rope.scaling.original_context_length", 1, GGUF_CTX_MAX, &r->original_ctx));
    TRY(gguf_string(k->g, SQUINT_ROPE_TYPE, &type, k->err));
    TRY(gguf_float(k->g, SQUINT_ROPE_FACTOR, &r->factor, k->err));
    TRY(gguf_int(k->g, SQUINT_ROPE_CTX, 1, GGUF_CTX_MAX, &r->original_ctx, k->err));
    TRY(read_scaling(k, type, r));
    if (!(r->factor > 0) || !(r->theta > 0))
        return error_set(k->err, SQ_E_FORMAT, "%s: rope: factor and freq_base must be positive",
                         k->g->path);
    return read_freq_factors(m, k);
}

/* ---- configuration ---- */

static int read_config(model *m, const keys *k)
{
    decoder_config *c = &m->dec.cfg;
    *c = (decoder_config){.eps = 1e-5f};
    TRY(need_int(k, "embedding_length", 8, GGUF_DIM_LIMIT, &c->dim));
    TRY(need_int(k, "feed_forward_length", 8, GGUF_DIM_LIMIT * 4, &c->ffn_dim));
    TRY(need_int(k, "block_count", 1, GGUF_LAYERS_MAX, &c->n_layer));
    TRY(need_int(k, "attention.head_count", 1, GGUF_DIM_LIMIT / 8, &c->n_head));
    TRY(need_int(k, "context_length", 1, GGUF_CTX_MAX, &c->n_ctx));
    c->n_head_kv = c->n_head;
    TRY(get_int(k, "attention.head_count_kv", 1, c->n_head, &c->n_head_kv));
    c->head_dim = c->dim / c->n_head;
    TRY(get_int(k, "attention.key_length", 8, DECODER_MAX_HEAD_DIM, &c->head_dim));
    int value_dim = c->head_dim;
    TRY(get_int(k, "attention.value_length", 8, DECODER_MAX_HEAD_DIM, &value_dim));
    TRY(get_float(k, "attention.layer_norm_rms_epsilon", &c->eps));
    TRY(get_int(k, "attention.sliding_window", 0, GGUF_CTX_MAX, &c->window));
    if (c->n_head % c->n_head_kv)
        return error_set(k->err, SQ_E_FORMAT,
                         "%s: %s.attention.head_count %d is no multiple of head_count_kv %d",
                         k->g->path, k->arch, c->n_head, c->n_head_kv);
    if (c->head_dim < 8 || c->head_dim % 8 || c->head_dim > DECODER_MAX_HEAD_DIM ||
        value_dim != c->head_dim)
        return error_set(k->err, SQ_E_UNSUPPORTED,
                         "%s: heads of %d keys and %d values: expected equal multiples of 8 up to "
                         "%d",
                         k->g->path, c->head_dim, value_dim, DECODER_MAX_HEAD_DIM);
    int experts = 0;
    TRY(get_int(k, "expert_count", 0, INT32_MAX, &experts));
    if (experts)
        return error_set(k->err, SQ_E_UNSUPPORTED, "%s: a mixture of experts is not supported",
                         k->g->path);
    const weight_entry *embd = weight_find(&m->weights, "token_embd.weight");
    if (!embd || embd->t.rank != 2 || embd->t.shape[0] > 1 << 22)
        return error_set(k->err, SQ_E_FORMAT,
                         "%s: tensor token_embd.weight: expected a matrix of at most 4194304 rows",
                         k->g->path);
    c->n_vocab = (int)embd->t.shape[0];
    return read_rope(m, k);
}

/* ---- weights ---- */

int gguf_bind(model *m, const gguf_file *g, const gguf_name *names, const char *prefix, void *base,
              int64_t (*dim)(const model *, gguf_dim), sq_error *err)
{
    for (const gguf_name *n = names; n->name; n++) {
        char full[128];
        snprintf(full, sizeof full, "%s%s", prefix, n->name);
        if (!weight_find(&m->weights, full)) {
            if (n->flags & GGUF_OPTIONAL) continue;
            return error_set(err, SQ_E_FORMAT, "%s: tensor %s is missing", g->path, full);
        }
        TRY(weight_bind(&m->weights, full, dim(m, n->rows), dim(m, n->cols), gguf_slot(base, n),
                        err));
    }
    return SQ_OK;
}

static int bind_weights(model *m, const gguf_file *g, sq_error *err)
{
    decoder_model *d = &m->dec;
    TRY(gguf_bind(m, g, gguf_text_names, "", d, gguf_dim_text, err));
    if (!tensor_is_set(&d->head)) d->head = d->tok_embd;
    decoder_layer *layer = arena_calloc(&m->mem, (size_t)d->cfg.n_layer, sizeof *layer);
    if (!layer) return error_set(err, SQ_E_NOMEM, "%s: out of memory", g->path);
    for (int i = 0; i < d->cfg.n_layer; i++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "blk.%d.", i);
        TRY(gguf_bind(m, g, gguf_text_layer_names, prefix, &layer[i], gguf_dim_text, err));
    }
    d->layer = layer; /* set last: it marks the model as complete */
    return SQ_OK;
}

/* ---- tokenizer and template ---- */

static int read_arrays(gguf_file *g, tokenizer_vocab *v, sq_error *err)
{
    const char **text = NULL, **merge = NULL;
    int n_score = 0, n_type = 0;
    TRY(gguf_strings(g, "tokenizer.ggml.tokens", &text, &v->n_token, err));
    if (!text)
        return error_set(err, SQ_E_FORMAT, "%s: key tokenizer.ggml.tokens is missing", g->path);
    TRY(gguf_floats(g, "tokenizer.ggml.scores", &v->score, &n_score, err));
    TRY(gguf_ints(g, "tokenizer.ggml.token_type", &v->type, &n_type, err));
    TRY(gguf_strings(g, "tokenizer.ggml.merges", &merge, &v->n_merge, err));
    if ((v->score && n_score != v->n_token) || (v->type && n_type != v->n_token))
        return error_set(err, SQ_E_FORMAT,
                         "%s: tokenizer.ggml: %d tokens, %d scores and %d types do not belong "
                         "together",
                         g->path, v->n_token, n_score, n_type);
    v->text = text;
    v->merge = merge;
    return SQ_OK;
}

static int read_tokenizer(model *m, gguf_file *g, sq_error *err)
{
    tokenizer_vocab v = {.bos = -1, .eos = -1, .unk = -1, .pad = -1};
    const char *kind = "";
    int last = m->dec.cfg.n_vocab - 1;
    TRY(gguf_string(g, "tokenizer.ggml.model", &kind, err));
    bool spm = strcmp(kind, "llama") == 0;
    if (!spm && strcmp(kind, "gpt2") != 0)
        return error_set(err, SQ_E_UNSUPPORTED,
                         "%s: tokenizer.ggml.model \"%.40s\" is not supported (llama and gpt2 are)",
                         g->path, kind);
    v.kind = spm ? TOKENIZER_SPM : TOKENIZER_BYTE_BPE;
    v.pre = "default";
    TRY(gguf_string(g, "tokenizer.ggml.pre", &v.pre, err));
    TRY(read_arrays(g, &v, err));
    if (v.n_token > m->dec.cfg.n_vocab)
        return error_set(err, SQ_E_FORMAT, "%s: %d tokens, but token_embd.weight has %d rows",
                         g->path, v.n_token, m->dec.cfg.n_vocab);
    if (spm) v.unk = 0, v.bos = 1, v.eos = 2;
    TRY(gguf_int(g, "tokenizer.ggml.bos_token_id", 0, last, &v.bos, err));
    TRY(gguf_int(g, "tokenizer.ggml.eos_token_id", 0, last, &v.eos, err));
    TRY(gguf_int(g, "tokenizer.ggml.unknown_token_id", 0, last, &v.unk, err));
    TRY(gguf_int(g, "tokenizer.ggml.padding_token_id", 0, last, &v.pad, err));
    v.add_bos = spm || strcmp(v.pre, "llama-bpe") == 0;
    v.add_space_prefix = spm;
    TRY(gguf_bool(g, "tokenizer.ggml.add_bos_token", &v.add_bos, err));
    TRY(gguf_bool(g, "tokenizer.ggml.add_eos_token", &v.add_eos, err));
    TRY(gguf_bool(g, "tokenizer.ggml.add_space_prefix", &v.add_space_prefix, err));
    TRY(gguf_bool(g, SQUINT_SPACE_FIRST, &v.space_first_only, err));
    return tokenizer_open_vocab(&m->tok, &v, g->path, err);
}

/* What a chat template or a model's name gives away; NULL: nothing. */
static const char *guess_template(const char *chat, const char *name)
{
    static const struct {
        const char *mark, *name;
    } marks[] = {{"<|im_start|>", "chatml"},
                 {"<|start_header_id|>", "llama3"},
                 {"[INST]", "mistral_instruct"},
                 {"ASSISTANT:", "vicuna_v1"},
                 {"###", "llava_v1"}};
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
        if (strstr(chat, marks[i].mark)) return marks[i].name;
    for (const char *at = name; *at; at++)
        if (strncasecmp(at, "mistral", 7) == 0) return "mistral_instruct";
    return NULL;
}

static int read_template(model *m, const keys *k)
{
    const char *chat = "", *name = "", *given = NULL;
    TRY(gguf_string(k->g, SQUINT_TEMPLATE, &given, k->err));
    TRY(gguf_string(k->g, "tokenizer.chat_template", &chat, k->err));
    TRY(gguf_string(k->g, "general.name", &name, k->err));
    if (!given) given = guess_template(chat, name);
    if (!given) given = strcmp(k->arch, "qwen2") == 0 ? "chatml" : "vicuna_v1";
    m->tmpl = prompt_find(given);
    if (m->tmpl) return SQ_OK;
    return error_set(k->err, SQ_E_FORMAT,
                     "%s: " SQUINT_TEMPLATE ": template \"%.40s\" is not known", k->g->path, given);
}

int gguf_text_check(gguf_file *g, const char **arch, sq_error *err)
{
    int parts = 1;
    *arch = "";
    TRY(gguf_int(g, "split.count", 0, INT32_MAX, &parts, err));
    if (parts > 1)
        return error_set(err, SQ_E_UNSUPPORTED,
                         "%s: one of %d parts of a split file: merge them first (llama-gguf-split "
                         "--merge)",
                         g->path, parts);
    TRY(gguf_string(g, "general.architecture", arch, err));
    if (strcmp(*arch, "clip") == 0)
        return error_set(err, SQ_E_FORMAT,
                         "%s: this is a vision file (mmproj): expected the text model", g->path);
    if (strcmp(*arch, "llama") != 0 && strcmp(*arch, "qwen2") != 0)
        return error_set(err, SQ_E_UNSUPPORTED,
                         "%s: general.architecture \"%.40s\" is not supported (llama and qwen2 "
                         "are)",
                         g->path, *arch);
    return SQ_OK;
}

int gguf_text_read(model *m, gguf_file *g, sq_error *err)
{
    keys k = {g, "", err};
    TRY(gguf_text_check(g, &k.arch, err));
    snprintf(m->arch, sizeof m->arch, "%s", k.arch);
    TRY(read_config(m, &k));
    TRY(bind_weights(m, g, err));
    TRY(read_tokenizer(m, g, err));
    return read_template(m, &k);
}
