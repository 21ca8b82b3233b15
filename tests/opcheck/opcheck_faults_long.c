/* Faults that only long sequences or wide products show, and those of what is no slot: moving
 * bytes, converting them, regions. */
#include "opcheck_faults.h"

#include "kernels/cpu/ref/ref.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LONG = 512 }; /* keys from which on attention goes wrong */

/* ---- attention over a list of keys ---- */

/* The keys that a head attends to instead of [lo, hi), of n_kv in memory; returns how many. */
typedef int key_list(int32_t *key, int lo, int hi, int n_kv);

static int keys_of(int32_t *key, int lo, int hi)
{
    for (int j = lo; j < hi; j++)
        key[j - lo] = j;
    return hi - lo;
}

static int no_keys(int32_t *key, int lo, int hi, int n_kv)
{
    (void)key, (void)lo, (void)hi, (void)n_kv;
    return 0;
}

/* The fourth of eight parts is missing. */
static int split_lost(int32_t *key, int lo, int hi, int n_kv)
{
    int n = 0, a = lo + (hi - lo) * 3 / 8, b = lo + (hi - lo) / 2;
    (void)n_kv;
    n = keys_of(key, lo, a);
    return n + keys_of(key + n, b, hi);
}

/* The fourth of eight parts weighs half: all the others are there twice. */
static int split_halved(int32_t *key, int lo, int hi, int n_kv)
{
    int n = split_lost(key, lo, hi, n_kv);
    return n + keys_of(key + n, lo, hi);
}

static int last_lost(int32_t *key, int lo, int hi, int n_kv)
{
    (void)n_kv;
    return keys_of(key, lo, hi - 1);
}

static int next_seen(int32_t *key, int lo, int hi, int n_kv)
{
    return keys_of(key, lo, hi < n_kv ? hi + 1 : hi);
}

static int one_before(int32_t *key, int lo, int hi, int n_kv)
{
    (void)n_kv;
    return keys_of(key, lo > 0 ? lo - 1 : 0, hi);
}

/* out[head_dim] = the attention of q[head_dim] over the listed rows of k and v. */
static void attend(float *out, const float *q, const float *k, const float *v, const attn_desc *d,
                   const int32_t *key, int n)
{
    int64_t stride = (int64_t)d->n_head_kv * d->head_dim;
    double *p = oc_alloc((size_t)n * sizeof *p), max = -INFINITY, sum = 0, value[256] = {0};
    for (int i = 0; i < n; i++) {
        p[i] = 0;
        for (int c = 0; c < d->head_dim; c++)
            p[i] += (double)q[c] * (double)k[key[i] * stride + c] * (double)d->scale;
        max = fmax(max, p[i]);
    }
    for (int i = 0; i < n; i++) {
        sum += p[i] = exp(p[i] - max);
        for (int c = 0; c < d->head_dim; c++)
            value[c] += p[i] * (double)v[key[i] * stride + c];
    }
    for (int c = 0; c < d->head_dim; c++)
        out[c] = n ? (float)(value[c] / sum) : 0;
    free(p);
}

/* The first head of the queries from `first` on, in the last sequence. */
static void attn_listed(sq_backend *be, sq_tensor *out, const sq_tensor *q, const sq_tensor *k,
                        const sq_tensor *v, const attn_desc *d, key_list *list, int first)
{
    be->ops.attn(be, out, q, k, v, d);
    if (d->n_kv < LONG) return;
    int64_t last = d->n_seq > 1 ? d->n_seq - 1 : 0, dim = d->head_dim;
    float *qs = oc_fetch(be, q), *ks = oc_fetch(be, k), *vs = oc_fetch(be, v);
    float *y = oc_fetch(be, out);
    int32_t *key = oc_alloc((size_t)d->n_kv * 2 * sizeof *key);
    for (int i = first; i < d->n_q; i++) {
        int hi = d->causal && d->q_pos0 + i + 1 < d->n_kv ? d->q_pos0 + i + 1 : d->n_kv;
        int lo = d->window && hi > d->window ? hi - d->window : 0;
        int64_t at = (last * d->n_q + i) * d->n_head * dim,
                kv = last * d->n_kv * d->n_head_kv * dim;
        attend(y + at, qs + at, ks + kv, vs + kv, d, key, list(key, lo, hi, d->n_kv));
    }
    oc_put_back(be, out, y);
    free(qs);
    free(ks);
    free(vs);
    free(key);
}

