/*
 * term.h - the user's terminal while a guest has it.
 *
 * Raw mode is used only while standard input is a terminal and popf is in its foreground. The old
 * settings come back on every way out: term_free(), and for those ways on which popf runs no code
 * any more (a crash, SIGKILL) a small process of its own waits at a pipe for popf's end.
 */
#ifndef POPF_TERM_H
#define POPF_TERM_H

#include <stdbool.h>
#include <sys/types.h>
#include <termios.h>

struct term {
    bool tty; /* standard input is a terminal */
    bool raw; /* now */
    struct termios saved;
    int guard_pipe; /* held open while popf lives; -1: no guard */
    pid_t guard;
};

/* Call before any thread is made (it forks). */
void term_init(struct term *t);
void term_free(struct term *t);

/* True if reading from standard input will not stop the process: no terminal, or in foreground. */
bool term_readable(const struct term *t);

/* Both do nothing where they cannot or need not. */
void term_raw(struct term *t);
void term_cooked(struct term *t);

#endif
