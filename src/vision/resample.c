#include "vision/preprocess.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* Pillow's fixed point: 8 bits of result, 2 of headroom, the rest for the weights. */
enum { WEIGHT_BITS = 32 - 8 - 2, MAX_SIDE = 1 << 24 };
static const int32_t half = 1 << (WEIGHT_BITS - 1);

/* One output position of one axis: weights over picture positions [first, first + n), and the sum
 * of the weights that fall on the canvas outside the picture. */
typedef struct axis_tap {
    int first, n;
    int32_t outside;
    size_t weight; /* index of the first weight */
} axis_tap;

typedef struct resample_axis {
    axis_tap *tap; /* [n] */
    int32_t *weight;
    int n;
} resample_axis;

static double filter_bicubic(double x)
{
    const double a = -0.5;
    if (x < 0) x = -x;
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
    return 0;
}

static double filter_bilinear(double x)
{
    if (x < 0) x = -x;
    return x < 1 ? 1 - x : 0;
}

static void axis_free(resample_axis *a)
{
    free(a->tap);
    free(a->weight);
    *a = (resample_axis){0};
}

/* The axis of length canvas, with the picture at [pic, pic + size), resized to out positions of
 * which [win, win + n) are wanted. The order of the double operations is Pillow's. */
static int axis_build(resample_axis *a, int canvas, int pic, int size, int64_t out, int64_t win,
                      int n, resample_filter filter, sq_error *err)
{
    double (*weigh)(double) = filter == RESAMPLE_BICUBIC ? filter_bicubic : filter_bilinear;
    double scale = (double)canvas / (double)out, stretch = scale < 1 ? 1 : scale;
    double support = (filter == RESAMPLE_BICUBIC ? 2.0 : 1.0) * stretch, inverse = 1.0 / stretch;
    size_t max_taps = (size_t)ceil(support) * 2 + 1;
    *a = (resample_axis){.n = n};
    a->tap = calloc((size_t)n, sizeof *a->tap);
    /* The taps of one output overlap its neighbours', so this is a small multiple of the canvas. */
    a->weight = malloc((size_t)n * max_taps * sizeof *a->weight);
    double *real = malloc(max_taps * sizeof *real);
    if (!a->tap || !a->weight || !real) {
        free(real);
        axis_free(a);
        return error_set(err, SQ_E_NOMEM, "out of memory for resize weights");
    }
    size_t used = 0;
    for (int i = 0; i < n; i++) {
        double centre = ((double)(win + i) + 0.5) * scale, sum = 0;
        int lo = (int)(centre - support + 0.5), hi = (int)(centre + support + 0.5);
        if (lo < 0) lo = 0;
        if (hi > canvas) hi = canvas;
        for (int k = lo; k < hi; k++) sum += real[k - lo] = weigh((k - centre + 0.5) * inverse);
        axis_tap *t = &a->tap[i];
        t->weight = used;
        t->first = lo < pic ? 0 : lo > pic + size ? size : lo - pic;
        for (int k = lo; k < hi; k++) {
            double w = sum != 0 ? real[k - lo] / sum : real[k - lo];
            int32_t fixed = (int32_t)((w < 0 ? -0.5 : 0.5) + w * (1 << WEIGHT_BITS));
            if (k < pic || k >= pic + size)
                t->outside += fixed;
            else
                a->weight[used++] = fixed;
        }
        t->n = (int)(used - t->weight);
    }
    free(real);
    return SQ_OK;
}

