/* Every primitive on every backend that is found, against an oracle in double (tests/backend/): odd, empty and one-sized shapes, strides, dtypes,
 * guards around every array, NaN in outputs that must not be read, the same bits for any number of threads (naive) and for a second run. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "backend/cases.h"
#include "backend/naive/naive.h"
#include "backend/plugin.h"

static const char *plugin_dir(void)
{
	static char path[1200];
	static const char *const places[] = { "../lib/lora", "../../../lib/lora" };
	char exe[1024];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
	if (n <= 0) return NULL;
	exe[n] = 0;
	*strrchr(exe, '/') = 0;
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof path, "%s/%s", exe, places[i]);
		if (!access(path, R_OK)) return path;
	}
	return "no-such-folder";
}

static lora_context *context(const char *backend, int threads)
{
	lora_context_options o;
	lora_error e = { .struct_size = sizeof e };
	lora_context *ctx = NULL;
	lora_context_options_init(&o, sizeof o);
	o.backend = backend, o.threads = threads, o.plugin_dir = plugin_dir(), o.error = &e;
	lora_status st = lora_context_create(LORA_ABI, &o, &ctx);
	ck_assert_msg(st == LORA_OK, "%s: %s", backend, e.message);
	return ctx;
}

static int packed_runs; /* products with packed weights alone */

/* Run on one context; compare with the oracle. */
static void run_and_verify(lora_context *ctx, test_case *t, lora_prim prim, lora_dtype real, int v)
{
	char why[256];
	case_reset(t);
	lora_status st = lora__run(ctx, &t->call);
	ck_assert_msg(st == LORA_OK, "prim %d variant %d %s: %s", prim, v, t->what, lora_context_last_error(ctx));
	ck_assert_msg(case_verify(t, lora__wide(real), why, sizeof why), "%s, %d threads, prim %d, real %s, variant %d (%s): %s", lora_context_backend_name(ctx),
	              lora_context_threads(ctx), prim, lora__dtype_name(real), v, t->what, why);
}

static void keep(const test_case *t, unsigned char **copy)
{
	for (int i = 0; i < 12; i++)
		if (t->a[i].is_out) {
			free(copy[i]);
			copy[i] = malloc(t->a[i].bytes);
			memcpy(copy[i], t->a[i].mem, t->a[i].bytes);
		}
}

static int same(const test_case *t, unsigned char **copy)
{
	for (int i = 0; i < 12; i++)
		if (t->a[i].is_out && memcmp(copy[i], t->a[i].mem, t->a[i].bytes)) return 0;
	return 1;
}

/* Where naive's copies may differ by the roundings that a fused multiply-add leaves out: products, and what calls exp. */
static int fused(lora_prim p)
{
	return p == LORA_PRIM_LOWRANK || p == LORA_PRIM_GEMM || p == LORA_PRIM_ATTENTION || p == LORA_PRIM_ATTENTION_BWD || p == LORA_PRIM_GATED || p == LORA_PRIM_GATED_BWD ||
	       p == LORA_PRIM_XENT;
}

/* naive's loops for lesser instruction sets: right, and the same bits. */
static void other_copies(lora_context *ctx, test_case *t, lora_prim prim, lora_dtype real, int v, unsigned char **copy)
{
	lora__naive *self = ctx->naive_self;
	int32_t best = self->isa;
	for (self->isa = 0; self->isa < best; self->isa++) {
		run_and_verify(ctx, t, prim, real, v);
		ck_assert_msg(fused(prim) || same(t, copy), "prim %d variant %d (%s): instruction set %d gives other bits than %d", prim, v, t->what, (int)self->isa, (int)best);
	}
}

