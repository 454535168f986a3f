/*
 * direct_space.c - the process that guest code runs in: its birth, and system calls that it makes
 * for us.
 *
 * It is a clone of the monitor's that has let go of everything but two pages, the stub's, that lie
 * where the guest has nothing. It is stopped under ptrace whenever it does not run guest code, and
 * dies with its tracer. What it inherits of files is the guest's memory alone.
 *
 * A stop takes microseconds, so the calls that a fault of the guest's asks for are made on the way
 * back to it. For that a seccomp filter tells them from the guest's system calls, which stop: they
 * have a key in halves of arguments that the kernel ignores. The key is in the space's memory only
 * until the stub makes the call, so that guest code that comes upon the stub cannot use it. Where
 * the host has no such filters, PTRACE_SYSEMU stops at the guest's, and the stub runs by itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/random.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cpu/cpu_mem.h"
#include "engine/direct/direct_priv.h"

#define STUB_TRIES   64
#define FORGET_MOST  2000 /* mappings */
#define RSEQ_SIG_X86 0x53053053

/* --- the child's side, until it stops for the first time --- */

static void keep_files(const struct mem *m, int stub, int base)
{
    for (unsigned n = 0; n < m->nregions; n++)
        if (m->region[n].fd >= 0)
            dup2(m->region[n].fd, base + (int)n);
    dup2(stub, base + (int)m->nregions);
    syscall(SYS_close_range, 0, base - 1, 0);
    syscall(SYS_close_range, base + (int)m->nregions + 1, ~0u, 0);
}

/* The kernel would look for it at every preemption, in memory that is another's then. */
static void leave_rseq(void)
{
    if (!__rseq_size)
        return;
    u8 *at = (u8 *)__builtin_thread_pointer() + __rseq_offset;
    syscall(SYS_rseq, at, max_u64(__rseq_size, 32), RSEQ_FLAG_UNREGISTER, RSEQ_SIG_X86);
}

static bool map_stub(u64 at, int file)
{
    return mmap((void *)at, PAGE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED_NOREPLACE,
                file, 0) == (void *)at &&
           mmap((void *)(at + PAGE_SIZE), PAGE_SIZE, PROT_READ | PROT_WRITE,
                MAP_SHARED | MAP_FIXED_NOREPLACE, file, PAGE_SIZE) == (void *)(at + PAGE_SIZE);
}

static const int own_signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSTOP};

/* EFLAGS.ID: ptrace neither shows nor sets it. */
static void clear_id(void)
{
    __asm__ volatile("pushf\n\tandl %0, (%%rsp)\n\tpopf" : : "i"(~FLAG_ID) : "cc", "memory");
}

/* No more than system calls: other threads may have held locks when it was cloned. */
static NORETURN void child(const struct mem *m, const struct space *s)
{
    sigset_t others; /* than those of its own instructions: they are the terminal's, or anybody's */
    sigfillset(&others);
    for (unsigned n = 0; n < ARRAY_SIZE(own_signals); n++)
        sigdelset(&others, own_signals[n]);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    bool ok = ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0 && map_stub(s->stub, s->file);
    keep_files(m, s->file, s->first_file);
    leave_rseq();
    ok = ok && prctl(PR_SET_TSC, PR_TSC_SIGSEGV) == 0;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &others, NULL, 8);
    clear_id();
    if (ok)
        syscall(SYS_tgkill, syscall(SYS_getpid), syscall(SYS_gettid), SIGSTOP);
    for (;;)
        syscall(SYS_exit, 1);
}

/* --- files --- */

/* Descriptors from here on are free in any process of ours. */
static int first_free(const struct mem *m, int file)
{
    int most = file;
    for (unsigned n = 0; n < m->nregions; n++)
        most = m->region[n].fd > most ? m->region[n].fd : most;
    return most + 1;
}

static int make_file(struct space *s)
{
    s->file = memfd_create("popf-space", MFD_CLOEXEC | 0x10 /* MFD_EXEC */);
    if (s->file < 0)
        s->file = memfd_create("popf-space", MFD_CLOEXEC);
    if (s->file < 0 || ftruncate(s->file, 2 * PAGE_SIZE))
        return -1;
    u8 *p = mmap(NULL, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, s->file, 0);
    if (p == MAP_FAILED)
        return -1;
    memcpy(p, direct_stub, (size_t)(direct_stub_end - direct_stub));
    s->data = (struct stub_data *)(p + PAGE_SIZE);
    return 0;
}

