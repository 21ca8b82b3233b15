/* Random strings against the `tokenizers` and `sentencepiece` packages: ids and decoded text, by
 * the hashes that tests/golden/make_tokens.py wrote. Sets whose vocabulary must not be shipped are
 * read from the shared assets. */
#include "tokenizer_assets.h"

#include "core/json.h"
#include "core/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum { STRINGS = 10000, KIND_MAX = 64, STRING_MAX = 1 << 16 };

typedef struct kind {
    int max, n;
    const cJSON *list; /* texts, or NULL */
    struct {
        uint32_t lo, hi;
    } range[16];
    uint64_t total;
} kind;

static json_doc kinds_doc, index_doc;
static kind kinds[KIND_MAX];
static int n_kind;
static char *text_of[STRINGS];
static size_t size_of[STRINGS];
static char *golden;
static size_t golden_size;

static uint64_t fnv(const void *data, size_t n, uint64_t h)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 1099511628211u;
    return h;
}

static const uint64_t fnv_start = 1469598103934665603u;

static size_t put_rune(char *out, uint32_t c)
{
    static const unsigned char lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n; i-- > 1; c >>= 6)
        out[i] = (char)(0x80 | (c & 63));
    out[0] = (char)(lead[n == 1 ? 0 : n] | c);
    return n;
}

static void read_kinds(void)
{
    for (const cJSON *e = kinds_doc.root->child; e && n_kind < KIND_MAX; e = e->next) {
        kind *k = &kinds[n_kind++];
        const cJSON *ranges = cJSON_GetObjectItem(e, "ranges");
        k->max = cJSON_GetObjectItem(e, "max")->valueint;
        k->list = cJSON_GetObjectItem(e, "texts");
        k->n = k->list ? cJSON_GetArraySize(k->list) : 0;
        for (const cJSON *r = ranges ? ranges->child : NULL; r; r = r->next, k->n++) {
            k->range[k->n].lo = (uint32_t)r->child->valueint;
            k->range[k->n].hi = (uint32_t)r->child->next->valueint;
            k->total += k->range[k->n].hi - k->range[k->n].lo + 1;
        }
    }
}

/* The rule of `string` in make_tokens.py. */
static size_t make_string(uint64_t seed, char *out)
{
    uint64_t state = seed;
    size_t n = 0;
    for (int parts = 1 + (int)rng_below(&state, 12); parts > 0; parts--) {
        const kind *k = &kinds[rng_below(&state, (uint64_t)n_kind)];
        for (int c = 1 + (int)rng_below(&state, (uint64_t)k->max); c > 0; c--) {
            uint64_t at = rng_below(&state, k->list ? (uint64_t)k->n : k->total);
            if (k->list) {
                const char *text = cJSON_GetArrayItem(k->list, (int)at)->valuestring;
                memcpy(out + n, text, strlen(text));
                n += strlen(text);
                continue;
            }
            int r = 0;
            for (; at > k->range[r].hi - k->range[r].lo; r++)
                at -= k->range[r].hi - k->range[r].lo + 1;
            n += put_rune(out + n, k->range[r].lo + (uint32_t)at);
        }
    }
    return n;
}

static int make_strings(void **state)
{
    static char buf[STRING_MAX];
    uint64_t h = fnv_start;
    char hex[20];
    (void)state;
    assert_int_equal(json_open(&kinds_doc, golden_path("kinds.json"), 0, NULL), SQ_OK);
    assert_int_equal(json_open(&index_doc, golden_path("golden.json"), 0, NULL), SQ_OK);
    assert_non_null(golden = read_whole(golden_path("golden.bin"), &golden_size));
    read_kinds();
    for (int i = 0; i < STRINGS; i++) {
        size_of[i] = make_string((uint64_t)i, buf);
        text_of[i] = malloc(size_of[i] + 1);
        memcpy(text_of[i], buf, size_of[i]);
        h = fnv(buf, size_of[i], h);
    }
    snprintf(hex, sizeof hex, "%016llx", (unsigned long long)h);
    assert_string_equal(hex, cJSON_GetObjectItem(index_doc.root, "strings")->valuestring);
    return 0;
}

static int drop_strings(void **state)
{
    (void)state;
    for (int i = 0; i < STRINGS; i++)
        free(text_of[i]);
    free(golden);
    json_close(&kinds_doc);
    json_close(&index_doc);
    return 0;
}

