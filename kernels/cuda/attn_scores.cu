/* What pruning policies look at: single rows of the softmax matrix, and its means over rows,
 * columns and heads. Sums in f32 of any type of q and k; no order depends on timing. */
#include "kernels/cuda/raw8.cuh"

enum {
    ROWS_THREADS = 1024,
    ROWS_WARPS = ROWS_THREADS / 32,
    ROWS_PER_LAUNCH = 32,
    ROWS_MAX_DIM = 256,
    ROWS_MAX_SMEM = 40 << 10
};

struct rows_args {
    const void *q, *k;
    float *score;
    int32_t row[ROWS_PER_LAUNCH];
    int first, n_row; /* the launch's first row of the n_row */
    int n_q, n_kv, n_head, n_head_kv, head_dim, q_pos0, window;
    float scale;
    sq_dtype q_type;
    bool causal, logits, in_smem;
};

/* The sum, or the largest, over the CTA's threads: the same bits in each. */
template <bool MAX> __device__ float rows_reduce(float x, float *part)
{
    for (int i = 16; i > 0; i /= 2) {
        float y = __shfl_xor_sync(~0u, x, i);
        x = MAX ? fmaxf(x, y) : x + y;
    }
    __syncthreads(); /* part may still be read */
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    x = part[0];
#pragma unroll
    for (int i = 1; i < ROWS_WARPS; i++)
        x = MAX ? fmaxf(x, part[i]) : x + part[i];
    return x;
}

/* p[j] = logit of key j for low <= j < high; L lanes share a key. */
template <class T, int L, bool WIDE>
__device__ void rows_logits(float *p, const rows_args &a, int row, int low, int high)
{
    constexpr int U = sizeof(T) == 4 ? 3 : 6, STEP = ROWS_THREADS / L;
    int head_kv = blockIdx.x / (a.n_head / a.n_head_kv), col = threadIdx.x % L * 8;
    bool used = col < a.head_dim;
    int64_t stride = (int64_t)a.n_head_kv * a.head_dim;
    int64_t q_at = (((int64_t)blockIdx.z * a.n_q + row) * a.n_head + blockIdx.x) * a.head_dim + col;
    const T *k = (const T *)a.k + (int64_t)blockIdx.z * a.n_kv * stride +
                 (int64_t)head_kv * a.head_dim + col;
    float q[8];
    for (int base = low; base < high; base += U * STEP) {
        raw8<T> raw[U];
        int first = base + threadIdx.x / L;
#pragma unroll
        for (int u = 0; u < U; u++) {
            if (used && first + u * STEP < high)
                raw8_load(raw[u], k + (first + u * STEP) * stride, WIDE);
            else
                raw8_zero(raw[u]);
        }
        if (base == low) /* after the first keys are on their way */
#pragma unroll
            for (int e = 0; e < 8; e++)
                q[e] = used ? load_any(a.q, a.q_type, q_at + e) : 0.0f;
#pragma unroll
        for (int u = 0; u < U; u++) {
            float x[8], s = 0;
            raw8_values(x, raw[u]);
#pragma unroll
            for (int e = 0; e < 8; e++)
                s += q[e] * x[e];
#pragma unroll
            for (int i = L / 2; i > 0; i /= 2)
                s += __shfl_xor_sync(~0u, s, i);
            if (col == 0 && first + u * STEP < high) p[first + u * STEP] = s * a.scale;
        }
    }
}

/* Grid: heads, rows, sequences. */
template <class T, int L, bool WIDE>
__global__ void __launch_bounds__(ROWS_THREADS)
    attn_rows_kernel(const __grid_constant__ rows_args a)
{
    extern __shared__ float held[];
    __shared__ float part[ROWS_WARPS];
    int row = a.row[blockIdx.y], low = 0, high = a.n_kv;
    if (a.causal) {
        high = min(a.q_pos0 + row + 1, a.n_kv);
        if (a.window > 0) low = max(0, high - a.window);
    }
    float *out = a.score + (((int64_t)blockIdx.z * a.n_row + a.first + blockIdx.y) * a.n_head +
                            blockIdx.x) * a.n_kv;
    float *p = a.in_smem ? held : out;
    cuda_wait();
    cuda_release();
    rows_logits<T, L, WIDE>(p, a, row, low, high);
    __syncthreads();
    float max = 0, sum = 1;
    if (!a.logits) {
        float most = -INFINITY, mine = 0;
        for (int j = low + threadIdx.x; j < high; j += ROWS_THREADS)
            most = fmaxf(most, p[j]);
        max = rows_reduce<true>(most, part);
        for (int j = low + threadIdx.x; j < high; j += ROWS_THREADS)
            mine += p[j] = expf(p[j] - max);
        sum = rows_reduce<false>(mine, part);
    }
    __syncthreads();
    for (int j = threadIdx.x; j < a.n_kv; j += ROWS_THREADS) {
        bool seen = j >= low && j < high;
        out[j] = seen ? a.logits ? p[j] : p[j] / sum : a.logits ? -INFINITY : 0.0f;
    }
}

