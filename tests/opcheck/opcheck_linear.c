/* Cases of the linear slot: sizes on both sides of every tile, slice and row bucket; weight types,
 * activations, biases and fills rotate through them. */
#include "opcheck.h"

#include <math.h>
#include <stdlib.h>

typedef struct linear_case {
    int n, in, out;
    sq_dtype type, bias; /* bias NONE: none */
    linear_desc d;
    oc_fill fill;
    bool raw;       /* bf16 compute: operands that bf16 must round */
    int nan, inf;   /* rows of x with one such value; 0: none */
    int nan_column; /* weight row with a NaN; 0: none */
} linear_case;

/* f32 sums of k products in any order: |error| <= eps (8 + sqrt k) sum|x w|; the activations'
 * slopes stay below 1.13 and their own error below a few eps. */
static void linear_scale(const oc_run *r, oc_buf *y, const oc_buf *x, const oc_buf *w,
                         const linear_case *c)
{
    /* With bf16 compute oneDNN applies its own approximations: gelu_tanh is up to 4e-6 off. */
    double act_error = r->bf16 && c->d.act ? 1e-5 / r->tol->max : 0;
    double *scale = oc_scale(y), slope = c->d.act ? 1.3 : 1;
    float *row = oc_alloc((size_t)c->in * sizeof *row);
    size_t stride = dtype_row_bytes(c->type, c->in);
    for (int o = 0; o < c->out; o++) {
        convert_to_f32(row, (const char *)w->host.data + (size_t)o * stride, c->type, c->in);
        for (int i = 0; i < c->n; i++) {
            const float *xi = oc_values(x) + (size_t)i * (size_t)c->in;
            double sum = 2; /* the bias and what y held */
            for (int k = 0; k < c->in; k++)
                sum += fabs((double)xi[k] * (double)row[k]);
            if (c->fill == OC_TINY && !c->bias && !c->d.add) sum -= 2;
            scale[(size_t)i * (size_t)c->out + (size_t)o] =
                act_error + slope * (8 + sqrt(c->in)) * sum;
        }
    }
    free(row);
}

static void round_all(float *dst, const void *src, sq_dtype t, int rows, int cols)
{
    for (int i = 0; i < rows; i++) {
        size_t stride = dtype_row_bytes(t, cols);
        convert_to_f32(dst + (size_t)i * (size_t)cols, (const char *)src + (size_t)i * stride, t,
                       cols);
    }
    for (int64_t i = 0; i < (int64_t)rows * cols; i++)
        dst[i] = bf16_to_f32(f32_to_bf16(dst[i]));
}

/* What bf16 compute gives: operands rounded to bf16, the rest as in the reference. */
static float *rounded_result(oc_run *r, const linear_case *c, const oc_buf *y, const oc_buf *x,
                             const oc_buf *w, const sq_tensor *b)
{
    size_t n_x = (size_t)c->n * (size_t)c->in, n_w = (size_t)c->out * (size_t)c->in;
    float *xr = oc_alloc(n_x * sizeof *xr), *wr = oc_alloc(n_w * sizeof *wr);
    float *out = oc_alloc((size_t)c->n * (size_t)c->out * sizeof *out);
    round_all(xr, x->host.data, SQ_DTYPE_F32, c->n, c->in);
    round_all(wr, w->host.data, c->type, c->out, c->in);
    for (int64_t i = 0; i < (int64_t)c->n * c->out; i++)
        out[i] = oc_values(y)[i];
    sq_tensor xt = tensor_2d(xr, SQ_DTYPE_F32, c->n, c->in);
    sq_tensor wt = tensor_2d(wr, SQ_DTYPE_F32, c->out, c->in);
    sq_tensor yt = tensor_2d(out, SQ_DTYPE_F32, c->n, c->out);
    r->ref.linear(r->ref_be, &yt, &xt, &wt, b, &c->d);
    free(xr);
    free(wr);
    return out;
}

static void put_weight_nan(const oc_buf *w, const linear_case *c)
{
    size_t at = ((size_t)c->nan_column * (size_t)c->in + (size_t)c->in / 2);
    float nan = NAN;
    size_t item = dtype_row_bytes(c->type, 1);
    convert_from_f32((char *)w->host.data + at * item, c->type, &nan, 1);
}

static void run_case(oc_run *r, const linear_case *c)
{
    if (!oc_begin(r, "linear", "%dx%dx%d %s bias %s act %d add %d fill %s%s%s", c->n, c->in, c->out,
                  dtype_name(c->type), dtype_name(c->bias), c->d.act, c->d.add,
                  oc_fill_name(c->fill), c->raw ? " raw" : "", c->nan ? " NaN" : ""))
        return;
    r->fill_bf16 = r->bf16 && !c->raw;
    oc_buf *x = oc_in(r, SQ_DTYPE_F32, c->n, c->in, c->fill);
    oc_buf *w = oc_stored(r, c->type, c->out, c->in, OC_RANDOM);
    r->fill_bf16 = false;
    oc_buf *b = c->bias ? oc_stored(r, c->bias, 1, c->out, OC_RANDOM) : NULL;
    oc_buf *y =
        c->d.add ? oc_inout(r, SQ_DTYPE_F32, c->n, c->out, OC_RANDOM) : oc_out(r, c->n, c->out);
    if (c->nan) oc_values(x)[c->nan * c->in + c->in / 3] = NAN;
    if (c->inf) oc_values(x)[c->inf * c->in + c->in - 1] = INFINITY;
    if (c->nan_column) put_weight_nan(w, c);
    linear_scale(r, y, x, w, c);
    oc_upload(r);
    sq_tensor bias = b ? oc_vector(&b->dev) : oc_none(),
              host_bias = b ? oc_vector(&b->host) : oc_none();
    r->ops.linear(r->be, &y->dev, &x->dev, &w->dev, b ? &bias : NULL, &c->d);
    r->ref.linear(r->ref_be, &y->want, &x->host, &w->host, &host_bias, &c->d);
    float *rounded = NULL;
    if (r->bf16 && (c->raw || c->type == SQ_DTYPE_Q8_0))
        rounded = rounded_result(r, c, y, x, w, &host_bias);
    oc_end_either(r, y, rounded);
    free(rounded);
}

static const oc_fill fills[] = {OC_RANDOM, OC_WIDE,   OC_RANDOM, OC_TIES,    OC_TINY,  OC_RANDOM,
                                OC_HUGE,   OC_RANDOM, OC_ZERO,   OC_ONE_PER, OC_RANDOM};
enum { N_FILL = sizeof fills / sizeof *fills };

static void check_sizes(oc_run *r)
{
    static const int n[] = {1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 17, 24, 25, 63, 65, 145};
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
                run_case(r, &c);
            }
}

static void check_non_finite(oc_run *r)
{
    static const int n[] = {3, 9, 30, 145};
    for (int t = SQ_DTYPE_F32; t <= SQ_DTYPE_Q8_0; t++)
        for (int a = 0; a < 4; a++) {
            linear_case c = {
                .n = n[a], .in = 96, .out = 67, .type = (sq_dtype)t, .nan = 1, .inf = 2};
            run_case(r, &c);
            c.nan = n[a] - 1;
            c.inf = 0;
            c.d.add = true;
            run_case(r, &c);
            c = (linear_case){
                .n = n[a], .in = 65, .out = 67, .type = (sq_dtype)t, .nan_column = 33};
            if (t != SQ_DTYPE_Q8_0) run_case(r, &c);
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
    check_non_finite(r);
    check_sizes(r);
    for (size_t i = 0; i < sizeof large / sizeof *large; i++)
        run_case(r, &large[i]);
}
