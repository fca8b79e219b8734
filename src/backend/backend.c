/* Backends: choosing one for a context, and the one door to run a primitive. naive is always open beside the chosen backend and runs what
 * that does not take. */
#include "backend/backend.h"

#include "backend/plugin.h"

#define MODULE "backend"

static void *host_alloc(void *host, size_t bytes) { return lora__alloc(host, bytes); }
static void host_free(void *host, void *p) { lora__free(host, p); }
static void host_log(void *host, int32_t level, const char *module, const char *message)
{
	lora__log(host, level, module ? module : MODULE, "%s", message ? message : "");
}
static void host_error(void *host, lora_status status, const char *message)
{
	lora__fail(host, status, MODULE, "%s", message ? message : "");
}
static void host_parallel(void *host, int64_t n_tasks, lora_task_fn fn, void *arg) { lora__parallel(host, n_tasks, fn, arg); }

static lora_status open_naive(lora_context *ctx)
{
	ctx->host = (lora_host_services){ .struct_size = sizeof ctx->host, .abi = LORA_BACKEND_ABI, .host = ctx, .alloc = host_alloc, .free = host_free,
		.log = host_log, .error = host_error, .parallel = host_parallel, .threads = ctx->threads > 0 ? ctx->threads : 1 };
	ctx->naive = &lora__backend_naive;
	lora_status st = ctx->naive->open(&ctx->host, &ctx->naive_self);
	if (st) return ctx->naive = NULL, lora__fail(ctx, st, MODULE, "no memory for the naive backend");
	ctx->backend = ctx->naive, ctx->backend_self = ctx->naive_self, ctx->backend_host_memory = 1;
	return LORA_OK;
}

/* Make an instance of a plug-in for this context. *score is set; a negative one is an error. */
static lora_status open_plugin(lora_context *ctx, const char *name, const lora_backend_v1 **table, void **self, int32_t *score)
{
	lora_status st = lora__plugin_load(ctx, name, table);
	if (st) return st;
	*self = NULL;
	st = (*table)->open(&ctx->host, self);
	if (st == LORA_E_MEMORY) return lora__fail(ctx, st, MODULE, "no memory for the %s backend", name);
	if (st) return lora__fail(ctx, LORA_E_BACKEND, MODULE, "backend '%s' can't be opened (status %d)", name, (int)st);
	*score = (*table)->score(*self);
	if (*score >= 0) return LORA_OK;
	(*table)->close(*self);
	return lora__fail(ctx, LORA_E_BACKEND, MODULE, "backend '%s' can't run on this machine", name);
}

static lora_status use(lora_context *ctx, const lora_backend_v1 *table, void *self)
{
	lora_device_info info = { .struct_size = sizeof info };
	if (table != ctx->naive) {
		lora_status st = table->info(self, &info);
		if (st) {
			table->close(self);
			return lora__fail(ctx, LORA_E_BACKEND, MODULE, "backend '%s' tells nothing of its device (status %d)", table->name, (int)st);
		}
	}
	if (ctx->backend && ctx->backend != ctx->naive) ctx->backend->close(ctx->backend_self);
	ctx->backend = table, ctx->backend_self = self;
	ctx->backend_host_memory = table == ctx->naive || info.host_memory;
	lora__log(ctx, LORA_LOG_INFO, MODULE, "using %s", table->name);
	return LORA_OK;
}

static lora_status select_auto(lora_context *ctx)
{
	char names[LORA__PLUGIN_MAX][LORA__PLUGIN_NAME];
	const lora_backend_v1 *best = ctx->naive, *table;
	void *best_self = ctx->naive_self, *self;
	int32_t best_score = best->score(best_self), score = 0;
	lora_error before = ctx->error;
	int n = lora__plugin_scan(ctx, names);
	for (int i = 0; i < n; i++) {
		if (open_plugin(ctx, names[i], &table, &self, &score)) {
			lora__log(ctx, LORA_LOG_WARN, MODULE, "left out: %s", ctx->error.message);
		} else if (score > best_score) {
			if (best != ctx->naive) best->close(best_self);
			best = table, best_self = self, best_score = score;
		} else {
			table->close(self);
		}
	}
	ctx->error = before; /* a plug-in that was left out is no error of the caller's */
	return use(ctx, best, best_self);
}

