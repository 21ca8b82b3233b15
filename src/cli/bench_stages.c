/* Times: single stages on random data, and a picture's way to its answer. */
#include "cli/bench.h"

#include <stdlib.h>
#include <string.h>

/* The best that the machine did in this run: what the shares are of. */
typedef struct ceilings {
    double flops, bytes; /* a second; 0: not measured */
} ceilings;

static void print_head(sq_model *m, const bench_args *a, const char *column, const char *more)
{
    sq_model_info info;
    if (sq_model_get_info(m, &info)) return;
    if (a->json) {
        fputs("{\n  \"model\": ", stdout);
        cli_json_string(stdout, info.path);
        fputs(",\n  \"backend\": ", stdout);
        cli_json_string(stdout, info.backend);
        fputs(",\n  \"stages\": [", stdout);
    } else if (a->csv) {
        printf("name,median_ms,min_ms,p90_ms%s\n", more);
    } else {
        printf("# %s on %s, milliseconds\n%-24s %10s %10s %10s%s\n", info.path, info.backend,
               column, "median", "min", "p90", more);
    }
}

/* The columns that every time has; the caller ends the row. */
static void print_times(const bench_args *a, const char *label, const bench_times *t, bool first)
{
    if (a->json) {
        fputs(first ? "\n    {\"name\": " : ",\n    {\"name\": ", stdout);
        cli_json_string(stdout, label);
        printf(", \"median_ms\": %.4f, \"min_ms\": %.4f, \"p90_ms\": %.4f", t->median, t->min,
               t->p90);
    } else if (a->csv) {
        printf("%s,%.4f,%.4f,%.4f", label, t->median, t->min, t->p90);
    } else {
        printf("%-24s %10.3f %10.3f %10.3f", label, t->median, t->min, t->p90);
    }
}

static void print_stage(const bench_args *a, const char *label, const bench_times *t,
                        const sq_bench_result *r, const ceilings *best, bool first)
{
    double flops = r->flop / t->median * 1e3, bytes = r->bytes / t->median * 1e3;
    double of_flops = best->flops > 0 ? flops / best->flops : 0;
    double of_bytes = best->bytes > 0 ? bytes / best->bytes : 0;
    print_times(a, label, t, first);
    if (a->json)
        printf(", \"tflops\": %.5g, \"product_share\": %.4f, \"tbs\": %.5g, \"copy_share\": %.4f, "
               "\"launches\": %.1f, \"syncs\": %.1f}",
               flops / 1e12, of_flops, bytes / 1e12, of_bytes, r->launches, r->syncs);
    else if (a->csv)
        printf(",%.5g,%.4f,%.5g,%.4f,%.1f,%.1f\n", flops / 1e12, of_flops, bytes / 1e12, of_bytes,
               r->launches, r->syncs);
    else
        printf(" %9.4g %7.1f %9.4g %7.1f %9.0f %6.0f\n", flops / 1e12, 100 * of_flops, bytes / 1e12,
               100 * of_bytes, r->launches, r->syncs);
}

static const char csv_columns[] = ",tflops,product_share,tbs,copy_share,launches,syncs";
static const char table_columns[] = "   TFLOP/s % of it      TB/s % of it  launches  syncs";

static int run_stage(sq_model *m, const bench_args *a, const char *item, ceilings *best, double *ms,
                     bool first)
{
    sq_bench_result r = {.ms = ms};
    int rc = sq_bench_stage(m, item, a->repeat, &r);
    if (rc) return cli_fail("bench", rc, sq_model_error(m));
    bench_times t = bench_times_of(ms, a->repeat);
    if (strcmp(item, "product") == 0) best->flops = r.flop / t.median * 1e3;
    if (strcmp(item, "copy") == 0) best->bytes = r.bytes / t.median * 1e3;
    if (first) print_head(m, a, "stage", a->csv ? csv_columns : table_columns);
    print_stage(a, item, &t, &r, best, first);
    return EXIT_DONE;
}

