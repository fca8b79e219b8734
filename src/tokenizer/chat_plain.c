/* The plain layout of a chat template, and the known ones that are not plain.
 *
 *   plain: [BOS] [a system turn when the first message is none] for each message { before, content, behind: by role } [the beginning of an answer]
 *
 * It is read role by role: conditions on the role are decided, and what is left must be texts around one content. Everything that the template
 * says is then in the rules; whatever does not fit makes it unknown. Of the others the parts that decide what happens without tools must be
 * there in their order. */
#include "tokenizer/chat.h"

typedef struct reading { const lora__chat_items *l; lora__chat_own *o; size_t at; int mapped, ok; lora__chat_rules *r; } reading;

static const char *text(const lora__chat_items *l, size_t i) { return l->text.p + l->list[i].at; }

static int is(const reading *x, size_t i, lora__chat_kind kind, const char *s)
{
	return i < x->l->n && x->l->list[i].kind == kind && x->l->list[i].n == strlen(s) && !memcmp(text(x->l, i), s, x->l->list[i].n);
}
static int says(const reading *x, size_t i, const char *s) { return is(x, i, LORA__CHAT_STATEMENT, s); }
static int begins(const reading *x, size_t i, lora__chat_kind kind, const char *s)
{
	size_t n = strlen(s);
	return i < x->l->n && x->l->list[i].kind == kind && x->l->list[i].n >= n && !memcmp(text(x->l, i), s, n);
}
static int raises(const reading *x, size_t i) { return begins(x, i, LORA__CHAT_EXPRESSION, "raise_exception("); }

/* Texts are kept as offsets + 1 until no more are added. */
static lora_status keep(reading *x, const char *s, size_t n) { return lora__tok_put(x->l->ctx, &x->o->texts, s, n); }
static const char *offset(size_t at) { return (const char *)(uintptr_t)(at + 1); }

/* A literal, BOS, EOS or (in a turn) the role's name: *done 1 and it is kept. */
static lora_status keep_piece(reading *x, size_t i, const char *role, int *done)
{
	const lora__chat_item *it = &x->l->list[i];
	*done = 1;
	if (it->kind == LORA__CHAT_LITERAL) return keep(x, text(x->l, i), it->n);
	if (is(x, i, LORA__CHAT_EXPRESSION, "bos_token")) return keep(x, "\1", 1);
	if (is(x, i, LORA__CHAT_EXPRESSION, "eos_token")) return keep(x, "\2", 1);
	if (role && is(x, i, LORA__CHAT_EXPRESSION, "m.role")) return keep(x, "\3", 1);
	if (role && x->mapped && is(x, i, LORA__CHAT_EXPRESSION, "role"))
		return strcmp(role, "assistant") ? keep(x, "\3", 1) : keep(x, "model", 5);
	*done = 0;
	return LORA_OK;
}

/* Pieces from x->at on as one text. */
static lora_status keep_pieces(reading *x, const char **out)
{
	size_t from = x->o->texts.n;
	int done = 1;
	lora_status st = LORA_OK;
	while (x->at < x->l->n && !st) {
		st = keep_piece(x, x->at, NULL, &done);
		if (!done) break;
		x->at++;
	}
	*out = offset(from);
	return st ? st : keep(x, "", 1);
}

/* A condition on the role of a message: 1, 0, or -1 when it is something else. *optional: and the content is not empty. */
static int decide(const char *s, size_t n, const char *role, int *optional)
{
	static const char *const forms[] = { "m.role=='", "m.role!='" };
	static const char filled[] = " and m.content";
	if (n > sizeof filled && !memcmp(s + n - (sizeof filled - 1), filled, sizeof filled - 1)) {
		int yes = decide(s, n - (sizeof filled - 1), role, optional);
		if (yes > 0) *optional = 1;
		return yes;
	}
	const char *or = n && !memchr(s, '(', n) ? memmem(s, n, "' or ", 5) : NULL;
	if (or) {
		size_t left = (size_t)(or - s) + 1;
		int a = decide(s, left, role, optional), b = decide(s + left + 4, n - left - 4, role, optional);
		return a < 0 || b < 0 ? -1 : a | b;
	}
	for (int k = 0; k < 2; k++) {
		if (n < 11 || memcmp(s, forms[k], 9) || s[n - 1] != '\'' || memchr(s + 9, '\'', n - 10)) continue;
		int same = strlen(role) == n - 10 && !memcmp(s + 9, role, n - 10);
		return k ? !same : same;
	}
	return -1;
}

