/* lora: the index of a hub, an SQLite database. It may come from strangers: triggers and views are off, and nothing in it is trusted to be text. */
#include "cli/hub.h"

#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#define APPLICATION 0x4c6f5261 /* "LoRa" */
#define WAIT_MS     60000

static const char schema[] =
	"CREATE TABLE adapters(name TEXT PRIMARY KEY NOT NULL, base TEXT, base_sha256 TEXT, method TEXT, rank INTEGER, task TEXT, license TEXT, metrics TEXT, note TEXT,"
	" parameters INTEGER, bytes INTEGER, added TEXT) WITHOUT ROWID;"
	"CREATE TABLE files(adapter TEXT NOT NULL, file TEXT NOT NULL, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL, PRIMARY KEY(adapter, file)) WITHOUT ROWID;"
	"PRAGMA application_id=1282364001; PRAGMA user_version=1;";

static const char *const columns[] = { "name", "base", "base_sha256", "method", "rank", "task", "license", "metrics", "note", "parameters", "bytes", "added" };
enum { N_COLUMNS = sizeof columns / sizeof *columns, METRICS = 7 };

static int index_fails(const hub *h, int rc)
{
	sqlite3 *db = h->db;
	switch (rc & 0xff) {
	case SQLITE_NOTADB: return fail(FAILED, h->index, "is no index of a hub: not an SQLite database");
	case SQLITE_CORRUPT:
	case SQLITE_FORMAT: return fail(FAILED, h->index, "is damaged; move it away and add the adapters, which lie in %s, to a new hub", h->adapters);
	case SQLITE_BUSY: return fail(FAILED, h->index, "another process has held it for %d seconds", WAIT_MS / 1000);
	case SQLITE_READONLY: return fail(FAILED, h->index, "cannot be written");
	case SQLITE_NOMEM: return fail_memory();
	case SQLITE_ERROR: return fail(FAILED, h->index, "is damaged, or not an index of a hub: %s", db ? sqlite3_errmsg(db) : "unknown");
	default: return fail(FAILED, h->index, "%s", db ? sqlite3_errmsg(db) : sqlite3_errstr(rc));
	}
}

static int run_sql(hub *h, const char *sql)
{
	int rc = sqlite3_exec(h->db, sql, NULL, NULL, NULL);
	return rc == SQLITE_OK ? OK : index_fails(h, rc);
}

static int read_number(hub *h, const char *sql, int64_t *out)
{
	sqlite3_stmt *q = NULL;
	int rc = sqlite3_prepare_v2(h->db, sql, -1, &q, NULL);
	if (rc == SQLITE_OK) rc = sqlite3_step(q);
	if (rc == SQLITE_ROW) *out = sqlite3_column_int64(q, 0);
	sqlite3_finalize(q);
	return rc == SQLITE_ROW ? OK : index_fails(h, rc);
}

int hub_begin(hub *h) { return run_sql(h, "BEGIN IMMEDIATE"); }
int hub_commit(hub *h) { return run_sql(h, "COMMIT"); }
void hub_rollback(hub *h)
{
	if (h->db && !sqlite3_get_autocommit(h->db)) sqlite3_exec(h->db, "ROLLBACK", NULL, NULL, NULL);
}

/* 1 in *fresh when nobody has put anything into the database yet. */
static int identify(hub *h, int *fresh)
{
	int64_t application = 0, version = 0, tables = 0;
	int status = read_number(h, "PRAGMA application_id", &application);
	if (!status) status = read_number(h, "PRAGMA user_version", &version);
	if (!status) status = read_number(h, "SELECT count(*) FROM sqlite_schema", &tables);
	*fresh = !status && !application && !tables;
	if (status || *fresh) return status;
	if (application != APPLICATION) return fail(FAILED, h->index, "is an SQLite database, but not the index of a hub");
	return version == 1 ? OK : fail(FAILED, h->index, "is of version %lld, this program knows 1", (long long)version);
}

static int connect(hub *h)
{
	sqlite3 *db = NULL;
	int rc = sqlite3_open_v2(h->index, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL), fresh = 0;
	h->db = db;
	if (rc != SQLITE_OK) return index_fails(h, rc);
	sqlite3_extended_result_codes(db, 0);
	sqlite3_busy_timeout(db, WAIT_MS);
	sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
	sqlite3_db_config(db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
	sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
	sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_VIEW, 0, NULL);
	int status = run_sql(h, "PRAGMA synchronous=EXTRA; PRAGMA temp_store=MEMORY; PRAGMA cell_size_check=ON");
	if (!status) status = identify(h, &fresh);
	if (status || !fresh) return status;
	status = hub_begin(h);
	if (!status) status = identify(h, &fresh); /* somebody else may have been first */
	if (!status && fresh) status = run_sql(h, schema);
	if (!status) status = hub_commit(h);
	hub_rollback(h);
	return status;
}

