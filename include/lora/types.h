/* liblora: types that every other header uses: export macro, handles, dtypes.
 * Part of the stable ABI; see docs/abi.md. */
#ifndef LORA_TYPES_H
#define LORA_TYPES_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define LORA_API __declspec(dllexport)
#elif defined(__GNUC__) || defined(__clang__)
#define LORA_API __attribute__((visibility("default")))
#else
#define LORA_API
#endif

/* Binary interface number; pass it to lora_context_create(). */
#define LORA_ABI 1u

/* Opaque handles. Children keep their parents alive: any destroy order is fine. */
typedef struct lora_context   lora_context;
typedef struct lora_settings  lora_settings;
typedef struct lora_model     lora_model;
typedef struct lora_adapter   lora_adapter;
typedef struct lora_rows      lora_rows;
typedef struct lora_optimizer lora_optimizer;
typedef struct lora_trainer   lora_trainer;
typedef struct lora_tokenizer lora_tokenizer;
typedef struct lora_generator lora_generator;
typedef struct lora_posterior lora_posterior;

/* Element types. Half types cross the interface as uint16_t storage. */
typedef int32_t lora_dtype;
enum {
	LORA_DTYPE_NONE = 0,
	LORA_F32        = 1,
	LORA_F16        = 2,
	LORA_BF16       = 3,
	LORA_F64        = 4,
	LORA_I64        = 5,
	LORA_I32        = 6,
	LORA_I16        = 7,
	LORA_I8         = 8,
	LORA_U64        = 9,
	LORA_U32        = 10,
	LORA_U16        = 11,
	LORA_U8         = 12,
	LORA_BOOL       = 13,
	/* Block types of GGUF: 64 + ggml's number. A row is a whole number of blocks; see family "quant". */
	LORA_Q4_0       = 66,
	LORA_Q4_1       = 67,
	LORA_Q5_0       = 70,
	LORA_Q5_1       = 71,
	LORA_Q8_0       = 72,
	LORA_Q2_K       = 74,
	LORA_Q3_K       = 75,
	LORA_Q4_K       = 76,
	LORA_Q5_K       = 77,
	LORA_Q6_K       = 78,
	LORA_IQ2_XXS    = 80,
	LORA_IQ2_XS     = 81,
	LORA_IQ3_XXS    = 82,
	LORA_IQ1_S      = 83,
	LORA_IQ4_NL     = 84,
	LORA_IQ3_S      = 85,
	LORA_IQ2_S      = 86,
	LORA_IQ4_XS     = 87,
	LORA_IQ1_M      = 93,
	LORA_TQ1_0      = 98,
	LORA_TQ2_0      = 99,
	LORA_MXFP4      = 103,
	LORA_NVFP4      = 104
};

/* What a tensor of an adapter or file is.
 * name is borrowed from the object that was asked; shape[rank..7] are zero. */
typedef struct lora_tensor_info {
	const char *name;
	lora_dtype  dtype;
	int32_t     rank;
	int64_t     shape[8];
	uint64_t    bytes;
	int32_t     trainable; /* 1 when an optimizer may change it */
	int32_t     reserved;
} lora_tensor_info;

#endif
