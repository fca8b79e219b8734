/* lora version */
#include "cli/commands.h"

static int run(const args *a)
{
	if (a->json)
		return print_json(
			json_pack("{s:s, s:i, s:s}", "version", lora_version_string(), "abi", (int)lora_abi(), "build", lora_build_info()));
	say("lora %s\n%s\n", lora_version_string(), lora_build_info());
	return OK;
}

const command command_version = { "version", "", "version and build of program and library", NULL, "", 0, 0, run };
