/* GGUF: files of another writer against numpy, and squint's own conversion there and back. */
#define _GNU_SOURCE
#include "core/json.h"
#include "models/gguf_parts.h"
#include "squint.h"
#include "tiny_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define GOLDEN SQ_SOURCE_DIR "/tests/golden/gguf"

static sq_backend *be;

static int open_backend(void **state)
{
    (void)state;
    backend_options o = {.compute = SQ_COMPUTE_F32, .n_threads = 1};
    sq_error err = {0};
    return backend_open(&be, &o, &err);
}

static int close_backend(void **state)
{
    (void)state;
    backend_close(&be);
    return 0;
}

static void open_model(model *m, const char *path, const model_options *opt)
{
    sq_error err = {0};
    int rc = model_open(m, path, opt, NULL, &err);
    if (rc) fail_msg("%s", err.text);
}

/* logits[n, n_vocab] of ids, malloc'ed. */
static float *run_text(const model *m, const int32_t *ids, int n)
{
    const decoder_config *c = &m->dec.cfg;
    sq_error err = {0};
    kv_cache kv;
    arena dev = {.source = &be->memory};
    int32_t pos[64];
    float *logits = malloc((size_t)n * (size_t)c->n_vocab * sizeof *logits);
    assert_non_null(logits);
    sq_tensor x = tensor_2d(arena_alloc(&dev, (size_t)n * (size_t)c->dim * 4), SQ_DTYPE_F32, n,
                            c->dim);
    size_t row = dtype_row_bytes(m->dec.tok_embd.dtype, c->dim);
    for (int i = 0; i < n; i++) {
        pos[i] = i;
        convert_to_f32((float *)x.data + (size_t)i * (size_t)c->dim,
                       (const char *)m->dec.tok_embd.data + (size_t)ids[i] * row,
                       m->dec.tok_embd.dtype, c->dim);
    }
    assert_int_equal(kv_cache_open(&kv, be, c->n_layer, n, c->n_head_kv * c->head_dim,
                                   SQ_DTYPE_F32, &err), 0);
    decoder_result want = {.all_logits = logits};
    assert_int_equal(decoder_forward(be, &m->dec, &kv, &x, pos, &want, &dev, &err), 0);
    kv_cache_close(&kv);
    arena_close(&dev);
    return logits;
}

/* projected[n_patch, out_dim] of a fixed pattern, malloc'ed. */
static float *run_vision(const model *m)
{
    sq_error err = {0};
    arena dev = {.source = &be->memory}, host = {0};
    vit_output out;
    size_t side = (size_t)m->vit.cfg.image_size, n = 3 * side * side;
    float *pixels = malloc(n * sizeof *pixels);
    assert_non_null(pixels);
    for (size_t i = 0; i < n; i++)
        pixels[i] = (float)(i * 37 % 101) / 50.0f - 1.0f;
    vit_views views = {.n = 1, .planes = pixels};
    assert_int_equal(vit_forward(be, &m->vit, &views, NULL, &out, &dev, &host, NULL, NULL, &err),
                     0);
    size_t bytes = (size_t)out.n_patch * (size_t)m->proj.out_dim * sizeof(float);
    sq_tensor y = tensor_2d(arena_alloc(&dev, bytes), SQ_DTYPE_F32, out.n_patch, m->proj.out_dim);
    sq_tensor features = vit_features(&out, 0);
    assert_int_equal(projector_forward(be, &m->proj, &y, &features, &dev, &err), 0);
    float *result = malloc(bytes);
    assert_non_null(result);
    be->read(be, result, y.data, bytes);
    arena_close(&dev);
    arena_close(&host);
    free(pixels);
    return result;
}

/* Largest |a - b| over the largest |b|; a NaN counts as infinite. */
static double distance(const float *a, const float *b, size_t n)
{
    double most = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - b[i]);
        if (!(d <= most)) most = isnan(d) ? INFINITY : d;
        if (fabs((double)b[i]) > size) size = fabs((double)b[i]);
    }
    return size > 0 ? most / size : most;
}

