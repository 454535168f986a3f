#include "dev/rtc.h"

enum {
    SEC = 0,
    SEC_ALARM = 1,
    MIN = 2,
    MIN_ALARM = 3,
    HOUR = 4,
    HOUR_ALARM = 5,
    WDAY = 6,
    MDAY = 7,
    MONTH = 8,
    YEAR = 9,
    REG_A = 10,
    REG_B = 11,
    REG_C = 12,
    REG_D = 13,
    CENTURY = 0x32,
};

#define A_UIP   0x80
#define A_RESET 0x60 /* both bits: the divider chain is held in reset */
#define B_SET   0x80
#define B_DM    0x04 /* binary, not BCD */
#define B_24    0x02
#define C_IRQF  0x80
#define C_PF    0x40 /* the bits of C and their enables in B are in the same places */
#define C_AF    0x20
#define C_UF    0x10
#define C_ALL   0x70

#define UIP_NS 244000 /* UIP is set this long before the update */
#define DAY    86400

/* --- the calendar --- */

static s64 floor_div(s64 a, s64 b)
{
    return a / b - (a % b < 0);
}

/* Days from 1970-01-01; the year begins in March, so that the leap day is its last. */
static s64 days_of(s64 year, s64 month, s64 mday)
{
    s64 m = month - 3;
    s64 y = year + floor_div(m, 12);
    m -= floor_div(m, 12) * 12;
    s64 leaps = floor_div(y, 4) - floor_div(y, 100) + floor_div(y, 400);
    return 365 * y + leaps + (153 * m + 2) / 5 + mday - 1 - 719468;
}

struct date {
    s64 year;
    u8 month, mday, wday;
};

static struct date date_of(s64 days)
{
    s64 n = days + 719468;
    s64 era = floor_div(n, 146097);
    s64 doe = n - era * 146097;
    s64 yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    s64 doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    s64 m = (5 * doy + 2) / 153;
    s64 wday = (days + 4) % 7;
    return (struct date){.year = yoe + era * 400 + (m >= 10),
                         .month = m < 10 ? m + 3 : m - 9,
                         .mday = doy - (153 * m + 2) / 5 + 1,
                         .wday = (wday < 0 ? wday + 7 : wday) + 1};
}

static u8 encode(const struct rtc *r, unsigned v)
{
    return r->ram[REG_B] & B_DM ? v : (v / 10) << 4 | v % 10;
}

static unsigned decode(const struct rtc *r, u8 v)
{
    return r->ram[REG_B] & B_DM ? v : (v >> 4) * 10 + (v & 15);
}

static u8 encode_hour(const struct rtc *r, unsigned h)
{
    if (r->ram[REG_B] & B_24)
        return encode(r, h);
    return encode(r, h % 12 ? h % 12 : 12) | (h >= 12 ? 0x80 : 0);
}

static unsigned decode_hour(const struct rtc *r, u8 v)
{
    if (r->ram[REG_B] & B_24)
        return decode(r, v);
    return decode(r, v & 0x7f) % 12 + (v & 0x80 ? 12 : 0);
}

static void put_time(struct rtc *r, s64 t)
{
    s64 days = floor_div(t, DAY);
    unsigned sec = t - days * DAY;
    struct date d = date_of(days);
    r->ram[SEC] = encode(r, sec % 60);
    r->ram[MIN] = encode(r, sec / 60 % 60);
    r->ram[HOUR] = encode_hour(r, sec / 3600);
    r->ram[WDAY] = encode(r, d.wday);
    r->ram[MDAY] = encode(r, d.mday);
    r->ram[MONTH] = encode(r, d.month);
    r->ram[YEAR] = encode(r, (u64)d.year % 100);
    r->ram[CENTURY] = encode(r, (u64)d.year / 100 % 100);
}

static s64 get_time(const struct rtc *r)
{
    s64 year = decode(r, r->ram[CENTURY]) * 100 + decode(r, r->ram[YEAR]);
    s64 days = days_of(year, decode(r, r->ram[MONTH]), decode(r, r->ram[MDAY]));
    return days * DAY + decode_hour(r, r->ram[HOUR]) * 3600 + decode(r, r->ram[MIN]) * 60 +
           decode(r, r->ram[SEC]);
}

