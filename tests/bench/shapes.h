/* Random Llama shapes that everything is timed on; the same as in peft.py. */
#ifndef TESTS_BENCH_SHAPES_H
#define TESTS_BENCH_SHAPES_H

#include <stdint.h>
#include <string.h>

typedef struct bench_shape { const char *name; int hidden, inner, layers, heads, kv, vocabulary, tied, batch; } bench_shape;

static const bench_shape bench_shapes[] = {
	{ "tiny", 64, 172, 2, 4, 2, 512, 1, 4 },
	{ "15m", 288, 768, 6, 6, 6, 32000, 1, 4 },
	{ "135m", 576, 1536, 30, 9, 3, 49152, 1, 4 },
	{ "0.5b", 896, 4864, 24, 14, 2, 151936, 1, 2 },
	{ "1.1b", 2048, 5632, 22, 32, 4, 32000, 0, 2 },
};
enum { BENCH_SHAPES = sizeof bench_shapes / sizeof *bench_shapes };

/* A linear of a block, with how many blocks have it; the head last. */
typedef struct bench_linear { int64_t out, in, count; } bench_linear;

static inline int bench_linears(const bench_shape *s, bench_linear *l)
{
	int64_t h = s->hidden, kv = h / s->heads * s->kv, n = s->layers;
	bench_linear all[] = { { h, h, 2 * n }, { kv, h, 2 * n }, { s->inner, h, 2 * n }, { h, s->inner, n }, { s->vocabulary, h, 1 } };
	memcpy(l, all, sizeof all);
	return (int)(sizeof all / sizeof *all);
}

/* Floating-point operations of a trained token: the frozen base forward, and the gradient of its input: 4 per weight of the linears and the head;
 * causal attention over length tokens: two products forward, four backward, half of them masked. The adapter's are not counted. */
static inline double bench_flops(const bench_shape *s, int64_t length)
{
	bench_linear l[8];
	double sum = 0;
	for (int i = 0, n = bench_linears(s, l); i < n; i++) sum += 4.0 * (double)(l[i].out * l[i].in * l[i].count);
	return sum + 6.0 * (double)length * s->hidden * s->layers;
}

#endif
