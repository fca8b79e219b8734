/* Shared parts of the experiments: settings, a generator, statistics and pictures. */
#include "experiment.h"

#include <math.h>

lora_context *experiment_ctx;

void must(lora_status st)
{
	if (!st) return;
	fprintf(stderr, "%s: %s\n", lora_status_name(st), lora_context_last_error(experiment_ctx));
	exit(1);
}

void experiment_start(const char *title)
{
	const char *threads = getenv("LORA_THREADS");
	lora_context_options options;
	must(lora_context_options_init(&options, sizeof options));
	options.threads = threads ? (int32_t)strtol(threads, NULL, 10) : 2;
	must(lora_context_create(LORA_ABI, &options, &experiment_ctx));
	printf("## %s\n\nliblora %s, backend %s, %d threads.\n\n", title, lora_version_string(), lora_context_backend_name(experiment_ctx),
		(int)options.threads);
}

lora_settings *settings(const char *json, ...)
{
	char text[4096];
	va_list arguments;
	va_start(arguments, json);
	vsnprintf(text, sizeof text, json, arguments);
	va_end(arguments);
	lora_settings *s;
	must(lora_settings_create(experiment_ctx, &s));
	must(lora_settings_from_json(s, text, strlen(text)));
	return s;
}

uint64_t dice_next(dice *d)
{
	uint64_t z = d->state += 0x9e3779b97f4a7c15u;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

int dice_below(dice *d, int n) { return (int)(dice_next(d) % (uint64_t)n); }

double dice_unit(dice *d) { return (double)(dice_next(d) >> 11) * 0x1p-53; }

double dice_normal(dice *d)
{
	double u = dice_unit(d);
	return sqrt(-2 * log(1 - u)) * cos(6.283185307179586 * dice_unit(d));
}

double mean_of(const double *v, int n)
{
	double sum = 0;
	for (int i = 0; i < n; i++) sum += v[i];
	return sum / n;
}

double deviation_of(const double *v, int n)
{
	double mean = mean_of(v, n), sum = 0;
	for (int i = 0; i < n; i++) sum += (v[i] - mean) * (v[i] - mean);
	return n > 1 ? sqrt(sum / (n - 1)) : 0;
}

int wins_of(const double *a, const double *b, int n)
{
	int wins = 0;
	for (int i = 0; i < n; i++) wins += a[i] < b[i];
	return wins;
}

/* ---- pictures ---- */

enum { MAX_SERIES = 24, WIDTH = 400, HEIGHT = 250, LEFT = 66, TOP = 64, GAP = 24, BOTTOM = 92 };
static const char *const colours[] = { "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#4d4d4d" };

typedef struct series {
	char name[64];
	double *x, *y; /* of a line */
	int n;         /* 0: a bar */
	double value, deviation;
} series;

typedef struct panel {
	char title[96], x_title[64], y_title[64];
	series series[MAX_SERIES];
	int n, diagonal;
} panel;

struct chart {
	char title[160];
	int n;
	panel panels[];
};

chart *chart_create(const char *title, int panels)
{
	chart *c = calloc(1, sizeof *c + (size_t)panels * sizeof *c->panels);
	if (!c) exit(1);
	c->n = panels;
	snprintf(c->title, sizeof c->title, "%s", title);
	return c;
}

void chart_panel(chart *c, int at, const char *title, const char *x_title, const char *y_title)
{
	panel *p = &c->panels[at];
	snprintf(p->title, sizeof p->title, "%s", title);
	snprintf(p->x_title, sizeof p->x_title, "%s", x_title);
	snprintf(p->y_title, sizeof p->y_title, "%s", y_title);
}

static series *add(chart *c, int at, const char *name)
{
	panel *p = &c->panels[at];
	if (p->n == MAX_SERIES) exit(1);
	series *s = &p->series[p->n++];
	snprintf(s->name, sizeof s->name, "%s", name);
	return s;
}

void chart_line(chart *c, int at, const char *name, const double *x, const double *y, int n)
{
	series *s = add(c, at, name);
	s->x = malloc((size_t)n * sizeof *x);
	s->y = malloc((size_t)n * sizeof *y);
	if (!s->x || !s->y) exit(1);
	for (int i = 0; i < n; i++)
		if (isfinite(x[i]) && isfinite(y[i])) s->x[s->n] = x[i], s->y[s->n++] = y[i];
}

void chart_bar(chart *c, int at, const char *name, double value, double deviation)
{
	series *s = add(c, at, name);
	s->value = isfinite(value) ? value : 0;
	s->deviation = isfinite(deviation) ? deviation : 0;
}

void chart_diagonal(chart *c, int at) { c->panels[at].diagonal = 1; }

/* Ticks at 1, 2 or 5 times a power of ten, low and high moved outwards to them. */
static double ticks(double *low, double *high)
{
	double span = *high > *low ? *high - *low : fabs(*low) > 0 ? fabs(*low) : 1;
	double step = pow(10, floor(log10(span / 4))), rest = span / 4 / step;
	step *= rest > 5 ? 10 : rest > 2 ? 5 : rest > 1 ? 2 : 1;
	*low = floor(*low / step + 1e-9) * step;
	*high = ceil(*high / step - 1e-9) * step;
	if (*high <= *low) *high = *low + step;
	return step;
}

static void put(FILE *f, double x, double y, const char *anchor, const char *more, const char *text)
{
	fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\"%s>", x, y, anchor, more);
	for (; *text; text++) {
		if (*text == '<') fputs("&lt;", f);
		else if (*text == '&') fputs("&amp;", f);
		else fputc(*text, f);
	}
	fputs("</text>\n", f);
}

