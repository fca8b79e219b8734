/* Training strategies: layers that rest add nothing and are not touched, the schedule of CoTo and CopRA, and the layers of an adapter. */
#include <check.h>

#include "trainwork.h"

#define SIX_LAYERS "{\"hidden_size\":16,\"intermediate_size\":24,\"num_hidden_layers\":6,\"num_attention_heads\":2,\"num_key_value_heads\":2,\"vocab_size\":131,\"max_position_embeddings\":32,\"seed\":3,\"initializer_range\":0.2}"
#define ON_ALL "{\"r\":2,\"init_lora_weights\":false,\"target_modules\":[\"q_proj\",\"down_proj\"]}"

enum { LAYERS = 6, STEPS = 12 };

/* A small llama of six blocks, so that there is something to drop. */
static void make(world *w, const char *optimizer, const char *optimizer_settings_, const char *trainer, int threads)
{
	golden_context("naive", threads);
	memset(w, 0, sizeof *w);
	world_data(w);
	lora_settings *sm = from_json(SIX_LAYERS), *sa = from_json(ON_ALL), *so = from_json(optimizer_settings_), *st = from_json(trainer);
	ck_ok(lora_model_build(golden_ctx, "llama", sm, &w->m));
	ck_ok(lora_adapter_create(w->m, "lora", sa, &w->a));
	ck_ok(lora_adapter_attach(w->a, 1.0));
	ck_ok(lora_optimizer_create(w->a, optimizer, so, &w->o));
	ck_ok(lora_trainer_create(w->m, w->a, w->o, st, &w->t));
	lora_settings_destroy(sm);
	lora_settings_destroy(sa);
	lora_settings_destroy(so);
	lora_settings_destroy(st);
}

#define COTO "{\"strategy\":\"coto\",\"max_steps\":16,\"seed\":7,\"lr_scheduler_type\":\"constant\"}"

/* The strategy's draws for a number of steps, as the trainer sees them. */
static void draws(world *w, int n, char (*active)[LAYERS])
{
	for (int k = 0; k < n; k++) {
		lora__strat_seek(&w->t->strat, k);
		memcpy(active[k], w->t->strat.active, LAYERS);
	}
	lora__strat_seek(&w->t->strat, 0);
}

/* p = 1 from the start is plain LoRA, bit for bit. */
START_TEST(always_on_is_plain)
{
	static const char *const trainers[] = { "{\"max_steps\":9,\"seed\":7}", "{\"strategy\":\"none\",\"max_steps\":9,\"seed\":7}",
		"{\"strategy\":\"coto\",\"initial_p\":1,\"max_steps\":9,\"seed\":7}", "{\"strategy\":\"copra\",\"initial_p\":1.0,\"max_steps\":9,\"seed\":7}" };
	world w;
	lora__text first = { .n = 0 };
	char *want = NULL;
	size_t n = 0;
	for (int i = 0; i < 4; i++) {
		make(&w, "adamw", OPTIMIZER, trainers[i], 1);
		for (int k = 0; k < 9; k++) ck_ok(step(&w, k, NULL));
		first = snapshot(&w);
		if (!i) n = first.n, want = memcpy(malloc(n), first.data, n);
		ck_assert_msg(first.n == n && memcmp(first.data, want, n) == 0, "%s differs from plain LoRA", trainers[i]);
		lora__text_free(&first);
		world_free(&w);
	}
	free(want);
}
END_TEST

