#include "dev/acpi_pm.h"

#define PM1_BITS (ACPI_PM_TMR | ACPI_PM_GBL | ACPI_PM_PWRBTN | ACPI_PM_SLPBTN | ACPI_PM_RTC)

#define CNT_SCI_EN 0x0001
#define CNT_KEPT   0x1c02 /* BM_RLD and SLP_TYP are stored; GBL_RLS and SLP_EN read as 0 */
#define CNT_SLP_EN 0x2000
#define SLP_TYP(c) (((c) >> 10) & 7)

static u64 ticks(const struct acpi_pm *a)
{
    return muldiv64(clock_now(a->clock) - a->zero, ACPI_PM_HZ, NSEC_PER_SEC);
}

/* TMR_STS is set whenever the counter's top bit changes (4.8.3.3). */
static unsigned top_bit(const struct acpi_pm *a)
{
    return a->config.tmr32 ? 31 : 23;
}

static void catch_up(struct acpi_pm *a)
{
    u64 halves = ticks(a) >> top_bit(a);
    if (halves != a->halves)
        a->sts |= ACPI_PM_TMR;
    a->halves = halves;
}

static void update(struct acpi_pm *a)
{
    bool on = a->cnt & CNT_SCI_EN;
    bool event = (a->sts & a->en) || (a->gpe_sts & a->gpe_en);
    irq_set(&a->config.sci, on && event);
    if (on && (a->en & ACPI_PM_TMR) && !(a->sts & ACPI_PM_TMR))
        timer_set(&a->timer,
                  a->zero + 1 + muldiv64((a->halves + 1) << top_bit(a), NSEC_PER_SEC, ACPI_PM_HZ));
    else
        timer_cancel(&a->timer);
}

static void fire(void *arg)
{
    struct acpi_pm *a = arg;
    catch_up(a);
    update(a);
}

void acpi_pm_event(struct acpi_pm *a, u16 bit)
{
    a->sts |= bit & (PM1_BITS | ACPI_PM_WAK);
    update(a);
}

void acpi_pm_gpe(struct acpi_pm *a, unsigned n)
{
    if (n > 15)
        return;
    a->gpe_sts |= 1u << n;
    update(a);
}

static u16 set_byte(u16 reg, unsigned n, u8 val)
{
    return (reg & ~(0xff << (8 * n))) | val << (8 * n);
}

/* Two status bytes, cleared by writing ones, and two enable bytes: PM1a events and GPE0 alike. */
static u8 read_events(u16 sts, u16 en, u64 off)
{
    return (off < 2 ? sts : en) >> (8 * (off & 1));
}

static void write_events(u16 *sts, u16 *en, u64 off, u8 val)
{
    if (off < 2)
        *sts &= ~(val << (8 * off));
    else
        *en = set_byte(*en, off & 1, val);
}

static u64 read_evt(void *dev, u64 off, unsigned size)
{
    struct acpi_pm *a = dev;
    catch_up(a);
    return read_events(a->sts, a->en, off);
}

static void write_evt(void *dev, u64 off, unsigned size, u64 val)
{
    struct acpi_pm *a = dev;
    catch_up(a);
    write_events(&a->sts, &a->en, off, val);
    a->en &= PM1_BITS;
    update(a);
}

static u64 read_gpe(void *dev, u64 off, unsigned size)
{
    struct acpi_pm *a = dev;
    return read_events(a->gpe_sts, a->gpe_en, off);
}

static void write_gpe(void *dev, u64 off, unsigned size, u64 val)
{
    struct acpi_pm *a = dev;
    write_events(&a->gpe_sts, &a->gpe_en, off, val);
    update(a);
}

static u64 read_cnt(void *dev, u64 off, unsigned size)
{
    struct acpi_pm *a = dev;
    return a->cnt >> (8 * off);
}

