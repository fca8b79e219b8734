/* lora train: the training loop around lora_trainer_step. The position in the data is the number of micro-batches done, kept in the checkpoint
 * as its cursor together with the number of skipped steps, from which the step follows. */
#include "cli/commands.h"
#include "cli/data.h"
#include "cli/dryrun.h"
#include "cli/trainout.h"
#include "cli/trainset.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CURSOR_BITS 40 /* micro-batches below, skipped steps above */

typedef struct training {
	const args *a;
	session s;
	train_plan plan;
	train_out out;
	dataset data, validation;
	lora_adapter *adapter;
	lora_optimizer *optimizer;
	lora_trainer *trainer;
	lora_metrics metrics; /* of the last step */
	int metrics_new;
	progress bar;
	json_t *before; /* train.json of the run that is resumed */
	int64_t done, skipped, step, saved_step, first_step;
	int64_t tokens;
	double begun, start, loss; /* seconds_now() when the program began, and when the first step did */
} training;

/* ---- setting up ---- */

static int make_adapter(training *t)
{
	const char *init = t->a->init;
	lora_settings *settings = NULL;
	lora_status result;
	int status;

	if (!init && t->before) init = json_string_value(json_object_get(t->before, "init"));
	if (init) {
		if (lora_adapter_open(t->s.model, init, NULL, &t->adapter)) return fail_library(t->s.ctx, init);
		status = plan_agrees(&t->plan, t->s.ctx, t->adapter, init);
	} else {
		if (!json_object_get(t->plan.adapter, "seed")) json_object_set_new(t->plan.adapter, "seed", json_integer(t->plan.seed));
		status = plan_settings(&t->s, t->plan.adapter, &settings);
		if (!status && (result = lora_adapter_create(t->s.model, t->plan.method, settings, &t->adapter)))
			status = fail_setting(&t->s, result, t->plan.method);
	}
	lora_settings_destroy(settings);
	if (!status && lora_adapter_attach(t->adapter, 1)) status = fail_library(t->s.ctx, "adapter");
	return status;
}

static int make_trainer(training *t)
{
	lora_settings *optim = NULL, *trainer = NULL;
	lora_status result;
	int status;

	json_object_set_new(t->plan.trainer, "max_steps", json_integer(t->plan.max_steps));
	if (!json_object_get(t->plan.trainer, "seed")) json_object_set_new(t->plan.trainer, "seed", json_integer(t->plan.seed));
	status = plan_settings(&t->s, t->plan.optim, &optim);
	if (!status && (result = lora_optimizer_create(t->adapter, t->plan.optimizer, optim, &t->optimizer)))
		status = fail_setting(&t->s, result, t->plan.optimizer);
	if (!status) status = plan_settings(&t->s, t->plan.trainer, &trainer);
	if (!status && (result = lora_trainer_create(t->s.model, t->adapter, t->optimizer, trainer, &t->trainer)))
		status = fail_setting(&t->s, result, "trainer");
	lora_settings_destroy(optim);
	lora_settings_destroy(trainer);
	return status;
}