/* ---- against the gguf package and numpy ---- */

static const cJSON *golden(json_doc *doc, const char *key)
{
    const cJSON *j = json_find(doc, key);
    assert_non_null(j);
    return j;
}

static size_t flatten(const cJSON *j, float *out, size_t max)
{
    size_t n = 0;
    for (const cJSON *row = j->child; row; row = row->next)
        for (const cJSON *v = row->child; v && n < max; v = v->next)
            out[n++] = (float)v->valuedouble;
    return n;
}

/* f32 sums of at most 588 products of values around 1, through a few layers, against float64. */
static const double close_enough = 2e-5;

static void other_writers_file_equals_numpy(void **state)
{
    (void)state;
    json_doc doc;
    model m;
    int32_t ids[16];
    int n = 0;
    float want[1024];
    assert_int_equal(json_open(&doc, GOLDEN "/gguf_golden.json", 0, NULL), 0);
    open_model(&m, GOLDEN, NULL);
    for (const cJSON *v = golden(&doc, "ids")->child; v; v = v->next)
        ids[n++] = v->valueint;
    float *logits = run_text(&m, ids, n), *features = run_vision(&m);
    assert_int_equal(flatten(golden(&doc, "logits"), want, 1024), n * m.dec.cfg.n_vocab);
    assert_true(distance(logits, want, (size_t)n * (size_t)m.dec.cfg.n_vocab) < close_enough);
    assert_int_equal(flatten(golden(&doc, "features"), want, 1024), 4 * m.proj.out_dim);
    assert_true(distance(features, want, 4 * (size_t)m.proj.out_dim) < close_enough);
    assert_int_equal(m.dec.tok_embd.dtype, SQ_DTYPE_F16);
    assert_int_equal(m.dec.head.dtype, SQ_DTYPE_BF16);
    assert_int_equal(m.dec.layer[1].q_w.dtype, SQ_DTYPE_Q8_0);
    assert_true(m.dec.cfg.rope.interleaved && m.dec.cfg.rope.freq_factor);
    assert_int_equal(m.vit.cfg.n_layer, 4);
    assert_int_equal(m.vit.cfg.feature[0], 3);
    assert_true(tensor_is_set(&m.proj.newline));
    assert_true(m.pre.fit == FIT_PAD && !m.tiled && m.pre.std[2] == 0.3f);
    assert_string_equal(m.tmpl->name, "vicuna_v1");
    assert_string_equal(m.arch, "llava");
    free(logits);
    free(features);
    model_close(&m);
    json_close(&doc);
}

static void older_vision_file_gives_the_same(void **state)
{
    (void)state;
    model now, old;
    model_options opt = {.mmproj = GOLDEN "/legacy/mmproj.gguf", .fit = FIT_AUTO};
    open_model(&now, GOLDEN, NULL);
    open_model(&old, GOLDEN "/tiny.gguf", &opt);
    assert_int_equal(old.vit.cfg.n_loaded, 3);
    assert_int_equal(old.vit.cfg.n_layer, 4);
    assert_int_equal(old.vit.cfg.feature[0], 3);
    assert_true(tensor_is_set(&old.proj.newline));
    float *a = run_vision(&now), *b = run_vision(&old);
    assert_memory_equal(a, b, 4 * (size_t)now.proj.out_dim * sizeof *a);
    free(a);
    free(b);
    model_close(&now);
    model_close(&old);
}

static void scores_decide_the_tokens(void **state)
{
    (void)state;
    json_doc doc;
    model m;
    sq_error err = {0};
    assert_int_equal(json_open(&doc, GOLDEN "/gguf_golden.json", 0, NULL), 0);
    open_model(&m, GOLDEN, NULL);
    for (const cJSON *c = golden(&doc, "texts")->child; c; c = c->next) {
        const char *text = cJSON_GetObjectItem(c, "text")->valuestring;
        const cJSON *want = cJSON_GetObjectItem(c, "ids");
        int32_t *ids;
        int n;
        assert_int_equal(tokenizer_encode(m.tok, text, strlen(text), 0, &ids, &n, &err), 0);
        assert_int_equal(n, cJSON_GetArraySize(want));
        for (int i = 0; i < n; i++)
            assert_int_equal(ids[i], cJSON_GetArrayItem(want, i)->valueint);
        free(ids);
    }
    model_close(&m);
    json_close(&doc);
}

