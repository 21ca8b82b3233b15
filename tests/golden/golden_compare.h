/* Golden tensors (a safetensors file) and comparisons with them; tests only. */
#ifndef SQ_TEST_GOLDEN_COMPARE_H
#define SQ_TEST_GOLDEN_COMPARE_H

#include "kernels/backend.h"
#include "models/weights.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const double STAGE_TOLERANCE = 1e-5; /* relative L2 */
static const double GPU_TOLERANCE = 1e-4;   /* what squint accepts of a GPU in f32 */
static const double LOGIT_TOLERANCE = 1e-3; /* absolute */
/* In 16 bits, stages and logits (of the largest): 16 roundings of bf16, 2^-9 each, that happen to
 * add up. A CPU in bf16, where f32 flows between ops, differs by up to 1.8e-2. */
static const double HALF_TOLERANCE = 1.0 / 32;

typedef struct golden_file {
    const char *label; /* for messages */
    sq_backend *be;
    weight_map map;
    double worst;      /* largest relative L2 so far */
    double worst_logit;
} golden_file;

static sq_error err;

static inline void ok(int rc)
{
    if (rc) fail_msg("%s", err.text);
}

static inline void golden_open(golden_file *g, const char *path)
{
    ok(safetensors_add(&g->map, path, &err));
    ok(weight_map_sort(&g->map, &err));
}

static inline const sq_tensor *golden(golden_file *g, const char *name)
{
    const weight_entry *e = weight_find(&g->map, name);
    if (!e) fail_msg("%s: no golden tensor %s", g->label, name);
    return &e->t;
}

static inline bool in_half(const sq_backend *be)
{
    return be->compute != SQ_COMPUTE_F32;
}

/* The distance of neighbouring values of this type around x. */
static inline double half_step(sq_compute type, double x)
{
    int exponent;
    frexp(x, &exponent);
    return ldexp(1, exponent - (type == SQ_COMPUTE_BF16 ? 8 : 11));
}

/* Two logits that rounding to this type may swap: each may be off by one step. */
static inline bool near_tie(sq_compute type, double larger, double smaller)
{
    return larger - smaller <= 2 * half_step(type, larger);
}

/* Relative L2 distance of x[n] from the golden tensor's values from `at` on. */
static inline void compare_part(golden_file *g, const char *name, int64_t at, const float *x,
                                int64_t n)
{
    const sq_tensor *t = golden(g, name);
    assert_int_equal(t->dtype, SQ_DTYPE_F32);
    if (n < 1 || at + n > tensor_count(t))
        fail_msg("%s: %s: %lld values expected, found %lld", g->label, name,
                 (long long)tensor_count(t), (long long)(at + n));
    const float *y = (const float *)t->data + at;
    double diff = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        diff += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
        norm += (double)y[i] * y[i];
    }
    double rel = sqrt(diff / norm);
    double limit = in_half(g->be) ? HALF_TOLERANCE : g->be->resident ? GPU_TOLERANCE
                                                                     : STAGE_TOLERANCE;
    if (!(rel <= limit))
        fail_msg("%s on %s: %s (values from %lld): relative L2 %.3g", g->label, g->be->describe,
                 name, (long long)at, rel);
    if (rel > g->worst) g->worst = rel;
}

static inline void compare(golden_file *g, const char *name, const float *x, int64_t n)
{
    assert_int_equal(tensor_count(golden(g, name)), n);
    compare_part(g, name, 0, x, n);
}

static inline void compare_tensor(golden_file *g, const char *name, const sq_tensor *t)
{
    size_t size = tensor_bytes(t), n = (size_t)tensor_count(t);
    void *raw = malloc(size);
    float *x = malloc(n * sizeof *x);
    assert_non_null(raw);
    assert_non_null(x);
    g->be->read(g->be, raw, t->data, size);
    convert_to_f32(x, raw, t->dtype, (int64_t)n);
    compare(g, name, x, (int64_t)n);
    free(raw);
    free(x);
}

static inline void compare_logits(golden_file *g, const char *name, const float *x, int n)
{
    const sq_tensor *t = golden(g, name);
    assert_int_equal(t->dtype, SQ_DTYPE_F32);
    assert_int_equal(tensor_count(t), n);
    const float *y = t->data;
    double largest = 0;
    for (int i = 0; i < n; i++)
        largest = fabs(y[i]) > largest ? fabs(y[i]) : largest;
    double limit = in_half(g->be) ? HALF_TOLERANCE * largest : LOGIT_TOLERANCE;
    for (int i = 0; i < n; i++) {
        double d = fabs((double)x[i] - y[i]);
        if (!(d <= limit))
            fail_msg("%s on %s: %s %d differs by %.3g", g->label, g->be->describe, name, i, d);
        if (d > g->worst_logit) g->worst_logit = d;
    }
}

static inline int32_t best_token(const float *x, int n)
{
    int at = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[at]) at = i;
    return at;
}

/* ---- a backend that was asked for: "test_stages cuda", "test_stages cuda bf16" ---- */

typedef struct golden_target {
    const char *backend;  /* NULL: none, the test chooses */
    const char *compute[2]; /* f32 and bf16, or the one that was named and NULL */
} golden_target;

static inline sq_compute compute_of(const char *name)
{
    return !strcmp(name, "f32") ? SQ_COMPUTE_F32
           : !strcmp(name, "f16") ? SQ_COMPUTE_F16
                                  : SQ_COMPUTE_BF16;
}

/* Why this build or machine cannot run it: no device of the backend, a CPU without bf16. What goes
 * wrong on a device that is there is no reason: the tests will fail. */
static inline int golden_target_lacks(const backend_row *row, const golden_target *t, sq_error *why)
{
    backend_options o = {.name = row->name, .compute = compute_of(t->compute[0])};
    backend_device d = {.err.code = SQ_OK};
    sq_backend *be = NULL;
    int rc = row->probe(why);
    if (!rc && !row->device) {
        rc = backend_open(&be, &o, why);
        backend_close(&be);
    } else if (!rc) {
        rc = row->device(0, &d);
        *why = d.err;
    }
    return rc || why->code;
}

/* 0 to go on, or the exit code; 77: skipped. */
static inline int golden_target_parse(golden_target *t, int argc, char **argv)
{
    sq_error why = {0};
    *t = (golden_target){.compute = {"f32", "bf16"}};
    if (argc < 2) return 0;
    const backend_row *const *row = backend_rows;
    while (*row && strcmp((*row)->name, argv[1]))
        row++;
    bool known = argc < 3 || !strcmp(argv[2], "f32") || !strcmp(argv[2], "bf16") ||
                 !strcmp(argv[2], "f16");
    if (!*row || !known || argc > 3) {
        printf("usage: %s [BACKEND [f32|bf16|f16]]\n", argv[0]);
        return 2;
    }
    t->backend = argv[1];
    if (argc == 3) {
        t->compute[0] = argv[2];
        t->compute[1] = NULL;
    }
    if (!golden_target_lacks(*row, t, &why)) return 0;
    printf("skipped: %s\n", why.text);
    return 77;
}

#endif
