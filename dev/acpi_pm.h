/*
 * acpi_pm.h - ACPI fixed hardware: PM1a event and control blocks, PM timer, GPE0, SMI command port.
 *
 * Source: ACPI specification 6.5, 4.8.3 (fixed hardware registers), 4.8.4.1 (GPE blocks).
 * Event block: 4 ports, control block: 2, PM timer: 4, GPE0: 4 (two status, two enable),
 * SMI_CMD: 1.
 */
#ifndef POPF_ACPI_PM_H
#define POPF_ACPI_PM_H

#include "base/clock.h"
#include "base/state.h"
#include "dev/irq.h"
#include "mem/bus.h"

#define ACPI_PM_HZ 3579545ull

/* Bits of PM1_STS and PM1_EN. */
#define ACPI_PM_TMR    0x0001
#define ACPI_PM_GBL    0x0020
#define ACPI_PM_PWRBTN 0x0100
#define ACPI_PM_SLPBTN 0x0200
#define ACPI_PM_RTC    0x0400
#define ACPI_PM_WAK    0x8000

struct acpi_pm_config {
    u16 evt, cnt, tmr, gpe0; /* ports, as the FADT names them */
    u16 smi_cmd;             /* 0: none; the machine is in ACPI mode for ever */
    u8 acpi_enable, acpi_disable;
    bool tmr32; /* FADT flag TMR_VAL_EXT */
    /* SLP_EN was written with this SLP_TYP (0-7); may be NULL. Note it, and act later. */
    void (*sleep)(void *arg, unsigned type);
    void *arg;
    struct irq sci; /* level */
};

struct acpi_pm {
    u16 sts, en;
    u16 cnt;
    u16 gpe_sts, gpe_en;
    u64 halves; /* half periods of the timer up to which TMR_STS is right */
    u64 zero;   /* ns: when the timer was 0 */
    struct acpi_pm_config config;
    struct timer timer;
    struct clock *clock;
};

void acpi_pm_init(struct acpi_pm *a, struct clock *clock, const struct acpi_pm_config *config);
void acpi_pm_reset(struct acpi_pm *a);

/* 0, or -1 if the bus is full. */
int acpi_pm_attach(struct acpi_pm *a, struct bus *port);

/* Sets a bit of PM1_STS: ACPI_PM_PWRBTN for the power button, ACPI_PM_RTC for its alarm, ... */
void acpi_pm_event(struct acpi_pm *a, u16 bit);

static inline void acpi_pm_power_button(struct acpi_pm *a)
{
    acpi_pm_event(a, ACPI_PM_PWRBTN);
}

/* Sets GPE0 status bit n, 0-15. */
void acpi_pm_gpe(struct acpi_pm *a, unsigned n);

void acpi_pm_state(struct acpi_pm *a, struct state *s);

#endif
