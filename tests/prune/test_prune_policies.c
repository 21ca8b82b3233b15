/* What every policy must hold to, and the edge cases of the published rules. */
#include "core/rng.h"
#include "prune/prune.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { HEADS = 3, LAYERS = 2, MAX_TOK = 600, MAX_VIEW = 5 };

/* Attention for up to MAX_VIEW views, in static memory. */
typedef struct scene {
    float rows[MAX_VIEW][LAYERS * HEADS * MAX_TOK], logits[MAX_VIEW][HEADS * MAX_TOK];
    float received[MAX_VIEW][MAX_TOK], given[MAX_VIEW][MAX_TOK];
    prune_view view[MAX_VIEW];
    prune_options opt;
    prune_input in;
    arena mem;
} scene;

static void fill(float *x, int n, int levels, uint64_t *random)
{
    for (int i = 0; i < n; i++)
        x[i] = (float)rng_below(random, (uint64_t)levels) / 64;
}

/* levels 1: all scores equal. */
static scene *scene_new(int n_view, int w, int h, int levels, uint64_t seed)
{
    scene *s = calloc(1, sizeof *s);
    assert_non_null(s);
    uint64_t random = seed;
    for (int v = 0; v < n_view; v++) {
        fill(s->rows[v], LAYERS * HEADS * w * h, levels, &random);
        fill(s->logits[v], HEADS * w * h, levels, &random);
        fill(s->received[v], w * h, levels, &random);
        fill(s->given[v], w * h, levels, &random);
        s->view[v] = (prune_view){.n_tok = w * h,
                                  .grid_w = w,
                                  .grid_h = h,
                                  .tile_x = v - 1,
                                  .tile_y = v ? 0 : -1,
                                  .valid_x1 = w,
                                  .valid_y1 = h,
                                  .n_head = HEADS,
                                  .row_first = 6,
                                  .row_count = LAYERS,
                                  .cls_rows = s->rows[v],
                                  .cls_logits = s->logits[v],
                                  .received = s->received[v],
                                  .given = s->given[v]};
    }
    s->opt = prune_options_default();
    s->in = (prune_input){.view = s->view,
                          .n_view = n_view,
                          .mosaic_w = n_view > 1 ? n_view - 1 : 0,
                          .mosaic_h = n_view > 1,
                          .opt = &s->opt,
                          .scratch = &s->mem};
    return s;
}

static void scene_close(scene *s)
{
    arena_close(&s->mem);
    free(s);
}

static int run(scene *s, const char *name, prune_keep keep, prune_plan *plan, sq_error *err)
{
    *plan = (prune_plan){0};
    s->in.keep = keep;
    const prune_policy *p = prune_find(name);
    assert_non_null(p);
    return prune_run(p, &s->in, plan, err);
}

static void registry_is_sound(void **state)
{
    (void)state;
    assert_string_equal(prune_policies[0].name, "none");
    assert_null(prune_find("nonesuch"));
    assert_null(prune_find(""));
    int n = 0;
    for (const prune_policy *p = prune_policies; p->name; p++, n++) {
        assert_ptr_equal(prune_find(p->name), p);
        assert_true(p->paper[0] && p->summary[0] && p->options && p->plan);
        /* Every option that the table promises is one that prune_option_set knows. */
        char text[128], *save = NULL;
        strcpy(text, p->options);
        for (char *o = strtok_r(text, " ", &save); o; o = strtok_r(NULL, " ", &save)) {
            char *value = strchr(o, '=');
            assert_non_null(value);
            *value++ = 0;
            value[strcspn(value, "|")] = 0;
            prune_options opt = prune_options_default();
            assert_int_equal(prune_option_set(&opt, o, strcmp(value, "N") ? value : "3", NULL),
                             SQ_OK);
        }
    }
    assert_int_equal(n, 7);
}

