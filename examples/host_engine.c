/* A program that owns its weights and its own forward pass, and lets liblora do only the adapter's part.
 *
 * The host has a two-layer network that tells in which of four sectors of the plane a point lies. Then the world turns by 40 degrees
 * and its answers are wrong. The host registers its two weight matrices as sites, trains a small adapter through linear.h, merges it in
 * place, so that its own forward runs at full speed with the new skill, and takes it out again: every byte of its weights is as before.
 *
 *     host_engine [STEPS]
 *
 * The network is h = relu(x W1^T + b1), z = h W2^T + b2, with softmax cross-entropy on z. */
#include <lora/lora.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IN = 8, HIDDEN = 64, OUT = 4, ROWS = 64 };

/* The host's weights; liblora is told where they are and never copies them. */
static float w1[HIDDEN * IN], b1[HIDDEN], w2[OUT * HIDDEN], b2[OUT];
/* Activations of one batch, and the gradients on the way back. */
static float x[ROWS * IN], h[ROWS * HIDDEN], z[ROWS * OUT], dz[ROWS * OUT], dh[ROWS * HIDDEN];
static int label[ROWS];

static lora_context *ctx;
static lora_model *model;
static int64_t site1, site2;

static void must(lora_status st)
{
	if (st) fprintf(stderr, "host_engine: %s: %s\n", lora_status_name(st), lora_context_last_error(ctx)), exit(1);
}

static double uniform(void)
{
	static unsigned long long state = 42;
	state = state * 6364136223846793005ull + 1442695040888963407ull;
	return (double)(state >> 11) / 9007199254740992.0;
}

/* Points of the plane, seen through a few features, and the sector that each lies in when the world is turned by an angle. */
static void draw_batch(double turn)
{
	for (int r = 0; r < ROWS; r++) {
		double angle = 2 * M_PI * uniform(), radius = 0.3 + uniform();
		double px = radius * cos(angle), py = radius * sin(angle);
		const double features[IN] = {px, py, px * py, px * px - py * py, px + py, px - py, 1, radius};
		for (int i = 0; i < IN; i++) x[r * IN + i] = (float)features[i];
		label[r] = (int)floor(fmod(angle - turn + 4 * M_PI, 2 * M_PI) / (M_PI / 2)) % OUT;
	}
}

/* y[n,out] = x[n,in] W[out,in]^T + b: the host's own product. */
static void linear(const float *in, const float *w, const float *b, int n_in, int n_out, float *y)
{
	for (int r = 0; r < ROWS; r++)
		for (int o = 0; o < n_out; o++) {
			float sum = b[o];
			for (int i = 0; i < n_in; i++) sum += in[r * n_in + i] * w[o * n_in + i];
			y[r * n_out + o] = sum;
		}
}

static lora_linear_args call_on(int64_t site)
{
	int64_t in = site == site1 ? IN : HIDDEN, out = site == site1 ? HIDDEN : OUT;
	return (lora_linear_args){.struct_size = sizeof(lora_linear_args), .site = site, .n_rows = ROWS, .x = site == site1 ? x : h, .x_stride = in,
		.y = site == site1 ? h : z, .y_stride = out, .dy = site == site1 ? dh : dz, .dy_stride = out, .dx_stride = in};
}

/* The host's forward. With adapt, liblora adds what the attached adapter says: y += adapter(x). */
static double forward(int adapt, double *right)
{
	lora_linear_args first = call_on(site1), second = call_on(site2);
	linear(x, w1, b1, IN, HIDDEN, h);
	if (adapt) must(lora_linear_forward(model, &first));
	for (int i = 0; i < ROWS * HIDDEN; i++) h[i] = h[i] > 0 ? h[i] : 0;
	linear(h, w2, b2, HIDDEN, OUT, z);
	if (adapt) must(lora_linear_forward(model, &second));
	double loss = 0;
	for (int r = 0; r < ROWS; r++) {
		float *row = z + r * OUT, top = row[0];
		int best = 0;
		double sum = 0;
		for (int o = 1; o < OUT; o++)
			if (row[o] > top) top = row[o], best = o;
		for (int o = 0; o < OUT; o++) sum += exp(row[o] - top);
		for (int o = 0; o < OUT; o++) dz[r * OUT + o] = (float)((exp(row[o] - top) / sum - (o == label[r])) / ROWS);
		loss += (log(sum) + top - row[label[r]]) / ROWS;
		*right += best == label[r];
	}
	return loss;
}

