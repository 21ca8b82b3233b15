/* Norms, activations, and what else works value by value. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/act.cuh"
#include "kernels/cuda/pack.cuh"

/* ---- norms ---- */

/* Sums each of N values over the block; every thread gets the same bits. part must not be in use
 * by an earlier sum. */
template <int WARPS, int N>
__device__ __forceinline__ void block_sum(float (&v)[N], float (*part)[N])
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int k = 0; k < N; k++) {
        v[k] = warp_sum(v[k]);
        if (lane == 0) part[warp][k] = v[k];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < N; k++) {
        v[k] = part[lane % WARPS][k];
#pragma unroll
        for (int i = WARPS / 2; i > 0; i /= 2)
            v[k] += __shfl_xor_sync(~0u, v[k], i);
    }
}

/* Moments of deviations from a first mean: that mean's own rounding error goes into *shift. */
__device__ __forceinline__ float inv_deviation(const float (&sum)[2], float per_dim, float eps,
                                               float *shift)
{
    *shift = sum[0] * per_dim;
    float var = sum[1] * per_dim - *shift * *shift;
    return rsqrtf((var < 0 ? 0 : var) + eps);
}

/* One row a block, held in registers: VEC runs of 4 values a thread. Weights are fetched while the
 * kernel that makes x still runs. */
template <class T, bool LAYER, int THREADS, int VEC>
__global__ __launch_bounds__(THREADS, THREADS <= 256 ? 1280 / THREADS : 1) void norm_rows(
    T *y, const float *x, const float *w, const float *b, int dim, float per_dim, float eps)
{
    constexpr int WARPS = THREADS / 32;
    constexpr bool EARLY_B = LAYER && VEC <= 2; /* more would not fit the registers */
    __shared__ float part_sum[WARPS][1], part_dev[WARPS][2];
    float v[VEC][4], wv[VEC][4], bv[VEC][4], sum[1] = {0};
    int n4 = dim / 4;
    cuda_release();
#pragma unroll
    for (int j = 0; j < VEC; j++) {
        int i = threadIdx.x + j * THREADS;
        if (i < n4) load_pack(wv[j], w + 4 * i);
        if (EARLY_B && i < n4) load_pack(bv[j], b + 4 * i);
    }
    cuda_wait();
    const float *row = x + (int64_t)blockIdx.x * dim;
#pragma unroll
    for (int j = 0; j < VEC; j++) {
        int i = threadIdx.x + j * THREADS;
        v[j][0] = v[j][1] = v[j][2] = v[j][3] = 0;
        if (i < n4) load_pack(v[j], row + 4 * i);
    }
#pragma unroll
    for (int j = 0; j < VEC; j++)
#pragma unroll
        for (int k = 0; k < 4; k++)
            sum[0] += LAYER ? v[j][k] : v[j][k] * v[j][k];
    block_sum<WARPS>(sum, part_sum);
    float inv, shift = 0;
    if (LAYER) {
        float mean = sum[0] * per_dim, dev[2] = {0, 0};
#pragma unroll
        for (int j = 0; j < VEC; j++)
#pragma unroll
            for (int k = 0; k < 4; k++) {
                v[j][k] -= mean;
                float d = threadIdx.x + j * THREADS < n4 ? v[j][k] : 0.0f;
                dev[0] += d;
                dev[1] += d * d;
            }
        block_sum<WARPS>(dev, part_dev);
        inv = inv_deviation(dev, per_dim, eps, &shift);
    } else {
        inv = rsqrtf(sum[0] * per_dim + eps);
    }
    T *to = y + (int64_t)blockIdx.x * dim;
#pragma unroll
    for (int j = 0; j < VEC; j++) {
        int i = threadIdx.x + j * THREADS;
        if (i >= n4) continue;
        if (LAYER && !EARLY_B) load_pack(bv[j], b + 4 * i);
#pragma unroll
        for (int k = 0; k < 4; k++)
            v[j][k] =
                LAYER ? (v[j][k] - shift) * inv * wv[j][k] + bv[j][k] : v[j][k] * inv * wv[j][k];
        store_pack(to + 4 * i, v[j]);
    }
}

enum { ANY_THREADS = 256, ANY_WARPS = ANY_THREADS / 32 };

/* Any dim, type and alignment: reads the row once for each moment and once more to write. */
template <class T, bool LAYER>
__global__ __launch_bounds__(ANY_THREADS) void norm_any(T *y, const float *x, const void *w,
                                                        const void *b, sq_dtype wt, sq_dtype bt,
                                                        int dim, float per_dim, float eps)
{
    __shared__ float part_sum[ANY_WARPS][1], part_dev[ANY_WARPS][2];
    cuda_release();
    cuda_wait();
    const float *row = x + (int64_t)blockIdx.x * dim;
    T *to = y + (int64_t)blockIdx.x * dim;
    float sum[1] = {0};
    for (int i = threadIdx.x; i < dim; i += ANY_THREADS)
        sum[0] += LAYER ? row[i] : row[i] * row[i];
    block_sum<ANY_WARPS>(sum, part_sum);
    float inv, mean = 0, shift = 0;
    if (LAYER) {
        float dev[2] = {0, 0};
        mean = sum[0] * per_dim;
        for (int i = threadIdx.x; i < dim; i += ANY_THREADS) {
            float d = row[i] - mean;
            dev[0] += d;
            dev[1] += d * d;
        }
        block_sum<ANY_WARPS>(dev, part_dev);
        inv = inv_deviation(dev, per_dim, eps, &shift);
    } else {
        inv = rsqrtf(sum[0] * per_dim + eps);
    }
    for (int i = threadIdx.x; i < dim; i += ANY_THREADS) {
        float v = (LAYER ? row[i] - mean - shift : row[i]) * inv * load_any(w, wt, i);
        to[i] = from_f32<T>(LAYER ? v + load_any(b, bt, i) : v);
    }
}

