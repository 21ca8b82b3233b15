/* squint bench from outside: times, accuracy, the answers file, and the script for GPUs. */
#define _POSIX_C_SOURCE 200809L
#include "cli_shell.h"

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
        {"--stages prefill:20,vision:65", "stage vision: VIEWS: expected 1..64, found 65"},
        {"--stages vision+rows:100000", "stage vision+rows: VIEWS: expected 1..64"},
        {"--stages copy:3", "expected copy, found \"copy:3\""},
        {"--keep 9", "--keep is not used when stages are timed"},
        {"--image x -p x --keep 9", "--keep is not used: method \"none\" keeps every token"},
        {"--questions models/demo/eval/questions.jsonl --methods none --keep 9",
         "--keep is not used: method \"none\" keeps every token"},
        {"--image x -p x --methods none,random", "method \"random\" needs --keep"},
        {"--image x -p x --methods none,foo --keep 9", "unknown pruning method \"foo\""},
        {"--questions models/demo/eval/questions.jsonl --methods foo", "method \"foo\""},
        {"--questions models/demo/eval/questions.jsonl --limit 3 --kinds count,foo",
         "none of the 3 questions has the category \"foo\""},
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
        snprintf(line, sizeof line, "$squint bench -m models/demo --backend cpu %s",
                 bad[i].options);
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
    expect_error("$squint bench -m models/demo --backend cpu --questions samples/README.md", 1,
                 "line 1");
    expect_error("echo '{\"question_id\": 1, \"image\": \"a.jpg\"}' > $T/q.jsonl; "
                 "$squint bench -m models/demo --backend cpu --questions $T/q.jsonl",
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

/* One question to a tiny model, its answers in $T/a.jsonl. */
#define ONE_QUESTION                                                                               \
    "$squint bench -m tests/golden/tiny/mha --backend cpu --compute f32 --limit 1 --questions "    \
    "models/demo/eval/questions.jsonl --methods random --keep 2 -n 2 --answers $T/a.jsonl "

/* The file before and after a run that refuses it: the same to the byte. */
static void expect_refused(const char *write, const char *options, const char *part)
{
    char line[1024];
    snprintf(line, sizeof line,
             "%s > $T/a.jsonl && cp $T/a.jsonl $T/before && " ONE_QUESTION
             "%s; code=$?; cmp $T/a.jsonl $T/before >&2 || code=99; exit $code",
             write, options);
    expect_error(line, 2, part);
}

/* Notes of somebody's, answers of another program: never cut, never added to. */
static void test_foreign_file(void **state)
{
    (void)state;
    static const char *const file[] = {
        "my notes", "my notes\\n", "\\n", "[1, 2]", "{\"question_id\": 7, \"text\": \"a",
        "{\"question_id\": 7, \"text\": \"a\"}\\n", "{\"question_id\": \"7\"}",
        "{\"question_id\": \"7\", \"metadata\": 1}\\n", "{\"question_id\": \"7\"\\n",
        "{\"quiz\": 1", "{\\000\"question_id", "\\000\\n"};
    for (size_t i = 0; i < sizeof file / sizeof *file; i++) {
        char write[128];
        snprintf(write, sizeof write, "printf '%s'", file[i]);
        expect_refused(write, "", "$T/a.jsonl: line 1 is no answer" + strlen("$T"));
    }
    result r = shell("rm -f $T/a.jsonl; " ONE_QUESTION "&& cp $T/a.jsonl $T/whole.jsonl");
    assert_int_equal(r.code, 0);
    done(&r);
    expect_refused("{ cat $T/whole.jsonl; printf 'my notes'; }", "", "line 2 is no answer");
    expect_refused("sed 's/$/ junk/' $T/whole.jsonl", "", "line 1 is no answer");
    /* a line of ours is asked again, however little of it was written */
    static const char *const size[] = {"0", "1", "9", "17", "200"};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++) {
        char line[640];
        snprintf(line, sizeof line, "head -c %s $T/whole.jsonl > $T/a.jsonl && " ONE_QUESTION
                 ">$T/o && cmp $T/a.jsonl $T/whole.jsonl", size[i]);
        expect_output(line, "");
    }
}

