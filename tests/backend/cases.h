/* Cases of primitive calls for the backend tests: buffers with guard bands, random contents, and an oracle in double for each. */
#ifndef TESTS_BACKEND_CASES_H
#define TESTS_BACKEND_CASES_H

#include "check_alloc.h"

#include "backend/backend.h"

enum { LAYOUT_ROWS, LAYOUT_PADDED, LAYOUT_COLUMNS, LAYOUT_STRIDED, N_LAYOUTS };

/* One array: bytes with 64 guard bytes on either side. mask marks the bytes of elements; for outputs want and mag hold what the oracle says
 * and the size of what was summed, both in the order [row, column]; f(eps * mag) bounds the error. */
typedef struct array { unsigned char *mem, *init, *mask; size_t bytes; int is_out; double *want, *mag; } array;

typedef struct test_case {
	lora_call call;
	array     a[12];
	char      what[160];
	uint64_t  seed;
} test_case;

/* New view number i: random values in [-1, 1) scaled by size. rows or cols may be 0. out: the guard, the mask and the oracle's arrays are made. */
void case_view(test_case *t, int i, lora_dtype type, int64_t rows, int64_t cols, int layout, double size, int is_out);
void case_ids(test_case *t, int i, int64_t n, int64_t limit, int negative); /* I32 ids 0 .. limit-1; negative: some below 0 */
void case_free(test_case *t);
void case_reset(test_case *t);                /* bring every array back to its first contents */
void case_poison(test_case *t, int i);        /* the first contents of view i become NaN */
double case_get(const test_case *t, int i, int64_t r, int64_t c);          /* first contents */
double case_now(const test_case *t, int i, int64_t r, int64_t c);          /* present contents */
void case_want(test_case *t, int i, int64_t r, int64_t c, double want, double mag);

/* Fill t with variant number v of primitive prim for activations of dtype real; 0 when there is no such variant. The oracle has run. */
int case_make(test_case *t, lora_prim prim, lora_dtype real, int v);

/* Compare the present contents with the oracle's and look at guards, gaps and inputs. Returns 1, or 0 with a message in why. */
int case_verify(const test_case *t, lora_dtype real, char *why, size_t size);

/* Backends other than naive may round a B of F32 to BF16 where A is BF16: the bounds of cases made while this is 1 allow that. */

/* Oracles by group. */
int case_linear(test_case *t, lora_prim prim, lora_dtype real, int v);
int case_neural(test_case *t, lora_prim prim, lora_dtype real, int v);
int case_route(test_case *t, lora_prim prim, lora_dtype real, int v);
int case_attention(test_case *t, lora_prim prim, lora_dtype real, int v);

static inline double case_random(test_case *t) { return (double)(check_random(&t->seed) >> 11) * 0x1p-52 - 1; }

#endif
