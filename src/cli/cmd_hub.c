/* lora hub: a folder of adapters with an index: what is in it, from which base, for what, under which licence, and whether the files still are what they
 * were. */
#include "cli/commands.h"
#include "cli/hub.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum { TEXT_MOST = 4000 };

/* ---- add ---- */

static int set_text(json_t *row, const char *key, const char *what, const char *text)
{
	size_t n = strlen(text);
	if (n > TEXT_MOST) return fail(USAGE, what, "is longer than %d bytes", TEXT_MOST);
	if (!text_ok(text, n)) return fail(USAGE, what, "is not UTF-8, or has control characters in it");
	return json_object_set_new(row, key, n ? json_string(text) : json_null()) ? fail_memory() : OK;
}

static int read_facts(const args *a, json_t *row)
{
	static const char *const keys[] = { "name", "task", "license", "note", "base" };
	json_t *metrics = json_object_get(row, "metrics");
	int status = OK;
	for (size_t i = 0; i < a->n_settings && !status; i++) {
		const char *name = a->settings[i].name, *text = a->settings[i].text;
		double value;
		size_t k = 0;
		if (!strncmp(name, "metric.", 7) && name[7]) {
			if (!text_ok(name, strlen(name)) || strlen(name) > 100) status = fail(USAGE, "metric", "its name is not UTF-8, or too long");
			else if (!parse_real(text, &value)) status = fail(USAGE, name, "\"%s\" is not a number", text);
			else json_object_set_new(metrics, name + 7, json_real(value));
			continue;
		}
		while (k < 5 && strcmp(name, keys[k])) k++;
		if (k < 5) status = set_text(row, name, name, text);
		else {
			const char *near = nearest_name(name, keys, 5);
			status = fail(USAGE, name, "is none of name, task, license, note, base, metric.NAME%s%s", near ? "; did you mean " : "", near ? near : "");
		}
	}
	return status;
}

/* Facts from a PEFT directory, which must be whole. */
static int read_peft(const char *dir, json_t *row)
{
	char *config = path_join(dir, "adapter_config.json"), *weights = path_join(dir, "adapter_model.safetensors"), *text = NULL;
	json_t *o = NULL;
	json_error_t err;
	size_t n;
	st_file f;
	memset(&f, 0, sizeof f);
	int status = config && weights ? OK : FAILED;
	if (!status && !path_exists(config)) status = fail(FAILED, dir, "is no adapter: it has no adapter_config.json");
	if (!status) status = read_file(config, 64u << 20, &text, &n);
	if (!status) o = json_loadb(text, n, 0, &err);
	if (!status && !json_is_object(o)) status = fail(FAILED, config, "is not a JSON object");
	const char *type = json_string_value(json_object_get(o, "peft_type")), *base = json_string_value(json_object_get(o, "base_model_name_or_path"));
	if (!status && !type) status = fail(FAILED, config, "has no peft_type");
	if (!status) status = st_read(weights, 1, &f);
	if (!status && !f.n) status = fail(FAILED, weights, "has no tensors");
	if (!status) {
		char method[32];
		int64_t count = 0;
		snprintf(method, sizeof method, "%s", type);
		for (char *p = method; *p; p++)
			if (*p >= 'A' && *p <= 'Z') *p = (char)(*p + 32);
		for (size_t i = 0; i < f.n; i++) count += f.tensors[i].count;
		json_object_set_new(row, "method", json_text(method, strlen(method)));
		json_object_set_new(row, "parameters", json_integer(count));
		if (json_is_integer(json_object_get(o, "r"))) json_object_set(row, "rank", json_object_get(o, "r"));
		if (base && *base && text_ok(base, strlen(base)) && strlen(base) <= TEXT_MOST) json_object_set_new(row, "base", json_string(base));
	}
	st_free(&f);
	json_decref(o);
	free(config), free(weights), free(text);
	return status;
}

static int read_gguf(session *s, const char *path, json_t *row)
{
	json_t *o = gguf_description(s->ctx, path);
	if (!o) return FAILED;
	const char *kind = json_string_value(json_object_get(o, "kind"));
	int status = kind && !strcmp(kind, "adapter") ? OK : fail(FAILED, path, "is a model, not an adapter");
	json_object_set_new(row, "method", json_string("lora"));
	json_object_set(row, "parameters", json_object_get(o, "parameters"));
	json_decref(o);
	return status;
}

