/*
 * build.h - `popf image build`: disks with a Linux distribution on them, made by an ordinary user.
 */
#ifndef POPF_BUILD_H
#define POPF_BUILD_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "cli/proc.h"

/* argv[0] is "build". The exit status. */
int build_main(int argc, char **argv);
void build_help(FILE *f);

/* What is to be built. Strings are the caller's. */
struct build_options {
    const char *out; /* NULL: named after suite and architecture */
    const char *suite, *arch, *hostname, *kernel_args;
    const char *user, *password, *root_password; /* NULL: none */
    const char *kernel;                          /* package; NULL: the architecture's usual one */
    const char *mode;                            /* of mmdebstrap; NULL: what works */
    struct args include, mirrors, keys;          /* keys: files */
    uint64_t size;                               /* of the disk, bytes */
    bool cloud_init, partitioned, force, verbose, help;
};

/* Parses the command line; 0, or -1 after having said what is wrong. */
int build_parse(struct build_options *o, int argc, char **argv);
void build_free(struct build_options *o);

/*
 * build_apt.c: where packages come from. Adds lines of a sources.list to `lines` and options as in
 * apt.conf to `options`: those of the command line, else the machine's own apt's, else none, which
 * leaves it to mmdebstrap.
 */
void build_apt_sources(const struct build_options *o, struct args *lines);
void build_apt_options(struct args *options);

/* build_progress.c: reads what the programs say and shows how far they are. */
struct build_progress {
    bool verbose, tty;
    const char *what; /* the step under way; NULL: none yet */
    unsigned total, count;
    uint64_t began, shown; /* ns of CLOCK_MONOTONIC; 0: never */
    char line[1024];
    size_t len;
    struct args tail; /* the last lines, for when it fails */
};

void build_progress_init(struct build_progress *p, bool verbose);
void build_progress_step(struct build_progress *p, const char *what);
void build_progress_feed(struct build_progress *p, const char *text, size_t len);
void build_progress_end(struct build_progress *p);
void build_progress_tail(const struct build_progress *p);
void build_progress_free(struct build_progress *p);

#endif
