/* Models without a checkpoint, "synthetic:llava-1.5-7b": true shapes, random weights, no tokenizer.
 * Only for timing: what they answer means nothing.
 *
 * Matrices are BF16, uniform over +-sqrt(3/in), so that rows keep the variance of what they
 * multiply; vectors are F32, ones for norms and zeros else. All matrices of one `in` are windows
 * into one region of host memory at offsets of their own, so that 7B parameters take 0.4 GB here. A
 * GPU's upload gives each its own place. On the CPU they stay windows: what overlaps comes from
 * cache in part, so decoding looks faster there than with a checkpoint. */
#include "core/rng.h"
#include "models/gguf_names.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct synthetic_shape {
    const char *name, *arch, *template_name;
    int dim, ffn_dim, n_layer, n_head, n_head_kv, n_ctx; /* dim 0: vision only */
    float theta;
    bool tiled;
} synthetic_shape;

static const synthetic_shape shapes[] = {
    {"llava-1.5-7b", "llava", "vicuna_v1", 4096, 11008, 32, 32, 32, 4096, 1e4f, false},
    {"llava-1.5-13b", "llava", "vicuna_v1", 5120, 13824, 40, 40, 40, 4096, 1e4f, false},
    {"llava-next-7b", "llava_next", "mistral_instruct", 4096, 14336, 32, 32, 8, 32768, 1e6f, true},
    {"clip-l-336", "clip", "plain", 0, 0, 0, 0, 0, 0, 0, false},
    {NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, 0, false},
};

enum { N_VOCAB = 32064, MAX_REGIONS = 8, N_SLOT = 1 << 16, SLOT = 64 };

/* Random values for the matrices of one input width. */
typedef struct region {
    int64_t in;
    size_t size; /* of the largest matrix, and N_SLOT places to begin at */
    uint16_t *data;
} region;

typedef struct builder {
    model *m;
    region region[MAX_REGIONS];
    int n_region;
    uint32_t n_matrix;
    int64_t longest; /* vector */
    float *ones, *zeros;
    bool measure; /* only gather the regions' sizes */
    sq_error *err;
} builder;

static void set_config(model *m, const synthetic_shape *s)
{
    static const float mean[] = {0.48145466f, 0.4578275f, 0.40821073f};
    static const float std[] = {0.26862954f, 0.26130258f, 0.27577711f};
    static const int pinpoint[][2] = {{336, 672}, {672, 336}, {672, 672}, {1008, 336}, {336, 1008}};
    snprintf(m->arch, sizeof m->arch, "%s", s->arch);
    m->tmpl = prompt_find(s->template_name);
    m->tiled = s->tiled;
    if (s->tiled) {
        m->n_pinpoint = sizeof pinpoint / sizeof *pinpoint;
        memcpy(m->pinpoint, pinpoint, sizeof pinpoint);
    }
    m->vit.cfg = (vit_config){.image_size = 336,
                              .patch_size = 14,
                              .dim = 1024,
                              .ffn_dim = 4096,
                              .n_head = 16,
                              .n_layer = 24,
                              .n_loaded = 24,
                              .eps = 1e-5f,
                              .act = SQ_ACT_QUICK_GELU,
                              .n_feature = 1,
                              .feature = {23}};
    m->pre = (preprocess_config){.fit = FIT_CROP,
                                 .side = 336,
                                 .resize = 336,
                                 .filter = RESAMPLE_BICUBIC,
                                 .rescale = 1.0f / 255.0f};
    memcpy(m->pre.mean, mean, sizeof mean);
    memcpy(m->pre.std, std, sizeof std);
    if (!s->dim) return;
    m->dec.cfg = (decoder_config){
        .dim = s->dim,
        .ffn_dim = s->ffn_dim,
        .n_layer = s->n_layer,
        .n_head = s->n_head,
        .n_head_kv = s->n_head_kv,
        .n_vocab = N_VOCAB,
        .head_dim = s->dim / s->n_head,
        .n_ctx = s->n_ctx,
        .eps = 1e-5f,
        .rope = {.theta = s->theta, .factor = 1, .original_ctx = s->n_ctx},
    };
    m->proj =
        (projector_model){.in_dim = 1024, .mid_dim = s->dim, .out_dim = s->dim, .act = SQ_ACT_GELU};
}

static region *region_for(builder *b, int64_t in)
{
    for (int i = 0; i < b->n_region; i++)
        if (b->region[i].in == in) return &b->region[i];
    if (b->n_region == MAX_REGIONS) return NULL;
    b->region[b->n_region] = (region){.in = in};
    return &b->region[b->n_region++];
}

static int add_matrix(builder *b, int64_t rows, int64_t cols, sq_tensor *out)
{
    region *r = region_for(b, cols);
    size_t need = (size_t)rows * (size_t)cols * sizeof(uint16_t) + (size_t)N_SLOT * SLOT;
    if (!r) return error_set(b->err, SQ_E_LIMIT, "%s: too many input widths", b->m->path);
    if (b->measure) {
        if (need > r->size) r->size = need;
        return SQ_OK;
    }
    /* an odd step visits every slot once: no two matrices begin at one place */
    size_t slot = b->n_matrix++ * 40503u % N_SLOT;
    *out = tensor_2d((char *)r->data + slot * SLOT, SQ_DTYPE_BF16, rows, cols);
    return SQ_OK;
}

static int add_vector(builder *b, const char *name, int64_t n, sq_tensor *out)
{
    const char *end = strrchr(name, '.');
    if (b->measure) {
        if (n > b->longest) b->longest = n;
        return SQ_OK;
    }
    bool norm = end && strcmp(end, ".weight") == 0;
    *out = tensor_1d(norm ? b->ones : b->zeros, SQ_DTYPE_F32, n);
    return SQ_OK;
}

