/* Element types: sizes, names, conversions. Half conversions round to nearest even and keep NaN (quiet, payload cut).
 * Bulk forms are vectorised; they equal the scalar ones bit for bit. */
#ifndef LORA_TENSOR_DTYPE_H
#define LORA_TENSOR_DTYPE_H

#include <string.h>

#include "base/context.h"

size_t      lora__dtype_size(lora_dtype d);  /* bytes; 0 for unknown */
const char *lora__dtype_name(lora_dtype d);  /* safetensors' spelling: "F32", "BF16", ...; "?" for unknown */
lora_dtype  lora__dtype_parse(const char *name); /* LORA_DTYPE_NONE when unknown */
int         lora__dtype_is_float(lora_dtype d);  /* F64, F32, F16, BF16 */
/* Block types (LORA_Q8_0, ...): elements and bytes of a block; other types: 0. lora__dtype_size() of a block type is 0. */
int         lora__dtype_block(lora_dtype d, int64_t *n, size_t *bytes);
/* Bytes of a contiguous row of n elements of any type; 0 when n is no whole number of blocks. */
size_t      lora__dtype_row(lora_dtype d, int64_t n);

static inline float lora__bf16_to_f32(uint16_t h)
{
	uint32_t u = (uint32_t)h << 16;
	float f;
	memcpy(&f, &u, 4);
	return f;
}

static inline uint16_t lora__f32_to_bf16(float f)
{
	uint32_t u;
	memcpy(&u, &f, 4);
	if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u);
	return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

float    lora__f16_to_f32(uint16_t h);
uint16_t lora__f32_to_f16(float f);

/* Convert n contiguous elements between any two float types (F32, F64, F16, BF16). F64 to a half rounds once, from the double. */
void lora__convert(void *dst, lora_dtype dst_type, const void *src, lora_dtype src_type, size_t n);

/* 1 when all n float elements are finite. */
int lora__all_finite(const void *src, lora_dtype type, size_t n);

/* Type of statistics, tables, adapter gradients and other sums while activations are of type real: F64 for F64, else F32. */
static inline lora_dtype lora__wide(lora_dtype real) { return real == LORA_F64 ? LORA_F64 : LORA_F32; }

/* Views over host memory. */
static inline lora_view lora__view2(const void *data, lora_dtype dtype, int64_t rows, int64_t cols, int64_t stride)
{
	lora_view v = { (void *)(uintptr_t)data, dtype, 2, { rows, cols, 1, 1 }, { stride, 1, 0, 0 } };
	return v;
}
static inline lora_view lora__view1(const void *data, lora_dtype dtype, int64_t n)
{
	lora_view v = { (void *)(uintptr_t)data, dtype, 1, { n, 1, 1, 1 }, { 1, 0, 0, 0 } };
	return v;
}
static inline lora_view lora__view_t(lora_view v) /* transpose of a 2-D view */
{
	lora_view t = v;
	t.size[0] = v.size[1], t.size[1] = v.size[0], t.stride[0] = v.stride[1], t.stride[1] = v.stride[0];
	return t;
}

#endif
