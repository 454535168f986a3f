/*
 * Multiboot 1. Source: the Multiboot Specification 0.6.96.
 *
 * Modules are put right after the kernel, as GRUB and QEMU do; what the kernel reads and forgets
 * (info, map, strings) goes to low memory.
 */
#include "boot/loader.h"

#include <stdlib.h>
#include <unistd.h>

#define HEADER_MAGIC  0x1badb002u
#define BOOT_MAGIC    0x2badb002u
#define SEARCH        8192 /* the header is within the first 8 KiB, 4-byte aligned */
#define MODULES_MAX   32
#define FLAGS_UNKNOWN 0xfff8u /* must be understood: bits 3 to 15 */
#define FLAG_VIDEO    BIT(2)
#define FLAG_ADDRESS  BIT(16) /* the "a.out kludge" */

#define INFO_MEMORY  BIT(0)
#define INFO_CMDLINE BIT(2)
#define INFO_MODULES BIT(3)
#define INFO_MMAP    BIT(6)
#define INFO_LOADER  BIT(9)

struct header {
    u64 offset; /* in the file */
    u32 flags;
    u32 header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

struct info {
    u32 flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4];
    u32 mmap_length, mmap_addr, drives_length, drives_addr, config_table, boot_loader_name;
    u32 apm_table, vbe[4];
};
static_assert(sizeof(struct info) == 88, "the specification's layout");

struct module {
    u32 start, end, string, reserved;
};

struct mmap_entry {
    u32 size; /* of what follows */
    u64 addr, len;
    u32 type;
} __attribute__((packed));
static_assert(sizeof(struct mmap_entry) == 24, "the specification's layout");

static bool find_header(const u8 *data, u64 size, struct header *h)
{
    u64 end = min_u64(size, SEARCH);
    for (u64 i = 0; i + 12 <= end; i += 4) {
        const u8 *p = data + i;
        u32 flags = get32(p + 4);
        if (get32(p) != HEADER_MAGIC || HEADER_MAGIC + flags + get32(p + 8) != 0)
            continue;
        if (flags & FLAG_ADDRESS && i + 32 > size) /* cut off */
            continue;
        *h = (struct header){.offset = i, .flags = flags};
        if (flags & FLAG_ADDRESS) {
            h->header_addr = get32(p + 12);
            h->load_addr = get32(p + 16);
            h->load_end_addr = get32(p + 20);
            h->bss_end_addr = get32(p + 24);
            h->entry_addr = get32(p + 28);
        }
        return true;
    }
    return false;
}

bool multiboot_is(const u8 *data, u64 size)
{
    struct header h;
    return find_header(data, size, &h);
}

/* --- the kernel --- */

static int load_flat(struct loader *ld, const struct header *h, gpa_t *end, struct err *e)
{
    u64 before = (u64)h->header_addr - h->load_addr; /* bytes loaded before the header */
    if (h->header_addr < h->load_addr || before > h->offset)
        return err_set(e,
                       "a damaged multiboot header: it is at byte %llu of the file, so it cannot "
                       "be loaded at %#x with the start at %#x",
                       (unsigned long long)h->offset, h->header_addr, h->load_addr);
    u64 from = h->offset - before;
    u64 size = h->load_end_addr ? (u64)h->load_end_addr - h->load_addr : ld->image_size - from;
    if ((h->load_end_addr && h->load_end_addr < h->load_addr) || size > ld->image_size - from)
        return err_set(e,
                       "a truncated multiboot kernel: %llu bytes from %llu on are to be loaded, "
                       "the file has %llu",
                       (unsigned long long)size, (unsigned long long)from,
                       (unsigned long long)ld->image_size);
    *end = max_u64(h->load_addr + size, h->bss_end_addr);
    if (layout_claim(&ld->lay, h->load_addr, *end - h->load_addr, loader_kernel, e) ||
        loader_write(&ld->lay, h->load_addr, ld->image + from, size, e))
        return -1;
    return loader_zero(&ld->lay, h->load_addr + size, *end - h->load_addr - size, e);
}

