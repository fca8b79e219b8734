/* Oracles in double: RMSNORM, LAYERNORM, ROPE, GATED, their backwards, XENT, DROPOUT, ADAMW, SGD. */
#include "backend/cases.h"
#include "base/rng.h"

static const lora_dtype floats[] = { LORA_F32, LORA_F64, LORA_F16, LORA_BF16 };
static const int64_t sizes[][2] = { { 1, 1 }, { 0, 4 }, { 5, 33 }, { 70, 40 }, { 3, 1000 }, { 130, 3 } };
enum { N_SIZES = 6 };

static int rmsnorm(test_case *t, lora_dtype real, int v, int backward)
{
	if (v >= N_SIZES * 8) return 0;
	int64_t n = sizes[v % N_SIZES][0], d = sizes[v % N_SIZES][1];
	double eps = 1e-5, offset = v / 6 % 2, beta = v / 12 % 2 ? 0.75 : 0, scale = v % 5 == 4 ? 1e-4 : 1;
	case_view(t, 0, real, n, d, v % 2, 1, 1);
	case_view(t, 1, real, n, d, v / 2 % 2, scale, 0);
	case_view(t, 2, floats[v % 4], d, 1, LAYOUT_ROWS, 1, 0);
	case_view(t, 3, lora__wide(real), n, 1, LAYOUT_ROWS, 1, !backward);
	if (backward) case_view(t, 4, real, n, d, v / 4 % 2, 1, 0);
	t->call.f[0] = backward ? offset : eps, t->call.f[1] = backward ? beta : offset;
	for (int64_t i = 0; i < n; i++) {
		double sum = 0, dot = 0, dot_mag = 0, rstd;
		for (int64_t j = 0; j < d; j++) sum += case_get(t, 1, i, j) * case_get(t, 1, i, j);
		rstd = backward ? case_get(t, 3, i, 0) : 1 / sqrt(sum / (double)d + eps);
		if (!backward) case_want(t, 3, i, 0, rstd, (double)(d + 8) * rstd);
		for (int64_t j = 0; j < d && backward; j++) {
			double z = (offset + case_get(t, 2, j, 0)) * case_get(t, 4, i, j) * case_get(t, 1, i, j);
			dot += z, dot_mag += fabs(z);
		}
		for (int64_t j = 0; j < d; j++) {
			double w = offset + case_get(t, 2, j, 0), x = case_get(t, 1, i, j), c = rstd * rstd * rstd / (double)d;
			if (!backward) {
				case_want(t, 0, i, j, x * rstd * w, (double)(d + 8) * fabs(x * rstd) * (fabs(w) + offset));
			} else {
				double a = rstd * w * case_get(t, 4, i, j), b = x * c * dot, old = beta != 0 ? beta * case_get(t, 0, i, j) : 0;
				case_want(t, 0, i, j, a - b + old, 8 * (fabs(a) + offset) + (double)(d + 8) * fabs(x * c) * (dot_mag + offset) + 4 * fabs(old));
			}
		}
	}
	if (!backward || beta == 0) case_poison(t, 0);
	if (!backward) case_poison(t, 3);
	return 1;
}

