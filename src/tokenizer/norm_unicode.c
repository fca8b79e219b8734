/* Normalizers NFC, NFD, NFKC, NFKD. Source: Unicode Standard Annex 15. */
#include "tokenizer/tok.h"

#define FORM(name, compose, compat)                                                                                                            \
	static lora_status name(const void *self, lora__tok_call *c, const char *s, size_t n, lora__tok_buf *out, int *first)                      \
	{                                                                                                                                          \
		(void)self, (void)first;                                                                                                               \
		return lora__tok_normal_form(c->ctx, s, n, compose, compat, out);                                                                      \
	}

FORM(nfc, 1, 0)
FORM(nfd, 0, 0)
FORM(nfkc, 1, 1)
FORM(nfkd, 0, 1)

const lora__tok_norm lora__norms_unicode[] = {
	{ "NFC", NULL, nfc, NULL },
	{ "NFD", NULL, nfd, NULL },
	{ "NFKC", NULL, nfkc, NULL },
	{ "NFKD", NULL, nfkd, NULL },
	{ 0 },
};
