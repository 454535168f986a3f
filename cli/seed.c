#include "cli/seed.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/text.h"

#define FILE_MAX_ (4u << 20)

enum { USER_DATA, META_DATA, NETWORK_CONFIG, VENDOR_DATA, NPARTS };

static const char *const names[NPARTS] = {"user-data", "meta-data", "network-config",
                                          "vendor-data"};

static int fail(struct popf_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static int fail(struct popf_error *err, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
    va_end(ap);
    return -1;
}

/* Adds a file to t. 1 if there is none and it may be missing. */
static int read_file(struct text *t, const char *path, bool may_miss, struct popf_error *err)
{
    char buf[4096];
    size_t n;
    FILE *f = fopen(path, "re");
    if (!f && may_miss && errno == ENOENT)
        return 1;
    if (!f)
        return fail(err, "cannot read %s: %s", path, strerror(errno));
    while ((n = fread(buf, 1, sizeof(buf), f)) && t->n < FILE_MAX_)
        text_put(t, buf, n);
    bool bad = ferror(f);
    fclose(f);
    if (bad)
        return fail(err, "cannot read %s", path);
    return t->n < FILE_MAX_ ? 0 : fail(err, "%s is too long for a seed", path);
}

static int read_folder(struct text *parts, const char *dir, struct popf_error *err)
{
    int rc = 0;
    for (unsigned i = 0; rc >= 0 && i < NPARTS; i++) {
        char *path = xasprintf("%s/%s", dir, names[i]);
        rc = read_file(&parts[i], path, i != USER_DATA, err);
        free(path);
    }
    return rc < 0 ? -1 : 0;
}

static int read_from(struct text *parts, const char *from, struct popf_error *err)
{
    struct stat st;
    if (stat(from, &st))
        return fail(err, "cannot read %s: %s", from, strerror(errno));
    if (S_ISDIR(st.st_mode))
        return read_folder(parts, from, err);
    return read_file(&parts[USER_DATA], from, false, err);
}

/* --- a user --- */

/* Each line of the file that is a key. */
static int put_keys(struct text *t, const char *path, struct popf_error *err)
{
    struct text keys = {0};
    if (read_file(&keys, path, false, err))
        return -1;
    unsigned n = 0;
    char *rest = keys.s, *line;
    while (rest && (line = strsep(&rest, "\r\n"))) {
        while (isspace((unsigned char)*line))
            line++;
        if (!*line || *line == '#')
            continue;
        if (strstr(line, "PRIVATE KEY"))
            break;
        text_putf(t, "      - ");
        text_quote(t, line);
        text_putf(t, "\n");
        n++;
    }
    text_free(&keys);
    return n ? 0 : fail(err, "%s: there is no public ssh key in it (the .pub file is meant)", path);
}

static int make_user(struct text *t, const struct seed *s, struct popf_error *err)
{
    int rc = 0;
    text_putf(t, "#cloud-config\nusers:\n  - name: ");
    text_quote(t, s->user);
    text_putf(t, "\n    shell: /bin/bash\n    sudo: \"ALL=(ALL:ALL) NOPASSWD:ALL\"\n");
    if (s->nkeys)
        text_putf(t, "    ssh_authorized_keys:\n");
    for (unsigned i = 0; !rc && i < s->nkeys; i++)
        rc = put_keys(t, s->keys[i], err);
    return rc;
}

/* Apart, as the hash is another one each time. */
static void put_password(struct text *t, const char *password)
{
    char *hash = text_crypt(password);
    text_putf(t, "    lock_passwd: %s\n", password ? "false" : "true");
    if (password)
        text_putf(t, "    passwd: \"%s\"\n", hash);
    free(hash);
}

/* --- what cloud-init needs besides --- */

static uint64_t hash(uint64_t h, const char *s)
{
    for (; s && *s; s++) /* FNV-1a */
        h = (h ^ (unsigned char)*s) * 0x100000001b3ull;
    return (h ^ 255) * 0x100000001b3ull;
}

/* cloud-init sets a machine up once per instance-id: another one when something else is asked for.
 */
static void make_meta_data(struct text *parts, const struct seed *s)
{
    uint64_t id = 0xcbf29ce484222325ull;
    for (unsigned i = 0; i < NPARTS; i++)
        id = hash(id, parts[i].s);
    id = hash(hash(id, s->password), s->hostname);
    text_putf(&parts[META_DATA], "instance-id: popf-%016llx\n", (unsigned long long)id);
    if (!s->hostname)
        return;
    text_putf(&parts[META_DATA], "local-hostname: ");
    text_quote(&parts[META_DATA], s->hostname);
    text_putf(&parts[META_DATA], "\n");
}

static const char network_config[] = "version: 2\n"
                                     "ethernets:\n"
                                     "  all:\n"
                                     "    match:\n"
                                     "      name: \"e*\"\n"
                                     "    dhcp4: true\n"
                                     "    dhcp6: true\n";

static int save(const char *path, const void *data, size_t len, struct popf_error *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    size_t done = 0;
    while (fd >= 0 && done < len) {
        ssize_t n = write(fd, (const char *)data + done, len - done);
        if (n < 0 && errno != EINTR)
            break;
        done += n > 0 ? (size_t)n : 0;
    }
    int e = errno;
    if (fd >= 0 && close(fd))
        done = 0;
    return fd >= 0 && done == len ? 0 : fail(err, "cannot write %s: %s", path, strerror(e));
}

static int write_parts(const struct text *parts, const char *path, struct popf_error *err)
{
    struct iso_file files[NPARTS];
    unsigned n = 0;
    for (unsigned i = 0; i < NPARTS; i++)
        if (i <= META_DATA || parts[i].n)
            files[n++] = (struct iso_file){names[i], parts[i].s, parts[i].n};
    size_t len = 0;
    void *image = iso_make("cidata", files, n, &len);
    int rc = save(path, image, len, err);
    free(image);
    return rc;
}

int seed_write(const struct seed *s, const char *path, struct popf_error *err)
{
    struct text parts[NPARTS] = {0};
    int rc = s->from ? read_from(parts, s->from, err) : make_user(&parts[USER_DATA], s, err);
    if (!rc) {
        if (!parts[META_DATA].n)
            make_meta_data(parts, s);
        if (!s->from)
            put_password(&parts[USER_DATA], s->password);
        if (!parts[NETWORK_CONFIG].n)
            text_put(&parts[NETWORK_CONFIG], network_config, sizeof(network_config) - 1);
        rc = write_parts(parts, path, err);
    }
    for (unsigned i = 0; i < NPARTS; i++)
        text_free(&parts[i]);
    return rc;
}
