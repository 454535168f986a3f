/*
 * state.h - saving and restoring a part of a machine.
 *
 * A device describes its state once, in a function `void X_state(struct X *, struct state *)` at
 * the foot of its file; the same calls write a snapshot or read it back. Each device opens a
 * section with a name and a version: a snapshot of another version is refused, not guessed at.
 * Values read back come from a file that may be damaged: a device checks ranges and calls
 * state_fail().
 */
#ifndef POPF_STATE_H
#define POPF_STATE_H

#include "base/base.h"

struct state {
    bool loading;
    bool failed; /* once set, every further call does nothing */
    u8 *buf;     /* owned by the caller when loading, by the state (state_free) when saving */
    size_t len;  /* bytes valid */
    size_t cap;
    size_t pos;
    struct err err;
};

void state_init_save(struct state *s);
void state_init_load(struct state *s, const void *buf, size_t len);
void state_free(struct state *s);

/* Opens a section. Loading fails if the name or the version differs. */
void state_section(struct state *s, const char *name, u32 version);

/* Saves or loads `len` raw bytes. Do not use it for structs with padding or pointers. */
void state_bytes(struct state *s, void *p, size_t len);

/* The snapshot cannot be taken or used; the first reason is kept in s->err. */
void state_fail(struct state *s, const char *fmt, ...) PRINTF(2, 3);

/* One scalar or an array of scalars, by its own size. */
#define state_val(s, lvalue) state_bytes((s), &(lvalue), sizeof(lvalue))

#endif
