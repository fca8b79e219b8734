/* An adapter's memory: its parts, one per site, and all parameters and gradients in one block each, so that an optimizer sees flat arrays. */
#include "adapter/adapter.h"

#include <stdio.h>
#include <string.h>

/* Sizes of the tensor that a part has its role in: for a part of a parameter, of all experts together. */
static int64_t dim_of(const lora__part *p, int8_t which)
{
	const lora__site *s = p->slot.site;
	int shared = p->how == LORA__PARAMETER;
	if (which == LORA__DIM_RANK) return shared ? p->rank * s->param_n : p->rank;
	return which == LORA__DIM_IN ? s->in : shared ? s->param_out : s->out;
}

static const lora__role *roles_of(const lora_adapter *a, const lora__part *p)
{
	static const lora__role whole[] = { { "weight", 2, { LORA__DIM_OUT, LORA__DIM_IN } }, { "bias", 1, { LORA__DIM_OUT } }, { 0 } };
	static const lora__role bare[] = { { "weight", 2, { LORA__DIM_OUT, LORA__DIM_IN } }, { 0 } };
	if (lora__part_is_table(p)) return a->kind->table_roles;
	return p->how != LORA__WHOLE ? a->kind->roles : p->slot.site->bias.data ? whole : bare;
}

static size_t n_roles(const lora__role *r)
{
	size_t n = 0;
	while (r[n].leaf) n++;
	return n;
}

/* The part before this one that has its tensors already, or NULL. */
static const lora__part *sharer(const lora_adapter *a, const lora__part *p)
{
	if (p->how != LORA__PARAMETER) return NULL;
	for (const lora__part *q = p; q-- > a->parts;)
		if (q->how == LORA__PARAMETER && strcmp(q->slot.site->param, p->slot.site->param) == 0) return q;
	return NULL;
}

/* Where this part's share begins and how it lies. Stacked: rows of A expert by expert; columns of B with the expert's number running fastest
 * (PEFT's ParamWrapper). */
static void place(lora__part *p, const lora__role *role, int k, const lora__ptensor *t)
{
	const lora__site *s = p->slot.site;
	p->stride[k][0] = t->rank == 2 ? t->shape[1] : 1, p->stride[k][1] = 1;
	p->at[k] = t->offset;
	if (p->how != LORA__PARAMETER) return;
	if (role->dim[0] == LORA__DIM_RANK) p->at[k] += (size_t)(s->param_at * p->rank * t->shape[1]);
	else p->at[k] += (size_t)(s->param_row * t->shape[1] + s->param_at), p->stride[k][1] = s->param_n;
}

static lora_status add_tensor(lora_adapter *a, const lora__part *p, const lora__role *role, int k, const char *module)
{
	lora__ptensor *t = &a->tensors[a->n_tensors++];
	lora__text name;
	uint64_t n = 1;
	*t = (lora__ptensor){ .part = p - a->parts, .role = k, .rank = role->rank, .offset = a->n_params };
	for (int d = 0; d < role->rank; d++) {
		t->shape[d] = dim_of(p, role->dim[d]);
		if (!lora__mul_u64(n, (uint64_t)t->shape[d], &n) || n > INT64_MAX / 16)
			return lora__fail(a->ctx, LORA_E_LIMIT, "adapter", "the parameters at %s are too many", p->slot.site->name);
	}
	t->n = (size_t)n;
	a->n_params += t->n;
	lora__text_init(&name, a->ctx);
	lora__text_printf(&name, "base_model.model.%s.%s", module, role->leaf);
	t->name = name.data;
	return name.status;
}

static lora_status add_tensors(lora_adapter *a, const char *chosen)
{
	lora__text module;
	lora_status st = LORA_OK;
	size_t most = n_roles(a->kind->roles) > 2 ? n_roles(a->kind->roles) : 2;
	if (!(a->tensors = lora__calloc(a->ctx, a->n_parts * most, sizeof *a->tensors))) return LORA_E_MEMORY;
	for (size_t i = 0; i < a->n_parts && st == LORA_OK; i++) {
		lora__part *p = &a->parts[i];
		const lora__part *with = sharer(a, p);
		const lora__role *role = roles_of(a, p);
		lora__text_init(&module, a->ctx);
		if (!with) st = lora__target_module(a->sites, chosen, (size_t)p->slot.site->index, &module);
		for (int k = 0; role[k].leaf && st == LORA_OK; k++) {
			if (!with) st = add_tensor(a, p, &role[k], k, module.data);
			const lora__ptensor *t = with ? &a->tensors[with->tensor[k]] : &a->tensors[a->n_tensors - 1];
			place(p, &role[k], k, t);
			p->tensor[k] = (int32_t)(t - a->tensors);
		}
		lora__text_free(&module);
	}
	return st;
}

static lora_status add_memory(lora_adapter *a)
{
	if (!(a->params = lora__calloc(a->ctx, a->n_params, sizeof *a->params))) return LORA_E_MEMORY;
	for (size_t i = 0; i < a->n_parts; i++)
		for (int k = 0; k < LORA__MAX_ROLES; k++)
			if (a->parts[i].tensor[k] >= 0) a->parts[i].param[k] = a->params + a->parts[i].at[k];
	return LORA_OK;
}

