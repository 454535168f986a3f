/*
 * proc.h - other programs that commands run.
 */
#ifndef POPF_PROC_H
#define POPF_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "cli/text.h"

/* True if there is such a program on the PATH, to which proc_init() has added the sbin folders. */
void proc_init(void);
bool proc_exists(const char *name);

/*
 * Starts argv[0] with these standard descriptors (-1: /dev/null). Signals are unblocked and at
 * their defaults in it. Its pid, or -1.
 */
pid_t proc_start(char *const *argv, int in, int out, int err);

/* Waits for it: its exit status, or 128 and the signal that ended it; 127 if it could not run. */
int proc_wait(pid_t pid);

/* Runs it with its output dropped. */
int proc_quiet(char *const *argv);

/* Its standard output, to be freed, or NULL if it failed. */
char *proc_output(char *const *argv);

#endif
