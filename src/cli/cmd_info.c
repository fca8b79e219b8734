/* lora info PATH: what a model or adapter is. An adapter is read by itself: its base model need not be there. */
#include "cli/commands.h"
#include "cli/infoout.h"
#include "cli/planout.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* ---- models ---- */

static int model_sites(const session *s, sites *out)
{
	int64_t n = lora_model_site_count(s->model);
	out->list = new_array((size_t)n, sizeof *out->list);
	if (!out->list) return FAILED;
	for (int64_t i = 0; i < n; i++) {
		lora_site_info info = { .struct_size = sizeof info };
		if (lora_model_site_info(s->model, i, &info)) return fail_library(s->ctx, "site");
		site *t = &out->list[out->n];
		t->name = new_string(info.name);
		if (!t->name) return FAILED;
		t->out = info.out;
		t->in = info.in;
		t->dtype = dtype_name(info.dtype);
		out->n++;
	}
	return OK;
}

static int show_model(const session *s, const args *a, const sites *list)
{
	const lora_model_info *m = &s->info;
	if (a->json) {
		json_t *root = json_pack("{s:s, s:s, s:s, s:I, s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "kind", "model", "format", m->format,
			"architecture", m->architecture, "parameters", (json_int_t)m->n_parameters, "dtype", dtype_name(m->dtype),
			"compute_dtype", dtype_name(m->compute_dtype), "layers", (json_int_t)m->n_layers, "vocab_size",
			(json_int_t)m->vocab_size, "hidden_size", (json_int_t)m->hidden_size, "max_positions", (json_int_t)m->max_positions,
			"labels", (json_int_t)m->n_labels);
		json_object_set_new(root, "sites", sites_json(list));
		int status = a->plan ? plan_show(s, a, layer_pattern, root) : OK;
		if (!status) return print_info(root);
		json_decref(root);
		return status;
	}
	field("kind", "model");
	field("format", m->format);
	field("architecture", m->architecture);
	field_count("parameters", m->n_parameters);
	field("dtype", dtype_name(m->dtype));
	field("computes in", dtype_name(m->compute_dtype));
	field("backend", lora_context_backend_name(s->ctx));
	field_count("layers", m->n_layers);
	field_count("vocabulary", m->vocab_size);
	field_count("hidden size", m->hidden_size);
	field_count("positions", m->max_positions);
	if (m->n_labels) field_count("labels", m->n_labels);
	field_count("sites", (int64_t)list->n);
	show_sites(list);
	return a->plan ? plan_show(s, a, layer_pattern, NULL) : OK;
}

static int info_model(const args *a, const char *path)
{
	session s;
	sites list = { 0 };
	args with = *a;
	int status;
	with.model = path;
	status = session_context(&s, &with);
	if (!status) status = session_model(&s, &with);
	if (!status) status = model_sites(&s, &list);
	if (!status) status = show_model(&s, a, &list);
	free_sites(&list);
	session_close(&s);
	return status;
}

/* ---- adapters ---- */

static int show_adapter(const args *a, json_t *config, const st_file *f, const sites *list)
{
	const char *type = json_string_value(json_object_get(config, "peft_type")), *key;
	const char *base = json_string_value(json_object_get(config, "base_model_name_or_path"));
	char method[64] = "";
	int64_t parameters = 0;
	json_t *value;

	for (size_t i = 0; type && type[i] && i + 1 < sizeof method; i++) {
		method[i] = (char)tolower((unsigned char)type[i]);
		method[i + 1] = 0;
	}
	for (size_t i = 0; i < f->n; i++) parameters += f->tensors[i].count;
	if (a->json) {
		json_t *root = json_pack("{s:s, s:s, s:s, s:I, s:s}", "kind", "adapter", "format", "peft", "method", method, "parameters",
			(json_int_t)parameters, "dtype", main_dtype(f));
		json_object_set_new(root, "architecture", json_null());
		json_object_set_new(root, "base", base ? json_string(base) : json_null());
		json_object_set(root, "settings", config);
		json_object_set_new(root, "sites", sites_json(list));
		json_object_set_new(root, "tensors", tensors_json(f));
		return print_info(root);
	}
	field("kind", "adapter");
	field("format", "PEFT directory");
	field("method", method);
	if (base && *base) field("base", base);
	field_count("parameters", parameters);
	field("dtype", main_dtype(f));
	field_count("tensors", (int64_t)f->n);
	field_count("sites", (int64_t)list->n);
	say("\nsettings\n");
	json_object_foreach(config, key, value)
	{
		if (json_is_null(value) || (json_is_object(value) && !json_object_size(value))) continue;
		char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(7));
		if (text) say("  %-26s %s\n", key, text);
		free(text);
	}
	show_sites(list);
	return OK;
}

