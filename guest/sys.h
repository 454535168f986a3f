/*
 * sys.h - Linux's system calls for freestanding programs, 64- and 32-bit. They return what the
 * kernel returns: -errno on failure.
 */
#ifndef POPF_GUEST_SYS_H
#define POPF_GUEST_SYS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __i386__
enum {
    NR_exit_group = 252,
    NR_fork = 2,
    NR_read = 3,
    NR_write = 4,
    NR_open = 5,
    NR_close = 6,
    NR_execve = 11,
    NR_chdir = 12,
    NR_kill = 37,
    NR_ioctl = 54,
    NR_fcntl = 55,
    NR_dup2 = 63,
    NR_setsid = 66,
    NR_wait4 = 114,
    NR_poll = 168,
    NR_rt_sigprocmask = 175,
    NR_signalfd4 = 327,
    NR_pipe2 = 331,
    NR_socket = 359,
    NR_bind = 361,
    NR_listen = 363,
    NR_accept4 = 364,
};

static inline long sys(long nr, long a, long b, long c, long d)
{
    long ret;
    __asm__ volatile("int $0x80" : "=a"(ret) : "0"(nr), "b"(a), "c"(b), "d"(c), "S"(d) : "memory");
    return ret;
}
#else
enum {
    NR_read = 0,
    NR_write = 1,
    NR_open = 2,
    NR_close = 3,
    NR_poll = 7,
    NR_rt_sigprocmask = 14,
    NR_ioctl = 16,
    NR_dup2 = 33,
    NR_socket = 41,
    NR_bind = 49,
    NR_listen = 50,
    NR_fork = 57,
    NR_execve = 59,
    NR_wait4 = 61,
    NR_kill = 62,
    NR_fcntl = 72,
    NR_chdir = 80,
    NR_setsid = 112,
    NR_exit_group = 231,
    NR_accept4 = 288,
    NR_signalfd4 = 289,
    NR_pipe2 = 293,
};

static inline long sys(long nr, long a, long b, long c, long d)
{
    long ret;
    register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10)
                     : "rcx", "r11", "memory");
    return ret;
}
#endif

#define EINTR  4
#define EAGAIN 11

#define O_RDWR     2
#define O_NOCTTY   0400
#define O_NONBLOCK 04000
#define O_CLOEXEC  02000000

#define F_SETFL 4

#define POLLIN  1
#define POLLOUT 4
#define POLLERR 8
#define POLLHUP 16

struct pollfd {
    int fd;
    short events, revents;
};

#define SIG_BLOCK   0
#define SIG_UNBLOCK 1
#define SIGHUP      1
#define SIGKILL     9
#define SIGPIPE     13
#define SIGCHLD     17

#define WNOHANG 1

#define TIOCSCTTY  0x540e
#define TIOCSWINSZ 0x5414
#define TIOCGPTN   0x80045430ul
#define TIOCSPTLCK 0x40045431

struct winsize {
    uint16_t rows, cols, x, y;
};

#define AF_VSOCK       40
#define SOCK_STREAM    1
#define SOCK_CLOEXEC   02000000
#define VMADDR_CID_ANY 0xffffffffu

struct sockaddr_vm {
    uint16_t family, reserved;
    uint32_t port, cid;
    uint8_t zero[4];
};

#endif
