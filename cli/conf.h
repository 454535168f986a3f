/*
 * conf.h - a machine described in a file, in TOML: options of `popf run` without the dashes.
 *
 *     memory = "1G"
 *     publish = ["2222:22"]
 *
 *     [[disk]]
 *     file = "debian.qcow2"      # beside this file
 *     overlay = true
 *
 * Of TOML 1.0 there are: comments, tables, arrays of tables, keys (bare and quoted, not dotted),
 * strings (basic and literal, of one line), integers, booleans, arrays.
 */
#ifndef POPF_CONF_H
#define POPF_CONF_H

#include "cli/text.h"

/*
 * If one of the arguments after `popf run` is a machine file (NAME.toml), puts its options in its
 * place, before all others, so that those win. *all gets argv[0] and everything else. 0, or -1
 * after having said what is wrong, with the line.
 */
int conf_expand(struct args *all, int argc, char **argv);

/* The same for a file alone: its options. -1 and one line in `why`, "FILE:LINE: ...". */
int conf_read(struct args *options, const char *file, char *why, size_t len);

/* And for a text: `dir` is where its relative paths begin; NULL: they stay as they are. */
int conf_parse(struct args *options, const char *text, const char *file, const char *dir, char *why,
               size_t len);

#endif
