#include "dev/virtio_fs.h"

#include <stdlib.h>
#include <string.h>

struct request {
    unsigned q;
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
    struct virtio_fs *p = arg;
    struct request *r = container_of(job, struct request, job);
    if (r->b.epoch == p->v.epoch) {
        if (job->reply_len)
            virtq_write(&r->b, 0, job->reply, job->reply_len);
        virtq_push(&p->v, r->q, &r->b, job->reply_len);
    }
    free(r);
}

static void idle(void *arg)
{
    struct virtio_fs *p = arg;
    for (unsigned q = 0; virtio_ready(&p->v) && q < p->v.nqueues; q++)
        virtq_signal(&p->v, q);
}

static const struct share_pool_ops pool_ops = {
    .serve = share_fuse_serve, .done = done, .drop = drop, .idle = idle};

static struct request *copy_in(unsigned q, const struct virtq_buf *b)
{
    size_t len = min_u64(b->out_len, SHARE_MSIZE_MAX);
    struct request *r = malloc(sizeof(*r) + len);
    if (!r)
        return NULL;
    r->q = q;
    r->b = *b;
    r->job.len = virtq_read(b, 0, r->job.bytes, len);
    r->job.cap = min_u64(b->in_len, SHARE_MSIZE_MAX);
    return r;
}

static void notify(struct virtio_dev *d, unsigned q)
{
    struct virtio_fs *p = container_of(d, struct virtio_fs, v);
    struct virtq_buf b;
    for (unsigned n = 0; n < d->q[q].num && virtq_pop(d, q, &b) > 0; n++) {
        struct request *r = copy_in(q, &b);
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
    struct virtio_fs *p = container_of(d, struct virtio_fs, v);
    share_pool_cancel(&p->pool);
    share_reset(p->share);
}

static const struct virtio_ops ops = {.notify = notify, .reset = reset};

/* --- life --- */

static void set_config(struct virtio_fs *p, const char *tag)
{
    static const u32 request_queues = 1;
    memcpy(p->config, tag, strlen(tag)); /* padded with zeros, no terminator */
    memcpy(p->config + VIRTIO_FS_TAG_MAX, &request_queues, sizeof(request_queues));
    p->v.config = p->config;
    p->v.config_size = sizeof(p->config);
}

int virtio_fs_init(struct virtio_fs *p, const struct virtio_fs_config *cfg, struct err *e)
{
    size_t n = strlen(cfg->tag);
    *p = (struct virtio_fs){0};
    if (!n || n > VIRTIO_FS_TAG_MAX)
        return err_set(e, "the name of a shared folder has 1 to %d bytes: \"%.40s\"",
                       VIRTIO_FS_TAG_MAX, cfg->tag);
    struct share *s = share_open(&cfg->share, e);
    if (!s)
        return -1;
    if (share_pool_init(&p->pool, s, &pool_ops, p, cfg->loop, e)) {
        share_close(s);
        return -1;
    }
    p->share = s;
    virtio_init(&p->v, &ops, VIRTIO_FS_ID, 0, 2, VIRTIO_FS_QUEUE, cfg->mem);
    p->v.name = "virtio-fs";
    p->v.log = cfg->log;
    set_config(p, cfg->tag);
    return 0;
}

void virtio_fs_free(struct virtio_fs *p)
{
    if (!p->share)
        return;
    share_pool_free(&p->pool);
    share_close(p->share);
    p->share = NULL;
}

/* --- state --- */

void virtio_fs_state(struct virtio_fs *p, struct state *s)
{
    state_section(s, "virtio-fs", 1);
    if (share_in_use(p->share))
        state_fail(s, "a shared folder is mounted: unmount it in the guest first");
    virtio_state(&p->v, s);
}
