/*
 * popf.h - libpopf: virtual machines in a C program, for an ordinary user.
 *
 *     struct popf_config cfg = POPF_CONFIG_INIT;
 *     cfg.kernel = "vmlinuz";
 *     cfg.cmdline = "console=ttyS0";
 *     cfg.serial_out = on_output;
 *     struct popf_error err;
 *     struct popf *vm = popf_create(&cfg, &err);
 *     if (!vm || popf_start(vm, &err))
 *         die(err.msg);
 *     struct popf_outcome how;
 *     popf_wait(vm, &how);
 *     popf_destroy(vm);
 *
 * A process may hold any number of machines; they share nothing. A machine runs on threads of its
 * own (one per virtual CPU, one for its clock, one for its serial output). Every function may be
 * called from any thread, except that popf_destroy() must be the last call for its machine, and
 * that callbacks may call nothing: serial_out alone may call popf_stop(), popf_power_button() and
 * popf_serial_input().
 *
 * Functions that can fail return 0, or -1 and one line in *err (which may be NULL) that says what
 * was tried, what went wrong and how to mend it.
 *
 * Compile with `pkg-config --cflags --libs libpopf`.
 */
#ifndef POPF_H
#define POPF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define POPF_CPUS_MAX     64
#define POPF_MEMORY_MIN   (1ull << 20)
#define POPF_MEMORY_MAX   (1ull << 40)
#define POPF_SERIAL_PORTS 2
#define POPF_CONSOLE_PORT 2  /* the virtio console, where serial ports are numbered */
#define POPF_OUT_PORTS    3  /* serial ports and the console */
#define POPF_PORTS_MAX    16 /* named ports beside the console */
#define POPF_DISKS_MAX    16
#define POPF_SHARES_MAX   8
#define POPF_FORWARDS_MAX 64
#define POPF_ALLOWS_MAX   64

#define POPF_CODE_CACHE_MIN (1ull << 20)
#define POPF_CODE_CACHE_MAX (1ull << 30)

struct popf; /* one machine */

struct popf_error {
    char msg[512];
};

/* "0.1.0" */
const char *popf_version(void);

/* --- making a machine --- */

/* A virtio disk: /dev/vda, /dev/vdb... in order. */
struct popf_disk {
    const char *file;
    const char *format; /* "raw" or "qcow2"; NULL: looked up in the file's first bytes */
    const char *serial; /* what the guest reads as its serial number; NULL: none */
    bool overlay;       /* what the guest writes goes to a temporary overlay; file stays as it is */
    bool read_only;
    bool no_cache;      /* past the host's page cache (O_DIRECT) */
    bool stop_on_error; /* a failing host stops the machine instead of failing the request */
};

/* A folder of the host that the guest can mount: mount -t 9p -o trans=virtio TAG /mnt, or, where
 * its kernel has no 9P (Debian's cloud kernel), mount -t virtiofs TAG /mnt */
struct popf_share {
    const char *host;
    const char *guest; /* its mount tag; NULL: share0, share1... */
    bool read_only;
    bool virtiofs; /* the device is virtio-fs, not 9P */
};

/* A port of the virtio console: /dev/virtio-ports/NAME in the guest, a unix socket here. */
struct popf_port {
    const char *name;
    const char *path; /* listens here; the file is made, and removed at the end */
};

struct popf_config {
    const char *kernel; /* bzImage, vmlinux, ELF with a PVH note, or multiboot 1; NULL: what the
                           first disk boots, with `cmdline` behind its own command line */
    const char
        *initrd; /* NULL: none (the disk's). For a multiboot kernel: "file args,file2 args" */
    const char *cmdline; /* NULL: empty */

    uint64_t memory; /* bytes, POPF_MEMORY_MIN to POPF_MEMORY_MAX, rounded down to 4096 */
    unsigned cpus;   /* 1 to POPF_CPUS_MAX */

    const char *engine; /* "auto", "interp", "bt" or "kvm"; NULL: "auto" */
    /* What the CPU offers: "host", then what differs ("host,-x2apic"); NULL: "host". See
     * popf_cpu_features(). */
    const char *cpu;
    const char
        *entry; /* how the kernel is entered: "auto", "64", "32", "16" or "pvh"; NULL: "auto" */

    /* The translator (engine "bt"). */
    uint64_t code_cache_size; /* bytes of translated code per CPU; 0: 64 MiB */
    /* A folder where translations are kept for the next start, made if it does not exist; NULL:
     * none. What is in there is run: it must belong to the user, and nobody else may write to it.
     */
    const char *code_cache;
    bool no_regions;     /* translate basic blocks one by one */
    bool no_direct;      /* never execute user code directly (engine bt) */
    bool count_blocks;   /* for popf_engine_stats(): costs some percent */
    bool perf_map;       /* write /tmp/perf-PID.map, for perf */
    bool gdb_jit;        /* tell a gdb that debugs this process the names of translated code */
    bool bt_dump;        /* show, on standard error, how the code at ... */
    uint64_t bt_dump_at; /* ... this virtual or physical address is translated */