/* What is timed without --stages, as far as the model has it. */
static void default_stages(sq_model *m, cli_list *out)
{
    static const struct {
        const char *name;
        int rows; /* the context that it needs; 0: vision */
        bool gpu; /* only there: too long elsewhere */
    } all[] = {{"vision:1", 0, false},      {"vision:5", 0, true},
               {"vision:32", 0, true},      {"vision+rows", 0, true},
               {"prefill:631", 631, false}, {"prefill:199", 199, false},
               {"prefill:84", 84, false},   {"prefill:2935", 2935, true},
               {"decode:631", 631, false},  {"first-token:29", 84, true}};
    sq_model_info info;
    *out = (cli_list){0};
    if (sq_model_get_info(m, &info)) return;
    bool gpu = strncmp(info.backend, "cpu", 3) != 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        bool vision = all[i].rows == 0 || strncmp(all[i].name, "first", 5) == 0;
        if ((vision && !info.vit_layers) || (all[i].gpu && !gpu)) continue;
        if (all[i].rows == 0 || all[i].rows < info.n_ctx) out->item[out->n++] = all[i].name;
    }
}

int bench_stages(sq_model *m, const bench_args *a)
{
    static const char *const ceiling[] = {"product", "copy"};
    cli_list stage;
    ceilings best = {0};
    char *hold = NULL;
    int code = -1;
    if (a->stages)
        code = cli_split("bench", "--stages", a->stages, &stage, &hold);
    else
        default_stages(m, &stage);
    for (int i = 0; code < 0 && i < stage.n; i++) {
        int rc = sq_bench_stage(m, stage.item[i], 0, NULL);
        if (rc) code = cli_fail("bench", rc, sq_model_error(m));
    }
    double *ms = calloc((size_t)a->repeat, sizeof *ms);
    if (code < 0) code = ms ? EXIT_DONE : cli_fail("bench", SQ_E_NOMEM, "out of memory");
    for (int i = -2; !code && i < stage.n; i++) {
        code = run_stage(m, a, i < 0 ? ceiling[i + 2] : stage.item[i], &best, ms, i == -2);
        fflush(stdout);
        if (cli_interrupted) code = EXIT_INTERRUPTED;
    }
    if (!code && a->json) puts("\n  ]\n}");
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
    sq_session_options so = {.prune = row->method,
                             .keep = row->keep,
                             .prune_options = a->prune_options,
                             .seed = (uint64_t)a->seed,
                             .image.ignore_exif = a->no_exif};
    sq_ask_options ao = {.max_tokens = a->max_tokens};
    sq_session *s = NULL;
    int rc = sq_session_open(&s, m, &so);
    for (int i = 0; !rc && i < a->image.n; i++)
        rc = sq_session_add_image(s, a->image.item[i]);
    if (!rc) rc = sq_session_ask(s, a->prompt, &ao, r);
    int code = rc ? cli_fail("bench", rc, sq_session_error(s)) : EXIT_DONE;
    sq_session_close(&s);
    return code;
}

static int time_row(sq_model *m, const bench_args *a, const bench_row *row, double *ms, bool first)
{
    static sq_report r; /* too large for some stacks */
    char label[96];
    for (int i = -1; i < a->repeat; i++) { /* one run to warm up */
        int code = run_once(m, a, row, &r);
        if (code || cli_interrupted) return code ? code : EXIT_INTERRUPTED;
        const double value[N_STAGE] = {r.ms.decode, r.ms.preprocess, r.ms.vision,  r.ms.score,
                                       r.ms.prune,  r.ms.project,    r.ms.prefill, r.ms.total};
        for (int k = 0; i >= 0 && k < N_STAGE; k++)
            ms[k * a->repeat + i] = value[k];
    }
    if (first) print_head(m, a, "method, kept, stage", "");
    for (int k = 0; k < N_STAGE; k++) {
        snprintf(label, sizeof label, "%.20s %.12s %s", row->method, row->keep ? row->keep : "all",
                 stage_name[k]);
        bench_times t = bench_times_of(ms + k * a->repeat, a->repeat);
        print_times(a, label, &t, first && k == 0);
        fputs(a->json ? "}" : "\n", stdout);
    }
    return EXIT_DONE;
}

int bench_picture(sq_model *m, const bench_args *a)
{
    bench_row row[BENCH_MAX_ROWS];
    char *hold[2] = {NULL, NULL};
    int n;
    int code = bench_rows(a, row, &n, hold);
    double *ms = calloc((size_t)a->repeat * N_STAGE, sizeof *ms);
    if (code < 0) code = ms ? EXIT_DONE : cli_fail("bench", SQ_E_NOMEM, "out of memory");
    for (int i = 0; !code && i < n; i++)
        code = time_row(m, a, &row[i], ms, i == 0);
    if (!code && a->json) puts("\n  ]\n}");
    free(ms);
    free(hold[0]);
    free(hold[1]);
    return code;
}
