/*
 * virtio_vsock_conn.c - connections: their table, their unix sockets and what the guest sends
 * there, and those that the host asks for.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "dev/virtio_vsock_priv.h"

static void on_socket(void *arg, u32 events);

/* --- the table of connections --- */

static struct virtio_vsock_conn **bucket_of(struct virtio_vsock *vs, u32 guest_port, u32 host_port)
{
    return &vs->bucket[(guest_port ^ host_port * 0x9e3779b1u) % VIRTIO_VSOCK_BUCKETS];
}

static struct virtio_vsock_conn **home_of(struct virtio_vsock_conn *c)
{
    if (c->state == CONN_LINE)
        return &c->vs->bucket[VIRTIO_VSOCK_BUCKETS];
    return bucket_of(c->vs, c->guest_port, c->host_port);
}

struct virtio_vsock_conn *virtio_vsock_conn_find(struct virtio_vsock *vs, u32 guest_port,
                                                 u32 host_port)
{
    struct virtio_vsock_conn *c = *bucket_of(vs, guest_port, host_port);
    while (c && (c->guest_port != guest_port || c->host_port != host_port))
        c = c->next;
    return c;
}

static void enter(struct virtio_vsock_conn *c)
{
    struct virtio_vsock_conn **at = home_of(c);
    c->next = *at;
    *at = c;
}

static void leave(struct virtio_vsock_conn *c)
{
    struct virtio_vsock_conn **at = home_of(c);
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
}

void virtio_vsock_conn_ready(struct virtio_vsock_conn *c)
{
    struct virtio_vsock *vs = c->vs;
    if (c->ready)
        return;
    c->ready = true;
    c->ready_next = NULL;
    *vs->last = c;
    vs->last = &c->ready_next;
}

struct virtio_vsock_conn *virtio_vsock_conn_next(struct virtio_vsock *vs)
{
    struct virtio_vsock_conn *c = vs->first;
    if (!c)
        return NULL;
    vs->first = c->ready_next;
    if (!vs->first)
        vs->last = &vs->first;
    c->ready = false;
    return c;
}

static void unready(struct virtio_vsock_conn *c)
{
    struct virtio_vsock_conn **at = &c->vs->first;
    if (!c->ready)
        return;
    while (*at != c)
        at = &(*at)->ready_next;
    *at = c->ready_next;
    if (c->vs->last == &c->ready_next)
        c->vs->last = at;
    c->ready = false;
}

void virtio_vsock_conn_close(struct virtio_vsock_conn *c)
{
    if (c->fd < 0)
        return;
    loop_del(&c->wait);
    close(c->fd);
    c->fd = -1;
    c->readable = false;
    free(c->buf);
    c->buf = NULL;
    c->buf_len = 0;
}

void virtio_vsock_conn_drop(struct virtio_vsock_conn *c)
{
    virtio_vsock_conn_close(c);
    unready(c);
    leave(c);
    c->vs->nconns--;
    free(c);
}

/* One that waits only for the guest's last word makes room for a new one. */
static bool make_room(struct virtio_vsock *vs)
{
    if (vs->nconns < VIRTIO_VSOCK_CONNS_MAX)
        return true;
    for (unsigned i = 0; i < VIRTIO_VSOCK_BUCKETS; i++)
        for (struct virtio_vsock_conn *c = vs->bucket[i]; c; c = c->next)
            if (c->state == CONN_CLOSING) {
                virtio_vsock_conn_drop(c);
                return true;
            }
    return false;
}

/* Takes fd over; NULL, with it closed, if there is no room. The caller enters it. */
static struct virtio_vsock_conn *make(struct virtio_vsock *vs, int fd, enum conn_state state)
{
    struct virtio_vsock_conn *c = make_room(vs) ? calloc(1, sizeof(*c)) : NULL;
    if (!c) {
        close(fd);
        return NULL;
    }
    c->vs = vs;
    c->fd = fd;
    c->state = state;
    vs->nconns++;
    return c;
}

/* --- what the guest is to be told, and what is waited for --- */

void virtio_vsock_conn_tell(struct virtio_vsock_conn *c, enum op op)
{
    c->todo |= TODO(op);
    virtio_vsock_conn_ready(c);
}

