/* Exported functions of model.h that are not opening and building (model/model_open.c) or saving (model/model_save.c). */
#include <string.h>

#include "adapter/adapter.h"
#include "base/rng.h"
#include "model/model.h"

const char *lora_dtype_name(lora_dtype d) { return lora__dtype_name(d); }

lora_status lora_model_create(lora_context *ctx, lora_model **out)
{
	if (out) *out = NULL;
	if (!ctx || !out) return lora__fail(ctx, LORA_E_ARGUMENT, "model", "lora_model_create: %s is NULL", ctx ? "out" : "ctx");
	return lora__model_new(ctx, out);
}

lora_status lora_model_add_site(lora_model *m, const lora_site_info *desc, int64_t *index)
{
	lora__site *s;
	if (!m) return LORA_E_ARGUMENT;
	if (!desc || desc->struct_size < offsetof(lora_site_info, merged))
		return lora__fail(m->s.ctx, LORA_E_ARGUMENT, "model", "lora_model_add_site: desc is NULL or its struct_size is not set");
	if (m->arch) return lora__fail(m->s.ctx, LORA_E_STATE, "model", "this model has a graph of its own; sites cannot be added");
	if (desc->flags & ~(uint32_t)(LORA_SITE_READONLY | LORA_SITE_TRANSPOSED))
		return lora__fail(m->s.ctx, LORA_E_ARGUMENT, "model", "lora_model_add_site: unknown flags");
	if (desc->dtype != LORA_F32 && desc->dtype != LORA_F16 && desc->dtype != LORA_BF16)
		return lora__fail(m->s.ctx, LORA_E_DTYPE, "model", "a site's weight must be F32, F16 or BF16");
	lora_site_info d = *desc;
	d.flags |= LORA_SITE_HOST;
	lora_status st = lora__sites_add(&m->s, &d, &s);
	if (st == LORA_OK && index) *index = s->index;
	return st;
}

lora_status lora_model_get_info(const lora_model *m, lora_model_info *out)
{
	if (!m) return LORA_E_ARGUMENT;
	if (!out || out->struct_size < 8) return lora__fail(m->s.ctx, LORA_E_ARGUMENT, "model", "lora_model_get_info: out is NULL or its struct_size is not set");
	lora_model_info i = { .dtype = m->dtype, .compute_dtype = m->s.real, .n_layers = (int32_t)m->layers, .architecture = m->arch ? m->arch->m.name : "",
		.format = m->gguf ? "gguf" : m->has_file ? "safetensors" : m->arch ? "built" : "host", .path = m->path ? m->path : "", .n_parameters = m->n_parameters,
		.vocab_size = m->vocab, .hidden_size = m->hidden, .max_positions = m->max_positions, .n_sites = lora_model_site_count(m), .eos_token_id = m->eos,
		.bos_token_id = m->bos, .pad_token_id = m->pad, .n_labels = m->n_labels,
		.has_head = m->has_head, .has_decoder = m->form == LORA__FORM_SEQ2SEQ, .decoder_start_token_id = m->form == LORA__FORM_SEQ2SEQ ? m->decoder_start : -1 };
	uint32_t size = out->struct_size;
	memcpy(out, &i, size < sizeof i ? size : sizeof i);
	out->struct_size = size;
	return LORA_OK;
}

int32_t lora_model_is_end(const lora_model *m, int32_t token)
{
	if (!m || !m->ends) return 0;
	if (!json_is_array(m->ends)) return json_is_integer(m->ends) && json_integer_value(m->ends) == token;
	for (size_t i = 0; i < json_array_size(m->ends); i++)
		if (json_is_integer(json_array_get(m->ends, i)) && json_integer_value(json_array_get(m->ends, i)) == token) return 1;
	return 0;
}

int64_t lora_model_site_count(const lora_model *m) { return m ? (int64_t)(m->s.n - m->s.n_tables) : 0; }

static int32_t merged_count(const lora__site *s)
{
	int32_t n = 0;
	for (size_t i = 0; i < s->n_chain; i++) n += s->chain[i]->merged;
	return n;
}

lora_status lora_model_site_info(const lora_model *m, int64_t index, lora_site_info *out)
{
	if (!m) return LORA_E_ARGUMENT;
	if (!out || out->struct_size < 8) return lora__fail(m->s.ctx, LORA_E_ARGUMENT, "model", "lora_model_site_info: out is NULL or its struct_size is not set");
	if (index < 0 || index >= (int64_t)m->s.n)
		return lora__fail(m->s.ctx, LORA_E_ARGUMENT, "model", "site %lld, the model has %lld", (long long)index, (long long)m->s.n);
	const lora__site *s = m->s.list[index];
	lora_site_info i = { .dtype = s->dtype, .name = s->name, .out = s->out, .in = s->in, .data = s->data, .flags = s->flags, .layer = s->layer,
		.merged = s->merged ? merged_count(s) : 0, .attached = (int32_t)s->n_chain };
	uint32_t size = out->struct_size;
	memcpy(out, &i, size < sizeof i ? size : sizeof i);
	out->struct_size = size;
	return LORA_OK;
}

