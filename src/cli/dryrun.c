/* lora train --dry-run: the memory that training will take, told before any is trained. */
#include "cli/dryrun.h"

#include <unistd.h>

/* Resident bytes now that the library's context does not hold: the program, its libraries, the data, the tokenizer. */
static uint64_t program_bytes(const session *s)
{
	unsigned long long size = 0, resident = 0;
	uint64_t held = 0, now;
	FILE *f = fopen("/proc/self/statm", "r");
	if (f && fscanf(f, "%llu %llu", &size, &resident) != 2) resident = 0;
	if (f) fclose(f);
	now = (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
	lora_context_memory(s->ctx, &held, NULL);
	return now > held ? now - held : 0;
}

int dry_run(const session *s, lora_trainer *trainer, const dataset *data, int64_t max_steps)
{
	lora_memory_estimate e = { .struct_size = sizeof e };
	uint64_t program = program_bytes(s);
	data_shape d = data_largest(data);

	if (lora_trainer_estimate(trainer, d.sequences, d.length, d.tokens, &e)) return fail_library(s->ctx, "--dry-run");
	const struct {
		const char *name, *help;
		uint64_t bytes;
	} rows[] = { { "weights", "frozen weights that stay as they are", e.weights },
		{ "packed", "frozen weights in the backend's layout", e.packed },
		{ "adapter", "parameters and gradients", e.adapter },
		{ "optimizer", "its state", e.optimizer },
		{ "activations", "kept from forward to backward", e.activations },
		{ "scratch", "of single operations", e.scratch },
		{ "other", "names, tables, plans", e.other },
		{ "backend", "what it keeps for itself, about", e.backend },
		{ "program", "the program itself, data, tokenizer", program },
		{ "peak", "most at one time", e.peak + program } };
	enum { N = sizeof rows / sizeof *rows };
	if (json_wanted()) {
		json_t *o = json_pack("{s:b, s:I, s:I, s:I, s:I}", "dry_run", 1, "sequences", (json_int_t)d.sequences, "length",
			(json_int_t)d.length, "tokens", (json_int_t)e.tokens, "max_steps", (json_int_t)max_steps);
		for (int i = 0; i < N; i++) json_object_set_new(o, rows[i].name, json_integer((json_int_t)rows[i].bytes));
		return print_json(o);
	}
	say("memory of %lld steps on batches of up to %lld x %lld, %lld tokens (%s, %s)\n", (long long)max_steps, (long long)d.sequences,
		(long long)d.length, (long long)e.tokens, lora_context_backend_name(s->ctx), dtype_name(s->info.compute_dtype));
	for (int i = 0; i < N; i++)
		say("  %-12s %10.1f MiB  %s\n", rows[i].name, (double)rows[i].bytes / 1048576, rows[i].help);
	return OK;
}
