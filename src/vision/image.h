/* Pictures: JPEG and PNG files to 8-bit RGB, as Pillow's Image.open(f).convert("RGB") gives them
 * (EXIF orientation apart). The format is recognised by content, never by file name. */
#ifndef SQ_IMAGE_H
#define SQ_IMAGE_H

#include "core/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct sq_image {
    int width, height;
    uint8_t *rgb; /* [height, width, 3], malloc'ed; NULL when closed */
} sq_image;

typedef struct image_options {
    int64_t max_pixels;   /* 0: 178956970, Pillow's limit; checked before any allocation */
    bool ignore_exif;     /* keep the stored orientation, as the reference scripts do */
    bool allow_truncated; /* a cut-off file gives the part that is there (rest grey/black) */
} image_options;

/* Decodes a whole file. opt may be NULL. Errors name the file: SQ_E_IO cannot read, SQ_E_FORMAT
 * damaged, SQ_E_UNSUPPORTED another format, SQ_E_LIMIT too many pixels. Close with image_close. */
int image_load(sq_image *im, const char *path, const image_options *opt, sq_error *err);

/* The same from memory; name is used in messages. */
int image_decode(sq_image *im, const void *data, size_t size, const char *name,
                 const image_options *opt, sq_error *err);

void image_close(sq_image *im);

/* Allocates rgb for width x height; SQ_E_NOMEM or SQ_E_LIMIT on overflow. */
int image_alloc(sq_image *im, int width, int height, sq_error *err);

/* The two decoders behind image_decode; each recognises nothing, it just decodes its format.
 * *orientation gets the EXIF orientation 1..8 (1 when there is none). */
int image_decode_jpeg(sq_image *im, const void *data, size_t size, const char *name,
                      const image_options *opt, int *orientation, sq_error *err);
int image_decode_png(sq_image *im, const void *data, size_t size, const char *name,
                     const image_options *opt, int *orientation, sq_error *err);

/* EXIF orientation inside a TIFF block ("II*\0..." or "MM\0*..."); 1 when absent or damaged. */
int exif_orientation(const uint8_t *tiff, size_t size);

/* Turns the picture upright for orientation 1..8, in place of the old pixels. */
int image_orient(sq_image *im, int orientation, sq_error *err);

/* Writes 8-bit RGB as PNG (".png") or PPM (".ppm") by the path's ending; the file appears whole. */
int image_save(const sq_image *im, const char *path, sq_error *err);

#endif
