/* lora: classification: which class a row belongs to, probabilities from one model or several, and how good they are. */
#ifndef LORA_CLI_CLASSIFY_H
#define LORA_CLI_CLASSIFY_H

#include "cli/data.h"

#define BINS 15 /* of the calibration error, as in Guo et al. 2017 (arXiv:1706.04599) */

/* ---- metrics.c: sums over rows of probabilities ---- */
typedef struct metrics {
	int64_t n, right, bin_count[BINS], bin_right[BINS];
	double nll, brier, entropy, bin_confidence[BINS];
	float *confidence; /* by row, negative when it is wrong: for bins of equal mass */
	size_t room;
} metrics;
int metrics_add(metrics *m, const double *p, int64_t n, int32_t label);
/* accuracy, nll, ece, mce, ece_mass, brier, entropy and bins of another object. */
int metrics_json(metrics *m, json_t *into);
double metrics_ece(const metrics *m);
void metrics_say(const metrics *m, const char *name); /* a line of a table; name NULL: its head */
void metrics_free(metrics *m);

/* ---- classify.c ---- */
typedef struct classes {
	int64_t n;      /* 0 = this is no classification */
	int32_t *ids;   /* tokens that stand for them, NULL of a classifier */
} classes;
/* -s classes=["yes"," no"] or [9642,1217]; of a classifier its own. s has its model; the tokenizer beside path is opened when it is needed. */
int classes_read(classes *c, session *s, const args *a, const char *path);
/* Class of each row of a batch, -1 = none, and (ids set) the column whose logits tell; both arrays have n_sequences entries. */
int classes_of(const classes *c, const lora_batch *b, const char *what, int32_t *label, int64_t *column);
/* log p[n_sequences, n] of a batch as the model stands, with b's adapter rows; dropout: seed of it, NULL = off. logits: memory that is kept. */
typedef struct logit_room { float *p; size_t n; } logit_room;
int classes_logits(const classes *c, session *s, const lora_batch *b, const int64_t *column, const uint64_t *dropout, logit_room *room, double *out);

#endif