lora_status lora__backend_select(lora_context *ctx, const char *name)
{
	const lora_backend_v1 *table = NULL;
	void *self = NULL;
	int32_t score = 0;
	lora_status st = ctx->naive ? LORA_OK : open_naive(ctx);
	if (st) return st;
	ctx->host.features = !strcmp(name, "auto") && lora__bf16_ready() ? LORA_HOST_BF16_GEMM : 0;
	if (!strcmp(name, "auto")) return select_auto(ctx);
	if (!strcmp(name, "naive")) return use(ctx, ctx->naive, ctx->naive_self);
	st = open_plugin(ctx, name, &table, &self, &score);
	return st ? st : use(ctx, table, self);
}

void lora__backend_close(lora_context *ctx)
{
	if (ctx->backend && ctx->backend != ctx->naive) ctx->backend->close(ctx->backend_self);
	if (ctx->naive) ctx->naive->close(ctx->naive_self);
	ctx->backend = ctx->naive = NULL, ctx->backend_self = ctx->naive_self = NULL;
}

/* A plug-in's failure becomes LORA_E_BACKEND (out of memory stays what it is); its own words are kept when it gave any. */
static lora_status plugin_failed(lora_context *ctx, lora_status st, const lora_call *call)
{
	lora_status mapped = st == LORA_E_MEMORY ? st : LORA_E_BACKEND;
	if (ctx->error.status == st) {
		ctx->error.status = mapped;
		return lora__fail_prefix(ctx, mapped, "backend '%s': ", ctx->backend->name);
	}
	return lora__fail(ctx, mapped, MODULE, "backend '%s' failed in primitive %d (status %d)", ctx->backend->name, (int)call->prim, (int)st);
}

/* A GEMM with a second product that the backend takes in two parts only. */
static int in_two(lora_context *ctx, const lora_call *call, lora_call part[2])
{
	if (call->prim != LORA_PRIM_GEMM || call->n_views < 5 || !call->v[3].data) return 0;
	part[0] = part[1] = *call;
	part[0].n_views = part[1].n_views = 3;
	part[1].v[1] = call->v[3], part[1].v[2] = call->v[4], part[1].f[0] = call->f[2], part[1].f[1] = 1, part[1].packed = NULL;
	return ctx->backend->supports(ctx->backend_self, &part[0], NULL);
}

lora_status lora__run(lora_context *ctx, const lora_call *call)
{
	const char *reason = NULL;
	lora_call part[2];
	/* In a task naive runs everything: it needs no state of the context, and the bits do not depend on what else is there. */
	if (ctx->backend != ctx->naive && !(ctx->backend_host_memory && lora__nested())) {
		if (ctx->backend->supports(ctx->backend_self, call, &reason)) {
			lora_status before = ctx->error.status;
			ctx->error.status = LORA_OK;
			lora_status st = ctx->backend->run(ctx->backend_self, NULL, call);
			if (st) return plugin_failed(ctx, st, call);
			ctx->error.status = before;
			return LORA_OK;
		}
		if (in_two(ctx, call, part)) {
			lora_status st = lora__run(ctx, &part[0]);
			return st ? st : lora__run(ctx, &part[1]);
		}
		if (!ctx->backend_host_memory)
			return lora__fail(ctx, LORA_E_UNSUPPORTED, MODULE, "backend '%s' does not take primitive %d: %s", ctx->backend->name, (int)call->prim,
			                  reason ? reason : "no reason given");
	}
	return ctx->naive->run(ctx->naive_self, NULL, call);
}

lora_status lora__gemm(lora_context *ctx, double alpha, lora_view a, lora_view b, double beta, lora_view c)
{
	lora_call call = { .struct_size = sizeof call, .prim = LORA_PRIM_GEMM, .n_views = 3, .v = { c, a, b }, .f = { alpha, beta } };
	return lora__run(ctx, &call);
}

lora_status lora__axpby(lora_context *ctx, double alpha, lora_view x, double beta, lora_view y)
{
	lora_call call = { .struct_size = sizeof call, .prim = LORA_PRIM_AXPBY, .n_views = 2, .v = { y, x }, .f = { alpha, beta } };
	return lora__run(ctx, &call);
}

lora_status lora__copy(lora_context *ctx, lora_view dst, lora_view src)
{
	lora_call call = { .struct_size = sizeof call, .prim = LORA_PRIM_COPY, .n_views = 2, .v = { dst, src } };
	return lora__run(ctx, &call);
}

int32_t lora__backend_count(void) { return 1 + lora__plugin_count(); }

const lora__member *lora__backend_member(int32_t i)
{
	static _Thread_local lora__member m;
	const lora_backend_v1 *t = i == 0 ? &lora__backend_naive : lora__plugin_table(i - 1);
	if (!t) return NULL;
	m = (lora__member){ .name = t->name, .help = t->help, .source = i == 0 ? "the definitions in lora/backend.h" : "plug-in" };
	return &m;
}
