/*
 * cli.h - the commands that people type. They know libpopf's public header and nothing else of
 * popf.
 */
#ifndef POPF_CLI_H
#define POPF_CLI_H

#include <stdio.h>

#include "popf.h"

/* Exit statuses beside 0 and those of the guest's choice (--debug-exit). */
enum {
    STATUS_ERROR = 1, /* the host failed, or the guest crashed */
    STATUS_USAGE = 2,
    STATUS_TIMEOUT = 124,
};

struct run_options {
    struct popf_config cfg;
    bool stats;
    unsigned timeout; /* seconds; 0: none */
    bool help;
    bool cpu_help; /* --cpu help */
};

/* Parses the arguments after `popf run`. 0, or -1 after having said what is wrong. */
int opts_parse(struct run_options *o, int argc, char **argv);

/* opts_bt.c: options of the translator; below those of opts.c. */
enum opt_bt {
    OPT_CODE_CACHE = 256,
    OPT_CODE_CACHE_SIZE,
    OPT_BT_REGIONS,
    OPT_BT_DUMP,
    OPT_PERF_MAP,
    OPT_BT_END
};
int opts_bt(struct run_options *o, int opt, const char *arg);
void opts_bt_help(FILE *f);

/* "512M" in bytes; -1 if it is no size. */
int opts_size(const char *text, uint64_t *bytes);

/* The commands; argv[0] is the command's name. They return the exit status. */
int run_main(int argc, char **argv);
int doctor_main(int argc, char **argv);

void run_help(FILE *f);
void run_cpu_help(FILE *f);
void doctor_help(FILE *f);

#endif
