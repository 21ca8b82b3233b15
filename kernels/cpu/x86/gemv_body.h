/* Row kernels: a few weight rows against up to four rows of x, both read along the inner
 * dimension as they are stored; weights become f32 in registers. */
#include "kernels/cpu/linear.h"
#include "kernels/cpu/x86/linear_vec.h"

enum {
    GEMV_X = 4, /* rows of x that share one pass over the weights */
    GEMV_W = 4, /* weight rows read side by side; also how far ahead they are prefetched, because
                 * rows of 2 KiB are too short for the hardware's own prefetch */
    GEMV_AHEAD = 2048 /* bytes prefetched ahead of one stream */
};

/* sum[r][i] = weight row r . x row i, over all of in. */
LV_INLINE void gemv_dot(lv s[GEMV_W][GEMV_X], const linear_job *j, sq_dtype t, int nr, int nx,
                        const unsigned char *w, const float *x)
{
#pragma GCC unroll 4
    for (int r = 0; r < nr; r++)
#pragma GCC unroll 4
        for (int i = 0; i < nx; i++)
            s[r][i] = lv_zero();
    int64_t k = 0;
    if (t == SQ_DTYPE_Q8_0) {
        for (; k < j->in; k += Q8_0_BLOCK, w += sizeof(block_q8_0)) {
#pragma GCC unroll 4
            for (int r = 0; r < nr; r++) {
                const unsigned char *block = w + (size_t)r * j->row_bytes;
                lv d = lv_set1(lv_scale(block)), part[GEMV_X];
                _mm_prefetch((const char *)block + GEMV_W * j->row_bytes, _MM_HINT_T0);
#pragma GCC unroll 4
                for (int v = 0; v < Q8_0_BLOCK; v += LV) {
                    lv q = lv_load(block + 2 + v, t);
#pragma GCC unroll 4
                    for (int i = 0; i < nx; i++) {
                        lv xv = lv_loadf(x + i * j->in + k + v);
                        part[i] = v ? lv_fma(q, xv, part[i]) : lv_mul(q, xv);
                    }
                }
#pragma GCC unroll 4
                for (int i = 0; i < nx; i++)
                    s[r][i] = lv_fma(d, part[i], s[r][i]);
            }
        }
        return;
    }
    for (; k + LV <= j->in; k += LV) {
        lv xv[GEMV_X];
#pragma GCC unroll 4
        for (int i = 0; i < nx; i++)
            xv[i] = lv_loadf(x + i * j->in + k);
#pragma GCC unroll 4
        for (int r = 0; r < nr; r++) {
            const unsigned char *at = w + (size_t)r * j->row_bytes + lv_bytes(t, k);
            lv wv = lv_load(at, t);
            _mm_prefetch((const char *)at + GEMV_W * j->row_bytes, _MM_HINT_T0);
#pragma GCC unroll 4
            for (int i = 0; i < nx; i++)
                s[r][i] = lv_fma(wv, xv[i], s[r][i]);
        }
    }
}

LV_INLINE float gemv_tail(const linear_job *j, sq_dtype t, const unsigned char *w, const float *x)
{
    float sum = 0;
    for (int64_t k = j->in / LV * LV; t != SQ_DTYPE_Q8_0 && k < j->in; k++)
        sum += lv_scalar(w + lv_bytes(t, k), t) * x[k];
    return sum;
}

/* nr output columns from c of the nx rows from `row`. */
LV_INLINE void gemv_tile(const linear_job *j, sq_dtype t, int nr, int nx, int64_t c, int64_t row)
{
    lv s[GEMV_W][GEMV_X];
    const unsigned char *w = j->w + (size_t)c * j->row_bytes;
    const float *x = j->x + row * j->in;
    gemv_dot(s, j, t, nr, nx, w, x);
#pragma GCC unroll 4
    for (int r = 0; r < nr; r++)
#pragma GCC unroll 4
        for (int i = 0; i < nx; i++) {
            float sum = lv_sum(s[r][i]);
            sum += gemv_tail(j, t, w + (size_t)r * j->row_bytes, x + i * j->in);
            if (j->b) sum += j->b[c + r];
            float *y = j->y + (row + i) * j->out + c + r;
            *y = j->add ? *y + sum : sum;
        }
}

/* nr columns in tiles whose sums fit the registers. */
LV_INLINE void gemv_tiles(const linear_job *j, sq_dtype t, int nr, int nx, int64_t c, int64_t row)
{
    int limit = LV == 16 ? 4 : nx == 4 || (nx == 3 && t == SQ_DTYPE_Q8_0) ? 2 : 4;
    if (nr <= limit) {
        gemv_tile(j, t, nr, nx, c, row);
    } else {
        gemv_tile(j, t, 2, nx, c, row);
        gemv_tile(j, t, 2, nx, c + 2, row);
    }
}

