/* A model as a GGUF pair that llama.cpp runs too; what its keys cannot say goes into squint.*
 * keys, and what it would do differently is told through the log. */
#include "models/gguf_parts.h"

#include "core/file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One tensor of a file being written. */
typedef struct part {
    char name[64];
    sq_tensor from;
    sq_dtype type;
    int rope_heads; /* > 0: the rows of each head are put in pairs */
} part;

typedef struct conversion {
    const model *m;
    sq_dtype type;
    gguf_writer *w;
    part *part;
    int n, cap, n_f16; /* n_f16: matrices whose rows do not fit Q8_0 */
    bool permute;
    const model_stop *stop; /* may be NULL */
    sq_error *err;
} conversion;

/* ---- tensors ---- */

static sq_dtype type_for(conversion *c, const sq_tensor *t, unsigned flags)
{
    if (t->rank == 1 || (flags & GGUF_KEEP_F32)) return SQ_DTYPE_F32;
    if (flags & GGUF_CONV) return SQ_DTYPE_F16; /* llama.cpp's convolution wants it */
    if (c->type != SQ_DTYPE_Q8_0 || t->shape[1] % Q8_0_BLOCK == 0) return c->type;
    c->n_f16++;
    return SQ_DTYPE_F16;
}

static int add_tensor(conversion *c, const char *prefix, const gguf_name *n, const sq_tensor *t)
{
    if (c->n == c->cap) {
        int cap = c->cap * 2 + 256;
        part *grown = realloc(c->part, (size_t)cap * sizeof *grown);
        if (!grown) return error_set(c->err, SQ_E_NOMEM, "%s: out of memory", c->m->path);
        c->part = grown;
        c->cap = cap;
    }
    part *p = &c->part[c->n++];
    const decoder_config *d = &c->m->dec.cfg;
    *p = (part){.from = *t, .type = type_for(c, t, n->flags)};
    snprintf(p->name, sizeof p->name, "%s%s", prefix, n->name);
    if (c->permute && (n->flags & GGUF_ROPE_Q)) p->rope_heads = d->n_head;
    if (c->permute && (n->flags & GGUF_ROPE_K)) p->rope_heads = d->n_head_kv;
    int64_t patch = c->m->vit.cfg.patch_size;
    int64_t conv[] = {t->shape[0], 3, patch, patch};
    bool is_conv = (n->flags & GGUF_CONV) != 0;
    gguf_put_tensor(c->w, p->name, p->type, is_conv ? 4 : t->rank, is_conv ? conv : t->shape);
    return SQ_OK;
}

static int add_table(conversion *c, const char *prefix, const gguf_name *names, const void *base)
{
    for (const gguf_name *n = names; n->name; n++) {
        const sq_tensor *t = gguf_slot((void *)(size_t)base, n);
        if (!tensor_is_set(t)) continue;
        if (t == &c->m->dec.head && t->data == c->m->dec.tok_embd.data) continue; /* tied */
        TRY(add_tensor(c, prefix, n, t));
    }
    return SQ_OK;
}

/* Where row r of the file comes from: GGUF's llama keeps the two halves of a head in turns. */
static int64_t source_row(const part *p, int64_t r)
{
    if (!p->rope_heads) return r;
    int64_t head_dim = p->from.shape[0] / p->rope_heads, i = r % head_dim;
    return r - i + i % 2 * (head_dim / 2) + i / 2;
}

/* Values that the type cannot hold are an error, never a silent infinity. */
static int check_row(const conversion *c, const part *p, const float *x, int64_t n)
{
    float limit = p->type == SQ_DTYPE_F16    ? 65504.0f
                  : p->type == SQ_DTYPE_Q8_0 ? 65504.0f * 127
                                             : 3.38e38f; /* bf16 rounds to infinity past it */
    if (p->type == SQ_DTYPE_F32) limit = INFINITY;
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(x[i]) <= limit) || !isfinite(x[i]))
            return error_set(c->err, SQ_E_LIMIT, "%s: %s: the value %g does not fit %s",
                             c->m->path, p->name, (double)x[i], dtype_name(p->type));
    return SQ_OK;
}

