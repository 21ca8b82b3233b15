/* SentencePiece BPE: characters are joined pair by pair, best first; what is no piece in the end
 * falls back to bytes. The best pair has the lowest merge rank (tokenizer.json) or the highest
 * piece score (tokenizer.model, GGUF); ties go to the left. */
#include "llm/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

typedef struct symbol {
    const char *text;
    size_t size; /* 0: joined into its left neighbour */
    int prev, next;
    int32_t id; /* -1: no piece */
} symbol;

typedef struct pair {
    int left, right;
    size_t size; /* of both; a stale pair has another size */
    double cost; /* lower is better */
} pair;

typedef struct spm_run {
    const tokenizer *t;
    symbol *sym;
    pair *heap;
    int n_sym, n_heap;
} spm_run;

static bool before(const pair *a, const pair *b)
{
    return a->cost < b->cost || (a->cost == b->cost && a->left < b->left);
}

static void heap_push(spm_run *r, pair p)
{
    int i = r->n_heap++;
    while (i > 0 && before(&p, &r->heap[(i - 1) / 2])) {
        r->heap[i] = r->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    r->heap[i] = p;
}

static pair heap_pop(spm_run *r)
{
    pair top = r->heap[0], last = r->heap[--r->n_heap];
    int i = 0;
    for (;;) {
        int c = 2 * i + 1;
        if (c >= r->n_heap) break;
        if (c + 1 < r->n_heap && before(&r->heap[c + 1], &r->heap[c])) c++;
        if (!before(&r->heap[c], &last)) break;
        r->heap[i] = r->heap[c];
        i = c;
    }
    r->heap[i] = last;
    return top;
}

static void try_pair(spm_run *r, int left, int right)
{
    if (left < 0 || right < 0) return;
    const symbol *a = &r->sym[left], *b = &r->sym[right];
    pair p = {left, right, a->size + b->size, 0};
    if (r->t->merges.slot) {
        const merge_slot *m = merge_find(r->t, a->id, b->id);
        if (!m) return;
        p.cost = m->rank;
    } else {
        int32_t id = piece_find(r->t, a->text, p.size);
        if (id < 0 || (r->t->type[id] != TOKEN_NORMAL && r->t->type[id] != TOKEN_USER_DEFINED))
            return;
        p.cost = -(double)r->t->score[id];
    }
    heap_push(r, p);
}

static void split_symbols(spm_run *r, const char *text, size_t size)
{
    for (size_t at = 0; at < size;) {
        size_t n = utf8_size((const unsigned char *)text + at, size - at);
        int i = r->n_sym++;
        n += n == 0;
        r->sym[i] = (symbol){text + at, n, i - 1, i + 1, piece_find(r->t, text + at, n)};
        at += n;
    }
    if (r->n_sym) r->sym[r->n_sym - 1].next = -1;
}

static void join_pairs(spm_run *r)
{
    for (int i = 1; i < r->n_sym; i++)
        try_pair(r, i - 1, i);
    while (r->n_heap) {
        pair p = heap_pop(r);
        symbol *a = &r->sym[p.left], *b = &r->sym[p.right];
        if (!a->size || !b->size || a->next != p.right || a->size + b->size != p.size) continue;
        a->size = p.size;
        a->id = piece_find(r->t, a->text, a->size);
        a->next = b->next;
        b->size = 0;
        if (a->next >= 0) r->sym[a->next].prev = p.left;
        try_pair(r, a->prev, p.left);
        try_pair(r, p.left, a->next);
    }
}

static bool put_bytes(const tokenizer *t, const symbol *s, id_list *out)
{
    for (size_t i = 0; i < s->size; i++)
        if (t->byte_id[(unsigned char)s->text[i]] < 0) return false;
    for (size_t i = 0; i < s->size; i++)
        id_list_add(out, t->byte_id[(unsigned char)s->text[i]]);
    return true;
}

static void put_symbols(const spm_run *r, id_list *out)
{
    bool was_unk = false;
    for (int i = r->n_sym ? 0 : -1; i >= 0; i = r->sym[i].next) {
        const symbol *s = &r->sym[i];
        if (s->id >= 0)
            id_list_add(out, s->id);
        bool unk = s->id < 0 && !put_bytes(r->t, s, out);
        if (unk && r->t->model_unk >= 0 && (!was_unk || r->t->keep_unk))
            id_list_add(out, r->t->model_unk);
        was_unk = unk;
    }
}

void merge_word(const tokenizer *t, const char *text, size_t size, id_list *out)
{
    if (size > INT32_MAX / 4) {
        out->failed = true;
        return;
    }
    /* each join makes at most two new pairs */
    spm_run r = {.t = t, .sym = malloc((size + 1) * sizeof *r.sym),
                 .heap = malloc((3 * size + 1) * sizeof *r.heap)};
    if (r.sym && r.heap) {
        split_symbols(&r, text, size);
        join_pairs(&r);
        put_symbols(&r, out);
    } else {
        out->failed = true;
    }
    free(r.sym);
    free(r.heap);
}

/* ---- spaces ---- */

static const char mark[] = "\xe2\x96\x81";
enum { MARK = 3 };

static bool leads(const tokenizer *t, bool first)
{
    return t->prefix == SPACE_PREFIX_ALWAYS || (t->prefix == SPACE_PREFIX_FIRST && first);
}

/* " " becomes U+2581 in out[3 * size]; runs become one when trim is set. */
static size_t put_marks(const char *text, size_t size, bool trim, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < size; i++) {
        if (text[i] != ' ') {
            out[n++] = text[i];
        } else if (!trim || i == 0 || text[i - 1] != ' ') {
            memcpy(out + n, mark, MARK);
            n += MARK;
        }
    }
    return n;
}

