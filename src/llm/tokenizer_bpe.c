/* Byte-level BPE (GPT-2, Qwen2, Llama 3): a regular expression cuts the text into words, the bytes
 * of each word are written in GPT-2's alphabet and joined by merge rank. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "llm/tokenizer_impl.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { PATTERN_MAX = 4096, MATCH_LIMIT = 20000000, HEAP_LIMIT_KIB = 256 << 10 };

static const struct {
    const char *name, *pattern;
    bool nfc, ignore_merges;
} known[] = {
    {"gpt-2",
     "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
     false, false},
    {"qwen2",
     "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
     "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     true, false},
    {"llama-bpe",
     "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
     "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     false, true},
};

/* ---- the pattern ---- */

/* The reference matches with Oniguruma: its \s is White_Space (PCRE2's has U+180E too), its tables
 * are Unicode 16: what PCRE2 10.42 (Unicode 14) lacks of \p{L} and \p{N} is written out. */
#define SPACES                                                                                     \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"    \
    "\\x{205f}\\x{3000}"
#define LETTERS                                                                                    \
    "\\p{L}\\x{1c89}\\x{1c8a}\\x{a7cb}-\\x{a7cd}\\x{a7da}-\\x{a7dc}\\x{105c0}-\\x{105f3}"          \
    "\\x{10d4a}-\\x{10d65}\\x{10d6f}-\\x{10d85}\\x{10ec2}-\\x{10ec4}\\x{1123f}\\x{11240}"          \
    "\\x{11380}-\\x{11389}\\x{1138b}\\x{1138e}\\x{11390}-\\x{113b5}\\x{113b7}\\x{113d1}\\x{113d3}" \
    "\\x{11bc0}-\\x{11be0}\\x{11f02}\\x{11f04}-\\x{11f10}\\x{11f12}-\\x{11f33}\\x{1342f}"          \
    "\\x{13441}-\\x{13446}\\x{13460}-\\x{143fa}\\x{16100}-\\x{1611d}\\x{16d40}-\\x{16d6c}"         \
    "\\x{18cff}\\x{1b132}\\x{1b155}\\x{1df25}-\\x{1df2a}\\x{1e030}-\\x{1e06d}"                     \
    "\\x{1e4d0}-\\x{1e4eb}\\x{1e5d0}-\\x{1e5ed}\\x{1e5f0}\\x{2b739}\\x{2ebf0}-\\x{2ee5d}"          \
    "\\x{31350}-\\x{323af}"
#define NUMBERS                                                                                    \
    "\\p{N}\\x{10d40}-\\x{10d49}\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}\\x{11f50}-\\x{11f59}"   \
    "\\x{16130}-\\x{16139}\\x{16d70}-\\x{16d79}\\x{1ccf0}-\\x{1ccf9}\\x{1d2c0}-\\x{1d2d3}"         \
    "\\x{1e4f0}-\\x{1e4f9}\\x{1e5f1}-\\x{1e5fa}"

static const struct {
    const char *from, *body;
    bool negated;
} classes[] = {
    {"\\s", SPACES, false}, {"\\S", SPACES, true}, {"\\p{L}", LETTERS, false},
    {"\\p{N}", NUMBERS, false},
};

typedef struct pattern_text {
    char text[PATTERN_MAX * 4];
    size_t n;
} pattern_text;

static bool put(pattern_text *p, const char *text, size_t n)
{
    if (p->n + n + 1 > sizeof p->text) return false;
    memcpy(p->text + p->n, text, n);
    p->n += n;
    p->text[p->n] = 0;
    return true;
}

/* One class escape at *at; false: none, or one that cannot be rewritten where it stands. */
static bool put_class(pattern_text *p, const char **at, bool in_set)
{
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        size_t n = strlen(classes[i].from);
        if (strncmp(*at, classes[i].from, n) != 0) continue;
        if (in_set && classes[i].negated) return false;
        *at += n;
        const char *open = in_set ? "" : classes[i].negated ? "[^" : "[";
        return put(p, open, strlen(open)) && put(p, classes[i].body, strlen(classes[i].body)) &&
               put(p, "]", !in_set);
    }
    /* only escaped punctuation, \r \n \t and properties mean the same to both engines */
    char c = (*at)[1];
    bool same = c && (strchr("rnt", c) || strchr("'\"\\/.,;:!?-+*^$|()[]{}<>=#&@~`%_ ", c));
    if (!same && strncmp(*at, "\\p{", 3) != 0) return false;
    bool ok = put(p, *at, 2);
    *at += 2;
    return ok;
}

