/* From a Gaussian over logits to probabilities.
 * sampled  p = mean over draws e of softmax(f + L e), L L^T = V; draws come in pairs e, -e.
 * probit   p = softmax(f_c / sqrt(1 + pi/8 V_cc)).  Source: MacKay 1992; Gibbs 1997.
 * bridge   the Dirichlet whose Laplace approximation in the softmax basis is N(f, V): alpha_c = (1 - 2/C + exp(f_c) / C^2 sum_k exp(-f_k)) / V_cc,
 *          p = alpha / sum alpha. That basis has sum f = 0: f and V are projected there (the paper conditions on it, which moves the differences of f).
 *          Source: Hobbhahn, Kristiadi and Hennig 2022, arXiv:2003.01227, equation 8. */
#include <math.h>
#include <string.h>

#include "posterior/posterior.h"

void lora__softmax(const double *f, int64_t n, double *p)
{
	double most = f[0], sum = 0;
	for (int64_t i = 1; i < n; i++) most = fmax(most, f[i]);
	for (int64_t i = 0; i < n; i++) sum += p[i] = exp(f[i] - most);
	for (int64_t i = 0; i < n; i++) p[i] /= sum;
}

/* v = L L^T in the lower half, where v is positive; columns without are zero. */
static void root(double *v, int64_t n)
{
	double most = 0;
	for (int64_t i = 0; i < n; i++) most = fmax(most, v[i * n + i]);
	for (int64_t j = 0; j < n; j++) {
		double d = v[j * n + j];
		for (int64_t c = 0; c < j; c++) d -= v[j * n + c] * v[j * n + c];
		int zero = !(d > 1e-12 * most);
		d = zero ? 0 : sqrt(d);
		v[j * n + j] = d;
		for (int64_t i = j + 1; i < n; i++) {
			double s = v[i * n + j];
			for (int64_t c = 0; c < j; c++) s -= v[i * n + c] * v[j * n + c];
			v[i * n + j] = zero ? 0 : s / d;
		}
	}
}

static void sampled(const lora__gauss *g, double *p)
{
	int64_t n = g->n, m = g->dirs;
	double *shift = g->scratch, *f = shift + n, *q = f + n, *u = q + n;
	memset(p, 0, sizeof *p * (size_t)n);
	root(g->cov, m);
	for (int64_t s = 0; s < g->samples; s++) {
		if (s % 2 == 0) {
			const double *e = g->noise + s / 2 * m;
			for (int64_t i = 0; i < m; i++) {
				u[i] = 0;
				for (int64_t j = 0; j <= i; j++) u[i] += g->cov[i * m + j] * e[j];
			}
			for (int64_t i = 0; i < n; i++) {
				shift[i] = 0;
				for (int64_t j = 0; j < m; j++) shift[i] += g->basis[i * m + j] * u[j];
			}
		}
		for (int64_t i = 0; i < n; i++) f[i] = g->f[i] + (s % 2 ? -shift[i] : shift[i]);
		lora__softmax(f, n, q);
		for (int64_t i = 0; i < n; i++) p[i] += q[i] / (double)g->samples;
	}
}

static void probit(const lora__gauss *g, double *p)
{
	const double eighth_pi = 0.39269908169872414;
	for (int64_t i = 0; i < g->n; i++) g->scratch[i] = g->f[i] / sqrt(1 + eighth_pi * fmax(g->cov[i * g->n + i], 0));
	lora__softmax(g->scratch, g->n, p);
}

/* Variance of f_i - mean f */
static double centred(const lora__gauss *g, int64_t i)
{
	int64_t n = g->n, m = g->dirs;
	double sum = 0, *row = g->scratch;
	for (int64_t j = 0; j < m; j++) {
		double mean = 0;
		for (int64_t k = 0; k < n; k++) mean += g->basis[k * m + j] / (double)n;
		row[j] = g->basis[i * m + j] - mean;
	}
	for (int64_t j = 0; j < m; j++)
		for (int64_t k = 0; k < m; k++) sum += row[j] * g->cov[j * m + k] * row[k];
	return sum;
}

static void bridge(const lora__gauss *g, double *p)
{
	int64_t n = g->n;
	double back = 0, sum = 0, least = g->f[0];
	for (int64_t i = 1; i < n; i++) least = fmin(least, g->f[i]);
	for (int64_t i = 0; i < n; i++) back += exp(least - g->f[i]);
	for (int64_t i = 0; i < n; i++) {
		double v = centred(g, i), e = exp(fmin(g->f[i] - least, 600));
		if (!(v > 0)) { /* no variance is left */
			lora__softmax(g->f, n, p);
			return;
		}
		sum += p[i] = (1 - 2 / (double)n + e * back / ((double)n * (double)n)) / v;
	}
	for (int64_t i = 0; i < n; i++) p[i] /= sum;
}

const lora__predictive lora__predictive_sampled = { .m = { "sampled", "mean of softmax over draws of the logits", "arXiv:2308.13111 equation 17", NULL }, .draws = 1, .run = sampled };
const lora__predictive lora__predictive_probit = { .m = { "probit", "softmax of logits shrunk by their variances", "MacKay 1992", NULL }, .every = 1, .run = probit };
const lora__predictive lora__predictive_bridge = { .m = { "bridge", "mean of the Dirichlet that the Laplace bridge gives", "arXiv:2003.01227", NULL }, .run = bridge };