/* GEMM with B packed, and with B's own data out of reach where the backend takes that. */
static void walk_packed(lora_context *ctx, test_case *t, lora_prim prim, lora_dtype real, int v)
{
	const lora_backend_v1 *b = ctx->backend;
	void *packed = NULL;
	uint64_t bytes = 0;
	if (prim != LORA_PRIM_GEMM || !b->weight_pack || !t->call.v[2].size[0] || !t->call.v[2].size[1]) return;
	case_reset(t);
	lora_dtype type = t->call.v[1].dtype;
	lora_status st = b->weight_pack_as ? b->weight_pack_as(ctx->backend_self, &t->call.v[2], type, &packed, &bytes)
	                                   : b->weight_pack(ctx->backend_self, &t->call.v[2], &packed, &bytes);
	if (st) {
		ck_assert_msg(st == LORA_E_UNSUPPORTED, "packing for %s: %s", t->what, lora_context_last_error(ctx));
		return;
	}
	void *data = t->call.v[2].data;
	uint64_t elements = (uint64_t)(t->call.v[2].size[0] * t->call.v[2].size[1]);
	ck_assert_msg(bytes >= elements * 2, "%s: %llu bytes of packed weights", t->what, (unsigned long long)bytes);
	t->call.packed = packed;
	if (b->supports(ctx->backend_self, &t->call, NULL)) run_and_verify(ctx, t, prim, real, v);
	t->call.v[2].data = NULL;
	if (b->supports(ctx->backend_self, &t->call, NULL)) run_and_verify(ctx, t, prim, real, v), packed_runs++;
	t->call.v[2].data = data, t->call.packed = NULL;
	b->weight_free(ctx->backend_self, packed);
}

static void walk(const char *backend, lora_prim prim, lora_dtype real, int any_threads_equal)
{
	static const int threads[] = { 1, 2, 7 };
	unsigned char *copy[12] = { 0 };
	lora_context *ctx[3];
	test_case t;
	for (int i = 0; i < 3; i++) ctx[i] = context(backend, threads[i]);
	int many = prim == LORA_PRIM_GEMM || prim == LORA_PRIM_COPY; /* hundreds of variants; 11 shares no factor with their tables */
	for (int v = 0, step = many && getenv("LORA_QUICK") ? 11 : 1; case_make(&t, prim, real, v); v += step) {
		const char *reason = NULL;
		int takes = ctx[0]->backend->supports(ctx[0]->backend_self, &t.call, &reason);
		ck_assert_msg(takes || reason, "%s refuses prim %d without a reason", backend, prim);
		ck_assert_msg(takes || strcmp(backend, "naive"), "naive refuses prim %d variant %d (%s): %s", prim, v, t.what, reason);
		for (int i = 0; i < 3 && takes; i++) {
			run_and_verify(ctx[i], &t, prim, real, v);
			if (i && any_threads_equal) ck_assert_msg(same(&t, copy), "prim %d variant %d (%s): %d threads give other bits", prim, v, t.what, threads[i]);
			keep(&t, copy);
			case_reset(&t);
			check_ok(ctx[i], lora__run(ctx[i], &t.call));
			ck_assert_msg(same(&t, copy), "%s: prim %d variant %d: a second run gives other bits", backend, prim, v);
		}
		if (any_threads_equal) other_copies(ctx[0], &t, prim, real, v, copy);
		for (int i = 0; i < 3; i++) walk_packed(ctx[i], &t, prim, real, v);
		case_free(&t);
	}
	for (int i = 0; i < 12; i++) free(copy[i]);
	for (int i = 0; i < 3; i++) lora_context_destroy(ctx[i]);
}

START_TEST(naive_f32) { walk("naive", _i, LORA_F32, 1); }
END_TEST
START_TEST(naive_f64) { walk("naive", _i, LORA_F64, 1); }
END_TEST

START_TEST(naive_bf16) { walk("naive", _i, LORA_BF16, 1); }
END_TEST

/* Backward primitives with BF16 activations against the same in F32: the cases of a number differ by the rounding of their inputs only. */
START_TEST(bf16_gradients)
{
	static const lora_prim prims[] = { LORA_PRIM_RMSNORM_BWD, LORA_PRIM_ROPE, LORA_PRIM_ATTENTION_BWD, LORA_PRIM_GATED_BWD, LORA_PRIM_LAYERNORM_BWD };
	lora_context *ctx = context("naive", 2);
	double dot[12] = { 0 }, f[12] = { 0 }, h[12] = { 0 };
	test_case a, b;
	for (int v = 0; case_make(&a, prims[_i], LORA_F32, v); v++, case_free(&a), case_free(&b)) {
		ck_assert(case_make(&b, prims[_i], LORA_BF16, v));
		case_reset(&a), case_reset(&b);
		check_ok(ctx, lora__run(ctx, &a.call));
		check_ok(ctx, lora__run(ctx, &b.call));
		for (int i = 0; i < a.call.n_views; i++)
			for (int64_t r = 0; a.a[i].is_out && r < a.call.v[i].size[0]; r++)
				for (int64_t c = 0; c < a.call.v[i].size[1]; c++) {
					double x = case_now(&a, i, r, c), y = case_now(&b, i, r, c);
					dot[i] += x * y, f[i] += x * x, h[i] += y * y;
				}
	}
	for (int i = 0; i < 12; i++)
		if (f[i] > 0) ck_assert_msg(dot[i] >= 0.999 * sqrt(f[i] * h[i]), "prim %d, view %d: cosine %.6f", prims[_i], i, dot[i] / sqrt(f[i] * h[i]));
	ck_assert(f[0] > 0);
	lora_context_destroy(ctx);
}
END_TEST

