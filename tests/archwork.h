/* Test support for architectures: settings from JSON, parameters and gradients of an adapter in one row, and what a step along them does to the loss.
 * Include it after <check.h>. */
#ifndef LORA_TESTS_ARCHWORK_H
#define LORA_TESTS_ARCHWORK_H

#include "golden.h"

#include "check_alloc.h"

static inline lora_settings *from_json(const char *text)
{
	lora_settings *s;
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_from_json(s, text, strlen(text)));
	return s;
}

/* All that read gives of the tensors, one behind the other; the caller frees. */
static inline float *gather(lora_adapter *a, int64_t *n, lora_status (*read)(const lora_adapter *, int64_t, float *, size_t))
{
	float *g = NULL;
	*n = 0;
	for (int64_t i = 0; i < lora_adapter_tensor_count(a); i++) {
		lora_tensor_info t;
		ck_ok(lora_adapter_tensor_info(a, i, &t));
		g = realloc(g, (size_t)*n * sizeof *g + t.bytes);
		ck_ok(read(a, i, g + *n, t.bytes));
		*n += (int64_t)(t.bytes / sizeof *g);
	}
	return g;
}

/* Move all parameters along a random direction by h; returns sum(gradient * step really taken). */
static inline double move(lora_adapter *a, const float *before, const float *g, double h, uint64_t seed)
{
	int64_t at = 0;
	double sum = 0;
	for (int64_t i = 0; i < lora_adapter_tensor_count(a); i++) {
		lora_tensor_info t;
		ck_ok(lora_adapter_tensor_info(a, i, &t));
		int64_t n = (int64_t)(t.bytes / sizeof(float));
		float *p = malloc(t.bytes);
		for (int64_t k = 0; k < n; k++) {
			double u = (double)(check_random(&seed) >> 11) * 0x1p-52 - 1;
			p[k] = (float)((double)before[at + k] + h * u);
			sum += (double)g[at + k] * ((double)p[k] - (double)before[at + k]);
		}
		ck_ok(lora_adapter_tensor_write(a, i, p, t.bytes));
		free(p);
		at += n;
	}
	return sum;
}

/* Along random directions the loss changes as its gradient says. g and p: gradient and parameters, gathered. */
static inline void check_slopes(const char *what, lora_model *m, lora_adapter *a, const float *g, const float *p, double (*loss_of)(lora_model *))
{
	for (uint64_t seed = 1; seed <= 3; seed++) {
		double up = move(a, p, g, 2e-5, seed), high = loss_of(m), down = move(a, p, g, -2e-5, seed), low = loss_of(m);
		ck_assert_msg(fabs(high - low - (up - down)) <= 2e-5 * fabs(up - down) + 1e-10, "%s: loss changes by %.9g, the gradient says %.9g", what, high - low, up - down);
	}
}

#endif
