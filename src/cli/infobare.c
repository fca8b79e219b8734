/* lora info of what is no whole model: a .safetensors file without config.json, a tokenizer. What the file itself says, and nothing guessed. */
#include "cli/infoout.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

/* The rank that all pairs share, 0 when there is none such. */
static int64_t common_rank(const st_file *f)
{
	int64_t rank = 0;
	for (size_t i = 0; i < f->n; i++) {
		const st_tensor *t = &f->tensors[i];
		if (t->rank != 2 || !strstr(t->name, ".lora_A")) continue;
		if (rank && rank != t->shape[0]) return 0;
		rank = t->shape[0];
	}
	return rank;
}

/* LoRA's pairs make an adapter, whatever is beside them (PEFT's names, or loralib's without prefix and ".weight"). */
static int has_pairs(const st_file *f)
{
	int a = 0, b = 0;
	for (size_t i = 0; i < f->n; i++) a |= strstr(f->tensors[i].name, ".lora_A") != NULL, b |= strstr(f->tensors[i].name, ".lora_B") != NULL;
	return a && b;
}

static int show_json(const st_file *f, const sites *list, int64_t parameters, int64_t rank)
{
	int adapter = has_pairs(f);
	json_t *root = json_pack("{s:s, s:s, s:n, s:I, s:s, s:O?, s:o, s:o}", "kind", adapter ? "adapter" : "model", "format", "safetensors", "architecture",
		"parameters", (json_int_t)parameters, "dtype", main_dtype(f), "metadata", f->metadata, "sites", sites_json(list), "tensors", tensors_json(f));
	if (adapter) {
		json_object_set_new(root, "method", json_string("lora"));
		json_object_set_new(root, "settings", rank ? json_pack("{s:I}", "r", (json_int_t)rank) : json_object());
	}
	return print_info(root);
}

static void show_text(const st_file *f, const sites *list, int64_t parameters, int64_t rank)
{
	int adapter = has_pairs(f);
	json_t *tensors = tensors_json(f), *value;
	uint64_t bytes = 0;
	const char *key;
	for (size_t i = 0; i < f->n; i++) bytes += f->tensors[i].bytes;
	field("kind", adapter ? "adapter" : "model");
	field("format", "safetensors");
	field("architecture", adapter ? "not known: no adapter_config.json beside the file" : "not known: no config.json beside the file");
	if (adapter) field("method", "lora");
	if (rank) field_count("rank", rank);
	field_count("parameters", parameters);
	field("dtype", main_dtype(f));
	field_count("bytes", (int64_t)bytes);
	field_count("tensors", (int64_t)f->n);
	if (list->n) field_count("sites", (int64_t)list->n);
	if (json_object_size(f->metadata)) say("\nmetadata\n");
	json_object_foreach(f->metadata, key, value)
	{
		char *text = json_dumps(value, JSON_ENCODE_ANY);
		if (text) say("  %-26s %.100s%s\n", key, text, strlen(text) > 100 ? "..." : "");
		free(text);
	}
	show_tensors(tensors);
	json_decref(tensors);
}

int info_tensors(const args *a, const char *path)
{
	st_file f;
	sites list = { 0 };
	int64_t parameters = 0;
	int status = st_read(path, 1, &f);
	if (!status && has_pairs(&f)) status = adapter_sites(&f, &list);
	for (size_t i = 0; i < f.n; i++) parameters += f.tensors[i].count;
	if (!status && a->json) status = show_json(&f, &list, parameters, common_rank(&f));
	else if (!status) show_text(&f, &list, parameters, common_rank(&f));
	free_sites(&list);
	st_free(&f);
	return status;
}

int info_tokenizer(const args *a, const char *path)
{
	session s;
	int status = session_context(&s, a);
	if (!status && lora_tokenizer_open(s.ctx, path, &s.tokenizer)) status = FAILED;
	if (!status && a->json) status = print_info(json_pack("{s:s, s:I}", "kind", "tokenizer", "vocab_size", (json_int_t)lora_tokenizer_size(s.tokenizer)));
	else if (!status) {
		field("kind", "tokenizer (no model)");
		field_count("vocabulary", lora_tokenizer_size(s.tokenizer));
	}
	session_close(&s);
	return status;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

void free_names(char **names, size_t n)
{
	for (size_t i = 0; i < n; i++) free(names[i]);
	free(names);
}

int weight_files(const char *dir, char ***out, size_t *n)
{
	DIR *d = opendir(dir);
	size_t room = 0;
	int status = OK;
	*out = NULL, *n = 0;
	if (!d) return fail_system(dir, "cannot read");
	for (struct dirent *e; !status && (e = readdir(d));) {
		if (!path_has_suffix(e->d_name, ".safetensors") && !path_has_suffix(e->d_name, ".gguf")) continue;
		if (*n == room) {
			char **more = grow(*out, room = room ? 2 * room : 16, sizeof *more);
			if (!more) status = FAILED;
			else *out = more;
		}
		if (!status && !((*out)[(*n)++] = path_join(dir, e->d_name))) status = FAILED;
	}
	closedir(d);
	if (*n) qsort(*out, *n, sizeof **out, by_name);
	return status;
}
