/* Ops that move, combine or rank rows. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/pack.cuh"

#include <stdlib.h>
#include <string.h>

enum { ROW_THREADS = 128, ARGMAX_THREADS = 1024, ARGMAX_DEPTH = 8 };

/* ---- patchify ---- */

/* One patch a block. */
template <class T, bool BYTES>
__global__ __launch_bounds__(ROW_THREADS) void patch_rows(T *y, int cols, const void *x,
                                                          const float *level, int side, int patch)
{
    int grid = side / patch, area = patch * patch;
    int view = blockIdx.x / (grid * grid), cell = blockIdx.x - view * grid * grid;
    int top = cell / grid * patch, left = cell % grid * patch;
    int64_t first = (int64_t)view * 3 * side * side;
    T *to = y + (int64_t)blockIdx.x * cols;
    cuda_release();
    cuda_wait();
    for (int k = threadIdx.x; k < cols; k += ROW_THREADS) {
        int c = k / area, i = k - c * area, row = top + i / patch, col = left + i % patch;
        float v;
        if (c > 2) {
            v = 0;
        } else if (BYTES) {
            int64_t at = first + ((int64_t)row * side + col) * 3 + c;
            v = level[c * 256 + ((const unsigned char *)x)[at]];
        } else {
            v = ((const float *)x)[first + ((int64_t)c * side + row) * side + col];
        }
        to[k] = from_f32<T>(v);
    }
}

void cuda_patchify(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *level,
                   int patch)
{
    int side = (int)x->shape[2], across = side / patch;
    bool bytes = x->dtype == SQ_DTYPE_U8;
    int64_t n = x->shape[0] * across * across;
    if (n <= 0) return;
    bool known =
        (bytes ? level && level->dtype == SQ_DTYPE_F32 : x->dtype == SQ_DTYPE_F32) &&
        with_type(y->dtype, [&](auto t) {
            using type = decltype(t);
            cuda_launch(be, "patchify", bytes ? patch_rows<type, true> : patch_rows<type, false>,
                        dim3((unsigned)n), ROW_THREADS, 0, (type *)y->data, (int)y->shape[1],
                        (const void *)x->data, bytes ? (const float *)level->data : NULL, side,
                        patch);
        });
    if (!known) cuda_refuse(be, "patchify", "types");
}

/* ---- embed ---- */

/* An id outside the table, as argmax gives for NaN, makes a row of NaN. */
template <class W>
__global__ __launch_bounds__(ROW_THREADS) void embed_rows(float *y, const W *w, const int32_t *ids,
                                                          int n_vocab, int64_t dim, bool vec)
{
    int64_t i = ((int64_t)blockIdx.y * ROW_THREADS + threadIdx.x) * 8;
    float v[8];
    cuda_release();
    cuda_wait();
    if (i >= dim) return;
    int id = ids[blockIdx.x];
    if (id >= 0 && id < n_vocab) {
        load_8(v, w + id * dim, i, dim, vec);
    } else {
#pragma unroll
        for (int k = 0; k < 8; k++)
            v[k] = __int_as_float(0x7fffffff);
    }
    store_8(y + blockIdx.x * dim, i, dim, vec, v);
}

void cuda_embed(sq_backend *be, sq_tensor *y, const sq_tensor *w, const sq_tensor *ids)
{
    int64_t dim = w->shape[1], n = ids->shape[0];
    bool vec = dim % 8 == 0 && cuda_aligned(y->data, 16) && cuda_aligned(w->data, 16);
    if (n <= 0 || dim <= 0) return;
    bool known = y->dtype == SQ_DTYPE_F32 && with_type(w->dtype, [&](auto t) {
                     using type = decltype(t);
                     cuda_launch(be, "embed", embed_rows<type>,
                                 dim3((unsigned)n, cuda_blocks(dim, 8 * ROW_THREADS)), ROW_THREADS,
                                 0, (float *)y->data, (const type *)w->data,
                                 (const int32_t *)ids->data, (int)w->shape[0], dim, vec);
                 });
    if (!known) cuda_refuse(be, "embed", "types");
}

