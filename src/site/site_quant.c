/* Sites whose weight is stored in blocks: the weight stays quantised in memory and is decoded tile by tile, once per tile and product whatever
 * the number of rows. y[:, tile] = x W_tile^T; dx += dy[:, tile] W_tile, summed in F32 where activations are halves.
 * A few rows at a time (decoding) are multiplied block by block without a tile; a single one takes an adapter's product along. */
#include "site/site.h"

#include <sched.h>

#include "quant/quant.h"

enum { TILE_BYTES = 2 << 20, FEW = 4, CHUNK = 2048 /* elements decoded at a time, whole blocks of every type */ };

int lora__site_is_quant(const lora__site *s) { return lora__dtype_block(s->dtype, NULL, NULL); }

static lora_dtype tile_type(lora_dtype real) { return real == LORA_BF16 ? LORA_BF16 : LORA_F32; }
static size_t padded(size_t n) { return (n + 63) & ~(size_t)63; }

static int64_t tile_rows(const lora__site *s, lora_dtype real)
{
	int64_t rows = TILE_BYTES / ((int64_t)lora__dtype_size(tile_type(real)) * s->in) & ~(int64_t)15;
	return rows < 16 ? (s->out < 16 ? s->out : 16) : rows < s->out ? rows : s->out;
}

size_t lora__site_quant_scratch(const lora__site *s, lora_dtype real, int64_t n)
{
	if (!lora__site_is_quant(s)) return 0;
	size_t sums = real == LORA_BF16 ? padded((size_t)(n * s->in) * sizeof(float)) : 0, few = (size_t)(FEW * s->in) * sizeof(float);
	size_t tile = padded((size_t)(tile_rows(s, real) * s->in) * lora__dtype_size(tile_type(real))) + sums;
	return few > tile ? few : tile;
}

/* ---- decoding rows ---- */

typedef struct rows_job { const char *from; char *to; lora_dtype type, want; int64_t in, n, each; } rows_job;

static void rows_task(void *arg, int64_t task, int32_t thread)
{
	const rows_job *j = arg;
	(void)thread;
	int64_t first = task * j->each, n = j->n - first < j->each ? j->n - first : j->each;
	lora__dequant(j->to + (size_t)(first * j->in) * lora__dtype_size(j->want), j->want, j->from + (size_t)first * lora__dtype_row(j->type, j->in), j->type,
		n * j->in);
}

void lora__site_rows(const lora__site *s, const void *data, int64_t first, int64_t n, lora_dtype want, void *to)
{
	rows_job j = { (const char *)data + (size_t)first * lora__dtype_row(s->dtype, s->in), to, s->dtype, want, s->in, n, 16 };
	lora__parallel(s->all->ctx, (n + j.each - 1) / j.each, rows_task, &j);
}

/* ---- a few rows ---- */

enum { EACH = 32, RANK = 256 /* of the adapter that one row may take along */ };

/* With an adapter t = A x is cut in pieces of four rows, which whoever comes first takes, so that no second loop over the threads is needed. */
typedef struct few_job {
	const lora__site       *s;
	const lora__quant_fast *fast, *floats;
	const float            *x;
	int64_t                 n, blocks;
	size_t                  row;
	lora_view               out;
	const lora__pair       *pair; /* b = A[r,in], a = B[out,r]; NULL = none */
	float                  *t;
	atomic_int              taken, made;
} few_job;

static float dot(const float *a, const float *b, int64_t n)
{
	float sum[8] = { 0 };
	for (int64_t i = 0; i < n; i += 8) /* n is a multiple of 32 */
		for (int k = 0; k < 8; k++) sum[k] += a[i + k] * b[i + k];
	return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}

/* y[n] = rows first .. first + n of v times x, by fours; what is left over row by row, as four times the same. */
static void float_rows(const few_job *j, lora_view v, int64_t first, int64_t n, const float *x, float *y)
{
	float four[4];
	size_t row = (size_t)v.stride[0] * sizeof(float);
	for (int64_t i = 0; i < n; i += 4) {
		const uint8_t *w = (const uint8_t *)v.data + (size_t)(first + i) * row;
		if (n - i >= 4) j->floats->dots(w, row, x, v.size[1], y + i);
		else for (int64_t k = i; k < n; k++, w += row) j->floats->dots(w, 0, x, v.size[1], four), y[k] = four[0];
	}
}

static int pieces(const few_job *j) { return (int)((j->pair->b.size[0] + 3) / 4); }

static void take_pieces(few_job *j)
{
	int64_t rank = j->pair->b.size[0];
	for (int k; (k = atomic_fetch_add_explicit(&j->taken, 1, memory_order_relaxed)) < pieces(j);) {
		float_rows(j, j->pair->b, 4 * k, rank - 4 * k < 4 ? rank - 4 * k : 4, j->x, j->t + 4 * k);
		atomic_fetch_add_explicit(&j->made, 1, memory_order_release);
	}
}

/* y[n] += f B t for rows first .. of B. Pieces that are not made yet are being made: their thread waits for nobody. */
static void add_pair(const few_job *j, int64_t first, int64_t n, float *y)
{
	float more[EACH];
	for (int spin = 0; atomic_load_explicit(&j->made, memory_order_acquire) < pieces(j); spin++)
		if (spin > 1000) sched_yield();
	float_rows(j, j->pair->a, first, n, j->t, more);
	for (int64_t i = 0; i < n; i++) y[i] += (float)j->pair->f * more[i];
}

