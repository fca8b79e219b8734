/* lora: context, model, adapters and tokenizer as the options ask for them. */
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>

static void on_log(void *user, int32_t level, const char *module, const char *message)
{
	(void)user;
	if (level <= LORA_LOG_WARN) warn(module, "%s", message);
}

int session_context(session *s, const args *a)
{
	lora_context_options opts;
	lora_error error;

	memset(s, 0, sizeof *s);
	memset(&error, 0, sizeof error);
	error.struct_size = sizeof error;
	if (lora_context_options_init(&opts, sizeof opts)) return fail(FAILED, "lora", "library and program do not fit each other");
	opts.threads = a->threads == UNSET ? 0 : (int32_t)a->threads;
	opts.backend = a->backend ? a->backend : "auto";
	opts.log = on_log;
	opts.error = &error;
	if (lora_context_create(LORA_ABI, &opts, &s->ctx))
		return fail(FAILED, a->backend ? a->backend : "context", "%s", error.message[0] ? error.message : "cannot be created");
	return OK;
}

/* Classes of the classifier that an adapter directory carries, 0 = it carries none. */
static int64_t adapter_classes(const char *path)
{
	static const char *const names[] = { "base_model.model.classifier.weight", "base_model.model.classifier.out_proj.weight" };
	char *file = path_is_dir(path) ? path_join(path, "adapter_model.safetensors") : NULL;
	int64_t n = 0;
	st_file f;
	if (file && path_exists(file) && !st_read(file, 1, &f)) {
		for (int i = 0; i < 2 && !n; i++) {
			const st_tensor *t = st_find(&f, names[i]);
			if (t && t->rank == 2) n = t->shape[0];
		}
		st_free(&f);
	}
	free(file);
	return n;
}

/* For a base without a head: num_labels as set, else as the adapters have it. */
static int wanted_classes(const args *a, int64_t *n)
{
	*n = 0;
	for (size_t i = 0; i < a->n_settings; i++)
		if (!strcmp(a->settings[i].name, "num_labels") && (!parse_int(a->settings[i].text, n) || *n < 2))
			return fail(USAGE, "num_labels", "must be a whole number above 1");
	for (size_t i = 0; i < a->n_adapters && !*n; i++) *n = adapter_classes(a->adapters[i].path);
	if (!*n && a->init) *n = adapter_classes(a->init);
	return OK;
}

static int holds(const char *dir, const char *name)
{
	char *path = path_join(dir, name);
	int found = path && path_exists(path);
	free(path);
	return found;
}

/* Why this is no model, when it is a folder of something else; the library's words otherwise. */
static int not_a_model(const session *s, const char *path)
{
	if (!path_is_dir(path) || holds(path, "config.json")) return fail_library(s->ctx, path);
	if (holds(path, "adapter_config.json")) return fail(FAILED, path, "is an adapter: it goes with -a, and the model that it was made for with -m");
	if (holds(path, "model.safetensors") || holds(path, "model.safetensors.index.json")) return fail_library(s->ctx, path);
	return fail(FAILED, path, "holds no model (config.json with .safetensors); a .gguf is named itself");
}

static int open_model(session *s, const args *a, int64_t n_labels)
{
	lora_settings *settings = NULL;
	int status = FAILED;

	if (lora_settings_create(s->ctx, &settings)) return fail_library(s->ctx, a->model);
	if (a->dtype && lora_settings_set_string(settings, "dtype", a->dtype)) {
		status = fail_library(s->ctx, "--dtype");
		goto done;
	}
	if (n_labels && lora_settings_set_int(settings, "num_labels", n_labels)) {
		status = fail_library(s->ctx, "num_labels");
		goto done;
	}
	lora_status result = lora_model_open(s->ctx, a->model, settings, &s->model);
	if (result) {
		status = not_a_model(s, a->model);
		if (result == LORA_E_ARGUMENT && a->dtype) status = USAGE;
		goto done;
	}
	s->info.struct_size = sizeof s->info;
	if (lora_model_get_info(s->model, &s->info)) {
		status = fail_library(s->ctx, a->model);
		goto done;
	}
	status = OK;
done:
	lora_settings_destroy(settings);
	return status;
}

int session_model(session *s, const args *a) { return session_model_as(s, a, 0); }

int session_model_as(session *s, const args *a, int64_t n_labels)
{
	int64_t classes;
	int status;

	if (!a->model) return fail(USAGE, "-m", "a model is needed; usage: lora %s %s", a->cmd->name, a->cmd->usage);
	if ((status = wanted_classes(a, &classes))) return status;
	if (n_labels > 0) classes = n_labels;
	if ((status = open_model(s, a, 0)) || !classes || s->info.n_labels == classes) return status;
	lora_model_destroy(s->model);
	s->model = NULL;
	return open_model(s, a, classes);
}

static int open_adapter(session *s, const args *a, size_t i, int attach)
{
	lora_settings *settings = NULL;
	const char *path = a->adapters[i].path;
	char name[32];
	int status = FAILED;

	/* names must differ when several adapters act at once, and those in the files often don't */
	snprintf(name, sizeof name, i ? "default%zu" : "default", i);
	if (lora_settings_create(s->ctx, &settings) || lora_settings_set_string(settings, "name", name)) goto done;
	if (lora_adapter_open(s->model, path, settings, &s->adapters[i])) goto done;
	s->n_adapters = i + 1;
	if (attach && lora_adapter_attach(s->adapters[i], a->adapters[i].scale)) goto done;
	status = OK;
done:
	if (status) fail_library(s->ctx, path);
	lora_settings_destroy(settings);
	return status;
}

int session_adapters(session *s, const args *a, int attach)
{
	s->adapters = new_array(a->n_adapters, sizeof *s->adapters);
	if (!s->adapters) return FAILED;
	for (size_t i = 0; i < a->n_adapters; i++)
		if (open_adapter(s, a, i, attach)) return FAILED;
	return OK;
}

int session_tokenizer(session *s, const char *path)
{
	char *dir = NULL;
	int status = OK;
	/* the tokenizer lies beside a model that is given as one file */
	if (!path_is_dir(path) && !lora_gguf_is(path) && path_has_suffix(path, ".safetensors")) {
		dir = path_dir(path);
		if (!dir) return FAILED;
		path = dir;
	}
	if (lora_tokenizer_open(s->ctx, path, &s->tokenizer)) status = fail_library(s->ctx, path);
	else if (s->model && s->info.vocab_size > 0 && lora_tokenizer_size(s->tokenizer) > s->info.vocab_size)
		status = fail(FAILED, path, "the tokenizer has %lld ids, the model rows for %lld: they do not belong together",
			(long long)lora_tokenizer_size(s->tokenizer), (long long)s->info.vocab_size);
	free(dir);
	return status;
}

void session_close(session *s)
{
	lora_tokenizer_destroy(s->tokenizer);
	for (size_t i = s->n_adapters; i > 0; i--) lora_adapter_destroy(s->adapters[i - 1]);
	free(s->adapters);
	lora_model_destroy(s->model);
	lora_context_destroy(s->ctx);
	memset(s, 0, sizeof *s);
}

json_t *family_member(lora_context *ctx, const char *family, const char *member)
{
	size_t needed = 0;
	json_t *result = NULL;
	lora_status status = lora_family_describe(ctx, family, member, NULL, 0, &needed);
	if (status != LORA_OK && status != LORA_E_LIMIT) return NULL;
	char *text = new_bytes(needed + 1);
	if (text && !lora_family_describe(ctx, family, member, text, needed + 1, &needed)) result = json_loads(text, 0, NULL);
	free(text);
	return result;
}
