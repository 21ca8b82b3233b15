/* Prompts: ids of the demo's golden answers, Mistral's published conversation, and every template's
 * text as its family writes it. */
#include "tokenizer_assets.h"

#include "core/json.h"
#include "llm/prompt.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

typedef struct ids {
    int32_t id[2048];
    int n;
} ids;

static void add_text(ids *out, const tokenizer *t, const char *text, unsigned flags)
{
    int32_t *id;
    int n;
    assert_int_equal(tokenizer_encode(t, text, strlen(text), flags, &id, &n, NULL), SQ_OK);
    assert_true(out->n + n <= 2048);
    memcpy(out->id + out->n, id, (size_t)n * sizeof *id);
    out->n += n;
    free(id);
}

static void add_turn(ids *out, const char *name, const tokenizer *t, bool first, const char *text,
                     int n_image)
{
    int32_t *id;
    int n;
    const prompt_template *p = prompt_find(name);
    assert_non_null(p);
    assert_int_equal(prompt_turn(p, t, first, text, n_image, &id, &n, NULL), SQ_OK);
    assert_true(out->n + n <= 2048);
    memcpy(out->id + out->n, id, (size_t)n * sizeof *id);
    out->n += n;
    free(id);
}

/* Parts in order: "<image>" is a picture, a control token its id, anything else plain text. */
static void add_parts(ids *out, const tokenizer *t, const char *const *part)
{
    for (; *part; part++) {
        int id = tokenizer_find(t, *part);
        bool image = strcmp(*part, "<image>") == 0;
        bool control = !image && id >= 0 && tokenizer_get_vocab(t)->type[id] == TOKEN_CONTROL;
        if (image || control)
            out->id[out->n++] = image ? PROMPT_IMAGE : id;
        else
            add_text(out, t, *part, 0);
    }
}

static void check_ids(const ids *got, const ids *want)
{
    for (int i = 0; i < got->n && i < want->n; i++)
        if (got->id[i] != want->id[i])
            fail_msg("id %d is %d, expected %d", i, got->id[i], want->id[i]);
    assert_int_equal(got->n, want->n);
}

static void need(const char *name)
{
    if (file_exists(asset_path(name))) return;
    print_message("%s is missing: this part is skipped; set SQ_SHARED\n", asset_path(name));
    skip();
}

static void demo_prompts_are_the_golden_ones(void **state)
{
    (void)state;
    json_doc doc;
    tokenizer *t;
    int count = 0;
    need("demo/golden/golden.json");
    assert_int_equal(tokenizer_open_dir(&t, asset_path("demo"), NULL), SQ_OK);
    assert_int_equal(json_open(&doc, asset_path("demo/golden/golden.json"), 0, NULL), SQ_OK);
    int image = tokenizer_find(t, "<image>");
    assert_true(image > 0);
    for (const cJSON *e = doc.root->child; e; e = e->next) {
        ids got = {.n = 0}, want = {.n = 0};
        const cJSON *golden = cJSON_GetObjectItem(e, "prompt_ids");
        if (!golden) continue; /* the entries on tiles have none */
        count++;
        for (const cJSON *id = golden->child; id; id = id->next)
            want.id[want.n++] = id->valueint == image ? PROMPT_IMAGE : id->valueint;
        add_turn(&got, "vicuna_v1", t, true, cJSON_GetObjectItem(e, "question")->valuestring, 1);
        check_ids(&got, &want);
    }
    assert_int_equal(count, 12);
    json_close(&doc);
    tokenizer_close(&t);
}

/* mistral-common's sample: four questions with three answers between them. */
static void mistral_conversation(void **state)
{
    (void)state;
    json_doc text, tokens;
    ids got = {.n = 0}, want = {.n = 0};
    need(ASSET_MISTRAL);
    tokenizer *t = open_spm_asset(asset_path(ASSET_MISTRAL));
    assert_non_null(t);
    assert_int_equal(json_open(&text, asset_path(ASSET_MISTRAL_TEXT), 0, NULL), SQ_OK);
    assert_int_equal(json_open(&tokens, asset_path(ASSET_MISTRAL_IDS), 0, NULL), SQ_OK);
    for (const cJSON *e = cJSON_GetObjectItem(text.root, "messages")->child; e; e = e->next) {
        const char *content = cJSON_GetObjectItem(e, "content")->valuestring;
        if (strcmp(cJSON_GetObjectItem(e, "role")->valuestring, "user") == 0)
            add_turn(&got, "mistral_instruct", t, got.n == 0, content, 0);
        else
            add_text(&got, t, content, 0); /* what the model would have answered */
    }
    for (const cJSON *e = cJSON_GetObjectItem(tokens.root, "tokens")->child; e; e = e->next)
        want.id[want.n++] = e->valueint;
    assert_int_equal(want.n, 118);
    check_ids(&got, &want);
    json_close(&text);
    json_close(&tokens);
    tokenizer_close(&t);
}

