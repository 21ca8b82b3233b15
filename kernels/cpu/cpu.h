/* The CPU backend's parts: every slot starts as the reference, then rising instruction sets
 * override the hot ones, and last oneDNN takes the matrix products. */
#ifndef SQ_CPU_H
#define SQ_CPU_H

#include "kernels/backend.h"

/* State of the matrix products: caches of repacked weights and of oneDNN primitives. */
typedef struct linear_state linear_state;

typedef struct cpu_priv {
    linear_state *linear;
} cpu_priv;

/* Overrides for every slot but linear (kernels/cpu/x86). */
void ops_init_avx2(sq_ops *ops);
void ops_init_avx512(sq_ops *ops);

/* The linear slot (kernels/cpu/linear.c): few rows go to the row kernels that read the stored
 * weights, many rows to the blocked product or to oneDNN, by be->cpu_flags and be->compute.
 * Opens be->priv's state; resolves be->compute AUTO; appends its part to be->describe. */
int cpu_linear_open(sq_backend *be, size_t pack_limit, sq_error *err);
void cpu_linear_close(sq_backend *be);

/* linear_ref: the reference, y in f32 from double sums. */
void linear_ref(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                const sq_tensor *b, const linear_desc *d);

#endif
