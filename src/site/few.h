/* A few rows through a weight at a time, as in decoding; see few.c. */
#ifndef LORA_SITE_FEW_H
#define LORA_SITE_FEW_H

#include "site/site.h"

#include <stdatomic.h>

enum { LORA__FEW = 4, LORA__FEW_ROWS = 32 /* of a task, and of the tiles that an adapter's B in F16 is in: lora__pair.a has their strides */, LORA__FEW_JOBS = 3 /* in one loop */, LORA__FEW_RANK = 256 /* at most, of an adapter */ };

struct lora__quant_fast;
typedef struct lora__few_job {
	const lora__site              *s;
	const struct lora__quant_fast *fast, *thin; /* of the weight and of the adapter */
	const float                   *x;
	int64_t                        n, blocks;
	size_t                         row;
	lora_view                      out;
	lora__pair                     pair; /* b = A[r,in], a = B[out,r], in rows or in tiles; no data = none */
	float                          t[LORA__FEW_RANK]; /* A x */
	atomic_int                     taken, made;
} lora__few_job;

/* Calls that wait to be computed together. */
typedef struct lora__few_jobs { int n; lora__few_job job[LORA__FEW_JOBS]; } lora__few_jobs;

int    lora__few_is(const lora__site_call *c); /* few enough, and x can be read */
size_t lora__few_scratch(const lora__site *s, int64_t n); /* bytes of c->scratch that lora__few() needs */
/* 1 when lora__few() takes this pair along: one row, and the processor has fast forms for all three matrices. */
int    lora__few_takes(const lora__site *s, const lora__site_call *c, const lora__pair *pair);
/* y = x W^T of a weight in blocks; with pair (one that is taken; then also of other weights) + f a (b x), in one loop over the threads. With c->later
 * it may be left in c->few; lora__few_run() computes what is left there, with the x and scratch of the last call. */
void   lora__few_run(lora__few_jobs *all, const lora__site_call *c);
void   lora__few(const lora__site *s, const lora__site_call *c, const lora__pair *pair);

#endif
