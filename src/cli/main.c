/* lora: train, score, merge and inspect low-rank adapters from the command line; built on the public headers of liblora only. */
#include "cli/cli.h"

#include <string.h>

static int unknown_command(const char *name)
{
	const char *names[64];
	size_t n = 0;
	while (commands[n] && n < 64) {
		names[n] = commands[n]->name;
		n++;
	}
	const char *near = nearest_name(name, names, n);
	if (near) return fail(USAGE, name, "no such command; did you mean '%s'? ('lora help' lists the commands)", near);
	return fail(USAGE, name, "no such command; 'lora help' lists the commands");
}

int main(int argc, char **argv)
{
	args a;
	int status;

	signals_setup();
	if (argc < 2) return fail(USAGE, NULL, "no command given; 'lora help' lists the commands");
	const char *name = argv[1];
	if (!strcmp(name, "--help") || !strcmp(name, "-h")) name = "help";
	if (!strcmp(name, "--version") || !strcmp(name, "-V")) name = "version";
	const command *cmd = find_command(name);
	if (!cmd) return unknown_command(name);

	status = options_parse(cmd, argc - 2, argv + 2, &a);
	if (!status) {
		report_setup(&a);
		if (a.help) options_help(cmd, stdout);
		else status = cmd->run(&a);
	}
	options_free(&a);
	int written = finish_output();
	return status ? status : written;
}
