/* The program from outside: what goes to stdout, what to stderr, which exit code, which files. */
#define _POSIX_C_SOURCE 200809L
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cjson/cJSON.h>
#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char tmp[64];

typedef struct result {
    int code;
    char *out, *err;
} result;

static char *slurp(const char *path)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    long n = ftell(f);
    rewind(f);
    char *text = calloc(1, (size_t)n + 1);
    assert_int_equal(fread(text, 1, (size_t)n, f), n);
    fclose(f);
    return text;
}

static void in_tmp(char *out, size_t size, const char *name)
{
    snprintf(out, size, "%s/%s", tmp, name);
}

/* Runs a shell line in the source folder; the program is $squint, the scratch folder $T. */
static result shell(const char *line)
{
    char out[96], err[96], full[4096];
    in_tmp(out, sizeof out, "stdout");
    in_tmp(err, sizeof err, "stderr");
    int n = snprintf(full, sizeof full, "cd '%s' && { %s\n} >'%s' 2>'%s' </dev/null",
                     SQ_SOURCE_DIR, line, out, err);
    assert_true(n > 0 && (size_t)n < sizeof full);
    int status = system(full);
    result r = {WIFEXITED(status) ? WEXITSTATUS(status) : -1, slurp(out), slurp(err)};
    return r;
}

static void done(result *r)
{
    free(r->out);
    free(r->err);
}

static int count_lines(const char *text)
{
    int n = 0;
    for (; *text; text++)
        n += *text == '\n';
    return n;
}

/* A mistake: this code, nothing on stdout, one line on stderr that holds `part`. */
static void expect_error(const char *line, int code, const char *part)
{
    result r = shell(line);
    if (r.code != code || *r.out || count_lines(r.err) != 1 || !strstr(r.err, part))
        fail_msg("%s: exit %d, stdout \"%s\", stderr \"%s\"", line, r.code, r.out, r.err);
    done(&r);
}

static void expect_output(const char *line, const char *out)
{
    result r = shell(line);
    if (r.code != 0 || strcmp(r.out, out))
        fail_msg("%s: exit %d, stdout \"%s\", stderr \"%s\"", line, r.code, r.out, r.err);
    done(&r);
}

static const cJSON *get(const cJSON *o, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(o, key);
    if (!item) fail_msg("no key \"%s\"", key);
    return item;
}

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
    expect_error("$squint ask -m models/demo --json", 2, "--json needs -p");
    expect_error("$squint ask -m models/demo --tiles on -p x", 2, "--tiles");
    expect_error("$squint ask -m models/demo -p x --prune nosuch --keep 9", 2, "nosuch");
    expect_error("$squint ask -m models/demo -p x --prune fastervlm", 2, "needs keep");
    expect_error("$squint ask -m models/demo -p x --prune fastervlm --keep 0", 2, "keep");
    expect_error("$squint ask -m models/demo -p x --prune fastervlm --keep 12%%", 2, "keep");
    expect_error("$squint ask -m models/demo -p x --compute f8", 2, "compute");
    expect_error("$squint ask -m models/demo -p x --template nosuch", 2, "nosuch");
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
    const char *ask = "$squint ask -m models/demo --compute f32 --image samples/rocket.jpg -p "
                      "'Where is the rocket in the image?'";
    char line[512];
    expect_output(ask, "In the top left\n");
    static const char *const method[] = {"uniform", "fastervlm", "vtc-cls", "fopru", "globalcom2"};
    for (size_t i = 0; i < sizeof method / sizeof *method; i++) {
        snprintf(line, sizeof line, "%s --prune %s --keep 288", ask, method[i]);
        expect_output(line, "In the top left\n");
    }
    expect_error("$squint ask -m models/demo --image nosuch.jpg -p x 2>&1 >$T/o | grep -v tiles "
                 "1>&2; exit 1",
                 1, "nosuch.jpg");
    expect_error("$squint ask -m nosuch -p x", 1, "nosuch: no such file");
    expect_error("$squint ask -m samples/frogs.jpg -p x", 1, "samples/frogs.jpg");
}

