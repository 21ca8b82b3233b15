/* safetensors: u64 header size, JSON header {name: {dtype, shape, data_offsets}}, then the data. */
#include "core/json.h"
#include "models/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER_MAX = 100 << 20 };

static sq_dtype dtype_of(const char *text, size_t *item)
{
    static const struct {
        const char *name;
        sq_dtype dtype;
        size_t item;
    } types[] = {{"F32", SQ_DTYPE_F32, 4},  {"F16", SQ_DTYPE_F16, 2},  {"BF16", SQ_DTYPE_BF16, 2},
                 {"I32", SQ_DTYPE_I32, 4},  {"F64", SQ_DTYPE_NONE, 8}, {"I64", SQ_DTYPE_NONE, 8},
                 {"U64", SQ_DTYPE_NONE, 8}, {"U32", SQ_DTYPE_NONE, 4}, {"I16", SQ_DTYPE_NONE, 2},
                 {"U16", SQ_DTYPE_NONE, 2}, {"I8", SQ_DTYPE_NONE, 1},  {"U8", SQ_DTYPE_NONE, 1},
                 {"BOOL", SQ_DTYPE_NONE, 1}};
    *item = 0;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(text, types[i].name) == 0) {
            *item = types[i].item;
            return types[i].dtype;
        }
    return SQ_DTYPE_NONE;
}

/* A JSON number as an exact size, or -1. */
static int64_t whole(const cJSON *j)
{
    if (!cJSON_IsNumber(j) || !(j->valuedouble >= 0 && j->valuedouble <= 9007199254740992.0))
        return -1;
    int64_t v = (int64_t)j->valuedouble;
    return (double)v == j->valuedouble ? v : -1;
}

/* Reads the shape; *count gets the product. */
static int read_shape(const cJSON *item, sq_tensor *t, int64_t *count, const char *path,
                      sq_error *err)
{
    const cJSON *shape = cJSON_GetObjectItemCaseSensitive(item, "shape");
    if (!cJSON_IsArray(shape) || cJSON_GetArraySize(shape) > SQ_MAX_RANK)
        return error_set(err, SQ_E_FORMAT, "%s: %s: expected a shape of at most %d numbers", path,
                         item->string, SQ_MAX_RANK);
    *count = 1;
    for (const cJSON *d = shape->child; d; d = d->next) {
        int64_t n = whole(d);
        if (n < 0 || (n && *count > INT64_MAX / 16 / n))
            return error_set(err, SQ_E_FORMAT, "%s: %s: shape is not valid", path, item->string);
        t->shape[t->rank++] = n;
        *count *= n;
    }
    return SQ_OK;
}

typedef struct byte_range {
    int64_t begin, end;
} byte_range;

