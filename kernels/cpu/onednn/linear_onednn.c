#include "kernels/cpu/onednn/linear_onednn.h"

#include <dnnl.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    ONEDNN_PRIMITIVES = 192, /* kept; a pruned run makes some ten shapes a row count */
    ONEDNN_SAMPLES = 16
};

/* The layout that the library chose for weights of one shape, whatever the row count. It stays as
 * long as packed weights lie in it; a model has fewer than twenty shapes. */
typedef struct weight_layout {
    int64_t in, out;
    dnnl_memory_desc_t md;
} weight_layout;

typedef struct packed_weight {
    const unsigned char *data;
    sq_dtype type;
    int64_t in, out;
    uint64_t samples[ONEDNN_SAMPLES];
    dnnl_memory_t mem; /* NULL: the slot is free for reuse */
    size_t bytes;
} packed_weight;

typedef struct product {
    int64_t n, in, out;
    sq_act act;
    bool add, bias;
    uint64_t used; /* clock of the last use */
    dnnl_primitive_t prim, round_x; /* round_x: f32 -> bf16, or NULL */
    dnnl_memory_t x, x16, y, b;     /* without memory of their own; NULL where not needed */
} product;

struct onednn_linear {
    onednn_options opt;
    size_t limit, packed_bytes;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    product product[ONEDNN_PRIMITIVES];
    int n_product;
    weight_layout *layout;
    size_t n_layout, cap_layout;
    packed_weight *weight;
    size_t n_weight, cap_weight;
    uint64_t clock;
    void *x16;
    size_t x16_size;
};

bool onednn_linear_has_bf16(unsigned flags)
{
    unsigned isa = (unsigned)dnnl_get_effective_cpu_isa();
    unsigned amx = dnnl_cpu_isa_avx512_core_amx, bf16 = dnnl_cpu_isa_avx512_core_bf16;
    /* The library takes the best it finds, so masking AMX must mask bf16 where it would take it. */
    if ((isa & amx) == amx) return flags & SQ_CPU_AMX_BF16;
    return (isa & bf16) == bf16 && flags & SQ_CPU_AVX512_BF16;
}

bool onednn_linear_has_packed_f32(void)
{
    unsigned core = dnnl_cpu_isa_avx512_core;
    return ((unsigned)dnnl_get_effective_cpu_isa() & core) == core;
}

void onednn_linear_name(char *out, size_t size)
{
    const dnnl_version_t *v = dnnl_version();
    snprintf(out, size, "oneDNN %d.%d.%d", v->major, v->minor, v->patch);
}