/* --- the running time --- */

static bool divider_runs(const struct rtc *r)
{
    return (r->ram[REG_A] & A_RESET) != A_RESET;
}

static bool time_runs(const struct rtc *r)
{
    return divider_runs(r) && !(r->ram[REG_B] & B_SET);
}

static u64 phase(const struct rtc *r, u64 now)
{
    return now - (u64)r->base_ns;
}

static s64 seconds_at(const struct rtc *r, u64 now)
{
    return r->base_sec + (s64)(phase(r, now) / NSEC_PER_SEC);
}

/* The clock's time at which second `sec` begins. */
static u64 second_ns(const struct rtc *r, s64 sec)
{
    return (u64)r->base_ns + (u64)(sec - r->base_sec) * NSEC_PER_SEC;
}

static s64 wall_now(const struct rtc *r)
{
    return (s64)r->wall(r->arg);
}

/* Brings the time to the wall clock's, and moves base_ns up so that differences stay small. */
static void follow_wall(struct rtc *r, u64 now)
{
    s64 t = seconds_at(r, now);
    s64 want = wall_now(r) + r->offset;
    r->base_ns += (s64)(phase(r, now) / NSEC_PER_SEC * NSEC_PER_SEC);
    r->base_sec = t - want > 1 || want - t > 1 ? want : t;
}

static void set_time(struct rtc *r, s64 t, u64 now)
{
    r->base_ns += (s64)(phase(r, now) / NSEC_PER_SEC * NSEC_PER_SEC);
    r->base_sec = t;
    r->offset = t - wall_now(r);
}

/* CLKs of 32768 Hz between two periodic interrupts, or 0 for none. */
static u64 period(const struct rtc *r)
{
    unsigned rs = r->ram[REG_A] & 15;
    if (!rs || !divider_runs(r))
        return 0;
    return rs <= 2 ? 64u << rs : 1u << (rs - 1);
}

static u64 periods_at(const struct rtc *r, u64 now)
{
    return muldiv64(phase(r, now), 32768, NSEC_PER_SEC) / period(r);
}

/* --- alarms --- */

static bool alarm_matches(const struct rtc *r, unsigned reg, unsigned v)
{
    u8 a = r->ram[reg];
    if ((a & 0xc0) == 0xc0)
        return true;
    return (reg == HOUR_ALARM ? decode_hour(r, a) : decode(r, a)) == v;
}

/* The first second after t that the alarm registers match: a day is searched, field by field. */
static s64 next_alarm(const struct rtc *r, s64 t)
{
    s64 end = t + DAY + 1;
    s64 midnight = floor_div(t, DAY) * DAY;
    for (s64 at = t + 1; at < end;) {
        unsigned sec = (at - midnight) % DAY;
        if (!alarm_matches(r, HOUR_ALARM, sec / 3600))
            at += 3600 - sec % 3600;
        else if (!alarm_matches(r, MIN_ALARM, sec / 60 % 60))
            at += 60 - sec % 60;
        else if (!alarm_matches(r, SEC_ALARM, sec % 60))
            at++;
        else
            return at;
    }
    return RTC_NO_ALARM;
}

/* --- flags and the interrupt --- */

/* Sets the flags of all that has happened since the last time, whether enabled or not. */
static void catch_up(struct rtc *r, u64 now)
{
    u8 flags = 0;
    if (period(r) && periods_at(r, now) != periods_at(r, r->seen))
        flags |= C_PF;
    if (time_runs(r)) {
        s64 sec = seconds_at(r, now);
        if (sec != seconds_at(r, r->seen))
            flags |= C_UF;
        if (sec >= r->alarm_sec) {
            flags |= C_AF;
            r->alarm_sec = next_alarm(r, sec);
        }
    }
    r->ram[REG_C] |= flags;
    r->seen = now;
    if (time_runs(r)) {
        s64 was = seconds_at(r, now);
        follow_wall(r, now);
        if (r->base_sec != was)
            r->alarm_sec = next_alarm(r, r->base_sec);
    }
}

