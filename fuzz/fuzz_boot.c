/*
 * All loaders on hostile files, into a small guest. The first byte says which way in is asked for
 * and whether there is an initrd; the rest is the kernel's file.
 */
#include "boot/boot.h"

#include <stdlib.h>

#define RAM_LOW  (24 * MiB)
#define RAM_HIGH (4 * MiB)

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

/* What the machine would do with the state: it must name memory that exists. */
static void check_state(const struct boot_state *st, const struct mem *m)
{
    if (st->mode == BOOT_LONG64 && !mem_range(m, st->cr3, PAGE_SIZE))
        abort();
    if (st->mode != BOOT_REAL16 && !mem_range(m, st->gdt.base, st->gdt.limit + 1))
        abort();
    if (!st->how)
        abort();
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    struct mem m;
    struct err e = {""};
    struct boot_state st;
    if (size < 1)
        return 0;
    if (mem_init(&m, &e) || mem_add_ram(&m, 0, RAM_LOW, false, &e) ||
        mem_add_ram(&m, BOOT_HOLE_END, RAM_HIGH, false, &e))
        abort();
    struct boot_config cfg = {
        .kernel = {.data = data + 1, .size = size - 1},
        .cmdline = "console=ttyS0",
        .mem = &m,
        .ram_low = RAM_LOW,
        .ram_high = RAM_HIGH,
        .entry = (data[0] & 0x7f) % BOOT_ENTRY_N,
    };
    if (data[0] & 0x80)
        cfg.initrd = (struct boot_src){.data = data, .size = size};
    if (boot_load(&cfg, &st, &e)) {
        if (!e.msg[0])
            abort();
    } else {
        check_state(&st, &m);
    }
    mem_free(&m);
    return 0;
}
