/* squint ask without -p: a conversation that keeps the picture encoded. */
#define _POSIX_C_SOURCE 200809L
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int chat_run(sq_session *s, const sq_ask_options *opt, sq_report *r)
{
    bool terminal = isatty(STDIN_FILENO) && isatty(STDERR_FILENO);
    char *line = NULL;
    size_t cap = 0;
    int code = EXIT_DONE;
    if (terminal)
        fputs("Ask about the picture. /clear forgets the conversation, /quit or Ctrl-D ends.\n",
              stderr);
    for (;;) {
        if (terminal) fputs("> ", stderr);
        ssize_t n = getline(&line, &cap, stdin);
        if (n < 0 || cli_interrupted) break;
        if (n && line[n - 1] == '\n') line[--n] = 0;
        if (!strcmp(line, "/quit")) break;
        if (n == 0) continue;
        bool forget = !strcmp(line, "/clear");
        int rc = forget ? sq_session_rewind(s) : sq_session_ask(s, line, opt, r);
        if (!forget) putchar('\n');
        fflush(stdout);
        if (rc) {
            code = cli_fail("ask", rc, sq_session_error(s));
            if (rc != SQ_E_LIMIT || !terminal) break;
            fputs("squint ask: /clear starts again\n", stderr);
        }
    }
    free(line);
    return cli_interrupted ? EXIT_INTERRUPTED : code;
}
