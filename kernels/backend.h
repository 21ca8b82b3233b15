/* A backend: an op table, memory, and the first error. The CPU's memory is host memory; a GPU's is
 * not, so model code reaches results only through be->read and be->write. */
#ifndef SQ_BACKEND_H
#define SQ_BACKEND_H

#include "core/arena.h"
#include "core/error.h"
#include "kernels/ops.h"

#include <stdbool.h>
#include <stddef.h>

typedef enum sq_compute {
    SQ_COMPUTE_AUTO, /* bf16 products with f32 sums where the hardware has them, else f32 */
    SQ_COMPUTE_F32,  /* the exact path that the golden tests use */
    SQ_COMPUTE_BF16,
    SQ_COMPUTE_F16   /* GPU only: what F16 checkpoints were released in */
} sq_compute;

/* CPU feature bits; also the mask that hides them (backend_options.cpu_mask). */
enum {
    SQ_CPU_AVX2 = 1 << 0,   /* with FMA and F16C */
    SQ_CPU_AVX512 = 1 << 1, /* F, BW, DQ, VL */
    SQ_CPU_VNNI = 1 << 2,
    SQ_CPU_AVX512_BF16 = 1 << 3,
    SQ_CPU_AMX_BF16 = 1 << 4,
    SQ_CPU_NEON = 1 << 5,
    SQ_CPU_ONEDNN = 1 << 6, /* matrix products through oneDNN, when built in */
    SQ_CPU_NOTHING = 1 << 7 /* a mask of its own: plain C only */
};

typedef struct backend_options {
    /* "auto" (also NULL), "cpu", "cuda"; "diff:cuda" checks each op (backend_diff.h). A named one
     * that cannot start is an error. */
    const char *name;
    int device; /* which GPU; another than 0 makes "auto" insist on it */
    int n_threads;    /* 0: every core this process may use */
    sq_compute compute;
    unsigned cpu_mask; /* features allowed; 0 means all */
    size_t pack_limit; /* bytes for repacked weights; 0: half of the free memory */
} backend_options;

/* What a backend did since it was opened. */
typedef struct backend_count {
    int64_t syncs;    /* waits of the host for the device */
    int64_t launches; /* kernels and graphs started */
    int64_t graphs;   /* regions recorded */
    size_t bytes, peak_bytes; /* device memory held */
} backend_count;

struct sq_backend {
    const char *name;    /* "cpu" */
    char describe[224];  /* "cpu: avx2, oneDNN 2.6.3, 2 threads, f32" */
    sq_ops ops;
    sq_compute compute;  /* resolved: not AUTO */
    sq_dtype act;        /* what flows between ops: F32, or a GPU's BF16 or F16 */
    bool resident;       /* weights must be uploaded (model_upload) before ops may read them */
    int n_threads;       /* of the host */
    unsigned cpu_flags;  /* in use: detected and allowed */
    sq_error err;        /* first failure inside an op; sticky */
    arena_source memory; /* activations, KV cache and uploaded data live here */
    /* host_src may be reused at once. */
    void (*write)(sq_backend *be, void *dst, const void *host_src, size_t size);
    void (*read)(sq_backend *be, void *host_dst, const void *src, size_t size); /* waits for ops */
    void (*sync)(sq_backend *be); /* waits until all ops are done */
    /* dst[n] of type to = src[n] of type from: Q8_0 or a float type; of equal types a copy. */
    void (*convert)(sq_backend *be, void *dst, sq_dtype to, const void *src, sq_dtype from,
                    int64_t n);
    /* Runs fn(user), which may only call ops. A GPU may record it and replay the record when a key
     * comes again: the key must hold all that fn reads from host memory, pointers included. */
    void (*region)(sq_backend *be, const void *key, size_t key_size, void (*fn)(void *user),
                   void *user);
    const char *part;    /* "vision", "decoder", ...: names the place in messages (backend_at) */
    int layer;           /* of the part; -1: none of its layers */
    backend_count count;
    void *priv;
    void (*close_priv)(sq_backend *be);
};

typedef struct backend_device {
    char name[96];
    size_t memory;    /* bytes */
    int major, minor; /* compute capability */
    sq_error err;     /* why it cannot be used; code SQ_OK when it can */
} backend_device;

typedef struct backend_row {
    const char *name;
    /* 0 when it could start; otherwise err says why not. */
    int (*probe)(sq_error *err);
    int (*open)(sq_backend *be, const backend_options *o, sq_error *err);
    /* The i-th device; SQ_E_ARG past the last. NULL: there is nothing to choose from. */
    int (*device)(int i, backend_device *out);
} backend_row;

extern const backend_row *const backend_rows[]; /* best first; ends with NULL */
extern const backend_row backend_cpu;
extern const backend_row backend_cuda; /* built without SQ_CUDA: cannot start */
extern const backend_row backend_diff; /* by name only, "diff:cpu" */

/* The ops that follow belong to this place; layer -1: to none of its layers. */
static inline void backend_at(sq_backend *be, const char *part, int layer)
{
    be->part = part;
    be->layer = layer;
}

/* Opens the named or the best backend. On failure *be is NULL and err says why. */
int backend_open(sq_backend **be, const backend_options *o, sq_error *err);
void backend_close(sq_backend **be);

/* Detected CPU features of this machine, not masked; names like "avx2 avx512 amx-bf16". */
unsigned cpu_detect(void);
void cpu_flag_names(unsigned flags, char *out, size_t size);

/* "avx2", "avx512", "none", ... -> mask of that level and below, for --cpu; SQ_E_ARG if unknown. */
int cpu_mask_parse(const char *text, unsigned *mask);

#endif
