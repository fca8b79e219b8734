/* Rotary frequencies and tables, computed in double. Plain: theta^(-2j/d), Su et al. 2021, arXiv:2104.09864, section 3.2.2.
 * Scalings as transformers' modeling_rope_utils: linear (Chen et al. 2023, arXiv:2306.15595), llama3 (Dubey et al. 2024, arXiv:2407.21783),
 * yarn (Peng et al. 2023, arXiv:2309.00071), longrope (Ding et al. 2024, arXiv:2402.13753). Any other type is refused by name. */
#include <math.h>
#include <string.h>

#include "model/model.h"

static const double PI = 3.14159265358979323846;

/* o: the object with the scaling, or NULL; dim: rotated part of a head, which may be odd. */
typedef struct recipe { const json_t *o; lora__builder *b; int64_t dim; } recipe;

static double number(const recipe *r, const char *key, double def)
{
	const json_t *v = r->o ? json_object_get(r->o, key) : NULL;
	if (!v || json_is_null(v)) return def;
	if (!json_is_number(v) || !isfinite(json_number_value(v))) lora__cfg_unsupported(r->b, key, "rope scaling: a finite number is expected");
	return json_number_value(v);
}

static double positive(const recipe *r, const char *key, double def)
{
	double d = number(r, key, def);
	if (d > 0) return d;
	lora__cfg_unsupported(r->b, key, "rope scaling: it must be positive");
	return 1.0;
}

static void linear(const recipe *r, lora__rotary *t)
{
	double factor = positive(r, "factor", 1.0);
	for (int64_t j = 0; j < t->rot / 2; j++) t->inv_freq[j] /= factor;
}

/* A value of its own beside the scaling goes before the one in it. */
static double original(const recipe *r)
{
	double inside = positive(r, "original_max_position_embeddings", (double)r->b->m->max_positions);
	return lora__cfg_float(r->b, "original_max_position_embeddings", inside, 1, 1e9);
}

static void llama3(const recipe *r, lora__rotary *t)
{
	double factor = positive(r, "factor", 8), low = positive(r, "low_freq_factor", 1), high = positive(r, "high_freq_factor", 4);
	double old = original(r);
	if (high == low) return lora__cfg_unsupported(r->b, "high_freq_factor", "rope scaling: it must differ from low_freq_factor");
	for (int64_t j = 0; j < t->rot / 2; j++) {
		double wave = 2 * PI / t->inv_freq[j], smooth = (old / wave - low) / (high - low);
		if (wave < old / high) continue;
		t->inv_freq[j] = wave > old / low ? t->inv_freq[j] / factor : (1 - smooth) * t->inv_freq[j] / factor + smooth * t->inv_freq[j];
	}
}

static double correction_dim(double rotations, double dim, double base, double old) { return dim * log(old / (rotations * 2 * PI)) / (2 * log(base)); }

