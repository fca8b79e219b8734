/* Attached virtual tokens, their values and gradients. With vertices P_1 .. P_m and weights w: P = sum w_k P_k, dP_k = w_k dP.
 * Weights of Dirichlet(1, ..., 1) are exponential draws over their sum.
 * Source: Li & Liang 2021, arXiv:2101.00190; vertices: Falissard et al. 2023, arXiv:2310.15793. */
#include "site/virtual.h"

#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "tensor/dtype.h"

enum { CHUNK = 256 };

lora_status lora__virtual_attach(lora__sites *all, lora__virtual *v)
{
	lora_status st = lora__grow(all->ctx, &all->virtuals, &all->cap_virtuals, all->n_virtuals + 1, sizeof *all->virtuals);
	if (st) return st;
	all->virtuals[all->n_virtuals++] = v;
	v->draws = 0;
	all->generation++;
	return LORA_OK;
}

void lora__virtual_detach(lora__sites *all, lora__virtual *v)
{
	for (size_t i = 0; i < all->n_virtuals; i++) {
		if (all->virtuals[i] != v) continue;
		memmove(all->virtuals + i, all->virtuals + i + 1, (all->n_virtuals - i - 1) * sizeof *all->virtuals);
		all->n_virtuals--;
		all->generation++;
		return;
	}
}

int lora__virtual_any(const lora__sites *all, int where)
{
	for (size_t i = 0; i < all->n_virtuals; i++)
		if (all->virtuals[i]->where == where) return 1;
	return 0;
}

int lora__virtual_trains(const lora__sites *all, int where)
{
	for (size_t i = 0; i < all->n_virtuals; i++)
		if ((where < 0 || all->virtuals[i]->where == where) && all->virtuals[i]->trainable) return 1;
	return 0;
}

int64_t lora__virtual_tokens(const lora__sites *all, int where, const lora_adapter *who, int every)
{
	int64_t n = 0;
	for (size_t i = 0; i < all->n_virtuals; i++)
		if (all->virtuals[i]->where == where && lora__virtual_acts(all->virtuals[i], who, every)) n += all->virtuals[i]->tokens;
	return n;
}

const lora_adapter *lora__virtual_whose(const lora__runs *runs, int64_t row, int *every)
{
	*every = !runs || !runs->n;
	for (int64_t i = 0; runs && i < runs->n; i++) {
		if (row < runs->run[i].first || row >= runs->run[i].first + runs->run[i].n) continue;
		*every = runs->run[i].all;
		return runs->run[i].adapter;
	}
	return NULL;
}

lora_status lora__virtual_prepare(lora__sites *all, int backward)
{
	lora_status st = LORA_OK;
	for (size_t i = 0; i < all->n_virtuals && st == LORA_OK; i++) {
		lora__virtual *v = all->virtuals[i];
		v->draws++;
		if (v->prepare) st = v->prepare(v, backward && v->trainable);
	}
	return st;
}

lora_status lora__virtual_finish(lora__sites *all)
{
	lora_status st = LORA_OK;
	for (size_t i = 0; i < all->n_virtuals && st == LORA_OK; i++)
		if (all->virtuals[i]->trainable && all->virtuals[i]->finish) st = all->virtuals[i]->finish(all->virtuals[i]);
	return st;
}

void lora__virtual_weights(const lora__virtual *v, int train, uint64_t key, int64_t sequence, int64_t layer, double *weight)
{
	double sum = 0;
	int draw = train ? v->trainable : v->sampled;
	lora__rng r;
	for (int64_t k = 0; k < v->vertices; k++) weight[k] = 1.0 / (double)v->vertices;
	if (v->vertices < 2 || !draw) return;
	lora__rng_init(&r, lora__rng_key(lora__rng_key(train ? key : lora__rng_key(v->seed, LORA__RNG_VERTICES, v->draws), LORA__RNG_VERTICES, (uint64_t)sequence),
		LORA__RNG_VERTICES, (uint64_t)layer));
	for (int64_t k = 0; k < v->vertices; k++) sum += weight[k] = -log1p(-lora__rng_uniform(&r));
	for (int64_t k = 0; k < v->vertices; k++) weight[k] = sum > 0 ? weight[k] / sum : 1.0 / (double)v->vertices;
}

void lora__virtual_read(const lora__virtual *v, const double *weight, int64_t t, int64_t at, int64_t n, lora_dtype real, void *to)
{
	size_t each = lora__dtype_size(v->dtype);
	double sum[CHUNK], one[CHUNK];
	for (int64_t i = 0; i < n; i += CHUNK) {
		int64_t some = n - i < CHUNK ? n - i : CHUNK;
		for (int64_t k = 0; k < v->vertices; k++) {
			lora__convert(one, LORA_F64, (const char *)v->values + (size_t)((k * v->tokens + t) * v->width + at + i) * each, v->dtype, (size_t)some);
			for (int64_t j = 0; j < some; j++) sum[j] = (k ? sum[j] : 0.0) + (v->vertices > 1 ? weight[k] : 1.0) * one[j];
		}
		lora__convert((char *)to + (size_t)i * lora__dtype_size(real), real, sum, LORA_F64, (size_t)some);
	}
}

void lora__virtual_add(const lora__virtual *v, const double *weight, int64_t t, int64_t at, int64_t n, lora_dtype real, const void *from)
{
	lora_dtype wide = lora__wide(real);
	double one[CHUNK];
	for (int64_t i = 0; i < n; i += CHUNK) {
		int64_t some = n - i < CHUNK ? n - i : CHUNK;
		lora__convert(one, LORA_F64, (const char *)from + (size_t)i * lora__dtype_size(real), real, (size_t)some);
		for (int64_t k = 0; k < v->vertices; k++) {
			size_t first = (size_t)((k * v->tokens + t) * v->width + at + i);
			double f = v->vertices > 1 ? weight[k] : 1.0;
			if (wide == LORA_F64) for (int64_t j = 0; j < some; j++) ((double *)(void *)v->grads)[first + (size_t)j] += f * one[j];
			else for (int64_t j = 0; j < some; j++) ((float *)(void *)v->grads)[first + (size_t)j] += (float)(f * one[j]);
		}
	}
}