/* Nested sets mean something else to PCRE2, so they are refused. */
static bool rewrite(pattern_text *p, const char *at)
{
    bool in_set = false;
    while (*at) {
        if (*at == '\\') {
            if (!put_class(p, &at, in_set)) return false;
            continue;
        }
        if (in_set && (*at == '[' || strncmp(at, "&&", 2) == 0)) return false;
        size_t n = 1;
        if (!in_set && *at == '[') {
            in_set = true;
            n += at[1] == '^';
            n += at[n] == ']';
        } else if (in_set && *at == ']') {
            in_set = false;
        }
        if (!put(p, at, n)) return false;
        at += n;
    }
    return !in_set;
}

int bpe_set_pattern(tokenizer *t, const char *pattern, const char *name, sq_error *err)
{
    int code = 0;
    size_t at = 0;
    pattern_text *p = calloc(1, sizeof *p);
    if (!p) return error_set(err, SQ_E_NOMEM, "%s: out of memory", name);
    /* "(*" begins PCRE2's own settings */
    bool ok = strlen(pattern) < PATTERN_MAX && strncmp(pattern, "(*", 2) != 0 &&
              rewrite(p, pattern);
    pcre2_code *split = ok ? pcre2_compile((PCRE2_SPTR)p->text, p->n, PCRE2_UTF | PCRE2_UCP, &code,
                                           &at, NULL)
                           : NULL;
    free(p);
    if (!split)
        return error_set(err, SQ_E_UNSUPPORTED, "%s: the splitting pattern \"%.60s\" is not "
                                                "supported",
                         name, pattern);
    bpe_close(t);
    t->split = split;
    return SQ_OK;
}

void bpe_close(tokenizer *t)
{
    pcre2_code_free(t->split);
    t->split = NULL;
}

int bpe_set_pre(tokenizer *t, const char *pre, const char *name, sq_error *err)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (!pre || strcmp(pre, known[i].name) != 0) continue;
        t->v.pre = known[i].name;
        t->nfc = known[i].nfc;
        t->ignore_merges = known[i].ignore_merges;
        return bpe_set_pattern(t, known[i].pattern, name, err);
    }
    return error_set(err, SQ_E_UNSUPPORTED,
                     "%s: splitting \"%.40s\" is not supported (gpt-2, qwen2 and llama-bpe are)",
                     name, pre ? pre : "");
}

void bpe_name_pre(tokenizer *t, const char *pattern)
{
    t->v.pre = "unknown";
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(pattern, known[i].pattern) == 0 && t->nfc == known[i].nfc &&
            t->ignore_merges == known[i].ignore_merges && t->word_space == WORD_SPACE_NONE)
            t->v.pre = known[i].name;
}

/* ---- bytes and runes ---- */

int byte_of_rune(unsigned c)
{
    if ((c >= 33 && c <= 126) || (c >= 161 && c <= 172) || (c >= 174 && c <= 255)) return (int)c;
    if (c < 256 || c > 323) return -1;
    c -= 256;
    if (c < 33) return (int)c;
    return c < 67 ? (int)(c + 94) : 173;
}

static unsigned rune_of_byte(unsigned b)
{
    if ((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174) return b;
    return 256 + (b < 33 ? b : b < 161 ? b - 94 : 67);
}

static size_t put_rune(char *out, unsigned c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    out[0] = (char)(0xc0 | c >> 6);
    out[1] = (char)(0x80 | (c & 63));
    return 2;
}

/* The reference composes with the tables of Unicode 9: marks that came later stay where they are
 * and join nothing. */
static bool is_later_mark(utf8proc_int32_t c)
{
    static const int32_t span[][2] = {
        {0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},
        {0xc3c, 0xc3c},     {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},
        {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},   {0xa82c, 0xa82c},   {0x10d24, 0x10d27},
        {0x10eab, 0x10eac}, {0x10efd, 0x10eff}, {0x10f46, 0x10f50}, {0x10f82, 0x10f85},
        {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e}, {0x11839, 0x1183a},
        {0x11930, 0x11930}, {0x1193d, 0x1193e}, {0x11943, 0x11943}, {0x119e0, 0x119e0},
        {0x11a34, 0x11a34}, {0x11a47, 0x11a47}, {0x11a99, 0x11a99}, {0x11d42, 0x11d42},
        {0x11d44, 0x11d45}, {0x11d97, 0x11d97}, {0x11f41, 0x11f42}, {0x16ff0, 0x16ff1},
        {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef},
        {0x1e4ec, 0x1e4ef},
    };
    for (size_t i = 0; i < sizeof span / sizeof *span && c >= span[i][0]; i++)
        if (c <= span[i][1]) return true;
    return false;
}

/* Appends the composed form of text[size], which is never longer than 3 times the text. */
static bool compose(const char *text, size_t size, char *out, size_t *n)
{
    utf8proc_uint8_t *part = NULL;
    if (size == 0) return true;
    utf8proc_ssize_t len = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)size,
                                        &part, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    bool ok = len >= 0 && (size_t)len <= 3 * size;
    if (ok) {
        memcpy(out + *n, part, (size_t)len);
        *n += (size_t)len;
    }
    free(part);
    return ok;
}

