/* Times the slots of a device whose work runs beside the host's, at the sizes of LLaVA 1.5 7B: a
 * batch of calls between two waits, divided. Beside it the same batch as a region, which a device
 * may replay without the host: what is left is the device's own time. Weights and caches rotate
 * through more memory than its caches hold. */
#include "opcheck.h"

#include "core/clock.h"
#include "core/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 9, BATCH = 50, PART = 1 << 20, HEAD = 128, N_INTS = 1024 };
static const size_t POOL = (size_t)1 << 30, SPACE = (size_t)256 << 20;

typedef struct dev_bench {
    oc_run *r;
    sq_backend *be;
    unsigned char *pool;      /* weights and caches */
    unsigned char *x, *y, *z; /* SPACE each: activations, results, f32 */
    sq_tensor ints;           /* 0, 1, 2, .. */
    size_t at;                /* next in the pool */
    float inv_freq[HEAD / 2];
    int32_t count[N_INTS]; /* ints on the host */
    float ones[N_INTS];
} dev_bench;

typedef struct dev_item {
    const char *slot, *label;
    void (*run)(dev_bench *b, const struct dev_item *i);
    int n, in, out; /* rows and sizes; tokens, heads and head_dim */
    int kind;
    double flop;
    int64_t values, f32; /* moved: of the activations' type, of 4 bytes */
    bool host;           /* copies host arrays: no region */
} dev_item;

static sq_tensor at_of(void *p, sq_dtype t, int64_t rows, int64_t cols)
{
    return tensor_2d(p, t, rows, cols);
}

/* The next tensor of the pool. */
static sq_tensor next(dev_bench *b, int64_t rows, int64_t cols)
{
    sq_tensor t = tensor_2d(NULL, b->r->act, rows, cols);
    size_t bytes = (tensor_bytes(&t) + 255) / 256 * 256;
    if (b->at + bytes > POOL) b->at = 0;
    t.data = b->pool + b->at;
    b->at += bytes;
    return t;
}

/* kind: 1 adds to f32, 2 adds a bias and has an activation */
static void run_linear(dev_bench *b, const dev_item *i)
{
    linear_desc d = {i->kind == 2 ? SQ_ACT_QUICK_GELU : SQ_ACT_NONE, i->kind == 1};
    sq_tensor bias = tensor_1d(b->z, SQ_DTYPE_F32, i->out);
    sq_tensor x = at_of(b->x, b->r->act, i->n, i->in), w = next(b, i->out, i->in);
    sq_tensor y = at_of(b->y, d.add ? SQ_DTYPE_F32 : b->r->act, i->n, i->out);
    b->be->ops.linear(b->be, &y, &x, &w, i->kind == 2 ? &bias : NULL, &d);
}

static void run_many(dev_bench *b, const dev_item *i)
{
    sq_tensor x = at_of(b->x, b->r->act, i->n, i->in), w[3], y[3];
    for (int k = 0; k < 3; k++) {
        w[k] = next(b, i->out, i->in);
        y[k] = at_of(b->y + (size_t)k * (SPACE / 4), b->r->act, i->n, i->out);
    }
    sq_tensor *ys[] = {&y[0], &y[1], &y[2]};
    const sq_tensor *ws[] = {&w[0], &w[1], &w[2]}, *none[] = {NULL, NULL, NULL};
    b->be->ops.linear_many(b->be, ys, &x, ws, none, 3);
}

static void run_gated(dev_bench *b, const dev_item *i)
{
    sq_tensor x = at_of(b->x, b->r->act, i->n, i->in), y = at_of(b->y, b->r->act, i->n, i->out);
    sq_tensor gate = next(b, i->out, i->in), up = next(b, i->out, i->in);
    sq_tensor scratch = at_of(b->z, b->r->act, 2 * i->n, i->out);
    b->be->ops.linear_gated(b->be, &y, &x, &gate, &up, &scratch);
}

enum { CAUSAL = 1, ROWS = 2, MEANS = 4, VIEWS = 8 };

