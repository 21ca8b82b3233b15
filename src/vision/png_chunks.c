#include "vision/image_format.h"

#include <stdlib.h>
#include <string.h>

#include <zlib.h>

enum { CHUNK_FRAME = 12, MAX_TEXT = 1 << 20 }; /* Pillow's limit of one inflated text chunk */

typedef struct png_chunk {
    char type[5];
    const uint8_t *data;
    size_t size;
    bool crc_ok;
} png_chunk;

/* Orientations by source, 0 when absent; the order of trust is the order here. */
typedef struct png_hints {
    bool has_exif, has_profile;
    int exif, profile, xmp;
} png_hints;

static uint32_t png_u32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static bool chunk_type_valid(const uint8_t *p)
{
    for (int i = 0; i < 4; i++)
        if (!((p[i] >= 'A' && p[i] <= 'Z') || (p[i] >= 'a' && p[i] <= 'z'))) return false;
    return true;
}

/* *cut: the file ends inside this chunk. */
static int chunk_next(png_chunk *c, bool *cut, const uint8_t *data, size_t size, size_t *at,
                      const char *name, sq_error *err)
{
    *cut = size - *at < CHUNK_FRAME;
    if (*cut) return SQ_OK;
    const uint8_t *p = data + *at;
    if (!chunk_type_valid(p + 4))
        return error_set(err, SQ_E_FORMAT, "%s: damaged PNG: no chunk at byte %zu", name, *at);
    memcpy(c->type, p + 4, 4);
    c->type[4] = 0;
    c->data = p + 8;
    c->size = png_u32(p);
    *cut = c->size > size - *at - CHUNK_FRAME;
    if (*cut) return SQ_OK;
    uLong crc = crc32_z(crc32_z(0, Z_NULL, 0), p + 4, c->size + 4);
    c->crc_ok = (uint32_t)crc == png_u32(p + 8 + c->size);
    *at += CHUNK_FRAME + c->size;
    return SQ_OK;
}

/* out: MAX_TEXT bytes. A damaged stream is an empty text, as in Pillow; one that is too long is
 * an attack. */
static int text_inflate(uint8_t *out, size_t *n, const uint8_t *data, size_t size, const char *name,
                        sq_error *err)
{
    z_stream z = {0};
    *n = 0;
    if (inflateInit(&z) != Z_OK) return error_set(err, SQ_E_NOMEM, "%s: out of memory", name);
    z.next_in = (z_const Bytef *)(size_t)data;
    z.avail_in = (uInt)size; /* below 2^31: chunk sizes were checked against that */
    z.next_out = out;
    z.avail_out = MAX_TEXT;
    int zrc = inflate(&z, Z_FINISH);
    bool full = z.avail_out == 0 && zrc != Z_STREAM_END && zrc != Z_DATA_ERROR;
    *n = zrc == Z_STREAM_END ? MAX_TEXT - z.avail_out : 0;
    inflateEnd(&z);
    if (full)
        return error_set(err, SQ_E_LIMIT, "%s: PNG: a text chunk inflates to more than %d bytes",
                         name, MAX_TEXT);
    return SQ_OK;
}

