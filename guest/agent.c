/*
 * agent.c - runs commands in a guest for `popf exec` and `popf cp`, who talk to it over vsock.
 *
 * Only the host can connect to it (the kernel delivers nothing else to a vsock port, loopback
 * aside, which this refuses), and the host owns the guest anyway: a command runs as root. One
 * process listens; each connection is a process of its own that ends with its command.
 *
 * Exit status 3: this kernel has no vsock, or the machine no such device.
 */
#include "protocol.h"
#include "sys.h"

#define CID_HOST 2

struct session {
    int conn;
    int in, out, err; /* the command's ends; a terminal is `in` and `out`; -1: closed */
    int sig;          /* signalfd of SIGCHLD */
    long pid;
    int ended;
    uint32_t status;
    uint32_t type, left;            /* the message under way from the host */
    uint8_t pending[AGENT_MSG_MAX]; /* for the command's input */
    uint32_t npending, sent;
    int in_ends; /* close it once all is sent */
    int tty;
};

/* The compiler calls these. */
void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int c, size_t n);
void agent_main(void);

void *memcpy(void *to, const void *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((volatile uint8_t *)to)[i] = ((const uint8_t *)from)[i];
    return to;
}

void *memset(void *to, int c, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((volatile uint8_t *)to)[i] = (uint8_t)c;
    return to;
}

static void __attribute__((noreturn)) quit(int status)
{
    for (;;)
        sys(NR_exit_group, status, 0, 0, 0);
}

/* --- messages --- */

/* 0, or -1 when the host has gone. */
static int read_full(int fd, void *to, size_t n)
{
    for (uint8_t *p = to; n;) {
        long got = sys(NR_read, fd, (long)p, (long)n, 0);
        if (got == -EINTR)
            continue;
        if (got <= 0)
            return -1;
        p += got;
        n -= (size_t)got;
    }
    return 0;
}

static int write_full(int fd, const void *from, size_t n)
{
    for (const uint8_t *p = from; n;) {
        long put = sys(NR_write, fd, (long)p, (long)n, 0);
        if (put == -EINTR)
            continue;
        if (put <= 0)
            return -1;
        p += put;
        n -= (size_t)put;
    }
    return 0;
}

static int send_msg(int fd, uint32_t type, const void *data, uint32_t len)
{
    struct agent_head h = {type, len};
    return write_full(fd, &h, sizeof(h)) || write_full(fd, data, len) ? -1 : 0;
}

static int send_u32(int fd, uint32_t type, uint32_t val)
{
    return send_msg(fd, type, &val, sizeof(val));
}

/* --- starting the command --- */

struct command {
    struct agent_exec head;
    char *argv[AGENT_ARGS + 1];
    char *env[AGENT_ARGS + 1];
    char *dir;
};

/* The word at *p, of at most `end - *p` bytes, or NULL. */
static char *take_word(char **p, char *end)
{
    char *word = *p;
    while (*p < end && **p)
        (*p)++;
    if (*p == end)
        return NULL;
    (*p)++;
    return word;
}

static int parse(struct command *c, char *p, uint32_t len)
{
    char *end = p + len;
    if (len < sizeof(c->head))
        return -1;
    memcpy(&c->head, p, sizeof(c->head));
    p += sizeof(c->head);
    if (!c->head.argc || c->head.argc > AGENT_ARGS || c->head.envc > AGENT_ARGS)
        return -1;
    for (uint32_t i = 0; i < c->head.argc; i++)
        if (!(c->argv[i] = take_word(&p, end)))
            return -1;
    for (uint32_t i = 0; i < c->head.envc; i++)
        if (!(c->env[i] = take_word(&p, end)))
            return -1;
    c->argv[c->head.argc] = c->env[c->head.envc] = NULL;
    c->dir = take_word(&p, end);
    return c->dir ? 0 : -1;
}

static int has_slash(const char *s)
{
    while (*s && *s != '/')
        s++;
    return *s;
}

