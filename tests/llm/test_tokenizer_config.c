/* The files beside a tokenizer: what each decides, which one wins, what is an error. */
#define _GNU_SOURCE
#include "tokenizer_assets.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64];

static const char *file_in_dir(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void put_file(const char *name, const char *text, size_t size)
{
    FILE *f = fopen(file_in_dir(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

static void put_text(const char *name, const char *text)
{
    put_file(name, text, strlen(text));
}

static void put_golden(const char *name, const char *golden)
{
    size_t size = 0;
    char *text = read_whole(golden_path(golden), &size);
    assert_non_null(text);
    put_file(name, text, size);
    free(text);
}

static int make_dir(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/squint-tokenizer-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int drop_dir(void **state)
{
    static const char *const name[] = {"tokenizer.json", "tokenizer.model", "added_tokens.json",
                                       "tokenizer_config.json", "special_tokens_map.json",
                                       "generation_config.json", "config.json"};
    (void)state;
    for (size_t i = 0; i < sizeof name / sizeof *name; i++)
        unlink(file_in_dir(name[i]));
    return rmdir(dir);
}

static tokenizer *open_dir(void)
{
    tokenizer *t = NULL;
    sq_error err = {0};
    if (tokenizer_open_dir(&t, dir, &err)) fail_msg("%s", err.text);
    return t;
}

static void expect_error(int code, const char *part)
{
    tokenizer *t = NULL;
    sq_error err = {0};
    assert_int_equal(tokenizer_open_dir(&t, dir, &err), code);
    assert_null(t);
    if (!strstr(err.text, part)) fail_msg("\"%s\" does not mention \"%s\"", err.text, part);
}

static void expect_ids(const tokenizer *t, const char *text, unsigned flags,
                       const char *const *want)
{
    int32_t *ids;
    int n, i = 0;
    assert_int_equal(tokenizer_encode(t, text, strlen(text), flags, &ids, &n, NULL), SQ_OK);
    for (; want[i] && i < n; i++)
        assert_string_equal(tokenizer_get_vocab(t)->text[ids[i]], want[i]);
    assert_null(want[i]);
    assert_int_equal(n, i);
    free(ids);
}

static void neither_file(void **state)
{
    (void)state;
    expect_error(SQ_E_IO, "tokenizer.json");
}

static void template_decides_bos(void **state)
{
    (void)state;
    static const char *const with[] = {"<|begin_of_text|>", "Hello", NULL};
    put_golden("tokenizer.json", "small_llama3.json");
    tokenizer *t = open_dir();
    const tokenizer_vocab *v = tokenizer_get_vocab(t);
    assert_true(v->add_bos);
    assert_false(v->add_eos);
    assert_string_equal(v->text[v->bos], "<|begin_of_text|>");
    assert_string_equal(v->pre, "llama-bpe");
    assert_int_equal(v->kind, TOKENIZER_BYTE_BPE);
    expect_ids(t, "Hello", TOKENIZE_BOS, with);
    expect_ids(t, "Hello", 0, with + 1);
    tokenizer_close(&t);
}

static void config_overrides(void **state)
{
    (void)state;
    put_golden("tokenizer.json", "small_llama3.json");
    put_text("special_tokens_map.json",
             "{\"bos_token\": \"<|im_start|>\", \"eos_token\": {\"content\": \"<|im_end|>\"}}");
    tokenizer *t = open_dir();
    const tokenizer_vocab *v = tokenizer_get_vocab(t);
    assert_string_equal(v->text[v->bos], "<|im_start|>");
    assert_string_equal(v->text[v->eos], "<|im_end|>");
    assert_true(tokenizer_ends(t, v->eos));
    assert_false(tokenizer_ends(t, v->bos));
    assert_false(tokenizer_ends(t, -1));
    tokenizer_close(&t);
    put_text("tokenizer_config.json",
             "{\"add_bos_token\": false, \"add_eos_token\": true, \"pad_token\": \"<image>\","
             " \"eos_token\": {\"content\": \"<|eot_id|>\", \"lstrip\": false}}");
    t = open_dir();
    v = tokenizer_get_vocab(t);
    assert_string_equal(v->text[v->bos], "<|im_start|>");
    assert_string_equal(v->text[v->eos], "<|eot_id|>");
    assert_string_equal(v->text[v->pad], "<image>");
    assert_false(v->add_bos);
    assert_true(v->add_eos);
    tokenizer_close(&t);
    put_text("tokenizer_config.json", "{\"bos_token\": null, \"add_bos_token\": true}");
    t = open_dir();
    assert_int_equal(tokenizer_get_vocab(t)->bos, -1);
    assert_false(tokenizer_get_vocab(t)->add_bos);
    tokenizer_close(&t);
    put_text("tokenizer_config.json", "{\"eos_token\": \"<nowhere>\"}");
    expect_error(SQ_E_FORMAT, "tokenizer_config.json: eos_token");
    put_text("tokenizer_config.json", "{\"add_bos_token\": 1}");
    expect_error(SQ_E_FORMAT, "tokenizer_config.json: add_bos_token");
    put_text("tokenizer_config.json", "{\"add_bos");
    expect_error(SQ_E_FORMAT, "tokenizer_config.json");
}

static void ends_of_an_answer(void **state)
{
    (void)state;
    put_golden("tokenizer.json", "small_llama3.json");
    put_text("config.json", "{\"text_config\": {\"eos_token_id\": 4}}");
    tokenizer *t = open_dir();
    assert_true(tokenizer_ends(t, 4));
    assert_false(tokenizer_ends(t, 1));
    tokenizer_close(&t);
    put_text("generation_config.json", "{\"eos_token_id\": [1, 5]}");
    t = open_dir();
    assert_true(tokenizer_ends(t, 1));
    assert_true(tokenizer_ends(t, 5));
    assert_false(tokenizer_ends(t, 4));
    tokenizer_close(&t);
    put_text("generation_config.json", "{\"eos_token_id\": [1, \"x\"]}");
    expect_error(SQ_E_FORMAT, "generation_config.json: eos_token_id");
    put_text("generation_config.json", "{\"eos_token_id\": [1,2,3,4,5,6,7,8,9]}");
    expect_error(SQ_E_LIMIT, "generation_config.json: eos_token_id");
}

/* tokenizer.model lacks these tokens: they come from the files beside it. */
static void tokens_beside_a_model(void **state)
{
    (void)state;
    put_golden("tokenizer.model", "small_trim.model");
    tokenizer *t = open_dir();
    int n = tokenizer_get_vocab(t)->n_token;
    assert_int_equal(tokenizer_get_vocab(t)->type[0], TOKEN_UNKNOWN);
    assert_int_equal(tokenizer_get_vocab(t)->type[1], TOKEN_CONTROL);
    assert_true(tokenizer_get_vocab(t)->add_bos);
    assert_int_equal(tokenizer_find(t, "<pad>"), -1);
    tokenizer_close(&t);
    char text[512];
    snprintf(text, sizeof text, "{\"<pad>\": %d, \"<extra>\": %d}", n, n + 2);
    put_text("added_tokens.json", text);
    put_text("special_tokens_map.json", "{\"pad_token\": \"<pad>\","
                                        " \"additional_special_tokens\": [\"<pad>\"]}");
    snprintf(text, sizeof text,
             "{\"added_tokens_decoder\": {\"%d\": {\"content\": \"<turn>\", \"special\": false,"
             " \"lstrip\": true, \"rstrip\": true, \"normalized\": false}}}",
             n + 1);
    put_text("tokenizer_config.json", text);
    t = open_dir();
    const tokenizer_vocab *v = tokenizer_get_vocab(t);
    assert_int_equal(v->n_token, n + 3);
    assert_int_equal(v->pad, n);
    assert_int_equal(v->type[n], TOKEN_CONTROL);
    assert_int_equal(v->type[n + 1], TOKEN_USER_DEFINED);
    assert_int_equal(v->type[n + 2], TOKEN_USER_DEFINED);
    static const char *const added[] = {"\xe2\x96\x81the", "<turn>", "\xe2\x96\x81the", "<extra>",
                                        "<pad>", NULL};
    expect_ids(t, "the <turn>  the<extra><pad>", TOKENIZE_SPECIAL, added);
    int32_t *ids;
    int count;
    assert_int_equal(tokenizer_encode(t, "the <pad>", 9, 0, &ids, &count, NULL), SQ_OK);
    for (int i = 0; i < count; i++)
        assert_int_not_equal(ids[i], n);
    assert_true(count >= 3);
    assert_string_equal(v->text[ids[0]], added[0]);
    free(ids);
    tokenizer_close(&t);
    put_text("added_tokens.json", "{\"<pad>\": \"x\"}");
    expect_error(SQ_E_FORMAT, "added_tokens.json");
    put_text("added_tokens.json", "{\"<pad>\": 1e300}");
    expect_error(SQ_E_FORMAT, "added_tokens.json");
}

static void spaces_in_front_of_a_model(void **state)
{
    (void)state;
    static const char *const both[] = {"\xe2\x96\x81the", "</s>", "\xe2\x96\x81the", NULL};
    static const char *const first[] = {"\xe2\x96\x81the", "</s>", "the", NULL};
    static const char *const none[] = {"the", "</s>", "the", NULL};
    put_golden("tokenizer.model", "small_trim.model");
    tokenizer *t = open_dir();
    bool whole = tokenizer_find(t, "the") >= 0;
    expect_ids(t, "the</s>the", TOKENIZE_SPECIAL, both);
    tokenizer_close(&t);
    assert_true(whole);
    put_text("tokenizer_config.json", "{\"legacy\": false}");
    t = open_dir();
    expect_ids(t, "the</s>the", TOKENIZE_SPECIAL, first);
    assert_true(tokenizer_get_vocab(t)->space_first_only);
    tokenizer_close(&t);
    put_text("tokenizer_config.json", "{\"add_prefix_space\": false}");
    t = open_dir();
    expect_ids(t, "the</s>the", TOKENIZE_SPECIAL, none);
    assert_false(tokenizer_get_vocab(t)->add_space_prefix);
    tokenizer_close(&t);
}

static void unknown_tokens(void **state)
{
    (void)state;
    static const char *const marked[] = {"\xe2\x96\x81", "<unk>", NULL};
    put_golden("tokenizer.json", "small_prepend.json");
    tokenizer *t = open_dir();
    const tokenizer_vocab *v = tokenizer_get_vocab(t);
    char *text;
    size_t size = 0;
    assert_int_equal(v->type[v->unk], TOKEN_UNKNOWN);
    expect_ids(t, "\xe9\x95\x87", 0, marked);
    assert_int_equal(tokenizer_decode(t, &v->unk, 1, &text, &size, NULL), SQ_OK);
    assert_int_equal(size, 0);
    free(text);
    tokenizer_close(&t);
}

/* Parts of tokenizer.json that squint cannot follow are refused, not left out. */
static void unsupported_parts(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to, *part;
    } change[] = {
        {"\"type\":\"NFC\"", "\"type\":\"NFKC\"", "normalizer"},
        {"\"type\":\"ByteLevel\",\"add_prefix_space\":true",
         "\"type\":\"Digits\",\"add_prefix_space\":true", "pre_tokenizer"},
        {"\"type\":\"BPE\"", "\"type\":\"Unigram\"", "model"},
        {"\"end_of_word_suffix\":null", "\"end_of_word_suffix\":\"</w>\"", "end_of_word_suffix"},
    };
    size_t size = 0;
    char *good = read_whole(golden_path("small_gpt2.json"), &size);
    assert_non_null(good);
    for (size_t i = 0; i < sizeof change / sizeof *change; i++) {
        char *at = strstr(good, change[i].from);
        if (!at) fail_msg("%s is not there", change[i].from);
        char *bad = malloc(size + 64);
        size_t before = (size_t)(at - good), cut = strlen(change[i].from);
        memcpy(bad, good, before);
        strcpy(bad + before, change[i].to);
        strcat(bad, at + cut);
        put_text("tokenizer.json", bad);
        free(bad);
        expect_error(SQ_E_UNSUPPORTED, change[i].part);
        expect_error(SQ_E_UNSUPPORTED, "tokenizer.json");
    }
    free(good);
}

#define IN_DIR(f) cmocka_unit_test_setup_teardown(f, make_dir, drop_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIR(neither_file),          IN_DIR(template_decides_bos),
        IN_DIR(config_overrides),      IN_DIR(ends_of_an_answer),
        IN_DIR(tokens_beside_a_model), IN_DIR(spaces_in_front_of_a_model),
        IN_DIR(unknown_tokens),        IN_DIR(unsupported_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
