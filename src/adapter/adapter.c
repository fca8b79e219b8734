/* An adapter's memory: its parts, one per site, and all parameters and gradients in one block each, so that an optimizer sees flat arrays. */
#include "adapter/adapter.h"

#include <stdio.h>
#include <string.h>

static int64_t dim_of(const lora__part *p, int8_t which)
{
	return which == LORA__DIM_RANK ? p->rank : which == LORA__DIM_IN ? p->slot.site->in : p->slot.site->out;
}

static size_t n_roles(const lora__kind *k)
{
	size_t n = 0;
	while (k->roles[n].leaf) n++;
	return n;
}

static lora_status name_tensor(lora_adapter *a, lora__ptensor *t, const char *site, const char *leaf)
{
	lora__text s;
	lora__text_init(&s, a->ctx);
	lora__text_printf(&s, "base_model.model.%s.%s", site, leaf);
	t->name = s.data;
	return s.status;
}

static lora_status add_tensors(lora_adapter *a)
{
	size_t roles = n_roles(a->kind);
	if (!(a->tensors = lora__calloc(a->ctx, a->n_parts * roles, sizeof *a->tensors))) return LORA_E_MEMORY;
	for (size_t i = 0; i < a->n_parts; i++) {
		for (size_t k = 0; k < roles; k++) {
			const lora__role *role = &a->kind->roles[k];
			lora__ptensor *t = &a->tensors[a->n_tensors++];
			*t = (lora__ptensor){ .part = (int64_t)i, .role = (int32_t)k, .rank = role->rank, .offset = a->n_params };
			uint64_t n = 1;
			for (int d = 0; d < role->rank; d++) {
				t->shape[d] = dim_of(&a->parts[i], role->dim[d]);
				if (!lora__mul_u64(n, (uint64_t)t->shape[d], &n) || n > INT64_MAX / 16)
					return lora__fail(a->ctx, LORA_E_LIMIT, "adapter", "the parameters at %s are too many", a->parts[i].slot.site->name);
			}
			t->n = (size_t)n;
			a->n_params += t->n;
			lora_status st = name_tensor(a, t, a->parts[i].slot.site->name, role->leaf);
			if (st) return st;
		}
	}
	return LORA_OK;
}

static lora_status add_memory(lora_adapter *a)
{
	if (!(a->params = lora__calloc(a->ctx, a->n_params, sizeof *a->params))) return LORA_E_MEMORY;
	for (size_t i = 0; i < a->n_tensors; i++) a->parts[a->tensors[i].part].param[a->tensors[i].role] = a->params + a->tensors[i].offset;
	return LORA_OK;
}

lora_status lora__adapter_need_grads(lora_adapter *a)
{
	if (a->grads) return LORA_OK;
	size_t each = lora__dtype_size(lora__wide(a->sites->real));
	if (!(a->grads = lora__calloc(a->ctx, a->n_params, each))) return LORA_E_MEMORY;
	for (size_t i = 0; i < a->n_tensors; i++) a->parts[a->tensors[i].part].grad[a->tensors[i].role] = a->grads + a->tensors[i].offset * each;
	return LORA_OK;
}

lora_status lora__adapter_new(lora__sites *sites, const lora__kind *kind, lora_settings *settings, const char *name, const char *chosen,
                              lora_adapter **out)
{
	lora_context *ctx = sites->ctx;
	lora_adapter *a = lora__zalloc(ctx, sizeof *a);
	lora_status st = LORA_OK;
	if (!a) return LORA_E_MEMORY;
	a->ctx = ctx, a->kind = kind, a->trainable = 1, a->scale = 1;
	atomic_init(&a->refs, 1);
	a->sites = sites;
	lora__sites_retain(sites);
	a->id = atomic_fetch_add(&ctx->next_id, 1) + 1;
	if (!(a->name = lora__strdup(ctx, name))) st = LORA_E_MEMORY;
	size_t n = 0;
	for (size_t i = 0; i < sites->n; i++) n += chosen[i] != 0;
	if (st == LORA_OK && !(a->parts = lora__calloc(ctx, n, sizeof *a->parts))) st = LORA_E_MEMORY;
	for (size_t i = 0; i < sites->n && st == LORA_OK; i++) {
		if (!chosen[i]) continue;
		lora__part *p = &a->parts[a->n_parts++];
		p->slot = (lora__slot){ .ops = kind->ops, .adapter = a, .site = sites->list[i], .attach_scale = 1, .trainable = 1 };
		st = kind->configure(ctx, settings, p);
	}
	if (st == LORA_OK) st = add_tensors(a);
	if (st == LORA_OK) st = add_memory(a);
	if (st) {
		lora__adapter_release(a);
		return st;
	}
	a->settings = settings;
	*out = a;
	return LORA_OK;
}

void lora__adapter_retain(lora_adapter *a) { atomic_fetch_add(&a->refs, 1); }

void lora__adapter_release(lora_adapter *a)
{
	if (atomic_fetch_sub(&a->refs, 1) != 1) return;
	lora_context *ctx = a->ctx;
	if (a->merged && a->unmerge(a)) {
		lora__adapter_retain(a); /* its delta is in the weights: its parameters must stay */
		return;
	}
	if (a->attached) lora__adapter_detach(a);
	for (size_t i = 0; i < a->n_tensors; i++) lora__free(ctx, a->tensors[i].name);
	lora__free(ctx, a->tensors);
	lora__free(ctx, a->parts);
	lora__free(ctx, a->params);
	lora__free(ctx, a->grads);
	lora__free(ctx, a->name);
	json_decref(a->extra);
	lora_settings_destroy(a->settings);
	lora__sites *sites = a->sites;
	lora__free(ctx, a);
	lora__sites_release(sites); /* last: it may be what keeps the context */
}

int64_t lora__adapter_part_of(const lora_adapter *a, const lora__site *site)
{
	for (size_t i = 0; i < a->n_parts; i++)
		if (a->parts[i].slot.site == site) return (int64_t)i;
	return -1;
}

void lora__adapter_set_scale(lora_adapter *a, double scale)
{
	a->scale = scale;
	for (size_t i = 0; i < a->n_parts; i++) a->parts[i].slot.attach_scale = scale;
}

lora_status lora__adapter_attach(lora_adapter *a, double scale)
{
	size_t n = 0;
	lora_status st = LORA_OK;
	for (; n < a->n_parts && st == LORA_OK; n++) st = lora__site_attach(a->sites, a->parts[n].slot.site, &a->parts[n].slot);
	if (st) {
		for (size_t i = 0; i < n; i++) lora__site_detach(a->sites, a->parts[i].slot.site, &a->parts[i].slot);
		return st;
	}
	lora__adapter_set_scale(a, scale);
	a->attached = 1;
	return LORA_OK;
}

void lora__adapter_detach(lora_adapter *a)
{
	for (size_t i = 0; i < a->n_parts; i++) lora__site_detach(a->sites, a->parts[i].slot.site, &a->parts[i].slot);
	lora__adapter_set_scale(a, 1.0);
	a->attached = 0;
}
