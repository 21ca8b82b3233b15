/* Attention on tensor cores: softmax(q k^T) v of one block of queries, the keys passing by in
 * tiles through shared memory, the softmax renormalised as its maximum grows.
 *
 * A CTA has 4 * KG warps. Warp w takes the rows of group w % 4, 16 * MT of them, and of each step's
 * KG * BN keys the BN of key group w / 4; the key groups' results are merged at the end. So few
 * queries can still occupy many warps. While a step is computed the next one is being copied.
 *
 * A masked key has p = 0, but 0 * NaN is NaN: where some query of the CTA must not see all keys of
 * a step, values that are not finite are taken as 0 in the product and then given to the queries
 * that see them. */
#ifndef SQ_FLASH_MMA_CUH
#define SQ_FLASH_MMA_CUH

#include "kernels/cuda/flash_args.cuh"
#include "kernels/cuda/mma_ptx.cuh"

#include <math.h>

/* D: head_dim, rounded up. DIRECT: keys and values are of type T and lie so that they can be copied
 * without a detour through registers. */
template <class T_, int D_, int MT_, int KG_, int BN_, bool DIRECT_> struct flash_config {
    using T = T_;
    static constexpr int D = D_, MT = MT_, KG = KG_, BN = BN_;
    static constexpr bool DIRECT = DIRECT_;
    static constexpr int ROWS = 16 * MT; /* of a warp */
    static constexpr int BM = 4 * ROWS;  /* of a CTA */
    static constexpr int THREADS = 128 * KG;
    static constexpr int KEYS = KG * BN; /* of a step */
    static constexpr int LD = D + 8;     /* 8 rows' 16 bytes fall on different banks */
    static constexpr int TILE = KEYS * LD;
    static constexpr bool Q_REGS = MT * D <= 128; /* else q is read again for each step */
    static constexpr int SMEM = (BM * LD + 4 * TILE) * 2;
    static constexpr int MIN_CTAS = KG == 1 || D < 96 ? 2 : 1;
    static_assert(D % 16 == 0 && BN % 16 == 0 && sizeof(T) == 2, "whole fragments");
    static_assert((KG - 1) * 128 * MT * (D / 2 + 4) * 4 <= 4 * TILE * 2, "merging has room");
};

/* What a thread holds of its rows; element e of o[m][n] is row 16m + lane/4 + 8(e/2), column
 * 8n + lane%4*2 + e%2. l is the sum over the thread's own columns. */
template <class C> struct flash_rows {
    float o[C::MT][C::D / 8][4];
    float m[C::MT][2], l[C::MT][2];
};

template <class C> using flash_scores_t = float[C::MT][C::BN / 8][4];
template <class C> using flash_queries_t = uint32_t[C::Q_REGS ? C::D / 16 : 1][C::MT][4];

/* Rows first .. first + N - 1 of a matrix of n rows; zeros beyond n and beyond head_dim. */
template <class C, int N>
__device__ __forceinline__ void flash_load(typename C::T *dst, const void *src, sq_dtype t,
                                           int64_t at, int stride, int first, int n,
                                           const flash_args &a)
{
    using T = typename C::T;
    constexpr int CHUNKS = C::D / 8;
    if (C::DIRECT) {
#pragma unroll
        for (int i = threadIdx.x; i < N * CHUNKS; i += C::THREADS) {
            int r = i / CHUNKS, c = i % CHUNKS * 8;
            bool real = first + r < n && c < a.head_dim;
            int64_t from = real ? at + (int64_t)(first + r) * stride + c : at;
            cp_async_16(dst + r * C::LD + c, (const T *)src + from, real);
        }
    } else {
#pragma unroll 1
        for (int i = threadIdx.x; i < N * CHUNKS; i += C::THREADS) {
            int r = i / CHUNKS, c = i % CHUNKS * 8;
            float x[8] = {};
            if (first + r < n && c < a.head_dim)
                flash_load8(x, src, t, at + (int64_t)(first + r) * stride + c, a.wide);
            *(uint4 *)(dst + r * C::LD + c) =
                uint4{pack_pair<T>(x[0], x[1]), pack_pair<T>(x[2], x[3]), pack_pair<T>(x[4], x[5]),
                      pack_pair<T>(x[6], x[7])};
        }
    }
}

