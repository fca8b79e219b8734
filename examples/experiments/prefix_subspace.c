/* Does the centre of a simplex of prefixes generalise better than a single prefix, from few examples? Two few-shot tasks on the shipped model: write on
 * in a style (16 windows of a text), and tell two styles apart by a fragment of 16 tokens (32 fragments of each). Same steps, batches, learning rates
 * and start distribution: a step of the simplex costs what a step of one prefix costs. Checkpoint and learning rate are chosen on a small validation
 * set, for the simplex by the mean of draws, as the paper does. A second single prefix starts from the simplex's centre, so that the start explains
 * nothing. Falissard, Guigue & Soulier 2023, arXiv:2310.15793. */
#include "experiment.h"

#include <math.h>

enum { SEEDS = 5, EVERY = 15, BATCH = 8, TOKENS = 5, VERTICES = 4, DRAWS = 3, RATES = 2, WINDOW = 32, FRAGMENT = 16, ARMS = 3, MAX_TEXT = 60000, VOCAB = 1024 };

/* Sequences of one length, with labels (-100 = not counted). */
typedef struct set { int n, length; int32_t *ids, *labels; } set;
typedef struct task { const char *name; set train, valid, test; int classes, steps; double rates[RATES]; } task;
/* One run: at its end, and at the checkpoint that validation chose. */
typedef struct result { double train, end, end_drawn, best_valid, best, best_accuracy; } result;

static lora_model *model;
static lora_tokenizer *tokenizer;
static int32_t text[2][MAX_TEXT];
static int n_text[2];

static void read_text(int which, const char *path)
{
	static char raw[200000];
	size_t n = 0, count = 0;
	FILE *f = fopen(path, "rb");
	if (f) n = fread(raw, 1, sizeof raw, f), fclose(f);
	must(lora_tokenizer_encode(tokenizer, raw, n, 0, text[which], MAX_TEXT, &count));
	n_text[which] = (int)count;
}

static set make_set(int n, int length)
{
	set s = { n, length, malloc(sizeof(int32_t) * (size_t)(n * length)), malloc(sizeof(int32_t) * (size_t)(n * length)) };
	if (!s.ids || !s.labels) exit(1);
	return s;
}

/* A stretch of a text: training data from its first half, validation and test from quarters of their own. */
static const int32_t *stretch(dice *d, int which, int part, int n)
{
	int quarter = n_text[which] / 4, size = part ? quarter : 2 * quarter, first = part ? (1 + part) * quarter : 0;
	return text[which] + first + dice_below(d, size - n);
}

static set windows(dice *d, int part, int n)
{
	set s = make_set(n, WINDOW);
	for (int i = 0; i < n; i++) {
		memcpy(s.ids + i * WINDOW, stretch(d, 0, part, WINDOW), WINDOW * sizeof *s.ids);
		memcpy(s.labels + i * WINDOW, s.ids + i * WINDOW, WINDOW * sizeof *s.ids);
	}
	return s;
}

/* Fragments of both texts in turn; the answer, one of two tokens, comes last and counts alone. */
static int32_t answer(int which) { return 300 + which; }

static set fragments(dice *d, int part, int n)
{
	set s = make_set(n, FRAGMENT + 1);
	for (int i = 0; i < n; i++) {
		int32_t *ids = s.ids + i * s.length, *labels = s.labels + i * s.length;
		memcpy(ids, stretch(d, i % 2, part, FRAGMENT), FRAGMENT * sizeof *ids);
		for (int t = 0; t < FRAGMENT; t++) labels[t] = -100;
		ids[FRAGMENT] = labels[FRAGMENT] = answer(i % 2);
	}
	return s;
}

static task make_task(int which, int seed)
{
	dice d = { .state = (uint64_t)(100 * which + seed + 1) };
	if (which == 0) return (task){ "style", windows(&d, 0, 16), windows(&d, 1, 16), windows(&d, 2, 64), 0, 60, { 0.03, 0.1 } };
	return (task){ "two styles", fragments(&d, 0, 64), fragments(&d, 1, 32), fragments(&d, 2, 256), 2, 120, { 0.1, 0.3 } };
}

static void free_task(task *t)
{
	set *all[] = { &t->train, &t->valid, &t->test };
	for (int i = 0; i < 3; i++) free(all[i]->ids), free(all[i]->labels);
}

static lora_batch batch_of(const set *s, int first, int n, lora_adapter **a, const int32_t *zeros)
{
	return (lora_batch){ .struct_size = sizeof(lora_batch), .n_sequences = n, .length = s->length, .input_ids = s->ids + first * s->length,
		.labels = s->labels + first * s->length, .adapter_rows = zeros, .adapters = a, .n_adapters = 1 };
}

