/* Blocked product: x is packed once per chunk of rows, then every task packs a narrow group of
 * weight rows for its own core's cache and runs it against all packed rows. */
#define _GNU_SOURCE
#include "kernels/cpu/linear.h"

#include <omp.h>
#include <stdlib.h>
#include <sys/mman.h>

enum {
    GEMM_KC = 256,           /* slice of the inner dimension: a weight panel stays in L1 */
    GEMM_MC = 144,           /* rows of x beside it in L2; a multiple of every mr */
    GEMM_GROUP = 128,        /* weight rows a task packs at once, at most */
    GEMM_CHUNK = 4 * 1 << 20 /* floats of packed x, at most, unless one MC needs more */
};

typedef struct gemm_plan {
    int64_t rows;         /* of x in this chunk */
    int64_t n_panel;      /* of mr rows */
    int64_t panel_stride; /* floats from panel to panel of one slice */
    int n_slice, kc;      /* of the inner dimension; the last may be shorter */
    int64_t group;        /* weight rows a task */
    int64_t n_group, n_split, split_rows; /* tasks: groups x row ranges */
    float *xp, *wp;       /* wp: one buffer a thread */
    int64_t wp_stride;
} gemm_plan;

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static gemm_plan plan_make(const linear_kernels *k, const linear_job *j, int64_t rows,
                           int n_threads)
{
    gemm_plan p = {.rows = rows, .n_panel = ceil_div(rows, k->mr)};
    p.n_slice = (int)ceil_div(j->in, GEMM_KC);
    /* Slices of 32 values never cut a Q8_0 block. */
    p.kc = (int)ceil_div(ceil_div(j->in, p.n_slice), Q8_0_BLOCK) * Q8_0_BLOCK;
    p.n_slice = (int)ceil_div(j->in, p.kc);
    p.panel_stride = (int64_t)p.kc * k->mr;
    int64_t want = 6 * (int64_t)n_threads; /* tasks enough that the last one to end costs little */
    int64_t group = ceil_div(ceil_div(j->out, want), k->nr) * k->nr;
    /* All of x streams by once a group: many rows are rather split than met by narrow groups. */
    if (group < GEMM_GROUP / 2 && rows > GEMM_MC) group = GEMM_GROUP / 2;
    p.group = min64(GEMM_GROUP, group);
    p.n_group = ceil_div(j->out, p.group);
    int64_t split = min64(ceil_div(2 * (int64_t)n_threads, p.n_group), ceil_div(rows, GEMM_MC));
    p.split_rows = ceil_div(ceil_div(rows, split), k->mr) * k->mr;
    p.n_split = ceil_div(rows, p.split_rows);
    p.wp_stride = p.group * p.kc;
    return p;
}

static void pack_rows(const linear_kernels *k, const gemm_plan *p, const linear_job *j,
                      const float *x, int64_t panel)
{
    int64_t row = panel * k->mr;
    int count = (int)min64(k->mr, p->rows - row);
    for (int s = 0; s < p->n_slice; s++) {
        int64_t k0 = (int64_t)s * p->kc;
        k->pack_x(p->xp + (s * p->n_panel + panel) * p->panel_stride, x + row * j->in + k0, j->in,
                  count, (int)min64(p->kc, j->in - k0));
    }
}

/* The block's share, rows [at, at + rows) of all, of touching the weights of the next slice. */
static void prefetch_share(gemm_block *g, const linear_job *j, int64_t c0, int64_t k0, int kc,
                           int64_t at, int64_t all)
{
    size_t unit = dtype_row_bytes(j->w_type, Q8_0_BLOCK);
    g->next = j->w + (size_t)c0 * j->row_bytes + (size_t)(k0 / Q8_0_BLOCK) * unit;
    g->next_stride = j->row_bytes;
    g->next_row_lines = (int)((size_t)(kc / Q8_0_BLOCK) * unit / 64 + 1);
    int64_t lines = g->cols * g->next_row_lines;
    g->next_line = (int)(lines * at / all);
    g->next_end = (int)(lines * (at + g->rows) / all);
}

