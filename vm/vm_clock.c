/*
 * Guest time and the thread that acts on it, and on devices' descriptors. The clock is
 * CLOCK_MONOTONIC less the time it was frozen; a timerfd is armed with the earliest deadline of the
 * machine's timers.
 */
#include "vm/vm.h"

#include <errno.h>
#include <string.h>
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

static void run_timers(void *arg, u32 events)
{
    struct popf *vm = arg;
    u64 n;
    ssize_t r = read(vm->clk.timerfd, &n, sizeof(n));
    (void)r;
    if (vm->clk.frozen)
        return;
    clock_run(&vm->clk.clock);
    rearm(&vm->clk.clock);
}

int vm_clock_init(struct popf *vm, struct err *e)
{
    struct vm_clock *k = &vm->clk;
    *k = (struct vm_clock){
        .clock = {.now = guest_now, .rearm = rearm}, .frozen = true, .frozen_tsc = vm_host_tsc()};
    k->timerfd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (k->timerfd < 0)
        return err_errno(e, "cannot make a timer (see ulimit -n)");
    if (loop_init(&vm->loop, &vm->dev_lock, e))
        return -1;
    if (loop_add(&vm->loop, &k->timer, k->timerfd, EPOLLIN, run_timers, vm))
        return err_errno(e, "cannot wait for timers");
    return 0;
}

void vm_clock_free(struct popf *vm)
{
    loop_free(&vm->loop);
    if (vm->clk.timerfd >= 0)
        close(vm->clk.timerfd);
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
    loop_wake(&vm->loop);
}

static bool has_ended(struct popf *vm)
{
    pthread_mutex_lock(&vm->lock);
    bool ended = vm->life == VM_ENDED;
    pthread_mutex_unlock(&vm->lock);
    return ended;
}

void *vm_clock_thread(void *arg)
{
    struct popf *vm = arg;
    while (!has_ended(vm)) {
        if (loop_wait(&vm->loop, -1)) {
            vm_end_text(vm, POPF_END_ERROR, "cannot wait for events: %s", strerror(errno));
            break;
        }
        vm_freeze_if_paused(vm);
        vm_reset_if_wanted(vm);
    }
    return NULL;
}
