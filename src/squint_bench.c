/* Times of single stages on random data, and the work that their shapes stand for. */
#include "core/clock.h"
#include "core/rng.h"
#include "squint_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    WARM_RUNS = 4, /* a GPU: memory is got, then regions run, are recorded, and are replayed */
    NUMBER_MAX = 1 << 20,
    NOISE_CHUNK = 1 << 20, /* values */
    PRODUCT_GPU = 8192,
    PRODUCT_CPU = 2048,
    COPY_GPU = 1 << 28, /* floats */
    COPY_CPU = 1 << 26,
    PICTURE_W = 640,
    PICTURE_H = 480,
    PROMPT_BEFORE = 35, /* as vicuna_v1 around a short question */
    PROMPT_AFTER = 20,
    PROMPT_TEXT = PROMPT_BEFORE + PROMPT_AFTER
};

typedef struct stage_bench {
    sq_model *m;
    int n, n_seq; /* the stage's numbers */
    arena keep;        /* backend memory of what stays from pass to pass */
    arena dev, host;   /* of a pass; host also holds what the setup made there */
    sq_tensor x, w, y; /* input and output, in keep */
    float level[3][256];
    vit_views views;
    vit_capture capture;
    kv_cache kv[SQ_STEP_MAX];
    int32_t *pos, *id, best[SQ_STEP_MAX];
    float gap[SQ_STEP_MAX];
    sq_session *session;
    arena_mark kept; /* of the session: without pictures */
    uint8_t *rgb;    /* 640 x 480 */
    double flop, bytes;
} stage_bench;

static int no_memory(stage_bench *b)
{
    return error_set(&b->m->err, SQ_E_NOMEM, "out of memory");
}

/* ---- data ---- */

/* Uniform over +-1, so that nothing is sparse or predictable; large tensors repeat it. */
static int new_noise(stage_bench *b, sq_dtype t, int64_t rows, int64_t cols, sq_tensor *out)
{
    sq_backend *be = b->m->be;
    *out = tensor_2d(arena_alloc(&b->keep, (size_t)rows * dtype_row_bytes(t, cols)), t, rows, cols);
    size_t all = tensor_bytes(out), chunk = dtype_row_bytes(t, NOISE_CHUNK);
    float *value = malloc(NOISE_CHUNK * sizeof *value);
    void *raw = malloc(chunk);
    bool ok = out->data && value && raw;
    uint64_t state = 1;
    for (int i = 0; ok && i < NOISE_CHUNK; i++)
        value[i] = (float)(2 * rng_unit(&state) - 1);
    if (ok) convert_from_f32(raw, t, value, NOISE_CHUNK);
    for (size_t at = 0; ok && at < all; at += chunk)
        be->write(be, (char *)out->data + at, raw, all - at < chunk ? all - at : chunk);
    free(value);
    free(raw);
    return ok ? SQ_OK : no_memory(b);
}

static uint8_t *new_bytes(stage_bench *b, size_t n)
{
    uint8_t *p = arena_alloc(&b->host, n);
    uint64_t state = 1;
    for (size_t i = 0; p && i < n; i++)
        p[i] = (uint8_t)rng_next(&state);
    return p;
}

static int need_vision(stage_bench *b)
{
    if (b->m->m.vit.layer) return SQ_OK;
    return error_set(&b->m->err, SQ_E_UNSUPPORTED, "%s: no vision tower to time", b->m->m.path);
}

static int need_decoder(stage_bench *b)
{
    if (b->m->m.dec.layer) return SQ_OK;
    return error_set(&b->m->err, SQ_E_UNSUPPORTED, "%s: no language model to time", b->m->m.path);
}

static int patches_of(const stage_bench *b)
{
    const vit_config *c = &b->m->m.vit.cfg;
    int grid = c->image_size / c->patch_size;
    return grid * grid;
}

/* ---- work ---- */

static double count_of(const sq_tensor *t)
{
    return tensor_is_set(t) ? (double)tensor_count(t) : 0;
}

/* What b->flop and b->bytes count, here and in the two functions below: 2 operations for each
 * weight and row it multiplies, and 4 * head_dim for each head and pair of a query and a key it
 * sees; each matrix read once a run, and each K and V row that was there before. Left out are
 * biases, norms, softmax, activations between ops and embeddings: below 1 % of either. */
static void count_product(stage_bench *b, const sq_tensor *w, double rows)
{
    b->flop += 2 * count_of(w) * rows;
    b->bytes += (double)tensor_bytes(w);
}

