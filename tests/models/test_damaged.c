/* Damaged checkpoints: every mutation of a small valid one ends in a one-line error that names the
 * file, or opens and answers. Nothing may crash (run it with -DSQ_SANITIZE=ON too). */
#define _GNU_SOURCE
#include "squint.h"
#include "tiny_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum { LEAST = 60 }; /* mutations of each kind of file */

typedef enum outcome {
    FAILS,     /* with a message that names the damaged file */
    ELSEWHERE, /* with a message that names a file of the same directory */
    OPENS,     /* harmless */
    EITHER
} outcome;

/* A valid checkpoint in a directory of its own, one file of which is damaged again and again. */
typedef struct victim {
    char dir[256];
    const char *file;
    tiny_text good;
    char picture[300];
    int n, n_failed, n_opened;
} victim;

static void victim_open(victim *v, const char *dir, const char *file)
{
    uint8_t rgb[16 * 16 * 3];
    char text[200];
    *v = (victim){.file = file, .good = tiny_read(dir, file)};
    snprintf(v->dir, sizeof v->dir, "%s", dir);
    memset(rgb, 90, sizeof rgb);
    snprintf(v->picture, sizeof v->picture, "%s/p.png", dir);
    assert_int_equal(sq_image_write(v->picture, 16, 16, rgb, text, sizeof text), 0);
}

/* Reports the counts; puts the good file back. */
static void victim_close(victim *v)
{
    tiny_write(v->dir, v->file, v->good.data, v->good.size);
    print_message("%s: %d mutations, %d refused, %d opened\n", v->file, v->n, v->n_failed,
                  v->n_opened);
    assert_true(v->n >= LEAST);
    free(v->good.data);
}

static bool is_one_line(const char *text)
{
    for (const char *c = text; *c; c++)
        if ((unsigned char)*c < 32 || *c == 127) return false;
    return *text != 0;
}

/* One question about one picture; its result does not matter, but it must not crash. */
static void use(sq_model *m, const victim *v, const char *what)
{
    sq_session *s = NULL;
    sq_report r;
    sq_ask_options ask = {.max_tokens = 2};
    int rc = sq_session_open(&s, m, NULL);
    if (!rc) rc = sq_session_add_image(s, v->picture);
    if (!rc) rc = sq_session_ask(s, "the cat in a hat {}", &ask, &r);
    if (rc && !is_one_line(sq_session_error(s))) fail_msg("%s: an error without a line", what);
    sq_session_close(&s);
}

static void attempt(victim *v, const char *what, const char *data, size_t size, outcome expected)
{
    sq_model *m = NULL;
    sq_model_options o = {.compute = "f32", .n_threads = 1};
    tiny_write(v->dir, v->file, data, size);
    int rc = sq_model_open(&m, v->dir, &o);
    const char *text = sq_model_error(m);
    v->n++;
    if (rc == 0) {
        v->n_opened++;
        if (expected == FAILS || expected == ELSEWHERE) fail_msg("%s: %s: opened", v->file, what);
        use(m, v, what);
    } else {
        v->n_failed++;
        if (expected == OPENS) fail_msg("%s: %s: refused: %s", v->file, what, text);
        if (!is_one_line(text)) fail_msg("%s: %s: no line of text: %s", v->file, what, text);
        if (!strstr(text, expected == FAILS ? v->file : v->dir))
            fail_msg("%s: %s: the file is not named: %s", v->file, what, text);
        if (rc == SQ_E_NOMEM) fail_msg("%s: %s: took too much memory", v->file, what);
    }
    sq_model_close(&m);
}

/* The good bytes with one stretch exchanged; n_old may be 0. */
static void splice(victim *v, const char *what, size_t at, size_t n_old, const void *with,
                   size_t n_new, outcome expected)
{
    tiny_text t = {0};
    tiny_put(&t, v->good.data, at);
    tiny_put(&t, with, n_new);
    tiny_put(&t, v->good.data + at + n_old, v->good.size - at - n_old);
    attempt(v, what, t.data, t.size, expected);
    free(t.data);
}

static void cut(victim *v, size_t size, outcome expected)
{
    char what[64];
    snprintf(what, sizeof what, "cut to %zu bytes", size);
    attempt(v, what, v->good.data, size, expected);
}

/* Flips one bit in each of n places spread over [from, to). */
static void flip_bits(victim *v, size_t from, size_t to, int n, outcome expected)
{
    for (int i = 0; i < n; i++) {
        size_t at = from + (to - from) * (size_t)i / (size_t)n;
        char what[64], byte = (char)(v->good.data[at] ^ (1 << (i * 5 % 8)));
        snprintf(what, sizeof what, "bit %d of byte %zu", i * 5 % 8, at);
        splice(v, what, at, 1, &byte, 1, expected);
    }
}

static size_t find(const victim *v, const char *text, size_t n)
{
    const char *p = memmem(v->good.data, v->good.size, text, n);
    if (!p) fail_msg("%s: \"%s\" is not in the good file", v->file, text);
    return (size_t)(p - v->good.data);
}

typedef struct edit {
    const char *from, *to;
    outcome expected;
} edit;

static void edit_text(victim *v, const edit *e)
{
    char what[256];
    snprintf(what, sizeof what, "%.100s -> %.100s", e->from, e->to);
    splice(v, what, find(v, e->from, strlen(e->from)), strlen(e->from), e->to, strlen(e->to),
           e->expected);
}

static void little(unsigned char *out, uint64_t v, int n)
{
    for (int i = 0; i < n; i++)
        out[i] = (unsigned char)(v >> (8 * i));
}

