/* A model as one GGUF file: weights as they are now (merged), in llama.cpp's names and layout, quantised when asked.
 * Vectors, norms and the position table stay F32, as llama.cpp writes them. Rows that are no whole number of blocks fall back to a smaller
 * block (K-quants to 32 weights a block) and then to F16, as llama.cpp's quantiser does. */
#include "model/gguf_save.h"

#include <math.h>
#include <string.h>

#include "quant/quant.h"

typedef struct saver {
	lora_model   *m;
	lora_context *ctx;
	lora_dtype    want; /* LORA_DTYPE_NONE: each tensor's own */
	lora__tensor *list;
	void        **owned;
	char        (*names)[LORA__GGUF_LONG_NAME];
	size_t        n;
} saver;

/* Where a tensor's values come from. */
typedef struct source { const char *name; lora__site *site; lora_dtype dtype; int32_t rank; const int64_t *shape; const void *data; int turned; } source;

static lora_dtype fallback(lora_dtype d, int64_t row)
{
	if (lora__dtype_row(d, row) || !lora__dtype_block(d, NULL, NULL)) return d;
	lora_dtype small = d == LORA_Q6_K ? LORA_Q8_0 : d == LORA_Q5_K ? LORA_Q5_1 : d == LORA_Q4_K ? LORA_Q5_0 : d == LORA_Q2_K || d == LORA_Q3_K ? LORA_Q4_0 : d;
	return lora__dtype_row(small, row) ? small : LORA_F16;
}

static int ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), m = strlen(end);
	return n >= m && strcmp(s + n - m, end) == 0;
}

static lora_dtype target_type(const saver *s, const source *f, const char *name, int64_t row)
{
	if (f->rank != 2 || ends_with(name, "_norm.weight") || strcmp(name, "position_embd.weight") == 0) return LORA_F32;
	return s->want ? fallback(s->want, row) : f->dtype == LORA_F64 ? LORA_F32 : f->dtype;
}

/* ---- values ---- */

/* All values as F32 [rows,cols] in Hugging Face's sense of the site: [out,in]. */
static lora_status values_of(saver *s, const source *f, int64_t rows, int64_t cols, float *to)
{
	lora__site *site = f->site;
	int64_t n = rows * cols;
	if (site && site->merged && lora__site_is_quant(site) && s->m->s.merged_rows) return s->m->s.merged_rows(site, 0, rows, to);
	if (!f->turned) {
		lora__dequant(to, LORA_F32, f->data, f->dtype, n);
		return LORA_OK;
	}
	float *all = lora__alloc(s->ctx, (size_t)n * sizeof *all);
	if (!all) return LORA_E_MEMORY;
	lora__dequant(all, LORA_F32, f->data, f->dtype, n);
	for (int64_t i = 0; i < cols; i++)
		for (int64_t j = 0; j < rows; j++) to[j * cols + i] = all[i * rows + j];
	lora__free(s->ctx, all);
	return LORA_OK;
}

typedef struct encode_job { const float *from; char *to; lora_dtype type; int64_t rows, cols; } encode_job;

static void encode_task(void *arg, int64_t task, int32_t thread)
{
	const encode_job *j = arg;
	(void)thread;
	int64_t first = task * 16, n = j->rows - first < 16 ? j->rows - first : 16;
	lora__enquant(j->to + (size_t)first * lora__dtype_row(j->type, j->cols), j->type, j->from + first * j->cols, n * j->cols);
}

static lora_status check_range(saver *s, const source *f, const float *v, const void *data, lora_dtype type, size_t n)
{
	int fine = lora__all_finite(v, LORA_F32, n);
	if (fine && lora__dtype_is_float(type) && lora__all_finite(data, type, n)) return LORA_OK;
	if (!fine && lora__dtype_is_float(type)) return LORA_OK; /* as it was before */
	double most = 0;
	for (size_t i = 0; i < n && fine; i++) most = fabs((double)v[i]) > most ? fabs((double)v[i]) : most;
	if (fine && lora__dtype_block(type, NULL, NULL) && most <= 65504) return LORA_OK;
	return lora__fail_at(s->ctx, LORA_E_NUMERIC, "model", f->name, -1, "tensor %s has values out of range for %s", f->name, lora__dtype_name(type));
}

