/*
 * direct.c - running CPL 3 code in a space: the CPU's state on its way there and back, and why the
 * code stops.
 */
#include "engine/direct/direct.h"

#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "cpu/cpu_event.h"
#include "cpu/cpu_fpu.h"
#include "cpu/cpu_paging.h"
#include "engine/direct/direct_priv.h"

#define SYSCALL_STOP (SIGTRAP | 0x80) /* PTRACE_O_TRACESYSGOOD */
#define TLS_FIRST    12               /* of three GDT entries that a thread may set */
#define XSTATE_MAX   (64 * KiB)
#define XSTATE_BV    512 /* SDM vol. 1, 13.4.2 */

/* The flags that code may change at CPL 3 without POPF; and those that a POPF may have changed
 * which was not seen, in the midst of another instruction. */
#define FLAGS_USER   (FLAGS_ARITH | FLAG_DF)
#define FLAGS_HIDDEN (FLAG_TF | FLAG_NT | FLAG_AC | FLAG_ID)

/* --- may it? --- */

static bool flat(const struct cpu *c, unsigned seg)
{
    const struct seg *s = &c->seg[seg];
    return !s->base && s->rd_end >> 32 && (seg == CS || s->wr_end >> 32);
}

/* A 32-bit data segment is null, or all there is from its base on. */
static bool is_plain(const struct seg *s)
{
    return s->sel < 4 || (s->rd_end >> 32 && s->wr_end >> 32);
}

/* ptrace takes no others; code may set them by WRFSBASE. */
static bool can_put_bases(u64 fs, u64 gs)
{
    return fs < TASK_END && gs < TASK_END;
}

static bool may_run(const struct cpu *c)
{
    u32 odd = FLAG_TF | FLAG_NT | FLAG_VM | FLAG_AC | FLAG_ID | FLAG_IOPL | FLAG_VIF | FLAG_VIP;
    if (c->cpl != 3 || c->paging == PAGING_NONE || c->eflags & odd || !(c->eflags & FLAG_IF) ||
        c->debug || c->shadow || c->shadow_ss || c->dr[7] & 0xff || c->reg[X86_SLOT_RIP] >> 47 ||
        !(c->cr4 & CR4_OSFXSR) || c->cr0 & (CR0_EM | CR0_TS))
        return false;
    if (c->mode == X86_MODE64)
        return c->efer & EFER_SCE && can_put_bases(c->seg[FS].base, c->seg[GS].base);
    return c->mode == X86_MODE32 && !c->seg[CS].base && c->seg[CS].limit == 0xffffffff &&
           flat(c, DS) && flat(c, ES) && flat(c, SS) && c->seg[SS].attr & SEG_DB &&
           is_plain(&c->seg[FS]) && is_plain(&c->seg[GS]);
}

/* --- state --- */

static void put_regs(const struct cpu *c, struct user_regs_struct *r)
{
    const u64 *g = c->reg;
    bool mode64 = c->mode == X86_MODE64;
    *r = (struct user_regs_struct){
        .rax = g[RAX],
        .rcx = g[RCX],
        .rdx = g[RDX],
        .rbx = g[RBX],
        .rsp = g[RSP],
        .rbp = g[RBP],
        .rsi = g[RSI],
        .rdi = g[RDI],
        .r8 = g[8],
        .r9 = g[9],
        .r10 = g[10],
        .r11 = g[11],
        .r12 = g[12],
        .r13 = g[13],
        .r14 = g[14],
        .r15 = g[15],
        .rip = g[X86_SLOT_RIP],
        .orig_rax = ~0ull, /* no system call to be made again */
        .eflags = (cpu_flags(c) & FLAGS_USER) | FLAG_IF | FLAG_ONE,
        .cs = mode64 ? HOST_CS64 : HOST_CS32,
        .ss = HOST_DS,
        .ds = mode64 ? 0 : HOST_DS,
        .es = mode64 ? 0 : HOST_DS,
        .fs_base = c->seg[FS].base,
        .gs_base = c->seg[GS].base,
    };
}

