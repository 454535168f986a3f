/*
 * machine_ctl.h - the control socket of a running machine: a thread that answers requests
 * (machine.h) and serves those who are attached to the serial port.
 */
#ifndef POPF_MACHINE_CTL_H
#define POPF_MACHINE_CTL_H

#include "cli/machine.h"

struct ctl;

/*
 * Listens at `path`, and answers from now on. Who attaches gets serial port `port`. `status` holds
 * the constant part of the reply to "status"; it is taken over. NULL and *err on failure.
 */
struct ctl *ctl_new(const char *path, struct popf *vm, unsigned port, json_object *status,
                    struct popf_error *err);

/* What the guest sends. Any thread; never blocks. */
void ctl_output(struct ctl *c, const void *buf, size_t len);

/* Tells those who wait, takes leave of all, frees it. */
void ctl_free(struct ctl *c, const struct popf_outcome *how);

/* "power-off", "reset"... */
const char *ctl_end_name(enum popf_end end);

#endif
