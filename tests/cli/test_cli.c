/* The program from outside: all commands but bench. */
#define _POSIX_C_SOURCE 200809L
#define _XOPEN_SOURCE 700 /* posix_openpt */
#include "cli_shell.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>

/* ---- usage ---- */

static void test_usage(void **state)
{
    (void)state;
    expect_output("$squint --version", "squint 0.1.0\n");
    expect_error("$squint frobnicate", 2, "unknown command");
    expect_error("$squint ask --frobnicate", 2, "unknown option \"--frobnicate\"");
    expect_error("$squint ask -m", 2, "--model needs a value");
    expect_error("$squint ask", 2, "no model");
    expect_error("$squint ask -m models/demo stray", 2, "unexpected word");
    expect_error("$squint ask -m models/demo --seed x -p y", 2, "--seed: expected a whole number");
    expect_error("$squint ask -m models/demo --top-k -1 -p y", 2, "from 0 to 16777216, found");
    expect_error("$squint ask -m models/demo --seed -1 -p y", 2, "from 0 to 2147483647, found");
    expect_error("$squint ask -m models/demo --top-p 1.5 -p y", 2, "a number from 0 to 1, found");
    expect_error("$squint ask -m models/demo --json", 2, "--json needs -p");
    expect_error("$squint ask -m models/demo --tiles on -p x", 2, "--tiles");
    static const char *const bad[][2] = {
        {"--prune nosuch --keep 9", "nosuch"}, {"--prune fastervlm", "needs keep"},
        {"--prune fastervlm --keep 0", "keep"}, {"--prune fastervlm --keep 12%%", "keep"},
        {"--prune fastervlm --keep 9 --prune-options start-layer=3", "takes no options"},
        {"--prune vtc-cls --keep 9 --prune-options start-layer=3,seed=1", "found \"seed\""},
        {"--prune vtc-cls --keep 9 --prune-options start-layer", "key=value"},
        {"--prune-options seed=1", "\"none\" takes no options"},
        {"--image samples/frogs.jpg --show x.gif", ".png or .ppm"},
        {"--keep 9", "keep"}, {"--compute f8", "compute"}, {"--template nosuch", "nosuch"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char line[256];
        snprintf(line, sizeof line, "$squint ask -m models/demo --backend cpu -p x %s", bad[i][0]);
        expect_error(line, 2, bad[i][1]);
    }
    expect_error("$squint ask -m models/demo -p x --backend nosuch", 2, "nosuch");
    expect_error("$squint ask -m models/demo -p x --backend cpu --device 3", 2, "no device 3");
    expect_error("$squint ask -m models/demo -p x --device -1", 2, "--device");
    expect_error("$squint ask -m models/demo -p x --backend cpu --compute f16", 1, "needs a GPU");
    expect_error("$squint convert -m models/demo", 2, "-o DIR");
    expect_error("$squint pixels --image samples/frogs.jpg", 2, "-o FILE");
}

/* Every help text ends in an example; each example runs as it is printed. */
static void test_help_examples(void **state)
{
    static const char *const command[] = {"ask",     "bench",  "convert", "diff", "info",
                                          "methods", "pixels", "tokenize"};
    (void)state;
    for (size_t i = 0; i < sizeof command / sizeof *command; i++) {
        char line[2048];
        snprintf(line, sizeof line, "$squint %s --help", command[i]);
        result help = shell(line);
        assert_int_equal(help.code, 0);
        char *example = strstr(help.out, "\nexample:\n");
        assert_non_null(example);
        /* the pictures they write belong in the scratch folder: run there, on links */
        snprintf(line, sizeof line,
                 "rm -rf $T/ex && mkdir $T/ex && ln -s $PWD/models $PWD/samples $PWD/tests $T/ex "
                 "&& cd $T/ex "
                 "&& squint() { \"$squint\" \"$@\"; } && set -e\n%s",
                 example + strlen("\nexample:\n"));
        result run = shell(line);
        if (run.code) fail_msg("%s: exit %d: %s", command[i], run.code, run.err);
        done(&run);
        done(&help);
    }
}

/* ---- ask ---- */

static void test_ask(void **state)
{
    (void)state;
    const char *ask = "$squint ask -m models/demo --backend cpu --compute f32 "
                      "--image samples/rocket.jpg -p "
                      "'Where is the rocket in the image?'";
    char line[512];
    expect_output(ask, "In the top left\n");
    static const char *const method[] = {"uniform", "fastervlm", "vtc-cls", "fopru", "globalcom2"};
    for (size_t i = 0; i < sizeof method / sizeof *method; i++) {
        snprintf(line, sizeof line, "%s --prune %s --keep 288", ask, method[i]);
        expect_output(line, "In the top left\n");
    }
    expect_error("$squint ask -m models/demo --backend cpu --image nosuch.jpg -p x 2>&1 >$T/o | "
                 "grep -v tiles >&2; exit 1",
                 1, "nosuch.jpg");
    /* where the picture cannot go is known before the answer */
    expect_error("$squint ask -m nosuch --image x.jpg -p x --show $T/nosuch/x.png", 1,
                 "no folder");
    expect_error("$squint ask -m nosuch --backend cpu -p x", 1, "nosuch: no such file");
    expect_error("$squint ask -m samples/frogs.jpg --backend cpu -p x", 1, "samples/frogs.jpg");
}

static void test_json(void **state)
{
    (void)state;
    result r = shell("$squint ask -m models/demo --backend cpu --image samples/rocket.jpg --image "
                     "samples/desk.jpg -p 'What do you see?' --prune fastervlm --keep 10% --json");
    assert_int_equal(r.code, 0);
    cJSON *o = cJSON_Parse(r.out);
    assert_non_null(o);
    assert_true(strlen(get(o, "answer")->valuestring) > 0);
    assert_string_equal(get(o, "method")->valuestring, "fastervlm");
    const cJSON *images = get(o, "images"), *im;
    assert_int_equal(cJSON_GetArraySize(images), 2);
    cJSON_ArrayForEach(im, images)
    {
        assert_int_equal(get(im, "tokens_in")->valueint, 576);
        assert_int_equal(get(im, "tokens_kept")->valueint, 58);
        const cJSON *kept = get(im, "kept"), *k;
        assert_int_equal(cJSON_GetArraySize(kept), 58);
        int last = -1;
        cJSON_ArrayForEach(k, kept)
        {
            assert_true(k->valueint > last && k->valueint < 576);
            last = k->valueint;
        }
    }
    static const char *const device[] = {"device_bytes", "launches", "syncs"};
    for (int i = 0; i < 3; i++)
        assert_true(get(o, device[i])->valuedouble >= 0);
    int rows = get(o, "context_tokens")->valueint;
    assert_int_equal(get(o, "kv_bytes")->valueint, rows * 6 * 2 * 512 * 4);
    const char *const stage[] = {"decode", "preprocess", "vision", "score", "prune",
                                 "project", "prefill", "first_token", "total"};
    for (size_t i = 0; i < sizeof stage / sizeof *stage; i++)
        assert_true(get(get(o, "ms"), stage[i])->valuedouble >= 0);
    cJSON_Delete(o);
    done(&r);
}

/* A path may hold any bytes; JSON may not. */
static void test_not_utf8(void **state)
{
    (void)state;
    static const char *const command[] = {
        "info \"$m\" --backend cpu --json",
        "ask -m \"$m\" --backend cpu --compute f32 -n 2 -p x --image \"$m/p.png\" --json",
        "bench -m \"$m\" --backend cpu --repeat 1 --stages prefill:2 --json"};
    static const char set_up_line[] =
        "m=$(printf '%s/a\\377b' $T); mkdir -p \"$m\" && "
        "ln -sf $PWD/tests/golden/tiny/mha/* \"$m\" && "
        "ln -sf $PWD/tests/golden/tiny/picture.png \"$m/p.png\" && ";
    for (size_t i = 0; i < sizeof command / sizeof *command; i++) {
        char line[512];
        snprintf(line, sizeof line, "%s$squint %s", set_up_line, command[i]);
        result r = shell(line);
        cJSON *o = cJSON_Parse(r.out);
        if (r.code || !o || strchr(r.out, '\xff') || !strstr(r.out, "/a\\ufffdb"))
            fail_msg("%s: exit %d: %s%s", command[i], r.code, r.out, r.err);
        cJSON_Delete(o);
        done(&r);
    }
}

/* Starts a shell line in the source folder; what it runs with exec is this process. */
static pid_t start(const char *line)
{
    pid_t pid = fork();
    if (pid) return pid;
    if (chdir(SQ_SOURCE_DIR)) _exit(126);
    execl("/bin/sh", "sh", "-c", line, (char *)NULL);
    _exit(127);
}

/* Ctrl-C while the first of 32 pictures is encoded ends it before the last, which is not there: how
 * many are skipped depends on the machine, but not whether it gets that far. */
static void test_interrupt(void **state)
{
    (void)state;
    char path[96], line[256], rest[256];
    in_tmp(path, sizeof path, "notices");
    assert_int_equal(mkfifo(path, 0600), 0);
    pid_t pid = start("set --; for i in $(seq 32); do set -- \"$@\" --image samples/frogs.jpg; "
                      "done; exec $squint ask -m models/demo --backend cpu --compute f32 "
                      "--threads 1 -p x \"$@\" --image nosuch.jpg >$T/none 2>$T/notices");
    assert_true(pid > 0);
    struct pollfd said = {.fd = open(path, O_RDONLY | O_NONBLOCK), .events = POLLIN};
    assert_true(said.fd >= 0);
    assert_int_equal(poll(&said, 1, 120000), 1); /* a program that did not start says nothing */
    assert_int_equal(fcntl(said.fd, F_SETFL, 0), 0);
    FILE *f = fdopen(said.fd, "r");
    assert_non_null(f);
    assert_non_null(fgets(line, sizeof line, f));
    assert_non_null(strstr(line, "trained on picture tiles")); /* said with the first picture */
    assert_int_equal(kill(pid, SIGINT), 0);
    if (fgets(rest, sizeof rest, f)) fail_msg("went on after Ctrl-C: %s", rest);
    fclose(f);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status)); /* it was not the signal that ended it */
    assert_int_equal(WEXITSTATUS(status), 130);
    in_tmp(path, sizeof path, "none");
    char *out = slurp(path);
    assert_string_equal(out, "");
    free(out);
}