/* A layer that rests keeps parameters and moments as they are (weight decay, too), has no gradient, and the loss is that without it. */
START_TEST(resting_layers)
{
	static const struct { const char *optimizer, *settings; } by[] = { { "adamw", OPTIMIZER }, { "sgd", "{\"learning_rate\":0.1,\"momentum\":0.9,\"weight_decay\":0.1}" } };
	world w;
	char active[STEPS][LAYERS];
	int rested = 0, worked = 0;
	make(&w, by[_i].optimizer, by[_i].settings, COTO, 1);
	draws(&w, STEPS, active);
	size_t n = w.a->n_params;
	float *before = malloc(n * sizeof *before), *moments = malloc(n * sizeof *moments);
	for (int k = 0; k < STEPS; k++) {
		lora_metrics x;
		uint8_t mask[LAYERS];
		double loss;
		memcpy(before, w.a->params, n * sizeof *before);
		memcpy(moments, w.o->opt->slot[0], n * sizeof *moments);
		for (int i = 0; i < LAYERS; i++) mask[i] = (uint8_t)active[k][i];
		lora_batch b = batch_of(&w, k);
		ck_ok(lora_adapter_set_layers(w.a, mask, LAYERS));
		ck_ok(lora_model_loss(w.m, &b, &loss, NULL));
		ck_ok(lora_adapter_set_layers(w.a, NULL, 0));
		ck_ok(step(&w, k, &x));
		ck_assert(fabs(x.loss - loss) <= 1e-6 * loss);
		int64_t on = 0;
		for (int i = 0; i < LAYERS; i++) on += active[k][i];
		ck_assert_int_eq(x.layers, LAYERS);
		ck_assert_int_eq(x.layers_active, on);
		ck_assert_int_gt(on, 0);
		for (size_t t = 0; t < w.a->n_tensors; t++) {
			const lora__ptensor *p = &w.a->tensors[t];
			int same = !memcmp(before + p->offset, w.a->params + p->offset, p->n * sizeof *before);
			int still = !memcmp(moments + p->offset, w.o->opt->slot[0] + p->offset, p->n * sizeof *moments);
			int on_now = active[k][w.t->strat.layer[p->part]];
			ck_assert_msg(on_now ? !same && !still : same && still, "step %d, %s: %s but %s", k, p->name, on_now ? "takes part" : "rests", same ? "unchanged" : "changed");
			rested += !on_now, worked += on_now;
		}
		for (size_t i = 0; i < w.a->n_parts; i++) ck_assert_int_eq(w.a->parts[i].slot.idle, 0); /* all act between steps */
	}
	ck_assert_int_gt(rested, 10);
	ck_assert_int_gt(worked, 10);
	free(before);
	free(moments);
	world_free(&w);
}
END_TEST

/* Each layer counts its own steps, as torch's AdamW does: its first one is lr * g / (|g| + eps) whenever it comes. */
START_TEST(bias_correction_by_layer)
{
	world w;
	char active[STEPS][LAYERS];
	int64_t seen[LAYERS] = { 0 };
	int late = 0;
	make(&w, "adamw", "{\"learning_rate\":0.01,\"adam_beta1\":0.9,\"adam_beta2\":0.99}", COTO, 1);
	draws(&w, STEPS, active);
	float *before = malloc(w.a->n_params * sizeof *before);
	for (int k = 0; k < STEPS; k++) {
		memcpy(before, w.a->params, w.a->n_params * sizeof *before);
		ck_ok(step(&w, k, NULL));
		for (size_t t = 0; t < w.a->n_tensors; t++) {
			const lora__ptensor *p = &w.a->tensors[t];
			int layer = w.t->strat.layer[p->part];
			if (!active[k][layer] || seen[layer]) continue;
			late += k > 0;
			for (size_t i = p->offset; i < p->offset + p->n; i++) { /* without bias correction by its own count it would be far smaller or larger */
				double moved = fabs((double)before[i] - w.a->params[i]);
				ck_assert_msg(moved < 1.001e-2, "step %d: %s moved by %g", k, p->name, moved);
				if (i == p->offset) ck_assert_msg(moved > 0.99e-2, "step %d: %s moved by %g only", k, p->name, moved);
			}
		}
		for (int i = 0; i < LAYERS; i++) seen[i] += active[k][i];
	}
	ck_assert_int_gt(late, 2);
	free(before);
	world_free(&w);
}
END_TEST