static void q8_0_blocks_are_the_packages(void **state)
{
    (void)state;
    json_doc doc;
    float from[256], back[256];
    block_q8_0 got[8];
    assert_int_equal(json_open(&doc, GOLDEN "/gguf_golden.json", 0, NULL), 0);
    assert_int_equal(flatten(golden(&doc, "q8_0_from"), from, 256), 256);
    convert_from_f32(got, SQ_DTYPE_Q8_0, from, 256);
    const unsigned char *bytes = (const unsigned char *)got;
    size_t at = 0;
    for (const cJSON *row = golden(&doc, "q8_0")->child; row; row = row->next)
        for (const cJSON *v = row->child; v; v = v->next)
            assert_int_equal(bytes[at++], v->valueint);
    assert_int_equal(at, sizeof got);
    convert_to_f32(back, got, SQ_DTYPE_Q8_0, 256);
    for (int b = 0; b < 8; b++)
        for (int i = 0; i < 32; i++) /* half a step, and the scale's own rounding to f16 */
            assert_true(fabsf(back[b * 32 + i] - from[b * 32 + i]) <=
                        f16_to_f32(got[b].d) * (0.5f + 127 * 0x1p-11f) + 0x1p-24f * 127);
    json_close(&doc);
}

/* ---- squint's own conversion ---- */

typedef struct notices {
    int n_warn;
    char text[4096];
} notices;

static void note(void *user, sq_log_level level, const char *line)
{
    notices *n = user;
    size_t used = strlen(n->text);
    n->n_warn += level == SQ_LOG_WARN;
    snprintf(n->text + used, sizeof n->text - used, "%s\n", line);
}

static void convert(const model *m, const char *dir, sq_dtype type, notices *n)
{
    sq_error err = {0};
    sq_log log = {note, n};
    if (model_convert(m, dir, "tiny", type, NULL, n ? &log : NULL, &err)) fail_msg("%s", err.text);
}

/* Row r of head-wise pairs: GGUF's row 2j+s of a head is row s*half+j of the source. */
static int64_t expected_row(int64_t r, int64_t rows, int heads)
{
    int64_t size = rows / heads, head = r / size, j = r % size / 2, s = r % 2;
    return head * size + s * (size / 2) + j;
}

/* b must hold exactly what a's values are in b's type. */
static void check_slot(const char *name, const sq_tensor *a, const sq_tensor *b, int heads)
{
    if (tensor_is_set(a) != tensor_is_set(b)) fail_msg("%s: only on one side", name);
    if (!tensor_is_set(a)) return;
    assert_int_equal(tensor_count(a), tensor_count(b));
    int64_t cols = a->rank == 1 && !heads ? a->shape[0] : a->rank == 1 ? 1 : a->shape[1];
    int64_t rows = tensor_count(a) / cols;
    float from[1024], want[1024], got[1024];
    unsigned char stored[4096];
    assert_true(cols <= 1024);
    for (int64_t r = 0; r < rows; r++) {
        int64_t source = heads ? expected_row(r, rows, heads) : r;
        convert_to_f32(from,
                       (const char *)a->data + (size_t)source * dtype_row_bytes(a->dtype, cols),
                       a->dtype, cols);
        convert_from_f32(stored, b->dtype, from, cols);
        convert_to_f32(want, stored, b->dtype, cols);
        convert_to_f32(got, (const char *)b->data + (size_t)r * dtype_row_bytes(b->dtype, cols),
                       b->dtype, cols);
        if (memcmp(want, got, (size_t)cols * sizeof *want) != 0)
            fail_msg("%s: row %d", name, (int)r);
    }
}

