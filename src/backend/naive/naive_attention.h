/* What the attention templates and naive_attention.c share. */
#ifndef LORA_BACKEND_NAIVE_ATTENTION_H
#define LORA_BACKEND_NAIVE_ATTENTION_H

#include "backend/naive/naive.h"

enum {
	ATTN_TQ = 48,  /* queries of a tile: a multiple of every MR */
	ATTN_TK = 64,  /* keys of a block: a multiple of every NR; both are part of the order of sums */
	ATTN_FEW = 4   /* this many queries or fewer: dot products instead of packed tiles (decoding) */
};

/* One segment, read from v5 and checked. */
typedef struct attn_seg { int64_t q0, queries, k0, keys, task0; } attn_seg;

typedef struct attn_job {
	lora_view q, k, v, out, lse, dq, dk, dv, dout;
	const int32_t  *columns; /* of every key row, or NULL */
	const attn_seg *seg;
	int64_t n_seg, heads, kv, d, causal, window;
	double  scale, cap;
	int     serial_segments; /* backward: segments share key rows, so one task per kv head runs all of them in order */
	char   *scratch;
	size_t  per_thread;
	size_t  at_b, at_s, at_p, at_o, at_row; /* parts of a thread's scratch, in bytes: packed A at 0, packed B, two tiles, sums, row values */
} attn_job;

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

#endif
