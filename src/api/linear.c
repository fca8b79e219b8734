/* Exported functions of linear.h: the site layer for engines that own their forward pass. */
#include <string.h>

#include "adapter/adapter.h"
#include "lora/linear.h"
#include "model/model.h"

struct lora_rows {
	lora_context   *ctx;
	lora__sites    *sites;
	lora__stretch  *run;
	int64_t         n_runs, n_rows;
	lora_adapter  **adapters;
	int64_t         n_adapters;
};

void lora_rows_destroy(lora_rows *r)
{
	if (!r) return;
	lora_context *ctx = r->ctx;
	for (int64_t i = 0; i < r->n_adapters; i++)
		if (r->adapters[i]) lora__adapter_release(r->adapters[i]);
	lora__free(ctx, r->adapters);
	lora__free(ctx, r->run);
	lora__sites_release(r->sites);
	lora__free(ctx, r);
}

static lora_status fill_runs(lora_rows *r, const int32_t *assign)
{
	for (int64_t i = 0; i < r->n_rows; i++) {
		if (assign[i] < -1 || assign[i] >= r->n_adapters)
			return lora__fail(r->ctx, LORA_E_ARGUMENT, "rows", "row %lld has adapter %d, there are %lld", (long long)i, (int)assign[i], (long long)r->n_adapters);
		const lora_adapter *who = assign[i] < 0 ? NULL : r->adapters[assign[i]];
		if (r->n_runs && r->run[r->n_runs - 1].adapter == who) r->run[r->n_runs - 1].n++;
		else r->run[r->n_runs++] = (lora__stretch){ i, 1, who, 0 };
	}
	return LORA_OK;
}

lora_status lora_rows_create(lora_model *m, lora_adapter *const *adapters, int64_t n_adapters, const int32_t *assign, int64_t n_rows, lora_rows **out)
{
	if (out) *out = NULL;
	if (!m) return LORA_E_ARGUMENT;
	lora_context *ctx = m->s.ctx;
	if (!out || n_rows < 0 || n_adapters < 0 || (n_rows && !assign) || (n_adapters && !adapters))
		return lora__fail(ctx, LORA_E_ARGUMENT, "rows", "lora_rows_create: an argument is NULL or negative");
	lora_rows *r = lora__zalloc(ctx, sizeof *r);
	if (!r) return LORA_E_MEMORY;
	r->ctx = ctx, r->sites = &m->s, r->n_rows = n_rows;
	lora__sites_retain(&m->s);
	lora_status st = LORA_OK;
	r->adapters = lora__calloc(ctx, (size_t)n_adapters + 1, sizeof *r->adapters);
	r->run = lora__calloc(ctx, (size_t)n_rows + 1, sizeof *r->run);
	if (!r->adapters || !r->run) st = LORA_E_MEMORY;
	for (int64_t i = 0; i < n_adapters && st == LORA_OK; i++) {
		if (!adapters[i] || adapters[i]->sites != &m->s) st = lora__fail(ctx, LORA_E_ARGUMENT, "rows", "adapter %lld is NULL or of another model", (long long)i);
		else if (!adapters[i]->attached) st = lora__fail(ctx, LORA_E_STATE, "rows", "adapter %lld is not attached", (long long)i);
		else {
			lora__adapter_retain(adapters[i]);
			r->adapters[i] = adapters[i];
			r->n_adapters = i + 1;
		}
	}
	if (st == LORA_OK) st = fill_runs(r, assign);
	if (st) lora_rows_destroy(r);
	else *out = r;
	return st;
}

size_t lora_linear_workspace_bytes(const lora_model *m, int64_t site, int64_t n_rows)
{
	if (!m || site < 0 || site >= lora_model_site_count(m) || n_rows < 0) return 0;
	return lora__site_scratch_bytes(m->s.list[site], LORA_F32, n_rows) + 64;
}

