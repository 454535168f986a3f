/*
 * virtio_9p.h - a folder of the host, for the guest to mount:
 *     mount -t 9p -o trans=virtio,version=9p2000.L TAG /mnt
 *
 * Source: virtio 1.2, 5.9 names the device; queue and configuration are as in its drivers: one
 * queue, of which each chain is a T-message to read and room for an R-message to write.
 *
 * Requests are copied in under the device lock, served by threads (share_pool.h), and copied out on
 * the machine's I/O thread.
 */
#ifndef POPF_VIRTIO_9P_H
#define POPF_VIRTIO_9P_H

#include "base/loop.h"
#include "dev/virtio.h"
#include "share/share_pool.h"

#define VIRTIO_9P_MOUNT_TAG BIT(0)
#define VIRTIO_9P_TAG_MAX   255
#define VIRTIO_9P_QUEUE     128

struct virtio_9p_config {
    struct share_config share;
    const char *tag; /* 1 to VIRTIO_9P_TAG_MAX bytes */
    struct loop *loop;
    struct mem *mem;
    const struct log *log;
};

struct virtio_9p {
    struct virtio_dev v;
    struct share *share;
    struct share_pool pool;
    u8 config[2 + VIRTIO_9P_TAG_MAX];
};

/* Opens the folder and starts the threads. On failure nothing is left to free. */
int virtio_9p_init(struct virtio_9p *p, const struct virtio_9p_config *cfg, struct err *e);

/* Waits for requests that are being served. Device lock held. */
void virtio_9p_free(struct virtio_9p *p);

/* Fails when the folder is mounted: what the guest has open cannot be saved. */
void virtio_9p_state(struct virtio_9p *p, struct state *s);

#endif
