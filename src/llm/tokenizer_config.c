/* What lies beside a Hugging Face tokenizer: tokenizer_config.json, special_tokens_map.json,
 * added_tokens.json, generation_config.json. Each may be missing. */
#include "core/file.h"
#include "core/json.h"
#include "llm/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

/* doc->root stays NULL when there is no such file. */
static int open_beside(json_doc *doc, const char *dir, const char *name, sq_error *err)
{
    char path[4096];
    *doc = (json_doc){0};
    TRY(path_join(path, sizeof path, dir, name, err));
    return file_exists(path) ? json_open(doc, path, 0, err) : SQ_OK;
}

/* ---- tokens ---- */

/* "<image>" or {"content": "<image>", ...} */
static const char *token_text(const cJSON *j)
{
    const cJSON *content = cJSON_GetObjectItemCaseSensitive(j, "content");
    const char *text = cJSON_GetStringValue(content ? content : j);
    return text && *text ? text : NULL;
}

static bool is_set(const cJSON *j, const char *key)
{
    return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(j, key));
}

/* A token that the model's own file has as an added one already stays as it is. */
static int add_token(tokenizer *t, double number, const cJSON *j, const char *text, bool special,
                     const char *path, sq_error *err)
{
    if (!text || !(number >= 0 && number < 1 << 22))
        return error_set(err, SQ_E_FORMAT, "%s: added token \"%.40s\": expected an id and a text",
                         path, text ? text : "");
    int id = (int)number;
    TRY(tokenizer_grow(t, id + 1, path, err));
    if (t->text[id] && (t->type[id] != TOKEN_NORMAL || strcmp(t->text[id], text) != 0))
        return SQ_OK;
    TRY(tokenizer_set(t, id, text, strlen(text), t->score[id],
                      special ? TOKEN_CONTROL : TOKEN_USER_DEFINED, err));
    bool normalized = is_set(j, "normalized") && t->mark != SPACE_MARK_NORMALIZER;
    t->flag[id] = (uint8_t)((is_set(j, "lstrip") ? ADDED_LSTRIP : 0) |
                            (is_set(j, "rstrip") ? ADDED_RSTRIP : 0) |
                            (is_set(j, "single_word") ? ADDED_WORD : 0) |
                            (normalized ? ADDED_NORMALIZED : 0));
    return SQ_OK;
}

/* added_tokens.json: {"<image>": 32000} */
static int read_added(tokenizer *t, const json_doc *doc, sq_error *err)
{
    for (const cJSON *e = doc->root ? doc->root->child : NULL; e; e = e->next) {
        double id = cJSON_IsNumber(e) ? e->valuedouble : -1;
        TRY(add_token(t, id, NULL, e->string, false, doc->path, err));
    }
    return SQ_OK;
}

/* added_tokens_decoder: {"32000": {"content": "<image>", "special": true, ...}} */
static int read_decoder(tokenizer *t, const json_doc *doc, sq_error *err)
{
    const cJSON *list = json_find(doc, "added_tokens_decoder");
    for (const cJSON *e = list ? list->child : NULL; e; e = e->next) {
        char *end = NULL;
        double id = e->string ? strtod(e->string, &end) : -1;
        if (end && *end) id = -1;
        TRY(add_token(t, id, e, token_text(e), is_set(e, "special"), doc->path, err));
    }
    return SQ_OK;
}

/* Additional special tokens are skipped by decode, whatever their own entry says. */
static void mark_special(tokenizer *t, const json_doc *doc)
{
    const cJSON *list = json_find(doc, "additional_special_tokens");
    for (const cJSON *e = cJSON_IsArray(list) ? list->child : NULL; e; e = e->next) {
        const char *text = token_text(e);
        for (int i = 0; text && i < t->v.n_token; i++)
            if (t->type[i] == TOKEN_USER_DEFINED && strcmp(t->text[i], text) == 0)
                t->type[i] = TOKEN_CONTROL;
    }
}

static int with_file(tokenizer *t, const char *dir, const char *name, sq_error *err,
                     int (*read)(tokenizer *, const json_doc *, sq_error *))
{
    json_doc doc;
    TRY(open_beside(&doc, dir, name, err));
    int rc = doc.root ? read(t, &doc, err) : SQ_OK;
    json_close(&doc);
    return rc;
}

static int read_config_tokens(tokenizer *t, const json_doc *doc, sq_error *err)
{
    TRY(read_decoder(t, doc, err));
    mark_special(t, doc);
    return SQ_OK;
}

