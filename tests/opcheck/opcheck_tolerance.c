/* The allowed errors, in one table. eps = 1.2e-7 is one rounding of f32. Where a case measures by
 * an error model (sum of absolute products, logit size) the model is beside the case.
 *
 * Activations of 16 bits change little here. The reference gets the values that they hold; products
 * of two of them are exact in f32, so sums obey the f32 row. On top comes one rounding of the
 * result to 16 bits: u = 2^-8 (bf16) or 2^-11 (f16) of the value, 2^-134 or 2^-25 below the normal
 * range, added by opcheck_compare.c; a reference that rounds too (rows of a cache) may fall on the
 * other side of a tie: 2 u. What a fused op rounds in between is in the rows that end in 16. */
#include "opcheck.h"

#include <stdlib.h>
#include <string.h>

static const oc_tolerance table[] = {
    {"linear", 1e-6, 6e-8, 1e-41,
     "max: half an eps per unit of (8 + sqrt k) sum|x w|, sums in any order"},
    {"linear bf16", 1e-6, 6e-8, 1e-35,
     "operands that bf16 holds make exact products, so as f32; the hardware takes denormals as 0; "
     "activations are oneDNN's, 1e-5"},
    {"linear 16", 1e-6, 6e-8, 1e-35,
     "as f32; besides u of the product, which may be rounded before bias and act, times slope; an "
     "f32 x may be rounded first; a product may take denormals as 0"},
    {"linear_many", 1e-6, 6e-8, 1e-41, "as linear"},
    {"linear_many bf16", 1e-6, 6e-8, 1e-35, "as linear bf16"},
    {"linear_many 16", 1e-6, 6e-8, 1e-35, "as linear 16"},
    {"linear_gated", 1e-6, 6e-8, 1e-41,
     "the products' errors times the slopes of silu(g) u, then as silu_mul"},
    {"linear_gated bf16", 1e-6, 6e-8, 1e-35, "as linear_gated, with linear bf16's products"},
    {"linear_gated 16", 1e-6, 6e-8, 1e-35,
     "besides, g and u may be rounded: u of each, and what that moves silu by"},
    {"layer_norm", 2e-6, 1e-6, 1e-41,
     "mean, variance and result in f32: 8 eps of |w| (|x| + mean|x|) / sigma"},
    {"rms_norm", 1e-6, 8e-7, 1e-41, "one f32 sum of squares, a root, two products: 7 eps"},
    {"activate", 6e-7, 4e-7, 1e-41,
     "one exponential and one division: 3 eps of |y| + |x|/3, since 1 - exp rounds once"},
    {"silu_mul", 6e-7, 6e-7, 1e-41, "exp 2 ulp, a sum, a division, a product: 5 eps"},
    {"add", 0, 0, 0, "one rounding: the same bits"},
    {"patchify", 0, 0, 0, "a copy: the same bits"},
    {"embed", 0, 0, 0, "stored types convert to f32 exactly: the same bits"},
    {"rope_append", 4e-7, 4e-7, 1e-41,
     "cos and sin 1 ulp of one f32 angle, two products: 3 eps; v and old rows: the same bits"},
    {"rope_append 16", 4e-7, 4e-7, 1e-41,
     "k may be rounded to the activations' type, then to the cache's"},
    {"select_rows", 4e-7, 1.2e-7, 1e-41,
     "max: eps per entry of sum|w x|; an entry of weight 1 alone gives the same bits"},
    {"attn", 1e-6, 2.4e-7, 1e-41,
     "2 eps of (1 + L) max|v|, L the largest logit by Cauchy and Schwarz: exp turns its rounding "
     "into relative error"},
    {"attn 16", 1e-6, 2.4e-7, 1e-41,
     "besides u of sum p|v|: p is rounded to 16 bits; other keys may be rounded to q's type"},
    {"attn_step", 1e-6, 2.4e-7, 1e-41,
     "as attn: q is rotated and stays in f32, keys and values are those of the caches, the new row "
     "too; rotated k 2 eps"},
    {"attn_rows", 1e-6, 2.4e-7, 1e-37, "2 eps of (1 + L) p; p below f32's range may be 0"},
    {"attn_means", 1e-6, 2.4e-7, 1e-37, "2 eps of (1 + L) mean; logits 2 eps of L"},
    {"argmax", 0, 0, 0, "comparisons and one difference: the same bits"},
    {"memory", 0, 0, 0, "the same bytes"},
    {"convert", 0, 0, 0, "round to nearest even, ties too: the same bits"},
    {"region", 0, 0, 0, "the ops of direct calls: the same bits"},
    {"by hand", 2e-6, 2e-6, 1e-41, "constants with 7 digits"},
};
enum { N_TOLERANCE = sizeof table / sizeof *table };

const oc_tolerance *oc_tolerance_find(const char *slot, const char *suffix)
{
    size_t n = strlen(slot);
    const oc_tolerance *found = NULL;
    for (int i = 0; i < N_TOLERANCE; i++) {
        if (strncmp(table[i].slot, slot, n) != 0) continue;
        const char *rest = table[i].slot + n;
        if (strcmp(rest, suffix) == 0) return &table[i];
        if (!*rest) found = &table[i];
    }
    if (!found) abort(); /* a case without a tolerance */
    return found;
}

int oc_tolerance_count(void)
{
    return N_TOLERANCE;
}

const oc_tolerance *oc_tolerance_row(int i)
{
    return &table[i];
}
