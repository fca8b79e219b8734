/* Oracle of ATTENTION and its backward: the full matrix of probabilities in double, one query at a time. */
#include "backend/cases.h"

/* Variants: heads, kv heads, head size, causal, window, cap, use columns; segments as rows of four. */
static const struct {
	int heads, kv, d, causal, window; double cap; int columns, n_seg; int32_t seg[4][4]; int queries, keys, reach; /* reach > 0: a bias by distance */
} shapes[] = {
	{ 1, 1, 1, 1, 0, 0, 0, 1, { { 0, 1, 0, 1 } }, 1, 1, 0 },
	{ 2, 1, 8, 1, 0, 0, 0, 1, { { 0, 7, 0, 7 } }, 7, 7, 0 },
	{ 4, 2, 16, 1, 0, 0, 0, 2, { { 0, 60, 0, 60 }, { 60, 131, 60, 131 } }, 191, 191, 0 },
	{ 3, 3, 5, 0, 0, 0, 0, 2, { { 0, 50, 0, 66 }, { 51, 3, 66, 3 } }, 55, 70, 0 },       /* sees all; a query row in no segment */
	{ 2, 2, 20, 1, 0, 5, 0, 1, { { 0, 49, 0, 70 } }, 49, 70, 0 },                        /* soft cap, keys before the queries */
	{ 2, 1, 12, 1, 9, 0, 0, 1, { { 0, 130, 0, 130 } }, 130, 130, 0 },                    /* window over positions */
	{ 2, 1, 12, 1, 30, 8, 1, 2, { { 0, 65, 0, 65 }, { 65, 20, 65, 90 } }, 85, 155, 0 },  /* window over columns, cap */
	{ 2, 2, 7, 0, 11, 0, 0, 1, { { 0, 100, 0, 100 } }, 100, 100, 0 },                    /* window both ways */
	{ 4, 1, 64, 1, 0, 0, 0, 3, { { 0, 1, 0, 100 }, { 1, 4, 100, 33 }, { 5, 0, 133, 0 } }, 5, 133, 0 }, /* decoding */
	{ 4, 2, 24, 1, 0, 0, 0, 2, { { 0, 10, 0, 30 }, { 10, 8, 0, 28 } }, 18, 30, 0 },      /* two segments share keys */
	{ 2, 2, 4, 1, 0, 0, 0, 1, { { 0, 0, 0, 0 } }, 0, 0, 0 },
	{ 2, 1, 70, 1, 0, 0, 0, 1, { { 0, 140, 0, 140 } }, 140, 140, 0 },
	{ 1, 1, 6, 0, 0, 0, 0, 1, { { 0, 5, 0, 0 } }, 5, 3, 0 },                          /* no keys: output 0 */
	{ 2, 2, 9, 0, 0, 0, 1, 2, { { 0, 70, 0, 70 }, { 70, 5, 70, 5 } }, 75, 75, 6 },    /* bias, columns with gaps */
	{ 3, 1, 36, 1, 0, 0, 0, 2, { { 0, 6, 0, 6 }, { 6, 140, 6, 300 } }, 146, 306, 0 }, /* more than the keys and strips that tiles take together */
	{ 2, 1, 12, 1, 75, 0, 0, 1, { { 0, 200, 0, 200 } }, 200, 200, 0 },                /* blocks beyond, across and within the window */
	{ 1, 1, 6, 0, 40, 0, 0, 1, { { 0, 150, 0, 180 } }, 150, 180, 0 },
	{ 3, 1, 8, 1, 0, 0, 0, 2, { { 0, 110, 0, 120 }, { 110, 2, 120, 30 } }, 112, 150, 40 }, /* bias, causal */
};
enum { N = sizeof shapes / sizeof *shapes };

enum { KEYS = 320 };
typedef struct row { double p[KEYS], ds[KEYS], dp[KEYS], sp[KEYS], lse, smax; int seen; } row;

