/* What sq_model and sq_session are made of; only src/squint*.c see this. */
#ifndef SQ_IMPL_H
#define SQ_IMPL_H

#include "core/log.h"
#include "kernels/backend.h"
#include "llm/sampler.h"
#include "models/model.h"
#include "prune/prune.h"
#include "squint.h"

struct sq_model {
    model m;
    sq_backend *be;
    sq_log log;
    sq_notice_fn notice;
    void *notice_user;
    sq_error err;
    void *device_weights; /* where the backend cannot read the files; NULL until needed */
    sq_error upload_err;  /* a copy that broke off half-way; every later use fails like it */
    bool told_one_view; /* the AnyRes notice is given once */
};

/* One encoded picture: what the decoder gets to see of it. */
typedef struct session_image {
    sq_tensor embeds; /* [n_kept, dim] in backend memory, arena `kept`; with "full" features [CLS] +
                       * n_kept */
    int n_in, n_kept, grid;
    int32_t *index; /* [n_kept] raster order of the plan */
} session_image;

/* Rows of the context whose ids are known: a rewind keeps the KV entries that still match. */
typedef struct session_prefix {
    int32_t *ids; /* with PROMPT_IMAGE; up to and including the last picture */
    int n_ids, n_rows;
} session_prefix;

struct sq_session {
    sq_model *m;
    sq_session_options opt;
    const prune_policy *policy;
    prune_keep keep;
    prune_options prune_opt;
    sampler sampler;
    kv_cache kv;
    arena dev, kept, host; /* step; pictures; host scratch */
    char *answer_text;     /* of the last answer */
    session_image image[SQ_MAX_IMAGES];
    int n_image, n_turn, n_ctx;
    session_prefix prefix;
    int32_t pending; /* sampled but not yet in the KV cache; -1: none */
    sq_report report; /* the pictures' times and work gather here until the next answer */
    sq_error err;
};

/* Calls after a failed open fail the same way; otherwise each call starts with a clean record. */
int model_begin(sq_model *m);

/* SQ_E_UNSUPPORTED for a model that was made for timing. */
int model_need_words(const model *m, sq_error *err);

/* Weights where the backend can read them; the first session or measurement asks for it. */
int model_ready(sq_model *m, sq_error *err);

/* A picture as a file, or in memory when rgb is set. */
typedef struct picture_source {
    const char *path;
    int width, height;
    const uint8_t *rgb; /* [height, width, 3] */
} picture_source;

/* Pictures to kept embeddings: decode -> preprocess -> vit -> prune -> project. The host decodes
 * the next picture while the backend works on one. All of them are added or none. */
int session_encode(sq_session *s, const picture_source *src, int n);

/* As if the pictures from `first` on were never shown; kept is the arena's mark before them. */
void session_drop_pictures(sq_session *s, int first, arena_mark kept);

/* Question to answer: prompt -> splice -> prefill -> decode loop. */
int session_answer(sq_session *s, const char *question, const sq_ask_options *opt, sq_report *r);

/* The beginning of that for given ids (PROMPT_IMAGE for pictures): the first id of the answer. */
int session_first_token(sq_session *s, int32_t *ids, int n, int32_t *best);

#endif