static int fill_part(void *user, int i, void *dst, size_t size, sq_error *err)
{
    const conversion *c = user;
    const part *p = &c->part[i];
    int64_t cols = p->from.rank == 1 ? 1 : p->from.shape[1], rows = p->from.shape[0];
    if (p->from.rank == 1 && !p->rope_heads) cols = rows, rows = 1;
    size_t in = dtype_row_bytes(p->from.dtype, cols), out = dtype_row_bytes(p->type, cols);
    float *row = malloc((size_t)cols * sizeof *row);
    int rc = SQ_OK;
    if (!row || !in || out * (size_t)rows != size)
        rc = error_set(err, row ? SQ_E_FORMAT : SQ_E_NOMEM, "%s: %s: cannot be converted",
                       c->m->path, p->name);
    for (int64_t r = 0; r < rows && !rc; r++) {
        const unsigned char *from = (const unsigned char *)p->from.data +
                                    (size_t)source_row(p, r) * in;
        unsigned char *to = (unsigned char *)dst + (size_t)r * out;
        if (c->stop && c->stop->asked && c->stop->asked(c->stop->user)) {
            rc = error_set(err, SQ_E_STOPPED, "%s: the conversion was stopped", c->m->path);
            break;
        }
        convert_to_f32(row, from, p->from.dtype, cols);
        rc = check_row(c, p, row, cols);
        if (p->from.dtype == p->type)
            memcpy(to, from, out);
        else
            convert_from_f32(to, p->type, row, cols);
    }
    free(row);
    return rc;
}

/* ---- keys of both files ---- */

static void put_general(conversion *c, const char *arch, const char *kind, const char *name)
{
    uint32_t type = c->type == SQ_DTYPE_Q8_0 ? 7 : c->type == SQ_DTYPE_BF16 ? 32 : 1;
    gguf_put_string(c->w, "general.architecture", arch);
    gguf_put_string(c->w, "general.type", kind);
    gguf_put_string(c->w, "general.name", name);
    gguf_put_u32(c->w, "general.file_type", type);
    gguf_put_u32(c->w, "general.quantization_version", 2);
}

/* ---- the text file ---- */

static void put_rope(conversion *c, const char *arch, const sq_log *log)
{
    const rope_config *r = &c->m->dec.cfg.rope;
    char key[64];
    snprintf(key, sizeof key, "%s.rope.freq_base", arch);
    gguf_put_f32(c->w, key, r->theta);
    snprintf(key, sizeof key, "%s.rope.dimension_count", arch);
    gguf_put_u32(c->w, key, (uint32_t)c->m->dec.cfg.head_dim);
    if (r->scaling == ROPE_SCALING_LINEAR) {
        snprintf(key, sizeof key, "%s.rope.scaling.type", arch);
        gguf_put_string(c->w, key, "linear");
        snprintf(key, sizeof key, "%s.rope.scaling.factor", arch);
        gguf_put_f32(c->w, key, r->factor);
    } else if (r->scaling == ROPE_SCALING_DYNAMIC) {
        gguf_put_string(c->w, SQUINT_ROPE_TYPE, "dynamic");
        gguf_put_f32(c->w, SQUINT_ROPE_FACTOR, r->factor);
        gguf_put_u32(c->w, SQUINT_ROPE_CTX, (uint32_t)r->original_ctx);
        log_line(log, SQ_LOG_WARN,
                 "dynamic RoPE scaling is kept for squint only; other programs run this file "
                 "right up to %d tokens",
                 r->original_ctx);
    }
}

static void put_text_config(conversion *c, const char *arch, const sq_log *log)
{
    const decoder_config *d = &c->m->dec.cfg;
    const struct {
        const char *name;
        int value;
    } ints[] = {{"vocab_size", d->n_vocab},
                {"context_length", d->n_ctx},
                {"embedding_length", d->dim},
                {"block_count", d->n_layer},
                {"feed_forward_length", d->ffn_dim},
                {"attention.head_count", d->n_head},
                {"attention.head_count_kv", d->n_head_kv},
                {"attention.key_length", d->head_dim},
                {"attention.value_length", d->head_dim},
                {"attention.sliding_window", d->window}};
    char key[64];
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        snprintf(key, sizeof key, "%s.%s", arch, ints[i].name);
        if (ints[i].value || i + 1 < sizeof ints / sizeof *ints)
            gguf_put_u32(c->w, key, (uint32_t)ints[i].value);
    }
    if (d->window)
        log_line(log, SQ_LOG_WARN,
                 "a sliding window of %d tokens is written, but llama.cpp ignores it for this "
                 "architecture",
                 d->window);
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", arch);
    gguf_put_f32(c->w, key, d->eps);
    put_rope(c, arch, log);
}

