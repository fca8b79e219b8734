/* Packed weights: the frozen weight in the layout that the backend's kernels like best, made once per direction and kept within a limit.
 * A packed form is a second copy of the truth: it belongs to the bytes it was made from and is made anew when the site is switched to others.
 * Weights of the host are never packed, since the host may write to them at any time. */
#include <sys/mman.h>
#include <unistd.h>

#include "site/site.h"

enum { ROWS_MIN = 16 }; /* below, reading the plain weight once costs no more */

void lora__site_unpack(lora__site *s, lora_context *ctx)
{
	for (int k = 0; k < 2; k++) {
		if (!s->packed[k]) continue;
		ctx->backend->weight_free(ctx->backend_self, s->packed[k]);
		s->packed[k] = NULL;
		s->all->pack_bytes -= s->packed_bytes[k];
	}
	s->packed_of = NULL, s->pack_refused = 0;
}

static int can_pack(const lora_context *ctx)
{
	const lora_backend_v1 *b = ctx->backend;
	return b->struct_size >= offsetof(lora_backend_v1, weight_free) + sizeof b->weight_free && b->weight_pack && b->weight_free;
}

static lora_status pack(const lora_context *ctx, const lora_view *b, lora_dtype real, void **out, uint64_t *bytes)
{
	const lora_backend_v1 *t = ctx->backend;
	if (t->struct_size >= offsetof(lora_backend_v1, weight_pack_as) + sizeof t->weight_pack_as && t->weight_pack_as)
		return t->weight_pack_as(ctx->backend_self, b, real, out, bytes);
	return t->weight_pack(ctx->backend_self, b, out, bytes);
}

void lora__site_rest(const lora__site *s)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = (uintptr_t)s->data, end = first + lora__site_bytes(s);
	first = (first + page - 1) & ~(page - 1), end &= ~(page - 1);
	if ((s->flags & LORA_SITE_MAPPED) && s->data == s->base && end > first) madvise((void *)first, end - first, MADV_DONTNEED);
}

int lora__site_packable(const lora__site *s, const lora_context *ctx, lora_dtype real, int64_t rows)
{
	return rows >= ROWS_MIN && real != LORA_F64 && !(s->flags & LORA_SITE_HOST) && can_pack(ctx);
}

uint64_t lora__site_pack_bytes(const lora__site *s, const lora_context *ctx, lora_dtype real, int which, int64_t rows, uint64_t taken)
{
	uint64_t guess = (uint64_t)(s->out * s->in) * lora__dtype_size(real);
	if (!lora__site_packable(s, ctx, real, rows)) return 0;
	if (s->packed_of == s->data && (s->packed[which] || s->pack_refused)) return s->packed[which] ? s->packed_bytes[which] : 0;
	return taken + guess > s->all->pack_limit ? 0 : guess;
}

int lora__pack_takes(lora_context *ctx, lora_dtype weight, lora_dtype real)
{
	enum { N = 64 };
	void *zero = can_pack(ctx) ? lora__calloc(ctx, N * N, lora__dtype_size(weight)) : NULL, *packed = NULL;
	uint64_t bytes;
	lora_view b = lora__view2(zero, weight, N, N, N);
	lora_error kept = ctx->error;
	int takes = zero && pack(ctx, &b, real, &packed, &bytes) == LORA_OK;
	if (takes) ctx->backend->weight_free(ctx->backend_self, packed);
	else if (zero) ctx->error = kept;
	lora__free(ctx, zero);
	return takes;
}

static lora_status make(lora__site *s, lora_context *ctx, lora_dtype real, int which)
{
	uint64_t guess = (uint64_t)(s->out * s->in) * lora__dtype_size(real);
	if (s->all->pack_bytes + guess > s->all->pack_limit) return LORA_E_LIMIT;
	lora_view w = lora__site_weight(s), b = which ? w : lora__view_t(w);
	lora_error kept = ctx->error;
	s->packed_of = s->data;
	if (pack(ctx, &b, real, &s->packed[which], &s->packed_bytes[which])) {
		ctx->error = kept; /* not an error: the product runs on the plain weight */
		s->packed[which] = NULL, s->pack_refused = 1;
		return LORA_E_UNSUPPORTED;
	}
	s->all->pack_bytes += s->packed_bytes[which];
	return LORA_OK;
}

/* All forms that will be asked for are made when the first one is: the weight is read once, and it need not stay in memory until the backward pass
 * comes to it. */
const void *lora__site_packed(lora__site *s, lora_context *ctx, lora_dtype real, int which, int64_t rows)
{
	if (!lora__site_packable(s, ctx, real, rows)) return NULL;
	if (s->packed_of != s->data) lora__site_unpack(s, ctx);
	if (s->packed[which] || s->pack_refused) return s->packed[which];
	int all = s->pack_wanted ? s->pack_wanted | 1 << which : 3;
	lora_status st = make(s, ctx, real, which);
	if (st == LORA_OK && (s->pack_wanted & 1 << !which) && !s->packed[!which]) st = make(s, ctx, real, !which);
	if (st == LORA_OK && (!(all & 1) || s->packed[0]) && (!(all & 2) || s->packed[1])) lora__site_rest(s);
	return s->packed[which];
}
