#include "cli/toml.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/text.h"

#define DEPTH_MAX 8

struct parser {
    struct toml *t;
    const char *p;
    unsigned line;
    unsigned depth; /* of arrays */
};

static int fail(struct parser *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static int fail(struct parser *s, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(s->t->error, sizeof(s->t->error), fmt, ap);
    va_end(ap);
    s->t->error_line = s->line;
    return -1;
}

static void skip_blanks(struct parser *s)
{
    while (*s->p == ' ' || *s->p == '\t')
        s->p++;
}

/* Blanks, comments and line ends. */
static void skip_space(struct parser *s)
{
    for (;;) {
        skip_blanks(s);
        if (*s->p == '#')
            s->p += strcspn(s->p, "\n");
        if (*s->p == '\r' && s->p[1] == '\n')
            s->p++;
        if (*s->p != '\n')
            return;
        s->line++;
        s->p++;
    }
}

static int end_line(struct parser *s)
{
    unsigned line = s->line;
    skip_blanks(s);
    if (*s->p && !strchr("#\r\n", *s->p))
        return fail(s, "unexpected \"%.*s\" after the value", (int)strcspn(s->p, "\r\n"), s->p);
    skip_space(s);
    return *s->p && s->line == line ? fail(s, "a line must end here") : 0;
}

/* --- strings --- */

static void put_utf8(struct text *t, uint32_t c)
{
    char b[4];
    size_t n = 0;
    if (c < 0x80) {
        b[n++] = (char)c;
    } else if (c < 0x800) {
        b[n++] = (char)(0xc0 | c >> 6);
        b[n++] = (char)(0x80 | (c & 63));
    } else {
        if (c < 0x10000) {
            b[n++] = (char)(0xe0 | c >> 12);
        } else {
            b[n++] = (char)(0xf0 | c >> 18);
            b[n++] = (char)(0x80 | (c >> 12 & 63));
        }
        b[n++] = (char)(0x80 | (c >> 6 & 63));
        b[n++] = (char)(0x80 | (c & 63));
    }
    text_put(t, b, n);
}

/* \uXXXX or \UXXXXXXXX; p is at the u. */
static int unicode_escape(struct parser *s, struct text *t)
{
    unsigned digits = *s->p == 'u' ? 4 : 8;
    uint32_t c = 0;
    for (unsigned i = 0; i < digits; i++) {
        int d = s->p[1 + i];
        if (!isxdigit(d))
            return fail(s, "\\%c needs %u hexadecimal digits", *s->p, digits);
        c = c << 4 | (uint32_t)(isdigit(d) ? d - '0' : tolower(d) - 'a' + 10);
    }
    if (!c || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
        return fail(s, "there is no such character: \\%.*s", (int)digits + 1, s->p);
    s->p += digits;
    put_utf8(t, c);
    return 0;
}

static int escape(struct parser *s, struct text *t)
{
    static const char from[] = "btnfre\"\\", to[] = "\b\t\n\f\r\033\"\\";
    const char *which = *s->p ? strchr(from, *s->p) : NULL;
    if (*s->p == 'u' || *s->p == 'U')
        return unicode_escape(s, t);
    if (!which)
        return fail(s, "unknown escape \\%c in a string ('...' takes \\ as it is)", *s->p);
    text_put(t, &to[which - from], 1);
    return 0;
}

/* At the opening quote. NULL after an error. */
static char *string(struct parser *s)
{
    char quote = *s->p;
    struct text t = {0};
    int rc = 0;
    text_put(&t, "", 0);
    if (!strncmp(s->p, quote == '"' ? "\"\"\"" : "'''", 3))
        rc = fail(s, "strings of several lines are not understood");
    for (s->p++; !rc && *s->p != quote; s->p++) {
        if (!*s->p || *s->p == '\n')
            rc = fail(s, "the string has no end: %c is missing", quote);
        else if (*s->p == '\\' && quote == '"' && s->p++)
            rc = escape(s, &t);
        else
            text_put(&t, s->p, 1);
        if (rc)
            break;
    }
    if (rc) {
        text_free(&t);
        return NULL;
    }
    s->p++;
    return t.s;
}

/* --- values --- */

static int value(struct parser *s, struct toml_value *v);

static int array(struct parser *s, struct toml_value *v)
{
    v->kind = TOML_ARRAY;
    if (++s->depth > DEPTH_MAX)
        return fail(s, "arrays in arrays in arrays...");
    s->p++;
    for (;;) {
        skip_space(s);
        if (*s->p == ']')
            break;
        v->items = xrealloc(v->items, (v->nitems + 1) * sizeof(*v->items));
        v->items[v->nitems] = (struct toml_value){0};
        if (value(s, &v->items[v->nitems++]))
            return -1;
        skip_space(s);
        if (*s->p == ',')
            s->p++;
        else if (*s->p != ']')
            return fail(s, "a comma or ] is missing in an array");
    }
    s->p++;
    s->depth--;
    return 0;
}

/* TOML 1.0: underscores between digits; 0x, 0o, 0b. */
static int number(struct parser *s, struct toml_value *v)
{
    char digits[72];
    size_t n = 0, len = strcspn(s->p, " \t\r\n,]#");
    bool ok = len < sizeof(digits);
    for (size_t i = 0; ok && i < len; i++) {
        if (s->p[i] == '_')
            ok = i && i + 1 < len && isxdigit((unsigned char)s->p[i - 1]) &&
                 isxdigit((unsigned char)s->p[i + 1]);
        else
            digits[n++] = s->p[i];
    }
    digits[n] = 0;
    bool sign = digits[0] == '+' || digits[0] == '-';
    const char *plain = digits + sign;
    int base = text_starts(plain, "0x")   ? 16
               : text_starts(plain, "0o") ? 8
               : text_starts(plain, "0b") ? 2
                                          : 10;
    const char *first = base == 10 ? digits : plain + 2;
    char *end = digits;
    errno = 0;
    if (ok && isxdigit((unsigned char)plain[0]) && !(sign && base != 10) &&
        !(base == 10 && plain[0] == '0' && plain[1]))
        v->number = strtoll(first, &end, base);
    if (errno || !n || *end || end == first)
        return fail(s, "\"%.*s\" is no value: a string in quotes, a number, true, false or [...]",
                    (int)strcspn(s->p, "\r\n"), s->p);
    v->kind = TOML_INT;
    s->p += len;
    return 0;
}

static bool word(struct parser *s, const char *w)
{
    size_t n = strlen(w);
    if (strncmp(s->p, w, n) || isalnum((unsigned char)s->p[n]) || s->p[n] == '_')
        return false;
    s->p += n;
    return true;
}

static int value(struct parser *s, struct toml_value *v)
{
    v->line = s->line;
    if (*s->p == '"' || *s->p == '\'') {
        v->kind = TOML_STRING;
        v->string = string(s);
        return v->string ? 0 : -1;
    }
    if (*s->p == '[')
        return array(s, v);
    if (*s->p == '{')
        return fail(s, "tables in one line ({...}) are not understood: write [name] or [[name]]");
    v->number = word(s, "true");
    if (v->number || word(s, "false")) {
        v->kind = TOML_BOOL;
        return 0;
    }
    return number(s, v);
}

/* --- keys and tables --- */

static char *key(struct parser *s)
{
    size_t n = 0;
    if (*s->p == '"' || *s->p == '\'')
        return string(s);
    while (isalnum((unsigned char)s->p[n]) || s->p[n] == '_' || s->p[n] == '-')
        n++;
    if (!n) {
        fail(s, "a name is missing before \"%.*s\"", (int)strcspn(s->p, "\r\n"), s->p);
        return NULL;
    }
    char *k = xasprintf("%.*s", (int)n, s->p);
    s->p += n;
    return k;
}

static struct toml_table *add_table(struct toml *t, char *name, unsigned line)
{
    t->tables = xrealloc(t->tables, (t->ntables + 1) * sizeof(*t->tables));
    struct toml_table *table = &t->tables[t->ntables++];
    *table = (struct toml_table){.name = name, .line = line};
    return table;
}

/* [name] or [[name]] */
static int header(struct parser *s)
{
    bool of_array = s->p[1] == '[';
    const char *close = of_array ? "]]" : "]";
    s->p += 1 + of_array;
    skip_blanks(s);
    char *name = key(s);
    if (!name)
        return -1;
    struct toml_table *table = add_table(s->t, name, s->line);
    table->of_array = of_array;
    for (unsigned i = 0; i + 1 < s->t->ntables; i++)
        if (!strcmp(s->t->tables[i].name, name) && !(of_array && s->t->tables[i].of_array))
            return fail(s, "there is a [%s] already, in line %u", name, s->t->tables[i].line);
    skip_blanks(s);
    if (!text_starts(s->p, close))
        return fail(s, "%s is missing after the table's name", close);
    s->p += strlen(close);
    return end_line(s);
}

static int pair(struct parser *s)
{
    struct toml_table *table = &s->t->tables[s->t->ntables - 1];
    char *k = key(s);
    if (!k)
        return -1;
    table->pairs = xrealloc(table->pairs, (table->npairs + 1) * sizeof(*table->pairs));
    struct toml_pair *pr = &table->pairs[table->npairs++];
    *pr = (struct toml_pair){.key = k, .line = s->line};
    for (unsigned i = 0; i + 1 < table->npairs; i++)
        if (!strcmp(table->pairs[i].key, k))
            return fail(s, "\"%s\" is set already, in line %u", k, table->pairs[i].line);
    skip_blanks(s);
    if (*s->p != '=')
        return fail(s, "= is missing after \"%s\"", k);
    s->p++;
    skip_blanks(s);
    s->depth = 0;
    return value(s, &pr->value) || end_line(s) ? -1 : 0;
}

int toml_parse(struct toml *t, const char *text)
{
    struct parser s = {.t = t, .p = text, .line = 1};
    *t = (struct toml){0};
    add_table(t, xstrdup(""), 1);
    if (text_starts(s.p, "\xef\xbb\xbf"))
        s.p += 3;
    int rc = 0;
    for (skip_space(&s); !rc && *s.p; skip_space(&s))
        rc = *s.p == '[' ? header(&s) : pair(&s);
    return rc;
}

static void free_value(struct toml_value *v)
{
    for (unsigned i = 0; i < v->nitems; i++)
        free_value(&v->items[i]);
    free(v->items);
    free(v->string);
}

void toml_free(struct toml *t)
{
    for (unsigned i = 0; i < t->ntables; i++) {
        struct toml_table *table = &t->tables[i];
        for (unsigned k = 0; k < table->npairs; k++) {
            free(table->pairs[k].key);
            free_value(&table->pairs[k].value);
        }
        free(table->pairs);
        free(table->name);
    }
    free(t->tables);
}
