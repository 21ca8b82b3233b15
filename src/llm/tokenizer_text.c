/* Text to ids and back: added tokens first, then the stretches between them. */
#include "llm/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

/* Bytes of a valid UTF-8 character at text, 0 when it is none. */
static size_t char_size(const unsigned char *s, size_t left)
{
    if (s[0] < 0x80) return 1;
    size_t n = s[0] >> 5 == 6 ? 2 : s[0] >> 4 == 14 ? 3 : s[0] >> 3 == 30 ? 4 : 0;
    if (n == 0 || n > left) return 0;
    for (size_t i = 1; i < n; i++)
        if (s[i] >> 6 != 2) return 0;
    unsigned c = s[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++)
        c = c << 6 | (s[i] & 63u);
    static const unsigned least[] = {0, 0, 0x80, 0x800, 0x10000};
    return c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000) ? 0 : n;
}

/* Valid UTF-8 with U+FFFD for what is not; malloc'ed. */
static char *clean_text(const char *text, size_t size, size_t *n)
{
    if (size > SIZE_MAX / 4) return NULL;
    char *out = malloc(size * 3 + 1);
    *n = 0;
    for (size_t i = 0; out && i < size;) {
        size_t c = char_size((const unsigned char *)text + i, size - i);
        memcpy(out + *n, c ? text + i : "\xef\xbf\xbd", c ? c : 3);
        *n += c ? c : 3;
        i += c ? c : 1;
    }
    return out;
}

static const added_token *added_at(const tokenizer *t, const char *text, size_t left,
                                   unsigned flags)
{
    for (int i = 0; i < t->n_added; i++) {
        const added_token *a = &t->added[i];
        if (a->control && !(flags & TOKENIZE_SPECIAL)) continue;
        if (a->size <= left && memcmp(a->text, text, a->size) == 0) return a;
    }
    return NULL;
}

static void encode_stretch(const tokenizer *t, const char *text, size_t size, bool first,
                           id_list *out)
{
    if (size == 0) return;
    if (t->v.kind == TOKENIZER_SPM)
        spm_encode(t, text, size, first, out);
    else
        bpe_encode(t, text, size, out);
}

int tokenizer_encode(const tokenizer *t, const char *text, size_t size, unsigned flags,
                     int32_t **ids, int *n, sq_error *err)
{
    id_list out = {0};
    size_t len = 0, from = 0;
    *ids = NULL;
    *n = 0;
    char *clean = clean_text(text, size, &len);
    if (!clean) return error_set(err, SQ_E_NOMEM, "tokenizer: out of memory");
    if ((flags & TOKENIZE_BOS) && t->v.add_bos && t->v.bos >= 0) id_list_add(&out, t->v.bos);
    for (size_t at = 0; at < len;) {
        const added_token *a = t->n_added ? added_at(t, clean + at, len - at, flags) : NULL;
        if (!a) {
            at++;
            continue;
        }
        encode_stretch(t, clean + from, at - from, from == 0, &out);
        id_list_add(&out, a->id);
        from = at += a->size;
    }
    encode_stretch(t, clean + from, len - from, from == 0, &out);
    free(clean);
    if (out.failed) {
        free(out.id);
        return error_set(err, SQ_E_NOMEM, "tokenizer: out of memory");
    }
    if (!out.id) out.id = malloc(sizeof *out.id);
    if (!out.id) return error_set(err, SQ_E_NOMEM, "tokenizer: out of memory");
    *ids = out.id;
    *n = out.n;
    return SQ_OK;
}

/* ---- back to text ---- */

/* GPT-2's byte alphabet: printable Latin-1 stands for itself, the rest for U+0100 and up. */
static int byte_of_rune(unsigned c)
{
    if ((c >= 33 && c <= 126) || (c >= 161 && c <= 172) || (c >= 174 && c <= 255)) return (int)c;
    if (c < 256 || c > 323) return -1;
    c -= 256;
    if (c < 33) return (int)c;
    return c < 67 ? (int)(c + 94) : 173;
}