/* --- the stub's place --- */

/* 0: there is none. */
static u64 random_word(void)
{
    u64 r;
    return getrandom(&r, sizeof(r), GRND_NONBLOCK) == sizeof(r) ? r : 0;
}

static u64 random_page(void)
{
    /* High enough for no 32-bit program, and where Linux puts nothing by itself. */
    u64 lo = 0x100000000000ull >> PAGE_SHIFT, n = 0x400000000000ull >> PAGE_SHIFT;
    u64 r = random_word();
    if (!r)
        r = __builtin_ia32_rdtsc() * 0x9e3779b97f4a7c15ull;
    return (lo + r % n) << PAGE_SHIFT;
}

static bool is_free(struct cpu *c, u64 at)
{
    gpa_t gpa;
    return !cpu_translate(c, at, &gpa) && !cpu_translate(c, at + PAGE_SIZE, &gpa);
}

/* 0: the guest has mapped everything, it seems. */
static u64 choose_stub(struct cpu *c)
{
    for (unsigned n = 0; n < STUB_TRIES; n++) {
        u64 at = random_page();
        if (c->mode != X86_MODE64 || is_free(c, at))
            return at;
    }
    return 0;
}

/* --- running --- */

u64 space_time(const struct space *s)
{
    struct timespec t = {0};
    /* linux/posix-timers.h: of a process, its scheduler's clock */
    clock_gettime((clockid_t)(~(u32)s->pid << 3 | 2), &t);
    return (u64)t.tv_sec * 1000000000ull + (u64)t.tv_nsec;
}

/* Its wait status when it stops, or -1 when it has ended. */
static int await(struct space *s)
{
    int status;
    pid_t r;
    do
        r = waitpid(s->pid, &status, __WALL);
    while (r < 0 && errno == EINTR);
    s->ended = r != s->pid || !WIFSTOPPED(status);
    return s->ended ? -1 : status;
}

int space_take(struct space *s)
{
    if (!s->there)
        return 0;
    s->there = false;
    int r = (int)ptrace(PTRACE_GETREGS, s->pid, NULL, &s->regs);
    s->regs.eflags &= ~(u64)FLAG_RF; /* of a fault: it would pass by a breakpoint there */
    return r;
}

static u64 trap_of(const struct space *s)
{
    return s->stub + (u64)(direct_stub_trap - direct_stub);
}

/* The stub is to do the commands and go there. */
static void give(struct space *s, u64 rip, u64 cs)
{
    struct stub_data *data = s->data;
    data->frame.rip = rip;
    data->frame.cs = cs;
    data->frame.ss = HOST_DS;
    data->end = s->stub + PAGE_SIZE + s->ncommands * sizeof(struct command);
    s->ngiven = s->ncommands;
    s->ncommands = 0;
    s->ran = true;
}

/* What the calls returned: nothing may stay mapped that should not, the rest is told. */
static int check(struct space *s)
{
    int r = 0;
    for (unsigned k = 0; k < s->ngiven; k++) {
        const struct command *c = &s->data->command[k];
        bool failed = c->nr > ~4095ull, maps = c->arg[2]; /* PROT_READ and so on */
        s->refused |= failed && maps;
        if (failed && !maps)
            r = -1;
    }
    s->ngiven = 0;
    return r;
}

/* The stub runs to its end. */
static int finish(struct space *s)
{
    for (;;) { /* a kick that came late is no concern */
        if (ptrace(PTRACE_CONT, s->pid, NULL, NULL))
            return -1;
        int status = await(s);
        if (status < 0)
            return -1;
        switch (WSTOPSIG(status)) {
        case SIGTRAP:
            return status >> 16 ? -1 : check(s);
        case SIGSEGV:
        case SIGBUS:
        case SIGILL:
        case SIGFPE:
            return -1;
        }
    }
}

/* Does the commands that have been collected. */
int space_flush(struct space *s)
{
    if (!s->ncommands)
        return 0;
    if (space_take(s))
        return -1;
    struct user_regs_struct r = {
        .rip = s->stub,
        .orig_rax = ~0ull,
        .eflags = FLAG_IF | FLAG_ONE,
        .cs = HOST_CS64,
        .ss = HOST_DS,
    };
    give(s, trap_of(s), HOST_CS64);
    return ptrace(PTRACE_SETREGS, s->pid, NULL, &r) ? -1 : finish(s);
}

