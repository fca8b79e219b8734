/* Operations of a model's forward list. An op has its forward and its backward side by side in one file, written on backend primitives; the
 * graph layer owns every buffer. A member of family "op" is one file here (or in graph/ when it needs sites) plus one line in list.h. */
#ifndef LORA_OPS_OP_H
#define LORA_OPS_OP_H

#include "backend/backend.h"

struct lora__op;
struct lora__site;

enum { LORA__MAX_IN = 4, LORA__MAX_OUT = 3 };

/* One op in the list. in[] and out[] are value numbers of the graph. */
typedef struct lora__node {
	const struct lora__op *op;
	int32_t            n_in, n_out;
	int32_t            in[LORA__MAX_IN], out[LORA__MAX_OUT];
	lora_view          w[2];  /* frozen weights: norm weight, embedding table, ... */
	struct lora__site *site;
	struct lora__site **sites; /* of ops with many (experts); memory of the graph */
	const struct lora__sites *all; /* of ops that virtual tokens come in by */
	int32_t            n_sites, space; /* space: which rows it runs over, see lora__rowinfo */
	int64_t            i[8];
	double             f[4];
	int32_t            layer; /* block of the model, -1 outside: unit of recomputation */
	int32_t            aside; /* 1: it runs only where hidden states are wanted */
} lora__node;

/* Keys and values of earlier tokens, [slots * capacity, width] per layer, real. source: the same for the encoder's tokens, as cross-attention
 * sees them. */
typedef struct lora__cache { char **k, **v; int64_t n_layers, slots, capacity, width; const struct lora__cache *source; } lora__cache;

/* Rotary tables [n, rot/2] in the wide type. */
typedef struct lora__angles { const void *cos, *sin; int64_t n; } lora__angles;
enum { LORA__ROTARIES = 2 }; /* tables of one model: most have one, models with two kinds of layers may have two */

/* A loss of the caller's own: in place of the cross-entropy it turns the logits (of the wide type, before the soft cap) of head rows
 * first .. first + logits.size[0] into their gradient. cap 0 = there is none. */
typedef struct lora__ownloss {
	lora_status (*turn)(struct lora__ownloss *o, int64_t first, lora_view logits, double cap);
} lora__ownloss;

/* What is known about the rows of a pass: one row per unpadded token, sequence after sequence. Most models have one space of rows. Where there
 * are two, space 0 is what the head sees (decoder tokens; one row per sequence of a classifier) and space 1, behind source, what it reads. */
typedef struct lora__rowinfo {
	int64_t        n;          /* rows */
	int64_t        n_segments;
	const int32_t *ids;        /* [n] */
	const int32_t *positions;  /* [n] */
	const int32_t *columns;    /* [n] column in the padded batch */
	const int32_t *segments;   /* [n_segments,4] first query, queries, first key, keys */
	const int32_t *labels;     /* [n] label that the row predicts, -1 = none; NULL = no labels */
	const int32_t *head_rows;  /* rows that the head computes */
	int64_t        n_head_rows;
	const int64_t *logit_row;  /* [n] row of the caller's logits; NULL = not wanted */
	float         *logits;
	lora__angles   angles[LORA__ROTARIES];
	const lora__cache *cache;  /* decoding: new keys and values are appended at key row first_new[segment] */
	double         grad_scale; /* factor of the summed token losses */
	double        *loss;       /* [n_head_rows] */
	const void    *runs;       /* lora__runs of the site layer */
	int            train;      /* dropout on */
	uint64_t       key;        /* dropout key of the step */
	const struct lora__rowinfo *source; /* rows of space 1, n may be 0; NULL = there are none */
	const int32_t *cross;      /* [n_segments,4] as segments, with keys in space 1 (or in its cache). Where space 1 holds keys behind virtual ones: of
	                            * space 0 first query, queries, first key, keys; of space 1 first row in space 0, rows, first key, virtual keys */
	const int32_t *lead;       /* [n_segments] rows at the segment's head that stand for no token, of prompt tuning; NULL = none */
	const int32_t *types;      /* [n] token types; NULL = all 0 */
	lora__ownloss *own;        /* NULL = cross-entropy with the labels */
	float         *hidden;     /* [.., cols] what the head reads, row logit_row[r]; NULL = not wanted */
} lora__rowinfo;

/* What an op sees while it runs. Views have the pass's row count. */
typedef struct lora__exec {
	lora_context        *ctx;
	lora_dtype           real;
	const lora__node    *node;
	const lora__rowinfo *rows;
	lora_view in[LORA__MAX_IN], out[LORA__MAX_OUT];
	lora_view din[LORA__MAX_IN], dout[LORA__MAX_OUT]; /* din.data NULL = not wanted */
	double    din_beta[LORA__MAX_IN];                 /* 0 overwrite, 1 add */
	char     *saved, *scratch;
	int64_t   row_capacity; /* rows that saved was laid out for */
	struct lora__few_jobs *few; /* decoding: where linear layers wait for each other, and ... */
	int       later;            /* ... the next step is one that reads the same input */
} lora__exec;

enum {
	LORA__KEEP_IN0 = 1, LORA__KEEP_IN1 = 2, LORA__KEEP_IN2 = 4, LORA__KEEP_IN3 = 8,
	LORA__KEEP_OUT0 = 16, LORA__KEEP_OUT1 = 32,
	LORA__OP_INPLACE = 1, /* out[0] may share in[0]'s buffer, and din[0] dout[0]'s */
	LORA__OP_SUM = 2,     /* out = sum of inputs: gradients pass through unchanged */
	LORA__OP_LOSS = 4,    /* last op: in a backward pass only its backward runs, which does the forward too */
	LORA__OP_CHEAP = 8,   /* a few operations per element: its output may be computed again instead of being kept; backward keeps all inputs */
	LORA__OP_PAIRS = 16   /* work on every pair of rows, at most: cheap in this sense where rows are few */
};

typedef struct lora__op {
	lora__member m;
	uint32_t     flags;
	uint32_t (*keeps)(const lora__node *n);                                /* LORA__KEEP_*: what backward reads; NULL = nothing */
	size_t (*saved_bytes)(const lora__node *n, lora_dtype real, int64_t rows);   /* small things kept for backward; NULL = none */
	size_t (*scratch_bytes)(const lora__node *n, lora_dtype real, int64_t rows); /* NULL = none */
	lora_status (*forward)(lora__exec *e);
	lora_status (*backward)(lora__exec *e); /* NULL: no gradient passes (embedding) */
} lora__op;

extern const lora__op *const lora__ops[]; /* NULL-ended */

#define LORA__OP(name) extern const lora__op lora__op_##name;
#include "ops/list.h"
#undef LORA__OP

lora_status lora__embed_look_up(lora__exec *e, lora_view table); /* embed.c */

static inline lora_call lora__prim(int32_t prim, int32_t n_views)
{
	lora_call c = { .struct_size = sizeof c, .prim = prim, .n_views = n_views };
	return c;
}

#endif
