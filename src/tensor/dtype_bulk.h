/* Bulk half conversions: the table of loops, and the two scalar forms that every loop equals bit for bit. Internal to tensor/. */
#ifndef LORA_TENSOR_DTYPE_BULK_H
#define LORA_TENSOR_DTYPE_BULK_H

#include "tensor/dtype.h"

typedef struct lora__bulk {
	void (*f16_to_f32)(float *d, const uint16_t *s, size_t n);
	void (*f32_to_f16)(uint16_t *d, const float *s, size_t n);
	void (*bf16_to_f32)(float *d, const uint16_t *s, size_t n);
	void (*f32_to_bf16)(uint16_t *d, const float *s, size_t n);
} lora__bulk;

extern const lora__bulk lora__bulk_portable;

/* Table number i that this processor can run (0 is the portable one), or NULL past the last; the last is the best. */
const lora__bulk *lora__bulk_at(int i);
const lora__bulk *lora__bulk_best(void);

static inline float lora__f16_widen(uint16_t h)
{
	uint32_t em = h & 0x7fffu, sign = (uint32_t)(h & 0x8000u) << 16;
	float small = (float)(int32_t)em * 0x1p-24f; /* subnormal: exact */
	uint32_t us, u = (em << 13) + (112u << 23), special = (em << 13) | 0x7f800000u | (em > 0x7c00u ? 0x400000u : 0);
	float f;
	memcpy(&us, &small, 4);
	u = em >= 0x7c00u ? special : u;
	u = (em < 0x400u ? us : u) | sign;
	memcpy(&f, &u, 4);
	return f;
}

static inline uint16_t lora__f16_narrow(float f)
{
	uint32_t u, a, tiny, normal, r;
	float t;
	memcpy(&u, &f, 4);
	a = u & 0x7fffffffu;
	memcpy(&t, &a, 4);
	t += 0.5f; /* the last place of 0.5 is that of an F16 subnormal: the adder rounds for us */
	memcpy(&tiny, &t, 4);
	tiny -= 0x3f000000u;
	normal = (a + 0xfffu + ((a >> 13) & 1u) - (112u << 23)) >> 13;
	r = a < 0x38800000u ? tiny : normal;
	r = a >= 0x47800000u ? 0x7c00u : r;
	r = a > 0x7f800000u ? 0x7e00u | ((a >> 13) & 0x3ffu) : r;
	return (uint16_t)(r | ((u >> 16) & 0x8000u));
}

#endif