/* With -m: the adapter fits the model, and the base is known by its hash. */
static int read_base(session *s, const args *a, const char *from, json_t *row)
{
	adapter_arg one = { (char *)(uintptr_t)from, 1 };
	args with = *a;
	char hash[SHA256_TEXT];
	with.adapters = &one, with.n_adapters = 1;
	int status = session_model(s, &with);
	if (!status) status = session_adapters(s, &with, 0);
	if (!status) status = model_sha256(a->model, hash);
	if (!status) json_object_set_new(row, "base_sha256", json_string(hash));
	if (!status && json_is_null(json_object_get(row, "base"))) status = set_text(row, "base", "-m", path_base(a->model));
	return status;
}

static json_t *fresh_row(void)
{
	char now[32];
	time_t t = time(NULL);
	struct tm utc;
	strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&t, &utc));
	return json_pack("{s:n, s:n, s:n, s:n, s:n, s:n, s:n, s:{}, s:n, s:n, s:n, s:s}", "name", "base", "base_sha256", "method", "rank", "task", "license", "metrics", "note",
		"parameters", "bytes", "added", now);
}

/* "path/to/name/" -> "name" */
static int default_name(json_t *row, const char *path)
{
	size_t n = strlen(path), from;
	if (json_is_string(json_object_get(row, "name"))) return OK;
	while (n > 1 && path[n - 1] == '/') n--;
	for (from = n; from && path[from - 1] != '/'; from--) continue;
	char *name = new_format("%.*s", (int)(n - from), path + from);
	if (!name) return FAILED;
	if (path_has_suffix(name, ".gguf")) name[strlen(name) - 5] = 0;
	if (text_ok(name, strlen(name))) json_object_set_new(row, "name", json_string(name));
	free(name);
	return OK;
}

static int show_row(const hub *h, const args *a, json_t *row, const int *wide);

static int commit_add(hub *h, json_t *row, const char *temp)
{
	const char *name = json_string_value(json_object_get(row, "name"));
	int taken = 0, status = hub_begin(h);
	if (!status) status = hub_has(h, name, &taken);
	if (!status && taken) status = fail(FAILED, name, "is in the hub already; remove it first, or give -s name=OTHER");
	if (!status) status = hub_place(h, temp, name);
	if (!status) status = hub_insert(h, row);
	if (!status) status = hub_commit(h);
	hub_rollback(h);
	return status ? status : hub_forget(h); /* what a killed process had left under this name */
}

static int add(const args *a)
{
	hub h = { .lock = -1 };
	session s = { 0 };
	const char *from = a->positional[2];
	char *temp = NULL;
	int taken = 0;
	json_t *row = fresh_row();
	int status = row ? OK : fail_memory();
	if (!status && !path_exists(from)) status = fail(FAILED, from, "no such file or directory");
	if (!status) status = session_context(&s, a);
	if (!status) status = path_is_dir(from) ? read_peft(from, row) : lora_gguf_is(from) ? read_gguf(&s, from, row) : fail(FAILED, from, "is neither a PEFT directory nor a .gguf file");
	if (!status) status = read_facts(a, row);
	if (!status) status = default_name(row, from);
	json_t *given = json_object_get(row, "name");
	const char *name = json_string_value(given), *problem = name_problem(name ? name : "", name ? json_string_length(given) : 0);
	if (!status && problem) status = fail(USAGE, "name", "%s (-s name=NAME)", problem);
	if (!status && a->model) status = read_base(&s, a, from, row);
	if (!status) status = hub_open(&h, a->positional[1], 1);
	if (!status) status = hub_has(&h, name, &taken);
	if (!status && taken) status = fail(FAILED, name, "is in the hub already; remove it first, or give -s name=OTHER");
	if (!status) status = hub_lock(&h, 0);
	if (!status) status = hub_stage(&h, from, row, &temp);
	if (!status) status = commit_add(&h, row, temp);
	if (!status) status = show_row(&h, a, row, NULL);
	if (temp && path_exists(temp)) remove_tree(temp); /* it is in place when all went well */
	free(temp);
	json_decref(row);
	hub_close(&h);
	session_close(&s);
	return status;
}

/* ---- list, search ---- */

/* Columns of the table, and how wide its texts make them, up to WIDEST. */
enum { COLUMNS = 5, WIDEST = 60 };
static const char *const column_keys[COLUMNS] = { "name", "method", "base", "task", "license" };

static const char *text_of(json_t *row, const char *key)
{
	const char *text = json_string_value(json_object_get(row, key));
	return text ? text : "-";
}

static void widen(int *wide, json_t *row)
{
	for (int k = 0; k < COLUMNS; k++) {
		const char *text = text_of(row, column_keys[k]);
		int n = 0;
		for (size_t i = 0; text[i] && n <= WIDEST; i++) n += ((unsigned char)text[i] & 0xC0) != 0x80;
		if (n > wide[k] && n <= WIDEST) wide[k] = n;
	}
}

