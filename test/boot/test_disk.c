/*
 * Disks to boot from: partition tables made here, ext file systems made by mke2fs (without it those
 * tests are skipped), a FAT made here, and every kind of boot configuration.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>

#include "boot/disk.h"

#define UUID_A "11111111-2222-3333-4444-555555555555"
#define UUID_B "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"

struct file {
    const char *path, *text; /* text NULL: a folder; "->x": a symbolic link to x */
};

struct image {
    u8 *p;
    u64 size;
    u64 reads;
};

/* --- a disk in memory --- */

static int read_image(void *arg, u64 off, void *buf, u64 len)
{
    struct image *im = arg;
    im->reads++;
    if (off > im->size || len > im->size - off)
        return -EIO;
    memcpy(buf, im->p + off, len);
    return 0;
}

static int find(struct image *im, struct disk_boot *b, struct err *e)
{
    struct disk d = {.size = im->size, .read = read_image, .arg = im, .name = "test.img"};
    return disk_boot_find(&d, 64 * MiB, b, e);
}

/* Boots from it and compares; frees the image. */
static void expect(struct image *im, const char *kernel, const char *initrd, const char *cmdline)
{
    struct disk_boot b;
    struct err e = {.msg = ""};
    int rc = find(im, &b, &e);
    if (rc)
        fail_msg("%s", e.msg);
    assert_string_equal(b.kernel, kernel);
    if (initrd) {
        u8 *got = b.initrd;
        assert_int_equal(b.initrd_size, strlen(initrd));
        for (u64 i = 0; i < b.initrd_size; i++)
            assert_int_equal(got[i], initrd[i] == '~' ? 0 : initrd[i]); /* ~: a filler */
    } else {
        assert_null(b.initrd);
    }
    assert_string_equal(b.cmdline, cmdline);
    disk_boot_free(&b);
    free(im->p);
}

static void expect_error(struct image *im, const char *part)
{
    struct disk_boot b;
    struct err e = {.msg = ""};
    assert_int_equal(find(im, &b, &e), -1);
    if (!strstr(e.msg, part))
        fail_msg("\"%s\" has no \"%s\"", e.msg, part);
    assert_null(strchr(e.msg, '\n'));
    assert_null(b.kernel);
    free(im->p);
}

/* --- ext, by mke2fs --- */

static char dir[] = "/tmp/popf-disk-XXXXXX"; /* the template; each image gets its own folder */

static int run(const char *fmt, ...)
{
    char cmd[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(cmd, sizeof(cmd), fmt, ap);
    va_end(ap);
    int rc = system(cmd);
    return WIFEXITED(rc) ? WEXITSTATUS(rc) : -1;
}

static bool have_mke2fs(void)
{
    return !run("PATH=$PATH:/usr/sbin:/sbin; command -v mke2fs >/dev/null 2>&1");
}

static void put_file(const char *root, const struct file *f)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/root%s", root, f->path);
    for (char *p = path + strlen(root) + 1; (p = strchr(p + 1, '/'));) {
        *p = 0;
        mkdir(path, 0755);
        *p = '/';
    }
    if (!f->text) {
        mkdir(path, 0755);
    } else if (!strncmp(f->text, "->", 2)) {
        assert_int_equal(symlink(f->text + 2, path), 0);
    } else {
        FILE *out = fopen(path, "w");
        assert_non_null(out);
        fputs(f->text, out);
        fclose(out);
    }
}

static struct image load(const char *path)
{
    struct image im = {0};
    FILE *in = fopen(path, "r");
    assert_non_null(in);
    fseek(in, 0, SEEK_END);
    im.size = (u64)ftell(in);
    rewind(in);
    im.p = malloc(im.size);
    assert_int_equal(fread(im.p, 1, im.size, in), im.size);
    fclose(in);
    return im;
}

/* `options` go to mke2fs. */
static struct image ext_opt(const char *options, const char *uuid, const struct file *f, unsigned n)
{
    char root[sizeof(dir)], path[64];
    strcpy(root, dir);
    assert_non_null(mkdtemp(root));
    snprintf(path, sizeof(path), "%s/root", root);
    mkdir(path, 0755);
    for (unsigned i = 0; i < n; i++)
        put_file(root, &f[i]);
    assert_int_equal(run("PATH=$PATH:/usr/sbin:/sbin; mke2fs -q -F %s -U %s -d %s/root %s/img 4M "
                         ">/dev/null 2>&1",
                         options, uuid, root, root),
                     0);
    snprintf(path, sizeof(path), "%s/img", root);
    struct image im = load(path);
    run("rm -r %s", root);
    return im;
}

