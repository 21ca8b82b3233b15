/* LLaMA-family decoder: embeddings -> logits. RMSNorm, RoPE, MHA/GQA, SwiGLU. */
#ifndef SQ_DECODER_H
#define SQ_DECODER_H

#include "core/arena.h"
#include "kernels/backend.h"
#include "llm/kv_cache.h"

typedef enum rope_scaling {
    ROPE_SCALING_NONE,
    ROPE_SCALING_LINEAR,  /* angles / factor */
    ROPE_SCALING_DYNAMIC, /* NTK: theta grows once the sequence passes original_ctx */
    ROPE_SCALING_LLAMA3   /* per frequency, Llama 3.1 */
} rope_scaling;

typedef struct rope_config {
    float theta; /* 10000 */
    rope_scaling scaling;
    float factor, low_freq_factor, high_freq_factor;
    int original_ctx; /* original_max_position_embeddings; dynamic: max_position_embeddings */
    bool interleaved; /* weights from GGUF: q and k rows are permuted */
    const float *freq_factor; /* [head_dim/2] divisors of the frequencies; NULL: none */
} rope_config;

enum { DECODER_MAX_HEAD_DIM = 512 };

typedef struct decoder_config {
    int dim, ffn_dim, n_layer, n_head, n_head_kv, n_vocab;
    int head_dim; /* even, at most DECODER_MAX_HEAD_DIM */
    int n_ctx;  /* max_position_embeddings */
    int window; /* sliding_window; 0: none */
    int window_from; /* first layer that has it */
    float eps;
    rope_config rope;
} decoder_config;

typedef struct decoder_layer {
    sq_tensor attn_norm;                   /* [dim] */
    sq_tensor q_w, o_w;                    /* [n_head*hd,dim] [dim,n_head*hd] */
    sq_tensor k_w, v_w;                    /* [n_head_kv*hd,dim] */
    sq_tensor q_b, k_b, v_b;               /* Qwen2 has them; else absent */
    sq_tensor ffn_norm;                    /* [dim] */
    sq_tensor gate_w, up_w, down_w;        /* [ffn,dim] [ffn,dim] [dim,ffn] */
} decoder_layer;

typedef struct decoder_model {
    decoder_config cfg;
    sq_tensor tok_embd; /* [n_vocab,dim] */
    decoder_layer *layer;
    sq_tensor norm;     /* [dim] */
    sq_tensor head;     /* [n_vocab,dim]; the same view as tok_embd when tied */
} decoder_model;

/* What a pass gives back; a NULL is not computed. Host memory. */
typedef struct decoder_result {
    float *logits;     /* [n_vocab] of the last row; a step: [n_seq, n_vocab] */
    float *all_logits; /* [n, n_vocab] of every row: for tests; logits and best stay untouched */
    int32_t *best;     /* the largest logit's id, -1 if there is a NaN; a step: [n_seq] */
    float *gap;        /* set when best is: its distance from the second */
} decoder_result;

/* y[n,dim] f32 in backend memory = embeddings of ids[n] (host). */
int decoder_embed(sq_backend *be, const decoder_model *m, sq_tensor *y, const int32_t *ids, int n,
                  arena *dev, sq_error *err);

/* Runs x[n,dim] f32 (backend memory, overwritten) at positions pos[n] (host) behind what kv holds,
 * and appends to kv. */
int decoder_forward(sq_backend *be, const decoder_model *m, kv_cache *kv, sq_tensor *x,
                    const int32_t *pos, const decoder_result *out, arena *dev, sq_error *err);

/* One token id[s] at position pos[s] for each of n_seq sequences (at most SQ_STEP_MAX, host),
 * packed as one batch whatever their lengths, each behind what its own cache holds. With dynamic
 * RoPE they must be of one length or within original_ctx (else SQ_E_UNSUPPORTED). */
int decoder_step(sq_backend *be, const decoder_model *m, kv_cache *const kv[], int n_seq,
                 const int32_t *id, const int32_t *pos, const decoder_result *out, arena *dev,
                 sq_error *err);

/* inv_freq[head_dim/2] for a sequence of n_ctx tokens (only DYNAMIC depends on it). */
void rope_frequencies(const rope_config *r, int head_dim, int n_ctx, float *inv_freq);

#endif
