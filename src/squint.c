/* THE pipeline, top to bottom: decode -> preprocess -> vit -> prune -> project -> splice ->
 * prefill -> step. Opening, closing and options are in squint_session.c and squint_model.c. */
#include "core/clock.h"
#include "squint_impl.h"
#include "vision/image.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* ---- pictures ---- */

static vit_capture capture_for(const prune_needs *n, const prune_tower *t)
{
    vit_capture c = {0};
    if (n->cls_rows) {
        c.row_first = n->row_first;
        c.row_count = n->row_last - n->row_first + 1;
    }
    c.logits = n->cls_logits;
    c.logits_layer = t->n_layer - 1;
    c.means = n->means;
    c.means_logits = n->means_logits;
    c.means_layer = t->feature_layer;
    return c;
}

/* One picture between its file and its embeddings. */
typedef struct picture_run {
    sq_session *s;
    sq_image view; /* 8-bit, as the model sees it */
    float level[3][256];
    vit_run vit;
    vit_output vis;
} picture_run;

static int picture_load(sq_session *s, const picture_source *src, sq_image *im)
{
    image_options opt = {.max_pixels = s->opt.image.max_pixels,
                         .ignore_exif = s->opt.image.ignore_exif,
                         .allow_truncated = s->opt.image.allow_truncated};
    if (!src->rgb) return image_load(im, src->path, &opt, &s->err);
    *im = (sq_image){src->width, src->height, (uint8_t *)(size_t)src->rgb}; /* only read */
    return SQ_OK;
}

static int picture_view(picture_run *p, const picture_source *src)
{
    sq_session *s = p->s;
    const preprocess_config *pre = &s->m->m.pre;
    sq_image im = {0};
    double start = clock_ms();
    TRY(picture_load(s, src, &im));
    double decoded = clock_ms();
    int rc = preprocess_fit(&p->view, &im, pre, &s->err);
    if (!rc) preprocess_levels(p->level, pre);
    s->report.ms.decode += decoded - start;
    s->report.ms.preprocess += clock_ms() - decoded;
    if (!src->rgb) image_close(&im);
    return rc;
}

/* Starts the vision tower; a GPU goes on by itself. */
static int picture_begin(picture_run *p)
{
    sq_session *s = p->s;
    const vit_model *vit = &s->m->m.vit;
    int last = 0;
    for (int i = 0; i < vit->cfg.n_feature; i++)
        last = vit->cfg.feature[i] > last ? vit->cfg.feature[i] : last;
    prune_tower tower = {.n_layer = vit->cfg.n_layer, .feature_layer = last - 1};
    prune_needs needs = prune_needs_of(s->policy, &tower, &s->prune_opt);
    vit_capture capture = capture_for(&needs, &tower);
    vit_views views = {.n = 1, .rgb = p->view.rgb, .level = (const float(*)[256])p->level};
    double start = clock_ms();
    p->vit = (vit_run){0};
    int rc = vit_begin(&p->vit, s->m->be, vit, &views, &capture, &p->vis, &s->dev, &s->host,
                       &s->err);
    s->report.ms.vision += clock_ms() - start;
    return rc;
}

static int picture_end(picture_run *p)
{
    sq_session *s = p->s;
    double start = clock_ms();
    int rc = vit_end(&p->vit, &s->host, &s->err);
    s->m->be->sync(s->m->be);
    s->report.ms.vision += clock_ms() - start - p->vis.score_ms;
    s->report.ms.score += p->vis.score_ms;
    return rc;
}

static int picture_prune(sq_session *s, const vit_output *vis, prune_plan *plan)
{
    prune_view view = {.n_tok = vis->n_patch,
                       .grid_w = vis->grid,
                       .grid_h = vis->grid,
                       .tile_x = -1,
                       .tile_y = -1,
                       .valid_x1 = vis->grid,
                       .valid_y1 = vis->grid,
                       .n_head = vis->n_head,
                       .row_first = vis->row_first,
                       .row_count = vis->row_count,
                       .cls_rows = vis->rows,
                       .cls_logits = vis->logits,
                       .received = vis->received,
                       .given = vis->given};
    prune_input in = {.view = &view,
                      .n_view = 1,
                      .picture = s->n_image,
                      .keep = s->keep,
                      .opt = &s->prune_opt,
                      .scratch = &s->host};
    plan->mem = &s->host;
    double start = clock_ms();
    int rc = prune_run(s->policy, &in, plan, &s->err);
    s->report.ms.prune += clock_ms() - start;
    return rc;
}

