/* image_save: what is written reads back, and nothing is left behind by a failure. */
#define _XOPEN_SOURCE 700
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "core/file.h"
#include "vision/image.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static char base[4096];

static sq_image gradient(void)
{
    sq_image im;
    assert_int_equal(image_alloc(&im, 37, 23, NULL), 0);
    for (size_t i = 0; i < 37 * 23 * 3; i++) im.rgb[i] = (uint8_t)(i * 7 + i / 111);
    return im;
}

static void test_png(void **state)
{
    (void)state;
    char path[5000];
    snprintf(path, sizeof path, "%s.png", base);
    sq_image im = gradient(), back;
    assert_int_equal(image_save(&im, path, NULL), 0);
    assert_int_equal(image_load(&back, path, NULL, NULL), 0);
    assert_int_equal(back.width, 37);
    assert_int_equal(back.height, 23);
    assert_memory_equal(back.rgb, im.rgb, 37 * 23 * 3);
    image_close(&back);
    image_close(&im);
    remove(path);
}

static void test_ppm(void **state)
{
    (void)state;
    char path[5000];
    snprintf(path, sizeof path, "%s.ppm", base);
    sq_image im = gradient();
    assert_int_equal(image_save(&im, path, NULL), 0);
    file_map map;
    assert_int_equal(file_map_open(&map, path, NULL), 0);
    assert_int_equal(map.size, 13 + 37 * 23 * 3);
    assert_memory_equal(map.data, "P6\n37 23\n255\n", 13);
    assert_memory_equal(map.data + 13, im.rgb, 37 * 23 * 3);
    file_map_close(&map);
    image_close(&im);
    remove(path);
}

static void test_failures(void **state)
{
    (void)state;
    char path[5000];
    sq_image im = gradient(), none = {0};
    sq_error err = {0};
    snprintf(path, sizeof path, "%s.jpg", base);
    assert_int_equal(image_save(&im, path, &err), SQ_E_ARG);
    assert_non_null(strstr(err.text, ".png or .ppm"));
    assert_false(file_exists(path));
    snprintf(path, sizeof path, "%s-no-such-folder/x.png", base);
    assert_int_equal(image_save(&im, path, NULL), SQ_E_IO);
    snprintf(path, sizeof path, "%s.png", base);
    assert_int_equal(image_save(&none, path, NULL), SQ_E_ARG);
    assert_false(file_exists(path));
    image_close(&im);
}

/* A full disk, for files of a few KB (the last flush) and more. */
static void test_full_disk(void **state)
{
    (void)state;
    static const char *const ending[] = {"png", "ppm"};
    struct rlimit was, low;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    low = was;
    low.rlim_cur = 100;
    signal(SIGXFSZ, SIG_IGN);
    for (int i = 0; i < 4; i++) {
        char path[5000];
        sq_error err = {0};
        sq_image im;
        assert_int_equal(image_alloc(&im, i < 2 ? 24 : 200, 24, NULL), 0);
        for (int k = 0; k < im.width * im.height * 3; k++)
            im.rgb[k] = (uint8_t)(k * k % 251);
        snprintf(path, sizeof path, "%s.%s", base, ending[i % 2]);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
        int rc = image_save(&im, path, &err);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
        assert_int_equal(rc, SQ_E_IO);
        assert_non_null(strstr(err.text, "cannot write: File too large"));
        assert_false(file_exists(path));
        image_close(&im);
    }
}

static void test_alloc_limits(void **state)
{
    (void)state;
    sq_image im;
    assert_int_equal(image_alloc(&im, 0, 5, NULL), SQ_E_LIMIT);
    assert_int_equal(image_alloc(&im, 5, -1, NULL), SQ_E_LIMIT);
    assert_int_equal(image_alloc(&im, 0x7fffffff, 0x7fffffff, NULL), SQ_E_LIMIT);
    assert_null(im.rgb);
}

int main(void)
{
    const char *dir = getenv("TMPDIR");
    snprintf(base, sizeof base, "%s/squint-picture-%ld", dir ? dir : P_tmpdir, (long)getpid());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_png),
        cmocka_unit_test(test_ppm),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_alloc_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