static int layernorm(test_case *t, lora_dtype real, int v, int backward)
{
	if (v >= N_SIZES * 8) return 0;
	int64_t n = sizes[v % N_SIZES][0], d = sizes[v % N_SIZES][1];
	double eps = 1e-5, beta = v / 12 % 2 ? 0.75 : 0, scale = v % 5 == 4 ? 1e-2 : 1;
	int bias = v / 6 % 2, stats = backward ? 3 : 4;
	case_view(t, 0, real, n, d, v % 2, 1, 1);
	case_view(t, 1, real, n, d, v / 2 % 2, scale, 0);
	case_view(t, 2, floats[v % 4], d, 1, LAYOUT_ROWS, 1, 0);
	if (!backward && bias) case_view(t, 3, floats[v / 4 % 4], d, 1, LAYOUT_ROWS, 1, 0);
	for (int i = 0; i < 2; i++) case_view(t, stats + i, lora__wide(real), n, 1, LAYOUT_ROWS, 1, !backward);
	if (backward) case_view(t, 5, real, n, d, v / 4 % 2, 1, 0);
	t->call.f[0] = backward ? beta : eps;
	for (int64_t i = 0; i < n; i++) {
		double sum = 0, mag = 0, var = 0, g = 0, gz = 0, g_mag = 0, gz_mag = 0, k = (double)(d + 8), mean, rstd;
		for (int64_t j = 0; j < d; j++) sum += case_get(t, 1, i, j), mag += fabs(case_get(t, 1, i, j));
		mean = backward ? case_get(t, 3, i, 0) : sum / (double)d;
		for (int64_t j = 0; j < d; j++) var += (case_get(t, 1, i, j) - mean) * (case_get(t, 1, i, j) - mean);
		rstd = backward ? case_get(t, 4, i, 0) : 1 / sqrt(var / (double)d + eps);
		mag = mag / (double)d;
		if (!backward) case_want(t, 4, i, 0, mean, k * mag), case_want(t, 5, i, 0, rstd, k * rstd * (1 + mag * rstd));
		for (int64_t j = 0; j < d && backward; j++) {
			double w = case_get(t, 2, j, 0) * case_get(t, 5, i, j), z = (case_get(t, 1, i, j) - mean) * rstd;
			g += w / (double)d, gz += w * z / (double)d, g_mag += fabs(w) / (double)d, gz_mag += fabs(w) * (fabs(z) + fabs(mean * rstd)) / (double)d;
		}
		for (int64_t j = 0; j < d; j++) {
			double w = case_get(t, 2, j, 0), x = case_get(t, 1, i, j), z = (x - mean) * rstd, b = !backward && bias ? case_get(t, 3, j, 0) : 0;
			if (!backward) {
				case_want(t, 0, i, j, z * w + b, k * fabs(w) * rstd * (fabs(x) + mag) * (1 + mag * rstd) + 4 * fabs(b));
			} else {
				double a = w * case_get(t, 5, i, j), old = beta != 0 ? beta * case_get(t, 0, i, j) : 0, z_mag = (fabs(x) + fabs(mean)) * fabs(rstd);
				case_want(t, 0, i, j, rstd * (a - g - z * gz) + old, fabs(rstd) * (8 * fabs(a) + k * (g_mag + z_mag * gz_mag)) + 4 * fabs(old));
			}
		}
	}
	if (!backward || beta == 0) case_poison(t, 0);
	if (!backward) case_poison(t, 4), case_poison(t, 5);
	return 1;
}

static int rope(test_case *t, lora_dtype real, int v)
{
	static const int dims[][3] = { { 1, 2, 2 }, { 3, 8, 8 }, { 2, 10, 4 }, { 4, 64, 64 }, { 2, 6, 0 } }; /* heads, head size, rotated */
	if (v >= 20) return 0;
	int heads = dims[v % 5][0], d = dims[v % 5][1], half = dims[v % 5][2] / 2, inverse = v / 5 % 2;
	int64_t n = v / 10 ? 41 : 1, positions = 19;
	case_view(t, 0, real, n, heads * d, v % 2, 1, 1);
	case_view(t, 1, lora__wide(real), positions, half, LAYOUT_ROWS, 1, 0);
	case_view(t, 2, lora__wide(real), positions, half, LAYOUT_PADDED, 1, 0);
	case_ids(t, 3, n, positions, 0);
	t->call.i[0] = heads, t->call.i[1] = d, t->call.i[2] = 2 * half, t->call.i[3] = inverse;
	for (int64_t r = 0; r < n; r++)
		for (int h = 0; h < heads; h++)
			for (int e = 0; e < d; e++) {
				int64_t at = h * d + e, pos = (int64_t)case_get(t, 3, r, 0);
				double x = case_get(t, 0, r, at);
				if (e >= 2 * half) {
					case_want(t, 0, r, at, x, 0);
					continue;
				}
				int first = e < half;
				double y = case_get(t, 0, r, first ? at + half : at - half), c = case_get(t, 1, pos, e % half), s = case_get(t, 2, pos, e % half);
				if (first != inverse) s = -s;
				case_want(t, 0, r, at, x * c + y * s, 3 * (fabs(x * c) + fabs(y * s)));
			}
	return 1;
}

