/* PEFT directories as a whole: open both files, save both files. The config is written as Python's json.dumps(indent=2, sort_keys=True) writes
 * it: ASCII with \u escapes, numbers in their shortest form that reads back. Source: huggingface/peft, config.py, PeftConfigMixin. */
#include "format/peft.h"

#include <stdlib.h>
#include <string.h>

lora_status lora__peft_open(lora_context *ctx, const char *dir, lora__peft_config *config, lora__tensors *weights)
{
	lora__blob  text = { 0 };
	char       *config_path = NULL, *weights_path = NULL, *pickle_path = NULL, *real = lora__dir_current(ctx, dir);
	lora_status st = LORA_E_MEMORY;
	*config = (lora__peft_config){ .ctx = ctx };
	*weights = (lora__tensors){ .ctx = ctx };
	if (!real) return st;
	config_path = lora__path_join(ctx, real, LORA__PEFT_CONFIG);
	weights_path = lora__path_join(ctx, real, LORA__PEFT_WEIGHTS);
	pickle_path = lora__path_join(ctx, real, "adapter_model.bin");
	if (!config_path || !weights_path || !pickle_path) goto done;
	st = lora__blob_read(ctx, config_path, ctx->limits.json_bytes, &text);
	if (st == LORA_E_NOTFOUND)
		lora__fail_at(ctx, st, "peft", config_path, -1, "%s: %s", lora__quote(config_path).text,
		              lora__path_exists(weights_path) ? "missing, though the weights are there" : "no such file: not an adapter directory");
	if (st) goto done;
	st = lora__peft_parse(ctx, (const char *)text.data, text.n, config_path, config);
	if (st) goto done;
	st = lora__safetensors_read(ctx, weights_path, weights);
	if (st == LORA_E_NOTFOUND && lora__path_exists(pickle_path))
		st = lora__fail_at(ctx, LORA_E_UNSUPPORTED, "peft", pickle_path, -1, "%s: weights are a Python pickle; save them again as safetensors",
		                   lora__quote(pickle_path).text);
	else if (st == LORA_E_NOTFOUND)
		lora__fail_at(ctx, st, "peft", weights_path, -1, "%s: missing, though the config is there", lora__quote(weights_path).text);
	if (st) lora__peft_close(config);
done:
	lora__blob_close(ctx, &text);
	lora__free(ctx, real);
	lora__free(ctx, config_path);
	lora__free(ctx, weights_path);
	lora__free(ctx, pickle_path);
	return st;
}

/* Every character beyond printable ASCII as \uxxxx, as Python's ensure_ascii does (outside strings there are none but line feeds). */
static void put_ascii(lora__text *out, const char *s, size_t n)
{
	for (size_t i = 0; i < n;) {
		size_t plain = i;
		while (i < n && (unsigned char)s[i] < 0x7f) i++;
		lora__text_add(out, s + plain, i - plain);
		if (i >= n) break;
		unsigned char c = (unsigned char)s[i];
		size_t        len = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0x80 ? 2 : 1;
		uint32_t      u = len == 1 ? c : c & (0xffu >> (len + 1));
		if (len > n - i) break; /* jansson gives valid UTF-8 only */
		for (size_t k = 1; k < len; k++) u = u << 6 | ((unsigned char)s[i + k] & 0x3f);
		i += len;
		if (u >= 0x10000) {
			u -= 0x10000;
			lora__text_printf(out, "\\u%04x\\u%04x", 0xd800 + (unsigned)(u >> 10), 0xdc00 + (unsigned)(u & 0x3ff));
		} else {
			lora__text_printf(out, "\\u%04x", (unsigned)u);
		}
	}
}

lora_status lora__peft_config_text(lora_context *ctx, const json_t *carried, const json_t *set, lora__text *out)
{
	lora__text  raw;
	json_t     *all = carried ? json_copy((json_t *)(uintptr_t)carried) : json_object();
	lora_status st = LORA_OK;
	lora__text_init(&raw, ctx);
	if (!all || !json_is_object(all) || (set && json_object_update(all, (json_t *)(uintptr_t)set)) ||
	    json_object_set_new(all, "inference_mode", json_true()))
		st = lora__fail(ctx, LORA_E_MEMORY, "peft", "out of memory while writing " LORA__PEFT_CONFIG);
	json_object_del(all, "runtime_config"); /* never written, as in PEFT */
	if (!st) st = lora__json_dump(ctx, all, 2, &raw);
	if (!st) put_ascii(out, raw.data, raw.n);
	json_decref(all);
	lora__text_free(&raw);
	return st ? st : out->status;
}

lora_status lora__peft_save(lora_context *ctx, const char *dir, const json_t *carried, const json_t *set, const lora__tensor *list, size_t n)
{
	lora__dir   d = { .folder = -1 };
	lora__text  text;
	json_t     *metadata = json_pack("{s:s}", "format", "pt");
	lora_status st = metadata ? LORA_OK : lora__fail(ctx, LORA_E_MEMORY, "peft", "out of memory while saving");
	lora__text_init(&text, ctx);
	if (!st) st = lora__peft_config_text(ctx, carried, set, &text);
	if (!st) st = lora__dir_begin(ctx, dir, &d);
	if (st) goto done;
	d.keep = 1;
	st = lora__dir_file(&d, LORA__PEFT_CONFIG, &(lora__piece){ text.data, text.n }, 1);
	if (!st) st = lora__safetensors_write_dir(&d, LORA__PEFT_WEIGHTS, list, n, metadata);
	if (!st) st = lora__dir_commit(&d);
	else lora__dir_abort(&d);
done:
	json_decref(metadata);
	lora__text_free(&text);
	return st;
}
