#include "block/block.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Done by the submitter; longer ones go to a thread, and the guest goes on meanwhile. */
#define INLINE_MAX (128 * KiB)
/*
 * The kernel makes those wait who write too much. Whoever has waited so long leaves writes to the
 * threads for some times as long.
 */
#define SLOW_NS     (8 * 1000 * 1000ull)
#define AVOID_TIMES 4

struct block {
    struct image *image;
    struct loop *loop;
    u64 writes_later_until; /* host ns; the submitter's */

    pthread_mutex_t lock;
    pthread_cond_t work; /* the queue has something, or quit */
    pthread_cond_t idle; /* busy fell to 0, and the queue is empty */
    struct block_req *first, **last;
    unsigned queued, busy, waiting, nthreads;
    bool quit;
    pthread_t thread[BLOCK_THREADS_MAX];
};

static u64 host_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (u64)t.tv_sec * NSEC_PER_SEC + (u64)t.tv_nsec;
}

/* --- one request --- */

static int perform(struct image *m, const struct block_req *r)
{
    switch (r->op) {
    case BLOCK_READ:
        return image_readv(m, r->offset, r->iov, r->niov, r->len);
    case BLOCK_WRITE:
        return image_writev(m, r->offset, r->iov, r->niov, r->len);
    case BLOCK_FLUSH:
        return image_flush(m);
    case BLOCK_DISCARD:
        return image_discard(m, r->offset, r->len);
    case BLOCK_ZERO:
        return image_zero(m, r->offset, r->len, r->flags & BLOCK_MAY_UNMAP);
    }
    return -EINVAL;
}

static int perform_durably(struct image *m, const struct block_req *r)
{
    int rc = perform(m, r);
    if (!rc && r->op != BLOCK_READ && r->flags & BLOCK_DURABLE)
        rc = image_flush(m);
    return rc;
}

static void call_done(void *arg)
{
    struct block_req *r = arg;
    r->done(r);
}

static void complete(struct block *b, struct block_req *r)
{
    if (b->loop)
        loop_post(b->loop, &r->post, call_done, r);
    else
        call_done(r);
}

/* --- the threads --- */

static struct block_req *take(struct block *b)
{
    while (!b->first && !b->quit) {
        b->waiting++;
        pthread_cond_wait(&b->work, &b->lock);
        b->waiting--;
    }
    struct block_req *r = b->first;
    if (!r)
        return NULL;
    b->first = r->next;
    if (!b->first)
        b->last = &b->first;
    b->queued--;
    b->busy++;
    return r;
}

static void *work(void *arg)
{
    struct block *b = arg;
    pthread_mutex_lock(&b->lock);
    for (struct block_req *r; (r = take(b));) {
        pthread_mutex_unlock(&b->lock);
        r->status = perform_durably(b->image, r);
        /* Before `busy` falls: block_close() waits for that, and then the request may be gone. */
        complete(b, r);
        pthread_mutex_lock(&b->lock);
        if (--b->busy == 0 && !b->first)
            pthread_cond_broadcast(&b->idle);
    }
    pthread_mutex_unlock(&b->lock);
    return NULL;
}

/* A thread that no signal of the process is delivered to. */
static int start_thread(struct block *b)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&b->thread[b->nthreads], NULL, work, b);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!rc)
        b->nthreads++;
    return rc;
}

static void enqueue(struct block *b, struct block_req *r)
{
    r->next = NULL;
    pthread_mutex_lock(&b->lock);
    *b->last = r;
    b->last = &r->next;
    /* Those that wait may have been woken for others already. A thread that cannot be started is no
     * failure: one runs for certain. */
    if (++b->queued > b->waiting && b->nthreads < BLOCK_THREADS_MAX)
        start_thread(b);
    pthread_cond_signal(&b->work);
    pthread_mutex_unlock(&b->lock);
}

/* --- what is done at once --- */

static bool write_now(struct block *b, struct block_req *r)
{
    u64 start = host_ns();
    if (start < b->writes_later_until)
        return false;
    r->status = image_try_writev(b->image, r->offset, r->iov, r->niov, r->len);
    u64 end = host_ns();
    if (end - start > SLOW_NS)
        b->writes_later_until = end + AVOID_TIMES * (end - start);
    return r->status != -EAGAIN;
}

