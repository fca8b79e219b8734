/* GEMM in blocks of 32 x 32 sums: C[m,n] = alpha * A[m,k] B[k,n] + beta * C with A in BF16, B rounded to BF16, sums in F32, C in BF16 or F32; or A and
 * C in F32 and no rounding (naive_block_f32.c). On AMX tiles: a tile product (TDPBF16PS, Intel SDM volume 2) adds 16 x 32 by 32 x 16 to
 * 16 x 16; two tiles of A by two of B give a block. Where there are none, in vector registers (naive_block_avx512.c), from the same packed forms.
 * B is packed for each use, pairs along k side by side, so a frozen weight needs no second copy in memory and may lie either way round; the
 * packing is spread over the rows of a task. A is read where it lies unless its rows fall on the same cache sets.
 * A task owns rows and columns of C and sums in the order of k, so the bits do not depend on the number of threads. Like the tile product and
 * VDPBF16PS, everything here but F32 in vector registers takes subnormals for zero. */
#include "backend/backend.h"
#include "backend/naive/naive_block.h"
#include "backend/naive/naive_gemm.h"

#ifdef NAIVE_BLOCKS
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
	DEPTH = 1536,          /* depth that is packed at once at most ... */
	GROUP_BYTES = 900 << 10, /* ... and bytes of packed B: they stay in the second-level cache, */
	SMALL_BYTES = 500 << 10, /* which is smaller in processors without tiles; */
	ROUNDED_BYTES = 1280 << 10, /* more on tiles where F32 is rounded: rows of A are dear to round again for each group */
	WIDE_COLUMNS = 48,     /* narrower products in F32 are thin (naive_thin.c); with so few ... */
	WIDE_ROWS = 96,        /* ... rows a weight of F32 is not worth its packing */
	ROWS = 1024            /* rows whose sums are kept when k takes several packings */
};

typedef struct block_job {
	lora_view c, a, b, a2, b2;  /* a2, b2: a second product into the same sums */
	int64_t m, n, k, kc, group; /* depth of a packing, columns of a group */
	int64_t k2, steps2;
	int64_t tasks_m, tasks_n;
	float   alpha, beta, scale2; /* of the second product before alpha */
	int     parts, parts_b;     /* BF16 numbers in the place of one of A, A2, B2 and of one of B: 1; for F32 3 on tiles, else 2, itself */
	int     tiles;              /* blocks on tiles, else in vector registers */
	int     direct;             /* A is read from where it lies */
	char   *scratch;
	size_t  per_thread;
} block_job;

/* One piece of work: rows m0..m1 by columns n0..n1, depth k0..k0+depth. */
typedef struct piece { int64_t m0, m1, n0, n1, k0, depth, steps; int first, last; } piece;

int lora__bf16_ready(void)
{
	enum { XCOMP_PERMISSION = 0x1023, TILE_DATA = 18 }; /* ARCH_REQ_XCOMP_PERM: Linux gives tile registers to a process that asks */
	unsigned a, b, c, d;
	if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512bf16")) return 0;
	if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1)) return 1;
	return syscall(SYS_arch_prctl, XCOMP_PERMISSION, TILE_DATA) == 0 ? 2 : 1;
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

AMX void lora__block_turn_step(uint16_t *to, const uint16_t *from, int64_t step, int64_t ahead)
{
	for (int h = 0; h < 2; h++) {
		__m512i row[16];
		for (int x = 0; x < 16; x++) {
			row[x] = _mm512_loadu_si512(from + (h * 16 + x) * step);
			if (ahead) _mm_prefetch((const char *)(from + (h * 16 + x) * step + ahead), _MM_HINT_T1); /* too many streams for the hardware */
		}
		turn(row, to + h * TILE);
	}
}

/* n elements of BF16; zeros up to count, a multiple of 32. */
AMX static inline void copy_row(uint16_t *to, const uint16_t *from, int64_t n, int64_t count)
{
	for (int64_t i = 0; i < count; i += SIDE) _mm512_storeu_si512(to + i, _mm512_maskz_loadu_epi16(lora__first32(n - i), from + i));
}

