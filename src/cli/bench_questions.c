/* Accuracy over a question file, method by method. Every answer is appended to the answers file as
 * soon as it is there, so that a run can be cut off and go on. */
#define _POSIX_C_SOURCE 200809L
#include "cli/bench.h"
#include "cli/questions.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { OPEN = 0, RIGHT = 1, WRONG = 2 };

typedef struct quiz {
    sq_model *m;
    char backend[32], compute[16]; /* "cpu", "f32": answers of others are not mixed with these */
    const bench_args *a;
    question_list list;
    cli_list kind;
    bench_row row[BENCH_MAX_ROWS];
    int n_row;
    unsigned char *mark; /* [n_row, list.n]: OPEN, RIGHT, WRONG */
    int *tokens;         /* [n_row]: kept of the last picture */
    FILE *answers;       /* NULL: not written */
    bool progress;
    int done, total;
    sq_report r;
} quiz;

/* ---- the answers file ---- */

/* The whole answer, ends trimmed, letters' case ignored. */
static unsigned char judge(const char *text, const char *answer)
{
    while (*text == ' ' || *text == '\n')
        text++;
    size_t n = strlen(text);
    while (n && (text[n - 1] == ' ' || text[n - 1] == '\n'))
        n--;
    return answer && strlen(answer) == n && !strncasecmp(text, answer, n) ? RIGHT : WRONG;
}

static int find_row(const quiz *z, const char *method, const char *keep)
{
    for (int i = 0; i < z->n_row; i++)
        if (!strcmp(z->row[i].method, method) &&
            !strcmp(z->row[i].keep ? z->row[i].keep : "all", keep))
            return i;
    return -1;
}

static const char *text_of(const cJSON *o, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(o, key);
    return cJSON_IsString(item) ? item->valuestring : "";
}

/* The two words of "cpu: avx2, 2 threads, f32" that answers depend on. */
static void name_arithmetic(quiz *z)
{
    sq_model_info info;
    if (sq_model_get_info(z->m, &info)) return;
    const char *last = strrchr(info.backend, ' ');
    snprintf(z->backend, sizeof z->backend, "%.*s", (int)strcspn(info.backend, ":"), info.backend);
    snprintf(z->compute, sizeof z->compute, "%s", last ? last + 1 : info.backend);
}

/* A line of another model, or computed in another way, must not go on in this file. */
static int check_line(const quiz *z, const cJSON *o)
{
    const cJSON *meta = cJSON_GetObjectItemCaseSensitive(o, "metadata");
    const char *const what[] = {"model", "backend", "compute"};
    const char *const found[] = {text_of(o, "model_id"), text_of(meta, "backend"),
                                 text_of(meta, "compute")};
    const char *const now[] = {z->a->model.model, z->backend, z->compute};
    for (int i = 0; i < 3; i++)
        if (strcmp(found[i], now[i]))
            return cli_usage("bench",
                             "%s: holds answers of %s \"%.200s\", this is \"%.200s\"; choose "
                             "another file",
                             z->a->answers, what[i], found[i], now[i]);
    return -1;
}

/* One line of an earlier run; lines of other settings stay in the file untouched. *at is where
 * the last one was found: files are in order. */
static int take_line(quiz *z, const char *line, int *at)
{
    cJSON *o = cJSON_Parse(line);
    const cJSON *meta = cJSON_GetObjectItemCaseSensitive(o, "metadata");
    int code = o ? check_line(z, o)
                 : cli_usage("bench", "%s: a line is no JSON object", z->a->answers);
    int row = o ? find_row(z, text_of(meta, "method"), text_of(meta, "keep")) : -1;
    for (int i = 0; code < 0 && row >= 0 && i < z->list.n; i++) {
        int k = (*at + i) % z->list.n;
        if (strcmp(z->list.q[k].id, text_of(o, "question_id"))) continue;
        z->mark[row * z->list.n + k] = judge(text_of(o, "text"), z->list.q[k].answer);
        const cJSON *tokens = cJSON_GetObjectItemCaseSensitive(meta, "tokens");
        if (cJSON_IsNumber(tokens)) z->tokens[row] = tokens->valueint;
        *at = k;
        break;
    }
    cJSON_Delete(o);
    return code;
}