static void needs_follow_the_tower(void **state)
{
    (void)state;
    prune_tower large = {.n_layer = 24, .feature_layer = 22}, demo = {9, 7}, tiny = {3, 1};
    prune_options o = prune_options_default();
    prune_needs n = prune_needs_of(prune_find("none"), &large, &o);
    assert_false(n.cls_rows || n.cls_logits || n.means);
    n = prune_needs_of(prune_find("fastervlm"), &large, &o);
    assert_true(n.cls_rows && n.row_first == 22 && n.row_last == 22);
    assert_false(n.cls_logits || n.means);
    n = prune_needs_of(prune_find("vtc-cls"), &large, &o);
    assert_true(n.cls_rows && n.row_first == 16 && n.row_last == 22);
    n = prune_needs_of(prune_find("vtc-cls"), &demo, &o);
    assert_true(n.row_first == 6 && n.row_last == 7);
    n = prune_needs_of(prune_find("vtc-cls"), &tiny, &o);
    assert_true(n.row_first == 1 && n.row_last == 1);
    n = prune_needs_of(prune_find("fopru"), &large, &o);
    assert_true(n.means && !n.means_logits && !n.cls_rows);
    n = prune_needs_of(prune_find("globalcom2"), &large, &o);
    assert_true(n.cls_logits && !n.cls_rows && !n.means);
    o.start_layer = 12;
    n = prune_needs_of(prune_find("vtc-cls"), &large, &o);
    assert_true(n.row_first == 12 && n.row_last == 22);
    o.fopru_logits = true;
    n = prune_needs_of(prune_find("fopru"), &large, &o);
    assert_true(n.means && n.means_logits);
}

/* Distinct, ascending, in range; the count that the budget asks for in every view. */
static void check_plan(const scene *s, const prune_policy *p, const prune_plan *plan)
{
    bool all = !strcmp(p->name, "none"), tiles = !strcmp(p->name, "globalcom2");
    int n_in = 0, expected = 0;
    for (int v = 0; v < s->in.n_view; v++) {
        int n_tok = s->view[v].n_tok;
        n_in += n_tok;
        expected += all ? n_tok : prune_n_keep(s->in.keep, n_tok, p->rounding);
    }
    assert_int_equal(plan->n_in, n_in);
    if (!tiles || s->in.n_view == 1) assert_int_equal(plan->n_out, expected);
    assert_true(plan->n_out >= 1 && plan->n_out <= n_in);
    for (int r = 0; r < plan->n_out; r++) {
        assert_int_equal(plan->start[r], r);
        assert_true(plan->weight[r] == 1);
        assert_true(plan->index[r] >= 0 && plan->index[r] < n_in);
        if (r) assert_true(plan->index[r] > plan->index[r - 1]);
    }
}

static void every_policy_keeps_its_budget(void **state)
{
    (void)state;
    static const prune_keep keep[] = {{0},
                                      {.count = 1},
                                      {.count = 5},
                                      {.count = 1000},
                                      {.percent = 25},
                                      {.percent = 0.1},
                                      {.percent = 62.5},
                                      {.percent = 100}};
    static const int size[][2] = {{1, 1}, {24, 24}, {7, 5}, {1, 12}, {12, 1}};
    for (const prune_policy *p = prune_policies; p->name; p++)
        for (size_t z = 0; z < 5; z++)
            for (int levels = 1; levels < 200; levels += 99)
                for (size_t k = 0; k < sizeof keep / sizeof *keep; k++) {
                    scene *s = scene_new(1, size[z][0], size[z][1], levels, 5 + z);
                    prune_plan plan, again;
                    assert_int_equal(run(s, p->name, keep[k], &plan, NULL), SQ_OK);
                    check_plan(s, p, &plan);
                    assert_int_equal(run(s, p->name, keep[k], &again, NULL), SQ_OK);
                    assert_int_equal(again.n_out, plan.n_out);
                    assert_memory_equal(again.index, plan.index,
                                        (size_t)plan.n_out * sizeof *plan.index);
                    scene_close(s);
                }
}

static void views_are_planned_apart(void **state)
{
    (void)state;
    static const prune_keep keep[] = {{.count = 5}, {.percent = 25}, {.percent = 100}};
    for (const prune_policy *p = prune_policies; p->name; p++)
        for (size_t k = 0; k < 3; k++) {
            scene *s = scene_new(3, 8, 6, 50, 3);
            prune_plan plan;
            assert_int_equal(run(s, p->name, keep[k], &plan, NULL), SQ_OK);
            check_plan(s, p, &plan);
            scene_close(s);
        }
}

static void equal_scores_keep_the_first(void **state)
{
    (void)state;
    static const char *const scored[] = {"fastervlm", "vtc-cls", "fopru", "globalcom2"};
    for (int i = 0; i < 4; i++) {
        scene *s = scene_new(1, 6, 4, 1, 1);
        prune_plan plan;
        assert_int_equal(run(s, scored[i], (prune_keep){.count = 7}, &plan, NULL), SQ_OK);
        for (int r = 0; r < 7; r++)
            assert_int_equal(plan.index[r], r);
        scene_close(s);
    }
}

