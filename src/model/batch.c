/* From a padded batch [B,T] to rows: one row per token that the mask keeps, sequence after sequence, so that padding costs nothing.
 * Row tables are reused from batch to batch; they grow only when a batch is larger than any before. */
#include <string.h>

#include "model/model.h"

void lora__batch_free(lora_model *m)
{
	lora_context *ctx = m->s.ctx;
	struct lora__batchmem *b = m->batch;
	if (!b) return;
	void *all[] = { b->ids, b->positions, b->columns, b->segments, b->labels, b->head_rows, b->logit_row, b->loss, b->run, b };
	for (size_t i = 0; i < sizeof all / sizeof *all; i++) lora__free(ctx, all[i]);
	m->batch = NULL;
}

static lora_status again(lora_context *ctx, void *array, size_t n, size_t each)
{
	void *old, *p = lora__calloc(ctx, n, each);
	if (!p) return LORA_E_MEMORY;
	memcpy(&old, array, sizeof old);
	lora__free(ctx, old);
	memcpy(array, &p, sizeof p);
	return LORA_OK;
}

lora_status lora__batch_reserve(lora_model *m, size_t rows, size_t segments)
{
	lora_context *ctx = m->s.ctx;
	if (!m->batch && !(m->batch = lora__zalloc(ctx, sizeof *m->batch))) return LORA_E_MEMORY;
	struct lora__batchmem *b = m->batch;
	lora_status st = LORA_OK;
	if (rows > b->cap_rows) {
		int32_t **tables[] = { &b->ids, &b->positions, &b->columns, &b->labels, &b->head_rows };
		for (size_t i = 0; i < 5 && st == LORA_OK; i++) st = again(ctx, tables[i], rows, sizeof(int32_t));
		if (st == LORA_OK) st = again(ctx, &b->logit_row, rows, sizeof(int64_t));
		if (st == LORA_OK) st = again(ctx, &b->loss, rows, sizeof(double));
		b->cap_rows = st ? 0 : rows;
	}
	if (st == LORA_OK && segments > b->cap_segments) {
		st = again(ctx, &b->segments, segments * 4, sizeof(int32_t));
		if (st == LORA_OK) st = again(ctx, &b->run, segments, sizeof *b->run);
		b->cap_segments = st ? 0 : segments;
	}
	return st;
}

static lora_status check_shape(lora_context *ctx, const lora_batch *a)
{
	int64_t n;
	if (!a || a->struct_size < offsetof(lora_batch, reserved)) return lora__fail(ctx, LORA_E_ARGUMENT, "batch", "batch is NULL or its struct_size is not set");
	for (size_t i = 0; i < 4 && a->struct_size >= sizeof *a; i++)
		if (a->reserved[i]) return lora__fail(ctx, LORA_E_ARGUMENT, "batch", "reserved members must be zero");
	if (a->flags) return lora__fail(ctx, LORA_E_ARGUMENT, "batch", "unknown flags");
	if (a->n_sequences < 0 || a->length < 0 || !lora__mul_i64(a->n_sequences, a->length, &n))
		return lora__fail(ctx, LORA_E_ARGUMENT, "batch", "n_sequences %lld x length %lld", (long long)a->n_sequences, (long long)a->length);
	if (n > INT32_MAX) return lora__fail(ctx, LORA_E_LIMIT, "batch", "%lld tokens in one batch, the limit is 2^31 - 1", (long long)n);
	if (n && !a->input_ids) return lora__fail(ctx, LORA_E_ARGUMENT, "batch", "input_ids is NULL");
	if (a->decoder_input_ids) return lora__fail(ctx, LORA_E_UNSUPPORTED, "batch", "decoder_input_ids: this model has no decoder of its own");
	if (a->adapter_rows && a->n_adapters && !a->adapters) return lora__fail(ctx, LORA_E_ARGUMENT, "batch", "adapters is NULL");
	return LORA_OK;
}

static lora_status add_runs(lora_model *m, const lora_batch *a, int64_t s, int64_t first, int64_t n)
{
	struct lora__batchmem *b = m->batch;
	int32_t k = a->adapter_rows[s];
	if (k < -1 || k >= a->n_adapters)
		return lora__fail(m->s.ctx, LORA_E_ARGUMENT, "batch", "adapter_rows[%lld] is %d, there are %lld adapters", (long long)s, (int)k, (long long)a->n_adapters);
	const lora_adapter *who = k < 0 ? NULL : a->adapters[k];
	lora__stretch *last = b->runs.n ? &b->run[b->runs.n - 1] : NULL;
	if (last && last->adapter == who) last->n += n;
	else b->run[b->runs.n++] = (lora__stretch){ first, n, who, 0 };
	return LORA_OK;
}