/* n_layer layers as vit_begin runs them: all rows through every layer, n views. */
static void count_vision(stage_bench *b, int n)
{
    const vit_model *v = &b->m->m.vit;
    const vit_config *c = &v->cfg;
    int n_layer = 0;
    double patches = patches_of(b), tok = patches + 1;
    for (int i = 0; i < c->n_feature; i++)
        n_layer = c->feature[i] > n_layer ? c->feature[i] : n_layer;
    count_product(b, &v->patch_w, patches * n);
    for (int i = 0; i < n_layer; i++) {
        const vit_layer *l = &v->layer[i];
        const sq_tensor *const w[] = {&l->q_w, &l->k_w, &l->v_w, &l->o_w, &l->fc1_w, &l->fc2_w};
        for (int k = 0; k < 6; k++)
            count_product(b, w[k], tok * n);
        b->flop += 4.0 * c->dim * tok * tok * n;
    }
    b->flop += 2.0 * c->dim * tok * n * b->capture.row_count;
}

static void count_projector(stage_bench *b, int n)
{
    count_product(b, &b->m->m.proj.fc1_w, n);
    count_product(b, &b->m->m.proj.fc2_w, n);
}

/* n new rows behind `held` for each of n_seq sequences. In the last layer only the last row asks
 * and goes on, and only it has logits. */
static void count_decoder(stage_bench *b, int n_seq, int n, int held)
{
    const decoder_model *d = &b->m->m.dec;
    const decoder_config *c = &d->cfg;
    double kv_row =
        2.0 * (double)dtype_row_bytes(b->m->be->act, (int64_t)c->n_head_kv * c->head_dim);
    for (int i = 0; i < c->n_layer; i++) {
        const decoder_layer *l = &d->layer[i];
        const sq_tensor *const w[] = {&l->q_w, &l->o_w, &l->gate_w, &l->up_w, &l->down_w};
        int window = c->window && i >= c->window_from ? c->window : INT32_MAX;
        int n_q = i + 1 < c->n_layer ? n : 1, seen = held < window ? held : window;
        double pairs = 0;
        for (int q = n - n_q; q < n; q++)
            pairs += held + q + 1 < window ? held + q + 1 : window;
        count_product(b, &l->k_w, (double)n * n_seq);
        count_product(b, &l->v_w, (double)n * n_seq);
        for (int k = 0; k < 5; k++)
            count_product(b, w[k], (double)n_q * n_seq);
        b->flop += 4.0 * c->n_head * c->head_dim * pairs * n_seq;
        b->bytes += kv_row * seen * n_seq;
    }
    count_product(b, &d->head, n_seq);
}

/* ---- ceilings ---- */

static int setup_product(stage_bench *b)
{
    sq_backend *be = b->m->be;
    int64_t n = be->resident ? PRODUCT_GPU : PRODUCT_CPU;
    sq_dtype w = be->resident || be->compute == SQ_COMPUTE_F32 ? be->act : SQ_DTYPE_BF16;
    TRY(new_noise(b, be->act, n, n, &b->x));
    TRY(new_noise(b, w, n, n, &b->w));
    TRY(new_noise(b, be->act, n, n, &b->y));
    count_product(b, &b->w, (double)n);
    b->bytes += 2.0 * (double)tensor_bytes(&b->x);
    return SQ_OK;
}

static int run_product(stage_bench *b)
{
    sq_backend *be = b->m->be;
    be->ops.linear(be, &b->y, &b->x, &b->w, NULL, &(linear_desc){0});
    return SQ_OK;
}

static int setup_copy(stage_bench *b)
{
    int64_t n = b->m->be->resident ? COPY_GPU : COPY_CPU, cols = 4096;
    TRY(new_noise(b, SQ_DTYPE_F32, n / cols, cols, &b->x));
    TRY(new_noise(b, SQ_DTYPE_F32, n / cols, cols, &b->y));
    b->bytes = 2.0 * (double)tensor_bytes(&b->x);
    return SQ_OK;
}

static int run_copy(stage_bench *b)
{
    b->m->be->ops.activate(b->m->be, &b->y, &b->x, SQ_ACT_NONE);
    return SQ_OK;
}

/* ---- vision ---- */

static int limit_vision(stage_bench *b, int *most)
{
    *most = SQ_MAX_IMAGES; /* no session shows the tower more */
    return need_vision(b);
}

