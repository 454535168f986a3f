#include "cli/machine_ctl.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "cli/text.h"

#define CLIENTS  32
#define REQUEST  4096u      /* longest line */
#define OUT_MAX  (4u << 20) /* more than this is not kept for one who does not read */
#define REPLAY   4096u      /* of what came before somebody attached */
#define RETRY_MS 10         /* a receiver that is full is offered more after this */
#define FLUSH_MS 1000       /* at the end */

enum stage { FREE, TALKS, WAITS, ATTACHED };

struct client {
    enum stage stage;
    int fd;
    char in[REQUEST]; /* a request, or input that the guest did not take yet */
    size_t nin;
    struct text out; /* lock */
    bool closing;    /* once out is empty */
};

struct ctl {
    int listen_fd, wake_fd;
    pthread_t thread;
    struct popf *vm;
    unsigned port;
    json_object *status;
    struct timespec began;
    bool paused;

    pthread_mutex_t lock;
    struct client client[CLIENTS]; /* `out` and changes of `stage` */
    char last[REPLAY];             /* a ring */
    size_t nlast;                  /* bytes ever put there */
    bool quit;
};

static void wake(struct ctl *c)
{
    uint64_t one = 1;
    ssize_t n = write(c->wake_fd, &one, sizeof(one));
    (void)n;
}

/* --- replies --- */

static void put(struct ctl *c, struct client *cl, const void *data, size_t len)
{
    pthread_mutex_lock(&c->lock);
    if (cl->out.n + len <= OUT_MAX)
        text_put(&cl->out, data, len);
    pthread_mutex_unlock(&c->lock);
}

/* Takes `o` over. */
static void reply(struct ctl *c, struct client *cl, json_object *o)
{
    const char *line = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);
    put(c, cl, line, strlen(line));
    put(c, cl, "\n", 1);
    json_object_put(o);
}

static json_object *okay(void)
{
    json_object *o = json_object_new_object();
    json_object_object_add(o, "ok", json_object_new_boolean(1));
    return o;
}

static json_object *refusal(const char *why)
{
    json_object *o = json_object_new_object();
    json_object_object_add(o, "ok", json_object_new_boolean(0));
    json_object_object_add(o, "error", json_object_new_string(why));
    return o;
}

static void add_number(json_object *o, const char *key, uint64_t val)
{
    json_object_object_add(o, key, json_object_new_int64((int64_t)val));
}

static json_object *status(struct ctl *c)
{
    json_object *o = okay();
    struct popf_stats s;
    struct timespec now;
    json_object_object_foreach(c->status, key, val)
        json_object_object_add(o, key, json_object_get(val));
    popf_stats(c->vm, &s);
    clock_gettime(CLOCK_MONOTONIC, &now);
    json_object_object_add(o, "state", json_object_new_string(c->paused ? "paused" : "running"));
    add_number(o, "uptime", (uint64_t)(now.tv_sec - c->began.tv_sec));
    add_number(o, "guest_ns", s.guest_ns);
    add_number(o, "instructions", s.insns);
    add_number(o, "resets", s.resets);
    add_number(o, "resident", s.resident);
    return o;
}

/* --- requests --- */

static json_object *pause_machine(struct ctl *c, bool on)
{
    if (c->paused == on)
        return refusal(on ? "the machine is paused already" : "the machine is not paused");
    c->paused = on;
    (on ? popf_pause : popf_resume)(c->vm);
    return okay();
}

static json_object *balloon(struct ctl *c, json_object *request)
{
    struct popf_error err;
    int64_t bytes = json_number(request, "bytes");
    if (bytes <= 0)
        return refusal("\"bytes\" must be a positive number");
    return popf_balloon(c->vm, (uint64_t)bytes, &err) ? refusal(err.msg) : okay();
}

static void attach(struct ctl *c, struct client *cl)
{
    reply(c, cl, okay());
    pthread_mutex_lock(&c->lock);
    size_t n = c->nlast < REPLAY ? c->nlast : REPLAY;
    for (size_t i = c->nlast - n; i < c->nlast; i++)
        text_put(&cl->out, &c->last[i % REPLAY], 1);
    cl->stage = ATTACHED;
    pthread_mutex_unlock(&c->lock);
}

static void answer(struct ctl *c, struct client *cl, json_object *request)
{
    const char *cmd = json_text(request, "cmd");
    if (!strcmp(cmd, "status")) {
        reply(c, cl, status(c));
    } else if (!strcmp(cmd, "power-button")) {
        popf_power_button(c->vm);
        reply(c, cl, okay());
    } else if (!strcmp(cmd, "stop")) {
        popf_stop(c->vm);
        reply(c, cl, okay());
    } else if (!strcmp(cmd, "pause") || !strcmp(cmd, "resume")) {
        reply(c, cl, pause_machine(c, cmd[0] == 'p'));
    } else if (!strcmp(cmd, "balloon")) {
        reply(c, cl, balloon(c, request));
    } else if (!strcmp(cmd, "wait")) {
        cl->stage = WAITS; /* the reply is sent when it has ended */
    } else if (!strcmp(cmd, "console")) {
        attach(c, cl);
    } else {
        reply(c, cl, refusal("there is no such command"));
    }
}

