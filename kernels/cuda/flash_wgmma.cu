/* Attention on the asynchronous tensor cores of compute capability 9.0, for queries, keys, values
 * and result in bf16 and heads of 64 or 128.
 *
 * A CTA has MW * KW groups of four warps. Group g takes 64 rows, those of g % MW, and every KW-th
 * tile of BN keys; the parts of a row are merged at the end, so that few queries can still occupy
 * many warps. Groups with the same tiles share a ring of them in shared memory, which one of their
 * threads refills. A tile's scores are computed before the product with the previous tile's values
 * is waited for.
 *
 * A masked key has p = 0, but 0 * NaN is NaN. Rows past the end are copied as zeros; for the keys
 * that a mask hides, rows whose result is not finite are computed once more, without tensor cores,
 * where there is a mask. */
#include "kernels/cuda/flash_args.cuh"
#include "kernels/cuda/flash_ptx.cuh"

#include <math.h>

template <int D_, int MW_, int KW_, int BN_, int STAGES_, int CTAS_> struct wg_config {
    using T = __nv_bfloat16;
    static constexpr int D = D_, MW = MW_, KW = KW_, BN = BN_, STAGES = STAGES_;
    static constexpr int MIN_CTAS = CTAS_; /* of a multiprocessor */
    static constexpr int BM = 64 * MW, THREADS = 128 * MW * KW;
    static constexpr int Q_BYTES = BM * D * 2, TILE_BYTES = BN * D * 2;
    static constexpr int SLOTS = KW * STAGES;
    static constexpr int BARS = Q_BYTES + 2 * SLOTS * TILE_BYTES;
    static constexpr int SMEM = BARS + 8 * (1 + 3 * SLOTS);
    static constexpr int RISE = 8; /* powers of two by which p may pass 1, and no rescaling */
    static constexpr int TAIL = 16; /* as few keys at the end get products of their own */
    static constexpr int PART = D / 2 + 4; /* numbers of a thread that are merged */
    static_assert((KW - 1) * MW * 128 * PART * 4 <= 2 * SLOTS * TILE_BYTES, "merging has room");
    static_assert(BN % 16 == 0 && D % 64 == 0 && KW <= 2, "whole products");
    static_assert((MW == 1 || KW == 1) && STAGES >= 3, "rings as wg_attend has them");
    static_assert(TILE_BYTES % 1024 == 0, "whole swizzles");
};

/* Of a tensor's head: 64 columns, rows as many as are copied at a time. */
struct wg_maps {
    CUtensorMap q, k, v;
};

/* Addresses in shared memory. Columns 64 .. 127 follow all rows of columns 0 .. 63. */
template <class C> struct wg_smem {
    uint32_t base;
    __device__ uint32_t q() const { return base; }
    __device__ uint32_t k(int slot) const { return base + C::Q_BYTES + slot * C::TILE_BYTES; }
    __device__ uint32_t v(int slot) const { return k(C::SLOTS + slot); }
    __device__ uint32_t q_full() const { return base + C::BARS; }
    __device__ uint32_t bar(int kind, int slot) const
    {
        return base + C::BARS + 8 + (kind * C::SLOTS + slot) * 8;
    }
};
enum { WG_K_FULL, WG_V_FULL, WG_EMPTY };

/* What a group of warps works on. The i-th tile of its n_tile is at slot + i % STAGES. */
struct wg_work {
    flash_place p;
    int row;                /* first one of the warp */
    int head, head_kv, seq;
    int key, step, n_tile;  /* first key of tile 0, distance of tiles */
    int slot;
    bool loads;             /* this thread refills the ring */
};

/* What a thread holds of its rows lane/4 and lane/4 + 8 of the warp's 16: o[4n + e] is column
 * 8n + lane%4*2 + e%2 of row e/2. p is counted from the score m, at most RISE below the largest so
 * far; l is the sum over the thread's own keys. */
template <class C> struct wg_rows {
    float o[C::D / 2], m[2], l[2];
};

