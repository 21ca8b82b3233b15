/* A device that is none: host memory behind pointers that the host cannot follow, activations of 16
 * bits, ops that are the reference with every rounding that a GPU may make in between. */
#include "opcheck.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/ref/ref.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory ---- */

/* Device pointer <-> host pointer. With bit 62 set no address is valid: to follow one faults. */
static void *other_side(const void *p)
{
    return p ? (void *)((uintptr_t)p ^ (uintptr_t)1 << 62) : NULL;
}

static void *em_alloc(void *user, size_t size)
{
    (void)user;
    return size > SIZE_MAX - 255 ? NULL : other_side(aligned_alloc(256, (size + 255) / 256 * 256));
}

static void em_free(void *user, void *p)
{
    (void)user;
    free(other_side(p));
}

static void em_write(sq_backend *be, void *dst, const void *host_src, size_t size)
{
    (void)be;
    memcpy(other_side(dst), host_src, size);
}

static void em_read(sq_backend *be, void *host_dst, const void *src, size_t size)
{
    (void)be;
    memcpy(host_dst, other_side(src), size);
}

static void em_convert(sq_backend *be, void *dst, sq_dtype to, const void *src, sq_dtype from,
                       int64_t n)
{
    (void)be;
    float *values = oc_alloc((size_t)n * sizeof *values);
    convert_to_f32(values, other_side(src), from, n);
    convert_from_f32(other_side(dst), to, values, n);
    free(values);
}

/* ---- the views of a call ---- */

/* A tensor of the op that runs, as the reference gets it. */
typedef struct view {
    sq_tensor t, to; /* to: where t goes at the call's end, or absent */
    void *memory;    /* t's own, or NULL */
} view;

static view views[2 * SQ_STEP_MAX + 8];
static int n_view;

/* As it is stored; NULL stays NULL. */
static sq_tensor *raw(const sq_tensor *t)
{
    if (!t) return NULL;
    view *v = &views[n_view++];
    *v = (view){.t = *t};
    v->t.data = other_side(t->data);
    return &v->t;
}

/* A copy in f32. */
static sq_tensor *in(const sq_tensor *t)
{
    int64_t n = tensor_count(t);
    view *v = &views[n_view++];
    *v = (view){.t = *t, .memory = oc_alloc((size_t)n * sizeof(float))};
    v->t.dtype = SQ_DTYPE_F32;
    v->t.data = v->memory;
    if (t->data) convert_to_f32(v->memory, other_side(t->data), t->dtype, n);
    return &v->t;
}

/* The same, and rounded to t at the end. */
static sq_tensor *out(const sq_tensor *t)
{
    sq_tensor *copy = in(t);
    views[n_view - 1].to = *t;
    return copy;
}

static void round_to(sq_tensor *t, sq_dtype type)
{
    float *x = t->data;
    for (int64_t i = 0, n = oc_unit(type) > 0 ? tensor_count(t) : 0; i < n; i++)
        x[i] = oc_round(x[i], type);
}

static void end(void)
{
    while (n_view) {
        view *v = &views[--n_view];
        if (v->to.data)
            convert_from_f32(other_side(v->to.data), v->to.dtype, v->memory, tensor_count(&v->to));
        free(v->memory);
    }
}

/* ---- products ---- */

/* x is rounded if it is wider; so is a product before its bias and activation. */
static void em_linear(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                      const sq_tensor *b, const linear_desc *d)
{
    const linear_desc product = {SQ_ACT_NONE, d->add};
    sq_tensor *ys = out(y), *xs = in(x);
    const float *bias = b ? other_side(b->data) : NULL;
    round_to(xs, be->act);
    linear_ref(be, ys, xs, raw(w), NULL, &product);
    if (bias || d->act) round_to(ys, y->dtype);
    for (int64_t i = 0; bias && i < tensor_count(ys); i++)
        ((float *)ys->data)[i] += bias[i % w->shape[0]];
    activate_ref(be, ys, ys, d->act);
    end();
}

static void em_silu_mul(sq_backend *be, sq_tensor *y, const sq_tensor *gate, const sq_tensor *up)
{
    silu_mul_ref(be, out(y), in(gate), in(up));
    end();
}

/* ---- attention ---- */

/* The rotated k is rounded to the activations' type before it is rounded to the cache's. */
static void em_rope_append(sq_backend *be, sq_tensor *q, sq_tensor *k, const sq_tensor *v,
                           sq_tensor *cache_k, sq_tensor *cache_v, int at, const sq_tensor *pos,
                           const rope_desc *d)
{
    sq_tensor to_k = tensor_rows(cache_k, at, k->shape[0]);
    sq_tensor to_v = tensor_rows(cache_v, at, k->shape[0]);
    sq_tensor *new_k = out(&to_k), *new_v = out(&to_v);
    rope_append_ref(be, out(q), in(k), in(v), new_k, new_v, 0, raw(pos), d);
    round_to(new_k, be->act);
    end();
}

/* out[dim] of one query and head = sum over keys of p, rounded, times v. */
static void weigh(float *to, const float *p, const float *v, const attn_desc *d, sq_dtype t)
{
    double sum[256] = {0};
    for (int64_t j = 0; j < d->n_kv; j++) {
        double weight = (double)oc_round(p[j], t);
        for (int c = 0; weight != 0 && c < d->head_dim; c++)
            sum[c] += weight * (double)v[j * d->n_head_kv * d->head_dim + c];
    }
    for (int c = 0; c < d->head_dim; c++)
        to[c] = (float)sum[c];
}

