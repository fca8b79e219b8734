/* Tokenizers: internal contracts. The parts and their order follow huggingface/tokenizers (version 0.23), whose results are matched id by id:
 *
 *   text -> added tokens cut out -> normalizers -> (normalised added tokens cut out) -> pre-tokenizers -> model -> post-processor -> ids
 *   ids  -> token texts -> decoders -> text
 *
 * Every part is a member of a family with a table of its own: build() reads its JSON, run() works, drop() releases. A member is one entry in
 * the table of its file. A handle is read-only after it was opened; what a call needs to change lives in a lora__tok_call.
 * Text flows as a stream: a pre-tokenizer hands each piece on at once, so that memory does not grow with the number of words.
 *
 * Reading order: tok.h, tok_core.c, tok_build.c, then the families: norm_*.c, pre_*.c, model_*.c, tok_post.c, dec_*.c. */
#ifndef LORA_TOKENIZER_TOK_H
#define LORA_TOKENIZER_TOK_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "base/json.h"
#include "base/map.h"
#include "lora/tokenizer.h"

enum {
	LORA__TOK_DEPTH        = 64,      /* nesting of sequences, and number of parts in one */
	LORA__TOK_ADDED_BYTES  = 1024,    /* longest added token: bounds the work per byte of text */
	LORA__TOK_ID_ROOM      = 1 << 20, /* ids up to this are fine in any vocabulary; above, at most 16 per token */
	LORA__TOK_MATCH_STEPS  = 200000,  /* of the regular expression engine for one match ... */
	LORA__TOK_MATCH_EACH   = 16       /* ... and that many more for each byte of the text */
};

/* ---- bytes and characters (tok_unicode.c) ---- */

/* A growing buffer of bytes. */
typedef struct lora__tok_buf { char *p; size_t n, cap; } lora__tok_buf;

/* Room for more bytes behind n. */
lora_status lora__tok_room(lora_context *ctx, lora__tok_buf *b, size_t more);
lora_status lora__tok_put(lora_context *ctx, lora__tok_buf *b, const char *s, size_t n);
lora_status lora__tok_put_char(lora_context *ctx, lora__tok_buf *b, uint32_t c);

/* Character at s (valid UTF-8) and its length. */
static inline size_t lora__tok_char_bytes(const char *s)
{
	unsigned char c = (unsigned char)*s;
	return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}
static inline uint32_t lora__tok_char(const char *s, size_t *n)
{
	const unsigned char *u = (const unsigned char *)s;
	*n = lora__tok_char_bytes(s);
	switch (*n) {
	case 1: return u[0];
	case 2: return (uint32_t)(u[0] & 0x1f) << 6 | (u[1] & 0x3f);
	case 3: return (uint32_t)(u[0] & 0x0f) << 12 | (uint32_t)(u[1] & 0x3f) << 6 | (u[2] & 0x3f);
	default: return (uint32_t)(u[0] & 0x07) << 18 | (uint32_t)(u[1] & 0x3f) << 12 | (uint32_t)(u[2] & 0x3f) << 6 | (u[3] & 0x3f);
	}
}
size_t lora__tok_encode_char(uint32_t c, char out[4]); /* bytes written */

typedef int (*lora__tok_class)(uint32_t c);
int lora__tok_is_space(uint32_t c);   /* White_Space */
int lora__tok_is_number(uint32_t c);  /* N* */
int lora__tok_is_punct(uint32_t c);   /* P* and the ASCII symbols */
int lora__tok_is_word(uint32_t c);    /* \w of UTS 18 */
int lora__tok_is_mark(uint32_t c);    /* M* */
int lora__tok_is_nonspacing(uint32_t c); /* Mn */
int lora__tok_is_other(uint32_t c);   /* Cc, Cf, Co */
uint32_t lora__tok_base(uint32_t c); /* the first character of the canonical decomposition */
lora_status lora__tok_put_lower(lora_context *ctx, lora__tok_buf *b, uint32_t c);
/* Normal forms: compose 0/1, compat 0/1. Linear also for long runs of combining marks. */
lora_status lora__tok_normal_form(lora_context *ctx, const char *s, size_t n, int compose, int compat, lora__tok_buf *out);
/* End of the grapheme cluster that begins at s. */
size_t lora__tok_grapheme(const char *s, size_t n);

