/* lora prune: what each layer of an adapter is worth, and an adapter of the layers that are worth most. The worth of layers together is the loss
 * that they save over the data; a layer's own is its Shapley value in that game (arXiv:2410.22911). */
#include "cli/commands.h"
#include "cli/measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct pruning {
	session s;
	measure data;
	lora_adapter *adapter; /* borrowed */
	int64_t n, kept, calls, expected;
	double *values, *errors;
	uint8_t *keep;
	char **names;
	double none, all, after;
	lora_settings *settings;
	progress bar;
} pruning;

/* ---- layers ---- */

static char *block_name(const char *site)
{
	for (const char *p = site; (p = strchr(p, '.')); p++) {
		size_t digits = strspn(p + 1, "0123456789");
		if (digits && (p[1 + digits] == '.' || !p[1 + digits])) return new_format("%.*s", (int)((size_t)(p - site) + 1 + digits), site);
	}
	return new_string("(outside of the blocks)");
}

static double delta_norm(pruning *p, int64_t site, int64_t count, int *status)
{
	double sum = 0;
	float *d = new_array((size_t)count, sizeof *d);
	if (!d) *status = FAILED;
	else if (lora_adapter_delta(p->adapter, site, d, (size_t)count * sizeof *d)) *status = fail_library(p->s.ctx, "--by norm");
	for (int64_t i = 0; i < count && !*status; i++) sum += (double)d[i] * d[i];
	free(d);
	return sum;
}

/* Names of the layers; with norms the squared norms of their deltas are added up. */
static int read_layers(pruning *p, int norms)
{
	int64_t sites = lora_model_site_count(p->s.model);
	int32_t *layer = new_array((size_t)sites, sizeof *layer);
	int status = layer ? OK : FAILED;
	if (!status && lora_adapter_layers(p->adapter, layer, sites, &p->n)) status = fail_library(p->s.ctx, "-a");
	if (!status && p->n < 1) status = fail(FAILED, "-a", "the adapter has no layers");
	if (!status) {
		p->names = new_array((size_t)p->n, sizeof *p->names), p->keep = new_array((size_t)p->n, 1);
		p->values = new_array((size_t)p->n, sizeof *p->values), p->errors = new_array((size_t)p->n, sizeof *p->errors);
		if (!p->names || !p->keep || !p->values || !p->errors) status = FAILED;
	}
	for (int64_t i = 0; i < sites && !status; i++) {
		lora_site_info info = { .struct_size = sizeof info };
		if (layer[i] < 0) continue;
		if (lora_model_site_info(p->s.model, i, &info)) status = fail_library(p->s.ctx, "-m");
		else if (!p->names[layer[i]] && !(p->names[layer[i]] = block_name(info.name))) status = FAILED;
		if (!status && norms) p->values[layer[i]] += delta_norm(p, i, info.out * info.in, &status);
	}
	for (int64_t k = 0; k < p->n && !status; k++)
		if (!p->names[k] && !(p->names[k] = block_name(""))) status = FAILED; /* of the embedding, say */
	for (int64_t k = 0; k < p->n && norms && !status; k++) p->values[k] = sqrt(p->values[k]);
	free(layer);
	return status;
}

/* ---- worth ---- */

static int loss_with(pruning *p, const uint8_t *active, double *loss)
{
	if (lora_adapter_set_layers(p->adapter, active, p->n)) return fail_library(p->s.ctx, "-a");
	return measure_loss(&p->data, &p->s, loss);
}

static int32_t worth(void *user, const uint8_t *active, int64_t n, double *value)
{
	pruning *p = user;
	double loss = 0;
	(void)n;
	if (stop_asked() || loss_with(p, active, &loss)) return FAILED;
	*value = -loss;
	progress_show(&p->bar, ++p->calls, "");
	return 0;
}

