#include "llm/tokenizer_impl.h"

#include "core/file.h"

#include <stdlib.h>
#include <string.h>

enum {
    TOKENS_MAX = 1 << 22,
    PIECE_MAX = 160 /* bytes that one token may stand for: a stream's buffer holds them */
};

/* ---- tables ---- */

static uint64_t hash_bytes(const char *text, size_t size)
{
    uint64_t h = 1469598103934665603u; /* FNV-1a */
    for (size_t i = 0; i < size; i++)
        h = (h ^ (unsigned char)text[i]) * 1099511628211u;
    return h ^ h >> 29;
}

static uint32_t table_size(int n)
{
    uint32_t size = 16;
    while (size < (uint32_t)n * 2)
        size *= 2;
    return size;
}

int32_t piece_find(const tokenizer *t, const char *text, size_t size)
{
    uint32_t mask = t->pieces.mask;
    for (uint32_t i = (uint32_t)hash_bytes(text, size) & mask;; i = (i + 1) & mask) {
        int32_t id = t->pieces.slot[i];
        if (id < 0) return -1;
        if (t->size[id] == size && memcmp(t->text[id], text, size) == 0) return id;
    }
}

/* The first id of a piece that is there twice stays. */
static void piece_insert(tokenizer *t, int32_t id)
{
    uint32_t i = (uint32_t)hash_bytes(t->text[id], t->size[id]) & t->pieces.mask;
    for (; t->pieces.slot[i] >= 0; i = (i + 1) & t->pieces.mask) {
        int32_t other = t->pieces.slot[i];
        if (t->size[other] == t->size[id] && !memcmp(t->text[other], t->text[id], t->size[id]))
            return;
    }
    t->pieces.slot[i] = id;
}

static uint32_t hash_pair(uint64_t pair)
{
    pair *= 0x9E3779B97F4A7C15u;
    return (uint32_t)(pair >> 32);
}

const merge_slot *merge_find(const tokenizer *t, int32_t left, int32_t right)
{
    if (left < 0 || right < 0 || !t->merges.slot) return NULL;
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    for (uint32_t i = hash_pair(pair) & t->merges.mask;; i = (i + 1) & t->merges.mask) {
        const merge_slot *m = &t->merges.slot[i];
        if (m->pair == pair) return m;
        if (m->pair == UINT64_MAX) return NULL;
    }
}

void id_list_add(id_list *l, int32_t id)
{
    if (l->n == l->cap) {
        int cap = l->cap ? l->cap * 2 : 64;
        int32_t *grown = cap > 0 ? realloc(l->id, (size_t)cap * sizeof *grown) : NULL;
        if (!grown) {
            l->failed = true;
            return;
        }
        l->id = grown;
        l->cap = cap;
    }
    l->id[l->n++] = id;
}

/* ---- building ---- */

static int alloc_arrays(tokenizer *t, int n, const char *name, sq_error *err)
{
    char **text = arena_calloc(&t->mem, (size_t)n, sizeof *text);
    size_t *size = arena_calloc(&t->mem, (size_t)n, sizeof *size);
    float *score = arena_calloc(&t->mem, (size_t)n, sizeof *score);
    int32_t *type = arena_calloc(&t->mem, (size_t)n, sizeof *type);
    uint8_t *flag = arena_calloc(&t->mem, (size_t)n, sizeof *flag);
    size_t old = t->text ? (size_t)t->v.n_token : 0;
    if (!text || !size || !score || !type || !flag)
        return error_set(err, SQ_E_NOMEM, "%s: out of memory", name);
    if (old) {
        memcpy(text, t->text, old * sizeof *text);
        memcpy(size, t->size, old * sizeof *size);
        memcpy(score, t->score, old * sizeof *score);
        memcpy(type, t->type, old * sizeof *type);
        memcpy(flag, t->flag, old * sizeof *flag);
    }
    t->text = text;
    t->size = size;
    t->score = score;
    t->type = type;
    t->flag = flag;
    t->v.n_token = n;
    return SQ_OK;
}

int tokenizer_alloc(tokenizer **out, int n, sq_error *err)
{
    *out = NULL;
    if (n < 1 || n > TOKENS_MAX)
        return error_set(err, SQ_E_LIMIT, "tokenizer: %d tokens: expected 1..%d", n, TOKENS_MAX);
    tokenizer *t = calloc(1, sizeof *t);
    if (!t) return error_set(err, SQ_E_NOMEM, "tokenizer: out of memory");
    t->v = (tokenizer_vocab){.n_token = n, .bos = -1, .eos = -1, .unk = -1, .pad = -1};
    *out = t;
    int rc = alloc_arrays(t, n, "tokenizer", err);
    if (rc) tokenizer_close(out);
    return rc;
}

