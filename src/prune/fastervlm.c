/* FasterVLM (arXiv 2412.01818): keep the patches that CLS attends to most.
 *
 *     score[t] = mean over heads of softmax(q k^T / sqrt(head_dim))[CLS, t], feature layer (-2)
 *
 * The CLS key is dropped, not renormalised. Per view the n_keep best, in raster order; a share is
 * rounded to nearest (10% of 576: 58). Padding patches of a tile compete like any other, as in the
 * authors' code, which does not unpad.
 * Differs from the authors' code: f32 scores with ties to the lower index (theirs: fp16, ties left
 * to torch.topk); rows are dropped before the projector, which acts on each token alone, so the
 * result is the same up to rounding of the products.
 * Golden: tests/golden/prune_golden.json by prune_reference.py, and the kept indices that
 * transformers' attention gives on the demo model. */
#include "prune/policies.h"

void fastervlm_needs(const prune_tower *t, const prune_options *o, prune_needs *out)
{
    (void)o;
    out->cls_rows = true;
    out->row_first = out->row_last = t->feature_layer;
}

int fastervlm_plan(const prune_input *in, prune_plan *plan, sq_error *err)
{
    for (int v = 0, base = 0; v < in->n_view; base += in->view[v++].n_tok) {
        const prune_view *w = &in->view[v];
        int n_tok = w->n_tok;
        if (!w->cls_rows || w->row_count < 1)
            return error_set(err, SQ_E_ARG, "fastervlm: view %d: no CLS attention captured", v);
        float *score = arena_calloc(in->scratch, (size_t)n_tok, sizeof *score);
        if (!score) return SQ_E_NOMEM;
        const float *row = w->cls_rows + (size_t)(w->row_count - 1) * w->n_head * n_tok;
        TRY(score_head_mean(score, row, w->n_head, n_tok, err));
        int n_keep = prune_n_keep(in->keep, n_tok, PRUNE_NEAREST);
        TRY(plan_keep_top(plan, base, score, n_tok, n_keep, in->scratch, err));
    }
    return SQ_OK;
}
