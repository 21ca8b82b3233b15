/* CLIP ViT: pixels -> visual features, and on request the attention that pruning methods read.
 *
 * Index semantics of transformers: hidden state 0 is the embedding after pre_layrnorm, hidden
 * state i is the output of layer i - 1. Layers after the last one needed never run. */
#ifndef SQ_VIT_H
#define SQ_VIT_H

#include "core/arena.h"
#include "kernels/backend.h"
#include "vision/preprocess.h"

enum { VIT_MAX_FEATURES = 8 };

typedef struct vit_config {
    int image_size, patch_size; /* 336, 14 */
    int dim, ffn_dim, n_head;
    int n_layer;     /* layers the architecture has: 24 */
    int n_loaded;    /* layers in the file; a GGUF may lack the last one: 23 */
    float eps;
    sq_act act;
    int n_feature;   /* hidden states that are concatenated, usually 1 */
    int feature[VIT_MAX_FEATURES]; /* as hidden state indices, negatives resolved: 23 */
    bool keep_cls;   /* vision_feature_select_strategy "full" */
} vit_config;

typedef struct vit_layer {
    sq_tensor ln1_w, ln1_b, q_w, q_b, k_w, k_b, v_w, v_b, o_w, o_b; /* [dim,dim], [dim] */
    sq_tensor ln2_w, ln2_b, fc1_w, fc1_b, fc2_w, fc2_b;             /* [ffn,dim], [dim,ffn] */
} vit_layer;

typedef struct vit_model {
    vit_config cfg;
    sq_tensor class_embd;         /* [dim] */
    sq_tensor patch_w, patch_b;   /* [dim, 3*patch*patch]; the bias is absent in CLIP */
    sq_tensor pos_embd;           /* [n_patch + 1, dim], row 0 is CLS */
    sq_tensor pre_ln_w, pre_ln_b; /* [dim] */
    vit_layer *layer;             /* [n_loaded] */
} vit_model;

/* What to record while running; zero-initialise, then set. Layers are 0-based. */
typedef struct vit_capture {
    int row_first, row_count; /* softmax CLS rows of layers row_first .. row_first+row_count-1 */
    bool logits;              /* pre-softmax CLS row of layer logits_layer (may be one past the */
    int logits_layer;         /* last feature layer: only its q and k are computed) */
    bool means;               /* received and given means of layer means_layer, CLS left out */
    bool means_logits;        /* ... of the logits instead of the softmax */
    int means_layer;
} vit_capture;

/* One view's result. Features live in backend memory, scores in host memory; both belong to the
 * arenas given. n_patch excludes CLS, and so do all scores. */
typedef struct vit_output {
    sq_tensor features;  /* [n_tok, dim * n_feature]; n_patch rows, or CLS and n_patch rows */
    int n_patch, grid;   /* 576, 24 */
    int n_head, row_first, row_count;
    const float *rows;   /* [row_count, n_head, n_patch] */
    const float *logits; /* [n_head, n_patch] */
    const float *received, *given; /* [n_patch] */
    double score_ms;     /* time spent on captured attention alone */
} vit_output;

/* Called after patch embedding (layer -1) and after every layer with x[n_tok,dim]: for tests. */
typedef void (*vit_probe)(void *user, int layer, const sq_tensor *x);

/* pixels[3,side,side] in host memory. dev: backend memory for activations and features, host:
 * scores. cap may be NULL; probe may be NULL. SQ_E_UNSUPPORTED when a layer that is asked for is
 * not in the file. */
int vit_forward(sq_backend *be, const vit_model *m, const float *pixels, const vit_capture *cap,
                vit_output *out, arena *dev, arena *host, vit_probe probe, void *user,
                sq_error *err);

#endif
