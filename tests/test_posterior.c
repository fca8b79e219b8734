/* Laplace posteriors: factors, evidence and covariances against dense matrices that are built here in double, from gradients that are themselves held against
 * the ordinary backward pass; the low-rank forms; forms of prediction; priors. Files and refusals: test_posterior_files.c. */
#include "backend/backend.h"
#include "combine/lowrank.h"
#include "posterior/dense_oracle.h"

START_TEST(dense_computation)
{
	net t;
	dense d;
	golden_context("naive", 1);
	net_open(&t, _i, "f64");
	lora_posterior *p = fit(&t, _i % 2 ? ",\"full_up_to\":1000,\"divide_by\":\"tokens\"" : ",\"full_up_to\":1000");
	dense_run(&d, &t, p);
	d.by_rows = _i % 2;
	check_rows(&d, &t);
	double g[40 * 40], a[40 * 40], m[40 * 40], logdet, prior = p->list[0].prior, evidence = 0, norm = 0;
	for (size_t i = 0; i < p->n; i++) {
		const lora__matrix *w = &p->list[i];
		ck_assert(w->out <= 40 && w->in <= 40);
		ck_assert_int_eq(w->seen, d.by_rows ? d.rows[i] : t.n);
		dense_factors(&d, i, g, a);
		rebuild(&w->side[0], m);
		ck_assert_double_lt(gap(m, g, w->out * w->out), 1e-9);
		rebuild(&w->side[1], m);
		ck_assert_double_lt(gap(m, a, w->in * w->in), 1e-9);
		free(dense_curvature(&d, i, 1 / prior, 1, &logdet));
		evidence -= logdet / 2, norm += w->norm2;
	}
	for (int64_t e = 0; e < t.n; e++) {
		double q[8];
		lora__softmax(d.logits + e * t.classes, t.classes, q);
		int32_t y = t.m->n_labels ? t.labels[e] : -1;
		for (int64_t c = 0; y < 0 && c < t.classes; c++)
			for (int64_t x = 0; x < t.length; x++)
				if (t.labels[e * t.length + x] == p->ids[c]) y = (int32_t)c;
		evidence += log(q[y]);
	}
	ck_assert_double_eq_tol(p->evidence, evidence - prior * norm / 2, 1e-6 * fabs(p->evidence));
	for (int k = -1; k <= 1; k += 2) { /* the evidence is at its top */
		double at = prior * exp(k * 0.01), other = -at * norm / 2, here = -prior * norm / 2, l0, l1;
		for (size_t i = 0; i < p->n; i++) {
			free(dense_curvature(&d, i, 1 / at, 1, &l1)), free(dense_curvature(&d, i, 1 / prior, 1, &l0));
			other -= l1 / 2, here -= l0 / 2;
		}
		ck_assert_double_lt(other, here);
	}
	double v[64], *cov = calloc((size_t)(t.n * t.classes * t.classes), sizeof *cov), *logits = calloc((size_t)(t.n * t.classes), sizeof *logits);
	lora_batch b = { .struct_size = sizeof b };
	t.batch = t.n;
	get(&t, 0, &b);
	ck_ok(lora_posterior_predict(p, &b, NULL, NULL, logits, cov, t.n * t.classes));
	ck_assert_double_lt(gap(logits, d.logits, t.n * t.classes), 1e-12);
	for (int e = 0; e < t.n; e += 4) {
		dense_covariance(&d, e, prior, v);
		ck_assert_double_lt(gap(cov + e * t.classes * t.classes, v, t.classes * t.classes), 1e-6);
	}
	free(cov), free(logits);
	dense_free(&d);
	lora_posterior_destroy(p);
	net_close(&t);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* One example of one token: the product of the two factors is the exact Hessian block, sum_c p_c vec(grad_c) vec(grad_c)^T with ordinary gradients for label c. */
START_TEST(exact_block)
{
	net t;
	golden_context("naive", 1);
	net_open(&t, 2, "f64");
	t.n = 1;
	lora_posterior *p = fit(&t, ",\"full_up_to\":1000");
	double q[8], logits[8];
	lora_batch b = { .struct_size = sizeof b };
	get(&t, 0, &b);
	ck_ok(lora_posterior_predict(p, &b, NULL, NULL, logits, NULL, t.classes));
	lora__softmax(logits, t.classes, q);
	double *grads[8];
	for (int32_t c = 0; c < t.classes; c++) {
		double loss;
		t.labels[0] = c;
		ck_ok(lora_adapter_zero_grad(t.a));
		ck_ok(lora_model_backward(t.m, &b, NULL, 0, &loss, NULL));
		grads[c] = malloc(t.a->n_params * sizeof(double));
		memcpy(grads[c], t.a->grads, t.a->n_params * sizeof(double));
	}
	for (size_t i = 0; i < p->n; i++) {
		const lora__matrix *w = &p->list[i];
		const lora__ptensor *tensor = &t.a->tensors[w->part->tensor[w->role]];
		double g[40 * 40], a[40 * 40], worst = 0, most = 0;
		rebuild(&w->side[0], g), rebuild(&w->side[1], a);
		for (int64_t x = 0; x < w->out * w->in; x++)
			for (int64_t y = 0; y < w->out * w->in; y++) {
				double h = 0, k = g[x / w->in * w->out + y / w->in] * a[x % w->in * w->in + y % w->in] / (double)w->seen;
				for (int32_t c = 0; c < t.classes; c++) h += q[c] * grads[c][tensor->offset + (size_t)x] * grads[c][tensor->offset + (size_t)y];
				worst = fmax(worst, fabs(h - k)), most = fmax(most, fabs(h));
			}
		ck_assert_msg(worst <= 1e-9 * most, "%s: off by %g of %g", w->name, worst, most);
	}
	for (int32_t c = 0; c < t.classes; c++) free(grads[c]);
	lora_posterior_destroy(p);
	net_close(&t);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* --- factors of low rank --- */

static double factor_error(const lora__factor_kind *kind, const double *x, int64_t n, int64_t d, int64_t rank, int64_t at_once)
{
	lora__factor f;
	double *m = malloc(sizeof *m * (size_t)(d * d)), *want = calloc((size_t)(d * d), sizeof *want), sum = 0, size = 0;
	ck_ok(lora__factor_start(golden_ctx, &f, kind, d, rank, 5, LORA_F64));
	for (int64_t at = 0; at < n; at += at_once) {
		int64_t k = n - at < at_once ? n - at : at_once;
		ck_ok(kind->add(golden_ctx, &f, lora__view2((void *)(uintptr_t)(x + at * d), LORA_F64, k, d, d), 4.0, LORA_F64));
	}
	ck_ok(lora__factor_finish(golden_ctx, &f, rank, LORA_F64));
	rebuild(&f, m);
	for (int64_t r = 0; r < n; r++)
		for (int64_t i = 0; i < d; i++)
			for (int64_t j = 0; j < d; j++) want[i * d + j] += 4 * x[r * d + i] * x[r * d + j];
	for (int64_t i = 0; i < d * d; i++) sum += (m[i] - want[i]) * (m[i] - want[i]), size += want[i] * want[i];
	for (int64_t i = 0; i < f.k; i++)
		for (int64_t j = 0; j <= i; j++) {
			double dot = 0;
			for (int64_t r = 0; r < d; r++) dot += f.basis[r * f.k + i] * f.basis[r * f.k + j];
			ck_assert_double_eq_tol(dot, i == j, 1e-9);
		}
	lora__factor_free(golden_ctx, &f);
	free(m), free(want);
	return size > 0 ? sqrt(sum / size) : sqrt(sum);
}

START_TEST(low_rank_factors)
{
	const lora__factor_kind *kind = lora__factors[_i];
	enum { N = 150, D = 40 };
	double *x = malloc(sizeof *x * N * D), last = 2;
	uint64_t seed = check_seed(11);
	golden_context("naive", 1);
	for (int i = 0; i < N * D; i++) x[i] = (2 * uniform(&seed) - 1) * pow(0.8, i % D);
	for (int64_t k = 2; k <= 32; k *= 2) { /* nearer with every rank */
		double e = factor_error(kind, x, N, D, k, 17);
		ck_assert_msg(e < last && (kind != &lora__factor_full || e < 1e-12), "%s: rank %d: %g after %g", kind->m.name, (int)k, e, last);
		if (kind != &lora__factor_full) last = e;
	}
	ck_assert_double_lt(last, kind == &lora__factor_full ? 3 : 1e-4);
	for (int64_t r = 6; r < N; r++)
		for (int i = 0; i < D; i++) x[r * D + i] = x[(r % 6) * D + i] * (double)(r % 7); /* rank 6 */
	for (int64_t at_once = 1; at_once <= N; at_once *= 5) ck_assert_double_lt(factor_error(kind, x, N, D, 6, at_once), 1e-11);
	memset(x, 0, sizeof *x * N * D);
	ck_assert_double_eq(factor_error(kind, x, N, D, 6, 50), 0);
	free(x);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* Covariances with factors of rank k go to those with full factors. */
START_TEST(low_rank_covariances)
{
	net t;
	const char *kind = (const char *[]){ "sketch", "lowrank" }[_i];
	golden_context("naive", 1);
	net_open(&t, 1, "f64");
	double last = 1e9, full[12 * 4], v[12 * 4];
	lora_batch b = { .struct_size = sizeof b };
	lora_posterior *p = fit(&t, ",\"full_up_to\":1000,\"prior\":\"fixed\",\"prior_precision\":0.1");
	int64_t batch = t.batch;
	t.batch = t.n;
	get(&t, 0, &b);
	ck_ok(lora_posterior_predict(p, &b, NULL, NULL, NULL, full, t.n * t.classes));
	lora_posterior_destroy(p);
	for (int k = 1; k <= 12; k += k < 4 ? 3 : 4) {
		char more[200];
		t.batch = batch;
		snprintf(more, sizeof more, ",\"full_up_to\":0,\"factor\":\"%s\",\"factor_rank\":%d,\"prior\":\"fixed\",\"prior_precision\":0.1", kind, k);
		p = fit(&t, more);
		t.batch = t.n;
		ck_ok(lora_posterior_predict(p, &b, NULL, NULL, NULL, v, t.n * t.classes));
		lora_posterior_destroy(p);
		double e = gap(v, full, t.n * t.classes * t.classes);
		ck_assert_msg(e < last, "%s: rank %d: %g after %g", kind, k, e, last);
		last = e;
	}
	ck_assert_double_lt(last, 1e-9);
	net_close(&t);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* --- what is fitted --- */

START_TEST(batches_and_fisher)
{
	net t;
	golden_context("naive", 1);
	net_open(&t, 0, "f64");
	lora_posterior *p = fit(&t, ""), *q;
	for (t.batch = 1; t.batch <= 12; t.batch += 11) { /* in whatever batches */
		q = fit(&t, "");
		ck_assert_double_eq_tol(p->evidence, q->evidence, 1e-9 * fabs(p->evidence));
		ck_assert_double_eq_tol(p->list[0].prior, q->list[0].prior, 1e-9 * p->list[0].prior);
		lora_posterior_destroy(q);
	}
	/* the sampled form on average: 150 fits */
	double mean[16 * 16] = { 0 }, m[16 * 16], want[16 * 16];
	lora__matrix *w = &p->list[p->n - 1];
	rebuild(&w->side[0], want);
	for (int k = 0; k < 150; k++) {
		char more[100];
		snprintf(more, sizeof more, ",\"seed\":%d", k);
		q = fit(&t, more);
		rebuild(&q->list[p->n - 1].side[0], m);
		for (int64_t i = 0; i < w->out * w->out; i++) mean[i] += m[i] / 150;
		ck_assert_double_eq_tol(q->log_likelihood, p->log_likelihood, 1e-9);
		lora_posterior_destroy(q);
	}
	ck_assert_double_lt(gap(mean, want, w->out * w->out), 0.15);
	lora_posterior_destroy(p);
	/* last layer: the classifier alone */
	p = fit(&t, ",\"layers\":\"last\"");
	ck_assert_uint_eq(p->n, 1);
	ck_assert_int_eq(p->list[0].bias, 1);
	lora_posterior_destroy(p);
	/* a precision for each matrix has at least the evidence of one for all */
	p = fit(&t, ""), q = fit(&t, ",\"prior_per\":\"matrix\"");
	ck_assert_double_ge(q->evidence, p->evidence);
	lora_posterior_destroy(p);
	lora_posterior_destroy(q);
	net_close(&t);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* One direction: N(f, s^2 (I - 1/C)) with s^2 = u^T V u, u along e_best - p. */
static void one_direction(lora_posterior *p, net *t, const double *logits, const double *cov)
{
	enum { DRAWS = 100000 };
	int64_t c = t->classes;
	double got[64], want[16], centre[16] = { 0 }, room[64], *noise = calloc((size_t)(DRAWS * c), sizeof *noise);
	lora__rng r;
	ck_assert_ptr_nonnull(noise);
	lora__rng_init(&r, 5);
	for (int64_t i = 0; i < DRAWS * c; i++) noise[i] = lora__rng_normal(&r);
	for (int64_t i = 0; i < c * c; i++) centre[i] = (i % (c + 1) == 0) - 1 / (double)c;
	predict(p, t, "{\"directions\":\"one\",\"samples\":200000}", got, NULL, NULL);
	for (int64_t e = 0; e < t->n; e++) {
		const double *f = logits + e * c, *v = cov + e * c * c;
		double u[4], norm = 0, s2 = 0, var[16];
		int64_t best = 0;
		lora__softmax(f, c, u);
		for (int64_t k = 1; k < c; k++) best = f[k] > f[best] ? k : best;
		u[best] -= 1;
		for (int64_t k = 0; k < c; k++) norm += u[k] * u[k];
		for (int64_t i = 0; i < c * c; i++) s2 += u[i / c] * v[i] * u[i % c] / norm;
		for (int64_t i = 0; i < c * c; i++) var[i] = i % (c + 1) ? 0 : s2;
		lora__gauss g = { .n = c, .dirs = c, .basis = centre, .f = f, .noise = noise, .samples = 2 * DRAWS, .cov = var, .scratch = room };
		lora__predictive_sampled.run(&g, want);
		check_close(got + e * c, want, c, 1e-2);
	}
	free(noise);
}

/* However many directions go back in a pass - all, some with one too many, one - the sequences of a batch that repeats a small one have what the small one's have. */
START_TEST(copies)
{
	net t;
	golden_context("naive", 1);
	net_open(&t, _i, "f64");
	lora_posterior *p = fit(&t, "");
	int64_t c = t.classes, cells;
	double want[64], small[256], *cov = calloc((size_t)(2700 * c * c), sizeof *cov), *prob = calloc((size_t)(2700 * c), sizeof *prob);
	int32_t *tables[3] = { calloc(2700, sizeof(int32_t)), calloc(2700, sizeof(int32_t)), calloc(2700, sizeof(int32_t)) };
	lora_batch b = { .struct_size = sizeof b }, many;
	t.batch = t.n;
	get(&t, 0, &b);
	b.labels = NULL, cells = b.n_sequences * b.length;
	ck_ok(lora_posterior_predict(p, &b, NULL, want, NULL, NULL, t.n * c));
	ck_ok(lora_posterior_predict(p, &b, NULL, NULL, NULL, small, t.n * c));
	for (int64_t target = 510; target < 2700; target += 310) {
		const int32_t **from[3] = { &many.input_ids, &many.attention_mask, &many.token_type_ids };
		int64_t times = target / cells;
		many = b, many.n_sequences = times * b.n_sequences;
		for (int k = 0; k < 3; k++) {
			for (int64_t i = 0; *from[k] && i < times; i++) memcpy(tables[k] + i * cells, *from[k], (size_t)cells * sizeof(int32_t));
			if (*from[k]) *from[k] = tables[k];
		}
		ck_ok(lora_posterior_predict(p, &many, NULL, prob, NULL, NULL, many.n_sequences * c));
		ck_ok(lora_posterior_predict(p, &many, NULL, NULL, NULL, cov, many.n_sequences * c));
		for (int64_t i = 0; i < times; i++) {
			check_close(prob + i * b.n_sequences * c, want, b.n_sequences * c, 1e-10);
			check_close(cov + i * b.n_sequences * c * c, small, b.n_sequences * c * c, 1e-10);
		}
	}
	for (int k = 0; k < 3; k++) free(tables[k]);
	free(cov), free(prob);
	lora_posterior_destroy(p);
	net_close(&t);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* What a posterior keeps from prediction to prediction does not show: the same bits as from one that has never predicted, whatever was asked before, layers at rest. */
START_TEST(one_after_another)
{
	enum { TURNS = 6 };
	static const struct { const char *settings; int covariance; uint8_t layers[3]; } turns[TURNS] = { { "{}", 0, { 1, 1, 1 } }, { "{}", 1, { 1, 1, 1 } }, { "{\"directions\":\"one\"}", 0, { 1, 1, 1 } },
		{ "{}", 0, { 1, 1, 1 } }, { "{}", 0, { 0, 1, 1 } }, { "{}", 0, { 1, 1, 1 } } };
	net t;
	golden_context("naive", 1);
	net_open(&t, _i, "f64");
	lora_posterior *p = fit(&t, ""), *fresh[TURNS];
	double got[64], want[64], cov[256], cov_want[256], all[64];
	int64_t layers;
	ck_ok(lora_adapter_layers(t.a, NULL, lora_model_site_count(t.m), &layers));
	for (int i = 0; i < TURNS; i++) fresh[i] = fit(&t, "");
	for (int i = 0; i < TURNS; i++) {
		ck_ok(lora_adapter_set_layers(t.a, turns[i].layers, layers));
		predict(p, &t, turns[i].settings, got, NULL, turns[i].covariance ? cov : NULL);
		predict(fresh[i], &t, turns[i].settings, want, NULL, turns[i].covariance ? cov_want : NULL);
		ck_assert_mem_eq(got, want, sizeof *got * (size_t)(t.n * t.classes));
		if (turns[i].covariance) ck_assert_mem_eq(cov, cov_want, sizeof *cov * (size_t)(t.n * t.classes * t.classes));
		if (!i) memcpy(all, got, sizeof all);
	}
	ck_assert_mem_eq(got, all, sizeof *got * (size_t)(t.n * t.classes));
	for (int i = 0; i < TURNS; i++) lora_posterior_destroy(fresh[i]);
	lora_posterior_destroy(p);
	net_close(&t);
	lora_context_destroy(golden_ctx);
}
END_TEST

START_TEST(predictions)
{
	net t;
	golden_context("naive", 1);
	net_open(&t, _i, "f32");
	lora_posterior *p = fit(&t, "");
	int64_t c = t.classes, n = t.n * c;
	double prob[64], map[64], logits[64], cov[256], other[64];
	predict(p, &t, "{}", prob, logits, cov);
	for (int64_t e = 0; e < t.n; e++) {
		double sum = 0, v[16];
		lora__softmax(logits + e * c, c, map + e * c);
		for (int64_t k = 0; k < c; k++) sum += prob[e * c + k];
		ck_assert_double_eq_tol(sum, 1, 1e-12);
		memcpy(v, cov + e * c * c, sizeof(double) * (size_t)(c * c));
		for (int64_t k = 0; k < c; k++) v[k * c + k] += 1e-9;
		factorise(v, c); /* positive */
		ck_assert_double_le(fmax(prob[e * c], prob[e * c + 1]), 1);
	}
	/* differences of logits alone give the same distribution: large samples agree */
	predict(p, &t, "{\"samples\":200000}", prob, NULL, NULL);
	predict(p, &t, "{\"samples\":200000,\"seed\":3}", other, NULL, cov);
	check_close(prob, other, n, 5e-3);
	predict(p, &t, "{}", NULL, logits, cov);
	one_direction(p, &t, logits, cov);
	/* the other forms say about the same */
	predict(p, &t, "{\"form\":\"probit\"}", other, NULL, NULL);
	check_close(other, prob, n, 0.4);
	predict(p, &t, "{\"form\":\"bridge\"}", other, NULL, NULL);
	if (c == 2) check_close(other, prob, n, 0.4);
	/* a prior without width: MAP, whatever the form; of two classes the bridge's mean is exact there too */
	predict(p, &t, "{\"prior_precision\":1e30}", other, NULL, NULL);
	check_close(other, map, n, 1e-9);
	predict(p, &t, "{\"form\":\"probit\",\"prior_precision\":1e30}", other, NULL, NULL);
	check_close(other, map, n, 1e-9);
	if (c == 2) {
		predict(p, &t, "{\"form\":\"bridge\",\"prior_precision\":1e9}", other, NULL, NULL);
		check_close(other, map, n, 1e-5);
	}
	/* example by example, the same bits */
	predict(p, &t, "{}", prob, NULL, NULL);
	lora_batch b = { .struct_size = sizeof b };
	t.batch = 1;
	for (int64_t e = 0; e < t.n; e++) {
		get(&t, e, &b);
		ck_ok(lora_posterior_predict(p, &b, NULL, other, NULL, NULL, c));
		check_close(other, prob + e * c, c, 1e-5);
	}
	lora_posterior_destroy(p);
	net_close(&t);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* The bridge takes the Laplace approximation of a Dirichlet back to it, in either basis. */
START_TEST(bridge)
{
	enum { C = 5 };
	uint64_t seed = check_seed(13);
	double alpha[C], f[C], cov[C * C], p[C], helmert[C * (C - 1)], low[(C - 1) * (C - 1)] = { 0 }, basis[C * C] = { 0 }, scratch[4 * C], sum = 0, logs = 0, back = 0;
	for (int i = 0; i < C; i++) alpha[i] = 0.5 + 6 * uniform(&seed), sum += alpha[i], logs += log(alpha[i]) / C, back += 1 / alpha[i], basis[i * C + i] = 1;
	for (int i = 0; i < C; i++) {
		f[i] = log(alpha[i]) - logs + 3; /* a shift changes nothing */
		for (int j = 0; j < C; j++) cov[i * C + j] = (i == j) / alpha[i] - (1 / alpha[i] + 1 / alpha[j] - back / C) / C;
		for (int j = 0; j < C - 1; j++) helmert[i * (C - 1) + j] = i <= j ? 1 / sqrt((j + 1) * (j + 2)) : i == j + 1 ? -(j + 1) / sqrt((j + 1) * (j + 2)) : 0;
	}
	for (int a = 0; a < C - 1; a++)
		for (int b = 0; b < C - 1; b++)
			for (int i = 0; i < C; i++)
				for (int j = 0; j < C; j++) low[a * (C - 1) + b] += helmert[i * (C - 1) + a] * cov[i * C + j] * helmert[j * (C - 1) + b];
	for (int i = 0; i < C; i++) alpha[i] /= sum;
	lora__gauss g = { .n = C, .dirs = C, .basis = basis, .f = f, .cov = cov, .scratch = scratch };
	lora__predictive_bridge.run(&g, p);
	check_close(p, alpha, C, 1e-12);
	g.dirs = C - 1, g.basis = helmert, g.cov = low;
	lora__predictive_bridge.run(&g, p);
	check_close(p, alpha, C, 1e-12);
}
END_TEST

/* Validation finds the best precision that a search over predictions finds. */
START_TEST(validation)
{
	net t;
	golden_context("naive", 1);
	net_open(&t, 0, "f32");
	t.batch = 4;
	lora_posterior *p = fit(&t, ",\"prior\":\"validation\",\"validation_batches\":1");
	double found = p->list[0].prior, best = 1e9, at_best = 0, here = 0, prob[32];
	ck_assert_int_eq(p->examples, 8);
	lora_batch b = { .struct_size = sizeof b };
	get(&t, 2, &b);
	for (double at = -12; at <= 12.01; at += 0.25) {
		char json[100];
		snprintf(json, sizeof json, "{\"samples\":4000,\"prior_precision\":%.17g}", exp(at));
		lora_settings *s = settings(json);
		double loss = 0;
		ck_ok(lora_posterior_predict(p, &b, s, prob, NULL, NULL, 4 * t.classes));
		lora_settings_destroy(s);
		for (int e = 0; e < 4; e++) loss -= log(prob[e * t.classes + b.labels[e]]);
		if (loss < best) best = loss, at_best = at;
		if (fabs(at - log(found)) <= 0.125) here = loss;
	}
	ck_assert_msg(here - best < 0.05 * best, "found log %g with loss %g, best log %g with %g", log(found), here, at_best, best);
	lora_posterior_destroy(p);
	net_close(&t);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* --- files --- */

/* --- halves: the same within their precision --- */

START_TEST(halves)
{
	net t;
	double x[256], y[256];
	golden_context("naive", 1);
	net_open(&t, 0, "f32");
	lora_posterior *p = fit(&t, ",\"prior\":\"fixed\"");
	predict(p, &t, "{}", NULL, NULL, x);
	int64_t n = t.n * t.classes * t.classes;
	lora_posterior_destroy(p);
	net_close(&t);
	net_open(&t, 0, "bf16");
	p = fit(&t, ",\"prior\":\"fixed\"");
	predict(p, &t, "{}", NULL, NULL, y);
	ck_assert_double_lt(gap(y, x, n), 0.15);
	lora_posterior_destroy(p);
	net_close(&t);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* --- Jacobians of rounded numbers: by default where draws follow, nowhere else --- */

static void wide_net(net *t, const char *dtype)
{
	char text[400];
	snprintf(text, sizeof text, "{\"hidden_size\":128,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"intermediate_size\":256,\"vocab_size\":30,\"max_position_embeddings\":16,"
		"\"type_vocab_size\":2,\"num_labels\":4,\"initializer_range\":0.1,\"seed\":3,\"dtype\":\"%s\"}", dtype);
	*t = (net){ .classes = 4, .n = 40, .length = 12, .batch = 40 };
	lora_settings *s = settings(text);
	ck_ok(lora_model_build(golden_ctx, "bert", s, &t->m));
	lora_settings_destroy(s);
	s = settings("{\"r\":4,\"target_modules\":[\"query\",\"value\",\"dense\"],\"modules_to_save\":[\"classifier\"]}");
	ck_ok(lora_adapter_create(t->m, "lora", s, &t->a));
	lora_settings_destroy(s);
	t->seed = 5;
	scramble(t->a, &t->seed, 0.1);
	ck_ok(lora_adapter_attach(t->a, 1));
	for (int i = 0; i < 40 * 12; i++) t->ids[i] = (int32_t)(check_random(&t->seed) % 30), t->mask[i] = i % 12 < 6 + i / 12 % 7;
	for (int i = 0; i < 40; i++) t->labels[i] = (int32_t)(check_random(&t->seed) % 4);
}

START_TEST(rounded_jacobians)
{
	enum { N = 160, DRAWS = 3 };
	net t;
	double exact[N], got[N], cov[4 * N], rounded[4 * N], worst = 0;
	golden_context("naive", 1 + _i);
	wide_net(&t, "f32");
	lora_posterior *p = fit(&t, "");
	predict(p, &t, "{\"jacobian\":\"exact\"}", exact, NULL, NULL);
	predict(p, &t, "{}", got, NULL, NULL);
	for (int i = 0; i < N; i++) worst = fmax(worst, fabs(got[i] - exact[i]));
	ck_assert_double_lt(worst, 1e-3);
	if (lora__bf16_ready()) ck_assert_double_gt(worst, 0);
	predict(p, &t, "{\"jacobian\":\"rounded\"}", exact, NULL, NULL);
	ck_assert_mem_eq(got, exact, sizeof got);
	predict(p, &t, "{}", NULL, NULL, cov); /* whoever asks for it gets the exact one */
	predict(p, &t, "{\"jacobian\":\"exact\"}", NULL, NULL, rounded);
	ck_assert_mem_eq(cov, rounded, sizeof cov);
	predict(p, &t, "{\"jacobian\":\"rounded\"}", NULL, NULL, rounded);
	ck_assert_double_lt(gap(rounded, cov, 4 * N), 1e-2);
	if (lora__bf16_ready()) ck_assert_double_gt(gap(rounded, cov, 4 * N), 1e-6);
	static const char *const forms[DRAWS][2] = { { "{\"form\":\"probit\"}", "{\"form\":\"probit\",\"jacobian\":\"exact\"}" },
		{ "{\"form\":\"bridge\"}", "{\"form\":\"bridge\",\"jacobian\":\"exact\"}" }, { "{\"jacobian\":\"exact\"}", "{\"jacobian\":\"exact\",\"form\":\"sampled\"}" } };
	for (int k = 0; k < DRAWS; k++) {
		predict(p, &t, forms[k][0], got, NULL, NULL);
		predict(p, &t, forms[k][1], exact, NULL, NULL);
		ck_assert_mem_eq(got, exact, sizeof got);
	}
	lora_posterior_destroy(p);
	net_close(&t);
	wide_net(&t, "f64");
	p = fit(&t, "");
	predict(p, &t, "{\"jacobian\":\"exact\"}", exact, NULL, NULL);
	predict(p, &t, "{}", got, NULL, NULL);
	ck_assert_mem_eq(got, exact, sizeof got);
	lora_posterior_destroy(p);
	net_close(&t);
	lora_context_destroy(golden_ctx);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("posterior");
	TCase *c = tcase_create("posterior");
	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, dense_computation, 0, CASES);
	tcase_add_test(c, exact_block);
	tcase_add_loop_test(c, low_rank_factors, 0, 3);
	tcase_add_loop_test(c, low_rank_covariances, 0, 2);
	tcase_add_test(c, batches_and_fisher);
	tcase_add_loop_test(c, copies, 0, CASES);
	tcase_add_loop_test(c, one_after_another, 0, CASES);
	tcase_add_loop_test(c, predictions, 0, CASES);
	tcase_add_test(c, bridge);
	tcase_add_test(c, validation);
	tcase_add_test(c, halves);
	tcase_add_loop_test(c, rounded_jacobians, 0, 2);
	suite_add_tcase(s, c);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
