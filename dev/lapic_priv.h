/*
 * lapic_priv.h - what the parts of the local APIC share.
 */
#ifndef POPF_LAPIC_PRIV_H
#define POPF_LAPIC_PRIV_H

#include "dev/lapic.h"

/* Register numbers: the xAPIC offset / 16, the x2APIC MSR - 0x800. */
enum {
    R_ID = 0x02,
    R_VERSION = 0x03,
    R_TPR = 0x08,
    R_APR = 0x09,
    R_PPR = 0x0a,
    R_EOI = 0x0b,
    R_RRD = 0x0c,
    R_LDR = 0x0d,
    R_DFR = 0x0e,
    R_SVR = 0x0f,
    R_ISR = 0x10,
    R_TMR = 0x18,
    R_IRR = 0x20,
    R_ESR = 0x28,
    R_ICR = 0x30,
    R_ICR2 = 0x31,
    R_LVT = 0x32, /* timer, thermal, perf, LINT0, LINT1, error: the order of enum LVT_ */
    R_TMICT = 0x38,
    R_TMCCT = 0x39,
    R_TDCR = 0x3e,
    R_SELF_IPI = 0x3f,
    R_N = 0x40,
};

#define SVR_ENABLED      (1u << 8)
#define SVR_SUPPRESS_EOI (1u << 12)

#define ESR_SEND_VECTOR (1u << 5)
#define ESR_RECV_VECTOR (1u << 6)
#define ESR_ILLEGAL_REG (1u << 7)

#define LVT_STATUS     (1u << 12)
#define LVT_REMOTE_IRR (1u << 14)
#define LVT_LEVEL      (1u << 15)
#define LVT_MASKED     (1u << 16)
#define LVT_TIMER_MODE (3u << 17)
#define TIMER_ONE_SHOT (0u << 17)
#define TIMER_PERIODIC (1u << 17)
#define TIMER_DEADLINE (2u << 17)
#define LVT_READ_ONLY  (LVT_STATUS | LVT_REMOTE_IRR)

#define ICR_LOGICAL (1u << 11)
#define ICR_STATUS  (1u << 12)
#define ICR_ASSERT  (1u << 14)
#define ICR_LEVEL   (1u << 15)

static inline bool hw_enabled(const struct lapic *l)
{
    return l->base & APIC_BASE_EN;
}

static inline bool sw_enabled(const struct lapic *l)
{
    return hw_enabled(l) && (l->svr & SVR_ENABLED);
}

static inline bool x2apic_mode(const struct lapic *l)
{
    return l->base & APIC_BASE_EXTD;
}

/* lapic.c: processor priority (SDM vol. 3, 11.8.3.1). */
u8 lapic_ppr(const struct lapic *l);
/* An interrupt message arrives; false if this APIC does not take it. */
bool lapic_accept(struct lapic *l, unsigned mode, u8 vector, bool level);
/* Entry i of the local vector table has its event. */
void lapic_fire_lvt(struct lapic *l, unsigned i);
/* An ESR_x bit. */
void lapic_error(struct lapic *l, u32 bit);

/* lapic_timer.c: the mode, TIMER_x; the current count, and the initial one in ns. */
u32 lapic_timer_mode(const struct lapic *l);
u32 lapic_timer_count(const struct lapic *l);
u64 lapic_timer_period(const struct lapic *l);
void lapic_timer_stop(struct lapic *l);
void lapic_timer_start(struct lapic *l, u32 count);
void lapic_timer_fired(void *lapic);
/* Before the timer's registers change: what is due by the clock counts as fired, whether or not the
 * clock's owner has come to run it. */
void lapic_timer_settle(struct lapic *l);
/* The mode was `old`. To or from TSC-deadline disarms; between one-shot and periodic the count just
 * goes on. */
void lapic_timer_set_mode(struct lapic *l, u32 old);
/* A new divider keeps the current count. */
void lapic_timer_set_divider(struct lapic *l, u32 tdcr);
void lapic_deadline_write(struct lapic *l, u64 tsc);

/* lapic_bus.c: what a write of the ICR sends. */
void lapic_send_ipi(struct lapic *l, u32 icr, u32 dest);

#endif
