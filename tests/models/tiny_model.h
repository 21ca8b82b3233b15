/* A LLaVA checkpoint of a few hundred kilobytes, written by the tests themselves: two LLaMA layers
 * of width 64, three CLIP layers of width 32 on 28 x 28 pixels. All weights are multiples of
 * 1/1024 that f16 and bf16 hold exactly. */
#ifndef SQ_TINY_MODEL_H
#define SQ_TINY_MODEL_H

#include "core/tensor.h"

#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    TINY_DIM = 64, TINY_HEADS = 4, TINY_HEADS_KV = 2, TINY_FFN = 96, TINY_LAYERS = 2,
    TINY_VOCAB = 304, TINY_TOKENS = 296, TINY_VIT_DIM = 32, TINY_VIT_FFN = 48,
    TINY_VIT_LAYERS = 3, TINY_IMAGE = 28, TINY_PATCH = 14
};

typedef struct tiny_text {
    char *data;
    size_t size, cap;
} tiny_text;

static inline void tiny_put(tiny_text *t, const void *data, size_t n)
{
    if (t->size + n + 1 > t->cap) {
        t->cap = (t->size + n + 1) * 2;
        t->data = realloc(t->data, t->cap);
        if (!t->data) abort();
    }
    memcpy(t->data + t->size, data, n);
    t->size += n;
    t->data[t->size] = 0;
}

static inline void tiny_say(tiny_text *t, const char *text)
{
    tiny_put(t, text, strlen(text));
}

static inline void tiny_write(const char *dir, const char *name, const void *data, size_t size)
{
    char path[4300];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, size, f) != size || fclose(f)) {
        fprintf(stderr, "%s: cannot write\n", path);
        abort();
    }
}

static inline tiny_text tiny_read(const char *dir, const char *name)
{
    char path[4300], buf[65536];
    tiny_text t = {0};
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "rb");
    if (!f) {
        fprintf(stderr, "%s: cannot read\n", path);
        abort();
    }
    for (size_t n; (n = fread(buf, 1, sizeof buf, f)) > 0;)
        tiny_put(&t, buf, n);
    fclose(f);
    return t;
}

/* A fresh directory under TMPDIR or /tmp. */
static inline void tiny_dir(char *out, size_t size)
{
    const char *base = getenv("TMPDIR");
    snprintf(out, size, "%s/squint-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(out)) abort();
}

/* Removes a directory with the files in it. */
static inline void tiny_remove(const char *dir)
{
    DIR *d = opendir(dir);
    for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
        char path[4500];
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        unlink(path);
    }
    if (d) closedir(d);
    rmdir(dir);
}

/* ---- weights ---- */

typedef struct tiny_tensors {
    tiny_text header, data;
} tiny_tensors;

static inline float tiny_value(uint32_t seed, uint32_t i, bool norm)
{
    uint32_t h = (seed * 2654435761u) ^ (i * 40503u + 0x9e3779b9u);
    h ^= h >> 15;
    h *= 0x85ebca6bu;
    h ^= h >> 13;
    h *= 0xc2b2ae35u;
    h ^= h >> 16;
    return norm ? 1.0f + (float)(h % 16) / 64.0f : ((float)(h % 201) - 100.0f) / 512.0f;
}

/* shape like "[4,2]"; bf16. */
static inline void tiny_tensor(tiny_tensors *w, const char *name, const char *shape, size_t n,
                               bool norm)
{
    char entry[512];
    uint32_t seed = 17;
    size_t begin = w->data.size;
    for (const char *c = name; *c; c++)
        seed = seed * 31 + (unsigned char)*c;
    for (size_t i = 0; i < n; i++) {
        uint16_t h = f32_to_bf16(tiny_value(seed, (uint32_t)i, norm));
        tiny_put(&w->data, &h, sizeof h);
    }
    snprintf(entry, sizeof entry,
             "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
             w->header.size ? "," : "{", name, shape, begin, w->data.size);
    tiny_say(&w->header, entry);
}

static inline void tiny_linear(tiny_tensors *w, const char *name, int rows, int cols, bool bias)
{
    char full[300], shape[64];
    snprintf(full, sizeof full, "%s.weight", name);
    snprintf(shape, sizeof shape, "[%d,%d]", rows, cols);
    tiny_tensor(w, full, shape, (size_t)rows * (size_t)cols, false);
    if (!bias) return;
    snprintf(full, sizeof full, "%s.bias", name);
    snprintf(shape, sizeof shape, "[%d]", rows);
    tiny_tensor(w, full, shape, (size_t)rows, false);
}

static inline void tiny_norm(tiny_tensors *w, const char *name, int n, bool bias)
{
    char full[300], shape[64];
    snprintf(full, sizeof full, "%s.weight", name);
    snprintf(shape, sizeof shape, "[%d]", n);
    tiny_tensor(w, full, shape, (size_t)n, true);
    snprintf(full, sizeof full, "%s.bias", name);
    if (bias) tiny_tensor(w, full, shape, (size_t)n, false);
}

