/* A new LoRA adapter from several of one model, site by site. With D_k = s_k B_k A_k and weights w_k:
 *
 *   side by side   A = [w_1 s_1 A_1; ..], B = [B_1 ..]: sum w_k D_k exactly, rank sum r_k
 *   product        the same product cut to a rank, by its thin SVD, without forming it
 *   dense          each D_k, a rule for their entries (mix.c), and the result cut to a rank
 *   factors        PEFT only: the rule on sgn(w_k s_k) sqrt|w_k s_k| A_k and on sqrt|w_k s_k| B_k
 *   sums           LoraHub: A = sum w_k sgn(s_k) sqrt|s_k| A_k, B = sum w_k sqrt|s_k| B_k, so that B A has cross terms w_i w_j and is quadratic in w
 *
 * The result has scale 1 everywhere (lora_alpha = r); in mode peft it inherits use_rslora from the first adapter, as there, and is then sqrt(r)
 * times larger. Sources: PEFT 0.21, tuners/lora/model.py, add_weighted_adapter; Huang et al. 2023, arXiv:2307.13269, equation 1 (LoraHub); docs/methods.md says where the exact mode differs. */
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "combine/combine.h"
#include "combine/lowrank.h"

enum { SIDE_BY_SIDE = 1, PRODUCT, DENSE, FACTORS, SUMS };
enum { A = 0, B = 1 };

typedef struct lora__combining {
	lora_context        *ctx;
	lora_adapter *const *from;
	const double        *weights;
	size_t               n;
	lora__mix            mix;
	int                  form, peft;
	int64_t              wanted, largest, summed; /* svd_rank or 0; largest rank of an adapter; sum of the adapters' */
	uint64_t             seed;
	const lora__part   **parts; /* [sites][n], NULL = that adapter does not act there */
	int64_t             *ranks; /* [sites] of the result */
	lora_adapter        *to;
	double               bytes; /* of memory that the largest site takes meanwhile, 0 = little */
	size_t               room;  /* floats of it for the adapters' arrays, kept from site to site: */
	float              **rooms; /* [threads] */
} job;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Those that act on a site, and their weights. */
static size_t sources_of(const job *j, size_t site, const lora__part **part, double *w)
{
	size_t m = 0;
	for (size_t k = 0; k < j->n; k++)
		if (j->parts[site * j->n + k]) part[m] = j->parts[site * j->n + k], w[m++] = j->weights[k];
	return m;
}

/* --- one site --- */

static void side_by_side(const lora__part *p, const lora__part **from, const double *w, size_t n)
{
	int64_t in = p->slot.site->in, out = p->slot.site->out, at = 0;
	for (size_t k = 0; k < n; k++) {
		const lora__part *q = from[k];
		for (int64_t i = 0; i < q->rank * in; i++) p->param[A][at * in + i] = (float)(w[k] * q->scaling * q->param[A][i]);
		for (int64_t i = 0; i < out; i++) memcpy(p->param[B] + i * p->rank + at, q->param[B] + i * q->rank, (size_t)q->rank * sizeof(float));
		at += q->rank;
	}
}

static lora_status product(const job *j, const lora__part *p, const lora__part **from, const double *w, size_t n)
{
	int64_t in = p->slot.site->in, out = p->slot.site->out, r = 0, at = 0;
	for (size_t k = 0; k < n; k++) r += from[k]->rank;
	double *a = lora__calloc(j->ctx, (size_t)(in + out), (size_t)r * sizeof *a), *b = a + r * in;
	if (!a) return LORA_E_MEMORY;
	for (size_t k = 0; k < n; k++)
		for (int64_t c = 0; c < from[k]->rank; c++, at++) {
			for (int64_t i = 0; i < in; i++) a[at * in + i] = w[k] * from[k]->scaling * from[k]->param[A][c * in + i];
			for (int64_t i = 0; i < out; i++) b[at * out + i] = from[k]->param[B][i * from[k]->rank + c];
		}
	lora_status st = lora__lowrank_product(j->ctx, b, a, out, in, r, p->rank, p->param[A], p->param[B]);
	lora__free(j->ctx, a);
	return st;
}

