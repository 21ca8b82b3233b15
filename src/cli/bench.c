#include "cli/bench.h"

#include <stdlib.h>
#include <string.h>

const char help_bench[] =
    "squint bench: accuracy over a question file, or the time of each stage\n\n"
    "usage: squint bench -m MODEL [--stages LIST] [--repeat N]\n"
    "       squint bench -m MODEL --image FILE -p QUESTION [--methods LIST --keep LIST]\n"
    "       squint bench -m MODEL --questions FILE [--methods LIST --keep LIST]\n\n"
    "stages on random data (default): the first run, and --repeat more after a few to warm up\n"
    "(a GPU then replays what it recorded: a length not seen before takes what \"first\" says; on\n"
    "a CPU the weights that an earlier stage packed stay packed in the first run of the next):\n"
    "      --stages LIST   vision[:VIEWS], vision+rows[:VIEWS] (with the attention that\n"
    "                      fastervlm reads), project:ROWS, prefill:ROWS, decode:ROWS (one token\n"
    "                      behind ROWS), decode:ROWSxN (for each of N sequences, up to 64),\n"
    "                      first-token:KEPT (a 640x480 picture in memory, pruned by fastervlm,\n"
    "                      behind a prompt of 55 tokens, to the first token of the answer);\n"
    "                      default, as far as the model has them: vision:1, prefill:631,\n"
    "                      prefill:199, prefill:84, decode:631, on a GPU also vision:5,\n"
    "                      vision:32, vision+rows, prefill:2935, first-token:29;\n"
    "                      what the machine can do at best, a large product and a large copy,\n"
    "                      comes first\n"
    "      --repeat N      default 10\n"
    "      MODEL may be synthetic:NAME here, random weights in the shapes of llava-1.5-7b,\n"
    "      llava-1.5-13b, llava-next-7b or clip-l-336\n"
    "from picture to answer, each stage apart:\n"
    "  -i, --image FILE    with -p QUESTION; several are asked about together\n"
    "accuracy (exact match) over a question file:\n"
    "      --questions FILE  JSON lines: question_id, image, text, answer, category\n"
    "      --images DIR    where the pictures are; default: beside the question file\n"
    "      --answers FILE  JSON lines of answers; a run that was cut off goes on from there, with\n"
    "                      the same model and settings\n"
    "      --kinds LIST    categories that get a column of their own\n"
    "      --limit N       the first N questions only\n"
    "with --image or --questions:\n"
    "      --no-exif       ignore orientation marks\n"
    "      --methods LIST  pruning methods, default none\n"
    "      --keep LIST     tokens or shares, for every method but none\n"
    "      --prune-options key=value,...   --seed N   -n, --max-tokens N (default 128)\n"
    "always:\n"
    "      --format NAME   table, csv (times only), json; --json is the last\n" CLI_MODEL_HELP
    "\nexample:\n"
    "  squint bench -m models/demo --questions models/demo/eval/questions.jsonl --limit 8 \\\n"
    "      --methods none,fastervlm,random --keep 144,36\n";

static int parse_format(bench_args *a)
{
    const char *f = a->format ? a->format : a->json ? "json" : "table";
    if (a->json && strcmp(f, "json"))
        return cli_usage("bench", "--json and --format %s exclude each other", f);
    a->json = strcmp(f, "json") == 0;
    a->csv = strcmp(f, "csv") == 0;
    if (!a->json && !a->csv && strcmp(f, "table"))
        return cli_usage("bench", "--format: expected table, csv or json, found \"%s\"", f);
    if (a->csv && a->questions) return cli_usage("bench", "--format csv is for times only");
    return -1;
}

/* What is timed or asked decides which options mean something; one that does not is a mistake. */
static int check_mode(const bench_args *a)
{
    enum { STAGES = 1, PICTURE = 2, QUESTIONS = 4 };
    const struct {
        const char *flag;
        bool given;
        int modes;
    } option[] = {{"--repeat", a->repeat, STAGES | PICTURE},
                  {"-p (--prompt)", a->prompt, PICTURE},
                  {"--no-exif", a->no_exif, PICTURE | QUESTIONS},
                  {"--methods", a->methods, PICTURE | QUESTIONS},
                  {"--keep", a->keep, PICTURE | QUESTIONS},
                  {"--prune-options", a->prune_options, PICTURE | QUESTIONS},
                  {"--seed", a->seed >= 0, PICTURE | QUESTIONS},
                  {"-n (--max-tokens)", a->max_tokens, PICTURE | QUESTIONS},
                  {"--images", a->images, QUESTIONS},
                  {"--answers", a->answers, QUESTIONS},
                  {"--kinds", a->kinds, QUESTIONS},
                  {"--limit", a->limit, QUESTIONS}};
    static const char *const goes_with[] = {[PICTURE] = "--image",
                                            [QUESTIONS] = "--questions",
                                            [STAGES | PICTURE] = "stages or --image",
                                            [PICTURE | QUESTIONS] = "--image or --questions"};
    int mode = a->questions ? QUESTIONS : a->image.n ? PICTURE : STAGES;
    const char *what = mode == QUESTIONS ? "with --questions"
                       : mode == PICTURE ? "with --image"
                                         : "when stages are timed";
    if ((a->stages != NULL) + (a->image.n > 0) + (a->questions != NULL) > 1)
        return cli_usage("bench", "--stages, --image and --questions exclude each other");
    for (size_t i = 0; i < sizeof option / sizeof *option; i++)
        if (option[i].given && !(option[i].modes & mode))
            return cli_usage("bench", "%s is not used %s: it goes with %s", option[i].flag, what,
                             goes_with[option[i].modes]);
    if (a->image.n && !a->prompt) return cli_usage("bench", "--image needs -p QUESTION");
    return -1;
}