/* With "full" features row 0 is CLS: it is always kept and the plan's patches follow it. */
static int plan_with_cls(prune_plan *plan, bool has_cls, arena *mem, prune_plan *out)
{
    *out = *plan;
    if (!has_cls) return SQ_OK;
    TRY(plan_init(out, plan->n_in + 1, mem));
    TRY(plan_add_token(out, 0));
    for (int r = 0; r < plan->n_out; r++) {
        int first = plan->start[r], n = plan->start[r + 1] - first;
        int32_t *index = arena_alloc(mem, (size_t)n * sizeof *index);
        if (!index) return SQ_E_NOMEM;
        for (int e = 0; e < n; e++)
            index[e] = plan->index[first + e] + 1;
        TRY(plan_add_merge(out, index, plan->weight + first, n));
    }
    return SQ_OK;
}

/* Only the planned rows are gathered and projected; the others end here. */
static int picture_project(sq_session *s, const vit_output *vis, prune_plan *plan,
                           session_image *im)
{
    sq_backend *be = s->m->be;
    const projector_model *proj = &s->m->m.proj;
    sq_tensor all = vit_features(vis, 0);
    prune_plan full;
    double start = clock_ms();
    if (plan_with_cls(plan, all.shape[0] > vis->n_patch, &s->host, &full))
        return error_set(&s->err, SQ_E_NOMEM, "out of memory");
    size_t row = dtype_row_bytes(be->act, all.shape[1]);
    size_t out_row = (size_t)proj->out_dim * sizeof(float), n = (size_t)full.n_out;
    sq_tensor x = tensor_2d(arena_alloc(&s->dev, n * row), be->act, full.n_out, all.shape[1]);
    im->embeds = tensor_2d(arena_alloc(&s->kept, n * out_row), SQ_DTYPE_F32, full.n_out,
                           proj->out_dim);
    im->index = malloc((size_t)plan->n_out * sizeof *im->index);
    if (!x.data || !im->embeds.data || !im->index)
        return error_set(&s->err, SQ_E_NOMEM, "out of memory");
    sparse_rows rows = plan_rows(&full);
    backend_at(be, "prune", -1);
    be->ops.select_rows(be, &x, &all, &rows);
    TRY(projector_forward(be, proj, &im->embeds, &x, &s->dev, &s->err));
    for (int r = 0; r < plan->n_out; r++)
        im->index[r] = plan->index[plan->start[r]]; /* a merged row is named by its first token */
    im->n_in = plan->n_in;
    im->n_kept = plan->n_out;
    im->grid = vis->grid;
    s->report.ms.project += clock_ms() - start;
    return SQ_OK;
}

/* What the tower saw becomes the session's next image. */
static int picture_finish(picture_run *p)
{
    sq_session *s = p->s;
    session_image *im = &s->image[s->n_image];
    prune_plan plan = {0};
    TRY(picture_end(p));
    TRY(picture_prune(s, &p->vis, &plan));
    int rc = picture_project(s, &p->vis, &plan, im);
    if (!rc) {
        s->n_image++;
    } else {
        free(im->index);
        *im = (session_image){0};
    }
    return rc;
}

/* What the backend did since `before` goes to this session's next report. */
static void count_work(sq_session *s, const backend_count *before)
{
    const backend_count *c = &s->m->be->count;
    s->report.launches += c->launches - before->launches;
    s->report.syncs += c->syncs - before->syncs;
}

void session_drop_pictures(sq_session *s, int first, arena_mark kept)
{
    while (s->n_image > first) {
        free(s->image[--s->n_image].index);
        s->image[s->n_image] = (session_image){0};
    }
    arena_rewind(&s->kept, kept);
}

