/* The cache of primitives of the plug-in "onednn": made once for sizes, strides, dtypes and factors, kept until ONEDNN_ENTRIES others were used
 * more recently. Making one compiles kernels (0.3 to 5 ms); running a kept one allocates nothing of the host.
 * Factors: alpha is the output scale, beta the post-operation sum: both in float before C's rounding. (A linear eltwise and a sum together would
 * leave only reference code for transposed and padded operands.) */
#include "backend/onednn/onednn.h"

#include "lora/context.h"

static uint64_t hash_of(const onednn_key *key)
{
	uint64_t h = 1469598103934665603u;
	const unsigned char *p = (const unsigned char *)key;
	for (size_t i = 0; i < sizeof *key; i += 8) { /* FNV-1a over words */
		uint64_t w;
		memcpy(&w, p + i, 8);
		h = (h ^ w) * 1099511628211u;
		h ^= h >> 29;
	}
	return h;
}

void lora__onednn_plain(dnnl_memory_desc_t *md, int64_t rows, int64_t cols, int64_t rs, int64_t cs, int32_t type)
{
	dnnl_dims_t dims = { rows, cols }, strides = { rs, cs };
	dnnl_memory_desc_init_by_strides(md, 2, dims, (dnnl_data_type_t)type, strides);
}

static dnnl_status_t make_attr(const onednn_key *key, dnnl_primitive_attr_t *attr, dnnl_post_ops_t *ops)
{
	dnnl_status_t s = dnnl_primitive_attr_create(attr);
	if (!s) s = dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user);
	if (!s) s = dnnl_post_ops_create(ops);
	if (!s && key->alpha != 1) s = dnnl_primitive_attr_set_output_scales(*attr, 1, 0, &key->alpha);
	if (!s && key->beta != 0) s = dnnl_post_ops_append_sum(*ops, key->beta);
	if (!s) s = dnnl_primitive_attr_set_post_ops(*attr, *ops);
	return s;
}

static dnnl_status_t make(const onednn *self, onednn_entry *e)
{
	const onednn_key *key = &e->key;
	dnnl_primitive_attr_t attr = NULL;
	dnnl_post_ops_t ops = NULL;
	dnnl_primitive_desc_t pd = NULL;
	dnnl_matmul_desc_t d;
	int before = lora__onednn_enter(); /* the number of threads becomes part of a primitive */
	lora__onednn_plain(&e->a, key->m, key->k, key->ars, key->acs, key->type);
	lora__onednn_plain(&e->c, key->m, key->n, key->crs, 1, key->c_type);
	dnnl_status_t s = make_attr(key, &attr, &ops);
	if (!s) s = dnnl_matmul_desc_init(&d, &e->a, &e->b, NULL, &e->c);
	if (!s) s = dnnl_primitive_desc_create(&pd, &d, attr, self->engine, NULL);
	if (!s) s = dnnl_primitive_create(&e->primitive, pd);
	const char *impl = NULL;
	if (!s && !dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &impl) && !strncmp(impl, "ref", 3) && self->host.log)
		self->host.log(self->host.host, LORA_LOG_WARN, "onednn", "oneDNN has only reference code for a product: it will be slow");
	if (!s) {
		e->scratch = *dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
		e->scratch_bytes = (dnnl_memory_desc_get_size(&e->scratch) + 63) / 64 * 64;
	}
	if (pd) dnnl_primitive_desc_destroy(pd);
	if (ops) dnnl_post_ops_destroy(ops);
	if (attr) dnnl_primitive_attr_destroy(attr);
	lora__onednn_leave(before);
	return s;
}

dnnl_status_t lora__onednn_slot(const onednn *self, const onednn_entry *e, onednn_slot *s)
{
	dnnl_status_t st = dnnl_memory_create(&s->a, &e->a, self->engine, DNNL_MEMORY_NONE);
	if (!st) st = dnnl_memory_create(&s->b, &e->b, self->engine, DNNL_MEMORY_NONE);
	if (!st) st = dnnl_memory_create(&s->c, &e->c, self->engine, DNNL_MEMORY_NONE);
	if (!st) st = dnnl_memory_create(&s->scratch, &e->scratch, self->engine, DNNL_MEMORY_NONE);
	if (st) lora__onednn_slot_free(s);
	return st;
}

