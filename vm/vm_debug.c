/*
 * vm_debug.c - the debugger's thread: its socket, and how CPUs stop and go on.
 */
#include "vm/vm.h" /* and with it vm_debug.h */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cpu/cpu_mem.h"

/* --- stopping and going on --- */

void vm_debug_poke(struct popf *vm)
{
    u64 one = 1;
    ssize_t n = vm->debug ? write(vm->debug->wake_fd, &one, sizeof(one)) : 0;
    (void)n; /* a full counter wakes as well */
}

/* Begins the debugger's pause on a CPU's thread. False: there is no debugger. */
static bool begin_pause(struct vm_debug *d, int shut_down)
{
    pthread_mutex_lock(&d->vm->lock);
    bool attached = d->conn_fd >= 0, first = attached && !d->pausing && !d->standing;
    if (first)
        d->pausing = true;
    if (attached && shut_down >= 0)
        d->shut_down = shut_down;
    pthread_mutex_unlock(&d->vm->lock);
    if (first) {
        vm_hold(d->vm);
        vm_debug_poke(d->vm);
    }
    return attached;
}

void vm_debug_hit(struct vcpu *v)
{
    begin_pause(v->vm->debug, -1);
}

bool vm_debug_triple_fault(struct vcpu *v)
{
    struct vm_debug *d = v->vm->debug;
    u64 bit = BIT(v->cpu->id & 63);
    if (!d || !v->cpu->debug || d->told & bit)
        return false;
    return begin_pause(d, (int)v->cpu->id);
}

/* Makes all CPUs stand, whether a pause has been begun or not. */
static void stand(struct vm_debug *d)
{
    struct popf *vm = d->vm;
    popf_pause(vm);
    pthread_mutex_lock(&vm->lock);
    bool extra = d->pausing || d->standing;
    d->pausing = false;
    d->standing = true;
    pthread_mutex_unlock(&vm->lock);
    if (extra)
        popf_resume(vm); /* one pause is enough */
}

static void let_go(struct vm_debug *d)
{
    struct popf *vm = d->vm;
    pthread_mutex_lock(&vm->lock);
    bool was = d->standing;
    d->standing = false;
    pthread_mutex_unlock(&vm->lock);
    if (was)
        popf_resume(vm);
}

static bool same_point(const struct cpu_debug_point *a, const struct cpu_debug_point *b)
{
    return a->la == b->la && a->len == b->len && a->kind == b->kind && a->tag == b->tag;
}

static struct cpu_debug_point *find_point(struct vm_debug *d, const struct cpu_debug_point *p)
{
    for (unsigned i = 0; i < d->set.n; i++)
        if (same_point(&d->set.point[i], p))
            return &d->set.point[i];
    return NULL;
}

static enum gdb_reason reason_of(const struct cpu_debug *c)
{
    return c->why == CPU_DEBUG_STEPPED    ? GDB_STEPPED
           : c->why == CPU_DEBUG_AT_BREAK ? GDB_AT_BREAK
                                          : GDB_AT_WATCH;
}

/* What gdb is told first; the least urgent is a step that is done. */
static struct gdb_stop find_stop(struct vm_debug *d)
{
    struct gdb_stop stop = {.reason = GDB_STOPPED, .thread = d->gdb.last.thread};
    enum cpu_debug_why best = CPU_DEBUG_NONE;
    for (unsigned i = 0; i < d->vm->cfg.cpus; i++) {
        const struct cpu_debug *c = &d->cpu[i];
        if (c->why <= best || atomic_load(&d->vm->vcpu[i].held))
            continue;
        best = c->why;
        stop = (struct gdb_stop){.reason = reason_of(c),
                                 .thread = i,
                                 .point = (enum gdb_point)c->hit.tag,
                                 .addr = c->hit.la};
    }
    return stop;
}

static void report(struct vm_debug *d)
{
    struct popf *vm = d->vm;
    pthread_mutex_lock(&vm->ctl_lock);
    struct gdb_stop stop = find_stop(d);
    pthread_mutex_lock(&vm->lock);
    if (d->shut_down >= 0) {
        stop = (struct gdb_stop){.reason = GDB_SHUT_DOWN, .thread = (unsigned)d->shut_down};
        d->told |= BIT(d->shut_down & 63);
        d->shut_down = -1;
    } else {
        d->cpu[stop.thread].why = CPU_DEBUG_NONE;
    }
    pthread_mutex_unlock(&vm->lock);
    pthread_mutex_unlock(&vm->ctl_lock);
    gdb_stopped(&d->gdb, &stop);
}

