/* ATTENTION and its gradient for BF16 with BF16 instructions, on AMX tiles or in vector registers: strips of 32 queries against units of 32 keys. Keys
 * and values are packed once per key head and call. Same algorithms as naive_attention.inc, but probabilities and their gradients are rounded to BF16
 * before they are multiplied, as FlashAttention does (Dao 2023, arXiv:2307.08691). Sums, softmax, lse and the sums of dk, dv and dq are F32.
 * The backward computes scores by key, S^T = K Q^T and dP^T = V dO^T: so P^T and dS^T come out as the tile products for dV += P^T dO and dK += dS^T Q
 * read them, and dS^T with its rows in pairs as the one for dQ^T += K^T dS^T does. Nothing is transposed but Q, dO and dQ, once each. Several
 * strips, of all query heads that share a key head, go through the keys together, so that the sums are loaded and stored once for all of them. */
#include "backend/naive/naive_block.h"
#include "backend/naive/naive_attention.h"

#ifdef NAIVE_BLOCKS

#define F(name) name##_block
#define REAL float
#define ACT uint16_t
#define ACT_TYPE LORA_BF16
#define ACT_IS_BF16 1
#define REAL_IS_DOUBLE 0
#define TARGET AMX
#define VB 64
#define MR 12
#define NV 2
#include "backend/naive/naive_vec.inc"

/* Parts of the order of sums. */
enum {
	KEYS = 128,              /* forward: keys of a block, a multiple of 32 */
	TURN = 8,                /* keys of it whose exponentials are taken while four tile products run */
	SLACK = 16,              /* exponentials of the forward may be this large, e^16 */
	STRIPS = 6,              /* backward: strips of queries that go through the keys together ... */
	UNITS = 4,               /* ... and units of keys after which dq is added up */
	ROW = STRIPS * SIDE      /* a row of P^T */
};
#define SMALL AMX __attribute__((noinline)) /* called from several places */
static const float log2e = 1.44269504f;

/* What vector units do while tile products run: step() once for every four of them, as long as at < end. */
typedef struct aside { void (*step)(struct aside *); int64_t at, end; } aside;

/* Forward: a strip of queries, and a block of its scores, by key. Probabilities are written as second operands. */
typedef struct strip_state { _Alignas(64) float top[SIDE], sum[SIDE]; int64_t i, n, fresh; } strip_state;
typedef struct block {
	aside a;
	_Alignas(64) float s[KEYS * SIDE], from[SIDE], factor[SIDE];
	_Alignas(64) uint16_t p[KEYS * SIDE];
	strip_state *t;
	int64_t units, unit, strip, other; /* other: some factor is not 1 */
	float scale;
} block;

/* A thread's scratch: the forward's, the backward's. */
typedef struct work { block b[2]; strip_state t[ATTN_TQ / SIDE]; _Alignas(64) uint16_t rows[BLOCK], turned[BLOCK]; } work;
typedef struct grads {
	_Alignas(64) float s[BLOCK], dp[BLOCK], lse[ROW], delta[ROW];
	_Alignas(64) uint16_t p[SIDE * ROW], ds[SIDE * ROW], pairs[STRIPS * UNITS * BLOCK], rows[BLOCK];
} grads;

