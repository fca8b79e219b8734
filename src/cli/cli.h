/* lora, the command-line program: what its parts share. It uses the public headers only.
 * Every int function returns an exit status: 0 done, 1 the operation failed, 2 wrong usage; the error line is out by then. */
#ifndef LORA_CLI_H
#define LORA_CLI_H

#include "lora/lora.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>

#if defined(__GNUC__) || defined(__clang__)
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define PRINTF_LIKE(fmt, args)
#endif

#define OK      0
#define FAILED  1
#define USAGE   2
#define STOPPED 130 /* 128 + SIGINT */
#define UNSET   INT64_MIN

/* ---- commands.c, options.c ---- */

typedef struct args args;

typedef struct command {
	const char *name;
	const char *usage;   /* after the name, in one line */
	const char *help;    /* one line */
	const char *more;    /* paragraphs for `lora help NAME`, or NULL */
	const char *options; /* long names of the options it takes besides the common ones, separated by spaces */
	int min_positional, max_positional;
	int (*run)(const args *a);
} command;

typedef struct adapter_arg {
	char *path;
	double scale;
} adapter_arg;

typedef struct setting_arg {
	char *name;
	char *text;
} setting_arg;

typedef struct word_list {
	const char **list;
	size_t n;
} word_list;

/* A parsed command line. Strings point into argv unless said otherwise. */
struct args {
	const command *cmd;
	const char *model, *input, *output, *data, *config, *init, *text, *tokens, *decode, *adapter_rows;
	const char *posterior, *validation, *temperature_text, *backend, *dtype, *dtype_out, *chat_template, *system, *to, *type, *tuned, *by;
	word_list prompts, stops; /* all -p and --stop; the lists are owned */
	int64_t count, threads, seed, top_k, rank, points, mc_dropout, max_shard; /* UNSET when not given */
	double temperature, top_p, repetition_penalty, keep; /* NAN when not given */
	int ensemble, json, quiet, grad, hidden, resume, force, no_special, ignore_eos, dry_run, plan, skip_bad, chat, help;
	adapter_arg *adapters; /* owned */
	size_t n_adapters;
	setting_arg *settings; /* owned */
	size_t n_settings;
	const char **positional; /* owned */
	size_t n_positional;
};

extern const command *const commands[]; /* NULL at the end */
const command *find_command(const char *name);

int options_parse(const command *cmd, int argc, char **argv, args *out);
void options_free(args *a);
void options_help(const command *cmd, FILE *to);

/* "1,2,3" (commas or spaces) to a new array. */
int parse_tokens(const char *what, const char *text, int32_t **out, size_t *count);
/* A whole decimal number; 0 when text is none. */
int parse_int(const char *text, int64_t *out);
int parse_real(const char *text, double *out);
/* The nearest of n names by edit distance, or NULL when none is near. */
const char *nearest_name(const char *name, const char *const *names, size_t n);

/* ---- report.c ---- */

void report_setup(const args *a);
/* One line on stderr, `lora: error: <what>: <message>`; what may be NULL. Control characters are escaped. Returns status. */
int fail(int status, const char *what, const char *format, ...) PRINTF_LIKE(3, 4);
/* The same with the words of errno. */
int fail_system(const char *what, const char *doing);
/* The same with the message of the last failed library call; a bad argument counts as failed, not as wrong usage. */
int fail_library(const lora_context *ctx, const char *what);
int fail_memory(void);
void warn(const char *what, const char *format, ...) PRINTF_LIKE(2, 3);

/* One JSON object as a line on stdout; takes the object. */
int print_json(json_t *object);
int json_wanted(void); /* --json */
/* printf to stdout that notices a broken pipe or a full disk. */
int say(const char *format, ...) PRINTF_LIKE(1, 2);
/* Flush stdout; complain once when something could not be written. */
int finish_output(void);
/* A string for JSON from n bytes that need not be UTF-8 (bad bytes become U+FFFD). */
json_t *json_text(const char *text, size_t n);
json_t *json_path(const char *path); /* the same; null for NULL. A file may have any name, JSON only UTF-8 */
json_t *json_number(double value); /* null when not finite */

/* Progress on stderr: a bar on a terminal, now and then a line elsewhere, nothing with --quiet. */
typedef struct progress {
	const char *label;
	int64_t total, first;
	double start, last;
	int drawn;
} progress;
void progress_start(progress *p, const char *label, int64_t first, int64_t total);
void progress_show(progress *p, int64_t done, const char *detail);
void progress_end(progress *p);

