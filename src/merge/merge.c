/* Merge and unmerge, all sites or none.
 *
 * W' = round(W + sum_k s_k D_k), summed in F32 over the merged set in an order that depends on the adapters' contents only (a digest of
 * parameters and scale), so history has no part in the result. Each change computes every site's new form first (phase 1, can fail, nothing
 * visible) and then switches all sites (phase 2, cannot fail).
 *
 * Host weights: phase 1 makes the XOR of base and new bytes, deflated by zlib, and a hash of the new bytes; phase 2 inflates the old and new
 * records and applies both XORs. The hash tells at the next change whether the host has written to the weight in between. */
#include "merge/merge.h"
#include "quant/quant.h"

#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <zlib.h>

enum { TILE_BYTES = 1 << 18, MAX_MERGED = 1024 };

/* What a site keeps while adapters are merged into it. */
typedef struct lora__merged {
	const lora__part **set;    /* merged parts, sorted by key */
	double            *scale;
	uint64_t          *key;
	size_t             n;
	char              *own;    /* library's weights: the merged bytes; NULL for host weights */
	char              *record; /* host's weights: deflated XOR of base and merged bytes */
	size_t             record_bytes;
	uint64_t           hash;   /* of the merged bytes (host's weights) */
} lora__merged;

/* A change of one site, made in phase 1. next = NULL: back to the base. */
typedef struct change { lora__site *site; struct lora__merged *next; z_stream undo, redo; int has_undo, has_redo; } change;

static void *z_take(void *ctx, uInt n, uInt each) { return lora__calloc(ctx, n, each); }
static void z_give(void *ctx, void *p) { lora__free(ctx, p); }

static void free_merged(lora_context *ctx, struct lora__merged *m)
{
	if (!m) return;
	lora__free(ctx, m->set);
	lora__free(ctx, m->scale);
	lora__free(ctx, m->key);
	lora__free(ctx, m->own);
	lora__free(ctx, m->record);
	lora__free(ctx, m);
}

/* Fresh pages are dear: the memory of a merge waits for the next one. */
static void keep_own(lora__site *s, struct lora__merged *m)
{
	if (!m || !m->own || s->spare) return;
	s->spare = m->own;
	m->own = NULL;
}

static int by_host(const lora__site *s) { return (s->flags & LORA_SITE_HOST) != 0; }

/* Digest of what a part adds: equal digests add equal deltas, so the order between them does not matter. */
static uint64_t part_key(const lora__part *p, double scale)
{
	const lora_adapter *a = p->slot.adapter;
	uint64_t h = lora__hash64(&scale, sizeof scale, 1);
	h = lora__hash64(&p->scaling, sizeof p->scaling, h);
	for (int k = 0; k < LORA__MAX_ROLES; k++) {
		if (p->tensor[k] < 0) continue;
		const lora__ptensor *t = &a->tensors[p->tensor[k]];
		if (p->how != LORA__PARAMETER) h = lora__hash64(a->params + t->offset, t->n * sizeof(float), h);
		else if (p->stride[k][1] == 1) h = lora__hash64(p->param[k], (size_t)(p->rank * p->stride[k][0]) * sizeof(float), h);
		else
			for (int64_t i = 0; i < p->slot.site->out * p->rank; i++)
				h = lora__hash64(p->param[k] + i / p->rank * p->stride[k][0] + i % p->rank * p->stride[k][1], sizeof(float), h);
	}
	return h;
}

/* The set of old with (part, scale) added or part taken away. */
static lora_status make_set(lora_context *ctx, const struct lora__merged *old, const lora__part *part, int add, double scale,
                            struct lora__merged **out)
{
	size_t n_old = old ? old->n : 0, n = 0;
	if (!add && n_old <= 1) return *out = NULL, LORA_OK;
	struct lora__merged *m = lora__zalloc(ctx, sizeof *m);
	if (!m || !(m->set = lora__calloc(ctx, n_old + 1, sizeof *m->set)) || !(m->scale = lora__calloc(ctx, n_old + 1, sizeof *m->scale)) ||
		!(m->key = lora__calloc(ctx, n_old + 1, sizeof *m->key))) {
		free_merged(ctx, m);
		return LORA_E_MEMORY;
	}
	for (size_t i = 0; i < n_old; i++) {
		if (!add && old->set[i] == part) continue;
		m->set[n] = old->set[i], m->scale[n] = old->scale[i], m->key[n] = old->key[i], n++;
	}
	if (add) {
		size_t at = n++;
		uint64_t key = at ? part_key(part, scale) : 0; /* alone it has no order */
		if (at && !m->key[0]) m->key[0] = part_key(m->set[0], m->scale[0]);
		for (; at > 0 && m->key[at - 1] > key; at--) m->set[at] = m->set[at - 1], m->scale[at] = m->scale[at - 1], m->key[at] = m->key[at - 1];
		m->set[at] = part, m->scale[at] = scale, m->key[at] = key;
	}
	m->n = n;
	*out = m;
	return LORA_OK;
}

