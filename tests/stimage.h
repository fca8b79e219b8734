/* Test support: safetensors files in memory. */
#ifndef LORA_TESTS_STIMAGE_H
#define LORA_TESTS_STIMAGE_H

#include "format/safetensors.h"

/* An image: header of n bytes, then data_n bytes of data 0, 1, 2, ... */
typedef struct image { uint8_t *bytes; size_t n; } image;

static inline image make_n(const char *header, size_t n, size_t data_n)
{
	image f = { malloc(8 + n + data_n), 8 + n + data_n };
	for (int i = 0; i < 8; i++) f.bytes[i] = (uint8_t)((uint64_t)n >> (8 * i));
	memcpy(f.bytes + 8, header, n);
	for (size_t i = 0; i < data_n; i++) f.bytes[8 + n + i] = (uint8_t)i;
	return f;
}
static inline image make(const char *header, size_t data_n) { return make_n(header, strlen(header), data_n); }

#endif
