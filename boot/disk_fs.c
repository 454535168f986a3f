#include "boot/disk_fs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "boot/loader.h"

/* What a file system looks like from outside. */
struct magic {
    u32 offset;
    u8 len;
    const char *bytes;
    const char *what;
    int (*open)(struct disk_fs *fs, struct err *e); /* NULL: only its name is known */
};

static const struct magic magics[] = {
    {0x438, 2, "\x53\xef", "ext2/3/4", disk_ext_open},
    {0, 4, "XFSB", "XFS", NULL},
    {0x10040, 8, "_BHRfS_M", "Btrfs", NULL},
    {0, 6, "LUKS\xba\xbe", "an encrypted volume (LUKS)", NULL},
    {0x218, 8, "LVM2 001", "an LVM volume", NULL},
    {0xff6, 10, "SWAPSPACE2", "swap space", NULL},
    {3, 8, "NTFS    ", "NTFS", NULL},
    {0, 4, "hsqs", "SquashFS", NULL},
    {0x8001, 5, "CD001", "ISO 9660", NULL},
    {0x52, 5, "FAT32", "FAT", disk_fat_open},
    {0x36, 3, "FAT", "FAT", disk_fat_open},
};

int disk_fs_bytes(const struct disk_fs *fs, u64 off, void *buf, u64 len)
{
    if (off > fs->part.size || len > fs->part.size - off)
        return -EIO;
    return fs->disk->read(fs->disk->arg, fs->part.start + off, buf, len);
}

static bool has_magic(const struct disk_fs *fs, const struct magic *m)
{
    u8 buf[16];
    return !disk_fs_bytes(fs, m->offset, buf, m->len) && !memcmp(buf, m->bytes, m->len);
}

static int open_kind(struct disk_fs *fs, struct err *e)
{
    for (unsigned i = 0; i < ARRAY_SIZE(magics); i++) {
        if (!has_magic(fs, &magics[i]))
            continue;
        if (magics[i].open)
            return magics[i].open(fs, e);
        return err_set(e, "%s, which popf cannot read", magics[i].what);
    }
    return err_set(e, "no file system that popf knows");
}

struct disk_fs *disk_fs_open(const struct disk *d, const struct disk_part *p, struct err *e)
{
    struct disk_fs *fs = calloc(1, sizeof(*fs));
    if (!fs) {
        err_set(e, "out of memory");
        return NULL;
    }
    fs->disk = d;
    fs->part = *p;
    if (!open_kind(fs, e))
        return fs;
    free(fs);
    return NULL;
}

void disk_fs_close(struct disk_fs *fs)
{
    if (!fs)
        return;
    fs->ops->close(fs);
    free(fs);
}

int disk_fs_read(struct disk_fs *fs, const char *path, u64 max, struct blob *out, struct err *e)
{
    bool missing = false;
    *out = (struct blob){0};
    if (!fs->ops->read(fs, path, max, out, &missing, e))
        return 0;
    return missing ? err_set(e, "%.200s is not there", path) : -1;
}

bool disk_fs_exists(struct disk_fs *fs, const char *path)
{
    return fs->ops->exists(fs, path);
}

void disk_fs_list(struct disk_fs *fs, const char *path, disk_fs_name_fn *fn, void *arg)
{
    fs->ops->list(fs, path, fn, arg);
}
