/*
 * Names of machines, and the folders behind them.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/machine.h"
#include "cli/text.h"

bool machine_name_ok(const char *name)
{
    size_t n = strlen(name);
    if (!n || n > MACHINE_NAME_MAX || !isalnum((unsigned char)name[0]))
        return false;
    for (; *name; name++)
        if (!isalnum((unsigned char)*name) && !strchr("-_.", *name))
            return false;
    return true;
}

static char *join(char *base, const char *name, const char *file)
{
    char *path = !name   ? xstrdup(base)
                 : !file ? xasprintf("%s/%s", base, name)
                         : xasprintf("%s/%s/%s", base, name, file);
    free(base);
    return path;
}

char *machine_runtime(const char *name, const char *file)
{
    const char *dir = getenv("XDG_RUNTIME_DIR");
    if (dir && dir[0] == '/' && !access(dir, W_OK | X_OK))
        return join(xasprintf("%s/popf", dir), name, file);
    return join(xasprintf("/tmp/popf-%u", geteuid()), name, file);
}

char *machine_state(const char *name, const char *file)
{
    const char *dir = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    if (dir && dir[0] == '/')
        return join(xasprintf("%s/popf", dir), name, file);
    return join(xasprintf("%s/.local/state/popf", home ? home : ""), name, file);
}

static int fail(struct popf_error *err, const char *what, const char *path, const char *why)
{
    snprintf(err->msg, sizeof(err->msg), "%s %s: %s", what, path, why);
    return -1;
}

/* Makes the folder and those above it. It must be ours: /tmp belongs to everybody. */
static int make_dir(const char *path, bool private, struct popf_error *err)
{
    char *copy = xstrdup(path);
    for (char *p = copy + 1; *p; p++)
        if (*p == '/') {
            *p = 0;
            mkdir(copy, 0700);
            *p = '/';
        }
    free(copy);
    struct stat st;
    if (mkdir(path, 0700) && errno != EEXIST)
        return fail(err, "cannot make the folder", path, strerror(errno));
    if (lstat(path, &st))
        return fail(err, "cannot look at", path, strerror(errno));
    if (!S_ISDIR(st.st_mode) || (private && st.st_uid != geteuid()))
        return fail(err, "cannot use", path, "it is not a folder of yours");
    if (private && (st.st_mode & 077) && chmod(path, 0700))
        return fail(err, "cannot use", path, "others have access to it");
    return 0;
}

static int make_dirs(const char *name, struct popf_error *err)
{
    char *all = machine_runtime(NULL, NULL), *run = machine_runtime(name, NULL);
    int rc = make_dir(all, true, err) || make_dir(run, true, err) ? -1 : 0;
    free(all), free(run);
    return rc;
}

/* --- the lock: fcntl's, as that tells who holds it --- */

static bool try_lock(int fd)
{
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return !fcntl(fd, F_SETLK, &l);
}

/* A sweeper may have removed the file between open() and the lock. */
static bool still_there(int fd, const char *path)
{
    struct stat a, b;
    return !fstat(fd, &a) && !stat(path, &b) && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

static void remove_files(const char *dir, bool lock_too)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    while (d && (e = readdir(d))) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") ||
            (!lock_too && !strcmp(e->d_name, "lock")))
            continue;
        unlinkat(dirfd(d), e->d_name, 0);
    }
    if (d)
        closedir(d);
}

int machine_claim(const char *name, bool *taken, struct popf_error *err)
{
    char *path = machine_runtime(name, "lock"), *dir = machine_runtime(name, NULL);
    int fd = -1;
    *taken = false;
    for (unsigned tries = 0; fd < 0 && !*taken && tries < 100; tries++) {
        if (make_dirs(name, err))
            break;
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0 && errno != ENOENT) {
            fail(err, "cannot make", path, strerror(errno));
            break;
        }
        *taken = fd >= 0 && !try_lock(fd);
        if (fd >= 0 && (*taken || !still_there(fd, path))) {
            close(fd);
            fd = -1;
        }
    }
    if (fd >= 0)
        remove_files(dir, false);
    if (*taken)
        snprintf(err->msg, sizeof(err->msg), "a machine %s is running already; popf ps lists them",
                 name);
    free(path), free(dir);
    return fd;
}

void machine_unclaim(const char *name, int lock)
{
    char *dir = machine_runtime(name, NULL);
    if (lock >= 0) {
        remove_files(dir, true);
        rmdir(dir);
        close(lock);
    }
    free(dir);
}

pid_t machine_owner(const char *name)
{
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    char *path = machine_runtime(name, "lock");
    int fd = open(path, O_RDWR | O_CLOEXEC);
    pid_t pid = fd >= 0 && !fcntl(fd, F_GETLK, &l) && l.l_type != F_UNLCK ? l.l_pid : 0;
    if (fd >= 0)
        close(fd);
    free(path);
    return pid;
}

void machine_sweep(const char *name)
{
    char *path = machine_runtime(name, "lock");
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd >= 0 && try_lock(fd) && still_there(fd, path))
        machine_unclaim(name, fd);
    else if (fd >= 0)
        close(fd);
    free(path);
}

static int compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

struct args machine_names(const char *folder)
{
    struct args names = {0};
    DIR *d = opendir(folder);
    struct dirent *e;
    while (d && (e = readdir(d)))
        if (machine_name_ok(e->d_name))
            args_add(&names, e->d_name);
    if (d)
        closedir(d);
    if (names.n)
        qsort(names.v, names.n, sizeof(*names.v), compare);
    return names;
}