static void yarn(const recipe *r, lora__rotary *t, double base)
{
	double old = original(r), factor = positive(r, "factor", (double)r->b->m->max_positions / old);
	double fast = positive(r, "beta_fast", 32), slow = positive(r, "beta_slow", 1), dim = (double)r->dim;
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

/* One factor per frequency, those of long_factor when a pass reaches beyond the original length. */
static void longrope(const recipe *r, lora__rotary *t)
{
	double old = original(r), factor = positive(r, "factor", (double)r->b->m->max_positions / old), given = number(r, "attention_factor", 0);
	int64_t half = t->rot / 2;
	t->long_freq = lora__calloc(r->b->m->s.ctx, (size_t)half, sizeof *t->long_freq);
	if (!t->long_freq) {
		r->b->status = LORA_E_MEMORY;
		return;
	}
	memcpy(t->long_freq, t->inv_freq, (size_t)half * sizeof *t->long_freq);
	for (int k = 0; k < 2; k++) {
		const char *key = k ? "long_factor" : "short_factor";
		const json_t *list = json_object_get(r->o, key);
		double *freq = k ? t->long_freq : t->inv_freq;
		if (!json_is_array(list) || json_array_size(list) != (size_t)half)
			return lora__cfg_unsupported(r->b, key, "rope scaling: a list of half as many numbers as a head has rotated elements is expected");
		for (int64_t j = 0; j < half; j++) {
			double f = json_number_value(json_array_get(list, (size_t)j));
			if (!(f > 0) || !isfinite(f)) return lora__cfg_unsupported(r->b, key, "rope scaling: positive numbers are expected");
			freq[j] /= f;
		}
	}
	t->long_after = (int64_t)old;
	t->factor = given > 0 ? given : factor <= 1 ? 1.0 : sqrt(1 + log(factor) / log(old));
}

/* The object that holds the scaling: rope_scaling, else rope_parameters, there perhaps a member of it. */
static const json_t *scaling(lora__builder *b, const lora__rope_keys *keys)
{
	const json_t *old = json_object_get(b->m->config, "rope_scaling"), *now = json_object_get(b->m->config, "rope_parameters"), *part = NULL;
	const char *const kinds[] = { "full_attention", "sliding_attention" };
	if (old && !json_is_null(old) && !json_is_object(old)) lora__cfg_unsupported(b, "rope_scaling", "an object is expected");
	if (now && !json_is_null(now) && !json_is_object(now)) lora__cfg_unsupported(b, "rope_parameters", "an object is expected");
	if (json_object_size(old)) return keys->plain ? NULL : old;
	for (int i = 0; i < 2; i++)
		if (json_object_get(now, kinds[i])) part = now;
	if (!part) return json_is_object(now) && !keys->plain ? now : NULL;
	if (!keys->layer_type) lora__cfg_unsupported(b, "rope_parameters", "this model has one kind of rotary embedding, not one per kind of layer");
	const json_t *own = json_object_get(part, keys->layer_type ? keys->layer_type : kinds[0]);
	if (own && !json_is_null(own) && !json_is_object(own)) lora__cfg_unsupported(b, keys->layer_type ? keys->layer_type : kinds[0], "rope_parameters: an object is expected");
	return own;
}

static const char *type_of(lora__builder *b, const json_t *o)
{
	const json_t *v = json_object_get(o, "rope_type");
	if (!v) v = json_object_get(o, "type");
	if (!v) return "default";
	if (!json_is_string(v)) lora__cfg_unsupported(b, "rope_type", "a string is expected");
	return json_is_string(v) ? json_string_value(v) : "default";
}

void lora__b_rotary_as(lora__builder *b, int64_t head_dim, const lora__rope_keys *keys)
{
	lora_model *m = b->m;
	recipe r = { scaling(b, keys), b, 0 };
	const char *type = type_of(b, r.o);
	double theta = number(&r, "rope_theta", lora__cfg_float(b, keys->theta, keys->theta_default, 1e-3, 1e15));
	double partial = number(&r, "partial_rotary_factor", lora__cfg_float(b, keys->partial, keys->partial_default, 0, 1));
	lora__rotary *t = &m->rotary[keys->table];
	if (b->status) return;
	if (!(partial >= 0 && partial <= 1)) return lora__cfg_unsupported(b, "partial_rotary_factor", "it must be 0 to 1");
	r.dim = (int64_t)((double)head_dim * partial);
	t->rot = r.dim + r.dim % 2; /* an odd part is rounded up, as transformers does */
	t->factor = 1.0;
	if (t->rot <= 0) return;
	if (t->rot > head_dim) return lora__cfg_unsupported(b, "head_dim", "an odd head width cannot be rotated");
	if (!(theta >= 1e-3 && theta <= 1e15)) return lora__cfg_unsupported(b, "rope_theta", "it must be 1e-3 to 1e15");
	t->inv_freq = lora__calloc(m->s.ctx, (size_t)t->rot / 2, sizeof *t->inv_freq);
	if (!t->inv_freq) {
		b->status = LORA_E_MEMORY;
		return;
	}
	for (int64_t j = 0; j < t->rot / 2; j++) t->inv_freq[j] = pow(theta, -2.0 * (double)j / (double)r.dim);
	if (strcmp(type, "default") == 0) return;
	if (strcmp(type, "linear") == 0) linear(&r, t);
	else if (strcmp(type, "llama3") == 0) llama3(&r, t);
	else if (strcmp(type, "longrope") == 0 || strcmp(type, "su") == 0 || (keys->yarn_is_long && strcmp(type, "yarn") == 0)) longrope(&r, t);
	else if (strcmp(type, "yarn") == 0) yarn(&r, t, theta);
	else lora__cfg_unknown(b, "rope_type", type);
}

void lora__b_rotary(lora__builder *b, int64_t head_dim)
{
	double theta = 10000.0;
	for (const lora__param *p = b->m->arch->m.params; p && p->name; p++)
		if (strcmp(p->name, "rope_theta") == 0) theta = lora__get_float(NULL, p, "rope_theta");
	lora__b_rotary_as(b, head_dim, &(lora__rope_keys){ .theta = "rope_theta", .partial = "partial_rotary_factor", .theta_default = theta, .partial_default = 1.0 });
}

static lora_status fill(lora_model *m, lora__rotary *t, int64_t n, int is_long)
{
	int64_t half = t->rot / 2, cap = t->n_positions ? t->n_positions * 2 : 512;
	if (cap < n) cap = n;
	if (n <= t->n_positions) cap = t->n_positions;
	const double *freq = is_long ? t->long_freq : t->inv_freq;
	lora_dtype wide = lora__wide(m->s.real);
	size_t each = lora__dtype_size(wide);
	char *c = lora__alloc(m->s.ctx, (size_t)(cap * half) * each), *s = c ? lora__alloc(m->s.ctx, (size_t)(cap * half) * each) : NULL;
	if (!s) {
		lora__free(m->s.ctx, c);
		return LORA_E_MEMORY;
	}
	for (int64_t p = 0; p < cap; p++)
		for (int64_t j = 0; j < half; j++) {
			double angle = (double)p * freq[j], v[2] = { cos(angle) * t->factor, sin(angle) * t->factor };
			lora__convert(c + (size_t)(p * half + j) * each, wide, &v[0], LORA_F64, 1);
			lora__convert(s + (size_t)(p * half + j) * each, wide, &v[1], LORA_F64, 1);
		}
	lora__free(m->s.ctx, t->cos);
	lora__free(m->s.ctx, t->sin);
	t->cos = c, t->sin = s, t->n_positions = cap, t->is_long = is_long;
	return LORA_OK;
}

lora_status lora__rotary_reserve(lora_model *m, int64_t n)
{
	lora_status st = LORA_OK;
	for (int i = 0; i < LORA__ROTARIES && st == LORA_OK; i++) {
		lora__rotary *t = &m->rotary[i];
		int is_long = t->long_freq && n > t->long_after;
		if (t->rot > 0 && (n > t->n_positions || is_long != t->is_long)) st = fill(m, t, n, is_long);
	}
	return st;
}

void lora__rotary_tables(const lora_model *m, lora__angles *out)
{
	for (int i = 0; i < LORA__ROTARIES; i++) out[i] = (lora__angles){ m->rotary[i].cos, m->rotary[i].sin, m->rotary[i].n_positions };
}