/* One token at column t of sequence s becomes row r. */
static lora_status add_row(lora_model *m, const lora_batch *a, int64_t s, int64_t t, int64_t r, int64_t in_sequence)
{
	struct lora__batchmem *b = m->batch;
	int64_t at = s * a->length + t;
	int32_t id = a->input_ids[at];
	if (id < 0 || id >= m->vocab)
		return lora__fail_at(m->s.ctx, LORA_E_SHAPE, "batch", "input_ids", -1, "input_ids[%lld,%lld] is %d, the vocabulary has %lld", (long long)s, (long long)t, (int)id,
			(long long)m->vocab);
	int64_t p = a->position_ids ? a->position_ids[at] : in_sequence;
	if (m->table_positions && p >= m->table_positions)
		return lora__fail_at(m->s.ctx, LORA_E_SHAPE, "batch", "position_ids", -1, "position %lld at [%lld,%lld]: the model's table has %lld positions", (long long)p,
			(long long)s, (long long)t, (long long)m->table_positions);
	if (p < 0 || p >= (1 << 24))
		return lora__fail_at(m->s.ctx, LORA_E_SHAPE, "batch", "position_ids", -1, "position_ids[%lld,%lld] is %lld", (long long)s, (long long)t, (long long)p);
	int32_t label = a->labels && t + 1 < a->length ? a->labels[at + 1] : -100; /* the row predicts the next column */
	if (label != -100 && (label < 0 || label >= m->vocab))
		return lora__fail_at(m->s.ctx, LORA_E_SHAPE, "batch", "labels", -1, "labels[%lld,%lld] is %d, the vocabulary has %lld (-100 = ignore)", (long long)s,
			(long long)t + 1, (int)label, (long long)m->vocab);
	b->ids[r] = id, b->positions[r] = (int32_t)p, b->columns[r] = (int32_t)t, b->labels[r] = label == -100 ? -1 : label, b->logit_row[r] = at;
	if (p > b->max_position) b->max_position = p;
	b->n_labels += label >= 0;
	return LORA_OK;
}

lora_status lora__batch_prepare(lora_model *m, const lora_batch *a)
{
	lora_status st = check_shape(m->s.ctx, a);
	if (st) return st;
	if (!m->arch) return lora__fail(m->s.ctx, LORA_E_STATE, "model", "this model has host-owned sites and no graph; use lora_linear_forward()");
	if ((st = lora__batch_reserve(m, (size_t)(a->n_sequences * a->length), (size_t)a->n_sequences))) return st;
	struct lora__batchmem *b = m->batch;
	int64_t r = 0;
	b->n_labels = b->max_position = b->n_segments = b->runs.n = 0;
	b->runs.run = b->run;
	for (int64_t s = 0; s < a->n_sequences; s++) {
		int64_t first = r;
		for (int64_t t = 0; t < a->length; t++) {
			if (a->attention_mask) {
				int32_t on = a->attention_mask[s * a->length + t];
				if (on != 0 && on != 1) return lora__fail_at(m->s.ctx, LORA_E_ARGUMENT, "batch", "attention_mask", -1, "attention_mask[%lld,%lld] is %d, must be 0 or 1",
					(long long)s, (long long)t, (int)on);
				if (!on) continue;
			}
			if ((st = add_row(m, a, s, t, r, r - first))) return st;
			r++;
		}
		if (r == first) continue;
		int32_t *g = b->segments + 4 * b->n_segments++;
		g[0] = g[2] = (int32_t)first, g[1] = g[3] = (int32_t)(r - first);
		if (a->adapter_rows && (st = add_runs(m, a, s, first, r - first))) return st;
	}
	b->n_rows = r;
	return LORA_OK;
}

lora_status lora__batch_labels(lora_model *m, const lora_batch *batch, int64_t *n)
{
	lora_status st = lora__batch_prepare(m, batch);
	if (st == LORA_OK) *n = m->batch->n_labels;
	return st;
}
