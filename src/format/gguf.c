/* GGUF: open and close one file, a split model's files, or bytes in memory. The header is read by gguf_parse.c. */
#include "format/gguf.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/gguf_part.h"
#include "format/safetensors_header.h"

/* A file's metadata and data are little-endian; numbers of the metadata are read byte by byte, so only tensors know the host's order. */
#define DATA_SWAPPED(g) ((g)->swap != (LORA__BIG_ENDIAN != 0))

/* Tensors of the other byte order get a copy in the host's. */
static lora_status to_native(lora__gguf *g, lora__tensors *set, size_t first)
{
	uint64_t total = 0;
	for (size_t i = first; i < set->n; i++) total += set->list[i].bytes;
	lora_status st = lora__grow(g->ctx, &set->blobs, &set->cap_blobs, set->n_blobs + 1, sizeof *set->blobs);
	if (st || !total) return st;
	uint8_t *copy = lora__alloc(g->ctx, (size_t)total + 64 * (set->n - first));
	if (!copy) return LORA_E_MEMORY;
	set->blobs[set->n_blobs++] = (lora__blob){ copy, (size_t)total, 0 };
	for (size_t i = first; i < set->n; i++) {
		lora__tensor *t = &set->list[i];
		if (!t->bytes) continue;
		if (!lora__gguf_swap_data(copy, t))
			return lora__fail_at(g->ctx, LORA_E_UNSUPPORTED, "gguf", t->name, -1, "%s: tensor %s is %s in the other byte order, which is not supported", g->what,
				lora__quote(t->name).text, t->stored);
		t->data = copy;
		copy += (t->bytes + 63) & ~(uint64_t)63;
	}
	return LORA_OK;
}

static lora_status read_split(lora__gguf *g)
{
	int64_t no, count;
	lora_status st = lora__gguf_int(g, "split.no", 0, 0, LORA__GGUF_PARTS, &no);
	if (!st) st = lora__gguf_int(g, "split.count", 1, 0, LORA__GGUF_PARTS, &count);
	if (st) return st;
	g->split_no = (uint64_t)no, g->split_count = count > 1 ? (uint64_t)count : 1;
	return LORA_OK;
}

/* Read g->p[0..n) with its tensors put into set. */
static lora_status read_one(lora__gguf *g, lora__tensors *set)
{
	size_t first = set->n;
	lora_status st = lora__gguf_parse(g, set);
	if (!st) st = read_split(g);
	if (!st && DATA_SWAPPED(g)) st = to_native(g, set, first);
	return st;
}

static lora_status load(lora_context *ctx, const char *path, int map, lora__gguf *g, lora__tensors *set)
{
	lora__blob blob;
	lora_status st = lora__grow(ctx, &set->blobs, &set->cap_blobs, set->n_blobs + 1, sizeof *set->blobs);
	if (!st) st = map ? lora__blob_map(ctx, path, &blob) : lora__blob_read(ctx, path, UINT64_MAX, &blob);
	if (st) return st;
	set->blobs[set->n_blobs++] = blob;
	g->p = blob.data, g->n = blob.n;
	return read_one(g, set);
}

/* "...-00001-of-00003.gguf": where the first number begins, or NULL. */
static const char *part_number(const char *path, uint64_t *no, uint64_t *count)
{
	static const char shape[] = "-00000-of-00000.gguf";
	size_t n = strlen(path), m = sizeof shape - 1;
	if (n < m) return NULL;
	const char *s = path + n - m;
	*no = *count = 0;
	for (size_t i = 0; i < m; i++) {
		if (shape[i] != '0' ? s[i] != shape[i] : !isdigit((unsigned char)s[i])) return NULL;
		if (shape[i] == '0') *(i < 7 ? no : count) = *(i < 7 ? no : count) * 10 + (uint64_t)(s[i] - '0');
	}
	return s + 1;
}

