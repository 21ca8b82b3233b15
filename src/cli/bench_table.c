/* Rows of times as a table for people, as CSV and as JSON. */
#include "cli/bench.h"

#include <stdlib.h>
#include <time.h>

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

bench_times bench_times_of(double *ms, int n)
{
    qsort(ms, (size_t)n, sizeof *ms, by_value);
    return (bench_times){
        .median = (ms[(n - 1) / 2] + ms[n / 2]) / 2, .min = ms[0], .p90 = ms[(n * 9 - 1) / 10]};
}

int bench_table_open(bench_table *t, sq_model *m, const bench_args *a, const char *column,
                     bool work)
{
    time_t now = time(NULL);
    *t = (bench_table){.a = a, .column = column, .work = work};
    int rc = sq_model_get_info(m, &t->info);
    if (rc) return cli_fail("bench", rc, sq_model_error(m));
    strftime(t->date, sizeof t->date, "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
    return EXIT_DONE;
}

static void json_head(const bench_table *t)
{
    const char *const key[] = {"model", "backend", "version", "date"};
    const char *const value[] = {t->info.path, t->info.backend, SQ_VERSION, t->date};
    for (int i = 0; i < 4; i++) {
        printf("%s  \"%s\": ", i ? ",\n" : "{\n", key[i]);
        cli_json_string(stdout, value[i]);
    }
    fputs(",\n  \"stages\": [", stdout);
}

static void csv_string(const char *text)
{
    putchar('"');
    for (; *text; text++) {
        if (*text == '"') putchar('"');
        putchar(*text);
    }
    putchar('"');
}

/* Of the names in a text table: "globalcom2 12.5% preprocess" fits. */
enum { NAME_WIDTH = 28 };

/* Products in TFLOP/s on a GPU and GFLOP/s on a CPU, so that both can be read. */
static double flop_unit(const bench_table *t)
{
    return t->info.gpu ? 1e12 : 1e9;
}

static void print_head(const bench_table *t)
{
    if (t->a->json) {
        json_head(t);
    } else if (t->a->csv) {
        printf("name,median_ms,min_ms,p90_ms%s,model,backend,version,date\n",
               t->work ? ",first_ms,gflops,product_share,gbs,copy_share,launches,syncs" : "");
    } else {
        printf("# %s on %s; squint " SQ_VERSION ", %s; milliseconds\n%-*s", t->info.path,
               t->info.backend, t->date, NAME_WIDTH, t->column);
        if (t->work) printf(" %9s", "first");
        printf(" %9s %9s %9s", "median", "min", "p90");
        if (t->work)
            printf(" %8s %12s %8s %9s %8s %5s", t->info.gpu ? "TFLOP/s" : "GFLOP/s", "% of product",
                   "GB/s", "% of copy", "launches", "syncs");
        putchar('\n');
    }
}

static void json_row(const bench_table *t, const char *name, const bench_times *ms,
                     const bench_work *w)
{
    fputs(t->n_row ? ",\n    {\"name\": " : "\n    {\"name\": ", stdout);
    cli_json_string(stdout, name);
    printf(", \"median_ms\": %.4f, \"min_ms\": %.4f, \"p90_ms\": %.4f", ms->median, ms->min,
           ms->p90);
    if (t->work)
        printf(", \"first_ms\": %.4f, \"gflops\": %.5g, \"product_share\": %.4f, "
               "\"gbs\": %.5g, \"copy_share\": %.4f, \"launches\": %.1f, \"syncs\": %.1f",
               ms->first, w->flops / 1e9, w->product_share, w->bytes / 1e9, w->copy_share,
               w->launches, w->syncs);
    putchar('}');
}

static void csv_row(const bench_table *t, const char *name, const bench_times *ms,
                    const bench_work *w)
{
    const char *const last[] = {t->info.path, t->info.backend, SQ_VERSION, t->date};
    printf("%s,%.4f,%.4f,%.4f", name, ms->median, ms->min, ms->p90);
    if (t->work)
        printf(",%.4f,%.5g,%.4f,%.5g,%.4f,%.1f,%.1f", ms->first, w->flops / 1e9, w->product_share,
               w->bytes / 1e9, w->copy_share, w->launches, w->syncs);
    for (int i = 0; i < 4; i++) {
        putchar(',');
        csv_string(last[i]);
    }
    putchar('\n');
}

static void text_row(const bench_table *t, const char *name, const bench_times *ms,
                     const bench_work *w)
{
    printf("%-*s", NAME_WIDTH, name);
    if (t->work) printf(" %9.3f", ms->first);
    printf(" %9.3f %9.3f %9.3f", ms->median, ms->min, ms->p90);
    if (t->work)
        printf(" %8.4g %12.1f %8.4g %9.1f %8.0f %5.0f", w->flops / flop_unit(t),
               100 * w->product_share, w->bytes / 1e9, 100 * w->copy_share, w->launches, w->syncs);
    putchar('\n');
}

void bench_table_row(bench_table *t, const char *name, const bench_times *ms,
                     const bench_work *work)
{
    if (!t->n_row) print_head(t);
    (t->a->json ? json_row : t->a->csv ? csv_row : text_row)(t, name, ms, work);
    t->n_row++;
    fflush(stdout);
}

void bench_table_close(const bench_table *t)
{
    if (t->n_row && t->a->json) puts("\n  ]\n}");
    fflush(stdout);
}
