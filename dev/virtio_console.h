/*
 * virtio_console.h - the console device (virtio 1.2, 5.3): port 0 is a terminal (/dev/hvc0), the
 * others are named byte streams (/dev/virtio-ports/NAME).
 *
 * Queues: 0 and 1 receive and transmit for port 0; 2 and 3 are the control queues; then two for
 * each further port. With port 0 alone there is no multiport and no control queue.
 */
#ifndef POPF_VIRTIO_CONSOLE_H
#define POPF_VIRTIO_CONSOLE_H

#include "base/clock.h"
#include "dev/virtio.h"

#define VIRTIO_CONSOLE_PORTS 32
#define VIRTIO_CONSOLE_NAME  64 /* bytes of a port's name, with its end */

/* The host's end of a port. All functions run under the device lock; any may be NULL. */
struct virtio_console_end {
    /*
     * The guest sends n bytes: returns how many were taken. If not all, virtio_console_room() says
     * when to try again. NULL: they vanish.
     */
    size_t (*out)(void *arg, const u8 *buf, size_t n);
    /* The guest has room for input, which it had not when virtio_console_in() took too little. */
    void (*want)(void *arg);
    /* The guest has opened or closed its end (not told of port 0 without multiport). */
    void (*opened)(void *arg, bool open);
    void *arg;
};

struct virtio_console_port {
    struct virtio_console_end end;
    char name[VIRTIO_CONSOLE_NAME]; /* "": none */
    bool host_open;                 /* somebody is there on the host */
    bool guest_open;
    u8 todo;             /* control messages that wait for a buffer, 1 << event */
    bool held;           /* tx has not gone out whole */
    struct virtq_buf tx; /* the chain that is being sent, while held */
    size_t tx_done;      /* bytes of it that went out */
};

struct virtio_console {
    struct virtio_dev v;
    unsigned nports;
    u16 cols, rows;       /* of port 0's terminal; 0: unknown */
    bool ready;           /* the driver speaks multiport */
    struct timer listens; /* when it fires the guest counts as listening at port 0 */
    struct virtio_console_port port[VIRTIO_CONSOLE_PORTS];
};

/*
 * Port 0 with `end`, which counts as open. Without multiport nothing says when the guest listens,
 * and Linux drops what comes before: input is held back until it has sent something, or a second.
 */
void virtio_console_init(struct virtio_console *c, struct mem *mem, struct clock *clock,
                         const struct virtio_console_end *end);

/*
 * Adds a named port, closed on the host's side; before the device is put on its bus. Its number, or
 * -1 if there are too many or the name is too long.
 */
int virtio_console_add(struct virtio_console *c, const char *name,
                       const struct virtio_console_end *end);

/* --- under the device lock --- */

/* Input for the guest: returns how many bytes it took (0 to n). */
size_t virtio_console_in(struct virtio_console *c, unsigned port, const u8 *buf, size_t n);

/* The host's end takes output again. */
void virtio_console_room(struct virtio_console *c, unsigned port);

/* Somebody has come to the host's end, or has gone. */
void virtio_console_open(struct virtio_console *c, unsigned port, bool open);

void virtio_console_resize(struct virtio_console *c, u16 cols, u16 rows);

void virtio_console_state(struct virtio_console *c, struct state *s);

#endif
