/* F32 operands of products in blocks. In vector registers they are taken as they are. AMX tiles multiply BF16 only: there an F32 number is the sum
 * of three of BF16, to the last bit: x1 = bf16(x), x2 = bf16(x - x1), x3 = x - x1 - x2. With a weight that is stored in BF16, a w = a1 w + a2 w + a3 w: nothing is left out. Of the nine products of two such sums
 * the three smallest are left out, each below 2^-26 of the whole, a quarter of what rounding it to F32 loses:
 * a b = a1 b1 + (a1 b2 + a2 b1) + (a2 b2 + a1 b3 + a3 b1). Sums are F32, as in naive_gemm.c.
 * Henry, Tang and Heinecke 2019, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations", arXiv:1904.06376.
 * Subnormals count as zero, also as parts: what is below 2^-110 has fewer than 24 bits. What an infinite number takes part in
 * (they begin at 2^128 - 2^119 here) becomes NaN. */
#include "backend/naive/naive_block.h"

#ifdef NAIVE_BLOCKS

/* 32 numbers into three parts, rows of 32 that are step elements apart. */
AMX static inline void split(const float *x, uint16_t *to, int64_t step)
{
	const __m512i low = _mm512_set_epi16(15, 15, 14, 14, 13, 13, 12, 12, 11, 11, 10, 10, 9, 9, 8, 8, 7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
	const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
	__m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
	for (int part = 0;; part++, to += step) {
		__m512i h = (__m512i)_mm512_cvtne2ps_pbh(b, a);
		_mm512_store_si512(to, h);
		if (part == 2) return;
		a = _mm512_sub_ps(a, _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, low, h)));
		b = _mm512_sub_ps(b, _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, high, h)));
	}
}

/* The 32 x 32 elements of v from (r, c) times scale as rows of F32, *step apart: in t, with zeros beyond the edges, or where they lie. */
AMX static const float *block(float *t, const lora_view *v, float scale, int64_t r, int64_t c, int64_t *step)
{
	int64_t rows = v->size[0] - r, cols = v->size[1] - c, each = v->stride[1] == 1 ? cols < SIDE ? cols : SIDE : 1;
	if (v->dtype == LORA_F32 && v->stride[1] == 1 && rows >= SIDE && cols >= SIDE && scale == 1) return *step = v->stride[0], lora__at(v, r, c);
	if (v->dtype == LORA_BF16 && v->stride[1] == 1 && rows >= SIDE && cols >= SIDE && scale == 1) {
		for (int64_t y = 0; y < SIDE; y++)
			for (int64_t x = 0; x < SIDE; x += 16) _mm512_store_ps(t + y * SIDE + x, lora__load16((const uint16_t *)lora__at(v, r, c) + y * v->stride[0] + x, 0xffff));
		return *step = SIDE, t;
	}
	memset(t, 0, BLOCK * sizeof *t);
	for (int64_t y = 0; y < rows && y < SIDE; y++)
		for (int64_t x = 0; x < cols && x < SIDE; x += each) lora__convert(t + y * SIDE + x, LORA_F32, lora__at(v, r + y, c + x), v->dtype, (size_t)each);
	for (int64_t x = 0; x < BLOCK && scale != 1; x++) t[x] *= scale;
	return *step = SIDE, t;
}

/* That block in three parts of [32][32], part elements apart. What lies ahead of it in memory by so many elements is fetched meanwhile. */
AMX static void split_block(const lora_view *v, float scale, int64_t r, int64_t c, uint16_t *to, int64_t part, int64_t ahead)
{
	_Alignas(64) float t[BLOCK];
	int64_t step;
	const float *from = block(t, v, scale, r, c, &step);
	for (int64_t y = 0; y < SIDE; y++, from += step, to += SIDE) {
		_mm_prefetch((const char *)(from + ahead), _MM_HINT_T0);
		_mm_prefetch((const char *)(from + ahead + 16), _MM_HINT_T0);
		split(from, to, part);
	}
}

enum { AHEAD = 4 }; /* steps; then the rows below */

AMX void lora__amx_split_a(const lora_view *a, uint16_t *to, int64_t row, int64_t k0, int64_t steps)
{
	int64_t down = SIDE * (a->stride[0] - (steps - AHEAD));
	for (; steps-- > 0; k0 += SIDE, to += 6 * TILE) split_block(a, 1, row, k0, to + 4 * TILE, -2 * TILE, steps >= AHEAD ? AHEAD * SIDE : down);
}

AMX void lora__amx_split_b(const lora_view *b, float scale, uint16_t *to, int64_t n0, int64_t k0, int64_t steps)
{
	_Alignas(64) uint16_t part[3][BLOCK];
	int along = b->stride[0] == 1;
	lora_view turned = lora__view_t(*b);
	for (; steps-- > 0; k0 += SIDE) {
		if (along) split_block(&turned, scale, n0, k0, part[0], BLOCK, AHEAD * SIDE);
		else split_block(b, scale, k0, n0, part[0], BLOCK, SIDE * b->stride[0]);
		for (int p = 0; p < 3; p++, to += 2 * TILE) {
			if (along) lora__block_turn_step(to, part[p], SIDE, 0);
			else interleave_step(to, 0, part[p], SIDE, 1, 0);
		}
	}
}

