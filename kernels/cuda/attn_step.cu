/* One decode step: rotation, append to the caches, and attention over them.
 *
 * The rows of a sequence are split between CTAs that each keep a running softmax (largest logit,
 * sum, weighted values); a cluster of CTAs merges its parts through distributed shared memory, or,
 * on devices without clusters, a second kernel does. All query heads of a key head (up to G) are
 * served by the same loads. Logits are in units of log 2. */
#include "kernels/cuda/raw8.cuh"

#include <cooperative_groups.h>

enum {
    STEP_THREADS = 256,
    STEP_WARPS = STEP_THREADS / 32,
    STEP_MAX_DIM = 256,
    STEP_MAX_SPLIT = 8, /* the largest cluster that every device has */
    STEP_MIN_ROWS = 16  /* of the capacity, for a CTA of its own */
};

struct step_args {
    const void *q, *k, *v;
    void *out;
    float *partial; /* NULL: the CTAs of a cluster merge */
    const int32_t *pos, *len;
    void *cache_k[SQ_STEP_MAX], *cache_v[SQ_STEP_MAX];
    int capacity[SQ_STEP_MAX];
    float inv_freq[STEP_MAX_DIM / 2], mscale, scale;
    int n_head, n_head_kv, head_dim, window;
    int n_group; /* groups of at most G query heads that share a key head */
    sq_dtype in, to;
    bool interleaved;
};

/* What a CTA works on. */
struct step_place {
    int seq, head_kv, head, n_head; /* query heads head .. head + n_head */
    int row, first, last;           /* the new row; rows of the cache from first to before last */
    int pos;
    bool own, append;               /* has the new row; writes it to the caches */
};

/* Part of a CTA: by head its weighted values, the largest logit, the sum. */
template <int G, int DIM> struct step_part {
    float value[G][DIM], max[G], sum[G];
};

template <class C, int G, int DIM> struct step_shared {
    float q[G][DIM], k[DIM], v[DIM]; /* rotated; k and v are those of the new row */
    step_part<G, DIM> warp[STEP_WARPS], whole;
};

/* Running softmax of a group of lanes; a lane holds eight columns. */
template <int G> struct step_state {
    float q[G][8], value[G][8], max[G], sum[G];
};

template <int G>
__device__ __forceinline__ void place_heads(step_place &w, const step_args &a)
{
    int per_kv = a.n_head / a.n_head_kv, group = blockIdx.y % a.n_group;
    w.seq = blockIdx.z;
    w.head_kv = blockIdx.y / a.n_group;
    w.head = w.head_kv * per_kv + group * G;
    w.n_head = min(G, per_kv - group * G);
    w.append = group == 0;
}

__device__ __forceinline__ void place_rows(step_place &w, const step_args &a)
{
    /* not from the first-level cache: the kernel looks here before it may rely on what it reads */
    w.pos = __ldcg(a.pos + w.seq);
    /* never past the cache, whatever the sequence's length */
    w.row = min(__ldcg(a.len + w.seq), a.capacity[w.seq] - 1);
    int low = a.window > 0 ? max(0, w.row + 1 - a.window) : 0;
    int each = (w.row - low) / (int)gridDim.x + 1; /* the new row is one of those shared out */
    w.first = low + each * (int)blockIdx.x;
    w.last = min(w.first + each, w.row);
    w.own = w.first <= w.row && w.row < w.first + each;
    w.append = w.append && w.own;
}

/* The CTA's rows of the caches go to L2 before they may be read: what another kernel still writes
 * is not missed, and a length that changes only makes this useless. */
template <class C>
__device__ __forceinline__ void call_rows(const step_args &a, const step_place &w)
{
#if __CUDA_ARCH__ >= 900
    int n = 2 * (w.last - w.first);
    for (int i = threadIdx.x; i < n; i += STEP_THREADS) {
        const void *cache = i & 1 ? a.cache_v[w.seq] : a.cache_k[w.seq];
        const C *from = (const C *)cache +
                        ((int64_t)(w.first + i / 2) * a.n_head_kv + w.head_kv) * a.head_dim;
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(
                         __cvta_generic_to_global(from)),
                     "r"(a.head_dim * (int)sizeof(C))
                     : "memory");
    }
