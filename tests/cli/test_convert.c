/* squint convert from outside, when it is ended. */
#define _POSIX_C_SOURCE 200809L
#include "cli_shell.h"

/* Its notice comes before the first file; what it has begun then is taken away. */
static void test_ended(void **state)
{
    (void)state;
    static const char *const name[] = {"INT", "TERM", "HUP"};
    for (int i = 0; i < 3; i++) {
        char line[512];
        snprintf(line, sizeof line,
                 "mkdir -p $T/out && mkfifo $T/%s && { $squint convert -m models/demo -o $T/out "
                 "--type f16 --name x 2>$T/%s & p=$!; { read notice; kill -%s $p; cat; } <$T/%s; "
                 "wait $p; echo $?; ls $T/out; }",
                 name[i], name[i], name[i], name[i]);
        expect_output(line, "130\n");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ended)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