LV_INLINE void gemv_columns(const linear_job *j, sq_dtype t, int nr, int64_t c)
{
    /* Rows of x in groups of nearly equal size; the weights stay in cache from group to group. */
    int64_t groups = (j->n + GEMV_X - 1) / GEMV_X;
    for (int64_t g = 0, row = 0; g < groups; g++) {
        int64_t end = (g + 1) * j->n / groups;
        switch (end - row) {
        case 1: gemv_tiles(j, t, nr, 1, c, row); break;
        case 2: gemv_tiles(j, t, nr, 2, c, row); break;
        case 3: gemv_tiles(j, t, nr, 3, c, row); break;
        default: gemv_tiles(j, t, nr, 4, c, row); break;
        }
        row = end;
    }
}

/* One Q8_0 weight row . one row of x. A decode step reads every weight once: blocks in memory
 * order take 29 GB/s here where four rows side by side took 23 (2048x2048, two threads). */
LV_INLINE float gemv_q8_0(const linear_job *j, const unsigned char *w)
{
    lv sum = lv_zero();
    for (int64_t k = 0; k < j->in; k += Q8_0_BLOCK, w += sizeof(block_q8_0)) {
        lv part = lv_zero();
        _mm_prefetch((const char *)w + GEMV_AHEAD, _MM_HINT_T0);
#pragma GCC unroll 4
        for (int v = 0; v < Q8_0_BLOCK; v += LV) {
            lv xv = lv_loadf(j->x + k + v), q = lv_load(w + 2 + v, SQ_DTYPE_Q8_0);
            part = v ? lv_fma(q, xv, part) : lv_mul(q, xv);
        }
        sum = lv_fma(lv_set1(lv_scale(w)), part, sum);
    }
    return lv_sum(sum);
}

/* The same for F16: 27 GB/s where four rows side by side took 25 (BF16 loses by it). */
LV_INLINE float gemv_f16(const linear_job *j, const unsigned char *w)
{
    lv s[4] = {lv_zero(), lv_zero(), lv_zero(), lv_zero()};
    int64_t k = 0;
    for (; k + 4 * LV <= j->in; k += 4 * LV) {
        const unsigned char *at = w + 2 * k;
        _mm_prefetch((const char *)at + GEMV_AHEAD, _MM_HINT_T0);
        if (LV == 16) _mm_prefetch((const char *)at + GEMV_AHEAD + 64, _MM_HINT_T0);
        s[0] = lv_fma(lv_load(at, SQ_DTYPE_F16), lv_loadf(j->x + k), s[0]);
        s[1] = lv_fma(lv_load(at + 2 * LV, SQ_DTYPE_F16), lv_loadf(j->x + k + LV), s[1]);
        s[2] = lv_fma(lv_load(at + 4 * LV, SQ_DTYPE_F16), lv_loadf(j->x + k + 2 * LV), s[2]);
        s[3] = lv_fma(lv_load(at + 6 * LV, SQ_DTYPE_F16), lv_loadf(j->x + k + 3 * LV), s[3]);
    }
    for (; k + LV <= j->in; k += LV)
        s[0] = lv_fma(lv_load(w + 2 * k, SQ_DTYPE_F16), lv_loadf(j->x + k), s[0]);
    return lv_sum(lv_add(lv_add(s[0], s[1]), lv_add(s[2], s[3]))) +
           gemv_tail(j, SQ_DTYPE_F16, w, j->x);
}

LV_INLINE void gemv_type(const linear_job *j, sq_dtype t, int64_t first, int64_t last)
{
    int64_t c = first;
    for (; (t == SQ_DTYPE_Q8_0 || t == SQ_DTYPE_F16) && j->n == 1 && c < last; c++) {
        const unsigned char *w = j->w + (size_t)c * j->row_bytes;
        float sum = t == SQ_DTYPE_Q8_0 ? gemv_q8_0(j, w) : gemv_f16(j, w);
        if (j->b) sum += j->b[c];
        j->y[c] = j->add ? j->y[c] + sum : sum;
    }
    for (; c + GEMV_W <= last; c += GEMV_W)
        gemv_columns(j, t, GEMV_W, c);
    for (; c < last; c++)
        gemv_columns(j, t, 1, c);
}

static void gemv_rows(const linear_job *j, int64_t first, int64_t last)
{
    switch (j->w_type) {
    case SQ_DTYPE_F16: gemv_type(j, SQ_DTYPE_F16, first, last); break;
    case SQ_DTYPE_BF16: gemv_type(j, SQ_DTYPE_BF16, first, last); break;
    case SQ_DTYPE_Q8_0: gemv_type(j, SQ_DTYPE_Q8_0, first, last); break;
    default: gemv_type(j, SQ_DTYPE_F32, first, last); break;
    }
}
