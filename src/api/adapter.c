/* Exported functions of adapter.h. */
#include <math.h>
#include <string.h>

#include "api/prompt_text.h"
#include "merge/merge.h"
#include "model/model.h"

lora_status lora_merge_options_init(lora_merge_options *opts, size_t size)
{
	if (!opts || size < offsetof(lora_merge_options, reserved)) return LORA_E_ARGUMENT;
	lora_merge_options o = { .struct_size = (uint32_t)size, .scale = 1.0 };
	memset(opts, 0, size);
	memcpy(opts, &o, size < sizeof o ? size : sizeof o);
	return LORA_OK;
}

static const char *nearest_kind(const char *kind)
{
	const char *names[64];
	size_t n = 0;
	for (; lora__kinds[n] && n < 64; n++) names[n] = lora__kinds[n]->m.name;
	const char *near = lora__nearest(kind, names, n);
	return near ? near : names[0];
}

static lora_status create(lora_model *m, const lora__kind *kind, lora_settings *settings, lora_adapter **out)
{
	lora_context *ctx = m->s.ctx;
	char *chosen = lora__zalloc(ctx, m->s.n + 1);
	size_t n;
	lora_adapter *a = NULL;
	lora_status st = chosen ? lora__target_sites(ctx, &m->s, settings, chosen, &n) : LORA_E_MEMORY;
	if (st == LORA_OK) st = lora__adapter_new(&m->s, kind, settings, lora__get_string(settings, kind->m.params, "name"), chosen, &a);
	lora__free(ctx, chosen);
	for (size_t i = 0; st == LORA_OK && i < a->n_parts; i++) {
		lora__rng r;
		lora__rng_init(&r, lora__rng_key((uint64_t)lora__get_int(settings, kind->m.params, "seed"), LORA__RNG_INIT, i));
		if (a->parts[i].how != LORA__WHOLE) st = kind->init(ctx, settings, &a->parts[i], &r);
	}
	if (st && a) {
		a->settings = NULL; /* still the caller's */
		lora__adapter_release(a);
	} else if (st == LORA_OK) *out = a;
	return st;
}

lora_status lora_adapter_create(lora_model *m, const char *kind, const lora_settings *settings, lora_adapter **out)
{
	lora_settings *own = NULL;
	if (out) *out = NULL;
	if (!m) return LORA_E_ARGUMENT;
	lora_context *ctx = m->s.ctx;
	if (!kind || !out) return lora__fail(ctx, LORA_E_ARGUMENT, "adapter", "lora_adapter_create: %s is NULL", kind ? "out" : "kind");
	const lora__kind *k = lora__kind_find(kind);
	if (!k) return lora__fail_at(ctx, LORA_E_NOTFOUND, "adapter", kind, -1, "there is no adapter kind \"%s\" (did you mean \"%s\"?)", lora__quote(kind).text, nearest_kind(kind));
	lora_status st = k->refuse ? k->refuse(ctx, settings, 0) : LORA_OK;
	if (st == LORA_OK) st = lora__settings_check(ctx, settings, kind, k->m.params, NULL, NULL);
	if (st == LORA_OK) st = lora__settings_copy(ctx, settings, &own);
	if (st == LORA_OK && k->virtual_tokens) {
		if ((st = lora__prompt_text(m, own)) == LORA_OK) st = lora__virtual_create(&m->s, k, own, out);
		if (st) lora_settings_destroy(own);
		return st;
	}
	if (st == LORA_OK) st = lora__target_complete(ctx, &m->s, k, own);
	if (st == LORA_OK) st = create(m, k, own, out);
	if (st) lora_settings_destroy(own);
	return st;
}

static lora_status load(lora_model *m, lora__peft_config *config, const lora__tensors *tensors, const lora_settings *settings, lora_adapter **out)
{
	return lora__adapter_load(&m->s, config, tensors, settings, out);
}