/* A watchpoint that another CPU came to at the same time, and gdb still has. */
static bool has_pending(struct vm_debug *d, const struct gdb_resume *r)
{
    for (unsigned i = 0; i < d->vm->cfg.cpus; i++)
        if (r[i].action != GDB_STAY && d->cpu[i].why == CPU_DEBUG_AT_WATCH &&
            find_point(d, &d->cpu[i].hit))
            return true;
    return false;
}

static void flush_all(struct vm_debug *d)
{
    for (unsigned i = 0; i < d->vm->cfg.cpus; i++)
        cpu_tlb_flush(d->vm->vcpu[i].cpu);
    d->flush = false;
}

/* ctl_lock and lock held. */
static void set_going(struct vm_debug *d, unsigned i, const struct gdb_resume *r)
{
    struct vcpu *v = &d->vm->vcpu[i];
    atomic_store(&v->held, r->action == GDB_STAY);
    if (r->action == GDB_CONTINUE)
        cpu_debug_continue(v->cpu);
    else if (r->action == GDB_STEP)
        cpu_debug_start_step(v->cpu, r->lo, r->hi);
    else if (d->cpu[i].why != CPU_DEBUG_AT_WATCH)
        d->cpu[i].why = CPU_DEBUG_NONE; /* it comes to its breakpoint again */
}

static void on_resume(void *arg, const struct gdb_resume *r)
{
    struct vm_debug *d = arg;
    struct popf *vm = d->vm;
    pthread_mutex_lock(&vm->ctl_lock);
    if (has_pending(d, r)) {
        pthread_mutex_unlock(&vm->ctl_lock);
        report(d);
        return;
    }
    /* Marks matter to CPUs that run freely; making them costs these all their decoded code. */
    bool marks = false;
    for (unsigned i = 0; i < vm->cfg.cpus; i++)
        marks = marks || r[i].action == GDB_CONTINUE;
    if ((marks && cpu_debug_mark(&d->set)) || d->flush)
        flush_all(d);
    pthread_mutex_lock(&vm->lock);
    for (unsigned i = 0; i < vm->cfg.cpus; i++)
        set_going(d, i, &r[i]);
    pthread_mutex_unlock(&vm->lock);
    pthread_mutex_unlock(&vm->ctl_lock);
    let_go(d);
}

static void on_interrupt(void *arg)
{
    struct vm_debug *d = arg;
    stand(d);
    report(d);
}

/* --- breakpoints --- */

static struct cpu_debug_point point_of(enum gdb_point type, u64 addr, u64 len)
{
    static const u8 kind[] = {[GDB_SW_BREAK] = CPU_DEBUG_EXEC,
                              [GDB_HW_BREAK] = CPU_DEBUG_EXEC,
                              [GDB_WATCH_WRITE] = CPU_DEBUG_WRITE,
                              [GDB_WATCH_READ] = CPU_DEBUG_READ,
                              [GDB_WATCH_ACCESS] = CPU_DEBUG_ACCESS};
    bool exec = kind[type] == CPU_DEBUG_EXEC;
    return (struct cpu_debug_point){
        .la = addr, .len = exec ? 1 : (u32)len, .kind = kind[type], .tag = (u8)type};
}

static void points_changed(struct vm_debug *d, const struct cpu_debug_point *p)
{
    d->flush = d->flush || p->kind != CPU_DEBUG_EXEC;
    d->set.watches = false;
    for (unsigned i = 0; i < d->set.n; i++)
        d->set.watches = d->set.watches || d->set.point[i].kind != CPU_DEBUG_EXEC;
}

