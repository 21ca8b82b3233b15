/* Models and what can be asked of them apart from a conversation: information, conversion,
 * tokens, pixels. */
#include "squint_impl.h"
#include "models/model_upload.h"
#include "vision/image.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void forward_notice(void *user, sq_log_level level, const char *line)
{
    const sq_model *m = user;
    if (m->notice) m->notice(m->notice_user, level == SQ_LOG_WARN, line);
}

static const char *const compute_name[] = {[SQ_COMPUTE_AUTO] = "auto",
                                           [SQ_COMPUTE_F32] = "f32",
                                           [SQ_COMPUTE_BF16] = "bf16",
                                           [SQ_COMPUTE_F16] = "f16"};

static int parse_compute(const char *text, sq_compute *out, sq_error *err)
{
    *out = SQ_COMPUTE_AUTO;
    for (int i = 0; text && i < 4; i++)
        if (strcmp(text, compute_name[i]) == 0) {
            *out = (sq_compute)i;
            return SQ_OK;
        }
    if (!text) return SQ_OK;
    return error_set(err, SQ_E_ARG, "compute: expected auto, f32, bf16 or f16, found \"%s\"", text);
}

static int parse_fit(const char *text, fit_mode *out, sq_error *err)
{
    *out = FIT_AUTO;
    if (!text || strcmp(text, "auto") == 0) return SQ_OK;
    *out = strcmp(text, "pad") == 0 ? FIT_PAD : FIT_CROP;
    if (*out == FIT_PAD || strcmp(text, "crop") == 0) return SQ_OK;
    return error_set(err, SQ_E_ARG, "fit: expected auto, crop or pad, found \"%s\"", text);
}

static int open_backend(sq_model *m, const sq_model_options *o)
{
    backend_options b = {
        .name = o->backend, .device = o->device, .n_threads = o->n_threads};
    TRY(parse_compute(o->compute, &b.compute, &m->err));
    if (o->n_threads < 0)
        return error_set(&m->err, SQ_E_ARG, "threads: expected 0 or more, found %d", o->n_threads);
    if (o->cpu && cpu_mask_parse(o->cpu, &b.cpu_mask))
        return error_set(&m->err, SQ_E_ARG, "cpu: unknown instruction set \"%s\"", o->cpu);
    return backend_open(&m->be, &b, &m->err);
}

int sq_model_open(sq_model **out, const char *path, const sq_model_options *opt)
{
    static const sq_model_options plain;
    sq_model *m = *out = calloc(1, sizeof *m);
    if (!m) return SQ_E_NOMEM;
    if (!opt) opt = &plain;
    m->notice = opt->notice;
    m->notice_user = opt->notice_user;
    m->log = (sq_log){forward_notice, m};
    model_options mo = {.mmproj = opt->mmproj,
                        .template_name = opt->template_name,
                        .text_only = opt->text_only};
    TRY(parse_fit(opt->fit, &mo.fit, &m->err));
    TRY(open_backend(m, opt));
    TRY(model_open(&m->m, path, &mo, &m->log, &m->err));
    m->m.pre.n_threads = m->be->n_threads;
    return SQ_OK;
}

void sq_model_close(sq_model **out)
{
    sq_model *m = *out;
    if (!m) return;
    if (m->be) model_unload(m->be, &m->device_weights);
    backend_close(&m->be); /* before the weights: it caches copies of them */
    model_close(&m->m);
    free(m);
    *out = NULL;
}

const char *sq_model_error(const sq_model *m)
{
    return m ? m->err.text : "out of memory";
}

static bool model_is_open(const model *m)
{
    return m->dec.layer || m->vit.layer;
}

int model_begin(sq_model *m)
{
    if (!m) return SQ_E_ARG;
    if (!m->be || !model_is_open(&m->m)) return m->err.code ? m->err.code : SQ_E_ARG;
    error_clear(&m->err);
    error_clear(&m->be->err);
    return SQ_OK;
}

int model_need_words(const model *m, sq_error *err)
{
    if (m->tok) return SQ_OK;
    return error_set(err, SQ_E_UNSUPPORTED, "%s: this model has no tokenizer", m->path);
}

