/* CoTo against plain LoRA: two adapters from different seeds, the loss between them when their factors are averaged, and the loss when half of the
 * layers are taken away, by Shapley value, by norm, by chance. Text of the demo on its model. docs/experiments/copra.md tells what came out. */
#include "experiment.h"

#include <math.h>

enum { SEEDS = 5, RANK = 8, POINTS = 11, ROWS = 4, LENGTH = 64, TEST_ROWS = 12, MOST = 8, METHODS = 3 };
/* Layers that rest learn less per step: so LoRA is there twice, with as many steps, and with so few that it ends at about the same loss. */
static const struct { const char *name, *strategy; int steps; } methods[METHODS] = { { "LoRA", "none", 160 }, { "LoRA, fewer steps", "none", 72 }, { "CoTo", "coto", 160 } };

static lora_model *model;
static int32_t *text, test_ids[TEST_ROWS * LENGTH];
static size_t n_text, n_train;

/* What came out for one method and seed. */
typedef struct outcome {
	double curve[POINTS], ends, barrier; /* factors averaged */
	double delta_barrier;
	double all, none, shapley, norm, chance, one, rise; /* loss with all layers, without, with half of them; the worst with one away; how much half by Shapley value costs */
	double entropy;                               /* of the Shapley values' shares */
} outcome;

static void read_text(void)
{
	lora_tokenizer *t;
	size_t n = 0;
	FILE *f = fopen("examples/demo/pirate.txt", "rb");
	char *bytes = malloc(1 << 20);
	if (!f || !bytes) exit(1);
	n = fread(bytes, 1, 1 << 20, f);
	fclose(f);
	must(lora_tokenizer_open(experiment_ctx, "examples/demo/model", &t));
	text = malloc(n * sizeof *text);
	must(lora_tokenizer_encode(t, bytes, n, 0, text, n, &n_text));
	lora_tokenizer_destroy(t);
	free(bytes);
	n_train = n_text - TEST_ROWS * LENGTH;
	memcpy(test_ids, text + n_train, sizeof test_ids);
}

static double loss_now(void)
{
	double loss;
	lora_batch b = { .struct_size = sizeof b, .n_sequences = TEST_ROWS, .length = LENGTH, .input_ids = test_ids, .labels = test_ids };
	must(lora_model_loss(model, &b, &loss, NULL));
	return loss;
}

static lora_adapter *train(const char *strategy, int steps, int seed)
{
	lora_adapter *a;
	lora_optimizer *o;
	lora_trainer *t;
	lora_settings *sa = settings("{\"r\":%d,\"lora_alpha\":%d,\"target_modules\":\"all-linear\",\"seed\":%d,\"name\":\"s%d\"}", RANK, 2 * RANK, seed, seed);
	lora_settings *so = settings("{\"learning_rate\":3e-3}");
	lora_settings *st = settings("{\"max_steps\":%d,\"warmup_steps\":10,\"lr_scheduler_type\":\"cosine\",\"strategy\":\"%s\",\"seed\":%d}", steps, strategy, seed);
	dice d = { (uint64_t)seed };
	must(lora_adapter_create(model, "lora", sa, &a));
	must(lora_adapter_attach(a, 1));
	must(lora_optimizer_create(a, "adamw", so, &o));
	must(lora_trainer_create(model, a, o, st, &t));
	for (int k = 0; k < steps; k++) {
		int32_t ids[ROWS * LENGTH];
		lora_metrics m = { .struct_size = sizeof m };
		for (int r = 0; r < ROWS; r++) memcpy(ids + r * LENGTH, text + dice_below(&d, (int)(n_train - LENGTH)), LENGTH * sizeof *ids);
		lora_batch b = { .struct_size = sizeof b, .n_sequences = ROWS, .length = LENGTH, .input_ids = ids, .labels = ids };
		must(lora_trainer_step(t, &b, &m));
	}
	lora_trainer_destroy(t);
	lora_optimizer_destroy(o);
	lora_settings_destroy(sa), lora_settings_destroy(so), lora_settings_destroy(st);
	must(lora_adapter_detach(a));
	return a;
}

/* a = (1 - w) x + w y in every factor. */
static void mix(lora_adapter *a, lora_adapter *x, lora_adapter *y, double w)
{
	for (int64_t i = 0; i < lora_adapter_tensor_count(a); i++) {
		lora_tensor_info info;
		must(lora_adapter_tensor_info(a, i, &info));
		float *p = malloc(info.bytes), *q = malloc(info.bytes);
		must(lora_adapter_tensor_read(x, i, p, info.bytes));
		must(lora_adapter_tensor_read(y, i, q, info.bytes));
		for (size_t k = 0; k < info.bytes / sizeof *p; k++) p[k] = (float)((1 - w) * p[k] + w * q[k]);
		must(lora_adapter_tensor_write(a, i, p, info.bytes));
		free(p), free(q);
	}
}

