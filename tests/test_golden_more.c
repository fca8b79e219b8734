/* Mixtures of experts, encoders and encoder-decoder models against transformers and PEFT: logits, hidden states, loss, greedy continuations, every
 * gradient and merged weights, in F32 on every backend and in F64 on naive. References were computed in float64. LORA_GOLDEN names a folder with
 * more of them (models/, peft/). */
#include "golden.h"

static const char *const backends[] = { "naive", "auto" };
static const char *const models[] = { "mixtral", "bert", "roberta", "t5", "flan-t5", "qwen3_moe" };
static const char *const adapters[] = { "lora-t5-embedding", "lora-target-parameters", "lora-target-parameters-down", "lora-modules-to-save-bert", "lora-modules-to-save-roberta", "lora-t5",
	"lora-flan-t5", "lora-mixtral-attention", "lora-arch-qwen3_moe", "lora-modules-to-save-llama" };
enum { N_MODELS = 6, OWN_MODELS = 5, N_ADAPTERS = 10, OWN_ADAPTERS = 7 }; /* the last ones only where LORA_GOLDEN has them; the first adapter is always from here */
static const char *root = "tests/golden";

typedef struct inputs { golden_batch g; int32_t *types, *decoder; lora_model_info info; int64_t rows, cols, hidden_rows; } inputs;

static void read_inputs(lora_model *m, const lora__tensors *io, inputs *in)
{
	*in = (inputs){ .g = golden_read_batch(io), .types = golden_ints(io, "token_type_ids"), .decoder = golden_ints(io, "decoder_input_ids") };
	in->info.struct_size = sizeof in->info;
	ck_ok(lora_model_get_info(m, &in->info));
	lora_batch *b = &in->g.b;
	b->token_type_ids = in->types, b->decoder_input_ids = in->decoder;
	if (in->decoder) b->decoder_length = lora__tensors_find(io, "decoder_input_ids")->shape[1];
	in->hidden_rows = b->n_sequences * (in->decoder ? b->decoder_length : b->length);
	in->rows = in->info.n_labels ? b->n_sequences : in->hidden_rows;
	in->cols = in->info.n_labels ? in->info.n_labels : in->info.vocab_size;
}

static void free_inputs(inputs *in)
{
	golden_free_batch(&in->g);
	free(in->types), free(in->decoder);
}

/* Rows that are compared: those the mask keeps, in a decoder those with a label. */
static int counts(const inputs *in, int64_t row) { return in->decoder ? in->g.labels[row] != -100 : in->g.mask[row]; }

static double gap(const inputs *in, const float *got, const double *want, int64_t rows, int64_t cols, int every)
{
	double worst = 0;
	for (int64_t i = 0; i < rows; i++)
		for (int64_t j = 0; j < cols && (every || counts(in, i)); j++) worst = fmax(worst, fabs((double)got[i * cols + j] - want[i * cols + j]));
	return worst;
}

/* Logits, loss and gradients as in io. */
static void check_pass(lora_model *m, const inputs *in, const lora__tensors *io, double tolerance, double want_loss, double loss_tolerance)
{
	size_t n, bytes = sizeof(float) * (size_t)(in->rows * in->cols);
	double *want = golden_reals(io, "logits", &n), loss, again_loss;
	float *got = malloc(bytes), *again = malloc(bytes);
	int64_t tokens;
	ck_assert_uint_eq(n * sizeof(float), bytes);
	ck_ok(lora_model_forward(m, &in->g.b, got, bytes));
	double worst = gap(in, got, want, in->rows, in->cols, in->info.n_labels > 0);
	ck_assert_msg(worst <= tolerance, "logits differ by %g, tolerance %g", worst, tolerance);
	ck_ok(lora_model_loss(m, &in->g.b, &loss, &tokens));
	ck_assert_msg(fabs(loss - want_loss) <= loss_tolerance, "loss %.12f, expected %.12f", loss, want_loss);
	ck_ok(lora_model_backward(m, &in->g.b, again, bytes, &again_loss, NULL));
	ck_assert(memcmp(got, again, bytes) == 0);
	ck_assert_double_eq_tol(loss, again_loss, 1e-6);
	free(want), free(got), free(again);
}

static double text_number(const json_t *o, const char *key) { return atof(json_string_value(json_object_get(o, key))); }
static double tolerance_of(const json_t *c, const char *key) { return json_number_value(json_object_get(json_object_get(c, "suggested_tolerance"), key)); }

