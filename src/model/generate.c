/* Sequences with a key-value cache. Prompts are computed in pieces, so that memory does not grow with their length; the next tokens of all sequences
 * are computed in one pass, whatever their lengths and adapters. The cache grows with the longest sequence, up to max_length. */
#include "model/generate.h"
#include "site/virtual.h"

enum { PIECE = 256, FIRST_CAPACITY = 64 };

static const lora__param params[] = {
	{ "max_length", LORA__INT, NULL, 1, 1 << 24, NULL, "tokens per sequence, prompt included; default the model's max_positions" },
	{ "batch_size", LORA__INT, "1", 1, 1 << 20, NULL, "sequences" },
	{ "temperature", LORA__FLOAT, "0.0", 0, 1e6, NULL, "0 = greedy" },
	{ "top_k", LORA__INT, "0", 0, 1e9, NULL, "draw from this many most likely tokens only; 0 = off" },
	{ "top_p", LORA__FLOAT, "1.0", 1e-9, 1, NULL, "draw from the smallest set with this probability; 1 = off" },
	{ "repetition_penalty", LORA__FLOAT, "1.0", 1e-3, 1e3, NULL, "above 1: tokens that the sequence has already become less likely; 1 = off" },
	{ "seed", LORA__INT, "0", 0, 9e15, NULL, "seed of the draws" },
	{ .name = NULL }
};
const lora__member lora__generator_member = { "generator", "generation with a key-value cache", "transformers.generate", params };

/* ---- the cache ---- */

static int64_t ahead(const lora_generator *g, int64_t s) { return g->seq[s].keys + g->seq[s].rows; }

/* Tokens of sequence s that are in a cache. */
static int64_t held(const lora_generator *g, const lora__cache *c, int64_t s) { return c == &g->cross ? g->seq[s].source : g->seq[s].past ? g->seq[s].past + ahead(g, s) : 0; }

/* Room for at least need tokens per sequence, at most limit. What is cached moves along. */
static lora_status reserve(lora_generator *g, lora__cache *c, char **memory, int64_t need, int64_t limit)
{
	if (need <= c->capacity) return LORA_OK;
	int64_t capacity = c->capacity ? c->capacity : FIRST_CAPACITY;
	while (capacity < need) capacity *= 2;
	if (capacity > limit) capacity = limit;
	size_t row = (size_t)c->width * lora__dtype_size(g->m->s.real), piece, bytes;
	if (g->slots * capacity > INT32_MAX)
		return lora__fail(g->ctx, LORA_E_LIMIT, "generate", "%lld sequences of %lld tokens are too many", (long long)g->slots, (long long)capacity);
	if (!lora__mul_size((size_t)(g->slots * capacity), row, &piece) || !lora__mul_size(piece, 2 * (size_t)c->n_layers, &bytes))
		return lora__fail(g->ctx, LORA_E_LIMIT, "generate", "the cache is too large");
	char *block = lora__alloc(g->ctx, bytes);
	if (!block) return LORA_E_MEMORY;
	for (int64_t l = 0; l < 2 * c->n_layers; l++) {
		char **at = l < c->n_layers ? &c->k[l] : &c->v[l - c->n_layers], *to = block + (size_t)l * piece;
		for (int64_t s = 0; *at && s < g->slots; s++)
			memcpy(to + (size_t)(s * capacity) * row, *at + (size_t)(s * c->capacity) * row, (size_t)held(g, c, s) * row);
		*at = to;
	}
	lora__free(g->ctx, *memory);
	*memory = block;
	c->capacity = capacity;
	return LORA_OK;
}

/* virtual: those of the sequence that needs most. */
static lora_status reserve_own(lora_generator *g, int64_t need, int64_t virtual) { return reserve(g, &g->cache, &g->block, need + virtual, g->max_length + virtual); }

static lora_status make_cache(lora_generator *g, lora__cache *c)
{
	c->k = lora__calloc(g->ctx, (size_t)g->m->layers, sizeof *c->k);
	c->v = lora__calloc(g->ctx, (size_t)g->m->layers, sizeof *c->v);
	c->n_layers = g->m->layers, c->slots = g->slots, c->width = g->m->kv_width;
	return c->k && c->v ? LORA_OK : LORA_E_MEMORY;
}

/* ---- creation ---- */