lora_status lora_adapter_open(lora_model *m, const char *path, const lora_settings *settings, lora_adapter **out)
{
	if (out) *out = NULL;
	if (!m) return LORA_E_ARGUMENT;
	lora_context *ctx = m->s.ctx;
	if (!path || !out) return lora__fail(ctx, LORA_E_ARGUMENT, "adapter", "lora_adapter_open: %s is NULL", path ? "out" : "path");
	if (lora__gguf_is(path)) return lora__adapter_open_gguf(&m->s, path, settings, out);
	lora__peft_config config;
	lora__tensors tensors;
	lora_status st = lora__peft_open(ctx, path, &config, &tensors);
	if (st) return st;
	if ((st = load(m, &config, &tensors, settings, out))) lora__fail_prefix(ctx, st, "%s: ", lora__quote(path).text);
	lora__tensors_close(&tensors);
	lora__peft_close(&config);
	return st;
}

lora_status lora_adapter_open_memory(lora_model *m, const char *config, size_t config_bytes, const void *weights, size_t weights_bytes,
                                     const lora_settings *settings, lora_adapter **out)
{
	if (out) *out = NULL;
	if (!m) return LORA_E_ARGUMENT;
	lora_context *ctx = m->s.ctx;
	if (!config || !weights || !out) return lora__fail(ctx, LORA_E_ARGUMENT, "adapter", "lora_adapter_open_memory: an argument is NULL");
	lora__peft_config c;
	lora__tensors tensors;
	lora_status st = lora__peft_parse(ctx, config, config_bytes, "adapter config", &c);
	if (st) return st;
	st = lora__safetensors_open_memory(ctx, weights, weights_bytes, "adapter weights", &tensors);
	if (st == LORA_OK) {
		st = load(m, &c, &tensors, settings, out);
		lora__tensors_close(&tensors);
	}
	lora__peft_close(&c);
	return st;
}

lora_status lora_adapter_save(lora_adapter *a, const char *path, const lora_settings *settings)
{
	if (!a) return LORA_E_ARGUMENT;
	if (!path) return lora__fail(a->ctx, LORA_E_ARGUMENT, "adapter", "lora_adapter_save: path is NULL");
	return lora__adapter_store(a, path, settings);
}

static lora_status check_scale(lora_adapter *a, double scale)
{
	return isfinite(scale) ? LORA_OK : lora__fail_at(a->ctx, LORA_E_ARGUMENT, "adapter", "scale", -1, "scale is not finite");
}

lora_status lora_adapter_attach(lora_adapter *a, double scale)
{
	if (!a) return LORA_E_ARGUMENT;
	lora_status st = check_scale(a, scale);
	if (st) return st;
	if (a->attached) return lora__fail_at(a->ctx, LORA_E_EXISTS, "adapter", a->name, -1, "the adapter is attached already");
	if (!lora__all_finite(a->params, LORA_F32, a->n_params))
		return lora__fail_at(a->ctx, LORA_E_NUMERIC, "adapter", a->name, -1, "the adapter has parameters that are not finite");
	return lora__adapter_attach(a, scale);
}

static lora_status need_attached(lora_adapter *a)
{
	if (!a->attached) return lora__fail_at(a->ctx, LORA_E_STATE, "adapter", a->name, -1, "the adapter is not attached");
	if (a->merged) return lora__fail_at(a->ctx, LORA_E_STATE, "adapter", a->name, -1, "the adapter is merged");
	return LORA_OK;
}

lora_status lora_adapter_detach(lora_adapter *a)
{
	if (!a) return LORA_E_ARGUMENT;
	lora_status st = need_attached(a);
	if (st == LORA_OK) lora__adapter_detach(a);
	return st;
}

lora_status lora_adapter_set_scale(lora_adapter *a, double scale)
{
	if (!a) return LORA_E_ARGUMENT;
	lora_status st = need_attached(a);
	if (st == LORA_OK) st = check_scale(a, scale);
	if (st == LORA_OK && a->tokens && scale != 1)
		st = lora__fail_at(a->ctx, LORA_E_UNSUPPORTED, "adapter", "scale", -1, "kind %s takes no scale other than 1", a->kind->m.name);
	if (st == LORA_OK) lora__adapter_set_scale(a, scale);
	return st;
}

lora_status lora_adapter_set_trainable(lora_adapter *a, int32_t trainable)
{
	if (!a) return LORA_E_ARGUMENT;
	if (trainable != 0 && trainable != 1) return lora__fail(a->ctx, LORA_E_ARGUMENT, "adapter", "trainable must be 0 or 1");
	a->trainable = trainable;
	for (size_t i = 0; i < a->n_parts; i++) a->parts[i].slot.trainable = trainable;
	if (a->tokens) a->tokens->trainable = trainable;
	a->sites->generation++;
	return LORA_OK;
}

