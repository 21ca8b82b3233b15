#include "vision/preprocess.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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

/* One source row through the horizontal pass. */
static void row_resample(uint8_t *out, const uint8_t *row, const resample_axis *a,
                         const uint8_t *fill)
{
    for (int x = 0; x < a->n; x++, out += 3) {
        const axis_tap *t = &a->tap[x];
        const int32_t *w = a->weight + t->weight;
        const uint8_t *p = row + (size_t)t->first * 3;
        int32_t r = half + t->outside * fill[0], g = half + t->outside * fill[1],
                b = half + t->outside * fill[2];
        for (int k = 0; k < t->n; k++, p += 3) {
            r += w[k] * p[0];
            g += w[k] * p[1];
            b += w[k] * p[2];
        }
        out[0] = clip8(r);
        out[1] = clip8(g);
        out[2] = clip8(b);
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
    for (size_t i = 0; i < ring->width; i++) sum[i] += weight * row[i];
}

static void ring_flush(row_ring *ring, int y, uint8_t *out)
{
    const int32_t *sum = ring->sum + (size_t)(y % ring->rows) * ring->width;
    for (size_t i = 0; i < ring->width; i++) out[i] = clip8(sum[i]);
}

/* Both passes in one sweep over the source rows: each row goes through the horizontal pass once
 * and is added to the output rows that it belongs to. */
static void resample_sweep(sq_image *dst, const sq_image *src, const resample_axis *ax,
                           const resample_axis *ay, const uint8_t *fill, row_ring *ring)
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
            row_resample(ring->row, src->rgb + (size_t)r * stride, ax, fill);
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
    row_ring ring = {.width = (size_t)plan->win_w * 3};
    int rc;
    TRY_GOTO(axis_build(&ax, plan->canvas_w, plan->pic_x, src->width, plan->out_w, plan->win_x,
                        plan->win_w, filter, err));
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
    resample_sweep(dst, src, &ax, &ay, plan->fill, &ring);
fail:
    if (rc) image_close(dst);
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