/* n elements of any float type and stride as BF16, times scale; zeros up to count. */
AMX static void gather(uint16_t *to, const void *from, lora_dtype type, int64_t stride, int64_t n, int64_t count, float scale)
{
	const char *s = from;
	if (type == LORA_F32 && stride == 1) { /* adapters */
		const __m512 factor = _mm512_set1_ps(scale);
		for (int64_t i = 0; i < count; i += 32) {
			__m512 low = _mm512_maskz_loadu_ps(lora__first16(n - i), s + 4 * i), high = _mm512_maskz_loadu_ps(lora__first16(n - i - 16), s + 4 * i + 64);
			_mm512_storeu_si512(to + i, (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(factor, high), _mm512_mul_ps(factor, low)));
		}
		return;
	}
	int64_t step = stride * (int64_t)lora__dtype_size(type);
	for (int64_t i = 0; i < n; i++) {
		float f;
		lora__convert(&f, LORA_F32, s + i * step, type, 1);
		to[i] = lora__f32_to_bf16(f * scale);
	}
	memset(to + n, 0, sizeof *to * (size_t)(count - n));
}

/* B's 32 columns from n0 (those from n on are zero) and one step of 32 along k from k0, as two tiles. */
AMX static void pack_step(const lora_view *b, float scale, uint16_t *to, int64_t n0, int64_t k0)
{
	int64_t nb = least(SIDE, b->size[1] - n0), kb = least(SIDE, b->size[0] - k0), along = b->stride[0] == 1, rows = along ? nb : kb;
	int64_t step = b->stride[along ? 1 : 0] * (int64_t)lora__dtype_size(b->dtype);
	_Alignas(64) uint16_t t[SIDE * SIDE];
	const char *from = lora__at(b, k0, n0);
	int64_t ahead = along && b->size[0] <= SIDE ? rows * step : 4 * SIDE * (int64_t)sizeof(float); /* adapters: short rows one after the other, or long ones */
	for (int64_t x = 0; x < rows; x++, from += step) {
		_mm_prefetch(from + ahead, _MM_HINT_T0), _mm_prefetch(from + ahead + 64, _MM_HINT_T0);
		gather(t + x * SIDE, from, b->dtype, b->stride[along ? 0 : 1], along ? kb : nb, SIDE, scale);
	}
	memset(t + rows * SIDE, 0, sizeof *t * (size_t)((SIDE - rows) * SIDE));
	if (along) lora__block_turn_step(to, t, SIDE, 0);
	else interleave_step(to, 0, t, SIDE, 1, 0);
}

/* interleave_step() of F32. */
AMX static void round_step(uint16_t *to, int64_t panel, const float *from, int64_t step, int64_t panels, int64_t ahead)
{
	const __m512i pairs = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
	for (int x = 0; x < 16; x++, from += 2 * step, to += 32)
		for (int64_t p = 0; p < 2 * panels; p++) {
			const float *row = from + p * 16;
			_mm_prefetch((const char *)(row + ahead), _MM_HINT_T0), _mm_prefetch((const char *)(row + ahead + step), _MM_HINT_T0);
			__m512i both = (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(row + step), _mm512_loadu_ps(row));
			_mm512_store_si512(to + p / 2 * panel + p % 2 * TILE, _mm512_permutexvar_epi16(pairs, both));
		}
}

/* B's columns and depth of a piece, panel by panel; in the order in which B lies in memory. */
AMX static void pack_b(const lora_view *b, float scale, uint16_t *to, const piece *p, int64_t k0, int64_t steps, int parts)
{
	int64_t panels = (p->n1 - p->n0 + SIDE - 1) / SIDE, panel = steps * 2 * TILE, along = b->stride[0] == 1;
	for (int64_t x = 0; x < panels && parts > 1; x++) (parts == 3 ? lora__amx_split_b : lora__block_pack_b)(b, scale, to + parts * x * panel, p->n0 + x * SIDE, k0, steps);
	if (parts > 1) return;
	int64_t whole = (b->dtype == LORA_BF16 || (b->dtype == LORA_F32 && !along)) && scale == 1 && (along || b->stride[1] == 1) ? least(p->n1 - p->n0, b->size[1] - p->n0) / SIDE : 0;
	if (along) {
		for (int64_t x = 0; x < panels; x++) {
			const uint16_t *from = lora__at(b, k0, p->n0 + x * SIDE);
			for (int64_t s = 0; s < steps; s++, to += 2 * TILE, from += SIDE) {
				if (x < whole && k0 + (s + 1) * SIDE <= b->size[0]) lora__block_turn_step(to, from, b->stride[1], SIDE * b->stride[1]);
				else pack_step(b, scale, to, p->n0 + x * SIDE, k0 + s * SIDE);
			}
		}
		return;
	}
	for (int64_t s = 0; s < steps; s++, to += 2 * TILE) {
		int64_t k = k0 + s * SIDE, x = k + SIDE <= b->size[0] ? whole : 0;
		if (b->dtype == LORA_F32) round_step(to, panel, lora__at(b, k, p->n0), b->stride[0], x, SIDE * b->stride[0]);
		else interleave_step(to, panel, lora__at(b, k, p->n0), b->stride[0], x, SIDE * b->stride[0]);
		for (; x < panels; x++) pack_step(b, scale, to + x * panel, p->n0 + x * SIDE, k);
	}
}

