/* lora: train, score, merge and inspect low-rank adapters from the command line; built on the public headers of liblora only. */
#include "cli/cli.h"

#include <fcntl.h>
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

/* A standard stream that the caller has closed must not become the first file that is opened: what is printed would land in that file. Opened the
 * wrong way round, so that reading and writing fail as before. */
static void streams_setup(void)
{
	for (int fd = 0; fd < 3; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd ? O_RDONLY : O_WRONLY) < 0) return;
}

int main(int argc, char **argv)
{
	args a;
	int status;

	streams_setup();
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