static int open_data(training *t)
{
	train_plan *p = &t->plan;
	data_options o = {
		.batch_size = p->batch_size, .packing = p->packing, .by_length = p->by_length, .completion_only = p->completion_only, .shuffle = 1,
		.seed = p->seed, .skip_bad = t->a->skip_bad, .chat_template = p->chat_template, .memory = p->data_memory << 20
	};
	int status;

	if (p->sequence_length == UNSET) {
		p->sequence_length = 512;
		if (t->s.info.max_positions >= 2 && t->s.info.max_positions < 512) p->sequence_length = t->s.info.max_positions;
	} else if (t->s.info.max_positions >= 2 && p->sequence_length > t->s.info.max_positions) {
		return fail(USAGE, "sequence_length", "%lld is more than the model's %lld positions", (long long)p->sequence_length,
			(long long)t->s.info.max_positions);
	}
	o.sequence_length = p->sequence_length;
	status = data_open(&t->data, &t->s, t->a->data, t->a->model, &o);
	if (!status && p->validation) {
		o.shuffle = o.packing = o.by_length = 0;
		status = data_open(&t->validation, &t->s, p->validation, t->a->model, &o);
	} else if (!status && p->validation_split > 0) {
		status = data_split(&t->data, p->validation_split, &t->validation);
	}
	if (status) return status;
	/* as they came out, so that a resumed run can be compared with */
	json_object_set_new(p->given, "batch_size", json_integer(p->batch_size));
	json_object_set_new(p->given, "sequence_length", json_integer(p->sequence_length));
	json_object_set_new(p->given, "gradient_accumulation_steps", json_integer(p->accumulation));
	json_object_set_new(p->given, "packing", json_boolean(p->packing));
	json_object_set_new(p->given, "group_by_length", json_boolean(p->by_length));
	if (p->validation_split > 0) json_object_set_new(p->given, "validation_split", json_real(p->validation_split));
	json_object_set_new(p->given, "loss_on", json_string(p->completion_only ? "completion" : "all"));
	if (p->max_steps == UNSET) {
		double epochs = isnan(p->epochs) ? t->data.slabs ? 1 : 3 : p->epochs;
		double steps = ceil(epochs * (double)data_batches(&t->data) / (double)p->accumulation);
		if (steps > 1e15) return fail(USAGE, "num_train_epochs", "makes too many steps");
		p->max_steps = steps < 1 ? 1 : (int64_t)steps;
	}
	return OK;
}

static int32_t on_progress(void *user, const lora_metrics *m)
{
	training *t = user;
	(void)m;
	(void)t;
	return stop_asked();
}

static int take_up(training *t)
{
	int64_t cursor = 0;
	if (lora_trainer_resume(t->trainer, t->out.checkpoint, &cursor)) return fail_library(t->s.ctx, t->out.checkpoint);
	t->done = cursor & ((INT64_C(1) << CURSOR_BITS) - 1);
	t->skipped = cursor >> CURSOR_BITS;
	t->step = t->done / t->plan.accumulation - t->skipped;
	t->saved_step = t->first_step = t->step;
	return train_out_continue(&t->out, t->step, t->plan.given, json_string_value(json_object_get(t->before, "init")));
}

/* ---- running ---- */

static int emit(training *t, json_t *line)
{
	int status = train_out_log(&t->out, line);
	if (!status && t->a->json) return print_json(line);
	json_decref(line);
	return status;
}

static int save(training *t)
{
	if (t->saved_step == t->step && t->step > 0) return OK;
	if (lora_trainer_save(t->trainer, t->out.checkpoint, t->done | t->skipped << CURSOR_BITS))
		return fail_library(t->s.ctx, t->out.checkpoint);
	t->saved_step = t->step;
	return OK;
}

static int evaluate(training *t)
{
	double sum = 0;
	int64_t tokens = 0, n = data_batches(&t->validation);
	for (int64_t i = 0; i < n && !stop_asked(); i++) {
		lora_batch batch;
		double loss = 0;
		int64_t count = 0;
		if (data_batch(&t->validation, i, &batch)) return FAILED;
		if (lora_trainer_evaluate(t->trainer, &batch, 1, &loss, &count)) return fail_library(t->s.ctx, t->validation.path);
		sum += loss * (double)count;
		tokens += count;
	}
	if (stop_asked()) return OK;
	double loss = tokens ? sum / (double)tokens : 0;
	json_t *line = json_object();
	json_object_set_new(line, "step", json_integer(t->step));
	json_object_set_new(line, "eval_loss", json_number(loss));
	json_object_set_new(line, "eval_perplexity", json_number(exp(loss)));
	json_object_set_new(line, "eval_tokens", json_integer(tokens));
	if (!t->a->json && !t->a->quiet) {
		progress_end(&t->bar);
		fprintf(stderr, "lora: step %lld: validation loss %.5g\n", (long long)t->step, loss);
	}
	return emit(t, line);
}

