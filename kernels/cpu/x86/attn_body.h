/* Attention on lv vectors, compiled once an instruction set.
 *
 * A task is one head and a block of queries. Keys go by in blocks: scores q k^T from a transposed
 * copy of the keys, online softmax, then p v into the block's accumulators, so the matrix is
 * never stored. Both products are the same register tile, ATTN_MR rows by two vectors; queries,
 * keys and head_dim are padded to whole tiles in the task's scratch. */
#include "core/error.h"
#include "kernels/backend.h"
#include "kernels/cpu/x86/attn_x86.h"
#include "kernels/cpu/x86/vec_math.h"

#include <math.h>
#include <stdlib.h>

enum { ATTN_MR = 6, ATTN_NR = 2 * LV, ATTN_QB = 96, ATTN_KB = 128, ATTN_FEW = 4 };

typedef struct attn_task {
    const attn_desc *d;
    const sq_tensor *q, *k, *v;
    sq_tensor *out;
    int dim_pad;               /* head_dim rounded up to ATTN_NR */
    float *qs, *kt, *vs, *s, *acc; /* [QB,hd] [hd,KB] [KB,dim_pad] [QB,KB] [QB,dim_pad] */
    float *max, *sum;          /* [QB] of the online softmax */
} attn_task;

/* c[MR,NR] = (load ? c : 0) + a[MR,n] b[n,NR] */
LV_INLINE void attn_tile(int n, const float *a, int64_t lda, const float *b, int64_t ldb, float *c,
                         int64_t ldc, bool load)
{
    lv s[ATTN_MR][2];
#pragma GCC unroll 6
    for (int i = 0; i < ATTN_MR; i++) {
        s[i][0] = load ? lv_loadf(c + i * ldc) : lv_zero();
        s[i][1] = load ? lv_loadf(c + i * ldc + LV) : lv_zero();
    }
    for (int k = 0; k < n; k++, b += ldb) {
        lv b0 = lv_loadf(b), b1 = lv_loadf(b + LV);
#pragma GCC unroll 6
        for (int i = 0; i < ATTN_MR; i++) {
            lv x = lv_set1(a[i * lda + k]);
            s[i][0] = lv_fma(x, b0, s[i][0]);
            s[i][1] = lv_fma(x, b1, s[i][1]);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < ATTN_MR; i++) {
        lv_store(c + i * ldc, s[i][0]);
        lv_store(c + i * ldc + LV, s[i][1]);
    }
}

/* c[m,n] (+)= a[m,k] b[k,n]; m, n padded to tiles by the caller. */
static void attn_product(int m, int n, int k, const float *a, int64_t lda, const float *b,
                         int64_t ldb, float *c, int64_t ldc, bool load)
{
    for (int j = 0; j < n; j += ATTN_NR)
        for (int i = 0; i < m; i += ATTN_MR)
            attn_tile(k, a + i * lda, lda, b + j, ldb, c + i * ldc + j, ldc, load);
}

/* Bytes of one value of q, k or v. */
LV_INLINE size_t kv_item(sq_dtype t)
{
    return t == SQ_DTYPE_F32 ? 4 : 2;
}

static const unsigned char *kv_row(const sq_tensor *t, const attn_desc *d, int j, int head)
{
    size_t item = kv_item(t->dtype);
    int64_t at = ((int64_t)j * d->n_head_kv + head) * d->head_dim;
    return (const unsigned char *)t->data + (size_t)at * item;
}

/* kt[hd,KB] = transposed keys [first, first + n), columns from n on zero. */
static void pack_keys(const attn_task *t, int head, int first, int n)
{
    int hd = t->d->head_dim;
    size_t item = kv_item(t->k->dtype);
    for (int j = 0; j < ATTN_KB; j += 8) {
        if (j >= n) {
            for (int c = 0; c < hd; c++)
                _mm256_storeu_ps(t->kt + c * ATTN_KB + j, _mm256_setzero_ps());
            continue;
        }
        const unsigned char *row[8];
        for (int i = 0; i < 8; i++)
            row[i] = kv_row(t->k, t->d, first + (j + i < n ? j + i : n - 1), head);
        for (int c = 0; c < hd; c += 8) {
            __m256 v[8];
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++)
                v[i] = l8_load(row[i] + (size_t)c * item, t->k->dtype);
            l8_transpose(v);
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++)
                _mm256_storeu_ps(t->kt + (c + i) * ATTN_KB + j, v[i]);
        }
    }
}

/* vs[KB,dim_pad] = values [first, first + n) as f32; rows from n on zero. False when one of them is
 * NaN or infinite. */
