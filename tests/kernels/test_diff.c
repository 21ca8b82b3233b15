/* The comparing backend on the CPU: alike ops pass, planted faults are named. */
#include "kernels/backend_diff.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { N = 4, IN = 64, OUT = 32, HELD = 5, HEAD = 2, DIM = 8 };

static sq_ops sound; /* the table before a fault was planted */

static void fill(float *x, int n)
{
    static uint32_t seed = 1;
    for (int i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(seed >> 8) / 8388608.0f - 1.0f;
    }
}

static sq_backend *open_diff(void)
{
    sq_backend *be;
    sq_error err = {0};
    backend_options o = {.name = "diff:cpu", .compute = SQ_COMPUTE_F32, .n_threads = 1};
    assert_int_equal(backend_open(&be, &o, &err), SQ_OK);
    sound = diff_under_test(be)->ops;
    backend_at(be, "decoder", 7);
    return be;
}

static diff_count count_of(const sq_backend *be, const char *op)
{
    diff_count c;
    for (int i = 0; diff_get(be, i, &c) == SQ_OK; i++)
        if (strcmp(c.op, op) == 0) return c;
    fail_msg("no op %s", op);
    return c;
}

static void expect_fault(sq_backend *be, const char *text)
{
    if (be->err.code != SQ_E_BACKEND || !strstr(be->err.text, text))
        fail_msg("expected \"%s\", found \"%s\"", text, be->err.text);
}

static void wrong_linear(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                         const sq_tensor *b, const linear_desc *d)
{
    sound.linear(be, y, x, w, b, d);
    ((float *)y->data)[3 * OUT + 5] += 0.01f;
}

static void close_linear(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                         const sq_tensor *b, const linear_desc *d)
{
    sound.linear(be, y, x, w, b, d);
    ((float *)y->data)[0] += 1e-6f;
}

static void failing_linear(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                           const sq_tensor *b, const linear_desc *d)
{
    (void)y, (void)x, (void)w, (void)b, (void)d;
    error_set(&be->err, SQ_E_NOMEM, "linear: out of memory");
}

static void test_linear(void **state)
{
    (void)state;
    static float x[N * IN], w[OUT * IN], y[N * OUT];
    fill(x, N * IN);
    fill(w, OUT * IN);
    sq_backend *be = open_diff(), *a = diff_under_test(be);
    sq_tensor tx = tensor_2d(x, SQ_DTYPE_F32, N, IN), tw = tensor_2d(w, SQ_DTYPE_F32, OUT, IN);
    sq_tensor ty = tensor_2d(y, SQ_DTYPE_F32, N, OUT);
    const linear_desc plain = {0}, add = {.add = true};

    be->ops.linear(be, &ty, &tx, &tw, NULL, &plain);
    be->ops.linear(be, &ty, &tx, &tw, NULL, &add);
    assert_int_equal(be->err.code, 0);
    assert_int_equal(count_of(be, "linear").n, 2);
    assert_string_equal(count_of(be, "linear").shape, "[4,64] x [32,64]");

    a->ops.linear = close_linear; /* within the error model */
    be->ops.linear(be, &ty, &tx, &tw, NULL, &plain);
    assert_int_equal(be->err.code, 0);
    assert_true(count_of(be, "linear").worst > 0);

    a->ops.linear = wrong_linear;
    be->ops.linear(be, &ty, &tx, &tw, NULL, &plain);
    expect_fault(be, "diff: linear, decoder layer 7, [4,64] x [32,64]: row 3 column 5 is ");
    expect_fault(be, "; 1 of 128 differ");
    assert_int_equal(count_of(be, "linear").n, 3);
    a->ops.linear = sound.linear; /* nothing runs before the error is cleared */
    be->ops.linear(be, &ty, &tx, &tw, NULL, &plain);
    assert_int_equal(count_of(be, "linear").n, 3);

    error_clear(&be->err);
    a->ops.linear = failing_linear; /* its own failure stays what it is */
    be->ops.linear(be, &ty, &tx, &tw, NULL, &plain);
    assert_int_equal(be->err.code, SQ_E_NOMEM);
    a->ops.linear = sound.linear;
    error_clear(&be->err);
    be->ops.linear(be, &ty, &tx, &tw, NULL, &plain);
    assert_int_equal(be->err.code, 0);
    backend_close(&be);
}

static void blind_norm(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                       float eps)
{
    sound.rms_norm(be, y, x, w, eps);
    float *v = y->data;
    for (int64_t i = 0; i < tensor_count(y); i++)
        v[i] = isnan(v[i]) ? 0 : v[i];
}