static int by_shapley(pruning *p)
{
	int64_t permutations = 16, calls = 0;
	if (lora_settings_get_int(p->settings, "permutations", &permutations)) permutations = 16;
	int64_t most = permutations * (p->n - 1) + 2;
	if (p->n < 30 && ((int64_t)1 << p->n) <= most) most = (int64_t)1 << p->n;
	stop_politely();
	progress_start(&p->bar, "prune", 0, most);
	lora_status st = lora_shapley_values(p->s.ctx, p->n, worth, p, p->settings, p->values, p->errors, &calls);
	progress_end(&p->bar);
	if (stop_asked()) return stop_asked();
	if (st == LORA_E_CALLBACK) return FAILED; /* said already */
	return st ? fail_library(p->s.ctx, "prune") : OK;
}

static void by_chance(pruning *p, int64_t seed)
{
	for (int64_t k = 0; k < p->n; k++) p->values[k] = (double)(data_hash((uint64_t)seed * 0x9e3779b97f4a7c15u + (uint64_t)k + 1) >> 11) * 0x1p-53;
}

/* The layers of largest value stay; of equal ones the first. */
static void choose(pruning *p, double share)
{
	p->kept = (int64_t)ceil(share * (double)p->n - 1e-9);
	if (p->kept < 1) p->kept = 1;
	for (int64_t i = 0; i < p->kept; i++) {
		int64_t best = -1;
		for (int64_t k = 0; k < p->n; k++)
			if (!p->keep[k] && (best < 0 || p->values[k] > p->values[best])) best = k;
		p->keep[best] = 1;
	}
}

/* ---- telling ---- */

static int tell(const pruning *p, const args *a, const char *by, double start)
{
	if (a->json) {
		json_t *list = json_array();
		for (int64_t k = 0; k < p->n; k++) {
			json_t *o = json_pack("{s:I, s:s, s:o, s:b}", "layer", (json_int_t)k, "name", p->names[k], "value", json_number(p->values[k]), "kept", (int)p->keep[k]);
			if (!strcmp(by, "shapley")) json_object_set_new(o, "error", json_number(p->errors[k]));
			json_array_append_new(list, o);
		}
		return print_json(json_pack("{s:o, s:s, s:o, s:I, s:o, s:o, s:o, s:I, s:I, s:o}", "output", json_path(a->output), "by", by, "layers", list, "kept", (json_int_t)p->kept,
			"loss_none", json_number(p->none), "loss_all", json_number(p->all), "loss", json_number(p->after), "evaluations", (json_int_t)p->calls, "tokens",
			(json_int_t)p->data.tokens, "seconds", json_number(seconds_now() - start)));
	}
	say("%-28s %12s%s\n", "layer", !strcmp(by, "norm") ? "norm" : !strcmp(by, "random") ? "chance" : "Shapley", !strcmp(by, "shapley") ? "   +-" : "");
	for (int64_t k = 0; k < p->n; k++) {
		say("%-28s %12.6g", p->names[k], p->values[k]);
		if (!strcmp(by, "shapley")) say("   %-10.2g", p->errors[k]);
		say("%s\n", p->keep[k] ? "  kept" : "");
	}
	say("loss %.6g without the adapter, %.6g with all %lld layers, %.6g with the %lld kept\n", p->none, p->all, (long long)p->n, p->after, (long long)p->kept);
	return a->output ? say("wrote %s\n", a->output) : OK;
}

static int read_settings(pruning *p, const args *a, int shapley)
{
	static const char *const more[] = { "permutations" };
	if (lora_settings_create(p->s.ctx, &p->settings)) return fail_library(p->s.ctx, "-s");
	if (a->seed != UNSET && lora_settings_set_int(p->settings, "seed", a->seed)) return fail_library(p->s.ctx, "--seed");
	for (size_t i = 0; i < a->n_settings; i++) {
		const char *name = a->settings[i].name, *text = a->settings[i].text;
		int taken, status = measure_setting(&p->data, &p->s, &a->settings[i], &taken);
		if (status) return status;
		if (taken) continue;
		int64_t n = 0;
		if (shapley && !strcmp(name, "permutations")) {
			if (!parse_int(text, &n) || n < 1 || n > 1000000) return fail(USAGE, name, "must be a whole number from 1 to 1000000");
			if (lora_settings_set_int(p->settings, name, n)) return fail_library(p->s.ctx, name);
			continue;
		}
		const char *near = measure_nearest(name, more, 1);
		return fail(USAGE, name, "no such setting of prune%s%s", near ? "; did you mean " : "", near ? near : "");
	}
	return OK;
}

