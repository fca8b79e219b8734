/* An optimizer with its state: one block per slot, the step count, and the update over all parameters. */
#include <math.h>

#include "optim/optim.h"

enum { PIECE = 1 << 16 }; /* gradients that are not F32 are converted in pieces of this many elements */

static const lora__optim *find(const char *name)
{
	for (int i = 0; lora__optims[i]; i++)
		if (strcmp(lora__optims[i]->m.name, name) == 0) return lora__optims[i];
	return NULL;
}

static lora_status unknown(lora_context *ctx, const char *name)
{
	const char *names[64];
	size_t n = 0;
	for (; lora__optims[n] && n < 64; n++) names[n] = lora__optims[n]->m.name;
	const char *near = lora__nearest(name, names, n);
	return lora__fail_at(ctx, LORA_E_NOTFOUND, "optimizer", name, -1, "there is no optimizer \"%s\"%s%s%s", lora__quote(name).text,
		near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
}

json_t *lora__settings_in_force(lora_context *ctx, const lora_settings *s, const lora__param *table)
{
	json_t *all = json_object();
	int bad = !all;
	for (const lora__param *p = table; p && p->name && !bad; p++) {
		json_t *v;
		if (!lora__has(s, p->name) && !p->def) v = json_null();
		else if (p->type == LORA__FLOAT) v = json_real(lora__get_float(s, table, p->name));
		else if (p->type == LORA__INT) v = json_integer(lora__get_int(s, table, p->name));
		else if (p->type == LORA__BOOL) v = json_boolean(lora__get_bool(s, table, p->name));
		else if (p->type == LORA__STRING) v = json_string(lora__get_string(s, table, p->name));
		else v = json_incref((json_t *)(uintptr_t)lora__get_json(s, p->name));
		bad = !v || json_object_set_new(all, p->name, v);
	}
	if (!bad) return all;
	json_decref(all);
	lora__fail(ctx, LORA_E_MEMORY, "settings", "out of memory");
	return NULL;
}

lora_status lora__opt_create(lora_context *ctx, const char *name, const lora_settings *settings, size_t n, lora_dtype grad_type, lora__opt **out)
{
	const lora__optim *kind = find(name);
	if (!kind) return unknown(ctx, name);
	lora_status st = lora__settings_check(ctx, settings, kind->m.name, kind->m.params, NULL, NULL);
	if (st) return st;
	lora__opt *o = lora__zalloc(ctx, sizeof *o);
	if (!o) return LORA_E_MEMORY;
	o->ctx = ctx, o->kind = kind, o->n = (int64_t)n;
	if (!(o->settings = lora__settings_in_force(ctx, settings, kind->m.params))) st = LORA_E_MEMORY;
	if (st == LORA_OK) st = kind->read(ctx, settings, o->hyper, &o->n_slots);
	for (int i = 0; i < o->n_slots && st == LORA_OK; i++)
		if (!(o->slot[i] = lora__calloc(ctx, n, sizeof(float)))) st = LORA_E_MEMORY;
	if (st == LORA_OK && grad_type != LORA_F32 && !(o->piece = lora__calloc(ctx, PIECE, sizeof(float)))) st = LORA_E_MEMORY;
	if (st) lora__opt_destroy(o);
	else *out = o;
	return st;
}

void lora__opt_destroy(lora__opt *o)
{
	if (!o) return;
	lora_context *ctx = o->ctx;
	for (int i = 0; i < LORA__OPTIM_SLOTS; i++) lora__free(ctx, o->slot[i]);
	lora__free(ctx, o->piece);
	json_decref(o->settings);
	lora__free(ctx, o);
}

lora_status lora__opt_sumsq(lora_context *ctx, const void *g, lora_dtype type, size_t n, double *out)
{
	lora_call c = { .struct_size = sizeof c, .prim = LORA_PRIM_SUMSQ, .n_views = 2 };
	c.v[0] = lora__view1(out, LORA_F64, 1), c.v[1] = lora__view1(g, type, (int64_t)n);
	*out = 0;
	return n ? lora__run(ctx, &c) : LORA_OK;
}

lora_status lora__opt_range(lora__opt *o, float *p, const void *g, lora_dtype type, double lr_scale, double grad_factor, int64_t first, int64_t n, int64_t t)
{
	lora__update u = { .ctx = o->ctx, .t = t, .lr = o->hyper[0] * lr_scale, .grad_factor = grad_factor, .hyper = o->hyper };
	int64_t step = type == LORA_F32 ? n : PIECE;
	for (int64_t at = first; at < first + n; at += step) {
		u.n = first + n - at < step ? first + n - at : step;
		u.p = p + at;
		for (int i = 0; i < o->n_slots; i++) u.slot[i] = o->slot[i] + at;
		u.g = o->piece;
		if (type == LORA_F32) u.g = (const float *)g + at;
		else lora__convert(o->piece, LORA_F32, (const char *)g + (size_t)at * lora__dtype_size(type), type, (size_t)u.n);
		lora_status st = o->kind->step(&u);
		if (st) return st;
	}
	return LORA_OK;
}

lora_status lora__opt_step(lora__opt *o, float *p, const void *g, lora_dtype type, double lr_scale, double grad_factor)
{
	lora_status st = lora__opt_range(o, p, g, type, lr_scale, grad_factor, 0, o->n, o->t + 1);
	if (st == LORA_OK) o->t++;
	return st;
}
