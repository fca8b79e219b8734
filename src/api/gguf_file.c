/* What a GGUF file holds, without opening it as a model: for programs that show files, and for files of architectures that have no graph here. */
#include <string.h>

#include "format/gguf.h"
#include "lora/model.h"

static json_t *scalar(const lora__gguf *g, const char *name, const lora__gguf_value *v)
{
	const char *s;
	size_t n;
	int64_t i;
	double d;
	int b;
	if (v->type == LORA__GGUF_STRING) return lora__gguf_string(g, name, &s, &n) ? NULL : json_stringn(s, n);
	if (v->type == LORA__GGUF_BOOL) return lora__gguf_bool(g, name, 0, &b) ? NULL : json_boolean(b);
	if (v->type == LORA__GGUF_F32 || v->type == LORA__GGUF_F64) return lora__gguf_float(g, name, 0, &d) ? NULL : json_real(d);
	return lora__gguf_int(g, name, 0, INT64_MIN, INT64_MAX, &i) ? NULL : json_integer(i);
}

/* All keys with one value; of an array its type and length. */
static json_t *metadata(lora_context *ctx, const lora__gguf *g)
{
	json_t *out = json_object();
	for (size_t i = 0; i < g->n_keys; i++) {
		const char *name;
		size_t n;
		lora__gguf_value v;
		lora__gguf_key(g, i, &name, &n, &v);
		char *key = lora__strndup(ctx, name, n);
		if (!key) break;
		json_t *value = v.type == LORA__GGUF_ARRAY ? json_pack("{s:s, s:I}", "array", lora__gguf_type_name(v.elem), "length", (json_int_t)v.n) : scalar(g, key, &v);
		json_object_set_new(out, key, value ? value : json_null());
		lora__free(ctx, key);
	}
	return out;
}

static json_t *tensors(const lora__gguf *g, json_int_t *parameters, const char **dtype)
{
	json_t *list = json_array();
	uint64_t most = 0;
	*parameters = 0, *dtype = NULL;
	for (size_t i = 0; i < g->set.n; i++) {
		const lora__tensor *t = &g->set.list[i];
		json_t *shape = json_array();
		int64_t n = 1;
		for (int32_t k = 0; k < t->rank; k++) json_array_append_new(shape, json_integer(t->shape[k])), n *= t->shape[k];
		json_array_append_new(list, json_pack("{s:s, s:s, s:o}", "name", t->name, "dtype", t->stored, "shape", shape));
		*parameters += n;
		if (t->bytes > most) most = t->bytes, *dtype = t->stored;
	}
	return list;
}

static json_t *describe(lora_context *ctx, const lora__gguf *g)
{
	json_int_t parameters;
	const char *dtype;
	json_t *keys = metadata(ctx, g), *list = tensors(g, &parameters, &dtype);
	const char *type = json_string_value(json_object_get(keys, "general.type"));
	int adapter = type && strcmp(type, "adapter") == 0;
	json_t *arch = json_object_get(keys, "general.architecture"), *alpha = json_object_get(keys, "adapter.lora.alpha"), *method = json_object_get(keys, "adapter.type");
	json_t *out = json_pack("{s:s, s:s, s:i, s:O?, s:I, s:s?, s:o, s:o}", "kind", adapter ? "adapter" : "model", "format", "gguf", "version", (int)g->version,
		"architecture", arch, "parameters", parameters, "dtype", dtype, "metadata", keys, "tensors", list);
	if (out && adapter) {
		json_object_set(out, "method", method ? method : json_null());
		json_object_set(out, "alpha", alpha ? alpha : json_null());
	}
	return out;
}

lora_status lora_gguf_describe(lora_context *ctx, const char *path, char *buf, size_t size, size_t *needed)
{
	lora__gguf g;
	lora__text text;
	if (!ctx) return LORA_E_ARGUMENT;
	if (!path || !needed) return lora__fail(ctx, LORA_E_ARGUMENT, "gguf", "lora_gguf_describe: %s is NULL", path ? "needed" : "path");
	lora_status st = lora__gguf_open(ctx, path, &g);
	if (st) return st;
	lora__text_init(&text, ctx);
	json_t *out = describe(ctx, &g);
	st = out ? lora__json_dump(ctx, out, 0, &text) : lora__fail(ctx, LORA_E_MEMORY, "gguf", "out of memory");
	if (!st) st = text.status;
	if (!st) st = lora__text_give(ctx, text.data, text.n, buf, size, needed);
	json_decref(out);
	lora__text_free(&text);
	lora__gguf_close(&g);
	return st;
}

int32_t lora_gguf_is(const char *path) { return path && lora__gguf_is(path); }
