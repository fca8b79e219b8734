/* Routing of a mixture of experts. TOPK: the k largest logits of a row and their weights, softmax over all (or over the chosen ones); its gradient;
 * ROWSCALE and ROWDOT: rows times a factor each, and the factor's gradient. Shazeer et al. 2017, arXiv:1701.06538, section 2.1; Mixtral: Jiang et
 * al. 2024, arXiv:2401.04088, section 2.1. Equal logits go to the lower index. */
#include "backend/naive/naive.h"

typedef struct route_job { const lora_call *c; lora__naive_grid g; } route_job;

#define NAIVE_PORTABLE
#define NAIVE_TEMPLATE "backend/naive/naive_route.inc"
#include "backend/naive/naive_each.h"

static lora_status run(lora__naive *self, const lora_call *c, const lora_view *rows, lora_task_fn fn)
{
	route_job j = { c, { rows->size[0], rows->size[1], 64, rows->size[1], (rows->size[0] + 63) / 64, 1 } };
	if (j.g.n && j.g.d) lora__naive_parallel(self, j.g.row_blocks, 4.0 * (double)j.g.n * (double)j.g.d, fn, &j);
	return LORA_OK;
}

lora_status lora__naive_topk(lora__naive *self, const lora_call *c, lora_dtype real)
{
	if (c->v[0].size[1] < 1 || c->v[0].size[1] > c->v[1].size[1])
		return lora__naive_fail(self, LORA_E_SHAPE, "primitive topk: %lld of %lld", (long long)c->v[0].size[1], (long long)c->v[1].size[1]);
	return run(self, c, &c->v[1], PICK_PORTABLE(real, topk));
}

lora_status lora__naive_topk_bwd(lora__naive *self, const lora_call *c, lora_dtype real)
{
	const lora_view *ids = &c->v[2];
	for (int64_t r = 0; r < ids->size[0]; r++) {
		lora_view row = lora__view1(lora__at(ids, r, 0), LORA_I32, ids->size[1]);
		lora_status st = lora__naive_check_ids(self, &row, c->v[1].size[1], 0, "index");
		if (st) return st;
	}
	return ids->size[1] ? run(self, c, &c->v[1], PICK_PORTABLE(real, topk_bwd)) : lora__naive_fail(self, LORA_E_SHAPE, "primitive topk_bwd: nothing chosen");
}

lora_status lora__naive_rowscale(lora__naive *self, const lora_call *c, lora_dtype real) { return run(self, c, &c->v[0], PICK_PORTABLE(real, rowscale)); }

lora_status lora__naive_rowdot(lora__naive *self, const lora_call *c, lora_dtype real)
{
	if (c->v[1].size[1] == 0 && c->v[0].size[0]) memset(c->v[0].data, 0, (size_t)c->v[0].size[0] * lora__dtype_size(c->v[0].dtype));
	return run(self, c, &c->v[1], PICK_PORTABLE(real, rowdot));
}
