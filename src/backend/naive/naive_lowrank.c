/* LOWRANK: out = base + s b a, rounded once: the merge of a low-rank adapter (arXiv:2106.09685 section 4.1) in one pass over the weight. Sums over the
 * rank in F32 in order, then one multiply-add with the base. Written past the caches where a line is whole: a merged model is larger than they are. */
#include "backend/naive/naive.h"

enum { LOWRANK_CHUNK = 256, LOWRANK_ROWS = 24 }; /* columns whose sums are made before they are added; rows of a task, a multiple of every MR */

typedef struct lowrank_job {
	const lora_call *c;
	atomic_llong special; /* values that are not finite */
} lowrank_job;

#define NAIVE_NO_BF16
#define NAIVE_TEMPLATE "backend/naive/naive_lowrank.inc"
#include "backend/naive/naive_each.h"

lora_status lora__naive_lowrank(lora__naive *self, const lora_call *c, lora_dtype real)
{
	lowrank_job j = { .c = c };
	int64_t n = c->v[0].size[0], d = c->v[0].size[1], r = c->v[2].size[1];
	if (c->v[0].dtype != c->v[1].dtype) return lora__naive_fail(self, LORA_E_DTYPE, "primitive lowrank: out and base must be of one dtype");
	lora__naive_parallel(self, (n + LOWRANK_ROWS - 1) / LOWRANK_ROWS, (double)n * (double)d * (double)(r + 8), PICK_WIDE(self, real, lowrank), &j);
	*(double *)c->v[4].data = (double)atomic_load(&j.special);
	return LORA_OK;
}
