/* lora convert: models and adapters between Hugging Face's directories and GGUF. */
#include "cli/commands.h"

#include <stdlib.h>
#include <string.h>

/* Types of the written tensors by the names of --dtype-out. */
static const char *weight_dtype(const char *given)
{
	static const char *const names[][2] = { { "keep", "keep" }, { "f32", "F32" }, { "f16", "F16" }, { "bf16", "BF16" } };
	for (size_t i = 0; i < 4; i++)
		if (!strcmp(given, names[i][0]) || !strcmp(given, names[i][1])) return names[i][1];
	return NULL;
}

static int is_adapter(const args *a, const char *path, int *yes)
{
	session s;
	char *config = path_join(path, "adapter_config.json");
	int status = OK;
	if (!config) return FAILED;
	*yes = path_is_dir(path) && path_exists(config);
	free(config);
	if (*yes || !lora_gguf_is(path)) return OK;
	status = session_context(&s, a);
	if (!status) {
		json_t *d = gguf_description(s.ctx, path);
		const char *kind = json_string_value(json_object_get(d, "kind"));
		if (!d) status = FAILED;
		else *yes = kind && !strcmp(kind, "adapter");
		json_decref(d);
	}
	session_close(&s);
	return status;
}

static int convert_adapter(const args *a, const char *from, const char *to, int gguf)
{
	session s;
	lora_settings *settings = NULL;
	adapter_arg adapter = { (char *)from, 1.0 };
	args with = *a;
	const char *dtype = a->dtype_out ? weight_dtype(a->dtype_out) : "F32";
	int status;
	if (!a->model)
		return fail(USAGE, "-m", "an adapter is converted with its base model at hand: names and the order of rows depend on it; give -m MODEL");
	if (!strcmp(dtype, "keep")) dtype = "F32";
	with.adapters = &adapter, with.n_adapters = 1, with.output = to;
	if (spare_inputs(&with, 0)) return FAILED;
	status = session_context(&s, &with);
	if (!status) status = session_model(&s, &with);
	if (!status) status = session_adapters(&s, &with, 0);
	if (!status && path_exists(to) && !a->force && (gguf ? !lora_gguf_is(to) || path_is_dir(to) : !path_is_dir(to)))
		status = fail(FAILED, to, "is there already and is no adapter of this form; give --force to replace it");
	if (!status && path_exists(to) && a->force && (gguf ? !lora_gguf_is(to) : !path_is_dir(to))) status = remove_tree(to);
	if (!status && (lora_settings_create(s.ctx, &settings) || lora_settings_set_string(settings, "format", gguf ? "gguf" : "peft") ||
					   lora_settings_set_string(settings, "dtype", dtype) || lora_adapter_save(s.adapters[0], to, settings)))
		status = fail_library(s.ctx, to);
	if (!status && a->json)
		status = print_json(json_pack("{s:o, s:s, s:s, s:s}", "output", json_path(to), "kind", "adapter", "format", gguf ? "gguf" : "peft", "dtype", dtype));
	else if (!status) say("converted the adapter to %s\n", to);
	lora_settings_destroy(settings);
	session_close(&s);
	return status;
}

static int convert_model(const args *a, const char *from, const char *to, int gguf)
{
	session s;
	args with = *a;
	double start = seconds_now();
	with.model = from, with.output = to;
	int status = check_output(&with, gguf);
	if (status) return status;
	status = session_context(&s, &with);
	if (!status) status = session_model(&s, &with);
	if (!status) status = save_model(&s, &with, gguf, weight_dtype(a->dtype_out ? a->dtype_out : "keep"));
	if (!status && a->json)
		status = print_json(json_pack("{s:o, s:s, s:s, s:I, s:o}", "output", json_path(to), "kind", "model", "format", gguf ? "gguf" : "hf", "parameters",
			(json_int_t)s.info.n_parameters, "seconds", json_number(seconds_now() - start)));
	else if (!status) say("converted the model to %s\n", to);
	session_close(&s);
	return status;
}

static int run(const args *a)
{
	const char *from = a->positional[0], *to = a->positional[1];
	int adapter = 0, gguf, status;
	if (a->dtype_out && !weight_dtype(a->dtype_out)) return fail(USAGE, "--dtype-out", "\"%s\" is none of keep, f32, f16, bf16", a->dtype_out);
	if (!path_exists(from)) return fail(FAILED, from, "no such file or directory");
	if ((status = is_adapter(a, from, &adapter))) return status;
	/* to the other form; a GGUF that is to become a GGUF must say so by its name */
	gguf = path_has_suffix(to, ".gguf") || (!lora_gguf_is(from) && a->max_shard == UNSET);
	return adapter ? convert_adapter(a, from, to, gguf) : convert_model(a, from, to, gguf);
}

const command command_convert = { "convert", "IN OUT [-m MODEL] [--dtype-out D] [--max-shard-size BYTES]", "turn a model or adapter into GGUF, or back",
	"A Hugging Face directory becomes a .gguf file and a .gguf file a directory, with the tokenizer; with --max-shard-size the\n"
	"output is a directory whatever the input, its weights in several files. An adapter, a PEFT\n"
	"directory or a .gguf file, needs its base model (-m): names and the order of rows depend on it. Quantised weights become\n"
	"F32 in a directory unless --dtype-out says otherwise; 'lora quantize' writes the quantised types.\n"
	"JSON: output, kind, format.\n",
	"model dtype-out max-shard-size force", 2, 2, run };
