/* One case: its tensors between canaries, fills, upload. */
#include "opcheck.h"

#include "core/rng.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PRINT_MAX = 40 };
static const size_t POOL = (size_t)640 << 20; /* 151936 x 896 weights in f32 */

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
    static const char *const name[] = {"random", "wide",   "ties",  "tiny", "huge",
                                       "zero",   "offset", "small", "own"};
    return name[f];
}

bool oc_is_device(const oc_run *r)
{
    return r->be->resident && r->most <= 0;
}

void oc_align_next(oc_run *r)
{
    r->n_case = r->n_case / 4 * 4 + 3; /* see payload_at */
}

bool oc_costs_too_much(oc_run *r, double multiply_adds)
{
    bool much = r->most > 0 && multiply_adds > r->most;
    r->left_out += much;
    return much;
}

bool oc_begin(oc_run *r, const char *slot, const char *fmt, ...)
{
    if (r->stop_early && r->failed) return false;
    if (r->every > 1 && r->n_asked++ % r->every) return false;
    r->tol = oc_tolerance_find(slot, r->bf16 ? " bf16" : r->unit > 0 ? " 16" : "");
    r->n_case++;
    va_list args;
    va_start(args, fmt);
    int n = snprintf(r->text, sizeof r->text, "%s ", slot);
    vsnprintf(r->text + n, sizeof r->text - (size_t)n, fmt, args);
    va_end(args);
    return true;
}

oc_slot_count *oc_count_of(oc_run *r)
{
    int i = 0;
    while (oc_tolerance_row(i) != r->tol)
        i++;
    return &r->count[i];
}

void oc_expect(oc_run *r, bool ok, const char *fmt, ...)
{
    r->checks++;
    oc_count_of(r)->checks++;
    if (ok) return;
    r->failed++;
    oc_count_of(r)->failed++;
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
        return (float)(u * (r->act == SQ_DTYPE_F16 ? 100 : 1e15));
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

/* Multiples of a power of two, 127 of them in every block: Q8_0 keeps such values as they are, and
 * bf16 holds its 8 bits. */
static void make_exact_q8_0(float *row, int64_t cols)
{
    for (int64_t at = 0; at < cols; at += Q8_0_BLOCK) {
        float most = 0x1p-7f;
        for (int64_t c = at; c < at + Q8_0_BLOCK; c++)
            most = fmaxf(most, fabsf(row[c]));
        float unit = exp2f(ceilf(log2f(most))) * 0x1p-7f;
        for (int64_t c = at; c < at + Q8_0_BLOCK; c++)
            row[c] = fmaxf(-127, fminf(rintf(row[c] / unit), 127)) * unit;
        row[at] = copysignf(127 * unit, row[at]);
    }
}

void oc_fill_tensor(oc_run *r, const sq_tensor *t, oc_fill fill)
{
    int64_t rows = t->shape[0], cols = t->shape[1];
    if (fill == OC_LATER) return;
    if (t->dtype == SQ_DTYPE_I32 || t->dtype == SQ_DTYPE_U8) {
        memset(t->data, 0, tensor_bytes(t));
        return;
    }
    float *row = oc_alloc((size_t)cols * sizeof *row);
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t c = 0; c < cols; c++) {
            row[c] = fill_one(r, fill, cols);
            if (r->fill_type) row[c] = oc_round(row[c], r->fill_type);
        }
        if (oc_unit(r->fill_type) > 0 && t->dtype == SQ_DTYPE_Q8_0) make_exact_q8_0(row, cols);
        convert_from_f32((char *)t->data + (size_t)i * dtype_row_bytes(t->dtype, cols), t->dtype,
                         row, cols);
    }
    free(row);
}

unsigned char oc_guard_byte(size_t i)
{
    return (unsigned char)(0xa5 + 7 * i);
}

/* Memory of the case. A device's comes from one pool: its own alloc and free wait for it. */
static void *device_take(oc_run *r, size_t size)
{
    arena_source *m = &r->be->memory;
    if (r->be->resident && !r->pool) {
        r->pool = m->alloc(m->user, POOL);
        r->pool_size = r->pool ? POOL : 0;
    }
    void *p = NULL;
    if (!r->be->resident) {
        p = m->alloc(m->user, size);
    } else if (r->pool_size - r->pool_used >= size) {
        p = r->pool + r->pool_used;
        r->pool_used += (size + 255) / 256 * 256;
    }
    if (p) return p;
    fprintf(stderr, "opcheck: out of device memory\n");
    exit(1);
}