/* In place: the copy of the input is taken before it is overwritten. */
static void test_in_place_and_nan(void **state)
{
    (void)state;
    static float x[N * IN], w[IN];
    fill(x, N * IN);
    fill(w, IN);
    sq_backend *be = open_diff();
    sq_tensor tx = tensor_2d(x, SQ_DTYPE_F32, N, IN), tw = tensor_1d(w, SQ_DTYPE_F32, IN);
    be->ops.rms_norm(be, &tx, &tx, &tw, 1e-5f);
    x[IN + 3] = NAN;
    be->ops.rms_norm(be, &tx, &tx, &tw, 1e-5f); /* NaN on both sides is alike */
    assert_int_equal(be->err.code, 0);
    diff_under_test(be)->ops.rms_norm = blind_norm;
    be->ops.rms_norm(be, &tx, &tx, &tw, 1e-5f);
    expect_fault(be, "rms_norm, decoder layer 7, [4,64] x [64]: row 1 column 0 is 0, expected ");
    backend_close(&be);
}

static void late_step(sq_backend *be, sq_tensor *out, sq_tensor *q, sq_tensor *k,
                      const sq_tensor *v, const kv_step *s, const rope_desc *r, const attn_desc *d)
{
    sound.attn_step(be, out, q, k, v, s, r, d);
    float *cache = s->v[1]->data;
    cache[(HELD + 1) * HEAD * DIM + 2] *= 2;
}

/* Two sequences of different lengths; the fault is in one cache row. */
static void test_attn_step(void **state)
{
    (void)state;
    enum { ROW = HEAD * DIM };
    static float q[2 * ROW], k[2 * ROW], v[2 * ROW], out[2 * ROW], ck[2][8 * ROW], cv[2][8 * ROW];
    int32_t pos[2] = {HELD, HELD + 1}, len[2] = {HELD, HELD + 1};
    float freq[DIM / 2] = {1, 0.1f, 0.01f, 0.001f};
    sq_backend *be = open_diff();
    sq_tensor tq = tensor_2d(q, SQ_DTYPE_F32, 2, ROW), tk = tq, tv = tq, to = tq;
    sq_tensor tp = tensor_1d(pos, SQ_DTYPE_I32, 2), tl = tensor_1d(len, SQ_DTYPE_I32, 2);
    sq_tensor cache[4];
    tk.data = k;
    tv.data = v;
    to.data = out;
    for (int i = 0; i < 2; i++) {
        fill(ck[i], 8 * ROW);
        fill(cv[i], 8 * ROW);
        cache[i] = tensor_2d(ck[i], SQ_DTYPE_F32, 8, ROW);
        cache[2 + i] = tensor_2d(cv[i], SQ_DTYPE_F32, 8, ROW);
    }
    const sq_tensor *const pk[] = {&cache[0], &cache[1]}, *const pv[] = {&cache[2], &cache[3]};
    kv_step s = {2, &tp, &tl, pk, pv};
    rope_desc r = {
        .n_head = HEAD, .n_head_kv = HEAD, .head_dim = DIM, .inv_freq = freq, .mscale = 1};
    attn_desc d = {.n_head = HEAD, .n_head_kv = HEAD, .head_dim = DIM, .scale = 0.35f};
    for (int fault = 0; fault < 2; fault++) {
        fill(q, 2 * ROW);
        fill(k, 2 * ROW);
        fill(v, 2 * ROW);
        if (fault) diff_under_test(be)->ops.attn_step = late_step;
        be->ops.attn_step(be, &to, &tq, &tk, &tv, &s, &r, &d);
        if (!fault) assert_int_equal(be->err.code, 0);
    }
    expect_fault(be, "attn_step, decoder layer 7, [2,16] x [2,16]: row 0 column 2 is ");
    backend_close(&be);
}

static void test_open(void **state)
{
    (void)state;
    sq_backend *be = NULL;
    sq_error err = {0};
    diff_count c;
    backend_options o = {.name = "diff:nosuch"};
    assert_int_equal(backend_open(&be, &o, &err), SQ_E_ARG);
    assert_null(be);
    static const char *const nested[] = {"diff:", "diff:diff:cpu", "diff:cpu:"};
    for (int i = 0; i < 3; i++) {
        o.name = nested[i];
        error_clear(&err);
        assert_int_equal(backend_open(&be, &o, &err), SQ_E_ARG);
        assert_non_null(strstr(err.text, "expected diff:cpu or diff:cuda"));
    }
    o.name = "cpu";
    error_clear(&err);
    assert_int_equal(backend_open(&be, &o, &err), SQ_OK);
    assert_int_equal(diff_get(be, 0, &c), SQ_E_ARG);
    assert_null(diff_under_test(be));
    backend_close(&be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear),
        cmocka_unit_test(test_in_place_and_nan),
        cmocka_unit_test(test_attn_step),
        cmocka_unit_test(test_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