static void check_table(const gguf_name *names, const void *a, const void *b, const model *m)
{
    for (const gguf_name *n = names; n->name; n++) {
        bool turned = m && !m->dec.cfg.rope.interleaved;
        int heads = !turned                   ? 0
                    : n->flags & GGUF_ROPE_Q  ? m->dec.cfg.n_head
                    : n->flags & GGUF_ROPE_K  ? m->dec.cfg.n_head_kv
                                              : 0;
        check_slot(n->name, gguf_slot((void *)(size_t)a, n), gguf_slot((void *)(size_t)b, n),
                   heads);
    }
}

static void check_config(const model *a, const model *b)
{
    const decoder_config *c = &a->dec.cfg, *d = &b->dec.cfg;
    assert_true(c->dim == d->dim && c->ffn_dim == d->ffn_dim && c->n_layer == d->n_layer);
    assert_true(c->n_head == d->n_head && c->n_head_kv == d->n_head_kv);
    assert_true(c->head_dim == d->head_dim && c->n_vocab == d->n_vocab && c->n_ctx == d->n_ctx);
    assert_true(c->eps == d->eps && c->rope.theta == d->rope.theta && c->window == d->window);
    const vit_config *v = &a->vit.cfg, *w = &b->vit.cfg;
    assert_true(v->n_layer == w->n_layer && v->n_loaded == w->n_loaded && v->act == w->act);
    assert_true(v->dim == w->dim && v->ffn_dim == w->ffn_dim && v->n_head == w->n_head);
    assert_true(v->image_size == w->image_size && v->patch_size == w->patch_size);
    assert_true(v->eps == w->eps && v->n_feature == w->n_feature && v->keep_cls == w->keep_cls);
    assert_true(v->feature[0] == w->feature[0] && a->proj.act == b->proj.act);
    assert_true(a->tiled == b->tiled && a->n_pinpoint == b->n_pinpoint);
    assert_memory_equal(a->pinpoint, b->pinpoint, sizeof a->pinpoint);
    assert_true(a->pre.fit == b->pre.fit && a->pre.resize == b->pre.resize);
    assert_true(a->pre.side == b->pre.side && a->pre.filter == b->pre.filter);
    assert_memory_equal(a->pre.mean, b->pre.mean, sizeof a->pre.mean);
    assert_memory_equal(a->pre.std, b->pre.std, sizeof a->pre.std);
    assert_true(a->pre.rescale == b->pre.rescale && a->tmpl == b->tmpl);
    assert_string_equal(a->arch, b->arch);
}

static void check_tokens(const model *a, const model *b)
{
    static const char *const texts[] = {
        "the cat in the hat", "Caf\xc3\xa9 \xe2\x82\xac 7", "", "  an ", "<s>the</s>", "a\nb\tin"};
    sq_error err = {0};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        int32_t *x, *y;
        char *s, *t;
        int n, k;
        size_t size;
        unsigned flags = TOKENIZE_BOS | (i == 4 ? TOKENIZE_SPECIAL : 0);
        assert_int_equal(tokenizer_encode(a->tok, texts[i], strlen(texts[i]), flags, &x, &n, &err),
                         0);
        assert_int_equal(tokenizer_encode(b->tok, texts[i], strlen(texts[i]), flags, &y, &k, &err),
                         0);
        assert_int_equal(n, k);
        assert_memory_equal(x, y, (size_t)n * sizeof *x);
        assert_int_equal(tokenizer_decode(a->tok, x, n, &s, &size, &err), 0);
        assert_int_equal(tokenizer_decode(b->tok, x, n, &t, &size, &err), 0);
        assert_string_equal(s, t);
        free(x), free(y), free(s), free(t);
    }
}