/* rows <= 32 of A from row and depth along k from k0, [32][width], zeros beyond the edges. */
AMX static void pack_a(const lora_view *a, uint16_t *to, int64_t row, int64_t rows, int64_t k0, int64_t depth, int64_t width)
{
	if (a->dtype == LORA_BF16 && a->stride[1] != 1 && a->stride[0] == 1) { /* along m */
		_Alignas(64) uint16_t t[SIDE * SIDE];
		for (int64_t k = 0; k < width; k += SIDE) {
			const uint16_t *from = lora__at(a, row, k0 + k);
			int whole = rows == SIDE && k + SIDE <= depth;
			for (int64_t y = 0; y < SIDE && !whole; y++) copy_row(t + y * SIDE, k + y < depth ? from + y * a->stride[1] : from, k + y < depth ? rows : 0, SIDE);
			transpose_block(to + k, width, whole ? from : t, whole ? a->stride[1] : SIDE);
		}
		return;
	}
	for (int64_t x = 0; x < rows; x++) {
		const void *from = lora__at(a, row + x, k0);
		if (a->dtype == LORA_BF16 && a->stride[1] == 1) copy_row(to + x * width, from, depth, width);
		else gather(to + x * width, from, a->dtype, a->stride[1], depth, width, 1);
	}
	memset(to + rows * width, 0, sizeof *to * (size_t)((SIDE - rows) * width));
}

/* An eighth of what the next steps read, into the first-level cache: B two steps ahead, A one. Tile loads alone keep too few lines on their way.
 * (A macro: gcc takes a function that only prefetches for one without effect and drops its calls.) */
#define FETCH1(i) _mm_prefetch(next, _MM_HINT_T0), next += t->stride, _mm_prefetch((const char *)(b + 4 * TILE) + (i) * 64, _MM_HINT_T0)
#define FETCH(part) FETCH1(4 * (part)), FETCH1(4 * (part) + 1), FETCH1(4 * (part) + 2), FETCH1(4 * (part) + 3)

/* Loads run a step ahead of the products, and fetches lie between them; the best of 500 such orders tried at random, most of which are close to it.
 * In the order of need the products wait for every load. The last step loads nothing beyond the strip. */
AMX void lora__amx_add_block(const strip *t)
{
	const char *a = t->a, *a2 = a + 16 * t->stride;
	const uint16_t *b = t->b;
	_tile_loadd(4, a, t->stride);
	_tile_loadd(6, b, 64);
	const char *rows = t->next;
	for (int64_t k = 1; k < t->steps; k++, a += 64, a2 += 64, b += 2 * TILE, rows += 64) {
		const char *next = a + 64;
		for (int64_t y = 0; y < t->ahead; y++) _mm_prefetch(rows + y * t->stride, _MM_HINT_T1);
		_tile_loadd(7, b + TILE, 64);
		FETCH(0);
		_tile_dpbf16ps(0, 4, 6);
		FETCH(1);
		_tile_loadd(5, a2, t->stride);
		FETCH(2);
		_tile_dpbf16ps(1, 4, 7);
		FETCH(3);
		_tile_loadd(4, a + 64, t->stride);
		FETCH(4);
		_tile_dpbf16ps(2, 5, 6);
		FETCH(5);
		_tile_loadd(6, b + 2 * TILE, 64);
		FETCH(6);
		_tile_dpbf16ps(3, 5, 7);
		FETCH(7);
	}
	_tile_loadd(7, b + TILE, 64);
	_tile_dpbf16ps(0, 4, 6);
	_tile_loadd(5, a2, t->stride);
	_tile_dpbf16ps(1, 4, 7);
	_tile_dpbf16ps(2, 5, 6);
	_tile_dpbf16ps(3, 5, 7);
}

