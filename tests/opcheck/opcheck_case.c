/* One case: tensors between canaries, fills, comparison, report. */
#include "opcheck.h"

#include "core/rng.h"
#include "kernels/cpu/linear.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD = 256, PRINT_MAX = 40 };

void *oc_alloc(size_t size)
{
    void *p = malloc(size ? size : 1);
    if (p) return p;
    fprintf(stderr, "opcheck: out of memory\n");
    exit(1);
}

double oc_uniform(oc_run *r)
{
    return 2 * rng_unit(&r->seed) - 1;
}

int oc_pick(oc_run *r, int n)
{
    return (int)rng_below(&r->seed, (uint64_t)n);
}

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

bool oc_is_finite(float f)
{
    return (bits_of(f) & 0x7f800000u) != 0x7f800000u;
}

bool oc_is_nan(float f)
{
    return (bits_of(f) & 0x7fffffffu) > 0x7f800000u;
}

const char *oc_fill_name(oc_fill f)
{
    static const char *const name[] = {"random", "wide", "ties",   "tiny",
                                       "huge",   "zero", "offset", "small"};
    return name[f];
}

bool oc_begin(oc_run *r, const char *slot, const char *fmt, ...)
{
    if (r->stop_early && r->failed) return false;
    bool bf16 = strcmp(slot, "linear") == 0 && r->bf16;
    r->tol = oc_tolerance_find(bf16 ? "linear bf16" : slot);
    va_list args;
    va_start(args, fmt);
    int n = snprintf(r->text, sizeof r->text, "%s ", slot);
    vsnprintf(r->text + n, sizeof r->text - (size_t)n, fmt, args);
    va_end(args);
    return true;
}

static oc_slot_count *count_of(oc_run *r)
{
    int i = 0;
    while (oc_tolerance_row(i) != r->tol)
        i++;
    return &r->count[i];
}

void oc_expect(oc_run *r, bool ok, const char *fmt, ...)
{
    r->checks++;
    count_of(r)->checks++;
    if (ok) return;
    r->failed++;
    count_of(r)->failed++;
    if (r->quiet || r->printed++ >= PRINT_MAX) return;
    char why[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(why, sizeof why, fmt, args);
    va_end(args);
    printf("FAILED %s: %s\n", r->text, why);
    if (r->printed == PRINT_MAX) printf("(further failures are only counted)\n");
}

static float fill_one(oc_run *r, oc_fill fill, int64_t cols)
{
    double u = oc_uniform(r);
    switch (fill) {
    case OC_WIDE: {
        int kind = oc_pick(r, 8);
        return (float)(kind == 0 ? u * 1e-6 : kind == 1 ? u * 1e3 : u);
    }
    case OC_TIES:
        return (float)(oc_pick(r, 5) - 2) * 0.5f;
    case OC_TINY:
        return (float)(u * (oc_pick(r, 2) ? 1e-39 : 3e-38));
    case OC_HUGE:
        return (float)(u * 1e15);
    case OC_ZERO:
        return oc_pick(r, 2) ? 0.0f : -0.0f;
    case OC_OFFSET:
        return (float)(1000 + u);
    case OC_ONE_PER:
        return (float)(u / (double)cols);
    default:
        return (float)u;
    }
}

static void fill_tensor(oc_run *r, const sq_tensor *t, oc_fill fill)
{
    int64_t rows = t->shape[0], cols = t->shape[1];
    float *row = oc_alloc((size_t)cols * sizeof *row);
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t c = 0; c < cols; c++) {
            row[c] = fill_one(r, fill, cols);
            if (r->fill_bf16) row[c] = bf16_to_f32(f32_to_bf16(row[c]));
        }
        convert_from_f32((char *)t->data + (size_t)i * dtype_row_bytes(t->dtype, cols), t->dtype,
                         row, cols);
    }
    free(row);
}

static unsigned char guard_byte(size_t i)
{
    return (unsigned char)(0xa5 + 7 * i);
}