void oc_release(oc_run *r)
{
    for (int i = 0; i < r->n_buf; i++) {
        oc_buf *b = &r->buf[i];
        if (!r->be->resident) r->be->memory.free(r->be->memory.user, b->dev_mem);
        free(b->host_mem);
        free(b->want_mem);
        free(b->values);
        free(b->scale);
        free(b->slack);
    }
    r->n_buf = 0;
    r->pool_used = 0;
}

/* Where a payload begins: at the given alignment and no wider one, as a view into a larger tensor
 * does. A device's lie at a multiple of 64 in half of the cases, as they do outside of tests. */
static size_t payload_at(oc_run *r, size_t align)
{
    size_t odd = OC_GUARD + align * (1 + 2 * (size_t)oc_pick(r, 8));
    int mode = r->n_case % 4;
    bool aligned = mode < 2 || (mode == 2 && oc_pick(r, 2));
    return r->be->resident && aligned ? OC_GUARD : odd;
}

static oc_buf *buf_make(oc_run *r, sq_dtype t, int64_t rows, int64_t cols, size_t align, bool f32)
{
    if (r->n_buf == OC_MAX_BUFS) abort();
    oc_buf *b = &r->buf[r->n_buf++];
    *b = (oc_buf){.bytes = (size_t)rows * dtype_row_bytes(t, cols)};
    b->at = payload_at(r, align);
    b->size = b->at + b->bytes + OC_GUARD;
    b->host_mem = oc_alloc(b->size);
    for (size_t i = 0; i < b->size; i = i + 1 == b->at ? b->at + b->bytes : i + 1)
        b->host_mem[i] = oc_guard_byte(i);
    b->dev_mem = device_take(r, b->size);
    b->host = tensor_2d(b->host_mem + b->at, t, rows, cols);
    b->dev = tensor_2d((unsigned char *)b->dev_mem + b->at, t, rows, cols);
    if (f32 && t != SQ_DTYPE_F32) {
        b->values = oc_alloc((size_t)(rows * cols) * sizeof *b->values);
        b->host = tensor_2d(b->values, SQ_DTYPE_F32, rows, cols);
    }
    return b;
}

static oc_buf *want_make(oc_buf *b)
{
    b->output = true;
    b->want_mem = oc_alloc(tensor_bytes(&b->host));
    b->want = b->host;
    b->want.data = b->want_mem;
    return b;
}

oc_buf *oc_in(oc_run *r, sq_dtype t, int64_t rows, int64_t cols, oc_fill fill)
{
    oc_buf *b = buf_make(r, t, rows, cols, dtype_row_bytes(t, 1), true);
    oc_fill_tensor(r, &b->host, fill);
    return b;
}

oc_buf *oc_typed(oc_run *r, sq_dtype t, int64_t rows, int64_t cols, oc_fill fill)
{
    oc_buf *b = buf_make(r, t, rows, cols, t == SQ_DTYPE_Q8_0 ? 2 : dtype_row_bytes(t, 1), false);
    oc_fill_tensor(r, &b->host, fill);
    return b;
}

oc_buf *oc_typed_out(oc_run *r, sq_dtype t, int64_t rows, int64_t cols, oc_fill fill)
{
    return want_make(oc_typed(r, t, rows, cols, fill));
}

oc_buf *oc_stored(oc_run *r, sq_dtype t, int64_t rows, int64_t cols, oc_fill fill)
{
    bool mapped = strcmp(r->be->name, "cpu") == 0;
    oc_buf *b = buf_make(r, t, rows, cols, t == SQ_DTYPE_F32 && !mapped ? 4 : 2, false);
    oc_fill_tensor(r, &b->host, fill);
    return b;
}

oc_buf *oc_ints(oc_run *r, const int32_t *values, int n)
{
    oc_buf *b = oc_typed(r, SQ_DTYPE_I32, 1, n, OC_ZERO);
    memcpy(b->host.data, values, (size_t)n * sizeof *values);
    return b;
}

oc_buf *oc_inout(oc_run *r, sq_dtype t, int64_t rows, int64_t cols, oc_fill fill)
{
    return want_make(oc_in(r, t, rows, cols, fill));
}

