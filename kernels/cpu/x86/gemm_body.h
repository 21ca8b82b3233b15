/* The blocked product's inner parts, compiled once an instruction set: the includer defines
 * GEMM_MR. A tile is GEMM_MR rows of x by two vectors of weight rows, all sums in registers. */
#include "kernels/cpu/linear.h"
#include "kernels/cpu/x86/linear_vec.h"
#include "kernels/cpu/x86/vec_act.h"

enum { GEMM_NR = 2 * LV };

typedef void (*gemm_tile_fn)(int kc, const float *a, const float *b, float *c, int64_t ldc,
                             const float *bias, bool load_c);

LV_INLINE void gemm_tile(int m, int kc, const float *a, const float *b, float *c, int64_t ldc,
                         const float *bias, bool load_c)
{
    lv s[GEMM_MR][2];
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        s[i][0] = s[i][1] = lv_zero();
        _mm_prefetch((const char *)(c + i * ldc), _MM_HINT_T0);
    }
    for (int k = 0; k < kc; k++, a += GEMM_MR, b += GEMM_NR) {
        lv b0 = lv_loadf(b), b1 = lv_loadf(b + LV);
        /* The panels of x stream by; the hardware's own prefetch stops at every page. */
        _mm_prefetch((const char *)(a + 128 * GEMM_MR), _MM_HINT_T0);
#pragma GCC unroll 16
        for (int i = 0; i < m; i++) {
            lv v = lv_set1(a[i]);
            s[i][0] = lv_fma(v, b0, s[i][0]);
            s[i][1] = lv_fma(v, b1, s[i][1]);
        }
    }
    lv bias0 = bias ? lv_loadf(bias) : lv_zero(), bias1 = bias ? lv_loadf(bias + LV) : lv_zero();
#pragma GCC unroll 16
    for (int i = 0; i < m; i++, c += ldc) {
        if (bias) s[i][0] = lv_add(s[i][0], bias0), s[i][1] = lv_add(s[i][1], bias1);
        if (load_c) {
            s[i][0] = lv_add(s[i][0], lv_loadf(c));
            s[i][1] = lv_add(s[i][1], lv_loadf(c + LV));
        }
        lv_store(c, s[i][0]);
        lv_store(c + LV, s[i][1]);
    }
}

#define GEMM_TILE(m)                                                                               \
    static void gemm_tile_##m(int kc, const float *a, const float *b, float *c, int64_t ldc,       \
                              const float *bias, bool load_c)                                      \
    {                                                                                              \
        gemm_tile(m, kc, a, b, c, ldc, bias, load_c);                                              \
    }
GEMM_TILE(1)
GEMM_TILE(2)
GEMM_TILE(3)
GEMM_TILE(4)
GEMM_TILE(5)
GEMM_TILE(6)
#if GEMM_MR == 12
GEMM_TILE(7)
GEMM_TILE(8)
GEMM_TILE(9)
GEMM_TILE(10)
GEMM_TILE(11)
GEMM_TILE(12)
#endif

static const gemm_tile_fn gemm_tiles[GEMM_MR + 1] = {
    NULL, gemm_tile_1, gemm_tile_2, gemm_tile_3, gemm_tile_4, gemm_tile_5, gemm_tile_6,
#if GEMM_MR == 12
    gemm_tile_7, gemm_tile_8, gemm_tile_9, gemm_tile_10, gemm_tile_11, gemm_tile_12,
#endif
};

/* The last columns, fewer than a tile: through a tile-sized copy of y and bias. */
static void gemm_edge(const gemm_block *g, int m, int col, const float *a, const float *b, float *c)
{
    float tile[GEMM_MR * GEMM_NR] = {0}, bias[GEMM_NR] = {0};
    size_t bytes = (size_t)(g->cols - col) * sizeof *c;
    if (g->b) memcpy(bias, g->b + col, bytes);
    for (int i = 0; g->load_y && i < m; i++)
        memcpy(tile + i * GEMM_NR, c + i * g->ldy, bytes);
    gemm_tiles[m](g->kc, a, b, tile, GEMM_NR, g->b ? bias : NULL, g->load_y);
    for (int i = 0; i < m; i++)
        memcpy(c + i * g->ldy, tile + i * GEMM_NR, bytes);
}

