#include "models/gguf.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGN = 32 };

/* Bytes that grow; out of memory is sticky. */
typedef struct bytes {
    unsigned char *data;
    size_t size, cap;
    bool failed;
} bytes;

typedef struct out_tensor {
    size_t size, padded;
} out_tensor;

struct gguf_writer {
    bytes kv, info; /* both as they go into the file */
    uint64_t n_kv;
    out_tensor *tensor;
    int n_tensor, cap;
    uint64_t offset; /* of the next tensor */
    bool failed;
};

static void put(bytes *b, const void *data, size_t n)
{
    if (b->failed) return;
    if (n > b->cap - b->size) {
        size_t cap = (b->size + n) * 2 + 1024;
        unsigned char *grown = realloc(b->data, cap);
        if (!grown) {
            b->failed = true;
            return;
        }
        b->data = grown;
        b->cap = cap;
    }
    if (n) memcpy(b->data + b->size, data, n);
    b->size += n;
}

static void put_little(bytes *b, uint64_t v, int n)
{
    unsigned char out[8];
    for (int i = 0; i < n; i++)
        out[i] = (unsigned char)(v >> (8 * i));
    put(b, out, (size_t)n);
}

static void put_text(bytes *b, const char *text)
{
    size_t n = strlen(text);
    put_little(b, n, 8);
    put(b, text, n);
}

static void put_float(bytes *b, float value)
{
    uint32_t u;
    memcpy(&u, &value, sizeof u);
    put_little(b, u, 4);
}

static void put_key(gguf_writer *w, const char *key, gguf_type type)
{
    put_text(&w->kv, key);
    put_little(&w->kv, type, 4);
    w->n_kv++;
}

static void put_array(gguf_writer *w, const char *key, gguf_type item, int n)
{
    put_key(w, key, GGUF_ARRAY);
    put_little(&w->kv, item, 4);
    put_little(&w->kv, (uint64_t)n, 8);
}

int gguf_writer_open(gguf_writer **w, sq_error *err)
{
    *w = calloc(1, sizeof **w);
    if (!*w) return error_set(err, SQ_E_NOMEM, "GGUF: out of memory");
    gguf_put_u32(*w, "general.alignment", ALIGN);
    return SQ_OK;
}

void gguf_writer_close(gguf_writer **w)
{
    if (!*w) return;
    free((*w)->kv.data);
    free((*w)->info.data);
    free((*w)->tensor);
    free(*w);
    *w = NULL;
}

void gguf_put_string(gguf_writer *w, const char *key, const char *value)
{
    put_key(w, key, GGUF_STRING);
    put_text(&w->kv, value);
}

void gguf_put_u32(gguf_writer *w, const char *key, uint32_t value)
{
    put_key(w, key, GGUF_U32);
    put_little(&w->kv, value, 4);
}

void gguf_put_i32(gguf_writer *w, const char *key, int32_t value)
{
    put_key(w, key, GGUF_I32);
    put_little(&w->kv, (uint32_t)value, 4);
}

void gguf_put_f32(gguf_writer *w, const char *key, float value)
{
    put_key(w, key, GGUF_F32);
    put_float(&w->kv, value);
}

void gguf_put_bool(gguf_writer *w, const char *key, bool value)
{
    put_key(w, key, GGUF_BOOL);
    put_little(&w->kv, value, 1);
}

void gguf_put_strings(gguf_writer *w, const char *key, const char *const *value, int n)
{
    put_array(w, key, GGUF_STRING, n);
    for (int i = 0; i < n; i++)
        put_text(&w->kv, value[i]);
}

void gguf_put_f32s(gguf_writer *w, const char *key, const float *value, int n)
{
    put_array(w, key, GGUF_F32, n);
    for (int i = 0; i < n; i++)
        put_float(&w->kv, value[i]);
}

void gguf_put_i32s(gguf_writer *w, const char *key, const int32_t *value, int n)
{
    put_array(w, key, GGUF_I32, n);
    for (int i = 0; i < n; i++)
        put_little(&w->kv, (uint32_t)value[i], 4);
}

static uint32_t ggml_type_of(sq_dtype t)
{
    switch (t) {
    case SQ_DTYPE_F16: return 1;
    case SQ_DTYPE_Q8_0: return 8;
    case SQ_DTYPE_BF16: return 30;
    default: return 0;
    }
}

void gguf_put_tensor(gguf_writer *w, const char *name, sq_dtype type, int rank,
                     const int64_t *shape)
{
    sq_tensor t = {.dtype = type, .rank = rank};
    memcpy(t.shape, shape, (size_t)rank * sizeof *shape);
    if (w->n_tensor == w->cap) {
        int cap = w->cap * 2 + 256;
        out_tensor *grown = realloc(w->tensor, (size_t)cap * sizeof *grown);
        if (!grown) {
            w->failed = true;
            return;
        }
        w->tensor = grown;
        w->cap = cap;
    }
    out_tensor *o = &w->tensor[w->n_tensor++];
    o->size = tensor_bytes(&t);
    o->padded = (o->size + ALIGN - 1) / ALIGN * ALIGN;
    if (!o->size) w->failed = true;
    put_text(&w->info, name);
    put_little(&w->info, (uint64_t)rank, 4);
    for (int i = rank - 1; i >= 0; i--)
        put_little(&w->info, (uint64_t)shape[i], 8);
    put_little(&w->info, ggml_type_of(type), 4);
    put_little(&w->info, w->offset, 8);
    w->offset += o->padded;
}

static int write_header(gguf_writer *w, file_writer *f, sq_error *err)
{
    static const unsigned char zero[ALIGN];
    bytes head = {0};
    put(&head, "GGUF", 4);
    put_little(&head, 3, 4);
    put_little(&head, (uint64_t)w->n_tensor, 8);
    put_little(&head, w->n_kv, 8);
    int rc = head.failed ? error_set(err, SQ_E_NOMEM, "%s: out of memory", f->path)
                         : file_write(f, head.data, head.size, err);
    free(head.data);
    if (!rc) rc = file_write(f, w->kv.data, w->kv.size, err);
    if (!rc) rc = file_write(f, w->info.data, w->info.size, err);
    if (!rc) rc = file_write(f, zero, (ALIGN - f->written % ALIGN) % ALIGN, err);
    return rc;
}

int gguf_write(gguf_writer *w, file_writer *f, gguf_fill fill, void *user, sq_error *err)
{
    size_t largest = 0;
    if (w->failed || w->kv.failed || w->info.failed)
        return error_set(err, SQ_E_NOMEM, "%s: out of memory", f->path);
    for (int i = 0; i < w->n_tensor; i++)
        largest = w->tensor[i].padded > largest ? w->tensor[i].padded : largest;
    TRY(write_header(w, f, err));
    unsigned char *buf = malloc(largest + 1);
    int rc = buf ? SQ_OK : error_set(err, SQ_E_NOMEM, "%s: out of memory", f->path);
    for (int i = 0; i < w->n_tensor && !rc; i++) {
        const out_tensor *t = &w->tensor[i];
        memset(buf + t->size, 0, t->padded - t->size);
        rc = fill(user, i, buf, t->size, err);
        if (!rc) rc = file_write(f, buf, t->padded, err);
    }
    free(buf);
    return rc;
}

int gguf_save(gguf_writer *w, const char *path, gguf_fill fill, void *user, sq_error *err)
{
    file_writer f;
    TRY(file_writer_open(&f, path, err));
    int rc = gguf_write(w, &f, fill, user, err);
    if (rc) {
        file_writer_abort(&f);
        return rc;
    }
    return file_writer_commit(&f, err);
}