static inline void tiny_text_layers(tiny_tensors *w, bool bias)
{
    enum { HEAD = TINY_DIM / TINY_HEADS };
    static const char *const p = "language_model.model.layers";
    char name[256];
    for (int i = 0; i < TINY_LAYERS; i++) {
        const struct {
            const char *name;
            int rows, cols;
            bool bias;
        } linears[] = {{"self_attn.q_proj", TINY_DIM, TINY_DIM, bias},
                       {"self_attn.k_proj", TINY_HEADS_KV * HEAD, TINY_DIM, bias},
                       {"self_attn.v_proj", TINY_HEADS_KV * HEAD, TINY_DIM, bias},
                       {"self_attn.o_proj", TINY_DIM, TINY_DIM, false},
                       {"mlp.gate_proj", TINY_FFN, TINY_DIM, false},
                       {"mlp.up_proj", TINY_FFN, TINY_DIM, false},
                       {"mlp.down_proj", TINY_DIM, TINY_FFN, false}};
        for (size_t k = 0; k < sizeof linears / sizeof *linears; k++) {
            snprintf(name, sizeof name, "%s.%d.%s", p, i, linears[k].name);
            tiny_linear(w, name, linears[k].rows, linears[k].cols, linears[k].bias);
        }
        snprintf(name, sizeof name, "%s.%d.input_layernorm", p, i);
        tiny_norm(w, name, TINY_DIM, false);
        snprintf(name, sizeof name, "%s.%d.post_attention_layernorm", p, i);
        tiny_norm(w, name, TINY_DIM, false);
    }
}

static inline void tiny_vision_layers(tiny_tensors *w)
{
    static const char *const p = "vision_tower.vision_model.encoder.layers";
    static const char *const square[] = {"q_proj", "k_proj", "v_proj", "out_proj"};
    char name[256];
    for (int i = 0; i < TINY_VIT_LAYERS; i++) {
        for (int k = 0; k < 4; k++) {
            snprintf(name, sizeof name, "%s.%d.self_attn.%s", p, i, square[k]);
            tiny_linear(w, name, TINY_VIT_DIM, TINY_VIT_DIM, true);
        }
        for (int k = 1; k <= 2; k++) {
            snprintf(name, sizeof name, "%s.%d.layer_norm%d", p, i, k);
            tiny_norm(w, name, TINY_VIT_DIM, true);
        }
        snprintf(name, sizeof name, "%s.%d.mlp.fc1", p, i);
        tiny_linear(w, name, TINY_VIT_FFN, TINY_VIT_DIM, true);
        snprintf(name, sizeof name, "%s.%d.mlp.fc2", p, i);
        tiny_linear(w, name, TINY_VIT_DIM, TINY_VIT_FFN, true);
    }
}

/* The whole safetensors file; bias: q, k and v have one, as in Qwen2. */
static inline tiny_text tiny_weights(bool bias, bool tied)
{
    tiny_tensors w = {0};
    tiny_text out = {0};
    tiny_linear(&w, "language_model.model.embed_tokens", TINY_VOCAB, TINY_DIM, false);
    tiny_norm(&w, "language_model.model.norm", TINY_DIM, false);
    if (!tied) tiny_linear(&w, "language_model.lm_head", TINY_VOCAB, TINY_DIM, false);
    tiny_text_layers(&w, bias);
    tiny_tensor(&w, "vision_tower.vision_model.embeddings.class_embedding", "[32]", 32, false);
    tiny_tensor(&w, "vision_tower.vision_model.embeddings.patch_embedding.weight", "[32,3,14,14]",
                32 * 588, false);
    tiny_linear(&w, "vision_tower.vision_model.embeddings.position_embedding", 5, 32, false);
    tiny_norm(&w, "vision_tower.vision_model.pre_layrnorm", TINY_VIT_DIM, true);
    tiny_norm(&w, "vision_tower.vision_model.post_layernorm", TINY_VIT_DIM, true);
    tiny_vision_layers(&w);
    tiny_linear(&w, "multi_modal_projector.linear_1", TINY_DIM, TINY_VIT_DIM, true);
    tiny_linear(&w, "multi_modal_projector.linear_2", TINY_DIM, TINY_DIM, true);
    tiny_tensor(&w, "image_newline", "[64]", 64, false);
    tiny_say(&w.header, "}");
    while (w.header.size % 8)
        tiny_say(&w.header, " ");
    uint64_t n = w.header.size;
    unsigned char size[8];
    for (int i = 0; i < 8; i++)
        size[i] = (unsigned char)(n >> (8 * i));
    tiny_put(&out, size, 8);
    tiny_put(&out, w.header.data, w.header.size);
    tiny_put(&out, w.data.data, w.data.size);
    free(w.header.data);
    free(w.data.data);
    return out;
}

