/* Cases of the norms and of the element by element slots. */
#include "opcheck.h"

#include <math.h>
#include <string.h>

static const int row_counts[] = {1, 2, 3, 7, 17, 65};
static const int dims[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 577, 1024, 1025};
static const oc_fill norm_fills[] = {OC_RANDOM, OC_WIDE, OC_TIES,  OC_TINY,
                                     OC_HUGE,   OC_ZERO, OC_OFFSET};
static const float norm_eps[] = {1e-5f, 1e-6f, 1e-12f};

typedef struct norm_case {
    int rows, dim;
    oc_fill fill;
    sq_dtype w_type, b_type;
    float eps;
    bool in_place, layer; /* layer: layer_norm, else rms_norm */
    int nan;              /* row with a NaN, 0: none */
    sq_dtype y_type;
} norm_case;

/* Errors of mean and variance scale the row: |w| (|x| + mean|x|) / sigma + |b|. */
static void layer_scale(oc_buf *y, const oc_buf *x, const oc_buf *w, const oc_buf *b,
                        const norm_case *c)
{
    double *scale = oc_scale(y);
    float wf[8192], bf[8192];
    convert_to_f32(wf, w->host.data, w->host.dtype, c->dim);
    convert_to_f32(bf, b->host.data, b->host.dtype, c->dim);
    for (int i = 0; i < c->rows; i++) {
        const float *row = oc_values(x) + (size_t)i * (size_t)c->dim;
        double mean = 0, size = 0, var = 0;
        for (int k = 0; k < c->dim; k++) {
            mean += (double)row[k] / c->dim;
            size += fabs((double)row[k]) / c->dim;
        }
        for (int k = 0; k < c->dim; k++)
            var += ((double)row[k] - mean) * ((double)row[k] - mean) / c->dim;
        double inv = 1 / sqrt(var + (double)c->eps);
        for (int k = 0; k < c->dim; k++)
            scale[(size_t)i * (size_t)c->dim + (size_t)k] =
                fabs((double)wf[k]) * (fabs((double)row[k]) + size) * inv + fabs((double)bf[k]);
    }
}

static void norm_run(oc_run *r, const norm_case *c)
{
    sq_dtype w_type = oc_vector_type(r, c->w_type), b_type = oc_vector_type(r, c->b_type);
    sq_dtype y_type = c->y_type ? c->y_type : r->act;
    if (!oc_begin(r, c->layer ? "layer_norm" : "rms_norm", "%dx%d %s eps %g fill %s y %s%s%s",
                  c->rows, c->dim, dtype_name(w_type), (double)c->eps, oc_fill_name(c->fill),
                  dtype_name(y_type), c->in_place ? " in place" : "", c->nan ? " NaN" : ""))
        return;
    oc_buf *x = c->in_place ? oc_inout(r, SQ_DTYPE_F32, c->rows, c->dim, c->fill)
                            : oc_in(r, SQ_DTYPE_F32, c->rows, c->dim, c->fill);
    oc_buf *w = oc_stored(r, w_type, 1, c->dim, OC_RANDOM);
    oc_buf *b = oc_stored(r, b_type, 1, c->dim, OC_RANDOM);
    oc_buf *y = c->in_place ? x : oc_out(r, y_type, c->rows, c->dim);
    if (c->nan) oc_values(x)[(size_t)c->nan * (size_t)c->dim + (size_t)c->dim / 2] = NAN;
    if (c->layer) layer_scale(y, x, w, b, c);
    oc_upload(r);
    sq_tensor wd = oc_vector(&w->dev), bd = oc_vector(&b->dev);
    sq_tensor wh = oc_vector(&w->host), bh = oc_vector(&b->host);
    sq_tensor *from = c->in_place ? &y->want : &x->host;
    if (c->layer) {
        r->ops.layer_norm(r->be, &y->dev, &x->dev, &wd, &bd, c->eps);
        r->ref.layer_norm(r->ref_be, &y->want, from, &wh, &bh, c->eps);
    } else {
        r->ops.rms_norm(r->be, &y->dev, &x->dev, &wd, c->eps);
        r->ref.rms_norm(r->ref_be, &y->want, from, &wh, c->eps);
    }
    oc_end(r);
}