static int sees(int v, const int32_t *g, int64_t i, int64_t key, const int32_t *columns)
{
	int64_t self = g[3] - g[1] + i, far = columns ? columns[g[2] + self] - columns[g[2] + key] : self - key;
	if (shapes[v].causal && key > self) return 0;
	if (!shapes[v].window) return 1;
	return shapes[v].causal ? far < shapes[v].window : llabs(far) < shapes[v].window;
}

/* View of the bias, filled; behind it in the call nothing comes. */
static void fill_bias(test_case *t, int view, lora_dtype real, int v)
{
	if (shapes[v].reach) case_view(t, view, lora__wide(real), shapes[v].heads, 2 * shapes[v].reach + 1, LAYOUT_ROWS, 2, 0);
}

/* Bias of a key for query i, 0 without one; the table is the last view. */
static double bias_of(const test_case *t, int v, const int32_t *g, int64_t i, int64_t key, int head, const int32_t *columns)
{
	int64_t self = g[3] - g[1] + i, far = columns ? columns[g[2] + key] - columns[g[2] + self] : key - self, reach = shapes[v].reach;
	return reach ? case_get(t, t->call.n_views - 1, head, reach + (far > reach ? reach : far < -reach ? -reach : far)) : 0;
}

/* Probabilities of query i of a segment and head; q and k are views of the case. */
static void probabilities(const test_case *t, int v, const int32_t *g, int64_t i, int head, int q, int k, double scale, const int32_t *columns, row *r)
{
	int d = shapes[v].d, kvh = head / (shapes[v].heads / shapes[v].kv);
	double top = -INFINITY, sum = 0, s[KEYS];
	r->smax = 0, r->seen = 0;
	for (int64_t x = 0; x < g[3]; x++) {
		double mag = 0;
		s[x] = -INFINITY, r->sp[x] = 1;
		if (!sees(v, g, i, x, columns)) continue;
		r->seen++;
		double acc = 0;
		for (int e = 0; e < d; e++) {
			double p = scale * case_get(t, q, g[0] + i, head * d + e) * case_get(t, k, g[2] + x, kvh * d + e);
			acc += p, mag += fabs(p);
		}
		acc += bias_of(t, v, g, i, x, head, columns), mag += fabs(bias_of(t, v, g, i, x, head, columns));
		if (shapes[v].cap > 0) {
			double c = tanh(acc / shapes[v].cap);
			acc = shapes[v].cap * c, r->sp[x] = 1 - c * c, mag += shapes[v].cap;
		}
		s[x] = acc;
		r->smax = fmax(r->smax, mag);
		top = fmax(top, acc);
	}
	for (int64_t x = 0; x < g[3]; x++) sum += s[x] == -INFINITY ? 0 : exp(s[x] - top);
	for (int64_t x = 0; x < g[3]; x++) r->p[x] = s[x] == -INFINITY ? 0 : exp(s[x] - top) / sum;
	r->lse = r->seen ? top + log(sum) : -INFINITY;
}

/* BF16: probabilities and their gradients may be rounded to BF16, 2^-9 of each; in units of a float's last place. */
static double halves(lora_dtype real) { return real == LORA_BF16 ? 0x1p15 : 0; }

static void fill_columns(test_case *t, int view, int v)
{
	case_view(t, view, LORA_I32, shapes[v].keys, 1, LAYOUT_ROWS, 1, 0);
	for (int s = 0; s < shapes[v].n_seg; s++)
		for (int32_t x = 0; x < shapes[v].seg[s][3]; x++) {
			int32_t c = x + x / 7; /* gaps, as left by padding */
			memcpy(t->a[view].init + 64 + 4 * (shapes[v].seg[s][2] + x), &c, 4);
		}
}

