/* GGUF's types: elements by ggml's number, values by theirs; and byte order of tensor data. Numbers 4, 5, 31..33 and 36..38 are retired.
 * Source: ggml/include/ggml.h (enum ggml_type), ggml-common.h (sizes of blocks). */
#include <string.h>

#include "format/gguf.h"
#include "format/gguf_part.h"
#include "format/safetensors_type.h"

static const lora__gguf_type types[] = {
	[0] = { "F32", LORA_F32, 1, 4 },          [1] = { "F16", LORA_F16, 1, 2 },          [2] = { "Q4_0", LORA_Q4_0, 32, 18 },
	[3] = { "Q4_1", LORA_Q4_1, 32, 20 },      [6] = { "Q5_0", LORA_Q5_0, 32, 22 },      [7] = { "Q5_1", LORA_Q5_1, 32, 24 },
	[8] = { "Q8_0", LORA_Q8_0, 32, 34 },      [9] = { "Q8_1", 0, 32, 36 },              [10] = { "Q2_K", LORA_Q2_K, 256, 84 },
	[11] = { "Q3_K", LORA_Q3_K, 256, 110 },   [12] = { "Q4_K", LORA_Q4_K, 256, 144 },   [13] = { "Q5_K", LORA_Q5_K, 256, 176 },
	[14] = { "Q6_K", LORA_Q6_K, 256, 210 },   [15] = { "Q8_K", 0, 256, 292 },           [16] = { "IQ2_XXS", LORA_IQ2_XXS, 256, 66 },
	[17] = { "IQ2_XS", LORA_IQ2_XS, 256, 74 }, [18] = { "IQ3_XXS", LORA_IQ3_XXS, 256, 98 }, [19] = { "IQ1_S", LORA_IQ1_S, 256, 50 },
	[20] = { "IQ4_NL", LORA_IQ4_NL, 32, 18 }, [21] = { "IQ3_S", LORA_IQ3_S, 256, 110 }, [22] = { "IQ2_S", LORA_IQ2_S, 256, 82 },
	[23] = { "IQ4_XS", LORA_IQ4_XS, 256, 136 }, [24] = { "I8", LORA_I8, 1, 1 },         [25] = { "I16", LORA_I16, 1, 2 },
	[26] = { "I32", LORA_I32, 1, 4 },         [27] = { "I64", LORA_I64, 1, 8 },         [28] = { "F64", LORA_F64, 1, 8 },
	[29] = { "IQ1_M", LORA_IQ1_M, 256, 56 },  [30] = { "BF16", LORA_BF16, 1, 2 },       [34] = { "TQ1_0", LORA_TQ1_0, 256, 54 },
	[35] = { "TQ2_0", LORA_TQ2_0, 256, 66 },  [39] = { "MXFP4", LORA_MXFP4, 32, 17 },   [40] = { "NVFP4", LORA_NVFP4, 64, 36 },
	[41] = { "Q1_0", 0, 128, 18 },            [42] = { "Q2_0", 0, 64, 18 },
};
enum { N_TYPES = sizeof types / sizeof *types };

const lora__gguf_type *lora__gguf_type_of(uint32_t id) { return id < N_TYPES && types[id].n ? &types[id] : NULL; }

int lora__gguf_type_id(lora_dtype d)
{
	for (int i = 0; d && i < N_TYPES; i++)
		if (types[i].n && types[i].dtype == d) return i;
	return -1;
}

static const char *const values[] = { "uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "bool", "string", "array", "uint64", "int64", "float64" };
const char *lora__gguf_type_name(uint32_t type) { return type < LORA__GGUF_TYPES ? values[type] : "?"; }

size_t lora__gguf_value_size(uint32_t type)
{
	static const uint8_t size[] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };
	return type < LORA__GGUF_TYPES ? size[type] : 0;
}

/* The 16-bit numbers in a block, as bits of their place / 2; the rest are bytes. */
static const struct { lora_dtype dtype; uint8_t at[2]; uint8_t n; } halves[] = {
	{ LORA_Q4_0, { 0 }, 1 },       { LORA_Q4_1, { 0, 2 }, 2 }, { LORA_Q5_0, { 0 }, 1 },   { LORA_Q5_1, { 0, 2 }, 2 }, { LORA_Q8_0, { 0 }, 1 },
	{ LORA_Q2_K, { 80, 82 }, 2 },  { LORA_Q3_K, { 108 }, 1 },  { LORA_Q4_K, { 0, 2 }, 2 }, { LORA_Q5_K, { 0, 2 }, 2 }, { LORA_Q6_K, { 208 }, 1 },
	{ LORA_IQ4_NL, { 0 }, 1 },     { LORA_IQ4_XS, { 0, 2 }, 2 }, { LORA_TQ1_0, { 52 }, 1 }, { LORA_TQ2_0, { 64 }, 1 },  { LORA_MXFP4, { 0 }, 0 },
	{ LORA_NVFP4, { 0 }, 0 },
};

int lora__gguf_swap_data(uint8_t *to, const lora__tensor *t)
{
	size_t each = lora__dtype_size(t->dtype), block = 0;
	if (each) return lora__swap_bytes(to, t->data, (size_t)t->bytes, each), 1;
	for (size_t i = 0; i < sizeof halves / sizeof *halves; i++) {
		if (halves[i].dtype != t->dtype) continue;
		lora__dtype_block(t->dtype, NULL, &block);
		memcpy(to, t->data, (size_t)t->bytes);
		for (size_t at = 0; at < t->bytes; at += block)
			for (int k = 0; k < halves[i].n; k++) {
				uint8_t *h = to + at + halves[i].at[k], first = h[0];
				h[0] = h[1], h[1] = first;
			}
		return 1;
	}
	return 0;
}
