#include "core/log.h"

#include <stdarg.h>
#include <stdio.h>

void log_line(const sq_log *log, sq_log_level level, const char *fmt, ...)
{
    if (!log || !log->fn) return;
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    log->fn(log->user, level, text);
}