/* Streams that depend on what is dropped from, not on the order of the adapters or the number of the site. */
static void name_streams(const job *j, const lora__part **from, size_t n, uint64_t *keys)
{
	for (size_t k = 0; k < n; k++) {
		const lora__site *s = from[k]->slot.site;
		uint64_t h = lora__hash64(s->name, strlen(s->name), j->seed);
		h = lora__hash64(from[k]->param[A], (size_t)(from[k]->rank * s->in) * sizeof(float), h);
		keys[k] = lora__rng_key(j->seed, LORA__RNG_COMBINE, lora__hash64(from[k]->param[B], (size_t)(from[k]->rank * s->out) * sizeof(float), h));
		for (size_t i = 0; i < k; i++)
			if (keys[i] == keys[k]) keys[k]++, i = (size_t)-1;
	}
}

static lora_status dense(const job *j, const lora__part *p, const lora__part **from, const double *w, size_t n, float **v, uint64_t *keys, float *all)
{
	int64_t in = p->slot.site->in, out = p->slot.site->out;
	lora_status st = LORA_OK;
	for (size_t k = 0; k < n && !st; k++) {
		v[k] = memset(all + (int64_t)k * in * out, 0, (size_t)(in * out) * sizeof *all);
		st = from[k]->slot.ops->delta(&from[k]->slot, j->ctx, 1.0, 0, out, v[k]);
	}
	float *sum = all + (int64_t)n * in * out;
	if (!st) {
		st = lora__mix_run(j->ctx, &j->mix, v, w, keys, n, in * out, sum);
		if (!st && !lora__all_finite(sum, LORA_F32, (size_t)(in * out))) st = lora__fail_at(j->ctx, LORA_E_NUMERIC, "combine", p->slot.site->name, -1, "the combination at %s is not finite", p->slot.site->name);
	}
	if (!st) st = lora__lowrank_dense(j->ctx, sum, out, in, p->rank, p->param[A], p->param[B]);
	return st;
}

/* A rule on A and then on B, the sign of a scale (PEFT: of a weight too) in A alone. */
static lora_status factors(const job *j, const lora__part *p, const lora__part **from, double *w, size_t n, float **v, uint64_t *keys, float *all)
{
	int64_t count[2] = { p->rank * p->slot.site->in, p->rank * p->slot.site->out };
	lora_status st = LORA_OK;
	for (int role = A; role <= B && !st; role++) {
		for (size_t k = 0; k < n; k++) {
			double s = from[k]->scaling, f = w[k] * s;
			if (role == A) w[k] = j->form == SUMS ? w[k] * copysign(sqrt(fabs(s)), s) : copysign(sqrt(fabs(f)), f);
			else w[k] = j->form == SUMS ? w[k] * copysign(1, s) : fabs(w[k]), keys[k] = ~keys[k];
			v[k] = from[k]->param[role];
			if (j->room) v[k] = memcpy(all + (int64_t)k * count[role], v[k], (size_t)count[role] * sizeof *all); /* to be pruned */
		}
		st = lora__mix_run(j->ctx, &j->mix, v, w, keys, n, count[role], p->param[role]);
	}
	return st;
}

static lora_status do_site(void *arg, int64_t task, int32_t thread)
{
	const job *j = arg;
	const lora__part *p = &j->to->parts[task];
	/* one block for four arrays of n */
	const lora__part **from = lora__calloc(j->ctx, j->n, sizeof *from + sizeof(double) + sizeof(float *) + sizeof(uint64_t));
	float **room = &j->rooms[thread];
	if (j->room && !*room) *room = lora__alloc(j->ctx, j->room * sizeof **room);
	if (!from || (j->room && !*room)) return lora__free(j->ctx, (void *)from), LORA_E_MEMORY;
	double *w = (double *)(void *)(from + j->n);
	uint64_t *keys = (uint64_t *)(void *)(w + j->n);
	float **v = (float **)(void *)(keys + j->n);
	size_t n = sources_of(j, (size_t)p->slot.site->index, from, w);
	lora_status st = LORA_OK;
	if (j->mix.type->prune == LORA__PRUNE_RANDOM) name_streams(j, from, n, keys);
	if (j->form == SIDE_BY_SIDE) side_by_side(p, from, w, n);
	else if (j->form == PRODUCT) st = product(j, p, from, w, n);
	else if (j->form == DENSE) st = dense(j, p, from, w, n, v, keys, *room);
	else st = factors(j, p, from, w, n, v, keys, *room);
	lora__free(j->ctx, from);
	for (int role = A; role <= B && !st; role++)
		if (!lora__all_finite(p->param[role], LORA_F32, (size_t)(p->rank * (role == A ? p->slot.site->in : p->slot.site->out))))
			st = lora__fail_at(j->ctx, LORA_E_NUMERIC, "combine", p->slot.site->name, -1, "the combination at %s is not finite", p->slot.site->name);
	return st;
}

