#include "share/share_node.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "share/share_priv.h"

#define OPEN_NODE (O_PATH | O_NOFOLLOW | O_CLOEXEC)

/* --- the hash of (directory, name) --- */

static unsigned hash(const struct share_node *dir, const char *name)
{
    u64 h = 0xcbf29ce484222325ull ^ (uintptr_t)dir;
    for (; *name; name++)
        h = (h ^ (u8)*name) * 0x100000001b3ull;
    return (h ^ h >> 32) % SHARE_NODE_BUCKETS;
}

static struct share_node *find(struct share *s, const struct share_node *dir, const char *name)
{
    struct share_node *n = s->tree.bucket[hash(dir, name)];
    while (n && (n->parent != dir || strcmp(n->name, name)))
        n = n->next;
    return n;
}

static void insert(struct share *s, struct share_node *n)
{
    struct share_node **head = &s->tree.bucket[hash(n->parent, n->name)];
    n->next = *head;
    *head = n;
    n->hashed = true;
}

/* --- descriptors that could be closed --- */

static void unlist(struct share *s, struct share_node *n)
{
    if (!n->listed)
        return;
    *(n->older ? &n->older->newer : &s->tree.oldest) = n->newer;
    *(n->newer ? &n->newer->older : &s->tree.newest) = n->older;
    n->older = n->newer = NULL;
    n->listed = false;
}

static void list(struct share *s, struct share_node *n)
{
    if (n->listed || n->fd < 0 || n->users || !n->hashed || !n->parent)
        return;
    n->older = s->tree.newest;
    n->newer = NULL;
    *(s->tree.newest ? &s->tree.newest->newer : &s->tree.oldest) = n;
    s->tree.newest = n;
    n->listed = true;
}

static void close_fd(struct share *s, struct share_node *n)
{
    if (n->fd < 0)
        return;
    close(n->fd);
    n->fd = -1;
    s->tree.fds--;
}

int share_node_reserve(struct share *s)
{
    struct share_tree *t = &s->tree;
    while (t->fds >= t->fds_max) {
        struct share_node *n = t->oldest;
        if (!n)
            return ENFILE;
        unlist(s, n);
        close_fd(s, n);
    }
    t->fds++;
    return 0;
}

void share_node_release(struct share *s)
{
    assert(s->tree.fds);
    s->tree.fds--;
}

/* --- life --- */

/* A node with one reference. Takes fd over, which has been reserved. */
static struct share_node *make(struct share *s, struct share_node *dir, const char *name, int fd,
                               const struct stat *st)
{
    struct share_node *n = s->tree.nodes < SHARE_NODES_MAX ? calloc(1, sizeof(*n)) : NULL;
    char *copy = n ? strdup(name) : NULL;
    if (!copy) {
        free(n);
        return NULL;
    }
    *n = (struct share_node){.parent = dir,
                             .name = copy,
                             .refs = 1,
                             .fd = fd,
                             .type = st->st_mode & S_IFMT,
                             .dev = st->st_dev,
                             .ino = st->st_ino};
    s->tree.nodes++;
    if (dir) {
        share_node_ref(dir);
        insert(s, n);
        list(s, n);
    }
    return n;
}

void share_node_unhash(struct share *s, struct share_node *n)
{
    if (!n->hashed)
        return;
    struct share_node **p = &s->tree.bucket[hash(n->parent, n->name)];
    while (*p != n)
        p = &(*p)->next;
    *p = n->next;
    n->hashed = false;
    unlist(s, n);
}

void share_node_put(struct share *s, struct share_node *n)
{
    while (n && !--n->refs) {
        struct share_node *parent = n->parent;
        share_node_unhash(s, n);
        unlist(s, n);
        close_fd(s, n);
        free(n->name);
        free(n);
        s->tree.nodes--;
        n = parent;
    }
}

int share_node_init(struct share *s, int rootfd)
{
    struct stat st;
    if (fstat(rootfd, &st))
        return errno;
    s->tree.root = make(s, NULL, "", rootfd, &st);
    s->tree.fds++;
    return s->tree.root ? 0 : ENOMEM;
}

void share_node_free(struct share *s)
{
    if (!s->tree.root)
        return;
    assert(s->tree.root->refs == 1);
    share_node_put(s, s->tree.root);
    s->tree.root = NULL;
}

/* --- opening --- */

/*
 * One component cannot leave the directory, unless it is a symbolic link that is followed or "..":
 * O_NOFOLLOW keeps the first from happening and the callers the second. openat2() says the same
 * once more, in the kernel's words, and covers magic links and automounts too.
 */
int share_node_openat(struct share *s, int dirfd, const char *name)
{
    struct open_how how = {
        .flags = OPEN_NODE,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };
    assert(!strchr(name, '/') && strcmp(name, "..") && *name);
    for (int tries = 0; !__atomic_load_n(&s->tree.no_openat2, __ATOMIC_RELAXED); tries++) {
        int fd = syscall(SYS_openat2, dirfd, name, &how, sizeof(how));
        if (fd >= 0)
            return fd;
        if (errno == EAGAIN && tries < 100) /* a rename somewhere, while it looked */
            continue;
        if (errno != ENOSYS && errno != EPERM)
            return -errno;
        if (errno == EPERM) /* a seccomp filter, or the file system's own answer */
            break;
        __atomic_store_n(&s->tree.no_openat2, true, __ATOMIC_RELAXED);
    }
    int fd = openat(dirfd, name, OPEN_NODE);
    return fd >= 0 ? fd : -errno;
}

static bool same(const struct share_node *n, const struct stat *st)
{
    return n->dev == st->st_dev && n->ino == st->st_ino && n->type == (st->st_mode & S_IFMT);
}

