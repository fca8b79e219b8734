/* Fuzz target: config.json. What an architecture accepts is built with fresh weights, within a small memory limit, its configuration is written as
 * GGUF's keys, and a few tokens go through it, twice the same. A configuration that is refused leaves nothing in memory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/gguf.h"
#include "model/gguf_save.h"
#include "model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static lora_context *ctx;

static void fail(const char *what)
{
	fprintf(stderr, "fuzz: %s\n", what);
	__builtin_trap();
}

static void setup(void)
{
	lora_context_options o;
	lora_context_options_init(&o, sizeof o);
	o.backend = "naive", o.threads = 1, o.log_level = 0;
	o.memory_limit = 2u << 20;
	if (lora_context_create(LORA_ABI, &o, &ctx)) fail("context");
}

static const lora__arch *arch_of(const json_t *config)
{
	const char *type = json_string_value(json_object_get(config, "model_type"));
	for (int i = 0; type && lora__archs[i]; i++)
		for (int j = 0; lora__archs[i]->model_types[j]; j++)
			if (strcmp(type, lora__archs[i]->model_types[j]) == 0) return lora__archs[i];
	return NULL;
}

static void run(lora_model *m)
{
	static const int32_t ids[4] = { 0, 1, 1, 0 };
	lora_batch b = { .struct_size = sizeof b, .n_sequences = 1, .length = 4, .input_ids = ids };
	lora_model_info info = { .struct_size = sizeof info };
	if (lora_model_get_info(m, &info)) fail("no info about a model that was built");
	for (int64_t i = 0; i < lora_model_site_count(m); i++) {
		lora_site_info s = { .struct_size = sizeof s };
		if (lora_model_site_info(m, i, &s) || s.out < 1 || s.in < 1 || !s.data) fail("a site without a shape");
	}
	if (info.has_decoder) b.decoder_input_ids = ids, b.decoder_length = 4;
	size_t n = 4 * (size_t)(info.n_labels ? info.n_labels : info.vocab_size);
	if (!info.has_head || n > 1 << 18) return;
	float *x = calloc(n, sizeof *x), *y = calloc(n, sizeof *y);
	lora_status st = lora_model_forward(m, &b, x, n * sizeof *x);
	if (!st && (lora_model_forward(m, &b, y, n * sizeof *y) || memcmp(x, y, n * sizeof *x))) fail("the same tokens give other logits");
	free(x);
	free(y);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t before, after;
	lora_model *m = NULL;
	int ran = 0; /* the backend keeps its working memory */
	if (!ctx) setup();
	lora_context_memory(ctx, &before, NULL);
	if (lora__model_new(ctx, &m)) fail("no model");
	if (lora__json_parse(ctx, (const char *)data, size, "config.json", &m->config) == LORA_OK && (m->arch = arch_of(m->config)) != NULL) {
		lora__builder b = { .m = m, .layer = -1, .fresh = 1, .fresh_dtype = LORA_F32, .seed = 1, .init_range = 0.02 };
		m->arch->build(&b);
		lora__b_finish(&b);
		lora__model_gguf_names(m);
		if (b.status == LORA_OK && m->s.gguf) {
			lora__gguf_out o;
			lora__gguf_begin(&o, ctx);
			(void)lora__gguf_put_config(m, &o, LORA_F32, "fuzz.gguf");
			lora__gguf_end(&o);
		}
		if (b.status == LORA_OK) run(m), ran = 1;
	}
	lora__sites_release(&m->s);
	lora_context_memory(ctx, &after, NULL);
	if (before != after && !ran) fail("memory left over");
	return 0;
}
