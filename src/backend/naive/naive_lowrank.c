/* LOWRANK: out = base + s b a, rounded once: the merge of a low-rank adapter (arXiv:2106.09685 section 4.1) in one pass over the weight. Sums over the
 * rank in F32 in order, then one multiply-add with the base. Written past the caches where a line is whole: a merged model is larger than they are. */
#include "backend/naive/naive.h"

enum { LOWRANK_CHUNK = 256, LOWRANK_ROWS = 24 }; /* columns whose sums are made before they are added; rows of a task, a multiple of every MR */

typedef struct lowrank_job {
	const lora_call *c;
	atomic_llong special; /* values that are not finite */
} lowrank_job;

#define NAIVE_NO_BF16
#define NAIVE_TEMPLATE "backend/naive/naive_lowrank.inc"
#include "backend/naive/naive_each.h"

#ifdef NAIVE_X86
/* A BF16 weight on AVX-512 with BF16 conversions. Some columns of a lie packed in the nearest cache while all rows of the task go by, and a tile is
 * added to the base, rounded and written from the registers, so that waiting for memory falls between multiplications. */
#define LINES_TARGET __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))
enum { LINES_ROWS = 6, LINES_COLS = 64, LINES_PANEL = 8192, LINES_TASK = 48, LINES_TASKS = 24 };

/* to[6][64] = base + scale b[6][r] a[r][64]; steps in elements. The conversion takes subnormals for zero: not 0 where a result is zero or not finite. */
LINES_TARGET static inline int lines_tile(int64_t r, const float *b, int64_t b_step, const float *a, float scale, const uint16_t *base, int64_t base_step, uint16_t *to,
                                          int64_t to_step, const uint16_t *next)
{
	const __m512i low = _mm512_set_epi16(15, 15, 14, 14, 13, 13, 12, 12, 11, 11, 10, 10, 9, 9, 8, 8, 7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
	const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16)), edge = _mm512_set1_epi16(0x100);
	const __m512 s = _mm512_set1_ps(scale);
	__m512i least = _mm512_set1_epi16(-1);
	__m512 acc[LINES_ROWS][LINES_COLS / 16];
#pragma GCC unroll 12
	for (int i = 0; i < LINES_ROWS; i++)
#pragma GCC unroll 8
		for (int v = 0; v < LINES_COLS / 16; v++) acc[i][v] = _mm512_setzero_ps();
	for (int64_t k = 0; k < r; k++, a += LINES_COLS) {
		__m512 row[LINES_COLS / 16];
#pragma GCC unroll 8
		for (int v = 0; v < LINES_COLS / 16; v++) row[v] = _mm512_loadu_ps(a + 16 * v);
#pragma GCC unroll 12
		for (int i = 0; i < LINES_ROWS; i++) {
			__m512 x = _mm512_set1_ps(b[i * b_step + k]);
#pragma GCC unroll 8
			for (int v = 0; v < LINES_COLS / 16; v++) acc[i][v] = _mm512_fmadd_ps(row[v], x, acc[i][v]);
		}
	}
#pragma GCC unroll 12
	for (int i = 0; i < LINES_ROWS; i++)
#pragma GCC unroll 4
		for (int v = 0; v < LINES_COLS / 32; v++) {
			__m512i w = _mm512_loadu_si512((const void *)(base + i * base_step + 32 * v));
			__m512 w0 = _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, low, w));
			__m512 w1 = _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, high, w));
			__m512i h = (__m512i)_mm512_cvtne2ps_pbh(_mm512_fmadd_ps(s, acc[i][2 * v + 1], w1), _mm512_fmadd_ps(s, acc[i][2 * v], w0));
			_mm512_stream_si512((void *)(to + i * to_step + 32 * v), h);
			least = _mm512_min_epu16(least, _mm512_add_epi16(_mm512_add_epi16(h, h), edge));
			__builtin_prefetch(next + i * base_step + 32 * v);
		}
	return _mm512_cmple_epu16_mask(least, edge) != 0;
}

/* Rows of a task: enough to pay for packing a, few enough that both threads end at once. */
static int64_t lines_rows(int64_t n)
{
	int64_t rows = n / LINES_TASKS / LINES_ROWS * LINES_ROWS;
	return rows < LINES_TASK ? LINES_TASK : rows > 4 * LINES_TASK ? 4 * LINES_TASK : rows;
}

