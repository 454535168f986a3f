/*
 * share_node.h - the files that the guest knows, as a tree of names, each with an O_PATH
 * descriptor.
 *
 * A node stands for one name in one directory and is shared by all fids that came there. It keeps
 * the file's device and inode numbers. The descriptor is what operations use. When descriptors
 * become short, those of nodes not in use are closed, the least recently used first, and reopened
 * through their directories' when needed, one name at a time; a file that is not the one it was
 * (device and inode differ) gives ESTALE. A node whose name was removed or taken by another file is
 * `unhashed`: it lives on by its descriptor alone, which is therefore never closed early.
 *
 * Names follow the renames made through this server. Those made by others are noticed when the name
 * is walked to again.
 *
 * Everything here is protected by share->lock, which the caller holds unless it says otherwise.
 */
#ifndef POPF_SHARE_NODE_H
#define POPF_SHARE_NODE_H

#include <sys/stat.h>
#include <sys/types.h>

#include "base/base.h"

struct share;

struct share_node {
    struct share_node *parent; /* NULL for the root only; holds a reference */
    struct share_node *next;   /* in a bucket of the hash */
    struct share_node *older, *newer;
    char *name;
    u32 refs;  /* fids, operations under way, children */
    u32 users; /* operations under way that use fd */
    int fd;    /* O_PATH|O_NOFOLLOW, or -1: closed for want of descriptors */
    mode_t type;
    dev_t dev;
    ino_t ino;
    bool hashed; /* (parent, name) leads here */
    bool listed; /* in the list of descriptors that could be closed */
};

#define SHARE_NODE_BUCKETS (1u << 16)
#define SHARE_NODES_MAX    (1u << 20)

struct share_tree {
    struct share_node *root;
    struct share_node *bucket[SHARE_NODE_BUCKETS];
    struct share_node *oldest, *newest; /* of the closable descriptors */
    unsigned nodes;
    unsigned fds, fds_max; /* held now, nodes' and open files' together */
    bool no_openat2;       /* the host's kernel or its seccomp filter lacks it */
};

/* Takes the descriptor over. */
int share_node_init(struct share *s, int rootfd);

/* All fids are gone; only the root is left. */
void share_node_free(struct share *s);

/* Makes room for one descriptor more and counts it; ENFILE if nothing can be closed. */
int share_node_reserve(struct share *s);
void share_node_release(struct share *s);

static inline void share_node_ref(struct share_node *n)
{
    n->refs++;
}

void share_node_put(struct share *s, struct share_node *n);

/* Makes sure that n->fd is open and stays so until share_node_unpin(). 0 or an errno. */
int share_node_pin(struct share *s, struct share_node *n);
void share_node_unpin(struct share *s, struct share_node *n);

/* Without the lock. Opens `name` (no "/", not "..") in the directory `dirfd` with O_PATH. Returns a
 * descriptor or -errno. */
int share_node_openat(struct share *s, int dirfd, const char *name);

/*
 * Without the lock. The node of `name` in `dir`, which is pinned, with a reference for the caller.
 * 0 or an errno. *st is what fstat() says of it.
 */
int share_node_walk(struct share *s, struct share_node *dir, const char *name,
                    struct share_node **out, struct stat *st);

/* Without the lock. The same for a file that is open already as `fd`, which is not taken over. */
int share_node_adopt(struct share *s, struct share_node *dir, const char *name, int fd,
                     struct share_node **out, struct stat *st);

/* (dir, name) is about to lose its file: whoever has a fid for it keeps it, as of an open file. The
 * node, with a reference for the caller, or NULL if nobody has. */
struct share_node *share_node_keep(struct share *s, struct share_node *dir, const char *name);

/* The name is gone. */
void share_node_unhash(struct share *s, struct share_node *n);

/* The name is now `name` in `dir`. */
void share_node_move(struct share *s, struct share_node *n, struct share_node *dir,
                     const char *name);

#endif
