/* A pass over a batch: rows, plan, run, loss. And decoding with a cache, which runs the same list. */
#include <math.h>
#include <string.h>
#include <sys/mman.h>

#include "model/model.h"
#include "site/virtual.h"

/* Ask for huge pages: a page touched for the first time is dear on virtual machines. */
static void advise_huge(char *p, size_t bytes)
{
	const size_t huge = (size_t)2 << 20;
	uintptr_t first = ((uintptr_t)p + huge - 1) & ~(uintptr_t)(huge - 1), end = ((uintptr_t)p + bytes) & ~(uintptr_t)(huge - 1);
#ifdef MADV_HUGEPAGE
	if (end > first) madvise((void *)first, end - first, MADV_HUGEPAGE);
#else
	(void)first, (void)end;
#endif
}

static lora_status reserve_arena(lora_model *m, size_t bytes)
{
	if (bytes <= m->arena_bytes) return LORA_OK;
	char *p = lora__alloc(m->s.ctx, bytes);
	if (!p) return LORA_E_MEMORY;
	advise_huge(p, bytes);
	lora__free(m->s.ctx, m->arena);
	m->arena = p, m->arena_bytes = bytes;
	return LORA_OK;
}

lora_status lora__model_find_plan(lora_model *m, lora__plan_mode mode, int64_t rows, int64_t source_rows, const lora__plan **out)
{
	lora_context *ctx = m->s.ctx;
	lora__plan *best = NULL;
	const lora__graph *graph;
	lora_status st = lora__model_graph(m, &graph);
	if (st) return st;
	for (int i = 0; i < m->n_plans;) {
		lora__plan *p = &m->plans[i];
		if (p->generation != m->s.generation) {
			lora__plan_free(ctx, p);
			*p = m->plans[--m->n_plans];
			continue;
		}
		/* a decoding step must not run in the far-flung buffers of a long prompt; for training one plan serves all that is smaller */
		int fits = p->rows >= rows && p->source_rows >= source_rows;
		if (lora__plan_infers(mode)) fits &= p->rows <= 4 * rows + 64 && p->source_rows <= 4 * source_rows + 64;
		if (p->mode == mode && fits && (!best || p->rows + p->source_rows < best->rows + best->source_rows)) best = p;
		i++;
	}
	if (!best) {
		if (m->n_plans == LORA__PLAN_CACHE) {
			lora__plan_free(ctx, &m->plans[0]);
			memmove(m->plans, m->plans + 1, (LORA__PLAN_CACHE - 1) * sizeof *m->plans);
			m->n_plans--;
		}
		lora__plan p;
		st = lora__plan_make(graph, m->s.real, mode, rows < 1 ? 1 : rows, source_rows, &p);
		if (st) return st;
		p.generation = m->s.generation;
		m->plans[m->n_plans] = p;
		best = &m->plans[m->n_plans++];
	}
	*out = best;
	return LORA_OK;
}

lora_status lora__model_plan(lora_model *m, lora__plan_mode mode, int64_t rows, int64_t source_rows, const lora__plan **out)
{
	lora_status st = lora__model_find_plan(m, mode, rows, source_rows, out);
	return st ? st : reserve_arena(m, (*out)->arena_bytes);
}

static int any_trains(const lora_model *m)
{
	for (size_t i = 0; i < m->s.n; i++)
		if (lora__site_trains(m->s.list[i])) return 1;
	return lora__virtual_trains(&m->s, -1);
}

/* Rows that the head computes: all when logits are wanted, else the labelled ones. */
static int64_t choose_head_rows(struct lora__batchmem *b, int all)
{
	int64_t n = 0;
	for (int64_t r = 0; r < b->n_rows; r++)
		if ((all && b->logit_row[r] >= 0) || b->labels[r] >= 0) b->head_rows[n++] = (int32_t)r;
	return n;
}

static lora_status sum_loss(lora_model *m, lora__pass *p, int64_t n_head)
{
	p->loss_sum = 0;
	for (int64_t i = 0; i < n_head; i++) p->loss_sum += m->batch->loss[i];
	return isfinite(p->loss_sum) ? LORA_OK : lora__fail(m->s.ctx, LORA_E_NUMERIC, "model", "the loss is not finite");
}

/* What is known about the rows of one table. */
lora__rowinfo lora__model_rowinfo(const lora_model *m, const struct lora__batchmem *b, const lora__pass *p)
{
	lora__rowinfo r = { .n = b->n_rows, .n_segments = b->n_segments, .ids = b->ids, .positions = b->positions, .columns = b->columns, .types = b->types,
		.segments = b->segments, .cross = b->cross, .lead = b->lead, .logit_row = b->logit_row, .hidden = p->hidden, .runs = p->batch->adapter_rows ? &b->runs : NULL,
		.train = p->train, .key = p->key };
	lora__rotary_tables(m, r.angles);
	return r;
}