/* A cell of the table, the last one with width -1: what would break the line or the terminal is shown as '?'. */
static void cell(const char *text, int width)
{
	char room[TEXT_MOST + 8];
	size_t n = 0, columns = 0;
	for (; text[n] && n < TEXT_MOST; n++) {
		unsigned char c = (unsigned char)text[n];
		room[n] = c < 32 || c == 127 ? '?' : (char)c;
		columns += (c & 0xC0) != 0x80;
	}
	room[n] = 0;
	say("%s%*s", room, width < 0 ? 0 : (int)columns < width ? width - (int)columns + 2 : 2, "");
}

/* wide: of the columns; NULL = it was added just now. */
static int show_row(const hub *h, const args *a, json_t *row, const int *wide)
{
	json_t *name = json_object_get(row, "name");
	const char *text = json_string_value(name);
	char *path = text && !name_problem(text, json_string_length(name)) ? hub_adapter(h, text) : NULL;
	int status = OK;
	if (a->json) {
		json_t *o = json_copy(row);
		json_object_set_new(o, "path", json_path(path));
		status = print_json(o);
	} else if (!wide) status = say("added %s to %s\n", text, h->root);
	else {
		char metrics[200] = "", rank[24] = "-";
		const char *key;
		json_t *v;
		json_object_foreach(json_object_get(row, "metrics"), key, v)
		{
			size_t n = strlen(metrics);
			snprintf(metrics + n, sizeof metrics - n, "%s%s %.4g", n ? ", " : "", key, json_number_value(v));
		}
		if (json_is_integer(json_object_get(row, "rank"))) snprintf(rank, sizeof rank, "%lld", (long long)json_integer_value(json_object_get(row, "rank")));
		for (int k = 0; k < COLUMNS; k++) {
			cell(text_of(row, column_keys[k]), wide[k]);
			if (k == 1) cell(rank, 4);
		}
		cell(metrics[0] ? metrics : "-", -1);
		status = say("\n");
	}
	free(path);
	return status;
}

static int list(const args *a)
{
	hub h;
	json_t *rows = NULL, *row;
	size_t i;
	int w[COLUMNS] = { 4, 6, 4, 4, 7 };
	int status = hub_open(&h, a->positional[1], 0);
	if (!status) status = hub_rows(&h, NULL, a->positional + 2, a->n_positional - 2, &rows);
	json_array_foreach(rows, i, row) widen(w, row);
	if (!status && !a->json && json_array_size(rows)) {
		cell("NAME", w[0]), cell("METHOD", w[1]), cell("RANK", 4), cell("BASE", w[2]), cell("TASK", w[3]), cell("LICENCE", w[4]);
		status = say("METRICS\n");
	} else if (!status) say(a->n_positional > 2 ? "nothing found\n" : "the hub is empty\n");
	json_array_foreach(rows, i, row)
		if (!status) status = show_row(&h, a, row, w);
	json_decref(rows);
	hub_close(&h);
	return status;
}

/* ---- remove ---- */

/* The files, once the row is gone: only when nobody has added that name again meanwhile. */
static int remove_files(hub *h, const char *name)
{
	int back = 0, status = hub_begin(h);
	if (!status) status = hub_has(h, name, &back);
	if (!status && !back) status = hub_discard(h, name);
	hub_rollback(h);
	return status ? status : hub_forget(h);
}

static int remove_one(hub *h, const char *name)
{
	int found = 0, status = hub_begin(h);
	if (!status) status = hub_delete(h, name, &found);
	if (!status && !found) status = fail(FAILED, name, "is not in the hub; 'lora hub list' shows what is");
	if (!status) status = hub_commit(h);
	hub_rollback(h);
	return status ? status : remove_files(h, name);
}

static int remove_adapters(const args *a)
{
	hub h = { .lock = -1 };
	int status = OK;
	for (size_t i = 2; i < a->n_positional && !status; i++) {
		const char *problem = name_problem(a->positional[i], strlen(a->positional[i]));
		if (problem) status = fail(USAGE, "NAME", "%s", problem);
	}
	if (!status) status = hub_open(&h, a->positional[1], 0);
	if (!status) status = hub_lock(&h, 0);
	for (size_t i = 2; i < a->n_positional && !status; i++) {
		status = remove_one(&h, a->positional[i]);
		if (!status && a->json) status = print_json(json_pack("{s:s, s:s}", "hub", a->positional[1], "removed", a->positional[i]));
		else if (!status) status = say("removed %s\n", a->positional[i]);
	}
	hub_close(&h);
	return status;
}

