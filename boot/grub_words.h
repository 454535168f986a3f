/*
 * grub_words.h - words and variables of GRUB 2's script language (GRUB manual, "Quoting", "Variable
 * expansion"). For disk_grub.c.
 */
#ifndef POPF_BOOT_GRUB_WORDS_H
#define POPF_BOOT_GRUB_WORDS_H

#include "base/base.h"

#define GRUB_VARS_MAX 256

struct grub_var {
    char name[64];
    char val[1024];
};

struct grub_vars {
    struct grub_var *var; /* [GRUB_VARS_MAX] */
    unsigned n;
    bool status; /* of the last command: $? */
};

/* "" if there is none. */
const char *grub_vars_get(const struct grub_vars *v, const char *name);
/* Names and values that are too long are cut off or left out. */
void grub_vars_set(struct grub_vars *v, const char *name, const char *val);
/* Text with its $variables put in. */
void grub_vars_expand(const struct grub_vars *v, const char *text, char *out, size_t size);

/* What is left of a script. */
struct grub_text {
    const char *p, *end;
};

enum grub_word { GRUB_WORD, GRUB_SEPARATOR, GRUB_OPEN, GRUB_CLOSE, GRUB_END };

/* The next word, quotes taken off and variables put in; *quoted: it is no keyword, and a word even
 * if empty. */
enum grub_word grub_words_next(const struct grub_vars *v, struct grub_text *t, char *out,
                               size_t size, bool *quoted);

/* The text up to the '}' that goes with a '{' already read, unchanged. */
struct grub_text grub_words_block(struct grub_text *t);

#endif