/* ---- select ---- */

/* One output row a column of blocks, N values a thread; sums in double, in the order of entries. */
template <class T, int N>
__global__ __launch_bounds__(ROW_THREADS, 8) void select_values(T *y, const float *x,
                                                                const int32_t *start,
                                                                const int32_t *index,
                                                                const float *weight, int64_t dim)
{
    int64_t c = ((int64_t)blockIdx.y * ROW_THREADS + threadIdx.x) * N;
    cuda_release();
    cuda_wait();
    if (c >= dim) return;
    int first = start[blockIdx.x], last = start[blockIdx.x + 1];
    float v[N];
    if (last - first == 1 && weight[first] == 1.0f) { /* a copy: keeps even the sign of 0 */
        const float *from = x + index[first] * dim + c;
        if constexpr (N == 4)
            load_pack(v, from);
        else
            v[0] = *from;
    } else {
        double sum[N] = {};
#pragma unroll 8
        for (int e = first; e < last; e++) {
            const float *from = x + index[e] * dim + c;
            double share = weight[e];
            if constexpr (N == 4)
                load_pack(v, from);
            else
                v[0] = *from;
#pragma unroll
            for (int k = 0; k < N; k++)
                sum[k] += share * v[k];
        }
#pragma unroll
        for (int k = 0; k < N; k++)
            v[k] = (float)sum[k];
    }
    T *to = y + blockIdx.x * dim + c;
    if constexpr (N == 4)
        store_pack(to, v);
    else
        *to = from_f32<T>(v[0]);
}

/* m as one block in the op's scratch memory: start (from 0), index, weight. False on failure. */
static bool upload_rows(sq_backend *be, const sparse_rows *m)
{
    int32_t base = m->start[0], n = m->n_out;
    size_t entries = (size_t)(m->start[n] - base), head = (size_t)n + 1;
    size_t size = (head + 2 * entries) * sizeof(int32_t);
    if (size > CUDA_SCRATCH) return !cuda_refuse(be, "select", "too many entries");
    int32_t *block = (int32_t *)malloc(size);
    if (!block) return !cuda_failed(be, "select", cudaErrorMemoryAllocation);
    for (size_t r = 0; r < head; r++)
        block[r] = m->start[r] - base;
    if (entries) {
        memcpy(block + head, m->index + base, entries * sizeof(int32_t));
        memcpy(block + head + entries, m->weight + base, entries * sizeof(float));
    }
    cuda_write(be, cuda_of(be)->scratch, block, size);
    free(block);
    return !be->err.code;
}

void cuda_select_rows(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sparse_rows *m)
{
    int64_t dim = x->shape[1];
    if (m->n_out <= 0 || dim <= 0 || be->err.code) return;
    if (x->dtype != SQ_DTYPE_F32 || !dtype_is_float(y->dtype)) {
        cuda_refuse(be, "select", "types");
        return;
    }
    if (!upload_rows(be, m)) return;
    const int32_t *start = (const int32_t *)cuda_of(be)->scratch, *index = start + m->n_out + 1;
    const float *weight = (const float *)(index + (m->start[m->n_out] - m->start[0]));
    with_type(y->dtype, [&](auto t) {
        using type = decltype(t);
        bool vec =
            dim % 4 == 0 && cuda_aligned(x->data, 16) && cuda_aligned(y->data, 4 * sizeof(type));
        dim3 grid((unsigned)m->n_out, cuda_blocks(dim, (vec ? 4 : 1) * ROW_THREADS));
        cuda_launch(be, "select", vec ? select_values<type, 4> : select_values<type, 1>, grid,
                    ROW_THREADS, 0, (type *)y->data, (const float *)x->data, start, index, weight,
                    dim);
    });
}

/* ---- argmax ---- */

