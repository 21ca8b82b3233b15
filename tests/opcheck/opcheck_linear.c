/* Cases of the products: sizes on both sides of every tile, slice and row bucket; weight types,
 * activations, biases and fills rotate through them. */
#include "opcheck.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct linear_case {
    int n, in, out;
    sq_dtype type, bias; /* bias NONE: none */
    linear_desc d;
    oc_fill fill;
    bool raw;                /* operands that compute of 16 bits must round */
    int nan, inf;            /* rows of x with one such value; 0: none */
    int nan_column;          /* weight row with a NaN; 0: none */
    sq_dtype x_type, y_type; /* NONE: be->act; y is f32 when adding */
} linear_case;

/* The type whose precision the products' operands have. */
static sq_dtype operand_type(const oc_run *r)
{
    return r->bf16 ? SQ_DTYPE_BF16 : r->act;
}

static sq_tensor absolute(const sq_tensor *t)
{
    sq_tensor a = tensor_2d(oc_floats(t), SQ_DTYPE_F32, t->shape[0], t->shape[1]);
    for (int64_t i = 0, n = tensor_count(t); i < n; i++)
        ((float *)a.data)[i] = fabsf(((float *)a.data)[i]);
    return a;
}

/* f32 sums of k products in any order: |error| <= eps (8 + sqrt k) sum|x w|. */
static void product_scale(oc_run *r, double *scale, const sq_tensor *x, const sq_tensor *w,
                          double rest)
{
    int64_t n = x->shape[0], in = w->shape[1], out = w->shape[0];
    sq_tensor xs = absolute(x), ws = absolute(w);
    sq_tensor sum = tensor_2d(oc_alloc((size_t)(n * out) * sizeof(float)), SQ_DTYPE_F32, n, out);
    r->ref.linear(r->ref_be, &sum, &xs, &ws, NULL, &(linear_desc){0});
    for (int64_t i = 0; i < n * out; i++) /* rest: the bias and what y held */
        scale[i] = (8 + sqrt((double)in)) * (rest + (double)((float *)sum.data)[i]);
    free(xs.data);
    free(ws.data);
    free(sum.data);
}

/* A device may round the product to y's 16 bits before it adds the bias and applies act. */
static void product_slack(oc_run *r, oc_buf *y, const oc_buf *x, const oc_buf *w, double slope)
{
    int64_t n = tensor_count(&y->host);
    if (r->unit <= 0 || y->dev.dtype != r->act) return;
    double *slack = oc_slack(y), least = r->act == SQ_DTYPE_F16 ? 0x1p-25 : 0;
    float *product = oc_alloc((size_t)n * sizeof *product);
    sq_tensor to = tensor_2d(product, SQ_DTYPE_F32, y->host.shape[0], y->host.shape[1]);
    r->ref.linear(r->ref_be, &to, &x->host, &w->host, NULL, &(linear_desc){0});
    for (int64_t i = 0; i < n; i++)
        if (oc_is_finite(product[i]))
            slack[i] = slope * (r->unit * fabs((double)product[i]) + least);
    free(product);
}

/* The activations' slopes stay below 1.13 and their own error below a few eps. */
static void linear_scale(oc_run *r, oc_buf *y, const oc_buf *x, const oc_buf *w,
                         const linear_case *c)
{
    /* With bf16 compute oneDNN applies its own approximations: gelu_tanh is up to 4e-6 off. */
    double act_error = r->bf16 && c->d.act ? 1e-5 / r->tol->max : 0;
    double *scale = oc_scale(y), slope = c->d.act ? 1.3 : 1;
    bool tiny = c->fill == OC_TINY && !c->bias && !c->d.add;
    product_scale(r, scale, &x->host, &w->host, tiny ? 0 : 2);
    for (int64_t i = 0; i < (int64_t)c->n * c->out; i++)
        scale[i] = act_error + slope * scale[i];
}

static float *rounded_copy(const sq_tensor *from, sq_dtype t)
{
    float *to = oc_floats(from);
    for (int64_t i = 0, n = tensor_count(from); i < n; i++)
        to[i] = oc_round(to[i], t);
    return to;
}

