/* Adapters of virtual tokens as a whole: their tensors, memory, files, and the encoder behind a prefix (PEFT's prefix_projection):
 * P = tanh(E W1^T + b1) W2^T + b2, with E[tokens,d], W1[hidden,d], W2[width,hidden]. Backward: dW2 += dP^T h, db2 += sum dP, z = (dP W2) (1 - h^2),
 * dW1 += z^T E, db1 += sum z, dE += z W1. Files: prompt_embeddings[tokens,width] is what PEFT reads; where the parameters are others (encoder.*,
 * or the vertices of a subspace in prompt_embeddings_vertices, one set after the other) they are beside it, and training can go on from them.
 * Source: PEFT 0.21, PrefixEncoder, PeftModel.get_prompt(), get_peft_model_state_dict(); Li & Liang 2021, arXiv:2101.00190, section 4.3. */
#include <math.h>
#include <string.h>

#include "adapter/adapter.h"

#define VERTICES LORA__PROMPT_TENSOR "_vertices"
enum { E = 0, W1, B1, W2, B2, ENCODER_TENSORS };

lora_status lora__set_int(lora_context *ctx, lora_settings *s, const char *key, int64_t value)
{
	if (json_object_set_new(s->object, key, json_integer(value))) return lora__fail(ctx, LORA_E_MEMORY, "adapter", "out of memory");
	return LORA_OK;
}

/* ---- the encoder ---- */

/* Its memory, all of the wide type: E, h, dh, and the values with their gradients. */
typedef struct pass { lora_dtype wide; int64_t n, d, hidden, width; char *e, *h, *dh, *p, *dp; size_t bytes; } pass;

static pass cut(const lora_adapter *a)
{
	pass q = { .wide = lora__wide(a->sites->real), .n = a->tokens->tokens, .width = a->tokens->width, .hidden = a->tensors[W1].shape[0], .d = a->tensors[W1].shape[1] };
	size_t each = lora__dtype_size(q.wide), at = 0;
	char **piece[] = { &q.e, &q.h, &q.dh, &q.p, &q.dp };
	int64_t cols[] = { q.d, q.hidden, q.hidden, q.width, q.width };
	for (int i = 0; i < 5; i++) *piece[i] = a->encoder ? a->encoder + at : NULL, at += each * (size_t)(q.n * cols[i]);
	q.bytes = at;
	return q;
}

static lora_view mat(const pass *q, const char *data, int64_t cols) { return lora__view2(data, q->wide, q->n, cols, cols); }
static lora_view param(const lora_adapter *a, int i) { return lora__view2(a->params + a->tensors[i].offset, LORA_F32, a->tensors[i].shape[0], a->tensors[i].shape[1], a->tensors[i].shape[1]); }

static lora_view grad(const lora_adapter *a, int i, const pass *q)
{
	const lora__ptensor *t = &a->tensors[i];
	char *at = a->grads + t->offset * lora__dtype_size(q->wide);
	return t->rank == 1 ? lora__view1(at, q->wide, t->shape[0]) : lora__view2(at, q->wide, t->shape[0], t->shape[1], t->shape[1]);
}

static double get(const pass *q, const char *x, int64_t i) { return q->wide == LORA_F64 ? ((const double *)(const void *)x)[i] : (double)((const float *)(const void *)x)[i]; }
static void put(const pass *q, char *x, int64_t i, double v)
{
	if (q->wide == LORA_F64) ((double *)(void *)x)[i] = v;
	else ((float *)(void *)x)[i] = (float)v;
}

static void add_bias(const lora_adapter *a, const pass *q, int bias, char *x, int64_t cols, int squash)
{
	const float *b = a->params + a->tensors[bias].offset;
	for (int64_t i = 0; i < q->n * cols; i++) {
		double v = get(q, x, i) + (double)b[i % cols];
		put(q, x, i, squash ? tanh(v) : v);
	}
}