static double act(double x, int kind, double *grad)
{
	double s, u;
	switch (kind) {
	case LORA_ACT_SILU:
		s = 1 / (1 + exp(-x));
		*grad = s * (1 + x * (1 - s));
		return x * s;
	case LORA_ACT_GELU_TANH:
		u = tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));
		*grad = 0.5 * (1 + u) + 0.5 * x * (1 - u * u) * sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
		return 0.5 * x * (1 + u);
	case LORA_ACT_GELU:
		*grad = 0.5 * erfc(-x / sqrt(2)) + x * exp(-x * x / 2) / sqrt(2 * M_PI);
		return 0.5 * x * erfc(-x / sqrt(2));
	case LORA_ACT_TANH:
		u = tanh(x);
		*grad = 1 - u * u;
		return u;
	default: *grad = x > 0; return x > 0 ? x : 0;
	}
}

static int gated(test_case *t, lora_dtype real, int v, int backward)
{
	if (v >= N_SIZES * 5 * 4) return 0;
	int64_t n = sizes[v % N_SIZES][0], d = sizes[v % N_SIZES][1];
	int kind = v / N_SIZES % 5 + 1, with_up = v / 30 % 2, layout = v / 60, in_place = backward && v % 5 == 0;
	double size = v % 3 ? 3 : 30;
	int g = backward ? 2 : 1, u = g + 1;
	case_view(t, 0, real, n, d, layout, 2, 1);
	if (backward && with_up) case_view(t, 1, real, n, d, layout, 1, 1);
	case_view(t, g, real, n, d, LAYOUT_ROWS, size, 0);
	if (with_up) case_view(t, u, real, n, d, LAYOUT_PADDED, 2, 0);
	if (backward) case_view(t, 4, real, n, d, LAYOUT_ROWS, 2, 0);
	if (in_place) t->call.v[4] = t->call.v[0]; /* dgate over dh */
	t->call.i[0] = kind;
	for (int64_t i = 0; i < n; i++)
		for (int64_t j = 0; j < d; j++) {
			double x = case_get(t, g, i, j), up = with_up ? case_get(t, u, i, j) : 1, grad, h = act(x, kind, &grad);
			if (!backward) {
				case_want(t, 0, i, j, h * up, 16 * fabs(x * up));
				continue;
			}
			double dh = in_place ? case_get(t, 0, i, j) : case_get(t, 4, i, j);
			case_want(t, 0, i, j, dh * up * grad, 32 * fabs(dh * up) * (1 + fabs(x)));
			if (with_up) case_want(t, 1, i, j, dh * h, 16 * fabs(x * dh));
		}
	if (!in_place) case_poison(t, 0);
	if (backward && with_up) case_poison(t, 1);
	return 1;
}