static void check_models(const model *a, const model *b)
{
    check_config(a, b);
    check_tokens(a, b);
    check_table(gguf_text_names, &a->dec, &b->dec, NULL);
    bool permuted = a->dec.cfg.rope.interleaved != b->dec.cfg.rope.interleaved;
    for (int i = 0; i < a->dec.cfg.n_layer; i++)
        check_table(gguf_text_layer_names, &a->dec.layer[i], &b->dec.layer[i], permuted ? a : NULL);
    check_table(gguf_vision_names, &a->vit, &b->vit, NULL);
    for (int i = 0; i < a->vit.cfg.n_loaded; i++)
        check_table(gguf_vision_layer_names, &a->vit.layer[i], &b->vit.layer[i], NULL);
    check_table(gguf_projector_names, &a->proj, &b->proj, NULL);
}

static void there_and_back(const char *family, bool bias, bool tied, sq_dtype type, double limit)
{
    static const int32_t ids[] = {1, 289, 262, 40, 285, 303, 7, 7, 291};
    char hf[256], out[256];
    model a, b;
    notices told = {0};
    tiny_dir(hf, sizeof hf);
    tiny_dir(out, sizeof out);
    tiny_hf(hf, family, "", bias, tied);
    open_model(&a, hf, NULL);
    convert(&a, out, type, &told);
    open_model(&b, out, NULL);
    check_models(&a, &b);
    assert_non_null(strstr(told.text, "2 tensors that the model does not use"));
    assert_int_equal(strstr(told.text, "3 matrices are written as f16") != NULL,
                     type == SQ_DTYPE_Q8_0);
    assert_int_equal(b.dec.cfg.rope.interleaved, strcmp(family, "llama") == 0);
    assert_int_equal(b.dec.head.data == b.dec.tok_embd.data, tied);
    assert_int_equal(b.dec.layer[0].q_w.dtype, type);
    assert_int_equal(b.vit.layer[0].fc2_w.dtype, type == SQ_DTYPE_Q8_0 ? SQ_DTYPE_F16 : type);
    assert_int_equal(b.vit.patch_w.dtype, SQ_DTYPE_F16);
    assert_int_equal(b.vit.pos_embd.dtype, SQ_DTYPE_F32);
    assert_int_equal(b.dec.norm.dtype, SQ_DTYPE_F32);
    float *x = run_text(&a, ids, 9), *y = run_text(&b, ids, 9);
    float *p = run_vision(&a), *q = run_vision(&b);
    assert_true(distance(y, x, 9 * TINY_VOCAB) < limit);
    assert_true(distance(q, p, 4 * TINY_DIM) < limit);
    free(x), free(y), free(p), free(q);
    model_close(&a);
    model_close(&b);
    tiny_remove(hf);
    tiny_remove(out);
}

/* The weights fit both types exactly, so that only the order of sums may differ. */
static void f16_and_bf16_lose_nothing(void **state)
{
    (void)state;
    there_and_back("llama", false, false, SQ_DTYPE_F16, 1e-5);
    there_and_back("llama", false, true, SQ_DTYPE_BF16, 1e-5);
    there_and_back("qwen2", true, false, SQ_DTYPE_F16, 1e-5);
}

static void q8_0_is_the_rounded_model(void **state)
{
    (void)state;
    /* half steps of 1/127 of each block's largest value through two layers: 0.03 measured */
    there_and_back("llama", false, false, SQ_DTYPE_Q8_0, 0.06);
    there_and_back("qwen2", true, true, SQ_DTYPE_Q8_0, 0.06);
}

static void converting_again_changes_nothing(void **state)
{
    (void)state;
    static const char *const files[] = {"tiny-q8_0.gguf", "mmproj-tiny-q8_0.gguf"};
    char hf[256], one[256], two[256];
    model m;
    tiny_dir(hf, sizeof hf);
    tiny_dir(one, sizeof one);
    tiny_dir(two, sizeof two);
    tiny_hf(hf, "llama", "", false, false);
    open_model(&m, hf, NULL);
    convert(&m, one, SQ_DTYPE_Q8_0, NULL);
    model_close(&m);
    open_model(&m, one, NULL);
    convert(&m, two, SQ_DTYPE_Q8_0, NULL);
    for (int i = 0; i < 2; i++) {
        tiny_text a = tiny_read(one, files[i]), b = tiny_read(two, files[i]);
        assert_int_equal(a.size, b.size);
        assert_memory_equal(a.data, b.data, a.size);
        free(a.data), free(b.data);
    }
    model_close(&m);
    tiny_remove(hf);
    tiny_remove(one);
    tiny_remove(two);
}