static int setup_vision(stage_bench *b)
{
    size_t side = (size_t)b->m->m.pre.side;
    uint8_t *rgb = new_bytes(b, (size_t)b->n * 3 * side * side);
    if (!rgb) return no_memory(b);
    preprocess_levels(b->level, &b->m->m.pre);
    b->views = (vit_views){.n = b->n, .rgb = rgb, .level = (const float(*)[256])b->level};
    count_vision(b, b->n);
    return SQ_OK;
}

/* As fastervlm asks: the CLS row of the layer that the features come from. */
static int setup_vision_rows(stage_bench *b)
{
    const vit_config *c = &b->m->m.vit.cfg;
    b->capture.row_count = 1;
    for (int i = 0; i < c->n_feature; i++)
        if (c->feature[i] - 1 > b->capture.row_first) b->capture.row_first = c->feature[i] - 1;
    return setup_vision(b);
}

/* From 8-bit views in host memory, as a picture's are. */
static int run_vision(stage_bench *b)
{
    vit_output out;
    return vit_forward(b->m->be, &b->m->m.vit, &b->views, &b->capture, &out, &b->dev, &b->host,
                       NULL, NULL, &b->m->err);
}

static int limit_project(stage_bench *b, int *most)
{
    *most = NUMBER_MAX;
    TRY(need_vision(b));
    return need_decoder(b);
}

static int setup_project(stage_bench *b)
{
    const projector_model *p = &b->m->m.proj;
    TRY(new_noise(b, b->m->be->act, b->n, p->in_dim, &b->x));
    TRY(new_noise(b, SQ_DTYPE_F32, b->n, p->out_dim, &b->y));
    count_projector(b, b->n);
    return SQ_OK;
}

static int run_project(stage_bench *b)
{
    return projector_forward(b->m->be, &b->m->m.proj, &b->y, &b->x, &b->dev, &b->m->err);
}

/* ---- decoder ---- */

static int limit_rows(stage_bench *b, int *most)
{
    *most = b->m->m.dec.cfg.n_ctx - 1;
    return need_decoder(b);
}

static int open_caches(stage_bench *b)
{
    const decoder_config *c = &b->m->m.dec.cfg;
    b->pos = arena_alloc(&b->host, ((size_t)b->n + SQ_STEP_MAX) * sizeof *b->pos);
    b->id = arena_alloc(&b->host, SQ_STEP_MAX * sizeof *b->id);
    if (!b->pos || !b->id) return no_memory(b);
    for (int i = 0; i < b->n; i++)
        b->pos[i] = i;
    TRY(new_noise(b, SQ_DTYPE_F32, b->n, c->dim, &b->x));
    for (int s = 0; s < b->n_seq; s++)
        TRY(kv_cache_open(&b->kv[s], b->m->be, c->n_layer, b->n + 1, c->n_head_kv * c->head_dim,
                          b->m->be->act, &b->m->err));
    return SQ_OK;
}

/* The pass overwrites its input, so it gets a copy. */
static int prefill_into(stage_bench *b, kv_cache *kv)
{
    sq_backend *be = b->m->be;
    sq_tensor x =
        tensor_2d(arena_alloc(&b->dev, tensor_bytes(&b->x)), SQ_DTYPE_F32, b->n, b->x.shape[1]);
    if (!x.data) return no_memory(b);
    be->ops.activate(be, &x, &b->x, SQ_ACT_NONE);
    kv_cache_truncate(kv, 0);
    decoder_result want = {.best = b->best, .gap = b->gap};
    return decoder_forward(be, &b->m->m.dec, kv, &x, b->pos, &want, &b->dev, &b->m->err);
}

static int setup_prefill(stage_bench *b)
{
    TRY(open_caches(b));
    count_decoder(b, 1, b->n, 0);
    return SQ_OK;
}

static int run_prefill(stage_bench *b)
{
    return prefill_into(b, &b->kv[0]);
}

static int setup_decode(stage_bench *b)
{
    TRY(open_caches(b));
    for (int s = 0; s < b->n_seq; s++) {
        arena_mark mark = arena_get_mark(&b->dev);
        TRY(prefill_into(b, &b->kv[s]));
        arena_rewind(&b->dev, mark);
    }
    for (int s = 0; s < b->n_seq; s++) {
        b->pos[s] = b->n;
        b->id[s] = (s + 1) % b->m->m.dec.cfg.n_vocab;
    }
    count_decoder(b, b->n_seq, 1, b->n);
    return SQ_OK;
}

static int run_decode(stage_bench *b)
{
    kv_cache *kv[SQ_STEP_MAX];
    decoder_result want = {.best = b->best, .gap = b->gap};
    for (int s = 0; s < b->n_seq; s++) {
        kv[s] = &b->kv[s];
        kv_cache_truncate(kv[s], b->n);
    }
    return decoder_step(b->m->be, &b->m->m.dec, kv, b->n_seq, b->id, b->pos, &want, &b->dev,
                        &b->m->err);
}