/* Tries argv[0] in the folders that guests have programs in; returns errno. */
static long exec_path(struct command *c)
{
    static const char *const dirs[] = {"/usr/local/sbin/", "/usr/local/bin/", "/usr/sbin/",
                                       "/usr/bin/",        "/sbin/",          "/bin/"};
    long rc = 2; /* ENOENT */
    if (has_slash(c->argv[0]))
        return -sys(NR_execve, (long)c->argv[0], (long)c->argv, (long)c->env, 0);
    for (unsigned i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {
        char path[512];
        unsigned n = 0;
        for (const char *s = dirs[i]; *s; s++)
            path[n++] = *s;
        for (const char *s = c->argv[0]; *s && n < sizeof(path) - 1; s++)
            path[n++] = *s;
        path[n] = 0;
        long e = -sys(NR_execve, (long)path, (long)c->argv, (long)c->env, 0);
        if (e != 2)
            rc = e;
    }
    return rc;
}

static void signals(long how)
{
    uint64_t set = 1ull << (SIGCHLD - 1) | 1ull << (SIGPIPE - 1);
    sys(NR_rt_sigprocmask, how, (long)&set, 0, sizeof(set));
}

/* In the command's process. What goes wrong is told through the pipe `told`, which exec closes. */
static void __attribute__((noreturn)) become(struct command *c, int in, int out, int err, int told)
{
    sys(NR_setsid, 0, 0, 0, 0);
    sys(NR_dup2, in, 0, 0, 0);
    sys(NR_dup2, out, 1, 0, 0);
    sys(NR_dup2, err, 2, 0, 0);
    if (c->head.tty)
        sys(NR_ioctl, 0, TIOCSCTTY, 0, 0);
    signals(SIG_UNBLOCK);
    long rc = c->dir[0] ? -sys(NR_chdir, (long)c->dir, 0, 0, 0) : 0;
    if (!c->dir[0] && sys(NR_chdir, (long)"/root", 0, 0, 0) < 0)
        sys(NR_chdir, (long)"/", 0, 0, 0);
    if (rc <= 0)
        rc = exec_path(c);
    uint32_t e = (uint32_t)rc;
    write_full(told, &e, sizeof(e));
    quit(127);
}

/* A terminal: its master, and *slave; -errno. */
static long open_tty(const struct command *c, int *slave)
{
    long master = sys(NR_open, (long)"/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC, 0, 0);
    int zero = 0;
    uint32_t number;
    if (master < 0)
        return master;
    long rc = sys(NR_ioctl, master, TIOCSPTLCK, (long)&zero, 0);
    if (!rc)
        rc = sys(NR_ioctl, master, (long)TIOCGPTN, (long)&number, 0);
    if (rc < 0)
        return rc;
    char path[24] = "/dev/pts/", digits[10];
    unsigned n = 9, k = 0;
    do
        digits[k++] = (char)('0' + number % 10);
    while (number /= 10);
    while (k)
        path[n++] = digits[--k];
    path[n] = 0;
    *slave = (int)sys(NR_open, (long)path, O_RDWR | O_NOCTTY | O_CLOEXEC, 0, 0);
    struct winsize w = {c->head.size.rows, c->head.size.cols, 0, 0};
    sys(NR_ioctl, master, TIOCSWINSZ, (long)&w, 0);
    return *slave < 0 ? *slave : master;
}

static void close_fd(int fd)
{
    sys(NR_close, fd, 0, 0, 0);
}

/* Starts it on pipes or a terminal; errno. */
static long start(struct session *s, struct command *c)
{
    int in[2], out[2], err[2], told[2], slave = -1;
    if (sys(NR_pipe2, (long)told, O_CLOEXEC, 0, 0) < 0)
        return 24; /* EMFILE */
    s->tty = c->head.tty != 0;
    if (s->tty) {
        long master = open_tty(c, &slave);
        if (master < 0)
            return -master;
        s->in = s->out = (int)master;
        s->err = -1;
    } else {
        if (sys(NR_pipe2, (long)in, O_CLOEXEC, 0, 0) < 0 ||
            sys(NR_pipe2, (long)out, O_CLOEXEC, 0, 0) < 0 ||
            sys(NR_pipe2, (long)err, O_CLOEXEC, 0, 0) < 0)
            return 24;
        s->in = in[1], s->out = out[0], s->err = err[0];
    }
    s->pid = sys(NR_fork, 0, 0, 0, 0);
    if (s->pid == 0)
        become(c, s->tty ? slave : in[0], s->tty ? slave : out[1], s->tty ? slave : err[1],
               told[1]);
    close_fd(told[1]);
    if (s->tty)
        close_fd(slave);
    else
        close_fd(in[0]), close_fd(out[1]), close_fd(err[1]);
    if (s->pid < 0)
        return -s->pid;
    uint32_t e;
    if (!read_full(told[0], &e, sizeof(e)))
        return e;
    close_fd(told[0]);
    sys(NR_fcntl, s->in, F_SETFL, O_RDWR | O_NONBLOCK, 0);
    return 0;
}

/* --- while it runs --- */

static void close_input(struct session *s)
{
    if (s->tty) { /* the terminal's way to say it; the master stays for what is printed */
        static const char ctrl_d = 4;
        sys(NR_write, s->in, (long)&ctrl_d, 1, 0);
    } else {
        close_fd(s->in);
    }
    s->in = -1;
}

static void feed(struct session *s)
{
    long n = sys(NR_write, s->in, (long)(s->pending + s->sent), s->npending - s->sent, 0);
    if (n > 0)
        s->sent += (uint32_t)n;
    else if (n != -EAGAIN && n != -EINTR) { /* it reads no more: drop the rest */
        s->sent = s->npending;
        s->in_ends = 1;
    }
    if (s->sent < s->npending)
        return;
    s->sent = s->npending = 0;
    if (s->in_ends)
        close_input(s);
}

static void set_size(struct session *s, const uint8_t *data, uint32_t len)
{
    struct agent_size size;
    if (!s->tty || len < sizeof(size))
        return;
    memcpy(&size, data, sizeof(size));
    struct winsize w = {size.rows, size.cols, 0, 0};
    sys(NR_ioctl, s->out, TIOCSWINSZ, (long)&w, 0);
}

static void send_signal(struct session *s, const uint8_t *data, uint32_t len)
{
    uint32_t sig;
    if (len < sizeof(sig) || s->ended)
        return;
    memcpy(&sig, data, sizeof(sig));
    sys(NR_kill, -s->pid, sig & 63, 0, 0);
}

/* One message of the host; -1 when it has gone. */
static int take_message(struct session *s)
{
    struct agent_head h;
    if (read_full(s->conn, &h, sizeof(h)) || h.len > sizeof(s->pending) ||
        read_full(s->conn, s->pending, h.len))
        return -1;
    if (h.type == MSG_SIZE)
        set_size(s, s->pending, h.len);
    else if (h.type == MSG_SIGNAL)
        send_signal(s, s->pending, h.len);
    if (h.type != MSG_STDIN || s->in < 0)
        return 0;
    s->npending = h.len;
    s->in_ends |= !h.len;
    feed(s);
    return 0;
}

/* Passes output on; closes *fd at its end. */
static void pass(struct session *s, int *fd, uint32_t type)
{
    static uint8_t buf[AGENT_MSG_MAX];
    long n = sys(NR_read, *fd, (long)buf, sizeof(buf), 0);
    if (n > 0) {
        if (send_msg(s->conn, type, buf, (uint32_t)n))
            quit(0);
    } else if (n != -EINTR && n != -EAGAIN) { /* EIO: a terminal that nobody has open any more */
        *fd = -1;
    }
}

static void reap(struct session *s)
{
    uint8_t info[128];
    int status = 0;
    sys(NR_read, s->sig, (long)info, sizeof(info), 0);
    if (sys(NR_wait4, s->pid, (long)&status, WNOHANG, 0) == s->pid) {
        s->ended = 1;
        s->status = (uint32_t)status;
    }
}

/* Waits for events; once the command has ended, only for what it has left in its pipes. */
static int step(struct session *s)
{
    struct pollfd p[5] = {{s->npending ? -1 : s->conn, POLLIN, 0},
                          {s->npending ? s->in : -1, POLLOUT, 0},
                          {s->out, POLLIN, 0},
                          {s->err, POLLIN, 0},
                          {s->ended ? -1 : s->sig, POLLIN, 0}};
    long n = sys(NR_poll, (long)p, 5, s->ended ? 0 : -1, 0);
    if (n < 0)
        return n == -EINTR ? 0 : -1;
    if (s->ended && !p[2].revents && !p[3].revents)
        return 1;
    if (p[1].revents)
        feed(s);
    if (p[2].revents)
        pass(s, &s->out, MSG_STDOUT);
    if (p[3].revents)
        pass(s, &s->err, MSG_STDERR);
    if (p[4].revents)
        reap(s);
    if (p[0].revents && !s->ended)
        return take_message(s);
    return 0;
}

static void __attribute__((noreturn)) serve(int conn)
{
    static struct session session;
    static struct command command;
    struct session *s = &session;
    struct agent_head h;
    uint64_t chld = 1ull << (SIGCHLD - 1);
    s->conn = conn;
    s->in = s->out = s->err = -1;
    s->sig = (int)sys(NR_signalfd4, -1, (long)&chld, sizeof(chld), O_CLOEXEC | O_NONBLOCK);
    static char words[AGENT_MSG_MAX];
    if (read_full(conn, &h, sizeof(h)) || h.type != MSG_EXEC || h.len > sizeof(words) ||
        read_full(conn, words, h.len) || parse(&command, words, h.len)) {
        send_u32(conn, MSG_ERROR, 22); /* EINVAL */
        quit(1);
    }
    long e = start(s, &command);
    if (e) {
        send_u32(conn, MSG_ERROR, (uint32_t)e);
        quit(1);
    }
    int rc;
    do
        rc = step(s);
    while (!rc);
    if (rc < 0) /* the host has gone */
        sys(NR_kill, -s->pid, SIGHUP, 0, 0);
    else
        send_u32(conn, MSG_EXIT, s->status);
    quit(0);
}

/* --- the listener --- */

static int listen_vsock(void)
{
    struct sockaddr_vm a = {AF_VSOCK, 0, AGENT_PORT, VMADDR_CID_ANY, {0}};
    long fd = sys(NR_socket, AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0, 0);
    if (fd < 0 || sys(NR_bind, fd, (long)&a, sizeof(a), 0) < 0 || sys(NR_listen, fd, 16, 0, 0) < 0)
        quit(3);
    return (int)fd;
}

void agent_main(void)
{
    int fd = listen_vsock();
    signals(SIG_BLOCK);
    for (;;) {
        struct sockaddr_vm peer = {0};
        uint32_t len = sizeof(peer);
        long conn = sys(NR_accept4, fd, (long)&peer, (long)&len, SOCK_CLOEXEC);
        while (sys(NR_wait4, -1, 0, WNOHANG, 0) > 0)
            ;
        if (conn < 0)
            continue;
        if (peer.cid == CID_HOST && sys(NR_fork, 0, 0, 0, 0) == 0) {
            close_fd(fd);
            serve((int)conn);
        }
        close_fd((int)conn);
    }
}
