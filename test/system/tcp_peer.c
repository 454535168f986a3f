/*
 * tcp_peer.c - one TCP connection on the loopback, for net.sh.
 *
 *   tcp_peer take PORT   listens, and writes what comes to standard output
 *   tcp_peer give PORT   listens, and sends standard input to who comes
 *   tcp_peer send PORT   connects, sends standard input, and waits for the other side's end
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Copies until the end of `from`; -1 if a write fails. */
static int copy(int from, int to)
{
    static char buf[65536];
    ssize_t n;
    while ((n = read(from, buf, sizeof(buf))) > 0)
        for (char *p = buf; n > 0;) {
            ssize_t done = write(to, p, (size_t)n);
            if (done <= 0)
                return -1;
            p += done;
            n -= done;
        }
    return 0;
}

static int open_socket(int listens, int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((unsigned short)port),
                            .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
    int one = 1, s = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (!listens)
        return connect(s, (struct sockaddr *)&a, sizeof(a)) ? -1 : s;
    if (bind(s, (struct sockaddr *)&a, sizeof(a)) || listen(s, 1))
        return -1;
    return accept(s, NULL, NULL);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    int take = !strcmp(argv[1], "take"), send = !strcmp(argv[1], "send");
    int s = open_socket(!send, atoi(argv[2]));
    if (s < 0) {
        perror("tcp_peer");
        return 1;
    }
    int failed = take ? copy(s, 1) : copy(0, s);
    shutdown(s, SHUT_WR);
    if (!take) {
        char c;
        while (read(s, &c, 1) > 0)
            ;
    }
    return failed != 0;
}
