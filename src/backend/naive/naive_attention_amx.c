/* ATTENTION and its gradient for BF16 on AMX tiles: strips of 32 queries against units of 32 keys. Keys and values are packed once per key head and
 * call. Same algorithms as naive_attention.inc, but probabilities and their gradients are rounded to BF16 before they are multiplied, as FlashAttention
 * does (Dao 2023, arXiv:2307.08691). Sums, softmax, lse and the sums of dk, dv and dq are F32.
 * The backward computes scores by key, S^T = K Q^T and dP^T = V dO^T: so P^T and dS^T come out as the tile products for dV += P^T dO and dK += dS^T Q
 * read them, and dS^T with its rows in pairs as the one for dQ^T += K^T dS^T does. Nothing is transposed but Q, dO and dQ, once each. Several
 * strips, of all query heads that share a key head, go through the keys together, so that the sums are loaded and stored once for all of them. */
#include "backend/naive/naive_amx.h"
#include "backend/naive/naive_attention.h"

#ifdef NAIVE_AMX

#define F(name) name##_amx
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
	KEYS = 256,              /* forward: keys of a block, a multiple of 32; a strip works in the nearer caches */
	STRIPS = 6,              /* backward: strips of queries that go through the keys together ... */
	UNITS = 4,               /* ... and units of keys after which dq is added up */
	ROW = STRIPS * SIDE      /* a row of P^T */
};
#define SMALL AMX __attribute__((noinline)) /* called from several places */
static const float log2e = 1.44269504f;

/* A thread's scratch: the forward's, the backward's. */
typedef struct work {
	_Alignas(64) float s[SIDE * KEYS];
	_Alignas(64) uint16_t p[SIDE * KEYS];
	float top[SIDE], sum[SIDE];
} work;
typedef struct grads {
	_Alignas(64) float s[BLOCK], dp[BLOCK], lse[ROW], delta[ROW];
	_Alignas(64) uint16_t p[SIDE * ROW], ds[SIDE * ROW], pairs[STRIPS * UNITS * BLOCK], rows[BLOCK];
} grads;

static int64_t up(int64_t n) { return (n + SIDE - 1) / SIDE * SIDE; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static size_t line(size_t n) { return (n + 63) & ~(size_t)63; }
static size_t work_bytes(void) { return line(sizeof(work) > sizeof(grads) ? sizeof(work) : sizeof(grads)); }

/* Behind the work area. Forward: q [32][w] and a strip of sums [32][w]. Backward: Q and dO of all strips as second operands, along the head's
 * elements [strip][w/32][2 tiles] and along the queries [w/32][strip][2 tiles], and dQ^T [strip][w][32]. */
enum { PART_Q, PART_DOUT, PART_QN, PART_DOUTN, PART_O, PARTS };
static size_t part_bytes(int64_t w, int which) { return line((size_t)(STRIPS * SIDE * w) * (which == PART_O ? 4 : 2)); }
static void *part(const attn_job *j, char *scratch, int which)
{
	size_t at = work_bytes();
	for (int i = 0; i < which; i++) at += part_bytes(j->dp, i);
	return scratch + at;
}

void lora__attn_amx_layout(attn_job *j, int backward)
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

size_t lora__attn_amx_bytes(const attn_job *j, int64_t units) { return (size_t)(j->packings * j->kv * units * SIDE * j->dp) * 2; }

/* 32 elements of n <= 32 rows of one head from element x on, step apart; zeros beyond the head and the rows. */
SMALL static void load_rows(uint16_t *to, int64_t step, const lora_view *v, int64_t row, int64_t n, int64_t head, int64_t d, int64_t x)
{
	const __mmask32 in = lora__first32(d - x);
	const uint16_t *from = lora__at(v, row, head * d + x);
	for (int64_t r = 0; r < n; r++, to += step, from += v->stride[0]) _mm512_storeu_si512(to, _mm512_maskz_loadu_epi16(in, from));
	for (int64_t r = n; r < SIDE; r++, to += step) _mm512_storeu_si512(to, _mm512_setzero_si512());
}

/* 32 x 32 elements as two tiles of a second operand, along the rows and across them; transposed. */
SMALL static void turned(uint16_t *to, const uint16_t *rows) { lora__amx_turn_step(to, rows, SIDE, 0); }
SMALL static void paired(uint16_t *to, const uint16_t *rows) { interleave_step(to, 0, rows, SIDE, 1, 0); }
SMALL static void transposed(uint16_t *to, const uint16_t *rows, int64_t step) { transpose_block(to, SIDE, rows, step); }

/* Packed form which of a key head, of each unit of 32 keys. Forward: 0 keys [unit][d/32][2 tiles] and 1 values [d/32][unit][2 tiles].
 * Backward: rows of 0 keys and 1 values [unit][32][w], 2 keys transposed [unit][w][32]. */
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
		if (j->packings == 3) {
			uint16_t *k = packing(j, 0, kv) + at + s * SIDE;
			load_rows(k, w, &j->k, g->k0 + first, n, kv, j->d, s * SIDE);
			load_rows(packing(j, 1, kv) + at + s * SIDE, w, &j->v, g->k0 + first, n, kv, j->d, s * SIDE);
			transposed(packing(j, 2, kv) + at + s * BLOCK, k, w);
		} else {
			load_rows(rows, SIDE, &j->k, g->k0 + first, n, kv, j->d, s * SIDE);
			turned(packing(j, 0, kv) + at + s * BLOCK, rows);
			load_rows(rows, SIDE, &j->v, g->k0 + first, n, kv, j->d, s * SIDE);
			paired(packing(j, 1, kv) + (s * j->units + unit) * BLOCK, rows);
		}
	}
}

