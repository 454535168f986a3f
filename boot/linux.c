#include "boot/linux.h"

/* Fields of the setup header that a loader writes, for a kernel that comes without one. */
static void default_header(u8 *bp)
{
    put16(bp + BP_BOOT_FLAG, LINUX_BOOT_FLAG);
    put32(bp + BP_HEADER, LINUX_MAGIC);
    put16(bp + BP_VERSION, 0x20c);
    bp[BP_LOADFLAGS] = LOADFLAG_LOADED_HIGH;
    put32(bp + BP_KERNEL_ALIGNMENT, 16 * MiB);
    put32(bp + BP_INITRD_ADDR_MAX, 0x7fffffff);
    put32(bp + BP_CMDLINE_SIZE, LINUX_CMDLINE_MAX);
}

static void fill_e820(const struct loader *ld, u8 *bp)
{
    struct layout_map map;
    layout_map(ld->cfg, &map);
    static_assert(LAYOUT_MAP_MAX <= BP_E820_MAX, "the map must fit boot_params");
    bp[BP_E820_ENTRIES] = map.n;
    for (unsigned i = 0; i < map.n; i++) {
        u8 *p = bp + BP_E820_TABLE + 20 * i;
        put64(p, map.range[i].gpa);
        put64(p + 8, map.range[i].size);
        put32(p + 16, map.range[i].type);
    }
}

/*
 * screen_info stays zero but for the memory size: no lines and no columns mean that there is no
 * VGA, and Linux probes for none.
 */
static void fill_memory(const struct loader *ld, u8 *bp)
{
    u64 above_1m = (ld->cfg->ram_low - LAYOUT_HIGH_MEM) / KiB;
    put16(bp + BP_EXT_MEM_K, min_u64(above_1m, 0xffff));
    put32(bp + BP_ALT_MEM_K, above_1m);
    put64(bp + BP_ACPI_RSDP_ADDR, ld->cfg->rsdp);
    fill_e820(ld, bp);
}

static void fill_initrd(const struct loader *ld, u8 *bp)
{
    put32(bp + BP_RAMDISK_IMAGE, ld->initrd_gpa);
    put32(bp + BP_RAMDISK_SIZE, ld->initrd.size);
    put32(bp + BP_EXT_RAMDISK_IMAGE, ld->initrd_gpa >> 32);
    put32(bp + BP_EXT_RAMDISK_SIZE, ld->initrd.size >> 32);
}

void linux_fill_params(const struct loader *ld, const struct linux_kernel *k, gpa_t cmdline, u8 *bp)
{
    memset(bp, 0, BP_SIZE);
    if (k->header)
        memcpy(bp + BP_SETUP_SECTS, k->header + BP_SETUP_SECTS, k->header_end - BP_SETUP_SECTS);
    else
        default_header(bp);
    bp[BP_TYPE_OF_LOADER] = LINUX_LOADER_OTHER;
    bp[BP_LOADFLAGS] &= ~LOADFLAG_KASLR;
    put16(bp + BP_VID_MODE, 0xffff); /* "normal" */
    put32(bp + BP_CMD_LINE_PTR, cmdline);
    fill_memory(ld, bp);
    fill_initrd(ld, bp);
}

int linux_params(struct loader *ld, const struct linux_kernel *k, gpa_t *params, struct err *e)
{
    gpa_t cmdline;
    u8 bp[BP_SIZE];
    if (loader_cmdline(ld, k->cmdline_max, &cmdline, e) ||
        loader_initrd(ld, k->initrd_max, k->above_4g, e))
        return -1;
    linux_fill_params(ld, k, cmdline, bp);
    return loader_put(ld, bp, sizeof(bp), PAGE_SIZE, "boot_params", params, e);
}

int linux_enter64(struct loader *ld, u64 entry, gpa_t params, const char *how, struct err *e)
{
    if (entry_long64(ld, entry, 0x10, 0x18, e)) /* __BOOT_CS, __BOOT_DS */
        return -1;
    ld->st->rsi = params;
    ld->st->how = how;
    return 0;
}

int linux_enter32(struct loader *ld, u32 entry, gpa_t params, const char *how, struct err *e)
{
    if (entry_prot32(ld, entry, 0x10, 0x18, e))
        return -1;
    ld->st->rsi = params; /* EBP, EDI and EBX must be 0 */
    ld->st->how = how;
    return 0;
}
