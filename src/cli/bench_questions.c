/* Accuracy over a question file, method by method. Every answer is appended to the answers file as
 * soon as it is there, so that a run can be cut off and go on. */
#define _POSIX_C_SOURCE 200809L
#include "cli/bench.h"
#include "cli/questions.h"
#include "core/file.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { OPEN = 0, RIGHT = 1, WRONG = 2 };

typedef struct quiz {
    sq_model *m;
    const bench_args *a;
    char *settings; /* {"model_id": ..., "metadata": {...}}: what each line of answers says */
    cJSON *now;     /* the same, read: answers of other settings are not mixed with these */
    question_list list;
    cli_list kind;
    bench_row row[BENCH_MAX_ROWS];
    int n_row;
    unsigned char *mark; /* [n_row, list.n]: OPEN, RIGHT, WRONG */
    int *tokens;         /* [n_row]: kept of the last picture */
    FILE *answers;       /* NULL: not written */
    int line;            /* of it, while it is read */
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

/* Text in front, and what follows it as a JSON string; NULL: "". */
typedef struct json_part {
    const char *key, *value;
} json_part;

static void write_parts(FILE *f, const json_part *part, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        fputs(part[i].key, f);
        cli_json_string(f, part[i].value ? part[i].value : "");
    }
}

/* All that answers depend on beside the question, the method and its budget. Threads and the CPU's
 * own instruction set are not there: a run may go on on another machine. */
static int write_settings(quiz *z)
{
    const bench_args *a = z->a;
    sq_model_info info;
    size_t size;
    int rc = sq_model_get_info(z->m, &info);
    if (rc) return cli_fail("bench", rc, sq_model_error(z->m));
    const json_part part[] = {{"{\"model_id\": ", a->model.model},
                              {", \"metadata\": {\"backend\": ", info.backend_name},
                              {", \"compute\": ", info.compute},
                              {", \"cpu\": ", a->model.cpu},
                              {", \"mmproj\": ", a->model.mmproj},
                              {", \"template\": ", info.template_name},
                              {", \"fit\": ", info.fit},
                              {", \"images\": ", a->images},
                              {", \"prune_options\": ", a->prune_options}};
    FILE *f = open_memstream(&z->settings, &size);
    if (!f) return cli_fail("bench", SQ_E_NOMEM, "out of memory");
    write_parts(f, part, sizeof part / sizeof *part);
    fprintf(f, ", \"no_exif\": %s, \"seed\": %d, \"max_tokens\": %d}}",
            a->no_exif ? "true" : "false", a->seed, a->max_tokens);
    if (!fclose(f)) z->now = cJSON_Parse(z->settings);
    return z->now ? -1 : cli_fail("bench", SQ_E_NOMEM, "out of memory");
}

/* Refuses an answers file for a setting, or a part of a question, that is another one now. */
static int refuse(const quiz *z, const char *what, const char *found, const char *now)
{
    return cli_usage("bench", "%s: holds answers of %s %.200s, this is %.200s; choose another file",
                     z->a->answers, what, found, now);
}

/* The settings of a line of answers against the present ones: all children of now. */
static int check_settings(const quiz *z, const cJSON *line, const cJSON *now)
{
    const cJSON *item;
    int code = -1;
    cJSON_ArrayForEach(item, now)
    {
        const cJSON *found = cJSON_GetObjectItemCaseSensitive(line, item->string);
        if (cJSON_IsObject(item)) {
            code = check_settings(z, found, item);
        } else if (!found) {
            code = cli_usage("bench",
                             "%s: holds answers without their %s, written by an older squint; "
                             "choose another file",
                             z->a->answers, item->string);
        } else if (!cJSON_Compare(found, item, true)) {
            char *text[] = {cJSON_PrintUnformatted(found), cJSON_PrintUnformatted(item)};
            code = refuse(z, item->string, text[0] ? text[0] : "?", text[1] ? text[1] : "?");
            free(text[0]);
            free(text[1]);
        }
        if (code >= 0) break;
    }
    return code;
}

/* A line that is no answer, or one of another model or other settings, is not added to. */
static int check_line(const quiz *z, const cJSON *o)
{
    if (!cJSON_IsString(cJSON_GetObjectItemCaseSensitive(o, "question_id")) ||
        !cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(o, "metadata")))
        return cli_usage("bench", "%s: line %d is no answer of squint bench; choose another file",
                         z->a->answers, z->line);
    return check_settings(z, o, z->now);
}

static bool is_question(const cJSON *o, const question *q)
{
    return cli_json_reads_as(q->text, text_of(o, "prompt")) &&
           cli_json_reads_as(q->image, text_of(o, "image"));
}

