/* lora: weights in bitsandbytes' four bits. */
#ifndef LORA_CLI_FOURBIT_H
#define LORA_CLI_FOURBIT_H

#include "cli/cli.h"

enum { FOURBIT_BLOCK = 64, FOURBIT_GROUP = 256 };
typedef enum fourbit_type { FOURBIT_NF4, FOURBIT_FP4 } fourbit_type;

/* The value of each code. */
extern const float fourbit_codes[2][16];

/* n weights into (n + 1) / 2 bytes and the largest magnitude of each block of 64. */
void fourbit_encode(fourbit_type type, const float *w, size_t n, unsigned char *packed, float *absmax);
/* Double quantisation: n magnitudes into a byte each, against their mean and the largest distance from it of each group of 256. */
void fourbit_nest(const float *absmax, size_t n, const float map[256], unsigned char *codes, float *nested, float *offset);
/* The 256 values of these bytes. */
void fourbit_map(float map[256]);

/* Rewrite the model directory dir, one file of float weights, with its linear layers (those that s has as sites, but no head) in four bits. */
int fourbit_rewrite(const session *s, const char *dir, fourbit_type type, int nested);

#endif
