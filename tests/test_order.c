/* The order of multiplications: the choice from shapes, and that all orders give the same outputs and gradients. */
#include <check.h>

#include "check_alloc.h"
#include "golden.h"
#include "train/train.h"

/* ---- the choice ---- */

static const struct { int64_t rows, in, out, rank; int fixed, no_dx, forward, backward; } choices[] = {
	{ 1, 576, 576, 16, 0, 0, 1, 1 },       /* one row: forming M would cost the whole product again */
	{ 256, 576, 576, 16, 0, 0, 1, 1 },
	{ 2048, 576, 576, 16, 0, 0, 2, 5 },    /* many rows: M is the cheaper one */
	{ 1024, 576, 4096, 16, 0, 0, 2, 1 },   /* few inputs: F2; many outputs: dx = dy W + z A stays */
	{ 1024, 4096, 576, 16, 0, 0, 1, 5 },
	{ 2048, 576, 576, 16, LORA_ORDER_PACKED, 0, 1, 1 },
	{ 2048, 576, 576, 16, LORA_ORDER_DROPOUT, 0, 1, 1 },
	{ 2048, 576, 576, 16, 0, 1, 2, 1 },    /* nothing to save when dx is not wanted */
	{ 32768, 2048, 5632, 64, 0, 0, 2, 5 },
};

START_TEST(chooses)
{
	for (size_t i = 0; i < sizeof choices / sizeof *choices; i++) {
		lora__order_case c = { .rows = choices[i].rows, .in = choices[i].in, .out = choices[i].out, .rank = choices[i].rank, .real_bytes = 4, .weight_bytes = 4,
			.fixed = choices[i].fixed, .no_dx = choices[i].no_dx };
		lora__order o = lora__order_choose(&c);
		ck_assert_msg(o.forward == choices[i].forward && o.backward == choices[i].backward, "case %zu: F%d B%d", i, o.forward, o.backward);
	}
}
END_TEST

/* FLOPs of RunLoRA's table (S kept from F1), and that more rows only ever lead to the forms with M. */
START_TEST(counts_and_is_monotone)
{
	lora__order_case c = { .rows = 1000, .in = 300, .out = 200, .rank = 8, .real_bytes = 4, .weight_bytes = 2 };
	lora__order o = lora__order_choose(&c);
	double n = 1000, k = 300, m = 200, r = 8;
	ck_assert_double_eq(o.flops_forward[0], 2 * n * k * m + 2 * n * k * r + 2 * n * r * m);
	ck_assert_double_eq(o.flops_forward[1], 2 * k * r * m + 2 * n * k * m);
	double s = o.forward == 2 ? 2 * n * k * r : 0;
	ck_assert_double_eq(o.flops_backward[0], 2 * n * k * m + 4 * n * m * r + 4 * n * k * r + s);
	ck_assert_double_eq(o.flops_backward[1], 2 * n * k * m + 4 * n * m * r + 2 * n * k * r + 2 * k * m * r + s);
	int forward = 1, backward = 1;
	for (c.rows = 1; c.rows < 5000; c.rows++) {
		o = lora__order_choose(&c);
		ck_assert(o.forward >= forward && o.backward >= backward);
		forward = o.forward, backward = o.backward;
	}
	ck_assert(forward == 2 && backward == 5);
}
END_TEST

/* ---- the same results ---- */

typedef struct result { float *y, *dx, *grad; size_t n_grad; } result;

enum { ROWS = 400, IN = 48, OUT = 40 };

/* One forward and backward of the site with the orders of training, or the plain ones. */
static result compute(lora_model *m, lora_adapter *a, int train, double beta, const float *x, const float *dy)
{
	lora__site *s = m->s.list[0];
	size_t scratch = lora__site_scratch_bytes(s, LORA_F32, ROWS), saved = lora__site_saved_bytes(s, LORA_F32, ROWS);
	result r = { malloc(sizeof(float) * ROWS * OUT), malloc(sizeof(float) * ROWS * IN), NULL, a->n_params };
	char *work = lora__zalloc(golden_ctx, scratch + saved);
	ck_assert(work != NULL);
	for (int i = 0; i < ROWS * IN; i++) r.dx[i] = 0.25f;
	ck_ok(lora__site_prepare(s));
	lora__adapter_clear_grads(a);
	lora__site_call c = { .ctx = golden_ctx, .real = LORA_F32, .n = ROWS, .x = lora__view2(x, LORA_F32, ROWS, IN, IN), .y = lora__view2(r.y, LORA_F32, ROWS, OUT, OUT),
		.dy = lora__view2(dy, LORA_F32, ROWS, OUT, OUT), .dx = lora__view2(r.dx, LORA_F32, ROWS, IN, IN), .dx_beta = beta, .saved = work + scratch,
		.saved_rows = ROWS, .scratch = work, .train = train };
	ck_ok(lora__site_forward(s, &c, (lora__runs){ NULL, 0 }, 1));
	ck_ok(lora__site_backward(s, &c, (lora__runs){ NULL, 0 }, 1));
	r.grad = malloc(sizeof(float) * r.n_grad);
	memcpy(r.grad, a->grads, sizeof(float) * r.n_grad);
	lora__free(golden_ctx, work);
	return r;
}

static void compare(const char *what, const float *a, const float *b, size_t n)
{
	double worst = 0, most = 0;
	for (size_t i = 0; i < n; i++) worst = fmax(worst, fabs((double)a[i] - (double)b[i])), most = fmax(most, fabs((double)b[i]));
	ck_assert_msg(worst <= 2e-6 * most, "%s: off by %g of %g", what, worst, most);
}

