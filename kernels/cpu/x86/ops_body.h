/* Norms, activations, RoPE and row moves on lv vectors, compiled once an instruction set. Each
 * function ends its rows with the same arithmetic on a padded vector, so no tail differs. */
#include "kernels/backend.h"
#include "kernels/cpu/x86/vec_act.h"

#include <math.h>

enum { WORK_MIN = 1 << 15 }; /* values below which threads cost more than they give */

static int threads_for(const sq_backend *be, int64_t work)
{
    return work < WORK_MIN ? 1 : be->n_threads;
}

/* The first n < LV values of p, zeros behind. */
LV_INLINE lv load_part(const float *p, int64_t n)
{
    float t[LV] = {0};
    memcpy(t, p, (size_t)n * sizeof *p);
    return lv_loadf(t);
}

LV_INLINE void store_part(float *p, lv v, int64_t n)
{
    float t[LV];
    lv_store(t, v);
    memcpy(p, t, (size_t)n * sizeof *p);
}

/* ---- norms ---- */

LV_INLINE float row_sum(const float *x, int64_t n)
{
    lv s = lv_zero();
    int64_t i = 0;
    for (; i + LV <= n; i += LV)
        s = lv_add(s, lv_loadf(x + i));
    if (i < n) s = lv_add(s, load_part(x + i, n - i));
    return lv_sum(s);
}

/* sum of (x - mean)^2 */
LV_INLINE float row_squares(const float *x, int64_t n, float mean)
{
    lv s = lv_zero(), m = lv_set1(mean);
    int64_t i = 0;
    for (; i + LV <= n; i += LV) {
        lv d = lv_sub(lv_loadf(x + i), m);
        s = lv_fma(d, d, s);
    }
    float sum = lv_sum(s);
    for (; i < n; i++)
        sum += (x[i] - mean) * (x[i] - mean);
    return sum;
}

/* Parameters as f32; NULL when memory is out. f32 ones are used in place unless a mapped file put
 * them at an odd address. */
static const float *param_f32(sq_backend *be, const sq_tensor *t, arena *mem)
{
    if (t->dtype == SQ_DTYPE_F32 && (size_t)t->data % _Alignof(float) == 0) return t->data;
    float *out = arena_alloc(mem, (size_t)t->shape[0] * sizeof *out);
    if (out)
        convert_to_f32(out, t->data, t->dtype, t->shape[0]);
    else
        error_set(&be->err, SQ_E_NOMEM, "norm: out of memory");
    return out;
}

static void layer_norm_body(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                            const sq_tensor *b, float eps)
{
    int64_t dim = x->shape[1], rows = x->shape[0];
    arena mem = {0};
    const float *wf = param_f32(be, w, &mem), *bf = param_f32(be, b, &mem);
#pragma omp parallel for num_threads(threads_for(be, rows * dim))
    for (int64_t r = 0; r < (wf && bf ? rows : 0); r++) {
        const float *from = (const float *)x->data + r * dim;
        float *to = (float *)y->data + r * dim;
        float mean = row_sum(from, dim) / (float)dim;
        float inv = 1.0f / sqrtf(row_squares(from, dim, mean) / (float)dim + eps);
        for (int64_t i = 0; i < dim; i++)
            to[i] = (from[i] - mean) * inv * wf[i] + bf[i];
    }
    arena_close(&mem);
}

static void rms_norm_body(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                          float eps)
{
    int64_t dim = x->shape[1], rows = x->shape[0];
    arena mem = {0};
    const float *wf = param_f32(be, w, &mem);
#pragma omp parallel for num_threads(threads_for(be, rows * dim))
    for (int64_t r = 0; r < (wf ? rows : 0); r++) {
        const float *from = (const float *)x->data + r * dim;
        float *to = (float *)y->data + r * dim;
        float inv = 1.0f / sqrtf(row_squares(from, dim, 0) / (float)dim + eps);
        for (int64_t i = 0; i < dim; i++)
            to[i] = from[i] * inv * wf[i];
    }
    arena_close(&mem);
}

/* ---- activations ---- */

LV_INLINE void activate_type(float *to, const float *from, int64_t n, sq_act act)
{
    int64_t i = 0;
    for (; i + LV <= n; i += LV)
        lv_store(to + i, lv_act(lv_loadf(from + i), act));
    if (i < n) store_part(to + i, lv_act(load_part(from + i, n - i), act), n - i);
}

