/* The matrices of an adapter as a posterior sees them, and its settings.
 * LoRA's A[r,in] and B[out,r] are two linear layers: A has inputs x and output gradients s B^T dy, B has inputs A x and output gradients s dy. A module that is
 * trained as a whole is one, its bias a further column. */
#include <string.h>

#include "posterior/posterior.h"

static const lora__param fit_params[] = {
	{ "classes", LORA__INTS, NULL, 0, 0, NULL, "of a causal model: tokens that stand for the classes" },
	{ "fisher", LORA__STRING, "exact", 0, 0, "exact|sampled", "exact: a backward pass per class but one; sampled: one, of a class drawn from the model" },
	{ "layers", LORA__STRING, "all", 0, 0, "all|last", "all matrices of the adapter, or those at the head (classifier, lm_head)" },
	{ "divide_by", LORA__STRING, "examples", 0, 0, "examples|tokens", "R in (1/R) (sum g g^T) (x) (sum a a^T): examples as the authors do, or rows, as if tokens were independent" },
	{ "factor", LORA__STRING, "sketch", 0, 0, NULL, "member of family factor for sides larger than full_up_to" },
	{ "factor_rank", LORA__INT, "10", 1, 65536, NULL, "rank that is kept of such a side" },
	{ "full_up_to", LORA__INT, "100", 0, 65536, NULL, "sides up to this size are kept whole" },
	{ "prior", LORA__STRING, "evidence", 0, 0, "evidence|validation|fixed", "how the prior precision is chosen" },
	{ "prior_precision", LORA__FLOAT, "1.0", 1e-300, 1e300, NULL, "prior precision (1 / variance) with prior fixed" },
	{ "prior_per", LORA__STRING, "model", 0, 0, "model|matrix", "with prior evidence: one precision, or one for each matrix" },
	{ "validation_batches", LORA__INT, "0", 0, 1e15, NULL, "so many batches at the end choose the prior precision and do not enter the curvature" },
	{ "seed", LORA__INT, "0", 0, 9e15, NULL, "seed of drawn classes and random vectors" },
	{ 0 }
};
const lora__member lora__posterior_fit_member = { "posterior_fit", "a Gaussian around trained parameters (Laplace-LoRA)", "arXiv:2308.13111", fit_params };

static lora_status read_classes(lora_posterior *p)
{
	lora_context *ctx = p->ctx;
	const json_t *v = lora__get_json(p->settings, "classes");
	size_t n = json_is_array(v) ? json_array_size(v) : v ? 1 : 0;
	if (p->m->n_labels) {
		p->classes = p->m->n_labels;
		return v ? lora__fail_at(ctx, LORA_E_ARGUMENT, "posterior", "classes", -1, "classes: this model is a classifier and has its own") : LORA_OK;
	}
	if (n < 2) return lora__fail_at(ctx, LORA_E_ARGUMENT, "posterior", "classes", -1, "classes: a causal model needs a list of at least two tokens that stand for the classes");
	if (!(p->ids = lora__calloc(ctx, n, sizeof *p->ids))) return LORA_E_MEMORY;
	p->classes = (int64_t)n;
	for (size_t i = 0; i < n; i++) {
		json_int_t id = json_integer_value(json_array_get(v, i));
		if (id < 0 || id >= p->m->vocab)
			return lora__fail_at(ctx, LORA_E_ARGUMENT, "posterior", "classes", -1, "classes: token %lld, the vocabulary has %lld", (long long)id, (long long)p->m->vocab);
		p->ids[i] = (int32_t)id;
		for (size_t j = 0; j < i; j++)
			if (p->ids[j] == p->ids[i]) return lora__fail_at(ctx, LORA_E_ARGUMENT, "posterior", "classes", -1, "classes: token %lld stands for two classes", (long long)id);
	}
	return LORA_OK;
}

static const lora__node *node_of(const lora_model *m, const lora__site *s)
{
	for (size_t i = 0; i < m->graph.n_nodes; i++)
		if (m->graph.nodes[i].site == s) return &m->graph.nodes[i];
	return NULL;
}

