/*
 * fuzz_vsock.c - the vsock device under a driver that keeps to no rules, with programs at the
 * host's end that connect, write, stop reading and go away at any time.
 *
 * The input is a sequence of operations of up to 8 bytes: what, then its arguments. Packets have
 * ports from a small set, so that they meet connections that there are.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "dev/virtio_vsock.h"

#define QUEUE     16
#define CLIENTS   4
#define RAM       MiB
#define RING_AT   0x1000
#define DATA_AT   0x20000
#define OPS_MAX   400
#define LISTEN_AT 52

struct packet {
    u64 src_cid, dst_cid;
    u32 src_port, dst_port, len;
    u16 type, op;
    u32 flags, buf_alloc, fwd_cnt;
} __attribute__((packed));

struct world {
    const u8 *p, *end;
    pthread_mutex_t lock;
    struct loop loop;
    struct mem mem;
    struct virtio_vsock dev;
    char path[64];
    int listener, client[CLIENTS]; /* -1: none */
    u16 avail[3];
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static u8 next(struct world *w)
{
    return w->p < w->end ? *w->p++ : 0;
}

static gpa_t queue_at(unsigned q)
{
    return RING_AT + 0x4000 * q;
}

static void start(struct world *w)
{
    struct virtio_dev *d = &w->dev.v;
    virtio_set_status(d, 0);
    memset(mem_ptr(&w->mem, 0), 0, DATA_AT);
    memset(w->avail, 0, sizeof(w->avail));
    virtio_set_status(d, 3);
    virtio_set_features(d, d->offered & (next(w) & 1 ? ~0ull : ~VIRTIO_F_EVENT_IDX));
    virtio_set_status(d, 11);
    for (unsigned q = 0; q < 3; q++) {
        d->q[q].num = QUEUE;
        d->q[q].desc = queue_at(q);
        d->q[q].avail = queue_at(q) + 0x1000;
        d->q[q].used = queue_at(q) + 0x2000;
        virtio_enable_queue(d, q);
    }
    virtio_set_status(d, 15);
}

/* One descriptor at a place that depends on its number, so that chains overlap now and then. */
static void add(struct world *w, unsigned q, u32 len, u16 flags, const void *data, size_t n)
{
    u16 id = w->avail[q] % QUEUE, next_id = (id + 1) % QUEUE;
    u64 addr = DATA_AT + (q * QUEUE + id) * 0x1800;
    u8 *desc = mem_ptr(&w->mem, queue_at(q) + 16 * id);
    memcpy(mem_ptr(&w->mem, addr), data, n);
    memcpy(desc, &addr, 8);
    memcpy(desc + 8, &len, 4);
    memcpy(desc + 12, &flags, 2);
    memcpy(desc + 14, &next_id, 2);
    u8 *a = mem_ptr(&w->mem, queue_at(q) + 0x1000);
    memcpy(a + 4 + 2 * (w->avail[q]++ % QUEUE), &id, 2);
    memcpy(a + 2, &w->avail[q], 2);
}

static u32 host_port(struct world *w)
{
    u8 b = next(w);
    return b & 0x80 ? LISTEN_AT : (1u << 30) + 1 + b % 8;
}

static void send_packet(struct world *w)
{
    static const u32 sizes[] = {0, 1, 100, 4000, 5000, 65536, 0x7fffffff, 0xffffffff};
    u8 twist = next(w);
    u8 buf[sizeof(struct packet) + 4000] = {0};
    struct packet p = {.src_cid = 5,
                       .dst_cid = 2,
                       .src_port = 77 + next(w) % 3,
                       .dst_port = host_port(w),
                       .len = sizes[next(w) & 7],
                       .type = 1,
                       .op = next(w) % 9,
                       .flags = next(w) & 3,
                       .buf_alloc = 1u << (next(w) & 31),
                       .fwd_cnt = next(w) << (twist & 16)};
    memcpy(buf, &p, sizeof(p));
    if (twist > 0xf0)
        buf[next(w) % sizeof(p)] ^= next(w);
    u32 len = sizeof(p) + min_u64(p.len, 4000);
    add(w, 1, twist == 0xe0 ? 20 : len, twist == 0xe1 ? 1 : 0, buf, sizeof(buf));
    virtio_notify(&w->dev.v, 1);
}

