#include "vision/preprocess.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_VIEW_SIDE = 1 << 13 };

/* Geometry of one view: the canvas that is resized, and where the crop lies in the result. */
typedef struct view_plan {
    int canvas_w, canvas_h, pic_x, pic_y;
    int64_t out_w, out_h;  /* size after the resize of the shortest edge */
    int64_t crop_x, crop_y; /* negative: the result is smaller than the view, black around it */
} view_plan;

/* Division that rounds down, as Python's //. */
static int64_t half_down(int64_t v)
{
    return v >= 0 ? v / 2 : -((1 - v) / 2);
}

static view_plan view_geometry(const sq_image *im, const preprocess_config *cfg)
{
    view_plan v = {.canvas_w = im->width, .canvas_h = im->height};
    if (cfg->fit == FIT_PAD) {
        int side = im->width > im->height ? im->width : im->height;
        v.canvas_w = v.canvas_h = side;
        v.pic_x = (side - im->width) / 2;
        v.pic_y = (side - im->height) / 2;
    }
    bool tall = v.canvas_w <= v.canvas_h;
    int64_t shorter = tall ? v.canvas_w : v.canvas_h, longer = tall ? v.canvas_h : v.canvas_w;
    longer = cfg->resize * longer / shorter;
    v.out_w = tall ? cfg->resize : longer;
    v.out_h = tall ? longer : cfg->resize;
    v.crop_x = half_down(v.out_w - cfg->side);
    v.crop_y = half_down(v.out_h - cfg->side);
    return v;
}

static int config_check(const sq_image *im, const preprocess_config *cfg, sq_error *err)
{
    if (!im->rgb) return error_set(err, SQ_E_ARG, "preprocess: there is no picture");
    if (cfg->fit != FIT_CROP && cfg->fit != FIT_PAD)
        return error_set(err, SQ_E_ARG, "preprocess: expected fit crop or pad");
    if (cfg->side < 1 || cfg->side > MAX_VIEW_SIDE || cfg->resize < 1 ||
        cfg->resize > MAX_VIEW_SIDE)
        return error_set(err, SQ_E_ARG, "preprocess: expected sizes from 1 to %d, found %d and %d",
                         MAX_VIEW_SIDE, cfg->side, cfg->resize);
    for (int c = 0; c < 3; c++)
        if (!(isfinite(cfg->mean[c]) && isfinite(cfg->std[c]) && cfg->std[c] != 0))
            return error_set(err, SQ_E_ARG, "preprocess: mean %g and std %g cannot normalise",
                             (double)cfg->mean[c], (double)cfg->std[c]);
    return SQ_OK;
}

static int clamp_side(int64_t len, int side)
{
    return len < side ? (int)len : side;
}

/* Rows [first, first + n) of the window, resized on their own and put in their place. */
static int resize_band(sq_image *view, const sq_image *im, const resample_plan *whole, int first,
                       int n, const preprocess_config *cfg, int64_t at_x, int64_t at_y,
                       sq_error *err)
{
    resample_plan plan = *whole;
    sq_image part;
    plan.win_y += first;
    plan.win_h = n;
    TRY(resample_window(&part, im, &plan, cfg->filter, err));
    size_t row = (size_t)part.width * 3;
    for (int y = 0; y < n; y++)
        memcpy(view->rgb + ((size_t)(at_y + first + y) * (size_t)cfg->side + (size_t)at_x) * 3,
               part.rgb + (size_t)y * row, row);
    image_close(&part);
    return SQ_OK;
}

enum { BAND_ROWS = 32 }; /* fewer are not worth a thread */

int preprocess_fit(sq_image *view, const sq_image *im, const preprocess_config *cfg,
                   sq_error *err)
{
    *view = (sq_image){0};
    TRY(config_check(im, cfg, err));
    view_plan v = view_geometry(im, cfg);
    resample_plan plan = {.canvas_w = v.canvas_w, .canvas_h = v.canvas_h, .pic_x = v.pic_x,
                          .pic_y = v.pic_y, .out_w = v.out_w, .out_h = v.out_h};
    plan.win_x = v.crop_x > 0 ? v.crop_x : 0;
    plan.win_y = v.crop_y > 0 ? v.crop_y : 0;
    plan.win_w = clamp_side(v.out_w, cfg->side);
    plan.win_h = clamp_side(v.out_h, cfg->side);
    for (int c = 0; c < 3; c++) {
        double level = (double)cfg->mean[c] * 255;
        plan.fill[c] = (uint8_t)(level < 0 ? 0 : level > 255 ? 255 : level);
    }
    TRY(image_alloc(view, cfg->side, cfg->side, err)); /* zeros: black */
    int n_band = plan.win_h / BAND_ROWS, rc = SQ_OK;
    n_band = n_band > cfg->n_threads ? cfg->n_threads : n_band;
    n_band = n_band < 1 ? 1 : n_band;
#pragma omp parallel for num_threads(n_band) if (n_band > 1)
    for (int b = 0; b < n_band; b++) {
        int first = plan.win_h * b / n_band, end = plan.win_h * (b + 1) / n_band;
        sq_error own = {0};
        int failed = resize_band(view, im, &plan, first, end - first, cfg, plan.win_x - v.crop_x,
                                 plan.win_y - v.crop_y, &own);
#pragma omp critical
        if (failed && !rc) rc = error_set(err, failed, "%s", own.text);
    }
    if (rc) image_close(view);
    return rc;
}

/* A config says 0.00392156862745098 and means 1/255 in double; the float in between lost that. */
static double rescale_factor(float rescale)
{
    double whole = round(1.0 / (double)rescale);
    return (float)(1.0 / whole) == rescale ? 1.0 / whole : (double)rescale;
}

void preprocess_levels(float level[3][256], const preprocess_config *cfg)
{
    /* Rounding as in transformers: rescale in double, then all in float. */
    double rescale = rescale_factor(cfg->rescale);
    for (int c = 0; c < 3; c++)
        for (int v = 0; v < 256; v++)
            level[c][v] = ((float)(v * rescale) - cfg->mean[c]) / cfg->std[c];
}

int preprocess_view(float *out, const sq_image *im, const preprocess_config *cfg, sq_error *err)
{
    sq_image view;
    TRY(preprocess_fit(&view, im, cfg, err));
    float level[3][256];
    preprocess_levels(level, cfg);
    size_t n = (size_t)cfg->side * (size_t)cfg->side;
    for (int c = 0; c < 3; c++) {
        float *plane = out + (size_t)c * n;
        for (size_t i = 0; i < n; i++) plane[i] = level[c][view.rgb[i * 3 + (size_t)c]];
    }
    image_close(&view);
    return SQ_OK;
}

view_map preprocess_view_map(const sq_image *im, const preprocess_config *cfg)
{
    view_plan v = view_geometry(im, cfg);
    int shorter = v.canvas_w < v.canvas_h ? v.canvas_w : v.canvas_h;
    view_map map = {.scale = (double)shorter / cfg->resize};
    map.dx = (double)v.crop_x * map.scale - v.pic_x;
    map.dy = (double)v.crop_y * map.scale - v.pic_y;
    return map;
}
