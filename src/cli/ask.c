#include "cli/cli.h"

#include <string.h>

const char help_ask[] =
    "squint ask: ask about pictures\n\n"
    "usage: squint ask -m MODEL --image FILE [--image FILE] -p QUESTION [options]\n\n"
    "Without -p it is a chat: questions are read line by line, the pictures stay encoded.\n\n"
    "  -i, --image FILE    JPEG or PNG; several are shown in this order\n"
    "  -p, --prompt TEXT   the question; <image> marks where each picture goes\n"
    "      --prune NAME    pruning method (squint methods), default none\n"
    "      --keep N|N%     tokens of each picture that stay\n"
    "      --prune-options key=value,...\n"
    "      --show FILE     write a picture of the kept tokens (.png or .ppm)\n"
    "      --stats         tokens and milliseconds on stderr, on a GPU also its work and memory\n"
    "      --json          the full report instead of the answer\n"
    "  -n, --max-tokens N  default 512\n"
    "      --temperature T default 0: the likeliest token each time\n"
    "      --top-k N, --top-p P, --seed N\n"
    "      --kv TYPE       KV cache in auto (as the backend computes), f32, f16 or bf16\n"
    "      --context N     rows of the KV cache, default the model's\n"
    "      --no-exif       ignore the picture's orientation mark\n"
    "      --max-pixels N  in millions, default 178\n"
    "      --allow-truncated   use what is there of a cut-off file\n"
    "      --tiles off     one view of each picture (tiles are not there yet)\n"
    CLI_MODEL_HELP
    "\nexample:\n"
    "  squint ask -m models/demo --image samples/frogs.jpg -p \"What do you see?\" \\\n"
    "      --prune fastervlm --keep 144 --show kept.png\n";

typedef struct ask_args {
    cli_model model;
    cli_list image;
    const char *prompt, *show, *tiles;
    sq_session_options session;
    sq_ask_options ask;
    int seed, max_pixels;
    bool json, stats;
} ask_args;

static int print_piece(void *user, const char *text, size_t size)
{
    const ask_args *a = user;
    if (!a->json) {
        fwrite(text, 1, size, stdout);
        fflush(stdout);
    }
    return cli_interrupted;
}

static int parse(int argc, char **argv, ask_args *a)
{
    const cli_option opt[] = {CLI_MODEL_ROWS(a->model),
                              {"--image", "-i", CLI_LIST, &a->image},
                              {"--prompt", "-p", CLI_TEXT, &a->prompt},
                              {"--prune", NULL, CLI_TEXT, &a->session.prune},
                              {"--keep", NULL, CLI_TEXT, &a->session.keep},
                              {"--prune-options", NULL, CLI_TEXT, &a->session.prune_options},
                              {"--show", NULL, CLI_TEXT, &a->show},
                              {"--stats", NULL, CLI_FLAG, &a->stats},
                              {"--json", NULL, CLI_FLAG, &a->json},
                              {"--max-tokens", "-n", CLI_INT, &a->ask.max_tokens, 1, 1 << 24},
                              {"--temperature", NULL, CLI_FLOAT, &a->ask.temperature, 0, 100},
                              {"--top-k", NULL, CLI_INT, &a->ask.top_k, 0, 1 << 24},
                              {"--top-p", NULL, CLI_FLOAT, &a->ask.top_p, 0, 1},
                              {"--seed", NULL, CLI_INT, &a->seed, 0, 2147483647},
                              {"--kv", NULL, CLI_TEXT, &a->session.kv_type},
                              {"--context", NULL, CLI_INT, &a->session.n_ctx, 1, 1 << 24},
                              {"--no-exif", NULL, CLI_FLAG, &a->session.image.ignore_exif},
                              {"--max-pixels", NULL, CLI_INT, &a->max_pixels, 1, 1 << 16},
                              {"--allow-truncated", NULL, CLI_FLAG,
                               &a->session.image.allow_truncated},
                              {"--tiles", NULL, CLI_TEXT, &a->tiles},
                              {NULL}};
    int code = cli_parse(argc, argv, opt, NULL, help_ask);
    if (code >= 0) return code;
    if (a->tiles && strcmp(a->tiles, "off"))
        return cli_usage("ask", "--tiles: only \"off\" is there, found \"%s\"", a->tiles);
    if (a->json && !a->prompt) return cli_usage("ask", "--json needs -p QUESTION");
    if (a->show && (!a->image.n || !a->prompt))
        return cli_usage("ask", "--show needs --image FILE and -p QUESTION");
    if (a->show) code = cli_check_picture("ask", "--show", a->show, false);
    if (code < 0) code = cli_check_prune_options("ask", a->session.prune, a->session.prune_options);
    a->session.one_view = a->tiles != NULL;
    a->session.seed = (uint64_t)a->seed;
    a->session.image.max_pixels = (int64_t)a->max_pixels * 1000000;
    return code;
}

static int answer_once(sq_model *m, sq_session *s, ask_args *a, sq_report *r)
{
    int rc = sq_session_ask(s, a->prompt, &a->ask, r);
    if (!a->json && (!rc || rc == SQ_E_STOPPED)) putchar('\n');
    fflush(stdout); /* before anything goes to stderr */
    if (cli_interrupted) return EXIT_INTERRUPTED;
    if (rc) return cli_fail("ask", rc, sq_session_error(s));
    if (a->json)
        report_json(stdout, r, a->model.model, a->image.item);
    else
        report_cut(stderr, r);
    if (a->stats) report_text(stderr, r);
    return a->show ? show_kept("ask", m, &a->image, &a->session.image, r, a->show) : EXIT_DONE;
}

static int run(sq_model *m, sq_session **s, ask_args *a)
{
    static sq_report r; /* too large for some stacks */
    int rc = sq_session_open(s, m, &a->session);
    if (!rc) rc = cli_add_images(m, *s, &a->image);
    if (rc && rc != SQ_E_STOPPED) return cli_fail("ask", rc, sq_session_error(*s));
    if (cli_interrupted) return EXIT_INTERRUPTED;
    if (a->prompt) return answer_once(m, *s, a, &r);
    return chat_run(*s, &a->ask, &r, a->stats);
}

int cmd_ask(int argc, char **argv)
{
    ask_args a = {0};
    sq_model *m = NULL;
    sq_session *s = NULL;
    int code = parse(argc, argv, &a);
    if (code >= 0) return code;
    a.ask.on_token = print_piece;
    a.ask.user = &a;
    cli_catch_interrupt();
    code = cli_model_open(&m, "ask", &a.model, false);
    if (!code) code = run(m, &s, &a);
    sq_session_close(&s);
    sq_model_close(&m);
    return code;
}
