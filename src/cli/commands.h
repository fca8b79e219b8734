/* The commands of lora. A new one is a file cmd_<name>.c, a line here and a line in commands.c. */
#ifndef LORA_CLI_COMMANDS_H
#define LORA_CLI_COMMANDS_H

#include "cli/cli.h"

extern const command command_info, command_methods, command_score, command_train, command_eval, command_generate,
	command_tokenize, command_merge, command_combine, command_extract, command_posterior, command_convert, command_quantize, command_plot, command_hub, command_help, command_version;
extern const command command_prune, command_interpolate;

/* cmd_combine.c: -o for an adapter may be written, and the writing */
int adapter_output(const args *a);
int save_adapter(const session *s, lora_adapter *made, const args *a);
/* soup.c: --type greedy_soup */
int combine_soup(const args *a);
struct weighing;
/* What came out: as text or JSON. w: the search that gave the weights, or NULL. */
int tell_combined(const args *a, const char *type, lora_adapter *made, double start, size_t n, const char *const *names, const double *weights, const struct weighing *w, json_t *skipped);

#endif
