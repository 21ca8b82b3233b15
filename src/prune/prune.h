/* Visual token pruning: a registry of policies, each one file. A policy reads captured attention
 * and writes a plan; the pipeline carries the plan out before the projector. Adding a policy is
 * one file and one row in registry.c. */
#ifndef SQ_PRUNE_H
#define SQ_PRUNE_H

#include "core/arena.h"
#include "core/error.h"
#include "kernels/ops.h"

#include <stdbool.h>
#include <stdint.h>

/* Budget: a count of tokens, or a share of a picture's tokens. Zero means everything. */
typedef struct prune_keep {
    int count;      /* > 0: tokens per view */
    double percent; /* > 0: of each view's tokens; (0, 100] */
} prune_keep;

/* Attention a policy wants recorded while the ViT runs; layers are 0-based. */
typedef struct prune_needs {
    bool cls_rows;   /* softmax CLS rows of layers row_first .. row_last (inclusive) */
    int row_first, row_last;
    bool cls_logits; /* pre-softmax CLS row of the tower's last layer */
    bool means;      /* received/given means of the feature layer, CLS left out */
    bool means_logits;
} prune_needs;

/* Options of all policies; each reads its own (`squint methods` lists them). */
typedef struct prune_options {
    uint64_t seed;                                        /* random */
    int start_layer;                                      /* vtc-cls; -1: two thirds of the depth */
    enum { ENSEMBLE_SUM, ENSEMBLE_MIN, ENSEMBLE_MAX } ensemble; /* vtc-cls */
    enum { FOPRU_RANK, FOPRU_ROW } fopru;                 /* fopru strategy */
    bool fopru_logits;                                    /* fopru: pre-softmax means */
} prune_options;
prune_options prune_options_default(void); /* seed 0, start -1, sum, rank, softmax */

/* Sets one option from text, e.g. "start-layer", "16"; SQ_E_ARG names what was expected. Keys:
 * seed, start-layer, ensemble (sum min max), strategy (rank row) and scores (softmax logits) of
 * fopru. */
int prune_option_set(prune_options *o, const char *key, const char *value, sq_error *err);

/* Shape of the tower, for needs(). */
typedef struct prune_tower {
    int n_layer;       /* 24 */
    int feature_layer; /* layer whose output is the features: 22 (hidden state 23) */
} prune_tower;

/* One view (the whole picture, or an AnyRes tile) and its captured attention, f32, host memory. */
typedef struct prune_view {
    int n_tok, grid_w, grid_h;     /* patches, CLS excluded; n_tok = grid_w * grid_h */
    int tile_x, tile_y;            /* place in the mosaic; -1, -1 for the whole picture */
    int valid_x0, valid_y0, valid_x1, valid_y1; /* patches that are not padding, half-open */
    int n_head;
    int row_first, row_count;      /* layers in cls_rows */
    const float *cls_rows;         /* [row_count, n_head, n_tok] */
    const float *cls_logits;       /* [n_head, n_tok] */
    const float *received, *given; /* [n_tok] */
} prune_view;

typedef struct prune_input {
    const prune_view *view; /* [n_view]; view 0 is the whole picture (thumbnail) */
    int n_view;
    int mosaic_w, mosaic_h; /* tiles across and down; 0, 0 with one view */
    int picture;            /* index of the picture in the session: random draws differ */
    prune_keep keep;
    const prune_options *opt;
    arena *scratch;         /* host */
} prune_input;

typedef enum prune_position {
    PRUNE_POS_COMPACT, /* kept tokens are numbered on, as all shipped methods do */
    PRUNE_POS_ORIGINAL
} prune_position;

/* Kept rows over the concatenated tokens of all views (view order, raster inside a view). */
typedef struct prune_plan {
    int n_in;          /* tokens of all views */
    int n_out;         /* kept or merged rows so far */
    int cap_out, n_entry, cap_entry;
    int32_t *start;    /* [n_out + 1] */
    int32_t *index;    /* [n_entry] */
    float *weight;     /* [n_entry] */
    prune_position position;
    arena *mem;
} prune_plan;

typedef enum prune_rounding { PRUNE_NEAREST, PRUNE_FLOOR } prune_rounding;

typedef struct prune_policy {
    const char *name;
    const char *paper;   /* "arXiv:2412.01818" or "baseline" */
    const char *summary; /* one line for `squint methods` */
    const char *options; /* "start-layer=N ensemble=sum|min|max" or "" */
    prune_rounding rounding; /* percent -> count */
    /* Fills in what plan() reads; NULL: nothing. */
    void (*needs)(const prune_tower *t, const prune_options *o, prune_needs *out);
    /* Adds rows in output order. May leave fewer than asked (whole grid rows); never more. */
    int (*plan)(const prune_input *in, prune_plan *plan, sq_error *err);
} prune_policy;

extern const prune_policy prune_policies[]; /* ends with name NULL; "none" comes first */

/* NULL when there is no such policy. */
const prune_policy *prune_find(const char *name);

/* Runs needs() with everything else zero. */
prune_needs prune_needs_of(const prune_policy *p, const prune_tower *t, const prune_options *o);

/* The whole step: prepares an empty plan for the input's tokens in plan->mem (the scratch arena
 * when that is NULL), runs the policy, checks the plan (indices in range, at least one row).
 * SQ_E_FORMAT when a score is NaN or infinite, SQ_E_ARG when an option does not fit the tower. */
int prune_run(const prune_policy *p, const prune_input *in, prune_plan *plan, sq_error *err);

/* The one place where a budget becomes a count: clamped to [1, n_tok]; n_tok when keep is zero.
 * NEAREST rounds half up (10% of 576 -> 58), FLOOR down. */
int prune_n_keep(prune_keep keep, int n_tok, prune_rounding r);

/* "144" or "12.5%" -> keep; SQ_E_ARG with the text in the message ("0", "101%", "-3", ...). */
int prune_keep_parse(const char *text, prune_keep *keep, sq_error *err);

int plan_init(prune_plan *p, int n_in, arena *mem);
int plan_add_token(prune_plan *p, int index);                           /* one entry of weight 1 */
int plan_add_merge(prune_plan *p, const int *index, const float *weight, int n);
sparse_rows plan_rows(const prune_plan *p);

/* SQ_E_FORMAT unless all are finite. */
int score_check(const float *score, int n, sq_error *err);

/* out[n_tok] = mean over heads of row[n_head,n_tok], summed in double; checked as above. */
int score_head_mean(float *out, const float *row, int n_head, int n_tok, sq_error *err);

/* pick.c: the n_keep largest scores in token order, ties to the lower index. pick must hold
 * n_keep ints. SQ_E_FORMAT when a score is not finite. */
int pick_top(const float *score, int n_tok, int n_keep, int *pick, arena *scratch, sq_error *err);

/* pick_top on one view's scores, then adds base + index for each. */
int plan_keep_top(prune_plan *p, int base, const float *score, int n_tok, int n_keep,
                  arena *scratch, sq_error *err);

#endif