/* The bytes that id stands for, at most cap; control tokens stand for nothing. */
static int token_bytes(const tokenizer *t, int32_t id, unsigned char *out, int cap)
{
    if (id < 0 || id >= t->v.n_token || t->type[id] == TOKEN_CONTROL) return 0;
    const unsigned char *s = (const unsigned char *)t->text[id];
    size_t size = t->size[id];
    int n = 0;
    if (t->type[id] == TOKEN_BYTE) {
        for (int b = 0; b < 256; b++)
            if (t->byte_id[b] == id) out[n++] = (unsigned char)b;
        return n;
    }
    for (size_t i = 0; i < size && n + 4 < cap;) {
        size_t c = char_size(s + i, size - i);
        bool spm = t->v.kind == TOKENIZER_SPM, two = c == 2;
        int byte = c == 1 ? byte_of_rune(s[i])
                   : two  ? byte_of_rune((s[i] & 31u) << 6 | (s[i + 1] & 63u))
                          : -1;
        if (spm && c == 3 && memcmp(s + i, "\xe2\x96\x81", 3) == 0) {
            out[n++] = ' ';
        } else if (!spm && byte >= 0 && t->type[id] == TOKEN_NORMAL) {
            out[n++] = (unsigned char)byte;
        } else {
            memcpy(out + n, s + i, c ? c : 1);
            n += c ? (int)c : 1;
        }
        i += c ? c : 1;
    }
    return n;
}

void token_stream_init(token_stream *s, const tokenizer *t)
{
    *s = (token_stream){.t = t};
}

static int put_lost(char *out)
{
    memcpy(out, "\xef\xbf\xbd", 3);
    return 3;
}

/* Bytes that can still begin a character: 1..3 at the end of s, else 0. */
static int unfinished(const unsigned char *s, int n)
{
    for (int k = 1; k <= 3 && k <= n; k++) {
        unsigned char c = s[n - k];
        if (c >> 6 == 2) continue;
        int want = c >> 5 == 6 ? 2 : c >> 4 == 14 ? 3 : c >> 3 == 30 ? 4 : 1;
        return want > k ? k : 0;
    }
    return 0;
}

int token_stream_next(token_stream *s, int32_t id, char *out, int cap)
{
    unsigned char buf[160];
    int n = s->n_held, used = 0, at = 0;
    memcpy(buf, s->held, (size_t)n);
    n += token_bytes(s->t, id, buf + n, (int)sizeof buf - n);
    if (!s->started && n > 0) {
        s->started = true;
        if (s->t->strip_first && buf[0] == ' ') at = 1;
    }
    int keep = unfinished(buf + at, n - at);
    while (at < n - keep && used + 4 <= cap) {
        size_t c = char_size(buf + at, (size_t)(n - keep - at));
        if (c)
            memcpy(out + used, buf + at, c);
        used += c ? (int)c : put_lost(out + used);
        at += c ? (int)c : 1;
    }
    s->n_held = keep;
    memcpy(s->held, buf + n - keep, (size_t)keep);
    return used;
}

int token_stream_flush(token_stream *s, char *out, int cap)
{
    int used = 0;
    for (int i = 0; i < s->n_held && used + 3 <= cap; i++)
        used += put_lost(out + used);
    s->n_held = 0;
    return used;
}

int tokenizer_decode(const tokenizer *t, const int32_t *ids, int n, char **text, size_t *size,
                     sq_error *err)
{
    enum { PIECE = 512 };
    size_t cap = PIECE * 2, used = 0;
    char *out = malloc(cap);
    token_stream s;
    token_stream_init(&s, t);
    for (int i = 0; out && i <= n; i++) {
        if (cap - used <= PIECE) {
            char *grown = realloc(out, cap *= 2);
            if (!grown) free(out);
            out = grown;
            if (!out) break;
        }
        used += (size_t)(i < n ? token_stream_next(&s, ids[i], out + used, PIECE)
                               : token_stream_flush(&s, out + used, PIECE));
    }
    *text = out;
    *size = used;
    if (!out) return error_set(err, SQ_E_NOMEM, "tokenizer: out of memory");
    out[used] = 0;
    return SQ_OK;
}