/* Keys and values of other types are rounded, and so are the softmax's before they weigh v. */
static void em_attn(sq_backend *be, sq_tensor *y, const sq_tensor *q, const sq_tensor *k,
                    const sq_tensor *v, const attn_desc *d)
{
    sq_tensor *ys = out(y), *qs = in(q), *ks = in(k), *vs = in(v);
    sq_tensor shape = {NULL, SQ_DTYPE_F32, 4, {1, d->n_q, d->n_head, d->n_kv}}, *p = in(&shape);
    int32_t *row = oc_alloc((size_t)d->n_q * sizeof *row);
    attn_desc one = *d;
    one.n_seq = 1;
    round_to(ks, be->act);
    round_to(vs, be->act);
    for (int i = 0; i < d->n_q; i++)
        row[i] = i;
    for (int64_t s = 0; s < ys->shape[0] / d->n_q; s++) {
        sq_tensor q1 = tensor_rows(qs, s * d->n_q, d->n_q);
        sq_tensor k1 = tensor_rows(ks, s * d->n_kv, d->n_kv);
        const float *v1 = (float *)vs->data + s * d->n_kv * d->n_head_kv * d->head_dim;
        attn_rows_ref(be, p, &q1, &k1, row, d->n_q, false, &one);
        for (int64_t i = 0; i < (int64_t)d->n_q * d->n_head; i++)
            weigh((float *)ys->data + (s * d->n_q * d->n_head + i) * d->head_dim,
                  (float *)p->data + i * d->n_kv,
                  v1 + i % d->n_head / (d->n_head / d->n_head_kv) * d->head_dim, d, be->act);
    }
    free(row);
    end();
}

/* As kernels/cuda/attn_step.cu: q stays in f32 once it is rotated, k and v are attended to as they
 * lie in the caches, the softmax is f32. */
static void em_attn_step(sq_backend *be, sq_tensor *y, sq_tensor *q, sq_tensor *k,
                         const sq_tensor *v, const kv_step *s, const rope_desc *r,
                         const attn_desc *d)
{
    const sq_tensor *ck[SQ_STEP_MAX], *cv[SQ_STEP_MAX];
    sq_backend plain = {0};
    (void)be;
    ops_init_ref(&plain.ops);
    for (int i = 0; i < s->n_seq; i++)
        ck[i] = raw(s->k[i]), cv[i] = raw(s->v[i]);
    kv_step step = {s->n_seq, raw(s->pos), raw(s->len), ck, cv};
    attn_step_ref(&plain, out(y), in(q), in(k), in(v), &step, r, d);
    end();
}

static void em_attn_rows(sq_backend *be, sq_tensor *score, const sq_tensor *q, const sq_tensor *k,
                         const int32_t *row, int n_row, bool logits, const attn_desc *d)
{
    attn_rows_ref(be, raw(score), in(q), in(k), row, n_row, logits, d);
    end();
}

static void em_attn_means(sq_backend *be, sq_tensor *received, sq_tensor *given, const sq_tensor *q,
                          const sq_tensor *k, int first, bool logits, const attn_desc *d)
{
    attn_means_ref(be, raw(received), raw(given), in(q), in(k), first, logits, d);
    end();
}

/* ---- rows and elements ---- */

static void em_patchify(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *level,
                        int patch)
{
    patchify_ref(be, out(y), raw(x), raw(level), patch);
    end();
}

static void em_embed(sq_backend *be, sq_tensor *y, const sq_tensor *w, const sq_tensor *ids)
{
    embed_ref(be, raw(y), raw(w), raw(ids));
    end();
}

static void em_layer_norm(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                          const sq_tensor *b, float eps)
{
    layer_norm_ref(be, out(y), raw(x), raw(w), raw(b), eps);
    end();
}

static void em_rms_norm(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                        float eps)
{
    rms_norm_ref(be, out(y), raw(x), raw(w), eps);
    end();
}

static void em_activate(sq_backend *be, sq_tensor *y, const sq_tensor *x, sq_act act)
{
    activate_ref(be, out(y), in(x), act);
    end();
}

static void em_add(sq_backend *be, sq_tensor *y, const sq_tensor *x)
{
    add_ref(be, raw(y), raw(x));
    end();
}

static void em_select_rows(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sparse_rows *m)
{
    select_rows_ref(be, out(y), raw(x), m);
    end();
}

static void em_argmax(sq_backend *be, sq_tensor *best, sq_tensor *gap, const sq_tensor *x)
{
    argmax_ref(be, raw(best), raw(gap), raw(x));
    end();
}

/* A plain CPU backend with another memory and other ops. */
int oc_emulated_open(sq_backend **to, const backend_options *o, sq_error *err)
{
    static const sq_dtype act[] = {SQ_DTYPE_BF16, SQ_DTYPE_F32, SQ_DTYPE_BF16, SQ_DTYPE_F16};
    static const sq_ops ops = {
        em_patchify, em_embed,       em_linear, linear_many_ref, linear_gated_ref, em_layer_norm,
        em_rms_norm, em_rope_append, em_attn,   em_attn_step,    em_attn_rows,     em_attn_means,
        em_silu_mul, em_activate,    em_add,    em_select_rows,  em_argmax,
    };
    backend_options plain = {"cpu", o->device, .n_threads = 1, .compute = SQ_COMPUTE_F32,
                             .cpu_mask = SQ_CPU_NOTHING};
    TRY(backend_open(to, &plain, err));
    sq_backend *be = *to;
    be->name = "emulated";
    be->ops = ops; /* of those that are the reference's own, each calls em_ ones */
    be->compute = o->compute ? o->compute : SQ_COMPUTE_BF16;
    be->act = act[o->compute];
    be->resident = true;
    be->memory = (arena_source){em_alloc, em_free, NULL};
    be->write = em_write;
    be->read = em_read;
    be->convert = em_convert;
    snprintf(be->describe, sizeof be->describe, "emulated: no device, %s", dtype_name(be->act));
    return SQ_OK;
}