static void get_regs(struct cpu *c, const struct user_regs_struct *r)
{
    const u64 g[16] = {r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi,
                       r->r8,  r->r9,  r->r10, r->r11, r->r12, r->r13, r->r14, r->r15};
    memcpy(c->reg, g, (c->mode == X86_MODE64 ? 16 : 8) * sizeof(g[0]));
    c->reg[X86_SLOT_RIP] = r->rip;
    u32 theirs = FLAGS_USER | FLAGS_HIDDEN;
    cpu_set_flags(c, (c->eflags & ~theirs) | ((u32)r->eflags & theirs));
    if (c->mode == X86_MODE64) {
        c->seg[FS].base = r->fs_base;
        c->seg[GS].base = r->gs_base;
    }
}

/* 32-bit code reaches its thread's data through a descriptor. */
static int put_tls(struct direct *d, struct space *s, unsigned seg, unsigned entry, u64 *sel)
{
    const struct seg *g = &d->cpu->seg[seg];
    if (g->sel < 4)
        return 0;
    struct {
        u32 entry, base, limit, flags;
    } desc = {entry, (u32)g->base, 0xfffff, 1 | 1 << 4 | 1 << 6}; /* 32-bit, in pages, usable */
    *sel = entry << 3 | 3;
    return (int)ptrace(PTRACE_SET_THREAD_AREA, s->pid, (void *)(u64)entry, &desc);
}

/* The CPU's image when the space was left. */
static u8 *left_xstate(const struct direct *d, const struct space *s)
{
    return d->xstate + (u64)(1 + s - d->space) * XSTATE_MAX;
}

/* The space's process has its own from its last stay, which most kernels leave alone. */
static int put_fpu(struct direct *d, struct space *s)
{
    cpu_fpu_get(d->cpu, d->xstate);
    if (s->fpu_known && !memcmp(d->xstate, left_xstate(d, s), cpu_fpu_size(d->cpu)))
        return 0;
    s->fpu_known = false;
    struct iovec io = {d->xstate, d->xstate_size};
    return (int)ptrace(PTRACE_SETREGSET, s->pid, (void *)NT_X86_XSTATE, &io);
}

static int put_state(struct direct *d, struct space *s)
{
    put_regs(d->cpu, &s->regs);
    if (d->cpu->mode != X86_MODE64) {
        u64 fs = 0, gs = 0;
        if (put_tls(d, s, FS, TLS_FIRST, &fs) || put_tls(d, s, GS, TLS_FIRST + 1, &gs))
            return -1;
        s->regs.fs = fs;
        s->regs.gs = gs;
    }
    s->there = false;
    return put_fpu(d, s);
}

static int get_state(struct direct *d, struct space *s)
{
    struct iovec io = {d->xstate, cpu_fpu_size(d->cpu)};
    if (space_take(s) || ptrace(PTRACE_GETREGSET, s->pid, (void *)NT_X86_XSTATE, &io))
        return -1;
    u64 present;
    memcpy(&present, d->xstate + XSTATE_BV, sizeof(present));
    present &= d->offered_xcr0; /* the process has PKRU besides, and what else is new */
    memcpy(d->xstate + XSTATE_BV, &present, sizeof(present));
    if (cpu_fpu_set(d->cpu, d->xstate))
        return -1;
    cpu_fpu_get(d->cpu, left_xstate(d, s));
    s->fpu_known = true;
    get_regs(d->cpu, &s->regs);
    return 0;
}

/* The kernel takes an image of one size only: all that it gives. */
static int measure_xstate(struct direct *d, struct space *s)
{
    if (d->xstate)
        return 0;
    u8 *buf = calloc(1 + SPACES, XSTATE_MAX);
    struct iovec io = {buf, XSTATE_MAX};
    if (!buf || ptrace(PTRACE_GETREGSET, s->pid, (void *)NT_X86_XSTATE, &io) ||
        io.iov_len < cpu_fpu_size(d->cpu)) {
        free(buf);
        return -1;
    }
    memset(buf, 0, XSTATE_MAX);
    d->xstate = buf;
    d->xstate_size = io.iov_len;
    return 0;
}

