/* What the CPU's linear slot does besides its products, which opcheck checks: the choice of bf16,
 * the packed weights' limit and reuse, and the kernels' activations by themselves. */
#include "kernels/cpu/linear.h"
#include "kernels/cpu/onednn/linear_onednn.h"
#include "kernels/cpu/ref/ref.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { CANARY = 16 };

static uint32_t seed = 1;

static float uniform(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8) / 8388608.0f - 1.0f;
}

static float bf16_near(float f)
{
    return bf16_to_f32(f32_to_bf16(f));
}

typedef struct shape {
    int n, in, out;
    sq_dtype type;
    linear_desc d;
    sq_dtype bias; /* NONE: no bias */
    float scale;   /* of x */
} shape;

/* One case's tensors. The weights start 2 bytes off any wider alignment, as in a mapped file. */
typedef struct example {
    sq_tensor x, w, b, y, ref;
    float *limit; /* [n,out] allowed error */
    void *owned[6];
} example;

static void *example_alloc(example *e, int slot, size_t size)
{
    e->owned[slot] = malloc(size + 64);
    assert_non_null(e->owned[slot]);
    return e->owned[slot];
}

static void fill_stored(void *dst, sq_dtype t, int rows, int cols, bool bf16)
{
    float *row = malloc(sizeof *row * (size_t)cols);
    assert_non_null(row);
    for (int r = 0; r < rows; r++) {
        for (int i = 0; i < cols; i++)
            row[i] = bf16 ? bf16_near(uniform()) : uniform();
        convert_from_f32((char *)dst + (size_t)r * dtype_row_bytes(t, cols), t, row, cols);
    }
    free(row);
}

/* f32 sums of k products in any order: |error| <= eps * (8 + sqrt k) * sum |x w|; the activations'
 * slopes stay below 1.13 and their own error below a few eps of the value. */
static void fill_limits(const shape *s, const example *e, double eps)
{
    float *w = malloc(sizeof *w * (size_t)s->in);
    assert_non_null(w);
    size_t row = dtype_row_bytes(s->type, s->in);
    for (int o = 0; o < s->out; o++) {
        convert_to_f32(w, (const char *)e->w.data + (size_t)o * row, s->type, s->in);
        for (int i = 0; i < s->n; i++) {
            const float *x = (const float *)e->x.data + (size_t)i * (size_t)s->in;
            double sum = 2;
            for (int k = 0; k < s->in; k++)
                sum += fabs((double)x[k] * (double)w[k]);
            e->limit[i * s->out + o] = (float)(1.3 * eps * (8 + sqrt(s->in)) * sum);
        }
    }
    free(w);
}

static void example_make(example *e, const shape *s, bool bf16)
{
    *e = (example){0};
    size_t n_x = (size_t)s->n * (size_t)s->in, n_y = (size_t)s->n * (size_t)s->out;
    float *x = example_alloc(e, 0, 4 * n_x);
    for (size_t i = 0; i < n_x; i++)
        x[i] = s->scale * (bf16 ? bf16_near(uniform()) : uniform());
    char *w = example_alloc(e, 1, (size_t)s->out * dtype_row_bytes(s->type, s->in));
    fill_stored(w + 2, s->type, s->out, s->in, bf16);
    float *y = example_alloc(e, 2, 4 * (n_y + CANARY)), *ref = example_alloc(e, 3, 4 * n_y);
    for (size_t i = 0; i < n_y + CANARY; i++) {
        y[i] = i < n_y ? (s->d.add ? uniform() : NAN) : 77.0f;
        if (i < n_y) ref[i] = y[i];
    }
    e->x = tensor_2d(x, SQ_DTYPE_F32, s->n, s->in);
    e->w = tensor_2d(w + 2, s->type, s->out, s->in);
    e->y = tensor_2d(y, SQ_DTYPE_F32, s->n, s->out);
    e->ref = tensor_2d(ref, SQ_DTYPE_F32, s->n, s->out);
    if (s->bias) {
        char *b = example_alloc(e, 4, 4 * (size_t)s->out);
        fill_stored(b + 2, s->bias, 1, s->out, false);
        e->b = tensor_1d(b + 2, s->bias, s->out);
    }
    e->limit = example_alloc(e, 5, 4 * n_y);
}

static void example_free(example *e)
{
    for (int i = 0; i < 6; i++)
        free(e->owned[i]);
}

static void check_values(const shape *s, const example *e, const char *what)
{
    const float *y = e->y.data, *ref = e->ref.data;
    int64_t n = (int64_t)s->n * s->out;
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(y[i] - ref[i]) <= e->limit[i]))
            fail_msg("%s: %dx%dx%d %s act %d add %d bias %s: row %lld column %lld is %.9g, "
                     "expected %.9g +- %.2g", what, s->n, s->in, s->out, dtype_name(s->type),
                     s->d.act, s->d.add, dtype_name(s->bias), (long long)(i / s->out),
                     (long long)(i % s->out), (double)y[i], (double)ref[i], (double)e->limit[i]);
    for (int i = 0; i < CANARY; i++)
        if (y[n + i] != 77.0f)
            fail_msg("%s: %dx%dx%d %s wrote past its end", what, s->n, s->in, s->out,
                     dtype_name(s->type));
}