template <class C>
__device__ __forceinline__ void wg_load(const CUtensorMap *map, uint32_t to, uint32_t bar, int head,
                                        int row, int seq)
{
    bar_expect(bar, C::TILE_BYTES);
#pragma unroll
    for (int c = 0; c < C::D / 64; c++)
        flash_copy_box(to + c * C::BN * 128, map, bar, c * 64, head, row, seq);
}

template <class C>
__device__ __forceinline__ void wg_load_tile(const wg_maps &maps, const wg_smem<C> &sh,
                                             const wg_work &g, int tile)
{
    const int slot = g.slot + tile % C::STAGES, key = g.key + tile * g.step;
    wg_load<C>(&maps.k, sh.k(slot), sh.bar(WG_K_FULL, slot), g.head_kv, key, g.seq);
    wg_load<C>(&maps.v, sh.v(slot), sh.bar(WG_V_FULL, slot), g.head_kv, key, g.seq);
}

template <class C>
__device__ __forceinline__ void wg_load_queries(const wg_maps &maps, const wg_smem<C> &sh,
                                                const wg_work &g)
{
    bar_expect(sh.q_full(), C::Q_BYTES);
#pragma unroll
    for (int i = 0; i < C::D / 64 * C::MW; i++)
        flash_copy_box(sh.q() + i * 64 * 128, &maps.q, sh.q_full(), i / C::MW * 64, g.head,
                       g.p.row0 + i % C::MW * 64, g.seq);
}

/* Starts s = q k^T with a tile's first N keys. */
template <class C, int N>
__device__ __forceinline__ void wg_scores(float (&s)[N / 2], uint32_t q, uint32_t k)
{
    const uint64_t a = wgmma_tile(q, 16), b = wgmma_tile(k, 16);
    wgmma_begin();
#pragma unroll
    for (int i = 0; i < C::D / 16; i++) {
        const int in = i % 4 * 2; /* in units of 16 bytes */
        wgmma_op<N>::scores(s, a + (i / 4 * C::BM * 8 + in), b + (i / 4 * C::BN * 8 + in), i > 0);
    }
    wgmma_end();
}

/* Starts o += p v. */
template <class C, int N>
__device__ __forceinline__ void wg_values(float (&o)[C::D / 2], const uint32_t (&p)[N / 4],
                                          uint32_t v)
{
    const uint64_t b = wgmma_tile(v, C::BN * 128);
    wgmma_begin();
#pragma unroll
    for (int i = 0; i < N / 16; i++)
        wgmma_op<C::D>::values(o, p + 4 * i, b + i * 16 * 8);
    wgmma_end();
}

/* row: the thread's first one; k0: the tile's first key. */
template <int N>
__device__ __forceinline__ void wg_mask(float (&s)[N / 2], int row, int k0, const flash_args &a)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        flash_span see = flash_visible(a, row + r * 8);
        int at = k0 + (int)threadIdx.x % 4 * 2, lo = see.lo - at, hi = see.hi - at;
#pragma unroll
        for (int n = 0; n < N / 8; n++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                if (n * 8 + e < lo || n * 8 + e >= hi) s[n * 4 + r * 2 + e] = -INFINITY;
    }
}

/* s becomes p = 2^(scale s - base); keep is what the rows so far must be multiplied with. The
 * largest score may pass NaN by: p is NaN where s is. Four sums each, so that none waits long. */