AMX void lora__block_pack_a(const lora_view *a, uint16_t *to, int64_t row, int64_t k0, int64_t steps)
{
	_Alignas(64) float t[BLOCK];
	int64_t step;
	for (int64_t s = 0; s < steps; s++) {
		const float *from = block(t, a, 1, row, k0 + s * SIDE, &step);
		for (int64_t y = 0; y < SIDE; y++) memcpy((float *)(void *)to + (y * steps + s) * SIDE, from + y * step, SIDE * sizeof *from);
	}
}

AMX void lora__block_pack_b(const lora_view *b, float scale, uint16_t *to, int64_t n0, int64_t k0, int64_t steps)
{
	_Alignas(64) float t[BLOCK], out[16 * 16];
	int along = b->stride[0] == 1;
	lora_view turned = lora__view_t(*b);
	for (int64_t step; steps-- > 0; k0 += SIDE, to += 2 * BLOCK) {
		const float *from = along ? block(t, &turned, scale, n0, k0, &step) : block(t, b, scale, k0, n0, &step);
		for (int64_t i = 0; i < 4 && along; i++) {
			__m512i row[16];
			for (int64_t x = 0; x < 16; x++) row[x] = _mm512_loadu_si512(from + (i / 2 * 16 + x) * step + i % 2 * 16);
			turn(row, (uint16_t *)(void *)out);
			for (int64_t x = 0; x < 16; x++) memcpy((float *)(void *)to + (i % 2 * 16 + x) * SIDE + i / 2 * 16, out + x * 16, 64);
		}
		for (int64_t y = 0; y < SIDE && !along; y++) memcpy((float *)(void *)to + y * SIDE, from + y * step, SIDE * sizeof *from);
	}
}

/* Lines of what the next step reads, between any two products: tile loads alone keep too few on their way. */
#define FETCH1(p) do { _mm_prefetch((const char *)(p), _MM_HINT_T0); p += SIDE; } while (0)
#define FETCH4(p) do { FETCH1(p); FETCH1(p); FETCH1(p); FETCH1(p); } while (0)
#define FETCH8 do { FETCH4(next_a); FETCH4(next_a); } while (0)
#define FETCH12 do { FETCH8; FETCH4(next_b); } while (0)

#define LOAD(tile, from) _tile_loadd(tile, from, 64)
#define MULTIPLY(c, a, b, fetch) do { _tile_dpbf16ps(c, a, b); fetch; } while (0)
/* A part of A by one of B, row of tiles by row (tile 4 is free for what comes next after two products) or column by column (tile 6 is). */
#define BY_ROWS(load, next, fetch) do { load; MULTIPLY(0, 4, 6, fetch); MULTIPLY(1, 4, 7, fetch); next; MULTIPLY(2, 5, 6, fetch); MULTIPLY(3, 5, 7, fetch); } while (0)
#define BY_COLUMNS(load, next, fetch) do { load; MULTIPLY(0, 4, 6, fetch); MULTIPLY(2, 5, 6, fetch); next; MULTIPLY(1, 4, 7, fetch); MULTIPLY(3, 5, 7, fetch); } while (0)

/* Loads run past the end: there are two tiles behind a strip. */
AMX static void add_three(const uint16_t *a, const uint16_t *b, int64_t steps)
{
	LOAD(6, b);
	LOAD(4, a);
	for (; steps-- > 0; a += 6 * TILE, b += 2 * TILE) {
		const uint16_t *next_a = a + 6 * TILE, *next_b = b + 2 * TILE;
		LOAD(7, b + TILE);
		BY_ROWS(LOAD(5, a + TILE), LOAD(4, a + 2 * TILE), FETCH12);
		BY_ROWS(LOAD(5, a + 3 * TILE), LOAD(4, a + 4 * TILE), FETCH12);
		BY_ROWS(LOAD(5, a + 5 * TILE), LOAD(4, a + 6 * TILE), FETCH8);
		LOAD(6, b + 2 * TILE);
	}
}

AMX static void add_six(const uint16_t *a, const uint16_t *b, int64_t steps)
{
	LOAD(6, b);
	LOAD(4, a);
	for (; steps-- > 0; a += 6 * TILE, b += 6 * TILE) {
		const uint16_t *next_a = a + 6 * TILE, *next_b = b + 6 * TILE;
		LOAD(7, b + TILE);
		BY_ROWS(LOAD(5, a + TILE), LOAD(4, a + 2 * TILE), FETCH8);
		BY_COLUMNS(LOAD(5, a + 3 * TILE), LOAD(6, b + 2 * TILE), FETCH8);
		BY_ROWS(LOAD(7, b + 3 * TILE), LOAD(4, a + 4 * TILE), FETCH8);
		BY_COLUMNS(LOAD(5, a + 5 * TILE), LOAD(6, b + 4 * TILE), FETCH4(next_b));
		BY_COLUMNS(LOAD(7, b + 5 * TILE), LOAD(6, b), FETCH4(next_b));
		BY_ROWS(LOAD(7, b + TILE), LOAD(4, a + 6 * TILE), FETCH4(next_b));
		LOAD(6, b + 6 * TILE);
	}
}

AMX void lora__amx_add_parts(const strip *t, int parts_b)
{
	(parts_b == 3 ? add_six : add_three)((const uint16_t *)(const void *)t->a, t->b, t->steps);
}
#endif