static void check_case(sq_backend *be, const shape *s)
{
    example e;
    bool bf16 = be->compute == SQ_COMPUTE_BF16;
    cpu_linear_forget(be); /* every case frees its weights */
    example_make(&e, s, bf16);
    /* Operands that bf16 holds make its products exact; Q8_0 values are rounded to 8 bits. */
    fill_limits(s, &e, bf16 && s->type == SQ_DTYPE_Q8_0 ? 0x1p-8 / 8 : 1.2e-7);
    be->ops.linear(be, &e.y, &e.x, &e.w, s->bias ? &e.b : NULL, &s->d);
    linear_ref(be, &e.ref, &e.x, &e.w, s->bias ? &e.b : NULL, &s->d);
    assert_string_equal(be->err.text, "");
    check_values(s, &e, be->describe);
    example_free(&e);
}

static sq_backend *open_masked(unsigned mask, sq_compute compute, size_t pack_limit)
{
    sq_backend *be = NULL;
    sq_error err = {0};
    backend_options o = {.name = "cpu", .n_threads = 3, .compute = compute, .cpu_mask = mask,
                         .pack_limit = pack_limit};
    if (backend_open(&be, &o, &err)) fail_msg("%s", err.text);
    return be;
}

/* In this build, on this CPU, as far as oneDNN is allowed to use it. */
static bool has_bf16(void)
{
#ifdef SQ_ONEDNN
    return onednn_linear_has_bf16(cpu_detect());
#else
    return false;
#endif
}

/* With bf16 where build and hardware have it, a named error where not, never a silent f32. */
static void bf16_is_never_silent(void **state)
{
    (void)state;
    sq_backend *be = NULL;
    sq_error err = {0};
    backend_options o = {.n_threads = 2, .compute = SQ_COMPUTE_BF16, .cpu_mask = SQ_CPU_AVX2};
    assert_int_equal(backend_open(&be, &o, &err), SQ_E_BACKEND);
    assert_null(be);
    assert_non_null(strstr(err.text, "bf16"));
    error_clear(&err);
    o.cpu_mask = 0;
    int rc = backend_open(&be, &o, &err);
    assert_int_equal(rc, has_bf16() ? SQ_OK : SQ_E_BACKEND);
    if (rc) {
        assert_null(be);
        assert_non_null(strstr(err.text, "bf16"));
        return;
    }
    assert_int_equal(be->compute, SQ_COMPUTE_BF16);
    assert_non_null(strstr(be->describe, "bf16"));
    backend_close(&be);
}

/* A pack limit of one byte: products still work, through the kernels that need no copy. */
static void pack_limit_falls_back(void **state)
{
    (void)state;
    sq_backend *be = open_masked(0, SQ_COMPUTE_AUTO, 1);
    shape s = {40, 128, 96, SQ_DTYPE_BF16, {SQ_ACT_NONE, false}, SQ_DTYPE_F32, 1.0f};
    check_case(be, &s);
    backend_close(&be);
}

/* The same address with other weights: the sampled words notice it even without a forget. */
static void reused_address(void **state)
{
    (void)state;
    sq_backend *be = open_masked(0, SQ_COMPUTE_AUTO, 0);
    shape s = {40, 128, 96, SQ_DTYPE_BF16, {SQ_ACT_NONE, false}, SQ_DTYPE_NONE, 1.0f};
    example e;
    example_make(&e, &s, true);
    for (int round = 0; round < 2; round++) {
        fill_stored(e.w.data, s.type, s.out, s.in, true);
        fill_limits(&s, &e, 1.2e-7);
        be->ops.linear(be, &e.y, &e.x, &e.w, NULL, &s.d);
        linear_ref(be, &e.ref, &e.x, &e.w, NULL, &s.d);
        check_values(&s, &e, "reused address");
    }
    example_free(&e);
    backend_close(&be);
}

/* The activations on their own: rounding of the result and one rounding of x at most, since both
 * factors of x * sigmoid or x * Phi come out of one exponential. */
static void check_act(const linear_kernels *k, sq_act act)
{
    enum { N = 20001 };
    static float x[N], y[N];
    for (int i = 0; i < N; i++)
        x[i] = y[i] = (float)(i - N / 2) * (i % 3 ? 2e-3f : 1e-5f);
    x[0] = y[0] = 1e30f;
    x[1] = y[1] = -1e30f;
    x[2] = y[2] = 1e-40f;
    k->act(y, N, act);
    for (int i = 0; i < N; i++) {
        double want = act_ref((double)x[i], act);
        double limit = 3e-7 * fabs(want) + 1.1e-7 * fabs((double)x[i]);
        if (!(fabs((double)y[i] - want) <= limit))
            fail_msg("act %d of %.9g is %.9g, expected %.9g", act, (double)x[i], (double)y[i],
                     want);
    }
    y[0] = NAN;
    k->act(y, 1, act);
    assert_true(isnan(y[0]));
}

static void activations(void **state)
{
    (void)state;
    for (int act = SQ_ACT_GELU; act <= SQ_ACT_SILU; act++) {
        if (cpu_detect() & SQ_CPU_AVX2) check_act(&linear_kernels_avx2, (sq_act)act);
        if (cpu_detect() & SQ_CPU_AVX512) check_act(&linear_kernels_avx512, (sq_act)act);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bf16_is_never_silent),
        cmocka_unit_test(pack_limit_falls_back),
        cmocka_unit_test(reused_address),
        cmocka_unit_test(activations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
