/*
 * virtio_pci.h - carries a virtio device on PCI (virtio 1.2, 4.1): the modern interface, and the
 * legacy one for drivers that know nothing else (4.1.4.10), as a transitional device.
 *
 *   BAR 0  I/O      the legacy registers; device types that legacy drivers know only
 *   BAR 1  memory   MSI-X: one vector per queue, and one for the configuration
 *   BAR 4  memory   64-bit, 16 KiB: common configuration at 0, ISR at 0x1000, device configuration
 *                   at 0x2000, notifications at 0x3000, 4 bytes per queue
 *
 * Without MSI-X, INTA.
 */
#ifndef POPF_VIRTIO_PCI_H
#define POPF_VIRTIO_PCI_H

#include "dev/pci.h"
#include "dev/virtio.h"

struct virtio_pci {
    struct pci_dev pci;
    struct virtio_dev *v;
    u8 isr;
    u8 window;      /* offset of the capability that reaches BAR 4 through configuration space */
    u32 dev_select; /* which half of the features */
    u32 drv_select;
    u64 drv_features;
    u16 queue_select;
    u16 config_vector;
    u16 vector[VIRTIO_QUEUES_MAX];
};

/* Puts `v` at a slot of the bus. Both stay where they are. */
int virtio_pci_attach(struct virtio_pci *p, struct virtio_dev *v, struct pci_bus *bus,
                      unsigned slot, struct err *e);

/* The reset line, beside pci_reset(). */
void virtio_pci_reset(struct virtio_pci *p);

/* The transport and virtio_state() of the device; the PCI function's state is pci_state()'s. */
void virtio_pci_state(struct virtio_pci *p, struct state *s);

#endif