static double over(const double *curve, int n)
{
	double most = 0;
	for (int i = 0; i < n; i++) most = fmax(most, curve[i] - curve[0] - (curve[n - 1] - curve[0]) * i / (n - 1));
	return most;
}

static void between(lora_adapter *x, lora_adapter *y, outcome *out)
{
	lora_settings *s = settings("{\"r\":%d,\"lora_alpha\":%d,\"target_modules\":\"all-linear\",\"name\":\"between\"}", RANK, 2 * RANK);
	lora_adapter *a;
	double delta[3];
	must(lora_adapter_create(model, "lora", s, &a));
	must(lora_adapter_attach(a, 1));
	for (int i = 0; i < POINTS; i++) {
		mix(a, x, y, (double)i / (POINTS - 1));
		out->curve[i] = loss_now();
	}
	lora_adapter_destroy(a);
	must(lora_adapter_attach(x, 1));
	must(lora_adapter_attach(y, 1));
	for (int i = 0; i < 3; i++) { /* the ends and the middle are enough */
		must(lora_adapter_set_scale(x, 1 - i / 2.0));
		must(lora_adapter_set_scale(y, i / 2.0));
		delta[i] = loss_now();
	}
	must(lora_adapter_detach(x));
	must(lora_adapter_detach(y));
	lora_settings_destroy(s);
	out->ends = (out->curve[0] + out->curve[POINTS - 1]) / 2;
	out->barrier = over(out->curve, POINTS), out->delta_barrier = over(delta, 3);
}

/* ---- taking layers away ---- */

typedef struct table { lora_adapter *a; double loss[1 << MOST]; } table;

static int32_t worth(void *user, const uint8_t *active, int64_t n, double *value)
{
	table *t = user;
	size_t which = 0;
	for (int64_t i = 0; i < n; i++) which |= (size_t)active[i] << i;
	must(lora_adapter_set_layers(t->a, active, n));
	*value = -(t->loss[which] = loss_now());
	return 0;
}

/* The layers of largest value, so many of them, as a set. */
static size_t best(const double *value, int64_t n, int64_t count)
{
	size_t set = 0;
	for (; count > 0; count--) {
		int64_t b = -1;
		for (int64_t i = 0; i < n; i++)
			if (!(set >> i & 1) && (b < 0 || value[i] > value[b])) b = i;
		set |= (size_t)1 << b;
	}
	return set;
}

static void norms(lora_adapter *a, int64_t n, double *value)
{
	int32_t layer[1024];
	int64_t sites = lora_model_site_count(model);
	must(lora_adapter_layers(a, layer, sites, &n));
	memset(value, 0, (size_t)n * sizeof *value);
	for (int64_t i = 0; i < sites; i++) {
		lora_site_info info = { .struct_size = sizeof info };
		if (layer[i] < 0) continue;
		must(lora_model_site_info(model, i, &info));
		size_t count = (size_t)(info.out * info.in);
		float *d = malloc(count * sizeof *d);
		must(lora_adapter_delta(a, i, d, count * sizeof *d));
		for (size_t k = 0; k < count; k++) value[layer[i]] += (double)d[k] * d[k];
		free(d);
	}
}

static void without_layers(lora_adapter *a, outcome *out)
{
	table t = { .a = a };
	double value[MOST], norm[MOST], sum = 0;
	int64_t n;
	int sets = 0;
	lora_settings *s = settings("{\"permutations\":1000}"); /* more than all coalitions: exact */
	must(lora_adapter_layers(a, NULL, 0, &n));
	if (n > MOST) exit(1);
	must(lora_adapter_attach(a, 1));
	must(lora_shapley_values(experiment_ctx, n, worth, &t, s, value, NULL, NULL));
	norms(a, n, norm);
	lora_settings_destroy(s);
	must(lora_adapter_detach(a));
	size_t full = ((size_t)1 << n) - 1;
	out->none = t.loss[0], out->all = t.loss[full];
	out->shapley = t.loss[best(value, n, n / 2)], out->norm = t.loss[best(norm, n, n / 2)];
	out->rise = out->shapley - out->all;
	out->chance = out->one = out->entropy = 0;
	for (size_t k = 0; k <= full; k++)
		if (__builtin_popcountll(k) == n / 2) out->chance += t.loss[k], sets++;
	out->chance /= sets; /* the mean over all halves */
	for (int64_t i = 0; i < n; i++) out->one = fmax(out->one, t.loss[full & ~((size_t)1 << i)]), sum += fabs(value[i]);
	for (int64_t i = 0; i < n; i++) out->entropy -= fabs(value[i]) / sum * log(fabs(value[i]) / sum) / log((double)n);
}

