/* lora plot: ticks at 1, 2 or 5 times a power of ten. */
#include "cli/chart.h"

#include <math.h>

axis axis_make(double low, double high, int n)
{
	if (!(high > low)) {
		double pad = fabs(low) > 0 ? fabs(low) * 0.1 : 1;
		low -= pad;
		high += pad;
	}
	double raw = (high - low) / n, power = pow(10, floor(log10(raw))), part = raw / power;
	double step = power * (part <= 1 ? 1 : part <= 2 ? 2 : part <= 5 ? 5 : 10);
	/* a hair of tolerance, so that a limit on a tick does not get a further one */
	axis a = { floor(low / step + 1e-9) * step, ceil(high / step - 1e-9) * step, step };
	return a;
}

void axis_label(const axis *a, double value, char *buf, size_t size)
{
	double most = fmax(fabs(a->low), fabs(a->high));
	if (fabs(value) < a->step * 1e-6) value = 0;
	if (most >= 1e6 || (most < 1e-2 && most > 0)) {
		int power = value == 0 ? 0 : (int)floor(log10(fabs(value)) + 1e-9), digits = power - (int)floor(log10(a->step) + 1e-9);
		if (value == 0) snprintf(buf, size, "0");
		else snprintf(buf, size, "%.*fe%d", digits > 0 ? digits : 0, value / pow(10, power), power);
		return;
	}
	int decimals = (int)fmax(0, ceil(-log10(a->step) - 1e-9));
	snprintf(buf, size, "%.*f", decimals, value);
}
