/* Plug-in "blis": GEMM in F32 through BLIS (Van Zee and van de Geijn 2015, https://github.com/flame/blis), with B also in BF16 or F16 by
 * converting bounded blocks to F32. All else is left to naive.
 *
 * Threads are the host's: C is sliced, every slice is a single-threaded expert call with a runtime object of its own, so BLIS's global
 * settings and the environment are never written. Bits are the same for a fixed number of threads.
 * BLIS 0.9 asks the processor's family and model, and takes AVX-512 machines made after it for Haswells. So the flags are asked here, and
 * the skx context is passed explicitly when the processor has what skx kernels need. That context has no exported name: it can be had when
 * the static library is linked (rules.mk), else BLIS's own choice stands. */
#include <blis.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "lora/backend.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum {
	SLICE = 96,          /* slices begin at multiples of this: of every micro-tile's rows and columns */
	BLOCK_N = 384,       /* columns of a converted block of B */
	BLOCK_K = 2048,      /* its depth: 3 MiB a thread */
	FEW = 8,             /* products with this many rows or fewer read B once: naive does not pack it */
	MIN_WORK = 64 * 1024 /* multiply-adds below which the overhead of a call shows */
};

typedef struct blis {
	lora_host_services host;
	cntx_t     *cntx;
	int         fast;
	atomic_flag taken; /* scratch is in use: a call from inside a parallel task gets its own */
	char       *scratch;
	size_t      scratch_bytes; /* kept between calls: fresh pages are dear */
	char        device[64], library[64];
} blis;

/* One product, cut along m or n into n_slices. */
typedef struct job {
	const lora_call *call;
	const blis      *self;
	int64_t          m, n, k, n_slices;
	int              along_n, half;
	char            *scratch;
	size_t           per_thread;
} job;

#ifdef LORA_BLIS_STATIC
cntx_t *bli_gks_lookup_nat_cntx(arch_t id);
static cntx_t *skx_context(void) { return bli_gks_lookup_nat_cntx(BLIS_ARCH_SKX); }
#else
static cntx_t *skx_context(void) { return NULL; }
#endif

static cntx_t *choose_context(void)
{
	arch_t found = bli_arch_query_id();
#if defined(__x86_64__)
	if ((found == BLIS_ARCH_HASWELL || found == BLIS_ARCH_SANDYBRIDGE || found == BLIS_ARCH_PENRYN || found == BLIS_ARCH_GENERIC) &&
	    __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
	    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
		return skx_context();
#endif
	(void)found;
	return NULL;
}

static lora_status fail(const blis *self, lora_status status, const char *message)
{
	if (self->host.error) self->host.error(self->host.host, status, message);
	return status;
}

/* bfloat16 and half to float; in files that link to nothing of liblora these few lines are repeated. */
static void widen_bf16(float *d, const uint16_t *s, int64_t n)
{
	for (int64_t i = 0; i < n; i++) {
		uint32_t u = (uint32_t)s[i] << 16;
		__builtin_memcpy(&d[i], &u, 4);
	}
}

static void widen_f16_portable(float *d, const uint16_t *s, int64_t n)
{
	for (int64_t i = 0; i < n; i++) {
		uint32_t em = s[i] & 0x7fffu, sign = (uint32_t)(s[i] & 0x8000u) << 16, u = (em << 13) + (112u << 23), small;
		float f = (float)(int32_t)em * 0x1p-24f;
		__builtin_memcpy(&small, &f, 4);
		if (em >= 0x7c00u) u = (em << 13) | 0x7f800000u | (em > 0x7c00u ? 0x400000u : 0);
		u = (em < 0x400u ? small : u) | sign;
		__builtin_memcpy(&d[i], &u, 4);
	}
}

#if defined(__x86_64__)
__attribute__((target("avx2,f16c"))) static void widen_f16_avx2(float *d, const uint16_t *s, int64_t n)
{
	int64_t i = 0;
	for (; i + 8 <= n; i += 8) _mm256_storeu_ps(d + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(s + i))));
	widen_f16_portable(d + i, s + i, n - i);
}
static void widen_f16(float *d, const uint16_t *s, int64_t n)
{
	if (__builtin_cpu_supports("avx2")) widen_f16_avx2(d, s, n); /* every processor with AVX2 has F16C */
	else widen_f16_portable(d, s, n);
}
#else
static void widen_f16(float *d, const uint16_t *s, int64_t n) { widen_f16_portable(d, s, n); }
#endif

static void gemm(const blis *self, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t ars, int64_t acs, const float *b,
                 int64_t brs, int64_t bcs, float beta, float *c, int64_t crs, int64_t ccs)
{
	/* BLIS's kernels for small products exist for Haswell, not for skx: measured faster below these sizes, slower above. */
	int small = k >= 64 && (m < 64 || n < 24);
	rntm_t rntm = BLIS_RNTM_INITIALIZER;
	bli_rntm_set_num_threads(1, &rntm);
	bli_sgemm_ex(BLIS_NO_TRANSPOSE, BLIS_NO_TRANSPOSE, m, n, k, &alpha, (float *)(uintptr_t)a, ars, acs, (float *)(uintptr_t)b, brs, bcs, &beta, c,
	             crs, ccs, small ? NULL : self->cntx, &rntm);
}

