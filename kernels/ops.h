/* The op table: what every backend must compute. One line of formula, shapes and aliasing a slot.
 *
 * All is row-major. The residual stream, scores and logits are f32; what flows between two ops of a
 * layer is of the type `a` = be->act: f32 on the CPU, bf16 or f16 on a GPU that computes so. A slot
 * that writes `a` also writes f32 and reads either. Weights may be F32, F16, BF16 or Q8_0 where it
 * says `w` (a GPU's were converted to `a`, vectors to f32, when they were uploaded). `host` marks
 * what lies in host memory; every tensor lies in the backend's. Shapes are the callers' duty:
 * they were checked when the weights were bound. An op that fails (out of memory) records it in
 * the backend's sticky error be->err and returns; callers look once a layer. Outputs never alias
 * inputs unless the slot says so. Slot order is that of the pipeline. The truth is
 * kernels/cpu/ref: plain C, sums in double. */
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

/* Attention, shared by the ViT (causal = false) and the decoder. */
typedef struct attn_desc {
    int n_seq;             /* sequences of equal length, one after the other in q, k, v; 0 is 1 */
    int n_q, n_kv;         /* tokens of each, at least 1 */
    int n_head, n_head_kv; /* n_head % n_head_kv == 0 */
    int head_dim;          /* multiple of 8: 64 72 80 128 are tested */
    bool causal;           /* query i sees the keys 0 .. q_pos0 + i */
    int q_pos0;            /* index in k of the first query's own key */
    int window;            /* > 0: query i sees only the last `window` of those keys (Mistral) */
    float scale;           /* usually 1 / sqrt(head_dim) */
} attn_desc;

/* RoPE: pair (a, b) -> (a cos - b sin, b cos + a sin) with angle pos * inv_freq[i]. */
typedef struct rope_desc {
    int n_head, n_head_kv, head_dim;
    bool interleaved;      /* pairs (2i, 2i+1), as GGUF stores q and k; else (i, i + head_dim/2) */
    const float *inv_freq; /* [head_dim/2], scaling already applied; host memory */
    float mscale;          /* factor on cos and sin, 1 for LLaMA */
} rope_desc;

/* One new token for each of n_seq sequences of different lengths. */
typedef struct kv_step {
    int n_seq;                /* at most SQ_STEP_MAX */
    const sq_tensor *pos;     /* I32 [n_seq]: RoPE positions of the new tokens */
    const sq_tensor *len;     /* I32 [n_seq]: rows held, so the row the new token gets */
    const sq_tensor *const *k; /* host [n_seq]: caches [capacity, n_head_kv*head_dim] */
    const sq_tensor *const *v;
} kv_step;

enum { SQ_STEP_MAX = 64 };

/* Output row r = sum over e in [start[r], start[r+1]) of weight[e] * input row index[e].
 * Keeping a token is one entry of weight 1; merging is several. Host memory. */
typedef struct sparse_rows {
    int n_out;
    const int32_t *start; /* [n_out + 1] */
    const int32_t *index;
    const float *weight;
} sparse_rows;

