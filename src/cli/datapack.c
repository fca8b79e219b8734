/* lora: which examples make a unit of a batch, which of them are held back for validation, and in what order units come. Orders are Fisher-Yates
 * shuffles whose draws are a hash of (seed, epoch, counter) with the finaliser of SplitMix64 (Steele, Lea, Flood 2014), so they need no state. */
#include "cli/data.h"

#include <stdlib.h>
#include <string.h>

#define OPEN_BLOCKS 64 /* an example goes into the fullest of these that has room */
#define GROUP 50       /* batches that by_length sorts together, as transformers does */

uint64_t data_hash(uint64_t x)
{
	x += UINT64_C(0x9E3779B97F4A7C15);
	x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
	x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
	return x ^ x >> 31;
}

size_t data_length(const dataset *d, size_t e)
{
	const size_t *start = d->start.p;
	return start[e + 1] - start[e];
}

size_t data_example(const dataset *d, size_t i) { return d->pick ? d->pick[i] : i; }

static size_t unit_length(const dataset *d, size_t u)
{
	if (!d->block) return data_length(d, data_example(d, u));
	size_t n = 0;
	for (size_t i = d->block[u]; i < d->block[u + 1]; i++) n += data_length(d, data_example(d, d->item[i]));
	return n;
}

static void shuffle(uint32_t *order, int64_t n, uint64_t seed, int64_t epoch)
{
	uint64_t key = data_hash(data_hash(seed) ^ (uint64_t)epoch);
	for (int64_t i = 0; i < n; i++) order[i] = (uint32_t)i;
	for (int64_t i = n - 1; i > 0; i--) {
		/* the bias of the remainder is below 2^-31 */
		int64_t j = (int64_t)(data_hash(key + (uint64_t)i) % (uint64_t)(i + 1));
		uint32_t t = order[i];
		order[i] = order[j];
		order[j] = t;
	}
}

typedef struct sized {
	size_t length;
	uint32_t unit, place;
} sized;

static int longest_first(const void *a, const void *b)
{
	const sized *x = a, *y = b;
	if (x->length != y->length) return x->length < y->length ? 1 : -1;
	return x->place < y->place ? -1 : x->place > y->place;
}

/* Within groups of GROUP batches the longest come first; a group's units are still a random choice. */
static int sort_groups(dataset *d)
{
	int64_t group = d->options.batch_size > INT32_MAX / GROUP ? INT32_MAX : d->options.batch_size * GROUP;
	if (group > d->n) group = d->n;
	sized *list = new_array((size_t)group, sizeof *list);
	if (!list) return FAILED;
	for (int64_t at = 0; at < d->n; at += group) {
		int64_t n = d->n - at < group ? d->n - at : group;
		for (int64_t i = 0; i < n; i++) list[i] = (sized){ unit_length(d, d->order[at + i]), d->order[at + i], (uint32_t)i };
		qsort(list, (size_t)n, sizeof *list, longest_first);
		for (int64_t i = 0; i < n; i++) d->order[at + i] = list[i].unit;
	}
	free(list);
	return OK;
}

int data_order(dataset *d, int64_t epoch)
{
	if (epoch == d->epoch) return OK;
	if (d->options.shuffle) shuffle(d->order, d->n, (uint64_t)d->options.seed, epoch);
	else
		for (int64_t i = 0; i < d->n; i++) d->order[i] = (uint32_t)i;
	d->epoch = epoch;
	return d->options.by_length ? sort_groups(d) : OK;
}

/* ---- blocks ---- */

typedef struct open_block {
	size_t room;
	uint32_t number;
} open_block;

/* block_of[i]: block of the i-th picked example. Best fit over the blocks that were opened last. */
static int64_t fill_blocks(const dataset *d, uint32_t *block_of)
{
	open_block open[OPEN_BLOCKS];
	size_t n_open = 0, oldest = 0;
	uint32_t count = 0;
	for (int64_t i = 0; i < d->n_pick; i++) {
		size_t need = data_length(d, data_example(d, (size_t)i)), best = SIZE_MAX;
		for (size_t k = 0; k < n_open; k++)
			if (open[k].room >= need && (best == SIZE_MAX || open[k].room < open[best].room)) best = k;
		if (best == SIZE_MAX) {
			best = n_open < OPEN_BLOCKS ? n_open++ : oldest;
			oldest = (best + 1) % OPEN_BLOCKS;
			open[best] = (open_block){ (size_t)d->options.sequence_length, count++ };
		}
		open[best].room -= need < open[best].room ? need : open[best].room; /* a source and its target may have more than fits */
		block_of[i] = open[best].number;
	}
	return count;
}

static int pack(dataset *d)
{
	uint32_t *block_of = new_array((size_t)d->n_pick, sizeof *block_of);
	int status = FAILED;
	if (!block_of) return FAILED;
	d->n = fill_blocks(d, block_of);
	d->block = new_array((size_t)d->n + 2, sizeof *d->block);
	d->item = new_array((size_t)d->n_pick, sizeof *d->item);
	if (d->block && d->item) {
		memset(d->block, 0, ((size_t)d->n + 2) * sizeof *d->block);
		for (int64_t i = 0; i < d->n_pick; i++) d->block[block_of[i] + 2]++;
		for (int64_t b = 2; b < d->n + 2; b++) d->block[b] += d->block[b - 1];
		for (int64_t i = 0; i < d->n_pick; i++) d->item[d->block[block_of[i] + 1]++] = (uint32_t)i;
		status = OK;
	}
	free(block_of);
	return status;
}

int data_lay_out(dataset *d)
{
	if (!d->pick) d->n_pick = d->n_examples;
	d->n = d->n_pick;
	if (d->options.packing && d->n && pack(d)) return FAILED;
	free(d->order);
	d->order = new_array((size_t)d->n, sizeof *d->order);
	d->epoch = -1;
	return d->order ? OK : FAILED;
}

int data_split(dataset *d, double share, dataset *out)
{
	int64_t n = d->n_examples, held = (int64_t)(share * (double)n + 0.5);
	if (d->slabs) return fail(USAGE, "validation_split", "goes with .txt and .jsonl, not with slabs");
	if (held < 1 || held >= n)
		return fail(FAILED, d->path, "%lld examples cannot be split by validation_split %g", (long long)n, share);
	uint32_t *order = new_array((size_t)n, sizeof *order);
	unsigned char *is_held = new_bytes((size_t)n);
	*out = *d;
	out->borrowed = 1;
	out->item = NULL;
	out->block = NULL;
	out->order = NULL;
	out->options.shuffle = out->options.by_length = out->options.packing = 0;
	out->dropped = out->bad = 0;
	out->n_pick = held;
	out->pick = new_array((size_t)held, sizeof *out->pick);
	d->n_pick = n - held;
	d->pick = new_array((size_t)(n - held), sizeof *d->pick);
	int status = order && is_held && out->pick && d->pick ? OK : FAILED;
	if (!status) {
		shuffle(order, n, data_hash((uint64_t)d->options.seed ^ UINT64_C(0x76616c6964)), 0);
		memset(is_held, 0, (size_t)n);
		for (int64_t i = 0; i < held; i++) is_held[order[i]] = 1;
		int64_t a = 0, b = 0;
		for (int64_t i = 0; i < n; i++)
			if (is_held[i]) out->pick[a++] = (uint32_t)i;
			else d->pick[b++] = (uint32_t)i;
		free(d->item);
		free(d->block);
		d->item = NULL;
		d->block = NULL;
		status = data_lay_out(d);
		if (!status) status = data_lay_out(out);
	}
	free(order);
	free(is_held);
	return status;
}
