/* Passes over a batch with gradients of our own at the logits: one forward whose results are kept, then as many backward passes as there are directions.
 * An example is a sequence: of a classifier all of it; of a causal model the tokens up to the one whose prediction is the answer - the token before
 * its first label, or its last token when it has none. */
#include <math.h>
#include <string.h>

#include "posterior/posterior.h"

enum { TABLES = 4, FULL = 2304 }; /* a pass over FULL rows is about as quick per row as any */

int64_t lora__probe_copies(const lora_model *m, int64_t cells, int64_t directions)
{
	int64_t most = cells > 0 && lora__plan_spreads(&m->graph) ? FULL / cells : 1;
	return most < 1 ? 1 : most < directions ? most : directions > 0 ? directions : 1;
}

static lora_status reserve(lora__probe *p, size_t n, size_t cells)
{
	lora_context *ctx = p->ctx;
	if (cells > p->cap_mask) {
		lora__free(ctx, p->mask);
		p->cap_mask = 0;
		if (!(p->mask = lora__calloc(ctx, cells, TABLES * sizeof *p->mask))) return LORA_E_MEMORY;
		p->cap_mask = cells;
	}
	if (!p->grad && !(p->grad = lora__calloc(ctx, (size_t)p->classes * 2, sizeof *p->grad))) return LORA_E_MEMORY;
	if (n <= p->cap) return LORA_OK;
	int32_t **tables[] = { &p->sequence, &p->label, &p->first[0], &p->first[1], &p->rows[0], &p->rows[1] };
	p->cap = 0;
	for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
		lora__free(ctx, *tables[i]);
		if (!(*tables[i] = lora__calloc(ctx, n, sizeof(int32_t)))) return LORA_E_MEMORY;
	}
	lora__free(ctx, p->logits);
	if (!(p->logits = lora__calloc(ctx, n * (size_t)p->classes, sizeof *p->logits))) return LORA_E_MEMORY;
	p->cap = n;
	return LORA_OK;
}

void lora__probe_free(lora__probe *p)
{
	void *all[] = { p->sequence, p->label, p->first[0], p->first[1], p->rows[0], p->rows[1], p->logits, p->mask, p->grad };
	for (size_t i = 0; p->ctx && i < sizeof all / sizeof *all; i++) lora__free(p->ctx, all[i]);
}

static int kept(const lora_batch *a, int64_t s, int64_t t) { return !a->attention_mask || a->attention_mask[s * a->length + t]; }

/* Column whose prediction is the answer of a causal model's sequence, -1 = it has no tokens; *label its token or -100. */
static int64_t answer_at(const lora_batch *a, int64_t s, int32_t *label)
{
	int64_t last = -1;
	*label = -100;
	for (int64_t t = 0; t < a->length; t++) {
		if (!kept(a, s, t)) continue;
		last = t;
		if (a->labels && t + 1 < a->length && (*label = a->labels[s * a->length + t + 1]) != -100) return t;
	}
	return last;
}

/* Class of a label, -1 for -100. */
static lora_status class_of(const lora__probe *p, int64_t s, int32_t label, int32_t *out)
{
	*out = -1;
	if (label == -100) return LORA_OK;
	for (int64_t c = 0; c < p->classes; c++)
		if (p->ids ? p->ids[c] == label : c == label) return *out = (int32_t)c, LORA_OK;
	return lora__fail_at(p->ctx, LORA_E_SHAPE, "posterior", "labels", -1, p->ids ? "the label of sequence %lld is token %d, which is not among the classes"
		: "labels[%lld] is %d, the model has fewer classes (-100 = ignore)", (long long)s, (int)label);
}

