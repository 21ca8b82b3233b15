#include "cli/cli.h"

const char help_methods[] =
    "squint methods: the pruning methods, their papers and options\n\n"
    "usage: squint methods [--json]\n\n"
    "example:\n"
    "  squint methods\n"
    "  squint ask -m models/demo --image samples/frogs.jpg -p \"What do you see?\" \\\n"
    "      --prune vtc-cls --keep 25% --prune-options start-layer=4,ensemble=max\n";

static void print_json(const sq_method *p, bool first)
{
    const char *const name[] = {"name", "paper", "summary", "options"};
    const char *const value[] = {p->name, p->paper, p->summary, p->options};
    fputs(first ? "[\n  {" : ",\n  {", stdout);
    for (int i = 0; i < 4; i++) {
        printf("%s\"%s\": ", i ? ", " : "", name[i]);
        cli_json_string(stdout, value[i]);
    }
    fputs("}", stdout);
}

int cmd_methods(int argc, char **argv)
{
    bool json = false;
    const cli_option opt[] = {{"--json", NULL, CLI_FLAG, &json}, {NULL}};
    int code = cli_parse(argc, argv, opt, NULL, help_methods);
    if (code >= 0) return code;
    sq_method p;
    for (int i = 0; sq_method_get(i, &p) == SQ_OK; i++) {
        if (json) {
            print_json(&p, i == 0);
            continue;
        }
        printf("%-11s %s (%s)\n", p.name, p.summary, p.paper);
        if (*p.options) printf("%-11s options: %s\n", "", p.options);
    }
    if (json) puts("\n]");
    return EXIT_DONE;
}
