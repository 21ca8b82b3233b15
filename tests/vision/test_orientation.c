/* EXIF orientation: the tag in every place that Pillow reads it from, and the eight turns. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "core/file.h"
#include "vision/image.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zlib.h>

#define HOSTILE SQ_SOURCE_DIR "/tests/hostile"

/* One IFD entry: orientation 6 as SHORT, after an entry of another tag. */
static const uint8_t tiff_le[] = {'I', 'I', 42, 0, 8, 0, 0, 0, 2, 0, 0x0f, 1, 3, 0, 1, 0, 0, 0,
                                  3,   0,   0,  0, 0x12, 1, 3, 0, 1, 0, 0, 0, 6, 0, 0, 0};
static const uint8_t tiff_be[] = {'M', 'M', 0, 42, 0, 0, 0, 8, 0, 2, 1, 0x0f, 0, 3, 0, 0, 0, 1,
                                  0,   3,   0, 0,  1, 0x12, 0, 3, 0, 0, 0, 1, 0, 8, 0, 0};

static void test_tiff(void **state)
{
    (void)state;
    assert_int_equal(exif_orientation(tiff_le, sizeof tiff_le), 6);
    assert_int_equal(exif_orientation(tiff_be, sizeof tiff_be), 8);
    assert_int_equal(exif_orientation(NULL, 0), 1);
    for (size_t n = 0; n < sizeof tiff_le; n++) {
        uint8_t *cut = malloc(n ? n : 1); /* exact size, for the sanitizers */
        memcpy(cut, tiff_le, n);
        assert_int_equal(exif_orientation(cut, n), 1);
        free(cut);
    }
    uint8_t bad[sizeof tiff_le];
    static const struct {
        int at, value;
    } damage[] = {{0, 'X'}, {2, 43}, {4, 200}, {7, 0xff}, {24, 2}, {26, 2}, {30, 0}, {30, 9}};
    for (size_t i = 0; i < sizeof damage / sizeof damage[0]; i++) {
        memcpy(bad, tiff_le, sizeof bad);
        bad[damage[i].at] = (uint8_t)damage[i].value;
        assert_int_equal(exif_orientation(bad, sizeof bad), 1);
    }
}

/* Rows of letters; orientation k of the stored picture must give turned[k]. */
static void test_turns(void **state)
{
    (void)state;
    static const char stored[] = "abcdef"; /* 3 wide, 2 high: abc / def */
    static const char *const turned[9] = {NULL, "abcdef", "cbafed", "fedcba", "defabc",
                                          "adbecf", "daebfc", "fcebda", "cfbead"};
    for (int k = 1; k <= 8; k++) {
        sq_image im;
        assert_int_equal(image_alloc(&im, 3, 2, NULL), 0);
        for (int i = 0; i < 6; i++) memset(im.rgb + i * 3, stored[i], 3);
        assert_int_equal(image_orient(&im, k, NULL), 0);
        assert_int_equal(im.width, k < 5 ? 3 : 2);
        assert_int_equal(im.height, k < 5 ? 2 : 3);
        for (int i = 0; i < 18; i++) assert_int_equal(im.rgb[i], turned[k][i / 3]);
        image_close(&im);
    }
}

/* A turn and its inverse over sizes around the tile edge. */
static void test_turns_undo(void **state)
{
    (void)state;
    static const int inverse[9] = {0, 1, 2, 3, 4, 5, 8, 7, 6};
    static const int sizes[][2] = {{1, 1}, {64, 64}, {65, 63}, {1, 200}, {130, 67}};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
        for (int k = 1; k <= 8; k++) {
            sq_image im;
            assert_int_equal(image_alloc(&im, sizes[s][0], sizes[s][1], NULL), 0);
            size_t n = (size_t)im.width * (size_t)im.height * 3;
            for (size_t i = 0; i < n; i++) im.rgb[i] = (uint8_t)(i * 31 + i / 253);
            uint8_t *before = malloc(n);
            memcpy(before, im.rgb, n);
            assert_int_equal(image_orient(&im, k, NULL), 0);
            assert_int_equal(image_orient(&im, inverse[k], NULL), 0);
            assert_int_equal(im.width, sizes[s][0]);
            assert_memory_equal(im.rgb, before, n);
            free(before);
            image_close(&im);
        }
}

static double mean_difference(const sq_image *a, const sq_image *b)
{
    assert_int_equal(a->width, b->width);
    assert_int_equal(a->height, b->height);
    size_t n = (size_t)a->width * (size_t)a->height * 3;
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += abs(a->rgb[i] - b->rgb[i]);
    return sum / (double)n;
}

