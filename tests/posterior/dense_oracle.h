/* Curvature, evidence and covariances of a posterior as dense matrices in double, from the rows that its matrices see; those rows are held against the
 * ordinary backward pass. */
#ifndef TESTS_POSTERIOR_DENSE_ORACLE_H
#define TESTS_POSTERIOR_DENSE_ORACLE_H

#include "posterior/random_net.h"

enum { MOST_ROWS = 400, MOST_MATRICES = 32 };

/* Everything that the matrices see: left[pass] and right of every row, by matrix. */
typedef struct dense {
	lora_posterior *p;
	lora__probe probe;
	lora__tap tap;
	int64_t classes;
	int rows[MOST_MATRICES], by_rows; /* R is the rows, or the examples */
	double *left[MOST_MATRICES], *right[MOST_MATRICES]; /* [rows,pass,out], [rows,in] */
	int example[MOST_MATRICES][MOST_ROWS];
	double *logits;
	int64_t before; /* examples in earlier batches */
} dense;

static lora_status collect(lora__tap *tap, lora__slot *slot, int role, double f, lora_view left, lora_view right, int64_t first_row)
{
	dense *d = (dense *)(void *)((char *)tap - offsetof(dense, tap));
	lora__matrix *w = lora__posterior_matrix(d->p, slot, role);
	ck_assert_ptr_nonnull(w);
	ck_assert_int_eq(left.dtype, LORA_F64);
	int i = (int)(w - d->p->list), pass = (int)d->probe.pass;
	int64_t inner = w->in - w->bias;
	for (int64_t r = 0; r < left.size[0]; r++) {
		int row = d->rows[i] + (int)(first_row + r);
		ck_assert_int_lt(row, MOST_ROWS);
		for (int64_t o = 0; o < w->out; o++) d->left[i][(row * d->classes + pass) * w->out + o] = f * ((double *)left.data)[r * left.stride[0] + o];
		for (int64_t c = 0; c < inner; c++) d->right[i][row * w->in + c] = ((double *)right.data)[r * right.stride[0] + c];
		if (w->bias) d->right[i][row * w->in + inner] = 1;
		int found = -1;
		for (int64_t e = 0; e < d->probe.n; e++) {
			int64_t first = w->head ? e : d->probe.first[w->space][e], n = w->head ? 1 : d->probe.rows[w->space][e];
			if (first_row + r >= first && first_row + r < first + n) found = (int)e;
		}
		ck_assert_int_ge(found, 0);
		d->example[i][row] = (int)d->before + found;
	}
	return LORA_OK;
}

static void unit(void *self, int64_t example, int64_t pass, const double *f, double *g)
{
	(void)example, (void)f;
	for (int64_t c = 0; c < ((dense *)self)->classes; c++) g[c] = c == pass;
}

static void dense_run(dense *d, net *t, lora_posterior *p)
{
	*d = (dense){ .p = p, .classes = t->classes };
	ck_assert_uint_le(p->n, MOST_MATRICES);
	d->logits = calloc((size_t)(t->n * t->classes), sizeof(double));
	for (size_t i = 0; i < p->n; i++) {
		d->left[i] = calloc((size_t)(MOST_ROWS * t->classes * p->list[i].out), sizeof(double));
		d->right[i] = calloc((size_t)(MOST_ROWS * p->list[i].in), sizeof(double));
	}
	d->tap.take = collect;
	d->probe = (lora__probe){ .ctx = golden_ctx, .m = t->m, .classes = t->classes, .ids = p->ids, .tap = &d->tap, .direction = unit, .self = d };
	for (int64_t k = 0; k * t->batch < t->n; k++) {
		lora_batch b = { .struct_size = sizeof b };
		get(t, k, &b);
		ck_ok(lora__probe_forward(&d->probe, &b, 1));
		for (int64_t c = 0; c < t->classes; c++) ck_ok(lora__probe_backward(&d->probe, p->last));
		for (size_t i = 0; i < p->n; i++) {
			const lora__matrix *w = &p->list[i];
			for (int64_t e = 0; e < d->probe.n; e++) d->rows[i] += w->head ? 1 : d->probe.rows[w->space][e];
		}
		memcpy(d->logits + d->before * t->classes, d->probe.logits, sizeof(double) * (size_t)(d->probe.n * t->classes));
		d->before += d->probe.n;
	}
}