static lora_status encode(lora_adapter *a)
{
	pass q = cut(a);
	lora__convert(q.e, q.wide, a->params + a->tensors[E].offset, LORA_F32, a->tensors[E].n);
	lora_status st = lora__gemm(a->ctx, 1.0, mat(&q, q.e, q.d), lora__view_t(param(a, W1)), 0.0, mat(&q, q.h, q.hidden));
	if (st) return st;
	add_bias(a, &q, B1, q.h, q.hidden, 1);
	if ((st = lora__gemm(a->ctx, 1.0, mat(&q, q.h, q.hidden), lora__view_t(param(a, W2)), 0.0, mat(&q, q.p, q.width)))) return st;
	add_bias(a, &q, B2, q.p, q.width, 0);
	return LORA_OK;
}

static lora_status sum_rows(lora_adapter *a, const pass *q, int bias, const char *x, int64_t cols)
{
	lora_call call = { .struct_size = sizeof call, .prim = LORA_PRIM_COLSUM, .n_views = 2, .f = { 1.0 } };
	call.v[0] = grad(a, bias, q), call.v[1] = mat(q, x, cols);
	return lora__run(a->ctx, &call);
}

static lora_status finish(lora__virtual *v)
{
	lora_adapter *a = v->adapter;
	pass q = cut(a);
	lora_status st = lora__gemm(a->ctx, 1.0, lora__view_t(mat(&q, q.dp, q.width)), mat(&q, q.h, q.hidden), 1.0, grad(a, W2, &q));
	if (st == LORA_OK) st = sum_rows(a, &q, B2, q.dp, q.width);
	if (st == LORA_OK) st = lora__gemm(a->ctx, 1.0, mat(&q, q.dp, q.width), param(a, W2), 0.0, mat(&q, q.dh, q.hidden));
	for (int64_t i = 0; i < q.n * q.hidden; i++) {
		double h = get(&q, q.h, i);
		put(&q, q.dh, i, get(&q, q.dh, i) * (1.0 - h * h));
	}
	if (st == LORA_OK) st = lora__gemm(a->ctx, 1.0, lora__view_t(mat(&q, q.dh, q.hidden)), mat(&q, q.e, q.d), 1.0, grad(a, W1, &q));
	if (st == LORA_OK) st = sum_rows(a, &q, B1, q.dh, q.hidden);
	return st ? st : lora__gemm(a->ctx, 1.0, mat(&q, q.dh, q.hidden), param(a, W1), 1.0, grad(a, E, &q));
}

static lora_status prepare(lora__virtual *v, int backward)
{
	lora_adapter *a = v->adapter;
	lora_status st = backward ? lora__adapter_need_grads(a) : LORA_OK;
	if (st) return st;
	if (!a->encoder) {
		v->grads = a->grads;
		return LORA_OK;
	}
	pass q = cut(a);
	v->values = q.p, v->grads = q.dp, v->dtype = q.wide;
	memset(q.dp, 0, lora__dtype_size(q.wide) * (size_t)(q.n * q.width));
	return encode(a);
}

/* ---- tensors and memory ---- */

static lora_status add_tensor(lora_adapter *a, const char *name, int64_t d0, int64_t d1)
{
	lora__ptensor *t = &a->tensors[a->n_tensors++];
	uint64_t n = 0;
	*t = (lora__ptensor){ .name = lora__strdup(a->ctx, name), .part = -1, .rank = d1 ? 2 : 1, .shape = { d0, d1 }, .offset = a->n_params };
	if (!t->name) return LORA_E_MEMORY;
	if (!lora__mul_u64((uint64_t)d0, (uint64_t)(d1 ? d1 : 1), &n) || n > INT64_MAX / 16)
		return lora__fail(a->ctx, LORA_E_LIMIT, "adapter", "the parameters of %s are too many", name);
	t->n = (size_t)n;
	a->n_params += t->n;
	return LORA_OK;
}

static lora_status add_tensors(lora_adapter *a, const lora_settings *s, int64_t hidden)
{
	const lora__virtual *v = a->tokens;
	if (!hidden) return add_tensor(a, v->vertices > 1 ? VERTICES : LORA__PROMPT_TENSOR, v->vertices * v->tokens, v->width);
	int64_t d = json_integer_value(lora__get_json(s, "token_dim"));
	const struct { const char *name; int64_t d0, d1; } all[ENCODER_TENSORS] = { { "encoder.embedding.weight", v->tokens, d }, { "encoder.transform.0.weight", hidden, d },
		{ "encoder.transform.0.bias", hidden, 0 }, { "encoder.transform.2.weight", v->width, hidden }, { "encoder.transform.2.bias", v->width, 0 } };
	lora_status st = LORA_OK;
	for (int i = 0; i < ENCODER_TENSORS && st == LORA_OK; i++) st = add_tensor(a, all[i].name, all[i].d0, all[i].d1);
	return st;
}