static struct image ext(const char *uuid, const struct file *f, unsigned n)
{
    return ext_opt("-t ext4", uuid, f, n);
}

/* --- partition tables --- */

static void put(u8 *p, u64 v, unsigned n)
{
    memcpy(p, &v, n);
}

#define LBA   512u
#define FIRST 2048u /* sector of the first partition */

static struct image join(struct image *part, unsigned n)
{
    struct image im = {.size = FIRST * LBA};
    for (unsigned i = 0; i < n; i++)
        im.size += part[i].size;
    im.size += MiB;
    im.p = calloc(1, im.size);
    u64 at = FIRST * LBA;
    for (unsigned i = 0; i < n; at += part[i++].size)
        memcpy(im.p + at, part[i].p, part[i].size);
    return im;
}

static void gpt_header(u8 *p, u64 lba, u64 entries_lba, const u8 *entries)
{
    u8 *h = p + lba * LBA;
    memcpy(h, "EFI PART", 8);
    put(h + 8, 0x10000, 4);
    put(h + 12, 92, 4);
    put(h + 24, lba, 8);
    put(h + 72, entries_lba, 8);
    put(h + 80, 128, 4);
    put(h + 84, 128, 4);
    put(h + 88, crc32(0, entries, 128 * 128), 4);
    put(h + 16, crc32(0, h, 92), 4);
}

/* Frees the parts. */
static struct image gpt(struct image *part, unsigned n)
{
    struct image im = join(part, n);
    u8 *e = im.p + 2 * LBA;
    u64 at = FIRST, last = im.size / LBA - 1;
    for (unsigned i = 0; i < n; i++) {
        u8 *entry = e + 128 * i;
        memset(entry, 0x11 + (int)i, 32);
        put(entry + 32, at, 8);
        at += part[i].size / LBA;
        put(entry + 40, at - 1, 8);
        free(part[i].p);
    }
    memcpy(im.p + (last - 32) * LBA, e, 128 * 128);
    gpt_header(im.p, 1, 2, e);
    gpt_header(im.p, last, last - 32, e);
    im.p[446 + 4] = 0xee;
    put(im.p + 446 + 8, 1, 4);
    put(im.p + 446 + 12, last, 4);
    put(im.p + 510, 0xaa55, 2);
    return im;
}

static void mbr_entry(u8 *sector, unsigned i, u8 type, u64 start, u64 n)
{
    u8 *e = sector + 446 + 16 * i;
    e[4] = type;
    put(e + 8, start, 4);
    put(e + 12, n, 4);
    put(sector + 510, 0xaa55, 2);
}

static struct image mbr(struct image *part, unsigned n)
{
    struct image im = join(part, n);
    u64 at = FIRST;
    put(im.p + 440, 0xcafe1234, 4);
    for (unsigned i = 0; i < n; at += part[i++].size / LBA) {
        mbr_entry(im.p, i, 0x83, at, part[i].size / LBA);
        free(part[i].p);
    }
    return im;
}

static void need_mke2fs(void)
{
    if (!have_mke2fs()) {
        print_message("# mke2fs is not installed\n");
        skip();
    }
}

/* --- GRUB --- */

#define GRUB_HEAD                                                                                  \
    "# comment with { brace and ' quote\n"                                                         \
    "if [ -s $prefix/grubenv ]; then\n"                                                            \
    "  set have_grubenv=true\n"                                                                    \
    "  load_env\n"                                                                                 \
    "fi\n"                                                                                         \
    "if [ \"${next_entry}\" ] ; then\n"                                                            \
    "   set default=\"${next_entry}\"\n"                                                           \
    "   set boot_once=true\n"                                                                      \
    "elif [ x$saved_entry != x ]; then set default=\"${saved_entry}\"\n"                           \
    "else\n"                                                                                       \
    "   set default=\"0\"\n"                                                                       \
    "fi\n"                                                                                         \
    "if [ x\"${feature_menuentry_id}\" = xy ]; then\n"                                             \
    "  menuentry_id_option=\"--id\"\n"                                                             \
    "else menuentry_id_option=\"\"; fi\n"                                                          \
    "export menuentry_id_option\n"                                                                 \
    "function load_video {\n"                                                                      \
    "  if [ x$all = xy ]; then insmod all_video; else\n"                                           \
    "    for m in a b; do insmod $m; done\n"                                                       \
    "  fi\n"                                                                                       \
    "}\n"                                                                                          \
    "terminal_output gfxterm\n"

