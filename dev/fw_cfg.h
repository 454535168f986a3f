/*
 * fw_cfg.h - QEMU's firmware configuration interface, the part that firmware and test guests read:
 * memory size and number of CPUs (QEMU, docs/specs/fw_cfg.rst). Ports 0x510 (selector, 16 bits) and
 * 0x511 (data, one byte a read). Items that are not there read as zeros. Read-only; no DMA.
 */
#ifndef POPF_FW_CFG_H
#define POPF_FW_CFG_H

#include "base/state.h"
#include "mem/bus.h"

#define FW_CFG_PORT 0x510

struct fw_cfg {
    u64 ram_size; /* bytes */
    u16 ncpus;
    u16 selector;
    u32 offset; /* of the next byte in the selected item */
};

void fw_cfg_init(struct fw_cfg *f, u64 ram_size, u16 ncpus);
void fw_cfg_reset(struct fw_cfg *f);

/* 0, or -1 if the bus is full. */
int fw_cfg_attach(struct fw_cfg *f, struct bus *port);

void fw_cfg_state(struct fw_cfg *f, struct state *s);

#endif
