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
static const double GPU_TOLERANCE = 1e-4;   /* f32 sums, not double, in another order */
static const double LOGIT_TOLERANCE = 1e-3; /* absolute */

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
    double rel = sqrt(diff / norm), limit = g->be->resident ? GPU_TOLERANCE : STAGE_TOLERANCE;
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
    size_t size = tensor_bytes(t);
    float *x = malloc(size);
    assert_non_null(x);
    g->be->read(g->be, x, t->data, size);
    compare(g, name, x, tensor_count(t));
    free(x);
}

static inline void compare_logits(golden_file *g, const char *name, const float *x, int n)
{
    const sq_tensor *t = golden(g, name);
    assert_int_equal(t->dtype, SQ_DTYPE_F32);
    assert_int_equal(tensor_count(t), n);
    for (int i = 0; i < n; i++) {
        double d = fabs((double)x[i] - ((const float *)t->data)[i]);
        if (!(d <= LOGIT_TOLERANCE))
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

/* Whether this build and machine have the backend. */
static inline bool backend_starts(const backend_options *o)
{
    sq_backend *be;
    bool can = backend_open(&be, o, &err) == SQ_OK;
    error_clear(&err);
    backend_close(&be);
    return can;
}

#endif
