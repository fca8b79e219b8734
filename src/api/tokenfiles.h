/* From a path to a tokenizer. */
#ifndef LORA_API_TOKENFILES_H
#define LORA_API_TOKENFILES_H

#include "format/gguf.h"
#include "tokenizer/tok.h"

lora_status lora__tokenizer_open(lora_context *ctx, const char *path, lora_tokenizer **out);
/* From the metadata of an open GGUF file (gguf_tokenizer.c). */
lora_status lora__tokenizer_from_gguf(lora_context *ctx, const lora__gguf *g, lora_tokenizer **out);

#endif
