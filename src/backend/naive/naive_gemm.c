/* GEMM: C[m,n] = alpha * A[m,k] B[k,n] + beta * C, any strides and float types, sums in real (F64 when a view is F64, else F32).
 * Panels of A and B are converted and packed, a register tile multiplies them: Goto and van de Geijn 2008, "Anatomy of high-performance
 * matrix multiplication"; Van Zee and van de Geijn 2015 (BLIS), section 4. The depth is cut in blocks of GEMM_KC: an element is
 * ((c0 + s0) + s1) + ... with each s summed in order of k. Few rows (decoding) skip the packing.
 * With A2 and B2 it is two products, one after the other. With BF16 instructions, naive_block.c adds both in one pass. */
#include "backend/naive/naive_gemm.h"

#define NAIVE_NO_BF16
#define NAIVE_TEMPLATE "backend/naive/naive_gemm.inc"
#include "backend/naive/naive_each.h"

static int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Convert C (not real) to the block of sums and back. */
LORA__SMALL static void move_block(void *block, lora_dtype real, const lora_view *c, int64_t m0, int64_t n0, int64_t mb, int64_t nb, int back)
{
	size_t rs = lora__dtype_size(real);
	for (int64_t i = 0; i < mb; i++) {
		char *row = (char *)block + (size_t)(i * nb) * rs;
		int64_t step = c->stride[1] == 1 ? nb : 1;
		for (int64_t j = 0; j < nb; j += step) {
			void *b = row + (size_t)j * rs, *e = lora__at(c, m0 + i, n0 + j);
			if (back) lora__convert(e, c->dtype, b, real, (size_t)step);
			else lora__convert(b, real, e, c->dtype, (size_t)step);
		}
	}
}

/* Pack one block of A and (pack_b) of B, multiply into job->c. */
static void run_block(lora__naive *self, gemm_job *j, lora_dtype real, int mr, int nr, int pack_b)
{
	double elements = (double)(j->mb + j->nb) * (double)j->kb;
	j->a_strips = (j->mb + mr - 1) / mr;
	lora__naive_parallel(self, j->a_strips + (pack_b ? (j->nb + nr - 1) / nr : 0), elements, PICK_WIDE(self, real, gemm_pack), j);
	j->tile_m = GEMM_TILE_M / mr * mr, j->tile_n = GEMM_TILE_N / nr * nr;
	while (self->host.threads > 1 && (j->mb + j->tile_m - 1) / j->tile_m * ((j->nb + j->tile_n - 1) / j->tile_n) < 4 * self->host.threads) {
		if (j->tile_n >= 2 * nr && j->tile_n >= j->tile_m) j->tile_n = round_up(j->tile_n / 2, nr);
		else if (j->tile_m >= 2 * mr) j->tile_m = round_up(j->tile_m / 2, mr);
		else break;
	}
	j->tiles_n = (j->nb + j->tile_n - 1) / j->tile_n;
	lora__naive_parallel(self, (j->mb + j->tile_m - 1) / j->tile_m * j->tiles_n, elements * (double)least(j->mb, j->nb),
	                     PICK_WIDE(self, real, gemm_tile), j);
}

LORA__SMALL static lora_status packed_gemm(lora__naive *self, const lora_call *c, lora_dtype real)
{
	lora_view cv = c->v[0], av = c->v[1], bv = c->v[2];
	int mr, nr;
	PICK_WIDE(self, real, gemm_shape)(&mr, &nr);
	/* The transposed product C^T = B^T A^T has the same sums in the same order. It is better when C is contiguous down its columns, and when
	 * it wastes much less of the tiles at the edges. */
	double waste = (double)round_up(cv.size[0], mr) * (double)round_up(cv.size[1], nr);
	double waste_t = (double)round_up(cv.size[1], mr) * (double)round_up(cv.size[0], nr);
	int by_columns = cv.stride[0] == 1 && cv.stride[1] != 1;
	if (by_columns ? waste_t < 1.5 * waste : 1.5 * waste_t < waste) {
		lora_view t = lora__view_t(av);
		cv = lora__view_t(cv), av = lora__view_t(bv), bv = t;
	}
	int64_t m = cv.size[0], n = cv.size[1], k = av.size[1];
	int sums = cv.dtype != real && k > 0;
	int64_t mc = least(round_up(m, mr), round_up(sums ? GEMM_MC_ACC : GEMM_MC, mr)), nc = least(round_up(n, nr), (sums ? GEMM_NC_ACC : GEMM_NC) / nr * nr);
	int64_t kc = least(k, GEMM_KC);
	size_t size = lora__dtype_size(real), pa = (size_t)round_up(mc * kc, 16) * size, pb = (size_t)round_up(nc * kc, 16) * size;
	size_t acc = cv.dtype != real ? (size_t)(mc * nc) * size : 0;
	char *scratch = lora__naive_scratch(self, pa + pb + acc);
	if (!scratch) return LORA_E_MEMORY;
	gemm_job j = { .a = &av, .b = &bv, .pa = scratch, .pb = scratch + pa, .alpha = c->f[0] };
	void *block = scratch + pa + pb;
	for (j.n0 = 0; j.n0 < n; j.n0 += nc) {
		j.nb = least(nc, n - j.n0);
		int64_t outer = acc ? m : k, outer_step = acc ? mc : kc, inner = acc ? k : m, inner_step = acc ? kc : mc;
		for (int64_t o = 0; o < outer || o == 0; o += outer_step > 0 ? outer_step : 1) {
			for (int64_t i = 0; i < inner || i == 0; i += inner_step > 0 ? inner_step : 1) {
				j.m0 = acc ? o : i, j.k0 = acc ? i : o;
				j.mb = least(mc, m - j.m0), j.kb = least(kc, k - j.k0);
				j.beta = j.k0 ? 1 : c->f[1];
				if (acc) {
					j.c = block, j.rs = j.nb, j.cs = 1;
					if (!i && j.beta != 0) move_block(block, real, &cv, j.m0, j.n0, j.mb, j.nb, 0);
				} else {
					j.c = lora__at(&cv, j.m0, j.n0), j.rs = cv.stride[0], j.cs = cv.stride[1];
				}
				run_block(self, &j, real, mr, nr, acc || i == 0);
			}
			if (acc) move_block(block, real, &cv, j.m0, j.n0, j.mb, j.nb, 1);
		}
	}
	lora__naive_release(self, scratch);
	return LORA_OK;
}

