/* Regular expressions: from the dialect of tokenizer.json (Oniguruma, its default syntax) to PCRE2.
 *
 * What differs and is rewritten: \s \w \d \b (Unicode White_Space and UTS 18 word, where PCRE2 adds U+180E or leaves out marks), \h (hex digit,
 * not horizontal space), \v (U+000B), ^ and $ (always line anchors; by an option), (?m) (dot matches newline), \uHHHH, {,n}, {n,m}+ (not
 * possessive), {n}? (optional, not lazy), long property names. What has no counterpart is refused by name: nested or intersected classes,
 * absent operators, callouts, subexpression calls, free spacing.
 * Source: Oniguruma doc/RE (6.9), pcre2pattern(3) (10.42). */
#include <ctype.h>
#include <stdio.h>

#include "tokenizer/tok.h"

#define SPACES "\\t-\\r\\x{85}\\p{Z}"
#define NOT_SPACES                                                                                                                             \
	"\\x{0}-\\x08\\x0e-\\x1f\\x21-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}"                \
	"\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"
#define WORDS  "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
/* Outside of a class Oniguruma takes characters below U+0100 from a table of ISO 8859-1, which has superscripts and fractions as words. */
#define WORD   "[" WORDS "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}]"
#define NO_WORD "[^" WORDS "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}]"
#define HEX    "0-9a-fA-F"

typedef struct reader {
	lora__tok_build *b;
	const char      *s;
	size_t           n, i;
	lora__tok_buf   *out;
	size_t           atom;            /* where the last atom begins in out: what a quantifier applies to */
	size_t           groups[128];     /* where the open groups begin in out */
	size_t           depth;
	int              at_start;        /* nothing but the opening of a group stands before, in this alternative */
} reader;

static lora_status put(reader *r, const char *s) { return lora__tok_put(r->b->ctx, r->out, s, strlen(s)); }

static lora_status refuse(reader *r, const char *what)
{
	return lora__tok_fail(r->b, LORA_E_UNSUPPORTED, NULL, "regular expression %s: %s at byte %zu", lora__quote_n(r->s, r->n).text, what, r->i);
}

static int peek(const reader *r, size_t k) { return r->i + k < r->n ? (unsigned char)r->s[r->i + k] : -1; }

/* Long names of general categories and POSIX names, which PCRE2 does not know. */
static const char *const names[][2] = {
	{ "letter", "L" }, { "uppercaseletter", "Lu" }, { "lowercaseletter", "Ll" }, { "titlecaseletter", "Lt" }, { "modifierletter", "Lm" },
	{ "otherletter", "Lo" }, { "mark", "M" }, { "nonspacingmark", "Mn" }, { "spacingmark", "Mc" }, { "enclosingmark", "Me" },
	{ "number", "N" }, { "decimalnumber", "Nd" }, { "letternumber", "Nl" }, { "othernumber", "No" }, { "punctuation", "P" },
	{ "connectorpunctuation", "Pc" }, { "dashpunctuation", "Pd" }, { "openpunctuation", "Ps" }, { "closepunctuation", "Pe" },
	{ "initialpunctuation", "Pi" }, { "finalpunctuation", "Pf" }, { "otherpunctuation", "Po" }, { "symbol", "S" }, { "mathsymbol", "Sm" },
	{ "currencysymbol", "Sc" }, { "modifiersymbol", "Sk" }, { "othersymbol", "So" }, { "separator", "Z" }, { "spaceseparator", "Zs" },
	{ "lineseparator", "Zl" }, { "paragraphseparator", "Zp" }, { "other", "C" }, { "control", "Cc" }, { "format", "Cf" },
	{ "surrogate", "Cs" }, { "privateuse", "Co" }, { "unassigned", "Cn" }, { "alpha", "Alphabetic" }, { "upper", "Uppercase" },
	{ "lower", "Lowercase" }, { "digit", "Nd" }, { "cntrl", "Cc" },
};