/* ---- safetensors ---- */

/* The header with a piece exchanged and its size put right; the data stays. */
static void edit_header(victim *v, const edit *e)
{
    char what[256];
    uint64_t n = 0;
    for (int i = 0; i < 8; i++)
        n |= (uint64_t)(unsigned char)v->good.data[i] << (8 * i);
    size_t at = *e->from ? find(v, e->from, strlen(e->from)) : 8;
    size_t n_old = *e->from ? strlen(e->from) : (size_t)n;
    tiny_text t = {0};
    unsigned char size[8];
    little(size, n - n_old + strlen(e->to), 8);
    tiny_put(&t, size, 8);
    tiny_put(&t, v->good.data + 8, at - 8);
    tiny_say(&t, e->to);
    tiny_put(&t, v->good.data + at + n_old, v->good.size - at - n_old);
    snprintf(what, sizeof what, "header: %.100s -> %.100s", e->from, e->to);
    attempt(v, what, t.data, t.size, e->expected);
    free(t.data);
}

#define EMBED "\"language_model.model.embed_tokens.weight\":"
#define SHAPE "\"shape\":[304,64]"
#define RANGE "\"data_offsets\":[0,38912]"
#define NORM_NAME "\"language_model.model.norm.weight\""

static const edit header_edits[] = {
    {"\"dtype\":\"BF16\"", "\"dtype\":\"F99\"", FAILS},
    {"\"dtype\":\"BF16\"", "\"dtype\":\"F32\"", FAILS},
    {"\"dtype\":\"BF16\"", "\"dtype\":\"U8\"", FAILS},
    {"\"dtype\":\"BF16\"", "\"dtype\":\"I16\"", FAILS},
    {"\"dtype\":\"BF16\"", "\"dtype\":\"bf16\"", FAILS},
    {"\"dtype\":\"BF16\"", "\"dtype\":7", FAILS},
    {"\"dtype\":\"BF16\"", "\"dtype\":null", FAILS},
    {"\"dtype\":\"BF16\"", "\"dtype\":[]", FAILS},
    {"\"dtype\":\"BF16\"", "\"dtype\":\"\\n\\u0001\"", FAILS},
    {"\"dtype\":\"BF16\",", "", FAILS},
    {"\"dtype\":\"BF16\"", "\"dtype\":\"F16\"", OPENS},
    {SHAPE, "\"shape\":[304,-64]", FAILS},
    {SHAPE, "\"shape\":[304,64.5]", FAILS},
    {SHAPE, "\"shape\":[304,1e300]", FAILS},
    {SHAPE, "\"shape\":[4294967296,4294967296]", FAILS},
    {SHAPE, "\"shape\":[9007199254740992,1024]", FAILS},
    {SHAPE, "\"shape\":[304,\"64\"]", FAILS},
    {SHAPE, "\"shape\":\"304,64\"", FAILS},
    {SHAPE, "\"shape\":[304,64,1,1,1]", FAILS},
    {SHAPE, "\"shape\":[304,64,1,1]", OPENS},
    {SHAPE, "\"shape\":[]", FAILS},
    {SHAPE, "\"shape\":{}", FAILS},
    {SHAPE, "\"shape\":null", FAILS},
    {SHAPE, "\"shape\":[304]", FAILS},
    {SHAPE, "\"shape\":[64,304]", FAILS},
    {SHAPE, "\"shape\":[304,0]", FAILS},
    {SHAPE, "\"shape\":[19456]", FAILS},
    {SHAPE ",", "", FAILS},
    {RANGE, "\"data_offsets\":[0,38911]", FAILS},
    {RANGE, "\"data_offsets\":[0,38913]", FAILS},
    {RANGE, "\"data_offsets\":[38912,0]", FAILS},
    {RANGE, "\"data_offsets\":[-2,38910]", FAILS},
    {RANGE, "\"data_offsets\":[0,1e30]", FAILS},
    {RANGE, "\"data_offsets\":[9007199254740000,9007199254778912]", FAILS},
    {RANGE, "\"data_offsets\":[0]", FAILS},
    {RANGE, "\"data_offsets\":[0,38912,1]", FAILS},
    {RANGE, "\"data_offsets\":[\"0\",\"38912\"]", FAILS},
    {RANGE, "\"data_offsets\":{\"a\":0,\"b\":38912}", FAILS},
    {RANGE, "\"data_offsets\":[0.5,38912.5]", FAILS},
    {RANGE, "\"data_offsets\":[2,38914]", FAILS},
    {RANGE, "\"data_offsets\":null", FAILS},
    {NORM_NAME ":{\"dtype\":\"BF16\",\"shape\":[64],\"data_offsets\":[38912,39040]",
     NORM_NAME ":{\"dtype\":\"BF16\",\"shape\":[64],\"data_offsets\":[0,128]", FAILS},
    {NORM_NAME ":{\"dtype\":\"BF16\",\"shape\":[64],\"data_offsets\":[38912,39040]",
     NORM_NAME ":{\"dtype\":\"BF16\",\"shape\":[64],\"data_offsets\":[38910,39038]", FAILS},
    {NORM_NAME, "\"language_model.model.embed_tokens.weight\"", FAILS},
    {NORM_NAME, "\"language_model.model.norms.weight\"", FAILS},
    {NORM_NAME, "\"\"", FAILS},
    {EMBED, EMBED "5,\"x\":", FAILS},
    {EMBED, EMBED "\"text\",\"x\":", FAILS},
    {EMBED, EMBED "[],\"x\":", FAILS},
    {EMBED, EMBED "null,\"x\":", FAILS},
    {EMBED, "\"other.weight\":", ELSEWHERE},
    {"\"vision_tower.vision_model.embeddings.class_embedding\"", "\"other\"", ELSEWHERE},
    {"\"multi_modal_projector.linear_2.weight\"", "\"other\"", ELSEWHERE},
    {"\"image_newline\"", "\"other\"", OPENS},
    {EMBED, "\"__metadata__\":{\"format\":\"pt\"}," EMBED, OPENS},
    {EMBED, "\"__metadata__\":5," EMBED, EITHER},
    {EMBED, "\"more\":{\"dtype\":\"I64\",\"shape\":[0],\"data_offsets\":[0,0]}," EMBED, OPENS},
    {EMBED, "\"more\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}," EMBED, FAILS},
    {"", "", FAILS},
    {"", "{", FAILS},
    {"", "{}", ELSEWHERE},
    {"", "[]", FAILS},
    {"", "null", FAILS},
    {"", "\"text\"", FAILS},
    {"", "{\"a\":{}}", FAILS},
    {"", "{\"__metadata__\":{}}", ELSEWHERE},
};

