/* The attn slot: chooses the kernel, and holds the exact one, in f32 throughout. That one takes
 * any types and is what queries in f32 get; 16-bit queries go to flash_mma.cuh's. */
#include "kernels/cuda/flash_args.cuh"

#include <limits.h>
#include <math.h>
#include <stdint.h>

enum { EXACT_THREADS = 256 };

/* D: head_dim, rounded up; BM queries and BN keys at a time. Thread (y, x) of 16 x 16 has the
 * logits of rows y * TM + i, keys x + 16 j, and of the result the columns 64 c + 4 x + e. */
template <int D_, int BM_, int BN_> struct exact_config {
    static constexpr int D = D_, BM = BM_, BN = BN_, TM = BM / 16, TN = BN / 16;
    static constexpr int LD = D + 4, LP = BN + 4; /* 8 rows' 16 bytes fall on different banks */
    static constexpr int SMEM = (BM * LD + BN * LD + BM * LP) * 4;
};

/* Rows first .. first + N - 1 of a matrix of n rows as f32; zeros beyond n. True when a number
 * that this thread loaded is not finite. Columns from head_dim on are left alone. */
template <class C, int N>
static __device__ bool exact_load(float *dst, const void *src, sq_dtype t, int64_t at, int stride,
                                  int first, int n, const flash_args &a)
{
    constexpr int CHUNKS = C::D / 8;
    bool bad = false;
    for (int i = threadIdx.x; i < N * CHUNKS; i += EXACT_THREADS) {
        int r = i / CHUNKS, c = i % CHUNKS * 8;
        if (c >= a.head_dim) continue;
        float x[8] = {};
        if (first + r < n) flash_load8(x, src, t, at + (int64_t)(first + r) * stride + c, a.wide);
        for (int e = 0; e < 8; e++)
            bad |= !isfinite(x[e]);
        float4 *to = (float4 *)(dst + r * C::LD + c);
        to[0] = float4{x[0], x[1], x[2], x[3]};
        to[1] = float4{x[4], x[5], x[6], x[7]};
    }
    return bad;
}

template <class C>
static __device__ __forceinline__ void exact_scores(float s[C::TM][C::TN], const float *q,
                                                    const float *k, int head_dim)
{
    for (int i = 0; i < C::TM * C::TN; i++)
        s[i / C::TN][i % C::TN] = 0;
#pragma unroll 2
    for (int d = 0; d < head_dim; d += 4) {
        float4 x[C::TM], y[C::TN];
        for (int i = 0; i < C::TM; i++)
            x[i] = *(const float4 *)(q + i * C::LD + d);
        for (int j = 0; j < C::TN; j++)
            y[j] = *(const float4 *)(k + j * 16 * C::LD + d);
        for (int i = 0; i < C::TM; i++)
            for (int j = 0; j < C::TN; j++) {
                s[i][j] = fmaf(x[i].x, y[j].x, s[i][j]);
                s[i][j] = fmaf(x[i].y, y[j].y, s[i][j]);
                s[i][j] = fmaf(x[i].z, y[j].z, s[i][j]);
                s[i][j] = fmaf(x[i].w, y[j].w, s[i][j]);
            }
    }
}

/* What a thread holds of its rows; l is the sum over the thread's own keys. */
template <class C> struct exact_rows {
    float o[C::TM][C::D / 16], m[C::TM], l[C::TM];
};

/* Scores to p = exp(scale s - max), written to shared memory. The largest score may pass NaN by:
 * p is NaN where s is. */
template <class C>
static __device__ __forceinline__ void exact_softmax(exact_rows<C> &w, float s[C::TM][C::TN],
                                                     float *p, int row, int k0, const flash_args &a)
{
#pragma unroll
    for (int i = 0; i < C::TM; i++) {
        flash_span see = flash_visible(a, row + i);
        float max = w.m[i];
        for (int j = 0; j < C::TN; j++) {
            int key = k0 + (int)threadIdx.x % 16 + 16 * j;
            s[i][j] = key >= see.lo && key < see.hi ? __fmul_rn(s[i][j], a.scale) : -INFINITY;
            max = fmaxf(max, s[i][j]);
        }
        for (int k = 8; k > 0; k /= 2)
            max = fmaxf(max, __shfl_xor_sync(~0u, max, k));
        float base = max == -INFINITY ? 0 : max, keep = expf(w.m[i] - base);
        w.m[i] = max;
        w.l[i] *= keep;
        for (int j = 0; j < C::TN; j++) {
            float x = expf(s[i][j] - base);
            w.l[i] += x;
            p[i * C::LP + threadIdx.x % 16 + 16 * j] = x;
        }
#pragma unroll
        for (int c = 0; c < C::D / 16; c++)
            w.o[i][c] *= keep;
    }
}