static int64_t up(int64_t n) { return (n + SIDE - 1) / SIDE * SIDE; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static size_t line(size_t n) { return (n + 63) & ~(size_t)63; }
static size_t work_bytes(void) { return line(sizeof(work) > sizeof(grads) ? sizeof(work) : sizeof(grads)); }

/* Behind the work area. Forward: Q of all strips as second operands along the head's elements, and their sums, O^T [strip][w][32]. Backward: Q and dO of all strips as second operands, along the head's
 * elements [strip][w/32][2 tiles] and along the queries [w/32][strip][2 tiles], and dQ^T [strip][w][32]. */
enum { PART_Q, PART_DOUT, PART_QN, PART_DOUTN, PART_O, PARTS };
static size_t part_bytes(int64_t w, int which) { return line((size_t)(STRIPS * SIDE * w) * (which == PART_O ? 4 : 2)); }
static void *part(const attn_job *j, char *scratch, int which)
{
	size_t at = work_bytes();
	for (int i = 0; i < which; i++) at += part_bytes(j->dp, i);
	return scratch + at;
}

void lora__attn_block_layout(attn_job *j, int backward)
{
	j->dp = up(j->d);
	j->per_thread = work_bytes() + 4096;
	for (int i = 0; i < PARTS; i++) j->per_thread += part_bytes(j->dp, i);
	j->packings = backward ? 3 : 2;
	static const int of_few[] = { AT_O, AT_QT, AT_K, AT_V }; /* attn_few() works in the same scratch, its scores at 0 */
	size_t few = line(ATTN_TK * sizeof(float)), row = line((size_t)j->d * sizeof(float));
	for (int i = 0; i < 4; i++) j->at[of_few[i]] = few, few += i < 2 ? row : ATTN_TK * row;
	if (j->per_thread < few) j->per_thread = few;
}

size_t lora__attn_block_bytes(const attn_job *j, int64_t units) { return (size_t)(j->packings * j->kv * units * SIDE * j->dp) * 2; }

/* 32 elements of n <= 32 rows of one head from element x on, step apart; zeros beyond the head and the rows. */
SMALL static void load_rows(uint16_t *to, int64_t step, const lora_view *v, int64_t row, int64_t n, int64_t head, int64_t d, int64_t x)
{
	const __mmask32 in = lora__first32(d - x);
	const uint16_t *from = lora__at(v, row, head * d + x);
	for (int64_t r = 0; r < n; r++, to += step, from += v->stride[0]) _mm512_storeu_si512(to, _mm512_maskz_loadu_epi16(in, from));
	for (int64_t r = n; r < SIDE; r++, to += step) _mm512_storeu_si512(to, _mm512_setzero_si512());
}

SMALL static void fetch(const void *from, int64_t bytes)
{
	for (int64_t x = 0; x < bytes; x += 64) _mm_prefetch((const char *)from + x, _MM_HINT_T1);
	__asm__ volatile(""); /* or the compiler takes the function for one without effect, and leaves its calls out */
}

/* Ask for what n rows of a head hold. */
SMALL static void fetch_rows(const lora_view *v, int64_t row, int64_t n, int64_t head, int64_t d)
{
	const uint16_t *from = lora__at(v, row, head * d);
	for (int64_t r = 0; r < n; r++, from += v->stride[0]) fetch(from, d * 2);
}

/* 32 x 32 elements as two tiles of a second operand, along the rows and across them; transposed. */
SMALL static void turned(uint16_t *to, const uint16_t *rows) { lora__block_turn_step(to, rows, SIDE, 0); }
SMALL static void paired(uint16_t *to, const uint16_t *rows) { interleave_step(to, 0, rows, SIDE, 1, 0); }
SMALL static void transposed(uint16_t *to, const uint16_t *rows, int64_t step) { transpose_block(to, SIDE, rows, step); }

/* Packed form which of a key head, of each unit of 32 keys. Rows of 0 keys [unit][32][w]; forward: 1 values transposed [unit][w][32];
 * backward: 1 rows of values, 2 keys transposed. */
static uint16_t *packing(const attn_job *j, int which, int64_t kv)
{
	return (uint16_t *)(void *)j->packed + (which * j->kv + kv) * j->units * SIDE * j->dp;
}

/* Task: (key head, unit of 32 keys of a segment). The sums of these keys may start here too. */
AMX static void pack(void *arg, int64_t task, int32_t thread)
{
	const attn_job *j = arg;
	int64_t unit = task % j->units, kv = task / j->units, w = j->dp, steps = w / SIDE, lo = 0, hi = j->n_seg;
	(void)thread;
	while (hi - lo > 1) {
		int64_t mid = (lo + hi) / 2;
		if (j->seg[mid].unit0 <= unit) lo = mid;
		else hi = mid;
	}
	const attn_seg *g = &j->seg[lo];
	int64_t first = (unit - g->unit0) * SIDE, n = least(SIDE, g->keys - first), at = unit * SIDE * w;
	_Alignas(64) uint16_t rows[BLOCK];
	if (n <= 0) return;
	for (int64_t p = 0; p < j->parts && j->clear; p++)
		memset((float *)(void *)j->sums + ((kv * j->parts + p) * j->k.size[0] + g->k0 + first) * 2 * w, 0, sizeof(float) * (size_t)(n * 2 * w));
	for (int64_t s = 0; s < steps; s++) {
		uint16_t *k = packing(j, 0, kv) + at + s * SIDE, *v = packing(j, 1, kv) + at;
		int back = j->packings == 3;
		load_rows(k, w, &j->k, g->k0 + first, n, kv, j->d, s * SIDE);
		load_rows(back ? v + s * SIDE : rows, back ? w : SIDE, &j->v, g->k0 + first, n, kv, j->d, s * SIDE);
		transposed((back ? packing(j, 2, kv) + at : v) + s * BLOCK, back ? k : rows, back ? w : SIDE);
	}
}

lora_task_fn lora__attn_block_pack(void) { return pack; }

#define FETCH1 do { _mm_prefetch(next, _MM_HINT_T0); next += line_step; } while (0)
#define FETCH8 do { FETCH1; FETCH1; FETCH1; FETCH1; FETCH1; FETCH1; FETCH1; FETCH1; } while (0)

/* Tiles 0 to 3 += the products of steps of a, a_step apart with rows stride apart, and of b. What lies ahead of a, or the block behind b (0), with
 * which most callers go on, is fetched meanwhile, and the vector units work aside (may be NULL). */
AMX static void products(const uint16_t *a, int64_t stride, int64_t a_step, const uint16_t *b, int64_t steps, int64_t ahead, aside *more)
{
	int64_t line_step = ahead ? stride * 2 : 64;
	for (int64_t i = 0; i < steps; i++, a += a_step, b += BLOCK) {
		const char *next = (const char *)(ahead ? a + ahead : b + BLOCK);
		_tile_loadd(4, a, stride * 2);
		_tile_loadd(6, b, 64);
		FETCH8;
		_tile_loadd(7, b + TILE, 64);
		_tile_dpbf16ps(0, 4, 6);
		FETCH8;
		_tile_loadd(5, a + 16 * stride, stride * 2);
		_tile_dpbf16ps(1, 4, 7);
		FETCH8;
		_tile_dpbf16ps(2, 5, 6);
		FETCH8;
		_tile_dpbf16ps(3, 5, 7);
		if (more && more->at < more->end) more->step(more);
	}
}

/* s[32][s_step] (+)= the same. */
AMX static void add(const attn_job *j, float *s, int64_t s_step, int fresh, const uint16_t *a, int64_t stride, int64_t a_step, const uint16_t *b, int64_t steps, int64_t ahead, aside *more)
{
	if (!j->tiles) {
		const strip t = { (const char *)a, stride * 2, b, steps, 0, NULL, 0 };
		lora__block_add(s, s_step, fresh, &t, a_step * 2, 0, SIDE, SIDE);
		return;
	}
	if (fresh) zero_sums();
	else load_sums(s, s_step);
	products(a, stride, a_step, b, steps, ahead, more);
	store_sums(s, s_step);
}

/* 2^x to 2^-13.7, for what is rounded to BF16, or (sums: lse) to 2^-23.7; 0 where in is not set; NaN stays NaN. The polynomials are minimax fits of
 * 2^r, 0 <= r < 1. */
AMX static inline __m512 exp2_16(__mmask16 in, __m512 x, int sums)
{
	__m512 r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC), p = _mm512_set1_ps(sums ? 1.8775767e-3f : 7.802452e-2f);
	if (sums) p = _mm512_fmadd_ps(_mm512_fmadd_ps(p, r, _mm512_set1_ps(8.98934e-3f)), r, _mm512_set1_ps(5.5826318e-2f));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(sums ? 2.4015361e-1f : 2.2606716e-1f));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(sums ? 6.931531e-1f : 6.9583356e-1f));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(sums ? 9.9999994e-1f : 9.999252e-1f));
	return _mm512_maskz_scalef_ps(in, p, x); /* p 2^floor(x) */
}

