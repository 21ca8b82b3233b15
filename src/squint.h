/* squint: vision-language models on a fraction of their visual tokens.
 *
 *     sq_model *m; sq_session *s; sq_report r;
 *     if (sq_model_open(&m, "models/demo", NULL) == SQ_OK &&
 *         sq_session_open(&s, m, NULL) == SQ_OK &&
 *         sq_session_add_image(s, "dog.jpg") == SQ_OK &&
 *         sq_session_ask(s, "What is this?", NULL, &r) == SQ_OK)
 *         puts(r.answer);
 *     sq_session_close(&s);
 *     sq_model_close(&m);
 *
 * Every function returns 0 (SQ_OK) or a negative SQ_E_*. After a failure the object is there to be
 * asked for its message (sq_model_error, sq_session_error) and to be closed; close functions accept
 * NULL and half-built objects and set the pointer to NULL. The library never prints, exits, aborts
 * or reads environment variables. A model is read-only and may serve several sessions, one thread
 * at a time. Strings are UTF-8; returned pointers belong to the object unless it says otherwise. */
#ifndef SQUINT_H
#define SQUINT_H

#include "core/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SQ_VERSION "0.1.0"

typedef struct sq_model sq_model;     /* weights, tokenizer, backend */
typedef struct sq_session sq_session; /* pictures, conversation, KV cache */

/* Notices for the user; level 0 is information, 1 a warning. */
typedef void (*sq_notice_fn)(void *user, int level, const char *line);

/* ---- model ---- */

typedef struct sq_model_options {
    const char *mmproj;     /* NULL: for a GGUF text model, the mmproj file beside it */
    const char *backend;    /* NULL or "auto", "cpu", "cuda"; "diff:cuda": see sq_diff_get */
    int device;             /* which GPU; another than 0 makes "auto" insist on it */
    const char *compute;    /* NULL or "auto", "f32", "bf16"; "f16" on a GPU */
    const char *cpu;        /* NULL: all features; "avx2", "avx512", "none": no more than that */
    const char *template_name; /* NULL: chosen from the checkpoint */
    const char *fit;        /* NULL or "auto", "crop", "pad": how pictures are fitted to the view */
    int n_threads;          /* 0: every core this process may use */
    bool text_only;         /* accept a text model without its vision part */
    sq_notice_fn notice;    /* NULL: silent */
    void *notice_user;
} sq_model_options;

/* path: a Hugging Face directory, a directory holding one GGUF pair, or a text-model .gguf. */
int sq_model_open(sq_model **m, const char *path, const sq_model_options *opt);
void sq_model_close(sq_model **m);
const char *sq_model_error(const sq_model *m); /* "" after success; "out of memory" for NULL */

typedef struct sq_model_info {
    const char *arch, *path, *template_name, *tokenizer, *fit;
    const char *backend;               /* for people: "cpu: avx2, oneDNN, 2 threads, f32" */
    const char *backend_name, *compute; /* "cpu", "f32" */
    int vit_layers, vit_layers_loaded, vit_dim, vit_heads, image_size, patch_size, n_patch;
    int feature_layer;       /* hidden state index, negatives resolved */
    int dec_layers, dec_dim, dec_heads, dec_heads_kv, n_vocab, n_ctx;
    int64_t n_param;         /* bound weights */
    size_t weight_bytes;     /* as stored */
    size_t kv_bytes_per_token; /* f32 cache */
    int n_tensor, n_unused;  /* in the files; not bound to anything */
    const char *missing;     /* "" or what this checkpoint cannot do: "globalcom2: ..." */
    bool tiled;              /* trained on AnyRes tiles */
    bool gpu;                /* computes on a GPU */
} sq_model_info;
int sq_model_get_info(const sq_model *m, sq_model_info *info);

typedef struct sq_tensor_info {
    const char *name, *type;
    int rank;
    int64_t shape[4];
    size_t bytes;
    bool used;
} sq_tensor_info;
/* i in [0, n_tensor); SQ_E_ARG outside. */
int sq_model_get_tensor(const sq_model *m, int i, sq_tensor_info *info);

