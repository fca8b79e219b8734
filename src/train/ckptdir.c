/* The folder that holds checkpoints: step-00000012, or step-00000012-3 in the middle of an accumulation. Which one is newest is told by the
 * sequence number inside, not by names or times, so that runs that follow each other in one folder do not mix. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "format/file_write.h"
#include "train/train.h"

static int is_name(const char *s)
{
	size_t n = 0;
	if (strncmp(s, "step-", 5)) return 0;
	for (s += 5; *s >= '0' && *s <= '9'; s++) n++;
	if (n < 8 || n > 19) return 0;
	if (*s == '-')
		for (s++, n = 0; *s >= '0' && *s <= '9'; s++) n++;
	return *s == 0 && n > 0;
}

/* The number of the save that made this checkpoint; -1 when it is damaged. Lack of memory is no damage: taking it for such would let an older
 * checkpoint win. */
static lora_status read_sequence(lora_context *ctx, const char *dir, int64_t *sequence)
{
	lora__tensors file;
	json_t *state = NULL;
	char *path = lora__path_join(ctx, dir, LORA__CHECKPOINT_FILE);
	*sequence = -1;
	if (!path) return LORA_E_MEMORY;
	lora_status st = lora__safetensors_open(ctx, path, &file);
	if (st == LORA_OK) {
		const char *text = json_string_value(json_object_get(file.metadata, "state"));
		if (text && (st = lora__json_parse(ctx, text, strlen(text), "state", &state)) == LORA_OK) {
			const json_t *v = json_object_get(state, "sequence");
			if (json_is_integer(v) && json_integer_value(v) >= 0) *sequence = json_integer_value(v);
		}
		json_decref(state);
		lora__tensors_close(&file);
	}
	lora__free(ctx, path);
	return st == LORA_E_MEMORY ? st : LORA_OK;
}

static void sort(lora__ckpts *c)
{
	for (size_t i = 1; i < c->n; i++) {
		lora__ckpt x = c->list[i];
		size_t k = i;
		for (; k > 0 && c->list[k - 1].sequence < x.sequence; k--) c->list[k] = c->list[k - 1];
		c->list[k] = x;
	}
}

lora_status lora__ckpts_find(lora_context *ctx, const char *path, lora__ckpts *out)
{
	*out = (lora__ckpts){ .n = 0 };
	DIR *dir = opendir(path);
	if (!dir && errno == ENOENT) return LORA_OK;
	if (!dir) return lora__fail(ctx, LORA_E_IO, "trainer", "%s: can't read the folder: %s", lora__quote(path).text, strerror(errno));
	lora_status st = LORA_OK;
	for (struct dirent *e; st == LORA_OK && (e = readdir(dir));) {
		if (!is_name(e->d_name)) continue;
		char *name = lora__path_join(ctx, path, e->d_name);
		if (!name || (st = lora__grow(ctx, &out->list, &out->cap, out->n + 1, sizeof *out->list))) {
			lora__free(ctx, name);
			st = LORA_E_MEMORY;
			break;
		}
		out->list[out->n].dir = name;
		st = read_sequence(ctx, name, &out->list[out->n++].sequence);
	}
	closedir(dir);
	if (st) lora__ckpts_free(ctx, out);
	else sort(out);
	return st;
}

void lora__ckpts_free(lora_context *ctx, lora__ckpts *c)
{
	for (size_t i = 0; i < c->n; i++) lora__free(ctx, c->list[i].dir);
	lora__free(ctx, c->list);
	*c = (lora__ckpts){ .n = 0 };
}

void lora__ckpt_remove(lora_context *ctx, const char *dir)
{
	const lora__io *io = lora__io_active;
	char *file = lora__path_join(ctx, dir, LORA__CHECKPOINT_FILE);
	if (file && io->unlink(io->user, file) == 0 && io->rmdir(io->user, dir) == 0) {
		lora__free(ctx, file);
		return;
	}
	lora__log(ctx, LORA_LOG_WARN, "trainer", "%s: this old checkpoint can't be removed: %s", lora__quote(dir).text, strerror(errno));
	lora__free(ctx, file);
}

lora_status lora__ckpt_folder(lora_context *ctx, const char *path)
{
	const lora__io *io = lora__io_active;
	int fd = -1;
	if (lora__path_is_dir(path)) return LORA_OK;
	lora_status st = lora__parent_open(ctx, path, &fd);
	if (st) return st;
	int bad;
	do bad = io->mkdir(io->user, path, 0777);
	while (bad && errno == EINTR);
	if (bad) st = lora__write_failed(ctx, path, "can't create the folder", errno);
	else if (lora__folder_sync(fd)) {
		st = lora__write_failed(ctx, path, "can't sync the folder above to disk", errno);
		io->rmdir(io->user, path);
	}
	io->close(io->user, fd);
	return st;
}