int session_encode(sq_session *s, const picture_source *src, int n)
{
    arena_mark dev = arena_get_mark(&s->dev), host = arena_get_mark(&s->host);
    arena_mark kept = arena_get_mark(&s->kept);
    backend_count count = s->m->be->count;
    sq_report report = s->report;
    picture_run now = {.s = s}, next = {.s = s};
    int first = s->n_image;
    double start = clock_ms();
    int rc = picture_view(&next, &src[0]);
    for (int i = 0; i < n && !rc; i++) {
        image_close(&now.view);
        now = next;
        next.view = (sq_image){0};
        rc = picture_begin(&now);
        if (!rc && i + 1 < n) rc = picture_view(&next, &src[i + 1]);
        if (!rc) rc = picture_finish(&now);
        arena_rewind(&s->dev, dev);
        arena_rewind(&s->host, host);
    }
    image_close(&now.view);
    image_close(&next.view);
    if (rc) {
        session_drop_pictures(s, first, kept);
        s->report = report;
        return rc;
    }
    s->report.ms.total += clock_ms() - start;
    count_work(s, &count);
    return SQ_OK;
}

/* ---- one answer ---- */

typedef struct answer_run {
    sq_session *s;
    const sq_ask_options *opt;
    sq_report *r;
    int32_t *ids; /* prompt of this turn, PROMPT_IMAGE for pictures */
    int n_ids;
    float *logits; /* of the last row; NULL when greedy: then only the best is read */
    int32_t best;
    float gap;
    token_stream stream;
    char *text; /* the answer so far */
    size_t size, cap, shown;
    double start;
} answer_run;

/* Rows that ids[0..n) take in the context. */
static int rows_of(const sq_session *s, const int32_t *ids, int n)
{
    int rows = 0, picture = 0;
    for (int i = 0; i < n; i++)
        rows += ids[i] == PROMPT_IMAGE ? (int)s->image[picture++].embeds.shape[0] : 1;
    return rows;
}

/* First turn after a rewind: how many ids the KV cache still holds. */
static int reuse_prefix(sq_session *s, const int32_t *ids, int n)
{
    const session_prefix *p = &s->prefix;
    bool same = p->n_ids > 0 && p->n_ids < n && s->kv.len[0] >= p->n_rows &&
                memcmp(p->ids, ids, (size_t)p->n_ids * sizeof *ids) == 0;
    kv_cache_truncate(&s->kv, same ? p->n_rows : 0);
    return same ? p->n_ids : 0;
}

static int remember_prefix(sq_session *s, const int32_t *ids, int n)
{
    int last = 0;
    for (int i = 0; i < n; i++)
        if (ids[i] == PROMPT_IMAGE) last = i + 1;
    free(s->prefix.ids);
    s->prefix = (session_prefix){0};
    if (last == 0) return SQ_OK;
    s->prefix.ids = malloc((size_t)last * sizeof *ids);
    if (!s->prefix.ids) return error_set(&s->err, SQ_E_NOMEM, "out of memory");
    memcpy(s->prefix.ids, ids, (size_t)last * sizeof *ids);
    s->prefix.n_ids = last;
    s->prefix.n_rows = rows_of(s, ids, last);
    return SQ_OK;
}

/* x[rows, dim]: token embeddings, with each picture's kept rows where its mark stands. */
static int splice(sq_session *s, const int32_t *ids, int n, int picture, sq_tensor *x)
{
    sq_backend *be = s->m->be;
    int64_t at = 0;
    backend_at(be, "prompt", -1);
    for (int i = 0; i < n;) {
        if (ids[i] == PROMPT_IMAGE) {
            const sq_tensor *e = &s->image[picture++].embeds;
            sq_tensor to = tensor_rows(x, at, e->shape[0]);
            be->ops.activate(be, &to, e, SQ_ACT_NONE); /* copy */
            at += e->shape[0];
            i++;
            continue;
        }
        int run = i;
        while (run < n && ids[run] != PROMPT_IMAGE)
            run++;
        sq_tensor to = tensor_rows(x, at, run - i);
        TRY(decoder_embed(be, &s->m->m.dec, &to, ids + i, run - i, &s->dev, &s->err));
        at += run - i;
        i = run;
    }
    return SQ_OK;
}

