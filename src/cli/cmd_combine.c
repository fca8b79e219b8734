/* lora combine: a new adapter from several, from their files alone or with their model. */
#include "cli/commands.h"
#include "cli/weigh.h"

#include <stdlib.h>
#include <string.h>

static const char *const leaves[] = { ".lora_A.", ".lora_B.", ".lora_embedding_A", ".lora_embedding_B" };

typedef struct site { char *name; int64_t out, in; int embedding; } site;
typedef struct sites { site *list; size_t n; json_t *known; int embeddings; } sites;

/* Module path of a tensor, *leaf the number of its leaf; NULL without message when it has none. */
static char *module_of(const char *name, int *leaf)
{
	const char *start = strncmp(name, "base_model.model.", 17) ? name : name + 17;
	for (*leaf = 0; *leaf < 4; ++*leaf) {
		const char *end = strstr(start, leaves[*leaf]);
		if (end) return new_format("%.*s", (int)(end - start), start);
	}
	return NULL;
}

static int add_tensor(sites *all, const st_tensor *t)
{
	int leaf;
	char *name = t->rank == 2 ? module_of(t->name, &leaf) : NULL;
	if (!name) return OK; /* the library says what is wrong with it */
	json_t *place = json_object_get(all->known, name);
	size_t i = place ? (size_t)json_integer_value(place) : all->n;
	if (!place) {
		site *list = grow(all->list, all->n + 1, sizeof *list);
		if (!list || json_object_set_new(all->known, name, json_integer((json_int_t)i))) return free(name), FAILED;
		all->list = list, list[all->n++] = (site){ .name = name };
	} else free(name);
	site *s = &all->list[i];
	if (leaf % 2 == 0 && !s->in) s->in = t->shape[1];
	if (leaf % 2 == 1 && !s->out) s->out = t->shape[0];
	if (leaf > 1) s->embedding = all->embeddings = 1;
	return OK;
}

static int refuse_prompt(const char *dir)
{
	char *path = path_join(dir, "adapter_config.json"), *text = NULL;
	size_t n = 0;
	int status = path ? read_file(path, 64u << 20, &text, &n) : FAILED;
	json_t *config = status ? NULL : json_loadb(text, n, 0, NULL);
	const char *type = json_string_value(json_object_get(config, "peft_type"));
	if (!status) status = fail(FAILED, dir, "is %s; only LoRA can be combined", type && !strcmp(type, "PROMPT_TUNING") ? "prompt_tuning" : "prefix_tuning");
	json_decref(config);
	free(text), free(path);
	return status;
}

/* The modules that the adapters' tensors name, as sites of a model without weights. */
static int host_model(session *s, const args *a, sites *all)
{
	static float nothing; /* never read: a site of the host that must not be written */
	int status = OK;
	all->known = json_object();
	for (size_t i = 0; i < a->n_adapters && !status; i++) {
		const char *dir = a->adapters[i].path;
		char *path = path_join(dir, "adapter_model.safetensors");
		st_file f;
		memset(&f, 0, sizeof f);
		if (!path) status = FAILED;
		else if (!path_exists(dir)) status = fail(FAILED, dir, "no such file or directory");
		else if (lora_gguf_is(dir)) status = fail(USAGE, "-m", "adapters in GGUF are combined with their base model at hand: names and the order of rows depend on it");
		else if (path_exists(path)) status = st_read(path, 1, &f); /* else opening says what is missing */
		for (size_t k = 0; k < f.n && !status; k++)
			status = strncmp(f.tensors[k].name, "prompt_embeddings", 17) ? add_tensor(all, &f.tensors[k]) : refuse_prompt(dir);
		st_free(&f);
		free(path);
	}
	if (!status && lora_model_create(s->ctx, &s->model)) status = fail_library(s->ctx, "-a");
	for (size_t i = 0; i < all->n && !status; i++) {
		lora_site_info d = { .struct_size = sizeof d, .dtype = LORA_F32, .name = all->list[i].name, .out = all->list[i].out, .in = all->list[i].in, .data = &nothing,
			.flags = LORA_SITE_READONLY, .layer = -1 };
		if (d.in && d.out && lora_model_add_site(s->model, &d, NULL)) status = fail_library(s->ctx, all->list[i].name);
	}
	return status;
}

