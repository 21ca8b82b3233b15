/* What the CUDA files share: the backend's state, launching, conversions, warp sums.
 *
 * One stream. Kernels are launched with programmatic dependent launch: a kernel may start while its
 * predecessor still runs, so each calls cuda_wait() before it touches anything but weights, and
 * cuda_release() as soon as its successor may be started. */
#ifndef SQ_CUDA_CUH
#define SQ_CUDA_CUH

extern "C" {
#include "kernels/backend.h"
}

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

struct cuda_gemm;    /* gemm.cu: handle, descriptors and algorithms by shape */
struct cuda_regions; /* regions.cu: recorded graphs by key */
struct cuda_staging; /* memory.cu: pinned memory on the way to and from the device */

struct cuda_priv {
    int device, n_sm;
    size_t block_smem;     /* shared memory that one block may have at most */
    bool dependent_launch; /* compute capability 9.0 or higher */
    bool wgmma;            /* 9.0 alone: asynchronous products on tensor cores */
    bool recording;        /* inside a region that is being captured */
    cudaStream_t stream;
    void *scratch; /* one op's temporary memory; CUDA_SCRATCH bytes */
    cuda_gemm *gemm;
    cuda_regions *regions;
    cuda_staging *staging;
};

enum : size_t {
    CUDA_SCRATCH = (size_t)64 << 20,
    CUDA_PLAIN_SMEM = (size_t)48 << 10 /* shared memory that every kernel may ask for */
};

constexpr int CUDA_GRID_YZ = 65535;   /* most blocks along y and z */
constexpr float LOG2_E = 1.44269504f; /* e^x = 2^(LOG2_E x) */

static inline cuda_priv *cuda_of(sq_backend *be)
{
    return (cuda_priv *)be->priv;
}

/* The backend's sticky error becomes "cuda: attn, vision layer 3: why". */
void cuda_fail(sq_backend *be, const char *op, int code, const char *why);

bool cuda_failed(sq_backend *be, const char *op, cudaError_t rc); /* true when it is a failure */
bool cuda_refuse(sq_backend *be, const char *op, const char *why); /* a case it has no kernel for */

static inline int cuda_code(cudaError_t rc)
{
    return rc == cudaErrorMemoryAllocation ? SQ_E_NOMEM : SQ_E_BACKEND;
}

/* Makes the backend's device the calling thread's current one: each thread has its own, and kernels
 * start on no other. False when an op failed before. */
bool cuda_here(sq_backend *be, const char *op);

/* Starts a kernel on the backend's stream unless an op failed before; early_start: as soon as
 * its predecessor lets it. */
template <class... P, class... A>
void cuda_launch_when(bool early_start, sq_backend *be, const char *op, void (*kernel)(P...),
                      dim3 grid, dim3 block, size_t smem, A... args)
{
    if (!cuda_here(be, op)) return;
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t c = {};
    c.gridDim = grid;
    c.blockDim = block;
    c.dynamicSmemBytes = smem;
    c.stream = cuda_of(be)->stream;
    c.attrs = &early;
    c.numAttrs = early_start && cuda_of(be)->dependent_launch ? 1 : 0;
    be->count.launches++;
    cuda_failed(be, op, cudaLaunchKernelEx(&c, kernel, P(args)...));
}

template <class... P, class... A>
void cuda_launch(sq_backend *be, const char *op, void (*kernel)(P...), dim3 grid, dim3 block,
                 size_t smem, A... args)
{
    cuda_launch_when(true, be, op, kernel, grid, block, smem, args...);
}

/* Before a launch: lets the kernel use more shared memory than 48 KB. Always the same `most` for a
 * kernel: launches of other threads and recorded ones rely on it too. */
template <class F> void cuda_allow_smem(sq_backend *be, const char *op, F *kernel, size_t most)
{
    if (most > CUDA_PLAIN_SMEM && cuda_here(be, op))
        cuda_failed(
            be, op,
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)most));
}