static uint32_t digest(const tokenizer *t, int i, unsigned flags)
{
    int32_t *ids;
    int n;
    char *text;
    size_t size;
    assert_int_equal(tokenizer_encode(t, text_of[i], size_of[i], flags, &ids, &n, NULL), SQ_OK);
    assert_int_equal(tokenizer_decode(t, ids, n, &text, &size, NULL), SQ_OK);
    uint64_t h = fnv(text, size, fnv(ids, (size_t)n * sizeof *ids, fnv_start));
    free(ids);
    free(text);
    return (uint32_t)(h ^ h >> 32);
}

static void check_set(tokenizer *t, const char *name)
{
    const cJSON *e = cJSON_GetObjectItem(index_doc.root, "sets")->child;
    size_t at = 0;
    int wrong = 0;
    assert_non_null(t);
    for (; e && strcmp(cJSON_GetObjectItem(e, "name")->valuestring, name) != 0; e = e->next)
        at += (size_t)cJSON_GetObjectItem(e, "count")->valueint * 4;
    assert_non_null(e);
    int count = cJSON_GetObjectItem(e, "count")->valueint;
    unsigned flags = cJSON_IsTrue(cJSON_GetObjectItem(e, "special")) ? TOKENIZE_SPECIAL : 0;
    if (cJSON_IsTrue(cJSON_GetObjectItem(e, "bos"))) flags |= TOKENIZE_BOS;
    assert_in_range(count, 2000, STRINGS);
    assert_true(at + (size_t)count * 4 <= golden_size);
    for (int i = 0; i < count; i++) {
        uint32_t want;
        memcpy(&want, golden + at + (size_t)i * 4, 4);
        if (digest(t, i, flags) == want) continue;
        if (wrong++ < 5) print_message("%s: string %d differs\n", name, i);
    }
    tokenizer_close(&t);
    if (wrong) fail_msg("%s: %d of %d strings differ", name, wrong, count);
}

/* ---- shipped ---- */

static void small_llama3(void **state)
{
    (void)state;
    check_set(open_json_asset(golden_path("small_llama3.json")), "small_llama3");
    check_set(open_json_asset(golden_path("small_llama3.json")), "small_llama3/plain");
}

static void small_gpt2(void **state)
{
    (void)state;
    check_set(open_json_asset(golden_path("small_gpt2.json")), "small_gpt2");
}

static void small_metaspace(void **state)
{
    (void)state;
    check_set(open_json_asset(golden_path("small_metaspace.json")), "small_metaspace");
    check_set(open_json_asset(golden_path("small_words.json")), "small_words");
}

static void small_prepend(void **state)
{
    (void)state;
    check_set(open_json_asset(golden_path("small_prepend.json")), "small_prepend");
}

static void small_spm(void **state)
{
    (void)state;
    check_set(open_spm_asset(golden_path("small_trim.model")), "small_trim");
    check_set(open_spm_asset(golden_path("small_unk.model")), "small_unk");
}

/* ---- from the shared assets ---- */

static void need(const char *name)
{
    if (file_exists(asset_path(name))) return;
    print_message("%s is missing: this set is skipped; set SQ_SHARED\n", asset_path(name));
    skip();
}

static void demo(void **state)
{
    (void)state;
    need(ASSET_DEMO);
    check_set(open_json_asset(asset_path(ASSET_DEMO)), "demo");
}

static void llama(void **state)
{
    (void)state;
    need(ASSET_LLAMA);
    check_set(open_spm_asset(asset_path(ASSET_LLAMA)), "llama");
    check_set(open_gguf_asset(asset_path(ASSET_LLAMA_GGUF), TOKENIZER_SPM, "default"), "llama");
}

static void mistral(void **state)
{
    (void)state;
    need(ASSET_MISTRAL);
    check_set(open_spm_asset(asset_path(ASSET_MISTRAL)), "mistral");
}

static void gpt2(void **state)
{
    (void)state;
    need(ASSET_GPT2);
    check_set(open_gguf_asset(asset_path(ASSET_GPT2), TOKENIZER_BYTE_BPE, "gpt-2"), "gpt2");
}

static void qwen2(void **state)
{
    (void)state;
    need(ASSET_QWEN2);
    check_set(open_tiktoken_asset(asset_path(ASSET_QWEN2), "qwen2", qwen2_special), "qwen2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_llama3), cmocka_unit_test(small_gpt2),
        cmocka_unit_test(small_metaspace), cmocka_unit_test(small_prepend),
        cmocka_unit_test(small_spm),    cmocka_unit_test(demo),
        cmocka_unit_test(llama),        cmocka_unit_test(mistral),
        cmocka_unit_test(gpt2),         cmocka_unit_test(qwen2),
    };
    return cmocka_run_group_tests(tests, make_strings, drop_strings);
}
