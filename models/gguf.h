/* GGUF container: reading versions 2 and 3, writing version 3. Shapes are turned so that they
 * are outermost first everywhere in squint (GGUF stores the innermost first). */
#ifndef SQ_GGUF_H
#define SQ_GGUF_H

#include "models/weights.h"

#include <stdint.h>

typedef enum gguf_type {
    GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL,
    GGUF_STRING, GGUF_ARRAY, GGUF_U64, GGUF_I64, GGUF_F64
} gguf_type;

typedef struct gguf_kv {
    const char *key;
    gguf_type type, item; /* item: element type of an array */
    uint64_t n;           /* array length; 1 otherwise */
    const unsigned char *data; /* raw little-endian value(s) inside the map */
} gguf_kv;

typedef struct gguf_file {
    char path[4096];
    gguf_kv *kv; /* sorted by key */
    int n_kv;
    arena mem;
} gguf_file; /* the mapping itself is owned by the weight_map */

/* Maps path into w and reads its key-values into g. Every count, length, offset and type is
 * checked against the file size. Versions 2 and 3. */
int gguf_open(gguf_file *g, weight_map *w, const char *path, sq_error *err);
void gguf_close(gguf_file *g);

const gguf_kv *gguf_find(const gguf_file *g, const char *key);

/* Missing key: *out stays. Wrong type or out of [min,max]: SQ_E_FORMAT naming file and key. */
int gguf_int(const gguf_file *g, const char *key, int64_t min, int64_t max, int *out,
             sq_error *err);
/* The same, but a missing key is SQ_E_FORMAT too. */
int gguf_need_int(const gguf_file *g, const char *key, int64_t min, int64_t max, int *out,
                  sq_error *err);
int gguf_float(const gguf_file *g, const char *key, float *out, sq_error *err);
int gguf_bool(const gguf_file *g, const char *key, bool *out, sq_error *err);
/* Copies into g->mem, 0-terminated. */
int gguf_string(gguf_file *g, const char *key, const char **out, sq_error *err);
int gguf_strings(gguf_file *g, const char *key, const char ***out, int *n, sq_error *err);
int gguf_floats(gguf_file *g, const char *key, const float **out, int *n, sq_error *err);
int gguf_ints(gguf_file *g, const char *key, const int32_t **out, int *n, sq_error *err);

/* Writing: add all keys and tensors, then save; tensor data is pulled through `fill`, one tensor
 * at a time, so that nothing large is held. */
typedef struct gguf_writer gguf_writer;
typedef int (*gguf_fill)(void *user, int tensor, void *dst, size_t size, sq_error *err);

int gguf_writer_open(gguf_writer **w, sq_error *err);
void gguf_writer_close(gguf_writer **w);
void gguf_put_string(gguf_writer *w, const char *key, const char *value);
void gguf_put_u32(gguf_writer *w, const char *key, uint32_t value);
void gguf_put_i32(gguf_writer *w, const char *key, int32_t value);
void gguf_put_f32(gguf_writer *w, const char *key, float value);
void gguf_put_bool(gguf_writer *w, const char *key, bool value);
void gguf_put_strings(gguf_writer *w, const char *key, const char *const *value, int n);
void gguf_put_f32s(gguf_writer *w, const char *key, const float *value, int n);
void gguf_put_i32s(gguf_writer *w, const char *key, const int32_t *value, int n);
/* shape outermost first. Out of memory is remembered and reported by gguf_save. */
void gguf_put_tensor(gguf_writer *w, const char *name, sq_dtype type, int rank,
                     const int64_t *shape);
/* Into an open file, which the caller commits; several files can so appear together. */
int gguf_write(gguf_writer *w, file_writer *f, gguf_fill fill, void *user, sq_error *err);
int gguf_save(gguf_writer *w, const char *path, gguf_fill fill, void *user, sq_error *err);

#endif