/* Rows of a weight that fit a tile. Transposed storage is handled in whole: the delta is formed [out,in] and written through strides. */
static int64_t tile_rows(const lora__site *s)
{
	int64_t rows = TILE_BYTES / (4 * s->in);
	return rows < 1 ? 1 : rows > s->out ? s->out : rows;
}

/* Rows of a weight in blocks: sum[n,in] = decoded base rows + deltas. */
static lora_status sum_quant(lora_context *ctx, const lora__site *s, const struct lora__merged *m, int64_t first, int64_t n, float *sum)
{
	lora_status st = LORA_OK;
	lora__site_rows(s, s->base, first, n, LORA_F32, sum);
	for (size_t k = 0; k < m->n && st == LORA_OK; k++) {
		const lora__slot *slot = &m->set[k]->slot;
		st = slot->ops->delta(slot, ctx, m->scale[k], first, n, sum);
	}
	return st;
}

static lora_status merged_rows(lora__site *s, int64_t first, int64_t n, float *out) { return sum_quant(s->all->ctx, s, s->merged, first, n, out); }

typedef struct encode_job { const lora__site *s; const float *sum; char *out; int64_t n; } encode_job;

static void encode_task(void *arg, int64_t task, int32_t thread)
{
	const encode_job *j = arg;
	(void)thread;
	int64_t first = 8 * task, n = j->n - first < 8 ? j->n - first : 8;
	lora__enquant(j->out + (size_t)first * lora__dtype_row(j->s->dtype, j->s->in), j->s->dtype, j->sum + first * j->s->in, n * j->s->in);
}

/* A weight in blocks is merged into the same blocks: decoded, added to, encoded again. Host weights are never of this kind. */
static lora_status merge_quant(lora_context *ctx, const lora__site *s, const struct lora__merged *m, int64_t first, int64_t n, char *out, float *sum)
{
	lora_status st = sum_quant(ctx, s, m, first, n, sum);
	if (st) return st;
	int bad = 0;
	for (int64_t i = 0; i < n * s->in; i++) bad |= !(fabs((double)sum[i]) <= 65504); /* the largest F16: block scales are halves */
	if (bad)
		return lora__fail_at(ctx, LORA_E_NUMERIC, "merge", s->name, -1, "merging into %s gives values out of range for %s; nothing was changed", s->name,
			lora__dtype_name(s->dtype));
	encode_job j = { s, sum, out + (size_t)first * lora__dtype_row(s->dtype, s->in), n };
	lora__parallel(ctx, (n + 7) / 8, encode_task, &j);
	return LORA_OK;
}

/* sum[n,in] = base rows + deltas; written to out rows in the site's type. stored: pointers to row 0 of base and out, as stored. */
static lora_status merge_tile(lora_context *ctx, const lora__site *s, const struct lora__merged *m, int64_t first, int64_t n, const char *base,
                              char *out, float *sum)
{
	if (lora__site_is_quant(s)) return merge_quant(ctx, s, m, first, n, out, sum);
	size_t each = lora__dtype_size(s->dtype);
	int turned = (s->flags & LORA_SITE_TRANSPOSED) != 0;
	int64_t row = turned ? 1 : s->in, col = turned ? s->out : 1;
	lora_view tile = lora__view2(sum, LORA_F32, n, s->in, s->in), w = tile;
	w.dtype = s->dtype, w.stride[0] = row, w.stride[1] = col;
	w.data = (char *)(uintptr_t)base + (size_t)(first * row) * each;
	lora_status st = lora__copy(ctx, tile, w);
	for (size_t k = 0; k < m->n && st == LORA_OK; k++) {
		const lora__slot *slot = &m->set[k]->slot;
		st = slot->ops->delta(slot, ctx, m->scale[k], first, n, sum);
	}
	if (st) return st;
	w.data = out + (size_t)(first * row) * each;
	return lora__copy(ctx, w, tile);
}

