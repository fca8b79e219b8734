/* lora: the memory that training will take. */
#ifndef LORA_CLI_DRYRUN_H
#define LORA_CLI_DRYRUN_H

#include "cli/data.h"

/* Print what the trainer will take on the largest batch of the data. */
int dry_run(const session *s, lora_trainer *trainer, const dataset *data, int64_t max_steps);

#endif
