/* Plug-ins: finding, loading and checking liblora_<name>.so. Internal to backend/. */
#ifndef LORA_BACKEND_PLUGIN_H
#define LORA_BACKEND_PLUGIN_H

#include "base/context.h"

enum { LORA__PLUGIN_MAX = 32, LORA__PLUGIN_NAME = 32, LORA__PLUGIN_PATH = 1200 };

/* Names of the plug-ins in the context's plug-in folders, sorted, each once. Returns how many, at most LORA__PLUGIN_MAX. */
int lora__plugin_scan(lora_context *ctx, char names[][LORA__PLUGIN_NAME]);

/* Load one by name (or find it loaded) and check its table. *out lives for ever; members beyond its struct_size are NULL.
 * Errors LORA_E_BACKEND, with a message that names the file and what is wrong with it */
lora_status lora__plugin_load(lora_context *ctx, const char *name, const lora_backend_v1 **out);

/* Plug-ins that were loaded in this process. */
int                    lora__plugin_count(void);
const lora_backend_v1 *lora__plugin_table(int i);

#endif
