#include "vm/vm_port.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void feed(struct vm_port *p);

static void hang_up(struct vm_port *p)
{
    loop_del(&p->client);
    if (p->fd >= 0)
        close(p->fd);
    p->fd = -1;
    p->nin = 0;
    p->eof = false;
    virtio_console_open(p->console, p->number, false);
}

/* What is waited for: input while there is room, the way out while the guest has output. */
static void wait_for(struct vm_port *p, u32 set, u32 clear)
{
    if (p->client.loop)
        loop_mod(&p->client, (p->client.events | set) & ~clear);
}

static void read_client(struct vm_port *p)
{
    ssize_t n = recv(p->fd, p->in + p->nin, sizeof(p->in) - p->nin, MSG_DONTWAIT);
    if (n > 0)
        p->nin += (size_t)n;
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        p->eof = true;
        loop_del(&p->client);
    }
    feed(p);
}

static void on_client(void *arg, u32 events)
{
    struct vm_port *p = arg;
    if (events & EPOLLIN) {
        read_client(p);
    } else if (events & (EPOLLERR | EPOLLHUP)) {
        hang_up(p);
        return;
    }
    if (p->fd >= 0 && (events & EPOLLOUT)) {
        wait_for(p, 0, EPOLLOUT);
        virtio_console_room(p->console, p->number);
    }
}

static void on_connect(void *arg, u32 events)
{
    struct vm_port *p = arg;
    int fd = accept4(p->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    if (p->fd >= 0 || loop_add(p->loop, &p->client, fd, EPOLLIN, on_client, p)) {
        close(fd); /* somebody is there already */
        return;
    }
    p->fd = fd;
    p->nin = 0;
    virtio_console_open(p->console, p->number, true);
}

/* --- the console's side --- */

static void feed(struct vm_port *p)
{
    size_t n = virtio_console_in(p->console, p->number, p->in, p->nin);
    p->nin -= n;
    memmove(p->in, p->in + n, p->nin);
    if (p->eof && !p->nin)
        hang_up(p);
    else if (p->nin < sizeof(p->in))
        wait_for(p, EPOLLIN, 0);
    else
        wait_for(p, 0, EPOLLIN);
}

static void want(void *arg)
{
    struct vm_port *p = arg;
    if (p->fd >= 0)
        feed(p);
}

static size_t out(void *arg, const u8 *buf, size_t n)
{
    struct vm_port *p = arg;
    if (p->fd < 0)
        return n;
    ssize_t sent = send(p->fd, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN && errno != EINTR)
        return n; /* he is gone: on_client() hears of it */
    size_t took = sent < 0 ? 0 : (size_t)sent;
    if (took == n || p->eof)
        return n; /* nobody says when there is room for one who is leaving */
    wait_for(p, EPOLLOUT, 0);
    return took;
}

/* --- making it --- */

/* Binds; a socket that a machine left behind when it was killed is replaced. */
static int bind_at(int fd, const struct sockaddr_un *sa)
{
    const struct sockaddr *a = (const struct sockaddr *)sa;
    if (!bind(fd, a, sizeof(*sa)))
        return 0;
    if (errno != EADDRINUSE)
        return -1;
    int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool dead = probe >= 0 && connect(probe, a, sizeof(*sa)) && errno == ECONNREFUSED;
    if (probe >= 0)
        close(probe);
    errno = EADDRINUSE;
    return dead && !unlink(sa->sun_path) ? bind(fd, a, sizeof(*sa)) : -1;
}

static int listen_at(struct vm_port *p, const char *path, struct err *e)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(sa.sun_path))
        return err_set(e, "--port: %s: a socket's path has at most %zu characters", path,
                       sizeof(sa.sun_path) - 1);
    memcpy(sa.sun_path, path, strlen(path) + 1);
    p->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (p->listen_fd < 0 || bind_at(p->listen_fd, &sa))
        return err_errno(e, "--port: cannot listen at %s%s", path,
                         errno == EADDRINUSE ? " (another machine has it, or it is no socket)"
                                             : "");
    p->path = strdup(path);
    if (!p->path || listen(p->listen_fd, 1) ||
        loop_add(p->loop, &p->listener, p->listen_fd, EPOLLIN, on_connect, p))
        return err_errno(e, "--port: cannot listen at %s", path);
    return 0;
}

int vm_port_init(struct vm_port *p, struct virtio_console *c, struct loop *loop, const char *name,
                 const char *path, struct err *e)
{
    struct virtio_console_end end = {.out = out, .want = want, .arg = p};
    *p = (struct vm_port){.console = c, .loop = loop, .listen_fd = -1, .fd = -1};
    int number = virtio_console_add(c, name, &end);
    if (number < 0)
        return err_set(e, "--port: %s: the name is too long, or there are too many ports", name);
    p->number = (unsigned)number;
    return listen_at(p, path, e);
}

void vm_port_free(struct vm_port *p)
{
    loop_del(&p->client);
    loop_del(&p->listener);
    if (p->fd >= 0)
        close(p->fd);
    if (p->listen_fd >= 0)
        close(p->listen_fd);
    if (p->path)
        unlink(p->path);
    free(p->path);
}
