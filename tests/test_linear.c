/* linear.h: a host's own layers. Forward and backward against plain loops in double, both forms, strides, mixed rows, dropout, workspace, and
 * misuse (rows P08 to P13, P43). */
#include "base/rng.h"
#include "golden.h"

enum { N = 7, IN = 10, OUT = 6 };

static float weight[OUT * IN], other[IN * 5];
static lora_model *model;
static lora_adapter *adapter[2];

static void fill(float *p, size_t n, uint64_t seed)
{
	lora__rng r;
	lora__rng_init(&r, seed);
	for (size_t i = 0; i < n; i++) p[i] = (float)lora__rng_normal(&r);
}

static lora_adapter *make(int rank, int seed, double dropout)
{
	lora_settings *s;
	lora_adapter *a;
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_set_int(s, "r", rank));
	ck_ok(lora_settings_set_int(s, "seed", seed));
	ck_ok(lora_settings_set_float(s, "lora_dropout", dropout));
	ck_ok(lora_settings_set_bool(s, "init_lora_weights", 0));
	ck_ok(lora_adapter_create(model, "lora", s, &a));
	lora_settings_destroy(s);
	return a;
}

static void begin(const char *backend, double dropout)
{
	golden_context(backend, 2);
	fill(weight, OUT * IN, 1);
	fill(other, IN * 5, 2);
	ck_ok(lora_model_create(golden_ctx, &model));
	lora_site_info d = { .struct_size = sizeof d, .dtype = LORA_F32, .name = "fc1", .out = OUT, .in = IN, .data = weight, .layer = -1 };
	ck_ok(lora_model_add_site(model, &d, NULL));
	d = (lora_site_info){ .struct_size = sizeof d, .dtype = LORA_F32, .name = "fc2", .out = 5, .in = IN, .data = other, .layer = -1, .flags = LORA_SITE_TRANSPOSED };
	ck_ok(lora_model_add_site(model, &d, NULL));
	adapter[0] = make(3, 5, dropout);
	adapter[1] = make(2, 6, dropout);
	ck_ok(lora_adapter_attach(adapter[0], 1.5));
	ck_ok(lora_adapter_attach(adapter[1], -0.5));
}

static void end(void)
{
	lora_adapter_destroy(adapter[0]);
	lora_adapter_destroy(adapter[1]);
	lora_model_destroy(model);
	lora_context_destroy(golden_ctx);
}

/* Effective weight of a row at a site: base and the deltas of adapters that act (bit k of who). */
static void effective(int64_t site, int who, double *w, int base)
{
	static const double scale[2] = { 1.5, -0.5 };
	int out = site ? 5 : OUT;
	for (int o = 0; o < out; o++)
		for (int i = 0; i < IN; i++) w[o * IN + i] = base ? site ? other[i * 5 + o] : weight[o * IN + i] : 0.0;
	for (int k = 0; k < 2; k++) {
		float d[OUT * IN];
		if (!(who >> k & 1)) continue;
		ck_ok(lora_adapter_delta(adapter[k], site, d, sizeof(float) * (size_t)(out * IN)));
		for (int j = 0; j < out * IN; j++) w[j] += scale[k] * d[j];
	}
}

