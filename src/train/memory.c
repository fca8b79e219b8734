/* Memory of training, told before it is taken and taken before the first step. The numbers come from the plan that will run, so they cannot
 * drift from it: the arena is its arena, a weight is packed in the directions that its steps use, and a mapped weight that has all its packed
 * forms gives its pages back. */
#include "site/virtual.h"
#include "train/train.h"

enum { LORA__DTYPES = 64, FORWARD = 1, BACKWARD = 2 }; /* bits 1 << which of lora__site_packed() */

/* For each site the products that the plan does with its weight: which packed forms are wanted. */
static void find_products(const lora__graph *g, const lora__plan *p, unsigned char *products)
{
	for (size_t i = 0; i < p->n_steps; i++) {
		const lora__step *s = &p->steps[i];
		const lora__node *n = s->node < 0 ? NULL : &g->nodes[s->node];
		const lora__site *site;
		for (int32_t k = 0; n && (site = lora__node_site(n, k)); k++) {
			if (site->flags & LORA_SITE_EMBEDDING) continue; /* no product */
			if (!s->backward || (n->op->flags & LORA__OP_LOSS)) products[site->index] |= FORWARD;
			if (s->backward && s->din[0] >= 0) products[site->index] |= BACKWARD;
		}
	}
}

/* The plan of a micro-batch, with the small tables that it needs. tokens 0: no padding. */
static lora_status plan_for(lora_trainer *t, int64_t n_sequences, int64_t length, int64_t tokens, const lora__plan **plan, unsigned char **products)
{
	int64_t cells = 0;
	const lora__graph *graph;
	*products = NULL;
	if (n_sequences < 1 || length < 1 || !lora__mul_i64(n_sequences, length, &cells) || cells > INT32_MAX)
		return lora__fail(t->ctx, LORA_E_ARGUMENT, "trainer", "a batch of %lld x %lld", (long long)n_sequences, (long long)length);
	if (tokens < 0 || tokens > cells)
		return lora__fail_at(t->ctx, LORA_E_ARGUMENT, "trainer", "tokens", -1, "%lld tokens in a batch of %lld x %lld", (long long)tokens, (long long)n_sequences,
			(long long)length);
	lora_status st = lora__trainer_usable(t);
	int64_t rows = tokens ? tokens : cells, source = 0;
	if (t->m->form != LORA__FORM_CAUSAL) source = rows, rows = t->m->form == LORA__FORM_ENCODER ? n_sequences : cells; /* decoders as long as their sources */
	int64_t virtual_rows = n_sequences * lora__model_virtual(t->m, LORA__VIRTUAL_ROWS), keys = lora__model_virtual(t->m, LORA__VIRTUAL_KEYS);
	rows += virtual_rows, cells += virtual_rows;
	if (keys) source = rows + n_sequences * keys;
	if (st == LORA_OK) st = lora__batch_reserve(t->m, &t->m->batch, (size_t)(source && !keys ? rows : cells), (size_t)n_sequences);
	if (st == LORA_OK && source) st = lora__batch_reserve(t->m, &t->m->source_batch, (size_t)(cells + n_sequences * keys), (size_t)n_sequences);
	if (st == LORA_OK) st = lora__rotary_reserve(t->m, length + keys + lora__model_virtual(t->m, LORA__VIRTUAL_ROWS));
	if (st == LORA_OK) st = lora__model_find_plan(t->m, t->checkpointing ? LORA__PLAN_CHECKPOINT : LORA__PLAN_TRAIN, rows, source, plan);
	if (st == LORA_OK && !(*products = lora__zalloc(t->ctx, t->m->s.n + 1))) st = LORA_E_MEMORY;
	if (st == LORA_OK) st = lora__model_graph(t->m, &graph);
	if (st == LORA_OK) find_products(graph, *plan, *products);
	return st;
}

/* Bytes of the packed forms that a site will have; *all is set when none of its products is left to the plain weight. */
static uint64_t site_packed(const lora_trainer *t, const lora__site *s, int64_t rows, unsigned products, int takes, uint64_t taken, int *all)
{
	uint64_t sum = 0;
	*all = products && takes;
	for (int k = 0; k < 2 && takes; k++) {
		if (!(products & (k ? BACKWARD : FORWARD))) continue;
		uint64_t b = lora__site_pack_bytes(s, t->ctx, t->m->s.real, k, rows, taken + sum);
		sum += b;
		if (!b) *all = 0;
	}
	return sum;
}

/* A weight that some op reads as it is: norms, embedding tables. */
static int read_plain(const lora__graph *g, const void *data)
{
	for (size_t i = 0; i < g->n_nodes; i++)
		if (g->nodes[i].w[0].data == data || g->nodes[i].w[1].data == data) return 1;
	return 0;
}

