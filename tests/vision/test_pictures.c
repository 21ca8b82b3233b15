/* The committed hostile pictures against Pillow's verdicts, and what image_load says about files
 * that are no picture at all. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "picture_oracle.h"

#define HOSTILE SQ_SOURCE_DIR "/tests/hostile"

static const char *const hoppers[] = {HOSTILE "/jpeg-ok/hopper.jpg", HOSTILE "/png-ok/hopper.png"};

static void test_oracle(void **state)
{
    (void)state;
    oracle_result res;
    assert_int_equal(oracle_run(&res, HOSTILE), 0);
    assert_true(res.rows >= 90);
    assert_true(res.refused >= 25);
    assert_int_equal(res.failures, 0);
}

static void expect_error(const char *path, int code, const char *words)
{
    sq_image im;
    sq_error err = {0};
    assert_int_equal(image_load(&im, path, NULL, &err), code);
    assert_null(im.rgb);
    if (!strstr(err.text, words)) fail_msg("\"%s\" lacks \"%s\"", err.text, words);
    if (!strstr(err.text, path)) fail_msg("\"%s\" does not name the file", err.text);
}

static void test_not_pictures(void **state)
{
    (void)state;
    expect_error(HOSTILE "/none.png", SQ_E_IO, "cannot open");
    expect_error(HOSTILE, SQ_E_IO, "not a regular file");
    expect_error(HOSTILE "/derived/zero.jpg", SQ_E_FORMAT, "empty");
    expect_error(HOSTILE "/derived/text.jpg", SQ_E_FORMAT, "expected a PNG or JPEG");
    expect_error(HOSTILE "/unsupported/hopper.webp", SQ_E_UNSUPPORTED, "WebP is not supported");
    expect_error(HOSTILE "/unsupported/hopper.gif", SQ_E_UNSUPPORTED, "GIF is not supported");
    expect_error(HOSTILE "/unsupported/hopper.avif", SQ_E_UNSUPPORTED, "AVIF is not supported");
}

static void test_recognised_by_content(void **state)
{
    (void)state;
    static const struct {
        const char *bytes, *words;
        size_t size;
    } heads[] = {
        {"BM\x8a\xc0\0\0\0\0\0\0\x8a\0\0\0", "BMP is", 14},
        {"II\x2a\0\x08\0\0\0", "TIFF is", 8},
        {"MM\0\x2a\0\0\0\x08", "TIFF is", 8},
        {"P6\n2 2\n255\n", "PPM is", 11},
        {"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL is", 12},
        {"\0\0\0\x18" "ftypheic", "HEIC is", 12},
    };
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        sq_image im;
        sq_error err = {0};
        int rc = image_decode(&im, heads[i].bytes, heads[i].size, "x", NULL, &err);
        assert_int_equal(rc, SQ_E_UNSUPPORTED);
        assert_non_null(strstr(err.text, heads[i].words));
    }
}

static void test_pixel_limit(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        sq_image im;
        sq_error err = {0};
        image_options opt = {.max_pixels = 128 * 128};
        assert_int_equal(image_load(&im, hoppers[i], &opt, NULL), 0);
        image_close(&im);
        opt.max_pixels--;
        assert_int_equal(image_load(&im, hoppers[i], &opt, &err), SQ_E_LIMIT);
        assert_non_null(strstr(err.text, "128x128"));
    }
}

/* A frame header of 65535 x 65535 is refused before anything of that size is allocated. */
static void test_jpeg_bomb(void **state)
{
    (void)state;
    file_map map;
    assert_int_equal(file_map_open(&map, HOSTILE "/jpeg-ok/hopper.jpg", NULL), 0);
    uint8_t *data = malloc(map.size);
    memcpy(data, map.data, map.size);
    size_t at = 2;
    while (!(data[at] == 0xff && data[at + 1] == 0xc0))
        at += 2 + (size_t)(data[at + 2] << 8 | data[at + 3]);
    sq_image im;
    memset(data + at + 5, 0xff, 4);
    assert_int_equal(image_decode(&im, data, map.size, "bomb", NULL, NULL), SQ_E_LIMIT);
    memset(data + at + 5, 0, 4);
    assert_int_equal(image_decode(&im, data, map.size, "none", NULL, NULL), SQ_E_FORMAT);
    data[at + 4] = 12;
    assert_int_equal(image_decode(&im, data, map.size, "deep", NULL, NULL), SQ_E_UNSUPPORTED);
    free(data);
    file_map_close(&map);
}

static void test_allow_truncated(void **state)
{
    (void)state;
    sq_image im;
    image_options opt = {.allow_truncated = true};
    assert_int_equal(image_load(&im, HOSTILE "/derived/trunc_base_2.jpg", &opt, NULL), 0);
    assert_int_equal(im.width, 600);
    assert_int_equal(im.height, 400);
    image_close(&im);
    assert_int_equal(image_load(&im, HOSTILE "/derived/trunc_prog_2.jpg", &opt, NULL), 0);
    image_close(&im);

    for (int i = 0; i < 2; i++) {
        file_map map;
        sq_image whole;
        assert_int_equal(file_map_open(&map, hoppers[i], NULL), 0);
        assert_int_equal(image_decode(&whole, map.data, map.size, "whole", NULL, NULL), 0);
        assert_int_equal(image_decode(&im, map.data, map.size / 2, "half", &opt, NULL), 0);
        assert_memory_equal(im.rgb, whole.rgb, 128 * 3 * 40);
        const uint8_t *last = im.rgb + 128 * 3 * 127;
        assert_memory_not_equal(last, whole.rgb + 128 * 3 * 127, 128 * 3);
        image_close(&im);
        image_close(&whole);
        file_map_close(&map);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_oracle),      cmocka_unit_test(test_not_pictures),
        cmocka_unit_test(test_recognised_by_content), cmocka_unit_test(test_pixel_limit),
        cmocka_unit_test(test_jpeg_bomb),   cmocka_unit_test(test_allow_truncated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