#endif
}

template <bool WIDE, class C, int U>
__device__ __forceinline__ void load_rows(raw8<C> (&raw)[U], const C *at, int row, int step,
                                          int last, int64_t stride)
{
#pragma unroll
    for (int u = 0; u < U; u++) {
        int r = row + u * step;
        if (r < last)
            raw8_load(raw[u], at + r * stride, WIDE);
        else
            raw8_zero(raw[u]);
    }
}

/* Rotates the heads of q, and k of the new row, into shared memory; appends. */
template <class C, int G, int DIM>
__device__ void rotate_new(step_shared<C, G, DIM> &sh, const step_args &a, const step_place &w)
{
    int half = a.head_dim / 2, n = (w.own ? w.n_head + 1 : w.n_head) * half;
    int64_t kv_at = ((int64_t)w.seq * a.n_head_kv + w.head_kv) * a.head_dim;
    int64_t row_at = ((int64_t)w.row * a.n_head_kv + w.head_kv) * a.head_dim;
    float pos = (float)w.pos;
    for (int i = threadIdx.x; i < n; i += STEP_THREADS) {
        int g = i / half, c = i - g * half;
        int at0 = a.interleaved ? 2 * c : c, at1 = a.interleaved ? 2 * c + 1 : c + half;
        bool is_k = g == w.n_head;
        int64_t from = is_k ? kv_at : ((int64_t)w.seq * a.n_head + w.head + g) * a.head_dim;
        float x0 = load_any(is_k ? a.k : a.q, a.in, from + at0);
        float x1 = load_any(is_k ? a.k : a.q, a.in, from + at1);
        float sine, cosine; /* of the angle rounded to f32, as in transformers */
        sincosf(__fmul_rn(pos, a.inv_freq[c]), &sine, &cosine);
        sine *= a.mscale;
        cosine *= a.mscale;
        float y0 = x0 * cosine - x1 * sine, y1 = x1 * cosine + x0 * sine;
        if (is_k) { /* as later steps will read it back */
            C k0 = from_f32<C>(y0), k1 = from_f32<C>(y1), *to = (C *)a.cache_k[w.seq] + row_at;
            sh.k[at0] = to_f32(k0);
            sh.k[at1] = to_f32(k1);
            if (w.append) {
                to[at0] = k0;
                to[at1] = k1;
            }
        } else {
            sh.q[g][at0] = y0 * (a.scale * LOG2_E);
            sh.q[g][at1] = y1 * (a.scale * LOG2_E);
        }
    }
    for (int c = threadIdx.x; w.own && c < a.head_dim; c += STEP_THREADS) {
        C v = from_f32<C>(load_any(a.v, a.in, kv_at + c));
        sh.v[c] = to_f32(v);
        if (w.append) ((C *)a.cache_v[w.seq])[row_at + c] = v;
    }
}

template <int G> __device__ __forceinline__ void dot_row(float (&s)[G], const float (&x)[8],
                                                         const step_state<G> &t)
{
#pragma unroll
    for (int g = 0; g < G; g++) {
        s[g] = 0;
#pragma unroll
        for (int e = 0; e < 8; e++)
            s[g] += t.q[g][e] * x[e];
    }
}

/* Logits of U rows, summed over L lanes, become weights; what was summed before is rescaled. With
 * no finite logit yet 0 stands for the largest: -inf weighs 0, only NaN and +inf become NaN. */