/* The payload starts at the given alignment and at no wider one: a view into a larger buffer. */
static oc_buf *buf_make(oc_run *r, sq_dtype t, int64_t rows, int64_t cols, size_t align)
{
    if (r->n_buf == OC_MAX_BUFS) abort();
    oc_buf *b = &r->buf[r->n_buf++];
    *b = (oc_buf){.bytes = (size_t)rows * dtype_row_bytes(t, cols)};
    b->at = GUARD + align * (1 + 2 * (size_t)oc_pick(r, 8));
    b->size = b->at + b->bytes + GUARD;
    b->host_mem = oc_alloc(b->size);
    for (size_t i = 0; i < b->size; i++)
        b->host_mem[i] = guard_byte(i);
    b->dev_mem = r->be->memory.alloc(r->be->memory.user, b->size);
    if (!b->dev_mem) {
        fprintf(stderr, "opcheck: out of device memory\n");
        exit(1);
    }
    b->host = tensor_2d(b->host_mem + b->at, t, rows, cols);
    b->dev = tensor_2d((unsigned char *)b->dev_mem + b->at, t, rows, cols);
    return b;
}

static void want_make(oc_buf *b)
{
    b->output = true;
    b->want_mem = oc_alloc(b->bytes + 64);
    b->want = b->host;
    b->want.data = b->want_mem;
}

oc_buf *oc_in(oc_run *r, sq_dtype t, int64_t rows, int64_t cols, oc_fill fill)
{
    oc_buf *b = buf_make(r, t, rows, cols, t == SQ_DTYPE_F32 ? 4 : 2);
    fill_tensor(r, &b->host, fill);
    return b;
}

oc_buf *oc_stored(oc_run *r, sq_dtype t, int64_t rows, int64_t cols, oc_fill fill)
{
    bool mapped = strcmp(r->be->name, "cpu") == 0;
    oc_buf *b = buf_make(r, t, rows, cols, t == SQ_DTYPE_F32 && !mapped ? 4 : 2);
    fill_tensor(r, &b->host, fill);
    return b;
}

oc_buf *oc_inout(oc_run *r, sq_dtype t, int64_t rows, int64_t cols, oc_fill fill)
{
    oc_buf *b = oc_in(r, t, rows, cols, fill);
    want_make(b);
    return b;
}

oc_buf *oc_out(oc_run *r, int64_t rows, int64_t cols)
{
    oc_buf *b = buf_make(r, SQ_DTYPE_F32, rows, cols, 4);
    for (int64_t i = 0; i < rows * cols; i++)
        oc_values(b)[i] = NAN; /* what is never written is found */
    want_make(b);
    return b;
}

float *oc_values(const oc_buf *b)
{
    return b->host.data;
}

double *oc_scale(oc_buf *b)
{
    if (!b->scale) b->scale = oc_alloc((size_t)tensor_count(&b->host) * sizeof *b->scale);
    return b->scale;
}

sq_tensor oc_vector(const sq_tensor *t)
{
    return tensor_1d(t->data, t->dtype, t->shape[1]);
}

sq_tensor oc_none(void)
{
    return (sq_tensor){0};
}

void oc_upload(oc_run *r)
{
    for (int i = 0; i < r->n_buf; i++) {
        oc_buf *b = &r->buf[i];
        r->be->write(r->be, b->dev_mem, b->host_mem, b->size);
        if (b->output) memcpy(b->want_mem, b->host_mem + b->at, b->bytes);
    }
}

static float value_at(const void *data, sq_dtype t, int64_t i)
{
    float f;
    size_t item = dtype_row_bytes(t, 1);
    convert_to_f32(&f, (const char *)data + (size_t)i * item, t, 1);
    return f;
}

typedef struct oc_diff {
    double worst_max, l2; /* as shares of the tolerance */
    int64_t at;           /* the worst element; -1: none over its limit */
    float got, want;
} oc_diff;

static double row_scale(const oc_buf *b, const float *want, int64_t row)
{
    double max = 0;
    int64_t cols = b->want.shape[1];
    for (int64_t c = 0; c < cols; c++) {
        float w = want[row * cols + c];
        if (oc_is_finite(w) && fabs((double)w) > max) max = fabs((double)w);
    }
    return max;
}

/* 0 when alike; a share of the limit; INFINITY when the classes differ (NaN, infinity, finite). */
static double element_share(float got, float want, double limit)
{
    if (!oc_is_finite(want)) {
        bool same = oc_is_nan(want) ? oc_is_nan(got) : bits_of(got) == bits_of(want);
        return same ? 0 : INFINITY;
    }
    if (!oc_is_finite(got)) return INFINITY;
    double error = fabs((double)got - (double)want);
    return error == 0 ? 0 : limit > 0 ? error / limit : INFINITY;
}

