/* The backend "diff:NAME": runs each op on backend NAME and on the CPU in f32, from the same
 * inputs, and fails at the first output that differs by more than the op's error model allows. The
 * CPU half is plain C when NAME is the CPU, its own f32 kernels otherwise. */
#ifndef SQ_BACKEND_DIFF_H
#define SQ_BACKEND_DIFF_H

#include "kernels/backend.h"

/* What was compared of one op. */
typedef struct diff_count {
    const char *op;
    int64_t n;      /* calls that were alike */
    double worst;   /* share of the allowed error, at most 1 unless the op differed */
    const char *part; /* where that was */
    int layer;
    char shape[64]; /* of its first inputs, "[631,4096] x [11008,4096]" */
} diff_count;

/* The i-th op's count; SQ_E_ARG past the last op or when be is no such backend. */
int diff_get(const sq_backend *be, int i, diff_count *out);

/* The backend NAME inside it: tests plant faults there. NULL when be is no such backend. */
sq_backend *diff_under_test(sq_backend *be);

#endif