/* Not finite after the merge where the base was: out of the type's range, or a bad adapter. */
static lora_status check_finite(lora_context *ctx, const lora__site *s, const char *base, const char *out)
{
	size_t n = (size_t)(s->out * s->in);
	if (lora__site_is_quant(s)) return LORA_OK; /* looked at tile by tile */
	if (lora__all_finite(out, s->dtype, n) || !lora__all_finite(base, s->dtype, n)) return LORA_OK;
	return lora__fail_at(ctx, LORA_E_NUMERIC, "merge", s->name, -1, "merging into %s gives values that are not finite in %s; nothing was changed", s->name,
		lora__dtype_name(s->dtype));
}

/* All tiles of a weight, dealt out to the threads. A tile is small enough to stay near its core from the first read to the last write. */
typedef struct fill_job {
	lora_context *ctx;
	const lora__site *site;
	const struct lora__merged *m;
	const char *base;
	char *out;
	float *sum; /* one tile for each thread */
	int64_t rows;
	atomic_int status, special;
} fill_job;

static void fill_tile(void *arg, int64_t tile, int32_t thread)
{
	fill_job *j = arg;
	const lora__site *s = j->site;
	int64_t first = tile * j->rows, n = s->out - first < j->rows ? s->out - first : j->rows;
	lora_status st = merge_tile(j->ctx, s, j->m, first, n, j->base, j->out, j->sum + (int64_t)thread * j->rows * s->in);
	size_t at = (size_t)(first * s->in) * lora__dtype_size(s->dtype);
	if (st) atomic_store(&j->status, (int)st);
	else if (!(s->flags & LORA_SITE_TRANSPOSED) && !lora__all_finite(j->out + at, s->dtype, (size_t)(n * s->in))) atomic_store(&j->special, 1);
}

/* One adapter of low rank, as nearly always: a single pass. *done 0: not so. */
static lora_status fill_lowrank(lora_context *ctx, const lora__site *s, const struct lora__merged *m, const char *base, char *out, int *done)
{
	const lora__slot *slot = &m->set[0]->slot;
	lora__pair f;
	double special = 0;
	*done = m->n == 1 && slot->ops->factors && !(s->flags & LORA_SITE_TRANSPOSED) && !lora__site_is_quant(s) && s->dtype != LORA_F64 && slot->ops->factors(slot, 0, &f);
	if (!*done) return LORA_OK;
	lora_call call = { .struct_size = sizeof call, .prim = LORA_PRIM_LOWRANK, .n_views = 5, .f = { f.f * m->scale[0] } };
	call.v[0] = lora__view2(out, s->dtype, s->out, s->in, s->in), call.v[1] = lora__view2((void *)(uintptr_t)base, s->dtype, s->out, s->in, s->in);
	call.v[2] = f.a, call.v[3] = f.b, call.v[4] = lora__view1(&special, LORA_F64, 1);
	lora_status st = lora__run(ctx, &call);
	return st || special == 0 ? st : check_finite(ctx, s, base, out);
}

static lora_status fill(lora_context *ctx, const lora__site *s, const struct lora__merged *m, const char *base, char *out)
{
	int done;
	lora_status fast = fill_lowrank(ctx, s, m, base, out, &done);
	if (done || fast) return fast;
	fill_job j = { .ctx = ctx, .site = s, .m = m, .base = base, .out = out, .rows = tile_rows(s) };
	int32_t threads = ctx->threads > 0 ? ctx->threads : 1;
	if (!(j.sum = lora__alloc(ctx, sizeof(float) * (size_t)(threads * j.rows * s->in)))) return LORA_E_MEMORY;
	lora__parallel(ctx, (s->out + j.rows - 1) / j.rows, fill_tile, &j);
	lora__free(ctx, j.sum);
	lora_status st = (lora_status)atomic_load(&j.status);
	return st || (!atomic_load(&j.special) && !(s->flags & LORA_SITE_TRANSPOSED)) ? st : check_finite(ctx, s, base, out);
}

static char *huge_block(lora_context *ctx, size_t bytes)
{
	char *p = lora__alloc(ctx, bytes);
#ifdef MADV_HUGEPAGE
	const uintptr_t huge = (uintptr_t)2 << 20;
	uintptr_t first = ((uintptr_t)p + huge - 1) & ~(huge - 1), end = ((uintptr_t)p + bytes) & ~(huge - 1);
	if (p && end > first) madvise((void *)first, end - first, MADV_HUGEPAGE);
#endif
	return p;
}

