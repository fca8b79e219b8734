/* The header of a GGUF file: every number in it is bounded by the bytes that are left before it is used. Nothing is copied but the places of the
 * keys and the names of the tensors, so memory stays in proportion to the file.
 * Source: ggml/docs/gguf.md; the checks are those of ggml/src/gguf.cpp and those that it leaves out (section "GGUF" of docs/formats.md). */
#include <string.h>

#include "format/gguf_part.h"
#include "format/safetensors_header.h"

enum { KV_MIN = 8 + 1 + 4 + 1, TENSOR_MIN = 8 + 1 + 4 + 8 + 4 + 8 }; /* bytes of the smallest records */

typedef struct cursor { lora__gguf *g; size_t at, end; } cursor;

static lora_status bad(const cursor *c, lora_status st, size_t at, const char *text)
{
	return lora__fail_at(c->g->ctx, st, "gguf", NULL, (int64_t)at, "%s: %s (byte %zu)", c->g->what, text, at);
}

static lora_status bad_named(const cursor *c, lora_status st, const char *kind, const char *name, size_t n, size_t at, const char *text)
{
	lora__quoted q = lora__quote_n(name, n);
	return lora__fail_at(c->g->ctx, st, "gguf", q.text, (int64_t)at, "%s: %s '%s': %s (byte %zu)", c->g->what, kind, q.text, text, at);
}

uint64_t lora__gguf_number(const lora__gguf *g, const uint8_t *p, size_t bytes)
{
	uint64_t v = 0;
	for (size_t i = 0; i < bytes; i++) v |= (uint64_t)p[i] << (8 * (g->swap ? bytes - 1 - i : i));
	return v;
}

static lora_status number(cursor *c, size_t bytes, uint64_t *out)
{
	if (c->end - c->at < bytes) return bad(c, LORA_E_FORMAT, c->at, "the header ends too early");
	*out = lora__gguf_number(c->g, c->g->p + c->at, bytes);
	c->at += bytes;
	return LORA_OK;
}

static lora_status text(cursor *c, const char *what, const char **s, size_t *n)
{
	uint64_t len;
	size_t at = c->at;
	lora_status st = number(c, 8, &len);
	if (st) return st;
	if (len > c->end - c->at)
		return lora__fail_at(c->g->ctx, len > UINT32_MAX ? LORA_E_LIMIT : LORA_E_FORMAT, "gguf", NULL, (int64_t)at,
			"%s: %s of %llu bytes, %zu are left (byte %zu)", c->g->what, what, (unsigned long long)len, c->end - c->at, at);
	*s = (const char *)c->g->p + c->at, *n = (size_t)len;
	c->at += (size_t)len;
	return LORA_OK;
}

static lora_status bools(const cursor *c, const char *name, size_t name_n, const uint8_t *p, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		if (p[i] > 1) return bad_named(c, LORA_E_FORMAT, "key", name, name_n, (size_t)(p + i - c->g->p), "a bool must be 0 or 1");
	return LORA_OK;
}

static lora_status array(cursor *c, const char *name, size_t name_n)
{
	uint64_t elem, n, bytes;
	size_t at = c->at;
	lora_status st = number(c, 4, &elem);
	if (!st) st = number(c, 8, &n);
	if (st) return st;
	if (elem == LORA__GGUF_ARRAY) return bad_named(c, LORA_E_FORMAT, "key", name, name_n, at, "an array of arrays");
	if (elem >= LORA__GGUF_TYPES) return bad_named(c, LORA_E_FORMAT, "key", name, name_n, at, "an array of an unknown type");
	size_t each = elem == LORA__GGUF_STRING ? 8 : lora__gguf_value_size((uint32_t)elem);
	if (!lora__mul_u64(n, each, &bytes) || bytes > c->end - c->at)
		return bad_named(c, LORA_E_LIMIT, "key", name, name_n, at, "an array of more elements than the file has bytes for");
	if (elem == LORA__GGUF_STRING) {
		const char *s;
		size_t len;
		for (uint64_t i = 0; i < n && !st; i++) st = text(c, "a string", &s, &len);
		return st ? lora__fail_prefix(c->g->ctx, st, "key '%s': ", lora__quote_n(name, name_n).text) : LORA_OK;
	}
	if (elem == LORA__GGUF_BOOL) st = bools(c, name, name_n, c->g->p + c->at, n);
	c->at += (size_t)bytes;
	return st;
}

