#include "dev/virtio_pci.h"

#include <string.h>

/* Where the structures of 4.1.4 are in BAR 4, which is made of 4 KiB pages. */
#define BAR_LEGACY   0
#define BAR_MSIX     1
#define BAR_MODERN   4
#define MODERN_SIZE  0x4000u
#define COMMON       0x0000u
#define COMMON_SIZE  56u
#define ISR          0x1000u
#define CONFIG       0x2000u
#define CONFIG_SIZE  0x1000u
#define NOTIFY       0x3000u
#define NOTIFY_STEP  4u
#define NO_VECTOR    0xffff
#define ISR_QUEUE    1
#define ISR_CONFIG   2
#define VENDOR       0x1af4
#define MODERN_ID    0x1040 /* + the type of device, 4.1.2 */
#define LEGACY_ALIGN 4096

enum { CFG_COMMON = 1, CFG_NOTIFY, CFG_ISR, CFG_DEVICE, CFG_PCI }; /* 4.1.4: types of capability */

/* --- interrupts --- */

static void update_intx(struct virtio_pci *p)
{
    pci_set_intx(&p->pci, 0, p->isr != 0);
}

static void interrupt(struct virtio_dev *d, int q)
{
    struct virtio_pci *p = d->carrier;
    if (pci_msix_enabled(&p->pci)) {
        u16 v = q < 0 ? p->config_vector : p->vector[q];
        if (q < 0)
            p->isr |= ISR_CONFIG;
        if (v != NO_VECTOR)
            pci_msix_raise(&p->pci, v);
        return;
    }
    p->isr |= q < 0 ? ISR_CONFIG : ISR_QUEUE;
    update_intx(p);
}

static u8 read_isr(struct virtio_pci *p)
{
    u8 isr = p->isr;
    p->isr = 0;
    update_intx(p);
    return isr;
}

static u16 valid_vector(const struct virtio_pci *p, u16 v)
{
    return v < p->pci.msix.n ? v : NO_VECTOR;
}

static void forget(struct virtio_pci *p)
{
    p->isr = 0;
    p->dev_select = p->drv_select = 0;
    p->drv_features = 0;
    p->queue_select = 0;
    p->config_vector = NO_VECTOR;
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
        p->vector[i] = NO_VECTOR;
    update_intx(p);
}

static void set_status(struct virtio_pci *p, u8 status)
{
    virtio_set_status(p->v, status);
    if (!status)
        forget(p);
}

/* The queue that is selected, or NULL. */
static struct virtq *selected(struct virtio_pci *p)
{
    return p->queue_select < p->v->nqueues ? &p->v->q[p->queue_select] : NULL;
}

/* --- the common configuration structure (4.1.4.3) --- */

static u32 half(u64 v, u32 select)
{
    return select == 0 ? (u32)v : select == 1 ? (u32)(v >> 32) : 0;
}

static u32 read_queue_dword(const struct virtq *q, unsigned off)
{
    const gpa_t at[3] = {q->desc, q->avail, q->used};
    return half(at[(off - 32) / 8], (off & 4) != 0);
}

/* The dword at `off`, a multiple of 4. */
static u32 read_common_dword(struct virtio_pci *p, unsigned off)
{
    const struct virtio_dev *v = p->v;
    const struct virtq *q = selected(p);
    switch (off) {
    case 0:
        return p->dev_select;
    case 4:
        return half(v->offered, p->dev_select);
    case 8:
        return p->drv_select;
    case 12:
        return half(p->drv_features, p->drv_select);
    case 16:
        return p->config_vector | v->nqueues << 16;
    case 20:
        return v->status | (u32)v->config_generation << 8 | (u32)p->queue_select << 16;
    case 24:
        return q ? q->num | (u32)p->vector[p->queue_select] << 16 : 0xffff0000u;
    case 28:
        return q ? q->enabled | (u32)p->queue_select << 16 : 0;
    default:
        return q ? read_queue_dword(q, off) : 0;
    }
}

static u64 read_common(struct virtio_pci *p, unsigned off, unsigned size)
{
    if (off + size > COMMON_SIZE || (off & (size - 1)))
        return 0;
    return read_common_dword(p, off & ~3u) >> (8 * (off & 3));
}

static void write_features(struct virtio_pci *p, u32 val)
{
    if (p->drv_select > 1)
        return;
    unsigned shift = 32 * p->drv_select;
    p->drv_features = (p->drv_features & ~(0xffffffffull << shift)) | (u64)val << shift;
    virtio_set_features(p->v, p->drv_features);
}

