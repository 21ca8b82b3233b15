#include "kernels/cpu/x86/attn_body.h"

void attn_init_avx512(sq_ops *ops)
{
    ops->attn = attn_body;
    ops->attn_rows = attn_rows_body;
    ops->attn_means = attn_means_body;
}
