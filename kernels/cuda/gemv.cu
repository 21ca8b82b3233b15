/* Products of at most CUDA_GEMV_ROWS rows: one pass over the weights at the speed of memory. One
 * row alone goes to gemv_row.cu where it can.
 *
 * 16-bit types go through the tensor cores, not for their speed but because one instruction then
 * multiplies 16 weight rows by up to 8 input rows: a block's instructions cost nothing beside its
 * loads, whatever the number of rows. f32 and unaligned operands take plain fused multiply-adds. */
#include "kernels/cuda/gemv_job.cuh"
#include "kernels/cuda/mma_ptx.cuh"

enum {
    WARPS = 8,
    TILE = 16,            /* weight rows of a block at a time; gated: 8 of gate and 8 of up */
    STEP = 32,            /* inputs a warp multiplies at a time: 8 for each of 4 lanes */
    DEPTH = 4,            /* steps whose weights are on their way */
    CHUNK = STEP * DEPTH, /* inputs in a row of a warp's turn: 256 bytes of each weight row */
    AHEAD = 2048,         /* inputs of the first tile's rows that are called into L2 early */
    SUM_STRIDE = 20,      /* of the 16 sums of an input row in shared memory: no bank conflicts */
    BLOCKS_PER_SM = 2
};

static_assert(TILE == 2 * WARPS, "call_ahead gives each warp two rows");
static_assert(CUDA_GEMV_ROWS == 8, "the rows of a tensor core product");

/* 16 bytes of weights, or zeros. Not ld.global.nc: the assembler moves that below cuda_wait. */
__device__ __forceinline__ uint4 load_weights(const void *p, bool there, uint64_t policy)
{
    uint4 v;
    asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %5, 0;\n\t"
                 "mov.b32 %0, 0;\n\tmov.b32 %1, 0;\n\tmov.b32 %2, 0;\n\tmov.b32 %3, 0;\n\t"
                 "@p ld.global.L1::no_allocate.L2::cache_hint.L2::128B.v4.b32 "
                 "{%0, %1, %2, %3}, [%4], %6;\n\t}"
                 : "=&r"(v.x), "=&r"(v.y), "=&r"(v.z), "=&r"(v.w)
                 : "l"(p), "r"((int)there), "l"(policy));
    return v;
}

__device__ __forceinline__ const gemv_part &part_of(const gemv_job &job, int64_t tile)
{
    if (job.n_part > 2 && tile >= job.part[2].first) return job.part[2];
    if (job.n_part > 1 && tile >= job.part[1].first) return job.part[1];
    return job.part[0];
}

/* Row r of the tile, gated: of its part; past the end the last one, whose sums nobody uses. */
template <class T, bool GATED>
__device__ __forceinline__ const T *weight_row(const gemv_job &job, int64_t tile, int r, int part)
{
    const gemv_part &p = GATED ? job.part[part] : part_of(job, tile);
    int64_t row = (tile - p.first) * (GATED ? TILE / 2 : TILE) + r;
    return (const T *)p.w + (row < p.out ? row : p.out - 1) * job.in;
}

/* What follows the weights that the first loads take goes to L2 at once. */
template <class T, bool GATED>
__device__ __forceinline__ void call_ahead(const gemv_job &job, int64_t tile)
{
#if __CUDA_ARCH__ >= 900
    const int from = WARPS * CHUNK, n = job.in - from < AHEAD ? job.in - from : AHEAD;
    int r = threadIdx.x / 32 * 2 + threadIdx.x % 32;
    if (threadIdx.x % 32 >= 2 || n <= 0) return;
    const T *row = GATED ? weight_row<T, GATED>(job, tile, r % 8, r / 8)
                         : weight_row<T, GATED>(job, tile, r, 0);
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(
                     __cvta_generic_to_global(row + from)),
                 "r"(n * (int)sizeof(T))
                 : "memory");
#endif
}

