/* Test support: a context whose memory is counted and a scratch folder, for each test of a program anew. Include it after <check.h>. */
#ifndef LORA_TESTS_ROOM_H
#define LORA_TESTS_ROOM_H

#include "check_alloc.h"
#include "faults.h"

static check_alloc   ca;
static lora_context *ctx;
static scratch       room;

static void setup(void)
{
	check_alloc_init(&ca);
	ctx = check_context(&ca);
	scratch_make(&room);
}

static void teardown(void)
{
	scratch_remove(&room);
	lora_context_destroy(ctx);
	check_alloc_done(&ca);
}

#endif
