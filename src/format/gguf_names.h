/* Names of tensors: GGUF's and Hugging Face's, for the architectures that both have, and how the two forms of a tensor differ.
 * Source: gguf-py/gguf/tensor_mapping.py, convert_hf_to_gguf.py, convert_lora_to_gguf.py. */
#ifndef LORA_FORMAT_GGUF_NAMES_H
#define LORA_FORMAT_GGUF_NAMES_H

#include "format/gguf.h"

/* Layout in GGUF. */
enum {
	LORA__GGUF_PERMUTE_Q = 1, /* rows of each head interleaved for llama.cpp's rotary embedding ... */
	LORA__GGUF_PERMUTE_K = 2, /* ... with the number of key heads */
	LORA__GGUF_TURNED = 4,    /* stored [out,in]; Hugging Face stores [in,out] */
	LORA__GGUF_PLUS_ONE = 8   /* a norm's weight plus one */
};

/* An architecture under its GGUF name. model_type: config.json's value. */
typedef struct lora__gguf_arch { const char *name, *model_type, *hf_class; uint32_t set; int permutes, plus_one; } lora__gguf_arch;
const lora__gguf_arch *lora__gguf_arch_named(const char *name, size_t n);       /* general.architecture; NULL when not supported */
const lora__gguf_arch *lora__gguf_arch_of(const char *model_type);              /* config.json's; NULL: GGUF or this library has none */

enum { LORA__GGUF_LONG_NAME = 192 };
/* A whole tensor name ("blk.3.attn_q.weight") to the other's; 0 when the architecture has none such. flags may be NULL. */
int lora__gguf_to_hf(const lora__gguf_arch *a, const char *name, char out[LORA__GGUF_LONG_NAME], uint32_t *flags);
int lora__gguf_from_hf(const lora__gguf_arch *a, const char *name, char out[LORA__GGUF_LONG_NAME], uint32_t *flags);

/* Rows of `row` bytes of a q or k weight (or its bias, or an adapter's B) with heads heads, between the two orders. undo 1: GGUF to Hugging Face.
 * Hugging Face's row half p, index j of a head of 2h rows is GGUF's row 2j + p. */
void lora__gguf_permute(void *to, const void *from, int64_t rows, size_t row, int64_t heads, int undo);

#endif
