/* lora info --plan: the order of multiplications at every site of a model, for some numbers of rows. */
#include "cli/planout.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_ROWS = 8 };

typedef struct what {
	int64_t rows[MAX_ROWS], n_rows, rank;
	int dropout;
} what;

static const char *const reasons[] = { "", "dropout", "W is packed", "not all in F32", "head", "the host's", "quantised" };

/* rows=N, r=N and lora_dropout=P of -s; lists of rows are separated by commas. */
static int read_settings(const args *a, what *w)
{
	*w = (what){ .rows = { 16, 256, 1024, 4096 }, .n_rows = 4, .rank = 8 };
	for (size_t i = 0; i < a->n_settings; i++) {
		const char *name = a->settings[i].name, *text = a->settings[i].text;
		double p = 0;
		if (!strcmp(name, "r")) {
			if (!parse_int(text, &w->rank) || w->rank < 1 || w->rank > 65536) return fail(USAGE, "r", "must be 1 to 65536");
		} else if (!strcmp(name, "lora_dropout")) {
			if (!parse_real(text, &p) || p < 0 || p >= 1) return fail(USAGE, name, "must be at least 0 and below 1");
			w->dropout = p > 0;
		} else if (!strcmp(name, "rows")) {
			int32_t *list = NULL;
			size_t n = 0;
			int status = parse_tokens(name, text, &list, &n);
			int bad = !status && (n < 1 || n > MAX_ROWS);
			for (size_t k = 0; !status && !bad && k < n; k++) bad = (w->rows[k] = list[k]) < 1;
			w->n_rows = (int64_t)n;
			free(list);
			if (status) return status;
			if (bad) return fail(USAGE, name, "up to %d numbers of at least 1, such as 256,1024", MAX_ROWS);
		} else {
			return fail(USAGE, name, "--plan takes rows, r and lora_dropout");
		}
	}
	return OK;
}

int plan_check(const args *a)
{
	what w;
	return read_settings(a, &w);
}

static double flops_of(const lora_site_order *o)
{
	return o->flops_forward[o->forward == 2] + o->flops_backward[o->backward == 5];
}

static json_t *as_json(const lora_site_info *site, int64_t rows, const lora_site_order *o)
{
	char choice[16];
	snprintf(choice, sizeof choice, "F%d B%d", (int)o->forward, (int)o->backward);
	return json_pack("{s:s, s:I, s:I, s:I, s:s, s:f, s:{s:f, s:f, s:f, s:f}, s:s}", "site", site->name, "out", (json_int_t)site->out, "in",
		(json_int_t)site->in, "rows", (json_int_t)rows, "choice", choice, "flops", flops_of(o), "flops_of", "F1", o->flops_forward[0], "F2",
		o->flops_forward[1], "B1", o->flops_backward[0], "B5", o->flops_backward[1], "reason", reasons[o->fixed % 7]);
}

/* One line of the table, without the name. */
static char *as_row(const lora_site_info *site, int64_t rows, const lora_site_order *o)
{
	char out[32], in[32], n[32];
	return new_format("%9s %9s %8s  F%d B%d %12.4g  %s", format_count(site->out, out, sizeof out), format_count(site->in, in, sizeof in),
		format_count(rows, n, sizeof n), (int)o->forward, (int)o->backward, flops_of(o), reasons[o->fixed % 7]);
}

int plan_show(const session *s, const args *a, char *(*pattern)(const char *name), json_t *root)
{
	what w;
	json_t *list = json_array(), *seen = json_object();
	int status = read_settings(a, &w);

	if (!status && !a->json)
		say("\norder of multiplications in a training step, r = %lld; M = W + s B A\n"
			"  F1  y = x W^T + s (x A^T) B^T      F2  y = x M^T\n  B1  dx = dy W + s (dy B) A         B5  dx = dy M\n\n"
			"%9s %9s %8s  %-5s %12s  site\n", (long long)w.rank, "out", "in", "rows", "order", "flops");
	for (int64_t i = 0; i < lora_model_site_count(s->model) && !status; i++) {
		lora_site_info site = { .struct_size = sizeof site };
		if (lora_model_site_info(s->model, i, &site)) status = fail_library(s->ctx, "site");
		for (int64_t k = 0; k < w.n_rows && !status; k++) {
			lora_site_order o = { .struct_size = sizeof o };
			if (lora_model_site_order(s->model, i, w.rows[k], w.rank, w.dropout, &o)) {
				status = fail_library(s->ctx, site.name);
				break;
			}
			if (a->json) {
				json_array_append_new(list, as_json(&site, w.rows[k], &o));
				continue;
			}
			/* sites that differ by their layer only are one line */
			char *name = pattern(site.name), *row = as_row(&site, w.rows[k], &o);
			char *key = name && row ? new_format("%s|%s", name, row) : NULL;
			if (key && !json_object_get(seen, key)) {
				json_object_set_new(seen, key, json_true());
				say("%.*s  %s%s%s%s\n", (int)(strlen(row) - strlen(reasons[o.fixed % 7]) - 2), row, name, o.fixed ? "  (" : "",
					reasons[o.fixed % 7], o.fixed ? ")" : "");
			}
			free(name);
			free(row);
			free(key);
		}
	}
	if (a->json && !status) json_object_set_new(root, "plan", list);
	else json_decref(list);
	json_decref(seen);
	return status;
}