/* Scale, cap and mask n scores of query i (of the segment) against keys from k0 on, or of queries from i on against key k0: dq, dk are the steps
 * of both. dcap (may be NULL) gets the cap's derivative; what is not seen becomes -infinity. */
SMALL static void finish_row(const attn_job *j, const attn_seg *g, int64_t i, int64_t di, int64_t k0, int64_t dk, int64_t n, float *s, float *dcap)
{
	for (int64_t x = 0; x < n; x++) s[x] *= (float)j->scale;
	if (j->cap > 0) {
		float cap = (float)j->cap, inv = 1 / cap;
		for (int64_t x = 0; x < n; x++) {
			float t = F(tanhr)(s[x] * inv);
			s[x] = cap * t;
			if (dcap) dcap[x] = 1 - t * t;
		}
	}
	for (int64_t x = 0; x < n && j->window; x++)
		if (!attn_sees(j, g, i + x * di, k0 + x * dk)) s[x] = -INFINITY;
}

/* 1 when finish_row() must see to scores of queries i .. i+ni-1 against keys k .. k+nk-1: not only scaled and cut off where causal. */
AMX static inline int special(const attn_job *j, const attn_seg *g, int64_t i, int64_t ni, int64_t k, int64_t nk)
{
	int64_t self = g->keys - g->queries + i;
	if (j->cap > 0 || !(j->scale > 0)) return 1;
	return j->window && (j->columns || self + ni - 1 - k >= j->window || (!j->causal && k + nk - 1 - self >= j->window));
}

/* ---- Forward ---- */

/* Keys of the block from k0 that some query i0 .. i0+n-1 sees. */
static int64_t depth(const attn_job *j, const attn_seg *g, int64_t i0, int64_t n, int64_t k0, int64_t most)
{
	int64_t all = least(most, g->keys - k0), seen = g->keys - g->queries + i0 + n - k0;
	return j->causal && seen < all ? seen : all;
}

