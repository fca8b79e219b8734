/* Graph: an architecture's forward as a list of ops, and the plan that runs it: the reverse list, what is kept and what is recomputed,
 * lifetimes in one arena. Plans are made for a number of rows; running one allocates nothing. */
#ifndef LORA_GRAPH_GRAPH_H
#define LORA_GRAPH_GRAPH_H

#include "ops/op.h"
#include "site/site.h"

typedef struct lora__value { int64_t cols; int32_t producer, n_uses, space; } lora__value;

typedef struct lora__graph {
	lora_context *ctx;
	lora__node   *nodes;
	size_t        n_nodes, cap_nodes;
	lora__value  *values;
	size_t        n_values, cap_values;
	int32_t       n_layers;
	int32_t       space; /* of the ops that are appended now */
} lora__graph;

void lora__graph_init(lora__graph *g, lora_context *ctx);
void lora__graph_free(lora__graph *g);
/* Append an op; out_cols[k] is the width of output k. Returns the node (valid until the next add) or NULL when memory is out. */
lora__node *lora__graph_add(lora__graph *g, const lora__op *op, int32_t layer, int32_t n_in, const int32_t *in, int32_t n_out,
                            const int64_t *out_cols);

/* The same list with the ops of virtual tokens: keys, before every attention; rows, behind the embedding. It borrows from, and is freed by
 * lora__graph_unweave() before it. */
lora_status lora__graph_weave(const lora__graph *from, const struct lora__sites *all, int keys, int rows, lora__graph *to);
void        lora__graph_unweave(lora__graph *g);

/* The node's sites: number i, or NULL past the last. */
static inline lora__site *lora__node_site(const lora__node *n, int32_t i) { return n->site ? i ? NULL : n->site : i < n->n_sites ? n->sites[i] : NULL; }
int lora__node_trains(const lora__node *n); /* one of its sites does */

typedef enum { LORA__PLAN_INFER = 0, LORA__PLAN_TRAIN = 1, LORA__PLAN_CHECKPOINT = 2, LORA__PLAN_REPEAT = 3, LORA__PLAN_HIDDEN = 4 } lora__plan_mode;

static inline int lora__plan_infers(lora__plan_mode m) { return m == LORA__PLAN_INFER || m == LORA__PLAN_HIDDEN; }

typedef struct lora__step {
	int32_t node; /* -1: copy buffer in[0] to out[0] */
	int8_t  backward;
	int32_t in[LORA__MAX_IN], out[LORA__MAX_OUT];    /* buffers, -1 = none */
	int32_t din[LORA__MAX_IN], dout[LORA__MAX_OUT];
	double  din_beta[LORA__MAX_IN];
	int32_t saved, scratch;
} lora__step;

typedef struct lora__buffer { int64_t cols; size_t bytes, offset; int32_t first, last, space; } lora__buffer;

typedef struct lora__plan {
	lora__plan_mode mode;
	int64_t         rows;       /* capacity */
	int64_t         source_rows; /* of space 1 */
	uint64_t        generation; /* of the sites, when it was made */
	lora__step     *steps;
	size_t          n_steps, cap_steps;
	lora__buffer   *buffers;
	size_t          n_buffers, cap_buffers;
	size_t          scratch_bytes, arena_bytes; /* of the step that needs most; all */
} lora__plan;

/* Plan for up to rows rows (and source_rows of space 1). TRAIN keeps what backward reads; CHECKPOINT keeps block boundaries only and runs each block's forward again;
 * REPEAT keeps it until the end, so that the backward steps may run several times. HIDDEN infers, with the ops that make hidden states. */
lora_status lora__plan_make(const lora__graph *g, lora_dtype real, lora__plan_mode mode, int64_t rows, int64_t source_rows,
                            lora__plan *out);
void        lora__plan_free(lora_context *ctx, lora__plan *p);

/* The first backward step; n_steps when there is none. */
size_t      lora__plan_turn(const lora__plan *p);
/* Steps from .. to - 1 of those that lora__plan_run() runs. */
lora_status lora__plan_run_steps(const lora__graph *g, const lora__plan *p, lora_dtype real, const lora__rowinfo *rows, char *arena, size_t from, size_t to);
/* After the forward steps of a plan REPEAT over rows: what products and the head read in backward is copied, so that gradients may hold copies times rows->n
 * rows, batch after batch. Backward steps then run over all rows where it was copied, over those of one copy after another elsewhere.
 * lora__plan_spreads: whether the graph allows for that. */
void        lora__plan_spread(const lora__graph *g, const lora__plan *p, lora_dtype real, const lora__rowinfo *rows, char *arena, int64_t copies);
int         lora__plan_spreads(const lora__graph *g);
lora_status lora__plan_run_copies(const lora__graph *g, const lora__plan *p, lora_dtype real, const lora__rowinfo *one, const lora__rowinfo *all, char *arena, int64_t copies,
                                  size_t from, size_t to);
/* Run all steps with rows->n <= plan->rows; those over a space without rows are left out. arena: plan->arena_bytes, 64-byte aligned. */
lora_status lora__plan_run(const lora__graph *g, const lora__plan *p, lora_dtype real, const lora__rowinfo *rows, char *arena);

#endif