static void write_queue_addr(struct virtq *q, unsigned off, u32 val)
{
    gpa_t *at[3] = {&q->desc, &q->avail, &q->used};
    gpa_t *a = at[(off - 32) / 8];
    unsigned shift = off & 4 ? 32 : 0;
    *a = (*a & ~(0xffffffffull << shift)) | (u64)val << shift;
}

static void write_queue(struct virtio_pci *p, unsigned off, u32 val)
{
    struct virtq *q = selected(p);
    if (!q)
        return;
    if (off == 26)
        p->vector[p->queue_select] = valid_vector(p, (u16)val);
    else if (q->enabled)
        return;
    else if (off == 24)
        q->num = (u16)val;
    else if (off == 28 && val == 1)
        virtio_enable_queue(p->v, p->queue_select);
    else if (off >= 32 && off < COMMON_SIZE)
        write_queue_addr(q, off, val);
}

/* A field is written whole, 4.1.3.1; what is not is ignored. */
static void write_common(struct virtio_pci *p, unsigned off, unsigned size, u32 val)
{
    static const u8 width[] = {
        [0] = 4,  [8] = 4,  [12] = 4, [16] = 2, [20] = 1, [22] = 2, [24] = 2, [26] = 2,
        [28] = 2, [32] = 4, [36] = 4, [40] = 4, [44] = 4, [48] = 4, [52] = 4};
    if (off >= ARRAY_SIZE(width) || width[off] != size)
        return;
    switch (off) {
    case 0:
        p->dev_select = val;
        break;
    case 8:
        p->drv_select = val;
        break;
    case 12:
        write_features(p, val);
        break;
    case 16:
        p->config_vector = valid_vector(p, (u16)val);
        break;
    case 20:
        set_status(p, (u8)val);
        break;
    case 22:
        p->queue_select = (u16)val;
        break;
    default:
        write_queue(p, off, val);
    }
}

/* --- BAR 4 --- */

static u64 read_modern(void *dev, u64 off, unsigned size)
{
    struct virtio_pci *p = dev;
    unsigned in = (unsigned)off & 0xfff;
    switch ((unsigned)off & ~0xfffu) {
    case COMMON:
        return read_common(p, in, size);
    case ISR:
        return in ? 0 : read_isr(p);
    case CONFIG:
        return virtio_config_read(p->v, in, size);
    default:
        return 0;
    }
}

static void write_modern(void *dev, u64 off, unsigned size, u64 val)
{
    struct virtio_pci *p = dev;
    unsigned in = (unsigned)off & 0xfff;
    switch ((unsigned)off & ~0xfffu) {
    case COMMON:
        write_common(p, in, size, (u32)val);
        break;
    case CONFIG:
        virtio_config_write(p->v, in, size, val);
        break;
    case NOTIFY:
        if (in % NOTIFY_STEP == 0)
            virtio_notify(p->v, in / NOTIFY_STEP);
        break;
    }
}

static const struct bus_ops modern_ops = {
    .read = read_modern, .write = write_modern, .max_size = 4};

/* --- BAR 0: the legacy registers (4.1.4.10) --- */

enum {
    L_FEATURES = 0,
    L_DRIVER_FEATURES = 4,
    L_QUEUE_PFN = 8,
    L_QUEUE_SIZE = 12,
    L_QUEUE_SELECT = 14,
    L_NOTIFY = 16,
    L_STATUS = 18,
    L_ISR = 19,
    L_CONFIG_VECTOR = 20, /* these two with MSI-X enabled only: the configuration comes behind */
    L_QUEUE_VECTOR = 22,
};

static unsigned legacy_config(const struct virtio_pci *p)
{
    return pci_msix_enabled(&p->pci) ? 24 : 20;
}

static u64 read_legacy(void *dev, u64 off, unsigned size)
{
    struct virtio_pci *p = dev;
    const struct virtq *q = selected(p);
    unsigned config = legacy_config(p);
    if (off >= config)
        return virtio_config_read(p->v, (unsigned)off - config, size);
    switch (off) {
    case L_FEATURES:
        return (u32)p->v->offered;
    case L_DRIVER_FEATURES:
        return (u32)p->v->features;
    case L_QUEUE_PFN:
        return q && q->enabled ? q->desc / LEGACY_ALIGN : 0;
    case L_QUEUE_SIZE:
        return q ? q->num_max : 0;
    case L_QUEUE_SELECT:
        return p->queue_select;
    case L_STATUS:
        return p->v->status;
    case L_ISR:
        return read_isr(p);
    case L_CONFIG_VECTOR:
        return p->config_vector;
    case L_QUEUE_VECTOR:
        return q ? p->vector[p->queue_select] : NO_VECTOR;
    default:
        return 0;
    }
}

