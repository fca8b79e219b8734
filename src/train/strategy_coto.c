/* CoTo and CopRA: in step t of T each layer of the adapter takes part with probability
 *   p(t) = initial_p + (final_p - initial_p) t / E for t < E = ceil(stage1_ratio T), final_p from there on,
 * all its matrices together; a draw without any layer is made anew. A layer that rests adds nothing (y = W x, no rescaling), and its parameters are not
 * touched. Both rise to 1 within the first three quarters; CoTo begins at 0.1, CopRA at 0, where the limit of drawing anew is one layer by chance.
 * Source: Zhuang et al. 2024, arXiv:2410.22911 (CopRA); Zhuang et al. 2025, arXiv:2506.05713 (CoTo) and its code's names and defaults. */
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "train/strategy.h"

enum { INITIAL, FINAL, RATIO };
enum { REDRAWS = 64 }; /* then the limit for small p, one layer by chance, is as good */

#define PARAMS(p0) { \
	{ "initial_p", LORA__FLOAT, p0, 0, 1, NULL, "probability of a layer to take part in the first step" }, \
	{ "final_p", LORA__FLOAT, "1.0", 0, 1, NULL, "probability from the end of the rise on" }, \
	{ "stage1_ratio", LORA__FLOAT, "0.75", 0, 1, NULL, "share of max_steps over which it rises" }, \
	{ .name = NULL } }
static const lora__param coto[] = PARAMS("0.1"), copra[] = PARAMS("0.0");

static void read(const lora_settings *s, const lora__param *table, double *v)
{
	v[INITIAL] = lora__get_float(s, table, "initial_p");
	v[FINAL] = lora__get_float(s, table, "final_p");
	v[RATIO] = lora__get_float(s, table, "stage1_ratio");
}
static void read_coto(const lora_settings *s, double *v) { read(s, coto, v); }
static void read_copra(const lora_settings *s, double *v) { read(s, copra, v); }

static void choose(const lora__strat *s, int64_t step, char *active)
{
	double end = ceil(s->v[RATIO] * (double)s->total);
	double p = (double)step < end ? s->v[INITIAL] + (s->v[FINAL] - s->v[INITIAL]) * (double)step / end : s->v[FINAL];
	int any = p >= 1 || s->n == 0;
	lora__rng r;
	lora__rng_init(&r, lora__rng_key(s->seed, LORA__RNG_STRATEGY, (uint64_t)step));
	memset(active, any, (size_t)s->n);
	for (int turn = 0; turn < REDRAWS && !any && p > 0; turn++)
		for (int32_t i = 0; i < s->n; i++) any |= active[i] = lora__rng_uniform(&r) < p;
	if (!any) active[lora__rng_below(&r, (uint64_t)s->n)] = 1;
}

const lora__strategy lora__strategy_coto = { .m = { "coto", "layers take part at random, more and more of them", "arXiv:2506.05713", coto }, .flags = LORA__STRATEGY_TOTAL,
	.read = read_coto, .choose = choose };
const lora__strategy lora__strategy_copra = { .m = { "copra", "the same from one layer at a time on: p(t) = min(1, 4 t / (3 T))", "arXiv:2410.22911", copra },
	.flags = LORA__STRATEGY_TOTAL, .read = read_copra, .choose = choose };
