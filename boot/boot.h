/*
 * boot.h - loads what is to be run into guest memory and says how the first CPU starts there.
 *
 * Kinds of kernel: Linux bzImage (its payload unpacked here, or by the kernel itself), ELF with the
 * PVH note, Linux vmlinux (ELF), multiboot 1 (ELF and flat). boot_load() tells them apart by
 * content.
 *
 * The first CPU's state is plain data (struct boot_state): whoever owns the vCPU copies it over.
 * Sources: the Linux x86 boot protocol, Xen's PVH start-of-day document, Multiboot 0.6.96.
 */
#ifndef POPF_BOOT_H
#define POPF_BOOT_H

#include "base/base.h"
#include "mem/mem.h"

/* Memory of a PC: RAM from 0 up to the hole, the hole up to 4 GiB, the rest of the RAM after it. */
#define BOOT_HOLE_START (3ull * GiB)
#define BOOT_HOLE_END   (4ull * GiB)

/* Which way in. ORDER BOOT_ENTRY: boot.c has the names. */
enum boot_entry {
    BOOT_ENTRY_AUTO, /* the quickest: bzImage unpacked here; PVH for an ELF file that offers it */
    BOOT_ENTRY_64,   /* Linux 64-bit protocol; a bzImage unpacks itself */
    BOOT_ENTRY_32,   /* Linux 32-bit protocol; a bzImage unpacks itself */
    BOOT_ENTRY_16,   /* a bzImage's real-mode code, which needs a BIOS */
    BOOT_ENTRY_PVH,  /* ELF files, and bzImages whose payload has the note */
    BOOT_ENTRY_N
};

/* A file to read, or its content (then `path` only names it in messages and may be NULL). */
struct boot_src {
    const char *path;
    const void *data;
    u64 size;
};

/* A piece of guest-physical memory; types are e820's. */
#define BOOT_MEM_RAM      1
#define BOOT_MEM_RESERVED 2
#define BOOT_MEM_ACPI     3
#define BOOT_MEM_NVS      4

struct boot_range {
    gpa_t gpa;
    u64 size;
    u32 type;
};

#define BOOT_RESERVED_MAX 16

/* done and total are bytes; total is 0 where unknown. Called at most once a MiB. */
typedef void boot_progress_fn(void *arg, const char *what, u64 done, u64 total);

/* All pointers are borrowed for the duration of boot_load(). */
struct boot_config {
    struct boot_src kernel;
    /* Optional: none if both path and data are NULL. For multiboot kernels `path` may be a list of
     * modules, "file args,file2 args" (",," is a comma). */
    struct boot_src initrd;
    const char *cmdline; /* NULL is "" */
    struct mem *mem;     /* holds all of the RAM told of below; need not be zero */
    u64 ram_low;         /* bytes at 0, up to BOOT_HOLE_START */
    u64 ram_high;        /* bytes at BOOT_HOLE_END */
    gpa_t rsdp;          /* ACPI's RSDP; 0: let the guest search the BIOS area */
    /* What the guest is told beside RAM: these are cut out of it and nothing is put there. The BIOS
     * area [0xe0000, 1 MiB) and the page before 0xa0000 are reserved in any case. */
    const struct boot_range *reserved;
    unsigned nreserved; /* up to BOOT_RESERVED_MAX */
    enum boot_entry entry;
    const struct log *log;      /* may be NULL */
    boot_progress_fn *progress; /* may be NULL */
    void *progress_arg;
};

enum boot_mode {
    BOOT_REAL16, /* real mode */
    BOOT_PROT32, /* protected mode, paging off, flat 32-bit segments */
    BOOT_LONG64, /* 64-bit mode, the low 4 GiB mapped to themselves */
};

/* A segment register with its hidden part. */
struct boot_seg {
    u16 sel;
    u32 attr; /* x86.h's SEG_x */
    u64 base;
    u32 limit; /* in bytes, granularity applied */
};

struct boot_dtable {
    u64 base;
    u16 limit;
};

struct boot_state {
    enum boot_mode mode;
    const char *how; /* "Linux 64-bit", "PVH", ...: static text, for messages */

    u64 rip, rflags;
    u64 rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp; /* r8 to r15 are 0 */
    u64 cr0, cr3, cr4, efer;
    struct boot_seg cs, ds, es, fs, gs, ss, tr, ldtr;
    struct boot_dtable gdt, idt;
};

/*
 * Loads the kernel and what goes with it, and fills *st. 0, or -1 with one line in *e that names
 * the file, what was found and what to do. Guest memory may have been written on failure, too.
 * Host memory used on the way is freed before it returns.
 */
int boot_load(const struct boot_config *cfg, struct boot_state *st, struct err *e);

/* The entry called "auto", "64", "32", "16" or "pvh", or -1. */
int boot_entry_parse(const char *name);
const char *boot_entry_name(enum boot_entry entry);

#endif
