/* Runs of 4 or 8 values in one or two 16-byte accesses, as f32 in registers; single values of a
 * type known at run time only. */
#ifndef SQ_CUDA_PACK_CUH
#define SQ_CUDA_PACK_CUH

#include "kernels/cuda/cuda.cuh"

static inline bool cuda_aligned(const void *p, size_t bytes)
{
    return (uintptr_t)p % bytes == 0;
}

/* Of kernels that go value by value: a block's threads, and its values where a thread has 8. */
enum { VALUE_THREADS = 256, VALUE_BLOCK = 8 * VALUE_THREADS };

/* Blocks of `per_block` that cover n. */
static inline unsigned cuda_blocks(int64_t n, int64_t per_block)
{
    return (unsigned)((n + per_block - 1) / per_block);
}

template <int BYTES> struct cuda_word;
template <> struct cuda_word<8> {
    using type = uint2;
};
template <> struct cuda_word<16> {
    using type = uint4;
};

/* Two numbers in one register, lo in the lower half. */
template <class T> __device__ __forceinline__ uint32_t pack_pair(float lo, float hi);
template <> __device__ __forceinline__ uint32_t pack_pair<__half>(float lo, float hi)
{
    __half2 h = __floats2half2_rn(lo, hi);
    return *(uint32_t *)&h;
}
template <> __device__ __forceinline__ uint32_t pack_pair<__nv_bfloat16>(float lo, float hi)
{
    __nv_bfloat162 h = __floats2bfloat162_rn(lo, hi);
    return *(uint32_t *)&h;
}

/* p aligned to 16 bytes, or to N values where they take 8. */
template <class T, int N> __device__ __forceinline__ void load_pack(float (&v)[N], const T *p)
{
    constexpr int BYTES = N * sizeof(T) < 16 ? N * sizeof(T) : 16, PER = BYTES / sizeof(T);
    using word = typename cuda_word<BYTES>::type;
    word w[N / PER];
#pragma unroll
    for (int j = 0; j < N / PER; j++)
        w[j] = ((const word *)p)[j];
#pragma unroll
    for (int k = 0; k < N; k++)
        v[k] = to_f32(((const T *)w)[k]);
}

template <class T, int N> __device__ __forceinline__ void store_pack(T *p, const float (&v)[N])
{
    constexpr int BYTES = N * sizeof(T) < 16 ? N * sizeof(T) : 16;
    using word = typename cuda_word<BYTES>::type;
    word w[N * sizeof(T) / BYTES];
    if constexpr (sizeof(T) == 4) {
#pragma unroll
        for (int k = 0; k < N; k++)
            ((float *)w)[k] = v[k];
    } else {
#pragma unroll
        for (int k = 0; k < N / 2; k++)
            ((uint32_t *)w)[k] = pack_pair<T>(v[2 * k], v[2 * k + 1]);
    }
#pragma unroll
    for (int j = 0; j < (int)(N * sizeof(T) / BYTES); j++)
        ((word *)p)[j] = w[j];
}

/* As load_pack and store_pack, or a single value. */
template <class T, int N> __device__ __forceinline__ void load_run(float (&v)[N], const T *p)
{
    if constexpr (N == 1)
        v[0] = to_f32(*p);
    else
        load_pack(v, p);
}

template <class T, int N> __device__ __forceinline__ void store_run(T *p, const float (&v)[N])
{
    if constexpr (N == 1)
        *p = from_f32<T>(v[0]);
    else
        store_pack(p, v);
}

/* Values i .. i+7 of p[n]; beyond the end 0. vec: p is aligned to 16 bytes (i % 8 == 0). */
template <class T>
__device__ __forceinline__ void load_8(float (&v)[8], const T *p, int64_t i, int64_t n, bool vec)
{
    if (vec && i + 8 <= n) {
        load_pack(v, p + i);
        return;
    }
#pragma unroll
    for (int k = 0; k < 8; k++)
        v[k] = i + k < n ? to_f32(p[i + k]) : 0.0f;
}

template <class T>
__device__ __forceinline__ void store_8(T *p, int64_t i, int64_t n, bool vec, const float (&v)[8])
{
    if (vec && i + 8 <= n) {
        store_pack(p + i, v);
        return;
    }
#pragma unroll
    for (int k = 0; k < 8; k++)
        if (i + k < n) p[i + k] = from_f32<T>(v[k]);
}

__device__ __forceinline__ float load_any(const void *p, sq_dtype t, int64_t i)
{
    if (t == SQ_DTYPE_BF16) return to_f32(((const __nv_bfloat16 *)p)[i]);
    if (t == SQ_DTYPE_F16) return to_f32(((const __half *)p)[i]);
    return ((const float *)p)[i];
}

/* load_any for N values from i on, as load_run. */
template <int N>
__device__ __forceinline__ void load_any_run(float (&v)[N], const void *p, sq_dtype t, int64_t i)
{
    if (t == SQ_DTYPE_BF16)
        load_run(v, (const __nv_bfloat16 *)p + i);
    else if (t == SQ_DTYPE_F16)
        load_run(v, (const __half *)p + i);
    else
        load_run(v, (const float *)p + i);
}

__device__ __forceinline__ void store_any(void *p, sq_dtype t, int64_t i, float x)
{
    if (t == SQ_DTYPE_F32)
        ((float *)p)[i] = x;
    else if (t == SQ_DTYPE_F16)
        ((__half *)p)[i] = from_f32<__half>(x);
    else
        ((__nv_bfloat16 *)p)[i] = from_f32<__nv_bfloat16>(x);
}

static inline bool dtype_is_float(sq_dtype t)
{
    return t == SQ_DTYPE_F32 || t == SQ_DTYPE_F16 || t == SQ_DTYPE_BF16;
}

#endif
