#include "prune/prune.h"

#include <math.h>
#include <stdlib.h>

typedef struct ranked {
    float score;
    int token;
} ranked;

/* Descending score, then ascending token: a total order, so qsort gives one result anywhere. */
static int ranked_compare(const void *pa, const void *pb)
{
    const ranked *a = pa, *b = pb;
    if (a->score != b->score) return a->score > b->score ? -1 : 1;
    return (a->token > b->token) - (a->token < b->token);
}

static int int_compare(const void *pa, const void *pb)
{
    int a = *(const int *)pa, b = *(const int *)pb;
    return (a > b) - (a < b);
}

int score_check(const float *score, int n, sq_error *err)
{
    for (int i = 0; i < n; i++)
        if (!isfinite(score[i]))
            return error_set(err, SQ_E_FORMAT,
                             "pruning score: token %d: expected a finite number, found %s", i,
                             isnan(score[i]) ? "NaN" : "infinity");
    return SQ_OK;
}

int score_head_mean(float *out, const float *row, int n_head, int n_tok, sq_error *err)
{
    if (n_head < 1) return error_set(err, SQ_E_ARG, "pruning score: no attention heads");
    for (int t = 0; t < n_tok; t++) {
        double sum = 0;
        for (int h = 0; h < n_head; h++)
            sum += row[(size_t)h * n_tok + t];
        out[t] = (float)(sum / n_head);
    }
    return score_check(out, n_tok, err);
}

int pick_top(const float *score, int n_tok, int n_keep, int *pick, arena *scratch, sq_error *err)
{
    TRY(score_check(score, n_tok, err));
    ranked *r = arena_calloc(scratch, (size_t)n_tok, sizeof *r);
    if (!r) return error_set(err, SQ_E_NOMEM, "out of memory");
    for (int i = 0; i < n_tok; i++)
        r[i] = (ranked){score[i], i};
    qsort(r, (size_t)n_tok, sizeof *r, ranked_compare);
    for (int i = 0; i < n_keep; i++)
        pick[i] = r[i].token;
    qsort(pick, (size_t)n_keep, sizeof *pick, int_compare);
    return SQ_OK;
}

int plan_keep_top(prune_plan *p, int base, const float *score, int n_tok, int n_keep,
                  arena *scratch, sq_error *err)
{
    if (n_keep > n_tok) n_keep = n_tok;
    int *pick = arena_calloc(scratch, (size_t)n_tok, sizeof *pick);
    if (!pick) return error_set(err, SQ_E_NOMEM, "out of memory");
    TRY(pick_top(score, n_tok, n_keep, pick, scratch, err));
    for (int i = 0; i < n_keep; i++)
        TRY(plan_add_token(p, base + pick[i]));
    return SQ_OK;
}