static int load_elf(struct loader *ld, gpa_t *end, u32 *entry, struct err *e)
{
    struct elf elf;
    gpa_t start;
    if (elf_parse(&elf, ld->image, ld->image_size, e) || elf_load(&elf, &ld->lay, e))
        return -1;
    elf_span(&elf, &start, end);
    u64 at = elf_entry_phys(&elf);
    if (at >> 32)
        return err_set(e, "a multiboot kernel whose entry %#llx is above 4 GiB",
                       (unsigned long long)at);
    *entry = at;
    return 0;
}

static int load_kernel(struct loader *ld, gpa_t *end, u32 *entry, struct err *e)
{
    struct header h = {0};
    find_header(ld->image, ld->image_size, &h);
    if (h.flags & FLAGS_UNKNOWN)
        return err_set(e, "a multiboot kernel that demands features nobody defined (flags %#x)",
                       h.flags);
    if (h.flags & FLAG_VIDEO)
        log_info(ld->cfg->log, "boot: the kernel asks for a video mode; there is no display");
    if (h.flags & FLAG_ADDRESS) {
        *entry = h.entry_addr;
        return load_flat(ld, &h, end, e);
    }
    if (!elf_is(ld->image, ld->image_size))
        return err_set(e, "a multiboot kernel that is neither ELF nor says where to load it");
    return load_elf(ld, end, entry, e);
}

/* --- modules --- */

struct modules {
    struct module mod[MODULES_MAX];
    unsigned n;
    gpa_t next; /* where the next may go */
};

static int add_module(struct loader *ld, struct modules *m, const struct boot_src *src,
                      const char *string, struct err *e)
{
    struct blob blob;
    gpa_t str, low = ld->cfg->ram_low;
    if (m->n == MODULES_MAX)
        return err_set(e, "it can be given %u modules at most", MODULES_MAX);
    if (file_load(src, "initrd", low, &blob, e)) {
        ld->named = true;
        return -1;
    }
    gpa_t at = layout_find_up(&ld->lay, m->next, low, blob.size, PAGE_SIZE);
    int r;
    if (at == LAYOUT_NONE)
        r = err_set(e,
                    "it and its modules do not fit the guest's memory; give it --memory %lluM or "
                    "more",
                    (unsigned long long)(align_up(m->next + blob.size, MiB) / MiB + 1));
    else
        r = layout_claim(&ld->lay, at, blob.size, "a module", e) ||
                    loader_write(&ld->lay, at, blob.data, blob.size, e) ||
                    loader_put(ld, string, strlen(string) + 1, 1, "a module's name", &str, e)
                ? -1
                : 0;
    if (!r) {
        m->mod[m->n++] = (struct module){.start = at, .end = at + blob.size, .string = str};
        m->next = at + blob.size;
    }
    blob_free(&blob);
    return r;
}

/* Ends *s at the next comma, ",," being a comma; returns what follows it, or NULL at the end. */
static char *split(char *s)
{
    char *to = s;
    for (; *s; s++) {
        if (*s == ',' && s[1] != ',')
            break;
        s += *s == ',';
        *to++ = *s;
    }
    char *rest = *s ? s + 1 : NULL;
    *to = 0;
    return rest;
}

/* "file args,file2 args": each module's string is its file name and its arguments. */
static int add_list(struct loader *ld, struct modules *m, char *list, struct err *e)
{
    for (char *item = list, *rest; item; item = rest) {
        rest = split(item);
        char *string = strdup(item);
        if (!string)
            return err_set(e, "no memory for the list of modules");
        item[strcspn(item, " ")] = 0;
        int r = add_module(ld, m, &(struct boot_src){.path = item}, string, e);
        free(string);
        if (r)
            return r;
    }
    return 0;
}

