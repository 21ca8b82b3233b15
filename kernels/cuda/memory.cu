/* Device memory, and pinned staging between it and the host. */
#include "kernels/cuda/cuda.cuh"

#include <stdlib.h>
#include <string.h>

enum { N_SLOT = 16 };
static const size_t SLOT_BYTES = (size_t)2 << 20;

/* cudaMalloc gives no sizes back, so they are kept here. */
struct device_block {
    void *data;
    size_t size;
};

/* A ring of pinned slots: a write copies into the next one and goes on while the device fetches
 * it. Reads bounce through a slot of their own. */
struct cuda_staging {
    unsigned char *slot[N_SLOT], *back;
    cudaEvent_t done[N_SLOT];
    int next;
    device_block *block; /* what cuda_alloc gave out */
    int n_block, max_block;
};

int cuda_staging_open(sq_backend *be, sq_error *err)
{
    cuda_staging *s = cuda_of(be)->staging = (cuda_staging *)calloc(1, sizeof *s);
    if (!s) return error_set(err, SQ_E_NOMEM, "cuda: out of memory");
    cudaError_t rc = cudaMallocHost((void **)&s->back, SLOT_BYTES);
    for (int i = 0; i < N_SLOT && !rc; i++) {
        rc = cudaMallocHost((void **)&s->slot[i], SLOT_BYTES);
        if (!rc) rc = cudaEventCreateWithFlags(&s->done[i], cudaEventDisableTiming);
    }
    if (rc)
        return error_set(err, cuda_code(rc), "cuda: pinned memory: %s", cudaGetErrorString(rc));
    return SQ_OK;
}

void cuda_staging_close(sq_backend *be)
{
    cuda_staging *s = cuda_of(be)->staging;
    if (!s) return;
    for (int i = 0; i < N_SLOT; i++) {
        if (s->slot[i]) cudaFreeHost(s->slot[i]);
        if (s->done[i]) cudaEventDestroy(s->done[i]);
    }
    if (s->back) cudaFreeHost(s->back);
    free(s->block);
    free(s);
    cuda_of(be)->staging = NULL;
}

/* Room for one more row in the table of blocks. */
static bool blocks_reserve(cuda_staging *s)
{
    if (s->n_block < s->max_block) return true;
    int max = s->max_block ? 2 * s->max_block : 64;
    device_block *grown = (device_block *)realloc(s->block, (size_t)max * sizeof *grown);
    if (!grown) return false;
    s->block = grown;
    s->max_block = max;
    return true;
}

void *cuda_alloc(void *user, size_t size)
{
    sq_backend *be = (sq_backend *)user;
    cuda_staging *s = cuda_of(be)->staging;
    void *p = NULL;
    if (!blocks_reserve(s)) return NULL;
    if (cudaSetDevice(cuda_of(be)->device) || cudaMalloc(&p, size ? size : 1)) {
        (void)cudaGetLastError();
        return NULL;
    }
    s->block[s->n_block++] = device_block{p, size};
    be->count.bytes += size;
    if (be->count.bytes > be->count.peak_bytes) be->count.peak_bytes = be->count.bytes;
    return p;
}

void cuda_free(void *user, void *p)
{
    sq_backend *be = (sq_backend *)user;
    cuda_staging *s = cuda_of(be)->staging;
    if (!p) return;
    for (int i = s->n_block; i-- > 0;)
        if (s->block[i].data == p) { /* most often one of the newest */
            be->count.bytes -= s->block[i].size;
            s->block[i] = s->block[--s->n_block];
            break;
        }
    be->count.syncs++; /* cudaFree waits for the device */
    cudaSetDevice(cuda_of(be)->device);
    cudaFree(p);
}

void cuda_sync(sq_backend *be)
{
    if (!cuda_here(be, "wait")) return;
    be->count.syncs++;
    cuda_failed(be, "wait", cudaStreamSynchronize(cuda_of(be)->stream));
}

void cuda_write(sq_backend *be, void *dst, const void *host_src, size_t size)
{
    cuda_priv *p = cuda_of(be);
    cuda_staging *s = p->staging;
    const unsigned char *from = (const unsigned char *)host_src;
    unsigned char *to = (unsigned char *)dst;
    if (p->recording) cuda_refuse(be, "write", "inside a recorded region");
    if (!cuda_here(be, "write")) return;
    for (size_t at = 0; at < size && !be->err.code; at += SLOT_BYTES) {
        size_t n = size - at < SLOT_BYTES ? size - at : SLOT_BYTES;
        int i = s->next;
        s->next = (i + 1) % N_SLOT;
        if (cudaEventQuery(s->done[i]) == cudaErrorNotReady) {
            be->count.syncs++;
            cuda_failed(be, "write", cudaEventSynchronize(s->done[i]));
        }
        memcpy(s->slot[i], from + at, n);
        cuda_failed(be, "write", cudaMemcpyAsync(to + at, s->slot[i], n, cudaMemcpyHostToDevice,
                                                 p->stream));
        cuda_failed(be, "write", cudaEventRecord(s->done[i], p->stream));
    }
}

void cuda_read(sq_backend *be, void *host_dst, const void *src, size_t size)
{
    cuda_priv *p = cuda_of(be);
    cuda_staging *s = p->staging;
    unsigned char *to = (unsigned char *)host_dst;
    const unsigned char *from = (const unsigned char *)src;
    if (p->recording) cuda_refuse(be, "read", "inside a recorded region");
    if (!cuda_here(be, "read")) return;
    for (size_t at = 0; at < size && !be->err.code; at += SLOT_BYTES) {
        size_t n = size - at < SLOT_BYTES ? size - at : SLOT_BYTES;
        be->count.syncs++;
        if (cuda_failed(be, "read", cudaMemcpyAsync(s->back, from + at, n, cudaMemcpyDeviceToHost,
                                                    p->stream)) ||
            cuda_failed(be, "read", cudaStreamSynchronize(p->stream)))
            return;
        memcpy(to + at, s->back, n);
    }
}