static void test_json(void **state)
{
    (void)state;
    result r = shell("$squint ask -m models/demo --image samples/rocket.jpg --image "
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

/* Ctrl-C ends it between two of 64 pictures: long before the last on one thread. */
static void test_interrupt(void **state)
{
    (void)state;
    result r = shell("set --; for i in $(seq 64); do set -- \"$@\" --image samples/frogs.jpg; "
                     "done; timeout --foreground --preserve-status -s INT 0.5 $squint ask "
                     "-m models/demo --backend cpu --compute f32 "
                     "--cpu avx2 --threads 1 -p x \"$@\"");
    assert_int_equal(r.code, 130);
    assert_string_equal(r.out, "");
    assert_null(strstr(r.err, "squint ask"));
    done(&r);
}

static void test_chat(void **state)
{
    (void)state;
    expect_output(
        "printf 'What word is written in the image?\\n/clear\\nWhere is the rocket in the "
        "image?\\n' | $squint ask -m models/demo --compute f32 "
        "--image samples/rocket.jpg",
        "YEIC\nIn the top left\n");
}

static void test_show(void **state)
{
    (void)state;
    result r = shell("$squint ask -m models/demo --image samples/frogs.jpg -p 'What do you see?' "
                     "--prune fastervlm --keep 72 --show $T/kept.ppm");
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
    expect_error("$squint pixels --image samples/frogs.jpg -o $T/x.gif", 2, ".png or .ppm");
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
}

static void test_info(void **state)
{
    (void)state;
    result r = shell("$squint info models/demo --json --tensors");
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
    assert_non_null(strstr(r.out, "\ncpu "));
    assert_ptr_equal(strstr(r.out, "cuda "), r.out); /* a row, also when it cannot start */
    done(&r);
    r = shell("$squint info --backends --json");
    assert_int_equal(r.code, 0);
    o = cJSON_Parse(r.out);
    assert_int_equal(cJSON_GetArraySize(o), 2);
    assert_string_equal(get(cJSON_GetArrayItem(o, 1), "name")->valuestring, "cpu");
    assert_memory_equal(get(cJSON_GetArrayItem(o, 1), "state")->valuestring, "ok: ", 4);
    assert_int_equal(cJSON_GetArraySize(get(cJSON_GetArrayItem(o, 1), "devices")), 0);
    cJSON_Delete(o);
    done(&r);
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
    expect_output("$squint ask -m $T/pair --compute f32 --image samples/rocket.jpg -p "
                  "'Where is the rocket in the image?'",
                  "In the top left\n");
    expect_error("$squint convert -m models/demo -o $T/nosuch", 1, "nosuch");
    expect_error("$squint convert -m models/demo -o $T/pair --type q2", 2, "q2");
}

/* ---- bench ---- */

static void test_bench_usage(void **state)
{
    (void)state;
    static const struct {
        const char *options, *message;
    } bad[] = {
        {"--stages nosuch:4", "\"nosuch:4\": expected one of vision[:VIEWS], vision+rows"},
        {"--stages prefill", "expected prefill:ROWS, found \"prefill\""},
        {"--stages prefill:84,prefill:5000", "prefill: ROWS: expected 1..4095, found 5000"},
        {"--stages decode:99999999999999999999", "ROWS: expected 1..4095, found 9999999999999999"},
        {"--stages first-token:577", "first-token: KEPT: expected 1..576, found 577"},
        {"--stages decode:20x65", "decode:ROWS[xN] (N up to 64), found \"decode:20x65\""},
        {"--stages vision:0", "vision[:VIEWS]"},
        {"--stages copy:3", "expected copy, found \"copy:3\""},
        {"--keep 9", "--keep is not used"},
        {"--methods none", "--methods is not used"},
        {"--stages copy --seed 0", "--seed is not used"},
        {"-n 3", "-n (--max-tokens) is not used"},
        {"--prune-options a=b", "--prune-options is not used"},
        {"--no-exif", "--no-exif is not used"},
        {"-p x", "-p (--prompt) is not used when stages are timed"},
        {"--questions q --repeat 3", "--repeat is not used with --questions"},
        {"--image x -p x --limit 3", "--limit is not used with --image"},
        {"--image x", "--image needs -p"},
        {"--image x -p x --stages copy", "exclude each other"},
        {"--format xml", "table, csv or json"},
        {"--json --format csv", "exclude each other"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char line[256];
        snprintf(line, sizeof line, "$squint bench -m models/demo %s", bad[i].options);
        expect_error(line, 2, bad[i].message);
    }
}

static void test_bench_resumes(void **state)
{
    (void)state;
    const char *bench = "$squint bench -m models/demo --backend cpu --compute f32 --questions "
                        "models/demo/eval/questions.jsonl --limit 10 --methods none,random "
                        "--keep 72 --kinds text --answers";
    char line[1024];
    snprintf(line, sizeof line, "%s $T/whole.jsonl", bench);
    result whole = shell(line);
    assert_int_equal(whole.code, 0);
    /* a run that was killed in the middle of a line goes on to the same file and table */
    snprintf(line, sizeof line, "head -c 1500 $T/whole.jsonl > $T/cut.jsonl && %s $T/cut.jsonl",
             bench);
    result cut = shell(line);
    assert_int_equal(cut.code, 0);
    assert_string_equal(whole.out, cut.out);
    result same = shell("cmp $T/whole.jsonl $T/cut.jsonl && wc -l < $T/whole.jsonl");
    assert_int_equal(same.code, 0);
    assert_int_equal(atoi(same.out), 20);
    done(&whole);
    done(&cut);
    done(&same);
    /* answers computed in another way do not go on in the same file */
    static const char *const other[][2] = {
        {"model_id\": \"models/demo", "model_id\": \"other/model"},
        {"backend\": \"cpu", "backend\": \"cuda"},
        {"compute\": \"f32", "compute\": \"bf16"}};
    for (int i = 0; i < 3; i++) {
        const char *value = strrchr(other[i][1], '"');
        snprintf(line, sizeof line, "sed 's|%s|%s|' $T/whole.jsonl > $T/other.jsonl; %s "
                 "$T/other.jsonl", other[i][0], other[i][1], bench);
        expect_error(line, 2, value);
        expect_error(line, 2, "choose another file");
    }
    expect_error("$squint bench -m models/demo --questions samples/README.md", 1, "line 1");
    expect_error("echo '{\"question_id\": 1, \"image\": \"a.jpg\"}' > $T/q.jsonl; "
                 "$squint bench -m models/demo --questions $T/q.jsonl",
                 1, "text: expected a string");
}

/* The file says what an answer was computed with and which tokens it saw. */
static void test_answers_file(void **state)
{
    (void)state;
    result r = shell("$squint bench -m models/demo --backend cpu --compute f32 --limit 1 "
                     "--questions models/demo/eval/questions.jsonl --methods none,uniform --keep 9 "
                     "--answers $T/one.jsonl >&2 && cat $T/one.jsonl");
    assert_int_equal(r.code, 0);
    char *second = strchr(r.out, '\n') + 1;
    for (int i = 0; i < 2; i++) {
        cJSON *o = cJSON_Parse(i ? second : r.out);
        const cJSON *meta = get(o, "metadata");
        assert_string_equal(get(meta, "backend")->valuestring, "cpu");
        assert_string_equal(get(meta, "compute")->valuestring, "f32");
        assert_int_equal(get(meta, "tokens")->valueint, i ? 9 : 576);
        if (i) assert_int_equal(cJSON_GetArraySize(get(meta, "kept")), 9);
        cJSON_Delete(o);
    }
    done(&r);
}

static void test_bench_json(void **state)
{
    (void)state;
    static const char *const mode[] = {
        "--stages prefill:20,decode:20 --repeat 2",
        "--image samples/frogs.jpg -p 'What do you see?' --methods uniform --keep 36 --repeat 1"};
    for (int i = 0; i < 2; i++) {
        char line[512];
        snprintf(line, sizeof line, "$squint bench -m models/demo --json %s", mode[i]);
        result r = shell(line);
        assert_int_equal(r.code, 0);
        cJSON *o = cJSON_Parse(r.out);
        assert_non_null(o);
        const cJSON *stage;
        cJSON_ArrayForEach(stage, get(o, "stages"))
        {
            assert_true(get(stage, "median_ms")->valuedouble >= get(stage, "min_ms")->valuedouble);
            if (i == 0) assert_true(get(stage, "first_ms")->valuedouble > 0);
        }
        assert_string_equal(get(o, "version")->valuestring, "0.1.0");
        assert_int_equal(get(o, "date")->valuestring[10], 'T');
        cJSON_Delete(o);
        done(&r);
    }
}

/* What was printed before a stage failed is whole: here for want of memory. */
static void test_bench_fails(void **state)
{
    (void)state;
    result r = shell("ulimit -v 3000000; $squint bench -m models/demo --backend cpu --json "
                     "--repeat 1 --stages prefill:20,vision:30000");
    assert_int_equal(r.code, 1);
    assert_string_equal(r.err, "squint bench: bench: out of memory\n");
    cJSON *o = cJSON_Parse(r.out);
    assert_non_null(o);
    assert_int_equal(cJSON_GetArraySize(get(o, "stages")), 3);
    cJSON_Delete(o);
    done(&r);
}

static void test_bench_csv(void **state)
{
    (void)state;
    result r = shell("$squint bench -m models/demo --format csv --repeat 1 --stages "
                     "vision+rows:2,project:9,decode:20x3,first-token:29");
    assert_int_equal(r.code, 0);
    static const char head[] = "name,median_ms,min_ms,p90_ms,first_ms,gflops,product_share,gbs,"
                               "copy_share,launches,syncs,model,backend,version,date\n";
    assert_memory_equal(r.out, head, strlen(head));
    int lines = 0;
    for (const char *p = r.out; (p = strchr(p, '\n')); p++) {
        int commas = 0;
        bool quoted = false;
        for (const char *c = p + 1; *c && *c != '\n'; c++) {
            quoted ^= *c == '"';
            commas += *c == ',' && !quoted;
        }
        assert_true(commas == 14 || !p[1]);
        lines++;
    }
    assert_int_equal(lines, 7); /* a head, what the machine can do at best, and four stages */
    done(&r);
}

/* The script for machines with a GPU: what could not run has not passed. */
static void test_gpu_check(void **state)
{
    (void)state;
    result r = shell("sh bench/gpu_check.sh --build $(dirname $squint) --backend cpu --out $T/gpu "
                     "device kept");
    assert_int_equal(r.code, 1);
    assert_non_null(strstr(r.out, "device             passed "));
    assert_non_null(strstr(r.out, "kept               SKIPPED "));
    assert_non_null(strstr(r.out, "1 passed, 1 not"));
    done(&r);
    r = shell("sh bench/gpu_check.sh --dry-run");
    assert_int_equal(r.code, 0);
    assert_non_null(strstr(r.err, "--tool racecheck --error-exitcode 9 "));
    done(&r);
    expect_error("sh bench/gpu_check.sh nosuch", 2, "unknown step nosuch");
}

/* Shapes without a checkpoint: there to be timed, and refused where words are needed. */
static void test_synthetic(void **state)
{
    (void)state;
    result r = shell("$squint info synthetic:clip-l-336 --json --tensors");
    assert_int_equal(r.code, 0);
    cJSON *o = cJSON_Parse(r.out);
    assert_non_null(o);
    assert_int_equal(get(o, "n_patch")->valueint, 576);
    assert_int_equal(get(o, "n_tensor")->valueint, 5 + 24 * 16);
    assert_int_equal((int)(get(o, "n_param")->valuedouble / 1e5), 3035);
    assert_int_equal(cJSON_GetArraySize(get(o, "tensors")), get(o, "n_tensor")->valueint);
    cJSON_Delete(o);
    done(&r);
    expect_error("$squint info synthetic:nosuch", 2, "llava-1.5-7b");
    expect_error("echo a | $squint tokenize -m synthetic:clip-l-336", 1, "no tokenizer");
    expect_error("$squint convert -m synthetic:clip-l-336 -o $T --name a --type f16", 1,
                 "no tokenizer");
    expect_error("$squint ask -m synthetic:clip-l-336 -p a", 1, "no language model");
}

static int set_up(void **state)
{
    (void)state;
    snprintf(tmp, sizeof tmp, "/tmp/squint-test-XXXXXX");
    return !mkdtemp(tmp) || setenv("T", tmp, 1) || setenv("squint", SQ_PROGRAM, 1);
}

static int tear_down(void **state)
{
    (void)state;
    char line[96];
    snprintf(line, sizeof line, "rm -rf '%s'", tmp);
    return system(line);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_usage),         cmocka_unit_test(test_ask),
        cmocka_unit_test(test_json),          cmocka_unit_test(test_chat),
        cmocka_unit_test(test_show),          cmocka_unit_test(test_pixels),
        cmocka_unit_test(test_tokenize),      cmocka_unit_test(test_info),
        cmocka_unit_test(test_convert),       cmocka_unit_test(test_bench_resumes),
        cmocka_unit_test(test_bench_csv),     cmocka_unit_test(test_synthetic),
        cmocka_unit_test(test_bench_json),    cmocka_unit_test(test_help_examples),
        cmocka_unit_test(test_bench_usage),   cmocka_unit_test(test_bench_fails),
        cmocka_unit_test(test_answers_file),  cmocka_unit_test(test_interrupt),
        cmocka_unit_test(test_gpu_check),
        cmocka_unit_test(test_no_leftovers),  cmocka_unit_test(test_diff),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