static int on_insert(void *arg, enum gdb_point type, u64 addr, u64 len)
{
    struct vm_debug *d = arg;
    struct cpu_debug_point p = point_of(type, addr, len);
    if (p.kind != CPU_DEBUG_EXEC && (!len || len > 1 * MiB))
        return -1;
    pthread_mutex_lock(&d->vm->ctl_lock);
    bool known = find_point(d, &p), room = d->set.n < CPU_DEBUG_POINTS;
    if (!known && room) {
        d->set.point[d->set.n++] = p;
        points_changed(d, &p);
    }
    pthread_mutex_unlock(&d->vm->ctl_lock);
    return known || room ? 0 : -1;
}

static int on_remove(void *arg, enum gdb_point type, u64 addr, u64 len)
{
    struct vm_debug *d = arg;
    struct cpu_debug_point p = point_of(type, addr, len);
    pthread_mutex_lock(&d->vm->ctl_lock);
    struct cpu_debug_point *have = find_point(d, &p);
    if (have) {
        *have = d->set.point[--d->set.n];
        points_changed(d, &p);
    }
    pthread_mutex_unlock(&d->vm->ctl_lock);
    return have ? 0 : -1;
}

/* --- registers and memory --- */

static int on_get_regs(void *arg, unsigned thread, struct gdb_regs *r)
{
    struct vm_debug *d = arg;
    pthread_mutex_lock(&d->vm->ctl_lock);
    vm_debug_get_regs(&d->vm->vcpu[thread], r);
    pthread_mutex_unlock(&d->vm->ctl_lock);
    return 0;
}

static int on_set_regs(void *arg, unsigned thread, const struct gdb_regs *r)
{
    struct vm_debug *d = arg;
    pthread_mutex_lock(&d->vm->ctl_lock);
    pthread_mutex_lock(&d->vm->dev_lock); /* CR8 is the LAPIC's */
    int rc = vm_debug_set_regs(&d->vm->vcpu[thread], r);
    pthread_mutex_unlock(&d->vm->dev_lock);
    pthread_mutex_unlock(&d->vm->ctl_lock);
    return rc;
}

static size_t on_read(void *arg, unsigned thread, u64 addr, void *buf, size_t n)
{
    struct vm_debug *d = arg;
    pthread_mutex_lock(&d->vm->ctl_lock);
    size_t got = vm_debug_read(&d->vm->vcpu[thread], addr, buf, n);
    pthread_mutex_unlock(&d->vm->ctl_lock);
    return got;
}

static int on_write(void *arg, unsigned thread, u64 addr, const void *buf, size_t n)
{
    struct vm_debug *d = arg;
    pthread_mutex_lock(&d->vm->ctl_lock);
    int rc = vm_debug_write(&d->vm->vcpu[thread], addr, buf, n);
    pthread_mutex_unlock(&d->vm->ctl_lock);
    return rc;
}

static void on_thread_info(void *arg, unsigned thread, char *buf, size_t size)
{
    struct vm_debug *d = arg;
    pthread_mutex_lock(&d->vm->ctl_lock);
    vm_debug_describe(&d->vm->vcpu[thread], buf, size);
    pthread_mutex_unlock(&d->vm->ctl_lock);
}

static void on_monitor(void *arg, unsigned thread, const char *line)
{
    vm_debug_monitor(arg, thread, line);
}

/* --- the connection --- */

static void on_send(void *arg, const void *buf, size_t n)
{
    struct vm_debug *d = arg;
    const char *p = buf;
    while (n) {
        ssize_t sent = send(d->conn_fd, p, n, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0) {
            shutdown(d->conn_fd, SHUT_RDWR); /* the next read finds out */
            return;
        }
        p += sent;
        n -= (size_t)sent;
    }
}

static void on_detach(void *arg)
{
    /* gdb.detached says it: the thread closes once it is back. */
}

static void on_kill(void *arg)
{
    struct vm_debug *d = arg;
    popf_stop(d->vm);
}

static const struct gdb_ops ops = {
    .send = on_send,
    .get_regs = on_get_regs,
    .set_regs = on_set_regs,
    .read = on_read,
    .write = on_write,
    .insert = on_insert,
    .remove = on_remove,
    .resume = on_resume,
    .interrupt = on_interrupt,
    .detach = on_detach,
    .kill = on_kill,
    .thread_info = on_thread_info,
    .monitor = on_monitor,
};