/* A result that did not arrive is a failure, whatever printed it. */
static void test_full_stdout(void **state)
{
    (void)state;
    static const char *const command[] = {
        "--help", "--version", "bench --help", "methods", "methods --json", "info --backends",
        "info --backends --json", "info models/demo --backend cpu",
        "info models/demo --backend cpu --tensors --json",
        "tokenize -m models/demo < samples/README.md",
        "ask -m tests/golden/tiny/mha --backend cpu --compute f32 -n 2 -p x",
        "ask -m tests/golden/tiny/mha --backend cpu --compute f32 -n 2 -p x --json",
        "ask -m tests/golden/tiny/mha --backend cpu --compute f32 -n 2", /* a chat */
        "diff -m tests/golden/tiny/mha --backend cpu --compute f32 --steps 1 -p x",
        "bench -m tests/golden/tiny/mha --backend cpu --stages prefill:2 --repeat 1",
        "bench -m tests/golden/tiny/mha --backend cpu --image tests/golden/tiny/picture.png -p x "
        "-n 2 --repeat 1 --json",
        "bench -m tests/golden/tiny/mha --backend cpu --limit 1 -n 2 --questions "
        "models/demo/eval/questions.jsonl"};
    for (size_t i = 0; i < sizeof command / sizeof *command; i++) {
        char line[256];
        snprintf(line, sizeof line, "echo x | $squint %s > /dev/full", command[i]);
        expect_error(line, 1, "cannot write to stdout");
    }
}

