/* mlp2x_gelu projector: features -> decoder embeddings, each token alone. */
#ifndef SQ_PROJECTOR_H
#define SQ_PROJECTOR_H

#include "core/arena.h"
#include "kernels/backend.h"

typedef struct projector_model {
    int in_dim, mid_dim, out_dim;
    sq_act act;                     /* projector_hidden_act */
    sq_tensor fc1_w, fc1_b, fc2_w, fc2_b; /* [mid,in], [out,mid]; biases may be absent */
    sq_tensor newline;              /* image_newline [out_dim], absent in LLaVA-1.5 */
} projector_model;

/* y[n,out_dim] = fc2(act(fc1(x[n,in_dim]))); x, y f32 or be->act, y allocated by
 * the caller. */
int projector_forward(sq_backend *be, const projector_model *m, sq_tensor *y, const sq_tensor *x,
                      arena *dev, sq_error *err);

#endif
