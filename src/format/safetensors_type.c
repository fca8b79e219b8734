/* Element types of the safetensors format and byte order. Source: huggingface/safetensors, enum Dtype (its order is the sort order of the
 * writer). */
#include "format/safetensors_type.h"

static const lora__st_type types[] = {
	{ "BOOL", LORA_BOOL, 8, 1 },
	{ "F4", LORA_DTYPE_NONE, 4, 1 },
	{ "F6_E2M3", LORA_DTYPE_NONE, 6, 1 },
	{ "F6_E3M2", LORA_DTYPE_NONE, 6, 1 },
	{ "U8", LORA_U8, 8, 1 },
	{ "I8", LORA_I8, 8, 1 },
	{ "F8_E5M2", LORA_DTYPE_NONE, 8, 1 },
	{ "F8_E4M3", LORA_DTYPE_NONE, 8, 1 },
	{ "F8_E8M0", LORA_DTYPE_NONE, 8, 1 },
	{ "F8_E4M3FNUZ", LORA_DTYPE_NONE, 8, 1 },
	{ "F8_E5M2FNUZ", LORA_DTYPE_NONE, 8, 1 },
	{ "I16", LORA_I16, 16, 2 },
	{ "U16", LORA_U16, 16, 2 },
	{ "F16", LORA_F16, 16, 2 },
	{ "BF16", LORA_BF16, 16, 2 },
	{ "I32", LORA_I32, 32, 4 },
	{ "U32", LORA_U32, 32, 4 },
	{ "F32", LORA_F32, 32, 4 },
	{ "C64", LORA_DTYPE_NONE, 64, 4 },
	{ "F64", LORA_F64, 64, 8 },
	{ "I64", LORA_I64, 64, 8 },
	{ "U64", LORA_U64, 64, 8 },
};

const lora__st_type *lora__st_type_named(const char *name, size_t n)
{
	for (size_t i = 0; i < sizeof types / sizeof *types; i++)
		if (strlen(types[i].name) == n && memcmp(types[i].name, name, n) == 0) return &types[i];
	return NULL;
}

const lora__st_type *lora__st_type_of(lora_dtype dtype)
{
	for (size_t i = 0; i < sizeof types / sizeof *types; i++)
		if (types[i].dtype == dtype && dtype != LORA_DTYPE_NONE) return &types[i];
	return NULL;
}

int lora__st_type_rank(const lora__st_type *type) { return (int)(type - types); }

lora_status lora__st_bytes(const lora__st_type *type, const int64_t *shape, int32_t rank, uint64_t *bytes)
{
	uint64_t n = 1;
	for (int32_t i = 0; i < rank; i++)
		if (shape[i] < 0 || !lora__mul_u64(n, (uint64_t)shape[i], &n)) return LORA_E_LIMIT;
	if (!lora__mul_u64(n, type->bits, &n)) return LORA_E_LIMIT;
	if (n % 8) return LORA_E_FORMAT;
	*bytes = n / 8;
	return LORA_OK;
}

void lora__swap_bytes(void *dst, const void *src, size_t bytes, size_t width)
{
	uint8_t       *d = dst;
	const uint8_t *s = src;
	uint8_t        one[8];
	for (size_t i = 0; i + width <= bytes; i += width) {
		memcpy(one, s + i, width);
		for (size_t k = 0; k < width; k++) d[i + k] = one[width - 1 - k];
	}
}