#define GRUB_MENU                                                                                  \
    "menuentry 'Simple' --class os $menuentry_id_option 'id-simple' {\n"                           \
    "\tload_video\n"                                                                               \
    "\tif [ x$grub_platform = xxen ]; then insmod xzio; insmod lzopio; fi\n"                       \
    "\tsearch --no-floppy --fs-uuid --set=root " UUID_A "\n"                                       \
    "\techo\t'Loading {'\n"                                                                        \
    "\tlinux\t/boot/vmlinuz-2 root=UUID=" UUID_A " ro  quiet $extra\n"                             \
    "\tinitrd\t/boot/initrd-2\n"                                                                   \
    "}\n"                                                                                          \
    "submenu 'Advanced options' $menuentry_id_option 'id-advanced' {\n"                            \
    "\tmenuentry 'Newest' $menuentry_id_option 'id-2' {\n"                                         \
    "\t\tlinux /boot/vmlinuz-2 two\n"                                                              \
    "\t}\n"                                                                                        \
    "\tmenuentry \"Older, it's\" --id id-1 {\n"                                                    \
    "\t\tlinux /boot/vmlinuz-1 one 'with blank'\n"                                                 \
    "\t\tinitrd /boot/initrd-1 /boot/initrd-2\n"                                                   \
    "\t}\n"                                                                                        \
    "}\n"                                                                                          \
    "menuentry 'Setup' { fwsetup }\n"

static const struct file grub_files[] = {
    {"/boot/vmlinuz-1", "KERNEL-1"},
    {"/boot/vmlinuz-2", "KERNEL-2"},
    {"/boot/initrd-1", "INITRD1"},
    {"/boot/initrd-2", "INITRD-2"},
    {"/boot/grub/grub.cfg", GRUB_HEAD GRUB_MENU},
    {"/etc", NULL},
    {"/boot/grub/grubenv", ""}, /* the tests' own */
};

static struct image grub_disk(const char *env)
{
    struct file f[ARRAY_SIZE(grub_files)];
    memcpy(f, grub_files, sizeof(f));
    f[ARRAY_SIZE(f) - 1].text = env;
    return ext(UUID_A, f, ARRAY_SIZE(f));
}

static void grub(void **state)
{
    need_mke2fs();
    struct image im = grub_disk("");
    expect(&im, "KERNEL-2", "INITRD-2", "root=UUID=" UUID_A " ro quiet");
    im = grub_disk("# GRUB Environment Block\nextra=splash\n########");
    expect(&im, "KERNEL-2", "INITRD-2", "root=UUID=" UUID_A " ro quiet splash");
}

static void grub_default(void **state)
{
    need_mke2fs();
    static const char *const older[] = {"saved_entry=1>1", "saved_entry=id-advanced>id-1",
                                        "saved_entry=Advanced options>Older, it's",
                                        "saved_entry=0\nnext_entry=1>id-1"};
    for (unsigned i = 0; i < ARRAY_SIZE(older); i++) {
        struct image im = grub_disk(older[i]);
        expect(&im, "KERNEL-1", "INITRD1~INITRD-2", "one \"with blank\"");
    }
    struct image im = grub_disk("saved_entry=1");
    expect(&im, "KERNEL-2", NULL, "two");
    /* What does not exist, or boots nothing, leads to the first that does. */
    im = grub_disk("saved_entry=gone");
    expect(&im, "KERNEL-2", "INITRD-2", "root=UUID=" UUID_A " ro quiet");
    im = grub_disk("saved_entry=2");
    expect(&im, "KERNEL-2", "INITRD-2", "root=UUID=" UUID_A " ro quiet");
}

static struct image boot_part(void)
{
    static const struct file f[] = {
        {"/grub/grub.cfg", "set root='hd0,gpt1'\nset default=0\nmenuentry x {\n"
                           "search --fs-uuid --set=root --hint-bios=hd0,gpt1 " UUID_A "\n"
                           "linux ($root)/vmlinuz-2 root=/dev/mapper/x ro\ninitrd /initrd-2\n}\n"},
        {"/vmlinuz-2", "KERNEL-2"},
        {"/initrd-2", "INITRD-2"},
    };
    return ext(UUID_A, f, ARRAY_SIZE(f));
}

