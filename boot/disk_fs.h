/*
 * disk_fs.h - files of a partition: what ext2/3/4 and FAT have in common. Reading only.
 *
 * Paths start at the file system's root, with or without a '/'; symbolic links are followed.
 */
#ifndef POPF_BOOT_DISK_FS_H
#define POPF_BOOT_DISK_FS_H

#include "boot/disk_part.h"
#include "boot/file.h"

#define DISK_PATH_MAX 1024
#define DISK_NAME_MAX 256

struct disk_fs;

/* A name in a folder; returns false to hear no more. */
typedef bool disk_fs_name_fn(void *arg, const char *name);

struct disk_fs_ops {
    const char *type;
    /* 0, or -1: no such file (*missing), or it cannot be read: *e says why. */
    int (*read)(struct disk_fs *fs, const char *path, u64 max, struct blob *out, bool *missing,
                struct err *e);
    bool (*exists)(struct disk_fs *fs, const char *path);
    void (*list)(struct disk_fs *fs, const char *path, disk_fs_name_fn *fn, void *arg);
    void (*close)(struct disk_fs *fs);
};

struct disk_fs {
    const struct disk_fs_ops *ops;
    const struct disk *disk;
    struct disk_part part;
    char uuid[40], label[32];
    void *impl;
};

/*
 * Opens the file system of a partition. NULL if it is none of these (*e: what it is, as far as that
 * can be told) or is too damaged.
 */
struct disk_fs *disk_fs_open(const struct disk *d, const struct disk_part *p, struct err *e);
void disk_fs_close(struct disk_fs *fs);

/* The file's bytes with a 0 behind them. -1 also if there is no such file. */
int disk_fs_read(struct disk_fs *fs, const char *path, u64 max, struct blob *out, struct err *e);
bool disk_fs_exists(struct disk_fs *fs, const char *path);
void disk_fs_list(struct disk_fs *fs, const char *path, disk_fs_name_fn *fn, void *arg);

/* Bytes of the partition: 0 or a negative errno. */
int disk_fs_bytes(const struct disk_fs *fs, u64 off, void *buf, u64 len);

/* disk_ext.c, disk_fat.c: set impl, ops, uuid, label. -1 and *e on failure. */
int disk_ext_open(struct disk_fs *fs, struct err *e);
int disk_fat_open(struct disk_fs *fs, struct err *e);

#endif
