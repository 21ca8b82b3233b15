/* Tensor maps for flash_wgmma.cu: how the copy engine finds rows of one head. */
#include "kernels/cuda/flash_args.cuh"

using encode_fn = CUresult (*)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                               const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                               const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                               CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* From the driver at run time, or NULL: linking to it would keep the program from starting where
 * there is none. */
static encode_fn encoder(void)
{
    static const encode_fn fn = [] {
        void *p = NULL;
        cudaDriverEntryPointQueryResult how;
#if CUDART_VERSION >= 12050
        cudaError_t rc = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &p, 12000,
                                                          cudaEnableDefault, &how);
#else
        cudaError_t rc =
            cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &p, cudaEnableDefault, &how);
#endif
        if (rc != cudaSuccess) (void)cudaGetLastError();
        return rc == cudaSuccess && how == cudaDriverEntryPointSuccess ? (encode_fn)p : NULL;
    }();
    return fn;
}

bool cuda_flash_map(CUtensorMap *map, const void *data, int head_dim, int n_head, int n_row,
                    int n_seq, int box_rows)
{
    const cuuint64_t head = (cuuint64_t)head_dim * 2, row = head * (cuuint64_t)n_head;
    const cuuint64_t size[4] = {(cuuint64_t)head_dim, (cuuint64_t)n_head, (cuuint64_t)n_row,
                                (cuuint64_t)n_seq};
    const cuuint64_t stride[3] = {head, row, row * (cuuint64_t)n_row};
    const cuuint32_t box[4] = {64, 1, (cuuint32_t)box_rows, 1}, step[4] = {1, 1, 1, 1};
    return encoder() && encoder()(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, (void *)data, size,
                                  stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                  CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}
