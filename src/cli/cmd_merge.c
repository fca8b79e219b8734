/* lora merge: a model with adapters merged into its weights. */
#include "cli/commands.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

/* Another type than the base's is asked for: merge into an F32 copy of the base, so that sums are rounded once, to that type. */
static int widen(session *s, const args *a, const char *copy, int gguf)
{
	args to = *a, from = *a;
	to.output = (char *)(uintptr_t)copy;
	from.model = (char *)(uintptr_t)copy;
	int status = save_model(s, &to, gguf, "F32");
	session_close(s);
	if (!status) status = session_context(s, &from);
	if (!status) status = session_model(s, &from);
	return status;
}

static int run(const args *a)
{
	session s;
	char *copy = NULL; /* of the base, while we work */
	const char *dtype = weight_dtype(a->dtype_out ? a->dtype_out : "keep");
	double start = seconds_now();
	int status, gguf = a->model && (lora_gguf_is(a->model) || (a->output && path_has_suffix(a->output, ".gguf")));

	if (!a->output) return fail(USAGE, "-o", "says where to write the merged model, and is needed");
	if (!a->n_adapters) return fail(USAGE, "-a", "at least one adapter is needed");
	if (!dtype) return fail(USAGE, "--dtype-out", "\"%s\" is none of keep, f32, f16, bf16", a->dtype_out);
	if (check_output(a, gguf)) return FAILED;
	status = session_context(&s, a);
	if (!status) status = session_model(&s, a);
	if (!status && strcmp(dtype, "keep") && s.info.dtype != LORA_F32) {
		copy = new_format("%s.f32-%ld", a->output, (long)getpid());
		status = copy ? widen(&s, a, copy, gguf) : FAILED;
	}
	if (!status) status = session_adapters(&s, a, 0);
	if (!status) status = merge_all(&s, a);
	if (!status) status = save_model(&s, a, gguf, dtype);
	if (!status && a->json)
		status = print_json(json_pack("{s:o, s:i, s:I, s:o}", "output", json_path(a->output), "adapters", (int)s.n_adapters, "parameters",
			(json_int_t)s.info.n_parameters, "seconds", json_number(seconds_now() - start)));
	else if (!status) say("merged %zu adapter%s into %s\n", s.n_adapters, s.n_adapters == 1 ? "" : "s", a->output);
	session_close(&s);
	if (copy && path_exists(copy)) remove_tree(copy);
	free(copy);
	return status;
}

const command command_merge = { "merge", "-m MODEL -a ADAPTER[=SCALE]... -o OUT [--dtype-out D] [--max-shard-size BYTES]",
	"write a model with adapters merged into its weights",
	"OUT becomes a directory like the model's, with tokenizer and configuration carried over, or a .gguf file when the model is\n"
	"one. Each weight is summed in F32 and rounded once; quantised weights are quantised again in their type. With --dtype-out the sum\n"
	"is rounded to that type only, and an F32 copy of the base lies beside OUT meanwhile. A model of the same form at OUT is\n"
	"replaced; anything else there, and the model that is read, is refused unless --force.\n"
	"JSON: output, adapters, parameters, seconds.\n",
	"model adapter output dtype-out max-shard-size force", 0, 0, run };