char *spm_normalize(const tokenizer *t, const char *text, size_t size, bool first, size_t *n)
{
    if (size > SIZE_MAX / 4) return NULL;
    char *out = malloc(size * 3 + 4);
    if (!out) return NULL;
    *n = 0;
    while (t->trim_spaces && size && *text == ' ')
        text++, size--;
    if (size && leads(t, first)) {
        memcpy(out, mark, MARK);
        *n = MARK;
    }
    *n += put_marks(text, size, t->trim_spaces, out + *n);
    while (t->trim_spaces && *n >= MARK && memcmp(out + *n - MARK, mark, MARK) == 0)
        *n -= MARK;
    return out;
}

char *spm_mark(const char *text, size_t size, size_t *n)
{
    char *out = size < SIZE_MAX / 4 ? malloc(size * 3 + 1) : NULL;
    if (out) *n = put_marks(text, size, false, out);
    return out;
}

/* Metaspace cuts in front of every mark when it is asked to. */
static void encode_marked(const tokenizer *t, const char *text, size_t size, id_list *out)
{
    size_t from = 0;
    for (size_t i = 1; t->mark_split && i + MARK <= size; i++) {
        if (memcmp(text + i, mark, MARK) != 0) continue;
        merge_word(t, text + from, i - from, out);
        from = i;
    }
    merge_word(t, text + from, size - from, out);
}

void spm_encode(const tokenizer *t, const char *text, size_t size, bool first, id_list *out)
{
    if (t->mark != SPACE_MARK_METASPACE) {
        merge_word(t, text, size, out);
        return;
    }
    char *copy = size < SIZE_MAX / 4 ? malloc(size * 3 + 4) : NULL;
    if (!copy) {
        out->failed = true;
        return;
    }
    bool marked = *text == ' ' || (size >= MARK && memcmp(text, mark, MARK) == 0);
    size_t lead = leads(t, first) && !marked ? MARK : 0;
    memcpy(copy, mark, lead);
    size_t n = lead + put_marks(text, size, false, copy + lead);
    encode_marked(t, copy, n, out);
    free(copy);
}