/* Llama 3's scaling as divisors of the plain frequencies. */
static int add_rope_factors(conversion *c, arena *mem)
{
    const decoder_config *d = &c->m->dec.cfg;
    static const gguf_name name = {"rope_freqs.weight", 0, GGUF_DIM_NONE, GGUF_DIM_NONE, 0};
    int n = d->head_dim / 2;
    rope_config plain = d->rope, scaled = d->rope;
    if (d->rope.scaling != ROPE_SCALING_LLAMA3 && !d->rope.freq_factor) return SQ_OK;
    plain.scaling = ROPE_SCALING_NONE;
    plain.freq_factor = NULL;
    if (scaled.scaling != ROPE_SCALING_LLAMA3) scaled.scaling = ROPE_SCALING_NONE;
    float *a = arena_calloc(mem, (size_t)n, sizeof *a),
          *b = arena_calloc(mem, (size_t)n, sizeof *b);
    if (!a || !b) return error_set(c->err, SQ_E_NOMEM, "%s: out of memory", c->m->path);
    rope_frequencies(&plain, d->head_dim, d->n_ctx, a);
    rope_frequencies(&scaled, d->head_dim, d->n_ctx, b);
    for (int i = 0; i < n; i++)
        a[i] /= b[i];
    sq_tensor t = tensor_1d(a, SQ_DTYPE_F32, n);
    return add_tensor(c, "", &name, &t);
}

/* One entry for each row of the embedding; rows without a token get a name of their own. */
static int put_tokens(conversion *c, arena *mem, const sq_log *log)
{
    const tokenizer_vocab *v = tokenizer_get_vocab(c->m->tok);
    int n = c->m->dec.cfg.n_vocab;
    const char **text = arena_calloc(mem, (size_t)n, sizeof *text);
    float *score = arena_calloc(mem, (size_t)n, sizeof *score);
    int32_t *type = arena_calloc(mem, (size_t)n, sizeof *type);
    if (!text || !score || !type)
        return error_set(c->err, SQ_E_NOMEM, "%s: out of memory", c->m->path);
    for (int i = 0; i < n; i++) {
        bool is_token = i < v->n_token && *v->text[i];
        text[i] = is_token ? v->text[i] : NULL;
        score[i] = is_token ? v->score[i] : 0;
        type[i] = !is_token ? TOKEN_UNUSED : i == v->unk ? TOKEN_UNKNOWN : v->type[i];
        if (text[i]) continue;
        char name[32];
        int size = snprintf(name, sizeof name, "[PAD%d]", i);
        text[i] = arena_strndup(mem, name, (size_t)size);
        if (!text[i]) return error_set(c->err, SQ_E_NOMEM, "%s: out of memory", c->m->path);
    }
    if (v->n_token > n)
        log_line(log, SQ_LOG_WARN, "the last %d tokens have no embedding and are not written",
                 v->n_token - n);
    gguf_put_strings(c->w, "tokenizer.ggml.tokens", text, n);
    gguf_put_f32s(c->w, "tokenizer.ggml.scores", score, n);
    gguf_put_i32s(c->w, "tokenizer.ggml.token_type", type, n);
    return SQ_OK;
}

/* A Jinja string: "it's\n" with its quotes. */
static void quote(char *out, size_t size, const char *text)
{
    size_t n = strlen(out);
    if (n + 3 > size) return;
    out[n++] = '"';
    for (; *text && n + 4 < size; text++) {
        if (*text == '\n' || *text == '"' || *text == '\\') out[n++] = '\\';
        out[n++] = *text == '\n' ? 'n' : *text;
    }
    out[n++] = '"';
    out[n] = 0;
}

static void add_text(char *out, size_t size, const char *text)
{
    size_t n = strlen(out);
    snprintf(out + n, size - n, "%s", text);
}

