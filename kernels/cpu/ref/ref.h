/* The reference of every slot; contracts in kernels/ops.h. Sums in double. */
#ifndef SQ_REF_H
#define SQ_REF_H

#include "kernels/ops.h"

void patchify_ref(sq_backend *be, sq_tensor *y, const sq_tensor *x, int patch);
void embed_ref(sq_backend *be, sq_tensor *y, const sq_tensor *w, const int32_t *ids, int n);
void layer_norm_ref(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                    const sq_tensor *b, float eps);
void rms_norm_ref(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w, float eps);
void rope_ref(sq_backend *be, sq_tensor *x, const int32_t *pos, const rope_desc *d);
void kv_append_ref(sq_backend *be, sq_tensor *cache, const sq_tensor *x, int at);
void attn_ref(sq_backend *be, sq_tensor *out, const sq_tensor *q, const sq_tensor *k,
              const sq_tensor *v, const attn_desc *d);
void attn_rows_ref(sq_backend *be, sq_tensor *score, const sq_tensor *q, const sq_tensor *k,
                   const int32_t *row, int n_row, bool logits, const attn_desc *d);
void attn_means_ref(sq_backend *be, sq_tensor *received, sq_tensor *given, const sq_tensor *q,
                    const sq_tensor *k, int first, bool logits, const attn_desc *d);
void silu_mul_ref(sq_backend *be, sq_tensor *y, const sq_tensor *gate, const sq_tensor *up);
void activate_ref(sq_backend *be, sq_tensor *y, const sq_tensor *x, sq_act act);
void add_ref(sq_backend *be, sq_tensor *y, const sq_tensor *x);
void select_rows_ref(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sparse_rows *m);

/* act(x) of one value in double. */
double act_ref(double x, sq_act act);

#endif