static u64 next_event(const struct rtc *r)
{
    u8 enabled = r->ram[REG_B];
    u64 at = CLOCK_NEVER;
    if ((enabled & C_PF) && period(r)) {
        u64 tick = (periods_at(r, r->seen) + 1) * period(r);
        at = (u64)r->base_ns + muldiv64(tick, NSEC_PER_SEC, 32768) + 1;
    }
    if (!time_runs(r))
        return at;
    if (enabled & C_UF)
        at = min_u64(at, second_ns(r, seconds_at(r, r->seen) + 1));
    if ((enabled & C_AF) && r->alarm_sec != RTC_NO_ALARM)
        at = min_u64(at, second_ns(r, r->alarm_sec));
    return at;
}

/* Drives the wire. While it is up nothing more can happen until register C is read. */
static void update(struct rtc *r)
{
    u8 *c = &r->ram[REG_C];
    bool on = *c & r->ram[REG_B] & C_ALL;
    *c = (*c & C_ALL) | (on ? C_IRQF : 0);
    if (!r->muted)
        irq_set(&r->irq, on);
    u64 at = on ? CLOCK_NEVER : next_event(r);
    if (at == CLOCK_NEVER)
        timer_cancel(&r->timer);
    else
        timer_set(&r->timer, at);
}

static void fire(void *arg)
{
    struct rtc *r = arg;
    catch_up(r, clock_now(r->clock));
    update(r);
}

void rtc_mute(struct rtc *r, bool muted)
{
    r->muted = muted;
    if (muted)
        irq_set(&r->irq, 0);
    else
        update(r);
}

/* --- ports --- */

static bool is_time(u8 reg)
{
    return reg == SEC || reg == MIN || reg == HOUR || (reg >= WDAY && reg <= YEAR) ||
           reg == CENTURY;
}

/* A control register changes: the time may stop, or go on from what the registers hold. */
static void write_control(struct rtc *r, u8 reg, u8 val, u64 now)
{
    bool ran = time_runs(r), divided = divider_runs(r);
    if (ran)
        put_time(r, seconds_at(r, now));
    r->ram[reg] = reg == REG_A ? val & ~A_UIP : val;
    if (reg == REG_B && (val & B_SET))
        r->ram[REG_B] &= ~C_UF; /* data sheet: SET clears UIE */
    if (!divided && divider_runs(r)) {
        /* The first update comes half a second after the divider starts. */
        r->base_ns = (s64)(now - NSEC_PER_SEC / 2);
        r->seen = now;
    }
    if (!ran && time_runs(r))
        set_time(r, get_time(r), now);
    else if (ran && time_runs(r))
        put_time(r, seconds_at(r, now)); /* BCD, 12-hour: what the registers hold is converted */
    r->alarm_sec = next_alarm(r, seconds_at(r, now));
}

static void write_time(struct rtc *r, u8 reg, u8 val, u64 now)
{
    if (!time_runs(r)) {
        r->ram[reg] = val;
        return;
    }
    put_time(r, seconds_at(r, now));
    r->ram[reg] = val;
    if (reg != WDAY)
        set_time(r, get_time(r), now);
    r->alarm_sec = next_alarm(r, seconds_at(r, now));
}

static void write_data(struct rtc *r, u8 val)
{
    u64 now = clock_now(r->clock);
    u8 reg = r->index;
    catch_up(r, now);
    if (reg == REG_A || reg == REG_B) {
        write_control(r, reg, val, now);
    } else if (reg == REG_C || reg == REG_D) {
        return;
    } else if (is_time(reg)) {
        write_time(r, reg, val, now);
    } else {
        r->ram[reg] = val;
        if (reg == SEC_ALARM || reg == MIN_ALARM || reg == HOUR_ALARM)
            r->alarm_sec = next_alarm(r, seconds_at(r, now));
    }
    update(r);
}

static u8 read_data(struct rtc *r)
{
    u64 now = clock_now(r->clock);
    u8 reg = r->index;
    catch_up(r, now);
    update(r);
    if (is_time(reg) && time_runs(r))
        put_time(r, seconds_at(r, now));
    u8 val = r->ram[reg];
    if (reg == REG_A && time_runs(r) && phase(r, now) % NSEC_PER_SEC >= NSEC_PER_SEC - UIP_NS)
        val |= A_UIP;
    if (reg == REG_C) {
        r->ram[REG_C] = 0;
        update(r);
    }
    return val;
}

