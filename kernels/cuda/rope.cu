/* Rotary embedding of q and k, and the append of k and v to the caches, in one pass. */
#include "kernels/cuda/pack.cuh"

enum { ROPE_THREADS = 256, ROPE_MAX_HALF = 256 };

struct rope_args {
    void *q, *cache_k, *cache_v; /* the caches from row `at` on */
    const void *k, *v;
    const int32_t *pos;
    float inv_freq[ROPE_MAX_HALF], mscale;
    int n, n_q, n_head, n_head_kv, half;
    bool interleaved;
};

/* P values; with P = 8 both pointers are aligned to 16 bytes. */
template <class T, int P> __device__ __forceinline__ void rope_load(float *x, const T *p)
{
    alignas(16) T raw[P];
    if constexpr (P == 8)
#pragma unroll
        for (int i = 0; i < (int)(P * sizeof(T) / 16); i++)
            ((uint4 *)raw)[i] = ((const uint4 *)p)[i];
    else
        raw[0] = p[0];
#pragma unroll
    for (int i = 0; i < P; i++)
        x[i] = to_f32(raw[i]);
}

template <class T, int P> __device__ __forceinline__ void rope_store(T *p, const float *x)
{
    alignas(16) T raw[P];
#pragma unroll
    for (int i = 0; i < P; i++)
        raw[i] = from_f32<T>(x[i]);
    if constexpr (P == 8)
#pragma unroll
        for (int i = 0; i < (int)(P * sizeof(T) / 16); i++)
            ((uint4 *)p)[i] = ((const uint4 *)raw)[i];
    else
        p[0] = raw[0];
}

/* to = the pairs unit * P .. + P of a row of heads, rotated. */
template <class T, class C, int P>
__device__ __forceinline__ void rope_unit(C *to, const T *from, int unit, const rope_args &a,
                                          const float2 *turn)
{
    int per_head = a.half / P, head = unit / per_head, pair = (unit - head * per_head) * P;
    int first = head * 2 * a.half + (a.interleaved ? 2 * pair : pair);
    int second = first + (a.interleaved ? P : a.half);
    float x[2 * P], y[2 * P];
    rope_load<T, P>(x, from + first);
    rope_load<T, P>(x + P, from + second);
    if (a.interleaved) {
#pragma unroll
        for (int i = 0; i < P; i++) {
            float2 t = turn[pair + i];
            y[2 * i] = x[2 * i] * t.x - x[2 * i + 1] * t.y;
            y[2 * i + 1] = x[2 * i + 1] * t.x + x[2 * i] * t.y;
        }
    } else {
#pragma unroll
        for (int i = 0; i < P; i++) {
            float2 t = turn[pair + i];
            y[i] = x[i] * t.x - x[P + i] * t.y;
            y[P + i] = x[P + i] * t.x + x[i] * t.y;
        }
    }
    rope_store<C, P>(to + first, y);
    rope_store<C, P>(to + second, y + P);
}

/* Grid: rows, parts of a row. */
template <class T, class C, int P>
__global__ void __launch_bounds__(ROPE_THREADS)
    rope_append_kernel(const __grid_constant__ rope_args a)
{
    __shared__ float2 turn[ROPE_MAX_HALF];
    cuda_wait();
    cuda_release();
    int64_t row = blockIdx.x, q_row = row - (a.n - a.n_q);
    float pos = (float)a.pos[row];
    for (int i = threadIdx.x; i < a.half; i += ROPE_THREADS) {
        float sine, cosine; /* of the angle rounded to f32, as in transformers */
        sincosf(__fmul_rn(pos, a.inv_freq[i]), &sine, &cosine);
        turn[i] = make_float2(cosine * a.mscale, sine * a.mscale);
    }
    __syncthreads();
    int kv = a.n_head_kv * a.half / P, all = 2 * kv;
    int64_t kv_at = row * a.n_head_kv * 2 * a.half, q_at = q_row * a.n_head * 2 * a.half;
    if (q_row >= 0) all += a.n_head * a.half / P;
    for (int u = blockIdx.y * ROPE_THREADS + threadIdx.x; u < all; u += gridDim.y * ROPE_THREADS) {
        if (u < kv) {
            rope_unit<T, C, P>((C *)a.cache_k + kv_at, (const T *)a.k + kv_at, u, a, turn);
        } else if (u < 2 * kv) {
            float x[2 * P];
            int64_t at = kv_at + (int64_t)(u - kv) * 2 * P;
            rope_load<T, P>(x, (const T *)a.v + at);
            rope_load<T, P>(x + P, (const T *)a.v + at + P);
            rope_store<C, P>((C *)a.cache_v + at, x);
            rope_store<C, P>((C *)a.cache_v + at + P, x + P);
        } else {
            rope_unit<T, T, P>((T *)a.q + q_at, (const T *)a.q + q_at, u - 2 * kv, a, turn);
        }
    }
}

static void *row_of(const sq_tensor *t, int64_t row)
{
    return (char *)t->data + row * (int64_t)dtype_row_bytes(t->dtype, t->shape[1]);
}

template <class T, class C> static void rope_start(sq_backend *be, const rope_args *a)
{
    const void *all[] = {a->q, a->k, a->v, a->cache_k, a->cache_v};
    bool wide = a->half % 8 == 0;
    for (const void *p : all)
        wide = wide && cuda_aligned(p, 16);
    int64_t units = (int64_t)(a->n_head + 2 * a->n_head_kv) * a->half / (wide ? 8 : 1);
    int64_t most = (units + ROPE_THREADS - 1) / ROPE_THREADS;
    int64_t parts = (2 * cuda_of(be)->n_sm + a->n - 1) / a->n; /* few rows: spread each */
    dim3 grid((unsigned)a->n, (unsigned)(parts < most ? parts : most));
    auto kernel = wide ? rope_append_kernel<T, C, 8> : rope_append_kernel<T, C, 1>;
    cuda_launch(be, "rope_append", kernel, grid, dim3(ROPE_THREADS), 0, *a);
}

void cuda_rope_append(sq_backend *be, sq_tensor *q, sq_tensor *k, const sq_tensor *v,
                      sq_tensor *cache_k, sq_tensor *cache_v, int at, const sq_tensor *pos,
                      const rope_desc *d)
{
    if (be->err.code || k->shape[0] == 0) return;
    if (d->head_dim / 2 > ROPE_MAX_HALF || q->dtype != k->dtype || q->dtype != v->dtype ||
        cache_k->dtype != cache_v->dtype) {
        cuda_refuse(be, "rope_append", "heads over 512 values or types that differ");
        return;
    }
    rope_args a = {};
    a.q = q->data;
    a.k = k->data;
    a.v = v->data;
    a.cache_k = row_of(cache_k, at);
    a.cache_v = row_of(cache_v, at);
    a.pos = (const int32_t *)pos->data;
    a.half = d->head_dim / 2;
    for (int i = 0; i < a.half; i++)
        a.inv_freq[i] = d->inv_freq[i];
    a.mscale = d->mscale;
    a.n = (int)k->shape[0];
    a.n_q = (int)q->shape[0];
    a.n_head = d->n_head;
    a.n_head_kv = d->n_head_kv;
    a.interleaved = d->interleaved;
    bool known = with_type(k->dtype, [&](auto t) {
        if (!with_type(cache_k->dtype,
                       [&](auto c) { rope_start<decltype(t), decltype(c)>(be, &a); }))
            cuda_refuse(be, "rope_append", "the type of the caches");
    });
    if (!known) cuda_refuse(be, "rope_append", "the type of q and k");
}
