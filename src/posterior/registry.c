/* Families "factor" and "predictive": the lists expanded to tables, and look-up. */
#include <string.h>

#include "posterior/posterior.h"

const lora__factor_kind *const lora__factors[] = {
#define LORA__FACTOR(name) &lora__factor_##name,
#include "posterior/list.h"
#undef LORA__FACTOR
	NULL
};

const lora__predictive *const lora__predictives[] = {
#define LORA__PREDICTIVE(name) &lora__predictive_##name,
#include "posterior/list.h"
#undef LORA__PREDICTIVE
	NULL
};

/* Both kinds of descriptor begin with their lora__member. */
static lora_status find(lora_context *ctx, const void *const *list, const char *what, const char *name, const void **out)
{
	const char *names[32];
	size_t n = 0;
	for (; list[n] && n < 32; n++) {
		names[n] = ((const lora__member *)list[n])->name;
		if (strcmp(names[n], name) == 0) return *out = list[n], LORA_OK;
	}
	const char *near = lora__nearest(name, names, n);
	return lora__fail_at(ctx, LORA_E_ARGUMENT, "posterior", what, -1, "%s: there is no \"%s\" (did you mean \"%s\"?)", what, lora__quote(name).text, near ? near : names[0]);
}

lora_status lora__factor_find(lora_context *ctx, const char *name, const lora__factor_kind **out)
{
	const void *found = NULL;
	lora_status st = find(ctx, (const void *const *)lora__factors, "factor", name, &found);
	if (st == LORA_OK) *out = found;
	return st;
}

lora_status lora__predictive_find(lora_context *ctx, const char *name, const lora__predictive **out)
{
	const void *found = NULL;
	lora_status st = find(ctx, (const void *const *)lora__predictives, "form", name, &found);
	if (st == LORA_OK) *out = found;
	return st;
}