static lora_status check_part(const lora_posterior *p, const lora__part *part)
{
	const char *site = part->slot.site->name;
	if (part->how == LORA__PARAMETER)
		return lora__fail_at(p->ctx, LORA_E_UNSUPPORTED, "posterior", "target_parameters", -1, "target_parameters: %s is part of a stacked parameter, which has no posterior yet", site);
	if (part->how == LORA__CHOSEN && !(p->a->kind->flags & LORA__KIND_PRODUCTS))
		return lora__fail_at(p->ctx, LORA_E_UNSUPPORTED, "posterior", p->a->kind->m.name, -1, "adapters of kind %s have no posterior: their tensors are no linear layers", p->a->kind->m.name);
	if (!node_of(p->m, part->slot.site))
		return lora__fail_at(p->ctx, LORA_E_UNSUPPORTED, "posterior", site, -1, "%s is one of a mixture of experts, which has no posterior yet", site);
	return LORA_OK;
}

static double norm2(const float *w, size_t n)
{
	double sum = 0;
	for (size_t i = 0; i < n; i++) sum += (double)w[i] * (double)w[i];
	return sum;
}

static void add_matrix(lora_posterior *p, lora__part *part, int role)
{
	const lora__ptensor *t = &p->a->tensors[part->tensor[role]];
	const lora__node *node = node_of(p->m, part->slot.site), *first = p->last ? node_of(p->m, p->last) : NULL;
	lora__matrix *w = &p->list[p->n];
	w->part = part, w->role = role, w->name = t->name;
	w->out = t->shape[0], w->in = t->shape[1];
	w->bias = part->how == LORA__WHOLE && part->param[1];
	w->head = (node->op->flags & LORA__OP_LOSS) != 0, w->space = (int8_t)node->space;
	w->norm2 = norm2(part->param[role], t->n) + (w->bias ? norm2(part->param[1], (size_t)w->out) : 0);
	w->in += w->bias;
	w->prior = 1;
	if (!first || node < first) p->last = part->slot.site;
	p->index[(part - p->a->parts) * LORA__MAX_ROLES + role] = (int32_t)p->n++;
}

static lora_status collect(lora_posterior *p)
{
	lora_adapter *a = p->a;
	int only_head = strcmp(lora__get_string(p->settings, fit_params, "layers"), "last") == 0;
	p->list = lora__calloc(p->ctx, a->n_tensors, sizeof *p->list);
	p->index = lora__calloc(p->ctx, a->n_parts * LORA__MAX_ROLES, sizeof *p->index);
	if (!p->list || !p->index) return LORA_E_MEMORY;
	for (size_t i = 0; i < a->n_parts * LORA__MAX_ROLES; i++) p->index[i] = -1;
	for (size_t i = 0; i < a->n_parts; i++) {
		lora__part *part = &a->parts[i];
		if (only_head && !part->slot.site->is_head) continue;
		lora_status st = check_part(p, part);
		if (st) return st;
		for (int r = 0; r < LORA__MAX_ROLES; r++)
			if (part->tensor[r] >= 0 && a->tensors[part->tensor[r]].rank == 2) add_matrix(p, part, r);
	}
	if (p->n) return LORA_OK;
	return lora__fail_at(p->ctx, LORA_E_ARGUMENT, "posterior", "layers", -1, "layers \"last\": the adapter does not act on the head (classifier, lm_head)");
}

static lora_status check_objects(lora_model *m, lora_adapter *a)
{
	if (!m->arch) return lora__fail(m->s.ctx, LORA_E_STATE, "posterior", "this model has host-owned sites and no graph");
	if (a->sites != &m->s) return lora__fail(m->s.ctx, LORA_E_STATE, "posterior", "the adapter is of another model");
	if (a->tokens) return lora__fail_at(m->s.ctx, LORA_E_UNSUPPORTED, "posterior", a->kind->m.name, -1, "adapters of kind %s have no posterior", a->kind->m.name);
	if (!m->has_head) return lora__fail(m->s.ctx, LORA_E_UNSUPPORTED, "posterior", "this model has no head: nothing is predicted");
	if (m->form == LORA__FORM_SEQ2SEQ) return lora__fail(m->s.ctx, LORA_E_UNSUPPORTED, "posterior", "encoder-decoder models have no posterior yet");
	return LORA_OK;
}

