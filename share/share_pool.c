#include "share/share_pool.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* --- lists --- */

static void list_init(struct share_jobs *l)
{
    l->first = NULL;
    l->last = &l->first;
}

static void list_add(struct share_jobs *l, struct share_job *j)
{
    j->next = NULL;
    *l->last = j;
    l->last = &j->next;
}

static struct share_job *list_take(struct share_jobs *l)
{
    struct share_job *j = l->first;
    if (!j)
        return NULL;
    l->first = j->next;
    if (!l->first)
        l->last = &l->first;
    return j;
}

static void list_remove(struct share_jobs *l, struct share_job *j)
{
    struct share_job **at = &l->first;
    while (*at != j)
        at = &(*at)->next;
    *at = j->next;
    if (l->last == &j->next)
        l->last = at;
}

static void list_drop(struct share_pool *p, struct share_jobs *l)
{
    struct share_job *j;
    while ((j = list_take(l))) {
        free(j->reply);
        p->ops->drop(j);
    }
}

/* --- the threads --- */

static bool is_running(const struct share_pool *p, const struct share_job *flush)
{
    for (const struct share_job *j = p->running.first; j; j = j->next)
        if (j != flush && !j->flush && j->tag == flush->oldtag)
            return true;
    return false;
}

/*
 * Takes the next job. A Tflush must be answered after the request that it names. That one came
 * earlier, so it is being served or finished, and what is finished is told in order. At least one
 * thread is not waiting here: the one that serves it.
 */
static struct share_job *take(struct share_pool *p)
{
    pthread_mutex_lock(&p->lock);
    while (!p->stop && !p->waiting.first)
        pthread_cond_wait(&p->work, &p->lock);
    struct share_job *j = p->stop ? NULL : list_take(&p->waiting);
    if (j)
        list_add(&p->running, j);
    while (j && j->flush && !p->stop && is_running(p, j))
        pthread_cond_wait(&p->ended, &p->lock);
    pthread_mutex_unlock(&p->lock);
    return j;
}

static void tell(void *arg);

static void finish(struct share_pool *p, struct share_job *j)
{
    pthread_mutex_lock(&p->lock);
    list_remove(&p->running, j);
    list_add(&p->finished, j);
    pthread_cond_broadcast(&p->ended);
    pthread_mutex_unlock(&p->lock);
    loop_post(p->loop, &p->post, tell, p);
}

static void *work(void *arg)
{
    struct share_pool *p = arg;
    struct share_job *j;
    while ((j = take(p))) {
        j->reply = malloc(j->cap + 1);
        if (j->reply)
            j->reply_len = p->ops->serve(p->share, j->bytes, j->len, j->reply, j->cap);
        finish(p, j);
    }
    return NULL;
}

/* Signals are for the machine's own threads. */
static int start(struct share_pool *p)
{
    sigset_t all, old;
    int rc = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    while (!rc && p->nthreads < SHARE_POOL_THREADS)
        if (!(rc = pthread_create(&p->thread[p->nthreads], NULL, work, p)))
            p->nthreads++;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return p->nthreads ? 0 : rc;
}

static void stop(struct share_pool *p)
{
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->work);
    pthread_cond_broadcast(&p->ended);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->nthreads; i++)
        pthread_join(p->thread[i], NULL);
}

/* --- for the device; device lock held --- */

/* On the I/O thread. */
static void tell(void *arg)
{
    struct share_pool *p = arg;
    pthread_mutex_lock(&p->lock);
    struct share_job *next, *j = p->finished.first;
    list_init(&p->finished);
    pthread_mutex_unlock(&p->lock);
    for (; j; j = next) {
        next = j->next;
        u8 *reply = j->reply;
        p->ops->done(p->arg, j);
        free(reply);
    }
    p->ops->idle(p->arg);
}

void share_pool_submit(struct share_pool *p, struct share_job *j)
{
    j->tag = share_tag(j->bytes, j->len);
    j->flush = p->ops->serve == share_serve && share_flushes(j->bytes, j->len, &j->oldtag);
    j->reply = NULL;
    j->reply_len = 0;
    pthread_mutex_lock(&p->lock);
    list_add(&p->waiting, j);
    pthread_cond_signal(&p->work);
    pthread_mutex_unlock(&p->lock);
}

void share_pool_cancel(struct share_pool *p)
{
    pthread_mutex_lock(&p->lock);
    list_drop(p, &p->waiting);
    list_drop(p, &p->finished);
    pthread_mutex_unlock(&p->lock);
}

int share_pool_init(struct share_pool *p, struct share *s, const struct share_pool_ops *ops,
                    void *arg, struct loop *loop, struct err *e)
{
    *p = (struct share_pool){.share = s, .ops = ops, .arg = arg, .loop = loop};
    list_init(&p->waiting);
    list_init(&p->running);
    list_init(&p->finished);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->ended, NULL);
    int rc = start(p);
    return rc ? err_set(e, "cannot start a thread for a shared folder: %s", strerror(rc)) : 0;
}

void share_pool_free(struct share_pool *p)
{
    stop(p);
    loop_unpost(p->loop, &p->post);
    share_pool_cancel(p);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->ended);
}
