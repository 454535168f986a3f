/*
 * disk_conf.c - helpers of the parsers, and the two simple formats: boot loader specification
 * entries (UAPI group, "Boot Loader Specification", type 1) and syslinux.
 */
#include "boot/disk_conf.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- words and lines --- */

void conf_append(char *to, size_t size, const char *text)
{
    size_t n = strlen(to);
    if (*text && n + 1 < size)
        snprintf(to + n, size - n, "%s%s", n ? " " : "", text);
}

int conf_version_cmp(const char *a, const char *b)
{
    while (*a && *b) {
        if (isdigit((unsigned char)*a) && isdigit((unsigned char)*b)) {
            while (*a == '0')
                a++;
            while (*b == '0')
                b++;
            size_t na = strspn(a, "0123456789"), nb = strspn(b, "0123456789");
            int c = na != nb ? (na > nb ? 1 : -1) : strncmp(a, b, na);
            if (c)
                return c;
            a += na;
            b += nb;
        } else {
            if (*a != *b)
                return *a == '~' ? -1 : *b == '~' ? 1 : (unsigned char)*a - (unsigned char)*b;
            a++;
            b++;
        }
    }
    return *a == '~' ? -1 : *b == '~' ? 1 : (*a != 0) - (*b != 0);
}

char *conf_line(char **text)
{
    char *line = *text;
    if (!line || !*line)
        return NULL;
    char *end = line + strcspn(line, "\n");
    *text = *end ? end + 1 : end;
    while (end > line && isspace((unsigned char)end[-1]))
        end--;
    *end = 0;
    return line + strspn(line, " \t\r");
}

char *conf_split(char *line)
{
    char *end = line + strcspn(line, " \t");
    char *rest = end + strspn(end, " \t");
    *end = 0;
    return rest;
}

/* One star is remembered: what follows the last one may be tried further on. */
bool conf_match(const char *p, const char *s)
{
    const char *star = NULL, *retry = NULL;
    while (*s) {
        if (*p == '*') {
            star = ++p;
            retry = s;
        } else if (*p == '?' || (*p && *p == *s)) {
            p++;
            s++;
        } else if (star) {
            p = star;
            s = ++retry;
        } else {
            return false;
        }
    }
    p += strspn(p, "*");
    return !*p;
}

void conf_path(char *out, const char *dir, const char *name)
{
    if (*name == '/')
        snprintf(out, DISK_PATH_MAX, "%s", name);
    else
        snprintf(out, DISK_PATH_MAX, "%s/%s", dir, name);
}

void conf_add_initrd(struct conf *c, struct disk_fs *fs, const char *path)
{
    if (c->ninitrds == CONF_INITRDS || !*path)
        return;
    struct conf_file *f = &c->initrd[c->ninitrds++];
    f->fs = fs;
    snprintf(f->path, sizeof(f->path), "%s", path);
}

static char *read_text(struct disk_fs *fs, const char *path, struct blob *b, struct err *e)
{
    return disk_fs_read(fs, path, CONF_FILE_MAX, b, e) ? NULL : (char *)b->owned;
}

/* --- boot loader specification --- */

#define BLS_ENTRIES_MAX 256

struct bls_entry {
    char name[DISK_NAME_MAX]; /* of the file, without .conf */
    char version[128], sort_key[128], title[128];
    char linux_path[DISK_PATH_MAX];
    char initrd[CONF_INITRDS][DISK_PATH_MAX];
    unsigned ninitrds;
    char options[CONF_LINE_MAX];
};

struct bls_names {
    char (*name)[DISK_NAME_MAX];
    unsigned n;
};

static bool note_name(void *arg, const char *name)
{
    struct bls_names *l = arg;
    size_t len = strlen(name);
    if (len > 5 && !strcmp(name + len - 5, ".conf"))
        snprintf(l->name[l->n++], DISK_NAME_MAX, "%.*s", (int)(len - 5), name);
    return l->n < BLS_ENTRIES_MAX;
}