/* A run goes on in a file only with the settings that it was begun with. */
static void test_other_settings(void **state)
{
    (void)state;
    static const char *const other[][2] = {
        {"-n 3", "max_tokens 2, this is 3"}, {"--seed 1", "seed 0, this is 1"},
        {"--prune-options a=1", "prune_options \"\", this is \"a=1\""},
        {"--fit pad", "fit \"crop\", this is \"pad\""}, {"--template plain", "this is \"plain\""},
        {"--no-exif", "no_exif false, this is true"}, {"--cpu none", "this is \"none\""},
        {"--images $PWD/models/demo/eval", "images \"\", this is "}};
    result r = shell("rm -f $T/a.jsonl; " ONE_QUESTION "&& cp $T/a.jsonl $T/first.jsonl");
    assert_int_equal(r.code, 0);
    done(&r);
    for (size_t i = 0; i < sizeof other / sizeof *other; i++)
        expect_refused("cat $T/first.jsonl", other[i][0], other[i][1]);
    expect_refused("sed 's/\"prompt\": \"/&Please: /' $T/first.jsonl", "",
                   "answers of prompt Please");
    expect_refused("sed 's/ \"seed\": 0,//' $T/first.jsonl", "", "without their seed");
    expect_output("cp $T/first.jsonl $T/a.jsonl && " ONE_QUESTION ">$T/o --threads 1 && "
                  "cmp $T/a.jsonl $T/first.jsonl", "");
}

/* A file of questions in $T/q.jsonl, for printf. */
#define PICTURE "\"image\": \"single000.jpg\""
#define QUESTION "{\"question_id\": 7, \"text\": \"a\", " PICTURE
#define SECOND "{\"question_id\": \"7\", \"text\": \"b\", " PICTURE
#define GIVEN_QUESTIONS                                                                            \
    "$squint bench -m tests/golden/tiny/mha --backend cpu --compute f32 -n 2 --questions "         \
    "$T/q.jsonl --images models/demo/eval "

