/* Backward primitives of naive in double against central differences of the forwards, along random directions and along single coordinates.
 * For a direction u: (f(x + h u) - f(x - h u)) / 2h with f = sum(w * y) must equal sum(grad * u). With four points the error is O(h^4).
 * The optimizer primitives are compared with ten steps of torch.optim (tests/golden/optim/optimizers.json). */
#include <check.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "check_alloc.h"

#include "backend/backend.h"

enum { MAX = 4096 };

static lora_context *ctx;
static uint64_t seed;

static double uniform(void) { return (double)(check_random(&seed) >> 11) * 0x1p-52 - 1; }

static void fill(double *x, int64_t n)
{
	for (int64_t i = 0; i < n; i++) x[i] = uniform();
}

/* A function of one array of inputs: f(x) = sum(w * outputs). */
typedef double (*function)(void *arg, const double *x);

static double slope(function f, void *arg, const double *x, const double *u, int64_t n)
{
	static double y[MAX];
	double value[4], h = 1e-3, at[4] = { -2, -1, 1, 2 };
	for (int k = 0; k < 4; k++) {
		for (int64_t i = 0; i < n; i++) y[i] = x[i] + at[k] * h * u[i];
		value[k] = f(arg, y);
	}
	return (8 * (value[2] - value[1]) - (value[3] - value[0])) / (12 * h);
}

static void check_gradient(const char *what, function f, void *arg, const double *x, const double *grad, int64_t n)
{
	static double u[MAX];
	double size = 0;
	for (int64_t i = 0; i < n; i++) size += fabs(grad[i]);
	ck_assert_msg(n == 0 || size > 0, "%s: the gradient is zero: nothing is tested", what);
	for (int64_t k = 0; k < 8 + n; k++) { /* random directions, then coordinates */
		if (k >= 8 + 60 && k % 17) continue;
		for (int64_t i = 0; i < n; i++) u[i] = k < 8 ? uniform() : i == k - 8;
		double want = slope(f, arg, x, u, n), got = 0, mag = 0;
		for (int64_t i = 0; i < n; i++) got += grad[i] * u[i], mag += fabs(grad[i] * u[i]);
		ck_assert_msg(fabs(got - want) <= 1e-8 * (mag + 1e-3 * size), "%s, direction %d: %.12g, by differences %.12g", what, (int)k, got, want);
	}
}

static void run(lora_call *c)
{
	c->struct_size = sizeof *c;
	check_ok(ctx, lora__run(ctx, c));
}

static double weighted(const double *y, const double *w, int64_t n)
{
	double s = 0;
	for (int64_t i = 0; i < n; i++) s += w[i] * y[i];
	return s;
}

static lora_view mat(const double *p, int64_t n, int64_t d) { return lora__view2(p, LORA_F64, n, d, d); }

static void setup(void)
{
	lora_context_options o;
	lora_context_options_init(&o, sizeof o);
	o.backend = "naive", o.threads = 2;
	seed = check_seed(3);
	ck_assert_int_eq(lora_context_create(LORA_ABI, &o, &ctx), LORA_OK);
}
static void teardown(void) { lora_context_destroy(ctx); }

/* ---- RMSNORM ---- */
enum { NR = 5, ND = 33 };
static struct { double x[NR * ND], w[ND + 1], dy[NR * ND], y[NR * ND], rstd[NR], offset; } norm;

static double norm_of(void *arg, const double *x)
{
	(void)arg;
	run(&(lora_call){ .prim = LORA_PRIM_RMSNORM, .n_views = 4, .f = { 1e-5, norm.offset },
		.v = { mat(norm.y, NR, ND), mat(x, NR, ND), lora__view1(norm.w, LORA_F64, ND), lora__view1(norm.rstd, LORA_F64, NR) } });
	return weighted(norm.y, norm.dy, NR * ND);
}

START_TEST(rmsnorm)
{
	static double dx[NR * ND];
	fill(norm.x, NR * ND), fill(norm.w, ND), fill(norm.dy, NR * ND);
	norm.offset = _i;
	norm_of(NULL, norm.x);
	run(&(lora_call){ .prim = LORA_PRIM_RMSNORM_BWD, .n_views = 5, .f = { norm.offset, 0 },
		.v = { mat(dx, NR, ND), mat(norm.x, NR, ND), lora__view1(norm.w, LORA_F64, ND), lora__view1(norm.rstd, LORA_F64, NR), mat(norm.dy, NR, ND) } });
	check_gradient("rmsnorm", norm_of, NULL, norm.x, dx, NR * ND);
}
END_TEST

