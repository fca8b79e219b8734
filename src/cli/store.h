/* lora: bytes that grow, in memory at first and above a limit in a temporary file that is mapped: what was put there leaves memory when memory is
 * short, so data may be larger than that. */
#ifndef LORA_CLI_STORE_H
#define LORA_CLI_STORE_H

#include "cli/cli.h"

typedef struct store {
	void *p;
	size_t n, cap;   /* bytes */
	size_t limit;    /* in memory at most */
	size_t touched;  /* bytes of the mapping used since its pages were last let go */
	int mapped, fd;
} store;

int store_put(store *s, const void *data, size_t bytes); /* zeros when data is NULL */
/* Bytes were used here and there: after some of these the pages leave this process (the file keeps them), so that its share of memory is bounded. */
void store_used(store *s, size_t bytes);
void store_free(store *s);

#endif
