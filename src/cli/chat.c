/* squint ask without -p: a conversation that keeps the picture encoded. */
#define _POSIX_C_SOURCE 200809L
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int turn(sq_session *s, const char *question, const sq_ask_options *opt, sq_report *r,
                bool stats)
{
    r->answer_tokens = 0;
    int rc = sq_session_ask(s, question, opt, r);
    if (!rc || r->answer_tokens) putchar('\n'); /* nothing was answered: no line to end */
    fflush(stdout);                             /* before anything goes to stderr */
    if (rc || cli_interrupted) return rc;
    report_cut(stderr, r);
    if (stats) report_text(stderr, r);
    return SQ_OK;
}

int chat_run(sq_session *s, const sq_ask_options *opt, sq_report *r, bool stats)
{
    bool terminal = isatty(STDIN_FILENO) && isatty(STDERR_FILENO);
    char *line = NULL;
    size_t cap = 0;
    int code = EXIT_DONE; /* of the last line */
    if (terminal)
        fputs("Ask about the picture. /clear forgets the conversation, /quit or Ctrl-D ends.\n",
              stderr);
    while (!cli_interrupted) {
        if (terminal) fputs("> ", stderr);
        ssize_t n = getline(&line, &cap, stdin);
        if (cli_interrupted) break;
        if (n < 0) {
            int failed = cli_stdin_end("ask");
            if (failed) code = failed;
            break;
        }
        if (n && line[n - 1] == '\n') line[--n] = 0;
        if (!strcmp(line, "/quit")) break;
        if (n == 0) continue;
        bool forget = !strcmp(line, "/clear");
        int rc = forget ? sq_session_rewind(s) : turn(s, line, opt, r, stats);
        if (cli_interrupted) break;
        code = rc ? cli_fail("ask", rc, sq_session_error(s)) : EXIT_DONE;
        bool mistake = rc == SQ_E_ARG || rc == SQ_E_LIMIT; /* that a person can put right */
        if (rc && !(mistake && terminal)) break;
        if (rc == SQ_E_LIMIT) fputs("squint ask: /clear starts again\n", stderr);
    }
    free(line);
    return cli_interrupted ? EXIT_INTERRUPTED : code;
}
