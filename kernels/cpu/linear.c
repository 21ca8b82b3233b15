#include "kernels/cpu/linear.h"

#include "kernels/cpu/onednn/linear_onednn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef SQ_ONEDNN
#define SQ_ONEDNN 0
#endif

enum {
    /* Rows of x up to which the row kernels win. 2048x5504 f16, 2 cores: 12 rows 2.9 ms against
     * 3.2 blocked, 16 rows 3.6 against 3.8; 8 rows 1.5 ms, bf16 on AMX the same. */
    LINEAR_ROWS_MAX = 12,
    LINEAR_ROWS_MAX_BF16 = 8,
    /* AVX-512, f32, 2 cores: oneDNN gains 25 % at 84 rows, 8 % at 199; at 577 and 631 our own is
     * between 8 % behind and 11 % ahead, and it keeps no second copy of the weights. */
    LINEAR_ONEDNN_F32_MAX = 256,
    LINEAR_ROWS_CHUNK = 1 << 17 /* bytes of weights a thread takes at once */
};

/* Multiply-adds that are worth another thread (about 3 us). */
static const double LINEAR_THREAD_WORK = 65536;

struct linear_state {
    const linear_kernels *kernels; /* NULL: the reference */
    onednn_linear *onednn;         /* NULL: not used */
    gemm_scratch scratch;
    float *bias; /* the bias as aligned f32, when it is stored otherwise */
    int64_t bias_size;
};

enum { LINEAR_DONE = 0, LINEAR_WITHOUT_ACT = 1 }; /* job_run's results besides SQ_E_* */

static linear_state *state_of(sq_backend *be)
{
    return ((cpu_priv *)be->priv)->linear;
}

static const linear_kernels *kernels_for(unsigned flags)
{
#if defined(__x86_64__)
    if (flags & SQ_CPU_AVX512) return &linear_kernels_avx512;
    if (flags & SQ_CPU_AVX2) return &linear_kernels_avx2;
#endif
    (void)flags;
    return NULL;
}

static int bias_convert(linear_state *s, const sq_tensor *b, int64_t out, const float **bias)
{
    *bias = NULL;
    if (!b || !tensor_is_set(b)) return SQ_OK;
    *bias = b->data;
    if (b->dtype == SQ_DTYPE_F32 && (size_t)b->data % _Alignof(float) == 0) return SQ_OK;
    if (s->bias_size < out) {
        free(s->bias);
        s->bias = malloc((size_t)out * sizeof *s->bias);
        s->bias_size = s->bias ? out : 0;
        if (!s->bias) return SQ_E_NOMEM;
    }
    convert_to_f32(s->bias, b->data, b->dtype, out);
    *bias = s->bias;
    return SQ_OK;
}

static int threads_for(const linear_job *j, int n_threads)
{
    double want = (double)j->n * (double)j->in * (double)j->out / LINEAR_THREAD_WORK;
    return want < 1 ? 1 : want < n_threads ? (int)want : n_threads;
}

static void rows_run(const linear_kernels *k, const linear_job *j, int n_threads)
{
    int64_t step = LINEAR_ROWS_CHUNK / (int64_t)j->row_bytes;
    int64_t fair = j->out / (4 * (int64_t)n_threads);
    if (step > fair) step = fair;
    step = step / 4 * 4 + 4; /* row kernels take four weight rows at once */
#pragma omp parallel for schedule(dynamic, 1) num_threads(n_threads) if (n_threads > 1)
    for (int64_t c = 0; c < j->out; c += step) {
        int64_t end = c + step < j->out ? c + step : j->out;
        k->rows(j, c, end);
        for (int64_t i = 0; i < j->n && j->act != SQ_ACT_NONE; i++)
            k->act(j->y + i * j->out + c, end - c, j->act);
    }
}

static int job_run(sq_backend *be, linear_state *s, const linear_job *j)
{
    bool bf16 = be->compute == SQ_COMPUTE_BF16;
    linear_job own = *j;
    if (!s->kernels->act) own.act = SQ_ACT_NONE;
    if (j->n <= (bf16 ? LINEAR_ROWS_MAX_BF16 : LINEAR_ROWS_MAX)) {
        rows_run(s->kernels, &own, threads_for(j, be->n_threads));
        return own.act == j->act ? LINEAR_DONE : LINEAR_WITHOUT_ACT;
    }
#if SQ_ONEDNN
    if (s->onednn && (bf16 || j->n <= LINEAR_ONEDNN_F32_MAX)) {
        bool done;
        /* The exact path keeps our own activations; under bf16's rounding theirs do. */
        TRY(onednn_linear_run(s->onednn, bf16 ? j : &own, &done, &be->err));
        if (done) return bf16 || own.act == j->act ? LINEAR_DONE : LINEAR_WITHOUT_ACT;
    }
#endif
    if (gemm_run(s->kernels, &s->scratch, &own, threads_for(j, be->n_threads)))
        return error_set(&be->err, SQ_E_NOMEM, "linear: out of memory");
    return own.act == j->act ? LINEAR_DONE : LINEAR_WITHOUT_ACT;
}

