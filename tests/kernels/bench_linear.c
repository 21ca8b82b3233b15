/* Times the linear slot beside a bare oneDNN product and a plain read of memory, in the same run.
 * bench_linear [threads]; weights rotate through more memory than the caches hold. */
#include "core/clock.h"
#include "kernels/cpu/linear.h"

#if SQ_ONEDNN
#include <dnnl.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POOL = 256 << 20, ROUNDS = 5, MAX_ROWS = 640, MAX_IN = 5504, MAX_OUT = 32000 };

typedef struct bench {
    sq_backend *be;
    int n_threads;
    unsigned char *pool; /* weights */
    float *x, *y;
} bench;

static volatile float sink;

/* GFLOP/s of multiply-adds on registers alone, in the instruction set that the slot uses. */
#if defined(__x86_64__)
__attribute__((target("avx512f"))) static float fma_avx512(long n)
{
    __m512 s[12], m = _mm512_set1_ps(0.999f), a = _mm512_set1_ps(1e-3f);
    for (int i = 0; i < 12; i++)
        s[i] = _mm512_set1_ps((float)i);
    for (long k = 0; k < n; k++)
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++)
            s[i] = _mm512_fmadd_ps(s[i], m, a);
    for (int i = 1; i < 12; i++)
        s[0] = _mm512_add_ps(s[0], s[i]);
    return _mm512_reduce_add_ps(s[0]);
}

__attribute__((target("avx2,fma"))) static float fma_avx2(long n)
{
    __m256 s[12], m = _mm256_set1_ps(0.999f), a = _mm256_set1_ps(1e-3f);
    for (int i = 0; i < 12; i++)
        s[i] = _mm256_set1_ps((float)i);
    for (long k = 0; k < n; k++)
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++)
            s[i] = _mm256_fmadd_ps(s[i], m, a);
    for (int i = 1; i < 12; i++)
        s[0] = _mm256_add_ps(s[0], s[i]);
    return _mm256_cvtss_f32(s[0]);
}

static double peak_gflops(const bench *b)
{
    bool wide = b->be->cpu_flags & SQ_CPU_AVX512;
    const long n = 1000000;
    double start = clock_ms();
#pragma omp parallel num_threads(b->n_threads)
    {
        float s = wide ? fma_avx512(n) : fma_avx2(n);
#pragma omp critical
        sink += s;
    }
    return b->n_threads * 12.0 * 2 * (wide ? 16 : 8) * (double)n / (clock_ms() - start) / 1e6;
}
#else
static double peak_gflops(const bench *b)
{
    (void)b;
    return 0;
}
#endif

static double read_gbs(const bench *b)
{
    double start = clock_ms();
    uint64_t all = 0;
#pragma omp parallel for num_threads(b->n_threads) schedule(dynamic, 1) reduction(+ : all)
    for (long block = 0; block < POOL / (128 << 10); block++) {
        const uint64_t *p = (const uint64_t *)(b->pool + block * (128 << 10));
        uint64_t sum[8] = {0};
        for (int i = 0; i < (128 << 10) / 8; i += 8)
            for (int k = 0; k < 8; k++)
                sum[k] += p[i + k];
        for (int k = 0; k < 8; k++)
            all += sum[k];
    }
    sink += (float)(all & 1);
    return POOL / (clock_ms() - start) / 1e6;
}

/* Random weights of one type; any shape can be laid over them. */
static void pool_fill(bench *b, sq_dtype t)
{
    enum { PART = 1 << 20 };
    static float part[PART];
    uint32_t seed = 1;
    for (int i = 0; i < PART; i++) {
        seed = seed * 1664525u + 1013904223u;
        part[i] = (float)(seed >> 8) / 8388608.0f - 1.0f;
    }
    size_t bytes = dtype_row_bytes(t, PART);
    convert_from_f32(b->pool, t, part, PART);
    for (size_t at = bytes; at + bytes <= POOL; at += bytes)
        memcpy(b->pool + at, b->pool, bytes);
    memcpy(b->x, part, sizeof part);
    for (size_t i = PART; i < (size_t)MAX_ROWS * MAX_IN; i++)
        b->x[i] = part[i % (PART - 7)];
}

