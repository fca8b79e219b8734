/* LoRA: y += s (xd A^T) B^T, s = lora_alpha / r (or lora_alpha / sqrt(r) with use_rslora), xd = dropout(x).
 * On an embedding x is one-hot: columns of A[r,vocabulary] are picked.
 * A[r,in] starts uniform in +-1/sqrt(in), B[out,r] zero: a fresh adapter changes nothing.
 * Backward (methods as in any LoRA code): z = s dy B; dB += s dy^T t; dA += z^T xd; dx += (z A) * mask, with t = xd A^T.
 * Source: Hu et al. 2021, arXiv:2106.09685, section 4.1; rsLoRA: Kalajdzievski 2023, arXiv:2312.03732; names and inits: PEFT's LoraConfig. */
#include <math.h>
#include <string.h>

#include "adapter/adapter.h"

enum { A = 0, B = 1 };

static const lora__param params[] = {
	{ "r", LORA__INT, "8", 1, 65536, NULL, "rank" },
	{ "lora_alpha", LORA__FLOAT, "8", 0, 0, NULL, "scale is lora_alpha / r; may be negative or 0" },
	{ "use_rslora", LORA__BOOL, "false", 0, 0, NULL, "scale is lora_alpha / sqrt(r)" },
	{ "lora_dropout", LORA__FLOAT, "0.0", 0, 0.999999, NULL, "dropout of the adapter's input while training" },
	{ "target_modules", LORA__NAMES, NULL, 0, 0, NULL, "names, a regular expression, or \"all-linear\"; null = PEFT's default of the architecture" },
	{ "exclude_modules", LORA__NAMES, NULL, 0, 0, NULL, "names or a regular expression to leave out" },
	{ "rank_pattern", LORA__INT_MAP, NULL, 0, 0, NULL, "rank by module name or pattern" },
	{ "alpha_pattern", LORA__FLOAT_MAP, NULL, 0, 0, NULL, "lora_alpha by module name or pattern" },
	{ "layers_to_transform", LORA__INTS, NULL, 0, 0, NULL, "only these layers" },
	{ "layers_pattern", LORA__NAMES, NULL, 0, 0, NULL, "name in front of the layer number" },
	{ "init_lora_weights", LORA__BOOL_STRING, "true", 0, 0, NULL, "true: A uniform, B zero; \"gaussian\": A normal / r, B zero; false: both uniform" },
	{ "fan_in_fan_out", LORA__BOOL, "false", 0, 0, NULL, "carried: a site knows itself how it is stored" },
	{ "bias", LORA__STRING, "none", 0, 0, NULL, "only \"none\"" },
	{ "target_parameters", LORA__NAMES, NULL, 0, 0, NULL, "bare parameters by the ends of their names: mlp.experts.gate_up_proj, mlp.experts.down_proj" },
	{ "modules_to_save", LORA__NAMES, NULL, 0, 0, NULL, "linear layers (a classifier, lm_head) that are trained and saved as a whole" },
	{ "use_dora", LORA__BOOL, "false", 0, 0, NULL, "not supported yet: must be false" },
	{ "lora_bias", LORA__BOOL, "false", 0, 0, NULL, "not supported yet: must be false" },
	{ "task_type", LORA__STRING, NULL, 0, 0, NULL, "SEQ_CLS adds classifier and score to modules_to_save; else carried" },
	{ "base_model_name_or_path", LORA__STRING, NULL, 0, 0, NULL, "carried" },
	{ "revision", LORA__STRING, NULL, 0, 0, NULL, "carried" },
	{ "inference_mode", LORA__BOOL, "true", 0, 0, NULL, "carried" },
	{ "peft_version", LORA__STRING, NULL, 0, 0, NULL, "carried" },
	{ "name", LORA__STRING, "default", 0, 0, NULL, "name of the adapter" },
	{ "seed", LORA__INT, "0", 0, 9e15, NULL, "seed of fresh parameters" },
	{ 0 }
};

