/* Ids back to text, one at a time; the whole text is the stream's outputs in a row. */
#include "llm/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

/* A byte-level piece in bytes; one with a character outside the alphabet stands for itself. */
static int alphabet_bytes(const unsigned char *s, size_t size, unsigned char *out)
{
    int n = 0;
    for (size_t i = 0; i < size;) {
        size_t c = utf8_size(s + i, size - i);
        int byte = c == 1   ? byte_of_rune(s[i])
                   : c == 2 ? byte_of_rune((s[i] & 31u) << 6 | (s[i + 1] & 63u))
                            : -1;
        if (byte < 0) {
            memcpy(out, s, size);
            return (int)size;
        }
        out[n++] = (unsigned char)byte;
        i += c;
    }
    return n;
}

static int marked_bytes(const unsigned char *s, size_t size, unsigned char *out)
{
    int n = 0;
    for (size_t i = 0; i < size;) {
        bool mark = size - i >= 3 && memcmp(s + i, "\xe2\x96\x81", 3) == 0;
        out[n++] = mark ? ' ' : s[i];
        i += mark ? 3 : 1;
    }
    return n;
}

/* The bytes that id stands for; control tokens stand for nothing. tokenizer_finish has seen to it
 * that they fit. */
static int token_bytes(const tokenizer *t, int32_t id, unsigned char *out)
{
    if (id < 0 || id >= t->v.n_token) return 0;
    const unsigned char *s = (const unsigned char *)t->text[id];
    size_t size = t->size[id];
    switch (t->type[id]) {
    case TOKEN_CONTROL:
    case TOKEN_UNKNOWN: return 0;
    case TOKEN_BYTE:
        for (int b = 0; b < 256; b++)
            if (t->byte_id[b] == id) {
                out[0] = (unsigned char)b;
                return 1;
            }
        break; /* a GGUF file may call anything a byte */
    default: break;
    }
    if (t->v.kind == TOKENIZER_SPM) {
        /* an added token that is looked for with the prefix has taken a space away */
        bool lead = t->flag[id] & ADDED_NORMALIZED && t->mark == SPACE_MARK_NORMALIZER &&
                    t->prefix == SPACE_PREFIX_ALWAYS;
        out[0] = ' ';
        return lead + marked_bytes(s, size, out + lead);
    }
    if (t->type[id] == TOKEN_NORMAL) return alphabet_bytes(s, size, out);
    memcpy(out, s, size);
    return (int)size;
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

/* Bytes at s that begin a character without being one: they are one U+FFFD together where the
 * reference is byte-level; 0: s[0] begins none. *open: more bytes could still complete it. */
static size_t partial_size(const unsigned char *s, size_t left, bool *open)
{
    unsigned char c = s[0];
    size_t want = c >= 0xc2 && c <= 0xdf ? 2 : c >> 4 == 14 ? 3 : c >= 0xf0 && c <= 0xf4 ? 4 : 0;
    unsigned char low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    unsigned char high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    size_t n = 1;
    *open = false;
    if (!want) return 0;
    if (n < left && (s[n] < low || s[n] > high)) return 1;
    while (n < left && n < want && s[n] >> 6 == 2)
        n++;
    *open = n == left && n < want;
    return n;
}

/* Bytes that one U+FFFD replaces: SentencePiece has one for each byte. */
static size_t lost_size(const tokenizer *t, const unsigned char *s, size_t left)
{
    bool open;
    size_t n = t->v.kind == TOKENIZER_BYTE_BPE ? partial_size(s, left, &open) : 1;
    return n ? n : 1;
}

int token_stream_next(token_stream *s, int32_t id, char *out, int cap)
{
    unsigned char buf[512];
    size_t n = (size_t)s->n_held, at = 0;
    int used = 0;
    memcpy(buf, s->held, n);
    n += (size_t)token_bytes(s->t, id, buf + n);
    if (!s->started && n > 0) {
        at = s->t->strip_first && buf[0] == ' ';
        s->started = !s->t->trim_spaces || at < n; /* trimmed: the next piece's space goes too */
    }
    while (at < n && used + 4 <= cap) {
        bool open = false;
        size_t c = utf8_size(buf + at, n - at);
        if (!c && partial_size(buf + at, n - at, &open) && open) break;
        if (c)
            memcpy(out + used, buf + at, c);
        used += c ? (int)c : put_lost(out + used);
        at += c ? c : lost_size(s->t, buf + at, n - at);
    }
    s->n_held = n - at <= 3 ? (int)(n - at) : 3;
    memcpy(s->held, buf + at, (size_t)s->n_held);
    return used;
}

int token_stream_flush(token_stream *s, char *out, int cap)
{
    int used = 0;
    for (int i = 0; i < s->n_held && used + 3 <= cap; used += put_lost(out + used))
        i += (int)lost_size(s->t, s->held + i, (size_t)(s->n_held - i));
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