static void take_line(struct ctl *c, struct client *cl, const char *line)
{
    json_object *request = json_tokener_parse(line);
    if (json_object_is_type(request, json_type_object))
        answer(c, cl, request);
    else
        reply(c, cl, refusal("a request is one JSON object in a line"));
    json_object_put(request);
}

/* What follows a line stays: further requests, or input for the guest. */
static void take_lines(struct ctl *c, struct client *cl)
{
    char *end;
    while (cl->stage == TALKS && (end = memchr(cl->in, '\n', cl->nin))) {
        char line[REQUEST];
        size_t n = (size_t)(end - cl->in);
        memcpy(line, cl->in, n);
        line[n] = 0;
        cl->nin -= n + 1;
        memmove(cl->in, end + 1, cl->nin);
        take_line(c, cl, line);
    }
}

static void feed_guest(struct ctl *c, struct client *cl)
{
    size_t n = popf_serial_input(c->vm, c->port, cl->in, cl->nin);
    cl->nin -= n;
    memmove(cl->in, cl->in + n, cl->nin);
}

/* --- clients --- */

static void drop(struct ctl *c, struct client *cl)
{
    pthread_mutex_lock(&c->lock);
    close(cl->fd);
    text_free(&cl->out);
    *cl = (struct client){.fd = -1};
    pthread_mutex_unlock(&c->lock);
}

static bool is_friend(int fd)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);
    return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) &&
           (peer.uid == geteuid() || peer.uid == 0);
}

static void greet(struct ctl *c)
{
    int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct client *cl = NULL;
    for (unsigned i = 0; i < CLIENTS && !cl; i++)
        if (c->client[i].stage == FREE)
            cl = &c->client[i];
    if (fd >= 0 && cl && is_friend(fd))
        *cl = (struct client){.stage = TALKS, .fd = fd};
    else if (fd >= 0)
        close(fd);
}

static void receive(struct ctl *c, struct client *cl)
{
    if (cl->nin == REQUEST) { /* a line without an end */
        drop(c, cl);
        return;
    }
    ssize_t n = recv(cl->fd, cl->in + cl->nin, REQUEST - cl->nin, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        drop(c, cl);
        return;
    }
    cl->nin += (size_t)n;
    if (cl->stage == TALKS)
        take_lines(c, cl);
    if (cl->stage == ATTACHED)
        feed_guest(c, cl);
}

static void flush(struct ctl *c, struct client *cl)
{
    pthread_mutex_lock(&c->lock);
    ssize_t n = cl->out.n ? send(cl->fd, cl->out.s, cl->out.n, MSG_NOSIGNAL) : 0;
    if (n > 0) {
        cl->out.n -= (size_t)n;
        memmove(cl->out.s, cl->out.s + n, cl->out.n);
    }
    bool gone = n < 0 && errno != EAGAIN && errno != EINTR;
    pthread_mutex_unlock(&c->lock);
    if (gone)
        drop(c, cl);
}

void ctl_output(struct ctl *c, const void *buf, size_t len)
{
    const char *p = buf;
    bool anybody = false;
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < len; i++)
        c->last[c->nlast++ % REPLAY] = p[i];
    for (unsigned i = 0; i < CLIENTS; i++) {
        struct client *cl = &c->client[i];
        if (cl->stage != ATTACHED || cl->out.n + len > OUT_MAX)
            continue;
        text_put(&cl->out, buf, len);
        anybody = true;
    }
    pthread_mutex_unlock(&c->lock);
    if (anybody)
        wake(c);
}

/* --- the thread --- */

/* Returns whether input waits for the guest. */
static bool prepare(struct ctl *c, struct pollfd *p)
{
    bool waits = false;
    p[0] = (struct pollfd){.fd = c->listen_fd, .events = POLLIN};
    p[1] = (struct pollfd){.fd = c->wake_fd, .events = POLLIN};
    pthread_mutex_lock(&c->lock);
    for (unsigned i = 0; i < CLIENTS; i++) {
        struct client *cl = &c->client[i];
        bool full = cl->stage == ATTACHED && cl->nin;
        waits |= full;
        p[2 + i] =
            (struct pollfd){.fd = cl->stage == FREE ? -1 : cl->fd,
                            .events = (short)((full ? 0 : POLLIN) | (cl->out.n ? POLLOUT : 0))};
    }
    pthread_mutex_unlock(&c->lock);
    return waits;
}

