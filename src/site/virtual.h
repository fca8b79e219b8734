/* Virtual tokens: what an adapter puts in front of every sequence instead of acting on a site. Either keys and values that each block's attention
 * sees before the sequence's own (prefix tuning), or rows in front of the embedded tokens (prompt tuning). The model weaves ops into its graph
 * while such adapters are attached (graph/weave.c); those ops read the values and add the gradients through this record.
 * Where there are vertices, the values are a weighted mean of so many sets: at the centre, or with weights drawn for every sequence and block. */
#ifndef LORA_SITE_VIRTUAL_H
#define LORA_SITE_VIRTUAL_H

#include "site/site.h"

enum { LORA__VIRTUAL_KEYS = 0, LORA__VIRTUAL_ROWS = 1, LORA__VIRTUAL_PLACES = 2, LORA__VERTICES_MAX = 64 };

struct lora__virtual {
	lora_adapter *adapter;
	int           where;     /* LORA__VIRTUAL_* */
	int           trainable;
	int64_t       tokens, width; /* keys: width is blocks x 2 (key, value) x width of keys; rows: of the embedding */
	int64_t       vertices;  /* 1 = one set of values */
	int           sampled;   /* draw the weights outside of training too */
	uint64_t      seed, draws; /* of those draws; draws counts the passes */
	lora_dtype    dtype;     /* of values */
	const void   *values;    /* [vertices, tokens, width] */
	char         *grads;     /* the same in the wide type; NULL until something trains */
	lora_status (*prepare)(struct lora__virtual *v, int backward);     /* before a pass: make values, and grads that are to be added to; NULL = nothing */
	lora_status (*finish)(struct lora__virtual *v);                    /* after a backward pass: from grads to the parameters' gradients; NULL = nothing */
};
typedef struct lora__virtual lora__virtual;

lora_status lora__virtual_attach(lora__sites *all, lora__virtual *v);
void        lora__virtual_detach(lora__sites *all, lora__virtual *v);
int         lora__virtual_any(const lora__sites *all, int where);    /* such an adapter is attached */
int         lora__virtual_trains(const lora__sites *all, int where); /* ... and wants gradients; where -1: anywhere */

/* 1 when v acts on a sequence of rows: of an adapter named for it, or, with all, on any. */
static inline int lora__virtual_acts(const lora__virtual *v, const lora_adapter *who, int all) { return all || v->adapter == who; }
/* Virtual tokens at that place of a sequence. */
int64_t lora__virtual_tokens(const lora__sites *all, int where, const lora_adapter *who, int every);
/* Whose rows these are: the stretch that holds row. NULL runs: every adapter's. */
const lora_adapter *lora__virtual_whose(const lora__runs *runs, int64_t row, int *every);

/* Before and after a pass, for all that are attached. */
lora_status lora__virtual_prepare(lora__sites *all, int backward);
lora_status lora__virtual_finish(lora__sites *all);

/* Weights of the vertices for one sequence and block: Dirichlet(1, ..., 1) while training, else 1 / vertices (or a draw, where asked for). */
void lora__virtual_weights(const lora__virtual *v, int train, uint64_t key, int64_t sequence, int64_t layer, double *weight);
/* to[n] = elements at .. at + n of token t. */
void lora__virtual_read(const lora__virtual *v, const double *weight, int64_t t, int64_t at, int64_t n, lora_dtype real, void *to);
/* The other way: gradient of those elements. */
void lora__virtual_add(const lora__virtual *v, const double *weight, int64_t t, int64_t at, int64_t n, lora_dtype real, const void *from);

#endif
