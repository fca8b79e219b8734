/* The table behind gguf_names.h. */
#include "format/gguf_names.h"

#include <stdio.h>
#include <string.h>

enum { LLAMA = 1, QWEN = 2, GEMMA1 = 4, GEMMA = 8, PHI = 16, GPT2 = 32, SPLIT = LLAMA | QWEN | GEMMA1 | GEMMA, BLOCKS = SPLIT | PHI };

static const lora__gguf_arch archs[] = {
	{ "llama", "llama", "LlamaForCausalLM", LLAMA, 1, 0 },
	{ "qwen2", "qwen2", "Qwen2ForCausalLM", QWEN, 0, 0 },
	{ "qwen3", "qwen3", "Qwen3ForCausalLM", QWEN, 0, 0 },
	{ "gemma", "gemma", "GemmaForCausalLM", GEMMA1, 0, 1 },
	{ "gemma2", "gemma2", "Gemma2ForCausalLM", GEMMA, 0, 1 },
	{ "gemma3", "gemma3_text", "Gemma3ForCausalLM", GEMMA, 0, 1 },
	{ "phi3", "phi3", "Phi3ForCausalLM", PHI, 0, 0 },
	{ "gpt2", "gpt2", "GPT2LMHeadModel", GPT2, 0, 0 },
	{ "llama", "mistral", "MistralForCausalLM", LLAMA, 1, 0 }, /* writing only: read as llama */
};

#define L "model.layers.%d."
#define H "transformer.h.%d."
static const struct row { uint32_t set; const char *gguf, *hf; uint32_t flags; } rows[] = {
	{ BLOCKS, "token_embd", "model.embed_tokens", 0 },
	{ BLOCKS | GPT2, "output", "lm_head", 0 },
	{ BLOCKS, "output_norm", "model.norm", LORA__GGUF_PLUS_ONE },
	{ BLOCKS, "blk.%d.attn_norm", L "input_layernorm", LORA__GGUF_PLUS_ONE },
	{ SPLIT, "blk.%d.attn_q", L "self_attn.q_proj", LORA__GGUF_PERMUTE_Q },
	{ SPLIT, "blk.%d.attn_k", L "self_attn.k_proj", LORA__GGUF_PERMUTE_K },
	{ SPLIT, "blk.%d.attn_v", L "self_attn.v_proj", 0 },
	{ PHI, "blk.%d.attn_qkv", L "self_attn.qkv_proj", 0 },
	{ BLOCKS, "blk.%d.attn_output", L "self_attn.o_proj", 0 },
	{ QWEN | GEMMA, "blk.%d.attn_q_norm", L "self_attn.q_norm", LORA__GGUF_PLUS_ONE },
	{ QWEN | GEMMA, "blk.%d.attn_k_norm", L "self_attn.k_norm", LORA__GGUF_PLUS_ONE },
	{ GEMMA, "blk.%d.post_attention_norm", L "post_attention_layernorm", LORA__GGUF_PLUS_ONE },
	{ GEMMA, "blk.%d.ffn_norm", L "pre_feedforward_layernorm", LORA__GGUF_PLUS_ONE },
	{ GEMMA, "blk.%d.post_ffw_norm", L "post_feedforward_layernorm", LORA__GGUF_PLUS_ONE },
	{ BLOCKS & ~GEMMA, "blk.%d.ffn_norm", L "post_attention_layernorm", LORA__GGUF_PLUS_ONE },
	{ SPLIT, "blk.%d.ffn_gate", L "mlp.gate_proj", 0 },
	{ SPLIT, "blk.%d.ffn_up", L "mlp.up_proj", 0 },
	{ PHI, "blk.%d.ffn_up", L "mlp.gate_up_proj", 0 },
	{ BLOCKS, "blk.%d.ffn_down", L "mlp.down_proj", 0 },
	{ GPT2, "token_embd", "transformer.wte", 0 },
	{ GPT2, "position_embd", "transformer.wpe", 0 },
	{ GPT2, "output_norm", "transformer.ln_f", 0 },
	{ GPT2, "blk.%d.attn_norm", H "ln_1", 0 },
	{ GPT2, "blk.%d.attn_qkv", H "attn.c_attn", LORA__GGUF_TURNED },
	{ GPT2, "blk.%d.attn_output", H "attn.c_proj", LORA__GGUF_TURNED },
	{ GPT2, "blk.%d.ffn_norm", H "ln_2", 0 },
	{ GPT2, "blk.%d.ffn_up", H "mlp.c_fc", LORA__GGUF_TURNED },
	{ GPT2, "blk.%d.ffn_down", H "mlp.c_proj", LORA__GGUF_TURNED },
};
enum { N_ROWS = sizeof rows / sizeof *rows, N_ARCHS = sizeof archs / sizeof *archs };

