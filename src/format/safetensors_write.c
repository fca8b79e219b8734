/* Writing safetensors: the same bytes as the reference writer for the same tensors. Entries and data in the order "alignment of the type
 * descending, then name"; compact JSON, `__metadata__` first; header padded with spaces to a multiple of 8.
 * Source: huggingface/safetensors, prepare() and serialize(); string escapes as serde_json writes them. With several metadata entries the
 * reference writer's order is that of a randomly seeded hash map; ours is sorted. */
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "format/safetensors.h"
#include "format/safetensors_type.h"

#define HEADER_LIMIT 100000000u

enum { METADATA_MAX = 16 << 20, METADATA_KEYS_MAX = 4096 }; /* what the reader accepts */

typedef struct item {
	const lora__tensor  *tensor;
	const lora__st_type *type;
} item;

static int compare_items(const void *pa, const void *pb)
{
	const item *a = pa, *b = pb;
	int         x = lora__st_type_rank(a->type), y = lora__st_type_rank(b->type);
	return x != y ? y - x : strcmp(a->tensor->name, b->tensor->name);
}

static int compare_keys(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* A JSON string: the two mandatory escapes, short forms, \u00xx for other control characters, all else as it is. */
static void put_string(lora__text *out, const char *s)
{
	static const char hex[] = "0123456789abcdef";
	size_t            plain = 0, i = 0;
	lora__text_add(out, "\"", 1);
	for (; s[i]; i++) {
		unsigned char c = (unsigned char)s[i];
		if (c >= 0x20 && c != '"' && c != '\\') continue;
		lora__text_add(out, s + plain, i - plain);
		plain = i + 1;
		char long_form[6] = { '\\', 'u', '0', '0', hex[c >> 4], hex[c & 15] };
		switch (c) {
		case '"': lora__text_puts(out, "\\\""); break;
		case '\\': lora__text_puts(out, "\\\\"); break;
		case '\b': lora__text_puts(out, "\\b"); break;
		case '\t': lora__text_puts(out, "\\t"); break;
		case '\n': lora__text_puts(out, "\\n"); break;
		case '\f': lora__text_puts(out, "\\f"); break;
		case '\r': lora__text_puts(out, "\\r"); break;
		default: lora__text_add(out, long_form, sizeof long_form);
		}
	}
	lora__text_add(out, s + plain, i - plain);
	lora__text_add(out, "\"", 1);
}

static lora_status put_metadata(lora_context *ctx, const json_t *metadata, lora__text *out)
{
	json_t     *object = (json_t *)(uintptr_t)metadata, *value;
	const char *key, **keys;
	size_t      n = json_object_size(object), k = 0, begin = out->n;
	lora_status st = LORA_OK;
	if (!json_is_object(object)) return lora__fail(ctx, LORA_E_ARGUMENT, "safetensors", "metadata is not an object");
	if (n > METADATA_KEYS_MAX) return lora__fail(ctx, LORA_E_LIMIT, "safetensors", "metadata of %zu entries, the limit is %d", n, METADATA_KEYS_MAX);
	keys = lora__calloc(ctx, n ? n : 1, sizeof *keys);
	if (!keys) return LORA_E_MEMORY;
	json_object_foreach(object, key, value) keys[k++] = key;
	qsort(keys, n, sizeof *keys, compare_keys);
	lora__text_puts(out, "\"__metadata__\":{");
	for (size_t i = 0; i < n && !st; i++) {
		const char *text = json_string_value(json_object_get(object, keys[i]));
		if (!text) {
			st = lora__fail_at(ctx, LORA_E_ARGUMENT, "safetensors", keys[i], -1, "metadata '%s' is not a string", lora__quote(keys[i]).text);
			break;
		}
		if (i) lora__text_add(out, ",", 1);
		put_string(out, keys[i]);
		lora__text_add(out, ":", 1);
		put_string(out, text);
	}
	lora__text_add(out, "}", 1);
	if (!st && out->n - begin > METADATA_MAX) st = lora__fail(ctx, LORA_E_LIMIT, "safetensors", "metadata longer than 16 MiB");
	lora__free(ctx, keys);
	return st;
}

static lora_status check_item(lora_context *ctx, const lora__tensor *t, item *out)
{
	uint64_t    bytes;
	size_t      bad;
	const char *name = t->name;
	if (!lora__utf8_valid(name, strlen(name), &bad))
		return lora__fail_at(ctx, LORA_E_ARGUMENT, "safetensors", name, -1, "tensor name '%s' is not UTF-8", lora__quote(name).text);
	if (strcmp(name, "__metadata__") == 0) return lora__fail_at(ctx, LORA_E_ARGUMENT, "safetensors", name, -1, "a tensor can't be named __metadata__");
	*out = (item){ t, lora__st_type_of(t->dtype) };
	if (!out->type && t->dtype == LORA_DTYPE_NONE && t->stored) out->type = lora__st_type_named(t->stored, strlen(t->stored));
	if (!out->type) return lora__fail_at(ctx, LORA_E_DTYPE, "safetensors", name, -1, "tensor '%s': no such dtype in safetensors", lora__quote(name).text);
	if (t->rank < 0 || t->rank > LORA__TENSOR_RANK)
		return lora__fail_at(ctx, LORA_E_SHAPE, "safetensors", name, -1, "tensor '%s': rank %d", lora__quote(name).text, (int)t->rank);
	lora_status st = lora__st_bytes(out->type, t->shape, t->rank, &bytes);
	if (st || bytes != t->bytes)
		return lora__fail_at(ctx, LORA_E_SHAPE, "safetensors", name, -1, "tensor '%s': shape and dtype do not make the %llu bytes given",
		                     lora__quote(name).text, (unsigned long long)t->bytes);
	return LORA_OK;
}

static lora_status put_entries(lora_context *ctx, const item *items, size_t n, lora__text *out)
{
	uint64_t at = 0, end;
	for (size_t i = 0; i < n; i++) {
		const lora__tensor *t = items[i].tensor;
		if (!lora__add_u64(at, t->bytes, &end) || end > INT64_MAX)
			return lora__fail(ctx, LORA_E_LIMIT, "safetensors", "the tensors make more than 2^63 bytes");
		if (i) lora__text_add(out, ",", 1);
		put_string(out, t->name);
		lora__text_printf(out, ":{\"dtype\":\"%s\",\"shape\":[", items[i].type->name);
		for (int32_t k = 0; k < t->rank; k++) lora__text_printf(out, "%s%lld", k ? "," : "", (long long)t->shape[k]);
		lora__text_printf(out, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at, (unsigned long long)end);
		at = end;
	}
	return LORA_OK;
}

/* Length in front, spaces behind. out holds 8 bytes of room and the JSON. */
static lora_status close_header(lora_context *ctx, lora__text *out)
{
	while (!out->status && out->n % 8) lora__text_add(out, " ", 1);
	if (out->status) return out->status;
	uint64_t n = out->n - 8;
	if (n > HEADER_LIMIT) return lora__fail(ctx, LORA_E_LIMIT, "safetensors", "header of %llu bytes, the limit is %u", (unsigned long long)n, HEADER_LIMIT);
	for (int i = 0; i < 8; i++) out->data[i] = (char)(n >> (8 * i) & 0xff);
	return LORA_OK;
}

/* Data behind the header in the file's byte order, for big-endian hosts: the one place where writing swaps. */
static lora_status append_swapped(const item *items, size_t n, lora__text *out, size_t *total)
{
	for (size_t i = 0; i < n; i++) {
		size_t at = out->n;
		lora__text_add(out, items[i].tensor->data, (size_t)items[i].tensor->bytes);
		if (out->status) return out->status;
		lora__swap_bytes(out->data + at, out->data + at, (size_t)items[i].tensor->bytes, items[i].type->swap);
	}
	*total = out->n;
	return LORA_OK;
}

/* The sorted list tells duplicates only within one type, so they are looked for by name alone. */
static lora_status check_names(lora_context *ctx, const lora__tensor *list, size_t n)
{
	const char **names = lora__calloc(ctx, n ? n : 1, sizeof *names);
	lora_status  st = LORA_OK;
	if (!names) return LORA_E_MEMORY;
	for (size_t i = 0; i < n; i++) names[i] = list[i].name;
	qsort(names, n, sizeof *names, compare_keys);
	for (size_t i = 1; i < n && !st; i++)
		if (strcmp(names[i - 1], names[i]) == 0)
			st = lora__fail_at(ctx, LORA_E_EXISTS, "safetensors", names[i], -1, "two tensors are named '%s'", lora__quote(names[i]).text);
	lora__free(ctx, names);
	return st;
}

lora_status lora__safetensors_layout(lora_context *ctx, const lora__tensor *list, size_t n, const json_t *metadata, lora__text *header,
                                     lora__piece *pieces)
{
	lora_status st = check_names(ctx, list, n);
	if (st) return st;
	item *items = lora__calloc(ctx, n ? n : 1, sizeof *items);
	if (!items) return LORA_E_MEMORY;
	for (size_t i = 0; i < n && !st; i++) st = check_item(ctx, &list[i], &items[i]);
	if (st) goto done;
	qsort(items, n, sizeof *items, compare_items);
	lora__text_add(header, "\0\0\0\0\0\0\0\0{", 9);
	if (metadata) st = put_metadata(ctx, metadata, header);
	if (!st && metadata && n) lora__text_add(header, ",", 1);
	if (!st) st = put_entries(ctx, items, n, header);
	lora__text_add(header, "}", 1);
	if (!st) st = close_header(ctx, header);
	if (st) goto done;
	size_t total = header->n;
	if (LORA__BIG_ENDIAN) st = append_swapped(items, n, header, &total);
	if (st) goto done;
	pieces[0] = (lora__piece){ header->data, total };
	for (size_t i = 0; i < n; i++)
		pieces[i + 1] = LORA__BIG_ENDIAN ? (lora__piece){ NULL, 0 } : (lora__piece){ items[i].tensor->data, (size_t)items[i].tensor->bytes };
done:
	lora__free(ctx, items);
	return st;
}


/* Layout on the heap: *pieces of n + 1, *header. */
static lora_status lay_out(lora_context *ctx, const lora__tensor *list, size_t n, const json_t *metadata, lora__text *header,
                           lora__piece **pieces)
{
	lora__text_init(header, ctx);
	*pieces = lora__calloc(ctx, n + 1, sizeof **pieces);
	return *pieces ? lora__safetensors_layout(ctx, list, n, metadata, header, *pieces) : LORA_E_MEMORY;
}

lora_status lora__safetensors_write(lora_context *ctx, const char *path, const lora__tensor *list, size_t n, const json_t *metadata)
{
	lora__text   header;
	lora__piece *pieces;
	lora_status  st = lay_out(ctx, list, n, metadata, &header, &pieces);
	if (!st) st = lora__file_replace(ctx, path, pieces, n + 1);
	lora__text_free(&header);
	lora__free(ctx, pieces);
	return st;
}

lora_status lora__safetensors_write_dir(lora__dir *d, const char *name, const lora__tensor *list, size_t n, const json_t *metadata)
{
	lora__text   header;
	lora__piece *pieces;
	lora_status  st = lay_out(d->ctx, list, n, metadata, &header, &pieces);
	if (!st) st = lora__dir_file(d, name, pieces, n + 1);
	else if (!d->status) d->status = st;
	lora__text_free(&header);
	lora__free(d->ctx, pieces);
	return st;
}

/* Chained over 4 KiB steps in the file's byte order; the tensors are added up, so that their order does not count. */
static uint64_t digest_one(const lora__tensor *t)
{
	enum { STEP = 4096 };
	const lora__st_type *type = lora__st_type_of(t->dtype);
	if (!type && t->stored) type = lora__st_type_named(t->stored, strlen(t->stored));
	const char *type_name = type ? type->name : "";
	uint64_t    h = lora__hash64(t->name, strlen(t->name), 0x6c6f7261u);
	h = lora__hash64(type_name, strlen(type_name), h);
	for (int32_t i = 0; i < t->rank; i++) {
		uint8_t d[8];
		for (int k = 0; k < 8; k++) d[k] = (uint8_t)((uint64_t)t->shape[i] >> (8 * k));
		h = lora__hash64(d, sizeof d, h);
	}
	for (uint64_t at = 0; at < t->bytes; at += STEP) {
		size_t         n = t->bytes - at < STEP ? (size_t)(t->bytes - at) : STEP;
		const uint8_t *p = t->data + at;
		uint8_t        turned[STEP];
		if (LORA__BIG_ENDIAN && type) {
			lora__swap_bytes(turned, p, n, type->swap);
			p = turned;
		}
		h = lora__hash64(p, n, h);
	}
	return h;
}

uint64_t lora__tensors_digest(const lora__tensor *list, size_t n)
{
	uint64_t sum = n;
	for (size_t i = 0; i < n; i++) sum += digest_one(&list[i]);
	return lora__hash64(&(uint8_t){ 0 }, 1, sum);
}
