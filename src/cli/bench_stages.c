/* Times: single stages on random data, and a picture's way to its answer. */
#include "cli/bench.h"

#include <stdlib.h>
#include <string.h>

/* The best that the machine did in this run: what the shares are of. */
typedef struct ceilings {
    double flops, bytes; /* a second; 0: not measured */
} ceilings;

static int run_stage(bench_table *t, sq_model *m, const char *item, ceilings *best, double *ms)
{
    int repeat = t->a->repeat;
    sq_bench_result r = {.ms = ms};
    int rc = sq_bench_stage(m, item, repeat, &r);
    if (rc) return cli_fail("bench", rc, sq_model_error(m));
    bench_times time = bench_times_of(ms, repeat);
    bench_work work = {.flops = r.flop / time.median * 1e3,
                       .bytes = r.bytes / time.median * 1e3,
                       .launches = r.launches,
                       .syncs = r.syncs};
    time.first = r.first_ms;
    if (strcmp(item, "product") == 0) best->flops = work.flops;
    if (strcmp(item, "copy") == 0) best->bytes = work.bytes;
    if (best->flops > 0) work.product_share = work.flops / best->flops;
    if (best->bytes > 0) work.copy_share = work.bytes / best->bytes;
    bench_table_row(t, item, &time, &work);
    return EXIT_DONE;
}

/* What is timed without --stages, as far as the model has it. */
static void default_stages(const sq_model_info *info, cli_list *out)
{
    static const struct {
        const char *name;
        int rows, patches; /* that it needs in the context and of a picture */
        bool gpu;          /* only there: too long elsewhere */
    } all[] = {{"vision:1", 0, 1, false},      {"vision:5", 0, 1, true},
               {"vision:32", 0, 1, true},      {"vision+rows", 0, 1, true},
               {"prefill:631", 631, 0, false}, {"prefill:199", 199, 0, false},
               {"prefill:84", 84, 0, false},   {"prefill:2935", 2935, 0, true},
               {"decode:631", 631, 0, false},  {"first-token:29", 84, 29, true}};
    *out = (cli_list){0};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].patches <= info->n_patch && (!all[i].gpu || info->gpu) &&
            (!all[i].rows || all[i].rows < info->n_ctx))
            out->item[out->n++] = all[i].name;
}

int bench_stages(sq_model *m, const bench_args *a)
{
    static const char *const ceiling[] = {"product", "copy"};
    bench_table table;
    cli_list stage;
    ceilings best = {0};
    char *hold = NULL;
    int code = bench_table_open(&table, m, a, "stage", true);
    if (code) return code;
    code = -1;
    if (a->stages)
        code = cli_split("bench", "--stages", a->stages, &stage, &hold);
    else
        default_stages(&table.info, &stage);
    for (int i = 0; code < 0 && i < stage.n; i++) {
        int rc = sq_bench_stage(m, stage.item[i], 0, NULL);
        if (rc) code = cli_fail("bench", rc, sq_model_error(m));
    }
    double *ms = calloc((size_t)a->repeat, sizeof *ms);
    if (code < 0) code = ms ? EXIT_DONE : cli_fail("bench", SQ_E_NOMEM, "out of memory");
    for (int i = -2; !code && i < stage.n; i++) {
        code = run_stage(&table, m, i < 0 ? ceiling[i + 2] : stage.item[i], &best, ms);
        if (!code && cli_interrupted) code = EXIT_INTERRUPTED;
    }
    bench_table_close(&table);
    free(ms);
    free(hold);
    return code;
}

/* ---- picture to answer ---- */

enum { N_STAGE = 8 };
static const char *const stage_name[N_STAGE] = {"decode", "preprocess", "vision",  "score",
                                                "prune",  "project",    "prefill", "total"};

/* One cold run, from file to last token. */
static int run_once(sq_model *m, const bench_args *a, const bench_row *row, sq_report *r)
{
    sq_session_options so = bench_session(a, row);
    sq_ask_options ao = {.max_tokens = a->max_tokens};
    sq_session *s = NULL;
    int rc = sq_session_open(&s, m, &so);
    if (!rc) rc = cli_add_images(m, s, &a->image);
    if (!rc) rc = sq_session_ask(s, a->prompt, &ao, r);
    int code = EXIT_DONE;
    if (rc == SQ_E_STOPPED)
        code = EXIT_INTERRUPTED;
    else if (rc)
        code = cli_fail("bench", rc, sq_session_error(s));
    sq_session_close(&s);
    return code;
}

static int time_row(bench_table *table, sq_model *m, const bench_row *row, double *ms)
{
    static sq_report r; /* too large for some stacks */
    const bench_args *a = table->a;
    char label[96];
    for (int i = -1; i < a->repeat; i++) { /* one run to warm up */
        int code = run_once(m, a, row, &r);
        if (code || cli_interrupted) return code ? code : EXIT_INTERRUPTED;
        const double value[N_STAGE] = {r.ms.decode, r.ms.preprocess, r.ms.vision,  r.ms.score,
                                       r.ms.prune,  r.ms.project,    r.ms.prefill, r.ms.total};
        for (int k = 0; i >= 0 && k < N_STAGE; k++)
            ms[k * a->repeat + i] = value[k];
    }
    for (int k = 0; k < N_STAGE; k++) {
        snprintf(label, sizeof label, "%.20s %.12s %s", row->method, row->keep ? row->keep : "all",
                 stage_name[k]);
        bench_times t = bench_times_of(ms + k * a->repeat, a->repeat);
        bench_table_row(table, label, &t, NULL);
    }
    return EXIT_DONE;
}

int bench_picture(sq_model *m, const bench_args *a)
{
    bench_row row[BENCH_MAX_ROWS];
    bench_table table;
    char *hold[2] = {NULL, NULL};
    int n, code = bench_table_open(&table, m, a, "method, kept, stage", false);
    if (code) return code;
    code = bench_rows(a, row, &n, hold);
    double *ms = calloc((size_t)a->repeat * N_STAGE, sizeof *ms);
    if (code < 0) code = ms ? EXIT_DONE : cli_fail("bench", SQ_E_NOMEM, "out of memory");
    for (int i = 0; !code && i < n; i++)
        code = time_row(&table, m, &row[i], ms);
    bench_table_close(&table);
    free(ms);
    free(hold[0]);
    free(hold[1]);
    return code;
}
