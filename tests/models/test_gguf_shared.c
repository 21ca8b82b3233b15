/* Conversion with real vocabularies, and the demo model: what convert writes is the committed pair,
 * and the pair answers as the checkpoint does. Needs the shared data; skipped without it. */
#define _GNU_SOURCE
#include "../llm/tokenizer_assets.h"
#include "core/json.h"
#include "models/model.h"
#include "squint.h"
#include "tiny_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void same_ids(const tokenizer *a, const tokenizer *b, const char *text, size_t size)
{
    static const unsigned flags[] = {0, TOKENIZE_BOS | TOKENIZE_SPECIAL};
    for (int i = 0; i < 2; i++) {
        sq_error err = {0};
        int32_t *x, *y;
        char *s;
        int n, m;
        size_t back;
        assert_int_equal(tokenizer_encode(a, text, size, flags[i], &x, &n, &err), 0);
        assert_int_equal(tokenizer_encode(b, text, size, flags[i], &y, &m, &err), 0);
        assert_int_equal(n, m);
        assert_memory_equal(x, y, (size_t)n * sizeof *x);
        assert_int_equal(tokenizer_decode(b, y, m, &s, &back, &err), 0);
        if (i == 0 && tokenizer_get_vocab(b)->kind == TOKENIZER_BYTE_BPE) {
            assert_int_equal(back, size);
            assert_memory_equal(s, text, size);
        }
        free(x), free(y), free(s);
    }
}

/* The tiny model with another tokenizer, there and back. */
static void through_a_file(tokenizer *tok, const char *family, const char *inputs)
{
    char hf[256], out[256];
    sq_error err = {0};
    model m, n;
    size_t size = 0;
    int rows = tokenizer_get_vocab(tok)->n_token + 3;
    uint16_t *zeros = calloc((size_t)rows * TINY_DIM, sizeof *zeros);
    char *text = read_whole(asset_path(inputs), &size);
    assert_non_null(zeros);
    assert_non_null(text);
    tiny_dir(hf, sizeof hf);
    tiny_dir(out, sizeof out);
    tiny_hf(hf, family, "", strcmp(family, "qwen2") == 0, true);
    assert_int_equal(model_open(&m, hf, NULL, NULL, &err), 0);
    tokenizer_close(&m.tok);
    m.tok = tok;
    m.dec.cfg.n_vocab = rows;
    m.dec.tok_embd = m.dec.head = tensor_2d(zeros, SQ_DTYPE_BF16, rows, TINY_DIM);
    if (model_convert(&m, out, "t", SQ_DTYPE_Q8_0, NULL, NULL, &err) ||
        model_open(&n, out, NULL, NULL, &err))
        fail_msg("%s", err.text);
    const tokenizer_vocab *a = tokenizer_get_vocab(tok), *b = tokenizer_get_vocab(n.tok);
    assert_true(a->bos == b->bos && a->eos == b->eos && a->unk == b->unk && a->pad == b->pad);
    assert_true(a->add_bos == b->add_bos && a->add_space_prefix == b->add_space_prefix);
    assert_int_equal(a->n_merge, b->n_merge);
    assert_int_equal(b->n_token, rows);
    assert_int_equal(b->type[rows - 1], TOKEN_UNUSED);
    same_ids(tok, n.tok, text, size);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
        same_ids(tok, n.tok, line, strlen(line));
    model_close(&m);
    model_close(&n);
    free(zeros), free(text);
    tiny_remove(hf);
    tiny_remove(out);
}

static void byte_level_vocabulary(void **state)
{
    (void)state;
    tokenizer *t = open_gguf_asset(asset_path(ASSET_GPT2), TOKENIZER_BYTE_BPE, "gpt-2");
    assert_non_null(t);
    through_a_file(t, "qwen2", "assets/tokenizers/gpt2/ggml-vocab-gpt-2.gguf.inp");
}

static void sentencepiece_vocabulary(void **state)
{
    (void)state;
    tokenizer *t = open_spm_asset(asset_path(ASSET_LLAMA));
    assert_non_null(t);
    through_a_file(t, "llama", "assets/tokenizers/llama-spm/ggml-vocab-llama-spm.gguf.inp");
}

/* ---- the demo model ---- */

#define PAIR SQ_SOURCE_DIR "/models/demo"

static void committed_pair_is_what_convert_writes(void **state)
{
    (void)state;
    static const char *const files[] = {"demo-q8_0.gguf", "mmproj-demo-q8_0.gguf"};
    char out[256];
    sq_model *m;
    tiny_dir(out, sizeof out);
    assert_int_equal(sq_model_open(&m, asset_path("demo"), NULL), 0);
    assert_int_equal(sq_model_convert(m, out, "demo", "q8_0", NULL, NULL), 0);
    sq_model_close(&m);
    for (int i = 0; i < 2; i++) {
        tiny_text a = tiny_read(out, files[i]), b = tiny_read(PAIR, files[i]);
        assert_int_equal(a.size, b.size);
        assert_true(memcmp(a.data, b.data, a.size) == 0);
        free(a.data), free(b.data);
    }
    tiny_remove(out);
}

/* f32 products, so that only the weights differ; rounding them to Q8_0 must not change a word of
 * these answers, which transformers gave in f32. */
static void pair_answers_as_the_checkpoint(void **state)
{
    (void)state;
    json_doc doc;
    sq_model *m;
    sq_model_options o = {.compute = "f32"};
    int n = 0;
    assert_int_equal(json_open(&doc, asset_path("demo/golden/golden.json"), 0, NULL), 0);
    assert_int_equal(sq_model_open(&m, PAIR, &o), 0);
    for (const cJSON *e = doc.root->child; e && n < 8; e = e->next, n++) {
        char path[4300];
        sq_session *s;
        sq_report r;
        snprintf(path, sizeof path, "%s/%s", asset_path("demo/golden"),
                 cJSON_GetObjectItem(e, "image")->valuestring);
        assert_int_equal(sq_session_open(&s, m, NULL), 0);
        assert_int_equal(sq_session_add_image(s, path), 0);
        assert_int_equal(
            sq_session_ask(s, cJSON_GetObjectItem(e, "question")->valuestring, NULL, &r), 0);
        assert_string_equal(r.answer, cJSON_GetObjectItem(e, "generated")->valuestring);
        sq_session_close(&s);
    }
    assert_int_equal(n, 8);
    sq_model_close(&m);
    json_close(&doc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(byte_level_vocabulary),
        cmocka_unit_test(sentencepiece_vocabulary),
        cmocka_unit_test(committed_pair_is_what_convert_writes),
        cmocka_unit_test(pair_answers_as_the_checkpoint),
    };
    if (!file_exists(asset_path("demo/config.json"))) {
        printf("skipped: the shared data is not there (SQ_SHARED)\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
