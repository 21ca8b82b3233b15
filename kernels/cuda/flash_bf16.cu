/* Attention on tensor cores in bf16. */
#include "kernels/cuda/flash_mma.cuh"

bool cuda_flash_bf16(sq_backend *be, const flash_args &a)
{
    return flash_mma<__nv_bfloat16>(be, a, SQ_DTYPE_BF16);
}