static void activate_span(float *to, const float *from, int64_t n, sq_act act)
{
    switch (act) {
    case SQ_ACT_GELU: activate_type(to, from, n, SQ_ACT_GELU); break;
    case SQ_ACT_GELU_TANH: activate_type(to, from, n, SQ_ACT_GELU_TANH); break;
    case SQ_ACT_QUICK_GELU: activate_type(to, from, n, SQ_ACT_QUICK_GELU); break;
    default: activate_type(to, from, n, SQ_ACT_SILU); break;
    }
}

enum { SPAN = 4096 };

static void activate_body(sq_backend *be, sq_tensor *y, const sq_tensor *x, sq_act act)
{
    int64_t n = tensor_count(x);
    if (act == SQ_ACT_NONE) {
        memmove(y->data, x->data, (size_t)n * sizeof(float));
        return;
    }
#pragma omp parallel for num_threads(threads_for(be, n))
    for (int64_t i = 0; i < n; i += SPAN)
        activate_span((float *)y->data + i, (const float *)x->data + i, n - i < SPAN ? n - i : SPAN,
                      act);
}

static void silu_mul_body(sq_backend *be, sq_tensor *y, const sq_tensor *gate, const sq_tensor *up)
{
    int64_t n = tensor_count(gate);
    float *to = y->data;
    const float *g = gate->data, *u = up->data;
#pragma omp parallel for num_threads(threads_for(be, n))
    for (int64_t i = 0; i < n; i += LV) {
        if (i + LV <= n) {
            lv_store(to + i, lv_mul(lv_swish(lv_loadf(g + i), 1.0f), lv_loadf(u + i)));
            continue;
        }
        lv v = lv_mul(lv_swish(load_part(g + i, n - i), 1.0f), load_part(u + i, n - i));
        store_part(to + i, v, n - i);
    }
}

static void add_body(sq_backend *be, sq_tensor *y, const sq_tensor *x)
{
    int64_t n = tensor_count(y), period = tensor_count(x), dim = y->shape[y->rank - 1];
    float *to = y->data;
    const float *from = x->data;
    if (n == period) {
#pragma omp parallel for num_threads(threads_for(be, n))
        for (int64_t i = 0; i < n; i++)
            to[i] += from[i];
        return;
    }
#pragma omp parallel for num_threads(threads_for(be, n))
    for (int64_t r = 0; r < n; r += dim)
        for (int64_t i = 0; i < dim; i++)
            to[r + i] += from[r % period + i];
}

/* ---- rope ---- */

/* Cosine and sine of one position, shared by its heads. */
static void rope_row(float *v, int n_head, const rope_desc *d, const float *cosine,
                     const float *sine)
{
    int half = d->head_dim / 2;
    for (int h = 0; h < n_head; h++, v += d->head_dim)
        for (int c = 0; c < half; c++) {
            float *a = v + (d->interleaved ? 2 * c : c);
            float *b = v + (d->interleaved ? 2 * c + 1 : c + half);
            float x0 = *a, x1 = *b;
            *a = x0 * cosine[c] - x1 * sine[c];
            *b = x1 * cosine[c] + x0 * sine[c];
        }
}

static void rope_rows(sq_backend *be, sq_tensor *x, int n_head, const int32_t *pos,
                      const rope_desc *d)
{
    enum { HALF_MAX = 256 };
    int64_t rows = x->shape[0], dim = (int64_t)n_head * d->head_dim;
    int half = d->head_dim / 2;
    if (half > HALF_MAX) {
        error_set(&be->err, SQ_E_LIMIT, "rope: head_dim %d is over %d", d->head_dim, 2 * HALF_MAX);
        return;
    }
#pragma omp parallel for num_threads(threads_for(be, rows * dim))
    for (int64_t r = 0; r < rows; r++) {
        float cosine[HALF_MAX], sine[HALF_MAX];
        for (int c = 0; c < half; c++) {
            float angle = (float)pos[r] * d->inv_freq[c]; /* in f32, as transformers rounds it */
            cosine[c] = cosf(angle) * d->mscale;
            sine[c] = sinf(angle) * d->mscale;
        }
        rope_row((float *)x->data + r * dim, n_head, d, cosine, sine);
    }
}

