/* tokenizer.json of the `tokenizers` library: BPE models, with byte fallback (LLaMA) or over bytes
 * (GPT-2, Qwen2, Llama 3). */
#include "core/json.h"
#include "llm/tokenizer_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *text_of(const cJSON *object, const char *key)
{
    const cJSON *j = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsString(j) ? j->valuestring : "";
}

static bool true_of(const cJSON *object, const char *key)
{
    return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(object, key));
}

/* Calls fn for a component or for every member of a Sequence of them. */
typedef void (*component_fn)(tokenizer *t, const cJSON *c);
static void each_component(tokenizer *t, const cJSON *c, const char *list, component_fn fn)
{
    const cJSON *items = cJSON_GetObjectItemCaseSensitive(c, list);
    if (!cJSON_IsArray(items)) {
        if (cJSON_IsObject(c)) fn(t, c);
        return;
    }
    for (const cJSON *i = items->child; i; i = i->next)
        fn(t, i);
}

static void read_normalizer(tokenizer *t, const cJSON *c)
{
    if (strcmp(text_of(c, "type"), "Prepend") == 0) t->prefix = SPACE_PREFIX_ALWAYS;
}

static void read_pre_tokenizer(tokenizer *t, const cJSON *c)
{
    const char *type = text_of(c, "type"), *scheme = text_of(c, "prepend_scheme");
    if (strcmp(type, "ByteLevel") == 0) t->v.kind = TOKENIZER_BYTE_BPE;
    if (strcmp(type, "Metaspace") != 0) return;
    t->prefix = strcmp(scheme, "first") == 0   ? SPACE_PREFIX_FIRST
                : strcmp(scheme, "never") == 0 ? SPACE_PREFIX_NEVER
                                               : SPACE_PREFIX_ALWAYS;
    if (*scheme == 0 && cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(c, "add_prefix_space")))
        t->prefix = SPACE_PREFIX_NEVER;
}

static void read_decoder(tokenizer *t, const cJSON *c)
{
    const char *type = text_of(c, "type");
    if (strcmp(type, "Strip") == 0 || strcmp(type, "Metaspace") == 0) t->strip_first = true;
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
        int len = pair                ? snprintf(line, sizeof line, "%s %s", a->valuestring, b->valuestring)
                  : cJSON_IsString(e) ? snprintf(line, sizeof line, "%s", e->valuestring)
                                      : -1;
        if (len < 0 || (size_t)len >= sizeof line)
            return error_set(err, SQ_E_FORMAT, "%s: model.merges: entry %d is no pair", path, n);
        t->merge_text[n] = arena_strndup(&t->mem, line, (size_t)len);
        if (!t->merge_text[n]) return error_set(err, SQ_E_NOMEM, "%s: out of memory", path);
    }
    return tokenizer_set_merges(t, n, err);
}

static void find_specials(tokenizer *t, const json_doc *doc)
{
    const char *unk = "<unk>";
    json_string(doc, "model.unk_token", &unk, NULL);
    t->v.unk = tokenizer_find(t, unk);
    t->v.bos = tokenizer_find(t, "<s>");
    t->v.eos = tokenizer_find(t, "</s>");
    t->v.pad = tokenizer_find(t, "<pad>");
    t->v.add_bos = t->v.bos >= 0;
}

static int read_all(tokenizer **out, const json_doc *doc, sq_error *err)
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
    TRY(tokenizer_alloc(out, n, err));
    tokenizer *t = *out;
    t->prefix = SPACE_PREFIX_NEVER;
    each_component(t, json_find(doc, "normalizer"), "normalizers", read_normalizer);
    each_component(t, json_find(doc, "pre_tokenizer"), "pretokenizers", read_pre_tokenizer);
    each_component(t, json_find(doc, "decoder"), "decoders", read_decoder);
    for (const cJSON *e = vocab->child; e; e = e->next)
        TRY(tokenizer_set(t, e->valueint, e->string, strlen(e->string), 0, TOKEN_NORMAL, err));
    TRY(read_added(t, added, err));
    TRY(tokenizer_finish(t, doc->path, err));
    TRY(read_merges(t, json_find(doc, "model.merges"), doc->path, err));
    t->v.add_space_prefix = t->prefix != SPACE_PREFIX_NEVER;
    t->v.space_first_only = t->prefix == SPACE_PREFIX_FIRST;
    t->v.pre = "default";
    find_specials(t, doc);
    return SQ_OK;
}

int tokenizer_open_json(tokenizer **t, const char *path, sq_error *err)
{
    json_doc doc;
    *t = NULL;
    TRY(json_open(&doc, path, 0, err));
    int rc = read_all(t, &doc, err);
    json_close(&doc);
    if (rc) tokenizer_close(t);
    return rc;
}
