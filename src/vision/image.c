#include "vision/image.h"

#include "core/file.h"
#include "vision/image_format.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_MAX_PIXELS INT64_C(178956970)

typedef enum picture_kind { PICTURE_JPEG, PICTURE_PNG, PICTURE_OTHER } picture_kind;

typedef struct picture_magic {
    const char *format;
    picture_kind kind;
    size_t at, size;
    const char *bytes;
} picture_magic;

static const picture_magic magics[] = {
    {"JPEG", PICTURE_JPEG, 0, 3, "\xff\xd8\xff"},
    {"PNG", PICTURE_PNG, 0, 8, "\x89PNG\r\n\x1a\n"},
    {"GIF", PICTURE_OTHER, 0, 4, "GIF8"},
    {"WebP", PICTURE_OTHER, 8, 4, "WEBP"},
    {"BMP", PICTURE_OTHER, 0, 2, "BM"},
    {"TIFF", PICTURE_OTHER, 0, 4, "II\x2a\0"},
    {"TIFF", PICTURE_OTHER, 0, 4, "MM\0\x2a"},
    {"BigTIFF", PICTURE_OTHER, 0, 4, "II\x2b\0"},
    {"BigTIFF", PICTURE_OTHER, 0, 4, "MM\0\x2b"},
    {"AVIF", PICTURE_OTHER, 4, 8, "ftypavif"},
    {"AVIF", PICTURE_OTHER, 4, 8, "ftypavis"},
    {"HEIC", PICTURE_OTHER, 4, 8, "ftypheic"},
    {"HEIF", PICTURE_OTHER, 4, 8, "ftypmif1"},
    {"JPEG 2000", PICTURE_OTHER, 0, 8, "\0\0\0\x0cjP  "},
    {"JPEG 2000", PICTURE_OTHER, 0, 4, "\xff\x4f\xff\x51"},
    {"JPEG XL", PICTURE_OTHER, 0, 8, "\0\0\0\x0cJXL "},
    {"JPEG XL", PICTURE_OTHER, 0, 2, "\xff\x0a"},
    {"PSD", PICTURE_OTHER, 0, 4, "8BPS"},
    {"ICO", PICTURE_OTHER, 0, 4, "\0\0\1\0"},
    {"PDF", PICTURE_OTHER, 0, 5, "%PDF-"},
    {"SVG", PICTURE_OTHER, 0, 4, "<svg"},
    {"PBM", PICTURE_OTHER, 0, 2, "P1"},
    {"PGM", PICTURE_OTHER, 0, 2, "P2"},
    {"PPM", PICTURE_OTHER, 0, 2, "P3"},
    {"PBM", PICTURE_OTHER, 0, 2, "P4"},
    {"PGM", PICTURE_OTHER, 0, 2, "P5"},
    {"PPM", PICTURE_OTHER, 0, 2, "P6"},
};

static const picture_magic *picture_recognise(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < sizeof magics / sizeof magics[0]; i++) {
        const picture_magic *m = &magics[i];
        if (size >= m->at + m->size && !memcmp(data + m->at, m->bytes, m->size)) return m;
    }
    return NULL;
}

int image_check_pixels(int64_t width, int64_t height, const char *name, const image_options *opt,
                       sq_error *err)
{
    int64_t limit = opt && opt->max_pixels > 0 ? opt->max_pixels : DEFAULT_MAX_PIXELS;
    if (width > limit / height)
        return error_set(err, SQ_E_LIMIT,
                         "%s: %" PRId64 "x%" PRId64 " pixels pass the limit of %" PRId64 " pixels",
                         name, width, height, limit);
    return SQ_OK;
}

int image_decode(sq_image *im, const void *data, size_t size, const char *name,
                 const image_options *opt, sq_error *err)
{
    *im = (sq_image){0};
    if (!size) return error_set(err, SQ_E_FORMAT, "%s: the file is empty", name);
    const picture_magic *m = picture_recognise(data, size);
    if (!m)
        return error_set(err, SQ_E_FORMAT, "%s: not a picture: expected a PNG or JPEG file", name);
    if (m->kind == PICTURE_OTHER)
        return error_set(err, SQ_E_UNSUPPORTED, "%s: %s is not supported; PNG and JPEG are", name,
                         m->format);
    int orientation = 1;
    int rc = m->kind == PICTURE_JPEG
                 ? image_decode_jpeg(im, data, size, name, opt, &orientation, err)
                 : image_decode_png(im, data, size, name, opt, &orientation, err);
    if (!rc && !(opt && opt->ignore_exif)) rc = image_orient(im, orientation, err);
    if (rc) image_close(im);
    return rc;
}

int image_load(sq_image *im, const char *path, const image_options *opt, sq_error *err)
{
    *im = (sq_image){0};
    file_map map;
    TRY(file_map_open(&map, path, err));
    int rc = image_decode(im, map.data, map.size, path, opt, err);
    file_map_close(&map);
    return rc;
}

int image_alloc(sq_image *im, int width, int height, sq_error *err)
{
    *im = (sq_image){0};
    if (width <= 0 || height <= 0 || (size_t)width > PTRDIFF_MAX / 3 / (size_t)height)
        return error_set(err, SQ_E_LIMIT, "a picture of %dx%d pixels cannot be held", width,
                         height);
    /* Zeroed: what a cut-off file leaves out is black, never old memory. */
    im->rgb = calloc((size_t)width * (size_t)height, 3);
    if (!im->rgb)
        return error_set(err, SQ_E_NOMEM, "out of memory for a picture of %dx%d pixels", width,
                         height);
    im->width = width;
    im->height = height;
    return SQ_OK;
}

void image_close(sq_image *im)
{
    free(im->rgb);
    *im = (sq_image){0};
}

/* Where source pixel (0,0) lands and how far one step in x and in y moves, in pixels of out. */
typedef struct orient_walk {
    ptrdiff_t start, step_x, step_y;
} orient_walk;

static orient_walk orient_plan(int orientation, int width, int height)
{
    ptrdiff_t w = width, h = height;
    switch (orientation) {
    case 2: return (orient_walk){w - 1, -1, w};
    case 3: return (orient_walk){w * h - 1, -1, -w};
    case 4: return (orient_walk){w * (h - 1), 1, -w};
    case 5: return (orient_walk){0, h, 1};
    case 6: return (orient_walk){h - 1, h, -1};
    case 7: return (orient_walk){w * h - 1, -h, -1};
    case 8: return (orient_walk){h * (w - 1), -h, 1};
    default: return (orient_walk){0, 1, w};
    }
}

int image_orient(sq_image *im, int orientation, sq_error *err)
{
    enum { TILE = 64 }; /* keeps both sides of a quarter turn in the cache */
    if (orientation < 2 || orientation > 8) return SQ_OK;
    int w = im->width, h = im->height;
    sq_image out;
    TRY(image_alloc(&out, orientation < 5 ? w : h, orientation < 5 ? h : w, err));
    orient_walk walk = orient_plan(orientation, w, h);
    for (int ty = 0; ty < h; ty += TILE)
        for (int tx = 0; tx < w; tx += TILE)
            for (int y = ty; y < h && y < ty + TILE; y++) {
                const uint8_t *s = im->rgb + ((size_t)y * (size_t)w + (size_t)tx) * 3;
                ptrdiff_t at = walk.start + y * walk.step_y + tx * walk.step_x;
                for (int x = tx; x < w && x < tx + TILE; x++, s += 3, at += walk.step_x)
                    memcpy(out.rgb + at * 3, s, 3);
            }
    image_close(im);
    *im = out;
    return SQ_OK;
}
