#include "dev/virtio_pci.h"
#include "hand.h"

#include <string.h>

#define RAM     (2 * MiB)
#define SLOT    5
#define IO      0xc000u
#define MSIX    0xe0000000u
#define MODERN  0xe0010000u
#define CONFIG  (MODERN + 0x2000)
#define NOTIFY  (MODERN + 0x3000)
#define ADDR(v) (0xfee01000u | (v) << 4)

/* Offsets of the common configuration structure (4.1.4.3). */
enum {
    DEV_SEL = 0,
    DEV_FEATURES = 4,
    DRV_SEL = 8,
    DRV_FEATURES = 12,
    CONFIG_VECTOR = 16,
    NUM_QUEUES = 18,
    STATUS = 20,
    GENERATION = 21,
    QUEUE_SEL = 22,
    QUEUE_SIZE = 24,
    QUEUE_VECTOR = 26,
    QUEUE_ENABLE = 28,
    QUEUE_NOTIFY = 30,
    QUEUE_DESC = 32,
    QUEUE_AVAIL = 40,
    QUEUE_USED = 48,
};

struct bench {
    struct hand h;
    struct mem mem;
    struct pci_bus pci;
    struct wire link[PCI_LINKS];
    struct virtio_dev d;
    struct virtio_pci card;
    u8 config[16];
    unsigned kicks, kicked;
    unsigned messages;
    u64 addr;
    u32 data;
};

static void on_notify(struct virtio_dev *d, unsigned q)
{
    struct bench *b = container_of(d, struct bench, d);
    b->kicks++;
    b->kicked = q;
}

static void on_config(struct virtio_dev *d, unsigned off, unsigned size, u64 val)
{
    memcpy(container_of(d, struct bench, d)->config + off, &val, size);
}

static const struct virtio_ops ops = {.notify = on_notify, .config_write = on_config};

static void on_msi(void *arg, u64 addr, u32 data)
{
    struct bench *b = arg;
    b->messages++;
    b->addr = addr;
    b->data = data;
}

static void put_cfg(struct bench *b, unsigned off, u32 val)
{
    OUT32(&b->h, 0xcf8, 0x80000000u | PCI_DEVFN(SLOT, 0) << 8 | off);
    OUT32(&b->h, 0xcfc, val);
}

static u32 get_cfg(struct bench *b, unsigned off)
{
    OUT32(&b->h, 0xcf8, 0x80000000u | PCI_DEVFN(SLOT, 0) << 8 | (off & 0xfc));
    return IN32(&b->h, 0xcfc) >> (8 * (off & 3));
}

static u64 rd(struct bench *b, u64 at, unsigned size)
{
    return bus_read(&b->h.mmio, at, size);
}

static void wr(struct bench *b, u64 at, unsigned size, u64 v)
{
    bus_write(&b->h.mmio, at, size, v);
}

static void start(struct bench *b, u16 id)
{
    *b = (struct bench){.h = {.port = {.name = "port"}, .mmio = {.name = "mmio"}}};
    struct irq link[PCI_LINKS];
    for (unsigned i = 0; i < PCI_LINKS; i++)
        link[i] = wire_irq(&b->link[i]);
    pci_init(&b->pci, &b->h.port, &b->h.mmio, link);
    b->pci.msi = on_msi;
    b->pci.msi_arg = b;
    assert_int_equal(pci_attach(&b->pci), 0);
    assert_int_equal(mem_init(&b->mem, NULL), 0);
    assert_int_equal(mem_add_ram(&b->mem, 0, RAM, false, NULL), 0);
    virtio_init(&b->d, &ops, id, BIT(40) | BIT(5), 3, 128, &b->mem);
    b->d.config = b->config;
    b->d.config_size = sizeof(b->config);
    memcpy(b->config, "0123456789abcdef", 16);
    assert_int_equal(virtio_pci_attach(&b->card, &b->d, &b->pci, SLOT, NULL), 0);
    put_cfg(b, 0x10, IO);
    put_cfg(b, 0x14, MSIX);
    put_cfg(b, 0x20, MODERN);
    put_cfg(b, 0x24, 0);
    put_cfg(b, 0x04, 0x0007);
}

