/* Regular expressions of adapter settings: full match as Python's re.fullmatch, through PCRE2 with match limits, so that no pattern takes
 * exponential time. PCRE2's memory comes from the context. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "adapter/adapter.h"

enum { MATCH_LIMIT = 200000, DEPTH_LIMIT = 2000, HEAP_KIB = 4096 };

static void *take(PCRE2_SIZE n, void *ctx) { return lora__alloc(ctx, n); }
static void give(void *p, void *ctx) { lora__free(ctx, p); }

static lora_status result(lora_context *ctx, int rc, const char *pattern, const char *what, int *yes)
{
	*yes = rc >= 0;
	if (rc >= 0 || rc == PCRE2_ERROR_NOMATCH) return LORA_OK;
	if (rc == PCRE2_ERROR_NOMEMORY) return LORA_E_MEMORY;
	if (rc == PCRE2_ERROR_MATCHLIMIT || rc == PCRE2_ERROR_DEPTHLIMIT || rc == PCRE2_ERROR_HEAPLIMIT)
		return lora__fail_at(ctx, LORA_E_LIMIT, "adapter", what, -1, "%s: the regular expression %s takes too long to match", what, lora__quote(pattern).text);
	return lora__fail_at(ctx, LORA_E_ARGUMENT, "adapter", what, -1, "%s: the regular expression %s cannot be matched (PCRE2 error %d)", what,
		lora__quote(pattern).text, rc);
}

lora_status lora__regex_match(lora_context *ctx, const char *pattern, const char *what, const char *text, int *yes)
{
	lora_status st = LORA_E_MEMORY;
	int error;
	PCRE2_SIZE at;
	pcre2_compile_context *cc = NULL;
	pcre2_match_context *mc = NULL;
	pcre2_match_data *md = NULL;
	pcre2_code *code = NULL;
	pcre2_general_context *gc = pcre2_general_context_create(take, give, ctx);
	if (!gc || !(cc = pcre2_compile_context_create(gc)) || !(mc = pcre2_match_context_create(gc))) goto done;
	pcre2_set_match_limit(mc, MATCH_LIMIT);
	pcre2_set_depth_limit(mc, DEPTH_LIMIT);
	pcre2_set_heap_limit(mc, HEAP_KIB);
	code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_UTF, &error, &at, cc);
	if (!code) {
		PCRE2_UCHAR text_of[120];
		if (error == PCRE2_ERROR_NOMEMORY || error == 121) goto done; /* 121: no memory for the compiled pattern */
		pcre2_get_error_message(error, text_of, sizeof text_of);
		st = lora__fail_at(ctx, LORA_E_ARGUMENT, "adapter", what, (int64_t)at, "%s: bad regular expression %s at offset %zu: %s", what,
			lora__quote(pattern).text, (size_t)at, (const char *)text_of);
		goto done;
	}
	if (!(md = pcre2_match_data_create_from_pattern(code, gc))) goto done;
	st = result(ctx, pcre2_match(code, (PCRE2_SPTR)text, strlen(text), 0, 0, md, mc), pattern, what, yes);
done:
	pcre2_match_data_free(md);
	pcre2_code_free(code);
	pcre2_match_context_free(mc);
	pcre2_compile_context_free(cc);
	pcre2_general_context_free(gc);
	if (st == LORA_E_MEMORY) lora__fail(ctx, LORA_E_MEMORY, "adapter", "out of memory while matching %s", what);
	return st;
}
