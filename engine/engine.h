/*
 * engine.h - the contract between a machine and whatever runs its virtual CPUs.
 *
 * It is shaped like KVM's: memory is a list of regions (mem.h), a CPU's registers can be read and
 * written while it does not run, and run() goes on until there is something to say. Accesses to
 * ports, MMIO and the machine's MSRs are answered inline through struct cpu_world, on the CPU's own
 * thread; everything else ends run() with an exit record.
 *
 * Threads: each CPU is run by one thread. kick() and cpu_event_set() may be called by any.
 */
#ifndef POPF_ENGINE_H
#define POPF_ENGINE_H

#include "cpu/cpu.h"

enum engine_exit {
    EXIT_INTERRUPTED, /* EV_EXIT was set (and has been cleared) */
    EXIT_HALT,        /* HLT, or waiting for SIPI: run again when cpu_wakeable() */
    EXIT_SHUTDOWN,    /* triple fault */
    EXIT_DEBUG,       /* a breakpoint or step of the monitor's */
    EXIT_BUDGET,      /* max_insns reached */
    EXIT_ERROR,       /* the engine cannot go on: see msg */
};

struct engine_result {
    enum engine_exit exit;
    union {
        struct {
            u64 rip; /* EXIT_SHUTDOWN, EXIT_DEBUG: where the guest was */
        } at;
        struct err err; /* EXIT_ERROR */
    };
};

/* What can be set of the translator; all zero: the usual. */
struct engine_bt_config {
    u64 code_size;       /* bytes of emitted code per CPU, BT_CODE_SIZE_MIN or more; 0: 64 MiB */
    bool one_block;      /* blocks are translated one by one: no superblocks */
    bool count;          /* count blocks and look-ups, for stats(): costs some percent */
    bool no_direct;      /* user code is never executed directly */
    bool perf_map;       /* names for perf in /tmp/perf-PID.map */
    bool gdb_jit;        /* names for a gdb that debugs this process */
    bool dump;           /* show each pass of the translation of ... */
    u64 dump_at;         /* ... this RIP or guest-physical address */
    const char *kept_in; /* folder of translations kept from run to run; NULL: none. Not copied */
};

struct engine_config {
    struct mem *mem;
    const struct cpu_model *model;
    unsigned ncpus;
    const struct log *log;
    struct engine_bt_config bt;
};

struct engine_ops;

/* One per machine. Engines embed it first in their own struct. */
struct engine {
    const struct engine_ops *ops;
};

struct engine_ops {
    const char *name; /* "interp", "bt", "kvm" */

    struct engine *(*create)(const struct engine_config *cfg, struct err *e);
    void (*destroy)(struct engine *en);

    /* Attaches engine data to a CPU made by cpu_new() (c->engine). Memory regions are final. */
    int (*cpu_attach)(struct engine *en, struct cpu *c, struct err *e);
    void (*cpu_detach)(struct engine *en, struct cpu *c);

    /*
     * Runs until an exit. max_insns bounds the number of instructions (0 = no bound; a block may
     * overshoot, except that 1 is exact); engines that cannot count ignore it unless it is 1.
     */
    void (*run)(struct engine *en, struct cpu *c, u64 max_insns, struct engine_result *res);

    /* Makes a CPU in run() notice its events soon. Any thread. */
    void (*kick)(struct engine *en, struct cpu *c);

    /*
     * Between runs: makes struct cpu current (get) or takes over its changes (put). For engines
     * that work on struct cpu itself these do nothing.
     */
    void (*get_state)(struct engine *en, struct cpu *c);
    void (*put_state)(struct engine *en, struct cpu *c);

    /* What --stats prints of a CPU that does not run; NULL if nothing. */
    void (*stats)(struct engine *en, struct cpu *c, void (*line)(void *arg, const char *text),
                  void *arg);
};

extern const struct engine_ops engine_interp, engine_bt, engine_kvm;

/* By name; NULL and *e for unknown ones and ones that this build or host does not have. */
const struct engine_ops *engine_find(const char *name, struct err *e);

/* What `auto` takes, and one line that says why (for doctor and --verbose). */
const struct engine_ops *engine_auto(char *why, size_t why_size);

#endif