#define TINY_CHAT "$squint ask -m tests/golden/tiny/mha --backend cpu --compute f32"

static void test_chat(void **state)
{
    (void)state;
    expect_output(
        "printf 'What word is written in the image?\\n/clear\\nWhere is the rocket in the "
        "image?\\n' | $squint ask -m models/demo --backend cpu --compute f32 "
        "--image samples/rocket.jpg",
        "YEIC\nIn the top left\n");
    result r = shell("printf 'a\\nb\\n' | " TINY_CHAT " -n 2 --stats");
    char *again = strstr(r.err, "answer 2 (max tokens)");
    assert_int_equal(r.code, 0);
    assert_non_null(again);
    assert_non_null(strstr(again + 1, "answer 2 (max tokens)"));
    done(&r);
    expect_error(TINY_CHAT " < $T", 1, "stdin: cannot read: Is a directory");
    expect_error("printf 'a <image>\\na\\n' | " TINY_CHAT, 2, "<image>");
}

/* An answer that the context cut off does not look complete. */
static void test_context_full(void **state)
{
    (void)state;
    result r = shell(TINY_CHAT " -p x --context 180");
    assert_int_equal(r.code, 0);
    assert_int_equal(count_lines(r.err), 1);
    assert_non_null(strstr(r.err, "context is full"));
    done(&r);
    r = shell(TINY_CHAT " -p x --context 180 --stats");
    assert_non_null(strstr(r.err, "(context full)"));
    done(&r);
    r = shell(TINY_CHAT " -p x --context 180 --json");
    assert_string_equal(r.err, "");
    done(&r);
}