static struct image root_part(void)
{
    static const struct file f[] = {{"/etc/fstab", "x"}, {"/boot", NULL}};
    return ext(UUID_B, f, ARRAY_SIZE(f));
}

static void gpt_boot_partition(void **state)
{
    need_mke2fs();
    for (unsigned order = 0; order < 2; order++) {
        struct image part[2] = {order ? root_part() : boot_part(),
                                order ? boot_part() : root_part()};
        struct image im = gpt(part, 2);
        expect(&im, "KERNEL-2", "INITRD-2", "root=/dev/mapper/x ro");
    }
    /* The first table is damaged: there is another one. */
    struct image part[2] = {boot_part(), root_part()};
    struct image im = gpt(part, 2);
    im.p[LBA + 30] ^= 1;
    expect(&im, "KERNEL-2", "INITRD-2", "root=/dev/mapper/x ro");
}

static void mbr_partitions(void **state)
{
    need_mke2fs();
    struct image part[2] = {root_part(), boot_part()};
    struct image im = mbr(part, 2);
    expect(&im, "KERNEL-2", "INITRD-2", "root=/dev/mapper/x ro");

    /* The same in a logical partition, whose table lies in the sector before it. */
    struct image one[1] = {boot_part()};
    u64 n = one[0].size / LBA;
    im = mbr(one, 1);
    memset(im.p + 446, 0, 64);
    mbr_entry(im.p, 0, 0x0f, FIRST - 1, n + 1);
    mbr_entry(im.p + (FIRST - 1) * LBA, 0, 0x83, 1, n);
    expect(&im, "KERNEL-2", "INITRD-2", "root=/dev/mapper/x ro");
}

static void grub_oddities(void **state)
{
    need_mke2fs();
    static const struct {
        const char *cfg, *cmdline;
    } t[] = {
        {"menuentry a { linux /k a=$novar b\\ c \"d e\" 'f $x' \\\n g # rest\n }",
         "a= \"b c\" \"d e\" \"f $x\" g"},
        {"set x=1; if [ $x -eq 1 -a ! -e /none ]; then menuentry a { linux /k yes; }; fi", "yes"},
        {"if [ -z \"$q\" -o -n \"$q\" ]; then set z=in; fi\nmenuentry a { linux /k $z ${z}side; }",
         "in inside"},
        {"while [ 1 = 1 ]; do set a=b; done\nmenuentry a { if false; then linux /k no; elif true; "
         "then linux /k elif; else linux /k no; fi; }",
         "elif"},
        {"source /more.cfg\n", "more"},
        {"search.fs_label nolabel r\nsearch.fs_uuid " UUID_A
         " r\nmenuentry a { linux ($r)/k dot; }",
         "dot"},
        {"menuentry \"a\nb\" { linux16 /k old; }", "old"},
        {"menuentry a { if ! [ -e /k ]; then linux /none; fi; linux /k \"\" end; }", "end"},
        {"menuentry a { linux /k unclosed", "unclosed"},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        struct file f[] = {{"/boot/grub2/grub.cfg", t[i].cfg},
                           {"/k", "KERNEL"},
                           {"/more.cfg", "menuentry m { linux /k more; }"}};
        struct image im = ext(UUID_A, f, ARRAY_SIZE(f));
        expect(&im, "KERNEL", NULL, t[i].cmdline);
    }
}

/* --- the others --- */

static const struct file bls_files[] = {
    {"/vmlinuz-9", "KERNEL-9"},
    {"/vmlinuz-10", "KERNEL-10"},
    {"/boot/initrd-10", "INITRD-10"},
    {"/loader/entries/m-5.9.conf", "title Old\nversion 5.9\nlinux /vmlinuz-9\noptions a b\n"},
    {"/loader/entries/m-5.10.conf",
     "# comment\ntitle New\nversion 5.10\nlinux /vmlinuz-10\ninitrd /initrd-10\noptions root=x\n"
     "options  $kernelopts quiet\n"},
    {"/loader/entries/readme.txt", "nothing"},
    {"/loader/loader.conf", "timeout 3\n"},
};