/* ---- telling ---- */

static outcome results[METHODS][SEEDS];

/* Mean and deviation of a member over the seeds, and the values. */
#define GATHER(member, method, into) for (int s_ = 0; s_ < SEEDS; s_++) (into)[s_] = results[method][s_].member

static void row(const char *label, const double v[METHODS][SEEDS])
{
	printf("| %s |", label);
	for (int m = 0; m < METHODS; m++) printf(" %.3f +- %.3f |", mean_of(v[m], SEEDS), deviation_of(v[m], SEEDS));
	printf(" %d | %d |\n", wins_of(v[2], v[0], SEEDS), wins_of(v[2], v[1], SEEDS));
}

#define ROW(label, member) \
	do { \
		double v_[METHODS][SEEDS]; \
		for (int m_ = 0; m_ < METHODS; m_++) GATHER(member, m_, v_[m_]); \
		row(label, v_); \
	} while (0)

static void picture(const char *path)
{
	chart *c = chart_create("Averaging two adapters, and taking half of the layers away", 2);
	double x[POINTS], y[METHODS][POINTS];
	chart_panel(c, 0, "between two seeds", "share of the second", "test loss");
	chart_panel(c, 1, "half of the layers", "", "test loss");
	for (int m = 0; m < METHODS; m++) {
		for (int i = 0; i < POINTS; i++) {
			double v[SEEDS];
			for (int s = 0; s < SEEDS; s++) v[s] = results[m][s].curve[i];
			x[i] = (double)i / (POINTS - 1), y[m][i] = mean_of(v, SEEDS);
		}
		chart_line(c, 0, methods[m].name, x, y[m], POINTS);
	}
	static const char *const ways[] = { "all", "Shapley", "norm", "chance" };
	for (int m = 0; m < METHODS; m++)
		for (int k = 0; k < 4; k++) {
			double v[SEEDS];
			char label[64];
			for (int i = 0; i < SEEDS; i++) v[i] = k == 0 ? results[m][i].all : k == 1 ? results[m][i].shapley : k == 2 ? results[m][i].norm : results[m][i].chance;
			snprintf(label, sizeof label, "%s: %s", m == 1 ? "fewer" : methods[m].name, ways[k]);
			chart_bar(c, 1, label, mean_of(v, SEEDS), deviation_of(v, SEEDS));
		}
	chart_save(c, path);
}

int main(int argc, char **argv)
{
	experiment_start("CoTo: barrier between seeds, and layers taken away");
	must(lora_model_open(experiment_ctx, "examples/demo/model", NULL, &model));
	read_text();
	for (int m = 0; m < METHODS; m++) {
		lora_adapter *x = train(methods[m].strategy, methods[m].steps, 1), *y;
		for (int s = 0; s < SEEDS; s++, x = y) {
			y = train(methods[m].strategy, methods[m].steps, s + 2);
			between(x, y, &results[m][s]);
			without_layers(x, &results[m][s]);
			lora_adapter_destroy(x);
		}
		lora_adapter_destroy(x);
	}
	printf("Pairs of seeds 1-2, 2-3, .. 5-6; rank %d on all linear layers, steps of %d x %d tokens: %d for LoRA and CoTo, %d for LoRA with fewer steps; test on %d tokens;\n"
		"mean and deviation over the pairs. The last columns: in how many of %d CoTo is lower.\n\n", RANK, ROWS, LENGTH, methods[0].steps, methods[1].steps, TEST_ROWS * LENGTH, SEEDS);
	printf("| test loss | LoRA | LoRA, fewer steps | CoTo | than LoRA | than with fewer steps |\n|---|---|---|---|---|---|\n");
	ROW("of the adapters themselves", ends);
	ROW("barrier, factors averaged", barrier);
	ROW("barrier, deltas averaged", delta_barrier);
	ROW("the layer away that hurts most", one);
	ROW("half of the layers, by Shapley value", shapley);
	ROW("... above that of all layers", rise);
	ROW("half of the layers, by norm", norm);
	ROW("half of the layers, by chance", chance);
	ROW("evenness of the Shapley values (entropy / log n)", entropy);
	printf("\nWithout adapter: %.3f. Barrier per pair (LoRA / fewer steps / CoTo):", results[0][0].none);
	for (int s = 0; s < SEEDS; s++) printf(" %.3f / %.3f / %.3f%s", results[0][s].barrier, results[1][s].barrier, results[2][s].barrier, s + 1 < SEEDS ? "," : "\n");
	picture(argc > 1 ? argv[1] : NULL);
	free(text);
	lora_model_destroy(model);
	lora_context_destroy(experiment_ctx);
	return 0;
}