static void bad_scores_are_refused(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    static const char *const ensemble[] = {"sum", "min", "max"};
    for (int b = 0; b < 3; b++)
        for (int i = 0; i < 8; i++) {
            scene *s = scene_new(1, 6, 4, 30, 2);
            prune_plan plan;
            sq_error err = {0};
            const char *name = i < 1   ? "fastervlm"
                               : i < 4 ? "vtc-cls"
                               : i < 7 ? "fopru"
                                       : "globalcom2";
            if (i >= 1 && i < 4) prune_option_set(&s->opt, "ensemble", ensemble[i - 1], NULL);
            if (i == 5) prune_option_set(&s->opt, "strategy", "row", NULL);
            int layer = i >= 1 && i < 4 ? i % LAYERS : LAYERS - 1; /* fastervlm reads the last */
            s->rows[0][(layer * HEADS + 1) * 24 + 9] = bad[b];
            s->logits[0][24 + 9] = s->received[0][9] = bad[b];
            if (i == 6) s->received[0][9] = 0, s->given[0][9] = bad[b];
            assert_int_equal(run(s, name, (prune_keep){.count = 6}, &plan, &err), SQ_E_FORMAT);
            assert_non_null(strstr(err.text, "token 9"));
            scene_close(s);
        }
}

static void missing_attention_is_refused(void **state)
{
    (void)state;
    static const char *const scored[] = {"fastervlm", "vtc-cls", "fopru", "globalcom2"};
    for (int i = 0; i < 4; i++) {
        scene *s = scene_new(1, 6, 4, 30, 2);
        prune_plan plan;
        sq_error err = {0};
        s->view[0].cls_rows = s->view[0].cls_logits = s->view[0].received = NULL;
        assert_int_equal(run(s, scored[i], (prune_keep){.count = 6}, &plan, &err), SQ_E_ARG);
        assert_non_null(strstr(err.text, "captured"));
        scene_close(s);
    }
}

static void wrong_views_are_refused(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        scene *s = scene_new(1, 6, 4, 30, 2);
        prune_plan plan;
        sq_error err = {0};
        if (i == 0) s->view[0].n_tok = 25;
        if (i == 1) s->view[0].grid_w = 0, s->view[0].n_tok = 0;
        if (i == 2) s->in.n_view = 0;
        if (i == 3) s->view[0].grid_w = 1 << 20, s->view[0].grid_h = 1 << 20;
        assert_int_equal(run(s, "none", (prune_keep){0}, &plan, &err), SQ_E_ARG);
        assert_non_null(strstr(err.text, "expected"));
        scene_close(s);
    }
}

static void start_layer_is_checked(void **state)
{
    (void)state;
    prune_tower tower = {.n_layer = 9, .feature_layer = 7};
    for (int layer = -3; layer < 12; layer++) {
        scene *s = scene_new(1, 6, 4, 30, 2);
        prune_plan plan;
        sq_error err = {0};
        s->opt.start_layer = layer;
        prune_needs n = prune_needs_of(prune_find("vtc-cls"), &tower, &s->opt);
        assert_true(n.row_first >= 0 && n.row_first <= n.row_last && n.row_last == 7);
        s->view[0].row_first = n.row_first;
        s->view[0].row_count = n.row_last - n.row_first + 1;
        if (s->view[0].row_count > LAYERS) { /* the scene has no more rows */
            scene_close(s);
            continue;
        }
        bool good = layer == -1 || (layer >= 0 && layer <= 7);
        assert_int_equal(run(s, "vtc-cls", (prune_keep){.count = 6}, &plan, &err),
                         good ? SQ_OK : SQ_E_ARG);
        if (!good) assert_non_null(strstr(err.text, "expected 0 to 7"));
        scene_close(s);
    }
    for (int layer = -4; layer < -1; layer++) { /* captured from layer 0 on */
        scene *s = scene_new(1, 6, 4, 30, 2);
        prune_plan plan;
        s->opt.start_layer = layer;
        s->view[0].row_first = 0;
        assert_int_equal(run(s, "vtc-cls", (prune_keep){.count = 6}, &plan, NULL), SQ_E_ARG);
        scene_close(s);
    }
}

static void vtc_from_the_feature_layer_is_fastervlm(void **state)
{
    (void)state;
    scene *s = scene_new(1, 24, 24, 4000, 9);
    prune_plan a, b;
    assert_int_equal(run(s, "fastervlm", (prune_keep){.count = 100}, &a, NULL), SQ_OK);
    s->view[0].cls_rows += HEADS * 576; /* the last layer alone */
    s->view[0].row_first = 7;
    s->view[0].row_count = 1;
    s->opt.start_layer = 7;
    assert_int_equal(run(s, "vtc-cls", (prune_keep){.count = 100}, &b, NULL), SQ_OK);
    assert_memory_equal(a.index, b.index, 100 * sizeof *a.index);
    scene_close(s);
}