template <class C, int N>
__device__ __forceinline__ void wg_softmax(float (&s)[N / 2], wg_rows<C> &w, float keep[2],
                                           float scale)
{
    float base[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float max[4] = {w.m[r], w.m[r], w.m[r], w.m[r]};
#pragma unroll
        for (int n = 0; n < N / 8; n++) {
            max[n % 2] = fmaxf(max[n % 2], s[n * 4 + r * 2]);
            max[2 + n % 2] = fmaxf(max[2 + n % 2], s[n * 4 + r * 2 + 1]);
        }
        float all = fmaxf(fmaxf(max[0], max[1]), fmaxf(max[2], max[3]));
        all = fmaxf(all, __shfl_xor_sync(~0u, all, 1));
        all = fmaxf(all, __shfl_xor_sync(~0u, all, 2));
        const float old = __fmul_rn(w.m[r], scale);
        if (!(__fmul_rn(all, scale) - old <= C::RISE)) w.m[r] = all;
        base[r] = flash_base(w.m[r], scale);
        keep[r] = exp2_fast(old - base[r]);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float sum[4] = {w.l[r] * keep[r], 0, 0, 0};
#pragma unroll
        for (int n = 0; n < N / 8; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float &x = s[n * 4 + r * 2 + e];
                x = exp2_fast(fmaf(x, scale, -base[r]));
                sum[n % 2 * 2 + e] += x;
            }
        w.l[r] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }
}

template <class C, int N>
__device__ __forceinline__ void wg_pack(uint32_t (&p)[N / 4], const float (&s)[N / 2])
{
#pragma unroll
    for (int i = 0; i < N / 4; i++)
        p[i] = pack_pair<typename C::T>(s[2 * i], s[2 * i + 1]);
}

template <class C> __device__ __forceinline__ void wg_rescale(wg_rows<C> &w, const float keep[2])
{
    if (__all_sync(~0u, keep[0] == 1 && keep[1] == 1)) return;
#pragma unroll
    for (int i = 0; i < C::D / 2; i++)
        w.o[i] *= keep[i / 2 % 2];
}

/* The scores s of N keys from k0 on to what they weigh. */
template <class C, int N>
__device__ __forceinline__ void wg_weigh(float (&s)[N / 2], wg_rows<C> &w, float keep[2], int k0,
                                         flash_span all, int row, const flash_args &a)
{
    if (k0 < all.lo || k0 + N > all.hi) wg_mask<N>(s, row + (int)threadIdx.x % 32 / 4, k0, a);
    wg_softmax<C, N>(s, w, keep, a.scale);
}

/* All of a group's tiles; q is where its queries are. */
template <class C>
__device__ __forceinline__ void wg_attend(wg_rows<C> &w, const wg_maps &maps, const wg_smem<C> &sh,
                                          uint32_t q, const wg_work &g, const flash_args &a)
{
    constexpr int BN = C::BN, TAIL = C::TAIL;
    const int last = min(g.row + 15, g.p.row1);
    /* Seen by all rows of the warp; nothing of a warp without rows is worth computing. */
    const flash_span all = {flash_visible(a, last).lo, flash_visible(a, g.row).hi};
    const bool live = g.row <= g.p.row1;
    const int left = g.p.keys.hi - g.key;
    const int n = g.n_tile - (g.n_tile > 1 && left <= (g.n_tile - 1) * g.step + TAIL);
    float s[BN / 2], keep[2] = {1, 1};
    uint32_t p[BN / 4];
    auto wait = [&](int kind, int tile) {
        bar_wait(sh.bar(kind, g.slot + tile % C::STAGES), tile / C::STAGES & 1);
    };
    if (n == 0) return;
    wait(WG_K_FULL, 0);
    wg_scores<C, BN>(s, q, sh.k(g.slot));
    wgmma_done<0>();
    wgmma_pin(s);
    if (live) wg_weigh<C, BN>(s, w, keep, g.key, all, g.row, a);
    wg_pack<C, BN>(p, s);
#pragma unroll 1
    for (int t = 0; t + 1 < n; t++) {
        const int slot = g.slot + t % C::STAGES;
        wait(WG_K_FULL, t + 1);
        wg_scores<C, BN>(s, q, sh.k(g.slot + (t + 1) % C::STAGES));
        wait(WG_V_FULL, t);
        wg_values<C, BN>(w.o, p, sh.v(slot));
        if (g.loads && t > 0 && t - 1 + C::STAGES < g.n_tile) {
            wait(WG_EMPTY, t - 1);
            wg_load_tile<C>(maps, sh, g, t - 1 + C::STAGES);
        }
        __syncwarp();
        wgmma_done<1>();
        wgmma_pin(s);
        if (live) wg_weigh<C, BN>(s, w, keep, g.key + (t + 1) * g.step, all, g.row, a);
        wgmma_done<0>();
        wgmma_pin(w.o);
        if (threadIdx.x % 32 == 0) bar_arrive(sh.bar(WG_EMPTY, slot));
        wg_rescale<C>(w, keep);
        wg_pack<C, BN>(p, s);
    }
    const int end = g.slot + n % C::STAGES;
    float s2[TAIL / 2];
    uint32_t p2[TAIL / 4];
    if (n < g.n_tile) { /* a last tile of few keys */
        wait(WG_K_FULL, n);
        wg_scores<C, TAIL>(s2, q, sh.k(end));
        wgmma_done<0>();
        wgmma_pin(s2);
    }
    wait(WG_V_FULL, n - 1);
    wg_values<C, BN>(w.o, p, sh.v(g.slot + (n - 1) % C::STAGES));
    if (n < g.n_tile && live) wg_weigh<C, TAIL>(s2, w, keep, g.key + n * g.step, all, g.row, a);
    wgmma_done<0>();
    wgmma_pin(w.o);
    if (n < g.n_tile) {
        wg_rescale<C>(w, keep);
        wg_pack<C, TAIL>(p2, s2);
        wait(WG_V_FULL, n);
        wg_values<C, TAIL>(w.o, p2, sh.v(end));
        wgmma_done<0>();
        wgmma_pin(w.o);
    }
}

