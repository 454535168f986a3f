/*
 * bare.c - instruction sequences on the host's CPU.
 *
 * Entered by IRETQ, which takes RIP, RSP, RFLAGS, CS and SS at once and is a serializing
 * instruction, so that code just written is seen. Left through EXIT, which needs no free register.
 * A fault is noted by the signal handler, which then lets the kernel resume at EXIT: registers and
 * FP state come back as they were at the fault. The handler runs with the sequence's FS, and so
 * must use neither TLS nor libc.
 */
#include "bare.h"

#include <asm/ldt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include "bare_io.h"

struct bare_io {
    u64 reg[16];
    u64 rip, rflags;
    u64 cs, ss, ds, es, fs, gs;
    u64 fs_base, gs_base;
    const u8 *fpu_in;
    u8 *fpu_out;
    u64 xcr0;
    u64 active;
    u64 has_fsgs, has_avx;
    u64 host_rsp, host_fs_base, host_gs_base;
    u64 host_ds, host_es, host_fs, host_gs;
};
static_assert(offsetof(struct bare_io, rip) == IO_RIP, "bare_io.h");
static_assert(offsetof(struct bare_io, fs_base) == IO_FS_BASE, "bare_io.h");
static_assert(offsetof(struct bare_io, active) == IO_ACTIVE, "bare_io.h");
static_assert(offsetof(struct bare_io, host_rsp) == IO_HOST_RSP, "bare_io.h");
static_assert(offsetof(struct bare_io, host_gs) == IO_HOST_GS, "bare_io.h");

void bare_enter(struct bare_io *io);
void bare_exit(void);

static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGPROF, SIGSYS};

/* All of it belongs to the process: see bare.h. */
static struct {
    struct bare_io io;
    u8 *code, *mem; /* where we write what is mapped at CODE and DATA */
    u8 *fpu;
    int vec;
    u64 err, cr2, rip, rflags;
    u16 cs;
    u64 runs, runs_at_tick; /* to find a sequence that does not end */
    struct sigaction previous[ARRAY_SIZE(signals)];
} bare;

/* --- faults --- */

static void chain(int sig, siginfo_t *si, void *uc)
{
    for (unsigned i = 0; i < ARRAY_SIZE(signals); i++) {
        const struct sigaction *p = &bare.previous[i];
        if (signals[i] != sig)
            continue;
        if (p->sa_flags & SA_SIGINFO)
            p->sa_sigaction(sig, si, uc);
        else if (p->sa_handler != SIG_DFL && p->sa_handler != SIG_IGN)
            p->sa_handler(sig);
        else if (sig != SIGPROF)
            signal(sig, SIG_DFL);
    }
}

/* True if the sequence was running at the last tick already. */
static bool stuck(void)
{
    bool same = bare.io.active && bare.runs == bare.runs_at_tick;
    bare.runs_at_tick = bare.runs;
    return same;
}

static void note_fault(int sig, greg_t *g)
{
    bare.vec = sig == SIGPROF ? END_HANG : sig == SIGSYS ? END_AWAY : (int)g[REG_TRAPNO];
    bare.err = (u64)g[REG_ERR];
    bare.cr2 = (u64)g[REG_CR2];
    bare.rip = (u64)g[REG_RIP];
    bare.rflags = (u64)g[REG_EFL];
    bare.cs = (u16)g[REG_CSGSFS];
    g[REG_EFL] &= ~(greg_t)(FLAG_TF | FLAG_AC);
    g[REG_CSGSFS] = (greg_t)(((u64)g[REG_CSGSFS] & ~0xffffull) | SEL_CS64);
    g[REG_RIP] = EXIT;
}

static inline void set_rflags(u64 f)
{
    __asm__ volatile("pushq %0\n\tpopfq" : : "r"(f) : "cc", "memory");
}