static lora_status value(cursor *c, const char *name, size_t name_n)
{
	uint64_t type;
	size_t at = c->at, n;
	const char *s;
	lora_status st = number(c, 4, &type);
	if (st) return st;
	if (type >= LORA__GGUF_TYPES) return bad_named(c, LORA_E_FORMAT, "key", name, name_n, at, "a value of an unknown type");
	if (type == LORA__GGUF_ARRAY) return array(c, name, name_n);
	if (type == LORA__GGUF_STRING) return text(c, "a string", &s, &n);
	size_t bytes = lora__gguf_value_size((uint32_t)type);
	if (c->end - c->at < bytes) return bad(c, LORA_E_FORMAT, c->at, "the header ends too early");
	if (type == LORA__GGUF_BOOL) st = bools(c, name, name_n, c->g->p + c->at, 1);
	c->at += bytes;
	return st;
}

/* A checked record is read again without checks. */
uint64_t lora__gguf_record(const lora__gguf *g, size_t at, const char **name, size_t *n, lora__gguf_value *v)
{
	const uint8_t *p = g->p + at;
	*n = (size_t)lora__gguf_number(g, p, 8), *name = (const char *)p + 8;
	p += 8 + *n;
	*v = (lora__gguf_value){ .type = (uint32_t)lora__gguf_number(g, p, 4), .n = 1, .p = p + 4 };
	p += 4;
	if (v->type == LORA__GGUF_STRING) {
		v->n = lora__gguf_number(g, p, 8), v->p = p + 8;
		return (uint64_t)(p + 8 + v->n - g->p);
	}
	if (v->type == LORA__GGUF_ARRAY) {
		v->elem = (uint32_t)lora__gguf_number(g, p, 4), v->n = lora__gguf_number(g, p + 4, 8), v->p = p + 12;
		if (v->elem != LORA__GGUF_STRING) return (uint64_t)(v->p + v->n * lora__gguf_value_size(v->elem) - g->p);
		p = v->p;
		for (uint64_t i = 0; i < v->n; i++) p += 8 + lora__gguf_number(g, p, 8);
		return (uint64_t)(p - g->p);
	}
	return (uint64_t)(p + lora__gguf_value_size(v->type) - g->p);
}

static int compare(const lora__gguf *g, uint64_t a, uint64_t b)
{
	uint64_t n = lora__gguf_number(g, g->p + a, 8), m = lora__gguf_number(g, g->p + b, 8);
	int d = memcmp(g->p + a + 8, g->p + b + 8, n < m ? n : m);
	return d ? d : n < m ? -1 : n > m;
}

/* Merge sort of the keys by name: n log n whatever the file does. */
static lora_status sort_keys(lora__gguf *g)
{
	size_t n = g->n_keys;
	uint64_t *spare = lora__calloc(g->ctx, n + 1, sizeof *spare), *from = g->keys, *to = spare;
	if (!spare) return LORA_E_MEMORY;
	for (size_t width = 1; width < n; width *= 2) {
		for (size_t lo = 0; lo < n; lo += 2 * width) {
			size_t mid = lo + width < n ? lo + width : n, hi = lo + 2 * width < n ? lo + 2 * width : n, a = lo, b = mid;
			for (size_t k = lo; k < hi; k++) to[k] = a < mid && (b >= hi || compare(g, from[a], from[b]) <= 0) ? from[a++] : from[b++];
		}
		uint64_t *t = from;
		from = to, to = t;
	}
	if (from != g->keys) memcpy(g->keys, from, n * sizeof *from);
	lora__free(g->ctx, spare);
	for (size_t i = 1; i < n; i++) {
		if (compare(g, g->keys[i - 1], g->keys[i])) continue;
		size_t at = (size_t)g->keys[i];
		cursor c = { g, 0, 0 };
		return bad_named(&c, LORA_E_FORMAT, "key", (const char *)g->p + at + 8, (size_t)lora__gguf_number(g, g->p + at, 8), at, "duplicate key");
	}
	return LORA_OK;
}

