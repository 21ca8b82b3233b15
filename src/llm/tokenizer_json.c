/* tokenizer.json of the `tokenizers` library: BPE models, with byte fallback (LLaMA) or over bytes
 * (GPT-2, Qwen2, Llama 3). */
#include "core/json.h"
#include "llm/tokenizer_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MARK "\xe2\x96\x81" /* U+2581 */

typedef struct reader {
    tokenizer *t;
    const char *path;
    sq_error *err;
    const char *pattern;         /* of a Split */
    const char *before, *behind; /* special tokens around a text */
    bool templated;
} reader;

static const char *text_of(const cJSON *object, const char *key)
{
    const cJSON *j = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsString(j) ? j->valuestring : "";
}

static bool true_of(const cJSON *object, const char *key)
{
    return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(object, key));
}

static int unsupported(const reader *r, const char *part, const char *type)
{
    return error_set(r->err, SQ_E_UNSUPPORTED, "%s: %s: \"%.40s\" is not supported", r->path, part,
                     type);
}

/* Calls fn for a component or for every member of a Sequence of them. */
typedef int (*component_fn)(reader *r, const cJSON *c);
static int each_component(reader *r, const cJSON *c, const char *list, component_fn fn)
{
    if (!c) return SQ_OK;
    if (strcmp(text_of(c, "type"), "Sequence") != 0) return fn(r, c);
    const cJSON *items = cJSON_GetObjectItemCaseSensitive(c, list);
    for (const cJSON *i = items ? items->child : NULL; i; i = i->next)
        TRY(fn(r, i));
    return SQ_OK;
}

/* {"pattern": {"String": from}, "content": to} */
static bool replaces(const cJSON *c, const char *from, const char *to)
{
    const cJSON *pattern = cJSON_GetObjectItemCaseSensitive(c, "pattern");
    return strcmp(text_of(pattern, "String"), from) == 0 && strcmp(text_of(c, "content"), to) == 0;
}

static int read_normalizer(reader *r, const cJSON *c)
{
    tokenizer *t = r->t;
    const char *type = text_of(c, "type");
    if (strcmp(type, "NFC") == 0)
        t->nfc = true;
    else if (strcmp(type, "Prepend") == 0 && strcmp(text_of(c, "prepend"), MARK) == 0)
        t->prefix = SPACE_PREFIX_ALWAYS;
    else if (strcmp(type, "Replace") == 0 && replaces(c, " ", MARK))
        t->mark = SPACE_MARK_NORMALIZER;
    else
        return unsupported(r, "normalizer", type);
    return SQ_OK;
}

static int read_metaspace(reader *r, const cJSON *c)
{
    tokenizer *t = r->t;
    const char *scheme = text_of(c, "prepend_scheme");
    const cJSON *old = cJSON_GetObjectItemCaseSensitive(c, "add_prefix_space");
    bool plain = *scheme == 0 && cJSON_IsFalse(old);
    if (strcmp(text_of(c, "replacement"), MARK) != 0 || t->mark != SPACE_MARK_NONE)
        return unsupported(r, "pre_tokenizer", "Metaspace with another replacement");
    t->mark = SPACE_MARK_METASPACE;
    t->mark_split = !cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(c, "split"));
    t->prefix = strcmp(scheme, "first") == 0              ? SPACE_PREFIX_FIRST
                : strcmp(scheme, "never") == 0 || plain ? SPACE_PREFIX_NEVER
                                                        : SPACE_PREFIX_ALWAYS;
    return SQ_OK;
}

static int read_byte_level(reader *r, const cJSON *c)
{
    tokenizer *t = r->t;
    bool regex = !cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(c, "use_regex"));
    if (regex && r->pattern)
        return unsupported(r, "pre_tokenizer", "Split before ByteLevel with use_regex");
    t->v.kind = TOKENIZER_BYTE_BPE;
    if (!cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(c, "add_prefix_space")))
        t->word_space = r->pattern ? WORD_SPACE_WORD : WORD_SPACE_STRETCH;
    if (!regex) return SQ_OK;
    bool nfc = t->nfc, whole = t->ignore_merges;
    TRY(bpe_set_pre(t, "gpt-2", r->path, r->err));
    t->nfc = nfc;
    t->ignore_merges = whole;
    if (nfc || whole || t->word_space != WORD_SPACE_NONE) t->v.pre = "unknown";
    return SQ_OK;
}

static int read_pre_tokenizer(reader *r, const cJSON *c)
{
    const char *type = text_of(c, "type");
    if (strcmp(type, "Metaspace") == 0) return read_metaspace(r, c);
    if (strcmp(type, "ByteLevel") == 0) return read_byte_level(r, c);
    const char *regex = text_of(cJSON_GetObjectItemCaseSensitive(c, "pattern"), "Regex");
    if (strcmp(type, "Split") != 0 || !*regex || r->pattern || true_of(c, "invert") ||
        strcmp(text_of(c, "behavior"), "Isolated") != 0)
        return unsupported(r, "pre_tokenizer", type);
    TRY(bpe_set_pattern(r->t, regex, r->path, r->err));
    r->pattern = regex;
    return SQ_OK;
}

