/* Test support: a model with adapters of virtual tokens, and random batches. Include after <check.h>. */
#ifndef TESTS_PREFIXWORK_H
#define TESTS_PREFIXWORK_H

#include <unistd.h>

#include "check_alloc.h"
#include "golden.h"
#include "model/generate.h"
#include "site/virtual.h"
#include "train/train.h"

#define LLAMA "tests/golden/models/llama/model"
enum { V = 131, T = 9 };

static inline lora_settings *from_json(const char *text)
{
	lora_settings *s;
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_from_json(s, text, strlen(text)));
	return s;
}

static inline lora_model *open_model(const char *path, const char *dtype)
{
	lora_model *m;
	lora_settings *s;
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_set_string(s, "dtype", dtype));
	ck_ok(lora_model_open(golden_ctx, path, s, &m));
	lora_settings_destroy(s);
	return m;
}

static inline lora_status try_create(lora_model *m, const char *kind, const char *json, lora_adapter **a)
{
	lora_settings *s = from_json(json);
	lora_status st = lora_adapter_create(m, kind, s, a);
	lora_settings_destroy(s);
	return st;
}

static inline lora_adapter *create(lora_model *m, const char *kind, const char *json)
{
	lora_adapter *a;
	ck_ok(try_create(m, kind, json, &a));
	ck_ok(lora_adapter_attach(a, 1.0));
	return a;
}

static inline void must_say(lora_status want, lora_status got, const char *text)
{
	ck_assert_msg(want == got && strstr(lora_context_last_error(golden_ctx), text), "%s expected with \"%s\", got %s: %s", lora_status_name(want), text,
		lora_status_name(got), lora_context_last_error(golden_ctx));
}

static const struct { const char *kind, *json; } trained[] = {
	{ "prefix_tuning", "{\"num_virtual_tokens\":4}" }, { "prefix_tuning", "{\"num_virtual_tokens\":4,\"subspace_vertices\":3}" },
	{ "prefix_tuning", "{\"num_virtual_tokens\":4,\"prefix_projection\":true}" }, { "prompt_tuning", "{\"num_virtual_tokens\":4}" },
};

static inline void read_case(const char *name, const char *file, lora__tensors *io)
{
	char path[512];
	snprintf(path, sizeof path, "tests/golden/peft/%s/%s", name, file);
	ck_ok(lora__safetensors_open(golden_ctx, path, io));
}


static int32_t ids[4 * T], labels[4 * T], mask[4 * T];

static inline lora_batch fill_batch(uint64_t seed)
{
	for (int i = 0; i < 4 * T; i++) {
		ids[i] = (int32_t)(check_random(&seed) % V);
		labels[i] = check_random(&seed) % 4 ? ids[i] : -100;
		mask[i] = i / T == 1 ? i % T < 6 : i / T == 2 ? i % T >= 3 : 1; /* right and left padding */
	}
	return (lora_batch){ .struct_size = sizeof(lora_batch), .n_sequences = 4, .length = T, .input_ids = ids, .attention_mask = mask, .labels = labels };
}


static lora_model *model;
static inline void begin(void)
{
	golden_context("naive", 1);
	model = open_model(LLAMA, "f32");
}
static inline void end(void)
{
	lora_model_destroy(model);
	lora_context_destroy(golden_ctx);
}

static inline float *logits_of(lora_model *m, const lora_batch *b)
{
	size_t bytes = sizeof(float) * (size_t)(b->n_sequences * b->length * V);
	float *x = malloc(bytes + 1);
	ck_ok(lora_model_forward(m, b, x, bytes));
	return x;
}

static inline double gap_of(const float *a, const float *b, size_t n)
{
	double worst = 0;
	for (size_t i = 0; i < n; i++) worst = fmax(worst, fabs((double)a[i] - (double)b[i]));
	return worst;
}


#endif
