/* Plug-ins: finding, loading and checking liblora_<name>.so.
 * Folders: the context's plugin_dir when it is set, else "lora" beside the object that holds this code, then LORA_LIBDIR "/lora". Never the
 * current directory. A loaded plug-in stays loaded: its code may own threads, thread-local keys and exit handlers. */
#include "backend/plugin.h"

#include <dirent.h>
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MODULE "backend"

typedef lora_status (*entry_fn)(uint32_t host_min, uint32_t host_max, const lora_backend_v1 **out);

/* Process-wide: what was loaded. Only grows. */
static struct { char path[LORA__PLUGIN_PATH]; lora_backend_v1 table; } loaded[LORA__PLUGIN_MAX];
static int n_loaded;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

int lora__plugin_count(void)
{
	pthread_mutex_lock(&lock);
	int n = n_loaded;
	pthread_mutex_unlock(&lock);
	return n;
}

const lora_backend_v1 *lora__plugin_table(int i) { return i >= 0 && i < lora__plugin_count() ? &loaded[i].table : NULL; }

/* Folder of the object that holds this function, with "/lora" appended; 0 when it is not known for certain. */
static int own_folder(char *out, size_t size)
{
	Dl_info info;
	struct link_map *map = NULL;
	char path[1024];
	if (!dladdr1((void *)(uintptr_t)&lora__plugin_load, &info, (void **)&map, RTLD_DL_LINKMAP) || !map) return 0;
	if (map->l_name && map->l_name[0]) {
		size_t n = strlen(map->l_name);
		if (map->l_name[0] != '/' || n >= sizeof path) return 0; /* relative to a folder that may have changed since */
		memcpy(path, map->l_name, n + 1);
	} else { /* the program itself */
		ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
		if (n <= 0 || n >= (ssize_t)sizeof path - 1) return 0;
		path[n] = 0;
	}
	char *slash = strrchr(path, '/');
	if (!slash) return 0;
	*slash = 0;
	return (size_t)snprintf(out, size, "%s/lora", path) < size;
}

/* Folder number i of the context; 0 past the last, -1 for one that is not there. */
static int folder(lora_context *ctx, int i, char *out, size_t size)
{
	if (ctx->plugin_dir[0]) return i == 0 ? (size_t)snprintf(out, size, "%s", ctx->plugin_dir) < size : 0;
	if (i == 0) return own_folder(out, size) ? 1 : -1;
	if (i == 1) return (size_t)snprintf(out, size, "%s/lora", LORA_LIBDIR) < size ? 1 : -1;
	return 0;
}

static int name_ok(const char *name)
{
	size_t n = strlen(name);
	return n > 0 && n < LORA__PLUGIN_NAME && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == n;
}

static int by_name(const void *a, const void *b) { return strcmp(a, b); }

int lora__plugin_scan(lora_context *ctx, char names[][LORA__PLUGIN_NAME])
{
	char dir[LORA__PLUGIN_PATH];
	int n = 0, known;
	for (int i = 0; (known = folder(ctx, i, dir, sizeof dir)) != 0; i++) {
		DIR *d = known > 0 ? opendir(dir) : NULL;
		struct dirent *e;
		while (d && n < LORA__PLUGIN_MAX && (e = readdir(d)) != NULL) {
			size_t len = strlen(e->d_name);
			char name[LORA__PLUGIN_NAME];
			if (len < 12 || len - 11 >= sizeof name || memcmp(e->d_name, "liblora_", 8) || strcmp(e->d_name + len - 3, ".so")) continue;
			memcpy(name, e->d_name + 8, len - 11);
			name[len - 11] = 0;
			int seen = !name_ok(name);
			for (int k = 0; k < n; k++) seen |= !strcmp(names[k], name);
			if (!seen) memcpy(names[n++], name, sizeof name);
		}
		if (d) closedir(d);
	}
	qsort(names, (size_t)n, LORA__PLUGIN_NAME, by_name);
	return n;
}