/* Before the first step of a block: the reference is the largest score of the first block, and a later one's only when that is SLACK larger, so that
 * what was summed so far must hardly ever be multiplied with a factor. */
AMX static void begin(block *b)
{
	strip_state *t = b->t;
	const __m512 by = _mm512_set1_ps(log2e);
	b->other = 0;
	for (int h = 0; h < SIDE; h += 16) {
		__m512 most = _mm512_set1_ps(-INFINITY), more = most, old = _mm512_load_ps(t->top + h);
		for (const float *s = b->s + h, *end = s + b->units * BLOCK; s < end; s += 2 * SIDE)
			most = _mm512_max_ps(most, _mm512_load_ps(s)), more = _mm512_max_ps(more, _mm512_load_ps(s + SIDE));
		__m512 here = _mm512_mul_ps(_mm512_max_ps(most, more), _mm512_set1_ps(b->scale));
		__mmask16 new = _mm512_cmp_ps_mask(here, _mm512_add_ps(old, _mm512_set1_ps(SLACK)), _CMP_GT_OQ);
		__m512 top = _mm512_mask_mov_ps(old, new, here);
		__m512 from = _mm512_maskz_mul_ps(_mm512_cmp_ps_mask(top, _mm512_set1_ps(-INFINITY), _CMP_NEQ_UQ), top, by);
		__m512 factor = _mm512_mask_mov_ps(_mm512_set1_ps(1), new, exp2_16(0xffff, _mm512_fmsub_ps(by, old, from), 1));
		_mm512_store_ps(b->from + h, from);
		_mm512_store_ps(b->factor + h, factor);
		_mm512_store_ps(t->top + h, top);
		_mm512_store_ps(t->sum + h, _mm512_mul_ps(_mm512_load_ps(t->sum + h), factor));
		b->other |= new;
	}
}

static inline __attribute__((always_inline)) AMX __m512i pair_order(void)
{
	return _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
}

/* p = exp(scale s - top) as BF16 of TURN keys, and their sum. */
AMX static void weights(aside *a)
{
	block *b = (block *)(void *)a;
	if (a->at < 0) begin(b);
	else {
		const __m512 by = _mm512_set1_ps(b->scale * log2e);
		for (int h = 0; h < SIDE; h += 16) {
			const float *s = b->s + a->at * SIDE + h;
			uint16_t *p = b->p + a->at / SIDE * BLOCK + h / 16 * TILE + a->at % SIDE * 16;
			const __m512 from = _mm512_load_ps(b->from + h);
			__m512 sum = _mm512_load_ps(b->t->sum + h), rest = _mm512_setzero_ps();
			for (int k = 0; k < TURN; k += 2, s += 2 * SIDE, p += 32) {
				__m512 e = exp2_16(0xffff, _mm512_fmsub_ps(by, _mm512_load_ps(s), from), 1), f = exp2_16(0xffff, _mm512_fmsub_ps(by, _mm512_load_ps(s + SIDE), from), 1);
				sum = _mm512_add_ps(sum, e), rest = _mm512_add_ps(rest, f);
				_mm512_store_si512(p, _mm512_permutexvar_epi16(pair_order(), (__m512i)_mm512_cvtne2ps_pbh(f, e)));
			}
			_mm512_store_ps(b->t->sum + h, _mm512_add_ps(sum, rest));
		}
	}
	a->at += TURN;
}

SMALL static void finish_aside(aside *a)
{
	while (a->at < a->end) a->step(a);
}

/* O^T [w][32] of a block's strip (+)= V^T P, its weights ready; of the next block meanwhile. */
AMX static void weigh(const attn_job *j, block *b, int64_t kv, float *o, aside *next)
{
	int64_t w = j->dp;
	finish_aside(&b->a);
	o += b->strip * SIDE * w;
	for (int64_t x = 0; x < SIDE * w && b->other && !b->t->fresh; x += 16) _mm512_store_ps(o + x, _mm512_mul_ps(_mm512_load_ps(o + x), _mm512_load_ps(b->factor + x % SIDE)));
	for (int64_t y = 0; y < SIDE * w; y += BLOCK)
		add(j, o + y, SIDE, b->t->fresh != 0, packing(j, 1, kv) + b->unit * SIDE * w + y, SIDE, SIDE * w, b->p, b->units, SIDE * w, next);
	b->t->fresh = 0;
}

