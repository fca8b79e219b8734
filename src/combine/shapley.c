/* Shapley values of n players from a function v that tells what a coalition is worth:
 *   phi_i = mean over all orders of v(those before i and i) - v(those before i);  sum phi_i = v(all) - v(none).
 * Few players: exactly, from all 2^n coalitions, phi_i = sum over S without i of |S|! (n-1-|S|)! / n! (v(S u i) - v(S)). Many: a mean over random orders, every second one the reverse of the one before
 * (antithetic); in each order the marginal contributions sum to v(all) - v(none).
 * Source: Shapley 1953; sampling: Castro, Gomez and Tejada 2009; Mitchell et al. 2022, arXiv:2104.12199 (antithetic orders). */
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "combine/combine.h"

static const lora__param params[] = {
	{ "permutations", LORA__INT, "16", 1, 1e6, NULL, "random orders; where all coalitions cost no more, they are taken instead and the values are exact" },
	{ "seed", LORA__INT, "0", 0, 9e15, NULL, "seed of the orders" },
	{ .name = NULL }
};
const lora__member lora__shapley_member = { "shapley", "Shapley values by sampling orders", "Shapley 1953; Castro et al. 2009; arXiv:2104.12199", params };

typedef struct game {
	lora_context *ctx;
	lora_value_fn fn;
	void         *user;
	int64_t       n, calls;
	uint8_t      *active;
} game;

static lora_status ask(game *g, double *value)
{
	int32_t answer = g->fn(g->user, g->active, g->n, value);
	g->calls++;
	if (answer) {
		lora_status st = lora__fail(g->ctx, LORA_E_CALLBACK, "shapley", "the value function gave up after %lld coalitions", (long long)g->calls);
		g->ctx->error.value = answer;
		return st;
	}
	return isfinite(*value) ? LORA_OK : lora__fail(g->ctx, LORA_E_NUMERIC, "shapley", "the value of a coalition is not finite");
}

static lora_status all_coalitions(game *g, double *values)
{
	size_t count = (size_t)1 << g->n;
	double *v = lora__calloc(g->ctx, count, sizeof *v), *weight = lora__calloc(g->ctx, (size_t)g->n, sizeof *weight);
	lora_status st = v && weight ? LORA_OK : LORA_E_MEMORY;
	for (size_t s = 0; s < count && !st; s++) {
		for (int64_t i = 0; i < g->n; i++) g->active[i] = s >> i & 1;
		st = ask(g, &v[s]);
	}
	for (int64_t k = 0; k < g->n && !st; k++) weight[k] = k ? weight[k - 1] * (double)k / (double)(g->n - k) : 1.0 / (double)g->n;
	for (size_t s = 0; s < count && !st; s++) {
		int64_t size = 0;
		for (int64_t i = 0; i < g->n; i++) size += s >> i & 1;
		for (int64_t i = 0; i < g->n; i++)
			if (!(s >> i & 1)) values[i] += weight[size] * (v[s | (size_t)1 << i] - v[s]);
	}
	lora__free(g->ctx, v);
	lora__free(g->ctx, weight);
	return st;
}

/* One order; parts[i] gets the contribution of player i. */
static lora_status walk(game *g, const int64_t *order, double none, double all, double *parts)
{
	double before = none;
	lora_status st = LORA_OK;
	memset(g->active, 0, (size_t)g->n);
	for (int64_t k = 0; k < g->n && !st; k++) {
		double now = all;
		g->active[order[k]] = 1;
		if (k + 1 < g->n) st = ask(g, &now);
		parts[order[k]] = now - before, before = now;
	}
	return st;
}

/* A pair of antithetic orders is one sample of the mean; an odd last order is one of its own. */
static lora_status sampled(game *g, int64_t permutations, uint64_t seed, double *values, double *errors)
{
	double none, all, *room = lora__calloc(g->ctx, (size_t)g->n, 4 * sizeof *room);
	int64_t *order = (int64_t *)(void *)(room + 3 * g->n), samples = (permutations + 1) / 2;
	if (!room) return LORA_E_MEMORY;
	double *one = room, *two = room + g->n, *square = room + 2 * g->n;
	lora_status st = ask(g, &none);
	memset(g->active, 1, (size_t)g->n);
	if (!st) st = ask(g, &all);
	for (int64_t p = 0; p < permutations && !st; p += 2) {
		lora__rng r;
		lora__rng_init(&r, lora__rng_key(seed, LORA__RNG_SHAPLEY, (uint64_t)p));
		for (int64_t i = 0; i < g->n; i++) {
			int64_t k = (int64_t)lora__rng_below(&r, (uint64_t)i + 1);
			order[i] = order[k], order[k] = i;
		}
		st = walk(g, order, none, all, one);
		int pair = p + 1 < permutations;
		for (int64_t i = 0; i < g->n / 2; i++) {
			int64_t x = order[i];
			order[i] = order[g->n - 1 - i], order[g->n - 1 - i] = x;
		}
		if (!st && pair) st = walk(g, order, none, all, two);
		for (int64_t i = 0; i < g->n && !st; i++) {
			double x = pair ? (one[i] + two[i]) / 2 : one[i], share = pair ? 2 : 1;
			values[i] += share * x / (double)permutations, square[i] += share * x * x / (double)permutations;
		}
	}
	for (int64_t i = 0; i < g->n && !st; i++) /* standard error of the mean */
		errors[i] = samples > 1 ? sqrt(fmax(0, square[i] - values[i] * values[i]) / (double)(samples - 1)) : NAN;
	lora__free(g->ctx, room);
	return st;
}

lora_status lora__shapley(lora_context *ctx, int64_t n, lora_value_fn fn, void *user, const lora_settings *s, double *values, double *errors, int64_t *calls)
{
	int64_t permutations = lora__get_int(s, params, "permutations");
	game g = { .ctx = ctx, .fn = fn, .user = user, .n = n, .active = lora__calloc(ctx, (size_t)n, 1) };
	double *room = lora__calloc(ctx, (size_t)n, 2 * sizeof *room); /* so that nothing is given out on failure */
	lora_status st = g.active && room ? LORA_OK : LORA_E_MEMORY;
	int exact = n < 30 && ((int64_t)1 << n) <= permutations * (n - 1) + 2;
	if (!st) st = exact ? all_coalitions(&g, room) : sampled(&g, permutations, (uint64_t)lora__get_int(s, params, "seed"), room, room + n);
	if (!st) {
		memcpy(values, room, (size_t)n * sizeof *values);
		if (errors) memcpy(errors, room + n, (size_t)n * sizeof *errors);
		if (calls) *calls = g.calls;
	}
	lora__free(ctx, g.active);
	lora__free(ctx, room);
	return st;
}
