/* LoraHub: does a gradient-free search find, from five examples, weights with which adapters of known tasks solve a task that none of them was trained for?
 *
 * Texts: stories that the demo's model tells itself. A task is a dialect of them: six frequent words, each replaced by a rare one everywhere. Twenty
 * adapters learn twenty dialects. The unseen tasks mix three of the dialects, so that no adapter knows more than a third of the new words. */
#include "experiment.h"

enum { TASKS = 20, WORDS = 6, PARTS = 3, MIXES = 8, SHOTS = 5, T = 48, TRAIN = 64, TEST = 16, POOL = TRAIN + TEST + MIXES * SHOTS, VOCAB = 1024, STEPS = 40, BATCH = 3 };

static int32_t story[POOL][T], mask[POOL][T];
static int32_t words[TASKS][WORDS][2]; /* from, to */

/* Sixteen stories at a time, until their end or for T tokens. */
static void tell_stories(lora_model *m)
{
	enum { ROWS = 16 };
	lora_settings *s = settings("{\"temperature\":1,\"seed\":5,\"batch_size\":%d,\"max_length\":%d}", ROWS, T);
	lora_generator *g;
	must(lora_generator_create(m, s, &g));
	for (int at = 0; at < POOL; at += ROWS) {
		int32_t first = 0, next[ROWS];
		int ended[ROWS] = { 0 };
		must(lora_generator_reset(g, -1));
		for (int i = 0; i < ROWS; i++) must(lora_generator_feed(g, i, NULL, &first, 1));
		for (int t = 0; t < T; t++) {
			if (t) must(lora_generator_next(g, next, NULL));
			for (int i = 0; i < ROWS && at + i < POOL; i++) {
				int32_t id = t ? next[i] : first;
				story[at + i][t] = ended[i] || id < 0 ? 1 : id, mask[at + i][t] = !ended[i];
				ended[i] |= id == 1;
			}
		}
	}
	lora_generator_destroy(g);
	lora_settings_destroy(s);
}

/* Frequent words (ranks 10 to 130 of the stories) and words that are hardly ever told, both shuffled. */
static void make_dialects(void)
{
	int count[VOCAB] = { 0 }, order[VOCAB];
	dice d = { 17 };
	for (int i = 0; i < POOL; i++)
		for (int t = 0; t < T; t++) count[story[i][t]] += mask[i][t];
	for (int i = 0; i < VOCAB; i++) {
		int at = i;
		for (; at && count[order[at - 1]] < count[i]; at--) order[at] = order[at - 1];
		order[at] = i;
	}
	int *from = order + 10, *to = order + VOCAB - 3 * TASKS * WORDS;
	for (int i = TASKS * WORDS - 1; i > 0; i--) {
		int a = dice_below(&d, i + 1), x = from[i];
		from[i] = from[a], from[a] = x;
		a = dice_below(&d, i + 1), x = to[i], to[i] = to[a], to[a] = x;
	}
	for (int i = 0; i < TASKS * WORDS; i++) words[i / WORDS][i % WORDS][0] = from[i], words[i / WORDS][i % WORDS][1] = to[i];
}

/* Stories first .. first+n-1 in the dialects of the given tasks. */
typedef struct texts { int32_t ids[TRAIN * T], labels[TRAIN * T], mask[TRAIN * T]; lora_batch batch; } texts;

static void speak(texts *x, int first, int n, const int *tasks, int n_tasks)
{
	for (int i = 0; i < n * T; i++) {
		int32_t id = story[first + i / T][i % T];
		for (int k = 0; k < n_tasks * WORDS; k++)
			if (words[tasks[k / WORDS]][k % WORDS][0] == id) {
				id = words[tasks[k / WORDS]][k % WORDS][1];
				break;
			}
		x->ids[i] = id, x->mask[i] = mask[first + i / T][i % T], x->labels[i] = x->mask[i] ? id : -100;
	}
	x->batch = (lora_batch){ .struct_size = sizeof x->batch, .n_sequences = n, .length = T, .input_ids = x->ids, .attention_mask = x->mask, .labels = x->labels };
}

static double loss_of(lora_model *m, const texts *x)
{
	double loss;
	must(lora_model_loss(m, &x->batch, &loss, NULL));
	return loss;
}