/* Until this returns, memory that earlier kernels write must not be touched. */
__device__ __forceinline__ void cuda_wait()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void cuda_release()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_f32(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T> __device__ __forceinline__ T from_f32(float x);
template <> __device__ __forceinline__ float from_f32<float>(float x) { return x; }
template <> __device__ __forceinline__ __half from_f32<__half>(float x)
{
    return __float2half_rn(x);
}
template <> __device__ __forceinline__ __nv_bfloat16 from_f32<__nv_bfloat16>(float x)
{
    return __float2bfloat16_rn(x);
}

__device__ __forceinline__ float warp_sum(float x)
{
    for (int i = 16; i > 0; i /= 2)
        x += __shfl_xor_sync(~0u, x, i);
    return x;
}

/* Calls f(T{}) with the C++ type of a float dtype. False for any other. */
template <class F> bool with_type(sq_dtype t, F f)
{
    switch (t) {
    case SQ_DTYPE_F32: f(float{}); return true;
    case SQ_DTYPE_F16: f(__half{}); return true;
    case SQ_DTYPE_BF16: f(__nv_bfloat16{}); return true;
    default: return false;
    }
}

/* ---- the parts ---- */

int cuda_gemm_open(sq_backend *be, sq_error *err);
void cuda_gemm_close(sq_backend *be);

int cuda_staging_open(sq_backend *be, sq_error *err);
void cuda_staging_close(sq_backend *be);
void *cuda_alloc(void *be, size_t size);
void cuda_free(void *be, void *p);
void cuda_write(sq_backend *be, void *dst, const void *host_src, size_t size);
void cuda_read(sq_backend *be, void *host_dst, const void *src, size_t size);
void cuda_sync(sq_backend *be);

void cuda_regions_close(sq_backend *be);
void cuda_region(sq_backend *be, const void *key, size_t key_size, void (*fn)(void *), void *user);

/* quant.cu */
void cuda_convert(sq_backend *be, void *dst, sq_dtype to, const void *src, sq_dtype from,
                  int64_t n);

/* gemv.cu: products of at most CUDA_GEMV_ROWS rows, one pass over the weights. */
enum { CUDA_GEMV_ROWS = 8 };
void cuda_gemv(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
               const sq_tensor *b, const linear_desc *d);
void cuda_gemv_many(sq_backend *be, sq_tensor *const y[], const sq_tensor *x,
                    const sq_tensor *const w[], const sq_tensor *const b[], int n);
void cuda_gemv_gated(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *gate,
                     const sq_tensor *up);

/* The slots; ops.h says what they do. */
void cuda_patchify(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *level,
                   int patch);
void cuda_embed(sq_backend *be, sq_tensor *y, const sq_tensor *w, const sq_tensor *ids);
void cuda_linear(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                 const sq_tensor *b, const linear_desc *d);
void cuda_linear_many(sq_backend *be, sq_tensor *const y[], const sq_tensor *x,
                      const sq_tensor *const w[], const sq_tensor *const b[], int n);
void cuda_linear_gated(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *gate,
                       const sq_tensor *up, sq_tensor *scratch);
void cuda_layer_norm(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                     const sq_tensor *b, float eps);
void cuda_rms_norm(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w, float eps);
void cuda_rope_append(sq_backend *be, sq_tensor *q, sq_tensor *k, const sq_tensor *v,
                      sq_tensor *cache_k, sq_tensor *cache_v, int at, const sq_tensor *pos,
                      const rope_desc *d);
void cuda_attn(sq_backend *be, sq_tensor *out, const sq_tensor *q, const sq_tensor *k,
               const sq_tensor *v, const attn_desc *d);
void cuda_attn_step(sq_backend *be, sq_tensor *out, sq_tensor *q, sq_tensor *k, const sq_tensor *v,
                    const kv_step *s, const rope_desc *r, const attn_desc *d);
void cuda_attn_rows(sq_backend *be, sq_tensor *score, const sq_tensor *q, const sq_tensor *k,
                    const int32_t *row, int n_row, bool logits, const attn_desc *d);
void cuda_attn_means(sq_backend *be, sq_tensor *received, sq_tensor *given, const sq_tensor *q,
                     const sq_tensor *k, int first, bool logits, const attn_desc *d);
void cuda_silu_mul(sq_backend *be, sq_tensor *y, const sq_tensor *gate, const sq_tensor *up);
void cuda_activate(sq_backend *be, sq_tensor *y, const sq_tensor *x, sq_act act);
void cuda_add(sq_backend *be, sq_tensor *y, const sq_tensor *x);
void cuda_select_rows(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sparse_rows *m);
void cuda_argmax(sq_backend *be, sq_tensor *best, sq_tensor *gap, const sq_tensor *x);

#endif
