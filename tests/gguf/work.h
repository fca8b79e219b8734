/* Test support: models and adapters in GGUF. Include it after <check.h>. */
#ifndef LORA_TESTS_GGUF_WORK_H
#define LORA_TESTS_GGUF_WORK_H

#include "faults.h"
#include "gguf/image.h"
#include "golden.h"

#define DIR_ "tests/golden/gguf/"

static scratch room;
static inline void setup(void) { golden_context("naive", 2), scratch_make(&room); }
static inline void teardown(void) { lora_context_destroy(golden_ctx), scratch_remove(&room); }

static inline lora_model *open_model(const char *path)
{
	lora_model *m;
	ck_ok(lora_model_open(golden_ctx, path, NULL, &m));
	return m;
}

static inline lora_settings *settings_of(const char *name, const char *value)
{
	lora_settings *s;
	ck_ok(lora_settings_create(golden_ctx, &s));
	if (name) ck_ok(lora_settings_set_string(s, name, value));
	return s;
}

/* All of a is in b, and the same; bytes of what has skip in its name are not looked at. */
static inline void same_tensors(const lora__tensors *a, const lora__tensors *b, const char *skip)
{
	ck_assert_uint_eq(a->n, b->n);
	for (size_t i = 0; i < a->n; i++) {
		const lora__tensor *x = &a->list[i], *y = lora__tensors_find(b, x->name);
		ck_assert_msg(y != NULL, "%s is missing", x->name);
		ck_assert_msg(x->dtype == y->dtype && x->bytes == y->bytes, "%s: type or size", x->name);
		if (skip && strstr(x->name, skip)) continue;
		ck_assert_msg(memcmp(x->data, y->data, x->bytes) == 0, "%s: bytes differ", x->name);
	}
}

#endif
