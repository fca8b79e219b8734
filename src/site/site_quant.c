/* Sites whose weight is stored in blocks: the weight stays quantised in memory and is decoded tile by tile, once per tile and product whatever
 * the number of rows. y[:, tile] = x W_tile^T; dx += dy[:, tile] W_tile, summed in F32 where activations are halves.
 * A few rows at a time (decoding) are multiplied block by block without a tile (few.c). */
#include "site/few.h"

#include "quant/quant.h"

enum { TILE_BYTES = 2 << 20 };

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
	size_t sums = real == LORA_BF16 ? padded((size_t)(n * s->in) * sizeof(float)) : 0, few = lora__few_scratch(s, LORA__FEW);
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

lora_status lora__site_quant_product(const lora__site *s, const lora__site_call *c, int which)
{
	if (!which && lora__few_is(c)) return lora__few(s, c, NULL), LORA_OK;
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