static void stop(struct bench *b)
{
    mem_free(&b->mem);
}

/* The offset of the n-th capability of this id, or 0. */
static unsigned cap(struct bench *b, u8 id, unsigned n)
{
    for (unsigned at = get_cfg(b, 0x34) & 0xff; at; at = get_cfg(b, at + 1) & 0xff)
        if ((get_cfg(b, at) & 0xff) == id && !n--)
            return at;
    return 0;
}

static void place_queue(struct bench *b, unsigned q)
{
    wr(b, MODERN + QUEUE_SEL, 2, q);
    wr(b, MODERN + QUEUE_SIZE, 2, 8);
    wr(b, MODERN + QUEUE_DESC, 8, 0x1000 + 0x4000 * q);
    wr(b, MODERN + QUEUE_AVAIL, 4, 0x2000 + 0x4000 * q);
    wr(b, MODERN + QUEUE_AVAIL + 4, 4, 0);
    wr(b, MODERN + QUEUE_USED, 8, 0x3000 + 0x4000 * q);
    wr(b, MODERN + QUEUE_ENABLE, 2, 1);
}

static void set_up(struct bench *b)
{
    wr(b, MODERN + STATUS, 1, 0);
    wr(b, MODERN + STATUS, 1, 3);
    wr(b, MODERN + DRV_SEL, 4, 1);
    wr(b, MODERN + DRV_FEATURES, 4, 1 | BIT(8));
    wr(b, MODERN + DRV_SEL, 4, 0);
    wr(b, MODERN + DRV_FEATURES, 4, BIT(5));
    wr(b, MODERN + STATUS, 1, 11);
    assert_int_equal(rd(b, MODERN + STATUS, 1), 11);
    place_queue(b, 1);
    wr(b, MODERN + STATUS, 1, 15);
}

static void use_msix(struct bench *b)
{
    unsigned at = cap(b, PCI_CAP_MSIX, 0);
    for (unsigned v = 0; v < 4; v++) {
        wr(b, MSIX + 16 * v, 4, ADDR(v));
        wr(b, MSIX + 16 * v + 4, 4, 0);
        wr(b, MSIX + 16 * v + 8, 4, 0x40 + v);
        wr(b, MSIX + 16 * v + 12, 4, 0);
    }
    put_cfg(b, at, 0x80000000);
    wr(b, MODERN + CONFIG_VECTOR, 2, 3);
    wr(b, MODERN + QUEUE_SEL, 2, 1);
    wr(b, MODERN + QUEUE_VECTOR, 2, 2);
}

/* As if a chain had been served. */
static void serve(struct bench *b, unsigned q)
{
    struct virtq_buf v;
    u8 *base = mem_ptr(&b->mem, 0x4000 * q);
    u16 idx;
    memcpy(&idx, base + 0x2002, 2);
    memset(base + 0x1000, 0, 16);
    memset(base + 0x2004, 0, 16);
    base[0x1008] = 1;
    base[0x100c] = 2;
    idx++;
    memcpy(base + 0x2002, &idx, 2);
    assert_int_equal(virtq_pop(&b->d, q, &v), 1);
    virtq_push(&b->d, q, &v, 1);
    virtq_signal(&b->d, q);
}

static void test_identity(void **state)
{
    struct bench b;
    start(&b, VIRTIO_BLK);
    assert_int_equal(get_cfg(&b, 0), 0x10011af4); /* transitional */
    assert_int_equal(get_cfg(&b, 8), 0x01000000);
    assert_int_equal(get_cfg(&b, 0x2c), 0x00021af4);
    assert_int_equal(rd(&b, MODERN + NUM_QUEUES, 2), 3);
    stop(&b);
    start(&b, VIRTIO_VSOCK);
    assert_int_equal(get_cfg(&b, 0), 0x10531af4);
    assert_int_equal(get_cfg(&b, 8) & 0xff, 1);
    assert_int_equal(get_cfg(&b, 0x10), 0); /* no legacy registers */
    stop(&b);
}