/* Is it the name of a script? PCRE2 takes a bare one for script extensions, Oniguruma for the script: \p{sc:Name} says that. */
static int is_script(reader *r, const char *name)
{
	char text[80];
	int code;
	PCRE2_SIZE at;
	int n = snprintf(text, sizeof text, "\\p{sc:%s}", name);
	pcre2_code *p = pcre2_compile((PCRE2_SPTR)text, (PCRE2_SIZE)n, PCRE2_UTF, &code, &at, r->b->t->pcre_compile);
	pcre2_code_free(p);
	return p != NULL;
}

/* \p{Name}, \p{^Name}, \P{Name}; r->i is at the letter p. */
static lora_status property(reader *r)
{
	char name[64], loose[64];
	size_t n = 0, m = 0;
	int negate = r->s[r->i] == 'P';
	if (peek(r, 1) != '{') return refuse(r, "\\p without braces");
	r->i += 2;
	if (peek(r, 0) == '^') negate = !negate, r->i++;
	for (; r->i < r->n && r->s[r->i] != '}' && n < sizeof name - 1; r->i++) {
		unsigned char c = (unsigned char)r->s[r->i];
		if (!isalnum(c) && c != '_' && c != ' ' && c != '-') return refuse(r, "unknown property name");
		name[n++] = (char)c;
		if (isalnum(c)) loose[m++] = (char)tolower(c);
	}
	name[n] = loose[m] = 0;
	if (peek(r, 0) != '}') return refuse(r, "unknown property name");
	r->i++;
	const char *use = name;
	for (size_t k = 0; k < sizeof names / sizeof *names; k++)
		if (!strcmp(loose, names[k][0])) use = names[k][1];
	lora_status st = put(r, negate ? "\\P{" : "\\p{");
	if (!st && use == name && n > 2 && is_script(r, name)) st = put(r, "sc:");
	if (!st) st = put(r, use);
	return st ? st : put(r, "}");
}

/* \xHH, \x{H...}, \uHHHH; r->i is at the letter. */
static lora_status code_point(reader *r)
{
	static const char hex[] = "0123456789abcdef";
	uint32_t v = 0;
	int braces = r->s[r->i] == 'x' && peek(r, 1) == '{', u = r->s[r->i] == 'u', max = braces ? 8 : u ? 4 : 2, n = 0;
	r->i += braces ? 2 : 1;
	for (; n < max && peek(r, 0) >= 0 && isxdigit(peek(r, 0)); n++, r->i++) {
		int c = tolower(peek(r, 0));
		v = v * 16 + (uint32_t)(c <= '9' ? c - '0' : c - 'a' + 10);
	}
	if (!n || (u && n != 4) || (braces && peek(r, 0) != '}')) return refuse(r, "bad character number");
	r->i += (size_t)braces;
	if (v > 0x10ffff || (v >= 0xd800 && v <= 0xdfff)) return refuse(r, "character number that is no character");
	if (!u && !braces && v >= 0x80) return refuse(r, "\\x of a raw byte");
	char text[16] = "\\x{";
	size_t k = 3;
	for (int shift = 20; shift >= 0; shift -= 4) text[k++] = hex[v >> shift & 15];
	text[k++] = '}', text[k] = 0;
	return put(r, text);
}