/* Reads what is there, cuts a line that was not finished, and opens the file for more. */
static int open_answers(quiz *z)
{
    char *line = NULL;
    size_t cap = 0;
    int code = -1, at = 0;
    off_t whole = 0;
    ssize_t n;
    FILE *f = fopen(z->a->answers, "r+b");
    if (!f) f = fopen(z->a->answers, "w+b");
    while (f && code < 0 && (n = getline(&line, &cap, f)) >= 0 && line[n - 1] == '\n') {
        code = take_line(z, line, &at);
        whole += n;
    }
    free(line);
    if (code < 0 && f && !fseeko(f, whole, SEEK_SET) && !ftruncate(fileno(f), whole)) {
        z->answers = f;
        return -1;
    }
    if (code < 0) {
        fprintf(stderr, "squint bench: %s: cannot write: %s\n", z->a->answers, strerror(errno));
        code = EXIT_FAILED;
    }
    if (f) fclose(f);
    return code;
}

static bool write_answer(quiz *z, int row, const question *q)
{
    const sq_image_report *im = &z->r.image[0];
    const bench_row *b = &z->row[row];
    const struct {
        const char *key, *value;
    } part[] = {{"{\"question_id\": ", q->id},
                {", \"prompt\": ", q->text},
                {", \"text\": ", z->r.answer},
                {", \"model_id\": ", z->a->model.model},
                {", \"metadata\": {\"backend\": ", z->backend},
                {", \"compute\": ", z->compute},
                {", \"method\": ", b->method},
                {", \"keep\": ", b->keep ? b->keep : "all"},
                {", \"answer\": ", q->answer ? q->answer : ""},
                {", \"category\": ", q->kind ? q->kind : ""}};
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        fputs(part[i].key, z->answers);
        cli_json_string(z->answers, part[i].value);
    }
    fprintf(z->answers, ", \"tokens\": %d, \"min_gap\": %.5f", im->tokens_kept,
            (double)z->r.min_gap);
    if (b->keep) { /* else all of them */
        fputs(", \"kept\": [", z->answers);
        for (int i = 0; i < im->tokens_kept; i++)
            fprintf(z->answers, "%s%d", i ? ", " : "", (int)im->kept[i]);
        fputc(']', z->answers);
    }
    fputs("}}\n", z->answers);
    return fflush(z->answers) == 0;
}

/* ---- asking ---- */

static int ask_one(quiz *z, sq_session *s, int row, int k)
{
    const question *q = &z->list.q[k];
    sq_ask_options ao = {.max_tokens = z->a->max_tokens};
    int rc = sq_session_rewind(s);
    if (!rc) rc = sq_session_ask(s, q->text, &ao, &z->r);
    if (rc) return cli_fail("bench", rc, sq_session_error(s));
    z->mark[row * z->list.n + k] = judge(z->r.answer, q->answer);
    z->tokens[row] = z->r.image[0].tokens_kept;
    if (z->answers && !write_answer(z, row, q))
        return cli_fail("bench", SQ_E_IO, "cannot write the answers file");
    return cli_interrupted ? EXIT_INTERRUPTED : EXIT_DONE;
}

/* Questions first .. end - 1 share one picture, which is encoded once. */
static int ask_group(quiz *z, int row, int first, int end)
{
    const bench_args *a = z->a;
    const unsigned char *mark = z->mark + row * z->list.n;
    sq_session_options so = {.prune = z->row[row].method,
                             .keep = z->row[row].keep,
                             .prune_options = a->prune_options,
                             .seed = (uint64_t)a->seed,
                             .image.ignore_exif = a->no_exif};
    sq_session *s = NULL;
    int code = EXIT_DONE;
    for (int k = first; k < end && !code; k++) {
        if (mark[k] != OPEN) continue;
        if (!s) {
            int rc = sq_session_open(&s, z->m, &so);
            if (!rc) rc = sq_session_add_image(s, z->list.q[k].image);
            if (rc) code = cli_fail("bench", rc, sq_session_error(s));
        }
        if (!code) code = ask_one(z, s, row, k);
    }
    sq_session_close(&s);
    z->done += end - first;
    if (z->progress) fprintf(stderr, "\r%d of %d answers", z->done, z->total);
    return code;
}