/* Mean loss per label, and how often the right answer is the likelier of the two. */
static double evaluate(const set *s, lora_adapter *a, double *accuracy)
{
	static const int32_t zeros[512];
	static float logits[64 * (FRAGMENT + 1) * VOCAB];
	double sum = 0, counted = 0, right = 0;
	for (int at = 0; at < s->n; at += 64) {
		int n = s->n - at < 64 ? s->n - at : 64;
		lora_batch b = batch_of(s, at, n, &a, zeros);
		int64_t labels;
		double loss;
		must(lora_model_loss(model, &b, &loss, &labels));
		sum += loss * (double)labels, counted += (double)labels;
		if (!accuracy) continue;
		must(lora_model_forward(model, &b, logits, sizeof logits));
		for (int i = 0; i < n; i++) {
			const float *x = logits + (i * s->length + FRAGMENT - 1) * VOCAB;
			right += x[answer((at + i) % 2)] > x[answer(1 - (at + i) % 2)];
		}
	}
	if (accuracy) *accuracy = right / s->n;
	return sum / counted;
}

/* Mean loss over draws of the simplex: another adapter with the same vertices draws where this one takes the centre. */
static double evaluate_drawn(const set *s, lora_adapter *a, lora_adapter *drawing, float *memory, size_t bytes)
{
	double sum = 0;
	must(lora_adapter_tensor_read(a, 0, memory, bytes));
	must(lora_adapter_tensor_write(drawing, 0, memory, bytes));
	for (int k = 0; k < DRAWS; k++) sum += evaluate(s, drawing, NULL);
	return sum / DRAWS;
}

static lora_adapter *make_prefix(int vertices, int seed, const char *inference)
{
	lora_adapter *a;
	lora_settings *s = settings("{\"num_virtual_tokens\":%d,\"subspace_vertices\":%d,\"subspace_inference\":\"%s\",\"seed\":%d}", TOKENS, vertices, inference, seed);
	must(lora_adapter_create(model, "prefix_tuning", s, &a));
	must(lora_adapter_attach(a, 1.0));
	lora_settings_destroy(s);
	return a;
}

/* The centre of the simplex that starts from this seed, as a single prefix's start. */
static void start_at_centre(lora_adapter *a, int seed)
{
	lora_adapter *simplex = make_prefix(VERTICES, seed, "centre");
	lora_tensor_info info;
	must(lora_adapter_tensor_info(simplex, 0, &info));
	size_t n = info.bytes / sizeof(float) / VERTICES;
	float *x = malloc(info.bytes);
	if (!x) exit(1);
	must(lora_adapter_tensor_read(simplex, 0, x, info.bytes));
	for (size_t i = 0; i < n; i++) {
		double sum = 0;
		for (size_t k = 0; k < VERTICES; k++) sum += x[k * n + i];
		x[i] = (float)(sum / VERTICES);
	}
	must(lora_adapter_tensor_write(a, 0, x, n * sizeof *x));
	free(x);
	lora_adapter_destroy(simplex);
}

static result run(const task *t, int arm, double rate, int seed)
{
	static const int32_t zeros[BATCH];
	int vertices = arm == 2 ? VERTICES : 1;
	lora_adapter *a = make_prefix(vertices, seed, "centre"), *drawing = vertices > 1 ? make_prefix(vertices, seed, "sampled") : NULL;
	if (arm == 1) start_at_centre(a, seed);
	lora_settings *so = settings("{\"learning_rate\":%g}", rate), *st = settings("{\"max_steps\":%d,\"warmup_steps\":5,\"seed\":%d}", t->steps, seed);
	lora_optimizer *o;
	lora_trainer *trainer;
	lora_tensor_info info;
	result r = { .best_valid = INFINITY };
	dice order = { .state = (uint64_t)(1000 + seed) };
	if (drawing) must(lora_adapter_set_trainable(drawing, 0));
	must(lora_adapter_tensor_info(a, 0, &info));
	must(lora_optimizer_create(a, "adamw", so, &o));
	must(lora_trainer_create(model, a, o, st, &trainer));
	float *memory = malloc(info.bytes);
	if (!memory) exit(1);
	for (int step = 1; step <= t->steps; step++) {
		lora_metrics metrics = { .struct_size = sizeof metrics };
		lora_batch b = batch_of(&t->train, dice_below(&order, t->train.n / BATCH) * BATCH, BATCH, &a, zeros);
		must(lora_trainer_step(trainer, &b, &metrics));
		if (step % EVERY) continue;
		double valid = drawing ? evaluate_drawn(&t->valid, a, drawing, memory, info.bytes) : evaluate(&t->valid, a, NULL);
		if (valid >= r.best_valid) continue;
		r.best_valid = valid;
		r.best = evaluate(&t->test, a, t->classes ? &r.best_accuracy : NULL);
	}
	r.train = evaluate(&t->train, a, NULL), r.end = evaluate(&t->test, a, NULL);
	r.end_drawn = drawing ? evaluate_drawn(&t->test, a, drawing, memory, info.bytes) : r.end;
	free(memory);
	lora_trainer_destroy(trainer), lora_optimizer_destroy(o), lora_settings_destroy(so), lora_settings_destroy(st);
	lora_adapter_destroy(a), lora_adapter_destroy(drawing);
	return r;
}

