/* The reference of every slot; contracts in kernels/ops.h. Sums in double. Slots that are made of
 * others (linear_many, linear_gated, attn_step) call be's own: a fast backend may keep them. */
#ifndef SQ_REF_H
#define SQ_REF_H

#include "kernels/ops.h"

void patchify_ref(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *level,
                  int patch);
void embed_ref(sq_backend *be, sq_tensor *y, const sq_tensor *w, const sq_tensor *ids);
void linear_many_ref(sq_backend *be, sq_tensor *const y[], const sq_tensor *x,
                     const sq_tensor *const w[], const sq_tensor *const b[], int n);
void linear_gated_ref(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *gate,
                      const sq_tensor *up, sq_tensor *scratch);
void layer_norm_ref(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                    const sq_tensor *b, float eps);
void rms_norm_ref(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w, float eps);
void rope_append_ref(sq_backend *be, sq_tensor *q, sq_tensor *k, const sq_tensor *v,
                     sq_tensor *cache_k, sq_tensor *cache_v, int at, const sq_tensor *pos,
                     const rope_desc *d);
void attn_ref(sq_backend *be, sq_tensor *out, const sq_tensor *q, const sq_tensor *k,
              const sq_tensor *v, const attn_desc *d);
void attn_step_ref(sq_backend *be, sq_tensor *out, sq_tensor *q, sq_tensor *k, const sq_tensor *v,
                   const kv_step *s, const rope_desc *r, const attn_desc *d);
void attn_rows_ref(sq_backend *be, sq_tensor *score, const sq_tensor *q, const sq_tensor *k,
                   const int32_t *row, int n_row, bool logits, const attn_desc *d);
void attn_means_ref(sq_backend *be, sq_tensor *received, sq_tensor *given, const sq_tensor *q,
                    const sq_tensor *k, int first, bool logits, const attn_desc *d);
void silu_mul_ref(sq_backend *be, sq_tensor *y, const sq_tensor *gate, const sq_tensor *up);
void activate_ref(sq_backend *be, sq_tensor *y, const sq_tensor *x, sq_act act);
void add_ref(sq_backend *be, sq_tensor *y, const sq_tensor *x);
void select_rows_ref(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sparse_rows *m);
void argmax_ref(sq_backend *be, sq_tensor *best, sq_tensor *gap, const sq_tensor *x);

/* act(x) of one value in double. */
double act_ref(double x, sq_act act);

/* to[n/4][dim][4]: four rows of x side by side, `stride` values apart in x; past the last row that
 * one again. */
static inline void pack_rows(double *to, const float *x, int64_t stride, int64_t n, int64_t dim)
{
    for (int64_t i = 0; i < (n + 3) / 4 * 4; i++) {
        const float *row = x + (i < n ? i : n - 1) * stride;
        for (int64_t c = 0; c < dim; c++)
            to[(i / 4 * dim + c) * 4 + i % 4] = (double)row[c];
    }
}

/* sum[e] += x[0][e] w[0] + x[1][e] w[1] + ... in this order. One sum alone would wait for every
 * addition; four of them run side by side. */
static inline void add_products(double sum[4], const double (*x)[4], const float *w, int64_t dim)
{
    double s[4] = {sum[0], sum[1], sum[2], sum[3]};
    for (int64_t c = 0; c < dim; c++)
        for (int e = 0; e < 4; e++)
            s[e] += x[c][e] * (double)w[c];
    for (int e = 0; e < 4; e++)
        sum[e] = s[e];
}

#endif