/* An embedding's factors are those of a linear layer with as many inputs as tokens. In the file's header only the names differ. */
static void rename_embeddings(char *bytes, size_t n)
{
	static const char from[2][18] = { "lora_embedding_A\"", "lora_embedding_B\"" }, to[2][18] = { "lora_A.weight\"   ", "lora_B.weight\"   " };
	uint64_t header = 0;
	for (int i = 7; i >= 0 && n >= 8; i--) header = header << 8 | (unsigned char)bytes[i];
	if (n < 8 || header > n - 8) return;
	for (char *p = bytes + 8, *end = p + header; p + 17 <= end; p++)
		for (int i = 0; i < 2; i++)
			if (!memcmp(p, from[i], 17)) memcpy(p, to[i], 17);
}

static int open_renamed(session *s, const args *a)
{
	s->adapters = new_array(a->n_adapters, sizeof *s->adapters);
	int status = s->adapters ? OK : FAILED;
	for (size_t i = 0; i < a->n_adapters && !status; i++) {
		const char *dir = a->adapters[i].path;
		char *config = path_join(dir, "adapter_config.json"), *weights = path_join(dir, "adapter_model.safetensors"), *text = NULL, *bytes = NULL;
		size_t n, m;
		if (!config || !weights) status = FAILED;
		if (!status) status = read_file(config, 64u << 20, &text, &n);
		if (!status) status = read_file(weights, 0, &bytes, &m);
		if (!status) rename_embeddings(bytes, m);
		if (!status && lora_adapter_open_memory(s->model, text, n, bytes, m, NULL, &s->adapters[i])) status = fail_library(s->ctx, dir);
		else if (!status) s->n_adapters = i + 1;
		free(config), free(weights), free(text), free(bytes);
	}
	return status;
}

static int restore_names(const char *dir, const sites *all)
{
	char *path = path_join(dir, "adapter_model.safetensors");
	st_file f;
	int status = path ? st_read(path, 0, &f) : FAILED, leaf;
	if (status) return free(path), status;
	for (size_t i = 0; i < f.n && !status; i++) {
		char *name = module_of(f.tensors[i].name, &leaf);
		json_t *place = name ? json_object_get(all->known, name) : NULL;
		if (place && all->list[json_integer_value(place)].embedding) {
			char *other = new_format("base_model.model.%s%s", name, leaves[leaf + 2]);
			if (!other) status = FAILED;
			else free(f.tensors[i].name), f.tensors[i].name = other;
		}
		free(name);
	}
	if (!status) status = st_write(path, f.tensors, f.n, "format", "pt");
	st_free(&f);
	free(path);
	return status;
}

static int check_type(session *s, const char *type, const args *a, lora_settings *settings)
{
	json_t *member = family_member(s->ctx, "combination", type), *x;
	const char *names[64];
	size_t n = 0, i;
	int has_seed = 0;
	if (!member) {
		for (; n < 64 && (names[n] = lora_family_name("combination", (int32_t)n)); n++) continue;
		const char *near = nearest_name(type, names, n);
		return fail(USAGE, "--type", "there is no \"%s\"%s%s; 'lora methods combination' lists them", type, near ? "; did you mean " : "", near ? near : "");
	}
	json_array_foreach(json_object_get(member, "settings"), i, x) has_seed |= !strcmp(json_string_value(json_object_get(x, "name")), "seed");
	json_decref(member);
	if (a->seed != UNSET && has_seed && lora_settings_set_int(settings, "seed", a->seed)) return fail_library(s->ctx, "--seed");
	for (i = 0; i < a->n_settings; i++)
		if (lora_settings_set_text(settings, a->settings[i].name, a->settings[i].text)) return fail_library(s->ctx, a->settings[i].name);
	return OK;
}

int adapter_output(const args *a)
{
	char *config = a->output ? path_join(a->output, "adapter_config.json") : NULL;
	if (!a->output) return fail(USAGE, "-o", "says where to write the adapter, and is needed");
	int status = config ? spare_inputs(a, a->force && path_exists(config)) : FAILED;
	if (!status && path_exists(a->output) && !path_exists(config) && !path_is_empty_dir(a->output)) {
		if (!a->force) status = fail(FAILED, a->output, "is there already and is no adapter; give --force to replace it");
		else status = remove_tree(a->output);
	}
	free(config);
	return status;
}

