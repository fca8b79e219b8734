/* lora: weights of adapters by search on a few examples, for combine and hub. */
#ifndef LORA_CLI_WEIGH_H
#define LORA_CLI_WEIGH_H

#include "cli/data.h"

typedef struct weighing {
	const char *type, *method; /* of the combination, of the search */
	lora_settings *type_settings, *search_settings;
	data_options data;
	dataset set;
	lora_batch *batches; /* copies: all of the data is looked at for every candidate */
	int64_t n_batches;
	lora_search_result found;
} weighing;

/* Settings (-s): of the data, of the search (search=METHOD and its own), of the combination. own: further names that are the caller's, or NULL. */
int weigh_settings(weighing *w, session *s, const args *a, const char *own);
/* Search: s has its model and its adapters, which are not attached. weights[n adapters] are filled. */
int weigh_search(weighing *w, session *s, const args *a, double *weights);
/* evaluations, loss, start_loss, objective, search into the object. */
void weigh_report(const weighing *w, json_t *object);
void weigh_close(weighing *w);

#endif