/* y[n rows of x][EACH] of one row of the weight. */
static void few_row(const few_job *j, const uint8_t *w, float *y)
{
	float chunk[CHUNK];
	for (int64_t r = 0; r < j->n; r++) y[r * EACH] = 0;
	for (int64_t at = 0; at < j->s->in; at += CHUNK) {
		int64_t m = j->s->in - at < CHUNK ? j->s->in - at : CHUNK;
		lora__dequant(chunk, LORA_F32, w + lora__dtype_row(j->s->dtype, at), j->s->dtype, m);
		for (int64_t r = 0; r < j->n; r++) y[r * EACH] += dot(chunk, j->x + r * j->s->in + at, m);
	}
}

static void few_task(void *arg, int64_t task, int32_t thread)
{
	few_job *j = arg;
	(void)thread;
	int64_t first = task * EACH, n = j->s->out - first < EACH ? j->s->out - first : EACH, one = j->fast && j->n == 1;
	const uint8_t *w = (const uint8_t *)j->s->data + (size_t)first * j->row;
	float y[FEW * EACH];
	for (int64_t i = 0; j->pair && i < n; i++) /* of the adapter's rows, which come last here */
		for (int64_t k = 0; k < j->pair->a.size[1]; k += 16) __builtin_prefetch((const float *)j->pair->a.data + (first + i) * j->pair->a.stride[0] + k);
	if (j->pair) take_pieces(j);
	for (int64_t i = 0; i < n; w += j->row, i++) {
		if (!one) few_row(j, w, y + i);
		else if (!j->fast->dots || n - i < 4) y[i] = j->fast->dot(w, j->x, j->blocks);
		else j->fast->dots(w, j->row, j->x, j->blocks, y + i), i += 3, w += 3 * j->row;
	}
	if (j->pair) add_pair(j, first, n, y);
	for (int64_t r = 0; r < j->n; r++) {
		int64_t step = j->out.stride[1], size = (int64_t)lora__dtype_size(j->out.dtype);
		char *to = (char *)j->out.data + (r * j->out.stride[0] + first * step) * size;
		for (int64_t i = 0; i < n; i += step == 1 ? n : 1) lora__convert(to + i * step * size, j->out.dtype, y + r * EACH + i, LORA_F32, step == 1 ? (size_t)n : 1);
	}
}

static void few(const lora__site *s, const lora__site_call *c, const lora__pair *pair)
{
	int64_t block = 1;
	float t[RANK];
	lora__dtype_block(s->dtype, &block, NULL);
	few_job j = { .s = s, .fast = lora__quant_best(s->dtype), .floats = lora__quant_best(LORA_F32), .x = (const float *)(const void *)c->scratch, .n = c->n,
		.blocks = s->in / block, .row = lora__dtype_row(s->dtype, s->in), .out = c->y, .pair = pair, .t = t };
	if (c->x.dtype == LORA_F32 && c->n == 1) j.x = c->x.data;
	for (int64_t r = 0; r < c->n && j.x != c->x.data; r++) {
		const char *from = (const char *)c->x.data + r * c->x.stride[0] * (int64_t)lora__dtype_size(c->x.dtype);
		lora__convert(c->scratch + (size_t)(r * s->in) * sizeof(float), LORA_F32, from, c->x.dtype, (size_t)s->in);
	}
	lora__parallel(c->ctx, (s->out + EACH - 1) / EACH, few_task, &j);
}

static int is_few(const lora__site_call *c) { return c->n <= FEW && c->real != LORA_F64 && c->x.stride[1] == 1; }

int lora__site_quant_takes(const lora__site *s, const lora__site_call *c, const lora__pair *pair)
{
	return c->n == 1 && is_few(c) && lora__quant_best(s->dtype) && lora__quant_best(LORA_F32) && pair->b.size[0] <= RANK && pair->a.stride[1] == 1 && pair->b.stride[1] == 1;
}

/* ---- products ---- */

static lora_view columns(lora_view v, int64_t first, int64_t n)
{
	v.data = (char *)v.data + first * v.stride[1] * (int64_t)lora__dtype_size(v.dtype);
	v.size[1] = n;
	return v;
}

static lora_status product(lora_context *ctx, lora_view out, lora_view a, lora_view b, double beta)
{
	lora_call call = { .struct_size = sizeof call, .prim = LORA_PRIM_GEMM, .n_views = 3, .v = { out, a, b }, .f = { 1.0, beta } };
	return lora__run(ctx, &call);
}

lora_status lora__site_quant_product(const lora__site *s, const lora__site_call *c, int which, const lora__pair *pair)
{
	if (!which && is_few(c)) return few(s, c, pair), LORA_OK;
	lora_dtype type = tile_type(c->real);
	int64_t rows = tile_rows(s, c->real);
	char *tile = c->scratch;
	lora_view sums = c->dx;
	if (which && c->real == LORA_BF16)
		sums = lora__view2(tile + padded((size_t)(rows * s->in) * lora__dtype_size(type)), LORA_F32, c->n, s->in, s->in);
	lora_status st = LORA_OK;
	for (int64_t first = 0; first < s->out && st == LORA_OK; first += rows) {
		int64_t n = s->out - first < rows ? s->out - first : rows;
		lora_view w = lora__view2(tile, type, n, s->in, s->in);
		lora__site_rows(s, s->data, first, n, type, tile);
		if (!which) st = product(c->ctx, columns(c->y, first, n), c->x, lora__view_t(w), 0.0);
		else st = product(c->ctx, sums, columns(c->dy, first, n), w, first ? 1.0 : sums.data == c->dx.data ? c->dx_beta : 0.0);
	}
	if (st == LORA_OK && which && sums.data != c->dx.data) st = lora__axpby(c->ctx, 1.0, sums, c->dx_beta, c->dx);
	return st;
}