static int info_adapter(const args *a, const char *dir)
{
	char *config_path = path_join(dir, "adapter_config.json"), *weights = path_join(dir, "adapter_model.safetensors"),
		 *text = NULL;
	size_t n = 0;
	st_file f;
	sites list = { 0 };
	json_t *config = NULL;
	json_error_t err;
	int status = FAILED;

	memset(&f, 0, sizeof f);
	if (!config_path || !weights || read_file(config_path, 64u << 20, &text, &n)) goto done;
	config = json_loadb(text, n, JSON_REJECT_DUPLICATES, &err);
	if (!config) {
		fail(FAILED, config_path, "line %d, column %d: %s", err.line, err.column, err.text);
		goto done;
	}
	if (!json_is_object(config) || !json_is_string(json_object_get(config, "peft_type"))) {
		fail(FAILED, config_path, "has no peft_type; is this an adapter?");
		goto done;
	}
	if (st_read(weights, 1, &f) || adapter_sites(&f, &list)) goto done;
	status = show_adapter(a, config, &f, &list);
done:
	free_sites(&list);
	st_free(&f);
	json_decref(config);
	free(text);
	free(weights);
	free(config_path);
	return status;
}

/* ---- GGUF files without their model ---- */

/* Sites of a description: the pairs of an adapter under the names of their weights. */
static int described_sites(const json_t *tensors, sites *out)
{
	size_t i;
	json_t *t;
	out->list = new_array(json_array_size(tensors), sizeof *out->list);
	if (!out->list) return FAILED;
	json_array_foreach(tensors, i, t)
	{
		const char *name = json_string_value(json_object_get(t, "name"));
		const json_t *shape = json_object_get(t, "shape");
		size_t n = strlen(name);
		if (n < 8 || (strcmp(name + n - 7, ".lora_a") && strcmp(name + n - 7, ".lora_b")) || json_array_size(shape) != 2) continue;
		size_t module = n - 7, j = 0;
		if (module > 7 && !strncmp(name + module - 7, ".weight", 7)) module -= 7;
		while (j < out->n && (strlen(out->list[j].name) != module || strncmp(out->list[j].name, name, module))) j++;
		if (j == out->n) {
			out->list[j] = (site){ .name = new_format("%.*s", (int)module, name), .dtype = json_string_value(json_object_get(t, "dtype")) };
			if (!out->list[j].name) return FAILED;
			out->n++;
		}
		if (name[n - 1] == 'a') out->list[j].in = json_integer_value(json_array_get(shape, 1));
		else out->list[j].out = json_integer_value(json_array_get(shape, 0));
	}
	return OK;
}

static int show_description(const args *a, json_t *d, const sites *list)
{
	const char *kind = json_string_value(json_object_get(d, "kind")), *arch = json_string_value(json_object_get(d, "architecture")), *key;
	const char *dtype = json_string_value(json_object_get(d, "dtype"));
	const json_t *tokens = json_object_get(json_object_get(json_object_get(d, "metadata"), "tokenizer.ggml.tokens"), "length");
	int adapter = !strcmp(kind, "adapter");
	json_t *value;
	if (a->json) {
		json_t *root = json_copy(d);
		if (adapter) json_object_set_new(root, "settings", json_pack("{s:O}", "lora_alpha", json_object_get(d, "alpha")));
		json_object_set_new(root, "sites", sites_json(list));
		if (tokens) json_object_set(root, "vocab_size", (json_t *)tokens);
		return print_info(root);
	}
	field("kind", !adapter && !json_array_size(json_object_get(d, "tensors")) ? "model (a vocabulary only: no weights)" : kind);
	field("format", "gguf");
	field("architecture", arch ? arch : "-");
	if (adapter) {
		const char *method = json_string_value(json_object_get(d, "method"));
		field("method", method ? method : "-");
	}
	field_count("parameters", json_integer_value(json_object_get(d, "parameters")));
	field("dtype", dtype ? dtype : "-");
	field_count("tensors", (int64_t)json_array_size(json_object_get(d, "tensors")));
	if (tokens) field_count("vocabulary", json_integer_value(tokens));
	if (list->n) field_count("sites", (int64_t)list->n);
	say("\nmetadata\n");
	json_object_foreach(json_object_get(d, "metadata"), key, value)
	{
		char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(7));
		if (text) say("  %-42s %.80s%s\n", key, text, strlen(text) > 80 ? "..." : "");
		free(text);
	}
	if (list->n) show_sites(list);
	else if (json_array_size(json_object_get(d, "tensors"))) show_tensors(json_object_get(d, "tensors"));
	return OK;
}

