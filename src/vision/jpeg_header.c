#include "vision/image_format.h"

#include <string.h>

enum { M_SOI = 0xd8, M_EOI = 0xd9, M_SOS = 0xda, M_DHT = 0xc4, M_JPG = 0xc8, M_DAC = 0xcc,
       M_DHP = 0xde, M_APP1 = 0xe1, M_RST0 = 0xd0, M_JPG0 = 0xf0, M_JPG13 = 0xfd };

static bool marker_is_frame(int marker)
{
    return (marker >= 0xc0 && marker <= 0xcf && marker != M_DHT && marker != M_JPG &&
            marker != M_DAC) || marker == M_DHP;
}

static bool marker_has_segment(int marker)
{
    return marker != M_JPG && !(marker >= M_RST0 && marker <= M_EOI) &&
           !(marker >= M_JPG0 && marker <= M_JPG13);
}

static int jpeg_frame(jpeg_header *h, int marker, const uint8_t *s, size_t n, const char *name,
                      sq_error *err)
{
    if (n < 6) return error_set(err, SQ_E_FORMAT, "%s: damaged JPEG: short frame header", name);
    h->height = s[1] << 8 | s[2];
    h->width = s[3] << 8 | s[4];
    h->components = s[5];
    if (s[0] != 8)
        return error_set(err, SQ_E_UNSUPPORTED, "%s: JPEG: expected 8 bits per sample, found %d",
                         name, s[0]);
    if (h->components != 1 && h->components != 3 && h->components != 4)
        return error_set(err, SQ_E_UNSUPPORTED, "%s: JPEG: expected 1, 3 or 4 components, found %d",
                         name, h->components);
    bool lossless = (marker & 3) == 3, hierarchical = (marker & 4) || marker == M_DHP;
    if (lossless || hierarchical)
        return error_set(err, SQ_E_UNSUPPORTED, "%s: %s JPEG (frame type 0x%02x) is not supported",
                         name, hierarchical ? "hierarchical" : "lossless", marker);
    return SQ_OK;
}

/* Only the first EXIF block counts. One that is cut inside its TIFF header makes Pillow refuse the
 * file; any other damage there just means "no orientation". */
static int jpeg_exif(jpeg_header *h, const uint8_t *s, size_t n, const char *name, sq_error *err)
{
    if (h->orientation || n < 6 || memcmp(s, "Exif\0\0", 6) != 0) return SQ_OK;
    s += 6, n -= 6;
    bool tiff = n >= 4 && (!memcmp(s, "MM\0\x2a", 4) || !memcmp(s, "II\x2a\0", 4));
    if (tiff && n < 8)
        return error_set(err, SQ_E_FORMAT, "%s: damaged JPEG: the EXIF header is cut off", name);
    h->orientation = exif_orientation(s, n);
    return SQ_OK;
}

int jpeg_read_header_segments(jpeg_header *h, const uint8_t *data, size_t size, const char *name,
                              sq_error *err)
{
    *h = (jpeg_header){0};
    bool after_ff = true;
    for (size_t p = 3; p < size;) {
        int marker = data[p++];
        if (!after_ff || marker == 0 || marker == 0xff) {
            after_ff = marker == 0xff;
            continue;
        }
        after_ff = false;
        if (marker < 0xc0)
            return error_set(err, SQ_E_FORMAT, "%s: damaged JPEG: unknown marker 0x%02x", name,
                             marker);
        if (!marker_has_segment(marker)) continue;
        if (size - p < 2) break;
        size_t len = (size_t)data[p] << 8 | data[p + 1], n = len < 2 ? 0 : len - 2;
        p += 2;
        if (n > size - p) break;
        if (marker_is_frame(marker)) TRY(jpeg_frame(h, marker, data + p, n, name, err));
        if (marker == M_APP1) TRY(jpeg_exif(h, data + p, n, name, err));
        p += n;
        if (marker != M_SOS) continue;
        if (!h->components)
            return error_set(err, SQ_E_FORMAT, "%s: damaged JPEG: no frame header", name);
        if (!h->width || !h->height)
            return error_set(err, SQ_E_FORMAT, "%s: damaged JPEG: the size is %dx%d", name,
                             h->width, h->height);
        if (!h->orientation) h->orientation = 1;
        return SQ_OK;
    }
    return error_set(err, SQ_E_FORMAT, "%s: truncated: the file ends inside the JPEG header", name);
}
