/*
 * popf run: a machine whose first serial port is this terminal.
 *
 * One loop, on the main thread, waits for keys, signals and the machine's end. Signals are read
 * from a descriptor, so nothing of popf ever runs in a signal handler.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/conf.h"
#include "cli/machine.h"
#include "cli/term.h"

#define CTRL_A     1
#define INPUT_SIZE 4096
#define RETRY_MS   10

struct run {
    struct run_options opt;
    struct term term;
    struct popf *vm;
    struct machine *machine; /* its name and what hangs on that; NULL: none */
    struct popf_outcome how;
    pthread_t waiter;
    bool has_waiter;
    int end_fd;   /* readable when the machine has ended */
    int leave_fd; /* readable when output that nobody takes is not worth waiting for */
    int signal_fd;
    sigset_t old_mask;

    bool eof;                 /* of standard input */
    bool escape;              /* Ctrl-A was pressed */
    char pending[INPUT_SIZE]; /* input that the guest has not taken yet */
    size_t npending;

    int killed_by; /* the signal that ended popf, or 0 */
    bool timed_out;
    struct timespec deadline;
    bool status_line; /* a progress line is on the terminal */
    _Atomic bool out_failed;
};

/* --- what is said on standard error --- */

static const char *newline(const struct run *r)
{
    return r->term.raw ? "\r\n" : "\n";
}

static void say(void *arg, const char *line)
{
    struct run *r = arg;
    fprintf(stderr, "%s%s", line, newline(r));
}

static void say_popf(void *arg, const char *line)
{
    struct run *r = arg;
    fprintf(stderr, "popf: %s%s", line, newline(r));
}

/* Shown only where somebody looks, and overwritten by what comes next. */
static void progress(void *arg, const char *what, uint64_t done, uint64_t total)
{
    struct run *r = arg;
    if (total)
        fprintf(stderr, "\r%s: %3u%%\033[K", what, (unsigned)(done * 100 / total));
    else
        fprintf(stderr, "\r%s: %llu MiB\033[K", what, (unsigned long long)(done >> 20));
    fflush(stderr);
    r->status_line = true;
}

static void end_progress(struct run *r)
{
    if (r->status_line)
        fputs("\r\033[K", stderr);
    r->status_line = false;
}

/* --- output --- */

/* Waits until standard output takes something. False: popf ends, and nobody reads. */
static bool wait_writable(const struct run *r)
{
    struct pollfd p[2] = {{.fd = STDOUT_FILENO, .events = POLLOUT},
                          {.fd = r->leave_fd, .events = POLLIN}};
    while (poll(p, 2, -1) < 0 && errno == EINTR)
        continue;
    return p[0].revents || !p[1].revents;
}

/* On the machine's output thread; one port is this terminal, the others are not connected. */
static void serial_out(void *arg, unsigned port, const void *buf, size_t len)
{
    struct run *r = arg;
    const char *p = buf;
    if (machine_output(r->machine, port, buf, len))
        return;
    while (port == r->opt.terminal && len && !r->out_failed && wait_writable(r)) {
        /* No more than a pipe takes at once when it is writable at all. */
        ssize_t n = write(STDOUT_FILENO, p, len < PIPE_BUF ? len : PIPE_BUF);
        if (n >= 0) {
            p += n;
            len -= (size_t)n;
        } else if (errno != EAGAIN && errno != EINTR) {
            r->out_failed = true;
            fprintf(stderr, "popf: cannot write the guest's output: %s%s", strerror(errno),
                    newline(r));
            popf_stop(r->vm);
        }
    }
}

/* --- statistics and state --- */

static void print_stats(struct run *r)
{
    struct popf_stats s;
    popf_stats(r->vm, &s);
    double sec = (double)s.guest_ns / 1e9;
    const char *nl = newline(r);
    fprintf(stderr, "engine            %s%s", popf_engine(r->vm), nl);
    fprintf(stderr, "guest time        %.3f s%s", sec, nl);
    if (s.insns)
        fprintf(stderr, "instructions      %llu (%.1f million/s)%s", (unsigned long long)s.insns,
                sec > 0 ? (double)s.insns / sec / 1e6 : 0, nl);
    fprintf(stderr, "halts             %llu%s", (unsigned long long)s.halts, nl);
    fprintf(stderr, "interrupts        %llu%s", (unsigned long long)s.interrupts, nl);
    fprintf(stderr, "port accesses     %llu%s", (unsigned long long)s.port_io, nl);
    fprintf(stderr, "MMIO accesses     %llu%s", (unsigned long long)s.mmio, nl);
    fprintf(stderr, "MSR accesses      %llu%s", (unsigned long long)s.msrs, nl);
    fprintf(stderr, "memory            %llu MiB, %llu MiB touched%s",
            (unsigned long long)(s.memory >> 20), (unsigned long long)(s.resident >> 20), nl);
    popf_engine_stats(r->vm, say, r);
}