static void fopru_keeps_whole_rows(void **state)
{
    (void)state;
    static const struct {
        prune_keep keep;
        int expected; /* 0: refused */
    } t[] = {{{.percent = 25}, 144},
             {{.percent = 50}, 288},
             {{.percent = 10}, 48},
             {{.percent = 100}, 576},
             {{0}, 576},
             {{.count = 144}, 144},
             {{.count = 71}, 48},
             {{.count = 24}, 24},
             {{.count = 23}, 0},
             {{.percent = 4}, 0},
             {{.count = 9999}, 576}};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        scene *s = scene_new(1, 24, 24, 500, 3);
        prune_plan plan;
        sq_error err = {0};
        s->opt.fopru = FOPRU_ROW;
        int rc = run(s, "fopru", t[i].keep, &plan, &err);
        assert_int_equal(rc, t[i].expected ? SQ_OK : SQ_E_ARG);
        if (rc) assert_non_null(strstr(err.text, "grid row"));
        for (int r = 0; !rc && r < plan.n_out; r += 24)
            for (int x = 0; x < 24; x++)
                assert_int_equal(plan.index[r + x], plan.index[r] / 24 * 24 + x);
        if (!rc) assert_int_equal(plan.n_out, t[i].expected);
        scene_close(s);
    }
}

static void fopru_takes_the_larger_variance(void **state)
{
    (void)state;
    for (int which = 0; which < 3; which++) { /* received, given, exact tie -> received */
        scene *s = scene_new(1, 4, 1, 1, 1);
        prune_plan plan;
        const float rising[4] = {1, 2, 3, 4}, falling[4] = {4, 3, 2, 1};
        for (int i = 0; i < 4; i++) {
            s->received[0][i] = rising[i] * (which == 0 ? 2 : 1);
            s->given[0][i] = falling[i] * (which == 1 ? 2 : 1);
        }
        assert_int_equal(run(s, "fopru", (prune_keep){.count = 1}, &plan, NULL), SQ_OK);
        assert_int_equal(plan.index[0], which == 1 ? 0 : 3);
        scene_close(s);
    }
}

static void globalcom2_shares_among_tiles(void **state)
{
    (void)state;
    /* Equal maps: 144 each of 576, exactly. One block far above: 251 and 108 each (6.7). */
    for (int hot = 0; hot < 2; hot++) {
        scene *s = scene_new(5, 24, 24, 4000, 17);
        prune_plan plan;
        s->in.mosaic_w = s->in.mosaic_h = 2;
        for (int v = 1; v < 5; v++)
            s->view[v].tile_x = (v - 1) % 2, s->view[v].tile_y = (v - 1) / 2;
        for (int i = 0; i < HEADS * 576; i++)
            s->logits[0][i] = hot && i % 576 / 24 >= 12 && i % 24 < 12 ? 100 : 1;
        assert_int_equal(run(s, "globalcom2", (prune_keep){.percent = 25}, &plan, NULL), SQ_OK);
        int count[5] = {0};
        for (int r = 0; r < plan.n_out; r++)
            count[plan.index[r] / 576]++;
        assert_int_equal(count[0], 144);
        for (int v = 1; v < 5; v++)
            assert_int_equal(count[v], !hot ? 144 : v == 3 ? 251 : 108);
        scene_close(s);
    }
}

static void globalcom2_never_keeps_padding(void **state)
{
    (void)state;
    scene *s = scene_new(3, 8, 8, 300, 21); /* 2 x 1 tiles; the right one is half padding */
    prune_plan plan;
    s->view[2].valid_x1 = 3;
    for (int v = 1; v < 3; v++)
        s->view[v].valid_y0 = 2, s->view[v].valid_y1 = 6;
    assert_int_equal(run(s, "globalcom2", (prune_keep){.percent = 100}, &plan, NULL), SQ_OK);
    assert_int_equal(plan.n_out, 64 + 8 * 4 + 3 * 4);
    for (int r = 64; r < plan.n_out; r++) {
        int t = plan.index[r] % 64;
        assert_true(t / 8 >= 2 && t / 8 < 6);
        if (plan.index[r] >= 128) assert_true(t % 8 < 3);
    }
    s->view[2].valid_x1 = 0; /* nothing but padding */
    assert_int_equal(run(s, "globalcom2", (prune_keep){.percent = 100}, &plan, NULL), SQ_OK);
    assert_int_equal(plan.n_out, 64 + 8 * 4);
    s->view[2].tile_x = 2;
    assert_int_equal(run(s, "globalcom2", (prune_keep){.percent = 50}, &plan, NULL), SQ_E_ARG);
    s->in.mosaic_w = 3;
    assert_int_equal(run(s, "globalcom2", (prune_keep){.percent = 50}, &plan, NULL), SQ_E_ARG);
    scene_close(s);
}

