#define _POSIX_C_SOURCE 200809L
#include "cli/cli.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

const char help_tokenize[] =
    "squint tokenize: the token ids of each line of stdin\n\n"
    "usage: squint tokenize -m MODEL [--decode] < TEXT\n\n"
    "No BOS is added, and special tokens in the text are text.\n\n"
    "      --decode        the other way: lines of ids to text\n"
    CLI_FILES_HELP
    "\nexample:\n"
    "  echo \"What do you see?\" | squint tokenize -m models/demo\n";

static int encode_line(sq_model *m, const char *line, size_t n)
{
    int32_t *ids = NULL;
    int count = 0;
    int rc = sq_model_tokenize(m, line, n, &ids, &count);
    for (int i = 0; !rc && i < count; i++)
        printf("%s%d", i ? " " : "", (int)ids[i]);
    if (!rc) putchar('\n');
    free(ids);
    return rc ? cli_fail("tokenize", rc, sq_model_error(m)) : EXIT_DONE;
}

static int decode_line(sq_model *m, const char *line, size_t n)
{
    int32_t *ids = malloc((n / 2 + 1) * sizeof *ids); /* every id takes a digit and a space */
    int count = 0;
    char *text = NULL;
    if (!ids) return cli_fail("tokenize", SQ_E_NOMEM, "out of memory");
    for (const char *p = line; *p;) {
        char *end;
        errno = 0;
        long id = strtol(p, &end, 10);
        if (end == p) break;
        ids[count++] = errno || id < 0 || id > INT_MAX ? -1 : (int32_t)id;
        p = end;
        while (*p == ' ' || *p == ',')
            p++;
        if (*p && (*p < '0' || *p > '9')) {
            free(ids);
            return cli_usage("tokenize", "--decode: expected ids, found \"%.20s\"", p);
        }
    }
    int rc = sq_model_detokenize(m, ids, count, &text);
    if (!rc) puts(text);
    free(text);
    free(ids);
    return rc ? cli_fail("tokenize", rc, sq_model_error(m)) : EXIT_DONE;
}

int cmd_tokenize(int argc, char **argv)
{
    cli_model cm = {.backend = "cpu"}; /* nothing is computed */
    bool decode = false;
    const cli_option opt[] = {CLI_MODEL_ROWS(cm), {"--decode", NULL, CLI_FLAG, &decode}, {NULL}};
    int code = cli_parse(argc, argv, opt, NULL, help_tokenize);
    if (code >= 0) return code;
    sq_model *m = NULL;
    char *line = NULL;
    size_t cap = 0;
    code = cli_model_open(&m, "tokenize", &cm, true);
    while (!code) {
        ssize_t n = getline(&line, &cap, stdin);
        if (n < 0) {
            code = cli_stdin_end("tokenize");
            break;
        }
        if (n && line[n - 1] == '\n') line[--n] = 0;
        code = decode ? decode_line(m, line, (size_t)n) : encode_line(m, line, (size_t)n);
    }
    free(line);
    sq_model_close(&m);
    return code;
}