/* Path of a plug-in's file. Errors LORA_E_BACKEND when no folder has it. */
static lora_status find(lora_context *ctx, const char *name, char *path, size_t size)
{
	char dir[LORA__PLUGIN_PATH - 64], searched[256] = "";
	int known;
	if (!name_ok(name)) return lora__fail(ctx, LORA_E_BACKEND, MODULE, "unknown backend '%s'", lora__quote(name).text);
	for (int i = 0; (known = folder(ctx, i, dir, sizeof dir)) != 0; i++) {
		struct stat st;
		size_t used = strlen(searched);
		if (known < 0) continue;
		if ((size_t)snprintf(path, size, "%s/liblora_%s.so", dir, name) >= size) continue;
		if (!stat(path, &st)) {
			if (S_ISREG(st.st_mode)) return LORA_OK;
			return lora__fail(ctx, LORA_E_BACKEND, MODULE, "backend '%s': %s is not a regular file", name, lora__quote(path).text);
		}
		snprintf(searched + used, sizeof searched - used, "%s%s", used ? ", " : "", lora__quote(dir).text);
	}
	return lora__fail(ctx, LORA_E_BACKEND, MODULE, "unknown backend '%s': no liblora_%s.so in %s", name, name, searched[0] ? searched : "any folder");
}

/* Check a table and copy what it has. */
static const char *check_table(const lora_backend_v1 *t, const char *name, lora_backend_v1 *out)
{
	const uint32_t required = (uint32_t)offsetof(lora_backend_v1, buffer_create);
	if (!t) return "its entry returned no table";
	if (t->struct_size < required) return "its table is too short";
	if (t->abi != LORA_BACKEND_ABI) return "its table has another LORA_BACKEND_ABI";
	memset(out, 0, sizeof *out);
	memcpy(out, t, t->struct_size < sizeof *out ? t->struct_size : sizeof *out);
	if (!t->name || strcmp(t->name, name)) return "its table has another name than its file";
	if (!t->help || !t->open || !t->close || !t->score || !t->info || !t->supports || !t->run) return "a required function of its table is NULL";
	if (!out->weight_pack != !out->weight_free) return "its table has only one of weight_pack and weight_free";
	return NULL;
}

static lora_status load_file(lora_context *ctx, const char *name, const char *path, const lora_backend_v1 **out)
{
	const lora_backend_v1 *table = NULL;
	const char *why;
	entry_fn entry;
	if (n_loaded == LORA__PLUGIN_MAX) return lora__fail(ctx, LORA_E_BACKEND, MODULE, "more than %d plug-ins in one process", LORA__PLUGIN_MAX);
	void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!object) {
		why = dlerror();
		return lora__fail(ctx, LORA_E_BACKEND, MODULE, "backend '%s' can't be loaded: %s", name, lora__quote(why ? why : "no reason given").text);
	}
	void *symbol = dlsym(object, "lora_backend_entry");
	if (!symbol) return lora__fail(ctx, LORA_E_BACKEND, MODULE, "backend '%s': %s does not export lora_backend_entry", name, lora__quote(path).text);
	memcpy(&entry, &symbol, sizeof entry);
	lora_status st = entry(LORA_BACKEND_ABI, LORA_BACKEND_ABI, &table);
	if (st == LORA_E_VERSION)
		return lora__fail(ctx, LORA_E_BACKEND, MODULE, "backend '%s' is made for another LORA_BACKEND_ABI than %u", name, (unsigned)LORA_BACKEND_ABI);
	if (st) return lora__fail(ctx, LORA_E_BACKEND, MODULE, "backend '%s': lora_backend_entry failed with status %d", name, (int)st);
	why = check_table(table, name, &loaded[n_loaded].table);
	if (why) return lora__fail(ctx, LORA_E_BACKEND, MODULE, "backend '%s': %s", name, why);
	memcpy(loaded[n_loaded].path, path, strlen(path) + 1);
	*out = &loaded[n_loaded++].table;
	return LORA_OK;
}

lora_status lora__plugin_load(lora_context *ctx, const char *name, const lora_backend_v1 **out)
{
	char path[LORA__PLUGIN_PATH];
	lora_status st = find(ctx, name, path, sizeof path);
	if (st) return st;
	*out = NULL;
	pthread_mutex_lock(&lock);
	for (int i = 0; i < n_loaded && !*out; i++)
		if (!strcmp(loaded[i].path, path)) *out = &loaded[i].table;
	if (!*out) st = load_file(ctx, name, path, out);
	pthread_mutex_unlock(&lock);
	return st;
}
