/* ATTENTION and its gradient for BF16 on AMX tiles: strips of 32 queries against blocks of keys. Keys and values are packed once per key head and call.
 * Same algorithms as naive_attention.inc, but probabilities and their gradients are rounded to BF16 before they are multiplied, as FlashAttention
 * does (Dao 2023, arXiv:2307.08691). Sums, softmax, lse and the sums of dk and dv are F32. */
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

enum { KEYS = 256 /* keys of a block, a multiple of 32: a strip works in the nearer caches; part of the order of sums */ };

/* A thread's scratch. */
typedef struct work {
	_Alignas(64) float s[SIDE * KEYS], dp[SIDE * KEYS];
	_Alignas(64) uint16_t p[SIDE * KEYS], ds[SIDE * KEYS], turned[2 * BLOCK];
	float top[SIDE], sum[SIDE], lse[SIDE], delta[SIDE];
} work;

static int64_t up(int64_t n) { return (n + SIDE - 1) / SIDE * SIDE; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static size_t line(size_t n) { return (n + 63) & ~(size_t)63; }

/* Behind the work area: q, dout [32][w], their packed forms, and a strip of sums [32][w]. */
enum { PART_Q, PART_DOUT, PART_QN, PART_DOUTN, PART_O, PARTS };
static size_t part_bytes(int64_t w, int which) { return line((size_t)(SIDE * w) * (which == PART_O ? 4 : 2)); }
static void *part(const attn_job *j, char *scratch, int which)
{
	size_t at = line(sizeof(work));
	for (int i = 0; i < which; i++) at += part_bytes(j->dp, i);
	return scratch + at;
}

void lora__attn_amx_layout(attn_job *j, int backward)
{
	j->dp = up(j->d);
	j->per_thread = line(sizeof(work)) + 4096;
	for (int i = 0; i < PARTS; i++) j->per_thread += part_bytes(j->dp, i);
	j->packings = backward ? 3 : 2;
	static const int of_few[] = { AT_O, AT_QT, AT_K, AT_V }; /* attn_few() works in the same scratch, its scores at 0 */
	size_t few = line(ATTN_TK * sizeof(float)), row = line((size_t)j->d * sizeof(float));
	for (int i = 0; i < 4; i++) j->at[of_few[i]] = few, few += i < 2 ? row : ATTN_TK * row;
	if (j->per_thread < few) j->per_thread = few;
}

size_t lora__attn_amx_bytes(const attn_job *j, int64_t units) { return (size_t)(j->packings * j->kv * units * SIDE * j->dp) * 2; }

/* Rows first .. first+n of one head, [32][w], zeros beyond. */
AMX static void load_rows(uint16_t *to, const lora_view *v, int64_t row, int64_t col, int64_t n, int64_t d, int64_t w)
{
	for (int64_t r = 0; r < n; r++, to += w) {
		memcpy(to, lora__at(v, row + r, col), (size_t)d * 2);
		memset(to + d, 0, (size_t)(w - d) * 2);
	}
	memset(to, 0, (size_t)((SIDE - n) * w) * 2);
}

/* Packed form which of a key head: 0 keys and 1 values for products over d, [unit][d/32][2 tiles]; 2 what is multiplied over keys (values in the
 * forward, keys in the backward), [d/32][unit][2 tiles]. */
static uint16_t *packing(const attn_job *j, int which, int64_t kv)
{
	return (uint16_t *)(void *)j->packed + (which * j->kv + kv) * j->units * SIDE * j->dp;
}

/* Task: (key head, unit of 32 keys of a segment). */
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
	int64_t first = (unit - g->unit0) * SIDE, n = least(SIDE, g->keys - first);
	int backward = j->packings == 3;
	_Alignas(64) uint16_t rows[SIDE * SIDE];
	if (n <= 0) return;
	for (int64_t s = 0; s < steps; s++) {
		int64_t d = least(SIDE, j->d - s * SIDE);
		load_rows(rows, &j->k, g->k0 + first, kv * j->d + s * SIDE, n, d, SIDE);
		turn_step(packing(j, 0, kv) + (unit * steps + s) * 2 * TILE, rows, SIDE, 0);
		if (backward) interleave_step(packing(j, 2, kv) + (s * j->units + unit) * 2 * TILE, 0, rows, SIDE, 1, 0);
		load_rows(rows, &j->v, g->k0 + first, kv * j->d + s * SIDE, n, d, SIDE);
		if (backward) turn_step(packing(j, 1, kv) + (unit * steps + s) * 2 * TILE, rows, SIDE, 0);
		else interleave_step(packing(j, 1, kv) + (s * j->units + unit) * 2 * TILE, 0, rows, SIDE, 1, 0);
	}
}