static int ask_all(quiz *z)
{
    for (int row = 0; row < z->n_row; row++)
        for (int first = 0, end; first < z->list.n; first = end) {
            for (end = first + 1; end < z->list.n; end++)
                if (strcmp(z->list.q[end].image, z->list.q[first].image)) break;
            int code = ask_group(z, row, first, end);
            if (code) return code;
        }
    return EXIT_DONE;
}

/* ---- the table ---- */

static double share_right(const quiz *z, int row, const char *kind, int *n)
{
    int right = 0;
    *n = 0;
    for (int k = 0; k < z->list.n; k++) {
        const question *q = &z->list.q[k];
        if (!q->answer || (kind && (!q->kind || strcmp(q->kind, kind)))) continue;
        right += z->mark[row * z->list.n + k] == RIGHT;
        ++*n;
    }
    return *n ? 100.0 * right / *n : 0;
}

static void print_row(const quiz *z, int row)
{
    const bench_row *b = &z->row[row];
    const char *keep = b->keep ? b->keep : "all";
    int n;
    double all = share_right(z, row, NULL, &n);
    if (z->a->json)
        printf("%s\n    {\"method\": \"%s\", \"keep\": \"%s\", \"tokens\": %d, \"questions\": %d, "
               "\"exact_match\": {\"all\": %.2f",
               row ? "," : "", b->method, keep, z->tokens[row], n, all);
    else
        printf("%-11s %6s %7d %7.1f", b->method, keep, z->tokens[row], all);
    for (int i = 0; i < z->kind.n; i++) {
        double share = share_right(z, row, z->kind.item[i], &n);
        if (z->a->json) {
            fputs(", ", stdout);
            cli_json_string(stdout, z->kind.item[i]);
            printf(": %.2f", share);
        } else {
            printf(" %9.1f", share);
        }
    }
    fputs(z->a->json ? "}}" : "\n", stdout);
}

static void print_table(const quiz *z)
{
    int n = 0;
    share_right(z, 0, NULL, &n);
    if (z->a->json) {
        fputs("{\n  \"model\": ", stdout);
        cli_json_string(stdout, z->a->model.model);
        fputs(",\n  \"rows\": [", stdout);
    } else {
        printf("# %s, %d questions with answers, exact match in %%\n%-11s %6s %7s %7s",
               z->a->questions, n, "method", "keep", "tokens", "all");
        for (int i = 0; i < z->kind.n; i++)
            printf(" %9.9s", z->kind.item[i]);
        putchar('\n');
    }
    for (int row = 0; row < z->n_row; row++)
        print_row(z, row);
    if (z->a->json) puts("\n  ]\n}");
}

static int prepare(quiz *z, char *hold[3])
{
    sq_error err = {0};
    int code = bench_rows(z->a, z->row, &z->n_row, hold);
    if (code < 0 && z->a->kinds)
        code = cli_split("bench", "--kinds", z->a->kinds, &z->kind, &hold[2]);
    if (code >= 0) return code;
    int rc = questions_read(&z->list, z->a->questions, z->a->images, z->a->limit, &err);
    if (rc) return cli_fail("bench", rc, err.text);
    z->total = z->n_row * z->list.n;
    z->mark = calloc((size_t)z->n_row * (size_t)z->list.n, 1);
    z->tokens = calloc((size_t)z->n_row, sizeof *z->tokens);
    if (!z->mark || !z->tokens) return cli_fail("bench", SQ_E_NOMEM, "out of memory");
    z->progress = isatty(STDERR_FILENO);
    name_arithmetic(z);
    return z->a->answers ? open_answers(z) : -1;
}

int bench_questions(sq_model *m, const bench_args *a)
{
    char *hold[3] = {NULL, NULL, NULL};
    quiz *z = calloc(1, sizeof *z);
    if (!z) return cli_fail("bench", SQ_E_NOMEM, "out of memory");
    z->m = m;
    z->a = a;
    int code = prepare(z, hold);
    if (code < 0) code = ask_all(z);
    if (z->progress && z->done) fputs("\r\033[K", stderr);
    if (!code) print_table(z);
    if (z->answers && fclose(z->answers) && !code)
        code = cli_fail("bench", SQ_E_IO, "cannot write the answers file");
    questions_close(&z->list);
    free(z->mark);
    free(z->tokens);
    for (int i = 0; i < 3; i++)
        free(hold[i]);
    free(z);
    return code;
}