/* Frequencies follow p(t) given that a layer takes part at all: E = n p / (1 - (1-p)^n). */
START_TEST(frequency)
{
	static const struct { const char *trainer; double p0, p1, ratio; int total; } cases[] = {
		{ "{\"strategy\":\"coto\",\"max_steps\":8000,\"seed\":1}", 0.1, 1, 0.75, 8000 },
		{ "{\"strategy\":\"copra\",\"max_steps\":8000,\"seed\":2}", 0, 1, 0.75, 8000 },
		{ "{\"strategy\":\"coto\",\"initial_p\":0.5,\"final_p\":0.5,\"stage1_ratio\":0,\"max_steps\":4000,\"seed\":3}", 0.5, 0.5, 0, 4000 },
	};
	world w;
	make(&w, "adamw", OPTIMIZER, cases[_i].trainer, 1);
	int total = cases[_i].total, blocks = 8;
	int64_t by_layer[LAYERS] = { 0 };
	for (int b = 0; b < blocks; b++) {
		double want = 0, got = 0, var = 0;
		for (int k = b * total / blocks; k < (b + 1) * total / blocks; k++) {
			double end = ceil(cases[_i].ratio * total), p = k < end ? cases[_i].p0 + (cases[_i].p1 - cases[_i].p0) * k / end : cases[_i].p1;
			want += p > 0 ? LAYERS * p / (1 - pow(1 - p, LAYERS)) : 1;
			var += LAYERS * 0.25;
			lora__strat_seek(&w.t->strat, k);
			ck_assert_int_gt(w.t->strat.n_active, 0);
			got += (double)w.t->strat.n_active;
			for (int i = 0; i < LAYERS; i++) by_layer[i] += w.t->strat.active[i];
		}
		ck_assert_msg(fabs(got - want) < 5 * sqrt(var), "block %d: %g layers took part, expected %g", b, got, want);
		if (cases[_i].p1 == 1 && b >= 6) ck_assert_int_eq((int)got, total / blocks * LAYERS); /* plain LoRA at the end */
	}
	for (int i = 1; i < LAYERS; i++) ck_assert(llabs(by_layer[i] - by_layer[0]) < 5 * (int64_t)sqrt(total)); /* all alike */
	world_free(&w);
}
END_TEST

/* Every member of the family: saved after any micro-batch, taken up in new objects: the same bits to the end, and the draws depend on seed and step alone. */
START_TEST(resume)
{
	char trainer[120];
	world w;
	scratch d;
	snprintf(trainer, sizeof trainer, "{\"strategy\":\"%s\",\"max_steps\":6,\"gradient_accumulation_steps\":2,\"seed\":4}", lora__strategies[_i]->m.name);
	scratch_make(&d);
	make(&w, "adamw", OPTIMIZER, trainer, 1);
	for (int k = 0; k < STEPS; k++) ck_ok(step(&w, k, NULL));
	lora__text end = snapshot(&w);
	size_t n = end.n;
	char *want = memcpy(malloc(n), end.data, n);
	lora__text_free(&end);
	world_free(&w);
	for (int at = 0; at <= STEPS; at++) {
		char name[16];
		snprintf(name, sizeof name, "at%d", at);
		make(&w, "adamw", OPTIMIZER, trainer, 1);
		for (int k = 0; k < at; k++) ck_ok(step(&w, k, NULL));
		ck_ok(lora_trainer_save(w.t, scratch_path(&d, name), at));
		world_free(&w);
		make(&w, "adamw", OPTIMIZER, trainer, 1);
		for (int k = 0; k < at % 5; k++) ck_ok(step(&w, 40 + k, NULL));
		ck_ok(lora_trainer_resume(w.t, scratch_path(&d, name), NULL));
		for (int k = at; k < STEPS; k++) ck_ok(step(&w, k, NULL));
		end = snapshot(&w);
		ck_assert_msg(end.n == n && memcmp(end.data, want, n) == 0, "saved at %d: the end differs", at);
		lora__text_free(&end);
		world_free(&w);
	}
	free(want);
	scratch_remove(&d);
}
END_TEST