template <class T, int L, bool WIDE>
static void rows_start(sq_backend *be, rows_args *a, const int32_t *row, int n_seq)
{
    size_t smem = (size_t)a->n_kv * sizeof(float);
    a->in_smem = smem <= ROWS_MAX_SMEM;
    for (a->first = 0; a->first < a->n_row; a->first += ROWS_PER_LAUNCH) {
        int n = a->n_row - a->first < ROWS_PER_LAUNCH ? a->n_row - a->first : ROWS_PER_LAUNCH;
        for (int i = 0; i < n; i++)
            a->row[i] = row[a->first + i];
        dim3 grid((unsigned)a->n_head, (unsigned)n, (unsigned)n_seq);
        cuda_launch(be, "attn_rows", attn_rows_kernel<T, L, WIDE>, grid, dim3(ROWS_THREADS),
                    a->in_smem ? smem : 0, *a);
    }
}

template <class T>
static void rows_pick(sq_backend *be, rows_args *a, const int32_t *row, int n_seq)
{
    auto start = !cuda_aligned(a->k, 16) ? rows_start<T, 32, false>
                 : a->head_dim <= 64     ? rows_start<T, 8, true>
                 : a->head_dim <= 128    ? rows_start<T, 16, true>
                                         : rows_start<T, 32, true>;
    start(be, a, row, n_seq);
}

void cuda_attn_rows(sq_backend *be, sq_tensor *score, const sq_tensor *q, const sq_tensor *k,
                    const int32_t *row, int n_row, bool logits, const attn_desc *d)
{
    if (be->err.code || n_row <= 0) return;
    int n_seq = d->n_seq > 0 ? d->n_seq : 1;
    if (d->head_dim % 8 || d->head_dim > ROWS_MAX_DIM || n_seq > CUDA_GRID_YZ ||
        !dtype_is_float(q->dtype)) {
        cuda_refuse(be, "attn_rows", "heads over 256 values, or the type of q");
        return;
    }
    rows_args a = {};
    a.q = q->data;
    a.k = k->data;
    a.score = (float *)score->data;
    a.n_row = n_row;
    a.n_q = d->n_q;
    a.n_kv = d->n_kv;
    a.n_head = d->n_head;
    a.n_head_kv = d->n_head_kv;
    a.head_dim = d->head_dim;
    a.q_pos0 = d->q_pos0;
    a.window = d->window;
    a.scale = d->scale;
    a.q_type = q->dtype;
    a.causal = d->causal;
    a.logits = logits;
    if (!with_type(k->dtype, [&](auto t) { rows_pick<decltype(t)>(be, &a, row, n_seq); }))
        cuda_refuse(be, "attn_rows", "the type of k");
}

/* ---- means: tiles of 32 queries by 64 keys, four by four a thread ---- */

enum {
    MEANS_THREADS = 128,
    MEANS_ROWS = 32,
    MEANS_KEYS = 64,
    MEANS_DEPTH = 64, /* columns of k at a time */
    MEANS_RAW = MEANS_KEYS * MEANS_DEPTH / 8 / MEANS_THREADS,
    Q_PITCH = MEANS_ROWS + 4,
    SUM_COLS = 32,
    SUM_SLICES = 16
};

struct means_args {
    const void *q, *k;
    float *column; /* [n_seq, n_head * n_block, m]: sums over a block's queries */
    float *line;   /* [n_seq, n_head, m]: sums over a query's keys */
    float *received, *given;
    int n, first, m, n_block, n_head, n_head_kv, head_dim;
    float scale;
    sq_dtype q_type;
    bool logits, wide;
};