static bool pack_values(const attn_task *t, int head, int first, int n)
{
    int hd = t->d->head_dim;
    __m256 zero = _mm256_setzero_ps(), rest = zero; /* 0 * v: NaN unless v is finite */
    size_t item = kv_item(t->v->dtype);
    for (int j = 0; j < n; j++) {
        const unsigned char *row = kv_row(t->v, t->d, first + j, head);
        for (int c = 0; c < hd; c += 8) {
            __m256 v = l8_load(row + (size_t)c * item, t->v->dtype);
            _mm256_storeu_ps(t->vs + j * t->dim_pad + c, v);
            rest = _mm256_fmadd_ps(v, zero, rest);
        }
    }
    memset(t->vs + (int64_t)n * t->dim_pad, 0,
           (size_t)(ATTN_KB - n) * (size_t)t->dim_pad * sizeof *t->vs);
    return _mm256_movemask_ps(_mm256_cmp_ps(rest, rest, _CMP_UNORD_Q)) == 0;
}

/* acc[n,dim] += p[n,keys] v[keys,dim] without the hidden keys: 0 * NaN would reach queries that do
 * not see them. */
static void add_seen_values(const attn_task *t, int n, int keys)
{
    for (int i = 0; i < n; i++) {
        const float *p = t->s + (int64_t)i * ATTN_KB;
        float *acc = t->acc + (int64_t)i * t->dim_pad;
        for (int j = 0; j < keys; j++)
            for (int c = 0; p[j] != 0 && c < t->d->head_dim; c++)
                acc[c] += p[j] * t->vs[j * t->dim_pad + c];
    }
}

/* qs[n,hd] = scale * q, rows up to a whole tile zero. */
static void pack_queries(const attn_task *t, int head, int first, int n)
{
    int hd = t->d->head_dim, pad = (n + ATTN_MR - 1) / ATTN_MR * ATTN_MR;
    for (int i = 0; i < n; i++) {
        const float *q = (const float *)t->q->data +
                         ((int64_t)(first + i) * t->d->n_head + head) * hd;
        for (int c = 0; c < hd; c++)
            t->qs[i * hd + c] = q[c] * t->d->scale;
    }
    memset(t->qs + n * hd, 0, (size_t)(pad - n) * (size_t)hd * sizeof *t->qs);
}

/* Keys that query i sees: [lo, hi). */
static void attn_visible(const attn_desc *d, int i, int *lo, int *hi)
{
    *lo = 0;
    *hi = d->n_kv;
    if (!d->causal) return;
    *hi = d->q_pos0 + i + 1 < d->n_kv ? d->q_pos0 + i + 1 : d->n_kv;
    if (d->window > 0 && *hi > d->window) *lo = *hi - d->window;
}

/* p[0..n) = exp(p - max), returns the sum; n a multiple of LV. */
LV_INLINE float exp_row(float *p, int n, float max)
{
    lv total = lv_zero(), m = lv_set1(max);
    for (int j = 0; j < n; j += LV) {
        lv e = lv_exp(lv_sub(lv_loadf(p + j), m));
        lv_store(p + j, e);
        total = lv_add(total, e);
    }
    return lv_sum(total);
}

LV_INLINE float max_row(const float *p, int n, float max)
{
    lv m = lv_set1(max);
    for (int j = 0; j < n; j += LV)
        m = lv_max(lv_loadf(p + j), m);
    return lv_hmax(m);
}

/* One step of the online softmax for row i of the block: keys [first, first + n). */
static void softmax_step(attn_task *t, int i, int lo, int hi, int first)
{
    float *p = t->s + (int64_t)i * ATTN_KB, *acc = t->acc + (int64_t)i * t->dim_pad;
    if (hi <= first || lo >= first + ATTN_KB) { /* nothing to see here */
        memset(p, 0, ATTN_KB * sizeof *p);
        return;
    }
    for (int j = 0; j < lo - first; j++)
        p[j] = -INFINITY;
    for (int j = hi - first; j < ATTN_KB; j++)
        p[j] = -INFINITY;
    float max = max_row(p, ATTN_KB, t->max[i]);
    float keep = expf(t->max[i] - max);
    t->sum[i] = t->sum[i] * keep + exp_row(p, ATTN_KB, max);
    t->max[i] = max;
    if (keep == 1.0f) return;
    for (int c = 0; c < t->dim_pad; c += LV)
        lv_store(acc + c, lv_mul(lv_loadf(acc + c), lv_set1(keep)));
}

