/* lora info: the parts of its output, and what is told of files that are no whole model. */
#ifndef LORA_CLI_INFOOUT_H
#define LORA_CLI_INFOOUT_H

#include "cli/cli.h"

typedef struct site {
	char *name;
	int64_t out, in; /* 0 = not known */
	const char *dtype;
} site;

typedef struct sites {
	site *list;
	size_t n;
} sites;

void free_sites(sites *s);
json_t *sites_json(const sites *s);
void show_sites(const sites *s); /* a table with one line for those that differ by their layer only */
char *layer_pattern(const char *name); /* "model.layers.12.mlp.up_proj" to "model.layers.*.mlp.up_proj" */
/* One JSON object as a line, with "path" where a folder's files are told one after the other; takes the object. */
int print_info(json_t *root);
void info_path(const char *path); /* what "path" is from now on; NULL = not said */
void field(const char *name, const char *value);
void field_count(const char *name, int64_t n);

/* Of an adapter's tensors. */
int adapter_sites(const st_file *f, sites *out);
json_t *tensors_json(const st_file *f);
void show_tensors(const json_t *tensors); /* the table of such a list */
const char *main_dtype(const st_file *f); /* the type that most elements have */

/* ---- infobare.c: files that no config.json or adapter_config.json explains ---- */
int info_tensors(const args *a, const char *path); /* one .safetensors file */
int info_tokenizer(const args *a, const char *path); /* FAILED without a message when it is none */
/* The .safetensors and .gguf files of a folder, sorted; free with free_names(). */
int weight_files(const char *dir, char ***out, size_t *n);
void free_names(char **names, size_t n);

#endif
