/* PEFT's adapter directories: adapter_config.json and adapter_model.safetensors. This layer knows the file's words and their types, no model
 * and no method: whether something is supported is for the adapter layer to say.
 * Source: huggingface/peft, config.py, tuners/lora/config.py, utils/save_and_load.py. */
#ifndef LORA_FORMAT_PEFT_H
#define LORA_FORMAT_PEFT_H

#include "format/safetensors.h"

#define LORA__PEFT_CONFIG  "adapter_config.json"
#define LORA__PEFT_WEIGHTS "adapter_model.safetensors"

/* A checked configuration. Every known key has a value of a legal type; the values below are read out, with PEFT's defaults.
 * Errors of the readers: LORA_E_FORMAT not JSON, not an object, peft_type missing or no string, a key of the wrong type, lora_alpha missing;
 * LORA_E_UNSUPPORTED a peft_type that PEFT does not have; LORA_E_ARGUMENT r that is not a whole number of 1 or more, target_modules that names
 * nothing; LORA_E_LIMIT r, or target_modules, too large. */
typedef struct lora__peft_config {
	lora_context *ctx;
	json_t       *object;       /* the whole document, all keys; owned */
	const char   *peft_type;    /* "LORA", ...; borrowed from object, as all text here */
	int64_t       r;            /* LORA: required, 1 .. 2^31 - 1 (8.0 counts as 8); other types: 0 when absent */
	double        lora_alpha;   /* LORA: required, any finite number, 0 and negative too; other types: 8 when absent */
	double        lora_dropout; /* 0 .. 1 */
	int           use_rslora, use_dora, fan_in_fan_out, lora_bias, inference_mode;
	const char   *bias;         /* "none", "all", "lora_only" */
	const char   *task_type, *base_model_name_or_path; /* NULL when null; text only, never a path to open */
} lora__peft_config;

/* what names the text in messages. */
lora_status lora__peft_parse(lora_context *ctx, const char *text, size_t n, const char *what, lora__peft_config *out);
void        lora__peft_close(lora__peft_config *c);
/* Value of a key, borrowed; NULL when absent or null. */
const json_t *lora__peft_get(const lora__peft_config *c, const char *key);
/* Keys that this layer does not know: call with *iter = NULL, then again until it returns NULL. They are carried over by a save. */
const char *lora__peft_next_unknown(const lora__peft_config *c, void **iter);
int         lora__peft_key_known(const char *key);

/* Open a directory: config and weights (heap copy). A missing half: LORA_E_NOTFOUND that names it; weights only as adapter_model.bin (pickle):
 * LORA_E_UNSUPPORTED. The shape of tensors is not looked at. An interrupted save is seen through (lora__dir_current). */
lora_status lora__peft_open(lora_context *ctx, const char *dir, lora__peft_config *config, lora__tensors *weights);

/* Text of adapter_config.json as PEFT writes it (indent 2, sorted keys, ASCII with \u escapes): carried (object or NULL) with the keys of
 * set (object) put over it, inference_mode true, without runtime_config. */
lora_status lora__peft_config_text(lora_context *ctx, const json_t *carried, const json_t *set, lora__text *out);

/* Write both files as one directory, atomically; other files and folders that are in it stay. Metadata is {"format":"pt"}. */
lora_status lora__peft_save(lora_context *ctx, const char *dir, const json_t *carried, const json_t *set, const lora__tensor *list, size_t n);

/* --- tensor names --- */

enum { LORA__PEFT_BARE = 0, LORA__PEFT_SHORT = 1, LORA__PEFT_FULL = 2 };

/* A tensor name taken apart. module and adapter point into the name that was split. */
typedef struct lora__peft_name {
	const char *module;    /* path in the base model */
	size_t      module_n;
	const char *leaf;      /* canonical, static: "lora_A.weight", "lora_embedding_A", ... */
	const char *adapter;   /* adapter name inside ("lora_A.default.weight"), or NULL */
	size_t      adapter_n;
	int         prefix;    /* "base_model.model." was there (FULL), only "base_model." (SHORT), or neither (BARE) */
} lora__peft_name;

/* Length of the prefix that PEFT puts in front of the base model's names, 0 to 17; prefix may be NULL. */
size_t lora__peft_prefix(const char *name, int *prefix);
/* Take name apart at one leaf, "lora_A.weight" or "lora_magnitude_vector"; both are found with and without ".weight" and with an adapter's name
 * inside. leaf must be static. 1 = it ends so. */
int lora__peft_split_leaf(const char *name, const char *leaf, lora__peft_name *out);
/* The same at any leaf that PEFT's methods have. 0: out->module is the whole name without prefix, out->leaf is "". */
int lora__peft_split_name(const char *name, lora__peft_name *out);

#endif
