/* Option texts and budgets. */
#include "prune/prune.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void defaults(void **state)
{
    (void)state;
    prune_options o = prune_options_default();
    assert_int_equal(o.seed, 0);
    assert_int_equal(o.start_layer, -1);
    assert_int_equal(o.ensemble, ENSEMBLE_SUM);
    assert_int_equal(o.fopru, FOPRU_RANK);
    assert_false(o.fopru_logits);
}

static void options_are_read(void **state)
{
    (void)state;
    prune_options o = prune_options_default();
    sq_error err = {0};
    assert_int_equal(prune_option_set(&o, "seed", "18446744073709551615", &err), SQ_OK);
    assert_true(o.seed == UINT64_MAX);
    assert_int_equal(prune_option_set(&o, "start-layer", "16", &err), SQ_OK);
    assert_int_equal(o.start_layer, 16);
    assert_int_equal(prune_option_set(&o, "ensemble", "max", &err), SQ_OK);
    assert_int_equal(o.ensemble, ENSEMBLE_MAX);
    assert_int_equal(prune_option_set(&o, "ensemble", "min", &err), SQ_OK);
    assert_int_equal(o.ensemble, ENSEMBLE_MIN);
    assert_int_equal(prune_option_set(&o, "ensemble", "sum", &err), SQ_OK);
    assert_int_equal(o.ensemble, ENSEMBLE_SUM);
    assert_int_equal(prune_option_set(&o, "strategy", "row", &err), SQ_OK);
    assert_int_equal(o.fopru, FOPRU_ROW);
    assert_int_equal(prune_option_set(&o, "scores", "logits", &err), SQ_OK);
    assert_true(o.fopru_logits);
    assert_int_equal(prune_option_set(&o, "scores", "softmax", &err), SQ_OK);
    assert_false(o.fopru_logits);
    assert_int_equal(err.code, SQ_OK);
}

static void bad_options_are_named(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"seed", ""},
        {"seed", "-1"},
        {"seed", "18446744073709551616"},
        {"seed", "0x10"},
        {"seed", " 1"},
        {"start-layer", "-1"},
        {"start-layer", "1.5"},
        {"start-layer", "99999999999"},
        {"ensemble", "mean"},
        {"ensemble", ""},
        {"strategy", "rows"},
        {"strategy", "max"},
        {"scores", "raw"},
        {"", "1"},
        {"Seed", "1"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        prune_options o = prune_options_default(), before = o;
        sq_error err = {0};
        assert_int_equal(prune_option_set(&o, bad[i][0], bad[i][1], &err), SQ_E_ARG);
        assert_non_null(strstr(err.text, "expected"));
        assert_int_equal(o.seed, before.seed);
        assert_int_equal(o.start_layer, before.start_layer);
    }
}

static void budgets_are_read(void **state)
{
    (void)state;
    prune_keep k = {0};
    assert_int_equal(prune_keep_parse("144", &k, NULL), SQ_OK);
    assert_int_equal(k.count, 144);
    assert_true(k.percent == 0);
    assert_int_equal(prune_keep_parse("25%", &k, NULL), SQ_OK);
    assert_int_equal(k.count, 0);
    assert_true(k.percent == 25);
    assert_int_equal(prune_keep_parse("12.5%", &k, NULL), SQ_OK);
    assert_true(k.percent == 12.5);
    assert_int_equal(prune_keep_parse("100%", &k, NULL), SQ_OK);
    assert_int_equal(prune_keep_parse("100.00%", &k, NULL), SQ_OK);
    assert_int_equal(prune_keep_parse("0.1%", &k, NULL), SQ_OK);
    assert_true(k.percent > 0.0999999 && k.percent < 0.1000001);
}

static void bad_budgets_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "0",
                                      "-1",
                                      "0%",
                                      "0.0%",
                                      "100.1%",
                                      "101%",
                                      "1e2",
                                      "12.",
                                      "12.%",
                                      ".5%",
                                      "%",
                                      "25 %",
                                      "25%%",
                                      "nan",
                                      "inf%",
                                      "+5",
                                      "1,5%",
                                      "99999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        prune_keep k = {.count = 7};
        sq_error err = {0};
        assert_int_equal(prune_keep_parse(bad[i], &k, &err), SQ_E_ARG);
        assert_non_null(strstr(err.text, bad[i]));
        assert_int_equal(k.count, 7);
    }
}

static void budgets_become_counts(void **state)
{
    (void)state;
    static const struct {
        prune_keep keep;
        int n_tok;
        prune_rounding r;
        int expected;
    } t[] = {
        {{.count = 0}, 576, PRUNE_NEAREST, 576},     {{.count = 144}, 576, PRUNE_NEAREST, 144},
        {{.count = 576}, 576, PRUNE_FLOOR, 576},     {{.count = 1000}, 576, PRUNE_FLOOR, 576},
        {{.percent = 25}, 576, PRUNE_NEAREST, 144},  {{.percent = 10}, 576, PRUNE_NEAREST, 58},
        {{.percent = 10}, 576, PRUNE_FLOOR, 57},     {{.percent = 5}, 576, PRUNE_NEAREST, 29},
        {{.percent = 5}, 576, PRUNE_FLOOR, 28},      {{.percent = 0.01}, 576, PRUNE_NEAREST, 1},
        {{.percent = 0.01}, 576, PRUNE_FLOOR, 1},    {{.percent = 100}, 576, PRUNE_FLOOR, 576},
        {{.percent = 28.7}, 1000, PRUNE_FLOOR, 287}, {{.percent = 50}, 5, PRUNE_NEAREST, 3},
        {{.percent = 50}, 5, PRUNE_FLOOR, 2},        {{.percent = 99.99}, 3, PRUNE_NEAREST, 3},
        {{.percent = 1}, 1, PRUNE_FLOOR, 1},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        assert_int_equal(prune_n_keep(t[i].keep, t[i].n_tok, t[i].r), t[i].expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),
        cmocka_unit_test(options_are_read),
        cmocka_unit_test(bad_options_are_named),
        cmocka_unit_test(budgets_are_read),
        cmocka_unit_test(bad_budgets_are_refused),
        cmocka_unit_test(budgets_become_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
