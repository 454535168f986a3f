/*
 * toml.h - reads the part of TOML 1.0 that conf.h speaks of.
 */
#ifndef POPF_TOML_H
#define POPF_TOML_H

#include <stdbool.h>
#include <stdint.h>

enum toml_kind { TOML_STRING, TOML_INT, TOML_BOOL, TOML_ARRAY };

struct toml_value {
    enum toml_kind kind;
    unsigned line;
    char *string;             /* TOML_STRING */
    int64_t number;           /* TOML_INT, TOML_BOOL */
    struct toml_value *items; /* TOML_ARRAY */
    unsigned nitems;
};

/* A key and its value; a table is a row of them. Tables come in the order of the file, the one at
 * its beginning first, with the name "". */
struct toml_pair {
    char *key;
    unsigned line;
    struct toml_value value;
};

struct toml_table {
    char *name;
    bool of_array; /* [[name]] */
    unsigned line;
    struct toml_pair *pairs;
    unsigned npairs;
};

struct toml {
    struct toml_table *tables;
    unsigned ntables;
    unsigned error_line; /* 0: none */
    char error[160];
};

/* -1, error and error_line if the text is not such TOML. Free it in any case. */
int toml_parse(struct toml *t, const char *text);
void toml_free(struct toml *t);

#endif
