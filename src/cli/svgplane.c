/* lora interpolate: a function over a triangle, as coloured cells with a scale beside it. The colours are steps of a scale that rises evenly in
 * lightness, from dark blue (low) to yellow (high). */
#include "cli/chart.h"

#include <math.h>

#define SIDE   560.0
#define LEFT   90.0
#define TOP    60.0
#define INK    "#333333"
#define SCALE  (LEFT + SIDE + 70)

static void put_colour(FILE *f, double t)
{
	static const unsigned char stop[5][3] = { { 48, 18, 110 }, { 50, 90, 160 }, { 40, 150, 140 }, { 130, 200, 80 }, { 250, 230, 60 } };
	t = fmin(fmax(t, 0), 1) * 4;
	int i = t >= 4 ? 3 : (int)t;
	fprintf(f, "#");
	for (int c = 0; c < 3; c++) fprintf(f, "%02x", (unsigned)lround(stop[i][c] + (t - i) * (stop[i + 1][c] - stop[i][c])));
}

static void put_name(FILE *f, double x, double y, const char *anchor, const char *name)
{
	fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", x, y, anchor);
	for (; *name; name++) {
		if (*name == '<' || *name == '>' || *name == '&') fprintf(f, "&#%d;", *name);
		else if ((unsigned char)*name >= 32) fputc(*name, f);
	}
	fputs("</text>\n", f);
}

static double place_x(int64_t row, int64_t k, int64_t n) { return LEFT + SIDE / 2 + ((double)k - (double)row / 2) * SIDE / (double)(n - 1); }
static double place_y(int64_t row, int64_t n) { return TOP + (double)row * SIDE * 0.8660254 / (double)(n - 1); }

/* The cell of three neighbours in the colour of their mean. */
static void cell(FILE *f, const double *value, int64_t n, const int64_t p[3][2], double low, double high)
{
	double sum = 0;
	fprintf(f, "<path d=\"M");
	for (int i = 0; i < 3; i++) {
		fprintf(f, "%.1f,%.1f ", place_x(p[i][0], p[i][1], n), place_y(p[i][0], n));
		sum += value[p[i][0] * (p[i][0] + 1) / 2 + p[i][1]];
	}
	fprintf(f, "Z\" fill=\"");
	put_colour(f, high > low ? (sum / 3 - low) / (high - low) : 0);
	fprintf(f, "\"/>\n");
}

int svg_plane(const char *path, const char *const names[3], const double *value, int64_t n)
{
	double low = INFINITY, high = -INFINITY, bottom = place_y(n - 1, n);
	outfile o;
	if (outfile_open(&o, path)) return FAILED;
	for (int64_t i = 0; i < n * (n + 1) / 2; i++) low = fmin(low, value[i]), high = fmax(high, value[i]);
	fprintf(o.f, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"860\" height=\"%.0f\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"%s\">\n"
		"<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n<g shape-rendering=\"crispEdges\">\n", bottom + 50, INK);
	for (int64_t r = 1; r < n; r++)
		for (int64_t k = 0; k < r; k++) {
			cell(o.f, value, n, (const int64_t[3][2]){ { r - 1, k }, { r, k }, { r, k + 1 } }, low, high);
			if (k + 1 < r) cell(o.f, value, n, (const int64_t[3][2]){ { r - 1, k }, { r - 1, k + 1 }, { r, k + 1 } }, low, high);
		}
	fprintf(o.f, "</g>\n");
	put_name(o.f, place_x(0, 0, n), TOP - 14, "middle", names[0]);
	put_name(o.f, place_x(n - 1, 0, n), bottom + 26, "middle", names[1]);
	put_name(o.f, place_x(n - 1, n - 1, n), bottom + 26, "middle", names[2]);
	for (int i = 0; i < 100; i++) {
		fprintf(o.f, "<rect x=\"%.1f\" y=\"%.1f\" width=\"20\" height=\"%.2f\" fill=\"", SCALE, TOP + (99 - i) * (bottom - TOP) / 100, (bottom - TOP) / 100 + 0.5);
		put_colour(o.f, i / 99.0);
		fprintf(o.f, "\"/>\n");
	}
	put_name(o.f, SCALE + 10, TOP - 14, "middle", "loss");
	for (int i = 0; i <= 4; i++) {
		double v = low + i * (high - low) / 4;
		fprintf(o.f, "<text x=\"%.1f\" y=\"%.1f\">%.5g</text>\n", SCALE + 28, bottom - i * (bottom - TOP) / 4 + 4, v);
	}
	fprintf(o.f, "</svg>\n");
	return outfile_commit(&o);
}