static uint8_t clip8(int32_t fixed)
{
    int32_t v = fixed >> WEIGHT_BITS;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* The horizontal pass, which is nearly all of the work: dot products of 16-bit numbers, which
 * every CPU has a fast instruction for. A weight is hi * 2^SPLIT + lo; both sums stay below the
 * sum of the weights' sizes times 255, so nothing overflows that Pillow's int does not. */
enum { SPLIT = 14, LANES = 8 };

typedef struct row_pass {
    const resample_axis *axis;
    size_t *start;      /* [n + 1] of an output's weights; padded with zeros to whole LANES */
    int32_t *base;      /* [n, 3]: rounding, and what the canvas outside the picture adds */
    int16_t *hi, *lo;   /* [start[n]] */
    int16_t *plane;     /* [3, stride]: the needed part of the current row */
    size_t stride;
    int first, last;    /* that part */
} row_pass;

static size_t whole_lanes(int n)
{
    return ((size_t)n + LANES - 1) / LANES * LANES;
}

static void pass_free(row_pass *p)
{
    free(p->start);
    free(p->base);
    free(p->hi);
    free(p->lo);
    free(p->plane);
    *p = (row_pass){0};
}

static int pass_build(row_pass *p, const resample_axis *a, const uint8_t *fill, sq_error *err)
{
    const axis_tap *end = &a->tap[a->n - 1];
    *p = (row_pass){.axis = a, .first = a->tap[0].first, .last = end->first + end->n};
    p->stride = whole_lanes(p->last - p->first) + LANES;
    size_t total = 0;
    for (int x = 0; x < a->n; x++) total += whole_lanes(a->tap[x].n);
    p->start = malloc(((size_t)a->n + 1) * sizeof *p->start);
    p->base = malloc((size_t)a->n * 3 * sizeof *p->base);
    p->hi = calloc(total + 1, sizeof *p->hi);
    p->lo = calloc(total + 1, sizeof *p->lo);
    p->plane = calloc(p->stride, 3 * sizeof *p->plane);
    if (!p->start || !p->base || !p->hi || !p->lo || !p->plane) {
        pass_free(p);
        return error_set(err, SQ_E_NOMEM, "out of memory for resize weights");
    }
    size_t at = 0;
    for (int x = 0; x < a->n; x++) {
        const axis_tap *t = &a->tap[x];
        p->start[x] = at;
        for (int c = 0; c < 3; c++) p->base[x * 3 + c] = half + t->outside * fill[c];
        for (int k = 0; k < t->n; k++) {
            int32_t w = a->weight[t->weight + (size_t)k];
            int32_t hi = (w + (1 << (SPLIT - 1))) >> SPLIT;
            p->hi[at + (size_t)k] = (int16_t)hi;
            p->lo[at + (size_t)k] = (int16_t)(w - hi * (1 << SPLIT));
        }
        at += whole_lanes(t->n);
    }
    p->start[a->n] = at;
    return SQ_OK;
}

/* sum[2c] and sum[2c + 1]: plane c times hi and times lo. */
#ifdef __SSE2__
static inline __m128i lane_sums(__m128i a, __m128i b, __m128i c, __m128i d)
{
    __m128i ab = _mm_add_epi32(_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b));
    __m128i cd = _mm_add_epi32(_mm_unpacklo_epi32(c, d), _mm_unpackhi_epi32(c, d));
    return _mm_add_epi32(_mm_unpacklo_epi64(ab, cd), _mm_unpackhi_epi64(ab, cd));
}

static inline __m128i load8(const int16_t *p)
{
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}

static inline void dot_planes(int32_t sum[8], const int16_t *hi, const int16_t *lo,
                              const int16_t *plane, size_t stride, size_t n)
{
    __m128i zero = _mm_setzero_si128(), rh = zero, rl = zero, gh = zero, gl = zero, bh = zero,
            bl = zero;
    for (size_t k = 0; k < n; k += LANES, plane += LANES) {
        __m128i h = load8(hi + k), l = load8(lo + k);
        __m128i r = load8(plane), g = load8(plane + stride), b = load8(plane + 2 * stride);
        rh = _mm_add_epi32(rh, _mm_madd_epi16(r, h));
        rl = _mm_add_epi32(rl, _mm_madd_epi16(r, l));
        gh = _mm_add_epi32(gh, _mm_madd_epi16(g, h));
        gl = _mm_add_epi32(gl, _mm_madd_epi16(g, l));
        bh = _mm_add_epi32(bh, _mm_madd_epi16(b, h));
        bl = _mm_add_epi32(bl, _mm_madd_epi16(b, l));
    }
    _mm_storeu_si128((__m128i *)(void *)sum, lane_sums(rh, rl, gh, gl));
    _mm_storeu_si128((__m128i *)(void *)(sum + 4), lane_sums(bh, bl, zero, zero));
}