lora_status lora__virtual_new(lora__sites *sites, const lora__kind *kind, lora_settings *settings, const char *name, int encoded, lora_adapter **out)
{
	const lora__virtual_kind *k = kind->virtual_tokens;
	lora_context *ctx = sites->ctx;
	lora_adapter *a;
	lora_status st = lora__adapter_blank(sites, kind, name, &a);
	if (st) return st;
	int64_t hidden = encoded && k->hidden ? k->hidden(settings) : 0, n = json_integer_value(lora__get_json(settings, "num_virtual_tokens"));
	a->tokens = lora__zalloc(ctx, sizeof *a->tokens);
	a->tensors = lora__calloc(ctx, ENCODER_TENSORS, sizeof *a->tensors);
	if (!a->tokens || !a->tensors) st = LORA_E_MEMORY;
	else *a->tokens = (lora__virtual){ .adapter = a, .where = k->where, .trainable = 1, .tokens = n, .width = k->width(settings),
		.vertices = k->vertices ? k->vertices(settings) : 1, .dtype = LORA_F32, .prepare = prepare, .finish = hidden ? finish : NULL,
		.seed = (uint64_t)lora__get_int(settings, kind->m.params, "seed") };
	if (st == LORA_OK) st = add_tensors(a, settings, hidden);
	if (st == LORA_OK && !(a->params = lora__calloc(ctx, a->n_params, sizeof *a->params))) st = LORA_E_MEMORY;
	if (st == LORA_OK) a->tokens->values = a->params;
	if (st == LORA_OK && hidden && !(a->encoder = lora__zalloc(ctx, cut(a).bytes))) st = LORA_E_MEMORY;
	if (st) {
		lora__adapter_release(a);
		return st;
	}
	const char *how = json_string_value(lora__get_json(settings, "subspace_inference"));
	a->tokens->sampled = how && strcmp(how, "sampled") == 0;
	a->settings = settings;
	*out = a;
	return LORA_OK;
}

/* ---- fresh ones, and files ---- */

static lora_status complete(lora__sites *sites, const lora__kind *kind, lora_settings *s)
{
	const lora__body *b = &sites->body;
	if (!b->name)
		return lora__fail_at(sites->ctx, LORA_E_UNSUPPORTED, "adapter", kind->m.name, -1, "%s needs a model that this library runs; host-owned sites have no graph", kind->m.name);
	if (!b->layers)
		return lora__fail_at(sites->ctx, LORA_E_UNSUPPORTED, "adapter", kind->m.name, -1, "%s is not supported on %s: it works on causal decoders", kind->m.name, b->name);
	lora_status st = lora__has(s, "num_virtual_tokens") ? LORA_OK : lora__set_int(sites->ctx, s, "num_virtual_tokens", lora__get_int(s, kind->m.params, "num_virtual_tokens"));
	/* without it PEFT makes a model of no task, which leaves virtual tokens out */
	if (st == LORA_OK && !lora__get_json(s, "task_type")) st = lora_settings_set_string(s, "task_type", "CAUSAL_LM");
	return st ? st : kind->virtual_tokens->complete(sites->ctx, b, s);
}

lora_status lora__virtual_create(lora__sites *sites, const lora__kind *kind, lora_settings *settings, lora_adapter **out)
{
	lora_adapter *a = NULL;
	lora__rng r;
	lora_status st = complete(sites, kind, settings);
	if (st == LORA_OK) st = lora__virtual_new(sites, kind, settings, lora__get_string(settings, kind->m.params, "name"), 1, &a);
	if (st) return st;
	lora__rng_init(&r, lora__rng_key(a->tokens->seed, LORA__RNG_INIT, 0));
	if ((st = kind->virtual_tokens->init(a, &r))) {
		a->settings = NULL; /* still the caller's */
		lora__adapter_release(a);
	} else *out = a;
	return st;
}

