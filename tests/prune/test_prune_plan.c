/* Plans as a data structure, and picking the best scores. */
#include "core/rng.h"
#include "prune/prune.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void tokens_become_rows(void **state)
{
    (void)state;
    arena mem = {0};
    prune_plan p;
    assert_int_equal(plan_init(&p, 3, &mem), SQ_OK);
    assert_int_equal(plan_add_token(&p, 2), SQ_OK);
    assert_int_equal(plan_add_token(&p, 0), SQ_OK);
    sparse_rows r = plan_rows(&p);
    assert_int_equal(r.n_out, 2);
    assert_int_equal(r.start[0], 0);
    assert_int_equal(r.start[1], 1);
    assert_int_equal(r.start[2], 2);
    assert_int_equal(r.index[0], 2);
    assert_int_equal(r.index[1], 0);
    assert_true(r.weight[0] == 1 && r.weight[1] == 1);
    arena_close(&mem);
}

static void merges_grow_the_plan(void **state)
{
    (void)state;
    enum { N = 5, ROUNDS = 5 };
    arena mem = {0};
    prune_plan p;
    const int index[N] = {4, 3, 2, 1, 0};
    const float weight[N] = {0.1f, 0.2f, 0.3f, 0.2f, 0.2f};
    assert_int_equal(plan_init(&p, N, &mem), SQ_OK);
    for (int i = 0; i < ROUNDS; i++)
        assert_int_equal(plan_add_merge(&p, index, weight, N), SQ_OK);
    assert_int_equal(p.n_entry, N * ROUNDS);
    for (int e = 0; e < p.n_entry; e++) {
        assert_int_equal(p.index[e], index[e % N]);
        assert_true(p.weight[e] == weight[e % N]);
    }
    for (int r = 0; r <= ROUNDS; r++)
        assert_int_equal(p.start[r], N * r);
    arena_close(&mem);
}

static void limits_hold(void **state)
{
    (void)state;
    arena mem = {0};
    prune_plan p;
    const float weight[1] = {1};
    const int index[1] = {0};
    assert_int_equal(plan_init(&p, 0, &mem), SQ_E_ARG);
    assert_int_equal(plan_init(&p, -4, &mem), SQ_E_ARG);
    assert_int_equal(plan_init(&p, 2, &mem), SQ_OK);
    assert_int_equal(plan_add_token(&p, -1), SQ_E_ARG);
    assert_int_equal(plan_add_token(&p, 2), SQ_E_ARG);
    assert_int_equal(plan_add_merge(&p, index, weight, 0), SQ_E_ARG);
    assert_int_equal(p.n_out, 0);
    assert_int_equal(plan_add_token(&p, 0), SQ_OK);
    assert_int_equal(plan_add_token(&p, 1), SQ_OK);
    assert_int_equal(plan_add_token(&p, 1), SQ_E_LIMIT);
    assert_int_equal(p.n_out, 2);
    assert_int_equal(p.n_entry, 2);
    arena_close(&mem);
}

/* The definition: token i is kept when fewer than n_keep tokens come before it. */
static void check_pick(const float *score, int n, int n_keep)
{
    arena mem = {0};
    int *pick = arena_calloc(&mem, (size_t)n, sizeof *pick), at = 0;
    assert_int_equal(pick_top(score, n, n_keep, pick, &mem, NULL), SQ_OK);
    for (int i = 0; i < n; i++) {
        int rank = 0;
        for (int j = 0; j < n; j++)
            rank += score[j] > score[i] || (score[j] == score[i] && j < i);
        if (rank < n_keep) assert_int_equal(pick[at++], i);
    }
    assert_int_equal(at, n_keep);
    arena_close(&mem);
}

static void pick_follows_its_definition(void **state)
{
    (void)state;
    enum { MAX = 300 };
    float score[MAX];
    uint64_t random = 11;
    for (int round = 0; round < 300; round++) {
        int n = 1 + (int)rng_below(&random, MAX), levels = 1 + (int)rng_below(&random, 20);
        for (int i = 0; i < n; i++)
            score[i] = ((float)rng_below(&random, (uint64_t)levels) - levels / 2) / 7.0f;
        check_pick(score, n, 1 + (int)rng_below(&random, (uint64_t)n));
    }
}

static void pick_handles_extremes(void **state)
{
    (void)state;
    float score[6] = {-0.0f, 0.0f, -3e38f, 3e38f, 1e-45f, -1e-45f};
    for (int k = 1; k <= 6; k++)
        check_pick(score, 6, k);
    float equal[6] = {2, 2, 2, 2, 2, 2};
    for (int k = 1; k <= 6; k++)
        check_pick(equal, 6, k);
}

static void pick_refuses_what_is_not_finite(void **state)
{
    (void)state;
    const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    for (int b = 0; b < 4; b++)
        for (int at = 0; at < 3; at++) {
            float score[3] = {1, 2, 3};
            int pick[3];
            arena mem = {0};
            sq_error err = {0};
            score[at] = bad[b];
            assert_int_equal(pick_top(score, 3, 3, pick, &mem, &err), SQ_E_FORMAT);
            assert_non_null(strstr(err.text, "finite"));
            arena_close(&mem);
        }
}

static void keep_top_adds_the_base(void **state)
{
    (void)state;
    arena mem = {0};
    prune_plan p;
    const float score[4] = {1, 4, 3, 4};
    assert_int_equal(plan_init(&p, 14, &mem), SQ_OK);
    assert_int_equal(plan_keep_top(&p, 10, score, 4, 2, &mem, NULL), SQ_OK);
    assert_int_equal(p.n_out, 2);
    assert_int_equal(p.index[0], 11);
    assert_int_equal(p.index[1], 13);
    assert_int_equal(plan_keep_top(&p, 0, score, 4, 100, &mem, NULL), SQ_OK);
    assert_int_equal(p.n_out, 6);
    arena_close(&mem);
}

static void random_numbers_are_fixed(void **state)
{
    (void)state;
    uint64_t s = 1234567; /* the published splitmix64 test vector */
    assert_true(rng_next(&s) == 6457827717110365317u);
    assert_true(rng_next(&s) == 3203168211198807973u);
    assert_true(rng_next(&s) == 9817491932198370423u);
    for (int i = 0; i < 1000; i++) {
        double u = rng_unit(&s);
        assert_true(u >= 0 && u < 1);
        assert_true(rng_below(&s, 7) < 7);
        assert_true(rng_below(&s, 1) == 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_become_rows),
        cmocka_unit_test(merges_grow_the_plan),
        cmocka_unit_test(limits_hold),
        cmocka_unit_test(pick_follows_its_definition),
        cmocka_unit_test(pick_handles_extremes),
        cmocka_unit_test(pick_refuses_what_is_not_finite),
        cmocka_unit_test(keep_top_adds_the_base),
        cmocka_unit_test(random_numbers_are_fixed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
