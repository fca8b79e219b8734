/* A few rows at a time (decoding): every row of the weight is read once, from where it lies, and multiplied by all of them. A single row takes an
 * adapter's share y += f B (A x) along in the same loop over the threads: a loop of its own for either product would cost more than the product.
 * For the same reason sites that read the same row (query, key and value; gate and up) wait for the last of them and go through one loop.
 * Weights in blocks, and F16 and BF16 with an adapter; other weights are the backend's. All sums in F32. */
#include "site/few.h"

#include <sched.h>

#include "quant/quant.h"

enum { CHUNK = 2048 /* elements decoded at a time, whole blocks of every type */, EACH = LORA__FEW_ROWS /* rows of a task */, PIECE = 8 /* rows of A: the next four are fetched, and should be one's own */ };

static float dot(const float *a, const float *b, int64_t n)
{
	float sum[8] = { 0 };
	for (int64_t i = 0; i < n; i += 8) /* n is a multiple of 32 */
		for (int k = 0; k < 8; k++) sum[k] += a[i + k] * b[i + k];
	return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}

static size_t row_bytes(const lora_view *v) { return (size_t)v->stride[0] * lora__dtype_size(v->dtype); }

/* y[n] = n rows of weights from w on, row bytes apart, times x, by fours; what is left over row by row, as four times the same. */
static void dots(const lora__quant_fast *fast, const uint8_t *w, size_t row, const float *x, int64_t blocks, int64_t n, float *y)
{
	float four[4];
	int64_t i = 0;
	for (; i + 4 <= n; i += 4, w += 4 * row) fast->dots(w, row, x, blocks, y + i);
	for (; i < n; i++, w += row) {
		if (fast->dot) y[i] = fast->dot(w, x, blocks);
		else fast->dots(w, 0, x, blocks, four), y[i] = four[0];
	}
}

/* t = A x is cut in pieces of some rows, which whoever comes first takes, so that no second loop over the threads is needed. None without an adapter. */
static int pieces(const lora__few_job *j) { return j->pair.b.data ? (int)((j->pair.b.size[0] + PIECE - 1) / PIECE) : 0; }

static void take_pieces(lora__few_job *j)
{
	const lora_view *v = &j->pair.b;
	if (atomic_load_explicit(&j->taken, memory_order_relaxed) >= pieces(j)) return;
	for (int k; (k = atomic_fetch_add_explicit(&j->taken, 1, memory_order_relaxed)) < pieces(j);) {
		int64_t n = v->size[0] - PIECE * k < PIECE ? v->size[0] - PIECE * k : PIECE;
		dots(j->thin, (const uint8_t *)v->data + (size_t)(PIECE * k) * row_bytes(v), row_bytes(v), j->x, v->size[1], n, j->t + PIECE * k);
		atomic_fetch_add_explicit(&j->made, 1, memory_order_release);
	}
}

static int tiled(const lora__pair *p) { return p->a.stride[1] != 1; }

/* B's rows from first on: those of a task begin a tile, where there are tiles. */
static const char *rows_from(const lora__pair *p, int64_t first)
{
	return (const char *)p->a.data + first * (tiled(p) ? p->a.size[1] : p->a.stride[0]) * (int64_t)lora__dtype_size(p->a.dtype);
}

/* y[n] += f B t for rows first .. of B. Pieces that are not made yet are being made: their thread waits for nobody. */
static void add_pair(const lora__few_job *j, int64_t first, int64_t n, float *y)
{
	const lora_view *v = &j->pair.a;
	const uint8_t *b = (const uint8_t *)rows_from(&j->pair, first);
	float more[EACH];
	for (int spin = 0; atomic_load_explicit(&j->made, memory_order_acquire) < pieces(j); spin++)
		if (spin > 1000) sched_yield();
	if (tiled(&j->pair)) {
		j->thin->add(b, (size_t)n * lora__dtype_size(v->dtype), j->t, j->pair.f, v->size[1], n, y);
		return;
	}
	dots(j->thin, b, row_bytes(v), j->t, v->size[1], n, more);
	for (int64_t i = 0; i < n; i++) y[i] += (float)j->pair.f * more[i];
}

/* B's part of a task is used last: it is fetched meanwhile. */
static void fetch(const lora__pair *p, int64_t first, int64_t n)
{
	const char *at = rows_from(p, first), *end = at + n * p->a.size[1] * (int64_t)lora__dtype_size(p->a.dtype);
	for (; at < end; at += 64) __builtin_prefetch(at);
}