static void attn_block(attn_task *t, int head, int first, int n)
{
    const attn_desc *d = t->d;
    int kv_head = head / (d->n_head / d->n_head_kv), hd = d->head_dim, lo, hi, low, high;
    int pad = (n + ATTN_MR - 1) / ATTN_MR * ATTN_MR;
    attn_visible(d, first, &low, &hi);
    attn_visible(d, first + n - 1, &lo, &high);
    pack_queries(t, head, first, n);
    memset(t->acc, 0, (size_t)pad * (size_t)t->dim_pad * sizeof *t->acc);
    for (int i = 0; i < n; i++) {
        t->max[i] = -INFINITY;
        t->sum[i] = 0;
    }
    for (int j = low / ATTN_KB * ATTN_KB; j < high; j += ATTN_KB) {
        int keys = high - j < ATTN_KB ? high - j : ATTN_KB;
        pack_keys(t, kv_head, j, keys);
        bool finite = pack_values(t, kv_head, j, keys);
        attn_product(pad, ATTN_KB, hd, t->qs, hd, t->kt, ATTN_KB, t->s, ATTN_KB, false);
        for (int i = 0; i < n; i++) {
            attn_visible(d, first + i, &lo, &hi);
            softmax_step(t, i, lo, hi, j);
        }
        if (finite)
            attn_product(pad, t->dim_pad, keys, t->s, ATTN_KB, t->vs, t->dim_pad, t->acc,
                         t->dim_pad, true);
        else
            add_seen_values(t, n, keys);
    }
    for (int i = 0; i < n; i++) {
        float *out = (float *)t->out->data + ((int64_t)(first + i) * d->n_head + head) * hd;
        for (int c = 0; c < hd; c++)
            out[c] = t->acc[i * t->dim_pad + c] / t->sum[i];
    }
}

