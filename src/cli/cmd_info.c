/* lora info PATH: what a model or adapter is. An adapter is read by itself: its base model need not be there. */
#include "cli/commands.h"
#include "cli/planout.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* ---- sites, shared by models and adapters ---- */

typedef struct site {
	char *name;
	int64_t out, in; /* 0 = not known */
	const char *dtype;
} site;

typedef struct sites {
	site *list;
	size_t n;
} sites;

static void free_sites(sites *s)
{
	for (size_t i = 0; i < s->n; i++) free(s->list[i].name);
	free(s->list);
}

static json_t *sites_json(const sites *s)
{
	json_t *list = json_array();
	for (size_t i = 0; i < s->n; i++) {
		json_t *o = json_object();
		json_object_set_new(o, "name", json_text(s->list[i].name, strlen(s->list[i].name)));
		if (s->list[i].out) json_object_set_new(o, "out", json_integer(s->list[i].out));
		if (s->list[i].in) json_object_set_new(o, "in", json_integer(s->list[i].in));
		json_object_set_new(o, "dtype", json_string(s->list[i].dtype));
		json_array_append_new(list, o);
	}
	return list;
}

/* "model.layers.12.mlp.up_proj" to "model.layers.*.mlp.up_proj" */
static char *layer_pattern(const char *name)
{
	char *p = new_string(name), *to = p;
	if (!p) return NULL;
	for (const char *from = name; *from;) {
		int begins = from == name || from[-1] == '.';
		size_t n = strspn(from, "0123456789");
		if (begins && n && (from[n] == '.' || !from[n])) {
			*to++ = '*';
			from += n;
		} else {
			*to++ = *from++;
		}
	}
	*to = 0;
	return p;
}

/* The sites as a table with one line for those that differ by their layer only. */
static void show_sites(const sites *s)
{
	json_t *counts = json_object(), *value; /* "out in dtype pattern" to number, in order of appearance */
	const char *key;
	int width = 4;

	for (size_t i = 0; i < s->n; i++) {
		char *pattern = layer_pattern(s->list[i].name), out[32] = "-", in[32] = "-";
		if (s->list[i].out) format_count(s->list[i].out, out, sizeof out);
		if (s->list[i].in) format_count(s->list[i].in, in, sizeof in);
		char *row = pattern ? new_format("%10s %10s  %-6s|%s", out, in, s->list[i].dtype, pattern) : NULL;
		if (row) {
			json_object_set_new(counts, row, json_integer(1 + json_integer_value(json_object_get(counts, row))));
			if ((int)strlen(pattern) > width) width = (int)strlen(pattern);
		}
		free(row);
		free(pattern);
	}
	if (width > 100) width = 100;
	say("\n%-*s  %10s %10s  %-6s %5s\n", width, "site", "out", "in", "dtype", "count");
	json_object_foreach(counts, key, value)
	{
		const char *bar = strchr(key, '|');
		say("%-*s  %.*s %5lld\n", width, bar + 1, (int)(bar - key), key, (long long)json_integer_value(value));
	}
	json_decref(counts);
}

static void field(const char *name, const char *value) { say("%-14s %s\n", name, value); }

static void field_count(const char *name, int64_t n)
{
	char buf[32];
	field(name, format_count(n, buf, sizeof buf));
}

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
		if (!status) return print_json(root);
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

/* Module path of an adapter's tensor: without PEFT's prefix, "weight" and the parameter's own name. *param points into name. */
static char *module_of(const char *name, const char **param)
{
	static const char *const prefixes[] = { "lora_", "hada_", "lokr_", "ia3_", "oft_", "boft_", "vera_", "hra_", "miss_", "road_",
		"randlora_", "fourierft_", "c3a_", "delora_", "shira_", "vblora_", "waveft_", "trainable_tokens_", "base_layer" };
	const char *start = strncmp(name, "base_model.model.", 17) ? name : name + 17, *component = start;
	*param = "";
	for (const char *p = start; *p; p++) {
		if (p != start && p[-1] == '.') component = p;
		if (component != p || p == start) continue;
		for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
			if (strncmp(p, prefixes[i], strlen(prefixes[i]))) continue;
			*param = p;
			return new_format("%.*s", (int)(p - 1 - start), start);
		}
	}
	size_t n = strlen(start);
	if (path_has_suffix(start, ".weight")) n -= 7;
	else if (path_has_suffix(start, ".bias")) n -= 5;
	return new_format("%.*s", (int)n, start);
}