/* XENT on BF16 logits: loss and gradient of the widened logits, the gradient rounded. */
START_TEST(xent_halves)
{
	enum { N = 3, V = 1030, PITCH = 1040 };
	static float full[N * PITCH];
	static uint16_t half[N * PITCH];
	int32_t label[N] = { 5, -1, V - 1 };
	double loss[2][N];
	lora_context *ctx = context("naive", 2);
	for (int cap = 0; cap < 2; cap++) {
		for (int i = 0; i < N * PITCH; i++) half[i] = lora__f32_to_bf16((float)(sin(i * 0.7) * 6)), full[i] = lora__bf16_to_f32(half[i]);
		for (int k = 0; k < 2; k++) {
			lora_call c = { .struct_size = sizeof c, .prim = LORA_PRIM_XENT, .n_views = 3, .i = { 1 }, .f = { 0.25, cap * 3.0 } };
			c.v[0] = lora__view2(k ? (void *)half : (void *)full, k ? LORA_BF16 : LORA_F32, N, V, PITCH);
			c.v[1] = lora__view1(label, LORA_I32, N), c.v[2] = lora__view1(loss[k], LORA_F64, N);
			check_ok(ctx, lora__run(ctx, &c));
		}
		for (int i = 0; i < N; i++) {
			ck_assert_double_eq(loss[0][i], loss[1][i]);
			for (int j = 0; j < V; j++)
				ck_assert_msg(half[i * PITCH + j] == lora__f32_to_bf16(full[i * PITCH + j]), "row %d column %d: %04x, wanted %g", i, j, half[i * PITCH + j], (double)full[i * PITCH + j]);
		}
	}
	lora_context_destroy(ctx);
}
END_TEST

static void put(void *to, lora_dtype type, int64_t i, float v) { lora__convert((char *)to + i * (int64_t)lora__dtype_size(type), type, &v, LORA_F32, 1); }

/* F32 by a weight of F32 or BF16: a product with a permutation gives back every bit, either way round, added to what is there or not, with the edges of
 * blocks; and the error of a product of random numbers is that of plain F32 sums. */