static void norm_cases(oc_run *r, bool layer)
{
    enum { N_FILL = sizeof norm_fills / sizeof *norm_fills };
    int v = 0;
    for (size_t a = 0; a < sizeof row_counts / sizeof *row_counts; a++)
        for (size_t b = 0; b < sizeof dims / sizeof *dims; b++)
            for (int f = 0; f < N_FILL; f++, v++) {
                norm_case c = {row_counts[a], dims[b], norm_fills[f]};
                c.layer = layer;
                c.w_type = (sq_dtype)(SQ_DTYPE_F32 + v % 3);
                c.b_type = (sq_dtype)(SQ_DTYPE_F32 + v / 3 % 3);
                c.eps = norm_eps[v % 5 % 3];
                c.in_place = r->unit > 0 ? v % 5 == 0 : v % 2;
                c.y_type = v % 5 == 1 ? SQ_DTYPE_F32 : r->act;
                c.nan = c.rows > 2 && v % 4 == 0 ? 1 + v % (c.rows - 1) : 0;
                norm_run(r, &c);
            }
    static const int decoder[][2] = {{1, 4096}, {5, 4096}, {84, 4096}, {2, 5120}};
    for (int i = 0; i < 4; i++) {
        norm_case c = {.rows = decoder[i][0], .dim = decoder[i][1], .layer = layer, .eps = 1e-5f};
        c.w_type = c.b_type = SQ_DTYPE_F32;
        norm_run(r, &c);
    }
    norm_case large = {577, 1024, OC_RANDOM, SQ_DTYPE_F16, SQ_DTYPE_F32, 1e-5f, false, layer, 0};
    norm_run(r, &large);
    large = (norm_case){631, 2047, OC_WIDE, SQ_DTYPE_F32, SQ_DTYPE_F16, 1e-6f, true, layer, 630};
    norm_run(r, &large);
}

void oc_check_layer_norm(oc_run *r)
{
    norm_cases(r, true);
}

void oc_check_rms_norm(oc_run *r)
{
    norm_cases(r, false);
}

static const int counts[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 577, 4095, 4097, 40001};
enum { N_COUNT = sizeof counts / sizeof *counts };

/* Where exp over- or underflows, signed zeros, denormals, and NaN. */
static const float specials[] = {0.0f,   -0.0f,  1e-40f, -1e-40f,   1e30f,   -1e30f,
                                 87.3f,  -87.3f, -88.8f, 88.8f,     -104.0f, 104.0f,
                                 -60.0f, 5.5f,   -5.5f,  -0x1p-24f, NAN};
enum { N_SPECIAL = sizeof specials / sizeof *specials };

/* 0: random in +-20; 1: an even sweep of +-20; then the specials among the random. */
static void fill_range(oc_run *r, float *x, int n, int kind)
{
    for (int i = 0; i < n; i++) {
        x[i] = kind == 1 ? (float)(i - n / 2) * (i % 3 ? 40.0f / (float)n : 1e-4f)
                         : (float)(20 * oc_uniform(r));
        if (kind == 2 && i % 3 == 0) x[i] = specials[i / 3 % N_SPECIAL];
    }
}

static void activate_run(oc_run *r, int n, sq_act act, int kind, bool in_place)
{
    sq_dtype t = oc_act_or_f32(r, n + kind), ty = oc_act_or_f32(r, n + 2 * kind + (int)act);
    if (!oc_begin(r, "activate", "act %d n %d kind %d %s to %s%s", act, n, kind, dtype_name(t),
                  dtype_name(in_place ? t : ty), in_place ? " in place" : ""))
        return;
    oc_buf *x = in_place ? oc_inout(r, t, 1, n, OC_ZERO) : oc_in(r, t, 1, n, OC_ZERO);
    oc_buf *y = in_place ? x : oc_out(r, ty, 1, n);
    fill_range(r, oc_values(x), n, kind);
    oc_upload(r);
    r->ops.activate(r->be, &y->dev, &x->dev, act);
    r->ref.activate(r->ref_be, &y->want, in_place ? &y->want : &x->host, act);
    double *scale = oc_scale(y);
    for (int i = 0; i < n; i++) {
        double v = (double)oc_values(x)[i], want = (double)((float *)y->want.data)[i];
        scale[i] = act == SQ_ACT_NONE ? OC_EXACT : fabs(want) + fabs(v) / 3;
        /* The logistic tail keeps its relative accuracy as long as exp stays in range. */
        if (act == SQ_ACT_SILU) scale[i] = fabs(want) + (v < -87 && v > -110 ? 1e-29 : 0);
    }
    oc_end(r);
}

