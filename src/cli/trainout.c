/* lora: the output directory of train. */
#include "cli/trainout.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int has(const char *dir, const char *name)
{
	char *path = path_join(dir, name);
	int yes = path && path_exists(path);
	free(path);
	return yes;
}

int train_out_check(train_out *o, const args *a)
{
	memset(o, 0, sizeof *o);
	o->dir = a->output;
	o->checkpoint = path_join(o->dir, "checkpoint");
	o->log_path = path_join(o->dir, "log.jsonl");
	o->settings_path = path_join(o->dir, "train.json");
	if (!o->checkpoint || !o->log_path || !o->settings_path) return FAILED;
	if (!path_exists(o->dir)) {
		o->made = 1;
		if (a->resume) return fail(FAILED, o->dir, "nothing to resume: no such directory");
		return OK;
	}
	if (!path_is_dir(o->dir)) return fail(FAILED, o->dir, "is there already and is no directory");
	if (a->resume && !has(o->dir, "checkpoint")) return fail(FAILED, o->dir, "nothing to resume: it has no checkpoint");
	int ours = has(o->dir, "adapter_config.json") || has(o->dir, "train.json") || path_is_empty_dir(o->dir);
	if (!ours && !a->force) return fail(FAILED, o->dir, "is there already and is no adapter; give --force to write into it");
	return OK;
}

int train_out_before(const train_out *o, json_t **out)
{
	json_error_t err;
	char *text;
	size_t n;
	*out = NULL;
	if (!path_exists(o->settings_path)) return OK;
	if (read_file(o->settings_path, 64u << 20, &text, &n)) return FAILED;
	*out = json_loadb(text, n, JSON_REJECT_DUPLICATES, &err);
	free(text);
	if (json_is_object(*out) && json_is_object(json_object_get(*out, "settings"))) return OK;
	json_decref(*out);
	*out = NULL;
	return fail(FAILED, o->settings_path, "is damaged; give the settings again and remove it");
}

static int write_settings(const train_out *o, json_t *settings, const char *init)
{
	outfile f;
	json_t *root = json_pack("{s:O}", "settings", settings);
	if (init) json_object_set_new(root, "init", json_string(init));
	char *text = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
	json_decref(root);
	int status = text ? outfile_open(&f, o->settings_path) : fail_memory();
	if (!status) {
		fputs(text, f.f);
		fputc('\n', f.f);
		status = outfile_commit(&f);
	}
	free(text);
	return status;
}

static int open_log(train_out *o, const char *mode)
{
	o->log = fopen(o->log_path, mode);
	return o->log ? OK : fail_system(o->log_path, "cannot write");
}

int train_out_begin(train_out *o, json_t *settings, const char *init)
{
	if (make_dir(o->dir)) return FAILED;
	/* an older run's checkpoint would be taken for this one's */
	if (remove_tree(o->checkpoint)) return FAILED;
	if (write_settings(o, settings, init)) return FAILED;
	return open_log(o, "we");
}

int train_out_continue(train_out *o, int64_t step, json_t *settings, const char *init)
{
	outfile f;
	char *text = NULL;
	size_t n = 0;

	if (path_exists(o->log_path)) {
		if (read_file(o->log_path, 0, &text, &n)) return FAILED;
		if (outfile_open(&f, o->log_path)) {
			free(text);
			return FAILED;
		}
		for (size_t at = 0; at < n;) {
			char *end = memchr(text + at, '\n', n - at);
			size_t m = end ? (size_t)(end - text) - at : n - at;
			json_t *line = json_loadb(text + at, m, 0, NULL), *s = json_object_get(line, "step");
			if (json_is_integer(s) && json_integer_value(s) <= step) {
				fwrite(text + at, 1, m, f.f);
				fputc('\n', f.f);
			}
			json_decref(line);
			at += m + 1;
		}
		free(text);
		if (outfile_commit(&f)) return FAILED;
	}
	if (write_settings(o, settings, init)) return FAILED;
	return open_log(o, "ae");
}

int train_out_log(train_out *o, json_t *line)
{
	char *text = json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(17));
	if (!text) return fail_memory();
	errno = 0;
	int bad = fprintf(o->log, "%s\n", text) < 0 || fflush(o->log);
	free(text);
	return bad ? fail_system(o->log_path, "cannot write") : OK;
}

/* The files of a fresh adapter directory replace their namesakes; the weights come before the config that makes them an adapter. */
static int move_files(const char *from, const char *to)
{
	int status = OK;
	DIR *d = opendir(from);
	if (!d) return fail_system(from, "cannot read");
	for (int config = 0; config < 2 && !status; config++) {
		rewinddir(d);
		for (struct dirent *e; !status && (e = readdir(d));) {
			if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || (strcmp(e->d_name, "adapter_config.json") == 0) != config)
				continue;
			char *a = path_join(from, e->d_name), *b = path_join(to, e->d_name);
			if (!a || !b) status = FAILED;
			else if (rename(a, b)) status = fail_system(b, "cannot put the finished file in place");
			free(a);
			free(b);
		}
	}
	closedir(d);
	int fd = open(to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0) {
		(void)!fsync(fd);
		close(fd);
	}
	return status;
}

int train_out_adapter(train_out *o, lora_context *ctx, lora_adapter *adapter)
{
	char *fresh = new_format("%s/.adapter-%ld", o->dir, (long)getpid());
	int status = fresh ? OK : FAILED;
	if (!status && lora_adapter_save(adapter, fresh, NULL)) status = fail_library(ctx, o->dir);
	if (!status) status = move_files(fresh, o->dir);
	if (fresh && path_exists(fresh)) remove_tree(fresh);
	free(fresh);
	return status;
}

void train_out_close(train_out *o)
{
	if (o->log) fclose(o->log);
	free(o->checkpoint);
	free(o->log_path);
	free(o->settings_path);
	memset(o, 0, sizeof *o);
}