/* Convert through F32 into memory of the saver's. */
static lora_status convert(saver *s, const source *f, int64_t rows, int64_t cols, uint32_t flags, lora_dtype type, lora__tensor *t)
{
	size_t n = (size_t)(rows * cols), bytes = (size_t)rows * lora__dtype_row(type, cols);
	int64_t heads = flags & LORA__GGUF_PERMUTE_Q ? s->m->s.heads : s->m->s.kv_heads;
	float *v = lora__alloc(s->ctx, n * sizeof *v + 64), *moved = NULL;
	void *to = v ? lora__alloc(s->ctx, bytes + 64) : NULL;
	lora_status st = to ? values_of(s, f, rows, cols, v) : LORA_E_MEMORY;
	for (size_t i = 0; i < n && !st && (flags & LORA__GGUF_PLUS_ONE); i++) v[i] += 1;
	if (!st && (flags & (LORA__GGUF_PERMUTE_Q | LORA__GGUF_PERMUTE_K))) {
		if (!(moved = lora__alloc(s->ctx, n * sizeof *v))) st = LORA_E_MEMORY;
		else lora__gguf_permute(moved, v, rows, (size_t)cols * sizeof *v, heads, 0);
	}
	if (!st) {
		encode_job j = { moved ? moved : v, to, type, rows, cols };
		lora__parallel(s->ctx, (rows + 15) / 16, encode_task, &j);
		st = check_range(s, f, v, to, type, n);
	}
	lora__free(s->ctx, v);
	lora__free(s->ctx, moved);
	s->owned[s->n] = to;
	t->data = to, t->bytes = bytes, t->dtype = type;
	return st;
}

/* The same type in another order of rows. */
static lora_status reorder(saver *s, const source *f, int64_t rows, int64_t cols, uint32_t flags, lora__tensor *t)
{
	size_t row = lora__dtype_row(f->dtype, cols);
	char *to = lora__alloc(s->ctx, (size_t)rows * row + 64);
	if (!to) return LORA_E_MEMORY;
	s->owned[s->n] = to;
	lora__gguf_permute(to, f->data, rows, row, flags & LORA__GGUF_PERMUTE_Q ? s->m->s.heads : s->m->s.kv_heads, 0);
	t->data = (uint8_t *)to;
	return LORA_OK;
}