/* The next piece of k, on its way while the one before is multiplied. */
template <class T> struct means_feed {
    const T *k; /* the head's first key */
    int64_t stride;
    int key, depth; /* where the piece begins */
    raw8<T> raw[MEANS_RAW];
};

struct means_shared {
    float k[MEANS_DEPTH][MEANS_KEYS], column[MEANS_THREADS / 32][MEANS_KEYS];
};

/* The widest heads' queries beside it. */
static const size_t MEANS_SMEM = ROWS_MAX_DIM * Q_PITCH * sizeof(float) + sizeof(means_shared);

/* Eight threads read 64 columns of a key. */
template <class T> __device__ __forceinline__ void feed_fetch(means_feed<T> &f, const means_args &a)
{
    int c = f.depth + threadIdx.x % 8 * 8;
#pragma unroll
    for (int i = 0; i < MEANS_RAW; i++) {
        int key = f.key + threadIdx.x / 8 + i * (MEANS_THREADS / 8);
        if (key < a.n && c < a.head_dim)
            raw8_load(f.raw[i], f.k + key * f.stride + c, a.wide);
        else
            raw8_zero(f.raw[i]);
    }
}

/* Key j of column c lies at j ^ 4 * (c / 8 % 8): neither stores nor reads of four share a bank. */
template <class T>
__device__ __forceinline__ void feed_store(const means_feed<T> &f, means_shared &sh)
{
    int part = threadIdx.x % 8;
#pragma unroll
    for (int i = 0; i < MEANS_RAW; i++) {
        int key = threadIdx.x / 8 + i * (MEANS_THREADS / 8);
        float x[8];
        raw8_values(x, f.raw[i]);
#pragma unroll
        for (int e = 0; e < 8; e++)
            sh.k[part * 8 + e][key ^ 4 * part] = x[e];
    }
}

/* s = the tile of logits that f has reached; f goes on to the next, after the last to the first. */
template <class T>
__device__ __forceinline__ void means_tile(float (&s)[4][4], means_feed<T> &f, means_shared &sh,
                                           const float *q, const means_args &a)
{
    const int x = threadIdx.x % 16, y = threadIdx.x / 16;
#pragma unroll
    for (int i = 0; i < 16; i++)
        s[i / 4][i % 4] = 0;
    for (bool more = true; more;) {
        int depth = f.depth, n = min(MEANS_DEPTH, a.head_dim - depth);
        __syncthreads();
        feed_store(f, sh);
        __syncthreads();
        f.depth += MEANS_DEPTH;
        more = f.depth < a.head_dim;
        if (!more) {
            f.depth = 0;
            f.key = f.key + MEANS_KEYS < a.n ? f.key + MEANS_KEYS : 0;
        }
        feed_fetch(f, a);
        for (int c0 = 0; c0 < n; c0 += 8)
#pragma unroll
            for (int c = c0; c < c0 + 8; c++) {
                float4 u = *(const float4 *)&q[(depth + c) * Q_PITCH + 4 * y];
                float4 v = *(const float4 *)&sh.k[c][4 * (x ^ c0 / 8)];
                float qs[4] = {u.x, u.y, u.z, u.w}, ks[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
                for (int i = 0; i < 16; i++)
                    s[i / 4][i % 4] += qs[i / 4] * ks[i % 4];
            }
    }
}

/* Largest logit and 1 / sum of exponentials of the thread's four queries over all keys. */
template <class T>
__device__ __forceinline__ void means_softmax(float (&max)[4], float (&inverse)[4],
                                              means_feed<T> &f, means_shared &sh, const float *q,
                                              const means_args &a)
{
    float sum[4];
#pragma unroll
    for (int r = 0; r < 4; r++) {
        max[r] = -INFINITY;
        sum[r] = 0;
    }
    for (int key = 0; key < a.n; key += MEANS_KEYS) {
        float s[4][4];
        means_tile(s, f, sh, q, a);
#pragma unroll
        for (int r = 0; r < 4; r++) {
            float top = max[r], base, add = 0;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (key + threadIdx.x % 16 * 4 + i >= a.n) s[r][i] = -INFINITY;
                top = fmaxf(top, s[r][i]);
            }
            base = top == -INFINITY ? 0.0f : top; /* -inf counts nothing, NaN stays */
#pragma unroll
            for (int i = 0; i < 4; i++)
                add += expf(s[r][i] - base);
            sum[r] = sum[r] * expf(max[r] - base) + add;
            max[r] = top;
        }
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        for (int i = 8; i > 0; i /= 2) {
            float top = fmaxf(max[r], __shfl_xor_sync(~0u, max[r], i));
            sum[r] *= expf(max[r] - (top == -INFINITY ? 0.0f : top));
            sum[r] += __shfl_xor_sync(~0u, sum[r], i);
            max[r] = top;
        }
        inverse[r] = 1.0f / sum[r];
    }
}