lora_task_fn lora__attn_amx_pack(void) { return pack; }

#define FETCH1 do { _mm_prefetch(next, _MM_HINT_T0); next += 64; } while (0)
#define FETCH8 do { FETCH1; FETCH1; FETCH1; FETCH1; FETCH1; FETCH1; FETCH1; FETCH1; } while (0)

/* Tiles 0 to 3 += the products of steps of a, a_step apart with rows stride apart, and of b. The block behind b, with which most callers go on, is
 * fetched meanwhile. */
AMX static void products(const uint16_t *a, int64_t stride, int64_t a_step, const uint16_t *b, int64_t steps)
{
	for (int64_t i = 0; i < steps; i++, a += a_step, b += BLOCK) {
		const char *next = (const char *)(b + BLOCK);
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
	}
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

/* s[32][KEYS] = q[32][w] times the packed keys of n keys from unit on. */
AMX static void scores(const attn_job *j, float *s, const uint16_t *q, const uint16_t *keys, int64_t unit, int64_t n)
{
	for (int64_t x = 0; x < n; x += SIDE) {
		zero_sums();
		products(q, j->dp, SIDE, keys + (unit * SIDE + x) * j->dp, j->dp / SIDE);
		store_sums(s + x, KEYS);
	}
}

/* o[32][w] += p[32][KEYS] times the packed rows of n keys from unit on. */
AMX static void weigh(const attn_job *j, float *o, const uint16_t *p, const uint16_t *rows, int64_t unit, int64_t n)
{
	for (int64_t x = 0; x < j->dp; x += SIDE) {
		load_sums(o + x, j->dp);
		products(p, KEYS, SIDE, rows + (x / SIDE * j->units + unit) * BLOCK, up(n) / SIDE);
		store_sums(o + x, j->dp);
	}
}

/* Online softmax of one row of n scores yet to be multiplied with scale, p = exp(scale s - top) as BF16 up to all; what was summed so far is
 * multiplied with the factor that the new maximum asks for. */
AMX static void softmax_row(work *t, int64_t r, int64_t n, int64_t all, float scale, float *o, int64_t w)
{
	const __m512 none = _mm512_set1_ps(-INFINITY), by = _mm512_set1_ps(scale * log2e);
	__m512 most = none, more = none, sum = _mm512_setzero_ps(), rest = sum;
	const float *s = t->s + r * KEYS;
	int64_t x;
	for (x = 0; x < n; x += SIDE) {
		uint32_t in = lora__first32(n - x);
		most = _mm512_mask_max_ps(most, (__mmask16)in, most, _mm512_load_ps(s + x));
		more = _mm512_mask_max_ps(more, (__mmask16)(in >> 16), more, _mm512_load_ps(s + x + 16));
	}
	float old = t->top[r], here = _mm512_reduce_max_ps(_mm512_max_ps(most, more)) * scale, top = here > old ? here : old;
	const __m512 from = _mm512_set1_ps(top == -INFINITY ? 0 : top * log2e);
	for (x = 0; x < all; x += SIDE) {
		uint32_t in = lora__first32(n - x);
		__m512 e = exp2_16((__mmask16)in, _mm512_fmsub_ps(by, _mm512_load_ps(s + x), from), 1), f = exp2_16((__mmask16)(in >> 16), _mm512_fmsub_ps(by, _mm512_load_ps(s + x + 16), from), 1);
		sum = _mm512_add_ps(sum, e), rest = _mm512_add_ps(rest, f);
		_mm512_store_si512(t->p + r * KEYS + x, (__m512i)_mm512_cvtne2ps_pbh(f, e));
	}
	float factor = old == top ? 1 : old == -INFINITY ? 0 : F(expr)(old - top);
	t->sum[r] = t->sum[r] * factor + _mm512_reduce_add_ps(_mm512_add_ps(sum, rest));
	t->top[r] = top;
	for (x = 0; factor != 1 && x < w; x += 16) _mm512_store_ps(o + x, _mm512_mul_ps(_mm512_load_ps(o + x), _mm512_set1_ps(factor)));
}

/* Keys of the block from k0 that some query i0 .. i0+n-1 sees. */
static int64_t depth(const attn_job *j, const attn_seg *g, int64_t i0, int64_t n, int64_t k0, int64_t most)
{
	int64_t all = least(most, g->keys - k0), seen = g->keys - g->queries + i0 + n - k0;
	return j->causal && seen < all ? seen : all;
}

AMX static void strip_forward(const attn_job *j, const attn_seg *g, int64_t head, int64_t i0, int64_t nq, char *scratch)
{
	work *t = (work *)(void *)scratch;
	uint16_t *q = part(j, scratch, PART_Q);
	float *o = part(j, scratch, PART_O);
	int64_t w = j->dp, d = j->d, kv = head / (j->heads / j->kv);
	for (int64_t x = 0; x < w; x += SIDE) load_rows(q + x, w, &j->q, g->q0 + i0, nq, head, d, x);
	memset(o, 0, sizeof *o * (size_t)(SIDE * w));
	for (int r = 0; r < SIDE; r++) t->top[r] = -INFINITY, t->sum[r] = 0;
	for (int64_t k0 = 0; k0 < g->keys; k0 += KEYS) {
		int64_t n = depth(j, g, i0, nq, k0, KEYS), unit = g->unit0 + k0 / SIDE;
		if (n <= 0 || !attn_block_seen(j, g, i0, i0 + nq, k0, k0 + n)) continue;
		scores(j, t->s, q, packing(j, 0, kv), unit, n);
		int hard = special(j, g, i0, nq, k0, n);
		for (int64_t r = 0; r < nq; r++) {
			int64_t seen = depth(j, g, i0 + r, 1, k0, n);
			if (hard) finish_row(j, g, i0 + r, 0, k0, 1, seen, t->s + r * KEYS, NULL);
			softmax_row(t, r, seen, up(n), hard ? 1 : (float)j->scale, o + r * w, w);
		}
		weigh(j, o, t->p, packing(j, 1, kv), unit, n);
	}
	uint16_t *y = lora__at(&j->out, g->q0 + i0, head * d);
	for (int64_t r = 0; r < nq; r++, y += j->out.stride[0]) {
		const __m512 inv = _mm512_set1_ps(t->sum[r] == 0 ? 0 : 1 / t->sum[r]);
		for (int64_t x = 0; x < d; x += 16) lora__store16(y + x, lora__first16(d - x), _mm512_mul_ps(_mm512_load_ps(o + r * w + x), inv));
		*(float *)lora__at(&j->lse, g->q0 + i0 + r, head) = t->sum[r] == 0 ? -INFINITY : t->top[r] + (float)log((double)t->sum[r]);
	}
}

AMX void lora__attn_amx_tile(const attn_job *j, const attn_seg *g, int64_t head, int64_t i0, char *scratch)
{
	_tile_loadconfig(&tiles);
	for (int64_t i = i0; i < g->queries && i < i0 + ATTN_TQ; i += SIDE)
		strip_forward(j, g, head, i, least(SIDE, g->queries - i), scratch);
	_tile_release();
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
	const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
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
	for (int64_t k = 0; k < SIDE; k += 2, s += 2 * SIDE, dp += 2 * SIDE, p += 2 * ROW, ds += 2 * ROW, pairs += 32) {
		int64_t from = behind + k; /* the first query that sees the key */
		uint32_t in = k >= n || from >= SIDE ? 0 : from <= 0 ? ~0u : ~0u << from, in2 = k + 1 >= n || from + 1 >= SIDE ? 0 : from < 0 ? ~0u : ~0u << (from + 1);
		for (int h = 0; h < SIDE; h += 16, in >>= 16, in2 >>= 16) {
			const __m512 lse = _mm512_load_ps(t->lse + at * SIDE + h), d = _mm512_maskz_load_ps(less, delta + h);
			__m512 e = exp2_16((__mmask16)in, _mm512_fmsub_ps(by, _mm512_load_ps(s + h), lse), 0), e2 = exp2_16((__mmask16)in2, _mm512_fmsub_ps(by, _mm512_load_ps(s + SIDE + h), lse), 0);
			__m512i both = (__m512i)_mm512_cvtne2ps_pbh(e2, e);
			_mm256_store_si256((__m256i *)(void *)(p + h), _mm512_castsi512_si256(both));
			_mm256_store_si256((__m256i *)(void *)(p + ROW + h), _mm512_extracti64x4_epi64(both, 1));
			e = _mm512_maskz_mul_ps((__mmask16)in, e, _mm512_sub_ps(_mm512_load_ps(dp + h), d));
			e2 = _mm512_maskz_mul_ps((__mmask16)in2, e2, _mm512_sub_ps(_mm512_load_ps(dp + SIDE + h), d));
			both = (__m512i)_mm512_cvtne2ps_pbh(e2, e);
			_mm256_store_si256((__m256i *)(void *)(ds + h), _mm512_castsi512_si256(both));
			_mm256_store_si256((__m256i *)(void *)(ds + ROW + h), _mm512_extracti64x4_epi64(both, 1));
			_mm512_store_si512(pairs + h / 16 * TILE, _mm512_permutexvar_epi16(order, both));
		}
	}
}

/* sums[32][2w] of rows keys += P^T dO and dS^T Q; rows < 32: only these may be touched, the next ones are another segment's. */
AMX static void gather(const attn_job *j, grads *t, int64_t first, int64_t strips, int64_t rows, float *sums, char *scratch)
{
	int64_t w = j->dp;
	for (int64_t y = 0; y < 2 * w; y += SIDE) {
		int value = y >= w;
		const uint16_t *b = (uint16_t *)part(j, scratch, value ? PART_DOUTN : PART_QN) + ((value ? y - w : y) * STRIPS + first * SIDE) * SIDE;
		if (rows >= SIDE) load_sums(sums + y, 2 * w);
		else zero_sums();
		products((value ? t->p : t->ds) + first * SIDE, ROW, SIDE, b, strips);
		store_sums(rows >= SIDE ? sums + y : t->s, rows >= SIDE ? 2 * w : SIDE);
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
				zero_sums();
				products(at, w, SIDE, qt + i * size, w / SIDE);
				store_sums(t->s, SIDE);
				zero_sums();
				products(values, w, SIDE, dout + i * size, w / SIDE);
				store_sums(t->dp, SIDE);
				grad_block(j, g, t, &q[i], i, k, t->pairs + (i * UNITS + u) * BLOCK);
				if (!to[i]) from[i] = u;
				to[i] = u + 1, end = i + 1;
				if (first == n) first = i;
			}
			if (first < end) gather(j, t, first, end - first, g->keys - k, sums + k * 2 * w, scratch);
		}
		for (int64_t i = 0; i < n; i++)
			for (int64_t y = 0; y < size && to[i]; y += BLOCK) {
				load_sums(dq + i * size + y, SIDE);
				products(packing(j, 2, kv) + (g->unit0 * SIDE + k0 + from[i] * SIDE) * w + y, SIDE, size, t->pairs + (i * UNITS + from[i]) * BLOCK, to[i] - from[i]);
				store_sums(dq + i * size + y, SIDE);
			}
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
AMX void lora__attn_amx_part(const attn_job *j, const attn_seg *g, int64_t kv, int64_t number, float *sums, char *scratch)
{
	int64_t group = j->heads / j->kv, all = 0, before = 0, n = 0;
	queries q[STRIPS];
	_tile_loadconfig(&tiles);
	for (int64_t i = 0; i < g->queries; i += SIDE) all += group * depth(j, g, i, least(SIDE, g->queries - i), 0, g->keys);
	for (int64_t i = 0; i < g->queries; i += SIDE)
		for (int64_t h = 0; h < group; h++) {
			q[n] = (queries){ kv * group + h, i, least(SIDE, g->queries - i), depth(j, g, i, least(SIDE, g->queries - i), 0, g->keys) };
			int64_t mine = before * j->parts / (all ? all : 1) == number;
			before += q[n].keys, n += mine;
			if (n == STRIPS || (n && !mine)) strips_backward(j, g, kv, q, n, sums, scratch), n = 0;
		}
	if (n) strips_backward(j, g, kv, q, n, sums, scratch);
	_tile_release();
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

lora_task_fn lora__attn_amx_finish(void) { return finish; }

#else

lora_task_fn lora__attn_amx_finish(void) { return NULL; }
void   lora__attn_amx_layout(attn_job *j, int backward) { (void)j, (void)backward; }
size_t lora__attn_amx_bytes(const attn_job *j, int64_t units) { return (void)j, (void)units, 0; }
lora_task_fn lora__attn_amx_pack(void) { return NULL; }
void   lora__attn_amx_tile(const attn_job *j, const attn_seg *g, int64_t head, int64_t i0, char *scratch) { (void)j, (void)g, (void)head, (void)i0, (void)scratch; }
void   lora__attn_amx_part(const attn_job *j, const attn_seg *g, int64_t kv, int64_t number, float *sums, char *scratch)
{
	(void)j, (void)g, (void)kv, (void)number, (void)sums, (void)scratch;
}
#endif