/* The optimizer has stepped. */
static int after_step(training *t)
{
	const lora_metrics *m = &t->metrics;
	char detail[96];

	t->step = m->step;
	t->tokens += m->tokens;
	t->loss = m->loss;
	double rate = m->seconds > 0 ? (double)m->tokens / m->seconds : 0;
	json_t *line = json_object();
	json_object_set_new(line, "step", json_integer(m->step));
	json_object_set_new(line, "loss", json_number(m->loss));
	json_object_set_new(line, "lr", json_number(m->lr));
	json_object_set_new(line, "grad_norm", json_number(m->grad_norm));
	json_object_set_new(line, "tokens", json_integer(m->tokens));
	json_object_set_new(line, "tokens_per_second", json_number(rate));
	if (json_object_get(t->plan.given, "strategy")) json_object_set_new(line, "layers_active", json_integer(m->layers_active));
	if (emit(t, line)) return FAILED;
	snprintf(detail, sizeof detail, "loss %.4g  %.4g tokens/s ", m->loss, rate);
	progress_show(&t->bar, t->step, detail);
	if (t->plan.save_steps && t->step % t->plan.save_steps == 0 && save(t)) return FAILED;
	if (t->plan.eval_steps && t->step % t->plan.eval_steps == 0 && t->step < t->plan.max_steps) return evaluate(t);
	return OK;
}

static int train(training *t)
{
	int status = OK;
	progress_start(&t->bar, "train", t->step, t->plan.max_steps);
	while (!status && t->step < t->plan.max_steps && !stop_asked()) {
		/* a step that is begun is finished */
		lora_batch batch;
		lora_metrics m;
		do {
			memset(&m, 0, sizeof m);
			m.struct_size = sizeof m;
			if (data_batch(&t->data, t->done, &batch)) return FAILED;
			lora_status result = lora_trainer_step(t->trainer, &batch, &m);
			if (result && result != LORA_E_CANCELLED) {
				progress_end(&t->bar);
				return fail_library(t->s.ctx, t->a->data);
			}
			t->done++;
		} while (t->done % t->plan.accumulation);
		t->metrics = m;
		if (m.skipped > t->skipped)
			warn("train", "a step was skipped: loss or gradient not finite (%lld so far)", (long long)m.skipped);
		t->skipped = m.skipped;
		if (m.updated) status = after_step(t);
	}
	progress_end(&t->bar);
	return status;
}

static int totals(training *t, int stopped)
{
	lora_adapter_info info = { .struct_size = sizeof info };
	double seconds = seconds_now() - t->start;
	int64_t peak = peak_memory();
	char n[32], took[32];

	if (lora_adapter_get_info(t->adapter, &info)) info.n_parameters = 0;
	if (t->a->json) {
		json_t *line = json_object();
		json_object_set_new(line, "done", json_boolean(!stopped));
		if (stopped) json_object_set_new(line, "interrupted", json_true());
		json_object_set_new(line, "steps", json_integer(t->step));
		json_object_set_new(line, "tokens", json_integer(t->tokens));
		json_object_set_new(line, "seconds", json_number(seconds));
		json_object_set_new(line, "startup_seconds", json_number(t->start - t->begun));
		json_object_set_new(line, "tokens_per_second", json_number(seconds > 0 ? (double)t->tokens / seconds : 0));
		json_object_set_new(line, "final_loss", t->step > t->first_step ? json_number(t->loss) : json_null());
		json_object_set_new(line, "skipped", json_integer(t->skipped));
		json_object_set_new(line, "examples", json_integer(t->data.slabs ? t->data.n : t->data.n_pick));
		json_object_set_new(line, "bad_lines", json_integer(t->data.bad));
		json_object_set_new(line, "parameters", json_integer(info.n_parameters));
		json_object_set_new(line, "peak_memory_bytes", json_integer(peak));
		json_object_set_new(line, "output", json_path(t->out.dir));
		return print_json(line);
	}
	human_time(seconds, took, sizeof took);
	if (!stopped && t->step == t->first_step) {
		say("nothing left to do: step %lld of %lld is done\n", (long long)t->step, (long long)t->plan.max_steps);
		return OK;
	}
	say("%s after step %lld of %lld: loss %.5g, %s tokens in %s, peak memory %.0f MiB\n", stopped ? "stopped" : "done",
		(long long)t->step, (long long)t->plan.max_steps, t->loss, format_count(t->tokens, n, sizeof n), took,
		(double)peak / 1048576);
	if (stopped) say("go on with --resume\n");
	else say("wrote %s\n", t->out.dir);
	return OK;
}