/* ---- LAYERNORM ---- */
static double norm_mean[NR];

static double layernorm_of(void *arg, const double *x)
{
	(void)arg;
	run(&(lora_call){ .prim = LORA_PRIM_LAYERNORM, .n_views = 6, .f = { 1e-5 }, .v = { mat(norm.y, NR, ND), mat(x, NR, ND), lora__view1(norm.w, LORA_F64, ND),
		lora__view1(norm.w + 1, LORA_F64, ND), lora__view1(norm_mean, LORA_F64, NR), lora__view1(norm.rstd, LORA_F64, NR) } });
	return weighted(norm.y, norm.dy, NR * ND);
}

START_TEST(layernorm)
{
	static double dx[NR * ND];
	fill(norm.x, NR * ND), fill(norm.w, ND + 1), fill(norm.dy, NR * ND), fill(dx, NR * ND);
	layernorm_of(NULL, norm.x);
	run(&(lora_call){ .prim = LORA_PRIM_LAYERNORM_BWD, .n_views = 6, .f = { 0 },
		.v = { mat(dx, NR, ND), mat(norm.x, NR, ND), lora__view1(norm.w, LORA_F64, ND), lora__view1(norm_mean, LORA_F64, NR),
			lora__view1(norm.rstd, LORA_F64, NR), mat(norm.dy, NR, ND) } });
	check_gradient("layernorm", layernorm_of, NULL, norm.x, dx, NR * ND);
}
END_TEST

/* ---- GATED: inputs gate and up in one array ---- */
enum { GN = 4, GD = 21, GS = GN * GD };
static struct { double dh[GS], h[GS]; int kind, with_up; } gate;

static double gated_of(void *arg, const double *x)
{
	(void)arg;
	run(&(lora_call){ .prim = LORA_PRIM_GATED, .n_views = gate.with_up ? 3 : 2, .i = { gate.kind }, .v = { mat(gate.h, GN, GD), mat(x, GN, GD), mat(x + GS, GN, GD) } });
	return weighted(gate.h, gate.dh, GS);
}

START_TEST(gated)
{
	double x[2 * GS], g[2 * GS] = { 0 };
	fill(x, 2 * GS), fill(gate.dh, GS);
	for (int i = 0; i < GS; i++) {
		x[i] *= 4;
		if (fabs(x[i]) < 0.01) x[i] = 0.5; /* ReLU has a kink at 0 */
	}
	gate.kind = _i % 4 + 1, gate.with_up = _i / 4;
	lora_call c = { .prim = LORA_PRIM_GATED_BWD, .n_views = 5, .i = { gate.kind }, .v = { mat(g, GN, GD), mat(g + GS, GN, GD), mat(x, GN, GD), mat(x + GS, GN, GD), mat(gate.dh, GN, GD) } };
	if (!gate.with_up) c.v[1].data = c.v[3].data = NULL;
	run(&c);
	check_gradient("gated", gated_of, NULL, x, g, gate.with_up ? 2 * GS : GS);
}
END_TEST

/* ---- XENT ---- */
enum { XN = 6, XV = 19 };
static struct { double z[XN * XV], loss[XN], cap; int32_t labels[XN]; } xe;

static double xent_call(const double *z, int grad)
{
	memcpy(xe.z, z, sizeof xe.z);
	run(&(lora_call){ .prim = LORA_PRIM_XENT, .n_views = 3, .i = { grad }, .f = { 0.25, xe.cap },
		.v = { mat(xe.z, XN, XV), lora__view1(xe.labels, LORA_I32, XN), lora__view1(xe.loss, LORA_F64, XN) } });
	double s = 0;
	for (int i = 0; i < XN; i++) s += 0.25 * xe.loss[i];
	return s;
}
static double xent_of(void *arg, const double *z) { return (void)arg, xent_call(z, 0); }

START_TEST(xent)
{
	static double z[XN * XV], g[XN * XV];
	fill(z, XN * XV);
	for (int i = 0; i < XN * XV; i++) z[i] *= 5;
	for (int i = 0; i < XN; i++) xe.labels[i] = i == 2 ? -100 : (i * 7) % XV;
	xe.cap = _i ? 6 : 0;
	xent_call(z, 1);
	memcpy(g, xe.z, sizeof g);
	check_gradient("xent", xent_of, NULL, z, g, XN * XV);
}
END_TEST