/* A chat whose stdin and stderr are a terminal: its other end is returned. */
static pid_t start_chat(const char *line, int *terminal)
{
    *terminal = posix_openpt(O_RDWR | O_NOCTTY);
    assert_true(*terminal >= 0 && !grantpt(*terminal) && !unlockpt(*terminal));
    pid_t pid = fork();
    if (pid) return pid;
    setsid(); /* the terminal opened next becomes its own: ^C goes there */
    int fd = open(ptsname(*terminal), O_RDWR);
    if (fd < 0 || dup2(fd, 0) < 0 || dup2(fd, 2) < 0 || chdir(SQ_SOURCE_DIR)) _exit(126);
    close(*terminal);
    execl("/bin/sh", "sh", "-c", line, (char *)NULL);
    _exit(127);
}

static void type(int terminal, const char *text)
{
    assert_int_equal(write(terminal, text, strlen(text)), strlen(text));
}

/* What the chat said until it ended, and its exit code. */
static int end_chat(pid_t pid, int terminal, char *said, size_t size)
{
    size_t n = 0;
    ssize_t got;
    int status;
    while (n + 1 < size && (got = read(terminal, said + n, size - 1 - n)) > 0)
        n += (size_t)got;
    said[n] = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    close(terminal);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* In a terminal a wrong question is told and the conversation goes on. */
static void test_chat_mistake(void **state)
{
    (void)state;
    int terminal;
    char said[4096], path[96];
    pid_t pid = start_chat("exec $squint ask -m models/demo --backend cpu --compute f32 "
                           "--tiles off --image samples/rocket.jpg >$T/answers",
                           &terminal);
    assert_true(pid > 0);
    type(terminal, "What word is written in the image?\nWhat is <image>?\n"
                   "Where is the rocket in the image?\n/quit\n");
    int code = end_chat(pid, terminal, said, sizeof said);
    in_tmp(path, sizeof path, "answers");
    char *out = slurp(path);
    if (code || strncmp(out, "YEIC\n", 5) || count_lines(out) != 2 || strstr(out, "\n\n") ||
        strstr(said, "tiles") || !strstr(said, "first question only"))
        fail_msg("exit %d, stdout \"%s\", stderr \"%s\"", code, out, said);
    free(out);
}

/* Ctrl-C in the middle of an answer ends the chat, and the next question is not asked. */
static void test_chat_interrupt(void **state)
{
    (void)state;
    int terminal;
    char said[4096], path[96], letter;
    in_tmp(path, sizeof path, "answer");
    assert_int_equal(mkfifo(path, 0600), 0);
    pid_t pid = start_chat("exec " TINY_CHAT " -n 1000000 --context 2000000 >$T/answer",
                           &terminal);
    assert_true(pid > 0);
    int answer = open(path, O_RDONLY);
    assert_true(answer >= 0);
    type(terminal, "a\n");
    assert_int_equal(read(answer, &letter, 1), 1); /* it has begun and takes minutes */
    type(terminal, "\003");
    type(terminal, "/quit\n"); /* a chat that goes on would end there, having asked twice */
    int code = end_chat(pid, terminal, said, sizeof said);
    close(answer);
    char *prompt = strstr(said, "> ");
    if (code != 130 || !prompt || strstr(prompt + 1, "> "))
        fail_msg("exit %d: %s", code, said);
}

static void test_show(void **state)
{
    (void)state;
    result r = shell("$squint ask -m models/demo --backend cpu --image samples/frogs.jpg "
                     "-p 'What do you see?' --prune fastervlm --keep 72 --show $T/kept.ppm");
    assert_int_equal(r.code, 0);
    char path[96];
    in_tmp(path, sizeof path, "kept.ppm");
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 15 + 336 * 336 * 3);
    done(&r);
}