/* What stands behind a backslash, inside or outside of a class; r->i is at it. */
static lora_status escape(reader *r, int in_class)
{
	int c = peek(r, 0);
	const char *is = NULL, *in = NULL;
	switch (c) {
	case 's': is = "[" SPACES "]", in = SPACES; break;
	case 'S': is = "[^" SPACES "]", in = NOT_SPACES; break;
	case 'w': is = WORD, in = WORDS; break;
	case 'W': is = NO_WORD; break;
	case 'd': is = in = "\\p{Nd}"; break;
	case 'D': is = in = "\\P{Nd}"; break;
	case 'h': is = "[" HEX "]", in = HEX; break;
	case 'H': is = "[^" HEX "]"; break;
	case 'b': is = "(?:(?<=" WORD ")(?!" WORD ")|(?<!" WORD ")(?=" WORD "))", in = "\\x08"; break;
	case 'B': is = "(?:(?<=" WORD ")(?=" WORD ")|(?<!" WORD ")(?!" WORD "))"; break;
	case 'v': is = in = "\\x0b"; break;
	case 'A': is = "\\A"; break;
	case 'z': is = "\\z"; break;
	case 'Z': is = "\\Z"; break;
	case 'R': is = "\\R"; break;
	case 'X': is = "\\X"; break;
	case 'K': is = "\\K"; break;
	case 'G': is = "\\G"; break;
	case 'n': is = in = "\\n"; break;
	case 't': is = in = "\\t"; break;
	case 'r': is = in = "\\r"; break;
	case 'f': is = in = "\\f"; break;
	case 'a': is = in = "\\a"; break;
	case 'e': is = in = "\\e"; break;
	case 'p': case 'P': return property(r);
	case 'x': case 'u': return code_point(r);
	default: break;
	}
	if (c < 0) return refuse(r, "backslash at the end");
	const char *text = in_class ? in : is;
	char plain[3] = { '\\', (char)c, 0 };
	if (!text && c >= '1' && c <= '9' && !in_class && !isdigit(peek(r, 1))) text = plain; /* back reference */
	if (!text && isalnum(c)) return refuse(r, in_class ? "this escape in a class" : "this escape");
	if (!text && c < 0x80) text = plain;
	if (!text) return LORA_OK; /* backslash before another character: the character itself, which follows */
	r->i++;
	return put(r, text);
}

/* [:name:] within a class; r->i is at the inner bracket. */
static lora_status posix(reader *r)
{
	static const char *const table[][2] = { { "[:space:]", SPACES }, { "[:word:]", WORDS }, { "[:alpha:]", "\\p{Alphabetic}" },
		{ "[:digit:]", "\\p{Nd}" }, { "[:alnum:]", "\\p{Alphabetic}\\p{Nd}" }, { "[:upper:]", "\\p{Uppercase}" },
		{ "[:lower:]", "\\p{Lowercase}" }, { "[:cntrl:]", "\\p{Cc}" }, { "[:xdigit:]", HEX } };
	for (size_t k = 0; k < sizeof table / sizeof *table; k++) {
		size_t n = strlen(table[k][0]);
		if (r->n - r->i >= n && !memcmp(r->s + r->i, table[k][0], n)) {
			r->i += n;
			return put(r, table[k][1]);
		}
	}
	return refuse(r, "class within a class");
}

static lora_status bracket(reader *r)
{
	lora_status st = put(r, "[");
	size_t from;
	r->i++;
	if (peek(r, 0) == '^' && !st) r->i++, st = put(r, "^");
	for (from = r->i; !st && r->i < r->n; ) {
		int c = peek(r, 0);
		if (c == ']' && r->i > from) {
			r->i++;
			return put(r, "]");
		}
		if (c == '[') st = posix(r);
		else if (c == '&' && peek(r, 1) == '&') st = refuse(r, "intersection of classes");
		else if (c == '\\') r->i++, st = escape(r, 1);
		else st = lora__tok_put(r->b->ctx, r->out, r->s + r->i, 1), r->i++;
	}
	return st ? st : refuse(r, "class without end");
}

/* (?imx-imx) and (?imx-imx: ; r->i is behind "(?". */
static lora_status options(reader *r)
{
	lora_status st = LORA_OK;
	int c = peek(r, 0);
	for (; !st && (c == 'i' || c == 'm' || c == '-'); c = peek(r, 0)) {
		st = put(r, c == 'i' ? "i" : c == 'm' ? "s" : "-");
		r->i++;
	}
	if (st) return st;
	if (c == ':') {
		r->i++;
		return put(r, ":");
	}
	if (c != ')') return refuse(r, "group of this kind");
	if (!r->at_start) return refuse(r, "option in the middle of a group");
	r->i++;
	r->depth--;
	return put(r, ")");
}

