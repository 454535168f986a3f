/*
 * vm_virtio.h - the virtio devices of a machine, made from its configuration, each in a PCI slot of
 * its own that does not depend on what else there is:
 *
 *   1 rng   2 balloon   3 net   4 vsock   5 console   6-13 shared folders   14-29 disks
 */
#ifndef POPF_VM_VIRTIO_H
#define POPF_VM_VIRTIO_H

#include "base/base.h"

struct block;
struct popf;
struct state;

/* Opens what devices stand on (images, sockets, folders) and puts them on the PCI bus. */
int vm_virtio_init(struct popf *vm, struct err *e);

/* No thread of the machine runs any more. Whatever vm_virtio_init() made, in whole or in part. */
void vm_virtio_free(struct popf *vm);

/* The reset line. When it returns no device touches guest memory. dev_lock held. */
void vm_virtio_reset(struct popf *vm);

/* The machine goes on after a pause: disks try again what had to wait. dev_lock held. */
void vm_virtio_resumed(struct popf *vm);

/* Asks the guest to keep `bytes` and lend the rest. dev_lock held. */
int vm_virtio_balloon(struct popf *vm, u64 bytes, struct err *e);

/* The image of the first disk, to boot from; NULL if there is no disk. */
struct block *vm_virtio_boot_disk(struct popf *vm);

/* --- the console's port 0; dev_lock held --- */

size_t vm_virtio_console_in(struct popf *vm, const u8 *buf, size_t n);
void vm_virtio_console_room(void *vm);

#endif