START_TEST(f32_products)
{
	enum { M = 77, N = 90, K = 1700 };
	lora_dtype type = _i % 2 ? LORA_BF16 : LORA_F32;
	int turned = _i / 2;
	lora_context *ctx = context("naive", 2);
	lora__naive *self = ctx->naive_self;
	float *a = malloc(sizeof *a * M * K), *b = calloc(K * N, sizeof *b), *c = malloc(sizeof *c * M * N), *lora_a = malloc(sizeof *a * M * 16), *lora_b = malloc(sizeof *a * 16 * N);
	uint64_t seed = 11;
	lora_call call = { .struct_size = sizeof call, .prim = LORA_PRIM_GEMM, .n_views = 3, .f = { 1 } };
	call.v[0] = lora__view2(c, LORA_F32, M, N, N), call.v[1] = lora__view2(a, LORA_F32, M, K, K);
	call.v[2] = turned ? lora__view_t(lora__view2(b, type, N, K, K)) : lora__view2(b, type, K, N, N);
	for (int i = 0; i < M * K; i++) a[i] = ldexpf((float)(check_random(&seed) >> 40) * 0x1p-23f - 1, (int)(check_random(&seed) % 150) - 60);
	for (int j = 0; j < N; j++) put(b, type, turned ? j * K + (j * 37 + 5) % K : (j * 37 + 5) % K * N + j, 1);
	check_ok(ctx, lora__run(ctx, &call));
	for (int i = 0; i < M; i++)
		for (int j = 0; j < N; j++) ck_assert_msg(c[i * N + j] == a[i * K + (j * 37 + 5) % K], "row %d, column %d: %a for %a", i, j, (double)c[i * N + j], (double)a[i * K + (j * 37 + 5) % K]);
	for (int i = 0; i < M * K; i++) a[i] = (float)(check_random(&seed) >> 40) * 0x1p-23f - 1;
	for (int i = 0; i < K * N; i++) put(b, type, i, (float)(check_random(&seed) >> 40) * 0x1p-23f - 1);
	for (int i = 0; i < M * 16; i++) lora_a[i] = (float)(check_random(&seed) >> 40) * 0x1p-21f - 4;
	for (int i = 0; i < N * 16; i++) lora_b[i] = (float)(check_random(&seed) >> 40) * 0x1p-21f - 4;
	call.n_views = 5, call.f[2] = 0.75;
	call.v[3] = lora__view2(lora_a, LORA_F32, M, 16, 16), call.v[4] = turned ? lora__view_t(lora__view2(lora_b, LORA_F32, N, 16, 16)) : lora__view2(lora_b, LORA_F32, 16, N, N);
	double error[2] = { 0 };
	int32_t best = self->isa;
	for (int copy = 0; copy < 2; copy++) {
		self->isa = copy ? best : 0;
		check_ok(ctx, lora__run(ctx, &call));
		for (int i = 0; i < M; i++)
			for (int j = 0; j < N; j++) {
				double sum = 0;
				for (int k = 0; k < K; k++) {
					float w;
					lora__convert(&w, LORA_F32, lora__at(&call.v[2], k, j), type, 1);
					sum += (double)a[i * K + k] * (double)w;
				}
				for (int k = 0; k < 16; k++) sum += 0.75 * (double)lora_a[i * 16 + k] * (double)*(float *)lora__at(&call.v[4], k, j);
				error[copy] += ((double)c[i * N + j] - sum) * ((double)c[i * N + j] - sum);
			}
	}
	ck_assert_msg(error[1] <= 1.5 * error[0] && error[1] > 0, "squared error %g, plain sums have %g", error[1], error[0]);
	free(a), free(b), free(c), free(lora_a), free(lora_b);
	lora_context_destroy(ctx);
}
END_TEST

/* A call of F32 that says that numbers rounded to BF16 will do: that far from the product, the same for any threads, and nothing else changes. */
START_TEST(rounded_products)
{
	enum { M = 130, N = 90, K = 1700, R = 16 };
	lora_dtype type = _i ? LORA_F64 : LORA_F32;
	size_t each = lora__dtype_size(type);
	char *c[3] = { malloc(each * M * N), malloc(each * M * N), malloc(each * M * N) }, *in[4];
	const int64_t size[4][2] = { { M, K }, { K, N }, { M, R }, { R, N } };
	uint64_t seed = 12;
	double worst = 0;
	lora_call call = { .struct_size = sizeof call, .prim = LORA_PRIM_GEMM, .n_views = 5, .f = { 0.5, 2, 0.75 } };
	for (int k = 0; k < 4; k++) {
		in[k] = malloc(each * (size_t)(size[k][0] * size[k][1]));
		for (int64_t i = 0; i < size[k][0] * size[k][1]; i++) put(in[k], type, i, (float)(check_random(&seed) >> 40) * 0x1p-23f - 1);
		call.v[k + 1] = lora__view2(in[k], type, size[k][0], size[k][1], size[k][1]);
	}
	for (int t = 0; t < 3; t++) { /* as the types say; the hint with one thread and with two */
		lora_context *ctx = context("naive", t == 2 ? 2 : 1);
		for (int i = 0; i < M * N; i++) put(c[t], type, i, (float)(i % 7) - 3);
		call.i[0] = t > 0, call.v[0] = lora__view2(c[t], type, M, N, N);
		check_ok(ctx, lora__run(ctx, &call));
		lora_context_destroy(ctx);
	}
	ck_assert_mem_eq(c[1], c[2], each * M * N);
	if (type == LORA_F64) ck_assert_mem_eq(c[0], c[1], each * M * N);
	for (int i = 0; i < M && type == LORA_F32; i++)
		for (int j = 0; j < N; j++) {
			double sum = 0, gap = (double)((float *)(void *)c[1])[i * N + j] - (double)((float *)(void *)c[0])[i * N + j];
			for (int k = 0; k < K; k++) sum += 0.5 * fabs((double)*(float *)lora__at(&call.v[1], i, k) * (double)*(float *)lora__at(&call.v[2], k, j));
			for (int k = 0; k < R; k++) sum += 0.75 * fabs((double)*(float *)lora__at(&call.v[3], i, k) * (double)*(float *)lora__at(&call.v[4], k, j));
			worst = fmax(worst, fabs(gap) / sum);
		}
	ck_assert_double_lt(worst, 0x1p-7); /* 2^-9 for each of two numbers, and a third for what f2 is multiplied with */
	if (type == LORA_F32 && lora__bf16_ready()) ck_assert_double_gt(worst, 1e-5);
	for (int k = 0; k < 4; k++) free(in[k]);
	for (int t = 0; t < 3; t++) free(c[t]);
}
END_TEST

