/* lora: how good probabilities are. NLL = -log p_label, clamped at 1e-12; Brier = sum over classes of (p - onehot)^2 (Brier 1950); calibration error over 15 bins
 * (m/15, (m+1)/15] of the largest probability: sum of share times |accuracy - confidence| (ECE, Guo et al. 2017), the largest of these differences (MCE), and the
 * same sum over bins of equal mass. All but the last are sums over rows, so that batches do not matter. */
#include "cli/classify.h"

#include <math.h>
#include <stdlib.h>

int metrics_add(metrics *m, const double *p, int64_t n, int32_t label)
{
	int64_t best = 0;
	if ((size_t)m->n == m->room) {
		size_t room = m->room ? 2 * m->room : 1024;
		float *more = grow(m->confidence, room, sizeof *more);
		if (!more) return FAILED;
		m->confidence = more, m->room = room;
	}
	for (int64_t i = 0; i < n; i++) {
		double d = p[i] - (i == label);
		if (p[i] > p[best]) best = i;
		m->brier += d * d;
		if (p[i] > 0) m->entropy -= p[i] * log(p[i]);
	}
	m->nll -= log(fmax(p[label], 1e-12));
	int bin = (int)ceil(p[best] * BINS - 1e-12) - 1;
	bin = bin < 0 ? 0 : bin >= BINS ? BINS - 1 : bin;
	m->bin_count[bin]++;
	m->bin_right[bin] += best == label;
	m->bin_confidence[bin] += p[best];
	m->right += best == label;
	m->confidence[m->n++] = (float)(best == label ? p[best] : -p[best]);
	return OK;
}

double metrics_ece(const metrics *m)
{
	double sum = 0;
	for (int i = 0; i < BINS; i++) sum += fabs((double)m->bin_right[i] - m->bin_confidence[i]);
	return m->n ? sum / (double)m->n : 0;
}

static int by_confidence(const void *a, const void *b)
{
	float x = fabsf(*(const float *)a), y = fabsf(*(const float *)b);
	return (x > y) - (x < y);
}

static double equal_mass(metrics *m)
{
	double sum = 0;
	qsort(m->confidence, (size_t)m->n, sizeof *m->confidence, by_confidence);
	for (int i = 0; i < BINS; i++) {
		double off = 0;
		for (int64_t k = m->n * i / BINS; k < m->n * (i + 1) / BINS; k++) off += (m->confidence[k] > 0) - fabs((double)m->confidence[k]);
		sum += fabs(off);
	}
	return sum / (double)m->n;
}

int metrics_json(metrics *m, json_t *into)
{
	double n = (double)m->n, most = 0;
	json_t *bins = json_array();
	for (int i = 0; i < BINS; i++) {
		double count = (double)m->bin_count[i];
		if (count > 0) most = fmax(most, fabs((double)m->bin_right[i] - m->bin_confidence[i]) / count);
		if (count > 0)
			json_array_append_new(bins, json_pack("{s:f, s:f, s:I, s:f, s:f}", "low", (double)i / BINS, "high", (double)(i + 1) / BINS, "count", (json_int_t)m->bin_count[i],
				"accuracy", (double)m->bin_right[i] / count, "confidence", m->bin_confidence[i] / count));
	}
	json_object_set_new(into, "accuracy", json_number((double)m->right / n));
	json_object_set_new(into, "nll", json_number(m->nll / n));
	json_object_set_new(into, "ece", json_number(metrics_ece(m)));
	json_object_set_new(into, "mce", json_number(most));
	json_object_set_new(into, "ece_mass", json_number(equal_mass(m)));
	json_object_set_new(into, "brier", json_number(m->brier / n));
	json_object_set_new(into, "entropy", json_number(m->entropy / n));
	return json_object_set_new(into, "bins", bins) ? fail_memory() : OK;
}

void metrics_say(const metrics *m, const char *name)
{
	double n = m && m->n ? (double)m->n : 1;
	if (!name) say("%-12s %9s %9s %9s %9s\n", "", "accuracy", "nll", "ece", "brier");
	else say("%-12s %9.4f %9.4f %9.4f %9.4f\n", name, (double)m->right / n, m->nll / n, metrics_ece(m), m->brier / n);
}

void metrics_free(metrics *m) { free(m->confidence); }