LV_INLINE float dot_row(const float *q, const unsigned char *k, sq_dtype type, int hd)
{
    size_t item = kv_item(type);
    __m256 s = _mm256_setzero_ps();
    for (int c = 0; c < hd; c += 8)
        s = _mm256_fmadd_ps(_mm256_loadu_ps(q + c), l8_load(k + (size_t)c * item, type), s);
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

/* Scores of one query against keys [lo, hi) of its head, padded with -inf to whole vectors. */
static int score_query(float *p, const sq_tensor *q, const sq_tensor *k, const attn_desc *d, int i,
                       int head, int lo, int hi)
{
    int kv_head = head / (d->n_head / d->n_head_kv), n = hi - lo;
    const float *row = (const float *)q->data + ((int64_t)i * d->n_head + head) * d->head_dim;
    for (int j = 0; j < n; j++)
        p[j] = d->scale * dot_row(row, kv_row(k, d, lo + j, kv_head), k->dtype, d->head_dim);
    while (n % LV)
        p[n++] = -INFINITY;
    return n;
}

/* Few queries (decode): straight over the stored keys and values. p[n_kv + LV] is scratch. */
static void attn_few(sq_tensor *out, const sq_tensor *q, const sq_tensor *k, const sq_tensor *v,
                     const attn_desc *d, int i, int head, float *p)
{
    int lo, hi, hd = d->head_dim, kv_head = head / (d->n_head / d->n_head_kv);
    size_t item = kv_item(v->dtype);
    float *o = (float *)out->data + ((int64_t)i * d->n_head + head) * hd;
    attn_visible(d, i, &lo, &hi);
    int n = score_query(p, q, k, d, i, head, lo, hi);
    float sum = exp_row(p, n, max_row(p, n, -INFINITY));
    for (int c = 0; c < hd; c += 8) {
        __m256 s0 = _mm256_setzero_ps(), s1 = s0;
        int j = 0;
        for (; j + 1 < hi - lo; j += 2) {
            const unsigned char *a = kv_row(v, d, lo + j, kv_head) + (size_t)c * item;
            const unsigned char *b = kv_row(v, d, lo + j + 1, kv_head) + (size_t)c * item;
            s0 = _mm256_fmadd_ps(_mm256_set1_ps(p[j]), l8_load(a, v->dtype), s0);
            s1 = _mm256_fmadd_ps(_mm256_set1_ps(p[j + 1]), l8_load(b, v->dtype), s1);
        }
        if (j < hi - lo)
            s0 = _mm256_fmadd_ps(
                _mm256_set1_ps(p[j]),
                l8_load(kv_row(v, d, lo + j, kv_head) + (size_t)c * item, v->dtype), s0);
        _mm256_storeu_ps(o + c, _mm256_div_ps(_mm256_add_ps(s0, s1), _mm256_set1_ps(sum)));
    }
}

/* Scratch of one thread, carved into the task's arrays; NULL when memory is out. */
static float *task_open(attn_task *t)
{
    int64_t hd = t->d->head_dim, dp = t->dim_pad, qb = ATTN_QB, kb = ATTN_KB;
    int64_t size = qb * hd + hd * kb + kb * dp + qb * kb + qb * dp + 2 * qb;
    float *mem = aligned_alloc(64, ((size_t)size * sizeof *mem + 63) / 64 * 64);
    if (!mem) return NULL;
    t->kt = mem;
    t->vs = t->kt + hd * kb;
    t->s = t->vs + kb * dp;
    t->acc = t->s + qb * kb;
    t->qs = t->acc + qb * dp;
    t->max = t->qs + qb * hd;
    t->sum = t->max + qb;
    return mem;
}

static void attn_sequence(sq_backend *be, sq_tensor *out, const sq_tensor *q, const sq_tensor *k,
                          const sq_tensor *v, const attn_desc *d)
{
    bool few = d->n_q <= ATTN_FEW, failed = false;
    int n_block = few ? d->n_q : (d->n_q + ATTN_QB - 1) / ATTN_QB, n_task = n_block * d->n_head;
    int64_t work = (int64_t)d->n_q * d->n_kv * d->n_head * d->head_dim;
    int n_threads = work < 1 << 16 ? 1 : be->n_threads;
#pragma omp parallel num_threads(n_threads) reduction(|| : failed)
    {
        attn_task t = {.d = d, .q = q, .k = k, .v = v, .out = out};
        t.dim_pad = (d->head_dim + ATTN_NR - 1) / ATTN_NR * ATTN_NR;
        float *mem = few ? malloc(((size_t)d->n_kv + LV) * sizeof *mem) : task_open(&t);
        if (!mem) failed = true;
#pragma omp for schedule(dynamic)
        for (int i = 0; i < n_task; i++) {
            int head = i % d->n_head, block = n_block - 1 - i / d->n_head; /* longest rows first */
            int first = block * ATTN_QB, left = d->n_q - first;
            if (!mem) continue;
            if (few)
                attn_few(out, q, k, v, d, block, head, mem);
            else
                attn_block(&t, head, first, left < ATTN_QB ? left : ATTN_QB);
        }
        free(mem);
    }
    if (failed) error_set(&be->err, SQ_E_NOMEM, "attn: out of memory");
}

static int n_sequences(const attn_desc *d)
{
    return d->n_seq > 1 ? d->n_seq : 1;
}

static void attn_body(sq_backend *be, sq_tensor *out, const sq_tensor *q, const sq_tensor *k,
                      const sq_tensor *v, const attn_desc *d)
{
    for (int64_t s = 0; s < n_sequences(d); s++) {
        sq_tensor ys = tensor_rows(out, s * d->n_q, d->n_q);
        sq_tensor qs = tensor_rows(q, s * d->n_q, d->n_q);
        sq_tensor ks = tensor_rows(k, s * d->n_kv, d->n_kv);
        sq_tensor vs = tensor_rows(v, s * d->n_kv, d->n_kv);
        attn_sequence(be, &ys, &qs, &ks, &vs, d);
    }
}

static void rows_sequence(sq_backend *be, float *score, const sq_tensor *q, const sq_tensor *k,
                          const int32_t *row, int n_row, bool logits, const attn_desc *d)
{
    bool failed = false;
    int n_task = n_row * d->n_head;
    int64_t work = (int64_t)n_task * d->n_kv * d->head_dim;
    int n_threads = work < 1 << 16 ? 1 : be->n_threads;
#pragma omp parallel num_threads(n_threads) reduction(|| : failed)
    {
        float *p = malloc(((size_t)d->n_kv + LV) * sizeof *p);
        if (!p) failed = true;
#pragma omp for
        for (int i = 0; i < n_task; i++) {
            float *out = score + (int64_t)i * d->n_kv;
            int lo, hi;
            if (!p) continue;
            attn_visible(d, row[i / d->n_head], &lo, &hi);
            int n = score_query(p, q, k, d, row[i / d->n_head], i % d->n_head, lo, hi);
            float sum = logits ? 1 : exp_row(p, n, max_row(p, n, -INFINITY));
            for (int j = 0; j < d->n_kv; j++)
                out[j] = j >= lo && j < hi ? p[j - lo] / sum : logits ? -INFINITY : 0;
        }
        free(p);
    }
    if (failed) error_set(&be->err, SQ_E_NOMEM, "attn_rows: out of memory");
}

static void attn_rows_body(sq_backend *be, sq_tensor *score, const sq_tensor *q, const sq_tensor *k,
                           const int32_t *row, int n_row, bool logits, const attn_desc *d)
{
    for (int64_t s = 0; s < n_sequences(d); s++) {
        sq_tensor qs = tensor_rows(q, s * d->n_q, d->n_q);
        sq_tensor ks = tensor_rows(k, s * d->n_kv, d->n_kv);
        rows_sequence(be, (float *)score->data + s * n_row * d->n_head * d->n_kv, &qs, &ks, row,
                      n_row, logits, d);
    }
}

/* Softmax (or logits) of a block of queries of one head, whole rows, added to its column sums and
 * to the queries' row sums. */
static void means_block(attn_task *t, int head, int block, int n, int n_pad, int first, bool logits,
                        float *s, double *col, double *given)
{
    const attn_desc *d = t->d;
    int kv_head = head / (d->n_head / d->n_head_kv), hd = d->head_dim;
    int pad = (n + ATTN_MR - 1) / ATTN_MR * ATTN_MR;
    pack_queries(t, head, block, n);
    for (int j = 0; j < d->n_kv; j += ATTN_KB) {
        int keys = d->n_kv - j < ATTN_KB ? d->n_kv - j : ATTN_KB;
        pack_keys(t, kv_head, j, keys);
        attn_product(pad, ATTN_KB, hd, t->qs, hd, t->kt, ATTN_KB, s + j, n_pad, false);
    }
    for (int i = 0; i < n; i++) {
        float *p = s + (int64_t)i * n_pad, sum = 1;
        if (block + i < first) continue;
        for (int j = d->n_kv; j < n_pad; j++)
            p[j] = -INFINITY;
        if (!logits) sum = exp_row(p, n_pad, max_row(p, n_pad, -INFINITY));
        double total = 0;
        for (int j = first; j < d->n_kv; j++) {
            float x = p[j] / sum;
            col[j - first] += x;
            total += x;
        }
        given[block + i - first] += total;
    }
}

/* Blocks of queries in parallel; their column sums are added in block order, so that the result
 * does not depend on the number of threads. */
static void means_sequence(sq_backend *be, float *received, float *given, const sq_tensor *q,
                           const sq_tensor *k, int first, bool logits, const attn_desc *d)
{
    int n = d->n_kv, m = n - first, n_block = (n + ATTN_QB - 1) / ATTN_QB;
    int n_pad = (n + ATTN_KB - 1) / ATTN_KB * ATTN_KB;
    double *col = calloc((size_t)n_block * (size_t)m + 1, sizeof *col);
    double *row = calloc((size_t)m + 1, sizeof *row);
    bool failed = !col || !row;
#pragma omp parallel num_threads(be->n_threads) reduction(|| : failed)
    {
        attn_task t = {.d = d, .q = q, .k = k, .v = k};
        t.dim_pad = (d->head_dim + ATTN_NR - 1) / ATTN_NR * ATTN_NR;
        float *mem = task_open(&t);
        float *s = malloc((size_t)ATTN_QB * (size_t)n_pad * sizeof *s);
        if (!mem || !s) failed = true;
#pragma omp for
        for (int b = 0; b < n_block; b++) {
            int rows = n - b * ATTN_QB < ATTN_QB ? n - b * ATTN_QB : ATTN_QB;
            for (int h = 0; h < d->n_head && !failed; h++)
                means_block(&t, h, b * ATTN_QB, rows, n_pad, first, logits, s,
                            col + (int64_t)b * m, row);
        }
        free(s);
        free(mem);
    }
    for (int j = 0; j < m && !failed; j++) {
        double sum = 0;
        for (int b = 0; b < n_block; b++)
            sum += col[(int64_t)b * m + j];
        received[j] = (float)(sum / d->n_head / m);
        given[j] = (float)(row[j] / d->n_head / m);
    }
    free(col);
    free(row);
    if (failed) error_set(&be->err, SQ_E_NOMEM, "attn_means: out of memory");
}

static void attn_means_body(sq_backend *be, sq_tensor *received, sq_tensor *given,
                            const sq_tensor *q, const sq_tensor *k, int first, bool logits,
                            const attn_desc *d)
{
    int n = d->n_kv, m = n - first;
    for (int64_t s = 0; s < n_sequences(d); s++) {
        sq_tensor qs = tensor_rows(q, s * n, n), ks = tensor_rows(k, s * n, n);
        means_sequence(be, (float *)received->data + s * m, (float *)given->data + s * m, &qs, &ks,
                       first, logits, d);
    }
}