/* ---- ROPE: the inverse is the adjoint: <R x, y> = <x, R^-1 y>, and undoes the rotation ---- */
START_TEST(rope)
{
	enum { N = 7, H = 3, D = 10, ROT = 6, P = 50 };
	static double cs[P * ROT / 2], sn[P * ROT / 2], x[N * H * D], y[N * H * D], rx[N * H * D], ry[N * H * D];
	int32_t pos[N];
	for (int p = 0; p < P; p++)
		for (int k = 0; k < ROT / 2; k++) cs[p * ROT / 2 + k] = cos(p * pow(100, -k / 3.0)), sn[p * ROT / 2 + k] = sin(p * pow(100, -k / 3.0));
	for (int i = 0; i < N; i++) pos[i] = (i * 13) % P;
	fill(x, N * H * D), fill(y, N * H * D);
	memcpy(rx, x, sizeof x), memcpy(ry, y, sizeof y);
	lora_call c = { .prim = LORA_PRIM_ROPE, .n_views = 4, .i = { H, D, ROT, 0 },
		.v = { mat(rx, N, H * D), mat(cs, P, ROT / 2), mat(sn, P, ROT / 2), lora__view1(pos, LORA_I32, N) } };
	run(&c);
	c.i[3] = 1, c.v[0].data = ry;
	run(&c);
	ck_assert(fabs(weighted(rx, y, N * H * D) - weighted(x, ry, N * H * D)) < 1e-12);
	c.v[0].data = rx;
	run(&c);
	check_close(rx, x, N * H * D, 1e-13);
}
END_TEST

/* ---- ATTENTION: q, k, v in one array ---- */
static const struct { int heads, kv, d, causal, window; double cap; int nq, nk, n_seg; int32_t seg[3][4]; int columns; } shapes[] = {
	{ 2, 1, 4, 1, 0, 0, 9, 9, 1, { { 0, 9, 0, 9 } }, 0 },
	{ 4, 2, 3, 1, 0, 2, 8, 12, 2, { { 0, 3, 0, 7 }, { 3, 5, 7, 5 } }, 0 },
	{ 2, 2, 5, 0, 0, 0, 6, 10, 1, { { 0, 6, 0, 10 } }, 0 },
	{ 2, 1, 4, 1, 3, 3, 10, 10, 2, { { 0, 6, 0, 6 }, { 6, 4, 6, 4 } }, 0 },
	{ 2, 1, 4, 1, 4, 0, 10, 10, 1, { { 0, 10, 0, 10 } }, 1 },
	{ 2, 2, 4, 0, 3, 0, 10, 10, 1, { { 0, 10, 0, 10 } }, 0 },
	{ 1, 1, 4, 1, 0, 0, 70, 70, 1, { { 0, 70, 0, 70 } }, 0 },   /* more than a block of keys and a tile of queries */
	{ 2, 1, 4, 1, 0, 0, 8, 9, 2, { { 0, 5, 0, 9 }, { 5, 3, 2, 6 } }, 0 }, /* shared keys */
};
static struct { double out[MAX], lse[MAX], dout[MAX]; int32_t columns[100]; int s; } at;

static void attention_views(lora_call *c, int first, const double *x)
{
	int s = at.s, h = shapes[s].heads * shapes[s].d, kw = shapes[s].kv * shapes[s].d;
	c->v[first] = mat(x, shapes[s].nq, h), c->v[first + 1] = mat(x + shapes[s].nq * h, shapes[s].nk, kw);
	c->v[first + 2] = mat(x + shapes[s].nq * h + shapes[s].nk * kw, shapes[s].nk, kw);
	int seg = first == 1 ? 5 : 9;
	c->v[seg] = lora__view2(shapes[s].seg, LORA_I32, shapes[s].n_seg, 4, 4);
	if (shapes[s].columns) c->v[seg + 1] = lora__view1(at.columns, LORA_I32, shapes[s].nk);
	c->n_views = seg + 1 + shapes[s].columns;
	c->i[0] = shapes[s].heads, c->i[1] = shapes[s].kv, c->i[2] = shapes[s].d, c->i[3] = shapes[s].causal, c->i[4] = shapes[s].window;
	c->f[0] = 0.8, c->f[1] = shapes[s].cap;
}

static double attention_of(void *arg, const double *x)
{
	int s = at.s, h = shapes[s].heads * shapes[s].d;
	lora_call c = { .prim = LORA_PRIM_ATTENTION };
	(void)arg;
	attention_views(&c, 1, x);
	c.v[0] = mat(at.out, shapes[s].nq, h), c.v[4] = mat(at.lse, shapes[s].nq, shapes[s].heads);
	run(&c);
	return weighted(at.out, at.dout, shapes[s].nq * h);
}