static lora_status allocate(lora_generator *g)
{
	lora_context *ctx = g->ctx;
	size_t n = (size_t)g->slots, vocab = (size_t)g->m->vocab, cells;
	if (!lora__mul_size(n, vocab, &cells)) return lora__fail(ctx, LORA_E_LIMIT, "generate", "batch_size is too large");
	g->seq = lora__calloc(ctx, n, sizeof *g->seq);
	g->feeds = lora__calloc(ctx, n, sizeof *g->feeds);
	g->chosen = lora__calloc(ctx, n, sizeof *g->chosen);
	g->logprob = lora__calloc(ctx, n, sizeof *g->logprob);
	g->order = lora__calloc(ctx, vocab, sizeof *g->order);
	g->logits = lora__calloc(ctx, cells, sizeof *g->logits);
	g->fresh = lora__calloc(ctx, cells, sizeof *g->fresh);
	if (g->how.penalty != 1 && !(g->seen = lora__calloc(ctx, cells, 1))) return LORA_E_MEMORY;
	if (!g->seq || !g->feeds || !g->chosen || !g->logprob || !g->order || !g->logits || !g->fresh) return LORA_E_MEMORY;
	lora_status st = make_cache(g, &g->cache);
	if (st == LORA_OK && g->m->form == LORA__FORM_SEQ2SEQ) st = make_cache(g, &g->cross), g->cache.source = &g->cross;
	if (st) return st;
	for (int64_t s = 0; s < g->slots; s++) g->seq[s].pending = -1;
	return LORA_OK;
}

lora_status lora__generator_create(lora_model *m, const lora_settings *settings, lora_generator **out)
{
	lora_context *ctx = m->s.ctx;
	if (!m->arch) return lora__fail(ctx, LORA_E_STATE, "generate", "this model has host-owned sites and no graph to generate with");
	if (m->form == LORA__FORM_ENCODER) return lora__fail(ctx, LORA_E_UNSUPPORTED, "generate", "%s is an encoder: it does not generate", m->arch->m.name);
	lora_status st = lora__settings_check(ctx, settings, "generator", params, NULL, NULL);
	if (st) return st;
	lora_generator *g = lora__zalloc(ctx, sizeof *g);
	if (!g) return LORA_E_MEMORY;
	g->ctx = ctx, g->m = m;
	lora__context_retain(ctx);
	lora__sites_retain(&m->s);
	g->max_length = lora__has(settings, "max_length") ? lora__get_int(settings, params, "max_length") : m->max_positions > 0 ? m->max_positions : 2048;
	g->slots = lora__get_int(settings, params, "batch_size");
	g->how = (lora__sampling){ .temperature = lora__get_float(settings, params, "temperature"), .top_p = lora__get_float(settings, params, "top_p"),
		.penalty = lora__get_float(settings, params, "repetition_penalty"), .top_k = lora__get_int(settings, params, "top_k"), .seed = (uint64_t)lora__get_int(settings, params, "seed") };
	if ((st = allocate(g))) lora__generator_free(g);
	else *out = g;
	return st;
}

void lora__generator_free(lora_generator *g)
{
	lora_context *ctx = g->ctx;
	void *all[] = { g->seq, g->feeds, g->chosen, g->logprob, g->order, g->seen, g->logits, g->fresh, g->cache.k, g->cache.v, g->block, g->cross.k, g->cross.v,
		g->cross_block };
	for (size_t i = 0; i < sizeof all / sizeof *all; i++) lora__free(ctx, all[i]);
	lora__sites_release(&g->m->s);
	lora__free(ctx, g);
	lora__context_release(ctx);
}

/* ---- feeding ---- */

static lora_status check_tokens(lora_generator *g, int64_t s, const int32_t *tokens, int64_t n)
{
	int64_t left = g->max_length - g->seq[s].length;
	if (n > left)
		return lora__fail(g->ctx, LORA_E_LIMIT, "generate", "%lld tokens for sequence %lld, which has room for %lld (max_length %lld)", (long long)n, (long long)s,
			(long long)left, (long long)g->max_length);
	for (int64_t i = 0; i < n; i++)
		if (tokens[i] < 0 || tokens[i] >= g->m->vocab)
			return lora__fail(g->ctx, LORA_E_SHAPE, "generate", "token %lld is %d, the vocabulary has %lld", (long long)i, (int)tokens[i], (long long)g->m->vocab);
	return LORA_OK;
}

/* The first tokens of an encoder-decoder model: the source as a whole, and the decoder's start token. */
static lora_status feed_source(lora_generator *g, int64_t s, const int32_t *tokens, int64_t n)
{
	lora__sequence *q = &g->seq[s];
	int32_t start = (int32_t)g->m->decoder_start;
	lora_status st = reserve_own(g, 1, 0);
	if (st == LORA_OK) st = reserve(g, &g->cross, &g->cross_block, n, INT32_MAX);
	if (st) return st;
	lora__feed f = { .slot = s, .tokens = &start, .n = 1, .adapter = q->adapter, .source = tokens, .n_source = n };
	if ((st = lora__model_decode(g->m, &g->cache, &f, 1, g->fresh))) return st;
	memcpy(g->logits + s * g->m->vocab, g->fresh, sizeof(float) * (size_t)g->m->vocab);
	q->length = q->past = 1, q->source = n, q->pending = -1;
	if (g->seen) g->seen[s * g->m->vocab + start] = 1;
	return LORA_OK;
}

