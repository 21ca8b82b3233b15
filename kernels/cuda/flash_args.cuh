/* What the kernels of the attn slot share: arguments, masks, loads of any float type. */
#ifndef SQ_FLASH_ARGS_CUH
#define SQ_FLASH_ARGS_CUH

#include "kernels/cuda/pack.cuh"

#include <cuda.h>
#include <math.h>

/* Without a mask pos0 is n_kv, so that every query sees all keys; without a window it is INT_MAX.
 */
struct flash_args {
    const void *q, *k, *v;
    void *out;
    sq_dtype q_type, kv_type, out_type;
    int n_seq, n_q, n_kv, n_head, n_head_kv, head_dim;
    int pos0, window;
    int n_tile;    /* CTAs of a head */
    bool backward; /* the last rows first: those of a causal mask have the most keys */
    bool wide;     /* all tensors start at a multiple of 16 bytes */
    float scale;
    int group; /* query heads of a key's; flash_wgmma.cu */
};

/* flash_mma.cuh's kernels for queries of 16 bits; flash_bf16.cu and flash_f16.cu. False when the
 * device's shared memory is too small for them. */
bool cuda_flash_bf16(sq_backend *be, const flash_args &a);
bool cuda_flash_f16(sq_backend *be, const flash_args &a);

/* flash_wgmma.cu's, for compute capability 9.0 and tensors that are wide and all of bf16. False for
 * a shape that it does not have. */
bool cuda_flash_wgmma(sq_backend *be, flash_args a);

/* flash_map.cu: how the copy engine finds rows of one head in bf16, 64 columns and box_rows rows at
 * a time. */
bool cuda_flash_map(CUtensorMap *map, const void *data, int head_dim, int n_head, int n_row,
                    int n_seq, int box_rows);

/* Keys [lo, hi). */
struct flash_span {
    int lo, hi;
};

__device__ __forceinline__ flash_span flash_visible(const flash_args &a, int query)
{
    int hi = min(a.pos0 + query + 1, a.n_kv);
    return flash_span{max(hi - a.window, 0), hi};
}

/* The part of the result that a CTA computes. */
struct flash_place {
    int row0, row1;      /* first and last query */
    flash_span keys;     /* that any of them sees */
    int64_t q_at, kv_at; /* first element of row 0 of the sequence's head */
    int q_stride, kv_stride;
};

__device__ __forceinline__ flash_place flash_place_of(const flash_args &a, int head, int head_kv,
                                                      int tile, int seq, int rows)
{
    flash_place p;
    if (a.backward) tile = a.n_tile - 1 - tile;
    p.row0 = tile * rows;
    p.row1 = min(p.row0 + rows, a.n_q) - 1;
    p.keys = flash_span{flash_visible(a, p.row0).lo, flash_visible(a, p.row1).hi};
    p.q_stride = a.n_head * a.head_dim;
    p.kv_stride = a.n_head_kv * a.head_dim;
    p.q_at = (int64_t)seq * a.n_q * p.q_stride + head * a.head_dim;
    p.kv_at = (int64_t)seq * a.n_kv * p.kv_stride + head_kv * a.head_dim;
    return p;
}

__device__ __forceinline__ flash_place flash_find(const flash_args &a, int block, int rows)
{
    int head = block % a.n_head, rest = block / a.n_head;
    return flash_place_of(a, head, head / (a.n_head / a.n_head_kv), rest % a.n_tile,
                          rest / a.n_tile, rows);
}

/* Where powers of two are counted from. Not fused with what follows: the same maximum must give
 * the same number every time, or sums drift. */
__device__ __forceinline__ float flash_base(float max, float scale)
{
    return max == -INFINITY ? 0 : __fmul_rn(max, scale);
}

/* Elements at .. at + 7 of a tensor. */
__device__ __forceinline__ void flash_load8(float (&x)[8], const void *p, sq_dtype t, int64_t at,
                                            bool wide)
{
    if (t == SQ_DTYPE_F32)
        load_8(x, (const float *)p + at, 0, 8, wide);
    else if (t == SQ_DTYPE_F16)
        load_8(x, (const __half *)p + at, 0, 8, wide);
    else
        load_8(x, (const __nv_bfloat16 *)p + at, 0, 8, wide);
}

#endif
