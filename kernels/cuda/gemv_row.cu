/* The product of one bf16 row, for decoding: each weight is read once, so memory must never idle.
 *
 * Each warp streams its own weight rows through a ring of stages in shared memory, filled by bulk
 * copies that its first lane starts; the ring is full before the input exists (cuda_wait). One
 * block an SM, and so large that no other of these kernels fits beside it: where successors could
 * start early, two of their blocks shared an SM that was done first while other SMs had none, which
 * cost more than the early start gained. */
#include "kernels/cuda/bar_ptx.cuh"
#include "kernels/cuda/gemv_job.cuh"

enum {
    ROW_WARPS = 16,
    ROW_STAGE = 4096, /* bytes of one copy */
    ROW_DEPTH = 2,    /* stages of a warp's ring: 128 KB for the block */
    ROW_STATIC = 1024 /* shared memory beside the ring, x and sums: barriers */
};

#if __CUDA_ARCH__ >= 900
/* One thread: barriers for one arrival, as bulk copies see them too. */
__device__ __forceinline__ void bar_open(uint64_t (&bar)[ROW_DEPTH])
{
    for (int i = 0; i < ROW_DEPTH; i++)
        bar_init(smem_address(&bar[i]), 1);
    bar_init_done();
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* One thread: n bytes on their way to `to`; whoever waits for bar sees them. */
__device__ __forceinline__ void bulk_copy(void *to, const void *from, int n, uint64_t *bar,
                                          uint64_t policy)
{
    bar_expect(smem_address(bar), n);
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(smem_address(to)),
                 "l"(__cvta_generic_to_global(from)), "r"(n), "r"(smem_address(bar)), "l"(policy)
                 : "memory");
}

__device__ __forceinline__ float2 pair_f32(uint32_t w)
{
    return make_float2(__uint_as_float(w << 16), __uint_as_float(w & 0xffff0000u));
}

__device__ __forceinline__ void dot_16(float (&acc)[4], const char *w, const char *x)
{
    uint4 a = *(const uint4 *)w, b = *(const uint4 *)x;
    const uint32_t *aw = &a.x, *bw = &b.x;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 u = pair_f32(aw[i]), v = pair_f32(bw[i]);
        acc[i % 2 * 2] = fmaf(u.x, v.x, acc[i % 2 * 2]);
        acc[i % 2 * 2 + 1] = fmaf(u.y, v.y, acc[i % 2 * 2 + 1]);
    }
}

__device__ __forceinline__ const gemv_part &row_part(const gemv_job &job, int64_t row)
{
    if (job.n_part > 2 && row >= job.part[2].row) return job.part[2];
    if (job.n_part > 1 && row >= job.part[1].row) return job.part[1];
    return job.part[0];
}

/* A warp's way through its weight rows, one stage at a time. A block's rows are first .. of the
 * job; they are its units 0 .., gated: units 2 i and 2 i + 1 are gate and up of row i. */
struct row_stream {
    const char *row;
    int64_t first;
    int unit, n_unit, at; /* the next stage starts at byte `at` of the row of `unit` */
};

template <bool GATED>
__device__ __forceinline__ void stream_row(row_stream &s, const gemv_job &job)
{
    if (s.unit >= s.n_unit) return;
    int64_t row = s.first + (GATED ? s.unit / 2 : s.unit);
    const gemv_part &p = GATED ? job.part[s.unit & 1] : row_part(job, row);
    s.row = (const char *)p.w + (row - p.row) * job.in * 2;
}

/* Starts the copy of the next stage, if there is one, into a free place of the ring. */
template <bool GATED>
__device__ __forceinline__ void stream_fetch(row_stream &s, const gemv_job &job, char *to,
                                             uint64_t *bar, uint64_t policy)
{
    if (s.unit >= s.n_unit) return;
    if (threadIdx.x % 32 == 0)
        bulk_copy(to, s.row + s.at, min((int)ROW_STAGE, job.in * 2 - s.at), bar, policy);
    s.at += ROW_STAGE;
    if (s.at < job.in * 2) return;
    s.at = 0;
    s.unit += ROW_WARPS;
    stream_row<GATED>(s, job);
}

/* A warp's part of the product of one stage: n bytes of weights and of x. */
__device__ __forceinline__ void dot_stage(float (&acc)[4], const char *w, const char *x, int n)
{
    const int at = threadIdx.x % 32 * 16;
    if (n >= ROW_STAGE) {
#pragma unroll
        for (int k = 0; k < ROW_STAGE; k += 512)
            dot_16(acc, w + at + k, x + at + k);
    } else {
        for (int k = at; k < n; k += 512)
            dot_16(acc, w + k, x + k);
    }
}

