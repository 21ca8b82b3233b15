/* Inside of the tokenizers; only src/llm/tokenizer*.c see this. */
#ifndef SQ_TOKENIZER_IMPL_H
#define SQ_TOKENIZER_IMPL_H

#include "core/arena.h"
#include "llm/tokenizer.h"

/* Open addressing over pieces; -1 is an empty slot. */
typedef struct piece_table {
    int32_t *slot;
    uint32_t mask;
} piece_table;

/* Merges by pair of ids: left << 32 | right -> rank and the piece that it makes. */
typedef struct merge_slot {
    uint64_t pair; /* UINT64_MAX: empty */
    int32_t rank, id;
} merge_slot;

typedef struct merge_table {
    merge_slot *slot;
    uint32_t mask;
} merge_table;

typedef enum space_prefix { SPACE_PREFIX_NEVER, SPACE_PREFIX_FIRST, SPACE_PREFIX_ALWAYS } space_prefix;

/* A piece that is matched in the text before anything else. */
typedef struct added_token {
    int32_t id;
    size_t size;
    const char *text;
    bool control, lstrip, rstrip;
} added_token;

struct tokenizer {
    tokenizer_vocab v;
    arena mem;
    char **text;
    size_t *size; /* bytes of text[i] */
    float *score;
    int32_t *type;
    char **merge_text;
    piece_table pieces;
    merge_table merges;   /* from a merges list; empty: SPM scores decide */
    space_prefix prefix;
    int32_t byte_id[256]; /* SPM byte fallback: "<0x0A>"; -1: none */
    added_token *added;   /* longest first */
    int n_added;
    bool strip_first;     /* decode drops one leading space */
    bool ignore_merges;   /* byte-level: a whole word that is a piece needs no merges */
    void *split;          /* byte-level: compiled pattern (pcre2_code) */
};

/* Growing list of ids; out of memory is sticky. */
typedef struct id_list {
    int32_t *id;
    int n, cap;
    bool failed;
} id_list;
void id_list_add(id_list *l, int32_t id);

int32_t piece_find(const tokenizer *t, const char *text, size_t size);
const merge_slot *merge_find(const tokenizer *t, int32_t left, int32_t right);

/* Allocates the arrays for n tokens, all empty. */
int tokenizer_alloc(tokenizer **t, int n, sq_error *err);
/* Copies one piece in. */
int tokenizer_set(tokenizer *t, int id, const char *text, size_t size, float score,
                  token_type type, sq_error *err);
/* merge[i] = "left right" in rank order, already in t->merge_text; builds the table. */
int tokenizer_set_merges(tokenizer *t, int n, sq_error *err);
/* Builds the lookup tables and the byte and added tokens from what was set. */
int tokenizer_finish(tokenizer *t, const char *name, sq_error *err);

/* Encoders of one stretch of text without added tokens; first: the text's beginning. */
void spm_encode(const tokenizer *t, const char *text, size_t size, bool first, id_list *out);
void bpe_encode(const tokenizer *t, const char *text, size_t size, id_list *out);

#endif
