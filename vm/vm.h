/*
 * vm.h - what the files of vm/ share: a machine, its virtual CPUs, its clock, its serial output.
 *
 * Threads of a machine: one per virtual CPU (vm_cpu.c), one for time, devices' descriptors and
 * resets (vm_clock.c), one that hands serial output to the caller (vm_serial.c), and those that
 * devices start for work that blocks. All others are the caller's.
 *
 * Locks, outermost first; whoever holds one may take only those below it:
 *   ctl_lock   pausing, resuming, resetting and examining exclude one another
 *   dev_lock   all devices, both buses, LAPICs, the clock and its timers, kvmclock records
 *   lock       the life of the machine (struct popf, "life")
 *   out.lock   the ring of serial output
 * A virtual CPU's own state (struct cpu) belongs to its thread, except for `events`; while the CPU
 * is parked it belongs to whoever holds ctl_lock.
 */
#ifndef POPF_VM_H
#define POPF_VM_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/base.h"
#include "base/clock.h"
#include "base/loop.h"
#include "boot/boot.h"
#include "dev/lapic.h"
#undef MSR_X2APIC_FIRST /* x86.h has the same ones */
#undef MSR_X2APIC_LAST
#include "cpu/cpu.h"
#include "cpu/cpu_cpuid.h"
#include "engine/engine.h"
#include "mem/bus.h"
#include "mem/mem.h"
#include "popf.h"
#include "pv/kvmclock.h"
#include "vm/vm_debug.h"
#include "vm/vm_pc.h"

struct vcpu {
    struct popf *vm;
    struct cpu *cpu;
    struct lapic lapic;       /* dev_lock */
    struct kvmclock kvmclock; /* dev_lock */
    pthread_t thread;
    bool has_thread;
    _Atomic bool sipi;    /* a SIPI has come since the last INIT */
    _Atomic bool held;    /* the debugger lets only others run; written under lock */
    _Atomic u32 sleeping; /* a futex: 1 while its thread sleeps, or is about to */

    /* Counters, written by its own thread only. */
    _Atomic u64 halts, port_io, mmio, msrs, interrupts;
};

/* Guest time: CLOCK_MONOTONIC less what it was frozen for. All of it under dev_lock. */
struct vm_clock {
    struct clock clock; /* first: clock callbacks get back here from it */
    bool frozen;
    u64 zero;       /* CLOCK_MONOTONIC at guest time 0; meaningless while frozen */
    u64 frozen_at;  /* guest time */
    u64 frozen_tsc; /* host TSC */
    /* One pair of TSC and time for kvmclock, so that all CPUs' records tell the same time. */
    u64 pair_tsc; /* host TSC */
    u64 pair_ns;
    int timerfd; /* -1: none yet */
    struct loop_fd timer;
};

#define VM_OUT_SIZE 65536u /* a power of two; half of it is room for what CPUs send meanwhile */
#define VM_IN_SIZE  4096u

/* Serial output on its way to the caller. */
struct vm_out {
    pthread_mutex_t lock;
    pthread_cond_t filled, drained;
    u8 *ring[POPF_OUT_PORTS]; /* NULL: nobody listens */
    u32 head[POPF_OUT_PORTS], tail[POPF_OUT_PORTS];
    _Atomic bool full; /* senders wait */
    bool console_full; /* the console waits, and is told by console_post */
    bool quit;
    struct loop_post console_post;
};

/* Input for a serial port that its UART, or the console, did not take yet. dev_lock. */
struct vm_in {
    u8 ring[VM_IN_SIZE];
    u32 head, tail;
};

enum vm_life { VM_NEW, VM_ON, VM_ENDED };

/* Pieces of memory that are freed together. */
struct vm_bag {
    void **piece;
    unsigned n;
};

struct popf {
    /* --- set by popf_create() and constant since --- */
    struct popf_config cfg; /* its arrays and strings are in cfg_bag */
    struct vm_bag cfg_bag;
    enum boot_entry entry;
    struct log log;
    u64 tsc_hz;
    const struct engine_ops *ops;
    struct engine *engine;
    struct cpu_model *model;
    struct vcpu *vcpu; /* [cfg.cpus] */
    u64 ram_low, ram_high;

    struct vm_debug *debug; /* the debugger's port; NULL: none */

    struct mem mem;
    pthread_mutex_t ctl_lock;

    /* --- dev_lock --- */
    pthread_mutex_t dev_lock;
    struct vm_clock clk;
    struct vm_pc pc;
    struct vm_virtio *virtio; /* vm_virtio.h */
    struct vm_in in[POPF_OUT_PORTS];
    bool used; /* a guest has run: memory is not zero */

    /* --- lock --- */
    pthread_mutex_t lock;
    pthread_cond_t changed; /* any of these */
    enum vm_life life;
    unsigned pauses;
    bool reset_wanted;
    unsigned parked; /* vCPU threads that wait in vm_cpu_park(), or have ended */
    bool out_done;   /* the output thread has ended */
    u64 resets;
    struct popf_outcome how;
    _Atomic bool hold; /* derived: vCPUs must park. Read without the lock */