/* Scores of a block of n keys from k0 on; what is not seen, and keys behind the last, become -infinity. */
AMX static void scores(const attn_job *j, const attn_seg *g, block *b, int64_t kv, int64_t k0, int64_t n, const uint16_t *q, aside *before)
{
	const strip_state *t = b->t;
	int64_t w = j->dp, self = g->keys - g->queries + t->i;
	b->units = up(n) / SIDE, b->unit = g->unit0 + k0 / SIDE;
	for (int64_t u = 0; u < b->units; u++)
		add(j, b->s + u * BLOCK, SIDE, 1, packing(j, 0, kv) + (b->unit + u) * SIDE * w, w, SIDE, q + b->strip * SIDE * w, w / SIDE, SIDE * w, before);
	int hard = special(j, g, t->i, t->n, k0, n);
	b->scale = hard ? 1 : (float)j->scale;
	for (int64_t k = 0; k < n && hard; k++) finish_row(j, g, t->i, 1, k0 + k, 0, t->n, b->s + k * SIDE, NULL);
	for (int64_t k = j->causal ? least(n, self - k0 + 1 > 0 ? self - k0 + 1 : 0) : n; k < b->units * SIDE; k++) {
		uint32_t out = k >= n || k0 + k - self >= SIDE ? ~0u : ((uint32_t)1 << (k0 + k - self)) - 1; /* queries before the key's own */
		_mm512_mask_store_ps(b->s + k * SIDE, (__mmask16)out, _mm512_set1_ps(-INFINITY));
		_mm512_mask_store_ps(b->s + k * SIDE + 16, (__mmask16)(out >> 16), _mm512_set1_ps(-INFINITY));
	}
	b->a = (aside){ weights, -TURN, b->units * SIDE };
}

/* Q (or dO) of a strip as second operands along the head's elements. */
AMX static void turn_rows(const attn_job *j, const lora_view *v, int64_t row, int64_t n, int64_t head, uint16_t *rows, uint16_t *to)
{
	for (int64_t x = 0; x < j->dp; x += SIDE, to += BLOCK) {
		load_rows(rows, SIDE, v, row, n, head, j->d, x);
		turned(to, rows);
	}
}

/* n rows of a head from its transposed sums [w][32] times scale, one for each row. */
AMX static void write_rows(const attn_job *j, const lora_view *v, int64_t row, int64_t n, int64_t head, const float *from, const float *scale, uint16_t *rows, uint16_t *turned_rows)
{
	for (int64_t x = 0; x < j->d; x += SIDE, from += BLOCK) {
		uint16_t *y = lora__at(v, row, head * j->d + x);
		for (int64_t r = 0; r < BLOCK; r += 16) lora__store16(rows + r, 0xffff, _mm512_mul_ps(_mm512_loadu_ps(scale + r % SIDE), _mm512_load_ps(from + r)));
		transposed(turned_rows, rows, SIDE);
		for (int64_t r = 0; r < n; r++, y += v->stride[0]) _mm512_mask_storeu_epi16(y, lora__first32(j->d - x), _mm512_load_si512(turned_rows + r * SIDE));
	}
}

AMX void lora__attn_block_tile(const attn_job *j, const attn_seg *g, int64_t head, int64_t i0, char *scratch)
{
	work *t = (work *)(void *)scratch;
	uint16_t *q = part(j, scratch, PART_Q);
	float *o = part(j, scratch, PART_O);
	int64_t w = j->dp, kv = head / (j->heads / j->kv), n = (least(ATTN_TQ, g->queries - i0) + SIDE - 1) / SIDE;
	block *last = NULL, *b = t->b;
	if (j->tiles) _tile_loadconfig(&tiles);
	fetch_rows(&j->q, g->q0 + i0, least(ATTN_TQ, g->queries - i0), head, j->d);
	for (int64_t i = 0; i < n; i++) {
		strip_state *s = &t->t[i];
		for (int r = 0; r < SIDE; r++) s->top[r] = -INFINITY, s->sum[r] = 0;
		s->i = i0 + i * SIDE, s->n = least(SIDE, g->queries - s->i), s->fresh = 1;
		turn_rows(j, &j->q, g->q0 + s->i, s->n, head, t->rows, q + i * SIDE * w);
	}
	for (int64_t k0 = 0; k0 < g->keys; k0 += KEYS)
		for (int64_t i = 0; i < n; i++) {
			int64_t seen = depth(j, g, t->t[i].i, t->t[i].n, k0, KEYS);
			if (seen <= 0 || !attn_block_seen(j, g, t->t[i].i, t->t[i].i + t->t[i].n, k0, k0 + seen)) continue;
			b->t = &t->t[i], b->strip = i;
			scores(j, g, b, kv, k0, seen, q, last ? &last->a : NULL);
			if (last) weigh(j, last, kv, o, &b->a);
			last = b, b = b == t->b ? t->b + 1 : t->b;
		}
	fetch_rows(&j->out, g->q0 + i0, least(ATTN_TQ, g->queries - i0), head, j->d);
	if (last) weigh(j, last, kv, o, NULL);
	for (int64_t i = 0; i < n; i++) {
		strip_state *s = &t->t[i];
		for (int r = 0; r < s->n; r++) *(float *)lora__at(&j->lse, g->q0 + s->i + r, head) = s->sum[r] == 0 ? -INFINITY : s->top[r] + logf(s->sum[r]);
		for (int r = 0; r < SIDE; r++) s->sum[r] = s->sum[r] == 0 ? 0 : 1 / s->sum[r];
		if (s->fresh) memset(o + i * SIDE * w, 0, sizeof *o * (size_t)(SIDE * w));
		write_rows(j, &j->out, g->q0 + s->i, s->n, head, o + i * SIDE * w, s->sum, t->rows, t->turned);
	}
	if (j->tiles) _tile_release();
}

