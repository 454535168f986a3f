#include "cli/text.h"

#include <crypt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *need(void *p)
{
    if (p)
        return p;
    fputs("popf: out of memory\n", stderr);
    exit(1);
}

void *xmalloc(size_t n)
{
    return need(calloc(1, n ? n : 1));
}

void *xrealloc(void *p, size_t n)
{
    return need(realloc(p, n ? n : 1));
}

char *xstrdup(const char *text)
{
    return need(strdup(text));
}

static char *format(const char *fmt, va_list ap)
{
    char *text = NULL;
    return need(vasprintf(&text, fmt, ap) < 0 ? NULL : text);
}

char *xasprintf(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    char *text = format(fmt, ap);
    va_end(ap);
    return text;
}

/* --- lists --- */

static void append(struct args *a, char *text)
{
    if (a->n + 2 > a->room) {
        a->room = a->room ? a->room * 2 : 16;
        a->v = xrealloc(a->v, a->room * sizeof(*a->v));
    }
    a->v[a->n++] = text;
    a->v[a->n] = NULL;
}

void args_add(struct args *a, const char *text)
{
    append(a, xstrdup(text));
}

void args_addf(struct args *a, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    append(a, format(fmt, ap));
    va_end(ap);
}

void args_free(struct args *a)
{
    for (size_t i = 0; i < a->n; i++)
        free(a->v[i]);
    free(a->v);
    *a = (struct args){0};
}

/* --- texts --- */

void text_put(struct text *t, const void *data, size_t n)
{
    if (t->room - t->n <= n) {
        t->room = (t->n + n + 1) * 2;
        t->s = xrealloc(t->s, t->room);
    }
    memcpy(t->s + t->n, data, n);
    t->n += n;
    t->s[t->n] = 0;
}

void text_putf(struct text *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    char *s = format(fmt, ap);
    va_end(ap);
    text_put(t, s, strlen(s));
    free(s);
}

void text_quote(struct text *t, const char *s)
{
    text_put(t, "\"", 1);
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            text_putf(t, "\\%c", c);
        else if (c < 32 || c == 127)
            text_putf(t, "\\u%04x", c);
        else
            text_put(t, s, 1);
    }
    text_put(t, "\"", 1);
}

void text_free(struct text *t)
{
    free(t->s);
    *t = (struct text){0};
}

bool text_starts(const char *text, const char *with)
{
    return !strncmp(text, with, strlen(with));
}

bool text_ends(const char *text, const char *with)
{
    size_t n = strlen(text), m = strlen(with);
    return n >= m && !strcmp(text + n - m, with);
}

char *text_crypt(const char *password)
{
    char *salt = password ? crypt_gensalt("$6$", 0, NULL, 0) : NULL;
    const char *hash = salt ? crypt(password, salt) : NULL;
    return xstrdup(hash ? hash : "");
}
