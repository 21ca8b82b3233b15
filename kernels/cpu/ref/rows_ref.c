/* Reference of the slots that move or combine rows. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/ref/ref.h"

#include <math.h>
#include <string.h>

void patchify_ref(sq_backend *be, sq_tensor *y, const sq_tensor *x, int patch)
{
    (void)be;
    int64_t side = x->shape[2], grid = side / patch;
    const float *from = x->data;
    float *to = y->data;
    for (int64_t gy = 0; gy < grid; gy++)
        for (int64_t gx = 0; gx < grid; gx++)
            for (int64_t c = 0; c < 3; c++)
                for (int64_t r = 0; r < patch; r++) {
                    const float *line = from + (c * side + gy * patch + r) * side + gx * patch;
                    memcpy(to, line, (size_t)patch * sizeof *to);
                    to += patch;
                }
}

void embed_ref(sq_backend *be, sq_tensor *y, const sq_tensor *w, const int32_t *ids, int n)
{
    (void)be;
    int64_t dim = w->shape[1];
    size_t row = dtype_row_bytes(w->dtype, dim);
    for (int i = 0; i < n; i++)
        convert_to_f32((float *)y->data + i * dim, (const char *)w->data + (size_t)ids[i] * row,
                       w->dtype, dim);
}

void kv_append_ref(sq_backend *be, sq_tensor *cache, const sq_tensor *x, int at)
{
    (void)be;
    int64_t n = x->shape[0] * x->shape[1];
    size_t row = dtype_row_bytes(cache->dtype, cache->shape[1]);
    convert_from_f32((char *)cache->data + (size_t)at * row, cache->dtype, x->data, n);
}

void add_ref(sq_backend *be, sq_tensor *y, const sq_tensor *x)
{
    (void)be;
    float *to = y->data;
    const float *from = x->data;
    int64_t n = tensor_count(x);
    for (int64_t i = 0; i < n; i++)
        to[i] += from[i];
}

void select_rows_ref(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sparse_rows *m)
{
    (void)be;
    int64_t dim = x->shape[1];
    const float *from = x->data;
    for (int r = 0; r < m->n_out; r++)
        for (int64_t c = 0; c < dim; c++) {
            double sum = 0;
            for (int32_t e = m->start[r]; e < m->start[r + 1]; e++)
                sum += (double)m->weight[e] * (double)from[m->index[e] * dim + c];
            ((float *)y->data)[r * dim + c] = (float)sum;
        }
}

void rope_ref(sq_backend *be, sq_tensor *x, const int32_t *pos, const rope_desc *d)
{
    (void)be;
    int half = d->head_dim / 2;
    for (int64_t i = 0; i < x->shape[0]; i++)
        for (int h = 0; h < d->n_head; h++) {
            float *v = (float *)x->data + (i * d->n_head + h) * d->head_dim;
            for (int c = 0; c < half; c++) {
                /* the angle is rounded to f32 as in transformers; the rest is exact */
                float angle = (float)pos[i] * d->inv_freq[c];
                double cosine = cos((double)angle) * (double)d->mscale;
                double sine = sin((double)angle) * (double)d->mscale;
                float *a = v + (d->interleaved ? 2 * c : c);
                float *b = v + (d->interleaved ? 2 * c + 1 : c + half);
                double x0 = *a, x1 = *b;
                *a = (float)(x0 * cosine - x1 * sine);
                *b = (float)(x1 * cosine + x0 * sine);
            }
        }
}

void linear_ref(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                const sq_tensor *b, const linear_desc *d)
{
    int64_t n = x->shape[0], in = w->shape[1], out = w->shape[0];
    size_t row = dtype_row_bytes(w->dtype, in);
    arena mem = {0};
    float *wr = arena_alloc(&mem, (size_t)in * sizeof *wr);
    if (!wr) {
        error_set(&be->err, SQ_E_NOMEM, "linear: out of memory");
        return;
    }
    for (int64_t o = 0; o < out; o++) {
        float bias = 0;
        if (b && b->data)
            convert_to_f32(&bias, (const char *)b->data + (size_t)o * dtype_row_bytes(b->dtype, 1),
                           b->dtype, 1);
        convert_to_f32(wr, (const char *)w->data + (size_t)o * row, w->dtype, in);
        for (int64_t i = 0; i < n; i++) {
            const float *xi = (const float *)x->data + i * in;
            float *yi = (float *)y->data + i * out + o;
            double sum = bias;
            for (int64_t c = 0; c < in; c++)
                sum += (double)xi[c] * (double)wr[c];
            *yi = d->add ? (float)((double)*yi + sum) : (float)act_ref(sum, d->act);
        }
    }
    arena_close(&mem);
}
