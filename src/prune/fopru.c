/* FoPru (arXiv 2411.14164): keep the patches that matter to the other patches.
 *
 * With A the head mean of the feature layer's attention, CLS cut out of both axes without
 * renormalising: received[j] = mean_i A[i,j], given[i] = mean_j A[i,j] (computed by the backend).
 * Significance = received, unless given has the larger unbiased variance; chosen for each view.
 *     rank: the floor(n_tok R) most significant tokens
 *     row:  the floor(grid_h R) grid rows of largest summed significance, all their tokens
 * A budget given as a count keeps that many tokens (rank) or floor(count / grid_w) rows (row). A
 * budget below one grid row is refused: row mode never keeps more than was asked for.
 * No code of the authors is public; against dongxianzhe/hydrainfer (the one copy found) we take
 * softmax attention as the paper's wording has it (theirs: before softmax, our scores=logits), an
 * exact variance tie takes received (theirs: given), and row mode follows its class, not its
 * function, which keeps 24 times too much.
 * Golden: tests/golden/prune_golden.json by prune_reference.py. */
#include "prune/policies.h"

void fopru_needs(const prune_tower *t, const prune_options *o, prune_needs *out)
{
    (void)t;
    out->means = true;
    out->means_logits = o->fopru_logits;
}

static double variance(const float *x, int n)
{
    double mean = 0, sum = 0;
    for (int i = 0; i < n; i++)
        mean += x[i];
    mean /= n;
    for (int i = 0; i < n; i++)
        sum += (x[i] - mean) * (x[i] - mean);
    return n > 1 ? sum / (n - 1) : 0;
}

static int keep_rows(const prune_input *in, const prune_view *w, const float *sig, int base,
                     prune_plan *plan, sq_error *err)
{
    int n_row = prune_n_keep(in->keep, w->n_tok, PRUNE_FLOOR) / w->grid_w; /* = floor(grid_h R) */
    if (n_row < 1)
        return error_set(err, SQ_E_ARG,
                         "fopru: keep: expected at least one grid row (%d tokens, %.4g%%) for "
                         "strategy=row, found less",
                         w->grid_w, 100.0 / w->grid_h);
    float *score = arena_calloc(in->scratch, (size_t)w->grid_h, sizeof *score);
    int *pick = arena_calloc(in->scratch, (size_t)w->grid_h, sizeof *pick);
    if (!score || !pick) return SQ_E_NOMEM;
    for (int y = 0; y < w->grid_h; y++) {
        double sum = 0;
        for (int x = 0; x < w->grid_w; x++)
            sum += sig[y * w->grid_w + x];
        score[y] = (float)sum;
    }
    TRY(pick_top(score, w->grid_h, n_row, pick, in->scratch, err));
    for (int i = 0; i < n_row; i++)
        for (int x = 0; x < w->grid_w; x++)
            TRY(plan_add_token(plan, base + pick[i] * w->grid_w + x));
    return SQ_OK;
}

int fopru_plan(const prune_input *in, prune_plan *plan, sq_error *err)
{
    for (int v = 0, base = 0; v < in->n_view; base += in->view[v++].n_tok) {
        const prune_view *w = &in->view[v];
        if (!w->received || !w->given)
            return error_set(err, SQ_E_ARG, "fopru: view %d: no attention means captured", v);
        TRY(score_check(w->received, w->n_tok, err));
        TRY(score_check(w->given, w->n_tok, err));
        bool use_given = variance(w->given, w->n_tok) > variance(w->received, w->n_tok);
        const float *sig = use_given ? w->given : w->received;
        if (in->opt->fopru == FOPRU_ROW) {
            TRY(keep_rows(in, w, sig, base, plan, err));
        } else {
            int n_keep = prune_n_keep(in->keep, w->n_tok, PRUNE_FLOOR);
            TRY(plan_keep_top(plan, base, sig, w->n_tok, n_keep, in->scratch, err));
        }
    }
    return SQ_OK;
}
