/* The set of sites of a model, and attaching slots to them. */
#include "site/site.h"

#include <string.h>

size_t lora__site_bytes(const lora__site *s)
{
	return s->flags & LORA_SITE_EMBEDDING ? (size_t)s->in * lora__dtype_row(s->dtype, s->out) : (size_t)s->out * lora__dtype_row(s->dtype, s->in);
}

lora_view lora__site_weight(const lora__site *s)
{
	if (s->flags & LORA_SITE_TRANSPOSED) return lora__view_t(lora__view2(s->data, s->dtype, s->in, s->out, s->out));
	return lora__view2(s->data, s->dtype, s->out, s->in, s->in);
}

int32_t lora__site_layer_of(const char *name)
{
	for (const char *p = name; *p; p++) {
		if (p != name && p[-1] != '.') continue;
		int64_t v = 0;
		const char *q = p;
		for (; *q >= '0' && *q <= '9' && v < 1000000; q++) v = v * 10 + (*q - '0');
		if (q != p && (*q == '.' || *q == 0)) return (int32_t)v;
	}
	return -1;
}

static lora_status check(lora_context *ctx, const lora_site_info *d)
{
	uint64_t n;
	if (!d->name || !*d->name) return lora__fail(ctx, LORA_E_ARGUMENT, "site", "a site needs a name");
	if (!lora__utf8_valid(d->name, strlen(d->name), NULL)) return lora__fail(ctx, LORA_E_ARGUMENT, "site", "the name of a site is not UTF-8");
	int64_t block;
	int table = (d->flags & LORA_SITE_EMBEDDING) != 0;
	int quant = lora__dtype_block(d->dtype, &block, NULL) && !(d->flags & LORA_SITE_HOST) && (table || !(d->flags & LORA_SITE_TRANSPOSED));
	if (!quant && !lora__dtype_is_float(d->dtype))
		return lora__fail_at(ctx, LORA_E_DTYPE, "site", d->name, -1, "site %s: dtype %s, need F32, F16 or BF16", lora__quote(d->name).text,
			lora__dtype_name(d->dtype));
	if (d->out <= 0 || d->in <= 0 || !lora__mul_u64((uint64_t)d->out, (uint64_t)d->in, &n) || n > INT64_MAX / 16)
		return lora__fail_at(ctx, LORA_E_SHAPE, "site", d->name, -1, "site %s: shape [%lld,%lld] is empty or too large", lora__quote(d->name).text,
			(long long)d->out, (long long)d->in);
	if (quant && (table ? d->out : d->in) % block)
		return lora__fail_at(ctx, LORA_E_SHAPE, "site", d->name, -1, "site %s: %lld columns are no whole number of blocks", lora__quote(d->name).text, (long long)d->in);
	if (!d->data) return lora__fail_at(ctx, LORA_E_ARGUMENT, "site", d->name, -1, "site %s: data is NULL", lora__quote(d->name).text);
	if (d->flags & ~(uint32_t)(LORA_SITE_READONLY | LORA_SITE_TRANSPOSED | LORA_SITE_HOST | LORA_SITE_MAPPED | LORA_SITE_EMBEDDING))
		return lora__fail_at(ctx, LORA_E_ARGUMENT, "site", d->name, -1, "site %s: unknown flags", lora__quote(d->name).text);
	if ((d->flags & LORA_SITE_HOST) && (uintptr_t)d->data % lora__dtype_size(d->dtype))
		return lora__fail_at(ctx, LORA_E_ARGUMENT, "site", d->name, -1, "site %s: data is not aligned to its type", lora__quote(d->name).text);
	return LORA_OK;
}