const lora__gguf_arch *lora__gguf_arch_named(const char *name, size_t n)
{
	for (int i = 0; i < N_ARCHS; i++)
		if (strlen(archs[i].name) == n && memcmp(archs[i].name, name, n) == 0) return &archs[i];
	return NULL;
}

const lora__gguf_arch *lora__gguf_arch_of(const char *model_type)
{
	for (int i = 0; i < N_ARCHS; i++)
		if (strcmp(archs[i].model_type, model_type) == 0) return &archs[i];
	return NULL;
}

/* name = pattern (with one number where %d stands) + suffix. *number is -1 without %d; NULL: it does not match. */
static const char *match(const char *pattern, const char *name, int *number)
{
	const char *d = strstr(pattern, "%d");
	size_t head = d ? (size_t)(d - pattern) : strlen(pattern);
	*number = -1;
	if (strncmp(name, pattern, head)) return NULL;
	name += head;
	if (d) {
		int v = 0, digits = 0;
		for (; *name >= '0' && *name <= '9' && digits < 6; name++, digits++) v = 10 * v + (*name - '0');
		if (!digits || (digits > 1 && name[-digits] == '0')) return NULL;
		*number = v;
		size_t tail = strlen(d + 2);
		if (strncmp(name, d + 2, tail)) return NULL;
		name += tail;
	}
	return *name == 0 || *name == '.' ? name : NULL;
}

static int translate(const lora__gguf_arch *a, const char *name, int back, char *out, uint32_t *flags)
{
	for (int i = 0; i < N_ROWS; i++) {
		const struct row *r = &rows[i];
		int number;
		if (!(r->set & a->set)) continue;
		const char *suffix = match(back ? r->hf : r->gguf, name, &number), *to = back ? r->gguf : r->hf, *d;
		if (!suffix) continue;
		int n = (d = strstr(to, "%d")) ? snprintf(out, LORA__GGUF_LONG_NAME, "%.*s%d%s%s", (int)(d - to), to, number, d + 2, suffix)
		                               : snprintf(out, LORA__GGUF_LONG_NAME, "%s%s", to, suffix);
		uint32_t f = r->flags;
		if (!a->permutes) f &= ~(uint32_t)(LORA__GGUF_PERMUTE_Q | LORA__GGUF_PERMUTE_K);
		if (!a->plus_one) f &= ~(uint32_t)LORA__GGUF_PLUS_ONE;
		if (strcmp(suffix, ".bias") == 0) f &= ~(uint32_t)LORA__GGUF_TURNED;
		if (flags) *flags = f;
		return n > 0 && n < LORA__GGUF_LONG_NAME;
	}
	return 0;
}

int lora__gguf_to_hf(const lora__gguf_arch *a, const char *name, char out[LORA__GGUF_LONG_NAME], uint32_t *flags) { return translate(a, name, 0, out, flags); }

/* Files saved from a model without its head lack the first part of the names. */
int lora__gguf_from_hf(const lora__gguf_arch *a, const char *name, char out[LORA__GGUF_LONG_NAME], uint32_t *flags)
{
	char full[LORA__GGUF_LONG_NAME];
	if (translate(a, name, 1, out, flags)) return 1;
	int n = snprintf(full, sizeof full, "%s%s", a->set & GPT2 ? "transformer." : "model.", name);
	return n > 0 && n < (int)sizeof full && translate(a, full, 1, out, flags);
}

void lora__gguf_permute(void *to, const void *from, int64_t rows_n, size_t row, int64_t heads, int undo)
{
	int64_t head = rows_n / heads, half = head / 2;
	for (int64_t h = 0; h < heads; h++)
		for (int64_t t = 0; t < head; t++) {
			int64_t gguf = h * head + t, hf = h * head + t % 2 * half + t / 2;
			memcpy((char *)to + (size_t)(undo ? hf : gguf) * row, (const char *)from + (size_t)(undo ? gguf : hf) * row, row);
		}
}