static const struct { const char *settings; int other, transposed; double beta; } runs_of[] = {
	{ "{\"r\":4,\"init_lora_weights\":false}", 1, 0, 0 },
	{ "{\"r\":4,\"init_lora_weights\":false,\"lora_alpha\":-3}", 1, 0, 1 },
	{ "{\"r\":4,\"init_lora_weights\":false}", 1, 1, 0 },
	{ "{\"r\":4,\"init_lora_weights\":false,\"lora_dropout\":0.5}", 0, 0, 0 }, /* dropout: there is no other order */
};

START_TEST(orders_agree)
{
	lora_model *m;
	lora_adapter *a;
	float *w = malloc(sizeof(float) * IN * OUT), *x = malloc(sizeof(float) * ROWS * IN), *dy = malloc(sizeof(float) * ROWS * OUT);
	uint64_t seed = 5;
	for (int i = 0; i < IN * OUT; i++) w[i] = (float)(check_random(&seed) >> 40) * 0x1p-24f - 0.5f;
	for (int i = 0; i < ROWS * IN; i++) x[i] = (float)(check_random(&seed) >> 40) * 0x1p-24f - 0.5f;
	for (int i = 0; i < ROWS * OUT; i++) dy[i] = (float)(check_random(&seed) >> 40) * 0x1p-24f - 0.5f;
	golden_context("naive", 2);
	lora_site_info d = { .struct_size = sizeof d, .dtype = LORA_F32, .name = "block.0.proj", .out = OUT, .in = IN, .data = w, .layer = -1,
		.flags = runs_of[_i].transposed ? LORA_SITE_TRANSPOSED : 0 };
	ck_ok(lora_model_create(golden_ctx, &m));
	ck_ok(lora_model_add_site(m, &d, NULL));
	m->s.list[0]->flags &= ~(uint32_t)LORA_SITE_HOST; /* as a weight of the library's */
	lora_settings *s;
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_from_json(s, runs_of[_i].settings, strlen(runs_of[_i].settings)));
	ck_ok(lora_settings_set_string(s, "target_modules", "all-linear"));
	ck_ok(lora_adapter_create(m, "lora", s, &a));
	ck_ok(lora_adapter_attach(a, 0.7));
	lora__order o = lora__site_order(m->s.list[0], golden_ctx, LORA_F32, ROWS, 4, NULL);
	ck_assert(o.forward == 2 && o.backward == 5);
	result plain = compute(m, a, 0, runs_of[_i].beta, x, dy);
	if (runs_of[_i].other) {
		result other = compute(m, a, 1, runs_of[_i].beta, x, dy);
		compare("y", other.y, plain.y, (size_t)ROWS * OUT);
		compare("dx", other.dx, plain.dx, (size_t)ROWS * IN);
		compare("gradients", other.grad, plain.grad, plain.n_grad);
		ck_assert_msg(memcmp(other.y, plain.y, sizeof(float) * ROWS * OUT) != 0, "the other order did not run");
		free(other.y), free(other.dx), free(other.grad);
	}
	free(plain.y), free(plain.dx), free(plain.grad);
	lora_settings_destroy(s);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
	free(w), free(x), free(dy);
}
END_TEST

/* ---- what the public function tells ---- */

START_TEST(tells)
{
	lora_model *m;
	lora_site_order o = { .struct_size = sizeof o };
	golden_context("naive", 1);
	ck_ok(lora_model_open(golden_ctx, "tests/golden/models/llama/model", NULL, &m));
	ck_ok(lora_model_site_order(m, 0, 4096, 4, 0, &o));
	ck_assert(o.forward == 2 && o.backward == 5 && o.fixed == 0 && o.flops_forward[1] < o.flops_forward[0] && o.flops_backward[1] < o.flops_backward[0]);
	ck_ok(lora_model_site_order(m, 0, 4096, 4, 1, &o));
	ck_assert(o.forward == 1 && o.backward == 1 && o.fixed == LORA_ORDER_DROPOUT);
	ck_ok(lora_model_site_order(m, 0, 1, 4, 0, &o));
	ck_assert(o.forward == 1 && o.backward == 1 && o.fixed == 0);
	ck_ok(lora_model_site_order(m, lora_model_site_count(m) - 1, 4096, 4, 0, &o));
	ck_assert_int_eq(o.fixed, LORA_ORDER_HEAD);
	check_fails(LORA_E_ARGUMENT, lora_model_site_order(NULL, 0, 1, 1, 0, &o));
	check_fails(LORA_E_ARGUMENT, lora_model_site_order(m, -1, 1, 1, 0, &o));
	check_fails(LORA_E_ARGUMENT, lora_model_site_order(m, lora_model_site_count(m), 1, 1, 0, &o));
	check_fails(LORA_E_ARGUMENT, lora_model_site_order(m, 0, 0, 1, 0, &o));
	check_fails(LORA_E_ARGUMENT, lora_model_site_order(m, 0, 1, 0, 0, &o));
	check_fails(LORA_E_ARGUMENT, lora_model_site_order(m, 0, 1, 1, 0, NULL));
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("order");
	TCase *t = tcase_create("order");
	tcase_add_test(t, chooses);
	tcase_add_test(t, counts_and_is_monotone);
	tcase_add_loop_test(t, orders_agree, 0, sizeof runs_of / sizeof *runs_of);
	tcase_add_test(t, tells);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