/* The first key group takes in what the other found; x has room for it. */
template <class C>
__device__ __forceinline__ void wg_merge(wg_rows<C> &w, float *x, float scale)
{
    constexpr int HALF = C::MW * 128;
    float *part = x + threadIdx.x % HALF;
    const bool giver = threadIdx.x >= HALF;
    flash_named_sync(1, C::THREADS); /* nobody reads the ring any more */
    if (giver) {
#pragma unroll
        for (int i = 0; i < C::D / 2; i++)
            part[i * HALF] = w.o[i];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            part[(C::D / 2 + r) * HALF] = w.m[r];
            part[(C::D / 2 + 2 + r) * HALF] = w.l[r];
        }
    }
    flash_named_sync(1, C::THREADS);
    if (giver) return;
    float keep[2], keep2[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float m2 = part[(C::D / 2 + r) * HALF], base = flash_base(fmaxf(w.m[r], m2), scale);
        keep[r] = exp2_fast(__fmul_rn(w.m[r], scale) - base);
        keep2[r] = exp2_fast(__fmul_rn(m2, scale) - base);
        w.l[r] = w.l[r] * keep[r] + part[(C::D / 2 + 2 + r) * HALF] * keep2[r];
    }
#pragma unroll
    for (int i = 0; i < C::D / 2; i++)
        w.o[i] = w.o[i] * keep[i / 2 % 2] + part[i * HALF] * keep2[i / 2 % 2];
}

/* A warp's rows from memory, one lane a key; only keys that are seen are touched. */
template <class C>
__device__ __forceinline__ void wg_careful(const flash_place &p, int row, const flash_args &a)
{
    using T = typename C::T;
    constexpr int N = C::D / 32;
    const int lane = threadIdx.x % 32;
#pragma unroll 1
    for (int end = min(row + 15, p.row1); row <= end; row++) {
        const flash_span see = flash_visible(a, row);
        const int64_t at = p.q_at + (int64_t)row * p.q_stride;
        const T *q = (const T *)a.q + at;
        float m = -INFINITY, l = 0, o[N] = {};
#pragma unroll 1
        for (int k0 = see.lo; k0 < see.hi; k0 += 32) {
            const int n = min(32, see.hi - k0);
            const T *k = (const T *)a.k + p.kv_at + (int64_t)(k0 + min(lane, n - 1)) * p.kv_stride;
            float s = 0;
#pragma unroll 1
            for (int d = 0; d < C::D; d++)
                s = fmaf(to_f32(q[d]), to_f32(k[d]), s);
            s = lane < n ? __fmul_rn(s, a.scale) : -INFINITY;
            float max = fmaxf(m, s);
            for (int i = 16; i > 0; i /= 2)
                max = fmaxf(max, __shfl_xor_sync(~0u, max, i));
            float base = max == -INFINITY ? 0 : max, keep = exp2_fast(m - base);
            float x = exp2_fast(s - base);
            m = max;
            l = l * keep + warp_sum(x);
            for (int i = 0; i < N; i++)
                o[i] *= keep;
            const T *v = (const T *)a.v + p.kv_at + (int64_t)k0 * p.kv_stride + lane * N;
#pragma unroll 1
            for (int j = 0; j < n; j++, v += p.kv_stride) {
                float f = __shfl_sync(~0u, x, j);
                for (int i = 0; i < N; i++)
                    o[i] = fmaf(f, to_f32(v[i]), o[i]);
            }
        }
        for (int i = 0; i < N; i++)
            ((T *)a.out)[at + lane * N + i] = from_f32<T>(o[i] / l);
    }
}

