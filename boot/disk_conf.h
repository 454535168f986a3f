/*
 * disk_conf.h - boot configurations: what disk.c and its parsers share. Not for others.
 */
#ifndef POPF_BOOT_DISK_CONF_H
#define POPF_BOOT_DISK_CONF_H

#include "boot/disk_fs.h"

#define CONF_FILE_MAX (1 * MiB) /* of a configuration file */
#define CONF_LINE_MAX 4096      /* of a command line, a title, a word */
#define CONF_INITRDS  8

struct conf_file {
    struct disk_fs *fs; /* not owned */
    char path[DISK_PATH_MAX];
};

/* What a configuration wants to boot. */
struct conf {
    char title[128];
    struct conf_file kernel; /* path "": none found */
    struct conf_file initrd[CONF_INITRDS];
    unsigned ninitrds;
    char cmdline[CONF_LINE_MAX];
};

/* All file systems of the disk that can be read. */
struct conf_disk {
    struct disk_fs *fs[DISK_PARTS_MAX];
    unsigned nfs;
};

/*
 * Each looks for its kind of configuration in a file system. 1: found, *c is complete; 0: there is
 * none; -1 and *e: there is one, and it leads nowhere.
 */
int grub_find(const struct conf_disk *d, struct disk_fs *fs, struct conf *c, struct err *e);
int bls_find(const struct conf_disk *d, struct disk_fs *fs, struct conf *c, struct err *e);
int syslinux_find(const struct conf_disk *d, struct disk_fs *fs, struct conf *c, struct err *e);
int newest_find(const struct conf_disk *d, struct disk_fs *fs, struct conf *c, struct err *e);

/*
 * Boot loader specification entries in `dir`. `wanted` is an entry's name without .conf, a pattern
 * with
 * '*', or NULL for the newest. `expand`, which may be NULL, replaces $variables of options.
 */
typedef void conf_expand_fn(void *arg, const char *text, char *out, size_t size);
int bls_choose(struct disk_fs *fs, const char *dir, const char *wanted, conf_expand_fn *expand,
               void *arg, struct conf *c, struct err *e);

/* --- words and lines --- */

/* Appends, with a blank between; what does not fit is cut off. */
void conf_append(char *to, size_t size, const char *text);

/* Versions as people count: 10 is after 9. <0, 0, >0 */
int conf_version_cmp(const char *a, const char *b);

/* The next line of text, cut at its end, without blanks round it; NULL at the end. */
char *conf_line(char **text);

/* Splits a line at its first run of blanks: the first word is left in line, the rest returned. */
char *conf_split(char *line);

/* '*' and '?' */
bool conf_match(const char *pattern, const char *text);

/* dir + "/" + name, or name alone if it begins with '/'. */
void conf_path(char *out, const char *dir, const char *name);

/* Sets an initrd, if there is room. */
void conf_add_initrd(struct conf *c, struct disk_fs *fs, const char *path);

#endif