/* The conversation as a Jinja template, for programs that run this file as a chat model. */
static void put_chat_template(conversion *c)
{
    const prompt_template *p = c->m->tmpl;
    char out[2048] = "{{ bos_token }}{{ ";
    size_t n = strlen(p->user_suffix);
    quote(out, sizeof out, p->system);
    add_text(out, sizeof out,
             " }}{% for message in messages %}{% if message['role'] == 'user' %}{{ ");
    quote(out, sizeof out, p->user_prefix);
    add_text(out, sizeof out, " + message['content'] + ");
    quote(out, sizeof out, p->user_suffix);
    add_text(out, sizeof out, " }}{% elif message['role'] == 'assistant' %}{{ ");
    quote(out, sizeof out, n && p->user_suffix[n - 1] == ':' ? " " : "");
    add_text(out, sizeof out, " + message['content'] + ");
    quote(out, sizeof out, p->turn_end);
    add_text(out, sizeof out, " }}{% endif %}{% endfor %}");
    gguf_put_string(c->w, "tokenizer.chat_template", out);
}

static int put_tokenizer(conversion *c, arena *mem, const sq_log *log)
{
    const tokenizer_vocab *v = tokenizer_get_vocab(c->m->tok);
    bool spm = v->kind == TOKENIZER_SPM;
    const struct {
        const char *key;
        int id;
    } ids[] = {{"tokenizer.ggml.bos_token_id", v->bos},
               {"tokenizer.ggml.eos_token_id", v->eos},
               {"tokenizer.ggml.unknown_token_id", v->unk},
               {"tokenizer.ggml.padding_token_id", v->pad}};
    if (!spm && strcmp(v->pre, "unknown") == 0)
        return error_set(c->err, SQ_E_UNSUPPORTED,
                         "%s: GGUF has no name for the tokenizer's splitting pattern", c->m->path);
    gguf_put_string(c->w, "tokenizer.ggml.model", spm ? "llama" : "gpt2");
    gguf_put_string(c->w, "tokenizer.ggml.pre", spm ? "default" : v->pre);
    TRY(put_tokens(c, mem, log));
    /* of an SPM vocabulary only squint reads them: they keep its tokens exact */
    if (v->n_merge) gguf_put_strings(c->w, "tokenizer.ggml.merges", v->merge, v->n_merge);
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        if (ids[i].id >= 0 && ids[i].id < c->m->dec.cfg.n_vocab)
            gguf_put_u32(c->w, ids[i].key, (uint32_t)ids[i].id);
    gguf_put_bool(c->w, "tokenizer.ggml.add_bos_token", v->add_bos);
    gguf_put_bool(c->w, "tokenizer.ggml.add_eos_token", v->add_eos);
    if (spm) gguf_put_bool(c->w, "tokenizer.ggml.add_space_prefix", v->add_space_prefix);
    if (v->space_first_only) gguf_put_bool(c->w, SQUINT_SPACE_FIRST, true);
    gguf_put_string(c->w, SQUINT_TEMPLATE, c->m->tmpl->name);
    put_chat_template(c);
    return SQ_OK;
}

static int gather_text(conversion *c, const char *name, arena *mem, const sq_log *log)
{
    const decoder_model *d = &c->m->dec;
    /* biases are Qwen2's, whose architecture in GGUF keeps the rows as they are */
    bool qwen2 = !d->cfg.rope.interleaved && tensor_is_set(&d->layer[0].q_b);
    const char *arch = qwen2 ? "qwen2" : "llama";
    c->permute = !qwen2 && !d->cfg.rope.interleaved;
    put_general(c, arch, "model", name);
    put_text_config(c, arch, log);
    TRY(put_tokenizer(c, mem, log));
    TRY(add_rope_factors(c, mem));
    TRY(add_table(c, "", gguf_text_names, d));
    for (int i = 0; i < d->cfg.n_layer; i++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "blk.%d.", i);
        TRY(add_table(c, prefix, gguf_text_layer_names, &d->layer[i]));
    }
    return SQ_OK;
}

/* ---- the vision file ---- */

