#include "dev/virtio_9p.h"

#include <stdlib.h>
#include <string.h>

struct request {
    struct virtq_buf b;
    struct share_job job; /* last: the message follows */
};

static void drop(struct share_job *job)
{
    free(container_of(job, struct request, job));
}

/* The device may have been reset while this was served: the buffers are another's by now. */
static void done(void *arg, struct share_job *job)
{
    struct virtio_9p *p = arg;
    struct request *r = container_of(job, struct request, job);
    if (r->b.epoch == p->v.epoch) {
        if (job->reply_len)
            virtq_write(&r->b, 0, job->reply, job->reply_len);
        virtq_push(&p->v, 0, &r->b, job->reply_len);
    }
    free(r);
}

static void idle(void *arg)
{
    struct virtio_9p *p = arg;
    if (virtio_ready(&p->v))
        virtq_signal(&p->v, 0);
}

static const struct share_pool_ops pool_ops = {
    .serve = share_serve, .done = done, .drop = drop, .idle = idle};

static struct request *copy_in(const struct virtq_buf *b)
{
    size_t len = min_u64(b->out_len, SHARE_MSIZE_MAX);
    struct request *r = malloc(sizeof(*r) + len);
    if (!r)
        return NULL;
    r->b = *b;
    r->job.len = virtq_read(b, 0, r->job.bytes, len);
    r->job.cap = min_u64(b->in_len, SHARE_MSIZE_MAX);
    return r;
}

static void notify(struct virtio_dev *d, unsigned q)
{
    struct virtio_9p *p = container_of(d, struct virtio_9p, v);
    struct virtq_buf b;
    for (unsigned n = 0; n < d->q[q].num && virtq_pop(d, q, &b) > 0; n++) {
        struct request *r = copy_in(&b);
        if (!r) {
            virtio_broken(d, "out of memory for a request");
            return;
        }
        share_pool_submit(&p->pool, &r->job);
    }
}

/* What is being served now goes on, with the host's files only: done() drops its reply. */
static void reset(struct virtio_dev *d)
{
    struct virtio_9p *p = container_of(d, struct virtio_9p, v);
    share_pool_cancel(&p->pool);
    share_reset(p->share);
}

static const struct virtio_ops ops = {.notify = notify, .reset = reset};

/* --- life --- */

static void set_tag(struct virtio_9p *p, const char *tag)
{
    size_t n = strlen(tag);
    p->config[0] = n;
    p->config[1] = 0;
    memcpy(p->config + 2, tag, n);
    p->v.config = p->config;
    p->v.config_size = 2 + n;
}

int virtio_9p_init(struct virtio_9p *p, const struct virtio_9p_config *cfg, struct err *e)
{
    size_t n = strlen(cfg->tag);
    *p = (struct virtio_9p){0};
    if (!n || n > VIRTIO_9P_TAG_MAX)
        return err_set(e, "the name of a shared folder has 1 to %d bytes: \"%.40s\"",
                       VIRTIO_9P_TAG_MAX, cfg->tag);
    struct share *s = share_open(&cfg->share, e);
    if (!s)
        return -1;
    if (share_pool_init(&p->pool, s, &pool_ops, p, cfg->loop, e)) {
        share_close(s);
        return -1;
    }
    p->share = s;
    virtio_init(&p->v, &ops, VIRTIO_9P, VIRTIO_9P_MOUNT_TAG, 1, VIRTIO_9P_QUEUE, cfg->mem);
    p->v.name = "virtio-9p";
    p->v.log = cfg->log;
    set_tag(p, cfg->tag);
    return 0;
}

void virtio_9p_free(struct virtio_9p *p)
{
    if (!p->share)
        return;
    share_pool_free(&p->pool);
    share_close(p->share);
    p->share = NULL;
}

/* --- state --- */

void virtio_9p_state(struct virtio_9p *p, struct state *s)
{
    state_section(s, "virtio-9p", 1);
    if (share_in_use(p->share))
        state_fail(s, "a shared folder is mounted: unmount it in the guest first");
    virtio_state(&p->v, s);
}
