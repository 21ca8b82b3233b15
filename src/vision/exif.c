#include "vision/image_format.h"

#include <string.h>

enum { TAG_ORIENTATION = 0x0112, TIFF_BYTE = 1, TIFF_SHORT = 3, TIFF_LONG = 4, IFD_ENTRY = 12 };

static uint32_t tiff_u16(const uint8_t *p, bool big)
{
    return big ? (uint32_t)p[0] << 8 | p[1] : (uint32_t)p[1] << 8 | p[0];
}

static uint32_t tiff_u32(const uint8_t *p, bool big)
{
    return big ? tiff_u16(p, true) << 16 | tiff_u16(p + 2, true)
               : tiff_u16(p + 2, false) << 16 | tiff_u16(p, false);
}

/* The value of a one-element integer entry, 0 for any other. */
static uint32_t tiff_entry_value(const uint8_t *entry, bool big)
{
    if (tiff_u32(entry + 4, big) != 1) return 0;
    switch (tiff_u16(entry + 2, big)) {
    case TIFF_BYTE: return entry[8];
    case TIFF_SHORT: return tiff_u16(entry + 8, big);
    case TIFF_LONG: return tiff_u32(entry + 8, big);
    default: return 0;
    }
}

int exif_find_orientation(const uint8_t *tiff, size_t size)
{
    if (size < 8) return 0;
    bool big = !memcmp(tiff, "MM\0\x2a", 4);
    if (!big && memcmp(tiff, "II\x2a\0", 4) != 0) return 0;
    size_t at = tiff_u32(tiff + 4, big);
    if (at > size - 2) return 0;
    size_t count = tiff_u16(tiff + at, big);
    at += 2;
    uint32_t found = 0;
    for (size_t i = 0; i < count && size - at >= IFD_ENTRY; i++, at += IFD_ENTRY)
        if (tiff_u16(tiff + at, big) == TAG_ORIENTATION) found = tiff_entry_value(tiff + at, big);
    return found >= 1 && found <= 8 ? (int)found : 0;
}

int exif_orientation(const uint8_t *tiff, size_t size)
{
    int found = exif_find_orientation(tiff, size);
    return found ? found : 1;
}

int xmp_find_orientation(const uint8_t *text, size_t size)
{
    static const char key[] = "tiff:Orientation";
    size_t len = sizeof key - 1;
    for (size_t i = 0; i + len + 3 <= size; i++) {
        const uint8_t *p = memchr(text + i, 't', size - i - len - 2);
        if (!p) return 0;
        i = (size_t)(p - text);
        if (memcmp(p, key, len) != 0) continue;
        p += len;
        const uint8_t *digit = p[0] == '>' ? p + 1 : p[0] == '=' && p[1] == '"' ? p + 2 : NULL;
        if (!digit || *digit < '0' || *digit > '9') continue;
        return *digit >= '1' && *digit <= '8' ? *digit - '0' : 0;
    }
    return 0;
}