int hub_open(hub *h, const char *root, int create)
{
	*h = (hub){ .lock = -1 };
	h->root = new_string(root);
	h->index = path_join(root, "index.sqlite");
	h->adapters = path_join(root, "adapters");
	if (!h->root || !h->index || !h->adapters) return FAILED;
	if (!*root) return fail(USAGE, "HUB", "the path is empty");
	if (!create && !path_exists(root)) return fail(FAILED, root, "no such directory");
	if (create && make_dir(root)) return FAILED;
	if (!path_is_dir(root)) return fail(FAILED, root, "is not a directory");
	if (!path_exists(h->index)) {
		if (!create) return fail(FAILED, root, "is no hub: it has no index.sqlite; 'lora hub add' makes one");
		/* asked again, because another process may be making this hub */
		if (!path_is_empty_dir(root) && !path_exists(h->index)) return fail(FAILED, root, "has other things in it and no index.sqlite: give a new or empty directory");
	} else if (path_is_dir(h->index)) return fail(FAILED, h->index, "is a directory, expected a file");
	int status = connect(h);
	return status ? status : make_dir(h->adapters);
}

void hub_close(hub *h)
{
	hub_rollback(h);
	sqlite3_close(h->db);
	if (h->lock >= 0) hub_lock(h, -1);
	free(h->root), free(h->index), free(h->adapters), free(h->gone);
	memset(h, 0, sizeof *h);
}

/* ---- rows ---- */

static int bind_value(sqlite3_stmt *q, int at, const json_t *v)
{
	if (json_is_integer(v)) return sqlite3_bind_int64(q, at, json_integer_value(v));
	if (json_is_string(v)) return sqlite3_bind_text64(q, at, json_string_value(v), json_string_length(v), SQLITE_TRANSIENT, SQLITE_UTF8);
	if (!json_is_object(v)) return sqlite3_bind_null(q, at);
	char *text = json_dumps(v, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(17));
	return text ? sqlite3_bind_text(q, at, text, -1, free) : SQLITE_NOMEM;
}

static int insert_files(hub *h, json_t *row)
{
	sqlite3_stmt *q = NULL;
	const char *file;
	json_t *v;
	int rc = sqlite3_prepare_v2(h->db, "INSERT INTO files(adapter, file, sha256, bytes) VALUES(?,?,?,?)", -1, &q, NULL);
	json_object_foreach(json_object_get(row, "files"), file, v)
	{
		if (rc == SQLITE_OK) rc = bind_value(q, 1, json_object_get(row, "name"));
		if (rc == SQLITE_OK) rc = sqlite3_bind_text(q, 2, file, -1, SQLITE_TRANSIENT);
		if (rc == SQLITE_OK) rc = bind_value(q, 3, json_object_get(v, "sha256"));
		if (rc == SQLITE_OK) rc = bind_value(q, 4, json_object_get(v, "bytes"));
		if (rc == SQLITE_OK) rc = sqlite3_step(q) == SQLITE_DONE ? sqlite3_reset(q) : sqlite3_errcode(h->db);
	}
	sqlite3_finalize(q);
	return rc == SQLITE_OK ? OK : index_fails(h, rc);
}

int hub_insert(hub *h, json_t *row)
{
	sqlite3_stmt *q = NULL;
	int rc = sqlite3_prepare_v2(h->db,
		"INSERT INTO adapters(name, base, base_sha256, method, rank, task, license, metrics, note, parameters, bytes, added) VALUES(?,?,?,?,?,?,?,?,?,?,?,?)", -1, &q, NULL);
	for (int i = 0; i < N_COLUMNS && rc == SQLITE_OK; i++) rc = bind_value(q, i + 1, json_object_get(row, columns[i]));
	if (rc == SQLITE_OK) rc = sqlite3_step(q) == SQLITE_DONE ? SQLITE_OK : sqlite3_errcode(h->db);
	sqlite3_finalize(q);
	return rc == SQLITE_OK ? insert_files(h, row) : index_fails(h, rc);
}

static int with_name(hub *h, const char *sql, const char *name, int *rows)
{
	sqlite3_stmt *q = NULL;
	int rc = sqlite3_prepare_v2(h->db, sql, -1, &q, NULL);
	if (rc == SQLITE_OK) rc = sqlite3_bind_text(q, 1, name, -1, SQLITE_TRANSIENT);
	if (rc == SQLITE_OK) rc = sqlite3_step(q);
	*rows = rc == SQLITE_ROW;
	sqlite3_finalize(q);
	return rc == SQLITE_ROW || rc == SQLITE_DONE ? OK : index_fails(h, rc);
}

int hub_has(hub *h, const char *name, int *found) { return with_name(h, "SELECT 1 FROM adapters WHERE name = ?", name, found); }

int hub_delete(hub *h, const char *name, int *found)
{
	int rows, status = hub_has(h, name, found);
	if (!status) status = with_name(h, "DELETE FROM adapters WHERE name = ?", name, &rows);
	return status ? status : with_name(h, "DELETE FROM files WHERE adapter = ?", name, &rows);
}