static void random_depends_on_its_seed(void **state)
{
    (void)state;
    scene *s = scene_new(2, 24, 24, 2, 1);
    prune_plan a, b;
    prune_keep keep = {.count = 144};
    assert_int_equal(run(s, "random", keep, &a, NULL), SQ_OK);
    int same = 0; /* the two views of one picture differ: a quarter is shared by chance */
    for (int i = 0; i < 144; i++)
        for (int j = 144; j < 288; j++)
            same += a.index[i] + 576 == a.index[j];
    assert_true(same < 72);
    s->opt.seed = 1;
    assert_int_equal(run(s, "random", keep, &b, NULL), SQ_OK);
    assert_memory_not_equal(a.index, b.index, 144 * sizeof *a.index);
    s->opt.seed = 0;
    s->in.picture = 1;
    assert_int_equal(run(s, "random", keep, &b, NULL), SQ_OK);
    assert_memory_not_equal(a.index, b.index, 144 * sizeof *a.index);
    s->in.picture = 0;
    assert_int_equal(run(s, "random", keep, &b, NULL), SQ_OK);
    assert_memory_equal(a.index, b.index, 288 * sizeof *a.index);
    scene_close(s);
}

static void random_is_unbiased(void **state)
{
    (void)state;
    enum { N = 6, K = 3, ROUNDS = 20000, SUBSETS = 20 };
    int count[1 << N] = {0}, used = 0;
    scene *s = scene_new(1, N, 1, 2, 1);
    prune_plan plan;
    arena_mark mark = arena_get_mark(&s->mem);
    for (int i = 0; i < ROUNDS; i++) {
        s->opt.seed = (uint64_t)i;
        assert_int_equal(run(s, "random", (prune_keep){.count = K}, &plan, NULL), SQ_OK);
        count[1 << plan.index[0] | 1 << plan.index[1] | 1 << plan.index[2]]++;
        arena_rewind(&s->mem, mark);
    }
    double chi2 = 0, mean = (double)ROUNDS / SUBSETS;
    for (int i = 0; i < 1 << N; i++) {
        used += count[i] > 0;
        if (count[i]) chi2 += (count[i] - mean) * (count[i] - mean) / mean;
    }
    assert_int_equal(used, SUBSETS);
    assert_true(chi2 < 43.8); /* 19 degrees of freedom, p = 0.001 */
    scene_close(s);
}

static void uniform_is_spread(void **state)
{
    (void)state;
    scene *s = scene_new(1, 24, 24, 2, 1);
    prune_plan plan;
    assert_int_equal(run(s, "uniform", (prune_keep){.count = 144}, &plan, NULL), SQ_OK);
    for (int i = 0; i < 144; i++)
        assert_int_equal(plan.index[i], 4 * i + 2);
    assert_int_equal(run(s, "uniform", (prune_keep){.count = 1}, &plan, NULL), SQ_OK);
    assert_int_equal(plan.index[0], 288);
    assert_int_equal(run(s, "uniform", (prune_keep){.count = 77}, &plan, NULL), SQ_OK);
    for (int i = 1; i < 77; i++) {
        int step = plan.index[i] - plan.index[i - 1];
        assert_true(step == 7 || step == 8);
    }
    scene_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(registry_is_sound),
        cmocka_unit_test(needs_follow_the_tower),
        cmocka_unit_test(every_policy_keeps_its_budget),
        cmocka_unit_test(views_are_planned_apart),
        cmocka_unit_test(equal_scores_keep_the_first),
        cmocka_unit_test(bad_scores_are_refused),
        cmocka_unit_test(missing_attention_is_refused),
        cmocka_unit_test(wrong_views_are_refused),
        cmocka_unit_test(start_layer_is_checked),
        cmocka_unit_test(vtc_from_the_feature_layer_is_fastervlm),
        cmocka_unit_test(fopru_keeps_whole_rows),
        cmocka_unit_test(fopru_takes_the_larger_variance),
        cmocka_unit_test(globalcom2_shares_among_tiles),
        cmocka_unit_test(globalcom2_never_keeps_padding),
        cmocka_unit_test(random_depends_on_its_seed),
        cmocka_unit_test(random_is_unbiased),
        cmocka_unit_test(uniform_is_spread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