static void run_attn(dev_bench *b, const dev_item *i)
{
    int seq = i->kind & VIEWS ? 5 : 1, row = i->in * i->out;
    attn_desc d = {.n_seq = seq,
                   .n_q = i->n,
                   .n_kv = i->n,
                   .n_head = i->in,
                   .n_head_kv = i->in,
                   .head_dim = i->out,
                   .causal = i->kind & CAUSAL,
                   .scale = 1 / sqrtf((float)i->out)};
    sq_tensor q = at_of(b->x, b->r->act, (int64_t)seq * i->n, row), y = q;
    sq_tensor k = next(b, (int64_t)seq * i->n, row), v = next(b, (int64_t)seq * i->n, row);
    y.data = b->y;
    sq_tensor score = {b->z, SQ_DTYPE_F32, 4, {seq, 1, i->in, i->n}};
    sq_tensor received = at_of(b->z, SQ_DTYPE_F32, seq, i->n - 1), given = received;
    given.data = b->z + SPACE / 2;
    if (i->kind & ROWS)
        b->be->ops.attn_rows(b->be, &score, &q, &k, b->count, 1, false, &d);
    else if (i->kind & MEANS)
        b->be->ops.attn_means(b->be, &received, &given, &q, &k, 1, false, &d);
    else
        b->be->ops.attn(b->be, &y, &q, &k, &v, &d);
}

/* kind: sequences */
static void run_step(dev_bench *b, const dev_item *i)
{
    int row = i->in * i->out, seq = i->kind;
    sq_tensor q = at_of(b->x, b->r->act, seq, row), k = q, v = q, y = q;
    sq_tensor cache[2][8], len = b->ints;
    const sq_tensor *ck[8], *cv[8];
    k.data = b->x + SPACE / 4;
    v.data = b->x + SPACE / 2;
    y.data = b->y;
    for (int s = 0; s < seq; s++) {
        cache[0][s] = next(b, i->n + 8, row);
        cache[1][s] = next(b, i->n + 8, row);
        ck[s] = &cache[0][s];
        cv[s] = &cache[1][s];
    }
    len.shape[0] = seq;
    len.data = (int32_t *)b->ints.data + i->n - seq; /* n - seq, n - seq + 1, .. */
    kv_step step = {seq, &len, &len, ck, cv};
    rope_desc rope = {i->in, i->in, i->out, true, b->inv_freq, 1.0f};
    attn_desc d = {
        .n_head = i->in, .n_head_kv = i->in, .head_dim = i->out, .scale = 1 / sqrtf((float)i->out)};
    b->be->ops.attn_step(b->be, &y, &q, &k, &v, &step, &rope, &d);
}

static void run_rope(dev_bench *b, const dev_item *i)
{
    int row = i->in * i->out;
    sq_tensor q = at_of(b->x, b->r->act, i->n, row), k = q, v = q, pos = b->ints;
    sq_tensor ck = next(b, i->n, row), cv = next(b, i->n, row);
    k.data = b->x + SPACE / 4;
    v.data = b->x + SPACE / 2;
    pos.shape[0] = i->n;
    rope_desc rope = {i->in, i->in, i->out, true, b->inv_freq, 1.0f};
    b->be->ops.rope_append(b->be, &q, &k, &v, &ck, &cv, 0, &pos, &rope);
}

static void run_norm(dev_bench *b, const dev_item *i)
{
    sq_tensor x = at_of(b->z, SQ_DTYPE_F32, i->n, i->in), y = at_of(b->y, b->r->act, i->n, i->in);
    sq_tensor w = tensor_1d(b->z + SPACE / 2, SQ_DTYPE_F32, i->in);
    if (i->kind)
        b->be->ops.rms_norm(b->be, &y, &x, &w, 1e-5f);
    else
        b->be->ops.layer_norm(b->be, &y, &x, &w, &w, 1e-5f);
}

enum { EACH_SILU, EACH_GELU, EACH_ADD, EACH_EMBED, EACH_SELECT, EACH_ARGMAX, EACH_PATCH };

