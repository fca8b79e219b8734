/* ATTENTION over packed segments: out = softmax(cap(scale q k^T) + mask) v per head, key and value heads shared by groups of query heads
 * (arXiv:2305.13245). Tiles of queries walk over blocks of keys with an online softmax; the backward recomputes the probabilities from
 * lse = log sum exp. Dao et al. 2022, arXiv:2205.14135, algorithms 1 and 4; Dao 2023, arXiv:2307.08691, algorithm 2 for the backward. Soft cap: cap * tanh(s / cap)
 * before the mask (Gemma 2). Window: a causal query sees the keys whose column is less than window behind its own; without causal, less
 * than window away on either side. Query rows outside all segments are left alone by the forward; their gradients are zero.
 * Bias: a table by head and distance (key's column minus query's, cut to +-reach), added to the scaled scores (T5, arXiv:1910.10683 section 2.1).
 * Queries of different segments must not overlap; key rows may (a shared prefix), then the backward runs segments in order. */
#include "backend/naive/naive_attention.h"

/* n rows with those that whole register tiles of nr or mr rows take in; up to ATTN_TQ for so many. */
static __attribute__((noinline)) int64_t attn_whole(int64_t n, int64_t nr, int64_t mr) { return ((n + nr - 1) / nr * nr + mr - 1) / mr * mr; }

#define NAIVE_NO_BF16
#define NAIVE_TEMPLATE "backend/naive/naive_attention.inc"
#include "backend/naive/naive_each.h"

/* Check the integers of the call; note whether segments share keys. */
LORA__SMALL static lora_status prepare(lora__naive *self, const lora_call *c, const lora_view *segments, attn_job *j)
{
	int64_t keys_end = 0, most = 0, rest = j->k.size[0], longest = 0;
	j->heads = c->i[0], j->kv = c->i[1], j->d = c->i[2], j->causal = c->i[3] != 0, j->window = c->i[4], j->scale = c->f[0], j->cap = c->f[1];
	if (j->heads < 1 || j->kv < 1 || j->d < 1 || j->window < 0 || j->heads % j->kv || j->d > 65536 || j->heads > 65536 ||
	    j->heads * j->d != j->q.size[1] || j->kv * j->d != j->k.size[1] || j->lse.size[1] != j->heads)
		return lora__naive_fail(self, LORA_E_SHAPE, "primitive attention: heads, kv heads, head size and window do not fit the views");
	j->n_seg = segments->size[0];
	for (int64_t i = 0; i < j->n_seg; i++) {
		const int32_t *s = (const int32_t *)segments->data + i * segments->stride[0];
		if (s[3] > 0) j->units += ((int64_t)s[3] + 31) / 32;
		if (s[1] > most) most = s[1];
		if (s[3] > longest) longest = s[3];
		rest -= s[3];
		if (s[3] && s[2] < keys_end) j->serial_segments = 1;
		if (s[3] && s[2] + (int64_t)s[3] > keys_end) keys_end = s[2] + (int64_t)s[3];
	}
	j->clear = !rest && !j->serial_segments, j->longest = longest;
	j->tiles = self->isa > 3;
	j->blocks = self->isa >= 3 && j->q.dtype == LORA_BF16 && most > ATTN_FEW && j->units < 1 << 24;
	return LORA_OK;
}

/* Check the segments and read them. */
LORA__SMALL static lora_status read_segments(lora__naive *self, const lora_view *segments, attn_job *j, attn_seg *seg)
{
	int64_t rows = j->q.size[0], keys = j->k.size[0], task = 0, unit = 0, queries_end = 0;
	j->seg = seg;
	for (int64_t i = 0; i < j->n_seg; i++) {
		const int32_t *s = (const int32_t *)segments->data + i * segments->stride[0];
		seg[i] = (attn_seg){ s[0], s[1], s[2], s[3], task, unit };
		if (s[0] < 0 || s[1] < 0 || s[2] < 0 || s[3] < 0 || s[0] + (int64_t)s[1] > rows || s[2] + (int64_t)s[3] > keys ||
		    (s[1] > s[3] && (j->causal || j->window)))
			return lora__naive_fail(self, LORA_E_SHAPE, "primitive attention: segment %lld is outside the rows, or has more queries than keys", (long long)i);
		for (int64_t o = 0; s[1] && s[0] < queries_end && o < i; o++) /* only when they are not in order */
			if (s[0] < seg[o].q0 + seg[o].queries && seg[o].q0 < s[0] + (int64_t)s[1])
				return lora__naive_fail(self, LORA_E_SHAPE, "primitive attention: query rows of segments %lld and %lld overlap", (long long)o, (long long)i);
		if (s[1] && s[0] + (int64_t)s[1] > queries_end) queries_end = s[0] + (int64_t)s[1];
		task += (s[1] + ATTN_TQ - 1) / ATTN_TQ * j->heads, unit += (s[3] + 31) / 32;
	}
	return LORA_OK;
}

static double pairs(const attn_job *j)
{
	double n = 0;
	for (int64_t i = 0; i < j->n_seg; i++) n += (double)j->seg[i].queries * (double)j->seg[i].keys;
	return n * (double)j->heads * (double)j->d;
}