/* --- before --- */

static lora_status check_adapter(job *j, size_t k)
{
	const lora_adapter *a = j->from[k];
	int64_t r = lora__get_int(a->settings, a->kind->m.params, "r");
	if (!isfinite(j->weights[k])) return lora__fail(j->ctx, LORA_E_ARGUMENT, "combine", "weight %zu is not finite", k);
	if (a->kind != &lora__kind_lora) return lora__fail_at(j->ctx, LORA_E_UNSUPPORTED, "combine", a->name, -1, "adapter %zu is of kind %s; only LoRA can be combined", k, a->kind->m.name);
	if (!lora__all_finite(a->params, LORA_F32, a->n_params)) return lora__fail_at(j->ctx, LORA_E_NUMERIC, "combine", a->name, -1, "adapter %zu has parameters that are not finite", k);
	for (size_t i = 0; i < a->n_parts; i++) {
		const lora__part *p = &a->parts[i];
		if (p->how != LORA__CHOSEN)
			return lora__fail_at(j->ctx, LORA_E_UNSUPPORTED, "combine", p->slot.site->name, -1, "adapter %zu has %s by %s, which cannot be combined", k, p->slot.site->name,
				p->how == LORA__WHOLE ? "modules_to_save" : "target_parameters");
		j->parts[(size_t)p->slot.site->index * j->n + k] = p;
		if (p->rank > r) r = p->rank;
	}
	if (j->form == FACTORS && k && r != j->largest)
		return lora__fail_at(j->ctx, LORA_E_ARGUMENT, "combine", "r", -1, "adapter %zu has rank %lld, those before %lld: in mode peft %s needs equal ranks (mode exact, cat and svd do not)",
			k, (long long)r, (long long)j->largest, j->mix.type->m.name);
	if (r > j->largest) j->largest = r;
	j->summed += r;
	return LORA_OK;
}

static lora_status choose_rank(job *j, const lora__site *s, char *chosen)
{
	int64_t sum = 0, one = 0, side = least(s->in, s->out);
	for (size_t k = 0; k < j->n; k++) {
		const lora__part *p = j->parts[(size_t)s->index * j->n + k];
		if (!p) continue;
		if (one && p->rank != one && (j->form == FACTORS || j->form == SUMS))
			return lora__fail_at(j->ctx, LORA_E_ARGUMENT, "combine", s->name, -1, "the ranks at %s differ: %s%s needs equal ones", s->name, j->peft ? "in mode peft " : "", j->mix.type->m.name);
		chosen[s->index] = LORA__CHOSEN, one = p->rank, sum += one;
	}
	if (!one) return LORA_OK;
	int64_t whole = j->form == DENSE && 2 * sum > side ? side : sum; /* little is saved by a cut, and without one the delta is exact */
	int64_t cut = j->wanted ? j->wanted : j->mix.type->low || j->peft ? j->largest : whole;
	int64_t *r = &j->ranks[s->index];
	if (j->form == FACTORS || j->form == SUMS) *r = one;
	else if (j->form == SIDE_BY_SIDE) *r = j->peft ? j->summed : sum;
	else *r = j->peft ? cut : least(cut, j->form == PRODUCT ? least(sum, side) : side);
	return *r <= 65536 ? LORA_OK : lora__fail_at(j->ctx, LORA_E_LIMIT, "combine", s->name, -1, "the rank at %s would be %lld, at most 65536", s->name, (long long)*r);
}

/* --- the new adapter's settings --- */

