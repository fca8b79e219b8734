/* What products in blocks share: 32 x 32 sums, on AMX in tiles 0 to 3, operands of 32 x 32 BF16, there in tiles 4 to 7, and the packings that the
 * tile product and VDPBF16PS want. Internal to this folder; for processors that lora__bf16_ready() has approved. */
#ifndef LORA_BACKEND_NAIVE_BLOCK_H
#define LORA_BACKEND_NAIVE_BLOCK_H

#include "backend/naive/naive_x86.h"

#if defined(NAIVE_X86) && defined(__linux__)
#define NAIVE_BLOCKS 1
/* Functions with this attribute run on processors without tiles too, as long as they call no tile intrinsic: compilers make no such instruction themselves. */
#define AMX __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16")))

enum {
	SIDE = 32,          /* rows and columns of a block, depth of a step */
	TILE = 512,         /* elements of a BF16 tile, 16 x 32 */
	BLOCK = SIDE * SIDE /* sums of a block */
};

/* Eight tiles of 16 rows by 64 bytes. */
static const struct { uint8_t palette, start, zero[14]; uint16_t bytes[16]; uint8_t rows[16]; } tiles = { .palette = 1,
	.bytes = { 64, 64, 64, 64, 64, 64, 64, 64 }, .rows = { 16, 16, 16, 16, 16, 16, 16, 16 } };

/* Transpose 16 x 16 words of 32 bits: row n holds pairs (k, k+1) of column n, row k of the result those of all 16 columns. */
AMX static inline void turn(const __m512i *row, uint16_t *to)
{
	__m512i a[16], b[16];
#define LOW32(i) a[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]), a[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1])
	LOW32(0); LOW32(2); LOW32(4); LOW32(6); LOW32(8); LOW32(10); LOW32(12); LOW32(14);
#define LOW64(i) b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]), b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]), \
	b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]), b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3])
	LOW64(0); LOW64(4); LOW64(8); LOW64(12);
#define LANES2(i) a[i] = _mm512_shuffle_i32x4(b[i], b[i + 4], 0x88), a[i + 4] = _mm512_shuffle_i32x4(b[i], b[i + 4], 0xdd), \
	a[i + 8] = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0x88), a[i + 12] = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0xdd)
	LANES2(0); LANES2(1); LANES2(2); LANES2(3);
#define LANES4(i) _mm512_store_si512(to + 32 * (i), _mm512_shuffle_i32x4(a[i], a[i + 8], 0x88)), \
	_mm512_store_si512(to + 32 * (i + 8), _mm512_shuffle_i32x4(a[i], a[i + 8], 0xdd)), \
	_mm512_store_si512(to + 32 * (i + 4), _mm512_shuffle_i32x4(a[i + 4], a[i + 12], 0x88)), \
	_mm512_store_si512(to + 32 * (i + 12), _mm512_shuffle_i32x4(a[i + 4], a[i + 12], 0xdd))
	LANES4(0); LANES4(1); LANES4(2); LANES4(3);
}

/* One step of B that lies along k: 32 rows of 32 elements, step apart, as two tiles. ahead: distance of what is fetched meanwhile, 0 = nothing. */
AMX void lora__block_turn_step(uint16_t *to, const uint16_t *from, int64_t step, int64_t ahead);

AMX static inline __m512i lower_pairs(void)
{
	return _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
}

/* One step of B that lies along n: 32 rows (k) of panels x 32 elements, step apart; two tiles for each panel, panel apart. Row by row, as it
 * lies in memory; ahead: as above. */