/* A GGUF adapter, a vocabulary, or a model of an architecture that this library has no graph for. *done 0: an ordinary model. */
static int info_gguf(const args *a, const char *path, int *done)
{
	session s;
	sites list = { 0 };
	json_t *d = NULL;
	int status = session_context(&s, a);
	if (!status && !(d = gguf_description(s.ctx, path))) status = FAILED;
	const char *kind = json_string_value(json_object_get(d, "kind"));
	*done = 1;
	if (!status && !strcmp(kind, "model") && json_array_size(json_object_get(d, "tensors")))
		*done = lora_model_open(s.ctx, path, NULL, &s.model) == LORA_E_UNSUPPORTED;
	if (!status && *done) status = described_sites(json_object_get(d, "tensors"), &list);
	if (!status && *done) status = show_description(a, d, &list);
	free_sites(&list);
	json_decref(d);
	session_close(&s);
	return status;
}

static int is_adapter(const char *path)
{
	char *dir = path_is_dir(path) ? new_string(path) : path_dir(path), *config = dir ? path_join(dir, "adapter_config.json") : NULL;
	int yes = config && path_exists(config) && (path_is_dir(path) || !strncmp(path_base(path), "adapter_", 8));
	free(config);
	free(dir);
	return yes;
}

/* A config.json in the folder, or beside the file. */
static int has_config(const char *path)
{
	char *dir = path_is_dir(path) ? new_string(path) : path_dir(path), *config = dir ? path_join(dir, "config.json") : NULL;
	int yes = config && path_exists(config);
	free(config);
	free(dir);
	return yes;
}

static int info_file(const args *a, const char *path)
{
	int status, done = 0;
	if (lora_gguf_is(path)) {
		status = info_gguf(a, path, &done);
		return status || done ? status : info_model(a, path);
	}
	if (is_adapter(path)) {
		char *dir = path_is_dir(path) ? new_string(path) : path_dir(path);
		status = a->plan ? fail(USAGE, "--plan", "is of models; %s is an adapter", path) : dir ? info_adapter(a, dir) : FAILED;
		free(dir);
		return status;
	}
	if (a->plan || has_config(path) || path_is_dir(path)) return info_model(a, path);
	return !path_has_suffix(path, ".safetensors") && !info_tokenizer(a, path) ? OK : info_tensors(a, path);
}

/* A folder that is neither a model nor an adapter: what its files are, one after the other. */
static int info_folder(const args *a, const char *path)
{
	char **files;
	size_t n;
	int status = weight_files(path, &files, &n);
	if (!status && !n && info_tokenizer(a, path))
		status = fail(FAILED, path, "holds no model (config.json with .safetensors, .gguf), no adapter (adapter_config.json) and no tokenizer (tokenizer.json, tokenizer.model, ...); name a file in it");
	for (size_t i = 0; i < n && !status; i++) {
		if (i && !a->json) say("\n");
		info_path(files[i]);
		status = info_file(a, files[i]);
	}
	free_names(files, n);
	return status;
}

static int run(const args *a)
{
	const char *path = a->n_positional ? a->positional[0] : a->model;
	if (!path) return fail(USAGE, "info", "usage: lora info %s", command_info.usage);
	if (!*path) return fail(USAGE, "info", "the path is empty");
	if (a->n_positional && a->model) return fail(USAGE, "-m", "a path is given already: %s", path);
	if (!a->plan && a->n_settings) return fail(USAGE, a->settings[0].name, "settings go with --plan");
	if (a->plan && plan_check(a)) return USAGE;
	if (!path_exists(path)) return fail(FAILED, path, "no such file or directory");
	if (path_is_dir(path) && !a->plan && !is_adapter(path) && !has_config(path)) return info_folder(a, path);
	return info_file(a, path);
}

const command command_info = { "info", "PATH|-m MODEL [--plan [-s rows=N,...] [-s r=N] [-s lora_dropout=P]]", "tell what a model or an adapter is",
	"PATH is a model, a PEFT directory or a .gguf file; the base model of an adapter need not be there. Of a .safetensors file without\n"
	"config.json its tensors and metadata are told; of a folder that is no model, all such files in it; of a tokenizer its vocabulary.\n"
	"--plan shows for a model, site by site, the order of multiplications that a training step takes with an adapter of rank r (8) on\n"
	"so many rows (16,256,1024,4096), and its floating-point operations.\n"
	"JSON: kind (model, adapter, tokenizer), format, architecture, parameters, dtype, sites; of an adapter also method, settings, tensors; with --plan also plan:\n"
	"site, out, in, rows, choice, flops, flops_of (F1, F2, B1, B5), reason.\n",
	"model plan set", 0, 1, run };
