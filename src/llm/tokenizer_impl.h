/* Inside of the tokenizers; only src/llm/tokenizer*.c see this. */
#ifndef SQ_TOKENIZER_IMPL_H
#define SQ_TOKENIZER_IMPL_H

#include "core/arena.h"
#include "core/utf8.h"
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

/* U+2581 in front of a text: of none, of its first stretch, of every stretch. */
typedef enum space_prefix {
    SPACE_PREFIX_NEVER,
    SPACE_PREFIX_FIRST,
    SPACE_PREFIX_ALWAYS
} space_prefix;

/* Where " " becomes U+2581: before normalised added tokens are looked for (then a leading mark may
 * be doubled), or after (Metaspace: it is not). */
typedef enum space_mark { SPACE_MARK_NONE, SPACE_MARK_NORMALIZER, SPACE_MARK_METASPACE } space_mark;

/* GPT-2's space in front: of every stretch, or of every word that the pattern cuts. */
typedef enum word_space { WORD_SPACE_NONE, WORD_SPACE_STRETCH, WORD_SPACE_WORD } word_space;

/* What a token that is matched before anything else asks for. */
enum {
    ADDED_LSTRIP = 1,
    ADDED_RSTRIP = 2,
    ADDED_WORD = 4,       /* only between characters that are no letters or digits */
    ADDED_NORMALIZED = 8, /* looked for in the normalised text, itself normalised */
    ADDED_INNER = 16      /* the same without the prefix: SentencePiece's user-defined pieces */
};

/* A piece that is matched in the text before anything else. */
typedef struct added_token {
    int32_t id;
    size_t size;
    const char *text;
    bool control;
    unsigned flags;
} added_token;

struct tokenizer {
    tokenizer_vocab v;
    arena mem;
    char **text;
    size_t *size; /* bytes of text[i] */
    float *score;
    int32_t *type;
    uint8_t *flag;        /* [n_token] ADDED_* */
    char **merge_text;
    piece_table pieces;
    merge_table merges;   /* from a merges list; empty: SPM scores decide */
    space_prefix prefix;
    space_mark mark;
    bool mark_split;      /* Metaspace cuts in front of each mark */
    bool trim_spaces;     /* SentencePiece's remove_extra_whitespaces */
    bool no_fallback;     /* SPM: pieces named "<0x0A>" are ordinary */
    int32_t model_unk;    /* the model's own, for what it has no piece for; -1: dropped */
    bool keep_unk;        /* a run of unknowns is as many tokens as characters */
    int32_t byte_id[256]; /* SPM byte fallback: "<0x0A>"; -1: none */
    added_token *added;   /* longest first */
    int n_added;
    bool added_first[256]; /* bytes that an added token begins with */
    bool strip_first;     /* decode drops one leading space */
    bool nfc;             /* byte-level: canonical composition comes first */
    bool ignore_merges;   /* byte-level: a whole word that is a piece needs no merges */
    word_space word_space;
    void *split;          /* byte-level: compiled pattern (pcre2_code) */
    int32_t end[8];       /* ids that end an answer besides v.eos */
    int n_end;
};

/* Growing list of ids; a failure is sticky. */
typedef struct id_list {
    int32_t *id;
    int n, cap;
    bool failed;
    const char *why; /* NULL: out of memory */
} id_list;
void id_list_add(id_list *l, int32_t id);

int32_t piece_find(const tokenizer *t, const char *text, size_t size);
const merge_slot *merge_find(const tokenizer *t, int32_t left, int32_t right);

/* GPT-2's byte alphabet: printable Latin-1 stands for itself, the rest for U+0100 and up. */
int byte_of_rune(unsigned c); /* -1: not in the alphabet */

/* Allocates the arrays for n tokens, all empty. */
int tokenizer_alloc(tokenizer **t, int n, sq_error *err);
/* Makes room for n tokens; fewer than there are is fine. */
int tokenizer_grow(tokenizer *t, int n, const char *name, sq_error *err);
/* Copies one piece in. */
int tokenizer_set(tokenizer *t, int id, const char *text, size_t size, float score,
                  token_type type, sq_error *err);
/* merge[i] = "left right" in rank order, already in t->merge_text; builds the table. */
int tokenizer_set_merges(tokenizer *t, int n, const char *name, sq_error *err);
/* Builds the lookup tables and the byte and added tokens from what was set. */
int tokenizer_finish(tokenizer *t, const char *name, sq_error *err);

/* The files beside tokenizer.json or tokenizer.model in dir: before tokenizer_finish their tokens,
 * after it their special ids. */
int tokenizer_config_tokens(tokenizer *t, const char *dir, sq_error *err);
int tokenizer_config_specials(tokenizer *t, const char *dir, sq_error *err);
int tokenizer_config_spaces(tokenizer *t, const char *dir, sq_error *err); /* tokenizer.model */
/* Both readers; dir may be NULL. */
int tokenizer_read_json(tokenizer **t, const char *path, const char *dir, sq_error *err);
int tokenizer_read_spm(tokenizer **t, const char *path, const char *dir, sq_error *err);

/* Byte-level BPE: the splitting pattern with all that goes with a name of it ("gpt-2", "qwen2",
 * "llama-bpe"), also sets v.pre. name (a file) is used in messages. */
int bpe_set_pre(tokenizer *t, const char *pre, const char *name, sq_error *err);
/* The pattern as tokenizer.json has it. */
int bpe_set_pattern(tokenizer *t, const char *pattern, const char *name, sq_error *err);
/* v.pre from the pattern and the settings; "unknown" when no name stands for them. */
void bpe_name_pre(tokenizer *t, const char *pattern);
void bpe_close(tokenizer *t);

/* Text as the model sees it before added tokens of ADDED_NORMALIZED are looked for; malloc'ed,
 * NULL when memory is out. first: the text's beginning. spm_mark only turns spaces into U+2581. */
char *spm_normalize(const tokenizer *t, const char *text, size_t size, bool first, size_t *n);
char *spm_mark(const char *text, size_t size, size_t *n);
char *bpe_normalize(const char *text, size_t size, size_t *n);

/* Encoders of one normalised stretch of text without added tokens. */
void spm_encode(const tokenizer *t, const char *text, size_t size, bool first, id_list *out);
void bpe_encode(const tokenizer *t, const char *text, size_t size, id_list *out);

/* Joins the characters of one word pair by pair and appends the ids. */
void merge_word(const tokenizer *t, const char *text, size_t size, id_list *out);

#endif
