/* Times the hot slots at the sizes of CLIP-L/14-336 and a 1.4B LLaMA: repeats after a warm-up, on
 * random data (zeros run from one cached page). Products stand beside oneDNN alone, row kernels
 * beside a read of the same bytes, the others beside a copy of them. */
#include "opcheck.h"

#include "core/clock.h"
#include "core/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    POOL = 256 << 20, /* weights rotate through more memory than the caches hold */
    PART = 1 << 20,   /* random floats, repeated */
    ROUNDS = 11,
    MAX_ROWS = 640,
    MAX_COLS = 32000,
    ROW_CHUNK = 128 << 10
};

typedef struct bench {
    sq_backend *be;
    void *pool, *x, *y, *z; /* device memory: weights, and POOL / 4 bytes each of f32 */
    float *part;            /* [PART] host */
    void *host, *host_copy; /* POOL / 4 bytes each, for the yardsticks */
    size_t at;              /* next weights in the pool */
} bench;

typedef struct bench_item {
    const char *slot, *label;
    void (*run)(bench *b, const struct bench_item *i);
    int n, dim;    /* rows and columns, or tokens and head_dim */
    int64_t bytes; /* read and written */
    int kind;
} bench_item;

static int compare_double(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

oc_time oc_time_of(double *ms, int n)
{
    qsort(ms, (size_t)n, sizeof *ms, compare_double);
    return (oc_time){ms[n / 2], ms[0]};
}

static void wait_ops(bench *b)
{
    float f;
    b->be->read(b->be, &f, b->y, sizeof f);
}

static oc_time item_time(bench *b, const bench_item *i)
{
    double ms[ROUNDS];
    for (int r = -2; r < ROUNDS; r++) {
        double start = clock_ms();
        i->run(b, i);
        wait_ops(b);
        if (r >= 0) ms[r] = clock_ms() - start;
    }
    return oc_time_of(ms, ROUNDS);
}

static void fill(bench *b, void *dst, size_t size, sq_dtype t)
{
    size_t bytes = dtype_row_bytes(t, PART);
    unsigned char *stored = oc_alloc(bytes);
    convert_from_f32(stored, t, b->part, PART);
    for (size_t at = 0; at < size; at += bytes)
        b->be->write(b->be, (unsigned char *)dst + at, stored,
                     size - at < bytes ? size - at : bytes);
    free(stored);
}

/* The memory system's own rate for `bytes` of the pool, all threads; with copy set it writes too.
 */
static oc_time yardstick(bench *b, int64_t bytes, bool copy)
{
    double ms[ROUNDS];
    const unsigned char *from = b->host;
    static volatile uint64_t sink;
    int64_t size = copy ? bytes / 2 : bytes;
    for (int r = -1; r < ROUNDS; r++) {
        double start = clock_ms();
        uint64_t all = 0;
#pragma omp parallel for num_threads(b->be->n_threads) reduction(+ : all)
        for (int64_t at = 0; at < size; at += ROW_CHUNK) {
            int64_t n = size - at < ROW_CHUNK ? size - at : ROW_CHUNK;
            const uint64_t *p = (const uint64_t *)(const void *)(from + at);
            if (copy) memcpy((unsigned char *)b->host_copy + at, from + at, (size_t)n);
            uint64_t sum[8] = {0};
            for (int64_t k = 0; !copy && k + 8 <= n / 8; k += 8)
                for (int c = 0; c < 8; c++)
                    sum[c] += p[k + c];
            for (int c = 0; c < 8; c++)
                all += sum[c];
        }
        sink += all;
        if (r >= 0) ms[r] = clock_ms() - start;
    }
    return oc_time_of(ms, ROUNDS);
}

/* ---- products ---- */

static void run_linear(bench *b, sq_dtype t, int n, int in, int out)
{
    size_t bytes = dtype_row_bytes(t, in) * (size_t)out;
    /* Many rows are bound by arithmetic and packed weights are kept: two sets do. */
    size_t limit = n > 12 && 2 * bytes < POOL ? 2 * bytes : POOL;
    if (b->at + bytes > limit) b->at = 0;
    sq_tensor x = tensor_2d(b->x, SQ_DTYPE_F32, n, in), y = tensor_2d(b->y, SQ_DTYPE_F32, n, out);
    sq_tensor w = tensor_2d((unsigned char *)b->pool + b->at, t, out, in);
    linear_desc d = {SQ_ACT_NONE, false};
    b->be->ops.linear(b->be, &y, &x, &w, NULL, &d);
    b->at += bytes;
}

static oc_time linear_time(bench *b, sq_dtype t, int n, int in, int out)
{
    double ms[ROUNDS];
    int inner = n > 12 ? 1 : 4;
    b->at = 0;
    for (int r = -3; r < ROUNDS; r++) { /* the first rounds pack */
        double start = clock_ms();
        for (int i = 0; i < inner; i++)
            run_linear(b, t, n, in, out);
        wait_ops(b);
        if (r >= 0) ms[r] = (clock_ms() - start) / inner;
    }
    return oc_time_of(ms, ROUNDS);
}

/* "median (best)" of rates; work in the unit's thousandths of a ms. */
static void print_rate(double work, oc_time t)
{
    char text[32] = "-";
    if (t.best > 0) snprintf(text, sizeof text, "%.0f (%.0f)", work / t.median, work / t.best);
    printf(" %11s", text);
}

static void bench_products(bench *b, oc_run *r)
{
    static const int shape[][3] = {{577, 1024, 1024}, {577, 1024, 4096}, {577, 4096, 1024},
                                   {84, 2048, 2048},  {84, 2048, 5504},  {84, 5504, 2048},
                                   {631, 2048, 2048}, {631, 2048, 5504}, {631, 5504, 2048}};
    enum { N = sizeof shape / sizeof *shape };
    static const sq_dtype type[] = {SQ_DTYPE_F32, SQ_DTYPE_F16, SQ_DTYPE_Q8_0};
    oc_time time[N][3];
    for (int t = 0; t < 3; t++) {
        fill(b, b->pool, POOL, type[t]);
        oc_forget_weights(r);
        for (int i = 0; i < N; i++)
            time[i][t] = linear_time(b, type[t], shape[i][0], shape[i][1], shape[i][2]);
        oc_forget_weights(r);
    }
    printf("\nGFLOP/s, median (best); weights f32, f16, q8_0; beside: oneDNN alone\n");
    printf("%-16s %11s %11s %11s | %11s %11s\n", "linear", "f32", "f16", "q8_0", "oneDNN f32",
           "oneDNN bf16");
    for (int i = 0; i < N; i++) {
        const int *s = shape[i];
        char name[32];
        double work = 2e-6 * s[0] * s[1] * s[2];
        snprintf(name, sizeof name, "%dx%dx%d", s[0], s[1], s[2]);
        printf("%-16s", name);
        for (int t = 0; t < 3; t++)
            print_rate(work, time[i][t]);
        printf(" |");
        for (int k = 0; k < 2; k++)
            print_rate(work, oc_bare_product(b->host, b->host, b->host_copy, s[0], s[1], s[2],
                                             k == 1, b->be->n_threads));
        printf("\n");
    }
}

static void bench_decode_rows(bench *b)
{
    static const int shape[][2] = {{2048, 2048}, {2048, 5504}, {5504, 2048}, {2048, 32000}};
    printf("\nGB/s of stored weights, median (best), by rows of x; beside: a read of 64 MiB\n");
    printf("%-6s %-12s %11s %11s %11s | %11s\n", "linear", "in x out", "1", "2", "4", "read");
    for (int t = SQ_DTYPE_F32; t <= SQ_DTYPE_Q8_0; t++) {
        fill(b, b->pool, POOL, (sq_dtype)t);
        for (int i = 0; i < 4; i++) {
            int in = shape[i][0], out = shape[i][1];
            double mb = 1e-6 * (double)dtype_row_bytes((sq_dtype)t, in) * out;
            char name[32];
            snprintf(name, sizeof name, "%dx%d", in, out);
            printf("%-6s %-12s", dtype_name((sq_dtype)t), name);
            for (int n = 1; n <= 4; n *= 2)
                print_rate(mb, linear_time(b, (sq_dtype)t, n, in, out));
            printf(" |");
            print_rate(1e-6 * (POOL / 4), yardstick(b, POOL / 4, false));
            printf("\n");
        }
    }
}

/* ---- the other slots ---- */

static sq_tensor x_of(bench *b, int rows, int cols)
{
    return tensor_2d(b->x, SQ_DTYPE_F32, rows, cols);
}

static sq_tensor y_of(bench *b, int rows, int cols)
{
    return tensor_2d(b->y, SQ_DTYPE_F32, rows, cols);
}

/* kind & 1: causal; kind & 2: the cache is f16; kind & 4: one query; kind & 8: rows, & 16: means */
static void run_attn(bench *b, const bench_item *i)
{
    int heads = 16, row = heads * i->dim, n_q = i->kind & 4 ? 1 : i->n;
    attn_desc d = {.n_q = n_q,
                   .n_kv = i->n,
                   .n_head = heads,
                   .n_head_kv = heads,
                   .head_dim = i->dim,
                   .causal = i->kind & 1,
                   .q_pos0 = i->n - n_q,
                   .scale = 1 / sqrtf((float)i->dim)};
    size_t size = (size_t)i->n * (size_t)row;
    sq_dtype t = i->kind & 2 ? SQ_DTYPE_F16 : SQ_DTYPE_F32;
    sq_tensor q = x_of(b, n_q, row), out = y_of(b, n_q, row);
    sq_tensor k = tensor_2d(b->pool, t, i->n, row),
              v = tensor_2d((float *)b->pool + size, t, i->n, row);
    int32_t first = 0;
    sq_tensor means[2] = {tensor_1d(b->y, SQ_DTYPE_F32, i->n - 1),
                          tensor_1d((float *)b->y + i->n, SQ_DTYPE_F32, i->n - 1)};
    if (i->kind & 8)
        b->be->ops.attn_rows(b->be, &out, &q, &k, &first, 1, false, &d);
    else if (i->kind & 16)
        b->be->ops.attn_means(b->be, &means[0], &means[1], &q, &k, 1, false, &d);
    else
        b->be->ops.attn(b->be, &out, &q, &k, &v, &d);
}

static void run_norm(bench *b, const bench_item *i)
{
    sq_tensor x = x_of(b, i->n, i->dim), y = y_of(b, i->n, i->dim);
    sq_tensor w = tensor_1d(b->z, SQ_DTYPE_F32, i->dim);
    if (i->kind)
        b->be->ops.rms_norm(b->be, &y, &x, &w, 1e-5f);
    else
        b->be->ops.layer_norm(b->be, &y, &x, &w, &w, 1e-5f);
}

static void run_activate(bench *b, const bench_item *i)
{
    sq_tensor x = x_of(b, i->n, i->dim), y = y_of(b, i->n, i->dim);
    b->be->ops.activate(b->be, &y, &x, (sq_act)i->kind);
}

static void run_silu_mul(bench *b, const bench_item *i)
{
    sq_tensor x = x_of(b, i->n, i->dim), y = y_of(b, i->n, i->dim);
    sq_tensor z = tensor_2d(b->z, SQ_DTYPE_F32, i->n, i->dim);
    b->be->ops.silu_mul(b->be, &y, &x, &z);
}

static void run_add(bench *b, const bench_item *i)
{
    sq_tensor x = x_of(b, i->n, i->dim), y = y_of(b, i->n, i->dim);
    b->be->ops.add(b->be, &y, &x);
}

static void frequencies(float *inv_freq, int head_dim)
{
    for (int c = 0; c < head_dim / 2; c++)
        inv_freq[c] = (float)pow(10000.0, -2.0 * c / head_dim);
}

/* kind: the caches' type, + 8 for pairs */
static void run_rope(bench *b, const bench_item *i)
{
    float inv_freq[64];
    int32_t pos[MAX_ROWS];
    int row = 16 * i->dim;
    frequencies(inv_freq, i->dim);
    for (int r = 0; r < i->n; r++)
        pos[r] = r;
    rope_desc d = {16, 16, i->dim, i->kind & 8, inv_freq, 1.0f};
    sq_tensor q = y_of(b, i->n, row), k = q, v = x_of(b, i->n, row);
    sq_tensor cache = tensor_2d(b->pool, (sq_dtype)(i->kind & 7), i->n, row);
    k.data = (float *)b->y + (size_t)i->n * (size_t)row;
    sq_tensor cache_v = cache, p = tensor_1d(pos, SQ_DTYPE_I32, i->n);
    cache_v.data = (unsigned char *)b->pool + tensor_bytes(&cache);
    b->be->ops.rope_append(b->be, &q, &k, &v, &cache, &cache_v, 0, &p, &d);
}

static void run_step(bench *b, const bench_item *i)
{
    float inv_freq[64];
    int32_t pos = i->n, len = i->n - 1;
    int row = 16 * i->dim;
    frequencies(inv_freq, i->dim);
    rope_desc r = {16, 16, i->dim, true, inv_freq, 1.0f};
    attn_desc d = {
        .n_head = 16, .n_head_kv = 16, .head_dim = i->dim, .scale = 1 / sqrtf((float)i->dim)};
    sq_tensor out = y_of(b, 1, row), v = x_of(b, 1, row), q = out, k = out;
    sq_tensor cache = tensor_2d(b->pool, (sq_dtype)i->kind, i->n, row), cache_v = cache;
    sq_tensor p = tensor_1d(&pos, SQ_DTYPE_I32, 1), n = tensor_1d(&len, SQ_DTYPE_I32, 1);
    q.data = (float *)b->y + row;
    k.data = (float *)b->y + 2 * row;
    cache_v.data = (unsigned char *)b->pool + tensor_bytes(&cache);
    const sq_tensor *ck = &cache, *cv = &cache_v;
    kv_step s = {1, &p, &n, &ck, &cv};
    b->be->ops.attn_step(b->be, &out, &q, &k, &v, &s, &r, &d);
}

static void run_embed(bench *b, const bench_item *i)
{
    int32_t ids[MAX_ROWS];
    for (int r = 0; r < i->n; r++)
        ids[r] = (r * 7919) % 16000;
    sq_tensor w = tensor_2d(b->pool, (sq_dtype)i->kind, 16000, i->dim), y = y_of(b, i->n, i->dim);
    sq_tensor id = tensor_1d(ids, SQ_DTYPE_I32, i->n);
    b->be->ops.embed(b->be, &y, &w, &id);
}

static void run_argmax(bench *b, const bench_item *i)
{
    int32_t best[MAX_ROWS];
    float gap[MAX_ROWS];
    sq_tensor x = x_of(b, i->n, i->dim), at = tensor_1d(best, SQ_DTYPE_I32, i->n);
    sq_tensor g = tensor_1d(gap, SQ_DTYPE_F32, i->n);
    b->be->ops.argmax(b->be, &at, &g, &x);
}

static void run_select(bench *b, const bench_item *i)
{
    int32_t start[MAX_ROWS + 1], index[MAX_ROWS];
    float weight[MAX_ROWS];
    int kept = i->n / 4;
    for (int r = 0; r <= kept; r++) {
        start[r] = r;
        index[r] = 4 * r;
        weight[r] = i->kind ? 0.5f : 1.0f;
    }
    sparse_rows m = {kept, start, index, weight};
    sq_tensor x = x_of(b, i->n, i->dim), y = y_of(b, kept, i->dim);
    b->be->ops.select_rows(b->be, &y, &x, &m);
}

/* kind: f32, or u8 through a table */
static void run_patchify(bench *b, const bench_item *i)
{
    int grid = i->n / i->dim;
    bool bytes = i->kind == SQ_DTYPE_U8;
    sq_tensor x = {b->x, SQ_DTYPE_F32, 4, {1, 3, i->n, i->n}}, level = x_of(b, 3, 256);
    sq_tensor y = y_of(b, grid * grid, 3 * i->dim * i->dim);
    if (bytes) x = (sq_tensor){b->x, SQ_DTYPE_U8, 4, {1, i->n, i->n, 3}};
    b->be->ops.patchify(b->be, &y, &x, bytes ? &level : NULL, i->dim);
}

static const bench_item items[] = {
    {"attn", "577x16x64", run_attn, 577, 64, 4LL * 577 * 1024 * 4, 0},
    {"attn", "causal 631x16x128", run_attn, 631, 128, 4LL * 631 * 2048 * 4, 1},
    {"attn", "causal 631x16x128 f16", run_attn, 631, 128, 3LL * 631 * 2048 * 4, 3},
    {"attn", "1 of 631x16x128 f16", run_attn, 631, 128, 631LL * 2048 * 4, 7},
    {"attn_rows", "1 row 577x16x64", run_attn, 577, 64, 577LL * 1024 * 4, 8},
    {"attn_means", "577x16x64", run_attn, 577, 64, 2LL * 577 * 1024 * 4, 16},
    {"layer_norm", "577x1024", run_norm, 577, 1024, 2LL * 577 * 1024 * 4, 0},
    {"rms_norm", "631x2048", run_norm, 631, 2048, 2LL * 631 * 2048 * 4, 1},
    {"rope_append", "631x16x128 halves f32", run_rope, 631, 128, 7LL * 631 * 2048 * 4, 1},
    {"rope_append", "631x16x128 pairs f16", run_rope, 631, 128, 6LL * 631 * 2048 * 4, 8 + 2},
    {"activate", "gelu 577x4096", run_activate, 577, 4096, 2LL * 577 * 4096 * 4, SQ_ACT_GELU},
    {"activate", "gelu_tanh", run_activate, 577, 4096, 2LL * 577 * 4096 * 4, SQ_ACT_GELU_TANH},
    {"activate", "quick_gelu", run_activate, 577, 4096, 2LL * 577 * 4096 * 4, SQ_ACT_QUICK_GELU},
    {"silu_mul", "631x5504", run_silu_mul, 631, 5504, 3LL * 631 * 5504 * 4, 0},
    {"add", "631x2048", run_add, 631, 2048, 3LL * 631 * 2048 * 4, 0},
    {"attn_step", "631x16x128 f16", run_step, 631, 128, 631LL * 2048 * 4, SQ_DTYPE_F16},
    {"argmax", "32000", run_argmax, 1, 32000, 32000LL * 4, 0},
    {"embed", "631x2048 f16", run_embed, 631, 2048, 6LL * 631 * 2048, SQ_DTYPE_F16},
    {"embed", "631x2048 q8_0", run_embed, 631, 2048, 5LL * 631 * 2048, SQ_DTYPE_Q8_0},
    {"select_rows", "144 of 577x1024", run_select, 577, 1024, 2LL * 144 * 1024 * 4, 0},
    {"select_rows", "weighted", run_select, 577, 1024, 2LL * 144 * 1024 * 4, 1},
    {"patchify", "336 by 14", run_patchify, 336, 14, 2LL * 3 * 336 * 336 * 4, SQ_DTYPE_F32},
    {"patchify", "336 by 14 u8", run_patchify, 336, 14, 5LL * 3 * 336 * 336, SQ_DTYPE_U8},
};

static void bench_others(bench *b)
{
    printf("\nms, median and best; beside: a copy that moves as many bytes\n");
    printf("%-12s %-22s %9s %9s | %9s %9s\n", "slot", "", "median", "best", "copy", "best");
    for (size_t i = 0; i < sizeof items / sizeof *items; i++) {
        const bench_item *item = &items[i];
        if (i == 0) fill(b, b->pool, POOL, SQ_DTYPE_F32);
        if (item->run == run_attn && item->kind & 2) fill(b, b->pool, POOL / 4, SQ_DTYPE_F16);
        if (item->run == run_attn && item->kind & 24) fill(b, b->pool, POOL / 4, SQ_DTYPE_F32);
        if (item->run == run_step) fill(b, b->pool, POOL / 4, SQ_DTYPE_F16);
        if (item->run == run_embed) fill(b, b->pool, POOL, (sq_dtype)item->kind);
        fill(b, b->y, POOL / 4, SQ_DTYPE_F32); /* add and rope change it */
        oc_time ms = item_time(b, item), copy = yardstick(b, item->bytes, true);
        printf("%-12s %-22s %9.3f %9.3f | %9.3f %9.3f\n", item->slot, item->label, ms.median,
               ms.best, copy.median, copy.best);
    }
}

static void *device_alloc(sq_backend *be, size_t size)
{
    void *p = be->memory.alloc(be->memory.user, size);
    if (p) return p;
    fprintf(stderr, "opcheck: out of device memory\n");
    exit(1);
}

int oc_bench(oc_run *r)
{
    sq_backend *be = r->be;
    uint64_t seed = 1;
    void *dev[] = {device_alloc(be, POOL), device_alloc(be, POOL / 4), device_alloc(be, POOL / 4),
                   device_alloc(be, POOL / 4)};
    bench b = {.be = be,
               .pool = dev[0],
               .x = dev[1],
               .y = dev[2],
               .z = dev[3],
               .part = oc_alloc(PART * sizeof(float)),
               .host = oc_alloc(POOL / 4),
               .host_copy = oc_alloc((size_t)MAX_ROWS * MAX_COLS * sizeof(float))};
    for (int i = 0; i < PART; i++)
        b.part[i] = (float)(2 * rng_unit(&seed) - 1);
    for (size_t at = 0; at < POOL / 4; at += PART * sizeof(float))
        memcpy((unsigned char *)b.host + at, b.part, PART * sizeof(float));
    fill(&b, b.x, POOL / 4, SQ_DTYPE_F32);
    fill(&b, b.z, POOL / 4, SQ_DTYPE_F32);
    printf("%s; %d repeats\n", be->describe, ROUNDS);
    bench_products(&b, r);
    bench_decode_rows(&b);
    bench_others(&b);
    if (be->err.code) printf("FAILED: %s\n", be->err.text);
    for (int i = 0; i < 4; i++)
        be->memory.free(be->memory.user, dev[i]);
    free(b.part);
    free(b.host);
    free(b.host_copy);
    return be->err.code ? 1 : 0;
}