static void damaged_safetensors(void **state)
{
    victim v;
    victim_open(&v, *state, "model.safetensors");
    for (size_t i = 0; i < sizeof header_edits / sizeof *header_edits; i++)
        edit_header(&v, &header_edits[i]);
    const uint64_t file = v.good.size, header = find(&v, "}}", 2) + 2 - 8;
    const uint64_t sizes[] = {0, 1, 7, header - 3, header - 1, file - 8, file - 7, file, 100u << 20,
                              UINT64_C(1) << 31, UINT64_C(1) << 32, UINT64_C(1) << 63,
                              UINT64_MAX - 8, UINT64_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char bytes[8];
        little(bytes, sizes[i], 8);
        splice(&v, "header size", 0, 8, bytes, 8, FAILS);
    }
    for (size_t i = 0; i <= 9; i++)
        cut(&v, i, FAILS);
    for (size_t i = 1; i < 16; i++)
        cut(&v, file * i / 16, FAILS);
    cut(&v, header + 8, FAILS);
    cut(&v, file - 1, FAILS);
    splice(&v, "one byte more", file, 0, "x", 1, EITHER);
    flip_bits(&v, 0, 8, 8, FAILS);
    flip_bits(&v, 8, header + 8, 120, EITHER);
    flip_bits(&v, header + 8 + 64, file, 12, OPENS);
    victim_close(&v);
}

/* ---- JSON ---- */

static const edit config_edits[] = {
    {"\"model_type\":\"llava_next\"", "\"model_type\":\"llava_nxt\"", FAILS},
    {"\"model_type\":\"llava_next\"", "\"model_type\":\"qwen2_vl\"", FAILS},
    {"\"model_type\":\"llava_next\"", "\"model_type\":5", FAILS},
    {"\"model_type\":\"llava_next\"", "\"model_type\":\"llava\"", OPENS},
    {"\"model_type\":\"llama\"", "\"model_type\":\"gemma\"", FAILS},
    {"\"model_type\":\"llama\"", "\"model_type\":[]", FAILS},
    {"\"model_type\":\"llama\"", "\"model_type\":\"bad\\nname\"", FAILS},
    {"\"gelu\"", "\"relu9\"", FAILS},
    {"\"gelu\"", "7", FAILS},
    {"\"quick_gelu\"", "\"tanhh\"", FAILS},
    {"\"quick_gelu\"", "{}", FAILS},
    {"\"vision_feature_layer\":-2", "\"vision_feature_layer\":99", FAILS},
    {"\"vision_feature_layer\":-2", "\"vision_feature_layer\":-9", FAILS},
    {"\"vision_feature_layer\":-2", "\"vision_feature_layer\":1.5", FAILS},
    {"\"vision_feature_layer\":-2", "\"vision_feature_layer\":\"-2\"", FAILS},
    {"\"vision_feature_layer\":-2", "\"vision_feature_layer\":[]", FAILS},
    {"\"vision_feature_layer\":-2", "\"vision_feature_layer\":[1,2,3,1,2,3,1,2,3]", FAILS},
    {"\"vision_feature_layer\":-2", "\"vision_feature_layer\":[-2,\"x\"]", FAILS},
    {"\"vision_feature_layer\":-2", "\"vision_feature_layer\":[-2,-1]", ELSEWHERE},
    {"\"vision_feature_layer\":-2", "\"vision_feature_layer\":-1", OPENS},
    {"\"vision_feature_layer\":-2", "\"vision_feature_layer\":0", OPENS},
    {"\"vision_feature_layer\":-2", "\"vision_feature_layer\":1e99", FAILS},
    {"\"default\"", "\"some\"", FAILS},
    {"\"default\"", "[]", FAILS},
    {"\"default\"", "\"full\"", OPENS},
    {"[[28,56],[56,28]]", "[[28,56],[56]]", FAILS},
    {"[[28,56],[56,28]]", "[28,56]", FAILS},
    {"[[28,56],[56,28]]", "[[\"a\",\"b\"]]", FAILS},
    {"[[28,56],[56,28]]", "5", EITHER},
    {"\"tie_word_embeddings\":false", "\"tie_word_embeddings\":\"no\"", FAILS},
    {"\"tie_word_embeddings\":false", "\"tie_word_embeddings\":true", OPENS},
    {"\"text_config\":{", "\"text_config\":5,\"x\":{", EITHER},
    {"\"text_config\":{", "\"text_config\":[],\"x\":{", EITHER},
    {"\"vision_config\":{", "\"vision_config\":5,\"x\":{", EITHER},
    {"\"vision_config\":{", "\"other\":{", EITHER},
    {"\"hidden_size\":64", "\"rope_scaling\":{\"type\":\"yarn\"},\"hidden_size\":64", FAILS},
    {"\"hidden_size\":64", "\"rope_scaling\":{\"type\":5},\"hidden_size\":64", FAILS},
    {"\"hidden_size\":64", "\"rope_scaling\":{\"type\":\"linear\",\"factor\":0},\"hidden_size\":64",
     FAILS},
    {"\"hidden_size\":64", "\"rope_scaling\":{\"type\":\"llama3\",\"factor\":2},\"hidden_size\":64",
     FAILS},
    {"\"hidden_size\":64", "\"rope_scaling\":{\"rope_theta\":-1},\"hidden_size\":64", FAILS},
    {"\"hidden_size\":64", "\"head_dim\":9,\"hidden_size\":64", FAILS},
    {"\"hidden_size\":64", "\"head_dim\":32,\"hidden_size\":64", ELSEWHERE},
    {"\"num_key_value_heads\":2", "\"num_key_value_heads\":3", FAILS},
    {"\"num_attention_heads\":4,\"num_key", "\"num_attention_heads\":5,\"num_key", FAILS},
    {"\"patch_size\":14", "\"patch_size\":15", FAILS},
    {"\"patch_size\":14", "\"patch_size\":28", ELSEWHERE},
    {"\"num_hidden_layers\":2", "\"num_hidden_layers\":3", ELSEWHERE},
    {"\"num_hidden_layers\":2", "\"num_hidden_layers\":1", OPENS},
    {"\"vocab_size\":304", "\"vocab_size\":303", ELSEWHERE},
    {"{\"model", "[{\"model", FAILS},
    {"{\"model", "\xef\xbb\xbf{\"model", EITHER},
    {"{\"model", "{{\"model", FAILS},
};