/* The connection ends here and now. */
void virtio_vsock_conn_kill(struct virtio_vsock_conn *c)
{
    virtio_vsock_conn_close(c);
    if (c->state == CONN_LINE) {
        virtio_vsock_conn_drop(c);
        return;
    }
    c->state = CONN_DEAD;
    c->todo = 0;
    virtio_vsock_conn_tell(c, OP_RST);
}

/* 5.10.6.3: bytes that the guest's buffer still has room for. A guest that says it has got more
 * than was sent gets nothing. */
u32 virtio_vsock_conn_credit(const struct virtio_vsock_conn *c)
{
    u32 under_way = c->sent - c->peer_fwd;
    return under_way < c->peer_alloc ? c->peer_alloc - under_way : 0;
}

/*
 * What is waited for on the socket. Nothing: it leaves the loop altogether, which would report a
 * hang-up for ever.
 */
void virtio_vsock_conn_wait(struct virtio_vsock_conn *c)
{
    bool more = c->state == CONN_OPEN && !(c->guest_shut & SHUT_RECEIVE) &&
                !((c->shut_told | c->shut_todo) & SHUT_SEND) && !c->readable;
    u32 events = (more || c->state == CONN_LINE ? EPOLLIN : 0) | (c->buf_len ? EPOLLOUT : 0);
    if (c->fd < 0)
        return;
    if (!events && c->state != CONN_WAIT)
        loop_del(&c->wait);
    else if (c->wait.loop && c->wait.events == events)
        return;
    else if (c->wait.loop)
        loop_mod(&c->wait, events);
    else if (loop_add(c->vs->loop, &c->wait, c->fd, events, on_socket, c))
        virtio_vsock_conn_kill(c);
}

void virtio_vsock_conn_shutdown(struct virtio_vsock_conn *c, u8 flags)
{
    flags &= ~(c->shut_told | c->shut_todo);
    if (!flags)
        return;
    c->shut_todo |= flags;
    virtio_vsock_conn_tell(c, OP_SHUTDOWN);
}

/* --- to the host's sockets --- */

static void connect_path(struct virtio_vsock *vs, struct sockaddr_un *a, u32 port)
{
    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(a->sun_path, sizeof(a->sun_path), "%s_%u", vs->path, port);
}

/* 5.10.6.6: the guest connects. */
void virtio_vsock_conn_open(struct virtio_vsock *vs, const struct packet *p)
{
    struct sockaddr_un a;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    connect_path(vs, &a, p->dst_port);
    struct virtio_vsock_conn *c = NULL;
    if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)))
        close(fd);
    else if (fd >= 0)
        c = make(vs, fd, CONN_OPEN);
    if (!c) {
        virtio_vsock_refuse(vs, p->src_port, p->dst_port, p->type);
        return;
    }
    c->guest_port = p->src_port;
    c->host_port = p->dst_port;
    c->peer_alloc = p->buf_alloc;
    c->peer_fwd = p->fwd_cnt;
    enter(c);
    virtio_vsock_conn_tell(c, OP_RESPONSE);
    virtio_vsock_conn_wait(c);
}

/* The guest has accepted what the host asked for. */
void virtio_vsock_conn_accept(struct virtio_vsock_conn *c)
{
    char line[LINE_MAX];
    int n = snprintf(line, sizeof(line), "OK %u\n", c->host_port);
    if (c->state != CONN_WAIT || send(c->fd, line, n, MSG_DONTWAIT | MSG_NOSIGNAL) != n) {
        virtio_vsock_conn_kill(c);
        return;
    }
    c->state = CONN_OPEN;
    virtio_vsock_conn_wait(c);
}

static ssize_t send_iov(int fd, struct iovec *v, unsigned n)
{
    struct msghdr m = {.msg_iov = v, .msg_iovlen = n};
    ssize_t sent = sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : sent;
}

/* Bytes went to the socket: the guest gets them back as credit, in large pieces. */
static void forwarded(struct virtio_vsock_conn *c, u32 n)
{
    c->fwd += n;
    if (c->fwd - c->fwd_told >= BUF_ALLOC / 4)
        virtio_vsock_conn_tell(c, OP_CREDIT_UPDATE);
}

