/*
 * share_pool.h - the threads that serve a device's requests, several at a time, because the host's
 * file system may keep each of them waiting.
 *
 * The device copies a request into a job and submits it; what is done comes back on the machine's
 * I/O thread with the device lock held. Jobs begin in the order of submission and end in any; only
 * the answer to a Tflush never overtakes that of the request it names.
 */
#ifndef POPF_SHARE_POOL_H
#define POPF_SHARE_POOL_H

#include <pthread.h>

#include "base/loop.h"
#include "share/share.h"

#define SHARE_POOL_THREADS 4

/* A request; the device puts it at the end of a structure of its own. */
struct share_job {
    struct share_job *next;
    int tag;    /* 9P only; -1: too damaged to have one */
    bool flush; /* waits for what has tag `oldtag` */
    u16 oldtag;
    u8 *reply; /* `cap` bytes, made by the thread; NULL: out of memory */
    size_t cap, reply_len;
    size_t len;
    u8 bytes[]; /* the request */
};

/* In the order in which they came there. */
struct share_jobs {
    struct share_job *first, **last;
};

struct share_pool_ops {
    size_t (*serve)(struct share *s, const u8 *req, size_t n, u8 *reply, size_t cap);
    /* Device lock held. The job is done, or was dropped: the device frees what it is part of, but
     * not job->reply. */
    void (*done)(void *arg, struct share_job *job);
    void (*drop)(struct share_job *job);
    /* All that were done have been told. */
    void (*idle)(void *arg);
};

struct share_pool {
    struct share *share;
    const struct share_pool_ops *ops;
    void *arg;
    struct loop *loop;
    struct loop_post post;
    pthread_t thread[SHARE_POOL_THREADS];
    unsigned nthreads;

    pthread_mutex_t lock; /* all below; a leaf */
    pthread_cond_t work, ended;
    bool stop;
    struct share_jobs waiting, running, finished;
};

/* Starts the threads. On failure nothing is left. */
int share_pool_init(struct share_pool *p, struct share *s, const struct share_pool_ops *ops,
                    void *arg, struct loop *loop, struct err *e);

/* Waits for what is being served, and drops all. Device lock held. */
void share_pool_free(struct share_pool *p);

/* The pool's from now on. Its fields up to reply_len are set here, but for cap and len. */
void share_pool_submit(struct share_pool *p, struct share_job *job);

/* Drops what has not begun and what has not been told. What is being served will be told. */
void share_pool_cancel(struct share_pool *p);

#endif
