#include "base/loop.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define EVENTS_MAX 32
#define WAKE_KEY   UINT64_MAX

/* An event names its slot and the slot's generation: it may come after the loop_del() of its fd. */
static u64 key_of(const struct loop *l, u32 slot)
{
    return (u64)l->slot[slot].generation << 32 | slot;
}

int loop_init(struct loop *l, pthread_mutex_t *lock, struct err *e)
{
    *l = (struct loop){.lock = lock, .epfd = -1, .wakefd = -1};
    l->last = &l->first;
    pthread_mutex_init(&l->post_lock, NULL);
    l->epfd = epoll_create1(EPOLL_CLOEXEC);
    l->wakefd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = WAKE_KEY};
    if (l->epfd < 0 || l->wakefd < 0 || epoll_ctl(l->epfd, EPOLL_CTL_ADD, l->wakefd, &ev)) {
        err_errno(e, "cannot wait for events (see ulimit -n)");
        loop_free(l);
        return -1;
    }
    return 0;
}

void loop_free(struct loop *l)
{
    if (!l->lock)
        return;
    if (l->epfd >= 0)
        close(l->epfd);
    if (l->wakefd >= 0)
        close(l->wakefd);
    free(l->slot);
    pthread_mutex_destroy(&l->post_lock);
    *l = (struct loop){.epfd = -1, .wakefd = -1};
}

/* --- descriptors --- */

static int grow(struct loop *l)
{
    u32 n = l->nslots ? 2 * l->nslots : 16;
    struct loop_slot *slot = realloc(l->slot, n * sizeof(*slot));
    if (!slot)
        return -1;
    for (u32 i = l->nslots; i < n; i++)
        slot[i] = (struct loop_slot){0};
    l->slot = slot;
    l->nslots = n;
    return 0;
}

int loop_add(struct loop *l, struct loop_fd *f, int fd, u32 events,
             void (*ready)(void *arg, u32 events), void *arg)
{
    assert(!f->loop);
    u32 i = 0;
    while (i < l->nslots && l->slot[i].f)
        i++;
    if (i == l->nslots && grow(l))
        return -1;
    struct epoll_event ev = {.events = events, .data.u64 = key_of(l, i)};
    if (epoll_ctl(l->epfd, EPOLL_CTL_ADD, fd, &ev))
        return -1;
    *f = (struct loop_fd){
        .loop = l, .fd = fd, .events = events, .slot = i, .ready = ready, .arg = arg};
    l->slot[i].f = f;
    return 0;
}

int loop_mod(struct loop_fd *f, u32 events)
{
    struct epoll_event ev = {.events = events, .data.u64 = key_of(f->loop, f->slot)};
    if (events == f->events)
        return 0;
    if (epoll_ctl(f->loop->epfd, EPOLL_CTL_MOD, f->fd, &ev))
        return -1;
    f->events = events;
    return 0;
}

void loop_del(struct loop_fd *f)
{
    struct loop *l = f->loop;
    if (!l)
        return;
    epoll_ctl(l->epfd, EPOLL_CTL_DEL, f->fd, NULL);
    l->slot[f->slot].f = NULL;
    l->slot[f->slot].generation++;
    *f = (struct loop_fd){.fd = -1};
}

/* --- posts --- */

void loop_wake(struct loop *l)
{
    u64 one = 1;
    ssize_t n = write(l->wakefd, &one, sizeof(one));
    (void)n; /* a full counter wakes as well */
}

void loop_post(struct loop *l, struct loop_post *p, void (*fn)(void *arg), void *arg)
{
    pthread_mutex_lock(&l->post_lock);
    bool first = !l->first;
    bool add = !p->queued;
    if (add) {
        *p = (struct loop_post){.fn = fn, .arg = arg, .queued = true};
        *l->last = p;
        l->last = &p->next;
    }
    pthread_mutex_unlock(&l->post_lock);
    if (add && first)
        loop_wake(l);
}

void loop_unpost(struct loop *l, struct loop_post *p)
{
    pthread_mutex_lock(&l->post_lock);
    for (struct loop_post **at = &l->first; p->queued && *at; at = &(*at)->next) {
        if (*at != p)
            continue;
        *at = p->next;
        if (l->last == &p->next)
            l->last = at;
        p->queued = false;
        break;
    }
    pthread_mutex_unlock(&l->post_lock);
}

static struct loop_post *take_post(struct loop *l, struct loop_post *copy)
{
    pthread_mutex_lock(&l->post_lock);
    struct loop_post *p = l->first;
    if (p) {
        *copy = *p;
        p->queued = false;
        l->first = p->next;
        if (!l->first)
            l->last = &l->first;
    }
    pthread_mutex_unlock(&l->post_lock);
    return p;
}

/* Those that are there now; what they post themselves waits for the next turn. */
static void run_posts(struct loop *l)
{
    pthread_mutex_lock(&l->post_lock);
    unsigned n = 0;
    for (struct loop_post *p = l->first; p; p = p->next)
        n++;
    pthread_mutex_unlock(&l->post_lock);

    struct loop_post p;
    while (n-- && take_post(l, &p))
        p.fn(p.arg);
    pthread_mutex_lock(&l->post_lock);
    bool more = l->first;
    pthread_mutex_unlock(&l->post_lock);
    if (more)
        loop_wake(l);
}

/* --- waiting --- */

static void dispatch(struct loop *l, const struct epoll_event *ev)
{
    u32 i = (u32)ev->data.u64;
    if (ev->data.u64 == WAKE_KEY) {
        u64 n;
        ssize_t r = read(l->wakefd, &n, sizeof(n));
        (void)r;
        run_posts(l);
    } else if (i < l->nslots && l->slot[i].f && key_of(l, i) == ev->data.u64) {
        struct loop_fd *f = l->slot[i].f;
        u32 events = ev->events & (f->events | EPOLLERR | EPOLLHUP);
        if (events)
            f->ready(f->arg, events);
    }
}

int loop_wait(struct loop *l, int timeout_ms)
{
    struct epoll_event ev[EVENTS_MAX];
    int n = epoll_wait(l->epfd, ev, EVENTS_MAX, timeout_ms);
    if (n <= 0)
        return n < 0 && errno != EINTR ? -1 : 0;
    pthread_mutex_lock(l->lock);
    for (int i = 0; i < n; i++)
        dispatch(l, &ev[i]);
    pthread_mutex_unlock(l->lock);
    return 0;
}
