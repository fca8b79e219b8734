/* A host as it was compiled against an older liblora: its own sizes of the option structs, its own constants. It must run on today's
 * library. It uses what a host without files uses: context, settings, families, host-owned sites, an adapter, linear, merge, optimizer. */
#include <stdio.h>
#include <string.h>

#include <lora/lora.h>

#define TRY(call)                                                                                    \
	do {                                                                                             \
		lora_status st = (call);                                                                     \
		if (st != LORA_OK) {                                                                         \
			printf("%s: %s: %s\n", #call, lora_status_name(st), lora_context_last_error(ctx)); \
			return 1;                                                                                \
		}                                                                                            \
	} while (0)

int main(void)
{
	static float         weight[3 * 4], before[3 * 4], x[2 * 4], y[2 * 3], dy[2 * 3];
	lora_context        *ctx = NULL;
	lora_settings       *s = NULL;
	lora_model          *m = NULL;
	lora_adapter        *a = NULL;
	lora_optimizer      *o = NULL;
	lora_context_options opts;
	lora_merge_options   merge;
	lora_adapter_info    info;
	lora_site_info       site;
	lora_linear_args     args;
	int                  i;

	TRY(lora_context_options_init(&opts, sizeof opts));
	opts.backend = "naive";
	TRY(lora_context_create(LORA_ABI, &opts, &ctx));
	TRY(lora_settings_create(ctx, &s));
	TRY(lora_settings_set_int(s, "r", 2));
	TRY(lora_settings_set_string(s, "target_modules", "all-linear"));
	TRY(lora_model_create(ctx, &m));
	for (i = 0; i < 12; i++) weight[i] = (float)i / 8;
	for (i = 0; i < 8; i++) x[i] = 1;
	for (i = 0; i < 6; i++) dy[i] = 1;
	memcpy(before, weight, sizeof weight);
	memset(&site, 0, sizeof site);
	site.struct_size = sizeof site;
	site.dtype = LORA_F32, site.name = "layers.0.proj", site.out = 3, site.in = 4, site.data = weight, site.layer = -1;
	TRY(lora_model_add_site(m, &site, NULL));
	TRY(lora_adapter_create(m, "lora", s, &a));
	TRY(lora_adapter_attach(a, 1.0));
	memset(&args, 0, sizeof args);
	args.struct_size = sizeof args;
	args.flags = LORA_LINEAR_BASE, args.n_rows = 2, args.x = x, args.x_stride = 4, args.y = y, args.y_stride = 3, args.dy = dy, args.dy_stride = 3;
	TRY(lora_linear_forward(m, &args));
	if (y[0] != weight[0] + weight[1] + weight[2] + weight[3]) return printf("forward gave %g\n", y[0]), 1;
	TRY(lora_linear_backward(m, &args));
	TRY(lora_optimizer_create(a, "adamw", NULL, &o));
	TRY(lora_optimizer_step(o, 1.0));
	memset(&info, 0, sizeof info);
	info.struct_size = sizeof info;
	TRY(lora_adapter_get_info(a, &info));
	if (!info.attached || info.merged || info.n_sites != 1) return printf("adapter info is wrong\n"), 1;
	TRY(lora_merge_options_init(&merge, sizeof merge));
	TRY(lora_adapter_merge(a, &merge));
	if (!memcmp(before, weight, sizeof weight)) return printf("merge changed nothing\n"), 1;
	TRY(lora_adapter_unmerge(a));
	if (memcmp(before, weight, sizeof weight)) return printf("unmerge did not restore the weight\n"), 1;
	lora_context_destroy(ctx); /* parents first: children keep them alive */
	lora_model_destroy(m);
	lora_optimizer_destroy(o);
	lora_adapter_destroy(a);
	lora_settings_destroy(s);
	return 0;
}