static int forward(test_case *t, lora_dtype real, int v)
{
	int heads = shapes[v].heads, d = shapes[v].d, layout = v % 2;
	int64_t nq = shapes[v].queries, nk = shapes[v].keys;
	double scale = 1.5 / sqrt(d);
	case_view(t, 0, real, nq, heads * d, layout, 1, 1);
	case_view(t, 1, real, nq, heads * d, !layout, 1, 0);
	case_view(t, 2, real, nk, shapes[v].kv * d, layout, 1, 0);
	case_view(t, 3, real, nk, shapes[v].kv * d, !layout, 1, 0);
	case_view(t, 4, lora__wide(real), nq, heads, layout, 1, 1);
	case_view(t, 5, LORA_I32, shapes[v].n_seg, 4, LAYOUT_ROWS, 1, 0);
	memcpy(t->a[5].init + 64, shapes[v].seg, 16 * (size_t)shapes[v].n_seg);
	if (shapes[v].columns) fill_columns(t, 6, v);
	fill_bias(t, 7, real, v);
	const int32_t *columns = shapes[v].columns ? (const int32_t *)(const void *)(t->a[6].init + 64) : NULL;
	row *r = malloc(sizeof *r);
	for (int64_t i = 0; i < nq; i++) /* rows in no segment stay as they are */
		for (int x = 0; x < heads; x++) {
			case_want(t, 4, i, x, case_get(t, 4, i, x), 0);
			for (int e = 0; e < d; e++) case_want(t, 0, i, x * d + e, case_get(t, 0, i, x * d + e), 0);
		}
	for (int s = 0; s < shapes[v].n_seg; s++)
		for (int64_t i = 0; i < shapes[v].seg[s][1]; i++)
			for (int x = 0; x < heads; x++) {
				const int32_t *g = shapes[v].seg[s];
				int kvh = x / (heads / shapes[v].kv);
				probabilities(t, v, g, i, x, 1, 2, scale, columns, r);
				double c = (d + 4) * r->smax + r->seen + 16;
				case_want(t, 4, g[0] + i, x, r->lse, r->seen ? c + fabs(r->lse) : 0);
				for (int e = 0; e < d; e++) {
					double y = 0, mag = 0;
					for (int64_t k = 0; k < g[3]; k++) {
						double z = r->p[k] * case_get(t, 3, g[2] + k, kvh * d + e);
						y += z, mag += fabs(z);
					}
					case_want(t, 0, g[0] + i, x * d + e, y, (2 * c + halves(real)) * mag);
				}
			}
	t->call.i[0] = heads, t->call.i[1] = shapes[v].kv, t->call.i[2] = d, t->call.i[3] = shapes[v].causal, t->call.i[4] = shapes[v].window;
	t->call.f[0] = scale, t->call.f[1] = shapes[v].cap;
	free(r);
	return 1;
}

/* out and lse of the backward's inputs, from the oracle, rounded to real. */
static void put(test_case *t, int view, int64_t r, int64_t c, double x)
{
	const lora_view *w = &t->call.v[view];
	size_t at = 64 + (size_t)(r * w->stride[0] + c * w->stride[1]) * lora__dtype_size(w->dtype);
	lora__convert(t->a[view].init + at, w->dtype, &x, LORA_F64, 1);
}

typedef struct sums { double *v, *m; } sums;

static void add(sums *s, int64_t at, double x, double mag) { s->v[at] += x, s->m[at] += mag; }

