/*
 * linux.h - Linux's boot_params ("zero page") and the three ways into a Linux kernel.
 * Source: Documentation/arch/x86/boot.rst and zero-page.rst.
 */
#ifndef POPF_BOOT_LINUX_H
#define POPF_BOOT_LINUX_H

#include "boot/loader.h"

/* Offsets in boot_params; those from 0x1f1 on are the same in a bzImage file. */
enum {
    BP_EXT_MEM_K = 0x002,
    BP_ACPI_RSDP_ADDR = 0x070,
    BP_EXT_RAMDISK_IMAGE = 0x0c0,
    BP_EXT_RAMDISK_SIZE = 0x0c4,
    BP_ALT_MEM_K = 0x1e0,
    BP_E820_ENTRIES = 0x1e8,
    BP_SETUP_SECTS = 0x1f1,
    BP_SYSSIZE = 0x1f4,
    BP_VID_MODE = 0x1fa,
    BP_BOOT_FLAG = 0x1fe,
    BP_JUMP = 0x200,
    BP_HEADER = 0x202,
    BP_VERSION = 0x206,
    BP_KERNEL_VERSION = 0x20e,
    BP_TYPE_OF_LOADER = 0x210,
    BP_LOADFLAGS = 0x211,
    BP_CODE32_START = 0x214,
    BP_RAMDISK_IMAGE = 0x218,
    BP_RAMDISK_SIZE = 0x21c,
    BP_HEAP_END_PTR = 0x224,
    BP_CMD_LINE_PTR = 0x228,
    BP_INITRD_ADDR_MAX = 0x22c,
    BP_KERNEL_ALIGNMENT = 0x230,
    BP_RELOCATABLE_KERNEL = 0x234,
    BP_XLOADFLAGS = 0x236,
    BP_CMDLINE_SIZE = 0x238,
    BP_PAYLOAD_OFFSET = 0x248,
    BP_PAYLOAD_LENGTH = 0x24c,
    BP_PREF_ADDRESS = 0x258,
    BP_INIT_SIZE = 0x260,
    BP_HEADER_END = 0x290, /* the header may grow up to here: the EDD area follows */
    BP_E820_TABLE = 0x2d0,
    BP_SIZE = 0x1000,
};

#define BP_E820_MAX 128

#define LINUX_BOOT_FLAG    0xaa55
#define LINUX_MAGIC        0x53726448u /* "HdrS" */
#define LINUX_LOADER_OTHER 0xff        /* type_of_loader: one without a number of its own */

#define LOADFLAG_LOADED_HIGH  0x01
#define LOADFLAG_KASLR        0x02
#define LOADFLAG_CAN_USE_HEAP 0x80
#define XLF_KERNEL_64         0x01
#define XLF_ABOVE_4G          0x02

/* What a kernel says of itself; linux_default for one that has no setup header (vmlinux). */
struct linux_kernel {
    const u8 *header; /* a bzImage's first BP_HEADER_END bytes, or NULL */
    u64 header_end;   /* where the setup header ends in it */
    u64 initrd_max;   /* highest address + 1 */
    u64 cmdline_max;  /* bytes, without the 0 */
    bool above_4g;    /* takes an initrd there */
};

/*
 * Puts command line, initrd and boot_params into memory. The kernel must have been placed before.
 */
int linux_params(struct loader *ld, const struct linux_kernel *k, gpa_t *params, struct err *e);

/* boot_params filled in at `bp` (BP_SIZE bytes) for the command line at `cmdline`. */
void linux_fill_params(const struct loader *ld, const struct linux_kernel *k, gpa_t cmdline,
                       u8 *bp);

/* The state at a kernel's 64- or 32-bit entry. */
int linux_enter64(struct loader *ld, u64 entry, gpa_t params, const char *how, struct err *e);
int linux_enter32(struct loader *ld, u32 entry, gpa_t params, const char *how, struct err *e);

#endif
