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

#endif
