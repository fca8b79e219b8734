/* lora plot: loss and learning-rate curves of runs; reliability diagrams of evaluations. */
#include "cli/chart.h"
#include "cli/commands.h"

static json_t *summary(const run_log *r)
{
	const series *s = r->loss.n ? &r->loss : &r->eval;
	double low = s->y[0], high = s->y[0];
	series_range(s, &low, &high);
	json_t *o = json_object();
	json_object_set_new(o, "run", json_path(r->name));
	json_object_set_new(o, "steps", json_integer((json_int_t)s->n));
	json_object_set_new(o, "first_loss", json_number(s->y[0]));
	json_object_set_new(o, "last_loss", json_number(s->y[s->n - 1]));
	json_object_set_new(o, "lowest_loss", json_number(low));
	if (r->smooth.n) json_object_set_new(o, "smoothed_loss", json_number(r->smooth.y[r->smooth.n - 1]));
	return o;
}

static int plot_diagrams(const args *a, const diagrams *d)
{
	int status = a->output ? reliability_write(a->output, d) : a->json ? OK : reliability_terminal(d);
	for (size_t i = 0; !status && a->json && i < d->n; i++)
		status = print_json(json_pack("{s:s, s:I, s:f}", "name", d->list[i].name, "rows", (json_int_t)d->list[i].count, "ece", d->list[i].ece));
	return status;
}

static int run(const args *a)
{
	run_log *runs = NULL;
	diagrams d = { NULL, 0, 0 };
	size_t n = 0;
	if (a->output && !path_has_suffix(a->output, ".svg")) return fail(USAGE, "-o", "must end in .svg");
	int status = runs_read(a, &runs, &n, &d);
	if (!status && d.n) status = plot_diagrams(a, &d);
	else if (!status && a->output) status = svg_write(a->output, runs, n);
	else if (!status && !a->json) status = terminal_plot(runs, n);
	for (size_t i = 0; !status && !d.n && a->json && i < n; i++) status = print_json(summary(&runs[i]));
	if (!status && a->output && !a->quiet) say("wrote %s\n", a->output);
	runs_free(runs, n);
	diagrams_free(&d);
	return status;
}

const command command_plot = { "plot", "RUN... [-o FILE.svg]", "draw loss and learning-rate curves, and reliability diagrams",
	"RUN is an output directory of train or a file with the lines of 'lora train --json'. Without -o the curves are drawn on the\n"
	"terminal. JSON: run, steps, first_loss, last_loss, lowest_loss, smoothed_loss, a line per run. Lines of 'lora eval --json' and\n"
	"'lora posterior predict --json' that have bins become reliability diagrams; JSON: name, rows, ece.\n",
	"output", 1, 256, run };