static int read_decoder(reader *r, const cJSON *c)
{
    const char *type = text_of(c, "type");
    if (strcmp(type, "Strip") == 0 || strcmp(type, "Metaspace") == 0)
        r->t->strip_first = true;
    else if (strcmp(type, "ByteFallback") && strcmp(type, "Fuse") && strcmp(type, "ByteLevel") &&
             !(strcmp(type, "Replace") == 0 && replaces(c, MARK, " ")))
        return unsupported(r, "decoder", type);
    return SQ_OK;
}

/* TemplateProcessing's `single`: one special token in front of the text, one behind. */
static int read_post_processor(reader *r, const cJSON *c)
{
    const char *type = text_of(c, "type");
    if (strcmp(type, "ByteLevel") == 0) return SQ_OK;
    if (strcmp(type, "TemplateProcessing") != 0) return unsupported(r, "post_processor", type);
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(c, "single");
    bool seen = false;
    r->templated = true;
    for (const cJSON *e = list ? list->child : NULL; e; e = e->next) {
        const cJSON *special = cJSON_GetObjectItemCaseSensitive(e, "SpecialToken");
        const char **slot = seen ? &r->behind : &r->before;
        if (!special) {
            seen = true;
            continue;
        }
        if (*slot) return unsupported(r, "post_processor", "two special tokens in a row");
        *slot = text_of(special, "id");
    }
    return SQ_OK;
}

/* Ids run over the vocabulary and the added tokens; *n gets one past the largest. */
static int count_ids(const cJSON *list, bool added, const char *path, int *n, sq_error *err)
{
    for (const cJSON *e = list ? list->child : NULL; e; e = e->next) {
        const cJSON *id = added ? cJSON_GetObjectItemCaseSensitive(e, "id") : e;
        if (!cJSON_IsNumber(id) || !(id->valuedouble >= 0 && id->valuedouble < 1 << 22))
            return error_set(err, SQ_E_FORMAT, "%s: token \"%.40s\": expected an id", path,
                             e->string ? e->string : text_of(e, "content"));
        if (id->valueint >= *n) *n = id->valueint + 1;
    }
    return SQ_OK;
}

static int read_added(tokenizer *t, const cJSON *list, sq_error *err)
{
    for (const cJSON *e = list ? list->child : NULL; e; e = e->next) {
        const char *text = text_of(e, "content");
        int id = cJSON_GetObjectItemCaseSensitive(e, "id")->valueint;
        TRY(tokenizer_set(t, id, text, strlen(text), 0,
                          true_of(e, "special") ? TOKEN_CONTROL : TOKEN_USER_DEFINED, err));
        t->flag[id] = (uint8_t)((true_of(e, "lstrip") ? ADDED_LSTRIP : 0) |
                                (true_of(e, "rstrip") ? ADDED_RSTRIP : 0) |
                                (true_of(e, "single_word") ? ADDED_WORD : 0) |
                                (true_of(e, "normalized") ? ADDED_NORMALIZED : 0));
    }
    return SQ_OK;
}

static int read_merges(tokenizer *t, const cJSON *list, const char *path, sq_error *err)
{
    int n = 0;
    t->merge_text = arena_calloc(&t->mem, (size_t)cJSON_GetArraySize(list) + 1,
                                 sizeof *t->merge_text);
    if (!t->merge_text) return error_set(err, SQ_E_NOMEM, "%s: out of memory", path);
    for (const cJSON *e = list ? list->child : NULL; e; e = e->next, n++) {
        char line[1024];
        const cJSON *a = cJSON_IsArray(e) ? e->child : NULL, *b = a ? a->next : NULL;
        bool pair = cJSON_IsString(a) && cJSON_IsString(b) && !b->next;
        int len = -1;
        if (pair)
            len = snprintf(line, sizeof line, "%s %s", a->valuestring, b->valuestring);
        else if (cJSON_IsString(e))
            len = snprintf(line, sizeof line, "%s", e->valuestring);
        if (len < 0 || (size_t)len >= sizeof line)
            return error_set(err, SQ_E_FORMAT, "%s: model.merges: entry %d is no pair", path, n);
        t->merge_text[n] = arena_strndup(&t->mem, line, (size_t)len);
        if (!t->merge_text[n]) return error_set(err, SQ_E_NOMEM, "%s: out of memory", path);
    }
    return tokenizer_set_merges(t, n, path, err);
}

static int first_of(const tokenizer *t, const char *const *names)
{
    int id = -1;
    for (; *names && id < 0; names++)
        id = tokenizer_find(t, *names);
    return id;
}