/* What compute of 16 bits gives: operands rounded to it, the rest as in the reference. */
static float *rounded_result(oc_run *r, const linear_case *c, const oc_buf *y, const oc_buf *x,
                             const oc_buf *w, const sq_tensor *b)
{
    float *xr = rounded_copy(&x->host, operand_type(r));
    float *wr = rounded_copy(&w->host, operand_type(r));
    float *out = rounded_copy(&y->host, SQ_DTYPE_F32);
    sq_tensor xt = tensor_2d(xr, SQ_DTYPE_F32, c->n, c->in);
    sq_tensor wt = tensor_2d(wr, SQ_DTYPE_F32, c->out, c->in);
    sq_tensor yt = tensor_2d(out, SQ_DTYPE_F32, c->n, c->out);
    r->ref.linear(r->ref_be, &yt, &xt, &wt, b, &c->d);
    free(xr);
    free(wr);
    return out;
}

/* Of more than a few rows a CPU asked for bf16 computes in it, not in f32 unnoticed. */
static bool must_round(const oc_run *r, const linear_case *c)
{
    return r->bf16 && c->n > 8 && c->in % 2 == 0;
}

static void run_case(oc_run *r, linear_case c)
{
    c.type = oc_weight_type(r, c.type);
    c.bias = oc_vector_type(r, c.bias);
    if (!c.x_type) c.x_type = r->act;
    if (!c.y_type) c.y_type = c.d.add ? SQ_DTYPE_F32 : r->act;
    if (oc_costs_too_much(r, (double)(c.n < 4 ? 4 : c.n) * c.in * c.out)) return;
    if (!oc_begin(r, "linear", "%dx%dx%d %s bias %s act %d add %d fill %s%s%s x %s y %s", c.n, c.in,
                  c.out, dtype_name(c.type), dtype_name(c.bias), c.d.act, c.d.add,
                  oc_fill_name(c.fill), c.raw ? " raw" : "", c.nan ? " NaN" : "",
                  dtype_name(c.x_type), dtype_name(c.y_type)))
        return;
    r->fill_type = c.raw ? SQ_DTYPE_NONE : operand_type(r);
    oc_buf *x = oc_in(r, c.x_type, c.n, c.in, c.fill);
    oc_buf *w = oc_stored(r, c.type, c.out, c.in, OC_RANDOM);
    r->fill_type = SQ_DTYPE_NONE;
    oc_buf *b = c.bias ? oc_stored(r, c.bias, 1, c.out, OC_RANDOM) : NULL;
    oc_buf *y = c.d.add ? oc_inout(r, SQ_DTYPE_F32, c.n, c.out, OC_RANDOM)
                        : oc_out(r, c.y_type, c.n, c.out);
    if (c.nan) oc_values(x)[c.nan * c.in + c.in / 3] = NAN;
    if (c.inf) oc_values(x)[c.inf * c.in + c.in - 1] = INFINITY;
    if (c.nan_column) oc_put(&w->host, (int64_t)c.nan_column * c.in + c.in / 2, NAN);
    oc_upload(r);
    linear_scale(r, y, x, w, &c);
    if (c.bias || c.d.act) product_slack(r, y, x, w, c.d.act ? 1.3 : 1);
    sq_tensor bias = b ? oc_vector(&b->dev) : oc_none(),
              host_bias = b ? oc_vector(&b->host) : oc_none();
    r->ops.linear(r->be, &y->dev, &x->dev, &w->dev, b ? &bias : NULL, &c.d);
    r->ref.linear(r->ref_be, &y->want, &x->host, &w->host, &host_bias, &c.d);
    float *rounded = NULL;
    if (c.raw && (r->bf16 || c.x_type != r->act))
        rounded = rounded_result(r, &c, y, x, w, &host_bias);
    if (rounded && must_round(r, &c)) memcpy(y->want.data, rounded, tensor_bytes(&y->want));
    oc_end_either(r, y, rounded);
    free(rounded);
}

static const oc_fill fills[] = {OC_RANDOM, OC_WIDE,   OC_RANDOM, OC_TIES,    OC_TINY,  OC_RANDOM,
                                OC_HUGE,   OC_RANDOM, OC_ZERO,   OC_ONE_PER, OC_RANDOM};
enum { N_FILL = sizeof fills / sizeof *fills };

