/* State files: parameters, moments and gradients as named tensors, with a digest over all of it. A file is looked at as a whole before anything
 * is taken from it. */
#include <math.h>
#include <stdio.h>

#include "train/train.h"

#define FORMAT "liblora-optimizer"

/* ---- lists of live tensors ---- */

static size_t add(lora__statelist *l, const char *prefix, const lora__ptensor *p, lora_dtype type, const void *base, char *names)
{
	size_t a = strlen(prefix), b = strlen(p->name), each = lora__dtype_size(type);
	memcpy(names, prefix, a);
	names[a] = '.';
	memcpy(names + a + 1, p->name, b + 1);
	lora__tensor t = { .name = names, .dtype = type, .rank = p->rank, .data = (const uint8_t *)base + p->offset * each, .bytes = p->n * each };
	memcpy(t.shape, p->shape, sizeof p->shape);
	l->list[l->n++] = t;
	return a + b + 2;
}

lora_status lora__state_list(lora_optimizer *o, uint32_t what, lora__statelist *out)
{
	lora_adapter *a = o->a;
	const char *prefix[LORA__OPTIM_SLOTS + 2];
	const void *base[LORA__OPTIM_SLOTS + 2];
	lora_dtype type[LORA__OPTIM_SLOTS + 2];
	size_t groups = 0, bytes = 0;
	if (what & LORA__STATE_PARAMS) prefix[groups] = "param", base[groups] = a->params, type[groups++] = LORA_F32;
	for (int i = 0; (what & LORA__STATE_SLOTS) && i < o->opt->n_slots; i++)
		prefix[groups] = o->opt->kind->slots[i], base[groups] = o->opt->slot[i], type[groups++] = LORA_F32;
	if (what & LORA__STATE_GRADS) prefix[groups] = "grad", base[groups] = a->grads, type[groups++] = lora__wide(a->sites->real);
	for (size_t g = 0; g < groups; g++)
		for (size_t i = 0; i < a->n_tensors; i++) bytes += strlen(prefix[g]) + strlen(a->tensors[i].name) + 2;
	*out = (lora__statelist){ .list = lora__calloc(o->ctx, groups * a->n_tensors + 1, sizeof *out->list), .names = lora__alloc(o->ctx, bytes + 1) };
	if (!out->list || !out->names) {
		lora__state_free(o->ctx, out);
		return LORA_E_MEMORY;
	}
	char *names = out->names;
	for (size_t g = 0; g < groups; g++)
		for (size_t i = 0; i < a->n_tensors; i++) names += add(out, prefix[g], &a->tensors[i], type[g], base[g], names);
	return LORA_OK;
}

void lora__state_free(lora_context *ctx, lora__statelist *l)
{
	lora__free(ctx, l->list);
	lora__free(ctx, l->names);
	*l = (lora__statelist){ .n = 0 };
}

static int all_finite(const lora__tensor *t)
{
	if (t->dtype == LORA_F64) {
		for (uint64_t i = 0; i < t->bytes; i += sizeof(double)) {
			double v;
			memcpy(&v, t->data + i, sizeof v); /* a file's data may be unaligned */
			if (!isfinite(v)) return 0;
		}
		return 1;
	}
	for (uint64_t i = 0; i < t->bytes; i += sizeof(float)) {
		float v;
		memcpy(&v, t->data + i, sizeof v);
		if (!isfinite(v)) return 0;
	}
	return 1;
}

static lora_status check_one(lora_context *ctx, const lora__tensors *file, const lora__tensor *live)
{
	const lora__tensor *t = lora__tensors_find(file, live->name);
	int grad = strncmp(live->name, "grad.", 5) == 0, param = strncmp(live->name, "param.", 6) == 0;
	if (!t)
		return lora__fail_at(ctx, LORA_E_SHAPE, "train", live->name, -1, "the state has no tensor %s: it is of another adapter or optimizer",
			lora__quote(live->name).text);
	if (t->rank != live->rank || memcmp(t->shape, live->shape, sizeof(int64_t) * (size_t)live->rank))
		return lora__fail_at(ctx, LORA_E_SHAPE, "train", live->name, -1, "%s is [%lld,%lld] in the state, [%lld,%lld] here", lora__quote(live->name).text,
			(long long)t->shape[0], (long long)(t->rank > 1 ? t->shape[1] : 1), (long long)live->shape[0], (long long)(live->rank > 1 ? live->shape[1] : 1));
	if (t->dtype != live->dtype)
		return lora__fail_at(ctx, grad ? LORA_E_STATE : LORA_E_FORMAT, "train", live->name, -1, "%s is %s in the state, %s here", lora__quote(live->name).text,
			lora__dtype_name(t->dtype), lora__dtype_name(live->dtype));
	if (!grad && !all_finite(t)) /* gradients of a step that will be skipped may be anything */
		return lora__fail_at(ctx, LORA_E_FORMAT, "train", live->name, -1, "%s has %s that are not finite", lora__quote(live->name).text,
			param ? "parameters" : "values");
	return LORA_OK;
}