lora_task_fn lora__attn_amx_pack(void) { return pack; }

/* s[32][KEYS] = rows[32][w] times the packed keys (or values) of n keys from unit on. */
AMX static void scores(const attn_job *j, float *s, const uint16_t *rows, const uint16_t *keys, int64_t unit, int64_t n)
{
	int64_t steps = j->dp / SIDE;
	for (int64_t x = 0; x < n; x += SIDE) {
		strip t = { (const char *)rows, j->dp * 2, keys + (unit + x / SIDE) * steps * 2 * TILE, steps };
		zero_sums();
		lora__amx_add_block(&t);
		store_sums(s + x, KEYS);
	}
}

/* o[32][w] += p[32][KEYS] times the packed rows of n keys from unit on. */
AMX static void weigh(const attn_job *j, float *o, const uint16_t *p, const uint16_t *rows, int64_t unit, int64_t n)
{
	for (int64_t x = 0; x < j->dp; x += SIDE) {
		strip t = { (const char *)p, KEYS * 2, rows + (x / SIDE * j->units + unit) * 2 * TILE, up(n) / SIDE };
		load_sums(o + x, j->dp);
		lora__amx_add_block(&t);
		store_sums(o + x, j->dp);
	}
}

/* Scale, cap and mask one row of scores that is not just cut off at its end; dcap (may be NULL) gets the cap's derivative. What query i (of the
 * segment) does not see becomes -infinity. */
AMX static void finish_row(const attn_job *j, const attn_seg *g, int64_t i, int64_t k0, int64_t n, float *s, float *dcap)
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
		if (!attn_sees(j, g, i, k0 + x)) s[x] = -INFINITY;
}

/* A row of scores: the first n of query i count, times scale (what finish_row() has not done). */
typedef struct scored { float *s; int64_t n; float scale; } scored;

AMX static inline scored score_row(const attn_job *j, const attn_seg *g, int64_t i, int64_t k0, int64_t n, float *s, float *dcap)
{
	int64_t seen = j->causal ? least(n, g->keys - g->queries + i - k0 + 1) : n;
	scored r = { s, seen < 0 ? 0 : seen, (float)j->scale };
	if (j->cap > 0 || j->window) finish_row(j, g, i, k0, r.n, s, dcap), r.scale = 1;
	return r;
}

AMX static inline void narrow16(uint16_t *to, __m512 v) { _mm256_storeu_si256((__m256i *)(void *)to, (__m256i)_mm512_cvtneps_pbh(v)); }

/* Online softmax of one row, p = exp(s - top) as BF16 up to all; the factor that what was summed so far must be multiplied with. */
AMX static float softmax_row(work *t, int64_t r, scored c, int64_t all)
{
	const __m512 none = _mm512_set1_ps(-INFINITY), scale = _mm512_set1_ps(c.scale);
	__m512 most = none, sum = _mm512_setzero_ps();
	uint16_t *p = t->p + r * KEYS;
	for (int64_t x = 0; x < c.n; x += 16) most = _mm512_mask_max_ps(most, lora__first16(c.n - x), most, _mm512_mul_ps(scale, _mm512_load_ps(c.s + x)));
	float old = t->top[r], here = _mm512_reduce_max_ps(most), top = here > old ? here : old;
	const __m512 from = _mm512_set1_ps(top == -INFINITY ? 0 : top);
	int64_t x = 0;
	for (; x < c.n; x += 16) {
		__m512 v = _mm512_maskz_mov_ps(lora__first16(c.n - x), lora__exp16(_mm512_fmsub_ps(scale, _mm512_load_ps(c.s + x), from)));
		sum = _mm512_add_ps(sum, v);
		narrow16(p + x, v);
	}
	for (; x < all; x += 16) _mm256_storeu_si256((__m256i *)(void *)(p + x), _mm256_setzero_si256());
	float factor = old == top ? 1 : old == -INFINITY ? 0 : F(expr)(old - top);
	t->sum[r] = t->sum[r] * factor + _mm512_reduce_add_ps(sum);
	t->top[r] = top;
	return factor;
}

/* Keys of the block from k0 that some query i0 .. i0+n-1 sees. */
static int64_t depth(const attn_job *j, const attn_seg *g, int64_t i0, int64_t n, int64_t k0)
{
	int64_t all = least(KEYS, g->keys - k0), seen = g->keys - g->queries + i0 + n - k0;
	return j->causal && seen < all ? seen : all;
}