/* What a pass has to bring back for the next choice. */
static decoder_result wanted(answer_run *a)
{
    if (a->logits) return (decoder_result){.logits = a->logits};
    return (decoder_result){.best = &a->best, .gap = &a->gap};
}

/* Prefills ids from `from` on behind what the cache holds and leaves the last row's logits. */
static int prefill(answer_run *a, int from)
{
    sq_session *s = a->s;
    const decoder_model *dec = &s->m->m.dec;
    int held = s->kv.len[0], rows = rows_of(s, a->ids, a->n_ids) - rows_of(s, a->ids, from);
    int picture = 0;
    for (int i = 0; i < from; i++)
        picture += a->ids[i] == PROMPT_IMAGE;
    if (rows < 1) return error_set(&s->err, SQ_E_ARG, "the prompt is empty");
    if (held + rows > s->n_ctx)
        return error_set(&s->err, SQ_E_LIMIT, "the prompt needs %d tokens, the context holds %d",
                         held + rows, s->n_ctx);
    arena_mark mark = arena_get_mark(&s->dev);
    size_t row = (size_t)dec->cfg.dim * sizeof(float);
    sq_tensor x = tensor_2d(arena_alloc(&s->dev, (size_t)rows * row), SQ_DTYPE_F32, rows,
                            dec->cfg.dim);
    int32_t *pos = arena_alloc(&s->host, (size_t)rows * sizeof *pos);
    if (!x.data || !pos) return error_set(&s->err, SQ_E_NOMEM, "out of memory");
    for (int i = 0; i < rows; i++)
        pos[i] = held + i;
    double start = clock_ms();
    decoder_result want = wanted(a);
    TRY(splice(s, a->ids + from, a->n_ids - from, picture, &x));
    TRY(decoder_forward(s->m->be, dec, &s->kv, &x, pos, &want, &s->dev, &s->err));
    a->r->ms.prefill = clock_ms() - start;
    a->r->prompt_tokens = rows;
    a->r->cached_tokens = held;
    arena_rewind(&s->dev, mark);
    return SQ_OK;
}

static int step(answer_run *a, int32_t id)
{
    sq_session *s = a->s;
    kv_cache *const kv[] = {&s->kv};
    int32_t pos = s->kv.len[0];
    decoder_result want = wanted(a);
    return decoder_step(s->m->be, &s->m->m.dec, kv, 1, &id, &pos, &want, &s->dev, &s->err);
}

static int pick(answer_run *a, int32_t *id, float *gap)
{
    sq_session *s = a->s;
    if (a->logits) {
        arena_mark mark = arena_get_mark(&s->host);
        TRY(sampler_pick(&s->sampler, a->logits, s->m->m.dec.cfg.n_vocab, &s->host, id, gap,
                         &s->err));
        arena_rewind(&s->host, mark);
        return SQ_OK;
    }
    *id = a->best;
    *gap = a->gap;
    return sampler_accept(&s->sampler, a->best, a->gap, &s->err);
}

static int text_append(answer_run *a, const char *piece, int n)
{
    if (a->size + (size_t)n + 1 > a->cap) {
        size_t cap = (a->cap ? a->cap * 2 : 1024) + (size_t)n;
        char *grown = realloc(a->text, cap);
        if (!grown) return error_set(&a->s->err, SQ_E_NOMEM, "out of memory");
        a->text = grown;
        a->cap = cap;
    }
    memcpy(a->text + a->size, piece, (size_t)n);
    a->size += (size_t)n;
    a->text[a->size] = 0;
    return SQ_OK;
}

/* Hands out what cannot become part of a stop string any more. *stopped is set when one is
 * complete: the text is cut there. */
