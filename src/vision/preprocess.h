/* Preprocessing: picture -> normalised pixels of one view, equal to Pillow's arithmetic. */
#ifndef SQ_PREPROCESS_H
#define SQ_PREPROCESS_H

#include "core/error.h"
#include "vision/image.h"

typedef enum fit_mode {
    FIT_CROP, /* CLIP: shortest edge to `resize`, then centre crop of `side` */
    FIT_PAD,  /* LLaVA-1.5 "pad": square canvas of the mean colour, then resize */
    FIT_AUTO  /* only as a request: what the checkpoint says */
} fit_mode;

typedef enum resample_filter { RESAMPLE_BICUBIC, RESAMPLE_BILINEAR } resample_filter;

typedef struct preprocess_config {
    fit_mode fit;
    int side;             /* of the square view in pixels: 336 */
    int resize;           /* shortest edge before the crop; usually side */
    resample_filter filter;
    float rescale;        /* 1/255 */
    float mean[3], std[3];
    int n_threads;        /* for the resize; 0 is 1 */
} preprocess_config;

/* out[3,side,side] = (view * rescale - mean) / std, RGB planes. */
int preprocess_view(float *out, const sq_image *im, const preprocess_config *cfg, sq_error *err);

/* level[c][v] = (v * rescale - mean[c]) / std[c]: what the view's 8-bit values stand for. */
void preprocess_levels(float level[3][256], const preprocess_config *cfg);

/* The 8-bit view before normalisation: what the model looks at. view is allocated. */
int preprocess_fit(sq_image *view, const sq_image *im, const preprocess_config *cfg,
                   sq_error *err);

/* Where view position (x, y) lies in the source picture: src = x * scale + dx (for overlays).
 * Positions are continuous: pixel i covers [i, i + 1). */
typedef struct view_map {
    double scale, dx, dy;
} view_map;
view_map preprocess_view_map(const sq_image *im, const preprocess_config *cfg);

/* out[out_h,out_w,3] = Pillow's antialiased resize (Image.resize), bit for bit: 22-bit fixed-point
 * weights, horizontal pass first. dst is allocated here. SQ_E_LIMIT for a side over 2^24. */
int resample_rgb(sq_image *dst, const sq_image *src, int out_w, int out_h, resample_filter filter,
                 sq_error *err);

/* The same for a picture pasted on a larger canvas of one colour, computing only a window of the
 * result: neither the canvas nor the rest of the result is ever in memory. */
typedef struct resample_plan {
    int canvas_w, canvas_h, pic_x, pic_y; /* the picture lies wholly on the canvas */
    uint8_t fill[3];
    int64_t out_w, out_h;             /* size of the whole result */
    int64_t win_x, win_y;             /* the window lies inside the whole result */
    int win_w, win_h;
} resample_plan;

/* dst[win_h,win_w,3]; allocated here. */
int resample_window(sq_image *dst, const sq_image *src, const resample_plan *plan,
                    resample_filter filter, sq_error *err);

#endif