static bool vector_param(const sq_tensor *t)
{
    return t->dtype == SQ_DTYPE_F32 && cuda_aligned(t->data, 16);
}

/* Few rows get many threads each: then the length of one row's work is what counts. */
template <class T, bool LAYER>
static void norm_pick(sq_backend *be, const char *op, T *y, const sq_tensor *x, const sq_tensor *w,
                      const sq_tensor *b, float eps)
{
    int dim = (int)x->shape[1];
    float per_dim = 1.0f / (float)dim;
    const float *from = (const float *)x->data, *wf = (const float *)w->data;
    const float *bf = LAYER ? (const float *)b->data : NULL;
    dim3 grid((unsigned)x->shape[0]);
    bool vec = dim % 4 == 0 && dim <= 16384 && cuda_aligned(from, 16) &&
               cuda_aligned(y, 4 * sizeof(T)) && vector_param(w) && (!LAYER || vector_param(b));
    if (!vec)
        cuda_launch(be, op, norm_any<T, LAYER>, grid, ANY_THREADS, 0, y, from, (const void *)wf,
                    (const void *)bf, w->dtype, LAYER ? b->dtype : SQ_DTYPE_F32, dim, per_dim, eps);
    else if (dim <= 1024)
        cuda_launch(be, op, norm_rows<T, LAYER, 128, 2>, grid, 128, 0, y, from, wf, bf, dim,
                    per_dim, eps);
    else if (dim <= 4096 && x->shape[0] <= cuda_of(be)->n_sm)
        cuda_launch(be, op, norm_rows<T, LAYER, 512, 2>, grid, 512, 0, y, from, wf, bf, dim,
                    per_dim, eps);
    else if (dim <= 4096)
        cuda_launch(be, op, norm_rows<T, LAYER, 256, 4>, grid, 256, 0, y, from, wf, bf, dim,
                    per_dim, eps);
    else if (dim <= 8192)
        cuda_launch(be, op, norm_rows<T, LAYER, 512, 4>, grid, 512, 0, y, from, wf, bf, dim,
                    per_dim, eps);
    else
        cuda_launch(be, op, norm_rows<T, LAYER, 1024, 4>, grid, 1024, 0, y, from, wf, bf, dim,
                    per_dim, eps);
}

void cuda_layer_norm(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                     const sq_tensor *b, float eps)
{
    if (tensor_count(x) <= 0) return;
    if (x->dtype != SQ_DTYPE_F32 || !dtype_is_float(w->dtype) || !dtype_is_float(b->dtype) ||
        !with_type(y->dtype, [&](auto t) {
            norm_pick<decltype(t), true>(be, "layer norm", (decltype(t) *)y->data, x, w, b, eps);
        }))
        cuda_refuse(be, "layer norm", "types");
}

void cuda_rms_norm(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w, float eps)
{
    if (tensor_count(x) <= 0) return;
    if (x->dtype != SQ_DTYPE_F32 || !dtype_is_float(w->dtype) || !with_type(y->dtype, [&](auto t) {
            norm_pick<decltype(t), false>(be, "rms norm", (decltype(t) *)y->data, x, w, NULL, eps);
        }))
        cuda_refuse(be, "rms norm", "types");
}

/* ---- value by value ---- */

/* 8 values a thread. y may be x. */
template <class Y, class X>
__global__ __launch_bounds__(VALUE_THREADS) void activate_values(Y *y, const X *x, int64_t n,
                                                                 sq_act act, bool vec)
{
    constexpr bool FAST = sizeof(Y) == 2;
    int64_t i = ((int64_t)blockIdx.x * VALUE_THREADS + threadIdx.x) * 8;
    float v[8];
    cuda_release();
    cuda_wait();
    if (i >= n) return;
    load_8(v, x, i, n, vec);
    act_all<FAST>(v, act);
    store_8(y, i, n, vec, v);
}

void cuda_activate(sq_backend *be, sq_tensor *y, const sq_tensor *x, sq_act act)
{
    int64_t n = tensor_count(x);
    bool vec = cuda_aligned(x->data, 16) && cuda_aligned(y->data, 16);
    if (n <= 0) return;
    if (!dtype_is_float(y->dtype) || !dtype_is_float(x->dtype)) {
        cuda_refuse(be, "activate", "types");
        return;
    }
    with_type(y->dtype, [&](auto yt) {
        with_type(x->dtype, [&](auto xt) {
            cuda_launch(be, "activate", activate_values<decltype(yt), decltype(xt)>,
                        cuda_blocks(n, VALUE_BLOCK), VALUE_THREADS, 0, (decltype(yt) *)y->data,
                        (const decltype(xt) *)x->data, n, act, vec);
        });
    });
}

