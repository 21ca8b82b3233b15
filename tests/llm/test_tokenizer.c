/* Tokenizers against the published vectors: exact ids, exact text back, and the stream's pieces. */
#include "tokenizer_assets.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* ids back to text in one go and as a stream: both must be want. */
static void check_decode(const tokenizer *t, const int32_t *ids, int n, const char *want,
                         size_t want_size)
{
    char *text, *streamed = malloc((size_t)n * 512 + 512);
    size_t size, used = 0;
    token_stream s;
    assert_non_null(streamed);
    assert_int_equal(tokenizer_decode(t, ids, n, &text, &size, NULL), SQ_OK);
    token_stream_init(&s, t);
    for (int i = 0; i <= n; i++) {
        int got = i < n ? token_stream_next(&s, ids[i], streamed + used, 512)
                        : token_stream_flush(&s, streamed + used, 512);
        assert_in_range(got, 0, 512);
        used += (size_t)got;
    }
    assert_int_equal(used, size);
    assert_memory_equal(streamed, text, size);
    if (size != want_size || memcmp(text, want, size) != 0)
        fail_msg("decoded \"%.*s\", expected \"%.*s\"", (int)size, text, (int)want_size, want);
    free(streamed);
    free(text);
}

static void check_encode(const tokenizer *t, const char *text, size_t size, unsigned flags,
                         const int32_t *want, int n_want)
{
    int32_t *ids;
    int n;
    assert_int_equal(tokenizer_encode(t, text, size, flags, &ids, &n, NULL), SQ_OK);
    for (int i = 0; i < n && i < n_want; i++)
        if (ids[i] != want[i])
            fail_msg("\"%.*s\": id %d is %d, expected %d", (int)size, text, i, ids[i], want[i]);
    if (n != n_want) fail_msg("\"%.*s\": %d ids, expected %d", (int)size, text, n, n_want);
    free(ids);
}

static int parse_ids(const char *line, int32_t *ids, int most)
{
    int n = 0;
    for (char *end; n < most; line = end) {
        long v = strtol(line, &end, 10);
        if (end == line) break;
        ids[n++] = (int32_t)v;
        end += *end == ',';
    }
    return n;
}

/* llama.cpp's pairs of files: texts between marks, a line of ids for each. */
static void check_vectors(tokenizer *t, const char *base, int expected)
{
    static const char mark[] = "\n__ggml_vocab_test__\n";
    char name[512], *in, *out;
    size_t n_in, n_out;
    int count = 0;
    assert_non_null(t);
    snprintf(name, sizeof name, "assets/tokenizers/%s.inp", base);
    assert_non_null(in = read_whole(asset_path(name), &n_in));
    snprintf(name, sizeof name, "assets/tokenizers/%s.out", base);
    assert_non_null(out = read_whole(asset_path(name), &n_out));
    char *text = in, *line = out;
    for (char *end; (end = strstr(text, mark)); text = end + sizeof mark - 1, count++) {
        int32_t ids[2048];
        size_t len = strcspn(line, "\n");
        line[len] = 0;
        int n = parse_ids(line, ids, 2048);
        check_encode(t, text, (size_t)(end - text), 0, ids, n);
        check_decode(t, ids, n, text, (size_t)(end - text));
        line += len + 1;
    }
    assert_int_equal(count, expected);
    check_encode(t, "", 0, 0, NULL, 0);
    free(in);
    free(out);
    tokenizer_close(&t);
}

enum { VECTORS = 46 }; /* the last text, an empty one, has no mark behind it */

static void need(const char *name)
{
    if (file_exists(asset_path(name))) return;
    print_message("%s is missing: set SQ_SHARED\n", asset_path(name));
    skip();
}

static void vectors_of_gpt2(void **state)
{
    (void)state;
    need(ASSET_GPT2);
    check_vectors(open_gguf_asset(asset_path(ASSET_GPT2), TOKENIZER_BYTE_BPE, "gpt-2"),
                  "gpt2/ggml-vocab-gpt-2.gguf", VECTORS);
}

