/*
 * direct_priv.h - what the parts of engine/direct share.
 */
#ifndef POPF_DIRECT_PRIV_H
#define POPF_DIRECT_PRIV_H

#include <sched.h>
#include <stddef.h>
#include <sys/types.h>
#include <time.h>
#include "engine/direct/direct.h"
#include "engine/direct/direct_stub.h"

/* sys/user.h has a PAGE_MASK that is the complement of ours. */
#pragma push_macro("PAGE_MASK")
#pragma push_macro("PAGE_SIZE")
#pragma push_macro("PAGE_SHIFT")
#undef PAGE_MASK
#undef PAGE_SIZE
#undef PAGE_SHIFT
#include <sys/user.h>
#pragma pop_macro("PAGE_MASK")
#pragma pop_macro("PAGE_SIZE")
#pragma pop_macro("PAGE_SHIFT")

/* A system call for the space to make, and its result. */
struct command {
    u64 nr;     /* then what it returned */
    u64 arg[6]; /* then 3 and 4 are 0 */
};
#define COMMANDS_MAX 64 /* the last one is for the time */

/* The stub's second page. Guest code finds it only by trying all addresses. */
struct stub_data {
    struct command command[COMMANDS_MAX];
    u64 saved[12]; /* the last one is its stack */
    struct {
        u64 rip, cs, rflags, rsp, ss;
    } frame;             /* of IRETQ: where it goes; the stub stores RFLAGS and RSP */
    u64 end;             /* linear address behind the last command */
    struct timespec now; /* processor time of its process, by the last command */
};
static_assert(sizeof(struct command) == STUB_COMMAND &&
                  offsetof(struct stub_data, saved) == STUB_SAVED - STUB_DATA &&
                  offsetof(struct stub_data, frame) == STUB_FRAME - STUB_DATA &&
                  offsetof(struct stub_data, end) == STUB_END - STUB_DATA &&
                  sizeof(struct stub_data) <= PAGE_SIZE,
              "direct_stub.h knows the layout");

#define BREAKPOINTS  4  /* DR0 to DR3 */
#define EVICTED_MOST 16 /* a page that is so often in others' way is not executed any more */

#define MAP_READ  1u
#define MAP_WRITE 2u
#define MAP_EXEC  4u

/* What is mapped. */
struct mapping {
    u64 la_page; /* linear page number */
    u32 page;    /* of mem */
    u32 rights;  /* MAP_x; 0: no longer mapped */
    u32 scan;    /* executable: struct verdict.scan of its breakpoints */
};
#define MAPPINGS_MAX 50000u /* a process may have 65,530 */
#define MAPPING_HASH 17     /* bits */

struct space {
    pid_t pid;       /* 0: none */
    bool ended;      /* that process is no more */
    bool refused;    /* the host has not made a mapping */
    bool spoilt;     /* that process is of no use any more */
    bool fpu_known;  /* it has the image that the CPU had when it was left */
    u64 stub;        /* linear address of its two pages of ours: code, then commands */
    u64 root;        /* of the page tables of its address space */
    u8 paging;       /* cpu.paging */
    u8 rules;        /* direct_rules() of the code that runs there */
    u32 space_epoch; /* of the CPU when it ran last */
    u32 dropped;     /* cpu.ndropped that it has heeded */
    u32 code_epoch;
    u64 last_used;
    int host_cpu;                 /* that it may run on; -1: what the thread may */
    struct stub_data *data;       /* its second page */
    unsigned ncommands;           /* that wait in it */
    unsigned ngiven;              /* that its process does, or has done, on its way to guest code */
    u64 key;                      /* 0: its process cannot do them on its way */
    struct user_regs_struct regs; /* the guest's, */
    bool there;                   /* or but for RIP its process has them */
    int file;                     /* with those two pages */
    int first_file; /* descriptor, in its process, of the first region's memory; then the others',
                       and of those two pages */
    struct mapping *mapping; /* [MAPPINGS_MAX] */
    unsigned nmappings;
    u32 *hash;                   /* by la_page: index of a mapping, plus 1; open addressing */
    u64 breakpoint[BREAKPOINTS]; /* linear addresses */
    unsigned nbreakpoints;
    u64 time;           /* that its process had taken after the last stay, ns */
    bool ran;           /* and it has run since */
    u64 overhead;       /* ns of its time that a stay takes beyond the guest's */
    bool large;         /* pages of 2 MiB and more were mapped */
    _Atomic u64 *wrote; /* a bit by page of mem: may be writable */
};

#define OVERHEAD_MOST 10000 /* ns */

#define SPACES 4

#define TASK_END 0x7ffffffff000ull /* Linux' TASK_SIZE_MAX with four levels */