/* The id of q with a text or picture that no question of that id has. */
static int refuse_question(const quiz *z, const cJSON *o, const question *q)
{
    bool text = !cli_json_reads_as(q->text, text_of(o, "prompt"));
    const char *key = text ? "prompt" : "image";
    return refuse(z, key, text_of(o, key), text ? q->text : q->image);
}

/* One line of an earlier run; lines of other methods and budgets stay in the file untouched. *at is
 * where the last one was found: files are in order. */
static int take_line(quiz *z, const cJSON *o, int *at)
{
    const cJSON *meta = cJSON_GetObjectItemCaseSensitive(o, "metadata");
    const question *other = NULL; /* of that id */
    int code = check_line(z, o);
    int row = code < 0 ? find_row(z, text_of(meta, "method"), text_of(meta, "keep")) : -1;
    for (int i = 0; row >= 0 && i < z->list.n; i++) {
        int k = (*at + i) % z->list.n;
        if (!cli_json_reads_as(z->list.q[k].id, text_of(o, "question_id"))) continue;
        if (!is_question(o, &z->list.q[k])) {
            other = &z->list.q[k];
            continue;
        }
        z->mark[row * z->list.n + k] = judge(text_of(o, "text"), z->list.q[k].answer);
        const cJSON *tokens = cJSON_GetObjectItemCaseSensitive(meta, "tokens");
        if (cJSON_IsNumber(tokens)) z->tokens[row] = tokens->valueint;
        *at = k;
        return code;
    }
    return other ? refuse_question(z, o, other) : code;
}

/* The last line when its end is missing: cut off and asked again, but only where it is ours. */
static int check_tail(const quiz *z, const char *line, size_t n, const cJSON *o)
{
    static const char ours[] = "{\"question_id\": \"";
    size_t most = sizeof ours - 1;
    if (o || strncmp(line, ours, n < most ? n : most)) return check_line(z, o);
    return -1;
}

/* Takes what the file holds; *whole is where its last whole line ends. Changes nothing. */
static int read_answers(quiz *z, FILE *f, off_t *whole)
{
    char *line = NULL;
    size_t cap = 0;
    int code = -1, at = 0;
    ssize_t n;
    while (code < 0 && (n = getline(&line, &cap, f)) > 0) {
        bool ends = line[n - 1] == '\n';
        z->line++;
        cJSON *o = strlen(line) == (size_t)n ? cJSON_ParseWithOpts(line, NULL, true) : NULL;
        code = ends ? take_line(z, o, &at) : check_tail(z, line, (size_t)n, o);
        cJSON_Delete(o);
        if (ends) *whole += n;
    }
    free(line);
    if (code < 0 && ferror(f))
        return cli_error("bench", "%s: cannot read: %s", z->a->answers, strerror(errno));
    return code;
}

static int fail_write(const quiz *z)
{
    return cli_error("bench", "%s: cannot write: %s", z->a->answers, strerror(errno));
}

/* Reads what is there, cuts a line of ours that was not finished, and leaves the file for more. */
static int open_answers(quiz *z)
{
    off_t whole = 0;
    sq_error err = {0};
    int rc = file_check_regular(z->a->answers, &err);
    if (rc) return cli_fail("bench", rc, err.text);
    FILE *f = fopen(z->a->answers, "r+b");
    if (!f && errno == ENOENT) f = fopen(z->a->answers, "w+b");
    int code = f ? read_answers(z, f, &whole) : -1;
    if (code < 0 && f && !fseeko(f, whole, SEEK_SET) && !ftruncate(fileno(f), whole)) {
        z->answers = f;
        return -1;
    }
    if (code < 0) code = fail_write(z);
    if (f) fclose(f);
    return code;
}

static bool write_answer(quiz *z, int row, const question *q)
{
    const sq_image_report *im = &z->r.image[0];
    const bench_row *b = &z->row[row];
    const json_part part[] = {{"{\"question_id\": ", q->id},
                              {", \"image\": ", q->image},
                              {", \"prompt\": ", q->text},
                              {", \"text\": ", z->r.answer}},
                    meta[] = {{", \"method\": ", b->method},
                              {", \"keep\": ", b->keep ? b->keep : "all"},
                              {", \"answer\": ", q->answer},
                              {", \"category\": ", q->kind}};
    write_parts(z->answers, part, sizeof part / sizeof *part);
    /* the settings without the braces around them: their metadata go on */
    fprintf(z->answers, ", %.*s", (int)strlen(z->settings) - 3, z->settings + 1);
    write_parts(z->answers, meta, sizeof meta / sizeof *meta);
    fprintf(z->answers, ", \"tokens\": %d, \"min_gap\": ", im->tokens_kept);
    fprintf(z->answers, isfinite(z->r.min_gap) ? "%.5f" : "null", (double)z->r.min_gap);
    if (b->keep) { /* else all of them */
        fputs(", \"kept\": [", z->answers);
        for (int i = 0; i < im->tokens_kept; i++)
            fprintf(z->answers, "%s%d", i ? ", " : "", (int)im->kept[i]);
        fputc(']', z->answers);
    }
    fputs("}}\n", z->answers);
    return fflush(z->answers) == 0 && !ferror(z->answers);
}

