/*
 * bus.h - an address space of devices: the 64 Ki I/O ports, or the MMIO part of physical memory.
 *
 * A device claims ranges and gives two functions. The bus calls them with an offset into the range
 * and a size of 1, 2, 4 or 8 bytes; no access reaches a device outside its range or across its end.
 * Every call is made under the machine's device lock, so devices need no locks of their own.
 */
#ifndef POPF_BUS_H
#define POPF_BUS_H

#include "base/base.h"

#define BUS_RANGES_MAX 64

struct bus_ops {
    /* Reads `size` bytes at `off`; upper bits of the result are ignored. NULL: reads all ones. */
    u64 (*read)(void *dev, u64 off, unsigned size);
    /* NULL: writes are ignored. */
    void (*write)(void *dev, u64 off, unsigned size, u64 val);
    /* Sizes of access that the device takes; others are split or, if wider than max, cut up. */
    u8 max_size; /* 0 means 8 */
};

struct bus_range {
    u64 base;
    u64 size;
    const struct bus_ops *ops;
    void *dev;
    const char *name; /* for traces */
    bool enabled;
};

struct bus {
    const char *name; /* "port" or "mmio" */
    struct bus_range range[BUS_RANGES_MAX];
    unsigned nranges;
    const struct log *log;
};

/*
 * Claims [base, base+size). Returns the range's handle (for bus_move), or -1 when the table is
 * full. Where ranges overlap the one claimed last wins, as with PCI BARs moved over each other.
 */
int bus_add(struct bus *b, u64 base, u64 size, const struct bus_ops *ops, void *dev,
            const char *name);

/* Moves a range, or takes it off the bus (enabled = false): PCI BARs do both. */
void bus_move(struct bus *b, int handle, u64 base, bool enabled);

/* size is 1, 2, 4 or 8. Where no device answers, reads give all ones and writes go nowhere. */
u64 bus_read(struct bus *b, u64 addr, unsigned size);
void bus_write(struct bus *b, u64 addr, unsigned size, u64 val);

#endif
