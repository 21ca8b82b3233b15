/* Damaged tokenizer files: each mutation ends in one line that names the file, or opens and works.
 * Nothing may crash (run it with -DSQ_SANITIZE=ON too). */
#define _GNU_SOURCE
#include "tokenizer_assets.h"

#include "core/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

enum { FLIPS = 300, CUTS = 60, LEAST = 60 };

typedef struct victim {
    char path[128];
    char *good;
    size_t size;
    int n_failed, n_opened;
    sq_error last; /* of the latest attempt */
} victim;

static void victim_open(victim *v, const char *golden, const char *name)
{
    *v = (victim){.size = 0};
    snprintf(v->path, sizeof v->path, "/tmp/squint-damaged-%ld-%s", (long)getpid(), name);
    assert_non_null(v->good = read_whole(golden_path(golden), &v->size));
}

static void victim_close(victim *v)
{
    print_message("%s: %d mutations, %d refused, %d opened\n", strrchr(v->path, '-') + 1,
                  v->n_failed + v->n_opened, v->n_failed, v->n_opened);
    assert_true(v->n_failed + v->n_opened >= LEAST);
    assert_true(v->n_failed > 0);
    unlink(v->path);
    free(v->good);
}

/* Texts and ids of every sort through a tokenizer that may be nonsense. */
static void use(const tokenizer *t)
{
    static const char text[] = "Hello  word <mark>caf\xc3\xa9 1234\n\xf0\x9f\xa6\x99 </s><|eot_id|>"
                               "<image> \xff\xfe\x00 don't\t\tthe quick brown fox";
    char *out;
    size_t size;
    for (unsigned flags = 0; flags < 4; flags++) {
        int32_t *ids, odd[] = {-1, 0, INT32_MAX, 1, 2, 1 << 22};
        int n;
        sq_error err = {0};
        if (tokenizer_encode(t, text, sizeof text - 1, flags, &ids, &n, &err)) {
            assert_int_not_equal(err.code, 0);
            continue;
        }
        for (int i = 0; i < n; i++)
            assert_in_range(ids[i], 0, tokenizer_get_vocab(t)->n_token - 1);
        assert_int_equal(tokenizer_decode(t, ids, n, &out, &size, NULL), SQ_OK);
        free(out);
        free(ids);
        assert_int_equal(tokenizer_decode(t, odd, 6, &out, &size, NULL), SQ_OK);
        free(out);
    }
    for (int id = 0; id < tokenizer_get_vocab(t)->n_token; id++) {
        assert_int_equal(tokenizer_decode(t, &id, 1, &out, &size, NULL), SQ_OK);
        free(out);
    }
}

static void attempt(victim *v, const char *data, size_t size)
{
    tokenizer *t = NULL;
    sq_error err = {0};
    FILE *f = fopen(v->path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
    bool json = strstr(v->path, ".json") != NULL;
    int rc = json ? tokenizer_open_json(&t, v->path, &err) : tokenizer_open_spm(&t, v->path, &err);
    if (rc == SQ_OK) {
        assert_non_null(t);
        use(t);
        v->n_opened++;
    } else {
        assert_null(t);
        assert_int_equal(rc, err.code);
        if (!strstr(err.text, v->path)) fail_msg("\"%s\" does not name the file", err.text);
        assert_null(strchr(err.text, '\n'));
        v->n_failed++;
    }
    tokenizer_close(&t);
    v->last = err;
}

/* Bytes changed, stretches cut out, the end cut off. */
static void damage(victim *v, uint64_t seed)
{
    char *bad = malloc(v->size);
    assert_non_null(bad);
    for (int i = 0; i < FLIPS; i++) {
        memcpy(bad, v->good, v->size);
        size_t span = i % 2 ? v->size : v->size / 8; /* settings stand in front of the vocabulary */
        for (int k = 1 + (int)rng_below(&seed, 4); k > 0; k--)
            bad[rng_below(&seed, span)] = (char)rng_below(&seed, 256);
        attempt(v, bad, v->size);
    }
    for (int i = 0; i < CUTS; i++) {
        size_t at = rng_below(&seed, v->size), n = 1 + rng_below(&seed, 40);
        if (n > v->size - at) n = v->size - at;
        memcpy(bad, v->good, at);
        memcpy(bad + at, v->good + at + n, v->size - at - n);
        attempt(v, bad, v->size - n);
        attempt(v, v->good, v->size * (size_t)i / CUTS);
    }
    attempt(v, v->good, v->size);
    free(bad);
}

/* The first place of from becomes to; part: what the message speaks of, NULL: it may open. */
typedef struct edit {
    const char *from, *to, *part;
} edit;

static void apply(victim *v, const edit *e)
{
    const char *at = strstr(v->good, e->from);
    if (!at) fail_msg("%s is not there", e->from);
    size_t before = (size_t)(at - v->good), n = strlen(e->to), rest = before + strlen(e->from);
    char *bad = malloc(v->size + n);
    assert_non_null(bad);
    memcpy(bad, v->good, before);
    memcpy(bad + before, e->to, n);
    memcpy(bad + before + n, v->good + rest, v->size - rest);
    attempt(v, bad, v->size - strlen(e->from) + n);
    if (e->part && !strstr(v->last.text, e->part))
        fail_msg("%s: \"%s\" does not speak of %s", e->to, v->last.text, e->part);
    free(bad);
}

static void damaged_byte_level(void **state)
{
    (void)state;
    static const edit edits[] = {
        {"\"id\":0", "\"id\":-1", "id"},
        {"\"id\":0", "\"id\":1e18", "id"},
        {"\"id\":0", "\"id\":4194303", NULL},
        {"\"id\":0", "\"id\":\"0\"", "id"},
        {"\"id\":0", "\"no\":0", "id"},
        {"\"content\":\"<image>\"", "\"content\":\"\"", NULL},
        {"\"content\":\"<image>\"", "\"content\":\"\x80\"", "UTF-8"},
        {"\"content\":\"<image>\"", "\"content\":7", NULL},
        {"\"vocab\":{", "\"vocab\":[], \"x\":{", "vocabulary"},
        {"\"merges\":[[", "\"merges\":[7,[", "merges"},
        {"\"merges\":[[", "\"merges\":[[],[", "merges"},
        {"\"merges\":[[", "\"merges\":[[\"a\",\"b\",\"c\"],[", "merges"},
        {"\"merges\":[[", "\"merges\":[[\"zzzz\",\"qqqq\"],[", "merge 0"},
        {"\"merges\":[[", "\"merges\":[\"\",[", "merge 0"},
        {"\"merges\":[[", "\"merges\":[\" \",[", "merge 0"},
        {"\"type\":\"Split\"", "\"type\":\"Cut\"", "pre_tokenizer"},
        {"\\\\p{L}+", "(?:\\\\p{L}+)+", NULL},
        {"\\\\p{L}+", "\\\\p{L}*(a|aa)*", NULL},
        {"\\\\p{L}+", "\\\\p{L", "pattern"},
        {"\\\\p{L}+", "[a[b]]", "pattern"},
        {"\\\\p{L}+", "(", "pattern"},
        {"\\\\p{L}+", "\\\\K", "pattern"},
        {"\"behavior\":\"Isolated\"", "\"behavior\":\"Removed\"", "pre_tokenizer"},
        {"\"ignore_merges\":true", "\"ignore_merges\":\"x\"", "ignore_merges"},
        {"\"SpecialToken\":{\"id\":\"<|begin_of_text|>\"", "\"SpecialToken\":{\"id\":\"<none>\"",
         NULL},
        {"\"SpecialToken\":{\"id\":\"<|begin_of_text|>\"", "\"SpecialToken\":{\"id\":3", NULL},
    };
    victim v;
    victim_open(&v, "small_llama3.json", "bpe.json");
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++)
        apply(&v, &edits[i]);
    damage(&v, 1);
    victim_close(&v);
}