int save_adapter(const session *s, lora_adapter *made, const args *a)
{
	static const char *const names[][2] = { { "keep", "F32" }, { "f32", "F32" }, { "f16", "F16" }, { "bf16", "BF16" } };
	const char *dtype = a->dtype_out ? NULL : "F32";
	lora_settings *settings = NULL;
	int status = OK;
	for (int i = 0; i < 4 && !dtype; i++)
		if (!strcmp(a->dtype_out, names[i][0]) || !strcmp(a->dtype_out, names[i][1])) dtype = names[i][1];
	if (!dtype) return fail(USAGE, "--dtype-out", "\"%s\" is none of keep, f32, f16, bf16", a->dtype_out);
	if (lora_settings_create(s->ctx, &settings) || lora_settings_set_string(settings, "dtype", dtype) || lora_adapter_save(made, a->output, settings))
		status = fail_library(s->ctx, a->output);
	lora_settings_destroy(settings);
	return status;
}

static int combine(session *s, const args *a, const char *type, const lora_settings *settings, const double *weights, lora_adapter **made)
{
	lora_status st = lora_adapter_combine(s->adapters, weights, (int64_t)a->n_adapters, type, settings, made);
	lora_error error = { .struct_size = sizeof error };
	lora_context_error(s->ctx, &error);
	for (size_t i = 0; st == LORA_E_ARGUMENT && i < a->n_settings; i++)
		if (!strcmp(a->settings[i].name, error.tensor)) return fail(USAGE, error.tensor, "%s", error.message);
	return st ? fail_library(s->ctx, type) : OK;
}

static int64_t rank_of(lora_adapter *a)
{
	char text[1 << 16];
	size_t needed;
	json_t *settings = lora_adapter_settings_json(a, text, sizeof text, &needed) ? NULL : json_loads(text, 0, NULL);
	int64_t r = json_integer_value(json_object_get(settings, "r"));
	json_decref(settings);
	return r;
}

int tell_combined(const args *a, const char *type, lora_adapter *made, double start, size_t n, const char *const *names, const double *weights, const weighing *w, json_t *skipped)
{
	lora_adapter_info info = { .struct_size = sizeof info };
	int64_t r = rank_of(made);
	if (lora_adapter_get_info(made, &info)) return FAILED;
	if (!a->json) {
		for (size_t i = 0; w && i < n; i++) say("%8.4f  %s\n", weights[i], names[i]);
		if (w) say("loss %.6g after %lld evaluations, without adapters %.6g\n", w->found.loss, (long long)w->found.evaluations, w->found.start_loss);
		return say("combined %zu adapter%s (%s) into %s: rank %lld at %lld sites\n", n, n == 1 ? "" : "s", type, a->output, (long long)r, (long long)info.n_sites);
	}
	json_t *o = json_pack("{s:o, s:s, s:I, s:I, s:I, s:I, s:o}", "output", json_path(a->output), "type", type, "adapters", (json_int_t)n, "r", (json_int_t)r, "sites",
		(json_int_t)info.n_sites, "parameters", (json_int_t)info.n_parameters, "seconds", json_number(seconds_now() - start));
	if (w) {
		json_t *list = json_array();
		for (size_t i = 0; i < n; i++) json_array_append_new(list, json_pack("{s:o, s:o}", "adapter", json_text(names[i], strlen(names[i])), "weight", json_number(weights[i])));
		json_object_set_new(o, "weights", list);
		weigh_report(w, o);
		if (skipped) json_object_set(o, "skipped", skipped);
	}
	return print_json(o);
}

/* -d: the weights come from a search instead of the command line. */
static int searched(session *s, const args *a, weighing *w, double *weights)
{
	for (size_t i = 0; i < a->n_adapters; i++)
		if (a->adapters[i].scale != 1) return fail(USAGE, "-a", "with -d the weights are searched: give the adapters without");
	int status = weigh_settings(w, s, a, NULL);
	return status ? status : weigh_search(w, s, a, weights);
}