/* Lists of names are united; where some choose otherwise, the sites are named in full. */
static json_t *targets(const job *j, const char *chosen)
{
	const char *const narrowing[] = { "layers_to_transform", "layers_pattern", "exclude_modules" };
	json_t *list = json_array();
	int lists = 1;
	for (size_t k = 0; k < j->n; k++) {
		const json_t *v = lora__get_json(j->from[k]->settings, "target_modules");
		lists &= json_is_array(v) && json_array_size(v) > 0;
		for (int i = 0; i < 3; i++) lists &= !lora__get_json(j->from[k]->settings, narrowing[i]);
	}
	for (size_t k = 0; lists && k < j->n && list; k++) {
		const json_t *v = lora__get_json(j->from[k]->settings, "target_modules");
		for (size_t i = 0; i < json_array_size(v); i++) {
			size_t at = 0;
			while (at < json_array_size(list) && !json_equal(json_array_get(list, at), json_array_get(v, i))) at++;
			if (at == json_array_size(list) && json_array_append(list, json_array_get(v, i))) return json_decref(list), NULL;
		}
	}
	for (size_t i = 0; !lists && i < j->from[0]->sites->n && list; i++)
		if (chosen[i] && json_array_append_new(list, json_string(j->from[0]->sites->list[i]->name))) return json_decref(list), NULL;
	return list;
}

/* The rank that most sites have is r; the others get patterns. */
static int ranks_of(const job *j, const char *chosen, json_t *o)
{
	const lora__sites *s = j->from[0]->sites;
	json_t *pattern = json_object();
	int64_t most = 0;
	size_t times = 0;
	for (size_t i = 0; i < s->n; i++) {
		size_t same = 0;
		for (size_t k = i; chosen[i] && j->ranks[i] != most && k < s->n; k++) same += chosen[k] && j->ranks[k] == j->ranks[i];
		if (same > times) times = same, most = j->ranks[i];
	}
	int bad = !pattern;
	for (size_t i = 0; i < s->n && !bad; i++)
		if (chosen[i] && j->ranks[i] != most) bad = json_object_set_new(pattern, s->list[i]->name, json_integer(j->ranks[i]));
	bad |= json_object_set_new(o, "r", json_integer(most)) || json_object_set_new(o, "lora_alpha", json_integer(most)) || json_object_set(o, "rank_pattern", pattern) ||
		json_object_set(o, "alpha_pattern", pattern);
	json_decref(pattern);
	return bad;
}

static lora_status settings_of(const job *j, const char *chosen, const char *name, lora_settings **out)
{
	static const char *const dropped[] = { "layers_to_transform", "layers_pattern", "exclude_modules", "modules_to_save", "target_parameters", "init_lora_weights", "seed" };
	lora_status st = lora__settings_copy(j->ctx, j->from[0]->settings, out);
	if (st) return st;
	json_t *o = (*out)->object;
	for (size_t i = 0; i < sizeof dropped / sizeof *dropped; i++) json_object_del(o, dropped[i]);
	if (!j->peft) json_object_del(o, "use_rslora");
	int bad = ranks_of(j, chosen, o) || json_object_set_new(o, "target_modules", targets(j, chosen)) || json_object_set_new(o, "name", json_string(name));
	return bad ? lora__fail(j->ctx, LORA_E_MEMORY, "combine", "out of memory") : LORA_OK;
}

static int form_of(const lora__combination *t, const lora__mix *m, int64_t wanted)
{
	if (t->both) return SUMS;
	int sum = !t->elect && (!t->prune || m->density >= 1);
	if (t->cat && m->peft) return SIDE_BY_SIDE;
	if (m->peft && !t->low) return FACTORS;
	if (!sum) return DENSE;
	return t->low || wanted ? PRODUCT : SIDE_BY_SIDE;
}