/* variant bits: 1 base, 2 rows, 4 site two, 8 own workspace */
static void one(const char *backend, int variant)
{
	enum { XS = IN + 3, YS = OUT + 2 };
	static float x[N * XS], y[N * YS], y0[N * YS], dy[N * YS], dx[N * XS];
	int32_t assign[N] = { 0, 0, 1, -1, 1, 1, 0 };
	int64_t site = variant >> 2 & 1;
	int out = site ? 5 : OUT, base = variant & 1;
	begin(backend, 0.0);
	fill(x, N * XS, 3), fill(y, N * YS, 4), fill(dy, N * YS, 8);
	memcpy(y0, y, sizeof y);
	lora_rows *rows = NULL;
	if (variant & 2) ck_ok(lora_rows_create(model, adapter, 2, assign, N, &rows));
	size_t bytes = lora_linear_workspace_bytes(model, site, N);
	void *workspace = variant & 8 ? aligned_alloc(64, (bytes + 63) & ~(size_t)63) : NULL;
	lora_linear_args a = { .struct_size = sizeof a, .flags = base ? LORA_LINEAR_BASE : 0, .site = site, .n_rows = N, .rows = rows, .x = x, .x_stride = XS, .y = y,
		.y_stride = YS, .dy = dy, .dy_stride = YS, .dx = dx, .dx_stride = XS, .workspace = workspace, .workspace_bytes = bytes };
	ck_ok(lora_linear_forward(model, &a));
	ck_ok(lora_linear_backward(model, &a));
	for (int r = 0; r < N; r++) {
		double w[OUT * IN];
		effective(site, rows ? assign[r] < 0 ? 0 : 1 << assign[r] : 3, w, base);
		for (int o = 0; o < YS; o++) {
			double want = base && o < out ? 0.0 : y0[r * YS + o];
			for (int i = 0; o < out && i < IN; i++) want += w[o * IN + i] * x[r * XS + i];
			ck_assert_msg(fabs(y[r * YS + o] - want) < 2e-4, "variant %d y[%d,%d] = %g, expected %g", variant, r, o, y[r * YS + o], want);
		}
		for (int i = 0; i < IN; i++) {
			double want = 0;
			for (int o = 0; o < out; o++) want += w[o * IN + i] * dy[r * YS + o];
			ck_assert_msg(fabs(dx[r * XS + i] - want) < 2e-4, "variant %d dx[%d,%d] = %g, expected %g", variant, r, i, dx[r * XS + i], want);
		}
	}
	/* adding to dx doubles it */
	float first = dx[0];
	a.flags |= LORA_LINEAR_ADD;
	ck_ok(lora_linear_backward(model, &a));
	ck_assert_double_eq_tol(dx[0], 2 * first, 1e-4);
	free(workspace);
	lora_rows_destroy(rows);
	end();
}

START_TEST(against_loops)
{
	one(_i < 16 ? "naive" : "auto", _i % 16);
}
END_TEST

/* Parameter gradients against differences of sum(dy * y). */
START_TEST(parameter_gradients)
{
	float x[N * IN], y[N * OUT], dy[N * OUT];
	begin("naive", 0.0);
	fill(x, N * IN, 3), fill(dy, N * OUT, 8);
	lora_linear_args a = { .struct_size = sizeof a, .flags = LORA_LINEAR_BASE, .n_rows = N, .x = x, .x_stride = IN, .y = y, .y_stride = OUT, .dy = dy, .dy_stride = OUT };
	ck_ok(lora_linear_backward(model, &a));
	for (int64_t t = 0; t < lora_adapter_tensor_count(adapter[0]); t++) {
		lora_tensor_info info;
		float p[128], g[128];
		ck_ok(lora_adapter_tensor_info(adapter[0], t, &info));
		ck_ok(lora_adapter_gradient_read(adapter[0], t, g, info.bytes));
		ck_ok(lora_adapter_tensor_read(adapter[0], t, p, info.bytes));
		for (size_t k = 0; k < info.bytes / 4; k += 3) {
			double f[2] = { 0, 0 };
			float keep = p[k];
			for (int side = 0; side < 2; side++) {
				p[k] = keep + (side ? 0.125f : -0.125f);
				ck_ok(lora_adapter_tensor_write(adapter[0], t, p, info.bytes));
				ck_ok(lora_linear_forward(model, &a));
				for (int i = 0; i < N * OUT; i++) f[side] += (double)dy[i] * y[i];
			}
			p[k] = keep;
			ck_ok(lora_adapter_tensor_write(adapter[0], t, p, info.bytes));
			if (strstr(info.name, "fc1")) ck_assert_double_eq_tol((f[1] - f[0]) / 0.25, g[k], 2e-3);
			else ck_assert(g[k] == 0.0f); /* a site that was not called */
		}
	}
	end();
}
END_TEST

