/* Teach the demo's model to write like a pirate's log book: open, train, save. Run it from the top of the source tree:
 * quickstart [STEPS [OUT]]. quickstart.py and quickstart.rs do the same and write the same bytes. */
#include <lora/lora.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SEQUENCES = 8, LENGTH = 64, WINDOW = SEQUENCES * LENGTH };

static lora_context *ctx;
static void must(lora_status st)
{
	if (st) fprintf(stderr, "%s: %s\n", lora_status_name(st), lora_context_last_error(ctx)), exit(1);
}
static lora_settings *settings(const char *json)
{
	lora_settings *s;
	must(lora_settings_create(ctx, &s));
	must(lora_settings_from_json(s, json, strlen(json)));
	return s;
}

int main(int argc, char **argv)
{
	int steps = argc > 1 ? atoi(argv[1]) : 100;
	const char *out = argc > 2 ? argv[2] : "pirate-adapter";
	lora_model *model;
	lora_tokenizer *tokenizer;
	lora_adapter *adapter;
	lora_optimizer *optimizer;
	lora_trainer *trainer;
	static char text[1 << 20];
	static int32_t ids[1 << 20];
	size_t count;
	FILE *file = fopen("examples/demo/pirate.txt", "rb");
	size_t bytes = file ? fread(text, 1, sizeof text, file) : 0;

	must(lora_context_create(LORA_ABI, NULL, &ctx));
	must(lora_model_open(ctx, "examples/demo/model", NULL, &model));
	must(lora_tokenizer_open(ctx, "examples/demo/model", &tokenizer));
	must(lora_tokenizer_encode(tokenizer, text, bytes, 0, ids, 1 << 20, &count));

	must(lora_adapter_create(model, "lora", settings("{\"r\": 8, \"lora_alpha\": 16, \"target_modules\": \"all-linear\"}"), &adapter));
	must(lora_adapter_attach(adapter, 1.0));
	must(lora_optimizer_create(adapter, "adamw", settings("{\"learning_rate\": 0.005}"), &optimizer));
	must(lora_trainer_create(model, adapter, optimizer, settings("{\"max_grad_norm\": 1.0}"), &trainer));

	for (int i = 0; i < steps; i++) {
		const int32_t *at = ids + (size_t)i * WINDOW % (count - WINDOW);
		lora_batch batch = {.struct_size = sizeof batch, .n_sequences = SEQUENCES, .length = LENGTH, .input_ids = at, .labels = at};
		lora_metrics now = {.struct_size = sizeof now};
		must(lora_trainer_step(trainer, &batch, &now));
		if (i % 10 == 0 || i == steps - 1) printf("step %3d  loss %.4f\n", i + 1, now.loss);
	}
	must(lora_adapter_save(adapter, out, NULL)); /* a PEFT directory: Python's peft loads it too */
	printf("saved %s\n", out);
	return 0;
}