/* --- spaces --- */

/* A kernel may give an address space another PCID; what it means for mappings is space_epoch's. */
static u64 root_of(const struct cpu *c)
{
    return c->cr4 & CR4_PCIDE ? c->cr3 & ~PAGE_MASK : c->cr3;
}

/* That of the CPU's address space, as it was left; or the one that was used least recently. */
static struct space *choose(struct direct *d)
{
    struct cpu *c = d->cpu;
    u64 root = root_of(c);
    struct space *oldest = &d->space[0];
    u8 rules = direct_rules(d);
    for (unsigned n = 0; n < SPACES; n++) {
        struct space *s = &d->space[n];
        if (s->pid && s->root == root && s->paging == c->paging && s->rules == rules)
            return s;
        if (s->last_used < oldest->last_used)
            oldest = s;
    }
    if (!oldest->pid ? space_start(d, oldest) : space_reset(d, oldest))
        return NULL;
    oldest->root = root;
    oldest->paging = c->paging;
    oldest->rules = rules;
    oldest->space_epoch = c->space_epoch;
    oldest->dropped = c->ndropped;
    return oldest;
}

/* The engine, and the guest's kernel, have had the fault that ended the last stay. */
static void map_missed(struct direct *d, struct space *s)
{
    u64 rip = d->cpu->reg[X86_SLOT_RIP], la = d->missed;
    d->missed = 0;
    if (la && rip == d->fault_rip)
        direct_map(d, s, la, rip, true);
}

static struct space *prepare(struct direct *d)
{
    struct space *s = choose(d);
    if (!s)
        return NULL;
    s->last_used = ++d->clock;
    place_before(d, s);
    d->same_rip = 0;
    if (measure_xstate(d, s) || space_move_stub(d, s) || direct_catch_up(d, s))
        return NULL;
    map_missed(d, s);
    return s;
}

/* --- running --- */

static u64 thread_time(void)
{
    struct timespec t = {0};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (u64)t.tv_sec * 1000000000ull + (u64)t.tv_nsec;
}

/* The process's time from `began` on, but for what going there and back takes of it: as much as the
 * shortest stay. With breakpoints that is some ten microseconds where the host is a virtual
 * machine.
 */
static void count_time(struct direct *d, struct space *s, u64 began)
{
    u64 end = space_time(s);
    began = min_u64(began, end);
    d->stats.outside += began - s->time; /* in system calls of ours */
    s->overhead = min_u64(s->overhead, end - began);
    d->stats.inside += end - began - s->overhead;
    d->stats.outside += s->overhead;
    s->time = end;
}

/* When the stub was done, if it was on the way. */
static u64 arrival(const struct space *s, u64 began)
{
    const struct timespec *now = &s->data->now;
    u64 t = (u64)now->tv_sec * 1000000000ull + (u64)now->tv_nsec;
    return t > began ? t : began;
}

/* Until it stops; a status of 0: it has not run. -1: the process is of no use. */
static int resume(struct direct *d, struct space *s, int *status)
{
    *status = 0;
    atomic_store(&d->running, true);
    if (atomic_load(&d->cpu->poll) || atomic_load(&d->any_drop)) {
        atomic_store(&d->running, false);
        return 0;
    }
    u64 began = s->ran ? space_time(s) : s->time;
    bool by_stub = s->ncommands;
    int r = space_go(s, status);
    if (*status)
        count_time(d, s, by_stub ? arrival(s, began) : began);
    s->ran = !*status;
    atomic_store(&d->running, false);
    return r;
}

/* Is it a near CALL by a register or memory? */
static bool at_indirect_call(struct space *s, u64 rip)
{
    u8 code[X86_INSN_MAX + 1] = {0};
    struct x86_decoded insn;
    for (unsigned n = 0; n < sizeof(code); n += 8) {
        errno = 0;
        u64 word = (u64)ptrace(PTRACE_PEEKTEXT, s->pid, rip + n, NULL);
        if (errno)
            break;
        memcpy(code + n, &word, sizeof(word));
    }
    return x86_decode(code, sizeof(code), X86_MODE64, &insn) == X86_OK &&
           insn.op == X86_CALL_NEAR_IND;
}

