/*
 * vm_debug.h - the debugger port (--gdb): a thread that listens for gdb and, while one is
 * connected, stops, steps and examines the virtual CPUs for it.
 *
 * popf_config.gdb is "[HOST:]PORT" (HOST is 127.0.0.1 unless given; [::1]:PORT for IPv6) or
 * "unix:PATH", then any of ",wait" (the machine stands until gdb lets it go) and ",arch=NAME"
 * (i386:x86-64, i386 or i8086; else by what the CPUs and the kernel are).
 *
 * While the debugger has the machine stand, it holds one pause as popf_pause() makes them. A CPU
 * that comes to a breakpoint begins that pause by itself, and the thread completes it.
 */
#ifndef POPF_VM_DEBUG_H
#define POPF_VM_DEBUG_H

#include "base/base.h"
#include "cpu/cpu_debug.h"
#include "gdb/gdb.h"
#include "popf.h"

struct vcpu;

struct vm_debug {
    struct popf *vm;
    pthread_t thread;
    bool has_thread;
    int listen_fd, wake_fd;
    char *path; /* of a unix socket that is ours to remove */
    bool wait;
    int arch; /* enum gdb_arch, -1: find out */

    /* --- vm->lock --- */
    int conn_fd;   /* -1: nobody there */
    bool pausing;  /* a CPU has begun a pause: the thread must complete it */
    bool standing; /* the debugger's pause */
    bool quit;
    int shut_down; /* CPU of a triple fault that gdb has not been told of, or -1 */

    /* --- ctl_lock, as is struct cpu --- */
    struct cpu_debug *cpu; /* [cfg.cpus] */
    struct cpu_debug_set set;
    bool flush; /* watchpoints are others than the TLBs know */
    u64 told;   /* bits of CPUs whose triple fault gdb knows */

    struct gdb gdb; /* the thread's own */
};

/* Opens the port, if the configuration has one. */
int vm_debug_init(struct popf *vm, struct err *e);
/* popf_start(): before CPUs run, ctl_lock held. */
int vm_debug_start(struct popf *vm, struct err *e);
/* No CPU has a thread any more. */
void vm_debug_free(struct popf *vm);

/* `lock` held: gdb knows that the machine has ended, or there is no gdb to be told. */
bool vm_debug_done(const struct popf *vm);

/* Any thread: something has changed that the debugger wants to know. */
void vm_debug_poke(struct popf *vm);

/* On a CPU's thread: it has come to a breakpoint, or has made its step. */
void vm_debug_hit(struct vcpu *v);
/* Likewise: a triple fault. True: the debugger is told, and the machine will stand. */
bool vm_debug_triple_fault(struct vcpu *v);

/* --- vm_debug_state.c: registers and memory; ctl_lock held, the CPU stands --- */

enum gdb_vector vm_debug_vector(const struct vcpu *v);
void vm_debug_get_regs(struct vcpu *v, struct gdb_regs *r);
int vm_debug_set_regs(struct vcpu *v, const struct gdb_regs *r);
size_t vm_debug_read(struct vcpu *v, u64 la, void *buf, size_t n);
int vm_debug_write(struct vcpu *v, u64 la, const void *buf, size_t n);
void vm_debug_describe(struct vcpu *v, char *buf, size_t size);

/* --- vm_debug_port.c --- */

/* Takes popf_config.gdb apart and listens; what it made is vm_debug_free()'s, also if it fails. */
int vm_debug_listen(struct vm_debug *d, const char *spec, struct err *e);
/* Tells the user where: the port may have been 0. */
void vm_debug_announce(struct vm_debug *d);

/* --- vm_debug_monitor.c --- */

void vm_debug_monitor(struct vm_debug *d, unsigned thread, const char *line);

#endif
