/* The block of a mixture of experts: a router's linear layer, then the op experts over 3 sites per expert. Files name each expert's weights;
 * transformers 5 (and PEFT on it) see them stacked as module.gate_up_proj [experts, 2 width, d] (gate's rows, then up's) and module.down_proj
 * [experts, d, width], so each site says which part of which parameter it is. */
#include <stdio.h>
#include <string.h>

#include "model/model.h"

enum { NAME_BYTES = 256 };

/* "a.%d.b.%d.c" with the second number put in. */
static void put_expert(const char *format, int64_t expert, char *out)
{
	const char *first = strstr(format, "%d"), *second = strstr(first + 2, "%d");
	snprintf(out, NAME_BYTES, "%.*s%lld%s", (int)(second - format), format, (long long)expert, second + 2);
}

static void is_part(lora__builder *b, lora__site *s, const char *module, const char *param, int64_t at, int64_t n, int64_t row, int64_t out)
{
	char name[NAME_BYTES];
	if (b->status) return;
	const char *d = strstr(module, "%d");
	snprintf(name, sizeof name, "%.*s%d%s.%s", (int)(d - module), module, (int)b->layer, d + 2, param);
	s->param_at = (int32_t)at, s->param_n = (int32_t)n, s->param_row = row, s->param_out = out;
	if (!(s->param = lora__strdup(b->m->s.ctx, name))) b->status = LORA_E_MEMORY;
}

int32_t lora__b_moe(lora__builder *b, int32_t x, const lora__moe *e)
{
	char name[NAME_BYTES];
	int64_t d = lora__b_cols(b, x);
	lora__site *router = lora__b_site(b, e->router, e->experts, d, 0);
	if (b->status) return -1;
	is_part(b, router, e->router_module, "weight", 0, 1, 0, e->experts);
	lora__node *n = lora__b_append(b, &lora__op_linear, 1, &x, 1, e->experts);
	if (!n) return -1;
	n->site = router;
	int32_t in[2] = { x, n->out[0] };
	lora__site **sites = lora__calloc(b->m->s.ctx, (size_t)(3 * e->experts), sizeof(lora__site *));
	if (!sites) return b->status = LORA_E_MEMORY, -1;
	for (int64_t i = 0; i < e->experts && b->status == LORA_OK; i++)
		for (int k = 0; k < 3 && b->status == LORA_OK; k++) {
			put_expert(k == 0 ? e->gate : k == 1 ? e->up : e->down, i, name);
			lora__site *s = sites[3 * i + k] = lora__b_site(b, name, k < 2 ? e->width : d, k < 2 ? d : e->width, 0);
			is_part(b, s, e->module, k < 2 ? "gate_up_proj" : "down_proj", i, e->experts, k == 1 ? e->width : 0, k < 2 ? 2 * e->width : d);
		}
	n = lora__b_append(b, &lora__op_experts, 2, in, 1, d);
	if (!n) {
		lora__free(b->m->s.ctx, sites);
		return -1;
	}
	n->sites = sites, n->n_sites = (int32_t)(3 * e->experts);
	n->i[0] = e->experts, n->i[1] = e->chosen, n->i[2] = e->normalise, n->i[3] = e->activation, n->i[4] = e->width, n->i[5] = d;
	return n->out[0];
}
