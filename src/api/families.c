/* Introspection: every family and its members, from the registries. */
#include <string.h>

#include "adapter/adapter.h"
#include "backend/backend.h"
#include "combine/combine.h"
#include "lora/settings.h"
#include "model/model.h"
#include "optim/optim.h"
#include "posterior/posterior.h"
#include "tokenizer/chat.h"
#include "quant/quant.h"
#include "search/search.h"
#include "train/train.h"

extern const lora__member lora__model_save_member, lora__generator_member;

static const lora__member *backend_at(int32_t i) { return lora__backend_member(i); }
static const lora__member *arch_at(int32_t i) { return &lora__archs[i]->m; }
static const lora__member *kind_at(int32_t i) { return &lora__kinds[i]->m; }
static const lora__member *op_at(int32_t i) { return &lora__ops[i]->m; }
static const lora__member *optim_at(int32_t i) { return &lora__optims[i]->m; }
static const lora__member *combination_at(int32_t i) { return &lora__combinations[i]->m; }
static const lora__member *search_at(int32_t i) { return &lora__searches[i]->m; }
static const lora__member *factor_at(int32_t i) { return &lora__factors[i]->m; }
static const lora__member *predictive_at(int32_t i) { return &lora__predictives[i]->m; }
static const lora__member *quant_at(int32_t i) { return &lora__quants[i]->m; }
static const lora__member *strategy_at(int32_t i) { return &lora__strategies[i]->m; }
static const lora__member *schedule_at(int32_t i) { return &lora__schedules[i]->m; }

static const lora__member *const fixed[] = { &lora__model_member, &lora__model_save_member, &lora__adapter_open_member, &lora__adapter_save_member,
	&lora__generator_member, &lora__shapley_member, &lora__posterior_fit_member, &lora__posterior_predict_member };
static const lora__member *fixed_at(int32_t i) { return fixed[i]; }
static const lora__member *trainer_at(int32_t i) { return i == 0 ? &lora__trainer_member : NULL; }

#define COUNT(list) \
	static int32_t count_##list(void) \
	{ \
		int32_t n = 0; \
		while (lora__##list[n]) n++; \
		return n; \
	}
COUNT(archs)
COUNT(kinds)
COUNT(ops)
COUNT(optims)
COUNT(schedules)
COUNT(strategies)
COUNT(quants)
COUNT(combinations)
COUNT(searches)
COUNT(factors)
COUNT(predictives)

static int32_t count_fixed(void) { return (int32_t)(sizeof fixed / sizeof *fixed); }
static int32_t count_one(void) { return 1; }

static const struct family {
	const char *name;
	int32_t (*count)(void);
	const lora__member *(*at)(int32_t i);
} families[] = {
	{ "backend", lora__backend_count, backend_at }, { "architecture", count_archs, arch_at }, { "adapter", count_kinds, kind_at },
	{ "optimizer", count_optims, optim_at }, { "schedule", count_schedules, schedule_at }, { "strategy", count_strategies, strategy_at }, { "trainer", count_one, trainer_at }, { "op", count_ops, op_at },
	{ "chat_template", lora__chat_count, lora__chat_member }, { "quant", count_quants, quant_at }, { "combination", count_combinations, combination_at },
	{ "search", count_searches, search_at },
	{ "factor", count_factors, factor_at }, { "predictive", count_predictives, predictive_at }, /* of posteriors */
	{ "call", count_fixed, fixed_at }, /* settings that single calls take */
};
enum { N_FAMILIES = sizeof families / sizeof *families };

static const struct family *find(const char *name)
{
	for (int i = 0; i < N_FAMILIES; i++)
		if (strcmp(families[i].name, name) == 0) return &families[i];
	return NULL;
}

int32_t lora_family_count(const char *family)
{
	if (!family) return N_FAMILIES;
	const struct family *f = find(family);
	return f ? f->count() : -1;
}

const char *lora_family_name(const char *family, int32_t i)
{
	if (!family) return i >= 0 && i < N_FAMILIES ? families[i].name : NULL;
	const struct family *f = find(family);
	return f && i >= 0 && i < f->count() ? f->at(i)->name : NULL;
}

lora_status lora_family_describe(lora_context *ctx, const char *family, const char *member, char *buf, size_t size, size_t *needed)
{
	if (!ctx) return LORA_E_ARGUMENT;
	if (!family || !member) return lora__fail(ctx, LORA_E_ARGUMENT, "family", "lora_family_describe: %s is NULL", family ? "member" : "family");
	const struct family *f = find(family);
	const lora__member *m = NULL;
	for (int32_t i = 0; f && i < f->count() && !m; i++) {
		m = f->at(i); /* a backend's entry lives until the next one is asked for */
		if (strcmp(m->name, member)) m = NULL;
	}
	if (!m)
		return lora__fail_at(ctx, LORA_E_NOTFOUND, "family", f ? member : family, -1, "there is no %s \"%s\"", f ? family : "family", lora__quote(f ? member : family).text);
	lora__text t;
	lora__text_init(&t, ctx);
	lora_status st = lora__member_json(ctx, family, m, &t);
	if (st == LORA_OK) st = lora__text_give(ctx, t.data, t.n, buf, size, needed);
	lora__text_free(&t);
	return st;
}