static void dense_free(dense *d)
{
	for (size_t i = 0; i < d->p->n; i++) free(d->left[i]), free(d->right[i]);
	free(d->logits);
	lora__probe_free(&d->probe);
}

/* d f_c / d W of an example */
static void jacobian(const dense *d, size_t i, int example, int64_t c, double *j)
{
	const lora__matrix *w = &d->p->list[i];
	memset(j, 0, sizeof *j * (size_t)(w->out * w->in));
	for (int r = 0; r < d->rows[i]; r++) {
		if (d->example[i][r] != example) continue;
		for (int64_t o = 0; o < w->out; o++)
			for (int64_t x = 0; x < w->in; x++) j[o * w->in + x] += d->left[i][(r * d->classes + c) * w->out + o] * d->right[i][r * w->in + x];
	}
}

/* G[out,out] = sum over rows of sum_cc' Lam_cc' g_c g_c'^T, A[in,in] = sum of a a^T */
static void dense_factors(const dense *d, size_t i, double *g, double *a)
{
	const lora__matrix *w = &d->p->list[i];
	int64_t n = d->classes;
	memset(g, 0, sizeof *g * (size_t)(w->out * w->out)), memset(a, 0, sizeof *a * (size_t)(w->in * w->in));
	for (int r = 0; r < d->rows[i]; r++) {
		double p[8];
		lora__softmax(d->logits + d->example[i][r] * n, n, p);
		for (int64_t c = 0; c < n; c++)
			for (int64_t e = 0; e < n; e++)
				for (int64_t x = 0; x < w->out; x++)
					for (int64_t y = 0; y < w->out; y++)
						g[x * w->out + y] += ((c == e) * p[c] - p[c] * p[e]) * d->left[i][(r * n + c) * w->out + x] * d->left[i][(r * n + e) * w->out + y];
		for (int64_t x = 0; x < w->in; x++)
			for (int64_t y = 0; y < w->in; y++) a[x * w->in + y] += d->right[i][r * w->in + x] * d->right[i][r * w->in + y];
	}
}

/* L of m = L L^T in place; log of the determinant of m. */
static double factorise(double *m, int64_t n)
{
	double logdet = 0;
	for (int64_t j = 0; j < n; j++) {
		for (int64_t i = j; i < n; i++) {
			double s = m[i * n + j];
			for (int64_t k = 0; k < j; k++) s -= m[i * n + k] * m[j * n + k];
			ck_assert(i != j || s > 0);
			m[i * n + j] = i == j ? sqrt(s) : s / m[j * n + j];
		}
		logdet += 2 * log(m[j * n + j]);
	}
	return logdet;
}

/* scale H + shift I, H = (1/R) G (x) A over vec(W), row-major; factorised. */
static double *dense_curvature(const dense *d, size_t i, double scale, double shift, double *logdet)
{
	const lora__matrix *w = &d->p->list[i];
	int64_t n = w->out * w->in;
	double *g = malloc(sizeof *g * (size_t)(w->out * w->out)), *a = malloc(sizeof *a * (size_t)(w->in * w->in)), *h = calloc((size_t)(n * n), sizeof *h);
	dense_factors(d, i, g, a);
	for (int64_t x = 0; x < n; x++)
		for (int64_t y = 0; y < n; y++) h[x * n + y] = scale * g[x / w->in * w->out + y / w->in] * a[x % w->in * w->in + y % w->in] / (d->by_rows ? d->rows[i] : (int)d->before) + (x == y) * shift;
	*logdet = factorise(h, n);
	free(g), free(a);
	return h;
}