static int value_layers(pruning *p, const char *by, const args *a)
{
	int status = OK;
	if (!strcmp(by, "shapley")) status = by_shapley(p);
	else if (!strcmp(by, "random")) by_chance(p, a->seed == UNSET ? 0 : a->seed);
	if (status) return status;
	choose(p, isnan(a->keep) ? 0.5 : a->keep);
	uint8_t *nothing = new_array((size_t)p->n, 1);
	if (!nothing) return FAILED;
	status = loss_with(p, nothing, &p->none);
	if (!status) status = loss_with(p, NULL, &p->all);
	if (!status) status = loss_with(p, p->keep, &p->after);
	p->calls += 3;
	free(nothing);
	return status;
}

static int write_pruned(pruning *p, const args *a)
{
	lora_adapter *made = NULL;
	int status = OK;
	if (lora_adapter_prune(p->adapter, p->keep, p->n, &made)) status = fail_library(p->s.ctx, "-a");
	else status = save_adapter(&p->s, made, a);
	lora_adapter_destroy(made);
	return status;
}

static int check_usage(const args *a, const char *by)
{
	static const char *const ways[] = { "shapley", "norm", "random" };
	if (!a->model) return fail(USAGE, "-m", "a model is needed");
	if (a->n_adapters != 1) return fail(USAGE, "-a", "one adapter is needed; usage: lora prune %s", a->cmd->usage);
	if (!a->data) return fail(USAGE, "-d", "data is needed");
	if (!isnan(a->keep) && !(a->keep > 0 && a->keep <= 1)) return fail(USAGE, "--keep", "must be above 0 and at most 1");
	for (int i = 0; i < 3; i++)
		if (!strcmp(ways[i], by)) return a->output ? adapter_output(a) : OK;
	const char *near = nearest_name(by, ways, 3);
	return fail(USAGE, "--by", "\"%s\" is none of shapley, norm, random%s%s", by, near ? "; did you mean " : "", near ? near : "");
}

static int run(const args *a)
{
	pruning p;
	const char *by = a->by ? a->by : "shapley";
	double start = seconds_now();
	int status = check_usage(a, by);
	if (status) return status;
	memset(&p, 0, sizeof p);
	status = session_context(&p.s, a);
	if (!status) status = session_model(&p.s, a);
	if (!status) measure_defaults(&p.data, &p.s, a);
	if (!status) status = read_settings(&p, a, !strcmp(by, "shapley"));
	if (!status) status = session_adapters(&p.s, a, 1);
	if (!status) p.adapter = p.s.adapters[0], status = measure_open(&p.data, &p.s, a);
	if (!status) status = read_layers(&p, !strcmp(by, "norm"));
	if (!status) status = value_layers(&p, by, a);
	if (!status && a->output) status = write_pruned(&p, a);
	if (!status) status = tell(&p, a, by, start);
	for (int64_t k = 0; p.names && k < p.n; k++) free(p.names[k]);
	free(p.names), free(p.keep), free(p.values), free(p.errors);
	lora_settings_destroy(p.settings);
	measure_close(&p.data);
	session_close(&p.s);
	return status;
}

const command command_prune = { "prune", "-m MODEL -a ADAPTER -d DATA [--keep SHARE] [--by HOW] [-o OUT]", "value each layer of an adapter, and keep the best",
	"A layer is all that the adapter has in one block of the model. Without -o the values are shown and nothing is written.\n"
	"--by shapley: the layer's share in the loss that the adapter saves on DATA: the mean, over all orders in which layers are added, of what it\n"
	"   saves. The shares sum to the whole. Taken from all coalitions where these are few, else from -s permutations=N (16) random orders;\n"
	"   +- is the standard error.\n"
	"--by norm: the Frobenius norm of the layer's deltas. --by random: by --seed.\n"
	"Settings: permutations, sequence_length (512, or the model's positions), batch_size (8), max_batches (all), loss_on (completion), packing.\n"
	"JSON: output, by, layers (layer, name, value, kept, error), kept, loss_none, loss_all, loss, evaluations, tokens, seconds.\n",
	"model adapter data keep by output set skip-bad chat-template dtype-out force", 0, 0, run };