static void serve(struct ctl *c, struct client *cl, short revents)
{
    if (cl->stage != FREE && (revents & POLLOUT))
        flush(c, cl);
    if (cl->stage != FREE && (revents & (POLLIN | POLLHUP | POLLERR)))
        receive(c, cl);
    else if (cl->stage == ATTACHED && cl->nin)
        feed_guest(c, cl);
}

static bool told_to_quit(struct ctl *c)
{
    pthread_mutex_lock(&c->lock);
    bool quit = c->quit;
    pthread_mutex_unlock(&c->lock);
    return quit;
}

static void *run(void *arg)
{
    struct ctl *c = arg;
    struct pollfd p[2 + CLIENTS];
    uint64_t count;
    while (!told_to_quit(c)) {
        if (poll(p, 2 + CLIENTS, prepare(c, p) ? RETRY_MS : -1) < 0)
            continue;
        for (unsigned i = 0; i < CLIENTS; i++)
            serve(c, &c->client[i], p[2 + i].revents);
        if (p[1].revents && read(c->wake_fd, &count, sizeof(count)) < 0)
            continue;
        if (p[0].revents)
            greet(c);
    }
    return NULL;
}

/* --- beginning and end --- */

static int listen_at(struct ctl *c, const char *path, struct popf_error *err)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(a.sun_path)) {
        snprintf(err->msg, sizeof(err->msg),
                 "the path of the control socket is too long: %s; give a shorter name or set "
                 "XDG_RUNTIME_DIR",
                 path);
        return -1;
    }
    strcpy(a.sun_path, path);
    c->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (c->listen_fd >= 0 && c->wake_fd >= 0 &&
        !bind(c->listen_fd, (struct sockaddr *)&a, sizeof(a)) && !listen(c->listen_fd, CLIENTS))
        return 0;
    snprintf(err->msg, sizeof(err->msg), "cannot listen at %s: %s", path, strerror(errno));
    return -1;
}

static void release(struct ctl *c)
{
    if (c->listen_fd >= 0)
        close(c->listen_fd);
    if (c->wake_fd >= 0)
        close(c->wake_fd);
    json_object_put(c->status);
    free(c);
}

struct ctl *ctl_new(const char *path, struct popf *vm, unsigned port, json_object *constant,
                    struct popf_error *err)
{
    struct ctl *c = xmalloc(sizeof(*c));
    c->vm = vm;
    c->port = port;
    c->status = constant;
    c->listen_fd = c->wake_fd = -1;
    pthread_mutex_init(&c->lock, NULL);
    clock_gettime(CLOCK_MONOTONIC, &c->began);
    for (unsigned i = 0; i < CLIENTS; i++)
        c->client[i].fd = -1;
    int rc = listen_at(c, path, err);
    if (!rc && (errno = pthread_create(&c->thread, NULL, run, c))) {
        snprintf(err->msg, sizeof(err->msg), "cannot start a thread: %s", strerror(errno));
        rc = -1;
    }
    if (!rc)
        return c;
    release(c);
    return NULL;
}

const char *ctl_end_name(enum popf_end end)
{
    switch (end) {
    case POPF_END_POWER_OFF:
        return "power-off";
    case POPF_END_RESET:
        return "reset";
    case POPF_END_TRIPLE_FAULT:
        return "triple-fault";
    case POPF_END_DEBUG_EXIT:
        return "debug-exit";
    case POPF_END_STOPPED:
        return "stopped";
    case POPF_END_BUDGET:
        return "budget";
    default:
        return "error";
    }
}

static void tell_end(struct ctl *c, struct client *cl, const struct popf_outcome *how)
{
    json_object *o = okay();
    json_object_object_add(o, "end", json_object_new_string(ctl_end_name(how->end)));
    json_object_object_add(o, "text", json_object_new_string(how->text));
    reply(c, cl, o);
}

/* The thread is gone: what is left is sent as long as somebody reads. */
static void take_leave(struct ctl *c, struct client *cl)
{
    struct pollfd p = {.fd = cl->fd, .events = POLLOUT};
    while (cl->stage != FREE && cl->out.n && poll(&p, 1, FLUSH_MS) > 0)
        flush(c, cl);
    if (cl->stage != FREE)
        drop(c, cl);
}

void ctl_free(struct ctl *c, const struct popf_outcome *how)
{
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    c->quit = true;
    pthread_mutex_unlock(&c->lock);
    wake(c);
    pthread_join(c->thread, NULL);
    for (unsigned i = 0; i < CLIENTS; i++) {
        struct client *cl = &c->client[i];
        if (cl->stage == WAITS && how)
            tell_end(c, cl, how);
        take_leave(c, cl);
    }
    pthread_mutex_destroy(&c->lock);
    release(c);
}
