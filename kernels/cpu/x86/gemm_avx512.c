#define GEMM_MR 12
#include "kernels/cpu/x86/gemm_body.h"

const linear_kernels linear_kernels_avx512 = {
    .mr = GEMM_MR,
    .nr = GEMM_NR,
    .rows = gemv_avx512,
    .pack_x = gemm_pack_x,
    .pack_w = gemm_pack_w,
    .block = gemm_block_run,
    .to_f32 = gemm_to_f32,
    .act = gemm_act,
};
