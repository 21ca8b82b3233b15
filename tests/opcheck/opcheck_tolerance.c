/* The allowed errors, in one table. eps = 1.2e-7 is one rounding of f32. Where a case measures by
 * an error model (sum of absolute products, logit size) the model is beside the case. */
#include "opcheck.h"

#include <stdlib.h>
#include <string.h>

static const oc_tolerance table[] = {
    {"linear", 1e-6, 6e-8, 1e-41,
     "max: half an eps per unit of (8 + sqrt k) sum|x w|, sums in any order"},
    {"linear bf16", 1e-6, 6e-8, 1e-35,
     "operands that bf16 holds make exact products, so as f32; the hardware takes denormals as 0; "
     "activations are oneDNN's, 1e-5"},
    {"layer_norm", 2e-6, 1e-6, 1e-41,
     "mean, variance and result in f32: 8 eps of |w| (|x| + mean|x|) / sigma"},
    {"rms_norm", 1e-6, 8e-7, 1e-41, "one f32 sum of squares, a root, two products: 7 eps"},
    {"activate", 6e-7, 4e-7, 1e-41,
     "one exponential and one division: 3 eps of |y| + |x|/3, since 1 - exp rounds once"},
    {"silu_mul", 6e-7, 6e-7, 1e-41, "exp 2 ulp, a sum, a division, a product: 5 eps"},
    {"add", 0, 0, 0, "one rounding: the same bits"},
    {"patchify", 0, 0, 0, "a copy: the same bits"},
    {"embed", 0, 0, 0, "stored types convert to f32 exactly: the same bits"},
    {"kv_append", 0, 0, 0, "round to nearest even, ties too: the same bits"},
    {"rope", 4e-7, 4e-7, 1e-41, "cos and sin 1 ulp of one f32 angle, two products: 3 eps"},
    {"select_rows", 4e-7, 1.2e-7, 1e-41,
     "max: eps per entry of sum|w x|; an entry of weight 1 alone gives the same bits"},
    {"attn", 1e-6, 2.4e-7, 1e-41,
     "2 eps of (1 + L) max|v|, L the largest logit by Cauchy and Schwarz: exp turns its rounding "
     "into relative error"},
    {"attn_rows", 1e-6, 2.4e-7, 1e-37, "2 eps of (1 + L) p; p below f32's range may be 0"},
    {"attn_means", 1e-6, 2.4e-7, 1e-37, "2 eps of (1 + L) mean; logits 2 eps of L"},
    {"by hand", 2e-6, 2e-6, 1e-41, "constants with 7 digits"},
};
enum { N_TOLERANCE = sizeof table / sizeof *table };

const oc_tolerance *oc_tolerance_find(const char *slot)
{
    for (int i = 0; i < N_TOLERANCE; i++)
        if (strcmp(table[i].slot, slot) == 0) return &table[i];
    abort(); /* a case without a tolerance */
}

int oc_tolerance_count(void)
{
    return N_TOLERANCE;
}

const oc_tolerance *oc_tolerance_row(int i)
{
    return &table[i];
}