static double loss_with(lora_model *m, lora_adapter *a, const texts *x)
{
	must(lora_adapter_attach(a, 1));
	double loss = loss_of(m, x);
	must(lora_adapter_detach(a));
	return loss;
}

/* A fresh adapter trained for some steps on batches of the texts; *least is the least loss on test after 10, 20, 40, .. steps, when it is wanted. */
static lora_adapter *train(lora_model *m, const texts *x, int seed, int steps, int rows, double lr, const texts *test, double *least)
{
	lora_settings *how = settings("{\"r\":4,\"lora_alpha\":8,\"target_modules\":\"all-linear\",\"seed\":%d}", seed), *rate = settings("{\"learning_rate\":%g}", lr), *plan = settings("{\"lr_scheduler_type\":\"constant\"}");
	lora_adapter *a;
	lora_optimizer *o;
	lora_trainer *t;
	must(lora_adapter_create(m, "lora", how, &a));
	must(lora_adapter_attach(a, 1));
	must(lora_optimizer_create(a, "adamw", rate, &o));
	must(lora_trainer_create(m, a, o, plan, &t));
	for (int i = 0, next = 10; i < steps; i++) {
		lora_batch b = x->batch;
		int64_t at = (int64_t)i * rows % (b.n_sequences - rows + 1);
		b.n_sequences = rows, b.input_ids += at * T, b.attention_mask += at * T, b.labels += at * T;
		must(lora_trainer_step(t, &b, NULL));
		if (least && i + 1 == next) {
			double loss = loss_of(m, test);
			if (next == 10 || loss < *least) *least = loss;
			next *= 2;
		}
	}
	lora_trainer_destroy(t);
	lora_optimizer_destroy(o);
	must(lora_adapter_detach(a));
	lora_settings_destroy(how), lora_settings_destroy(rate), lora_settings_destroy(plan);
	return a;
}

static double combined(lora_model *m, lora_adapter **a, const double *w, const char *type, const texts *x)
{
	lora_adapter *made;
	must(lora_adapter_combine(a, w, TASKS, type, NULL, &made));
	double loss = loss_with(m, made, x);
	lora_adapter_destroy(made);
	return loss;
}

static double searched(lora_model *m, lora_adapter **a, const texts *shots, const texts *test, const char *method, const char *type, const char *how, double *w)
{
	lora_search_options o;
	lora_settings *s = settings("%s", how);
	must(lora_search_options_init(&o, sizeof o));
	o.method = method, o.type = type, o.settings = s;
	memset(w, 0, TASKS * sizeof *w);
	must(lora_adapter_search(a, TASKS, &shots->batch, 1, &o, w, NULL));
	lora_settings_destroy(s);
	return combined(m, a, w, type, test);
}

enum { ZERO, AVERAGE, SINGLE, FEW, HUB40, HUB150, LINEAR40, LINEAR150, WAYS };
static const char *const ways[WAYS] = { "zero-shot", "average of 20", "best single", "LoRA on the 5", "LoraHub, 40", "LoraHub, 150", "linear, 40", "linear, 150" };

