/*
 * guest.h - the same sequences under one of popf's engines: a guest in long mode whose tables
 * resemble Linux's where a user program can tell (selectors, gates, I/O bitmap).
 */
#ifndef POPF_DIFF_GUEST_H
#define POPF_DIFF_GUEST_H

#include "engine/engine.h"
#include "layout.h"

struct guest;

/* `ops`: engine_interp or engine_bt. NULL and *e on failure. Kept for all runs; only what a run
 * changes is set anew. */
struct guest *guest_new(const struct engine_ops *ops, struct err *e);
void guest_free(struct guest *g);

void guest_code(struct guest *g, u32 at, const u8 *bytes, unsigned len);

/* Under the translator the case is run until it is translated, each time from the same start; the
 * last run is the outcome. Afterwards guest_mem() and, if in->fpu was given, guest_fpu() are
 * current. */
void guest_run(struct guest *g, const struct input *in, struct outcome *out);
u8 *guest_mem(struct guest *g);
const u8 *guest_fpu(struct guest *g);
unsigned guest_fpu_size(struct guest *g);
u64 guest_xcr0(struct guest *g);
bool guest_has(struct guest *g, enum x86_feature f);

#endif
