#include "kernels/cpu/cpu.h"
#include "kernels/cpu/x86/attn_x86.h"
#include "kernels/cpu/x86/ops_body.h"

void ops_init_avx512(sq_ops *ops)
{
    ops->embed = embed_body;
    ops->layer_norm = layer_norm_body;
    ops->rms_norm = rms_norm_body;
    ops->rope_append = rope_append_body;
    ops->silu_mul = silu_mul_body;
    ops->activate = activate_body;
    ops->add = add_body;
    ops->select_rows = select_rows_body;
    attn_init_avx512(ops);
}
