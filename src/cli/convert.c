#define _POSIX_C_SOURCE 200809L
#include "cli/cli.h"

#include <string.h>

const char help_convert[] =
    "squint convert: write a checkpoint as a GGUF pair that llama.cpp runs too\n\n"
    "usage: squint convert -m MODEL -o DIR [--type q8_0|f16|bf16] [--name NAME]\n\n"
    "Writes DIR/NAME-TYPE.gguf (text) and DIR/mmproj-NAME-TYPE.gguf (vision).\n\n"
    "  -o, --output DIR    an existing directory\n"
    "      --type TYPE     of the matrices: q8_0 (default), f16, bf16\n"
    "      --name NAME     default: the last part of the model's path\n"
    CLI_FILES_HELP
    "\nexample:\n"
    "  squint convert -m models/demo -o . --type f16 --name demo\n";

/* "a/b/" -> "b" */
static void last_part(const char *path, char *out, size_t size)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/')
        start--;
    snprintf(out, size, "%.*s", (int)(end - start), path + start);
    char *dot = strstr(out, ".gguf");
    if (dot) *dot = 0;
}

static int is_interrupted(void *user)
{
    (void)user;
    return cli_interrupted;
}

/* The end of a job or a terminal is as Ctrl-C here: what is half-written may be gigabytes. */
static void catch_ends(void)
{
    static const int end[] = {SIGTERM, SIGHUP};
    struct sigaction interrupt, was;
    cli_catch_interrupt();
    sigaction(SIGINT, NULL, &interrupt);
    for (size_t i = 0; i < sizeof end / sizeof *end; i++)
        if (!sigaction(end[i], NULL, &was) && was.sa_handler == SIG_DFL)
            sigaction(end[i], &interrupt, NULL);
}

int cmd_convert(int argc, char **argv)
{
    cli_model cm = {.backend = "cpu"}; /* nothing is computed */
    cli_list rest = {0};
    const char *dir = NULL, *type = "q8_0", *name = NULL;
    const cli_option opt[] = {CLI_MODEL_ROWS(cm),
                              {"--output", "-o", CLI_TEXT, &dir},
                              {"--type", NULL, CLI_TEXT, &type},
                              {"--name", NULL, CLI_TEXT, &name},
                              {NULL}};
    int code = cli_parse(argc, argv, opt, &rest, help_convert);
    if (code >= 0) return code;
    if (rest.n + !!cm.model != 1) return cli_usage("convert", "expected one MODEL");
    if (!cm.model) cm.model = rest.item[0];
    if (!dir) return cli_usage("convert", "no output: -o DIR is needed");
    char part[256];
    if (!name) {
        last_part(cm.model, part, sizeof part);
        name = part;
    }
    if (!*name || *name == '.' || strchr(name, '/'))
        return cli_usage("convert", "--name: \"%s\" makes no file name", name);
    sq_model *m = NULL;
    code = cli_model_open(&m, "convert", &cm, true);
    if (!code) {
        catch_ends();
        int rc = sq_model_convert(m, dir, name, type, is_interrupted, NULL);
        if (rc && cli_interrupted)
            code = EXIT_INTERRUPTED;
        else if (rc)
            code = cli_fail("convert", rc, sq_model_error(m));
    }
    sq_model_close(&m);
    return code;
}
