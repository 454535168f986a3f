/*
 * popf console: this terminal becomes that of a machine in the background.
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/machine.h"
#include "cli/term.h"

#define LEAVE 0x1d /* Ctrl-] */

void console_help(FILE *f)
{
    fputs("Usage: popf console NAME\n\n"
          "Attaches this terminal to the machine's console. Ctrl-] leaves; the machine goes on.\n",
          f);
}

static int write_all(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t put = write(fd, p, n);
        if (put < 0 && errno != EINTR)
            return -1;
        p += put > 0 ? put : 0;
        n -= put > 0 ? (size_t)put : 0;
    }
    return 0;
}

/* False when the user leaves, or nobody takes what he types. */
static bool pass_keys(const struct term *t, int fd, bool *eof)
{
    char buf[4096];
    ssize_t n = read(STDIN_FILENO, buf, sizeof(buf));
    if (n <= 0) {
        *eof = n == 0 || errno != EINTR;
        return true;
    }
    char *leave = t->tty ? memchr(buf, LEAVE, (size_t)n) : NULL;
    if (leave)
        n = leave - buf;
    return !write_all(fd, buf, (size_t)n) && !leave;
}

/* False at the machine's end. */
static bool pass_output(int fd)
{
    char buf[65536];
    ssize_t n = read(fd, buf, sizeof(buf));
    if (n < 0 && errno == EINTR)
        return true;
    return n > 0 && !write_all(STDOUT_FILENO, buf, (size_t)n);
}

/* Returns whether the machine is still there. */
static bool attached(const struct term *t, int fd)
{
    bool eof = false;
    struct pollfd p[2] = {{.fd = fd, .events = POLLIN}, {.events = POLLIN}};
    for (;;) {
        p[1].fd = eof || !term_readable(t) ? -1 : STDIN_FILENO;
        if (poll(p, 2, eof ? -1 : 1000) < 0)
            continue;
        if (p[0].revents && !pass_output(fd))
            return false;
        if (p[1].fd >= 0 && p[1].revents && !pass_keys(t, fd, &eof))
            return true;
    }
}

static int console(const char *name)
{
    struct term t;
    int fd = client_open("console", name);
    if (fd < 0)
        return STATUS_ERROR;
    json_object *reply = client_ask(fd, client_request("console"), 5000);
    int64_t ok = json_number(reply, "ok");
    json_object_put(reply);
    if (!ok) {
        fprintf(stderr, "popf console: the machine %s does not answer\n", name);
        return STATUS_ERROR;
    }
    signal(SIGPIPE, SIG_IGN);
    term_init(&t);
    if (t.tty)
        fprintf(stderr, "console of %s; Ctrl-] leaves\n", name);
    term_raw(&t);
    bool there = attached(&t, fd);
    term_free(&t);
    close(fd);
    if (t.tty)
        fprintf(stderr, there ? "\nleft; %s goes on\n" : "\n%s has ended\n", name);
    return 0;
}

int console_main(int argc, char **argv)
{
    static const struct option options[] = {{"help", no_argument, NULL, 'h'}, {0}};
    opterr = 0;
    optind = 1;
    int opt = getopt_long(argc, argv, "h", options, NULL);
    if (opt == 'h') {
        console_help(stdout);
        return 0;
    }
    if (opt == -1 && optind + 1 == argc)
        return console(argv[optind]);
    fputs("popf console: one name of a machine is needed; try popf console --help\n", stderr);
    return STATUS_USAGE;
}