static const lora__role roles[] = {
	{ "lora_A.weight", 2, { LORA__DIM_RANK, LORA__DIM_IN } },
	{ "lora_B.weight", 2, { LORA__DIM_OUT, LORA__DIM_RANK } },
	{ 0 }
};

static lora_status refuse(lora_context *ctx, const lora_settings *s, int opening)
{
	static const struct { const char *key; const char *ok; } plain[] = { { "use_dora", "false" }, { "lora_bias", "false" }, { "use_qalora", "false" },
		{ "ensure_weight_tying", "false" }, { "trainable_token_indices", "null" }, { "layer_replication", "null" },
		{ "alora_invocation_tokens", "null" }, { "arrow_config", "null" }, { "use_bdlora", "null" },
		{ "velora_config", "null" }, { "monteclora_config", "null" }, { "kasa_config", "null" } };
	for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
		const json_t *v = lora__get_json(s, plain[i].key);
		if (!v || json_is_false(v) || (json_is_array(v) && !json_array_size(v)) || (json_is_object(v) && !json_object_size(v))) continue;
		return lora__fail_at(ctx, LORA_E_UNSUPPORTED, "adapter", plain[i].key, -1, "%s is set; this library supports only %s here", plain[i].key, plain[i].ok);
	}
	const json_t *bias = lora__get_json(s, "bias"), *init = lora__get_json(s, "init_lora_weights");
	if (bias && (!json_is_string(bias) || strcmp(json_string_value(bias), "none")))
		return lora__fail_at(ctx, LORA_E_UNSUPPORTED, "adapter", "bias", -1, "bias is not \"none\"; trained biases are not supported");
	/* inits that leave the base alone do not matter once the parameters are in a file; the others need their changed base */
	static const char *const harmless[] = { "gaussian", "eva", "orthogonal", "mica" };
	int known = 0;
	for (int i = 0; i < (opening ? 4 : 1); i++) known |= json_is_string(init) && strcmp(json_string_value(init), harmless[i]) == 0;
	if (json_is_string(init) && !known)
		return lora__fail_at(ctx, LORA_E_UNSUPPORTED, "adapter", "init_lora_weights", -1, "init_lora_weights \"%s\" is not supported (true, false, \"gaussian\")",
			lora__quote(json_string_value(init)).text);
	return LORA_OK;
}

static lora_status configure(lora_context *ctx, const lora_settings *s, lora__part *p)
{
	const json_t *v;
	const char *site = lora__part_key(p);
	double alpha = lora__get_float(s, params, "lora_alpha");
	p->rank = lora__get_int(s, params, "r");
	lora_status st = lora__pattern_value(ctx, lora__get_json(s, "rank_pattern"), site, &v);
	if (st == LORA_OK && v) p->rank = (int64_t)json_number_value(v);
	if (st == LORA_OK) st = lora__pattern_value(ctx, lora__get_json(s, "alpha_pattern"), site, &v);
	if (st == LORA_OK && v) alpha = json_number_value(v);
	if (st) return st;
	if (p->rank < 1 || p->rank > 65536)
		return lora__fail_at(ctx, LORA_E_ARGUMENT, "adapter", site, -1, "rank %lld at %s, must be 1 to 65536", (long long)p->rank, site);
	p->scaling = lora__get_bool(s, params, "use_rslora") ? alpha / sqrt((double)p->rank) : alpha / (double)p->rank;
	p->dropout = lora__get_float(s, params, "lora_dropout");
	if (!isfinite(p->scaling)) return lora__fail_at(ctx, LORA_E_NUMERIC, "adapter", site, -1, "lora_alpha / r is not finite at %s", site);
	return LORA_OK;
}

static void fill_uniform(lora__rng *r, float *w, int64_t n, double bound)
{
	double u[256];
	for (int64_t at = 0; at < n; at += 256) {
		int64_t m = n - at < 256 ? n - at : 256;
		lora__rng_uniforms(r, u, m);
		for (int64_t i = 0; i < m; i++) w[at + i] = (float)((2.0 * u[i] - 1.0) * bound);
	}
}