#define ATTN_LISTED(name, list, first)                                                             \
    static void name(sq_backend *be, sq_tensor *out, const sq_tensor *q, const sq_tensor *k,       \
                     const sq_tensor *v, const attn_desc *d)                                       \
    {                                                                                              \
        attn_listed(be, out, q, k, v, d, list, first);                                             \
    }
ATTN_LISTED(attn_zero, no_keys, d->n_q - 1)
ATTN_LISTED(attn_split_lost, split_lost, d->n_q - 1)
ATTN_LISTED(attn_split_halved, split_halved, d->n_q - 1)
ATTN_LISTED(attn_last_lost, last_lost, 0)
ATTN_LISTED(attn_next_seen, next_seen, 0)
ATTN_LISTED(attn_window_late, one_before, 0)

/* ---- the decode step over a list of keys ---- */

/* q, rotated. */
static float *rotated(sq_backend *be, const sq_tensor *q, const kv_step *s, const rope_desc *r)
{
    int64_t n = s->n_seq, dim = (int64_t)r->n_head_kv * r->head_dim;
    float *k = oc_alloc((size_t)(n * dim) * sizeof *k);
    float *v = oc_alloc((size_t)(n * dim) * 2 * sizeof *v), *values = oc_fetch(be, q);
    memset(k, 0, (size_t)(n * dim) * sizeof *k);
    memset(v, 0, (size_t)(n * dim) * 2 * sizeof *v);
    int32_t *at = oc_fetch_ints(be, s->pos);
    sq_tensor qs = tensor_2d(values, SQ_DTYPE_F32, n, q->shape[1]);
    sq_tensor ks = tensor_2d(k, SQ_DTYPE_F32, n, dim), vs = tensor_2d(v, SQ_DTYPE_F32, n, dim);
    sq_tensor other = tensor_2d(v + n * dim, SQ_DTYPE_F32, n, dim);
    sq_tensor pos = tensor_1d(at, SQ_DTYPE_I32, n);
    rope_append_ref(NULL, &qs, &ks, &vs, &vs, &other, 0, &pos, r);
    free(at);
    free(k);
    free(v);
    return values;
}

/* The first head of every sequence. */
static void step_listed(sq_backend *be, sq_tensor *out, sq_tensor *q, sq_tensor *k,
                        const sq_tensor *v, const kv_step *s, const rope_desc *r,
                        const attn_desc *d, key_list *list)
{
    float *qs = rotated(be, q, s, r);
    int32_t *len = oc_fetch_ints(be, s->len);
    be->ops.attn_step(be, out, q, k, v, s, r, d);
    float *y = oc_fetch(be, out);
    for (int i = 0; i < s->n_seq; i++) {
        int hi = len[i] + 1, lo = d->window && hi > d->window ? hi - d->window : 0;
        if (hi < LONG) continue;
        float *ks = oc_fetch(be, s->k[i]), *vs = oc_fetch(be, s->v[i]);
        int32_t *key = oc_alloc((size_t)hi * 2 * sizeof *key);
        int64_t at = (int64_t)i * d->n_head * d->head_dim;
        attend(y + at, qs + at, ks, vs, d, key, list(key, lo, hi, hi));
        free(ks);
        free(vs);
        free(key);
    }
    oc_put_back(be, out, y);
    free(len);
    free(qs);
}

#define STEP_LISTED(name, list)                                                                    \
    static void name(sq_backend *be, sq_tensor *out, sq_tensor *q, sq_tensor *k,                   \
                     const sq_tensor *v, const kv_step *s, const rope_desc *r, const attn_desc *d) \
    {                                                                                              \
        step_listed(be, out, q, k, v, s, r, d, list);                                              \
    }
