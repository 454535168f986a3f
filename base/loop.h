/*
 * loop.h - file descriptors that devices wait for, and calls posted from other threads.
 *
 * One loop per machine, turned by the machine's I/O thread. Every callback runs on that thread with
 * the lock of the loop (the machine's device lock) held, so it must not block: what can block goes
 * to a thread of the device's own, which reports through loop_post().
 *
 * Time is elsewhere: base/clock.h, whose timers fire on the same thread under the same lock.
 */
#ifndef POPF_LOOP_H
#define POPF_LOOP_H

#include <pthread.h>
#include <sys/epoll.h>

#include "base/base.h"

struct loop;

/*
 * One descriptor that is waited for: embedded in its device and all zeros while it is in no loop
 * (loop_del() leaves it so). All fields are read-only outside loop.c.
 */
struct loop_fd {
    struct loop *loop; /* NULL: in no loop */
    int fd;
    u32 events; /* EPOLLIN and so on that are waited for */
    u32 slot;
    void (*ready)(void *arg, u32 events);
    void *arg;
};

/* One call to make. Embedded in its device; all zeros at first. */
struct loop_post {
    struct loop_post *next;
    void (*fn)(void *arg);
    void *arg;
    bool queued; /* under the loop's post_lock */
};

struct loop_slot {
    struct loop_fd *f; /* NULL: free */
    u32 generation;    /* tells an event of an earlier user of the slot */
};

struct loop {
    pthread_mutex_t *lock; /* held in callbacks; the owner's */
    int epfd, wakefd;      /* -1: none */

    /* --- lock --- */
    struct loop_slot *slot;
    u32 nslots;

    /* --- post_lock, a leaf --- */
    pthread_mutex_t post_lock;
    struct loop_post *first, **last;
};

/* --- for devices --- */

/*
 * Waits for `events` (EPOLLIN, EPOLLOUT, level-triggered; EPOLLERR and EPOLLHUP always come) on fd
 * and calls ready(arg, events that are there). `f` must be in no loop and stay where it is until
 * loop_del(); the descriptor stays the caller's, who takes it out before he closes it. `lock` held
 * (or nothing running yet). -1 with errno set: no memory, or epoll refuses the fd (EPERM: a plain
 * file).
 */
int loop_add(struct loop *l, struct loop_fd *f, int fd, u32 events,
             void (*ready)(void *arg, u32 events), void *arg);

/* Waits for other events from now on; 0 is allowed (errors and hang-ups still come). `lock` held.
 */
int loop_mod(struct loop_fd *f, u32 events);

/*
 * Waits no longer; safe from within any callback, and for an `f` that is in no loop. When it has
 * returned ready() is not called again. `lock` held.
 */
void loop_del(struct loop_fd *f);

/*
 * Runs fn(arg) once on the loop's thread, `lock` held: soon, in the order of posting. From any
 * thread, whether it holds the lock or not. `p` is free for the next use when fn is called; posting
 * one that is still queued changes nothing (the queued call will see what led to it). After the
 * machine's end posts may never run.
 */
void loop_post(struct loop *l, struct loop_post *p, void (*fn)(void *arg), void *arg);

/* Takes a post back that has not run. `lock` held: afterwards fn is not called for it. */
void loop_unpost(struct loop *l, struct loop_post *p);

/* --- for the owner --- */

int loop_init(struct loop *l, pthread_mutex_t *lock, struct err *e);

/* Nothing may be in it any more that is used again; descriptors added are not closed. */
void loop_free(struct loop *l);

/* Makes loop_wait() return. Any thread. */
void loop_wake(struct loop *l);

/*
 * Waits until something happens or timeout_ms (-1: for ever) is over, and makes the calls that are
 * due. The lock must not be held. -1 with errno set if the host's epoll fails.
 */
int loop_wait(struct loop *l, int timeout_ms);

#endif