template <int G, int L, int U>
__device__ __forceinline__ void weigh_rows(float (&s)[U][G], step_state<G> &t, int row, int step,
                                           int last)
{
#pragma unroll
    for (int u = 0; u < U; u++)
#pragma unroll
        for (int g = 0; g < G; g++) {
#pragma unroll
            for (int i = L / 2; i > 0; i /= 2)
                s[u][g] += __shfl_xor_sync(~0u, s[u][g], i);
            if (row + u * step >= last) s[u][g] = -INFINITY;
        }
#pragma unroll
    for (int g = 0; g < G; g++) {
        float max = t.max[g];
#pragma unroll
        for (int u = 0; u < U; u++)
            max = fmaxf(max, s[u][g]);
        float base = max == -INFINITY ? 0.0f : max, shrink = exp2f(t.max[g] - base);
        t.max[g] = max;
        t.sum[g] *= shrink;
#pragma unroll
        for (int e = 0; e < 8; e++)
            t.value[g][e] *= shrink;
#pragma unroll
        for (int u = 0; u < U; u++)
            t.sum[g] += s[u][g] = exp2f(s[u][g] - base);
    }
}

template <int G>
__device__ __forceinline__ void add_row(step_state<G> &t, const float (&weight)[G],
                                        const float (&x)[8])
{
#pragma unroll
    for (int g = 0; g < G; g++)
#pragma unroll
        for (int e = 0; e < 8; e++)
            t.value[g][e] += weight[g] * x[e];
}

/* The new row, from shared memory; the first group of lanes of a whole warp counts it. */
template <class C, int G, int L>
__device__ void attend_new(step_state<G> &t, const step_shared<C, G, 8 * L> &sh, int col, bool used)
{
    float s[1][G], x[8];
#pragma unroll
    for (int e = 0; e < 8; e++)
        x[e] = used ? sh.k[col + e] : 0.0f;
    dot_row(s[0], x, t);
    weigh_rows<G, L, 1>(s, t, threadIdx.x / L, 1, 1);
#pragma unroll
    for (int e = 0; e < 8; e++)
        x[e] = used && threadIdx.x < L ? sh.v[col + e] : 0.0f;
    add_row(t, s[0], x);
}

/* Adds up the groups of lanes of a warp; the first L lanes hand the sum to shared memory. */
template <int G, int L>
__device__ void merge_lanes(step_state<G> &t, step_part<G, 8 * L> &to, int lane, int col)
{
#pragma unroll
    for (int g = 0; g < G; g++) {
#pragma unroll
        for (int i = L; i < 32; i *= 2) {
            float max = fmaxf(t.max[g], __shfl_xor_sync(~0u, t.max[g], i));
            float shrink = exp2f(t.max[g] - (max == -INFINITY ? 0.0f : max));
            t.max[g] = max;
            t.sum[g] *= shrink;
            t.sum[g] += __shfl_xor_sync(~0u, t.sum[g], i);
#pragma unroll
            for (int e = 0; e < 8; e++) {
                t.value[g][e] *= shrink;
                t.value[g][e] += __shfl_xor_sync(~0u, t.value[g][e], i);
            }
        }
        if (lane == 0) {
            to.max[g] = t.max[g];
            to.sum[g] = t.sum[g];
        }
        if (lane >= L) continue;
#pragma unroll
        for (int e = 0; e < 8; e++)
            to.value[g][col + e] = t.value[g][e];
    }
}

/* Column c of head g of up to eight parts: weighted value, sum, largest logit. */
template <int N, class F>
__device__ __forceinline__ float3 merge_parts(F part, int n, int g, int c)
{
    float max[N], sum[N], value[N], top = -INFINITY;
#pragma unroll
    for (int i = 0; i < N; i++) {
        max[i] = i < n ? part(i)->max[g] : -INFINITY;
        sum[i] = i < n ? part(i)->sum[g] : 0.0f;
        value[i] = i < n ? part(i)->value[g][c] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < N; i++)
        top = fmaxf(top, max[i]);
    float base = top == -INFINITY ? 0.0f : top;
    float3 all = make_float3(0, 0, top);
#pragma unroll
    for (int i = 0; i < N; i++) {
        float weight = exp2f(max[i] - base);
        all.x += weight * value[i];
        all.y += weight * sum[i];
    }
    return all;
}

