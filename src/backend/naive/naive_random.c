/* DROPOUT: out = f1 * out + x * mask / (1 - p). Element (row, col) has index e = (row + i1) * d + col; its word is word e % 4 of
 * Philox4x32-10 with key i0 and counter e / 4; it is kept when (word >> 8) * 2^-24 >= p. So the mask needs no memory and depends on neither
 * threads nor slicing. The mask words are made for many counters at once, equal to lora__philox() word for word. */
#include "backend/naive/naive.h"

enum { COUNTERS = 64, WORDS = 4 * COUNTERS }; /* loops longer than a compiler unrolls: they become loops of vectors */

typedef struct dropout_job { const lora_call *c; lora__naive_grid g; uint32_t threshold; } dropout_job;

#define NAIVE_AVX2
#define NAIVE_TEMPLATE "backend/naive/naive_random.inc"
#include "backend/naive/naive_each.h"

lora_status lora__naive_dropout(lora__naive *self, const lora_call *c, lora_dtype real)
{
	double p = c->f[0];
	if (!(p >= 0 && p < 1)) return lora__naive_fail(self, LORA_E_ARGUMENT, "primitive dropout: the probability must be in [0, 1)");
	dropout_job j = { c, lora__naive_split(c, 0, 1, 1), 0 };
	j.threshold = (uint32_t)ceil(p * 0x1p24); /* word >= p * 2^24, both sides whole */
	lora__naive_parallel(self, j.g.row_blocks * j.g.col_blocks, 8.0 * (double)j.g.n * (double)j.g.d, PICK_AVX2(self, real, dropout), &j);
	return LORA_OK;
}