static u64 read_reg(void *dev, u64 off, unsigned size)
{
    return off ? read_data(dev) : 0xff;
}

static void write_reg(void *dev, u64 off, unsigned size, u64 val)
{
    struct rtc *r = dev;
    if (off) {
        write_data(r, val);
    } else {
        r->index = val & 0x7f;
        r->nmi_masked = (val >> 7) & 1;
    }
}

static const struct bus_ops reg_ops = {.read = read_reg, .write = write_reg, .max_size = 1};

int rtc_attach(struct rtc *r, struct bus *port)
{
    return bus_add(port, 0x70, 2, &reg_ops, r, "rtc") < 0 ? -1 : 0;
}

static void put16(u8 *p, u64 v)
{
    v = min_u64(v, 0xffff);
    p[0] = v & 0xff;
    p[1] = v >> 8;
}

void rtc_set_memory(struct rtc *r, u64 below_4g, u64 above_4g)
{
    u64 ext = below_4g > MiB ? below_4g - MiB : 0;
    u64 ext16 = below_4g > 16 * MiB ? below_4g - 16 * MiB : 0;
    u64 high = min_u64(above_4g >> 16, 0xffffff);
    put16(&r->ram[0x15], min_u64(below_4g / KiB, 640));
    put16(&r->ram[0x17], ext / KiB);
    put16(&r->ram[0x30], ext / KiB);
    put16(&r->ram[0x34], ext16 >> 16);
    put16(&r->ram[0x5b], high & 0xffff);
    r->ram[0x5d] = high >> 16;
}

void rtc_reset(struct rtc *r)
{
    catch_up(r, clock_now(r->clock));
    r->ram[REG_B] &= B_SET | B_DM | B_24 | 0x01;
    r->ram[REG_C] = 0;
    r->index = 0;
    r->nmi_masked = 0;
    r->muted = 0;
    update(r);
}

void rtc_init(struct rtc *r, struct clock *clock, u64 (*wall)(void *arg), void *arg, struct irq irq)
{
    *r = (struct rtc){.clock = clock, .wall = wall, .arg = arg, .irq = irq};
    r->ram[REG_A] = 0x26; /* 32768 Hz, 1024 interrupts a second: what a BIOS leaves */
    r->ram[REG_B] = B_24;
    r->ram[REG_D] = 0x80; /* valid RAM and time */
    r->ram[0x14] = 0x02;  /* equipment: an FPU */
    timer_init(&r->timer, clock, fire, r);
    r->seen = clock_now(clock);
    r->base_ns = (s64)r->seen;
    r->base_sec = wall_now(r);
    r->alarm_sec = next_alarm(r, r->base_sec);
    update(r);
}

static bool shows(s64 seconds)
{
    s64 limit = (s64)1 << 40;
    return seconds < limit && seconds > -limit;
}

void rtc_state(struct rtc *r, struct state *s)
{
    state_section(s, "rtc", 1);
    u64 now = clock_now(r->clock);
    if (!s->loading)
        catch_up(r, now);
    u64 age = phase(r, now);
    state_bytes(s, r->ram, sizeof(r->ram));
    state_val(s, r->index);
    state_val(s, r->nmi_masked);
    state_val(s, r->muted);
    state_val(s, r->offset);
    state_val(s, r->base_sec);
    state_val(s, age);
    if (!s->loading)
        return;
    if (r->index > 127 || (r->ram[REG_A] & A_UIP))
        state_fail(s, "rtc: a register is out of range");
    if (s->failed) {
        timer_cancel(&r->timer);
        rtc_init(r, r->clock, r->wall, r->arg, r->irq);
        return;
    }
    /* A time that no register can show gives way to the wall clock's. */
    if (!shows(r->offset) || !shows(r->base_sec)) {
        r->offset = 0;
        r->base_sec = wall_now(r);
    }
    r->base_ns = (s64)(now - age % (1ull << 60));
    r->seen = now;
    r->alarm_sec = next_alarm(r, seconds_at(r, now));
    update(r);
}