/* All that the guest has sent is out: its own shutdown may take effect. */
static void settle_shutdown(struct virtio_vsock_conn *c)
{
    if (c->state != CONN_OPEN || c->buf_len)
        return;
    if (c->guest_shut == SHUT_BOTH)
        virtio_vsock_conn_kill(c); /* 5.10.6.5: RST confirms it */
    else if (c->guest_shut & SHUT_SEND)
        shutdown(c->fd, SHUT_WR);
}

/* The host reads no more: what the guest has sent has nowhere to go. */
static void on_broken(struct virtio_vsock_conn *c)
{
    forwarded(c, c->buf_len);
    c->buf_len = 0;
    virtio_vsock_conn_shutdown(c, SHUT_RECEIVE);
}

static void flush_buf(struct virtio_vsock_conn *c)
{
    struct iovec v = {c->buf + c->buf_head, c->buf_len};
    if (!c->buf_len)
        return;
    ssize_t n = send_iov(c->fd, &v, 1);
    if (n < 0) {
        on_broken(c);
    } else {
        c->buf_head += n;
        c->buf_len -= n;
        forwarded(c, n);
    }
    settle_shutdown(c);
}

/* Keeps bytes [off, off+len) of the packet, which its credit covers. */
static bool keep(struct virtio_vsock_conn *c, const struct virtq_buf *b, size_t off, u32 len)
{
    if (!c->buf)
        c->buf = malloc(BUF_ALLOC);
    if (!c->buf || len > BUF_ALLOC - c->buf_len)
        return false;
    if (c->buf_head + c->buf_len + len > BUF_ALLOC) {
        memmove(c->buf, c->buf + c->buf_head, c->buf_len);
        c->buf_head = 0;
    }
    virtq_read(b, off, c->buf + c->buf_head + c->buf_len, len);
    c->buf_len += len;
    return true;
}

void virtio_vsock_conn_write(struct virtio_vsock_conn *c, const struct virtq_buf *b, u32 len)
{
    struct iovec v[VIRTQ_SEGS_MAX];
    size_t off = sizeof(struct packet);
    if (c->state == CONN_CLOSING || c->state == CONN_DEAD)
        return; /* it was on its way when the end was told */
    if (c->state != CONN_OPEN || (c->guest_shut & SHUT_SEND)) {
        virtio_vsock_conn_kill(c);
        return;
    }
    ssize_t n = 0;
    if (!c->buf_len)
        n = send_iov(c->fd, v, virtq_slice(b->out, b->nout, off, len, v, ARRAY_SIZE(v)));
    if (n < 0) {
        forwarded(c, len);
        virtio_vsock_conn_shutdown(c, SHUT_RECEIVE);
        return;
    }
    forwarded(c, n);
    if ((u32)n < len && !keep(c, b, off + n, len - n))
        virtio_vsock_conn_kill(c); /* more than its credit */
    virtio_vsock_conn_wait(c);
}

void virtio_vsock_conn_take_shutdown(struct virtio_vsock_conn *c, u32 flags)
{
    if (c->state != CONN_OPEN) {
        virtio_vsock_conn_kill(c);
        return;
    }
    c->guest_shut |= flags & SHUT_BOTH;
    if (c->guest_shut & SHUT_RECEIVE)
        c->readable = false;
    settle_shutdown(c);
    virtio_vsock_conn_wait(c);
}

/* --- the host connects --- */

static u32 free_port(struct virtio_vsock *vs, u32 guest_port)
{
    do {
        vs->next_port++;
        if (vs->next_port < FIRST_PORT)
            vs->next_port = FIRST_PORT;
    } while (virtio_vsock_conn_find(vs, guest_port, vs->next_port));
    return vs->next_port;
}

/* "CONNECT P", without its end. */
static bool parse_line(const char *line, u32 *port)
{
    char *end;
    if (strncmp(line, "CONNECT ", 8) || line[8] < '0' || line[8] > '9')
        return false;
    errno = 0;
    unsigned long v = strtoul(line + 8, &end, 10);
    *port = v;
    return !*end && !errno && v < UINT32_MAX;
}

