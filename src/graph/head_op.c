/* The language-model head with its loss: logits = h W^T over chunks of the rows that count, cross-entropy and its gradient in place, dh at
 * once. The rows x vocabulary matrix never exists, and rows without a label are skipped (unless their logits are wanted).
 * In training, logits and dlogits are of the type of activations (softmax and loss are F32 and wider all the same): half the memory in BF16, so more
 * rows in a chunk, and each chunk reads all of the head's weight. Where logits are wanted for themselves they are of the wide type.
 * in: h[n,d]. site: the head. i[0] vocabulary, i[1] width; f[0] soft cap (0 = none). */
#include <math.h>
#include <string.h>

#include "graph/graph.h"

enum { CHUNK_BYTES = 96 << 20, FEW_BYTES = 1 << 24, CHUNK_MIN = 16, CHUNK_MAX = 352, HALF_MAX = 1024, PITCH = 32 };

/* As equal as whole blocks of the product allow. A base in blocks is there to save memory; its products in F32 take longer than decoding it once more. */
static int64_t chunk_rows(const lora__node *n, lora_dtype real, int64_t rows)
{
	int64_t each_bytes = n->i[0] * (int64_t)lora__dtype_size(real), limit = real == LORA_BF16 ? HALF_MAX : CHUNK_MAX;
	int64_t most = (real == LORA_F32 && lora__site_is_quant(n->site) ? FEW_BYTES : CHUNK_BYTES) / each_bytes;
	most = most < CHUNK_MIN ? CHUNK_MIN : most > limit ? limit : most > 32 ? most - most % 32 : most;
	int64_t chunks = (rows + most - 1) / most, each = chunks < 2 ? rows : (rows + chunks - 1) / chunks;
	each = chunks > 1 && each > 32 ? (each + 31) / 32 * 32 : each;
	return each < 1 ? 1 : each < most ? each : most;
}

/* Elements between rows of logits: a power of two would put all rows on the same cache sets. */
static int64_t pitch(const lora__node *n) { return (n->i[0] + PITCH - 1) / PITCH * PITCH + PITCH; }

/* One of the wide type takes the place of so many. */
static int64_t wide_factor(lora_dtype real) { return (int64_t)(lora__dtype_size(lora__wide(real)) / lora__dtype_size(real)); }

static size_t padded(size_t n) { return (n + 63) & ~(size_t)63; }

/* Where a chunk's pieces lie in scratch. */
typedef struct pieces { char *h, *dh, *logits, *saved, *site; int32_t *labels; size_t bytes; int64_t chunk; } pieces;

static pieces layout(const lora__node *n, lora_dtype real, int64_t rows, char *base)
{
	pieces p = { .chunk = chunk_rows(n, real, rows) };
	size_t each = lora__dtype_size(real), at = 0;
	p.h = base + at, at += padded(each * (size_t)(p.chunk * n->i[1]));
	p.dh = base + at, at += padded(each * (size_t)(p.chunk * n->i[1]));
	p.logits = base + at, at += padded(each * (size_t)((p.chunk < 2 ? wide_factor(real) : p.chunk) * pitch(n)));
	p.saved = base + at, at += padded(lora__site_saved_bytes(n->site, real, p.chunk));
	p.site = base + at, at += padded(lora__site_scratch_bytes(n->site, real, p.chunk));
	p.labels = (int32_t *)(void *)(base + at), at += padded(sizeof(int32_t) * (size_t)p.chunk);
	p.bytes = at;
	return p;
}

static size_t scratch_bytes(const lora__node *n, lora_dtype real, int64_t rows)
{
	static char origin;
	return layout(n, real, rows, &origin).bytes;
}

static uint32_t keeps(const lora__node *n) { return (void)n, LORA__KEEP_IN0; }

static void give_logits(const lora__exec *e, const char *logits, int64_t row)
{
	int64_t vocab = e->node->i[0];
	if (e->rows->logit_row[row] < 0) return; /* a virtual row */
	float *out = e->rows->logits + e->rows->logit_row[row] * vocab;
	double cap = e->node->f[0];
	lora__convert(out, LORA_F32, logits, lora__wide(e->real), (size_t)vocab);
	for (int64_t j = 0; cap != 0 && j < vocab; j++) out[j] = (float)(cap * tanh(out[j] / cap));
}

/* Adapters of the rows in a chunk: head rows ascend, so a run of the batch is a run here. */
static int64_t cut_runs(const lora__exec *e, const int32_t *list, int64_t n, lora__stretch *out)
{
	const lora__runs *r = e->rows->runs;
	int64_t k = 0, made = 0;
	for (int64_t j = 0; j < n;) {
		while (list[j] >= r->run[k].first + r->run[k].n) k++;
		int64_t first = j;
		while (j < n && list[j] < r->run[k].first + r->run[k].n) j++;
		out[made] = r->run[k];
		out[made].first = first, out[made].n = j - first;
		made++;
	}
	return made;
}

