/* squint: the subcommand table. */
#include "cli/cli.h"

#include <string.h>

static const cli_command commands[] = {
    {"ask", "ask about pictures, once or in a chat", help_ask, cmd_ask},
    {"bench", "accuracy over a question file, or the time of each stage", help_bench, cmd_bench},
    {"convert", "write a checkpoint as a GGUF pair", help_convert, cmd_convert},
    {"diff", "check each op of a backend against the CPU, on one answer", help_diff, cmd_diff},
    {"info", "what a model is made of, and what is missing", help_info, cmd_info},
    {"methods", "the pruning methods, their papers and options", help_methods, cmd_methods},
    {"pixels", "what the decoder or the model sees of a picture", help_pixels, cmd_pixels},
    {"tokenize", "text to token ids and back, line by line", help_tokenize, cmd_tokenize},
};
enum { N_COMMAND = sizeof commands / sizeof *commands };

static void print_usage(FILE *f)
{
    fputs("squint runs vision-language models on a fraction of their visual tokens\n\n"
          "usage: squint COMMAND [options]\n\n",
          f);
    for (int i = 0; i < N_COMMAND; i++)
        fprintf(f, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fputs("\nsquint COMMAND --help explains a command. Example:\n"
          "  squint ask -m models/demo --image samples/frogs.jpg -p \"What do you see?\"\n",
          f);
}

static int run(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : NULL;
    if (!name) {
        print_usage(stderr);
        return 2;
    }
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) {
        print_usage(stdout);
        return 0;
    }
    if (!strcmp(name, "--version")) {
        puts("squint " SQ_VERSION);
        return 0;
    }
    for (int i = 0; i < N_COMMAND; i++)
        if (!strcmp(name, commands[i].name)) return commands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "squint: unknown command \"%s\" (squint --help lists them)\n", name);
    return 2;
}

int main(int argc, char **argv)
{
    int code = run(argc, argv);
    bool lost = fflush(stdout) || ferror(stdout); /* this write, or one before it */
    if (code != EXIT_DONE || !lost) return code;
    fputs("squint: cannot write to stdout\n", stderr);
    return EXIT_FAILED;
}
