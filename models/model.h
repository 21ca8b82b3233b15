/* A checkpoint opened: configuration, weights bound to the structs of vit, projector and decoder
 * (every shape and type checked here, once), tokenizer, template. Two containers feed it:
 * a Hugging Face directory (safetensors) or a GGUF pair (text model + mmproj). */
#ifndef SQ_MODEL_H
#define SQ_MODEL_H

#include "core/arena.h"
#include "core/error.h"
#include "core/log.h"
#include "llm/decoder.h"
#include "llm/prompt.h"
#include "llm/tokenizer.h"
#include "models/weights.h"
#include "vision/preprocess.h"
#include "vision/projector.h"
#include "vision/vit.h"

enum { MODEL_MAX_PINPOINTS = 64 };

typedef struct model {
    char arch[32];          /* "llava", "llava_next" */
    char path[4096];        /* as given */
    vit_model vit;
    projector_model proj;
    decoder_model dec;
    preprocess_config pre;
    tokenizer *tok;         /* NULL: a synthetic model */
    const prompt_template *tmpl;
    bool tiled;             /* trained on AnyRes tiles; runs on one view until tiles are there */
    int n_pinpoint, pinpoint[MODEL_MAX_PINPOINTS][2]; /* as listed in the file */
    weight_map weights;     /* owns the mapped files */
    arena mem;              /* owns the layer arrays and small copies */
} model;

typedef struct model_options {
    const char *mmproj;   /* GGUF: the vision file; NULL: found beside the text model */
    const char *template_name; /* NULL: chosen from the checkpoint */
    fit_mode fit;         /* FIT_AUTO: from the checkpoint */
    bool text_only;       /* a GGUF/HF text model without vision is fine (benchmarks, tokenize) */
} model_options;

/* path: an HF directory, a text-model .gguf, or "synthetic:SHAPE". Errors name the file, the tensor
 * or key, what was expected and what was found. m is closed on failure. opt may be NULL. */
int model_open(model *m, const char *path, const model_options *opt, const sq_log *log,
               sq_error *err);
void model_close(model *m);

/* The openers behind it; the last makes random weights, for timing. */
int model_open_hf(model *m, const char *dir, const model_options *opt, sq_error *err);
int model_open_gguf(model *m, const char *path, const model_options *opt, sq_error *err);
int model_open_synthetic(model *m, const char *spec, sq_error *err);

/* Asked between rows of a tensor; a value other than 0 ends the work. */
typedef struct model_stop {
    int (*asked)(void *user); /* NULL: never */
    void *user;
} model_stop;

/* Writes DIR_OUT/NAME-<type>.gguf (text) and DIR_OUT/mmproj-NAME-<type>.gguf (vision) as llama.cpp
 * lays them out; type is F16, BF16 or Q8_0 (norms, biases and embeddings of one dimension stay
 * F32; a row not divisible by 32 becomes F16). Written whole or not at all; SQ_E_STOPPED when stop
 * (may be NULL) ended it. */
int model_convert(const model *m, const char *dir_out, const char *name, sq_dtype type,
                  const model_stop *stop, const sq_log *log, sq_error *err);

#endif