/* The batch's mask without sequences that do not count, and without what is behind the answer. sequence[k], label[k] of those that count. */
static lora_status choose(lora__probe *p, const lora_batch *a, int need_labels)
{
	lora_status st = LORA_OK;
	p->n = 0;
	for (int64_t s = 0; s < a->n_sequences && st == LORA_OK; s++) {
		int32_t label = -100, class = -1;
		int64_t end = a->length - 1, any = 0;
		if (p->ids) end = answer_at(a, s, &label);
		else if (a->labels) label = a->labels[s];
		st = class_of(p, s, label, &class);
		int out = need_labels && class < 0;
		for (int64_t t = 0; t < a->length; t++) any |= p->mask[s * a->length + t] = !out && t <= end && kept(a, s, t);
		if (any) p->sequence[p->n] = (int32_t)s, p->label[p->n++] = class;
	}
	return st;
}

/* Where each example's rows are. Examples and segments both come in the order of sequences. */
static lora_status lay_out(lora__probe *p)
{
	struct lora__batchmem *b = p->m->batch, *tokens = p->m->form == LORA__FORM_CAUSAL ? b : p->m->source_batch;
	if (tokens->n_segments != p->n * p->copies) return lora__fail(p->ctx, LORA_E_INTERNAL, "posterior", "%lld sequences of %lld", (long long)tokens->n_segments, (long long)p->n);
	for (int64_t e = 0; e < p->n * p->copies; e++) {
		const int32_t *g = tokens->segments + 4 * e;
		int space = tokens != b;
		b->head_rows[e] = space ? (int32_t)e : g[0] + g[1] - 1;
		if (e >= p->n) continue;
		p->first[space][e] = g[0], p->rows[space][e] = g[1];
		if (space) p->first[0][e] = (int32_t)e, p->rows[0][e] = 1;
	}
	p->stride[tokens != b] = tokens->n_rows / p->copies;
	if (tokens != b) p->stride[0] = p->n;
	return LORA_OK;
}

/* Logits of head rows to their gradient. Of a causal model only the classes' columns have one. */
static lora_status turn(lora__ownloss *own, int64_t first, lora_view v, double cap)
{
	lora__probe *p = (lora__probe *)(void *)((char *)own - offsetof(lora__probe, own));
	size_t each = lora__dtype_size(v.dtype);
	for (int64_t r = 0; r < v.size[0]; r++) {
		char *row = (char *)v.data + each * (size_t)(r * v.stride[0]);
		int64_t example = (first + r) % p->n, copy = (first + r) / p->n;
		double *f = p->logits + example * p->classes, *slope = p->grad + p->classes;
		for (int64_t c = 0; c < p->classes; c++) {
			lora__convert(&f[c], LORA_F64, row + each * (size_t)(p->ids ? p->ids[c] : c), v.dtype, 1);
			if (cap != 0) f[c] = cap * tanh(f[c] / cap);
			slope[c] = cap != 0 ? 1 - f[c] / cap * (f[c] / cap) : 1;
			if (!isfinite(f[c])) return lora__fail(p->ctx, LORA_E_NUMERIC, "posterior", "a logit of sequence %lld is not finite", (long long)p->sequence[example]);
		}
		p->direction(p->self, example, p->pass + copy, f, p->grad);
		memset(row, 0, each * (size_t)v.size[1]);
		for (int64_t c = 0; c < p->classes; c++) {
			double g = p->grad[c] * slope[c];
			lora__convert(row + each * (size_t)(p->ids ? p->ids[c] : c), v.dtype, &g, LORA_F64, 1);
		}
	}
	return LORA_OK;
}

/* The batch so many times, one behind another, in tables of ours; the mask is there already. */
static void repeat(lora__probe *p, lora_batch *b, int64_t cells)
{
	const int32_t **tables[] = { &b->attention_mask, &b->input_ids, &b->token_type_ids, &b->position_ids };
	for (size_t t = 0; t < TABLES; t++) {
		int32_t *to = p->mask + t * p->cap_mask;
		for (int64_t c = 0; c < p->copies && *tables[t]; c++)
			if (to + c * cells != *tables[t]) memcpy(to + c * cells, *tables[t], (size_t)cells * sizeof *to);
		if (*tables[t]) *tables[t] = to;
	}
	b->n_sequences *= p->copies;
}