static int xent(test_case *t, lora_dtype real, int v)
{
	static const int64_t shape[][2] = { { 1, 1 }, { 0, 5 }, { 9, 33 }, { 4, 1000 }, { 30, 7 } };
	if (v >= 5 * 2 * 2 * 3) return 0;
	int64_t n = shape[v % 5][0], d = shape[v % 5][1];
	int grad = v / 5 % 2;
	double cap = v / 10 % 2 ? 4 : 0, size = v / 20 == 0 ? 1 : v / 20 == 1 ? 10 : 60, scale = 0.125;
	case_view(t, 0, real, n, d, v % 2, size, 1);
	case_ids(t, 1, n, d, v % 3 == 1);
	case_view(t, 2, LORA_F64, n, 1, LAYOUT_ROWS, 1, 1);
	case_poison(t, 2);
	t->call.i[0] = grad, t->call.f[0] = scale, t->call.f[1] = cap;
	for (int64_t i = 0; i < n; i++) {
		double top = -INFINITY, sum = 0;
		int64_t label = (int64_t)case_get(t, 1, i, 0);
		for (int64_t j = 0; j < d; j++) {
			double z = case_get(t, 0, i, j);
			top = fmax(top, cap > 0 ? cap * tanh(z / cap) : z);
		}
		for (int64_t j = 0; j < d; j++) {
			double z = case_get(t, 0, i, j);
			sum += exp((cap > 0 ? cap * tanh(z / cap) : z) - top);
		}
		for (int64_t j = 0; j < d; j++) {
			double x = case_get(t, 0, i, j), u = cap > 0 ? tanh(x / cap) : 0, z = cap > 0 ? cap * u : x, p = exp(z - top) / sum, g = scale * (p - (j == label));
			if (!grad) case_want(t, 0, i, j, x, 0);
			else if (label < 0) case_want(t, 0, i, j, 0, 0);
			else case_want(t, 0, i, j, g * (cap > 0 ? 1 - u * u : 1), 8 * scale * ((p + (j == label)) * (1 + fabs(z - top)) + p * cap));
			if (j == label) case_want(t, 2, i, 0, log(sum) + top - z, 4 * (fabs(top) + fabs(z) + 1 + cap));
		}
		if (label < 0) case_want(t, 2, i, 0, 0, 0);
	}
	return 1;
}

static int dropout(test_case *t, lora_dtype real, int v)
{
	static const double p[] = { 0, 0.1, 0.5, 0.999 };
	if (v >= N_SIZES * 8) return 0;
	int64_t n = sizes[v % N_SIZES][0], d = sizes[v % N_SIZES][1], row0 = v % 4 == 3 ? 1 << 20 : v % 3;
	double beta = v / N_SIZES % 2 ? 0.5 : 0, q = p[v % 4];
	int in_place = v / 12 == 3;
	uint64_t key = 0x9E3779B97F4A7C15u * (uint64_t)(v + 1);
	case_view(t, 0, real, n, d, v / 12 % 2, 1, 1);
	case_view(t, 1, real, n, d, v / 24 % 2, 1, 0);
	if (in_place) t->call.v[1] = t->call.v[0];
	t->call.i[0] = (int64_t)key, t->call.i[1] = row0, t->call.f[0] = q, t->call.f[1] = beta;
	for (int64_t i = 0; i < n; i++)
		for (int64_t j = 0; j < d; j++) {
			uint64_t e = (uint64_t)((i + row0) * d + j);
			uint32_t word[4];
			lora__philox(key, e / 4, 0, word);
			double keep = (word[e % 4] >> 8) * 0x1p-24 >= q, x = case_get(t, in_place ? 0 : 1, i, j), old = beta != 0 ? beta * case_get(t, 0, i, j) : 0;
			case_want(t, 0, i, j, old + keep * x / (1 - q), 4 * (fabs(old) + keep * fabs(x) / (1 - q)));
		}
	if (beta == 0 && !in_place) case_poison(t, 0);
	return 1;
}

