/* Tokenizers that tests open: files of the shared assets in the formats they come in, and the small
 * ones in tests/golden/tokens. Every helper returns NULL when the file is missing. */
#ifndef SQ_TOKENIZER_ASSETS_H
#define SQ_TOKENIZER_ASSETS_H

#include "core/arena.h"
#include "core/file.h"
#include "llm/tokenizer.h"
#include "models/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline const char *asset_path(const char *name)
{
    static char path[4096];
    const char *root = getenv("SQ_SHARED");
    snprintf(path, sizeof path, "%s/%s", root ? root : SQ_SOURCE_DIR "/../shared", name);
    return path;
}

static inline const char *golden_path(const char *name)
{
    static char path[4096];
    snprintf(path, sizeof path, SQ_SOURCE_DIR "/tests/golden/tokens/%s", name);
    return path;
}

/* The text of a whole file, 0-terminated; NULL when it is missing. */
static inline char *read_whole(const char *path, size_t *size)
{
    file_map m;
    if (file_map_open(&m, path, NULL)) return NULL;
    char *text = malloc(m.size + 1);
    if (text) {
        memcpy(text, m.data, m.size);
        text[m.size] = 0;
        *size = m.size;
    }
    file_map_close(&m);
    return text;
}

static inline void report_open(const char *path, const sq_error *err)
{
    if (err->code) fprintf(stderr, "%s: %s\n", path, err->text);
}

static inline tokenizer *open_spm_asset(const char *path)
{
    tokenizer *t = NULL;
    sq_error err = {0};
    if (!file_exists(path)) return NULL;
    tokenizer_open_spm(&t, path, &err);
    report_open(path, &err);
    return t;
}

static inline tokenizer *open_json_asset(const char *path)
{
    tokenizer *t = NULL;
    sq_error err = {0};
    if (!file_exists(path)) return NULL;
    tokenizer_open_json(&t, path, &err);
    report_open(path, &err);
    return t;
}

/* A GGUF file that holds nothing but a vocabulary. */
static inline tokenizer *open_gguf_asset(const char *path, tokenizer_kind kind, const char *pre)
{
    tokenizer *t = NULL;
    sq_error err = {0};
    gguf_file g = {0};
    weight_map w = {0};
    tokenizer_vocab v = {.kind = kind, .bos = -1, .eos = -1, .unk = -1, .pad = -1, .pre = pre};
    const char **text = NULL, **merge = NULL;
    int n = 0;
    if (!file_exists(path)) return NULL;
    if (!gguf_open(&g, &w, path, &err) &&
        !gguf_strings(&g, "tokenizer.ggml.tokens", &text, &v.n_token, &err) &&
        !gguf_strings(&g, "tokenizer.ggml.merges", &merge, &v.n_merge, &err) &&
        !gguf_floats(&g, "tokenizer.ggml.scores", &v.score, &n, &err) &&
        !gguf_ints(&g, "tokenizer.ggml.token_type", &v.type, &n, &err)) {
        v.text = text;
        v.merge = merge;
        if (kind == TOKENIZER_SPM) v.unk = 0, v.bos = 1, v.eos = 2;
        v.add_bos = v.add_space_prefix = kind == TOKENIZER_SPM;
        tokenizer_open_vocab(&t, &v, path, &err);
    }
    report_open(path, &err);
    gguf_close(&g);
    weight_map_close(&w);
    return t;
}

/* ---- tiktoken files: base64 of the token's bytes, a space, its rank ---- */

static inline int alphabet_of(unsigned char b, char *out)
{
    unsigned c = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174 ? b
                 : 256 + (b < 33 ? b : b < 161 ? b - 94u : 67u);
    if (c < 128) {
        out[0] = (char)c;
        return 1;
    }
    out[0] = (char)(0xc0 | c >> 6);
    out[1] = (char)(0x80 | (c & 63));
    return 2;
}

static inline size_t base64_to_alphabet(const char *in, size_t size, char *out)
{
    static const char digits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned bits = 0, n_bit = 0;
    size_t n = 0;
    for (size_t i = 0; i < size && in[i] != '='; i++) {
        bits = bits << 6 | (unsigned)(strchr(digits, in[i]) - digits);
        n_bit += 6;
        if (n_bit < 8) continue;
        n_bit -= 8;
        n += (size_t)alphabet_of((unsigned char)(bits >> n_bit), out + n);
    }
    out[n] = 0;
    return n;
}