START_TEST(attention)
{
	static double x[MAX], g[MAX];
	at.s = _i;
	int h = shapes[_i].heads * shapes[_i].d, kw = shapes[_i].kv * shapes[_i].d, n = shapes[_i].nq * h + 2 * shapes[_i].nk * kw;
	for (int i = 0; i < 100; i++) at.columns[i] = i + i / 3;
	fill(x, n), fill(at.dout, shapes[_i].nq * h);
	attention_of(NULL, x);
	lora_call c = { .prim = LORA_PRIM_ATTENTION_BWD }, views = { 0 };
	attention_views(&c, 3, x);
	attention_views(&views, 3, g);
	for (int i = 0; i < 3; i++) c.v[i] = views.v[3 + i];
	c.v[6] = mat(at.out, shapes[_i].nq, h), c.v[7] = mat(at.lse, shapes[_i].nq, shapes[_i].heads), c.v[8] = mat(at.dout, shapes[_i].nq, h);
	run(&c);
	check_gradient("attention", attention_of, NULL, x, g, n);
}
END_TEST

/* ---- optimizers against torch.optim ---- */
static void read_reals(const json_t *a, double *out, int *n)
{
	size_t i;
	json_t *e;
	if (json_is_number(a)) {
		out[(*n)++] = json_number_value(a);
		return;
	}
	json_array_foreach(a, i, e) read_reals(e, out, n);
}

static double setting(const json_t *case_, const char *name) { return json_number_value(json_object_get(json_object_get(case_, "all_settings"), name)); }

START_TEST(optimizers)
{
	static const char *const names[] = { "adamw", "adam", "adam-l2", "sgd", "sgd-momentum", "sgd-nesterov" };
	json_t *root = json_load_file("tests/golden/optim/optimizers.json", 0, NULL), *k = json_object_get(json_object_get(root, "cases"), names[_i]);
	ck_assert_msg(k != NULL, "tests/golden/optim/optimizers.json has no case %s", names[_i]);
	double p[16], g[16], m[16] = { 0 }, v[16] = { 0 }, want[16];
	int n = 0, adam = _i < 3;
	read_reals(json_object_get(root, "param0"), p, &n);
	for (size_t step = 0; step < json_array_size(json_object_get(k, "params")); step++) {
		int ng = 0, nw = 0;
		read_reals(json_array_get(json_object_get(root, "grads"), step), g, &ng);
		read_reals(json_array_get(json_object_get(k, "params"), step), want, &nw);
		ck_assert(ng == n && nw == n);
		lora_call c = { .n_views = 4, .v = { lora__view1(p, LORA_F64, n), lora__view1(g, LORA_F64, n), lora__view1(m, LORA_F64, n), lora__view1(v, LORA_F64, n) } };
		c.f[0] = setting(k, "lr");
		if (adam) {
			const json_t *betas = json_object_get(json_object_get(k, "all_settings"), "betas");
			c.prim = LORA_PRIM_ADAMW, c.f[1] = json_number_value(json_array_get(betas, 0)), c.f[2] = json_number_value(json_array_get(betas, 1));
			c.f[3] = setting(k, "eps"), c.f[4] = setting(k, "weight_decay"), c.f[7] = 1;
			c.f[5] = 1 - pow(c.f[1], (double)step + 1), c.f[6] = 1 - pow(c.f[2], (double)step + 1);
			c.i[0] = !json_is_true(json_object_get(json_object_get(k, "all_settings"), "decoupled_weight_decay"));
		} else {
			c.prim = LORA_PRIM_SGD, c.n_views = 3, c.f[1] = setting(k, "momentum"), c.f[2] = setting(k, "dampening"), c.f[3] = setting(k, "weight_decay"), c.f[4] = 1;
			c.i[0] = json_is_true(json_object_get(json_object_get(k, "all_settings"), "nesterov")), c.i[1] = step == 0;
			if (c.f[1] == 0) c.v[2].data = NULL;
		}
		run(&c);
		check_close(p, want, n, 1e-14 * (1 + fabs(check_w)));
	}
	json_decref(root);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("gradients");
	TCase *c = tcase_create("gradients");
	tcase_set_timeout(c, 120);
	tcase_add_checked_fixture(c, setup, teardown);
	tcase_add_loop_test(c, rmsnorm, 0, 2);
	tcase_add_test(c, layernorm);
	tcase_add_loop_test(c, gated, 0, 8);
	tcase_add_loop_test(c, xent, 0, 2);
	tcase_add_test(c, rope);
	tcase_add_loop_test(c, attention, 0, (int)(sizeof shapes / sizeof *shapes));
	tcase_add_loop_test(c, optimizers, 0, 6);
	suite_add_tcase(s, c);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