    bool no_reboot;     /* a reset ends the machine instead of starting it afresh */
    bool debug_exit;    /* I/O port 0xf4: a write of v ends the machine with POPF_END_DEBUG_EXIT */
    uint64_t max_insns; /* ends the machine when a CPU has executed so many; 0: never. A test's net:
                           exact to a few instructions under interp and bt, ignored under kvm */

    /* --- devices; arrays and their strings are copied --- */

    const struct popf_disk *disks;
    unsigned ndisks; /* up to POPF_DISKS_MAX */
    bool snapshot;   /* every disk is an overlay: nothing is written to the files */

    /*
     * "none", "user", "tap:NAME" or "socket:PATH", then any of ",restrict" (user: no way out but to
     * `allows`), ",mac=52:54:00:12:34:56", ",mtu=N". NULL: "none".
     */
    const char *net;
    /* With "user": ports of the host that lead into the guest, "[ADDR:]HOST:GUEST[/udp]". */
    const char *const *forwards;
    unsigned nforwards;
    const char *const *allows; /* "HOST:PORT": where a restricted guest may connect to */
    unsigned nallows;
    const char *pcap; /* a file that gets every frame, for tcpdump -r; NULL: none */

    const struct popf_share *shares;
    unsigned nshares;

    const char *vsock;  /* unix socket of the host's end (guest ports at PATH_PORT); NULL: none */
    uint64_t vsock_cid; /* the guest's; 0: 3 */

    bool no_rng, no_balloon; /* those devices are left out */
    bool console; /* a virtio console: /dev/hvc0, which is serial port POPF_CONSOLE_PORT here */
    const struct popf_port *ports;
    unsigned nports;

    const char *gdb;  /* where a debugger may connect: "ADDR:PORT", "PORT", or "unix:PATH" */
    const char *name; /* of the machine, for logs and made-up addresses; NULL: none */

    /*
     * What the guest sends out of a serial port (0: COM1, 1: COM2, POPF_CONSOLE_PORT: hvc0). Called
     * on the machine's output thread, with nothing locked; while it blocks, the guest waits at its
     * next character. NULL: output is dropped.
     */
    void (*serial_out)(void *arg, unsigned port, const void *buf, size_t len);
    void *serial_arg;

    /*
     * One line (without its newline) of what --verbose and --trace show. May be called by several
     * threads at once, with internal locks held. NULL: silence.
     */
    void (*log)(void *arg, const char *line);
    void *log_arg;
    bool verbose;
    uint32_t trace; /* of popf_trace_mask() */

    /* Loading: done and total are bytes, total is 0 where it is unknown. NULL: nobody is told. */
    void (*progress)(void *arg, const char *what, uint64_t done, uint64_t total);
    void *progress_arg;
};

/* One CPU, 512 MiB, everything else off. */
#define POPF_CONFIG_INIT                                                                           \
    {                                                                                              \
        .memory = 512ull << 20, .cpus = 1                                                          \
    }

/*
 * The mask of a comma-separated list of categories ("exits,msrs", "all"), or 0 and *err if one of
 * them does not exist.
 */
uint32_t popf_trace_mask(const char *list, struct popf_error *err);

/*
 * Features that popf_config.cpu can leave out (-NAME) or insist on (+NAME), with blanks between;
 * vendor=AuthenticAMD or GenuineIntel and phys-bits=N (36 to 52) are understood as well.
 */
const char *popf_cpu_features(void);

/* "exits, interrupts, ..." */
const char *popf_trace_names(void);

/* Is this file a disk image rather than a kernel? */
bool popf_is_disk(const char *file);

/*
 * Makes a machine, switched off, with the kernel loaded into its memory. Strings of *cfg are
 * copied. NULL and *err on failure: a file that cannot be read or is of no known kind, too little
 * memory for it, an engine that this host does not offer.
 */
struct popf *popf_create(const struct popf_config *cfg, struct popf_error *err);

/* Stops the machine if it runs, and frees everything. NULL is allowed. */
void popf_destroy(struct popf *vm);

/* The engine that runs it: "interp", "bt" or "kvm". */
const char *popf_engine(const struct popf *vm);

/* --- its life --- */

/* Switches the machine on; once in its life. */
int popf_start(struct popf *vm, struct popf_error *err);

enum popf_end {
    POPF_END_POWER_OFF,    /* the guest switched itself off */
    POPF_END_RESET,        /* it asked for a reset, and no_reboot was set */
    POPF_END_TRIPLE_FAULT, /* a CPU shut down: cpu and regs say where the guest was */
    POPF_END_DEBUG_EXIT,   /* it wrote `code` to the debug-exit port */
    POPF_END_STOPPED,      /* popf_stop() */
    POPF_END_BUDGET,       /* max_insns was reached */
    POPF_END_ERROR,        /* the machine cannot go on: see text */
};

#define POPF_REG_RIP 16

struct popf_segment {
    uint64_t base;
    uint32_t limit; /* bytes */
    uint32_t attr;  /* access byte in bits 0-7; AVL, L, D/B, G in bits 12-15; bit 16: unusable */
    uint16_t sel;
};