/* y[n rows of x][EACH] of one row of the weight. */
static void few_row(const lora__few_job *j, const uint8_t *w, float *y)
{
	float chunk[CHUNK];
	for (int64_t r = 0; r < j->n; r++) y[r * EACH] = 0;
	for (int64_t at = 0; at < j->s->in; at += CHUNK) {
		int64_t m = j->s->in - at < CHUNK ? j->s->in - at : CHUNK;
		lora__dequant(chunk, LORA_F32, w + lora__dtype_row(j->s->dtype, at), j->s->dtype, m);
		for (int64_t r = 0; r < j->n; r++) y[r * EACH] += dot(chunk, j->x + r * j->s->in + at, m);
	}
}

static int64_t tasks(const lora__few_job *j) { return (j->s->out + EACH - 1) / EACH; }

static void few_task(void *arg, int64_t task, int32_t thread)
{
	lora__few_jobs *all = arg;
	lora__few_job *j = all->job;
	(void)thread;
	for (; task >= tasks(j); j++) task -= tasks(j);
	int64_t first = task * EACH, n = j->s->out - first < EACH ? j->s->out - first : EACH;
	const uint8_t *w = (const uint8_t *)j->s->data + (size_t)first * j->row;
	float y[LORA__FEW * EACH];
	if (j->pair.a.data) fetch(&j->pair, first, n);
	for (int i = 0; i < all->n; i++) take_pieces(&all->job[i]);
	if (j->fast && j->n == 1 && j->fast->dots) dots(j->fast, w, j->row, j->x, j->blocks, n, y);
	else for (int64_t i = 0; i < n; w += j->row, i++) {
		if (j->fast && j->n == 1) y[i] = j->fast->dot(w, j->x, j->blocks);
		else few_row(j, w, y + i);
	}
	if (j->pair.a.data) add_pair(j, first, n, y);
	for (int64_t r = 0; r < j->n; r++) {
		int64_t step = j->out.stride[1], size = (int64_t)lora__dtype_size(j->out.dtype);
		char *to = (char *)j->out.data + (r * j->out.stride[0] + first * step) * size;
		for (int64_t i = 0; i < n; i += step == 1 ? n : 1) lora__convert(to + i * step * size, j->out.dtype, y + r * EACH + i, LORA_F32, step == 1 ? (size_t)n : 1);
	}
}

/* x is read where it lies, or made floats of in the scratch of the last call: what the others had may be the place of an output by now. */
void lora__few_run(lora__few_jobs *all, const lora__site_call *c)
{
	const float *x = c->x.data;
	int64_t n_tasks = 0, in = c->x.size[1];
	if (!all->n) return;
	if (c->x.dtype != LORA_F32 || c->n > 1) x = (const float *)(const void *)c->scratch;
	for (int64_t r = 0; r < c->n && x != c->x.data; r++) {
		const char *from = (const char *)c->x.data + r * c->x.stride[0] * (int64_t)lora__dtype_size(c->x.dtype);
		lora__convert(c->scratch + (size_t)(r * in) * sizeof(float), LORA_F32, from, c->x.dtype, (size_t)in);
	}
	for (int i = 0; i < all->n; i++) all->job[i].x = x, n_tasks += tasks(&all->job[i]);
	lora__parallel(c->ctx, n_tasks, few_task, all);
	all->n = 0;
}

void lora__few(const lora__site *s, const lora__site_call *c, const lora__pair *pair)
{
	int64_t block = 1;
	lora__few_jobs own, *all = c->few ? c->few : &own;
	own.n = 0;
	lora__few_job *j = &all->job[all->n++];
	lora__dtype_block(s->dtype, &block, NULL);
	j->s = s, j->n = c->n, j->blocks = s->in / block, j->row = lora__dtype_row(s->dtype, s->in), j->out = c->y;
	j->fast = lora__quant_best(s->dtype), j->thin = pair ? lora__quant_best(pair->a.dtype) : NULL;
	j->pair = pair ? *pair : (lora__pair){ .f = 0 };
	atomic_store_explicit(&j->taken, 0, memory_order_relaxed);
	atomic_store_explicit(&j->made, 0, memory_order_relaxed);
	/* it can wait where nothing else is added to y */
	if (!c->few || !c->later || c->n > 1 || s->bias.data || s->n_chain != (pair != NULL) || all->n == LORA__FEW_JOBS) lora__few_run(all, c);
}

size_t lora__few_scratch(const lora__site *s, int64_t n) { return sizeof(float) * (size_t)(n * s->in); }

int lora__few_is(const lora__site_call *c) { return c->n <= LORA__FEW && c->real != LORA_F64 && c->x.stride[1] == 1; }

int lora__few_takes(const lora__site *s, const lora__site_call *c, const lora__pair *pair)
{
	const lora__quant_fast *thin = lora__quant_best(pair->a.dtype);
	return c->n == 1 && lora__few_is(c) && lora__quant_best(s->dtype) && thin && thin->dots && pair->a.dtype == pair->b.dtype && pair->b.size[0] <= LORA__FEW_RANK &&
		(!tiled(pair) || thin->add) && pair->b.stride[1] == 1;
}
