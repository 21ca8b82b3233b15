/* Reference of the norms and activations, and the table of all references. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/ref/ref.h"

#include <math.h>

static double param_at(const sq_tensor *t, int64_t i)
{
    float f;
    convert_to_f32(&f, (const char *)t->data + (size_t)i * dtype_row_bytes(t->dtype, 1), t->dtype,
                   1);
    return f;
}

void layer_norm_ref(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                    const sq_tensor *b, float eps)
{
    (void)be;
    int64_t dim = x->shape[1];
    for (int64_t i = 0; i < x->shape[0]; i++) {
        const float *from = (const float *)x->data + i * dim;
        float *to = (float *)y->data + i * dim;
        double mean = 0, var = 0;
        for (int64_t c = 0; c < dim; c++)
            mean += from[c];
        mean /= (double)dim;
        for (int64_t c = 0; c < dim; c++)
            var += (from[c] - mean) * (from[c] - mean);
        double inv = 1.0 / sqrt(var / (double)dim + (double)eps);
        for (int64_t c = 0; c < dim; c++)
            to[c] = (float)((from[c] - mean) * inv * param_at(w, c) + param_at(b, c));
    }
}

void rms_norm_ref(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w, float eps)
{
    (void)be;
    int64_t dim = x->shape[1];
    for (int64_t i = 0; i < x->shape[0]; i++) {
        const float *from = (const float *)x->data + i * dim;
        float *to = (float *)y->data + i * dim;
        double sum = 0;
        for (int64_t c = 0; c < dim; c++)
            sum += (double)from[c] * (double)from[c];
        double inv = 1.0 / sqrt(sum / (double)dim + (double)eps);
        for (int64_t c = 0; c < dim; c++)
            to[c] = (float)(from[c] * inv * param_at(w, c));
    }
}

double act_ref(double x, sq_act act)
{
    switch (act) {
    case SQ_ACT_GELU: return 0.5 * x * (1.0 + erf(x * 0.70710678118654752440));
    case SQ_ACT_GELU_TANH:
        return 0.5 * x * (1.0 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
    case SQ_ACT_QUICK_GELU: return x / (1.0 + exp(-1.702 * x));
    case SQ_ACT_SILU: return x / (1.0 + exp(-x));
    default: return x;
    }
}

void activate_ref(sq_backend *be, sq_tensor *y, const sq_tensor *x, sq_act act)
{
    (void)be;
    int64_t n = tensor_count(x);
    for (int64_t i = 0; i < n; i++)
        ((float *)y->data)[i] = (float)act_ref(((const float *)x->data)[i], act);
}

void silu_mul_ref(sq_backend *be, sq_tensor *y, const sq_tensor *gate, const sq_tensor *up)
{
    (void)be;
    int64_t n = tensor_count(gate);
    for (int64_t i = 0; i < n; i++)
        ((float *)y->data)[i] = (float)(act_ref(((const float *)gate->data)[i], SQ_ACT_SILU) *
                                        (double)((const float *)up->data)[i]);
}

void ops_init_ref(sq_ops *ops)
{
    *ops = (sq_ops){.patchify = patchify_ref,
                    .embed = embed_ref,
                    .linear = linear_ref,
                    .linear_many = linear_many_ref,
                    .linear_gated = linear_gated_ref,
                    .layer_norm = layer_norm_ref,
                    .rms_norm = rms_norm_ref,
                    .rope_append = rope_append_ref,
                    .attn = attn_ref,
                    .attn_step = attn_step_ref,
                    .attn_rows = attn_rows_ref,
                    .attn_means = attn_means_ref,
                    .silu_mul = silu_mul_ref,
                    .activate = activate_ref,
                    .add = add_ref,
                    .select_rows = select_rows_ref,
                    .argmax = argmax_ref};
}
