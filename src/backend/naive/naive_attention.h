/* What the attention templates and naive_attention.c share. */
#ifndef LORA_BACKEND_NAIVE_ATTENTION_H
#define LORA_BACKEND_NAIVE_ATTENTION_H

#include "backend/naive/naive.h"

enum {
	ATTN_TQ = 96,  /* queries of a tile and keys of a block: multiples of every MR and NR; part of the order of sums */
	ATTN_TK = 96,
	ATTN_FEW = 4,  /* this many queries or fewer: dot products instead of tiles (decoding) */
	ATTN_ROWS = 64 /* key rows of a task that adds up the parts of dk and dv */
};

/* One segment, read from v5 and checked. */
typedef struct attn_seg { int64_t q0, queries, k0, keys, task0, unit0; } attn_seg; /* unit0: of 32 keys, counted over segments */

typedef struct attn_job {
	lora_view q, k, v, out, lse, dq, dk, dv, dout;
	const int32_t  *columns; /* of every key row, or NULL */
	const void     *bias;    /* REAL [heads][2 reach + 1], added to the scores by distance in columns, or NULL */
	int64_t         reach;
	const attn_seg *seg;
	int64_t n_seg, heads, kv, d, causal, window;
	double  scale, cap;
	int     serial_segments; /* backward: segments share key rows, so one task per kv head runs all of them in order */
	int64_t dp;              /* d rounded up to whole register tiles: the row length of arrays in scratch */
	int64_t parts;           /* backward: a kv head's queries of a segment are cut in this many tasks, each with its own sums */
	char   *sums;            /* [kv][parts][key row][dk, dv][dp] */
	char   *scratch;
	size_t  per_thread;
	int     blocks, tiles;   /* products of BF16 in blocks of 32 (naive_attention_block.c); those on AMX tiles */
	int     clear;           /* packing starts the sums: each key row is in one segment */
	int64_t longest;         /* keys of a segment */
	size_t  own;             /* backward: where in its scratch a thread has the sums of one segment and head, which no other task adds to; 0 = they are in sums */
	int64_t packings, units; /* packed forms of a key head's keys and values, each of this many units of 32 keys */
	char   *packed;
	size_t  at[12];          /* arrays of a thread's scratch, in bytes, see attn_layout() */
} attn_job;

enum { AT_S, AT_DP, AT_K, AT_V, AT_QT, AT_O, AT_TOP, AT_SUM, AT_Q, AT_DOUT, AT_DOUT_T, AT_FACTOR };

/* Position of key row j of a segment for the window. */
static inline int64_t attn_column(const attn_job *j, const attn_seg *s, int64_t key)
{
	return j->columns ? j->columns[s->k0 + key] : key;
}

/* 1 when query i of the segment sees a key. Not causal: the window reaches both ways. */
static inline int attn_sees(const attn_job *j, const attn_seg *s, int64_t i, int64_t key)
{
	int64_t self = s->keys - s->queries + i;
	if (j->causal && key > self) return 0;
	if (!j->window) return 1;
	int64_t far = attn_column(j, s, self) - attn_column(j, s, key);
	return far < j->window && (j->causal || -far < j->window);
}

/* 1 when some pair of queries i0..i1 and keys k0..k1 may be seen: a cheap test to skip blocks. */
static inline int attn_block_seen(const attn_job *j, const attn_seg *s, int64_t i0, int64_t i1, int64_t k0, int64_t k1)
{
	int64_t first = s->keys - s->queries + i0, last = s->keys - s->queries + i1 - 1;
	if (j->causal && k0 > last) return 0;
	if (!j->window || j->columns) return 1;
	if (first - (k1 - 1) >= j->window) return 0;
	return j->causal || k0 - last < j->window;
}

/* A tile of queries i0 .. i0+nq-1 against a block of keys k0 .. k0+nk-1. */
typedef struct attn_tile { const attn_seg *g; int64_t i0, nq, k0, nk; } attn_tile;

/* How many keys of the block some query below end (counted in the tile) sees; without causal all. */
static inline int64_t attn_depth(const attn_job *j, const attn_tile *t, int64_t end)
{
	int64_t last = t->g->keys - t->g->queries + t->i0 + (end < t->nq ? end : t->nq) - 1, n = last - t->k0 + 1;
	if (!j->causal || n > t->nk) return t->nk;
	return n < 0 ? 0 : n;
}

/* Cost of a tile of queries for an even split: the keys that it sees. */
static inline int64_t attn_cost(const attn_job *j, const attn_seg *g, int64_t tile)
{
	int64_t end = (tile + 1) * ATTN_TQ < g->queries ? (tile + 1) * ATTN_TQ : g->queries;
	return j->causal ? g->keys - g->queries + end : g->keys;
}

/* naive_attention_block.c: sizes, packing (a task per key head and unit), a tile of ATTN_TQ queries, and for the backward
 * a part of a key head's queries. */
void         lora__attn_block_layout(attn_job *j, int backward);
size_t       lora__attn_block_bytes(const attn_job *j, int64_t units);
lora_task_fn lora__attn_block_pack(void);
lora_task_fn lora__attn_block_finish(void);
void         lora__attn_block_tile(const attn_job *j, const attn_seg *g, int64_t head, int64_t i0, char *scratch);
void         lora__attn_block_part(const attn_job *j, const attn_seg *g, int64_t kv, int64_t number, float *sums, char *scratch);

#endif