/* Divides by the sums and writes the warp's 16 rows. stage is where their queries were, which no
 * other warp reads now: 16 rows of 64 columns, and as many of the next 64 PANEL bytes further. */
template <class C>
__device__ __forceinline__ void wg_write(wg_rows<C> &w, char *stage, const flash_place &p, int row,
                                         const flash_args &a)
{
    using T = typename C::T;
    constexpr int PANEL = C::BM * 128;
    const int lane = threadIdx.x % 32;
    bool bad = false;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float l = w.l[r];
        l += __shfl_xor_sync(~0u, l, 1);
        l += __shfl_xor_sync(~0u, l, 2);
        const float inv = 1 / l;
        const int at = lane / 4 + r * 8;
#pragma unroll
        for (int n = 0; n < C::D / 8; n++) {
            float x = w.o[n * 4 + r * 2] * inv, y = w.o[n * 4 + r * 2 + 1] * inv;
            bad |= row + at <= p.row1 && !(isfinite(x) && isfinite(y));
            *(uint32_t *)(stage + n / 8 * PANEL + at * 128 + ((n % 8 ^ at % 8) * 16) +
                          lane % 4 * 4) = pack_pair<T>(x, y);
        }
    }
    if (a.backward && __any_sync(~0u, bad)) {
        wg_careful<C>(p, row, a);
        return;
    }
    __syncwarp();
#pragma unroll
    for (int i = lane; i < 16 * C::D / 8; i += 32) {
        int at = i / (C::D / 8), c = i % (C::D / 8);
        if (row + at > p.row1) continue;
        *(uint4 *)((T *)a.out + p.q_at + (int64_t)(row + at) * p.q_stride + c * 8) =
            *(const uint4 *)(stage + c / 8 * PANEL + at * 128 + (c % 8 ^ at % 8) * 16);
    }
}

template <class C> __device__ __forceinline__ wg_work wg_find(const flash_args &a)
{
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0); /* one number, as ptxas sees then */
    const int key_group = C::KW == 1 ? 0 : warp / (4 * C::MW);
    wg_work g;
    g.head = blockIdx.x;
    g.head_kv = g.head / a.group;
    g.seq = blockIdx.z;
    g.p = flash_place_of(a, g.head, g.head_kv, blockIdx.y, g.seq, C::BM);
    g.row = g.p.row0 + warp % (4 * C::MW) * 16;
    g.key = g.p.keys.lo + key_group * C::BN;
    g.step = C::KW * C::BN;
    g.n_tile = max(0, (g.p.keys.hi - g.key + g.step - 1) / g.step);
    g.slot = key_group * C::STAGES;
    g.loads = threadIdx.x % (128 * C::MW) == 0;
    return g;
}

