/*
 * vsock_peer.c - both ends of the connections in share.sh. Built static: it runs in an initramfs.
 *
 *   vsock_peer send PORT          in the guest: connects to the host's PORT; copies standard input
 *                                 there, and what comes back to standard output
 *   vsock_peer serve PORT         accepts one connection at PORT and sends back what it gets
 *   vsock_peer host-serve PATH    the same on the host, at the unix socket PATH
 *   vsock_peer host-send PATH PORT    connects through PATH to the guest's PORT, however long
 *                                 the guest takes to listen there
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <linux/vm_sockets.h>
#include <unistd.h>

static int fail(const char *what)
{
    perror(what);
    return 1;
}

static int copy_all(int from, int to)
{
    static char buf[65536];
    ssize_t n;
    while ((n = read(from, buf, sizeof(buf))) > 0)
        for (ssize_t at = 0, did; at < n; at += did)
            if ((did = write(to, buf + at, n - at)) <= 0)
                return fail("write");
    return n < 0 ? fail("read") : 0;
}

/* Both directions at a time: no buffer on the way holds all of it. */
static int send_all(int fd)
{
    pid_t child = fork();
    if (!child)
        _exit(copy_all(0, fd) || shutdown(fd, SHUT_WR));
    return child < 0 ? fail("fork") : copy_all(fd, 1);
}

static int serve(int fd, const struct sockaddr *a, socklen_t len)
{
    if (fd < 0 || bind(fd, a, len) || listen(fd, 1))
        return fail("listen");
    fd = accept(fd, NULL, NULL);
    return fd < 0 ? fail("accept") : copy_all(fd, fd);
}

static int in_guest(int serves, const char *port)
{
    struct sockaddr_vm a = {.svm_family = AF_VSOCK,
                            .svm_cid = serves ? VMADDR_CID_ANY : VMADDR_CID_HOST,
                            .svm_port = strtoul(port, NULL, 10)};
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (serves)
        return serve(fd, (struct sockaddr *)&a, sizeof(a));
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)))
        return fail("connect");
    return send_all(fd);
}

/* The answer to "CONNECT P": true for a line "OK N". */
static int accepted(int fd)
{
    char line[32], *p = line;
    while (p < line + sizeof(line) - 1 && read(fd, p, 1) == 1 && *p != '\n')
        p++;
    return !strncmp(line, "OK ", 3) && *p == '\n';
}

static int host_send(const struct sockaddr_un *a, const char *port)
{
    for (int absent = 0; absent < 300; absent++) {
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (!connect(fd, (const struct sockaddr *)a, sizeof(*a))) {
            absent = 0;
            if (dprintf(fd, "CONNECT %s\n", port) > 0 && accepted(fd))
                return send_all(fd);
        }
        close(fd);
        usleep(100000);
    }
    fputs("there is no machine\n", stderr);
    return 1;
}

int main(int argc, char **argv)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (argc == 3 && !strcmp(argv[1], "send"))
        return in_guest(0, argv[2]);
    if (argc == 3 && !strcmp(argv[1], "serve"))
        return in_guest(1, argv[2]);
    if (argc < 3)
        return 2;
    snprintf(a.sun_path, sizeof(a.sun_path), "%s", argv[2]);
    if (!strcmp(argv[1], "host-serve"))
        return serve(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&a, sizeof(a));
    return argc == 4 && !strcmp(argv[1], "host-send") ? host_send(&a, argv[3]) : 2;
}
