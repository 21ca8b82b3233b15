#include "models/gguf.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_MAX = 65535, NAME_MAX_BYTES = 255, ALIGN_MAX = 1 << 20 };

/* A reader over mapped bytes; every get checks what is left. */
typedef struct cursor {
    const unsigned char *data;
    size_t size, at;
    const char *path;
    sq_error *err;
} cursor;

static int cut_off(const cursor *c, const char *what)
{
    return error_set(c->err, SQ_E_FORMAT, "%s: %s at byte %zu does not fit the file of %zu bytes",
                     c->path, what, c->at, c->size);
}

static uint64_t little(const unsigned char *p, int n)
{
    uint64_t v = 0;
    for (int i = 0; i < n; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static int get_u32(cursor *c, const char *what, uint32_t *out)
{
    if (c->size - c->at < 4) return cut_off(c, what);
    *out = (uint32_t)little(c->data + c->at, 4);
    c->at += 4;
    return SQ_OK;
}

static int get_u64(cursor *c, const char *what, uint64_t *out)
{
    if (c->size - c->at < 8) return cut_off(c, what);
    *out = little(c->data + c->at, 8);
    c->at += 8;
    return SQ_OK;
}

static int skip_text(cursor *c, const char *what, const unsigned char **text, uint64_t *n)
{
    TRY(get_u64(c, what, n));
    if (*n > c->size - c->at) return cut_off(c, what);
    *text = c->data + c->at;
    c->at += (size_t)*n;
    return SQ_OK;
}

/* A key or tensor name: short, and without a 0 inside. */
static int get_name(cursor *c, const char *what, size_t max, arena *mem, const char **out)
{
    const unsigned char *text = NULL;
    uint64_t n = 0;
    TRY(skip_text(c, what, &text, &n));
    if (n == 0 || n > max || memchr(text, 0, (size_t)n))
        return error_set(c->err, SQ_E_FORMAT, "%s: %s at byte %zu: expected 1..%zu characters",
                         c->path, what, c->at - (size_t)n, max);
    *out = arena_strndup(mem, (const char *)text, (size_t)n);
    return *out ? SQ_OK : error_set(c->err, SQ_E_NOMEM, "%s: out of memory", c->path);
}

/* ---- key-values ---- */

static size_t type_bytes(gguf_type t)
{
    static const unsigned char bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return bytes[t];
}

static int get_type(cursor *c, const char *key, gguf_type *out)
{
    uint32_t t = 0;
    TRY(get_u32(c, key, &t));
    if (t > GGUF_F64)
        return error_set(c->err, SQ_E_FORMAT, "%s: %s: value type %u is not known", c->path, key,
                         (unsigned)t);
    *out = (gguf_type)t;
    return SQ_OK;
}

static int skip_values(cursor *c, const char *key, gguf_type type, uint64_t n)
{
    const unsigned char *text;
    uint64_t size;
    if (type == GGUF_STRING) {
        for (uint64_t i = 0; i < n; i++)
            TRY(skip_text(c, key, &text, &size));
        return SQ_OK;
    }
    if (n > (c->size - c->at) / type_bytes(type)) return cut_off(c, key);
    c->at += (size_t)n * type_bytes(type);
    return SQ_OK;
}

static int get_kv(cursor *c, gguf_file *g, gguf_kv *kv)
{
    TRY(get_name(c, "key", KEY_MAX, &g->mem, &kv->key));
    TRY(get_type(c, kv->key, &kv->type));
    kv->item = kv->type;
    kv->n = 1;
    if (kv->type == GGUF_ARRAY) {
        TRY(get_type(c, kv->key, &kv->item));
        if (kv->item == GGUF_ARRAY)
            return error_set(c->err, SQ_E_UNSUPPORTED, "%s: %s: an array of arrays", c->path,
                             kv->key);
        TRY(get_u64(c, kv->key, &kv->n));
    }
    kv->data = c->data + c->at;
    return skip_values(c, kv->key, kv->item, kv->n);
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const gguf_kv *)a)->key, ((const gguf_kv *)b)->key);
}