/* Sums of the block's rows -> y. old: what y held in the place of the thread's first row. */
template <bool GATED>
__device__ __forceinline__ void row_results(const gemv_job &job, const float *sums, int64_t first,
                                            int n_row, float old)
{
    for (int r = threadIdx.x; r < n_row; r += ROW_WARPS * 32) {
        int64_t row = first + r;
        if (GATED) {
            gemv_put_gated<__nv_bfloat16>(job, row, 0, sums[2 * r], sums[2 * r + 1]);
            continue;
        }
        const gemv_part &p = row_part(job, row);
        if (job.add && !p.b && r < ROW_WARPS * 32)
            ((float *)p.y)[row - p.row] = old + sums[r];
        else
            gemv_put<__nv_bfloat16>(job, p, row - p.row, 0, sums[r]);
    }
}
#endif

/* x_at, sums_at: in shared memory, behind the rings. */
template <bool GATED>
__global__ void __launch_bounds__(ROW_WARPS * 32, 2)
    gemv_row_kernel(const __grid_constant__ gemv_job job, int x_at, int sums_at)
{
#if __CUDA_ARCH__ >= 900
    extern __shared__ __align__(128) char smem[];
    __shared__ uint64_t full[ROW_WARPS][ROW_DEPTH];
    const int warp = threadIdx.x / 32, row_bytes = job.in * 2;
    const uint64_t policy = read_once_policy();
    char *ring = smem + warp * ROW_DEPTH * ROW_STAGE, *x = smem + x_at;
    float *sums = (float *)(smem + sums_at), old = 0;
    row_stream s;
    s.first = job.n_row * blockIdx.x / gridDim.x;
    const int n_row = (int)(job.n_row * (blockIdx.x + 1) / gridDim.x - s.first);
    s.n_unit = GATED ? 2 * n_row : n_row;
    s.unit = warp;
    s.at = 0;
    stream_row<GATED>(s, job);
    if (threadIdx.x % 32 == 0) bar_open(full[warp]);
    for (int i = 0; i < ROW_DEPTH; i++)
        stream_fetch<GATED>(s, job, ring + i * ROW_STAGE, &full[warp][i], policy);
    bool fetched = s.unit >= s.n_unit;
    if (fetched) cuda_release();
    cuda_wait();
    /* not a bulk copy: that would queue up behind those of the weights */
#pragma unroll 4
    for (int i = threadIdx.x * 16; i < row_bytes; i += ROW_WARPS * 32 * 16)
        *(uint4 *)(x + i) = __ldcg((const uint4 *)((const char *)job.x + i));
    if (!GATED && job.add && threadIdx.x < n_row) {
        const gemv_part &p = row_part(job, s.first + threadIdx.x);
        old = ((const float *)p.y)[s.first + threadIdx.x - p.row];
    }
    __syncthreads();
    int slot = 0;
    int phase = 0;
    for (int unit = warp; unit < s.n_unit; unit += ROW_WARPS) {
        float acc[4] = {};
        for (int at = 0; at < row_bytes; at += ROW_STAGE) {
            char *w = ring + slot * ROW_STAGE;
            bar_wait(smem_address(&full[warp][slot]), phase);
            dot_stage(acc, w, x + at, row_bytes - at);
            __syncwarp();
            stream_fetch<GATED>(s, job, w, &full[warp][slot], policy);
            if (s.unit >= s.n_unit && !fetched) {
                fetched = true;
                cuda_release();
            }
            slot = (slot + 1) % ROW_DEPTH;
            if (slot == 0) phase ^= 1;
        }
        float sum = warp_sum((acc[0] + acc[1]) + (acc[2] + acc[3]));
        if (threadIdx.x % 32 == 0) sums[unit] = sum;
    }
    __syncthreads();
    row_results<GATED>(job, sums, s.first, n_row, old);
#endif
}

template <bool GATED> static bool row_start(sq_backend *be, const char *op, const gemv_job &job)
{
    cuda_priv *p = cuda_of(be);
    int64_t grid = job.n_row < p->n_sm ? job.n_row : p->n_sm, rows = job.n_row / grid + 1;
    int64_t x_at = ROW_WARPS * ROW_DEPTH * ROW_STAGE;
    int64_t sums_at = x_at + ((int64_t)job.in * 2 + 127) / 128 * 128;
    int64_t smem = sums_at + (GATED ? 2 : 1) * rows * (int64_t)sizeof(float);
    auto kernel = gemv_row_kernel<GATED>;
    if (smem + ROW_STATIC > (int64_t)p->block_smem) return false;
    cuda_allow_smem(be, op, kernel, p->block_smem - ROW_STATIC);
    cuda_launch(be, op, kernel, dim3((unsigned)grid), dim3(ROW_WARPS * 32), (size_t)smem, job,
                (int)x_at, (int)sums_at);
    return true;
}

bool cuda_gemv_row(sq_backend *be, const char *op, const gemv_job &job, bool gated)
{
    if (job.n != 1 || be->act != SQ_DTYPE_BF16 || !cuda_of(be)->dependent_launch) return false;
    return gated ? row_start<true>(be, op, job) : row_start<false>(be, op, job);
}
