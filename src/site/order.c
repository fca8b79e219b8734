/* F1 = x W^T + s (x A^T) B^T against F2 = x M^T, and B1: dx = dy W + z A against B5: dx = dy M, with M = W + s B A and z = s dy B.
 * dA = z^T x and dB = s dy^T S, with S = x A^T, are the same in both; S is kept from F1 and computed again after F2.
 * M belongs to one call: it is formed, multiplied by and forgotten, so a model has one M at a time and not one per site.
 * By FLOPs alone F2 wins when rows > in, B5 when rows > out (the rank cancels); forming M also writes and reads a whole matrix, where F1 and B1
 * read and write y or dx once more, so bytes count as well.
 * Source: Cherniuk et al. 2023, RunLoRA, arXiv:2312.03415, F1, F2, B1, B5 of its tables; the others never win at small rank. */
#include "site/order.h"

/* Multiplications in the time of one byte from memory, about: 200 GFLOP/s and 12 GB/s on two cores. */
static const double BALANCE = 16;

lora__order lora__order_choose(const lora__order_case *c)
{
	double n = (double)c->rows, k = (double)c->in, m = (double)c->out, r = (double)c->rank, e = c->real_bytes;
	/* read W, write M, and read M for W in the product */
	double form_flops = 2 * k * m * r, form_bytes = k * m * (c->weight_bytes + e) + k * m * (e - c->weight_bytes);
	lora__order o = { .forward = 1, .backward = 1,
		.flops_forward = { 2 * n * (k * m + k * r + r * m), 2 * n * k * m + form_flops },
		.flops_backward = { 2 * n * (k * m + 2 * m * r + 2 * k * r), 2 * n * (k * m + 2 * m * r + k * r) + form_flops } };
	if (c->no_dx) o.flops_backward[0] = 2 * n * (2 * m * r + k * r), o.flops_backward[1] = o.flops_backward[0];
	if (c->fixed) return o;
	double f1 = 2 * n * r * m + BALANCE * 2 * n * m * e, b1 = 2 * n * k * r + BALANCE * 2 * n * k * e, form = form_flops + BALANCE * form_bytes;
	if (form < f1) o.forward = 2, o.flops_backward[0] += 2 * n * k * r, o.flops_backward[1] += 2 * n * k * r; /* S once more */
	if (form < b1 && !c->no_dx) o.backward = 5;
	return o;
}