/* Scratch holds the segments first, then each thread's part, then (backward) the sums of dk and dv. */
LORA__SMALL static lora_status with_scratch(lora__naive *self, const lora_call *c, lora_dtype real, int segments, attn_job *j, int backward)
{
	const lora_view *sv = &c->v[segments], *cv = c->n_views > segments + 1 && c->v[segments + 1].data ? &c->v[segments + 1] : NULL;
	size_t seg_bytes = ((size_t)sv->size[0] * sizeof(attn_seg) + 63) & ~(size_t)63, sums = 0;
	int64_t keys = j->k.size[0], enough = 12, pieces = sv->size[0] * c->i[1];
	lora_status st = prepare(self, c, sv, j);
	if (st) return st;
	const lora_view *bias = c->n_views > segments + 2 && c->v[segments + 2].data ? &c->v[segments + 2] : NULL;
	j->blocks = j->blocks && !bias;
	if (j->blocks) lora__attn_block_layout(j, backward);
	else PICK_WIDE(self, real, attn_layout)(j, backward);
	size_t packed = j->blocks ? (lora__attn_block_bytes(j, j->units) + 63) & ~(size_t)63 : 0;
	j->columns = cv ? cv->data : NULL;
	if (bias && (bias->size[1] % 2 == 0 || bias->stride[0] != bias->size[1]))
		return lora__naive_fail(self, LORA_E_SHAPE, "primitive attention: the bias must be dense, with an odd number of columns");
	if (bias) j->bias = bias->data, j->reach = bias->size[1] / 2;
	j->parts = !j->serial_segments && pieces && pieces < enough ? (enough + pieces - 1) / pieces : 1; /* from sizes only: the same bits for any threads */
	if (backward && j->clear && !j->blocks && j->parts == 1) {
		j->own = j->per_thread;
		j->per_thread += (size_t)(j->longest * 2 * j->dp) * lora__dtype_size(lora__wide(real));
	} else if (backward) sums = (size_t)(j->kv * j->parts * keys * 2 * j->dp) * lora__dtype_size(lora__wide(real));
	j->clear &= j->blocks && backward;
	char *scratch = lora__naive_scratch(self, seg_bytes + packed + j->per_thread * (size_t)self->host.threads + sums);
	if (!scratch) return LORA_E_MEMORY;
	st = read_segments(self, sv, j, (attn_seg *)(void *)scratch);
	j->packed = scratch + seg_bytes;
	j->scratch = j->packed + packed, j->sums = j->scratch + j->per_thread * (size_t)self->host.threads;
	if (st == LORA_OK && j->blocks) lora__naive_parallel(self, j->kv * j->units, 64.0 * (double)(j->kv * j->units * j->dp), lora__attn_block_pack(), j);
	if (st == LORA_OK && backward) {
		int64_t blocks = (keys + ATTN_ROWS - 1) / ATTN_ROWS;
		double size = 2.0 * (double)(j->kv * keys * j->dp);
		if (!j->clear && !j->own) lora__naive_parallel(self, j->kv * j->parts * blocks, size * (double)j->parts, PICK_WIDE(self, real, attn_zero), j);
		lora__naive_parallel(self, j->serial_segments ? j->kv : j->n_seg * j->kv * j->parts, pairs(j), PICK_WIDE(self, real, attention_bwd), j);
		if (!j->own) lora__naive_parallel(self, j->kv * blocks, size * (double)j->parts, j->blocks ? lora__attn_block_finish() : PICK_WIDE(self, real, attn_finish), j);
	} else if (st == LORA_OK && j->n_seg) {
		const attn_seg *last = &j->seg[j->n_seg - 1];
		int64_t tiles = last->task0 + (last->queries + ATTN_TQ - 1) / ATTN_TQ * j->heads;
		lora__naive_parallel(self, tiles, pairs(j), PICK_WIDE(self, real, attention), j);
	}
	lora__naive_release(self, scratch);
	return st;
}

lora_status lora__naive_attention(lora__naive *self, const lora_call *c, lora_dtype real)
{
	attn_job j = { .out = c->v[0], .q = c->v[1], .k = c->v[2], .v = c->v[3], .lse = c->v[4] };
	return with_scratch(self, c, real, 5, &j, 0);
}

lora_status lora__naive_attention_bwd(lora__naive *self, const lora_call *c, lora_dtype real)
{
	attn_job j = { .dq = c->v[0], .dk = c->v[1], .dv = c->v[2], .q = c->v[3], .k = c->v[4], .v = c->v[5], .out = c->v[6], .lse = c->v[7], .dout = c->v[8] };
	const int32_t *seg = c->v[9].data;
	int64_t rows = j.dq.size[0];
	for (int64_t i = 0; i < c->v[9].size[0]; i++) rows -= seg[i * c->v[9].stride[0] + 1];
	for (int64_t r = 0; r < j.dq.size[0] && rows; r++) memset(lora__at(&j.dq, r, 0), 0, (size_t)j.dq.size[1] * lora__dtype_size(real)); /* those in no segment */
	return with_scratch(self, c, real, 9, &j, 1);
}
