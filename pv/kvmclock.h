/*
 * kvmclock.h - the paravirtual clock that KVM's guests know (Linux
 * Documentation/virt/kvm/x86/msr.rst and cpuid.rst): the guest writes an address to an MSR, and
 * finds there how to turn its TSC into nanoseconds of guest time. One struct kvmclock per vCPU.
 *
 * The record is written when the guest sets its MSR and whenever the owner says that the relation
 * of TSC and clock changed (kvmclock_update); with a TSC at a constant rate that is never in
 * between.
 */
#ifndef POPF_KVMCLOCK_H
#define POPF_KVMCLOCK_H

#include "base/base.h"
#include "base/state.h"
#include "mem/mem.h"

#define MSR_KVM_WALL_CLOCK      0x11u
#define MSR_KVM_SYSTEM_TIME     0x12u
#define MSR_KVM_WALL_CLOCK_NEW  0x4b564d00u
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01u

/* Bits of CPUID 0x40000001 EAX that this file makes good. */
#define KVM_FEATURE_CLOCKSOURCE            BIT(0)
#define KVM_FEATURE_CLOCKSOURCE2           BIT(3)
#define KVM_FEATURE_CLOCKSOURCE_STABLE_BIT BIT(24)

/* One moment, read from all three clocks. */
struct kvmclock_time {
    u64 tsc;     /* this vCPU's guest TSC */
    u64 ns;      /* guest clock, ns since the machine began */
    u64 wall_ns; /* ns since 1970 */
};

/* Guest memory, little-endian; the layout is KVM's ABI. */
struct pvclock_time_info {
    u32 version; /* odd while being written */
    u32 pad0;
    u64 tsc_timestamp;
    u64 system_time; /* ns at tsc_timestamp */
    u32 tsc_to_system_mul;
    s8 tsc_shift;
    u8 flags;
    u8 pad[2];
};

struct pvclock_wall_clock {
    u32 version;
    u32 sec; /* the wall time when system_time was 0 */
    u32 nsec;
};

#define PVCLOCK_TSC_STABLE    1 /* every vCPU's record gives the same time */
#define PVCLOCK_GUEST_STOPPED 2 /* the machine was paused: its watchdogs should be patient */

struct kvmclock {
    struct mem *mem;
    u32 mul;
    s8 shift;
    bool stable;
    u64 system_msr; /* address, bit 0: enabled */
    u64 wall_msr;
    u32 version;
};

/* tsc_hz > 0: the guest TSC's rate. stable: all vCPUs' TSCs are one and the same. */
void kvmclock_init(struct kvmclock *k, struct mem *m, u64 tsc_hz, bool stable);

void kvmclock_reset(struct kvmclock *k);

/* ns = ((tsc << shift) * mul) >> 32, a negative shift going right; hz > 0. */
void kvmclock_scale(u64 hz, u32 *mul, s8 *shift);

/* The four MSRs above. Return 0, or -1: not one of these (or not offered), #GP(0). */
int kvmclock_msr_read(const struct kvmclock *k, u32 msr, u64 *val);
int kvmclock_msr_write(struct kvmclock *k, u32 msr, u64 val, const struct kvmclock_time *t);

/* The TSC or the clock was set, or the machine goes on after a pause (flags as above). */
void kvmclock_update(struct kvmclock *k, const struct kvmclock_time *t, u8 flags);

/* After loading, call kvmclock_update(). */
void kvmclock_state(struct kvmclock *k, struct state *s);

#endif