lora_status lora__probe_forward(lora__probe *p, const lora_batch *batch, int need_labels)
{
	lora_model *m = p->m;
	int64_t cells, all;
	if (p->copies < 1) p->copies = 1;
	if (!batch || batch->n_sequences < 0 || batch->length < 0 || !lora__mul_i64(batch->n_sequences, batch->length, &cells) || (cells && !batch->input_ids) ||
		!lora__mul_i64(cells, p->copies, &all))
		return lora__fail(p->ctx, LORA_E_ARGUMENT, "posterior", "batch is NULL or has impossible sizes");
	if (batch->adapter_rows) return lora__fail_at(p->ctx, LORA_E_UNSUPPORTED, "posterior", "adapter_rows", -1, "adapter_rows: a posterior is of one adapter on every row");
	lora_batch b = *batch;
	lora_status st = reserve(p, (size_t)b.n_sequences, (size_t)all);
	if (st == LORA_OK && (batch->attention_mask || p->copies > 1)) st = lora__batch_prepare(m, &(lora_batch){ .struct_size = sizeof b, .n_sequences = b.n_sequences, .length = b.length,
		.input_ids = b.input_ids, .attention_mask = b.attention_mask, .token_type_ids = b.token_type_ids, .position_ids = b.position_ids, .flags = b.flags });
	if (st == LORA_OK) st = choose(p, batch, need_labels);
	b.labels = NULL, b.attention_mask = p->mask;
	if (st == LORA_OK) repeat(p, &b, cells);
	if (st == LORA_OK) st = lora__batch_prepare(m, &b);
	if (st == LORA_OK) st = lay_out(p);
	p->pass = 0;
	if (st || !p->n) return st;
	struct lora__batchmem *head = m->batch, *behind = m->form == LORA__FORM_CAUSAL ? NULL : m->source_batch;
	if ((st = lora__rotary_reserve(m, (behind ? behind : head)->max_position + 1))) return st;
	if ((st = lora__model_plan(m, LORA__PLAN_REPEAT, head->n_rows, behind ? behind->n_rows : 0, &p->plan))) return st;
	lora__pass pass = { .batch = &b };
	p->own.turn = turn;
	p->info = lora__model_rowinfo(m, head, &pass);
	p->info.head_rows = head->head_rows, p->info.n_head_rows = p->n * p->copies, p->info.loss = head->loss, p->info.own = &p->own;
	if (behind) p->source = lora__model_rowinfo(m, behind, &pass), p->info.source = &p->source;
	p->one = p->info, p->under = p->source;
	p->one.n = p->stride[0], p->one.n_segments = p->under.n_segments = p->n, p->one.n_head_rows = p->n, p->under.n = p->stride[1];
	if (behind) p->one.source = &p->under;
	st = lora__plan_run_steps(&m->graph, p->plan, m->s.real, &p->one, m->arena, 0, lora__plan_turn(p->plan));
	if (st == LORA_OK) lora__plan_spread(&m->graph, p->plan, m->s.real, &p->one, m->arena, p->copies);
	return st;
}

lora_status lora__probe_backward(lora__probe *p, const lora__site *last)
{
	lora_model *m = p->m;
	int64_t left = p->directions ? p->directions - p->pass : p->copies, copies = left < p->copies ? left : p->copies; /* the last pass may be of fewer */
	p->info.n = copies * p->stride[0], p->info.n_segments = p->source.n_segments = p->info.n_head_rows = p->n * copies, p->source.n = copies * p->stride[1];
	size_t from = lora__plan_turn(p->plan), to = from;
	for (size_t i = from; i < p->plan->n_steps; i++)
		if (p->plan->steps[i].node >= 0 && m->graph.nodes[p->plan->steps[i].node].site == last) to = i + 1;
	m->s.tap = p->tap, m->s.rounded = p->rounded;
	lora_status st = lora__plan_run_copies(&m->graph, p->plan, m->s.real, &p->one, &p->info, m->arena, copies, from, to);
	m->s.tap = NULL, m->s.rounded = 0;
	p->pass += copies;
	return st;
}
