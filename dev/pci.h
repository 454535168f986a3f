/*
 * pci.h - PCI bus 0: configuration mechanism 1, the host bridge, and what every function needs -
 * configuration space with write masks, BARs that size and move, INTx, capability lists, MSI-X.
 *
 * Source: PCI Local Bus specification 3.0, 3.2.2.3.2 (mechanism 1), 6 (configuration space), 6.8.2
 * (MSI-X).
 * Ports: 0xcf8 (dwords only), 0xcfc-0xcff.
 *
 * A function is a struct pci_dev embedded in its device. Build it in this order: pci_dev_init(),
 * pci_bar_*(), pci_cap_add(), pci_msix_init(), ..., pci_add(); afterwards its configuration space
 * changes through pci_write() and the guest only.
 */
#ifndef POPF_PCI_H
#define POPF_PCI_H

#include "base/state.h"
#include "dev/irq.h"
#include "mem/bus.h"

#define PCI_SLOTS     32
#define PCI_FUNCTIONS 8
#define PCI_LINKS     8 /* PIRQA-PIRQH */

#define PCI_DEVFN(slot, fn) ((slot) << 3 | (fn))
#define PCI_SLOT(devfn)     ((devfn) >> 3)
#define PCI_FN(devfn)       ((devfn)&7)

/* Offsets in configuration space, and bits of the command register. */
#define PCI_VENDOR_ID       0x00
#define PCI_DEVICE_ID       0x02
#define PCI_COMMAND         0x04
#define PCI_STATUS          0x06
#define PCI_REVISION        0x08
#define PCI_HEADER_TYPE     0x0e
#define PCI_BAR0            0x10
#define PCI_SUBSYSTEM       0x2c
#define PCI_CAPABILITIES    0x34
#define PCI_INTERRUPT_LINE  0x3c
#define PCI_INTERRUPT_PIN   0x3d
#define PCI_COMMAND_IO      0x0001
#define PCI_COMMAND_MEM     0x0002
#define PCI_COMMAND_MASTER  0x0004
#define PCI_COMMAND_NO_INTX 0x0400
#define PCI_STATUS_INTX     0x0008
#define PCI_STATUS_CAPS     0x0010
#define PCI_CAP_VENDOR      0x09
#define PCI_CAP_MSIX        0x11

#define PCI_MSIX_MAX      80   /* vectors of a function */
#define PCI_MSIX_BAR_SIZE 4096 /* the table at 0, pending bits at PCI_MSIX_PBA */
#define PCI_MSIX_PBA      2048

enum pci_bar_type { PCI_BAR_NONE, PCI_BAR_IO, PCI_BAR_MEM32, PCI_BAR_MEM64, PCI_BAR_UPPER };

struct pci_bar {
    enum pci_bar_type type;
    u64 size;   /* a power of two */
    int handle; /* of its range on the port or MMIO bus */
    u64 base;   /* where it is mapped, if it is */
    bool mapped;
};

/* An MSI-X table: message address (low, high), message data, vector control. */
struct pci_msix {
    u16 n;  /* vectors; 0: the function has no MSI-X */
    u8 cap; /* offset of its capability */
    u32 entry[PCI_MSIX_MAX][4];
    u64 pending[(PCI_MSIX_MAX + 63) / 64];
};

struct pci_dev {
    const char *name;
    struct pci_bus *bus; /* set by pci_add() */
    u8 devfn;
    u8 cfg[256];
    u8 wmask[256];    /* bits that writes change */
    u8 w1c[256];      /* bits that writing ones clears */
    u8 at_reset[256]; /* cfg as pci_add() found it */
    struct pci_bar bar[6];
    u8 intx;    /* level that the device gives */
    u8 cap_end; /* first free byte for capabilities */
    struct pci_msix msix;
    /* Before the guest reads [off, off+size) of cfg, which may be changed; may be NULL. */
    void (*reading)(struct pci_dev *d, unsigned off, unsigned size);
    /* After the guest wrote [off, off+size) of cfg, or it was reset or restored; may be NULL. */
    void (*written)(struct pci_dev *d, unsigned off, unsigned size);
};

struct pci_bus {
    struct pci_dev *dev[PCI_SLOTS * PCI_FUNCTIONS]; /* by devfn */
    u32 address;                                    /* port 0xcf8 */
    struct bus *port, *mmio;
    struct irq link[PCI_LINKS];
    u16 asserted[PCI_LINKS];                    /* functions that pull the link */
    void (*msi)(void *arg, u64 addr, u32 data); /* a message on its way; NULL: it goes nowhere */
    void *msi_arg;
    struct pci_dev host; /* 0:00.0 */
};