/* Adds a tile to the sums of the thread's queries; the columns' sums go to memory. */
__device__ __forceinline__ void means_add(float (&line)[4], const float (&p)[4][4], int row,
                                          int key, means_shared &sh, const means_args &a)
{
    const int x = threadIdx.x % 16, warp = threadIdx.x / 32;
    float column[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int j = key + 4 * x + i;
#pragma unroll
        for (int r = 0; r < 4; r++) {
            if (row + r < a.n) column[i] += p[r][i];
            if (j >= a.first && j < a.n) line[r] += p[r][i];
        }
        column[i] += __shfl_xor_sync(~0u, column[i], 16);
        if (threadIdx.x % 32 < 16) sh.column[warp][4 * x + i] = column[i];
    }
    __syncthreads();
    int j = key + threadIdx.x;
    if (threadIdx.x >= MEANS_KEYS || j < a.first || j >= a.n) return;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < MEANS_THREADS / 32; w++)
        sum += sh.column[w][threadIdx.x];
    int64_t part = ((int64_t)blockIdx.z * a.n_head + blockIdx.y) * a.n_block + blockIdx.x;
    a.column[part * a.m + j - a.first] = sum;
}

/* Grid: blocks of queries, heads, sequences. Shared: the queries' columns, scaled. */
template <class T>
__global__ void __launch_bounds__(MEANS_THREADS)
    attn_means_kernel(const __grid_constant__ means_args a)
{
    extern __shared__ __align__(16) float q[];
    __shared__ __align__(16) means_shared sh;
    int block_row = a.first + blockIdx.x * MEANS_ROWS, row = block_row + threadIdx.x / 16 * 4;
    int64_t q_stride = (int64_t)a.n_head * a.head_dim;
    int64_t q_at = (int64_t)blockIdx.z * a.n * q_stride + (int64_t)blockIdx.y * a.head_dim;
    means_feed<T> f;
    f.stride = (int64_t)a.n_head_kv * a.head_dim;
    f.k = (const T *)a.k + (int64_t)blockIdx.z * a.n * f.stride +
          (int64_t)(blockIdx.y / (a.n_head / a.n_head_kv)) * a.head_dim;
    f.key = f.depth = 0;
    cuda_wait();
    cuda_release();
    feed_fetch(f, a);
    for (int i = threadIdx.x; i < MEANS_ROWS * a.head_dim; i += MEANS_THREADS) {
        int r = i / a.head_dim, c = i - r * a.head_dim;
        int64_t from = q_at + (block_row + r) * q_stride + c;
        q[c * Q_PITCH + r] = block_row + r < a.n ? load_any(a.q, a.q_type, from) * a.scale : 0.0f;
    }
    float max[4] = {}, inverse[4] = {}, line[4] = {};
    if (!a.logits) means_softmax(max, inverse, f, sh, q, a);
    for (int key = 0; key < a.n; key += MEANS_KEYS) {
        float p[4][4];
        means_tile(p, f, sh, q, a);
#pragma unroll
        for (int i = 0; i < 16; i++)
            if (!a.logits) p[i / 4][i % 4] = expf(p[i / 4][i % 4] - max[i / 4]) * inverse[i / 4];
        means_add(line, p, row, key, sh, a);
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        for (int i = 8; i > 0; i /= 2)
            line[r] += __shfl_xor_sync(~0u, line[r], i);
        if (threadIdx.x % 16 == 0 && row + r < a.n)
            a.line[((int64_t)blockIdx.z * a.n_head + blockIdx.y) * a.m + row + r - a.first] =
                line[r];
    }
}

