/* The three modes of squint bench. */
#ifndef SQ_BENCH_H
#define SQ_BENCH_H

#include "cli/cli.h"

typedef struct bench_args {
    cli_model model;
    const char *stages;                   /* mode 1 */
    cli_list image;                       /* mode 2 */
    const char *prompt;
    const char *questions, *images, *answers, *kinds; /* mode 3 */
    const char *methods, *keep, *prune_options;
    int repeat, seed, limit, max_tokens;
    const char *format;                   /* as given */
    bool json, csv, no_exif;
} bench_args;

int bench_stages(sq_model *m, const bench_args *a);
int bench_picture(sq_model *m, const bench_args *a);
int bench_questions(sq_model *m, const bench_args *a);

/* One pruning setting: a row of a table. */
typedef struct bench_row {
    const char *method, *keep; /* keep NULL: all */
} bench_row;
enum { BENCH_MAX_ROWS = 256 };

/* methods x keep; "none" makes one row. -1, or an exit code. *hold keeps the strings: free both. */
int bench_rows(const bench_args *a, bench_row *row, int *n, char *hold[2]);

typedef struct bench_times {
    double median, min, p90;
} bench_times;

/* Sorts ms. */
bench_times bench_times_of(double *ms, int n);

#endif
