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

/* Square views of one batch, in host memory: f32 planes, or 8-bit RGB whose value v of channel c
 * stands for level[c][v]. */
typedef struct vit_views {
    int n;
    const float *planes;       /* [n,3,side,side]; NULL: rgb and level are set */
    const uint8_t *rgb;        /* [n,side,side,3] */
    const float (*level)[256]; /* [3] */
} vit_views;

/* The views' result. Features live in backend memory, scores in host memory; both belong to the
 * arenas given. n_patch excludes CLS, and so do all scores. */
typedef struct vit_output {
    sq_tensor hidden;    /* [n_view*n_tok, dim * n_feature] f32, CLS first in each view */
    bool keep_cls;
    int n_view, n_patch, grid; /* 1, 576, 24 */
    int n_head, row_first, row_count;
    const float *rows;   /* [n_view, row_count, n_head, n_patch] */
    const float *logits; /* [n_view, n_head, n_patch] */
    const float *received, *given; /* [n_view, n_patch] */
    double score_ms;     /* time spent on captured attention alone; 0 where ops run behind */
} vit_output;

/* One view's features [n_patch, dim * n_feature]; with keep_cls the CLS row comes before them. */
sq_tensor vit_features(const vit_output *out, int view);

/* Called after patch embedding (layer -1) and after every layer with x[n_view*n_tok,dim]: for
 * tests. */
typedef void (*vit_probe)(void *user, int layer, const sq_tensor *x);

/* A forward pass under way: begin starts it, and the host is free until end reads the scores. */
typedef struct vit_run {
    sq_backend *be;
    const vit_model *m;
    vit_capture cap;
    vit_views views;
    vit_output *out;
    int n_tok; /* of one view */
    attn_desc attn;
    arena *dev;
    arena_mark mark; /* of dev: behind the features */
    sq_tensor image, level, ids, patch, cls;
    sq_tensor x, h, q, k, v, ffn;            /* [n_view*n_tok, ...] */
    sq_tensor rows, logits, received, given; /* captured, before they are read to the host */
    vit_probe probe;
    void *user;
} vit_run;

/* r: zero but for probe and user. dev: backend memory for activations and features; nothing else
 * may be allocated there until vit_end. cap may be NULL. SQ_E_UNSUPPORTED when a layer that is
 * asked for is not in the file. */
int vit_begin(vit_run *r, sq_backend *be, const vit_model *m, const vit_views *views,
              const vit_capture *cap, vit_output *out, arena *dev, arena *host, sq_error *err);
/* host: the scores. */
int vit_end(vit_run *r, arena *host, sq_error *err);

/* Both, with a probe that may be NULL. */
int vit_forward(sq_backend *be, const vit_model *m, const vit_views *views, const vit_capture *cap,
                vit_output *out, arena *dev, arena *host, vit_probe probe, void *user,
                sq_error *err);

#endif
