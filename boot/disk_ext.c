/*
 * disk_ext.c - ext2, ext3 and ext4 through libext2fs, which reads through an I/O manager of ours.
 * The manager gets its partition by the "name of the device", which is the pointer in text.
 */
#include <errno.h>
#include <et/com_err.h>
#include <ext2fs/ext2fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "boot/disk_fs.h"

/* --- the I/O manager --- */

static const struct struct_io_manager manager;

static errcode_t io_open(const char *name, int flags, io_channel *out)
{
    struct struct_io_channel *io = calloc(1, sizeof(*io));
    void *fs = NULL;
    if (!io)
        return EXT2_ET_NO_MEMORY;
    if (flags & IO_FLAG_RW || sscanf(name, "%p", &fs) != 1) {
        free(io);
        return EXT2_ET_RO_FILSYS;
    }
    *io = (struct struct_io_channel){.magic = EXT2_ET_MAGIC_IO_CHANNEL,
                                     .manager = (io_manager)&manager,
                                     .name = strdup(name),
                                     .block_size = 1024,
                                     .refcount = 1,
                                     .private_data = fs};
    *out = io;
    return 0;
}

static errcode_t io_close(io_channel io)
{
    if (--io->refcount > 0)
        return 0;
    free(io->name);
    free(io);
    return 0;
}

static errcode_t io_set_blksize(io_channel io, int size)
{
    io->block_size = size;
    return 0;
}

/* A negative count is in bytes. */
static errcode_t io_read64(io_channel io, unsigned long long block, int count, void *buf)
{
    const struct disk_fs *fs = io->private_data;
    u64 size = (u64)io->block_size;
    u64 len = count < 0 ? (u64) - (s64)count : (u64)count * size;
    if (block > UINT64_MAX / size || disk_fs_bytes(fs, block * size, buf, len))
        return EXT2_ET_SHORT_READ;
    return 0;
}

static errcode_t io_read(io_channel io, unsigned long block, int count, void *buf)
{
    return io_read64(io, block, count, buf);
}

static errcode_t io_write(io_channel io, unsigned long block, int count, const void *buf)
{
    return EXT2_ET_RO_FILSYS;
}

static errcode_t io_write64(io_channel io, unsigned long long block, int count, const void *buf)
{
    return EXT2_ET_RO_FILSYS;
}

static errcode_t io_flush(io_channel io)
{
    return 0;
}

static const struct struct_io_manager manager = {
    .magic = EXT2_ET_MAGIC_IO_MANAGER,
    .name = "popf disk",
    .open = io_open,
    .close = io_close,
    .set_blksize = io_set_blksize,
    .read_blk = io_read,
    .write_blk = io_write,
    .flush = io_flush,
    .read_blk64 = io_read64,
    .write_blk64 = io_write64,
};

/* --- files --- */

static int fail(struct err *e, const char *what, errcode_t code)
{
    return err_set(e, "%.200s: %s", what, error_message(code));
}

static bool find(struct disk_fs *fs, const char *path, ext2_ino_t *ino)
{
    return !ext2fs_namei_follow(fs->impl, EXT2_ROOT_INO, EXT2_ROOT_INO, path, ino);
}

static int read_open(ext2_file_t f, u64 size, const char *path, struct blob *out, struct err *e)
{
    u8 *buf = malloc(size + 1);
    if (!buf)
        return err_set(e, "%.200s: no memory for %llu bytes", path, (unsigned long long)size);
    for (u64 done = 0; done < size;) {
        unsigned got = 0;
        errcode_t rc =
            ext2fs_file_read(f, buf + done, (unsigned)min_u64(size - done, 1 * MiB), &got);
        if (rc || !got) {
            free(buf);
            return fail(e, path, rc ? rc : EXT2_ET_SHORT_READ);
        }
        done += got;
    }
    buf[size] = 0;
    *out = (struct blob){.data = buf, .size = size, .owned = buf};
    return 0;
}

static int ext_read(struct disk_fs *fs, const char *path, u64 max, struct blob *out, bool *missing,
                    struct err *e)
{
    ext2_ino_t ino;
    struct ext2_inode inode;
    ext2_file_t f;
    *missing = !find(fs, path, &ino);
    if (*missing)
        return -1;
    errcode_t rc = ext2fs_read_inode(fs->impl, ino, &inode);
    if (rc)
        return fail(e, path, rc);
    if (!LINUX_S_ISREG(inode.i_mode))
        return err_set(e, "%.200s is not a file", path);
    u64 size = EXT2_I_SIZE(&inode);
    if (size > max)
        return err_set(e, "%.200s has %llu MiB, %llu is the most", path,
                       (unsigned long long)(size / MiB), (unsigned long long)(max / MiB));
    rc = ext2fs_file_open(fs->impl, ino, 0, &f);
    if (rc)
        return fail(e, path, rc);
    int r = read_open(f, size, path, out, e);
    ext2fs_file_close(f);
    return r;
}

static bool ext_exists(struct disk_fs *fs, const char *path)
{
    ext2_ino_t ino;
    return find(fs, path, &ino);
}

struct listing {
    disk_fs_name_fn *fn;
    void *arg;
};

static int on_entry(struct ext2_dir_entry *d, int offset, int blocksize, char *buf, void *arg)
{
    const struct listing *l = arg;
    char name[DISK_NAME_MAX];
    unsigned len = (unsigned)ext2fs_dirent_name_len(d);
    if (!d->inode || !len || len >= sizeof(name))
        return 0;
    memcpy(name, d->name, len);
    name[len] = 0;
    return l->fn(l->arg, name) ? 0 : DIRENT_ABORT;
}

static void ext_list(struct disk_fs *fs, const char *path, disk_fs_name_fn *fn, void *arg)
{
    struct listing l = {.fn = fn, .arg = arg};
    ext2_ino_t ino;
    if (find(fs, path, &ino) && !ext2fs_check_directory(fs->impl, ino))
        ext2fs_dir_iterate(fs->impl, ino, 0, NULL, on_entry, &l);
}

static void ext_close(struct disk_fs *fs)
{
    ext2_filsys f = fs->impl;
    ext2fs_close_free(&f);
}

static const struct disk_fs_ops ops = {
    .type = "ext",
    .read = ext_read,
    .exists = ext_exists,
    .list = ext_list,
    .close = ext_close,
};

static void uuid_text(const u8 *u, char *out, size_t size)
{
    snprintf(out, size, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
             u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13],
             u[14], u[15]);
}

int disk_ext_open(struct disk_fs *fs, struct err *e)
{
    char name[32];
    ext2_filsys f = NULL;
    snprintf(name, sizeof(name), "%p", (void *)fs);
    initialize_ext2_error_table();
    errcode_t rc = ext2fs_open2(name, NULL, EXT2_FLAG_64BITS | EXT2_FLAG_SOFTSUPP_FEATURES, 0, 0,
                                (io_manager)&manager, &f);
    if (rc)
        return fail(e, "a damaged ext2/3/4 file system", rc);
    fs->impl = f;
    fs->ops = &ops;
    uuid_text(f->super->s_uuid, fs->uuid, sizeof(fs->uuid));
    snprintf(fs->label, sizeof(fs->label), "%.*s", (int)sizeof(f->super->s_volume_name),
             (const char *)f->super->s_volume_name);
    return 0;
}
