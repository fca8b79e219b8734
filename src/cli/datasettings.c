/* lora: the settings that say how data is read, for the commands that only look at it. */
#include "cli/data.h"

#include <string.h>

void data_defaults(const args *a, const session *s, data_options *o)
{
	*o = (data_options){ .batch_size = 8, .sequence_length = 512, .completion_only = 1, .skip_bad = a->skip_bad, .chat_template = a->chat_template };
	if (s->info.max_positions >= 2 && s->info.max_positions < 512) o->sequence_length = s->info.max_positions;
}

int data_setting(const setting_arg *set, const session *s, data_options *o, int *taken)
{
	const char *name = set->name, *text = set->text;
	int64_t n = 0;
	*taken = 1;
	if (!strcmp(name, "batch_size")) {
		if (!parse_int(text, &o->batch_size) || o->batch_size < 1) return fail(USAGE, name, "must be a whole number above 0");
	} else if (!strcmp(name, "sequence_length")) {
		if (!parse_int(text, &n) || n < 2) return fail(USAGE, name, "must be a whole number above 1");
		if (s->info.max_positions >= 2 && n > s->info.max_positions)
			return fail(USAGE, name, "%s is more than the model's %lld positions", text, (long long)s->info.max_positions);
		o->sequence_length = n;
	} else if (!strcmp(name, "loss_on")) {
		if (strcmp(text, "all") && strcmp(text, "completion")) return fail(USAGE, name, "must be all or completion");
		o->completion_only = !strcmp(text, "completion");
	} else if (!strcmp(name, "packing")) {
		if (strcmp(text, "true") && strcmp(text, "false")) return fail(USAGE, name, "must be true or false");
		o->packing = !strcmp(text, "true");
	} else {
		*taken = !strcmp(name, "num_labels"); /* session_model() reads it */
	}
	return OK;
}