static int add_modules(struct loader *ld, struct modules *m, struct err *e)
{
    const struct boot_src *src = &ld->cfg->initrd;
    if (!src->path && !src->data)
        return 0;
    /* A file that exists by the whole name is one module, whatever its name contains. */
    if (src->data || !access(src->path, F_OK))
        return add_module(ld, m, src, src->path ? src->path : "initrd", e);
    char *list = strdup(src->path);
    if (!list)
        return err_set(e, "no memory for the list of modules");
    int r = add_list(ld, m, list, e);
    free(list);
    return r;
}

/* --- what the kernel is told --- */

/* argv[0] is the kernel's file, as GRUB and QEMU have it. */
static int put_cmdline(struct loader *ld, u32 *gpa, struct err *e)
{
    const char *path = ld->cfg->kernel.path ? ld->cfg->kernel.path : "kernel";
    const char *args = ld->cfg->cmdline ? ld->cfg->cmdline : "";
    u64 npath = strlen(path), nargs = strlen(args);
    gpa_t at;
    if (npath + nargs + 1 > BOOT_CMDLINE_MAX)
        return err_set(e, "it takes a command line of %u bytes; shorten it", BOOT_CMDLINE_MAX);
    if (layout_place(&ld->lay, npath + nargs + 2, 16, "the command line", &at, e) ||
        loader_write(&ld->lay, at, path, npath, e) ||
        loader_write(&ld->lay, at + npath, nargs ? " " : "", 1, e) ||
        loader_write(&ld->lay, at + npath + (nargs ? 1 : 0), args, nargs + 1, e))
        return -1;
    *gpa = at;
    return 0;
}

static int put_memory(struct loader *ld, struct info *info, struct err *e)
{
    struct layout_map map;
    struct mmap_entry entry[LAYOUT_MAP_MAX];
    gpa_t at;
    layout_map(ld->cfg, &map);
    for (unsigned i = 0; i < map.n; i++)
        entry[i] = (struct mmap_entry){
            .size = sizeof(entry[i]) - 4,
            .addr = map.range[i].gpa,
            .len = map.range[i].size,
            .type = map.range[i].type,
        };
    if (loader_put(ld, entry, map.n * sizeof(entry[0]), 16, "the memory map", &at, e))
        return -1;
    info->mmap_addr = at;
    info->mmap_length = map.n * sizeof(entry[0]);
    info->mem_lower = LAYOUT_LOW_END / KiB;
    info->mem_upper = (ld->cfg->ram_low - LAYOUT_HIGH_MEM) / KiB;
    return 0;
}

static int put_info(struct loader *ld, const struct modules *m, gpa_t *gpa, struct err *e)
{
    static const char loader_name[] = "popf";
    struct info info = {
        .flags = INFO_MEMORY | INFO_CMDLINE | INFO_MODULES | INFO_MMAP | INFO_LOADER,
        .mods_count = m->n,
    };
    gpa_t mods = 0, name;
    if (put_cmdline(ld, &info.cmdline, e) || put_memory(ld, &info, e) ||
        (m->n &&
         loader_put(ld, m->mod, m->n * sizeof(m->mod[0]), 16, "the module list", &mods, e)) ||
        loader_put(ld, loader_name, sizeof(loader_name), 1, "the loader's name", &name, e))
        return -1;
    info.mods_addr = mods;
    info.boot_loader_name = name;
    return loader_put(ld, &info, sizeof(info), 16, "the multiboot information", gpa, e);
}

int multiboot_load(struct loader *ld, struct err *e)
{
    struct modules m = {0};
    gpa_t end = 0, info;
    u32 entry = 0;
    ld->lay.top_down = true;
    if (load_kernel(ld, &end, &entry, e))
        return -1;
    m.next = max_u64(align_up(end, PAGE_SIZE), LAYOUT_HIGH_MEM);
    if (add_modules(ld, &m, e) || put_info(ld, &m, &info, e) ||
        entry_prot32(ld, entry, 0x08, 0x10, e))
        return -1;
    ld->st->rax = BOOT_MAGIC;
    ld->st->rbx = info;
    ld->st->how = "multiboot";
    return 0;
}
