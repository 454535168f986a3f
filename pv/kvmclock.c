#include "pv/kvmclock.h"

static_assert(sizeof(struct pvclock_time_info) == 32, "KVM's ABI");
static_assert(offsetof(struct pvclock_time_info, tsc_to_system_mul) == 24, "KVM's ABI");
static_assert(sizeof(struct pvclock_wall_clock) == 12, "KVM's ABI");

#define SYSTEM_ENABLED 1ull
#define SYSTEM_ADDR    (~3ull)

void kvmclock_scale(u64 hz, u32 *mul, s8 *shift)
{
    int sh = 0;
    u128 m;

    assert(hz > 0);
    /* Bring the scaled rate into (1, 2] GHz, where mul keeps all of its 32 bits. */
    while (hz > (u128)(2 * NSEC_PER_SEC) << -sh)
        sh--;
    while (sh >= 0 && (u128)hz << sh <= NSEC_PER_SEC)
        sh++;
    m = sh >= 0 ? ((u128)NSEC_PER_SEC << 32) / ((u128)hz << sh)
                : ((u128)NSEC_PER_SEC << (32 - sh)) / hz;
    *mul = m > UINT32_MAX ? UINT32_MAX : (u32)m;
    *shift = (s8)sh;
}

void kvmclock_init(struct kvmclock *k, struct mem *m, u64 tsc_hz, bool stable)
{
    *k = (struct kvmclock){.mem = m, .stable = stable};
    kvmclock_scale(tsc_hz, &k->mul, &k->shift);
}

void kvmclock_reset(struct kvmclock *k)
{
    k->system_msr = 0;
    k->wall_msr = 0;
}

/* An address that is no RAM gets nothing written to it, and does no other harm. */
static void put_version(struct kvmclock *k, gpa_t at, u32 version)
{
    atomic_thread_fence(memory_order_seq_cst);
    mem_write(k->mem, at, &version, sizeof(version));
    atomic_thread_fence(memory_order_seq_cst);
}

void kvmclock_update(struct kvmclock *k, const struct kvmclock_time *t, u8 flags)
{
    gpa_t at = k->system_msr & SYSTEM_ADDR;
    struct pvclock_time_info info = {
        .tsc_timestamp = t->tsc,
        .system_time = t->ns,
        .tsc_to_system_mul = k->mul,
        .tsc_shift = k->shift,
        .flags = flags | (k->stable ? PVCLOCK_TSC_STABLE : 0),
    };

    if (!(k->system_msr & SYSTEM_ENABLED))
        return;
    /* Other vCPUs may be reading: odd, then the record, then even. */
    info.version = k->version + 1;
    k->version += 2;
    put_version(k, at, info.version);
    mem_write(k->mem, at, &info, sizeof(info));
    put_version(k, at, k->version);
}

static void write_wall(struct kvmclock *k, gpa_t at, const struct kvmclock_time *t)
{
    u64 boot = t->wall_ns - t->ns;
    struct pvclock_wall_clock wall = {
        .sec = (u32)(boot / NSEC_PER_SEC),
        .nsec = (u32)(boot % NSEC_PER_SEC),
    };
    u32 version = 0;

    if (mem_read(k->mem, at, &version, sizeof(version)) < 0)
        return;
    wall.version = version | 1;
    put_version(k, at, wall.version);
    mem_write(k->mem, at, &wall, sizeof(wall));
    put_version(k, at, wall.version + 1);
}

int kvmclock_msr_read(const struct kvmclock *k, u32 msr, u64 *val)
{
    switch (msr) {
    case MSR_KVM_WALL_CLOCK:
    case MSR_KVM_WALL_CLOCK_NEW:
        *val = k->wall_msr;
        return 0;
    case MSR_KVM_SYSTEM_TIME:
    case MSR_KVM_SYSTEM_TIME_NEW:
        *val = k->system_msr;
        return 0;
    default:
        return -1;
    }
}

int kvmclock_msr_write(struct kvmclock *k, u32 msr, u64 val, const struct kvmclock_time *t)
{
    switch (msr) {
    case MSR_KVM_WALL_CLOCK:
    case MSR_KVM_WALL_CLOCK_NEW:
        k->wall_msr = val;
        if (val)
            write_wall(k, val, t);
        return 0;
    case MSR_KVM_SYSTEM_TIME:
    case MSR_KVM_SYSTEM_TIME_NEW:
        k->system_msr = val;
        kvmclock_update(k, t, 0);
        return 0;
    default:
        return -1;
    }
}

void kvmclock_state(struct kvmclock *k, struct state *s)
{
    state_section(s, "kvmclock", 1);
    state_val(s, k->system_msr);
    state_val(s, k->wall_msr);
    state_val(s, k->version);
    k->version &= ~1u;
}