/* A weight of a file that was brought into another order, or read whole: it is on the heap. */
static int is_copy(const lora_model *m, const void *data)
{
	for (size_t i = 0; i < m->file.n_blobs; i++) {
		const lora__blob *b = &m->file.blobs[i];
		if (!b->mapped && (uintptr_t)data - (uintptr_t)b->data < b->n) return 1;
	}
	return 0;
}

/* Packed forms, and the weights that stay in memory as they are: *own on the heap, *mapped of a file. */
static void count_weights(const lora_trainer *t, int64_t rows, const unsigned char *products, uint64_t *packed, uint64_t *own, uint64_t *mapped)
{
	const lora_model *m = t->m;
	signed char takes[LORA__DTYPES] = { 0 }; /* the backend packs weights of this dtype: 1, or -1 */
	*packed = *own = *mapped = 0;
	for (size_t i = 0; i < m->n_weights; i++) {
		const lora__weight *w = &m->weights[i];
		int used = read_plain(&m->graph, w->data), all;
		for (size_t k = 0; k < m->s.n; k++) {
			const lora__site *s = m->s.list[k];
			if (s->bias.data == w->data) used = 1;
			if (s->base != w->data) continue;
			if (lora__site_is_quant(s)) { /* never packed */
				used |= products[k] != 0;
				continue;
			}
			signed char *known = &takes[s->dtype % LORA__DTYPES];
			if (!*known) *known = lora__pack_takes(t->ctx, s->dtype, m->s.real) ? 1 : -1;
			*packed += site_packed(t, s, rows, products[k], *known > 0, *packed, &all);
			used |= products[k] && !all;
		}
		if (w->owned) *own += lora__block_size(w->data);
		else if (used) *(is_copy(m, w->data) ? own : mapped) += w->bytes;
	}
}

static uint64_t working_bytes(const lora_backend_v1 *b, void *self, lora_dtype real, int64_t widest)
{
	if (b->struct_size < offsetof(lora_backend_v1, working_bytes) + sizeof b->working_bytes || !b->working_bytes) return 0;
	return b->working_bytes(self, real, widest);
}

static uint64_t backend_bytes(const lora_trainer *t)
{
	const lora_context *ctx = t->ctx;
	int64_t widest = t->m->vocab;
	for (size_t i = 0; i < t->m->s.n; i++)
		if (t->m->s.list[i]->out > widest) widest = t->m->s.list[i]->out;
	uint64_t b = working_bytes(ctx->naive, ctx->naive_self, t->m->s.real, widest); /* runs what the chosen one does not take */
	return ctx->backend == ctx->naive ? b : b + working_bytes(ctx->backend, ctx->backend_self, t->m->s.real, widest);
}

lora_status lora__trainer_estimate(lora_trainer *t, int64_t n_sequences, int64_t length, int64_t tokens, lora_memory_estimate *e)
{
	const lora__plan *plan = NULL;
	unsigned char *products;
	uint64_t own, mapped;
	lora_model *m = t->m;
	lora_status st = plan_for(t, n_sequences, length, tokens, &plan, &products);
	if (st == LORA_OK) {
		count_weights(t, plan->rows, products, &e->packed, &own, &mapped);
		lora__free(t->ctx, products);
		products = NULL;
		uint64_t had = lora__block_size(m->arena), arena = m->arena_bytes >= plan->arena_bytes ? had : lora__block_need(plan->arena_bytes);
		e->weights = own + mapped;
		e->activations = arena - plan->scratch_bytes, e->scratch = plan->scratch_bytes;
		e->adapter = lora__block_size(t->a->params) + lora__block_size(t->a->grads) + lora__block_size(t->undo);
		e->optimizer = lora__block_size(t->o->opt->piece);
		for (int i = 0; i < t->o->opt->n_slots; i++) e->optimizer += lora__block_size(t->o->opt->slot[i]);
		e->other = atomic_load(&t->ctx->memory_now) - had - own - e->adapter - e->optimizer - m->s.pack_bytes;
		e->allocated = own + e->packed + e->adapter + e->optimizer + arena + e->other;
		e->backend = backend_bytes(t);
		e->peak = e->allocated + mapped + e->backend;
		e->tokens = tokens ? tokens : n_sequences * length;
	}
	lora__free(t->ctx, products);
	return st;
}

lora_status lora__trainer_reserve(lora_trainer *t, int64_t n_sequences, int64_t length, int64_t tokens)
{
	const lora__plan *plan = NULL;
	unsigned char *products;
	lora_status st = plan_for(t, n_sequences, length, tokens, &plan, &products);
	if (st == LORA_OK) st = lora__model_plan(t->m, plan->mode, plan->rows, plan->source_rows, &plan);
	for (size_t i = 0; i < t->m->s.n && st == LORA_OK; i++) t->m->s.list[i]->pack_wanted = products[i];
	lora__free(t->ctx, products);
	if (st == LORA_OK) t->reserved = 1;
	return st;
}
