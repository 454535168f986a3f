#include "dev/virtio_rng.h"

#include <sys/random.h>

/* A request is answered in part beyond this; getrandom() is quick and not interrupted below it. */
#define BYTES_MAX 4096u

/*
 * Bytes pass through a buffer of ours: getrandom() into guest memory would look the same, but one
 * request could hold the device lock for as long as the guest likes.
 */
static void answer(struct virtio_rng *r, struct virtq_buf *b)
{
    u8 buf[256];
    u32 done = 0;
    while (done < b->in_len && done < BYTES_MAX) {
        ssize_t n = getrandom(buf, sizeof(buf), GRND_NONBLOCK);
        if (n <= 0)
            break;
        done += (u32)virtq_write(b, done, buf, (size_t)n);
    }
    virtq_push(&r->v, 0, b, done);
}

static void notify(struct virtio_dev *d, unsigned q)
{
    struct virtio_rng *r = container_of(d, struct virtio_rng, v);
    struct virtq_buf b;
    /* As many as the queue holds: a driver that adds more meanwhile kicks again or waits. */
    for (unsigned n = 0; n < d->q[q].num && virtq_pop(d, q, &b) > 0; n++)
        answer(r, &b);
    virtq_signal(d, q);
}

static const struct virtio_ops ops = {.notify = notify};

void virtio_rng_init(struct virtio_rng *r, struct mem *mem)
{
    virtio_init(&r->v, &ops, VIRTIO_RNG, 0, 1, 64, mem);
    r->v.name = "virtio-rng";
}