/* m <= GEMM_FEW and C real or BF16. Returns 0 when B's layout has no form here. */
LORA__SMALL static int few_rows(lora__naive *self, lora_view cv, lora_view av, lora_view bv, double alpha, double beta, lora_dtype real, lora_status *st)
{
	gemm_few_job j = { .b = &bv, .c = &cv, .m = cv.size[0], .n = cv.size[1], .k = av.size[1], .alpha = alpha, .beta = beta };
	size_t size = lora__dtype_size(real), x_bytes = (size_t)round_up(j.m * j.k, 16) * size;
	int dots = bv.stride[0] == 1 || j.k == 1;
	if (!dots && bv.stride[1] != 1 && j.n > 1) return 0;
	j.cols = dots ? 64 : 256;
	while (j.cols > 1 && (j.n + j.cols - 1) / j.cols < 2 * self->host.threads) j.cols /= 2;
	int64_t row = dots ? (bv.dtype == real ? 0 : j.k) : j.cols * (j.m + 4);
	j.per_thread = (size_t)round_up(row, 16) * size;
	char *scratch = lora__naive_scratch(self, x_bytes + j.per_thread * (size_t)self->host.threads);
	if (!scratch) return *st = LORA_E_MEMORY, 1;
	for (int64_t i = 0; i < j.m; i++) {
		int64_t step = av.stride[1] == 1 ? j.k : 1;
		for (int64_t k = 0; k < j.k; k += step)
			lora__convert(scratch + (size_t)(i * j.k + k) * size, real, lora__at(&av, i, k), av.dtype, (size_t)step);
	}
	j.x = scratch, j.scratch = scratch + x_bytes;
	lora__naive_parallel(self, (j.n + j.cols - 1) / j.cols, (double)j.m * (double)j.n * (double)j.k,
	                     dots ? PICK_WIDE(self, real, gemm_dots) : PICK_WIDE(self, real, gemm_rows), &j);
	lora__naive_release(self, scratch);
	return *st = LORA_OK, 1;
}

LORA__SMALL lora_status lora__naive_gemm(lora__naive *self, const lora_call *c, lora_dtype real)
{
	const lora_view *cv = &c->v[0], *av = &c->v[1], *bv = &c->v[2];
	lora_status st = LORA_OK;
	if (c->n_views > 3 && c->v[3].data) {
		if (!c->v[4].data || c->n_views < 5) return lora__naive_fail(self, LORA_E_ARGUMENT, "primitive gemm: A2 without B2");
		if (cv->size[0] && cv->size[1] && lora__naive_block(self, c, &st)) return st;
		lora_call one = *c, two = *c;
		one.n_views = two.n_views = 3;
		two.v[1] = c->v[3], two.v[2] = c->v[4], two.f[0] = c->f[2], two.f[1] = 1;
		st = lora__naive_gemm(self, &one, real);
		return st ? st : lora__naive_gemm(self, &two, real);
	}
	real = cv->dtype == LORA_F64 || av->dtype == LORA_F64 || bv->dtype == LORA_F64 ? LORA_F64 : LORA_F32;
	if (!cv->size[0] || !cv->size[1]) return LORA_OK;
	if (lora__naive_block(self, c, &st)) return st;
	if (cv->size[0] > GEMM_TINY && cv->size[1] > GEMM_TINY && lora__naive_thin(self, c, real, &st)) return st;
	if ((cv->dtype == real || (real == LORA_F32 && cv->dtype == LORA_BF16)) && av->size[1] > 0) {
		if (cv->size[0] <= GEMM_FEW && cv->size[0] <= cv->size[1]) {
			if (few_rows(self, *cv, *av, *bv, c->f[0], c->f[1], real, &st)) return st;
		} else if (cv->size[1] <= GEMM_FEW) {
			if (few_rows(self, lora__view_t(*cv), lora__view_t(*bv), lora__view_t(*av), c->f[0], c->f[1], real, &st)) return st;
		}
	}
	return packed_gemm(self, c, real);
}
