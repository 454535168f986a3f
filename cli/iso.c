/*
 * An ISO 9660 file system (ECMA-119) of one folder, with Rock Ridge (SUSP, RRIP) for the names, in
 * which ISO 9660 itself allows no small letters and no "-".
 *
 *     sector 0-15  unused
 *            16    primary volume descriptor
 *            17    its end
 *            18    path table, little-endian
 *            19    path table, big-endian
 *            20-21 the folder
 *            22... the files
 */
#include <stdint.h>
#include <string.h>

#include "cli/seed.h"
#include "cli/text.h"

#define SECTOR     2048u
#define PATH_LE    18u
#define PATH_BE    19u
#define ROOT       20u
#define ROOT_SIZE  (2 * SECTOR)
#define FIRST_FILE 22u

static void put_both16(uint8_t *p, uint16_t v)
{
    p[0] = p[3] = (uint8_t)v;
    p[1] = p[2] = (uint8_t)(v >> 8);
}

static void put_both32(uint8_t *p, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++)
        p[i] = p[7 - i] = (uint8_t)(v >> (8 * i));
}

static void put_text(uint8_t *p, const char *text, size_t room)
{
    memset(p, ' ', room);
    memcpy(p, text, strlen(text) < room ? strlen(text) : room);
}

static uint32_t sectors(size_t len)
{
    return (uint32_t)((len + SECTOR - 1) / SECTOR);
}

/* --- the folder --- */

#define RECORD_HEAD 33u
#define DIRECTORY   2

/* ECMA-119 9.1; the date is left at zero. Returns where Rock Ridge's entries go. */
static uint8_t *put_record(uint8_t *p, uint32_t at, uint32_t len, uint8_t flags, const void *name,
                           uint8_t name_len)
{
    put_both32(p + 2, at);
    put_both32(p + 10, len);
    p[18] = 70, p[19] = p[20] = 1; /* 1 January 1970 */
    p[25] = flags;
    put_both16(p + 28, 1); /* volume */
    p[32] = name_len;
    memcpy(p + RECORD_HEAD, name, name_len);
    return p + RECORD_HEAD + name_len + !(name_len & 1);
}

/* Sets the length of the record at p, whose entries end at `end`; the next record. */
static uint8_t *end_record(uint8_t *p, uint8_t *end)
{
    size_t len = (size_t)(end - p);
    p[0] = (uint8_t)(len + (len & 1));
    return p + p[0];
}

/* SUSP 5.3: says that there are such entries. */
static uint8_t *put_sp(uint8_t *p)
{
    static const uint8_t sp[] = {'S', 'P', 7, 1, 0xbe, 0xef, 0};
    memcpy(p, sp, sizeof(sp));
    return p + sizeof(sp);
}

/* RRIP 4.1.1: mode, links, owner, group. */
static uint8_t *put_px(uint8_t *p, uint32_t mode, uint32_t links)
{
    static const uint8_t px[] = {'P', 'X', 36, 1};
    memcpy(p, px, sizeof(px));
    put_both32(p + 4, mode);
    put_both32(p + 12, links);
    return p + 36;
}

/* RRIP 4.1.4: the name. */
static uint8_t *put_nm(uint8_t *p, const char *name)
{
    uint8_t n = (uint8_t)strlen(name);
    p[0] = 'N', p[1] = 'M', p[2] = (uint8_t)(n + 5), p[3] = 1;
    memcpy(p + 5, name, n);
    return p + 5 + n;
}

static void put_folder(uint8_t *p, const struct iso_file *files, unsigned n)
{
    uint8_t *begin = p;
    uint32_t at = FIRST_FILE;
    p = end_record(p, put_px(put_sp(put_record(p, ROOT, ROOT_SIZE, DIRECTORY, "", 1)), 040555, 2));
    p = end_record(p, put_px(put_record(p, ROOT, ROOT_SIZE, DIRECTORY, "\1", 1), 040555, 2));
    for (unsigned i = 0; i < n; i++) {
        char plain[] = "FILE00.;1"; /* for readers that know no Rock Ridge */
        plain[4] = (char)('0' + i / 10);
        plain[5] = (char)('0' + i % 10);
        if (p - begin < SECTOR && p - begin + 160 > SECTOR)
            p = begin + SECTOR; /* a record does not cross sectors */
        uint8_t *e = put_record(p, at, (uint32_t)files[i].len, 0, plain, sizeof(plain) - 1);
        p = end_record(p, put_nm(put_px(e, 0100444, 1), files[i].name));
        at += sectors(files[i].len);
    }
}

/* --- the volume --- */

/* ECMA-119 9.4: the root is its own parent. */
static void put_path_table(uint8_t *p, bool big)
{
    p[0] = 1;
    p[big ? 5 : 2] = ROOT;
    p[big ? 7 : 6] = 1;
}

/* ECMA-119 8.4 */
static void put_descriptor(uint8_t *p, const char *label, uint32_t nsectors)
{
    static const char no_date[] = "0000000000000000";
    p[0] = 1;
    memcpy(p + 1, "CD001\1", 6);
    put_text(p + 8, "LINUX", 32);
    put_text(p + 40, label, 32);
    put_both32(p + 80, nsectors);
    put_both16(p + 120, 1); /* volumes in the set */
    put_both16(p + 124, 1); /* this one */
    put_both16(p + 128, SECTOR);
    put_both32(p + 132, 10); /* bytes in the path table */
    p[140] = PATH_LE;
    p[148 + 3] = PATH_BE;
    end_record(p + 156, put_record(p + 156, ROOT, ROOT_SIZE, DIRECTORY, "", 1));
    put_text(p + 190, "", 623);
    put_text(p + 574, "POPF", 128); /* application */
    for (unsigned i = 0; i < 4; i++)
        memcpy(p + 813 + 17 * i, no_date, 16);
    p[881] = 1;
}

void *iso_make(const char *label, const struct iso_file *files, unsigned n, size_t *len)
{
    uint32_t total = FIRST_FILE, at = FIRST_FILE;
    if (n > ISO_FILES_MAX)
        return NULL;
    for (unsigned i = 0; i < n; i++)
        total += sectors(files[i].len);
    uint8_t *image = xmalloc((size_t)total * SECTOR);
    put_descriptor(image + 16 * SECTOR, label, total);
    memcpy(image + 17 * SECTOR, "\377CD001\1", 7);
    put_path_table(image + PATH_LE * SECTOR, false);
    put_path_table(image + PATH_BE * SECTOR, true);
    put_folder(image + ROOT * SECTOR, files, n);
    for (unsigned i = 0; i < n; i++) {
        if (files[i].len)
            memcpy(image + at * SECTOR, files[i].data, files[i].len);
        at += sectors(files[i].len);
    }
    *len = (size_t)total * SECTOR;
    return image;
}