static lora_status init(lora_context *ctx, const lora_settings *s, lora__part *p, lora__rng *r)
{
	(void)ctx;
	const json_t *how = lora__get_json(s, "init_lora_weights");
	int64_t in = p->slot.site->in, out = p->slot.site->out;
	if (lora__part_is_table(p)) { /* torch's Embedding in PEFT: A zero, B normal; with false both normal */
		for (int64_t i = 0; json_is_false(how) && i < p->rank * in; i++) p->param[A][i] = (float)lora__rng_normal(r);
		for (int64_t i = 0; i < p->rank * out; i++) p->param[B][i] = (float)lora__rng_normal(r);
		return LORA_OK;
	}
	if (json_is_string(how)) {
		for (int64_t i = 0; i < p->rank * in; i++) p->param[A][i] = (float)(lora__rng_normal(r) / (double)p->rank);
		return LORA_OK;
	}
	fill_uniform(r, p->param[A], p->rank * in, 1.0 / sqrt((double)in)); /* kaiming_uniform(a = sqrt(5)), as torch's Linear */
	for (int64_t i = 0; json_is_false(how) && i < out; i++)
		for (int64_t k = 0; k < p->rank; k++) fill_uniform(r, p->param[B] + i * p->stride[B][0] + k * p->stride[B][1], 1, 1.0 / sqrt((double)p->rank));
	return LORA_OK;
}

static lora__part *part(const lora__slot *s) { return (lora__part *)(uintptr_t)s; }
static double scale(const lora__slot *s) { return part(s)->scaling * s->attach_scale; }
static int drops(const lora__slot *s, const lora__site_call *c) { return c->train && part(s)->dropout > 0 && s->trainable; }

static size_t saved_bytes(const lora__slot *s, lora_dtype real, int64_t n) { return lora__dtype_size(real) * (size_t)(n * part(s)->rank); }

/* z[n,r], t[n,r] when it was not saved, xd[n,in] and one more [n,in] with dropout */
static size_t scratch_bytes(const lora__slot *s, lora_dtype real, int64_t n)
{
	size_t each = lora__dtype_size(real), wide = part(s)->dropout > 0 ? (size_t)(n * s->site->in) : 0;
	return each * (2 * (size_t)(n * part(s)->rank) + wide);
}

static lora_view strided(const lora__slot *s, int role, void *data, lora_dtype type, int64_t rows, int64_t cols)
{
	lora_view v = lora__view2(data, type, rows, cols, part(s)->stride[role][0]);
	v.stride[1] = part(s)->stride[role][1];
	return v;
}

static lora_view view_a(const lora__slot *s) { return strided(s, A, part(s)->param[A], LORA_F32, part(s)->rank, s->site->in); }
static lora_view view_b(const lora__slot *s) { return strided(s, B, part(s)->param[B], LORA_F32, s->site->out, part(s)->rank); }

/* out = beta * out + dropout(x): the mask depends on step key, site and row number only. */
static lora_status dropout(const lora__slot *s, const lora__site_call *c, lora_view x, lora_view out, double beta)
{
	lora_call call = { .struct_size = sizeof call, .prim = LORA_PRIM_DROPOUT, .n_views = 2 };
	call.v[0] = out, call.v[1] = x;
	call.i[0] = (int64_t)lora__rng_key(c->key, LORA__RNG_DROPOUT, (uint64_t)s->site->index);
	call.i[1] = c->first_row;
	call.f[0] = part(s)->dropout, call.f[1] = beta;
	return lora__run(c->ctx, &call);
}

typedef struct pieces { lora_view t, z, xd; } pieces;

static pieces cut(const lora__slot *s, const lora__site_call *c)
{
	int64_t r = part(s)->rank, in = s->site->in;
	char *at = c->scratch;
	size_t narrow = lora__dtype_size(c->real) * (size_t)(c->n * r);
	pieces p;
	p.z = lora__view2(at, c->real, c->n, r, r);
	p.t = lora__view2(c->saved ? c->saved : at + narrow, c->real, c->n, r, r);
	p.xd = drops(s, c) ? lora__view2(at + 2 * narrow, c->real, c->n, in, in) : c->x;
	return p;
}

