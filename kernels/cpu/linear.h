/* Inside the linear slot: one product as plain pointers, and what an instruction set supplies.
 * Row kernels read the stored weights once for up to a few rows of x; the blocked product packs
 * both operands to f32 panels on the way, so neither needs a second copy of the weights. */
#ifndef SQ_LINEAR_H
#define SQ_LINEAR_H

#include "kernels/cpu/cpu.h"

/* y[n,out] = act(x[n,in] w[out,in]^T + b), or y += x w^T + b when add is set. */
typedef struct linear_job {
    float *y;
    const float *x;
    const unsigned char *w; /* rows of row_bytes; F32 rows may be 2-byte aligned */
    const float *b;         /* [out] or NULL */
    sq_dtype w_type;
    size_t row_bytes;
    int64_t n, in, out;
    sq_act act;
    bool add;
} linear_job;

/* One step of the blocked product: rows x cols of y gain a kc-long slice of the sum. */
typedef struct gemm_block {
    const float *xp; /* panels of mr rows: [kc][mr], panel_stride floats apart */
    const float *wp; /* panels of nr columns: [kc][nr], kc * nr floats apart */
    float *y;        /* first element, rows ldy floats apart */
    const float *b;  /* bias of the first column, added now, or NULL; readable up to cols */
    int64_t panel_stride, ldy;
    int kc, rows, cols;
    bool load_y; /* y holds a part of the sum already */
    /* Cache lines [next_line, next_end) of the weights that come next, next_row_lines a row: the
     * tiles prefetch them, or NULL. */
    const unsigned char *next;
    size_t next_stride;
    int next_row_lines, next_line, next_end;
} gemm_block;

typedef struct linear_kernels {
    int mr, nr;
    /* Output columns [first, last) of every row of y, act included. */
    void (*rows)(const linear_job *j, int64_t first, int64_t last);
    /* dst[kc][mr] from `count` <= mr rows of x starting at x. */
    void (*pack_x)(float *dst, const float *x, int64_t ldx, int count, int kc);
    /* dst[kc][nr] from `count` <= nr weight rows starting at row r, values k0 .. k0 + kc. */
    void (*pack_w)(float *dst, const linear_job *j, int64_t r, int count, int64_t k0, int kc);
    void (*block)(const gemm_block *g);
    void (*to_f32)(float *dst, const void *src, sq_dtype t, int64_t n);
    /* y[n] = act(y[n]) on a block that is still in cache; NULL: the activate slot follows. */
    void (*act)(float *y, int64_t n, sq_act act);
} linear_kernels;

/* Row kernels; the tables below hold them. */
void gemv_avx2(const linear_job *j, int64_t first, int64_t last);
void gemv_avx512(const linear_job *j, int64_t first, int64_t last);

extern const linear_kernels linear_kernels_avx2, linear_kernels_avx512;

/* Scratch of the blocked product; zero-initialised is valid and empty. */
typedef struct gemm_scratch {
    float *data;
    size_t size; /* floats */
} gemm_scratch;

/* The blocked product on n_threads. SQ_E_NOMEM when scratch cannot grow. */
int gemm_run(const linear_kernels *k, gemm_scratch *s, const linear_job *j, int n_threads);
void gemm_scratch_free(gemm_scratch *s);

/* Drops every repacked weight. Repacked weights are known by address, type and shape; a few sampled
 * words tell most reuse of an address, but whoever frees weights while the backend lives on and
 * loads others calls this. */
void cpu_linear_forget(sq_backend *be);

#endif
