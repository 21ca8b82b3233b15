/* Where each GGUF tensor lives in squint's structs: one set of tables, used by reading and by
 * converting, so that the two cannot drift apart. */
#ifndef SQ_GGUF_NAMES_H
#define SQ_GGUF_NAMES_H

#include "models/model.h"

typedef enum gguf_dim {
    GGUF_DIM_NONE, /* as cols: a vector */
    GGUF_DIM_MODEL,
    GGUF_DIM_FFN,
    GGUF_DIM_Q,
    GGUF_DIM_KV,
    GGUF_DIM_VOCAB,
    GGUF_DIM_PATCH, /* 3 * patch * patch */
    GGUF_DIM_POS,   /* patches + CLS */
    GGUF_DIM_IN,    /* of the projector */
    GGUF_DIM_MID,
    GGUF_DIM_OUT
} gguf_dim;

enum {
    GGUF_OPTIONAL = 1,
    GGUF_KEEP_F32 = 2, /* a matrix that is written as F32 */
    GGUF_CONV = 4,     /* the patch embedding: written as F16 [dim,3,patch,patch] */
    GGUF_ROPE_Q = 8,   /* rows are permuted in files of architecture llama */
    GGUF_ROPE_K = 16
};

typedef struct gguf_name {
    const char *name; /* behind "blk.N." or "v.blk.N." in the layer tables; NULL ends a table */
    size_t at;        /* offset of the sq_tensor in its struct */
    gguf_dim rows, cols;
    unsigned flags;
} gguf_name;

extern const gguf_name gguf_text_names[];         /* decoder_model */
extern const gguf_name gguf_text_layer_names[];   /* decoder_layer, "blk.N." */
extern const gguf_name gguf_vision_names[];       /* vit_model */
extern const gguf_name gguf_vision_layer_names[]; /* vit_layer, "v.blk.N." */
extern const gguf_name gguf_projector_names[];    /* projector_model */

/* The size that a dimension has in this model; GGUF_DIM_NONE is 0. */
int64_t gguf_dim_text(const model *m, gguf_dim d);
int64_t gguf_dim_vision(const model *m, gguf_dim d);

static inline sq_tensor *gguf_slot(void *base, const gguf_name *n)
{
    return (sq_tensor *)(void *)((char *)base + n->at);
}

#endif