/* 16 rows only (low). */
AMX static inline void add_low(const strip *t)
{
	const char *a = t->a;
	const uint16_t *b = t->b;
	for (int64_t k = 0; k < t->steps; k++, a += 64, b += 2 * TILE) {
		_tile_loadd(4, a, t->stride);
		_tile_loadd(6, b, 64);
		_tile_dpbf16ps(0, 4, 6);
		_tile_loadd(7, b + TILE, 64);
		_tile_dpbf16ps(1, 4, 7);
	}
}

/* 16 columns only: A is read for nothing else, so it is fetched from memory, AHEAD steps before it is wanted or those of the next strip. */
AMX static inline void add_left(const strip *t)
{
	enum { AHEAD = 4 };
	const char *a = t->a, *a2 = a + 16 * t->stride;
	const uint16_t *b = t->b;
	for (int64_t k = 0; k < t->steps; k++, a += 64, a2 += 64, b += 2 * TILE) {
		const char *next = k + AHEAD < t->steps ? a + 64 * AHEAD : a + 32 * t->stride - 64 * (t->steps - AHEAD);
		_tile_loadd(4, a, t->stride);
		_tile_loadd(6, b, 64);
		for (int y = 0; y < 16; y++, next += t->stride) _mm_prefetch(next, _MM_HINT_T0);
		_tile_dpbf16ps(0, 4, 6);
		_tile_loadd(5, a2, t->stride);
		for (int y = 0; y < 16; y++, next += t->stride) _mm_prefetch(next, _MM_HINT_T0);
		_tile_dpbf16ps(2, 5, 6);
	}
}

/* s[32][32] (+)= the strips' products. */
AMX static void multiply(const block_job *j, float *s, const strip *t, int n, int first, int64_t rows, int64_t cols)
{
	if (!j->tiles) {
		for (int i = 0; i < n; i++) lora__block_add(s, SIDE, first && !i, &t[i], j->parts == 2 ? 128 : 64, j->parts == 2, rows, cols);
		return;
	}
	if (first) zero_sums();
	else load_sums(s, SIDE);
	for (int i = 0; i < n; i++) {
		if (j->parts == 3) lora__amx_add_parts(&t[i], i ? 3 : j->parts_b);
		else if (rows > 16 && cols > 16) lora__amx_add_block(&t[i]);
		else if (rows <= 16) add_low(&t[i]);
		else add_left(&t[i]);
	}
	store_sums(s, SIDE);
}

AMX static inline __m512 widen(__m256i half) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16)); }

/* A whole block of C in BF16, whose rows lie step bytes apart; the lines of the next block, ahead bytes further, are asked for. */
AMX static void store_block(char *row, int64_t step, const float *s, __m512 alpha, __m512 beta, int add, int64_t ahead)
{
	for (int y = 0; y < SIDE; y++, s += SIDE, row += step) {
		__builtin_prefetch(row + ahead, 1, 3);
		__m512 low = _mm512_mul_ps(alpha, _mm512_load_ps(s)), high = _mm512_mul_ps(alpha, _mm512_load_ps(s + 16));
		if (add) {
			__m512i c = _mm512_loadu_si512(row);
			low = _mm512_fmadd_ps(beta, widen(_mm512_castsi512_si256(c)), low);
			high = _mm512_fmadd_ps(beta, widen(_mm512_extracti64x4_epi64(c, 1)), high);
		}
		_mm512_storeu_si512(row, (__m512i)_mm512_cvtne2ps_pbh(high, low));
	}
}

/* The same in F32. */
AMX static void store_wide(char *row, int64_t step, const float *s, __m512 alpha, __m512 beta, int add, int64_t ahead)
{
	for (int y = 0; y < SIDE; y++, s += SIDE, row += step) {
		float *c = (float *)(void *)row;
		__builtin_prefetch(row + ahead, 1, 3);
		__builtin_prefetch(row + ahead + 64, 1, 3);
		__m512 low = _mm512_mul_ps(alpha, _mm512_load_ps(s)), high = _mm512_mul_ps(alpha, _mm512_load_ps(s + 16));
		if (add) low = _mm512_fmadd_ps(beta, _mm512_loadu_ps(c), low), high = _mm512_fmadd_ps(beta, _mm512_loadu_ps(c + 16), high);
		_mm512_storeu_ps(c, low);
		_mm512_storeu_ps(c + 16, high);
	}
}

