/* Activations in f32. FAST: for results of 16 bits, which do not need the exact exponential and
 * quotient. */
#ifndef SQ_CUDA_ACT_CUH
#define SQ_CUDA_ACT_CUH

#include "kernels/cuda/cuda.cuh"

/* x / (1 + e^-u). Far left e^-u overflows where the result is still normal: two factors e^(u/2). */
template <bool FAST> __device__ __forceinline__ float sigmoid_times(float x, float u)
{
    if (FAST) return __fdividef(x, 1.0f + __expf(-u));
    if (u > -80.0f || u != u) return x / (1.0f + expf(-u));
    float h = expf(0.5f * u);
    return x * h * h;
}

/* The tanh form is x * sigmoid(2 u): no difference from 1 that cancels. */
template <sq_act ACT, bool FAST> __device__ __forceinline__ float act_of(float x)
{
    if (ACT == SQ_ACT_GELU && FAST) return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    if (ACT == SQ_ACT_GELU) return x * normcdff(x);
    if (ACT == SQ_ACT_GELU_TANH)
        return sigmoid_times<FAST>(x, 1.59576912f * (x + 0.044715f * x * x * x));
    if (ACT == SQ_ACT_QUICK_GELU) return sigmoid_times<FAST>(x, 1.702f * x);
    if (ACT == SQ_ACT_SILU) return sigmoid_times<FAST>(x, x);
    return x;
}

template <sq_act ACT, bool FAST, int N> __device__ __forceinline__ void act_each(float (&v)[N])
{
#pragma unroll
    for (int k = 0; k < N; k++)
        v[k] = act_of<ACT, FAST>(v[k]);
}

/* One branch for all N values. */
template <bool FAST, int N> __device__ __forceinline__ void act_all(float (&v)[N], sq_act act)
{
    switch (act) {
    case SQ_ACT_GELU: act_each<SQ_ACT_GELU, FAST>(v); break;
    case SQ_ACT_GELU_TANH: act_each<SQ_ACT_GELU_TANH, FAST>(v); break;
    case SQ_ACT_QUICK_GELU: act_each<SQ_ACT_QUICK_GELU, FAST>(v); break;
    case SQ_ACT_SILU: act_each<SQ_ACT_SILU, FAST>(v); break;
    default: break;
    }
}

#endif