static void vectors_of_qwen2(void **state)
{
    (void)state;
    need(ASSET_QWEN2);
    check_vectors(open_tiktoken_asset(asset_path(ASSET_QWEN2), "qwen2", qwen2_special),
                  "qwen2/ggml-vocab-qwen2.gguf", VECTORS);
}

static void vectors_of_llama(void **state)
{
    (void)state;
    need(ASSET_LLAMA);
    check_vectors(open_spm_asset(asset_path(ASSET_LLAMA)), "llama-spm/ggml-vocab-llama-spm.gguf",
                  VECTORS);
    check_vectors(open_gguf_asset(asset_path(ASSET_LLAMA_GGUF), TOKENIZER_SPM, "default"),
                  "llama-spm/ggml-vocab-llama-spm.gguf", VECTORS);
}

/* Lines of JavaScript: a quoted text, a comma, ids in brackets. */
static void vectors_of_llama_with_bos(void **state)
{
    (void)state;
    need(ASSET_LLAMA);
    size_t size;
    int count = 0;
    tokenizer *t = open_spm_asset(asset_path(ASSET_LLAMA));
    char *file = read_whole(asset_path(ASSET_LLAMA_JS), &size);
    assert_non_null(t);
    assert_non_null(file);
    for (char *line = strtok(file, "\n"); line; line = strtok(NULL, "\n"), count++) {
        char text[256], quote = *line, *at = line + 1;
        int32_t ids[64];
        size_t n = 0;
        for (; *at && *at != quote; at++) {
            bool newline = at[0] == '\\' && at[1] == 'n';
            text[n++] = newline ? '\n' : *at;
            at += newline;
        }
        char *list = strchr(at, '[');
        assert_non_null(list);
        int n_id = parse_ids(list + 1, ids, 64);
        check_encode(t, text, n, TOKENIZE_BOS, ids, n_id);
        check_decode(t, ids, n_id, text, n);
    }
    assert_int_equal(count, 11);
    free(file);
    tokenizer_close(&t);
}

/* Bytes that never make a character: one U+FFFD each in SentencePiece, one for a broken start in
 * byte-level text; the stream holds no more back than it must. */
static void broken_bytes_come_out_as_in_the_reference(void **state)
{
    (void)state;
    need(ASSET_LLAMA);
    need(ASSET_GPT2);
    tokenizer *spm = open_spm_asset(asset_path(ASSET_LLAMA));
    tokenizer *bpe = open_gguf_asset(asset_path(ASSET_GPT2), TOKENIZER_BYTE_BPE, "gpt-2");
    const int32_t half[] = {3 + 0xe2, 3 + 0x82, 3 + 'x'}, open[] = {3 + 0xf0, 3 + 0x9f};
    assert_non_null(spm);
    assert_non_null(bpe);
    check_decode(spm, half, 3, "\xef\xbf\xbd\xef\xbf\xbdx", 7);
    check_decode(spm, open, 2, "\xef\xbf\xbd\xef\xbf\xbd", 6);
    int32_t ids[3] = {tokenizer_find(bpe, "\xc3\xa2"), tokenizer_find(bpe, "\xc4\xa4"),
                      tokenizer_find(bpe, "x")}; /* E2, 82 in the byte alphabet */
    check_decode(bpe, ids, 3, "\xef\xbf\xbdx", 4);
    check_decode(bpe, ids, 2, "\xef\xbf\xbd", 3);
    check_decode(bpe, ids + 1, 2, "\xef\xbf\xbdx", 4);
    tokenizer_close(&spm);
    tokenizer_close(&bpe);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_of_gpt2),
        cmocka_unit_test(vectors_of_qwen2),
        cmocka_unit_test(vectors_of_llama),
        cmocka_unit_test(vectors_of_llama_with_bos),
        cmocka_unit_test(broken_bytes_come_out_as_in_the_reference),
    };
    if (!file_exists(asset_path(ASSET_DEMO))) {
        print_message("no shared assets: set SQ_SHARED\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
