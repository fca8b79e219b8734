/* Order of multiplications at one adapted site: which of RunLoRA's equal forms of forward and backward costs least. */
#ifndef LORA_SITE_ORDER_H
#define LORA_SITE_ORDER_H

#include <stdint.h>

/* What decides. y = x W^T + s (x A^T) B^T with x[rows,in], W[out,in], A[rank,in], B[out,rank]. */
typedef struct lora__order_case {
	int64_t rows, in, out, rank;
	int     real_bytes;  /* size of an element of x */
	int     weight_bytes;
	int     fixed;       /* LORA_ORDER_* when M = W + s B A can't be formed here, else 0 */
	int     no_dx;       /* the gradient of x is not wanted: B5 has nothing to save */
} lora__order_case;

typedef struct lora__order {
	int    forward, backward;      /* 1 or 2; 1 or 5 */
	double flops_forward[2];       /* of F1, F2 */
	double flops_backward[2];      /* of B1, B5 */
} lora__order;

lora__order lora__order_choose(const lora__order_case *c);

#endif
