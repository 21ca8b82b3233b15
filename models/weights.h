/* Weight map: tensors by name, pointing into mapped files (safetensors shards or GGUF). */
#ifndef SQ_WEIGHTS_H
#define SQ_WEIGHTS_H

#include "core/arena.h"
#include "core/error.h"
#include "core/file.h"
#include "core/tensor.h"

typedef struct weight_entry {
    const char *name; /* as in the file */
    const char *file; /* path, for messages */
    sq_tensor t;      /* shape outermost first; data NULL when dtype is one squint does not read */
    char type_text[16]; /* the file's own type name: "BF16", "Q4_K" */
    bool bound;       /* some weight uses it (info lists the rest) */
} weight_entry;

typedef struct weight_map {
    weight_entry *entry; /* [n], sorted by name */
    int n, cap;
    file_map *file;
    char **path;         /* [n_file] */
    int n_file;
    arena mem;           /* names and tables */
} weight_map;            /* zero-initialised is valid and empty */

void weight_map_close(weight_map *w);

/* For the container readers: maps a file (name is its stored path) and gives a zeroed entry, or
 * NULL when memory is out. */
int weight_map_add_file(weight_map *w, const char *path, const file_map **map, const char **name,
                        sq_error *err);
weight_entry *weight_map_new(weight_map *w);

/* Adds one safetensors file's tensors. Header size, JSON, dtype, shape x dtype == byte range,
 * ranges inside the file, no overlap and no duplicate name are all checked. */
int safetensors_add(weight_map *w, const char *path, sq_error *err);

/* Adds an HF directory: model.safetensors.index.json with its shards, or model.safetensors. */
int safetensors_add_dir(weight_map *w, const char *dir, sq_error *err);

/* Call after the last add: sorts by name. */
int weight_map_sort(weight_map *w, sq_error *err);

/* NULL when missing. */
weight_entry *weight_find(weight_map *w, const char *name);

/* Binds an entry after checking that it is a float type and has exactly this shape (rank 1 or 2;
 * cols 0 means rank 1; a convolution [d,3,p,p] matches [d,3*p*p]). */
int weight_bind(weight_map *w, const char *name, int64_t rows, int64_t cols, sq_tensor *out,
                sq_error *err);

#endif