/* Products with a deep packed B: every slice of it counts, rows of A apart, added to what is there, many parts. */
static void deep_products(lora_context *ctx)
{
	enum { M = 300, N = 70, MOST = 16447, APART = 9 };
	static const int64_t depths[] = { 8191, 8192, 11904, MOST };
	const lora_backend_v1 *b = ctx->backend;
	float *x = malloc(sizeof *x * M * (MOST + APART)), *w = malloc(sizeof *w * N * MOST), *c = malloc(sizeof *c * 2 * M * N), *again = c + M * N;
	uint64_t seed = 7;
	for (int64_t i = 0; i < (int64_t)M * (MOST + APART); i++) x[i] = (float)(check_random(&seed) >> 40) * 0x1p-23f - 1;
	for (int64_t i = 0; i < (int64_t)N * MOST; i++) w[i] = (float)(check_random(&seed) >> 40) * 0x1p-23f - 1;
	for (int t = 0; t < 8; t++) {
		int64_t k = depths[t / 2];
		lora_call call = { .struct_size = sizeof call, .prim = LORA_PRIM_GEMM, .n_views = 3, .f = { 0.5, t % 2 } };
		call.v[0] = lora__view2(c, LORA_F32, M, N, N), call.v[1] = lora__view2(x, LORA_F32, M, k, k + APART);
		call.v[2] = t < 4 ? lora__view2(w, LORA_F32, k, N, N) : lora__view_t(lora__view2(w, LORA_F32, N, k, k));
		void *packed = NULL;
		ck_assert_int_eq(b->weight_pack(ctx->backend_self, &call.v[2], &packed, NULL), LORA_OK);
		call.packed = packed;
		for (int run = 0; run < 2; run++) {
			for (int i = 0; i < M * N; i++) c[i] = 3;
			check_ok(ctx, lora__run(ctx, &call));
			if (!run) memcpy(again, c, sizeof *c * M * N);
		}
		ck_assert_msg(!memcmp(again, c, sizeof *c * M * N), "depth %d: a second run gives other bits", (int)k);
		for (int i = 0; i < M; i += 13)
			for (int j = 0; j < N; j++) {
				double sum = t % 2 ? 3 : 0, mag = 3;
				for (int64_t e = 0; e < k; e++) {
					double p = 0.5 * (double)x[i * (k + APART) + e] * (double)(t < 4 ? w[e * N + j] : w[j * k + e]);
					sum += p, mag += fabs(p);
				}
				ck_assert_msg(fabs((double)c[i * N + j] - sum) <= 0x1p-24 * 64 * mag, "depth %d, row %d, column %d: %g, wanted %g", (int)k, i, j, (double)c[i * N + j], sum);
			}
		b->weight_free(ctx->backend_self, packed);
	}
	free(x), free(w), free(c);
}

START_TEST(plugins)
{
	char names[LORA__PLUGIN_MAX][LORA__PLUGIN_NAME];
	lora_context *ctx = context("naive", 1);
	int n = lora__plugin_scan(ctx, names);
	if (!n) fprintf(stderr, "no plug-ins in %s: only naive is tested\n", ctx->plugin_dir);
	for (int i = 0; i < n; i++) {
		if (lora__backend_select(ctx, names[i])) { /* can't run here */
			fprintf(stderr, "%s\n", lora_context_last_error(ctx));
			continue;
		}
		for (lora_prim p = 1; p < LORA_PRIM_COUNT; p++)
			for (int real = 0; real < 2; real++) walk(names[i], p, real ? LORA_F64 : LORA_F32, 0);
		packed_runs = 0;
		walk(names[i], LORA_PRIM_GEMM, LORA_BF16, 0);
		const lora_backend_v1 *b = ctx->backend;
		if (b->weight_pack) ck_assert_msg(packed_runs > 0, "%s packs weights, but takes no product with them", names[i]);
		lora_context *two = b->weight_pack ? context(names[i], 2) : NULL;
		if (two) deep_products(two);
		lora_context_destroy(two);
	}
	lora_context_destroy(ctx);
}
END_TEST