/* B block (k0, n0) of kb x nb as float, in the layout of the source: contiguous along what the source is contiguous along. */
static void widen_block(float *d, const lora_view *b, int64_t k0, int64_t n0, int64_t kb, int64_t nb, int64_t *rs, int64_t *cs)
{
	const uint16_t *s = (const uint16_t *)b->data + k0 * b->stride[0] + n0 * b->stride[1];
	int by_k = b->stride[0] == 1;
	int64_t rows = by_k ? nb : kb, cols = by_k ? kb : nb, step = by_k ? b->stride[1] : b->stride[0];
	for (int64_t r = 0; r < rows; r++) {
		if (b->dtype == LORA_BF16) widen_bf16(d + r * cols, s + r * step, cols);
		else widen_f16(d + r * cols, s + r * step, cols);
	}
	*rs = by_k ? 1 : cols, *cs = by_k ? cols : 1;
}

/* Rows m0..m1 and columns n0..n1 of C. */
static void part(const job *j, int64_t m0, int64_t m1, int64_t n0, int64_t n1, int32_t thread)
{
	const lora_view *c = &j->call->v[0], *a = &j->call->v[1], *b = &j->call->v[2];
	const float *ap = (const float *)a->data + m0 * a->stride[0], *bp = (const float *)b->data + n0 * b->stride[1];
	float *cp = (float *)c->data + m0 * c->stride[0] + n0 * c->stride[1], alpha = (float)j->call->f[0], beta = (float)j->call->f[1];
	if (!j->half) {
		gemm(j->self, m1 - m0, n1 - n0, j->k, alpha, ap, a->stride[0], a->stride[1], bp, b->stride[0], b->stride[1], beta, cp, c->stride[0],
		     c->stride[1]);
		return;
	}
	float *block = (float *)(void *)(j->scratch + (size_t)thread * j->per_thread);
	for (int64_t n = n0; n < n1; n += BLOCK_N) {
		int64_t nb = n1 - n < BLOCK_N ? n1 - n : BLOCK_N, rs, cs;
		for (int64_t k = 0; k < j->k; k += BLOCK_K) {
			int64_t kb = j->k - k < BLOCK_K ? j->k - k : BLOCK_K;
			widen_block(block, b, k, n, kb, nb, &rs, &cs);
			gemm(j->self, m1 - m0, nb, kb, alpha, ap + k * a->stride[1], a->stride[0], a->stride[1], block, rs, cs, k ? 1 : beta,
			     cp + (n - n0) * c->stride[1], c->stride[0], c->stride[1]);
		}
	}
}

static void slice(void *arg, int64_t task, int32_t thread)
{
	const job *j = arg;
	int64_t size = j->along_n ? j->n : j->m, blocks = (size + SLICE - 1) / SLICE;
	int64_t from = blocks * task / j->n_slices * SLICE, to = blocks * (task + 1) / j->n_slices * SLICE;
	if (to > size) to = size;
	if (from >= to) return;
	if (j->along_n) part(j, 0, j->m, from, to, thread);
	else part(j, from, to, 0, j->n, thread);
}

static char *take_scratch(blis *self, size_t bytes)
{
	if (atomic_flag_test_and_set(&self->taken)) return self->host.alloc(self->host.host, bytes);
	if (self->scratch_bytes < bytes) {
		if (self->scratch) self->host.free(self->host.host, self->scratch);
		self->scratch = self->host.alloc(self->host.host, bytes);
		self->scratch_bytes = self->scratch ? bytes : 0;
	}
	if (!self->scratch) atomic_flag_clear(&self->taken);
	return self->scratch;
}

static void give_scratch(blis *self, char *p)
{
	if (p == self->scratch) atomic_flag_clear(&self->taken);
	else self->host.free(self->host.host, p);
}

static lora_status run_gemm(blis *self, const lora_call *call)
{
	job j = { .call = call, .self = self, .m = call->v[0].size[0], .n = call->v[0].size[1], .k = call->v[1].size[1] };
	int32_t threads = self->host.threads > 0 ? self->host.threads : 1;
	j.half = call->v[2].dtype != LORA_F32;
	j.along_n = j.half || j.n >= j.m; /* cut what is converted, so that no thread converts what another does */
	j.n_slices = threads;
	if (j.half) {
		int64_t kb = j.k < BLOCK_K ? j.k : BLOCK_K;
		j.per_thread = (size_t)(BLOCK_N * kb) * sizeof(float);
		j.scratch = take_scratch(self, j.per_thread * (size_t)threads);
		if (!j.scratch) return fail(self, LORA_E_MEMORY, "no memory for blocks of converted weights");
	}
	self->host.parallel(self->host.host, j.n_slices, slice, &j);
	if (j.scratch) give_scratch(self, j.scratch);
	return LORA_OK;
}