typedef struct turn_reading { const char *role; size_t before, behind; int contents, trim, raised, wrong, optional; } turn_reading;

/* Items a..b as they act for one role. Nested conditions on the role only. */
static lora_status walk(reading *x, size_t a, size_t b, turn_reading *t)
{
	lora_status st = LORA_OK;
	for (size_t i = a; i < b && !st && !t->wrong; i++) {
		const lora__chat_item *it = &x->l->list[i];
		int done, trim;
		if (begins(x, i, LORA__CHAT_STATEMENT, "if ")) {
			int taken = 0, depth = 1, chosen = decide(text(x->l, i) + 3, it->n - 3, t->role, &t->optional);
			size_t from = i + 1;
			if (chosen < 0) t->wrong = 1;
			for (i++; i < b && depth && !t->wrong && !st; i++) {
				int elif = begins(x, i, LORA__CHAT_STATEMENT, "elif "), other = says(x, i, "else"), end = says(x, i, "endif");
				depth += begins(x, i, LORA__CHAT_STATEMENT, "if ") - end;
				if (depth > 1 || (depth == 1 && !elif && !other)) continue;
				if (chosen && !taken) st = walk(x, from, i, t), taken = 1;
				chosen = elif ? decide(text(x->l, i) + 5, x->l->list[i].n - 5, t->role, &t->optional) : other;
				if (chosen < 0) t->wrong = 1;
				from = i + 1;
			}
			if (depth) t->wrong = 1;
			i--;
			continue;
		}
		if (it->kind == LORA__CHAT_STATEMENT) t->wrong = 1;
		else if (raises(x, i)) t->raised = 1;
		else if ((trim = is(x, i, LORA__CHAT_EXPRESSION, "m.content|trim")) || is(x, i, LORA__CHAT_EXPRESSION, "m.content")) {
			t->contents++, t->trim = trim;
			if (t->contents == 1) st = keep(x, "", 1), t->behind = x->o->texts.n;
		} else {
			st = keep_piece(x, i, t->role, &done);
			if (!done) t->wrong = 1;
		}
	}
	return st;
}

static lora_status read_turn(reading *x, size_t a, size_t b, const char *role, lora__chat_turn *out)
{
	turn_reading t = { .role = role, .before = x->o->texts.n };
	lora_status st = walk(x, a, b, &t);
	if (!st) st = keep(x, "", 1);
	int empty = x->o->texts.n == t.before + 1;
	/* a turn that needs a content must say nothing else than that turn */
	if (t.optional && (t.raised || !t.contents)) x->ok = 0;
	if (t.wrong || t.contents > 1 || (!t.raised && !t.contents && !empty)) x->ok = 0;
	*out = (lora__chat_turn){ offset(t.before), offset(t.contents ? t.behind : t.before), (uint8_t)t.trim, (uint8_t)t.raised, (uint8_t)(!t.contents), (uint8_t)t.optional };
	return st;
}

/* Three items that only check: the roles take turns. */
static int alternates(const reading *x, size_t i)
{
	return (says(x, i, "if (m.role=='user')!=(loop.index0%2==0)") || says(x, i, "if(m.role=='user')!=(loop.index0%2==0)")) && raises(x, i + 1) && says(x, i + 2, "endif");
}

static int maps_roles(const reading *x, size_t i)
{
	return says(x, i, "if m.role=='assistant'") && says(x, i + 1, "set role='model'") && says(x, i + 2, "else") && says(x, i + 3, "set role=m.role") && says(x, i + 4, "endif");
}

static lora_status read_head(reading *x)
{
	lora__chat_rules *r = x->r;
	lora_status st = LORA_OK;
	if (says(x, 0, "if not add_generation_prompt is defined") && says(x, 1, "set add_generation_prompt=false") && says(x, 2, "endif")) x->at = 3;
	for (int k = 0; k < 2; k++) /* in either order */
		if (says(x, x->at, "if messages[0].role=='system'") && raises(x, x->at + 1) && says(x, x->at + 2, "endif")) {
			r->turn[LORA__CHAT_SYSTEM].refused = 1;
			x->at += 3;
		} else if (!k) st = keep_pieces(x, &r->head);
	if (!r->head && !st) st = keep_pieces(x, &r->head);
	if (!st && says(x, x->at, "if messages[0].role!='system'")) {
		x->at++;
		st = keep_pieces(x, &r->no_system);
		if (!says(x, x->at++, "endif")) x->ok = 0;
	}
	return st;
}

