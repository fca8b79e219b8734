/* lora: the mean loss of a model with what is attached to it over a data file, as often as wanted. */
#ifndef LORA_CLI_MEASURE_H
#define LORA_CLI_MEASURE_H

#include "cli/data.h"

typedef struct measure {
	data_options options;
	int64_t max_batches; /* 0 = all */
	dataset set;
	int64_t tokens;      /* counted by the last measure_loss() */
} measure;

/* One of the settings that say how to read the data, or max_batches. *taken 0: it is none of them. */
void measure_defaults(measure *m, const session *s, const args *a);
int measure_setting(measure *m, const session *s, const setting_arg *set, int *taken);
/* The nearest of those and of further names, for messages. */
const char *measure_nearest(const char *name, const char *const *more, size_t n);
/* s needs its model. */
int measure_open(measure *m, session *s, const args *a);
/* In the data's own order. */
int measure_loss(measure *m, session *s, double *loss);
void measure_close(measure *m);

#endif