static void check_sizes(oc_run *r)
{
    static const int n[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,   12,
                            13, 16, 17, 24, 25, 63, 65, 84, 129, 145};
    static const int in[] = {1, 2, 3, 7, 8, 15, 17, 31, 32, 33, 63, 65, 100, 256, 257, 288, 577};
    static const int out[] = {1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 63, 65, 130};
    for (size_t a = 0; a < sizeof n / sizeof *n; a++)
        for (size_t b = 0; b < sizeof in / sizeof *in; b++)
            for (size_t o = 0; o < sizeof out / sizeof *out; o++) {
                int v = (int)(a * 7 + b * 3 + o);
                linear_case c = {.n = n[a], .in = in[b], .out = out[o]};
                c.type = (sq_dtype)(SQ_DTYPE_F32 + v % 4);
                if (c.type == SQ_DTYPE_Q8_0) c.in = (c.in + 31) / 32 * 32;
                c.d.add = v % 6 == 5;
                c.fill = fills[(v + (int)o) % N_FILL];
                /* A thousandth of a huge value is far outside the activations' range. */
                if (!c.d.add && c.fill != OC_HUGE) c.d.act = (sq_act)(v / 4 % 5);
                c.bias = (sq_dtype)(v / 2 % 4);
                c.raw = v % 3 == 0;
                c.x_type = v % 7 == 3 ? SQ_DTYPE_F32 : SQ_DTYPE_NONE;
                c.y_type = v % 5 == 1 ? SQ_DTYPE_F32 : SQ_DTYPE_NONE;
                run_case(r, c);
            }
}

static void check_non_finite(oc_run *r)
{
    static const int n[] = {1, 3, 9, 30, 145};
    for (int t = SQ_DTYPE_F32; t <= SQ_DTYPE_Q8_0; t++)
        for (int a = 0; a < 5; a++) {
            int last = n[a] - 1;
            linear_case c = {.n = n[a], .in = 96, .out = 67, .type = (sq_dtype)t};
            c.nan = last ? 1 : 0;
            c.inf = last > 1 ? 2 : 0;
            run_case(r, c);
            c.nan = last;
            c.inf = 0;
            c.d.add = true;
            run_case(r, c);
            c = (linear_case){
                .n = n[a], .in = 65, .out = 67, .type = (sq_dtype)t, .nan_column = 33};
            if (t == SQ_DTYPE_Q8_0) continue;
            run_case(r, c);
            c.in = 128; /* whole vectors too */
            run_case(r, c);
        }
}

void oc_check_linear(oc_run *r)
{
    static const linear_case large[] = {
        {577, 588, 130, SQ_DTYPE_F16, SQ_DTYPE_F32, {SQ_ACT_QUICK_GELU, false}, OC_RANDOM},
        {577, 1024, 65, SQ_DTYPE_F32, SQ_DTYPE_F16, {SQ_ACT_NONE, true}, OC_WIDE},
        {84, 2048, 129, SQ_DTYPE_Q8_0, SQ_DTYPE_NONE, {SQ_ACT_NONE, false}, OC_RANDOM},
        {199, 1100, 515, SQ_DTYPE_BF16, SQ_DTYPE_F32, {SQ_ACT_GELU, false}, OC_RANDOM},
        {1, 5504, 2048, SQ_DTYPE_Q8_0, SQ_DTYPE_NONE, {SQ_ACT_NONE, true}, OC_RANDOM},
        {3, 2048, 5504, SQ_DTYPE_F16, SQ_DTYPE_NONE, {SQ_ACT_NONE, false}, OC_WIDE, true},
    };
    static const int n[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 84};
    check_non_finite(r);
    check_sizes(r);
    for (size_t i = 0; i < sizeof large / sizeof *large; i++)
        run_case(r, large[i]);
    for (size_t i = 0; r->be->resident && i < sizeof n / sizeof *n; i++) {
        if (!oc_is_device(r) && n[i] % 8 != 1) continue;
        linear_case c = {.n = n[i], .in = 4096, .out = i == 9 ? 4096 : 1100, .bias = SQ_DTYPE_F32};
        run_case(r, c);
        c.in = 11008; /* the longest sums of a 7B decoder */
        c.out = 260;
        c.bias = SQ_DTYPE_NONE;
        c.d.add = true;
        run_case(r, c);
    }
    oc_check_linear_large(r);
}

/* ---- several products of one input ---- */

enum { MANY = 3 };