static bool text_emit(answer_run *a, bool final, bool *stopped)
{
    const char *const *stops = a->s->m->m.tmpl->stop;
    size_t safe = a->size;
    for (int i = 0; i < 4 && stops[i]; i++) {
        size_t len = strlen(stops[i]);
        size_t back = a->shown > len ? a->shown - len : 0;
        char *hit = a->text ? strstr(a->text + back, stops[i]) : NULL;
        if (hit) {
            *stopped = true;
            a->size = (size_t)(hit - a->text);
            a->text[a->size] = 0;
            if (a->size < safe) safe = a->size;
        }
        for (size_t n = len - 1; n > 0 && !hit && !final; n--) /* a stop string may be beginning */
            if (n <= a->size && memcmp(a->text + a->size - n, stops[i], n) == 0) {
                if (a->size - n < safe) safe = a->size - n;
                break;
            }
    }
    if (safe <= a->shown) return true;
    const char *from = a->text + a->shown;
    size_t n = safe - a->shown;
    a->shown = safe;
    return !a->opt->on_token || a->opt->on_token(a->opt->user, from, n) == 0;
}

/* EOS, or a stop string that is one control token ("<|im_end|>"): it never shows as text. */
static bool ends_answer(const sq_session *s, int32_t id)
{
    const tokenizer *tok = s->m->m.tok;
    const char *const *stops = s->m->m.tmpl->stop;
    if (tokenizer_ends(tok, id)) return true;
    for (int i = 0; i < 4 && stops[i]; i++)
        if (tokenizer_find(tok, stops[i]) == id) return true;
    return false;
}

/* Samples, streams and steps until something ends the answer; *why says what. */
static int generate(answer_run *a, const char **why)
{
    sq_session *s = a->s;
    int max = a->opt->max_tokens > 0 ? a->opt->max_tokens : 512;
    char piece[512];
    bool stopped = false;
    *why = "max tokens";
    for (int i = 0; i < max; i++) {
        int32_t id;
        float gap;
        TRY(pick(a, &id, &gap));
        if (i == 0) a->r->ms.first_token = a->r->ms.total + clock_ms() - a->start;
        if (i == 0 || gap < a->r->min_gap) a->r->min_gap = gap;
        if (ends_answer(s, id)) {
            *why = "eos";
            break;
        }
        a->r->answer_tokens++;
        s->pending = id;
        int n = token_stream_next(&a->stream, id, piece, sizeof piece);
        TRY(text_append(a, piece, n));
        bool go_on = text_emit(a, false, &stopped);
        if (stopped || !go_on) {
            *why = stopped ? "stop string" : "callback";
            break;
        }
        if (i + 1 == max) break;
        if (s->kv.len[0] >= s->n_ctx) {
            *why = "context full";
            break;
        }
        s->pending = -1;
        TRY(step(a, id));
    }
    if (stopped) return SQ_OK;
    TRY(text_append(a, piece, token_stream_flush(&a->stream, piece, sizeof piece)));
    text_emit(a, true, &stopped);
    return SQ_OK;
}

/* The turn's ids; a token sampled last but not yet in the cache goes first. */
static int turn_ids(answer_run *a, const char *question)
{
    sq_session *s = a->s;
    int32_t *ids;
    int n, lead = s->pending >= 0 ? 1 : 0;
    TRY(prompt_turn(s->m->m.tmpl, s->m->m.tok, s->n_turn == 0, question,
                    s->n_turn == 0 ? s->n_image : 0, &ids, &n, &s->err));
    a->ids = arena_alloc(&s->host, (size_t)(n + 1) * sizeof *ids);
    if (a->ids) {
        if (lead) a->ids[0] = s->pending;
        memcpy(a->ids + lead, ids, (size_t)n * sizeof *ids);
        a->n_ids = n + lead;
        s->pending = -1;
    }
    free(ids);
    if (!a->ids) return error_set(&s->err, SQ_E_NOMEM, "out of memory");
    for (int i = 0; i < a->n_ids; i++) /* a tokenizer may know more words than the decoder */
        if (a->ids[i] >= s->m->m.dec.cfg.n_vocab)
            return error_set(&s->err, SQ_E_FORMAT,
                             "%s: token %d of the prompt has no embedding: there are %d",
                             s->m->m.path, (int)a->ids[i], s->m->m.dec.cfg.n_vocab);
    return SQ_OK;
}