/* Writes the GGUF pair DIR/NAME-TYPE.gguf and DIR/mmproj-NAME-TYPE.gguf; type "q8_0", "f16",
 * "bf16". stop (may be NULL) is asked again and again: a value other than 0 ends it with
 * SQ_E_STOPPED. Nothing half-written stays after a failure. */
typedef int (*sq_stop_fn)(void *user);
int sq_model_convert(sq_model *m, const char *dir, const char *name, const char *type,
                     sq_stop_fn stop, void *user);

/* *ids is malloc'ed; the caller frees it. No BOS, no special tokens from text. */
int sq_model_tokenize(sq_model *m, const char *text, size_t size, int32_t **ids, int *n);
/* *text is malloc'ed and 0-terminated. */
int sq_model_detokenize(sq_model *m, const int32_t *ids, int n, char **text);

/* ---- pictures ---- */

typedef struct sq_image_options {
    int64_t max_pixels;   /* 0: 178956970 */
    bool ignore_exif;     /* keep the stored orientation */
    bool allow_truncated; /* use what is there of a cut-off file */
} sq_image_options;

/* Decodes a JPEG or PNG file to *rgb[height,width,3], malloc'ed. text (may be NULL, else
 * text_size bytes) gets the error line. */
int sq_image_decode(const char *path, const sq_image_options *opt, int *width, int *height,
                    uint8_t **rgb, char *text, size_t text_size);

/* What the model sees: *pixels[n_view,3,side,side] f32 after normalisation, malloc'ed, and the
 * 8-bit *rgb[n_view,side,side,3] before it (rgb may be NULL). */
int sq_model_view(sq_model *m, const char *path, const sq_image_options *opt, int *n_view,
                  int *side, float **pixels, uint8_t **rgb);

/* Writes rgb[height,width,3] as PNG or PPM, by the path's ending. */
int sq_image_write(const char *path, int width, int height, const uint8_t *rgb, char *text,
                   size_t text_size);

/* ---- pruning methods and backends ---- */

typedef struct sq_method {
    const char *name, *paper, *summary, *options;
} sq_method;
int sq_method_get(int i, sq_method *out); /* SQ_E_ARG past the end */

typedef struct sq_backend_info {
    const char *name;
    char state[160]; /* "ok: avx2 ..." or why it cannot start */
} sq_backend_info;
int sq_backend_get(int i, sq_backend_info *out); /* SQ_E_ARG past the end */

typedef struct sq_device_info {
    char name[96];
    size_t memory_bytes;
    int major, minor; /* compute capability */
    char state[160];  /* "ok" or why it cannot be used */
} sq_device_info;
/* A GPU of backend i; SQ_E_ARG past the last. */
int sq_backend_get_device(int i, int device, sq_device_info *out);

/* For developers: a model opened with backend "diff:NAME" runs each op on NAME and on the CPU in
 * f32, and fails at the first result that differs by more than the op's error model allows. This
 * is what was compared so far, by op. SQ_E_ARG past the end and for other backends. */
typedef struct sq_diff_info {
    const char *op;
    int64_t n;        /* calls that were alike */
    double worst;     /* share of the allowed error */
    const char *part; /* where that was: "vision", "prune", "projector", "prompt", "decoder" */
    int layer;        /* of the part; -1: none of its layers */
    char shape[64];   /* of its first inputs */
} sq_diff_info;
int sq_diff_get(const sq_model *m, int i, sq_diff_info *out);

typedef struct sq_bench_result {
    double *ms;              /* [repeat] of the caller: each run's time, in order */
    double first_ms;         /* before them: the first run; on a GPU nothing is prepared for it, a
                              * CPU may hold weights that an earlier stage packed */
    double flop, bytes;      /* of one run, by the shapes: arithmetic; weights and KV rows read */
    double launches, syncs;  /* of one run: kernels started, waits for a GPU */
} sq_bench_result;

/* Times one stage on random data, after a few runs to warm up: "vision:VIEWS", "vision+rows:VIEWS"
 * (with the attention rows that fastervlm reads), "project:ROWS", "prefill:ROWS", "decode:ROWS"
 * (one token behind ROWS), "decode:ROWSxN" (for each of N sequences, at most 64),
 * "first-token:KEPT" (picture in memory to the id of the answer's first token, KEPT visual tokens),
 * and for comparison "product" and "copy", large ones. Views are 1 when not given. repeat 0 only
 * checks that this model has the stage and its number is not too large. */
