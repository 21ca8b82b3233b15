/* Command line: one table row and one file per subcommand. Exit codes: 0 done, 1 failed, 2 wrong
 * usage, 130 interrupted. The answer goes to stdout, everything else to stderr. */
#ifndef SQ_CLI_H
#define SQ_CLI_H

#include "squint.h"

#include <signal.h>
#include <stdio.h>

typedef struct cli_command {
    const char *name, *summary;
    const char *help; /* usage, options, and an example that works */
    int (*run)(int argc, char **argv); /* argv[0] is the subcommand */
} cli_command;

int cmd_ask(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_convert(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_methods(int argc, char **argv);
int cmd_pixels(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
extern const char help_ask[], help_bench[], help_convert[], help_info[], help_methods[],
    help_pixels[], help_tokenize[];

/* One option of a subcommand. */
typedef enum cli_kind { CLI_FLAG, CLI_TEXT, CLI_INT, CLI_FLOAT, CLI_LIST } cli_kind;
typedef struct cli_list {
    const char *item[SQ_MAX_IMAGES];
    int n;
} cli_list;
typedef struct cli_option {
    const char *name;  /* "--image" */
    const char *alias; /* "-i" or NULL */
    cli_kind kind;
    void *out;         /* bool, const char *, int, float, cli_list */
    double min, max;   /* CLI_INT, CLI_FLOAT */
} cli_option;

/* Parses argv[1..]; options end with name NULL. Words that are no options go to rest (NULL: they
 * are an error). --help prints help and returns 1; a mistake prints one line and returns 2;
 * otherwise 0. "--name=value" and "--name value" both work. */
int cli_parse(int argc, char **argv, const cli_option *opt, cli_list *rest, const char *help);

/* Prints "squint COMMAND: text" to stderr and returns the exit code for the status. */
int cli_fail(const char *command, int status, const char *text);

/* Options that every model command shares. */
typedef struct cli_model {
    const char *model, *mmproj, *backend, *compute, *cpu, *template_name, *fit;
    int n_threads;
} cli_model;
enum { CLI_MODEL_OPTIONS = 10 };
/* Fills opt[0 .. CLI_MODEL_OPTIONS) for cm; returns how many were used. */
int cli_model_options(cli_option *opt, cli_model *cm);
extern const char cli_model_help[];

/* Opens the model with notices on stderr; on failure prints the line and returns the exit code. */
int cli_model_open(sq_model **m, const char *command, const cli_model *cm, bool text_only);

/* Set by Ctrl-C after cli_catch_interrupt; a second Ctrl-C ends the program. */
extern volatile sig_atomic_t cli_interrupted;
void cli_catch_interrupt(void);

/* JSON string with quotes and escapes. */
void cli_json_string(FILE *f, const char *text);

#endif
