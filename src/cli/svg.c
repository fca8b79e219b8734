/* lora plot: an SVG with the loss above and the learning rate below, over the same steps. Raw values faint, a smoothed line over them, evaluations
 * as dots. The colours are those of Okabe and Ito (2008), which the colour-blind can tell apart. */
#include "cli/chart.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WIDTH       920
#define LEFT        78
#define RIGHT       24
#define TOP         26
#define LOSS_HEIGHT 340
#define LR_HEIGHT   110
#define GAP         34
#define LEGEND_ROW  22
#define INK         "#333333"
#define FAINT       "#e4e4e4"

static const char *const colours[] = { "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#4d4d4d" };
static const char svg_head[] =
	"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%.0f\" viewBox=\"0 0 %d %.0f\" font-family=\"Helvetica, Arial, sans-serif\" "
	"font-size=\"12\" fill=\"%s\">\n<style>.t { font-size: 13px; font-weight: bold }</style>\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n";
#define N_COLOURS (sizeof colours / sizeof colours[0])

typedef struct panel {
	FILE *f;
	axis x, y;
	double left, top, width, height;
} panel;

static double place_x(const panel *p, double x) { return p->left + (x - p->x.low) / (p->x.high - p->x.low) * p->width; }

static double place_y(const panel *p, double y)
{
	return p->top + p->height - (y - p->y.low) / (p->y.high - p->y.low) * p->height;
}

void svg_text(FILE *f, const char *s)
{
	for (; *s; s++) {
		if (*s == '<') fputs("&lt;", f);
		else if (*s == '>') fputs("&gt;", f);
		else if (*s == '&') fputs("&amp;", f);
		else if (*s == '"') fputs("&quot;", f);
		else if ((unsigned char)*s < 32) fputc(' ', f);
		else fputc(*s, f);
	}
}

