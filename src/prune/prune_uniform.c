/* Baseline: token floor((i + 1/2) n_tok / n_keep) of each view for i = 0 .. n_keep-1, evenly spread
 * over the raster. */
#include "prune/policies.h"

int prune_uniform_plan(const prune_input *in, prune_plan *plan, sq_error *err)
{
    (void)err;
    for (int v = 0, base = 0; v < in->n_view; base += in->view[v++].n_tok) {
        int n_tok = in->view[v].n_tok, n_keep = prune_n_keep(in->keep, n_tok, PRUNE_NEAREST);
        for (int i = 0; i < n_keep; i++)
            TRY(plan_add_token(plan, base + (int)((2 * (int64_t)i + 1) * n_tok / (2 * n_keep))));
    }
    return SQ_OK;
}