static int parse(int argc, char **argv, bench_args *a)
{
    const cli_option opt[] = {CLI_MODEL_ROWS(a->model),
                              {"--stages", NULL, CLI_TEXT, &a->stages},
                              {"--repeat", NULL, CLI_INT, &a->repeat, 1, 10000},
                              {"--image", "-i", CLI_LIST, &a->image},
                              {"--prompt", "-p", CLI_TEXT, &a->prompt},
                              {"--questions", NULL, CLI_TEXT, &a->questions},
                              {"--images", NULL, CLI_TEXT, &a->images},
                              {"--answers", NULL, CLI_TEXT, &a->answers},
                              {"--kinds", NULL, CLI_TEXT, &a->kinds},
                              {"--limit", NULL, CLI_INT, &a->limit, 1, 1 << 30},
                              {"--no-exif", NULL, CLI_FLAG, &a->no_exif},
                              {"--methods", NULL, CLI_TEXT, &a->methods},
                              {"--keep", NULL, CLI_TEXT, &a->keep},
                              {"--prune-options", NULL, CLI_TEXT, &a->prune_options},
                              {"--seed", NULL, CLI_INT, &a->seed, 0, 2147483647},
                              {"--max-tokens", "-n", CLI_INT, &a->max_tokens, 1, 1 << 24},
                              {"--json", NULL, CLI_FLAG, &a->json},
                              {"--format", NULL, CLI_TEXT, &a->format},
                              {NULL}};
    *a = (bench_args){.seed = -1};
    int code = cli_parse(argc, argv, opt, NULL, help_bench);
    if (code >= 0) return code;
    code = parse_format(a);
    if (code >= 0) return code;
    code = check_mode(a);
    if (!a->repeat) a->repeat = 10;
    if (!a->max_tokens) a->max_tokens = 128;
    if (!a->methods) a->methods = "none";
    if (a->seed < 0) a->seed = 0;
    return code;
}

int bench_rows(const bench_args *a, bench_row *row, int *n, char *hold[2])
{
    cli_list method, keep = {0};
    sq_method found;
    bool used = false; /* --keep */
    *n = 0;
    int code = cli_split("bench", "--methods", a->methods, &method, &hold[0]);
    if (code < 0 && a->keep) code = cli_split("bench", "--keep", a->keep, &keep, &hold[1]);
    if (code >= 0) return code;
    for (int i = 0; i < method.n; i++) {
        bool none = !strcmp(method.item[i], "none");
        if (!cli_find_method(method.item[i], &found))
            return cli_usage("bench", "--methods: unknown pruning method \"%s\": squint methods "
                                      "lists them", method.item[i]);
        if (!none && !keep.n)
            return cli_usage("bench", "method \"%s\" needs --keep LIST", method.item[i]);
        for (int k = 0; k < (none ? 1 : keep.n); k++) {
            if (*n == BENCH_MAX_ROWS) return cli_usage("bench", "too many methods and budgets");
            row[(*n)++] = (bench_row){method.item[i], none ? NULL : keep.item[k]};
            used |= !none;
        }
    }
    if (keep.n && !used)
        return cli_usage("bench", "--keep is not used: method \"none\" keeps every token");
    return -1;
}

sq_session_options bench_session(const bench_args *a, const bench_row *row)
{
    return (sq_session_options){.prune = row->method,
                                .keep = row->keep,
                                .prune_options = a->prune_options,
                                .seed = (uint64_t)a->seed,
                                .image.ignore_exif = a->no_exif};
}

int cmd_bench(int argc, char **argv)
{
    bench_args a;
    int code = parse(argc, argv, &a);
    if (code >= 0) return code;
    cli_catch_interrupt();
    sq_model *m = NULL;
    code = cli_model_open(&m, "bench", &a.model, !a.questions && !a.image.n);
    if (!code)
        code = a.questions ? bench_questions(m, &a)
               : a.image.n ? bench_picture(m, &a)
                           : bench_stages(m, &a);
    sq_model_close(&m);
    return code;
}