/* o += p v */
template <class C>
static __device__ __forceinline__ void exact_values(exact_rows<C> &w, const float *p,
                                                    const float *v)
{
#pragma unroll 1
    for (int j = 0; j < C::BN; j += 4) {
        float4 x[C::TM];
#pragma unroll
        for (int i = 0; i < C::TM; i++)
            x[i] = *(const float4 *)(p + i * C::LP + j);
#pragma unroll
        for (int e = 0; e < 4; e++)
#pragma unroll
            for (int c = 0; c < C::D / 64; c++) {
                float4 y = *(const float4 *)(v + (j + e) * C::LD + c * 64);
                for (int i = 0; i < C::TM; i++) {
                    float f = e == 0 ? x[i].x : e == 1 ? x[i].y : e == 2 ? x[i].z : x[i].w;
                    w.o[i][c * 4] = fmaf(f, y.x, w.o[i][c * 4]);
                    w.o[i][c * 4 + 1] = fmaf(f, y.y, w.o[i][c * 4 + 1]);
                    w.o[i][c * 4 + 2] = fmaf(f, y.z, w.o[i][c * 4 + 2]);
                    w.o[i][c * 4 + 3] = fmaf(f, y.w, w.o[i][c * 4 + 3]);
                }
            }
    }
}

/* The same where v holds numbers that are not finite: 0 * NaN is NaN, so a masked key's value must
 * not be multiplied at all. */
template <class C>
static __device__ __forceinline__ void exact_values_bad(exact_rows<C> &w, const float *p,
                                                        const float *v, int row, int k0,
                                                        const flash_args &a)
{
#pragma unroll 1
    for (int j = 0; j < C::BN; j++)
#pragma unroll
        for (int i = 0; i < C::TM; i++) {
            flash_span see = flash_visible(a, row + i);
            if (k0 + j < see.lo || k0 + j >= see.hi) continue;
#pragma unroll
            for (int c = 0; c < C::D / 16; c++)
                w.o[i][c] = fmaf(p[i * C::LP + j], v[j * C::LD + c / 4 * 64 + c % 4], w.o[i][c]);
        }
}

template <class C>
static __device__ __forceinline__ void exact_write(exact_rows<C> &w, const flash_place &at, int row,
                                                   const flash_args &a)
{
#pragma unroll
    for (int i = 0; i < C::TM; i++) {
        float l = w.l[i];
        for (int k = 8; k > 0; k /= 2)
            l += __shfl_xor_sync(~0u, l, k);
        if (row + i > at.row1) continue;
        int64_t to = at.q_at + (int64_t)(row + i) * at.q_stride;
#pragma unroll
        for (int c = 0; c < C::D / 16; c++) {
            int col = c / 4 * 64 + (int)threadIdx.x % 16 * 4 + c % 4;
            if (col < a.head_dim) store_any(a.out, a.out_type, to + col, w.o[i][c] / l);
        }
    }
}

template <class C>
static __global__ void __launch_bounds__(EXACT_THREADS) attn_exact_kernel(flash_args a)
{
    extern __shared__ uint4 flash_smem[];
    float *sq = (float *)flash_smem, *sx = sq + C::BM * C::LD, *sp = sx + C::BN * C::LD;
    const int x = threadIdx.x % 16, y = threadIdx.x / 16;
    const flash_place at = flash_find(a, blockIdx.x, C::BM);
    const int row = at.row0 + y * C::TM, hi = at.keys.hi;
    float *p = sp + y * C::TM * C::LP;
    exact_rows<C> w;
    for (int i = 0; i < C::TM; i++) {
        w.m[i] = -INFINITY;
        w.l[i] = 0;
        for (int c = 0; c < C::D / 16; c++)
            w.o[i][c] = 0;
    }

    cuda_wait();
    cuda_release();
    exact_load<C, C::BM>(sq, a.q, a.q_type, at.q_at, at.q_stride, at.row0, a.n_q, a);
    for (int k0 = at.keys.lo; k0 < hi; k0 += C::BN) {
        float s[C::TM][C::TN];
        __syncthreads();
        exact_load<C, C::BN>(sx, a.k, a.kv_type, at.kv_at, at.kv_stride, k0, hi, a);
        __syncthreads();
        exact_scores<C>(s, sq + y * C::TM * C::LD, sx + x * C::LD, a.head_dim);
        exact_softmax<C>(w, s, p, row, k0, a);
        __syncthreads();
        bool bad = exact_load<C, C::BN>(sx, a.v, a.kv_type, at.kv_at, at.kv_stride, k0, hi, a);
        if (__syncthreads_or(bad))
            exact_values_bad<C>(w, p, sx + x * 4, row, k0, a);
        else
            exact_values<C>(w, p, sx + x * 4);
    }
    exact_write<C>(w, at, row, a);
}