AMX static void strip_forward(const attn_job *j, const attn_seg *g, int64_t head, int64_t i0, int64_t nq, char *scratch)
{
	work *t = (work *)(void *)scratch;
	uint16_t *q = part(j, scratch, PART_Q);
	float *o = part(j, scratch, PART_O);
	int64_t w = j->dp, d = j->d, kv = head / (j->heads / j->kv);
	load_rows(q, &j->q, g->q0 + i0, head * d, nq, d, w);
	memset(o, 0, sizeof *o * (size_t)(SIDE * w));
	memset(t->p, 0, sizeof t->p);
	for (int r = 0; r < SIDE; r++) t->top[r] = -INFINITY, t->sum[r] = 0;
	for (int64_t k0 = 0; k0 < g->keys; k0 += KEYS) {
		int64_t n = depth(j, g, i0, nq, k0), unit = g->unit0 + k0 / SIDE;
		if (n <= 0 || !attn_block_seen(j, g, i0, i0 + nq, k0, k0 + n)) continue;
		scores(j, t->s, q, packing(j, 0, kv), unit, n);
		for (int64_t r = 0; r < nq; r++) {
			float factor = softmax_row(t, r, score_row(j, g, i0 + r, k0, n, t->s + r * KEYS, NULL), up(n));
			for (int64_t x = 0; factor != 1 && x < w; x++) o[r * w + x] *= factor;
		}
		weigh(j, o, t->p, packing(j, 1, kv), unit, n);
	}
	for (int64_t r = 0; r < nq; r++) {
		uint16_t *y = lora__at(&j->out, g->q0 + i0 + r, head * d);
		float inv = t->sum[r] == 0 ? 0 : 1 / t->sum[r];
		for (int64_t x = 0; x < d; x++) y[x] = F(narrow)(o[r * w + x] * inv);
		*(float *)lora__at(&j->lse, g->q0 + i0 + r, head) = t->sum[r] == 0 ? -INFINITY : t->top[r] + (float)log((double)t->sum[r]);
	}
}

/* p and ds of one row from scores and dp; lse +infinity: nothing is seen. */
AMX static void grad_row(const attn_job *j, const attn_seg *g, work *t, int64_t i, int64_t r, int64_t k0, int64_t n)
{
	float dcap[KEYS], *dp = t->dp + r * KEYS;
	uint16_t *p = t->p + r * KEYS, *ds = t->ds + r * KEYS;
	scored c = score_row(j, g, i, k0, n, t->s + r * KEYS, j->cap > 0 ? dcap : NULL);
	const __m512 scale = _mm512_set1_ps(c.scale), lse = _mm512_set1_ps(t->lse[r]), delta = _mm512_set1_ps(t->delta[r]);
	int64_t x = 0;
	for (; x < c.n; x += 16) {
		__mmask16 in = lora__first16(c.n - x);
		__m512 e = _mm512_maskz_mov_ps(in, lora__exp16(_mm512_fmsub_ps(scale, _mm512_load_ps(c.s + x), lse)));
		__m512 d = _mm512_maskz_mul_ps(in, e, _mm512_sub_ps(_mm512_load_ps(dp + x), delta));
		if (j->cap > 0) d = _mm512_maskz_mul_ps(in, d, _mm512_loadu_ps(dcap + x));
		narrow16(p + x, e);
		narrow16(ds + x, d);
	}
	for (; x < up(n); x += 16) {
		_mm256_storeu_si256((__m256i *)(void *)(p + x), _mm256_setzero_si256());
		_mm256_storeu_si256((__m256i *)(void *)(ds + x), _mm256_setzero_si256());
	}
}

/* sums[32][step] += one step of a by b; rows < 32: only these may be touched, the next ones are another segment's. */
AMX static void add_rows(float *sums, int64_t step, const uint16_t *a, const uint16_t *b, int64_t rows)
{
	strip t = { (const char *)a, SIDE * 2, b, 1 };
	_Alignas(64) float block[BLOCK];
	if (rows >= SIDE) {
		load_sums(sums, step);
		lora__amx_add_block(&t);
		store_sums(sums, step);
		return;
	}
	zero_sums();
	lora__amx_add_block(&t);
	store_sums(block, SIDE);
	for (int64_t r = 0; r < rows; r++)
		for (int64_t x = 0; x < SIDE; x++) sums[r * step + x] += block[r * SIDE + x];
}