int model_ready(sq_model *m, sq_error *err)
{
    const sq_error *before = &m->upload_err;
    if (before->code) return error_set(err, before->code, "%s", before->text);
    int rc = model_upload(&m->m, m->be, &m->device_weights, err);
    if (rc && m->device_weights) m->upload_err = *err; /* no way back: tensors point there */
    return rc;
}

/* ---- information ---- */

static const char *tokenizer_name(const tokenizer *t)
{
    if (!t) return "none";
    return tokenizer_get_vocab(t)->kind == TOKENIZER_SPM ? "SentencePiece BPE" : "byte-level BPE";
}

static const char *missing_of(const model *m)
{
    if (!m->dec.layer) return "language: this is a vision tower";
    if (!m->tok) return "tokenizer: this is a model for timing";
    if (!m->vit.layer) return "vision: this is a text model";
    if (m->vit.cfg.n_loaded < m->vit.cfg.n_layer)
        return "globalcom2: the file leaves out the vision tower's last layer";
    return "";
}

int sq_model_get_info(const sq_model *sm, sq_model_info *info)
{
    if (!sm || !sm->be || !model_is_open(&sm->m)) return SQ_E_ARG;
    const model *m = &sm->m;
    const vit_config *v = &m->vit.cfg;
    const decoder_config *d = &m->dec.cfg;
    size_t kv_row = (size_t)d->n_head_kv * (size_t)d->head_dim * sizeof(float);
    int grid = v->patch_size ? v->image_size / v->patch_size : 0;
    *info = (sq_model_info){
        .arch = m->arch,
        .path = m->path,
        .template_name = m->tmpl->name,
        .tokenizer = tokenizer_name(m->tok),
        .backend = sm->be->describe,
        .backend_name = sm->be->name,
        .compute = compute_name[sm->be->compute],
        .fit = m->pre.fit == FIT_PAD ? "pad" : "crop",
        .vit_layers = v->n_layer,
        .vit_layers_loaded = v->n_loaded,
        .vit_dim = v->dim,
        .vit_heads = v->n_head,
        .image_size = v->image_size,
        .patch_size = v->patch_size,
        .n_patch = grid * grid,
        .feature_layer = v->n_feature ? v->feature[v->n_feature - 1] : 0,
        .dec_layers = d->n_layer,
        .dec_dim = d->dim,
        .dec_heads = d->n_head,
        .dec_heads_kv = d->n_head_kv,
        .n_vocab = d->n_vocab,
        .n_ctx = d->n_ctx,
        .kv_bytes_per_token = (size_t)d->n_layer * 2 * kv_row,
        .n_tensor = m->weights.n,
        .missing = missing_of(m),
        .tiled = m->tiled,
        .gpu = sm->be->resident,
    };
    for (int i = 0; i < m->weights.n; i++) {
        const weight_entry *e = &m->weights.entry[i];
        if (!e->bound) {
            info->n_unused++;
            continue;
        }
        info->n_param += tensor_count(&e->t);
        info->weight_bytes += tensor_bytes(&e->t);
    }
    return SQ_OK;
}

int sq_model_get_tensor(const sq_model *m, int i, sq_tensor_info *info)
{
    if (!m || i < 0 || i >= m->m.weights.n) return SQ_E_ARG;
    const weight_entry *e = &m->m.weights.entry[i];
    *info = (sq_tensor_info){.name = e->name,
                             .type = e->type_text,
                             .rank = e->t.rank,
                             .bytes = tensor_bytes(&e->t),
                             .used = e->bound};
    memcpy(info->shape, e->t.shape, sizeof info->shape);
    return SQ_OK;
}

int sq_method_get(int i, sq_method *out)
{
    int n = 0;
    while (prune_policies[n].name)
        n++;
    if (i < 0 || i >= n) return SQ_E_ARG;
    const prune_policy *p = &prune_policies[i];
    *out = (sq_method){p->name, p->paper, p->summary, p->options};
    return SQ_OK;
}