static void put_acts(conversion *c, const sq_log *log)
{
    static const char *const name[] = {[SQ_ACT_GELU] = "gelu",
                                       [SQ_ACT_QUICK_GELU] = "quick_gelu",
                                       [SQ_ACT_GELU_TANH] = "gelu_tanh",
                                       [SQ_ACT_SILU] = "silu"};
    sq_act tower = c->m->vit.cfg.act, proj = c->m->proj.act;
    gguf_put_bool(c->w, "clip.use_gelu", tower == SQ_ACT_GELU || tower == SQ_ACT_GELU_TANH);
    if (tower == SQ_ACT_SILU) gguf_put_bool(c->w, "clip.use_silu", true);
    if (tower == SQ_ACT_GELU_TANH) gguf_put_string(c->w, SQUINT_VISION_ACT, name[tower]);
    if (proj == SQ_ACT_GELU) return;
    gguf_put_string(c->w, SQUINT_PROJ_ACT, name[proj]);
    log_line(log, SQ_LOG_WARN, "the projector's activation \"%s\" is kept for squint only",
             name[proj]);
}

static void put_vision_config(conversion *c, const sq_log *log)
{
    const vit_config *v = &c->m->vit.cfg;
    int32_t feature[VIT_MAX_FEATURES];
    for (int i = 0; i < v->n_feature; i++)
        feature[i] = v->feature[i];
    gguf_put_bool(c->w, "clip.has_text_encoder", false);
    gguf_put_bool(c->w, "clip.has_vision_encoder", true);
    gguf_put_bool(c->w, "clip.has_llava_projector", true);
    gguf_put_string(c->w, "clip.projector_type", "mlp");
    gguf_put_u32(c->w, "clip.vision.image_size", (uint32_t)v->image_size);
    gguf_put_u32(c->w, "clip.vision.patch_size", (uint32_t)v->patch_size);
    gguf_put_u32(c->w, "clip.vision.embedding_length", (uint32_t)v->dim);
    gguf_put_u32(c->w, "clip.vision.feed_forward_length", (uint32_t)v->ffn_dim);
    gguf_put_u32(c->w, "clip.vision.projection_dim", (uint32_t)c->m->proj.out_dim);
    gguf_put_u32(c->w, "clip.vision.attention.head_count", (uint32_t)v->n_head);
    gguf_put_f32(c->w, "clip.vision.attention.layer_norm_epsilon", v->eps);
    gguf_put_u32(c->w, "clip.vision.block_count", (uint32_t)v->n_loaded);
    gguf_put_i32s(c->w, "clip.vision.feature_layer", feature, v->n_feature);
    if (v->n_layer != v->n_loaded) gguf_put_u32(c->w, SQUINT_LAYERS, (uint32_t)v->n_layer);
    gguf_put_string(c->w, SQUINT_STRATEGY, v->keep_cls ? "full" : "default");
    put_acts(c, log);
    if (v->keep_cls)
        log_line(log, SQ_LOG_WARN, "llama.cpp leaves out the CLS token that this model keeps");
}

static void put_preprocess(conversion *c, const sq_log *log)
{
    const preprocess_config *p = &c->m->pre;
    const model *m = c->m;
    gguf_put_f32s(c->w, "clip.vision.image_mean", p->mean, 3);
    gguf_put_f32s(c->w, "clip.vision.image_std", p->std, 3);
    gguf_put_string(c->w, SQUINT_FIT, p->fit == FIT_PAD ? "pad" : "crop");
    gguf_put_bool(c->w, SQUINT_TILED, m->tiled);
    /* as clip.vision.image_grid_pinpoints they would make llama.cpp cut tiles */
    if (m->n_pinpoint)
        gguf_put_i32s(c->w, SQUINT_PINPOINTS, (const int32_t *)&m->pinpoint[0][0],
                      m->n_pinpoint * 2);
    if (p->resize != p->side) gguf_put_u32(c->w, SQUINT_RESIZE, (uint32_t)p->resize);
    if (p->rescale != 1.0f / 255.0f) gguf_put_f32(c->w, SQUINT_RESCALE, p->rescale);
    if (p->filter == RESAMPLE_BILINEAR) gguf_put_string(c->w, SQUINT_FILTER, "bilinear");
    if (p->fit != FIT_PAD)
        log_line(log, SQ_LOG_INFO, "llama.cpp pads pictures to a square; squint crops them for "
                                   "this model");
}

