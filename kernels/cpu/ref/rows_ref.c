/* Reference of the slots that move or combine rows. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/ref/ref.h"

#include <math.h>
#include <string.h>

/* `patch` values of one channel from pixel (row, col) on. */
static void patch_line(float *to, const sq_tensor *x, const sq_tensor *level, int64_t view,
                       int64_t c, int64_t row, int64_t col, int patch)
{
    int64_t side = x->shape[2];
    if (x->dtype == SQ_DTYPE_U8) {
        const uint8_t *from = (const uint8_t *)x->data + ((view * side + row) * side + col) * 3 + c;
        const float *value = (const float *)level->data + c * 256;
        for (int i = 0; i < patch; i++)
            to[i] = value[from[3 * i]];
        return;
    }
    const float *from = (const float *)x->data + ((view * 3 + c) * side + row) * side + col;
    memcpy(to, from, (size_t)patch * sizeof *to);
}

void patchify_ref(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *level,
                  int patch)
{
    (void)be;
    int64_t grid = x->shape[2] / patch, rest = y->shape[1] - 3 * patch * patch;
    float *to = y->data;
    for (int64_t view = 0; view < x->shape[0]; view++)
        for (int64_t g = 0; g < grid * grid; g++) {
            for (int64_t c = 0; c < 3; c++)
                for (int64_t r = 0; r < patch; r++, to += patch)
                    patch_line(to, x, level, view, c, g / grid * patch + r, g % grid * patch,
                               patch);
            for (int64_t i = 0; i < rest; i++)
                *to++ = 0;
        }
}

void embed_ref(sq_backend *be, sq_tensor *y, const sq_tensor *w, const sq_tensor *ids)
{
    (void)be;
    int64_t dim = w->shape[1];
    const int32_t *id = ids->data;
    size_t row = dtype_row_bytes(w->dtype, dim);
    for (int64_t i = 0; i < ids->shape[0]; i++)
        convert_to_f32((float *)y->data + i * dim, (const char *)w->data + (size_t)id[i] * row,
                       w->dtype, dim);
}

void add_ref(sq_backend *be, sq_tensor *y, const sq_tensor *x)
{
    (void)be;
    float *to = y->data;
    const float *from = x->data;
    int64_t n = tensor_count(y), period = tensor_count(x); /* whole rows of x, again and again */
    for (int64_t i = 0; i < n; i++)
        to[i] += from[i % period];
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

static void rope_rows(const sq_tensor *x, int n_head, const int32_t *pos, const rope_desc *d)
{
    int half = d->head_dim / 2;
    for (int64_t i = 0; i < x->shape[0]; i++)
        for (int h = 0; h < n_head; h++) {
            float *v = (float *)x->data + (i * n_head + h) * d->head_dim;
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

static void cache_rows(const sq_tensor *cache, const sq_tensor *x, int at)
{
    size_t row = dtype_row_bytes(cache->dtype, cache->shape[1]);
    convert_from_f32((char *)cache->data + (size_t)at * row, cache->dtype, x->data,
                     tensor_count(x));
}

void rope_append_ref(sq_backend *be, sq_tensor *q, sq_tensor *k, const sq_tensor *v,
                     sq_tensor *cache_k, sq_tensor *cache_v, int at, const sq_tensor *pos,
                     const rope_desc *d)
{
    (void)be;
    const int32_t *p = pos->data;
    rope_rows(q, d->n_head, p + k->shape[0] - q->shape[0], d);
    rope_rows(k, d->n_head_kv, p, d);
    cache_rows(cache_k, k, at);
    cache_rows(cache_v, v, at);
}

/* The products of a few rows; x4 and wr are scratch. */
static void linear_rows(const sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                        const sq_tensor *b, const linear_desc *d, double *x4, float *wr)
{
    int64_t n = x->shape[0], in = w->shape[1], out = w->shape[0];
    size_t row = dtype_row_bytes(w->dtype, in);
    pack_rows(x4, x->data, in, n, in);
    for (int64_t o = 0; o < out; o++) {
        float bias = 0;
        if (b && b->data)
            convert_to_f32(&bias, (const char *)b->data + (size_t)o * dtype_row_bytes(b->dtype, 1),
                           b->dtype, 1);
        convert_to_f32(wr, (const char *)w->data + (size_t)o * row, w->dtype, in);
        for (int64_t i = 0; i < n; i += 4) {
            double sum[] = {bias, bias, bias, bias};
            add_products(sum, (const double(*)[4])(x4 + i * in), wr, in);
            for (int64_t e = 0; e < 4 && i + e < n; e++) {
                float *yi = (float *)y->data + (i + e) * out + o;
                *yi = d->add ? (float)((double)*yi + sum[e]) : (float)act_ref(sum[e], d->act);
            }
        }
    }
}

void linear_ref(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                const sq_tensor *b, const linear_desc *d)
{
    enum { ROWS = 64 }; /* they stay in a cache while all weights go by */
    int64_t n = x->shape[0], in = w->shape[1];
    arena mem = {0};
    double *x4 = arena_alloc(&mem, (size_t)(ROWS * in) * sizeof *x4);
    float *wr = arena_alloc(&mem, (size_t)in * sizeof *wr);
    if (!x4 || !wr) error_set(&be->err, SQ_E_NOMEM, "linear: out of memory");
    for (int64_t i = 0; x4 && wr && i < n; i += ROWS) {
        int64_t count = n - i < ROWS ? n - i : ROWS;
        sq_tensor ys = tensor_rows(y, i, count), xs = tensor_rows(x, i, count);
        linear_rows(&ys, &xs, w, b, d, x4, wr);
    }
    arena_close(&mem);
}

void linear_many_ref(sq_backend *be, sq_tensor *const y[], const sq_tensor *x,
                     const sq_tensor *const w[], const sq_tensor *const b[], int n)
{
    linear_desc d = {SQ_ACT_NONE, false};
    for (int i = 0; i < n; i++)
        be->ops.linear(be, y[i], x, w[i], b[i], &d);
}

void linear_gated_ref(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *gate,
                      const sq_tensor *up, sq_tensor *scratch)
{
    int64_t n = x->shape[0];
    linear_desc d = {SQ_ACT_NONE, false};
    sq_tensor g = tensor_rows(scratch, 0, n), u = tensor_rows(scratch, n, n);
    be->ops.linear(be, &g, x, gate, NULL, &d);
    be->ops.linear(be, &u, x, up, NULL, &d);
    be->ops.silu_mul(be, y, &g, &u);
}

/* Index of the largest of row[n], -1 with NaN in it; *gap is its distance from the next. */
static int32_t row_best(const float *row, int64_t n, float *gap)
{
    int64_t best = 0;
    float next = -INFINITY;
    bool nan = row[0] != row[0];
    for (int64_t i = 1; i < n; i++) {
        nan = nan || row[i] != row[i];
        if (row[i] > row[best]) {
            next = row[best];
            best = i;
        } else if (row[i] > next) {
            next = row[i];
        }
    }
    *gap = nan ? NAN : n == 1 ? INFINITY : row[best] == next ? 0 : row[best] - next;
    return nan ? -1 : (int32_t)best;
}

void argmax_ref(sq_backend *be, sq_tensor *best, sq_tensor *gap, const sq_tensor *x)
{
    (void)be;
    int64_t dim = x->shape[1];
    for (int64_t i = 0; i < x->shape[0]; i++)
        ((int32_t *)best->data)[i] =
            row_best((const float *)x->data + i * dim, dim, (float *)gap->data + i);
}
