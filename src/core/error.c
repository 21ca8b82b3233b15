#include "core/error.h"

#include <stdarg.h>
#include <stdio.h>

int error_set(sq_error *err, int code, const char *fmt, ...)
{
    if (!err || err->code) return code;
    err->code = code;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
    for (char *c = err->text; *c; c++)
        if ((unsigned char)*c < 32 || *c == 127) *c = '?';
    return code;
}

void error_clear(sq_error *err)
{
    err->code = SQ_OK;
    err->text[0] = 0;
}