/* Grid: columns, received and given, sequences. */
__global__ void __launch_bounds__(SUM_COLS *SUM_SLICES)
    means_sum_kernel(const __grid_constant__ means_args a)
{
    __shared__ double part[SUM_SLICES][SUM_COLS];
    int n = blockIdx.y == 0 ? a.n_head * a.n_block : a.n_head;
    int64_t j = (int64_t)blockIdx.x * SUM_COLS + threadIdx.x;
    const float *from = (blockIdx.y == 0 ? a.column : a.line) + (int64_t)blockIdx.z * n * a.m;
    float *to = (blockIdx.y == 0 ? a.received : a.given) + (int64_t)blockIdx.z * a.m;
    double sum = 0;
    cuda_wait();
    cuda_release();
    for (int i = threadIdx.y; j < a.m && i < n; i += SUM_SLICES)
        sum += (double)from[(int64_t)i * a.m + j];
    part[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || j >= a.m) return;
    for (int i = 1; i < SUM_SLICES; i++)
        sum += part[i][threadIdx.x];
    to[j] = (float)(sum / a.n_head / a.m);
}

/* As many sequences at a time as scratch has room for. */
template <class T> static void means_start(sq_backend *be, means_args *a, int n_seq)
{
    size_t one = (size_t)a->n_head * (a->n_block + 1) * a->m;
    size_t fit = CUDA_SCRATCH / sizeof(float) / one;
    size_t smem = (size_t)a->head_dim * Q_PITCH * sizeof(float);
    if (fit == 0) {
        cuda_refuse(be, "attn_means", "too many tokens");
        return;
    }
    if (fit > CUDA_GRID_YZ) fit = CUDA_GRID_YZ;
    cuda_allow_smem(be, "attn_means", attn_means_kernel<T>, MEANS_SMEM);
    for (int at = 0; at < n_seq; at += (int)fit) {
        unsigned now = n_seq - at < (int)fit ? n_seq - at : (unsigned)fit;
        means_args b = *a;
        b.q = (const char *)a->q + (size_t)at * a->n * dtype_row_bytes(a->q_type,
                                                                     a->n_head * a->head_dim);
        b.k = (const T *)a->k + (int64_t)at * a->n * a->n_head_kv * a->head_dim;
        b.received += (int64_t)at * a->m;
        b.given += (int64_t)at * a->m;
        b.column = (float *)cuda_of(be)->scratch;
        b.line = b.column + (size_t)now * a->n_head * a->n_block * a->m;
        cuda_launch(be, "attn_means", attn_means_kernel<T>,
                    dim3((unsigned)a->n_block, (unsigned)a->n_head, now), dim3(MEANS_THREADS), smem,
                    b);
        cuda_launch(be, "attn_means", means_sum_kernel,
                    dim3((unsigned)((a->m + SUM_COLS - 1) / SUM_COLS), 2, now),
                    dim3(SUM_COLS, SUM_SLICES), 0, b);
    }
}

void cuda_attn_means(sq_backend *be, sq_tensor *received, sq_tensor *given, const sq_tensor *q,
                     const sq_tensor *k, int first, bool logits, const attn_desc *d)
{
    if (be->err.code || first >= d->n_kv) return;
    if (d->head_dim % 8 || d->head_dim > ROWS_MAX_DIM || !dtype_is_float(q->dtype) || d->causal ||
        d->n_q != d->n_kv) {
        cuda_refuse(be, "attn_means", "heads over 256 values, a mask, or the type of q");
        return;
    }
    means_args a = {};
    a.q = q->data;
    a.k = k->data;
    a.received = (float *)received->data;
    a.given = (float *)given->data;
    a.n = d->n_kv;
    a.first = first;
    a.m = a.n - first;
    a.n_block = (a.m + MEANS_ROWS - 1) / MEANS_ROWS;
    a.n_head = d->n_head;
    a.n_head_kv = d->n_head_kv;
    a.head_dim = d->head_dim;
    a.scale = d->scale;
    a.q_type = q->dtype;
    a.logits = logits;
    a.wide = cuda_aligned(k->data, 16);
    int n_seq = d->n_seq > 0 ? d->n_seq : 1;
    if (!with_type(k->dtype, [&](auto t) { means_start<decltype(t)>(be, &a, n_seq); }))
        cuda_refuse(be, "attn_means", "the type of k");
}
