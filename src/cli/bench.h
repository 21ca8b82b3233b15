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

/* What a row's pictures and questions are run with. */
sq_session_options bench_session(const bench_args *a, const bench_row *row);

/* ---- tables of times (bench_table.c) ---- */

typedef struct bench_times {
    double first; /* 0: not told */
    double median, min, p90;
} bench_times;

/* Sorts ms. */
bench_times bench_times_of(double *ms, int n);

/* What a stage did, beside its times. */
typedef struct bench_work {
    double flops, bytes;              /* a second */
    double product_share, copy_share; /* of the best in this run; 0: not known */
    double launches, syncs;
} bench_work;

typedef struct bench_table {
    const bench_args *a;
    sq_model_info info;
    const char *column; /* over the names */
    bool work;          /* rows have it */
    char date[32];
    int n_row;
} bench_table;

int bench_table_open(bench_table *t, sq_model *m, const bench_args *a, const char *column,
                     bool work);
/* The head comes with the first row, so that nothing is printed when nothing could be timed. */
void bench_table_row(bench_table *t, const char *name, const bench_times *ms,
                     const bench_work *work);
/* Ends what was begun, also after a failure. */
void bench_table_close(const bench_table *t);

#endif