typedef struct sq_ops {
    /* y[n_view*n_patch, 3*p*p or more] a = patches of x: row-major over patches; within a row
     * channel, then row, then column, as a convolution kernel [out,3,p,p] is laid out, then zeros.
     * x is f32 [n_view,3,side,side], or u8 [n_view,side,side,3] and its value v of channel c stands
     * for level[c,v] (f32 [3,256]; else level is NULL). p divides side. */
    void (*patchify)(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *level,
                     int patch);

    /* y[n,dim] f32 = rows ids[i] of the table w[n_vocab,dim]; ids I32 [n], valid. */
    void (*embed)(sq_backend *be, sq_tensor *y, const sq_tensor *w, const sq_tensor *ids);

    /* y[n,out] a = act(x[n,in] w[out,in]^T + b[out]); x a, or f32; y f32 when adding; b may be NULL
     * or absent. */
    void (*linear)(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                   const sq_tensor *b, const linear_desc *d);

    /* y[i] = x w[i]^T + b[i] for i < n: several products of one input (q, k, v). At most 3; b[i]
     * may be NULL or absent. */
    void (*linear_many)(sq_backend *be, sq_tensor *const y[], const sq_tensor *x,
                        const sq_tensor *const w[], const sq_tensor *const b[], int n);

    /* y[n,out] a = silu(x gate^T) * (x up^T), x[n,in] a, gate and up w[out,in]. scratch[2*n,out] a
     * is overwritten. */
    void (*linear_gated)(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *gate,
                         const sq_tensor *up, sq_tensor *scratch);

    /* y a = (x - mean) / sqrt(var + eps) * w + b, each row of x[n,dim] f32; w, b any float type.
     * y may be x. */
    void (*layer_norm)(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                       const sq_tensor *b, float eps);

    /* y a = x / sqrt(mean(x^2) + eps) * w, each row of x[n,dim] f32. y may be x. */
    void (*rms_norm)(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                     float eps);

    /* Rotates q[n_q,n_head*head_dim] a in place and writes k[n,n_head_kv*head_dim] a, rotated, and
     * v to rows at .. at+n of the caches (f32, f16 or bf16). pos I32 [n]; q's rows are the last n_q
     * of the n. k is undefined afterwards. */
    void (*rope_append)(sq_backend *be, sq_tensor *q, sq_tensor *k, const sq_tensor *v,
                        sq_tensor *cache_k, sq_tensor *cache_v, int at, const sq_tensor *pos,
                        const rope_desc *d);

    /* out[n_seq*n_q,n_head*head_dim] a = softmax(scale * q k^T + mask) v, softmax sums in f32.
     * q[n_seq*n_q,n_head*head_dim] a; k, v [n_seq*n_kv,n_head_kv*head_dim] f32, f16 or bf16. */
    void (*attn)(sq_backend *be, sq_tensor *out, const sq_tensor *q, const sq_tensor *k,
                 const sq_tensor *v, const attn_desc *d);

    /* One decode step: q[n_seq,..], k, v[n_seq,..] a of the new tokens. Rotates q and k by pos,
     * writes k and v to row len of each sequence's caches, and attends over rows 0 .. len (the last
     * `window` of them, if set). Of d only heads, head_dim, window and scale are read. Nothing but
     * pointers and shapes comes from the host, so that a step can be replayed. */
    void (*attn_step)(sq_backend *be, sq_tensor *out, sq_tensor *q, sq_tensor *k,
                      const sq_tensor *v, const kv_step *s, const rope_desc *r,
                      const attn_desc *d);

    /* score[n_seq,n_row,n_head,n_kv] f32 for the queries row[n_row] of each sequence (host):
     * softmax rows that sum to 1, or scale * q k^T when logits is set. Kept apart from attn so that
     * the fast kernel never stores its matrix. k a. */
    void (*attn_rows)(sq_backend *be, sq_tensor *score, const sq_tensor *q, const sq_tensor *k,
                      const int32_t *row, int n_row, bool logits, const attn_desc *d);

    /* With P the softmax matrix (or scale * q k^T when logits is set), averaged over heads, and
     * tokens below `first` left out of both axes without renormalising:
     * received[j] = mean_i P[i,j], given[i] = mean_j P[i,j], i, j in [first, n). The matrix is
     * streamed, not stored. received, given f32 [n_seq,n - first]; needs n_q == n_kv, not
     * causal. */
    void (*attn_means)(sq_backend *be, sq_tensor *received, sq_tensor *given, const sq_tensor *q,
                       const sq_tensor *k, int first, bool logits, const attn_desc *d);

    /* y = silu(gate) * up, all [n,dim] a. y may be gate or up. */
    void (*silu_mul)(sq_backend *be, sq_tensor *y, const sq_tensor *gate, const sq_tensor *up);

    /* y = act(x), same shape, f32 or a each; y may be x. With SQ_ACT_NONE a copy or conversion. */
    void (*activate)(sq_backend *be, sq_tensor *y, const sq_tensor *x, sq_act act);

    /* y[n,dim] += x f32, row i of y gets row i % x's rows. */
    void (*add)(sq_backend *be, sq_tensor *y, const sq_tensor *x);

    /* y[n_out,dim] a = m * x[n_in,dim] f32: gather and weighted merge of tokens in one op. m is
     * host memory, so this one is not for regions. */
    void (*select_rows)(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sparse_rows *m);

    /* best[i] I32 = index of the largest of row i of x[n,dim] f32, the lowest of equals, -1 when
     * the row holds NaN; gap[i] f32 = its distance from the second largest: +inf when dim is 1, 0
     * when two infinities are equal. */
    void (*argmax)(sq_backend *be, sq_tensor *best, sq_tensor *gap, const sq_tensor *x);
} sq_ops;

/* The reference table: every slot in plain C. */
void ops_init_ref(sq_ops *ops);

#endif
