/* Baseline: every token of every view, whatever the budget. */
#include "prune/policies.h"

int prune_none_plan(const prune_input *in, prune_plan *plan, sq_error *err)
{
    (void)in;
    (void)err;
    for (int i = 0; i < plan->n_in; i++)
        TRY(plan_add_token(plan, i));
    return SQ_OK;
}
