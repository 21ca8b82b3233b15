/* KV cache: K and V of every layer, with a length per layer. Contiguous [n_ctx, n_head_kv*hd]. */
#ifndef SQ_KV_CACHE_H
#define SQ_KV_CACHE_H

#include "kernels/backend.h"

typedef struct kv_cache {
    sq_backend *be;
    int n_layer, n_ctx, dim;  /* dim = n_head_kv * head_dim */
    sq_dtype dtype;           /* F32, F16 or BF16 */
    int *len;                 /* [n_layer] tokens held */
    sq_tensor *k, *v;         /* [n_layer], each [n_ctx, dim] */
} kv_cache;

/* Fails with SQ_E_NOMEM / SQ_E_LIMIT; kv is closed then. */
int kv_cache_open(kv_cache *kv, sq_backend *be, int n_layer, int n_ctx, int dim, sq_dtype dtype,
                  sq_error *err);
void kv_cache_close(kv_cache *kv);

/* Makes room for n_ctx tokens, keeping what is there; the capacity doubles. */
int kv_cache_reserve(kv_cache *kv, int n_ctx, sq_error *err);

/* Forgets everything from token n on, in every layer. */
void kv_cache_truncate(kv_cache *kv, int n);

/* Bytes of K and V held (not reserved). */
size_t kv_cache_bytes(const kv_cache *kv);

#endif