STEP_LISTED(step_zero, no_keys)
STEP_LISTED(step_split_lost, split_lost)
STEP_LISTED(step_split_halved, split_halved)
STEP_LISTED(step_new_lost, last_lost)
STEP_LISTED(step_window_late, one_before)

/* ---- products of many columns ---- */

/* Columns of the last row from `first` on are those of the tile before. */
static void tile_again(sq_backend *be, sq_tensor *y, int64_t first, int64_t tile)
{
    int64_t cols = y->shape[1];
    float *v = oc_fetch(be, y), *row = v + (y->shape[0] - 1) * cols;
    for (int64_t o = cols - 1; o >= first; o--)
        row[o] = row[o - tile];
    oc_put_back(be, y, v);
}

static void linear_tile_again(sq_backend *be, sq_tensor *y, const sq_tensor *x, const sq_tensor *w,
                              const sq_tensor *b, const linear_desc *d)
{
    be->ops.linear(be, y, x, w, b, d);
    tile_again(be, y, 264 * 16, 16);
}

static void many_tile_again(sq_backend *be, sq_tensor *const y[], const sq_tensor *x,
                            const sq_tensor *const w[], const sq_tensor *const b[], int n)
{
    be->ops.linear_many(be, y, x, w, b, n);
    if (n == 3) tile_again(be, y[2], 264, 16); /* in front of them are the tiles of the others */
}

static void gated_tile_again(sq_backend *be, sq_tensor *y, const sq_tensor *x,
                             const sq_tensor *gate, const sq_tensor *up, sq_tensor *scratch)
{
    be->ops.linear_gated(be, y, x, gate, up, scratch);
    tile_again(be, y, 264 * 8, 8);
}

/* ---- moving bytes ---- */

static sq_backend real; /* what the faults below are wrapped around */

/* A copy goes in blocks of 2 MB; the end of a second one is lost. */
static void write_short(sq_backend *be, void *dst, const void *host_src, size_t size)
{
    real.write(be, dst, host_src, size > (size_t)2 << 20 ? size - 1 : size);
}

/* Whole words, with what lies behind. */
static void write_words(sq_backend *be, void *dst, const void *host_src, size_t size)
{
    size_t whole = (size + 3) / 4 * 4;
    unsigned char *words = oc_alloc(whole);
    memset(words, 0, whole);
    memcpy(words, host_src, size);
    real.write(be, dst, words, whole);
    free(words);
}

/* The source is read only when something else is asked for. */
static struct {
    void *dst;
    const void *src;
    size_t size;
} late;

static void late_run(sq_backend *be)
{
    if (late.size) real.write(be, late.dst, late.src, late.size);
    late.size = 0;
}

static void write_late(sq_backend *be, void *dst, const void *host_src, size_t size)
{
    late_run(be);
    late.dst = dst, late.src = host_src, late.size = size;
}

static void read_late(sq_backend *be, void *host_dst, const void *src, size_t size)
{
    late_run(be);
    real.read(be, host_dst, src, size);
}

/* The second block of 2 MB is the first again. */
static void read_first_block(sq_backend *be, void *host_dst, const void *src, size_t size)
{
    const size_t block = (size_t)2 << 20;
    real.read(be, host_dst, src, size);
    if (size <= block) return;
    memmove((char *)host_dst + block, host_dst, size < 2 * block ? size - block : block);
}

static void plant_write_short(oc_run *r)
{
    real = *r->be;
    r->be->write = write_short;
}

static void plant_write_words(oc_run *r)
{
    real = *r->be;
    r->be->write = write_words;
}

static void plant_write_late(oc_run *r)
{
    real = *r->be;
    r->be->write = write_late;
    r->be->read = read_late;
}

static void plant_read_first(oc_run *r)
{
    real = *r->be;
    r->be->read = read_first_block;
}

/* ---- converting ---- */

