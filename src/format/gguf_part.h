/* Parts of the GGUF reader that its files share. */
#ifndef LORA_FORMAT_GGUF_PART_H
#define LORA_FORMAT_GGUF_PART_H

#include "format/gguf.h"

size_t lora__gguf_value_size(uint32_t type); /* bytes of a scalar; 0 for strings, arrays and unknown types */
/* Data of a tensor with the bytes of each number turned. 0: not known how for this type. */
int lora__gguf_swap_data(uint8_t *to, const lora__tensor *t);
/* Read the header at p[0..n) into g (its keys) and its tensors into set. */
lora_status lora__gguf_parse(lora__gguf *g, lora__tensors *set);
uint64_t lora__gguf_number(const lora__gguf *g, const uint8_t *p, size_t bytes); /* little or big endian, as the file */

#endif