lora_status lora__generator_feed(lora_generator *g, int64_t s, const int32_t *tokens, int64_t n)
{
	lora__sequence *q = &g->seq[s];
	int64_t past = q->past, at = 0;
	if (g->m->form == LORA__FORM_SEQ2SEQ && !q->length) return feed_source(g, s, tokens, n);
	lora_status st = check_tokens(g, s, tokens, n);
	if (st == LORA_OK && !past) {
		q->keys = lora__virtual_tokens(&g->m->s, LORA__VIRTUAL_KEYS, q->adapter, !q->adapter);
		q->rows = lora__virtual_tokens(&g->m->s, LORA__VIRTUAL_ROWS, q->adapter, !q->adapter);
	}
	if (st == LORA_OK) st = reserve_own(g, q->length + n, ahead(g, s));
	if (st) return st;
	if (q->pending >= 0) { /* chosen before, and not computed yet */
		lora__feed f = { .slot = s, .past = past, .tokens = &q->pending, .n = 1, .adapter = q->adapter, .n_source = q->source, .keys = q->keys, .rows = q->rows };
		st = lora__model_decode(g->m, &g->cache, &f, 1, g->fresh);
		past++;
	}
	for (; at < n && st == LORA_OK; at += PIECE, past += PIECE) {
		lora__feed f = { .slot = s, .past = past, .tokens = tokens + at, .n = n - at < PIECE ? n - at : PIECE, .adapter = q->adapter, .n_source = q->source, .keys = q->keys, .rows = q->rows };
		st = lora__model_decode(g->m, &g->cache, &f, 1, g->fresh);
	}
	if (st) return st; /* rows behind q->past are overwritten by the next try */
	memcpy(g->logits + s * g->m->vocab, g->fresh, sizeof(float) * (size_t)g->m->vocab);
	for (int64_t i = 0; i < n && g->seen; i++) g->seen[s * g->m->vocab + tokens[i]] = 1;
	q->length += n;
	q->past = q->length;
	q->pending = -1;
	return LORA_OK;
}

/* ---- the next tokens ---- */

static lora_status compute_pending(lora_generator *g)
{
	int64_t n = 0, longest = 0, virtual = 0, vocab = g->m->vocab;
	for (int64_t s = 0; s < g->slots; s++) {
		lora__sequence *q = &g->seq[s];
		if (q->pending < 0 || q->length >= g->max_length) continue; /* nothing is chosen after the last token, so it need not be computed */
		if (q->length > longest) longest = q->length;
		if (ahead(g, s) > virtual) virtual = ahead(g, s);
		g->feeds[n++] = (lora__feed){ .slot = s, .past = q->past, .tokens = &q->pending, .n = 1, .adapter = q->adapter, .n_source = q->source, .keys = q->keys, .rows = q->rows };
	}
	if (!n) return LORA_OK;
	lora_status st = reserve_own(g, longest, virtual);
	if (st == LORA_OK) st = lora__model_decode(g->m, &g->cache, g->feeds, n, g->fresh);
	if (st) return st;
	for (int64_t k = 0; k < n; k++) {
		lora__sequence *q = &g->seq[g->feeds[k].slot];
		memcpy(g->logits + g->feeds[k].slot * vocab, g->fresh + k * vocab, sizeof(float) * (size_t)vocab);
		q->past = q->length;
		q->pending = -1;
	}
	return LORA_OK;
}

lora_status lora__generator_next(lora_generator *g)
{
	int64_t fed = 0;
	for (int64_t s = 0; s < g->slots; s++) fed += g->seq[s].length > 0;
	if (!fed) return lora__fail(g->ctx, LORA_E_STATE, "generate", "no sequence was fed yet");
	lora_status st = compute_pending(g);
	for (int64_t s = 0; s < g->slots && st == LORA_OK; s++) {
		const lora__sequence *q = &g->seq[s];
		g->chosen[s] = -1, g->logprob[s] = 0;
		if (q->length == 0 || q->length >= g->max_length) continue;
		const float *logits = g->logits + s * g->m->vocab;
		if (g->seen) lora__penalize(g->seen + s * g->m->vocab, g->how.penalty, logits, g->m->vocab, g->fresh), logits = g->fresh;
		st = lora__sample(g->ctx, &g->how, (uint64_t)s, (uint64_t)q->length, logits, g->m->vocab, g->order, &g->chosen[s], &g->logprob[s]);
	}
	if (st) return st;
	for (int64_t s = 0; s < g->slots; s++) {
		if (g->chosen[s] < 0) continue;
		g->seq[s].pending = g->chosen[s];
		if (g->seen) g->seen[s * g->m->vocab + g->chosen[s]] = 1;
		g->seq[s].length++;
	}
	return LORA_OK;
}

void lora__generator_reset(lora_generator *g, int64_t s)
{
	g->seq[s] = (lora__sequence){ .pending = -1 };
	if (g->seen) memset(g->seen + s * g->m->vocab, 0, (size_t)g->m->vocab);
}