/* The two pieces that make token id: its bytes joined by all lower ranks. false: a single byte. */
static inline bool split_token(const tokenizer *t, const char *text, int id, char *line)
{
    size_t cut[257]; /* where the parts begin; cut[n] is the end */
    int n = 0;
    char pair[1300];
    for (cut[0] = 0; text[cut[n]] && n < 256; n++)
        cut[n + 1] = cut[n] + ((text[cut[n]] & 0x80) ? 2 : 1);
    while (n > 2) {
        int best = -1, rank = id;
        for (int i = 0; i + 1 < n; i++) {
            snprintf(pair, sizeof pair, "%.*s", (int)(cut[i + 2] - cut[i]), text + cut[i]);
            int r = tokenizer_find(t, pair);
            if (r >= 0 && r < rank) rank = r, best = i;
        }
        if (best < 0) return false;
        memmove(cut + best + 1, cut + best + 2, sizeof *cut * (size_t)(n - best - 1));
        n--;
    }
    if (n == 2) sprintf(line, "%.*s %s", (int)cut[1], text, text + cut[1]);
    return n == 2;
}

/* special: names of the control tokens behind the file's own, ending with NULL. */
static inline tokenizer *open_tiktoken_asset(const char *path, const char *pre,
                                             const char *const *special)
{
    tokenizer *plain = NULL, *t = NULL;
    sq_error err = {0};
    arena mem = {0};
    size_t size = 0;
    char *file = read_whole(path, &size);
    if (!file) return NULL;
    int n = 0, most = 16;
    for (size_t i = 0; i < size; i++)
        most += file[i] == '\n';
    const char **text = arena_calloc(&mem, (size_t)most, sizeof *text);
    const char **merge = arena_calloc(&mem, (size_t)most, sizeof *merge);
    int32_t *type = arena_calloc(&mem, (size_t)most, sizeof *type);
    tokenizer_vocab v = {.kind = TOKENIZER_BYTE_BPE, .text = text, .type = type, .merge = merge,
                         .pre = pre, .bos = -1, .eos = -1, .unk = -1, .pad = -1};
    for (char *line = strtok(file, "\n"); line; line = strtok(NULL, "\n"), n++) {
        char piece[2048];
        size_t len = base64_to_alphabet(line, strcspn(line, " "), piece);
        text[n] = arena_strndup(&mem, piece, len);
        type[n] = TOKEN_NORMAL;
    }
    v.n_token = n;
    tokenizer_open_vocab(&plain, &v, path, &err);
    for (int i = 0; plain && i < n; i++) {
        char line[2048];
        if (split_token(plain, text[i], i, line))
            merge[v.n_merge++] = arena_strndup(&mem, line, strlen(line));
    }
    for (; *special; special++, n++) {
        text[n] = *special;
        type[n] = TOKEN_CONTROL;
    }
    v.n_token = n;
    if (plain) tokenizer_open_vocab(&t, &v, path, &err);
    tokenizer_close(&plain);
    report_open(path, &err);
    arena_close(&mem);
    free(file);
    return t;
}

static const char *const qwen2_special[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>", NULL};

#define ASSET_DEMO "demo/tokenizer.json"
#define ASSET_LLAMA "assets/tokenizers/llama-spm/tokenizer.model"
#define ASSET_LLAMA_GGUF "assets/tokenizers/llama-spm/ggml-vocab-llama-spm.gguf"
#define ASSET_LLAMA_JS "assets/tokenizers/llama-spm/llama-tokenizer-js-vectors.txt"
#define ASSET_MISTRAL "assets/tokenizers/mistral/tokenizer.model.v1"
#define ASSET_MISTRAL_TEXT "assets/tokenizers/mistral/samples_no_tools_sample.json"
#define ASSET_MISTRAL_IDS "assets/tokenizers/mistral/samples_no_tools_tokens_v1.json"
#define ASSET_GPT2 "assets/tokenizers/gpt2/ggml-vocab-gpt-2.gguf"
#define ASSET_QWEN2 "assets/tokenizers/qwen2/qwen.tiktoken"

#endif
