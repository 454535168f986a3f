/*
 * cli.h - the commands that people type. They know libpopf's public header and nothing else of
 * popf.
 */
#ifndef POPF_CLI_H
#define POPF_CLI_H

#include <getopt.h>
#include <stdio.h>

#include "cli/seed.h"
#include "cli/text.h"
#include "popf.h"

/* Exit statuses beside 0 and those of the guest's choice (--debug-exit). */
enum {
    STATUS_ERROR = 1, /* the host failed, or the guest crashed */
    STATUS_USAGE = 2,
    STATUS_TIMEOUT = 124,
};

struct run_options {
    struct popf_config cfg; /* its arrays are those below */
    struct popf_disk disk[POPF_DISKS_MAX];
    struct popf_share share[POPF_SHARES_MAX];
    struct popf_port port[POPF_PORTS_MAX];
    const char *forward[POPF_FORWARDS_MAX];
    const char *allow[POPF_ALLOWS_MAX];
    struct args pieces; /* strings made from arguments */
    unsigned terminal;  /* which serial port this terminal is: 0, or POPF_CONSOLE_PORT */
    bool detach;
    struct seed seed; /* of cloud-init */
    const char *ssh_key[SEED_KEYS_MAX];
    bool stats;
    unsigned timeout; /* seconds; 0: none */
    bool help;
    bool cpu_help; /* --cpu help */
};

/* Parses the arguments after `popf run`. 0, or -1 after having said what is wrong. */
int opts_parse(struct run_options *o, int argc, char **argv);

/* Frees what the options point to, but for the arguments themselves. */
void opts_free(struct run_options *o);

/* Says what is wrong with an option's value, and returns -1. */
int opts_complain(const char *opt, const char *text, const char *should);

/* --- opts_dev.c: options that make devices; they return 0, or -1 after a complaint --- */

int opts_disk(struct run_options *o, const char *text);
int opts_net(struct run_options *o, const char *text);
int opts_forward(struct run_options *o, const char *text);
int opts_allow(struct run_options *o, const char *text);
int opts_share(struct run_options *o, const char *text);
int opts_vsock(struct run_options *o, const char *text);
int opts_port(struct run_options *o, const char *text);
int opts_console(struct run_options *o, const char *text);
int opts_on_off(const char *opt, const char *text, bool *off);

/* --- opts_seed.c --- */

enum { OPT_SEED = 512, OPT_SEED_USER, OPT_SEED_KEY, OPT_SEED_PASSWORD, OPT_SEED_HOSTNAME };

int opts_seed(struct run_options *o, int opt, const char *arg);
int opts_seed_check(const struct run_options *o);

/* opts_bt.c: options of the translator; below those of opts.c. */
enum opt_bt {
    OPT_CODE_CACHE = 256,
    OPT_CODE_CACHE_SIZE,
    OPT_BT_REGIONS,
    OPT_BT_DIRECT,
    OPT_BT_DUMP,
    OPT_PERF_MAP,
    OPT_GDB_JIT,
    OPT_BT_END
};

/* The rest of them: opts.c. */
enum {
    OPT_ENTRY = OPT_BT_END,
    OPT_NO_REBOOT,
    OPT_DEBUG_EXIT,
    OPT_TRACE,
    OPT_STATS,
    OPT_TIMEOUT,
    OPT_MAX,
    OPT_CPU,
    OPT_DISK,
    OPT_SNAPSHOT,
    OPT_NET,
    OPT_ALLOW,
    OPT_PCAP,
    OPT_SHARE,
    OPT_VSOCK,
    OPT_CONSOLE,
    OPT_PORT,
    OPT_RNG,
    OPT_BALLOON,
    OPT_GDB,
    OPT_NAME,
};
int opts_bt(struct run_options *o, int opt, const char *arg);
void opts_bt_help(FILE *f);

/* "512M" in bytes; -1 if it is no size. */
int opts_size(const char *text, uint64_t *bytes);

/* The commands; argv[0] is the command's name. They return the exit status. */
int run_main(int argc, char **argv);
int image_main(int argc, char **argv);
int doctor_main(int argc, char **argv);

void run_help(FILE *f);

/* The long options of popf run, for getopt_long(). */
const struct option *run_long_options(void);
void run_cpu_help(FILE *f);
void image_help(FILE *f);
void doctor_help(FILE *f);

#endif
