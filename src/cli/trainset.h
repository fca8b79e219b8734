/* lora: the settings of train: those of the program itself, and those handed on to adapter, optimizer and trainer. */
#ifndef LORA_CLI_TRAINSET_H
#define LORA_CLI_TRAINSET_H

#include "cli/cli.h"

typedef struct train_plan {
	char method[64], optimizer[64];
	json_t *given;                     /* all settings as given, for the next --resume */
	json_t *adapter, *optim, *trainer; /* objects of what goes where */
	int64_t max_steps;                 /* UNSET = from epochs */
	int64_t accumulation, batch_size, sequence_length, save_steps, eval_steps, seed;
	double epochs; /* NAN = default */
	int packing, by_length, completion_only;
	int64_t data_memory;                    /* MiB */
	double validation_split;                /* 0 = none */
	const char *validation, *chat_template; /* in given */
} train_plan;

/* before: settings of the run that is taken up again, or NULL. */
int plan_read(train_plan *p, session *s, const args *a, json_t *before);
/* What an adapter's settings say of its model: where it was opened, and PEFT's task, which decides that a classifier's head is trained and saved. */
void plan_model(train_plan *p, const session *s, const char *model);
void plan_free(train_plan *p);
/* A settings object of the library from a JSON object. */
int plan_settings(const session *s, json_t *object, lora_settings **out);
/* Complain about settings that the saved adapter of --init does not have. */
int plan_agrees(const train_plan *p, lora_context *ctx, const lora_adapter *a, const char *path);
/* The failed call's message with the setting's name in front; a bad value is wrong usage. */
int fail_setting(const session *s, lora_status status, const char *otherwise);

#endif