/* Bounds of the vectorised float functions that comments promise, over all of float in steps. */
START_TEST(float_functions)
{
	enum { N = 4096 };
	static float g[N], h[N], ones[N];
	lora_context *ctx = context("naive", 1);
	double worst = 0, at = 0, phi = 0, tail = 0, slope = 0;
	for (int i = 0; i < N; i++) ones[i] = 1;
	/* softmax of a pair (0, x) gives exp(x) / (1 + exp(x)); XENT's loss gives log(1 + exp(x)): exp is seen through silu and both. */
	for (uint32_t base = 0; base < 0x42b00000u; base += N * 16 * 97) {
		for (int i = 0; i < N; i++) {
			uint32_t u = base + (uint32_t)i * 16 * 97 / 4;
			memcpy(&g[i], &u, 4);
			if (i % 2) g[i] = -g[i];
		}
		lora_call c = { .struct_size = sizeof c, .prim = LORA_PRIM_GATED, .n_views = 2, .i = { LORA_ACT_SILU } };
		c.v[0] = lora__view2(h, LORA_F32, 1, N, N), c.v[1] = lora__view2(g, LORA_F32, 1, N, N);
		check_ok(ctx, lora__run(ctx, &c));
		for (int i = 0; i < N; i++) {
			double x = g[i], want = x / (1 + exp(-x)), ulp = fmax(fabs(want) * 0x1p-24, 0x1p-149), e = fabs((double)h[i] - want) / ulp;
			if (e > worst) worst = e, at = x;
		}
		c.i[0] = LORA_ACT_GELU;
		check_ok(ctx, lora__run(ctx, &c));
		for (int i = 0; i < N; i++) {
			double x = g[i], want = 0.5 * erfc(-x * sqrt(0.5)), e = fabs((double)h[i] - x * want) - 0x1p-149;
			phi = fmax(phi, e / fmax(fabs(x), 0x1p-126));
			if (fabs(x) <= 4) tail = fmax(tail, e / fmax(fabs(x), 0x1p-126) / want);
		}
		c.prim = LORA_PRIM_GATED_BWD, c.n_views = 5;
		c.v[2] = c.v[1], c.v[1] = (lora_view){ 0 }, c.v[4] = lora__view2(ones, LORA_F32, 1, N, N);
		check_ok(ctx, lora__run(ctx, &c));
		for (int i = 0; i < N; i++) {
			double x = g[i];
			slope = fmax(slope, fabs((double)h[i] - 0.5 * erfc(-x * sqrt(0.5)) - x * exp(-x * x / 2) * 0.3989422804014327));
		}
	}
	ck_assert_msg(worst < 10, "silu is off by %.3g half places at %.9g", worst, at);
	ck_assert_msg(phi < 2.5e-7 && tail < 8e-7 && slope < 4e-7, "gelu's Phi is off by %.3g, by %.3g of itself for |x| <= 4, gelu's slope by %.3g", phi, tail, slope);
	lora_context_destroy(ctx);
}
END_TEST

static int is_nan(const void *from, lora_dtype type, int64_t i)
{
	float v;
	lora__convert(&v, LORA_F32, (const char *)from + i * (int64_t)lora__dtype_size(type), type, 1);
	return isnan(v);
}