static lora_status read_tail(reading *x)
{
	lora_status st = LORA_OK;
	if (says(x, x->at, "if add_generation_prompt")) {
		x->at++;
		st = keep_pieces(x, &x->r->generate);
		if (!st && says(x, x->at, "else")) {
			x->at++;
			st = keep_pieces(x, &x->r->end);
		}
		if (!says(x, x->at++, "endif")) x->ok = 0;
	}
	if (x->at != x->l->n) x->ok = 0;
	return st;
}

static void find_loop_end(const reading *x, size_t *end)
{
	int depth = 1;
	for (*end = x->at; *end < x->l->n && depth; (*end)++) depth += begins(x, *end, LORA__CHAT_STATEMENT, "for ") - says(x, *end, "endfor");
	if (!depth) (*end)--;
	else *end = x->l->n;
}

static lora_status read_loop(reading *x)
{
	static const char *const names[] = { "system", "user", "assistant" };
	lora__chat_rules *r = x->r;
	lora__chat_turn other;
	size_t end, body;
	lora_status st = LORA_OK;
	if (!says(x, x->at, "for m in messages")) {
		x->ok = 0;
		return LORA_OK;
	}
	x->at++;
	find_loop_end(x, &end);
	if (says(x, x->at, "if loop.first and messages[0].role!='system'") && !r->no_system) {
		x->at++;
		st = keep_pieces(x, &r->no_system);
		if (!says(x, x->at++, "endif")) x->ok = 0;
	}
	if (alternates(x, x->at)) r->flags |= LORA__CHAT_ALTERNATE, x->at += 3;
	if (maps_roles(x, x->at)) x->mapped = 1, x->at += 5;
	body = end;
	/* the beginning of an answer, inside the loop at its end */
	for (size_t i = x->at; i < end; i++)
		if (says(x, i, "if loop.last and add_generation_prompt")) {
			size_t at = x->at;
			body = i, x->at = i + 1;
			if (!st) st = keep_pieces(x, &r->generate);
			if (!says(x, x->at, "endif") || x->at + 1 != end) x->ok = 0;
			x->at = at;
			break;
		}
	int no_system = r->turn[LORA__CHAT_SYSTEM].refused;
	for (int k = 0; k < LORA__CHAT_ROLES && !st && x->ok; k++) st = read_turn(x, x->at, body, names[k], &r->turn[k]);
	if (no_system) r->turn[LORA__CHAT_SYSTEM].refused = 1;
	/* another role: like the user's turn, or an error */
	if (!st && x->ok) st = read_turn(x, x->at, body, "\4", &other);
	if (!st && x->ok && !other.refused && !other.dropped && !other.trim == !r->turn[LORA__CHAT_USER].trim) {
		const char *p = x->o->texts.p, *u = p + (uintptr_t)r->turn[LORA__CHAT_USER].before - 1, *o = p + (uintptr_t)other.before - 1;
		const char *ub = p + (uintptr_t)r->turn[LORA__CHAT_USER].behind - 1, *ob = p + (uintptr_t)other.behind - 1;
		if (!strcmp(u, o) && !strcmp(ub, ob)) r->flags |= LORA__CHAT_ANY_ROLE;
	}
	x->at = end + 1;
	return st;
}

static void settle(const lora__chat_own *o, const char **s) { *s = *s ? o->texts.p + (uintptr_t)*s - 1 : ""; }

lora_status lora__chat_plain(const lora__chat_items *l, lora__chat_own *o, int *ok)
{
	reading x = { .l = l, .o = o, .ok = 1, .r = &o->rules };
	lora__chat_rules *r = &o->rules;
	*r = (lora__chat_rules){ .m = { .name = "own" }, .flags = LORA__CHAT_OWN };
	o->texts.n = 0;
	lora_status st = read_head(&x);
	if (!st && x.ok) st = read_loop(&x);
	if (!st && x.ok) st = read_tail(&x);
	*ok = !st && x.ok;
	if (!*ok) return st;
	settle(o, &r->head), settle(o, &r->no_system), settle(o, &r->generate), settle(o, &r->end);
	for (int k = 0; k < LORA__CHAT_ROLES; k++) settle(o, &r->turn[k].before), settle(o, &r->turn[k].behind);
	return LORA_OK;
}
