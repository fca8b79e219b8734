/* What the experiments share: one program per experiment, on the public headers only. A program prints Markdown (a table that goes into
 * docs/experiments/NAME.md as it is) and writes a picture to the path that it is given as its first argument. */
#ifndef EXPERIMENT_H
#define EXPERIMENT_H

#include <lora/lora.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The context of the run: made by experiment_start(), with two threads, or LORA_THREADS. */
extern lora_context *experiment_ctx;

void experiment_start(const char *title);                /* prints the heading and the machine-independent facts: version, backend, threads */
void must(lora_status st);                               /* ends the program with the library's message */
lora_settings *settings(const char *json, ...) __attribute__((format(printf, 1, 2))); /* owned by the caller */

/* A generator of the experiment's own, so that generated tasks are the same everywhere: splitmix64. */
typedef struct dice { uint64_t state; } dice;
uint64_t dice_next(dice *d);
int dice_below(dice *d, int n);                          /* 0 .. n-1 */
double dice_unit(dice *d);                               /* [0, 1) */
double dice_normal(dice *d);

double mean_of(const double *v, int n);
double deviation_of(const double *v, int n);             /* with n - 1; 0 for one value */
int wins_of(const double *a, const double *b, int n);    /* how often a < b */

/* A picture: panels side by side, each with lines (x, y) or bars (one group per label). Values that are not finite are left out. */
typedef struct chart chart;
chart *chart_create(const char *title, int panels);
void chart_panel(chart *c, int panel, const char *title, const char *x_title, const char *y_title);
void chart_line(chart *c, int panel, const char *name, const double *x, const double *y, int n);
void chart_bar(chart *c, int panel, const char *name, double value, double deviation);
void chart_diagonal(chart *c, int panel);                /* the line y = x, as reliability diagrams have it */
void chart_save(chart *c, const char *path);             /* writes the SVG and releases the chart; NULL path: only that */

#endif
