/* Sessions: options, opening, closing, and the public calls around the pipeline. */
#include "squint_impl.h"

#include <stdlib.h>
#include <string.h>

/* A session that failed to open answers every call with that failure. */
static int session_begin(sq_session *s)
{
    if (!s) return SQ_E_ARG;
    if (!s->kv.be) return s->err.code ? s->err.code : SQ_E_ARG;
    error_clear(&s->err);
    error_clear(&s->m->be->err);
    return SQ_OK;
}

/* "key=value,key=value" */
static int parse_prune_options(prune_options *o, const char *text, sq_error *err)
{
    while (text && *text) {
        char pair[128];
        size_t n = strcspn(text, ",");
        if (n >= sizeof pair)
            return error_set(err, SQ_E_ARG, "prune options: \"%.40s...\" is too long", text);
        memcpy(pair, text, n);
        pair[n] = 0;
        char *value = strchr(pair, '=');
        if (!value)
            return error_set(err, SQ_E_ARG, "prune options: expected key=value, found \"%s\"",
                             pair);
        *value++ = 0;
        TRY(prune_option_set(o, pair, value, err));
        text += n + (text[n] == ',');
    }
    return SQ_OK;
}

static int parse_prune(sq_session *s)
{
    const sq_session_options *o = &s->opt;
    s->policy = prune_find(o->prune ? o->prune : "none");
    if (!s->policy)
        return error_set(&s->err, SQ_E_ARG,
                         "unknown pruning method \"%s\" (squint methods lists them)", o->prune);
    s->prune_opt = prune_options_default();
    s->prune_opt.seed = o->seed;
    if (o->keep) TRY(prune_keep_parse(o->keep, &s->keep, &s->err));
    if (o->keep && s->policy == &prune_policies[0])
        return error_set(&s->err, SQ_E_ARG, "keep needs a pruning method other than \"none\"");
    if (!o->keep && s->policy != &prune_policies[0])
        return error_set(&s->err, SQ_E_ARG, "method \"%s\" needs keep: how many tokens stay",
                         s->policy->name);
    return parse_prune_options(&s->prune_opt, o->prune_options, &s->err);
}

static int open_cache(sq_session *s)
{
    const decoder_config *c = &s->m->m.dec.cfg;
    static const sq_dtype types[] = {SQ_DTYPE_F32, SQ_DTYPE_F16, SQ_DTYPE_BF16};
    const char *type = s->opt.kv_type ? s->opt.kv_type : "auto";
    sq_dtype dtype = strcmp(type, "auto") == 0 ? s->m->be->act : SQ_DTYPE_NONE;
    for (int i = 0; i < 3; i++)
        if (strcmp(type, dtype_name(types[i])) == 0) dtype = types[i];
    if (dtype == SQ_DTYPE_NONE)
        return error_set(&s->err, SQ_E_ARG,
                         "kv type: expected auto, f32, f16 or bf16, found \"%s\"", type);
    s->n_ctx = s->opt.n_ctx > 0 ? s->opt.n_ctx : c->n_ctx;
    int first = s->n_ctx < 1024 ? s->n_ctx : 1024; /* it grows as needed */
    return kv_cache_open(&s->kv, s->m->be, c->n_layer, first, c->n_head_kv * c->head_dim, dtype,
                         &s->err);
}

int sq_session_open(sq_session **out, sq_model *m, const sq_session_options *opt)
{
    sq_session *s = *out = calloc(1, sizeof *s);
    if (!s) return SQ_E_NOMEM;
    s->m = m;
    s->pending = -1;
    if (opt) s->opt = *opt;
    if (!m || !m->be) return error_set(&s->err, SQ_E_ARG, "the model is not open");
    s->dev.source = s->kept.source = &m->be->memory;
    if (!m->m.dec.layer)
        return error_set(&s->err, SQ_E_UNSUPPORTED, "%s: no language model to talk to", m->m.path);
    TRY(model_ready(m, &s->err));
    sampler_seed(&s->sampler, s->opt.seed);
    TRY(parse_prune(s));
    return open_cache(s);
}

void sq_session_close(sq_session **out)
{
    sq_session *s = *out;
    if (!s) return;
    for (int i = 0; i < s->n_image; i++)
        free(s->image[i].index);
    if (s->kv.be) kv_cache_close(&s->kv);
    free(s->prefix.ids);
    free(s->answer_text);
    arena_close(&s->dev);
    arena_close(&s->kept);
    arena_close(&s->host);
    free(s);
    *out = NULL;
}

const char *sq_session_error(const sq_session *s)
{
    return s ? s->err.text : "out of memory";
}

static int add_pictures(sq_session *s, const picture_source *src, int n)
{
    if (!s->m->m.vit.layer)
        return error_set(&s->err, SQ_E_UNSUPPORTED, "%s: this is a text model without vision",
                         s->m->m.path);
    if (s->n_turn)
        return error_set(&s->err, SQ_E_ARG, "pictures are added before the first question");
    if (n > SQ_MAX_IMAGES - s->n_image)
        return error_set(&s->err, SQ_E_LIMIT, "at most %d pictures", SQ_MAX_IMAGES);
    if (s->m->m.tiled && !s->opt.one_view && !s->m->told_one_view) {
        s->m->told_one_view = true;
        log_line(&s->m->log, SQ_LOG_INFO,
                 "this model was trained on picture tiles; squint shows it one view (tiles off)");
    }
    return n > 0 ? session_encode(s, src, n) : SQ_OK;
}

int sq_session_add_images(sq_session *s, const char *const *path, int n)
{
    TRY(session_begin(s));
    picture_source src[SQ_MAX_IMAGES] = {0};
    for (int i = 0; i < n && i < SQ_MAX_IMAGES; i++)
        src[i].path = path[i];
    return add_pictures(s, src, n);
}

int sq_session_add_image(sq_session *s, const char *path)
{
    return sq_session_add_images(s, &path, 1);
}

int sq_session_add_rgb(sq_session *s, int width, int height, const uint8_t *rgb)
{
    TRY(session_begin(s));
    if (width < 1 || height < 1 || !rgb)
        return error_set(&s->err, SQ_E_ARG, "picture: expected pixels, found %d x %d", width,
                         height);
    picture_source src = {.width = width, .height = height, .rgb = rgb};
    return add_pictures(s, &src, 1);
}

int sq_session_ask(sq_session *s, const char *question, const sq_ask_options *opt, sq_report *r)
{
    TRY(session_begin(s));
    TRY(model_need_words(&s->m->m, &s->err));
    return session_answer(s, question, opt, r);
}

int sq_session_rewind(sq_session *s)
{
    TRY(session_begin(s));
    s->n_turn = 0;
    s->pending = -1;
    return SQ_OK;
}