struct popf_regs {
    uint64_t gpr[16]; /* RAX RCX RDX RBX RSP RBP RSI RDI R8 ... R15 */
    uint64_t rip, rflags;
    uint64_t cr0, cr2, cr3, cr4, cr8, efer;
    struct popf_segment es, cs, ss, ds, fs, gs, ldtr, tr;
    uint64_t gdt_base, idt_base;
    uint16_t gdt_limit, idt_limit;
};

struct popf_outcome {
    enum popf_end end;
    uint32_t code;         /* POPF_END_DEBUG_EXIT: value written << 1 | 1 */
    unsigned cpu;          /* POPF_END_TRIPLE_FAULT: which CPU */
    struct popf_regs regs; /* POPF_END_TRIPLE_FAULT: its registers */
    char text[512];        /* one line for a person, whatever the end */
};

/*
 * Waits until the machine has ended and its serial output has been handed over. May be called by
 * several threads and again later; *how may be NULL. Returns at once if it was never started
 * (POPF_END_STOPPED).
 */
void popf_wait(struct popf *vm, struct popf_outcome *how);

/* The same with a limit: 0 if it has ended, -1 if it still runs after timeout_ms. */
int popf_wait_ms(struct popf *vm, struct popf_outcome *how, unsigned timeout_ms);

/* Ends the machine soon, as pulling the plug would; does not wait. */
void popf_stop(struct popf *vm);

/*
 * Halts all virtual CPUs and the machine's time; returns when they stand. The guest does not
 * notice: neither its clocks nor its TSC move on. Calls nest.
 */
void popf_pause(struct popf *vm);
void popf_resume(struct popf *vm);

/* Presses the ACPI power button: a guest that listens shuts itself down. */
void popf_power_button(struct popf *vm);

/*
 * Sends bytes to a serial port of the guest. Returns how many its receiver took (0 to len); offer
 * the rest again after some milliseconds.
 */
size_t popf_serial_input(struct popf *vm, unsigned port, const void *buf, size_t len);

/* The size of the terminal behind the virtio console: the guest is told, and told again. */
void popf_console_resize(struct popf *vm, unsigned columns, unsigned rows);

/*
 * Asks the guest to give up all of its memory but `bytes` (the balloon). It does so when it can; -1
 * if it has no balloon device. popf_stats() shows what came of it.
 */
int popf_balloon(struct popf *vm, uint64_t bytes, struct popf_error *err);

/* --- looking into it --- */

/*
 * The registers of a CPU that stands: before popf_start(), while paused, or after the end. -1 if
 * the machine is running or has no such CPU.
 *
 * popf_set_regs() takes all but ldtr and tr over, without the checks that MOV to CR would make
 * (those registers are refused if a reserved combination would result). Not after the end.
 */
int popf_get_regs(struct popf *vm, unsigned cpu, struct popf_regs *regs, struct popf_error *err);
int popf_set_regs(struct popf *vm, unsigned cpu, const struct popf_regs *regs,
                  struct popf_error *err);

/*
 * Guest-physical RAM; allowed at any time, but a running guest may be changing it. -1 and nothing
 * done if part of the range is not RAM.
 */
int popf_read_memory(struct popf *vm, uint64_t gpa, void *buf, size_t len, struct popf_error *err);
int popf_write_memory(struct popf *vm, uint64_t gpa, const void *buf, size_t len,
                      struct popf_error *err);

/*
 * Linear memory as a CPU's page tables map it now, without any side effect. The CPU must stand. -1
 * if part of the range is not mapped to RAM.
 */
int popf_read_linear(struct popf *vm, unsigned cpu, uint64_t la, void *buf, size_t len,
                     struct popf_error *err);

struct popf_stats {
    uint64_t guest_ns;   /* guest time since power-on, pauses not counted */
    uint64_t insns;      /* guest instructions retired, all CPUs; 0 if the engine cannot count */
    uint64_t halts;      /* times a CPU went to sleep */
    uint64_t port_io;    /* port accesses */
    uint64_t mmio;       /* accesses to memory-mapped devices, local APICs included */
    uint64_t msrs;       /* MSR accesses that the machine answered */
    uint64_t interrupts; /* external interrupts taken */
    uint64_t resets;
    uint64_t memory;   /* bytes of guest RAM */
    uint64_t resident; /* of them, bytes that the host holds in memory */
};

/* Counters; exact once the machine stands. */
void popf_stats(struct popf *vm, struct popf_stats *st);

/* What the engine has to say about itself, line by line. The machine should stand. */
void popf_engine_stats(struct popf *vm, void (*line)(void *arg, const char *text), void *arg);

/* --- the host --- */

/*
 * What this host offers and how to mend what is missing, line by line: CPU, KVM (measured), memory,
 * the limits that matter. Returns 0 if machines can run here, -1 if not.
 */
int popf_doctor(void (*line)(void *arg, const char *text), void *arg);

#ifdef __cplusplus
}
#endif

#endif