/* The same key gives the same mask in forward and backward, whatever the split of the rows. */
START_TEST(dropout)
{
	float x[N * IN], y[N * OUT] = { 0 }, y2[N * OUT] = { 0 }, dy[N * OUT], dx[N * IN];
	begin("naive", 0.5);
	fill(x, N * IN, 3), fill(dy, N * OUT, 8);
	lora_linear_args a = { .struct_size = sizeof a, .flags = LORA_LINEAR_TRAIN, .n_rows = N, .x = x, .x_stride = IN, .y = y, .y_stride = OUT, .dy = dy,
		.dy_stride = OUT, .dx = dx, .dx_stride = IN, .dropout_key = 9 };
	ck_ok(lora_linear_forward(model, &a));
	ck_ok(lora_linear_backward(model, &a));
	/* y is linear in x for a fixed mask: <dy, y(x)> = <dx, x> */
	double left = 0, right = 0;
	for (int i = 0; i < N * OUT; i++) left += (double)dy[i] * y[i];
	for (int i = 0; i < N * IN; i++) right += (double)dx[i] * x[i];
	ck_assert_double_eq_tol(left, right, 1e-3 * (1 + fabs(left)));
	a.y = y2, a.dropout_key = 10;
	ck_ok(lora_linear_forward(model, &a));
	ck_assert(memcmp(y, y2, sizeof y) != 0);
	end();
}
END_TEST

START_TEST(misuse)
{
	float x[N * IN] = { 0 }, y[N * OUT] = { 0 };
	int32_t assign[N] = { 0, 0, 1, -1, 2, 1, 0 };
	begin("naive", 0.0);
	lora_linear_args good = { .struct_size = sizeof good, .flags = LORA_LINEAR_BASE, .n_rows = N, .x = x, .x_stride = IN, .y = y, .y_stride = OUT }, a = good;
	ck_ok(lora_linear_forward(model, &a));
	ck_assert_int_eq(lora_linear_forward(NULL, &a), LORA_E_ARGUMENT);
	ck_assert_int_eq(lora_linear_forward(model, NULL), LORA_E_ARGUMENT);
	a.x_stride = IN - 1;
	ck_assert_int_eq(lora_linear_forward(model, &a), LORA_E_SHAPE);
	a = good, a.y_stride = INT64_MAX / 2;
	ck_assert_int_eq(lora_linear_forward(model, &a), LORA_E_SHAPE);
	a = good, a.site = 2;
	ck_assert_int_eq(lora_linear_forward(model, &a), LORA_E_ARGUMENT);
	a = good, a.flags = 64;
	ck_assert_int_eq(lora_linear_forward(model, &a), LORA_E_ARGUMENT);
	a = good, a.y = NULL;
	ck_assert_int_eq(lora_linear_forward(model, &a), LORA_E_ARGUMENT);
	a = good, a.workspace = x, a.workspace_bytes = 8;
	ck_assert_int_eq(lora_linear_forward(model, &a), LORA_E_SHAPE);
	a = good, a.n_rows = (int64_t)1 << 31;
	ck_assert_int_eq(lora_linear_forward(model, &a), LORA_E_LIMIT);
	a = good, a.n_rows = 0, a.x = NULL, a.y = NULL;
	ck_ok(lora_linear_forward(model, &a));
	lora_rows *rows = (lora_rows *)1;
	ck_assert_int_eq(lora_rows_create(model, adapter, 2, assign, N, &rows), LORA_E_ARGUMENT);
	ck_assert_ptr_null(rows);
	assign[4] = 1;
	ck_ok(lora_rows_create(model, adapter, 2, assign, N, &rows));
	a = good, a.rows = rows, a.n_rows = N - 1;
	ck_assert_int_eq(lora_linear_forward(model, &a), LORA_E_SHAPE);
	ck_ok(lora_adapter_merge(adapter[0], NULL));
	a = good, a.dy = y, a.dy_stride = OUT;
	ck_assert_int_eq(lora_linear_backward(model, &a), LORA_E_STATE);
	lora_rows_destroy(rows);
	end();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("linear");
	TCase *t = tcase_create("linear");
	tcase_add_loop_test(t, against_loops, 0, 32);
	tcase_add_test(t, parameter_gradients);
	tcase_add_test(t, dropout);
	tcase_add_test(t, misuse);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