/* V[classes,classes] of an example */
static void dense_covariance(const dense *d, int example, double prior, double *v)
{
	int64_t c = d->classes;
	memset(v, 0, sizeof *v * (size_t)(c * c));
	for (size_t i = 0; i < d->p->n; i++) {
		int64_t n = d->p->list[i].out * d->p->list[i].in;
		double logdet, *l = dense_curvature(d, i, 1, prior, &logdet), *z = malloc(sizeof *z * (size_t)(n * c));
		for (int64_t k = 0; k < c; k++) {
			double *x = z + k * n;
			jacobian(d, i, example, k, x);
			for (int64_t r = 0; r < n; r++) {
				for (int64_t s = 0; s < r; s++) x[r] -= l[r * n + s] * x[s];
				x[r] /= l[r * n + r];
			}
		}
		for (int64_t a = 0; a < c; a++)
			for (int64_t b = 0; b < c; b++)
				for (int64_t x = 0; x < n; x++) v[a * c + b] += z[a * n + x] * z[b * n + x];
		free(l), free(z);
	}
}

static double gap(const double *x, const double *y, int64_t n)
{
	double worst = 0, most = 0;
	for (int64_t i = 0; i < n; i++) worst = fmax(worst, fabs(x[i] - y[i])), most = fmax(most, fabs(y[i]));
	return most > 0 ? worst / most : worst;
}

/* basis diag(values) basis^T */
static void rebuild(const lora__factor *f, double *m)
{
	memset(m, 0, sizeof *m * (size_t)(f->d * f->d));
	for (int64_t x = 0; x < f->d; x++)
		for (int64_t y = 0; y < f->d; y++)
			for (int64_t k = 0; k < f->k; k++) m[x * f->d + y] += f->basis[x * f->k + k] * f->values[k] * f->basis[y * f->k + k];
}

/* The rows add up to what an ordinary backward pass gives: sum over examples of (p_c - [c = label]) J_c. */
static void check_rows(dense *d, net *t)
{
	lora_posterior *p = d->p;
	double loss;
	int64_t tokens, batch = t->batch;
	t->batch = t->n;
	lora_batch b = { .struct_size = sizeof b };
	get(t, 0, &b);
	ck_ok(lora_adapter_zero_grad(t->a));
	ck_ok(lora_model_backward(t->m, &b, NULL, 0, &loss, &tokens));
	t->batch = batch;
	ck_assert_int_eq(tokens, t->n);
	if (!t->m->n_labels) return; /* its cross-entropy is over the whole vocabulary */
	double *sum = malloc(sizeof *sum * 64 * 64), *j = malloc(sizeof *j * 64 * 64), *grads = (double *)(void *)t->a->grads;
	for (size_t i = 0; i < p->n; i++) {
		lora__matrix *w = &p->list[i];
		const lora__ptensor *tensor = &t->a->tensors[w->part->tensor[w->role]];
		memset(sum, 0, sizeof *sum * 64 * 64);
		for (int e = 0; e < t->n; e++)
			for (int64_t c = 0; c < t->classes; c++) {
				double q[8];
				lora__softmax(d->logits + e * t->classes, t->classes, q);
				jacobian(d, i, e, c, j);
				for (int64_t x = 0; x < w->out * w->in; x++) sum[x] += (q[c] - (c == t->labels[e])) * j[x] / (double)t->n;
			}
		if (w->bias)
			for (int64_t o = 0; o < w->out; o++)
				for (int64_t x = 0; x < w->in - 1; x++) sum[o * (w->in - 1) + x] = sum[o * w->in + x];
		ck_assert_double_lt(gap(sum, grads + tensor->offset, (int64_t)tensor->n), 1e-9);
	}
	free(sum), free(j);
	ck_ok(lora_adapter_zero_grad(t->a));
}

#endif