/* ---- asking ---- */

/* The settings were checked before: what fails now is no mistake on the command line. */
static int fail_question(const quiz *z, const question *q, const char *text)
{
    return cli_error("bench", "%s: line %d, question_id %.60s: %s", z->a->questions, q->line, q->id,
                     text);
}

static int ask_one(quiz *z, sq_session *s, int row, int k)
{
    const question *q = &z->list.q[k];
    sq_ask_options ao = {.max_tokens = z->a->max_tokens};
    int rc = sq_session_rewind(s);
    if (!rc) rc = sq_session_ask(s, q->text, &ao, &z->r);
    if (rc) return fail_question(z, q, sq_session_error(s));
    z->mark[row * z->list.n + k] = judge(z->r.answer, q->answer);
    z->tokens[row] = z->r.image[0].tokens_kept;
    if (z->answers && !write_answer(z, row, q)) return fail_write(z);
    return cli_interrupted ? EXIT_INTERRUPTED : EXIT_DONE;
}

/* Questions first .. end - 1 share one picture, which is encoded once. */
static int ask_group(quiz *z, int row, int first, int end)
{
    const unsigned char *mark = z->mark + row * z->list.n;
    sq_session_options so = bench_session(z->a, &z->row[row]);
    sq_session *s = NULL;
    int code = EXIT_DONE;
    for (int k = first; k < end && !code; k++) {
        if (mark[k] != OPEN) continue;
        if (!s) {
            int rc = sq_session_open(&s, z->m, &so), settings = rc;
            if (!rc) rc = sq_session_add_image(s, z->list.q[k].image);
            if (rc && (settings || rc == SQ_E_ARG))
                code = cli_fail("bench", rc, sq_session_error(s));
            else if (rc)
                code = fail_question(z, &z->list.q[k], sq_session_error(s));
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

/* One cell; kind NULL: of all. Without a question there is no share. */
static void print_share(const quiz *z, int row, const char *kind)
{
    int n, width = kind ? 9 : 7;
    double share = share_right(z, row, kind, &n);
    if (z->a->json && n)
        printf(": %.2f", share);
    else if (z->a->json)
        fputs(": null", stdout);
    else if (n)
        printf(" %*.1f", width, share);
    else
        printf(" %*s", width, "-");
}

static void print_row(const quiz *z, int row)
{
    const bench_row *b = &z->row[row];
    const char *keep = b->keep ? b->keep : "all";
    int n;
    if (z->a->json) {
        printf("%s\n    {\"method\": ", row ? "," : "");
        cli_json_string(stdout, b->method);
        fputs(", \"keep\": ", stdout);
        cli_json_string(stdout, keep);
        share_right(z, row, NULL, &n);
        printf(", \"tokens\": %d, \"questions\": %d, \"exact_match\": {\"all\"", z->tokens[row], n);
    } else {
        printf("%-11s %6s %7d", b->method, keep, z->tokens[row]);
    }
    print_share(z, row, NULL);
    for (int i = 0; i < z->kind.n; i++) {
        if (z->a->json) {
            fputs(", ", stdout);
            cli_json_string(stdout, z->kind.item[i]);
        }
        print_share(z, row, z->kind.item[i]);
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

static int check_kinds(const quiz *z)
{
    for (int i = 0; i < z->kind.n; i++) {
        int k = 0;
        while (k < z->list.n && (!z->list.q[k].kind || strcmp(z->list.q[k].kind, z->kind.item[i])))
            k++;
        if (k == z->list.n)
            return cli_usage("bench", "--kinds: none of the %d questions has the category \"%s\"",
                             k, z->kind.item[i]);
    }
    return -1;
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
    code = check_kinds(z);
    if (code >= 0) return code;
    z->total = z->n_row * z->list.n;
    z->mark = calloc((size_t)z->n_row * (size_t)z->list.n, 1);
    z->tokens = calloc((size_t)z->n_row, sizeof *z->tokens);
    if (!z->mark || !z->tokens) return cli_fail("bench", SQ_E_NOMEM, "out of memory");
    z->progress = isatty(STDERR_FILENO);
    if (!z->a->answers) return -1;
    code = write_settings(z);
    return code < 0 ? open_answers(z) : code;
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
    if (z->answers && fclose(z->answers) && !code) code = fail_write(z);
    questions_close(&z->list);
    cJSON_Delete(z->now);
    free(z->settings);
    free(z->mark);
    free(z->tokens);
    for (int i = 0; i < 3; i++)
        free(hold[i]);
    free(z);
    return code;
}
