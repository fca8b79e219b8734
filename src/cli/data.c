/* lora: batches from examples or slabs. */
#include "cli/data.h"

#include <stdlib.h>
#include <string.h>

#define MEMORY (INT64_C(256) << 20)

int data_needs_tokenizer(const char *path) { return !path_has_suffix(path, ".safetensors"); }

int64_t data_batches(const dataset *d)
{
	if (d->slabs) return d->n;
	return (d->n + d->options.batch_size - 1) / d->options.batch_size;
}

static void report_left_out(const dataset *d)
{
	if (d->bad) warn(d->path, "%lld bad lines left out", (long long)d->bad);
	if (d->dropped)
		warn(d->path, "%lld examples left out: too short, or nothing of the completion left at this sequence_length",
			(long long)d->dropped);
}

int data_open(dataset *d, session *s, const char *path, const char *tokenizer, const data_options *options)
{
	int status;
	memset(d, 0, sizeof *d);
	d->options = *options;
	d->path = path;
	d->epoch = -1;
	d->n_labels = s->info.n_labels;
	d->has_decoder = s->info.has_decoder;
	if (d->has_decoder) d->options.completion_only = 1;
	d->vocab_size = s->info.vocab_size;
	d->pad_id = s->info.pad_token_id >= 0 ? s->info.pad_token_id : s->info.eos_token_id >= 0 ? s->info.eos_token_id : 0;
	if (d->pad_id >= d->vocab_size) d->pad_id = 0;
	d->ids.limit = d->labels.limit = d->start.limit = d->classes.limit = (size_t)(options->memory > 0 ? options->memory : MEMORY) / 4;
	if (!path_exists(path)) return fail(FAILED, path, "no such file");
	if (data_needs_tokenizer(path) && !s->tokenizer) {
		status = session_tokenizer(s, tokenizer);
		if (status) return status;
	}
	if (path_has_suffix(path, ".safetensors")) status = data_read_slabs(d);
	else if (path_has_suffix(path, ".jsonl")) status = data_read_lines(d, s);
	else if (path_has_suffix(path, ".txt")) status = data_read_text(d, s);
	else return fail(USAGE, path, "data must be a .txt, .jsonl or .safetensors file");
	if (status) return status;
	if (!d->slabs && !d->n_examples)
		return fail(FAILED, path, "holds nothing to learn from%s%s",
			d->dropped ? " (every example was too short, or had no completion left)" : "", d->bad ? " (bad lines were left out)" : "");
	if (d->n_examples > UINT32_MAX) return fail(FAILED, path, "more than 4,294,967,295 examples");
	report_left_out(d);
	return d->slabs ? OK : data_lay_out(d);
}

void data_close(dataset *d)
{
	if (!d->borrowed) {
		store_free(&d->ids);
		store_free(&d->labels);
		store_free(&d->start);
		store_free(&d->classes);
	}
	void *all[] = { d->pick, d->item, d->block, d->slab_ids, d->slab_labels, d->slab_classes, d->mask, d->positions, d->order, d->batch_ids,
		d->batch_labels, d->batch_mask, d->batch_classes };
	for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
	memset(d, 0, sizeof *d);
}

static int room_for_batch(dataset *d, size_t n)
{
	if (n <= d->batch_room) return OK;
	int32_t **arrays[] = { &d->batch_ids, &d->batch_labels, &d->batch_mask, &d->batch_classes };
	for (size_t i = 0; i < 4; i++) {
		free(*arrays[i]);
		*arrays[i] = new_array(n, sizeof(int32_t));
		if (!*arrays[i]) return d->batch_room = 0, FAILED;
	}
	d->batch_room = n;
	return OK;
}

static int slab_batch(dataset *d, int64_t n, lora_batch *out)
{
	int64_t size = d->rows * d->length, at = n % d->n * size;
	if (room_for_batch(d, (size_t)size)) return FAILED;
	out->n_sequences = d->rows;
	out->length = d->length;
	out->input_ids = d->slab_ids + at;
	out->attention_mask = d->mask ? d->mask + at : NULL;
	out->position_ids = d->positions ? d->positions + at : NULL;
	if (d->has_decoder) {
		out->labels = d->slab_labels + n % d->n * d->rows * d->target_length;
		out->decoder_length = d->target_length;
	} else if (d->slab_classes) {
		out->labels = d->slab_classes + n % d->n * d->rows;
	} else if (d->slab_labels) {
		out->labels = d->slab_labels + at;
	} else {
		for (int64_t i = 0; i < size; i++) d->batch_labels[i] = d->mask && !d->mask[at + i] ? -100 : d->slab_ids[at + i];
		out->labels = d->batch_labels;
	}
	return OK;
}

static void fill_row(dataset *d, int64_t row, int64_t length, size_t example)
{
	const int32_t *ids = d->ids.p, *labels = d->labels.n ? d->labels.p : d->ids.p;
	size_t from = ((const size_t *)d->start.p)[example], n = data_length(d, example);
	for (int64_t j = 0; j < length; j++) {
		size_t at = (size_t)(row * length + j);
		int real = (size_t)j < n;
		d->batch_ids[at] = real ? ids[from + (size_t)j] : (int32_t)d->pad_id;
		d->batch_mask[at] = real;
		d->batch_labels[at] = real ? labels[from + (size_t)j] : -100;
	}
	if (d->n_labels) d->batch_classes[row] = ((const int32_t *)d->classes.p)[example];
}

