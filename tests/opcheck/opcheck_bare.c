/* The yardstick of the products: oneDNN alone, weights in the layout that it asks for, everything
 * made outside the clock. */
#include "opcheck.h"

#if SQ_ONEDNN
#include <dnnl.h>
#include <omp.h>
#include <stdlib.h>

#include "core/clock.h"

enum { BARE_ROUNDS = 9, BARE_PARTS = 6 };

typedef struct bare {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_memory_t mem[BARE_PARTS]; /* x, w, y as the product takes them; x, w as they are stored */
    dnnl_primitive_t product;
} bare;

static int bare_reorder(bare *b, int from, int to)
{
    const dnnl_memory_desc_t *src, *dst;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_t reorder = NULL;
    int rc = dnnl_memory_get_memory_desc(b->mem[from], &src);
    if (!rc) rc = dnnl_memory_get_memory_desc(b->mem[to], &dst);
    if (!rc) rc = dnnl_reorder_primitive_desc_create(&pd, src, b->engine, dst, b->engine, NULL);
    if (!rc) rc = dnnl_primitive_create(&reorder, pd);
    dnnl_exec_arg_t arg[] = {{DNNL_ARG_FROM, b->mem[from]}, {DNNL_ARG_TO, b->mem[to]}};
    if (!rc) rc = dnnl_primitive_execute(reorder, b->stream, 2, arg);
    if (!rc) rc = dnnl_stream_wait(b->stream);
    if (reorder) dnnl_primitive_destroy(reorder);
    if (pd) dnnl_primitive_desc_destroy(pd);
    return rc;
}

static int bare_open(bare *b, const float *x, const float *w, float *y, int n, int in, int out,
                     bool bf16)
{
    dnnl_data_type_t t = bf16 ? dnnl_bf16 : dnnl_f32;
    dnnl_dims_t xs = {n, in}, ws = {in, out}, ys = {n, out};
    dnnl_memory_desc_t xd, wd, yd, x_plain, w_plain;
    dnnl_matmul_desc_t md;
    dnnl_primitive_desc_t pd = NULL;
    void *x_data = (void *)(size_t)x, *w_data = (void *)(size_t)w;
    int rc = dnnl_engine_create(&b->engine, dnnl_cpu, 0);
    if (!rc) rc = dnnl_stream_create(&b->stream, b->engine, dnnl_stream_default_flags);
    if (!rc) rc = dnnl_memory_desc_init_by_tag(&xd, 2, xs, t, dnnl_ab);
    if (!rc) rc = dnnl_memory_desc_init_by_tag(&wd, 2, ws, t, dnnl_format_tag_any);
    if (!rc) rc = dnnl_memory_desc_init_by_tag(&yd, 2, ys, dnnl_f32, dnnl_ab);
    if (!rc) rc = dnnl_memory_desc_init_by_tag(&x_plain, 2, xs, dnnl_f32, dnnl_ab);
    if (!rc) rc = dnnl_memory_desc_init_by_tag(&w_plain, 2, ws, dnnl_f32, dnnl_ba);
    if (!rc) rc = dnnl_matmul_desc_init(&md, &xd, &wd, NULL, &yd);
    if (!rc) rc = dnnl_primitive_desc_create(&pd, &md, NULL, b->engine, NULL);
    if (!rc) rc = dnnl_primitive_create(&b->product, pd);
    if (!rc) wd = *dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    if (!rc) rc = dnnl_memory_create(&b->mem[0], &xd, b->engine, DNNL_MEMORY_ALLOCATE);
    if (!rc) rc = dnnl_memory_create(&b->mem[1], &wd, b->engine, DNNL_MEMORY_ALLOCATE);
    if (!rc) rc = dnnl_memory_create(&b->mem[2], &yd, b->engine, y);
    if (!rc) rc = dnnl_memory_create(&b->mem[3], &x_plain, b->engine, x_data);
    if (!rc) rc = dnnl_memory_create(&b->mem[4], &w_plain, b->engine, w_data);
    if (!rc) rc = bare_reorder(b, 3, 0);
    if (!rc) rc = bare_reorder(b, 4, 1);
    if (pd) dnnl_primitive_desc_destroy(pd);
    return rc;
}

static void bare_close(bare *b)
{
    if (b->product) dnnl_primitive_destroy(b->product);
    for (int i = 0; i < BARE_PARTS; i++)
        if (b->mem[i]) dnnl_memory_destroy(b->mem[i]);
    if (b->stream) dnnl_stream_destroy(b->stream);
    if (b->engine) dnnl_engine_destroy(b->engine);
}

oc_time oc_bare_product(const float *x, const float *w, float *y, int n, int in, int out, bool bf16,
                        int n_threads)
{
    bare b = {0};
    double ms[BARE_ROUNDS];
    int threads = omp_get_max_threads();
    omp_set_num_threads(n_threads);
    int rc = bare_open(&b, x, w, y, n, in, out, bf16);
    dnnl_exec_arg_t arg[] = {
        {DNNL_ARG_SRC, b.mem[0]}, {DNNL_ARG_WEIGHTS, b.mem[1]}, {DNNL_ARG_DST, b.mem[2]}};
    for (int i = -2; !rc && i < BARE_ROUNDS; i++) {
        double start = clock_ms();
        rc = dnnl_primitive_execute(b.product, b.stream, 3, arg);
        dnnl_stream_wait(b.stream);
        if (i >= 0) ms[i] = clock_ms() - start;
    }
    bare_close(&b);
    omp_set_num_threads(threads);
    return rc ? (oc_time){0, 0} : oc_time_of(ms, BARE_ROUNDS);
}
#else
oc_time oc_bare_product(const float *x, const float *w, float *y, int n, int in, int out, bool bf16,
                        int n_threads)
{
    (void)x, (void)w, (void)y, (void)n, (void)in, (void)out, (void)bf16, (void)n_threads;
    return (oc_time){0, 0};
}
#endif