static struct command with_key(const struct space *s, struct command c)
{
    c.arg[3] |= s->key & ~(u64)UINT32_MAX;
    c.arg[4] |= s->key << 32;
    return c;
}

/* On its way to the guest's code, and what time it was when it got there. */
static void give_all(struct space *s)
{
    u64 now = s->stub + PAGE_SIZE + offsetof(struct stub_data, now);
    struct command clock = {SYS_clock_gettime, {CLOCK_PROCESS_CPUTIME_ID, now}};
    s->data->now = (struct timespec){0};
    s->data->command[s->ncommands++] = with_key(s, clock);
    give(s, s->regs.rip, s->regs.cs);
}

static long poke(const struct space *s, u64 at, u64 value)
{
    return ptrace(PTRACE_POKEUSER, s->pid, offsetof(struct user, regs) + at, value);
}

/* At guest code, or at the stub, that goes there. */
static long set_regs(const struct space *s, bool by_stub)
{
    struct user_regs_struct r = s->regs;
    if (by_stub) {
        r.rip = s->stub;
        r.cs = HOST_CS64;
    }
    if (!s->there)
        return ptrace(PTRACE_SETREGS, s->pid, NULL, &r);
    if (by_stub && s->regs.cs != HOST_CS64 &&
        poke(s, offsetof(struct user_regs_struct, cs), HOST_CS64))
        return -1;
    return poke(s, offsetof(struct user_regs_struct, rip), r.rip);
}

/* Perhaps before the guest's code ran: then the registers are the guest's but for where it is. */
static int stopped(struct space *s, int *status)
{
    u64 rip = s->regs.rip, cs = s->regs.cs;
    if (space_take(s))
        return -1;
    bool kicked = WSTOPSIG(*status) == SIGSTOP && s->regs.rip - s->stub < PAGE_SIZE;
    if (!s->ngiven || (!kicked && s->regs.rip != trap_of(s) + 1)) {
        s->ngiven = 0;
        return 0;
    }
    *status = 0;
    s->data->frame.rip = trap_of(s);
    s->data->frame.cs = HOST_CS64;
    s->there = kicked;
    if ((kicked ? finish(s) : check(s)) || space_take(s))
        return -1;
    s->regs.rip = rip;
    s->regs.cs = cs;
    return 0;
}

int space_go(struct space *s, int *status)
{
    bool by_stub = s->ncommands;
    if (by_stub)
        give_all(s);
    if (set_regs(s, by_stub) || ptrace(s->key ? PTRACE_CONT : PTRACE_SYSEMU, s->pid, NULL, NULL))
        return -1;
    s->there = true;
    *status = await(s);
    if (*status < 0)
        return -1;
    if (WSTOPSIG(*status) != SIGSEGV)
        return stopped(s, status);
    errno = 0; /* most go on soon: no more than that is needed */
    s->regs.rip = (u64)ptrace(PTRACE_PEEKUSER, s->pid, offsetof(struct user, regs.rip), NULL);
    s->ngiven = 0;
    return errno ? -1 : 0;
}

/* --- system calls --- */

static int add(struct direct *d, struct space *s, struct command c)
{
    if (s->ncommands == COMMANDS_MAX - 1 && space_flush(s))
        return -1;
    s->data->command[s->ncommands++] = with_key(s, c);
    return 0;
}

/* In the space's process; NULL: of the stub. */
static u64 file_of(const struct direct *d, const struct space *s, const struct mem_region *r)
{
    const struct mem *m = d->cpu->mem;
    return (u64)s->first_file + (r ? (u64)(r - m->region) : m->nregions);
}

int space_map(struct direct *d, struct space *s, gva_t la, u64 bytes, unsigned rights,
              const struct mem_region *r, u64 offset)
{
    u64 prot =
        PROT_READ | (rights & MAP_WRITE ? PROT_WRITE : 0) | (rights & MAP_EXEC ? PROT_EXEC : 0);
    return add(d, s,
               (struct command){SYS_mmap,
                                {la, bytes, prot, MAP_SHARED | MAP_FIXED | MAP_POPULATE,
                                 file_of(d, s, r), offset}});
}

