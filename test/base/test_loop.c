#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/loop.h"

#include <errno.h>

#include <unistd.h>

#define PIPES 40 /* more events than are fetched at a time */

struct pipe_end {
    struct bench *b;
    int fd[2];
    struct loop_fd f;
    unsigned calls;
    u32 events;
    struct pipe_end *kills; /* taken out by the callback */
};

struct bench {
    pthread_mutex_t lock;
    struct loop l;
    struct pipe_end p[PIPES];
    struct loop_post post, second;
    unsigned posts;
    bool again;
};

static void on_ready(void *arg, u32 events)
{
    struct pipe_end *p = arg;
    assert_int_equal(pthread_mutex_trylock(&p->b->lock), EBUSY);
    p->calls++;
    p->events = events;
    if (p->kills)
        loop_del(&p->kills->f);
}

static void start(struct bench *b)
{
    *b = (struct bench){0};
    pthread_mutex_init(&b->lock, NULL);
    assert_int_equal(loop_init(&b->l, &b->lock, NULL), 0);
    for (unsigned i = 0; i < PIPES; i++) {
        b->p[i].b = b;
        assert_int_equal(pipe(b->p[i].fd), 0);
        assert_int_equal(loop_add(&b->l, &b->p[i].f, b->p[i].fd[0], EPOLLIN, on_ready, &b->p[i]),
                         0);
    }
}

static void stop(struct bench *b)
{
    for (unsigned i = 0; i < PIPES; i++) {
        loop_del(&b->p[i].f);
        close(b->p[i].fd[0]);
        close(b->p[i].fd[1]);
    }
    loop_free(&b->l);
}

static void poke(struct pipe_end *p)
{
    assert_int_equal(write(p->fd[1], "x", 1), 1);
}

static void test_fds(void **state)
{
    struct bench b;
    start(&b);
    assert_int_equal(loop_wait(&b.l, 0), 0);
    poke(&b.p[3]);
    assert_int_equal(loop_wait(&b.l, 1000), 0);
    assert_int_equal(b.p[3].calls, 1);
    assert_int_equal(b.p[3].events, EPOLLIN);
    assert_int_equal(b.p[4].calls, 0);
    loop_wait(&b.l, 0); /* level-triggered */
    assert_int_equal(b.p[3].calls, 2);
    loop_mod(&b.p[3].f, 0);
    loop_wait(&b.l, 0);
    assert_int_equal(b.p[3].calls, 2);
    loop_mod(&b.p[3].f, EPOLLIN);
    loop_wait(&b.l, 0);
    assert_int_equal(b.p[3].calls, 3);
    close(b.p[3].fd[1]); /* a hang-up always comes */
    loop_mod(&b.p[3].f, 0);
    loop_wait(&b.l, 0);
    assert_int_equal(b.p[3].events, EPOLLHUP);
    b.p[3].fd[1] = -1;
    stop(&b);
}

/* Taken out while its event is already fetched: the first of them kills all others. */
static void test_delete_in_callback(void **state)
{
    struct bench b;
    start(&b);
    for (unsigned i = 0; i < 10; i++) {
        b.p[i].kills = &b.p[(i + 1) % 10];
        poke(&b.p[i]);
    }
    loop_wait(&b.l, 1000);
    unsigned calls = 0;
    for (unsigned i = 0; i < 10; i++)
        calls += b.p[i].calls;
    assert_int_equal(calls, 5);
    /* Its slot is free for another one. */
    for (unsigned i = 0; i < 10; i++)
        if (!b.p[i].f.loop)
            assert_int_equal(loop_add(&b.l, &b.p[i].f, b.p[i].fd[0], EPOLLIN, on_ready, &b.p[i]),
                             0);
    stop(&b);
}

static void on_post(void *arg)
{
    struct bench *b = arg;
    assert_int_equal(pthread_mutex_trylock(&b->lock), EBUSY);
    b->posts++;
    if (b->again)
        loop_post(&b->l, &b->post, on_post, b);
    b->again = false;
}

static void on_second(void *arg)
{
    struct bench *b = arg;
    assert_int_equal(b->posts, 1); /* in the order of posting */
    b->posts += 10;
}

static void *post_from_thread(void *arg)
{
    struct bench *b = arg;
    usleep(20000);
    loop_post(&b->l, &b->post, on_post, b);
    return NULL;
}

static void test_posts(void **state)
{
    struct bench b;
    start(&b);
    loop_post(&b.l, &b.post, on_post, &b);
    loop_post(&b.l, &b.second, on_second, &b);
    loop_post(&b.l, &b.post, on_post, &b); /* queued already */
    loop_wait(&b.l, 1000);
    assert_int_equal(b.posts, 11);

    b.again = true; /* one that posts itself does not keep the loop to itself */
    loop_post(&b.l, &b.post, on_post, &b);
    loop_wait(&b.l, 1000);
    assert_int_equal(b.posts, 12);
    loop_wait(&b.l, 1000);
    assert_int_equal(b.posts, 13);

    loop_post(&b.l, &b.post, on_post, &b);
    loop_post(&b.l, &b.second, on_second, &b);
    loop_unpost(&b.l, &b.second);
    loop_unpost(&b.l, &b.post);
    loop_post(&b.l, &b.post, on_post, &b);
    loop_wait(&b.l, 1000);
    assert_int_equal(b.posts, 14);

    pthread_t t;
    pthread_create(&t, NULL, post_from_thread, &b);
    loop_wait(&b.l, 5000); /* woken by it */
    assert_int_equal(b.posts, 15);
    pthread_join(t, NULL);
    stop(&b);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fds),
        cmocka_unit_test(test_delete_in_callback),
        cmocka_unit_test(test_posts),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