/* SIGSEGV: of a fault that is mended by mapping, or the engine's; -1: it may go on. #GP of a CALL
 * whose target is not canonical is not for the engine to do again: the return address has been
 * stored, perhaps to where the target was. */
static int faulted(struct direct *d, struct space *s)
{
    siginfo_t si;
    if (ptrace(PTRACE_GETSIGINFO, s->pid, NULL, &si))
        return DIRECT_FAULT;
    if (si.si_code != SEGV_MAPERR && si.si_code != SEGV_ACCERR)
        return d->cpu->mode == X86_MODE64 && si.si_code == SI_KERNEL &&
                       at_indirect_call(s, s->regs.rip)
                   ? DIRECT_BAD_CALL
                   : DIRECT_FAULT;
    if (direct_map(d, s, (u64)si.si_addr, s->regs.rip, false))
        return s->ncommands || space_take(s) == 0 ? -1 : DIRECT_FAULT; /* RF */
    d->missed = (u64)si.si_addr;
    return DIRECT_FAULT;
}

static int trapped(struct direct *d, struct space *s)
{
    siginfo_t si;
    int code = ptrace(PTRACE_GETSIGINFO, s->pid, NULL, &si) ? 0 : si.si_code;
    if (code == TRAP_TRACE && s->regs.eflags & FLAG_TF) /* a hidden POPF has set it */
        d->cpu->db_pending |= DR6_BS;
    else if (code != TRAP_HWBKPT && code != TRAP_TRACE) /* INT3, INT1; one of ours comes before */
        s->regs.rip--;
    return DIRECT_FAULT;
}

/* SYSCALL has changed RCX and R11, as it does when it is done again. At the vsyscall page the
 * host's kernel asks whether to answer a call in the process's place, and would not have it moved.
 */
static int called(struct space *s)
{
    s->spoilt = s->regs.rip >> 47;
    if (s->spoilt)
        return DIRECT_FAULT;
    s->regs.rip -= 2;
    s->regs.rax = s->regs.orig_rax;
    return DIRECT_SYSCALL;
}

/* What a stop means; -1: nothing, it may go on. */
static int judge(struct direct *d, struct space *s, int status)
{
    int sig = WSTOPSIG(status);
    if (sig == SIGSEGV)
        return faulted(d, s);
    if (sig == SYSCALL_STOP || status >> 16 == PTRACE_EVENT_SECCOMP)
        return called(s);
    if (sig == SIGTRAP)
        return trapped(d, s);
    return sig != SIGSTOP ? DIRECT_FAULT : atomic_load(&d->cpu->poll) ? DIRECT_KICKED : -1;
}

/* The CPU has the state again. EFLAGS.ID is not ptrace(2)'s to clear: a process that has it goes.
 */
static enum direct_end leave(struct direct *d, struct space *s, enum direct_end end)
{
    if (end == DIRECT_LOST || get_state(d, s))
        return DIRECT_LOST;
    if (s->regs.eflags & FLAG_ID || s->spoilt)
        space_stop(d, s);
    return end;
}

/* What keeps guest code from going on; -1: nothing. */
static int obstacle(struct direct *d, struct space *s)
{
    if (!s->key && space_flush(s)) /* before a kick can come: it would not notice */
        return DIRECT_LOST;
    if (s->refused) /* which of the mappings have been made is not known */
        return space_reset(d, s) ? DIRECT_LOST : DIRECT_FAULT;
    return s->there || can_put_bases(s->regs.fs_base, s->regs.gs_base) ? -1 : DIRECT_FAULT;
}

/* It has not run; -1: there is no reason any more. */
static int called_back(struct direct *d, struct space *s)
{
    if (atomic_load(&d->cpu->poll))
        return DIRECT_KICKED;
    return direct_catch_up(d, s) ? DIRECT_LOST : -1;
}