static void print_segment(struct run *r, const char *name, const struct popf_segment *s)
{
    fprintf(stderr, "%-4s %04x base %016llx limit %08x attr %05x%s", name, s->sel,
            (unsigned long long)s->base, s->limit, s->attr, newline(r));
}

static void print_regs(struct run *r, const struct popf_regs *g)
{
    static const char *const names[16] = {"RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
                                          "R8",  "R9",  "R10", "R11", "R12", "R13", "R14", "R15"};
    const char *nl = newline(r);
    for (int i = 0; i < 16; i++)
        fprintf(stderr, "%-3s %016llx%s", names[i], (unsigned long long)g->gpr[i],
                i % 4 == 3 ? nl : "  ");
    fprintf(stderr, "RIP %016llx  RFLAGS %08llx  EFER %04llx%s", (unsigned long long)g->rip,
            (unsigned long long)g->rflags, (unsigned long long)g->efer, nl);
    fprintf(stderr, "CR0 %08llx  CR2 %016llx  CR3 %016llx  CR4 %08llx  CR8 %llx%s",
            (unsigned long long)g->cr0, (unsigned long long)g->cr2, (unsigned long long)g->cr3,
            (unsigned long long)g->cr4, (unsigned long long)g->cr8, nl);
    print_segment(r, "CS", &g->cs);
    print_segment(r, "SS", &g->ss);
    print_segment(r, "DS", &g->ds);
    print_segment(r, "ES", &g->es);
    print_segment(r, "FS", &g->fs);
    print_segment(r, "GS", &g->gs);
    print_segment(r, "TR", &g->tr);
    print_segment(r, "LDTR", &g->ldtr);
    fprintf(stderr, "GDT  %016llx+%04x  IDT %016llx+%04x%s", (unsigned long long)g->gdt_base,
            g->gdt_limit, (unsigned long long)g->idt_base, g->idt_limit, nl);
}

static void print_state(struct run *r)
{
    fputs(newline(r), stderr);
    popf_pause(r->vm);
    for (unsigned i = 0; i < r->opt.cfg.cpus; i++) {
        struct popf_regs regs;
        if (popf_get_regs(r->vm, i, &regs, NULL))
            continue;
        fprintf(stderr, "--- CPU %u%s", i, newline(r));
        print_regs(r, &regs);
    }
    print_stats(r);
    popf_resume(r->vm);
}

/* --- input --- */

static void print_keys(struct run *r)
{
    static const char *const lines[] = {"",
                                        "Ctrl-A X  leave: the machine is switched off at once",
                                        "Ctrl-A P  press the power button",
                                        "Ctrl-A C  go on after a disk's error has paused it",
                                        "Ctrl-A S  show registers and statistics",
                                        "Ctrl-A A  send Ctrl-A to the guest",
                                        "Ctrl-A H  show this"};
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
        say(r, lines[i]);
}

static void put_pending(struct run *r, char c)
{
    if (r->npending < sizeof(r->pending)) /* typing far ahead of a dead guest is lost */
        r->pending[r->npending++] = c;
}

static void command_key(struct run *r, char c)
{
    switch (c) {
    case 'x':
    case 'X':
        popf_stop(r->vm);
        break;
    case 'h':
    case 'H':
    case '?':
        print_keys(r);
        break;
    case 'c':
    case 'C':
        popf_resume(r->vm);
        break;
    case 's':
    case 'S':
        print_state(r);
        break;
    case 'p':
    case 'P':
        popf_power_button(r->vm);
        break;
    case 'a':
    case 'A':
    case CTRL_A:
        put_pending(r, CTRL_A);
        break;
    }
}

static void take_key(struct run *r, char c)
{
    if (r->escape) {
        r->escape = false;
        command_key(r, c);
    } else if (r->term.tty && c == CTRL_A) {
        r->escape = true;
    } else {
        put_pending(r, c);
    }
}

static void feed_guest(struct run *r)
{
    size_t n = popf_serial_input(r->vm, r->opt.terminal, r->pending, r->npending);
    r->npending -= n;
    memmove(r->pending, r->pending + n, r->npending);
}