static void bls(void **state)
{
    need_mke2fs();
    struct file f[ARRAY_SIZE(bls_files)];
    memcpy(f, bls_files, sizeof(f));
    struct image im = ext(UUID_A, f, ARRAY_SIZE(f));
    expect(&im, "KERNEL-10", "INITRD-10", "root=x $kernelopts quiet");
    f[ARRAY_SIZE(f) - 1].text = "default m-5.9*\n";
    im = ext(UUID_A, f, ARRAY_SIZE(f));
    expect(&im, "KERNEL-9", NULL, "a b");
}

static void grub_blscfg(void **state)
{
    need_mke2fs();
    struct file f[ARRAY_SIZE(bls_files) + 2];
    memcpy(f, bls_files, sizeof(bls_files));
    f[ARRAY_SIZE(f) - 2] =
        (struct file){"/grub2/grub.cfg", "load_env -f ${prefix}/grubenv\n"
                                         "set default=\"${saved_entry}\"\ninsmod blscfg\nblscfg\n"};
    f[ARRAY_SIZE(f) - 1] = (struct file){"/grub2/grubenv", "kernelopts=ro console=tty0\n"};
    struct image im = ext(UUID_A, f, ARRAY_SIZE(f));
    expect(&im, "KERNEL-10", "INITRD-10", "root=x ro console=tty0 quiet");
    f[ARRAY_SIZE(f) - 1].text = "saved_entry=m-5.9\n";
    im = ext(UUID_A, f, ARRAY_SIZE(f));
    expect(&im, "KERNEL-9", NULL, "a b");
}

static void syslinux(void **state)
{
    need_mke2fs();
    static const char cfg[] = "DEFAULT two\nTIMEOUT 10\nlabel one\n  kernel /k1\n  append one\n"
                              "LABEL two\n\tMENU LABEL Two\n\tLINUX ../k2\n"
                              "\tAPPEND initrd=/i1,/i2 root=/dev/sda1 rw\n";
    const struct file f[] = {{"/boot/extlinux/extlinux.conf", cfg},
                             {"/boot/k2", "KERNEL-2"},
                             {"/k1", "KERNEL-1"},
                             {"/i1", "INIT"},
                             {"/i2", "RD"}};
    struct image im = ext(UUID_A, f, ARRAY_SIZE(f));
    expect(&im, "KERNEL-2", "INITRD", "root=/dev/sda1 rw");
}

static void newest(void **state)
{
    need_mke2fs();
    const struct file f[] = {{"/boot/vmlinuz-6.1.0-9-amd64", "KERNEL-9"},
                             {"/boot/vmlinuz-6.1.0-10-amd64", "KERNEL-10"},
                             {"/boot/vmlinuz-0-rescue-1", "RESCUE"},
                             {"/boot/initrd.img-6.1.0-10-amd64", "INITRD-10"},
                             {"/etc/fstab", "x"}};
    struct image im = ext(UUID_A, f, ARRAY_SIZE(f));
    expect(&im, "KERNEL-10", "INITRD-10", "root=UUID=" UUID_A " ro");

    const struct file alone[] = {{"/vmlinuz", "->boot/v"}, {"/boot/v", "LINKED"}, {"/etc", NULL}};
    im = ext(UUID_A, alone, ARRAY_SIZE(alone));
    expect(&im, "LINKED", NULL, "root=/dev/vda ro");
    struct image part[1] = {ext(UUID_A, alone, ARRAY_SIZE(alone))};
    im = mbr(part, 1);
    expect(&im, "LINKED", NULL, "root=PARTUUID=cafe1234-01 ro");
    part[0] = ext(UUID_A, alone, ARRAY_SIZE(alone));
    im = gpt(part, 1);
    expect(&im, "LINKED", NULL, "root=PARTUUID=11111111-1111-1111-1111-111111111111 ro");
}

static void kinds_of_ext(void **state)
{
    need_mke2fs();
    static const char *const options[] = {"-t ext2 -b 1024", "-t ext3 -b 1024", "-t ext4 -b 4096",
                                          "-t ext4 -O 64bit,metadata_csum,inline_data -b 1024",
                                          "-t ext4 -O ^extents,^64bit,^metadata_csum -b 1024"};
    static char big[300001]; /* beyond the direct blocks of an inode */
    for (unsigned i = 0; i < sizeof(big) - 1; i++)
        big[i] = (char)('a' + i / 7 % 26);
    for (unsigned i = 0; i < ARRAY_SIZE(options); i++) {
        const struct file f[] = {{"/boot/vmlinuz", big}, {"/etc", NULL}};
        struct image im = ext_opt(options[i], UUID_A, f, ARRAY_SIZE(f));
        expect(&im, big, NULL, "root=/dev/vda ro");
    }
}

