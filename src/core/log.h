/* Notices for the user ("running on one view", "backend: cpu avx2"). The library never prints: it
 * calls the function that the program installed, or drops the line. */
#ifndef SQ_LOG_H
#define SQ_LOG_H

typedef enum sq_log_level { SQ_LOG_INFO, SQ_LOG_WARN } sq_log_level;
typedef void (*sq_log_fn)(void *user, sq_log_level level, const char *line);

typedef struct sq_log {
    sq_log_fn fn; /* NULL: silent */
    void *user;
} sq_log;

void log_line(const sq_log *log, sq_log_level level, const char *fmt, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 3, 4)))
#endif
    ;

#endif
