/* The attention kernels of each instruction set. */
#ifndef SQ_ATTN_X86_H
#define SQ_ATTN_X86_H

#include "kernels/ops.h"

void attn_init_avx2(sq_ops *ops);
void attn_init_avx512(sq_ops *ops);

#endif
