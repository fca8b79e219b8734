/* lora: the output directory of train.
 *   adapter_config.json, adapter_model.safetensors   the adapter, there when a run has come to its end
 *   checkpoint/                                      the trainer's state (lora_trainer_save)
 *   log.jsonl                                        one line per step, as with --json
 *   train.json                                       the settings, so that --resume needs none */
#ifndef LORA_CLI_TRAINOUT_H
#define LORA_CLI_TRAINOUT_H

#include "cli/cli.h"

typedef struct train_out {
	const char *dir;
	char *checkpoint, *log_path, *settings_path;
	FILE *log;
	int made; /* the directory did not exist before */
} train_out;

/* Refuse what is no output of train. Nothing is changed. */
int train_out_check(train_out *o, const args *a);
/* Settings of the run that --resume takes up; {"settings":{}, "init":...}. */
int train_out_before(const train_out *o, json_t **out);
/* Make the directory, or clear what an older run left. */
int train_out_begin(train_out *o, json_t *settings, const char *init);
/* Go on: the log keeps what is not after step; settings that were changed (more max_steps) are kept for the next time. */
int train_out_continue(train_out *o, int64_t step, json_t *settings, const char *init);
int train_out_log(train_out *o, json_t *line); /* borrowed */
/* Put the adapter in place. */
int train_out_adapter(train_out *o, lora_context *ctx, lora_adapter *adapter);
void train_out_close(train_out *o);

#endif