static int adamw(test_case *t, lora_dtype real, int v)
{
	static const int64_t n_of[] = { 0, 1, 17, 9000 };
	if (v >= 16 || real == LORA_BF16) return 0; /* parameters are of the wide type */
	int64_t n = n_of[v % 4];
	int l2 = v / 4 % 2;
	double lr = 0.01, b1 = v == 15 ? 0.3 : 0.9, b2 = 0.999, eps = 1e-8, decay = v / 8 ? 0.1 : 0, c1 = 1 - pow(b1, 3), c2 = 1 - pow(b2, 3), factor = 0.5;
	for (int i = 0; i < 4; i++) case_view(t, i, real, n, 1, LAYOUT_ROWS, 1, i != 1);
	for (int64_t i = 0; i < n; i++) { /* v is a mean of squares */
		double x = fabs(case_get(t, 3, i, 0)) + 1e-3;
		lora__convert(t->a[3].init + 64 + (size_t)i * lora__dtype_size(real), real, &x, LORA_F64, 1);
	}
	t->call.i[0] = l2;
	memcpy(t->call.f, (double[8]){ lr, b1, b2, eps, decay, c1, c2, factor }, sizeof t->call.f);
	for (int64_t i = 0; i < n; i++) {
		double p = case_get(t, 0, i, 0), g = factor * case_get(t, 1, i, 0), m = case_get(t, 2, i, 0), w = case_get(t, 3, i, 0);
		if (l2) g += decay * p;
		else p -= lr * decay * p;
		double m2 = b1 * m + (1 - b1) * g, v2 = b2 * w + (1 - b2) * g * g, step = lr / c1 * m2 / (sqrt(v2) / sqrt(c2) + eps);
		case_want(t, 0, i, 0, p - step, 2 * fabs(p) + 16 * lr / c1 * (fabs(m) + fabs(g)) / (sqrt(v2) / sqrt(c2) + eps));
		case_want(t, 2, i, 0, m2, 8 * (fabs(m) + fabs(g)));
		case_want(t, 3, i, 0, v2, 8 * v2);
	}
	return 1;
}

static int sgd(test_case *t, lora_dtype real, int v)
{
	static const int64_t n_of[] = { 0, 1, 17, 9000 };
	if (v >= 32 || real == LORA_BF16) return 0;
	int64_t n = n_of[v % 4];
	int with_buf = v / 4 % 2, nesterov = v / 8 % 2, first = v / 16 % 2;
	double lr = 0.1, mu = with_buf ? 0.9 : 0, damp = nesterov ? 0 : 0.1, decay = v % 3 ? 0.01 : 0, factor = 2;
	case_view(t, 0, real, n, 1, LAYOUT_ROWS, 1, 1);
	case_view(t, 1, real, n, 1, LAYOUT_ROWS, 1, 0);
	if (with_buf) case_view(t, 2, real, n, 1, LAYOUT_ROWS, 1, 1);
	t->call.i[0] = nesterov, t->call.i[1] = first;
	memcpy(t->call.f, (double[8]){ lr, mu, damp, decay, factor }, sizeof t->call.f);
	for (int64_t i = 0; i < n; i++) {
		double p = case_get(t, 0, i, 0), g = factor * case_get(t, 1, i, 0) + decay * p, b = 0;
		if (with_buf) {
			b = first ? g : mu * case_get(t, 2, i, 0) + (1 - damp) * g;
			case_want(t, 2, i, 0, b, 8 * (2 + fabs(g)));
			g = nesterov ? g + mu * b : b;
		}
		case_want(t, 0, i, 0, p - lr * g, 8 * (fabs(p) + lr * (2 + fabs(g) + fabs(b))));
	}
	return 1;
}

int case_neural(test_case *t, lora_prim prim, lora_dtype real, int v)
{
	switch (prim) {
	case LORA_PRIM_RMSNORM: return rmsnorm(t, real, v, 0);
	case LORA_PRIM_RMSNORM_BWD: return rmsnorm(t, real, v, 1);
	case LORA_PRIM_LAYERNORM: return layernorm(t, real, v, 0);
	case LORA_PRIM_LAYERNORM_BWD: return layernorm(t, real, v, 1);
	case LORA_PRIM_ROPE: return rope(t, real, v);
	case LORA_PRIM_GATED: return gated(t, real, v, 0);
	case LORA_PRIM_GATED_BWD: return gated(t, real, v, 1);
	case LORA_PRIM_XENT: return xent(t, real, v);
	case LORA_PRIM_DROPOUT: return dropout(t, real, v);
	case LORA_PRIM_ADAMW: return adamw(t, real, v);
	case LORA_PRIM_SGD: return sgd(t, real, v);
	default: return 0;
	}
}
