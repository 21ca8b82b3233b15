/* What flash_wgmma.cu needs of compute capability 9.0, as PTX: tensor copies and asynchronous
 * products. Addresses are those of shared memory. */
#ifndef SQ_FLASH_PTX_CUH
#define SQ_FLASH_PTX_CUH

#include "kernels/cuda/bar_ptx.cuh"

#include <cuda.h>

/* A barrier of some of the CTA's warps; id 0 is __syncthreads. */
__device__ __forceinline__ void flash_named_sync(int id, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* ---- tensor copies ---- */

/* Copies the box at column, head, row, sequence; what lies outside of the tensor becomes zeros. */
__device__ __forceinline__ void flash_copy_box(uint32_t to, const CUtensorMap *map, uint32_t bar,
                                               int column, int head, int row, int seq)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
                 "l"(map), "r"(bar), "r"(column), "r"(head), "r"(row), "r"(seq)
                 : "memory");
}

/* ---- asynchronous matrix products ---- */

__device__ __forceinline__ void wgmma_begin()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_end()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Waits until at most N groups are under way. */
template <int N> __device__ __forceinline__ void wgmma_done()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/* Keeps the compiler from moving uses of registers that a product writes across this point. */
template <int N> __device__ __forceinline__ void wgmma_pin(float (&x)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(x[i])::"memory");
}

/* A tile in shared memory: rows of 128 bytes, swizzled, groups of 8 rows 1024 bytes apart. Where
 * the rows are the product's inner dimension, columns beyond 64 lie panel bytes further. */
__device__ __forceinline__ uint64_t wgmma_tile(uint32_t at, int panel)
{
    return (uint64_t)((at & 0x3ffff) >> 4) | (uint64_t)(panel >> 4) << 16 |
           (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

/* bf16 products of N columns: scores is d = a b^T, or d += with add, of a 64 x 16 and b N x 16 in
 * shared memory; values is d += a b with a 64 x 16 in registers and b 16 x N in shared memory. */
template <int N> struct wgmma_op;

#define WG_R8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define WG_R32                                                                                     \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "   \
    "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define WG_R64                                                                                     \
    WG_R32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "    \
           "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WG_D8(i)                                                                                   \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),    \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define WG_D32 WG_D8(0), WG_D8(8), WG_D8(16), WG_D8(24)
#define WG_D64 WG_D32, WG_D8(32), WG_D8(40), WG_D8(48), WG_D8(56)

/* x0 .. x4: the numbers of the operands after the N / 2 results. */
#define WGMMA_OP(N, R, D, x0, x1, x2, x3, x4)                                                      \
    template <> struct wgmma_op<N> {                                                               \
        static __device__ __forceinline__ void scores(float (&d)[N / 2], uint64_t a, uint64_t b,   \
                                                      int add)                                     \
        {                                                                                          \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #x2 ", 0;\n"                         \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" R "}, %" #x0 \
                         ", %" #x1 ", p, 1, 1, 0, 0;\n}"                                           \
                         : D                                                                       \
                         : "l"(a), "l"(b), "r"(add));                                              \
        }                                                                                          \
        static __device__ __forceinline__ void values(float (&d)[N / 2], const uint32_t *a,        \
                                                      uint64_t b)                                  \
        {                                                                                          \
            asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" R            \
                         "}, {%" #x0 ", %" #x1 ", %" #x2 ", %" #x3 "}, %" #x4 ", 1, 1, 1, 1;"      \
                         : D                                                                       \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                    \
        }                                                                                          \
    };
WGMMA_OP(16, WG_R8, WG_D8(0), 8, 9, 10, 11, 12)
WGMMA_OP(64, WG_R32, WG_D32, 32, 33, 34, 35, 36)
WGMMA_OP(128, WG_R64, WG_D64, 64, 65, 66, 67, 68)

#endif