static int adapter_sites(const st_file *f, sites *out)
{
	json_t *known = json_object(); /* name to place in the list */
	out->list = new_array(f->n, sizeof *out->list);
	for (size_t i = 0; out->list && i < f->n; i++) {
		const st_tensor *t = &f->tensors[i];
		const char *param;
		char *name = module_of(t->name, &param);
		if (!name) break;
		json_t *place = json_object_get(known, name);
		size_t j = place ? (size_t)json_integer_value(place) : out->n;
		if (place) {
			free(name);
		} else {
			json_object_set_new(known, name, json_integer((json_int_t)out->n));
			out->list[out->n++] = (site){ .name = name, .dtype = dtype_name(t->dtype) };
		}
		site *s = &out->list[j];
		if (t->rank == 2 && !strncmp(param, "lora_A", 6)) s->in = t->shape[1];
		if (t->rank == 2 && !strncmp(param, "lora_B", 6)) s->out = t->shape[0];
		if (t->rank == 2 && !strncmp(param, "lora_embedding_A", 16)) s->out = t->shape[1];
		if (t->rank == 2 && !strncmp(param, "lora_embedding_B", 16)) s->in = t->shape[0];
		if (t->rank == 2 && !param[0]) {
			s->out = t->shape[0];
			s->in = t->shape[1];
		}
	}
	json_decref(known);
	return out->list ? OK : FAILED;
}

static json_t *tensors_json(const st_file *f)
{
	json_t *list = json_array();
	for (size_t i = 0; i < f->n; i++) {
		json_t *shape = json_array();
		for (int d = 0; d < f->tensors[i].rank; d++) json_array_append_new(shape, json_integer(f->tensors[i].shape[d]));
		json_array_append_new(list,
			json_pack("{s:s, s:s, s:o}", "name", f->tensors[i].name, "dtype", dtype_name(f->tensors[i].dtype), "shape", shape));
	}
	return list;
}

/* The type that most elements have. */
static const char *main_dtype(const st_file *f)
{
	int64_t most = 0, count[32] = { 0 };
	const char *name = "?";
	for (size_t i = 0; i < f->n; i++) {
		int64_t *c = &count[f->tensors[i].dtype & 31];
		*c += f->tensors[i].count;
		if (*c > most) {
			most = *c;
			name = dtype_name(f->tensors[i].dtype);
		}
	}
	return name;
}

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
		return print_json(root);
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
		char *text = json_dumps(value, JSON_ENCODE_ANY);
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
		return print_json(root);
	}
	field("kind", kind);
	field("format", "GGUF");
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
		char *text = json_dumps(value, JSON_ENCODE_ANY);
		if (text) say("  %-42s %.80s%s\n", key, text, strlen(text) > 80 ? "..." : "");
		free(text);
	}
	if (list->n) show_sites(list);
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

static int run(const args *a)
{
	const char *path = a->n_positional ? a->positional[0] : a->model;
	if (!path) return fail(USAGE, "info", "usage: lora info %s", command_info.usage);
	if (a->n_positional && a->model) return fail(USAGE, "-m", "a path is given already: %s", path);
	if (!a->plan && a->n_settings) return fail(USAGE, a->settings[0].name, "settings go with --plan");
	if (a->plan && plan_check(a)) return USAGE;
	char *dir = path_is_dir(path) ? new_string(path) : path_dir(path);
	char *config = dir ? path_join(dir, "adapter_config.json") : NULL;
	int status, done = 0;
	if (!config) status = FAILED;
	else if (path_exists(path) && is_gguf(path)) {
		status = info_gguf(a, path, &done);
		if (!status && !done) status = info_model(a, path);
	} else if (!path_exists(path)) status = fail(FAILED, path, "no such file or directory");
	else if (path_exists(config) && (path_is_dir(path) || !strncmp(path_base(path), "adapter_", 8)))
		status = a->plan ? fail(USAGE, "--plan", "is of models; %s is an adapter", path) : info_adapter(a, dir);
	else status = info_model(a, path);
	free(config);
	free(dir);
	return status;
}

const command command_info = { "info", "PATH|-m MODEL [--plan [-s rows=N,...] [-s r=N] [-s lora_dropout=P]]", "tell what a model or an adapter is",
	"PATH is a model, a PEFT directory or a .gguf file; the base model of an adapter need not be there.\n"
	"--plan shows for a model, site by site, the order of multiplications that a training step takes with an adapter of rank r (8) on\n"
	"so many rows (16,256,1024,4096), and its floating-point operations.\n"
	"JSON: kind, format, architecture, parameters, dtype, sites; of an adapter also method, settings, tensors; with --plan also plan:\n"
	"site, out, in, rows, choice, flops, flops_of (F1, F2, B1, B5), reason.\n",
	"model plan set", 0, 1, run };