int space_unmap(struct direct *d, struct space *s, gva_t la, u64 bytes)
{
    if (s->ncommands) {
        struct command *last = &s->data->command[s->ncommands - 1];
        bool above = la == last->arg[0] + last->arg[1], below = la + bytes == last->arg[0];
        if (last->nr == SYS_munmap && (above || below)) {
            last->arg[0] = min_u64(last->arg[0], la);
            last->arg[1] += bytes;
            return 0;
        }
    }
    return add(d, s, (struct command){SYS_munmap, {la, bytes}});
}

int space_break(struct direct *d, struct space *s, const u64 *la, unsigned n)
{
    u64 enable = 0;
    s->overhead = OVERHEAD_MOST;
    for (unsigned k = 0; k < n; k++) {
        enable |= 1ull << 2 * k; /* DR7: local, execution */
        if (ptrace(PTRACE_POKEUSER, s->pid, offsetof(struct user, u_debugreg) + 8 * k, la[k]))
            return -1;
    }
    return (int)ptrace(PTRACE_POKEUSER, s->pid, offsetof(struct user, u_debugreg) + 8 * 7, enable);
}

/* Few mappings are forgotten one by one: the pages of the tables stay. */
static void forget_mappings(struct direct *d, struct space *s)
{
    if (s->nmappings > FORGET_MOST) {
        madvise(s->mapping, MAPPINGS_MAX * sizeof(*s->mapping), MADV_DONTNEED);
        madvise(s->hash, sizeof(*s->hash) << MAPPING_HASH, MADV_DONTNEED);
        madvise((void *)s->wrote, align_up(d->cpu->mem->npages / 8 + 8, PAGE_SIZE), MADV_DONTNEED);
    }
    for (unsigned n = 0; n < s->nmappings && s->nmappings <= FORGET_MOST; n++) {
        mapping_forget(s, n);
        atomic_store(&s->wrote[s->mapping[n].page >> 6], 0);
    }
    s->nmappings = 0;
    s->nbreakpoints = 0;
    s->refused = false;
    s->large = false;
}

int space_reset(struct direct *d, struct space *s)
{
    u64 end = s->stub + 2 * PAGE_SIZE;
    if (space_unmap(d, s, 0, s->stub) || space_unmap(d, s, end, TASK_END - end))
        return -1;
    forget_mappings(d, s);
    d->stats.resets++;
    return 0;
}

int space_move_stub(struct direct *d, struct space *s)
{
    u64 old = s->stub;
    if (d->cpu->mode != X86_MODE64 || is_free(d->cpu, old))
        return 0;
    u64 to = choose_stub(d->cpu);
    if (!to)
        return -1;
    for (unsigned n = 0; n < 2; n++)
        if (add(d, s,
                (struct command){SYS_mmap,
                                 {to + n * PAGE_SIZE, PAGE_SIZE,
                                  PROT_READ | (n ? PROT_WRITE : PROT_EXEC), MAP_SHARED | MAP_FIXED,
                                  file_of(d, s, NULL), n * PAGE_SIZE}}))
            return -1;
    if (space_flush(s) || s->refused)
        return -1;
    s->stub = to;
    return space_unmap(d, s, old, 2 * PAGE_SIZE) || space_flush(s) ? -1 : 0;
}

/* --- life --- */

/* From here on system calls need the key, if the host lets us. No command waits. */
static int install_filter(struct direct *d, struct space *s)
{
    u64 key = random_word();
    const u32 high[] = {offsetof(struct seccomp_data, args[3]) + 4,
                        offsetof(struct seccomp_data, args[4]) + 4};
    const struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 8),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, high[0]),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (u32)(key >> 32), 0, 6),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, high[1]),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (u32)key, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_munmap, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clock_gettime, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const unsigned room = COMMANDS_MAX / 2; /* commands that are not used here */
    u64 at = s->stub + PAGE_SIZE + offsetof(struct stub_data, command[room]);
    const u64 prog[2] = {ARRAY_SIZE(code), at + sizeof(prog)}; /* struct sock_fprog */
    u8 *p = (u8 *)&s->data->command[room];
    if (!key)
        return 0;
    memcpy(p, prog, sizeof(prog));
    memcpy(p + sizeof(prog), code, sizeof(code));
    if (add(d, s, (struct command){SYS_prctl, {PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0}}) ||
        add(d, s,
            (struct command){SYS_seccomp,
                             {SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, at}}))
        return -1;
    space_flush(s);
    if (!s->data->command[1].nr) /* what the second one returned */
        s->key = key;
    memset(p, 0, sizeof(prog) + sizeof(code));
    s->refused = false;
    return s->ended ? -1 : 0;
}