lora_status lora__model_pass(lora_model *m, lora__pass *p)
{
	lora_status st = lora__batch_prepare(m, p->batch);
	if (st) return st;
	struct lora__batchmem *b = m->batch, *behind = m->form == LORA__FORM_CAUSAL ? NULL : m->source_batch, *tokens = behind ? behind : b;
	const lora__graph *graph = NULL;
	int backward = p->backward && any_trains(m) && b->n_labels;
	const lora__plan *plan;
	for (size_t i = 0; backward && i < m->s.n && st == LORA_OK; i++) st = lora__site_prepare(m->s.list[i]);
	int64_t n_logits = 0, n_cols = 0, n_hidden = 0;
	if (st == LORA_OK && p->logits) st = lora__batch_logits(m, p->batch, &n_logits, &n_cols);
	if (st == LORA_OK && p->hidden) st = lora__batch_hidden(m, p->batch, &n_hidden);
	if (st) return st;
	p->n_labels = b->n_labels, p->n_rows = tokens->n_rows + (m->form == LORA__FORM_SEQ2SEQ ? b->n_rows : 0), p->loss_sum = 0;
	if (p->logits) memset(p->logits, 0, sizeof(float) * (size_t)(n_logits * n_cols));
	if (p->hidden) memset(p->hidden, 0, sizeof(float) * (size_t)(n_hidden * m->hidden));
	if (p->n_rows == 0) return LORA_OK;
	if ((st = lora__rotary_reserve(m, tokens->max_position + 1))) return st;
	if ((st = lora__model_graph(m, &graph))) return st;
	if (m->woven_is & 2) { /* virtual keys: space 1 holds what attention reads */
		if ((st = lora__model_keys(m, p->batch->adapter_rows ? &b->runs : NULL, NULL))) return st;
		behind = m->source_batch;
	}
	if (m->woven_is && (st = lora__virtual_prepare(&m->s, backward))) return st;
	lora__plan_mode mode = p->hidden ? LORA__PLAN_HIDDEN : !backward ? LORA__PLAN_INFER : p->checkpoint ? LORA__PLAN_CHECKPOINT : LORA__PLAN_TRAIN;
	if ((st = lora__model_plan(m, mode, b->n_rows, behind ? behind->n_rows : 0, &plan))) return st;
	int64_t n_head = choose_head_rows(b, p->logits != NULL);
	lora__rowinfo rows = lora__model_rowinfo(m, b, p), source;
	rows.labels = b->n_labels ? b->labels : NULL, rows.head_rows = b->head_rows, rows.n_head_rows = n_head, rows.logits = p->logits, rows.loss = b->loss;
	rows.grad_scale = p->mean && b->n_labels ? p->grad_scale / (double)b->n_labels : p->grad_scale;
	if (behind) source = lora__model_rowinfo(m, behind, p), rows.source = &source;
	if (m->woven_is) source.runs = rows.runs; /* by rows of space 0 */
	st = lora__plan_run(graph, plan, m->s.real, &rows, m->arena);
	if (st == LORA_OK && backward && m->woven_is) st = lora__virtual_finish(&m->s);
	return st || !b->n_labels ? st : sum_loss(m, p, n_head);
}

static lora_status decode_rows(lora_model *m, lora__cache *cache, const lora__feed *feeds, int64_t n_feeds, int64_t total)
{
	lora_status st = lora__batch_reserve(m, &m->batch, (size_t)total, (size_t)n_feeds);
	if (st) return st;
	struct lora__batchmem *b = m->batch;
	int64_t r = 0;
	b->n_segments = n_feeds;
	for (int64_t k = 0; k < n_feeds; k++) {
		const lora__feed *f = &feeds[k];
		int32_t *g = b->segments + 4 * k;
		int64_t lead = f->past ? 0 : f->rows, ahead = f->keys + f->rows; /* virtual rows of this pass; virtual tokens in all */
		g[0] = (int32_t)r, g[1] = (int32_t)(lead + f->n), g[2] = (int32_t)(f->slot * cache->capacity), g[3] = (int32_t)(ahead + f->past + f->n);
		b->run[b->runs.n++] = (lora__stretch){ r, lead + f->n, f->adapter, f->adapter == NULL };
		b->lead[k] = (int32_t)lead;
		for (int64_t i = 0; i < lead; i++, r++) b->ids[r] = 0, b->positions[r] = b->columns[r] = (int32_t)(f->keys + i), b->logit_row[r] = -1;
		if (cache->source) {
			int32_t *x = b->cross + 4 * k;
			x[0] = g[0], x[1] = g[1], x[2] = (int32_t)(f->slot * cache->source->capacity), x[3] = (int32_t)f->n_source;
		}
		for (int64_t i = 0; i < f->n; i++, r++) {
			if (f->tokens[i] < 0 || f->tokens[i] >= m->vocab)
				return lora__fail(m->s.ctx, LORA_E_SHAPE, "generate", "token %d, the vocabulary has %lld", (int)f->tokens[i], (long long)m->vocab);
			b->ids[r] = f->tokens[i], b->positions[r] = b->columns[r] = (int32_t)(ahead + f->past + i);
		}
		if (ahead + f->past + f->n - 1 > b->max_position) b->max_position = ahead + f->past + f->n - 1;
		if (m->table_positions && ahead + f->past + f->n > m->table_positions)
			return lora__fail(m->s.ctx, LORA_E_LIMIT, "generate", "token %lld: the model's table has %lld positions", (long long)(ahead + f->past + f->n),
				(long long)m->table_positions);
		b->head_rows[k] = (int32_t)(r - 1);
		b->logit_row[r - 1] = k;
	}
	b->n_rows = r;
	return LORA_OK;
}