static bool do_now(struct block *b, struct block_req *r)
{
    if (r->len > INLINE_MAX)
        return false;
    if (r->op == BLOCK_READ) {
        r->status = image_try_readv(b->image, r->offset, r->iov, r->niov, r->len);
        return r->status != -EAGAIN;
    }
    return r->op == BLOCK_WRITE && !(r->flags & BLOCK_DURABLE) && write_now(b, r);
}

bool block_submit(struct block *b, struct block_req *r)
{
    if (do_now(b, r))
        return true;
    enqueue(b, r);
    return false;
}

/* --- waiting --- */

static void wait_idle(struct block *b)
{
    while (b->busy || b->first)
        pthread_cond_wait(&b->idle, &b->lock);
}

void block_quiesce(struct block *b)
{
    pthread_mutex_lock(&b->lock);
    struct block_req *r = b->first;
    b->first = NULL;
    b->last = &b->first;
    b->queued = 0;
    for (struct block_req *next; r; r = next) {
        next = r->next;
        r->status = -ECANCELED;
        complete(b, r);
    }
    wait_idle(b);
    pthread_mutex_unlock(&b->lock);
}

int block_drain(struct block *b)
{
    pthread_mutex_lock(&b->lock);
    wait_idle(b);
    pthread_mutex_unlock(&b->lock);
    return image_flush(b->image);
}

/* --- opening and closing --- */

static struct image *open_image(const struct block_config *c, struct err *e)
{
    struct image_config ic = {
        .file = c->file,
        .format = c->format,
        .ro = c->ro || c->overlay,
        .direct = c->direct,
        .log = c->log,
        .watch = c->watch,
    };
    struct image *m = image_open(&ic, e);
    return m && c->overlay && !c->ro ? image_overlay(m, e) : m;
}

struct block *block_open(const struct block_config *c, struct err *e)
{
    struct block *b = calloc(1, sizeof(*b));
    if (!b) {
        err_errno(e, "%s", c->file);
        return NULL;
    }
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->work, NULL);
    pthread_cond_init(&b->idle, NULL);
    b->loop = c->loop;
    b->last = &b->first;
    b->image = open_image(c, e);
    /* At least one thread must be there; the others come when there is work for them. */
    int rc = b->image ? start_thread(b) : 0;
    if (rc)
        err_set(e, "%s: cannot start a thread: %s", c->file, strerror(rc));
    if (b->image && !rc)
        return b;
    block_close(b, NULL);
    return NULL;
}

static void stop_threads(struct block *b)
{
    block_quiesce(b);
    pthread_mutex_lock(&b->lock);
    b->quit = true;
    pthread_cond_broadcast(&b->work);
    pthread_mutex_unlock(&b->lock);
    for (unsigned i = 0; i < b->nthreads; i++)
        pthread_join(b->thread[i], NULL);
}

int block_close(struct block *b, struct err *e)
{
    if (!b)
        return 0;
    stop_threads(b);
    char name[256] = "";
    if (b->image)
        strncpy(name, b->image->file.name, sizeof(name) - 1);
    int rc = image_close(b->image);
    pthread_cond_destroy(&b->idle);
    pthread_cond_destroy(&b->work);
    pthread_mutex_destroy(&b->lock);
    free(b);
    if (!rc)
        return 0;
    return err_set(e, "%s: closing the disk failed (%s): the guest's last writes may be missing",
                   name, strerror(-rc));
}

int block_read(struct block *b, u64 offset, void *buf, u64 len)
{
    return image_read(b->image, offset, buf, len);
}

void block_info(const struct block *b, struct block_info *i)
{
    const struct image *m = b->image;
    *i = (struct block_info){.size = m->size,
                             .ro = m->ro,
                             .format = m->ops->format,
                             .min_io = 4096,
                             .opt_io = m->unit > 64 * KiB ? m->unit : 64 * KiB,
                             .discard_align = m->unit};
}
