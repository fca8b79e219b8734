/* Names of adapter tensors: "base_model.model." + module path + "." + leaf. PEFT leaves the adapter's name out when it saves; files made by
 * other hands keep it (lora_A.default.weight), lack the prefix or half of it, or store bare parameters in the manner of loralib (lora_A). All
 * are taken apart here; which module a path means is for the caller to say, and two spellings of one tensor in a file are for it to refuse.
 * Source: huggingface/peft, utils/save_and_load.py, get_peft_model_state_dict() and set_peft_model_state_dict(). */
#include <string.h>

#include "format/peft.h"

/* All leaves of PEFT's methods. A stem that is the tail of another comes after it only by whole components, so the order does not matter. */
static const char *const leaves[] = {
	"lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_A.bias", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector",
	"lora_E", "lora_diag", "lora_velora_embed", "token_adapter.trainable_tokens_delta", "trainable_tokens_delta",
	"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
	"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
	"ia3_l", "oft_R.weight", "boft_R", "boft_s", "hra_u", "ln_tuning_layers.weight", "ln_tuning_layers.bias",
	"vera_lambda_b", "vera_lambda_d", "vera_A", "vera_B", "pvera_lambda_b", "pvera_lambda_d", "pvera_A", "pvera_B",
	"vblora_logits_A", "vblora_logits_B", "vblora_vector_bank", "vblora_logits_A_topk_indices", "vblora_logits_A_topk_weights",
	"vblora_logits_B_topk_indices", "vblora_logits_B_topk_weights", "randlora_A", "randlora_B", "randlora_lambda", "randlora_gamma",
	"fourierft_spectrum", "waveft_spectrum", "c3a_kernel", "road_theta", "road_alpha", "miss_block", "shira_weight", "shira_indices",
	"delora_A", "delora_B", "delora_lambda", "delora_w_norm", "hira_A", "hira_B", "gralora_A", "gralora_B",
	"tinylora_A", "tinylora_B", "tinylora_P", "psoft_R.weight",
};

static int begins(const char *s, const char *with, size_t n) { return strncmp(s, with, n) == 0; }

size_t lora__peft_prefix(const char *name, int *prefix)
{
	static const char base[] = "base_model.", model[] = "model.";
	size_t            n = 0;
	int               kind = LORA__PEFT_BARE;
	if (begins(name, base, sizeof base - 1)) {
		n = sizeof base - 1, kind = LORA__PEFT_SHORT;
		if (begins(name + n, model, sizeof model - 1)) n += sizeof model - 1, kind = LORA__PEFT_FULL;
	}
	if (prefix) *prefix = kind;
	return n;
}

/* Does name[0..n) end in the component(s) stem? Returns where the stem begins, or -1. */
static ptrdiff_t ends_in(const char *name, size_t n, const char *stem, size_t k)
{
	if (n < k || memcmp(name + n - k, stem, k)) return -1;
	size_t at = n - k;
	return at == 0 || name[at - 1] == '.' ? (ptrdiff_t)at : -1;
}

int lora__peft_split_leaf(const char *name, const char *leaf, lora__peft_name *out)
{
	static const char weight[] = ".weight", bias[] = ".bias";
	int               prefix;
	size_t            skip = lora__peft_prefix(name, &prefix), stem = strlen(leaf), n;
	int               is_bias = stem > 5 && strcmp(leaf + stem - 5, bias) == 0;
	if (is_bias) stem -= 5;
	else if (stem > 7 && strcmp(leaf + stem - 7, weight) == 0) stem -= 7;
	name += skip;
	n = strlen(name);
	/* the tail: ".bias" must be there for a bias; ".weight" may be, or not (bare parameters) */
	if (is_bias) {
		if (n < 5 || strcmp(name + n - 5, bias)) return 0;
		n -= 5;
	} else if (n > 7 && strcmp(name + n - 7, weight) == 0) {
		n -= 7;
	}
	ptrdiff_t   at = ends_in(name, n, leaf, stem);
	const char *adapter = NULL;
	size_t      adapter_n = 0;
	if (at < 0) { /* one component between stem and tail is an adapter's name */
		size_t dot = n;
		while (dot > 0 && name[dot - 1] != '.') dot--;
		if (dot < 2 || dot == n) return 0;
		at = ends_in(name, dot - 1, leaf, stem);
		if (at < 0) return 0;
		adapter = name + dot, adapter_n = n - dot;
	}
	*out = (lora__peft_name){ .module = name, .module_n = at ? (size_t)at - 1 : 0, .leaf = leaf, .adapter = adapter, .adapter_n = adapter_n,
		                      .prefix = prefix };
	return 1;
}

int lora__peft_split_name(const char *name, lora__peft_name *out)
{
	for (size_t i = 0; i < sizeof leaves / sizeof *leaves; i++)
		if (lora__peft_split_leaf(name, leaves[i], out)) {
			/* "x.lora_A.bias" would also pass as lora_A with an adapter named "bias" */
			if (out->adapter_n == 4 && memcmp(out->adapter, "bias", 4) == 0) continue;
			return 1;
		}
	*out = (lora__peft_name){ .leaf = "" };
	out->module = name + lora__peft_prefix(name, &out->prefix);
	out->module_n = strlen(out->module);
	return 0;
}