void lora__onednn_slot_free(onednn_slot *s)
{
	if (s->a) dnnl_memory_destroy(s->a);
	if (s->b) dnnl_memory_destroy(s->b);
	if (s->c) dnnl_memory_destroy(s->c);
	if (s->scratch) dnnl_memory_destroy(s->scratch);
	*s = (onednn_slot){ 0 };
}

static void drop(const onednn *self, onednn_entry *e)
{
	for (int32_t t = 0; e->slots && t < self->threads; t++) lora__onednn_slot_free(&e->slots[t]);
	if (e->primitive) dnnl_primitive_destroy(e->primitive);
	if (e->slots) self->host.free(self->host.host, e->slots);
	e->primitive = NULL, e->slots = NULL;
}

static void unlink_entry(onednn *self, int32_t i)
{
	int32_t *link = &self->heads[self->entries[i].hash % ONEDNN_BUCKETS];
	while (*link >= 0 && *link != i) link = &self->entries[*link].next;
	if (*link == i) *link = self->entries[i].next;
}

/* A free place: an unused one, or the one that was not used for the longest time. -1 when all are in use at this moment. */
static int32_t take_place(onednn *self)
{
	int32_t oldest = -1;
	if (self->n_entries < ONEDNN_ENTRIES) return self->n_entries++;
	for (int32_t i = 0; i < self->n_entries; i++)
		if (!self->entries[i].pins && (oldest < 0 || self->entries[i].used < self->entries[oldest].used)) oldest = i;
	if (oldest < 0) return -1;
	if (self->entries[oldest].primitive) unlink_entry(self, oldest);
	drop(self, &self->entries[oldest]);
	return oldest;
}

lora_status lora__onednn_get(onednn *self, const onednn_key *key, const dnnl_memory_desc_t *b, onednn_entry **out)
{
	uint64_t hash = hash_of(key);
	lora_status st = LORA_OK;
	onednn_entry *e = NULL;
	pthread_mutex_lock(&self->lock);
	int32_t i = self->heads[hash % ONEDNN_BUCKETS];
	while (i >= 0 && (self->entries[i].hash != hash || memcmp(&self->entries[i].key, key, sizeof *key))) i = self->entries[i].next;
	if (i >= 0) {
		e = &self->entries[i];
	} else if ((i = take_place(self)) < 0) {
		st = lora__onednn_fail(self, LORA_E_BACKEND, "all cached primitives are in use at once");
	} else {
		e = &self->entries[i];
		*e = (onednn_entry){ .key = *key, .hash = hash, .next = -1, .b = *b };
		size_t bytes = (size_t)self->threads * sizeof *e->slots;
		e->slots = self->host.alloc(self->host.host, bytes);
		if (!e->slots) {
			st = lora__onednn_fail(self, LORA_E_MEMORY, "no memory for a primitive");
		} else {
			memset(e->slots, 0, bytes);
			st = lora__onednn_status(self, make(self, e), "making a matmul primitive");
		}
		if (st) {
			drop(self, e);
			e->used = 0;
		} else {
			e->next = self->heads[hash % ONEDNN_BUCKETS], self->heads[hash % ONEDNN_BUCKETS] = i;
		}
	}
	if (!st) e->used = ++self->clock, e->pins++, *out = e;
	pthread_mutex_unlock(&self->lock);
	return st;
}

void lora__onednn_put(onednn *self, onednn_entry *e)
{
	pthread_mutex_lock(&self->lock);
	e->pins--;
	pthread_mutex_unlock(&self->lock);
}

void lora__onednn_clear(onednn *self)
{
	for (int32_t i = 0; i < self->n_entries; i++) drop(self, &self->entries[i]);
	self->n_entries = 0;
}
