#include "boot/disk.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "boot/disk_conf.h"
#include "boot/loader.h"

/* --- what is on the disk --- */

/* What was seen, for the message when nothing can be booted. */
struct report {
    char text[320];
};

static void note(struct report *r, const char *fmt, ...) PRINTF(2, 3);

static void note(struct report *r, const char *fmt, ...)
{
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    size_t n = strlen(r->text);
    snprintf(r->text + n, sizeof(r->text) - n, "%s%s", n ? "; " : "", text);
}

static void part_name(const struct disk_part *p, char *out, size_t size)
{
    if (p->number)
        snprintf(out, size, "partition %u", p->number);
    else
        snprintf(out, size, "the disk");
}

static void open_all(const struct disk *d, struct conf_disk *all, struct report *r)
{
    struct disk_part *parts = calloc(DISK_PARTS_MAX, sizeof(*parts));
    unsigned n = parts ? disk_parts(d, parts, DISK_PARTS_MAX) : 0;
    for (unsigned i = 0; i < n; i++) {
        char name[32];
        struct err why;
        struct disk_fs *fs = disk_fs_open(d, &parts[i], &why);
        part_name(&parts[i], name, sizeof(name));
        if (fs)
            all->fs[all->nfs++] = fs;
        else
            note(r, "%s: %.100s", name, why.msg);
    }
    if (parts && !n)
        note(r, "its partition table is empty");
    free(parts);
}

/* --- the configuration --- */

static const struct finder {
    const char *name;
    int (*find)(const struct conf_disk *d, struct disk_fs *fs, struct conf *c, struct err *e);
} finders[] = {
    {"GRUB", grub_find},
    {"boot loader specification", bls_find},
    {"syslinux", syslinux_find},
    {"no configuration", newest_find},
};

static bool complete(struct conf *c, struct err *e)
{
    if (disk_fs_exists(c->kernel.fs, c->kernel.path))
        return true;
    err_set(e, "the kernel %.200s is not there", c->kernel.path);
    return false;
}

static bool find_conf(const struct conf_disk *all, struct conf *c, char *from, size_t size,
                      struct report *r)
{
    for (unsigned k = 0; k < ARRAY_SIZE(finders); k++)
        for (unsigned i = 0; i < all->nfs; i++) {
            char name[32];
            struct err why;
            struct disk_fs *fs = all->fs[i];
            int rc = finders[k].find(all, fs, c, &why);
            part_name(&fs->part, name, sizeof(name));
            if (rc > 0 && complete(c, &why)) {
                snprintf(from, size, "%s, %s: \"%s\"", name, finders[k].name, c->title);
                return true;
            }
            if (rc)
                note(r, "%s, %s: %.150s", name, finders[k].name, why.msg);
        }
    return false;
}

/* --- the files --- */

/* Several archives one behind the other are one to Linux, if each begins at a multiple of 4. */
static int load_initrds(const struct conf *c, u64 max, struct disk_boot *out, struct err *e)
{
    for (unsigned i = 0; i < c->ninitrds; i++) {
        struct blob b;
        if (disk_fs_read(c->initrd[i].fs, c->initrd[i].path, max, &b, e))
            return -1;
        u64 at = align_up(out->initrd_size, 4);
        u8 *p = at + b.size <= max ? realloc(out->initrd, at + b.size + 1) : NULL;
        if (!p) {
            blob_free(&b);
            return err_set(e, "no memory for the initial RAM disk %.200s", c->initrd[i].path);
        }
        memset(p + out->initrd_size, 0, at - out->initrd_size);
        memcpy(p + at, b.data, b.size);
        out->initrd = p;
        out->initrd_size = at + b.size;
        blob_free(&b);
    }
    return 0;
}

static int load_files(const struct conf *c, u64 max, struct disk_boot *out, struct err *e)
{
    struct blob kernel;
    if (disk_fs_read(c->kernel.fs, c->kernel.path, max, &kernel, e))
        return -1;
    out->kernel = kernel.owned;
    out->kernel_size = kernel.size;
    if (!kernel.size)
        return err_set(e, "%.200s is empty", c->kernel.path);
    out->cmdline = strdup(c->cmdline);
    if (!out->cmdline)
        return err_set(e, "out of memory");
    return load_initrds(c, max, out, e);
}

int disk_boot_find(const struct disk *d, u64 max, struct disk_boot *out, struct err *e)
{
    struct conf_disk all = {.nfs = 0};
    struct report r = {.text = ""};
    struct err why;
    *out = (struct disk_boot){0};
    struct conf *c = calloc(1, sizeof(*c));
    if (!c)
        return err_set(e, "out of memory");
    open_all(d, &all, &r);
    int rc;
    if (!find_conf(&all, c, out->from, sizeof(out->from), &r))
        rc = err_set(e, "disk '%.100s': nothing on it can be booted (%s)", d->name,
                     r.text[0] ? r.text : "no kernel, no boot configuration");
    else if (load_files(c, max, out, &why))
        rc = err_set(e, "disk '%.100s': %s", d->name, why.msg);
    else
        rc = 0;
    if (rc)
        disk_boot_free(out);
    for (unsigned i = 0; i < all.nfs; i++)
        disk_fs_close(all.fs[i]);
    free(c);
    return rc;
}

void disk_boot_free(struct disk_boot *b)
{
    free(b->kernel);
    free(b->initrd);
    free(b->cmdline);
    *b = (struct disk_boot){0};
}

/* --- the command line --- */

/* The word, also as the beginning of one. */
static bool has_word(const char *line, const char *word)
{
    for (const char *p = line; (p = strstr(p, word)); p++)
        if (p == line || p[-1] == ' ')
            return true;
    return false;
}

char *disk_boot_cmdline(const struct disk_boot *b, const char *append)
{
    append = append ? append : "";
    /* The last console is the one that /dev/console is; the user's word counts most. */
    bool add = !has_word(b->cmdline, "console=ttyS0") && !has_word(append, "console=");
    size_t size = strlen(b->cmdline) + strlen(append) + 32;
    char *line = calloc(1, size);
    if (!line)
        return NULL;
    conf_append(line, size, b->cmdline);
    conf_append(line, size, add ? "console=ttyS0" : "");
    conf_append(line, size, append);
    return line;
}

/* --- which files are disks --- */

bool disk_looks_like(const u8 *p, u64 size)
{
    if (size < 1024 || get32(p + 0x202) == 0x53726448) /* "HdrS": a bzImage has 55 AA, too */
        return false;
    if (!memcmp(p, "QFI\xfb", 4) || !memcmp(p + 512, "EFI PART", 8))
        return true;
    if (size >= 0x43a && get16(p + 0x438) == 0xef53) /* ext2/3/4 without partitions */
        return true;
    return memcmp(p, "\177ELF", 4) != 0 && get16(p + 510) == 0xaa55;
}
