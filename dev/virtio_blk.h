/*
 * virtio_blk.h - a disk.
 *
 * Source: OASIS Virtual I/O Device (VIRTIO) 1.2, 5.2 (block device). The image is block/block.h.
 */
#ifndef POPF_VIRTIO_BLK_H
#define POPF_VIRTIO_BLK_H

#include "block/block.h"
#include "dev/virtio.h"

#define VIRTIO_BLK_QUEUES_MAX 16
#define VIRTIO_BLK_SERIAL_MAX 20

struct virtio_blk_slot; /* a request that was popped */

struct virtio_blk_config {
    struct block_config disk; /* its loop is the machine's */
    const char *serial;       /* up to VIRTIO_BLK_SERIAL_MAX bytes are shown; NULL: none */
    unsigned queues;          /* 0: one */
    /*
     * A request that fails for a reason of the host's (a full disk) is kept instead of failing, and
     * stop() is told, lock held, so that the machine is paused; virtio_blk_retry() tries again.
     */
    bool stop_on_error;
    void (*stop)(void *arg, const char *why);
    void *arg;
};

struct virtio_blk {
    struct virtio_dev v;
    struct virtio_blk_config cfg;
    struct block *block;
    u64 sectors; /* of 512 bytes */
    u8 config[60];
    char serial[VIRTIO_BLK_SERIAL_MAX];
    struct virtio_blk_slot *all, *unused, *stalled;
    struct loop_post again;
    u64 again_queues; /* bit mask: queues that were left with chains in them */
};

/* Opens the image. On failure nothing is to be freed. */
int virtio_blk_init(struct virtio_blk *b, const struct virtio_blk_config *cfg, struct mem *mem,
                    struct err *e);

/*
 * Ends all requests and closes the image. The loop's lock is held, or it turns no more. -1 and *e
 * if the image may lack something that was written.
 */
int virtio_blk_free(struct virtio_blk *b, struct err *e);

/* Tries again what stop() was told of. Lock held. */
void virtio_blk_retry(struct virtio_blk *b);

/* Waits until the image holds all that was written; before the device's state is saved. */
int virtio_blk_drain(struct virtio_blk *b);

/* Requests in flight must be none. */
void virtio_blk_state(struct virtio_blk *b, struct state *s);

#endif
