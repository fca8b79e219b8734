/* context.h and settings.h in the allocation sweep. */
#include "torture.h"

static lora_status context_create(world *w) { return check_context_create(&w->ca, 1, &w->ctx); }
static lora_status context_threads(world *w) { return check_context_create(&w->ca, 3, &w->ctx); }

static lora_status settings_create(world *w)
{
	lora_settings *s = NULL;
	lora_status    st = lora_settings_create(w->ctx, &s);
	MADE(w, lora_settings_destroy, s);
	return st;
}

static lora_status set_int(world *w) { return lora_settings_set_int(w->settings, "another", 5); }
static lora_status replace_int(world *w) { return lora_settings_set_int(w->settings, "r", 5); }
static lora_status set_bool(world *w) { return lora_settings_set_bool(w->settings, "flag", 1); }
static lora_status set_float(world *w) { return lora_settings_set_float(w->settings, "rate", 0.25); }
static lora_status set_string(world *w) { return lora_settings_set_string(w->settings, "word", "value"); }
static lora_status set_json(world *w) { return lora_settings_set_json(w->settings, "list", "[\"q_proj\", {\"a\": 1.5}]"); }
static lora_status set_text(world *w) { return lora_settings_set_text(w->settings, "list", "not json"); }
static lora_status from_json(world *w)
{
	static const char json[] = "{\"r\": 9, \"a\": [1, 2, 3], \"b\": {\"c\": null}, \"d\": \"text\"}";
	return lora_settings_from_json(w->settings, json, sizeof json - 1);
}
static lora_status to_json(world *w) { return lora_settings_to_json(w->settings, w->text, sizeof w->text, &w->size); }

static lora_status describe_all(world *w)
{
	static char text[1 << 16];
	for (int32_t f = 0; f < lora_family_count(NULL); f++) {
		const char *family = lora_family_name(NULL, f);
		for (int32_t i = 0; i < lora_family_count(family); i++) {
			lora_status st = lora_family_describe(w->ctx, family, lora_family_name(family, i), text, sizeof text, &w->size);
			if (st) return st;
		}
	}
	return LORA_OK;
}

const torture_call calls_base[] = {
	{ "lora_context_create", NO_CONTEXT, NULL, context_create },
	{ "lora_context_create, 3 threads", NO_CONTEXT, NULL, context_threads },
	{ "lora_settings_create", 0, NULL, settings_create },
	{ "lora_settings_set_int", WITH_SETTINGS, NULL, set_int },
	{ "lora_settings_set_int, again", WITH_SETTINGS, NULL, replace_int },
	{ "lora_settings_set_bool", WITH_SETTINGS, NULL, set_bool },
	{ "lora_settings_set_float", WITH_SETTINGS, NULL, set_float },
	{ "lora_settings_set_string", WITH_SETTINGS, NULL, set_string },
	{ "lora_settings_set_json", WITH_SETTINGS, NULL, set_json },
	{ "lora_settings_set_text", WITH_SETTINGS, NULL, set_text },
	{ "lora_settings_from_json", WITH_SETTINGS, NULL, from_json },
	{ "lora_settings_to_json", WITH_SETTINGS, NULL, to_json },
	{ "lora_family_describe, all members", 0, NULL, describe_all },
	{ 0 },
};
