/*
 * text.h - strings that commands put together. Running out of memory ends the process.
 */
#ifndef POPF_TEXT_H
#define POPF_TEXT_H

#include <stdbool.h>
#include <stddef.h>

void *xmalloc(size_t n); /* zeroed */
void *xrealloc(void *p, size_t n);
char *xstrdup(const char *text);
char *xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* A list of words that grows; strings are copied. */
struct args {
    char **v; /* ends with NULL */
    size_t n, room;
};

void args_add(struct args *a, const char *text);
void args_addf(struct args *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void args_free(struct args *a);

/* A text that grows. */
struct text {
    char *s; /* ends with zero; NULL while it is empty */
    size_t n, room;
};

void text_put(struct text *t, const void *data, size_t n);
void text_putf(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* In double quotes, as JSON and YAML want it. */
void text_quote(struct text *t, const char *s);
void text_free(struct text *t);

bool text_starts(const char *text, const char *with);
bool text_ends(const char *text, const char *with);

/* The hash of a password as /etc/shadow wants it, to be freed; NULL: "". */
char *text_crypt(const char *password);

#endif