/* C = alpha s + beta C for rows x cols at (m0, n0); the next block is right of it, or 32 rows below at next_n0. */
AMX static void store(const block_job *j, const float *s, int64_t m0, int64_t n0, int64_t rows, int64_t cols, int64_t next_n0)
{
	const __m512 alpha = _mm512_set1_ps(j->alpha), beta = _mm512_set1_ps(j->beta);
	int half = j->c.dtype == LORA_BF16;
	if (j->c.stride[1] != 1) { /* down the columns, or scattered */
		for (int64_t x = 0; x < cols; x++)
			for (int64_t y = 0; y < rows; y++) {
				void *e = lora__at(&j->c, m0 + y, n0 + x);
				float v = j->alpha * s[y * SIDE + x];
				if (half) *(uint16_t *)e = lora__f32_to_bf16(j->beta == 0 ? v : v + j->beta * lora__bf16_to_f32(*(uint16_t *)e));
				else *(float *)e = j->beta == 0 ? v : v + j->beta * *(float *)e;
			}
		return;
	}
	if (rows == SIDE && cols == SIDE) {
		int64_t each = half ? 2 : 4, step = j->c.stride[0] * each, ahead = (next_n0 - n0) * each + (next_n0 > n0 ? 0 : SIDE * step);
		(half ? store_block : store_wide)(lora__at(&j->c, m0, n0), step, s, alpha, beta, j->beta != 0, ahead);
		return;
	}
	for (int64_t y = 0; y < rows; y++, s += SIDE) {
		char *row = lora__at(&j->c, m0 + y, n0);
		for (int64_t x = 0; x < cols; x += 16) {
			__mmask16 in = lora__first16(cols - x);
			__m512 v = _mm512_mul_ps(alpha, _mm512_load_ps(s + x));
			if (half) {
				if (j->beta != 0) v = _mm512_fmadd_ps(beta, widen(_mm256_maskz_loadu_epi16(in, row + 2 * x)), v);
				_mm256_mask_storeu_epi16(row + 2 * x, in, (__m256i)_mm512_cvtneps_pbh(v));
			} else {
				if (j->beta != 0) v = _mm512_fmadd_ps(beta, _mm512_maskz_loadu_ps(in, row + 4 * x), v);
				_mm512_mask_storeu_ps(row + 4 * x, in, v);
			}
		}
	}
}

/* One packed group of B, and of B2 behind it, against the rows of a piece. */
AMX static void run_piece(const block_job *j, const piece *p, const uint16_t *b, uint16_t *packed_a, float *sums)
{
	int64_t panels = (p->n1 - p->n0 + SIDE - 1) / SIDE;
	const uint16_t *b2 = b + j->group * j->kc * j->parts_b;
	uint16_t *packed_a2 = packed_a + SIDE * j->kc * j->parts;
	for (int64_t row = p->m0; row < p->m1; row += SIDE) {
		int64_t rows = least(SIDE, p->m1 - row), width2 = j->steps2 * SIDE;
		strip t[2] = { { lora__at(&j->a, row, p->k0), j->a.stride[0] * (int64_t)lora__dtype_size(j->a.dtype), b, p->steps, p->depth % SIDE, NULL, 0 }, { (const char *)packed_a2, width2 * 2, b2, j->steps2, j->k2 % SIDE, NULL, 0 } };
		int two = p->last && j->steps2;
		if (j->parts > 1) {
			void (*copy)(const lora_view *, uint16_t *, int64_t, int64_t, int64_t) = j->parts == 3 ? lora__amx_split_a : lora__block_pack_a;
			if (!j->direct || rows < SIDE || p->depth % SIDE) copy(&j->a, packed_a, row, p->k0, p->steps), t[0].a = (const char *)packed_a, t[0].stride = p->steps * SIDE * 4;
			if (two) copy(&j->a2, packed_a2, row, 0, j->steps2), t[1].stride = width2 * 4;
		} else if (!j->direct || rows < SIDE || p->depth % SIDE) {
			pack_a(&j->a, packed_a, row, rows, p->k0, p->depth, p->steps * SIDE);
			t[0].a = (const char *)packed_a, t[0].stride = p->steps * SIDE * 2;
		}
		if (two && j->parts == 1) pack_a(&j->a2, packed_a2, row, rows, 0, j->k2, width2);
		for (int64_t x = 0; x < panels; x++) {
			int64_t n0 = p->n0 + x * SIDE, cols = least(SIDE, p->n1 - n0);
			if (t[0].a != (const char *)packed_a) { /* the next rows, some with each panel: this strip's come from a cache then */
				int64_t y = SIDE * x / panels;
				t[0].ahead = SIDE * (x + 1) / panels - y;
				t[0].next = lora__at(&j->a, (row + SIDE < p->m1 ? row + SIDE : p->m0) + y, p->k0);
			}
			float *s = p->first && p->last ? sums : sums + ((row - p->m0) / SIDE * panels + x) * BLOCK;
			multiply(j, s, t, 1 + two, p->first, rows, cols);
			if (p->last) store(j, s, row, n0, rows, cols, x + 1 < panels ? n0 + SIDE : p->n0);
			t[0].b += p->steps * 2 * TILE * j->parts_b, t[1].b += j->steps2 * 2 * TILE * j->parts;
		}
	}
}