/* How the host came by its weights: plain gradient descent of its own, without liblora. */
static void pretrain(void)
{
	for (int i = 0; i < HIDDEN * IN; i++) w1[i] = (float)((2 * uniform() - 1) / sqrt(IN));
	for (int i = 0; i < OUT * HIDDEN; i++) w2[i] = (float)((2 * uniform() - 1) / sqrt(HIDDEN));
	for (int step = 0; step < 600; step++) {
		double right = 0;
		const float rate = 0.5f;
		draw_batch(0);
		forward(0, &right);
		for (int r = 0; r < ROWS; r++)
			for (int j = 0; j < HIDDEN; j++) {
				float sum = 0;
				for (int o = 0; o < OUT; o++) sum += dz[r * OUT + o] * w2[o * HIDDEN + j];
				dh[r * HIDDEN + j] = h[r * HIDDEN + j] > 0 ? sum : 0;
			}
		for (int r = 0; r < ROWS; r++) {
			for (int o = 0; o < OUT; o++) {
				b2[o] -= rate * dz[r * OUT + o];
				for (int j = 0; j < HIDDEN; j++) w2[o * HIDDEN + j] -= rate * dz[r * OUT + o] * h[r * HIDDEN + j];
			}
			for (int j = 0; j < HIDDEN; j++) {
				b1[j] -= rate * dh[r * HIDDEN + j];
				for (int i = 0; i < IN; i++) w1[j * IN + i] -= rate * dh[r * HIDDEN + j] * x[r * IN + i];
			}
		}
	}
}

static double accuracy(double turn, int adapt)
{
	double right = 0;
	for (int i = 0; i < 20; i++) {
		draw_batch(turn);
		forward(adapt, &right);
	}
	return 100 * right / (20 * ROWS);
}

int main(int argc, char **argv)
{
	int steps = argc > 1 ? atoi(argv[1]) : 300;
	const double turn = 40 * M_PI / 180;
	lora_settings *s, *rate;
	lora_adapter *adapter;
	lora_optimizer *optimizer;
	static float kept1[HIDDEN * IN], kept2[OUT * HIDDEN];

	pretrain();
	memcpy(kept1, w1, sizeof w1), memcpy(kept2, w2, sizeof w2);
	printf("the host's network, in its own world:  %5.1f %% right\n", accuracy(0, 0));
	double before = accuracy(turn, 0);
	printf("... after the world turned:            %5.1f %%\n", before);

	/* 1. Tell liblora about the weights. */
	must(lora_context_create(LORA_ABI, NULL, &ctx));
	must(lora_model_create(ctx, &model));
	must(lora_model_add_site(model, &(lora_site_info){.struct_size = sizeof(lora_site_info), .dtype = LORA_F32, .name = "net.0.first", .out = HIDDEN,
		.in = IN, .data = w1, .layer = -1}, &site1));
	must(lora_model_add_site(model, &(lora_site_info){.struct_size = sizeof(lora_site_info), .dtype = LORA_F32, .name = "net.1.second", .out = OUT,
		.in = HIDDEN, .data = w2, .layer = -1}, &site2));

	/* 2. An adapter over both, and an optimizer for it. */
	must(lora_settings_create(ctx, &s));
	must(lora_settings_set_int(s, "r", 4));
	must(lora_settings_set_json(s, "target_modules", "[\"first\", \"second\"]"));
	must(lora_adapter_create(model, "lora", s, &adapter));
	must(lora_adapter_attach(adapter, 1.0));
	must(lora_settings_create(ctx, &rate));
	must(lora_settings_set_float(rate, "learning_rate", 0.02));
	must(lora_optimizer_create(adapter, "adamw", rate, &optimizer));

	/* 3. The host's training loop: its own forward, its own loss, its own way back through the activation. */
	for (int step = 0; step < steps; step++) {
		double right = 0;
		draw_batch(turn);
		double loss = forward(1, &right);
		lora_linear_args second = call_on(site2), first = call_on(site1);
		second.flags = LORA_LINEAR_BASE; /* dx = dz W2 + the adapter's share; without the flag the host would add dz W2 itself */
		second.dx = dh;
		must(lora_linear_backward(model, &second));
		for (int i = 0; i < ROWS * HIDDEN; i++)
			if (h[i] <= 0) dh[i] = 0;
		must(lora_linear_backward(model, &first)); /* nothing lies below: no dx wanted */
		must(lora_optimizer_step(optimizer, 1.0));
		must(lora_optimizer_zero_grad(optimizer));
		if (step % 50 == 0) printf("    step %3d  loss %.4f\n", step, loss);
	}
	double attached = accuracy(turn, 1);
	printf("with the adapter beside the weights:   %5.1f %%\n", attached);

	/* 4. Merge in place: now the host's plain forward has the skill, and liblora does not run at all. */
	must(lora_adapter_merge(adapter, NULL));
	double merged = accuracy(turn, 0);
	printf("merged into the host's own weights:    %5.1f %%\n", merged);
	must(lora_adapter_unmerge(adapter));
	int same = memcmp(kept1, w1, sizeof w1) == 0 && memcmp(kept2, w2, sizeof w2) == 0;
	printf("unmerged: the weights are %s\n", same ? "byte for byte as before" : "NOT as before");

	lora_optimizer_destroy(optimizer);
	lora_adapter_destroy(adapter);
	lora_settings_destroy(s), lora_settings_destroy(rate);
	lora_model_destroy(model);
	lora_context_destroy(ctx);
	if (!same) return 1;
	if (steps >= 200 && (attached < before + 15 || merged < before + 15)) return fprintf(stderr, "host_engine: the adapter learned too little\n"), 1;
	return 0;
}
