/* GGUF metadata: finding keys and reading values of an expected type. */
#include <math.h>
#include <string.h>

#include "format/gguf_part.h"

static int order(const lora__gguf *g, size_t i, const char *key, size_t n)
{
	size_t m = (size_t)lora__gguf_number(g, g->p + g->keys[i], 8);
	int d = memcmp(g->p + g->keys[i] + 8, key, n < m ? n : m);
	return d ? d : m < n ? -1 : m > n;
}

int lora__gguf_find(const lora__gguf *g, const char *key, lora__gguf_value *out)
{
	size_t lo = 0, hi = g->n_keys, n = strlen(key);
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		int d = order(g, mid, key, n);
		if (d == 0) {
			const char *name;
			lora__gguf_key(g, mid, &name, &n, out);
			return 1;
		}
		if (d < 0) lo = mid + 1;
		else hi = mid;
	}
	return 0;
}

void lora__gguf_key(const lora__gguf *g, size_t i, const char **name, size_t *n, lora__gguf_value *v)
{
	lora__gguf_record(g, (size_t)g->keys[i], name, n, v);
}

static lora_status wrong(const lora__gguf *g, const char *key, const lora__gguf_value *v, const char *want)
{
	const char *what = v->type == LORA__GGUF_ARRAY ? "an array of " : "";
	return lora__fail_at(g->ctx, LORA_E_FORMAT, "gguf", key, (int64_t)(v->p - g->p), "%s: key %s is of type %s%s, %s expected", g->what, key, what,
		lora__gguf_type_name(v->type == LORA__GGUF_ARRAY ? v->elem : v->type), want);
}

static int is_int(uint32_t type)
{
	return type <= LORA__GGUF_I32 || type == LORA__GGUF_U64 || type == LORA__GGUF_I64;
}

lora_status lora__gguf_int(const lora__gguf *g, const char *key, int64_t def, int64_t min, int64_t max, int64_t *out)
{
	static const uint8_t size[] = { [LORA__GGUF_U8] = 1, [LORA__GGUF_I8] = 1, [LORA__GGUF_U16] = 2, [LORA__GGUF_I16] = 2, [LORA__GGUF_U32] = 4,
		[LORA__GGUF_I32] = 4, [LORA__GGUF_U64] = 8, [LORA__GGUF_I64] = 8 };
	lora__gguf_value v;
	*out = def;
	if (!lora__gguf_find(g, key, &v)) return LORA_OK;
	if (!is_int(v.type)) return wrong(g, key, &v, "an integer");
	uint64_t u = lora__gguf_number(g, v.p, size[v.type]);
	int64_t i = v.type == LORA__GGUF_I8 ? (int8_t)u : v.type == LORA__GGUF_I16 ? (int16_t)u : v.type == LORA__GGUF_I32 ? (int32_t)u : (int64_t)u;
	if ((v.type == LORA__GGUF_U64 && i < 0) || i < min || i > max)
		return lora__fail_at(g->ctx, LORA_E_LIMIT, "gguf", key, (int64_t)(v.p - g->p), "%s: key %s is %lld, must be %lld to %lld", g->what, key, (long long)i,
			(long long)min, (long long)max);
	*out = i;
	return LORA_OK;
}

lora_status lora__gguf_float(const lora__gguf *g, const char *key, double def, double *out)
{
	lora__gguf_value v;
	*out = def;
	if (!lora__gguf_find(g, key, &v)) return LORA_OK;
	if (v.type != LORA__GGUF_F32 && v.type != LORA__GGUF_F64) return wrong(g, key, &v, "a float");
	uint64_t u = lora__gguf_number(g, v.p, v.type == LORA__GGUF_F32 ? 4 : 8);
	if (v.type == LORA__GGUF_F64) memcpy(out, &u, 8);
	else *out = lora__gguf_f32(g, v.p);
	if (isfinite(*out)) return LORA_OK;
	return lora__fail_at(g->ctx, LORA_E_NUMERIC, "gguf", key, (int64_t)(v.p - g->p), "%s: key %s is not finite", g->what, key);
}

lora_status lora__gguf_bool(const lora__gguf *g, const char *key, int def, int *out)
{
	lora__gguf_value v;
	*out = def;
	if (!lora__gguf_find(g, key, &v)) return LORA_OK;
	if (v.type != LORA__GGUF_BOOL) return wrong(g, key, &v, "bool");
	*out = *v.p;
	return LORA_OK;
}

lora_status lora__gguf_string(const lora__gguf *g, const char *key, const char **s, size_t *n)
{
	lora__gguf_value v;
	*s = NULL, *n = 0;
	if (!lora__gguf_find(g, key, &v)) return LORA_OK;
	if (v.type != LORA__GGUF_STRING) return wrong(g, key, &v, "string");
	*s = (const char *)v.p, *n = (size_t)v.n;
	if (lora__utf8_valid(*s, *n, NULL) && !memchr(*s, 0, *n)) return LORA_OK;
	return lora__fail_at(g->ctx, LORA_E_FORMAT, "gguf", key, (int64_t)(v.p - g->p), "%s: key %s must be UTF-8 without NUL", g->what, key);
}

lora_status lora__gguf_array(const lora__gguf *g, const char *key, uint32_t elem, lora__gguf_value *out)
{
	char want[32] = "an array of ";
	lora__gguf_value v;
	*out = (lora__gguf_value){ 0 };
	if (!lora__gguf_find(g, key, &v)) return LORA_OK;
	strncat(want, lora__gguf_type_name(elem), 16);
	int fits = v.elem == elem || (elem == LORA__GGUF_I32 && v.elem == LORA__GGUF_U32);
	if (v.type == LORA__GGUF_ARRAY && !fits)
		return lora__fail_at(g->ctx, LORA_E_DTYPE, "gguf", key, (int64_t)(v.p - g->p), "%s: key %s is an array of %s, %s expected", g->what, key,
			lora__gguf_type_name(v.elem), want);
	if (v.type != LORA__GGUF_ARRAY) return wrong(g, key, &v, want);
	*out = v;
	return LORA_OK;
}

void lora__gguf_next(const lora__gguf *g, const uint8_t **p, const char **s, size_t *n)
{
	*n = (size_t)lora__gguf_number(g, *p, 8), *s = (const char *)*p + 8;
	*p += 8 + *n;
}

uint32_t lora__gguf_u32(const lora__gguf *g, const uint8_t *p) { return (uint32_t)lora__gguf_number(g, p, 4); }

float lora__gguf_f32(const lora__gguf *g, const uint8_t *p)
{
	uint32_t u = lora__gguf_u32(g, p);
	float f;
	memcpy(&f, &u, 4);
	return f;
}
