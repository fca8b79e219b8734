/* liblora: settings: (name, value) pairs, checked against the schema of the thing that takes them; and
 * introspection of every family (backends, architectures, adapter kinds, optimizers, schedules, ...).
 * Names are PEFT's and transformers' wherever those have the setting. */
#ifndef LORA_SETTINGS_H
#define LORA_SETTINGS_H

#include "lora/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Create an empty set of settings.
 * out      returned owned
 * Errors   LORA_E_ARGUMENT; LORA_E_MEMORY
 * Thread   exclusive(context)
 * Since    0.1 */
LORA_API lora_status lora_settings_create(lora_context *ctx, lora_settings **out);

/* Release settings. NULL is a no-op.
 * Thread   exclusive(settings)
 * Since    0.1 */
LORA_API void lora_settings_destroy(lora_settings *s);

/* Set an integer. A later value of the same name replaces the earlier one.
 * name     copied
 * Errors   LORA_E_ARGUMENT NULL or empty name; LORA_E_MEMORY
 * Thread   exclusive(settings)
 * Since    0.1 */
LORA_API lora_status lora_settings_set_int(lora_settings *s, const char *name, int64_t value);

/* Set a boolean (0 or 1).
 * Errors   as lora_settings_set_int; LORA_E_ARGUMENT value other than 0 or 1
 * Thread   exclusive(settings)
 * Since    0.1 */
LORA_API lora_status lora_settings_set_bool(lora_settings *s, const char *name, int32_t value);

/* Set a real number.
 * Errors   as lora_settings_set_int; LORA_E_ARGUMENT value is not finite
 * Thread   exclusive(settings)
 * Since    0.1 */
LORA_API lora_status lora_settings_set_float(lora_settings *s, const char *name, double value);

/* Set a string.
 * value    copied; UTF-8
 * Errors   as lora_settings_set_int; LORA_E_ARGUMENT value is NULL or not UTF-8
 * Thread   exclusive(settings)
 * Since    0.1 */
LORA_API lora_status lora_settings_set_string(lora_settings *s, const char *name, const char *value);

/* Set any value from JSON text, such as "[\"q_proj\",\"v_proj\"]" or "{\"k_proj\":4}".
 * json     copied
 * Errors   as lora_settings_set_int; LORA_E_FORMAT not JSON (line and column in the message)
 * Thread   exclusive(settings)
 * Since    0.1 */
LORA_API lora_status lora_settings_set_json(lora_settings *s, const char *name, const char *json);

/* Set from text as a command line gives it: JSON where it parses as JSON (numbers, true, lists), else the string itself.
 * Errors   as lora_settings_set_int
 * Thread   exclusive(settings)
 * Since    0.1 */
LORA_API lora_status lora_settings_set_text(lora_settings *s, const char *name, const char *text);

/* Read an integer. A real number without fraction counts as one.
 * Errors   LORA_E_NOTFOUND not set; LORA_E_ARGUMENT of another type
 * Thread   exclusive(settings)
 * Since    0.1 */
LORA_API lora_status lora_settings_get_int(const lora_settings *s, const char *name, int64_t *out);

/* Read a real number (an integer counts).
 * Errors   as lora_settings_get_int
 * Thread   exclusive(settings)
 * Since    0.1 */
LORA_API lora_status lora_settings_get_float(const lora_settings *s, const char *name, double *out);

/* Read a string.
 * out      returned borrowed from the settings, until the name is set again
 * Errors   as lora_settings_get_int
 * Thread   exclusive(settings)
 * Since    0.1 */
LORA_API lora_status lora_settings_get_string(const lora_settings *s, const char *name, const char **out);

/* Take over all pairs of a JSON object; those already set are replaced.
 * json     borrowed for the call, n bytes
 * Errors   LORA_E_FORMAT (line and column); LORA_E_LIMIT; LORA_E_MEMORY; the settings are as before on failure
 * Thread   exclusive(settings)
 * Since    0.1 */
LORA_API lora_status lora_settings_from_json(lora_settings *s, const char *json, size_t n);

/* Write all pairs as a JSON object, keys sorted.
 * buf      at least size bytes; may be NULL when size is 0
 * needed   bytes including the final NUL; may be NULL
 *          size 0 with needed set only asks for the size
 * Errors   LORA_E_LIMIT buf is too small (needed is set, buf untouched); LORA_E_MEMORY
 * Thread   exclusive(settings)
 * Since    0.1 */
LORA_API lora_status lora_settings_to_json(const lora_settings *s, char *buf, size_t size, size_t *needed);

/* Number of members of a family; with family NULL the number of families; -1 for an unknown family.
 * Thread   any
 * Since    0.1 */
LORA_API int32_t lora_family_count(const char *family);

/* Name of member i of a family; with family NULL the name of family i.
 * Returns  returned borrowed from the library, for ever; NULL when out of range
 * Thread   any
 * Since    0.1 */
LORA_API const char *lora_family_name(const char *family, int32_t i);

/* Describe one member as JSON: {"family","name","help","source","settings":[{"name","type","default","min","max","choices","help"}]}.
 * buf, size, needed  as lora_settings_to_json()
 * Errors   LORA_E_NOTFOUND no such family or member; LORA_E_LIMIT buf too small; LORA_E_MEMORY
 * Thread   exclusive(context)
 * Since    0.1 */
LORA_API lora_status lora_family_describe(lora_context *ctx, const char *family, const char *member, char *buf, size_t size,
                                          size_t *needed);

#ifdef __cplusplus
}
#endif
#endif
