/*
 * disk_fat.c - FAT12, FAT16 and FAT32 with long names (Microsoft, "FAT: General Overview of On-Disk
 * Format"), as /boot and the EFI system partition have them.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "boot/disk_fs.h"
#include "boot/loader.h"

#define ENTRY_SIZE  32u
#define ATTR_VOLUME 0x08
#define ATTR_DIR    0x10
#define ATTR_LONG   0x0f
#define DIR_MAX     (2 * MiB) /* a folder may have 65536 entries */

struct fat {
    unsigned bits; /* of a table entry: 12, 16 or 32 */
    u32 cluster_size, nclusters;
    u64 table, table_size, data; /* offsets in the partition; bytes */
    u64 root_at;                 /* FAT12, FAT16: where the root folder lies */
    u32 root_size, root_cluster; /* FAT32: its first cluster */
};

/* A file or folder; cluster 0 with `root` is FAT12's and FAT16's root folder. */
struct node {
    u32 cluster;
    u32 size;
    bool dir, root;
};

/* --- clusters --- */

/* The cluster behind this one; 0 at the end of the chain, and where it is broken. */
static u32 next_cluster(const struct disk_fs *fs, u32 n)
{
    const struct fat *f = fs->impl;
    u8 b[4] = {0};
    u64 at = f->bits == 12 ? n + n / 2 : (u64)n * f->bits / 8;
    unsigned len = f->bits == 32 ? 4 : 2;
    if (at + len > f->table_size || disk_fs_bytes(fs, f->table + at, b, len))
        return 0;
    u32 v = f->bits == 32 ? get32(b) & 0x0fffffff : get16(b);
    if (f->bits == 12)
        v = n & 1 ? v >> 4 : v & 0xfff;
    return v >= 2 && v - 2 < f->nclusters ? v : 0;
}

/* Up to `size` bytes of a chain; how many there were, or -1. */
static s64 read_chain(const struct disk_fs *fs, u32 cluster, u8 *buf, u64 size)
{
    const struct fat *f = fs->impl;
    u64 done = 0;
    while (cluster >= 2 && cluster - 2 < f->nclusters && done < size) {
        u64 n = min_u64(f->cluster_size, size - done);
        if (disk_fs_bytes(fs, f->data + (u64)(cluster - 2) * f->cluster_size, buf + done, n))
            return -1;
        done += n;
        cluster = next_cluster(fs, cluster);
    }
    return (s64)done;
}

/* --- folders --- */

struct entry {
    char name[DISK_NAME_MAX];
    struct node node;
};

static void short_name(const u8 *d, char *out)
{
    unsigned n = 0;
    for (unsigned i = 0; i < 11; i++) {
        if (d[i] == ' ')
            continue;
        if (i >= 8 && n && !memchr(out, '.', n))
            out[n++] = '.';
        out[n++] = (char)tolower(d[i]);
    }
    out[n] = 0;
}

/* One of the entries that hold 13 characters each of the name, the last ones first. */
static void long_piece(const u8 *d, char *name)
{
    static const u8 at[13] = {1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30};
    unsigned start = ((d[0] & 0x1fu) - 1) * 13;
    if (d[0] & 0x40)
        memset(name, 0, DISK_NAME_MAX);
    for (unsigned i = 0; i < 13 && start + i < DISK_NAME_MAX - 1; i++) {
        u16 c = get16(d + at[i]);
        name[start + i] = c == 0xffff ? 0 : c < 128 ? (char)c : '?';
    }
}

/* The next entry at or after *at; false at the end. */
static bool next_entry(const u8 *dir, u64 size, u64 *at, struct entry *e)
{
    char name[DISK_NAME_MAX] = "";
    for (; *at + ENTRY_SIZE <= size && dir[*at]; *at += ENTRY_SIZE) {
        const u8 *d = dir + *at;
        if (d[0] == 0xe5) {
            name[0] = 0;
        } else if ((d[11] & 0x3f) == ATTR_LONG) {
            if (d[0] & 0x1f)
                long_piece(d, name);
        } else if (d[11] & ATTR_VOLUME) {
            name[0] = 0;
        } else {
            if (name[0])
                memcpy(e->name, name, sizeof(e->name));
            else
                short_name(d, e->name);
            e->node = (struct node){.cluster = get16(d + 26) | (u32)get16(d + 20) << 16,
                                    .size = get32(d + 28),
                                    .dir = d[11] & ATTR_DIR};
            *at += ENTRY_SIZE;
            return true;
        }
    }
    return false;
}

/* All of a folder; NULL if it cannot be had. free() it. */
static u8 *read_dir(const struct disk_fs *fs, const struct node *n, u64 *size)
{
    const struct fat *f = fs->impl;
    u8 *buf = malloc(DIR_MAX);
    s64 got = -1;
    if (buf && n->root)
        got = disk_fs_bytes(fs, f->root_at, buf, f->root_size) ? -1 : (s64)f->root_size;
    else if (buf && n->dir)
        got = read_chain(fs, n->cluster, buf, DIR_MAX);
    if (got >= 0) {
        *size = (u64)got;
        return buf;
    }
    free(buf);
    return NULL;
}

