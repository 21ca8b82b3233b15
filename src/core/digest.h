/* Digest of a key: 128 bits, so that two different keys never meet in practice. */
#ifndef SQ_DIGEST_H
#define SQ_DIGEST_H

#include <stddef.h>
#include <stdint.h>

typedef struct digest {
    uint64_t a, b;
} digest; /* zero-initialised is valid and empty */

/* FNV-1a and, for the second half, multiply and xorshift. */
static inline void digest_add(digest *d, const void *data, size_t size)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < size; i++) {
        d->a = (d->a ^ p[i]) * 0x100000001b3u;
        d->b = (d->b + p[i] + 1) * 0x9e3779b97f4a7c15u;
        d->b ^= d->b >> 29;
    }
}

#endif
