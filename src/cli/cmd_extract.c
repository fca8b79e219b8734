/* lora extract: the adapter that is closest to the difference of two models. */
#include "cli/commands.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int read_settings(session *s, const args *a, lora_settings **out)
{
	if (lora_settings_create(s->ctx, out) || lora_settings_set_string(*out, "base_model_name_or_path", a->model)) return fail_library(s->ctx, "-s");
	if (a->rank != UNSET && lora_settings_set_int(*out, "r", a->rank)) return fail_library(s->ctx, "-r");
	for (size_t i = 0; i < a->n_settings; i++)
		if (lora_settings_set_text(*out, a->settings[i].name, a->settings[i].text)) return fail_library(s->ctx, a->settings[i].name);
	return OK;
}

static json_t *site_json(const char *name, double norm, double error)
{
	return json_pack("{s:s, s:o, s:o, s:o}", "name", name, "norm", json_number(norm), "error", json_number(error), "relative", json_number(norm > 0 ? error / norm : 0));
}

static int tell(const session *s, const args *a, const double *norms, const double *errors, int64_t n, double start)
{
	json_t *list = json_array();
	double norm = 0, error = 0;
	for (int64_t i = 0; i < n; i++) {
		lora_site_info info = { .struct_size = sizeof info };
		if (lora_model_site_info(s->model, i, &info)) return json_decref(list), fail_library(s->ctx, "site");
		norm += norms[i] * norms[i], error += errors[i] * errors[i];
		json_array_append_new(list, site_json(info.name, norms[i], errors[i]));
	}
	norm = sqrt(norm), error = sqrt(error);
	if (!a->json) {
		json_decref(list);
		return say("extracted %s: the models differ by %.6g (Frobenius norm over %lld sites), %.6g (%.3g %%) is left\n", a->output, norm, (long long)n, error, norm > 0 ? 100 * error / norm : 0);
	}
	json_t *root = site_json("", norm, error);
	json_object_del(root, "name");
	json_object_set_new(root, "output", json_path(a->output));
	json_object_set_new(root, "sites", list);
	json_object_set_new(root, "seconds", json_number(seconds_now() - start));
	return print_json(root);
}

static int run(const args *a)
{
	session s;
	lora_settings *settings = NULL;
	lora_model *tuned = NULL;
	lora_adapter *made = NULL;
	double *norms = NULL, start = seconds_now();
	int64_t n = 0;
	int status;
	if (!a->tuned) return fail(USAGE, "-t", "a tuned model is needed; usage: lora extract %s", a->cmd->usage);
	if ((status = adapter_output(a))) return status;
	status = session_context(&s, a);
	if (!status) status = session_model(&s, a);
	if (!status) status = read_settings(&s, a, &settings);
	if (!status && lora_model_open(s.ctx, a->tuned, NULL, &tuned)) status = fail_library(s.ctx, a->tuned);
	if (!status) {
		n = lora_model_site_count(s.model);
		norms = new_array((size_t)n, 2 * sizeof *norms);
		if (!norms) status = FAILED;
	}
	if (!status && lora_adapter_extract(s.model, tuned, settings, norms, norms + n, n, &made)) status = fail_library(s.ctx, a->tuned);
	if (!status) status = save_adapter(&s, made, a);
	if (!status) status = tell(&s, a, norms, norms + n, n, start);
	free(norms);
	lora_adapter_destroy(made);
	lora_model_destroy(tuned);
	lora_settings_destroy(settings);
	session_close(&s);
	return status;
}

const command command_extract = { "extract", "-m BASE -t TUNED -r RANK -o OUT", "the best adapter for the difference of two models",
	"At every linear layer (-s target_modules=... chooses others) the difference of the weights is replaced by the closest matrix of\n"
	"rank RANK (8). What is left of it, at layers without adapter all of it, is told as a Frobenius norm.\n"
	"JSON: output, norm, error, relative (of all sites together), sites (name, norm, error, relative), seconds.\n",
	"model tuned rank set output dtype-out force", 0, 0, run };