static int by_begin(const void *a, const void *b)
{
    const byte_range *x = a, *y = b;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

static int add_tensor(weight_map *w, const cJSON *item, const unsigned char *data, int64_t size,
                      const char *path, byte_range *range, sq_error *err)
{
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(item, "dtype");
    const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(item, "data_offsets");
    if (!cJSON_IsObject(item) || !cJSON_IsString(type) || !cJSON_IsArray(offsets) ||
        cJSON_GetArraySize(offsets) != 2)
        return error_set(err, SQ_E_FORMAT, "%s: %s: expected dtype, shape and data_offsets", path,
                         item->string);
    size_t bytes;
    int64_t count = 0;
    sq_tensor t = {.dtype = dtype_of(type->valuestring, &bytes)};
    TRY(read_shape(item, &t, &count, path, err));
    range->begin = whole(offsets->child);
    range->end = whole(offsets->child->next);
    if (range->begin < 0 || range->end < range->begin || range->end > size)
        return error_set(err, SQ_E_FORMAT,
                         "%s: %s: data_offsets lie outside the file's %lld data bytes", path,
                         item->string, (long long)size);
    if (bytes && range->end - range->begin != count * (int64_t)bytes)
        return error_set(err, SQ_E_FORMAT, "%s: %s: shape needs %lld bytes, data_offsets give %lld",
                         path, item->string, (long long)(count * (int64_t)bytes),
                         (long long)(range->end - range->begin));
    if (t.dtype != SQ_DTYPE_NONE && count > 0) t.data = (void *)(size_t)(data + range->begin);
    weight_entry *e = weight_map_new(w);
    char *name = arena_strndup(&w->mem, item->string, strlen(item->string));
    if (!e || !name) return error_set(err, SQ_E_NOMEM, "%s: out of memory", path);
    *e = (weight_entry){.name = name, .file = path, .t = t};
    snprintf(e->type_text, sizeof e->type_text, "%s", type->valuestring);
    return SQ_OK;
}

/* The format allows any header size, so that values may lie at odd addresses: those are copied. */
static int align_tensors(weight_map *w, int first, sq_error *err)
{
    for (int i = first; i < w->n; i++) {
        weight_entry *e = &w->entry[i];
        size_t size = tensor_bytes(&e->t), item = e->t.dtype == SQ_DTYPE_F32 ||
                                                  e->t.dtype == SQ_DTYPE_I32 ? 4 : 2;
        if (!e->t.data || (uintptr_t)e->t.data % item == 0) continue;
        /* tensor_bytes is 0 for a scalar */
        void *copy = arena_alloc(&w->mem, size ? size : item);
        if (!copy) return error_set(err, SQ_E_NOMEM, "%s: out of memory", e->file);
        memcpy(copy, e->t.data, size ? size : item);
        e->t.data = copy;
    }
    return SQ_OK;
}

static int add_all(weight_map *w, const cJSON *root, const unsigned char *data, int64_t size,
                   const char *path, sq_error *err)
{
    int n = cJSON_GetArraySize(root), used = 0, rc = SQ_OK, first = w->n;
    byte_range *range = calloc((size_t)n + 1, sizeof *range);
    if (!range) return error_set(err, SQ_E_NOMEM, "%s: out of memory", path);
    for (const cJSON *item = root->child; item && !rc; item = item->next)
        if (strcmp(item->string, "__metadata__") != 0)
            rc = add_tensor(w, item, data, size, path, &range[used++], err);
    if (!rc) qsort(range, (size_t)used, sizeof *range, by_begin);
    for (int i = 1; i < used && !rc; i++)
        if (range[i].begin < range[i - 1].end)
            rc = error_set(err, SQ_E_FORMAT, "%s: two tensors share bytes from %lld on", path,
                           (long long)range[i].begin);
    free(range);
    return rc ? rc : align_tensors(w, first, err);
}

int safetensors_add(weight_map *w, const char *path, sq_error *err)
{
    const file_map *map;
    const char *name;
    TRY(weight_map_add_file(w, path, &map, &name, err));
    if (map->size < 8) return error_set(err, SQ_E_FORMAT, "%s: too short for safetensors", path);
    uint64_t header = 0;
    for (int i = 0; i < 8; i++)
        header |= (uint64_t)map->data[i] << (8 * i);
    if (header > HEADER_MAX || header > map->size - 8)
        return error_set(err, SQ_E_FORMAT, "%s: header of %llu bytes does not fit the file", path,
                         (unsigned long long)header);
    cJSON *root = cJSON_ParseWithLength((const char *)map->data + 8, (size_t)header);
    int rc = cJSON_IsObject(root)
                 ? add_all(w, root, map->data + 8 + header, (int64_t)(map->size - 8 - header), name,
                           err)
                 : error_set(err, SQ_E_FORMAT, "%s: the header is not a JSON object", path);
    cJSON_Delete(root);
    return rc;
}

/* Adds each file that the index names, once. */
static int add_shards(weight_map *w, const char *dir, const json_doc *index, sq_error *err)
{
    const cJSON *map = json_find(index, "weight_map");
    if (!cJSON_IsObject(map))
        return error_set(err, SQ_E_FORMAT, "%s: weight_map: expected an object", index->path);
    for (const cJSON *item = map->child; item; item = item->next) {
        bool seen = false;
        char path[4096];
        if (!cJSON_IsString(item) || strchr(item->valuestring, '/'))
            return error_set(err, SQ_E_FORMAT, "%s: weight_map.%s: expected a file name",
                             index->path, item->string);
        TRY(path_join(path, sizeof path, dir, item->valuestring, err));
        for (int i = 0; i < w->n_file && !seen; i++)
            seen = strcmp(w->path[i], path) == 0;
        if (!seen) TRY(safetensors_add(w, path, err));
    }
    return SQ_OK;
}

int safetensors_add_dir(weight_map *w, const char *dir, sq_error *err)
{
    char path[4096];
    TRY(path_join(path, sizeof path, dir, "model.safetensors.index.json", err));
    if (!file_exists(path)) {
        TRY(path_join(path, sizeof path, dir, "model.safetensors", err));
        if (!file_exists(path))
            return error_set(err, SQ_E_IO,
                             "%s: no model.safetensors and no model.safetensors.index.json", dir);
        return safetensors_add(w, path, err);
    }
    json_doc index;
    TRY(json_open(&index, path, 0, err));
    int rc = add_shards(w, dir, &index, err);
    json_close(&index);
    return rc;
}