/* Is the kernel's file for 64-bit CPUs? ELF's class, or the flag in a bzImage's header. */
static bool kernel_is_64(const char *path)
{
    u8 head[0x238];
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    bool whole = fd >= 0 && read(fd, head, sizeof(head)) == sizeof(head);
    if (fd >= 0)
        close(fd);
    if (!whole)
        return false;
    if (!memcmp(head, "\177ELF", 4))
        return head[4] == 2;
    return !memcmp(head + 0x202, "HdrS", 4) && head[0x236] & 1;
}

/* gdb knows one architecture for the whole session. */
static enum gdb_arch find_arch(struct vm_debug *d)
{
    struct popf *vm = d->vm;
    if (d->arch >= 0)
        return (enum gdb_arch)d->arch;
    for (unsigned i = 0; i < vm->cfg.cpus; i++) {
        vm->ops->get_state(vm->engine, vm->vcpu[i].cpu);
        if (cpu_long(vm->vcpu[i].cpu))
            return GDB_X86_64;
    }
    return kernel_is_64(vm->cfg.kernel) ? GDB_X86_64 : GDB_I386;
}

/* gdb is there: from now on CPUs look at breakpoints. */
static void attach(struct vm_debug *d, int fd)
{
    struct popf *vm = d->vm;
    pthread_mutex_lock(&vm->lock);
    d->conn_fd = fd;
    pthread_mutex_unlock(&vm->lock);
    stand(d);
    pthread_mutex_lock(&vm->ctl_lock);
    for (unsigned i = 0; i < vm->cfg.cpus; i++) {
        d->cpu[i] = (struct cpu_debug){.set = &d->set};
        vm->vcpu[i].cpu->debug = &d->cpu[i];
    }
    enum gdb_arch arch = find_arch(d);
    enum gdb_vector vector = vm_debug_vector(&vm->vcpu[0]);
    pthread_mutex_unlock(&vm->ctl_lock);
    log_info(&vm->log, "gdb has connected (%s)", gdb_arch_name(arch));
    if (gdb_init(&d->gdb, &ops, d, vm->cfg.cpus, arch, vector))
        d->gdb.detached = true;
}

/* The CPUs forget the debugger and go on. */
static void detach(struct vm_debug *d)
{
    struct popf *vm = d->vm;
    int fd = d->conn_fd;
    stand(d);
    pthread_mutex_lock(&vm->ctl_lock);
    d->set.n = 0;
    d->set.watches = false;
    cpu_debug_mark(&d->set);
    for (unsigned i = 0; i < vm->cfg.cpus; i++) {
        vm->vcpu[i].cpu->debug = NULL;
        atomic_store(&vm->vcpu[i].held, false);
        cpu_update_mode(vm->vcpu[i].cpu);
    }
    flush_all(d);
    d->told = 0;
    pthread_mutex_lock(&vm->lock);
    d->conn_fd = d->shut_down = -1;
    pthread_mutex_unlock(&vm->lock);
    pthread_mutex_unlock(&vm->ctl_lock);
    close(fd);
    gdb_free(&d->gdb);
    log_info(&vm->log, "gdb has gone");
    let_go(d);
}

/* --- the thread --- */

static void read_conn(struct vm_debug *d)
{
    char buf[4096];
    ssize_t n = recv(d->conn_fd, buf, sizeof(buf), MSG_DONTWAIT);
    if (n > 0)
        gdb_input(&d->gdb, buf, (size_t)n);
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        d->gdb.detached = true;
    if (d->gdb.detached)
        detach(d);
}

/* Woken: true if the machine has ended. */
static bool look_round(struct vm_debug *d)
{
    u64 n;
    ssize_t r = read(d->wake_fd, &n, sizeof(n));
    (void)r;
    pthread_mutex_lock(&d->vm->lock);
    bool pausing = d->pausing, over = d->quit || d->vm->life == VM_ENDED;
    pthread_mutex_unlock(&d->vm->lock);
    if (!over && pausing) {
        stand(d);
        report(d);
    }
    return over;
}

