/* exp and what is built on it, on lv vectors. lv_exp: error below 2 ulp over the whole range
 * (checked by opcheck against double); results under 2^-149 are 0, over FLT_MAX inf; NaN stays. */
#ifndef SQ_VEC_MATH_H
#define SQ_VEC_MATH_H

#include "kernels/cpu/x86/linear_vec.h"

#if defined(__AVX512F__)
LV_INLINE lv lv_sub(lv a, lv b)
{
    return _mm512_sub_ps(a, b);
}
LV_INLINE lv lv_div(lv a, lv b)
{
    return _mm512_div_ps(a, b);
}
LV_INLINE lv lv_max(lv a, lv b)
{
    return _mm512_max_ps(a, b);
}
LV_INLINE lv lv_min(lv a, lv b)
{
    return _mm512_min_ps(a, b);
}
LV_INLINE lv lv_round(lv a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* a * 2^n for whole n */
LV_INLINE lv lv_scale2(lv a, lv n)
{
    return _mm512_scalef_ps(a, n);
}
LV_INLINE float lv_hmax(lv v)
{
    return _mm512_reduce_max_ps(v);
}
/* x where |x| is below limit, else big */
LV_INLINE lv lv_select_below(lv x, lv limit, lv below, lv above)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, limit, _CMP_LT_OQ), above, below);
}
LV_INLINE lv lv_abs(lv x)
{
    return _mm512_abs_ps(x);
}
LV_INLINE lv lv_copysign(lv magnitude, lv sign)
{
    __m512i bit = _mm512_set1_epi32((int)0x80000000u);
    return _mm512_castsi512_ps(_mm512_or_si512(
        _mm512_andnot_si512(bit, _mm512_castps_si512(magnitude)),
        _mm512_and_si512(bit, _mm512_castps_si512(sign))));
}
#else
LV_INLINE lv lv_sub(lv a, lv b)
{
    return _mm256_sub_ps(a, b);
}
LV_INLINE lv lv_div(lv a, lv b)
{
    return _mm256_div_ps(a, b);
}
LV_INLINE lv lv_max(lv a, lv b)
{
    return _mm256_max_ps(a, b);
}
LV_INLINE lv lv_min(lv a, lv b)
{
    return _mm256_min_ps(a, b);
}
LV_INLINE lv lv_round(lv a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* In two halves, so that results below the normal range come out right. */
LV_INLINE lv lv_scale2(lv a, lv n)
{
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    __m256i rest = _mm256_sub_epi32(whole, half), bias = _mm256_set1_epi32(127);
    __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    __m256 second = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
    return _mm256_mul_ps(_mm256_mul_ps(a, first), second);
}
LV_INLINE float lv_hmax(lv v)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
LV_INLINE lv lv_select_below(lv x, lv limit, lv below, lv above)
{
    return _mm256_blendv_ps(above, below, _mm256_cmp_ps(x, limit, _CMP_LT_OQ));
}
LV_INLINE lv lv_abs(lv x)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}
LV_INLINE lv lv_copysign(lv magnitude, lv sign)
{
    __m256 bit = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_andnot_ps(bit, magnitude), _mm256_and_ps(bit, sign));
}
#endif

/* Cody and Waite: x = n ln2 + r, |r| <= ln2/2, minimax polynomial in r. The clamps put x first, so
 * that a NaN passes through (max and min return the second operand then). */
LV_INLINE lv lv_exp(lv x)
{
    x = lv_min(lv_set1(89.0f), lv_max(lv_set1(-105.0f), x));
    lv n = lv_round(lv_mul(x, lv_set1(1.44269504088896341f)));
    lv r = lv_fma(n, lv_set1(-0.693359375f), x);
    r = lv_fma(n, lv_set1(2.12194440e-4f), r);
    lv p = lv_set1(1.9875691500e-4f);
    p = lv_fma(p, r, lv_set1(1.3981999507e-3f));
    p = lv_fma(p, r, lv_set1(8.3334519073e-3f));
    p = lv_fma(p, r, lv_set1(4.1665795894e-2f));
    p = lv_fma(p, r, lv_set1(1.6666665459e-1f));
    p = lv_fma(p, r, lv_set1(5.0000001201e-1f));
    p = lv_fma(p, lv_mul(r, r), lv_add(r, lv_set1(1.0f)));
    return lv_scale2(p, n);
}

/* x / (1 + exp(-a x)): silu (a = 1), quick_gelu (a = 1.702) */
LV_INLINE lv lv_swish(lv x, float a)
{
    return lv_div(x, lv_add(lv_set1(1.0f), lv_exp(lv_mul(x, lv_set1(-a)))));
}

#endif
