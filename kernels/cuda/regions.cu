/* Regions as CUDA graphs. The first time a key is seen its ops run one by one: many regions, such
 * as a prompt of some length, never come again. The second time they are recorded, and from then on
 * replayed. */
#include "kernels/cuda/cuda.cuh"

#include <stdlib.h>
#include <string.h>

enum { N_REGION = 48 };

struct region {
    unsigned char *key; /* NULL: free */
    size_t key_size;
    cudaGraphExec_t graph; /* NULL until recorded */
    int64_t used;          /* turn of the last use */
};

struct cuda_regions {
    region row[N_REGION];
    int64_t turn;
};

static void region_clear(region *r)
{
    if (r->graph) cudaGraphExecDestroy(r->graph);
    free(r->key);
    *r = region{};
}

void cuda_regions_close(sq_backend *be)
{
    cuda_regions *all = cuda_of(be)->regions;
    if (!all) return;
    for (int i = 0; i < N_REGION; i++)
        region_clear(&all->row[i]);
    free(all);
    cuda_of(be)->regions = NULL;
}

static region *region_find(cuda_regions *all, const void *key, size_t size)
{
    for (region *r = all->row; r < all->row + N_REGION; r++)
        if (r->key && r->key_size == size && memcmp(r->key, key, size) == 0) return r;
    return NULL;
}

/* Takes a free row or the one that was not used for longest. NULL when memory is out. */
static region *region_new(cuda_regions *all, const void *key, size_t size)
{
    region *oldest = all->row;
    for (region *r = all->row; r < all->row + N_REGION; r++)
        if (r->used < oldest->used) oldest = r;
    region_clear(oldest);
    oldest->key = (unsigned char *)malloc(size);
    if (!oldest->key) return NULL;
    memcpy(oldest->key, key, size);
    oldest->key_size = size;
    return oldest;
}

/* Captures fn's ops; they do not run yet. */
static void region_record(sq_backend *be, region *r, void (*fn)(void *), void *user)
{
    cuda_priv *p = cuda_of(be);
    cudaGraph_t graph = NULL;
    int64_t launches = be->count.launches;
    if (cuda_failed(be, "record", cudaStreamBeginCapture(p->stream,
                                                         cudaStreamCaptureModeThreadLocal)))
        return;
    p->recording = true;
    fn(user);
    p->recording = false;
    be->count.launches = launches;
    cudaError_t rc = cudaStreamEndCapture(p->stream, &graph);
    if (!cuda_failed(be, "record", rc) && !be->err.code)
        cuda_failed(be, "record", cudaGraphInstantiate(&r->graph, graph, 0));
    if (graph) cudaGraphDestroy(graph);
    if (r->graph) be->count.graphs++;
}

void cuda_region(sq_backend *be, const void *key, size_t key_size, void (*fn)(void *), void *user)
{
    cuda_priv *p = cuda_of(be);
    if (!cuda_here(be, "region")) return;
    if (!p->regions) p->regions = (cuda_regions *)calloc(1, sizeof *p->regions);
    region *r = p->regions ? region_find(p->regions, key, key_size) : NULL;
    if (!r) { /* seen for the first time */
        r = p->regions ? region_new(p->regions, key, key_size) : NULL;
        if (r) r->used = ++p->regions->turn;
        fn(user);
        return;
    }
    r->used = ++p->regions->turn;
    if (!r->graph) region_record(be, r, fn, user);
    if (be->err.code) return;
    be->count.launches++;
    cuda_failed(be, "replay", cudaGraphLaunch(r->graph, p->stream));
}
