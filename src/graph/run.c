/* Running a plan: step after step, views over the arena. */
#include <string.h>

#include "graph/graph.h"
#include "site/few.h"

static const lora__rowinfo *space_of(const lora__rowinfo *rows, int32_t space) { return space ? rows->source : rows; }

static lora_view view(const lora__plan *p, int32_t b, lora_dtype real, const lora__rowinfo *rows, char *arena)
{
	if (b < 0) return (lora_view){ .data = NULL };
	const lora__rowinfo *r = space_of(rows, p->buffers[b].space);
	return lora__view2(arena + p->buffers[b].offset, real, r ? r->n : 0, p->buffers[b].cols, p->buffers[b].cols);
}

/* Of a gradient: the rows of one copy of those that the forward ran over. */
static lora_view gradient(const lora__plan *p, int32_t b, lora_dtype real, const lora__rowinfo *rows, char *arena, int64_t copy)
{
	lora_view v = view(p, b, real, rows, arena);
	if (v.data) v.data = (char *)v.data + lora__dtype_size(real) * (size_t)(copy * v.size[0] * v.size[1]);
	return v;
}

/* The next step is a linear layer of the same input. */
static int goes_on(const lora__graph *g, const lora__step *s, const lora__step *end)
{
	const lora__step *t = s + 1;
	return t < end && t->node >= 0 && !t->backward && g->nodes[t->node].op == &lora__op_linear && t->in[0] == s->in[0];
}

static lora_status run_step(const lora__graph *g, const lora__plan *p, const lora__step *s, const lora__step *end, lora_dtype real, const lora__rowinfo *rows,
	char *arena, lora__few_jobs *few, int64_t copy)
{
	if (s->node < 0) return lora__copy(g->ctx, view(p, s->out[0], real, rows, arena), view(p, s->in[0], real, rows, arena));
	const lora__node *n = &g->nodes[s->node];
	lora__exec e = { .ctx = g->ctx, .real = real, .node = n, .rows = space_of(rows, n->space), .row_capacity = n->space ? p->source_rows : p->rows };
	if (!e.rows || !e.rows->n) return LORA_OK;
	if (n->op == &lora__op_linear && rows->cache && !s->backward) e.few = few, e.later = goes_on(g, s, end);
	for (int i = 0; i < n->n_in; i++) {
		e.in[i] = view(p, s->in[i], real, rows, arena);
		e.din[i] = gradient(p, s->din[i], real, rows, arena, copy);
		e.din_beta[i] = s->din_beta[i];
	}
	for (int i = 0; i < n->n_out; i++) {
		e.out[i] = view(p, s->out[i], real, rows, arena);
		e.dout[i] = gradient(p, s->dout[i], real, rows, arena, copy);
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
	lora__few_jobs few;
	few.n = 0;
	for (size_t i = from; i < to; i++) {
		lora_status st = run_step(g, p, &p->steps[i], p->steps + to, real, rows, arena, &few, 0);
		if (st) return st;
	}
	return LORA_OK;
}

lora_status lora__plan_run(const lora__graph *g, const lora__plan *p, lora_dtype real, const lora__rowinfo *rows, char *arena)
{
	return lora__plan_run_steps(g, p, real, rows, arena, 0, p->n_steps);
}

int lora__plan_spreads(const lora__graph *g)
{
	for (size_t i = 0; i < g->n_nodes; i++)
		if (g->nodes[i].n_sites) return 0;
	return 1;
}

/* The step's backward wants what the forward kept for each copy: products of all rows at once, and the head, which counts its rows. */
static int wants_copies(const lora__graph *g, const lora__step *s)
{
	return s->node < 0 || g->nodes[s->node].site || (g->nodes[s->node].op->flags & LORA__OP_LOSS);
}

/* Rows 0 .. n - 1 of bytes each again behind themselves. */
static void copy_rows(char *at, size_t bytes, int64_t n, int64_t copies)
{
	for (int64_t c = 1; c < copies; c++) memcpy(at + (size_t)(c * n) * bytes, at, (size_t)n * bytes);
}

void lora__plan_spread(const lora__graph *g, const lora__plan *p, lora_dtype real, const lora__rowinfo *rows, char *arena, int64_t copies)
{
	int32_t end = (int32_t)p->n_steps, turn = (int32_t)lora__plan_turn(p);
	for (int32_t b = 0; b < (int32_t)p->n_buffers; b++) {
		const lora__rowinfo *r = space_of(rows, p->buffers[b].space);
		int32_t i = p->buffers[b].first < turn && p->buffers[b].last == end && r ? turn : end;
		for (int wanted = 0; i < end && !wanted; i++) {
			const lora__step *s = &p->steps[i];
			for (int k = 0; k < LORA__MAX_IN && s->node >= 0 && wants_copies(g, s); k++) wanted |= s->in[k] == b;
			if (wanted) copy_rows(arena + p->buffers[b].offset, lora__dtype_size(real) * (size_t)p->buffers[b].cols, r->n, copies);
		}
	}
	for (int32_t i = 0; i < turn; i++) {
		const lora__step *s = &p->steps[i];
		const lora__node *n = &g->nodes[s->node];
		const lora__rowinfo *r = space_of(rows, n->space);
		if (s->saved < 0 || p->buffers[s->saved].last != end || !n->site || !r) continue;
		char *at = arena + p->buffers[s->saved].offset;
		for (size_t k = 0; k < n->site->n_chain; k++) {
			const lora__slot *slot = n->site->chain[k];
			copy_rows(at, slot->ops->saved_bytes(slot, real, 1), r->n, copies);
			at += (slot->ops->saved_bytes(slot, real, n->space ? p->source_rows : p->rows) + 63) & ~(size_t)63;
		}
	}
}

lora_status lora__plan_run_copies(const lora__graph *g, const lora__plan *p, lora_dtype real, const lora__rowinfo *one, const lora__rowinfo *all, char *arena, int64_t copies,
                                  size_t from, size_t to)
{
	lora_status st = LORA_OK;
	for (size_t i = from; i < to && st == LORA_OK; i++) {
		const lora__step *s = &p->steps[i];
		int whole = copies == 1 || wants_copies(g, s);
		for (int64_t c = 0; c < (whole ? 1 : copies) && st == LORA_OK; c++) st = run_step(g, p, s, NULL, real, whole ? all : one, arena, NULL, c);
	}
	return st;
}