/* Every number against every kind of wrong value. */
static void damage_numbers(victim *v)
{
    static const char *const numbers[] = {
        "\"hidden_size\":64", "\"intermediate_size\":96", "\"num_hidden_layers\":2",
        "\"num_attention_heads\":4", "\"num_key_value_heads\":2",
        "\"max_position_embeddings\":256", "\"vocab_size\":304", "\"hidden_size\":32",
        "\"intermediate_size\":48", "\"num_hidden_layers\":3", "\"image_size\":28",
        "\"patch_size\":14"};
    static const char *const values[] = {"-1", "0", "1e99", "1.5", "\"2\"", "[2]", "{}", "true",
                                         "99999999999"};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        for (size_t k = 0; k < sizeof values / sizeof *values; k++) {
            char to[128];
            int key = (int)(strchr(numbers[i], ':') - numbers[i]) + 1;
            snprintf(to, sizeof to, "%.*s%s", key, numbers[i], values[k]);
            edit_text(v, &(edit){numbers[i], to, FAILS});
        }
}

static void damage_json(victim *v, outcome cut_outcome)
{
    for (size_t i = 0; i < 24; i++)
        cut(v, v->good.size * i / 24, cut_outcome);
    cut(v, v->good.size - 1, cut_outcome);
    flip_bits(v, 0, v->good.size, 150, EITHER);
    tiny_text deep = {0};
    for (int i = 0; i < 200000; i++)
        tiny_say(&deep, "[");
    attempt(v, "deep nesting", deep.data, deep.size, FAILS);
    free(deep.data);
    attempt(v, "zeros", "\0\0\0\0\0\0\0\0", 8, FAILS);
    attempt(v, "a number", "17", 2, FAILS);
}

static void damaged_config(void **state)
{
    victim v;
    victim_open(&v, *state, "config.json");
    for (size_t i = 0; i < sizeof config_edits / sizeof *config_edits; i++)
        edit_text(&v, &config_edits[i]);
    damage_numbers(&v);
    damage_json(&v, FAILS);
    victim_close(&v);
}

static void damaged_preprocessor(void **state)
{
    static const edit edits[] = {
        {"[0.5,0.25,0.75]", "[0.5,0.25]", FAILS},
        {"[0.5,0.25,0.75]", "[0.5,0.25,\"x\"]", FAILS},
        {"[0.5,0.25,0.75]", "[0.5,0.25,1e999]", FAILS},
        {"[0.5,0.25,0.125]", "0.5", FAILS},
        {"[0.5,0.25,0.125]", "[0.5,0,0.125]", FAILS},
        {"[0.5,0.25,0.125]", "[0.5,-1,0.125]", FAILS},
        {"\"resample\":3", "\"resample\":9", FAILS},
        {"\"resample\":3", "\"resample\":1", FAILS},
        {"\"resample\":3", "\"resample\":\"3\"", FAILS},
        {"\"resample\":3", "\"resample\":2", OPENS},
        {"0.00392156862745098", "\"x\"", FAILS},
        {"\"shortest_edge\":32", "\"shortest_edge\":0", FAILS},
        {"\"shortest_edge\":32", "\"shortest_edge\":1e9", FAILS},
        {"\"shortest_edge\":32", "\"shortest_edge\":16", EITHER},
        {"{\"shortest_edge\":32}", "{}", OPENS},
        {"{\"shortest_edge\":32}", "48", OPENS},
        {"\"height\":28", "\"height\":32", ELSEWHERE},
        {"\"height\":28", "\"height\":-28", FAILS},
    };
    victim v;
    victim_open(&v, *state, "preprocessor_config.json");
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++)
        edit_text(&v, &edits[i]);
    damage_json(&v, FAILS);
    victim_close(&v);
}