/* Output of the CTA's heads from the parts of all splits; this thread takes some of the columns. */
template <class F>
__device__ void step_output(const step_args &a, const step_place &w, F part, int n_split, int first,
                            int step)
{
    int64_t to = ((int64_t)w.seq * a.n_head + w.head) * a.head_dim;
    for (int i = first; i < w.n_head * a.head_dim; i += step) {
        int g = i / a.head_dim, c = i - g * a.head_dim;
        float3 all = merge_parts<STEP_MAX_SPLIT>(part, n_split, g, c);
        store_any(a.out, a.to, to + i, all.x / all.y);
    }
}

/* Merges the CTA's own part with the others' of its cluster. */
template <int G, int DIM>
__device__ void step_finish(const step_args &a, const step_place &w, step_part<G, DIM> *mine)
{
    typedef step_part<G, DIM> part_t;
    int n = gridDim.x, rank = blockIdx.x;
    if (a.partial) {
        part_t *to = (part_t *)a.partial +
                     ((int64_t)blockIdx.z * gridDim.y + blockIdx.y) * n + rank;
        __syncthreads();
        for (int i = threadIdx.x; i < (int)(sizeof *mine / sizeof(float)); i += STEP_THREADS)
            ((float *)to)[i] = ((const float *)mine)[i];
    } else if (n == 1) {
        __syncthreads();
        step_output(a, w, [=](int) { return mine; }, 1, threadIdx.x, STEP_THREADS);
    } else {
#if __CUDA_ARCH__ >= 900
        namespace cg = cooperative_groups;
        cg::cluster_group cluster = cg::this_cluster();
        cluster.sync();
        step_output(a, w, [=](int i) { return cluster.map_shared_rank(mine, i); }, n,
                    rank * STEP_THREADS + threadIdx.x, n * STEP_THREADS);
        cluster.sync(); /* nobody may end while its part is being read */
#endif
    }
}

/* U rows of a lane are in flight at once. The CTAs that an SM holds limit their registers. */
template <class C, int G> struct step_unroll {
    static constexpr int U = sizeof(C) == 4 ? 2 : G > 1 ? 4 : 5, PER_SM = G > 1 ? 2 : 3;
};

/* The rows of the caches that are this CTA's. Between the first loads and their use the new token
 * is rotated. */
template <class C, int G, int L, bool WIDE>
__device__ __forceinline__ void attend_rows(step_state<G> &t, step_shared<C, G, 8 * L> &sh,
                                            const step_args &a, const step_place &w, int col,
                                            bool used)
{
    constexpr int U = step_unroll<C, G>::U, STEP = STEP_THREADS / L;
    int64_t stride = (int64_t)a.n_head_kv * a.head_dim, at = (int64_t)w.head_kv * a.head_dim + col;
    const C *k = (const C *)a.cache_k[w.seq] + at, *v = (const C *)a.cache_v[w.seq] + at;
    int row = w.first + threadIdx.x / L, last = used ? w.last : 0;
    raw8<C> raw_k[U], raw_v[U];
    load_rows<WIDE>(raw_k, k, row, STEP, last, stride);
    load_rows<WIDE>(raw_v, v, row, STEP, last, stride);
    rotate_new(sh, a, w);
    __syncthreads();
#pragma unroll
    for (int g = 0; g < G; g++)
#pragma unroll
        for (int e = 0; e < 8; e++)
            t.q[g][e] = used && g < w.n_head ? sh.q[g][col + e] : 0.0f;
    for (int base = w.first; base < w.last; base += U * STEP, row += U * STEP) {
        float s[U][G], x[8];
#pragma unroll
        for (int u = 0; u < U; u++) {
            raw8_values(x, raw_k[u]);
            dot_row(s[u], x, t);
        }
        load_rows<WIDE>(raw_k, k, row + U * STEP, STEP, last, stride);
        weigh_rows<G, L, U>(s, t, row, STEP, w.last);
#pragma unroll
        for (int u = 0; u < U; u++) {
            raw8_values(x, raw_v[u]);
            add_row(t, s[u], x);
        }
        load_rows<WIDE>(raw_v, v, row + U * STEP, STEP, last, stride);
    }
}