/* ---- verify ---- */

static int known_file(const char *name)
{
	static const char *const names[] = { "adapter_config.json", "adapter_model.safetensors", "README.md", "LICENSE", "adapter.gguf" };
	for (int i = 0; i < 5; i++)
		if (!strcmp(name, names[i])) return 1;
	return 0;
}

/* What is wrong with an adapter's files, as a new string, or NULL. */
static char *damage(const hub *h, json_t *row)
{
	json_t *name = json_object_get(row, "name"), *v;
	const char *text = json_string_value(name), *file;
	if (!text || name_problem(text, json_string_length(name))) return new_string("the name is not one that a hub gives");
	char *dir = hub_path(h, text), *bad = NULL, hash[SHA256_TEXT];
	int has_weights = 0;
	json_object_foreach(json_object_get(row, "files"), file, v)
	{
		struct stat st;
		int64_t bytes = 0;
		char *path = dir && known_file(file) ? path_join(dir, file) : NULL;
		const char *want = json_string_value(json_object_get(v, "sha256"));
		if (bad) free(path), path = NULL;
		else if (!path) bad = new_string("a file in the index is none that a hub keeps");
		else if (lstat(path, &st) || !S_ISREG(st.st_mode)) bad = new_format("%s is missing", file);
		else if (file_sha256(path, hash, &bytes)) bad = new_format("%s cannot be read", file);
		else if (!want || strcmp(hash, want) || bytes != json_integer_value(json_object_get(v, "bytes"))) bad = new_format("%s has changed (sha256 %s)", file, hash);
		has_weights |= !strcmp(file, "adapter.gguf") || !strcmp(file, "adapter_model.safetensors");
		free(path);
	}
	if (!bad && !has_weights) bad = new_string("the index has no file with its weights");
	free(dir);
	return bad;
}

static int verify_rows(hub *h, const args *a, json_t *damaged, size_t *count)
{
	json_t *rows = NULL, *row;
	size_t i;
	int status = hub_rows(h, NULL, NULL, 0, &rows);
	*count = json_array_size(rows);
	json_array_foreach(rows, i, row)
	{
		char *bad = status ? NULL : damage(h, row);
		const char *name = json_string_value(json_object_get(row, "name"));
		int found = 1;
		if (bad && name) status = hub_has(h, name, &found); /* it may have been removed meanwhile */
		if (bad && found) {
			json_t *o = json_pack("{s:O, s:o}", "name", json_object_get(row, "name"), "problem", json_text(bad, strlen(bad)));
			if (a->force && name && !status) {
				status = hub_begin(h);
				if (!status) status = hub_delete(h, name, &found);
				if (!status) status = hub_commit(h);
				hub_rollback(h);
				if (!status && !name_problem(name, strlen(name))) status = remove_files(h, name);
				json_object_set_new(o, "removed", json_true());
			}
			json_array_append_new(damaged, o);
		}
		free(bad);
	}
	json_decref(rows);
	return status;
}

/* Folders without a row: those that bear the hub's mark were left by a killed process and go; others are somebody's, and stay. */
static int verify_folders(hub *h, json_t *orphans, json_t *foreign)
{
	int status = hub_begin(h);
	DIR *d = status ? NULL : opendir(h->adapters);
	if (!status && !d) status = fail_system(h->adapters, "cannot read");
	for (struct dirent *e; d && !status && (e = readdir(d));) {
		int found = 0;
		if (*e->d_name == '.') continue;
		int named = !name_problem(e->d_name, strlen(e->d_name));
		if (named) status = hub_has(h, e->d_name, &found);
		if (status || found) continue;
		char *dir = hub_path(h, e->d_name), *card = dir ? path_join(dir, "hub.json") : NULL;
		int ours = named && card && path_exists(card);
		if (ours) status = hub_discard(h, e->d_name);
		json_array_append_new(ours ? orphans : foreign, json_text(e->d_name, strlen(e->d_name)));
		free(dir), free(card);
	}
	if (d) closedir(d);
	hub_rollback(h);
	return status;
}