/* So that the tensor is listed and counted like a file's. */
static int add_entry(builder *b, const char *prefix, const char *name, const sq_tensor *t)
{
    char full[96];
    weight_map *w = &b->m->weights;
    snprintf(full, sizeof full, "%s%s", prefix, name);
    weight_entry *e = weight_map_new(w);
    char *copy = e ? arena_strndup(&w->mem, full, strlen(full)) : NULL;
    if (!copy) return error_set(b->err, SQ_E_NOMEM, "%s: out of memory", b->m->path);
    *e = (weight_entry){.name = copy, .file = b->m->path, .t = *t, .bound = true};
    snprintf(e->type_text, sizeof e->type_text, "%s", t->dtype == SQ_DTYPE_F32 ? "F32" : "BF16");
    return SQ_OK;
}

/* Of the optional vectors, LLaVA has the projector's biases, and the newline where it has tiles. */
static bool is_there(const builder *b, const gguf_name *table, const gguf_name *n)
{
    if (!(n->flags & GGUF_OPTIONAL) || n->cols != GGUF_DIM_NONE) return true;
    if (table != gguf_projector_names) return false;
    return b->m->tiled || n->at != offsetof(projector_model, newline);
}

static int add_table(builder *b, const gguf_name *table, const char *prefix, void *base,
                     int64_t (*dim)(const model *, gguf_dim))
{
    for (const gguf_name *n = table; n->name; n++) {
        if (!is_there(b, table, n)) continue;
        sq_tensor *t = gguf_slot(base, n);
        int64_t rows = dim(b->m, n->rows);
        if (n->cols == GGUF_DIM_NONE)
            TRY(add_vector(b, n->name, rows, t));
        else
            TRY(add_matrix(b, rows, dim(b->m, n->cols), t));
        if (!b->measure) TRY(add_entry(b, prefix, n->name, t));
    }
    return SQ_OK;
}

static int add_all(builder *b)
{
    model *m = b->m;
    char prefix[32];
    TRY(add_table(b, gguf_vision_names, "", &m->vit, gguf_dim_vision));
    for (int i = 0; i < m->vit.cfg.n_layer; i++) {
        snprintf(prefix, sizeof prefix, "v.blk.%d.", i);
        TRY(add_table(b, gguf_vision_layer_names, prefix, &m->vit.layer[i], gguf_dim_vision));
    }
    if (!m->dec.layer) return SQ_OK;
    TRY(add_table(b, gguf_projector_names, "", &m->proj, gguf_dim_vision));
    TRY(add_table(b, gguf_text_names, "", &m->dec, gguf_dim_text));
    for (int i = 0; i < m->dec.cfg.n_layer; i++) {
        snprintf(prefix, sizeof prefix, "blk.%d.", i);
        TRY(add_table(b, gguf_text_layer_names, prefix, &m->dec.layer[i], gguf_dim_text));
    }
    return SQ_OK;
}

static void fill_region(const region *r)
{
    uint64_t state = (uint64_t)r->in;
    float scale = sqrtf(3.0f / (float)r->in) * 0x1p-15f;
    for (size_t i = 0; i < r->size / sizeof *r->data; i += 4) { /* size divides by 64 */
        uint64_t bits = rng_next(&state);
        for (int k = 0; k < 4; k++, bits >>= 16)
            r->data[i + (size_t)k] = f32_to_bf16((float)(int16_t)(uint16_t)bits * scale);
    }
}

static int alloc_regions(builder *b)
{
    size_t total = 0;
    for (int i = 0; i < b->n_region; i++) {
        b->region[i].size = (b->region[i].size + SLOT - 1) / SLOT * SLOT;
        total += b->region[i].size;
    }
    b->ones = arena_calloc(&b->m->mem, (size_t)b->longest, sizeof *b->ones);
    b->zeros = arena_calloc(&b->m->mem, (size_t)b->longest, sizeof *b->zeros);
    char *at = arena_alloc(&b->m->mem, total);
    if (!b->ones || !b->zeros || !at)
        return error_set(b->err, SQ_E_NOMEM, "%s: out of memory", b->m->path);
    for (int64_t i = 0; i < b->longest; i++)
        b->ones[i] = 1;
    for (int i = 0; i < b->n_region; i++) {
        b->region[i].data = (uint16_t *)(void *)at;
        at += b->region[i].size;
        fill_region(&b->region[i]);
    }
    return SQ_OK;
}

int model_open_synthetic(model *m, const char *spec, sq_error *err)
{
    const synthetic_shape *s = shapes;
    while (s->name && strcmp(s->name, spec) != 0)
        s++;
    if (!s->name)
        return error_set(err, SQ_E_ARG,
                         "unknown synthetic model \"%s\": expected llava-1.5-7b, llava-1.5-13b, "
                         "llava-next-7b or clip-l-336",
                         spec);
    set_config(m, s);
    builder b = {.m = m, .measure = true, .err = err};
    m->vit.layer = arena_calloc(&m->mem, (size_t)m->vit.cfg.n_layer, sizeof *m->vit.layer);
    if (s->dim) m->dec.layer = arena_calloc(&m->mem, (size_t)s->n_layer, sizeof *m->dec.layer);
    if (!m->vit.layer || (s->dim && !m->dec.layer))
        return error_set(err, SQ_E_NOMEM, "%s: out of memory", m->path);
    TRY(add_all(&b));
    TRY(alloc_regions(&b));
    b.measure = false;
    TRY(add_all(&b));
    return weight_map_sort(&m->weights, err);
}
