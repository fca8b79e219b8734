/* Adapters in GGUF: both ways, byte by byte against the reference converter's files; bad-input rows G33 to G36, G38. */
#include <check.h>

#include "gguf/work.h"

static const char *const adapters[] = { "tiny-llama-plain", "tiny-llama-pattern", "tiny-llama-rslora", "tiny-llama-qv", "tiny-llama-embed" };

START_TEST(adapters_both_ways)
{
	char peft[160], file[160], path[512];
	lora_adapter *a;
	lora__gguf g, golden;
	lora__tensors x, y;
	lora_model *m = open_model(DIR_ "tiny-llama.Q8_0.gguf");
	lora_settings *s = settings_of("format", "gguf");
	snprintf(peft, sizeof peft, DIR_ "adapter-%s", adapters[_i]);
	snprintf(file, sizeof file, DIR_ "adapter-%s.gguf", adapters[_i]);
	/* PEFT to GGUF: the reference converter's bytes */
	snprintf(path, sizeof path, "%s", scratch_path(&room, "out.gguf"));
	ck_ok(lora_adapter_open(m, peft, NULL, &a));
	ck_ok(lora_adapter_save(a, path, s));
	lora_adapter_destroy(a);
	ck_ok(lora__gguf_open(golden_ctx, path, &g));
	ck_ok(lora__gguf_open(golden_ctx, file, &golden));
	same_tensors(&golden.set, &g.set, NULL);
	double alpha, want;
	ck_ok(lora__gguf_float(&g, "adapter.lora.alpha", 0, &alpha));
	ck_ok(lora__gguf_float(&golden, "adapter.lora.alpha", 0, &want));
	ck_assert(alpha == want);
	lora__gguf_close(&g);
	lora__gguf_close(&golden);
	/* GGUF to PEFT: the same parameters; where alpha was folded into B, B is another */
	snprintf(path, sizeof path, "%s", scratch_path(&room, "out"));
	ck_ok(lora_adapter_open(m, file, NULL, &a));
	ck_ok(lora_adapter_save(a, path, NULL));
	lora_adapter_destroy(a);
	snprintf(path, sizeof path, "%s", scratch_path(&room, "out/adapter_model.safetensors"));
	snprintf(peft + strlen(peft), sizeof peft - strlen(peft), "/adapter_model.safetensors");
	ck_ok(lora__safetensors_open(golden_ctx, path, &x));
	ck_ok(lora__safetensors_open(golden_ctx, peft, &y));
	same_tensors(&y, &x, _i == 1 ? "lora_B" : NULL);
	lora__tensors_close(&x);
	lora__tensors_close(&y);
	lora_settings_destroy(s);
	lora_model_destroy(m);
}
END_TEST

/* What the adapter adds to every weight is the same from either file, also where ratios of alpha were folded into B. */
START_TEST(same_change)
{
	char path[2][160];
	lora_adapter *a[2];
	lora_model *m = open_model(DIR_ "tiny-llama.Q8_0.gguf");
	static float change[2][192 * 64];
	snprintf(path[0], sizeof path[0], DIR_ "adapter-%s", adapters[_i]);
	snprintf(path[1], sizeof path[1], DIR_ "adapter-%s.gguf", adapters[_i]);
	for (int k = 0; k < 2; k++) ck_ok(lora_adapter_open(m, path[k], NULL, &a[k]));
	for (int64_t i = 0; i < lora_model_site_count(m); i++) {
		lora_site_info s = { .struct_size = sizeof s };
		ck_ok(lora_model_site_info(m, i, &s));
		if ((size_t)(s.out * s.in) > sizeof change[0] / sizeof **change) continue; /* the head */
		lora_status st[2];
		for (int k = 0; k < 2; k++) st[k] = lora_adapter_delta(a[k], i, change[k], (size_t)(s.out * s.in) * sizeof **change);
		ck_assert_int_eq(st[0], st[1]);
		for (int64_t j = 0; !st[0] && j < s.out * s.in; j++) ck_assert_float_eq_tol(change[0][j], change[1][j], 1e-6);
	}
	for (int k = 0; k < 2; k++) lora_adapter_destroy(a[k]);
	lora_model_destroy(m);
}
END_TEST

/* An adapter file for tiny-llama with one pair, changed as a row asks. */
typedef struct pair_file { const char *type, *adapter, *arch, *name_a, *name_b; uint64_t in, rank, rank_b, out; int no_b, dims; float alpha; int has_alpha; uint32_t dtype; } pair_file;