/* sums of dk and dv, rows [dk w][dv w] from the first key of the block on; keys: how many the segment has from there on. */
AMX static void gather(const attn_job *j, work *t, const uint16_t *qn, const uint16_t *doutn, int64_t n, int64_t keys, float *sums)
{
	int64_t w = j->dp;
	for (int64_t x = 0; x < n; x += SIDE, sums += SIDE * 2 * w) {
		transpose_block(t->turned, SIDE, t->ds + x, KEYS);
		transpose_block(t->turned + BLOCK, SIDE, t->p + x, KEYS);
		for (int64_t y = 0; y < w; y += SIDE) {
			add_rows(sums + y, 2 * w, t->turned, qn + y / SIDE * 2 * TILE, keys - x);
			add_rows(sums + w + y, 2 * w, t->turned + BLOCK, doutn + y / SIDE * 2 * TILE, keys - x);
		}
	}
}

AMX static void strip_backward(const attn_job *j, const attn_seg *g, int64_t head, int64_t i0, int64_t nq, float *sums, char *scratch)
{
	work *t = (work *)(void *)scratch;
	uint16_t *q = part(j, scratch, PART_Q), *dout = part(j, scratch, PART_DOUT), *qn = part(j, scratch, PART_QN), *doutn = part(j, scratch, PART_DOUTN);
	float *dq = part(j, scratch, PART_O);
	int64_t w = j->dp, d = j->d, kv = head / (j->heads / j->kv);
	load_rows(q, &j->q, g->q0 + i0, head * d, nq, d, w);
	load_rows(dout, &j->dout, g->q0 + i0, head * d, nq, d, w);
	interleave_step(qn, 2 * TILE, q, w, w / SIDE, 0);
	interleave_step(doutn, 2 * TILE, dout, w, w / SIDE, 0);
	memset(dq, 0, sizeof *dq * (size_t)(SIDE * w));
	memset(t->p, 0, sizeof t->p);
	memset(t->ds, 0, sizeof t->ds);
	for (int64_t r = 0; r < nq; r++) {
		float l = *(const float *)lora__at(&j->lse, g->q0 + i0 + r, head);
		t->lse[r] = l == -INFINITY ? INFINITY : l;
		t->delta[r] = F(dot)(lora__at(&j->dout, g->q0 + i0 + r, head * d), lora__at(&j->out, g->q0 + i0 + r, head * d), d);
	}
	for (int64_t k0 = 0; k0 < g->keys; k0 += KEYS) {
		int64_t n = depth(j, g, i0, nq, k0), unit = g->unit0 + k0 / SIDE;
		if (n <= 0 || !attn_block_seen(j, g, i0, i0 + nq, k0, k0 + n)) continue;
		scores(j, t->s, q, packing(j, 0, kv), unit, n);
		scores(j, t->dp, dout, packing(j, 1, kv), unit, n);
		for (int64_t r = 0; r < nq; r++) grad_row(j, g, t, i0 + r, r, k0, n);
		gather(j, t, qn, doutn, n, g->keys - k0, sums + k0 * 2 * w);
		weigh(j, dq, t->ds, packing(j, 2, kv), unit, n);
	}
	for (int64_t r = 0; r < nq; r++) {
		uint16_t *y = lora__at(&j->dq, g->q0 + i0 + r, head * d);
		for (int64_t x = 0; x < d; x++) y[x] = F(narrow)(dq[r * w + x] * (float)j->scale);
	}
}

AMX void lora__attn_amx_tile(const attn_job *j, const attn_seg *g, int64_t head, int64_t i0, char *scratch)
{
	_tile_loadconfig(&tiles);
	for (int64_t i = i0; i < g->queries && i < i0 + ATTN_TQ; i += SIDE)
		strip_forward(j, g, head, i, least(SIDE, g->queries - i), scratch);
	_tile_release();
}

AMX void lora__attn_amx_tile_bwd(const attn_job *j, const attn_seg *g, int64_t head, int64_t i0, float *sums, char *scratch)
{
	_tile_loadconfig(&tiles);
	for (int64_t i = i0; i < g->queries && i < i0 + ATTN_TQ; i += SIDE)
		strip_backward(j, g, head, i, least(SIDE, g->queries - i), sums, scratch);
	_tile_release();
}

#else

void   lora__attn_amx_layout(attn_job *j, int backward) { (void)j, (void)backward; }
size_t lora__attn_amx_bytes(const attn_job *j, int64_t units) { return (void)j, (void)units, 0; }
lora_task_fn lora__attn_amx_pack(void) { return NULL; }
void   lora__attn_amx_tile(const attn_job *j, const attn_seg *g, int64_t head, int64_t i0, char *scratch) { (void)j, (void)g, (void)head, (void)i0, (void)scratch; }
void   lora__attn_amx_tile_bwd(const attn_job *j, const attn_seg *g, int64_t head, int64_t i0, float *sums, char *scratch)
{
	(void)j, (void)g, (void)head, (void)i0, (void)sums, (void)scratch;
}
#endif