/* Best time of one product over rounds; every product takes the next weights of the pool. */
static double slot_ms(const bench *b, sq_dtype t, int n, int in, int out)
{
    size_t bytes = dtype_row_bytes(t, in) * (size_t)out;
    int copies = (int)(POOL / bytes);
    if (n > 8 && copies > 4) copies = 4;
    sq_tensor x = tensor_2d(b->x, SQ_DTYPE_F32, n, in), y = tensor_2d(b->y, SQ_DTYPE_F32, n, out);
    linear_desc d = {SQ_ACT_NONE, false};
    double best = 1e30;
    for (int r = 0; r <= ROUNDS; r++) { /* the first round packs */
        double start = clock_ms();
        for (int i = 0; i < copies; i++) {
            sq_tensor w = tensor_2d(b->pool + (size_t)i * bytes, t, out, in);
            b->be->ops.linear(b->be, &y, &x, &w, NULL, &d);
        }
        double ms = (clock_ms() - start) / copies;
        if (r && ms < best) best = ms;
    }
    return best;
}

#if SQ_ONEDNN
/* The library alone: f32 weights in the layout it asks for, primitive made outside the clock. */
static double bare_ms(const bench *b, int n, int in, int out)
{
    dnnl_engine_t engine = NULL;
    dnnl_stream_t stream = NULL;
    dnnl_memory_desc_t xd, wd, yd, plain;
    dnnl_matmul_desc_t md;
    dnnl_primitive_desc_t pd = NULL, rd = NULL;
    dnnl_primitive_t product = NULL, reorder = NULL;
    dnnl_memory_t x = NULL, w = NULL, y = NULL, stored = NULL;
    dnnl_dims_t xs = {n, in}, ws = {in, out}, ys = {n, out};
    double best = 1e30;
    omp_set_num_threads(b->n_threads);
    int rc = dnnl_engine_create(&engine, dnnl_cpu, 0);
    rc = rc ? rc : (int)dnnl_stream_create(&stream, engine, dnnl_stream_default_flags);
    rc = rc ? rc : (int)dnnl_memory_desc_init_by_tag(&xd, 2, xs, dnnl_f32, dnnl_ab);
    rc = rc ? rc : (int)dnnl_memory_desc_init_by_tag(&yd, 2, ys, dnnl_f32, dnnl_ab);
    rc = rc ? rc : (int)dnnl_memory_desc_init_by_tag(&wd, 2, ws, dnnl_f32, dnnl_format_tag_any);
    rc = rc ? rc : (int)dnnl_memory_desc_init_by_tag(&plain, 2, ws, dnnl_f32, dnnl_ba);
    rc = rc ? rc : (int)dnnl_matmul_desc_init(&md, &xd, &wd, NULL, &yd);
    rc = rc ? rc : (int)dnnl_primitive_desc_create(&pd, &md, NULL, engine, NULL);
    if (!rc) wd = *dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    rc = rc ? rc : (int)dnnl_primitive_create(&product, pd);
    rc = rc ? rc : (int)dnnl_memory_create(&x, &xd, engine, b->x);
    rc = rc ? rc : (int)dnnl_memory_create(&y, &yd, engine, b->y);
    rc = rc ? rc : (int)dnnl_memory_create(&w, &wd, engine, DNNL_MEMORY_ALLOCATE);
    rc = rc ? rc : (int)dnnl_memory_create(&stored, &plain, engine, b->pool);
    rc = rc ? rc : (int)dnnl_reorder_primitive_desc_create(&rd, &plain, engine, &wd, engine, NULL);
    rc = rc ? rc : (int)dnnl_primitive_create(&reorder, rd);
    dnnl_exec_arg_t fill[] = {{DNNL_ARG_FROM, stored}, {DNNL_ARG_TO, w}};
    rc = rc ? rc : (int)dnnl_primitive_execute(reorder, stream, 2, fill);
    dnnl_exec_arg_t arg[] = {{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_DST, y}};
    for (int r = 0; !rc && r <= 2 * ROUNDS; r++) {
        double start = clock_ms();
        rc = dnnl_primitive_execute(product, stream, 3, arg);
        dnnl_stream_wait(stream);
        double ms = clock_ms() - start;
        if (r && ms < best) best = ms;
    }
    if (rc) printf("oneDNN status %d\n", rc);
    dnnl_primitive_desc_destroy(pd);
    dnnl_primitive_desc_destroy(rd);
    dnnl_primitive_destroy(product);
    dnnl_primitive_destroy(reorder);
    dnnl_memory_destroy(x);
    dnnl_memory_destroy(w);
    dnnl_memory_destroy(y);
    dnnl_memory_destroy(stored);
    dnnl_stream_destroy(stream);
    dnnl_engine_destroy(engine);
    return best;
}
#else
static double bare_ms(const bench *b, int n, int in, int out)
{
    (void)b, (void)n, (void)in, (void)out;
    return 0;
}
#endif

