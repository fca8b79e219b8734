/* From a path to a tokenizer. */
#ifndef LORA_API_TOKENFILES_H
#define LORA_API_TOKENFILES_H

#include "tokenizer/tok.h"

lora_status lora__tokenizer_open(lora_context *ctx, const char *path, lora_tokenizer **out);

#endif