/* Grid: splits (one cluster), groups of heads, sequences. */
template <class C, int G, int L, bool WIDE>
__global__ void __launch_bounds__(STEP_THREADS, step_unroll<C, G>::PER_SM)
    attn_step_kernel(const __grid_constant__ step_args a)
{
    __shared__ step_shared<C, G, 8 * L> sh;
    step_state<G> t;
    step_place w;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, col = threadIdx.x % L * 8;
    bool used = col < a.head_dim;
#pragma unroll
    for (int g = 0; g < G; g++) {
        t.max[g] = -INFINITY;
        t.sum[g] = 0;
#pragma unroll
        for (int e = 0; e < 8; e++)
            t.value[g][e] = 0;
    }
    place_heads<G>(w, a);
    if (WIDE) {
        step_place early = w;
        place_rows(early, a);
        call_rows<C>(a, early);
    }
    cuda_wait();
    cuda_release();
    place_rows(w, a);
    attend_rows<C, G, L, WIDE>(t, sh, a, w, col, used);
    if (w.own && warp == 0) attend_new<C, G, L>(t, sh, col, used);
    merge_lanes<G, L>(t, sh.warp[warp], lane, col);
    __syncthreads();
    for (int i = threadIdx.x; i < w.n_head * a.head_dim; i += STEP_THREADS) {
        int g = i / a.head_dim, c = i - g * a.head_dim;
        float3 all = merge_parts<STEP_WARPS>([&](int j) { return &sh.warp[j]; }, STEP_WARPS, g, c);
        sh.whole.value[g][c] = all.x;
        if (c > 0) continue;
        sh.whole.sum[g] = all.y;
        sh.whole.max[g] = all.z;
    }
    step_finish(a, w, &sh.whole);
}

/* Grid as above without the splits. */
template <int G, int DIM>
__global__ void __launch_bounds__(STEP_THREADS)
    step_merge_kernel(const __grid_constant__ step_args a, int n_split)
{
    step_place w;
    place_heads<G>(w, a);
    const step_part<G, DIM> *part = (const step_part<G, DIM> *)a.partial +
                                    ((int64_t)blockIdx.z * gridDim.y + blockIdx.y) * n_split;
    cuda_wait();
    cuda_release();
    step_output(a, w, [=](int i) { return part + i; }, n_split, threadIdx.x, STEP_THREADS);
}