/* A NaN reaches what depends on it and nothing else: activations, the loss, and in causal attention the queries that see its key. */
START_TEST(nan_stays)
{
	enum { N = 80, D = 32, BAD = 37 };
	lora_dtype type = _i ? LORA_BF16 : LORA_F32;
	lora_context *ctx = context("naive", 1);
	static float q[N * D], k[N * D], v[N * D], out[N * D], lse[N], logits[2 * N];
	for (int64_t i = 0; i < N * D; i++) put(q, type, i, (float)(i % 7) * 0.1f), put(k, type, i, (float)(i % 5) * 0.1f), put(v, type, i, (float)(i % 3));
	put(k, type, BAD * D + 4, NAN);
	lora_call c = { .struct_size = sizeof c, .prim = LORA_PRIM_GATED, .n_views = 2, .i = { LORA_ACT_SILU } };
	c.v[0] = lora__view2(out, type, N, D, D), c.v[1] = lora__view2(k, type, N, D, D);
	check_ok(ctx, lora__run(ctx, &c));
	for (int64_t i = 0; i < N * D; i++) ck_assert_int_eq(is_nan(out, type, i), i == BAD * D + 4);
	int32_t seg[4] = { 0, N, 0, N }, labels[2] = { 3, 3 };
	c = (lora_call){ .struct_size = sizeof c, .prim = LORA_PRIM_ATTENTION, .n_views = 6, .v = { lora__view2(out, type, N, D, D), lora__view2(q, type, N, D, D), lora__view2(k, type, N, D, D),
		lora__view2(v, type, N, D, D), lora__view2(lse, LORA_F32, N, 1, 1), lora__view2(seg, LORA_I32, 1, 4, 4) }, .i = { 1, 1, D, 1, 0 }, .f = { 1 } };
	check_ok(ctx, lora__run(ctx, &c));
	for (int64_t i = 0; i < N * D; i++) ck_assert_msg(is_nan(out, type, i) == (i / D >= BAD), "query %d", (int)(i / D));
	double loss[2];
	for (int i = 0; i < 2 * N; i++) logits[i] = i == BAD ? NAN : (float)i;
	c = (lora_call){ .struct_size = sizeof c, .prim = LORA_PRIM_XENT, .n_views = 3, .v = { lora__view2(logits, LORA_F32, 2, N, N), lora__view1(labels, LORA_I32, 2), lora__view1(loss, LORA_F64, 2) } };
	check_ok(ctx, lora__run(ctx, &c));
	ck_assert(isnan(loss[0]) && !isnan(loss[1]));
	lora_context_destroy(ctx);
}
END_TEST