/* What is known of a page of code. */
struct verdict {
    u64 key;             /* what it is good for; 0: nothing is known */
    s16 at[BREAKPOINTS]; /* offsets of instructions that must not run */
    u16 n;               /* of these; more than BREAKPOINTS: it is not to be executed */
    bool crosses;        /* what is behind the page plays a part: its last instruction's end */
    u8 behind[15];
    u32 scan;    /* number of the scan that found this */
    u16 evicted; /* times that its breakpoints made room for others */
};

/* Pages of mem that lost their writers and await being unmapped. */
#define DROPS_MAX 64

struct direct {
    struct cpu *cpu;
    struct space space[SPACES];
    struct space *current;
    u64 clock;
    _Atomic bool running;
    pthread_mutex_t lock; /* of what follows, and of the end of a space's process */
    u64 drop[DROPS_MAX];
    unsigned ndrops; /* more than DROPS_MAX: all of them */
    _Atomic bool any_drop;
    struct verdict *verdict; /* by page of mem */
    u32 nscans;
    struct direct_hosts *hosts;
    cpu_set_t allowed; /* host CPUs, for the thread, before it was held to one */
    int host_cpu;      /* that one; -1: it is not held */
    bool took;         /* and no other of the machine's is held to it */
    u64 began;         /* the stay: CLOCK_MONOTONIC, ns */
    u64 free_until;    /* likewise: it is not before */
    u64 wall, used;    /* of stays since they were last looked at: ns, and of processor time */
    u64 host_xcr0, offered_xcr0; /* and of that what popf offers; CPUID takes microseconds */
    u8 *xstate;                  /* XSTATE_MAX for what is on its way, and for each space */
    size_t xstate_size;
    bool breaks;    /* the host has breakpoints */
    bool no_filter; /* and no seccomp filters */
    u64 fault_rip;  /* of the last fault that was mended by mapping */
    unsigned same_rip;
    u64 missed; /* linear address of a fault that was left to the engine; 0: of none */
    struct direct_stats stats;
};

/* direct_space.c: 0, or -1 if the host refuses. A space without a process has pid 0. */
int space_start(struct direct *d, struct space *s);
void space_stop(struct direct *d, struct space *s);
/* Nothing of the guest is mapped any more. */
int space_reset(struct direct *d, struct space *s);
/* Takes the stub out of the guest's way. */
int space_move_stub(struct direct *d, struct space *s);
/* Adds a command; all of them are done when the room is used up, by space_flush(), or on the way to
 * guest code. */
int space_map(struct direct *d, struct space *s, gva_t la, u64 bytes, unsigned rights,
              const struct mem_region *r, u64 offset);
int space_unmap(struct direct *d, struct space *s, gva_t la, u64 bytes);
int space_flush(struct space *s);
/* The guest's registers are in s->regs. */
int space_take(struct space *s);
/* To guest code with the guest's registers, by way of what commands there are, until it stops: its
 * wait status in *status. That is 0 if guest code has not run, because of a kick or s->refused. */
int space_go(struct space *s, int *status);
/* These n addresses, at most BREAKPOINTS, must not be executed. -1: the host cannot do that. */
int space_break(struct direct *d, struct space *s, const u64 *la, unsigned n);
/* Processor time that its process has taken, ns. */
u64 space_time(const struct space *s);

/* direct_place.c: around a stay, of which `used` is the processor time, of both processes. */
void place_before(struct direct *d, struct space *s);
void place_after(struct direct *d, u64 used);
void place_free(struct direct *d);

/* direct_map.c: empties the slot of the hash that leads to a mapping, when all of them go. */
void mapping_forget(struct space *s, unsigned which);
/* How the CPU's state lets code be scanned. */
u8 direct_rules(const struct direct *d);
/* Makes the access at la possible if it may be mapped; false: the engine's. `ahead`: it has not
 * been tried again yet since the engine had it, or is told of a write only when it is. */
bool direct_map(struct direct *d, struct space *s, gva_t la, u64 rip, bool ahead);
/* RIP is in a page of which it is known that it is not for direct execution. */
bool direct_is_away(struct direct *d);
/* Heeds what has been dropped since the space ran last. 0, or -1. */
int direct_catch_up(struct direct *d, struct space *s);

/* direct_scan.c: which code may run as it is. */
#define SCAN_BEFORE 256
struct scan_page {
    u8 code[SCAN_BEFORE + PAGE_SIZE + 15]; /* the page, and what is around it */
    bool has_before;
};
struct scan_rules {
    bool mode64;
    bool fsgsbase; /* the guest has CR4.FSGSBASE */
    bool avx;      /* and so is what it enables, of what popf offers */
    bool xstate;   /* XCR0 is the host's */
};
/* entry: offset in the page of an instruction */
/* v: n, at and crosses */
void direct_scan(const struct cpu *c, const struct scan_page *p, const struct scan_rules *rules,
                 unsigned entry, struct verdict *v);

/* direct_stub.S: does the commands. Less than a page. */
extern const u8 direct_stub[], direct_stub_trap[], direct_stub_end[];

#endif