/* ---- trie over bytes (tok_trie.c) ---- */

typedef struct lora__tok_node { uint32_t first, n; int32_t value; } lora__tok_node; /* children first .. first+n-1, sorted by label */
typedef struct lora__tok_trie { lora__tok_node *nodes; uint8_t *labels; size_t n, cap_nodes, cap_labels; int32_t root[256]; } lora__tok_trie;
typedef struct lora__tok_key { const char *s; size_t n; int32_t value; size_t order; } lora__tok_key; /* order is set by build */
/* Sorts keys. Of equal keys the one that came first wins. */
lora_status lora__tok_trie_build(lora_context *ctx, lora__tok_key *keys, size_t n, lora__tok_trie *out);
void        lora__tok_trie_free(lora_context *ctx, lora__tok_trie *t);
/* Child of a node by label, or -1. Begin with root[byte]. */
int32_t     lora__tok_trie_step(const lora__tok_trie *t, int32_t node, uint8_t label);
/* Value of the longest key that s begins with, and its length; or -1. */
int32_t     lora__tok_trie_longest(const lora__tok_trie *t, const char *s, size_t n, size_t *used);

/* ---- vocabulary (tok_vocab.c) ---- */

typedef struct lora__tok_vocab {
	lora_context *ctx;
	char     *bytes;           /* all texts, each with a NUL behind */
	size_t    n_bytes, cap_bytes;
	struct { uint32_t at, n; } *by_id; /* at = UINT32_MAX: no token with this id */
	size_t    n_ids, cap_ids;
	size_t    n_tokens;
	lora__map by_text;
} lora__tok_vocab;

void        lora__tok_vocab_init(lora__tok_vocab *v, lora_context *ctx);
void        lora__tok_vocab_free(lora__tok_vocab *v);
/* Reserve all texts first (total bytes with NULs), so that the keys of the map stay in place. */
lora_status lora__tok_vocab_reserve(lora__tok_vocab *v, size_t bytes);
/* LORA_E_EXISTS (nothing recorded): text or id is taken; *clash says by which id (text) or -1 (id). */
lora_status lora__tok_vocab_add(lora__tok_vocab *v, const char *s, size_t n, int64_t id, int64_t *clash);
static inline int64_t lora__tok_vocab_find(const lora__tok_vocab *v, const char *s, size_t n) { return lora__map_find(&v->by_text, s, n); }
/* Text of an id, or NULL. */
const char *lora__tok_vocab_text(const lora__tok_vocab *v, int64_t id, size_t *n);

/* ---- vocabularies that come as arrays: SentencePiece files, vocab.txt, GGUF (tok_source.c) ---- */

typedef enum lora__tok_type { /* as SentencePiece and GGUF number them */
	LORA__TOK_NORMAL = 1, LORA__TOK_UNKNOWN, LORA__TOK_CONTROL, LORA__TOK_USER, LORA__TOK_UNUSED, LORA__TOK_BYTE
} lora__tok_type;
typedef enum lora__tok_kind {
	LORA__TOK_BPE_MERGES, /* BPE by merge rules */
	LORA__TOK_BPE_SCORES, /* SentencePiece BPE: of all joins that give a token the one of the highest score */
	LORA__TOK_UNIGRAM,    /* SentencePiece Unigram */
	LORA__TOK_WORDPIECE
} lora__tok_kind;
typedef struct lora__tok_entry { const char *s; size_t n; float score; uint8_t type; } lora__tok_entry; /* a lora__tok_type */
typedef struct lora__tok_slice { const char *s; size_t n; } lora__tok_slice;

/* Everything is borrowed for the call. A token's id is its place. CONTROL and UNKNOWN tokens are found in a text only with
 * LORA_TOKENIZE_CONTROL (or parse_special), USER tokens always. */