/* ---- picture to first token ---- */

/* The picture has no more tokens, and the context must hold the prompt around them. */
static int limit_kept(stage_bench *b, int *most)
{
    TRY(need_vision(b));
    TRY(need_decoder(b));
    int room = b->m->m.dec.cfg.n_ctx - 1 - PROMPT_TEXT - b->m->m.vit.cfg.keep_cls;
    *most = patches_of(b) < room ? patches_of(b) : room;
    return SQ_OK;
}

static int setup_first_token(stage_bench *b)
{
    char keep[16];
    snprintf(keep, sizeof keep, "%d", b->n);
    const sq_session_options so = {.prune = "fastervlm", .keep = keep};
    int rc = sq_session_open(&b->session, b->m, &so);
    if (rc) return error_set(&b->m->err, rc, "%s", sq_session_error(b->session));
    b->session->opt.keep = NULL; /* parsed; the text goes out of scope */
    b->kept = arena_get_mark(&b->session->kept);
    b->rgb = new_bytes(b, (size_t)PICTURE_W * PICTURE_H * 3);
    b->id = arena_alloc(&b->host, (PROMPT_TEXT + 1) * sizeof *b->id);
    if (!b->rgb || !b->id) return no_memory(b);
    for (int i = 0; i <= PROMPT_TEXT; i++)
        b->id[i] = i == PROMPT_BEFORE ? PROMPT_IMAGE : i * 7 % b->m->m.dec.cfg.n_vocab;
    b->capture.row_count = 1;
    count_vision(b, 1);
    count_projector(b, b->n);
    count_decoder(b, 1, b->n + PROMPT_TEXT, 0);
    return SQ_OK;
}

static int run_first_token(stage_bench *b)
{
    sq_session *s = b->session;
    picture_source src = {.width = PICTURE_W, .height = PICTURE_H, .rgb = b->rgb};
    session_drop_pictures(s, 0, b->kept);
    int rc = session_encode(s, &src, 1);
    if (!rc) rc = session_first_token(s, b->id, PROMPT_TEXT + 1, b->best);
    return rc ? error_set(&b->m->err, rc, "%s", s->err.text) : SQ_OK;
}

/* ---- the stages ---- */

typedef struct stage_row {
    const char *name;
    const char *number; /* behind the colon; NULL: none */
    bool may_lack;      /* the number is then 1 */
    int max_seq;        /* of "xN" behind the number; 0: not there */
    int (*limit)(stage_bench *b, int *most); /* of the number, for this model; NULL: no number */
    int (*setup)(stage_bench *b);
    int (*run)(stage_bench *b);
} stage_row;

static const stage_row stages[] = {
    {"vision", "VIEWS", true, 0, limit_vision, setup_vision, run_vision},
    {"vision+rows", "VIEWS", true, 0, limit_vision, setup_vision_rows, run_vision},
    {"project", "ROWS", false, 0, limit_project, setup_project, run_project},
    {"prefill", "ROWS", false, 0, limit_rows, setup_prefill, run_prefill},
    {"decode", "ROWS", false, SQ_STEP_MAX, limit_rows, setup_decode, run_decode},
    {"first-token", "KEPT", false, 0, limit_kept, setup_first_token, run_first_token},
    {"product", NULL, true, 0, NULL, setup_product, run_product},
    {"copy", NULL, true, 0, NULL, setup_copy, run_copy},
    {NULL, NULL, false, 0, NULL, NULL, NULL},
};

/* "decode:ROWS[xN] (N up to 64)" */
static void describe(const stage_row *row, char *out, size_t size)
{
    const char *colon = row->number ? ":" : "", *number = row->number ? row->number : "";
    int n = snprintf(out, size, row->may_lack && row->number ? "%s[%s%s]" : "%s%s%s", row->name,
                     colon, number);
    if (row->max_seq) snprintf(out + n, size - (size_t)n, "[xN] (N up to %d)", row->max_seq);
}

static int unknown_stage(stage_bench *b, const char *text)
{
    char all[256] = "", one[64];
    for (const stage_row *row = stages; row->name; row++) {
        describe(row, one, sizeof one);
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", *all ? ", " : "", one);
    }
    return error_set(&b->m->err, SQ_E_ARG, "unknown stage \"%.40s\": expected one of %s", text,
                     all);
}