static int hex_digit(uint8_t c)
{
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "\nexif\n  LENGTH\nHEX...": an EXIF block as ImageMagick writes it into a text chunk. */
static int profile_orientation(const uint8_t *text, size_t n)
{
    size_t at = 0;
    for (int line = 0; line < 3; line++) {
        const uint8_t *end = memchr(text + at, '\n', n - at);
        if (!end) return 0;
        at = (size_t)(end - text) + 1;
    }
    uint8_t *raw = malloc((n - at) / 2 + 1);
    if (!raw) return 0;
    size_t len = 0;
    int high = -1;
    for (; at < n; at++) {
        int digit = hex_digit(text[at]);
        if (digit < 0) {
            if (text[at] == '\n' || text[at] == ' ' || text[at] == '\r') continue;
            break;
        }
        if (high < 0) {
            high = digit;
        } else {
            raw[len++] = (uint8_t)(high << 4 | digit);
            high = -1;
        }
    }
    size_t skip = len >= 6 && !memcmp(raw, "Exif\0\0", 6) ? 6 : 0;
    int found = exif_find_orientation(raw + skip, len - skip);
    free(raw);
    return found;
}

static void text_hint(png_hints *hints, const char *key, const uint8_t *text, size_t n)
{
    if (!strcmp(key, "Raw profile type exif")) {
        hints->has_profile = true;
        hints->profile = profile_orientation(text, n);
    } else if (!strcmp(key, "XML:com.adobe.xmp")) {
        hints->xmp = xmp_find_orientation(text, n);
    }
}

/* iTXt after its key: flag, method, language\0, translated key\0, text. NULL when damaged. */
static const uint8_t *itxt_text(const uint8_t *p, const uint8_t *end)
{
    if (end - p < 2) return NULL;
    p += 2;
    for (int i = 0; i < 2; i++) {
        p = memchr(p, 0, (size_t)(end - p));
        if (!p) return NULL;
        p++;
    }
    return p;
}

static int text_chunk(png_hints *hints, const png_chunk *c, const char *name, sq_error *err)
{
    char key[80];
    const uint8_t *end = c->data + c->size, *p = memchr(c->data, 0, c->size);
    if (!p) return SQ_OK;
    size_t key_len = (size_t)(p - c->data);
    if (key_len >= sizeof key) key_len = 0;
    memcpy(key, c->data, key_len);
    key[key_len] = 0;
    p++;
    bool packed = false;
    if (c->type[0] == 'z') {
        packed = true;
        if (p == end || *p++ != 0) return SQ_OK;
    } else if (c->type[0] == 'i') {
        const uint8_t *text = itxt_text(p, end);
        if (!text || (p[0] && p[1])) return SQ_OK;
        packed = p[0] != 0;
        p = text;
    }
    if (!packed) {
        text_hint(hints, key, p, (size_t)(end - p));
        return SQ_OK;
    }
    uint8_t *text = malloc(MAX_TEXT);
    if (!text) return error_set(err, SQ_E_NOMEM, "%s: out of memory", name);
    size_t n;
    int rc = text_inflate(text, &n, p, (size_t)(end - p), name, err);
    if (!rc) text_hint(hints, key, text, n);
    free(text);
    return rc;
}

static int chunk_hint(png_hints *hints, const png_chunk *c, const char *name, sq_error *err)
{
    if (!strcmp(c->type, "eXIf")) {
        hints->has_exif = true;
        hints->exif = exif_find_orientation(c->data, c->size);
        return SQ_OK;
    }
    if (!strcmp(c->type, "tEXt") || !strcmp(c->type, "zTXt") || !strcmp(c->type, "iTXt"))
        return text_chunk(hints, c, name, err);
    return SQ_OK;
}

static int hints_orientation(const png_hints *hints)
{
    int found = hints->has_exif ? hints->exif : hints->has_profile ? hints->profile : 0;
    if (!found) found = hints->xmp;
    return found ? found : 1;
}

static int chunk_ihdr(png_header *h, const png_chunk *c, const char *name,
                      const image_options *opt, sq_error *err)
{
    if (strcmp(c->type, "IHDR") != 0 || c->size != 13)
        return error_set(err, SQ_E_FORMAT, "%s: damaged PNG: expected IHDR first, found %s", name,
                         c->type);
    h->width = png_u32(c->data);
    h->height = png_u32(c->data + 4);
    if (!h->width || !h->height || h->width > INT32_MAX || h->height > INT32_MAX)
        return error_set(err, SQ_E_FORMAT, "%s: damaged PNG: the size is %lldx%lld", name,
                         (long long)h->width, (long long)h->height);
    return image_check_pixels(h->width, h->height, name, opt, err);
}

int png_read_chunks(png_header *h, const uint8_t *data, size_t size, const char *name,
                    const image_options *opt, sq_error *err)
{
    *h = (png_header){0};
    png_hints hints = {0};
    bool pixels = false, cut = false, end = false;
    for (size_t at = 8; !end;) {
        png_chunk c = {0};
        TRY(chunk_next(&c, &cut, data, size, &at, name, err));
        if (cut) break;
        bool idat = !strcmp(c.type, "IDAT");
        if (!c.crc_ok && !pixels && !idat)
            return error_set(err, SQ_E_FORMAT, "%s: damaged PNG: wrong checksum of %s", name,
                             c.type);
        if (c.size > INT32_MAX)
            return error_set(err, SQ_E_FORMAT, "%s: damaged PNG: %s is too long", name, c.type);
        if (!h->width) {
            TRY(chunk_ihdr(h, &c, name, opt, err));
        } else if (idat) {
            pixels = true;
            h->idat_crc_bad = h->idat_crc_bad || !c.crc_ok;
        } else if (c.crc_ok) {
            TRY(chunk_hint(&hints, &c, name, err));
        }
        end = !strcmp(c.type, "IEND");
    }
    if (cut && (!h->width || !(opt && opt->allow_truncated)))
        return error_set(err, SQ_E_FORMAT, "%s: truncated: the PNG file has no end", name);
    if (!cut && !pixels)
        return error_set(err, SQ_E_FORMAT, "%s: damaged PNG: no pixel data", name);
    h->orientation = hints_orientation(&hints);
    return SQ_OK;
}
