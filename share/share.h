/*
 * share.h - a folder of the host, served to a guest by 9P2000.L or by FUSE.
 *
 * The server knows no transport: share_serve() takes one request (a T-message) and makes one reply
 * (an R-message). It may be called from several threads at once; a call blocks as long as the file
 * operation does.
 *
 * The guest is hostile, and so may be other processes that rename and link within the folder while
 * the guest walks it. Nothing outside the folder is ever reached:
 *   - a fid is held as an O_PATH descriptor of the file itself (share_node.h), not as a path;
 *   - names are resolved one at a time, relative to the descriptor of their directory, and a
 *     symbolic link is never followed: the guest's kernel does that, with its own names;
 *   - ".." never reaches the host's kernel; it leads to the directory that was walked through;
 *   - a file is opened through /proc/self/fd of that descriptor, after its type has been seen: only
 *     regular files and directories are, so that no device, FIFO or socket of the host is touched.
 * File systems that are mounted in the folder are part of it, but for /proc, where the monitor's
 * own memory is a file.
 *
 * What a process of the host moves out of the folder stays reachable to a guest that already had a
 * fid for it, as it would for any process with an open descriptor.
 *
 * Ownership. An ordinary user cannot give files away, and a guest's root must not make set-user-ID
 * programs or device nodes on the host. Where the file system has user extended attributes, the
 * guest's idea of owner, group, mode and device number is kept in one of them, user.popf.attr
 * (share_attr.c), and the host's file belongs to whoever runs popf. Elsewhere attributes are the
 * host's own, and what an ordinary user may not do fails.
 *
 * Source: the 9P2000.L description of diod, and Linux's include/net/9p/9p.h for the numbers;
 * Linux's include/uapi/linux/fuse.h.
 */
#ifndef POPF_SHARE_H
#define POPF_SHARE_H

#include "base/base.h"

#define SHARE_MSIZE_MAX (512 * KiB) /* longest message, either way */
#define SHARE_MSIZE_MIN 4096
#define SHARE_REPLY_MIN 11 /* an Rlerror: a reply buffer that is smaller gets nothing */

struct share;

struct share_config {
    const char *path; /* a directory of the host */
    bool readonly;    /* whatever would change something fails with EROFS */
    bool passthrough; /* attributes are the host's even where they could be mapped */
    unsigned fds_max; /* descriptors held at most; 0: half of RLIMIT_NOFILE's soft limit */
};

/* Opens the folder. NULL, with *e filled, if it is not a directory that can be read. */
struct share *share_open(const struct share_config *cfg, struct err *e);

/* No call of share_serve() may be running. NULL is allowed. */
void share_close(struct share *s);

/* As Tversion does: every fid and lock is gone. The device was reset. */
void share_reset(struct share *s);

/* Is there a session: a guest that has the folder mounted, or just had? */
bool share_in_use(const struct share *s);

/*
 * Serves the request of `n` bytes and returns the length of the reply, at most `cap`. 0: the
 * request is too damaged to have a tag, or cap is below SHARE_REPLY_MIN. Bytes that follow the
 * message's own length are ignored.
 *
 * Tflush is answered at once: holding it back until the request that it names was answered is up to
 * the transport, which alone knows the order (share_flushes()).
 */
size_t share_serve(struct share *s, const u8 *req, size_t n, u8 *reply, size_t cap);

/*
 * The same for FUSE, as virtio-fs carries it. 0: the request wants no reply. A share serves one of
 * the two protocols, and the guest begins with Tversion or FUSE_INIT.
 */
size_t share_fuse_serve(struct share *s, const u8 *req, size_t n, u8 *reply, size_t cap);

/* Is this request a Tflush? If so *oldtag is the tag that it waits for. */
bool share_flushes(const u8 *req, size_t n, u16 *oldtag);

/* The request's tag, or -1 if it is too short to have one. */
int share_tag(const u8 *req, size_t n);

#endif
