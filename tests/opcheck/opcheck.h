/* opcheck: every slot of a backend's op table against the plain C reference.
 *
 * A case opens with oc_begin, makes its tensors (oc_in, oc_out, oc_inout), uploads them with
 * oc_upload, calls the slot on the `dev` views and the reference on the `host` and `want` views,
 * and ends with oc_end, which compares outputs, canaries and inputs. Device memory is reached only
 * through the backend's own alloc, write and read.
 *
 * The reference computes on f32. Where a backend's activations are of 16 bits, oc_upload rounds the
 * values, slot and reference get the same ones, and oc_end allows the result one rounding more. */
#ifndef OPCHECK_H
#define OPCHECK_H

#include "kernels/backend.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum oc_fill {
    OC_RANDOM, /* uniform in [-1, 1) */
    OC_WIDE,   /* a mix: an eighth near zero, an eighth a thousand times larger */
    OC_TIES,   /* few values, many of them equal */
    OC_TINY,   /* denormal numbers and the smallest normal ones */
    OC_HUGE,   /* around 1e15: squares still fit f32; 100 where f16 holds them */
    OC_ZERO,
    OC_OFFSET,  /* 1000 + noise: what cancels must not be lost */
    OC_ONE_PER, /* 1 / (row length): sums stay small */
    OC_LATER    /* the case fills it */
} oc_fill;

/* How an element's error is measured: against its own value or the largest of its row; or the
 * case gives `scale` itself, one number an element. */
typedef enum oc_measure { OC_BY_VALUE, OC_BY_ROW } oc_measure;

/* One tensor of a case, between canaries. */
typedef struct oc_buf {
    sq_tensor dev;  /* what the slot gets; dev_mem plus the front canary */
    sq_tensor host; /* the values that were uploaded: f32 for activations, else of dev's type */
    sq_tensor want; /* outputs: the reference works here; of host's type */
    unsigned char *host_mem, *want_mem;
    float *values; /* activations of 16 bits: host's values before and after their rounding */
    void *dev_mem;
    size_t at, bytes, size; /* payload's place, its size, all with canaries */
    bool output, ignored;   /* ignored: what the slot leaves there does not matter */
    oc_measure measure;
    double *scale; /* [count] or NULL; OC_EXACT: the reference's bits; OC_ANY: whatever it is */
    double *slack; /* [count] or NULL: error that is allowed besides, absolute */
} oc_buf;

enum { OC_MAX_BUFS = 2 * SQ_STEP_MAX + 8, OC_GUARD = 256 };
#define OC_EXACT (-1.0)
#define OC_ANY (-2.0)

/* Allowed errors of one slot; the table is in opcheck_tolerance.c. "linear bf16" is linear's row
 * with a CPU's bf16 compute; "attn 16" is attn's with activations of 16 bits. */
typedef struct oc_tolerance {
    const char *slot;
    double
        rel_l2;   /* |y - ref| / |ref|, over the whole output; or |scale| max / 4 if that is more */
    double max;   /* of any element's error / its scale */
    double floor; /* absolute error that is always allowed: rounding of denormal numbers */
    const char *why;
} oc_tolerance;

typedef struct oc_slot_count {
    long checks, failed;
    double worst_l2, worst_max; /* share of the tolerance used */
} oc_slot_count;