AMX static void task(void *arg, int64_t t, int32_t thread)
{
	const block_job *j = arg;
	int64_t tm = t / j->tasks_n, tn = t % j->tasks_n, high = (j->m + SIDE - 1) / SIDE, wide = (j->n + SIDE - 1) / SIDE;
	int64_t m0 = high * tm / j->tasks_m * SIDE, m1 = least(high * (tm + 1) / j->tasks_m * SIDE, j->m);
	int64_t n0 = wide * tn / j->tasks_n * SIDE, n1 = least(wide * (tn + 1) / j->tasks_n * SIDE, j->n);
	uint16_t *b = (uint16_t *)(void *)(j->scratch + (size_t)thread * j->per_thread), *b2 = b + j->group * j->kc * j->parts_b;
	uint16_t *a = b2 + j->group * j->steps2 * SIDE * j->parts;
	float *sums = (float *)(void *)(a + SIDE * (j->kc + j->steps2 * SIDE) * j->parts);
	if (j->tiles) _tile_loadconfig(&tiles);
	for (int64_t n = n0; n < n1; n += j->group)
		for (int64_t m = m0; m < m1; m += j->kc < j->k ? ROWS : m1 - m0)
			for (int64_t k = 0; k < j->k; k += j->kc) {
				piece p = { m, j->kc < j->k ? least(m + ROWS, m1) : m1, n, least(n + j->group, n1), k, least(j->kc, j->k - k), 0, k == 0, k + j->kc >= j->k };
				p.steps = (p.depth + SIDE - 1) / SIDE;
				pack_b(&j->b, 1, b, &p, k, p.steps, j->parts_b);
				if (p.last && j->steps2) pack_b(&j->b2, j->scale2, b2, &p, 0, j->steps2, j->parts);
				run_piece(j, &p, b, a, sums);
			}
	if (j->tiles) _tile_release();
}

/* Tasks as a grid, two for each thread: rows first, so that a thread reads the rows that it wrote itself in the loop before, and what it writes
 * lies in its own cache for the next; columns where there are too few rows. Cutting rows packs B more than once, and is the quicker way all the same
 * as long as a task has rows enough to pay for it, or else threads would have nothing to do. */
static void split(block_job *j, int32_t threads, int64_t *n_tasks)
{
	enum { PANELS = 4, FEW = 4 }; /* columns and rows of a task in blocks at least */
	int64_t high = (j->m + SIDE - 1) / SIDE, wide = (j->n + SIDE - 1) / SIDE, enough = j->parts_b == 2 ? 32 : j->parts_b == 3 || !j->tiles ? 16 : FEW;
	j->tasks_n = threads < 2 ? 1 : least(wide < PANELS ? 1 : wide / PANELS, (int64_t)threads);
	int64_t all = (threads + j->tasks_n - 1) / j->tasks_n, two = (2 * threads + j->tasks_n - 1) / j->tasks_n, fit = (high + enough - 1) / enough;
	j->tasks_m = threads < 2 ? 1 : least(fit < all ? all : least(two, fit), (high + FEW - 1) / FEW);
	*n_tasks = j->tasks_m * j->tasks_n;
}

/* F32 where no other form is better; a weight of F32 with more rows than most. */
static int takes_wide(const lora_call *c, int two, int64_t most)
{
	const lora_view *v = c->v;
	if (v[0].dtype != LORA_F32 || v[2].dtype == LORA_F64 || v[0].stride[1] != 1 || v[1].stride[1] != 1) return 0;
	if (v[0].size[0] <= (v[2].dtype == LORA_BF16 ? GEMM_FEW : most) || v[0].size[1] <= WIDE_COLUMNS || v[1].size[1] <= THIN_K) return 0;
	return !two || (v[3].dtype == LORA_F32 && v[4].dtype != LORA_F64 && c->f[0] != 0);
}