lora_status lora_model_site_order(const lora_model *m, int64_t site, int64_t rows, int64_t rank, int32_t dropout, lora_site_order *out)
{
	if (!m) return LORA_E_ARGUMENT;
	const char *bad = site < 0 || site >= lora_model_site_count(m) ? "site" : rows < 1 || rows > INT32_MAX ? "rows" : rank < 1 || rank > INT32_MAX ? "rank" :
		!out || out->struct_size < offsetof(lora_site_order, flops_forward) ? "out" : NULL;
	if (bad) return lora__fail_at(m->s.ctx, LORA_E_ARGUMENT, "model", bad, -1, "lora_model_site_order: %s is out of range", bad);
	int fixed = 0;
	lora__order o = lora__site_order(m->s.list[site], m->s.ctx, m->s.real, rows, rank, &fixed);
	if (dropout && !fixed) fixed = LORA_ORDER_DROPOUT;
	lora_site_order r = { .struct_size = out->struct_size, .forward = fixed ? 1 : o.forward, .backward = fixed ? 1 : o.backward, .fixed = fixed,
		.flops_forward = { o.flops_forward[0], o.flops_forward[1] }, .flops_backward = { o.flops_backward[0], o.flops_backward[1] } };
	memcpy(out, &r, r.struct_size < sizeof r ? r.struct_size : sizeof r);
	return LORA_OK;
}

lora_status lora_model_find_site(const lora_model *m, const char *name, int64_t *index)
{
	if (!m) return LORA_E_ARGUMENT;
	if (!name || !index) return lora__fail(m->s.ctx, LORA_E_ARGUMENT, "model", "lora_model_find_site: %s is NULL", name ? "index" : "name");
	lora__site *s = lora__sites_find(&m->s, name);
	if (!s) return lora__fail_at(m->s.ctx, LORA_E_NOTFOUND, "model", name, -1, "there is no site %s", lora__quote(name).text);
	*index = s->index;
	return LORA_OK;
}

static lora_status check_logits(const lora_model *m, const lora_batch *batch, const float *logits, size_t bytes)
{
	int64_t rows, cols, n;
	if (!logits) return LORA_OK;
	if (!m->has_head) return lora__fail(m->s.ctx, LORA_E_UNSUPPORTED, "model", "this model has no head: use lora_model_hidden(), or the setting num_labels");
	lora_status st = lora__batch_logits(m, batch, &rows, &cols);
	if (st) return st;
	if (!lora__mul_i64(rows, cols * (int64_t)sizeof(float), &n)) return lora__fail(m->s.ctx, LORA_E_ARGUMENT, "model", "batch is NULL or has impossible sizes");
	if (bytes < (uint64_t)n) return lora__fail(m->s.ctx, LORA_E_SHAPE, "model", "logits has %zu bytes, %lld needed", bytes, (long long)n);
	return LORA_OK;
}

static lora_status need_graph(const lora_model *m)
{
	return m->arch ? LORA_OK : lora__fail(m->s.ctx, LORA_E_STATE, "model", "this model has host-owned sites and no graph; use lora_linear_forward()");
}

static lora_status forward(lora_model *m, const lora_batch *batch, int train, uint64_t seed, float *logits, size_t bytes)
{
	if (!m) return LORA_E_ARGUMENT;
	if (!logits) return lora__fail(m->s.ctx, LORA_E_ARGUMENT, "model", "lora_model_forward: logits is NULL");
	lora_status st = need_graph(m);
	if (st == LORA_OK) st = check_logits(m, batch, logits, bytes);
	if (st) return st;
	lora_batch b = *batch;
	if (m->form != LORA__FORM_SEQ2SEQ) b.labels = NULL; /* there the decoder's tokens may come from them */
	lora__pass p = { .batch = &b, .logits = logits, .train = train, .key = lora__rng_key(seed, LORA__RNG_DROPOUT, 0) };
	return lora__model_pass(m, &p);
}

lora_status lora_model_forward(lora_model *m, const lora_batch *batch, float *logits, size_t bytes) { return forward(m, batch, 0, 0, logits, bytes); }

lora_status lora_model_forward_dropout(lora_model *m, const lora_batch *batch, uint64_t seed, float *logits, size_t bytes)
{
	return forward(m, batch, 1, seed, logits, bytes);
}

