/* Conversations as text, by rules. There is no template engine: a model's own template is read where it is the plain layout (chat_plain.c),
 * recognised where it is one of the known ones that are not plain, and refused otherwise. */
#ifndef LORA_TOKENIZER_CHAT_H
#define LORA_TOKENIZER_CHAT_H

#include "base/schema.h"
#include "lora/tokenizer.h"
#include "tokenizer/tok.h"

typedef enum lora__chat_role { LORA__CHAT_SYSTEM, LORA__CHAT_USER, LORA__CHAT_ASSISTANT, LORA__CHAT_ROLES } lora__chat_role;

/* One turn: before, the content, behind. In all texts of rules \1 stands for BOS, \2 for EOS, \3 for the role's name. */
typedef struct lora__chat_turn { const char *before, *behind; uint8_t trim, refused, dropped, optional; } lora__chat_turn; /* optional: not written when empty */

typedef enum lora__chat_system { /* what becomes of a system message in front */
	LORA__CHAT_OWN_TURN,
	LORA__CHAT_INTO_FIRST_USER, /* system.before + text + system.behind + content of the first user message */
	LORA__CHAT_INTO_LAST_USER
} lora__chat_system;

enum {
	LORA__CHAT_ALTERNATE  = 1, /* user and assistant take turns, the user first; else an error */
	LORA__CHAT_ANY_ROLE   = 2, /* other roles are written like the user's, with their names */
	LORA__CHAT_TRIM_TURN  = 4, /* folded: the whole text of the user's turn is trimmed */
	LORA__CHAT_THINK_LAST = 8, /* answers behind the last question begin with an empty thought (Qwen 3) */
	LORA__CHAT_SYSTEM_FIRST = 16, /* a system message elsewhere is an error */
	LORA__CHAT_NO_THOUGHT = 64, /* answers with </think> are an error */
	LORA__CHAT_OWN        = 32 /* read from the model's template */
};

typedef struct lora__chat_rules {
	lora__member      m; /* name for --chat-template, help, source */
	const char       *head;      /* in front of everything */
	const char       *no_system; /* then, when no system message comes first */
	lora__chat_turn   turn[LORA__CHAT_ROLES];
	lora__chat_system system;
	uint32_t          flags;
	const char       *generate, *end; /* behind: with a generation prompt, without */
} lora__chat_rules;

extern const lora__chat_rules lora__chat_table[]; /* ends with an empty name */
int32_t                 lora__chat_count(void);
const lora__member     *lora__chat_member(int32_t i);
const lora__chat_rules *lora__chat_named(const char *name); /* or NULL */

/* A span of the rendered text that an assistant wrote, with its end mark. */
typedef struct lora__chat_span { size_t start, end; } lora__chat_span;
typedef struct lora__chat_text { lora__text text; lora__chat_span *spans; size_t n, cap; } lora__chat_text;
lora_status lora__chat_render(const lora_tokenizer *t, const lora__chat_rules *r, const lora_chat_message *m, size_t n, int generate, lora__chat_text *out);
void        lora__chat_text_free(lora__chat_text *t);

/* ---- reading a template (chat_lex.c, chat_plain.c) ---- */

typedef enum lora__chat_kind { LORA__CHAT_LITERAL, LORA__CHAT_EXPRESSION, LORA__CHAT_STATEMENT } lora__chat_kind;
typedef struct lora__chat_item { lora__chat_kind kind; size_t at, n; } lora__chat_item; /* bytes of text */
/* A template in a form where wordings that mean the same look the same: literals joined, sums taken apart, white space applied, m['x'] as m.x,
 * the loop's variable as m, .strip() as |trim. */
typedef struct lora__chat_items { lora_context *ctx; lora__tok_buf text; lora__chat_item *list; size_t n, cap; } lora__chat_items;
/* *ok 0: not understood (no error). */
lora_status lora__chat_lex(lora_context *ctx, const char *s, size_t n, lora__chat_items *out, int *ok);
void        lora__chat_items_free(lora__chat_items *l);

/* Rules of a model's own template. texts owns what the rules point to. LORA_E_UNSUPPORTED when it is not known: the message lists the names. */
typedef struct lora__chat_own { lora__chat_rules rules; lora__tok_buf texts; } lora__chat_own;
lora_status lora__chat_recognise(lora_context *ctx, const char *s, size_t n, lora__chat_own *out);
void        lora__chat_own_free(lora_context *ctx, lora__chat_own *o);
/* Plain layout: *ok. The rules' texts are offsets into o->texts until the end, then pointers. */
lora_status lora__chat_plain(const lora__chat_items *l, lora__chat_own *o, int *ok);

/* Ids of a text, and which of them hold a byte of a span (tok_mask.c). mask has room for capacity bytes; may be NULL. */
lora_status lora__tokenizer_encode_spans(const lora_tokenizer *t, const char *text, size_t n, const lora__chat_span *spans, size_t n_spans, int32_t *ids,
                                         uint8_t *mask, size_t capacity, size_t *count);

#endif