/* Lane (g, t)'s two weight rows of a tile. */
template <class T, bool GATED>
__device__ __forceinline__ void lane_rows(const gemv_job &job, int64_t tile, int g, const T *&lo,
                                          const T *&hi)
{
    lo = weight_row<T, GATED>(job, tile, g, 0);
    hi = weight_row<T, GATED>(job, tile, GATED ? g : g + 8, 1);
}

/* What the warps summed over their inputs -> y. Two buffers: one barrier a tile is enough. */
template <class T, bool GATED>
__device__ __forceinline__ void finish_tile(const gemv_job &job, int64_t tile,
                                            float (*sums)[8 * SUM_STRIDE], const float (&acc)[4])
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float *to = sums[warp] + lane % 4 * 2 * SUM_STRIDE + lane / 4;
    to[0] = acc[0];
    to[SUM_STRIDE] = acc[1];
    to[8] = acc[2];
    to[SUM_STRIDE + 8] = acc[3];
    __syncthreads();
    const int rows = GATED ? TILE / 2 : TILE;
    int r = threadIdx.x % rows, col = threadIdx.x / rows;
    const gemv_part &p = GATED ? job.part[0] : part_of(job, tile);
    int64_t row = (tile - p.first) * rows + r;
    if (col >= job.n || row >= p.out) return;
    float sum = 0, up = 0;
    for (int w = 0; w < WARPS; w++) {
        sum += sums[w][col * SUM_STRIDE + r];
        if (GATED) up += sums[w][col * SUM_STRIDE + r + 8];
    }
    if (GATED)
        gemv_put_gated<T>(job, row, col, sum, up);
    else
        gemv_put<T>(job, p, row, col, sum);
}

/* Lane (g, t) of a warp holds 8 inputs, k = 8t .. 8t + 7 of a step, of the weight rows g and g + 8
 * and of input row g. The tensor core's own order of k within a step differs, but equally so for
 * weights and inputs. Every slot is loaded again as soon as it was used, across tiles too. */
template <class T, bool GATED>
__global__ void __launch_bounds__(WARPS * 32, 3) gemv_kernel(const __grid_constant__ gemv_job job)
{
    __shared__ float sums[2][WARPS][8 * SUM_STRIDE];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const int n_chunk = (job.in + CHUNK - 1) / CHUNK;
    const uint64_t policy = read_once_policy();
    const T *x = (const T *)job.x + (int64_t)(g < job.n ? g : 0) * job.in;
    const int x_end = g < job.n ? job.in : 0;
    int64_t tile = blockIdx.x;
    const T *lo, *hi;
    lane_rows<T, GATED>(job, tile, g, lo, hi);
    uint4 a[DEPTH], b[DEPTH], c[DEPTH];
    int k = warp * CHUNK + t * 8;
#pragma unroll
    for (int u = 0; u < DEPTH; u++) {
        a[u] = load_weights(lo + k + u * STEP, k + u * STEP < job.in, policy);
        b[u] = load_weights(hi + k + u * STEP, k + u * STEP < job.in, policy);
    }
    call_ahead<T, GATED>(job, tile);
    cuda_wait();
#pragma unroll
    for (int u = 0; u < DEPTH; u++)
        c[u] = k + u * STEP < x_end ? *(const uint4 *)(x + k + u * STEP) : uint4{0, 0, 0, 0};
    for (int turn = 0; tile < job.n_tile; turn ^= 1) {
        int64_t next_tile = tile + gridDim.x;
        float acc[4] = {};
        for (int chunk = warp; chunk < n_chunk; chunk += WARPS) {
            int end = job.in;
            k += WARPS * CHUNK;
            if (chunk + WARPS >= n_chunk) {
                k = warp * CHUNK + t * 8;
                if (next_tile < job.n_tile)
                    lane_rows<T, GATED>(job, next_tile, g, lo, hi);
                else
                    end = 0;
            }
#pragma unroll
            for (int u = 0; u < DEPTH; u++) {
                const uint32_t front[4] = {a[u].x, b[u].x, a[u].y, b[u].y};
                const uint32_t back[4] = {a[u].z, b[u].z, a[u].w, b[u].w};
                mma_16816<T>(acc, front, c[u].x, c[u].y);
                mma_16816<T>(acc, back, c[u].z, c[u].w);
                int at = k + u * STEP;
                a[u] = load_weights(lo + at, at < end, policy);
                b[u] = load_weights(hi + at, at < end, policy);
                c[u] = at < x_end && at < end ? *(const uint4 *)(x + at) : uint4{0, 0, 0, 0};
            }
        }
        finish_tile<T, GATED>(job, tile, sums[turn], acc);
        tile = next_tile;
    }
}

