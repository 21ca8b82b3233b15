/* Tensor: a typed, shaped view of memory that somebody else owns. Row-major, contiguous. */
#ifndef SQ_TENSOR_H
#define SQ_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum sq_dtype {
    SQ_DTYPE_NONE = 0, /* tensor is absent */
    SQ_DTYPE_F32,
    SQ_DTYPE_F16,
    SQ_DTYPE_BF16,
    SQ_DTYPE_Q8_0, /* blocks of 32 values: f16 scale d, then 32 int8 q; value = d * q */
    SQ_DTYPE_I32,
    SQ_DTYPE_U8,
    SQ_DTYPE_COUNT
} sq_dtype;

enum { SQ_MAX_RANK = 4, Q8_0_BLOCK = 32 };

typedef struct block_q8_0 {
    uint16_t d; /* f16 */
    int8_t q[Q8_0_BLOCK];
} block_q8_0;

typedef struct sq_tensor {
    void *data; /* NULL when absent */
    sq_dtype dtype;
    int rank;
    int64_t shape[SQ_MAX_RANK]; /* outermost first: a weight is [out, in] */
} sq_tensor;

const char *dtype_name(sq_dtype t); /* "f32", "f16", "bf16", "q8_0", "i32", "u8" */

/* Bytes of one row of n values; 0 when n does not fit the type (Q8_0: n % 32 != 0) or overflows. */
size_t dtype_row_bytes(sq_dtype t, int64_t n);

/* Product of the shape; -1 on overflow or a negative dimension. */
int64_t tensor_count(const sq_tensor *t);

/* Total bytes; 0 when absent, invalid or overflowing. */
size_t tensor_bytes(const sq_tensor *t);

static inline bool tensor_is_set(const sq_tensor *t)
{
    return t->data != NULL;
}

/* Views for kernels and model code. */
sq_tensor tensor_1d(void *data, sq_dtype t, int64_t n);
sq_tensor tensor_2d(void *data, sq_dtype t, int64_t rows, int64_t cols);

/* Rows [first, first + n) of a rank-2 tensor. */
sq_tensor tensor_rows(const sq_tensor *t, int64_t first, int64_t n);

/* Scalar conversions, round to nearest even; NaN stays NaN. */
float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f);
static inline float bf16_to_f32(uint16_t h)
{
    union {
        uint32_t u;
        float f;
    } v = {(uint32_t)h << 16};
    return v.f;
}
uint16_t f32_to_bf16(float f);

/* dst[n] = src[n] of type t as f32; n must fit the type. */
void convert_to_f32(float *dst, const void *src, sq_dtype t, int64_t n);

/* dst[n] of type t from f32; Q8_0: d = max|x| / 127 per block, q = round(x / d). */
void convert_from_f32(void *dst, sq_dtype t, const float *src, int64_t n);

#endif