static void run_each(dev_bench *b, const dev_item *i)
{
    sq_backend *be = b->be;
    sq_dtype a = b->r->act;
    sq_tensor x = at_of(b->x, a, i->n, i->in), y = at_of(b->y, a, i->n, i->in), up = x;
    sq_tensor xf = at_of(b->z, SQ_DTYPE_F32, i->n, i->in), yf = xf, ids = b->ints, table = up;
    sparse_rows m = {i->out, b->count, b->count, b->ones};
    sq_tensor pixels = {b->z, SQ_DTYPE_U8, 4, {1, i->n, i->n, 3}};
    sq_tensor level = at_of(b->z + SPACE / 2, SQ_DTYPE_F32, 3, 256);
    up.data = b->x + SPACE / 2;
    yf.data = b->y;
    ids.shape[0] = i->n;
    switch (i->kind) {
    case EACH_SILU:
        be->ops.silu_mul(be, &y, &x, &up);
        break;
    case EACH_GELU:
        be->ops.activate(be, &y, &x, SQ_ACT_QUICK_GELU);
        break;
    case EACH_ADD:
        be->ops.add(be, &yf, &xf);
        break;
    case EACH_EMBED:
        table = next(b, N_INTS, i->in);
        be->ops.embed(be, &yf, &table, &ids);
        break;
    case EACH_SELECT:
        y.shape[0] = i->out;
        be->ops.select_rows(be, &y, &xf, &m);
        break;
    case EACH_ARGMAX: {
        sq_tensor best = tensor_1d(b->y, SQ_DTYPE_I32, i->n);
        sq_tensor gap = tensor_1d(b->y + SPACE / 2, SQ_DTYPE_F32, i->n);
        be->ops.argmax(be, &best, &gap, &xf);
        break;
    }
    default:
        y = at_of(b->y, a, (int64_t)(i->n / 14) * (i->n / 14), 3 * 14 * 14);
        be->ops.patchify(be, &y, &pixels, &level, 14);
    }
}

#define LINEAR(n, in, out, kind)                                                                   \
    {                                                                                              \
        "linear", #n "x" #in "x" #out, run_linear, n, in, out, kind, 2.0 * n *in *out,             \
            (int64_t)n *in + (int64_t)in *out + (kind ? 0 : (int64_t)n * out),                     \
            kind ? 2LL * n *out : 0, false                                                         \
    }
#define ACTIVE(n, in, out)                                                                         \
    {                                                                                              \
        "linear", #n "x" #in "x" #out " act", run_linear, n, in, out, 2, 2.0 * n *in *out,         \
            (int64_t)n *in + (int64_t)in *out + 3LL * n *out, 0, false                             \
    }
#define MANY(n, in)                                                                                \
    {                                                                                              \
        "linear_many", #n "x" #in "x3x" #in, run_many, n, in, in, 0, 6.0 * n *in *in,              \
            4LL * n *in + 3LL * in *in, 0, false                                                   \
    }
#define GATED(n, in, out)                                                                          \
    {                                                                                              \
        "linear_gated", #n "x" #in "x2x" #out, run_gated, n, in, out, 0, 4.0 * n *in *out,         \
            (int64_t)n *(in + out) + 2LL * in *out, 0, false                                       \
    }
#define ATTN(slot, label, n, heads, dim, kind, share, seq)                                         \
    {                                                                                              \
        slot, label, run_attn, n, heads, dim, kind, share *seq *n *(double)n *heads *dim,          \
            4LL * seq *n *heads *dim, 0, ((kind)&ROWS) != 0                                        \
    }
#define STEP(label, n, seq)                                                                        \
    {                                                                                              \
        "attn_step", label, run_step, n, 32, 128, seq, 4.0 * seq *n * 4096, 2LL * seq *n * 4096,   \
            0, false                                                                               \
    }