/* As cuda_launch, with the CTAs along x in one cluster. */
static void launch_cluster(sq_backend *be, void (*kernel)(step_args), dim3 grid, const step_args *a)
{
    if (!cuda_here(be, "attn_step")) return;
    cudaLaunchAttribute attr[2] = {};
    attr[0].id = cudaLaunchAttributeClusterDimension;
    attr[0].val.clusterDim.x = grid.x;
    attr[0].val.clusterDim.y = attr[0].val.clusterDim.z = 1;
    attr[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t c = {};
    c.gridDim = grid;
    c.blockDim = dim3(STEP_THREADS);
    c.stream = cuda_of(be)->stream;
    c.attrs = attr;
    c.numAttrs = 2;
    be->count.launches++;
    cuda_failed(be, "attn_step", cudaLaunchKernelEx(&c, kernel, *a));
}

template <class C, int G, int L, bool WIDE>
static void step_start(sq_backend *be, step_args *a, int n_seq, int64_t capacity)
{
    a->n_group = (a->n_head / a->n_head_kv + G - 1) / G;
    int64_t n_cta = (int64_t)n_seq * a->n_head_kv * a->n_group;
    int n_split = 1;
    auto kernel = attn_step_kernel<C, G, L, WIDE>;
    while (n_split < STEP_MAX_SPLIT && n_cta * n_split < 2 * cuda_of(be)->n_sm &&
           capacity >= (int64_t)2 * n_split * STEP_MIN_ROWS)
        n_split *= 2;
    dim3 grid((unsigned)n_split, (unsigned)(a->n_head_kv * a->n_group), (unsigned)n_seq);
    if (n_split == 1) {
        cuda_launch(be, "attn_step", kernel, grid, dim3(STEP_THREADS), 0, *a);
    } else if (cuda_of(be)->dependent_launch) { /* 9.0 brought clusters too */
        launch_cluster(be, kernel, grid, a);
    } else {
        a->partial = (float *)cuda_of(be)->scratch;
        if ((size_t)(n_cta * n_split) * sizeof(step_part<G, 8 * L>) > CUDA_SCRATCH) {
            cuda_refuse(be, "attn_step", "too many heads and sequences");
            return;
        }
        cuda_launch(be, "attn_step", kernel, grid, dim3(STEP_THREADS), 0, *a);
        grid.x = 1;
        cuda_launch(be, "attn_step", step_merge_kernel<G, 8 * L>, grid, dim3(STEP_THREADS), 0, *a,
                    n_split);
    }
}

/* Caches that views have shifted are read value by value. */
template <class C>
static void step_pick(sq_backend *be, step_args *a, int n_seq, int64_t capacity, bool wide)
{
    bool many = a->n_head > a->n_head_kv;
    auto start = many ? step_start<C, 4, 16, true> : step_start<C, 1, 16, true>;
    if (!wide)
        start = step_start<C, 1, 32, false>;
    else if (a->head_dim <= 64)
        start = many ? step_start<C, 4, 8, true> : step_start<C, 1, 8, true>;
    else if (a->head_dim > 128)
        start = many ? step_start<C, 4, 32, true> : step_start<C, 1, 32, true>;
    start(be, a, n_seq, capacity);
}

static bool step_accepts(const sq_tensor *q, const sq_tensor *k, const sq_tensor *v,
                         const sq_tensor *out, const kv_step *s, const attn_desc *d)
{
    for (int i = 0; i < s->n_seq; i++)
        if (s->k[i]->dtype != s->k[0]->dtype || s->v[i]->dtype != s->k[0]->dtype) return false;
    return s->n_seq <= SQ_STEP_MAX && d->head_dim % 8 == 0 && d->head_dim <= STEP_MAX_DIM &&
           d->n_head <= CUDA_GRID_YZ && dtype_is_float(q->dtype) && k->dtype == q->dtype &&
           v->dtype == q->dtype && dtype_is_float(out->dtype);
}

void cuda_attn_step(sq_backend *be, sq_tensor *out, sq_tensor *q, sq_tensor *k, const sq_tensor *v,
                    const kv_step *s, const rope_desc *r, const attn_desc *d)
{
    if (be->err.code || s->n_seq <= 0) return;
    if (!step_accepts(q, k, v, out, s, d)) {
        cuda_refuse(be, "attn_step", "heads over 256 values, or types that differ");
        return;
    }
    step_args a = {};
    a.q = q->data;
    a.k = k->data;
    a.v = v->data;
    a.out = out->data;
    a.pos = (const int32_t *)s->pos->data;
    a.len = (const int32_t *)s->len->data;
    bool wide = true;
    int64_t capacity = 0;
    for (int i = 0; i < s->n_seq; i++) {
        a.cache_k[i] = s->k[i]->data;
        a.cache_v[i] = s->v[i]->data;
        a.capacity[i] = (int)s->k[i]->shape[0];
        wide = wide && cuda_aligned(a.cache_k[i], 16) && cuda_aligned(a.cache_v[i], 16);
        if (capacity < a.capacity[i]) capacity = a.capacity[i];
    }
    for (int i = 0; i < d->head_dim / 2; i++)
        a.inv_freq[i] = r->inv_freq[i];
    a.mscale = r->mscale;
    a.scale = d->scale;
    a.n_head = d->n_head;
    a.n_head_kv = d->n_head_kv;
    a.head_dim = d->head_dim;
    a.window = d->window;
    a.in = q->dtype;
    a.to = out->dtype;
    a.interleaved = r->interleaved;
    if (!with_type(s->k[0]->dtype,
                   [&](auto c) { step_pick<decltype(c)>(be, &a, s->n_seq, capacity, wide); }))
        cuda_refuse(be, "attn_step", "the type of the caches");
}
