/* What subcommands share with the terminal and the file system: notices, Ctrl-C, output files. */
#define _POSIX_C_SOURCE 200809L
#include "cli/cli.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

volatile sig_atomic_t cli_interrupted;

static void on_interrupt(int sig)
{
    (void)sig;
    cli_interrupted = 1;
}

void cli_catch_interrupt(void)
{
    struct sigaction act = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &act, NULL); /* the second one ends the program */
}

static void print_notice(void *user, int level, const char *line)
{
    (void)user;
    fprintf(stderr, "squint: %s%s\n", level ? "warning: " : "", line);
}

int cli_model_open(sq_model **m, const char *command, const cli_model *cm, bool text_only)
{
    *m = NULL;
    if (!cm->model) return cli_usage(command, "no model: -m PATH is needed");
    sq_model_options o = {.mmproj = cm->mmproj,
                          .backend = cm->backend,
                          .compute = cm->compute,
                          .cpu = cm->cpu,
                          .template_name = cm->template_name,
                          .fit = cm->fit,
                          .n_threads = cm->n_threads,
                          .text_only = text_only,
                          .notice = print_notice};
    int rc = sq_model_open(m, cm->model, &o);
    return rc ? cli_fail(command, rc, sq_model_error(*m)) : EXIT_DONE;
}

int cli_file_open(cli_file *w, const char *command, const char *path)
{
    *w = (cli_file){.command = command, .path = path};
    int n = snprintf(w->tmp, sizeof w->tmp, "%s.tmp-%ld", path, (long)getpid());
    if (n < 0 || (size_t)n >= sizeof w->tmp) return cli_usage(command, "the path is too long");
    w->f = fopen(w->tmp, "wb");
    if (w->f) return EXIT_DONE;
    fprintf(stderr, "squint %s: %s: cannot write: %s\n", command, path, strerror(errno));
    return EXIT_FAILED;
}

int cli_file_commit(cli_file *w)
{
    bool bad = ferror(w->f) != 0;
    bad = fclose(w->f) != 0 || bad;
    if (!bad && rename(w->tmp, w->path) == 0) return EXIT_DONE;
    fprintf(stderr, "squint %s: %s: cannot write: %s\n", w->command, w->path, strerror(errno));
    remove(w->tmp);
    return EXIT_FAILED;
}
