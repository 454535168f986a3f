/*
 * bare.h - instruction sequences on the host's CPU, in this process.
 *
 * There is one such machine per process, since signal handlers and the low addresses belong to the
 * process. Create it after the first struct cpu: signals that do not stem from a sequence go on to
 * the handlers that were there before.
 */
#ifndef POPF_DIFF_BARE_H
#define POPF_DIFF_BARE_H

#include "layout.h"

/* xcr0: the state components that XSAVE images have; fpu_size: their bytes. */
int bare_init(u64 xcr0, unsigned fpu_size, struct err *e);

/* FSGSBASE is usable, and so are FS and GS in 64-bit code. */
bool bare_has_fsgsbase(void);

/* Puts code at an address within CODE. */
void bare_code(u32 at, const u8 *bytes, unsigned len);

/* The page of the ways out, for the guest to read the same there. */
const u8 *bare_exits(void);

/* Runs from in->r.rip. Afterwards bare_mem() and, if in->fpu was given, bare_fpu() are current. */
void bare_run(const struct input *in, struct outcome *out);
u8 *bare_mem(void);
const u8 *bare_fpu(void);

#endif