static lora_status run(job *j, const char *name)
{
	const lora__sites *sites = j->from[0]->sites;
	char *chosen = lora__zalloc(j->ctx, sites->n + 1);
	lora_settings *s = NULL;
	lora_status st = chosen ? LORA_OK : LORA_E_MEMORY;
	for (size_t k = 0; k < j->n && !st; k++) st = check_adapter(j, k);
	for (size_t i = 0; i < sites->n && !st; i++) {
		const lora__site *site = sites->list[i];
		st = choose_rank(j, site, chosen);
		if (!chosen[i] || (j->form != DENSE && (j->form != FACTORS || !j->mix.type->prune))) continue;
		double one = (double)site->in * (double)site->out, all = (double)j->n * (double)j->ranks[i] * (double)(site->in > site->out ? site->in : site->out);
		if (j->form == DENSE) j->bytes = fmax(j->bytes, (double)(j->n + 3) * one * sizeof(float)), all = (double)(j->n + 1) * one;
		if (all > (double)j->room) j->room = (size_t)all;
	}
	if (!st) st = settings_of(j, chosen, name, &s);
	if (!st) st = lora__adapter_new(j->from[0]->sites, &lora__kind_lora, s, name, chosen, &j->to);
	if (!st) {
		s = NULL;
		if (j->from[0]->extra && !(j->to->extra = json_deep_copy(j->from[0]->extra))) st = lora__fail(j->ctx, LORA_E_MEMORY, "combine", "out of memory");
	}
	lora_settings_destroy(s);
	lora__free(j->ctx, chosen);
	return st;
}

lora_status lora__combining_start(lora_adapter *const *adapters, const double *weights, size_t n, const lora__combination *type, const lora_settings *s,
                                  lora__combining **out)
{
	lora__sites *sites = adapters[0]->sites;
	const lora__param *params = type->m.params;
	job *j = lora__calloc(sites->ctx, 1, sizeof *j);
	if (!j) return LORA_E_MEMORY;
	*j = (job){ .ctx = sites->ctx, .from = adapters, .weights = weights, .n = n };
	j->peft = j->mix.peft = !type->both && strcmp(lora__get_string(s, params, "mode"), "peft") == 0;
	if (j->peft && n == 1) type = &lora__combination_linear; /* as there */
	j->mix.type = type;
	j->wanted = lora__get_json(s, "svd_rank") ? lora__get_int(s, params, "svd_rank") : 0;
	j->mix.density = type->prune ? lora__get_float(s, params, "density") : 1;
	j->mix.by_count = type->elect && strcmp(lora__get_string(s, params, "majority_sign_method"), "frequency") == 0;
	j->seed = type->prune == LORA__PRUNE_RANDOM ? (uint64_t)lora__get_int(s, params, "seed") : 0;
	j->form = form_of(type, &j->mix, j->wanted);
	j->parts = lora__calloc(j->ctx, sites->n + 1, n * sizeof *j->parts);
	j->ranks = lora__calloc(j->ctx, sites->n + 1, sizeof *j->ranks);
	lora_status st = j->parts && j->ranks ? run(j, lora__get_string(s, params, "name")) : LORA_E_MEMORY;
	if (!st) *out = j;
	else lora__combining_end(j);
	return st;
}

lora_status lora__combining_fill(lora__combining *j, const double *weights)
{
	j->weights = weights;
	lora__adapter_changed(j->to);
	int32_t threads = j->ctx->threads > 1 ? j->ctx->threads : 1;
	j->rooms = lora__calloc(j->ctx, (size_t)threads, sizeof *j->rooms);
	lora_status st = j->rooms ? lora__each_site(j->ctx, (int64_t)j->to->n_parts, j->bytes, do_site, j) : LORA_E_MEMORY;
	for (int32_t i = 0; i < threads && j->rooms; i++) lora__free(j->ctx, j->rooms[i]);
	lora__free(j->ctx, j->rooms);
	return st;
}

lora_adapter *lora__combining_adapter(lora__combining *j) { return j->to; }

void lora__combining_end(lora__combining *j)
{
	lora__free(j->ctx, (void *)j->parts);
	lora__free(j->ctx, j->ranks);
	if (j->to) lora__adapter_release(j->to);
	lora__free(j->ctx, j);
}

lora_status lora__combine(lora_adapter *const *adapters, const double *weights, size_t n, const lora__combination *type, const lora_settings *s,
                          lora_adapter **out)
{
	lora__combining *j = NULL;
	lora_status st = lora__combining_start(adapters, weights, n, type, s, &j);
	if (!st) st = lora__combining_fill(j, weights);
	if (!st) *out = j->to, j->to = NULL;
	if (j) lora__combining_end(j);
	return st;
}