static int run(const args *a)
{
	session s;
	sites all = { 0 };
	weighing w = { 0 };
	lora_settings *settings = NULL;
	lora_adapter *made = NULL;
	int uniform = a->type && !strcmp(a->type, "uniform_soup");
	const char *type = uniform ? "linear" : a->type ? a->type : a->data ? "lorahub" : "linear";
	double start = seconds_now(), *weights = NULL;
	int status = a->n_adapters ? adapter_output(a) : fail(USAGE, "-a", "at least one adapter is needed; usage: lora combine %s", a->cmd->usage);
	if (!status && a->type && !strcmp(a->type, "greedy_soup")) return combine_soup(a);
	for (size_t i = 0; i < a->n_adapters && uniform && !status; i++)
		if (a->adapters[i].scale != 1) status = fail(USAGE, "-a", "the weights of uniform_soup are equal: give the adapters without weights, or --type linear");
	if (!status && uniform && a->data) status = fail(USAGE, "-d", "is not for uniform_soup, whose weights are equal; greedy_soup tastes");
	if (!status && a->data && !a->model) status = fail(USAGE, "-m", "is needed with -d: the weights are searched by the model's loss");
	if (status) return status;
	const char **names = new_array(a->n_adapters, sizeof *names);
	weights = new_array(a->n_adapters, sizeof *weights);
	status = session_context(&s, a);
	if (!status && (!names || !weights)) status = FAILED;
	for (size_t i = 0; i < a->n_adapters && !status; i++) names[i] = a->adapters[i].path, weights[i] = uniform ? 1.0 / (double)a->n_adapters : a->adapters[i].scale;
	if (!status && lora_settings_create(s.ctx, &settings)) status = fail_library(s.ctx, "-s");
	if (!status && !a->data) status = check_type(&s, type, a, settings);
	if (!status) status = a->model ? session_model(&s, a) : host_model(&s, a, &all);
	if (!status) status = all.embeddings ? open_renamed(&s, a) : session_adapters(&s, a, 0);
	if (!status && a->data) status = searched(&s, a, &w, weights);
	if (!status) status = combine(&s, a, type, a->data ? w.type_settings : settings, weights, &made);
	if (!status) status = save_adapter(&s, made, a);
	if (!status && all.embeddings) status = restore_names(a->output, &all);
	if (!status) status = tell_combined(a, type, made, start, a->n_adapters, names, weights, a->data ? &w : NULL, NULL);
	for (size_t i = 0; i < all.n; i++) free(all.list[i].name);
	free(all.list);
	free(names), free(weights);
	json_decref(all.known);
	lora_adapter_destroy(made);
	lora_settings_destroy(settings);
	weigh_close(&w);
	session_close(&s);
	return status;
}

const command command_combine = { "combine", "-a ADAPTER=WEIGHT... [--type T] [-m MODEL -d DATA] -o OUT", "make one adapter of several",
	"Types: linear (default), cat, svd, lorahub, ties, dare_linear, dare_ties, magnitude_prune, and with _svd; 'lora methods combination' lists\n"
	"them and 'lora methods combination T' their settings, such as svd_rank, density and seed. The result is the weighted sum of\n"
	"the adapters' deltas: equal weights average, negative ones subtract. -s mode=peft gives the numbers of PEFT's\n"
	"add_weighted_adapter. The model is not needed, but for adapters in GGUF.\n"
	"With -m MODEL -d DATA the weights are searched: least loss on DATA plus l1 times the mean of |weight|, without gradients, over\n"
	"type lorahub unless --type says otherwise. Settings: search (cmaes), budget (40), lower_bound, upper_bound (-1.5, 1.5), l1 (0.05),\n"
	"sigma ('lora methods search'), batch_size, sequence_length, loss_on; --seed.\n"
	"uniform_soup is linear with equal weights. greedy_soup needs -m and -d: adapters in the order of their own loss on DATA; each stays when the loss\n"
	"of the average does not rise. Its JSON: output, type, adapters, kept, weights (adapter, weight, loss), loss, evaluations, seconds.\n"
	"JSON: output, type, adapters, r, sites, parameters, seconds; with -d also weights (adapter, weight), search, evaluations, loss,\n"
	"start_loss (without adapters), objective.\n",
	"adapter type set model data skip-bad chat-template output dtype-out force", 0, 0, run };