/* f32 to bf16, nearest even, as f32_to_bf16 does it: NaN stays NaN. */
LV_INLINE __m128i to_bf16(__m256 x)
{
    __m256i u = _mm256_castps_si256(x), high = _mm256_srli_epi32(u, 16);
    __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    __m256i up = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    __m256i v = _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), quiet, nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}

static void cache_rows(sq_tensor *cache, const sq_tensor *x, int at)
{
    int64_t n = x->shape[0] * x->shape[1], i = 0;
    unsigned char *to =
        (unsigned char *)cache->data + (size_t)at * dtype_row_bytes(cache->dtype, cache->shape[1]);
    const float *from = x->data;
    if (cache->dtype == SQ_DTYPE_F16)
        for (; i + 8 <= n; i += 8)
            _mm_storeu_si128((__m128i *)(void *)(to + i * 2),
                             _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
    if (cache->dtype == SQ_DTYPE_BF16)
        for (; i + 8 <= n; i += 8)
            _mm_storeu_si128((__m128i *)(void *)(to + i * 2), to_bf16(_mm256_loadu_ps(from + i)));
    if (i < n)
        convert_from_f32(to + dtype_row_bytes(cache->dtype, i), cache->dtype, from + i, n - i);
}

static void rope_append_body(sq_backend *be, sq_tensor *q, sq_tensor *k, const sq_tensor *v,
                             sq_tensor *cache_k, sq_tensor *cache_v, int at, const sq_tensor *pos,
                             const rope_desc *d)
{
    const int32_t *p = pos->data;
    rope_rows(be, q, d->n_head, p + k->shape[0] - q->shape[0], d);
    rope_rows(be, k, d->n_head_kv, p, d);
    cache_rows(cache_k, k, at);
    cache_rows(cache_v, v, at);
}

/* ---- rows ---- */

LV_INLINE void to_f32_span(float *to, const unsigned char *from, sq_dtype t, int64_t n)
{
    size_t item = t == SQ_DTYPE_F32 ? 4 : 2;
    int64_t i = 0;
    for (; i + LV <= n; i += LV)
        lv_store(to + i, lv_load(from + (size_t)i * item, t));
    if (i < n) convert_to_f32(to + i, from + (size_t)i * item, t, n - i);
}

static void q8_0_span(float *to, const unsigned char *block, int64_t n)
{
    for (int64_t i = 0; i < n; i += Q8_0_BLOCK, block += sizeof(block_q8_0))
        for (int v = 0; v < Q8_0_BLOCK; v += LV)
            lv_store(to + i + v,
                     lv_mul(lv_set1(lv_scale(block)), lv_load(block + 2 + v, SQ_DTYPE_Q8_0)));
}

static void embed_body(sq_backend *be, sq_tensor *y, const sq_tensor *w, const sq_tensor *ids)
{
    int64_t dim = w->shape[1], n = ids->shape[0];
    const int32_t *id = ids->data;
    size_t row = dtype_row_bytes(w->dtype, dim);
#pragma omp parallel for num_threads(threads_for(be, n * dim))
    for (int64_t i = 0; i < n; i++) {
        const unsigned char *from = (const unsigned char *)w->data + (size_t)id[i] * row;
        float *to = (float *)y->data + i * dim;
        if (w->dtype == SQ_DTYPE_F16)
            to_f32_span(to, from, SQ_DTYPE_F16, dim);
        else if (w->dtype == SQ_DTYPE_BF16)
            to_f32_span(to, from, SQ_DTYPE_BF16, dim);
        else if (w->dtype == SQ_DTYPE_Q8_0)
            q8_0_span(to, from, dim);
        else
            convert_to_f32(to, from, w->dtype, dim);
    }
}

static void select_rows_body(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sparse_rows *m)
{
    int64_t dim = x->shape[1];
    const float *from = x->data;
#pragma omp parallel for num_threads(threads_for(be, m->n_out * dim))
    for (int r = 0; r < m->n_out; r++) {
        float *to = (float *)y->data + r * dim;
        int first = m->start[r], last = m->start[r + 1];
        if (last == first + 1 && m->weight[first] == 1.0f) { /* a kept token: a plain copy */
            memcpy(to, from + m->index[first] * dim, (size_t)dim * sizeof *to);
            continue;
        }
        memset(to, 0, (size_t)dim * sizeof *to);
        for (int e = first; e < last; e++)
            for (int64_t i = 0; i < dim; i++)
                to[i] += m->weight[e] * from[m->index[e] * dim + i];
    }
}
