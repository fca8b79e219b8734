/* Checks over all entries of a safetensors header: the tensors tile the data section, and no name comes twice. Both sort indices with a merge
 * sort (n log n whatever the file does; one pass when the order is right already, which is how writers leave it). */
#include <string.h>

#include "format/safetensors_header.h"

typedef int (*order_fn)(const lora__tensor *a, const lora__tensor *b);

static int by_offset(const lora__tensor *a, const lora__tensor *b)
{
	if (a->data != b->data) return a->data < b->data ? -1 : 1;
	return a->bytes < b->bytes ? -1 : a->bytes > b->bytes;
}

static int by_name(const lora__tensor *a, const lora__tensor *b) { return strcmp(a->name, b->name); }

/* Sort n indices into list; spare has room for n. */
static void sort_indices(const lora__tensor *list, uint32_t *index, uint32_t *spare, size_t n, order_fn order)
{
	size_t i = 1;
	while (i < n && order(&list[index[i - 1]], &list[index[i]]) <= 0) i++;
	if (i >= n) return;
	uint32_t *from = index, *to = spare;
	for (size_t width = 1; width < n; width *= 2) {
		for (size_t lo = 0; lo < n; lo += 2 * width) {
			size_t mid = lo + width < n ? lo + width : n, hi = lo + 2 * width < n ? lo + 2 * width : n;
			size_t a = lo, b = mid;
			for (size_t k = lo; k < hi; k++)
				to[k] = a < mid && (b >= hi || order(&list[from[a]], &list[from[b]]) <= 0) ? from[a++] : from[b++];
		}
		uint32_t *t = from;
		from = to, to = t;
	}
	if (from != index) memcpy(index, from, n * sizeof *index);
}

static lora_status sorted(lora_context *ctx, const lora__tensor *list, size_t n, order_fn order, uint32_t **out)
{
	uint32_t *index = lora__calloc(ctx, n ? n : 1, sizeof *index);
	uint32_t *spare = lora__calloc(ctx, n ? n : 1, sizeof *spare);
	if (!index || !spare) {
		lora__free(ctx, index);
		lora__free(ctx, spare);
		return LORA_E_MEMORY;
	}
	for (size_t i = 0; i < n; i++) index[i] = (uint32_t)i;
	sort_indices(list, index, spare, n, order);
	lora__free(ctx, spare);
	*out = index;
	return LORA_OK;
}

lora_status lora__st_check_tiles(const lora__st_file *f, int final)
{
	const lora__tensor *list = f->set->list + f->first, *last = NULL;
	size_t              n = f->set->n - f->first;
	uint64_t            end = 0; /* of what is covered so far */
	uint32_t           *index = NULL;
	lora_status         st = sorted(f->ctx, list, n, by_offset, &index);
	if (st) return st;
	for (size_t i = 0; i < n && !st; i++) {
		const lora__tensor *t = &list[index[i]];
		uint64_t            begin = (uint64_t)(t->data - f->data);
		if (begin < end)
			st = lora__fail_at(f->ctx, LORA_E_FORMAT, "safetensors", t->name, -1, "%s: tensors '%s' and '%s' overlap", f->what,
			                   lora__quote(last->name).text, lora__quote(t->name).text);
		else if (begin > end && final)
			st = lora__fail_at(f->ctx, LORA_E_FORMAT, "safetensors", t->name, -1, "%s: hole of %llu bytes before tensor '%s'", f->what,
			                   (unsigned long long)(begin - end), lora__quote(t->name).text);
		if (begin + t->bytes >= end) end = begin + t->bytes, last = t;
	}
	if (!st && final && end != f->data_n)
		st = lora__fail_at(f->ctx, LORA_E_FORMAT, "safetensors", NULL, -1, "%s: %llu bytes after the last tensor", f->what,
		                   (unsigned long long)(f->data_n - end));
	lora__free(f->ctx, index);
	return st;
}

lora_status lora__st_sort_names(lora__tensors *t, const char *what)
{
	lora_status st = sorted(t->ctx, t->list, t->n, by_name, &t->by_name);
	if (st) return st;
	for (size_t i = 1; i < t->n; i++) {
		const char *name = t->list[t->by_name[i]].name;
		if (strcmp(t->list[t->by_name[i - 1]].name, name) == 0)
			return lora__fail_at(t->ctx, LORA_E_FORMAT, "safetensors", name, -1, "%s: duplicate key '%s'", what, lora__quote(name).text);
	}
	return LORA_OK;
}

const lora__tensor *lora__tensors_find(const lora__tensors *t, const char *name)
{
	size_t lo = 0, hi = t->by_name ? t->n : 0;
	while (lo < hi) {
		size_t              mid = lo + (hi - lo) / 2;
		const lora__tensor *m = &t->list[t->by_name[mid]];
		int                 c = strcmp(name, m->name);
		if (c == 0) return m;
		if (c < 0) hi = mid;
		else lo = mid + 1;
	}
	return NULL;
}
