/* Running the lora program and looking at what comes out. */
#ifndef TEST_CLI_RUN_H
#define TEST_CLI_RUN_H

#include <check.h>
#include <jansson.h>
#include <stdint.h>
#include <sys/types.h>

#define GOLDEN     "tests/golden/"
#define MODEL      GOLDEN "models/llama/model"
#define IO         GOLDEN "models/llama/io.safetensors"
#define ADAPTER    GOLDEN "peft/lora-default/adapter"
#define ADAPTER_IO GOLDEN "peft/lora-default/io.safetensors"
#define TRAINING   GOLDEN "train-adamw"

extern char run_out[1 << 20], run_err[1 << 16]; /* of the last run, terminated */
extern char scratch[512];                       /* a folder of this program's own */

void scratch_make(void);
void scratch_remove(void);
/* Path below scratch; a few may be in use at once. */
const char *in_scratch(const char *name);

/* `lora <arguments>` through the shell; exit status, 128 + signal when killed. */
int run_lora(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same in the background, stdout into `scratch/<log>`. */
pid_t start_lora(const char *log, char *const argv[]);
const char *lora_program(void);
/* Any shell command. */
int run_shell(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Fail unless the run ended with status and one error line that has the text. */
void expect_error(int got, int status, const char *text);
/* Line n (from 0) of stdout as JSON; NULL when there is none. */
json_t *out_json(int n);
int out_lines(void);

void write_text(const char *path, const char *text);
char *read_text(const char *path, size_t *n);
int same_file(const char *a, const char *b);
int exists(const char *path);
int files_in(const char *dir);

/* A safetensors file. */
typedef struct tensors {
	char *bytes;
	json_t *header;
	char *data;
} tensors;
void tensors_read(tensors *t, const char *path);
void tensors_free(tensors *t);
int tensors_have(const tensors *t, const char *name);
int64_t tensors_count(const tensors *t, const char *name);
double tensors_at(const tensors *t, const char *name, int64_t i);
/* One tensor of int32, any shape as JSON text, to a file. More may be added by name2 .. */
void write_ids(const char *path, const char *header, const int32_t *values, size_t n);

Suite *suite_words(void);
Suite *suite_virtual(void);
Suite *suite_models(void);
Suite *suite_score(void);
Suite *suite_combine(void);
Suite *suite_prune(void);
Suite *suite_train(void);
Suite *suite_data(void);
Suite *suite_plot(void);
Suite *suite_gguf(void);
Suite *suite_fourbits(void);
Suite *suite_uncertainty(void);
Suite *suite_careless(void);

#endif