int tokenizer_grow(tokenizer *t, int n, const char *name, sq_error *err)
{
    if (n <= t->v.n_token) return SQ_OK;
    if (n > TOKENS_MAX)
        return error_set(err, SQ_E_LIMIT, "%s: %d tokens: expected 1..%d", name, n, TOKENS_MAX);
    return alloc_arrays(t, n, name, err);
}

int tokenizer_set(tokenizer *t, int id, const char *text, size_t size, float score,
                  token_type type, sq_error *err)
{
    t->text[id] = arena_strndup(&t->mem, text, size);
    if (!t->text[id]) return error_set(err, SQ_E_NOMEM, "tokenizer: out of memory");
    t->size[id] = size;
    t->score[id] = score;
    t->type[id] = type;
    return SQ_OK;
}

/* "left right": pieces hold no space, so the first one past a piece's start is the gap. */
static bool merge_split(const tokenizer *t, const char *text, int32_t *left, int32_t *right,
                        int32_t *id)
{
    const char *gap = strchr(text + (*text != 0), ' ');
    char joined[512];
    if (!gap) return false;
    size_t a = (size_t)(gap - text), b = strlen(gap + 1);
    if (a + b > sizeof joined) return false;
    memcpy(joined, text, a);
    memcpy(joined + a, gap + 1, b);
    *left = piece_find(t, text, a);
    *right = piece_find(t, gap + 1, b);
    *id = piece_find(t, joined, a + b);
    return *left >= 0 && *right >= 0 && *id >= 0;
}

int tokenizer_set_merges(tokenizer *t, int n, const char *name, sq_error *err)
{
    uint32_t size = table_size(n);
    t->merges.slot = arena_alloc(&t->mem, size * sizeof *t->merges.slot);
    if (!t->merges.slot) return error_set(err, SQ_E_NOMEM, "%s: out of memory", name);
    memset(t->merges.slot, 255, size * sizeof *t->merges.slot);
    t->merges.mask = size - 1;
    for (int i = 0; i < n; i++) {
        int32_t left, right, id;
        if (!merge_split(t, t->merge_text[i], &left, &right, &id))
            return error_set(err, SQ_E_FORMAT,
                             "%s: merge %d: expected two pieces that make a third", name, i);
        uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
        uint32_t s = hash_pair(pair) & t->merges.mask;
        while (t->merges.slot[s].pair != UINT64_MAX && t->merges.slot[s].pair != pair)
            s = (s + 1) & t->merges.mask;
        if (t->merges.slot[s].pair == pair) continue;
        t->merges.slot[s] = (merge_slot){pair, i, id};
        if (t->v.kind == TOKENIZER_SPM && t->score[id] == 0) t->score[id] = -(float)i;
    }
    t->v.n_merge = n;
    t->v.merge = (const char *const *)t->merge_text;
    return SQ_OK;
}

