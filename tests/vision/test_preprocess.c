/* Resizing and preprocessing of generated pictures: digests of Pillow's and transformers' results,
 * and properties that need no reference. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "vision/preprocess.h"

#include "preprocess_golden.h"
#include "sha256.h"

#include <math.h>
#include <stdlib.h>

static sq_image noise(int w, int h)
{
    sq_image im;
    assert_int_equal(image_alloc(&im, w, h, NULL), 0);
    uint32_t s = (uint32_t)w * 65536u + (uint32_t)h;
    for (size_t i = 0; i < (size_t)w * (size_t)h * 3; i++) {
        s = s * 1664525u + 1013904223u;
        im.rgb[i] = (uint8_t)(s >> 24);
    }
    return im;
}

static preprocess_config config(fit_mode fit, int side, int resize)
{
    return (preprocess_config){.fit = fit,
                               .side = side,
                               .resize = resize,
                               .filter = RESAMPLE_BICUBIC,
                               .rescale = 1.0f / 255,
                               .mean = {0.48145466f, 0.4578275f, 0.40821073f},
                               .std = {0.26862954f, 0.26130258f, 0.27577711f}};
}

static void test_resize_golden(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof resize_golden / sizeof resize_golden[0]; i++) {
        const struct resize_golden *g = &resize_golden[i];
        sq_image im = noise(g->w, g->h), out;
        for (int f = 0; f < 2; f++) {
            char hex[65];
            resample_filter filter = f ? RESAMPLE_BILINEAR : RESAMPLE_BICUBIC;
            assert_int_equal(resample_rgb(&out, &im, g->out_w, g->out_h, filter, NULL), 0);
            sha256_hex(hex, out.rgb, (size_t)out.width * (size_t)out.height * 3);
            if (strcmp(hex, f ? g->bilinear : g->bicubic) != 0)
                fail_msg("%dx%d to %dx%d, filter %d", g->w, g->h, g->out_w, g->out_h, f);
            image_close(&out);
        }
        image_close(&im);
    }
}

static void test_view_golden(void **state)
{
    (void)state;
    static const int threads[] = {0, 2, 7}; /* the resize runs in bands, one a thread */
    for (size_t i = 0; i < sizeof view_golden / sizeof view_golden[0]; i++) {
        const struct view_golden *g = &view_golden[i];
        sq_image im = noise(g->w, g->h);
        preprocess_config cfg = config(g->pad ? FIT_PAD : FIT_CROP, g->side, g->resize);
        size_t n = 3 * (size_t)g->side * (size_t)g->side;
        float *out = malloc(n * sizeof *out);
        char hex[65];
        for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
            cfg.n_threads = threads[t];
            assert_int_equal(preprocess_view(out, &im, &cfg, NULL), 0);
            sha256_hex(hex, out, n * sizeof *out);
            if (strcmp(hex, g->pixels) != 0)
                fail_msg("%dx%d side %d resize %d pad %d threads %d", g->w, g->h, g->side,
                         g->resize, g->pad, threads[t]);
        }
        free(out);
        image_close(&im);
    }
}

/* A window of a padded resize against the same cut out of a real canvas. */
static void check_window(const sq_image *im, const resample_plan *plan, resample_filter filter)
{
    sq_image canvas, whole, part;
    assert_int_equal(image_alloc(&canvas, plan->canvas_w, plan->canvas_h, NULL), 0);
    for (size_t i = 0; i < (size_t)plan->canvas_w * (size_t)plan->canvas_h * 3; i++)
        canvas.rgb[i] = plan->fill[i % 3];
    for (int y = 0; y < im->height; y++)
        memcpy(canvas.rgb + ((size_t)(y + plan->pic_y) * (size_t)plan->canvas_w +
                             (size_t)plan->pic_x) * 3,
               im->rgb + (size_t)y * (size_t)im->width * 3, (size_t)im->width * 3);
    int rc = resample_rgb(&whole, &canvas, (int)plan->out_w, (int)plan->out_h, filter, NULL);
    assert_int_equal(rc, 0);
    assert_int_equal(resample_window(&part, im, plan, filter, NULL), 0);
    for (int y = 0; y < plan->win_h; y++)
        assert_memory_equal(part.rgb + (size_t)y * (size_t)plan->win_w * 3,
                            whole.rgb + ((size_t)(y + plan->win_y) * (size_t)whole.width +
                                         (size_t)plan->win_x) * 3,
                            (size_t)plan->win_w * 3);
    image_close(&canvas);
    image_close(&whole);
    image_close(&part);
}

