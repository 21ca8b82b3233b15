#define _POSIX_C_SOURCE 200809L
#include "cli/questions.h"

#include "core/file.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void questions_close(question_list *l)
{
    for (int i = 0; i < l->n; i++) {
        question *q = &l->q[i];
        char *const part[] = {q->id, q->image, q->text, q->answer, q->kind};
        for (size_t k = 0; k < sizeof part / sizeof *part; k++)
            free(part[k]);
    }
    free(l->q);
    *l = (question_list){0};
}

/* question_id may be a string or a number. */
static char *copy_id(const cJSON *item)
{
    char number[32];
    if (cJSON_IsString(item)) return strdup(item->valuestring);
    if (!cJSON_IsNumber(item) || item->valuedouble != floor(item->valuedouble)) return NULL;
    snprintf(number, sizeof number, "%.0f", item->valuedouble);
    return strdup(number);
}

static char *copy_string(const cJSON *o, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(o, key);
    return cJSON_IsString(item) ? strdup(item->valuestring) : NULL;
}

/* Missing or null: *out stays. */
static int copy_optional(const cJSON *o, const char *key, char **out, const char *where,
                         sq_error *err)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(o, key);
    if (!item || cJSON_IsNull(item)) return SQ_OK;
    if (!cJSON_IsString(item))
        return error_set(err, SQ_E_FORMAT, "%s: %s: expected a string", where, key);
    *out = strdup(item->valuestring);
    return *out ? SQ_OK : error_set(err, SQ_E_NOMEM, "out of memory");
}

static int read_line(question *q, const cJSON *o, const char *dir, const char *where, sq_error *err)
{
    const cJSON *id = cJSON_GetObjectItemCaseSensitive(o, "question_id");
    char path[4096];
    q->id = copy_id(id);
    q->text = copy_string(o, "text");
    if (!q->id)
        return error_set(err, SQ_E_FORMAT, "%s: question_id: expected a string or whole number",
                         where);
    if (!q->text) return error_set(err, SQ_E_FORMAT, "%s: text: expected a string", where);
    TRY(copy_optional(o, "answer", &q->answer, where, err));
    if (!q->answer) TRY(copy_optional(o, "label", &q->answer, where, err));
    TRY(copy_optional(o, "category", &q->kind, where, err));
    char *name = copy_string(o, "image");
    if (!name) return error_set(err, SQ_E_FORMAT, "%s: image: expected a file name", where);
    int rc = name[0] == '/' ? SQ_OK : path_join(path, sizeof path, dir, name, err);
    if (!rc) q->image = strdup(name[0] == '/' ? name : path);
    free(name);
    return rc || q->image ? rc : error_set(err, SQ_E_NOMEM, "out of memory");
}

/* line: NULL when it is no text. */
static int add_line(question_list *l, const char *line, int number, const char *dir,
                    const char *where, sq_error *err)
{
    if (l->n == l->cap) {
        int cap = l->cap ? l->cap * 2 : 256;
        question *grown = realloc(l->q, (size_t)cap * sizeof *grown);
        if (!grown) return error_set(err, SQ_E_NOMEM, "out of memory");
        l->q = grown;
        l->cap = cap;
    }
    cJSON *o = line ? cJSON_ParseWithOpts(line, NULL, true) : NULL;
    if (!cJSON_IsObject(o)) {
        cJSON_Delete(o);
        return error_set(err, SQ_E_FORMAT, "%s: expected one JSON object", where);
    }
    l->q[l->n] = (question){.line = number};
    int rc = read_line(&l->q[l->n++], o, dir, where, err);
    cJSON_Delete(o);
    return rc;
}

static int by_question(const void *a, const void *b)
{
    const question *x = *(const question *const *)a, *y = *(const question *const *)b;
    int order = strcmp(x->id, y->id);
    if (!order) order = strcmp(x->image, y->image);
    if (!order) order = strcmp(x->text, y->text);
    return order ? order : x->line - y->line;
}

static int check_twice(const question_list *l, const char *path, sq_error *err)
{
    const question **q = malloc((size_t)l->n * sizeof *q);
    if (!q) return error_set(err, SQ_E_NOMEM, "out of memory");
    for (int i = 0; i < l->n; i++)
        q[i] = &l->q[i];
    qsort(q, (size_t)l->n, sizeof *q, by_question);
    int rc = SQ_OK;
    for (int i = 1; i < l->n && !rc; i++)
        if (!strcmp(q[i]->id, q[i - 1]->id) && !strcmp(q[i]->image, q[i - 1]->image) &&
            !strcmp(q[i]->text, q[i - 1]->text))
            rc = error_set(err, SQ_E_FORMAT,
                           "%s: lines %d and %d: the same question_id (%.60s), image and text",
                           path, q[i - 1]->line, q[i]->line, q[i]->id);
    free(q);
    return rc;
}

int questions_read(question_list *l, const char *path, const char *dir, int limit, sq_error *err)
{
    char folder[4096], where[4200];
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    int number = 0, rc = SQ_OK;
    *l = (question_list){0};
    if (!dir) {
        const char *slash = strrchr(path, '/');
        snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) : 1,
                 slash ? path : ".");
        dir = folder;
    }
    TRY(file_check_regular(path, err));
    FILE *f = fopen(path, "rb");
    if (!f) return error_set(err, SQ_E_IO, "%s: cannot open: %s", path, strerror(errno));
    while (!rc && (limit <= 0 || l->n < limit) && (n = getline(&line, &cap, f)) >= 0) {
        bool is_text = strlen(line) == (size_t)n; /* no 0 inside */
        snprintf(where, sizeof where, "%s: line %d", path, ++number);
        if (is_text && !line[strspn(line, " \t\r\n")]) continue;
        rc = add_line(l, is_text ? line : NULL, number, dir, where, err);
    }
    if (!rc && ferror(f))
        rc = error_set(err, SQ_E_IO, "%s: cannot read: %s", path, strerror(errno));
    if (!rc && l->n) rc = check_twice(l, path, err);
    if (!rc && l->n == 0) rc = error_set(err, SQ_E_FORMAT, "%s: no questions", path);
    free(line);
    fclose(f);
    return rc;
}