static inline void store16(int16_t *p, __m128i bytes)
{
    __m128i zero = _mm_setzero_si128();
    _mm_storeu_si128((__m128i *)(void *)p, _mm_unpacklo_epi8(bytes, zero));
    _mm_storeu_si128((__m128i *)(void *)(p + 8), _mm_unpackhi_epi8(bytes, zero));
}

/* Sixteen pixels: four perfect shuffles of their 48 bytes part the channels. */
static inline void split16(int16_t *r, int16_t *g, int16_t *b, const uint8_t *s)
{
    __m128i v[3];
    for (int i = 0; i < 3; i++) v[i] = _mm_loadu_si128((const __m128i *)(const void *)(s + 16 * i));
    for (int round = 0; round < 4; round++) {
        __m128i a = _mm_unpacklo_epi8(v[0], _mm_unpackhi_epi64(v[1], v[1]));
        __m128i c = _mm_unpacklo_epi8(_mm_unpackhi_epi64(v[0], v[0]), v[2]);
        v[2] = _mm_unpacklo_epi8(v[1], _mm_unpackhi_epi64(v[2], v[2]));
        v[0] = a;
        v[1] = c;
    }
    store16(r, v[0]);
    store16(g, v[1]);
    store16(b, v[2]);
}
#else
static inline void dot_planes(int32_t sum[8], const int16_t *hi, const int16_t *lo,
                              const int16_t *plane, size_t stride, size_t n)
{
    for (int c = 0; c < 3; c++, plane += stride) {
        int32_t h = 0, l = 0;
        for (size_t k = 0; k < n; k++) {
            h += hi[k] * plane[k];
            l += lo[k] * plane[k];
        }
        sum[2 * c] = h;
        sum[2 * c + 1] = l;
    }
}
#endif

static void pass_split_row(row_pass *p, const uint8_t *row)
{
    int16_t *r = p->plane, *g = r + p->stride, *b = g + p->stride;
    const uint8_t *s = row + (size_t)p->first * 3;
    int i = 0, n = p->last - p->first;
#ifdef __SSE2__
    for (; i + 16 <= n; i += 16) split16(r + i, g + i, b + i, s + 3 * i);
#endif
    for (; i < n; i++) {
        r[i] = s[3 * i];
        g[i] = s[3 * i + 1];
        b[i] = s[3 * i + 2];
    }
}

static void pass_row(row_pass *p, uint8_t *out, const uint8_t *row)
{
    pass_split_row(p, row);
    for (int x = 0; x < p->axis->n; x++, out += 3) {
        size_t at = p->start[x];
        int32_t sum[8];
        dot_planes(sum, p->hi + at, p->lo + at, p->plane + (p->axis->tap[x].first - p->first),
                   p->stride, p->start[x + 1] - at);
        const int32_t *base = p->base + x * 3;
        for (int c = 0; c < 3; c++)
            out[c] = clip8((int32_t)((uint32_t)base[c] + ((uint32_t)sum[2 * c] << SPLIT) +
                                     (uint32_t)sum[2 * c + 1]));
    }
}

/* How many output rows are open at once while the source rows go by. */
static int axis_overlap(const resample_axis *a)
{
    int most = 1;
    for (int i = 0, j = 0; i < a->n; i++) {
        int r = a->tap[i].first;
        while (a->tap[j].first < r && a->tap[j].first + a->tap[j].n <= r) j++;
        if (i - j + 1 > most) most = i - j + 1;
    }
    return most;
}

typedef struct row_ring {
    int32_t *sum; /* [rows, width] */
    uint8_t *row, *outside; /* [width]: the current row; a row of nothing but canvas */
    size_t width;
    int rows;
} row_ring;

static void ring_open(row_ring *ring, int y, const axis_tap *t)
{
    int32_t *sum = ring->sum + (size_t)(y % ring->rows) * ring->width;
    for (size_t i = 0; i < ring->width; i++) sum[i] = half + t->outside * ring->outside[i];
}

static void ring_add(row_ring *ring, int y, int32_t weight)
{
    int32_t *restrict sum = ring->sum + (size_t)(y % ring->rows) * ring->width;
    const uint8_t *restrict row = ring->row;
#pragma omp simd
    for (size_t i = 0; i < ring->width; i++) sum[i] += weight * row[i];
}