/* Task: some rows. What is no whole tile, and tiles with a zero or a value that is not finite, go the other way. */
LINES_TARGET static void lowrank_lines(void *arg, int64_t task, int32_t thread)
{
	lowrank_job *j = arg;
	const lora_view *out = &j->c->v[0], *base = &j->c->v[1], *bv = &j->c->v[2], *av = &j->c->v[3];
	int64_t n = out->size[0], d = out->size[1], r = bv->size[1], special = 0, each = lines_rows(n), first = task * each, end = first + each < n ? first + each : n;
	int64_t width = LINES_PANEL / r / LINES_COLS * LINES_COLS, whole = d / LINES_COLS * LINES_COLS, last = first + (end - first) / LINES_ROWS * LINES_ROWS;
	_Alignas(64) float a[LINES_PANEL];
	(void)thread;
	for (int64_t c0 = 0; c0 < whole; c0 += width) {
		int64_t w = whole - c0 < width ? whole - c0 : width;
		for (int64_t k = 0; k < r; k++) {
			const float *from = lora__at(av, k, c0);
			for (int64_t x = 0; x < w; x += LINES_COLS) memcpy(a + x * r + k * LINES_COLS, from + x, LINES_COLS * sizeof *a);
		}
		for (int64_t r0 = first; r0 < last; r0 += LINES_ROWS) {
			int down = r0 + LINES_ROWS < last, ahead = c0 + w < whole;
			const uint16_t *next = lora__at(base, down ? r0 + LINES_ROWS : ahead ? first : r0, !down && ahead ? c0 + w : c0);
			for (int64_t x = 0; x < w; x += LINES_COLS)
				if (lines_tile(r, lora__at(bv, r0, 0), bv->stride[0], a + x * r, (float)j->c->f[0], lora__at(base, r0, c0 + x), base->stride[0], lora__at(out, r0, c0 + x),
						out->stride[0], next + x)) special += lowrank_block_avx512(j->c, r0, LINES_ROWS, c0 + x, LINES_COLS);
		}
	}
	_mm_sfence();
	for (int64_t r0 = first; r0 < last && whole < d; r0 += LINES_ROWS) special += lowrank_block_avx512(j->c, r0, LINES_ROWS, whole, d - whole);
	for (int64_t c0 = 0; c0 < d && last < end; c0 += LOWRANK_CHUNK) special += lowrank_block_avx512(j->c, last, end - last, c0, d - c0 < LOWRANK_CHUNK ? d - c0 : LOWRANK_CHUNK);
	if (special) atomic_fetch_add(&j->special, special);
}

static int takes_lines(const lora__naive *self, const lora_call *c)
{
	const lora_view *v = c->v;
	return self->isa >= 2 && __builtin_cpu_supports("avx512bf16") && v[0].dtype == LORA_BF16 && v[2].stride[1] == 1 && v[2].size[1] > 0 &&
		v[2].size[1] * LINES_COLS <= LINES_PANEL && (uintptr_t)v[0].data % 64 == 0 && v[0].stride[0] % 32 == 0;
}
#endif

lora_status lora__naive_lowrank(lora__naive *self, const lora_call *c, lora_dtype real)
{
	lowrank_job j = { .c = c };
	int64_t n = c->v[0].size[0], d = c->v[0].size[1], r = c->v[2].size[1];
	if (c->v[0].dtype != c->v[1].dtype) return lora__naive_fail(self, LORA_E_DTYPE, "primitive lowrank: out and base must be of one dtype");
#ifdef NAIVE_X86
	if (takes_lines(self, c)) lora__naive_parallel(self, (n + lines_rows(n) - 1) / lines_rows(n), (double)n * (double)d * (double)(r + 8), lowrank_lines, &j);
	else
#endif
	lora__naive_parallel(self, (n + LOWRANK_ROWS - 1) / LOWRANK_ROWS, (double)n * (double)d * (double)(r + 8), PICK_WIDE(self, real, lowrank), &j);
	*(double *)c->v[4].data = (double)atomic_load(&j.special);
	return LORA_OK;
}