static lora_status read_keys(cursor *c, uint64_t n)
{
	lora__gguf *g = c->g;
	size_t where;
	if (!(g->keys = lora__calloc(g->ctx, (size_t)n + 1, sizeof *g->keys))) return LORA_E_MEMORY;
	for (uint64_t i = 0; i < n; i++) {
		const char *name;
		size_t len, at = c->at;
		if (c->end - at < KV_MIN)
			return lora__fail_at(g->ctx, LORA_E_FORMAT, "gguf", NULL, (int64_t)at, "%s: %llu keys are declared, the file ends after %llu", g->what,
				(unsigned long long)n, (unsigned long long)i);
		lora_status st = text(c, "a key", &name, &len);
		if (st) return st;
		if (!len) return bad(c, LORA_E_FORMAT, at, "empty key");
		if (!lora__utf8_valid(name, len, &where) || memchr(name, 0, len))
			return bad_named(c, LORA_E_FORMAT, "key", name, len, at, "a key must be UTF-8 without NUL");
		if ((st = value(c, name, len))) return st;
		g->keys[g->n_keys++] = at;
	}
	return sort_keys(g);
}

/* One tensor's record; the data's place is relative to the data section. */
typedef struct entry { const char *name; size_t n, at; uint32_t n_dims; int64_t ne[4]; const lora__gguf_type *type; uint64_t bytes, offset; } entry;

static lora_status entry_size(const cursor *c, entry *e)
{
	uint64_t n = 1, blocks;
	for (uint32_t i = 0; i < e->n_dims; i++) {
		if (e->ne[i] < 0) return bad_named(c, LORA_E_FORMAT, "tensor", e->name, e->n, e->at, "a dimension is negative");
		if (!lora__mul_u64(n, (uint64_t)e->ne[i], &n) || n > INT64_MAX)
			for (uint32_t k = 0, zero = 0; k < e->n_dims; k++) {
				zero |= e->ne[k] == 0;
				if (k + 1 == e->n_dims && !zero) return bad_named(c, LORA_E_LIMIT, "tensor", e->name, e->n, e->at, "the number of elements overflows");
				if (zero) n = 0;
			}
	}
	if (e->ne[0] % e->type->n)
		return lora__fail_at(c->g->ctx, LORA_E_SHAPE, "gguf", lora__quote_n(e->name, e->n).text, (int64_t)e->at,
			"%s: tensor '%s': rows of %lld elements are no whole number of blocks of %s (%u)", c->g->what, lora__quote_n(e->name, e->n).text,
			(long long)e->ne[0], e->type->name, (unsigned)e->type->n);
	blocks = n / e->type->n;
	if (!lora__mul_u64(blocks, e->type->bytes, &e->bytes) || e->bytes > INT64_MAX)
		return bad_named(c, LORA_E_LIMIT, "tensor", e->name, e->n, e->at, "the number of bytes overflows");
	return LORA_OK;
}

static lora_status read_entry(cursor *c, entry *e)
{
	uint64_t v, id;
	e->at = c->at;
	lora_status st = text(c, "a tensor's name", &e->name, &e->n);
	if (st) return st;
	if (!e->n || e->n > LORA__GGUF_NAME)
		return bad_named(c, LORA_E_FORMAT, "tensor", e->name, e->n, e->at, e->n ? "the name is longer than 63 bytes" : "empty name");
	if (!lora__utf8_valid(e->name, e->n, NULL) || memchr(e->name, 0, e->n))
		return bad_named(c, LORA_E_FORMAT, "tensor", e->name, e->n, e->at, "the name must be UTF-8 without NUL");
	if ((st = number(c, 4, &v))) return st;
	if (v < 1 || v > 4) return bad_named(c, LORA_E_FORMAT, "tensor", e->name, e->n, e->at, "1 to 4 dimensions are expected");
	e->n_dims = (uint32_t)v;
	for (uint32_t i = 0; i < e->n_dims && !st; i++) {
		st = number(c, 8, &v);
		e->ne[i] = (int64_t)v;
	}
	if (!st) st = number(c, 4, &id);
	if (!st) st = number(c, 8, &e->offset);
	if (st) return st;
	if (!(e->type = lora__gguf_type_of((uint32_t)id)))
		return lora__fail_at(c->g->ctx, LORA_E_UNSUPPORTED, "gguf", lora__quote_n(e->name, e->n).text, (int64_t)e->at,
			"%s: tensor '%s': unknown or retired type %lld", c->g->what, lora__quote_n(e->name, e->n).text, (long long)(int32_t)id);
	return entry_size(c, e);
}