static const dev_item items[] = {
    LINEAR(576, 592, 1024, 1),
    LINEAR(577, 1024, 1024, 0),
    LINEAR(577, 1024, 1024, 1),
    LINEAR(577, 1024, 4096, 0),
    ACTIVE(577, 1024, 4096),
    LINEAR(577, 4096, 1024, 1),
    LINEAR(2885, 1024, 4096, 0),
    ACTIVE(2885, 1024, 4096),
    LINEAR(576, 4096, 4096, 0),
    LINEAR(84, 4096, 4096, 1),
    LINEAR(84, 4096, 11008, 0),
    LINEAR(84, 11008, 4096, 1),
    LINEAR(631, 4096, 4096, 1),
    LINEAR(631, 4096, 11008, 0),
    LINEAR(631, 11008, 4096, 1),
    LINEAR(1, 4096, 4096, 1),
    LINEAR(1, 4096, 11008, 0),
    LINEAR(1, 11008, 4096, 1),
    LINEAR(1, 4096, 32000, 0),
    LINEAR(2, 4096, 11008, 0),
    LINEAR(4, 4096, 11008, 0),
    LINEAR(8, 4096, 11008, 0),
    LINEAR(16, 4096, 11008, 0),
    MANY(577, 1024),
    MANY(84, 4096),
    MANY(631, 4096),
    MANY(1, 4096),
    MANY(8, 4096),
    GATED(84, 4096, 11008),
    GATED(631, 4096, 11008),
    GATED(1, 4096, 11008),
    GATED(8, 4096, 11008),
    ATTN("attn", "577x16x64", 577, 16, 64, 0, 4.0, 1),
    ATTN("attn", "5 of 577x16x64", 577, 16, 64, VIEWS, 4.0, 5),
    ATTN("attn", "causal 631x32x128", 631, 32, 128, CAUSAL, 2.0, 1),
    ATTN("attn", "causal 84x32x128", 84, 32, 128, CAUSAL, 2.0, 1),
    ATTN("attn", "causal 2048x32x128", 2048, 32, 128, CAUSAL, 2.0, 1),
    ATTN("attn_rows", "1 row 577x16x64", 577, 16, 64, ROWS, 2.0 / 577, 1),
    ATTN("attn_means", "577x16x64", 577, 16, 64, MEANS, 2.0, 1),
    ATTN("attn_means", "5 of 577x16x64", 577, 16, 64, MEANS | VIEWS, 2.0, 5),
    STEP("631x32x128", 631, 1),
    STEP("84x32x128", 84, 1),
    STEP("8 of 631x32x128", 631, 8),
    {"rope_append", "631x32x128", run_rope, 631, 32, 128, 0, 0, 6LL * 631 * 4096, 0, false},
    {"rope_append", "84x32x128", run_rope, 84, 32, 128, 0, 0, 6LL * 84 * 4096, 0, false},
    {"layer_norm", "577x1024", run_norm, 577, 1024, 0, 0, 0, 577 * 1024, 577 * 1024, false},
    {"rms_norm", "631x4096", run_norm, 631, 4096, 0, 1, 0, 631 * 4096, 631 * 4096, false},
    {"rms_norm", "84x4096", run_norm, 84, 4096, 0, 1, 0, 84 * 4096, 84 * 4096, false},
    {"rms_norm", "1x4096", run_norm, 1, 4096, 0, 1, 0, 4096, 4096, false},
    {"silu_mul", "631x11008", run_each, 631, 11008, 0, EACH_SILU, 0, 3LL * 631 * 11008, 0, false},
    {"silu_mul", "84x11008", run_each, 84, 11008, 0, EACH_SILU, 0, 3LL * 84 * 11008, 0, false},
    {"activate", "577x4096", run_each, 577, 4096, 0, EACH_GELU, 0, 2LL * 577 * 4096, 0, false},
    {"add", "577x1024", run_each, 577, 1024, 0, EACH_ADD, 0, 0, 3LL * 577 * 1024, false},
    {"embed", "631x4096", run_each, 631, 4096, 0, EACH_EMBED, 0, 631 * 4096, 631 * 4096, false},
    {"select_rows", "64 of 577x1024", run_each, 577, 1024, 64, EACH_SELECT, 0, 64 * 1024, 64 * 1024,
     true},
    {"argmax", "1x32000", run_each, 1, 32000, 0, EACH_ARGMAX, 0, 0, 32000, false},
    {"argmax", "8x32000", run_each, 8, 32000, 0, EACH_ARGMAX, 0, 0, 8 * 32000, false},
    {"patchify", "336 by 14 u8", run_each, 336, 0, 0, EACH_PATCH, 0, 3 * 336 * 336, 3 * 336 * 84,
     false},
};

typedef struct batch {
    dev_bench *b;
    const dev_item *item;
} batch;

static void run_batch(void *user)
{
    batch *t = user;
    t->b->at = 0;
    for (int i = 0; i < BATCH; i++)
        t->item->run(t->b, t->item);
}

