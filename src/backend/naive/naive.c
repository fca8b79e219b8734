/* The naive backend's table: one row per primitive, checks of calls, scratch, splitting of loops. */
#include "backend/naive/naive.h"

#include <stdarg.h>
#include <stdio.h>

#include "backend/backend.h"

/* A row: the function, and per view "sizes=kind flags". Sizes: letters are bound where first seen, digits are themselves.
 * Kind: r R activation in and out (F32, F64, BF16), s S the wide type of the activations in and out (F64 for F64, else F32), w W any float
 * type in and out, i I32, D F64 out. Flags: * any strides (else unit last stride),
 * ? data may be NULL or the view absent. */
typedef struct row { const char *name; lora__naive_fn run; const char *views; } row;

static const row rows[LORA_PRIM_COUNT] = {
	[LORA_PRIM_GEMM] = { "gemm", lora__naive_gemm, "mn=W* mk=w* kn=w* mr=w*? rn=w*?" },
	[LORA_PRIM_COPY] = { "copy", lora__naive_copy, "nd=W* nd=w*" },
	[LORA_PRIM_AXPBY] = { "axpby", lora__naive_axpby, "nd=R nd=w" },
	[LORA_PRIM_ADD] = { "add", lora__naive_add, "nd=R nd=r nd=r" },
	[LORA_PRIM_EMBED] = { "embed", lora__naive_embed, "nd=R vd=w n=i" },
	[LORA_PRIM_RMSNORM] = { "rmsnorm", lora__naive_rmsnorm, "nd=R nd=r d=w n=S" },
	[LORA_PRIM_RMSNORM_BWD] = { "rmsnorm_bwd", lora__naive_rmsnorm_bwd, "nd=R nd=r d=w n=s nd=r" },
	[LORA_PRIM_ROPE] = { "rope", lora__naive_rope, "nc=R ph=s ph=s n=i" },
	[LORA_PRIM_ATTENTION] = { "attention", lora__naive_attention, "na=R na=r mb=r mb=r nh=S s4=i m=i? hw=s?" },
	[LORA_PRIM_ATTENTION_BWD] = { "attention_bwd", lora__naive_attention_bwd, "na=R mb=R mb=R na=r mb=r mb=r na=r nh=s na=r s4=i m=i? hw=s?" },
	[LORA_PRIM_GATED] = { "gated", lora__naive_gated, "nd=R nd=r nd=r?" },
	[LORA_PRIM_GATED_BWD] = { "gated_bwd", lora__naive_gated_bwd, "nd=R nd=R? nd=r nd=r? nd=r" },
	[LORA_PRIM_XENT] = { "xent", lora__naive_xent, "nv=R n=i n=D" },
	[LORA_PRIM_DROPOUT] = { "dropout", lora__naive_dropout, "nd=R nd=r" },
	[LORA_PRIM_BIAS] = { "bias", lora__naive_bias, "nd=R d=w" },
	[LORA_PRIM_COLSUM] = { "colsum", lora__naive_colsum, "d=S nd=r" },
	[LORA_PRIM_SUMSQ] = { "sumsq", lora__naive_sumsq, "1=D n=r" },
	[LORA_PRIM_ADAMW] = { "adamw", lora__naive_adamw, "n=S n=s n=S n=S" },
	[LORA_PRIM_SGD] = { "sgd", lora__naive_sgd, "n=S n=s n=S?" },
	[LORA_PRIM_LAYERNORM] = { "layernorm", lora__naive_layernorm, "nd=R nd=r d=w d=w? n=S n=S" },
	[LORA_PRIM_LAYERNORM_BWD] = { "layernorm_bwd", lora__naive_layernorm_bwd, "nd=R nd=r d=w n=s n=s nd=r" },
	[LORA_PRIM_TOPK] = { "topk", lora__naive_topk, "nk=S nm=r nk=i" },
	[LORA_PRIM_TOPK_BWD] = { "topk_bwd", lora__naive_topk_bwd, "nm=R nm=r nk=i nk=s" },
	[LORA_PRIM_ROWSCALE] = { "rowscale", lora__naive_rowscale, "nd=R nd=r n=s" },
	[LORA_PRIM_ROWDOT] = { "rowdot", lora__naive_rowdot, "n=S nd=r nd=r" },
	[LORA_PRIM_LOWRANK] = { "lowrank", lora__naive_lowrank, "nd=W nd=w nr=s* rd=s 1=D" },
};