/* Another strategy, or other values of it, is another run. */
START_TEST(resume_refused)
{
	static const char *const others[] = { "{\"max_steps\":6}", "{\"strategy\":\"copra\",\"max_steps\":6}", "{\"strategy\":\"coto\",\"initial_p\":0.2,\"max_steps\":6}",
		"{\"strategy\":\"coto\",\"max_steps\":7}" };
	world w;
	scratch d;
	scratch_make(&d);
	make(&w, "adamw", OPTIMIZER, "{\"strategy\":\"coto\",\"max_steps\":6}", 1);
	ck_ok(step(&w, 0, NULL));
	ck_ok(lora_trainer_save(w.t, scratch_path(&d, "c"), 0));
	world_free(&w);
	for (int i = 0; i < 4; i++) {
		make(&w, "adamw", OPTIMIZER, others[i], 1);
		ck_assert_int_ne(lora_trainer_resume(w.t, scratch_path(&d, "c"), NULL), LORA_OK);
		if (i < 3) ck_assert_ptr_nonnull(strstr(lora_context_last_error(golden_ctx), "strategy"));
		world_free(&w);
	}
	make(&w, "adamw", OPTIMIZER, "{\"max_steps\":6}", 1); /* and the other way round */
	ck_ok(step(&w, 0, NULL));
	ck_ok(lora_trainer_save(w.t, scratch_path(&d, "p"), 0));
	world_free(&w);
	make(&w, "adamw", OPTIMIZER, "{\"strategy\":\"coto\",\"max_steps\":6}", 1);
	ck_assert_int_ne(lora_trainer_resume(w.t, scratch_path(&d, "p"), NULL), LORA_OK);
	world_free(&w);
	scratch_remove(&d);
}
END_TEST

/* Two runs with two threads are the same bits; checkpointing sees the same layers when it computes again; accumulation keeps the draw of its step. */
START_TEST(same_bits)
{
	static const struct { const char *trainer; int threads; } pairs[][2] = {
		{ { COTO, 2 }, { COTO, 2 } },
		{ { COTO, 1 }, { "{\"strategy\":\"coto\",\"max_steps\":16,\"seed\":7,\"lr_scheduler_type\":\"constant\",\"gradient_checkpointing\":true}", 1 } },
	};
	world w;
	char *first = NULL;
	size_t n = 0;
	for (int i = 0; i < 2; i++) {
		make(&w, "adamw", OPTIMIZER, pairs[_i][i].trainer, pairs[_i][i].threads);
		for (int k = 0; k < STEPS; k++) ck_ok(step(&w, k, NULL));
		size_t bytes = w.a->n_params * sizeof(float);
		if (!i) n = bytes, first = memcpy(malloc(n), w.a->params, n);
		else ck_assert(bytes == n && !memcmp(first, w.a->params, n));
		world_free(&w);
	}
	free(first);
}
END_TEST

/* The same batch k times: micro-batches of one step have one draw, so k of them are one of them, to rounding. */
START_TEST(accumulation)
{
	world w;
	float *want = NULL;
	for (int times = 1; times <= 3; times += 2) {
		char trainer[160];
		snprintf(trainer, sizeof trainer, "{\"strategy\":\"copra\",\"max_steps\":8,\"seed\":2,\"lr_scheduler_type\":\"constant\",\"gradient_accumulation_steps\":%d}", times);
		make(&w, "sgd", "{\"learning_rate\":0.3}", trainer, 1);
		for (int k = 0; k < 6; k++)
			for (int i = 0; i < times; i++) ck_ok(step(&w, k, NULL));
		if (times == 1) want = memcpy(malloc(w.a->n_params * sizeof *want), w.a->params, w.a->n_params * sizeof *want);
		for (size_t i = 0; i < w.a->n_params; i++) ck_assert_msg(fabsf(want[i] - w.a->params[i]) < 1e-4f, "parameter %zu: %g, %g", i, (double)want[i], (double)w.a->params[i]);
		world_free(&w);
	}
	free(want);
}
END_TEST