void oc_check_activate(oc_run *r)
{
    for (int act = SQ_ACT_NONE; act <= SQ_ACT_SILU; act++)
        for (int i = 0; i < N_COUNT; i++)
            for (int kind = 0; kind < 3; kind++)
                activate_run(r, counts[i], (sq_act)act, kind, (i + kind + act) % 2);
}

void oc_check_silu_mul(oc_run *r)
{
    for (int v = 0; v < 3 * N_COUNT * 3; v++) {
        int n = counts[v / 9], kind = v % 3, alias = v / 3 % 3; /* 0: none, 1: y is gate, 2: up */
        sq_dtype t = oc_act_or_f32(r, v % 7);
        if (!oc_begin(r, "silu_mul", "n %d kind %d alias %d %s", n, kind, alias, dtype_name(t)))
            continue;
        oc_buf *g = alias == 1 ? oc_inout(r, t, 1, n, OC_ZERO) : oc_in(r, t, 1, n, OC_ZERO);
        oc_buf *u = alias == 2 ? oc_inout(r, t, 1, n, OC_WIDE) : oc_in(r, t, 1, n, OC_WIDE);
        oc_buf *y = alias == 1 ? g : alias == 2 ? u : oc_out(r, t, 1, n);
        fill_range(r, oc_values(g), n, kind);
        if (kind == 2 && n > 7) oc_values(u)[7] = NAN;
        oc_upload(r);
        r->ops.silu_mul(r->be, &y->dev, &g->dev, &u->dev);
        r->ref.silu_mul(r->ref_be, &y->want, alias == 1 ? &y->want : &g->host,
                        alias == 2 ? &y->want : &u->host);
        double *scale = oc_scale(y);
        for (int i = 0; i < n; i++) {
            double x = (double)oc_values(g)[i];
            scale[i] = fabs((double)((float *)y->want.data)[i]) +
                       (x < -87 && x > -110 ? 1e-29 * (1 + fabs((double)oc_values(u)[i])) : 0);
        }
        oc_end(r);
    }
}

static void add_run(oc_run *r, int rows, int x_rows, int dim, oc_fill f, int v)
{
    if (!oc_begin(r, "add", "%dx%d, x has %d rows, fill %s", rows, dim, x_rows, oc_fill_name(f)))
        return;
    oc_buf *x = oc_in(r, SQ_DTYPE_F32, x_rows, dim, f);
    oc_buf *y = oc_inout(r, SQ_DTYPE_F32, rows, dim, OC_WIDE);
    if (f == OC_WIDE) oc_values(x)[x_rows * dim / 2] = v % 2 ? NAN : -INFINITY;
    oc_upload(r);
    r->ops.add(r->be, &y->dev, &x->dev);
    r->ref.add(r->ref_be, &y->want, &x->host);
    oc_end(r);
}

void oc_check_add(oc_run *r)
{
    static const oc_fill fills[] = {OC_RANDOM, OC_WIDE, OC_TINY, OC_HUGE, OC_ZERO};
    for (int v = 0; v < N_COUNT * 5; v++)
        add_run(r, 1, 1, counts[v / 5], fills[v % 5], v);
    /* x again and again: position embeddings of several views, or one row for all */
    static const int rows[][2] = {{2, 1}, {3, 1}, {4, 2}, {6, 3}, {1154, 577}, {65, 13}, {7, 7}};
    static const int dim[] = {1, 3, 8, 16, 33, 64, 129, 1024};
    for (int v = 0; v < 7 * 8; v++)
        add_run(r, rows[v % 7][0], rows[v % 7][1], dim[v / 7], fills[v % 5], v);
}
