/*
 * direct_space.c - the process that guest code runs in: its birth, and system calls that it makes
 * for us.
 *
 * It is a clone of the monitor's that has let go of everything but two pages, the stub's, that lie
 * where the guest has nothing. It is stopped under ptrace whenever it does not run guest code, and
 * dies with its tracer. What it inherits of files is the guest's memory alone.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
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
    prctl(PR_SET_TSC, PR_TSC_SIGSEGV);
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
    s->command = (struct command *)(p + PAGE_SIZE);
    return 0;
}

/* --- the stub's place --- */

static u64 random_page(void)
{
    /* High enough for no 32-bit program, and where Linux puts nothing by itself. */
    u64 lo = 0x100000000000ull >> PAGE_SHIFT, n = 0x400000000000ull >> PAGE_SHIFT, r;
    if (syscall(SYS_getrandom, &r, sizeof(r), 1 /* GRND_NONBLOCK */) != sizeof(r))
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

/* --- system calls --- */

int space_wait(struct space *s)
{
    int status;
    pid_t r;
    do
        r = waitpid(s->pid, &status, __WALL);
    while (r < 0 && errno == EINTR);
    s->ended = r != s->pid || !WIFSTOPPED(status);
    return s->ended ? -1 : status;
}

/* What the calls returned: nothing may stay mapped that should not, the rest is told. */
static int check(struct space *s, unsigned n)
{
    int r = 0;
    for (unsigned k = 0; k < n; k++) {
        bool failed = s->command[k].nr > ~4095ull;
        s->refused |= failed && s->command[k].arg[3]; /* MAP_FIXED and so on */
        if (failed && !s->command[k].arg[3])
            r = -1;
    }
    return r;
}

/* Does the commands that have been collected; their results are in their first words. */
int space_flush(struct direct *d, struct space *s)
{
    if (!s->ncommands)
        return 0;
    u64 list = s->stub + PAGE_SIZE;
    struct user_regs_struct r = {
        .rip = s->stub,
        .rbx = list,
        .rbp = list + s->ncommands * sizeof(struct command),
        .orig_rax = ~0ull,
        .eflags = 0x202,
        .cs = 0x33,
        .ss = 0x2b,
        .rsp = list,
    };
    unsigned n = s->ncommands;
    s->ncommands = 0;
    s->ran = true;
    if (ptrace(PTRACE_SETREGS, s->pid, NULL, &r))
        return -1;
    for (;;) { /* a kick that came late is no concern */
        if (ptrace(PTRACE_CONT, s->pid, NULL, NULL))
            return -1;
        int status = space_wait(s);
        if (status < 0)
            return -1;
        switch (WSTOPSIG(status)) {
        case SIGTRAP:
            return check(s, n);
        case SIGSEGV:
        case SIGBUS:
        case SIGILL:
        case SIGFPE:
            return -1;
        }
    }
}

static int add(struct direct *d, struct space *s, struct command c)
{
    if (s->ncommands == COMMANDS_MAX && space_flush(d, s))
        return -1;
    s->command[s->ncommands++] = c;
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
    if (space_flush(d, s) || space_unmap(d, s, 0, s->stub) ||
        space_unmap(d, s, end, TASK_END - end) || space_flush(d, s))
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
    if (space_flush(d, s) || s->refused)
        return -1;
    s->stub = to;
    return space_unmap(d, s, old, 2 * PAGE_SIZE) || space_flush(d, s) ? -1 : 0;
}

/* --- life --- */

/* Everything of the monitor's goes. */
static int settle(struct direct *d, struct space *s)
{
    int status = space_wait(s);
    if (status < 0 || WSTOPSIG(status) != SIGSTOP ||
        ptrace(PTRACE_SETOPTIONS, s->pid, NULL, PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD))
        return -1;
    return space_reset(d, s);
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
    if (d->fpu_of == s)
        d->fpu_of = NULL;
    if (s->pid) {
        int status;
        if (!s->ended)
            kill(s->pid, SIGKILL);
        while (!s->ended && waitpid(s->pid, &status, __WALL) == s->pid && WIFSTOPPED(status))
            ;
    }
    if (s->command)
        munmap((u8 *)s->command - PAGE_SIZE, 2 * PAGE_SIZE);
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