static void cpu_linear(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                       const sq_tensor *b, const linear_desc *d)
{
    linear_state *s = state_of(be);
    linear_job j = {.y = y->data, .x = x->data, .w = w->data, .w_type = w->dtype,
                    .row_bytes = dtype_row_bytes(w->dtype, w->shape[1]), .n = x->shape[0],
                    .in = w->shape[1], .out = w->shape[0], .act = d->act, .add = d->add};
    if (!j.n || !j.out) return;
    if (!s->kernels || !j.in) {
        linear_ref(be, y, x, w, b, d);
        return;
    }
    if (bias_convert(s, b, j.out, &j.b)) {
        error_set(&be->err, SQ_E_NOMEM, "linear: out of memory");
        return;
    }
    if (job_run(be, s, &j) == LINEAR_WITHOUT_ACT) be->ops.activate(be, y, y, d->act);
}

#if SQ_ONEDNN
static int open_onednn(sq_backend *be, linear_state *s, size_t pack_limit, sq_error *err)
{
    bool can = be->cpu_flags & SQ_CPU_ONEDNN && s->kernels;
    bool bf16 = can && onednn_linear_has_bf16(be->cpu_flags);
    if (be->compute == SQ_COMPUTE_AUTO) be->compute = bf16 ? SQ_COMPUTE_BF16 : SQ_COMPUTE_F32;
    if (be->compute == SQ_COMPUTE_BF16 && !bf16)
        return error_set(err, SQ_E_BACKEND, "compute bf16: this CPU has no AMX and no AVX-512 BF16,"
                                            " or they are masked; use f32");
    /* Below AVX-512 the library's f32 product packs nothing and our own is as fast. */
    if (!can || (be->compute == SQ_COMPUTE_F32 &&
                 !(be->cpu_flags & SQ_CPU_AVX512 && onednn_linear_has_packed_f32())))
        return SQ_OK;
    onednn_options opt = {be->compute == SQ_COMPUTE_BF16, be->n_threads, pack_limit, s->kernels};
    return onednn_linear_open(&s->onednn, &opt, err);
}
#else
static int open_onednn(sq_backend *be, linear_state *s, size_t pack_limit, sq_error *err)
{
    (void)s, (void)pack_limit;
    if (be->compute == SQ_COMPUTE_BF16)
        return error_set(err, SQ_E_BACKEND, "compute bf16: this build has no oneDNN; use f32");
    be->compute = SQ_COMPUTE_F32;
    return SQ_OK;
}
#endif

static void describe(sq_backend *be, const linear_state *s)
{
    char name[32] = "own gemm";
    if (!s->kernels) snprintf(name, sizeof name, "reference products");
#if SQ_ONEDNN
    if (s->onednn) onednn_linear_name(name, sizeof name);
#endif
    size_t at = strlen(be->describe);
    snprintf(be->describe + at, sizeof be->describe - at, "%s%s, %s", at ? ", " : "", name,
             be->compute == SQ_COMPUTE_BF16 ? "bf16" : "f32");
}

int cpu_linear_open(sq_backend *be, size_t pack_limit, sq_error *err)
{
    cpu_priv *priv = be->priv;
    linear_state *s = priv->linear = calloc(1, sizeof *s);
    if (!s) return error_set(err, SQ_E_NOMEM, "linear: out of memory");
    s->kernels = kernels_for(be->cpu_flags);
    int rc = open_onednn(be, s, pack_limit, err);
    if (rc) {
        cpu_linear_close(be);
        return rc;
    }
    be->ops.linear = cpu_linear;
    describe(be, s);
    return SQ_OK;
}

void cpu_linear_forget(sq_backend *be)
{
#if SQ_ONEDNN
    if (state_of(be)->onednn) onednn_linear_forget(state_of(be)->onednn);
#else
    (void)be;
#endif
}

void cpu_linear_close(sq_backend *be)
{
    cpu_priv *priv = be->priv;
    linear_state *s = priv ? priv->linear : NULL;
    if (!s) return;
#if SQ_ONEDNN
    onednn_linear_close(&s->onednn);
#endif
    gemm_scratch_free(&s->scratch);
    free(s->bias);
    free(s);
    priv->linear = NULL;
}