static lora_status open_group(reader *r)
{
	static const char *const kinds[] = { ":", "=", "!", ">", "<=", "<!" };
	if (r->depth == sizeof r->groups / sizeof *r->groups) return refuse(r, "too many open groups");
	r->groups[r->depth++] = r->out->n;
	r->i++;
	if (peek(r, 0) == '*') return refuse(r, "callout");
	if (peek(r, 0) != '?') {
		r->at_start = 1;
		return put(r, "(");
	}
	lora_status st = put(r, "(?");
	r->i++;
	for (size_t k = 0; k < sizeof kinds / sizeof *kinds && !st; k++) {
		size_t n = strlen(kinds[k]);
		if (r->n - r->i < n || memcmp(r->s + r->i, kinds[k], n)) continue;
		r->i += n, r->at_start = 1;
		return put(r, kinds[k]);
	}
	if (st) return st;
	if (peek(r, 0) == '<' && (isalpha(peek(r, 1)) || peek(r, 1) == '_')) {
		for (; peek(r, 0) >= 0 && peek(r, 0) != '>'; r->i++)
			if ((st = lora__tok_put(r->b->ctx, r->out, r->s + r->i, 1))) return st;
		r->at_start = 1;
		return LORA_OK; /* the '>' follows as a plain character */
	}
	size_t open = r->depth;
	st = options(r);
	if (r->depth == open) r->at_start = 1;
	return st;
}

/* {n}, {n,}, {,m}, {n,m}; anything else is a brace of its own. */
static lora_status interval(reader *r)
{
	size_t k = r->i + 1, digits = 0, more = 0;
	int comma = 0;
	for (; k < r->n && isdigit((unsigned char)r->s[k]); k++) digits++;
	if (k < r->n && r->s[k] == ',')
		for (comma = 1, k++; k < r->n && isdigit((unsigned char)r->s[k]); k++) more++;
	if (k >= r->n || r->s[k] != '}' || !(digits || more)) {
		r->atom = r->out->n, r->i++;
		return put(r, "\\{");
	}
	lora_status st = put(r, digits ? "{" : "{0");
	if (!st) st = lora__tok_put(r->b->ctx, r->out, r->s + r->i + 1, k - r->i);
	r->i = k + 1;
	if (st || !(peek(r, 0) == '+' || (peek(r, 0) == '?' && !comma))) return st;
	/* what follows is a quantifier of its own here: put the atom and its interval into a group */
	if ((st = put(r, "   )"))) return st;
	memmove(r->out->p + r->atom + 3, r->out->p + r->atom, r->out->n - 4 - r->atom);
	memcpy(r->out->p + r->atom, "(?:", 3);
	return LORA_OK;
}

lora_status lora__tok_translate(lora__tok_build *b, const char *s, size_t n, lora__tok_buf *out)
{
	reader r = { .b = b, .s = s, .n = n, .out = out, .at_start = 1 };
	lora_status st = LORA_OK;
	while (!st && r.i < r.n) {
		int c = peek(&r, 0);
		if (c == '(') {
			st = open_group(&r);
			continue;
		}
		r.at_start = 0;
		if (c == '{') {
			st = interval(&r);
			continue;
		}
		if (c == ')') {
			if (!r.depth) return refuse(&r, "closing bracket without an opening one");
			r.atom = r.groups[--r.depth];
		} else if (c != '*' && c != '+' && c != '?') r.atom = out->n;
		if (c == '[') st = bracket(&r);
		else if (c == '\\') r.i++, st = escape(&r, 0);
		else {
			size_t step = lora__tok_char_bytes(s + r.i);
			st = lora__tok_put(b->ctx, out, s + r.i, step);
			r.i += step;
		}
	}
	if (!st && r.depth) st = refuse(&r, "group without end");
	return st;
}