static lora_status add(saver *s, const source *f)
{
	lora__tensor *t = &s->list[s->n];
	uint32_t flags = 0;
	char *name = s->names[s->n];
	size_t len = strlen(f->name);
	int known = lora__gguf_from_hf(s->m->s.gguf, f->name, name, &flags);
	if (!known && !s->m->gguf) {
		static const char *const buffers[] = { ".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".masked_bias" };
		for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
			if (ends_with(f->name, buffers[i])) return LORA_OK; /* constants that old checkpoints carry */
		return lora__fail_at(s->ctx, LORA_E_UNSUPPORTED, "model", f->name, -1, "tensor %s has no name in GGUF", lora__quote(f->name).text);
	}
	if (!known) memcpy(name, f->name, len < LORA__GGUF_LONG_NAME ? len + 1 : LORA__GGUF_LONG_NAME); /* GGUF's own, such as rope_freqs.weight */
	if (s->m->tied && strcmp(name, "output.weight") == 0 && !f->site) return LORA_OK;
	int64_t cols = f->rank ? f->shape[f->rank - 1] : 1, rows = f->rank == 2 ? f->shape[0] : 1;
	if (f->turned) rows = f->shape[1], cols = f->shape[0];
	*t = (lora__tensor){ .name = name, .dtype = f->dtype, .rank = f->rank, .data = f->data };
	memcpy(t->shape, f->shape, (size_t)f->rank * sizeof *f->shape);
	if (f->rank == 2) t->shape[0] = rows, t->shape[1] = cols;
	t->bytes = (uint64_t)rows * lora__dtype_row(f->dtype, cols);
	lora_dtype type = known && lora__dtype_is_float(f->dtype) + lora__dtype_block(f->dtype, NULL, NULL) ? target_type(s, f, name, cols) : f->dtype;
	if (f->rank > 2) {
		for (int32_t i = 0; i < f->rank - 1; i++) t->bytes *= i ? (uint64_t)f->shape[i] : 1;
		t->bytes *= (uint64_t)f->shape[0];
	}
	/* a bias of q or k is one row: its elements move */
	if (f->rank == 1 && (flags & (LORA__GGUF_PERMUTE_Q | LORA__GGUF_PERMUTE_K))) rows = cols, cols = 1;
	lora_status st = LORA_OK;
	if (type != f->dtype || f->turned || (flags & LORA__GGUF_PLUS_ONE)) st = convert(s, f, rows, cols, flags, type, t);
	else if (flags & (LORA__GGUF_PERMUTE_Q | LORA__GGUF_PERMUTE_K)) st = reorder(s, f, rows, cols, flags, t);
	s->n++;
	return st;
}

static lora_status collect(saver *s)
{
	lora_model *m = s->m;
	size_t cap = m->n_weights + m->s.n + 4;
	lora_status st = LORA_OK;
	s->list = lora__calloc(s->ctx, cap, sizeof *s->list);
	s->owned = lora__calloc(s->ctx, cap, sizeof *s->owned);
	s->names = lora__calloc(s->ctx, cap, sizeof *s->names);
	if (!s->list || !s->owned || !s->names) return LORA_E_MEMORY;
	for (size_t i = 0; i < m->n_weights && !st; i++) {
		const lora__weight *w = &m->weights[i];
		source f = { w->name, w->site >= 0 ? m->s.list[w->site] : NULL, w->dtype, w->rank, w->shape, w->data, 0 };
		if (f.site && w->is_bias) f.data = f.site->bias.data, f.dtype = f.site->bias.dtype, f.site = NULL;
		else if (f.site) f.data = f.site->data, f.turned = (f.site->flags & (LORA_SITE_TRANSPOSED | LORA_SITE_EMBEDDING)) == LORA_SITE_TRANSPOSED;
		st = add(s, &f);
	}
	for (size_t i = 0; i < m->s.n && !st && m->tied; i++) { /* merged into a tied head, or into its embedding: it becomes a weight of its own */
		lora__site *h = m->s.list[i];
		int64_t shape[2] = { h->out, h->in };
		source f = { "lm_head.weight", h, h->dtype, 2, shape, h->data, 0 };
		if (h->is_head && lora__model_unties(m)) st = add(s, &f);
	}
	if (!st && !m->gguf) {
		size_t extra;
		st = lora__gguf_rope_tensors(m, s->list + s->n, &extra);
		for (size_t i = 0; i < extra; i++) s->owned[s->n + i] = (void *)(uintptr_t)s->list[s->n + i].data;
		s->n += extra;
	}
	return st;
}

static lora_status check_target(saver *s, const char *path, int force)
{
	if (!lora__path_exists(path)) return LORA_OK;
	if (lora__path_is_dir(path) || !lora__gguf_is(path)) return lora__fail(s->ctx, LORA_E_EXISTS, "model", "%s is there and is no GGUF file", lora__quote(path).text);
	return force ? LORA_OK : lora__fail(s->ctx, LORA_E_EXISTS, "model", "%s is there already (force replaces it)", lora__quote(path).text);
}

lora_status lora__model_save_gguf(lora_model *m, const char *path, lora_dtype want, int force)
{
	saver s = { .m = m, .ctx = m->s.ctx, .want = want };
	lora__gguf_out o;
	const lora__quant *q = lora__quant_of(want);
	if (!m->s.gguf) return lora__fail(s.ctx, LORA_E_UNSUPPORTED, "model", "models of this architecture (%s) can't be written to GGUF", m->arch->m.name);
	if (q && !q->encode) return lora__fail(s.ctx, LORA_E_UNSUPPORTED, "model", "%s can be read, not written", lora__dtype_name(want));
	lora_status st = check_target(&s, path, force);
	if (st) return st;
	lora__gguf_begin(&o, s.ctx);
	st = collect(&s);
	if (st == LORA_OK) st = lora__gguf_put_config(m, &o, want ? want : m->dtype, path);
	if (st == LORA_OK && !m->gguf) st = lora__gguf_put_vocab(m, &o);
	if (st == LORA_OK) st = lora__gguf_write(&o, path, s.list, s.n);
	else lora__gguf_end(&o);
	for (size_t i = 0; s.owned && i < s.n; i++) lora__free(s.ctx, s.owned[i]);
	lora__free(s.ctx, s.owned);
	lora__free(s.ctx, s.list);
	lora__free(s.ctx, s.names);
	return st;
}