typedef struct lora__tok_source {
	const char            *what;    /* file, for messages */
	lora__tok_kind         kind;
	const lora__tok_entry *entries;
	size_t                 n;
	const lora__tok_slice *merges;  /* "a b", BPE_MERGES */
	size_t                 n_merges;
	const json_t          *parts;   /* object with members as in tokenizer.json: normalizer, pre_tokenizer, post_processor, decoder,
	                                 * added_tokens (stated ids hold), and model without vocab and merges; may be NULL */
	int32_t                bos, eos; /* what LORA_TOKENIZE_SPECIAL puts in front and behind, besides a post_processor; -1 = nothing */
	int                    parse_special; /* LORA_TOKENIZE_SPECIAL also finds control tokens in the text, as llama.cpp does */
	int                    cut_user;      /* USER tokens are cut out before anything else, as llama.cpp does; else as SentencePiece */
	/* BPE_SCORES and UNIGRAM: SentencePiece's normalizer */
	const uint8_t         *charsmap; /* precompiled, or NULL */
	size_t                 n_charsmap;
	int                    dummy_prefix, remove_spaces, escape_spaces, space_behind, byte_fallback;
	int                    prefix_once; /* the dummy prefix only at the beginning of the text, not behind every added token */
	const char            *unk_surface; /* what the unknown token decodes to; NULL = its text */
	int                    show_control; /* control tokens decode to their texts, not to nothing */
	int                    keep_prefix;  /* decoding leaves the dummy prefix, as llama.cpp does */
} lora__tok_source;

/* ---- reading tokenizer.json (tok_json.c) ---- */

typedef struct lora__tok_build {
	lora_context   *ctx;
	lora_tokenizer *t;
	const char     *what;       /* file, for messages */
	char            where[160]; /* part that is being read, such as "normalizer.normalizers[2]" */
	int             depth;
	const lora__tok_source *source; /* where vocab and merges come from instead of the JSON; or NULL */
	int             stated;     /* ids of added tokens are as stated */
} lora__tok_build;