int sq_bench_stage(sq_model *m, const char *stage, int repeat, sq_bench_result *r);

/* ---- session ---- */

typedef struct sq_session_options {
    const char *prune;         /* NULL or "none"; see sq_method_get */
    const char *keep;          /* NULL: all; "144" tokens a picture, or "25%" */
    const char *prune_options; /* NULL or "key=value,key=value" */
    uint64_t seed;             /* random pruning and sampling */
    const char *kv_type;       /* NULL or "auto": as the backend computes; "f32", "f16", "bf16" */
    int n_ctx;                 /* 0: the model's */
    bool one_view;             /* wanted so: no notice that the model was trained on tiles */
    sq_image_options image;
} sq_session_options;

int sq_session_open(sq_session **s, sq_model *m, const sq_session_options *opt);
void sq_session_close(sq_session **s);
const char *sq_session_error(const sq_session *s); /* of the last call that failed */

/* Decodes, encodes and prunes one picture; before the first question only. The encoded picture
 * stays: later questions reuse it and its KV entries. */
int sq_session_add_image(sq_session *s, const char *path);

/* Several in order, all or none; on a GPU one is decoded while the one before it is encoded. */
int sq_session_add_images(sq_session *s, const char *const *path, int n);

/* A picture in memory, rgb[height,width,3]. */
int sq_session_add_rgb(sq_session *s, int width, int height, const uint8_t *rgb);

/* A piece of the answer, whole characters; return nonzero to stop generating. */
typedef int (*sq_token_fn)(void *user, const char *text, size_t size);

typedef struct sq_ask_options {
    int max_tokens;      /* 0: 512 */
    float temperature;   /* 0: greedy */
    int top_k;           /* 0: off */
    float top_p;         /* 0 or 1: off */
    sq_token_fn on_token;
    void *user;
} sq_ask_options;

enum { SQ_MAX_IMAGES = 64 };

/* Patches only: where a model also shows [CLS] ("full" features), that row is always kept and in
 * no count here. */
typedef struct sq_image_report {
    int tokens_in, tokens_kept;
    const int32_t *kept; /* [tokens_kept] indices into the picture's patches, raster order */
    int grid;            /* patches a side of the view */
} sq_image_report;

typedef struct sq_report {
    const char *answer;      /* until the next call on the session; 0-terminated */
    const char *stop;        /* "eos", "stop string", "max tokens", "context full", "callback" */
    const char *method;      /* pruning policy */
    const char *backend;     /* what was used: "cpu: avx2, oneDNN, 2 threads, f32" */
    int n_image;
    sq_image_report image[SQ_MAX_IMAGES];
    int prompt_tokens;       /* rows prefilled for this answer */
    int cached_tokens;       /* rows reused from before */
    int answer_tokens;
    int context_tokens;      /* rows in the KV cache now */
    size_t kv_bytes;         /* held by them */
    size_t peak_bytes;       /* peak resident memory of the process */
    size_t device_bytes;     /* peak memory of the GPU, weights included; 0 on the CPU */
    int64_t launches, syncs; /* GPU: kernels and graphs started, waits of the host, for this answer
                              * and the pictures before it */
    float min_gap;           /* smallest distance of the two best logits over the answer */
    /* The host's clock. A GPU works on beside it: what is still under way when a stage ends counts
     * where the host next waits (project in prefill; vision only what decoding did not hide). */
    struct {
        double decode, preprocess, vision, score, prune, project; /* pictures, summed */
        double prefill, first_token, generate;                    /* this answer */
        double total; /* pictures (counted in the first answer only) + this answer */
    } ms;
} sq_report;

/* Asks about the pictures added; a later call continues the conversation. opt may be NULL. */
int sq_session_ask(sq_session *s, const char *question, const sq_ask_options *opt, sq_report *r);

/* Forgets the conversation but keeps the pictures and their KV entries. */
int sq_session_rewind(sq_session *s);

#ifdef __cplusplus
}
#endif
#endif
