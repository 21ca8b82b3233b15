/* Result codes shared by the public API and every layer below it. 0 is success. */
#ifndef SQ_STATUS_H
#define SQ_STATUS_H

enum {
    SQ_OK = 0,
    SQ_E_ARG = -1,         /* an option or argument is wrong (the program exits with 2) */
    SQ_E_NOMEM = -2,       /* allocation failed */
    SQ_E_IO = -3,          /* a file could not be opened, read or written */
    SQ_E_FORMAT = -4,      /* a file's content is damaged or not what was expected */
    SQ_E_UNSUPPORTED = -5, /* valid, but squint cannot do it */
    SQ_E_LIMIT = -6,       /* a size limit was passed: pixels, context, memory */
    SQ_E_BACKEND = -7,     /* a compute backend failed or cannot start */
    SQ_E_STOPPED = -8      /* the caller's callback asked to stop */
};

#endif
