/* The members of family "combination". All are made of three choices: which entries are dropped, whether a sign is elected, and where the sum is
 * taken (on factors side by side, on deltas). PEFT's names; formulas in docs/methods.md. */
#include "combine/combine.h"

#define MODE { "mode", LORA__STRING, "exact", 0, 0, "exact|peft", "exact: on the deltas; peft: PEFT's numbers (without _svd on the factors A and B, with cross terms)" }
#define RANK { "svd_rank", LORA__INT, NULL, 1, 65536, NULL, "rank of the result; null: exact = as needed (svd, *_svd: the largest rank), peft = PEFT's" }
#define NAME { "name", LORA__STRING, "default", 0, 0, NULL, "name of the new adapter" }
#define KEEP(def) { "density", LORA__FLOAT, def, 0, 1, NULL, "share of the entries of each tensor that is kept; the others become 0" }
#define SIGN { "majority_sign_method", LORA__STRING, "total", 0, 0, "total|frequency", "elect the sign by the sum of the entries, or by their number" }
#define SEED { "seed", LORA__INT, "0", 0, 9e15, NULL, "seed of the dropped entries" }

static const lora__param plain[] = { MODE, RANK, NAME, { 0 } };
static const lora__param named[] = { NAME, { 0 } };
static const lora__param small[] = { MODE, RANK, NAME, KEEP("0.2"), { 0 } };
static const lora__param elected[] = { MODE, RANK, NAME, KEEP("0.2"), SIGN, { 0 } };
static const lora__param dropped[] = { MODE, RANK, NAME, KEEP("0.8"), SEED, { 0 } };
static const lora__param both[] = { MODE, RANK, NAME, KEEP("0.8"), SIGN, SEED, { 0 } };

static const char peft[] = "PEFT add_weighted_adapter", ties[] = "arXiv:2306.01708 section 3", dare[] = "arXiv:2311.03099 section 3.2";

#define COMBINATION(name, help, source, params, ...) const lora__combination lora__combination_##name = { { #name, help, source, params }, __VA_ARGS__ };
COMBINATION(linear, "weighted sum; equal weights: uniform soup, negative ones: task arithmetic", peft, plain, .prune = 0)
COMBINATION(cat, "weighted sum, exact: factors side by side, ranks add up", peft, plain, .cat = 1)
COMBINATION(svd, "weighted sum, cut to svd_rank", peft, plain, .low = 1)
COMBINATION(lorahub, "weighted sums of the A and of the B, with cross terms: quadratic in the weights", "arXiv:2307.13269 equation 1", named, .both = 1)
COMBINATION(ties, "trim small entries, elect signs, average what agrees", ties, elected, .prune = LORA__PRUNE_SMALL, .elect = 1)
COMBINATION(dare_linear, "drop entries at random, rescale the others, weighted sum", dare, dropped, .prune = LORA__PRUNE_RANDOM)
COMBINATION(dare_ties, "drop entries at random, rescale, elect signs, average what agrees", dare, both, .prune = LORA__PRUNE_RANDOM, .elect = 1)
COMBINATION(magnitude_prune, "drop small entries, weighted sum", peft, small, .prune = LORA__PRUNE_SMALL)
COMBINATION(ties_svd, "ties on the deltas, cut to svd_rank", ties, elected, .prune = LORA__PRUNE_SMALL, .elect = 1, .low = 1)
COMBINATION(dare_linear_svd, "dare_linear on the deltas, cut to svd_rank", dare, dropped, .prune = LORA__PRUNE_RANDOM, .low = 1)
COMBINATION(dare_ties_svd, "dare_ties on the deltas, cut to svd_rank", dare, both, .prune = LORA__PRUNE_RANDOM, .elect = 1, .low = 1)
COMBINATION(magnitude_prune_svd, "magnitude_prune on the deltas, cut to svd_rank", peft, small, .prune = LORA__PRUNE_SMALL, .low = 1)