static lora_status shrink(const lora__slot *s, const lora__site_call *c, const pieces *p)
{
	lora_status st = drops(s, c) ? dropout(s, c, c->x, p->xd, 0.0) : LORA_OK;
	return st ? st : lora__gemm(c->ctx, 1.0, p->xd, lora__view_t(view_a(s)), 0.0, p->t);
}

static lora_status prepare(lora__slot *s) { return lora__adapter_need_grads(s->adapter); }

/* z = s dy B */
static lora_status expand_back(const lora__slot *s, const lora__site_call *c, const pieces *p) { return lora__gemm(c->ctx, scale(s), c->dy, view_b(s), 0.0, p->z); }

/* dB += s dy^T t, dA += z^T xd */
static lora_status gradients(lora__slot *s, const lora__site_call *c)
{
	pieces p = cut(s, c);
	int64_t r = part(s)->rank, in = s->site->in, out = s->site->out;
	lora_status st = LORA_OK;
	if (!s->trainable) return LORA_OK;
	lora_view da = strided(s, A, part(s)->grad[A], lora__wide(c->real), r, in), db = strided(s, B, part(s)->grad[B], lora__wide(c->real), out, r);
	if (!c->saved) st = shrink(s, c, &p);
	else if (drops(s, c)) st = dropout(s, c, c->x, p.xd, 0.0);
	if (st == LORA_OK) st = lora__site_gradient(s, c, B, scale(s), c->dy, p.t, db);
	return st ? st : lora__site_gradient(s, c, A, 1.0, p.z, p.xd, da);
}

static lora_status pair(lora__slot *s, const lora__site_call *c, int back, lora__pair *out)
{
	pieces p = cut(s, c);
	if (back && drops(s, c)) return LORA_OK; /* the mask comes between */
	lora_status st = back ? expand_back(s, c, &p) : shrink(s, c, &p);
	if (st == LORA_OK) *out = back ? (lora__pair){ p.z, view_a(s), 1.0 } : (lora__pair){ p.t, lora__view_t(view_b(s)), scale(s) };
	return st;
}

static lora_status forward(lora__slot *s, const lora__site_call *c)
{
	pieces p = cut(s, c);
	lora_status st = shrink(s, c, &p);
	return st ? st : lora__gemm(c->ctx, scale(s), p.t, lora__view_t(view_b(s)), 1.0, c->y);
}

static lora_status backward(lora__slot *s, const lora__site_call *c)
{
	pieces p = cut(s, c);
	lora_status st = expand_back(s, c, &p);
	if (st == LORA_OK) st = gradients(s, c);
	if (st || !c->dx.data) return st;
	if (!drops(s, c)) return lora__gemm(c->ctx, 1.0, p.z, view_a(s), 1.0, c->dx);
	st = lora__gemm(c->ctx, 1.0, p.z, view_a(s), 0.0, p.xd);
	return st ? st : dropout(s, c, p.xd, c->dx, 1.0);
}

static int factors(const lora__slot *s, int half, lora__pair *out)
{
	*out = (lora__pair){ view_b(s), view_a(s), part(s)->scaling };
	int dense = out->b.stride[1] == 1;
	if (half && dense) lora__adapter_halves(part(s), out);
	return dense;
}

/* D[first..first+n, in] += scale * scaling * B A, summed in F32 */
static lora_status delta(const lora__slot *s, lora_context *ctx, double factor, int64_t first, int64_t n, float *d)
{
	int64_t in = s->site->in;
	lora_view b = strided(s, B, part(s)->param[B] + first * part(s)->stride[B][0], LORA_F32, n, part(s)->rank);
	return lora__gemm(ctx, factor * part(s)->scaling, b, view_a(s), 1.0, lora__view2(d, LORA_F32, n, in, in));
}

static int64_t rank(const lora__slot *s, int train) { return train && part(s)->dropout > 0 ? 0 : part(s)->rank; }