static struct node root_node(const struct disk_fs *fs)
{
    const struct fat *f = fs->impl;
    return (struct node){.dir = true, .root = f->bits != 32, .cluster = f->root_cluster};
}

static bool look_up(const struct disk_fs *fs, const struct node *dir, const char *name, size_t len,
                    struct node *out)
{
    u64 size, at = 0;
    struct entry e;
    u8 *buf = read_dir(fs, dir, &size);
    bool found = false;
    while (buf && !found && next_entry(buf, size, &at, &e))
        found = strlen(e.name) == len && !strncasecmp(e.name, name, len);
    free(buf);
    if (found)
        *out = e.node.cluster || !e.node.dir ? e.node : root_node(fs); /* ".." of a top folder */
    return found;
}

static bool find(const struct disk_fs *fs, const char *path, struct node *n)
{
    *n = root_node(fs);
    for (path += strspn(path, "/"); *path; path += strspn(path, "/")) {
        size_t len = strcspn(path, "/");
        if (!look_up(fs, n, path, len, n))
            return false;
        path += len;
    }
    return true;
}

/* --- the file system --- */

static int fat_read(struct disk_fs *fs, const char *path, u64 max, struct blob *out, bool *missing,
                    struct err *e)
{
    struct node n;
    *missing = !find(fs, path, &n);
    if (*missing)
        return -1;
    if (n.dir)
        return err_set(e, "%.200s is not a file", path);
    if (n.size > max)
        return err_set(e, "%.200s has %u MiB, %llu is the most", path, n.size >> 20,
                       (unsigned long long)(max / MiB));
    u8 *buf = malloc((u64)n.size + 1);
    if (!buf)
        return err_set(e, "%.200s: no memory for %u bytes", path, n.size);
    if (read_chain(fs, n.cluster, buf, n.size) != n.size) {
        free(buf);
        return err_set(e, "%.200s: the chain of its clusters is broken", path);
    }
    buf[n.size] = 0;
    *out = (struct blob){.data = buf, .size = n.size, .owned = buf};
    return 0;
}

static bool fat_exists(struct disk_fs *fs, const char *path)
{
    struct node n;
    return find(fs, path, &n);
}

static void fat_list(struct disk_fs *fs, const char *path, disk_fs_name_fn *fn, void *arg)
{
    struct node n;
    struct entry e;
    u64 size, at = 0;
    u8 *buf = find(fs, path, &n) && n.dir ? read_dir(fs, &n, &size) : NULL;
    while (buf && next_entry(buf, size, &at, &e) && fn(arg, e.name))
        ;
    free(buf);
}

static void fat_close(struct disk_fs *fs)
{
    free(fs->impl);
}

static const struct disk_fs_ops ops = {
    .type = "FAT",
    .read = fat_read,
    .exists = fat_exists,
    .list = fat_list,
    .close = fat_close,
};

/* What the boot sector says of places and sizes; false: it makes no sense. */
static bool parse(const u8 *b, u64 size, struct fat *f)
{
    u32 sector = get16(b + 11), per = b[13], reserved = get16(b + 14), nfats = b[16];
    u32 root = get16(b + 17), total = get16(b + 19) ? get16(b + 19) : get32(b + 32);
    u32 fat_size = get16(b + 22) ? get16(b + 22) : get32(b + 36);
    if (sector < 512 || sector > 4096 || sector & (sector - 1) || !per || per & (per - 1) ||
        !nfats || !reserved || !fat_size)
        return false;
    u64 root_at = reserved + (u64)nfats * fat_size;
    u64 data = root_at + (root * ENTRY_SIZE + sector - 1) / sector;
    if (data >= total || (u64)total * sector > size)
        return false;
    u64 n = (total - data) / per;
    f->bits = n < 4085 ? 12 : n < 65525 ? 16 : 32;
    f->nclusters = (u32)n;
    f->cluster_size = sector * per;
    f->table = (u64)reserved * sector;
    f->table_size = (u64)fat_size * sector;
    f->data = data * sector;
    f->root_at = root_at * sector;
    f->root_size = root * ENTRY_SIZE;
    f->root_cluster = get32(b + 44);
    return root || f->bits == 32;
}

int disk_fat_open(struct disk_fs *fs, struct err *e)
{
    u8 b[512];
    struct fat *f = calloc(1, sizeof(*f));
    if (!f)
        return err_set(e, "out of memory");
    if (disk_fs_bytes(fs, 0, b, sizeof(b)) || !parse(b, fs->part.size, f)) {
        free(f);
        return err_set(e, "a damaged FAT file system");
    }
    const u8 *id = b + (f->bits == 32 ? 67 : 39);
    snprintf(fs->uuid, sizeof(fs->uuid), "%04x-%04x", get16(id + 2), get16(id));
    snprintf(fs->label, sizeof(fs->label), "%.11s", (const char *)id + 4);
    for (size_t n = strlen(fs->label); n && fs->label[n - 1] == ' '; n--)
        fs->label[n - 1] = 0;
    fs->impl = f;
    fs->ops = &ops;
    return 0;
}