lora_status lora__posterior_usable(const lora_posterior *p)
{
	const lora_adapter *a = p->a;
	if (a->merged) return lora__fail(p->ctx, LORA_E_STATE, "posterior", "the adapter is merged; unmerge it first");
	if (!a->attached) return lora__fail(p->ctx, LORA_E_STATE, "posterior", "the adapter is not attached");
	if (!a->trainable) return lora__fail(p->ctx, LORA_E_STATE, "posterior", "the adapter is frozen (lora_adapter_set_trainable)");
	if (p->m->s.n_virtuals) return lora__fail(p->ctx, LORA_E_UNSUPPORTED, "posterior", "virtual tokens (prefix_tuning, prompt_tuning) are attached, which a posterior does not see");
	for (size_t i = 0; i < p->m->s.n; i++) {
		const lora__site *s = p->m->s.list[i];
		for (size_t j = 0; j < s->n_chain; j++)
			if (s->chain[j]->adapter != a && s->chain[j]->trainable)
				return lora__fail(p->ctx, LORA_E_STATE, "posterior", "another adapter acts at %s; freeze it (lora_adapter_set_trainable) or detach it", s->name);
	}
	return LORA_OK;
}

lora_status lora__posterior_new(lora_model *m, lora_adapter *a, const lora_settings *settings, lora_posterior **out)
{
	lora_context *ctx = m->s.ctx;
	lora_status st = check_objects(m, a);
	if (st == LORA_OK) st = lora__settings_check(ctx, settings, "posterior", fit_params, NULL, NULL);
	lora_posterior *p = st ? NULL : lora__zalloc(ctx, sizeof *p);
	if (!p) return st ? st : LORA_E_MEMORY;
	p->ctx = ctx, p->m = m, p->a = a;
	lora__adapter_retain(a);
	st = lora__settings_copy(ctx, settings, &p->settings);
	if (st == LORA_OK) st = read_classes(p);
	if (st == LORA_OK) st = collect(p);
	if (st) {
		lora__posterior_free(p);
		return st;
	}
	p->probe.ctx = ctx, p->probe.m = m, p->probe.classes = p->classes, p->probe.ids = p->ids, p->probe.self = p;
	*out = p;
	return LORA_OK;
}

void lora__posterior_free(lora_posterior *p)
{
	lora_context *ctx = p->ctx;
	lora__probe_free(&p->probe);
	lora__variance_drop(p);
	for (size_t i = 0; i < p->n; i++) lora__factor_free(ctx, &p->list[i].side[0]), lora__factor_free(ctx, &p->list[i].side[1]);
	lora__free(ctx, p->list);
	lora__free(ctx, p->index);
	lora__free(ctx, p->ids);
	lora_settings_destroy(p->settings);
	lora_adapter *a = p->a;
	lora__free(ctx, p);
	lora__adapter_release(a); /* last: it may be what keeps the context */
}

lora_status lora__posterior_inputs(lora_context *ctx, const lora__matrix *w, lora_view right, lora_view *out, char **own)
{
	*out = right, *own = NULL;
	if (!w->bias) return LORA_OK;
	size_t each = lora__dtype_size(right.dtype);
	double one = 1;
	if (!(*own = lora__calloc(ctx, (size_t)right.size[0] * (size_t)w->in + 1, each))) return LORA_E_MEMORY;
	*out = lora__view2(*own, right.dtype, right.size[0], w->in, w->in);
	for (int64_t r = 0; r < right.size[0]; r++) {
		char *row = *own + each * (size_t)(r * w->in);
		memcpy(row, (const char *)right.data + each * (size_t)(r * right.stride[0]), each * (size_t)(w->in - 1));
		lora__convert(row + each * (size_t)(w->in - 1), right.dtype, &one, LORA_F64, 1);
	}
	return LORA_OK;
}
