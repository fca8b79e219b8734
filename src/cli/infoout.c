/* lora info: what its tables and lists of sites and tensors look like, for models, adapters and bare files alike. */
#include "cli/infoout.h"

#include <stdlib.h>
#include <string.h>

static const char *told_path;

void info_path(const char *path)
{
	told_path = path;
	if (path && !json_wanted()) say("%-14s %s\n", "file", path);
}

int print_info(json_t *root)
{
	if (told_path) json_object_set_new(root, "path", json_path(told_path));
	return print_json(root);
}

void free_sites(sites *s)
{
	for (size_t i = 0; i < s->n; i++) free(s->list[i].name);
	free(s->list);
}

json_t *sites_json(const sites *s)
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

char *layer_pattern(const char *name)
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

/* Rows of a table that differ in their layer only are told once, with their number: "columns|pattern" to number, in order of appearance. */
typedef struct tally { json_t *counts; int width; } tally;

static void count_row(tally *t, const char *columns, const char *pattern)
{
	char *row = columns && pattern ? new_format("%s|%s", columns, pattern) : NULL;
	if (row) {
		json_object_set_new(t->counts, row, json_integer(1 + json_integer_value(json_object_get(t->counts, row))));
		if ((int)strlen(pattern) > t->width) t->width = (int)strlen(pattern);
	}
	free(row);
}

static void show_tally(tally *t, const char *what, const char *columns)
{
	json_t *value;
	const char *key;
	if (t->width > 100) t->width = 100;
	say("\n%-*s  %s %5s\n", t->width, what, columns, "count");
	json_object_foreach(t->counts, key, value)
	{
		const char *bar = strchr(key, '|');
		say("%-*s  %.*s %5lld\n", t->width, bar + 1, (int)(bar - key), key, (long long)json_integer_value(value));
	}
	json_decref(t->counts);
}

void show_sites(const sites *s)
{
	tally t = { json_object(), 4 };

	for (size_t i = 0; i < s->n; i++) {
		char *pattern = layer_pattern(s->list[i].name), out[32] = "-", in[32] = "-";
		if (s->list[i].out) format_count(s->list[i].out, out, sizeof out);
		if (s->list[i].in) format_count(s->list[i].in, in, sizeof in);
		char *columns = new_format("%10s %10s  %-6s", out, in, s->list[i].dtype);
		count_row(&t, columns, pattern);
		free(columns);
		free(pattern);
	}
	show_tally(&t, "site", "       out         in  dtype ");
}

void field(const char *name, const char *value) { say("%-14s %s\n", name, value); }

void field_count(const char *name, int64_t n)
{
	char buf[32];
	field(name, format_count(n, buf, sizeof buf));
}

/* Module path of an adapter's tensor: without PEFT's prefix, "weight" and the parameter's own name. *param points into name. */
static char *module_of(const char *name, const char **param)
{
	static const char *const prefixes[] = { "lora_", "hada_", "lokr_", "ia3_", "oft_", "boft_", "vera_", "hra_", "miss_", "road_",
		"randlora_", "fourierft_", "c3a_", "delora_", "shira_", "vblora_", "waveft_", "gralora_", "hira_", "osf_", "psoft_", "pvera_", "tinylora_",
		"adaption_", "token_adapter", "trainable_tokens_", "base_layer" };
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

int adapter_sites(const st_file *f, sites *out)
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
		if (t->rank == 2 && !strncmp(param, "lora_embedding_A", 16)) s->in = t->shape[1];
		if (t->rank == 2 && !strncmp(param, "lora_embedding_B", 16)) s->out = t->shape[0];
		if (t->rank == 2 && !param[0]) {
			s->out = t->shape[0];
			s->in = t->shape[1];
		}
	}
	json_decref(known);
	return out->list ? OK : FAILED;
}

json_t *tensors_json(const st_file *f)
{
	json_t *list = json_array();
	for (size_t i = 0; i < f->n; i++) {
		json_t *shape = json_array();
		for (int d = 0; d < f->tensors[i].rank; d++) json_array_append_new(shape, json_integer(f->tensors[i].shape[d]));
		json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:I}", "name", f->tensors[i].name, "dtype", f->tensors[i].stored, "shape", shape,
			"bytes", (json_int_t)f->tensors[i].bytes));
	}
	return list;
}

/* "[320, 960]" */
static char *shape_text(const json_t *shape)
{
	char *text = new_string("[");
	for (size_t i = 0; text && i < json_array_size(shape); i++) {
		char *more = new_format("%s%s%lld", text, i ? ", " : "", (long long)json_integer_value(json_array_get(shape, i)));
		free(text);
		text = more;
	}
	char *whole = text ? new_format("%s]", text) : NULL;
	free(text);
	return whole;
}

void show_tensors(const json_t *tensors)
{
	tally all = { json_object(), 6 };
	json_t *t;
	size_t i;

	json_array_foreach(tensors, i, t)
	{
		char *pattern = layer_pattern(json_string_value(json_object_get(t, "name"))), *shape = shape_text(json_object_get(t, "shape")), bytes[32] = "-";
		if (json_object_get(t, "bytes")) format_count(json_integer_value(json_object_get(t, "bytes")), bytes, sizeof bytes);
		char *columns = shape ? new_format("%-7s %-20s %14s", json_string_value(json_object_get(t, "dtype")), shape, bytes) : NULL;
		count_row(&all, columns, pattern);
		free(columns);
		free(shape);
		free(pattern);
	}
	show_tally(&all, "tensor", "dtype   shape                         bytes");
}

const char *main_dtype(const st_file *f)
{
	struct {
		const char *name;
		int64_t count;
	} kinds[32] = { { "-", 0 } }; /* more than there are types */
	size_t n = 0, best = 0;
	for (size_t i = 0; i < f->n; i++) {
		size_t k = 0;
		while (k < n && strcmp(kinds[k].name, f->tensors[i].stored)) k++;
		if (k == sizeof kinds / sizeof kinds[0]) continue;
		if (k == n) kinds[n].name = f->tensors[i].stored, kinds[n++].count = 0;
		kinds[k].count += f->tensors[i].count;
	}
	for (size_t k = 1; k < n; k++)
		if (kinds[k].count > kinds[best].count) best = k;
	return n && !kinds[best].count ? "-" : kinds[best].name;
}
