/* How sure is a few-shot classifier? A small BERT with random weights is adapted by LoRA, with 12 examples per class, to a generated task: which of four topics do
 * the words of a sentence come from? On fresh sentences: the trained adapter (MAP), Laplace-LoRA over all layers and over the last one, an ensemble of three
 * adapters, MC dropout, and a temperature fitted on 8 further examples per class. Five seeds.
 * Sources: Yang et al. 2024, arXiv:2308.13111; Wang et al. 2023, arXiv:2310.00035; Gal and Ghahramani 2016, arXiv:1506.02142; Guo et al. 2017, arXiv:1706.04599. */
#include "experiment.h"

#include <math.h>

enum { CLASSES = 4, VOCAB = 24, LENGTH = 16, SEEDS = 5, SHOTS = 12, SPARE = 8, TEST = 400, MEMBERS = 3, PASSES = 10, BINS = 15, TRAIN_STEPS = 400, BATCH = 16 };
enum { MAP, ALL_LAYERS, LAST_LAYER, ENSEMBLE, DROPOUT, TEMPERATURE, METHODS };
static const char *const names[METHODS] = { "MAP", "Laplace, all layers", "Laplace, last layer", "ensemble of 3", "MC dropout", "temperature" };

typedef struct task { int32_t word_class[VOCAB]; double signal; } task;
typedef struct data { int32_t *ids, *labels; int n; } data;
typedef struct score { double accuracy, nll, ece, brier; } score;
static double bin_n[METHODS][BINS], bin_right[METHODS][BINS], bin_sure[METHODS][BINS];

/* Every word belongs to a topic. */
static task make_task(dice *d, double signal)
{
	task t = { .signal = signal };
	for (int i = 0; i < VOCAB; i++) t.word_class[i] = i % CLASSES;
	for (int i = VOCAB - 1; i > 0; i--) {
		int j = dice_below(d, i + 1), w = t.word_class[i];
		t.word_class[i] = t.word_class[j], t.word_class[j] = w;
	}
	return t;
}

/* A sentence: with probability signal a word of its topic, else any. */
static data draw(const task *t, int n, dice *d)
{
	data s = { malloc(sizeof(int32_t) * (size_t)n * LENGTH), malloc(sizeof(int32_t) * (size_t)n), n };
	for (int i = 0; i < n; i++) {
		s.labels[i] = i % CLASSES;
		for (int j = 0; j < LENGTH; j++) {
			int w = dice_below(d, VOCAB);
			while (dice_unit(d) < t->signal && t->word_class[w] != s.labels[i]) w = dice_below(d, VOCAB);
			s.ids[i * LENGTH + j] = j ? w + 1 : 0; /* 0 opens the sentence */
		}
	}
	return s;
}

static void release(data *s) { free(s->ids), free(s->labels); }

static lora_batch batch_of(const data *s, int first, int n)
{
	return (lora_batch){ .struct_size = sizeof(lora_batch), .n_sequences = n, .length = LENGTH, .input_ids = s->ids + first * LENGTH, .labels = s->labels + first };
}

static int32_t get(void *user, int64_t i, lora_batch *b)
{
	const data *s = user;
	int first = (int)i * BATCH;
	*b = batch_of(s, first, s->n - first < BATCH ? s->n - first : BATCH);
	return 0;
}

static lora_adapter *train(lora_model *m, const char *config, const data *s, int steps, double lr, uint64_t seed)
{
	lora_settings *c = settings(config, (int)seed), *o = settings("{\"learning_rate\":%g,\"weight_decay\":0}", lr), *t = settings("{\"max_steps\":%d,\"seed\":%d}", steps, (int)seed);
	lora_adapter *a;
	lora_optimizer *opt;
	lora_trainer *tr;
	dice d = { seed };
	must(lora_adapter_create(m, "lora", c, &a));
	must(lora_adapter_attach(a, 1));
	must(lora_optimizer_create(a, "adamw", o, &opt));
	must(lora_trainer_create(m, a, opt, t, &tr));
	data pick = { malloc(sizeof(int32_t) * BATCH * LENGTH), malloc(sizeof(int32_t) * BATCH), BATCH };
	for (int k = 0; k < steps; k++) {
		for (int i = 0; i < BATCH; i++) {
			int from = dice_below(&d, s->n);
			memcpy(pick.ids + i * LENGTH, s->ids + from * LENGTH, sizeof(int32_t) * LENGTH), pick.labels[i] = s->labels[from];
		}
		lora_batch b = batch_of(&pick, 0, BATCH);
		must(lora_trainer_step(tr, &b, NULL));
	}
	release(&pick);
	lora_trainer_destroy(tr), lora_optimizer_destroy(opt);
	lora_settings_destroy(c), lora_settings_destroy(o), lora_settings_destroy(t);
	return a;
}

