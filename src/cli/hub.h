/* lora: a hub, a folder of adapters with an index.
 *
 *   HUB/index.sqlite       one row per adapter, one per file of it
 *   HUB/adapters/NAME/     the files; what begins with a dot is not finished, or on its way out
 *   HUB/lock               shared while somebody adds or removes, exclusive while verify clears up
 *
 * An adapter is there when its row is: add puts its files in place, synced, before the row is committed, and remove takes the row away before the
 * files. Both change names in adapters/ only while they hold the index's write lock, so a folder without a row that is seen under this lock is what a
 * killed process left. All text goes to SQLite as bound parameters; names become paths only after name_problem() finds none. */
#ifndef LORA_CLI_HUB_H
#define LORA_CLI_HUB_H

#include "cli/cli.h"
#include "cli/sha256.h"

typedef struct hub {
	char *root, *index, *adapters;
	char *gone; /* what hub_discard() has put out of sight last */
	void *db; /* sqlite3 */
	int   lock;
} hub;

/* ---- hubindex.c ---- */
int  hub_open(hub *h, const char *root, int create);
void hub_close(hub *h);
int  hub_begin(hub *h); /* waits for the write lock */
int  hub_commit(hub *h);
void hub_rollback(hub *h); /* nothing when there is nothing to roll back */
/* A row is a JSON object: name, base, base_sha256, method, rank, task, license, metrics, note, parameters, bytes, added, files {NAME: {sha256, bytes}}. */
int  hub_insert(hub *h, json_t *row);
int  hub_delete(hub *h, const char *name, int *found);
int  hub_has(hub *h, const char *name, int *found);
/* Rows in the order of their names: all, that of one name, or those in which all words are found. */
int  hub_rows(hub *h, const char *name, const char *const *words, size_t n_words, json_t **out);
int  hub_check(hub *h, json_t *problems); /* what SQLite finds wrong with the index */

/* ---- hubfiles.c ---- */
/* Why a name cannot be one, or NULL. n bytes, because a name from an index may hold NUL. */
const char *name_problem(const char *name, size_t n);
int   text_ok(const char *text, size_t n); /* UTF-8 without control characters */
char *hub_path(const hub *h, const char *name);   /* folder of an adapter */
char *hub_adapter(const hub *h, const char *name); /* what -a takes: that folder, or the GGUF file in it */
int   hub_lock(hub *h, int exclusive);
/* Copy an adapter's files into a new folder in adapters/, synced; *temp is its path; files get their sha256 and bytes in row. */
int   hub_stage(hub *h, const char *from, json_t *row, char **temp);
int   hub_place(hub *h, const char *temp, const char *name); /* under the write lock */
int   hub_discard(hub *h, const char *name);       /* under the write lock: out of sight ... */
int   hub_forget(hub *h);                          /* ... and, without it, away */
int   hub_sweep(hub *h);                           /* all that begins with a dot goes; needs the exclusive lock */
int   file_sha256(const char *path, char text[SHA256_TEXT], int64_t *bytes);
int   model_sha256(const char *path, char text[SHA256_TEXT]);

/* ---- hubcompose.c ---- */
int hub_compose(hub *h, const args *a);

#endif