/* What must be refused, and leaves the output alone. */
START_TEST(refusals)
{
	lora_context *ctx = context("naive", 1);
	float x[64] = { 0 };
	int32_t ids[4] = { 0, 1, 2, 3 };
	lora_view a = lora__view2(x, LORA_F32, 4, 4, 4), i32 = lora__view1(ids, LORA_I32, 4), y = lora__view2(x + 32, LORA_F32, 4, 4, 4);
	lora_call c = { .struct_size = sizeof c, .prim = LORA_PRIM_GEMM, .n_views = 3, .v = { y, a, a }, .f = { 1, 0 } };
	check_ok(ctx, lora__run(ctx, &c));
	c.prim = 0; check_fails(LORA_E_UNSUPPORTED, lora__run(ctx, &c));
	c.prim = LORA_PRIM_COUNT; check_fails(LORA_E_UNSUPPORTED, lora__run(ctx, &c));
	c.prim = LORA_PRIM_GEMM, c.struct_size = 8; check_fails(LORA_E_VERSION, lora__run(ctx, &c));
	c.struct_size = sizeof c, c.n_views = 2; check_fails(LORA_E_ARGUMENT, lora__run(ctx, &c));
	c.n_views = 3, c.v[1].size[1] = 3; check_fails(LORA_E_SHAPE, lora__run(ctx, &c));
	c.v[1] = a, c.v[1].dtype = LORA_I32; check_fails(LORA_E_DTYPE, lora__run(ctx, &c));
	c.v[1] = a, c.v[1].dtype = 99; check_fails(LORA_E_DTYPE, lora__run(ctx, &c));
	c.v[1] = a, c.v[1].data = NULL; check_fails(LORA_E_ARGUMENT, lora__run(ctx, &c));
	c.v[1] = a, c.v[1].data = (char *)x + 1; check_fails(LORA_E_ARGUMENT, lora__run(ctx, &c));
	c.v[1] = a, c.v[0].stride[0] = 2; check_fails(LORA_E_SHAPE, lora__run(ctx, &c)); /* rows of the output overlap */
	c.v[0] = y, c.v[0].stride[1] = 0; check_fails(LORA_E_SHAPE, lora__run(ctx, &c));
	c.v[0] = y, c.v[0].size[0] = -1; check_fails(LORA_E_SHAPE, lora__run(ctx, &c));
	c = (lora_call){ .struct_size = sizeof c, .prim = LORA_PRIM_EMBED, .n_views = 3, .v = { y, a, i32 }, .f = { 1 } };
	check_ok(ctx, lora__run(ctx, &c));
	ids[2] = 4; check_fails(LORA_E_ARGUMENT, lora__run(ctx, &c));
	ids[2] = -1; check_fails(LORA_E_ARGUMENT, lora__run(ctx, &c));
	double loss[4];
	c = (lora_call){ .struct_size = sizeof c, .prim = LORA_PRIM_XENT, .n_views = 3, .v = { y, i32, lora__view1(loss, LORA_F64, 4) } };
	check_ok(ctx, lora__run(ctx, &c));
	ids[3] = 4; check_fails(LORA_E_ARGUMENT, lora__run(ctx, &c));
	c = (lora_call){ .struct_size = sizeof c, .prim = LORA_PRIM_DROPOUT, .n_views = 2, .v = { y, a }, .f = { 1.0 } };
	check_fails(LORA_E_ARGUMENT, lora__run(ctx, &c));
	c.f[0] = NAN; check_fails(LORA_E_ARGUMENT, lora__run(ctx, &c));
	c = (lora_call){ .struct_size = sizeof c, .prim = LORA_PRIM_GATED, .n_views = 2, .v = { y, a }, .i = { 9 } };
	check_fails(LORA_E_UNSUPPORTED, lora__run(ctx, &c));
	int32_t seg[4] = { 0, 4, 0, 3 };
	lora_view s = lora__view2(seg, LORA_I32, 1, 4, 4);
	c = (lora_call){ .struct_size = sizeof c, .prim = LORA_PRIM_ATTENTION, .n_views = 6, .v = { y, a, a, a, lora__view2(x + 60, LORA_F32, 4, 1, 1), s },
		.i = { 1, 1, 4, 1, 0 }, .f = { 1 } };
	check_fails(LORA_E_SHAPE, lora__run(ctx, &c)); /* more queries than keys */
	seg[3] = 5; check_fails(LORA_E_SHAPE, lora__run(ctx, &c));
	seg[3] = 4, c.i[0] = 3; check_fails(LORA_E_SHAPE, lora__run(ctx, &c));
	c.i[0] = 1; check_ok(ctx, lora__run(ctx, &c));
	lora_context_destroy(ctx);
}
END_TEST

/* Out of memory at any allocation of a primitive: reported, nothing leaked, and the next call works. */
START_TEST(memory)
{
	test_case t;
	for (lora_prim p = 1; p < LORA_PRIM_COUNT; p++)
		for (int v = 0; v < 15 && case_make(&t, p, LORA_F32, v); v++, case_free(&t)) {
			check_alloc ca;
			check_alloc_init(&ca);
			lora_context *ctx = check_context(&ca);
			for (long n = 1; n < 20; n++) {
				case_reset(&t);
				ca.fail_at = n;
				lora_status st = lora__run(ctx, &t.call);
				ca.fail_at = 0;
				if (st == LORA_OK) break;
				ck_assert_msg(st == LORA_E_MEMORY, "prim %d: %s", p, lora_status_name(st));
			}
			run_and_verify(ctx, &t, p, LORA_F32, v);
			lora_context_destroy(ctx);
			check_alloc_done(&ca);
		}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("backend");
	TCase *c = tcase_create("backend");
	tcase_set_timeout(c, 300);
	tcase_add_loop_test(c, naive_f32, 1, LORA_PRIM_COUNT);
	tcase_add_loop_test(c, naive_f64, 1, LORA_PRIM_COUNT);
	tcase_add_loop_test(c, naive_bf16, 1, LORA_PRIM_COUNT);
	tcase_add_loop_test(c, bf16_gradients, 0, 5);
	TCase *p = tcase_create("plugins");
	tcase_set_timeout(p, 300);
	tcase_add_test(p, plugins);
	tcase_add_test(c, float_functions);
	tcase_add_test(c, xent_halves);
	tcase_add_loop_test(c, f32_products, 0, 4);
	tcase_add_loop_test(c, rounded_products, 0, 2);
	tcase_add_loop_test(c, nan_stays, 0, 2);
	tcase_add_test(c, refusals);
	tcase_add_test(c, memory);
	suite_add_tcase(s, c);
	suite_add_tcase(s, p);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
