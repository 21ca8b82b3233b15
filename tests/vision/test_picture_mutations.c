/* Damaged files, made from good ones by a fixed generator: every one must end in a picture or in
 * one line of error, and every cut-off file in an error. Meant to run under the sanitizers. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "core/file.h"
#include "vision/image.h"

#include <stdlib.h>
#include <string.h>

#define HOSTILE SQ_SOURCE_DIR "/tests/hostile"

enum { MUTATIONS = 150 };

static const char *const good[] = {
    HOSTILE "/jpeg-ok/hopper.jpg",          HOSTILE "/derived/cat_gray_prog.jpg",
    HOSTILE "/exif/hopper_orientation_6.jpg", HOSTILE "/jpeg-ok/pil_sample_cmyk.jpg",
    HOSTILE "/png-ok/hopper.png",           HOSTILE "/pngsuite/basi6a16.png",
    HOSTILE "/pngsuite/basn3p08.png",       HOSTILE "/pngsuite/basi3p04.png",
};
enum { GOOD = sizeof good / sizeof good[0] };

static uint32_t lcg;

static uint32_t next_random(uint32_t below)
{
    lcg = lcg * 1664525u + 1013904223u;
    return (uint32_t)(((uint64_t)lcg * below) >> 32);
}

static size_t mutate(uint8_t *data, size_t size)
{
    uint32_t n = (uint32_t)size, at = next_random(n);
    /* Half of the damage goes to the headers, where the decisions are. */
    if (next_random(2)) at = next_random(n < 400 ? n : 400);
    switch (next_random(5)) {
    case 0: return at;
    case 1:
        for (uint32_t k = next_random(8) + 1; k > 0; k--)
            data[next_random(n)] ^= (uint8_t)(1u << next_random(8));
        return size;
    case 2:
        for (uint32_t k = 0; k < 4 && at + k < n; k++) data[at + k] = (uint8_t)next_random(256);
        return size;
    case 3:
        for (uint32_t k = 0; k < 4 && at + k < n; k++) data[at + k] = next_random(2) ? 0xff : 0;
        return size;
    default: { /* a piece of the file is missing */
        uint32_t gap = next_random(n - at) / 4 + 1;
        memmove(data + at, data + at + gap, n - at - gap);
        return size - gap;
    }
    }
}

/* Returns 1 when it decoded. */
static int decode_checked(const uint8_t *data, size_t size, const image_options *opt)
{
    /* An exact-size copy: a read past the end is a sanitizer's finding. */
    uint8_t *copy = malloc(size ? size : 1);
    memcpy(copy, data, size);
    sq_image im;
    sq_error err = {0};
    int rc = image_decode(&im, copy, size, "mutant", opt, &err);
    free(copy);
    if (rc) {
        assert_null(im.rgb);
        assert_int_equal(err.code, rc);
        assert_ptr_equal(strstr(err.text, "mutant: "), err.text);
        assert_null(strchr(err.text, '\n'));
        return 0;
    }
    assert_true(im.width > 0 && im.height > 0);
    uint32_t sum = 0; /* every pixel is readable */
    for (size_t i = 0; i < (size_t)im.width * (size_t)im.height * 3; i++) sum += im.rgb[i];
    image_close(&im);
    return sum < UINT32_MAX;
}

static void test_mutations(void **state)
{
    (void)state;
    int decoded = 0, total = 0;
    lcg = 20240229;
    for (int i = 0; i < GOOD; i++) {
        file_map map;
        assert_int_equal(file_map_open(&map, good[i], NULL), 0);
        assert_true(decode_checked(map.data, map.size, NULL));
        uint8_t *data = malloc(map.size);
        for (int k = 0; k < MUTATIONS; k++, total++) {
            image_options opt = {.max_pixels = 1 << 20, .allow_truncated = k % 3 == 0};
            memcpy(data, map.data, map.size);
            size_t size = mutate(data, map.size);
            decoded += decode_checked(data, size, &opt);
        }
        free(data);
        file_map_close(&map);
    }
    assert_true(decoded > total / 50);
    assert_true(decoded < total * 3 / 4);
}

static void test_every_cut(void **state)
{
    (void)state;
    for (int i = 0; i < GOOD; i++) {
        file_map map;
        assert_int_equal(file_map_open(&map, good[i], NULL), 0);
        size_t step = map.size / 150 + 1;
        for (size_t n = 0; n < map.size; n += map.size - n < 30 || n < 100 ? 1 : step)
            if (decode_checked(map.data, n, NULL))
                fail_msg("%s decodes with %zu of %zu bytes", good[i], n, map.size);
        file_map_close(&map);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mutations),
                                       cmocka_unit_test(test_every_cut)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
