/*
 * One command in a guest: messages to and from the agent.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "cli/exec.h"
#include "cli/machine.h"
#include "cli/term.h"
#include "guest/protocol.h"

struct session {
    const struct exec *e;
    int conn, in, out;
    int winch; /* signalfd; -1: no terminal */
    struct term term;
    struct text to;         /* on its way to the agent */
    struct agent_head head; /* of what comes from it */
    char body[AGENT_MSG_MAX];
    size_t got; /* bytes of head and body */
    int status; /* -1: not known yet */
};

static void put_message(struct session *s, uint32_t type, const void *data, uint32_t len)
{
    struct agent_head h = {type, len};
    text_put(&s->to, &h, sizeof(h));
    text_put(&s->to, data, len);
}

static struct agent_size size(void)
{
    struct winsize w;
    if (ioctl(STDIN_FILENO, TIOCGWINSZ, &w) || !w.ws_row || !w.ws_col)
        return (struct agent_size){24, 80};
    return (struct agent_size){w.ws_row, w.ws_col};
}

static void put_words(struct text *t, const struct args *a)
{
    for (size_t i = 0; i < a->n; i++)
        text_put(t, a->v[i], strlen(a->v[i]) + 1);
}

static int put_command(struct session *s)
{
    const struct exec *e = s->e;
    struct agent_exec head = {(uint32_t)e->argv.n, (uint32_t)e->env.n, e->tty, size()};
    struct text t = {0};
    text_put(&t, &head, sizeof(head));
    put_words(&t, &e->argv);
    put_words(&t, &e->env);
    text_put(&t, e->dir, strlen(e->dir) + 1);
    bool fits = t.n <= AGENT_MSG_MAX && e->argv.n <= AGENT_ARGS && e->env.n <= AGENT_ARGS;
    if (fits)
        put_message(s, MSG_EXEC, t.s, (uint32_t)t.n);
    else
        fprintf(stderr, "popf %s: the command is too long: at most %u bytes and %u words\n", e->cmd,
                AGENT_MSG_MAX, AGENT_ARGS);
    text_free(&t);
    return fits ? 0 : -1;
}

/* --- what the agent says --- */

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

static uint32_t body_u32(const struct session *s)
{
    uint32_t val = 0;
    if (s->head.len >= sizeof(val))
        memcpy(&val, s->body, sizeof(val));
    return val;
}

static void cannot_run(struct session *s, int e)
{
    fprintf(stderr, "popf %s: %s: %s\n", s->e->cmd, s->e->argv.v[0], strerror(e));
    s->status = e == ENOENT ? EXEC_NOT_FOUND : EXEC_CANNOT;
}

static void take_message(struct session *s)
{
    uint32_t val = body_u32(s);
    switch (s->head.type) {
    case MSG_STDOUT:
        if (write_all(s->out, s->body, s->head.len))
            s->status = EXEC_FAILED; /* nobody reads it: leave */
        break;
    case MSG_STDERR:
        write_all(STDERR_FILENO, s->body, s->head.len);
        break;
    case MSG_EXIT:
        s->status = val & 0x7f ? 128 + (int)(val & 0x7f) : (int)(val >> 8 & 0xff);
        break;
    case MSG_ERROR:
        cannot_run(s, (int)val);
        break;
    }
}

static void lost(struct session *s)
{
    fprintf(stderr, "popf %s: the machine %s has gone\n", s->e->cmd, s->e->name);
    s->status = EXEC_FAILED;
}

/* Reads on in the message under way. The guest is not to be trusted with its length. */
static void receive(struct session *s)
{
    size_t head = sizeof(s->head);
    char *to = s->got < head ? (char *)&s->head + s->got : s->body + (s->got - head);
    size_t want = s->got < head ? head - s->got : s->head.len - (s->got - head);
    ssize_t n = recv(s->conn, to, want, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        lost(s);
        return;
    }
    s->got += (size_t)n;
    if (s->got >= head && s->head.len > AGENT_MSG_MAX) {
        fprintf(stderr, "popf %s: the agent in %s talks nonsense\n", s->e->cmd, s->e->name);
        s->status = EXEC_FAILED;
    } else if (s->got >= head && s->got == head + s->head.len) {
        s->got = 0;
        take_message(s);
    }
}