/* An older vision file has no last layer; its conversion must still say that there was one. */
static void missing_last_layer_stays_known(void **state)
{
    (void)state;
    char out[256];
    model m, n;
    model_options opt = {.mmproj = GOLDEN "/legacy/mmproj.gguf", .fit = FIT_AUTO};
    tiny_dir(out, sizeof out);
    open_model(&m, GOLDEN "/tiny.gguf", &opt);
    convert(&m, out, SQ_DTYPE_F16, NULL);
    open_model(&n, out, NULL);
    check_models(&m, &n);
    assert_true(n.vit.cfg.n_loaded == 3 && n.vit.cfg.n_layer == 4);
    model_close(&m);
    model_close(&n);
    tiny_remove(out);
}

/* ---- rope scaling ---- */

static void scaled_rope(const char *json, int n_ctx, bool warns)
{
    char hf[256], out[256];
    float x[8], y[8];
    model a, b;
    notices told = {0};
    tiny_dir(hf, sizeof hf);
    tiny_dir(out, sizeof out);
    tiny_hf(hf, "llama", json, false, false);
    open_model(&a, hf, NULL);
    convert(&a, out, SQ_DTYPE_F16, &told);
    assert_int_equal(told.n_warn, warns);
    open_model(&b, out, NULL);
    rope_frequencies(&a.dec.cfg.rope, 16, n_ctx, x);
    rope_frequencies(&b.dec.cfg.rope, 16, n_ctx, y);
    for (int i = 0; i < 8; i++) /* a quotient of two rounded values */
        assert_true(fabsf(x[i] - y[i]) <= 4e-7f * x[i]);
    rope_config plain = {.theta = 10000, .factor = 1};
    rope_frequencies(&plain, 16, n_ctx, y);
    assert_true(distance(x, y, 8) > 0 || x[7] < y[7] * 0.9f);
    model_close(&a);
    model_close(&b);
    tiny_remove(hf);
    tiny_remove(out);
}

static void rope_scaling_survives(void **state)
{
    (void)state;
    scaled_rope("\"rope_scaling\":{\"type\":\"linear\",\"factor\":4.0},", 300, false);
    scaled_rope("\"rope_scaling\":{\"rope_type\":\"dynamic\",\"factor\":2.0},", 700, true);
    scaled_rope("\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,"
                "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":64},",
                100, false);
}

/* ---- refusals ---- */

static int count_files(const char *dir)
{
    int n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d))
        n += e->d_name[0] != '.';
    if (d) closedir(d);
    return n;
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    char hf[256], out[256], name[300];
    model m;
    sq_error err = {0};
    tiny_dir(hf, sizeof hf);
    tiny_dir(out, sizeof out);
    tiny_hf(hf, "llama", "", false, false);
    open_model(&m, hf, NULL);
    sq_tensor *w = &m.dec.layer[1].up_w;
    uint16_t *copy = malloc(tensor_bytes(w));
    assert_non_null(copy);
    memcpy(copy, w->data, tensor_bytes(w));
    copy[65] = f32_to_bf16(1e6f);
    w->data = copy;
    assert_int_equal(model_convert(&m, out, "x", SQ_DTYPE_F16, NULL, NULL, &err), SQ_E_LIMIT);
    assert_non_null(strstr(err.text, "blk.1.ffn_up.weight"));
    assert_int_equal(count_files(out), 0);
    error_clear(&err);
    assert_int_equal(model_convert(&m, out, "x", SQ_DTYPE_BF16, NULL, NULL, &err), 0);
    assert_int_equal(count_files(out), 2);
    copy[65] = 0x7fc0; /* NaN */
    assert_int_equal(model_convert(&m, out, "y", SQ_DTYPE_Q8_0, NULL, NULL, &err), SQ_E_LIMIT);
    assert_int_equal(count_files(out), 2);
    error_clear(&err);
    assert_int_equal(model_convert(&m, out, "a/b", SQ_DTYPE_F16, NULL, NULL, &err), SQ_E_ARG);
    error_clear(&err);
    assert_int_equal(model_convert(&m, out, "x", SQ_DTYPE_I32, NULL, NULL, &err), SQ_E_ARG);
    error_clear(&err);
    snprintf(name, sizeof name, "%s/none", out);
    assert_int_equal(model_convert(&m, name, "x", SQ_DTYPE_F16, NULL, NULL, &err), SQ_E_IO);
    free(copy);
    model_close(&m);
    tiny_remove(hf);
    tiny_remove(out);
}

