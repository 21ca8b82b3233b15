/* Tensor core products of 16-bit numbers and the copies that feed them, as PTX. Of a warp's lane
 * with g = lane / 4 and t = lane % 4:
 * a 16x16 operand A is (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8), two columns each;
 * a 16x8 operand B is the rows 2t and 2t + 8, two each, of column g;
 * a 16x8 result C is (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1). */
#ifndef SQ_MMA_PTX_CUH
#define SQ_MMA_PTX_CUH

#include "kernels/cuda/pack.cuh"

/* c += a b */
template <class T>
__device__ __forceinline__ void mma_16816(float c[4], const uint32_t a[4], uint32_t b0,
                                          uint32_t b1);

template <>
__device__ __forceinline__ void mma_16816<__nv_bfloat16>(float c[4], const uint32_t a[4],
                                                         uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
        "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void mma_16816<__half>(float c[4], const uint32_t a[4], uint32_t b0,
                                                  uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, "
        "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* A place in shared memory as ldmatrix wants it. */
__device__ __forceinline__ uint32_t smem_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* Four 8x8 matrices; lane i gives the address of row i % 8 of matrix i / 8. */
__device__ __forceinline__ void ldmatrix_x4(uint32_t r[4], uint32_t at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t r[4], uint32_t at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

/* Copies 16 bytes to shared memory, or zeros when not real: then src is not read. */
__device__ __forceinline__ void cp_async_16(void *dst, const void *src, bool real)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem_address(dst)), "l"(src),
                 "r"(real ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void cp_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most N of the groups this thread committed are under way. */
template <int N> __device__ __forceinline__ void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* 2^x: 0 for -inf, NaN for NaN, denormal results are 0. */
__device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* The exponent bits of both halves: all set in NaN and infinity. */
template <class T> struct pair_bits;
template <> struct pair_bits<__nv_bfloat16> {
    static constexpr uint32_t exponent = 0x7f80;
};
template <> struct pair_bits<__half> {
    static constexpr uint32_t exponent = 0x7c00;
};

/* x with what is not finite in it as 0. */
template <class T> __device__ __forceinline__ uint32_t pair_finite(uint32_t x)
{
    constexpr uint32_t lo = pair_bits<T>::exponent, hi = lo << 16;
    return ((x & lo) == lo ? 0 : x & 0xffffu) | ((x & hi) == hi ? 0 : x & 0xffff0000u);
}

#endif