/* The number that text begins with, and its end; no sign and no space. */
static const char *read_number(const char *text, long *n)
{
    char *end;
    if (*text < '0' || *text > '9') return text;
    *n = strtol(text, &end, 10);
    return end;
}

/* "decode:631x8" -> its row, n and n_seq, which this model can do. */
static int parse_stage(stage_bench *b, const char *text, const stage_row **out)
{
    size_t length = strcspn(text, ":");
    const stage_row *row = stages;
    while (row->name && (strlen(row->name) != length || memcmp(row->name, text, length)))
        row++;
    if (!row->name) return unknown_stage(b, text);
    *out = row;
    b->n = b->n_seq = 1;
    int most = NUMBER_MAX;
    if (row->limit) TRY(row->limit(b, &most));
    if (most < 1)
        return error_set(&b->m->err, SQ_E_ARG, "stage %s: a context of %d tokens is too short",
                         row->name, b->m->m.dec.cfg.n_ctx);
    if (!text[length] && row->may_lack) return SQ_OK;
    const char *digits = text[length] && row->number ? text + length + 1 : "";
    char expected[64];
    long n = 0, seq = 1;
    const char *end = read_number(digits, &n);
    int n_digit = (int)(end - digits);
    bool ok = n >= 1;
    if (ok && *end == 'x' && row->max_seq) {
        seq = 0;
        end = read_number(end + 1, &seq);
        ok = seq >= 1 && seq <= row->max_seq;
    }
    describe(row, expected, sizeof expected);
    if (!ok || *end)
        return error_set(&b->m->err, SQ_E_ARG, "stage %s: expected %s, found \"%.40s\"", row->name,
                         expected, text);
    if (n > most)
        return error_set(&b->m->err, SQ_E_ARG, "stage %s: %s: expected 1..%d, found %.*s",
                         row->name, row->number, most, n_digit, digits);
    b->n = (int)n;
    b->n_seq = (int)seq;
    return SQ_OK;
}

/* One run between two waits: what it did and how long it took. */
static int time_run(stage_bench *b, const stage_row *stage, double *ms, backend_count *count)
{
    sq_backend *be = b->m->be;
    be->sync(be);
    backend_count before = be->count;
    double start = clock_ms();
    TRY(stage->run(b));
    backend_count after = be->count;
    be->sync(be);
    if (be->err.code) return error_set(&b->m->err, be->err.code, "%s", be->err.text);
    *ms = clock_ms() - start;
    count->launches += after.launches - before.launches;
    count->syncs += after.syncs - before.syncs;
    return SQ_OK;
}

/* The first pass is told apart; others that warm up are not told. */
static int time_stage(stage_bench *b, const stage_row *row, int repeat, sq_bench_result *r)
{
    int warm = b->m->be->resident ? WARM_RUNS : 1;
    arena_mark dev = arena_get_mark(&b->dev), host = arena_get_mark(&b->host);
    backend_count count = {0};
    for (int i = -warm; i < repeat; i++) {
        double ms = 0;
        if (i == 0) count = (backend_count){0};
        TRY(time_run(b, row, &ms, &count));
        if (i == -warm) r->first_ms = ms;
        if (i >= 0) r->ms[i] = ms;
        arena_rewind(&b->dev, dev);
        arena_rewind(&b->host, host);
    }
    r->launches = (double)count.launches / repeat;
    r->syncs = (double)count.syncs / repeat;
    return SQ_OK;
}

int sq_bench_stage(sq_model *m, const char *stage, int repeat, sq_bench_result *r)
{
    TRY(model_begin(m));
    stage_bench b = {.m = m, .keep.source = &m->be->memory, .dev.source = &m->be->memory};
    const stage_row *row = NULL;
    TRY(parse_stage(&b, stage, &row));
    if (repeat < 1) return SQ_OK;
    TRY(model_ready(m, &m->err));
    int rc = row->setup(&b);
    *r = (sq_bench_result){.ms = r->ms, .flop = b.flop, .bytes = b.bytes};
    if (!rc) rc = time_stage(&b, row, repeat, r);
    if (rc == SQ_E_NOMEM) { /* only the stage tells which number was too large */
        sq_error why = m->err;
        error_clear(&m->err);
        error_set(&m->err, rc, "stage %.60s: %s", stage, why.text);
    }
    sq_session_close(&b.session);
    for (int s = 0; s < b.n_seq; s++)
        if (b.kv[s].be) kv_cache_close(&b.kv[s]);
    arena_close(&b.keep);
    arena_close(&b.dev);
    arena_close(&b.host);
    return rc;
}
