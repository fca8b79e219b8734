/* safetensors' element types in the reference writer's order (ascending alignment), and byte order. Shared by reader and writer. */
#ifndef LORA_FORMAT_SAFETENSORS_TYPE_H
#define LORA_FORMAT_SAFETENSORS_TYPE_H

#include "tensor/dtype.h"

typedef struct lora__st_type {
	const char *name;
	lora_dtype  dtype; /* LORA_DTYPE_NONE when the library has no such type */
	uint8_t     bits;
	uint8_t     swap; /* bytes of one number, for byte order */
} lora__st_type;

const lora__st_type *lora__st_type_named(const char *name, size_t n); /* NULL when unknown */
const lora__st_type *lora__st_type_of(lora_dtype dtype);              /* NULL when unknown */
int                  lora__st_type_rank(const lora__st_type *type);   /* place in the writer's order, 0 = smallest alignment */

/* Reverse the bytes of each number of width 1, 2, 4 or 8, from src to dst (may be equal). */
void lora__swap_bytes(void *dst, const void *src, size_t bytes, size_t width);

#ifdef LORA__BIG_ENDIAN /* given: to run both swapping paths on any host */
#elif defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define LORA__BIG_ENDIAN 1
#else
#define LORA__BIG_ENDIAN 0
#endif

/* Elements and bytes of a shape. LORA_OK, LORA_E_LIMIT (a product wraps) or LORA_E_FORMAT (not whole bytes); no error is recorded. */
lora_status lora__st_bytes(const lora__st_type *type, const int64_t *shape, int32_t rank, uint64_t *bytes);

#endif