/* The encoder tokens of feeds that bring some; their cross says where they belong in the cache. */
static lora_status source_rows(lora_model *m, const lora__cache *cache, const lora__feed *feeds, int64_t n_feeds)
{
	int64_t total = 0;
	for (int64_t k = 0; k < n_feeds; k++) total += feeds[k].source ? feeds[k].n_source : 0;
	lora_status st = lora__batch_reserve(m, &m->source_batch, (size_t)total, (size_t)n_feeds);
	struct lora__batchmem *b = m->source_batch;
	for (int64_t k = 0; k < n_feeds && st == LORA_OK; k++) {
		const lora__feed *f = &feeds[k];
		if (!f->source) continue;
		int32_t *g = b->segments + 4 * b->n_segments, *x = b->cross + 4 * b->n_segments++;
		g[0] = g[2] = x[0] = (int32_t)b->n_rows, g[1] = g[3] = x[1] = x[3] = (int32_t)f->n_source;
		x[2] = (int32_t)(f->slot * cache->capacity);
		b->run[b->runs.n++] = (lora__stretch){ b->n_rows, f->n_source, f->adapter, f->adapter == NULL };
		for (int64_t i = 0; i < f->n_source; i++, b->n_rows++) {
			if (f->source[i] < 0 || f->source[i] >= m->vocab)
				return lora__fail(m->s.ctx, LORA_E_SHAPE, "generate", "token %d, the vocabulary has %lld", (int)f->source[i], (long long)m->vocab);
			b->ids[b->n_rows] = f->source[i], b->positions[b->n_rows] = b->columns[b->n_rows] = (int32_t)i, b->types[b->n_rows] = 0;
		}
	}
	return st;
}

/* Virtual keys in decoding: those of sequences that begin here. Their values are made anew only then. */
static lora_status virtual_keys(lora_model *m, const lora__feed *feeds, int64_t n_feeds)
{
	int64_t fresh[64], *which = fresh, any = 0;
	if (n_feeds > 64 && !(which = lora__calloc(m->s.ctx, (size_t)n_feeds, sizeof *which))) return LORA_E_MEMORY;
	for (int64_t k = 0; k < n_feeds; k++) any |= which[k] = feeds[k].past == 0;
	lora_status st = any ? lora__virtual_prepare(&m->s, 0) : LORA_OK;
	if (st == LORA_OK && (m->woven_is & 2)) st = lora__model_keys(m, &m->batch->runs, which);
	if (which != fresh) lora__free(m->s.ctx, which);
	return st;
}

lora_status lora__model_decode(lora_model *m, lora__cache *cache, const lora__feed *feeds, int64_t n_feeds, float *logits)
{
	int64_t total = 0;
	const lora__plan *plan;
	const lora__graph *graph;
	for (int64_t k = 0; k < n_feeds; k++) total += feeds[k].n + (feeds[k].past ? 0 : feeds[k].rows);
	lora_status st = decode_rows(m, cache, feeds, n_feeds, total);
	if (st == LORA_OK) st = lora__rotary_reserve(m, m->batch->max_position + 1);
	if (st == LORA_OK && cache->source) st = source_rows(m, cache->source, feeds, n_feeds);
	if (st == LORA_OK) st = lora__model_graph(m, &graph);
	if (st == LORA_OK && m->woven_is) st = virtual_keys(m, feeds, n_feeds);
	int64_t n_source = (cache->source || (m->woven_is & 2)) && st == LORA_OK ? m->source_batch->n_rows : 0;
	if (st == LORA_OK) st = lora__model_plan(m, LORA__PLAN_INFER, total, n_source, &plan);
	if (st) return st;
	struct lora__batchmem *b = m->batch;
	lora__rowinfo rows = { .n = total, .n_segments = n_feeds, .ids = b->ids, .positions = b->positions, .columns = b->columns, .segments = b->segments,
		.head_rows = b->head_rows, .n_head_rows = n_feeds, .logit_row = b->logit_row, .logits = logits,
		.cache = cache, .loss = b->loss, .runs = &b->runs, .cross = b->cross, .lead = b->lead }, source;
	lora__rotary_tables(m, rows.angles);
	if (n_source) {
		const struct lora__batchmem *s = m->source_batch;
		source = (lora__rowinfo){ .n = n_source, .n_segments = s->n_segments, .ids = s->ids, .positions = s->positions, .columns = s->columns, .types = s->types,
			.segments = s->segments, .cross = s->cross, .runs = m->woven_is ? &b->runs : &s->runs };
		rows.source = &source;
	}
	return lora__plan_run(graph, plan, m->s.real, &rows, m->arena);
}
