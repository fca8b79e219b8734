/* COPY, AXPBY, ADD, BIAS, EMBED, COLSUM, SUMSQ: see lora/backend.h for each formula.
 * COLSUM adds rows in order in double. SUMSQ cuts the array into blocks of SUMSQ_BLOCK, sums each over 8 lanes in double, then adds the
 * blocks in order: one number for any thread count. */
#include "backend/naive/naive.h"

enum { BLOCK = 512, SUMSQ_BLOCK = 4096 };

typedef struct each_job {
	const lora_call *c;
	lora__naive_grid g;
	const void *w;
	double *partial;
} each_job;

#define NAIVE_AVX2
#define NAIVE_TEMPLATE "backend/naive/naive_elementwise.inc"
#include "backend/naive/naive_each.h"

static void run_grid(lora__naive *self, each_job *j, lora_task_fn fn)
{
	lora__naive_parallel(self, j->g.row_blocks * j->g.col_blocks, (double)j->g.n * (double)j->g.d, fn, j);
}

lora_status lora__naive_axpby(lora__naive *self, const lora_call *c, lora_dtype real)
{
	each_job j = { .c = c, .g = lora__naive_split(c, 0, 1, 1) };
	run_grid(self, &j, PICK_AVX2(self, real, axpby));
	return LORA_OK;
}

lora_status lora__naive_add(lora__naive *self, const lora_call *c, lora_dtype real)
{
	each_job j = { .c = c, .g = lora__naive_split(c, 0, 2, 1) };
	run_grid(self, &j, PICK_AVX2(self, real, add));
	return LORA_OK;
}

lora_status lora__naive_bias(lora__naive *self, const lora_call *c, lora_dtype real)
{
	each_job j = { .c = c, .g = lora__naive_split(c, 0, 0, 0) };
	const lora_view *b = &c->v[1];
	void *w = NULL;
	lora_dtype wide = lora__wide(real);
	if (b->dtype != wide) {
		w = lora__naive_scratch(self, (size_t)b->size[0] * lora__dtype_size(wide));
		if (!w) return LORA_E_MEMORY;
		lora__convert(w, wide, b->data, b->dtype, (size_t)b->size[0]);
	}
	j.w = w ? w : b->data;
	run_grid(self, &j, PICK_AVX2(self, real, bias));
	lora__naive_release(self, w);
	return LORA_OK;
}

lora_status lora__naive_embed(lora__naive *self, const lora_call *c, lora_dtype real)
{
	each_job j = { .c = c, .g = lora__naive_split(c, 0, 0, 0) };
	lora_status st = lora__naive_check_ids(self, &c->v[2], c->v[1].size[0], 0, "id");
	if (st) return st;
	run_grid(self, &j, PICK_AVX2(self, real, embed));
	return LORA_OK;
}

lora_status lora__naive_colsum(lora__naive *self, const lora_call *c, lora_dtype real)
{
	each_job j = { .c = c };
	lora__naive_parallel(self, (c->v[1].size[1] + 63) / 64, (double)c->v[1].size[0] * (double)c->v[1].size[1], PICK_AVX2(self, real, colsum), &j);
	return LORA_OK;
}

lora_status lora__naive_sumsq(lora__naive *self, const lora_call *c, lora_dtype real)
{
	int64_t n = c->v[1].size[0], blocks = (n + SUMSQ_BLOCK - 1) / SUMSQ_BLOCK;
	each_job j = { .c = c };
	double sum = 0;
	j.partial = lora__naive_scratch(self, (size_t)blocks * sizeof *j.partial);
	if (!j.partial) return LORA_E_MEMORY;
	lora__naive_parallel(self, blocks, (double)n, PICK_AVX2(self, real, sumsq), &j);
	for (int64_t i = 0; i < blocks; i++) sum += j.partial[i];
	*(double *)c->v[0].data = sum;
	lora__naive_release(self, j.partial);
	return LORA_OK;
}

/* Task: a square of the array; squares keep both sides of a transposing copy in the cache. */
static void copy_square(void *arg, int64_t task, int32_t thread)
{
	const each_job *j = arg;
	const lora_view *d = &j->c->v[0], *s = &j->c->v[1];
	int64_t r0, r1, c0, c1;
	(void)thread;
	lora__naive_piece(&j->g, task, &r0, &r1, &c0, &c1);
	if (d->stride[1] == 1 && s->stride[1] == 1) {
		for (int64_t r = r0; r < r1; r++) lora__convert(lora__at(d, r, c0), d->dtype, lora__at(s, r, c0), s->dtype, (size_t)(c1 - c0));
	} else if (d->dtype == LORA_BF16 && s->dtype == LORA_BF16) {
		for (int64_t r = r0; r < r1; r++) {
			uint16_t *dp = lora__at(d, r, 0);
			const uint16_t *sp = lora__at(s, r, 0);
			for (int64_t k = c0; k < c1; k++) dp[k * d->stride[1]] = sp[k * s->stride[1]];
		}
	} else if (d->dtype == LORA_F32 && s->dtype == LORA_F32) {
		for (int64_t r = r0; r < r1; r++) {
			float *dp = lora__at(d, r, 0);
			const float *sp = lora__at(s, r, 0);
			for (int64_t k = c0; k < c1; k++) dp[k * d->stride[1]] = sp[k * s->stride[1]];
		}
	} else {
		for (int64_t r = r0; r < r1; r++)
			for (int64_t k = c0; k < c1; k++) lora__convert(lora__at(d, r, k), d->dtype, lora__at(s, r, k), s->dtype, 1);
	}
}

lora_status lora__naive_copy(lora__naive *self, const lora_call *c, lora_dtype real)
{
	lora_call t = *c;
	(void)real;
	if (c->v[0].stride[0] == 1 && c->v[1].stride[0] == 1) t.v[0] = lora__view_t(c->v[0]), t.v[1] = lora__view_t(c->v[1]); /* both by columns */
	int plain = t.v[0].stride[1] == 1 && t.v[1].stride[1] == 1;
	each_job j = { .c = &t, .g = lora__naive_split(&t, 0, 1, plain) };
	if (!plain) {
		j.g.rows = j.g.cols = 32;
		j.g.row_blocks = (j.g.n + 31) / 32, j.g.col_blocks = (j.g.d + 31) / 32;
	}
	run_grid(self, &j, copy_square);
	return LORA_OK;
}