/* 4.1.4: every structure is found through a capability, within its BAR. */
static void test_capabilities(void **state)
{
    static const struct {
        u8 type;
        u32 off, len;
    } want[] = {{1, 0, 56}, {3, 0x1000, 1}, {4, 0x2000, 16}, {2, 0x3000, 12}, {5, 0, 0}};
    struct bench b;
    start(&b, VIRTIO_BLK);
    for (unsigned i = 0; i < ARRAY_SIZE(want); i++) {
        unsigned at = cap(&b, PCI_CAP_VENDOR, i);
        assert_int_not_equal(at, 0);
        assert_int_equal(get_cfg(&b, at + 3) & 0xff, want[i].type);
        assert_int_equal(get_cfg(&b, at + 4) & 0xff, want[i].type == 5 ? 0 : 4);
        assert_int_equal(get_cfg(&b, at + 8), want[i].off);
        assert_int_equal(get_cfg(&b, at + 12), want[i].len);
        bool longer = want[i].type == 2 || want[i].type == 5;
        assert_int_equal(get_cfg(&b, at + 2) & 0xff, longer ? 20 : 16);
        if (want[i].type == 2)
            assert_int_equal(get_cfg(&b, at + 16), 4);
    }
    assert_int_equal(cap(&b, PCI_CAP_VENDOR, 5), 0);
    unsigned at = cap(&b, PCI_CAP_MSIX, 0);
    assert_int_equal(get_cfg(&b, at) >> 16, 3); /* 4 vectors */
    assert_int_equal(get_cfg(&b, at + 4), 1);
    assert_int_equal(get_cfg(&b, at + 8), 1 | PCI_MSIX_PBA);
    stop(&b);
}

static void test_common(void **state)
{
    struct bench b;
    start(&b, VIRTIO_BLK);
    assert_int_equal(rd(&b, MODERN + DEV_FEATURES, 4), BIT(5) | BIT(27) | BIT(28) | BIT(29));
    wr(&b, MODERN + DEV_SEL, 4, 1);
    assert_int_equal(rd(&b, MODERN + DEV_FEATURES, 4), 1 | BIT(8));
    wr(&b, MODERN + DEV_SEL, 4, 2);
    assert_int_equal(rd(&b, MODERN + DEV_FEATURES, 4), 0);
    set_up(&b);
    assert_int_equal(b.d.features, BIT(40) | BIT(32) | BIT(5));
    assert_true(b.d.q[1].enabled);
    wr(&b, MODERN + QUEUE_SEL, 2, 1);
    assert_int_equal(rd(&b, MODERN + QUEUE_SIZE, 2), 8);
    assert_int_equal(rd(&b, MODERN + QUEUE_NOTIFY, 2), 1);
    assert_int_equal(rd(&b, MODERN + QUEUE_USED, 8), 0x7000);
    wr(&b, MODERN + QUEUE_SIZE, 2, 16); /* enabled: it stays */
    assert_int_equal(rd(&b, MODERN + QUEUE_SIZE, 2), 8);
    wr(&b, MODERN + QUEUE_SEL, 2, 3); /* there is no such queue */
    assert_int_equal(rd(&b, MODERN + QUEUE_SIZE, 2), 0);
    wr(&b, MODERN + QUEUE_ENABLE, 2, 1);
    wr(&b, MODERN + QUEUE_VECTOR, 2, 1);
    assert_int_equal(rd(&b, MODERN + QUEUE_VECTOR, 2), 0xffff);
    wr(&b, NOTIFY + 4, 2, 1);
    assert_int_equal(b.kicks, 2); /* one came with DRIVER_OK */
    assert_int_equal(b.kicked, 1);
    wr(&b, NOTIFY + 12, 4, 3);
    wr(&b, NOTIFY + 0xffc, 4, 3);
    assert_int_equal(b.kicks, 2);
    assert_int_equal(rd(&b, CONFIG + 2, 4), 0x35343332);
    wr(&b, CONFIG + 1, 1, 'x');
    assert_memory_equal(b.config, "0x23", 4);
    wr(&b, MODERN + STATUS, 1, 0);
    assert_int_equal(rd(&b, MODERN + STATUS, 1), 0);
    assert_false(b.d.q[1].enabled);
    stop(&b);
}

