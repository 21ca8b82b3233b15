#include "core/tensor.h"

#include <math.h>
#include <string.h>

const char *dtype_name(sq_dtype t)
{
    static const char *const name[SQ_DTYPE_COUNT] = {"none", "f32", "f16", "bf16", "q8_0", "i32",
                                                     "u8"};
    return (unsigned)t < SQ_DTYPE_COUNT ? name[t] : "unknown";
}

size_t dtype_row_bytes(sq_dtype t, int64_t n)
{
    if (n < 0 || n > INT64_MAX / 8) return 0;
    switch (t) {
    case SQ_DTYPE_F32:
    case SQ_DTYPE_I32: return (size_t)n * 4;
    case SQ_DTYPE_F16:
    case SQ_DTYPE_BF16: return (size_t)n * 2;
    case SQ_DTYPE_U8: return (size_t)n;
    case SQ_DTYPE_Q8_0: return n % Q8_0_BLOCK ? 0 : (size_t)(n / Q8_0_BLOCK) * sizeof(block_q8_0);
    default: return 0;
    }
}

int64_t tensor_count(const sq_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++) {
        if (t->shape[i] < 0) return -1;
        if (t->shape[i] && n > INT64_MAX / t->shape[i]) return -1;
        n *= t->shape[i];
    }
    return n;
}

size_t tensor_bytes(const sq_tensor *t)
{
    int64_t n = tensor_count(t);
    if (t->rank < 1 || n <= 0) return 0;
    int64_t cols = t->shape[t->rank - 1];
    size_t row = dtype_row_bytes(t->dtype, cols);
    if (row && (uint64_t)(n / cols) > SIZE_MAX / row) return 0;
    return (size_t)(n / cols) * row;
}

sq_tensor tensor_1d(void *data, sq_dtype t, int64_t n)
{
    return (sq_tensor){data, t, 1, {n}};
}

sq_tensor tensor_2d(void *data, sq_dtype t, int64_t rows, int64_t cols)
{
    return (sq_tensor){data, t, 2, {rows, cols}};
}

sq_tensor tensor_rows(const sq_tensor *t, int64_t first, int64_t n)
{
    sq_tensor v = *t;
    v.data = (unsigned char *)t->data + (size_t)first * dtype_row_bytes(t->dtype, t->shape[1]);
    v.shape[0] = n;
    return v;
}

static float bits_to_f32(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static uint32_t f32_to_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exp = (h >> 10) & 31, man = h & 0x3ffu;
    if (exp == 31) return bits_to_f32(sign | 0x7f800000u | man << 13);
    if (exp) return bits_to_f32(sign | (exp + 112) << 23 | man << 13);
    float f = (float)man * 0x1p-24f; /* subnormal: exact in f32 */
    return sign ? -f : f;
}

uint16_t f32_to_f16(float f)
{
    uint32_t u = f32_to_bits(f), sign = u >> 16 & 0x8000u;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (u >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* rounds past 65504 */
    if (u < 0x38800000u) {                                   /* subnormal half: scale, then rint */
        float m = bits_to_f32(u) * 0x1p24f;
        return (uint16_t)(sign | (uint32_t)nearbyintf(m));
    }
    u += 0xfffu + (u >> 13 & 1u);
    return (uint16_t)(sign | ((u - 0x38000000u) >> 13));
}

uint16_t f32_to_bf16(float f)
{
    uint32_t u = f32_to_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

void convert_to_f32(float *dst, const void *src, sq_dtype t, int64_t n)
{
    const uint16_t *h = src;
    const block_q8_0 *b = src;
    switch (t) {
    case SQ_DTYPE_F32: memcpy(dst, src, (size_t)n * sizeof *dst); break;
    case SQ_DTYPE_F16:
        for (int64_t i = 0; i < n; i++)
            dst[i] = f16_to_f32(h[i]);
        break;
    case SQ_DTYPE_BF16:
        for (int64_t i = 0; i < n; i++)
            dst[i] = bf16_to_f32(h[i]);
        break;
    case SQ_DTYPE_Q8_0:
        for (int64_t i = 0; i < n; i++)
            dst[i] = f16_to_f32(b[i / Q8_0_BLOCK].d) * b[i / Q8_0_BLOCK].q[i % Q8_0_BLOCK];
        break;
    default: break;
    }
}

static void q8_0_from_f32(block_q8_0 *b, const float *x)
{
    float max = 0;
    for (int i = 0; i < Q8_0_BLOCK; i++)
        max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
    float d = max / 127.0f, inv = d > 0 ? 1.0f / d : 0.0f;
    b->d = f32_to_f16(d);
    for (int i = 0; i < Q8_0_BLOCK; i++)
        b->q[i] = (int8_t)roundf(x[i] * inv);
}

void convert_from_f32(void *dst, sq_dtype t, const float *src, int64_t n)
{
    uint16_t *h = dst;
    switch (t) {
    case SQ_DTYPE_F32: memcpy(dst, src, (size_t)n * sizeof *src); break;
    case SQ_DTYPE_F16:
        for (int64_t i = 0; i < n; i++)
            h[i] = f32_to_f16(src[i]);
        break;
    case SQ_DTYPE_BF16:
        for (int64_t i = 0; i < n; i++)
            h[i] = f32_to_bf16(src[i]);
        break;
    case SQ_DTYPE_Q8_0:
        for (int64_t i = 0; i < n / Q8_0_BLOCK; i++)
            q8_0_from_f32((block_q8_0 *)dst + i, src + i * Q8_0_BLOCK);
        break;
    default: break;
    }
}