typedef struct frame {
	FILE *f;
	double left, x0, x1, y0, y1;
} frame;

static double at_x(const frame *w, double x) { return w->left + (x - w->x0) / (w->x1 - w->x0) * WIDTH; }
static double at_y(const frame *w, double y) { return TOP + HEIGHT - (y - w->y0) / (w->y1 - w->y0) * HEIGHT; }

static void range_of(const panel *p, frame *w)
{
	w->x0 = w->y0 = INFINITY;
	w->x1 = w->y1 = -INFINITY;
	for (int i = 0; i < p->n; i++) {
		const series *s = &p->series[i];
		for (int k = 0; k < s->n; k++) {
			w->x0 = fmin(w->x0, s->x[k]), w->x1 = fmax(w->x1, s->x[k]);
			w->y0 = fmin(w->y0, s->y[k]), w->y1 = fmax(w->y1, s->y[k]);
		}
		if (s->n) continue;
		w->x0 = 0, w->x1 = p->n;
		w->y0 = fmin(w->y0, fmin(0, s->value - s->deviation)), w->y1 = fmax(w->y1, fmax(0, s->value + s->deviation));
	}
	if (p->diagonal) w->x0 = w->y0 = 0, w->x1 = w->y1 = 1;
	if (!(w->x1 >= w->x0)) w->x0 = w->y0 = 0, w->x1 = w->y1 = 1;
}

static void draw_bars(const frame *w, const panel *p)
{
	for (int i = 0; i < p->n; i++) {
		const series *s = &p->series[i];
		double x = at_x(w, i + 0.15), width = at_x(w, i + 0.85) - x, zero = at_y(w, 0), y = at_y(w, s->value), middle = x + width / 2;
		fprintf(w->f, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\"/>\n", x, fmin(y, zero), width, fabs(zero - y),
			colours[i % 8]);
		if (s->deviation > 0)
			fprintf(w->f, "<path d=\"M%.1f %.1fV%.1f\" stroke=\"#333\" stroke-width=\"1.5\"/>\n", middle, at_y(w, s->value - s->deviation),
				at_y(w, s->value + s->deviation));
		char turn[64];
		snprintf(turn, sizeof turn, " transform=\"rotate(-28 %.1f %d)\"", middle, TOP + HEIGHT + 14);
		put(w->f, middle, TOP + HEIGHT + 14, "end", turn, s->name);
	}
}

