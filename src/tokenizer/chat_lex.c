/* Chat templates into a form where wordings that mean the same look the same. Only what these templates use is understood; anything else makes
 * the template unknown, which is no error here.
 * Source: Jinja's documentation, with trim_blocks and lstrip_blocks on, as transformers sets them. */
#include "tokenizer/chat.h"

enum { MOST_BYTES = 1 << 20, MOST_TOKENS = 512 };

/* A word of an expression: name or number (w), operator (o), or string (s, without quotes and escapes). */
typedef struct token { char kind; const char *s; size_t n; } token;
typedef struct lexer { lora__chat_items *out; const char *s; size_t n, at; int ok; lora__tok_buf strings; token list[MOST_TOKENS]; size_t count; char loop[32]; } lexer;

static int is_word(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_'; }
static int is_blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

/* ---- items ---- */

static lora_status put_item(lexer *x, lora__chat_kind kind, const char *s, size_t n)
{
	lora__chat_items *o = x->out;
	lora_status st = lora__tok_put(o->ctx, &o->text, s, n);
	if (st || (!n && kind == LORA__CHAT_LITERAL)) return st;
	if (kind == LORA__CHAT_LITERAL && o->n && o->list[o->n - 1].kind == kind) {
		o->list[o->n - 1].n += n; /* it stands right behind */
		return LORA_OK;
	}
	if ((st = lora__grow(o->ctx, &o->list, &o->cap, o->n + 1, sizeof *o->list))) return st;
	o->list[o->n++] = (lora__chat_item){ kind, o->text.n - n, n };
	return LORA_OK;
}

void lora__chat_items_free(lora__chat_items *l)
{
	lora__free(l->ctx, l->text.p);
	lora__free(l->ctx, l->list);
	*l = (lora__chat_items){ .ctx = l->ctx };
}

/* ---- words ---- */

/* A string literal at s[at]; its value goes to x->strings, which has room for it. Returns the place behind, 0 = not understood. */
static size_t read_string(lexer *x, const char *s, size_t n, size_t at)
{
	char quote = s[at++], *to = x->strings.p + x->strings.n, *start = to;
	for (; at < n && s[at] != quote; at++) {
		char c = s[at];
		if (c == '\\') {
			if (++at == n) return 0;
			switch (s[at]) {
			case 'n': c = '\n'; break;
			case 't': c = '\t'; break;
			case 'r': c = '\r'; break;
			case '\\': case '\'': case '"': c = s[at]; break;
			default: return 0;
			}
		}
		if (c == 1 || c == 2 || c == 3 || c == 0) return 0;
		*to++ = c;
	}
	if (at == n || x->count == MOST_TOKENS) return 0;
	x->list[x->count++] = (token){ 's', start, (size_t)(to - start) };
	x->strings.n += (size_t)(to - start);
	return at + 1;
}

static int read_words(lexer *x, const char *s, size_t n)
{
	static const char *const two[] = { "==", "!=", "<=", ">=", "**", "//" };
	x->count = 0;
	for (size_t at = 0; at < n; ) {
		if (is_blank(s[at])) {
			at++;
			continue;
		}
		if (x->count == MOST_TOKENS) return 0;
		if (s[at] == '\'' || s[at] == '"') {
			if (!(at = read_string(x, s, n, at))) return 0;
			continue;
		}
		size_t m = 1;
		char kind = 'o';
		if (is_word(s[at])) {
			for (kind = 'w'; at + m < n && is_word(s[at + m]); m++) continue;
		} else if ((unsigned char)s[at] >= 0x80) return 0;
		for (size_t k = 0; k < 6 && kind == 'o' && at + 1 < n; k++)
			if (!memcmp(s + at, two[k], 2)) m = 2;
		x->list[x->count++] = (token){ kind, s + at, m };
		at += m;
	}
	return 1;
}

static int is(const token *t, const char *s) { return t->kind != 's' && strlen(s) == t->n && !memcmp(t->s, s, t->n); }

/* m['x'] becomes m.x, .strip() becomes |trim, the loop's variable m. */
static void simplify(lexer *x)
{
	size_t k = 0;
	for (size_t i = 0; i < x->count; i++) {
		token *t = &x->list[i];
		int plain = i + 2 < x->count && is(t, "[") && k && (x->list[k - 1].kind == 'w' || is(&x->list[k - 1], "]")) && t[1].kind == 's' && t[1].n && is(t + 2, "]");
		for (size_t c = 0; plain && c < t[1].n; c++) plain = is_word(t[1].s[c]);
		if (plain) {
			token name = { 'w', t[1].s, t[1].n };
			x->list[k++] = (token){ 'o', ".", 1 };
			x->list[k++] = name;
			i += 2;
		} else if (i + 3 < x->count && is(t, ".") && is(t + 1, "strip") && is(t + 2, "(") && is(t + 3, ")")) {
			x->list[k++] = (token){ 'o', "|", 1 };
			x->list[k++] = (token){ 'w', "trim", 4 };
			i += 3;
		} else {
			int member = k && is(&x->list[k - 1], ".");
			x->list[k++] = t->kind == 'w' && !member && *x->loop && is(t, x->loop) ? (token){ 'w', "m", 1 } : *t;
		}
	}
	x->count = k;
}

/* Words a..b as text, without needless spaces. */
static lora_status join(lexer *x, size_t a, size_t b, lora__tok_buf *to)
{
	lora_context *ctx = x->out->ctx;
	lora_status st = LORA_OK;
	to->n = 0;
	for (size_t i = a; i < b && !st; i++) {
		const token *t = &x->list[i];
		if (i > a && t->kind == 'w' && t[-1].kind == 'w') st = lora__tok_put(ctx, to, " ", 1);
		if (!st && i > a && ((t->kind == 's' && t[-1].kind == 'w') || (t->kind == 'w' && t[-1].kind == 's'))) st = lora__tok_put(ctx, to, " ", 1);
		if (!st && t->kind == 's') st = lora__tok_put(ctx, to, "'", 1);
		if (!st) st = lora__tok_put(ctx, to, t->s, t->n);
		if (!st && t->kind == 's') st = lora__tok_put(ctx, to, "'", 1);
	}
	return st;
}

/* Does one pair of parentheses hold a..b? */
static int in_parens(const lexer *x, size_t a, size_t b)
{
	int depth = 0;
	if (b - a < 2 || !is(&x->list[a], "(") || !is(&x->list[b - 1], ")")) return 0;
	for (size_t i = a; i + 1 < b; i++) {
		depth += is(&x->list[i], "(") - is(&x->list[i], ")");
		if (!depth) return 0;
	}
	return 1;
}

/* ---- {{ }}: a sum of texts is taken apart ---- */

static lora_status put_sum(lexer *x, size_t a, size_t b)
{
	static const char *const weaker[] = { "if", "and", "or", "not", "in", "is", "==", "!=", "<", ">", "<=", ">=", "-", "," };
	int depth = 0, whole = 0;
	size_t from = a;
	lora_status st = LORA_OK;
	while (in_parens(x, a, b)) a++, b--, from = a;
	for (size_t i = a; i < b; i++) {
		const token *t = &x->list[i];
		depth += is(t, "(") + is(t, "[") - is(t, ")") - is(t, "]");
		for (size_t k = 0; k < sizeof weaker / sizeof *weaker && !depth; k++) whole |= is(t, weaker[k]);
	}
	for (size_t i = a; i <= b && !st; i++) {
		if (i < b) depth += is(&x->list[i], "(") + is(&x->list[i], "[") - is(&x->list[i], ")") - is(&x->list[i], "]");
		if (i < b && (whole || depth || !(is(&x->list[i], "+") || is(&x->list[i], "~")))) continue;
		if (from == i) {
			x->ok = 0; /* an empty part */
			return LORA_OK;
		}
		if (in_parens(x, from, i)) st = put_sum(x, from, i);
		else if (i == from + 1 && x->list[from].kind == 's') st = put_item(x, LORA__CHAT_LITERAL, x->list[from].s, x->list[from].n);
		else {
			lora__tok_buf text = { 0 };
			st = join(x, from, i, &text);
			if (!st) st = put_item(x, LORA__CHAT_EXPRESSION, text.p, text.n);
			lora__free(x->out->ctx, text.p);
		}
		from = i + 1;
	}
	return st;
}

static lora_status put_statement(lexer *x)
{
	lora__tok_buf text = { 0 };
	size_t a = 0, b = x->count;
	if (!b) return LORA_OK;
	if (is(&x->list[0], "generation") || is(&x->list[0], "endgeneration")) return LORA_OK; /* the mask is made by other means */
	if (is(&x->list[0], "for") && b == 4 && is(&x->list[2], "in") && (is(&x->list[3], "messages") || is(&x->list[3], "loop_messages")) && x->list[1].n < sizeof x->loop) {
		if (!*x->loop || !is(&x->list[1], "m")) { /* else it is the same name as before */
			memcpy(x->loop, x->list[1].s, x->list[1].n);
			x->loop[x->list[1].n] = 0;
		}
		x->list[1] = (token){ 'w', "m", 1 };
	} else if (is(&x->list[0], "if") || is(&x->list[0], "elif")) {
		while (in_parens(x, 1, b)) { /* if (...) */
			memmove(&x->list[1], &x->list[2], (b - 3) * sizeof *x->list);
			x->count = b -= 2;
		}
	}
	lora_status st = join(x, a, b, &text);
	if (!st) st = put_item(x, LORA__CHAT_STATEMENT, text.p, text.n);
	lora__free(x->out->ctx, text.p);
	return st;
}

/* ---- text and tags ---- */

/* Text before a tag: with a minus all white space at its end goes; before a block the blanks on its line. */
static size_t cut_end(const char *s, size_t from, size_t to, int minus, int block)
{
	size_t k = to;
	if (minus) {
		while (k > from && is_blank(s[k - 1])) k--;
		return k;
	}
	if (!block) return to;
	while (k > from && (s[k - 1] == ' ' || s[k - 1] == '\t')) k--;
	return k == 0 || s[k - 1] == '\n' ? k : to;
}

static lora_status one_tag(lexer *x, size_t tag)
{
	const char *s = x->s;
	char kind = s[tag + 1];
	const char *close = kind == '{' ? "}}" : kind == '%' ? "%}" : "#}";
	size_t at = tag + 2, end = at, quote = 0;
	if (at < x->n && (s[at] == '-' || s[at] == '+')) at++;
	for (end = at; end + 1 < x->n; end++) {
		if (kind != '#' && quote) {
			if (s[end] == '\\') end++;
			else if ((unsigned char)s[end] == quote) quote = 0;
		} else if (kind != '#' && (s[end] == '\'' || s[end] == '"')) quote = (unsigned char)s[end];
		else if (s[end] == close[0] && s[end + 1] == close[1]) break;
	}
	if (end + 1 >= x->n) {
		x->ok = 0;
		return LORA_OK;
	}
	size_t stop = end;
	int minus = stop > at && s[stop - 1] == '-', plus = stop > at && s[stop - 1] == '+';
	x->at = end + 2;
	if (minus || plus) stop--;
	if (minus) while (x->at < x->n && is_blank(s[x->at])) x->at++;
	else if (kind != '{' && !plus && x->at < x->n && s[x->at] == '\n') x->at++;
	if (kind == '#') return LORA_OK;
	x->strings.n = 0;
	if (!read_words(x, s + at, stop - at)) {
		x->ok = 0;
		return LORA_OK;
	}
	simplify(x);
	return kind == '{' ? put_sum(x, 0, x->count) : put_statement(x);
}

lora_status lora__chat_lex(lora_context *ctx, const char *s, size_t n, lora__chat_items *out, int *ok)
{
	*out = (lora__chat_items){ .ctx = ctx };
	*ok = 0;
	if (n > MOST_BYTES || memchr(s, 1, n) || memchr(s, 2, n) || memchr(s, 3, n) || memchr(s, 0, n) || memchr(s, '\r', n)) return LORA_OK;
	if (n && s[n - 1] == '\n') n--;
	lexer *x = lora__zalloc(ctx, sizeof *x);
	if (!x) return LORA_E_MEMORY;
	x->out = out, x->s = s, x->n = n, x->ok = 1;
	lora_status st = lora__tok_room(ctx, &x->strings, n + 1);
	while (x->at < n && !st && x->ok) {
		size_t tag = x->at;
		while (tag + 1 < n && !(s[tag] == '{' && (s[tag + 1] == '{' || s[tag + 1] == '%' || s[tag + 1] == '#'))) tag++;
		int found = tag + 1 < n;
		if (!found) tag = n;
		size_t end = found ? cut_end(s, x->at, tag, tag + 2 < n && s[tag + 2] == '-', s[tag + 1] != '{' && !(tag + 2 < n && s[tag + 2] == '+')) : tag;
		st = put_item(x, LORA__CHAT_LITERAL, s + x->at, end - x->at);
		if (!found) break;
		if (!st) st = one_tag(x, tag);
	}
	*ok = x->ok && !st;
	lora__free(ctx, x->strings.p);
	lora__free(ctx, x);
	return st;
}