static void bls_field(struct bls_entry *b, const char *key, const char *val)
{
    if (!strcmp(key, "title"))
        snprintf(b->title, sizeof(b->title), "%s", val);
    else if (!strcmp(key, "version"))
        snprintf(b->version, sizeof(b->version), "%s", val);
    else if (!strcmp(key, "sort-key"))
        snprintf(b->sort_key, sizeof(b->sort_key), "%s", val);
    else if (!strcmp(key, "linux"))
        snprintf(b->linux_path, sizeof(b->linux_path), "%s", val);
    else if (!strcmp(key, "initrd") && b->ninitrds < CONF_INITRDS)
        snprintf(b->initrd[b->ninitrds++], DISK_PATH_MAX, "%s", val);
    else if (!strcmp(key, "options"))
        conf_append(b->options, sizeof(b->options), val);
}

/* False: it is not there, or boots no Linux. */
static bool bls_read(struct disk_fs *fs, const char *dir, const char *name, struct bls_entry *b)
{
    char path[DISK_PATH_MAX];
    struct blob text;
    *b = (struct bls_entry){0};
    snprintf(b->name, sizeof(b->name), "%s", name);
    if (snprintf(path, sizeof(path), "%s/%s.conf", dir, name) >= (int)sizeof(path))
        return false;
    char *at = read_text(fs, path, &text, NULL), *line;
    while ((line = conf_line(&at))) {
        char *val = *line == '#' ? NULL : conf_split(line);
        if (val)
            bls_field(b, line, val);
    }
    blob_free(&text);
    return b->linux_path[0];
}

/* Is a to be preferred to b? The specification's order: sort-key ascending, version descending. */
static bool bls_before(const struct bls_entry *a, const struct bls_entry *b)
{
    int c = a->sort_key[0] && b->sort_key[0] ? strcmp(b->sort_key, a->sort_key) : 0;
    if (!c)
        c = conf_version_cmp(a->version, b->version);
    if (!c)
        c = conf_version_cmp(a->name, b->name);
    return c > 0;
}

/* Paths count from the file system's root, but some put a /boot without a partition of its own. */
static void bls_path(struct disk_fs *fs, const char *from, char *to)
{
    snprintf(to, DISK_PATH_MAX, "%s", from);
    if (!disk_fs_exists(fs, to) &&
        snprintf(to, DISK_PATH_MAX, "/boot%s%s", *from == '/' ? "" : "/", from) < DISK_PATH_MAX &&
        !disk_fs_exists(fs, to))
        snprintf(to, DISK_PATH_MAX, "%s", from);
}

static void bls_take(struct disk_fs *fs, const struct bls_entry *b, conf_expand_fn *expand,
                     void *arg, struct conf *c)
{
    char text[CONF_LINE_MAX], path[DISK_PATH_MAX];
    *c = (struct conf){.kernel = {.fs = fs}};
    snprintf(c->title, sizeof(c->title), "%.100s", b->title[0] ? b->title : b->name);
    bls_path(fs, b->linux_path, c->kernel.path);
    for (unsigned i = 0; i < b->ninitrds; i++) {
        char *rest = text, *word;
        if (expand)
            expand(arg, b->initrd[i], text, sizeof(text));
        else
            snprintf(text, sizeof(text), "%s", b->initrd[i]);
        while ((word = strtok_r(rest, " \t", &rest))) {
            bls_path(fs, word, path);
            conf_add_initrd(c, fs, path);
        }
    }
    if (expand)
        expand(arg, b->options, c->cmdline, sizeof(c->cmdline));
    else
        snprintf(c->cmdline, sizeof(c->cmdline), "%s", b->options);
}

static bool bls_wanted(const struct bls_entry *b, const char *pattern)
{
    char name[DISK_NAME_MAX + 8];
    snprintf(name, sizeof(name), "%s.conf", b->name);
    return pattern && (conf_match(pattern, b->name) || conf_match(pattern, name));
}

int bls_choose(struct disk_fs *fs, const char *dir, const char *wanted, conf_expand_fn *expand,
               void *arg, struct conf *c, struct err *e)
{
    struct bls_names names = {.name = calloc(BLS_ENTRIES_MAX, DISK_NAME_MAX)};
    struct bls_entry *b = calloc(2, sizeof(*b)), *best = &b[1];
    bool found = false, found_wanted = false;
    if (!names.name || !b) {
        free(names.name);
        free(b);
        return err_set(e, "out of memory");
    }
    disk_fs_list(fs, dir, note_name, &names);
    for (unsigned i = 0; i < names.n; i++) {
        if (!bls_read(fs, dir, names.name[i], b))
            continue;
        bool is_wanted = bls_wanted(b, wanted);
        if (found && (is_wanted != found_wanted ? !is_wanted : !bls_before(b, best)))
            continue;
        *best = *b;
        found = true;
        found_wanted = is_wanted;
    }
    if (found)
        bls_take(fs, best, expand, arg, c);
    free(names.name);
    free(b);
    return found;
}

