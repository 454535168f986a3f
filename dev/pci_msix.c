/*
 * MSI-X (PCI 3.0, 6.8.2): a table of messages in a memory BAR, each with a mask bit of its own, a
 * mask over all of them in the capability, and a pending bit for what was held back.
 */
#include "dev/pci.h"

#include <string.h>

#define CONTROL     2 /* offsets in the capability */
#define TABLE       4
#define PBA         8
#define CAP_SIZE    12
#define MASK_ALL    0x40 /* in the upper byte of CONTROL */
#define ENABLE      0x80
#define ENTRY_SIZE  16
#define ENTRY_MASK  1 /* of dword 3 */
#define MASK_DWORD  3
#define MSIX_WMASK  ((ENABLE | MASK_ALL) << 8)
#define ADDR_LO_FIX 3u /* messages are dwords */

static_assert(PCI_MSIX_MAX * ENTRY_SIZE <= PCI_MSIX_PBA, "the table runs into the pending bits");

static bool is_masked(const struct pci_dev *d, unsigned v)
{
    return (d->cfg[d->msix.cap + 3] & MASK_ALL) || (d->msix.entry[v][MASK_DWORD] & ENTRY_MASK);
}

static void send(struct pci_dev *d, unsigned v)
{
    const u32 *e = d->msix.entry[v];
    d->msix.pending[v / 64] &= ~BIT(v % 64);
    if (d->bus->msi && pci_bus_master(d)) /* a message is a DMA write */
        d->bus->msi(d->bus->msi_arg, (u64)e[1] << 32 | e[0], e[2]);
}

void pci_msix_raise(struct pci_dev *d, unsigned v)
{
    if (!pci_msix_enabled(d) || v >= d->msix.n)
        return;
    if (is_masked(d, v))
        d->msix.pending[v / 64] |= BIT(v % 64);
    else
        send(d, v);
}

/* Sends what is pending and no longer held back. */
void pci_msix_written(struct pci_dev *d)
{
    if (!pci_msix_enabled(d))
        return;
    for (unsigned v = 0; v < d->msix.n; v++)
        if ((d->msix.pending[v / 64] & BIT(v % 64)) && !is_masked(d, v))
            send(d, v);
}

/* --- the table and the pending bits --- */

static u64 read_table(void *dev, u64 off, unsigned size)
{
    const struct pci_dev *d = dev;
    u32 val = 0;
    unsigned dword = (unsigned)off / 4;
    if (dword < 4u * d->msix.n)
        val = d->msix.entry[dword / 4][dword % 4];
    else if (off >= PCI_MSIX_PBA && off < PCI_MSIX_PBA + sizeof(d->msix.pending))
        val = (u32)(d->msix.pending[(off - PCI_MSIX_PBA) / 8] >> (off & 4 ? 32 : 0));
    return val >> (8 * (off & 3));
}

/* Dwords only, 6.8.2: what else is written is undefined, here without effect. */
static void write_table(void *dev, u64 off, unsigned size, u64 val)
{
    struct pci_dev *d = dev;
    unsigned dword = (unsigned)off / 4;
    if (size != 4 || (off & 3) || dword >= 4u * d->msix.n)
        return;
    u32 *e = d->msix.entry[dword / 4];
    switch (dword % 4) {
    case 0:
        e[0] = (u32)val & ~ADDR_LO_FIX;
        break;
    case MASK_DWORD:
        e[MASK_DWORD] = val & ENTRY_MASK;
        break;
    default:
        e[dword % 4] = (u32)val;
    }
    pci_msix_written(d);
}

static const struct bus_ops table_ops = {.read = read_table, .write = write_table, .max_size = 4};

int pci_msix_init(struct pci_dev *d, unsigned bar, unsigned n, struct bus *mmio)
{
    assert(n && n <= PCI_MSIX_MAX);
    int cap = pci_cap_add(d, PCI_CAP_MSIX, CAP_SIZE);
    if (cap < 0 || pci_bar_mem(d, bar, PCI_MSIX_BAR_SIZE, false, false, mmio, &table_ops, d))
        return -1;
    pci_put(d, (unsigned)cap + CONTROL, 2, n - 1, MSIX_WMASK);
    pci_put(d, (unsigned)cap + TABLE, 4, bar, 0);
    pci_put(d, (unsigned)cap + PBA, 4, bar | PCI_MSIX_PBA, 0);
    d->msix.n = (u16)n;
    d->msix.cap = (u8)cap;
    pci_msix_reset(d);
    return 0;
}

/* Every vector is masked at reset. */
void pci_msix_reset(struct pci_dev *d)
{
    memset(d->msix.entry, 0, sizeof(d->msix.entry));
    memset(d->msix.pending, 0, sizeof(d->msix.pending));
    for (unsigned v = 0; v < d->msix.n; v++)
        d->msix.entry[v][MASK_DWORD] = ENTRY_MASK;
}

void pci_msix_state(struct pci_dev *d, struct state *s)
{
    struct pci_msix *m = &d->msix;
    for (unsigned v = 0; v < m->n; v++) {
        state_val(s, m->entry[v]);
        if (s->loading) {
            m->entry[v][0] &= ~ADDR_LO_FIX;
            m->entry[v][MASK_DWORD] &= ENTRY_MASK;
        }
    }
    if (!m->n)
        return;
    state_val(s, m->pending);
    for (unsigned i = m->n; s->loading && i < 64 * ARRAY_SIZE(m->pending); i++)
        m->pending[i / 64] &= ~BIT(i % 64);
}