/* conversation.py of haotian-liu/LLaVA: both are of separator style TWO. */
static void vicuna_and_llava(void **state)
{
    (void)state;
    static const char *const text[][2] = {
        {"vicuna_v1", "A chat between a curious user and an artificial intelligence assistant. The "
                      "assistant gives helpful, detailed, and polite answers to the user's "
                      "questions. USER: "},
        {"llava_v1", "A chat between a curious human and an artificial intelligence assistant. "
                     "The assistant gives helpful, detailed, and polite answers to the human's "
                     "questions. USER: "},
    };
    tokenizer *t = open_json_asset(golden_path("small_metaspace.json"));
    assert_non_null(t);
    assert_true(tokenizer_get_vocab(t)->add_bos);
    for (int i = 0; i < 2; i++) {
        ids got = {.n = 0}, want = {.n = 0};
        add_turn(&got, text[i][0], t, true, "What is it?", 1);
        add_text(&want, t, text[i][1], TOKENIZE_BOS);
        want.id[want.n++] = PROMPT_IMAGE;
        add_text(&want, t, "\nWhat is it? ASSISTANT:", 0);
        assert_int_equal(want.id[0], tokenizer_find(t, "<s>"));
        check_ids(&got, &want);
        add_turn(&got, text[i][0], t, false, "Why?", 0);
        int end = want.n;
        add_text(&want, t, "</s>USER: Why? ASSISTANT:", TOKENIZE_SPECIAL);
        assert_int_equal(want.id[end], tokenizer_find(t, "</s>"));
        check_ids(&got, &want);
    }
    tokenizer_close(&t);
}

/* Meta's chat template with add_generation_prompt. */
static void llama3(void **state)
{
    (void)state;
    static const char *const first[] = {
        "<|begin_of_text|>", "<|start_header_id|>", "system", "<|end_header_id|>",
        "\n\nYou are a helpful language and vision assistant. You are able to understand the "
        "visual content that the user provides, and assist the user with a variety of tasks using "
        "natural language.",
        "<|eot_id|>", "<|start_header_id|>", "user", "<|end_header_id|>", "\n\n", "<image>",
        "\nWhat is it?", "<|eot_id|>", "<|start_header_id|>", "assistant", "<|end_header_id|>",
        "\n\n", NULL};
    static const char *const next[] = {
        "<|eot_id|>", "<|start_header_id|>", "user", "<|end_header_id|>", "\n\nWhy?", "<|eot_id|>",
        "<|start_header_id|>", "assistant", "<|end_header_id|>", "\n\n", NULL};
    ids got = {.n = 0}, want = {.n = 0};
    tokenizer *t = open_json_asset(golden_path("small_llama3.json"));
    assert_non_null(t);
    add_turn(&got, "llama3", t, true, "What is it?", 1);
    add_parts(&want, t, first);
    check_ids(&got, &want);
    add_turn(&got, "llama3", t, false, "Why?", 0);
    add_parts(&want, t, next);
    check_ids(&got, &want);
    tokenizer_close(&t);
}

/* LLaVA's chatml_direct: no newline behind <|im_end|>. BOS comes only because this tokenizer has
 * one. */
static void chatml(void **state)
{
    (void)state;
    static const char *const first[] = {
        "<|begin_of_text|>", "<|im_start|>", "system\nAnswer the questions.", "<|im_end|>",
        "<|im_start|>", "user\n", "<image>", "\nWhat is it?", "<|im_end|>", "<|im_start|>",
        "assistant\n", NULL};
    static const char *const next[] = {"<|im_end|>", "<|im_start|>", "user\nWhy?", "<|im_end|>",
                                       "<|im_start|>", "assistant\n", NULL};
    ids got = {.n = 0}, want = {.n = 0};
    tokenizer *t = open_json_asset(golden_path("small_llama3.json"));
    assert_non_null(t);
    add_turn(&got, "chatml", t, true, "What is it?", 1);
    add_parts(&want, t, first);
    check_ids(&got, &want);
    add_turn(&got, "chatml", t, false, "Why?", 0);
    add_parts(&want, t, next);
    check_ids(&got, &want);
    tokenizer_close(&t);
}

static void image_marks(void **state)
{
    (void)state;
    static const char *const two[] = {"<|begin_of_text|>", "Is ", "<image>", " like ", "<image>",
                                      "?", NULL};
    static const char *const front[] = {"<|begin_of_text|>", "<image>", "<image>", "\nHello", NULL};
    static const char *const none[] = {"<|begin_of_text|>", "Hello", NULL};
    ids got = {.n = 0}, want = {.n = 0};
    int32_t *id;
    int n;
    sq_error err = {0};
    tokenizer *t = open_json_asset(golden_path("small_llama3.json"));
    assert_non_null(t);
    add_turn(&got, "plain", t, true, "Is <image> like <image>?", 2);
    add_parts(&want, t, two);
    check_ids(&got, &want);
    got.n = want.n = 0;
    add_turn(&got, "plain", t, true, "Hello", 2);
    add_parts(&want, t, front);
    check_ids(&got, &want);
    got.n = want.n = 0;
    add_turn(&got, "plain", t, true, "Hello", 0);
    add_parts(&want, t, none);
    check_ids(&got, &want);
    assert_int_equal(prompt_turn(prompt_find("plain"), t, true, "<image>?", 2, &id, &n, &err),
                     SQ_E_ARG);
    assert_null(id);
    assert_null(prompt_find("nobody"));
    tokenizer_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(demo_prompts_are_the_golden_ones),
        cmocka_unit_test(mistral_conversation),
        cmocka_unit_test(vicuna_and_llava),
        cmocka_unit_test(llama3),
        cmocka_unit_test(chatml),
        cmocka_unit_test(image_marks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