static void on_signal(int sig, siginfo_t *si, void *ucp)
{
    set_rflags(FLAG_ONE | FLAG_IF); /* AC may be set */
    greg_t *g = ((ucontext_t *)ucp)->uc_mcontext.gregs;
    bool tick = sig == SIGPROF;
    if (!bare.io.active && !tick)
        chain(sig, si, ucp);
    else if (!tick || stuck())
        note_fault(sig, g);
    /* Linux does not restore these two from the frame: they stay as they are now. */
    set_rflags(FLAG_ONE | FLAG_IF | ((u64)g[REG_EFL] & (FLAG_NT | FLAG_ID)));
}

static int take_signals(struct err *e)
{
    size_t size = 128 * KiB;
    stack_t st = {.ss_sp = malloc(size), .ss_size = size};
    if (!st.ss_sp || sigaltstack(&st, NULL))
        return err_errno(e, "sigaltstack");
    struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigfillset(&sa.sa_mask);
    for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
        if (sigaction(signals[i], &sa, &bare.previous[i]))
            return err_errno(e, "sigaction");
    struct itimerval tick = {.it_interval.tv_usec = 20000, .it_value.tv_usec = 20000};
    if (setitimer(ITIMER_PROF, &tick, NULL))
        return err_errno(e, "setitimer");
    return 0;
}

/* --- memory --- */

static int map_at(u32 at, u64 size, int prot, int fd, u64 off, struct err *e)
{
    void *want = (void *)(uintptr_t)at; /* NOLINT: fixed on purpose */
    void *p =
        mmap(want, size, prot, MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, fd, (off_t)off);
    if (p != want)
        return err_errno(e, "cannot map memory at %#x", at);
    return 0;
}

static int map_memory(struct err *e)
{
    u64 code = CODE_SIZE + PAGE_SIZE, total = code + MEM_SIZE;
    int fd = memfd_create("diff", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)total))
        return err_errno(e, "memfd_create");
    bare.code = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (bare.code == MAP_FAILED)
        return err_errno(e, "mmap");
    bare.mem = bare.code + code;
    if (map_at(CODE, code, PROT_READ | PROT_EXEC, fd, 0, e) ||
        map_at(DATA, DATA_SIZE, PROT_READ | PROT_WRITE, fd, code, e) ||
        map_at(RO, PAGE_SIZE, PROT_READ, fd, code + DATA_SIZE, e) ||
        map_at(STACK, PAGE_SIZE, PROT_READ | PROT_WRITE, fd, code + DATA_SIZE + PAGE_SIZE, e))
        return -1;
    close(fd);
    return 0;
}

const struct ldt_entry diff_ldt[LDT_N] = {
    [1] = {.base = DATA, .limit = 0xffff},
    [2] = {.base = DATA, .limit = 0x1fff},
    [3] = {.base = DATA, .limit = 0xffff, .ro = true},
    [4] = {.base = DATA, .limit = 0xfff, .contents = 1},
    [5] = {.base = 0, .limit = 0xffffffff, .contents = 2},
    [6] = {.base = CODE, .limit = 0xffff, .contents = 2, .ro = true},
};

static int make_ldt(struct err *e)
{
    for (unsigned i = 1; i < LDT_N; i++) {
        const struct ldt_entry *l = &diff_ldt[i];
        bool pages = l->limit > 0xfffff;
        struct user_desc d = {.entry_number = i,
                              .base_addr = l->base,
                              .limit = pages ? l->limit >> 12 : l->limit,
                              .limit_in_pages = pages,
                              .contents = l->contents,
                              .read_exec_only = l->ro,
                              .seg_32bit = 1,
                              .useable = 1};
        if (syscall(SYS_modify_ldt, 1, &d, sizeof d))
            return err_errno(e, "modify_ldt");
    }
    return 0;
}

