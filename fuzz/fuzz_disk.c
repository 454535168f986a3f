/*
 * A hostile disk: its partition table, file systems and boot configurations. The first byte says
 * how the rest is used: as the whole disk, as a FAT, or as GRUB's, syslinux's or an entry's text on
 * a file system that is whole.
 */
#include "boot/disk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "boot/disk_conf.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

/* --- disks --- */

struct bytes {
    const u8 *p;
    u64 size;
    unsigned reads;
};

static int read_bytes(void *arg, u64 off, void *buf, u64 len)
{
    struct bytes *b = arg;
    if (off > b->size || len > b->size - off || ++b->reads > 100000)
        return -EIO;
    memcpy(buf, b->p + off, len);
    return 0;
}

/* Padded, so that short inputs come further than to the end of the disk. */
static void try_disk(const u8 *data, size_t size, bool fat)
{
    u8 *p = calloc(1, 128 * KiB);
    struct bytes b = {.p = p, .size = 128 * KiB};
    struct disk d = {.size = b.size, .read = read_bytes, .arg = &b, .name = "fuzz"};
    struct disk_boot boot;
    struct err e = {.msg = ""};
    if (!p)
        return;
    memcpy(p, data, min_u64(size, b.size));
    if (fat)
        memcpy(p + 0x36, "FAT12   ", 8);
    if (disk_boot_find(&d, 1 * MiB, &boot, &e)) {
        if (!e.msg[0])
            abort();
    } else {
        disk_boot_free(&boot);
    }
    free(p);
}

/* --- texts --- */

/* Every path that ends so is the text; everything else is there, too. */
struct text_fs {
    const char *name;
    const u8 *data;
    size_t size;
};

static int text_read(struct disk_fs *fs, const char *path, u64 max, struct blob *out, bool *missing,
                     struct err *e)
{
    const struct text_fs *t = fs->impl;
    size_t n = strlen(path), k = strlen(t->name);
    if (n < k || strcmp(path + n - k, t->name) != 0) {
        *missing = true;
        return -1;
    }
    u8 *p = malloc(t->size + 1);
    if (!p)
        abort();
    memcpy(p, t->data, t->size);
    p[t->size] = 0;
    *out = (struct blob){.data = p, .size = t->size, .owned = p};
    return 0;
}

static bool text_exists(struct disk_fs *fs, const char *path)
{
    return true;
}

static void text_list(struct disk_fs *fs, const char *path, disk_fs_name_fn *fn, void *arg)
{
    if (fn(arg, "one.conf"))
        fn(arg, "vmlinuz-1");
}

static void text_close(struct disk_fs *fs)
{
}

static const struct disk_fs_ops text_ops = {.type = "text",
                                            .read = text_read,
                                            .exists = text_exists,
                                            .list = text_list,
                                            .close = text_close};

static void try_text(const char *name, const u8 *data, size_t size,
                     int (*find)(const struct conf_disk *d, struct disk_fs *fs, struct conf *c,
                                 struct err *e))
{
    struct text_fs t = {.name = name, .data = data, .size = size};
    struct disk_fs fs = {.ops = &text_ops, .impl = &t};
    struct conf_disk all = {.fs = {&fs}, .nfs = 1};
    struct conf *c = calloc(1, sizeof(*c));
    struct err e = {.msg = ""};
    if (!c)
        return;
    int rc = find(&all, &fs, c, &e);
    if (rc < 0 ? !e.msg[0] : rc && !c->kernel.path[0])
        abort();
    free(c);
}

/* The language is made of words: random bytes choose among them. */
static void try_grub(const u8 *data, size_t size)
{
    static const char *const words[] = {
        "if ",        "[ ",      "] ",         "; ",       "\n",         "then ",  "else ",
        "elif ",      "fi ",     "menuentry ", "submenu ", "{ ",         "} ",     "linux ",
        "initrd ",    "set ",    "a=",         "b ",       "$a",         "${b}",   "'",
        "\"",         "\\",      "#",          "search ",  "--fs-uuid ", "--set=", "load_env ",
        "source ",    "/x.cfg ", "default=",   "0>1 ",     "-e ",        "! ",     "= ",
        "-a ",        "while ",  "do ",        "done ",    "function ",  "blscfg", "$?",
        "(hd0,gpt1)",
    };
    size_t cap = size * 12 + 1, n = 0;
    char *text = malloc(cap);
    if (!text)
        return;
    for (size_t i = 0; i < size; i++) {
        const char *w = words[data[i] % ARRAY_SIZE(words)];
        size_t len = strlen(w);
        if (n + len < cap) {
            memcpy(text + n, w, len);
            n += len;
        }
    }
    try_text(".cfg", (const u8 *)text, n, grub_find);
    free(text);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    if (!size)
        return 0;
    const u8 *rest = data + 1;
    size_t n = size - 1;
    switch (data[0] % 6) {
    case 0:
        try_disk(rest, n, false);
        break;
    case 1:
        try_disk(rest, n, true);
        break;
    case 2:
        try_text("grub.cfg", rest, n, grub_find);
        break;
    case 3:
        try_grub(rest, n);
        break;
    case 4:
        try_text(".conf", rest, n, bls_find);
        break;
    default:
        try_text("syslinux.cfg", rest, n, syslinux_find);
        try_text("extlinux.conf", rest, n, syslinux_find);
    }
    return 0;
}