static void test_windows(void **state)
{
    (void)state;
    uint32_t s = 7;
    for (int i = 0; i < 300; i++) {
        int v[12];
        for (int k = 0; k < 12; k++) {
            s = s * 1664525u + 1013904223u;
            v[k] = (int)(s >> 16);
        }
        int w = 1 + v[0] % 40, h = 1 + v[1] % 40;
        resample_plan p = {.canvas_w = w + v[2] % 60, .canvas_h = h + v[3] % 60,
                           .fill = {122, 116, 104}, .out_w = 1 + v[4] % 50,
                           .out_h = 1 + v[5] % 50};
        p.pic_x = v[6] % (p.canvas_w - w + 1);
        p.pic_y = v[7] % (p.canvas_h - h + 1);
        p.win_x = v[8] % p.out_w;
        p.win_y = v[9] % p.out_h;
        p.win_w = 1 + v[10] % (int)(p.out_w - p.win_x);
        p.win_h = 1 + v[11] % (int)(p.out_h - p.win_y);
        sq_image im = noise(w, h);
        check_window(&im, &p, i % 2 ? RESAMPLE_BILINEAR : RESAMPLE_BICUBIC);
        image_close(&im);
    }
}

/* Pillow would build 336 x 6720000 pixels, or a canvas of 20000 x 20000, for one view. */
static void test_thin(void **state)
{
    (void)state;
    static const int sizes[][2] = {{1, 20000}, {20000, 1}, {2, 60000}, {60000, 3}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        sq_image im = noise(sizes[i][0], sizes[i][1]), view;
        for (int fit = FIT_CROP; fit <= FIT_PAD; fit++) {
            preprocess_config cfg = config((fit_mode)fit, 336, 336);
            assert_int_equal(preprocess_fit(&view, &im, &cfg, NULL), 0);
            assert_int_equal(view.width, 336);
            assert_int_equal(view.height, 336);
            if (fit == FIT_PAD) assert_memory_equal(view.rgb, "\x7a\x74\x68", 3);
            image_close(&view);
        }
        image_close(&im);
    }
    /* The middle of 1 x 20000, 336 times magnified, is the middle pixels, smoothly. */
    sq_image im = noise(1, 20000), view;
    for (int y = 9990; y < 10010; y++) memset(im.rgb + y * 3, 200, 3);
    preprocess_config cfg = config(FIT_CROP, 336, 336);
    assert_int_equal(preprocess_fit(&view, &im, &cfg, NULL), 0);
    for (int i = 0; i < 336 * 336 * 3; i++) assert_int_equal(view.rgb[i], 200);
    image_close(&view);
    image_close(&im);
}

static void test_view_map(void **state)
{
    (void)state;
    sq_image im = noise(640, 480);
    preprocess_config cfg = config(FIT_CROP, 336, 336);
    view_map m = preprocess_view_map(&im, &cfg);
    assert_true(fabs(m.scale - 480.0 / 336) < 1e-12);
    assert_true(fabs(m.dx - 80) < 1e-9);
    assert_true(fabs(m.dy) < 1e-12);
    cfg.fit = FIT_PAD;
    m = preprocess_view_map(&im, &cfg);
    assert_true(fabs(m.scale - 640.0 / 336) < 1e-12);
    assert_true(fabs(m.dx) < 1e-12);
    assert_true(fabs(m.dy + 80) < 1e-12);
    image_close(&im);
}

static void test_wrong_configs(void **state)
{
    (void)state;
    sq_image im = noise(8, 8), view, none = {0};
    sq_error err = {0};
    preprocess_config bad[6];
    for (int i = 0; i < 6; i++) bad[i] = config(FIT_CROP, 28, 28);
    bad[0].fit = FIT_AUTO;
    bad[1].side = 0;
    bad[2].resize = -1;
    bad[3].side = 1 << 20;
    bad[4].std[1] = 0;
    bad[5].mean[2] = NAN;
    for (int i = 0; i < 6; i++) {
        error_clear(&err);
        assert_int_equal(preprocess_fit(&view, &im, &bad[i], &err), SQ_E_ARG);
        assert_true(err.text[0]);
        assert_null(view.rgb);
    }
    preprocess_config cfg = config(FIT_CROP, 28, 28);
    assert_int_equal(preprocess_fit(&view, &none, &cfg, NULL), SQ_E_ARG);
    assert_int_equal(resample_rgb(&view, &im, 0, 3, RESAMPLE_BICUBIC, NULL), SQ_E_ARG);
    image_close(&im);
    im = noise((1 << 24) + 1, 1);
    cfg.fit = FIT_PAD;
    assert_int_equal(preprocess_fit(&view, &im, &cfg, NULL), SQ_E_LIMIT);
    image_close(&im);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resize_golden), cmocka_unit_test(test_view_golden),
        cmocka_unit_test(test_windows),       cmocka_unit_test(test_thin),
        cmocka_unit_test(test_view_map),      cmocka_unit_test(test_wrong_configs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