static void draw_frame(const panel *p, const char *title, int x_labels)
{
	char label[48];
	int ticks = (int)floor((p->y.high - p->y.low) / p->y.step + 0.5);
	for (int i = 0; i <= ticks; i++) {
		double v = p->y.low + i * p->y.step, y = place_y(p, v);
		axis_label(&p->y, v, label, sizeof label);
		fprintf(p->f, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"/>", p->left, y, p->left + p->width, y,
			i ? FAINT : INK);
		fprintf(p->f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", p->left - 9, y + 4, label);
	}
	for (double v = ceil(p->x.low / p->x.step - 1e-9) * p->x.step; v <= p->x.high + p->x.step * 1e-6; v += p->x.step) {
		double x = place_x(p, v);
		fprintf(p->f, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"/>", x, p->top + p->height, x,
			p->top + p->height + 5, INK);
		if (!x_labels) continue;
		axis_label(&p->x, v, label, sizeof label);
		fprintf(p->f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%s</text>\n", x, p->top + p->height + 20, label);
	}
	double middle = p->top + p->height / 2;
	fprintf(p->f, "<text transform=\"rotate(-90 %d %.1f)\" x=\"%d\" y=\"%.1f\" text-anchor=\"middle\" class=\"t\">%s</text>\n",
		18, middle, 18, middle, title);
}

/* Points that fall into the same half pixel column are drawn as their lowest and highest, so a long run makes no huge file. */
static void draw_line(const panel *p, const series *s, const char *colour, double width, double opacity)
{
	if (s->n == 1) {
		fprintf(
			p->f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>\n", place_x(p, s->x[0]), place_y(p, s->y[0]), colour);
		return;
	}
	fprintf(p->f,
		"<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"%.1f\" stroke-opacity=\"%.2f\" stroke-linejoin=\"round\" points=\"",
		colour, width, opacity);
	for (size_t i = 0; i < s->n;) {
		double column = floor(place_x(p, s->x[i]) * 2), low = s->y[i], high = s->y[i];
		size_t first = i, last = i;
		for (; i < s->n && floor(place_x(p, s->x[i]) * 2) == column; last = i++) {
			if (s->y[i] < low) low = s->y[i];
			if (s->y[i] > high) high = s->y[i];
		}
		double x = place_x(p, s->x[first]);
		fprintf(p->f, "%.1f,%.1f ", x, place_y(p, s->y[first]));
		if (last - first > 1) fprintf(p->f, "%.1f,%.1f %.1f,%.1f ", x, place_y(p, low), x, place_y(p, high));
		if (last > first) fprintf(p->f, "%.1f,%.1f ", x, place_y(p, s->y[last]));
	}
	fputs("\"/>\n", p->f);
}

static void draw_dots(const panel *p, const series *s, const char *colour)
{
	for (size_t i = 0; i < s->n; i++)
		fprintf(p->f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.6\" fill=\"white\" stroke=\"%s\" stroke-width=\"2\"/>\n",
			place_x(p, s->x[i]), place_y(p, s->y[i]), colour);
}

/* Names of the runs in rows; gives back the height used. With f NULL only that. */
static double draw_legend(FILE *f, const run_log *runs, size_t n, double top)
{
	double x = LEFT, y = top + 12;
	int evals = 0;
	for (size_t i = 0; i < n; i++) {
		double width = 44 + 7.2 * (double)strlen(runs[i].name);
		evals |= runs[i].eval.n > 0;
		if (x > LEFT && x + width > WIDTH - RIGHT) {
			x = LEFT;
			y += LEGEND_ROW;
		}
		if (f) {
			fprintf(f,
				"<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"3\"/><text x=\"%.1f\" y=\"%.1f\">",
				x, y - 4, x + 22, y - 4, colours[i % N_COLOURS], x + 28, y);
			svg_text(f, runs[i].name);
			fputs("</text>\n", f);
		}
		x += width;
	}
	if (f && evals)
		fprintf(f,
			"<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.6\" fill=\"white\" stroke=\"%s\" stroke-width=\"2\"/><text x=\"%.1f\" y=\"%.1f\">validation</text>\n",
			x + 4, y - 4, INK, x + 14, y);
	return y - top + 10;
}

static void draw(FILE *f, const run_log *runs, size_t n)
{
	double low = INFINITY, high = -INFINITY, lr_low = 0, lr_high = -INFINITY, first = INFINITY, last = -INFINITY;
	for (size_t i = 0; i < n; i++) {
		const series *all[] = { &runs[i].loss, &runs[i].eval };
		for (int k = 0; k < 2; k++) {
			series_range(all[k], &low, &high);
			if (!all[k]->n) continue;
			first = fmin(first, all[k]->x[0]);
			last = fmax(last, all[k]->x[all[k]->n - 1]);
		}
		series_range(&runs[i].lr, &lr_low, &lr_high);
	}
	int has_lr = lr_high > -INFINITY;
	double legend = draw_legend(NULL, runs, n, TOP), top = TOP + legend;
	double height = top + LOSS_HEIGHT + (has_lr ? GAP + LR_HEIGHT : 0) + 52;
	axis x = axis_make(first, last, 9);
	x.low = first < last ? first : first - 1; /* the curve fills the width */
	x.high = first < last ? last : first + 1;
	panel loss = { f, x, axis_make(low, high, 7), LEFT, top, WIDTH - LEFT - RIGHT, LOSS_HEIGHT };
	panel lr = { f, x, axis_make(lr_low, has_lr ? lr_high : 1, 3), LEFT, top + LOSS_HEIGHT + GAP, WIDTH - LEFT - RIGHT,
		LR_HEIGHT };
	if (has_lr && lr_high == 0) lr.y = axis_make(0, 1, 2);

	fprintf(f, svg_head, WIDTH, height, WIDTH, height, INK);
	draw_legend(f, runs, n, TOP - 8);
	draw_frame(&loss, "loss", !has_lr);
	for (size_t i = 0; i < n; i++) draw_line(&loss, &runs[i].loss, colours[i % N_COLOURS], 1, runs[i].loss.n > 40 ? 0.28 : 0.5);
	for (size_t i = 0; i < n; i++) draw_line(&loss, &runs[i].smooth, colours[i % N_COLOURS], 2.2, 1);
	for (size_t i = 0; i < n; i++) draw_dots(&loss, &runs[i].eval, colours[i % N_COLOURS]);
	if (has_lr) {
		draw_frame(&lr, "learning rate", 1);
		for (size_t i = 0; i < n; i++) draw_line(&lr, &runs[i].lr, colours[i % N_COLOURS], 1.8, 1);
	}
	fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\" class=\"t\">step</text>\n</svg>\n", LEFT + loss.width / 2,
		height - 10);
}

int svg_write(const char *path, const run_log *runs, size_t n)
{
	outfile o;
	if (outfile_open(&o, path)) return FAILED;
	draw(o.f, runs, n);
	return outfile_commit(&o);
}

/* Curves (the loss of each run) in one panel. */
int svg_curves(const char *path, const char *x_title, const char *y_title, const run_log *runs, size_t n)
{
	double low = INFINITY, high = -INFINITY, first = INFINITY, last = -INFINITY, top = TOP + draw_legend(NULL, runs, n, TOP);
	outfile o;
	if (outfile_open(&o, path)) return FAILED;
	for (size_t i = 0; i < n; i++) {
		series_range(&runs[i].loss, &low, &high);
		first = fmin(first, runs[i].loss.x[0]), last = fmax(last, runs[i].loss.x[runs[i].loss.n - 1]);
	}
	panel p = { o.f, axis_make(first, last, 10), axis_make(low, high, 7), LEFT, top, WIDTH - LEFT - RIGHT, LOSS_HEIGHT };
	fprintf(o.f, svg_head, WIDTH, top + LOSS_HEIGHT + 52, WIDTH, top + LOSS_HEIGHT + 52, INK);
	draw_legend(o.f, runs, n, TOP - 8);
	draw_frame(&p, y_title, 1);
	for (size_t i = 0; i < n; i++) draw_line(&p, &runs[i].loss, colours[i % N_COLOURS], 2.2, 1), draw_dots(&p, &runs[i].loss, colours[i % N_COLOURS]);
	fprintf(o.f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">", LEFT + p.width / 2, top + LOSS_HEIGHT + 42);
	svg_text(o.f, x_title);
	fprintf(o.f, "</text>\n</svg>\n");
	return outfile_commit(&o);
}