/* The largest value seen, the lowest place it was seen at, and the next largest (its equal when
 * there are two). NaN is never taken in. */
struct top_two {
    float best, next;
    int at;
};

__device__ __forceinline__ void top_take(top_two &t, float v, int at)
{
    t.next = fmaxf(t.next, fminf(v, t.best));
    t.at = v > t.best ? at : t.at;
    t.best = fmaxf(t.best, v);
}

__device__ __forceinline__ top_two top_merge(top_two a, top_two b)
{
    bool second = b.best > a.best || (b.best == a.best && b.at < a.at);
    top_two t = second ? b : a;
    t.next = second ? fmaxf(b.next, a.best) : fmaxf(a.next, b.best);
    return t;
}

__device__ __forceinline__ top_two top_of_warp(top_two t)
{
#pragma unroll
    for (int i = 16; i > 0; i /= 2) {
        top_two o;
        o.best = __shfl_xor_sync(~0u, t.best, i);
        o.next = __shfl_xor_sync(~0u, t.next, i);
        o.at = __shfl_xor_sync(~0u, t.at, i);
        t = top_merge(t, o);
    }
    return t;
}

/* One row a block; each thread has 32 values under way. N: values a load. */
template <int N>
__global__ __launch_bounds__(ARGMAX_THREADS, 1) void argmax_rows(int32_t *best, float *gap,
                                                                 const float *x, int dim)
{
    __shared__ top_two part[32];
    const float low = __int_as_float((int)0xff800000); /* -inf */
    top_two t = {low, low, INT32_MAX};
    bool nan = false;
    cuda_release();
    cuda_wait();
    const float *row = x + (int64_t)blockIdx.x * dim;
    for (int first = 0; first < dim; first += ARGMAX_THREADS * ARGMAX_DEPTH * N) {
        float v[ARGMAX_DEPTH][N];
#pragma unroll
        for (int j = 0; j < ARGMAX_DEPTH; j++) {
            int i = first + (j * ARGMAX_THREADS + threadIdx.x) * N;
#pragma unroll
            for (int k = 0; k < N; k++)
                v[j][k] = low;
            if constexpr (N == 4) {
                if (i < dim) load_pack(v[j], row + i);
            } else {
                if (i < dim) v[j][0] = row[i];
            }
        }
#pragma unroll
        for (int j = 0; j < ARGMAX_DEPTH; j++)
#pragma unroll
            for (int k = 0; k < N; k++) {
                nan |= v[j][k] != v[j][k];
                top_take(t, v[j][k], first + (j * ARGMAX_THREADS + threadIdx.x) * N + k);
            }
    }
    t = top_of_warp(t);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = t;
    nan = __syncthreads_or(nan);
    if (threadIdx.x >= 32) return;
    t = top_of_warp(part[threadIdx.x]);
    if (threadIdx.x) return;
    if (t.at == INT32_MAX) t.at = 0; /* nothing above -inf */
    float d = dim == 1 ? -low : t.best == t.next ? 0.0f : t.best - t.next;
    best[blockIdx.x] = nan ? -1 : t.at;
    gap[blockIdx.x] = nan ? __int_as_float(0x7fffffff) : d;
}

void cuda_argmax(sq_backend *be, sq_tensor *best, sq_tensor *gap, const sq_tensor *x)
{
    int64_t n = x->shape[0], dim = x->shape[1];
    if (n <= 0 || dim <= 0) return;
    if (x->dtype != SQ_DTYPE_F32 || dim > INT32_MAX / 2) {
        cuda_refuse(be, "argmax", "type or size");
        return;
    }
    bool vec = dim % 4 == 0 && cuda_aligned(x->data, 16);
    cuda_launch(be, "argmax", vec ? argmax_rows<4> : argmax_rows<1>, dim3((unsigned)n),
                ARGMAX_THREADS, 0, (int32_t *)best->data, (float *)gap->data,
                (const float *)x->data, (int)dim);
}