/* The order of the data hangs on these; the rest is the library's to compare. */
static int same_data_settings(const training *t)
{
	static const char *const names[] = { "batch_size", "sequence_length", "packing", "group_by_length", "validation_split", "loss_on",
		"gradient_accumulation_steps" };
	json_t *was = json_object_get(t->before, "settings");
	for (size_t i = 0; was && i < sizeof names / sizeof names[0]; i++) {
		json_t *now = json_object_get(t->plan.given, names[i]), *then = json_object_get(was, names[i]);
		if (then && !json_equal(now, then))
			return fail(USAGE, names[i], "differs from the run that is resumed (%s)", t->out.settings_path);
	}
	return OK;
}

/* All memory of the largest batch, so that no step has to ask for any. */
static int reserve(training *t)
{
	data_shape d = data_largest(&t->data);
	if (lora_trainer_reserve(t->trainer, d.sequences, d.length, d.tokens)) return fail_library(t->s.ctx, "trainer");
	return OK;
}

static int prepare(training *t)
{
	const args *a = t->a;
	json_t *settings = NULL;
	int status = a->output ? train_out_check(&t->out, a) : OK;
	if (!status && a->resume) status = train_out_before(&t->out, &t->before);
	if (!status) status = session_context(&t->s, a);
	if (t->before) settings = json_object_get(t->before, "settings");
	if (!status) status = plan_read(&t->plan, &t->s, a, settings);
	if (!status) status = session_model_as(&t->s, a, json_integer_value(json_object_get(t->plan.given, "num_labels")));
	if (!status && !t->s.info.has_head) status = fail(USAGE, a->model, "has no head to train: -s num_labels=N makes it a classifier of N classes");
	if (!status) plan_model(&t->plan, &t->s, t->a->model);
	if (!status) status = open_data(t);
	if (!status) status = same_data_settings(t);
	if (!status) status = make_adapter(t);
	if (!status) status = make_trainer(t);
	if (!status && lora_trainer_set_progress(t->trainer, on_progress, t)) status = fail_library(t->s.ctx, "trainer");
	if (!status && a->dry_run) return OK;
	if (!status) status = reserve(t);
	if (!status) status = a->resume ? take_up(t) : train_out_begin(&t->out, t->plan.given, a->init);
	return status;
}

static int run(const args *a)
{
	training t;
	int status;

	memset(&t, 0, sizeof t);
	t.a = a;
	t.begun = seconds_now();
	if (!a->data) return fail(USAGE, "-d", "data is needed");
	if (!a->output && (!a->dry_run || a->resume)) return fail(USAGE, "-o", "says where to write the adapter, and is needed");
	if (a->resume && a->init) return fail(USAGE, "--init", "cannot go with --resume");
	if (!a->model) return fail(USAGE, "-m", "a model is needed");
	status = prepare(&t);
	if (!status && a->dry_run) {
		status = dry_run(&t.s, t.trainer, &t.data, t.plan.max_steps);
	} else if (!status) {
		stop_politely();
		t.start = seconds_now();
		status = train(&t);
		int stopped = t.step < t.plan.max_steps ? stop_asked() : 0;
		if (!status && !stopped && t.validation.n) status = evaluate(&t);
		/* a reader of our lines that went away stops the run, but costs no work */
		if (!status || t.step > t.first_step) {
			int saved = save(&t);
			status = status ? status : saved;
		}
		if (!status && !stopped) status = train_out_adapter(&t.out, t.s.ctx, t.adapter);
		if (!status) status = totals(&t, stopped);
		if (!status) status = stopped;
	}
	train_out_close(&t.out);
	data_close(&t.validation);
	data_close(&t.data);
	lora_trainer_destroy(t.trainer);
	lora_optimizer_destroy(t.optimizer);
	lora_adapter_destroy(t.adapter);
	plan_free(&t.plan);
	json_decref(t.before);
	session_close(&t.s);
	return status;
}

