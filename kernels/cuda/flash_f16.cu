/* Attention on tensor cores in f16. */
#include "kernels/cuda/flash_mma.cuh"

bool cuda_flash_f16(sq_backend *be, const flash_args &a)
{
    return flash_mma<__half>(be, a, SQ_DTYPE_F16);
}