static void row(const char *name, const char *what, const double *v)
{
	printf("| %s | %s |", name, what);
	for (int s = 0; s < SEEDS; s++) printf(" %.4f |", v[s]);
	printf(" %.4f | %.4f |\n", mean_of(v, SEEDS), deviation_of(v, SEEDS));
}

int main(int argc, char **argv)
{
	static const char *const names[ARMS] = { "one prefix", "from the centre", "simplex of 4" };
	experiment_start("Prefix subspaces: the centre of a simplex against a single prefix, few-shot");
	must(lora_model_open(experiment_ctx, "examples/demo/model", NULL, &model));
	must(lora_tokenizer_open(experiment_ctx, "examples/demo/model", &tokenizer));
	read_text(0, "examples/demo/pirate.txt"), read_text(1, "examples/demo/recipe.txt");
	chart *picture = chart_create("Prefix subspaces, few-shot: test loss at the chosen checkpoint, mean and deviation of 5 seeds", 2);
	printf("%d virtual tokens, %d vertices, steps of %d sequences, AdamW, linear schedule. Style: 16 training and 16 validation windows, 60 steps, learning rates 0.03 and 0.1.\n"
		"Two styles: 64 training and 32 validation fragments, 120 steps, learning rates 0.1 and 0.3.\n\n", TOKENS, VERTICES, BATCH);
	printf("| task | figure | seed 1 | 2 | 3 | 4 | 5 | mean | deviation |\n|---|---|---|---|---|---|---|---|---|\n");
	for (int which = 0; which < 2; which++) {
		double best[ARMS][SEEDS], end[ARMS][SEEDS], train[ARMS][SEEDS], drawn[SEEDS], accuracy[ARMS][SEEDS], before[SEEDS];
		const char *name = "";
		for (int seed = 0; seed < SEEDS; seed++) {
			task t = make_task(which, seed);
			name = t.name;
			for (int m = 0; m < ARMS; m++) {
				result chosen = { .best_valid = INFINITY };
				for (int k = 0; k < RATES; k++) {
					result r = run(&t, m, t.rates[k], seed + 1);
					if (r.best_valid < chosen.best_valid) chosen = r;
				}
				best[m][seed] = chosen.best, end[m][seed] = chosen.end, train[m][seed] = chosen.train, accuracy[m][seed] = chosen.best_accuracy;
				if (m == 2) drawn[seed] = chosen.end_drawn;
			}
			lora_batch b = batch_of(&t.test, 0, 64, NULL, NULL);
			b.n_adapters = 0;
			must(lora_model_loss(model, &b, &before[seed], NULL));
			free_task(&t);
		}
		row(name, "test loss without adapter", before);
		for (int m = 0; m < ARMS; m++) {
			char text_of[96];
			snprintf(text_of, sizeof text_of, "%s: test loss, chosen checkpoint", names[m]), row(name, text_of, best[m]);
			if (which) snprintf(text_of, sizeof text_of, "%s: accuracy, chosen checkpoint", names[m]), row(name, text_of, accuracy[m]);
			snprintf(text_of, sizeof text_of, "%s: test loss after the last step", names[m]), row(name, text_of, end[m]);
			snprintf(text_of, sizeof text_of, "%s: training loss after the last step", names[m]), row(name, text_of, train[m]);
		}
		row(name, "simplex of 4: test loss at drawn points, last step", drawn);
		for (int m = 0; m < 2; m++)
			printf("| %s | **simplex better than %s: chosen checkpoint in %d of %d seeds, last step in %d of %d** | | | | | | | |\n", name, names[m],
				wins_of(best[2], best[m], SEEDS), SEEDS, wins_of(end[2], end[m], SEEDS), SEEDS);
		chart_panel(picture, which, which ? "two styles apart" : "writing on in a style", "", "test loss");
		for (int m = 0; m < ARMS; m++) {
			char text_of[96];
			snprintf(text_of, sizeof text_of, "%s", m == 1 ? "from the centre" : names[m]), chart_bar(picture, which, text_of, mean_of(best[m], SEEDS), deviation_of(best[m], SEEDS));
		}
	}
	chart_save(picture, argc > 1 ? argv[1] : NULL);
	lora_tokenizer_destroy(tokenizer);
	lora_model_destroy(model);
	lora_context_destroy(experiment_ctx);
	return 0;
}