static int get_kvs(cursor *c, gguf_file *g, uint64_t n)
{
    /* the smallest key-value: an 8-byte length, one character, a type, one byte */
    if (n > (c->size - c->at) / 14) return cut_off(c, "the list of keys");
    g->kv = arena_calloc(&g->mem, (size_t)n + 1, sizeof *g->kv);
    if (!g->kv) return error_set(c->err, SQ_E_NOMEM, "%s: out of memory", c->path);
    for (uint64_t i = 0; i < n; i++)
        TRY(get_kv(c, g, &g->kv[i]));
    g->n_kv = (int)n;
    qsort(g->kv, (size_t)n, sizeof *g->kv, by_key);
    for (int i = 1; i < g->n_kv; i++)
        if (strcmp(g->kv[i - 1].key, g->kv[i].key) == 0)
            return error_set(c->err, SQ_E_FORMAT, "%s: key %s is there twice", c->path,
                             g->kv[i].key);
    return SQ_OK;
}

/* ---- tensors ---- */

typedef struct ggml_type {
    int id;
    const char *name;
    sq_dtype dtype; /* NONE: known, but not read */
    int block, bytes; /* values in a block and its bytes */
} ggml_type;

static const ggml_type ggml_types[] = {
    {0, "F32", SQ_DTYPE_F32, 1, 4},       {1, "F16", SQ_DTYPE_F16, 1, 2},
    {2, "Q4_0", SQ_DTYPE_NONE, 32, 18},   {3, "Q4_1", SQ_DTYPE_NONE, 32, 20},
    {6, "Q5_0", SQ_DTYPE_NONE, 32, 22},   {7, "Q5_1", SQ_DTYPE_NONE, 32, 24},
    {8, "Q8_0", SQ_DTYPE_Q8_0, 32, 34},   {9, "Q8_1", SQ_DTYPE_NONE, 32, 36},
    {10, "Q2_K", SQ_DTYPE_NONE, 256, 84}, {11, "Q3_K", SQ_DTYPE_NONE, 256, 110},
    {12, "Q4_K", SQ_DTYPE_NONE, 256, 144}, {13, "Q5_K", SQ_DTYPE_NONE, 256, 176},
    {14, "Q6_K", SQ_DTYPE_NONE, 256, 210}, {15, "Q8_K", SQ_DTYPE_NONE, 256, 292},
    {16, "IQ2_XXS", SQ_DTYPE_NONE, 256, 66}, {17, "IQ2_XS", SQ_DTYPE_NONE, 256, 74},
    {18, "IQ3_XXS", SQ_DTYPE_NONE, 256, 98}, {19, "IQ1_S", SQ_DTYPE_NONE, 256, 50},
    {20, "IQ4_NL", SQ_DTYPE_NONE, 32, 18}, {21, "IQ3_S", SQ_DTYPE_NONE, 256, 110},
    {22, "IQ2_S", SQ_DTYPE_NONE, 256, 82}, {23, "IQ4_XS", SQ_DTYPE_NONE, 256, 136},
    {24, "I8", SQ_DTYPE_NONE, 1, 1},      {25, "I16", SQ_DTYPE_NONE, 1, 2},
    {26, "I32", SQ_DTYPE_I32, 1, 4},      {27, "I64", SQ_DTYPE_NONE, 1, 8},
    {28, "F64", SQ_DTYPE_NONE, 1, 8},     {29, "IQ1_M", SQ_DTYPE_NONE, 256, 56},
    {30, "BF16", SQ_DTYPE_BF16, 1, 2},    {34, "TQ1_0", SQ_DTYPE_NONE, 256, 54},
    {35, "TQ2_0", SQ_DTYPE_NONE, 256, 66}, {39, "MXFP4", SQ_DTYPE_NONE, 32, 17},
};

static const ggml_type *type_of(uint32_t id)
{
    for (size_t i = 0; i < sizeof ggml_types / sizeof *ggml_types; i++)
        if ((uint32_t)ggml_types[i].id == id) return &ggml_types[i];
    return NULL;
}

/* Where a tensor's bytes lie behind the header; size 0 for a type of unknown layout. */
typedef struct span {
    uint64_t begin, size;
    weight_entry e;
} span;