oc_buf *oc_spent(oc_run *r, sq_dtype t, int64_t rows, int64_t cols, oc_fill fill)
{
    oc_buf *b = oc_inout(r, t, rows, cols, fill);
    b->ignored = true;
    return b;
}

oc_buf *oc_out(oc_run *r, sq_dtype t, int64_t rows, int64_t cols)
{
    oc_buf *b = buf_make(r, t, rows, cols, dtype_row_bytes(t, 1), true);
    for (int64_t i = 0; i < rows * cols; i++)
        oc_values(b)[i] = NAN; /* what is never written is found */
    return want_make(b);
}

sq_dtype oc_weight_type(const oc_run *r, sq_dtype t)
{
    return r->be->resident ? r->act : t;
}

sq_dtype oc_vector_type(const oc_run *r, sq_dtype t)
{
    return r->be->resident && t ? SQ_DTYPE_F32 : t;
}

sq_dtype oc_act_or_f32(const oc_run *r, int turn)
{
    return turn % 3 == 2 ? SQ_DTYPE_F32 : r->act;
}

float *oc_values(const oc_buf *b)
{
    return b->host.data;
}

float oc_value(const sq_tensor *t, int64_t at)
{
    float f;
    if (t->dtype == SQ_DTYPE_I32) return (float)((const int32_t *)t->data)[at];
    convert_to_f32(&f, (const char *)t->data + (size_t)at * dtype_row_bytes(t->dtype, 1), t->dtype,
                   1);
    return f;
}

float *oc_floats(const sq_tensor *t)
{
    int64_t n = tensor_count(t);
    float *to = oc_alloc((size_t)n * sizeof *to);
    convert_to_f32(to, t->data, t->dtype, n);
    for (int64_t i = 0; t->dtype == SQ_DTYPE_I32 && i < n; i++)
        to[i] = oc_value(t, i);
    return to;
}

void oc_put(const sq_tensor *t, int64_t at, float value)
{
    convert_from_f32((char *)t->data + (size_t)at * dtype_row_bytes(t->dtype, 1), t->dtype, &value,
                     1);
}

void oc_put_nan(const sq_tensor *t, int64_t row)
{
    int64_t cols = t->shape[1];
    for (int64_t i = row * cols, n = tensor_count(t); i < n; i++)
        oc_put(t, i, NAN);
}

double oc_norm(const float *x, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        if (oc_is_finite(x[i])) sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

double oc_largest(const sq_tensor *t)
{
    float *x = oc_floats(t);
    double max = 0;
    for (int64_t i = 0, n = tensor_count(t); i < n; i++)
        if (oc_is_finite(x[i])) max = fmax(max, fabs((double)x[i]));
    free(x);
    return max;
}

double *oc_scale(oc_buf *b)
{
    if (!b->scale) b->scale = oc_alloc((size_t)tensor_count(&b->host) * sizeof *b->scale);
    return b->scale;
}

double *oc_slack(oc_buf *b)
{
    int64_t n = tensor_count(&b->host);
    if (!b->slack) b->slack = oc_alloc((size_t)n * sizeof *b->slack);
    for (int64_t i = 0; i < n; i++)
        b->slack[i] = 0;
    return b->slack;
}

float oc_round(float x, sq_dtype t)
{
    uint16_t h;
    if (oc_unit(t) <= 0) return x;
    convert_from_f32(&h, t, &x, 1);
    convert_to_f32(&x, &h, t, 1);
    return x;
}

double oc_unit(sq_dtype t)
{
    return t == SQ_DTYPE_BF16 ? 0x1p-8 : t == SQ_DTYPE_F16 ? 0x1p-11 : 0;
}

double oc_least(sq_dtype t)
{
    return t == SQ_DTYPE_BF16 ? 0x1p-134 : t == SQ_DTYPE_F16 ? 0x1p-25 : 0;
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
        if (b->values) {
            int64_t n = tensor_count(&b->host);
            convert_from_f32(b->host_mem + b->at, b->dev.dtype, b->values, n);
            convert_to_f32(b->values, b->host_mem + b->at, b->dev.dtype, n);
        }
        r->be->write(r->be, b->dev_mem, b->host_mem, b->size);
        if (b->output) memcpy(b->want_mem, b->host.data, tensor_bytes(&b->host));
    }
}