static void task_run(const linear_kernels *k, const gemm_plan *p, const linear_job *j, float *y,
                     int64_t group, int64_t split, float *wp)
{
    int64_t c0 = group * p->group, r0 = split * p->split_rows;
    int64_t cols = min64(p->group, j->out - c0), r1 = min64(r0 + p->split_rows, p->rows);
    for (int s = 0; s < p->n_slice; s++) {
        int64_t k0 = (int64_t)s * p->kc;
        int kc = (int)min64(p->kc, j->in - k0);
        for (int64_t c = 0; c < cols; c += k->nr)
            k->pack_w(wp + c * kc, j, c0 + c, (int)min64(k->nr, cols - c), k0, kc);
        for (int64_t r = r0; r < r1; r += GEMM_MC) {
            gemm_block g = {.wp = wp, .y = y + r * j->out + c0, .panel_stride = p->panel_stride,
                            .ldy = j->out, .kc = kc, .rows = (int)min64(GEMM_MC, r1 - r),
                            .cols = (int)cols, .load_y = s > 0 || j->add,
                            .b = s == 0 && j->b ? j->b + c0 : NULL};
            if (s + 1 < p->n_slice) prefetch_share(&g, j, c0, k0 + kc, kc, r - r0, r1 - r0);
            g.xp = p->xp + (s * p->n_panel + r / k->mr) * p->panel_stride;
            k->block(&g);
            if (s < p->n_slice - 1 || j->act == SQ_ACT_NONE) continue;
            for (int i = 0; i < g.rows; i++)
                k->act(g.y + i * g.ldy, cols, j->act);
        }
    }
}

static int scratch_reserve(gemm_scratch *s, size_t size)
{
    if (s->size >= size) return SQ_OK;
    free(s->data);
    s->size = 0;
    /* Huge pages where the system gives them: the panels span more than the TLB holds. */
    const size_t page = (size_t)2 << 20;
    size_t bytes = size > SIZE_MAX / 8 ? 0 : (size * sizeof *s->data + page - 1) / page * page;
    s->data = bytes ? aligned_alloc(page, bytes) : NULL;
    if (!s->data) return SQ_E_NOMEM;
#ifdef MADV_HUGEPAGE
    madvise(s->data, bytes, MADV_HUGEPAGE);
#endif
    s->size = size;
    return SQ_OK;
}

static int64_t round64(int64_t n)
{
    return ceil_div(n, 64) * 64;
}

int gemm_run(const linear_kernels *k, gemm_scratch *s, const linear_job *j, int n_threads)
{
    int64_t chunk = GEMM_CHUNK / j->in / GEMM_MC * GEMM_MC;
    if (chunk < GEMM_MC) chunk = GEMM_MC;
    chunk = ceil_div(ceil_div(j->n, ceil_div(j->n, chunk)), k->mr) * k->mr;
    for (int64_t at = 0; at < j->n; at += chunk) {
        gemm_plan p = plan_make(k, j, min64(chunk, j->n - at), n_threads);
        int64_t x_size = round64(p.n_slice * p.n_panel * p.panel_stride);
        TRY(scratch_reserve(s, (size_t)(x_size + n_threads * round64(p.wp_stride))));
        p.xp = s->data;
        p.wp = s->data + x_size;
        p.wp_stride = round64(p.wp_stride);
        const float *x = j->x + at * j->in;
        float *y = j->y + at * j->out;
#pragma omp parallel num_threads(n_threads)
        {
            float *wp = p.wp + omp_get_thread_num() * p.wp_stride;
#pragma omp for schedule(static)
            for (int64_t i = 0; i < p.n_panel; i++)
                pack_rows(k, &p, j, x, i);
#pragma omp for schedule(dynamic, 1)
            for (int64_t i = 0; i < p.n_group * p.n_split; i++)
                task_run(k, &p, j, y, i / p.n_split, i % p.n_split, wp);
        }
    }
    return SQ_OK;
}

void gemm_scratch_free(gemm_scratch *s)
{
    free(s->data);
    *s = (gemm_scratch){0};
}
