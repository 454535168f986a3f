/*
 * vm_port.h - a named port of the virtio console on a unix socket of the host: one client at a
 * time.
 */
#ifndef POPF_VM_PORT_H
#define POPF_VM_PORT_H

#include "base/loop.h"
#include "dev/virtio_console.h"

#define VM_PORT_BUFFER 16384u

/* All of it under dev_lock. */
struct vm_port {
    struct virtio_console *console;
    unsigned number;
    struct loop *loop;
    char *path;        /* ours to remove; NULL: not made */
    int listen_fd, fd; /* -1: none */
    struct loop_fd listener, client;
    u8 in[VM_PORT_BUFFER]; /* from the client, not taken by the guest yet */
    size_t nin;
    bool eof; /* the client sends no more: it goes once the guest has taken what it sent */
};

/* Adds the port to the console and listens at `path`. */
int vm_port_init(struct vm_port *p, struct virtio_console *c, struct loop *loop, const char *name,
                 const char *path, struct err *e);
void vm_port_free(struct vm_port *p);

#endif