static int tell_verified(const hub *h, const args *a, size_t n, json_t *damaged, json_t *orphans, json_t *foreign)
{
	json_t *x;
	size_t i, bad = json_array_size(damaged), left = 0;
	json_array_foreach(damaged, i, x) left += !json_object_get(x, "removed");
	if (a->json)
		print_json(json_pack("{s:s, s:I, s:b, s:O, s:O, s:O}", "hub", h->root, "adapters", (json_int_t)n, "ok", !left, "damaged", damaged, "orphans_removed", orphans, "foreign", foreign));
	json_array_foreach(damaged, i, x) say("%s: %s%s\n", text_of(x, "name"), text_of(x, "problem"), json_object_get(x, "removed") ? "; removed" : "");
	json_array_foreach(foreign, i, x) warn(json_string_value(x), "is no adapter of this hub, and was left where it is");
	if (left) return fail(FAILED, h->root, "%zu of %zu adapters are damaged; --force removes them", left, n);
	return say("%zu adapter%s, %s; %zu leftover%s removed\n", n, n == 1 ? "" : "s", bad ? "damaged ones removed" : "all as they were added", json_array_size(orphans), json_array_size(orphans) == 1 ? "" : "s");
}

static int verify(const args *a)
{
	hub h;
	json_t *damaged = json_array(), *orphans = json_array(), *foreign = json_array();
	size_t n = 0;
	int status = hub_open(&h, a->positional[1], 0);
	if (!status) status = hub_check(&h, damaged);
	if (!status) status = hub_lock(&h, 1); /* nobody adds or removes meanwhile */
	if (!status) status = verify_rows(&h, a, damaged, &n);
	if (!status) status = verify_folders(&h, orphans, foreign);
	if (!status) status = hub_sweep(&h);
	if (!status) status = tell_verified(&h, a, n, damaged, orphans, foreign);
	json_decref(damaged), json_decref(orphans), json_decref(foreign);
	hub_close(&h);
	return status;
}

/* ---- */

static int compose(const args *a)
{
	hub h;
	int status = hub_open(&h, a->positional[1], 0);
	if (!status) status = hub_compose(&h, a);
	hub_close(&h);
	return status;
}

static int run(const args *a)
{
	static const struct { const char *name; int least, most; const char *usage; int (*run)(const args *a); } parts[] = {
		{ "add", 3, 3, "HUB ADAPTER [-s name=NAME] [-s task=...] [-s license=...] [-s note=...] [-s base=...] [-s metric.NAME=VALUE] [-m MODEL]", add },
		{ "list", 2, 2, "HUB", list },
		{ "search", 3, 52, "HUB WORD...", list },
		{ "verify", 2, 2, "HUB [--force]", verify },
		{ "remove", 3, 1000000, "HUB NAME...", remove_adapters },
		{ "compose", 2, 1000000, "HUB [NAME...] -m MODEL -d DATA -o OUT", compose } };
	const char *names[6];
	for (size_t i = 0; i < 6; i++) {
		names[i] = parts[i].name;
		if (strcmp(a->positional[0], names[i])) continue;
		if ((int)a->n_positional < parts[i].least || (int)a->n_positional > parts[i].most) return fail(USAGE, names[i], "usage: lora hub %s %s", names[i], parts[i].usage);
		return parts[i].run(a);
	}
	const char *near = nearest_name(a->positional[0], names, 6);
	return fail(USAGE, a->positional[0], "is none of add, list, search, verify, remove, compose%s%s", near ? "; did you mean " : "", near ? near : "");
}

const command command_hub = { "hub", "add|list|search|verify|remove|compose HUB ...", "keep adapters in a folder with an index, and compose them",
	"lora hub add HUB ADAPTER [-s name=NAME] [-s task=TEXT] [-s license=TEXT] [-s note=TEXT] [-s base=TEXT] [-s metric.NAME=VALUE]... [-m MODEL]\n"
	"    copy an adapter into the hub, which is made if need be; with -m it must fit the model, and the base is known by its sha256\n"
	"lora hub list HUB, lora hub search HUB WORD...\n"
	"    what is there; what has all of the words in its name, base, method, task, licence or note\n"
	"lora hub verify HUB [--force]\n"
	"    compare all files with their sha256 and clear up what killed processes left; --force removes adapters that are damaged\n"
	"lora hub remove HUB NAME...\n"
	"lora hub compose HUB [NAME...] -m MODEL -d DATA -o OUT [-s adapters=20] [settings of 'lora combine -d']\n"
	"    search weights with which adapters of the hub do best on DATA (LoraHub), and write their combination. Without names: those of\n"
	"    this base, of the most frequent rank, at most 20 drawn by --seed\n"
	"JSON of add, list, search: name, base, base_sha256, method, rank, task, license, metrics, note, parameters, bytes, added, files\n"
	"(sha256, bytes of each), path; of remove: hub, removed; of verify: hub, adapters, ok, damaged (name, problem), orphans_removed,\n"
	"foreign; of compose: as 'lora combine -d', and skipped.\n",
	"model data output set type skip-bad chat-template dtype-out force", 1, 1000000, run };