lora_status lora_model_hidden(lora_model *m, const lora_batch *batch, float *hidden, size_t bytes)
{
	int64_t rows, n;
	if (!m) return LORA_E_ARGUMENT;
	if (!hidden || !batch) return lora__fail(m->s.ctx, LORA_E_ARGUMENT, "model", "lora_model_hidden: %s is NULL", hidden ? "batch" : "hidden");
	lora_status st = need_graph(m);
	if (st == LORA_OK) st = lora__batch_hidden(m, batch, &rows);
	if (st) return st;
	if (!lora__mul_i64(rows, m->hidden * (int64_t)sizeof(float), &n) || bytes < (uint64_t)n)
		return lora__fail(m->s.ctx, LORA_E_SHAPE, "model", "hidden has %zu bytes, %lld x %lld x 4 needed", bytes, (long long)rows, (long long)m->hidden);
	lora_batch b = *batch;
	if (m->form != LORA__FORM_SEQ2SEQ) b.labels = NULL;
	lora__pass p = { .batch = &b, .hidden = hidden };
	return lora__model_pass(m, &p);
}

/* Gradients as they were, so that a backward pass that fails half-way (a backend out of memory) leaves no part of its sums behind. */
typedef struct kept { lora_adapter *adapter; char *grads; /* NULL = there were none: zero */ } kept;
typedef struct keeper { kept *list; size_t n, cap; } keeper;

static lora_status keep_one(lora_context *ctx, keeper *k, lora_adapter *a)
{
	for (size_t i = 0; i < k->n; i++)
		if (k->list[i].adapter == a) return LORA_OK;
	lora_status st = lora__grow(ctx, &k->list, &k->cap, k->n + 1, sizeof *k->list);
	if (st) return st;
	size_t bytes = a->n_params * lora__dtype_size(lora__wide(a->sites->real));
	char *copy = a->grads ? lora__alloc(ctx, bytes) : NULL;
	if (a->grads && !copy) return LORA_E_MEMORY;
	if (copy) memcpy(copy, a->grads, bytes);
	k->list[k->n++] = (kept){ a, copy };
	return LORA_OK;
}

static lora_status keep_gradients(lora_model *m, keeper *k)
{
	lora_status st = LORA_OK;
	for (size_t i = 0; i < m->s.n; i++)
		for (size_t j = 0; j < m->s.list[i]->n_chain && st == LORA_OK; j++)
			if (m->s.list[i]->chain[j]->trainable) st = keep_one(m->s.ctx, k, m->s.list[i]->chain[j]->adapter);
	for (size_t i = 0; i < m->s.n_virtuals && st == LORA_OK; i++)
		if (m->s.virtuals[i]->trainable) st = keep_one(m->s.ctx, k, m->s.virtuals[i]->adapter);
	return st;
}

static void end_keeping(lora_context *ctx, keeper *k, int restore)
{
	for (size_t i = 0; i < k->n; i++) {
		lora_adapter *a = k->list[i].adapter;
		size_t bytes = a->n_params * lora__dtype_size(lora__wide(a->sites->real));
		if (restore && k->list[i].grads) memcpy(a->grads, k->list[i].grads, bytes);
		else if (restore && a->grads) memset(a->grads, 0, bytes);
		lora__free(ctx, k->list[i].grads);
	}
	lora__free(ctx, k->list);
}

static lora_status with_loss(lora_model *m, const lora_batch *batch, float *logits, size_t bytes, int backward, double *loss, int64_t *tokens)
{
	if (!m) return LORA_E_ARGUMENT;
	if (!batch || !loss) return lora__fail(m->s.ctx, LORA_E_ARGUMENT, "model", "%s is NULL", batch ? "loss" : "batch");
	if (batch->struct_size >= offsetof(lora_batch, labels) + sizeof batch->labels && !batch->labels)
		return lora__fail(m->s.ctx, LORA_E_ARGUMENT, "model", "the batch has no labels");
	lora_status st = need_graph(m);
	if (st == LORA_OK) st = check_logits(m, batch, logits, bytes);
	for (size_t i = 0; backward && i < m->s.n && st == LORA_OK; i++)
		if (m->s.list[i]->merged)
			st = lora__fail_at(m->s.ctx, LORA_E_STATE, "model", m->s.list[i]->name, -1, "an adapter is merged into %s; unmerge before a backward pass", m->s.list[i]->name);
	if (st) return st;
	lora__pass p = { .batch = batch, .logits = logits, .backward = backward, .grad_scale = 1.0, .mean = 1 };
	keeper k = { 0 };
	if (backward) st = keep_gradients(m, &k);
	if (st == LORA_OK) st = lora__model_pass(m, &p);
	end_keeping(m->s.ctx, &k, st != LORA_OK);
	if (st) return st;
	*loss = p.n_labels ? p.loss_sum / (double)p.n_labels : 0.0;
	if (tokens) *tokens = p.n_labels;
	return LORA_OK;
}

lora_status lora_model_loss(lora_model *m, const lora_batch *batch, double *loss, int64_t *tokens)
{
	return with_loss(m, batch, NULL, 0, 0, loss, tokens);
}

lora_status lora_model_backward(lora_model *m, const lora_batch *batch, float *logits, size_t bytes, double *loss, int64_t *tokens)
{
	return with_loss(m, batch, logits, bytes, 1, loss, tokens);
}

void lora_model_destroy(lora_model *m)
{
	if (m) lora__sites_release(&m->s);
}
