/* What subcommands share with the terminal: notices and Ctrl-C. */
#define _POSIX_C_SOURCE 200809L
#include "cli/cli.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

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

int cli_stdin_end(const char *command)
{
    if (feof(stdin)) return EXIT_DONE;
    return cli_error(command, "stdin: cannot read: %s", strerror(errno));
}

/* Pictures of one call on a GPU: each but the first is decoded while the one before it is encoded,
 * and between calls Ctrl-C is seen. */
enum { GPU_IMAGES_A_CALL = 8 };

int cli_add_images(const sq_model *m, sq_session *s, const cli_list *image)
{
    sq_model_info info = {0};
    sq_model_get_info(m, &info);
    int group = info.gpu ? GPU_IMAGES_A_CALL : 1, rc = SQ_OK;
    for (int i = 0; !rc && i < image->n; i += group) {
        int left = image->n - i;
        if (cli_interrupted) return SQ_E_STOPPED;
        rc = sq_session_add_images(s, image->item + i, left < group ? left : group);
    }
    return rc;
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
                          .device = cm->device,
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
