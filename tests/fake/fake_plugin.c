/* A backend plug-in that behaves as its file name says: the test copies this one object to liblora_<behaviour>.so. Links to nothing of liblora. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "lora/backend.h"

static char behaviour[64];

static int is(const char *what) { return !strcmp(behaviour, what); }

/* "liblora_<behaviour>.so" of this very file. */
static void learn(void)
{
	Dl_info info;
	const char *name = dladdr((void *)(uintptr_t)&learn, &info) ? strrchr(info.dli_fname, '/') : NULL;
	if (name && sscanf(name, "/liblora_%63[a-z0-9_].so", behaviour) == 1) {
		char *end = strstr(behaviour, ".so");
		if (end) *end = 0;
	}
}

typedef struct instance { lora_host_services host; int runs; } instance;

static lora_status fake_open(const lora_host_services *host, void **self)
{
	if (is("open_fails")) return LORA_E_INTERNAL;
	if (is("open_memory")) return LORA_E_MEMORY;
	instance *s = host->alloc(host->host, sizeof *s);
	if (!s) return LORA_E_MEMORY;
	s->host = *host, s->runs = 0;
	*self = s;
	return LORA_OK;
}

static void fake_close(void *self)
{
	instance *s = self;
	s->host.free(s->host.host, s);
}

static void fake_free(void *self, void *packed) { (void)self, (void)packed; }

static int32_t fake_score(void *self) { return (void)self, is("cannot") ? -1 : is("best") ? 70 : is("good") ? 50 : 1; }

static lora_status fake_info(void *self, lora_device_info *out)
{
	(void)self;
	if (is("info_fails")) return LORA_E_INTERNAL;
	out->host_memory = !is("device"), out->device = "none", out->library = "fake";
	return LORA_OK;
}

static int32_t fake_supports(void *self, const lora_call *call, const char **reason)
{
	(void)self;
	if (call->prim == LORA_PRIM_ADD) return 1;
	if (reason) *reason = "fakes add only";
	return 0;
}

/* ADD that adds 100 more, so that the test sees who ran. */
static lora_status fake_run(void *self, void *stream, const lora_call *call)
{
	instance *s = self;
	(void)stream;
	s->runs++;
	if (is("run_fails")) return LORA_E_NUMERIC;
	if (is("run_memory")) return LORA_E_MEMORY;
	if (is("run_tells")) return s->host.error(s->host.host, LORA_E_SHAPE, "the moon is full"), LORA_E_SHAPE;
	for (int64_t i = 0; i < call->v[0].size[1]; i++)
		((float *)call->v[0].data)[i] = ((const float *)call->v[1].data)[i] + ((const float *)call->v[2].data)[i] + 100 + (float)s->runs;
	return LORA_OK;
}

#ifndef FAKE_EMPTY
lora_status lora_backend_entry(uint32_t host_min, uint32_t host_max, const lora_backend_v1 **out)
{
	static lora_backend_v1 table = { .struct_size = sizeof table, .abi = LORA_BACKEND_ABI, .name = behaviour, .help = "a fake", .open = fake_open,
		.close = fake_close, .score = fake_score, .info = fake_info, .supports = fake_supports, .run = fake_run };
	learn();
	if (host_min > host_max || is("version")) return LORA_E_VERSION;
	if (is("entry_fails")) return LORA_E_INTERNAL;
	if (is("no_table")) return LORA_OK;
	if (is("short")) table.struct_size = 40;
	if (is("old")) table.struct_size = offsetof(lora_backend_v1, buffer_create); /* an older, smaller table: fine */
	if (is("abi")) table.abi = 99;
	if (is("renamed")) table.name = "other";
	if (is("null_run")) table.run = NULL;
	if (is("null_open")) table.open = NULL;
	if (is("half_pack")) table.weight_free = fake_free;
	*out = &table;
	return LORA_OK;
}
#endif
