/* Attention on compute capability 9.0's tensor cores in bf16. */
#include "kernels/cuda/flash_wgmma.cuh"

bool cuda_flash_wgmma_bf16(sq_backend *be, const flash_args &a)
{
    return flash_wgmma<__nv_bfloat16>(be, a);
}