lora_status lora__sites_add(lora__sites *s, const lora_site_info *d, lora__site **out)
{
	lora_status st = check(s->ctx, d);
	if (st) return st;
	if (lora__sites_find(s, d->name))
		return lora__fail_at(s->ctx, LORA_E_EXISTS, "site", d->name, -1, "there is a site %s already", lora__quote(d->name).text);
	if ((st = lora__grow(s->ctx, &s->list, &s->cap, s->n + 1, sizeof *s->list))) return st;
	lora__site *t = lora__zalloc(s->ctx, sizeof *t);
	if (!t) return LORA_E_MEMORY;
	if (!(t->name = lora__strdup(s->ctx, d->name)) || lora__map_add(&s->by_name, t->name, strlen(t->name), (int64_t)s->n, NULL)) {
		lora__free(s->ctx, t->name);
		lora__free(s->ctx, t);
		return LORA_E_MEMORY;
	}
	t->layer = d->layer >= 0 ? d->layer : lora__site_layer_of(d->name);
	t->index = (int32_t)s->n;
	t->out = d->out, t->in = d->in, t->dtype = d->dtype, t->flags = d->flags;
	t->base = t->data = d->data;
	t->all = s;
	s->list[s->n++] = t;
	s->generation++;
	if (out) *out = t;
	return LORA_OK;
}

void lora__sites_free(lora__sites *s)
{
	for (size_t i = 0; i < s->n; i++) {
		lora__site_unpack(s->list[i], s->ctx);
		lora__free(s->ctx, s->list[i]->name);
		lora__free(s->ctx, s->list[i]->param);
		lora__free(s->ctx, s->list[i]->spare);
		lora__free(s->ctx, s->list[i]->chain);
		lora__free(s->ctx, s->list[i]);
	}
	lora__free(s->ctx, s->list);
	lora__free(s->ctx, s->virtuals);
	lora__map_free(&s->by_name);
	s->list = NULL, s->n = s->cap = 0;
}

void lora__sites_retain(lora__sites *s) { atomic_fetch_add(&s->refs, 1); }

void lora__sites_release(lora__sites *s)
{
	if (atomic_fetch_sub(&s->refs, 1) == 1) s->destroy(s);
}

lora__site *lora__sites_find(const lora__sites *s, const char *name)
{
	int64_t i = lora__map_find(&s->by_name, name, strlen(name));
	return i < 0 ? NULL : s->list[i];
}

lora_status lora__site_attach(lora__sites *all, lora__site *s, lora__slot *slot)
{
	lora_status st = lora__grow(all->ctx, &s->chain, &s->cap_chain, s->n_chain + 1, sizeof *s->chain);
	if (st) return st;
	s->chain[s->n_chain++] = slot;
	all->generation++;
	return LORA_OK;
}

void lora__site_detach(lora__sites *all, lora__site *s, lora__slot *slot)
{
	for (size_t i = 0; i < s->n_chain; i++) {
		if (s->chain[i] != slot) continue;
		memmove(s->chain + i, s->chain + i + 1, (s->n_chain - i - 1) * sizeof *s->chain);
		s->n_chain--;
		all->generation++;
		return;
	}
}

lora_status lora__site_prepare(lora__site *s)
{
	lora_status st = LORA_OK;
	for (size_t i = 0; i < s->n_chain && st == LORA_OK; i++)
		if (s->chain[i]->trainable && !s->chain[i]->merged && s->chain[i]->ops->prepare) st = s->chain[i]->ops->prepare(s->chain[i]);
	return st;
}

lora_status lora__site_gradient(lora__slot *slot, const lora__site_call *c, int role, double f, lora_view left, lora_view right, lora_view grad)
{
	lora__tap *tap = slot->site->all->tap;
	return tap ? tap->take(tap, slot, role, f, left, right, c->first_row) : lora__gemm(c->ctx, f, lora__view_t(left), right, 1.0, grad);
}

int lora__site_trains(const lora__site *s)
{
	for (size_t i = 0; i < s->n_chain; i++)
		if (s->chain[i]->trainable && !s->chain[i]->merged) return 1;
	return 0;
}
