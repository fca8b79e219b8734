/* Slices of a fused projection: in[n, groups * (w0 + w1 + ..)] to out k [n, groups * wk], group by group: q, k and v, or gate and up. A row with
 * one group is cut once; with groups = heads each head has its own q, k and v side by side (GPT-NeoX).
 * i[0] groups, i[1..3] widths of the outputs. Backward puts the gradients in place; an output that nobody differentiates counts as zero. */
#include <string.h>

#include "ops/op.h"

/* The part of x that output k is, as [n * groups, width]. */
static lora_view part(const lora__node *n, lora_view x, int k)
{
	int64_t total = x.size[1] / n->i[0], at = 0;
	for (int i = 0; i < k; i++) at += n->i[1 + i];
	return lora__view2((char *)x.data + (size_t)at * lora__dtype_size(x.dtype), x.dtype, x.size[0] * n->i[0], n->i[1 + k], total);
}

static lora_view whole(const lora__node *n, lora_view y, int k) { return lora__view2(y.data, y.dtype, y.size[0] * n->i[0], n->i[1 + k], n->i[1 + k]); }

static lora_status forward(lora__exec *e)
{
	const lora__node *n = e->node;
	lora_status st = LORA_OK;
	for (int k = 0; k < n->n_out && st == LORA_OK; k++) st = lora__copy(e->ctx, whole(n, e->out[k], k), part(n, e->in[0], k));
	return st;
}

static lora_status backward(lora__exec *e)
{
	const lora__node *n = e->node;
	lora_status st = LORA_OK;
	int missing = 0;
	for (int k = 0; k < n->n_out; k++) missing |= !e->dout[k].data;
	if (missing && e->din_beta[0] == 0) memset(e->din[0].data, 0, lora__dtype_size(e->real) * (size_t)(e->din[0].size[0] * e->din[0].size[1]));
	for (int k = 0; k < n->n_out && st == LORA_OK; k++)
		if (e->dout[k].data) st = lora__axpby(e->ctx, 1.0, whole(n, e->dout[k], k), e->din_beta[0], part(n, e->din[0], k));
	return st;
}

const lora__op lora__op_split = { .m = { "split", "slices of a fused projection", "transformers Phi3Attention, GPTNeoXAttention", NULL },
	.forward = forward, .backward = backward };
