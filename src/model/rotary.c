/* Rotary frequencies and tables, computed in double. Plain: theta^(-2j/d), Su et al. 2021, arXiv:2104.09864, section 3.2.2.
 * Scalings as transformers' modeling_rope_utils: linear (Chen et al. 2023, arXiv:2306.15595), llama3 (Dubey et al. 2024, arXiv:2407.21783),
 * yarn (Peng et al. 2023, arXiv:2309.00071). Any other type is refused by name. */
#include <math.h>
#include <string.h>

#include "model/model.h"

static const double PI = 3.14159265358979323846;

typedef struct recipe { const json_t *o; lora__builder *b; } recipe;

static double number(const recipe *r, const char *key, double def)
{
	const json_t *v = r->o ? json_object_get(r->o, key) : NULL;
	if (!v || json_is_null(v)) return def;
	if (!json_is_number(v) || !isfinite(json_number_value(v))) lora__cfg_unsupported(r->b, key, "rope scaling: a finite number is expected");
	return json_number_value(v);
}

static void linear(const recipe *r, lora__rotary *t)
{
	double factor = number(r, "factor", 1.0);
	for (int64_t j = 0; j < t->rot / 2; j++) t->inv_freq[j] /= factor;
}

static void llama3(const recipe *r, lora__rotary *t)
{
	double factor = number(r, "factor", 8), low = number(r, "low_freq_factor", 1), high = number(r, "high_freq_factor", 4);
	double old = number(r, "original_max_position_embeddings", 8192);
	for (int64_t j = 0; j < t->rot / 2; j++) {
		double wave = 2 * PI / t->inv_freq[j], smooth = (old / wave - low) / (high - low);
		if (wave < old / high) continue;
		t->inv_freq[j] = wave > old / low ? t->inv_freq[j] / factor : (1 - smooth) * t->inv_freq[j] / factor + smooth * t->inv_freq[j];
	}
}

static double correction_dim(double rotations, double dim, double base, double old) { return dim * log(old / (rotations * 2 * PI)) / (2 * log(base)); }

static void yarn(const recipe *r, lora__rotary *t, double base)
{
	double factor = number(r, "factor", 1), old = number(r, "original_max_position_embeddings", (double)r->b->m->max_positions);
	double fast = number(r, "beta_fast", 32), slow = number(r, "beta_slow", 1), dim = (double)t->rot;
	double mscale = number(r, "mscale", 0), mscale_all = number(r, "mscale_all_dim", 0), given = number(r, "attention_factor", 0);
	const json_t *truncate = json_object_get(r->o, "truncate");
	double low = correction_dim(fast, dim, base, old), high = correction_dim(slow, dim, base, old);
	if (!json_is_false(truncate)) low = floor(low), high = ceil(high);
	low = fmax(low, 0), high = fmin(high, dim - 1);
	if (low == high) high += 0.001;
	for (int64_t j = 0; j < t->rot / 2; j++) {
		double ramp = fmin(1, fmax(0, ((double)j - low) / (high - low))), keep = 1 - ramp;
		t->inv_freq[j] = t->inv_freq[j] / factor * (1 - keep) + t->inv_freq[j] * keep;
	}
	double get = factor <= 1 ? 1.0 : 0.1 * log(factor) + 1.0;
	if (given > 0) t->factor = given;
	else if (mscale != 0 && mscale_all != 0) t->factor = factor <= 1 ? 1.0 : (0.1 * mscale * log(factor) + 1.0) / (0.1 * mscale_all * log(factor) + 1.0);
	else t->factor = get;
}

void lora__b_rotary(lora__builder *b, int64_t head_dim)
{
	lora_model *m = b->m;
	recipe r = { json_object_get(m->config, "rope_parameters"), b };
	if (!json_is_object(r.o)) r.o = json_object_get(m->config, "rope_scaling");
	if (!json_is_object(r.o)) r.o = NULL;
	const char *type = json_string_value(json_object_get(r.o, "rope_type"));
	if (!type) type = json_string_value(json_object_get(r.o, "type"));
	double theta = number(&r, "rope_theta", lora__cfg_float(b, "rope_theta", 10000.0, 1e-3, 1e15));
	double partial = number(&r, "partial_rotary_factor", lora__cfg_float(b, "partial_rotary_factor", 1.0, 0, 1));
	lora__rotary *t = &m->rotary;
	t->rot = (int64_t)((double)head_dim * partial) & ~(int64_t)1;
	t->factor = 1.0;
	if (b->status || t->rot <= 0) return;
	if (head_dim % 2) return lora__cfg_unsupported(b, "head_dim", "an odd head width cannot be rotated");
	if (!(theta > 0)) return lora__cfg_unsupported(b, "rope_theta", "it must be positive");
	t->inv_freq = lora__calloc(m->s.ctx, (size_t)t->rot / 2, sizeof *t->inv_freq);
	if (!t->inv_freq) {
		b->status = LORA_E_MEMORY;
		return;
	}
	for (int64_t j = 0; j < t->rot / 2; j++) t->inv_freq[j] = pow(theta, -2.0 * (double)j / (double)t->rot);
	if (!type || strcmp(type, "default") == 0) return;
	if (strcmp(type, "linear") == 0) linear(&r, t);
	else if (strcmp(type, "llama3") == 0) llama3(&r, t);
	else if (strcmp(type, "yarn") == 0) yarn(&r, t, theta);
	else lora__cfg_unsupported(b, "rope_type", lora__quote(type).text);
}

lora_status lora__rotary_reserve(lora_model *m, int64_t n)
{
	lora__rotary *t = &m->rotary;
	if (t->rot <= 0 || n <= t->n_positions) return LORA_OK;
	int64_t half = t->rot / 2, cap = t->n_positions ? t->n_positions * 2 : 512;
	if (cap < n) cap = n;
	lora_dtype wide = lora__wide(m->s.real);
	size_t each = lora__dtype_size(wide);
	char *c = lora__alloc(m->s.ctx, (size_t)(cap * half) * each), *s = c ? lora__alloc(m->s.ctx, (size_t)(cap * half) * each) : NULL;
	if (!s) {
		lora__free(m->s.ctx, c);
		return LORA_E_MEMORY;
	}
	for (int64_t p = 0; p < cap; p++)
		for (int64_t j = 0; j < half; j++) {
			double angle = (double)p * t->inv_freq[j], v[2] = { cos(angle) * t->factor, sin(angle) * t->factor };
			lora__convert(c + (size_t)(p * half + j) * each, wide, &v[0], LORA_F64, 1);
			lora__convert(s + (size_t)(p * half + j) * each, wide, &v[1], LORA_F64, 1);
		}
	lora__free(m->s.ctx, t->cos);
	lora__free(m->s.ctx, t->sin);
	t->cos = c, t->sin = s, t->n_positions = cap;
	return LORA_OK;
}
