/*
 * virtio_balloon.h - the traditional memory balloon (virtio 1.2, 5.5): pages that the guest lends
 * to the host (inflate) and takes back (deflate), and reports of pages that it does not use just
 * now. What is given goes back to the host's kernel at once.
 */
#ifndef POPF_VIRTIO_BALLOON_H
#define POPF_VIRTIO_BALLOON_H

#include "dev/virtio.h"

struct virtio_balloon {
    struct virtio_dev v;
    u32 target; /* pages of 4 KiB that the host asks for */
    u32 actual; /* that the guest says it has lent */
    u64 given;  /* pages that went back to the host so far, for statistics */
};

void virtio_balloon_init(struct virtio_balloon *b, struct mem *mem);

/* Asks the guest to lend `pages` of 4 KiB in all; it does when it can. Device lock held. */
void virtio_balloon_set(struct virtio_balloon *b, u32 pages);

void virtio_balloon_state(struct virtio_balloon *b, struct state *s);

#endif
