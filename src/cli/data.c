/* lora: batches from examples or slabs. The order of an epoch is a Fisher-Yates shuffle whose draws are a hash of (seed, epoch, counter) with the
 * finaliser of SplitMix64 (Steele, Lea, Flood 2014), so it needs no state. */
#include "cli/data.h"

#include <stdlib.h>
#include <string.h>

static uint64_t mix(uint64_t x)
{
	x += UINT64_C(0x9E3779B97F4A7C15);
	x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
	x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
	return x ^ x >> 31;
}

static void shuffle(uint32_t *order, int64_t n, uint64_t seed, int64_t epoch)
{
	uint64_t key = mix(mix(seed) ^ (uint64_t)epoch);
	for (int64_t i = 0; i < n; i++) order[i] = (uint32_t)i;
	for (int64_t i = n - 1; i > 0; i--) {
		/* the bias of the remainder is below 2^-31 */
		int64_t j = (int64_t)(mix(key + (uint64_t)i) % (uint64_t)(i + 1));
		uint32_t t = order[i];
		order[i] = order[j];
		order[j] = t;
	}
}

int data_needs_tokenizer(const char *path) { return !path_has_suffix(path, ".safetensors"); }

int64_t data_batches(const dataset *d)
{
	if (d->slabs) return d->n;
	return (d->n + d->options.batch_size - 1) / d->options.batch_size;
}

int data_open(dataset *d, session *s, const char *path, const char *tokenizer, const data_options *options)
{
	int status;
	memset(d, 0, sizeof *d);
	d->options = *options;
	d->path = path;
	d->epoch = -1;
	d->n_labels = s->info.n_labels;
	d->vocab_size = s->info.vocab_size;
	d->pad_id = s->info.pad_token_id >= 0 ? s->info.pad_token_id : s->info.eos_token_id >= 0 ? s->info.eos_token_id : 0;
	if (d->pad_id >= d->vocab_size) d->pad_id = 0;
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
	if (!d->n)
		return fail(FAILED, path, "holds nothing to learn from%s",
			d->dropped ? " (every example was too short, or had no completion left)" : "");
	if (d->n > UINT32_MAX) return fail(FAILED, path, "more than 4,294,967,295 examples");
	if (d->dropped)
		warn(path, "%lld examples left out: too short, or nothing of the completion left at this sequence_length",
			(long long)d->dropped);
	if (d->slabs) return OK;
	d->order = new_array((size_t)d->n, sizeof *d->order);
	return d->order ? OK : FAILED;
}

void data_close(dataset *d)
{
	free(d->ids);
	free(d->labels);
	free(d->start);
	free(d->classes);
	free(d->mask);
	free(d->positions);
	free(d->order);
	free(d->batch_ids);
	free(d->batch_labels);
	free(d->batch_mask);
	free(d->batch_classes);
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
	out->input_ids = d->ids + at;
	out->attention_mask = d->mask ? d->mask + at : NULL;
	out->position_ids = d->positions ? d->positions + at : NULL;
	if (d->classes) {
		out->labels = d->classes + n % d->n * d->rows;
	} else if (d->labels) {
		out->labels = d->labels + at;
	} else {
		for (int64_t i = 0; i < size; i++) d->batch_labels[i] = d->mask && !d->mask[at + i] ? -100 : d->ids[at + i];
		out->labels = d->batch_labels;
	}
	return OK;
}

static void fill_row(dataset *d, int64_t row, int64_t length, size_t example)
{
	size_t from = d->start[example], n = d->start[example + 1] - from;
	for (int64_t j = 0; j < length; j++) {
		size_t at = (size_t)(row * length + j);
		int real = (size_t)j < n;
		d->batch_ids[at] = real ? d->ids[from + (size_t)j] : (int32_t)d->pad_id;
		d->batch_mask[at] = real;
		d->batch_labels[at] = !real ? -100 : d->labels ? d->labels[from + (size_t)j] : d->batch_ids[at];
	}
	if (d->classes) d->batch_classes[row] = d->classes[example];
}

static int example_batch(dataset *d, int64_t n, lora_batch *out)
{
	int64_t per_epoch = data_batches(d), epoch = n / per_epoch, first = n % per_epoch * d->options.batch_size;
	int64_t rows = d->n - first < d->options.batch_size ? d->n - first : d->options.batch_size;
	size_t length = 0;

	if (epoch != d->epoch) {
		if (d->options.shuffle) shuffle(d->order, d->n, (uint64_t)d->options.seed, epoch);
		else
			for (int64_t i = 0; i < d->n; i++) d->order[i] = (uint32_t)i;
		d->epoch = epoch;
	}
	for (int64_t i = 0; i < rows; i++) {
		size_t e = d->order[first + i], m = d->start[e + 1] - d->start[e];
		if (m > length) length = m;
	}
	if (room_for_batch(d, (size_t)rows * length)) return FAILED;
	for (int64_t i = 0; i < rows; i++) fill_row(d, i, (int64_t)length, d->order[first + i]);
	out->n_sequences = rows;
	out->length = (int64_t)length;
	out->input_ids = d->batch_ids;
	out->attention_mask = d->batch_mask;
	out->labels = d->classes ? d->batch_classes : d->batch_labels;
	return OK;
}

int data_batch(dataset *d, int64_t n, lora_batch *out)
{
	memset(out, 0, sizeof *out);
	out->struct_size = sizeof *out;
	return d->slabs ? slab_batch(d, n, out) : example_batch(d, n, out);
}

/* Longest first. */
static int by_length(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return x < y ? 1 : x > y ? -1 : 0;
}

data_shape data_largest(const dataset *d)
{
	data_shape s = { d->rows, d->length, d->rows * d->length };
	if (d->slabs) return s;
	/* the order is shuffled, so the longest examples may meet */
	uint32_t *lengths = new_array((size_t)d->n, sizeof *lengths);
	s.sequences = d->n < d->options.batch_size ? d->n : d->options.batch_size;
	s.length = d->options.sequence_length;
	s.tokens = s.sequences * s.length;
	if (!lengths) return s;
	for (int64_t i = 0; i < d->n; i++) lengths[i] = (uint32_t)(d->start[i + 1] - d->start[i]);
	qsort(lengths, (size_t)d->n, sizeof *lengths, by_length);
	s.length = lengths[0];
	s.tokens = 0;
	for (int64_t i = 0; i < s.sequences; i++) s.tokens += lengths[i];
	free(lengths);
	return s;
}