/* ---- the other commands ---- */

static void test_pixels(void **state)
{
    (void)state;
    char path[96];
    result r = shell("$squint pixels --image samples/frogs.jpg -m models/demo -o $T/view.npy && "
                     "$squint pixels --image samples/elephant.jpg -o $T/photo.npy && "
                     "$squint pixels --image samples/elephant.jpg -o $T/photo.png");
    assert_int_equal(r.code, 0);
    done(&r);
    in_tmp(path, sizeof path, "view.npy");
    char *npy = slurp(path);
    assert_memory_equal(npy, "\x93NUMPY\x01\x00", 8);
    assert_non_null(strstr(npy + 10, "'<f4'"));
    assert_non_null(strstr(npy + 10, "(1, 3, 336, 336, )"));
    free(npy);
    struct stat st;
    in_tmp(path, sizeof path, "photo.npy");
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size % 64, 660 * 480 * 3 % 64);
    expect_error("$squint pixels --image samples/frogs.jpg -o $T/nosuch/x.png", 1, "nosuch");
    expect_error("$squint pixels --image samples/frogs.jpg -o $T/nosuch/x.npy", 1, "nosuch");
    expect_error("$squint pixels --image samples/README.md -o $T/x.png", 1, "samples/README.md");
    expect_error("$squint pixels --image samples/frogs.jpg -o $T/x.gif", 2,
                 ".png, .ppm or .npy");
}

/* Nothing that was begun may be left beside the finished files. */
static void test_no_leftovers(void **state)
{
    (void)state;
    DIR *d = opendir(tmp);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        if (strstr(e->d_name, ".tmp-")) fail_msg("left behind: %s", e->d_name);
    closedir(d);
}

static void test_tokenize(void **state)
{
    (void)state;
    const char *words = "What do you see?\\n\\n h\xc3\xa9llo  w\xf0\x9f\x90\xb8rld\\n";
    char line[512];
    snprintf(line, sizeof line,
             "printf '%s' > $T/in && $squint tokenize -m models/demo < $T/in > $T/ids && "
             "$squint tokenize -m models/demo --decode < $T/ids | cmp - $T/in",
             words);
    expect_output(line, "");
    expect_error("echo 99999999 | $squint tokenize -m models/demo --decode", 2, "99999999");
    expect_error("echo 1 x | $squint tokenize -m models/demo --decode", 2, "expected ids");
    expect_error("$squint tokenize -m models/demo < $T", 1, "stdin: cannot read: Is a directory");
}

static void test_info(void **state)
{
    (void)state;
    result r = shell("$squint info models/demo --backend cpu --json --tensors");
    assert_int_equal(r.code, 0);
    cJSON *o = cJSON_Parse(r.out);
    assert_non_null(o);
    assert_int_equal(get(o, "n_patch")->valueint, 576);
    assert_int_equal(get(o, "vit_layers")->valueint, 9);
    assert_int_equal(cJSON_GetArraySize(get(o, "tensors")), get(o, "n_tensor")->valueint);
    assert_string_equal(get(o, "missing")->valuestring, "");
    cJSON_Delete(o);
    done(&r);
    r = shell("$squint info --backends");
    assert_int_equal(r.code, 0);
    assert_non_null(strstr(r.out, "\ncpu    ok: "));
    assert_null(strstr(r.out, "cpu: "));
    assert_ptr_equal(strstr(r.out, "cuda "), r.out); /* a row, also when it cannot start */
    assert_null(strstr(r.out, "cuda: "));
    done(&r);
    r = shell("$squint info --backends --json");
    assert_int_equal(r.code, 0);
    o = cJSON_Parse(r.out);
    assert_int_equal(cJSON_GetArraySize(o), 2);
    assert_string_equal(get(cJSON_GetArrayItem(o, 1), "name")->valuestring, "cpu");
    assert_memory_equal(get(cJSON_GetArrayItem(o, 1), "state")->valuestring, "ok: ", 4);
    for (int i = 0; i < 2; i++) /* the name is not said again */
        assert_null(strstr(get(cJSON_GetArrayItem(o, i), "state")->valuestring,
                           i ? "cpu:" : "cuda:"));
    assert_int_equal(cJSON_GetArraySize(get(cJSON_GetArrayItem(o, 1), "devices")), 0);
    cJSON_Delete(o);
    done(&r);
    expect_error("$squint info --backends nodir", 2, "without a MODEL, found \"nodir\"");
    expect_error("$squint info --backends -m nodir", 2, "without a MODEL, found \"nodir\"");
}

