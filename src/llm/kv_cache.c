#include "llm/kv_cache.h"

#include <stdlib.h>

static void layers_free(kv_cache *kv, sq_tensor *t)
{
    if (!t) return;
    for (int i = 0; i < kv->n_layer; i++)
        if (t[i].data) kv->be->memory.free(kv->be->memory.user, t[i].data);
    free(t);
}

void kv_cache_close(kv_cache *kv)
{
    layers_free(kv, kv->k);
    layers_free(kv, kv->v);
    free(kv->len);
    *kv = (kv_cache){0};
}

/* Replaces t by room for n_ctx rows and keeps its first `used` rows. */
static int layer_grow(kv_cache *kv, sq_tensor *t, int n_ctx, int used)
{
    sq_backend *be = kv->be;
    size_t row = dtype_row_bytes(kv->dtype, kv->dim);
    void *fresh = be->memory.alloc(be->memory.user, row * (size_t)n_ctx);
    if (!fresh) return SQ_E_NOMEM;
    if (used) be->convert(be, fresh, kv->dtype, t->data, kv->dtype, (int64_t)used * kv->dim);
    if (be->err.code) { /* the old rows are still there */
        be->memory.free(be->memory.user, fresh);
        return be->err.code;
    }
    if (t->data) be->memory.free(be->memory.user, t->data);
    *t = tensor_2d(fresh, kv->dtype, n_ctx, kv->dim);
    return SQ_OK;
}

int kv_cache_reserve(kv_cache *kv, int n_ctx, sq_error *err)
{
    if (n_ctx <= kv->n_ctx) return SQ_OK;
    int64_t want = (int64_t)kv->n_ctx * 2 > n_ctx ? (int64_t)kv->n_ctx * 2 : n_ctx;
    if (want > INT32_MAX / 2 || dtype_row_bytes(kv->dtype, want * kv->dim) == 0)
        return error_set(err, SQ_E_LIMIT, "KV cache: %lld tokens are too many", (long long)want);
    for (int i = 0; i < kv->n_layer; i++) {
        int rc = layer_grow(kv, &kv->k[i], (int)want, kv->len[i]);
        if (!rc) rc = layer_grow(kv, &kv->v[i], (int)want, kv->len[i]);
        if (kv->be->err.code) return error_set(err, kv->be->err.code, "%s", kv->be->err.text);
        if (rc)
            return error_set(err, rc, "KV cache: out of memory for %lld tokens", (long long)want);
    }
    kv->n_ctx = (int)want;
    return SQ_OK;
}

int kv_cache_open(kv_cache *kv, sq_backend *be, int n_layer, int n_ctx, int dim, sq_dtype dtype,
                  sq_error *err)
{
    *kv = (kv_cache){.be = be, .n_layer = n_layer, .dim = dim, .dtype = dtype};
    kv->len = calloc((size_t)n_layer, sizeof *kv->len);
    kv->k = calloc((size_t)n_layer, sizeof *kv->k);
    kv->v = calloc((size_t)n_layer, sizeof *kv->v);
    int rc = SQ_OK;
    if (!kv->len || !kv->k || !kv->v) rc = error_set(err, SQ_E_NOMEM, "KV cache: out of memory");
    if (!rc) rc = kv_cache_reserve(kv, n_ctx, err);
    if (rc) kv_cache_close(kv);
    return rc;
}

void kv_cache_truncate(kv_cache *kv, int n)
{
    for (int i = 0; i < kv->n_layer; i++)
        if (kv->len[i] > n) kv->len[i] = n;
}

size_t kv_cache_bytes(const kv_cache *kv)
{
    size_t tokens = 0;
    for (int i = 0; i < kv->n_layer; i++)
        tokens += (size_t)kv->len[i];
    return tokens * 2 * dtype_row_bytes(kv->dtype, kv->dim);
}
