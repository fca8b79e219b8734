/* lora: writing models: what may be at the output, and putting the finished model in place. */
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

json_t *gguf_description(lora_context *ctx, const char *path)
{
	size_t n;
	char *text = NULL;
	json_t *out = NULL;
	if (lora_gguf_describe(ctx, path, NULL, 0, &n)) return fail_library(ctx, path), NULL;
	if (!(text = new_bytes(n))) return NULL;
	if (lora_gguf_describe(ctx, path, text, n, &n)) fail_library(ctx, path);
	else if (!(out = json_loads(text, 0, NULL))) fail_memory();
	free(text);
	return out;
}

int gguf_has_tokenizer(lora_context *ctx, const char *path)
{
	json_t *d = gguf_description(ctx, path);
	int yes = json_object_get(json_object_get(d, "metadata"), "tokenizer.ggml.tokens") != NULL;
	json_decref(d);
	return yes;
}

static int is_model_dir(const char *path)
{
	char *config = path_join(path, "config.json");
	int yes = config && path_exists(config);
	free(config);
	return yes;
}

static int same_form(const char *path, int gguf)
{
	if (gguf) return lora_gguf_is(path);
	return is_model_dir(path) || path_is_empty_dir(path);
}

static int spare(const args *a, const char *in, int may_replace)
{
	int holds = in && a->output ? path_holds(a->output, in) : 0;
	if (holds == 1) return fail(FAILED, a->output, "would be replaced, and %s, which is read, lies in it; give another output", in);
	if (holds == 2 && !may_replace)
		return fail(FAILED, a->output, "is what is read; give another output%s", a->force ? "" : " (--force replaces it where the form stays the same)");
	return OK;
}

int spare_inputs(const args *a, int may_replace)
{
	int status = spare(a, a->model, may_replace);
	if (!status) status = spare(a, a->tuned, may_replace);
	for (size_t i = 0; i < a->n_adapters && !status; i++) status = spare(a, a->adapters[i].path, may_replace);
	return status;
}

int check_output(const args *a, int gguf)
{
	if (a->output && spare_inputs(a, a->force && same_form(a->output, gguf))) return FAILED;
	if (!path_exists(a->output) || same_form(a->output, gguf) || a->force) return OK;
	return fail(FAILED, a->output, "is there already and is no %s; give --force to replace it", gguf ? "GGUF file" : "model");
}

int save_model(session *s, const args *a, int gguf, const char *weight_dtype)
{
	lora_settings *settings = NULL;
	char *beside = NULL;
	int status = OK, foreign = path_exists(a->output) && !same_form(a->output, gguf);

	if (gguf && a->max_shard != UNSET) return fail(USAGE, "--max-shard-size", "is for directories: a GGUF model is written as one file");
	if (!gguf && path_is_empty_dir(a->output) && rmdir(a->output)) return fail_system(a->output, "cannot replace the empty directory");
	if (foreign && !(beside = new_format("%s.new-%ld", a->output, (long)getpid()))) return FAILED;
	if (lora_settings_create(s->ctx, &settings) || lora_settings_set_string(settings, "weight_dtype", weight_dtype) ||
		lora_settings_set_string(settings, "format", gguf ? "gguf" : "hf") || lora_settings_set_int(settings, "force", 1) ||
		lora_settings_set_int(settings, "max_shard_bytes", a->max_shard == UNSET ? 0 : a->max_shard) ||
		lora_model_save(s->model, beside ? beside : a->output, settings))
		status = fail_library(s->ctx, a->output);
	if (!status && beside) {
		status = remove_tree(a->output);
		if (!status && rename(beside, a->output)) status = fail_system(a->output, "cannot put the finished model in place");
	}
	lora_settings_destroy(settings);
	free(beside);
	return status;
}