/* --- what we say --- */

static void flush(struct session *s)
{
    ssize_t n = send(s->conn, s->to.s, s->to.n, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR) {
        s->to.n = 0; /* what it had to say may still come in */
        s->in = -1;
    } else if (n > 0) {
        s->to.n -= (size_t)n;
        memmove(s->to.s, s->to.s + n, s->to.n);
    }
}

static void read_input(struct session *s)
{
    char buf[16384];
    ssize_t n = read(s->in, buf, sizeof(buf));
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    put_message(s, MSG_STDIN, buf, n > 0 ? (uint32_t)n : 0);
    if (n <= 0)
        s->in = -1;
}

static void tell_size(struct session *s)
{
    struct signalfd_siginfo si;
    struct agent_size now = size();
    if (read(s->winch, &si, sizeof(si)) == sizeof(si))
        put_message(s, MSG_SIZE, &now, sizeof(now));
}

static void loop(struct session *s)
{
    while (s->status < 0) {
        bool reads = s->in >= 0 && !s->to.n && (!s->e->tty || term_readable(&s->term));
        struct pollfd p[3] = {{.fd = s->conn, .events = (short)(POLLIN | (s->to.n ? POLLOUT : 0))},
                              {.fd = reads ? s->in : -1, .events = POLLIN},
                              {.fd = s->winch, .events = POLLIN}};
        if (poll(p, 3, s->e->tty ? 1000 : -1) < 0)
            continue;
        if (p[0].revents & POLLOUT)
            flush(s);
        if (p[0].revents & (POLLIN | POLLHUP | POLLERR))
            receive(s);
        if (p[1].revents)
            read_input(s);
        if (p[2].revents)
            tell_size(s);
    }
}

/* --- */

static int connect_agent(const struct exec *e)
{
    time_t end = time(NULL) + e->wait;
    for (unsigned tries = 0;; tries++) {
        int fd = machine_name_ok(e->name) ? client_vsock(e->name, AGENT_PORT) : -1;
        if (fd >= 0)
            return fd;
        if (!machine_name_ok(e->name) || !machine_owner(e->name)) {
            fprintf(stderr, "popf %s: no machine %s is running; popf ps lists those that are\n",
                    e->cmd, e->name);
            return -1;
        }
        if (fd == -1 && tries > 10) {
            fprintf(stderr, "popf %s: the machine %s has no vsock device\n", e->cmd, e->name);
            return -1;
        }
        if (time(NULL) >= end)
            break;
        usleep(200000);
    }
    fprintf(stderr,
            "popf %s: no agent answers in %s: it is still starting (--wait SECONDS waits longer), "
            "or its image has none (popf image build puts one in)\n",
            e->cmd, e->name);
    return -1;
}

static int watch_size(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGWINCH);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int exec_run(const struct exec *e, int in, int out)
{
    int conn = connect_agent(e);
    if (conn < 0)
        return EXEC_FAILED;
    struct session *s = xmalloc(sizeof(*s));
    *s = (struct session){.e = e, .conn = conn, .in = in, .out = out, .winch = -1, .status = -1};
    signal(SIGPIPE, SIG_IGN);
    if (put_command(s))
        s->status = EXEC_FAILED;
    if (e->tty) {
        s->winch = watch_size();
        term_init(&s->term);
        term_raw(&s->term);
    }
    loop(s);
    if (e->tty) {
        term_free(&s->term);
        close(s->winch);
    }
    int status = s->status;
    close(conn);
    text_free(&s->to);
    free(s);
    return status;
}
