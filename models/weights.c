#include "models/weights.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void weight_map_close(weight_map *w)
{
    for (int i = 0; i < w->n_file; i++)
        file_map_close(&w->file[i]);
    free(w->entry);
    free(w->file);
    free(w->path);
    arena_close(&w->mem);
    *w = (weight_map){0};
}

int weight_map_add_file(weight_map *w, const char *path, const file_map **map, const char **name,
                        sq_error *err)
{
    file_map *file = realloc(w->file, (size_t)(w->n_file + 1) * sizeof *file);
    if (file) w->file = file;
    char **paths = file ? realloc(w->path, (size_t)(w->n_file + 1) * sizeof *paths) : NULL;
    if (paths) w->path = paths;
    char *copy = paths ? arena_strndup(&w->mem, path, strlen(path)) : NULL;
    if (!copy) return error_set(err, SQ_E_NOMEM, "%s: out of memory", path);
    TRY(file_map_open(&w->file[w->n_file], path, err));
    w->path[w->n_file] = copy;
    *map = &w->file[w->n_file++];
    *name = copy;
    return SQ_OK;
}

weight_entry *weight_map_new(weight_map *w)
{
    if (w->n == w->cap) {
        int cap = w->cap ? w->cap * 2 : 512;
        weight_entry *grown = realloc(w->entry, (size_t)cap * sizeof *grown);
        if (!grown) return NULL;
        w->entry = grown;
        w->cap = cap;
    }
    weight_entry *e = &w->entry[w->n++];
    memset(e, 0, sizeof *e);
    return e;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const weight_entry *)a)->name, ((const weight_entry *)b)->name);
}

int weight_map_sort(weight_map *w, sq_error *err)
{
    if (w->n) qsort(w->entry, (size_t)w->n, sizeof *w->entry, by_name);
    for (int i = 1; i < w->n; i++)
        if (strcmp(w->entry[i - 1].name, w->entry[i].name) == 0)
            return error_set(err, SQ_E_FORMAT, "%s: tensor %s is there twice", w->entry[i].file,
                             w->entry[i].name);
    return SQ_OK;
}

weight_entry *weight_find(weight_map *w, const char *name)
{
    weight_entry key = {.name = name};
    return w->n ? bsearch(&key, w->entry, (size_t)w->n, sizeof *w->entry, by_name) : NULL;
}

static void shape_text(char *out, size_t size, const int64_t *shape, int rank)
{
    size_t used = 0;
    out[0] = 0;
    for (int i = 0; i < rank && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%" PRId64, i ? "," : "", shape[i]);
}

static bool shape_fits(const sq_tensor *t, int64_t rows, int64_t cols)
{
    if (cols == 0) return t->rank == 1 && t->shape[0] == rows;
    if (t->rank < 2 || t->shape[0] != rows) return false;
    int64_t rest = 1;
    for (int i = 1; i < t->rank; i++)
        rest *= t->shape[i];
    return rest == cols;
}

int weight_bind(weight_map *w, const char *name, int64_t rows, int64_t cols, sq_tensor *out,
                sq_error *err)
{
    weight_entry *e = weight_find(w, name);
    const char *file = w->n_file ? w->path[0] : "checkpoint";
    if (!e) return error_set(err, SQ_E_FORMAT, "%s: tensor %s is missing", file, name);
    if (!e->t.data && tensor_count(&e->t) != 0)
        return error_set(err, SQ_E_UNSUPPORTED,
                         "%s: %s: type %s is not supported (F32, F16, BF16, Q8_0 are)", e->file,
                         name, e->type_text);
    if (e->t.dtype == SQ_DTYPE_I32)
        return error_set(err, SQ_E_FORMAT, "%s: %s: expected a float type, found %s", e->file, name,
                         e->type_text);
    if (!shape_fits(&e->t, rows, cols)) {
        int64_t want[2] = {rows, cols};
        char expected[64], found[96];
        shape_text(expected, sizeof expected, want, cols ? 2 : 1);
        shape_text(found, sizeof found, e->t.shape, e->t.rank);
        return error_set(err, SQ_E_FORMAT, "%s: %s: expected shape [%s], found [%s]", e->file, name,
                         expected, found);
    }
    *out = cols ? tensor_2d(e->t.data, e->t.dtype, rows, cols)
                : tensor_1d(e->t.data, e->t.dtype, rows);
    e->bound = true;
    return SQ_OK;
}
