/* Pre-tokenizers by llama.cpp's names (tokenizer.ggml.pre). Source: llama.cpp, src/llama-vocab.cpp. */
#ifndef LORA_FORMAT_GGUF_PRE_H
#define LORA_FORMAT_GGUF_PRE_H

#include "format/gguf.h"

typedef struct lora__gguf_pre { const char *names; /* separated by spaces; the first is written */ const char *json; int ignore_merges, adds_bos, nfc; } lora__gguf_pre;
const lora__gguf_pre *lora__gguf_pre_named(const char *name, size_t n); /* NULL: unknown */
/* The one that a tokenizer.json's pre_tokenizer is, or NULL. */
const lora__gguf_pre *lora__gguf_pre_of(lora_context *ctx, const json_t *pre_tokenizer);

#endif