/* First pass over the tensors: check each, and that they tile the data section; bytes of all names. */
static lora_status check_tensors(cursor *c, uint64_t n, uint64_t *data, size_t *name_bytes)
{
	lora__gguf *g = c->g;
	size_t begin = c->at;
	uint64_t sum = 0, padded;
	*name_bytes = 0;
	for (uint64_t i = 0; i < n; i++) {
		entry e;
		if (c->end - c->at < TENSOR_MIN)
			return lora__fail_at(g->ctx, LORA_E_FORMAT, "gguf", NULL, (int64_t)c->at, "%s: %llu tensors are declared, the file ends after %llu", g->what,
				(unsigned long long)n, (unsigned long long)i);
		lora_status st = read_entry(c, &e);
		if (st) return st;
		if (e.offset != sum)
			return lora__fail_at(g->ctx, LORA_E_FORMAT, "gguf", lora__quote_n(e.name, e.n).text, (int64_t)e.at,
				"%s: tensor '%s': data at offset %llu, %llu expected (tensors follow each other, padded to %u)", g->what, lora__quote_n(e.name, e.n).text,
				(unsigned long long)e.offset, (unsigned long long)sum, (unsigned)g->alignment);
		if (!lora__add_u64(e.bytes, g->alignment - 1u, &padded) || !lora__add_u64(sum, padded & ~(uint64_t)(g->alignment - 1u), &sum))
			return bad_named(c, LORA_E_LIMIT, "tensor", e.name, e.n, e.at, "the sizes of the tensors overflow");
		*name_bytes += e.n + 1;
	}
	size_t start;
	if (!lora__align_size(c->at, g->alignment, &start)) return bad(c, LORA_E_LIMIT, c->at, "the header's size overflows");
	*data = start;
	c->at = begin;
	return LORA_OK;
}

static lora_status take_tensors(cursor *c, uint64_t n, uint64_t data, size_t name_bytes, lora__tensors *set)
{
	lora__gguf *g = c->g;
	lora_context *ctx = g->ctx;
	lora_status st = lora__grow(ctx, &set->list, &set->cap, set->n + (size_t)n + 1, sizeof *set->list);
	if (!st) st = lora__grow(ctx, &set->names, &set->cap_names, set->n_names + 1, sizeof *set->names);
	if (st) return st;
	char *names = lora__alloc(ctx, name_bytes + 1);
	if (!names) return LORA_E_MEMORY;
	set->names[set->n_names++] = names;
	for (uint64_t i = 0; i < n; i++) {
		entry e;
		if ((st = read_entry(c, &e))) return st;
		if (e.bytes && (data > g->n || e.offset > g->n - data || e.bytes > g->n - data - e.offset))
			return lora__fail_at(ctx, LORA_E_FORMAT, "gguf", lora__quote_n(e.name, e.n).text, (int64_t)e.at, "%s: tensor '%s': data runs past the end of the file",
				g->what, lora__quote_n(e.name, e.n).text);
		memcpy(names, e.name, e.n);
		names[e.n] = 0;
		lora__tensor *t = &set->list[set->n++];
		*t = (lora__tensor){ .name = names, .dtype = e.type->dtype, .rank = (int32_t)e.n_dims, .bytes = e.bytes, .stored = e.type->name,
			.data = e.bytes ? g->p + data + e.offset : g->p };
		for (uint32_t k = 0; k < e.n_dims; k++) t->shape[k] = e.ne[e.n_dims - 1 - k];
		names += e.n + 1;
	}
	return LORA_OK;
}