static enum direct_end run(struct direct *d, struct space *s)
{
    if (put_state(d, s))
        return DIRECT_BROKEN;
    for (;;) {
        int status, end = obstacle(d, s);
        if (end < 0 && resume(d, s, &status))
            end = DIRECT_LOST;
        else if (end < 0)
            end = status ? judge(d, s, status) : called_back(d, s);
        if (end >= 0)
            return leave(d, s, (enum direct_end)end);
    }
}

enum direct_end direct_run(struct direct *d)
{
    if (!may_run(d->cpu))
        return DIRECT_REFUSED;
    if (direct_is_away(d)) {
        d->stats.ended[DIRECT_AWAY]++;
        return DIRECT_AWAY;
    }
    cpu_leave(d->cpu);
    cpu_clear_rf(d->cpu); /* there are no breakpoints that it could keep off */
    struct direct_stats before = d->stats;
    u64 began = thread_time();
    struct space *s = prepare(d);
    enum direct_end end = s ? run(d, s) : DIRECT_BROKEN;
    d->stats.runs++;
    d->stats.outside += thread_time() - began;
    d->stats.ended[end]++;
    if (s)
        place_after(d, d->stats.inside - before.inside + d->stats.outside - before.outside);
    return end;
}

/* --- from other threads --- */

bool direct_running(const struct direct *d)
{
    return atomic_load(&d->running);
}

bool direct_has_drops(const struct direct *d)
{
    return atomic_load(&d->any_drop);
}

void direct_kick(struct direct *d)
{
    if (!atomic_load(&d->running))
        return; /* it looks before it resumes */
    pthread_mutex_lock(&d->lock);
    for (unsigned n = 0; n < SPACES; n++)
        if (d->space[n].pid && !d->space[n].ended && d->space[n].last_used == d->clock)
            kill(d->space[n].pid, SIGSTOP);
    pthread_mutex_unlock(&d->lock);
}

bool direct_drop_writer(struct direct *d, u64 page)
{
    bool any = false;
    pthread_mutex_lock(&d->lock);
    for (unsigned n = 0; n < SPACES; n++) {
        _Atomic u64 *wrote = d->space[n].wrote;
        any |= wrote && atomic_load(&wrote[page >> 6]) >> (page & 63) & 1;
    }
    if (!any) {
        pthread_mutex_unlock(&d->lock);
        return false;
    }
    if (d->ndrops < DROPS_MAX)
        d->drop[d->ndrops] = page;
    if (d->ndrops <= DROPS_MAX)
        d->ndrops++;
    atomic_store(&d->any_drop, true);
    pthread_mutex_unlock(&d->lock);
    return true;
}

/* --- life --- */

static u64 host_xcr0(void)
{
    u32 lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (u64)hi << 32 | lo;
}

struct direct *direct_new(struct cpu *c, struct direct_hosts *hosts, bool no_filter)
{
    struct direct *d = calloc(1, sizeof(*d));
    if (!d)
        return NULL;
    d->cpu = c;
    d->breaks = true;
    d->hosts = hosts;
    d->no_filter = no_filter;
    d->host_cpu = -1;
    d->offered_xcr0 = cpu_fpu_host_xcr0();
    if (d->offered_xcr0 & XCR0_AVX)
        d->host_xcr0 = host_xcr0();
    pthread_mutex_init(&d->lock, NULL);
    for (unsigned n = 0; n < SPACES; n++)
        d->space[n] = (struct space){.file = -1, .host_cpu = -1};
    d->verdict = reserve_memory(max_u64(c->mem->npages, 1) * sizeof(*d->verdict));
    if (!d->verdict) {
        free(d);
        return NULL;
    }
    return d;
}

void direct_free(struct direct *d)
{
    if (!d)
        return;
    for (unsigned n = 0; n < SPACES; n++)
        space_stop(d, &d->space[n]);
    place_free(d);
    munmap(d->verdict, max_u64(d->cpu->mem->npages, 1) * sizeof(*d->verdict));
    pthread_mutex_destroy(&d->lock);
    free(d->xstate);
    free(d);
}

const struct direct_stats *direct_stats(const struct direct *d)
{
    return &d->stats;
}
