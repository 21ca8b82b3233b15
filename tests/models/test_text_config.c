/* What config.json says about the text model: defaults of missing keys and refusals. */
#define _GNU_SOURCE
#include "models/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

#define TINY SQ_SOURCE_DIR "/tests/golden/tiny"

static const char *const linked[] = {"model.safetensors", "tokenizer.json",
                                     "preprocessor_config.json"};
static char dir[64];

static void path_of(char *out, size_t size, const char *name)
{
    snprintf(out, size, "%s/%s", dir, name);
}

static cJSON *read_config(const char *variant)
{
    static char text[16384];
    char path[256];
    snprintf(path, sizeof path, TINY "/%s/config.json", variant);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    cJSON *config = cJSON_Parse(text);
    assert_non_null(config);
    return config;
}

/* Opens a variant with text_config.PART.KEY (PART may be NULL) replaced by the JSON value; value
 * NULL removes the key. Returns the status; m is to be closed. */
static int open_with(model *m, const char *variant, const char *part, const char *key,
                     const char *value, sq_error *err)
{
    char from[256], to[256];
    cJSON *config = read_config(variant);
    cJSON *at = cJSON_GetObjectItemCaseSensitive(config, "text_config");
    if (part) at = cJSON_GetObjectItemCaseSensitive(at, part);
    cJSON_DeleteItemFromObjectCaseSensitive(at, key);
    if (value) cJSON_AddItemToObject(at, key, cJSON_Parse(value));
    char *text = cJSON_Print(config);
    cJSON_Delete(config);
    path_of(to, sizeof to, "config.json");
    FILE *f = fopen(to, "wb");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    free(text);
    for (size_t i = 0; i < sizeof linked / sizeof *linked; i++) {
        snprintf(from, sizeof from, TINY "/%s/%s", variant, linked[i]);
        path_of(to, sizeof to, linked[i]);
        unlink(to);
        assert_int_equal(symlink(from, to), 0);
    }
    return model_open(m, dir, NULL, NULL, err);
}

static decoder_config opened(const char *variant, const char *part, const char *key,
                             const char *value)
{
    model m;
    sq_error err = {0};
    if (open_with(&m, variant, part, key, value, &err)) fail_msg("%s", err.text);
    decoder_config c = m.dec.cfg;
    model_close(&m);
    return c;
}

static void refused(const char *variant, const char *part, const char *key, const char *value,
                    const char *why)
{
    model m;
    sq_error err = {0};
    assert_int_equal(open_with(&m, variant, part, key, value, &err), SQ_E_UNSUPPORTED);
    if (!strstr(err.text, why)) fail_msg("\"%s\" does not name %s", err.text, why);
}

static void mistral_window_is_on_unless_null(void **state)
{
    (void)state;
    assert_int_equal(opened("mistral", NULL, "sliding_window", "9").window, 9);
    assert_int_equal(opened("mistral", NULL, "sliding_window", NULL).window, 4096);
    assert_int_equal(opened("mistral", NULL, "sliding_window", "null").window, 0);
}

static void qwen2_window_is_off_unless_asked_for(void **state)
{
    (void)state;
    decoder_config c = opened("qwen2", NULL, "use_sliding_window", "true");
    assert_int_equal(c.window, 7);
    assert_int_equal(c.window_from, 1);
    assert_int_equal(opened("qwen2", NULL, "use_sliding_window", NULL).window, 0);
    assert_int_equal(opened("qwen2", NULL, "max_window_layers", NULL).window, 0); /* 28 */
}

static void dynamic_rope_starts_at_the_context(void **state)
{
    (void)state;
    decoder_config c = opened("dynamic", "rope_parameters", "original_max_position_embeddings",
                              "7");
    assert_int_equal(c.rope.original_ctx, 20);
    c = opened("llama3", "rope_parameters", "original_max_position_embeddings", "7");
    assert_int_equal(c.rope.original_ctx, 7);
}

static void what_is_not_computed_is_refused(void **state)
{
    (void)state;
    refused("mha", NULL, "hidden_act", "\"gelu\"", "hidden_act");
    refused("dynamic", "rope_parameters", "partial_rotary_factor", "0.5", "partial_rotary_factor");
    refused("dynamic", "rope_parameters", "rope_type", "\"yarn\"", "yarn");
    refused("mha", NULL, "model_type", "\"gemma\"", "gemma");
}

static void whole_numbers_are_told_whole(void **state)
{
    (void)state;
    model m;
    sq_error err = {0};
    assert_int_equal(open_with(&m, "mha", NULL, "vocab_size", "100000000", &err), SQ_E_FORMAT);
    assert_non_null(strstr(err.text, "vocab_size: 100000000 is outside 1..4194304"));
}

static int make_dir(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/squint_config_XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    (void)state;
    char path[256];
    for (size_t i = 0; i < sizeof linked / sizeof *linked; i++) {
        path_of(path, sizeof path, linked[i]);
        unlink(path);
    }
    path_of(path, sizeof path, "config.json");
    unlink(path);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(mistral_window_is_on_unless_null),
                                       cmocka_unit_test(qwen2_window_is_off_unless_asked_for),
                                       cmocka_unit_test(dynamic_rope_starts_at_the_context),
                                       cmocka_unit_test(what_is_not_computed_is_refused),
                                       cmocka_unit_test(whole_numbers_are_told_whole)};
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