static void tell_end(struct vm_debug *d)
{
    const struct popf_outcome *how = &d->vm->how; /* constant once it has ended */
    bool fault = how->end == POPF_END_TRIPLE_FAULT || how->end == POPF_END_ERROR;
    u8 status = how->end == POPF_END_DEBUG_EXIT ? (u8)how->code : 0;
    if (d->conn_fd < 0)
        return;
    gdb_exited(&d->gdb, status, fault ? 11 : how->end == POPF_END_STOPPED ? 9 : 0);
    shutdown(d->conn_fd, SHUT_WR);
}

/* Answers what gdb still asks of a machine that has ended, until it goes or popf does. */
static void finish(struct vm_debug *d)
{
    tell_end(d);
    if (d->path)
        unlink(d->path);
    pthread_mutex_lock(&d->vm->lock);
    d->quit = true;
    pthread_cond_broadcast(&d->vm->changed);
    pthread_mutex_unlock(&d->vm->lock);
}

static void accept_one(struct vm_debug *d)
{
    int fd = accept4(d->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0)
        attach(d, fd);
}

static void *run(void *arg)
{
    struct vm_debug *d = arg;
    for (;;) {
        /* Who comes while somebody is connected waits for him to leave. */
        struct pollfd p[2] = {{.fd = d->wake_fd, .events = POLLIN}, {.events = POLLIN}};
        p[1].fd = d->conn_fd >= 0 ? d->conn_fd : d->listen_fd;
        if (poll(p, 2, -1) < 0 && errno != EINTR)
            break;
        if (p[0].revents && look_round(d))
            break;
        if (p[1].revents && d->conn_fd >= 0)
            read_conn(d);
        else if (p[1].revents)
            accept_one(d);
    }
    finish(d);
    return NULL;
}

bool vm_debug_done(const struct popf *vm)
{
    return !vm->debug || !vm->debug->has_thread || vm->debug->quit;
}

/* --- its life --- */

int vm_debug_init(struct popf *vm, struct err *e)
{
    if (!vm->cfg.gdb)
        return 0;
    struct vm_debug *d = calloc(1, sizeof(*d));
    if (!d)
        return err_set(e, "--gdb: out of memory");
    *d = (struct vm_debug){
        .vm = vm, .arch = -1, .listen_fd = -1, .conn_fd = -1, .wake_fd = -1, .shut_down = -1};
    vm->debug = d;
    d->cpu = calloc(vm->cfg.cpus, sizeof(*d->cpu));
    if (!d->cpu)
        return err_set(e, "--gdb: out of memory");
    d->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (d->wake_fd < 0)
        return err_errno(e, "--gdb: cannot make an event descriptor");
    return vm_debug_listen(d, vm->cfg.gdb, e);
}

int vm_debug_start(struct popf *vm, struct err *e)
{
    struct vm_debug *d = vm->debug;
    if (!d)
        return 0;
    pthread_mutex_lock(&vm->lock);
    d->standing = d->wait;
    vm->pauses += d->wait;
    pthread_mutex_unlock(&vm->lock);
    vm_debug_announce(d);
    errno = pthread_create(&d->thread, NULL, run, d);
    d->has_thread = errno == 0;
    return d->has_thread ? 0 : err_errno(e, "--gdb: cannot start a thread");
}

void vm_debug_free(struct popf *vm)
{
    struct vm_debug *d = vm->debug;
    if (!d)
        return;
    pthread_mutex_lock(&vm->lock);
    d->quit = true;
    if (d->conn_fd >= 0)
        shutdown(d->conn_fd, SHUT_RDWR); /* nor does it wait for gdb to read */
    pthread_mutex_unlock(&vm->lock);
    if (d->has_thread) {
        vm_debug_poke(vm);
        pthread_join(d->thread, NULL);
    }
    if (d->conn_fd >= 0)
        close(d->conn_fd);
    if (d->listen_fd >= 0)
        close(d->listen_fd);
    if (d->wake_fd >= 0)
        close(d->wake_fd);
    if (d->path)
        unlink(d->path);
    for (unsigned i = 0; vm->vcpu && i < vm->cfg.cpus; i++)
        if (vm->vcpu[i].cpu)
            vm->vcpu[i].cpu->debug = NULL;
    gdb_free(&d->gdb);
    free(d->path);
    free(d->cpu);
    free(d);
    vm->debug = NULL;
}
