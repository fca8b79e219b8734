/* Writing GGUF version 3: metadata record by record, then the tensors. The file is little-endian on every host.
 * Source: ggml/docs/gguf.md. Offsets are the running sum of padded sizes, as the reference reader asks for. */
#include <stdio.h>
#include <string.h>

#include "format/gguf_part.h"
#include "format/safetensors_type.h"

enum { ALIGNMENT = 32 };

static void put(lora__gguf_out *o, uint64_t v, size_t bytes)
{
	uint8_t b[8];
	for (size_t i = 0; i < bytes; i++) b[i] = (uint8_t)(v >> (8 * i));
	lora__text_add(&o->kv, b, bytes);
}

void lora__gguf_begin(lora__gguf_out *o, lora_context *ctx)
{
	*o = (lora__gguf_out){ .ctx = ctx };
	lora__text_init(&o->kv, ctx);
}

void lora__gguf_end(lora__gguf_out *o) { lora__text_free(&o->kv); }

void lora__gguf_item_string(lora__gguf_out *o, const char *s, size_t n)
{
	put(o, n, 8);
	lora__text_add(&o->kv, s, n);
}
void lora__gguf_item_u32(lora__gguf_out *o, uint32_t v) { put(o, v, 4); }
void lora__gguf_item_f32(lora__gguf_out *o, float v)
{
	uint32_t u;
	memcpy(&u, &v, 4);
	put(o, u, 4);
}

static void key(lora__gguf_out *o, const char *name, size_t n, uint32_t type)
{
	lora__gguf_item_string(o, name, n);
	put(o, type, 4);
	o->n_kv++;
}

void lora__gguf_put_int(lora__gguf_out *o, const char *name, uint32_t type, int64_t v)
{
	key(o, name, strlen(name), type);
	put(o, (uint64_t)v, lora__gguf_value_size(type));
}

void lora__gguf_put_float(lora__gguf_out *o, const char *name, double v)
{
	key(o, name, strlen(name), LORA__GGUF_F32);
	lora__gguf_item_f32(o, (float)v);
}

void lora__gguf_put_string(lora__gguf_out *o, const char *name, const char *s, size_t n)
{
	key(o, name, strlen(name), LORA__GGUF_STRING);
	lora__gguf_item_string(o, s, n);
}

void lora__gguf_put_array(lora__gguf_out *o, const char *name, uint32_t elem, uint64_t n)
{
	key(o, name, strlen(name), LORA__GGUF_ARRAY);
	put(o, elem, 4);
	put(o, n, 8);
}

void lora__gguf_copy(lora__gguf_out *o, const lora__gguf *from, const char *name, size_t n, const lora__gguf_value *v)
{
	uint32_t elem = v->type == LORA__GGUF_ARRAY ? v->elem : v->type;
	key(o, name, n, v->type);
	if (v->type == LORA__GGUF_STRING) {
		lora__gguf_item_string(o, (const char *)v->p, (size_t)v->n);
		return;
	}
	if (v->type == LORA__GGUF_ARRAY) put(o, elem, 4), put(o, v->n, 8);
	const uint8_t *p = v->p;
	for (uint64_t i = 0; i < v->n && !o->kv.status; i++) {
		const char *s;
		size_t len, each = lora__gguf_value_size(elem);
		if (elem == LORA__GGUF_STRING) {
			lora__gguf_next(from, &p, &s, &len);
			lora__gguf_item_string(o, s, len);
		} else {
			put(o, lora__gguf_number(from, p, each), each);
			p += each;
		}
	}
}

static uint64_t padding(uint64_t n) { return (ALIGNMENT - n % ALIGNMENT) % ALIGNMENT; }

/* The records of the tensors behind the metadata; n pairs of data and padding follow the header. */
static lora_status records(lora__gguf_out *o, const lora__tensor *list, size_t n, lora__text *head)
{
	uint64_t offset = 0;
	lora__gguf_out h = { .ctx = o->ctx };
	lora__text_init(&h.kv, o->ctx);
	lora__text_add(&h.kv, "GGUF", 4);
	put(&h, 3, 4);
	put(&h, n, 8);
	put(&h, o->n_kv, 8);
	lora__text_add(&h.kv, o->kv.data, o->kv.n);
	for (size_t i = 0; i < n; i++) {
		const lora__tensor *t = &list[i];
		int id = lora__gguf_type_id(t->dtype);
		if (id < 0 || t->rank < 1 || t->rank > 4 || strlen(t->name) > LORA__GGUF_NAME) {
			lora__text_free(&h.kv);
			return lora__fail_at(o->ctx, id < 0 ? LORA_E_DTYPE : LORA_E_SHAPE, "gguf", t->name, -1, "tensor %s can't be written to GGUF: %s",
				lora__quote(t->name).text, id < 0 ? "it has no such type" : t->rank < 1 || t->rank > 4 ? "1 to 4 dimensions are possible" : "its name is longer than 63 bytes");
		}
		lora__gguf_item_string(&h, t->name, strlen(t->name));
		put(&h, (uint64_t)t->rank, 4);
		for (int32_t k = t->rank - 1; k >= 0; k--) put(&h, (uint64_t)t->shape[k], 8);
		put(&h, (uint64_t)id, 4);
		put(&h, offset, 8);
		offset += t->bytes + padding(t->bytes);
	}
	static const char zeros[ALIGNMENT];
	lora__text_add(&h.kv, zeros, (size_t)padding(h.kv.n));
	*head = h.kv;
	return h.kv.status;
}

lora_status lora__gguf_write(lora__gguf_out *o, const char *path, const lora__tensor *list, size_t n)
{
	static const char zeros[ALIGNMENT];
	lora_context *ctx = o->ctx;
	lora__text head;
	uint8_t *swapped = NULL;
	lora__piece *pieces = lora__calloc(ctx, 2 * n + 1, sizeof *pieces);
	lora__text_init(&head, ctx);
	lora_status st = pieces ? o->kv.status : LORA_E_MEMORY;
	if (!st) st = records(o, list, n, &head);
	if (!st && LORA__BIG_ENDIAN) {
		uint64_t total = 1;
		for (size_t i = 0; i < n; i++) total += list[i].bytes;
		if (!(swapped = lora__alloc(ctx, (size_t)total))) st = LORA_E_MEMORY;
	}
	uint8_t *to = swapped;
	for (size_t i = 0; i < n && !st; i++) {
		const void *data = list[i].data;
		if (LORA__BIG_ENDIAN && list[i].bytes) {
			if (!lora__gguf_swap_data(to, &list[i])) st = lora__fail(ctx, LORA_E_UNSUPPORTED, "gguf", "tensor %s: its type is not written on this host", list[i].name);
			data = to;
			to += list[i].bytes;
		}
		pieces[2 * i + 1] = (lora__piece){ data, (size_t)list[i].bytes };
		pieces[2 * i + 2] = (lora__piece){ zeros, (size_t)padding(list[i].bytes) };
	}
	if (!st) pieces[0] = (lora__piece){ head.data, head.n };
	if (!st) st = lora__file_replace(ctx, path, pieces, 2 * n + 1);
	lora__text_free(&head);
	lora__free(ctx, swapped);
	lora__free(ctx, pieces);
	lora__gguf_end(o);
	return st;
}
