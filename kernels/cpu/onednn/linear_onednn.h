/* Matrix products through oneDNN: weights repacked once into the layout that the library asks for,
 * primitives kept by shape. Only in builds with SQ_ONEDNN. */
#ifndef SQ_LINEAR_ONEDNN_H
#define SQ_LINEAR_ONEDNN_H

#include "kernels/cpu/linear.h"

typedef struct onednn_linear onednn_linear;

typedef struct onednn_options {
    bool bf16; /* weights and x rounded to bf16, f32 sums; else all f32 */
    int n_threads;
    size_t pack_limit;             /* bytes; 0: half of the memory that is free now */
    const linear_kernels *kernels; /* for its conversion to f32; may be NULL */
} onednn_options;

/* bf16 products with f32 sums in this CPU's hardware, of the kinds that flags (SQ_CPU_*) allow. */
bool onednn_linear_has_bf16(unsigned flags);

/* Has packed f32 products here (AVX-512 and up); below, its plain product gains nothing. */
bool onednn_linear_has_packed_f32(void);

/* "oneDNN 2.6.3" */
void onednn_linear_name(char *out, size_t size);

int onednn_linear_open(onednn_linear **o, const onednn_options *opt, sq_error *err);
void onednn_linear_close(onednn_linear **o);

/* Forgets the packed weights, and with them their layouts and products; see cpu_linear_forget. */
void onednn_linear_forget(onednn_linear *o);

/* *done is false, and y untouched, when the product is not one for oneDNN: the pack limit is
 * reached, the library packs nothing for this shape, or in bf16 the number of inputs is odd.
 * Failures are SQ_E_NOMEM, SQ_E_BACKEND. */
int onednn_linear_run(onednn_linear *o, const linear_job *j, bool *done, sq_error *err);

#endif