/* What is no question file of ours, or not quite: named, and nothing of it left out. */
static void test_question_file(void **state)
{
    (void)state;
    static const struct {
        const char *file, *message;
    } bad[] = {
        {QUESTION "}{}", "q.jsonl: line 1: expected one JSON object"},
        {QUESTION "}\\n\\n" QUESTION "} junk", "q.jsonl: line 3: expected one"},
        {QUESTION "}\\000{}\\n", "q.jsonl: line 1: expected one"},
        {QUESTION ", \"answer\": [\"x\"]}", "line 1: answer: expected a string"},
        {QUESTION ", \"label\": 7}", "line 1: label: expected a string"},
        {QUESTION ", \"category\": 7}", "line 1: category: expected a string"},
        {QUESTION "}\\n\\n" QUESTION ", \"answer\": \"x\"}\\n",
         "lines 1 and 3: the same question_id"},
        {"{\"question_id\": 7, \"text\": \"<image> <image>\", " PICTURE "}",
         "q.jsonl: line 1, question_id 7: the question has 2 <image> marks"},
        {"{\"question_id\": 7, \"text\": \"a\", \"image\": \"x.png\"}",
         "q.jsonl: line 1, question_id 7: models/demo/eval/x.png: cannot open"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char line[512];
        snprintf(line, sizeof line, "printf '%s' > $T/q.jsonl; " GIVEN_QUESTIONS, bad[i].file);
        expect_error(line, 1, bad[i].message);
    }
    static const char *const path[] = {"--questions /dev/zero", "--questions $T",
                                       "--questions $T/q.jsonl --answers /dev/full"};
    for (size_t i = 0; i < sizeof path / sizeof *path; i++) {
        char line[256];
        snprintf(line, sizeof line, "$squint bench -m tests/golden/tiny/mha --backend cpu %s",
                 path[i]);
        expect_error(line, 1, "not a regular file");
    }
}

/* An id may be a picture's, as in TextVQA and MME, and null is as nothing: asked once each. */
static void test_shared_id(void **state)
{
    (void)state;
    result r = shell("printf '" QUESTION ", \"answer\": null}\\n" SECOND "}\\n' > $T/q.jsonl; "
                     "rm -f $T/a.jsonl; "
                     GIVEN_QUESTIONS "--answers $T/a.jsonl && cp $T/a.jsonl $T/first.jsonl && "
                     GIVEN_QUESTIONS "--answers $T/a.jsonl && cmp $T/a.jsonl $T/first.jsonl && "
                     "wc -l < $T/a.jsonl");
    assert_int_equal(r.code, 0);
    assert_non_null(strstr(r.out, "\n2\n"));
    done(&r);
    expect_error("sed 's/\"prompt\": \"b/&c/' $T/first.jsonl > $T/a.jsonl; " GIVEN_QUESTIONS
                 "--answers $T/a.jsonl", 2, "holds answers of prompt bc, this is b;");
}

/* A disk that is full while answers are written. */
static void test_full_disk(void **state)
{
    (void)state;
    result r = shell("trap '' XFSZ; rm -f $T/a.jsonl; (ulimit -f 2; " ONE_QUESTION
                     "--limit 20 -n 1) 2>&1 | tail -n 1 >&2");
    if (!strstr(r.err, "a.jsonl: cannot write: File too large\n")) fail_msg("%s", r.err);
    done(&r);
}

/* A category without answers has no share, which is not 0 %. */
static void test_empty_kind(void **state)
{
    (void)state;
#define TWO_KINDS                                                                                  \
    "printf '" QUESTION ", \"answer\": \"x\", \"category\": \"count\"}\\n" SECOND                  \
    ", \"category\": \"nosuch\"}\\n' > $T/q.jsonl; " GIVEN_QUESTIONS "--kinds count,nosuch "
    result r = shell(TWO_KINDS);
    assert_int_equal(r.code, 0);
    assert_non_null(strstr(r.out, "     count    nosuch\n"));
    assert_non_null(strstr(r.out, "       0.0         -\n"));
    done(&r);
    r = shell(TWO_KINDS "--json");
    assert_int_equal(r.code, 0);
    cJSON *o = cJSON_Parse(r.out);
    assert_non_null(o);
    const cJSON *match = get(cJSON_GetArrayItem(get(o, "rows"), 0), "exact_match");
    assert_true(cJSON_IsNumber(get(match, "count")));
    assert_true(cJSON_IsNull(get(match, "nosuch")));
    cJSON_Delete(o);
    done(&r);
}

/* Every row of a table ends below the end of its head. */
static void test_bench_table(void **state)
{
    (void)state;
    result r = shell("$squint bench -m tests/golden/tiny/mha --backend cpu --repeat 1 -n 2 -p x "
                     "--image tests/golden/tiny/picture.png --methods none,globalcom2 "
                     "--keep 12.5% | tail -n +2 | awk '{ print length($0) }' | uniq -c");
    assert_int_equal(r.code, 0);
    assert_int_equal(count_lines(r.out), 1);
    assert_int_equal(atoi(r.out), 1 + 2 * 8);
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
        snprintf(line, sizeof line, "$squint bench -m models/demo --backend cpu --json %s",
                 mode[i]);
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
#ifdef SQ_SANITIZE
    skip(); /* AddressSanitizer reserves more than that before main */
#endif
    result r = shell("ulimit -v 3000000; $squint bench -m models/demo --backend cpu --json "
                     "--repeat 1 --stages prefill:20,project:1048576");
    assert_int_equal(r.code, 1);
    assert_string_equal(r.err, "squint bench: stage project:1048576: out of memory\n");
    cJSON *o = cJSON_Parse(r.out);
    assert_non_null(o);
    assert_int_equal(cJSON_GetArraySize(get(o, "stages")), 3);
    cJSON_Delete(o);
    done(&r);
}

static void test_bench_csv(void **state)
{
    (void)state;
    result r = shell("$squint bench -m models/demo --backend cpu --format csv --repeat 1 --stages "
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
    /* without the data, the folder for logs or anything built: commands, and nothing but them */
    r = shell("sh bench/gpu_check.sh --dry-run --build nosuch --shared nosuch --out $T/nosuch");
    assert_int_equal(r.code, 0);
    assert_string_equal(r.out, "");
    static const char *const command[] = {
        "--tool racecheck --error-exitcode 9 ", "bench/reference.py", "bench/kept.py",
        "bench -m synthetic:llava-1.5-7b ", "bench/gpu_peers.py"};
    for (size_t i = 0; i < sizeof command / sizeof *command; i++)
        if (!strstr(r.err, command[i])) fail_msg("no %s: %s", command[i], r.err);
    for (const char *p = r.err; *p; p = strchr(p, '\n') + 1)
        if (strncmp(p, "+ ", 2)) fail_msg("%s", p);
    done(&r);
    expect_error("sh bench/gpu_check.sh nosuch", 2, "unknown step nosuch");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bench_usage),    cmocka_unit_test(test_bench_resumes),
        cmocka_unit_test(test_answers_file),   cmocka_unit_test(test_foreign_file),
        cmocka_unit_test(test_question_file),  cmocka_unit_test(test_shared_id),
        cmocka_unit_test(test_full_disk),      cmocka_unit_test(test_other_settings),
        cmocka_unit_test(test_empty_kind),     cmocka_unit_test(test_bench_table),
        cmocka_unit_test(test_bench_json),     cmocka_unit_test(test_bench_fails),
        cmocka_unit_test(test_bench_csv),      cmocka_unit_test(test_gpu_check),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
