/* What image.c and the two decoders share: walks over a file's segments that need no codec. */
#ifndef SQ_IMAGE_FORMAT_H
#define SQ_IMAGE_FORMAT_H

#include "core/error.h"
#include "vision/image.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What stands in front of a JPEG's first scan. */
typedef struct jpeg_header {
    int width, height;
    int components; /* 1, 3 or 4 */
    int orientation;
} jpeg_header;

/* Walks the marker segments up to the first scan with the strictness of Pillow; SQ_E_UNSUPPORTED
 * for JPEG processes that no common decoder knows (lossless, hierarchical, not 8 bits). */
int jpeg_read_header_segments(jpeg_header *h, const uint8_t *data, size_t size, const char *name,
                              sq_error *err);

/* What stands around a PNG's pixel data. */
typedef struct png_header {
    int64_t width, height;
    int orientation;
    bool idat_crc_bad; /* the pixel stream's own checksum decides then */
} png_header;

/* Walks all chunks to IEND. Every chunk before the pixel data must match its CRC; afterwards a
 * metadata chunk that does not is left out. A file that ends before IEND is SQ_E_FORMAT unless
 * opt allows it. The pixel limit is checked here, right after IHDR. */
int png_read_chunks(png_header *h, const uint8_t *data, size_t size, const char *name,
                    const image_options *opt, sq_error *err);

/* SQ_E_LIMIT when width * height passes opt's limit. */
int image_check_pixels(int64_t width, int64_t height, const char *name, const image_options *opt,
                       sq_error *err);

/* exif_orientation, but 0 when the tag is absent or the block is damaged. */
int exif_find_orientation(const uint8_t *tiff, size_t size);

/* The same inside an XMP packet, found by its text as Pillow does. */
int xmp_find_orientation(const uint8_t *text, size_t size);

#endif