static void read_input(struct run *r)
{
    char buf[INPUT_SIZE];
    ssize_t n = read(STDIN_FILENO, buf, sizeof(buf));
    if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
        r->eof = true; /* the guest goes on without input */
    for (ssize_t i = 0; i < n; i++)
        take_key(r, buf[i]);
    feed_guest(r);
}

/* --- signals --- */

/* Handed back to the user's shell, with guest time standing still, until he continues us. */
static void stop_self(struct run *r)
{
    popf_pause(r->vm);
    term_cooked(&r->term);
    kill(getpid(), SIGSTOP);
    term_raw(&r->term);
    popf_resume(r->vm);
}

static void tell_size(struct run *r)
{
    struct winsize ws;
    if (r->term.tty && !ioctl(STDIN_FILENO, TIOCGWINSZ, &ws))
        popf_console_resize(r->vm, ws.ws_col, ws.ws_row);
}

static void read_signal(struct run *r)
{
    struct signalfd_siginfo si;
    if (read(r->signal_fd, &si, sizeof(si)) != sizeof(si))
        return;
    switch (si.ssi_signo) {
    case SIGTSTP:
        stop_self(r);
        break;
    case SIGCONT: /* after a SIGSTOP that nobody asked us about, or back in the foreground */
        term_raw(&r->term);
        break;
    case SIGWINCH: /* a serial line has no size, a virtio console has */
        tell_size(r);
        break;
    default:
        r->killed_by = (int)si.ssi_signo;
        popf_stop(r->vm);
    }
}

static int open_signals(struct run *r)
{
    static const int ours[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGWINCH};
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++) {
        struct sigaction old;
        /* What the caller had us ignore (nohup) stays ignored. */
        if (!sigaction(ours[i], NULL, &old) && old.sa_handler != SIG_IGN)
            sigaddset(&set, ours[i]);
    }
    signal(SIGPIPE, SIG_IGN);
    pthread_sigmask(SIG_BLOCK, &set, &r->old_mask);
    r->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return r->signal_fd < 0 ? -1 : 0;
}

/* --- the loop --- */

static void *wait_end(void *arg)
{
    struct run *r = arg;
    uint64_t one = 1;
    popf_wait(r->vm, &r->how);
    ssize_t n = write(r->end_fd, &one, sizeof(one));
    (void)n;
    return NULL;
}

static int timeout_ms(const struct run *r)
{
    struct timespec now;
    /* A second, if only to see whether popf is in the foreground again. */
    int ms = r->npending ? RETRY_MS : !r->eof && !term_readable(&r->term) ? 1000 : -1;
    if (!r->opt.timeout || r->timed_out)
        return ms;
    clock_gettime(CLOCK_MONOTONIC, &now);
    long long left = (r->deadline.tv_sec - now.tv_sec) * 1000ll +
                     (r->deadline.tv_nsec - now.tv_nsec) / 1000000 + 1;
    if (left < 0)
        left = 0;
    return ms >= 0 && ms < left ? ms : left > 60000 ? 60000 : (int)left;
}

static void check_deadline(struct run *r)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (!r->opt.timeout || r->timed_out || now.tv_sec < r->deadline.tv_sec ||
        (now.tv_sec == r->deadline.tv_sec && now.tv_nsec < r->deadline.tv_nsec))
        return;
    r->timed_out = true;
    popf_stop(r->vm);
}

/* Keys are always read, for Ctrl-A X; a pipe only when the guest has taken what came before. */
static bool wants_input(const struct run *r)
{
    return !r->eof && term_readable(&r->term) && (r->term.tty || !r->npending);
}

static void loop(struct run *r)
{
    struct pollfd p[3] = {{.fd = r->end_fd, .events = POLLIN},
                          {.fd = r->signal_fd, .events = POLLIN},
                          {.events = POLLIN}};
    while (!(p[0].revents & POLLIN)) {
        p[2].fd = wants_input(r) ? STDIN_FILENO : -1;
        if (poll(p, 3, timeout_ms(r)) < 0) {
            p[0].revents = 0;
            continue;
        }
        if (p[1].revents & POLLIN)
            read_signal(r);
        if (p[2].fd >= 0 && p[2].revents)
            read_input(r);
        else if (r->npending)
            feed_guest(r);
        check_deadline(r);
    }
}

/* --- before and after --- */