static void many_run(oc_run *r, int n, int in, const int *out, int count, int v)
{
    sq_dtype t = oc_weight_type(r, (sq_dtype)(SQ_DTYPE_F32 + v % 4));
    if (t == SQ_DTYPE_Q8_0) in = (in + 31) / 32 * 32;
    if (!oc_begin(r, "linear_many", "%d of %dx%dx%d,%d,%d %s biases %d", count, n, in, out[0],
                  out[1], out[2], dtype_name(t), v % 8))
        return;
    oc_buf *y[MANY], *w[MANY], *b[MANY];
    sq_tensor bias[MANY], host_bias[MANY], *yd[MANY], *yw[MANY];
    const sq_tensor *wd[MANY], *wh[MANY], *bd[MANY], *bh[MANY];
    r->fill_type = operand_type(r);
    oc_buf *x = oc_in(r, oc_act_or_f32(r, v), n, in, OC_RANDOM);
    for (int i = 0; i < count; i++)
        w[i] = oc_stored(r, t, out[i], in, OC_RANDOM);
    r->fill_type = SQ_DTYPE_NONE;
    for (int i = 0; i < count; i++) {
        b[i] =
            v >> i & 1 ? oc_stored(r, oc_vector_type(r, SQ_DTYPE_F16), 1, out[i], OC_RANDOM) : NULL;
        y[i] = oc_out(r, v % 5 == 4 ? SQ_DTYPE_F32 : r->act, n, out[i]);
        bias[i] = b[i] ? oc_vector(&b[i]->dev) : oc_none();
        host_bias[i] = b[i] ? oc_vector(&b[i]->host) : oc_none();
        yd[i] = &y[i]->dev, wd[i] = &w[i]->dev, bd[i] = b[i] || i % 2 ? &bias[i] : NULL;
        yw[i] = &y[i]->want, wh[i] = &w[i]->host, bh[i] = &host_bias[i];
    }
    if (v % 3 == 0 && n > 1) oc_values(x)[in + in / 2] = NAN;
    oc_upload(r);
    for (int i = 0; i < count; i++) {
        product_scale(r, oc_scale(y[i]), &x->host, &w[i]->host, 2);
        if (b[i]) product_slack(r, y[i], x, w[i], 1);
    }
    r->ops.linear_many(r->be, yd, &x->dev, wd, bd, count);
    r->ref.linear_many(r->ref_be, yw, &x->host, wh, bh, count);
    oc_end(r);
}

void oc_check_linear_many(oc_run *r)
{
    static const int n[] = {1, 2, 3, 5, 7, 8, 9, 17, 84, 129}, in[] = {1, 8, 33, 64, 160, 257};
    static const int out[][MANY] = {{1, 1, 1},   {16, 16, 16}, {64, 8, 8},   {33, 7, 17},
                                    {128, 1, 1}, {5, 130, 64}, {256, 64, 64}};
    int v = 0;
    for (size_t a = 0; a < sizeof n / sizeof *n; a++)
        for (size_t b = 0; b < sizeof in / sizeof *in; b++)
            for (size_t o = 0; o < sizeof out / sizeof *out; o++, v++)
                many_run(r, n[a], in[b], out[o], 1 + v % MANY, v / 3);
    static const int qkv[][MANY] = {{130, 64, 64}, {1024, 256, 256}};
    static const int rows[] = {1, 84, 577};
    for (int i = 0; i < 3; i++)
        many_run(r, rows[i], 1024, qkv[oc_is_device(r)], 3, (2 << i) - 1);
    oc_check_many_large(r);
}

static double silu(double x)
{
    return x / (1 + exp(-x));
}

/* How far silu moves at most when its argument does by d: it falls to its minimum, then rises. */
static double silu_moves(double x, double d)
{
    const double lowest = -1.2784645427610738;
    double most = fmax(fabs(silu(x + d) - silu(x)), fabs(silu(x - d) - silu(x)));
    return x - d < lowest && lowest < x + d ? fmax(most, silu(x) - silu(lowest)) : most;
}

/* Errors of g[n,out] and u, their own products' and their rounding in scratch, on silu(g) u. */
static void gated_limits(oc_run *r, double *scale, double *slack, const sq_tensor *x,
                         const sq_tensor *gate, const sq_tensor *up, const float *gs,
                         const float *us)
{
    int64_t count = x->shape[0] * gate->shape[0];
    double *g_sum = oc_alloc((size_t)count * sizeof *g_sum);
    double *u_sum = oc_alloc((size_t)count * sizeof *u_sum);
    product_scale(r, g_sum, x, gate, 0);
    product_scale(r, u_sum, x, up, 0);
    for (int64_t i = 0; i < count; i++) {
        double g = (double)gs[i], u = (double)us[i], s = 1 / (1 + exp(-g));
        double slope = fabs(s * (1 + g * (1 - s)));
        scale[i] = slope * fabs(u) * g_sum[i] + fabs(silu(g)) * (u_sum[i] + 10 * fabs(u));
        double du = r->unit * fabs(u) + oc_least(r->act); /* their rounding */
        double moves = silu_moves(g, r->unit * fabs(g) + oc_least(r->act));
        slack[i] = moves * (fabs(u) + du) + fabs(silu(g)) * du;
        if (g < -85) slack[i] += 1e-29 * (1 + fabs(u)); /* as silu_mul: exp's range */
        if (!oc_is_finite(gs[i]) || !oc_is_finite(us[i])) scale[i] = slack[i] = 0;
    }
    free(g_sum);
    free(u_sum);
}

