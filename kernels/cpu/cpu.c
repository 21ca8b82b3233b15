/* The CPU backend: host memory, OpenMP threads, slots by instruction set. */
#define _GNU_SOURCE
#include "kernels/cpu/cpu.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *host_alloc(void *user, size_t size)
{
    (void)user;
    if (size > SIZE_MAX - 63) return NULL;
    return aligned_alloc(64, (size + 63) & ~(size_t)63);
}

static void host_free(void *user, void *p)
{
    (void)user;
    free(p);
}

static void host_write(sq_backend *be, void *dst, const void *src, size_t size)
{
    (void)be;
    memcpy(dst, src, size);
}

/* Nothing runs after an op has returned. */
static void host_sync(sq_backend *be)
{
    (void)be;
}

static void host_region(sq_backend *be, const void *key, size_t key_size, void (*fn)(void *user),
                        void *user)
{
    (void)be, (void)key, (void)key_size;
    fn(user);
}

static void host_convert(sq_backend *be, void *dst, sq_dtype to, const void *src, sq_dtype from,
                         int64_t n)
{
    float part[8 * Q8_0_BLOCK];
    const int64_t step = sizeof part / sizeof *part;
    (void)be;
    if (to == from) {
        memcpy(dst, src, dtype_row_bytes(to, n));
        return;
    }
    for (int64_t at = 0; at < n; at += step) {
        int64_t count = n - at < step ? n - at : step;
        convert_to_f32(part, (const char *)src + dtype_row_bytes(from, at), from, count);
        convert_from_f32((char *)dst + dtype_row_bytes(to, at), to, part, count);
    }
}

static int usable_cores(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n > 0 ? n : 1;
}

static int cpu_probe(sq_error *err)
{
    (void)err;
    return SQ_OK;
}

static void cpu_close(sq_backend *be)
{
    if (!be->priv) return;
    cpu_linear_close(be);
    free(be->priv);
    be->priv = NULL;
}

static void ops_init_cpu(sq_ops *ops, unsigned flags)
{
    ops_init_ref(ops);
#if defined(__x86_64__)
    if (!(flags & SQ_CPU_AVX2)) return;
    ops_init_avx2(ops);
    if (!(flags & SQ_CPU_AVX512)) return;
    ops_init_avx512(ops);
#else
    (void)flags;
#endif
}

static int cpu_open(sq_backend *be, const backend_options *o, sq_error *err)
{
    char names[64];
    unsigned mask = o->cpu_mask ? o->cpu_mask : ~0u;
    if (o->device)
        return error_set(err, SQ_E_ARG, "backend cpu: there is no device %d", o->device);
    if (o->compute == SQ_COMPUTE_F16)
        return error_set(err, SQ_E_BACKEND,
                         "compute f16: needs a GPU; the CPU computes in f32 or bf16");
    be->memory = (arena_source){host_alloc, host_free, NULL};
    be->write = host_write;
    be->read = host_write;
    be->sync = host_sync;
    be->convert = host_convert;
    be->region = host_region;
    be->act = SQ_DTYPE_F32;
    be->n_threads = o->n_threads > 0 ? o->n_threads : usable_cores();
    be->cpu_flags = (cpu_detect() | SQ_CPU_ONEDNN) & mask;
    be->compute = o->compute;
    be->priv = calloc(1, sizeof(cpu_priv));
    be->close_priv = cpu_close;
    if (!be->priv) return error_set(err, SQ_E_NOMEM, "backend cpu: out of memory");
    ops_init_cpu(&be->ops, be->cpu_flags);
    cpu_flag_names(be->cpu_flags, names, sizeof names);
    snprintf(be->describe, sizeof be->describe, "cpu: %s, %d threads", names, be->n_threads);
    return cpu_linear_open(be, o->pack_limit, err);
}

const backend_row backend_cpu = {"cpu", cpu_probe, cpu_open, NULL};
