/* Next-token choice: greedy rules, and the distribution against transformers' warpers. */
#include "core/json.h"
#include "core/rng.h"
#include "llm/sampler.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_IDS = 32, DRAWS = 20000 };

static const sampler greedy = {.temperature = 0, .top_k = 0, .top_p = 1};

static int pick(sampler s, const float *logits, int n, int32_t *id, float *gap)
{
    arena mem = {0};
    int rc = sampler_pick(&s, logits, n, &mem, id, gap, NULL);
    arena_close(&mem);
    return rc;
}

static void greedy_takes_the_largest(void **state)
{
    (void)state;
    int32_t id;
    float gap;
    const float a[5] = {-1, 2, 0.5f, 3.25f, 1};
    assert_int_equal(pick(greedy, a, 5, &id, &gap), SQ_OK);
    assert_int_equal(id, 3);
    assert_true(gap == 1.25f);
    const float tie[5] = {-1, 7, 0, 7, 7};
    assert_int_equal(pick(greedy, tie, 5, &id, &gap), SQ_OK);
    assert_int_equal(id, 1);
    assert_true(gap == 0);
    const float falling[3] = {-1, -2, -4};
    assert_int_equal(pick(greedy, falling, 3, &id, &gap), SQ_OK);
    assert_int_equal(id, 0);
    assert_true(gap == 1);
    const float masked[3] = {-INFINITY, -5, -INFINITY};
    assert_int_equal(pick(greedy, masked, 3, &id, &gap), SQ_OK);
    assert_int_equal(id, 1);
    assert_true(isfinite(gap) && gap > 1e30f);
    assert_int_equal(pick(greedy, a, 1, &id, NULL), SQ_OK);
    assert_int_equal(id, 0);
}

static void greedy_equals_its_definition(void **state)
{
    (void)state;
    uint64_t random = 5;
    for (int round = 0; round < 2000; round++) {
        float x[MAX_IDS], gap, second = -INFINITY;
        int n = 2 + (int)rng_below(&random, MAX_IDS - 1), best = 0;
        int32_t id;
        for (int i = 0; i < n; i++) {
            x[i] = (float)rng_below(&random, 12) - 6;
            if (x[i] > x[best]) best = i;
        }
        for (int i = 0; i < n; i++)
            if (i != best && x[i] > second) second = x[i];
        assert_int_equal(pick(greedy, x, n, &id, &gap), SQ_OK);
        assert_int_equal(id, best);
        assert_true(gap == x[best] - second);
    }
}

static void bad_logits_are_refused(void **state)
{
    (void)state;
    sampler hot = {.temperature = 1, .top_k = 2, .top_p = 0.9f};
    int32_t id;
    for (int at = 0; at < 3; at++) {
        float x[3] = {1, 2, 3};
        x[at] = NAN;
        assert_int_equal(pick(greedy, x, 3, &id, NULL), SQ_E_FORMAT);
        assert_int_equal(pick(hot, x, 3, &id, NULL), SQ_E_FORMAT);
        x[at] = INFINITY;
        assert_int_equal(pick(greedy, x, 3, &id, NULL), SQ_E_FORMAT);
    }
    const float none[2] = {-INFINITY, -INFINITY};
    assert_int_equal(pick(hot, none, 2, &id, NULL), SQ_E_FORMAT);
    assert_int_equal(pick(hot, none, 0, &id, NULL), SQ_E_FORMAT);
}