static void ask_guest(struct virtio_vsock_conn *c, u32 port)
{
    leave(c);
    c->state = CONN_WAIT;
    c->guest_port = port;
    c->host_port = free_port(c->vs, port);
    enter(c);
    virtio_vsock_conn_tell(c, OP_REQUEST);
    virtio_vsock_conn_wait(c);
}

/* Byte by byte: what follows the line is for the guest. */
static void read_line(struct virtio_vsock_conn *c)
{
    char byte;
    u32 port;
    ssize_t n;
    while ((n = recv(c->fd, &byte, 1, MSG_DONTWAIT)) == 1 && byte != '\n') {
        if (c->line_len == sizeof(c->line) - 1) {
            virtio_vsock_conn_drop(c);
            return;
        }
        c->line[c->line_len++] = byte;
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n == 1 && virtio_ready(&c->vs->v) && parse_line(c->line, &port))
        ask_guest(c, port);
    else
        virtio_vsock_conn_drop(c);
}

static void on_open_socket(struct virtio_vsock_conn *c, u32 events)
{
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
        flush_buf(c);
    if (c->state == CONN_OPEN && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) &&
        !(c->guest_shut & SHUT_RECEIVE)) {
        c->readable = true;
        virtio_vsock_conn_ready(c);
    }
    virtio_vsock_conn_wait(c);
}

static void on_socket(void *arg, u32 events)
{
    struct virtio_vsock_conn *c = arg;
    struct virtio_vsock *vs = c->vs;
    if (c->state == CONN_LINE)
        read_line(c);
    else if (c->state == CONN_OPEN)
        on_open_socket(c, events);
    else if (events & (EPOLLHUP | EPOLLERR)) /* it does not wait for the guest any longer */
        virtio_vsock_conn_kill(c);
    virtio_vsock_pump(vs);
}

static void on_listener(void *arg, u32 events)
{
    struct virtio_vsock *vs = arg;
    int fd = accept4(vs->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
        vs->deaf = true; /* it would be told for ever; the next packet of the guest ends that */
        loop_mod(&vs->listening, 0);
    }
    struct virtio_vsock_conn *c = fd < 0 ? NULL : make(vs, fd, CONN_LINE);
    if (!c)
        return;
    enter(c);
    virtio_vsock_conn_wait(c);
}

/* The host was short of descriptors: tries again to accept connections. */
void virtio_vsock_conn_hear(struct virtio_vsock *vs)
{
    vs->deaf = false;
    loop_mod(&vs->listening, EPOLLIN);
}

/* Is it a socket that nobody listens at? A machine that was killed leaves one. */
static bool is_stale(const struct sockaddr_un *a)
{
    struct stat st;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    bool stale = fd >= 0 && !lstat(a->sun_path, &st) && S_ISSOCK(st.st_mode) &&
                 connect(fd, (const struct sockaddr *)a, sizeof(*a)) && errno == ECONNREFUSED;
    if (fd >= 0)
        close(fd);
    return stale;
}

/* Only the user himself may connect. */
int virtio_vsock_conn_listen(struct virtio_vsock *vs, struct err *e)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    memcpy(a.sun_path, vs->path, sizeof(vs->path));
    if (is_stale(&a))
        unlink(vs->path);
    vs->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (vs->listener < 0 || bind(vs->listener, (struct sockaddr *)&a, sizeof(a)))
        return err_errno(e, "cannot make the vsock socket %s", vs->path);
    if (!chmod(vs->path, 0600) && !listen(vs->listener, 64) &&
        !loop_add(vs->loop, &vs->listening, vs->listener, EPOLLIN, on_listener, vs))
        return 0;
    err_errno(e, "cannot listen at the vsock socket %s", vs->path);
    unlink(vs->path);
    return -1;
}

void virtio_vsock_conn_drop_all(struct virtio_vsock *vs)
{
    for (unsigned i = 0; i <= VIRTIO_VSOCK_BUCKETS; i++)
        while (vs->bucket[i])
            virtio_vsock_conn_drop(vs->bucket[i]);
    vs->nresets = 0;
}