lora_status lora__adapter_need_grads(lora_adapter *a)
{
	if (a->grads) return LORA_OK;
	size_t each = lora__dtype_size(lora__wide(a->sites->real));
	if (!(a->grads = lora__calloc(a->ctx, a->n_params, each))) return LORA_E_MEMORY;
	for (size_t i = 0; i < a->n_parts; i++)
		for (int k = 0; k < LORA__MAX_ROLES; k++)
			if (a->parts[i].tensor[k] >= 0) a->parts[i].grad[k] = a->grads + a->parts[i].at[k] * each;
	return LORA_OK;
}

static lora_status add_part(lora_adapter *a, lora__site *site, int how, const lora_settings *settings)
{
	lora__part *p = &a->parts[a->n_parts++];
	p->slot = (lora__slot){ .ops = how == LORA__WHOLE ? &lora__whole_ops : a->kind->ops, .adapter = a, .site = site, .attach_scale = 1, .trainable = 1,
		.whole = how == LORA__WHOLE };
	p->how = how;
	for (int k = 0; k < LORA__MAX_ROLES; k++) p->tensor[k] = -1;
	if (how == LORA__WHOLE && (site->flags & LORA_SITE_HOST))
		return lora__fail_at(a->ctx, LORA_E_UNSUPPORTED, "adapter", "modules_to_save", -1, "modules_to_save: %s is a weight of the host", site->name);
	if (how == LORA__WHOLE) return LORA_OK;
	if (lora__part_is_table(p) && !a->kind->table_ops)
		return lora__fail_at(a->ctx, LORA_E_UNSUPPORTED, "adapter", "target_modules", -1, "target_modules: %s is an embedding, where %s does not go", site->name, a->kind->m.name);
	if (lora__part_is_table(p)) p->slot.ops = a->kind->table_ops;
	lora_status st = a->kind->configure(a->ctx, settings, p);
	if (st == LORA_OK && how == LORA__PARAMETER && p->dropout > 0)
		st = lora__fail_at(a->ctx, LORA_E_UNSUPPORTED, "adapter", "lora_dropout", -1, "lora_dropout does not go with target_parameters (as in PEFT)");
	return st;
}

/* Modules to be trained as a whole begin as they are in the base. */
static void copy_base(lora_adapter *a)
{
	for (size_t i = 0; i < a->n_parts; i++) {
		lora__part *p = &a->parts[i];
		const lora__site *s = p->slot.site;
		if (p->how != LORA__WHOLE) continue;
		if (lora__site_is_quant(s)) {
			lora__site_rows(s, s->data, 0, s->out, LORA_F32, p->param[0]);
			if (p->tensor[1] >= 0) lora__convert(p->param[1], LORA_F32, s->bias.data, s->bias.dtype, (size_t)s->out);
			continue;
		}
		lora_view from = lora__site_weight(s);
		for (int64_t r = 0; r < s->out; r++)
			for (int64_t c = 0; from.stride[1] != 1 && c < s->in; c++)
				lora__convert(p->param[0] + r * s->in + c, LORA_F32, (const char *)from.data + lora__dtype_size(s->dtype) * (size_t)(r + c * from.stride[1]), s->dtype, 1);
		if (from.stride[1] == 1) lora__convert(p->param[0], LORA_F32, from.data, s->dtype, (size_t)(s->out * s->in));
		if (p->tensor[1] >= 0) lora__convert(p->param[1], LORA_F32, s->bias.data, s->bias.dtype, (size_t)s->out);
	}
}

lora_status lora__adapter_blank(lora__sites *sites, const lora__kind *kind, const char *name, lora_adapter **out)
{
	lora_context *ctx = sites->ctx;
	lora_adapter *a = lora__zalloc(ctx, sizeof *a);
	if (!a || !(a->name = lora__strdup(ctx, name))) {
		lora__free(ctx, a);
		return LORA_E_MEMORY;
	}
	a->ctx = ctx, a->kind = kind, a->trainable = 1, a->scale = 1;
	atomic_init(&a->refs, 1);
	a->sites = sites;
	lora__sites_retain(sites);
	a->id = atomic_fetch_add(&ctx->next_id, 1) + 1;
	*out = a;
	return LORA_OK;
}

lora_status lora__adapter_new(lora__sites *sites, const lora__kind *kind, lora_settings *settings, const char *name, const char *chosen,
                              lora_adapter **out)
{
	lora_context *ctx = sites->ctx;
	lora_adapter *a;
	lora_status st = lora__adapter_blank(sites, kind, name, &a);
	if (st) return st;
	size_t n = 0;
	for (size_t i = 0; i < sites->n; i++) n += chosen[i] != 0;
	if (st == LORA_OK && !(a->parts = lora__calloc(ctx, n, sizeof *a->parts))) st = LORA_E_MEMORY;
	for (size_t i = 0; i < sites->n && st == LORA_OK; i++) {
		if (chosen[i]) st = add_part(a, sites->list[i], chosen[i], settings);
	}
	if (st == LORA_OK) st = add_tensors(a, chosen);
	if (st == LORA_OK) st = add_memory(a);
	if (st == LORA_OK) copy_base(a);
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
	lora__free(ctx, a->tokens);
	lora__free(ctx, a->encoder);
	lora__adapter_changed(a);
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
	if (a->tokens && scale != 1)
		return lora__fail_at(a->ctx, LORA_E_UNSUPPORTED, "adapter", "scale", -1, "kind %s takes no scale other than 1", a->kind->m.name);
	if (a->tokens && (st = lora__virtual_attach(a->sites, a->tokens))) return st;
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
	if (a->tokens) lora__virtual_detach(a->sites, a->tokens);
	lora__adapter_set_scale(a, 1.0);
	a->attached = 0;
}