static json_t *column(sqlite3_stmt *q, int i)
{
	if (sqlite3_column_type(q, i) == SQLITE_NULL) return json_null();
	if (sqlite3_column_type(q, i) == SQLITE_INTEGER) return json_integer(sqlite3_column_int64(q, i));
	const char *text = (const char *)sqlite3_column_text(q, i);
	return text ? json_text(text, (size_t)sqlite3_column_bytes(q, i)) : json_null();
}

static int add_files(hub *h, json_t *row)
{
	json_t *files = json_object();
	sqlite3_stmt *q = NULL;
	int rc = sqlite3_prepare_v2(h->db, "SELECT file, sha256, bytes FROM files WHERE adapter = ? ORDER BY file", -1, &q, NULL);
	if (rc == SQLITE_OK) rc = bind_value(q, 1, json_object_get(row, "name"));
	while (rc == SQLITE_OK || rc == SQLITE_ROW) {
		rc = sqlite3_step(q);
		if (rc != SQLITE_ROW) break;
		json_t *file = column(q, 0);
		if (json_is_string(file)) json_object_set_new(files, json_string_value(file), json_pack("{s:o, s:o}", "sha256", column(q, 1), "bytes", column(q, 2)));
		json_decref(file);
	}
	sqlite3_finalize(q);
	json_object_set_new(row, "files", files);
	return rc == SQLITE_DONE ? OK : index_fails(h, rc);
}

static json_t *row_of(sqlite3_stmt *q)
{
	json_t *row = json_object();
	for (int i = 0; i < N_COLUMNS; i++) {
		json_t *v = column(q, i);
		if (i == METRICS) {
			json_t *o = json_is_string(v) ? json_loads(json_string_value(v), 0, NULL) : NULL;
			json_decref(v);
			v = json_is_object(o) ? o : json_object();
			if (v != o) json_decref(o);
		}
		json_object_set_new(row, columns[i], v);
	}
	return row;
}

/* "%word%" with what LIKE gives a meaning escaped. */
static char *like_pattern(const char *word)
{
	char *out = new_bytes(2 * strlen(word) + 3), *p = out;
	if (!out) return NULL;
	*p++ = '%';
	for (; *word; word++) {
		if (*word == '%' || *word == '_' || *word == '\\') *p++ = '\\';
		*p++ = *word;
	}
	*p++ = '%', *p = 0;
	return out;
}

int hub_rows(hub *h, const char *name, const char *const *words, size_t n_words, json_t **out)
{
	static const char head[] = "SELECT name, base, base_sha256, method, rank, task, license, metrics, note, parameters, bytes, added FROM adapters WHERE ";
	static const char match[] = "(name || char(10) || coalesce(base, '') || char(10) || coalesce(method, '') || char(10) || coalesce(task, '') || char(10) || coalesce(license, '')"
								" || char(10) || coalesce(note, '')) LIKE ? ESCAPE '\\' AND ";
	if (n_words > 50) return fail(USAGE, words[50], "one word too many: at most 50");
	char *sql = new_bytes(sizeof head + n_words * sizeof match + 64), *pattern;
	sqlite3_stmt *q = NULL;
	int status = OK, rc;
	*out = json_array();
	if (!sql) return FAILED;
	strcpy(sql, head);
	for (size_t i = 0; i < n_words; i++) strcat(sql, match);
	strcat(sql, name ? "name = ? ORDER BY name" : "1 ORDER BY name");
	rc = sqlite3_prepare_v2(h->db, sql, -1, &q, NULL);
	for (size_t i = 0; i < n_words && rc == SQLITE_OK; i++) {
		pattern = like_pattern(words[i]);
		rc = pattern ? sqlite3_bind_text(q, (int)i + 1, pattern, -1, free) : SQLITE_NOMEM;
	}
	if (name && rc == SQLITE_OK) rc = sqlite3_bind_text(q, (int)n_words + 1, name, -1, SQLITE_TRANSIENT);
	while (rc == SQLITE_OK || rc == SQLITE_ROW) {
		rc = sqlite3_step(q);
		if (rc != SQLITE_ROW) break;
		json_t *row = row_of(q);
		json_array_append_new(*out, row);
		status = add_files(h, row);
		if (status) break;
	}
	if (!status && rc != SQLITE_DONE) status = index_fails(h, rc);
	sqlite3_finalize(q);
	free(sql);
	return status;
}

int hub_check(hub *h, json_t *problems)
{
	sqlite3_stmt *q = NULL;
	int rc = sqlite3_prepare_v2(h->db, "PRAGMA integrity_check(5)", -1, &q, NULL);
	while (rc == SQLITE_OK || rc == SQLITE_ROW) {
		rc = sqlite3_step(q);
		const char *text = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(q, 0) : NULL;
		if (rc == SQLITE_ROW && text && strcmp(text, "ok")) json_array_append_new(problems, json_pack("{s:n, s:s}", "name", "problem", text));
		if (rc != SQLITE_ROW) break;
	}
	sqlite3_finalize(q);
	return rc == SQLITE_DONE ? OK : index_fails(h, rc);
}