/* The ways out: EXIT saves RAX with a 64-bit moffs, EXIT32 changes to 64-bit code first. */
static void put_exits(void)
{
    u8 *p = bare.code + CODE_SIZE;
    u64 rax = (u64)&bare.io.reg[0], io = (u64)&bare.io, to = (u64)bare_exit;
    memset(p, 0xf4, PAGE_SIZE);
    memcpy(p, "\x48\xa3", 2);
    memcpy(p + 2, &rax, 8);
    memcpy(p + 10, "\x48\xb8", 2);
    memcpy(p + 12, &io, 8);
    memcpy(p + 20, "\xff\x25\6\0\0\0", 6); /* jmp [rip + 6] */
    memcpy(p + 32, &to, 8);                /* aligned: AC may be set */
    const u32 exit64 = EXIT;
    p += EXIT32 - EXIT;
    *p++ = 0xea;
    memcpy(p, &exit64, 4);
    memcpy(p + 4, "\x33\0", 2);
}

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#endif

/* A sequence that jumps into the middle of an instruction may find a system call there: those from
 * below 4 GiB become SIGSYS, if the kernel can do that. */
static void forbid_system_calls(void)
{
    u64 from = 4 * GiB, len = (1ull << 47) - from;
    prctl(PR_SET_SYSCALL_USER_DISPATCH, 1, from, len, NULL);
}

/* --- the interface --- */

int bare_init(u64 xcr0, unsigned fpu_size, struct err *e)
{
    if (fpu_size > FPU_MAX)
        return err_set(e, "the host's FP state is too large: %u bytes", fpu_size);
    bare.fpu = aligned_alloc(64, FPU_MAX);
    if (!bare.fpu)
        return err_set(e, "out of memory");
    memset(bare.fpu, 0, FPU_MAX);
    bare.io.xcr0 = xcr0;
    bare.io.has_avx = (xcr0 & XCR0_AVX) != 0;
    bare.io.has_fsgs = getauxval(AT_HWCAP2) >> 1 & 1;
    if (map_memory(e) || make_ldt(e))
        return -1;
    put_exits();
    forbid_system_calls();
    return take_signals(e);
}

bool bare_has_fsgsbase(void)
{
    return bare.io.has_fsgs;
}

void bare_code(u32 at, const u8 *bytes, unsigned len)
{
    memcpy(bare.code + (at - CODE), bytes, len);
}

const u8 *bare_exits(void)
{
    return bare.code + CODE_SIZE;
}

u8 *bare_mem(void)
{
    return bare.mem;
}

const u8 *bare_fpu(void)
{
    return bare.fpu;
}

static void load(struct bare_io *io, const struct input *in)
{
    memcpy(io->reg, in->r.reg, sizeof io->reg);
    io->rip = in->r.rip;
    io->rflags = in->r.rflags;
    io->cs = in->r.sel[CS];
    io->ss = in->r.sel[SS];
    io->ds = in->r.sel[DS];
    io->es = in->r.sel[ES];
    io->fs = in->r.sel[FS];
    io->gs = in->r.sel[GS];
    io->fs_base = in->r.fs_base;
    io->gs_base = in->r.gs_base;
    io->fpu_in = in->fpu;
    io->fpu_out = in->fpu ? bare.fpu : NULL;
}

static void store(const struct bare_io *io, struct outcome *out)
{
    memcpy(out->r.reg, io->reg, sizeof io->reg);
    out->r.rflags = io->rflags;
    out->r.sel[DS] = (u16)io->ds;
    out->r.sel[ES] = (u16)io->es;
    out->r.sel[FS] = (u16)io->fs;
    out->r.sel[GS] = (u16)io->gs;
    out->r.sel[SS] = (u16)io->ss;
    out->r.fs_base = io->fs_base;
    out->r.gs_base = io->gs_base;
}

void bare_run(const struct input *in, struct outcome *out)
{
    memcpy(bare.mem, in->mem, MEM_SIZE);
    bare.vec = END_DONE;
    bare.runs++;
    load(&bare.io, in);
    bare_enter(&bare.io);
    *out = (struct outcome){.vec = bare.vec};
    store(&bare.io, out);
    if (bare.vec == END_DONE)
        return;
    out->err = (u32)bare.err;
    out->cr2 = bare.cr2;
    out->r.rip = bare.rip;
    out->r.rflags = bare.rflags;
    out->r.sel[CS] = bare.cs;
    if (bare.rip == EXIT || bare.rip == EXIT32) /* stepped there */
        out->vec = END_DONE;
}
