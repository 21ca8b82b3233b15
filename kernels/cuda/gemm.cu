/* Matrix products through cuBLASLt. Row-major y = x w^T is column-major Y = W^T X, so that w is the
 * transposed left operand. cuBLASLt's first choice of an algorithm is taken: timing its candidates
 * one by one chose slower ones for whole passes, and other sums at every start. Plans are kept in a
 * small set-associative cache. */
#include "kernels/cuda/act.cuh"
#include "kernels/cuda/pack.cuh"

#include <stdlib.h>
#include <string.h>

enum {
    N_SET = 64,
    N_WAY = 8,      /* plans of one hash */
    BIAS_WARPS = 4, /* of a block of the bias kernel: each takes rows of its own */
    BIAS_ROWS = 4   /* of a thread at a time */
};
static const size_t WORKSPACE = (size_t)32 << 20; /* what cuBLAS takes on Hopper */

struct gemm_key { /* no padding: compared as bytes */
    int64_t out, n, in, batch;
    int64_t step_w, step_y, step_b; /* elements between the matrices of a batch; x is shared */
    int32_t type, y_type, epilogue, add;
    int32_t align_w, align_x, align_y, unused;
};

struct gemm_plan {
    gemm_key key;
    cublasLtMatmulDesc_t op; /* NULL: free */
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulAlgo_t algo;
    bool usable; /* cuBLASLt has an algorithm */
    int64_t used;
};

struct cuda_gemm {
    cublasLtHandle_t lt;
    void *workspace;
    gemm_plan plan[N_SET][N_WAY];
    int64_t turn;
};

struct product {
    const char *op;
    gemm_key key;
    const void *w, *x, *b;
    void *y;
};

int cuda_gemm_open(sq_backend *be, sq_error *err)
{
    cuda_gemm *g = cuda_of(be)->gemm = (cuda_gemm *)calloc(1, sizeof *g);
    if (!g) return error_set(err, SQ_E_NOMEM, "cuda: out of memory");
    cublasStatus_t st = cublasLtCreate(&g->lt);
    if (st) return error_set(err, SQ_E_BACKEND, "cuda: cuBLASLt: %s", cublasLtGetStatusString(st));
    g->workspace = cuda_alloc(be, WORKSPACE);
    return g->workspace ? SQ_OK : error_set(err, SQ_E_NOMEM, "cuda: no room for a workspace");
}

static void plan_clear(gemm_plan *p)
{
    if (p->op) cublasLtMatmulDescDestroy(p->op);
    if (p->w) cublasLtMatrixLayoutDestroy(p->w);
    if (p->x) cublasLtMatrixLayoutDestroy(p->x);
    if (p->y) cublasLtMatrixLayoutDestroy(p->y);
    *p = gemm_plan{};
}

void cuda_gemm_close(sq_backend *be)
{
    cuda_gemm *g = cuda_of(be)->gemm;
    if (!g) return;
    for (int i = 0; i < N_SET * N_WAY; i++)
        plan_clear(&g->plan[0][0] + i);
    cuda_free(be, g->workspace);
    if (g->lt) cublasLtDestroy(g->lt);
    free(g);
    cuda_of(be)->gemm = NULL;
}

/* ---- plans ---- */

static cudaDataType_t lt_type(int32_t t)
{
    return t == SQ_DTYPE_F32 ? CUDA_R_32F : t == SQ_DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_16F;
}

static bool layout_make(cublasLtMatrixLayout_t *m, int32_t type, int64_t rows, int64_t cols,
                        int64_t batch, int64_t step)
{
    int32_t count = (int32_t)batch;
    return !cublasLtMatrixLayoutCreate(m, lt_type(type), (uint64_t)rows, (uint64_t)cols, rows) &&
           !cublasLtMatrixLayoutSetAttribute(*m, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
                                             sizeof count) &&
           !cublasLtMatrixLayoutSetAttribute(*m, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step,
                                             sizeof step);
}

