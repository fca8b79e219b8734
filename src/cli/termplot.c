/* lora plot: curves on the terminal as filled columns of block characters (eighths of a cell), one chart per run and all on the same scale. */
#include "cli/chart.h"

#include <math.h>
#include <stdlib.h>

#define LOSS_ROWS 12
#define LR_ROWS   4
#define MARGIN    11

static const char *const blocks[] = { " ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█" };

/* Mean of the values of each column; a column between two points is interpolated, one beyond the last is empty (NAN). */
static double *columns_of(const series *s, int columns, double first, double last)
{
	double *sum = new_array((size_t)columns, sizeof *sum), *count = new_array((size_t)columns, sizeof *count);
	if (!sum || !count) goto done;
	for (size_t i = 0; i < s->n; i++) {
		int c = last > first ? (int)((s->x[i] - first) / (last - first) * (columns - 1) + 0.5) : 0;
		if (c < 0 || c >= columns) continue;
		sum[c] += s->y[i];
		count[c]++;
	}
	int before = -1;
	for (int c = 0; c < columns; c++) {
		if (!(count[c] > 0)) {
			sum[c] = NAN;
			continue;
		}
		sum[c] /= count[c];
		for (int k = before + 1; before >= 0 && k < c; k++)
			sum[k] = sum[before] + (sum[c] - sum[before]) * (k - before) / (c - before);
		before = c;
	}
done:
	free(count);
	return sum;
}

static void chart(const double *values, int columns, const axis *y, int rows, int utf8)
{
	for (int row = rows - 1; row >= 0; row--) {
		char label[48] = "";
		/* labels at top, middle and bottom */
		if (row == rows - 1) axis_label(y, y->high, label, sizeof label);
		else if (row == 0) axis_label(y, y->low, label, sizeof label);
		else if (row == rows / 2 && rows > 5)
			snprintf(label, sizeof label, "%.3g", y->low + (y->high - y->low) * (row + 0.5) / rows);
		say("%*s %s", MARGIN - 2, label, utf8 ? "│" : "|");
		for (int c = 0; c < columns; c++) {
			double fill = isnan(values[c]) ? 0 : (values[c] - y->low) / (y->high - y->low) * rows - row;
			/* the lowest row shows that there is a value at all */
			int eighths = fill >= 1 ? 8 : fill <= 0 ? 0 : (int)(fill * 8 + 0.5);
			if (row == 0 && !eighths && !isnan(values[c])) eighths = 1;
			say("%s", utf8 ? blocks[eighths] : eighths >= 4 ? "#" : eighths ? "." : " ");
		}
		say("\n");
	}
}

static void foot(int columns, double first, double last, int utf8)
{
	char left[32], right[32];
	snprintf(left, sizeof left, "%.10g", first);
	snprintf(right, sizeof right, "%.10g", last);
	say("%*s %s", MARGIN - 2, "", utf8 ? "└" : "+");
	for (int c = 0; c < columns; c++) say("%s", utf8 ? "─" : "-");
	say("\n%*s%s%*s\n", MARGIN, "", left, columns - (int)snprintf(NULL, 0, "%s", left), right);
}

int terminal_plot(const run_log *runs, size_t n)
{
	double low = INFINITY, high = -INFINITY, lr_low = 0, lr_high = -INFINITY, first = INFINITY, last = -INFINITY;
	int columns = terminal_width() - MARGIN - 1, utf8 = is_utf8_terminal();
	if (columns > 160) columns = 160;
	if (columns < 8) columns = 8;
	for (size_t i = 0; i < n; i++) {
		const series *s = runs[i].smooth.n ? &runs[i].smooth : &runs[i].eval;
		series_range(s, &low, &high);
		series_range(&runs[i].lr, &lr_low, &lr_high);
		first = fmin(first, s->x[0]);
		last = fmax(last, s->x[s->n - 1]);
	}
	axis y = axis_make(low, high, LOSS_ROWS), lr = axis_make(lr_low, lr_high > 0 ? lr_high : 1, LR_ROWS);
	for (size_t i = 0; i < n; i++) {
		const series *s = runs[i].smooth.n ? &runs[i].smooth : &runs[i].eval;
		double *values = columns_of(s, columns, first, last);
		if (!values) return FAILED;
		say("%s%s  loss %.5g at step %.10g, %.5g at step %.10g\n", i ? "\n" : "", runs[i].name, s->y[0], s->x[0], s->y[s->n - 1],
			s->x[s->n - 1]);
		chart(values, columns, &y, LOSS_ROWS, utf8);
		free(values);
		foot(columns, first, last, utf8);
		if (!runs[i].lr.n) continue;
		values = columns_of(&runs[i].lr, columns, first, last);
		if (!values) return FAILED;
		say("%*slearning rate\n", MARGIN, "");
		chart(values, columns, &lr, LR_ROWS, utf8);
		free(values);
		foot(columns, first, last, utf8);
	}
	return OK;
}