static void bench_products(bench *b)
{
    static const int shape[][3] = {
        {577, 1024, 1024}, {577, 1024, 4096}, {577, 4096, 1024}, {84, 2048, 2048},
        {84, 2048, 5504},  {84, 5504, 2048},  {199, 2048, 2048}, {199, 2048, 5504},
        {199, 5504, 2048}, {631, 2048, 2048}, {631, 2048, 5504}, {631, 5504, 2048}};
    printf("%-16s %6s %8s %8s %8s %8s   GFLOP/s; bare: oneDNN f32 alone\n", "rows x in x out",
           "peak", "f32", "f16", "q8_0", "bare");
    double rate[12][3], bare[12], peak[12];
    static const sq_dtype type[] = {SQ_DTYPE_F32, SQ_DTYPE_F16, SQ_DTYPE_Q8_0};
    for (int t = 2; t >= 0; t--) { /* f32 last: the bare product reads the pool as f32 */
        pool_fill(b, type[t]);
        cpu_linear_forget(b->be);
        for (int i = 0; i < 12; i++) {
            const int *s = shape[i];
            double work = 2e-6 * s[0] * s[1] * s[2];
            rate[i][t] = work / slot_ms(b, type[t], s[0], s[1], s[2]);
            if (t) continue;
            bare[i] = work / bare_ms(b, s[0], s[1], s[2]);
            peak[i] = peak_gflops(b);
        }
    }
    for (int i = 0; i < 12; i++) {
        char name[32];
        snprintf(name, sizeof name, "%dx%dx%d", shape[i][0], shape[i][1], shape[i][2]);
        printf("%-16s %6.0f %8.1f %8.1f %8.1f %8.1f\n", name, peak[i], rate[i][0], rate[i][1],
               rate[i][2], bare[i]);
    }
}

static void bench_rows(bench *b)
{
    static const int shape[][2] = {{2048, 2048}, {2048, 5504}, {5504, 2048}, {2048, 32000}};
    printf("%-6s %-12s %6s %6s %6s %6s %6s   GB/s of stored weights by rows of x\n", "type",
           "in x out", "read", "1", "2", "3", "4");
    for (int t = SQ_DTYPE_F32; t <= SQ_DTYPE_Q8_0; t++) {
        pool_fill(b, (sq_dtype)t);
        for (int i = 0; i < 4; i++) {
            int in = shape[i][0], out = shape[i][1];
            double best = 0;
            for (int r = 0; r < ROUNDS; r++) {
                double gbs = read_gbs(b);
                if (gbs > best) best = gbs;
            }
            char name[32];
            snprintf(name, sizeof name, "%dx%d", in, out);
            printf("%-6s %-12s %6.1f", dtype_name((sq_dtype)t), name, best);
            double mb = 1e-6 * (double)dtype_row_bytes((sq_dtype)t, in) * out;
            for (int n = 1; n <= 4; n++)
                printf(" %6.1f", mb / slot_ms(b, (sq_dtype)t, n, in, out));
            printf("\n");
        }
    }
}

int main(int argc, char **argv)
{
    bench b = {0};
    sq_error err = {0};
    backend_options o = {.name = "cpu", .n_threads = argc > 1 ? atoi(argv[1]) : 0};
    if (backend_open(&b.be, &o, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    b.n_threads = b.be->n_threads;
    b.pool = aligned_alloc(64, POOL);
    b.x = aligned_alloc(64, sizeof(float) * MAX_ROWS * MAX_IN);
    b.y = aligned_alloc(64, sizeof(float) * MAX_ROWS * MAX_OUT);
    if (b.pool && b.x && b.y) {
        printf("%s\n", b.be->describe);
        bench_products(&b);
        bench_rows(&b);
    }
    free(b.pool);
    free(b.x);
    free(b.y);
    backend_close(&b.be);
    return 0;
}