static int stop_at_zero(void *user)
{
    int *left = user;
    return --*left < 0;
}

/* Stopped in the first tensor, in the text file, in the vision file: no file stays. */
static void a_stop_leaves_nothing(void **state)
{
    (void)state;
    char hf[256], out[256];
    model m;
    tiny_dir(hf, sizeof hf);
    tiny_dir(out, sizeof out);
    tiny_hf(hf, "llama", "", false, false);
    open_model(&m, hf, NULL);
    int left = 1 << 20;
    model_stop stop = {stop_at_zero, &left};
    assert_int_equal(model_convert(&m, out, "x", SQ_DTYPE_F16, &stop, NULL, NULL), 0);
    assert_int_equal(count_files(out), 2);
    const int rows = (1 << 20) - left, at[] = {0, 1, rows / 3, rows - 1};
    assert_true(rows > 10);
    tiny_remove(out);
    tiny_dir(out, sizeof out);
    for (int i = 0; i < 4; i++) {
        sq_error err = {0};
        left = at[i];
        assert_int_equal(model_convert(&m, out, "x", SQ_DTYPE_F16, &stop, NULL, &err),
                         SQ_E_STOPPED);
        assert_int_equal(count_files(out), 0);
    }
    model_close(&m);
    tiny_remove(hf);
    tiny_remove(out);
}

static void expect_failure(const char *path, const model_options *opt, int code, const char *text)
{
    model m;
    sq_error err = {0};
    assert_int_equal(model_open(&m, path, opt, NULL, &err), code);
    if (!strstr(err.text, text)) fail_msg("\"%s\" does not hold \"%s\"", err.text, text);
}

static void the_pair_must_be_clear(void **state)
{
    (void)state;
    char dir[256], path[300];
    model m;
    model_options alone = {.fit = FIT_AUTO, .text_only = true};
    tiny_text text = tiny_read(GOLDEN, "tiny.gguf"), eye = tiny_read(GOLDEN, "mmproj-tiny.gguf");
    tiny_dir(dir, sizeof dir);
    expect_failure(dir, NULL, SQ_E_IO, "no text model");
    tiny_write(dir, "a.gguf", text.data, text.size);
    expect_failure(dir, NULL, SQ_E_IO, "no vision file");
    open_model(&m, dir, &alone);
    assert_null(m.vit.layer);
    model_close(&m);
    tiny_write(dir, "mmproj-1.gguf", eye.data, eye.size);
    open_model(&m, dir, NULL);
    model_close(&m);
    tiny_write(dir, "x-mmproj-2.gguf", eye.data, eye.size);
    expect_failure(dir, NULL, SQ_E_ARG, "2 vision files");
    tiny_write(dir, "mmproj-a.gguf", eye.data, eye.size); /* named after the text model */
    open_model(&m, dir, NULL);
    model_close(&m);
    tiny_write(dir, "b.gguf", text.data, text.size);
    expect_failure(dir, NULL, SQ_E_ARG, "2 text models");
    snprintf(path, sizeof path, "%s/mmproj-1.gguf", dir);
    expect_failure(path, NULL, SQ_E_FORMAT, "this is a vision file");
    snprintf(path, sizeof path, "%s/a.gguf", dir);
    model_options swapped = {.fit = FIT_AUTO, .mmproj = path};
    expect_failure(path, &swapped, SQ_E_FORMAT, "a.gguf: this is a text model");
    free(text.data), free(eye.data);
    tiny_remove(dir);
}