LV_INLINE void gemm_prefetch(const gemm_block *g, int line, int end)
{
    for (; line < end; line++) {
        const unsigned char *row = g->next + (size_t)(line / g->next_row_lines) * g->next_stride;
        _mm_prefetch((const char *)row + line % g->next_row_lines * 64, _MM_HINT_T1);
    }
}

static void gemm_block_run(const gemm_block *g)
{
    int tiles = (g->cols + GEMM_NR - 1) / GEMM_NR * ((g->rows + GEMM_MR - 1) / GEMM_MR);
    int per_tile = g->next ? (g->next_end - g->next_line + tiles - 1) / tiles : 0;
    int line = g->next_line;
    for (int col = 0; col < g->cols; col += GEMM_NR) {
        const float *b = g->wp + (int64_t)col * g->kc, *a = g->xp;
        for (int row = 0; row < g->rows; row += GEMM_MR, a += g->panel_stride) {
            int m = g->rows - row < GEMM_MR ? g->rows - row : GEMM_MR;
            float *c = g->y + row * g->ldy + col;
            if (per_tile) {
                int end = line + per_tile < g->next_end ? line + per_tile : g->next_end;
                gemm_prefetch(g, line, end);
                line = end;
            }
            if (g->cols - col < GEMM_NR)
                gemm_edge(g, m, col, a, b, c);
            else
                gemm_tiles[m](g->kc, a, b, c, g->ldy, g->b ? g->b + col : NULL, g->load_y);
        }
    }
}

/* Fewer than 8 rows: the last one stands in, and its results are never used. */
LV_INLINE void pack8_rows(const unsigned char *row[8], const unsigned char *first, size_t stride,
                          int count)
{
    for (int i = 0; i < 8; i++)
        row[i] = first + (size_t)(i < count ? i : count - 1) * stride;
}

/* d[8 steps][nr] = the 8 values of each of 8 rows, scaled by row for Q8_0. */
LV_INLINE void pack8_step(float *d, const unsigned char *const row[8], size_t at, sq_dtype t,
                          __m256 scale)
{
    __m256 v[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        v[i] = l8_load(row[i] + at, t);
    l8_transpose(v);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        _mm256_storeu_ps(d + i * GEMM_NR, t == SQ_DTYPE_Q8_0 ? _mm256_mul_ps(v[i], scale) : v[i]);
}

LV_INLINE void pack8_w(float *d, const unsigned char *const row[8], sq_dtype t, int kc)
{
    int k = 0;
    for (; t == SQ_DTYPE_Q8_0 && k < kc; k += Q8_0_BLOCK) {
        size_t at = lv_bytes(t, k);
        uint16_t half[8];
        for (int i = 0; i < 8; i++)
            memcpy(half + i, row[i] + at, sizeof *half);
        __m256 scale = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)half));
        for (int i = 0; i < Q8_0_BLOCK; i += 8)
            pack8_step(d + (k + i) * GEMM_NR, row, at + sizeof *half + (size_t)i, t, scale);
    }
    for (; t != SQ_DTYPE_Q8_0 && k + 8 <= kc; k += 8)
        pack8_step(d + k * GEMM_NR, row, lv_bytes(t, k), t, _mm256_setzero_ps());
    for (; t != SQ_DTYPE_Q8_0 && k < kc; k++)
        for (int i = 0; i < 8; i++)
            d[k * GEMM_NR + i] = lv_scalar(row[i] + lv_bytes(t, k), t);
}

LV_INLINE void pack_w_type(float *dst, const linear_job *j, sq_dtype t, int64_t r, int count,
                           int64_t k0, int kc)
{
    for (int part = 0; part < GEMM_NR; part += 8) {
        const unsigned char *row[8];
        int first = part < count ? part : count - 1;
        pack8_rows(row, j->w + (size_t)(r + first) * j->row_bytes + lv_bytes(t, k0), j->row_bytes,
                   count - first);
        pack8_w(dst + part, row, t, kc);
    }
}