/* One query row of one head: adds to dq, dk, dv and their magnitudes. */
static void row_backward(test_case *t, int v, const int32_t *g, int64_t i, int x, double scale, const int32_t *columns, row *r, sums *dq, sums *dk, sums *dv)
{
	int heads = shapes[v].heads, d = shapes[v].d, kvh = x / (heads / shapes[v].kv), kw = shapes[v].kv * d;
	int64_t qr = g[0] + i;
	double delta = 0, delta_mag = 0, half = halves(t->call.v[3].dtype);
	probabilities(t, v, g, i, x, 3, 4, scale, columns, r);
	double c = (d + 4) * r->smax + r->seen + 32 + fabs(r->seen ? r->lse : 0);
	put(t, 7, qr, x, r->lse);
	for (int e = 0; e < d; e++) {
		double y = 0, mag = 0, go = case_get(t, 8, qr, x * d + e);
		for (int64_t k = 0; k < g[3]; k++) y += r->p[k] * case_get(t, 5, g[2] + k, kvh * d + e), mag += fabs(r->p[k] * case_get(t, 5, g[2] + k, kvh * d + e));
		put(t, 6, qr, x * d + e, y);
		delta += case_get(t, 6, qr, x * d + e) * go, delta_mag += mag * fabs(go); /* out as it was given, rounded */
	}
	for (int64_t k = 0; k < g[3]; k++) {
		double dp = 0, mag = 0;
		for (int e = 0; e < d; e++) {
			double z = case_get(t, 8, qr, x * d + e) * case_get(t, 5, g[2] + k, kvh * d + e);
			dp += z, mag += fabs(z);
		}
		double ds = r->p[k] * (dp - delta) * r->sp[k], ds_mag = r->p[k] * (mag + delta_mag) * c + half * fabs(ds);
		for (int e = 0; e < d; e++) {
			double q = case_get(t, 3, qr, x * d + e), kk = case_get(t, 4, g[2] + k, kvh * d + e), go = case_get(t, 8, qr, x * d + e);
			add(dq, qr * heads * d + x * d + e, scale * ds * kk, scale * ds_mag * fabs(kk));
			add(dk, (g[2] + k) * kw + kvh * d + e, scale * ds * q, scale * ds_mag * fabs(q));
			add(dv, (g[2] + k) * kw + kvh * d + e, r->p[k] * go, (c + half) * r->p[k] * fabs(go));
		}
	}
}

static int backward(test_case *t, lora_dtype real, int v)
{
	int heads = shapes[v].heads, d = shapes[v].d, kw = shapes[v].kv * d, layout = v % 2;
	int64_t nq = shapes[v].queries, nk = shapes[v].keys;
	double scale = 1.5 / sqrt(d);
	for (int i = 0; i < 3; i++) case_view(t, i, real, i ? nk : nq, i ? kw : heads * d, (layout + i) % 2, 1, 1);
	case_view(t, 3, real, nq, heads * d, layout, 1, 0);
	case_view(t, 4, real, nk, kw, !layout, 1, 0);
	case_view(t, 5, real, nk, kw, layout, 1, 0);
	case_view(t, 6, real, nq, heads * d, !layout, 1, 0);
	case_view(t, 7, lora__wide(real), nq, heads, layout, 1, 0);
	case_view(t, 8, real, nq, heads * d, layout, 1, 0);
	case_view(t, 9, LORA_I32, shapes[v].n_seg, 4, LAYOUT_ROWS, 1, 0);
	memcpy(t->a[9].init + 64, shapes[v].seg, 16 * (size_t)shapes[v].n_seg);
	if (shapes[v].columns) fill_columns(t, 10, v);
	fill_bias(t, 11, real, v);
	const int32_t *columns = shapes[v].columns ? (const int32_t *)(const void *)(t->a[10].init + 64) : NULL;
	for (int i = 0; i < 3; i++) case_poison(t, i);
	sums s[3];
	for (int i = 0; i < 3; i++) s[i] = (sums){ t->a[i].want, t->a[i].mag };
	row *r = malloc(sizeof *r);
	for (int g = 0; g < shapes[v].n_seg; g++)
		for (int64_t i = 0; i < shapes[v].seg[g][1]; i++)
			for (int x = 0; x < heads; x++) row_backward(t, v, shapes[v].seg[g], i, x, scale, columns, r, &s[0], &s[1], &s[2]);
	free(r);
	t->call.i[0] = heads, t->call.i[1] = shapes[v].kv, t->call.i[2] = d, t->call.i[3] = shapes[v].causal, t->call.i[4] = shapes[v].window;
	t->call.f[0] = scale, t->call.f[1] = shapes[v].cap;
	return 1;
}

int case_attention(test_case *t, lora_prim prim, lora_dtype real, int v)
{
	if (v >= N) return 0;
	snprintf(t->what, sizeof t->what, "heads %d kv %d d %d causal %d window %d cap %g", shapes[v].heads, shapes[v].kv, shapes[v].d, shapes[v].causal,
	         shapes[v].window, shapes[v].cap);
	return prim == LORA_PRIM_ATTENTION ? forward(t, real, v) : backward(t, real, v);
}