    struct vm_out out;
    pthread_t io_thread, out_thread;
    bool has_io_thread, has_out_thread;
    struct loop loop; /* of the I/O thread */
};

/* --- vm.c --- */

/* Ends the machine, unless it has ended already. Any thread; dev_lock may be held. */
void vm_end(struct popf *vm, const struct popf_outcome *how);
void vm_end_text(struct popf *vm, enum popf_end end, const char *fmt, ...) PRINTF(3, 4);

/* One more pause, as popf_pause(), but without waiting until the CPUs stand. Any thread. */
void vm_hold(struct popf *vm);

/* The guest asked for a reset: it happens soon, on the I/O thread. dev_lock may be held. */
void vm_want_reset(struct popf *vm);

/* A device cannot go on without a person: the machine is paused soon, as by popf_pause(), until
 * popf_resume(). The log says why. dev_lock may be held. */
void vm_want_pause(struct popf *vm, const char *why);

/* On the I/O thread: stops the clock of a machine that vm_want_pause() has brought to stand. */
void vm_freeze_if_paused(struct popf *vm);

/* On the I/O thread: resets the machine once all CPUs are parked. */
void vm_reset_if_wanted(struct popf *vm);

/* --- vm_config.c --- */

/* Copies *from to vm->cfg, its arrays and strings included, and frees them. */
int vm_config_copy(struct popf *vm, const struct popf_config *from, struct err *e);
void vm_config_free(struct popf *vm);

/* --- vm_boot.c --- */

/* Puts CPUs and devices into their power-on state and loads the kernel. dev_lock held, no CPU runs.
 */
int vm_power_on(struct popf *vm, struct err *e);

/* --- vm_clock.c --- */

int vm_clock_init(struct popf *vm, struct err *e);
void vm_clock_free(struct popf *vm);

/* dev_lock held, no CPU runs. Thawing moves every CPU's TSC back by the time spent frozen. */
void vm_clock_freeze(struct popf *vm);
void vm_clock_thaw(struct popf *vm);

/* Guest TSCs start at zero now. As above; the clock is frozen. */
void vm_clock_zero_tsc(struct popf *vm);

/* For kvmclock: this CPU's view of the machine's one pair. dev_lock held. */
struct kvmclock_time vm_clock_pair(struct vcpu *v);

/* Guest time (rounded up) when the CPU's TSC will be `tsc`. dev_lock held. */
u64 vm_clock_tsc_to_ns(struct vcpu *v, u64 tsc);

/* Seconds since 1970. */
u64 vm_clock_wall(void *arg);

/* The I/O thread: fires timers, serves descriptors and posts, performs resets. */
void *vm_clock_thread(void *vm);
void vm_clock_poke(struct popf *vm);

/* --- vm_cpu.c --- */

int vm_cpu_init(struct popf *vm, unsigned id, struct err *e);
void vm_cpu_free(struct vcpu *v);

/* The thread of a CPU. */
void *vm_cpu_thread(void *v);

/* Sets events and makes the CPU notice. Any thread. */
void vm_cpu_event(struct vcpu *v, u32 events);

void vm_cpu_get_regs(struct vcpu *v, struct popf_regs *r);
int vm_cpu_set_regs(struct vcpu *v, const struct popf_regs *r, struct err *e);

extern const struct lapic_ops vm_cpu_lapic_ops;

/* --- vm_world.c --- */

extern const struct cpu_world vm_world;

/* --- vm_serial.c --- */

int vm_serial_init(struct popf *vm, struct err *e);
void vm_serial_free(struct popf *vm);

/* UART wires: arg is a struct vm_serial_end. dev_lock held. */
void vm_serial_tx(void *arg, const u8 *buf, size_t n);
void vm_serial_room(void *arg);

/* The console sends: returns how many bytes were taken; virtio_console_room() follows if not all.
 * dev_lock held. */
size_t vm_serial_send(struct popf *vm, unsigned port, const u8 *buf, size_t n);

/* A sender waits here, with nothing locked, while the caller is slow to take output. */
void vm_serial_wait_room(struct popf *vm);

/* Gives a UART or the console what it has room for. dev_lock held. */
void vm_serial_feed(struct popf *vm, unsigned port);

void *vm_serial_thread(void *vm);
void vm_serial_wake(struct popf *vm);

/* --- vm_host.c --- */

/* The host's TSC frequency: from CPUID where it tells, else measured (10 ms). */
u64 vm_host_tsc_hz(void);

/* CLOCK_MONOTONIC in ns. */
u64 vm_host_ns(void);

static inline u64 vm_host_tsc(void)
{
    return __builtin_ia32_rdtsc();
}

#endif
