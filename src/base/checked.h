/* Checked arithmetic: every size that comes from a file or a caller goes through these. All return 1 when the result fits. */
#ifndef LORA_BASE_CHECKED_H
#define LORA_BASE_CHECKED_H

#include <stddef.h>
#include <stdint.h>

static inline int lora__mul_u64(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline int lora__add_u64(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_add_overflow(a, b, out); }
static inline int lora__mul_size(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline int lora__add_size(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }
static inline int lora__mul_i64(int64_t a, int64_t b, int64_t *out) { return !__builtin_mul_overflow(a, b, out); }

/* Round up to a power of two; 0 when it would wrap. */
static inline int lora__align_size(size_t n, size_t align, size_t *out)
{
	size_t sum;
	if (!lora__add_size(n, align - 1, &sum)) return 0;
	*out = sum & ~(align - 1);
	return 1;
}

#endif
