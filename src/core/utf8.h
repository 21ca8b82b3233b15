#ifndef SQ_UTF8_H
#define SQ_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes of the valid UTF-8 character at s, 0 when it is none. Of a text that ends in a 0 byte
 * nothing behind that is read, so left may be larger. */
size_t utf8_size(const unsigned char *s, size_t left);
bool utf8_valid(const char *text, size_t size);

#endif