static int longer_first(const void *a, const void *b)
{
    const added_token *x = a, *y = b;
    if (x->size != y->size) return x->size < y->size ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

static bool is_added(const tokenizer *t, int id)
{
    return t->size[id] && (t->type[id] == TOKEN_CONTROL || t->type[id] == TOKEN_USER_DEFINED ||
                           t->type[id] == TOKEN_UNKNOWN);
}

/* The text that is looked for: a normalised token's own text is normalised as well. */
static char *added_text(tokenizer *t, int id, size_t *n)
{
    unsigned flags = t->flag[id];
    char *own = NULL;
    *n = t->size[id];
    if (flags & ADDED_INNER)
        own = spm_mark(t->text[id], *n, n);
    else if (flags & ADDED_NORMALIZED && t->mark == SPACE_MARK_NORMALIZER)
        own = spm_normalize(t, t->text[id], *n, true, n);
    else if (flags & ADDED_NORMALIZED && t->nfc)
        own = bpe_normalize(t->text[id], *n, n);
    else
        return t->text[id];
    char *kept = own ? arena_strndup(&t->mem, own, *n) : NULL;
    free(own);
    return kept;
}

static int collect_added(tokenizer *t, const char *name, sq_error *err)
{
    int n = 0;
    for (int i = 0; i < t->v.n_token; i++)
        n += is_added(t, i);
    t->added = arena_calloc(&t->mem, (size_t)n + 1, sizeof *t->added);
    if (!t->added) return error_set(err, SQ_E_NOMEM, "%s: out of memory", name);
    for (int i = 0; i < t->v.n_token; i++) {
        if (!is_added(t, i)) continue;
        if (!utf8_valid(t->text[i], t->size[i]))
            return error_set(err, SQ_E_FORMAT, "%s: added token %d: not valid UTF-8", name, i);
        added_token a = {.id = i, .control = t->type[i] != TOKEN_USER_DEFINED,
                         .flags = t->flag[i]};
        a.text = added_text(t, i, &a.size);
        if (!a.text) return error_set(err, SQ_E_NOMEM, "%s: out of memory", name);
        if (!a.size) continue;
        t->added_first[(unsigned char)a.text[0]] = true;
        t->added[t->n_added++] = a;
    }
    qsort(t->added, (size_t)t->n_added, sizeof *t->added, longer_first);
    return SQ_OK;
}

/* Bytes that a piece stands for. */
static size_t piece_bytes(const tokenizer *t, int id)
{
    size_t n = 0;
    const unsigned char *s = (const unsigned char *)t->text[id];
    for (size_t i = 0; i < t->size[id]; n++) {
        size_t left = t->size[id] - i, c = utf8_size(s + i, left);
        bool mark = c == 3 && memcmp(s + i, "\xe2\x96\x81", 3) == 0;
        if (t->v.kind == TOKENIZER_SPM) {
            i += mark ? 3 : 1;
            continue;
        }
        unsigned rune = c == 1 ? s[i] : c == 2 ? (s[i] & 31u) << 6 | (s[i + 1] & 63u) : 0;
        if (t->type[id] == TOKEN_USER_DEFINED || byte_of_rune(rune) < 0) return t->size[id];
        i += c;
    }
    return n;
}

int tokenizer_finish(tokenizer *t, const char *name, sq_error *err)
{
    static const char hex[] = "0123456789ABCDEF";
    static char empty[1];
    uint32_t size = table_size(t->v.n_token);
    t->pieces.slot = arena_alloc(&t->mem, size * sizeof *t->pieces.slot);
    if (!t->pieces.slot) return error_set(err, SQ_E_NOMEM, "%s: out of memory", name);
    memset(t->pieces.slot, 255, size * sizeof *t->pieces.slot);
    t->pieces.mask = size - 1;
    t->model_unk = t->v.unk;
    for (int i = 0; i < t->v.n_token; i++) {
        if (!t->text[i]) {
            t->text[i] = empty; /* a gap in the ids */
            t->type[i] = TOKEN_UNUSED;
        }
        if (t->size[i]) piece_insert(t, i);
        bool silent = t->type[i] == TOKEN_CONTROL || t->type[i] == TOKEN_UNKNOWN;
        if (!silent && piece_bytes(t, i) > PIECE_MAX)
            return error_set(err, SQ_E_LIMIT, "%s: token %d: longer than %d bytes", name, i,
                             PIECE_MAX);
    }
    for (int b = 0; b < 256; b++) {
        char piece[] = {'<', '0', 'x', hex[b >> 4], hex[b & 15], '>'};
        int32_t id = piece_find(t, piece, sizeof piece);
        t->byte_id[b] = t->v.kind == TOKENIZER_SPM && !t->no_fallback ? id : -1;
        if (t->byte_id[b] >= 0) t->type[id] = TOKEN_BYTE;
    }
    t->v.text = (const char *const *)t->text;
    t->v.score = t->score;
    t->v.type = t->type;
    return collect_added(t, name, err);
}

void tokenizer_close(tokenizer **out)
{
    tokenizer *t = *out;
    if (!t) return;
    bpe_close(t);
    arena_close(&t->mem);
    free(t);
    *out = NULL;
}

const tokenizer_vocab *tokenizer_get_vocab(const tokenizer *t)
{
    return &t->v;
}

int tokenizer_find(const tokenizer *t, const char *piece)
{
    return piece_find(t, piece, strlen(piece));
}

bool tokenizer_ends(const tokenizer *t, int32_t id)
{
    if (id < 0) return false;
    for (int i = 0; i < t->n_end; i++)
        if (t->end[i] == id) return true;
    return id == t->v.eos;
}

static int open_with(tokenizer **t, const char *path, const char *dir, sq_error *err,
                     int (*read)(tokenizer **, const char *, const char *, sq_error *))
{
    *t = NULL;
    int rc = read(t, path, dir, err);
    if (rc) tokenizer_close(t);
    return rc;
}

int tokenizer_open_json(tokenizer **t, const char *path, sq_error *err)
{
    return open_with(t, path, NULL, err, tokenizer_read_json);
}

int tokenizer_open_spm(tokenizer **t, const char *path, sq_error *err)
{
    return open_with(t, path, NULL, err, tokenizer_read_spm);
}

int tokenizer_open_dir(tokenizer **t, const char *dir, sq_error *err)
{
    char path[4096];
    *t = NULL;
    TRY(path_join(path, sizeof path, dir, "tokenizer.json", err));
    if (file_exists(path)) return open_with(t, path, dir, err, tokenizer_read_json);
    TRY(path_join(path, sizeof path, dir, "tokenizer.model", err));
    if (file_exists(path)) return open_with(t, path, dir, err, tokenizer_read_spm);
    return error_set(err, SQ_E_IO, "%s: neither tokenizer.json nor tokenizer.model is there", dir);
}
