#include "boot/grub_words.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* --- variables --- */

const char *grub_vars_get(const struct grub_vars *v, const char *name)
{
    for (unsigned i = 0; i < v->n; i++)
        if (!strcmp(v->var[i].name, name))
            return v->var[i].val;
    return "";
}

void grub_vars_set(struct grub_vars *v, const char *name, const char *val)
{
    unsigned i = 0;
    while (i < v->n && strcmp(v->var[i].name, name) != 0)
        i++;
    if (i == GRUB_VARS_MAX || strlen(name) >= sizeof(v->var[i].name))
        return;
    if (i == v->n)
        snprintf(v->var[v->n++].name, sizeof(v->var[i].name), "%s", name);
    snprintf(v->var[i].val, sizeof(v->var[i].val), "%s", val);
}

/* --- words --- */

static bool is_name(char c)
{
    return isalnum((unsigned char)c) || c == '_';
}

/* The variable named at p, which is behind the '$'; returns what is behind the name. */
static const char *read_var(const struct grub_vars *v, const char *p, const char *end,
                            const char **val)
{
    char name[64];
    size_t n = 0;
    bool brace = p < end && *p == '{';
    p += brace;
    while (p < end && (brace ? *p != '}' : is_name(*p) || (*p == '?' && !n))) {
        if (n < sizeof(name) - 1)
            name[n++] = *p;
        p++;
    }
    p += brace && p < end;
    name[n] = 0;
    *val = !strcmp(name, "?") ? (v->status ? "0" : "1") : grub_vars_get(v, name);
    return p;
}

static void put_char(char *out, size_t *n, size_t size, char c)
{
    if (*n + 1 < size)
        out[(*n)++] = c;
}

static const char *put_var(const struct grub_vars *v, const char *p, const char *end, char *out,
                           size_t *n, size_t size)
{
    const char *val;
    p = read_var(v, p, end, &val);
    while (*val)
        put_char(out, n, size, *val++);
    return p;
}

/* What is between double quotes, from behind the first; returns what is behind the second. */
static const char *put_quoted(const struct grub_vars *v, const char *p, const char *end, char *out,
                              size_t *n, size_t size)
{
    while (p < end && *p != '"') {
        if (*p == '$') {
            p = put_var(v, p + 1, end, out, n, size);
        } else {
            p += *p == '\\' && p + 1 < end && strchr("$\"\\\n", p[1]);
            put_char(out, n, size, *p++);
        }
    }
    return p + (p < end);
}

static void skip_blanks(struct grub_text *t)
{
    for (;;) {
        if (t->p + 1 < t->end && t->p[0] == '\\' && t->p[1] == '\n')
            t->p += 2;
        else if (t->p < t->end && (*t->p == ' ' || *t->p == '\t' || *t->p == '\r'))
            t->p++;
        else
            break;
    }
    if (t->p < t->end && *t->p == '#')
        while (t->p < t->end && *t->p != '\n')
            t->p++;
}

static bool ends_word(const struct grub_text *t)
{
    return t->p == t->end || strchr(" \t\r\n;", *t->p) || !*t->p;
}

/* One word, quotes taken off and variables put in; *quoted: not a keyword, and there even if empty.
 */
static void read_word(const struct grub_vars *v, struct grub_text *t, char *out, size_t size,
                      bool *quoted)
{
    size_t n = 0;
    *quoted = false;
    while (!ends_word(t)) {
        char c = *t->p++;
        if (c == '\'') {
            *quoted = true;
            while (t->p < t->end && *t->p != '\'')
                put_char(out, &n, size, *t->p++);
            t->p += t->p < t->end;
        } else if (c == '"') {
            *quoted = true;
            t->p = put_quoted(v, t->p, t->end, out, &n, size);
        } else if (c == '$') {
            t->p = put_var(v, t->p, t->end, out, &n, size);
        } else {
            if (c == '\\' && t->p < t->end)
                c = *t->p++;
            put_char(out, &n, size, c);
        }
    }
    out[n] = 0;
}

enum grub_word grub_words_next(const struct grub_vars *v, struct grub_text *t, char *out,
                               size_t size, bool *quoted)
{
    skip_blanks(t);
    if (t->p == t->end)
        return GRUB_END;
    if (*t->p == '\n' || *t->p == ';' || !*t->p) {
        t->p++;
        return GRUB_SEPARATOR;
    }
    if (*t->p == '{' || *t->p == '}')
        return *t->p++ == '{' ? GRUB_OPEN : GRUB_CLOSE;
    read_word(v, t, out, size, quoted);
    return GRUB_WORD;
}

/* The text up to the '}' that goes with a '{' already read. */
struct grub_text grub_words_block(struct grub_text *t)
{
    struct grub_text body = {.p = t->p, .end = t->end};
    char quote = 0;
    bool fresh = true; /* at the start of a word: a '#' begins a comment */
    for (unsigned depth = 1; t->p < t->end; t->p++) {
        char c = *t->p;
        if (quote) {
            if (c == '\\' && quote == '"' && t->p + 1 < t->end)
                t->p++;
            else if (c == quote)
                quote = 0;
            continue;
        }
        if (c == '#' && fresh) {
            while (t->p + 1 < t->end && t->p[1] != '\n')
                t->p++;
        } else if (c == '\\' && t->p + 1 < t->end) {
            t->p++;
        } else if (c == '\'' || c == '"') {
            quote = c;
        } else if (c == '$' && t->p + 1 < t->end && t->p[1] == '{') {
            while (t->p + 1 < t->end && *t->p != '}')
                t->p++;
        } else if (c == '{') {
            depth++;
        } else if (c == '}' && !--depth) {
            body.end = t->p++;
            return body;
        }
        fresh = isspace((unsigned char)c) || c == ';';
    }
    return body;
}

void grub_vars_expand(const struct grub_vars *v, const char *text, char *out, size_t size)
{
    size_t n = 0;
    const char *end = text + strlen(text);
    while (text < end)
        if (*text == '$')
            text = put_var(v, text + 1, end, out, &n, size);
        else
            put_char(out, &n, size, *text++);
    out[n] = 0;
}