/* ---- Backward ---- */

/* A strip of queries: 32 of one head, from i on; keys: how many some of them sees. */
typedef struct queries { int64_t head, i, n, keys; } queries;

/* Q and dO of strip number at as second operands; lse (in powers of two; +infinity: nothing is seen) and delta. */
AMX static void load_strip(const attn_job *j, const attn_seg *g, const queries *q, int64_t at, char *scratch)
{
	grads *t = (grads *)(void *)scratch;
	int64_t w = j->dp, d = j->d, row = g->q0 + q->i;
	for (int which = 0; which < 2; which++)
		for (int64_t x = 0; x < w; x += SIDE) {
			load_rows(t->rows, SIDE, which ? &j->dout : &j->q, row, q->n, q->head, d, x);
			turned((uint16_t *)part(j, scratch, which ? PART_DOUT : PART_Q) + at * SIDE * w + x * SIDE, t->rows);
			paired((uint16_t *)part(j, scratch, which ? PART_DOUTN : PART_QN) + (x * STRIPS + at * SIDE) * SIDE, t->rows);
		}
	memset((float *)part(j, scratch, PART_O) + at * SIDE * w, 0, sizeof(float) * (size_t)(SIDE * w));
	const uint16_t *dout = lora__at(&j->dout, row, q->head * d), *out = lora__at(&j->out, row, q->head * d);
	const float *lse = lora__at(&j->lse, row, q->head);
	for (int64_t r = 0; r < SIDE; r++) {
		float l = r < q->n ? lse[r * j->lse.stride[0]] : -INFINITY;
		__m512 sum = _mm512_setzero_ps();
		for (int64_t x = 0; x < d && r < q->n; x += 16) {
			__mmask16 in = lora__first16(d - x);
			sum = _mm512_fmadd_ps(lora__load16(dout + r * j->dout.stride[0] + x, in), lora__load16(out + r * j->out.stride[0] + x, in), sum);
		}
		t->lse[at * SIDE + r] = l == -INFINITY ? INFINITY : l * log2e;
		t->delta[at * SIDE + r] = _mm512_reduce_add_ps(sum);
	}
}

/* P^T and dS^T of keys k0 .. k0+31 and strip number at, from S^T and dP^T; dS^T also in pairs of rows. */
AMX static void grad_block(const attn_job *j, const attn_seg *g, grads *t, const queries *q, int64_t at, int64_t k0, uint16_t *pairs)
{
	int64_t n = least(SIDE, g->keys - k0), behind = j->causal ? k0 - (g->keys - g->queries + q->i) : -SIDE;
	int hard = special(j, g, q->i, q->n, k0, n);
	const __m512 by = _mm512_set1_ps(log2e * (hard ? 1 : (float)j->scale));
	float *s = t->s, *dp = t->dp, *delta = t->delta + at * SIDE, dcap[SIDE];
	uint16_t *p = t->p + at * SIDE, *ds = t->ds + at * SIDE;
	for (int64_t k = 0; k < n && hard; k++) {
		finish_row(j, g, q->i, 1, k0 + k, 0, q->n, s + k * SIDE, dcap);
		for (int64_t r = 0; r < q->n && j->cap > 0; r++) dp[k * SIDE + r] = (dp[k * SIDE + r] - delta[r]) * dcap[r];
	}
	const __mmask16 less = hard && j->cap > 0 ? 0 : 0xffff;
	const float *lse = t->lse + at * SIDE;
	const __m512 lse0 = _mm512_load_ps(lse), lse1 = _mm512_load_ps(lse + 16), d0 = _mm512_maskz_load_ps(less, delta), d1 = _mm512_maskz_load_ps(less, delta + 16);
	const __m512i lower = lower_pairs(), upper = _mm512_add_epi16(lower, _mm512_set1_epi16(16));
	__m512i even = lower;
	for (int64_t k = 0; k < SIDE; k++, s += SIDE, dp += SIDE, p += ROW, ds += ROW) {
		int64_t from = behind + k; /* the first query that sees the key */
		uint32_t in = k >= n || from >= SIDE ? 0 : from <= 0 ? ~0u : ~0u << from;
		__mmask16 in0 = (__mmask16)in, in1 = (__mmask16)(in >> 16);
		__m512 e = exp2_16(in0, _mm512_fmsub_ps(by, _mm512_load_ps(s), lse0), 0), f = exp2_16(in1, _mm512_fmsub_ps(by, _mm512_load_ps(s + 16), lse1), 0);
		_mm512_store_si512(p, (__m512i)_mm512_cvtne2ps_pbh(f, e));
		e = _mm512_maskz_mul_ps(in0, e, _mm512_sub_ps(_mm512_load_ps(dp), d0));
		f = _mm512_maskz_mul_ps(in1, f, _mm512_sub_ps(_mm512_load_ps(dp + 16), d1));
		__m512i row = (__m512i)_mm512_cvtne2ps_pbh(f, e);
		_mm512_store_si512(ds, row);
		if (k % 2) {
			_mm512_store_si512(pairs, _mm512_permutex2var_epi16(even, lower, row));
			_mm512_store_si512(pairs + TILE, _mm512_permutex2var_epi16(even, upper, row));
			pairs += 32;
		}
		even = row;
	}
}

