/* Fuzz target: a .jsonl of training data, through the program's own reader, with and without --skip-bad. Examples have their lengths within
 * sequence_length and ids of the tokenizer, and every unit of an epoch comes once. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/data.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static session s;
static char path[] = "/tmp/lora-fuzz-XXXXXX.jsonl";
static const char words[] = "{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"WordLevel\",\"unk_token\":\"a\",\"vocab\":{\"a\":0,\"b\":1,\"\xc4\xa0" "b\":2}}}";

static void trap(const char *what)
{
	fprintf(stderr, "fuzz: %s\n", what);
	__builtin_trap();
}

static void start(void)
{
	char name[] = "/tmp/lora-fuzz-XXXXXX.json";
	int fd = mkstemps(name, 5);
	if (fd < 0 || write(fd, words, sizeof words - 1) != (ssize_t)(sizeof words - 1) || close(fd)) abort();
	lora_context_options o;
	lora_context_options_init(&o, sizeof o);
	o.threads = 1;
	if (lora_context_create(LORA_ABI, &o, &s.ctx) || lora_tokenizer_open(s.ctx, name, &s.tokenizer)) abort();
	unlink(name);
	fd = mkstemps(path, 6);
	if (fd < 0 || close(fd)) abort();
	s.info.vocab_size = 3;
	s.info.eos_token_id = 1;
	s.info.pad_token_id = -1;
	args quiet;
	memset(&quiet, 0, sizeof quiet);
	quiet.quiet = 1;
	report_setup(&quiet);
}

static void check(dataset *d)
{
	int64_t tokens = 0, seen = 0;
	for (int64_t i = 0; i < d->n_examples; i++) {
		size_t n = data_length(d, (size_t)i);
		if (!n || n > 16) trap("an example of a wrong length");
		tokens += (int64_t)n;
	}
	for (int64_t i = 0; i < data_batches(d); i++) {
		lora_batch b;
		if (data_batch(d, i, &b)) trap("no batch");
		for (int64_t k = 0; k < b.n_sequences * b.length; k++) {
			if (b.input_ids[k] < 0 || b.input_ids[k] > 2) trap("an id that is none");
			seen += b.attention_mask[k];
		}
	}
	if (seen != tokens) trap("tokens came more or less than once");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!s.ctx) start();
	FILE *f = fopen(path, "wb");
	if (!f || fwrite(data, 1, size, f) != size || fclose(f)) abort();
	for (int way = 0; way < 4; way++) {
		data_options o = { .batch_size = 2, .sequence_length = 16, .packing = way & 1, .by_length = way & 1, .completion_only = !(way & 2), .shuffle = 1,
			.skip_bad = way & 1, .chat_template = "chatml", .memory = 1, .quiet = 1 };
		dataset d;
		s.info.n_labels = way == 3 ? 2 : 0;
		int status = data_open(&d, &s, path, NULL, &o);
		if (!status) check(&d);
		else if (status == USAGE) trap("wrong usage");
		data_close(&d);
	}
	return 0;
}
