/* The CUDA backend: opening a device, its op table, its errors. */
#include "kernels/cuda/cuda.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void cuda_fail(sq_backend *be, const char *op, int code, const char *why)
{
    char layer[24] = "";
    if (be->layer >= 0) snprintf(layer, sizeof layer, " layer %d", be->layer);
    error_set(&be->err, code, "cuda: %s, %s%s: %s", op, be->part, layer, why);
}

bool cuda_failed(sq_backend *be, const char *op, cudaError_t rc)
{
    if (rc == cudaSuccess) return false;
    (void)cudaGetLastError(); /* kernel launches report through it too */
    cuda_fail(be, op, cuda_code(rc), cudaGetErrorString(rc));
    return true;
}

bool cuda_refuse(sq_backend *be, const char *op, const char *why)
{
    cuda_fail(be, op, SQ_E_UNSUPPORTED, why);
    return true;
}

/* Nothing to do while recording: cuda_region came here first, on the same thread. */
bool cuda_here(sq_backend *be, const char *op)
{
    const cuda_priv *p = cuda_of(be);
    if (be->err.code) return false;
    return p->recording || !cuda_failed(be, op, cudaSetDevice(p->device));
}

static __global__ void probe_kernel() {}

extern "C" {

/* At least one, or an error. An old driver and none at all are one error to the runtime. */
static int device_count(int *n, sq_error *err)
{
    int driver = 0;
    cudaError_t rc = cudaGetDeviceCount(n);
    if (rc == cudaSuccess && *n > 0) return SQ_OK;
    (void)cudaGetLastError();
    if (rc == cudaSuccess || rc == cudaErrorNoDevice)
        return error_set(err, SQ_E_BACKEND, "cuda: the NVIDIA driver has no GPU to offer");
    if (rc != cudaErrorInsufficientDriver || cudaDriverGetVersion(&driver))
        return error_set(err, SQ_E_BACKEND, "cuda: the NVIDIA driver does not work: %s",
                         cudaGetErrorString(rc));
    if (!driver) return error_set(err, SQ_E_BACKEND, "cuda: there is no NVIDIA driver");
    return error_set(err, SQ_E_BACKEND,
                     "cuda: the NVIDIA driver is for CUDA %d.%d, expected %d.%d or higher",
                     driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000,
                     CUDART_VERSION % 1000 / 10);
}

/* Every file is compiled for the same architectures, so one kernel stands for all. Whatever else is
 * wrong is not told here. */
static bool device_has_code(int device)
{
    cudaFuncAttributes unused;
    cudaError_t rc = cudaSetDevice(device);
    if (!rc) rc = cudaFuncGetAttributes(&unused, probe_kernel);
    if (rc) (void)cudaGetLastError();
    return rc != cudaErrorNoKernelImageForDevice && rc != cudaErrorInvalidDeviceFunction;
}

/* Leaves the device the calling thread's current one when it gets as far as to look for code. */
static int device_check(int device, cudaDeviceProp *prop, sq_error *err)
{
    int n = 0;
    TRY(device_count(&n, err));
    if (device < 0 || device >= n)
        return error_set(err, SQ_E_ARG, "cuda: device %d is not there: found %d (0..%d)", device, n,
                         n - 1);
    cudaError_t rc = cudaGetDeviceProperties(prop, device);
    if (rc != cudaSuccess)
        return error_set(err, cuda_code(rc), "cuda: device %d: %s", device,
                         cudaGetErrorString(rc));
    if (prop->major < 8)
        return error_set(err, SQ_E_BACKEND,
                         "cuda: device %d (%s) has compute capability %d.%d, expected 8.0 or "
                         "higher",
                         device, prop->name, prop->major, prop->minor);
    if (!device_has_code(device))
        return error_set(err, SQ_E_BACKEND,
                         "cuda: device %d (%s) has compute capability %d.%d, for which this build "
                         "has no code",
                         device, prop->name, prop->major, prop->minor);
    return SQ_OK;
}

static int cuda_probe(sq_error *err)
{
    int n = 0;
    return device_count(&n, err);
}

static int cuda_device(int i, backend_device *out)
{
    cudaDeviceProp prop = {};
    int n = 0, callers = 0;
    if (device_count(&n, NULL) || i < 0 || i >= n) return SQ_E_ARG;
    *out = backend_device{};
    bool known = cudaGetDevice(&callers) == cudaSuccess;
    device_check(i, &prop, &out->err);
    if (known && callers != i) cudaSetDevice(callers);
    snprintf(out->name, sizeof out->name, "%.90s", prop.name);
    out->memory = prop.totalGlobalMem;
    out->major = prop.major;
    out->minor = prop.minor;
    return SQ_OK;
}

static const sq_ops cuda_ops = {
    cuda_patchify,    cuda_embed,       cuda_linear,  cuda_linear_many, cuda_linear_gated,
    cuda_layer_norm,  cuda_rms_norm,    cuda_rope_append, cuda_attn,    cuda_attn_step,
    cuda_attn_rows,   cuda_attn_means,  cuda_silu_mul, cuda_activate,   cuda_add,
    cuda_select_rows, cuda_argmax,
};

static void cuda_close(sq_backend *be)
{
    cuda_priv *p = cuda_of(be);
    if (!p) return;
    cudaSetDevice(p->device);
    if (p->stream) cudaStreamSynchronize(p->stream);
    cuda_regions_close(be);
    cuda_gemm_close(be);
    cuda_free(be, p->scratch);
    cuda_staging_close(be);
    if (p->stream) cudaStreamDestroy(p->stream);
    free(p);
    be->priv = NULL;
}

static int open_parts(sq_backend *be, sq_error *err)
{
    cuda_priv *p = cuda_of(be);
    cudaError_t rc = cudaSetDevice(p->device);
    if (!rc) rc = cudaStreamCreateWithFlags(&p->stream, cudaStreamNonBlocking);
    if (rc)
        return error_set(err, cuda_code(rc), "cuda: device %d: %s", p->device,
                         cudaGetErrorString(rc));
    TRY(cuda_staging_open(be, err));
    p->scratch = cuda_alloc(be, CUDA_SCRATCH);
    if (!p->scratch)
        return error_set(err, SQ_E_NOMEM, "cuda: device %d: out of memory", p->device);
    return cuda_gemm_open(be, err);
}

static int cuda_open(sq_backend *be, const backend_options *o, sq_error *err)
{
    cudaDeviceProp prop;
    TRY(device_check(o->device, &prop, err));
    cuda_priv *p = (cuda_priv *)calloc(1, sizeof *p);
    if (!p) return error_set(err, SQ_E_NOMEM, "cuda: out of memory");
    p->device = o->device;
    p->n_sm = prop.multiProcessorCount;
    p->block_smem = prop.sharedMemPerBlockOptin;
    p->dependent_launch = prop.major >= 9;
    p->wgmma = prop.major == 9 && prop.minor == 0;
    be->priv = p;
    be->close_priv = cuda_close;
    be->compute = o->compute == SQ_COMPUTE_AUTO ? SQ_COMPUTE_BF16 : o->compute;
    be->act = be->compute == SQ_COMPUTE_F32    ? SQ_DTYPE_F32
              : be->compute == SQ_COMPUTE_BF16 ? SQ_DTYPE_BF16
                                               : SQ_DTYPE_F16;
    be->resident = true;
    be->n_threads = o->n_threads > 0 ? o->n_threads : (int)sysconf(_SC_NPROCESSORS_ONLN);
    be->ops = cuda_ops;
    be->memory.alloc = cuda_alloc;
    be->memory.free = cuda_free;
    be->memory.user = be;
    be->write = cuda_write;
    be->read = cuda_read;
    be->sync = cuda_sync;
    be->convert = cuda_convert;
    be->region = cuda_region;
    snprintf(be->describe, sizeof be->describe, "cuda: %.80s, sm_%d%d, %.1f GB, %s", prop.name,
             prop.major, prop.minor, (double)prop.totalGlobalMem / 1e9, dtype_name(be->act));
    return open_parts(be, err);
}

const backend_row backend_cuda = {"cuda", cuda_probe, cuda_open, cuda_device};
}