static lora_status z_failed(lora_context *ctx, const lora__site *s)
{
	return lora__fail_at(ctx, LORA_E_MEMORY, "merge", s->name, -1, "out of memory for the undo record of %s", s->name);
}

/* bytes ^= inflated record */
static int apply_record(z_stream *z, char *bytes, size_t n)
{
	unsigned char chunk[16384];
	for (size_t at = 0; at < n;) {
		size_t want = n - at < sizeof chunk ? n - at : sizeof chunk;
		z->next_out = chunk, z->avail_out = (uInt)want;
		int rc = inflate(z, Z_SYNC_FLUSH);
		size_t got = want - z->avail_out;
		if (!got || (rc != Z_OK && rc != Z_STREAM_END)) return 0;
		for (size_t i = 0; i < got; i++) bytes[at + i] = (char)(bytes[at + i] ^ (char)chunk[i]);
		at += got;
	}
	return 1;
}

static int open_record(lora_context *ctx, const struct lora__merged *m, z_stream *z)
{
	*z = (z_stream){ .zalloc = z_take, .zfree = z_give, .opaque = ctx, .next_in = (Bytef *)m->record, .avail_in = (uInt)m->record_bytes };
	return inflateInit(z) == Z_OK;
}

/* Make the record of one host weight: needs base bytes and new bytes of the whole site. */
static lora_status make_record(lora_context *ctx, const lora__site *s, struct lora__merged *m, const char *base, char *fresh)
{
	size_t n = lora__site_bytes(s);
	if (n > UINT32_MAX) return lora__fail_at(ctx, LORA_E_LIMIT, "merge", s->name, -1, "%s has over 4 GiB: merging in place is not supported", s->name);
	m->hash = lora__hash64(fresh, n, 0);
	for (size_t i = 0; i < n; i++) fresh[i] = (char)(fresh[i] ^ base[i]);
	z_stream z = { .zalloc = z_take, .zfree = z_give, .opaque = ctx };
	if (deflateInit(&z, 1) != Z_OK) return z_failed(ctx, s);
	size_t bound = deflateBound(&z, (uLong)n);
	m->record = lora__alloc(ctx, bound);
	z.next_in = (Bytef *)fresh, z.avail_in = (uInt)n, z.next_out = (Bytef *)m->record, z.avail_out = (uInt)bound;
	int rc = m->record ? deflate(&z, Z_FINISH) : Z_MEM_ERROR;
	m->record_bytes = z.total_out;
	deflateEnd(&z);
	if (rc != Z_STREAM_END) return z_failed(ctx, s);
	char *less = lora__realloc(ctx, m->record, m->record_bytes ? m->record_bytes : 1);
	if (less) m->record = less;
	return LORA_OK;
}

/* Phase 1 for a weight of the host. */
static lora_status prepare_host(lora_context *ctx, change *c)
{
	lora__site *s = c->site;
	struct lora__merged *old = s->merged;
	size_t n = lora__site_bytes(s);
	lora_status st = LORA_OK;
	if (s->flags & LORA_SITE_READONLY) return lora__fail_at(ctx, LORA_E_UNSUPPORTED, "merge", s->name, -1, "%s is read-only", s->name);
	if (old && lora__hash64(s->data, n, 0) != old->hash)
		return lora__fail_at(ctx, LORA_E_STATE, "merge", s->name, -1, "%s was changed by the host while an adapter was merged into it", s->name);
	if (old && !(c->has_undo = open_record(ctx, old, &c->undo))) return z_failed(ctx, s);
	if (!c->next) return LORA_OK;
	char *base = lora__alloc(ctx, n), *fresh = base ? lora__alloc(ctx, n) : NULL;
	z_stream z = { 0 };
	if (!fresh) st = LORA_E_MEMORY;
	else memcpy(base, s->data, n);
	if (st == LORA_OK && old) {
		if (!open_record(ctx, old, &z)) st = z_failed(ctx, s);
		else {
			if (!apply_record(&z, base, n)) st = lora__fail(ctx, LORA_E_INTERNAL, "merge", "the undo record of %s is damaged", s->name);
			inflateEnd(&z);
		}
	}
	if (st == LORA_OK) st = fill(ctx, s, c->next, base, fresh);
	if (st == LORA_OK) st = make_record(ctx, s, c->next, base, fresh);
	if (st == LORA_OK && !(c->has_redo = open_record(ctx, c->next, &c->redo))) st = z_failed(ctx, s);
	lora__free(ctx, base);
	lora__free(ctx, fresh);
	return st;
}