/* ---- conversion and tokens ---- */

int sq_model_convert(sq_model *m, const char *dir, const char *name, const char *type,
                     sq_stop_fn stop, void *user)
{
    const model_stop ask = {stop, user};
    TRY(model_begin(m));
    TRY(model_need_words(&m->m, &m->err));
    if (m->device_weights)
        return error_set(&m->err, SQ_E_ARG, "convert: the weights are on the device already");
    static const sq_dtype types[] = {SQ_DTYPE_Q8_0, SQ_DTYPE_F16, SQ_DTYPE_BF16};
    for (int i = 0; i < 3; i++)
        if (strcmp(type, dtype_name(types[i])) == 0)
            return model_convert(&m->m, dir, name, types[i], &ask, &m->log, &m->err);
    return error_set(&m->err, SQ_E_ARG, "type: expected q8_0, f16 or bf16, found \"%s\"", type);
}

int sq_model_tokenize(sq_model *m, const char *text, size_t size, int32_t **ids, int *n)
{
    TRY(model_begin(m));
    TRY(model_need_words(&m->m, &m->err));
    return tokenizer_encode(m->m.tok, text, size, 0, ids, n, &m->err);
}

int sq_model_detokenize(sq_model *m, const int32_t *ids, int n, char **text)
{
    TRY(model_begin(m));
    TRY(model_need_words(&m->m, &m->err));
    size_t size;
    for (int i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= tokenizer_get_vocab(m->m.tok)->n_token)
            return error_set(&m->err, SQ_E_ARG, "token id %d is not in the vocabulary", ids[i]);
    return tokenizer_decode(m->m.tok, ids, n, text, &size, &m->err);
}

/* ---- pictures ---- */

static image_options image_options_of(const sq_image_options *o)
{
    if (!o) return (image_options){0};
    return (image_options){o->max_pixels, o->ignore_exif, o->allow_truncated};
}

static void copy_text(char *out, size_t size, const sq_error *err)
{
    if (out && size) snprintf(out, size, "%s", err->text);
}

int sq_image_decode(const char *path, const sq_image_options *opt, int *width, int *height,
                    uint8_t **rgb, char *text, size_t text_size)
{
    sq_error err = {0};
    sq_image im = {0};
    image_options o = image_options_of(opt);
    int rc = image_load(&im, path, &o, &err);
    *width = im.width;
    *height = im.height;
    *rgb = im.rgb; /* malloc'ed by image_load; the caller's now */
    copy_text(text, text_size, &err);
    return rc;
}

int sq_image_write(const char *path, int width, int height, const uint8_t *rgb, char *text,
                   size_t text_size)
{
    sq_error err = {0};
    sq_image im = {width, height, (uint8_t *)(size_t)rgb};
    int rc = image_save(&im, path, &err);
    copy_text(text, text_size, &err);
    return rc;
}

int sq_model_view(sq_model *m, const char *path, const sq_image_options *opt, int *n_view,
                  int *side, float **pixels, uint8_t **rgb)
{
    TRY(model_begin(m));
    const preprocess_config *pre = &m->m.pre;
    if (!m->m.vit.layer)
        return error_set(&m->err, SQ_E_UNSUPPORTED, "%s: this is a text model without vision",
                         m->m.path);
    sq_image im = {0}, view = {0};
    image_options o = image_options_of(opt);
    TRY(image_load(&im, path, &o, &m->err));
    *n_view = 1;
    *side = pre->side;
    *pixels = malloc((size_t)3 * pre->side * pre->side * sizeof **pixels);
    int rc = *pixels ? preprocess_view(*pixels, &im, pre, &m->err)
                     : error_set(&m->err, SQ_E_NOMEM, "%s: out of memory", path);
    if (!rc && rgb) rc = preprocess_fit(&view, &im, pre, &m->err);
    image_close(&im);
    if (rc) {
        free(*pixels);
        *pixels = NULL;
        image_close(&view);
        return rc;
    }
    if (rgb) *rgb = view.rgb;
    return SQ_OK;
}
