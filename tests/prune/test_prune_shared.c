/* FasterVLM on the demo model: the kept indices equal those that transformers' attention gives, for
 * every picture and budget of shared/demo/golden. Skipped where that folder is missing. */
#include "core/file.h"
#include "models/weights.h"
#include "prune/prune.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_PICTURE = 12, N_LAYER = 9, N_HEAD = 4, GRID = 24, N_TOK = GRID * GRID };
enum { FEATURE_LAYER = 7, ROW = N_TOK + 1 };

static char golden_path[4096];

static const void *data_of(weight_map *w, const char *name, sq_dtype type, int64_t count)
{
    const weight_entry *e = weight_find(w, name);
    if (!e) fail_msg("%s: missing", name);
    assert_int_equal(e->t.dtype, type);
    assert_int_equal(tensor_count(&e->t), count);
    return e->t.data;
}

/* The feature layer's CLS rows of one picture, without the CLS key. */
static void read_rows(weight_map *w, int picture, float *rows)
{
    char name[64];
    snprintf(name, sizeof name, "%d.cls_attention", picture);
    const char *all = data_of(w, name, SQ_DTYPE_F32, N_LAYER * N_HEAD * ROW);
    for (int h = 0; h < N_HEAD; h++)
        memcpy(rows + h * N_TOK, all + ((size_t)(FEATURE_LAYER * N_HEAD + h) * ROW + 1) * 4,
               N_TOK * sizeof *rows);
}

static void check_budget(weight_map *w, int picture, const float *rows, int n_keep)
{
    arena mem = {0};
    char name[64];
    sq_error err = {0};
    prune_options opt = prune_options_default();
    prune_view view = {.n_tok = N_TOK,
                       .grid_w = GRID,
                       .grid_h = GRID,
                       .n_head = N_HEAD,
                       .row_first = FEATURE_LAYER,
                       .row_count = 1,
                       .cls_rows = rows};
    prune_input in = {
        .view = &view, .n_view = 1, .keep = {.count = n_keep}, .opt = &opt, .scratch = &mem};
    prune_plan plan = {0};
    snprintf(name, sizeof name, "%d.fastervlm%d.indices", picture, n_keep);
    const char *expected = data_of(w, name, SQ_DTYPE_I32, n_keep);
    if (prune_run(prune_find("fastervlm"), &in, &plan, &err)) fail_msg("%s", err.text);
    assert_int_equal(plan.n_out, n_keep);
    if (memcmp(plan.index, expected, (size_t)n_keep * sizeof *plan.index))
        fail_msg("%s: other tokens are kept", name);
    arena_close(&mem);
}

static void kept_tokens_equal_transformers(void **state)
{
    (void)state;
    static const int budget[] = {288, 144, 72, 29};
    static float rows[N_HEAD * N_TOK];
    weight_map w = {0};
    sq_error err = {0};
    if (safetensors_add(&w, golden_path, &err) || weight_map_sort(&w, &err))
        fail_msg("%s", err.text);
    for (int i = 0; i < N_PICTURE; i++) {
        read_rows(&w, i, rows);
        for (int b = 0; b < 4; b++)
            check_budget(&w, i, rows, budget[b]);
    }
    weight_map_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(kept_tokens_equal_transformers)};
    const char *shared = getenv("SQ_SHARED");
    snprintf(golden_path, sizeof golden_path, "%s/demo/golden/golden.safetensors",
             shared ? shared : SQ_SOURCE_DIR "/../shared");
    if (!file_exists(golden_path)) {
        printf("skipped: %s is missing\n", golden_path);
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