template <class C> static void exact_start(sq_backend *be, flash_args a)
{
    a.n_tile = (a.n_q + C::BM - 1) / C::BM;
    cuda_allow_smem(be, "attn", attn_exact_kernel<C>, C::SMEM);
    cuda_launch(be, "attn", attn_exact_kernel<C>,
                dim3((unsigned)a.n_tile * (unsigned)a.n_head * (unsigned)a.n_seq), EXACT_THREADS,
                C::SMEM, a);
}

static void attn_exact(sq_backend *be, const flash_args &a)
{
    if (a.head_dim <= 64)
        exact_start<exact_config<64, 64, 64>>(be, a);
    else if (a.head_dim <= 128)
        exact_start<exact_config<128, 64, 64>>(be, a);
    else
        exact_start<exact_config<256, 32, 32>>(be, a);
}

/* NULL, or why there is no kernel for it. */
static const char *attn_problem(const sq_tensor *out, const sq_tensor *q, const sq_tensor *k,
                                const sq_tensor *v, const attn_desc *d)
{
    if (d->head_dim > 256 || d->head_dim % 8) return "head_dim is not a multiple of 8 up to 256";
    if (k->dtype != v->dtype) return "keys and values are of different types";
    if (!dtype_is_float(out->dtype) || !dtype_is_float(q->dtype) || !dtype_is_float(k->dtype))
        return "type is not f32, f16 or bf16";
    int64_t n_seq = d->n_seq > 0 ? d->n_seq : 1;
    if (n_seq * d->n_head * (d->n_q / 32 + 1) > INT_MAX) return "too many sequences";
    return NULL;
}

/* On tensor cores, or false. They find the largest score before they scale it. */
static bool attn_fast(sq_backend *be, const flash_args &a)
{
    if (!(a.scale > 0) || a.q_type == SQ_DTYPE_F32) return false;
    const bool bf16 = a.q_type == SQ_DTYPE_BF16;
    if (cuda_of(be)->wgmma && a.wide && bf16 && a.kv_type == a.q_type && a.out_type == a.q_type &&
        cuda_flash_wgmma(be, a))
        return true;
    return bf16 ? cuda_flash_bf16(be, a) : cuda_flash_f16(be, a);
}

void cuda_attn(sq_backend *be, sq_tensor *out, const sq_tensor *q, const sq_tensor *k,
               const sq_tensor *v, const attn_desc *d)
{
    const char *problem = attn_problem(out, q, k, v, d);
    if (problem) {
        cuda_refuse(be, "attn", problem);
        return;
    }
    if (d->n_q == 0) return;
    flash_args a = {};
    a.q = q->data;
    a.k = k->data;
    a.v = v->data;
    a.out = out->data;
    a.q_type = q->dtype;
    a.kv_type = k->dtype;
    a.out_type = out->dtype;
    a.n_seq = d->n_seq > 0 ? d->n_seq : 1;
    a.n_q = d->n_q;
    a.n_kv = d->n_kv;
    a.n_head = d->n_head;
    a.n_head_kv = d->n_head_kv;
    a.head_dim = d->head_dim;
    a.pos0 = d->causal ? d->q_pos0 : d->n_kv;
    a.window = d->causal && d->window > 0 ? d->window : INT_MAX;
    a.backward = d->causal;
    a.wide = cuda_aligned(a.q, 16) && cuda_aligned(a.k, 16) && cuda_aligned(a.v, 16) &&
             cuda_aligned(a.out, 16);
    a.scale = d->scale;

    if (!attn_fast(be, a)) attn_exact(be, a);
}