static const lora__tensor *find(const lora__tensors *t, const char *name)
{
	for (size_t i = 0; i < t->n; i++)
		if (strcmp(t->list[i].name + lora__peft_prefix(t->list[i].name, NULL), name) == 0) return &t->list[i];
	return NULL;
}

static lora_status fill(lora_adapter *a, const lora__ptensor *p, const lora__tensors *tensors)
{
	const lora__tensor *t = find(tensors, p->name);
	if (!t) return lora__fail_at(a->ctx, LORA_E_FORMAT, "adapter", p->name, -1, "there is no tensor %s", p->name);
	if (t->dtype != LORA_F32 && t->dtype != LORA_F16 && t->dtype != LORA_BF16)
		return lora__fail_at(a->ctx, LORA_E_DTYPE, "adapter", t->name, -1, "tensor %s is %s; F32, F16 and BF16 are supported", lora__quote(t->name).text,
			lora__dtype_name(t->dtype));
	if (t->rank != p->rank || t->shape[0] != p->shape[0] || (p->rank > 1 && t->shape[1] != p->shape[1]))
		return lora__fail_at(a->ctx, LORA_E_SHAPE, "adapter", t->name, -1, "tensor %s has shape [%lld,%lld] (rank %d), [%lld,%lld] expected from adapter_config.json",
			p->name, (long long)(t->rank > 0 ? t->shape[0] : 0), (long long)(t->rank > 1 ? t->shape[1] : 0), (int)t->rank, (long long)p->shape[0], (long long)p->shape[1]);
	lora__convert(a->params + p->offset, LORA_F32, t->data, t->dtype, p->n);
	return LORA_OK;
}

lora_status lora__virtual_load(lora__sites *sites, const lora__kind *kind, lora_settings *settings, const lora__tensors *tensors, const char *name,
                               int ignore_extra, lora_adapter **out)
{
	lora_adapter *a = NULL;
	lora_status st = complete(sites, kind, settings);
	/* PEFT keeps no encoder: then the values are the parameters */
	if (st == LORA_OK) st = lora__virtual_new(sites, kind, settings, name, find(tensors, "encoder.embedding.weight") != NULL, &a);
	if (st) return st;
	for (size_t i = 0; i < a->n_tensors && st == LORA_OK; i++) st = fill(a, &a->tensors[i], tensors);
	for (size_t i = 0; i < tensors->n && st == LORA_OK && !ignore_extra; i++) {
		const char *is = tensors->list[i].name + lora__peft_prefix(tensors->list[i].name, NULL);
		int known = strcmp(is, LORA__PROMPT_TENSOR) == 0;
		for (size_t k = 0; k < a->n_tensors; k++) known |= strcmp(is, a->tensors[k].name) == 0;
		if (!known) st = lora__fail_at(sites->ctx, LORA_E_NOTFOUND, "adapter", is, -1, "tensor %s is no part of a %s adapter (ignore_extra skips such tensors)",
			lora__quote(is).text, kind->m.name);
	}
	if (st) {
		a->settings = NULL; /* still the caller's */
		lora__adapter_release(a);
	} else *out = a;
	return st;
}

lora_status lora__virtual_flat(lora_adapter *a, lora_dtype dtype, char **out)
{
	lora__virtual *v = a->tokens;
	*out = NULL;
	if (!v || (v->vertices == 1 && !a->encoder)) return LORA_OK;
	lora_status st = prepare(v, 0);
	if (st) return st;
	double centre[LORA__VERTICES_MAX];
	for (int64_t k = 0; k < v->vertices; k++) centre[k] = 1.0 / (double)v->vertices;
	size_t row = (size_t)v->width * lora__dtype_size(dtype);
	if (!(*out = lora__calloc(a->ctx, (size_t)v->tokens, row))) return LORA_E_MEMORY;
	for (int64_t t = 0; t < v->tokens; t++) lora__virtual_read(v, centre, t, 0, v->width, dtype, *out + (size_t)t * row);
	return LORA_OK;
}
