/* Tokenizers: SentencePiece BPE and byte-level BPE, exact in both directions. */
#ifndef SQ_TOKENIZER_H
#define SQ_TOKENIZER_H

#include "core/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum token_type { /* values as in GGUF tokenizer.ggml.token_type */
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN = 2,
    TOKEN_CONTROL = 3,
    TOKEN_USER_DEFINED = 4,
    TOKEN_UNUSED = 5,
    TOKEN_BYTE = 6
} token_type;

typedef enum tokenizer_kind {
    TOKENIZER_SPM,      /* pieces with scores, U+2581 for space, byte fallback */
    TOKENIZER_BYTE_BPE  /* merges over GPT-2's byte alphabet, split by a regular expression */
} tokenizer_kind;

/* A vocabulary as a GGUF file stores it; what tokenizer_vocab gives for conversion. Strings are
 * 0-terminated UTF-8 (byte-level pieces in GPT-2's byte alphabet). */
typedef struct tokenizer_vocab {
    tokenizer_kind kind;
    int n_token;
    const char *const *text; /* [n_token] */
    const float *score;      /* [n_token] SPM: piece score; from a merges list: minus the rank */
    const int32_t *type;     /* [n_token] token_type */
    int n_merge;
    const char *const *merge; /* "left right", rank order; SPM: only from tokenizer.json */
    const char *pre;         /* byte-level: "gpt-2", "qwen2", "llama-bpe", or "unknown" for another
                                pattern (GGUF has no name for it); SPM: "default" */
    int bos, eos, unk, pad;  /* -1: none */
    bool add_bos, add_eos;
    bool add_space_prefix;   /* SPM: U+2581 in front of each text chunk */
    bool space_first_only;   /* ... or only in front of a text's first chunk */
} tokenizer_vocab;

typedef struct tokenizer tokenizer;

/* From `tokenizer.json` (preferred) or `tokenizer.model` in an HF directory, with
 * tokenizer_config.json / special_tokens_map.json / added_tokens.json / generation_config.json
 * taken in when present. */
int tokenizer_open_dir(tokenizer **t, const char *dir, sq_error *err);
int tokenizer_open_json(tokenizer **t, const char *path, sq_error *err);
int tokenizer_open_spm(tokenizer **t, const char *path, sq_error *err); /* protobuf file */

/* From GGUF arrays; everything is copied. name is used in messages. */
int tokenizer_open_vocab(tokenizer **t, const tokenizer_vocab *v, const char *name, sq_error *err);

void tokenizer_close(tokenizer **t);

const tokenizer_vocab *tokenizer_get_vocab(const tokenizer *t); /* lives as long as t */

enum {
    TOKENIZE_BOS = 1,     /* BOS in front, when the model has add_bos */
    TOKENIZE_SPECIAL = 2  /* "</s>" in the text becomes the control token (templates only) */
};

/* *ids is malloc'ed (free it); text need not be valid UTF-8. Added tokens that are not control
 * tokens are always matched, as the reference tokenizers do. */
int tokenizer_encode(const tokenizer *t, const char *text, size_t size, unsigned flags,
                     int32_t **ids, int *n, sq_error *err);

/* Whole sequence to text, control tokens left out: equal to decode(skip_special_tokens=True), but
 * that bytes which make no character are U+FFFD one by one, as in SentencePiece; the tokenizers
 * library gives up the whole run of byte pieces. *text is malloc'ed, 0-terminated. */
int tokenizer_decode(const tokenizer *t, const int32_t *ids, int n, char **text, size_t *size,
                     sq_error *err);

/* Whether id ends an answer: EOS, or among generation_config.json's eos_token_id. */
bool tokenizer_ends(const tokenizer *t, int32_t id);

/* Id of a piece, or -1. */
int tokenizer_find(const tokenizer *t, const char *piece);

/* Streaming decode: feeds one id, writes the bytes that are certain (whole UTF-8 characters) to
 * out[cap]; the sequence of outputs concatenates to tokenizer_decode's text. */
typedef struct token_stream {
    const tokenizer *t;
    bool started;
    unsigned char held[8]; /* bytes of an unfinished character */
    int n_held;
} token_stream;
void token_stream_init(token_stream *s, const tokenizer *t);
/* Returns bytes written (>= 0). cap must be at least 512. */
int token_stream_next(token_stream *s, int32_t id, char *out, int cap);
int token_stream_flush(token_stream *s, char *out, int cap); /* unfinished bytes as U+FFFD */

#endif
