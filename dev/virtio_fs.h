/*
 * virtio_fs.h - a folder of the host, for guests whose kernel has virtio-fs and not 9P, as Debian's
 * cloud kernel:
 *     mount -t virtiofs TAG /mnt
 *
 * Source: virtio 1.2, 5.11. Queue 0 is for FORGET, the other for all else; each chain is a FUSE
 * request to read and room for its reply. There is no DAX window.
 */
#ifndef POPF_VIRTIO_FS_H
#define POPF_VIRTIO_FS_H

#include "base/loop.h"
#include "dev/virtio.h"
#include "share/share_pool.h"

#define VIRTIO_FS_ID      26 /* 5: device type */
#define VIRTIO_FS_TAG_MAX 36
#define VIRTIO_FS_QUEUE   128

struct virtio_fs_config {
    struct share_config share;
    const char *tag; /* 1 to VIRTIO_FS_TAG_MAX bytes */
    struct loop *loop;
    struct mem *mem;
    const struct log *log;
};

struct virtio_fs {
    struct virtio_dev v;
    struct share *share;
    struct share_pool pool;
    u8 config[VIRTIO_FS_TAG_MAX + 4]; /* 5.11.4: tag, num_request_queues */
};

/* Opens the folder and starts the threads. On failure nothing is left to free. */
int virtio_fs_init(struct virtio_fs *p, const struct virtio_fs_config *cfg, struct err *e);

/* Waits for requests that are being served. Device lock held. */
void virtio_fs_free(struct virtio_fs *p);

/* Fails when the folder is mounted: what the guest has open cannot be saved. */
void virtio_fs_state(struct virtio_fs *p, struct state *s);

#endif