static int32_t refuse(const char **reason, const char *why)
{
	if (reason) *reason = why;
	return 0;
}

static int32_t blis_supports(void *s, const lora_call *call, const char **reason)
{
	(void)s;
	if (!call || call->struct_size < sizeof *call || call->prim != LORA_PRIM_GEMM || call->n_views < 3) return refuse(reason, "only GEMM");
	if (call->n_views > 3 && call->v[3].data) return refuse(reason, "one product at a time");
	const lora_view *c = &call->v[0], *a = &call->v[1], *b = &call->v[2];
	int half = b->dtype == LORA_BF16 || b->dtype == LORA_F16;
	if (c->dtype != LORA_F32 || a->dtype != LORA_F32 || (b->dtype != LORA_F32 && !half)) return refuse(reason, "only F32, with B in F32, BF16 or F16");
	for (int i = 0; i < 3; i++) {
		const lora_view *v = &call->v[i];
		if (v->rank != 2 || v->size[0] < 1 || v->size[1] < 1) return refuse(reason, "sizes must be above 0");
		if (v->size[0] > 1 << 30 || v->size[1] > 1 << 30) return refuse(reason, "sizes must be below 2^30");
		int64_t rs = v->stride[0], cs = v->stride[1];
		if ((v->size[0] > 1 && rs < 1) || (v->size[1] > 1 && cs < 1)) return refuse(reason, "strides must be above 0");
		int rows = cs == 1 && rs >= v->size[1], cols = rs == 1 && cs >= v->size[0];
		if (!rows && !cols) return refuse(reason, "one stride must be 1 and the other must not overlap");
	}
	if (a->size[0] != c->size[0] || b->size[1] != c->size[1] || a->size[1] != b->size[0]) return refuse(reason, "the sizes do not fit each other");
	if (c->size[0] <= FEW || c->size[1] <= FEW) return refuse(reason, "too few rows or columns to be worth it");
	if ((double)c->size[0] * (double)c->size[1] * (double)a->size[1] < MIN_WORK) return refuse(reason, "too small to be worth it");
	return 1;
}

static lora_status blis_run(void *s, void *stream, const lora_call *call)
{
	blis *self = s;
	const char *why = "";
	(void)stream;
	if (!blis_supports(s, call, &why)) return fail(self, LORA_E_UNSUPPORTED, why);
	for (int i = 0; i < 3; i++) {
		const lora_view *v = &call->v[i];
		if (!v->data) return fail(self, LORA_E_ARGUMENT, "a view's data is NULL");
		if ((uintptr_t)v->data % (v->dtype == LORA_F32 ? 4 : 2)) return fail(self, LORA_E_ARGUMENT, "a view's data is not aligned to its dtype");
	}
	return run_gemm(self, call);
}

static lora_status blis_open(const lora_host_services *host, void **out)
{
	if (!host || host->struct_size < sizeof *host || !host->alloc || !host->free || !host->parallel) return LORA_E_ARGUMENT;
	blis *self = host->alloc(host->host, sizeof *self);
	if (!self) return LORA_E_MEMORY;
	memset(self, 0, sizeof *self);
	self->host = *host;
	atomic_flag_clear(&self->taken);
	bli_init();
	self->cntx = choose_context();
	arch_t arch = self->cntx ? BLIS_ARCH_SKX : bli_arch_query_id();
	self->fast = arch != BLIS_ARCH_GENERIC;
	snprintf(self->device, sizeof self->device, "CPU, %s kernels", bli_arch_string(arch));
	snprintf(self->library, sizeof self->library, "BLIS %s", bli_info_get_version_str());
	*out = self;
	return LORA_OK;
}

static void blis_close(void *s)
{
	blis *self = s;
	if (!self) return;
	lora_host_services host = self->host;
	if (self->scratch) host.free(host.host, self->scratch);
	host.free(host.host, self);
}

static int32_t blis_score(void *s) { return ((const blis *)s)->fast ? 10 : 0; }

static lora_status blis_info(void *s, lora_device_info *out)
{
	const blis *self = s;
	if (!out || out->struct_size < sizeof *out) return LORA_E_ARGUMENT;
	out->host_memory = 1;
	out->device = self->device, out->library = self->library, out->memory_bytes = 0;
	return LORA_OK;
}

lora_status lora_backend_entry(uint32_t host_min, uint32_t host_max, const lora_backend_v1 **out)
{
	static const lora_backend_v1 table = {
		.struct_size = sizeof table, .abi = LORA_BACKEND_ABI, .name = "blis", .help = "F32 GEMM by BLIS, half weights by conversion",
		.open = blis_open, .close = blis_close, .score = blis_score, .info = blis_info, .supports = blis_supports, .run = blis_run,
	};
	if (!out) return LORA_E_ARGUMENT;
	if (host_min > LORA_BACKEND_ABI || host_max < LORA_BACKEND_ABI) return LORA_E_VERSION;
	*out = &table;
	return LORA_OK;
}
