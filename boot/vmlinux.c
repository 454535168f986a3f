#include "boot/linux.h"

/*
 * Linux's own ELF file has no header that says what it is. Its banner does; without it this is
 * some program or another kernel, which would not survive being entered as Linux.
 */
static bool has_banner(const struct elf *elf)
{
    static const char banner[] = "Linux version ";
    return memmem(elf->data, elf->size, banner, sizeof(banner) - 1) != NULL;
}

static int check(const struct loader *ld, const struct elf *elf, struct err *e)
{
    enum boot_entry want = ld->cfg->entry;
    if (want == BOOT_ENTRY_16)
        return err_set(e, "an ELF file has no real-mode entry; use --entry auto");
    if ((want == BOOT_ENTRY_64) != elf->is64 && want != BOOT_ENTRY_AUTO)
        return err_set(e,
                       "a %s-bit ELF file cannot be entered by the %s-bit protocol; use --entry "
                       "auto",
                       elf->is64 ? "64" : "32", boot_entry_name(want));
    if (want == BOOT_ENTRY_AUTO && !has_banner(elf))
        return err_set(e, "an x86 ELF file, but neither Linux nor one with a PVH note or a "
                          "multiboot header; is it a kernel?");
    return 0;
}

int vmlinux_load(struct loader *ld, const struct elf *elf, struct err *e)
{
    static const struct linux_kernel kernel = {
        .initrd_max = 0x80000000,
        .cmdline_max = LINUX_CMDLINE_MAX,
    };
    gpa_t params;
    u64 entry = elf_entry_phys(elf);
    if (check(ld, elf, e) || elf_load(elf, &ld->lay, e) || linux_params(ld, &kernel, &params, e))
        return -1;
    if (elf->is64)
        return linux_enter64(ld, entry, params, "Linux 64-bit (vmlinux)", e);
    return linux_enter32(ld, entry, params, "Linux 32-bit (vmlinux)", e);
}
