/* Parameter schemas: one table per family member, from which come parsing, bounds errors, introspection, docs and random valid settings.
 * And lora_settings, the (name, value) pairs that are checked against them. */
#ifndef LORA_BASE_SCHEMA_H
#define LORA_BASE_SCHEMA_H

#include "base/json.h"
#include "lora/settings.h"

typedef enum {
	LORA__BOOL = 1,
	LORA__INT,
	LORA__FLOAT,
	LORA__STRING,
	LORA__STRINGS,    /* list of strings */
	LORA__NAMES,      /* string or list of strings or null (target_modules) */
	LORA__INTS,       /* int or list of ints or null */
	LORA__INT_MAP,    /* object name -> int */
	LORA__FLOAT_MAP,  /* object name -> number */
	LORA__BOOL_STRING,/* bool or string (init_lora_weights) */
	LORA__ANY         /* carried, not looked at */
} lora__type;

typedef struct lora__param {
	const char *name;    /* NULL ends the table */
	lora__type  type;
	const char *def;     /* default as JSON text; NULL = null (not set) */
	double      min, max; /* for numbers, when min < max */
	const char *choices; /* for strings: "a|b|c", or NULL */
	const char *help;
} lora__param;

/* What every descriptor of every family begins with. */
typedef struct lora__member {
	const char        *name;
	const char        *help;
	const char        *source; /* paper and equation, or the reference implementation matched */
	const lora__param *params; /* may be NULL */
} lora__member;

struct lora_settings {
	lora_context *ctx;
	json_t       *object;
};

/* Check that every key of s is in one of the tables (each may be NULL) and fits its type, range and choices.
 * who names the taker in messages. Unknown keys: LORA_E_ARGUMENT with the nearest known name. s may be NULL. */
lora_status lora__settings_check(lora_context *ctx, const lora_settings *s, const char *who, const lora__param *a, const lora__param *b,
                                 const lora__param *c);

/* Values with the table's default when not set. The settings must have passed lora__settings_check(); s may be NULL.
 * The name must be in the table. Strings and json are borrowed from the settings or the table. */
int64_t     lora__get_int(const lora_settings *s, const lora__param *table, const char *name);
double      lora__get_float(const lora_settings *s, const lora__param *table, const char *name);
int         lora__get_bool(const lora_settings *s, const lora__param *table, const char *name);
const char *lora__get_string(const lora_settings *s, const lora__param *table, const char *name); /* NULL when null */
/* The raw value, borrowed; NULL when not set (default not applied) or JSON null. */
const json_t *lora__get_json(const lora_settings *s, const char *name);
int lora__has(const lora_settings *s, const char *name);

/* Copy of settings (new handle); from may be NULL. */
lora_status lora__settings_copy(lora_context *ctx, const lora_settings *from, lora_settings **out);

/* One member as JSON for lora_family_describe(). */
lora_status lora__member_json(lora_context *ctx, const char *family, const lora__member *m, lora__text *out);

/* Append "did you mean ..." to nothing: the nearest of n names by edit distance, or NULL when none is near. */
const char *lora__nearest(const char *name, const char *const *names, size_t n);

#endif
