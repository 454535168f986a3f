/*
 * virtio_rng.h - the entropy device (virtio 1.2, 5.4): random bytes of the host's for the guest.
 */
#ifndef POPF_VIRTIO_RNG_H
#define POPF_VIRTIO_RNG_H

#include "dev/virtio.h"

struct virtio_rng {
    struct virtio_dev v;
};

void virtio_rng_init(struct virtio_rng *r, struct mem *mem);

#endif
