/* lora quantize: a model with its matrices in blocks, as a GGUF file, or in bitsandbytes' four bits, as a directory. */
#include "cli/commands.h"
#include "cli/fourbit.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* "q4_k" to the library's "Q4_K", when it writes that type. */
static int type_name(const char *given, char out[8])
{
	static const char *const names[] = { "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K" };
	if (strlen(given) != 4) return 0;
	for (int i = 0; i < 5; i++) out[i] = (char)toupper((unsigned char)given[i]);
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		if (!strcmp(out, names[i])) return 1;
	return 0;
}

static int nested_wanted(const args *a, int *nested)
{
	*nested = 0;
	for (size_t i = 0; i < a->n_settings; i++) {
		const setting_arg *set = &a->settings[i];
		if (strcmp(set->name, "bnb_4bit_use_double_quant")) return fail(USAGE, set->name, "is no setting of quantize (bnb_4bit_use_double_quant, of nf4 and fp4, is)");
		if (strcmp(set->text, "true") && strcmp(set->text, "false")) return fail(USAGE, set->name, "\"%s\" is neither true nor false", set->text);
		*nested = !strcmp(set->text, "true");
	}
	return OK;
}

/* The directory with float weights comes first, beside; its linear layers are then rewritten. */
static int run_fourbit(const args *a, fourbit_type type)
{
	static const char *const names[][2] = { { "keep", "keep" }, { "f32", "F32" }, { "f16", "F16" }, { "bf16", "BF16" } };
	session s = { .ctx = NULL };
	args to = *a;
	const char *dtype = NULL;
	double start = seconds_now();
	int nested, status = nested_wanted(a, &nested);
	for (size_t i = 0; i < 4; i++)
		if (!strcmp(a->dtype_out ? a->dtype_out : "keep", names[i][0])) dtype = names[i][1];
	if (!status && !dtype) status = fail(USAGE, "--dtype-out", "\"%s\" is none of keep, f32, f16, bf16", a->dtype_out);
	if (!status && path_has_suffix(a->output, ".gguf")) status = fail(USAGE, "-o", "%s is written as a directory of safetensors, not as GGUF", a->to);
	if (status || (status = check_output(a, 0))) return status;
	char *beside = new_format("%s.4bit-%ld", a->output, (long)getpid());
	to.output = beside;
	to.force = 1;
	status = beside ? session_context(&s, a) : FAILED;
	if (!status) status = session_model(&s, a);
	if (!status) status = save_model(&s, &to, 0, dtype);
	if (!status) status = fourbit_rewrite(&s, beside, type, nested);
	if (!status && path_exists(a->output)) status = remove_tree(a->output);
	if (!status && rename(beside, a->output)) status = fail_system(a->output, "cannot put the finished model in place");
	if (status && beside && path_exists(beside)) remove_tree(beside);
	if (!status && a->json)
		status = print_json(json_pack("{s:o, s:s, s:b, s:I, s:o}", "output", json_path(a->output), "dtype", a->to, "double_quant", nested, "parameters",
			(json_int_t)s.info.n_parameters, "seconds", json_number(seconds_now() - start)));
	else if (!status) say("wrote %s: linear layers in %s\n", a->output, a->to);
	session_close(&s);
	free(beside);
	return status;
}

static int run(const args *a)
{
	session s;
	char type[8];
	struct stat st;
	double start = seconds_now();
	int status;
	if (!a->output) return fail(USAGE, "-o", "says where to write the quantised model, and is needed");
	if (!a->to) return fail(USAGE, "--to", "says which type, and is needed; usage: lora quantize %s", a->cmd->usage);
	if (!strcmp(a->to, "nf4") || !strcmp(a->to, "fp4")) return run_fourbit(a, a->to[0] == 'f' ? FOURBIT_FP4 : FOURBIT_NF4);
	if (a->n_settings) return fail(USAGE, a->settings[0].name, "goes with --to nf4 or fp4");
	if (a->dtype_out) return fail(USAGE, "--dtype-out", "goes with --to nf4 or fp4");
	if (!type_name(a->to, type)) return fail(USAGE, "--to", "\"%s\" is none of nf4, fp4, q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k, q6_k", a->to);
	if ((status = check_output(a, 1))) return status;
	status = session_context(&s, a);
	if (!status) status = session_model(&s, a);
	if (!status) status = save_model(&s, a, 1, type);
	if (!status && stat(a->output, &st)) status = fail_system(a->output, "cannot look at what was written");
	if (!status && a->json)
		status = print_json(json_pack("{s:o, s:s, s:I, s:I, s:o}", "output", json_path(a->output), "dtype", type, "parameters", (json_int_t)s.info.n_parameters, "bytes",
			(json_int_t)st.st_size, "seconds", json_number(seconds_now() - start)));
	else if (!status) say("%s: %.1f MB in %s\n", a->output, (double)st.st_size / 1e6, type);
	session_close(&s);
	return status;
}

const command command_quantize = { "quantize", "-m MODEL --to TYPE -o OUT.gguf|OUT", "write a model with quantised weights",
	"TYPE q8_0, q4_0, q4_1, q5_0, q5_1, q2_k ... q6_k: all matrices, embedding and head too, take it; vectors stay F32. Rows that\n"
	"are no whole number of blocks fall back as in llama.cpp: K-quants to a type with 32 weights a block, those to F16. OUT becomes\n"
	"a GGUF file with the tokenizer.\n"
	"TYPE nf4, fp4: OUT becomes a directory as bitsandbytes writes it, for transformers and lora: linear layers in blocks of 64, embedding and head as they\n"
	"were (--dtype-out f32, f16, bf16: converted before); -s bnb_4bit_use_double_quant=true. lora decodes it when it opens it.\n"
	"JSON: output, dtype, parameters, bytes (GGUF), double_quant (nf4, fp4), seconds.\n",
	"model to output set dtype-out force", 0, 0, run };
