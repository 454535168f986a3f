#include "dev/testdev.h"

#include <string.h>

void testdev_init(struct testdev *t, const struct irq line[TESTDEV_LINES])
{
    memset(t, 0, sizeof(*t));
    memcpy(t->line, line, sizeof(t->line));
}

static u64 port_read(void *dev, u64 off, unsigned size)
{
    struct testdev *t = dev;
    u64 v = 0;
    memcpy(&v, t->port + off, size);
    return v;
}

static void port_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct testdev *t = dev;
    memcpy(t->port + off, &val, size);
}

static void line_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct testdev *t = dev;
    if (off < TESTDEV_LINES)
        irq_set(&t->line[off], val & 1);
}

static u64 mmio_read(void *dev, u64 off, unsigned size)
{
    struct testdev *t = dev;
    u64 v = 0;
    memcpy(&v, t->mmio + off, size);
    return v;
}

static void mmio_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct testdev *t = dev;
    memcpy(t->mmio + off, &val, size);
}

int testdev_attach(struct testdev *t, struct bus *port, struct bus *mmio)
{
    static const struct bus_ops storage = {.read = port_read, .write = port_write, .max_size = 4};
    static const struct bus_ops flush = {0};
    /* A wider write sets the line at its address and no other. */
    static const struct bus_ops lines = {.write = line_write};
    static const struct bus_ops memory = {.read = mmio_read, .write = mmio_write};
    if (bus_add(port, 0xe0, 4, &storage, t, "testdev") < 0 ||
        bus_add(port, 0xe4, 4, &flush, t, "testdev flush") < 0 ||
        bus_add(port, 0x2000, TESTDEV_LINES + 8, &lines, t, "testdev lines") < 0 ||
        bus_add(mmio, TESTDEV_MMIO, TESTDEV_MMIO_SIZE, &memory, t, "testdev memory") < 0)
        return -1;
    return 0;
}
