/* One error record per object: the first failure's code and one line of text.
 * Every fallible function returns 0 or SQ_E_*; whoever detects the failure fills the record once,
 * callers only forward the code. */
#ifndef SQ_ERROR_H
#define SQ_ERROR_H

#include "core/status.h"

typedef struct sq_error {
    int code;       /* SQ_OK until the first failure */
    char text[480]; /* one line, no newline, UTF-8 */
} sq_error;

/* Records the failure unless one is there already; err may be NULL. Returns code, so that
 * `return error_set(err, SQ_E_IO, "%s: cannot open", path);` is the usual form.
 * Control characters in the text (they may come from a file) become '?'. */
int error_set(sq_error *err, int code, const char *fmt, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 3, 4)))
#endif
    ;

void error_clear(sq_error *err);

/* Forwards a failure: the text is already in the record. */
#define TRY(call)                                                                                  \
    do {                                                                                           \
        int try_rc_ = (call);                                                                      \
        if (try_rc_) return try_rc_;                                                               \
    } while (0)

/* The same inside a function with one clean-up label; needs `int rc` and `fail:`. */
#define TRY_GOTO(call)                                                                             \
    do {                                                                                           \
        rc = (call);                                                                               \
        if (rc) goto fail;                                                                         \
    } while (0)

#endif