START_TEST(refusals)
{
	static const struct { const char *trainer, *word; } bad[] = { { "{\"strategy\":\"cotto\",\"max_steps\":3}", "did you mean coto" }, { "{\"strategy\":\"coto\"}", "max_steps" },
		{ "{\"strategy\":\"coto\",\"max_steps\":3,\"initial_p\":1.5}", "initial_p" }, { "{\"initial_p\":0.5,\"max_steps\":3}", "initial_p" }, { "{\"strategy\":3}", "strategy" } };
	world w;
	lora_trainer *t;
	make(&w, "adamw", OPTIMIZER, "{}", 1);
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		lora_settings *s = from_json(bad[i].trainer);
		ck_assert_int_eq(lora_trainer_create(w.m, w.a, w.o, s, &t), LORA_E_ARGUMENT);
		ck_assert_msg(strstr(lora_context_last_error(golden_ctx), bad[i].word) != NULL, "%s: %s", bad[i].trainer, lora_context_last_error(golden_ctx));
		lora_settings_destroy(s);
	}
	/* virtual tokens have no layers */
	lora_settings *sp = from_json("{\"num_virtual_tokens\":3}"), *st = from_json(COTO);
	lora_adapter *p, *cut;
	lora_optimizer *o;
	int64_t n = 9;
	ck_ok(lora_adapter_detach(w.a));
	ck_ok(lora_adapter_create(w.m, "prefix_tuning", sp, &p));
	ck_ok(lora_adapter_attach(p, 1));
	ck_ok(lora_optimizer_create(p, "adamw", NULL, &o));
	ck_assert_int_eq(lora_trainer_create(w.m, p, o, st, &t), LORA_E_UNSUPPORTED);
	ck_ok(lora_adapter_layers(p, NULL, 0, &n));
	ck_assert_int_eq(n, 0);
	ck_assert_int_eq(lora_adapter_prune(p, (const uint8_t *)"", 0, &cut), LORA_E_ARGUMENT);
	lora_optimizer_destroy(o);
	lora_adapter_destroy(p);
	lora_settings_destroy(sp);
	lora_settings_destroy(st);
	world_free(&w);
}
END_TEST

/* ---- layers ---- */

static double loss_of(world *w)
{
	lora_batch b = batch_of(w, 1);
	double loss;
	ck_ok(lora_model_loss(w->m, &b, &loss, NULL));
	return loss;
}

START_TEST(layers)
{
	world w;
	int32_t layer[LAYERS * 7 + 1];
	int64_t n = 0;
	uint8_t mask[LAYERS] = { 0 };
	make(&w, "adamw", OPTIMIZER, "{}", 1);
	int64_t sites = lora_model_site_count(w.m);
	ck_ok(lora_adapter_layers(w.a, layer, sites, &n));
	ck_assert_int_eq(n, LAYERS);
	for (int64_t i = 0; i < sites; i++) {
		lora_site_info info = { .struct_size = sizeof info };
		ck_ok(lora_model_site_info(w.m, i, &info));
		int on = strstr(info.name, "q_proj") || strstr(info.name, "down_proj");
		ck_assert_int_eq(layer[i], on ? info.layer : -1);
	}
	double with = loss_of(&w);
	ck_ok(lora_adapter_set_layers(w.a, mask, n));
	double none = loss_of(&w);
	ck_ok(lora_adapter_detach(w.a));
	ck_assert(none == loss_of(&w));
	ck_ok(lora_adapter_attach(w.a, 1));
	ck_ok(lora_adapter_set_layers(w.a, NULL, 0));
	ck_assert(with == loss_of(&w) && with != none);
	ck_assert_int_eq(lora_adapter_set_layers(w.a, mask, n + 1), LORA_E_SHAPE);
	ck_assert_int_eq(lora_adapter_layers(w.a, layer, sites - 1, &n), LORA_E_SHAPE);
	ck_assert_int_eq(lora_adapter_layers(w.a, layer, sites, NULL), LORA_E_ARGUMENT);
	ck_ok(lora_adapter_merge(w.a, NULL));
	ck_assert_int_eq(lora_adapter_set_layers(w.a, mask, n), LORA_E_STATE);
	world_free(&w);
}
END_TEST