/* sums[32][2w] of rows keys += P^T dO and dS^T Q; rows < 32: only these may be touched, the next ones are another segment's. */
AMX static void gather(const attn_job *j, grads *t, int64_t first, int64_t strips, int64_t rows, float *sums, char *scratch)
{
	int64_t w = j->dp;
	for (int64_t y = 0; y < 2 * w; y += SIDE) {
		int value = y >= w;
		const uint16_t *b = (uint16_t *)part(j, scratch, value ? PART_DOUTN : PART_QN) + ((value ? y - w : y) * STRIPS + first * SIDE) * SIDE;
		add(j, rows >= SIDE ? sums + y : t->s, rows >= SIDE ? 2 * w : SIDE, rows < SIDE, (value ? t->p : t->ds) + first * SIDE, ROW, SIDE, b, strips, 0, NULL);
		for (int64_t i = 0; i < rows * SIDE && rows < SIDE; i++) sums[i / SIDE * 2 * w + y + i % SIDE] += t->s[i];
	}
}

/* Strips of queries against all keys that they see. */
AMX static void strips_backward(const attn_job *j, const attn_seg *g, int64_t kv, const queries *q, int64_t n, float *sums, char *scratch)
{
	grads *t = (grads *)(void *)scratch;
	const uint16_t *qt = part(j, scratch, PART_Q), *dout = part(j, scratch, PART_DOUT);
	float *dq = part(j, scratch, PART_O);
	int64_t w = j->dp, keys = 0, size = SIDE * w;
	for (int64_t i = 0; i < n; i++) {
		const lora_view *of[] = { &j->q, &j->dout, &j->out };
		for (int v = 0; v < 3; v++) fetch_rows(of[v], g->q0 + q[i].i, q[i].n, q[i].head, j->d);
	}
	for (int64_t i = 0; i < n; i++) {
		load_strip(j, g, &q[i], i, scratch);
		if (q[i].keys > keys) keys = q[i].keys;
	}
	for (int64_t k0 = 0; k0 < keys; k0 += UNITS * SIDE) {
		int64_t from[STRIPS], to[STRIPS] = { 0 };
		for (int64_t u = 0, k = k0; u < UNITS && k < keys; u++, k += SIDE) {
			int64_t first = n, end = 0;
			const uint16_t *at = packing(j, 0, kv) + (g->unit0 * SIDE + k) * w, *values = packing(j, 1, kv) + (g->unit0 * SIDE + k) * w;
			for (int64_t i = 0; i < n; i++) {
				if (k >= q[i].keys || !attn_block_seen(j, g, q[i].i, q[i].i + q[i].n, k, least(k + SIDE, g->keys))) continue;
				if (k + SIDE < keys) {
					int64_t some = up(2 * size / n), x = i * some;
					fetch(sums + (k + SIDE) * 2 * w + x, least(some, 2 * size - x) * 4);
				}
				add(j, t->s, SIDE, 1, at, w, SIDE, qt + i * size, w / SIDE, 0, NULL);
				add(j, t->dp, SIDE, 1, values, w, SIDE, dout + i * size, w / SIDE, 0, NULL);
				grad_block(j, g, t, &q[i], i, k, t->pairs + (i * UNITS + u) * BLOCK);
				if (!to[i]) from[i] = u;
				to[i] = u + 1, end = i + 1;
				if (first == n) first = i;
			}
			if (first < end) gather(j, t, first, end - first, g->keys - k, sums + k * 2 * w, scratch);
		}
		for (int64_t i = 0; i < n && k0 + UNITS * SIDE >= keys; i++) fetch_rows(&j->dq, g->q0 + q[i].i, q[i].n, q[i].head, j->d);
		for (int64_t i = 0; i < n; i++)
			for (int64_t y = 0; y < size && to[i]; y += BLOCK)
				add(j, dq + i * size + y, SIDE, 0, packing(j, 2, kv) + (g->unit0 * SIDE + k0 + from[i] * SIDE) * w + y, SIDE, size, t->pairs + (i * UNITS + from[i]) * BLOCK, to[i] - from[i], 0, NULL);
	}
	const __m512 scale = _mm512_set1_ps((float)j->scale);
	for (int64_t i = 0; i < n; i++)
		for (int64_t x = 0; x < j->d; x += SIDE) {
			const float *from = dq + i * size + x * SIDE;
			uint16_t *y = lora__at(&j->dq, g->q0 + q[i].i, q[i].head * j->d + x);
			for (int64_t r = 0; r < BLOCK; r += 16) lora__store16(t->rows + r, 0xffff, _mm512_mul_ps(scale, _mm512_load_ps(from + r)));
			transposed(t->ds, t->rows, SIDE);
			for (int64_t r = 0; r < q[i].n; r++, y += j->dq.stride[0]) _mm512_mask_storeu_epi16(y, lora__first32(j->d - x), _mm512_load_si512(t->ds + r * SIDE));
		}
}

