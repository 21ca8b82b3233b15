/* The two halves of a GGUF pair; gguf_model.c joins them. */
#ifndef SQ_GGUF_PARTS_H
#define SQ_GGUF_PARTS_H

#include "models/gguf.h"
#include "models/gguf_names.h"

enum { GGUF_DIM_LIMIT = 1 << 16, GGUF_LAYERS_MAX = 1024, GGUF_CTX_MAX = 1 << 24 };

/* Keys of squint's own, for what llama.cpp's keys cannot say. */
#define SQUINT_TEMPLATE "squint.template"
#define SQUINT_SPACE_FIRST "squint.tokenizer.space_prefix_first_only"
#define SQUINT_ROPE_TYPE "squint.rope.scaling.type"
#define SQUINT_ROPE_FACTOR "squint.rope.scaling.factor"
#define SQUINT_ROPE_CTX "squint.rope.scaling.original_context_length"
#define SQUINT_TILED "squint.tiled"
#define SQUINT_FIT "squint.fit"
#define SQUINT_PINPOINTS "squint.image_grid_pinpoints"
#define SQUINT_LAYERS "squint.vision.layer_count"
#define SQUINT_STRATEGY "squint.vision.feature_strategy"
#define SQUINT_RESIZE "squint.vision.resize"
#define SQUINT_FILTER "squint.vision.filter"
#define SQUINT_RESCALE "squint.vision.rescale"
#define SQUINT_VISION_ACT "squint.vision.activation"
#define SQUINT_PROJ_ACT "squint.projector.activation"

/* Whether g is a text model that squint runs; *arch lives as long as g. */
int gguf_text_check(gguf_file *g, const char **arch, sq_error *err);

/* Text half: decoder configuration and weights, tokenizer, template. w is sorted. */
int gguf_text_read(model *m, gguf_file *g, sq_error *err);
/* Whether g is a vision file that squint runs. */
int gguf_vision_check(gguf_file *g, sq_error *err);
/* Vision half, checked, after the text half. */
int gguf_vision_read(model *m, gguf_file *g, sq_error *err);

/* Binds a table's tensors under a prefix ("blk.3.") into the struct at base. */
int gguf_bind(model *m, const gguf_file *g, const gguf_name *names, const char *prefix, void *base,
              int64_t (*dim)(const model *, gguf_dim), sq_error *err);

#endif
