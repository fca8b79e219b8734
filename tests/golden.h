/* Reading golden cases: a safetensors file of inputs and expected results, and case.json. For tests only. */
#ifndef TESTS_GOLDEN_H
#define TESTS_GOLDEN_H

#include <check.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/safetensors.h"
#include "lora/lora.h"
#include "model/model.h"

#define ck_ok(call) do { \
		lora_status st_ = (call); \
		ck_assert_msg(st_ == LORA_OK, "%s: %s: %s", #call, lora_status_name(st_), lora_context_last_error(golden_ctx)); \
	} while (0)

static lora_context *golden_ctx;

static inline lora_context *golden_context(const char *backend, int threads)
{
	lora_context_options o;
	lora_error e = { .struct_size = sizeof e };
	lora_context_options_init(&o, sizeof o);
	o.backend = backend, o.threads = threads, o.error = &e;
	golden_ctx = NULL;
	lora_status st = lora_context_create(LORA_ABI, &o, &golden_ctx);
	ck_assert_msg(st == LORA_OK, "context: %s", e.message);
	return golden_ctx;
}

/* Integers of a tensor as int32; NULL when it is not there. The caller frees. */
static inline int32_t *golden_ints(const lora__tensors *t, const char *name)
{
	const lora__tensor *x = lora__tensors_find(t, name);
	if (!x) return NULL;
	size_t n = x->bytes / lora__dtype_size(x->dtype);
	int32_t *out = malloc((n + 1) * sizeof *out);
	for (size_t i = 0; i < n; i++) {
		int64_t v = 0;
		if (x->dtype == LORA_I64) memcpy(&v, x->data + 8 * i, 8);
		else {
			int32_t w;
			memcpy(&w, x->data + 4 * i, 4);
			v = w;
		}
		out[i] = (int32_t)v;
	}
	return out;
}

/* A float tensor as double; the caller frees. */
static inline double *golden_reals(const lora__tensors *t, const char *name, size_t *n)
{
	const lora__tensor *x = lora__tensors_find(t, name);
	ck_assert_msg(x != NULL, "no tensor %s", name);
	*n = x->bytes / lora__dtype_size(x->dtype);
	double *out = malloc((*n + 1) * sizeof *out);
	lora__convert(out, LORA_F64, x->data, x->dtype, *n);
	return out;
}

static inline json_t *golden_json(const char *format, const char *name)
{
	char path[512];
	json_error_t e;
	snprintf(path, sizeof path, format, name);
	json_t *o = json_load_file(path, 0, &e);
	ck_assert_msg(o != NULL, "%s: %s", path, e.text);
	return o;
}

typedef struct golden_batch { lora_batch b; int32_t *ids, *mask, *positions, *labels; } golden_batch;

static inline golden_batch golden_read_batch(const lora__tensors *t)
{
	golden_batch g = { .ids = golden_ints(t, "input_ids"), .mask = golden_ints(t, "attention_mask"), .positions = golden_ints(t, "position_ids"),
		.labels = golden_ints(t, "labels") };
	const lora__tensor *ids = lora__tensors_find(t, "input_ids");
	g.b = (lora_batch){ .struct_size = sizeof g.b, .n_sequences = ids->shape[0], .length = ids->shape[1], .input_ids = g.ids, .attention_mask = g.mask,
		.position_ids = g.positions, .labels = g.labels };
	return g;
}

static inline void golden_free_batch(golden_batch *g) { free(g->ids), free(g->mask), free(g->positions), free(g->labels); }

/* Largest difference of logits at unmasked positions. */
static inline double golden_logits_gap(const golden_batch *g, const float *got, const double *want, int64_t vocab)
{
	double worst = 0;
	for (int64_t i = 0; i < g->b.n_sequences * g->b.length; i++) {
		if (g->mask && !g->mask[i]) continue;
		for (int64_t j = 0; j < vocab; j++) worst = fmax(worst, fabs((double)got[i * vocab + j] - want[i * vocab + j]));
	}
	return worst;
}

#endif