static size_t peak_resident_bytes(void)
{
    struct rusage u;
    return getrusage(RUSAGE_SELF, &u) ? 0 : (size_t)u.ru_maxrss * 1024;
}

static int run_turn(answer_run *a, const char *question, const char **why)
{
    sq_session *s = a->s;
    TRY(turn_ids(a, question));
    if (a->opt->temperature != 0) {
        a->logits = arena_alloc(&s->host, (size_t)s->m->m.dec.cfg.n_vocab * sizeof *a->logits);
        if (!a->logits) return error_set(&s->err, SQ_E_NOMEM, "out of memory");
    }
    int from = 0;
    if (s->n_turn == 0) {
        from = reuse_prefix(s, a->ids, a->n_ids);
        if (from == 0) TRY(remember_prefix(s, a->ids, a->n_ids));
    }
    TRY(prefill(a, from));
    token_stream_init(&a->stream, s->m->m.tok);
    double start = clock_ms();
    TRY(generate(a, why));
    a->r->ms.generate = clock_ms() - start;
    return SQ_OK;
}

static void fill_report(answer_run *a, const char *why)
{
    sq_session *s = a->s;
    sq_report *r = a->r;
    r->stop = why;
    r->method = s->policy->name;
    r->backend = s->m->be->describe;
    r->n_image = s->n_image;
    for (int i = 0; i < s->n_image; i++)
        r->image[i] = (sq_image_report){.tokens_in = s->image[i].n_in,
                                        .tokens_kept = s->image[i].n_kept,
                                        .kept = s->image[i].index,
                                        .grid = s->image[i].grid};
    r->context_tokens = s->kv.len[0];
    r->kv_bytes = kv_cache_bytes(&s->kv);
    r->peak_bytes = peak_resident_bytes();
    r->device_bytes = s->m->be->count.peak_bytes;
    r->launches = s->report.launches;
    r->syncs = s->report.syncs;
    r->ms.total += clock_ms() - a->start;
}

int session_answer(sq_session *s, const char *question, const sq_ask_options *opt, sq_report *r)
{
    static const sq_ask_options plain;
    answer_run a = {.s = s, .opt = opt ? opt : &plain, .r = r, .start = clock_ms()};
    arena_mark host = arena_get_mark(&s->host), dev = arena_get_mark(&s->dev);
    backend_count count = s->m->be->count;
    const char *why = "";
    int held = s->kv.len[0];
    int32_t pending = s->pending;
    *r = s->report; /* the pictures' times, once */
    s->sampler.temperature = a.opt->temperature;
    s->sampler.top_k = a.opt->top_k;
    s->sampler.top_p = a.opt->top_p > 0 ? a.opt->top_p : 1;

    int rc = run_turn(&a, question, &why);
    if (rc) {
        kv_cache_truncate(&s->kv, s->n_turn ? held : 0); /* as if the question was never asked */
        s->pending = pending;
        free(a.text);
    } else {
        s->n_turn++;
        free(s->answer_text);
        s->answer_text = a.text;
        r->answer = a.text;
        count_work(s, &count);
        fill_report(&a, why);
        s->report = (sq_report){0};
    }
    arena_rewind(&s->host, host);
    arena_rewind(&s->dev, dev);
    return rc;
}

int session_first_token(sq_session *s, int32_t *ids, int n, int32_t *best)
{
    sq_report r;
    float gap;
    answer_run a = {.s = s, .r = &r, .ids = ids, .n_ids = n};
    arena_mark host = arena_get_mark(&s->host), dev = arena_get_mark(&s->dev);
    s->sampler.temperature = 0;
    s->sampler.top_p = 1;
    kv_cache_truncate(&s->kv, 0);
    int rc = prefill(&a, 0);
    if (!rc) rc = pick(&a, best, &gap);
    arena_rewind(&s->host, host);
    arena_rewind(&s->dev, dev);
    return rc;
}
