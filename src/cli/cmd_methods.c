/* lora methods [FAMILY [NAME]]: what the library can do and what can be set, from introspection alone. */
#include "cli/commands.h"

#include <stdlib.h>
#include <string.h>

static const char *text_of(json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));
	return s ? s : "";
}

/* A JSON value in a few characters. */
static const char *brief(json_t *v, char *buf, size_t size)
{
	if (!v || json_is_null(v)) snprintf(buf, size, "-");
	else if (json_is_string(v)) snprintf(buf, size, "%s", json_string_value(v));
	else if (json_is_real(v)) snprintf(buf, size, "%.10g", json_real_value(v));
	else {
		char *s = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
		snprintf(buf, size, "%s", s ? s : "?");
		free(s);
	}
	return buf;
}

/* "0 .. 1", "at least 1", "a|b|c" or nothing. */
static void range_of(json_t *setting, char *buf, size_t size)
{
	json_t *choices = json_object_get(setting, "choices"), *c;
	char low[32], high[32];
	size_t i, n = 0;
	json_t *min = json_object_get(setting, "min"), *max = json_object_get(setting, "max");
	buf[0] = 0;
	if (json_is_string(choices)) snprintf(buf, size, "%s", json_string_value(choices));
	json_array_foreach(choices, i, c)
	{
		if (n < size)
			n += (size_t)snprintf(buf + n, size - n, "%s%s", i ? "|" : "", json_string_value(c) ? json_string_value(c) : "?");
	}
	if (buf[0] || !json_is_number(min) || !json_is_number(max)) return;
	if (json_number_value(max) >= 1e9) snprintf(buf, size, "at least %s", brief(min, low, sizeof low));
	else snprintf(buf, size, "%s .. %s", brief(min, low, sizeof low), brief(max, high, sizeof high));
}

static void show_settings(json_t *settings)
{
	json_t *setting;
	size_t i;
	char def[64], range[200];
	json_array_foreach(settings, i, setting)
	{
		range_of(setting, range, sizeof range);
		say("  %-28s %-10s default %-14s %s\n", text_of(setting, "name"), text_of(setting, "type"),
			brief(json_object_get(setting, "default"), def, sizeof def), range);
		if (text_of(setting, "help")[0]) say("      %s\n", text_of(setting, "help"));
	}
}

static int show_member(lora_context *ctx, const args *a, const char *family, const char *name, int whole)
{
	json_t *m = family_member(ctx, family, name);
	if (!m) return fail_library(ctx, name);
	if (a->json) return print_json(m);
	if (whole) {
		say("%s %s\n%s\n", family, name, text_of(m, "help"));
		if (text_of(m, "source")[0]) say("source: %s\n", text_of(m, "source"));
		if (json_array_size(json_object_get(m, "settings"))) say("\nSettings\n");
		show_settings(json_object_get(m, "settings"));
	} else {
		say("  %-20s %s\n", name, text_of(m, "help"));
	}
	json_decref(m);
	return OK;
}

static int show_family(lora_context *ctx, const args *a, const char *family)
{
	int status = OK;
	if (!a->json) say("%s\n", family);
	for (int32_t i = 0; i < lora_family_count(family) && !status; i++)
		status = show_member(ctx, a, family, lora_family_name(family, i), 0);
	return status;
}

static int unknown(const char *what, const char *family, const char *name)
{
	const char *names[256];
	size_t n = 0;
	for (int32_t i = 0; i < lora_family_count(family) && n < 256; i++) names[n++] = lora_family_name(family, i);
	const char *near = nearest_name(name, names, n);
	if (near) return fail(USAGE, name, "no such %s; did you mean '%s'?", what, near);
	return fail(USAGE, name, "no such %s; 'lora methods%s%s' lists them", what, family ? " " : "", family ? family : "");
}

static int has_member(const char *family, const char *name)
{
	for (int32_t i = 0; i < lora_family_count(family); i++)
		if (!strcmp(lora_family_name(family, i), name)) return 1;
	return 0;
}

static int run(const args *a)
{
	session s;
	int status;
	const char *family = a->n_positional ? a->positional[0] : NULL, *name = a->n_positional > 1 ? a->positional[1] : NULL;

	if (family && !has_member(NULL, family)) return unknown("family", NULL, family);
	if (name && !has_member(family, name)) return unknown("member", family, name);
	args plain = *a;
	/* "auto" loads the plug-ins, so that they are listed */
	plain.threads = 1;
	status = session_context(&s, &plain);
	if (status) return status;
	if (name) {
		status = show_member(s.ctx, a, family, name, 1);
	} else if (family) {
		status = show_family(s.ctx, a, family);
	} else {
		for (int32_t i = 0; i < lora_family_count(NULL) && !status; i++) {
			if (i) say("\n");
			status = show_family(s.ctx, a, lora_family_name(NULL, i));
		}
	}
	session_close(&s);
	return status;
}

const command command_methods = { "methods", "[FAMILY [NAME]]",
	"list the families and their members, with settings, defaults and sources",
	"Without words all families and members; with a family its members; with a member its settings.\n", "", 0, 2, run };
