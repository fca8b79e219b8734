/* lora: the order of multiplications at the sites of a model. */
#ifndef LORA_CLI_PLANOUT_H
#define LORA_CLI_PLANOUT_H

#include "cli/cli.h"

/* Complain about settings that --plan does not take. */
int plan_check(const args *a);
/* Print the table, or add "plan" to root with --json. pattern: the name of a site without its layer's number, new memory. */
int plan_show(const session *s, const args *a, char *(*pattern)(const char *name), json_t *root);

#endif
