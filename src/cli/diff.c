#include "cli/cli.h"

#include <string.h>

const char help_diff[] =
    "squint diff: check each op of a backend against the CPU, on one answer\n\n"
    "usage: squint diff -m MODEL [--image FILE] -p QUESTION [options]\n\n"
    "Each op runs on the backend and on the CPU in f32, from the same inputs. The first result\n"
    "that differs by more than the op's error model allows ends it with exit code 1 and is named:\n"
    "op, part of the model and layer, shape, element. Backend cpu is checked against plain C.\n\n"
    "  -i, --image FILE    JPEG or PNG; several are shown in this order\n"
    "  -p, --prompt TEXT   the question\n"
    "      --prune NAME    pruning method (squint methods), default none\n"
    "      --keep N|N%     tokens of each picture that stay\n"
    "      --kv TYPE       type of the KV cache\n"
    "      --steps N       tokens of the answer, default 4\n" CLI_MODEL_HELP "\nexample:\n"
    "  squint diff -m tests/golden/tiny/mha --image tests/golden/tiny/picture.png \\\n"
    "      -p \"What do you see?\" --prune fastervlm --keep 25%\n";

typedef struct diff_args {
    cli_model model;
    cli_list image;
    const char *prompt;
    sq_session_options session;
    sq_ask_options ask;
} diff_args;

static int parse(int argc, char **argv, diff_args *a)
{
    const cli_option opt[] = {CLI_MODEL_ROWS(a->model),
                              {"--image", "-i", CLI_LIST, &a->image},
                              {"--prompt", "-p", CLI_TEXT, &a->prompt},
                              {"--prune", NULL, CLI_TEXT, &a->session.prune},
                              {"--keep", NULL, CLI_TEXT, &a->session.keep},
                              {"--kv", NULL, CLI_TEXT, &a->session.kv_type},
                              {"--steps", NULL, CLI_INT, &a->ask.max_tokens, 1, 1 << 24},
                              {NULL}};
    int code = cli_parse(argc, argv, opt, NULL, help_diff);
    if (code >= 0) return code;
    if (!a->prompt) return cli_usage("diff", "no question: -p TEXT is needed");
    if (a->model.backend && !strncmp(a->model.backend, "diff:", 5))
        return cli_usage("diff", "--backend: expected auto, cpu or cuda, found \"%s\"",
                         a->model.backend);
    return -1;
}

static void print_table(const sq_model *m, const char *backend)
{
    sq_diff_info d;
    long long n = 0;
    for (int i = 0; sq_diff_get(m, i, &d) == SQ_OK; i++) {
        n += d.n;
        if (!d.n) continue;
        char layer[24] = "";
        if (d.layer >= 0) snprintf(layer, sizeof layer, " layer %d", d.layer);
        printf("%-12s %6lld alike, worst %5.1f %% of the allowed error: %s%s, %s\n", d.op,
               (long long)d.n, 100 * d.worst, d.part, layer, d.shape);
    }
    printf("%lld ops alike\n%s\n", n, backend);
}

static int run(sq_model *m, sq_session **s, const diff_args *a)
{
    static sq_report r; /* too large for some stacks */
    int rc = sq_session_open(s, m, &a->session);
    if (!rc) rc = cli_add_images(m, *s, &a->image);
    if (!rc) rc = sq_session_ask(*s, a->prompt, &a->ask, &r);
    if (rc) return cli_fail("diff", rc, sq_session_error(*s));
    print_table(m, r.backend);
    return EXIT_DONE;
}

int cmd_diff(int argc, char **argv)
{
    diff_args a = {.ask.max_tokens = 4};
    sq_model *m = NULL;
    sq_session *s = NULL;
    char name[64];
    int code = parse(argc, argv, &a);
    if (code >= 0) return code;
    snprintf(name, sizeof name, "diff:%s", a.model.backend ? a.model.backend : "auto");
    a.model.backend = name;
    code = cli_model_open(&m, "diff", &a.model, false);
    if (!code) code = run(m, &s, &a);
    sq_session_close(&s);
    sq_model_close(&m);
    return code;
}
