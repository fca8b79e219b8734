/* lora: the list of commands, in the order in which help shows them. */
#include "cli/commands.h"

#include <string.h>

const command *const commands[] = {
	&command_info,
	&command_methods,
	&command_score,
	&command_train,
	&command_eval,
	&command_generate,
	&command_tokenize,
	&command_merge,
	&command_combine,
	&command_extract,
	&command_prune,
	&command_interpolate,
	&command_hub,
	&command_posterior,
	&command_convert,
	&command_quantize,
	&command_plot,
	&command_help,
	&command_version,
	NULL,
};

const command *find_command(const char *name)
{
	for (size_t i = 0; commands[i]; i++)
		if (!strcmp(commands[i]->name, name)) return commands[i];
	return NULL;
}