/* BF16 by a matrix that can be rounded to it; enough rows to be worth packing B. */
static int takes(const lora__naive *self, const lora_call *c, int two)
{
	const lora_view *cv = &c->v[0];
	if (self->isa >= 3 && c->v[1].dtype == LORA_F32) return takes_wide(c, two, self->isa > 3 ? WIDE_ROWS : WIDE_ROWS / 2);
	if (self->isa < 3 || cv->size[0] <= GEMM_TINY || c->v[1].size[1] < 1 || (cv->dtype != LORA_BF16 && cv->dtype != LORA_F32)) return 0;
	if (c->v[1].dtype != LORA_BF16 || c->v[2].dtype == LORA_F64) return 0;
	return !two || (c->v[3].dtype == LORA_BF16 && c->v[4].dtype != LORA_F64 && c->f[0] != 0);
}

LORA__SMALL int lora__naive_block(lora__naive *self, const lora_call *c, lora_status *st)
{
	const lora_view *cv = &c->v[0], *av = &c->v[1], *bv = &c->v[2];
	int two = c->n_views > 4 && c->v[3].data && c->v[3].size[1] > 0;
	if (!takes(self, c, two)) return 0;
	block_job j = { .c = *cv, .a = *av, .b = *bv, .alpha = (float)c->f[0], .beta = (float)c->f[1], .tiles = self->isa > 3, .parts = av->dtype != LORA_F32 || c->i[0] ? 1 : self->isa > 3 ? 3 : 2 };
	j.parts_b = bv->dtype == LORA_BF16 && j.parts != 2 ? 1 : j.parts;
	if (two) {
		j.a2 = c->v[3], j.b2 = c->v[4], j.k2 = j.a2.size[1], j.scale2 = (float)(c->f[2] / c->f[0]);
		j.steps2 = up(j.k2, SIDE) / SIDE;
	} else if (bv->dtype == LORA_BF16 && av->stride[1] != 1 && av->stride[0] == 1 && cv->size[0] > cv->size[1]) {
		j.c = lora__view_t(*cv), j.a = lora__view_t(*bv), j.b = lora__view_t(*av); /* C^T = B^T A^T: turn the smaller one */
	}
	j.m = j.c.size[0], j.n = j.c.size[1], j.k = j.a.size[1];
	int64_t deep = j.m > SIDE ? DEPTH : least(DEPTH, up(GROUP_BYTES / 2 / j.n, SIDE)), packings = (j.k + deep - 1) / deep;
	j.kc = up((j.k + packings - 1) / packings, SIDE);
	j.group = least(up(j.n, SIDE), up((!j.tiles ? SMALL_BYTES : j.a.dtype == LORA_F32 && j.parts == 1 ? ROUNDED_BYTES : GROUP_BYTES) / 2 / j.kc / j.parts_b, SIDE));
	j.direct = j.a.dtype == (j.parts == 2 ? LORA_F32 : LORA_BF16) && j.a.stride[1] == 1 && (!j.tiles || j.a.stride[0] * 2 % 4096 != 0);
	int64_t n_tasks, sums = packings > 1 ? least(up(j.m, SIDE), ROWS) * j.group : BLOCK;
	split(&j, self->host.threads, &n_tasks);
	j.per_thread = (size_t)up((j.group * (j.kc * j.parts_b + j.steps2 * SIDE * j.parts) + SIDE * (j.kc + j.steps2 * SIDE) * j.parts) * 2 + sums * 4, 4096) + 1088; /* not the same cache sets for every thread */
	j.scratch = lora__naive_scratch(self, j.per_thread * (size_t)self->host.threads);
	if (!j.scratch) return *st = LORA_E_MEMORY, 1;
	lora__naive_parallel(self, n_tasks, (double)j.m * (double)j.n * (double)j.k / 16, task, &j);
	lora__naive_release(self, j.scratch);
	return *st = LORA_OK, 1;
}

#else

int lora__bf16_ready(void) { return 0; }

int lora__naive_block(lora__naive *self, const lora_call *c, lora_status *st)
{
	(void)self, (void)c, (void)st;
	return 0;
}
#endif