/* p += weight * softmax(logits / temperature) of the model as it stands */
static void forward(lora_model *m, const data *s, int dropout, uint64_t seed, double weight, double temperature, double *p)
{
	for (int at = 0; at < s->n; at += BATCH) {
		float f[BATCH * CLASSES];
		int n = s->n - at < BATCH ? s->n - at : BATCH;
		lora_batch b = batch_of(s, at, n);
		if (dropout) must(lora_model_forward_dropout(m, &b, seed * 1000003u + (uint64_t)at, f, sizeof(float) * (size_t)(n * CLASSES)));
		else must(lora_model_forward(m, &b, f, sizeof(float) * (size_t)(n * CLASSES)));
		for (int i = 0; i < n; i++) {
			double e[CLASSES], sum = 0;
			for (int c = 0; c < CLASSES; c++) sum += e[c] = exp((double)(f[i * CLASSES + c] - f[i * CLASSES]) / temperature);
			for (int c = 0; c < CLASSES; c++) p[(at + i) * CLASSES + c] += weight * e[c] / sum;
		}
	}
}

static double nll_of(const double *p, const data *s)
{
	double sum = 0;
	for (int i = 0; i < s->n; i++) sum -= log(fmax(p[i * CLASSES + s->labels[i]], 1e-12));
	return sum / s->n;
}

static score judge(const double *p, const data *s, int method)
{
	double n[BINS] = { 0 }, right[BINS] = { 0 }, sure[BINS] = { 0 };
	score r = { .nll = nll_of(p, s) };
	for (int i = 0; i < s->n; i++) {
		const double *q = p + i * CLASSES;
		int best = 0;
		for (int c = 0; c < CLASSES; c++) {
			double off = q[c] - (c == s->labels[i]);
			r.brier += off * off / s->n;
			if (q[c] > q[best]) best = c;
		}
		int k = (int)ceil(q[best] * BINS - 1e-12) - 1, hit = best == s->labels[i];
		k = k < 0 ? 0 : k >= BINS ? BINS - 1 : k;
		n[k]++, right[k] += hit, sure[k] += q[best], r.accuracy += (double)hit / s->n;
	}
	for (int k = 0; k < BINS; k++) {
		r.ece += fabs(right[k] - sure[k]) / s->n;
		bin_n[method][k] += n[k], bin_right[method][k] += right[k], bin_sure[method][k] += sure[k];
	}
	return r;
}

static score laplace(lora_model *m, lora_adapter *a, data *few, const data *test, const char *layers, int method)
{
	lora_posterior *post;
	lora_settings *s = settings("{\"layers\":\"%s\"}", layers);
	double *p = calloc((size_t)test->n * CLASSES, sizeof *p);
	must(lora_posterior_fit(m, a, (few->n + BATCH - 1) / BATCH, get, few, s, &post));
	for (int at = 0; at < test->n; at += BATCH) {
		int n = test->n - at < BATCH ? test->n - at : BATCH;
		lora_batch b = batch_of(test, at, n);
		must(lora_posterior_predict(post, &b, NULL, p + at * CLASSES, NULL, NULL, n * CLASSES));
	}
	score r = judge(p, test, method);
	lora_posterior_destroy(post);
	lora_settings_destroy(s);
	free(p);
	return r;
}

static double best_temperature(lora_model *m, const data *spare)
{
	double best = 1e9, at = 1, *p = malloc(sizeof *p * (size_t)spare->n * CLASSES);
	for (double t = 0.5; t < 20; t *= 1.05) {
		memset(p, 0, sizeof *p * (size_t)spare->n * CLASSES);
		forward(m, spare, 0, 0, 1, t, p);
		double loss = nll_of(p, spare);
		if (loss < best) best = loss, at = t;
	}
	free(p);
	return at;
}