/* Each row in place, in pieces: the narrow values end before the wide ones that are still to be read. */
static void narrow_rows(lora_view v, lora_dtype to)
{
	char part[512];
	size_t each = lora__dtype_size(v.dtype), n = sizeof part / each;
	for (int64_t i = 0; i < v.size[0]; i++) {
		char *row = (char *)v.data + each * (size_t)(i * v.stride[0]);
		for (size_t j = 0; j < (size_t)v.size[1]; j += n) {
			size_t m = (size_t)v.size[1] - j < n ? (size_t)v.size[1] - j : n;
			memcpy(part, row + each * j, each * m);
			lora__convert(row + lora__dtype_size(to) * j, to, part, v.dtype, m);
		}
	}
}

/* The type of the logits of this pass. */
static lora_dtype logits_type(const lora__exec *e, int backward)
{
	return backward && !e->rows->own && !e->rows->logits ? e->real : lora__wide(e->real);
}

static lora_status run_chunk(lora__exec *e, const pieces *p, int64_t at, int64_t n, int backward)
{
	const lora__rowinfo *r = e->rows;
	const lora__node *node = e->node;
	const int32_t *list = r->head_rows + at;
	lora_dtype sums = logits_type(e, backward);
	size_t each = lora__dtype_size(sums), wide = lora__dtype_size(e->real) * (size_t)node->i[1];
	lora__stretch cut[HALF_MAX];
	lora__runs runs = { cut, r->runs && ((const lora__runs *)r->runs)->n ? cut_runs(e, list, n, cut) : 0 };
	for (int64_t j = 0; j < n; j++) {
		memcpy(p->h + wide * (size_t)j, (const char *)e->in[0].data + wide * (size_t)list[j], wide);
		p->labels[j] = r->labels ? r->labels[list[j]] : -1;
	}
	lora__site_call c = { .ctx = e->ctx, .real = e->real, .n = n, .x = lora__view2(p->h, e->real, n, node->i[1], node->i[1]),
		.y = lora__view2(p->logits, sums, n, node->i[0], pitch(node)), .saved = p->saved, .saved_rows = p->chunk, .scratch = p->site,
		.train = r->train, .key = r->key, .first_row = at, .decode = r->cache != NULL };
	lora_status st = lora__site_forward(node->site, &c, runs, 1);
	if (st) return st;
	for (int64_t j = 0; r->logits && j < n; j++) give_logits(e, p->logits + each * (size_t)(j * pitch(node)), list[j]);
	if (!r->labels && !r->own) return LORA_OK;
	if (r->own) {
		if ((st = r->own->turn(r->own, at, c.y, node->f[0]))) return st;
	} else {
		lora_call x = lora__prim(LORA_PRIM_XENT, 3);
		x.v[0] = c.y, x.v[1] = lora__view1(p->labels, LORA_I32, n), x.v[2] = lora__view1(r->loss + at, LORA_F64, n);
		x.i[0] = backward, x.f[0] = r->grad_scale, x.f[1] = node->f[0];
		st = lora__run(e->ctx, &x);
	}
	if (st || !backward) return st;
	c.dy = c.y;
	if (sums != e->real) narrow_rows(c.y, e->real), c.dy.dtype = e->real, c.dy.stride[0] *= wide_factor(e->real);
	if (e->din[0].data) c.dx = lora__view2(p->dh, e->real, n, node->i[1], node->i[1]);
	if ((st = lora__site_backward(node->site, &c, runs, 1))) return st;
	for (int64_t j = 0; e->din[0].data && j < n; j++) {
		lora_view from = lora__view2(p->dh + wide * (size_t)j, e->real, 1, node->i[1], node->i[1]);
		lora_view to = lora__view2((char *)e->din[0].data + wide * (size_t)list[j], e->real, 1, node->i[1], node->i[1]);
		if (e->din_beta[0] == 0) memcpy(to.data, from.data, wide);
		else if ((st = lora__axpby(e->ctx, 1.0, from, 1.0, to))) return st;
	}
	return LORA_OK;
}

static lora_status run(lora__exec *e, int backward)
{
	pieces p = layout(e->node, e->real, e->row_capacity, e->scratch);
	lora_status st = LORA_OK;
	if (backward && e->din[0].data && e->din_beta[0] == 0)
		memset(e->din[0].data, 0, lora__dtype_size(e->real) * (size_t)(e->rows->n * e->node->i[1]));
	int64_t each = logits_type(e, backward) == e->real || p.chunk < 2 ? p.chunk : p.chunk / wide_factor(e->real);
	for (int64_t at = 0; at < e->rows->n_head_rows && st == LORA_OK; at += each) {
		int64_t left = e->rows->n_head_rows - at;
		st = run_chunk(e, &p, at, left < each ? left : each, backward);
	}
	return st;
}

static lora_status forward(lora__exec *e) { return run(e, 0); }
static lora_status backward(lora__exec *e) { return run(e, 1); }

const lora__op lora__op_head = { .m = { "head", "language-model head and cross-entropy over row chunks", "chunked loss as in design section 5", NULL },
	.flags = LORA__OP_LOSS, .keeps = keeps, .scratch_bytes = scratch_bytes, .forward = forward, .backward = backward };