/* Whether there is NaN or infinity in what this thread itself loaded of a step's values. */
template <class C> __device__ __forceinline__ bool flash_own_bad(const typename C::T *v)
{
    bool bad = false;
    for (int i = threadIdx.x; i < C::KEYS * (C::D / 8); i += C::THREADS) {
        uint4 x = *(const uint4 *)(v + i / (C::D / 8) * C::LD + i % (C::D / 8) * 8);
        const uint32_t w[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
        for (int j = 0; j < 4; j++)
            bad |= pair_finite<typename C::T>(w[j]) != w[j];
    }
    return bad;
}

template <class C>
__device__ __forceinline__ void flash_copy_finite(typename C::T *dst, const typename C::T *v)
{
    using T = typename C::T;
#pragma unroll 1
    for (int i = threadIdx.x; i < C::KEYS * (C::D / 8); i += C::THREADS) {
        int at = i / (C::D / 8) * C::LD + i % (C::D / 8) * 8;
        uint4 x = *(const uint4 *)(v + at);
        *(uint4 *)(dst + at) = uint4{pair_finite<T>(x.x), pair_finite<T>(x.y), pair_finite<T>(x.z),
                                     pair_finite<T>(x.w)};
    }
}

/* Adds the values that are not finite to the rows that see them. first is the warp's first query,
 * k0 the key of v's first row; keys of the tile that no row sees are left out by seen. */
template <class C>
__device__ __forceinline__ void flash_add_bad(flash_rows<C> &w, const typename C::T *v, int first,
                                              int k0, flash_span seen, const flash_args &a)
{
    int lane = threadIdx.x % 32;
#pragma unroll 1
    for (int j = max(seen.lo - k0, 0); j < min(seen.hi - k0, C::BN); j++) {
        bool sees[C::MT][2];
        for (int i = 0; i < C::MT * 2; i++) {
            flash_span s = flash_visible(a, first + i / 2 * 16 + i % 2 * 8 + lane / 4);
            sees[i / 2][i % 2] = k0 + j >= s.lo && k0 + j < s.hi;
        }
#pragma unroll
        for (int n = 0; n < C::D / 8; n++)
            for (int e = 0; e < 2; e++) {
                float x = to_f32(v[j * C::LD + n * 8 + lane % 4 * 2 + e]);
                if (isfinite(x)) continue;
                for (int i = 0; i < C::MT * 2; i++)
                    if (sees[i / 2][i % 2]) w.o[i / 2][n][i % 2 * 2 + e] += x;
            }
    }
}

/* Whether 16 keys from k on hold one that is seen. */
__device__ __forceinline__ bool flash_any(flash_span seen, int k)
{
    return k < seen.hi && k + 16 > seen.lo;
}

/* s = q k^T, not scaled. q is the address of the warp's queries, used when qf does not hold them.
 */
template <class C, bool MASKED>
__device__ __forceinline__ void flash_scores(flash_scores_t<C> &s, const flash_queries_t<C> &qf,
                                             uint32_t q, const typename C::T *k, int k0,
                                             flash_span seen)
{
    int lane = threadIdx.x % 32;
    uint32_t at = smem_address(k + (lane % 8 + lane / 16 * 8) * C::LD + lane / 8 % 2 * 8);
#pragma unroll
    for (int i = 0; i < C::MT * C::BN / 8 * 4; i++)
        s[i / 4 / (C::BN / 8)][i / 4 % (C::BN / 8)][i % 4] = 0;
#pragma unroll
    for (int d = 0; d < C::D / 16; d++) {
        uint32_t a[C::MT][4];
#pragma unroll
        for (int m = 0; m < C::MT; m++)
            if (C::Q_REGS)
                for (int e = 0; e < 4; e++)
                    a[m][e] = qf[C::Q_REGS ? d : 0][m][e];
            else
                ldmatrix_x4(a[m], q + (m * 16 * C::LD + d * 16) * 2);
#pragma unroll
        for (int n = 0; n < C::BN / 16; n++) {
            if (MASKED && !flash_any(seen, k0 + n * 16)) continue;
            uint32_t b[4];
            ldmatrix_x4(b, at + (n * 16 * C::LD + d * 16) * 2);
#pragma unroll
            for (int m = 0; m < C::MT; m++) {
                mma_16816<typename C::T>(s[m][2 * n], a[m], b[0], b[1]);
                mma_16816<typename C::T>(s[m][2 * n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

template <class C>
__device__ __forceinline__ void flash_mask(flash_scores_t<C> &s, int first, int k0,
                                           const flash_args &a)
{
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < C::MT * 2; i++) {
        flash_span see = flash_visible(a, first + i / 2 * 16 + i % 2 * 8 + lane / 4);
        int lo = see.lo - k0 - lane % 4 * 2, hi = see.hi - k0 - lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < C::BN / 8; n++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                if (n * 8 + e < lo || n * 8 + e >= hi) s[i / 2][n][i % 2 * 2 + e] = -INFINITY;
    }
}

/* s becomes p = 2^(scale s - base), and what the rows hold is brought to the new base. The largest
 * score may pass NaN by: p is NaN where s is. */
template <class C>
__device__ __forceinline__ void flash_softmax(flash_scores_t<C> &s, flash_rows<C> &w, float scale)
{
#pragma unroll
    for (int i = 0; i < C::MT * 2; i++) {
        int m = i / 2, r = i % 2;
        float max = w.m[m][r], sum = 0;
#pragma unroll
        for (int n = 0; n < C::BN / 8; n++)
            max = fmaxf(max, fmaxf(s[m][n][2 * r], s[m][n][2 * r + 1]));
        max = fmaxf(max, __shfl_xor_sync(~0u, max, 1));
        max = fmaxf(max, __shfl_xor_sync(~0u, max, 2));
        float base = flash_base(max, scale);
        float keep = exp2_fast(__fmul_rn(w.m[m][r], scale) - base);
        w.m[m][r] = max;
#pragma unroll
        for (int n = 0; n < C::BN / 8; n++)
#pragma unroll
            for (int e = 2 * r; e < 2 * r + 2; e++)
                sum += s[m][n][e] = exp2_fast(fmaf(s[m][n][e], scale, -base));
        w.l[m][r] = w.l[m][r] * keep + sum;
#pragma unroll
        for (int n = 0; n < C::D / 8; n++) {
            w.o[m][n][2 * r] *= keep;
            w.o[m][n][2 * r + 1] *= keep;
        }
    }
}

/* o += p v */
template <class C, bool MASKED>
__device__ __forceinline__ void flash_values(flash_rows<C> &w, const flash_scores_t<C> &p,
                                             const typename C::T *v, int k0, flash_span seen)
{
    using T = typename C::T;
    int lane = threadIdx.x % 32;
    uint32_t at = smem_address(v + lane % 16 * C::LD + lane / 16 * 8);
#pragma unroll
    for (int n = 0; n < C::BN / 16; n++) {
        if (MASKED && !flash_any(seen, k0 + n * 16)) continue;
        uint32_t a[C::MT][4];
#pragma unroll
        for (int i = 0; i < C::MT * 4; i++) {
            const float *x = p[i / 4][2 * n + i % 4 / 2] + i % 2 * 2;
            a[i / 4][i % 4] = pack_pair<T>(x[0], x[1]);
        }
#pragma unroll
        for (int d = 0; d < C::D / 16; d++) {
            uint32_t b[4];
            ldmatrix_x4_trans(b, at + (n * 16 * C::LD + d * 16) * 2);
#pragma unroll
            for (int m = 0; m < C::MT; m++) {
                mma_16816<T>(w.o[m][2 * d], a[m], b[0], b[1]);
                mma_16816<T>(w.o[m][2 * d + 1], a[m], b[2], b[3]);
            }
        }
    }
}

/* Key group 0 takes in what the others found. All threads must be done with x. */
template <class C>
__device__ __forceinline__ void flash_merge(flash_rows<C> &w, float *x, float scale)
{
    constexpr int N = C::MT * (C::D / 2 + 4);
    int group = threadIdx.x / 128, thread = threadIdx.x % 128;
    if (group > 0) {
        float *to = x + (group - 1) * N * 128 + thread;
#pragma unroll
        for (int i = 0; i < C::MT * C::D / 2; i++)
            to[i * 128] = w.o[i / (C::D / 2)][i / 4 % (C::D / 8)][i % 4];
#pragma unroll
        for (int i = 0; i < C::MT * 2; i++) {
            to[(C::MT * C::D / 2 + 2 * i) * 128] = w.m[i / 2][i % 2];
            to[(C::MT * C::D / 2 + 2 * i + 1) * 128] = w.l[i / 2][i % 2];
        }
    }
    __syncthreads();
    if (group > 0) return;
    for (int g = 0; g < C::KG - 1; g++) {
        const float *from = x + g * N * 128 + thread;
#pragma unroll
        for (int i = 0; i < C::MT * 2; i++) {
            float &m = w.m[i / 2][i % 2], &l = w.l[i / 2][i % 2];
            float m2 = from[(C::MT * C::D / 2 + 2 * i) * 128], max = fmaxf(m, m2);
            float base = flash_base(max, scale), keep = exp2_fast(__fmul_rn(m, scale) - base);
            float keep2 = exp2_fast(__fmul_rn(m2, scale) - base);
            l = l * keep + from[(C::MT * C::D / 2 + 2 * i + 1) * 128] * keep2;
            m = max;
#pragma unroll
            for (int j = 0; j < C::D / 4; j++) {
                int e = i % 2 * 2 + j % 2;
                float &o = w.o[i / 2][j / 2][e];
                o = o * keep + from[(i / 2 * (C::D / 2) + j / 2 * 4 + e) * 128] * keep2;
            }
        }
    }
}

/* Divides by the sums and writes the warp's rows. stage is shared memory for them, the warp's own.
 */
template <class C>
__device__ __forceinline__ void flash_write(flash_rows<C> &w, typename C::T *stage, sq_dtype own,
                                            const flash_place &p, int first, const flash_args &a)
{
    using T = typename C::T;
    int lane = threadIdx.x % 32;
    bool staged = a.wide && a.out_type == own;
#pragma unroll
    for (int i = 0; i < C::MT * 2; i++) {
        int m = i / 2, r = i % 2, row = m * 16 + r * 8 + lane / 4;
        float l = w.l[m][r];
        l += __shfl_xor_sync(~0u, l, 1);
        l += __shfl_xor_sync(~0u, l, 2);
        float inv = 1 / l;
        int64_t at = p.q_at + (int64_t)(first + row) * p.q_stride;
#pragma unroll
        for (int n = 0; n < C::D / 8; n++) {
            int c = n * 8 + lane % 4 * 2;
            float x = w.o[m][n][2 * r] * inv, y = w.o[m][n][2 * r + 1] * inv;
            if (staged) {
                *(uint32_t *)(stage + row * C::LD + c) = pack_pair<T>(x, y);
            } else if (first + row <= p.row1 && c < a.head_dim) {
                store_any(a.out, a.out_type, at + c, x);
                store_any(a.out, a.out_type, at + c + 1, y);
            }
        }
    }
    if (!staged) return;
    __syncwarp();
    for (int i = lane; i < C::ROWS * (C::D / 8); i += 32) {
        int row = i / (C::D / 8), c = i % (C::D / 8) * 8;
        if (first + row > p.row1 || c >= a.head_dim) continue;
        *(uint4 *)((T *)a.out + p.q_at + (int64_t)(first + row) * p.q_stride + c) =
            *(const uint4 *)(stage + row * C::LD + c);
    }
}

/* A step's keys or values from key `first` on. */
template <class C>
__device__ __forceinline__ void flash_load_step(typename C::T *dst, const void *src, int first,
                                                const flash_place &p, const flash_args &a)
{
    flash_load<C, C::KEYS>(dst, src, a.kv_type, p.kv_at, p.kv_stride, first, p.keys.hi, a);
}

/* v, or its finite numbers copied to k, which must have been used up. All threads come here. */
template <class C>
__device__ __forceinline__ const typename C::T *flash_usable(typename C::T *k,
                                                             const typename C::T *v)
{
    if (!__syncthreads_or(flash_own_bad<C>(v))) return v;
    flash_copy_finite<C>(k, v);
    __syncthreads();
    return k;
}

template <class C> __device__ __forceinline__ void flash_clear(flash_rows<C> &w)
{
#pragma unroll
    for (int i = 0; i < C::MT * 2; i++) {
        w.m[i / 2][i % 2] = -INFINITY;
        w.l[i / 2][i % 2] = 0;
    }
#pragma unroll
    for (int i = 0; i < C::MT * C::D / 2; i++)
        w.o[i / (C::D / 2)][i / 4 % (C::D / 8)][i % 4] = 0;
}

/* One warp's work on the BN keys from k0 on. */
template <class C, bool MASKED>
__device__ __forceinline__ void flash_take(flash_rows<C> &w, flash_scores_t<C> &s,
                                           const typename C::T *v, int first, int k0,
                                           flash_span seen, const flash_args &a)
{
    if (MASKED) flash_mask<C>(s, first, k0, a);
    flash_softmax<C>(s, w, a.scale);
    flash_values<C, MASKED>(w, s, v, k0, seen);
}

/* scale is multiplied with LOG2_E, own is T's dtype. */
template <class C>
static __global__ void __launch_bounds__(C::THREADS, C::MIN_CTAS)
    flash_mma_kernel(flash_args a, sq_dtype own)
{
    using T = typename C::T;
    extern __shared__ uint4 flash_smem[];
    T *sq = (T *)flash_smem, *sk = sq + C::BM * C::LD, *sv = sk + 2 * C::TILE;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = warp / 4;
    const flash_place p = flash_find(a, blockIdx.x, C::BM);
    const int own_row = warp % 4 * C::ROWS, first = p.row0 + own_row; /* the warp's rows */
    const int last = min(first + C::ROWS - 1, p.row1);
    const int n_step = (p.keys.hi - p.keys.lo + C::KEYS - 1) / C::KEYS;
    /* Seen by some row of the warp, by all rows of the warp, by all rows of the CTA. */
    flash_span seen = {flash_visible(a, first).lo, flash_visible(a, last).hi};
    const flash_span all = {flash_visible(a, last).lo, flash_visible(a, first).hi};
    const flash_span common = {flash_visible(a, p.row1).lo, flash_visible(a, p.row0).hi};
    if (first > p.row1) seen.hi = seen.lo;

    cuda_wait();
    cuda_release();
    flash_load<C, C::BM>(sq, a.q, own, p.q_at, p.q_stride, p.row0, a.n_q, a);
    flash_load_step<C>(sk, a.k, p.keys.lo, p, a);
    cp_async_commit();
    flash_load_step<C>(sv, a.v, p.keys.lo, p, a);
    cp_async_commit();

    flash_rows<C> w;
    flash_clear<C>(w);
    const uint32_t q = smem_address(sq + (own_row + lane % 16) * C::LD + lane / 16 * 8);
    flash_queries_t<C> qf;

#pragma unroll 1
    for (int t = 0; t < n_step; t++) {
        T *k = sk + t % 2 * C::TILE, *v = sv + t % 2 * C::TILE;
        const int step = p.keys.lo + t * C::KEYS, k0 = step + group * C::BN, part = group * C::BN;
        if (t == 0)
            cp_async_wait<1>(); /* for the keys; the values may still be on their way */
        else
            cp_async_wait<0>();
        __syncthreads(); /* the step is there, and nobody reads the other half any more */
        if (t + 1 < n_step) {
            flash_load_step<C>(sk + (t + 1) % 2 * C::TILE, a.k, step + C::KEYS, p, a);
            flash_load_step<C>(sv + (t + 1) % 2 * C::TILE, a.v, step + C::KEYS, p, a);
        }
        cp_async_commit();
        if (C::Q_REGS && t == 0) {
#pragma unroll
            for (int i = 0; i < C::MT * C::D / 16; i++)
                ldmatrix_x4(qf[C::Q_REGS ? i / C::MT : 0][i % C::MT],
                            q + (i % C::MT * 16 * C::LD + i / C::MT * 16) * 2);
        }
        const bool some = k0 < seen.hi && k0 + C::BN > seen.lo;
        const bool whole = k0 >= all.lo && k0 + C::BN <= all.hi;
        flash_scores_t<C> s;
        if (some && whole)
            flash_scores<C, false>(s, qf, q, k + part * C::LD, k0, seen);
        else if (some)
            flash_scores<C, true>(s, qf, q, k + part * C::LD, k0, seen);

        if (t == 0) cp_async_wait<1>();
        const T *values = v;
        if (step < common.lo || min(step + C::KEYS, p.keys.hi) > common.hi)
            values = flash_usable<C>(k, v);
        else if (t == 0)
            __syncthreads();
        if (some && whole)
            flash_take<C, false>(w, s, values + part * C::LD, first, k0, seen, a);
        else if (some)
            flash_take<C, true>(w, s, values + part * C::LD, first, k0, seen, a);
        if (values != v && some) flash_add_bad<C>(w, v + part * C::LD, first, k0, seen, a);
    }
    if (C::KG > 1) {
        __syncthreads();
        flash_merge<C>(w, (float *)sk, a.scale);
        if (group > 0) return;
    }
    if (first <= p.row1) flash_write<C>(w, sq + own_row * C::LD, own, p, first, a);
}

template <class C> static bool flash_start(sq_backend *be, flash_args a, sq_dtype own)
{
    if (C::SMEM > cuda_of(be)->block_smem) return false;
    a.n_tile = (a.n_q + C::BM - 1) / C::BM;
    cuda_allow_smem(be, "attn", flash_mma_kernel<C>, C::SMEM);
    cuda_launch(be, "attn", flash_mma_kernel<C>,
                dim3((unsigned)a.n_tile * (unsigned)a.n_head * (unsigned)a.n_seq), C::THREADS,
                C::SMEM, a, own);
    return true;
}

/* Tall blocks read keys and values less often, but only many of them fill the device. */
static inline bool flash_tall(sq_backend *be, const flash_args &a)
{
    return (int64_t)((a.n_q + 127) / 128) * a.n_head * a.n_seq >= 2 * cuda_of(be)->n_sm;
}

template <class T> static bool flash_direct(sq_backend *be, const flash_args &a, sq_dtype own)
{
    int dim = a.head_dim;
    if (dim <= 64)
        return flash_tall(be, a) ? flash_start<flash_config<T, 64, 2, 1, 64, true>>(be, a, own)
                                 : flash_start<flash_config<T, 64, 1, 2, 64, true>>(be, a, own);
    if (dim <= 80) return flash_start<flash_config<T, 80, 1, 2, 32, true>>(be, a, own);
    if (dim <= 96) return flash_start<flash_config<T, 96, 1, 2, 32, true>>(be, a, own);
    if (dim > 128) return flash_start<flash_config<T, 256, 1, 1, 32, true>>(be, a, own);
    if (flash_tall(be, a) && flash_start<flash_config<T, 128, 2, 1, 64, true>>(be, a, own))
        return true;
    return flash_start<flash_config<T, 128, 1, 2, 64, true>>(be, a, own) ||
           flash_start<flash_config<T, 128, 1, 2, 32, true>>(be, a, own);
}

template <class T> static bool flash_mma(sq_backend *be, flash_args a, sq_dtype own)
{
    a.scale *= LOG2_E;
    if (a.wide && a.kv_type == own) return flash_direct<T>(be, a, own);
    if (a.head_dim <= 64) return flash_start<flash_config<T, 64, 1, 2, 32, false>>(be, a, own);
    if (a.head_dim <= 128) return flash_start<flash_config<T, 128, 1, 2, 32, false>>(be, a, own);
    return flash_start<flash_config<T, 256, 1, 1, 32, false>>(be, a, own);
}

#endif