lora_status lora_adapter_merge(lora_adapter *a, const lora_merge_options *opts)
{
	double scale = 1.0;
	if (!a) return LORA_E_ARGUMENT;
	if (opts) {
		lora_merge_options o = { .scale = 1.0 };
		if (opts->struct_size < offsetof(lora_merge_options, reserved)) return lora__fail(a->ctx, LORA_E_ARGUMENT, "merge", "options: struct_size is not set");
		memcpy(&o, opts, opts->struct_size < sizeof o ? opts->struct_size : sizeof o);
		if (o.flags || o.reserved[0] || o.reserved[1] || o.reserved[2] || o.reserved[3])
			return lora__fail(a->ctx, LORA_E_ARGUMENT, "merge", "options: unknown flags, or reserved members that are not zero");
		scale = o.scale;
	}
	lora_status st = check_scale(a, scale);
	if (st) return st;
	if (a->merged) return lora__fail_at(a->ctx, LORA_E_STATE, "merge", a->name, -1, "the adapter is merged already");
	if (!(a->kind->flags & LORA__KIND_MERGEABLE)) return lora__fail_at(a->ctx, LORA_E_UNSUPPORTED, "merge", a->name, -1, "kind %s cannot be merged", a->kind->m.name);
	return lora__merge_change(a, 1, scale * a->scale);
}

lora_status lora_adapter_unmerge(lora_adapter *a)
{
	if (!a) return LORA_E_ARGUMENT;
	if (!a->merged) return lora__fail_at(a->ctx, LORA_E_STATE, "merge", a->name, -1, "the adapter is not merged");
	return lora__merge_change(a, 0, 0.0);
}

lora_status lora_adapter_get_info(const lora_adapter *a, lora_adapter_info *out)
{
	if (!a) return LORA_E_ARGUMENT;
	if (!out || out->struct_size < 8) return lora__fail(a->ctx, LORA_E_ARGUMENT, "adapter", "lora_adapter_get_info: out is NULL or its struct_size is not set");
	lora_adapter_info i = { .attached = a->attached, .merged = a->merged, .trainable = a->trainable, .scale = a->scale, .kind = a->kind->m.name, .name = a->name,
		.n_sites = (int64_t)a->n_parts, .n_tensors = (int64_t)a->n_tensors, .n_parameters = (int64_t)a->n_params };
	uint32_t size = out->struct_size;
	memcpy(out, &i, size < sizeof i ? size : sizeof i);
	out->struct_size = size;
	return LORA_OK;
}

lora_status lora_adapter_settings_json(const lora_adapter *a, char *buf, size_t size, size_t *needed)
{
	if (!a) return LORA_E_ARGUMENT;
	json_t *all = a->extra ? json_copy(a->extra) : json_object();
	lora_status st = LORA_OK;
	if (!all || json_object_update(all, a->settings->object)) st = lora__fail(a->ctx, LORA_E_MEMORY, "adapter", "out of memory");
	lora__text t;
	lora__text_init(&t, a->ctx);
	if (st == LORA_OK) st = lora__json_dump(a->ctx, all, 0, &t);
	if (st == LORA_OK) st = lora__text_give(a->ctx, t.data, t.n, buf, size, needed);
	lora__text_free(&t);
	json_decref(all);
	return st;
}

int64_t lora_adapter_tensor_count(const lora_adapter *a) { return a ? (int64_t)a->n_tensors : 0; }

static lora_status get_tensor(const lora_adapter *a, int64_t i, const lora__ptensor **out)
{
	if (!a) return LORA_E_ARGUMENT;
	if (i < 0 || i >= (int64_t)a->n_tensors) return lora__fail(a->ctx, LORA_E_ARGUMENT, "adapter", "tensor %lld, the adapter has %zu", (long long)i, a->n_tensors);
	*out = &a->tensors[i];
	return LORA_OK;
}