/* found[2]: mean weight of the dialects that are in the mix and of the others, by the last search. */
static void one_mix(lora_model *m, lora_adapter **a, int mix, double loss[WAYS], double found[2])
{
	static texts shots, test;
	int parts[PARTS];
	double w[TASKS], best = 0;
	dice d = { 100 + (uint64_t)mix };
	for (int i = 0; i < PARTS; i++) {
		parts[i] = dice_below(&d, TASKS);
		for (int k = 0; k < i; k++)
			if (parts[k] == parts[i]) i--, k = PARTS;
	}
	speak(&shots, TRAIN + TEST + mix * SHOTS, SHOTS, parts, PARTS);
	speak(&test, TRAIN, TEST, parts, PARTS);
	loss[ZERO] = loss_of(m, &test);
	for (int k = 0; k < TASKS; k++) w[k] = 1.0 / TASKS;
	loss[AVERAGE] = combined(m, a, w, "linear", &test);
	for (int k = 0; k < TASKS; k++) { /* chosen on the examples */
		double seen = loss_with(m, a[k], &shots);
		if (!k || seen < best) best = seen, loss[SINGLE] = loss_with(m, a[k], &test);
	}
	lora_adapter_destroy(train(m, &shots, 99, 160, SHOTS, 3e-3, &test, &loss[FEW]));
	loss[HUB40] = searched(m, a, &shots, &test, "cmaes", "lorahub", "{\"seed\":1}", w);
	loss[HUB150] = searched(m, a, &shots, &test, "cmaes", "lorahub", "{\"seed\":1,\"budget\":150}", w);
	loss[LINEAR40] = searched(m, a, &shots, &test, "cmaes", "linear", "{\"seed\":1}", w);
	loss[LINEAR150] = searched(m, a, &shots, &test, "cmaes", "linear", "{\"seed\":1,\"budget\":150}", w);
	found[0] = found[1] = 0;
	for (int k = 0; k < TASKS; k++) {
		int in = 0;
		for (int i = 0; i < PARTS; i++) in |= parts[i] == k;
		found[!in] += w[k] / (in ? PARTS : TASKS - PARTS);
	}
	printf("| %d, %d, %d |", parts[0], parts[1], parts[2]);
	for (int k = 0; k < WAYS; k++) printf(" %.3f |", loss[k]);
	printf("\n");
	fflush(stdout);
}

int main(int argc, char **argv)
{
	static texts x;
	lora_model *m;
	lora_adapter *a[TASKS];
	double loss[MIXES][WAYS], found[MIXES][2], weight[2][MIXES], column[WAYS][MIXES], own[TASKS], before[TASKS];
	experiment_start("LoraHub on mixed dialects");
	must(lora_model_open(experiment_ctx, "examples/demo/model", NULL, &m));
	tell_stories(m);
	make_dialects();
	for (int k = 0; k < TASKS; k++) {
		speak(&x, 0, TRAIN, &k, 1);
		a[k] = train(m, &x, k, STEPS, BATCH, 5e-3, NULL, NULL);
		speak(&x, TRAIN, TEST, &k, 1);
		before[k] = loss_of(m, &x), own[k] = loss_with(m, a[k], &x);
	}
	printf("%d adapters (r = 4), each trained on its own dialect: loss there %.3f, before %.3f.\n\n| dialects mixed |", TASKS, mean_of(own, TASKS), mean_of(before, TASKS));
	for (int k = 0; k < WAYS; k++) printf(" %s |", ways[k]);
	printf("\n|---|");
	for (int k = 0; k < WAYS; k++) printf("---|");
	printf("\n");
	for (int i = 0; i < MIXES; i++) {
		one_mix(m, a, i, loss[i], found[i]);
		weight[0][i] = found[i][0], weight[1][i] = found[i][1];
		for (int k = 0; k < WAYS; k++) column[k][i] = loss[i][k];
	}
	printf("| **mean** |");
	for (int k = 0; k < WAYS; k++) printf(" **%.3f** |", mean_of(column[k], MIXES));
	printf("\n\n| better on, of %d | zero-shot | average | best single | LoRA on the 5 |\n|---|---|---|---|---|\n", MIXES);
	for (int k = HUB40; k < WAYS; k++)
		printf("| %s | %d | %d | %d | %d |\n", ways[k], wins_of(column[k], column[ZERO], MIXES), wins_of(column[k], column[AVERAGE], MIXES), wins_of(column[k], column[SINGLE], MIXES), wins_of(column[k], column[FEW], MIXES));
	printf("\nMean weight that \"%s\" gives the dialects in the mix: %.2f, the others: %.3f.\n", ways[LINEAR150], mean_of(weight[0], MIXES), mean_of(weight[1], MIXES));
	chart *c = chart_create("LoraHub on mixed dialects: loss on unseen text", 1);
	chart_panel(c, 0, "mean of 8 unseen tasks", "", "loss in nat per token");
	for (int k = 0; k < WAYS; k++) chart_bar(c, 0, ways[k], mean_of(column[k], MIXES), deviation_of(column[k], MIXES));
	chart_save(c, argc > 1 ? argv[1] : NULL);
	for (int k = 0; k < TASKS; k++) lora_adapter_destroy(a[k]);
	lora_model_destroy(m);
	lora_context_destroy(experiment_ctx);
	return 0;
}