/* Part number part of a kv head's queries in a segment, all heads of one strip of queries after the other; cut where the cost so far passes an
 * even share. */
AMX void lora__attn_block_part(const attn_job *j, const attn_seg *g, int64_t kv, int64_t number, float *sums, char *scratch)
{
	int64_t group = j->heads / j->kv, all = 0, before = 0, n = 0;
	queries q[STRIPS];
	if (j->tiles) _tile_loadconfig(&tiles);
	for (int64_t i = 0; i < g->queries; i += SIDE) all += group * depth(j, g, i, least(SIDE, g->queries - i), 0, g->keys);
	for (int64_t i = 0; i < g->queries; i += SIDE)
		for (int64_t h = 0; h < group; h++) {
			q[n] = (queries){ kv * group + h, i, least(SIDE, g->queries - i), depth(j, g, i, least(SIDE, g->queries - i), 0, g->keys) };
			int64_t mine = before * j->parts / (all ? all : 1) == number;
			before += q[n].keys, n += mine;
			if (n == STRIPS || (n && !mine)) strips_backward(j, g, kv, q, n, sums, scratch), n = 0;
		}
	if (n) strips_backward(j, g, kv, q, n, sums, scratch);
	if (j->tiles) _tile_release();
}

/* Task: (key head, ATTN_ROWS key rows): dk and dv from the parts' sums. */
AMX static void finish(void *arg, int64_t task, int32_t thread)
{
	const attn_job *j = arg;
	int64_t keys = j->k.size[0], blocks = (keys + ATTN_ROWS - 1) / ATTN_ROWS, r0 = task % blocks * ATTN_ROWS, kv = task / blocks, w = j->dp;
	(void)thread;
	for (int64_t r = r0; r < least(r0 + ATTN_ROWS, keys); r++)
		for (int value = 0; value < 2; value++) {
			const float *from = (const float *)(const void *)j->sums + (kv * j->parts * keys + r) * 2 * w + value * w;
			uint16_t *to = lora__at(value ? &j->dv : &j->dk, r, kv * j->d);
			const __m512 scale = _mm512_set1_ps(value ? 1 : (float)j->scale);
			for (int64_t x = 0; x < j->d; x += 16) {
				__m512 sum = _mm512_load_ps(from + x);
				for (int64_t p = 1; p < j->parts; p++) sum = _mm512_add_ps(sum, _mm512_load_ps(from + p * keys * 2 * w + x));
				lora__store16(to + x, lora__first16(j->d - x), _mm512_mul_ps(sum, scale));
			}
		}
}

lora_task_fn lora__attn_block_finish(void) { return finish; }

#else

lora_task_fn lora__attn_block_finish(void) { return NULL; }
void   lora__attn_block_layout(attn_job *j, int backward) { (void)j, (void)backward; }
size_t lora__attn_block_bytes(const attn_job *j, int64_t units) { return (void)j, (void)units, 0; }
lora_task_fn lora__attn_block_pack(void) { return NULL; }
void   lora__attn_block_tile(const attn_job *j, const attn_seg *g, int64_t head, int64_t i0, char *scratch) { (void)j, (void)g, (void)head, (void)i0, (void)scratch; }
void   lora__attn_block_part(const attn_job *j, const attn_seg *g, int64_t kv, int64_t number, float *sums, char *scratch)
{
	(void)j, (void)g, (void)kv, (void)number, (void)sums, (void)scratch;
}
#endif
