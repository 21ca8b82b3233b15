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
int cmd_diff(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_methods(int argc, char **argv);
int cmd_pixels(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
extern const char help_ask[], help_bench[], help_convert[], help_diff[], help_info[],
    help_methods[], help_pixels[], help_tokenize[];

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_INTERRUPTED = 130 };

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
 * are an error), and so does everything behind "--". "--name=value" and "--name value" both work.
 * Returns -1 to go on, or the exit code: 0 after --help, 2 after a mistake (one line printed). */
int cli_parse(int argc, char **argv, const cli_option *opt, cli_list *rest, const char *help);

/* Prints "squint COMMAND: text" to stderr and returns the exit code for the status. */
int cli_fail(const char *command, int status, const char *text);

#if defined(__GNUC__)
#define CLI_FORMAT __attribute__((format(printf, 2, 3)))
#else
#define CLI_FORMAT
#endif
/* The same with printf's formats: wrong usage, and any other failure. */
int cli_usage(const char *command, const char *fmt, ...) CLI_FORMAT;
int cli_error(const char *command, const char *fmt, ...) CLI_FORMAT;

/* Options that every model command shares. */
typedef struct cli_model {
    const char *model, *mmproj, *backend, *compute, *cpu, *template_name, *fit;
    int device, n_threads;
} cli_model;
enum { CLI_MODEL_OPTIONS = 9 };
#define CLI_MODEL_ROWS(cm)                                                                         \
    {"--model", "-m", CLI_TEXT, &(cm).model},                                                      \
    {"--mmproj", NULL, CLI_TEXT, &(cm).mmproj},                                                    \
    {"--backend", NULL, CLI_TEXT, &(cm).backend},                                                  \
    {"--device", NULL, CLI_INT, &(cm).device, 0, 1023},                                            \
    {"--compute", NULL, CLI_TEXT, &(cm).compute},                                                  \
    {"--cpu", NULL, CLI_TEXT, &(cm).cpu},                                                          \
    {"--template", NULL, CLI_TEXT, &(cm).template_name},                                           \
    {"--fit", NULL, CLI_TEXT, &(cm).fit},                                                          \
    {"--threads", "-t", CLI_INT, &(cm).n_threads, 0, 1024}
#define CLI_MODEL_HELP CLI_MODEL_HELP_WITH("auto (a GPU if there is one), cpu, cuda")
/* For commands that only read the model. */
#define CLI_FILES_HELP CLI_MODEL_HELP_WITH("default cpu, as nothing is computed here")
#define CLI_MODEL_HELP_WITH(backend)                                                               \
    "model:\n"                                                                                     \
    "  -m, --model PATH    Hugging Face directory, directory with a GGUF pair, or text .gguf\n"    \
    "      --mmproj FILE   vision part of a .gguf model (default: mmproj*.gguf beside it)\n"       \
    "      --backend NAME  " backend "\n"                                                          \
    "      --device N      which GPU (squint info --backends), default 0\n"                        \
    "      --compute TYPE  auto, f32 (exact), bf16 (products in bf16, sums in f32), f16 (GPU)\n"   \
    "      --cpu SET       no more than this instruction set: none, avx2, avx512\n"                \
    "      --template NAME vicuna_v1, llava_v1, mistral_instruct, chatml, llama3, plain\n"         \
    "      --fit MODE      auto, crop, pad: how a picture is fitted to the model's view\n"         \
    "  -t, --threads N     0: every core this process may use\n"

/* Opens the model with notices on stderr; on failure prints the line and returns the exit code;
 * 0 when open. */
int cli_model_open(sq_model **m, const char *command, const cli_model *cm, bool text_only);

/* Set by Ctrl-C after cli_catch_interrupt; a second Ctrl-C ends the program. */
extern volatile sig_atomic_t cli_interrupted;
void cli_catch_interrupt(void);

/* Adds the pictures to a session, on a GPU several in one call so that decoding overlaps. After
 * Ctrl-C it stops before the next call, with SQ_E_STOPPED. */
int cli_add_images(const sq_model *m, sq_session *s, const cli_list *image);

/* JSON string with quotes and escapes; bytes that are no UTF-8 become \ufffd. */
void cli_json_string(FILE *f, const char *text);
/* Whether a reader of that string gets `read`. */
bool cli_json_reads_as(const char *text, const char *read);

/* One report as a JSON object, or as a few lines of text. path[n_image] names the pictures. */
void report_json(FILE *f, const sq_report *r, const char *model, const char *const *path);
void report_text(FILE *f, const sq_report *r);
/* A line for people when the context was full before the answer had ended. */
void report_cut(FILE *f, const sq_report *r);

/* Writes the model's view of each picture with the dropped patches darkened, side by side. */
int show_kept(const char *command, sq_model *m, const cli_list *image,
              const sq_image_options *opt, const sq_report *r, const char *path);

/* Reads questions line by line from stdin until its end, keeping the encoded pictures; with stats
 * report_text follows each answer. */
int chat_run(sq_session *s, const sq_ask_options *opt, sq_report *r, bool stats);

/* Right after getline has failed: EXIT_DONE at the end of stdin, else says what went wrong. */
int cli_stdin_end(const char *command);

/* "a,b,c" into items; the pieces live in the copy *hold (free it). -1, or an exit code. */
int cli_split(const char *command, const char *option, const char *text, cli_list *out,
              char **hold);

/* Whether a picture can be written to path later: the ending (npy: .npy too) and the folder. -1, or
 * an exit code. */
int cli_check_picture(const char *command, const char *option, const char *path, bool npy);

/* Whether there is a pruning method of that name. */
bool cli_find_method(const char *name, sq_method *out);

/* Whether the pruning method (NULL: none) lists each key of "key=value,...". -1, or an exit code;
 * a method that is not there is left to the library. */
int cli_check_prune_options(const char *command, const char *method, const char *text);

#endif
