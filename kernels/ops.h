/* The op table: what every backend must compute. One line of formula, shapes and aliasing a slot.
 *
 * Activations are f32, row-major; weights may be F32, F16, BF16 or Q8_0 where it says `w`.
 * Shapes are the callers' duty: they were checked when the weights were bound. An op that fails
 * (out of memory) records it in the backend's sticky error and returns; callers check once a layer
 * with backend_error. Outputs never alias inputs unless the slot says so. Slot order is that of
 * the pipeline. The truth is kernels/cpu/ref: plain C, sums in double. */
#ifndef SQ_OPS_H
#define SQ_OPS_H

#include "core/tensor.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct sq_backend sq_backend;

typedef enum sq_act {
    SQ_ACT_NONE,
    SQ_ACT_GELU,       /* x * Phi(x), exact erf form (transformers "gelu") */
    SQ_ACT_GELU_TANH,  /* tanh form ("gelu_pytorch_tanh", "gelu_new") */
    SQ_ACT_QUICK_GELU, /* x * sigmoid(1.702 x) */
    SQ_ACT_SILU        /* x * sigmoid(x) */
} sq_act;

/* y = act(x w^T + b), or y += x w^T + b when add is set (act must then be NONE). */
typedef struct linear_desc {
    sq_act act;
    bool add;
} linear_desc;

/* Attention of one sequence, shared by the ViT (causal = false) and the decoder. */
typedef struct attn_desc {
    int n_q, n_kv;         /* tokens */
    int n_head, n_head_kv; /* n_head % n_head_kv == 0 */
    int head_dim;          /* multiple of 8: 64 72 80 128 are tested */
    bool causal;           /* query i sees the keys 0 .. q_pos0 + i */
    int q_pos0;            /* index in k of the first query's own key */
    int window;            /* > 0: query i sees only the last `window` of those keys (Mistral) */
    float scale;           /* usually 1 / sqrt(head_dim) */
} attn_desc;

/* RoPE: pair (a, b) -> (a cos - b sin, b cos + a sin) with angle pos * inv_freq[i]. */
typedef struct rope_desc {
    int n_head, head_dim;
    bool interleaved;      /* pairs (2i, 2i+1), as GGUF stores q and k; else (i, i + head_dim/2) */
    const float *inv_freq; /* [head_dim/2], scaling already applied; host memory */
    float mscale;          /* factor on cos and sin, 1 for LLaMA */
} rope_desc;

/* Output row r = sum over e in [start[r], start[r+1]) of weight[e] * input row index[e].
 * Keeping a token is one entry of weight 1; merging is several. Host memory. */
typedef struct sparse_rows {
    int n_out;
    const int32_t *start; /* [n_out + 1] */
    const int32_t *index;
    const float *weight;
} sparse_rows;

typedef struct sq_ops {
    /* y[n_patch, 3*p*p] = patches of x[3,side,side]: row-major over patches; within a row channel,
     * then row, then column, as a convolution kernel [out,3,p,p] is laid out. p divides side. */
    void (*patchify)(sq_backend *be, sq_tensor *y, const sq_tensor *x, int patch);

    /* y[n,dim] = rows ids[i] of the table w[n_vocab,dim], as f32; ids in host memory, valid. */
    void (*embed)(sq_backend *be, sq_tensor *y, const sq_tensor *w, const int32_t *ids, int n);

    /* y[n,out] = act(x[n,in] w[out,in]^T + b[out]); b may be NULL or absent; f32 or any w type. */
    void (*linear)(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                   const sq_tensor *b, const linear_desc *d);

    /* y = (x - mean) / sqrt(var + eps) * w + b, each row of x[n,dim]; w, b any float type.
     * y may be x. */
    void (*layer_norm)(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                       const sq_tensor *b, float eps);

    /* y = x / sqrt(mean(x^2) + eps) * w, each row of x[n,dim]. y may be x. */
    void (*rms_norm)(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                     float eps);

    /* x[n,n_head*head_dim] rotated in place; pos[n] in host memory. */
    void (*rope)(sq_backend *be, sq_tensor *x, const int32_t *pos, const rope_desc *d);

    /* cache[at .. at+n, dim] = x[n,dim]; cache f32 or f16. */
    void (*kv_append)(sq_backend *be, sq_tensor *cache, const sq_tensor *x, int at);

    /* out[n_q,n_head*head_dim] = softmax(scale * q k^T + mask) v, softmax sums in f32.
     * q[n_q,n_head*head_dim] f32; k, v [n_kv,n_head_kv*head_dim] f32 or f16. */
    void (*attn)(sq_backend *be, sq_tensor *out, const sq_tensor *q, const sq_tensor *k,
                 const sq_tensor *v, const attn_desc *d);

    /* score[n_row,n_head,n_kv] for the queries row[n_row] (host indices into q): softmax rows that
     * sum to 1, or scale * q k^T when logits is set. Kept apart from attn so that the fast kernel
     * never stores its matrix. k f32. */
    void (*attn_rows)(sq_backend *be, sq_tensor *score, const sq_tensor *q, const sq_tensor *k,
                      const int32_t *row, int n_row, bool logits, const attn_desc *d);

    /* With P the softmax matrix (or scale * q k^T when logits is set), averaged over heads, and
     * tokens below `first` left out of both axes without renormalising:
     * received[j] = mean_i P[i,j], given[i] = mean_j P[i,j], i, j in [first, n). The matrix is
     * streamed, not stored. received, given [n - first]; needs n_q == n_kv, not causal. */
    void (*attn_means)(sq_backend *be, sq_tensor *received, sq_tensor *given, const sq_tensor *q,
                       const sq_tensor *k, int first, bool logits, const attn_desc *d);

    /* y = silu(gate) * up, all [n,dim]. y may be gate or up. */
    void (*silu_mul)(sq_backend *be, sq_tensor *y, const sq_tensor *gate, const sq_tensor *up);

    /* y = act(x), same shape; y may be x. */
    void (*activate)(sq_backend *be, sq_tensor *y, const sq_tensor *x, sq_act act);

    /* y += x, same shape. */
    void (*add)(sq_backend *be, sq_tensor *y, const sq_tensor *x);

    /* y[n_out,dim] = m * x[n_in,dim]: gather and weighted merge of tokens in one op. */
    void (*select_rows)(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sparse_rows *m);
} sq_ops;

/* The reference table: every slot in plain C. */
void ops_init_ref(sq_ops *ops);

#endif
