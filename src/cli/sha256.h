/* lora: SHA-256 (FIPS 180-4), to tell whether files are what they were. */
#ifndef LORA_CLI_SHA256_H
#define LORA_CLI_SHA256_H

#include <stddef.h>
#include <stdint.h>

typedef struct sha256 {
	uint32_t state[8];
	uint64_t bytes;
	unsigned char block[64];
} sha256;

#define SHA256_TEXT 65 /* 64 hexadecimal digits and the NUL */

void sha256_start(sha256 *s);
void sha256_add(sha256 *s, const void *data, size_t n);
void sha256_end(sha256 *s, char text[SHA256_TEXT]);

#endif