static void ring_flush(row_ring *ring, int y, uint8_t *out)
{
    const int32_t *sum = ring->sum + (size_t)(y % ring->rows) * ring->width;
    for (size_t i = 0; i < ring->width; i++) out[i] = clip8(sum[i]);
}

/* Both passes in one sweep over the source rows: each row goes through the horizontal pass once
 * and is added to the output rows that it belongs to. */
static void resample_sweep(sq_image *dst, const sq_image *src, row_pass *across,
                           const resample_axis *ay, row_ring *ring)
{
    size_t stride = (size_t)src->width * 3;
    const axis_tap *ty = ay->tap;
    int open = 0, done = 0;
    for (int r = ty[0].first; done < ay->n; r++) {
        for (; open < ay->n && (ty[open].first <= r || r >= src->height); open++) {
            ring_open(ring, open, &ty[open]);
            if (r >= src->height) ring_flush(ring, open, dst->rgb + (size_t)open * ring->width);
        }
        if (r >= src->height) return;
        if (open > done && ty[open - 1].first + ty[open - 1].n > r)
            pass_row(across, ring->row, src->rgb + (size_t)r * stride);
        for (int y = done; y < open; y++)
            if (r >= ty[y].first && r < ty[y].first + ty[y].n)
                ring_add(ring, y, ay->weight[ty[y].weight + (size_t)(r - ty[y].first)]);
        for (; done < open && ty[done].first + ty[done].n <= r + 1; done++)
            ring_flush(ring, done, dst->rgb + (size_t)done * ring->width);
    }
}

int resample_window(sq_image *dst, const sq_image *src, const resample_plan *plan,
                    resample_filter filter, sq_error *err)
{
    *dst = (sq_image){0};
    if (plan->canvas_w > MAX_SIDE || plan->canvas_h > MAX_SIDE)
        return error_set(err, SQ_E_LIMIT, "a picture of %dx%d: sides over %d cannot be resized",
                         plan->canvas_w, plan->canvas_h, MAX_SIDE);
    resample_axis ax = {0}, ay = {0};
    row_pass across = {0};
    row_ring ring = {.width = (size_t)plan->win_w * 3};
    int rc;
    TRY_GOTO(axis_build(&ax, plan->canvas_w, plan->pic_x, src->width, plan->out_w, plan->win_x,
                        plan->win_w, filter, err));
    TRY_GOTO(pass_build(&across, &ax, plan->fill, err));
    TRY_GOTO(axis_build(&ay, plan->canvas_h, plan->pic_y, src->height, plan->out_h, plan->win_y,
                        plan->win_h, filter, err));
    TRY_GOTO(image_alloc(dst, plan->win_w, plan->win_h, err));
    ring.rows = axis_overlap(&ay);
    ring.sum = malloc((size_t)ring.rows * ring.width * sizeof *ring.sum);
    ring.row = malloc(ring.width * 2);
    if (!ring.sum || !ring.row) {
        rc = error_set(err, SQ_E_NOMEM, "out of memory for resizing");
        goto fail;
    }
    ring.outside = ring.row + ring.width;
    for (size_t i = 0; i < ring.width; i++) {
        const axis_tap *t = &ax.tap[i / 3];
        int32_t all = t->outside;
        for (int k = 0; k < t->n; k++) all += ax.weight[t->weight + (size_t)k];
        ring.outside[i] = clip8(half + all * plan->fill[i % 3]);
    }
    resample_sweep(dst, src, &across, &ay, &ring);
fail:
    if (rc) image_close(dst);
    pass_free(&across);
    axis_free(&ax);
    axis_free(&ay);
    free(ring.sum);
    free(ring.row);
    return rc;
}

int resample_rgb(sq_image *dst, const sq_image *src, int out_w, int out_h, resample_filter filter,
                 sq_error *err)
{
    *dst = (sq_image){0};
    if (out_w <= 0 || out_h <= 0)
        return error_set(err, SQ_E_ARG, "cannot resize to %dx%d", out_w, out_h);
    resample_plan plan = {.canvas_w = src->width, .canvas_h = src->height, .out_w = out_w,
                          .out_h = out_h, .win_w = out_w, .win_h = out_h};
    return resample_window(dst, src, &plan, filter, err);
}
