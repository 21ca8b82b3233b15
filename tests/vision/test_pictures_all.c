/* Every picture of the large hostile set against Pillow's verdict, size and pixels. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "picture_oracle.h"

static char folder[4096];

static void test_all(void **state)
{
    (void)state;
    oracle_result res;
    assert_int_equal(oracle_run(&res, folder), 0);
    fprintf(stderr, "%d pictures: %d decode, %d are refused, %d pixel hashes, %d references\n",
            res.rows, res.accepted, res.refused, res.hashes, res.references);
    assert_true(res.rows > 300);
    assert_int_equal(res.failures, 0);
}

int main(void)
{
    const char *shared = getenv("SQ_SHARED");
    snprintf(folder, sizeof folder, "%s/assets/images-hard",
             shared ? shared : SQ_SOURCE_DIR "/../shared");
    if (!file_is_dir(folder)) return 77;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_all)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
