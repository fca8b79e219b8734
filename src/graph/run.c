/* Running a plan: step after step, views over the arena. */
#include <string.h>

#include "graph/graph.h"

static const lora__rowinfo *space_of(const lora__rowinfo *rows, int32_t space) { return space ? rows->source : rows; }

static lora_view view(const lora__plan *p, int32_t b, lora_dtype real, const lora__rowinfo *rows, char *arena)
{
	if (b < 0) return (lora_view){ .data = NULL };
	const lora__rowinfo *r = space_of(rows, p->buffers[b].space);
	return lora__view2(arena + p->buffers[b].offset, real, r ? r->n : 0, p->buffers[b].cols, p->buffers[b].cols);
}

static lora_status run_step(const lora__graph *g, const lora__plan *p, const lora__step *s, lora_dtype real, const lora__rowinfo *rows, char *arena)
{
	if (s->node < 0) return lora__copy(g->ctx, view(p, s->out[0], real, rows, arena), view(p, s->in[0], real, rows, arena));
	const lora__node *n = &g->nodes[s->node];
	lora__exec e = { .ctx = g->ctx, .real = real, .node = n, .rows = space_of(rows, n->space), .row_capacity = n->space ? p->source_rows : p->rows };
	if (!e.rows || !e.rows->n) return LORA_OK;
	for (int i = 0; i < n->n_in; i++) {
		e.in[i] = view(p, s->in[i], real, rows, arena);
		e.din[i] = view(p, s->din[i], real, rows, arena);
		e.din_beta[i] = s->din_beta[i];
	}
	for (int i = 0; i < n->n_out; i++) {
		e.out[i] = view(p, s->out[i], real, rows, arena);
		e.dout[i] = view(p, s->dout[i], real, rows, arena);
	}
	e.saved = s->saved >= 0 ? arena + p->buffers[s->saved].offset : NULL;
	e.scratch = s->scratch >= 0 ? arena + p->buffers[s->scratch].offset : NULL;
	return s->backward ? n->op->backward(&e) : n->op->forward(&e);
}

size_t lora__plan_turn(const lora__plan *p)
{
	size_t i = 0;
	while (i < p->n_steps && !p->steps[i].backward) i++;
	return i;
}

lora_status lora__plan_run_steps(const lora__graph *g, const lora__plan *p, lora_dtype real, const lora__rowinfo *rows, char *arena, size_t from, size_t to)
{
	if (rows->n == 0 && (!rows->source || rows->source->n == 0)) return LORA_OK;
	for (size_t i = from; i < to; i++) {
		lora_status st = run_step(g, p, &p->steps[i], real, rows, arena);
		if (st) return st;
	}
	return LORA_OK;
}

lora_status lora__plan_run(const lora__graph *g, const lora__plan *p, lora_dtype real, const lora__rowinfo *rows, char *arena)
{
	return lora__plan_run_steps(g, p, real, rows, arena, 0, p->n_steps);
}