static lora_status check_type(const lora_view *v, char kind, lora_dtype *real, lora_dtype *wide, const char **reason)
{
	const char *why = NULL;
	if (kind == 'r' || kind == 'R') {
		if (v->dtype != LORA_F32 && v->dtype != LORA_F64 && v->dtype != LORA_BF16) why = "the dtype must be F32, F64 or BF16";
		else if ((*real && *real != v->dtype) || (*wide && *wide != lora__wide(v->dtype))) why = "its dtype differs from that of the other activations";
		else *real = v->dtype, *wide = lora__wide(v->dtype);
	} else if (kind == 's' || kind == 'S') {
		if (v->dtype != LORA_F32 && v->dtype != LORA_F64) why = "the dtype must be F32 or F64";
		else if (*wide && *wide != v->dtype) why = "its dtype does not fit that of the activations";
		else *wide = v->dtype;
	} else if (kind == 'i') {
		if (v->dtype != LORA_I32) why = "the dtype must be I32";
	} else if (kind == 'D') {
		if (v->dtype != LORA_F64) why = "the dtype must be F64";
	} else if (!lora__dtype_is_float(v->dtype)) {
		why = "the dtype must be F32, F64, F16 or BF16";
	}
	if (why) *reason = why;
	return why ? LORA_E_DTYPE : LORA_OK;
}

/* Sizes and strides of one view against its part of the row. bound[] holds the sizes of letters, -1 when not yet seen. */
static lora_status check_sizes(const lora_view *v, const char *spec, int n_sizes, int any, int out, int64_t *bound, const char **reason)
{
	if (v->rank < 1 || v->rank > 2) return *reason = "the rank must be 1 or 2", LORA_E_SHAPE;
	for (int i = 0; i < 2; i++) {
		int64_t fixed = i >= n_sizes ? 1 : spec[i] - '0', *want = i < n_sizes && spec[i] >= 'a' ? &bound[spec[i] - 'a'] : &fixed;
		if (v->size[i] < 0 || v->size[i] > INT64_MAX / 64) return *reason = "a size is negative or too large", LORA_E_SHAPE;
		if (*want < 0) *want = v->size[i];
		if (*want != v->size[i]) return *reason = "its sizes do not fit the other views", LORA_E_SHAPE;
	}
	if (!v->size[0] || !v->size[1]) return LORA_OK;
	int64_t rs = v->stride[0] < 0 ? -v->stride[0] : v->stride[0], cs = v->stride[1] < 0 ? -v->stride[1] : v->stride[1];
	if (n_sizes == 1 && v->size[0] > 1 && v->stride[0] != 1) return *reason = "its stride must be 1", LORA_E_SHAPE;
	if (n_sizes == 2 && !any && v->size[1] > 1 && v->stride[1] != 1) return *reason = "its last stride must be 1", LORA_E_SHAPE;
	if (out && n_sizes == 2 && v->size[0] > 1 && (rs < 1 || (cs <= rs && rs < v->size[1] && v->size[1] > 1 && cs >= 1 && rs <= (v->size[1] - 1) * cs)))
		return *reason = "its rows overlap", LORA_E_SHAPE;
	if (out && n_sizes == 2 && v->size[1] > 1 && (cs < 1 || (rs < cs && v->size[0] > 1 && cs <= (v->size[0] - 1) * rs)))
		return *reason = "its columns overlap", LORA_E_SHAPE;
	return LORA_OK;
}