static void gated_run(oc_run *r, int n, int in, int out, int v)
{
    static const oc_fill fill[] = {OC_RANDOM, OC_WIDE, OC_TIES, OC_RANDOM, OC_ZERO};
    sq_dtype t = oc_weight_type(r, (sq_dtype)(SQ_DTYPE_F32 + v % 4));
    if (t == SQ_DTYPE_Q8_0) in = (in + 31) / 32 * 32;
    if (!oc_begin(r, "linear_gated", "%dx%dx%d %s fill %s", n, in, out, dtype_name(t),
                  oc_fill_name(fill[v % 5])))
        return;
    r->fill_type = operand_type(r);
    oc_buf *x = oc_in(r, r->act, n, in, fill[v % 5]);
    oc_buf *gate = oc_stored(r, t, out, in, OC_RANDOM), *up = oc_stored(r, t, out, in, OC_RANDOM);
    r->fill_type = SQ_DTYPE_NONE;
    oc_buf *scratch = oc_spent(r, r->act, 2 * n, out, OC_RANDOM);
    oc_buf *y = oc_out(r, v % 5 == 3 ? SQ_DTYPE_F32 : r->act, n, out);
    if (v % 4 == 0 && n > 1) oc_values(x)[(n - 1) * in + in / 2] = NAN;
    if (v % 7 == 0 && t != SQ_DTYPE_Q8_0) oc_put(&up->host, (int64_t)out / 2 * in, NAN);
    oc_upload(r);
    r->ops.linear_gated(r->be, &y->dev, &x->dev, &gate->dev, &up->dev, &scratch->dev);
    r->ref.linear_gated(r->ref_be, &y->want, &x->host, &gate->host, &up->host, &scratch->want);
    const float *g = scratch->want.data;
    gated_limits(r, oc_scale(y), oc_slack(y), &x->host, &gate->host, &up->host, g,
                 g + (int64_t)n * out);
    oc_end(r);
}

void oc_check_linear_gated(oc_run *r)
{
    static const int n[] = {1, 2, 3, 4, 5, 7, 8, 9, 17, 84, 129}, in[] = {1, 8, 33, 64, 160, 257};
    static const int out[] = {1, 3, 8, 16, 33, 64, 130};
    int v = 0;
    for (size_t a = 0; a < sizeof n / sizeof *n; a++)
        for (size_t b = 0; b < sizeof in / sizeof *in; b++)
            for (size_t o = 0; o < sizeof out / sizeof *out; o++, v++)
                gated_run(r, n[a], in[b], out[o], v);
    gated_run(r, 1, 2048, 1100, 0);
    gated_run(r, 84, 1024, 515, 3);
    oc_check_gated_large(r);
}

/* ---- as large as an engine's ---- */

/* Weights repeat so many rows, a prime number: whatever is taken for a row of another block shows,
 * and the reference computes this many columns. */
enum { PERIOD = 61, LARGE = 3 }; /* LARGE: products at most */

static oc_buf *make_repeated(oc_run *r, int64_t out, int64_t in)
{
    oc_buf *w = oc_stored(r, r->act, out, in, OC_LATER);
    sq_tensor head = tensor_rows(&w->host, 0, PERIOD);
    oc_fill_tensor(r, &head, OC_RANDOM);
    size_t row = dtype_row_bytes(r->act, in);
    for (int64_t o = PERIOD; o < out; o++)
        memcpy((char *)w->host.data + (size_t)o * row,
               (char *)w->host.data + (size_t)(o % PERIOD) * row, row);
    return w;
}

/* y's reference and limits from those of the first columns. */
static void repeat_columns(oc_buf *y, const float *want, const double *scale, const double *slack)
{
    int64_t out = y->host.shape[1];
    double *to_scale = oc_scale(y), *to_slack = oc_slack(y);
    for (int64_t i = 0; i < tensor_count(&y->want); i++) {
        int64_t at = i / out * PERIOD + i % out % PERIOD;
        ((float *)y->want.data)[i] = want[at];
        to_scale[i] = scale[at];
        if (slack) to_slack[i] = slack[at];
    }
}