static const lora__slot_ops ops = { .rank = rank, .saved_bytes = saved_bytes, .scratch_bytes = scratch_bytes, .forward = forward, .prepare = prepare, .backward = backward, .pair = pair, .gradients = gradients, .factors = factors, .delta = delta };

/* Embeddings: x is one-hot, so x A^T is columns of A, which are picked; dropout does not act there, as in PEFT. */
static const lora__role table_roles[] = {
	{ "lora_embedding_A", 2, { LORA__DIM_RANK, LORA__DIM_IN } },
	{ "lora_embedding_B", 2, { LORA__DIM_OUT, LORA__DIM_RANK } },
	{ 0 }
};

static size_t no_bytes(const lora__slot *s, lora_dtype real, int64_t n) { return (void)s, (void)real, (void)n, (size_t)0; }
static size_t table_scratch(const lora__slot *s, lora_dtype real, int64_t n) { return 2 * lora__dtype_size(real) * (size_t)(n * part(s)->rank); }

/* t[n,r] = A[:, ids]^T, and z[n,r] behind it */
static void pick(const lora__slot *s, const lora__site_call *c, lora_view *t, lora_view *z)
{
	int64_t r = part(s)->rank, vocab = s->site->in;
	size_t each = lora__dtype_size(c->real);
	*t = lora__view2(c->scratch, c->real, c->n, r, r);
	*z = lora__view2(c->scratch + each * (size_t)(c->n * r), c->real, c->n, r, r);
	for (int64_t i = 0; i < c->n; i++)
		for (int64_t k = 0; k < r; k++) lora__convert((char *)t->data + each * (size_t)(i * r + k), c->real, part(s)->param[A] + k * vocab + c->ids[i], LORA_F32, 1);
}

static lora_status table_forward(lora__slot *s, const lora__site_call *c)
{
	lora_view t, z;
	pick(s, c, &t, &z);
	return lora__gemm(c->ctx, scale(s) * c->factor, t, lora__view_t(view_b(s)), 1.0, c->y);
}

/* z = f s dy B; dB += f s dy^T t; dA[:, ids] += z^T */
static lora_status table_backward(lora__slot *s, const lora__site_call *c)
{
	lora_view t, z;
	lora_dtype wide = lora__wide(c->real);
	int64_t r = part(s)->rank, vocab = s->site->in;
	if (!s->trainable) return LORA_OK;
	pick(s, c, &t, &z);
	lora_status st = lora__gemm(c->ctx, scale(s) * c->factor, c->dy, view_b(s), 0.0, z);
	if (st == LORA_OK) st = lora__gemm(c->ctx, scale(s) * c->factor, lora__view_t(c->dy), t, 1.0, strided(s, B, part(s)->grad[B], wide, s->site->out, r));
	for (int64_t i = 0; i < c->n && st == LORA_OK; i++)
		for (int64_t k = 0; k < r; k++) {
			const char *from = (const char *)z.data + lora__dtype_size(c->real) * (size_t)(i * r + k);
			char *to = part(s)->grad[A] + lora__dtype_size(wide) * (size_t)(k * vocab + c->ids[i]);
			float v;
			if (wide == LORA_F64) *(double *)(void *)to += *(const double *)(const void *)from;
			else lora__convert(&v, LORA_F32, from, c->real, 1), *(float *)(void *)to += v;
		}
	return st;
}

static const lora__slot_ops table_ops = { .saved_bytes = no_bytes, .scratch_bytes = table_scratch, .forward = table_forward, .prepare = prepare, .backward = table_backward, .delta = delta };

const lora__kind lora__kind_lora = { .m = { "lora", "low-rank adaptation: W + s B A", "arXiv:2106.09685 section 4.1; PEFT LoraConfig", params },
	.peft_type = "LORA", .flags = LORA__KIND_LINEAR | LORA__KIND_MERGEABLE | LORA__KIND_IDENTITY_AT_INIT | LORA__KIND_PRODUCTS, .roles = roles, .ops = &ops, .table_roles = table_roles, .table_ops = &table_ops,
	.configure = configure, .init = init, .refuse = refuse };