static lora_status get_sized(const lora_adapter *a, int64_t i, const void *p, size_t bytes, const lora__ptensor **out)
{
	lora_status st = get_tensor(a, i, out);
	if (st) return st;
	if (!p) return lora__fail(a->ctx, LORA_E_ARGUMENT, "adapter", "the buffer is NULL");
	if (bytes != (*out)->n * sizeof(float))
		return lora__fail_at(a->ctx, LORA_E_SHAPE, "adapter", (*out)->name, -1, "%zu bytes given, the tensor has %zu", bytes, (*out)->n * sizeof(float));
	return LORA_OK;
}

lora_status lora_adapter_tensor_info(const lora_adapter *a, int64_t i, lora_tensor_info *out)
{
	const lora__ptensor *t = NULL;
	lora_status st = get_tensor(a, i, &t);
	if (st) return st;
	if (!out) return lora__fail(a->ctx, LORA_E_ARGUMENT, "adapter", "out is NULL");
	*out = (lora_tensor_info){ .name = t->name, .dtype = LORA_F32, .rank = t->rank, .shape = { t->shape[0], t->shape[1] }, .bytes = t->n * sizeof(float),
		.trainable = a->trainable };
	return LORA_OK;
}

lora_status lora_adapter_tensor_read(const lora_adapter *a, int64_t i, float *out, size_t bytes)
{
	const lora__ptensor *t;
	lora_status st = get_sized(a, i, out, bytes, &t);
	if (st == LORA_OK) memcpy(out, a->params + t->offset, bytes);
	return st;
}

lora_status lora_adapter_tensor_write(lora_adapter *a, int64_t i, const float *values, size_t bytes)
{
	const lora__ptensor *t;
	lora_status st = get_sized(a, i, values, bytes, &t);
	if (st) return st;
	if (a->merged) return lora__fail_at(a->ctx, LORA_E_STATE, "adapter", t->name, -1, "the adapter is merged");
	if (!lora__all_finite(values, LORA_F32, t->n)) return lora__fail_at(a->ctx, LORA_E_NUMERIC, "adapter", t->name, -1, "a value for %s is not finite", t->name);
	memcpy(a->params + t->offset, values, bytes);
	lora__adapter_changed(a);
	return LORA_OK;
}

lora_status lora_adapter_gradient_read(const lora_adapter *a, int64_t i, float *out, size_t bytes)
{
	const lora__ptensor *t;
	lora_status st = get_sized(a, i, out, bytes, &t);
	if (st == LORA_OK && !a->grads) memset(out, 0, bytes);
	else if (st == LORA_OK) lora__convert(out, LORA_F32, a->grads + t->offset * lora__dtype_size(lora__wide(a->sites->real)), lora__wide(a->sites->real), t->n);
	return st;
}

lora_status lora_adapter_zero_grad(lora_adapter *a)
{
	if (!a) return LORA_E_ARGUMENT;
	if (a->grads) memset(a->grads, 0, a->n_params * lora__dtype_size(lora__wide(a->sites->real)));
	return LORA_OK;
}

lora_status lora_adapter_delta(lora_adapter *a, int64_t site, float *out, size_t bytes)
{
	if (!a) return LORA_E_ARGUMENT;
	if (site < 0 || site >= (int64_t)a->sites->n || !out) return lora__fail(a->ctx, LORA_E_ARGUMENT, "adapter", "lora_adapter_delta: no such site, or out is NULL");
	lora__site *s = a->sites->list[site];
	int64_t p = lora__adapter_part_of(a, s);
	if (p < 0) return lora__fail_at(a->ctx, LORA_E_NOTFOUND, "adapter", s->name, -1, "the adapter does not act on %s", s->name);
	if (!a->kind->ops || !a->kind->ops->delta) return lora__fail(a->ctx, LORA_E_UNSUPPORTED, "adapter", "kind %s has no delta", a->kind->m.name);
	size_t n = (size_t)(s->out * s->in) * sizeof(float);
	if (bytes != n) return lora__fail_at(a->ctx, LORA_E_SHAPE, "adapter", s->name, -1, "%zu bytes given, the delta of %s has %zu", bytes, s->name, n);
	memset(out, 0, n);
	return a->parts[p].slot.ops->delta(&a->parts[p].slot, a->ctx, 1.0, 0, s->out, out);
}

void lora_adapter_destroy(lora_adapter *a)
{
	if (a) lora__adapter_release(a); /* an optimizer, trainer or row assignment may still use it: the last of them finishes the job */
}
