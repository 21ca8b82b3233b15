/* The cache grows without losing a row, and keeps what it has when it cannot grow. */
#include "llm/kv_cache.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { N_LAYER = 3, DIM = 6, ROWS = 5 };

static sq_error err;
static arena_source host;
static int until_alloc, until_convert; /* calls before one fails; 0: none does */
static void (*host_convert)(sq_backend *be, void *dst, sq_dtype to, const void *src, sq_dtype from,
                            int64_t n);

static void *failing_alloc(void *user, size_t size)
{
    return until_alloc && --until_alloc == 0 ? NULL : host.alloc(user, size);
}

static void failing_convert(sq_backend *be, void *dst, sq_dtype to, const void *src, sq_dtype from,
                            int64_t n)
{
    if (until_convert && --until_convert == 0)
        error_set(&be->err, SQ_E_BACKEND, "the device is lost");
    else
        host_convert(be, dst, to, src, from, n);
}

static sq_backend *open_backend(void)
{
    sq_backend *be;
    const backend_options o = {.name = "cpu", .compute = SQ_COMPUTE_F32, .n_threads = 1};
    if (backend_open(&be, &o, &err)) fail_msg("%s", err.text);
    host = be->memory;
    host_convert = be->convert;
    be->memory.alloc = failing_alloc;
    be->convert = failing_convert;
    return be;
}

/* Every byte its own, infinities and NaN of 16 bits among them. */
static void fill(kv_cache *kv)
{
    size_t row = dtype_row_bytes(kv->dtype, DIM);
    for (int l = 0; l < N_LAYER; l++) {
        kv->len[l] = ROWS - l;
        for (size_t i = 0; i < row * (size_t)kv->len[l]; i++) {
            ((unsigned char *)kv->k[l].data)[i] = (unsigned char)(251 * i + (size_t)l);
            ((unsigned char *)kv->v[l].data)[i] = (unsigned char)(13 * i + (size_t)l + 127);
        }
    }
}

static void check(const kv_cache *kv)
{
    size_t row = dtype_row_bytes(kv->dtype, DIM);
    for (int l = 0; l < N_LAYER; l++)
        for (size_t i = 0; i < row * (size_t)kv->len[l]; i++) {
            assert_int_equal(((unsigned char *)kv->k[l].data)[i], (251 * i + (size_t)l) & 255);
            assert_int_equal(((unsigned char *)kv->v[l].data)[i], (13 * i + (size_t)l + 127) & 255);
        }
}

static void growth_keeps_every_byte(void **state)
{
    (void)state;
    static const sq_dtype types[] = {SQ_DTYPE_F32, SQ_DTYPE_F16, SQ_DTYPE_BF16};
    sq_backend *be = open_backend();
    for (int t = 0; t < 3; t++) {
        kv_cache kv;
        assert_int_equal(kv_cache_open(&kv, be, N_LAYER, ROWS, DIM, types[t], &err), SQ_OK);
        fill(&kv);
        assert_int_equal(kv_cache_reserve(&kv, ROWS, &err), SQ_OK);
        assert_int_equal(kv.n_ctx, ROWS);
        assert_int_equal(kv_cache_reserve(&kv, ROWS + 1, &err), SQ_OK);
        assert_int_equal(kv.n_ctx, 2 * ROWS);
        check(&kv);
        assert_int_equal(kv_cache_bytes(&kv),
                         (3 * ROWS - 3) * 2 * dtype_row_bytes(types[t], DIM));
        kv_cache_close(&kv);
    }
    backend_close(&be);
}

static void failed_growth_loses_nothing(void **state)
{
    (void)state;
    sq_backend *be = open_backend();
    for (int k = 1; k <= 2 * N_LAYER; k++)
        for (int kind = 0; kind < 2; kind++) {
            kv_cache kv;
            assert_int_equal(kv_cache_open(&kv, be, N_LAYER, ROWS, DIM, SQ_DTYPE_F16, &err), SQ_OK);
            fill(&kv);
            *(kind ? &until_convert : &until_alloc) = k;
            assert_int_equal(kv_cache_reserve(&kv, 2 * ROWS, &err),
                             kind ? SQ_E_BACKEND : SQ_E_NOMEM);
            assert_non_null(strstr(err.text, kind ? "lost" : "out of memory"));
            error_clear(&err);
            error_clear(&be->err);
            check(&kv);
            assert_int_equal(kv_cache_reserve(&kv, 2 * ROWS, &err), SQ_OK);
            check(&kv);
            kv_cache_close(&kv);
        }
    backend_close(&be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(growth_keeps_every_byte),
        cmocka_unit_test(failed_growth_loses_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