static void gemm_pack_w(float *dst, const linear_job *j, int64_t r, int count, int64_t k0, int kc)
{
    switch (j->w_type) {
    case SQ_DTYPE_F16: pack_w_type(dst, j, SQ_DTYPE_F16, r, count, k0, kc); break;
    case SQ_DTYPE_BF16: pack_w_type(dst, j, SQ_DTYPE_BF16, r, count, k0, kc); break;
    case SQ_DTYPE_Q8_0: pack_w_type(dst, j, SQ_DTYPE_Q8_0, r, count, k0, kc); break;
    default: pack_w_type(dst, j, SQ_DTYPE_F32, r, count, k0, kc); break;
    }
}

static void gemm_pack_x(float *dst, const float *x, int64_t ldx, int count, int kc)
{
    for (int part = 0; part < count; part += 8) {
        const unsigned char *row[8];
        int lanes = GEMM_MR - part < 8 ? GEMM_MR - part : 8;
        pack8_rows(row, (const unsigned char *)(x + part * ldx), (size_t)ldx * sizeof *x,
                   count - part);
        float *d = dst + part;
        int k = 0;
        for (; k + 8 <= kc; k += 8) {
            __m256 v[8];
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++)
                v[i] = l8_load(row[i] + (size_t)k * sizeof *x, SQ_DTYPE_F32);
            l8_transpose(v);
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) {
                float *at = d + (k + i) * GEMM_MR;
                _mm_storeu_ps(at, _mm256_castps256_ps128(v[i]));
                __m128 high = _mm256_extractf128_ps(v[i], 1);
                if (lanes == 8) _mm_storeu_ps(at + 4, high);
                if (lanes == 6) _mm_storel_pi((__m64 *)(at + 4), high);
            }
        }
        for (; k < kc; k++)
            for (int i = 0; i < lanes; i++)
                d[k * GEMM_MR + i] = lv_scalar(row[i] + (size_t)k * sizeof *x, SQ_DTYPE_F32);
    }
}

LV_INLINE void to_f32_type(float *dst, const unsigned char *src, sq_dtype t, int64_t n)
{
    int64_t k = 0;
    for (; t == SQ_DTYPE_Q8_0 && k < n; k += Q8_0_BLOCK, src += sizeof(block_q8_0)) {
        __m256 scale = _mm256_set1_ps(lv_scale(src));
        for (int i = 0; i < Q8_0_BLOCK; i += 8)
            _mm256_storeu_ps(dst + k + i, _mm256_mul_ps(scale, l8_load(src + 2 + i, t)));
    }
    for (; t != SQ_DTYPE_Q8_0 && k + 8 <= n; k += 8)
        _mm256_storeu_ps(dst + k, l8_load(src + lv_bytes(t, k), t));
    for (; t != SQ_DTYPE_Q8_0 && k < n; k++)
        dst[k] = lv_scalar(src + lv_bytes(t, k), t);
}

static void gemm_to_f32(float *dst, const void *src, sq_dtype t, int64_t n)
{
    switch (t) {
    case SQ_DTYPE_F16: to_f32_type(dst, src, SQ_DTYPE_F16, n); break;
    case SQ_DTYPE_BF16: to_f32_type(dst, src, SQ_DTYPE_BF16, n); break;
    case SQ_DTYPE_Q8_0: to_f32_type(dst, src, SQ_DTYPE_Q8_0, n); break;
    default: to_f32_type(dst, src, SQ_DTYPE_F32, n); break;
    }
}

LV_INLINE void act_type(float *y, int64_t n, sq_act act)
{
    int64_t i = 0;
    for (; i + LV <= n; i += LV)
        lv_store(y + i, lv_act(lv_loadf(y + i), act));
    if (i == n) return;
    float rest[LV] = {0};
    memcpy(rest, y + i, (size_t)(n - i) * sizeof *y);
    lv_store(rest, lv_act(lv_loadf(rest), act));
    memcpy(y + i, rest, (size_t)(n - i) * sizeof *y);
}

static void gemm_act(float *y, int64_t n, sq_act act)
{
    switch (act) {
    case SQ_ACT_GELU: act_type(y, n, SQ_ACT_GELU); break;
    case SQ_ACT_GELU_TANH: act_type(y, n, SQ_ACT_GELU_TANH); break;
    case SQ_ACT_QUICK_GELU: act_type(y, n, SQ_ACT_QUICK_GELU); break;
    case SQ_ACT_SILU: act_type(y, n, SQ_ACT_SILU); break;
    default: break;
    }
}