static int get_shape(cursor *c, sq_tensor *t, const char *name, uint64_t *count)
{
    uint32_t rank = 0;
    uint64_t dim[SQ_MAX_RANK];
    TRY(get_u32(c, name, &rank));
    if (rank < 1 || rank > SQ_MAX_RANK)
        return error_set(c->err, SQ_E_FORMAT, "%s: %s: %u dimensions: expected 1..%d", c->path,
                         name, (unsigned)rank, SQ_MAX_RANK);
    *count = 1;
    for (uint32_t i = 0; i < rank; i++) {
        TRY(get_u64(c, name, &dim[i]));
        if (dim[i] < 1 || dim[i] > (uint64_t)(INT64_MAX / 512) / *count)
            return error_set(c->err, SQ_E_FORMAT, "%s: %s: shape is not valid", c->path, name);
        *count *= dim[i];
    }
    t->rank = (int)rank;
    for (uint32_t i = 0; i < rank; i++)
        t->shape[i] = (int64_t)dim[rank - 1 - i];
    return SQ_OK;
}

static int get_tensor(cursor *c, arena *mem, uint64_t align, span *s)
{
    weight_entry *e = &s->e;
    uint64_t count = 0;
    uint32_t id = 0;
    TRY(get_name(c, "tensor name", NAME_MAX_BYTES, mem, &e->name));
    TRY(get_shape(c, &e->t, e->name, &count));
    TRY(get_u32(c, e->name, &id));
    TRY(get_u64(c, e->name, &s->begin));
    const ggml_type *type = type_of(id);
    if (s->begin % align)
        return error_set(c->err, SQ_E_FORMAT, "%s: %s: offset %" PRIu64 " is no multiple of %"
                                              PRIu64, c->path, e->name, s->begin, align);
    if (!type) {
        snprintf(e->type_text, sizeof e->type_text, "%u", (unsigned)id);
        return SQ_OK;
    }
    if (e->t.shape[e->t.rank - 1] % type->block)
        return error_set(c->err, SQ_E_FORMAT, "%s: %s: rows of %" PRId64 " do not fit type %s",
                         c->path, e->name, e->t.shape[e->t.rank - 1], type->name);
    snprintf(e->type_text, sizeof e->type_text, "%s", type->name);
    e->t.dtype = type->dtype;
    s->size = count / (uint64_t)type->block * (uint64_t)type->bytes;
    return SQ_OK;
}

