/* Conversions of weights on the device. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/pack.cuh"

/* No cuda_release(), so that no kernel that reads weights before it waits starts meanwhile. What is
 * written here is sure to be seen by one only after a sync (model_upload). */

/* 8 values a thread. */
template <class Y, class X>
__global__ __launch_bounds__(VALUE_THREADS) void convert_values(Y *y, const X *x, int64_t n,
                                                                bool vec)
{
    int64_t i = ((int64_t)blockIdx.x * VALUE_THREADS + threadIdx.x) * 8;
    float v[8];
    cuda_wait();
    if (i >= n) return;
    load_8(v, x, i, n, vec);
    store_8(y, i, n, vec, v);
}

/* A quarter of a block a thread; blocks are aligned to 2 bytes only. */
template <class Y>
__global__ __launch_bounds__(VALUE_THREADS) void convert_q8_0(Y *y, const block_q8_0 *x, int64_t n,
                                                              bool vec)
{
    int64_t i = ((int64_t)blockIdx.x * VALUE_THREADS + threadIdx.x) * 8;
    float v[8];
    cuda_wait();
    if (i >= n) return;
    const block_q8_0 *b = x + i / Q8_0_BLOCK;
    const uint16_t *pair = (const uint16_t *)(b->q + i % Q8_0_BLOCK);
    float d = __half2float(__ushort_as_half(b->d));
#pragma unroll
    for (int k = 0; k < 4; k++) {
        uint16_t two = pair[k];
        v[2 * k] = d * (float)(int8_t)(two & 0xff);
        v[2 * k + 1] = d * (float)(int8_t)(two >> 8);
    }
    store_8(y, i, n, vec, v);
}

static void convert_launch(sq_backend *be, void *dst, sq_dtype to, const void *src, sq_dtype from,
                           int64_t n)
{
    unsigned blocks = cuda_blocks(n, VALUE_BLOCK);
    bool vec = cuda_aligned(dst, 16) && (from == SQ_DTYPE_Q8_0 || cuda_aligned(src, 16));
    with_type(to, [&](auto yt) {
        using out = decltype(yt);
        if (from == SQ_DTYPE_Q8_0)
            cuda_launch(be, "convert", convert_q8_0<out>, blocks, VALUE_THREADS, 0, (out *)dst,
                        (const block_q8_0 *)src, n, vec);
        else
            with_type(from, [&](auto xt) {
                using in = decltype(xt);
                cuda_launch(be, "convert", convert_values<out, in>, blocks, VALUE_THREADS, 0,
                            (out *)dst, (const in *)src, n, vec);
            });
    });
}

void cuda_convert(sq_backend *be, void *dst, sq_dtype to, const void *src, sq_dtype from, int64_t n)
{
    if (n <= 0 || !cuda_here(be, "convert")) return;
    if (!dtype_is_float(to) || !(dtype_is_float(from) || from == SQ_DTYPE_Q8_0))
        cuda_refuse(be, "convert", "types");
    else if (from == SQ_DTYPE_Q8_0 && n % Q8_0_BLOCK)
        cuda_refuse(be, "convert", "not whole blocks");
    else if (to == from)
        cuda_failed(be, "convert",
                    cudaMemcpyAsync(dst, src, dtype_row_bytes(to, n), cudaMemcpyDeviceToDevice,
                                    cuda_of(be)->stream));
    else
        convert_launch(be, dst, to, src, from, n);
}