/* systemd-boot's own settings: `default` is a pattern. */
static void loader_default(struct disk_fs *fs, const char *path, char *out, size_t size)
{
    struct blob text;
    char *at = read_text(fs, path, &text, NULL), *line;
    *out = 0;
    while ((line = conf_line(&at))) {
        char *val = conf_split(line);
        if (!strcmp(line, "default") && *val != '@')
            snprintf(out, size, "%s", val);
    }
    blob_free(&text);
}

int bls_find(const struct conf_disk *d, struct disk_fs *fs, struct conf *c, struct err *e)
{
    static const char *const where[] = {"/loader", "/boot/loader"};
    for (unsigned i = 0; i < ARRAY_SIZE(where); i++) {
        char dir[64], settings[64], wanted[DISK_NAME_MAX];
        snprintf(dir, sizeof(dir), "%s/entries", where[i]);
        snprintf(settings, sizeof(settings), "%s/loader.conf", where[i]);
        if (!disk_fs_exists(fs, dir))
            continue;
        loader_default(fs, settings, wanted, sizeof(wanted));
        int rc = bls_choose(fs, dir, *wanted ? wanted : NULL, NULL, NULL, c, e);
        if (rc)
            return rc;
    }
    return 0;
}

/* --- syslinux, extlinux --- */

struct label {
    char name[128];
    struct conf conf;
};

struct syslinux {
    struct disk_fs *fs;
    const char *dir; /* of the configuration file */
    char wanted[128];
    struct label now, chosen;
    bool open, have_first, done;
};

static void set_initrds(struct syslinux *s, char *list)
{
    char path[DISK_PATH_MAX], *word;
    while ((word = strsep(&list, ","))) {
        conf_path(path, s->dir, word);
        if (*word)
            conf_add_initrd(&s->now.conf, s->fs, path);
    }
}

/* The label is complete: is it the one, or the first? */
static void end_label(struct syslinux *s)
{
    if (!s->open || !s->now.conf.kernel.path[0] || s->done)
        return;
    s->done = *s->wanted && !strcasecmp(s->wanted, s->now.name);
    if (s->done || !s->have_first)
        s->chosen = s->now;
    s->have_first = true;
}

static void begin_label(struct syslinux *s, const char *name)
{
    end_label(s);
    s->open = true;
    s->now = (struct label){.conf.kernel.fs = s->fs};
    snprintf(s->now.name, sizeof(s->now.name), "%s", name);
    snprintf(s->now.conf.title, sizeof(s->now.conf.title), "%.100s", name);
}

/* APPEND may have an initrd= in it. */
static void set_append(struct syslinux *s, char *args)
{
    struct conf *c = &s->now.conf;
    char *word;
    c->cmdline[0] = 0;
    while ((word = strsep(&args, " \t"))) {
        if (!strncmp(word, "initrd=", 7))
            set_initrds(s, word + 7);
        else
            conf_append(c->cmdline, sizeof(c->cmdline), word);
    }
}

static void syslinux_line(struct syslinux *s, const char *key, char *val)
{
    if (!strcasecmp(key, "default") || !strcasecmp(key, "ontimeout")) {
        snprintf(s->wanted, sizeof(s->wanted), "%.100s", val);
    } else if (!strcasecmp(key, "label")) {
        begin_label(s, val);
    } else if (!s->open) {
        return;
    } else if (!strcasecmp(key, "kernel") || !strcasecmp(key, "linux")) {
        conf_path(s->now.conf.kernel.path, s->dir, val);
    } else if (!strcasecmp(key, "initrd")) {
        set_initrds(s, val);
    } else if (!strcasecmp(key, "append")) {
        set_append(s, val);
    } else if (!strcasecmp(key, "menu") && !strncasecmp(val, "default", 7)) {
        snprintf(s->wanted, sizeof(s->wanted), "%s", s->now.name);
    }
}

static int syslinux_read(struct syslinux *s, const char *path, struct conf *c, struct err *e)
{
    struct blob text;
    char *at = read_text(s->fs, path, &text, e), *line;
    if (!at)
        return -1;
    while ((line = conf_line(&at))) {
        char *val = conf_split(line);
        syslinux_line(s, line, val);
    }
    end_label(s);
    blob_free(&text);
    if (!s->have_first)
        return err_set(e, "%s has no Linux in it", path);
    *c = s->chosen.conf;
    return 1;
}