/* --- FAT --- */

static void fat_entry(u8 *d, const char *name, u8 attr, unsigned cluster, unsigned size)
{
    memcpy(d, name, 11);
    d[11] = attr;
    put(d + 26, cluster, 2);
    put(d + 28, size, 4);
}

static void fat_long(u8 *d, const char *name, unsigned order)
{
    static const u8 at[13] = {1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30};
    size_t len = strlen(name), from = ((order & 31) - 1) * 13;
    d[0] = (u8)order;
    d[11] = 0x0f;
    for (unsigned i = 0; i < 13; i++)
        put(d + at[i], from + i < len ? (u8)name[from + i] : from + i == len ? 0 : 0xffff, 2);
}

/* FAT12 with a cluster per sector: \LOADER\entries-is-long... as systemd-boot has it. */
static struct image fat(void)
{
    static const char entry[] = "linux /vmlinuz-linux\ninitrd /i.img\noptions fat\n";
    struct image im = {.size = 400 * LBA};
    u8 *p = im.p = calloc(1, im.size);
    memcpy(p + 0x36, "FAT12   ", 8);
    put(p + 11, 512, 2);
    p[13] = 1;           /* sectors per cluster */
    put(p + 14, 1, 2);   /* reserved */
    p[16] = 1;           /* tables */
    put(p + 17, 16, 2);  /* root entries: one sector */
    put(p + 19, 400, 2); /* sectors */
    put(p + 22, 2, 2);   /* sectors of a table */
    put(p + 510, 0xaa55, 2);
    u8 *table = p + LBA, *root = p + 3 * LBA, *data = p + 4 * LBA;
    /* Cluster 5 goes on at 7; all others are one long. */
    for (unsigned i = 2; i < 10; i++) {
        unsigned v = i == 5 ? 7 : 0xfff;
        u8 *t = table + i + i / 2;
        put(t, i & 1 ? (t[0] & 0xfu) | v << 4 : (v | (u64)t[1] >> 4 << 12), 2);
    }
    fat_entry(root, "LOADER     ", 0x10, 2, 0);
    fat_long(root + 32, "vmlinuz-linux", 0x41);
    fat_entry(root + 64, "VMLINU~1   ", 0x20, 5, 600);
    fat_entry(root + 96, "I       IMG", 0x20, 6, 6);
    fat_entry(data, "ENTRIES    ", 0x10, 3, 0);
    fat_long(data + LBA, "a-really-long.conf", 0x42);
    fat_long(data + LBA + 32, "a-really-long.conf", 0x01);
    fat_entry(data + LBA + 64, "AREALL~1CON", 0x20, 4, sizeof(entry) - 1);
    memcpy(data + 2 * LBA, entry, sizeof(entry) - 1);
    memset(data + 3 * LBA, 'k', 512);
    memcpy(data + 4 * LBA, "INITRD", 6);
    memset(data + 5 * LBA, 'K', 88);
    return im;
}

static void fat_esp(void **state)
{
    char kernel[601];
    memset(kernel, 'k', 512);
    memset(kernel + 512, 'K', 88);
    kernel[600] = 0;
    struct image im = fat();
    expect(&im, kernel, "INITRD", "fat");
}

/* --- what cannot be booted --- */

static struct image blank(u64 size)
{
    return (struct image){.p = calloc(1, size), .size = size};
}