static oc_diff compare(const oc_tolerance *tol, const oc_buf *b, const unsigned char *got,
                       const void *expected)
{
    oc_diff d = {.at = -1};
    sq_dtype t = b->host.dtype;
    int64_t cols = b->want.shape[1], n = b->want.shape[0] * cols;
    double sum = 0, all = 0, row = 0, scales = 0;
    for (int64_t i = 0; i < n; i++) {
        float g = value_at(got, t, i), w = value_at(expected, t, i);
        if (b->measure == OC_BY_ROW && i % cols == 0) row = row_scale(b, expected, i / cols);
        double scale = b->scale ? b->scale[i] : b->measure == OC_BY_ROW ? row : fabs((double)w);
        double share = element_share(g, w, tol->max * scale + tol->floor);
        if (share > d.worst_max) {
            d.worst_max = share;
            d.at = i;
            d.got = g;
            d.want = w;
        }
        if (!oc_is_finite(g) || !oc_is_finite(w)) continue;
        sum += ((double)g - (double)w) * ((double)g - (double)w);
        all += (double)w * (double)w;
        scales += scale * scale;
    }
    /* Where the values cancel out, a quarter of the error model (all of it for one value). */
    double model = tol->max * sqrt(scales) / fmin(sqrt((double)n), 4);
    double limit = fmax(tol->rel_l2 * sqrt(all), model) + tol->floor * sqrt((double)n);
    d.l2 = sum == 0 ? 0 : limit > 0 ? sqrt(sum) / limit : INFINITY;
    return d;
}

static void check_output(oc_run *r, const oc_buf *b, const unsigned char *got, const void *other)
{
    oc_diff d = compare(r->tol, b, got, b->want.data);
    if (other) {
        oc_diff e = compare(r->tol, b, got, other);
        if (fmax(e.worst_max, e.l2) < fmax(d.worst_max, d.l2)) d = e;
    }
    oc_slot_count *c = count_of(r);
    if (d.worst_max > c->worst_max) c->worst_max = d.worst_max;
    if (d.l2 > c->worst_l2) c->worst_l2 = d.l2;
    int64_t cols = b->want.shape[1];
    oc_expect(
        r, d.worst_max <= 1 && d.l2 <= 1,
        "row %lld column %lld is %.9g, expected %.9g: %.3g of the allowed error (rel. L2 %.3g)",
        (long long)(d.at / cols), (long long)(d.at % cols), (double)d.got, (double)d.want,
        d.worst_max, d.l2);
}

static void check_buf(oc_run *r, int i, const void *other)
{
    oc_buf *b = &r->buf[i];
    unsigned char *got = oc_alloc(b->size);
    size_t bad = 0, end = b->at + b->bytes;
    r->be->read(r->be, got, b->dev_mem, b->size);
    if (b->output) check_output(r, b, got + b->at, other);
    for (size_t k = 0; k < b->size; k++)
        if ((k < b->at || k >= end) && got[k] != guard_byte(k) && !bad) bad = k + 1;
    oc_expect(r, !bad, "canary of tensor %d overwritten %lld bytes from its %s", i,
              bad > end ? (long long)(bad - 1 - end) : (long long)(b->at + 1 - bad),
              bad > end ? "end" : "start");
    if (!b->output)
        oc_expect(r, memcmp(got + b->at, b->host_mem + b->at, b->bytes) == 0,
                  "input tensor %d was changed", i);
    free(got);
}

void oc_forget_weights(oc_run *r)
{
    if (strcmp(r->be->name, "cpu") == 0) cpu_linear_forget(r->be);
}

void oc_end_either(oc_run *r, const oc_buf *out, const float *other)
{
    oc_expect(r, r->be->err.code == 0, "%s", r->be->err.text);
    error_clear(&r->be->err);
    for (int i = 0; i < r->n_buf; i++)
        check_buf(r, i, &r->buf[i] == out ? other : NULL);
    oc_forget_weights(r);
    for (int i = 0; i < r->n_buf; i++) {
        oc_buf *b = &r->buf[i];
        r->be->memory.free(r->be->memory.user, b->dev_mem);
        free(b->host_mem);
        free(b->want_mem);
        free(b->scale);
    }
    r->n_buf = 0;
}

void oc_end(oc_run *r)
{
    oc_end_either(r, NULL, NULL);
}