/* SCI_EN is the firmware's: the guest changes it through SMI_CMD only. */
static void write_cnt(void *dev, u64 off, unsigned size, u64 val)
{
    struct acpi_pm *a = dev;
    u16 cnt = set_byte(a->cnt, off, val);
    a->cnt = (cnt & CNT_KEPT) | (a->cnt & CNT_SCI_EN);
    if (cnt & CNT_SLP_EN && a->config.sleep)
        a->config.sleep(a->config.arg, SLP_TYP(cnt));
}

static u64 read_tmr(void *dev, u64 off, unsigned size)
{
    struct acpi_pm *a = dev;
    u32 val = ticks(a) & (a->config.tmr32 ? 0xffffffff : 0xffffff);
    return val >> (8 * off);
}

static u64 read_smi(void *dev, u64 off, unsigned size)
{
    return 0;
}

static void write_smi(void *dev, u64 off, unsigned size, u64 val)
{
    struct acpi_pm *a = dev;
    if (val == a->config.acpi_enable)
        a->cnt |= CNT_SCI_EN;
    else if (val == a->config.acpi_disable)
        a->cnt &= ~CNT_SCI_EN;
    catch_up(a);
    update(a);
}

static const struct bus_ops evt_ops = {.read = read_evt, .write = write_evt, .max_size = 1};
static const struct bus_ops cnt_ops = {.read = read_cnt, .write = write_cnt, .max_size = 1};
static const struct bus_ops gpe_ops = {.read = read_gpe, .write = write_gpe, .max_size = 1};
static const struct bus_ops smi_ops = {.read = read_smi, .write = write_smi, .max_size = 1};
static const struct bus_ops tmr_ops = {.read = read_tmr, .max_size = 4};

int acpi_pm_attach(struct acpi_pm *a, struct bus *port)
{
    const struct acpi_pm_config *c = &a->config;
    if (bus_add(port, c->evt, 4, &evt_ops, a, "pm1a_evt") < 0 ||
        bus_add(port, c->cnt, 2, &cnt_ops, a, "pm1a_cnt") < 0 ||
        bus_add(port, c->tmr, 4, &tmr_ops, a, "pm_tmr") < 0 ||
        bus_add(port, c->gpe0, 4, &gpe_ops, a, "gpe0") < 0)
        return -1;
    if (c->smi_cmd && bus_add(port, c->smi_cmd, 1, &smi_ops, a, "smi_cmd") < 0)
        return -1;
    return 0;
}

void acpi_pm_reset(struct acpi_pm *a)
{
    a->sts = 0;
    a->en = 0;
    a->cnt = a->config.smi_cmd ? 0 : CNT_SCI_EN;
    a->gpe_sts = 0;
    a->gpe_en = 0;
    a->zero = clock_now(a->clock);
    a->halves = 0;
    update(a);
}

void acpi_pm_init(struct acpi_pm *a, struct clock *clock, const struct acpi_pm_config *config)
{
    *a = (struct acpi_pm){.clock = clock, .config = *config};
    timer_init(&a->timer, clock, fire, a);
    acpi_pm_reset(a);
}

void acpi_pm_state(struct acpi_pm *a, struct state *s)
{
    state_section(s, "acpi_pm", 1);
    if (!s->loading)
        catch_up(a);
    u64 now = clock_now(a->clock);
    u64 age = now - a->zero;
    state_val(s, a->sts);
    state_val(s, a->en);
    state_val(s, a->cnt);
    state_val(s, a->gpe_sts);
    state_val(s, a->gpe_en);
    state_val(s, age);
    if (!s->loading)
        return;
    if ((a->sts & ~(PM1_BITS | ACPI_PM_WAK)) || (a->en & ~PM1_BITS) ||
        (a->cnt & ~(CNT_KEPT | CNT_SCI_EN)))
        state_fail(s, "acpi_pm: a register is out of range");
    if (s->failed) {
        acpi_pm_reset(a);
        return;
    }
    a->zero = now - min_u64(age, 1ull << 62); /* sums with it must not overflow */
    a->halves = ticks(a) >> top_bit(a);
    update(a);
}
