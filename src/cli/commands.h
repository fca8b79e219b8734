/* The commands of lora. A new one is a file cmd_<name>.c, a line here and a line in commands.c. */
#ifndef LORA_CLI_COMMANDS_H
#define LORA_CLI_COMMANDS_H

#include "cli/cli.h"

extern const command command_info, command_methods, command_score, command_train, command_eval, command_generate,
	command_tokenize, command_merge, command_combine, command_extract, command_posterior, command_convert, command_quantize, command_plot, command_help, command_version;

/* cmd_combine.c: -o for an adapter may be written, and the writing */
int adapter_output(const args *a);
int save_adapter(const session *s, lora_adapter *made, const args *a);

#endif