static void draw_lines(const frame *w, const panel *p)
{
	double x = w->left;
	for (int i = 0; i < p->n; i++) {
		const series *s = &p->series[i];
		fprintf(w->f, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"", colours[i % 8]);
		for (int k = 0; k < s->n; k++) fprintf(w->f, "%.1f,%.1f ", at_x(w, s->x[k]), at_y(w, s->y[k]));
		fputs("\"/>\n", w->f);
		if (s->n <= 24)
			for (int k = 0; k < s->n; k++)
				fprintf(w->f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>\n", at_x(w, s->x[k]), at_y(w, s->y[k]), colours[i % 8]);
		fprintf(w->f, "<rect x=\"%.1f\" y=\"%d\" width=\"14\" height=\"4\" fill=\"%s\"/>\n", x, TOP + HEIGHT + 64 + i / 4 * 16, colours[i % 8]);
		put(w->f, x + 18, TOP + HEIGHT + 69 + i / 4 * 16, "start", "", s->name);
		x = i % 4 == 3 ? w->left : x + 30 + 6.6 * (double)strlen(s->name);
	}
}

static void draw_panel(FILE *f, const panel *p, double left)
{
	frame w = { .f = f, .left = left };
	int bars = p->n && !p->series[0].n;
	range_of(p, &w);
	double y_step = ticks(&w.y0, &w.y1), x_step = bars ? 0 : ticks(&w.x0, &w.x1);
	char label[32];
	for (double y = w.y0; y <= w.y1 + y_step / 2; y += y_step) {
		fprintf(f, "<path d=\"M%.1f %.1fh%d\" stroke=\"#e4e4e4\"/>", left, at_y(&w, y), WIDTH);
		snprintf(label, sizeof label, "%.4g", fabs(y) < y_step / 1e6 ? 0 : y);
		put(f, left - 7, at_y(&w, y) + 4, "end", "", label);
	}
	for (double x = w.x0; x_step > 0 && x <= w.x1 + x_step / 2; x += x_step) {
		snprintf(label, sizeof label, "%.4g", fabs(x) < x_step / 1e6 ? 0 : x);
		put(f, at_x(&w, x), TOP + HEIGHT + 18, "middle", "", label);
	}
	fprintf(f, "<path d=\"M%.1f %dv%dh%d\" stroke=\"#333\" fill=\"none\"/>\n", left, TOP, HEIGHT, WIDTH);
	put(f, left + WIDTH / 2.0, TOP - 14, "middle", " font-weight=\"bold\"", p->title);
	if (!bars) put(f, left + WIDTH / 2.0, TOP + HEIGHT + 38, "middle", "", p->x_title);
	char turn[64];
	snprintf(turn, sizeof turn, " transform=\"rotate(-90 %.1f %d)\"", left - 48, TOP + HEIGHT / 2);
	put(f, left - 48, TOP + HEIGHT / 2, "middle", turn, p->y_title);
	if (p->diagonal)
		fprintf(f, "<path d=\"M%.1f %.1fL%.1f %.1f\" stroke=\"#999\" stroke-dasharray=\"5 4\"/>\n", at_x(&w, 0), at_y(&w, 0), at_x(&w, 1),
			at_y(&w, 1));
	(bars ? draw_bars : draw_lines)(&w, p);
}

void chart_save(chart *c, const char *path)
{
	FILE *f = path ? fopen(path, "w") : NULL;
	if (path && !f) perror(path), exit(1);
	int rows = 0;
	for (int i = 0; i < c->n; i++)
		if (c->panels[i].n > rows && c->panels[i].series[0].n) rows = c->panels[i].n;
	int width = c->n * (LEFT + WIDTH + GAP), height = TOP + HEIGHT + BOTTOM + (rows > 4 ? (rows - 1) / 4 * 16 : 0);
	if (f) {
		fprintf(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" "
			"font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"#333\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
			width, height, width, height);
		put(f, width / 2.0, 26, "middle", " font-size=\"16\" font-weight=\"bold\"", c->title);
		for (int i = 0; i < c->n; i++) draw_panel(f, &c->panels[i], LEFT + i * (double)(LEFT + WIDTH + GAP));
		fputs("</svg>\n", f);
		if (fclose(f)) perror(path), exit(1);
	}
	for (int i = 0; i < c->n; i++)
		for (int k = 0; k < c->panels[i].n; k++) {
			free(c->panels[i].series[k].x);
			free(c->panels[i].series[k].y);
		}
	free(c);
}
