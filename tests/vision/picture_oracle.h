/* Runs every row of an ORACLE.tsv (what Pillow 9.4 says about each picture of a folder) against
 * the decoders. Shared by the committed set and the large one. */
#ifndef SQ_TEST_PICTURE_ORACLE_H
#define SQ_TEST_PICTURE_ORACLE_H

#include "core/file.h"
#include "vision/image.h"

#include "sha256.h"

#include <stdio.h>
#include <stdlib.h>

#include <jpeglib.h>

enum { ORACLE_REF_MEAN = 1 };

/* libjpeg-turbo's integer IDCT and upsampling give the same bytes in every 2.x and 3.x release. */
#if defined(LIBJPEG_TURBO_VERSION_NUMBER) && LIBJPEG_TURBO_VERSION_NUMBER >= 2000000
enum { ORACLE_JPEG_EXACT = 1 };
#else
enum { ORACLE_JPEG_EXACT = 0 };
#endif

typedef struct oracle_row {
    char *field[11]; /* name bytes verdict format mode width height orientation hash djpeg hash16 */
} oracle_row;

typedef struct oracle_result {
    int rows, accepted, refused, hashes, references, failures;
} oracle_result;

static int oracle_fail(oracle_result *res, const char *name, const char *what)
{
    fprintf(stderr, "%s: %s\n", name, what);
    return ++res->failures;
}

static void oracle_refused(oracle_result *res, const oracle_row *row, int rc, const sq_error *err,
                           const sq_image *im)
{
    const char *name = row->field[0];
    bool other_format = !strncmp(name, "unsupported/", 12);
    res->refused++;
    if (!rc) oracle_fail(res, name, "decoded, but Pillow refuses it");
    if (im->rgb && rc) oracle_fail(res, name, "pixels left behind by a failure");
    if (rc && (err->code != rc || !strstr(err->text, name)))
        oracle_fail(res, name, "the error does not name the file");
    if (other_format && rc != SQ_E_UNSUPPORTED) oracle_fail(res, name, err->text);
    if (strstr(row->field[2], "DecompressionBomb") && !other_format && rc != SQ_E_LIMIT)
        oracle_fail(res, name, err->text);
    if (strstr(row->field[2], "truncated") && !strstr(err->text, "truncated") &&
        !strstr(err->text, "damaged"))
        oracle_fail(res, name, err->text);
}

/* name.jpg beside name.ref.png: another decoder's opinion, so a tolerance of a few levels. */
static void oracle_reference(oracle_result *res, const char *jpeg_path, const char *name,
                             const sq_image *im)
{
    char path[5300];
    sq_image ref;
    size_t n_stem = strlen(jpeg_path) - strlen(".jpg");
    if (n_stem + sizeof ".ref.png" > sizeof path) return;
    memcpy(path, jpeg_path, n_stem);
    memcpy(path + n_stem, ".ref.png", sizeof ".ref.png");
    if (!file_exists(path) || image_load(&ref, path, NULL, NULL)) return;
    res->references++;
    if (ref.width != im->width || ref.height != im->height) {
        oracle_fail(res, name, "size differs from the reference decode");
    } else {
        size_t n = (size_t)im->width * (size_t)im->height * 3;
        double sum = 0;
        for (size_t i = 0; i < n; i++) sum += abs(im->rgb[i] - ref.rgb[i]);
        if (sum / (double)n > ORACLE_REF_MEAN) {
            fprintf(stderr, "mean difference %.2f\n", sum / (double)n);
            oracle_fail(res, name, "differs from the reference decode");
        }
    }
    image_close(&ref);
}

static void oracle_accepted(oracle_result *res, const char *path, const oracle_row *row, int rc,
                            const sq_error *err, const sq_image *im)
{
    const char *name = row->field[0];
    bool jpeg = !strcmp(row->field[3], "JPEG");
    res->accepted++;
    if (rc) {
        oracle_fail(res, name, err->text);
        return;
    }
    if (im->width != atoi(row->field[5]) || im->height != atoi(row->field[6])) {
        oracle_fail(res, name, "wrong size");
        return;
    }
    const char *want = *row->field[10] ? row->field[10] : row->field[8];
    char hex[65];
    sha256_hex(hex, im->rgb, (size_t)im->width * (size_t)im->height * 3);
    if (!jpeg || ORACLE_JPEG_EXACT) {
        res->hashes++;
        if (strncmp(hex, want, 16) != 0) oracle_fail(res, name, "wrong pixels");
    }
    if (jpeg) oracle_reference(res, path, name, im);
}

static void oracle_orientation(oracle_result *res, const char *path, const oracle_row *row)
{
    file_map map;
    sq_image im = {0};
    int found = 0, want = *row->field[7] ? atoi(row->field[7]) : 1;
    if (file_map_open(&map, path, NULL)) return;
    if (!strcmp(row->field[3], "JPEG"))
        image_decode_jpeg(&im, map.data, map.size, path, NULL, &found, NULL);
    else
        image_decode_png(&im, map.data, map.size, path, NULL, &found, NULL);
    if (found != want) oracle_fail(res, row->field[0], "wrong EXIF orientation");
    image_close(&im);
    file_map_close(&map);
}

static void oracle_row_check(oracle_result *res, const char *dir, const oracle_row *row)
{
    char path[5200];
    snprintf(path, sizeof path, "%s/%s", dir, row->field[0]);
    sq_error err = {0};
    sq_image im;
    image_options opt = {.ignore_exif = true};
    int rc = image_load(&im, path, &opt, &err);
    res->rows++;
    bool accept = !strcmp(row->field[2], "ok") && (!strcmp(row->field[3], "JPEG") ||
                                                   !strcmp(row->field[3], "PNG"));
    if (!strcmp(row->field[3], "PPM")) accept = false;
    if (accept) {
        oracle_accepted(res, path, row, rc, &err, &im);
        if (!rc) oracle_orientation(res, path, row);
    } else {
        oracle_refused(res, row, rc, &err, &im);
    }
    image_close(&im);
}

/* -1 when there is no ORACLE.tsv. */
static int oracle_run(oracle_result *res, const char *dir)
{
    char path[4200], line[1024];
    snprintf(path, sizeof path, "%s/ORACLE.tsv", dir);
    *res = (oracle_result){0};
    FILE *f = fopen(path, "r");
    if (!f) return -1;
    while (fgets(line, sizeof line, f)) {
        oracle_row row;
        char *p = line, empty[] = "";
        for (int i = 0; i < 11; i++) {
            row.field[i] = p ? p : empty;
            char *tab = p ? strchr(p, '\t') : NULL;
            if (tab) *tab = 0;
            p = tab ? tab + 1 : NULL;
            row.field[i][strcspn(row.field[i], "\r\n")] = 0;
        }
        if (strcmp(row.field[0], "file") != 0) oracle_row_check(res, dir, &row);
    }
    fclose(f);
    return 0;
}

#endif
