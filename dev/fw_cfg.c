#include "dev/fw_cfg.h"

/* Selector keys (docs/specs/fw_cfg.rst). */
enum {
    KEY_SIGNATURE = 0x00,
    KEY_ID = 0x01,
    KEY_RAM_SIZE = 0x03,
    KEY_NB_CPUS = 0x05,
    KEY_MAX_CPUS = 0x0f,
};

void fw_cfg_init(struct fw_cfg *f, u64 ram_size, u16 ncpus)
{
    *f = (struct fw_cfg){.ram_size = ram_size, .ncpus = ncpus};
}

void fw_cfg_reset(struct fw_cfg *f)
{
    f->selector = 0;
    f->offset = 0;
}

/* An item as a little-endian number of up to 8 bytes; beyond it come zeros. */
static u64 item(const struct fw_cfg *f)
{
    switch (f->selector) {
    case KEY_SIGNATURE:
        return 'Q' | 'E' << 8 | 'M' << 16 | (u64)'U' << 24;
    case KEY_ID:
        return 1; /* the traditional interface only */
    case KEY_RAM_SIZE:
        return f->ram_size;
    case KEY_NB_CPUS:
    case KEY_MAX_CPUS:
        return f->ncpus;
    default:
        return 0;
    }
}

static u64 port_read(void *dev, u64 off, unsigned size)
{
    struct fw_cfg *f = dev;
    if (off != 1)
        return f->selector;
    u64 byte = f->offset < 8 ? item(f) >> (8 * f->offset) & 0xff : 0;
    if (f->offset < 8)
        f->offset++;
    return byte;
}

static void port_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct fw_cfg *f = dev;
    if (off != 0)
        return; /* writing items went away with QEMU 2.4 */
    f->selector = size == 1 ? (f->selector & 0xff00) | (u8)val : (u16)val;
    f->offset = 0;
}

int fw_cfg_attach(struct fw_cfg *f, struct bus *port)
{
    static const struct bus_ops ops = {.read = port_read, .write = port_write, .max_size = 2};
    return bus_add(port, FW_CFG_PORT, 2, &ops, f, "fw_cfg") < 0 ? -1 : 0;
}

void fw_cfg_state(struct fw_cfg *f, struct state *s)
{
    state_section(s, "fw_cfg", 1);
    state_val(s, f->selector);
    state_val(s, f->offset);
}
