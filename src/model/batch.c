/* From a padded batch [B,T] to rows: one row per token that the mask keeps, sequence after sequence, so that padding costs nothing.
 * Row tables are reused from batch to batch; they grow only when a batch is larger than any before. Classifiers and encoder-decoder models have a
 * second table (lora__form). */
#include <string.h>

#include "model/model.h"
#include "site/virtual.h"

static void free_table(lora_context *ctx, struct lora__batchmem *b)
{
	if (!b) return;
	void *all[] = { b->ids, b->positions, b->columns, b->types, b->segments, b->cross, b->lead, b->labels, b->head_rows, b->logit_row, b->loss, b->run, b };
	for (size_t i = 0; i < sizeof all / sizeof *all; i++) lora__free(ctx, all[i]);
}

void lora__batch_free(lora_model *m)
{
	free_table(m->s.ctx, m->batch);
	free_table(m->s.ctx, m->source_batch);
	m->batch = m->source_batch = NULL;
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

lora_status lora__batch_reserve(lora_model *m, struct lora__batchmem **which, size_t rows, size_t segments)
{
	lora_context *ctx = m->s.ctx;
	if (!*which && !(*which = lora__zalloc(ctx, sizeof **which))) return LORA_E_MEMORY;
	struct lora__batchmem *b = *which;
	lora_status st = LORA_OK;
	if (rows > b->cap_rows) {
		int32_t **tables[] = { &b->ids, &b->positions, &b->columns, &b->types, &b->labels, &b->head_rows };
		for (size_t i = 0; i < sizeof tables / sizeof *tables && st == LORA_OK; i++) st = again(ctx, tables[i], rows, sizeof(int32_t));
		if (st == LORA_OK) st = again(ctx, &b->logit_row, rows, sizeof(int64_t));
		if (st == LORA_OK) st = again(ctx, &b->loss, rows, sizeof(double));
		b->cap_rows = st ? 0 : rows;
	}
	if (st == LORA_OK && segments > b->cap_segments) {
		st = again(ctx, &b->segments, segments * 4, sizeof(int32_t));
		if (st == LORA_OK) st = again(ctx, &b->cross, segments * 4, sizeof(int32_t));
		if (st == LORA_OK) st = again(ctx, &b->lead, segments, sizeof(int32_t));
		if (st == LORA_OK) st = again(ctx, &b->run, segments, sizeof *b->run);
		b->cap_segments = st ? 0 : segments;
	}
	if (st) return st;
	b->n_rows = b->n_labels = b->max_position = b->n_segments = b->runs.n = 0;
	b->runs.run = b->run;
	return LORA_OK;
}

static lora_status check_shape(const lora_model *m, const lora_batch *a)
{
	lora_context *ctx = m->s.ctx;
	int64_t n;
	if (!a || a->struct_size < offsetof(lora_batch, reserved)) return lora__fail(ctx, LORA_E_ARGUMENT, "batch", "batch is NULL or its struct_size is not set");
	for (size_t i = 0; i < 4 && a->struct_size >= sizeof *a; i++)
		if (a->reserved[i]) return lora__fail(ctx, LORA_E_ARGUMENT, "batch", "reserved members must be zero");
	if (a->flags) return lora__fail(ctx, LORA_E_ARGUMENT, "batch", "unknown flags");
	if (a->n_sequences < 0 || a->length < 0 || !lora__mul_i64(a->n_sequences, a->length, &n))
		return lora__fail(ctx, LORA_E_ARGUMENT, "batch", "n_sequences %lld x length %lld", (long long)a->n_sequences, (long long)a->length);
	if (n > INT32_MAX) return lora__fail(ctx, LORA_E_LIMIT, "batch", "%lld tokens in one batch, the limit is 2^31 - 1", (long long)n);
	if (n && !a->input_ids) return lora__fail(ctx, LORA_E_ARGUMENT, "batch", "input_ids is NULL");
	if (a->decoder_input_ids && m->form != LORA__FORM_SEQ2SEQ)
		return lora__fail(ctx, LORA_E_UNSUPPORTED, "batch", "decoder_input_ids: this model has no decoder of its own");
	if (a->adapter_rows && a->n_adapters && !a->adapters) return lora__fail(ctx, LORA_E_ARGUMENT, "batch", "adapters is NULL");
	if (m->form != LORA__FORM_SEQ2SEQ) return LORA_OK;
	if (a->decoder_length < 0 || !lora__mul_i64(a->n_sequences, a->decoder_length, &n) || n > INT32_MAX)
		return lora__fail(ctx, LORA_E_ARGUMENT, "batch", "decoder_length is %lld", (long long)a->decoder_length);
	if (n == 0 || a->decoder_input_ids || a->labels) return LORA_OK;
	return lora__fail(ctx, LORA_E_ARGUMENT, "batch", "an encoder-decoder model needs decoder_input_ids, or labels to make them of");
}

static lora_status add_run(lora_model *m, struct lora__batchmem *b, const lora_batch *a, int64_t s, int64_t first, int64_t n)
{
	if (!a->adapter_rows) return LORA_OK;
	int32_t k = a->adapter_rows[s];
	if (k < -1 || k >= a->n_adapters)
		return lora__fail(m->s.ctx, LORA_E_ARGUMENT, "batch", "adapter_rows[%lld] is %d, there are %lld adapters", (long long)s, (int)k, (long long)a->n_adapters);
	const lora_adapter *who = k < 0 ? NULL : a->adapters[k];
	lora__stretch *last = b->runs.n ? &b->run[b->runs.n - 1] : NULL;
	if (last && last->adapter == who) last->n += n;
	else b->run[b->runs.n++] = (lora__stretch){ first, n, who, 0 };
	return LORA_OK;
}

static void add_segment(struct lora__batchmem *b, int64_t first, int64_t n)
{
	int32_t *g = b->segments + 4 * b->n_segments++;
	g[0] = g[2] = (int32_t)first, g[1] = g[3] = (int32_t)n;
}

static lora_status bad_id(const lora_model *m, const char *what, int64_t s, int64_t t, int32_t id, int64_t limit, const char *of)
{
	return lora__fail_at(m->s.ctx, LORA_E_SHAPE, "batch", what, -1, "%s[%lld,%lld] is %d, %s %lld", what, (long long)s, (long long)t, (int)id, of, (long long)limit);
}

/* Label at [s,t] of labels [B,width], into *out; -1 = none. */
static lora_status read_label(const lora_model *m, const int32_t *labels, int64_t s, int64_t t, int64_t width, int32_t *out)
{
	int32_t label = labels ? labels[s * width + t] : -100;
	*out = label == -100 ? -1 : label;
	if (label == -100 || (label >= 0 && label < m->vocab)) return LORA_OK;
	return lora__fail_at(m->s.ctx, LORA_E_SHAPE, "batch", "labels", -1, "labels[%lld,%lld] is %d, the vocabulary has %lld (-100 = ignore)", (long long)s, (long long)t,
		(int)label, (long long)m->vocab);
}

/* One token at column t of sequence s becomes row r. ahead: virtual tokens before the sequence; then positions run on from them over all columns,
 * whatever position_ids says, as in PEFT. */
static lora_status add_row(lora_model *m, struct lora__batchmem *b, const lora_batch *a, int64_t s, int64_t t, int64_t r, int64_t in_sequence, int64_t ahead)
{
	int64_t at = s * a->length + t;
	int32_t id = a->input_ids[at], type = m->n_types && a->token_type_ids ? a->token_type_ids[at] : 0;
	if (id < 0 || id >= m->vocab) return bad_id(m, "input_ids", s, t, id, m->vocab, "the vocabulary has");
	if (m->n_types && (type < 0 || type >= m->n_types)) return bad_id(m, "token_type_ids", s, t, type, m->n_types, "the model's token types are");
	int64_t p = ahead ? ahead + (m->position_kept ? in_sequence : t) : a->position_ids ? a->position_ids[at] : (m->position_columns ? t : in_sequence) + m->position_base;
	if (m->table_positions && p >= m->table_positions)
		return lora__fail_at(m->s.ctx, LORA_E_SHAPE, "batch", "position_ids", -1, "position %lld at [%lld,%lld]: the model's table has %lld positions", (long long)p,
			(long long)s, (long long)t, (long long)m->table_positions);
	if (p < 0 || p >= (1 << 24))
		return lora__fail_at(m->s.ctx, LORA_E_SHAPE, "batch", "position_ids", -1, "position_ids[%lld,%lld] is %lld", (long long)s, (long long)t, (long long)p);
	b->ids[r] = id, b->positions[r] = (int32_t)p, b->columns[r] = (int32_t)(ahead + t), b->types[r] = type, b->labels[r] = -1, b->logit_row[r] = at;
	if (p > b->max_position) b->max_position = p;
	/* the row predicts the next column */
	if (m->form != LORA__FORM_CAUSAL || t + 1 >= a->length) return LORA_OK;
	lora_status st = read_label(m, a->labels, s, t + 1, a->length, &b->labels[r]);
	b->n_labels += b->labels[r] >= 0;
	return st;
}

/* Tokens that the mask keeps, of sequence s. */
static int any_kept(const lora_batch *a, int64_t s)
{
	for (int64_t t = 0; t < a->length; t++)
		if (a->attention_mask[s * a->length + t]) return 1;
	return 0;
}

/* A classifier reads column 0 even where it is padding (as transformers does): there it is a query that nobody sees. */
static lora_status add_blind_row(lora_model *m, struct lora__batchmem *b, const lora_batch *a, int64_t s, int64_t r)
{
	lora_status st = add_row(m, b, a, s, 0, r, m->position_base ? -1 : 0, 0);
	b->logit_row[r] = -1;
	return st;
}

/* Virtual rows of sequence s from row r; the last of them predicts its first column. *ahead: all its virtual tokens; *n: these rows. */
static lora_status add_virtual(lora_model *m, struct lora__batchmem *b, const lora_batch *a, int64_t s, int64_t r, int64_t *ahead, int64_t *n)
{
	int every = !a->adapter_rows, k = every ? -1 : a->adapter_rows[s];
	const lora_adapter *who = k >= 0 && k < a->n_adapters ? a->adapters[k] : NULL;
	int64_t keys = lora__virtual_tokens(&m->s, LORA__VIRTUAL_KEYS, who, every), rows = lora__virtual_tokens(&m->s, LORA__VIRTUAL_ROWS, who, every);
	*ahead = *n = 0;
	if (!(keys + rows) || (a->attention_mask && !any_kept(a, s))) return LORA_OK;
	for (int64_t i = 0; i < rows; i++, r++) {
		b->ids[r] = 0, b->types[r] = 0, b->positions[r] = b->columns[r] = (int32_t)(keys + i), b->labels[r] = -1, b->logit_row[r] = -1;
		if (i + 1 < rows) continue;
		lora_status st = read_label(m, a->labels, s, 0, a->length, &b->labels[r]);
		if (st) return st;
		b->n_labels += b->labels[r] >= 0;
	}
	*ahead = keys + rows, *n = rows;
	return LORA_OK;
}

/* The tokens of input_ids. */
static lora_status read_tokens(lora_model *m, struct lora__batchmem **which, const lora_batch *a)
{
	int64_t most = lora__model_virtual(m, LORA__VIRTUAL_ROWS);
	if (most && a->n_sequences > INT32_MAX / (a->length + most))
		return lora__fail(m->s.ctx, LORA_E_LIMIT, "batch", "%lld sequences of %lld tokens and %lld virtual ones are too many", (long long)a->n_sequences, (long long)a->length,
			(long long)most);
	lora_status st = lora__batch_reserve(m, which, (size_t)(a->n_sequences * (a->length + most)), (size_t)a->n_sequences);
	if (st) return st;
	struct lora__batchmem *b = *which;
	int64_t r = 0, ahead = 0, lead = 0;
	for (int64_t s = 0; s < a->n_sequences; s++) {
		int64_t first = r, blind = m->form == LORA__FORM_ENCODER && a->attention_mask && a->length && !a->attention_mask[s * a->length] && any_kept(a, s);
		if (blind && (st = add_blind_row(m, b, a, s, r++))) return st;
		if (m->s.n_virtuals && a->length && (st = add_virtual(m, b, a, s, r, &ahead, &lead))) return st;
		r += lead;
		for (int64_t t = 0; t < a->length; t++) {
			if (a->attention_mask) {
				int32_t on = a->attention_mask[s * a->length + t];
				if (on != 0 && on != 1) return lora__fail_at(m->s.ctx, LORA_E_ARGUMENT, "batch", "attention_mask", -1, "attention_mask[%lld,%lld] is %d, must be 0 or 1",
					(long long)s, (long long)t, (int)on);
				if (!on) continue;
			}
			if ((st = add_row(m, b, a, s, t, r, r - first - blind - lead, ahead))) return st;
			r++;
		}
		if (r == first) continue;
		b->lead[b->n_segments] = (int32_t)lead;
		add_segment(b, first, r - first);
		b->segments[4 * b->n_segments - 2] += (int32_t)blind, b->segments[4 * b->n_segments - 1] -= (int32_t)blind;
		if ((st = add_run(m, b, a, s, first, r - first))) return st;
	}
	b->n_rows = r;
	return LORA_OK;
}

/* Number in the batch of segment k's sequence. */
static int64_t sequence_of(const struct lora__batchmem *tokens, const lora_batch *a, int64_t k)
{
	return tokens->logit_row[tokens->segments[4 * k + 2]] / a->length; /* the first key is never a blind row */
}

/* One row per sequence that has tokens, its id the number of the first of them. */
static lora_status read_sequences(lora_model *m, const lora_batch *a)
{
	const struct lora__batchmem *tokens = m->source_batch;
	lora_status st = lora__batch_reserve(m, &m->batch, (size_t)tokens->n_segments, (size_t)tokens->n_segments);
	struct lora__batchmem *b = m->batch;
	for (int64_t k = 0; k < tokens->n_segments && st == LORA_OK; k++) {
		int64_t first = tokens->segments[4 * k], s = sequence_of(tokens, a, k), r = b->n_rows++;
		int32_t label = a->labels && m->n_labels ? a->labels[s] : -100;
		if (label != -100 && (label < 0 || label >= m->n_labels))
			return lora__fail_at(m->s.ctx, LORA_E_SHAPE, "batch", "labels", -1, "labels[%lld] is %d, the model has %lld classes (-100 = ignore)", (long long)s, (int)label,
				(long long)m->n_labels);
		b->ids[r] = (int32_t)first, b->logit_row[r] = s, b->labels[r] = label == -100 ? -1 : label;
		b->positions[r] = b->columns[r] = 0;
		b->n_labels += label != -100;
		add_segment(b, r, 1);
		int32_t *cross = b->cross + 4 * k;
		cross[0] = (int32_t)r, cross[1] = 1, cross[2] = tokens->segments[4 * k + 2], cross[3] = tokens->segments[4 * k + 3];
		st = add_run(m, b, a, s, r, 1);
	}
	return st;
}

/* Decoder token t: as given, or the label before it behind the start token (transformers' shift_tokens_right; ignored labels become padding). */
static int32_t decoder_token(const lora_model *m, const lora_batch *a, int64_t s, int64_t t)
{
	if (a->decoder_input_ids) return a->decoder_input_ids[s * a->decoder_length + t];
	int32_t before = t ? a->labels[s * a->decoder_length + t - 1] : (int32_t)m->decoder_start;
	return before == -100 ? (int32_t)(m->pad >= 0 ? m->pad : 0) : before;
}

/* The decoder's tokens, all of them: what is behind a sequence's end changes nothing before it. */
static lora_status read_decoder(lora_model *m, const lora_batch *a)
{
	const struct lora__batchmem *tokens = m->source_batch;
	int64_t width = a->decoder_length;
	lora_status st = lora__batch_reserve(m, &m->batch, (size_t)(tokens->n_segments * width), (size_t)tokens->n_segments);
	struct lora__batchmem *b = m->batch;
	for (int64_t k = 0; k < tokens->n_segments && st == LORA_OK && width; k++) {
		int64_t s = sequence_of(tokens, a, k), first = b->n_rows;
		int32_t *cross = b->cross + 4 * b->n_segments;
		for (int64_t t = 0; t < width && st == LORA_OK; t++) {
			int64_t r = b->n_rows++;
			int32_t id = decoder_token(m, a, s, t);
			if (id < 0 || id >= m->vocab) return bad_id(m, "decoder_input_ids", s, t, id, m->vocab, "the vocabulary has");
			b->ids[r] = id, b->positions[r] = b->columns[r] = (int32_t)t, b->types[r] = 0, b->logit_row[r] = s * width + t;
			st = read_label(m, a->labels, s, t, width, &b->labels[r]);
			b->n_labels += b->labels[r] >= 0;
		}
		cross[0] = (int32_t)first, cross[1] = (int32_t)width, cross[2] = tokens->segments[4 * k], cross[3] = tokens->segments[4 * k + 1];
		add_segment(b, first, width);
		if (st == LORA_OK) st = add_run(m, b, a, s, first, width);
	}
	return st;
}

lora_status lora__batch_prepare(lora_model *m, const lora_batch *a)
{
	lora_status st = check_shape(m, a);
	if (st) return st;
	if (!m->arch) return lora__fail(m->s.ctx, LORA_E_STATE, "model", "this model has host-owned sites and no graph; use lora_linear_forward()");
	if (a->labels && !m->has_head)
		return lora__fail(m->s.ctx, LORA_E_UNSUPPORTED, "batch", "labels: this model has no head (the setting num_labels gives it one)");
	if (m->form == LORA__FORM_CAUSAL) return read_tokens(m, &m->batch, a);
	st = read_tokens(m, &m->source_batch, a);
	if (st) return st;
	return m->form == LORA__FORM_ENCODER ? read_sequences(m, a) : read_decoder(m, a);
}

lora_status lora__batch_labels(lora_model *m, const lora_batch *batch, int64_t *n)
{
	lora_status st = lora__batch_prepare(m, batch);
	if (st == LORA_OK) *n = m->batch->n_labels;
	return st;
}

lora_status lora__batch_hidden(const lora_model *m, const lora_batch *a, int64_t *rows)
{
	int64_t each = !a ? -1 : m->form == LORA__FORM_SEQ2SEQ ? a->decoder_length : a->length;
	if (!a || a->n_sequences < 0 || each < 0 || !lora__mul_i64(a->n_sequences, each, rows))
		return lora__fail(m->s.ctx, LORA_E_ARGUMENT, "model", "batch is NULL or has impossible sizes");
	return LORA_OK;
}

lora_status lora__batch_logits(const lora_model *m, const lora_batch *a, int64_t *rows, int64_t *cols)
{
	lora_status st = lora__batch_hidden(m, a, rows);
	*cols = m->n_labels ? m->n_labels : m->vocab;
	if (st == LORA_OK && m->n_labels) *rows = a->n_sequences;
	return st;
}