/* Products and sums are f32 (never TF32). */
static bool plan_describe(gemm_plan *p, const product *c)
{
    const gemm_key *k = &p->key;
    cublasOperation_t t = CUBLAS_OP_T;
    cublasLtEpilogue_t epilogue = (cublasLtEpilogue_t)k->epilogue;
    if (cublasLtMatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F) ||
        cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSA, &t, sizeof t) ||
        cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                       sizeof epilogue))
        return false;
    if (c->b) {
        int32_t type = lt_type(k->y_type);
        if (cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &c->b,
                                           sizeof c->b) ||
            cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type,
                                           sizeof type))
            return false;
        if (k->batch > 1 &&
            cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE,
                                           &k->step_b, sizeof k->step_b))
            return false;
    }
    return layout_make(&p->w, k->type, k->in, k->out, k->batch, k->step_w) &&
           layout_make(&p->x, k->type, k->in, k->n, k->batch, 0) &&
           layout_make(&p->y, k->y_type, k->out, k->n, k->batch, k->step_y);
}

static bool prefer(cublasLtMatmulPreference_t pref, cublasLtMatmulPreferenceAttributes_t what,
                   uint32_t value)
{
    return !cublasLtMatmulPreferenceSetAttribute(pref, what, &value, sizeof value);
}

/* False when cuBLASLt has no algorithm for it. None that splits sums over two kernels: where it
 * likes them (84 rows of 11008), others are faster. */
static bool plan_choose(const cuda_gemm *g, gemm_plan *p)
{
    const gemm_key *k = &p->key;
    cublasLtMatmulPreference_t pref = NULL;
    cublasLtMatmulHeuristicResult_t found = {};
    uint64_t most = WORKSPACE;
    int n = 0;
    if (cublasLtMatmulPreferenceCreate(&pref)) return false;
    bool ok =
        !cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most,
                                              sizeof most) &&
        prefer(pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, CUBLASLT_REDUCTION_SCHEME_NONE) &&
        prefer(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, (uint32_t)k->align_w) &&
        prefer(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, (uint32_t)k->align_x) &&
        prefer(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, (uint32_t)k->align_y) &&
        prefer(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, (uint32_t)k->align_y) &&
        !cublasLtMatmulAlgoGetHeuristic(g->lt, p->op, p->w, p->x, p->y, p->y, pref, 1, &found, &n);
    cublasLtMatmulPreferenceDestroy(pref);
    p->algo = found.algo;
    return ok && n == 1 && !found.state && found.workspaceSize <= WORKSPACE;
}

/* Y = W^T X, or Y + W^T X when adding. */
static cublasStatus_t plan_run(sq_backend *be, gemm_plan *p, const product *c)
{
    cuda_gemm *g = cuda_of(be)->gemm;
    const float one = 1, beta = p->key.add ? 1 : 0;
    cublasStatus_t st = CUBLAS_STATUS_SUCCESS;
    if (c->b)
        st = cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &c->b,
                                            sizeof c->b);
    if (st) return st;
    be->count.launches++;
    return cublasLtMatmul(g->lt, p->op, &one, c->w, p->w, c->x, p->x, &beta, c->y, p->y, c->y, p->y,
                          &p->algo, g->workspace, WORKSPACE, cuda_of(be)->stream);
}