/* By the number of products. */
typedef enum large_kind { LARGE_LINEAR = 1, LARGE_GATED = 2, LARGE_MANY = 3 } large_kind;

static void large_run(oc_run *r, large_kind kind, int n, int in, int out)
{
    static const char *const slot[] = {"", "linear", "linear_gated", "linear_many"};
    const int count = (int)kind;
    const linear_desc plain = {SQ_ACT_NONE, false};
    if (oc_costs_too_much(r, (double)count * (n < 4 ? 4 : n) * in * out)) return;
    oc_align_next(r);
    if (!oc_begin(r, slot[kind], "%d of %dx%dx%d repeated", count, n, in, out)) return;
    oc_buf *w[LARGE], *y[LARGE], *x, *scratch = NULL;
    sq_tensor head[LARGE], small[LARGE], *yd[LARGE];
    const sq_tensor *wd[LARGE], *const none[LARGE] = {NULL};
    int64_t n_small = (int64_t)n * PERIOD;
    r->fill_type = r->act;
    x = oc_in(r, r->act, n, in, OC_RANDOM);
    for (int i = 0; i < count; i++) {
        w[i] = make_repeated(r, out, in);
        head[i] = tensor_rows(&w[i]->host, 0, PERIOD);
        small[i] = tensor_2d(oc_alloc((size_t)n_small * sizeof(float)), SQ_DTYPE_F32, n, PERIOD);
        if (i == 0 || kind == LARGE_MANY)
            y[i] = oc_out(r, kind == LARGE_LINEAR ? SQ_DTYPE_F32 : r->act, n, out);
        wd[i] = &w[i]->dev, yd[i] = &y[kind == LARGE_MANY ? i : 0]->dev;
    }
    r->fill_type = SQ_DTYPE_NONE;
    if (kind == LARGE_GATED) scratch = oc_spent(r, r->act, 2 * n, out, OC_ZERO);
    oc_upload(r);
    if (kind == LARGE_LINEAR) r->ops.linear(r->be, yd[0], &x->dev, wd[0], NULL, &plain);
    if (kind == LARGE_GATED)
        r->ops.linear_gated(r->be, yd[0], &x->dev, wd[0], wd[1], &scratch->dev);
    if (kind == LARGE_MANY) r->ops.linear_many(r->be, yd, &x->dev, wd, none, count);
    double *scale = oc_alloc((size_t)n_small * 2 * sizeof *scale);
    for (int i = 0; i < count; i++) {
        r->ref.linear(r->ref_be, &small[i], &x->host, &head[i], NULL, &plain);
        if (kind == LARGE_GATED) continue;
        product_scale(r, scale, &x->host, &head[i], 0);
        repeat_columns(y[i], small[i].data, scale, NULL);
    }
    if (kind == LARGE_GATED) {
        gated_limits(r, scale, scale + n_small, &x->host, &head[0], &head[1], small[0].data,
                     small[1].data);
        r->ref.silu_mul(r->ref_be, &small[0], &small[0], &small[1]);
        repeat_columns(y[0], small[0].data, scale, scale + n_small);
    }
    oc_end(r);
    free(scale);
    for (int i = 0; i < count; i++)
        free(small[i].data);
}

/* A block of a device takes one tile of 16 columns, or of 8 pairs of them, after another where
 * there are more than 264. */
void oc_check_linear_large(oc_run *r)
{
    if (!r->be->resident) return;
    large_run(r, LARGE_LINEAR, 5, 256, 8209);
    large_run(r, LARGE_LINEAR, 1, 4096, 32064);
    large_run(r, LARGE_LINEAR, 8, 4096, 32064);
    large_run(r, LARGE_LINEAR, 1, 896, 151936);
}

void oc_check_many_large(oc_run *r)
{
    if (!r->be->resident) return;
    large_run(r, LARGE_MANY, 5, 256, 2053);
    large_run(r, LARGE_MANY, 1, 4096, 4096);
    large_run(r, LARGE_MANY, 5, 4096, 4096);
    large_run(r, LARGE_MANY, 577, 4096, 4096);
}

void oc_check_gated_large(oc_run *r)
{
    if (!r->be->resident) return;
    large_run(r, LARGE_GATED, 5, 256, 4099);
    large_run(r, LARGE_GATED, 1, 4096, 11008);
    large_run(r, LARGE_GATED, 5, 4096, 11008);
    large_run(r, LARGE_GATED, 8, 4096, 11008);
}
