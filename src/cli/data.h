/* lora: data for train and eval, as a sequence of batches that is a function of the file, the options and the seed alone: batch number n is the
 * same whenever it is asked for, so a run that goes on from a number goes on exactly.
 *
 * .txt          one text, cut into blocks of sequence_length tokens
 * .jsonl        one example per line: {"text"}, {"prompt","completion"}, {"messages"}, or for classifiers {"text","label"};
 *               an encoder-decoder model reads the prompt and learns the completion
 * .safetensors  input_ids [S,B,T] and optional labels, attention_mask, position_ids: batch n is slab n, in order, then from the start again
 *
 * The library computes no padding and never attends from one sequence of a batch to another. So a packed block is simply several examples that come
 * into a batch together, each a sequence of its own with positions of its own. */
#ifndef LORA_CLI_DATA_H
#define LORA_CLI_DATA_H

#include "cli/store.h"

typedef struct data_options {
	int64_t batch_size, sequence_length;
	int packing;         /* a batch has batch_size blocks of examples that together have up to sequence_length tokens */
	int by_length;       /* examples of about the same length come together */
	int completion_only; /* the loss is on completions and answers, not on prompts */
	int shuffle;
	int skip_bad;        /* go on after a bad line, and count them */
	int64_t seed;
	int64_t memory;      /* bytes of examples kept in memory; more go to a temporary file. 0 = default */
	const char *chat_template; /* NULL = the model's own */
	int quiet;
} data_options;

typedef struct dataset {
	data_options options;
	const char *path;
	int64_t n; /* units: examples, blocks of packed ones, or slabs */
	int slabs;
	int64_t dropped; /* examples without anything to learn from */
	int64_t bad;     /* lines left out */
	int64_t pad_id, n_labels, vocab_size;
	int has_decoder; /* an example is a source, its labels ignored, and a target behind it */
	/* all examples: ids[start[i] .. start[i+1]); labels are empty where they are the ids */
	store ids, labels, start, classes;
	int64_t n_examples;
	int borrowed;    /* they belong to the dataset that this one was split from */
	uint32_t *pick;  /* the n_pick examples that count, or NULL = all */
	int64_t n_pick;
	/* units of packed examples: item[block[u] .. block[u+1]) are places in pick */
	uint32_t *item;
	size_t *block;
	/* slabs: [n, rows, length] */
	int64_t rows, length, target_length; /* the last of labels, for encoder-decoder models */
	int32_t *slab_ids, *slab_labels, *slab_classes, *mask, *positions;
	/* order of the units in the epoch */
	int64_t epoch;
	uint32_t *order;
	/* the batch given out last */
	int32_t *batch_ids, *batch_labels, *batch_mask, *batch_classes;
	size_t batch_room;
} dataset;

/* s needs its model, and its tokenizer for .txt and .jsonl (opened here when it is not yet). */
int data_open(dataset *d, session *s, const char *path, const char *tokenizer, const data_options *options);
/* Give a share of the examples, chosen by the seed, to another dataset, in their own order there. d must outlive it. */
int data_split(dataset *d, double share, dataset *out);
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

/* datapack.c: lay the picked examples out in units (d->n, d->block, d->item, d->order). */
int data_lay_out(dataset *d);
int data_order(dataset *d, int64_t epoch); /* d->order for that epoch */
/* Length of example e, and the example at place i of pick. */
size_t data_length(const dataset *d, size_t e);
size_t data_example(const dataset *d, size_t i);
uint64_t data_hash(uint64_t x);

/* dataread.c: fill the examples */
int data_read_text(dataset *d, session *s);
int data_read_lines(dataset *d, session *s);
int data_read_slabs(dataset *d);

/* ---- datasettings.c: settings (-s) that say how to read the data, for all commands but train, which has more of them ---- */
void data_defaults(const args *a, const session *s, data_options *o);
/* *taken is 0 when it is another setting; s has its model. */
int data_setting(const setting_arg *set, const session *s, data_options *o, int *taken);
#define DATA_SETTINGS "batch_size", "sequence_length", "loss_on", "packing", "num_labels"
enum { N_DATA_SETTINGS = 5 };

#endif
