/*
 * direct.h - direct execution: CPL 3 code of the guest runs as it is, on the host's CPU and MMU.
 *
 * For long computations. The code runs in a process of its own, a "space", that has nothing mapped
 * but pages of the guest's memory, at the guest's linear addresses and with no more rights than
 * the guest's page tables give, and two pages of ours (direct_space.c). ptrace stops it at system
 * calls, faults and kicks; the engine goes on from there with its registers. So the space is a TLB
 * whose entries the host's MMU looks up: whatever would flush a TLB unmaps pages from it.
 *
 * Pages are mapped when they are touched: readable if the guest's entry has A set, writable if D is
 * set and no code has been decoded from the page, executable if they hold no instruction that would
 * not do for the guest what it does for the host (direct_scan.c). A page that is executable is not
 * writable. What cannot be mapped so is left to the engine, an instruction at a time.
 *
 * Not seen: a jump into the midst of an instruction to one of those (they read the host's selectors
 * and the like then, and change nothing but flags, which are taken back); where the host has no
 * seccomp filters, calls of the vsyscall page; XTEST, and instructions that the host has and popf
 * does not know, where CPUID offers none.
 *
 * Source for what stops are like: ptrace(2), arch/x86 of Linux as documented in
 * Documentation/arch/x86/entry_64.rst.
 */
#ifndef POPF_DIRECT_H
#define POPF_DIRECT_H

#include "cpu/cpu.h"

struct direct;

/* Of a machine: the host CPUs that its CPUs' threads are held to, a bit each (cpu_set_t has as
 * many). All zeros at first. */
struct direct_hosts {
    _Atomic u64 held[16];
};

/* Why guest code runs no longer. */
enum direct_end {
    DIRECT_REFUSED,  /* it did not run: the CPU is in a state for which it cannot */
    DIRECT_AWAY,     /* it did not run: RIP is in a page that is known to be the engine's */
    DIRECT_KICKED,   /* cpu.poll is set */
    DIRECT_SYSCALL,  /* RIP is at a SYSCALL or INT 80h */
    DIRECT_FAULT,    /* RIP is at an instruction that is the engine's */
    DIRECT_BAD_CALL, /* RIP is at a CALL that ends in #GP(0), but has stored its return address */
    DIRECT_BROKEN,   /* it did not run: the host does not let us. Do not try again */
    DIRECT_LOST,     /* its process was killed, and the CPU's state is lost with it */
    DIRECT_ENDS
};

struct direct_stats {
    u64 runs, mapped, faults, resets, spaces;
    u64 inside, outside; /* processor time, ns: of guest code, and of direct_run() but for that */
    u64 ended[DIRECT_ENDS];
};

/*
 * The process's SIGCHLD gets SA_NOCLDSTOP, if it has no handler, as soon as a space is started:
 * each stop would wake some thread else.
 */

/* Tries whether this host lets a process be traced: 0, or -1 and the reason in *e. */
int direct_usable(struct err *e);

/* For one CPU, whose memory must be complete, of a machine whose hosts these are; NULL without
 * memory for it. Nothing is started. no_filter: as where the host has no seccomp filters. */
struct direct *direct_new(struct cpu *c, struct direct_hosts *hosts, bool no_filter);
void direct_free(struct direct *d);

/* Runs CPL 3 code from struct cpu's state. Always by the same thread, with signals blocked. */
enum direct_end direct_run(struct direct *d);

/* It is not to be expected that direct_run() is called soon: the calling thread may run on whatever
 * host CPU it might before it was. */
void direct_scatter(struct direct *d);

/* Makes direct_run() see cpu.poll. Any thread. */
void direct_kick(struct direct *d);

/*
 * Told when a page of mem gets its first code: it is not writable any more when this has returned
 * and, if it was called by another thread than the CPU's, direct_running() has been seen false
 * while cpu.poll was set. True if it was writable.
 */
bool direct_drop_writer(struct direct *d, u64 page);
bool direct_running(const struct direct *d);
bool direct_has_drops(const struct direct *d);

const struct direct_stats *direct_stats(const struct direct *d);

#endif