/* `link[i]` is what PIRQA + i is wired to. The host bridge is there from the start. */
void pci_init(struct pci_bus *b, struct bus *port, struct bus *mmio, const struct irq *link);

/* Resets every function: as pci_add() found it, BARs off the buses, INTx low. */
void pci_reset(struct pci_bus *b);

/* Claims 0xcf8-0xcff. 0, or -1 if the bus is full. */
int pci_attach(struct pci_bus *b);

/* The link of a function's INTx pin (0 = INTA): slots are rotated over the links. */
static inline unsigned pci_link(unsigned devfn, unsigned pin)
{
    return (PCI_SLOT(devfn) + pin) % PCI_LINKS;
}

/* class is base class << 16 | subclass << 8 | programming interface. pin: 0 none, 1 INTA, ... */
void pci_dev_init(struct pci_dev *d, const char *name, u16 vendor, u16 device, u32 class,
                  u8 revision, u8 pin);

void pci_set_subsystem(struct pci_dev *d, u16 vendor, u16 device);

/* Puts the function at slot and fn. -1 if that place is taken or does not exist. */
int pci_add(struct pci_bus *b, struct pci_dev *d, unsigned slot, unsigned fn);

/*
 * BAR n of `size` bytes, a power of two (I/O: 4-256; memory: 16 up); the range is claimed on `bus`
 * and moved as the guest programs the BAR. A 64-bit one takes n and n + 1. -1 if the bus is full.
 */
int pci_bar_io(struct pci_dev *d, unsigned n, u64 size, struct bus *port, const struct bus_ops *ops,
               void *arg);
int pci_bar_mem(struct pci_dev *d, unsigned n, u64 size, bool is64, bool prefetch, struct bus *mmio,
                const struct bus_ops *ops, void *arg);

/* Appends a capability of `size` bytes (its two header bytes included): its offset, or -1. */
int pci_cap_add(struct pci_dev *d, u8 id, unsigned size);

static inline u16 pci_get16(const struct pci_dev *d, unsigned off)
{
    return d->cfg[off] | d->cfg[off + 1] << 8;
}

static inline u32 pci_get32(const struct pci_dev *d, unsigned off)
{
    return pci_get16(d, off) | (u32)pci_get16(d, off + 2) << 16;
}

/* For building a function: the value, and the bits that the guest may write. */
void pci_put(struct pci_dev *d, unsigned off, unsigned size, u32 val, u32 wmask);

/* What the guest's configuration accesses do. Size is 1, 2 or 4, within the 256 bytes. */
u32 pci_read(struct pci_dev *d, unsigned off, unsigned size);
void pci_write(struct pci_dev *d, unsigned off, unsigned size, u32 val);

/* The INTx level; how it reaches a wire is the bus's business. A struct irq with set = this. */
void pci_set_intx(void *dev, unsigned pin, int level);

static inline struct irq pci_intx(struct pci_dev *d)
{
    return (struct irq){.set = pci_set_intx, .to = d};
}

/* True if the function may do DMA. */
static inline bool pci_bus_master(const struct pci_dev *d)
{
    return d->cfg[PCI_COMMAND] & PCI_COMMAND_MASTER;
}

/* --- MSI-X (pci_msix.c) --- */

/*
 * Gives the function 1 to PCI_MSIX_MAX vectors, with the table in memory BAR `bar`. -1 if the bus
 * or the configuration space is full.
 */
int pci_msix_init(struct pci_dev *d, unsigned bar, unsigned n, struct bus *mmio);

/* The guest uses MSI-X: INTx is silent. */
static inline bool pci_msix_enabled(const struct pci_dev *d)
{
    return d->msix.n && (d->cfg[d->msix.cap + 3] & 0x80);
}

/* Sends vector v's message, or keeps it until it is unmasked. Nothing without MSI-X. */
void pci_msix_raise(struct pci_dev *d, unsigned v);

/* For pci.c: its registers have been written; reset; state. */
void pci_msix_written(struct pci_dev *d);
void pci_msix_reset(struct pci_dev *d);
void pci_msix_state(struct pci_dev *d, struct state *s);

/*
 * Does firmware's work: places all BARs from the two addresses up, names each function's interrupt
 * line (line[link], for PICs), and switches decoding on. -1 if the windows are too small.
 */
int pci_assign(struct pci_bus *b, u64 io, u64 io_end, u64 mem, u64 mem_end, const u8 *line);

/* Functions must be the same, in the same places, when a state is loaded. */
void pci_state(struct pci_bus *b, struct state *s);

#endif
