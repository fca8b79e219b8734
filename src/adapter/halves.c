/* An adapter's parameters in F16, for decoding beside weights that are no more precise themselves: generating a token reads every parameter once, and
 * reads are what it costs. Each tensor is first multiplied by a power of two that brings its largest value to 2^13 .. 2^14, so that nothing overflows
 * and values down to 2^-27 of the largest keep all 11 bits. */
#include <math.h>
#include <string.h>

#include "adapter/adapter.h"
#include "site/few.h"

void lora__adapter_changed(lora_adapter *a)
{
	lora__free(a->ctx, a->halves);
	lora__free(a->ctx, a->unhalve);
	a->halves = NULL, a->unhalve = NULL, a->no_halves = 0;
}

/* B is cut in tiles of LORA__FEW_ROWS rows (or what is left), a tile's columns one after another: y += B t then is whole vectors of y, without sums
 * over lanes, and reads memory in order. */
static void halve(void *arg, int64_t i, int32_t thread)
{
	enum { STEP = 256 };
	lora_adapter *a = arg;
	const lora__ptensor *t = &a->tensors[i];
	const float *from = a->params + t->offset;
	uint16_t *to = a->halves + t->offset, half[STEP];
	int turn = t->role == 1, e;
	int64_t rows = t->shape[0], width = t->shape[1], row = 0, column = 0, tile = 0, high = 0;
	float some[STEP], most;
	int32_t bits, most_bits = 0; /* of a magnitude: they are in order as integers, whose largest is found several at a time */
	(void)thread;
	for (size_t k = 0; k < t->n; k++) {
		memcpy(&bits, from + k, sizeof bits);
		bits &= INT32_MAX;
		most_bits = bits > most_bits ? bits : most_bits;
	}
	memcpy(&most, &most_bits, sizeof most);
	frexpf(most, &e);
	if (e < -100) e = -100;
	float up = ldexpf(1, 14 - e);
	a->unhalve[i] = ldexp(1, e - 14);
	for (size_t at = 0, n; at < t->n; at += n) {
		n = t->n - at < STEP ? t->n - at : STEP;
		for (size_t k = 0; k < n; k++) some[k] = from[at + k] * up;
		lora__convert(turn ? half : to + at, LORA_F16, some, LORA_F32, n);
		for (size_t k = 0; turn && k < n; k++) {
			if (!column) tile = row - row % LORA__FEW_ROWS, high = rows - tile < LORA__FEW_ROWS ? rows - tile : LORA__FEW_ROWS;
			to[tile * width + column * high + row - tile] = half[k];
			if (++column == width) column = 0, row++;
		}
	}
}

static int make(lora_adapter *a)
{
	if (a->halves || a->no_halves) return !a->no_halves;
	lora_error kept = a->ctx->error;
	a->unhalve = lora__calloc(a->ctx, a->n_tensors, sizeof *a->unhalve);
	a->halves = a->unhalve ? lora__alloc(a->ctx, a->n_params * sizeof *a->halves) : NULL; /* params has twice as many bytes */
	if (a->halves) {
		lora__parallel(a->ctx, (int64_t)a->n_tensors, halve, a);
		return 1;
	}
	lora__free(a->ctx, a->unhalve);
	a->unhalve = NULL, a->no_halves = 1;
	a->ctx->error = kept; /* not an error: the parameters serve as they are */
	return 0;
}

void lora__adapter_halves(lora__part *p, lora__pair *pair)
{
	lora_adapter *a = p->slot.adapter;
	if (p->how != LORA__CHOSEN || !make(a)) return; /* parts of a parameter share its tensors */
	const lora__ptensor *left = &a->tensors[p->tensor[1]], *right = &a->tensors[p->tensor[0]];
	pair->a = lora__view2(a->halves + left->offset, LORA_F16, left->shape[0], left->shape[1], 1);
	pair->a.stride[1] = LORA__FEW_ROWS;
	pair->b = lora__view2(a->halves + right->offset, LORA_F16, right->shape[0], right->shape[1], right->shape[1]);
	pair->f *= a->unhalve[p->tensor[0]] * a->unhalve[p->tensor[1]];
}
