/* Text to ids: tokens matched in the raw text first, then normalising, then tokens matched in the
 * normalised text, then the model on the stretches between them. */
#include "llm/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* Valid UTF-8 with U+FFFD for what is not; malloc'ed. */
static char *clean_text(const char *text, size_t size, size_t *n)
{
    if (size > SIZE_MAX / 4) return NULL;
    char *out = malloc(size * 3 + 1);
    *n = 0;
    for (size_t i = 0; out && i < size;) {
        size_t c = utf8_size((const unsigned char *)text + i, size - i);
        memcpy(out + *n, c ? text + i : "\xef\xbf\xbd", c ? c : 3);
        *n += c ? c : 3;
        i += c ? c : 1;
    }
    return out;
}

/* ---- added tokens ---- */

typedef struct encode_run {
    const tokenizer *t;
    unsigned flags;
    id_list *out;
} encode_run;

/* The longest token at text that is looked for in raw or in normalised text. */
static const added_token *added_at(const tokenizer *t, const char *text, size_t left,
                                   bool normalized)
{
    if (!t->added_first[(unsigned char)*text]) return NULL;
    for (int i = 0; i < t->n_added; i++) {
        const added_token *a = &t->added[i];
        if (!(a->flags & (ADDED_NORMALIZED | ADDED_INNER)) == normalized) continue;
        if (a->size <= left && memcmp(a->text, text, a->size) == 0) return a;
    }
    return NULL;
}

static bool is_space(utf8proc_int32_t c)
{
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

/* A character of a word: letter, mark, digit, connector or joiner. */
static bool is_word(utf8proc_int32_t c)
{
    utf8proc_category_t k = utf8proc_category(c);
    return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_NL) ||
           k == UTF8PROC_CATEGORY_PC || c == 0x200c || c == 0x200d ||
           (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
           (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189);
}

/* The character that ends at at, or begins there; -1: none. */
static utf8proc_int32_t rune_before(const char *text, size_t at, size_t *size)
{
    utf8proc_int32_t c = -1;
    *size = 0;
    if (at == 0) return -1;
    do
        (*size)++;
    while (*size < at && (unsigned char)text[at - *size] >> 6 == 2);
    utf8proc_iterate((const utf8proc_uint8_t *)text + at - *size, (utf8proc_ssize_t)*size, &c);
    return c;
}

static utf8proc_int32_t rune_after(const char *text, size_t at, size_t end, size_t *size)
{
    utf8proc_int32_t c = -1;
    *size = 0;
    if (at == end) return -1;
    utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text + at,
                                          (utf8proc_ssize_t)(end - at < 4 ? end - at : 4), &c);
    *size = n > 0 ? (size_t)n : 1;
    return c;
}

static bool alone(const char *text, size_t from, size_t to, size_t end)
{
    size_t n;
    utf8proc_int32_t before = rune_before(text, from, &n), after = rune_after(text, to, end, &n);
    return (before < 0 || !is_word(before)) && (after < 0 || !is_word(after));
}

/* The span of a with the spaces that it swallows; those before low belong to another token. */
static void widen(const added_token *a, const char *text, size_t end, size_t low, size_t *from,
                  size_t *to)
{
    size_t n;
    while (a->flags & ADDED_LSTRIP && *from > low && is_space(rune_before(text, *from, &n)))
        *from -= n;
    while (a->flags & ADDED_RSTRIP && *to < end && is_space(rune_after(text, *to, end, &n)))
        *to += n;
}

/* ---- levels ---- */

static void encode_level(encode_run *r, const char *text, size_t size, bool first, bool normalized);

static void encode_stretch(encode_run *r, const char *text, size_t size, bool first,
                           bool normalized)
{
    const tokenizer *t = r->t;
    if (size == 0 || r->out->failed) return;
    if (normalized) {
        if (t->v.kind == TOKENIZER_SPM)
            spm_encode(t, text, size, first, r->out);
        else
            bpe_encode(t, text, size, r->out);
        return;
    }
    size_t n = size;
    char *norm = t->mark == SPACE_MARK_NORMALIZER ? spm_normalize(t, text, size, first, &n)
                 : t->nfc                         ? bpe_normalize(text, size, &n)
                                                  : NULL;
    if (!norm && (t->mark == SPACE_MARK_NORMALIZER || t->nfc))
        r->out->failed = true;
    else
        encode_level(r, norm ? norm : text, n, first, true);
    free(norm);
}

/* Tokens are searched from the left; a control token that is not wanted still covers its text, as
 * in the reference. */
static void encode_level(encode_run *r, const char *text, size_t size, bool first, bool normalized)
{
    size_t from = 0;
    for (size_t at = 0; at < size;) {
        const added_token *a = added_at(r->t, text + at, size - at, normalized);
        if (!a) {
            at++;
            continue;
        }
        size_t start = at, stop = at + a->size;
        at = stop;
        if (a->control && !(r->flags & TOKENIZE_SPECIAL)) continue;
        if (a->flags & ADDED_WORD && !alone(text, start, stop, size)) continue;
        widen(a, text, size, from, &start, &stop);
        encode_stretch(r, text + from, start - from, first && from == 0, normalized);
        id_list_add(r->out, a->id);
        from = at = stop;
    }
    encode_stretch(r, text + from, size - from, first && from == 0, normalized);
}

int tokenizer_encode(const tokenizer *t, const char *text, size_t size, unsigned flags,
                     int32_t **ids, int *n, sq_error *err)
{
    id_list out = {0};
    size_t len = 0;
    encode_run r = {t, flags, &out};
    *ids = NULL;
    *n = 0;
    char *clean = clean_text(text, size, &len);
    if (!clean) return error_set(err, SQ_E_NOMEM, "tokenizer: out of memory");
    if ((flags & TOKENIZE_BOS) && t->v.add_bos && t->v.bos >= 0) id_list_add(&out, t->v.bos);
    encode_level(&r, clean, len, true, false);
    free(clean);
    if (!out.failed && !out.id) out.id = malloc(sizeof *out.id);
    if (out.failed || !out.id) {
        free(out.id);
        return error_set(err, out.why ? SQ_E_LIMIT : SQ_E_NOMEM, "tokenizer: %s",
                         out.why ? out.why : "out of memory");
    }
    *ids = out.id;
    *n = out.n;
    return SQ_OK;
}
