/* Merge adapters into a model and take them out again, many times and in any order, and prove that every weight byte is as before.
 *
 *     merge_cycle [MODEL [CYCLES [ADAPTER...]]]      without ADAPTER two random ones are made
 *
 * What is proved: a copy of every weight is taken at the start. After each cycle all bytes are compared with it. And with all adapters
 * merged the bytes are the same whatever the order was: merged weights are a function of the base and the set of adapters. */
#include <lora/lora.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ADAPTERS = 8 };

static lora_context *ctx;
static lora_model *model;
static int64_t n_sites;

static void must(lora_status st)
{
	if (st) fprintf(stderr, "merge_cycle: %s: %s\n", lora_status_name(st), lora_context_last_error(ctx)), exit(1);
}

static lora_site_info site(int64_t i)
{
	lora_site_info info = {.struct_size = sizeof info};
	must(lora_model_site_info(model, i, &info));
	return info;
}

static size_t site_bytes(const lora_site_info *info) { return (size_t)(info->out * info->in) * (info->dtype == LORA_F32 ? 4 : 2); }

/* All weights one after the other, as they are now. */
static unsigned char *snapshot(size_t *total)
{
	*total = 0;
	for (int64_t i = 0; i < n_sites; i++) {
		lora_site_info info = site(i);
		*total += site_bytes(&info);
	}
	unsigned char *copy = malloc(*total ? *total : 1), *p = copy;
	if (!copy) exit(1);
	for (int64_t i = 0; i < n_sites; i++) {
		lora_site_info info = site(i);
		memcpy(p, info.data, site_bytes(&info));
		p += site_bytes(&info);
	}
	return copy;
}

/* FNV-1a, to have something short to show. */
static unsigned long long digest(const unsigned char *p, size_t n)
{
	unsigned long long h = 14695981039346656037ull;
	for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 1099511628211ull;
	return h;
}

static size_t bytes_that_differ(const unsigned char *a, const unsigned char *b, size_t n)
{
	size_t count = 0;
	for (size_t i = 0; i < n; i++) count += a[i] != b[i];
	return count;
}

/* An adapter whose B is not zero, so that merging it changes something. */
static lora_adapter *random_adapter(int seed)
{
	lora_settings *s;
	lora_adapter *a;
	must(lora_settings_create(ctx, &s));
	must(lora_settings_set_int(s, "r", 4));
	must(lora_settings_set_string(s, "target_modules", "all-linear"));
	must(lora_settings_set_bool(s, "init_lora_weights", 0));
	must(lora_settings_set_int(s, "seed", seed));
	must(lora_adapter_create(model, "lora", s, &a));
	lora_settings_destroy(s);
	return a;
}

static void shuffle(int *order, int n)
{
	for (int i = n - 1; i > 0; i--) {
		int j = rand() % (i + 1), t = order[i];
		order[i] = order[j], order[j] = t;
	}
}

int main(int argc, char **argv)
{
	const char *path = argc > 1 ? argv[1] : "examples/demo/model";
	int cycles = argc > 2 ? atoi(argv[2]) : 20, n = argc > 3 ? argc - 3 : 2, order[MAX_ADAPTERS];
	lora_adapter *adapters[MAX_ADAPTERS];
	if (n > MAX_ADAPTERS) n = MAX_ADAPTERS;

	must(lora_context_create(LORA_ABI, NULL, &ctx));
	must(lora_model_open(ctx, path, NULL, &model));
	n_sites = lora_model_site_count(model);
	for (int i = 0; i < n; i++) {
		order[i] = i;
		if (argc > 3) must(lora_adapter_open(model, argv[3 + i], NULL, &adapters[i]));
		else adapters[i] = random_adapter(i + 1);
		must(lora_adapter_attach(adapters[i], 1.0));
	}

	size_t total, moved = 0;
	unsigned char *start = snapshot(&total), *merged = NULL;
	printf("%lld weight matrices, %zu bytes, digest %016llx\n", (long long)n_sites, total, digest(start, total));
	for (int cycle = 0; cycle < cycles; cycle++) {
		shuffle(order, n);
		for (int i = 0; i < n; i++) must(lora_adapter_merge(adapters[order[i]], NULL));
		unsigned char *now = snapshot(&total);
		if (!merged) {
			merged = now, moved = bytes_that_differ(start, merged, total);
			printf("merged:   %zu bytes differ, digest %016llx\n", moved, digest(merged, total));
		} else {
			if (memcmp(now, merged, total)) return fprintf(stderr, "merge_cycle: another order gave other bytes\n"), 1;
			free(now);
		}
		shuffle(order, n);
		for (int i = 0; i < n; i++) must(lora_adapter_unmerge(adapters[order[i]]));
		now = snapshot(&total);
		size_t wrong = bytes_that_differ(start, now, total);
		if (cycle == 0) printf("unmerged: %zu bytes differ, digest %016llx\n", wrong, digest(now, total));
		free(now);
		if (wrong) return fprintf(stderr, "merge_cycle: %zu bytes are not as before after cycle %d\n", wrong, cycle + 1), 1;
	}
	if (cycles > 0 && !moved) return fprintf(stderr, "merge_cycle: merging changed nothing, so this proves nothing\n"), 1;
	printf("%d cycles, %d adapter%s, random order each time: every weight byte is as at the start\n", cycles, n, n > 1 ? "s" : "");

	for (int i = 0; i < n; i++) lora_adapter_destroy(adapters[i]);
	lora_model_destroy(model);
	lora_context_destroy(ctx);
	free(start), free(merged);
	return 0;
}