/* 8 values a thread. y may be gate or up. */
template <class T>
__global__ __launch_bounds__(VALUE_THREADS) void silu_mul_values(T *y, const T *gate, const T *up,
                                                                 int64_t n, bool vec)
{
    constexpr bool FAST = sizeof(T) == 2;
    int64_t i = ((int64_t)blockIdx.x * VALUE_THREADS + threadIdx.x) * 8;
    float g[8], u[8];
    cuda_release();
    cuda_wait();
    if (i >= n) return;
    if (vec && i + 8 <= n) { /* both loads under way before either is used */
        load_pack(g, gate + i);
        load_pack(u, up + i);
    } else {
        load_8(g, gate, i, n, false);
        load_8(u, up, i, n, false);
    }
#pragma unroll
    for (int k = 0; k < 8; k++)
        g[k] = sigmoid_times<FAST>(g[k], g[k]) * u[k];
    store_8(y, i, n, vec, g);
}

__global__ __launch_bounds__(VALUE_THREADS) void silu_mul_any(void *y, const void *gate,
                                                              const void *up, sq_dtype yt,
                                                              sq_dtype gt, sq_dtype ut, int64_t n)
{
    int64_t i = (int64_t)blockIdx.x * VALUE_THREADS + threadIdx.x;
    cuda_release();
    cuda_wait();
    if (i >= n) return;
    float g = load_any(gate, gt, i);
    store_any(y, yt, i, sigmoid_times<false>(g, g) * load_any(up, ut, i));
}

void cuda_silu_mul(sq_backend *be, sq_tensor *y, const sq_tensor *gate, const sq_tensor *up)
{
    int64_t n = tensor_count(gate);
    bool vec =
        cuda_aligned(gate->data, 16) && cuda_aligned(up->data, 16) && cuda_aligned(y->data, 16);
    if (n <= 0) return;
    if (!dtype_is_float(y->dtype) || !dtype_is_float(gate->dtype) || !dtype_is_float(up->dtype))
        cuda_refuse(be, "silu", "types");
    else if (y->dtype != gate->dtype || y->dtype != up->dtype)
        cuda_launch(be, "silu", silu_mul_any, cuda_blocks(n, VALUE_THREADS), VALUE_THREADS, 0,
                    y->data, (const void *)gate->data, (const void *)up->data, y->dtype,
                    gate->dtype, up->dtype, n);
    else
        with_type(y->dtype, [&](auto t) {
            using type = decltype(t);
            cuda_launch(be, "silu", silu_mul_values<type>, cuda_blocks(n, VALUE_BLOCK),
                        VALUE_THREADS, 0, (type *)y->data, (const type *)gate->data,
                        (const type *)up->data, n, vec);
        });
}

/* x[period] is added to each run of `period` values of y[n]; N values a thread. */
template <class X, int N>
__global__ __launch_bounds__(VALUE_THREADS) void add_values(float *y, const X *x, int64_t n,
                                                            int64_t period)
{
    int64_t i = ((int64_t)blockIdx.x * VALUE_THREADS + threadIdx.x) * N;
    cuda_release();
    cuda_wait();
    if (i >= period) return;
    for (int64_t at = i + blockIdx.y * period; at < n; at += gridDim.y * period) {
        if constexpr (N == 4) {
            float a[4], b[4];
            load_pack(a, x + i);
            load_pack(b, y + at);
#pragma unroll
            for (int k = 0; k < 4; k++)
                b[k] += a[k];
            store_pack(y + at, b);
        } else {
            y[at] += to_f32(x[i]);
        }
    }
}

void cuda_add(sq_backend *be, sq_tensor *y, const sq_tensor *x)
{
    int64_t n = tensor_count(y), period = tensor_count(x);
    if (n <= 0 || period <= 0) return;
    int64_t runs = (n + period - 1) / period;
    unsigned depth = (unsigned)(runs < CUDA_GRID_YZ ? runs : CUDA_GRID_YZ);
    bool known = y->dtype == SQ_DTYPE_F32 && with_type(x->dtype, [&](auto t) {
                     using type = decltype(t);
                     float *to = (float *)y->data;
                     const type *from = (const type *)x->data;
                     if (n % 4 == 0 && period % 4 == 0 && cuda_aligned(to, 16) &&
                         cuda_aligned(from, 4 * sizeof(type)))
                         cuda_launch(be, "add", add_values<type, 4>,
                                     dim3(cuda_blocks(period, 4 * VALUE_THREADS), depth),
                                     VALUE_THREADS, 0, to, from, n, period);
                     else
                         cuda_launch(be, "add", add_values<type, 1>,
                                     dim3(cuda_blocks(period, VALUE_THREADS), depth), VALUE_THREADS,
                                     0, to, from, n, period);
                 });
    if (!known) cuda_refuse(be, "add", "types");
}
