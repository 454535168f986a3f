/*
 * machine.h - machines by name: what a popf that runs one leaves in the file system, so that other
 * commands find it, and how they talk to it.
 *
 *     $XDG_RUNTIME_DIR/popf/NAME/   (or /tmp/popf-UID/NAME/) only while it runs, mode 0700
 *         lock      held (fcntl) by the process that runs it, for as long as it lives
 *         control   unix socket: a request per line, a reply per line, both JSON
 *         vsock     unix socket: the host's end of the guest's vsock
 *         seed.iso  its NoCloud seed
 *     $XDG_STATE_HOME/popf/NAME/    (or ~/.local/state) stays
 *         machine.json  what it was, when it ran, how it ended
 *         log, log.1    what came out of its serial port
 *         messages      what popf itself said in the background
 *
 * Requests: {"cmd": "status" | "power-button" | "stop" | "pause" | "resume" | "wait"}, {"cmd":
 * "balloon", "bytes": N}, {"cmd": "console"}, after whose reply the connection carries the serial
 * port. Replies: {"ok": true, ...} or {"ok": false, "error": "..."}.
 */
#ifndef POPF_MACHINE_H
#define POPF_MACHINE_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/types.h>

#include "cli/seed.h"
#include "cli/text.h"
#include "popf.h"

#define MACHINE_NAME_MAX 64

/* --- the process that runs it (machine_run.c, machine_ctl.c) --- */

struct machine;

struct machine_options {
    bool detach;
    unsigned terminal; /* the serial port that a console is attached to */
    struct seed seed;
};

/*
 * Claims cfg->name, or makes one up of what is run, and adds to cfg what belongs to it: the name,
 * the seed's disk, the vsock socket. cfg may point into the machine until machine_free(). With
 * o->detach it goes on in a background process; the calling one waits until that has started, and
 * does not return.
 *
 * 0; -1 and *err if the name is taken or a folder cannot be made. A machine without a name that
 * was asked for runs without one then: 0, and *m is NULL, which all functions here accept.
 */
int machine_new(struct machine **m, struct popf_config *cfg, const struct machine_options *o,
                struct popf_error *err);

/* After popf_start(): answers requests from now on; with detach, lets the foreground go. */
int machine_started(struct machine *m, struct popf *vm, struct popf_error *err);

/* From popf_config.serial_out. True if the machine has no terminal: the output is taken care of. */
bool machine_output(struct machine *m, unsigned port, const void *buf, size_t len);

/* The machine has ended (or never started, how NULL). Before popf_destroy(). */
void machine_ended(struct machine *m, const struct popf_outcome *how);

/* Removes what is there only while it runs. After popf_destroy(). */
void machine_free(struct machine *m);

/* --- names and folders (machine_dir.c) --- */

bool machine_name_ok(const char *name);

/* Paths, to be freed; name NULL: the folder that holds all of them. */
char *machine_runtime(const char *name, const char *file);
char *machine_state(const char *name, const char *file);

/* Makes the folders; the fd of the lock, or -1: taken, or *err. */
int machine_claim(const char *name, bool *taken, struct popf_error *err);
void machine_unclaim(const char *name, int lock);

/* Who runs it, 0: nobody. Not to be asked by that process itself: it would lose its lock. */
pid_t machine_owner(const char *name);

/* Removes what a popf that was killed has left. */
void machine_sweep(const char *name);

/* All names in a folder, sorted. */
struct args machine_names(const char *folder);

/* --- talking to it (client.c) --- */

/* A connection, or -1 after having said that there is none. */
int client_open(const char *cmd, const char *name);

/* Sends {"cmd": what} and returns the reply, or NULL if there was none in timeout_ms (-1: any). */
json_object *client_ask(int fd, json_object *request, int timeout_ms);
json_object *client_request(const char *what);

/* Reads a field; "" or 0 if it is not there. */
const char *json_text(json_object *o, const char *key);
int64_t json_number(json_object *o, const char *key);

/* The status of a running machine, or NULL. Says nothing. */
json_object *client_status(const char *name);

/* Sends the request and checks the reply: an exit status, after having said what is wrong. */
int client_command(const char *cmd, const char *name, const char *what);

/* A connection to a port of the guest's vsock. -1: no such socket, -2: nobody there listens. */
int client_vsock(const char *name, unsigned port);

/* --- commands --- */

int ps_main(int argc, char **argv);
int stop_main(int argc, char **argv);
int kill_main(int argc, char **argv);
int rm_main(int argc, char **argv);
int logs_main(int argc, char **argv);
int console_main(int argc, char **argv);
int exec_main(int argc, char **argv);
int cp_main(int argc, char **argv);

void ps_help(FILE *f);
void stop_help(FILE *f);
void kill_help(FILE *f);
void rm_help(FILE *f);
void logs_help(FILE *f);
void console_help(FILE *f);
void exec_help(FILE *f);
void cp_help(FILE *f);

#endif
