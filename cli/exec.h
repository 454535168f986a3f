/*
 * exec.h - commands in a guest, by its agent (guest/protocol.h).
 */
#ifndef POPF_EXEC_H
#define POPF_EXEC_H

#include "cli/text.h"

/* Exit statuses beside those of the command, as shells and others have them. */
enum {
    EXEC_FAILED = 125, /* popf could not have it done */
    EXEC_CANNOT = 126, /* the guest could not run it */
    EXEC_NOT_FOUND = 127,
};

struct exec {
    const char *cmd;  /* popf's command, for messages */
    const char *name; /* the machine's */
    struct args argv, env;
    const char *dir; /* "" : root's home */
    unsigned wait;   /* seconds that the agent may take to be there */
    bool tty;
};

/* Runs it with these for standard input and output; standard error is ours. The exit status. */
int exec_run(const struct exec *e, int in, int out);

#endif
