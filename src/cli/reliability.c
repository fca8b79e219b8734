/* lora plot: reliability diagrams. A log with "bins" (of lora eval, or of lora posterior predict, which has two) becomes a panel: a bar per bin from 0 to the share
 * of right answers, its distance to the confidence in red, and how many answers fell into the bin as the bar's strength; the diagonal is perfect calibration.
 * Source: DeGroot and Fienberg 1983; Guo et al. 2017, arXiv:1706.04599, figure 1. */
#include "cli/chart.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 210, PAD = 56, GAP = 26, HEAD = 52, FOOT = 44, PER_ROW = 4 };

static const char ink[] = "#333333", bar[] = "#0072b2", off[] = "#d55e00";

static int number(const json_t *o, const char *key, double low, double high, double *out)
{
	const json_t *v = json_object_get(o, key);
	*out = json_number_value(v);
	return json_is_number(v) && *out >= low && *out <= high;
}

/* Panels of one name are told apart by numbers. */
static char *panel_name(const diagrams *d, char *base)
{
	char *name = base ? new_string(base) : NULL;
	for (size_t i = 0, number = 1; name && i < d->n; i++)
		if (d->list[i].name && !strcmp(d->list[i].name, name)) {
			free(name);
			name = new_format("%s (%zu)", base, ++number);
			i = (size_t)-1; /* from the start */
		}
	free(base);
	return name;
}

static int add_diagram(diagrams *d, const char *file, const char *name, const char *part, const json_t *bins)
{
	diagram *more = grow(d->list, d->n + 1, sizeof *more), *g;
	if (!more) return FAILED;
	d->list = more, g = &more[d->n];
	memset(g, 0, sizeof *g);
	g->name = panel_name(d, part ? d->several ? new_format("%s: %s", name, part) : new_string(part) : new_string(name));
	d->n++;
	if (!g->name) return FAILED;
	g->n_bins = json_array_size(bins);
	if (!(g->bins = new_array(g->n_bins, sizeof *g->bins))) return FAILED;
	for (size_t i = 0; i < g->n_bins; i++) {
		const json_t *o = json_array_get(bins, i);
		reliability_bin *b = &g->bins[i];
		if (!number(o, "low", 0, 1, &b->low) || !number(o, "high", b->low, 1, &b->high) || !number(o, "count", 0, 1e15, &b->count) || !number(o, "accuracy", 0, 1, &b->accuracy) ||
			!number(o, "confidence", 0, 1, &b->confidence))
			return fail(FAILED, file, "bin %zu lacks low, high, count, accuracy or confidence, or has them out of range", i + 1);
		g->count += b->count;
		g->ece += b->count * fabs(b->accuracy - b->confidence);
	}
	if (g->count > 0) g->ece /= g->count;
	return OK;
}

int diagrams_add(diagrams *d, const char *file, const char *name, json_t *line)
{
	json_t *v;
	const char *key;
	int status = OK;
	if (json_is_array(json_object_get(line, "bins"))) return add_diagram(d, file, name, NULL, json_object_get(line, "bins"));
	json_object_foreach(line, key, v)
		if (!status && json_is_array(json_object_get(v, "bins"))) status = add_diagram(d, file, name, key, json_object_get(v, "bins"));
	return status;
}

void diagrams_free(diagrams *d)
{
	for (size_t i = 0; i < d->n; i++) free(d->list[i].name), free(d->list[i].bins);
	free(d->list);
}

static void panel(FILE *f, const diagram *g, double x, double y, int left)
{
	double most = 1, size = fmin(13, 13 * (SIDE + GAP - 8) / (7.5 * (double)(strlen(g->name) + 1))); /* a long name in smaller letters: it must end before the next */
	for (size_t i = 0; i < g->n_bins; i++) most = fmax(most, g->bins[i].count);
	fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" font-size=\"%.1f\" font-weight=\"bold\">", x, y - 24, size);
	svg_text(f, g->name);
	fprintf(f, "</text><text x=\"%.1f\" y=\"%.1f\">ECE %.3f</text>\n", x, y - 8, g->ece);
	for (int i = 0; i <= 4; i++) {
		double at = i / 4.0, px = x + at * SIDE, py = y + SIDE - at * SIDE;
		fprintf(f, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#e4e4e4\"/><text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%.2g</text>", x, py, x + SIDE, py, px,
			y + SIDE + 16, at);
		if (left) fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%.2g</text>\n", x - 7, py + 4, at);
	}
	for (size_t i = 0; i < g->n_bins; i++) {
		const reliability_bin *b = &g->bins[i];
		double px = x + b->low * SIDE, width = (b->high - b->low) * SIDE - 1, low = fmin(b->accuracy, b->confidence), high = fmax(b->accuracy, b->confidence);
		if (!(b->count > 0)) continue;
		fprintf(f, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\" fill-opacity=\"%.2f\"/>", px, y + SIDE * (1 - b->accuracy), width, SIDE * b->accuracy, bar,
			0.25 + 0.75 * sqrt(b->count / most));
		fprintf(f, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\" fill-opacity=\"0.45\"><title>%.0f answers, %.3f right, confidence %.3f</title></rect>\n", px,
			y + SIDE * (1 - high), width, SIDE * (high - low), off, b->count, b->accuracy, b->confidence);
	}
	fprintf(f, "<path d=\"M%.1f %.1fh%dv%dh%dz\" fill=\"none\" stroke=\"%s\"/><line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-dasharray=\"4 3\"/>\n", x, y, SIDE, SIDE,
		-SIDE, ink, x, y + SIDE, x + SIDE, y, ink);
	fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">confidence</text>\n", x + SIDE / 2.0, y + SIDE + 34);
}

int reliability_write(const char *path, const diagrams *d)
{
	outfile o;
	size_t columns = d->n < PER_ROW ? d->n : d->n <= 6 ? 3 : PER_ROW, rows = (d->n + columns - 1) / columns;
	int width = PAD + (int)columns * (SIDE + GAP), height = (int)rows * (HEAD + SIDE + FOOT) + 8;
	if (outfile_open(&o, path)) return FAILED;
	fprintf(o.f, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"%s\">\n"
		"<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n", width, height, width, height, ink);
	for (size_t i = 0; i < d->n; i++) {
		double y = HEAD + (double)(i / columns) * (HEAD + SIDE + FOOT);
		if (i % columns == 0)
			fprintf(o.f, "<text transform=\"rotate(-90 16 %.1f)\" x=\"16\" y=\"%.1f\" text-anchor=\"middle\">share of right answers</text>\n", y + SIDE / 2.0, y + SIDE / 2.0);
		panel(o.f, &d->list[i], PAD + (double)(i % columns) * (SIDE + GAP), y, i % columns == 0);
	}
	fputs("</svg>\n", o.f);
	return outfile_commit(&o);
}

int reliability_terminal(const diagrams *d)
{
	int utf8 = is_utf8_terminal();
	for (size_t i = 0; i < d->n; i++) {
		const diagram *g = &d->list[i];
		say("%s%s  ECE %.4f, %.0f answers\n   confidence   answers     right\n", i ? "\n" : "", g->name, g->ece, g->count);
		for (size_t k = 0; k < g->n_bins; k++) {
			const reliability_bin *b = &g->bins[k];
			if (!(b->count > 0)) continue;
			say("  %11.3f %9.0f %9.3f ", b->confidence, b->count, b->accuracy);
			for (int c = 0; c < (int)(b->accuracy * 30 + 0.5); c++) say("%s", utf8 ? "█" : "#");
			say("\n");
		}
	}
	return OK;
}
