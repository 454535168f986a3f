#include "boot/bios.h"
#include "boot/loader.h"

static const char *const entry_names[] = {
    /* ORDER BOOT_ENTRY */
    [BOOT_ENTRY_AUTO] = "auto", [BOOT_ENTRY_64] = "64",   [BOOT_ENTRY_32] = "32",
    [BOOT_ENTRY_16] = "16",     [BOOT_ENTRY_PVH] = "pvh",
};
static_assert(ARRAY_SIZE(entry_names) == BOOT_ENTRY_N, "an entry has no name");

int boot_entry_parse(const char *name)
{
    for (int i = 0; i < BOOT_ENTRY_N; i++)
        if (!strcmp(name, entry_names[i]))
            return i;
    return -1;
}

const char *boot_entry_name(enum boot_entry entry)
{
    return (unsigned)entry < BOOT_ENTRY_N ? entry_names[entry] : "?";
}

/* PVH where the file offers it, unless something else was asked for. */
static int load_elf(struct loader *ld, struct err *e)
{
    struct elf elf;
    u32 entry;
    enum boot_entry want = ld->cfg->entry;
    if (elf_parse(&elf, ld->image, ld->image_size, e))
        return -1;
    if (want == BOOT_ENTRY_PVH || (want == BOOT_ENTRY_AUTO && pvh_entry(&elf, &entry)))
        return pvh_load(ld, &elf, e);
    return vmlinux_load(ld, &elf, e);
}

static int read_initrd(struct loader *ld, struct err *e)
{
    const struct boot_src *src = &ld->cfg->initrd;
    if (!src->path && !src->data)
        return 0;
    if (file_load(src, "initrd", mem_ram_size(ld->cfg->mem), &ld->initrd, e)) {
        ld->named = true;
        return -1;
    }
    ld->lay.initrd_size = ld->initrd.size;
    return 0;
}

/* What loads a file like this, and whether it takes the initrd as one piece. */
struct kind {
    int (*load)(struct loader *ld, struct err *e);
    bool initrd;
};

static int refuse(struct loader *ld, struct err *e)
{
    return err_set(e, "%s", kind_of_foreign(ld->image, ld->image_size));
}

static struct kind kind_of(const struct loader *ld)
{
    const u8 *p = ld->image;
    u64 size = ld->image_size;
    if (bzimage_is(p, size))
        return (struct kind){bzimage_load, true};
    if (multiboot_is(p, size) && ld->cfg->entry == BOOT_ENTRY_AUTO)
        return (struct kind){multiboot_load, false};
    if (elf_is(p, size))
        return (struct kind){load_elf, true};
    return (struct kind){refuse, false};
}

static int load(struct loader *ld, struct err *e)
{
    const char *name = ld->cfg->kernel.path;
    struct kind kind = kind_of(ld);
    struct err why;
    if ((kind.initrd && read_initrd(ld, &why)) || kind.load(ld, &why))
        return ld->named ? err_set(e, "%s", why.msg)
                         : err_set(e, "kernel '%.200s': %s", name ? name : "(in memory)", why.msg);
    log_info(ld->cfg->log, "boot: %s, entered at %#llx", ld->st->how,
             (unsigned long long)ld->st->rip);
    return 0;
}

int boot_load(const struct boot_config *cfg, struct boot_state *st, struct err *e)
{
    struct loader ld = {.cfg = cfg, .st = st};
    struct blob kernel;
    *st = (struct boot_state){0};
    if (layout_init(&ld.lay, cfg, e) ||
        file_load(&cfg->kernel, "kernel", BOOT_KERNEL_MAX, &kernel, e))
        return -1;
    struct layout_map map;
    layout_map(cfg, &map);
    bios_install(cfg->mem, &map);
    ld.image = kernel.data;
    ld.image_size = kernel.size;
    ld.image_owned = kernel.owned;
    int r = load(&ld, e);
    blob_free(&ld.initrd);
    blob_free(&kernel);
    return r;
}