static const edit tokenizer_edits[] = {
    {"\"type\":\"BPE\"", "\"type\":\"WordPiece\"", FAILS},
    {"\"type\":\"BPE\"", "\"type\":3", FAILS},
    {"\"vocab\":{", "\"vocab\":[],\"x\":{", FAILS},
    {"\"vocab\":{", "\"vocab\":null,\"x\":{", FAILS},
    {"\"vocab\":{", "\"vocab\":{},\"x\":{", FAILS},
    {"\"vocab\":{", "\"vocabs\":{", FAILS},
    {"\"a\":259", "\"a\":-1", FAILS},
    {"\"a\":259", "\"a\":1e10", FAILS},
    {"\"a\":259", "\"a\":4194304", FAILS},
    {"\"a\":259", "\"a\":4000000", EITHER},
    {"\"a\":259", "\"a\":\"259\"", FAILS},
    {"\"a\":259", "\"a\":[259]", FAILS},
    {"\"a\":259", "\"a\":null", FAILS},
    {"\"a\":259", "\"a\":260", EITHER},
    {"\"a\":259", "\"a\":303", OPENS},
    {"\"a\":259", "\"a\":304", EITHER},
    {"\"a\":259", "\"a\":9999", EITHER},
    {"\"a\":259", "\"\":259", EITHER},
    {"\"a\":259", "\"a\":259.5", EITHER},
    {"\"h e\"", "\"h\"", FAILS},
    {"\"h e\"", "\"\"", FAILS},
    {"\"h e\"", "\"h  e\"", FAILS},
    {"\"h e\"", "\" h e\"", FAILS},
    {"\"h e\"", "\"q z\"", FAILS},
    {"\"h e\"", "5", FAILS},
    {"\"h e\"", "null", FAILS},
    {"\"h e\"", "[\"h\",\"e\"]", OPENS},
    {"\"h e\"", "[\"h\"]", FAILS},
    {"\"h e\"", "[\"h\",\"e\",\"x\"]", FAILS},
    {"\"h e\"", "[\"h\",5]", FAILS},
    {"\"h e\"", "{\"h\":\"e\"}", FAILS},
    {"\"merges\":[", "\"merges\":5,\"x\":[", EITHER},
    {"\"merges\":[", "\"merges\":{},\"x\":[", EITHER},
    {"\"merges\":[", "\"merges\":\"h e\",\"x\":[", EITHER},
    {"\"merges\":[", "\"x\":[", EITHER},
    {"\"id\":295", "\"id\":-1", FAILS},
    {"\"id\":295", "\"id\":1e300", FAILS},
    {"\"id\":295", "\"id\":\"295\"", FAILS},
    {"\"id\":295", "\"id\":null", FAILS},
    {"\"id\":295,", "", FAILS},
    {"\"id\":295", "\"id\":0", EITHER},
    {"\"content\":\"<image>\"", "\"content\":5", EITHER},
    {"\"content\":\"<image>\"", "\"content\":\"\"", EITHER},
    {"\"special\":true", "\"special\":\"yes\"", EITHER},
    {"\"added_tokens\":[", "\"added_tokens\":5,\"x\":[", EITHER},
    {"\"added_tokens\":[", "\"added_tokens\":[5,", FAILS},
    {"\"added_tokens\":[", "\"added_tokens\":[{},", FAILS},
    {"\"added_tokens\":[", "\"added_tokens\":{\"a\":1},\"x\":[", FAILS},
    {"\"normalizers\":[", "\"normalizers\":[5,null,{},", EITHER},
    {"\"normalizer\":{", "\"normalizer\":7,\"x\":{", EITHER},
    {"\"pre_tokenizer\":null", "\"pre_tokenizer\":[]", EITHER},
    {"\"pre_tokenizer\":null", "\"pre_tokenizer\":{\"type\":5}", EITHER},
    {"\"pre_tokenizer\":null", "\"pre_tokenizer\":{\"type\":\"ByteLevel\"}", EITHER},
    {"\"pre_tokenizer\":null",
     "\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"((((\"}}", EITHER},
    {"\"decoders\":[", "\"decoders\":[null,[],", EITHER},
    {"\"unk_token\":\"<unk>\"", "\"unk_token\":5", EITHER},
    {"\"unk_token\":\"<unk>\"", "\"unk_token\":\"none\"", EITHER},
    {"\"<0x41>\":68", "\"<0x4>\":68", OPENS},
    {"\"<0x41>\":68", "\"<0x42>\":68", EITHER},
    {"\"<s>\":1", "\"<t>\":1", EITHER},
};

static void damaged_tokenizer(void **state)
{
    victim v;
    victim_open(&v, *state, "tokenizer.json");
    for (size_t i = 0; i < sizeof tokenizer_edits / sizeof *tokenizer_edits; i++)
        edit_text(&v, &tokenizer_edits[i]);
    damage_json(&v, FAILS);
    tiny_text longer = {0};
    tiny_say(&longer, "\"");
    for (int i = 0; i < 100000; i++)
        tiny_say(&longer, "h");
    tiny_say(&longer, " e\"");
    edit_text(&v, &(edit){"\"h e\"", longer.data, FAILS});
    free(longer.data);
    victim_close(&v);
}

/* ---- GGUF ---- */

/* An integer of n bytes put `skip` bytes behind a text in the file. */
typedef struct patch {
    const char *behind;
    int skip, n;
    uint64_t value;
    outcome expected;
} patch;

static void apply(victim *v, const patch *p)
{
    char what[160];
    unsigned char bytes[8];
    little(bytes, p->value, p->n);
    snprintf(what, sizeof what, "%s + %d = %llu", p->behind, p->skip,
             (unsigned long long)p->value);
    size_t at = find(v, p->behind, strlen(p->behind)) + strlen(p->behind);
    splice(v, what, at + (size_t)p->skip, (size_t)p->n, bytes, (size_t)p->n, p->expected);
}

/* Behind a key: its type (4 bytes), then the value; arrays: item type, 8-byte count, items.
 * Behind a tensor's name: rank (4), sizes (8 each, innermost first), type (4), offset (8). */
#define Q "blk.0.attn_q.weight"
#define U64(x) UINT64_C(x)
static const patch text_patches[] = {
    {"GGUF", 0, 4, 0, FAILS}, {"GGUF", 0, 4, 1, FAILS}, {"GGUF", 0, 4, 4, FAILS},
    {"GGUF", 0, 4, 0x03000000, FAILS}, {"GGUF", 0, 4, 2, OPENS},
    {"GGUF", 4, 8, 0, FAILS}, {"GGUF", 4, 8, 1, FAILS}, {"GGUF", 4, 8, 5, FAILS},
    {"GGUF", 4, 8, 1000, FAILS}, {"GGUF", 4, 8, U64(1) << 31, FAILS},
    {"GGUF", 4, 8, U64(1) << 40, FAILS}, {"GGUF", 4, 8, UINT64_MAX, FAILS},
    {"GGUF", 12, 8, 0, FAILS}, {"GGUF", 12, 8, 1, FAILS}, {"GGUF", 12, 8, 100, FAILS},
    {"GGUF", 12, 8, U64(1) << 32, FAILS}, {"GGUF", 12, 8, UINT64_MAX, FAILS},
    {"GGUF", 20, 8, 0, FAILS}, {"GGUF", 20, 8, U64(1) << 33, FAILS},
    {"GGUF", 20, 8, UINT64_MAX, FAILS},
    {"general.alignment", 0, 4, 8, FAILS}, {"general.alignment", 0, 4, 13, FAILS},
    {"general.alignment", 0, 4, 77, FAILS}, {"general.alignment", 0, 4, UINT32_MAX, FAILS},
    {"general.alignment", 4, 4, 0, FAILS}, {"general.alignment", 4, 4, 7, FAILS},
    {"general.alignment", 4, 4, 33, FAILS}, {"general.alignment", 4, 4, 1u << 30, FAILS},
    {"general.alignment", 4, 4, 1024, FAILS},
    {"general.architecture", 4, 8, U64(1) << 50, FAILS},
    {"general.architecture", 12, 1, 'L', FAILS}, {"general.architecture", 0, 4, 9, FAILS},
    {"llama.block_count", 0, 4, 6, FAILS}, {"llama.block_count", 4, 4, 0, FAILS},
    {"llama.block_count", 4, 4, 3, FAILS}, {"llama.block_count", 4, 4, 1, OPENS},
    {"llama.block_count", 4, 4, UINT32_MAX, FAILS}, {"llama.block_coun", 0, 1, 'x', FAILS},
    {"llama.embedding_length", 4, 4, 63, FAILS}, {"llama.embedding_length", 4, 4, 128, FAILS},
    {"llama.embedding_length", 4, 4, 0, FAILS}, {"llama.feed_forward_length", 4, 4, 95, FAILS},
    {"llama.feed_forward_length", 0, 4, 6, FAILS}, {"llama.context_length", 4, 4, 0, FAILS},
    {"llama.context_length", 4, 4, U64(1) << 31, FAILS},
    {"llama.attention.head_count", 4, 4, 0, FAILS}, {"llama.attention.head_count", 4, 4, 3, FAILS},
    {"llama.attention.head_count", 4, 4, 1u << 20, FAILS},
    {"llama.attention.head_count_kv", 4, 4, 3, FAILS},
    {"llama.attention.head_count_kv", 4, 4, 0, FAILS},
    {"llama.attention.head_count_kv", 4, 4, 4, FAILS},
    {"llama.attention.key_length", 4, 4, 7, FAILS}, {"llama.attention.key_length", 4, 4, 9, FAILS},
    {"llama.attention.key_length", 4, 4, 24, FAILS},
    {"llama.attention.value_length", 4, 4, 8, FAILS},
    {"llama.rope.dimension_count", 4, 4, 8, FAILS},
    {"llama.rope.freq_base", 4, 4, 0x7fc00000, FAILS}, {"llama.rope.freq_base", 4, 4, 0, FAILS},
    {"llama.rope.freq_base", 4, 4, 0xc0000000, FAILS}, {"llama.rope.freq_base", 0, 4, 4, FAILS},
    {"llama.attention.layer_norm_rms_epsilon", 4, 4, 0x7f800000, FAILS},
    {"tokenizer.ggml.model", 12, 1, 'x', FAILS}, {"tokenizer.ggml.model", 4, 8, 4, FAILS},
    {"tokenizer.ggml.tokens", 0, 4, 8, FAILS}, {"tokenizer.ggml.tokens", 4, 4, 4, FAILS},
    {"tokenizer.ggml.tokens", 4, 4, 9, FAILS}, {"tokenizer.ggml.tokens", 4, 4, 99, FAILS},
    {"tokenizer.ggml.tokens", 8, 8, 303, FAILS}, {"tokenizer.ggml.tokens", 8, 8, 305, FAILS},
    {"tokenizer.ggml.tokens", 8, 8, U64(1) << 60, FAILS},
    {"tokenizer.ggml.tokens", 16, 8, U64(1) << 60, FAILS},
    {"tokenizer.ggml.token", 0, 1, 'x', FAILS},
    {"tokenizer.ggml.scores", 4, 4, 5, FAILS}, {"tokenizer.ggml.scores", 8, 8, 303, FAILS},
    {"tokenizer.ggml.scores", 8, 8, U64(1) << 62, FAILS},
    {"tokenizer.ggml.scores", 16, 4, 0x7fc00000, FAILS},
    {"tokenizer.ggml.token_type", 16, 4, 77, FAILS},
    {"tokenizer.ggml.token_type", 16, 4, UINT32_MAX, FAILS},
    {"tokenizer.ggml.token_type", 4, 4, 6, FAILS},
    {"tokenizer.ggml.merges", 4, 4, 0, FAILS}, {"tokenizer.ggml.merges", 24, 1, 'Q', FAILS},
    {"tokenizer.ggml.bos_token_id", 4, 4, 9999, FAILS},
    {"tokenizer.ggml.bos_token_id", 4, 4, 304, FAILS},
    {"tokenizer.ggml.bos_token_id", 0, 4, 7, FAILS},
    {"tokenizer.ggml.eos_token_id", 4, 4, UINT32_MAX, FAILS},
    {"tokenizer.ggml.add_", 0, 3, 'e' | 'o' << 8 | 's' << 16, FAILS}, /* add_eos_token twice */
    {"tokenizer.ggml.add_bos_token", 4, 1, 2, FAILS},
    {"squint.template", 12, 1, 'w', FAILS}, {"squint.template", 0, 4, 4, FAILS},
    {Q, 0, 4, 0, FAILS}, {Q, 0, 4, 1, FAILS}, {Q, 0, 4, 3, FAILS}, {Q, 0, 4, 5, FAILS},
    {Q, 0, 4, UINT32_MAX, FAILS}, {Q, 4, 8, 0, FAILS}, {Q, 4, 8, 63, FAILS}, {Q, 4, 8, 65, FAILS},
    {Q, 4, 8, U64(1) << 62, FAILS}, {Q, 4, 8, UINT64_MAX, FAILS}, {Q, 12, 8, 32, FAILS},
    {Q, 12, 8, U64(1) << 57, FAILS}, {Q, 20, 4, 0, FAILS}, {Q, 20, 4, 2, FAILS},
    {Q, 20, 4, 12, FAILS}, {Q, 20, 4, 26, FAILS}, {Q, 20, 4, 77, FAILS},
    {Q, 20, 4, UINT32_MAX, FAILS}, {Q, 20, 4, 8, OPENS}, {Q, 20, 4, 30, OPENS},
    {Q, 24, 8, 1, FAILS}, {Q, 24, 8, 32, FAILS}, {Q, 24, 8, 0, FAILS},
    {Q, 24, 8, U64(1) << 40, FAILS}, {Q, 24, 8, UINT64_MAX - 31, FAILS},
    {"blk.0.attn_", 0, 1, 'k', FAILS}, {"blk.0.attn_", 0, 1, 'x', FAILS},
    {"blk.0.attn_", 0, 1, 0, FAILS}, {"blk.1.ffn_down.weigh", 0, 1, 'x', FAILS},
};

static const patch vision_patches[] = {
    {"GGUF", 0, 4, 9, FAILS}, {"GGUF", 4, 8, 3, FAILS}, {"GGUF", 12, 8, 3, FAILS},
    {"general.architecture", 12, 1, 'x', FAILS},
    {"clip.has_vision_encoder", 4, 1, 0, FAILS}, {"clip.has_vision_encoder", 4, 1, 7, FAILS},
    {"clip.projector_type", 12, 1, 'x', FAILS},
    {"clip.vision.image_size", 4, 4, 29, FAILS}, {"clip.vision.image_size", 4, 4, 0, FAILS},
    {"clip.vision.image_size", 4, 4, 56, FAILS}, {"clip.vision.image_size", 0, 4, 6, FAILS},
    {"clip.vision.patch_size", 4, 4, 0, FAILS}, {"clip.vision.patch_size", 4, 4, 15, FAILS},
    {"clip.vision.patch_size", 4, 4, 7, FAILS}, {"clip.vision.patch_siz", 0, 1, 'x', FAILS},
    {"clip.vision.embedding_length", 4, 4, 40, FAILS},
    {"clip.vision.embedding_length", 4, 4, 0, FAILS},
    {"clip.vision.feed_forward_length", 4, 4, 64, FAILS},
    {"clip.vision.feed_forward_length", 4, 4, U64(1) << 31, FAILS},
    {"clip.vision.attention.head_count", 4, 4, 0, FAILS},
    {"clip.vision.attention.head_count", 4, 4, 3, FAILS},
    {"clip.vision.attention.head_count", 4, 4, 8, FAILS},
    {"clip.vision.attention.head_count", 4, 4, 2, OPENS},
    {"clip.vision.attention.layer_norm_epsilon", 0, 4, 4, FAILS},
    {"clip.vision.block_count", 4, 4, 0, FAILS}, {"clip.vision.block_count", 4, 4, 4, FAILS},
    {"clip.vision.block_count", 4, 4, 1, FAILS}, {"clip.vision.block_count", 4, 4, 2, OPENS},
    {"clip.vision.feature_layer", 16, 4, 4, FAILS},
    {"clip.vision.feature_layer", 16, 4, 0xfffffff0, FAILS},
    {"clip.vision.feature_layer", 16, 4, 3, OPENS}, {"clip.vision.feature_layer", 16, 4, 0, OPENS},
    {"clip.vision.feature_layer", 16, 4, 0xfffffffe, OPENS},
    {"clip.vision.feature_layer", 8, 8, 0, FAILS}, {"clip.vision.feature_layer", 8, 8, 40, FAILS},
    {"clip.vision.feature_layer", 4, 4, 6, FAILS},
    {"clip.vision.image_mean", 8, 8, 2, FAILS}, {"clip.vision.image_mean", 4, 4, 5, FAILS},
    {"clip.vision.image_mean", 16, 4, 0x7fc00000, FAILS},
    {"clip.vision.image_std", 16, 4, 0, FAILS}, {"clip.vision.image_std", 16, 4, 0xbf800000, FAILS},
    {"squint.fit", 12, 1, 'x', FAILS}, {"squint.fit", 0, 4, 5, FAILS},
    {"squint.tiled", 4, 1, 9, FAILS}, {"squint.image_grid_pinpoints", 8, 8, 3, FAILS},
    {"squint.image_grid_pinpoints", 4, 4, 8, FAILS},
    {"squint.image_grid_pinpoints", 16, 4, UINT32_MAX, EITHER},
    {"squint.vision.feature_strategy", 12, 1, 'x', FAILS},
    {"squint.vision.resize", 4, 4, 0, FAILS}, {"squint.vision.resize", 4, 4, 1u << 30, FAILS},
    {"v.class_embd", 4, 8, 31, FAILS}, {"v.class_emb", 0, 1, 'x', FAILS},
    {"v.patch_embd.weight", 4, 8, 13, FAILS}, {"v.patch_embd.weight", 36, 4, 12, FAILS},
    {"v.position_embd.weight", 12, 8, 6, FAILS}, {"v.position_embd.weight", 12, 8, 4, FAILS},
    {"v.blk.1.ffn_up.weight", 4, 8, 16, FAILS}, {"v.blk.1.ffn_up.weight", 20, 4, 3, FAILS},
    {"v.blk.2.attn_q.bia", 0, 1, 'x', FAILS}, {"v.blk.2.ln1.weigh", 0, 1, 0, FAILS},
    {"mm.0.weight", 12, 8, 32, FAILS}, {"mm.2.weight", 12, 8, 63, FAILS},
    {"mm.2.weigh", 0, 1, 'x', FAILS}, {"mm.0.bias", 4, 8, 63, FAILS},
    {"v.image_newline", 4, 8, 32, FAILS}, {"v.image_newlin", 0, 1, 'x', OPENS},
};

static void damage_gguf(victim *v, const patch *patches, size_t n, const char *first_tensor,
                        const char *last_tensor)
{
    size_t tensors = find(v, first_tensor, strlen(first_tensor));
    size_t data = find(v, last_tensor, strlen(last_tensor)) + 64;
    for (size_t i = 0; i < n; i++)
        apply(v, &patches[i]);
    for (size_t i = 0; i < 24; i += i < 8 ? 1 : 4)
        cut(v, i, FAILS);
    for (size_t i = 1; i < 32; i++)
        cut(v, v->good.size * i / 32, FAILS);
    cut(v, tensors, FAILS);
    cut(v, tensors + 30, FAILS);
    cut(v, v->good.size - 33, FAILS);
    flip_bits(v, 0, 24, 24, EITHER);
    flip_bits(v, 24, tensors, 100, EITHER);
    flip_bits(v, tensors, data, 100, EITHER);
    flip_bits(v, data, v->good.size, 12, OPENS);
}

static void damaged_gguf_text(void **state)
{
    victim v;
    victim_open(&v, *state, "tiny-f16.gguf");
    damage_gguf(&v, text_patches, sizeof text_patches / sizeof *text_patches, "token_embd.weight",
                "blk.1.ffn_down.weight");
    victim_close(&v);
}

static void damaged_gguf_vision(void **state)
{
    victim v;
    victim_open(&v, *state, "mmproj-tiny-f16.gguf");
    damage_gguf(&v, vision_patches, sizeof vision_patches / sizeof *vision_patches, "v.class_embd",
                "v.image_newline");
    victim_close(&v);
}

/* ---- the good ones ---- */

static char hf_dir[256], gguf_dir[256];

static int make_hf(void **state)
{
    tiny_dir(hf_dir, sizeof hf_dir);
    tiny_hf(hf_dir, "llama", "", false, false);
    *state = hf_dir;
    return 0;
}

static int remove_hf(void **state)
{
    (void)state;
    tiny_remove(hf_dir);
    return 0;
}

static int make_gguf(void **state)
{
    sq_model *m = NULL;
    make_hf(state);
    tiny_dir(gguf_dir, sizeof gguf_dir);
    int rc = sq_model_open(&m, hf_dir, NULL);
    if (!rc) rc = sq_model_convert(m, gguf_dir, "tiny", "f16", NULL, NULL);
    sq_model_close(&m);
    tiny_remove(hf_dir);
    *state = gguf_dir;
    return rc;
}

static int remove_gguf(void **state)
{
    (void)state;
    tiny_remove(gguf_dir);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(damaged_safetensors, make_hf, remove_hf),
        cmocka_unit_test_setup_teardown(damaged_config, make_hf, remove_hf),
        cmocka_unit_test_setup_teardown(damaged_preprocessor, make_hf, remove_hf),
        cmocka_unit_test_setup_teardown(damaged_tokenizer, make_hf, remove_hf),
        cmocka_unit_test_setup_teardown(damaged_gguf_text, make_gguf, remove_gguf),
        cmocka_unit_test_setup_teardown(damaged_gguf_vision, make_gguf, remove_gguf),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