/* Everything of the monitor's goes. */
static int settle(struct direct *d, struct space *s)
{
    int status = await(s);
    if (status < 0 || WSTOPSIG(status) != SIGSTOP ||
        ptrace(PTRACE_SETOPTIONS, s->pid, NULL,
               PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACESECCOMP))
        return -1;
    if (space_reset(d, s) || space_flush(s))
        return -1;
    return d->no_filter ? 0 : install_filter(d, s);
}

/* The kernel would tell the whole of our process of each stop, and wake a thread that takes SIGCHLD
 * for it. Who has a handler keeps what he set. */
static void silence_stops(void)
{
    struct sigaction a;
    if (sigaction(SIGCHLD, NULL, &a) == 0 && a.sa_handler == SIG_DFL &&
        !(a.sa_flags & SA_NOCLDSTOP)) {
        a.sa_flags |= SA_NOCLDSTOP;
        sigaction(SIGCHLD, &a, NULL);
    }
}

static int start(struct direct *d, struct space *s)
{
    const struct mem *m = d->cpu->mem;
    silence_stops();
    s->file = -1;
    if (make_file(s))
        return -1;
    s->mapping = reserve_memory(MAPPINGS_MAX * sizeof(*s->mapping));
    s->hash = reserve_memory(sizeof(*s->hash) << MAPPING_HASH);
    s->wrote = reserve_memory(align_up(m->npages / 8 + 8, PAGE_SIZE));
    if (!s->mapping || !s->hash || !s->wrote)
        return -1;
    s->stub = choose_stub(d->cpu);
    if (!s->stub)
        return -1;
    s->first_file = first_free(m, s->file);
    s->host_cpu = d->host_cpu;
    pid_t pid = (pid_t)syscall(SYS_clone, 0, NULL, NULL, NULL, NULL);
    if (pid == 0)
        child(m, s);
    if (pid < 0)
        return -1;
    s->pid = pid;
    s->overhead = OVERHEAD_MOST;
    d->stats.spaces++;
    return settle(d, s);
}

int space_start(struct direct *d, struct space *s)
{
    if (start(d, s) == 0)
        return 0;
    space_stop(d, s);
    return -1;
}

void space_stop(struct direct *d, struct space *s)
{
    pthread_mutex_lock(&d->lock);
    if (s->pid) {
        int status;
        if (!s->ended)
            kill(s->pid, SIGKILL);
        while (!s->ended && waitpid(s->pid, &status, __WALL) == s->pid && WIFSTOPPED(status))
            ;
    }
    if (s->data)
        munmap((u8 *)s->data - PAGE_SIZE, 2 * PAGE_SIZE);
    if (s->file >= 0)
        close(s->file);
    if (s->mapping)
        munmap(s->mapping, MAPPINGS_MAX * sizeof(*s->mapping));
    if (s->hash)
        munmap(s->hash, sizeof(*s->hash) << MAPPING_HASH);
    if (s->wrote)
        munmap((void *)s->wrote, align_up(d->cpu->mem->npages / 8 + 8, PAGE_SIZE));
    *s = (struct space){.file = -1, .host_cpu = -1};
    pthread_mutex_unlock(&d->lock);
}

int direct_usable(struct err *e)
{
    struct err why = {.msg = ""};
    int status = 0;
    pid_t pid = (pid_t)syscall(SYS_clone, 0, NULL, NULL, NULL, NULL);
    if (pid == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0)
            syscall(SYS_tgkill, syscall(SYS_getpid), syscall(SYS_gettid), SIGSTOP);
        for (;;)
            syscall(SYS_exit, errno);
    }
    if (pid < 0)
        return err_errno(e, "no process can be started");
    if (waitpid(pid, &status, __WALL) != pid || !WIFSTOPPED(status))
        err_set(&why, "%s", strerror(WEXITSTATUS(status)));
    else if (ptrace(PTRACE_SYSEMU, pid, NULL, NULL))
        err_errno(&why, "PTRACE_SYSEMU");
    if (!WIFEXITED(status)) {
        kill(pid, SIGKILL);
        while (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status))
            ;
    }
    return why.msg[0] ? err_set(e, "ptrace is forbidden (%s)", why.msg) : 0;
}
