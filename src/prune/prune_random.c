/* Baseline: n_keep distinct tokens of each view, every subset equally likely (selection sampling,
 * Knuth 3.4.2 S), in raster order. The draw depends on seed, picture and view alone. Proof:
 * tests/prune/test_prune_policies.c counts subsets. */
#include "core/rng.h"
#include "prune/policies.h"

static uint64_t stream_of(uint64_t seed, int picture, int view)
{
    uint64_t state = seed; /* hashed between the parts: seed 1 picture 0 is not seed 0 picture 1 */
    state = rng_next(&state) + (uint64_t)picture;
    state = rng_next(&state) + (uint64_t)view;
    return rng_next(&state);
}

int prune_random_plan(const prune_input *in, prune_plan *plan, sq_error *err)
{
    (void)err;
    for (int v = 0, base = 0; v < in->n_view; base += in->view[v++].n_tok) {
        int n_tok = in->view[v].n_tok;
        int want = prune_n_keep(in->keep, n_tok, PRUNE_NEAREST);
        uint64_t state = stream_of(in->opt->seed, in->picture, v);
        for (int t = 0; t < n_tok && want > 0; t++) {
            if (rng_below(&state, (uint64_t)(n_tok - t)) >= (uint64_t)want) continue;
            TRY(plan_add_token(plan, base + t));
            want--;
        }
    }
    return SQ_OK;
}