/* Every op of one answer, against plain C. */
static void test_diff(void **state)
{
    (void)state;
    static const char *const op[] = {"patchify", "embed",       "linear", "linear_many", "attn",
                                     "rms_norm", "rope_append", "argmax", "attn_rows"};
    result r = shell("$squint diff -m tests/golden/tiny/mha --image tests/golden/tiny/picture.png "
                     "-p 'What is this?' --backend cpu --compute f32 --steps 2 --prune fastervlm "
                     "--keep 50% 2>&1");
    assert_int_equal(r.code, 0);
    for (size_t i = 0; i < sizeof op / sizeof *op; i++)
        if (!strstr(r.out, op[i])) fail_msg("no %s: %s", op[i], r.out);
    assert_non_null(strstr(r.out, " ops alike\n"));
    done(&r);
    expect_error("$squint diff -m models/demo", 2, "no question");
    expect_error("$squint diff -m models/demo -p x --backend nosuch", 2, "nosuch");
    expect_error("$squint diff -m models/demo -p x --backend diff:cpu", 2, "\"diff:cpu\"");
}

static void test_convert(void **state)
{
    (void)state;
    result r = shell("mkdir -p $T/pair && $squint convert -m models/demo -o $T/pair --type bf16 "
                     "--name small && ls $T/pair");
    assert_int_equal(r.code, 0);
    assert_string_equal(r.out, "mmproj-small-bf16.gguf\nsmall-bf16.gguf\n");
    done(&r);
    expect_output("$squint ask -m $T/pair --backend cpu --compute f32 --image samples/rocket.jpg "
                  "-p 'Where is the rocket in the image?'",
                  "In the top left\n");
    expect_error("$squint convert -m models/demo -o $T/nosuch", 1, "nosuch");
    expect_error("$squint convert -m models/demo -o $T/pair --type q2", 2, "q2");
}

/* Shapes without a checkpoint: there to be timed, and refused where words are needed. */
static void test_synthetic(void **state)
{
    (void)state;
    result r = shell("$squint info synthetic:clip-l-336 --backend cpu --json --tensors");
    assert_int_equal(r.code, 0);
    cJSON *o = cJSON_Parse(r.out);
    assert_non_null(o);
    assert_int_equal(get(o, "n_patch")->valueint, 576);
    assert_int_equal(get(o, "n_tensor")->valueint, 5 + 24 * 16);
    assert_int_equal((int)(get(o, "n_param")->valuedouble / 1e5), 3035);
    assert_int_equal(cJSON_GetArraySize(get(o, "tensors")), get(o, "n_tensor")->valueint);
    cJSON_Delete(o);
    done(&r);
    expect_error("$squint info synthetic:nosuch --backend cpu", 2, "llava-1.5-7b");
    expect_error("echo a | $squint tokenize -m synthetic:clip-l-336", 1, "no tokenizer");
    expect_error("$squint convert -m synthetic:clip-l-336 -o $T --name a --type f16", 1,
                 "no tokenizer");
    expect_error("$squint ask -m synthetic:clip-l-336 --backend cpu -p a", 1, "no language model");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_usage),           cmocka_unit_test(test_help_examples),
        cmocka_unit_test(test_ask),             cmocka_unit_test(test_json),
        cmocka_unit_test(test_not_utf8),        cmocka_unit_test(test_interrupt),
        cmocka_unit_test(test_full_stdout),     cmocka_unit_test(test_chat),
        cmocka_unit_test(test_context_full),    cmocka_unit_test(test_chat_mistake),
        cmocka_unit_test(test_chat_interrupt),  cmocka_unit_test(test_show),
        cmocka_unit_test(test_pixels),          cmocka_unit_test(test_tokenize),
        cmocka_unit_test(test_info),            cmocka_unit_test(test_diff),
        cmocka_unit_test(test_convert),         cmocka_unit_test(test_synthetic),
        cmocka_unit_test(test_no_leftovers),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