static void load(sq_image *im, const char *path, bool ignore_exif)
{
    image_options opt = {.ignore_exif = ignore_exif};
    sq_error err = {0};
    if (image_load(im, path, &opt, &err)) fail_msg("%s", err.text);
}

/* The same portrait stored in all eight orientations comes out upright. */
static void test_portraits(void **state)
{
    (void)state;
    sq_image upright, turned, stored;
    load(&upright, HOSTILE "/jpeg-ok/hopper.jpg", false);
    for (int k = 2; k <= 8; k++) {
        char path[5000];
        snprintf(path, sizeof path, "%s/exif/hopper_orientation_%d.jpg", HOSTILE, k);
        load(&turned, path, false);
        load(&stored, path, true);
        assert_true(mean_difference(&upright, &turned) < 6);
        assert_true(mean_difference(&upright, &stored) > 20);
        image_close(&turned);
        image_close(&stored);
    }
    image_close(&upright);
}

static void test_landscapes(void **state)
{
    (void)state;
    const char *shared = getenv("SQ_SHARED");
    char a[5000], b[5000];
    snprintf(a, sizeof a, "%s/assets/images-hard/exif/Landscape_1.jpg",
             shared ? shared : SQ_SOURCE_DIR "/../shared");
    snprintf(b, sizeof b, "%s/assets/images-hard/exif/Landscape_6.jpg",
             shared ? shared : SQ_SOURCE_DIR "/../shared");
    if (!file_exists(a) || !file_exists(b)) skip();
    sq_image one, six;
    load(&one, a, false);
    load(&six, b, false);
    assert_int_equal(one.width, 1800);
    assert_true(mean_difference(&one, &six) < 6); /* the number painted in differs */
    image_close(&one);
    image_close(&six);
}

/* A JPEG with this APP1 segment right after SOI. */
static int jpeg_with(const uint8_t *app1, size_t n)
{
    file_map map;
    assert_int_equal(file_map_open(&map, HOSTILE "/jpeg-ok/hopper_gray.jpg", NULL), 0);
    uint8_t *data = malloc(map.size + n + 4);
    memcpy(data, map.data, 2);
    memcpy(data + 2, (uint8_t[]){0xff, 0xe1, (uint8_t)((n + 2) >> 8), (uint8_t)(n + 2)}, 4);
    memcpy(data + 6, app1, n);
    memcpy(data + 6 + n, map.data + 2, map.size - 2);
    sq_image im;
    int orientation = 0;
    int rc = image_decode_jpeg(&im, data, map.size + n + 4, "x", NULL, &orientation, NULL);
    image_close(&im);
    free(data);
    file_map_close(&map);
    return rc ? rc : orientation;
}

static void test_jpeg_segments(void **state)
{
    (void)state;
    uint8_t app1[6 + sizeof tiff_le] = "Exif\0";
    memcpy(app1 + 6, tiff_le, sizeof tiff_le);
    assert_int_equal(jpeg_with(app1, sizeof app1), 6);
    memcpy(app1 + 6, tiff_be, sizeof tiff_be);
    assert_int_equal(jpeg_with(app1, sizeof app1), 8);
    assert_int_equal(jpeg_with(app1, sizeof app1 - 6), 1);
    assert_int_equal(jpeg_with(app1, 6), 1);
    assert_int_equal(jpeg_with(app1, 11), SQ_E_FORMAT); /* Pillow refuses this one */
    app1[6] = 'X';
    assert_int_equal(jpeg_with(app1, sizeof app1), 1);
    assert_int_equal(jpeg_with((const uint8_t *)"http://ns.adobe.com/xap/1.0/", 29), 1);
}

typedef struct chunk {
    const char *type;
    const void *data;
    size_t size;
    bool wrong_crc, at_end;
} chunk;

static size_t put_chunk(uint8_t *out, const chunk *c)
{
    for (int i = 0; i < 4; i++) out[i] = (uint8_t)(c->size >> (24 - 8 * i));
    memcpy(out + 4, c->type, 4);
    memcpy(out + 8, c->data, c->size);
    uLong crc = crc32(crc32(0, Z_NULL, 0), out + 4, (uInt)c->size + 4);
    if (c->wrong_crc) crc ^= 1;
    for (int i = 0; i < 4; i++) out[8 + c->size + (size_t)i] = (uint8_t)(crc >> (24 - 8 * i));
    return c->size + 12;
}

