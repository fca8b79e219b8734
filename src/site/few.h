/* A few rows through a weight at a time, as in decoding; see few.c. */
#ifndef LORA_SITE_FEW_H
#define LORA_SITE_FEW_H

#include "site/site.h"

enum { LORA__FEW = 4 };

int    lora__few_is(const lora__site_call *c); /* few enough, and x can be read */
size_t lora__few_scratch(const lora__site *s, int64_t n); /* bytes of c->scratch that lora__few() needs */
/* 1 when lora__few() takes this pair along: one row, and the processor has fast forms for all three matrices. */
int    lora__few_takes(const lora__site *s, const lora__site_call *c, const lora__pair *pair);
/* y = x W^T of a weight in blocks; with pair (one that is taken; then also of other weights) + f a (b x), in one loop over the threads. */
void   lora__few(const lora__site *s, const lora__site_call *c, const lora__pair *pair);

#endif