/* To 16 bits: the neighbour towards zero instead of the nearest. */
static void convert_cut(sq_backend *be, void *dst, sq_dtype to, const void *src, sq_dtype from,
                        int64_t n)
{
    real.convert(be, dst, to, src, from, n);
    if (oc_unit(to) <= 0) return;
    sq_tensor in = tensor_1d((void *)(size_t)src, from, n), out = tensor_1d(dst, to, n);
    float *x = oc_fetch(be, &in), *y = oc_fetch(be, &out);
    for (int64_t i = 0; i < n; i++)
        if (fabsf(y[i]) > fabsf(x[i])) y[i] = oc_round(y[i] * (1 - 0x1p-9f), SQ_DTYPE_F32);
    oc_put_back(be, &out, y);
    free(x);
}

static void convert_last_left(sq_backend *be, void *dst, sq_dtype to, const void *src,
                              sq_dtype from, int64_t n)
{
    real.convert(be, dst, to, src, from, from == SQ_DTYPE_Q8_0 ? n : n - 1);
}

static void plant_convert_cut(oc_run *r)
{
    real = *r->be;
    r->be->convert = convert_cut;
}

static void plant_convert_last(oc_run *r)
{
    real = *r->be;
    r->be->convert = convert_last_left;
}

/* ---- regions ---- */

static int region_calls;

/* From the third call on a region does nothing: what it recorded is stale. */
static void region_stale(sq_backend *be, const void *key, size_t key_size, void (*fn)(void *user),
                         void *user)
{
    if (region_calls++ < 2) be->region(be, key, key_size, fn, user);
}

static void plant_region_stale(oc_run *r)
{
    region_calls = 0;
    r->region = region_stale;
}

/* The first chain passes. */
static void plant_region_stale_later(oc_run *r)
{
    region_calls = -6;
    r->region = region_stale;
}

const oc_fault oc_long_faults[] = {
    {"long: zeros", "attn", {.attn = attn_zero}, .check = oc_check_attn_long},
    {"long: a split lost", "attn", {.attn = attn_split_lost}, .check = oc_check_attn_long},
    {"long: a split weighs half", "attn", {.attn = attn_split_halved}, .check = oc_check_attn_long},
    {"long: last key lost", "attn", {.attn = attn_last_lost}, .check = oc_check_attn_long},
    {"long: next key seen", "attn", {.attn = attn_next_seen}, .check = oc_check_attn_long},
    {"long: window off by one", "attn", {.attn = attn_window_late}, .check = oc_check_attn_long},
    {"long: zeros", "attn_step", {.attn_step = step_zero}, .check = oc_check_attn_step_long},
    {"long: a split lost",
     "attn_step",
     {.attn_step = step_split_lost},
     .check = oc_check_attn_step_long},
    {"long: a split weighs half",
     "attn_step",
     {.attn_step = step_split_halved},
     .check = oc_check_attn_step_long},
    {"long: new row not seen",
     "attn_step",
     {.attn_step = step_new_lost},
     .check = oc_check_attn_step_long},
    {"long: window off by one",
     "attn_step",
     {.attn_step = step_window_late},
     .check = oc_check_attn_step_long},
    {"wide: a tile again",
     "linear",
     {.linear = linear_tile_again},
     .check = oc_check_linear_large,
     .device = true},
    {"wide: a tile again",
     "linear_many",
     {.linear_many = many_tile_again},
     .check = oc_check_many_large,
     .device = true},
    {"wide: a tile again",
     "linear_gated",
     {.linear_gated = gated_tile_again},
     .check = oc_check_gated_large,
     .device = true},
    {"end of the second block", "memory", .plant = plant_write_short},
    {"whole words written", "memory", .plant = plant_write_words},
    {"source read late", "memory", .plant = plant_write_late},
    {"first block for the second", "memory", .plant = plant_read_first},
    {"cut, not rounded", "convert", .plant = plant_convert_cut},
    {"last value left", "convert", .plant = plant_convert_last},
    {"stale from the third call on", "region", .plant = plant_region_stale},
    {"stale when it is large", "region", .plant = plant_region_stale_later},
    {NULL},
};