static void run_seed(int seed, score *out)
{
	static const char *const config = "{\"r\":4,\"lora_alpha\":8,\"target_modules\":[\"query\",\"value\",\"intermediate.dense\"],\"modules_to_save\":[\"classifier\"],\"lora_dropout\":0.1,\"seed\":%d}";
	dice d = { (uint64_t)seed * 7919 + 1 };
	task t = make_task(&d, 0.55);
	data few = draw(&t, SHOTS * CLASSES, &d), spare = draw(&t, SPARE * CLASSES, &d), test = draw(&t, TEST, &d);
	lora_settings *s = settings("{\"hidden_size\":48,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"intermediate_size\":96,\"vocab_size\":%d,\"max_position_embeddings\":%d,"
		"\"type_vocab_size\":1,\"num_labels\":%d,\"initializer_range\":0.15,\"seed\":%d}", VOCAB + 1, LENGTH, CLASSES, seed + 1);
	lora_model *m;
	lora_adapter *a[MEMBERS];
	double *p = calloc((size_t)test.n * CLASSES, sizeof *p), *mean = calloc((size_t)test.n * CLASSES, sizeof *p);
	size_t bytes = sizeof *p * (size_t)test.n * CLASSES;
	must(lora_model_build(experiment_ctx, "bert", s, &m));
	for (int k = MEMBERS - 1; k >= 0; k--) {
		a[k] = train(m, config, &few, TRAIN_STEPS, 5e-3, (uint64_t)(10 * seed + k));
		forward(m, &test, 0, 0, 1.0 / MEMBERS, 1, mean);
		if (k) must(lora_adapter_detach(a[k]));
	}
	out[ENSEMBLE] = judge(mean, &test, ENSEMBLE);
	forward(m, &test, 0, 0, 1, 1, p);
	out[MAP] = judge(p, &test, MAP);
	memset(p, 0, bytes);
	for (int k = 0; k < PASSES; k++) forward(m, &test, 1, (uint64_t)(100 * seed + k), 1.0 / PASSES, 1, p);
	out[DROPOUT] = judge(p, &test, DROPOUT);
	memset(p, 0, bytes);
	forward(m, &test, 0, 0, 1, best_temperature(m, &spare), p);
	out[TEMPERATURE] = judge(p, &test, TEMPERATURE);
	out[ALL_LAYERS] = laplace(m, a[0], &few, &test, "all", ALL_LAYERS);
	out[LAST_LAYER] = laplace(m, a[0], &few, &test, "last", LAST_LAYER);
	for (int k = 0; k < MEMBERS; k++) lora_adapter_destroy(a[k]);
	lora_model_destroy(m);
	lora_settings_destroy(s);
	free(p), free(mean);
	release(&few), release(&spare), release(&test);
}

static void picture(const char *path)
{
	static const int shown[] = { MAP, ALL_LAYERS, LAST_LAYER };
	chart *c = chart_create("Laplace-LoRA on a generated few-shot task: share of right answers by confidence, five seeds together", 3);
	for (int i = 0; i < 3; i++) {
		double x[BINS], y[BINS];
		int n = 0;
		for (int k = 0; k < BINS; k++)
			if (bin_n[shown[i]][k] >= 5) x[n] = bin_sure[shown[i]][k] / bin_n[shown[i]][k], y[n++] = bin_right[shown[i]][k] / bin_n[shown[i]][k];
		chart_panel(c, i, names[shown[i]], "confidence", "share of right answers");
		chart_diagonal(c, i);
		chart_line(c, i, names[shown[i]], x, y, n);
	}
	chart_save(c, path);
}

int main(int argc, char **argv)
{
	score all[SEEDS][METHODS];
	experiment_start("Laplace-LoRA and its neighbours on a generated few-shot task");
	for (int s = 0; s < SEEDS; s++) run_seed(s, all[s]);
	printf("%d examples per class, %d classes, %d seeds, %d test sentences each; mean and deviation over seeds.\n\n", SHOTS, CLASSES, SEEDS, TEST);
	printf("| | accuracy | NLL | ECE | Brier | NLL below MAP's |\n|---|---|---|---|---|---|\n");
	double map[SEEDS];
	for (int s = 0; s < SEEDS; s++) map[s] = all[s][MAP].nll;
	for (int k = 0; k < METHODS; k++) {
		double v[4][SEEDS];
		for (int s = 0; s < SEEDS; s++) v[0][s] = all[s][k].accuracy, v[1][s] = all[s][k].nll, v[2][s] = all[s][k].ece, v[3][s] = all[s][k].brier;
		printf("| %s |", names[k]);
		for (int j = 0; j < 4; j++) printf(" %.3f ± %.3f |", mean_of(v[j], SEEDS), deviation_of(v[j], SEEDS));
		if (k) printf(" %d of %d |\n", wins_of(v[1], map, SEEDS), SEEDS);
		else printf(" |\n");
	}
	picture(argc > 1 ? argv[1] : NULL);
	lora_context_destroy(experiment_ctx);
	return 0;
}
