/* The adapter nearest to the difference of two models: at each site the best approximation of rank r of W_tuned - W_base.
 * Source: Eckart and Young 1936; the dense half of lowrank.c says how. */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "combine/combine.h"
#include "combine/lowrank.h"

typedef struct each { lora__site_fn fn; void *arg; lora_status *st; } each;

static void task_of(void *arg, int64_t task, int32_t thread)
{
	each *e = arg;
	e->st[task] = e->fn(e->arg, task, thread);
}

lora_status lora__each_site(lora_context *ctx, int64_t n, double bytes, lora__site_fn fn, void *arg)
{
	each e = { fn, arg, lora__calloc(ctx, (size_t)n + 1, sizeof *e.st) };
	lora_status st = e.st ? LORA_OK : LORA_E_MEMORY;
	int alone = bytes > 256e6;
	if (!st && !alone) lora__parallel(ctx, n, task_of, &e);
	for (int64_t i = 0; i < n && !st; i++) st = alone ? fn(arg, i, 0) : e.st[i];
	lora__free(ctx, e.st);
	return st;
}

typedef struct job {
	lora_context      *ctx;
	const lora__sites *base, *tuned;
	lora_adapter      *to;
	double            *norms, *errors;
} job;

/* Rows of the weight as it is now. */
static void read_row(const lora__site *s, int64_t row, float *to)
{
	size_t each_bytes = lora__dtype_size(s->dtype);
	if (lora__site_is_quant(s)) {
		lora__site_rows(s, s->data, row, 1, LORA_F32, to);
		return;
	}
	lora_view v = lora__site_weight(s);
	const char *from = (const char *)v.data + each_bytes * (size_t)(row * v.stride[0]);
	if (v.stride[1] == 1) lora__convert(to, LORA_F32, from, s->dtype, (size_t)s->in);
	else
		for (int64_t c = 0; c < s->in; c++) lora__convert(to + c, LORA_F32, from + each_bytes * (size_t)(c * v.stride[1]), s->dtype, 1);
}

static double norm(const float *d, int64_t n)
{
	double s = 0;
	for (int64_t i = 0; i < n; i++) s += (double)d[i] * d[i];
	return sqrt(s);
}

static lora_status do_site(void *arg, int64_t task, int32_t thread)
{
	const job *j = arg;
	const lora__site *x = j->base->list[task], *y = lora__sites_find(j->tuned, x->name);
	int64_t at = lora__adapter_part_of(j->to, x), n = x->in * x->out;
	float *d = lora__calloc(j->ctx, (size_t)x->out + 1, (size_t)x->in * sizeof *d), *row = d ? d + n : NULL;
	lora_status st = d ? LORA_OK : LORA_E_MEMORY;
	(void)thread;
	for (int64_t i = 0; i < x->out && !st; i++) {
		read_row(x, i, row);
		read_row(y, i, d + i * x->in);
		for (int64_t c = 0; c < x->in; c++) d[i * x->in + c] -= row[c];
	}
	if (!st && !lora__all_finite(d, LORA_F32, (size_t)n)) st = lora__fail_at(j->ctx, LORA_E_NUMERIC, "extract", x->name, -1, "the difference at %s is not finite", x->name);
	if (!st) j->norms[task] = j->errors[task] = norm(d, n);
	if (!st && at >= 0) {
		lora__part *p = &j->to->parts[at];
		st = p->scaling != 0 ? lora__lowrank_dense(j->ctx, d, x->out, x->in, p->rank, p->param[0], p->param[1]) :
			lora__fail_at(j->ctx, LORA_E_NUMERIC, "extract", "lora_alpha", -1, "lora_alpha is 0 at %s: no adapter with it differs from none", x->name);
		for (int64_t i = 0; i < x->out * p->rank && !st; i++) p->param[1][i] = (float)(p->param[1][i] / p->scaling);
		if (!st) st = p->slot.ops->delta(&p->slot, j->ctx, -1.0, 0, x->out, d);
		if (!st) j->errors[task] = norm(d, n);
	}
	lora__free(j->ctx, d);
	lora__site_rest(x);
	lora__site_rest(y);
	return st;
}

static lora_status check(const lora__sites *base, const lora__sites *tuned, const char *chosen, double *bytes)
{
	for (size_t i = 0; i < base->n; i++) {
		const lora__site *x = base->list[i], *y = lora__sites_find(tuned, x->name);
		if (x->flags & LORA_SITE_EMBEDDING && !chosen[i]) continue;
		if (x->flags & LORA_SITE_EMBEDDING) return lora__fail_at(base->ctx, LORA_E_UNSUPPORTED, "extract", x->name, -1, "%s is an embedding: only linear layers can be extracted", x->name);
		if (!y) return lora__fail_at(base->ctx, LORA_E_NOTFOUND, "extract", x->name, -1, "the tuned model has no site %s", x->name);
		if (x->out != y->out || x->in != y->in)
			return lora__fail_at(base->ctx, LORA_E_SHAPE, "extract", x->name, -1, "%s is [%lld,%lld] in the base and [%lld,%lld] in the tuned model", x->name, (long long)x->out,
				(long long)x->in, (long long)y->out, (long long)y->in);
		if (chosen[i] > LORA__CHOSEN)
			return lora__fail_at(base->ctx, LORA_E_UNSUPPORTED, "extract", x->name, -1, "%s by %s: only target_modules can be extracted", x->name,
				chosen[i] == LORA__WHOLE ? "modules_to_save" : "target_parameters");
		*bytes = fmax(*bytes, 5.0 * (double)x->out * (double)x->in * sizeof(float));
	}
	return LORA_OK;
}

lora_status lora__extract(lora__sites *base, const lora__sites *tuned, lora_settings *settings, double *norms, double *errors, lora_adapter **out)
{
	job j = { .ctx = base->ctx, .base = base, .tuned = tuned };
	const lora__param *params = lora__kind_lora.m.params;
	char *chosen = lora__zalloc(j.ctx, base->n + 1);
	double bytes = 0, *room = lora__calloc(j.ctx, base->n + 1, 2 * sizeof *room);
	size_t n;
	lora_status st = chosen && room ? lora__target_sites(j.ctx, base, settings, chosen, &n) : LORA_E_MEMORY;
	j.norms = room, j.errors = room ? room + base->n : NULL;
	if (!st) st = check(base, tuned, chosen, &bytes);
	if (!st) st = lora__adapter_new(base, &lora__kind_lora, settings, lora__get_string(settings, params, "name"), chosen, &j.to);
	if (!st) st = lora__each_site(j.ctx, (int64_t)(base->n - base->n_tables), bytes, do_site, &j);
	if (st && j.to) {
		j.to->settings = NULL; /* still the caller's */
		lora__adapter_release(j.to);
	}
	if (!st) {
		*out = j.to;
		if (norms) memcpy(norms, j.norms, (base->n - base->n_tables) * sizeof *norms);
		if (errors) memcpy(errors, j.errors, (base->n - base->n_tables) * sizeof *errors);
	}
	lora__free(j.ctx, chosen);
	lora__free(j.ctx, room);
	return st;
}