template <class T, bool WIDE> struct piece {
    static constexpr int N = WIDE ? 16 / sizeof(T) : 1;
    alignas(16) T v[N];
    __device__ __forceinline__ void load(const T *p)
    {
        if (WIDE)
            *(uint4 *)v = *(const uint4 *)p;
        else
            v[0] = p[0];
    }
};

/* A warp sums two weight rows of the tile, or a gate row and its up row, over all inputs. */
template <class T, int N, bool WIDE, bool GATED>
__global__ void __launch_bounds__(WARPS * 32) gemv_plain(const __grid_constant__ gemv_job job)
{
    typedef piece<T, WIDE> words;
    cuda_release();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int rows = GATED ? TILE / 2 : TILE, first = GATED ? warp : 2 * warp;
    cuda_wait();
    for (int64_t tile = blockIdx.x; tile < job.n_tile; tile += gridDim.x) {
        const gemv_part &p = GATED ? job.part[0] : part_of(job, tile);
        const T *lo = weight_row<T, GATED>(job, tile, first, 0);
        const T *hi = weight_row<T, GATED>(job, tile, first + (GATED ? 0 : 1), 1);
        float sum[2][N] = {};
#pragma unroll(N > 4 ? 1 : 4)
        for (int k = lane * words::N; k < job.in; k += 32 * words::N) {
            words a, b, x;
            a.load(lo + k);
            b.load(hi + k);
#pragma unroll
            for (int i = 0; i < N; i++) {
                x.load((const T *)job.x + (int64_t)(i < job.n ? i : 0) * job.in + k);
#pragma unroll
                for (int e = 0; e < words::N; e++) {
                    sum[0][i] = fmaf(to_f32(a.v[e]), to_f32(x.v[e]), sum[0][i]);
                    sum[1][i] = fmaf(to_f32(b.v[e]), to_f32(x.v[e]), sum[1][i]);
                }
            }
        }
        int64_t row = (tile - p.first) * rows + first;
#pragma unroll
        for (int i = 0; i < N; i++) {
            float s0 = warp_sum(sum[0][i]), s1 = warp_sum(sum[1][i]);
            if (i >= job.n || lane != i || row >= p.out) continue;
            if (GATED)
                gemv_put_gated<T>(job, row, i, s0, s1);
            else
                gemv_put<T>(job, p, row, i, s0);
            if (!GATED && row + 1 < p.out) gemv_put<T>(job, p, row + 1, i, s1);
        }
    }
}

template <class T, bool GATED>
static void start(sq_backend *be, const char *op, const gemv_job &job, bool wide)
{
    int64_t most = (int64_t)cuda_of(be)->n_sm * BLOCKS_PER_SM;
    /* blocks that start early gather on the SMs that are done first, and slow them down */
    const bool exact = sizeof(T) == 2 && wide;
    void (*kernel)(gemv_job) = gemv_plain<T, CUDA_GEMV_ROWS, false, GATED>;
    if constexpr (sizeof(T) == 2) {
        if (wide) kernel = gemv_kernel<T, GATED>;
    } else if (wide)
        kernel = job.n == 1   ? gemv_plain<T, 1, true, GATED>
                 : job.n == 2 ? gemv_plain<T, 2, true, GATED>
                 : job.n <= 4 ? gemv_plain<T, 4, true, GATED>
                              : gemv_plain<T, CUDA_GEMV_ROWS, true, GATED>;
    if (sizeof(T) == 4 || !wide) most *= 4; /* these rely on many warps, not on deep loads */
    unsigned grid = (unsigned)(job.n_tile < most ? job.n_tile : most);
    cuda_launch_when(!exact, be, op, kernel, dim3(grid), dim3(WARPS * 32), 0, job);
}