static lora_status open_part(lora__gguf *g, const char *path, size_t at, uint64_t k)
{
	lora_context *ctx = g->ctx;
	char *name = lora__strdup(ctx, path), digits[8];
	lora__gguf part = { .ctx = ctx };
	lora_status st = name ? LORA_OK : LORA_E_MEMORY;
	if (st) return st;
	snprintf(digits, sizeof digits, "%05u", (unsigned)(k + 1) % 100000u);
	memcpy(name + at, digits, 5);
	if (!(part.what = lora__strdup(ctx, lora__quote(name).text))) st = LORA_E_MEMORY;
	if (!st) st = load(ctx, name, 1, &part, &g->set);
	if (st == LORA_E_NOTFOUND) st = lora__fail_at(ctx, st, "gguf", name, -1, "%s: part %u of the model is missing", part.what, (unsigned)k + 1);
	if (!st && (part.split_no != k || part.split_count != g->split_count))
		st = lora__fail_at(ctx, LORA_E_FORMAT, "gguf", "split.no", -1, "%s: split.no %u of %u, %u of %u expected", part.what, (unsigned)part.split_no,
			(unsigned)part.split_count, (unsigned)k, (unsigned)g->split_count);
	lora__free(ctx, part.keys);
	lora__free(ctx, part.what);
	lora__free(ctx, name);
	return st;
}

static lora_status open_parts(lora__gguf *g, const char *path)
{
	uint64_t no, count;
	int64_t total;
	const char *digits = path ? part_number(path, &no, &count) : NULL;
	if (g->split_count == 1) return LORA_OK;
	if (g->split_no || !digits || no != 1 || count != g->split_count)
		return lora__fail_at(g->ctx, LORA_E_UNSUPPORTED, "gguf", "split.count", -1,
			"%s: part %u of a model of %u files; open the first by its name ...-00001-of-%05u.gguf, with the others beside it", g->what,
			(unsigned)g->split_no + 1, (unsigned)g->split_count, (unsigned)g->split_count);
	lora_status st = LORA_OK;
	for (uint64_t k = 1; k < g->split_count && !st; k++) st = open_part(g, path, (size_t)(digits - path), k);
	if (!st) st = lora__gguf_int(g, "split.tensors.count", (int64_t)g->set.n, 0, INT64_MAX, &total);
	if (!st && (uint64_t)total != g->set.n)
		st = lora__fail_at(g->ctx, LORA_E_FORMAT, "gguf", "split.tensors.count", -1, "%s: split.tensors.count is %lld, the files hold %zu", g->what,
			(long long)total, g->set.n);
	return st;
}

static lora_status finish(lora__gguf *g, const char *path, lora_status st, lora__gguf *out)
{
	if (!st) st = open_parts(g, path);
	if (!st) st = lora__st_sort_names(&g->set, g->what);
	if (st) lora__gguf_close(g);
	else *out = *g;
	return st;
}

static lora_status open_path(lora_context *ctx, const char *path, int map, lora__gguf *out)
{
	lora__gguf g = { .ctx = ctx, .set = { .ctx = ctx } };
	*out = g;
	if (!(g.what = lora__strdup(ctx, lora__quote(path).text))) return LORA_E_MEMORY;
	return finish(&g, path, load(ctx, path, map, &g, &g.set), out);
}

lora_status lora__gguf_open(lora_context *ctx, const char *path, lora__gguf *out) { return open_path(ctx, path, 1, out); }
lora_status lora__gguf_read(lora_context *ctx, const char *path, lora__gguf *out) { return open_path(ctx, path, 0, out); }

lora_status lora__gguf_open_memory(lora_context *ctx, const void *bytes, size_t n, const char *what, lora__gguf *out)
{
	lora__gguf g = { .ctx = ctx, .set = { .ctx = ctx }, .p = bytes, .n = n };
	*out = g;
	if (!(g.what = lora__strdup(ctx, lora__quote(what).text))) return LORA_E_MEMORY;
	return finish(&g, NULL, read_one(&g, &g.set), out);
}

void lora__gguf_close(lora__gguf *g)
{
	if (!g->ctx) return;
	lora__tensors_close(&g->set);
	lora__free(g->ctx, g->keys);
	lora__free(g->ctx, g->what);
	*g = (lora__gguf){ 0 };
}

int lora__gguf_is(const char *path)
{
	char magic[4] = { 0 };
	if (lora__path_is_dir(path)) return 0;
	size_t n = strlen(path);
	if (n > 5 && strcmp(path + n - 5, ".gguf") == 0) return 1;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hold us up */
	struct stat info;
	ssize_t got = fd >= 0 && !fstat(fd, &info) && S_ISREG(info.st_mode) ? read(fd, magic, 4) : 0;
	if (fd >= 0) close(fd);
	return got == 4 && memcmp(magic, "GGUF", 4) == 0;
}