/* The whole call. with_data: look at pointers too. *view is the number of the view at fault, or -1. */
static lora_status check(const lora_call *c, int with_data, lora_dtype *real, int *view, const char **reason)
{
	int64_t bound[26];
	lora_dtype wide = 0;
	*real = 0, *view = -1;
	for (int i = 0; i < 26; i++) bound[i] = -1;
	if (c->struct_size < sizeof *c || c->n_views < 0 || c->n_views > 12) return *reason = "the call's struct_size or n_views is wrong", LORA_E_VERSION;
	if (c->prim <= 0 || c->prim >= LORA_PRIM_COUNT) return *reason = "unknown primitive", LORA_E_UNSUPPORTED;
	const char *s = rows[c->prim].views;
	for (int i = 0; *s; i++) {
		int n_sizes = 0, any, optional;
		const char *spec = s;
		while (s[n_sizes] != '=') n_sizes++;
		char kind = s[n_sizes + 1];
		for (s += n_sizes + 2, any = optional = 0; *s && *s != ' '; s++) any |= *s == '*', optional |= *s == '?';
		while (*s == ' ') s++;
		const lora_view *v = &c->v[i];
		*view = i;
		if (i >= c->n_views || (optional && !v->data)) {
			if (optional) continue;
			return *reason = "it is missing", LORA_E_ARGUMENT;
		}
		lora_status st = check_type(v, kind, real, &wide, reason);
		if (!st) st = check_sizes(v, spec, n_sizes, any, kind < 'a', bound, reason);
		if (st) return st;
		if (with_data && v->size[0] && v->size[1]) {
			if (!v->data) return *reason = "its data is NULL", LORA_E_ARGUMENT;
			if ((uintptr_t)v->data % lora__dtype_size(v->dtype)) return *reason = "its data is not aligned to its dtype", LORA_E_ARGUMENT;
		}
	}
	if (!*real) *real = wide;
	return LORA_OK;
}

lora_status lora__naive_fail(lora__naive *self, lora_status status, const char *format, ...)
{
	char text[256];
	va_list ap;
	va_start(ap, format);
	vsnprintf(text, sizeof text, format, ap);
	va_end(ap);
	if (self->host.error) self->host.error(self->host.host, status, text);
	return status;
}

lora_status lora__naive_check_ids(lora__naive *self, const lora_view *ids, int64_t limit, int negative_ok, const char *what)
{
	const int32_t *p = ids->data;
	for (int64_t i = 0; i < ids->size[0]; i++)
		if (p[i] >= limit || (p[i] < 0 && !negative_ok))
			return lora__naive_fail(self, LORA_E_ARGUMENT, "%s %d of row %lld is outside 0 .. %lld", what, (int)p[i], (long long)i,
			                        (long long)limit - 1);
	return LORA_OK;
}

void *lora__naive_scratch(lora__naive *self, size_t bytes)
{
	void *p = NULL;
	if (atomic_flag_test_and_set(&self->taken)) {
		p = self->host.alloc(self->host.host, bytes ? bytes : 1);
	} else {
		if (self->scratch_bytes < bytes || !self->scratch) {
			if (self->scratch) self->host.free(self->host.host, self->scratch);
			self->scratch = self->host.alloc(self->host.host, bytes ? bytes : 1);
			self->scratch_bytes = self->scratch ? bytes : 0;
		}
		p = self->scratch;
		if (!p) atomic_flag_clear(&self->taken);
	}
	if (!p) lora__naive_fail(self, LORA_E_MEMORY, "no memory for %llu bytes of scratch", (unsigned long long)bytes);
	return p;
}

void lora__naive_release(lora__naive *self, void *scratch)
{
	if (!scratch) return;
	if (scratch == self->scratch) atomic_flag_clear(&self->taken);
	else self->host.free(self->host.host, scratch);
}

void lora__naive_parallel(lora__naive *self, int64_t n_tasks, double work, lora_task_fn fn, void *arg)
{
	if (n_tasks > 1 && self->host.threads > 1 && work > 32768) {
		self->host.parallel(self->host.host, n_tasks, fn, arg);
		return;
	}
	for (int64_t i = 0; i < n_tasks; i++) fn(arg, i, 0);
}