/* 2.7.2: one piece of memory, the used ring on a page of its own. */
static void place_legacy_queue(struct virtio_pci *p, u32 pfn)
{
    struct virtq *q = selected(p);
    if (!q || (p->v->status & VIRTIO_S_DRIVER_OK))
        return;
    if (!pfn) {
        *q = (struct virtq){.num = q->num_max, .num_max = q->num_max};
        return;
    }
    if (q->enabled)
        return;
    q->num = q->num_max;
    q->desc = (u64)pfn * LEGACY_ALIGN;
    q->avail = q->desc + 16ull * q->num;
    q->used = align_up(q->avail + 6 + 2ull * q->num, LEGACY_ALIGN);
    virtio_enable_queue(p->v, p->queue_select);
}

static void write_legacy(void *dev, u64 off, unsigned size, u64 val)
{
    struct virtio_pci *p = dev;
    unsigned config = legacy_config(p);
    if (off >= config) {
        virtio_config_write(p->v, (unsigned)off - config, size, val);
        return;
    }
    switch (off) {
    case L_DRIVER_FEATURES:
        virtio_set_features(p->v, (u32)val);
        break;
    case L_QUEUE_PFN:
        place_legacy_queue(p, (u32)val);
        break;
    case L_QUEUE_SELECT:
        p->queue_select = (u16)val;
        break;
    case L_NOTIFY:
        virtio_notify(p->v, (u16)val);
        break;
    case L_STATUS:
        set_status(p, (u8)val);
        break;
    case L_CONFIG_VECTOR:
        p->config_vector = valid_vector(p, (u16)val);
        break;
    case L_QUEUE_VECTOR:
        if (selected(p))
            p->vector[p->queue_select] = valid_vector(p, (u16)val);
        break;
    }
}

static const struct bus_ops legacy_ops = {
    .read = read_legacy, .write = write_legacy, .max_size = 4};

/* --- the window in configuration space (4.1.4.9) --- */

/* Offset and length that the driver has set, if they make an access to BAR 4. */
static bool window_open(const struct virtio_pci *p, u32 *off, u32 *len)
{
    const struct pci_dev *d = &p->pci;
    *off = pci_get32(d, p->window + 8u);
    *len = pci_get32(d, p->window + 12u);
    return d->cfg[p->window + 4] == BAR_MODERN && (*len == 1 || *len == 2 || *len == 4) &&
           !(*off & (*len - 1)) && *off < MODERN_SIZE;
}

static bool is_window_data(const struct virtio_pci *p, unsigned off, unsigned size)
{
    unsigned data = p->window + 16u;
    return size <= 4 && off < data + 4 && off + size > data;
}

static void reading_cfg(struct pci_dev *d, unsigned off, unsigned size)
{
    struct virtio_pci *p = container_of(d, struct virtio_pci, pci);
    u32 at, len;
    if (!is_window_data(p, off, size) || !window_open(p, &at, &len))
        return;
    u32 val = (u32)read_modern(p, at, len);
    memcpy(&d->cfg[p->window + 16], &val, sizeof(val));
}

static void written_cfg(struct pci_dev *d, unsigned off, unsigned size)
{
    struct virtio_pci *p = container_of(d, struct virtio_pci, pci);
    u32 at, len;
    if (is_window_data(p, off, size) && window_open(p, &at, &len))
        write_modern(p, at, len, pci_get32(d, p->window + 16u) & size_mask(len));
}

/* --- building --- */

/* 4.1.2.1, 5: what the PCI function says that it is. */
static const struct kind {
    u16 id, legacy; /* legacy: the transitional device's ID, 0: there is none */
    u32 class;
} kinds[] = {
    {VIRTIO_NET, 0x1000, 0x020000},     {VIRTIO_BLK, 0x1001, 0x010000},
    {VIRTIO_BALLOON, 0x1002, 0x00ff00}, {VIRTIO_CONSOLE, 0x1003, 0x078000},
    {VIRTIO_RNG, 0x1005, 0x00ff00},     {VIRTIO_9P, 0x1009, 0x000200},
    {VIRTIO_VSOCK, 0, 0x078000},
};