/* A pruned adapter computes what the whole one does with the same layers at rest, also after saving and opening. */
START_TEST(prune)
{
	static const char *const adapters[] = { ON_ALL, "{\"r\":2,\"init_lora_weights\":false,\"target_modules\":\"all-linear\"}",
		"{\"r\":2,\"init_lora_weights\":false,\"target_modules\":\".*(k_proj|up_proj)\",\"rank_pattern\":{\"k_proj\":3}}",
		"{\"r\":2,\"init_lora_weights\":false,\"target_modules\":[\"v_proj\"],\"layers_to_transform\":[0,1,2,3,4,5],\"exclude_modules\":[\"model.layers.5.self_attn.v_proj\"]}",
		"{\"r\":2,\"init_lora_weights\":false,\"target_modules\":[\"q_proj\"],\"modules_to_save\":[\"lm_head\"]}" };
	world w;
	scratch d;
	scratch_make(&d);
	make(&w, "adamw", OPTIMIZER, "{}", 1);
	ck_ok(lora_adapter_detach(w.a));
	for (size_t i = 0; i < sizeof adapters / sizeof *adapters; i++) {
		lora_adapter *a, *cut, *again;
		lora_settings *s = from_json(adapters[i]);
		int64_t n;
		uint8_t keep[LAYERS] = { 1, 0, 1, 1, 0, 0 };
		ck_ok(lora_adapter_create(w.m, "lora", s, &a));
		ck_ok(lora_adapter_layers(a, NULL, 0, &n));
		ck_ok(lora_adapter_attach(a, 1));
		ck_ok(lora_adapter_set_layers(a, keep, n));
		double want = loss_of(&w);
		ck_ok(lora_adapter_detach(a));
		ck_ok(lora_adapter_prune(a, keep, n, &cut));
		ck_ok(lora_adapter_attach(cut, 1));
		ck_assert(loss_of(&w) == want);
		ck_ok(lora_adapter_save(cut, scratch_path(&d, "cut"), NULL));
		lora_adapter_destroy(cut);
		ck_ok(lora_adapter_open(w.m, scratch_path(&d, "cut"), NULL, &again));
		ck_ok(lora_adapter_attach(again, 1));
		ck_assert(loss_of(&w) == want);
		lora_adapter_destroy(again);
		memset(keep, 0, sizeof keep);
		ck_assert_int_eq(lora_adapter_prune(a, keep, n, &cut), LORA_E_ARGUMENT);
		ck_assert_int_eq(lora_adapter_prune(a, NULL, n, &cut), LORA_E_ARGUMENT);
		ck_assert_int_eq(lora_adapter_prune(a, keep, n - 1, &cut), LORA_E_SHAPE);
		lora_adapter_destroy(a);
		lora_settings_destroy(s);
	}
	ck_ok(lora_adapter_attach(w.a, 1));
	world_free(&w);
	scratch_remove(&d);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("strategy");
	TCase *t = tcase_create("strategy");
	suite_add_tcase(s, t);
	tcase_add_test(t, always_on_is_plain);
	tcase_add_loop_test(t, resting_layers, 0, 2);
	tcase_add_test(t, bias_correction_by_layer);
	tcase_add_loop_test(t, frequency, 0, 3);
	int members = 0;
	while (lora__strategies[members]) members++;
	tcase_add_loop_test(t, resume, 0, members);
	tcase_add_test(t, resume_refused);
	tcase_add_loop_test(t, same_bits, 0, 2);
	tcase_add_test(t, accumulation);
	tcase_add_test(t, refusals);
	tcase_add_test(t, layers);
	tcase_add_test(t, prune);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
