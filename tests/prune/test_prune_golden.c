/* The policies against a float64 numpy version of the formulas (tests/golden/prune_reference.py):
 * random attention full of ties, and attention of the demo model captured by transformers. */
#include "core/json.h"
#include "prune/prune.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_VIEWS = 8 };

static int int_of(const cJSON *o, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, key);
    assert_true(cJSON_IsNumber(v));
    return v->valueint;
}

static const char *text_of(const cJSON *o, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, key);
    assert_true(cJSON_IsString(v));
    return v->valuestring;
}

/* Numbers of an array, n of them; NULL when the key is missing (views of a mosaic). */
static float *floats_of(const cJSON *o, const char *key, int n, arena *mem)
{
    const cJSON *a = cJSON_GetObjectItemCaseSensitive(o, key), *v;
    if (!a) return NULL;
    assert_int_equal(cJSON_GetArraySize(a), n);
    float *x = arena_calloc(mem, (size_t)n, sizeof *x);
    assert_non_null(x);
    int i = 0;
    cJSON_ArrayForEach(v, a) x[i++] = (float)v->valuedouble;
    return x;
}

static prune_view view_of(const cJSON *o, bool logits, arena *mem)
{
    prune_view v = {.grid_w = int_of(o, "grid_w"),
                    .grid_h = int_of(o, "grid_h"),
                    .tile_x = int_of(o, "tile_x"),
                    .tile_y = int_of(o, "tile_y"),
                    .n_head = int_of(o, "n_head"),
                    .row_count = int_of(o, "row_count")};
    const cJSON *valid = cJSON_GetObjectItemCaseSensitive(o, "valid");
    v.valid_x0 = cJSON_GetArrayItem(valid, 0)->valueint;
    v.valid_y0 = cJSON_GetArrayItem(valid, 1)->valueint;
    v.valid_x1 = cJSON_GetArrayItem(valid, 2)->valueint;
    v.valid_y1 = cJSON_GetArrayItem(valid, 3)->valueint;
    v.n_tok = v.grid_w * v.grid_h;
    v.cls_rows = floats_of(o, "cls_rows", v.row_count * v.n_head * v.n_tok, mem);
    v.cls_logits = floats_of(o, "cls_logits", v.n_head * v.n_tok, mem);
    v.received = floats_of(o, logits ? "received_logits" : "received", v.n_tok, mem);
    v.given = floats_of(o, logits ? "given_logits" : "given", v.n_tok, mem);
    return v;
}

/* "key=value,key=value" */
static prune_options options_of(const char *text)
{
    prune_options o = prune_options_default();
    char copy[128], *save = NULL;
    assert_true(strlen(text) < sizeof copy);
    strcpy(copy, text);
    for (char *pair = strtok_r(copy, ",", &save); pair; pair = strtok_r(NULL, ",", &save)) {
        char *value = strchr(pair, '=');
        assert_non_null(value);
        *value++ = 0;
        assert_int_equal(prune_option_set(&o, pair, value, NULL), SQ_OK);
    }
    return o;
}

static void check_run(const cJSON *one, const cJSON *run, prune_view *view[2], int n_view)
{
    arena mem = {0};
    sq_error err = {0};
    prune_options opt = options_of(text_of(run, "options"));
    prune_plan plan = {0};
    prune_input in = {.view = view[opt.fopru_logits],
                      .n_view = n_view,
                      .mosaic_w = int_of(one, "mosaic_w"),
                      .mosaic_h = int_of(one, "mosaic_h"),
                      .opt = &opt,
                      .scratch = &mem};
    const prune_policy *policy = prune_find(text_of(run, "policy"));
    assert_non_null(policy);
    assert_int_equal(prune_keep_parse(text_of(run, "keep"), &in.keep, NULL), SQ_OK);
    const cJSON *kept = cJSON_GetObjectItemCaseSensitive(run, "kept"), *v;
    int rc = prune_run(policy, &in, &plan, &err), i = 0, wrong = 0;
    if (!rc && plan.n_out == cJSON_GetArraySize(kept))
        cJSON_ArrayForEach(v, kept) wrong += plan.index[i++] != v->valueint;
    if (rc || plan.n_out != cJSON_GetArraySize(kept) || wrong)
        fail_msg("%s: %s %s keep %s: rc %d %s, %d kept, %d expected, %d differ",
                 text_of(one, "name"), policy->name, text_of(run, "options"), text_of(run, "keep"),
                 rc, err.text, plan.n_out, cJSON_GetArraySize(kept), wrong);
    arena_close(&mem);
}

static void policies_equal_the_reference(void **state)
{
    (void)state;
    json_doc doc = {0};
    sq_error err = {0};
    int n_run = 0, n_captured = 0;
    if (json_open(&doc, SQ_SOURCE_DIR "/tests/golden/prune_golden.json", 0, &err))
        fail_msg("%s", err.text);
    const cJSON *one, *run, *o;
    cJSON_ArrayForEach(one, cJSON_GetObjectItemCaseSensitive(doc.root, "cases"))
    {
        arena mem = {0};
        prune_view soft[MAX_VIEWS], raw[MAX_VIEWS], *view[2] = {soft, raw};
        int n_view = 0;
        cJSON_ArrayForEach(o, cJSON_GetObjectItemCaseSensitive(one, "views"))
        {
            assert_true(n_view < MAX_VIEWS);
            soft[n_view] = view_of(o, false, &mem);
            raw[n_view++] = view_of(o, true, &mem);
        }
        cJSON_ArrayForEach(run, cJSON_GetObjectItemCaseSensitive(one, "runs"))
        {
            check_run(one, run, view, n_view);
            n_run++;
        }
        n_captured += strncmp(text_of(one, "name"), "captured", 8) == 0;
        arena_close(&mem);
    }
    json_close(&doc);
    assert_true(n_run >= 600 && n_captured >= 2); /* an emptied file must not pass */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(policies_equal_the_reference)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
