/* The linear op: one site with its attached adapters, y = x W^T + b + adapters. Backward reads x only when an adapter trains here.
 * Source: Hu et al. 2021, arXiv:2106.09685; the site layer has the mathematics. */
#include "graph/graph.h"
#include "site/few.h"

static uint32_t keeps(const lora__node *n) { return lora__site_trains(n->site) ? LORA__KEEP_IN0 : 0; }

static size_t saved_bytes(const lora__node *n, lora_dtype real, int64_t rows) { return lora__site_saved_bytes(n->site, real, rows); }

static size_t scratch_bytes(const lora__node *n, lora_dtype real, int64_t rows) { return lora__site_scratch_bytes(n->site, real, rows); }

static lora__site_call call(const lora__exec *e)
{
	lora__site_call c = { .ctx = e->ctx, .real = e->real, .n = e->rows->n, .x = e->in[0], .y = e->out[0], .dy = e->dout[0], .dx = e->din[0],
		.dx_beta = e->din_beta[0], .saved = e->saved, .saved_rows = e->row_capacity, .scratch = e->scratch, .train = e->rows->train, .key = e->rows->key,
		.decode = e->rows->cache != NULL, .few = e->few, .later = e->later };
	return c;
}

static lora__runs runs(const lora__exec *e) { return e->rows->runs ? *(const lora__runs *)e->rows->runs : (lora__runs){ NULL, 0 }; }

static lora_status forward(lora__exec *e)
{
	lora__site_call c = call(e);
	lora_status st = lora__site_forward(e->node->site, &c, runs(e), 1);
	if (c.few && !c.later && st == LORA_OK) lora__few_run(c.few, &c); /* where the last of them took another way */
	return st;
}

static lora_status backward(lora__exec *e)
{
	lora__site_call c = call(e);
	return lora__site_backward(e->node->site, &c, runs(e), 1);
}

const lora__op lora__op_linear = { .m = { "linear", "linear layer with its adapters", "arXiv:2106.09685", NULL }, .keeps = keeps,
	.saved_bytes = saved_bytes, .scratch_bytes = scratch_bytes, .forward = forward, .backward = backward };