/* Tokens of an example that are its source. */
static size_t source_length(const dataset *d, size_t example)
{
	const int32_t *labels = (const int32_t *)d->labels.p + ((const size_t *)d->start.p)[example];
	size_t n = data_length(d, example), k = 0;
	while (k < n && labels[k] == -100) k++;
	return k;
}

/* A row of an encoder-decoder batch: the source among the ids, the target among the labels. */
static void fill_pair(dataset *d, int64_t row, int64_t length, int64_t target, size_t example)
{
	const int32_t *ids = (const int32_t *)d->ids.p + ((const size_t *)d->start.p)[example];
	int64_t source = (int64_t)source_length(d, example), n = (int64_t)data_length(d, example) - source;
	for (int64_t j = 0; j < length; j++) {
		d->batch_ids[row * length + j] = j < source ? ids[j] : (int32_t)d->pad_id;
		d->batch_mask[row * length + j] = j < source;
	}
	for (int64_t j = 0; j < target; j++) d->batch_labels[row * target + j] = j < n ? ids[source + j] : -100;
}

static void data_used(dataset *d, size_t tokens)
{
	store_used(&d->ids, tokens * sizeof(int32_t));
	store_used(&d->labels, tokens * sizeof(int32_t));
	store_used(&d->start, sizeof(size_t));
	store_used(&d->classes, sizeof(int32_t));
}

/* The examples of units first .. first+units-1 in the epoch's order, one after the other: pass 0 counts, pass 1 fills the rows. */
static int example_batch(dataset *d, int64_t n, lora_batch *out)
{
	int64_t per_epoch = data_batches(d), epoch = n / per_epoch, first = n % per_epoch * d->options.batch_size;
	int64_t units = d->n - first < d->options.batch_size ? d->n - first : d->options.batch_size, rows = 0, row = 0;
	size_t length = 0, target = 0;

	if (data_order(d, epoch)) return FAILED;
	for (int pass = 0; pass < 2; pass++) {
		for (int64_t k = 0; k < units; k++) {
			size_t u = d->order[first + k], from = d->block ? d->block[u] : u, to = d->block ? d->block[u + 1] : u + 1;
			for (size_t i = from; i < to; i++) {
				size_t e = data_example(d, d->block ? d->item[i] : i), m = data_length(d, e);
				size_t source = d->has_decoder ? source_length(d, e) : m;
				if (pass && d->has_decoder) fill_pair(d, row++, (int64_t)length, (int64_t)target, e);
				else if (pass) fill_row(d, row++, (int64_t)length, e);
				else rows++;
				if (source > length) length = source;
				if (m - source > target) target = m - source;
				if (pass) data_used(d, m);
			}
		}
		if (!pass && room_for_batch(d, (size_t)rows * (length > target ? length : target))) return FAILED;
	}
	out->n_sequences = rows;
	out->length = (int64_t)length;
	out->input_ids = d->batch_ids;
	out->attention_mask = d->batch_mask;
	out->labels = d->n_labels ? d->batch_classes : d->batch_labels;
	if (d->has_decoder) out->decoder_length = (int64_t)target;
	return OK;
}

int data_batch(dataset *d, int64_t n, lora_batch *out)
{
	memset(out, 0, sizeof *out);
	out->struct_size = sizeof *out;
	return d->slabs ? slab_batch(d, n, out) : example_batch(d, n, out);
}

/* Sum of the k largest of n numbers, of which count[v] are v; v < top. */
static int64_t largest(const int64_t *count, int64_t top, int64_t k)
{
	int64_t sum = 0;
	for (int64_t v = top - 1; v > 0 && k > 0; v--) {
		int64_t take = count[v] < k ? count[v] : k;
		sum += take * v;
		k -= take;
	}
	return sum;
}

/* Examples of a unit, their tokens and the longest of them. */
static int64_t unit_size(const dataset *d, int64_t u, int64_t *tokens, int64_t *longest)
{
	size_t from = d->block ? d->block[u] : (size_t)u, to = d->block ? d->block[u + 1] : (size_t)u + 1;
	*tokens = 0;
	for (size_t i = from; i < to; i++) {
		int64_t m = (int64_t)data_length(d, data_example(d, d->block ? d->item[i] : i));
		*tokens += m;
		if (m > *longest) *longest = m;
	}
	return (int64_t)(to - from);
}

data_shape data_largest(const dataset *d)
{
	data_shape s = { d->rows, d->length, d->rows * d->length };
	if (d->slabs) return s;
	int64_t units = d->n < d->options.batch_size ? d->n : d->options.batch_size, top = 0, sum, longest = 0;
	s = (data_shape){ units, d->options.sequence_length, units * d->options.sequence_length };
	for (int64_t u = 0; u < d->n; u++) {
		int64_t examples = unit_size(d, u, &sum, &longest);
		if (sum >= top) top = sum + 1;
		if (examples >= top) top = examples + 1;
	}
	int64_t *tokens = new_array((size_t)top * 2, sizeof *tokens);
	if (!tokens) return s;
	int64_t *sequences = tokens + top;
	for (int64_t u = 0; u < d->n; u++) sequences[unit_size(d, u, &sum, &longest)]++, tokens[sum]++;
	s.length = longest;
	s.tokens = largest(tokens, top, units); /* the order is shuffled, so the longest may meet */
	if (d->block) s.sequences = largest(sequences, top, units);
	free(tokens);
	return s;
}
