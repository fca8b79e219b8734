/* What the K-quants' decoders and encoders share. */
#ifndef LORA_QUANT_QUANT_K_H
#define LORA_QUANT_QUANT_K_H

#include "quant/quant.h"

void lora__quant_k_scale(const uint8_t *s, int g, unsigned *scale, unsigned *min);
void lora__quant_q3_scales(const uint8_t *s, int8_t *out);

void lora__quant_q2_encode(const float *x, int64_t n, uint8_t *p);
void lora__quant_q3_encode(const float *x, int64_t n, uint8_t *p);
void lora__quant_q4_encode(const float *x, int64_t n, uint8_t *p);
void lora__quant_q5_encode(const float *x, int64_t n, uint8_t *p);
void lora__quant_q6_encode(const float *x, int64_t n, uint8_t *p);

#endif
