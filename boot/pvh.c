/*
 * PVH: an ELF kernel entered in 32-bit protected mode with EBX naming an hvm_start_info.
 * Source: Xen's docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h.
 */
#include "boot/loader.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define START_INFO_MAGIC         0x336ec578u

struct hvm_start_info {
    u32 magic, version, flags, nr_modules;
    u64 modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
    u32 memmap_entries, reserved;
};
static_assert(sizeof(struct hvm_start_info) == 56, "layout of version 1");

struct hvm_modlist_entry {
    u64 paddr, size, cmdline_paddr, reserved;
};
static_assert(sizeof(struct hvm_modlist_entry) == 32, "layout of version 1");

struct hvm_memmap_entry {
    u64 addr, size;
    u32 type, reserved;
};
static_assert(sizeof(struct hvm_memmap_entry) == 24, "layout of version 1");

bool pvh_entry(const struct elf *elf, u32 *entry)
{
    u32 size;
    const u8 *d = elf_note(elf, "Xen", XEN_ELFNOTE_PHYS32_ENTRY, &size);
    if (!d || size < 4)
        return false;
    *entry = get32(d);
    return true;
}

static int put_memmap(struct loader *ld, struct hvm_start_info *info, struct err *e)
{
    struct layout_map map;
    struct hvm_memmap_entry entry[LAYOUT_MAP_MAX] = {0};
    layout_map(ld->cfg, &map);
    for (unsigned i = 0; i < map.n; i++) {
        const struct boot_range *r = &map.range[i];
        entry[i] = (struct hvm_memmap_entry){.addr = r->gpa, .size = r->size, .type = r->type};
    }
    info->memmap_entries = map.n;
    return loader_put(ld, entry, map.n * sizeof(entry[0]), 16, "the memory map",
                      &info->memmap_paddr, e);
}

static int put_initrd(struct loader *ld, struct hvm_start_info *info, struct err *e)
{
    if (!ld->initrd.size)
        return 0;
    if (loader_initrd(ld, 0x80000000, false, e))
        return -1;
    struct hvm_modlist_entry entry = {.paddr = ld->initrd_gpa, .size = ld->initrd.size};
    info->nr_modules = 1;
    return loader_put(ld, &entry, sizeof(entry), 16, "the module list", &info->modlist_paddr, e);
}

static int put_info(struct loader *ld, gpa_t *gpa, struct err *e)
{
    struct hvm_start_info info = {
        .magic = START_INFO_MAGIC,
        .version = 1,
        .rsdp_paddr = ld->cfg->rsdp,
    };
    if (loader_cmdline(ld, BOOT_CMDLINE_MAX, &info.cmdline_paddr, e) || put_memmap(ld, &info, e) ||
        put_initrd(ld, &info, e))
        return -1;
    return loader_put(ld, &info, sizeof(info), 16, "the PVH start info", gpa, e);
}

int pvh_load(struct loader *ld, const struct elf *elf, struct err *e)
{
    u32 entry;
    gpa_t info;
    if (!pvh_entry(elf, &entry))
        return err_set(e, "it has no PVH entry (note Xen/18); use --entry auto");
    if (elf_load(elf, &ld->lay, e) || put_info(ld, &info, e) ||
        entry_prot32(ld, entry, 0x08, 0x10, e))
        return -1;
    ld->st->rbx = info;
    ld->st->how = "PVH";
    return 0;
}