lora__naive_grid lora__naive_split(const lora_call *c, int first, int last, int flat)
{
	enum { PIECE = 8192 }; /* elements: a few pages of every array */
	lora__naive_grid g = { c->v[first].size[0], c->v[first].size[1], 1, 1, 0, 0 };
	for (int i = first; i <= last; i++) {
		const lora_view *v = &c->v[i];
		if (i >= c->n_views || !v->data) continue;
		if (v->size[0] != g.n || v->size[1] != g.d || (v->size[0] > 1 && v->stride[0] != v->size[1])) flat = 0;
	}
	if (flat) g.d *= g.n, g.n = g.d ? 1 : 0;
	g.cols = flat && g.d > PIECE ? PIECE : g.d > 0 ? g.d : 1;
	g.rows = g.cols < PIECE ? PIECE / g.cols : 1;
	g.row_blocks = (g.n + g.rows - 1) / g.rows, g.col_blocks = (g.d + g.cols - 1) / g.cols;
	return g;
}

static lora_status naive_open(const lora_host_services *host, void **self)
{
	if (!host || host->struct_size < sizeof *host || !host->alloc || !host->free || !host->parallel) return LORA_E_ARGUMENT;
	lora__naive *s = host->alloc(host->host, sizeof *s);
	if (!s) return LORA_E_MEMORY;
	memset(s, 0, sizeof *s);
	s->host = *host;
	atomic_flag_clear(&s->taken);
#ifdef NAIVE_X86
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) s->isa = 1;
	if (s->isa && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
	    __builtin_cpu_supports("avx512vl"))
		s->isa = 2 + lora__bf16_ready();
#endif
	*self = s;
	return LORA_OK;
}

static void naive_close(void *self)
{
	lora__naive *s = self;
	if (!s) return;
	lora_host_services host = s->host;
	if (s->scratch) host.free(host.host, s->scratch);
	host.free(host.host, s);
}

static int32_t naive_score(void *self)
{
	enum { IN_BLOCKS = 30 }; /* more than oneDNN's: quicker in BF16, and without packed weights */
	return ((lora__naive *)self)->isa >= 3 ? IN_BLOCKS : 0;
}

static lora_status naive_info(void *self, lora_device_info *out)
{
	static const char *const device[] = { "CPU", "CPU, AVX2", "CPU, AVX-512", "CPU, AVX-512 BF16", "CPU, AVX-512 and AMX" };
	if (!out || out->struct_size < sizeof *out) return LORA_E_ARGUMENT;
	out->host_memory = 1;
	out->device = device[((lora__naive *)self)->isa];
	out->library = "liblora " LORA_VERSION_TEXT;
	out->memory_bytes = 0;
	return LORA_OK;
}

static int32_t naive_supports(void *self, const lora_call *c, const char **reason)
{
	lora_dtype real;
	int view;
	const char *why = NULL;
	(void)self;
	lora_status st = check(c, 0, &real, &view, &why);
	if (st && reason) *reason = why;
	return st == LORA_OK;
}

static lora_status naive_run(void *self, void *stream, const lora_call *c)
{
	lora_dtype real;
	int view;
	const char *why = NULL;
	(void)stream;
	lora_status st = check(c, 1, &real, &view, &why);
	if (st == LORA_OK) {
		lora_call n = *c; /* a stride that is never used may be anything: 1 lets the fast forms see it */
		for (int i = 0; i < c->n_views && i < 12; i++)
			if (n.v[i].size[1] <= 1) n.v[i].stride[1] = 1;
		return rows[c->prim].run(self, &n, real);
	}
	if (view < 0) return lora__naive_fail(self, st, "primitive %d: %s", (int)c->prim, why);
	return lora__naive_fail(self, st, "primitive %s, view %d: %s", rows[c->prim].name, view, why);
}

static uint64_t naive_working_bytes(void *self, lora_dtype real, int64_t widest)
{
	(void)self, (void)real;
	return ((uint64_t)2 << 20) + 1024 * (uint64_t)(widest < 4096 ? widest : 4096); /* a block of B is the largest of its scratch */
}

const lora_backend_v1 lora__backend_naive = {
	.struct_size = sizeof(lora_backend_v1), .abi = LORA_BACKEND_ABI, .name = "naive",
	.help = "portable C, the reference for every primitive; always there",
	.open = naive_open, .close = naive_close, .score = naive_score, .info = naive_info, .supports = naive_supports, .run = naive_run,
	.working_bytes = naive_working_bytes,
};