/* ---- the small files ---- */

/* rope: "" or further members of text_config, each ending in a comma. */
static inline tiny_text tiny_config(const char *family, const char *rope, bool tied)
{
    char text[4096];
    tiny_text out = {0};
    snprintf(
        text, sizeof text,
        "{\"model_type\":\"llava_next\",\"image_token_index\":295,\"projector_hidden_act\":"
        "\"gelu\",\"vision_feature_layer\":-2,\"vision_feature_select_strategy\":\"default\","
        "\"tie_word_embeddings\":%s,\"image_grid_pinpoints\":[[28,56],[56,28]],"
        "\"text_config\":{\"model_type\":\"%s\",%s\"hidden_size\":64,\"intermediate_size\":96,"
        "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,"
        "\"max_position_embeddings\":256,\"rms_norm_eps\":1e-05,\"rope_theta\":10000.0,"
        "\"vocab_size\":304},\"vision_config\":{\"hidden_size\":32,\"intermediate_size\":48,"
        "\"num_hidden_layers\":3,\"num_attention_heads\":4,\"image_size\":28,\"patch_size\":14,"
        "\"hidden_act\":\"quick_gelu\",\"layer_norm_eps\":1e-05}}",
        tied ? "true" : "false", family, rope);
    tiny_say(&out, text);
    return out;
}

static inline tiny_text tiny_preprocessor(void)
{
    tiny_text out = {0};
    tiny_say(&out, "{\"image_mean\":[0.5,0.25,0.75],\"image_std\":[0.5,0.25,0.125],\"resample\":3,"
                   "\"rescale_factor\":0.00392156862745098,\"size\":{\"shortest_edge\":32},"
                   "\"crop_size\":{\"height\":28,\"width\":28}}");
    return out;
}

/* <unk> <s> </s>, 256 bytes, the letters, nine merges, <image>: 296 ids. */
static inline tiny_text tiny_tokenizer(void)
{
    static const char *const merge[][2] = {{"\xe2\x96\x81", "t"}, {"h", "e"},
                                           {"\xe2\x96\x81t", "he"}, {"i", "n"},
                                           {"\xe2\x96\x81", "a"}, {"e", "r"},
                                           {"a", "n"}, {"\xe2\x96\x81", "c"},
                                           {"\xe2\x96\x81" "c", "a"}};
    tiny_text out = {0}, pairs = {0};
    char line[256];
    int id = 0;
    tiny_say(&out,
             "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":"
             "true},{\"id\":1,\"content\":\"<s>\",\"special\":true},{\"id\":2,\"content\":"
             "\"</s>\",\"special\":true},{\"id\":295,\"content\":\"<image>\",\"special\":true}],"
             "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\","
             "\"prepend\":\"\xe2\x96\x81\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},"
             "\"content\":\"\xe2\x96\x81\"}]},\"pre_tokenizer\":null,\"decoder\":{\"type\":"
             "\"Sequence\",\"decoders\":[{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},"
             "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},\"model\":{\"type\":"
             "\"BPE\",\"unk_token\":\"<unk>\",\"byte_fallback\":true,\"vocab\":{\"<unk>\":0,"
             "\"<s>\":1,\"</s>\":2");
    for (id = 3; id < 259; id++) {
        snprintf(line, sizeof line, ",\"<0x%02X>\":%d", id - 3, id);
        tiny_say(&out, line);
    }
    for (char c = 'a'; c <= 'z'; c++) {
        snprintf(line, sizeof line, ",\"%c\":%d", c, id++);
        tiny_say(&out, line);
    }
    snprintf(line, sizeof line, ",\"\xe2\x96\x81\":%d", id++);
    tiny_say(&out, line);
    for (int i = 0; i < 9; i++) {
        snprintf(line, sizeof line, ",\"%s%s\":%d", merge[i][0], merge[i][1], id++);
        tiny_say(&out, line);
        snprintf(line, sizeof line, "%s\"%s %s\"", i ? "," : "", merge[i][0], merge[i][1]);
        tiny_say(&pairs, line);
    }
    tiny_say(&out, "},\"merges\":[");
    tiny_put(&out, pairs.data, pairs.size);
    tiny_say(&out, "]}}");
    free(pairs.data);
    return out;
}

static inline void tiny_write_text(const char *dir, const char *name, tiny_text t)
{
    tiny_write(dir, name, t.data, t.size);
    free(t.data);
}

static inline void tiny_hf(const char *dir, const char *family, const char *rope, bool bias,
                           bool tied)
{
    tiny_write_text(dir, "config.json", tiny_config(family, rope, tied));
    tiny_write_text(dir, "preprocessor_config.json", tiny_preprocessor());
    tiny_write_text(dir, "tokenizer.json", tiny_tokenizer());
    tiny_write_text(dir, "model.safetensors", tiny_weights(bias, tied));
}

#endif