static int create(struct run *r)
{
    struct popf_error err;
    struct popf_config *cfg = &r->opt.cfg;
    cfg->serial_out = serial_out;
    cfg->serial_arg = r;
    cfg->log = say_popf;
    cfg->log_arg = r;
    if (isatty(STDERR_FILENO)) {
        cfg->progress = progress;
        cfg->progress_arg = r;
    }
    r->vm = popf_create(cfg, &err);
    end_progress(r);
    if (!r->vm)
        fprintf(stderr, "popf: %s\n", err.msg);
    return r->vm ? 0 : -1;
}

static int start(struct run *r)
{
    struct popf_error err;
    r->end_fd = eventfd(0, EFD_CLOEXEC);
    r->leave_fd = eventfd(0, EFD_CLOEXEC);
    if (r->end_fd < 0 || r->leave_fd < 0 || open_signals(r)) {
        perror("popf: cannot wait for events");
        return -1;
    }
    clock_gettime(CLOCK_MONOTONIC, &r->deadline);
    r->deadline.tv_sec += r->opt.timeout;
    term_raw(&r->term);
    tell_size(r);
    if (popf_start(r->vm, &err)) {
        say_popf(r, err.msg);
        return -1;
    }
    if (machine_started(r->machine, r->vm, &err)) {
        say_popf(r, err.msg);
        return -1;
    }
    errno = pthread_create(&r->waiter, NULL, wait_end, r);
    r->has_waiter = errno == 0;
    if (!r->has_waiter)
        say_popf(r, "cannot start a thread");
    return r->has_waiter ? 0 : -1;
}

static int report(struct run *r)
{
    if (r->opt.stats)
        print_stats(r);
    if (r->out_failed || r->how.end == POPF_END_ERROR || r->how.end == POPF_END_TRIPLE_FAULT) {
        if (!r->out_failed)
            say_popf(r, r->how.text);
        if (r->how.end == POPF_END_TRIPLE_FAULT)
            print_regs(r, &r->how.regs);
        return STATUS_ERROR;
    }
    if (r->timed_out || r->how.end == POPF_END_BUDGET) {
        say_popf(r, r->timed_out ? "the machine was stopped: it ran out of time (--timeout)"
                                 : r->how.text);
        return STATUS_TIMEOUT;
    }
    if (r->opt.cfg.verbose)
        say_popf(r, r->how.text);
    return r->how.end == POPF_END_DEBUG_EXIT ? (int)(r->how.code & 0xff) : 0;
}

static int run(struct run *r)
{
    if (create(r))
        return STATUS_ERROR;
    int status = STATUS_ERROR;
    if (!start(r)) {
        loop(r);
        pthread_join(r->waiter, NULL);
        term_cooked(&r->term);
        status = report(r);
        machine_ended(r->machine, &r->how);
    }
    /* Disks are written back, sockets removed, whatever the end. After a stop the output thread may
     * hang at a reader that does not read. */
    uint64_t one = 1;
    if (r->how.end == POPF_END_STOPPED && write(r->leave_fd, &one, sizeof(one)) < 0)
        return status;
    popf_destroy(r->vm);
    return status;
}

/* Goes into the background, if that is wanted: the process in the foreground does not return. */
static int make_machine(struct run *r)
{
    struct popf_error err;
    struct machine_options o = {
        .detach = r->opt.detach, .terminal = r->opt.terminal, .seed = r->opt.seed};
    if (!machine_new(&r->machine, &r->opt.cfg, &o, &err))
        return 0;
    fprintf(stderr, "popf run: %s\n", err.msg);
    return -1;
}

/* Ends as the signal would have ended popf, so that the caller sees it. */
static void die_by_signal(int sig)
{
    sigset_t set;
    signal(sig, SIG_DFL);
    sigemptyset(&set);
    sigaddset(&set, sig);
    raise(sig);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static int run_parsed(struct run *r)
{
    if (r->opt.help || r->opt.cpu_help) {
        (r->opt.help ? run_help : run_cpu_help)(stdout);
        return 0;
    }
    r->how.end = POPF_END_STOPPED;
    if (make_machine(r))
        return STATUS_ERROR;
    term_init(&r->term);
    int status = run(r);
    term_free(&r->term);
    machine_free(r->machine);
    if (r->killed_by)
        die_by_signal(r->killed_by);
    return status;
}

int run_main(int argc, char **argv)
{
    struct run *r = calloc(1, sizeof(*r));
    struct args all = {0}; /* lives as long as the options, which point into it */
    int status = STATUS_USAGE;
    if (r && !conf_expand(&all, argc, argv) && !opts_parse(&r->opt, (int)all.n, all.v))
        status = run_parsed(r);
    if (r)
        opts_free(&r->opt);
    args_free(&all);
    free(r);
    return status;
}
