/* The few vector operations of the linear kernels, 8 floats wide with AVX2, 16 with AVX-512, so
 * that each kernel is written once and compiled in two files. */
#ifndef SQ_LINEAR_VEC_H
#define SQ_LINEAR_VEC_H

#include "core/tensor.h"

#include <immintrin.h>
#include <string.h>

#define LV_INLINE static inline __attribute__((always_inline))

/* 8 values as f32, for packing (both instruction sets). */
LV_INLINE __m256 l8_load(const void *p, sq_dtype t)
{
    if (t == SQ_DTYPE_F16) return _mm256_cvtph_ps(_mm_loadu_si128(p));
    if (t == SQ_DTYPE_BF16)
        return _mm256_castsi256_ps(
            _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
    if (t == SQ_DTYPE_Q8_0) return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p)));
    return _mm256_loadu_ps(p);
}

#if defined(__AVX512F__)
typedef __m512 lv;
enum { LV = 16 };

LV_INLINE lv lv_zero(void)
{
    return _mm512_setzero_ps();
}
LV_INLINE lv lv_set1(float f)
{
    return _mm512_set1_ps(f);
}
LV_INLINE lv lv_loadf(const float *p)
{
    return _mm512_loadu_ps(p);
}
LV_INLINE void lv_store(float *p, lv v)
{
    _mm512_storeu_ps(p, v);
}
LV_INLINE lv lv_add(lv a, lv b)
{
    return _mm512_add_ps(a, b);
}
LV_INLINE lv lv_mul(lv a, lv b)
{
    return _mm512_mul_ps(a, b);
}
LV_INLINE lv lv_fma(lv a, lv b, lv c)
{
    return _mm512_fmadd_ps(a, b, c);
}
LV_INLINE float lv_sum(lv v)
{
    return _mm512_reduce_add_ps(v);
}
/* Q8_0: the int8 values without their scale. */
LV_INLINE lv lv_load(const void *p, sq_dtype t)
{
    if (t == SQ_DTYPE_F16) return _mm512_cvtph_ps(_mm256_loadu_si256(p));
    if (t == SQ_DTYPE_BF16)
        return _mm512_castsi512_ps(
            _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16));
    if (t == SQ_DTYPE_Q8_0) return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p)));
    return _mm512_loadu_ps(p);
}
#else
typedef __m256 lv;
enum { LV = 8 };

LV_INLINE lv lv_zero(void)
{
    return _mm256_setzero_ps();
}
LV_INLINE lv lv_set1(float f)
{
    return _mm256_set1_ps(f);
}
LV_INLINE lv lv_loadf(const float *p)
{
    return _mm256_loadu_ps(p);
}
LV_INLINE void lv_store(float *p, lv v)
{
    _mm256_storeu_ps(p, v);
}
LV_INLINE lv lv_add(lv a, lv b)
{
    return _mm256_add_ps(a, b);
}
LV_INLINE lv lv_mul(lv a, lv b)
{
    return _mm256_mul_ps(a, b);
}
LV_INLINE lv lv_fma(lv a, lv b, lv c)
{
    return _mm256_fmadd_ps(a, b, c);
}
LV_INLINE float lv_sum(lv v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
LV_INLINE lv lv_load(const void *p, sq_dtype t)
{
    return l8_load(p, t);
}
#endif

LV_INLINE void l8_transpose(__m256 v[8])
{
    __m256 t[8], u[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_ps(v[2 * i], v[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(v[2 * i], v[2 * i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
        v[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
}

/* Bytes of k stored values, k a multiple of 32 for Q8_0. */
LV_INLINE size_t lv_bytes(sq_dtype t, int64_t k)
{
    if (t == SQ_DTYPE_Q8_0) return (size_t)(k / Q8_0_BLOCK) * sizeof(block_q8_0);
    return (size_t)k * (t == SQ_DTYPE_F32 ? 4 : 2);
}

/* The f16 scale at the head of a Q8_0 block. */
LV_INLINE float lv_scale(const void *block)
{
    uint16_t d;
    memcpy(&d, block, sizeof d);
    return _cvtsh_ss(d);
}

LV_INLINE float lv_scalar(const unsigned char *p, sq_dtype t)
{
    float f;
    uint16_t h;
    if (t == SQ_DTYPE_F32) {
        memcpy(&f, p, sizeof f);
        return f;
    }
    memcpy(&h, p, sizeof h);
    return t == SQ_DTYPE_F16 ? _cvtsh_ss(h) : bf16_to_f32(h);
}

#endif
