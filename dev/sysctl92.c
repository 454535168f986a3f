#include "dev/sysctl92.h"

#define P92_RESET 0x01
#define P92_A20   0x02
#define RC_CPU    0x04 /* its rise resets; bits 1 and 3 say how hard, which makes no odds here */
#define RC_BITS   0x0e

static void reset(struct sysctl92 *c)
{
    if (c->wires.reset)
        c->wires.reset(c->wires.arg);
}

static u64 read_92(void *dev, u64 off, unsigned size)
{
    struct sysctl92 *c = dev;
    return c->port92;
}

static void write_92(void *dev, u64 off, unsigned size, u64 val)
{
    struct sysctl92 *c = dev;
    bool rise = (val & P92_RESET) && !(c->port92 & P92_RESET);
    c->port92 = val & (P92_RESET | P92_A20);
    if (c->wires.a20)
        c->wires.a20(c->wires.arg, val & P92_A20);
    if (rise)
        reset(c);
}

static u64 read_cf9(void *dev, u64 off, unsigned size)
{
    struct sysctl92 *c = dev;
    return c->rc;
}

static void write_cf9(void *dev, u64 off, unsigned size, u64 val)
{
    struct sysctl92 *c = dev;
    bool rise = (val & RC_CPU) && !(c->rc & RC_CPU);
    c->rc = val & RC_BITS;
    if (rise)
        reset(c);
}

static const struct bus_ops p92_ops = {.read = read_92, .write = write_92, .max_size = 1};
static const struct bus_ops cf9_ops = {.read = read_cf9, .write = write_cf9, .max_size = 1};

int sysctl92_attach(struct sysctl92 *c, struct bus *port)
{
    if (bus_add(port, 0x92, 1, &p92_ops, c, "port92") < 0 ||
        bus_add(port, 0xcf9, 1, &cf9_ops, c, "cf9") < 0)
        return -1;
    return 0;
}

/* A20 is open, as firmware leaves it. */
void sysctl92_reset(struct sysctl92 *c)
{
    c->port92 = P92_A20;
    c->rc = 0;
}

void sysctl92_init(struct sysctl92 *c, struct sysctl92_wires wires)
{
    c->wires = wires;
    sysctl92_reset(c);
}

void sysctl92_state(struct sysctl92 *c, struct state *s)
{
    state_section(s, "sysctl92", 1);
    state_val(s, c->port92);
    state_val(s, c->rc);
    if (!s->loading)
        return;
    c->port92 &= P92_RESET | P92_A20;
    c->rc &= RC_BITS;
}