static int read_map_tokens(tokenizer *t, const json_doc *doc, sq_error *err)
{
    (void)err;
    mark_special(t, doc);
    return SQ_OK;
}

int tokenizer_config_tokens(tokenizer *t, const char *dir, sq_error *err)
{
    TRY(with_file(t, dir, "tokenizer_config.json", err, read_config_tokens));
    TRY(with_file(t, dir, "added_tokens.json", err, read_added));
    return with_file(t, dir, "special_tokens_map.json", err, read_map_tokens);
}

/* tokenizer.json says where spaces go; tokenizer.model leaves it to these. */
static int read_spaces(tokenizer *t, const json_doc *doc, sq_error *err)
{
    bool legacy = true, space = true;
    TRY(json_bool(doc, "legacy", &legacy, err));
    TRY(json_bool(doc, "add_prefix_space", &space, err));
    if (!legacy && t->prefix == SPACE_PREFIX_ALWAYS) t->prefix = SPACE_PREFIX_FIRST;
    if (!space) t->prefix = SPACE_PREFIX_NEVER;
    return SQ_OK;
}

int tokenizer_config_spaces(tokenizer *t, const char *dir, sq_error *err)
{
    return with_file(t, dir, "tokenizer_config.json", err, read_spaces);
}

/* ---- special ids ---- */

/* null takes the token away; one that is no token is an error where generation depends on it. */
static int read_special(tokenizer *t, const json_doc *doc, const char *key, bool needed, int *id,
                        sq_error *err)
{
    const cJSON *j = cJSON_GetObjectItemCaseSensitive(doc->root, key);
    if (!j) return SQ_OK;
    if (cJSON_IsNull(j)) {
        *id = -1;
        return SQ_OK;
    }
    const char *text = token_text(j);
    int found = text ? tokenizer_find(t, text) : -1;
    if (found < 0 && needed)
        return error_set(err, SQ_E_FORMAT, "%s: %s: \"%.40s\" is no token", doc->path, key,
                         text ? text : "");
    *id = found;
    return SQ_OK;
}

static int read_specials(tokenizer *t, const json_doc *doc, sq_error *err)
{
    int unk = t->v.unk;
    TRY(read_special(t, doc, "bos_token", true, &t->v.bos, err));
    TRY(read_special(t, doc, "eos_token", true, &t->v.eos, err));
    TRY(read_special(t, doc, "unk_token", false, &unk, err));
    TRY(read_special(t, doc, "pad_token", false, &t->v.pad, err));
    if (t->v.unk < 0) t->v.unk = unk;
    TRY(json_bool(doc, "add_bos_token", &t->v.add_bos, err));
    TRY(json_bool(doc, "add_eos_token", &t->v.add_eos, err));
    t->v.add_bos = t->v.add_bos && t->v.bos >= 0;
    t->v.add_eos = t->v.add_eos && t->v.eos >= 0;
    return SQ_OK;
}

static int add_end(tokenizer *t, const cJSON *j, const json_doc *doc, sq_error *err)
{
    const int most = (int)(sizeof t->end / sizeof *t->end);
    if (!cJSON_IsNumber(j) || !(j->valuedouble >= 0 && j->valuedouble < 1 << 22))
        return error_set(err, SQ_E_FORMAT, "%s: eos_token_id: expected token ids", doc->path);
    if (t->n_end == most)
        return error_set(err, SQ_E_LIMIT, "%s: eos_token_id: more than %d ids", doc->path, most);
    t->end[t->n_end++] = j->valueint;
    return SQ_OK;
}

static int read_ends(tokenizer *t, const json_doc *doc, sq_error *err)
{
    const cJSON *j = json_find(doc, "eos_token_id");
    if (!j) j = json_find(doc, "text_config.eos_token_id");
    if (!j) return SQ_OK;
    if (!cJSON_IsArray(j)) return add_end(t, j, doc, err);
    for (const cJSON *e = j->child; e; e = e->next)
        TRY(add_end(t, e, doc, err));
    return SQ_OK;
}

int tokenizer_config_specials(tokenizer *t, const char *dir, sq_error *err)
{
    TRY(with_file(t, dir, "special_tokens_map.json", err, read_specials));
    TRY(with_file(t, dir, "tokenizer_config.json", err, read_specials));
    TRY(with_file(t, dir, "generation_config.json", err, read_ends));
    return t->n_end ? SQ_OK : with_file(t, dir, "config.json", err, read_ends);
}
