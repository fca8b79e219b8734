/* lora help [COMMAND] */
#include "cli/commands.h"

static int run(const args *a)
{
	if (a->n_positional) {
		const command *cmd = find_command(a->positional[0]);
		if (!cmd) return fail(USAGE, a->positional[0], "no such command; 'lora help' lists the commands");
		options_help(cmd, stdout);
		return OK;
	}
	say("lora: train, score, merge and inspect low-rank adapters\n\nusage: lora COMMAND [OPTION...]\n\n");
	for (size_t i = 0; commands[i]; i++) say("  %-10s %s\n", commands[i]->name, commands[i]->help);
	say("\n'lora help COMMAND' explains a command, 'lora methods' what can be set.\n"
		"Exit status: 0 done, 1 the operation failed, 2 wrong usage, 130 stopped with Ctrl-C.\n");
	return OK;
}

const command command_help = { "help", "[COMMAND]", "explain the program or one command", NULL, "", 0, 1, run };