static lora_status check(lora_model *m, const lora_linear_args *a, int backward)
{
	lora_context *ctx = m->s.ctx;
	if (!a || a->struct_size < offsetof(lora_linear_args, reserved)) return lora__fail(ctx, LORA_E_ARGUMENT, "linear", "args is NULL or its struct_size is not set");
	if (a->flags & ~(uint32_t)(LORA_LINEAR_BASE | LORA_LINEAR_ADD | LORA_LINEAR_TRAIN)) return lora__fail(ctx, LORA_E_ARGUMENT, "linear", "unknown flags");
	if (a->site < 0 || a->site >= lora_model_site_count(m))
		return lora__fail(ctx, LORA_E_ARGUMENT, "linear", "site %lld, the model has %lld", (long long)a->site, (long long)lora_model_site_count(m));
	const lora__site *s = m->s.list[a->site];
	int64_t n = a->n_rows;
	if (n < 0 || n > INT32_MAX) return lora__fail(ctx, n < 0 ? LORA_E_ARGUMENT : LORA_E_LIMIT, "linear", "n_rows is %lld", (long long)n);
	if (a->rows && a->rows->n_rows != n) return lora__fail(ctx, LORA_E_SHAPE, "linear", "rows were made for %lld rows, not %lld", (long long)a->rows->n_rows, (long long)n);
	if (a->rows && a->rows->sites != &m->s) return lora__fail(ctx, LORA_E_ARGUMENT, "linear", "rows are of another model");
	if (n && (!a->x || (backward ? !a->dy : !a->y))) return lora__fail(ctx, LORA_E_ARGUMENT, "linear", "x, y or dy is NULL");
	const int64_t limit = INT64_MAX / 8 / (n ? n : 1);
	int64_t strides[4][2] = { { a->x_stride, s->in }, { backward ? a->dy_stride : a->y_stride, s->out }, { backward && a->dx ? a->dx_stride : s->in, s->in }, { 0, 0 } };
	for (int i = 0; i < 3; i++)
		if (strides[i][0] < strides[i][1] || strides[i][0] > limit)
			return lora__fail(ctx, LORA_E_SHAPE, "linear", "a stride is %lld, the width is %lld", (long long)strides[i][0], (long long)strides[i][1]);
	if (m->s.real != LORA_F32) return lora__fail(ctx, LORA_E_DTYPE, "linear", "the model does not compute in F32, as these calls do");
	return LORA_OK;
}

static lora_status run(lora_model *m, const lora_linear_args *a, int backward)
{
	lora_status st = check(m, a, backward);
	if (st || a->n_rows == 0) return st;
	lora_context *ctx = m->s.ctx;
	lora__site *s = m->s.list[a->site];
	size_t need = lora_linear_workspace_bytes(m, a->site, a->n_rows);
	void *own = NULL;
	if (a->workspace && (a->workspace_bytes < need || (uintptr_t)a->workspace % 64))
		return lora__fail(ctx, LORA_E_SHAPE, "linear", "the workspace has %zu bytes (64-byte aligned), %zu needed", a->workspace_bytes, need);
	if (!a->workspace && !(own = lora__alloc(ctx, need))) return LORA_E_MEMORY;
	for (size_t i = 0; backward && i < s->n_chain && st == LORA_OK; i++)
		if (s->chain[i]->merged) st = lora__fail_at(ctx, LORA_E_STATE, "linear", s->name, -1, "an adapter is merged into %s; unmerge before a backward pass", s->name);
	if (backward && st == LORA_OK) st = lora__site_prepare(s);
	lora__site_call c = { .ctx = ctx, .real = LORA_F32, .n = a->n_rows, .x = lora__view2(a->x, LORA_F32, a->n_rows, s->in, a->x_stride),
		.dx_beta = a->flags & LORA_LINEAR_ADD ? 1.0 : 0.0, .saved_rows = a->n_rows, .scratch = a->workspace ? a->workspace : own,
		.train = (a->flags & LORA_LINEAR_TRAIN) != 0, .key = a->dropout_key };
	lora__runs runs = { a->rows ? a->rows->run : NULL, a->rows ? a->rows->n_runs : 0 };
	int base = (a->flags & LORA_LINEAR_BASE) != 0;
	if (backward) {
		c.dy = lora__view2(a->dy, LORA_F32, a->n_rows, s->out, a->dy_stride);
		if (a->dx) c.dx = lora__view2(a->dx, LORA_F32, a->n_rows, s->in, a->dx_stride);
		for (int64_t r = 0; a->dx && !base && !(a->flags & LORA_LINEAR_ADD) && r < a->n_rows; r++)
			memset(a->dx + r * a->dx_stride, 0, sizeof(float) * (size_t)s->in);
		if (st == LORA_OK) st = lora__site_backward(s, &c, runs, base);
	} else {
		c.y = lora__view2(a->y, LORA_F32, a->n_rows, s->out, a->y_stride);
		st = lora__site_forward(s, &c, runs, base);
	}
	lora__free(ctx, own);
	return st;
}

lora_status lora_linear_forward(lora_model *m, const lora_linear_args *args) { return m ? run(m, args, 0) : LORA_E_ARGUMENT; }

lora_status lora_linear_backward(lora_model *m, const lora_linear_args *args) { return m ? run(m, args, 1) : LORA_E_ARGUMENT; }