static lora_model *open_model(const char *name, const char *dtype)
{
	lora_settings *s;
	lora_model *m;
	char path[512];
	snprintf(path, sizeof path, "%s/%s/model", root, name);
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_set_string(s, "dtype", dtype));
	ck_ok(lora_model_open(golden_ctx, path, s, &m));
	lora_settings_destroy(s);
	return m;
}

static json_t *open_case(const char *family, const char *name, lora__tensors *io)
{
	char path[512];
	snprintf(path, sizeof path, "%s/%s/%s/io.safetensors", root, family, name);
	ck_ok(lora__safetensors_open(golden_ctx, path, io));
	snprintf(path, sizeof path, "%s/%s/%s/case.json", root, family, name);
	return golden_json("%s", path);
}

static void check_hidden(lora_model *m, const inputs *in, const lora__tensors *io, double tolerance)
{
	size_t n, bytes = sizeof(float) * (size_t)(in->hidden_rows * in->info.hidden_size);
	double *want = golden_reals(io, "hidden", &n);
	float *got = malloc(bytes);
	ck_ok(lora_model_hidden(m, &in->g.b, got, bytes));
	double worst = gap(in, got, want, in->hidden_rows, in->info.hidden_size, 0);
	ck_assert_msg(worst <= tolerance, "hidden states differ by %g, tolerance %g", worst, tolerance);
	free(want), free(got);
}

static void check_greedy(lora_model *m, const json_t *greedy)
{
	const json_t *prompt = json_object_get(greedy, "prompt"), *want = json_object_get(greedy, "continuation");
	int32_t ids[64], next;
	lora_generator *g;
	for (size_t i = 0; i < json_array_size(prompt); i++) ids[i] = (int32_t)json_integer_value(json_array_get(prompt, i));
	ck_ok(lora_generator_create(m, NULL, &g));
	ck_ok(lora_generator_feed(g, 0, NULL, ids, (int64_t)json_array_size(prompt)));
	for (size_t i = 0; i < json_array_size(want); i++) {
		ck_ok(lora_generator_next(g, &next, NULL));
		ck_assert_int_eq(next, (int)json_integer_value(json_array_get(want, i)));
	}
	lora_generator_destroy(g);
}

static void one_model(const char *name, const char *backend, const char *dtype)
{
	char base[64];
	lora__tensors io;
	inputs in;
	int f64 = strcmp(dtype, "f64") == 0;
	golden_context(backend, 2);
	snprintf(base, sizeof base, "models/%s", name);
	lora_model *m = open_model(base, dtype);
	json_t *c = open_case("models", name, &io);
	read_inputs(m, &io, &in);
	check_pass(m, &in, &io, f64 ? 1e-6 : tolerance_of(c, "logits_abs"), text_number(c, "loss"), f64 ? 1e-11 : tolerance_of(c, "loss_abs"));
	check_hidden(m, &in, &io, f64 ? 1e-6 : tolerance_of(c, "hidden_abs"));
	if (json_object_get(c, "greedy")) check_greedy(m, json_object_get(c, "greedy"));
	free_inputs(&in);
	lora__tensors_close(&io);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
	json_decref(c);
}

static int runs(int own) { return own || strcmp(root, "tests/golden"); }

START_TEST(model_f32)
{
	if (runs(_i % N_MODELS < OWN_MODELS)) one_model(models[_i % N_MODELS], backends[_i / N_MODELS], "f32");
}
END_TEST

START_TEST(model_f64)
{
	if (runs(_i < OWN_MODELS)) one_model(models[_i], "naive", "f64");
}
END_TEST

static void check_gradients(lora_adapter *a, const lora__tensors *io, double relative)
{
	double top = 0;
	char key[512];
	for (int pass = 0; pass < 2; pass++)
		for (int64_t i = 0; i < lora_adapter_tensor_count(a); i++) {
			lora_tensor_info t;
			size_t n;
			ck_ok(lora_adapter_tensor_info(a, i, &t));
			snprintf(key, sizeof key, "grad.%s", t.name);
			double *want = golden_reals(io, key, &n);
			float *got = malloc(t.bytes);
			ck_assert_uint_eq(n * sizeof(float), t.bytes);
			ck_ok(lora_adapter_gradient_read(a, i, got, t.bytes));
			for (size_t k = 0; k < n; k++) {
				top = fmax(top, fabs(want[k]));
				double d = fabs((double)got[k] - want[k]);
				if (pass) ck_assert_msg(d <= relative * top, "%s[%zu]: gradient %g, expected %g (largest %g)", t.name, k, got[k], want[k], top);
			}
			free(want), free(got);
		}
}

