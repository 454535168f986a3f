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

static void move_space(struct direct *d, struct space *s, int host_cpu)
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

static_assert(CPU_SETSIZE == 64 * ARRAY_SIZE(((struct direct_hosts *)0)->held),
              "held[] has a bit for each");

/* True if no other has it. */
static bool take(struct direct *d, int cpu)
{
    u64 bit = BIT(cpu & 63);
    d->took = !(atomic_fetch_or(&d->hosts->held[cpu / 64], bit) & bit);
    return d->took;
}

/* Where the thread is, or the next one that none of the machine's is held to, if there is one. */
static int choose_cpu(struct direct *d)
{
    int here = sched_getcpu();
    if (here < 0 || here >= CPU_SETSIZE || sched_getaffinity(0, sizeof(d->allowed), &d->allowed) ||
        CPU_COUNT(&d->allowed) < 2)
        return -1;
    for (int n = 0; n < CPU_SETSIZE; n++) {
        int cpu = (here + n) % CPU_SETSIZE;
        if (CPU_ISSET(cpu, &d->allowed) && take(d, cpu))
            return cpu;
    }
    return here;
}

void place_free(struct direct *d)
{
    if (d->host_cpu >= 0 && d->took)
        atomic_fetch_and(&d->hosts->held[d->host_cpu / 64], ~BIT(d->host_cpu & 63));
    d->host_cpu = -1;
}

static void hold(struct direct *d)
{
    int cpu = choose_cpu(d);
    cpu_set_t one;
    if (cpu < 0)
        return;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    d->host_cpu = cpu;
    if (sched_setaffinity(0, sizeof(one), &one))
        place_free(d);
}

void direct_scatter(struct direct *d)
{
    if (d->host_cpu < 0)
        return;
    sched_setaffinity(0, sizeof(d->allowed), &d->allowed);
    place_free(d);
}

void place_before(struct direct *d, struct space *s)
{
    d->began = now();
    if (d->host_cpu < 0 && d->began >= d->free_until)
        hold(d);
    move_space(d, s, d->host_cpu);
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
