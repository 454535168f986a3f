/*
 * Guest time and the thread that acts on it. The clock is CLOCK_MONOTONIC less the time it was
 * frozen; a timerfd is armed with the earliest deadline of the machine's timers.
 */
#include "vm/vm.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "cpu/cpu_ctl.h"

static u64 guest_now(struct clock *c)
{
    const struct vm_clock *k = container_of(c, struct vm_clock, clock);
    return k->frozen ? k->frozen_at : vm_host_ns() - k->zero;
}

/* Arms the timerfd for the earliest deadline; a frozen clock reaches none. */
static void rearm(struct clock *c)
{
    struct vm_clock *k = container_of(c, struct vm_clock, clock);
    u64 next = clock_next(c);
    struct itimerspec its = {0};
    if (next != CLOCK_NEVER && !k->frozen) {
        u64 at = next > INT64_MAX - k->zero ? INT64_MAX : next + k->zero;
        its.it_value.tv_sec = (time_t)(at / NSEC_PER_SEC);
        its.it_value.tv_nsec = (long)(at % NSEC_PER_SEC);
        if (!at)
            its.it_value.tv_nsec = 1; /* all zeros would disarm it */
    }
    timerfd_settime(k->timerfd, TFD_TIMER_ABSTIME, &its, NULL);
}

int vm_clock_init(struct popf *vm, struct err *e)
{
    vm->clk = (struct vm_clock){
        .clock = {.now = guest_now, .rearm = rearm}, .frozen = true, .frozen_tsc = vm_host_tsc()};
    vm->clk.timerfd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    vm->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (vm->clk.timerfd < 0 || vm->wake_fd < 0)
        return err_errno(e, "cannot make a timer (see ulimit -n)");
    return 0;
}

void vm_clock_free(struct popf *vm)
{
    if (vm->clk.timerfd >= 0)
        close(vm->clk.timerfd);
    if (vm->wake_fd >= 0)
        close(vm->wake_fd);
}

void vm_clock_freeze(struct popf *vm)
{
    struct vm_clock *k = &vm->clk;
    if (k->frozen)
        return;
    k->frozen_at = clock_now(&k->clock);
    k->frozen_tsc = vm_host_tsc();
    k->frozen = true;
    rearm(&k->clock);
}

void vm_clock_thaw(struct popf *vm)
{
    struct vm_clock *k = &vm->clk;
    if (!k->frozen)
        return;
    u64 tsc = vm_host_tsc();
    u64 lost = tsc - k->frozen_tsc;
    for (unsigned i = 0; i < vm->cfg.cpus; i++)
        vm->vcpu[i].cpu->tsc_offset -= lost;
    k->zero = vm_host_ns() - k->frozen_at;
    k->frozen = false;
    k->pair_tsc = tsc;
    k->pair_ns = k->frozen_at;
    for (unsigned i = 0; i < vm->cfg.cpus; i++) {
        struct vcpu *v = &vm->vcpu[i];
        struct kvmclock_time t = vm_clock_pair(v);
        kvmclock_update(&v->kvmclock, &t, 0);
        lapic_tsc_changed(&v->lapic);
    }
    rearm(&k->clock);
}

void vm_clock_zero_tsc(struct popf *vm)
{
    assert(vm->clk.frozen);
    for (unsigned i = 0; i < vm->cfg.cpus; i++)
        vm->vcpu[i].cpu->tsc_offset = -vm->clk.frozen_tsc;
}

struct kvmclock_time vm_clock_pair(struct vcpu *v)
{
    const struct vm_clock *k = &v->vm->clk;
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    u64 wall = (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
    u64 since = clock_now(&v->vm->clk.clock) - k->pair_ns;
    return (struct kvmclock_time){
        .tsc = k->pair_tsc + v->cpu->tsc_offset, .ns = k->pair_ns, .wall_ns = wall - since};
}

u64 vm_clock_tsc_to_ns(struct vcpu *v, u64 tsc)
{
    u64 now = clock_now(&v->vm->clk.clock);
    u64 have = cpu_tsc(v->cpu);
    if (tsc <= have)
        return now;
    u128 ns = ((u128)(tsc - have) * NSEC_PER_SEC + v->vm->tsc_hz - 1) / v->vm->tsc_hz;
    return ns > CLOCK_NEVER - 1 - now ? CLOCK_NEVER : now + (u64)ns;
}

u64 vm_clock_wall(void *arg)
{
    (void)arg;
    return (u64)time(NULL);
}

void vm_clock_poke(struct popf *vm)
{
    u64 one = 1;
    ssize_t n = write(vm->wake_fd, &one, sizeof(one));
    (void)n; /* a full counter wakes as well */
}

static void run_timers(struct popf *vm)
{
    pthread_mutex_lock(&vm->dev_lock);
    if (!vm->clk.frozen) {
        clock_run(&vm->clk.clock);
        rearm(&vm->clk.clock);
    }
    pthread_mutex_unlock(&vm->dev_lock);
}

static void drain(int fd)
{
    u64 n;
    ssize_t r = read(fd, &n, sizeof(n));
    (void)r;
}

void *vm_clock_thread(void *arg)
{
    struct popf *vm = arg;
    int ep = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = vm->clk.timerfd};
    struct epoll_event wake = {.events = EPOLLIN, .data.fd = vm->wake_fd};
    if (ep < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, vm->clk.timerfd, &ev) ||
        epoll_ctl(ep, EPOLL_CTL_ADD, vm->wake_fd, &wake)) {
        vm_end_text(vm, POPF_END_ERROR, "cannot wait for timers: %s", strerror(errno));
        goto out;
    }
    for (;;) {
        struct epoll_event got;
        int n = epoll_wait(ep, &got, 1, -1);
        if (n < 0 && errno != EINTR)
            break;
        if (n <= 0)
            continue;
        drain(got.data.fd);
        pthread_mutex_lock(&vm->lock);
        bool ended = vm->life == VM_ENDED;
        pthread_mutex_unlock(&vm->lock);
        if (ended)
            break;
        if (got.data.fd == vm->clk.timerfd)
            run_timers(vm);
        vm_reset_if_wanted(vm);
    }
out:
    if (ep >= 0)
        close(ep);
    return NULL;
}