lora_status lora__state_check(lora_context *ctx, const lora__tensors *file, const lora__statelist *live, int and_no_more)
{
	for (size_t i = 0; i < live->n; i++) {
		lora_status st = check_one(ctx, file, &live->list[i]);
		if (st) return st;
	}
	if (and_no_more && file->n != live->n)
		return lora__fail(ctx, LORA_E_SHAPE, "train", "the state has %zu tensors, %zu belong here: it is of another adapter or optimizer", file->n, live->n);
	return LORA_OK;
}

void lora__state_take(const lora__tensors *file, const lora__statelist *live)
{
	for (size_t i = 0; i < live->n; i++)
		memcpy((void *)(uintptr_t)live->list[i].data, lora__tensors_find(file, live->list[i].name)->data, live->list[i].bytes);
}

void lora__state_digest(const lora__tensor *list, size_t n, const char *text, char out[17])
{
	uint64_t h = lora__hash64(text, strlen(text), lora__tensors_digest(list, n));
	snprintf(out, 17, "%016llx", (unsigned long long)h);
}

/* ---- the optimizer's own file ---- */

static const char *meta(const lora__tensors *t, const char *key)
{
	const char *v = json_string_value(json_object_get(t->metadata, key));
	return v ? v : "";
}

static lora_status state_text(const lora_optimizer *o, lora__text *out)
{
	json_t *v = json_pack("{s:s, s:O, s:I}", "optimizer", o->opt->kind->m.name, "settings", o->opt->settings, "step", (json_int_t)o->opt->t);
	if (!v) return lora__fail(o->ctx, LORA_E_MEMORY, "optimizer", "out of memory");
	lora_status st = lora__json_dump(o->ctx, v, 0, out);
	json_decref(v);
	return st ? st : out->status;
}

lora_status lora__optimizer_save(lora_optimizer *o, const char *path)
{
	lora__statelist live = { .n = 0 };
	lora__text text;
	json_t *metadata = NULL;
	char digest[17];
	lora__text_init(&text, o->ctx);
	lora_status st = state_text(o, &text);
	if (st == LORA_OK) st = lora__state_list(o, LORA__STATE_SLOTS, &live);
	if (st) goto done;
	lora__state_digest(live.list, live.n, text.data, digest);
	if (!(metadata = json_pack("{s:s, s:s, s:s, s:s}", "format", FORMAT, "version", "1", "state", text.data, "digest", digest))) {
		st = lora__fail(o->ctx, LORA_E_MEMORY, "optimizer", "out of memory");
		goto done;
	}
	st = lora__safetensors_write(o->ctx, path, live.list, live.n, metadata);
done:
	json_decref(metadata);
	lora__state_free(o->ctx, &live);
	lora__text_free(&text);
	return st;
}

static lora_status read_state(lora_optimizer *o, const lora__tensors *file, int64_t *steps)
{
	lora_context *ctx = o->ctx;
	const char *text = meta(file, "state");
	char digest[17];
	json_t *v = NULL;
	if (strcmp(meta(file, "format"), FORMAT)) return lora__fail(ctx, LORA_E_FORMAT, "optimizer", "this is no optimizer state of liblora");
	if (strcmp(meta(file, "version"), "1"))
		return lora__fail(ctx, LORA_E_UNSUPPORTED, "optimizer", "version %s of the state is not known to this library", lora__quote(meta(file, "version")).text);
	lora__state_digest(file->list, file->n, text, digest);
	if (strcmp(digest, meta(file, "digest"))) return lora__fail(ctx, LORA_E_FORMAT, "optimizer", "the digest is wrong: the file was damaged");
	lora_status st = lora__json_parse(ctx, text, strlen(text), "state", &v);
	if (st) return st;
	const char *name = json_string_value(json_object_get(v, "optimizer"));
	const json_t *step = json_object_get(v, "step");
	if (!name || !json_is_integer(step) || json_integer_value(step) < 0 || json_integer_value(step) > (1LL << 53))
		st = lora__fail(ctx, LORA_E_FORMAT, "optimizer", "optimizer or step is missing or out of range");
	else if (strcmp(name, o->opt->kind->m.name))
		st = lora__fail(ctx, LORA_E_UNSUPPORTED, "optimizer", "the state is of optimizer %s, this one is %s", lora__quote(name).text, o->opt->kind->m.name);
	else *steps = json_integer_value(step);
	json_decref(v);
	return st;
}

lora_status lora__optimizer_load(lora_optimizer *o, const char *path)
{
	lora__tensors file;
	lora__statelist live = { .n = 0 };
	int64_t steps = 0;
	lora_status st = lora__safetensors_read(o->ctx, path, &file);
	if (st) return st;
	st = read_state(o, &file, &steps);
	if (st == LORA_OK) st = lora__state_list(o, LORA__STATE_SLOTS, &live);
	if (st == LORA_OK) st = lora__state_check(o->ctx, &file, &live, 1);
	if (st == LORA_OK) {
		lora__state_take(&file, &live);
		o->opt->t = steps;
	} else st = lora__fail_prefix(o->ctx, st, "%s: ", lora__quote(path).text);
	lora__state_free(o->ctx, &live);
	lora__tensors_close(&file);
	return st;
}
