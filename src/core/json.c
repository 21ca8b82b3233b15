#include "core/json.h"

#include "core/file.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { JSON_MAX_BYTES = 64 << 20 };

int json_open(json_doc *d, const char *path, size_t max_bytes, sq_error *err)
{
    *d = (json_doc){0};
    snprintf(d->path, sizeof d->path, "%s", path);
    file_map m;
    TRY(file_map_open(&m, path, err));
    int rc = SQ_OK;
    if (m.size > (max_bytes ? max_bytes : JSON_MAX_BYTES)) {
        rc = error_set(err, SQ_E_LIMIT, "%s: %zu bytes are too many for this JSON file", path,
                       m.size);
    } else {
        const char *end = NULL;
        d->root = cJSON_ParseWithLengthOpts((const char *)m.data, m.size, &end, 0);
        if (!d->root)
            rc = error_set(err, SQ_E_FORMAT, "%s: not valid JSON near byte %zu", path,
                           end ? (size_t)(end - (const char *)m.data) : 0);
        else if (!cJSON_IsObject(d->root) && !cJSON_IsArray(d->root))
            rc = error_set(err, SQ_E_FORMAT, "%s: expected a JSON object or array", path);
    }
    file_map_close(&m);
    if (rc) json_close(d);
    return rc;
}

void json_close(json_doc *d)
{
    cJSON_Delete(d->root);
    d->root = NULL;
}

const cJSON *json_find(const json_doc *d, const char *key)
{
    const cJSON *at = d->root;
    char part[128];
    while (at && *key) {
        size_t n = strcspn(key, ".");
        if (n >= sizeof part) return NULL;
        memcpy(part, key, n);
        part[n] = 0;
        at = cJSON_GetObjectItemCaseSensitive(at, part);
        key += n + (key[n] == '.');
    }
    return at && !cJSON_IsNull(at) ? at : NULL;
}

static int wrong(const json_doc *d, const char *key, const char *expected, sq_error *err)
{
    return error_set(err, SQ_E_FORMAT, "%s: %s: expected %s", d->path, key, expected);
}

int json_int(const json_doc *d, const char *key, int64_t min, int64_t max, int *out, sq_error *err)
{
    const cJSON *j = json_find(d, key);
    if (!j) return SQ_OK;
    if (!cJSON_IsNumber(j) || j->valuedouble != floor(j->valuedouble))
        return wrong(d, key, "a whole number", err);
    if (!(j->valuedouble >= (double)min && j->valuedouble <= (double)max))
        return error_set(err, SQ_E_FORMAT, "%s: %s: %.17g is outside %lld..%lld", d->path, key,
                         j->valuedouble, (long long)min, (long long)max);
    *out = (int)j->valuedouble;
    return SQ_OK;
}

int json_float(const json_doc *d, const char *key, float *out, sq_error *err)
{
    const cJSON *j = json_find(d, key);
    if (!j) return SQ_OK;
    if (!cJSON_IsNumber(j) || !(fabs(j->valuedouble) <= 3e38))
        return wrong(d, key, "a finite number", err);
    *out = (float)j->valuedouble;
    return SQ_OK;
}

int json_bool(const json_doc *d, const char *key, bool *out, sq_error *err)
{
    const cJSON *j = json_find(d, key);
    if (!j) return SQ_OK;
    if (!cJSON_IsBool(j)) return wrong(d, key, "true or false", err);
    *out = cJSON_IsTrue(j);
    return SQ_OK;
}

int json_string(const json_doc *d, const char *key, const char **out, sq_error *err)
{
    const cJSON *j = json_find(d, key);
    if (!j) return SQ_OK;
    if (!cJSON_IsString(j)) return wrong(d, key, "a string", err);
    *out = j->valuestring;
    return SQ_OK;
}

int json_floats(const json_doc *d, const char *key, float *out, int n, sq_error *err)
{
    const cJSON *j = json_find(d, key);
    if (!j) return SQ_OK;
    if (!cJSON_IsArray(j) || cJSON_GetArraySize(j) != n)
        return error_set(err, SQ_E_FORMAT, "%s: %s: expected %d numbers", d->path, key, n);
    int i = 0;
    for (const cJSON *e = j->child; e; e = e->next, i++) {
        if (!cJSON_IsNumber(e) || !(fabs(e->valuedouble) <= 3e38))
            return error_set(err, SQ_E_FORMAT, "%s: %s: expected %d numbers", d->path, key, n);
        out[i] = (float)e->valuedouble;
    }
    return SQ_OK;
}
