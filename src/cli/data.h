/* lora: data for train and eval, as a sequence of batches that is a function of the file, the options and the seed alone: batch number n is the
 * same whenever it is asked for, so a run that goes on from a number goes on exactly.
 *
 * .txt          one text, cut into blocks of sequence_length tokens
 * .jsonl        one example per line: {"text"}, {"prompt","completion"}, or for classifiers {"text","label"}
 * .safetensors  input_ids [S,B,T] and optional labels, attention_mask, position_ids: batch n is slab n, in order, then from the start again */
#ifndef LORA_CLI_DATA_H
#define LORA_CLI_DATA_H

#include "cli/cli.h"

typedef struct data_options {
	int64_t batch_size, sequence_length;
	int packing;         /* join the examples of a .jsonl and cut them into full blocks */
	int completion_only; /* the loss is on completions, not on prompts */
	int shuffle;
	int64_t seed;
	int quiet;
} data_options;

typedef struct dataset {
	data_options options;
	const char *path;
	int64_t n; /* examples, or slabs */
	int slabs;
	int64_t dropped; /* examples without anything to learn from */
	int64_t pad_id, n_labels, vocab_size;
	/* examples: ids[start[i] .. start[i+1]) */
	int32_t *ids, *labels; /* labels NULL = the ids themselves */
	size_t *start;
	int32_t *classes; /* of classifiers */
	size_t n_ids, room, room_examples;
	/* slabs: [n, rows, length] */
	int64_t rows, length;
	int32_t *mask, *positions;
	/* order of the examples in the epoch */
	int64_t epoch;
	uint32_t *order;
	/* the batch given out last */
	int32_t *batch_ids, *batch_labels, *batch_mask, *batch_classes;
	size_t batch_room;
} dataset;

/* s needs its model, and its tokenizer for .txt and .jsonl (opened here when it is not yet). */
int data_open(dataset *d, session *s, const char *path, const char *tokenizer, const data_options *options);
void data_close(dataset *d);
int data_needs_tokenizer(const char *path);

/* Batches of one pass over the data. */
int64_t data_batches(const dataset *d);
/* Batch number n >= 0, counted over all epochs. Borrowed until the next call. */
int data_batch(dataset *d, int64_t n, lora_batch *out);

/* The largest batch that can come: its padded shape, and the most tokens without padding. */
typedef struct data_shape {
	int64_t sequences, length, tokens;
} data_shape;
data_shape data_largest(const dataset *d);

/* dataread.c: fill the examples */
int data_read_text(dataset *d, session *s);
int data_read_lines(dataset *d, session *s);
int data_read_slabs(dataset *d);

#endif