static void test_intx(void **state)
{
    struct bench b;
    start(&b, VIRTIO_BLK);
    set_up(&b);
    serve(&b, 1);
    assert_int_equal(b.link[5].level, 1);
    assert_int_equal(b.messages, 0);
    assert_int_equal(rd(&b, MODERN + 0x1000, 1), 1);
    assert_int_equal(b.link[5].level, 0);
    assert_int_equal(rd(&b, MODERN + 0x1000, 1), 0);
    u64 generation = rd(&b, MODERN + GENERATION, 1);
    virtio_config_changed(&b.d);
    assert_int_not_equal(rd(&b, MODERN + GENERATION, 1), generation);
    assert_int_equal(rd(&b, MODERN + 0x1000, 1), 2);
    serve(&b, 1);
    wr(&b, MODERN + STATUS, 1, 0); /* a reset takes the level away */
    assert_int_equal(b.link[5].level, 0);
    stop(&b);
}

static void test_msix(void **state)
{
    struct bench b;
    start(&b, VIRTIO_BLK);
    set_up(&b);
    use_msix(&b);
    serve(&b, 1);
    assert_int_equal(b.link[5].rises, 0);
    assert_int_equal(b.messages, 1);
    assert_int_equal(b.addr, ADDR(2));
    assert_int_equal(b.data, 0x42);
    virtio_config_changed(&b.d);
    assert_int_equal(b.data, 0x43);
    wr(&b, MODERN + QUEUE_VECTOR, 2, 4); /* there are four */
    assert_int_equal(rd(&b, MODERN + QUEUE_VECTOR, 2), 0xffff);
    serve(&b, 1);
    assert_int_equal(b.messages, 2);
    stop(&b);
}

static void test_masks(void **state)
{
    struct bench b;
    start(&b, VIRTIO_BLK);
    set_up(&b);
    use_msix(&b);
    unsigned at = cap(&b, PCI_CAP_MSIX, 0);
    wr(&b, MSIX + 2 * 16 + 12, 4, 1);
    serve(&b, 1);
    serve(&b, 1);
    assert_int_equal(b.messages, 0);
    assert_int_equal(rd(&b, MSIX + PCI_MSIX_PBA, 4), 1 << 2);
    wr(&b, MSIX + PCI_MSIX_PBA, 4, 0); /* read-only */
    wr(&b, MSIX + 2 * 16 + 8, 4, 0x99);
    wr(&b, MSIX + 2 * 16 + 12, 4, 0);
    assert_int_equal(b.messages, 1);
    assert_int_equal(b.data, 0x99);
    assert_int_equal(rd(&b, MSIX + PCI_MSIX_PBA, 4), 0);

    put_cfg(&b, at, 0xc0000000); /* all of them */
    serve(&b, 1);
    virtio_config_changed(&b.d);
    assert_int_equal(b.messages, 1);
    put_cfg(&b, at, 0x80000000);
    assert_int_equal(b.messages, 3);

    put_cfg(&b, 0x04, 0x0003); /* no bus master, no message */
    serve(&b, 1);
    assert_int_equal(b.messages, 3);
    put_cfg(&b, 0x04, 0x0007);
    wr(&b, MSIX + 2, 2, 0xffff); /* not a dword: ignored */
    assert_int_equal(rd(&b, MSIX, 4), ADDR(0));
    pci_reset(&b.pci);
    assert_int_equal(b.card.pci.msix.entry[2][3], 1);
    assert_false(pci_msix_enabled(&b.card.pci));
    stop(&b);
}

static void test_broken(void **state)
{
    struct bench b;
    start(&b, VIRTIO_BLK);
    set_up(&b);
    use_msix(&b);
    virtio_broken(&b.d, "tested");
    assert_int_equal(rd(&b, MODERN + STATUS, 1), 15 | 64);
    assert_int_equal(b.data, 0x43);
    unsigned kicks = b.kicks;
    wr(&b, NOTIFY + 4, 2, 1);
    assert_int_equal(b.kicks, kicks);
    set_up(&b);
    assert_int_equal(rd(&b, MODERN + STATUS, 1), 15);
    stop(&b);
}