static void write_pair(const char *path, const pair_file *p)
{
	image m = { 0 };
	uint64_t each = p->dtype == 2 ? 18 : 4, per = p->dtype == 2 ? 32 : 1;
	uint64_t size_a = (p->in * p->rank / per * each + 31) & ~31ull;
	im_head(&m, p->no_b ? 1 : 2, (uint64_t)((p->type != NULL) + (p->adapter != NULL) + 1 + p->has_alpha));
	if (p->type) im_text(&m, "general.type", p->type);
	if (p->adapter) im_text(&m, "adapter.type", p->adapter);
	im_text(&m, "general.architecture", p->arch);
	if (p->has_alpha) im_f(&m, "adapter.lora.alpha", p->alpha);
	uint64_t ne_a[3] = { p->in, p->rank, 2 }, ne_b[3] = { p->rank_b, p->out, 2 };
	im_tensor(&m, p->name_a, p->dims == 3 ? 3 : 2, ne_a, p->dtype, 0);
	if (!p->no_b) im_tensor(&m, p->name_b, 2, ne_b, 0, p->dims == 3 ? 2 * size_a : size_a);
	im_data(&m, 1 << 16);
	for (size_t i = m.n - (1 << 16); i < m.n; i++) m.p[i] = 0;
	scratch_write(path, m.p, m.n);
	free(m.p);
}

static const pair_file good = { "adapter", "lora", "llama", "blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b", 64, 4, 4, 64, 0, 2, 8, 1, 0 };

START_TEST(bad_adapters)
{
	struct { const char *id; pair_file f; lora_status status; const char *text; } rows[] = {
		{ "good", good, LORA_OK, "" },
		{ "G33 general.type", good, LORA_E_FORMAT, "general.type is missing" },
		{ "G33 a model", good, LORA_E_FORMAT, "not an adapter" },
		{ "G33 adapter.type", good, LORA_E_FORMAT, "adapter.type is missing" },
		{ "G33 architecture", good, LORA_E_FORMAT, "of another model" },
		{ "G34 half a pair", good, LORA_E_FORMAT, "lora_b is missing" },
		{ "G34 suffix", good, LORA_E_FORMAT, "blk.0.attn_q.weight.lora_c" },
		{ "G34 no such tensor", good, LORA_E_NOTFOUND, "no such tensor" },
		{ "G35 ranks", good, LORA_E_SHAPE, "lora_B" },
		{ "G35 in", good, LORA_E_SHAPE, "lora_A" },
		{ "G35 out", good, LORA_E_SHAPE, "lora_B" },
		{ "G35 experts", good, LORA_E_UNSUPPORTED, "matrix" },
		{ "G35 rank 0", good, LORA_E_SHAPE, "zero" },
		{ "G36 missing", good, LORA_OK, "" }, /* scale 1, as llama.cpp */
		{ "G36 NaN", good, LORA_E_NUMERIC, "alpha" },
		{ "G36 0", good, LORA_OK, "" },
		{ "G36 negative", good, LORA_OK, "" },
		{ "G38 Q4_0", good, LORA_OK, "" }, /* decoded */
	};
	rows[1].f.type = NULL, rows[2].f.type = "model", rows[3].f.adapter = NULL, rows[4].f.arch = "qwen2", rows[5].f.no_b = 1;
	rows[6].f.name_a = "blk.0.attn_q.weight.lora_c", rows[7].f.name_a = "blk.0.attn_x.weight.lora_a", rows[7].f.name_b = "blk.0.attn_x.weight.lora_b";
	rows[8].f.rank_b = 3, rows[9].f.in = 72, rows[10].f.out = 96, rows[11].f.dims = 3, rows[12].f.rank = 0, rows[13].f.has_alpha = 0;
	rows[14].f.alpha = NAN, rows[15].f.alpha = 0, rows[16].f.alpha = -8, rows[17].f.dtype = 2;
	const char *path = scratch_path(&room, "a.gguf");
	lora_model *m = open_model(DIR_ "tiny-llama.Q8_0.gguf");
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		lora_adapter *a = NULL;
		write_pair(path, &rows[i].f);
		lora_status st = lora_adapter_open(m, path, NULL, &a);
		const char *said = lora_context_last_error(golden_ctx);
		ck_assert_msg(st == rows[i].status, "%s: %s (%s)", rows[i].id, lora_status_name(st), said);
		ck_assert_msg(st == LORA_OK || (strstr(said, rows[i].text) && strstr(said, "a.gguf")), "%s: \"%s\" lacks \"%s\"", rows[i].id, said, rows[i].text);
		ck_assert((a != NULL) == (st == LORA_OK));
		lora_adapter_destroy(a);
	}
	lora_model_destroy(m);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("gguf_adapter");
	TCase *c = tcase_create("adapters");
	tcase_add_checked_fixture(c, setup, teardown);
	tcase_set_timeout(c, 30);
	tcase_add_loop_test(c, adapters_both_ways, 0, (int)(sizeof adapters / sizeof *adapters));
	tcase_add_loop_test(c, same_change, 0, (int)(sizeof adapters / sizeof *adapters));
	tcase_add_test(c, bad_adapters);
	suite_add_tcase(s, c);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
