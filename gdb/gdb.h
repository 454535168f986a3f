/*
 * gdb.h - gdb's remote serial protocol, from the side of what is being debugged (GDB manual,
 * appendix E). It knows packets and nothing of machines: those are reached through struct gdb_ops,
 * so that a test can stand in for one.
 *
 * All-stop mode: either all threads stand and gdb asks, or resume() has been called and the
 * protocol waits for gdb_stopped() or gdb_exited(). Threads are virtual CPUs; thread id = index
 * + 1.
 *
 * Nothing here locks or blocks: one thread calls gdb_input(), gdb_stopped() and gdb_exited().
 */
#ifndef POPF_GDB_H
#define POPF_GDB_H

#include "base/base.h"
#include "gdb/gdb_regs.h"

#define GDB_PACKET_MAX 0x4000u /* bytes of a packet's body, either way */

/* Types of breakpoints: the numbers of Z and z packets. */
enum gdb_point { GDB_SW_BREAK, GDB_HW_BREAK, GDB_WATCH_WRITE, GDB_WATCH_READ, GDB_WATCH_ACCESS };

enum gdb_action { GDB_STAY, GDB_CONTINUE, GDB_STEP };

struct gdb_resume {
    u8 action;
    u64 lo, hi; /* GDB_STEP: go on while PC is in [lo, hi); empty: one instruction */
};

enum gdb_reason {
    GDB_STOPPED, /* by request, or at the start */
    GDB_STEPPED,
    GDB_AT_BREAK,  /* sw or hw: PC is at the breakpoint */
    GDB_AT_WATCH,  /* the access is done */
    GDB_SHUT_DOWN, /* a triple fault */
};

struct gdb_stop {
    enum gdb_reason reason;
    unsigned thread; /* index */
    enum gdb_point point;
    u64 addr; /* GDB_AT_WATCH: of the watchpoint */
};

struct gdb;

/* Where a call can fail it returns -1 and gdb is told so. Thread numbers are indices. */
struct gdb_ops {
    void (*send)(void *arg, const void *buf, size_t n);

    int (*get_regs)(void *arg, unsigned thread, struct gdb_regs *r);
    /* `r` is what get_regs() gave but for the changed register. */
    int (*set_regs)(void *arg, unsigned thread, const struct gdb_regs *r);

    /* Linear memory as `thread` sees it. Reads may stop early: bytes read, 0 if none could be. */
    size_t (*read)(void *arg, unsigned thread, u64 addr, void *buf, size_t n);
    int (*write)(void *arg, unsigned thread, u64 addr, const void *buf, size_t n);

    int (*insert)(void *arg, enum gdb_point type, u64 addr, u64 len);
    int (*remove)(void *arg, enum gdb_point type, u64 addr, u64 len);

    void (*resume)(void *arg, const struct gdb_resume *per_thread);
    void (*interrupt)(void *arg); /* Ctrl-C: gdb_stopped() follows */

    void (*detach)(void *arg);
    void (*kill)(void *arg);
    /* A line for a person: "running", "halted". */
    void (*thread_info)(void *arg, unsigned thread, char *buf, size_t size);
    /* `monitor LINE`: answers through gdb_print(). */
    void (*monitor)(void *arg, unsigned thread, const char *line);
};

enum gdb_rx { RX_IDLE, RX_BODY, RX_SUM1, RX_SUM2 };

struct gdb {
    const struct gdb_ops *ops;
    void *arg;
    unsigned nthreads;
    struct gdb_regmap map;

    bool running, noack, detached, swbreak, hwbreak;
    unsigned g_thread; /* of register and memory packets (Hg) */
    int c_thread;      /* of the old c and s packets (Hc); -1: all */
    struct gdb_stop last;
    struct gdb_resume *resume; /* [nthreads] */

    enum gdb_rx rx;
    bool overflow;
    u8 rx_sum, rx_digit;
    size_t nin;
    char in[GDB_PACKET_MAX + 1];

    size_t nout; /* out[0] is '$' */
    char out[2 * GDB_PACKET_MAX + 16];
    size_t nsent; /* of the packet that a NAK asks for again */
};

/* A new connection; every thread stands, for the reason given. 0, or -1 when memory is short. */
int gdb_init(struct gdb *g, const struct gdb_ops *ops, void *arg, unsigned nthreads,
             enum gdb_arch arch, enum gdb_vector vector);
void gdb_free(struct gdb *g);

/* Bytes from gdb. */
void gdb_input(struct gdb *g, const void *buf, size_t n);

/* All threads stand again. */
void gdb_stopped(struct gdb *g, const struct gdb_stop *stop);

/* The machine has ended: by itself with this status, or killed by a signal (0: not). */
void gdb_exited(struct gdb *g, u8 status, u8 signal);

/* From monitor(): text for gdb's user, in as many calls as you like. */
void gdb_print(struct gdb *g, const char *fmt, ...) PRINTF(2, 3);

#endif