static void give_buffers(struct world *w)
{
    unsigned n = next(w) % 8;
    u32 len = next(w) == 0xff ? next(w) : 0x1000;
    while (n--)
        add(w, 0, len, 2, "", 0);
    virtio_notify(&w->dev.v, 0);
}

/* --- the host's programs --- */

static int sock(const char *path, bool listening)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd >= 0 && listening && !bind(fd, (struct sockaddr *)&a, sizeof(a)) && !listen(fd, 4))
        return fd;
    if (fd >= 0 && !listening && !connect(fd, (struct sockaddr *)&a, sizeof(a)))
        return fd;
    close(fd);
    return -1;
}

static void connect_client(struct world *w, int *fd)
{
    char line[32];
    int n = snprintf(line, sizeof(line), "CONNECT %u\nxyz", 77 + next(w) % 3);
    if (*fd >= 0)
        close(*fd);
    *fd = sock(w->path, false);
    if (*fd >= 0 && send(*fd, line, next(w) & 1 ? n : next(w) % n, MSG_NOSIGNAL) < 0)
        return;
}

static void use_client(struct world *w)
{
    static char buf[65536];
    int *fd = &w->client[next(w) % CLIENTS];
    u8 what = next(w) % 8;
    ssize_t ignored = 0;
    if (what == 0 && *fd >= 0)
        close(*fd);
    if (what == 0)
        *fd = -1;
    else if (what == 1)
        connect_client(w, fd);
    else if (what == 2 && *fd < 0)
        *fd = accept4(w->listener, NULL, NULL, SOCK_NONBLOCK);
    else if (what == 3)
        shutdown(*fd, next(w) % 3);
    else if (what < 6)
        ignored = recv(*fd, buf, what == 4 ? sizeof(buf) : 7, MSG_DONTWAIT);
    else
        ignored = send(*fd, buf, what == 6 ? 20000 : 10, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)ignored;
}

static void step(struct world *w)
{
    u8 what = next(w) % 16;
    if (what < 6)
        send_packet(w);
    else if (what < 9)
        give_buffers(w);
    else if (what < 14)
        use_client(w);
    else if (what == 14)
        virtio_notify(&w->dev.v, next(w));
    else if (next(w) > 0xe0)
        start(w);
    if (w->dev.nconns > VIRTIO_VSOCK_CONNS_MAX || w->dev.nresets > VIRTIO_VSOCK_RESETS)
        abort();
    if (w->dev.v.broken)
        start(w);
}

static int make_world(struct world *w, const char *top)
{
    char listen_path[80];
    struct virtio_vsock_config cfg = {.path = w->path, .cid = 5, .loop = &w->loop, .mem = &w->mem};
    snprintf(w->path, sizeof(w->path), "%s/v", top);
    snprintf(listen_path, sizeof(listen_path), "%s_%u", w->path, LISTEN_AT);
    pthread_mutex_init(&w->lock, NULL);
    for (unsigned i = 0; i < CLIENTS; i++)
        w->client[i] = -1;
    w->listener = sock(listen_path, true);
    return loop_init(&w->loop, &w->lock, NULL) || mem_init(&w->mem, NULL) ||
           mem_add_ram(&w->mem, 0, RAM, false, NULL) || virtio_vsock_init(&w->dev, &cfg, NULL);
}

static void end_world(struct world *w)
{
    char listen_path[80];
    snprintf(listen_path, sizeof(listen_path), "%s_%u", w->path, LISTEN_AT);
    for (unsigned i = 0; i < CLIENTS; i++)
        if (w->client[i] >= 0)
            close(w->client[i]);
    virtio_vsock_free(&w->dev);
    close(w->listener);
    unlink(listen_path);
    loop_free(&w->loop);
    mem_free(&w->mem);
    pthread_mutex_destroy(&w->lock);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char top[] = "/dev/shm/popf-fuzz.XXXXXX";
    struct world *w = calloc(1, sizeof(*w));
    if (!w || !mkdtemp(top)) {
        free(w);
        return 0;
    }
    w->p = data;
    w->end = data + size;
    if (make_world(w, top))
        abort();
    start(w);
    for (unsigned n = 0; w->p < w->end && n < OPS_MAX; n++) {
        pthread_mutex_lock(&w->lock);
        step(w);
        pthread_mutex_unlock(&w->lock);
        loop_wait(&w->loop, 0);
    }
    end_world(w);
    rmdir(top);
    free(w);
    return 0;
}