/* Usual names; the files beside tokenizer.json may say something else. */
static void find_specials(const reader *r)
{
    static const char *const bos[] = {"<s>", "<|begin_of_text|>", NULL};
    static const char *const eos[] = {"</s>", "<|end_of_text|>", "<|endoftext|>", NULL};
    static const char *const pad[] = {"<pad>", NULL};
    tokenizer *t = r->t;
    t->v.bos = r->before ? tokenizer_find(t, r->before) : first_of(t, bos);
    t->v.eos = r->behind ? tokenizer_find(t, r->behind) : first_of(t, eos);
    t->v.pad = first_of(t, pad);
    t->v.add_bos = r->templated ? r->before && t->v.bos >= 0
                                : t->v.kind == TOKENIZER_SPM && t->v.bos >= 0;
    t->v.add_eos = r->behind && t->v.eos >= 0;
}

static int read_model(reader *r, const json_doc *doc)
{
    const char *unk = "", *prefix = "", *suffix = "";
    bool fuse = false, fallback = false;
    tokenizer *t = r->t;
    TRY(json_string(doc, "model.unk_token", &unk, r->err));
    TRY(json_string(doc, "model.continuing_subword_prefix", &prefix, r->err));
    TRY(json_string(doc, "model.end_of_word_suffix", &suffix, r->err));
    TRY(json_bool(doc, "model.fuse_unk", &fuse, r->err));
    TRY(json_bool(doc, "model.byte_fallback", &fallback, r->err));
    TRY(json_bool(doc, "model.ignore_merges", &t->ignore_merges, r->err));
    if (*prefix || *suffix)
        return unsupported(r, *prefix ? "model.continuing_subword_prefix"
                                      : "model.end_of_word_suffix",
                           *prefix ? prefix : suffix);
    t->keep_unk = !fuse;
    t->no_fallback = !fallback;
    for (int i = 0; *unk && i < t->v.n_token && t->v.unk < 0; i++)
        if (t->text[i] && strcmp(t->text[i], unk) == 0) t->v.unk = i;
    return SQ_OK;
}

static int read_parts(reader *r, const json_doc *doc)
{
    tokenizer *t = r->t;
    TRY(each_component(r, json_find(doc, "normalizer"), "normalizers", read_normalizer));
    TRY(each_component(r, json_find(doc, "pre_tokenizer"), "pretokenizers", read_pre_tokenizer));
    TRY(each_component(r, json_find(doc, "decoder"), "decoders", read_decoder));
    TRY(each_component(r, json_find(doc, "post_processor"), "processors", read_post_processor));
    bool bytes = t->v.kind == TOKENIZER_BYTE_BPE;
    if (bytes ? t->mark != SPACE_MARK_NONE : t->nfc || r->pattern)
        return unsupported(r, "pre_tokenizer", "a mixture of byte-level and SentencePiece");
    if (bytes && !t->v.pre) bpe_name_pre(t, r->pattern ? r->pattern : "");
    if (!bytes) t->v.pre = "default";
    t->v.add_space_prefix = t->prefix != SPACE_PREFIX_NEVER;
    t->v.space_first_only = t->prefix == SPACE_PREFIX_FIRST;
    return SQ_OK;
}

static int read_all(tokenizer **out, const json_doc *doc, const char *dir, sq_error *err)
{
    const cJSON *vocab = json_find(doc, "model.vocab"), *added = json_find(doc, "added_tokens");
    const char *type = "BPE";
    int n = 0;
    TRY(json_string(doc, "model.type", &type, err));
    if (strcmp(type, "BPE") != 0 || !cJSON_IsObject(vocab))
        return error_set(err, SQ_E_UNSUPPORTED, "%s: model: expected a BPE vocabulary, found %s",
                         doc->path, type);
    TRY(count_ids(vocab, false, doc->path, &n, err));
    TRY(count_ids(added, true, doc->path, &n, err));
    if (n == 0) return error_set(err, SQ_E_FORMAT, "%s: model.vocab: is empty", doc->path);
    TRY(tokenizer_alloc(out, n, err));
    reader r = {.t = *out, .path = doc->path, .err = err};
    for (const cJSON *e = vocab->child; e; e = e->next)
        TRY(tokenizer_set(r.t, e->valueint, e->string, strlen(e->string), 0, TOKEN_NORMAL, err));
    TRY(read_added(r.t, added, err));
    TRY(read_model(&r, doc));
    TRY(read_parts(&r, doc));
    if (dir) TRY(tokenizer_config_tokens(r.t, dir, err));
    if (r.t->v.unk >= 0 && r.t->type[r.t->v.unk] == TOKEN_CONTROL)
        r.t->type[r.t->v.unk] = TOKEN_UNKNOWN;
    TRY(tokenizer_finish(r.t, doc->path, err));
    TRY(read_merges(r.t, json_find(doc, "model.merges"), doc->path, err));
    find_specials(&r);
    return dir ? tokenizer_config_specials(r.t, dir, err) : SQ_OK;
}

int tokenizer_read_json(tokenizer **t, const char *path, const char *dir, sq_error *err)
{
    json_doc doc;
    *t = NULL;
    TRY(json_open(&doc, path, 0, err));
    int rc = read_all(t, &doc, dir, err);
    json_close(&doc);
    return rc;
}