const command command_train = { "train",
	"-m MODEL -d DATA -o OUT [-c adapter_config.json] [--init ADAPTER] [--resume] [--dry-run] [-s NAME=VALUE]...", "train an adapter",
	"DATA  .txt: one text, cut into blocks of sequence_length tokens; .jsonl: one example per line with text, or prompt and\n"
	"      completion, or messages (a list of role and content, written by the model's chat template), for classifiers text and\n"
	"      label; .safetensors: input_ids [S,B,T], optional labels and attention_mask: step s takes slab s (k slabs when\n"
	"      accumulating k). A bad line ends the run; with --skip-bad it is left out and counted.\n"
	"OUT   becomes a PEFT directory when the run has come to its end; OUT/checkpoint holds the state for --resume, written every\n"
	"      save_steps, at the end and on Ctrl-C; OUT/log.jsonl one line per step ('lora plot OUT' draws it); OUT/train.json the\n"
	"      settings, so that --resume needs only -m, -d and -o.\n"
	"\n"
	"Settings (-s NAME=VALUE; those of -c count where -s says nothing)\n"
	"  method            kind of adapter: lora; prefix_tuning, prompt_tuning (num_virtual_tokens ...); 'lora methods adapter lora'\n"
	"                    lists what it takes (r, lora_alpha, target_modules ...)\n"
	"  optimizer         adamw; 'lora methods optimizer' (learning_rate, weight_decay, adam_beta1 ...)\n"
	"  lr_scheduler_type, warmup_steps, warmup_ratio, max_grad_norm (0 = off), gradient_accumulation_steps,\n"
	"  loss_average, gradient_checkpointing: 'lora methods trainer trainer'\n"
	"  strategy          none; coto or copra: layers take part at random, more and more of them ('lora methods strategy coto')\n"
	"  max_steps         steps in all; without it num_train_epochs counts\n"
	"  num_train_epochs  3 as in transformers; 1 for .safetensors\n"
	"  batch_size        8 sequences per step (.txt, .jsonl)\n"
	"  sequence_length   512, or the model's positions when those are fewer\n"
	"  packing           false; true: a batch has batch_size blocks, each of as many examples as fit into sequence_length tokens;\n"
	"                    no example attends to another\n"
	"  group_by_length   false; true: examples of about the same length come together\n"
	"  loss_on           completion (a prompt, and of messages all but the assistant's, does not count), or all\n"
	"  chat_template     as --chat-template; 'lora methods chat_template' lists the names\n"
	"  data_memory       256 MiB of examples in memory; more go to a temporary file (TMPDIR)\n"
	"  save_steps        500; 0 = only at the end\n"
	"  validation        a file like DATA to evaluate on, every eval_steps (0 = only at the end)\n"
	"  validation_split  instead: a share of DATA, such as 0.1, held back for that; chosen by the seed\n"
	"  num_labels        makes a BERT or RoBERTa without a head a classifier with a fresh one\n"
	"  seed              0; of the adapter's start, dropout and the order of the examples\n"
	"\n"
	"JSON  per step: step, loss (before the update), lr, grad_norm, tokens, tokens_per_second, with a strategy layers_active; per evaluation: step, eval_loss,\n"
	"      eval_perplexity, eval_tokens; last: done, steps, tokens, seconds, startup_seconds, tokens_per_second, final_loss,\n"
	"      skipped, examples, bad_lines, parameters, peak_memory_bytes, output.\n"
	"--dry-run needs no -o. It prints the memory of the largest batch in bytes: weights, packed, adapter, optimizer, activations, scratch,\n"
	"      other, backend, program, peak.\n"
	"Ctrl-C finishes the step, writes a checkpoint and exits with 130; a second Ctrl-C ends at once.\n",
	"model data output config init resume dry-run skip-bad chat-template set force", 0, 0, run };