static lora_status prepare(lora_context *ctx, change *c)
{
	if (by_host(c->site)) return prepare_host(ctx, c);
	if (!c->next) return LORA_OK;
	if ((c->site->flags & LORA_SITE_EMBEDDING) && c->site->all->n_tables > 1)
		return lora__fail_at(ctx, LORA_E_UNSUPPORTED, "merge", c->site->name, -1, "%s is one of two embeddings that share a stored table: no merge into it", c->site->name);
	if (lora__site_is_quant(c->site) && (c->site->flags & LORA_SITE_EMBEDDING))
		return lora__fail_at(ctx, LORA_E_UNSUPPORTED, "merge", c->site->name, -1, "%s is an embedding in blocks (%s): no merge into it; convert the model to F16 or BF16 first",
			c->site->name, lora__dtype_name(c->site->dtype));
	if (lora__site_is_quant(c->site) && !lora__quant_of(c->site->dtype)->encode)
		return lora__fail_at(ctx, LORA_E_UNSUPPORTED, "merge", c->site->name, -1, "%s is %s, which this library reads and does not write: no merge into it",
			c->site->name, lora__dtype_name(c->site->dtype));
	if (lora__site_is_quant(c->site)) c->site->all->merged_rows = merged_rows;
	c->next->own = c->site->spare, c->site->spare = NULL;
	if (!c->next->own && !(c->next->own = huge_block(ctx, lora__site_bytes(c->site)))) return LORA_E_MEMORY;
	return fill(ctx, c->site, c->next, c->site->base, c->next->own);
}

/* Phase 2: cannot fail. */
static void commit(lora_context *ctx, change *c)
{
	lora__site *s = c->site;
	size_t n = lora__site_bytes(s);
	if (by_host(s)) {
		if (c->has_undo) apply_record(&c->undo, s->data, n);
		if (c->has_redo) apply_record(&c->redo, s->data, n);
	} else {
		lora__site_unpack(s, ctx); /* the packed forms are of the old bytes */
		s->data = c->next ? c->next->own : (void *)(uintptr_t)s->base;
	}
	keep_own(s, s->merged);
	free_merged(ctx, s->merged);
	s->merged = c->next;
	c->next = NULL;
}

static void end_change(lora_context *ctx, change *c)
{
	if (c->has_undo) inflateEnd(&c->undo);
	if (c->has_redo) inflateEnd(&c->redo);
	keep_own(c->site, c->next);
	free_merged(ctx, c->next);
}

static lora_status take_out(lora_adapter *a) { return lora__merge_change(a, 0, 0.0); }

lora_status lora__merge_change(lora_adapter *a, int add, double scale)
{
	lora_context *ctx = a->ctx;
	change *list = lora__calloc(ctx, a->n_parts, sizeof *list);
	lora_status st = list ? LORA_OK : LORA_E_MEMORY;
	size_t n = 0;
	for (; n < a->n_parts && st == LORA_OK; n++) {
		lora__part *p = &a->parts[n];
		change *c = &list[n];
		c->site = p->slot.site;
		if (add && c->site->merged && c->site->merged->n >= MAX_MERGED) st = lora__fail(ctx, LORA_E_LIMIT, "merge", "%d adapters are merged already", MAX_MERGED);
		if (st == LORA_OK) st = make_set(ctx, c->site->merged, p, add, scale, &c->next);
		if (st == LORA_OK) st = prepare(ctx, c);
	}
	for (size_t i = 0; i < n && st == LORA_OK; i++) commit(ctx, &list[i]);
	for (size_t i = 0; i < n; i++) end_change(ctx, &list[i]);
	lora__free(ctx, list);
	if (st) return st;
	for (size_t i = 0; i < a->n_parts; i++) {
		lora__part *p = &a->parts[i];
		p->slot.merged = add;
		if (p->how == LORA__WHOLE && p->param[1]) p->slot.site->bias = add ? lora__view1(p->param[1], LORA_F32, p->slot.site->out) : p->slot.site->base_bias;
	}
	a->merged = add;
	a->unmerge = add ? take_out : NULL;
	a->sites->generation++;
	return LORA_OK;
}
