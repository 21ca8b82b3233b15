/* Times: single stages on random data, and a picture's way to its answer. */
#include "cli/bench.h"

#include <stdlib.h>
#include <string.h>

static void print_head(sq_model *m, bool json, const char *column)
{
    sq_model_info info;
    if (sq_model_get_info(m, &info)) return;
    if (json) {
        fputs("{\n  \"model\": ", stdout);
        cli_json_string(stdout, info.path);
        fputs(",\n  \"backend\": ", stdout);
        cli_json_string(stdout, info.backend);
        fputs(",\n  \"stages\": [", stdout);
    } else {
        printf("# %s on %s, milliseconds\n%-24s %10s %10s %10s\n", info.path, info.backend, column,
               "median", "min", "p90");
    }
}

static int run_stage(sq_model *m, const bench_args *a, const char *item, double *ms, bool first)
{
    char stage[32];
    const char *colon = strchr(item, ':');
    int rows = 1;
    size_t length = colon ? (size_t)(colon - item) : strlen(item);
    if (length >= sizeof stage) return cli_usage("bench", "--stages: unknown stage \"%s\"", item);
    memcpy(stage, item, length);
    stage[length] = 0;
    if (colon) {
        char *end;
        long value = strtol(colon + 1, &end, 10);
        if (end == colon + 1 || *end || value < 1 || value > 1 << 24)
            return cli_usage("bench", "--stages: expected a number of rows in \"%s\"", item);
        rows = (int)value;
    } else if (strcmp(stage, "vision")) {
        return cli_usage("bench", "--stages: expected ROWS as in prefill:631, found \"%s\"", item);
    }
    int rc = sq_bench_stage(m, stage, rows, a->repeat, ms);
    if (rc) return cli_fail("bench", rc, sq_model_error(m));
    if (first) print_head(m, a->json, "stage");
    bench_print_ms(item, ms, a->repeat, a->json, first);
    return EXIT_DONE;
}

int bench_stages(sq_model *m, const bench_args *a)
{
    sq_model_info info;
    cli_list stage;
    char *hold = NULL;
    bool vision = sq_model_get_info(m, &info) == SQ_OK && info.vit_layers;
    const char *list = a->stages ? a->stages
                       : vision  ? "vision,prefill:631,prefill:199,prefill:84,decode:631"
                                 : "prefill:631,prefill:199,prefill:84,decode:631";
    int code = cli_split("bench", "--stages", list, &stage, &hold);
    double *ms = calloc((size_t)a->repeat, sizeof *ms);
    if (code < 0) code = ms ? EXIT_DONE : cli_fail("bench", SQ_E_NOMEM, "out of memory");
    for (int i = 0; !code && i < stage.n; i++) {
        code = run_stage(m, a, stage.item[i], ms, i == 0);
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
static const char *const stage_name[N_STAGE] = {"decode", "preprocess", "vision",   "score",
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
    if (first) print_head(m, a->json, "method, kept, stage");
    for (int k = 0; k < N_STAGE; k++) {
        snprintf(label, sizeof label, "%.20s %.12s %s", row->method, row->keep ? row->keep : "all",
                 stage_name[k]);
        bench_print_ms(label, ms + k * a->repeat, a->repeat, a->json, first && k == 0);
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