AMX static inline void interleave_step(uint16_t *to, int64_t panel, const uint16_t *from, int64_t step, int64_t panels, int64_t ahead)
{
	const __m512i lower = lower_pairs(), upper = _mm512_add_epi16(lower, _mm512_set1_epi16(16));
	for (int x = 0; x < 16; x++, from += 2 * step, to += 32)
		for (int64_t p = 0; p < panels; p++) {
			const uint16_t *row = from + p * SIDE;
			__m512i even = _mm512_loadu_si512(row), odd = _mm512_loadu_si512(row + step);
			if (ahead) _mm_prefetch((const char *)(row + ahead), _MM_HINT_T0), _mm_prefetch((const char *)(row + ahead + step), _MM_HINT_T0);
			_mm512_store_si512(to + p * panel, _mm512_permutex2var_epi16(even, lower, odd));
			_mm512_store_si512(to + p * panel + TILE, _mm512_permutex2var_epi16(even, upper, odd));
		}
}

/* Transpose 32 x 32 elements: rows step apart to rows to_step apart. */
AMX static inline void transpose_block(uint16_t *to, int64_t to_step, const uint16_t *from, int64_t step)
{
	_Alignas(64) uint16_t pair[2 * TILE], out[TILE];
	interleave_step(pair, 0, from, step, 1, 0);
	for (int h = 0; h < 2; h++) {
		__m512i row[16];
		for (int x = 0; x < 16; x++) row[x] = _mm512_load_si512(pair + h * TILE + 32 * x);
		turn(row, out);
		for (int x = 0; x < 16; x++) _mm512_storeu_si512(to + (h * 16 + x) * to_step, _mm512_load_si512(out + 32 * x));
	}
}

AMX static inline void zero_sums(void)
{
	_tile_zero(0);
	_tile_zero(1);
	_tile_zero(2);
	_tile_zero(3);
}
/* s[32][step] */
AMX static inline void load_sums(const float *s, int64_t step)
{
	_tile_loadd(0, s, step * 4);
	_tile_loadd(1, s + 16, step * 4);
	_tile_loadd(2, s + 16 * step, step * 4);
	_tile_loadd(3, s + 16 * step + 16, step * 4);
}
AMX static inline void store_sums(float *s, int64_t step)
{
	_tile_stored(0, s, step * 4);
	_tile_stored(1, s + 16, step * 4);
	_tile_stored(2, s + 16 * step, step * 4);
	_tile_stored(3, s + 16 * step + 16, step * 4);
}

/* A run of steps, of the last of which odd elements count (0 = all; without tiles): a has its rows stride bytes apart. On tiles, `ahead` rows from
 * next, such rows as well, are meanwhile fetched into the second-level cache. */
typedef struct strip { const char *a; int64_t stride; const uint16_t *b; int64_t steps, odd; const char *next; int64_t ahead; } strip;

/* tiles 0..3 += the strip's products */
AMX void lora__amx_add_block(const strip *t);

/* Without tiles (naive_block_avx512.c): s[32][s_step] += (fresh: =) the strip's products, of height rows and width columns at least; in F32 (wide) or
 * BF16. a_step: bytes between steps of A. */
AVX512_BF16 void lora__block_add(float *s, int64_t s_step, int fresh, const strip *t, int64_t a_step, int wide, int64_t height, int64_t width);

/* F32 as it is, for the same (naive_block_f32.c): rows row .. row + 31 of A as [32][steps * 32], columns n0 .. n0 + 31 of B times scale as [steps * 32][32]. */
AMX void lora__block_pack_a(const lora_view *a, uint16_t *to, int64_t row, int64_t k0, int64_t steps);
AMX void lora__block_pack_b(const lora_view *b, float scale, uint16_t *to, int64_t n0, int64_t k0, int64_t steps);

/* F32 in parts of BF16 (naive_block_f32.c): rows row .. row + 31 of A as [steps][three parts, the least first][two tiles], columns n0 .. n0 + 31 of B
 * times scale as [steps][three parts][two tiles]. */
AMX void lora__amx_split_a(const lora_view *a, uint16_t *to, int64_t row, int64_t k0, int64_t steps);
AMX void lora__amx_split_b(const lora_view *b, float scale, uint16_t *to, int64_t n0, int64_t k0, int64_t steps);
/* tiles 0..3 += the strip's products, A in three parts, B in one or three */
AMX void lora__amx_add_parts(const strip *t, int parts_b);
#endif
#endif
