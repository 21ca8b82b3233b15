/* Eight values of a row as they lie in memory: many can be in flight before the first is converted.
 */
#ifndef SQ_CUDA_RAW8_CUH
#define SQ_CUDA_RAW8_CUH

#include "kernels/cuda/pack.cuh"

template <class T> struct raw8 {
    enum { N_WORD = 2 * sizeof(T) };
    uint32_t word[N_WORD];
};

template <class T> __device__ __forceinline__ void raw8_zero(raw8<T> &r)
{
#pragma unroll
    for (int i = 0; i < raw8<T>::N_WORD; i++)
        r.word[i] = 0;
}

/* wide: p is aligned to 16 bytes; what is read so is not kept in the first-level cache. */
template <class T> __device__ __forceinline__ void raw8_load(raw8<T> &r, const T *p, bool wide)
{
    if (wide) {
#pragma unroll
        for (int i = 0; i < raw8<T>::N_WORD; i += 4) {
            uint4 w = __ldcg((const uint4 *)p + i / 4);
            r.word[i] = w.x;
            r.word[i + 1] = w.y;
            r.word[i + 2] = w.z;
            r.word[i + 3] = w.w;
        }
    } else if (sizeof(T) == 4) {
#pragma unroll
        for (int i = 0; i < raw8<T>::N_WORD; i++)
            r.word[i] = ((const uint32_t *)p)[i];
    } else {
#pragma unroll
        for (int i = 0; i < raw8<T>::N_WORD; i++) {
            const uint16_t *half = (const uint16_t *)p + 2 * i;
            r.word[i] = half[0] | (uint32_t)half[1] << 16;
        }
    }
}

__device__ __forceinline__ void raw8_values(float (&x)[8], const raw8<float> &r)
{
#pragma unroll
    for (int i = 0; i < 8; i++)
        x[i] = __uint_as_float(r.word[i]);
}

__device__ __forceinline__ void raw8_values(float (&x)[8], const raw8<__nv_bfloat16> &r)
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        x[2 * i] = __uint_as_float(r.word[i] << 16);
        x[2 * i + 1] = __uint_as_float(r.word[i] & 0xffff0000u);
    }
}

__device__ __forceinline__ void raw8_values(float (&x)[8], const raw8<__half> &r)
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        __half2_raw h;
        h.x = (unsigned short)(r.word[i] & 0xffffu);
        h.y = (unsigned short)(r.word[i] >> 16);
        float2 f = __half22float2(__half2(h));
        x[2 * i] = f.x;
        x[2 * i + 1] = f.y;
    }
}

#endif