static size_t free_memory(void)
{
    size_t kib = 0;
    char line[128];
    FILE *f = fopen("/proc/meminfo", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %zu kB", &kib) == 1) break;
    if (f) fclose(f);
    if (kib) return kib * 1024;
    long pages = sysconf(_SC_AVPHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    return pages > 0 && page > 0 ? (size_t)pages * (size_t)page : 0;
}

int onednn_linear_open(onednn_linear **out, const onednn_options *opt, sq_error *err)
{
    onednn_linear *o = calloc(1, sizeof *o);
    *out = o;
    if (!o) return error_set(err, SQ_E_NOMEM, "linear: out of memory");
    o->opt = *opt;
    o->limit = opt->pack_limit ? opt->pack_limit : free_memory() / 2;
    int rc = dnnl_engine_create(&o->engine, dnnl_cpu, 0);
    if (!rc) rc = dnnl_stream_create(&o->stream, o->engine, dnnl_stream_default_flags);
    if (!rc) return SQ_OK;
    onednn_linear_close(out);
    return error_set(err, SQ_E_BACKEND, "linear: oneDNN cannot start: status %d", rc);
}

static void product_close(product *p)
{
    if (p->prim) dnnl_primitive_destroy(p->prim);
    if (p->round_x) dnnl_primitive_destroy(p->round_x);
    dnnl_memory_t mem[] = {p->x, p->x16, p->y, p->b};
    for (int i = 0; i < 4; i++)
        if (mem[i]) dnnl_memory_destroy(mem[i]);
    *p = (product){0};
}

void onednn_linear_forget(onednn_linear *o)
{
    for (size_t i = 0; i < o->n_weight; i++)
        if (o->weight[i].mem) dnnl_memory_destroy(o->weight[i].mem);
    for (int i = 0; i < o->n_product; i++)
        product_close(&o->product[i]);
    o->n_weight = o->n_layout = 0;
    o->n_product = 0;
    o->packed_bytes = 0;
}

void onednn_linear_close(onednn_linear **out)
{
    onednn_linear *o = *out;
    if (!o) return;
    onednn_linear_forget(o);
    if (o->stream) dnnl_stream_destroy(o->stream);
    if (o->engine) dnnl_engine_destroy(o->engine);
    free(o->weight);
    free(o->layout);
    free(o->x16);
    free(o);
    *out = NULL;
}

/* A few words spread over the stored weights: an address that holds other weights now is noticed
 * even when nobody called forget. */
static void take_samples(uint64_t samples[ONEDNN_SAMPLES], const linear_job *j)
{
    size_t bytes = j->row_bytes * (size_t)j->out;
    memset(samples, 0, ONEDNN_SAMPLES * sizeof *samples);
    size_t take = bytes < sizeof *samples ? bytes : sizeof *samples;
    for (size_t i = 0; i < ONEDNN_SAMPLES; i++)
        memcpy(samples + i, j->w + (bytes - take) / (ONEDNN_SAMPLES - 1) * i, take);
}

/* in x out weights stored as [out][in]. */
static int plain_weight_md(dnnl_memory_desc_t *md, const linear_job *j, dnnl_data_type_t t)
{
    dnnl_dims_t dims = {j->in, j->out};
    return dnnl_memory_desc_init_by_tag(md, 2, dims, t, dnnl_ba);
}

/* Stored weights as something that the library can reorder: in place, or an f32 copy in *temp. */
static int weight_source(onednn_linear *o, const linear_job *j, dnnl_memory_desc_t *md,
                         const void **data, float **temp)
{
    bool as_is = j->w_type == SQ_DTYPE_F32 || (j->w_type == SQ_DTYPE_BF16 && o->opt.bf16);
    bool bf16 = as_is && j->w_type == SQ_DTYPE_BF16;
    *data = j->w;
    if (plain_weight_md(md, j, bf16 ? dnnl_bf16 : dnnl_f32)) return SQ_E_BACKEND;
    if (as_is) return SQ_OK;
    *data = *temp = malloc(sizeof(float) * (size_t)(j->in * j->out));
    if (!*temp) return SQ_E_NOMEM;
    const linear_kernels *k = o->opt.kernels;
#pragma omp parallel for num_threads(o->opt.n_threads)
    for (int64_t r = 0; r < j->out; r++) {
        const unsigned char *row = j->w + (size_t)r * j->row_bytes;
        (k ? k->to_f32 : convert_to_f32)(*temp + r * j->in, row, j->w_type, j->in);
    }
    return SQ_OK;
}

/* Reorders the stored weights into mem. */
static int weight_fill(onednn_linear *o, const linear_job *j, dnnl_memory_t mem)
{
    const dnnl_memory_desc_t *to;
    dnnl_memory_desc_t from;
    dnnl_memory_t source = NULL;
    dnnl_primitive_desc_t desc = NULL;
    dnnl_primitive_t reorder = NULL;
    const void *data;
    float *temp = NULL;
    int rc = weight_source(o, j, &from, &data, &temp);
    if (rc) return rc;
    rc = dnnl_memory_get_memory_desc(mem, &to);
    if (!rc) rc = dnnl_memory_create(&source, &from, o->engine, (void *)(size_t)data);
    if (!rc) rc = dnnl_reorder_primitive_desc_create(&desc, &from, o->engine, to, o->engine, NULL);
    if (!rc) rc = dnnl_primitive_create(&reorder, desc);
    if (!rc) {
        dnnl_exec_arg_t arg[] = {{DNNL_ARG_FROM, source}, {DNNL_ARG_TO, mem}};
        rc = dnnl_primitive_execute(reorder, o->stream, 2, arg);
    }
    if (!rc) rc = dnnl_stream_wait(o->stream);
    if (reorder) dnnl_primitive_destroy(reorder);
    if (desc) dnnl_primitive_desc_destroy(desc);
    if (source) dnnl_memory_destroy(source);
    free(temp);
    return rc == dnnl_out_of_memory ? SQ_E_NOMEM : rc ? SQ_E_BACKEND : SQ_OK;
}

static packed_weight *weight_slot(onednn_linear *o)
{
    if (o->n_weight == o->cap_weight) {
        size_t cap = o->cap_weight ? 2 * o->cap_weight : 256;
        packed_weight *w = realloc(o->weight, cap * sizeof *w);
        if (!w) return NULL;
        o->weight = w;
        o->cap_weight = cap;
    }
    return &o->weight[o->n_weight];
}

/* *w is NULL when the weight may not be packed. */
static int weight_find(onednn_linear *o, const linear_job *j, const dnnl_memory_desc_t *md,
                       packed_weight **found)
{
    uint64_t samples[ONEDNN_SAMPLES];
    take_samples(samples, j);
    *found = NULL;
    for (size_t i = 0; i < o->n_weight; i++) {
        packed_weight *w = &o->weight[i];
        if (w->data != j->w || w->type != j->w_type || w->in != j->in || w->out != j->out) continue;
        if (memcmp(w->samples, samples, sizeof samples)) {
            TRY(weight_fill(o, j, w->mem));
            memcpy(w->samples, samples, sizeof samples);
        }
        *found = w;
        return SQ_OK;
    }
    packed_weight w = {j->w, j->w_type, j->in, j->out, {0}, NULL, dnnl_memory_desc_get_size(md)};
    memcpy(w.samples, samples, sizeof samples);
    packed_weight *slot = weight_slot(o);
    if (!slot || w.bytes > o->limit - o->packed_bytes) return SQ_OK;
    if (dnnl_memory_create(&w.mem, md, o->engine, DNNL_MEMORY_ALLOCATE)) return SQ_OK;
    int rc = weight_fill(o, j, w.mem);
    if (rc) {
        dnnl_memory_destroy(w.mem);
        return rc == SQ_E_NOMEM ? SQ_OK : rc; /* no room for a copy is no failure */
    }
    *slot = w;
    o->n_weight++;
    o->packed_bytes += w.bytes;
    *found = slot;
    return SQ_OK;
}

static int attr_make(dnnl_primitive_attr_t *attr, const linear_job *j)
{
    dnnl_post_ops_t ops = NULL;
    int rc = dnnl_primitive_attr_create(attr);
    if (!rc) rc = dnnl_post_ops_create(&ops);
    if (!rc && j->add) rc = dnnl_post_ops_append_sum(ops, 1.0f);
    if (!rc && j->act != SQ_ACT_NONE) {
        bool swish = j->act == SQ_ACT_SILU || j->act == SQ_ACT_QUICK_GELU;
        dnnl_alg_kind_t alg = swish                   ? dnnl_eltwise_swish
                              : j->act == SQ_ACT_GELU ? dnnl_eltwise_gelu_erf
                                                      : dnnl_eltwise_gelu_tanh;
        float alpha = j->act == SQ_ACT_QUICK_GELU ? 1.702f : 1.0f;
        rc = dnnl_post_ops_append_eltwise(ops, 1.0f, alg, alpha, 0.0f);
    }
    if (!rc) rc = dnnl_primitive_attr_set_post_ops(*attr, ops);
    if (ops) dnnl_post_ops_destroy(ops);
    return rc;
}

static weight_layout *layout_find(onednn_linear *o, const linear_job *j)
{
    for (size_t i = 0; i < o->n_layout; i++)
        if (o->layout[i].in == j->in && o->layout[i].out == j->out) return &o->layout[i];
    return NULL;
}

static int layout_add(onednn_linear *o, const linear_job *j, const dnnl_memory_desc_t *md)
{
    if (o->n_layout == o->cap_layout) {
        size_t cap = o->cap_layout ? 2 * o->cap_layout : 32;
        weight_layout *l = realloc(o->layout, cap * sizeof *l);
        if (!l) return dnnl_out_of_memory;
        o->layout = l;
        o->cap_layout = cap;
    }
    o->layout[o->n_layout++] = (weight_layout){j->in, j->out, *md};
    return dnnl_success;
}

/* The product's descriptor; the first of a weight shape also fixes that shape's layout. */
static int product_desc(onednn_linear *o, const linear_job *j, dnnl_primitive_desc_t *pd)
{
    dnnl_data_type_t t = o->opt.bf16 ? dnnl_bf16 : dnnl_f32;
    dnnl_dims_t x_dims = {j->n, j->in}, w_dims = {j->in, j->out}, y_dims = {j->n, j->out};
    dnnl_dims_t b_dims = {1, j->out};
    dnnl_memory_desc_t x, w, y, b;
    dnnl_matmul_desc_t md;
    dnnl_primitive_attr_t attr = NULL;
    const weight_layout *known = layout_find(o, j);
    int rc = dnnl_memory_desc_init_by_tag(&x, 2, x_dims, t, dnnl_ab);
    if (!rc) rc = dnnl_memory_desc_init_by_tag(&y, 2, y_dims, dnnl_f32, dnnl_ab);
    if (!rc) rc = dnnl_memory_desc_init_by_tag(&b, 2, b_dims, dnnl_f32, dnnl_ab);
    if (!rc) rc = dnnl_memory_desc_init_by_tag(&w, 2, w_dims, t, dnnl_format_tag_any);
    if (known) w = known->md;
    if (!rc) rc = dnnl_matmul_desc_init(&md, &x, &w, j->b ? &b : NULL, &y);
    if (!rc) rc = attr_make(&attr, j);
    if (!rc) rc = dnnl_primitive_desc_create(pd, &md, attr, o->engine, NULL);
    if (attr) dnnl_primitive_attr_destroy(attr);
    if (rc || known) return rc;
    return layout_add(o, j, dnnl_primitive_desc_query_md(*pd, dnnl_query_weights_md, 0));
}

static int round_make(onednn_linear *o, product *p, const dnnl_memory_desc_t *x16)
{
    dnnl_memory_desc_t x;
    dnnl_primitive_desc_t desc = NULL;
    dnnl_dims_t dims = {p->n, p->in};
    int rc = dnnl_memory_desc_init_by_tag(&x, 2, dims, dnnl_f32, dnnl_ab);
    if (!rc) rc = dnnl_memory_create(&p->x, &x, o->engine, DNNL_MEMORY_NONE);
    if (!rc) rc = dnnl_memory_create(&p->x16, x16, o->engine, DNNL_MEMORY_NONE);
    if (!rc) rc = dnnl_reorder_primitive_desc_create(&desc, &x, o->engine, x16, o->engine, NULL);
    if (!rc) rc = dnnl_primitive_create(&p->round_x, desc);
    if (desc) dnnl_primitive_desc_destroy(desc);
    return rc;
}

static int product_make(onednn_linear *o, const linear_job *j, product *p)
{
    dnnl_primitive_desc_t pd = NULL;
    *p = (product){.n = j->n, .in = j->in, .out = j->out, .act = j->act, .add = j->add,
                   .bias = j->b != NULL};
    int rc = product_desc(o, j, &pd);
    if (!rc) rc = dnnl_primitive_create(&p->prim, pd);
    const dnnl_memory_desc_t *x =
        rc ? NULL : dnnl_primitive_desc_query_md(pd, dnnl_query_src_md, 0);
    if (!rc && o->opt.bf16) rc = round_make(o, p, x);
    if (!rc && !o->opt.bf16) rc = dnnl_memory_create(&p->x, x, o->engine, DNNL_MEMORY_NONE);
    if (!rc)
        rc = dnnl_memory_create(&p->y, dnnl_primitive_desc_query_md(pd, dnnl_query_dst_md, 0),
                                o->engine, DNNL_MEMORY_NONE);
    if (!rc && p->bias)
        rc = dnnl_memory_create(&p->b, dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 1),
                                o->engine, DNNL_MEMORY_NONE);
    if (pd) dnnl_primitive_desc_destroy(pd);
    if (rc) product_close(p);
    return rc;
}

static int product_find(onednn_linear *o, const linear_job *j, product **found)
{
    product *p = NULL, *oldest = NULL;
    for (int i = 0; i < o->n_product; i++) {
        p = &o->product[i];
        if (p->n == j->n && p->in == j->in && p->out == j->out && p->act == j->act &&
            p->add == j->add && p->bias == (j->b != NULL) && p->prim) {
            p->used = ++o->clock;
            *found = p;
            return dnnl_success;
        }
        if (!oldest || p->used < oldest->used) oldest = p;
    }
    p = o->n_product < ONEDNN_PRIMITIVES ? &o->product[o->n_product++] : oldest;
    product_close(p);
    *found = p;
    int rc = product_make(o, j, p);
    if (!rc) p->used = ++o->clock;
    return rc;
}

static int product_run(onednn_linear *o, product *p, const linear_job *j, dnnl_memory_t w)
{
    int rc = dnnl_memory_set_data_handle(p->x, (void *)(size_t)j->x);
    if (!rc) rc = dnnl_memory_set_data_handle(p->y, j->y);
    if (!rc && p->b) rc = dnnl_memory_set_data_handle(p->b, (void *)(size_t)j->b);
    if (!rc && p->round_x) {
        rc = dnnl_memory_set_data_handle(p->x16, o->x16);
        dnnl_exec_arg_t arg[] = {{DNNL_ARG_FROM, p->x}, {DNNL_ARG_TO, p->x16}};
        if (!rc) rc = dnnl_primitive_execute(p->round_x, o->stream, 2, arg);
    }
    dnnl_exec_arg_t arg[] = {{DNNL_ARG_SRC, p->x16 ? p->x16 : p->x},
                             {DNNL_ARG_WEIGHTS, w},
                             {DNNL_ARG_DST, p->y},
                             {DNNL_ARG_BIAS, p->b}};
    if (!rc) rc = dnnl_primitive_execute(p->prim, o->stream, p->b ? 4 : 3, arg);
    if (!rc) rc = dnnl_stream_wait(o->stream);
    return rc;
}

static int x16_reserve(onednn_linear *o, const linear_job *j)
{
    size_t size = ((size_t)(j->n * j->in) * 2 + 63) / 64 * 64;
    if (!o->opt.bf16 || o->x16_size >= size) return SQ_OK;
    free(o->x16);
    o->x16 = aligned_alloc(64, size);
    o->x16_size = o->x16 ? size : 0;
    return o->x16 ? SQ_OK : SQ_E_NOMEM;
}

static int run_inner(onednn_linear *o, const linear_job *j, bool *done, sq_error *err)
{
    product *p;
    packed_weight *w;
    /* With AMX, 2.6 runs into an illegal instruction at 63 inputs; no model has an odd number. */
    if (o->opt.bf16 && j->in % 2) return SQ_OK;
    if (product_find(o, j, &p)) return SQ_OK;
    const weight_layout *layout = layout_find(o, j);
    /* A plain layout means the library has no packed kernel: nothing to gain for the memory. */
    if (!layout || !layout->md.format_desc.blocking.inner_nblks) return SQ_OK;
    int rc = weight_find(o, j, &layout->md, &w);
    if (rc == SQ_OK && !w) return SQ_OK;
    if (rc == SQ_OK) rc = x16_reserve(o, j);
    if (rc == SQ_OK && product_run(o, p, j, w->mem)) rc = SQ_E_BACKEND;
    if (rc == SQ_E_NOMEM) return error_set(err, rc, "linear: out of memory");
    if (rc) return error_set(err, rc, "linear: oneDNN failed on %lldx%lldx%lld", (long long)j->n,
                             (long long)j->in, (long long)j->out);
    *done = true;
    return SQ_OK;
}

int onednn_linear_run(onednn_linear *o, const linear_job *j, bool *done, sq_error *err)
{
    *done = false;
    int threads = omp_get_max_threads();
    omp_set_num_threads(o->opt.n_threads);
    int rc = run_inner(o, j, done, err);
    omp_set_num_threads(threads);
    return rc;
}