int syslinux_find(const struct conf_disk *d, struct disk_fs *fs, struct conf *c, struct err *e)
{
    static const char *const dirs[] = {"/boot/extlinux", "/extlinux", "/boot/syslinux",
                                       "/syslinux",      "/boot",     ""};
    static const char *const names[] = {"extlinux.conf", "syslinux.cfg"};
    for (unsigned i = 0; i < ARRAY_SIZE(dirs); i++)
        for (unsigned k = 0; k < ARRAY_SIZE(names); k++) {
            char path[64];
            snprintf(path, sizeof(path), "%s/%s", dirs[i], names[k]);
            if (!disk_fs_exists(fs, path))
                continue;
            struct syslinux *s = calloc(1, sizeof(*s));
            if (!s)
                return err_set(e, "out of memory");
            s->fs = fs;
            s->dir = dirs[i];
            int rc = syslinux_read(s, path, c, e);
            free(s);
            return rc;
        }
    return 0;
}

/* --- no configuration: the newest kernel --- */

struct newest {
    char version[DISK_NAME_MAX]; /* the name behind vmlinuz */
    bool found;
};

static bool note_kernel(void *arg, const char *name)
{
    struct newest *n = arg;
    if (strncmp(name, "vmlinuz", 7) != 0 || strstr(name, "rescue"))
        return true;
    if (!n->found || conf_version_cmp(name + 7, n->version) > 0)
        snprintf(n->version, sizeof(n->version), "%s", name + 7);
    n->found = true;
    return true;
}

/* Is this where a system lives, rather than a /boot of its own? */
static bool is_root(struct disk_fs *fs)
{
    return disk_fs_exists(fs, "/etc") || disk_fs_exists(fs, "/sbin/init");
}

static void name_root(const struct conf_disk *d, struct disk_fs *fs, struct conf *c)
{
    struct disk_fs *root = NULL;
    for (unsigned i = 0; i < d->nfs && !root; i++)
        root = is_root(d->fs[i]) ? d->fs[i] : NULL;
    if (is_root(fs) || !root)
        root = fs;
    if (c->ninitrds && root->uuid[0]) /* without one the kernel knows partitions only */
        snprintf(c->cmdline, sizeof(c->cmdline), "root=UUID=%s ro", root->uuid);
    else if (root->part.uuid[0])
        snprintf(c->cmdline, sizeof(c->cmdline), "root=PARTUUID=%s ro", root->part.uuid);
    else if (root->part.number)
        snprintf(c->cmdline, sizeof(c->cmdline), "root=/dev/vda%u ro", root->part.number);
    else
        snprintf(c->cmdline, sizeof(c->cmdline), "root=/dev/vda ro");
}

static void find_initrd(struct disk_fs *fs, const char *dir, const char *version, struct conf *c)
{
    static const char *const forms[] = {"%s/initrd.img%s", "%s/initramfs%s.img", "%s/initrd%s",
                                        "%s/initramfs%s", "%s/initrd%s.img"};
    for (unsigned i = 0; i < ARRAY_SIZE(forms); i++) {
        char path[DISK_PATH_MAX];
        snprintf(path, sizeof(path), forms[i], dir, version);
        if (disk_fs_exists(fs, path)) {
            conf_add_initrd(c, fs, path);
            return;
        }
    }
}

int newest_find(const struct conf_disk *d, struct disk_fs *fs, struct conf *c, struct err *e)
{
    static const char *const dirs[] = {"/boot", ""};
    for (unsigned i = 0; i < ARRAY_SIZE(dirs); i++) {
        struct newest n = {.found = false};
        disk_fs_list(fs, *dirs[i] ? dirs[i] : "/", note_kernel, &n);
        if (!n.found)
            continue;
        *c = (struct conf){.kernel = {.fs = fs}};
        snprintf(c->kernel.path, sizeof(c->kernel.path), "%s/vmlinuz%s", dirs[i], n.version);
        snprintf(c->title, sizeof(c->title), "the newest kernel");
        find_initrd(fs, dirs[i], n.version, c);
        name_root(d, fs, c);
        return 1;
    }
    return 0;
}