char *bpe_normalize(const char *text, size_t size, size_t *n)
{
    size_t from = 0, c;
    bool ok = size <= INT32_MAX / 8;
    char *out = ok ? malloc(3 * size + 1) : NULL;
    *n = 0;
    for (size_t at = 0; out && ok && at < size; at += c) {
        utf8proc_int32_t rune = -1;
        c = utf8_size((const unsigned char *)text + at, size - at);
        c += c == 0;
        if (c < 2) continue;
        utf8proc_iterate((const utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)c, &rune);
        if (!is_later_mark(rune)) continue;
        ok = compose(text + from, at - from, out, n);
        memcpy(out + *n, text + at, c);
        *n += c;
        from = at + c;
    }
    if (out && ok && compose(text + from, size - from, out, n)) return out;
    free(out);
    return NULL;
}

/* ---- encoding ---- */

/* alphabet[size * 2 + 2] is room for the word in GPT-2's alphabet. */
static void encode_word(const tokenizer *t, const char *text, size_t size, char *alphabet,
                        id_list *out)
{
    size_t n = 0;
    if (t->word_space == WORD_SPACE_WORD && text[0] != ' ')
        n = put_rune(alphabet, rune_of_byte(' '));
    for (size_t i = 0; i < size; i++)
        n += put_rune(alphabet + n, rune_of_byte((unsigned char)text[i]));
    int32_t whole = t->ignore_merges ? piece_find(t, alphabet, n) : -1;
    if (whole >= 0)
        id_list_add(out, whole);
    else
        merge_word(t, alphabet, n, out);
}

static void encode_words(const tokenizer *t, const char *text, size_t size, char *alphabet,
                         pcre2_match_data *match, pcre2_match_context *limits, id_list *out)
{
    /* the text is valid UTF-8; checking it at every match would take quadratic time */
    const uint32_t options = PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY;
    for (size_t at = 0; at < size && !out->failed;) {
        int rc = PCRE2_ERROR_NOMATCH;
        if (t->split)
            rc = pcre2_match(t->split, (PCRE2_SPTR)text, size, at, options, match, limits);
        if (rc < 0 && rc != PCRE2_ERROR_NOMATCH) {
            out->failed = true;
            out->why = "the text is too long for the splitting pattern";
            return;
        }
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(match);
        size_t from = rc < 0 ? size : span[0], to = rc < 0 ? size : span[1];
        if (from > at) encode_word(t, text + at, from - at, alphabet, out);
        if (to > from) encode_word(t, text + from, to - from, alphabet, out);
        at = to;
    }
}

void bpe_encode(const tokenizer *t, const char *text, size_t size, id_list *out)
{
    bool lead = t->word_space == WORD_SPACE_STRETCH && text[0] != ' ';
    if (size > INT32_MAX / 8) {
        out->failed = true;
        return;
    }
    char *copy = lead ? malloc(size + 1) : NULL, *alphabet = malloc(size * 2 + 8);
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    if ((lead && !copy) || !alphabet || !match || !limits) {
        out->failed = true;
    } else {
        if (lead) {
            copy[0] = ' ';
            memcpy(copy + 1, text, size);
            text = copy;
            size++;
        }
        pcre2_set_match_limit(limits, MATCH_LIMIT);
        pcre2_set_heap_limit(limits, HEAP_LIMIT_KIB);
        encode_words(t, text, size, alphabet, match, limits, out);
    }
    pcre2_match_context_free(limits);
    pcre2_match_data_free(match);
    free(alphabet);
    free(copy);
}