static uint64_t key_hash(const gemm_key *k)
{
    uint64_t h = 0xcbf29ce484222325u;
    const unsigned char *p = (const unsigned char *)k;
    for (size_t i = 0; i < sizeof *k; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h ^ h >> 32;
}

/* The plan for a product, made if need be. NULL when cuBLASLt cannot do it. */
static gemm_plan *plan_for(sq_backend *be, const product *c)
{
    cuda_gemm *g = cuda_of(be)->gemm;
    gemm_plan *set = g->plan[key_hash(&c->key) % N_SET], *p = NULL, *oldest = set;
    for (int i = 0; i < N_WAY; i++) {
        if (set[i].op && memcmp(&set[i].key, &c->key, sizeof c->key) == 0) p = &set[i];
        if (set[i].used < oldest->used) oldest = &set[i];
    }
    if (!p) {
        p = oldest;
        plan_clear(p);
        p->key = c->key;
        if (!plan_describe(p, c)) {
            plan_clear(p);
            return NULL;
        }
        p->usable = plan_choose(g, p);
    }
    p->used = ++g->turn;
    return p->usable ? p : NULL;
}

/* False when cuBLASLt has no algorithm for it. */
static bool product_run(sq_backend *be, const product *c)
{
    gemm_plan *p = plan_for(be, c);
    if (!p) return false;
    if (be->err.code) return true;
    cublasStatus_t st = plan_run(be, p, c);
    if (st)
        cuda_fail(be, c->op, SQ_E_BACKEND, cublasLtGetStatusString(st));
    return true;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* ---- bias and activation ---- */

struct bias_job {
    struct {
        void *y;
        const void *b;
        sq_dtype b_type;
    } part[3];
    int64_t n, out;
    sq_act act;
};

/* y = act(y + b) in place: a thread keeps its columns' bias for several rows, which it loads before
 * it stores one. */
template <class T, bool WIDE>
__global__ void __launch_bounds__(32 * BIAS_WARPS) bias_kernel(const __grid_constant__ bias_job job)
{
    constexpr int N = WIDE ? 16 / sizeof(T) : 1, STEP = BIAS_WARPS * BIAS_ROWS;
    const int64_t col = ((int64_t)blockIdx.x * 32 + threadIdx.x) * N;
    T *y = (T *)job.part[blockIdx.z].y + col;
    const void *b = job.part[blockIdx.z].b;
    float bias[N] = {};
    cuda_release();
    if (col < job.out && b) load_any_run(bias, b, job.part[blockIdx.z].b_type, col);
    cuda_wait();
    if (col >= job.out) return;
    for (int64_t r = blockIdx.y * STEP + threadIdx.y; r < job.n; r += gridDim.y * STEP) {
        float v[BIAS_ROWS][N];
#pragma unroll
        for (int k = 0; k < BIAS_ROWS; k++)
            if (r + k * BIAS_WARPS < job.n) load_run(v[k], y + (r + k * BIAS_WARPS) * job.out);
#pragma unroll
        for (int k = 0; k < BIAS_ROWS; k++) {
            if (r + k * BIAS_WARPS >= job.n) break;
#pragma unroll
            for (int i = 0; i < N; i++)
                v[k][i] += bias[i];
            act_all<sizeof(T) == 2>(v[k], job.act);
            store_run(y + (r + k * BIAS_WARPS) * job.out, v[k]);
        }
    }
}

static void bias_act(sq_backend *be, const char *op, sq_tensor *const y[],
                     const sq_tensor *const b[], int n, sq_act act)
{
    bias_job job = {};
    job.n = y[0]->shape[0];
    job.out = y[0]->shape[1];
    job.act = act;
    int per_word = y[0]->dtype == SQ_DTYPE_F32 ? 4 : 8;
    bool wide = job.out % per_word == 0;
    for (int i = 0; i < n; i++) {
        job.part[i].y = y[i]->data;
        wide = wide && cuda_aligned(y[i]->data, 16);
        if (!b || !b[i]) continue;
        wide = wide && cuda_aligned(b[i]->data, 16);
        job.part[i].b = b[i]->data;
        job.part[i].b_type = b[i]->dtype;
    }
    int64_t cols = 32 * (wide ? per_word : 1), rows = BIAS_WARPS * BIAS_ROWS;
    dim3 grid((unsigned)((job.out + cols - 1) / cols),
              (unsigned)smaller((job.n + rows - 1) / rows, CUDA_GRID_YZ), (unsigned)n);
    with_type(y[0]->dtype, [&](auto t) {
        typedef decltype(t) T;
        cuda_launch(be, op, wide ? bias_kernel<T, true> : bias_kernel<T, false>, grid,
                    dim3(32, BIAS_WARPS), 0, job);
    });
}

/* ---- the ops ---- */

static bool has_bias(const sq_tensor *const b[], int i)
{
    return b && b[i] && b[i]->data;
}

static int32_t alignment(const void *p)
{
    uintptr_t bits = (uintptr_t)p | 16;
    return (int32_t)(bits & (~bits + 1));
}

static int64_t elements_between(const void *a, const void *b, sq_dtype t)
{
    int64_t size = (int64_t)dtype_row_bytes(t, 1);
    int64_t bytes = (int64_t)((uintptr_t)b - (uintptr_t)a);
    return bytes > 0 && bytes % size == 0 ? bytes / size : 0;
}

/* How many products from the first on are one batch: equal shapes, equally spaced. */
static int batch_length(sq_tensor *const y[], const sq_tensor *const w[], int n)
{
    if (n < 2) return n;
    int64_t step_w = elements_between(w[0]->data, w[1]->data, w[0]->dtype);
    int64_t step_y = elements_between(y[0]->data, y[1]->data, y[0]->dtype);
    /* steps off the 16-byte grid would keep the fast kernels out */
    if (!step_w || step_w % 8 || step_y % 8 || step_y < y[0]->shape[0] * y[0]->shape[1]) return 1;
    int i = 1;
    while (i < n && w[i]->shape[0] == w[0]->shape[0] && y[i]->dtype == y[0]->dtype &&
           elements_between(w[i - 1]->data, w[i]->data, w[0]->dtype) == step_w &&
           elements_between(y[i - 1]->data, y[i]->data, y[0]->dtype) == step_y)
        i++;
    return i;
}

/* Whether the product itself can add the biases: cuBLASLt takes them in the type of y only. */
static bool bias_fits(product *c, sq_tensor *const y[], const sq_tensor *const b[], int n)
{
    for (int i = 0; i < n; i++) {
        if (!has_bias(b, i) || b[i]->dtype != y[i]->dtype) return false;
        if (!cuda_aligned(b[i]->data, 16)) return false;
        if (i == 0) continue;
        int64_t step = elements_between(b[i - 1]->data, b[i]->data, b[i]->dtype);
        if (!step || step % 8 || (i > 1 && step != c->key.step_b)) return false;
        c->key.step_b = step;
    }
    c->b = b[0]->data;
    c->key.epilogue = CUBLASLT_EPILOGUE_BIAS;
    return true;
}

static product product_of(const char *op, sq_tensor *const y[], const sq_tensor *x,
                          const sq_tensor *const w[], int n, bool add)
{
    product c = {};
    c.op = op;
    c.w = w[0]->data;
    c.x = x->data;
    c.y = y[0]->data;
    c.key.out = w[0]->shape[0];
    c.key.n = x->shape[0];
    c.key.in = w[0]->shape[1];
    c.key.batch = n;
    if (n > 1) {
        c.key.step_w = elements_between(w[0]->data, w[1]->data, w[0]->dtype);
        c.key.step_y = elements_between(y[0]->data, y[1]->data, y[0]->dtype);
    }
    c.key.type = (int32_t)w[0]->dtype;
    c.key.y_type = (int32_t)y[0]->dtype;
    c.key.epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    c.key.add = add;
    c.key.align_w = alignment(c.w);
    c.key.align_x = alignment(c.x);
    c.key.align_y = alignment(c.y);
    return c;
}

/* What cuBLASLt refuses: slow, but it works for every size and alignment. */
static void by_few_rows(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                        const sq_tensor *b, const linear_desc *d)
{
    for (int64_t at = 0; at < x->shape[0] && !be->err.code; at += CUDA_GEMV_ROWS) {
        int64_t n = smaller(x->shape[0] - at, CUDA_GEMV_ROWS);
        sq_tensor xs = tensor_rows(x, at, n), ys = tensor_rows(y, at, n);
        cuda_gemv(be, &ys, &xs, w, b, d);
    }
}

/* A batch, or a single product (n = 1). */
static void batch_run(sq_backend *be, const char *op, sq_tensor *const y[], const sq_tensor *x,
                      const sq_tensor *const w[], const sq_tensor *const b[], int n,
                      const linear_desc *d)
{
    product plain = product_of(op, y, x, w, n, d->add), c = plain;
    bool bias = false;
    for (int i = 0; i < n; i++)
        bias = bias || has_bias(b, i);
    if (bias && !d->act && bias_fits(&c, y, b, n) && product_run(be, &c)) return;
    if (product_run(be, &plain)) {
        if (bias || d->act) bias_act(be, op, y, b, n, d->act);
    } else if (n == 1)
        by_few_rows(be, y[0], x, w[0], b ? b[0] : NULL, d);
    else
        for (int i = 0; i < n; i++)
            batch_run(be, op, y + i, x, w + i, b ? b + i : NULL, 1, d);
}

/* x is of the weights' type unless it has few rows. */
static void products(sq_backend *be, const char *op, sq_tensor *const y[], const sq_tensor *x,
                     const sq_tensor *const w[], const sq_tensor *const b[], int n,
                     const linear_desc *d)
{
    if (x->shape[0] <= CUDA_GEMV_ROWS && n == 1) {
        cuda_gemv(be, y[0], x, w[0], b ? b[0] : NULL, d);
        return;
    }
    if (x->shape[0] <= CUDA_GEMV_ROWS) {
        cuda_gemv_many(be, y, x, w, b, n);
        return;
    }
    for (int i = 0, step; i < n && !be->err.code; i += step) {
        step = batch_length(y + i, w + i, n - i);
        batch_run(be, op, y + i, x, w + i, b ? b + i : NULL, step, d);
    }
}

/* Converts x where it has another type, as many rows at a time as the scratch memory holds. */
static void products_of(sq_backend *be, const char *op, sq_tensor *const y[], const sq_tensor *x,
                        const sq_tensor *const w[], const sq_tensor *const b[], int n,
                        const linear_desc *d)
{
    int64_t rows = x->shape[0], in = w[0]->shape[1];
    if (rows == 0 || !cuda_here(be, op)) return;
    for (int i = 0; i < n; i++)
        if (w[i]->dtype != be->act || n > 3) {
            cuda_refuse(be, op, n > 3 ? "more than three products" : "weights not of its type");
            return;
        }
    if (x->dtype == be->act || rows <= CUDA_GEMV_ROWS) { /* few rows: gemv.cu converts them */
        products(be, op, y, x, w, b, n, d);
        return;
    }
    int64_t most = (int64_t)(CUDA_SCRATCH / dtype_row_bytes(be->act, in));
    if (most == 0) cuda_refuse(be, op, "input rows too long");
    for (int64_t at = 0, m; at < rows && !be->err.code; at += m) {
        m = smaller(rows - at, most);
        sq_tensor part = tensor_rows(x, at, m), ys[3], *yp[3];
        sq_tensor same = tensor_2d(cuda_of(be)->scratch, be->act, m, in);
        for (int i = 0; i < n; i++) {
            ys[i] = tensor_rows(y[i], at, m);
            yp[i] = &ys[i];
        }
        cuda_activate(be, &same, &part, SQ_ACT_NONE);
        products(be, op, yp, &same, w, b, n, d);
    }
}

void cuda_linear(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                 const sq_tensor *b, const linear_desc *d)
{
    if (d->add && (y->dtype != SQ_DTYPE_F32 || d->act))
        cuda_refuse(be, "linear", "adds to f32 only, and without an activation");
    products_of(be, "linear", &y, x, &w, &b, 1, d);
}

void cuda_linear_many(sq_backend *be, sq_tensor *const y[], const sq_tensor *x,
                      const sq_tensor *const w[], const sq_tensor *const b[], int n)
{
    linear_desc plain = {SQ_ACT_NONE, false};
    if (n > 0) products_of(be, "linear_many", y, x, w, b, n, &plain);
}

void cuda_linear_gated(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *gate,
                       const sq_tensor *up, sq_tensor *scratch)
{
    int64_t n = x->shape[0];
    if (n <= CUDA_GEMV_ROWS) {
        if (n > 0) cuda_gemv_gated(be, y, x, gate, up);
        return;
    }
    /* a batch's matrices lie in rising order */
    bool swap = (uintptr_t)up->data < (uintptr_t)gate->data;
    sq_tensor half[2] = {tensor_rows(scratch, 0, n), tensor_rows(scratch, n, n)};
    sq_tensor *to[2] = {&half[0], &half[1]};
    const sq_tensor *w[2] = {swap ? up : gate, swap ? gate : up};
    linear_desc plain = {SQ_ACT_NONE, false};
    products_of(be, "linear_gated", to, x, w, NULL, 2, &plain);
    cuda_silu_mul(be, y, &half[swap ? 1 : 0], &half[swap ? 0 : 1]);
}
