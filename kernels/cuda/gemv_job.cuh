/* What gemv.cu and gemv_row.cu share: the description of a product of few rows, and its results. */
#ifndef SQ_CUDA_GEMV_JOB_CUH
#define SQ_CUDA_GEMV_JOB_CUH

#include "kernels/cuda/act.cuh"
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/pack.cuh"

struct gemv_part {
    const void *w, *b;
    void *y;
    int64_t out, first; /* its first tile */
    int64_t row;        /* how many rows the parts before it have */
    sq_dtype y_type, b_type;
};

struct gemv_job {
    gemv_part part[3]; /* gated: gate, up */
    const void *x;
    int64_t n_tile, n_row; /* gated: pairs of rows */
    int in, n, n_part;
    sq_act act;
    bool add;
};

/* One row in bf16, aligned operands, compute capability 9.0. False: not a case for it. */
bool cuda_gemv_row(sq_backend *be, const char *op, const gemv_job &job, bool gated);

__device__ __forceinline__ uint64_t read_once_policy()
{
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

/* One result: bias, activation or addition, in the type of y. */
template <class T>
__device__ __forceinline__ void gemv_put(const gemv_job &job, const gemv_part &p, int64_t row,
                                         int col, float sum)
{
    int64_t at = col * p.out + row;
    if (p.b) sum += load_any(p.b, p.b_type, row);
    float v[1] = {sum};
    act_all<false>(v, job.act);
    if (p.y_type != SQ_DTYPE_F32)
        ((T *)p.y)[at] = from_f32<T>(v[0]);
    else
        ((float *)p.y)[at] = job.add ? ((float *)p.y)[at] + v[0] : v[0];
}

template <class T>
__device__ __forceinline__ void gemv_put_gated(const gemv_job &job, int64_t row, int col,
                                               float gate, float up)
{
    const gemv_part &p = job.part[0];
    float v = act_of<SQ_ACT_SILU, false>(gate) * up;
    if (p.y_type != SQ_DTYPE_F32)
        ((T *)p.y)[col * p.out + row] = from_f32<T>(v);
    else
        ((float *)p.y)[col * p.out + row] = v;
}

#endif
