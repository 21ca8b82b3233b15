/* The published preprocessing of real photographs: views by SHA-256 where the source is lossless,
 * and for JPEG sources too when this libjpeg gives the reference's pixels. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "core/file.h"
#include "core/json.h"
#include "vision/preprocess.h"

#include "sha256.h"

#include <stdlib.h>

static char folder[4096];

static const preprocess_config clip = {
    .side = 336,
    .resize = 336,
    .filter = RESAMPLE_BICUBIC,
    .rescale = 1.0f / 255,
    .mean = {0.48145466f, 0.4578275f, 0.40821073f},
    .std = {0.26862954f, 0.26130258f, 0.27577711f},
};

static const char *string_of(const cJSON *item, const char *key)
{
    const char *s = cJSON_GetStringValue(cJSON_GetObjectItem(item, key));
    assert_non_null(s);
    return s;
}

/* 1 when equal, else 0; a JPEG's input may differ by its decoder, then only the means count. */
static int check_mode(const sq_image *im, const cJSON *image, const char *mode, fit_mode fit,
                      bool exact)
{
    preprocess_config cfg = clip;
    cfg.fit = fit;
    sq_image view;
    assert_int_equal(preprocess_fit(&view, im, &cfg, NULL), 0);
    assert_int_equal(view.width, 336);
    assert_int_equal(view.height, 336);
    const cJSON *want = cJSON_GetObjectItem(cJSON_GetObjectItem(image, "modes"), mode);
    want = cJSON_GetArrayItem(cJSON_GetObjectItem(want, "views"), 0);
    char hex[65];
    sha256_hex(hex, view.rgb, (size_t)336 * 336 * 3);
    int equal = !strcmp(hex, string_of(want, "sha256"));
    if (exact && !equal) fail_msg("%s %s: wrong pixels", string_of(image, "name"), mode);
    for (int c = 0; c < 3; c++) {
        double sum = 0, mean;
        for (size_t i = 0; i < (size_t)336 * 336; i++) sum += view.rgb[i * 3 + (size_t)c];
        mean = cJSON_GetArrayItem(cJSON_GetObjectItem(want, "mean"), c)->valuedouble;
        assert_true(sum / (336 * 336) - mean < 0.5 && mean - sum / (336 * 336) < 0.5);
    }
    image_close(&view);
    return equal;
}

static void check_file(const cJSON *image, const char *path, int *exact, int *total)
{
    sq_image im;
    sq_error err = {0};
    image_options opt = {.ignore_exif = true};
    if (image_load(&im, path, &opt, &err)) fail_msg("%s", err.text);
    char hex[65];
    sha256_hex(hex, im.rgb, (size_t)im.width * (size_t)im.height * 3);
    bool same_input = !strcmp(hex, string_of(image, "input_sha256"));
    if (strstr(path, ".png") && !same_input) fail_msg("%s: wrong decoded pixels", path);
    *exact += check_mode(&im, image, "pad", FIT_PAD, same_input);
    *exact += check_mode(&im, image, "crop", FIT_CROP, same_input);
    *total += 2;
    image_close(&im);
}

static void test_index(void **state)
{
    (void)state;
    char path[5200];
    snprintf(path, sizeof path, "%s/index.json", folder);
    json_doc doc;
    assert_int_equal(json_open(&doc, path, 0, NULL), 0);
    const cJSON *image;
    int exact = 0, total = 0, lossless = 0;
    cJSON_ArrayForEach(image, json_find(&doc, "images"))
    {
        snprintf(path, sizeof path, "%s/%s", folder, string_of(image, "source"));
        check_file(image, path, &exact, &total);
        snprintf(path, sizeof path, "%s/inputs/%s.png", folder, string_of(image, "name"));
        if (file_exists(path)) check_file(image, path, &exact, &total);
        lossless += file_exists(path) || strstr(string_of(image, "name"), ".png");
    }
    json_close(&doc);
    fprintf(stderr, "%d of %d views equal byte by byte\n", exact, total);
    assert_true(total >= 30);
    assert_true(lossless >= 7);
}

int main(void)
{
    const char *shared = getenv("SQ_SHARED");
    snprintf(folder, sizeof folder, "%s/assets/preprocess",
             shared ? shared : SQ_SOURCE_DIR "/../shared");
    if (!file_is_dir(folder)) return 77;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_index)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
