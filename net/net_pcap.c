#include "net/net_pcap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "net/net_csum.h"

#define MAGIC_NS      0xa1b23c4d
#define LINK_ETHERNET 1
#define SNAP_LENGTH   262144

struct file_header {
    u32 magic;
    u16 major, minor;
    u32 zone, sigfigs, snap_length, link;
};

struct record {
    u32 sec, nsec, captured, length;
};

struct net_pcap {
    int fd; /* -1: given up */
    const struct log *log;
    struct {
        struct record r;
        u8 frame[NET_FRAME_MAX];
    } buf;
};

static int write_all(int fd, const void *from, size_t n)
{
    const u8 *p = from;
    while (n) {
        ssize_t done = write(fd, p, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return -1;
        p += done;
        n -= (size_t)done;
    }
    return 0;
}

struct net_pcap *net_pcap_open(const char *path, const struct log *log, struct err *e)
{
    struct net_pcap *p = malloc(sizeof(*p));
    if (!p) {
        err_set(e, "no memory to record network traffic in");
        return NULL;
    }
    static const struct file_header head = {.magic = MAGIC_NS,
                                            .major = 2,
                                            .minor = 4,
                                            .snap_length = SNAP_LENGTH,
                                            .link = LINK_ETHERNET};
    p->log = log;
    p->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (p->fd < 0 || write_all(p->fd, &head, sizeof(head))) {
        err_errno(e, "cannot record network traffic in %s", path);
        net_pcap_close(p);
        return NULL;
    }
    return p;
}

void net_pcap_write(struct net_pcap *p, const u8 *frame, size_t len, const struct net_offload *o)
{
    if (p->fd < 0 || len > NET_FRAME_MAX)
        return;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    p->buf.r = (struct record){
        .sec = (u32)now.tv_sec, .nsec = (u32)now.tv_nsec, .captured = (u32)len, .length = (u32)len};
    memcpy(p->buf.frame, frame, len);
    if (o && o->flags & NET_NEEDS_CSUM)
        net_csum_finish(p->buf.frame, len, o->csum_start, o->csum_offset);
    if (!write_all(p->fd, &p->buf, sizeof(p->buf.r) + len))
        return;
    if (p->log)
        log_emit(p->log, "recording of network traffic has ended: %s", strerror(errno));
    close(p->fd);
    p->fd = -1;
}

void net_pcap_close(struct net_pcap *p)
{
    if (!p)
        return;
    if (p->fd >= 0)
        close(p->fd);
    free(p);
}