/* ms of one call; the first rounds load kernels, record, and warm up. */
static oc_time batch_time(dev_bench *b, const dev_item *i, bool region)
{
    double ms[ROUNDS];
    batch t = {b, i};
    for (int round = -3; round < ROUNDS; round++) {
        b->be->sync(b->be);
        double start = clock_ms();
        if (region)
            b->be->region(b->be, &i, sizeof i, run_batch, &t);
        else
            run_batch(&t);
        b->be->sync(b->be);
        if (round >= 0) ms[round] = (clock_ms() - start) / BATCH;
    }
    return oc_time_of(ms, ROUNDS);
}

static void print_item(const dev_item *i, oc_time calls, oc_time region, size_t item_bytes)
{
    double ms = i->host ? calls.median : region.median;
    double bytes = (double)item_bytes * (double)i->values + 4.0 * (double)i->f32;
    printf("%-13s %-22s %9.4f %9.4f", i->slot, i->label, calls.median, calls.best);
    if (i->host)
        printf(" %9s %9s", "-", "-");
    else
        printf(" %9.4f %9.4f", region.median, region.best);
    printf(" %9.1f %9.0f\n", i->flop / ms * 1e-9, bytes / ms * 1e-6);
}

static void fill(dev_bench *b, const float *part, unsigned char *dst, size_t size, sq_dtype t)
{
    size_t bytes = dtype_row_bytes(t, PART);
    unsigned char *stored = oc_alloc(bytes);
    convert_from_f32(stored, t, part, PART);
    for (size_t at = 0; at < size; at += bytes)
        b->be->write(b->be, dst + at, stored, size - at < bytes ? size - at : bytes);
    free(stored);
}

static unsigned char *take(sq_backend *be, size_t size)
{
    unsigned char *p = be->memory.alloc(be->memory.user, size);
    if (p) return p;
    fprintf(stderr, "opcheck: out of device memory\n");
    exit(1);
}

static void bench_open(dev_bench *b, oc_run *r)
{
    uint64_t seed = 1;
    float *part = oc_alloc(PART * sizeof *part);
    *b = (dev_bench){.r = r, .be = r->be};
    b->pool = take(r->be, POOL);
    b->x = take(r->be, SPACE);
    b->y = take(r->be, SPACE);
    b->z = take(r->be, SPACE);
    b->ints = tensor_1d(take(r->be, sizeof b->count), SQ_DTYPE_I32, N_INTS);
    for (int i = 0; i < PART; i++)
        part[i] = (float)(2 * rng_unit(&seed) - 1);
    fill(b, part, b->pool, POOL, r->act);
    fill(b, part, b->x, SPACE, r->act);
    fill(b, part, b->y, SPACE, SQ_DTYPE_F32);
    fill(b, part, b->z, SPACE, SQ_DTYPE_F32);
    for (int i = 0; i < N_INTS; i++) {
        b->count[i] = i;
        b->ones[i] = 1;
    }
    r->be->write(r->be, b->ints.data, b->count, sizeof b->count);
    for (int c = 0; c < HEAD / 2; c++)
        b->inv_freq[c] = (float)pow(10000.0, -2.0 * c / HEAD);
    free(part);
}

int oc_bench_device(oc_run *r)
{
    static dev_bench b;
    sq_backend *be = r->be;
    bench_open(&b, r);
    printf("%s; %d rounds of %d calls; ms a call, median and best\n", be->describe, ROUNDS, BATCH);
    printf("%-13s %-22s %9s %9s %9s %9s %9s %9s\n", "slot", "", "calls", "best", "region", "best",
           "TFLOP/s", "GB/s");
    for (size_t i = 0; i < sizeof items / sizeof *items && !be->err.code; i++) {
        const dev_item *item = &items[i];
        oc_time calls = batch_time(&b, item, false), region = {0, 0};
        if (!item->host) region = batch_time(&b, item, true);
        print_item(item, calls, region, dtype_row_bytes(r->act, 1));
        fflush(stdout);
    }
    if (be->err.code) printf("FAILED: %s\n", be->err.text);
    unsigned char *mem[] = {b.pool, b.x, b.y, b.z, b.ints.data};
    for (int i = 0; i < 5; i++)
        be->memory.free(be->memory.user, mem[i]);
    return be->err.code ? 1 : 0;
}