static void damaged_sentencepiece_json(void **state)
{
    (void)state;
    victim v;
    victim_open(&v, "small_prepend.json", "spm.json");
    damage(&v, 2);
    victim_close(&v);
    victim_open(&v, "small_metaspace.json", "meta.json");
    damage(&v, 3);
    victim_close(&v);
}

static void damaged_model(void **state)
{
    (void)state;
    victim v;
    victim_open(&v, "small_trim.model", "trim.model");
    damage(&v, 4);
    victim_close(&v);
    victim_open(&v, "small_unk.model", "unk.model");
    damage(&v, 5);
    victim_close(&v);
}

/* Messages by hand: lengths that run past the end, numbers of eleven bytes, settings refused. */
static void hostile_models(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t size;
    } model[] = {
        {"", 0},
        {"\x0a", 1},
        {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11},
        {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 14},
        {"\x0a\x7f\x0a\x01" "a", 5},
        {"\x0a\x03\x0a\x01" "a", 5},
        {"\x0a\x03\x0a\x01" "a\x12\x02\x18\x02", 9},             /* no unknown token */
        {"\x0a\x05\x0a\x01" "a\x18\x02\x12\x02\x18\x01", 11},    /* unigram */
        {"\x0a\x05\x0a\x01" "a\x18\x07\x12\x02\x18\x02", 11},    /* type 7 */
        {"\x0a\x05\x0a\x01" "a\x18\x05\x12\x02\x18\x02", 11},    /* unused */
        {"\x0a\x02\x18\x02\x12\x02\x18\x02", 8},                  /* no text */
        {"\x0a\x05\x0a\x01" "a\x18\x02\x12\x05\x18\x02\xc0\x01\x01", 14}, /* suffix spaces */
        {"\x0a\x05\x0a\x01" "a\x18\x02\x12\x02\x18\x02\x1a\x03\x12\x01x", 16}, /* charsmap */
        {"\x0a\x05\x0a\x01" "a\x18\x02\x12\x02\x18\x02\x1a\x02\x28\x00", 15},  /* no U+2581 */
        {"\x0b\x0c", 2},
        {"\x00\x00", 2},
    };
    char good[] = "\x0a\x05\x0a\x01" "a\x18\x02\x12\x02\x18\x02";
    victim v = {.n_failed = 0};
    snprintf(v.path, sizeof v.path, "/tmp/squint-damaged-%ld-hand.model", (long)getpid());
    for (size_t i = 0; i < sizeof model / sizeof *model; i++) {
        attempt(&v, model[i].bytes, model[i].size);
        if (v.n_opened) fail_msg("model %zu opened", i);
    }
    attempt(&v, good, sizeof good - 1);
    assert_int_equal(v.n_opened, 1);
    unlink(v.path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damaged_byte_level),
        cmocka_unit_test(damaged_sentencepiece_json),
        cmocka_unit_test(damaged_model),
        cmocka_unit_test(hostile_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
