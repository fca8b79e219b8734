/* lora plot: runs read from logs, and their drawing as SVG and on the terminal. */
#ifndef LORA_CLI_CHART_H
#define LORA_CLI_CHART_H

#include "cli/cli.h"

typedef struct series {
	double *x, *y;
	size_t n, room;
} series;

typedef struct run_log {
	char *name;
	series loss, smooth, eval, lr;
} run_log;

typedef struct axis {
	double low, high, step; /* ticks at multiples of step */
} axis;

/* Answers by confidence. */
typedef struct reliability_bin { double low, high, count, accuracy, confidence; } reliability_bin;
typedef struct diagram { char *name; reliability_bin *bins; size_t n_bins; double count, ece; } diagram;
typedef struct diagrams { diagram *list; size_t n; int several; /* files: names of parts say of which */ } diagrams;

/* runlog.c: runs with steps, or diagrams, never both */
int runs_read(const args *a, run_log **out, size_t *n, diagrams *d);
void runs_free(run_log *runs, size_t n);
void series_range(const series *s, double *low, double *high);

/* axis.c: low and high moved out to a whole tick; at most about n ticks */
axis axis_make(double low, double high, int n);
/* Label of a tick with as many digits as the steps of this axis need. */
void axis_label(const axis *a, double value, char *buf, size_t size);

/* svg.c, termplot.c */
int svg_write(const char *path, const run_log *runs, size_t n);
int svg_curves(const char *path, const char *x_title, const char *y_title, const run_log *runs, size_t n);
/* svgplane.c: values at the points of a triangular grid, row by row: weight of corner 0 falls from row to row, that of corner 2 rises within one. n points along an edge. */
int svg_plane(const char *path, const char *const names[3], const double *value, int64_t n);
int terminal_plot(const run_log *runs, size_t n);
void svg_text(FILE *f, const char *s);

/* reliability.c: the diagrams that a line of a log has */
int diagrams_add(diagrams *d, const char *file, const char *name, json_t *line);
void diagrams_free(diagrams *d);
int reliability_write(const char *path, const diagrams *d);
int reliability_terminal(const diagrams *d);

#endif
