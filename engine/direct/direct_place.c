/*
 * direct_place.c - the host CPU that a CPU's thread and its spaces' processes share.
 *
 * They take turns, and a process that wakes another one on its own CPU is a microsecond's work,
 * where to wake an idle CPU takes some tens where the host is a virtual machine itself. So they are
 * held together, as long as they get the processor: if they have to wait for it they are let go for
 * a while, and the host's scheduler spreads what there is.
 */
#include <sched.h>
#include <time.h>

#include "engine/direct/direct_priv.h"

#define LOOK_EVERY 4000000  /* ns of stays */
#define FREE_FOR   20000000 /* ns */

static u64 now(void)
{
    struct timespec t = {0};
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (u64)t.tv_sec * 1000000000ull + (u64)t.tv_nsec;
}

static void send(struct direct *d, struct space *s, int host_cpu)
{
    cpu_set_t one;
    if (s->host_cpu == host_cpu)
        return;
    CPU_ZERO(&one);
    if (host_cpu >= 0)
        CPU_SET(host_cpu, &one);
    if (sched_setaffinity(s->pid, sizeof(one), host_cpu < 0 ? &d->allowed : &one) == 0)
        s->host_cpu = host_cpu;
}

static void hold(struct direct *d)
{
    int cpu = sched_getcpu();
    if (cpu < 0 || cpu >= CPU_SETSIZE || sched_getaffinity(0, sizeof(d->allowed), &d->allowed) ||
        CPU_COUNT(&d->allowed) < 2)
        return;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    if (sched_setaffinity(0, sizeof(one), &one) == 0)
        d->host_cpu = cpu;
}

void direct_scatter(struct direct *d)
{
    if (d->host_cpu >= 0)
        sched_setaffinity(0, sizeof(d->allowed), &d->allowed);
    d->host_cpu = -1;
}

void place_before(struct direct *d, struct space *s)
{
    d->began = now();
    if (d->host_cpu < 0 && d->began >= d->free_until)
        hold(d);
    send(d, s, d->host_cpu);
}

void place_after(struct direct *d, u64 used)
{
    u64 t = now();
    d->wall += t - d->began;
    d->used += used;
    if (d->wall < LOOK_EVERY)
        return;
    if (d->host_cpu >= 0 && d->used < d->wall / 4 * 3) {
        direct_scatter(d);
        d->free_until = t + FREE_FOR;
    }
    d->wall = 0;
    d->used = 0;
}