typedef struct oc_run {
    sq_backend *be;
    sq_ops ops; /* the table under test: the backend's, or with a planted fault */
    sq_ops ref;
    sq_backend *ref_be; /* plain C on the host */
    const oc_tolerance *tol;
    char text[256]; /* the present case */
    oc_buf buf[OC_MAX_BUFS];
    int n_buf;
    bool bf16;           /* products round their f32 operands to bf16 (a CPU's bf16 compute) */
    sq_dtype fill_type;  /* fills make values that this type holds too; NONE: any */
    sq_dtype act;        /* be->act */
    double unit;         /* of act: 2^-8, 2^-11; 0 for f32 */
    int n_case;          /* counts cases: how a device's tensors are aligned goes round */
    unsigned char *pool; /* a device's memory for one case after the other */
    size_t pool_size, pool_used;
    uint64_t seed;
    double most;            /* multiply-adds of a case; 0: any number */
    int every, n_asked;     /* of a slot's cases only each `every`-th runs; 0: all */
    int left_out;           /* cases that would have taken more */
    bool quiet, stop_early; /* self-test: nothing printed, first failure ends the slot */
    long checks, failed, printed;
    oc_slot_count count[40]; /* by tolerance row */
    void (*region)(sq_backend *be, const void *key, size_t key_size, void (*fn)(void *user),
                   void *user); /* the backend's, or with a planted fault */
} oc_run;