double seconds_now(void);
int is_terminal(FILE *f);
int is_utf8_terminal(void);
int terminal_width(void);
char *format_count(int64_t n, char *buf, size_t size); /* 1,234,567 */
void human_time(double seconds, char *buf, size_t size);
size_t utf8_whole(const char *text, size_t n); /* bytes of text before a cut character at its end */

/* ---- memory that is never short without a message: NULL means that the message is out ---- */
void *new_bytes(size_t n);
void *new_array(size_t count, size_t size);
void *grow(void *p, size_t count, size_t size);
char *new_string(const char *s);
char *new_format(const char *format, ...) PRINTF_LIKE(1, 2);

/* ---- paths.c ---- */
int path_exists(const char *path);
int path_is_dir(const char *path);
int path_is_empty_dir(const char *path);
int path_holds(const char *outer, const char *inner); /* 2: they are the same, 1: inner lies in outer; links are followed */
int path_has_suffix(const char *path, const char *suffix);
char *path_join(const char *dir, const char *name);
char *path_dir(const char *path);
const char *path_base(const char *path);
int remove_tree(const char *path); /* files and folders below path and itself; links are not followed */
int make_dir(const char *path);
/* All bytes of a regular file, NUL added; *out is new. limit 0 = none. */
int read_file(const char *path, uint64_t limit, char **out, size_t *n);

int open_regular(const char *path, FILE **out); /* for reading */

/* A file that appears whole or not at all. */
typedef struct outfile {
	FILE *f;
	char *path, *temp;
} outfile;
int outfile_open(outfile *o, const char *path);
int outfile_commit(outfile *o);
void outfile_abort(outfile *o);

/* ---- stfile.c: safetensors ---- */
typedef struct st_tensor {
	char *name;
	lora_dtype dtype; /* LORA_DTYPE_NONE: of a type that this program has no use for */
	char stored[16];  /* the type's name in the file */
	int rank;
	int64_t shape[8];
	uint64_t bytes;
	int64_t count;    /* elements */
	const void *data; /* NULL when only the header was read */
} st_tensor;

typedef struct st_file {
	char *path;
	st_tensor *tensors; /* in the order of the data */
	size_t n;
	unsigned char *data;
	json_t *metadata; /* may be NULL */
} st_file;

int st_read(const char *path, int header_only, st_file *out);
void st_free(st_file *f);
const st_tensor *st_find(const st_file *f, const char *name);
/* Integers of a tensor of any integer type as int32, range-checked. */
int st_int32(const st_file *f, const st_tensor *t, int32_t **out);
int st_write(const char *path, const st_tensor *tensors, size_t n, const char *metadata_key, const char *metadata_value);
const char *dtype_name(lora_dtype t);
size_t dtype_size(lora_dtype t);

/* ---- session.c: context, model, adapters, tokenizer from the options ---- */
typedef struct session {
	lora_context *ctx;
	lora_model *model;
	lora_model_info info;
	lora_adapter **adapters;
	size_t n_adapters;
	lora_tokenizer *tokenizer;
} session;
int session_context(session *s, const args *a);
int session_model(session *s, const args *a);
/* The same with a fresh classifier of n_labels classes on a base without a head; 0 = as -s num_labels, -a or --init say. */
int session_model_as(session *s, const args *a, int64_t n_labels);
int session_adapters(session *s, const args *a, int attach);
int session_tokenizer(session *s, const char *path);
void session_close(session *s);
/* Member of a family as JSON, or NULL when there is none. */
/* lora_gguf_describe() as a tree, or NULL after a message. */
json_t *gguf_description(lora_context *ctx, const char *path);
int gguf_has_tokenizer(lora_context *ctx, const char *path);
/* Where a model is written: what is there may be replaced when it is of the same form, or with --force. *replace is what has to go first. */
int spare_inputs(const args *a, int may_replace); /* the output may be none of the inputs (may_replace: one of them), nor a folder around one */
int check_output(const args *a, int gguf);
int save_model(session *s, const args *a, int gguf, const char *weight_dtype);
json_t *family_member(lora_context *ctx, const char *family, const char *member);
int64_t peak_memory(void);

/* SIGINT and SIGTERM: by default temporary files are removed and the program ends; after stop_politely() the first one only raises
 * the flag that stop_asked() reads. */
void signals_setup(void);
void stop_politely(void);
int stop_asked(void); /* 0, or the exit status to give */

#endif