static int by_begin(const void *a, const void *b)
{
    const span *x = a, *y = b;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

/* The spans have been read; data starts at the next aligned byte. */
static int place_tensors(cursor *c, weight_map *w, uint64_t align, span *s, int n,
                         const char *file)
{
    size_t pad = (size_t)((align - c->at % align) % align);
    if (n && c->size - c->at < pad) return cut_off(c, "tensor data");
    c->at += n ? pad : 0;
    uint64_t left = c->size - c->at, end = 0;
    if (n) qsort(s, (size_t)n, sizeof *s, by_begin);
    for (int i = 0; i < n; i++) {
        weight_entry *e = weight_map_new(w);
        if (!e) return error_set(c->err, SQ_E_NOMEM, "%s: out of memory", c->path);
        *e = s[i].e;
        e->file = file;
        if (s[i].begin > left || s[i].size > left - s[i].begin)
            return error_set(c->err, SQ_E_FORMAT,
                             "%s: %s: %" PRIu64 " bytes at %" PRIu64 " lie outside the file (cut "
                             "off?)",
                             c->path, e->name, s[i].size, c->at + s[i].begin);
        if (s[i].begin < end)
            return error_set(c->err, SQ_E_FORMAT, "%s: %s shares bytes with another tensor",
                             c->path, e->name);
        end = s[i].begin + s[i].size;
        if (e->t.dtype) e->t.data = (void *)(size_t)(c->data + c->at + s[i].begin);
    }
    return SQ_OK;
}

static int get_tensors(cursor *c, gguf_file *g, weight_map *w, uint64_t n, const char *file)
{
    int align = 32;
    TRY(gguf_int(g, "general.alignment", 8, ALIGN_MAX, &align, c->err));
    if (align & (align - 1))
        return error_set(c->err, SQ_E_FORMAT, "%s: general.alignment: expected a power of two, "
                                              "found %d", c->path, align);
    /* the smallest tensor entry: name, one dimension, type, offset */
    if (n > (c->size - c->at) / 33) return cut_off(c, "the list of tensors");
    span *s = calloc((size_t)n + 1, sizeof *s);
    if (!s) return error_set(c->err, SQ_E_NOMEM, "%s: out of memory", c->path);
    int rc = SQ_OK;
    for (uint64_t i = 0; i < n && !rc; i++)
        rc = get_tensor(c, &w->mem, (uint64_t)align, &s[i]);
    if (!rc) rc = place_tensors(c, w, (uint64_t)align, s, (int)n, file);
    free(s);
    return rc;
}

int gguf_open(gguf_file *g, weight_map *w, const char *path, sq_error *err)
{
    const file_map *map;
    const char *file;
    uint32_t version = 0;
    uint64_t n_tensor = 0, n_kv = 0;
    *g = (gguf_file){0};
    snprintf(g->path, sizeof g->path, "%s", path);
    TRY(weight_map_add_file(w, path, &map, &file, err));
    cursor c = {map->data, map->size, 4, file, err};
    if (map->size < 4 || memcmp(map->data, "GGUF", 4) != 0)
        return error_set(err, SQ_E_FORMAT, "%s: not a GGUF file", path);
    TRY(get_u32(&c, "version", &version));
    if (version != 2 && version != 3)
        return error_set(err, SQ_E_UNSUPPORTED, "%s: GGUF version %u: expected 2 or 3%s", path,
                         (unsigned)version,
                         version > 0xffff ? " (a big-endian file is not supported)" : "");
    TRY(get_u64(&c, "tensor count", &n_tensor));
    TRY(get_u64(&c, "key count", &n_kv));
    if (n_kv > INT32_MAX / 2 || n_tensor > INT32_MAX / 2)
        return error_set(err, SQ_E_FORMAT, "%s: %" PRIu64 " tensors and %" PRIu64 " keys do not "
                                           "fit the file", path, n_tensor, n_kv);
    int rc = get_kvs(&c, g, n_kv);
    if (!rc) rc = get_tensors(&c, g, w, n_tensor, file);
    if (rc) gguf_close(g);
    return rc;
}

void gguf_close(gguf_file *g)
{
    arena_close(&g->mem);
    g->kv = NULL;
    g->n_kv = 0;
}

/* ---- typed access ---- */

const gguf_kv *gguf_find(const gguf_file *g, const char *key)
{
    gguf_kv probe = {.key = key};
    return g->n_kv ? bsearch(&probe, g->kv, (size_t)g->n_kv, sizeof *g->kv, by_key) : NULL;
}

static int wrong(const gguf_file *g, const char *key, const char *expected, sq_error *err)
{
    return error_set(err, SQ_E_FORMAT, "%s: %s: expected %s", g->path, key, expected);
}

static bool is_int(gguf_type t)
{
    return t <= GGUF_I32 || t == GGUF_U64 || t == GGUF_I64;
}

/* Value i of an integer key as a double: exact up to 2^53, and larger values are out of range
 * wherever squint reads one. */
static double int_at(const gguf_kv *kv, uint64_t i)
{
    int n = (int)type_bytes(kv->item);
    uint64_t u = little(kv->data + i * (uint64_t)n, n);
    bool is_signed = kv->item == GGUF_I8 || kv->item == GGUF_I16 || kv->item == GGUF_I32 ||
                     kv->item == GGUF_I64;
    if (!is_signed || !(u >> (8 * n - 1))) return (double)u;
    return n == 8 ? -(double)(~u + 1) : (double)u - ldexp(1, 8 * n);
}

static float float_at(const gguf_kv *kv, uint64_t i)
{
    union {
        uint32_t u;
        float f;
    } single;
    union {
        uint64_t u;
        double f;
    } full;
    if (kv->item == GGUF_F32) {
        single.u = (uint32_t)little(kv->data + i * 4, 4);
        return single.f;
    }
    full.u = little(kv->data + i * 8, 8);
    return fabs(full.f) <= 3e38 ? (float)full.f : NAN;
}

int gguf_int(const gguf_file *g, const char *key, int64_t min, int64_t max, int *out,
             sq_error *err)
{
    const gguf_kv *kv = gguf_find(g, key);
    if (!kv) return SQ_OK;
    if (!is_int(kv->type)) return wrong(g, key, "a whole number", err);
    double v = int_at(kv, 0);
    if (!(v >= (double)min && v <= (double)max))
        return error_set(err, SQ_E_FORMAT, "%s: %s: %.0f is outside %" PRId64 "..%" PRId64,
                         g->path, key, v, min, max);
    *out = (int)v;
    return SQ_OK;
}

int gguf_need_int(const gguf_file *g, const char *key, int64_t min, int64_t max, int *out,
                  sq_error *err)
{
    if (!gguf_find(g, key))
        return error_set(err, SQ_E_FORMAT, "%s: key %s is missing", g->path, key);
    return gguf_int(g, key, min, max, out, err);
}

int gguf_float(const gguf_file *g, const char *key, float *out, sq_error *err)
{
    const gguf_kv *kv = gguf_find(g, key);
    if (!kv) return SQ_OK;
    if ((kv->type != GGUF_F32 && kv->type != GGUF_F64) || !isfinite(float_at(kv, 0)))
        return wrong(g, key, "a finite number", err);
    *out = float_at(kv, 0);
    return SQ_OK;
}

int gguf_bool(const gguf_file *g, const char *key, bool *out, sq_error *err)
{
    const gguf_kv *kv = gguf_find(g, key);
    if (!kv) return SQ_OK;
    if (kv->type != GGUF_BOOL || kv->data[0] > 1) return wrong(g, key, "true or false", err);
    *out = kv->data[0] != 0;
    return SQ_OK;
}

int gguf_string(gguf_file *g, const char *key, const char **out, sq_error *err)
{
    const gguf_kv *kv = gguf_find(g, key);
    if (!kv) return SQ_OK;
    if (kv->type != GGUF_STRING) return wrong(g, key, "a string", err);
    *out = arena_strndup(&g->mem, (const char *)kv->data + 8, (size_t)little(kv->data, 8));
    return *out ? SQ_OK : error_set(err, SQ_E_NOMEM, "%s: out of memory", g->path);
}

static const gguf_kv *array_of(const gguf_file *g, const char *key, int *n)
{
    const gguf_kv *kv = gguf_find(g, key);
    *n = 0;
    if (!kv || kv->type != GGUF_ARRAY || kv->n > INT32_MAX) return NULL;
    *n = (int)kv->n;
    return kv;
}

int gguf_strings(gguf_file *g, const char *key, const char ***out, int *n, sq_error *err)
{
    const gguf_kv *kv = array_of(g, key, n);
    if (!gguf_find(g, key)) return SQ_OK;
    if (!kv || kv->item != GGUF_STRING) return wrong(g, key, "an array of strings", err);
    size_t total = 0;
    const unsigned char *p = kv->data;
    for (int i = 0; i < *n; i++) {
        total += (size_t)little(p, 8) + 1;
        p += 8 + little(p, 8);
    }
    char *text = arena_alloc(&g->mem, total);
    const char **list = arena_calloc(&g->mem, (size_t)*n + 1, sizeof *list);
    if (!text || !list) return error_set(err, SQ_E_NOMEM, "%s: out of memory", g->path);
    p = kv->data;
    for (int i = 0; i < *n; i++) {
        size_t size = (size_t)little(p, 8);
        memcpy(text, p + 8, size);
        text[size] = 0;
        list[i] = text;
        text += size + 1;
        p += 8 + size;
    }
    *out = list;
    return SQ_OK;
}

int gguf_floats(gguf_file *g, const char *key, const float **out, int *n, sq_error *err)
{
    const gguf_kv *kv = array_of(g, key, n);
    if (!gguf_find(g, key)) return SQ_OK;
    if (!kv || (kv->item != GGUF_F32 && kv->item != GGUF_F64))
        return wrong(g, key, "an array of numbers", err);
    float *list = arena_calloc(&g->mem, (size_t)*n + 1, sizeof *list);
    if (!list) return error_set(err, SQ_E_NOMEM, "%s: out of memory", g->path);
    for (int i = 0; i < *n; i++) {
        list[i] = float_at(kv, (uint64_t)i);
        if (!isfinite(list[i])) return wrong(g, key, "finite numbers", err);
    }
    *out = list;
    return SQ_OK;
}

int gguf_ints(gguf_file *g, const char *key, const int32_t **out, int *n, sq_error *err)
{
    const gguf_kv *kv = array_of(g, key, n);
    if (!gguf_find(g, key)) return SQ_OK;
    if (!kv || !is_int(kv->item)) return wrong(g, key, "an array of whole numbers", err);
    int32_t *list = arena_calloc(&g->mem, (size_t)*n + 1, sizeof *list);
    if (!list) return error_set(err, SQ_E_NOMEM, "%s: out of memory", g->path);
    for (int i = 0; i < *n; i++) {
        double v = int_at(kv, (uint64_t)i);
        if (!(v >= INT32_MIN && v <= INT32_MAX)) return wrong(g, key, "32-bit numbers", err);
        list[i] = (int32_t)v;
    }
    *out = list;
    return SQ_OK;
}
