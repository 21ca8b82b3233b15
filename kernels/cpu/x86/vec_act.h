/* The activations on lv vectors. lv_gelu: |error| below 1.1e-7 |x|, and 4e-6 of the value while
 * |x| < 4 (fitted and checked against double on 600,000 points). */
#ifndef SQ_VEC_ACT_H
#define SQ_VEC_ACT_H

#include "kernels/cpu/x86/vec_math.h"
#include "kernels/ops.h"

/* x Phi(x): with t = |x| / sqrt 2, erfc(t) = exp(-t Q(t)), Q smooth and fitted on t <= 5.5; both
 * tails follow from one exponential, and the lower one keeps its relative accuracy. */
LV_INLINE lv lv_gelu(lv x)
{
    static const float q[10] = {1.128379225730896f,      0.6366199254989624f,
                                0.10277029871940613f,    -0.019112832844257355f,
                                -0.00026492870529182255f, 0.0018154033459722996f,
                                -0.0007532444433309138f, 0.00017311377450823784f,
                                -2.2693173377774656e-05f, 1.3234449625088018e-06f};
    lv t = lv_min(lv_set1(5.5f), lv_mul(lv_abs(x), lv_set1(0.70710678f))); /* NaN stays */
    lv p = lv_set1(q[9]);
#pragma GCC unroll 9
    for (int i = 8; i >= 0; i--)
        p = lv_fma(p, t, lv_set1(q[i]));
    lv half = lv_mul(lv_set1(0.5f), lv_exp(lv_mul(p, lv_sub(lv_zero(), t))));
    return lv_mul(x, lv_select_below(x, lv_zero(), half, lv_sub(lv_set1(1.0f), half)));
}

/* x sigmoid(2u) is 0.5 x (1 + tanh u), u = sqrt(2/pi) (x + 0.044715 x^3). */
LV_INLINE lv lv_gelu_sigmoid(lv x)
{
    lv u = lv_fma(lv_mul(x, x), lv_set1(-0.0713548162726f), lv_set1(-1.59576912160573f));
    return lv_div(x, lv_add(lv_set1(1.0f), lv_exp(lv_mul(x, u))));
}

LV_INLINE lv lv_act(lv x, sq_act act)
{
    switch (act) {
    case SQ_ACT_GELU: return lv_gelu(x);
    case SQ_ACT_GELU_TANH: return lv_gelu_sigmoid(x);
    case SQ_ACT_QUICK_GELU: return lv_swish(x, 1.702f);
    case SQ_ACT_SILU: return lv_swish(x, 1.0f);
    default: return x;
    }
}

#endif
