/* The table behind gguf_pre.h: each name as the pre_tokenizer of a tokenizer.json that cuts the same way. */
#include "format/gguf_pre.h"

#include <stdio.h>
#include <string.h>

#define SPLIT(regex) "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex "\"},\"behavior\":\"Isolated\",\"invert\":false}"
#define BYTES "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":false,\"use_regex\":false}"
#define GPT2 "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":false,\"use_regex\":true}"
#define SEQUENCE(parts) "{\"type\":\"Sequence\",\"pretokenizers\":[" parts "]}"
#define CLITICS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define WORDS(numbers) CLITICS "|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|" numbers "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define GPT2_WORDS "'s|'t|'re|'ve|'m|'ll|'d| ?\\\\p{L}+| ?\\\\p{N}+| ?[^\\\\s\\\\p{L}\\\\p{N}]+|\\\\s+(?!\\\\S)"
#define LOWER "[\\\\p{Ll}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]"
#define UPPER "[\\\\p{Lu}\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]"

static const lora__gguf_pre table[] = {
	{ "gpt-2 phi-2 jina-es jina-de mpt olmo jais trillion granite-docling", GPT2, 0, 0, 0 },
	{ "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 dbrx smaug-bpe", SEQUENCE(SPLIT(WORDS("\\\\p{N}{1,3}")) "," BYTES), 1, 1, 0 },
	{ "qwen2 deepseek-r1-qwen kormo stablelm2 megrez", SEQUENCE(SPLIT(WORDS("\\\\p{N}")) "," BYTES), 0, 0, 1 },
	{ "gpt-4o llama4 kanana2",
	  SEQUENCE(SPLIT("[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?" UPPER "*" LOWER "+" CLITICS "?|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?" UPPER "+" LOWER "*" CLITICS
		"?|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n/]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+") "," BYTES), 1, 0, 0 },
	{ "smollm starcoder refact command-r codeshell exaone minerva-7b", SEQUENCE("{\"type\":\"Digits\",\"individual_digits\":true}," GPT2), 0, 0, 0 },
	{ "deepseek-v3 hunyuan-dense",
	  SEQUENCE(SPLIT("\\\\p{N}{1,3}") "," SPLIT("[一-龥぀-ゟ゠-ヿ]+") ","
		SPLIT("[!\\\"#$%&'()*+,\\\\-./:;<=>?@\\\\[\\\\\\\\\\\\]^_`{|}~][A-Za-z]+|[^\\\\r\\\\n\\\\p{L}\\\\p{P}\\\\p{S}]?[\\\\p{L}\\\\p{M}]+| ?[\\\\p{P}\\\\p{S}]+[\\\\r\\\\n]*"
		"|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+") "," BYTES), 0, 0, 0 },
	{ "default", SEQUENCE(SPLIT("[\\\\p{P}\\\\$\\\\+<=>\\\\^~\\\\|]+") "," SPLIT(GPT2_WORDS) "," SPLIT("\\\\p{N}+") "," SPLIT("[0-9][0-9][0-9]") "," BYTES), 0, 0, 0 },
	{ "falcon", SEQUENCE(SPLIT("[\\\\p{P}\\\\$\\\\+<=>\\\\^~\\\\|`]+") "," SPLIT(GPT2_WORDS) "," SPLIT("[0-9][0-9][0-9]") "," BYTES), 0, 0, 0 },
};
enum { N_PRES = sizeof table / sizeof *table };

const lora__gguf_pre *lora__gguf_pre_named(const char *name, size_t n)
{
	for (int i = 0; i < N_PRES; i++)
		for (const char *s = table[i].names; s;) {
			const char *end = strchr(s, ' ');
			if ((end ? (size_t)(end - s) : strlen(s)) == n && memcmp(s, name, n) == 0) return &table[i];
			s = end ? end + 1 : NULL;
		}
	return NULL;
}

/* What cuts the text, without the fields that do not. */
static void signature(const json_t *j, lora__text *out, int depth)
{
	const char *type = json_string_value(json_object_get(j, "type"));
	const json_t *list = json_object_get(j, "pretokenizers"), *pattern = json_object_get(j, "pattern");
	if (!type || depth > 8) {
		lora__text_puts(out, "?;");
		return;
	}
	if (strcmp(type, "Sequence") == 0) {
		for (size_t i = 0; i < json_array_size(list); i++) signature(json_array_get(list, i), out, depth + 1);
		return;
	}
	lora__text_puts(out, type);
	if (strcmp(type, "Split") == 0) {
		const char *regex = json_string_value(json_object_get(pattern, "Regex")), *literal = json_string_value(json_object_get(pattern, "String"));
		const char *behavior = json_string_value(json_object_get(j, "behavior"));
		lora__text_puts(out, regex ? "/" : "\"");
		lora__text_puts(out, regex ? regex : literal ? literal : "");
		lora__text_puts(out, behavior ? behavior : "");
		if (json_is_true(json_object_get(j, "invert"))) lora__text_puts(out, "!");
	} else if (strcmp(type, "ByteLevel") == 0) {
		lora__text_puts(out, json_is_false(json_object_get(j, "use_regex")) ? "-" : "+");
		if (json_is_true(json_object_get(j, "add_prefix_space"))) lora__text_puts(out, "p");
	} else if (strcmp(type, "Digits") == 0) {
		if (json_is_true(json_object_get(j, "individual_digits"))) lora__text_puts(out, "1");
	} else {
		lora__text_puts(out, "?");
	}
	lora__text_puts(out, ";");
}

const lora__gguf_pre *lora__gguf_pre_of(lora_context *ctx, const json_t *pre_tokenizer)
{
	lora__text mine, other;
	const lora__gguf_pre *found = NULL;
	lora__text_init(&mine, ctx);
	signature(pre_tokenizer, &mine, 0);
	for (int i = 0; i < N_PRES && !found; i++) {
		json_t *j = json_loads(table[i].json, 0, NULL);
		lora__text_init(&other, ctx);
		signature(j, &other, 0);
		if (mine.data && other.data && strcmp(mine.data, other.data) == 0) found = &table[i];
		lora__text_free(&other);
		json_decref(j);
	}
	lora__text_free(&mine);
	return found;
}