/* A real one: it gets all large cases. */
bool oc_is_device(const oc_run *r);
/* The next case's tensors are aligned as an engine's are: unaligned ones take other kernels. */
void oc_align_next(oc_run *r);
/* True when this run leaves a case of so many multiply-adds out. */
bool oc_costs_too_much(oc_run *r, double multiply_adds);
/* False when the case must not run (self-test, after the first failure). */
bool oc_begin(oc_run *r, const char *slot, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
sq_tensor oc_none(void);
/* An activation of type t, r->act or f32; its host view is f32. */
oc_buf *oc_in(oc_run *r, sq_dtype t, int64_t rows, int64_t cols, oc_fill fill);
oc_buf *oc_out(oc_run *r, sq_dtype t, int64_t rows, int64_t cols);
oc_buf *oc_inout(oc_run *r, sq_dtype t, int64_t rows, int64_t cols, oc_fill fill);
/* An input that the slot may leave in any state. */
oc_buf *oc_spent(oc_run *r, sq_dtype t, int64_t rows, int64_t cols, oc_fill fill);
/* Stored values, their host view is of type t too: I32 and U8 start as zeros, caches as random. */
oc_buf *oc_typed(oc_run *r, sq_dtype t, int64_t rows, int64_t cols, oc_fill fill);
oc_buf *oc_typed_out(oc_run *r, sq_dtype t, int64_t rows, int64_t cols, oc_fill fill);
/* A weight as it lies in a mapped file: on the CPU even f32 may be 2-byte aligned. */
oc_buf *oc_stored(oc_run *r, sq_dtype t, int64_t rows, int64_t cols, oc_fill fill);
oc_buf *oc_ints(oc_run *r, const int32_t *values, int n);
/* The type in which a backend has a weight or a vector that was stored as t. */
sq_dtype oc_weight_type(const oc_run *r, sq_dtype t);
sq_dtype oc_vector_type(const oc_run *r, sq_dtype t);
/* r->act, or f32 every third time: a slot reads and writes either. */
sq_dtype oc_act_or_f32(const oc_run *r, int turn);
/* Rows of a host view, as the makers above fill them. */
void oc_fill_tensor(oc_run *r, const sq_tensor *t, oc_fill fill);
/* f32 values of an activation before the upload. */
float *oc_values(const oc_buf *b);
/* Element `at` of a host view. */
float oc_value(const sq_tensor *t, int64_t at);
/* All of them; to be freed. */
float *oc_floats(const sq_tensor *t);
void oc_put(const sq_tensor *t, int64_t at, float value);
void oc_put_nan(const sq_tensor *t, int64_t row); /* from this row on */
/* Of the finite ones: the length of a vector, the largest absolute value. */
double oc_norm(const float *x, int n);
double oc_largest(const sq_tensor *t);
/* Scale and slack of every element, to be filled by the case; slack starts as 0. */
double *oc_scale(oc_buf *b);
double *oc_slack(oc_buf *b);
/* Unit roundoff of a float type of 16 bits, and half of its smallest step; 0 for other types. */
double oc_unit(sq_dtype t);
double oc_least(sq_dtype t);
float oc_round(float x, sq_dtype t); /* to the nearest that t holds; other types: as it is */
void oc_upload(oc_run *r);
unsigned char oc_guard_byte(size_t i);
void oc_release(oc_run *r); /* the case's memory */
void oc_end(oc_run *r);
/* Ends a case like oc_end when outputs agree with `want` or, all of them, with `other`. */
void oc_end_either(oc_run *r, const oc_buf *out, const float *other);
oc_slot_count *oc_count_of(oc_run *r); /* of the present case's slot */
/* A check of the case that is no comparison of tensors. */
void oc_expect(oc_run *r, bool ok, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* A vector view [n] of a buffer made with one row. */
sq_tensor oc_vector(const sq_tensor *t);

void *oc_alloc(size_t size); /* ends the program when memory is out */
double oc_uniform(oc_run *r);
int oc_pick(oc_run *r, int n); /* 0 .. n-1 */
bool oc_is_finite(float f);
bool oc_is_nan(float f);
const char *oc_fill_name(oc_fill f);
/* The row of slot and suffix together, or else of the slot. */
const oc_tolerance *oc_tolerance_find(const char *slot, const char *suffix);
int oc_tolerance_count(void);
const oc_tolerance *oc_tolerance_row(int i);

/* Drops copies that a backend keeps of weights, before their memory is freed. */
void oc_forget_weights(oc_run *r);

/* The slots' cases, and which slots they serve. */
typedef struct oc_slot {
    const char *name;
    void (*check)(oc_run *r);
    bool whole; /* runs all of its cases always */
} oc_slot;
extern const oc_slot oc_slots[]; /* ends with name NULL */

void oc_check_linear(oc_run *r);
void oc_check_layer_norm(oc_run *r);
void oc_check_rms_norm(oc_run *r);
void oc_check_activate(oc_run *r);
void oc_check_silu_mul(oc_run *r);
void oc_check_add(oc_run *r);
void oc_check_patchify(oc_run *r);
void oc_check_embed(oc_run *r);
void oc_check_linear_many(oc_run *r);
void oc_check_linear_gated(oc_run *r);
void oc_check_rope_append(oc_run *r);
void oc_check_select_rows(oc_run *r);
void oc_check_attn(oc_run *r);
void oc_check_attn_step(oc_run *r);
void oc_check_attn_rows(oc_run *r);
void oc_check_attn_means(oc_run *r);
void oc_check_argmax(oc_run *r);
/* The large ones only. */
void oc_check_linear_large(oc_run *r);
void oc_check_many_large(oc_run *r);
void oc_check_gated_large(oc_run *r);
void oc_check_attn_long(oc_run *r);
void oc_check_attn_step_long(oc_run *r);
/* What is no slot: read, write and convert; region. */
void oc_check_memory(oc_run *r);
void oc_check_convert(oc_run *r);
void oc_check_region(oc_run *r);

/* Numbers worked out by hand from the formulas of ops.h: they check the reference too. */
void oc_check_by_hand(oc_run *r);

/* Every planted fault must be reported; counts one check a fault. */
void oc_self_test(oc_run *r);

/* Opens the backend "emulated". */
int oc_emulated_open(sq_backend **be, const backend_options *o, sq_error *err);

/* Times the hot slots: on the CPU, and on a device whose work runs beside the host's. */
int oc_bench(oc_run *r);
int oc_bench_device(oc_run *r);

/* Milliseconds of repeats: the median, and the best for machines that are busy with other work. */
typedef struct oc_time {
    double median, best;
} oc_time;
oc_time oc_time_of(double *ms, int n);

/* Times a bare oneDNN product in f32 or bf16; 0 when it is not built in or cannot; the pointers
 * are host memory. */
oc_time oc_bare_product(const float *x, const float *w, float *y, int n, int in, int out, bool bf16,
                        int n_threads);

#endif
