/*
 * vm_debug_port.c - where gdb finds the machine: the address, and the socket that listens there.
 */
#include "vm/vm.h" /* and with it vm_debug.h */

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* A socket that nobody listens on is left from a popf that was killed. */
static int bind_unix(const struct sockaddr_un *sa, int fd)
{
    if (!bind(fd, (const struct sockaddr *)sa, sizeof(*sa)))
        return 0;
    if (errno != EADDRINUSE)
        return -1;
    if (!connect(fd, (const struct sockaddr *)sa, sizeof(*sa)) || errno != ECONNREFUSED) {
        errno = EADDRINUSE;
        return -1;
    }
    unlink(sa->sun_path);
    return bind(fd, (const struct sockaddr *)sa, sizeof(*sa));
}

static int listen_unix(struct vm_debug *d, const char *path, struct err *e)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    if (!*path || strlen(path) >= sizeof(sa.sun_path))
        return err_set(e, "--gdb unix:%s: the path must have 1 to %zu characters", path,
                       sizeof(sa.sun_path) - 1);
    strcpy(sa.sun_path, path);
    d->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (d->listen_fd < 0)
        return err_errno(e, "--gdb: cannot make a socket");
    if (bind_unix(&sa, d->listen_fd))
        return err_errno(e, "--gdb: cannot make the socket %s", path);
    d->path = strdup(path);
    chmod(path, 0600);
    return listen(d->listen_fd, 1) ? err_errno(e, "--gdb: cannot listen on %s", path) : 0;
}

/* "HOST:PORT", "[V6]:PORT" or "PORT" taken apart; true if it is one of these. */
static bool split_address(char *text, const char **host, const char **port)
{
    char *colon = strrchr(text, ':');
    *host = "127.0.0.1";
    *port = text;
    if (colon) {
        *colon = 0;
        *port = colon + 1;
        if (*text == '[' && colon > text + 1 && colon[-1] == ']') {
            colon[-1] = 0;
            text++;
        }
        if (*text)
            *host = text;
    }
    char *end;
    unsigned long n = strtoul(*port, &end, 10);
    return **port >= '0' && **port <= '9' && !*end && n < 65536;
}

static int bind_tcp(struct vm_debug *d, const struct addrinfo *ai)
{
    int on = 1;
    d->listen_fd = socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC, ai->ai_protocol);
    if (d->listen_fd < 0)
        return -1;
    setsockopt(d->listen_fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    return bind(d->listen_fd, ai->ai_addr, ai->ai_addrlen) || listen(d->listen_fd, 1) ? -1 : 0;
}

static int listen_tcp(struct vm_debug *d, const char *where, struct err *e)
{
    char text[256];
    const char *host, *port;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *ai;
    snprintf(text, sizeof(text), "%s", where);
    if (!split_address(text, &host, &port))
        return err_set(e, "--gdb %s: an address is [HOST:]PORT or unix:PATH", where);
    int rc = getaddrinfo(host, port, &hints, &ai);
    if (rc)
        return err_set(e, "--gdb %s: %s", where, gai_strerror(rc));
    rc = bind_tcp(d, ai);
    freeaddrinfo(ai);
    return rc ? err_errno(e, "--gdb: cannot listen on %s", where) : 0;
}

static int set_option(struct vm_debug *d, const char *text, struct err *e)
{
    if (!strcmp(text, "wait")) {
        d->wait = true;
        return 0;
    }
    for (int a = 0; !strncmp(text, "arch=", 5) && a < GDB_ARCHS; a++)
        if (!strcmp(text + 5, gdb_arch_name((enum gdb_arch)a))) {
            d->arch = a;
            return 0;
        }
    return err_set(e,
                   "--gdb: unknown option \"%s\": there are wait, arch=i386:x86-64, arch=i386, "
                   "arch=i8086",
                   text);
}

int vm_debug_listen(struct vm_debug *d, const char *spec, struct err *e)
{
    char text[256];
    if (strlen(spec) >= sizeof(text))
        return err_set(e, "--gdb: the address is too long");
    strcpy(text, spec);
    char *rest = text, *where = strsep(&rest, ",");
    while (rest)
        if (set_option(d, strsep(&rest, ","), e))
            return -1;
    return strncmp(where, "unix:", 5) ? listen_tcp(d, where, e) : listen_unix(d, where + 5, e);
}

/* Where gdb finds it: the port may have been 0. */
void vm_debug_announce(struct vm_debug *d)
{
    char host[64] = "", port[16] = "";
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);
    const char *more = d->wait ? "; the machine waits for it" : "";
    if (d->path) {
        log_emit(&d->vm->log, "gdb: target remote %s%s", d->path, more);
        return;
    }
    if (!getsockname(d->listen_fd, (struct sockaddr *)&sa, &len))
        getnameinfo((struct sockaddr *)&sa, len, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV);
    log_emit(&d->vm->log,
             strchr(host, ':') ? "gdb: target remote [%s]:%s%s" : "gdb: target remote %s:%s%s",
             host, port, more);
}