static void bad_settings_are_refused(void **state)
{
    (void)state;
    const float x[2] = {1, 2};
    int32_t id;
    const sampler bad[] = {{-1, 0, 1, 0}, {NAN, 0, 1, 0},  {INFINITY, 0, 1, 0}, {1, -1, 1, 0},
                           {1, 0, 0, 0},  {1, 0, 1.5f, 0}, {1, 0, NAN, 0},      {1, 0, -0.5f, 0}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(pick(bad[i], x, 2, &id, NULL), SQ_E_ARG);
}

static void seed_decides(void **state)
{
    (void)state;
    float x[MAX_IDS];
    for (int i = 0; i < MAX_IDS; i++)
        x[i] = (float)(i % 5) / 4;
    int32_t first[64], id;
    int different = 0;
    for (uint64_t seed = 0; seed < 3; seed++) {
        sampler s = {.temperature = 1, .top_p = 1};
        sampler_seed(&s, seed / 2); /* 0, 0, 1 */
        for (int i = 0; i < 64; i++) {
            arena mem = {0};
            assert_int_equal(sampler_pick(&s, x, MAX_IDS, &mem, &id, NULL, NULL), SQ_OK);
            arena_close(&mem);
            if (seed == 0) first[i] = id;
            if (seed == 1) assert_int_equal(id, first[i]);
            different += seed == 2 && id != first[i];
        }
    }
    assert_true(different > 32);
}

static void top_p_ties_go_to_the_lower_id(void **state)
{
    (void)state;
    sampler s = {.temperature = 1, .top_p = 0.5f};
    const float x[4] = {1, 1, 1, 1};
    int count[4] = {0};
    arena mem = {0};
    for (int i = 0; i < 200; i++) {
        int32_t id;
        assert_int_equal(sampler_pick(&s, x, 4, &mem, &id, NULL, NULL), SQ_OK);
        count[id]++;
    }
    assert_true(count[0] > 50 && count[1] > 50);
    assert_int_equal(count[2] + count[3], 0);
    arena_close(&mem);
}

/* Draws must follow the probabilities: none where it is 0, chi-square within p = 0.001. */
static void check_case(const cJSON *one, int index)
{
    const cJSON *logits = cJSON_GetObjectItemCaseSensitive(one, "logits");
    const cJSON *chance = cJSON_GetObjectItemCaseSensitive(one, "probabilities");
    float x[MAX_IDS];
    int n = cJSON_GetArraySize(logits), count[MAX_IDS] = {0}, cells = 0;
    assert_true(n > 0 && n <= MAX_IDS);
    for (int i = 0; i < n; i++)
        x[i] = (float)cJSON_GetArrayItem(logits, i)->valuedouble;
    sampler s = {
        .temperature = (float)cJSON_GetObjectItem(one, "temperature")->valuedouble,
        .top_k = cJSON_GetObjectItem(one, "top_k")->valueint,
        .top_p = (float)cJSON_GetObjectItem(one, "top_p")->valuedouble,
    };
    sampler_seed(&s, (uint64_t)index);
    arena mem = {0};
    arena_mark mark = arena_get_mark(&mem);
    for (int i = 0; i < DRAWS; i++) {
        int32_t id = -1;
        assert_int_equal(sampler_pick(&s, x, n, &mem, &id, NULL, NULL), SQ_OK);
        assert_true(id >= 0 && id < n);
        count[id]++;
        arena_rewind(&mem, mark);
    }
    arena_close(&mem);
    double chi2 = 0, rest = 0, rest_count = 0;
    for (int i = 0; i < n; i++) {
        double p = cJSON_GetArrayItem(chance, i)->valuedouble, mean = p * DRAWS;
        if (p == 0 && count[i]) fail_msg("case %d: id %d was cut, but drawn", index, i);
        if (mean >= 5) {
            chi2 += (count[i] - mean) * (count[i] - mean) / mean;
            cells++;
        } else {
            rest += mean;
            rest_count += count[i];
        }
    }
    if (rest >= 1) chi2 += (rest_count - rest) * (rest_count - rest) / rest, cells++;
    /* mean + 3.1 sigma + a little for few degrees of freedom (Wilson-Hilferty) */
    double df = cells > 1 ? cells - 1 : 1, w = 1 - 2 / (9 * df) + 3.09 * sqrt(2 / (9 * df));
    if (!(chi2 <= df * w * w * w)) fail_msg("case %d: chi-square %g of %g", index, chi2, df);
}

static void draws_follow_transformers(void **state)
{
    (void)state;
    json_doc doc = {0};
    sq_error err = {0};
    if (json_open(&doc, SQ_SOURCE_DIR "/tests/golden/sampler_golden.json", 0, &err))
        fail_msg("%s", err.text);
    const cJSON *one;
    int n = 0;
    cJSON_ArrayForEach(one, cJSON_GetObjectItemCaseSensitive(doc.root, "cases"))
    {
        check_case(one, n++);
    }
    json_close(&doc);
    assert_int_equal(n, 15);
}

/* What argmax of the op table gives for rows that no answer may be taken from. */
static void accepts_only_finite_logits(void **state)
{
    (void)state;
    static const struct {
        int32_t best;
        float gap;
        int rc;
    } cases[] = {{3, 0.5f, SQ_OK},          {0, 0, SQ_OK},          {-1, NAN, SQ_E_FORMAT},
                 {2, INFINITY, SQ_E_FORMAT}, {2, NAN, SQ_E_FORMAT}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sampler s = {.top_p = 1};
        sq_error err = {0};
        assert_int_equal(sampler_accept(&s, cases[i].best, cases[i].gap, &err), cases[i].rc);
        if (cases[i].rc) assert_non_null(strstr(err.text, "logits"));
    }
    sampler s = {.top_p = 2};
    sq_error err = {0};
    assert_int_equal(sampler_accept(&s, 1, 1, &err), SQ_E_ARG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_largest),
        cmocka_unit_test(greedy_equals_its_definition),
        cmocka_unit_test(bad_logits_are_refused),
        cmocka_unit_test(bad_settings_are_refused),
        cmocka_unit_test(seed_decides),
        cmocka_unit_test(top_p_ties_go_to_the_lower_id),
        cmocka_unit_test(draws_follow_transformers),
        cmocka_unit_test(accepts_only_finite_logits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