static int gather_vision(conversion *c, const char *name, const sq_log *log)
{
    const vit_model *v = &c->m->vit;
    put_general(c, "clip", "mmproj", name);
    put_vision_config(c, log);
    put_preprocess(c, log);
    TRY(add_table(c, "", gguf_vision_names, v));
    for (int i = 0; i < v->cfg.n_loaded; i++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "v.blk.%d.", i);
        TRY(add_table(c, prefix, gguf_vision_layer_names, &v->layer[i]));
    }
    return add_table(c, "", gguf_projector_names, &c->m->proj);
}

/* ---- both ---- */

/* Nothing is left out silently. */
static void tell(const conversion *text, const conversion *vision, const sq_log *log)
{
    const weight_map *w = &text->m->weights;
    int n = 0, n_f16 = text->n_f16 + vision->n_f16;
    const char *first = NULL;
    for (int i = 0; i < w->n; i++)
        if (!w->entry[i].bound) {
            if (!first) first = w->entry[i].name;
            n++;
        }
    if (n)
        log_line(log, SQ_LOG_INFO, "%d tensors that the model does not use are left out (%s%s)", n,
                 first, n > 1 ? ", ..." : "");
    if (n_f16)
        log_line(log, SQ_LOG_INFO, "%d matrices are written as f16: their rows do not fit q8_0",
                 n_f16);
}

static int write_both(conversion *text, conversion *vision, const char *dir, const char *name,
                      sq_error *err)
{
    char file[512], path[4096];
    file_writer a = {0}, b = {0};
    int rc = SQ_OK;
    snprintf(file, sizeof file, "%s-%s.gguf", name, dtype_name(text->type));
    TRY_GOTO(path_join(path, sizeof path, dir, file, err));
    TRY_GOTO(file_writer_open(&a, path, err));
    TRY_GOTO(gguf_write(text->w, &a, fill_part, text, err));
    if (vision->n) {
        snprintf(file, sizeof file, "mmproj-%s-%s.gguf", name, dtype_name(text->type));
        TRY_GOTO(path_join(path, sizeof path, dir, file, err));
        TRY_GOTO(file_writer_open(&b, path, err));
        TRY_GOTO(gguf_write(vision->w, &b, fill_part, vision, err));
        TRY_GOTO(file_writer_commit(&b, err));
    }
    return file_writer_commit(&a, err);
fail:
    file_writer_abort(&a);
    file_writer_abort(&b);
    return rc;
}

int model_convert(const model *m, const char *dir_out, const char *name, sq_dtype type,
                  const model_stop *stop, const sq_log *log, sq_error *err)
{
    conversion text = {.m = m, .type = type, .stop = stop, .err = err}, vision = text;
    arena mem = {0};
    if (type != SQ_DTYPE_F16 && type != SQ_DTYPE_BF16 && type != SQ_DTYPE_Q8_0)
        return error_set(err, SQ_E_ARG, "type: expected f16, bf16 or q8_0, found %s",
                         dtype_name(type));
    if (!*name || strlen(name) > 200 || strchr(name, '/'))
        return error_set(err, SQ_E_ARG, "name: expected 1..200 characters without '/'");
    if (!file_is_dir(dir_out))
        return error_set(err, SQ_E_IO, "%s: no such directory", dir_out);
    if (m->dec.cfg.window && m->dec.cfg.window_from)
        return error_set(err, SQ_E_UNSUPPORTED,
                         "%s: GGUF has no key for a sliding window that begins at layer %d",
                         m->path, m->dec.cfg.window_from);
    int rc = gguf_writer_open(&text.w, err);
    if (!rc) rc = gather_text(&text, name, &mem, log);
    if (!rc && m->vit.layer) {
        rc = gguf_writer_open(&vision.w, err);
        if (!rc) rc = gather_vision(&vision, name, log);
    }
    if (!rc) tell(&text, &vision, log);
    if (!rc) rc = write_both(&text, &vision, dir_out, name, err);
    gguf_writer_close(&text.w);
    gguf_writer_close(&vision.w);
    free(text.part);
    free(vision.part);
    arena_close(&mem);
    return rc;
}