/* "<file>: <where>.<key>: <message>"; key may be NULL. */
lora_status lora__tok_fail(lora__tok_build *b, lora_status st, const char *key, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
/* Step into a part for messages: saves the old place in save. */
typedef struct lora__tok_place { size_t n; int depth; } lora__tok_place;
lora_status lora__tok_enter(lora__tok_build *b, const json_t *j, lora__tok_place *save, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
void lora__tok_leave(lora__tok_build *b, lora__tok_place save);

/* Members of an object. Absent or null gives the default; other types are LORA_E_FORMAT. */
lora_status lora__tok_bool(lora__tok_build *b, const json_t *j, const char *key, int def, int *out);
lora_status lora__tok_int(lora__tok_build *b, const json_t *j, const char *key, int64_t def, int64_t min, int64_t max, int64_t *out);
lora_status lora__tok_string(lora__tok_build *b, const json_t *j, const char *key, const char *def, const char **s, size_t *n);
lora_status lora__tok_required(lora__tok_build *b, const json_t *j, const char *key, const char **s, size_t *n);
/* The object of texts and ids under key, into the vocabulary. */
lora_status lora__tok_vocab_read(lora__tok_build *b, const json_t *j, const char *key);
/* "<0xHH>": value of the byte, or -1. */
int lora__tok_byte_token(const char *s, size_t n);
/* Ids of the 256 byte tokens, -1 where there is none. */
void lora__tok_byte_ids(const lora__tok_vocab *v, int32_t ids[256]);
/* A string of exactly one character. */
lora_status lora__tok_one_char(lora__tok_build *b, const json_t *j, const char *key, const char *def, uint32_t *c);
char *lora__tok_copy(lora__tok_build *b, const char *s, size_t n); /* NULL = no memory, recorded */

/* ---- patterns (tok_regex.c translates, tok_match.c runs) ---- */

typedef struct lora__tok_pattern { char *literal; size_t n; pcre2_code *code; int jit; } lora__tok_pattern;
/* Oniguruma's regular expressions in the words of PCRE2. */
lora_status lora__tok_translate(lora__tok_build *b, const char *s, size_t n, lora__tok_buf *out);
lora_status lora__tok_pattern_regex(lora__tok_build *b, const char *s, size_t n, lora__tok_pattern *out);
/* {"String": ...} or {"Regex": ...} under key. */
lora_status lora__tok_pattern_json(lora__tok_build *b, const json_t *j, const char *key, lora__tok_pattern *out);
void        lora__tok_pattern_free(lora_context *ctx, lora__tok_pattern *p);

/* What one encode or decode call changes. */
typedef struct lora__tok_call {
	const lora_tokenizer *t;
	lora_context         *ctx;
	pcre2_match_data     *match;
	pcre2_match_context  *limits;
	pcre2_jit_stack      *jit_stack;
	size_t                limit_n; /* length of text that the limits were set for */
	int32_t              *ids;
	size_t                n_ids, cap_ids;
	lora__tok_buf         norm[2];                    /* normalised text, in turns */
	lora__tok_buf         stage[LORA__TOK_DEPTH + 1]; /* text of each pre-tokenizer that changes it */
	void                 *scratch;                    /* of the model */
	struct lora__tok_cache *cache;                    /* words met before in this call */
} lora__tok_call;

/* Matches one after the other, as the onig crate's find_iter: an empty match right behind the last match does not count. */
typedef struct lora__tok_iter { const lora__tok_pattern *p; const char *s; size_t n, at, last; int any; } lora__tok_iter;
static inline lora__tok_iter lora__tok_matches(const lora__tok_pattern *p, const char *s, size_t n)
{
	return (lora__tok_iter){ p, s, n, 0, 0, 0 };
}
/* *found 1 and the match, or 0. */
lora_status lora__tok_next(lora__tok_call *c, lora__tok_iter *it, int *found, size_t *start, size_t *end);

/* ---- families ---- */

/* n bytes at s are normalised into out (empty at the start). *first: 1 while the first character still comes from the first of the text. */
typedef struct lora__tok_norm {
	const char *name;
	lora_status (*build)(lora__tok_build *b, const json_t *j, void **self); /* may be NULL */
	lora_status (*run)(const void *self, lora__tok_call *c, const char *s, size_t n, lora__tok_buf *out, int *first);
	void (*drop)(lora_context *ctx, void *self); /* NULL: lora__free */
} lora__tok_norm;

/* Hands its pieces to lora__tok_piece(c, stage + 1, ...). Buffer of its own: c->stage[stage]. */
typedef struct lora__tok_pre {
	const char *name;
	lora_status (*build)(lora__tok_build *b, const json_t *j, void **self);
	lora_status (*run)(const void *self, lora__tok_call *c, int stage, const char *s, size_t n, int first);
	void (*drop)(lora_context *ctx, void *self);
} lora__tok_pre;

/* Appends ids to the call. */
typedef struct lora__tok_model {
	const char *name;
	lora_status (*build)(lora__tok_build *b, const json_t *j, void **self);
	lora_status (*run)(const void *self, lora__tok_call *c, const char *s, size_t n);
	void (*end)(lora__tok_call *c); /* releases c->scratch; may be NULL */
	void (*drop)(lora_context *ctx, void *self);
} lora__tok_model;

/* A list of texts: text i is bytes ends[i-1] .. ends[i]. */
typedef struct lora__tok_texts { lora__tok_buf bytes; size_t *ends; size_t n, cap; } lora__tok_texts;
typedef struct lora__tok_dec {
	const char *name;
	lora_status (*build)(lora__tok_build *b, const json_t *j, void **self);
	lora_status (*run)(const void *self, lora__tok_call *c, const lora__tok_texts *in, lora__tok_texts *out);
	void (*drop)(lora_context *ctx, void *self);
} lora__tok_dec;
/* Close the text whose bytes were just put. */
lora_status lora__tok_text_end(lora_context *ctx, lora__tok_texts *t);
static inline const char *lora__tok_text(const lora__tok_texts *t, size_t i, size_t *n)
{
	size_t from = i ? t->ends[i - 1] : 0;
	*n = t->ends[i] - from;
	return t->bytes.p ? t->bytes.p + from : "";
}

extern const lora__tok_norm lora__norms_text[], lora__norms_unicode[], lora__norms_bert[], lora__norms_precompiled[];
extern const lora__tok_pre lora__pres_split[], lora__pres_bytelevel[], lora__pres_metaspace[];
extern const lora__tok_model lora__model_bpe, lora__model_unigram, lora__model_wordpiece, lora__model_wordlevel;
extern const lora__tok_dec lora__decs_text[], lora__decs_byte[], lora__decs_wordpiece[];
/* SentencePiece's own (norm_sentencepiece.c, dec_sentencepiece.c): not in files, made from b->source. */
extern const lora__tok_norm lora__norm_sentencepiece;
extern const lora__tok_dec lora__dec_sentencepiece;

/* SentencePiece's character map (norm_precompiled.c). */
typedef struct lora__charsmap { uint8_t *bytes; uint32_t *units; size_t n_units; const char *texts; size_t n_texts; } lora__charsmap;
/* Takes bytes (n, on the heap) also on failure. */
lora_status lora__charsmap_open(lora__tok_build *b, uint8_t *bytes, size_t n, lora__charsmap *out);
void        lora__charsmap_free(lora_context *ctx, lora__charsmap *p);
/* Replacement of the shortest (or with longest the longest) prefix of s that the map has, or NULL; *used is the prefix's length. */
const char *lora__charsmap_find(const lora__charsmap *p, const char *s, size_t n, int longest, size_t *text_n, size_t *used);

typedef struct lora__tok_norm_step { const lora__tok_norm *kind; void *self; } lora__tok_norm_step;
typedef struct lora__tok_pre_step { const lora__tok_pre *kind; void *self; } lora__tok_pre_step;
typedef struct lora__tok_dec_step { const lora__tok_dec *kind; void *self; } lora__tok_dec_step;

/* ---- added tokens (tok_added.c) ---- */

typedef struct lora__tok_added_token {
	char   *text, *shown; /* shown: what decoding gives, the normalised text of a token that is normalised; else NULL */
	size_t  n, n_shown;
	int32_t id;
	uint8_t special, single_word, lstrip, rstrip, normalized;
	uint8_t control; /* found with LORA_TOKENIZE_CONTROL only */
} lora__tok_added_token;
typedef struct lora__tok_added {
	lora__tok_added_token *list;
	size_t         n, cap;
	lora__map      by_text;
	int32_t       *by_id;     /* indices into list, in the order of the ids */
	lora__tok_trie raw, norm; /* tokens looked for in the text as it is, and in the normalised text */
	lora__tok_trie control;   /* raw and the control tokens; empty when there are none */
} lora__tok_added;

/* The list (needs the vocabulary), then the tries (need the normalizers). */
lora_status lora__tok_added_read(lora__tok_build *b, const json_t *list);
/* Before it: the control tokens of b->source, and its user tokens when those are cut out. */
lora_status lora__tok_added_source(lora__tok_build *b);
lora_status lora__tok_added_ready(lora__tok_build *b);
void        lora__tok_added_free(lora_context *ctx, lora__tok_added *a);
/* The next added token in s[0..n), or NULL: leftmost, of those the longest. *at: where to look on (0 at first). done: end of the token
 * before, with the white space that it took. *start, *end: with the white space that this one takes. */
const lora__tok_added_token *lora__tok_added_find(const lora__tok_added *a, const lora__tok_trie *trie, const char *s, size_t n, size_t *at,
                                                  size_t done, size_t *start, size_t *end);
const lora__tok_added_token *lora__tok_added_by_id(const lora__tok_added *a, int64_t id); /* or NULL */

/* ---- the handle ---- */

/* What tokenizer_config.json or a GGUF says about conversations; texts are owned, NULL where nothing is said. */
typedef struct lora__tok_chat { char *template, *bos, *eos; } lora__tok_chat;

struct lora_tokenizer {
	lora_context          *ctx;
	pcre2_general_context *pcre;
	pcre2_compile_context *pcre_compile;
	lora__tok_vocab        vocab;
	lora__tok_added        added;
	lora__tok_norm_step   *norms;
	lora__tok_pre_step    *pres;
	lora__tok_dec_step    *decs;
	size_t                 n_norms, cap_norms, n_pres, cap_pres, n_decs, cap_decs;
	int                    has_decoder;
	const lora__tok_model *model;
	void                  *model_self;
	int32_t               *prefix, *suffix; /* what the post-processor puts around */
	size_t                 n_prefix, n_suffix, cap_prefix, cap_suffix;
	int                    parse_special;
	int64_t                size; /* highest id + 1 */
	lora__tok_chat         chat;
};

/* Hand a piece to a stage: a pre-tokenizer, or the model behind the last. Empty pieces vanish. */
lora_status lora__tok_piece(lora__tok_call *c, int stage, const char *s, size_t n, int first);
lora_status lora__tok_emit(lora__tok_call *c, int32_t id);
lora_status lora__tok_emit_all(lora__tok_call *c, const int32_t *ids, size_t n);
/* Ids of words that a call met before (tok_cache.c): 1 and the ids are emitted (or *st says why not), or 0. */
int  lora__tok_cache_hit(lora__tok_call *c, const char *s, size_t n, lora_status *st);
/* Keep the ids from `from` on as those of the word that was just asked for and not found. Never fails: what does not fit is not kept. */
void lora__tok_cache_keep(lora__tok_call *c, const char *s, size_t n, size_t from);
void lora__tok_cache_free(lora__tok_call *c);
/* All normalizers over s; *out points into the call or is s itself. */
lora_status lora__tok_normalize(lora__tok_call *c, const char *s, size_t n, int *first, const char **out, size_t *out_n);

/* Cut s into pieces by a pattern or a class of characters. */
typedef enum { LORA__TOK_ISOLATED, LORA__TOK_REMOVED, LORA__TOK_MERGED_WITH_PREVIOUS, LORA__TOK_MERGED_WITH_NEXT, LORA__TOK_CONTIGUOUS } lora__tok_behavior;
lora_status lora__tok_split(lora__tok_call *c, int stage, const char *s, size_t n, int first, const lora__tok_pattern *p, lora__tok_class is,
                            lora__tok_behavior behavior, int invert);

/* The 256 characters that stand for bytes in byte-level tokenizers (pre_bytelevel.c). */
uint32_t    lora__tok_byte_char(uint8_t byte);
int         lora__tok_char_byte(uint32_t c); /* or -1 */
lora_status lora__tok_put_byte_chars(lora_context *ctx, lora__tok_buf *out, const char *s, size_t n);

/* ---- parts of the file (tok_build.c, tok_post.c) and the life of a handle (tok_core.c) ---- */

lora_status lora__tok_build_all(lora__tok_build *b, const json_t *root);
lora_status lora__tok_post_read(lora__tok_build *b, const json_t *j);
lora_status lora__tok_call_begin(const lora_tokenizer *t, lora__tok_call *c);
void        lora__tok_call_end(lora__tok_call *c);

/* Text between added tokens to ids. first: it begins the whole text. */
lora_status lora__tok_gap(lora__tok_call *c, const char *text, size_t n, int first);

/* From arrays. The parts of SentencePiece are made here; those of the other kinds come as src->parts. */
lora_status lora__tokenizer_from_source(lora_context *ctx, const lora__tok_source *src, lora_tokenizer **out);
lora_status lora__tok_source_vocab(lora__tok_build *b);
/* The USER tokens as a trie of ids (empty when they are cut out before). */
lora_status lora__tok_source_user(lora__tok_build *b, lora__tok_trie *out);
static inline int lora__tok_is_piece(const lora__tok_entry *e) /* may come out of a text by the model itself */
{
	return e->type == LORA__TOK_NORMAL || e->type == LORA__TOK_USER || e->type == LORA__TOK_UNUSED;
}
/* Keep a chat template and the texts of BOS and EOS with a tokenizer; NULL leaves what is there. */
lora_status lora__tokenizer_set_chat(lora_tokenizer *t, const char *template, size_t n, const char *bos, const char *eos);

/* From JSON text in memory; what names it in messages. */
lora_status lora__tokenizer_from_json(lora_context *ctx, const char *text, size_t n, const char *what, lora_tokenizer **out);
/* The same from a tree. stated: added tokens have the ids that are stated, in gaps too. */
lora_status lora__tokenizer_from_tree(lora_context *ctx, const json_t *root, const char *what, int stated, lora_tokenizer **out);
lora_status lora__tokenizer_encode(const lora_tokenizer *t, const char *text, size_t n, uint32_t flags, int32_t *ids, size_t capacity,
                                   size_t *count);
lora_status lora__tokenizer_decode(const lora_tokenizer *t, const int32_t *ids, size_t count, char *buf, size_t size, size_t *needed);
lora_status lora__tokenizer_stream(const lora_tokenizer *t, uint64_t state[2], const int32_t *ids, size_t count, int last, char *buf, size_t size, size_t *needed);
int32_t     lora__tokenizer_id(const lora_tokenizer *t, const char *token);
void        lora__tokenizer_destroy(lora_tokenizer *t);

#endif