static struct kind kind_of(u16 id)
{
    for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
        if (kinds[i].id == id)
            return kinds[i];
    return (struct kind){.id = id, .class = 0x00ff00};
}

/* 4.1.4: a structure's place in BAR 4. Returns the capability's offset, or -1. */
static int add_cap(struct virtio_pci *p, u8 type, u32 off, u32 len, unsigned extra)
{
    int cap = pci_cap_add(&p->pci, PCI_CAP_VENDOR, 16 + extra);
    if (cap < 0)
        return -1;
    unsigned at = (unsigned)cap;
    pci_put(&p->pci, at + 2, 2, (16 + extra) | (u32)type << 8, 0);
    pci_put(&p->pci, at + 4, 4, BAR_MODERN, 0);
    pci_put(&p->pci, at + 8, 4, off, 0);
    pci_put(&p->pci, at + 12, 4, len, 0);
    return cap;
}

static int add_caps(struct virtio_pci *p)
{
    struct pci_dev *d = &p->pci;
    u32 queues = NOTIFY_STEP * p->v->nqueues;
    if (add_cap(p, CFG_COMMON, COMMON, COMMON_SIZE, 0) < 0 || add_cap(p, CFG_ISR, ISR, 1, 0) < 0)
        return -1;
    if (p->v->config_size && add_cap(p, CFG_DEVICE, CONFIG, p->v->config_size, 0) < 0)
        return -1;
    int notify = add_cap(p, CFG_NOTIFY, NOTIFY, queues, 4);
    int window = add_cap(p, CFG_PCI, 0, 0, 4);
    if (notify < 0 || window < 0)
        return -1;
    pci_put(d, (unsigned)notify + 16, 4, NOTIFY_STEP, 0);
    p->window = (u8)window;
    pci_put(d, p->window + 4u, 4, 0, 0xff);
    pci_put(d, p->window + 8u, 4, 0, ~0u);
    pci_put(d, p->window + 12u, 4, 0, ~0u);
    pci_put(d, p->window + 16u, 4, 0, ~0u);
    d->reading = reading_cfg;
    d->written = written_cfg;
    return 0;
}

static int add_bars(struct virtio_pci *p, struct pci_bus *bus, bool legacy)
{
    struct pci_dev *d = &p->pci;
    u64 io = 32;
    while (io < 24 + p->v->config_size)
        io *= 2;
    if (legacy && io <= 256 && pci_bar_io(d, BAR_LEGACY, io, bus->port, &legacy_ops, p))
        return -1;
    if (pci_msix_init(d, BAR_MSIX, p->v->nqueues + 1, bus->mmio))
        return -1;
    return pci_bar_mem(d, BAR_MODERN, MODERN_SIZE, true, true, bus->mmio, &modern_ops, p);
}

int virtio_pci_attach(struct virtio_pci *p, struct virtio_dev *v, struct pci_bus *bus,
                      unsigned slot, struct err *e)
{
    assert(v->config_size <= CONFIG_SIZE);
    struct kind k = kind_of(v->id);
    *p = (struct virtio_pci){.v = v};
    v->interrupt = interrupt;
    v->carrier = p;
    pci_dev_init(&p->pci, v->name, VENDOR, k.legacy ? k.legacy : MODERN_ID + k.id, k.class,
                 k.legacy ? 0 : 1, 1);
    pci_set_subsystem(&p->pci, VENDOR, k.id);
    if (add_bars(p, bus, k.legacy) || add_caps(p))
        return err_set(e, "%s: no room on the machine's buses for so many devices", v->name);
    forget(p);
    if (pci_add(bus, &p->pci, slot, 0))
        return err_set(e, "%s: PCI slot %u is taken", v->name, slot);
    return 0;
}

void virtio_pci_reset(struct virtio_pci *p)
{
    virtio_reset(p->v);
    forget(p);
}

/* --- state --- */

void virtio_pci_state(struct virtio_pci *p, struct state *s)
{
    state_section(s, "virtio-pci", 1);
    state_val(s, p->isr);
    state_val(s, p->dev_select);
    state_val(s, p->drv_select);
    state_val(s, p->drv_features);
    state_val(s, p->queue_select);
    state_val(s, p->config_vector);
    p->config_vector = valid_vector(p, p->config_vector);
    for (unsigned i = 0; i < p->v->nqueues; i++) {
        state_val(s, p->vector[i]);
        p->vector[i] = valid_vector(p, p->vector[i]);
    }
    virtio_state(p->v, s);
}
