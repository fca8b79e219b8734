/* lora quantize: a model with its matrices in blocks, as a GGUF file. */
#include "cli/commands.h"

#include <ctype.h>
#include <string.h>
#include <sys/stat.h>

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

static int run(const args *a)
{
	session s;
	char type[8];
	struct stat st;
	double start = seconds_now();
	int status;
	if (!a->output) return fail(USAGE, "-o", "says where to write the quantised model, and is needed");
	if (!a->to) return fail(USAGE, "--to", "says which type, and is needed; usage: lora quantize %s", a->cmd->usage);
	if (!type_name(a->to, type)) return fail(USAGE, "--to", "\"%s\" is none of q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k, q6_k", a->to);
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

const command command_quantize = { "quantize", "-m MODEL --to TYPE -o OUT.gguf", "write a model with quantised weights",
	"All matrices, embedding and head too, take TYPE; vectors stay F32. Rows that are no whole number of blocks fall back as in\n"
	"llama.cpp: K-quants to a type with 32 weights a block, those to F16. OUT becomes a GGUF file with the tokenizer.\n"
	"JSON: output, dtype, parameters, bytes, seconds.\n",
	"model to output force", 0, 0, run };
