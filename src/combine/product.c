/* Matrix products in double: strips of both sides are packed, zero beyond the edges, and a register tile multiplies them; depth in blocks of DEPTH.
 * Source: Goto and van de Geijn 2008, "Anatomy of high-performance matrix multiplication". */
#include <string.h>

#include "base/context.h"
#include "combine/kernels.h"

enum { ROWS = 8, COLS = 16, DEPTH = 256, SOME_ROWS = 96, SOME_COLS = 512, PARTS = COLS / 8 };
typedef double wide __attribute__((vector_size(64), aligned(8), may_alias));

/* t[ROWS][COLS] = A strip [depth][ROWS] times B strip [depth][COLS], some rows at a time: as many as there are registers for. */
static inline __attribute__((always_inline)) void tile_body(const int way, int64_t depth, const double *a, const double *b, double *t)
{
	const int rows = way == 2 ? ROWS : 1 + way;
	for (int first = 0; first < ROWS; first += rows) {
		wide sum[ROWS][PARTS];
#pragma GCC unroll 8
		for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
			for (int v = 0; v < PARTS; v++) sum[i][v] = (wide){ 0 };
		for (int64_t k = 0; k < depth; k++) {
#pragma GCC unroll 2
			for (int v = 0; v < PARTS; v++) {
				wide x = *(const wide *)(b + k * COLS + v * 8);
#pragma GCC unroll 8
				for (int i = 0; i < rows; i++) sum[i][v] += x * a[k * ROWS + first + i];
			}
		}
#pragma GCC unroll 8
		for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
			for (int v = 0; v < PARTS; v++) *(wide *)(t + (first + i) * COLS + v * 8) = sum[i][v];
	}
}

LORA__TWICE(tile, (int64_t depth, const double *a, const double *b, double *t), depth, a, b, t)
LORA__WIDE(tile, LORA__FUSED, (int64_t depth, const double *a, const double *b, double *t), depth, a, b, t)

/* Strips of w rows (or columns) of n, sx apart, depth elements of each, sk apart. */
static inline __attribute__((always_inline)) void pack(double *d, const double *p, int64_t sx, int64_t sk, int64_t n, int64_t depth, const int w)
{
	for (int64_t x = 0; x < n; x += w, p += w * sx)
		for (int64_t k = 0; k < depth; k++, d += w)
			if (n - x < w)
				for (int i = 0; i < w; i++) d[i] = x + i < n ? p[i * sx + k * sk] : 0;
			else if (sx == 1)
				memcpy(d, p + k * sk, (size_t)w * sizeof *d);
			else
				for (int i = 0; i < w; i++) d[i] = p[i * sx + k * sk];
}

/* c += alpha t over the corner of rows by cols */
static void store(const double *t, double alpha, double *c, int64_t rs, int64_t cs, int64_t rows, int64_t cols)
{
	for (int64_t i = 0; i < rows && i < ROWS; i++, t += COLS, c += rs) {
		if (cs == 1 && cols >= COLS)
			for (int j = 0; j < COLS; j++) c[j] += alpha * t[j];
		else
			for (int64_t j = 0; j < cols && j < COLS; j++) c[j * cs] += alpha * t[j];
	}
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

lora_status lora__product(lora_context *ctx, int64_t m, int64_t n, int64_t depth, double alpha, const double *a, int64_t ar, int64_t ac, const double *b, int64_t br, int64_t bc,
                          int add, double *c, int64_t cr, int64_t cc)
{
	double *pa = lora__alloc(ctx, (SOME_ROWS + SOME_COLS) * DEPTH * sizeof *pa), *pb, t[ROWS * COLS];
	int64_t rows, cols, deep;
	if (!pa) return LORA_E_MEMORY;
	pb = pa + SOME_ROWS * DEPTH;
	for (int64_t i = 0; i < m && !add; i++)
		for (int64_t j = 0; j < n; j++) c[i * cr + j * cc] = 0;
	for (int64_t j = 0; j < n; j += cols) {
		cols = least(n - j, SOME_COLS);
		for (int64_t k = 0; k < depth; k += deep) {
			pack(pb, b + k * br + j * bc, bc, br, cols, deep = least(depth - k, DEPTH), COLS);
			for (int64_t i = 0; i < m; i += rows) {
				pack(pa, a + i * ar + k * ac, ar, ac, rows = least(m - i, SOME_ROWS), deep, ROWS);
				for (int64_t y = 0; y < cols; y += COLS)
					for (int64_t x = 0; x < rows; x += ROWS) {
						LORA__CALL_WIDE(tile, deep, pa + x * deep, pb + y * deep, t);
						store(t, alpha, c + (i + x) * cr + (j + y) * cc, cr, cc, rows - x, cols - y);
					}
			}
		}
	}
	lora__free(ctx, pa);
	return LORA_OK;
}