/* A type of a number that nothing is known of. */
static void unknown_type_is_named(void **state)
{
    (void)state;
    static const char name[] = "blk.0.ffn_up.weight";
    char dir[256], path[300];
    tiny_text text = tiny_read(GOLDEN, "tiny.gguf");
    char *at = memmem(text.data, text.size, name, strlen(name));
    assert_non_null(at);
    const unsigned char id[4] = {0xf0, 0xaa};
    memcpy(at + strlen(name) + 4 + 2 * 8, id, sizeof id); /* behind rank and two dimensions */
    tiny_dir(dir, sizeof dir);
    tiny_write(dir, "a.gguf", text.data, text.size);
    snprintf(path, sizeof path, "%s/a.gguf", dir);
    model_options alone = {.fit = FIT_AUTO, .text_only = true};
    expect_failure(path, &alone, SQ_E_UNSUPPORTED, "weight: type 43760 is not supported");
    free(text.data);
    tiny_remove(dir);
}

/* The whole program path: the converted pair answers through the public interface. */
static void converted_pair_answers(void **state)
{
    (void)state;
    char hf[256], out[256], picture[300], text[200];
    uint8_t rgb[40 * 30 * 3];
    tiny_dir(hf, sizeof hf);
    tiny_dir(out, sizeof out);
    tiny_hf(hf, "llama", "", false, false);
    for (size_t i = 0; i < sizeof rgb; i++)
        rgb[i] = (uint8_t)(i * 37 % 251);
    snprintf(picture, sizeof picture, "%s/p.png", hf);
    assert_int_equal(sq_image_write(picture, 40, 30, rgb, text, sizeof text), 0);
    char *answer[2] = {NULL, NULL};
    for (int i = 0; i < 2; i++) {
        sq_model_options o = {.compute = "f32"};
        sq_ask_options ask = {.max_tokens = 8};
        sq_model *m;
        sq_session *s;
        sq_report r;
        assert_int_equal(sq_model_open(&m, i ? out : hf, &o), 0);
        if (i == 0) assert_int_equal(sq_model_convert(m, out, "t", "f16", NULL, NULL), 0);
        assert_int_equal(sq_session_open(&s, m, NULL), 0);
        assert_int_equal(sq_session_add_image(s, picture), 0);
        assert_int_equal(sq_session_ask(s, "what is in the cat", &ask, &r), 0);
        assert_int_equal(r.image[0].tokens_kept, 4);
        answer[i] = strdup(r.answer);
        sq_session_close(&s);
        sq_model_close(&m);
    }
    assert_string_equal(answer[0], answer[1]);
    free(answer[0]), free(answer[1]);
    tiny_remove(hf);
    tiny_remove(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(other_writers_file_equals_numpy),
        cmocka_unit_test(older_vision_file_gives_the_same),
        cmocka_unit_test(scores_decide_the_tokens),
        cmocka_unit_test(q8_0_blocks_are_the_packages),
        cmocka_unit_test(f16_and_bf16_lose_nothing),
        cmocka_unit_test(q8_0_is_the_rounded_model),
        cmocka_unit_test(converting_again_changes_nothing),
        cmocka_unit_test(missing_last_layer_stays_known),
        cmocka_unit_test(rope_scaling_survives),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(a_stop_leaves_nothing),
        cmocka_unit_test(the_pair_must_be_clear),
        cmocka_unit_test(unknown_type_is_named),
        cmocka_unit_test(converted_pair_answers),
    };
    return cmocka_run_group_tests(tests, open_backend, close_backend);
}