static lora_status read_alignment(cursor *c)
{
	lora__gguf_value v;
	lora__gguf *g = c->g;
	g->alignment = 32;
	if (!lora__gguf_find(g, "general.alignment", &v)) return LORA_OK;
	if (v.type != LORA__GGUF_U32)
		return lora__fail_at(g->ctx, LORA_E_FORMAT, "gguf", "general.alignment", -1, "%s: general.alignment is of type %s, uint32 expected", g->what,
			lora__gguf_type_name(v.type));
	g->alignment = lora__gguf_u32(g, v.p);
	if (!g->alignment || (g->alignment & (g->alignment - 1)) || g->alignment > LORA__GGUF_ALIGNMENT)
		return lora__fail_at(g->ctx, LORA_E_FORMAT, "gguf", "general.alignment", -1, "%s: general.alignment is %u, a power of two up to %d expected", g->what,
			(unsigned)g->alignment, LORA__GGUF_ALIGNMENT);
	return LORA_OK;
}

static lora_status read_version(cursor *c)
{
	lora__gguf *g = c->g;
	uint64_t v;
	static const char pointer[] = "version https://git-lfs";
	if (g->n < 4 || memcmp(g->p, "GGUF", 4))
		return lora__fail_at(g->ctx, LORA_E_FORMAT, "gguf", NULL, 0, "%s: %s", g->what, !g->n ? "empty: not a GGUF file" :
			g->n >= sizeof pointer - 1 && !memcmp(g->p, pointer, sizeof pointer - 1) ?
			"looks like a git-lfs pointer, not the file itself; fetch it with 'git lfs pull' or download it again" : "not a GGUF file (the magic is missing)");
	c->at = 4;
	g->swap = 0;
	lora_status st = number(c, 4, &v);
	if (st) return st;
	if (v && !(v & 0xffff)) { /* no version is as large: the file is of the other byte order */
		g->swap = 1;
		v = lora__gguf_number(g, g->p + 4, 4);
	}
	g->version = (uint32_t)v;
	if (v < 2 || v > 3)
		return lora__fail_at(g->ctx, LORA_E_UNSUPPORTED, "gguf", "version", 4, "%s: GGUF version %u; 2 and 3 are supported", g->what, (unsigned)g->version);
	return LORA_OK;
}

lora_status lora__gguf_parse(lora__gguf *g, lora__tensors *set)
{
	cursor c = { g, 0, g->n };
	uint64_t n_tensors, n_kv, data = 0;
	size_t name_bytes;
	lora_status st = read_version(&c);
	if (!st) st = number(&c, 8, &n_tensors);
	if (!st) st = number(&c, 8, &n_kv);
	if (st) return st;
	uint64_t limit = g->ctx->limits.header_bytes, left = c.end - c.at;
	if (n_tensors > left / TENSOR_MIN || n_kv > left / KV_MIN || n_tensors > g->ctx->limits.tensors) {
		int huge = n_tensors > g->ctx->limits.tensors || n_kv > UINT32_MAX || (g->swap && (n_tensors | n_kv) >> 32);
		return lora__fail_at(g->ctx, huge ? LORA_E_LIMIT : LORA_E_FORMAT, "gguf", NULL, 8, "%s: %llu tensors and %llu keys are declared, %llu bytes follow%s",
			g->what, (unsigned long long)n_tensors, (unsigned long long)n_kv, (unsigned long long)left,
			g->swap ? " (by its version the file is of the other endianness)" : "");
	}
	if (limit < left) c.end = c.at + (size_t)limit;
	if ((st = read_keys(&c, n_kv)) || (st = read_alignment(&c)) || (st = check_tensors(&c, n_tensors, &data, &name_bytes))) return st;
	return take_tensors(&c, n_tensors, data, name_bytes, set);
}
