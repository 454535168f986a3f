/*
 * disk.h - boots from a disk as its own boot loader would: finds the kernel, the initial RAM disk
 * and the command line that the disk's configuration names.
 *
 * Partition tables: GPT, MBR with logical partitions, none. File systems: ext2, ext3, ext4
 * (libext2fs) and FAT. Configurations, in the order they are looked for: GRUB 2 (grub.cfg, with
 * boot loader specification entries where it says blscfg), boot loader specification
 * (systemd-boot), extlinux/syslinux; else the newest kernel in /boot.
 *
 * The disk is a guest's: whatever is on it, the worst is an error.
 */
#ifndef POPF_BOOT_DISK_H
#define POPF_BOOT_DISK_H

#include "base/base.h"

/* Where the bytes are. read() gives all of the range, or a negative errno. */
struct disk {
    u64 size; /* bytes */
    int (*read)(void *arg, u64 off, void *buf, u64 len);
    void *arg;
    const char *name; /* for messages */
};

/* What to boot; data is in host memory. */
struct disk_boot {
    void *kernel, *initrd; /* initrd: several are put together; NULL: none */
    u64 kernel_size, initrd_size;
    char *cmdline;  /* the configuration's, as it is there */
    char from[256]; /* where it was found, for people */
};

/* 0, or -1 and one line that names the disk and says what was found on it. `max` is the most bytes
 * that the kernel or the initrd may have. */
int disk_boot_find(const struct disk *d, u64 max, struct disk_boot *out, struct err *e);
void disk_boot_free(struct disk_boot *b);

/*
 * The command line of a machine without a screen: the disk's, with a serial console unless it has
 * one, and what the user wants besides (NULL: nothing). free() it; NULL: out of memory.
 */
char *disk_boot_cmdline(const struct disk_boot *b, const char *append);

/* Do these first bytes of a file (64 KiB will do) begin a disk image rather than a kernel? */
bool disk_looks_like(const u8 *head, u64 size);

#endif