static void errors(void **state)
{
    struct image im = blank(64 * KiB);
    expect_error(&im, "no file system that popf knows");
    im = blank(1);
    expect_error(&im, "nothing on it can be booted");
    im = blank(1 * MiB);
    memcpy(im.p, "XFSB", 4);
    expect_error(&im, "XFS, which popf cannot read");
    im = blank(1 * MiB);
    put(im.p + 0x438, 0xef53, 2);
    expect_error(&im, "a damaged ext2/3/4 file system");
    im = blank(4 * MiB); /* an extended partition that leads to itself */
    mbr_entry(im.p, 0, 0x05, 10, 100);
    mbr_entry(im.p + 10 * LBA, 0, 0x83, 1, 10);
    mbr_entry(im.p + 10 * LBA, 1, 0x05, 0, 100);
    expect_error(&im, "partition 5");
    need_mke2fs();
    const struct file empty[] = {{"/etc", NULL}};
    im = ext(UUID_A, empty, 1);
    expect_error(&im, "no kernel");
    const struct file gone[] = {{"/boot/grub/grub.cfg", "menuentry a { linux /gone; }"}};
    im = ext(UUID_A, gone, 1);
    expect_error(&im, "the kernel /gone is not there");
    const struct file loop[] = {{"/boot/vmlinuz", "->vmlinuz"}};
    im = ext(UUID_A, loop, 1);
    expect_error(&im, "nothing on it can be booted");
}

/* Damage anywhere: an answer, soon. */
static void damage(void **state)
{
    need_mke2fs();
    struct image part[2] = {grub_disk(""), root_part()};
    struct image good = gpt(part, 2), im = {.p = malloc(good.size), .size = good.size};
    u32 x = 4711;
    unsigned booted = 0;
    for (unsigned round = 0; round < 300; round++) {
        struct disk_boot b;
        struct err e;
        memcpy(im.p, good.p, good.size);
        im.size = good.size;
        for (unsigned n = 0; n < 1 + round % 40; n++) {
            x = x * 1664525 + 1013904223;
            /* The tables, and the first blocks of the file system, where its structures are. */
            u64 at = round % 3 ? FIRST * LBA + (x >> 8) % (200 * KiB) : (x >> 8) % (FIRST * LBA);
            im.p[at] = (u8)(x >> 4);
        }
        if (round % 10 == 9)
            im.size = (x >> 8) % good.size;
        im.reads = 0;
        if (!find(&im, &b, &e)) {
            booted++;
            disk_boot_free(&b);
        }
        assert_true(im.reads < 200000);
    }
    assert_true(booted > 30);
    free(im.p);
    free(good.p);
}

/* --- the rest --- */

static void command_line(void **state)
{
    static const struct {
        const char *disk, *append, *want;
    } t[] = {
        {"ro quiet", NULL, "ro quiet console=ttyS0"},
        {"", "", "console=ttyS0"},
        {"ro console=ttyS0,115200", "x", "ro console=ttyS0,115200 x"},
        {"ro console=tty0", "x", "ro console=tty0 console=ttyS0 x"},
        {"ro", "console=hvc0", "ro console=hvc0"},
        {"noconsole=ttyS0", NULL, "noconsole=ttyS0 console=ttyS0"},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        struct disk_boot b = {.cmdline = (char *)t[i].disk};
        char *line = disk_boot_cmdline(&b, t[i].append);
        assert_string_equal(line, t[i].want);
        free(line);
    }
}

static void recognition(void **state)
{
    u8 *p = calloc(1, 4096);
    assert_false(disk_looks_like(p, 4096));
    put(p + 510, 0xaa55, 2);
    assert_true(disk_looks_like(p, 4096));
    memcpy(p + 0x202, "HdrS", 4);
    assert_false(disk_looks_like(p, 4096)); /* a bzImage */
    memset(p, 0, 4096);
    memcpy(p, "QFI\xfb", 4);
    assert_true(disk_looks_like(p, 4096));
    assert_false(disk_looks_like(p, 100));
    memset(p, 0, 4096);
    put(p + 0x438, 0xef53, 2);
    assert_true(disk_looks_like(p, 4096));
    memcpy(p, "\177ELF", 4);
    put(p + 0x438, 0, 2);
    put(p + 510, 0xaa55, 2);
    assert_false(disk_looks_like(p, 4096));
    free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grub),
        cmocka_unit_test(grub_default),
        cmocka_unit_test(gpt_boot_partition),
        cmocka_unit_test(mbr_partitions),
        cmocka_unit_test(grub_oddities),
        cmocka_unit_test(bls),
        cmocka_unit_test(grub_blscfg),
        cmocka_unit_test(syslinux),
        cmocka_unit_test(newest),
        cmocka_unit_test(kinds_of_ext),
        cmocka_unit_test(fat_esp),
        cmocka_unit_test(errors),
        cmocka_unit_test(damage),
        cmocka_unit_test(command_line),
        cmocka_unit_test(recognition),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("disk", tests, NULL, NULL);
}
