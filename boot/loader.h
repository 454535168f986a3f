/*
 * loader.h - what the loaders of this folder share. Not for others: they take boot.h.
 */
#ifndef POPF_BOOT_LOADER_H
#define POPF_BOOT_LOADER_H

#include <string.h>

#include "boot/boot.h"
#include "boot/elf.h"
#include "boot/file.h"
#include "boot/layout.h"
#include "x86/x86.h"

#define BOOT_KERNEL_MAX   (1 * GiB) /* of the file, and of what is unpacked from it */
#define BOOT_CMDLINE_MAX  65535     /* bytes without the 0, where the kernel sets no limit */
#define LINUX_CMDLINE_MAX 2047

/* One boot_load(). Messages of what is called with it go on from "kernel 'x': ". */
struct loader {
    const struct boot_config *cfg;
    struct boot_state *st;
    struct layout lay;
    const u8 *image; /* the kernel's file */
    u64 image_size;
    bool image_owned;   /* its memory is ours */
    struct blob initrd; /* empty if there is none */
    gpa_t initrd_gpa;
    bool named; /* the message names the file already, which is not the kernel */
};

/* Owner of the kernel's memory, for layout_claim(). */
extern const char loader_kernel[];

static inline u16 get16(const u8 *p)
{
    u16 v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static inline u32 get32(const u8 *p)
{
    u32 v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static inline u64 get64(const u8 *p)
{
    u64 v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static inline void put16(u8 *p, u16 v)
{
    memcpy(p, &v, sizeof(v));
}

static inline void put32(u8 *p, u32 v)
{
    memcpy(p, &v, sizeof(v));
}

static inline void put64(u8 *p, u64 v)
{
    memcpy(p, &v, sizeof(v));
}

/* Into RAM that was claimed. loader_zero() leaves pages untouched that are zero already. */
int loader_write(struct layout *l, gpa_t gpa, const void *data, u64 size, struct err *e);
int loader_zero(struct layout *l, gpa_t gpa, u64 size, struct err *e);

/* Finds a place in low memory for `size` bytes, and writes them there. */
int loader_put(struct loader *ld, const void *data, u64 size, u64 align, const char *who,
               gpa_t *gpa, struct err *e);

/* Checks the length of the command line against `max` and puts it into low memory. */
int loader_cmdline(struct loader *ld, u64 max, gpa_t *gpa, struct err *e);

/*
 * Puts the initrd, if any, as high as it goes below `max`; above 4 GiB if it fits nowhere else and
 * `above_4g` allows it. Sets ld->initrd_gpa.
 */
int loader_initrd(struct loader *ld, u64 max, bool above_4g, struct err *e);

/* --- entry.c: the first CPU's state; each fills all of *ld->st but for general registers --- */

/* Real mode at seg:ip; the other segments are `data_seg`. */
void entry_real16(struct loader *ld, u16 seg, u16 ip, u16 data_seg, u16 sp);

/* Protected mode, paging off; selectors of the flat code and data segments in a GDT made here. */
int entry_prot32(struct loader *ld, u32 eip, u16 code_sel, u16 data_sel, struct err *e);

/* 64-bit mode with the low 4 GiB mapped by 2 MiB pages. */
int entry_long64(struct loader *ld, u64 rip, u16 code_sel, u16 data_sel, struct err *e);

/* --- the kinds of kernel --- */

bool bzimage_is(const u8 *data, u64 size);
int bzimage_load(struct loader *ld, struct err *e);

/* Linux's ELF file by the 64-bit (or, ELF32, the 32-bit) protocol. */
int vmlinux_load(struct loader *ld, const struct elf *elf, struct err *e);

/* The entry of Xen's note XEN_ELFNOTE_PHYS32_ENTRY; false if there is none. */
bool pvh_entry(const struct elf *elf, u32 *entry);
int pvh_load(struct loader *ld, const struct elf *elf, struct err *e);

bool multiboot_is(const u8 *data, u64 size);
int multiboot_load(struct loader *ld, struct err *e);

/* What a file that is no kernel for us is, and what to do: "is ...; ..." Never NULL. */
const char *kind_of_foreign(const u8 *data, u64 size);

#endif