/* A PNG with these chunks after IHDR or before IEND. */
static int png_with(const chunk *c, int n)
{
    enum { AFTER_IHDR = 33, IEND = 12 };
    file_map map;
    assert_int_equal(file_map_open(&map, HOSTILE "/pngsuite/basn2c16.png", NULL), 0);
    size_t size = map.size, at = AFTER_IHDR;
    for (int i = 0; i < n; i++) size += c[i].size + 12;
    uint8_t *data = malloc(size);
    memcpy(data, map.data, AFTER_IHDR);
    for (int i = 0; i < n; i++)
        if (!c[i].at_end) at += put_chunk(data + at, &c[i]);
    memcpy(data + at, map.data + AFTER_IHDR, map.size - AFTER_IHDR - IEND);
    at += map.size - AFTER_IHDR - IEND;
    for (int i = 0; i < n; i++)
        if (c[i].at_end) at += put_chunk(data + at, &c[i]);
    memcpy(data + at, map.data + map.size - IEND, IEND);
    assert_int_equal(at + IEND, size);
    sq_image im;
    int orientation = 0;
    int rc = image_decode_png(&im, data, size, "x", NULL, &orientation, NULL);
    image_close(&im);
    free(data);
    file_map_close(&map);
    return rc ? rc : orientation;
}

/* "Raw profile type exif" as ImageMagick writes it. Returns the length. */
static size_t raw_profile(uint8_t *out, const uint8_t *tiff, size_t n)
{
    char text[512];
    int len = snprintf(text, sizeof text, "\nexif\n%8zu\n457869660000", n + 6);
    for (size_t i = 0; i < n; i++)
        len += snprintf(text + len, sizeof text - (size_t)len, "%s%02x", i == 20 ? "\n" : "",
                        tiff[i]);
    memcpy(out, text, (size_t)len);
    return (size_t)len;
}

#define KEY_PROFILE "Raw profile type exif"
#define XMP(value) "XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation=\"" value "\"/>"

static void test_png_chunks(void **state)
{
    (void)state;
    chunk exif = {"eXIf", tiff_le, sizeof tiff_le, false, false};
    assert_int_equal(png_with(NULL, 0), 1);
    assert_int_equal(png_with(&exif, 1), 6);
    exif.at_end = true;
    assert_int_equal(png_with(&exif, 1), 6);
    exif.wrong_crc = true;
    assert_int_equal(png_with(&exif, 1), 1);
    exif.at_end = false;
    assert_int_equal(png_with(&exif, 1), SQ_E_FORMAT);

    uint8_t plain[1024] = KEY_PROFILE, packed[1024] = KEY_PROFILE;
    size_t key = sizeof KEY_PROFILE, n = raw_profile(plain + key, tiff_be, sizeof tiff_be);
    chunk text = {"tEXt", plain, key + n, false, false};
    assert_int_equal(png_with(&text, 1), 8);
    packed[key] = 0;
    uLongf len = sizeof packed - key - 1;
    assert_int_equal(compress(packed + key + 1, &len, plain + key, n), Z_OK);
    chunk ztxt = {"zTXt", packed, key + 1 + len, false, false};
    assert_int_equal(png_with(&ztxt, 1), 8);
    ztxt.size -= 8; /* a damaged text is no text */
    assert_int_equal(png_with(&ztxt, 1), 1);

    static const char xmp[] = XMP("3");
    chunk itxt = {"iTXt", xmp, sizeof xmp - 1, false, false};
    assert_int_equal(png_with(&itxt, 1), 3);
    /* eXIf before the profile before XMP */
    chunk all[3] = {itxt, text, {"eXIf", tiff_le, sizeof tiff_le, false, false}};
    assert_int_equal(png_with(all, 2), 8);
    assert_int_equal(png_with(all, 3), 6);
}

static void test_png_packed_xmp(void **state)
{
    (void)state;
    static const char head[] = "XML:com.adobe.xmp\0\1\0\0";
    static const char body[] = "<rdf><tiff:Orientation>7</tiff:Orientation></rdf>";
    uint8_t data[512];
    size_t key = sizeof head; /* the literal's own NUL ends the translated key */
    memcpy(data, head, key);
    uLongf len = sizeof data - key;
    assert_int_equal(compress(data + key, &len, (const Bytef *)body, sizeof body - 1), Z_OK);
    chunk c = {"iTXt", data, key + len, false, false};
    assert_int_equal(png_with(&c, 1), 7);
    for (size_t n = 0; n < c.size; n++) { /* cut anywhere: no crash, no orientation */
        chunk cut = {"iTXt", data, n, false, true};
        assert_int_equal(png_with(&cut, 1), 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tiff),          cmocka_unit_test(test_turns),
        cmocka_unit_test(test_turns_undo),    cmocka_unit_test(test_portraits),
        cmocka_unit_test(test_landscapes),    cmocka_unit_test(test_jpeg_segments),
        cmocka_unit_test(test_png_chunks),    cmocka_unit_test(test_png_packed_xmp),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