/* scale is multiplied with LOG2_E. */
template <class C>
static __global__ void __launch_bounds__(C::THREADS, C::MIN_CTAS)
    flash_wgmma_kernel(const __grid_constant__ wg_maps maps, const __grid_constant__ flash_args a)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) char wg_shared[];
    const wg_smem<C> sh = {smem_address(wg_shared)};
    const wg_work g = wg_find<C>(a);
    const int warp = threadIdx.x / 32 % (4 * C::MW), n_row = g.p.row1 - g.p.row0 + 1;
    if (threadIdx.x == 0) {
        bar_init(sh.q_full(), 1);
        for (int i = 0; i < C::SLOTS; i++) {
            bar_init(sh.bar(WG_K_FULL, i), 1);
            bar_init(sh.bar(WG_V_FULL, i), 1);
            bar_init(sh.bar(WG_EMPTY, i), min(4 * C::MW, (n_row + 63) / 64 * 4));
        }
        bar_init_done();
    }
    __syncthreads();
    cuda_wait();
    cuda_release();
    if (threadIdx.x == 0) wg_load_queries<C>(maps, sh, g);
    if (g.loads)
        for (int t = 0; t < min(g.n_tile, C::STAGES); t++)
            wg_load_tile<C>(maps, sh, g, t);
    __syncwarp();
    if (warp / 4 * 64 >= n_row) return; /* a group without rows */
    wg_rows<C> w;
#pragma unroll
    for (int i = 0; i < C::D / 2; i++)
        w.o[i] = 0;
    w.m[0] = w.m[1] = -INFINITY;
    w.l[0] = w.l[1] = 0;
    bar_wait(sh.q_full(), 0);
    wg_attend<C>(w, maps, sh, sh.q() + warp / 4 * 64 * 128, g, a);
    if (C::KW > 1) {
        wg_merge<C>(w, (float *)(wg_shared + C::Q_BYTES), a.scale);
        if (g.slot > 0) return;
    }
    if (g.row <= g.p.row1) wg_write<C>(w, wg_shared + warp * 16 * 128, g.p, g.row, a);
#else
    __trap();
#endif
}

/* ---- starting it ---- */

template <class C> static bool wg_start(sq_backend *be, flash_args a)
{
    wg_maps maps;
    if (!cuda_here(be, "attn")) return true; /* maps are made in the current context */
    if (!cuda_flash_map(&maps.q, a.q, C::D, a.n_head, a.n_q, a.n_seq, 64) ||
        !cuda_flash_map(&maps.k, a.k, C::D, a.n_head_kv, a.n_kv, a.n_seq, C::BN) ||
        !cuda_flash_map(&maps.v, a.v, C::D, a.n_head_kv, a.n_kv, a.n_seq, C::BN))
        return false;
    a.group = a.n_head / a.n_head_kv;
    a.n_tile = (a.n_q + C::BM - 1) / C::BM;
    cuda_allow_smem(be, "attn", flash_wgmma_kernel<C>, C::SMEM);
    cuda_launch(be, "attn", flash_wgmma_kernel<C>,
                dim3((unsigned)a.n_head, (unsigned)a.n_tile, (unsigned)a.n_seq), C::THREADS,
                C::SMEM, maps, a);
    return true;
}

/* Wide CTAs read keys and values less often, but only many of them fill the device. */
bool cuda_flash_wgmma(sq_backend *be, flash_args a)
{
    const int64_t wide = (int64_t)((a.n_q + 127) / 128) * a.n_head * a.n_seq;
    const int n_sm = cuda_of(be)->n_sm;
    a.scale *= LOG2_E;
    if (a.n_seq > CUDA_GRID_YZ || a.n_q / 64 >= CUDA_GRID_YZ) return false;
    if (a.head_dim == 64)
        return wide >= 2 * n_sm ? wg_start<wg_config<64, 2, 1, 64, 4, 2>>(be, a)
                                : wg_start<wg_config<64, 1, 2, 64, 3, 2>>(be, a);
    if (a.head_dim == 128)
        return wide >= n_sm ? wg_start<wg_config<128, 2, 1, 128, 3, 1>>(be, a)
                            : wg_start<wg_config<128, 1, 2, 64, 3, 1>>(be, a);
    return false;
}