/* A site's rows of a merged tensor of this name, in elements; -1 = it is no part of it. */
static int64_t part_of(const lora__site *s, const char *name)
{
	size_t n = strlen(s->name);
	if (strncmp(name, s->name, n) == 0 && strcmp(name + n, ".weight") == 0) return 0;
	return s->param && strcmp(s->param, name) == 0 ? (s->param_at * s->param_out + s->param_row) * s->in : -1;
}

static void check_merged(lora_model *m, lora_adapter *a, const lora__tensors *io, double tolerance)
{
	ck_ok(lora_adapter_merge(a, NULL));
	for (size_t i = 0; i < io->n; i++) {
		const char *name = io->list[i].name + 7;
		size_t n, seen = 0;
		if (strncmp(io->list[i].name, "merged.", 7)) continue;
		double *want = golden_reals(io, io->list[i].name, &n);
		for (size_t k = 0; k < m->s.n; k++) {
			const lora__site *s = m->s.list[k];
			int64_t at = part_of(s, name), count = s->out * s->in;
			const float *got = s->data;
			if (strcmp(name, "classifier.bias") == 0 && strcmp(s->name, "classifier") == 0) at = 0, count = s->out, got = s->bias.data;
			if (strcmp(name, "classifier.out_proj.bias") == 0 && strcmp(s->name, "classifier.out_proj") == 0) at = 0, count = s->out, got = s->bias.data;
			for (int64_t j = 0; at >= 0 && j < count; j++) ck_assert_double_eq_tol(got[j], want[at + j], tolerance);
			seen += at >= 0 ? (size_t)count : 0;
		}
		ck_assert_msg(seen == n, "%s: %zu of %zu values were compared", name, seen, n);
		free(want);
	}
	ck_ok(lora_adapter_unmerge(a));
}

static void one_adapter(const char *name, const char *backend, const char *dtype)
{
	char path[512];
	lora__tensors io;
	inputs in;
	lora_adapter *a;
	int f64 = strcmp(dtype, "f64") == 0;
	golden_context(backend, 2);
	const char *usual = root;
	if (name == adapters[0]) root = "tests/golden";
	json_t *c = open_case("peft", name, &io);
	lora_model *m = open_model(json_string_value(json_object_get(c, "base")), dtype);
	snprintf(path, sizeof path, "%s/peft/%s/adapter", root, name);
	ck_ok(lora_adapter_open(m, path, NULL, &a));
	ck_ok(lora_adapter_attach(a, 1.0));
	read_inputs(m, &io, &in);
	check_pass(m, &in, &io, f64 ? 1e-6 : tolerance_of(c, "logits_abs"), text_number(c, "loss"), f64 ? 1e-11 : 1e-5);
	check_gradients(a, &io, f64 ? 2e-7 : tolerance_of(c, "grad_rel_to_max"));
	if (json_is_false(json_object_get(json_object_get(c, "merge"), "correct"))) ck_assert_int_eq(lora_adapter_merge(a, NULL), LORA_E_UNSUPPORTED);
	else if (!f64) check_merged(m, a, &io, tolerance_of(c, "merged_abs"));
	root = usual;
	free_inputs(&in);
	lora__tensors_close(&io);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
	json_decref(c);
}

START_TEST(adapter_f32)
{
	if (runs(_i % N_ADAPTERS < OWN_ADAPTERS)) one_adapter(adapters[_i % N_ADAPTERS], backends[_i / N_ADAPTERS], "f32");
}
END_TEST

START_TEST(adapter_f64)
{
	if (runs(_i < OWN_ADAPTERS)) one_adapter(adapters[_i], "naive", "f64");
}
END_TEST

int main(void)
{
	const char *more = getenv("LORA_GOLDEN");
	Suite *s = suite_create("golden_more");
	TCase *t = tcase_create("golden_more");
	if (more && *more) root = more;
	else fprintf(stderr, "skipped: qwen3_moe and three adapters: LORA_GOLDEN is not set\n");
	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, model_f32, 0, 2 * N_MODELS);
	tcase_add_loop_test(t, model_f64, 0, N_MODELS);
	tcase_add_loop_test(t, adapter_f32, 0, 2 * N_ADAPTERS);
	tcase_add_loop_test(t, adapter_f64, 0, N_ADAPTERS);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