/* Opens n again, in its directory `dirfd`: a descriptor of the same file, or -errno. */
static int open_level(struct share *s, int dirfd, const struct share_node *n)
{
    struct stat st;
    if (!n->hashed)
        return -ESTALE;
    int fd = share_node_openat(s, dirfd, n->name);
    if (fd < 0)
        return fd == -ENOENT || fd == -ENOTDIR ? -ESTALE : fd;
    if (fstat(fd, &st) || !same(n, &st)) {
        close(fd);
        return -ESTALE;
    }
    return fd;
}

/* The ancestors of n that are closed, outermost first, n last (it is closed): an array that the
 * caller frees. */
static struct share_node **closed_path(struct share_node *n, size_t *len)
{
    size_t count = 1;
    for (struct share_node *p = n->parent; p->fd < 0; p = p->parent)
        count++;
    struct share_node **path = malloc(count * sizeof(struct share_node *));
    *len = count;
    for (; path && count; n = n->parent)
        path[--count] = n;
    return path;
}

/* From the nearest ancestor that is open. Directories on the way are opened for the moment only: a
 * path of any depth needs two descriptors. */
static int reopen(struct share *s, struct share_node *n)
{
    size_t len;
    struct share_node **path = closed_path(n, &len);
    if (!path)
        return -ENOMEM;
    int fd = -ESTALE;
    for (size_t i = 0; i < len; i++) {
        int dir = i ? fd : path[i]->parent->fd;
        fd = open_level(s, dir, path[i]);
        if (i)
            close(dir);
        if (fd < 0)
            break;
    }
    free(path);
    return fd;
}

int share_node_pin(struct share *s, struct share_node *n)
{
    unlist(s, n);
    n->users++;
    if (n->fd >= 0)
        return 0;
    int err = share_node_reserve(s);
    if (!err) {
        int fd = reopen(s, n);
        if (fd >= 0) {
            n->fd = fd;
            return 0;
        }
        share_node_release(s);
        err = -fd;
    }
    n->users--;
    return err;
}

void share_node_unpin(struct share *s, struct share_node *n)
{
    assert(n->users);
    n->users--;
    list(s, n);
}

/* --- names --- */

/* The node of (dir, name), whose file is fd: the one that is known, or a new one. fd is reserved
 * and taken over. */
static int settle(struct share *s, struct share_node *dir, const char *name, int fd,
                  const struct stat *st, struct share_node **out)
{
    struct share_node *n = find(s, dir, name);
    if (n && same(n, st)) {
        share_node_ref(n);
        if (n->fd >= 0) {
            close(fd);
            share_node_release(s);
        } else {
            n->fd = fd;
            list(s, n);
        }
        *out = n;
        return 0;
    }
    if (n)
        share_node_unhash(s, n);
    *out = make(s, dir, name, fd, st);
    if (*out)
        return 0;
    close(fd);
    share_node_release(s);
    return ENOMEM;
}

/*
 * Not even of a shared "/" is /proc a part: the memory of this very process is a regular file
 * there.
 */
static int check_mount(const struct share_node *dir, int fd, const struct stat *st)
{
    struct statfs fs;
    if (st->st_dev == dir->dev)
        return 0;
    if (fstatfs(fd, &fs))
        return errno;
    return fs.f_type == PROC_SUPER_MAGIC ? EACCES : 0;
}

/* fd >= 0, or -errno of an attempt to open; the descriptor has been reserved. */
static int finish(struct share *s, struct share_node *dir, const char *name, int fd,
                  struct share_node **out, struct stat *st)
{
    int err = fd < 0 ? -fd : fstat(fd, st) ? errno : check_mount(dir, fd, st);
    pthread_mutex_lock(&s->lock);
    if (!err) {
        err = settle(s, dir, name, fd, st, out);
    } else {
        if (fd >= 0)
            close(fd);
        share_node_release(s);
    }
    pthread_mutex_unlock(&s->lock);
    return err;
}

static int reserve(struct share *s)
{
    pthread_mutex_lock(&s->lock);
    int err = share_node_reserve(s);
    pthread_mutex_unlock(&s->lock);
    return err;
}

int share_node_walk(struct share *s, struct share_node *dir, const char *name,
                    struct share_node **out, struct stat *st)
{
    int err = reserve(s);
    if (err)
        return err;
    return finish(s, dir, name, share_node_openat(s, dir->fd, name), out, st);
}

int share_node_adopt(struct share *s, struct share_node *dir, const char *name, int fd,
                     struct share_node **out, struct stat *st)
{
    int err = reserve(s);
    if (err)
        return err;
    struct share_proc path = share_proc(fd);
    int node = open(path.name, O_PATH | O_CLOEXEC);
    return finish(s, dir, name, node < 0 ? -errno : node, out, st);
}

struct share_node *share_node_keep(struct share *s, struct share_node *dir, const char *name)
{
    struct share_node *n = find(s, dir, name);
    if (!n)
        return NULL;
    share_node_ref(n);
    if (!share_node_pin(s, n)) /* else it is stale already */
        share_node_unpin(s, n);
    return n;
}

void share_node_move(struct share *s, struct share_node *n, struct share_node *dir,
                     const char *name)
{
    share_node_unhash(s, n);
    /* Directories moved by others may have left the tree of names behind: it must not become a
     * ring. */
    for (struct share_node *p = dir; p; p = p->parent)
        if (p == n)
            return;
    char *copy = strdup(name);
    if (!copy)
        return;
    struct share_node *was = n->parent, *there = find(s, dir, name);
    if (there)
        share_node_unhash(s, there);
    free(n->name);
    n->name = copy;
    n->parent = dir;
    share_node_ref(dir);
    insert(s, n);
    list(s, n);
    share_node_put(s, was);
}