/* Fills what all three ops share. False when there is nothing to do or an operand is refused. */
static bool prepare(sq_backend *be, const char *op, gemv_job *job, sq_tensor *const y[],
                    const sq_tensor *x, const sq_tensor *const w[], const sq_tensor *const b[],
                    int n, bool gated, sq_tensor *narrow)
{
    *job = {};
    job->in = (int)w[0]->shape[1];
    job->n = (int)x->shape[0];
    job->n_part = gated ? 1 : n;
    if (job->n > CUDA_GEMV_ROWS) return !cuda_refuse(be, op, "too many rows");
    if (x->dtype != be->act) {
        *narrow = tensor_2d(cuda_of(be)->scratch, be->act, job->n, job->in);
        if ((size_t)job->n * dtype_row_bytes(be->act, job->in) > CUDA_SCRATCH)
            return !cuda_refuse(be, op, "input rows too long");
        cuda_activate(be, narrow, x, SQ_ACT_NONE);
        x = narrow;
    }
    job->x = x->data;
    int64_t tile = gated ? TILE / 2 : TILE;
    for (int i = 0; i < n; i++) {
        gemv_part *p = &job->part[i];
        if (w[i]->dtype != be->act) return !cuda_refuse(be, op, "weights not of its type");
        p->w = w[i]->data;
        p->out = w[i]->shape[0];
        p->first = gated ? 0 : job->n_tile;
        p->row = gated ? 0 : job->n_row;
        p->y = y[gated ? 0 : i]->data;
        p->y_type = y[gated ? 0 : i]->dtype;
        if (b && b[i] && b[i]->data) {
            p->b = b[i]->data;
            p->b_type = b[i]->dtype;
        }
        job->n_tile = p->first + (p->out + tile - 1) / tile;
        job->n_row = p->row + p->out;
    }
    return job->n > 0 && job->n_tile > 0 && !be->err.code;
}

static void multiply(sq_backend *be, const char *op, const gemv_job &job, int n, bool gated)
{
    bool wide = cuda_aligned(job.x, 16) && job.in % (be->act == SQ_DTYPE_F32 ? 4 : 8) == 0;
    for (int i = 0; i < n; i++)
        wide = wide && cuda_aligned(job.part[i].w, 16);
    if (wide && cuda_gemv_row(be, op, job, gated)) return;
    with_type(be->act, [&](auto t) {
        if (gated)
            start<decltype(t), true>(be, op, job, wide);
        else
            start<decltype(t), false>(be, op, job, wide);
    });
}

void cuda_gemv(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
               const sq_tensor *b, const linear_desc *d)
{
    gemv_job job;
    sq_tensor narrow;
    if (!prepare(be, "linear", &job, &y, x, &w, &b, 1, false, &narrow)) return;
    if (d->add && y->dtype != SQ_DTYPE_F32) {
        cuda_refuse(be, "linear", "adds to f32 only");
        return;
    }
    job.act = d->act;
    job.add = d->add;
    multiply(be, "linear", job, 1, false);
}

void cuda_gemv_many(sq_backend *be, sq_tensor *const y[], const sq_tensor *x,
                    const sq_tensor *const w[], const sq_tensor *const b[], int n)
{
    gemv_job job;
    sq_tensor narrow;
    if (n < 1 || n > 3) {
        cuda_refuse(be, "linear_many", "more than three products");
        return;
    }
    if (prepare(be, "linear_many", &job, y, x, w, b, n, false, &narrow))
        multiply(be, "linear_many", job, n, false);
}

void cuda_gemv_gated(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *gate,
                     const sq_tensor *up)
{
    gemv_job job;
    sq_tensor narrow;
    const sq_tensor *w[2] = {gate, up};
    if (prepare(be, "linear_gated", &job, &y, x, w, NULL, 2, true, &narrow))
        multiply(be, "linear_gated", job, 2, true);
}