/* 4.1.4.9: a guest that can reach configuration space only. */
static void test_window(void **state)
{
    struct bench b;
    start(&b, VIRTIO_BLK);
    unsigned at = cap(&b, PCI_CAP_VENDOR, 4);
    put_cfg(&b, at + 4, 4);
    put_cfg(&b, at + 8, 0x2004);
    put_cfg(&b, at + 12, 4);
    assert_int_equal(get_cfg(&b, at + 16), 0x37363534);
    put_cfg(&b, at + 8, STATUS);
    put_cfg(&b, at + 12, 1);
    put_cfg(&b, at + 16, 0x1203);
    assert_int_equal(b.d.status, 3);
    put_cfg(&b, at + 8, 0xfffffffc);
    put_cfg(&b, at + 16, 0);
    put_cfg(&b, at + 12, 3);
    assert_int_equal(get_cfg(&b, at + 16), 0);
    put_cfg(&b, at + 4, 1); /* only BAR 4 is reached */
    put_cfg(&b, at + 8, 0);
    put_cfg(&b, at + 12, 4);
    put_cfg(&b, at + 16, 77);
    assert_int_equal(b.d.status, 3);
    stop(&b);
}

static void test_legacy(void **state)
{
    struct bench b;
    start(&b, VIRTIO_BLK);
    OUT8(&b.h, IO + 18, 0);
    OUT8(&b.h, IO + 18, 3);
    assert_int_equal(IN32(&b.h, IO), BIT(5) | BIT(27) | BIT(28) | BIT(29));
    OUT32(&b.h, IO + 4, BIT(5));
    OUT16(&b.h, IO + 14, 1);
    assert_int_equal(IN16(&b.h, IO + 12), 128);
    assert_int_equal(IN32(&b.h, IO + 8), 0);
    OUT32(&b.h, IO + 8, 0x20);
    assert_int_equal(IN32(&b.h, IO + 8), 0x20);
    assert_int_equal(b.d.q[1].desc, 0x20000);
    assert_int_equal(b.d.q[1].avail, 0x20800);
    assert_int_equal(b.d.q[1].used, 0x21000);
    OUT8(&b.h, IO + 18, 7);
    assert_false(virtio_has(&b.d, VIRTIO_F_VERSION_1));
    OUT16(&b.h, IO + 16, 1);
    assert_int_equal(b.kicked, 1);
    assert_int_equal(IN8(&b.h, IO + 20), '0'); /* without MSI-X the configuration is here */
    use_msix(&b);
    assert_int_equal(IN8(&b.h, IO + 24), '0');
    OUT16(&b.h, IO + 22, 1);
    assert_int_equal(IN16(&b.h, IO + 22), 1);
    OUT16(&b.h, IO + 20, 9);
    assert_int_equal(IN16(&b.h, IO + 20), 0xffff);
    OUT8(&b.h, IO + 18, 0);
    assert_int_equal(IN32(&b.h, IO + 8), 0);
    /* Outside RAM: the device says that it is broken. */
    OUT32(&b.h, IO + 8, 0xffffffff);
    assert_true(IN8(&b.h, IO + 18) & 64);
    stop(&b);
}

static void test_state(void **state)
{
    struct bench a, b;
    start(&a, VIRTIO_BLK);
    set_up(&a);
    use_msix(&a);
    put_cfg(&a, cap(&a, PCI_CAP_MSIX, 0), 0xc0000000);
    serve(&a, 1);
    start(&b, VIRTIO_BLK);
    SAVE_LOAD((pci_state(&a.pci, s), virtio_pci_state(&a.card, s)),
              (pci_state(&b.pci, s), virtio_pci_state(&b.card, s)));
    assert_int_equal(b.d.q[1].last_avail, 1);
    assert_int_equal(b.card.vector[1], 2);
    put_cfg(&b, cap(&b, PCI_CAP_MSIX, 0), 0x80000000);
    assert_int_equal(b.messages, 1);
    assert_int_equal(b.data, 0x42);
    stop(&a);
    stop(&b);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_identity), cmocka_unit_test(test_capabilities),
        cmocka_unit_test(test_common),   cmocka_unit_test(test_intx),
        cmocka_unit_test(test_msix),     cmocka_unit_test(test_masks),
        cmocka_unit_test(test_broken),   cmocka_unit_test(test_window),
        cmocka_unit_test(test_legacy),   cmocka_unit_test(test_state),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
