/* lora merge: a model with adapters merged into its weights. */
#include "cli/commands.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is_model_dir(const char *path)
{
	char *config = path_join(path, "config.json");
	int yes = config && path_exists(config);
	free(config);
	return yes;
}

static const char *weight_dtype(const char *given)
{
	static const char *const names[][2] = { { "keep", "keep" }, { "f32", "F32" }, { "f16", "F16" }, { "bf16", "BF16" } };
	for (size_t i = 0; i < 4; i++)
		if (!strcmp(given, names[i][0]) || !strcmp(given, names[i][1])) return names[i][1];
	return NULL;
}

static int merge_all(session *s, const args *a)
{
	for (size_t i = 0; i < s->n_adapters; i++) {
		lora_merge_options opts;
		if (lora_merge_options_init(&opts, sizeof opts)) return fail_library(s->ctx, a->adapters[i].path);
		opts.scale = a->adapters[i].scale;
		if (lora_adapter_merge(s->adapters[i], &opts)) return fail_library(s->ctx, a->adapters[i].path);
	}
	return OK;
}

/* Save beside OUT and swap when --force has to replace something that is no model. */
static int save(session *s, const args *a, const lora_settings *settings)
{
	char *beside = NULL;
	int status = OK, foreign = path_exists(a->output) && !is_model_dir(a->output);

	if (foreign && path_is_empty_dir(a->output)) {
		if (rmdir(a->output)) return fail_system(a->output, "cannot replace the empty directory");
		foreign = 0;
	}
	if (foreign) {
		beside = new_format("%s.new-%ld", a->output, (long)getpid());
		if (!beside) return FAILED;
	}
	if (lora_model_save(s->model, beside ? beside : a->output, settings)) status = fail_library(s->ctx, a->output);
	if (!status && beside) {
		status = remove_tree(a->output);
		if (!status && rename(beside, a->output)) status = fail_system(a->output, "cannot put the finished model in place");
	}
	free(beside);
	return status;
}

static int run(const args *a)
{
	session s;
	lora_settings *settings = NULL;
	const char *dtype = weight_dtype(a->dtype_out ? a->dtype_out : "keep");
	double start = seconds_now();
	int status;

	if (!a->output) return fail(USAGE, "-o", "says where to write the merged model, and is needed");
	if (!a->n_adapters) return fail(USAGE, "-a", "at least one adapter is needed");
	if (!dtype) return fail(USAGE, "--dtype-out", "\"%s\" is none of keep, f32, f16, bf16", a->dtype_out);
	if (path_exists(a->output) && !is_model_dir(a->output) && !path_is_empty_dir(a->output) && !a->force)
		return fail(FAILED, a->output, "is there already and is no model; give --force to replace it");
	status = session_context(&s, a);
	if (!status) status = session_model(&s, a);
	if (!status) status = session_adapters(&s, a, 0);
	if (!status) status = merge_all(&s, a);
	if (!status &&
		(lora_settings_create(s.ctx, &settings) || lora_settings_set_string(settings, "weight_dtype", dtype) ||
			lora_settings_set_int(settings, "force", 1)))
		status = fail_library(s.ctx, a->output);
	if (!status) status = save(&s, a, settings);
	if (!status && a->json)
		status = print_json(json_pack("{s:s, s:i, s:I, s:o}", "output", a->output, "adapters", (int)s.n_adapters, "parameters",
			(json_int_t)s.info.n_parameters, "seconds", json_number(seconds_now() - start)));
	else if (!status) say("merged %zu adapter%s into %s\n", s.n_adapters, s.n_adapters == 1 ? "" : "s", a->output);
	lora_settings_destroy(settings);
	session_close(&s);
	return status;
}

const command command_merge = { "merge", "-m MODEL -a ADAPTER[=SCALE]... -o OUT [--dtype-out D]",
	"write a model with adapters merged into its weights",
	"OUT becomes a directory like the model's, with tokenizer and configuration carried over. Each weight is summed in F32\n"
	"and rounded once. A model directory at OUT is replaced; anything else there is refused unless --force.\n"
	"JSON: output, adapters, parameters, seconds.\n",
	"model adapter output dtype-out force", 0, 0, run };
